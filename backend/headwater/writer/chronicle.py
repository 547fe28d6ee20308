"""What a transaction changes, told to the history: an entry for each owner with other records.

A `Draft` hears of the objects that a transaction takes, and of each name as it is written. What it
tells is taken from the bytes before and after, not from the objects: so it is what was served, and
nothing else. The objects are asked for the reason.

The `Chronicle` keeps the ring (`store.history`) in its bounds, and tells its gaps.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec

from headwater.cluster.objects import (
    Condition,
    Endpoint,
    EndpointSlice,
    Object,
    Port,
    Resource,
    Service,
    version_number,
)
from headwater.records.endpoints import differing
from headwater.records.pods import pod_name
from headwater.store.environment import SERIAL, Store, StoreFull, Transaction
from headwater.store.history import (
    HISTORY,
    SUM,
    Cause,
    Entry,
    Kind,
    Names,
    Owner,
    OwnerKind,
    Ring,
    clear,
    decode,
    encode,
    prepared,
    tidy,
)
from headwater.store.node import Kind as NodeKind
from headwater.store.node import address_changes, addresses_of, alias_of, ttl_of
from headwater.store.places import divided
from headwater.wire import names
from headwater.writer.isolation import NOT_AN_OBJECTS, told

if TYPE_CHECKING:
    from headwater.records.compiler import Compiler

_log = logging.getLogger(__name__)

#: Names of an entry, and addresses of all of them; the rest is counted.
MOST_NAMES: Final = 256
MOST_ADDRESSES: Final = 512
#: Places of an entry; their addresses are bounded by themselves.
MOST_PLACES: Final = 32
#: Texts of a cause, and characters of one.
MOST_TEXTS: Final = 8
_TEXT: Final = 160
#: Characters of a name or a value in such a text.
_WORD: Final = 64
#: The entries of one transaction have their names up to this part of the ring; those after it are
#: only counted.
_PART: Final = 1 / 16
KINDS: Final[dict[Resource, str]] = {
    "namespaces": "Namespace",
    "services": "Service",
    "endpointslices": "EndpointSlice",
    "pods": "Pod",
    "serviceimports": "ServiceImport",
    "nodes": "Node",
}
#: Fields of a Service as the API spells them, by ours.
_FIELDS: Final = {
    "type": "spec.type",
    "headless": "headless",
    "cluster_ips": "spec.clusterIPs",
    "external_name": "spec.externalName",
    "ports": "spec.ports",
    "addresses": "spec.ips",
    "publishes_not_ready": "spec.publishNotReadyAddresses",
}
_ENDPOINT: Final = int(NodeKind.ENDPOINT)
_PORT_NAME: Final = int(NodeKind.PORT)
_READY: Final = int(Condition.READY)
_CONDITIONS: Final = (
    (int(Condition.READY), "ready"),
    (int(Condition.SERVING), "serving"),
    (int(Condition.TERMINATING), "terminating"),
)


@dataclass(frozen=True, slots=True)
class _Change:
    """An object before and after."""

    resource: Resource
    key: tuple[str, str]
    version: str
    trigger: str
    before: Any
    now: Object | None


@dataclass(slots=True)
class _Touched:
    """What became of an owner's names."""

    owner: Owner
    own: Names | None = None
    hosts: list[Names] = field(default_factory=list)
    addresses: int = 0
    """Of the hosts."""
    more: int = 0
    places: list[Names] = field(default_factory=list)
    of_places: int = 0
    """Addresses of these."""
    more_places: int = 0
    ports: bool = False
    ttl: int = -1
    is_noted: bool = False
    is_full: bool = False
    """Whether names of more endpoints are only counted."""

    @property
    def is_seen(self) -> bool:
        """Whether somebody who asks sees a difference."""
        places = self.places or self.more_places
        return bool(self.own or self.hosts or self.more or self.ports or self.ttl >= 0 or places)

    @property
    def names(self) -> tuple[Names, ...]:
        """All of them, the owner's own name first."""
        return tuple(self.hosts) if self.own is None else (self.own, *self.hosts)

    def add_own(self, before: bytes | None, after: bytes | None) -> None:
        """The owner's own name has another node, or none.

        It is told whatever becomes of the others.
        """
        self.own = self._told(b"", before, after)
        if self.own is not None and len(self.own.added) + len(self.own.removed) > MOST_ADDRESSES:
            self.own = None
            self.more += 1

    def add(self, label: bytes, before: bytes | None, after: bytes | None) -> None:
        """The name of one of its endpoints has another node, or none."""
        if (found := self._told(label, before, after)) is not None:
            self.addresses += len(found.added) + len(found.removed)
            self.hosts.append(found)
            self.is_full = len(self.hosts) >= MOST_NAMES or self.addresses > MOST_ADDRESSES

    def add_place(self, suffix: bytes, before: bytes | None, after: bytes | None) -> None:
        """The set of a place for the owner's own name is another one, or none."""
        if len(self.places) >= MOST_PLACES or self.of_places > MOST_ADDRESSES:
            self.more_places += 1
            return
        ttl = self.ttl
        found = self._told(suffix, before, after)
        self.ttl = ttl  # that of the name itself is told
        if found is not None:
            self.of_places += len(found.added) + len(found.removed)
            self.places.append(found)

    def _told(self, label: bytes, before: bytes | None, after: bytes | None) -> Names | None:
        """What became of a name; None when its addresses and its alias are what they were."""
        if before is None:
            assert after is not None
            return Names(label, False, True, tuple(addresses_of(after)), (), b"", alias_of(after))
        if (ttl := ttl_of(before)) is not None and (after is None or ttl != ttl_of(after)):
            self.ttl = ttl
        alias = alias_of(before)
        if after is None:
            return Names(label, True, False, (), tuple(addresses_of(before)), alias)
        added, removed = address_changes(before, after)
        if not added and not removed and alias == alias_of(after):
            return None
        return Names(label, True, True, tuple(added), tuple(removed), alias, alias_of(after))


class Draft:
    """What one transaction changes."""

    def __init__(self, chronicle: Chronicle) -> None:
        self._chronicle = chronicle
        self._changes: dict[Owner, list[_Change]] = {}
        self._owners: dict[bytes, _Touched] = {}
        self._noted: list[tuple[bytes, bytes | None, bytes | None]] = []
        self.written: list[tuple[bytes, int, int]] = []
        self.bytes = 0
        self.listed: Resource | None = None
        """Whose list this is a part of."""

    # The objects

    def changed(
        self, owner: Owner, resource: Resource, key: tuple[str, str], version: str, trigger: str, before: Any,
        now: Object | None,
    ) -> None:  # fmt: skip
        """An object changed on which an owner's names depend."""
        self._changes.setdefault(owner, []).append(_Change(resource, key, version, trigger, before, now))

    def compiles(self, owner: Owner) -> None:
        """The names of an owner are made anew."""
        for name in self._chronicle.names_of(owner):
            self._owners.setdefault(name, _Touched(owner))

    # The names

    def note(self, name: bytes, before: bytes | None, after: bytes | None) -> None:
        """A name has another node, or none."""
        self._noted.append((name, before, after))

    def write(self, txn: Transaction) -> None:
        """Append the entries to the history: the transaction's last part."""
        if not self._noted:
            return
        chronicle = self._chronicle
        now = chronicle.clock()
        try:
            values = [prepared(entry) for entry in self._entries(now, int.from_bytes(txn.meta(SERIAL) or b"", "big"))]
        except NOT_AN_OBJECTS:
            raise
        except Exception as error:  # noqa: BLE001 (what cannot be told must be served all the same)
            _log.exception("the history has a gap: a change cannot be told")
            values = [prepared(Entry(now, Kind.BEGUN, what=f"a change could not be told: {told(error)}"[:_TEXT]))]
        if values:
            self.written = chronicle.ring.append(txn, values, now)
            self.bytes = txn.bytes_of(HISTORY)

    def _entries(self, now: float, serial: int) -> list[Entry]:
        chronicle = self._chronicle
        entries: list[Entry] = []
        room = chronicle.room
        for some in self._touched():
            owner = some.owner
            cause, delay = self._cause(owner, now)
            if not (some.is_seen or (cause is not None and cause.changes)):
                continue
            names_, more = some.names, some.more
            places, more_places = tuple(sorted(some.places, key=lambda item: item.label)), some.more_places
            room -= 64 + sum(
                len(item.label) + 16 + 18 * (len(item.added) + len(item.removed)) for item in (*names_, *places)
            )
            if room < 0:
                names_, more = (), more + len(names_)
                places, more_places = (), more_places + len(places)
            entry = Entry(now, Kind.CHANGE, owner, serial, names_, more, cause, delay, some.ports, some.ttl)
            if places or more_places:
                entry = msgspec.structs.replace(entry, places=places, more_places=more_places)
            entries.append(entry)
        if entries and self.listed is not None and (gap := chronicle.gap_of_list(self.listed, now)) is not None:
            entries.insert(0, gap)
        return entries

    def _touched(self) -> list[_Touched]:
        """Owners of which a name has another node, and what became of their names."""
        get = self._owners.get
        found: list[_Touched] = []
        for name, before, after in self._noted:  # there may be thousands
            at, suffix = 0, b""
            if name[-1]:  # of a place, as `places.is_of_a_place` has it
                name, suffix = divided(name)
            some = get(name)
            if suffix and some is None:
                continue  # a port's name, which follows its Service's own
            if some is None and (at := 1 + name[0]) < len(name):
                some = get(name[at:])
                if some is None and name[at]:
                    at += 1 + name[at]
                    some = get(name[at:])
            if some is None:
                continue
            if not some.is_noted:
                some.is_noted = True
                found.append(some)
            kind = (before if after is None else after)[2]  # type: ignore[index]
            if suffix:
                some.add_place(suffix, before, after)
            elif not at:
                some.add_own(before, after)
            elif kind == _ENDPOINT:
                if some.is_full:
                    some.more += 1  # not taken apart
                else:
                    some.add(name[:at], before, after)
            elif kind == _PORT_NAME:
                some.ports |= before is None or after is None
        return found

    def _cause(self, owner: Owner, now: float) -> tuple[Cause | None, float]:
        """The object that changed an owner's names, and how long ago that was, if it says so."""
        changes = self._changes.get(owner) or self._changes.get(Owner(OwnerKind.NAMESPACE, owner.namespace, ""))
        if not changes:
            return None, -1.0
        last = changes[-1]  # it has the newest version
        delay = -1.0
        for change in changes:
            if change.trigger and (moment := _moment(change.trigger)) is not None:
                delay = max(delay, now - moment, 0.0)
        # Only as many as are told are made: a slice may have a thousand endpoints.
        texts = list(dict.fromkeys(islice(_of_all(changes), MOST_TEXTS + 1)))
        if len(texts) > MOST_TEXTS:
            texts[MOST_TEXTS - 1 :] = ["and more"]
        namespace, name = (word[: _WORD * 4] for word in last.key)
        shown = tuple(text[:_TEXT] for text in texts)
        return Cause(KINDS[last.resource], namespace, name, _version(last.version), shown), delay


def _of_all(changes: Sequence[_Change]) -> Iterator[str]:
    last = changes[-1]
    for change in changes:
        head = "" if change.key == last.key and change.resource == last.resource else f"{_named(change)}: "
        for text in _texts(change):
            yield head + text


def _named(change: _Change) -> str:
    version = _version(change.version)
    return f"{KINDS[change.resource]} {change.key[1][:_WORD]}{f' ({version})' if version else ''}"


def _version(text: str) -> str:
    """A resourceVersion as it is shown: none that only stands for one in the store
    (`objects.version_mark`).
    """
    return "" if text == "0" or (len(text) >= 19 and not version_number(text)) else text[:_WORD]


def _moment(text: str) -> float | None:
    try:
        return dt.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None


# What changed in an object, in words


def _texts(change: _Change) -> Iterator[str]:
    before, now = change.before, change.now
    if before is None or now is None:
        yield "deleted" if now is None else "created"
        return
    if isinstance(now, EndpointSlice) and isinstance(before, EndpointSlice):
        yield from _of_slices(before, now)
        return
    for attribute, path in _FIELDS.items():
        old, new = getattr(before, attribute, None), getattr(now, attribute, None)
        if old != new:
            yield f"{path} {_value(old)}→{_value(new)}"
    if isinstance(now, Service) and isinstance(before, Service) and now.annotations != before.annotations:
        old_ones, new_ones = dict(before.annotations), dict(now.annotations)
        for name in dict.fromkeys([*old_ones, *new_ones]):
            if old_ones.get(name) != new_ones.get(name):
                yield f"{name} {_value(old_ones.get(name))}→{_value(new_ones.get(name))}"


def _value(value: Any) -> str:
    """A field's value, in a few characters."""
    match value:
        case None | "" | ():
            return "none"
        case bool():
            return "true" if value else "false"
        case tuple():
            shown = ",".join(_port(item) if isinstance(item, Port) else str(item)[:_WORD] for item in value[:6])
            return (shown + (",…" if len(value) > 6 else ""))[:_WORD]
    return str(value)[:_WORD]


def _port(port: Port) -> str:
    return f"{port.name[:_WORD]}:{port.number}/{port.protocol[:8]}"


def _of_slices(before: EndpointSlice, now: EndpointSlice) -> Iterator[str]:
    for what, old, new in (("Service", before.service, now.service), ("ServiceImport", before.imported, now.imported)):
        if old != new:
            yield f"{what} {_value(old)}→{_value(new)}"
    if before.ports != now.ports:
        yield f"ports {_value(before.ports)}→{_value(now.ports)}"
    old_ones, new_ones = differing(before.endpoints, now.endpoints)
    was, is_ = _by_key(old_ones), _by_key(new_ones)
    for key, item in was.items():
        other = is_.pop(key, None)
        if other is None:
            yield f"{key} removed ({_value(item.addresses)})"
        else:
            yield from _of_endpoints(key, item, other)
    for key, item in is_.items():
        yield f"{key} added ({_value(item.addresses)}{'' if item.conditions & _READY else ', not ready'})"


def _by_key(endpoints: Iterable[Endpoint]) -> dict[str, Endpoint]:
    found: dict[str, Endpoint] = {}
    for item in endpoints:
        key: str = (item.hostname or item.pod or (item.addresses[0] if item.addresses else "?"))[:_WORD]
        while key in found:
            key += "'"
            if len(key) > 2 * _WORD:
                break
        found[key] = item
    return found


def _of_endpoints(key: str, before: Endpoint, now: Endpoint) -> Iterator[str]:
    if before.addresses != now.addresses:
        yield f"{key} address {_value(before.addresses)}→{_value(now.addresses)}"
    for flag, word in _CONDITIONS if before.conditions != now.conditions else ():
        if (before.conditions ^ now.conditions) & flag:
            was = bool(before.conditions & flag)
            yield f"{key} {word} {_value(was)}→{_value(not was)}"
    for word, old, new in (("hostname", before.hostname, now.hostname), ("pod", before.pod, now.pod)):
        if old != new:
            yield f"{key} {word} {_value(old)}→{_value(new)}"


# The ring, and its gaps


class Chronicle:
    """The history of one store's writer."""

    def __init__(self, size: int, compiler: Compiler, clock: Callable[[], float], *, from_files: bool = False) -> None:
        """`size`: bytes that the history may have; 0: none is kept.

        `from_files`: a list is how every change comes.
        """
        self.clock = clock
        self.ring = Ring(size)
        self.room = int(self.ring.limit * _PART)
        self._from_files = from_files
        self._svc = self._pod = self._clusters = None
        own = next((zone for zone in compiler.zones if not zone.clusters and not zone.reverse), None)
        self._own = own
        self._shared = next((zone for zone in compiler.zones if zone.clusters), None)
        self._heard: dict[Resource, float] = {}
        """When something of a resource was last committed, in seconds since 1970."""
        self._alive = 0.0
        """When the writer before this one was last at work."""
        self._told: set[Resource] = set()
        """Of which list the gap is told."""

    # Names

    def names_of(self, owner: Owner) -> Iterator[bytes]:
        """The names by which an owner is known in the records: those in the first zone that has
        them.
        """
        zone = self._shared if owner.kind == OwnerKind.IMPORT else self._own
        if zone is None:
            return
        try:
            match owner.kind:
                case OwnerKind.NAMESPACE:
                    yield names.label(owner.namespace) + zone.svc
                case OwnerKind.POD:
                    yield pod_name(owner.namespace, owner.name, zone)
                case _:
                    yield names.label(owner.name) + names.label(owner.namespace) + zone.svc
        except ValueError:  # it has none
            return

    # Beginning

    without: str = "the store was written without a history"
    """Why a store that is ready has none."""

    def open(self, store: Store, *, ready: bool) -> None:
        """Take the ring over, as large as it may be now, and tell what was missed.

        Raises StoreFull.
        """
        if not self.ring.size:
            store.write(_forget)
            return
        alive = self._alive = store.last_alive()
        store.keeps_history = True

        def begin(txn: Transaction) -> Draft:
            draft = Draft(self)
            tidy(txn)
            if not ready:
                return draft
            known = txn.meta(SUM) == txn.checksum()
            if not known or txn.last_key(HISTORY) is None:
                self._append(txn, draft, Entry(self.clock(), Kind.BEGUN, what=self.without))
            else:
                self._restarted(txn, draft, alive)
            return draft

        self.settled(store.write(begin))
        store.read(self.ring.load)
        before = 0
        while self.ring.is_full and self.ring.entries != before:
            before = self.ring.entries
            self._trim(store)

    def _append(self, txn: Transaction, draft: Draft, entry: Entry) -> None:
        draft.written += self.ring.append(txn, [prepared(entry)], entry.time)
        draft.bytes = txn.bytes_of(HISTORY)

    def _restarted(self, txn: Transaction, draft: Draft, alive: float) -> None:
        """Nobody watched for a while. One gap after another is one."""
        key = txn.last_key(HISTORY)
        assert key is not None
        value = txn.get(HISTORY, key) or b""
        last, now = decode(value), self.clock()
        since = min(max(last.time, last.stop, alive), now)
        if last.kind == Kind.NOT_RUNNING and alive <= last.stop:
            merged = Entry(now, Kind.NOT_RUNNING, start=last.start, stop=now)
            txn.index(HISTORY, key, encode(merged))
            return
        self._append(txn, draft, Entry(now, Kind.NOT_RUNNING, start=since, stop=now))

    def begins(self, txn: Transaction, why: str) -> Draft:
        """Everything was compiled: from here on the history tells."""
        draft = Draft(self)
        if self.ring.size:
            self._append(txn, draft, Entry(self.clock(), Kind.BEGUN, what=why))
        return draft

    # Lists

    def heard(self, resource: Resource) -> None:
        """Something of a resource was committed."""
        self._heard[resource] = self.clock()

    def list_begins(self, resource: Resource) -> None:
        """A list is applied: its first change tells since when nothing was heard."""
        self._told.discard(resource)

    def gap_of_list(self, resource: Resource, now: float) -> Entry | None:
        """What is to be told before the first change of a list."""
        if self._from_files or resource in self._told:
            return None
        return Entry(now, Kind.LIST, start=self._heard.get(resource, self._alive), stop=now, what=resource)

    # Transactions

    def draft(self) -> Draft | None:
        """For one transaction; None where no history is kept."""
        return Draft(self) if self.ring.size else None

    def settled(self, draft: Draft) -> None:
        """A transaction is committed."""
        if draft.written:
            self.ring.took(draft.written, draft.bytes)
            if draft.listed is not None:
                self._told.add(draft.listed)

    def look(self, store: Store) -> None:
        """Make room where the ring is full.

        A disk that refuses it is asked again after the next commit.
        """
        if self.ring.is_full:
            try:
                self._trim(store)
            except StoreFull:
                return

    def _trim(self, store: Store) -> None:
        plan = self.ring.plan()
        size = store.write(lambda txn: self.ring.trim(txn, plan))
        store.read(lambda txn: self.ring.trimmed(plan, size, txn))


def _forget(txn: Transaction) -> None:
    if txn.last_key(HISTORY) is not None or txn.meta(SUM):
        clear(txn)
