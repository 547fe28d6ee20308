"""The history read: pages, what was answered at a time, and since when a name is what it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from headwater.explain.named import Named, whose_is
from headwater.explain.told import Answered, Page, Place, Record, address_text, moment_text, told
from headwater.process.control import History
from headwater.settings.settings import Settings
from headwater.store.history import HISTORY, Entry, Kind, Owner, OwnerKind, decode, horizon, key_of, newest, number_of
from headwater.store.node import Flag, addresses_of, alias_of, exists, ttl_of
from headwater.store.places import divided, said
from headwater.wire import names, rdata
from headwater.wire.names import BadName
from headwater.wire.types import A

if TYPE_CHECKING:
    from headwater.store.environment import Reader, Snapshot

#: Entries of a page, where nothing is said, and at most.
USUAL: Final = 100
MOST: Final = 1000
#: Bytes of a page's entries, in JSON: it has to fit into a message.
_BYTES: Final = 150_000
#: Entries looked at between two rests, and the rest in seconds: others have this interpreter, too.
_STRIDE: Final = 512
_REST: Final = 0.0002
#: The end of all numbers.
_END: Final = 2**64 - 1
#: Entries of an owner that are looked at for the ages of its records.
_LOOKED_AT: Final = 200


def told_from(reader: Reader, settings: Settings, asked: History, now: float) -> Page | Answered:
    """What a reader sees now. Raises ValueError for what makes no sense."""
    snapshot = reader.begin()
    try:
        if asked.at:
            return answered_at(snapshot, settings, asked.name, asked.qtype, asked.at, now)
        return page(snapshot, settings, asked)
    finally:
        if snapshot is not None:
            snapshot.close()


def page(snapshot: Snapshot | None, settings: Settings, asked: History) -> Page:
    """The entries that are asked for. Raises ValueError for what makes no sense."""
    found = Page()
    label = ""
    heads: tuple[bytes, ...] = ()
    if asked.name:
        whose = whose_is(asked.name, settings)
        label, heads = whose.label if whose.kept else "", (whose.owner.head,)
    elif asked.owner:
        heads = owner_heads(asked.owner)
    wanted = rdata.address(asked.ip) if asked.ip else b""
    if snapshot is None or not snapshot.has(HISTORY):
        found.note = "nothing is stored yet"
        return found
    found.newest = newest(snapshot)
    found.from_ = _held_from(snapshot, asked.namespace or (heads[0].decode().partition("/")[0] if heads else ""))
    if not settings.history:
        found.note = "no history is kept: --history is 0"
    elif found.from_ is None:
        found.note = "the history is empty"
    limit = min(asked.limit if asked.limit >= 0 else USUAL, MOST)
    prefix = f"{asked.namespace}/".encode() if asked.namespace else b""
    size = 0
    for key, value in _values(snapshot, asked):
        seq = number_of(key)
        if asked.after < 0 and asked.since and seq < int(asked.since * 1000):
            break
        head = bytes(value[: _head_size(value)])
        if head != b"\0" and ((heads and head not in heads) or (prefix and not head.startswith(prefix))):
            continue
        whole = bytes(value)
        if wanted and head != b"\0" and wanted not in whole:
            continue
        entry = decode(whole)
        if (asked.since and entry.time < asked.since) or (asked.until and entry.time > asked.until):
            continue
        if wanted and entry.owner is not None and not _has(entry, wanted):
            continue
        one = told(seq, entry)
        if not one.concerns(label):
            continue
        size += len(msgspec.json.encode(one))
        if len(found.entries) >= limit or size > _BYTES:
            last = found.entries[-1].seq if found.entries else seq
            found.next = last
            break
        found.entries.append(one)
    return found


def owner_heads(text: str) -> tuple[bytes, ...]:
    """The owners that NAMESPACE/NAME may be. Raises ValueError."""
    namespace, slash, name = text.partition("/")
    if not slash or not namespace or not name:
        raise ValueError(f"{text[:255]!r} is not NAMESPACE/NAME")
    return tuple(Owner(kind, namespace, name).head for kind in (OwnerKind.SERVICE, OwnerKind.IMPORT))


def _head_size(value: Any) -> int:
    """The bytes up to and with the first zero byte; heads are short."""
    return bytes(value[:1100]).index(b"\0") + 1


def _has(entry: Entry, address: bytes) -> bool:
    return any(address in item.added or address in item.removed for item in (*entry.names, *entry.places))


def _values(snapshot: Snapshot, asked: History) -> Iterator[tuple[bytes, Any]]:
    """Forward from `after`, or backward from `before`, with rests."""
    if asked.after >= 0:
        source = snapshot.forward(HISTORY, key_of(asked.after + 1))
    else:
        source = snapshot.backward(HISTORY, key_of(asked.before or _END))
    return _resting(source)


def _resting(source: Iterator[tuple[bytes, Any]]) -> Iterator[tuple[bytes, Any]]:
    for count, item in enumerate(source, 1):
        yield item
        if not count % _STRIDE:
            time.sleep(_REST)


def _held_from(snapshot: Snapshot, namespace: str) -> str | None:
    for _, value in snapshot.forward(HISTORY, b""):
        return moment_text(max(decode(bytes(value)).time, horizon(snapshot, namespace) if namespace else 0.0))
    return None


def _entries_of(snapshot: Snapshot, owner: Owner) -> Iterator[tuple[int, Entry]]:
    """(number, entry) of an owner's changes and of gaps, the newest first."""
    head = owner.head
    size = len(head)
    for key, value in _resting(snapshot.backward(HISTORY, key_of(_END))):
        if value[0] == 0 or bytes(value[:size]) == head:
            yield number_of(key), decode(bytes(value))


# What was answered


class _Unknown(Exception):  # noqa: N818 (what it is)
    """The text says why it is not known."""


def answered_at(
    snapshot: Snapshot | None, settings: Settings, name: str, qtype: str, at: float, now: float
) -> Answered:
    """What a name's answer was at a time. Raises ValueError for what makes no sense."""
    whose = whose_is(name, settings)
    if at > now + 1:
        raise ValueError(f"{moment_text(at)} is not over yet")
    found = Answered(moment_text(at), whose.name, qtype.upper(), known=False)
    try:
        if snapshot is None or not snapshot.has(HISTORY) or not settings.history:
            raise _Unknown("no history is kept")
        if not whose.kept:
            raise _Unknown("the history has no records of names of ports or of topology zones, only of their Service")
        _walk_back(found, whose, snapshot, settings, at)
    except _Unknown as why:
        found.why = str(why)
    return found


class _State:
    """A name at one moment, and back from there."""

    def __init__(self, node: Any) -> None:
        node = node if exists(node) else None
        self.exists = node is not None
        self.addresses = addresses_of(node) if node is not None else []
        self.alias = alias_of(node) if node is not None else b""
        self.ttl = ttl_of(node) if node is not None else None
        self.limited = node is not None and bool(node[0] & Flag.LIMITED)

    def undo(self, entry: Entry, label: bytes) -> None:
        """Take back a change. Raises _Unknown."""
        if entry.ttl >= 0:
            self.ttl = entry.ttl
        for item in entry.names:
            if item.label == label:
                break
        else:
            if entry.more:
                raise _Unknown(f"the change of {moment_text(entry.time)} was larger than an entry of the history")
            return
        there = set(self.addresses)
        if item.exists != self.exists or not there.issuperset(item.added) or not there.isdisjoint(item.removed):
            raise _Unknown(
                f"the entry of {moment_text(entry.time)} does not fit what came after it: please report that"
            )
        gone = set(item.added)
        self.addresses = [*(one for one in self.addresses if one not in gone), *item.removed]
        self.exists, self.alias = item.existed, item.alias_before


class _Places:
    """The sets of places for a name at one moment, and back from there."""

    def __init__(self, snapshot: Snapshot, name: bytes) -> None:
        self.sets = {
            suffix: addresses_of(node)
            for key, node in snapshot.scan("records", name)
            if (suffix := divided(key)[1])
        }  # fmt: skip
        self.why = ""
        """Why they are not known."""

    def undo(self, entry: Entry) -> None:
        """Take back a change."""
        if entry.more_places and not self.why:
            self.why = f"the change of {moment_text(entry.time)} was larger than an entry of the history"
        for item in entry.places:
            gone = set(item.added)
            kept = [one for one in self.sets.pop(item.label, ()) if one not in gone]
            if item.existed:
                self.sets[item.label] = [*kept, *item.removed]

    def told(self, qtype: str) -> Iterator[Place]:
        """What clients in each got, of A or AAAA."""
        for suffix, some in sorted(self.sets.items()):
            ordered = sorted(one for one in some if (rdata.type_of_address(one) == A) is (qtype == "A"))
            yield Place(said(suffix), True, [*map(address_text, ordered)], [])


def _walk_back(found: Answered, whose: Named, snapshot: Snapshot, settings: Settings, at: float) -> None:
    """Fill in what was answered. Raises _Unknown."""
    try:
        label, wire = whose.wire_label, names.name(whose.name)
    except BadName as problem:
        raise _Unknown(f"it is not a DNS name: {problem}") from None
    state = _State(snapshot.get(wire))
    places = None if label else _Places(snapshot, wire)
    begins = horizon(snapshot, whose.owner.namespace)
    if at < begins:
        raise _Unknown(f"what changed before {moment_text(begins)} is not held any more: newer entries took the room")
    reached = False
    for _, entry in _entries_of(snapshot, whose.owner):
        if entry.kind == Kind.LIST and entry.start <= at < entry.stop:
            found.why = (
                f"so it was answered; between {moment_text(entry.start)} and {moment_text(entry.stop)} no news of "
                f"{entry.what} came, and the cluster may have had something else"
            )
        if entry.time <= at:
            reached = True
            break
        match entry.kind:
            case Kind.BEGUN:
                raise _Unknown(f"what was answered before {moment_text(entry.time)} is not held: {entry.what}")
            case Kind.NOT_RUNNING if at > entry.start:
                raise _Unknown(
                    f"headwater was not running, or its watch process was not, from {moment_text(entry.start)} to "
                    f"{moment_text(entry.stop)}"
                )
            case Kind.CHANGE:
                state.undo(entry, label)
                if places is not None:
                    places.undo(entry)
    if not reached and not begins:
        raise _Unknown("the history does not reach back so far")
    found.known = True
    _records(found, state, settings)
    if places is not None and found.type in ("A", "AAAA"):
        found.places = [] if places.why else [*places.told(found.type)]
        if places.why:
            found.why = found.why or f"clients in some places may have got other sets: {places.why}"


def _records(found: Answered, state: _State, settings: Settings) -> None:
    found.rcode = "NOERROR" if state.exists else "NXDOMAIN"
    ttl = settings.ttl if state.ttl is None else state.ttl
    if state.alias:
        found.records = [Record(found.name, "CNAME", ttl, names.text_of(state.alias))]
        if found.type != "CNAME":
            found.why = found.why or "the addresses of a CNAME's target are another name's history"
        return
    texts = [(address_text(address), "A" if rdata.type_of_address(address) == A else "AAAA")
             for address in sorted(state.addresses, key=lambda one: (len(one), one))]  # fmt: skip
    if found.type not in ("A", "AAAA", "CNAME"):
        if state.exists:
            found.known, found.rcode = False, ""
            found.why = f"the history holds addresses, not {found.type} records"
        return
    found.records = [Record(found.name, kind, ttl, text) for text, kind in texts if kind == found.type]
    found.addresses = [record.data for record in found.records]
    if state.limited and found.records:
        found.why = found.why or "a reply shows a part of these, by the Service's annotation"


# For explanations


class Ages:
    """When the records of a name came, as far as the history reaches."""

    def __init__(self, whose: Named, snapshot: Snapshot) -> None:
        self.changed: float | None = None
        """When the name's answer last changed."""
        self.was_there = True
        """Whether the name had been there before that."""
        self.ttl: int | None = None
        """The TTL that the answer before that had, if it was another."""
        self.since: dict[bytes, float] = {}
        """When each address came."""
        if not snapshot.has(HISTORY) or not whose.kept:
            return
        try:
            label = whose.wire_label
        except BadName:
            return
        looked = 0
        for _, entry in _entries_of(snapshot, whose.owner):
            if entry.owner is None:
                if entry.kind == Kind.BEGUN:
                    return  # before it nothing fits
                continue
            looked += 1
            if looked > _LOOKED_AT:
                return
            if entry.more and not any(item.label == label for item in entry.names):
                return
            self._take(entry, label)

    def _take(self, entry: Entry, label: bytes) -> None:
        for item in entry.names:
            if item.label != label:
                continue
            if self.changed is None:
                self.changed, self.was_there = entry.time, item.existed
                self.ttl = entry.ttl if entry.ttl >= 0 else None
            for address in item.added:
                self.since.setdefault(address, entry.time)
