"""The entries of the history as people and programs get them (docs/history.md).

Fields are only ever added.
"""

from __future__ import annotations

import datetime as dt
import socket
from collections.abc import Iterable

from msgspec import Struct, field

from headwater.explain.show import printable
from headwater.store import history
from headwater.store.history import Entry, OwnerKind
from headwater.store.places import said
from headwater.wire import names

#: Addresses in one line of text.
_FEW = 12
#: Places in one line of text.
_FEW_PLACES = 6
_KINDS = {
    OwnerKind.SERVICE: "Service",
    OwnerKind.IMPORT: "ServiceImport",
    OwnerKind.NAMESPACE: "Namespace",
    OwnerKind.POD: "Pod",
}


class Owner(Struct, frozen=True):
    """Whose names changed."""

    kind: str
    """Service, ServiceImport, Namespace, or Pod (by its address, under `--pods verified`)."""
    namespace: str
    name: str
    """Of a Pod the address."""

    def __str__(self) -> str:
        match self.kind:
            case "Namespace":
                return f"namespace {self.namespace}"
            case "Pod":
                return f"pod address {self.namespace}/{self.name}"
            case "ServiceImport":
                return f"import {self.namespace}/{self.name}"
        return f"{self.namespace}/{self.name}"


class Cause(Struct, frozen=True):
    """The object that changed."""

    kind: str
    namespace: str
    name: str
    resource_version: str
    changes: list[str]

    def __str__(self) -> str:
        where = f"{self.namespace}/{self.name}" if self.namespace else self.name
        version = f" (version {self.resource_version})" if self.resource_version else ""
        changes = f": {', '.join(self.changes)}" if self.changes else ""
        return f"{self.kind} {where}{version}{changes}"


class Place(Struct, frozen=True):
    """What became of the set that clients in some place get for the owner's own name."""

    place: str
    """zone eu-1a, node n-1, any other zone."""
    own: bool
    """Whether the place has a set of its own now; else its clients get what all get."""
    added: list[str]
    removed: list[str]

    def __str__(self) -> str:
        if not self.own:
            return f"{self.place}: what all get"
        changes = _few([*(f"-{item}" for item in self.removed), *(f"+{item}" for item in self.added)], 0)
        return f"{self.place}: {changes or 'nothing'}"


class Told(Struct, frozen=True):
    """One entry."""

    seq: int
    """Its number: later entries have higher ones."""
    time: str
    """RFC 3339, in UTC, with milliseconds."""
    serial: int
    """Of the zones' SOA."""
    kind: str
    """change or gap"""
    owner: Owner | None
    added: list[str]
    """"10.0.0.7" of the owner's own name, "10.0.0.7 web-1" of an endpoint's, "CNAME target"."""
    removed: list[str]
    more: int
    """Names that changed as well."""
    cause: Cause | None
    delay: float | None
    """Seconds from the change to the answer."""
    text: str
    """The entry in one line."""
    places: list[Place] = field(default_factory=list)
    more_places: int = 0
    """Places whose sets changed as well."""

    def concerns(self, label: str) -> bool:
        """Whether it may be about an endpoint's name of its owner; "" for all of the owner's."""
        if not label or self.kind == "gap" or self.more:
            return True
        return any(line.endswith(f" {label}") for line in (*self.added, *self.removed))


class Page(Struct, rename={"from_": "from"}):
    """Entries, the newest first."""

    entries: list[Told] = field(default_factory=list)
    next: int | None = None
    """Where to go on: what `before` is to be; None at the end."""
    from_: str | None = None
    """The time of the oldest entry that is held."""
    note: str = ""
    """Why there is less than was asked for."""
    newest: int = 0
    """The number of the newest entry of all."""


class Record(Struct, frozen=True):
    """One record of an answer."""

    name: str
    type: str
    ttl: int
    data: str


class Answered(Struct):
    """What was answered at a time."""

    at: str
    name: str
    type: str
    known: bool
    why: str = ""
    """Why it is not known; or what else is to be said."""
    rcode: str = ""
    records: list[Record] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    """What clients in places with sets of their own got: in `added`."""


def moment_text(moment: float) -> str:
    """A time as RFC 3339 has it, in UTC, with milliseconds."""
    text = dt.datetime.fromtimestamp(moment, dt.UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


def address_text(packed: bytes) -> str:
    """4 or 16 bytes as people write them."""
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def told(seq: int, entry: Entry) -> Told:
    """An entry of the store."""
    time = moment_text(entry.time)
    if entry.owner is None:
        text = f"{time} {_gap(entry)}"
        return Told(seq, time, entry.serial, "gap", None, [], [], 0, None, None, text)
    owner = Owner(_KINDS[OwnerKind(entry.owner.kind)], entry.owner.namespace, entry.owner.name)
    added, removed = _lines(entry, added=True), _lines(entry, added=False)
    cause = None
    if (known := entry.cause) is not None:
        cause = Cause(known.kind, known.namespace, known.name, known.resource_version, list(known.changes))
    delay = round(entry.delay, 3) if entry.delay >= 0 else None
    parts = [time, str(owner)]
    parts += [_few([*(f"-{item}" for item in removed), *(f"+{item}" for item in added)], entry.more)]
    places = [
        Place(said(item.label), item.exists, [*map(address_text, item.added)], [*map(address_text, item.removed)])
        for item in entry.places
    ]
    more = len(places) - _FEW_PLACES + entry.more_places if len(places) > _FEW_PLACES else entry.more_places
    parts += map(str, places[:_FEW_PLACES])
    parts += [f"and {more:,} more {'place' if more == 1 else 'places'}"] if more else []
    if cause is not None:
        parts.append(str(cause))
    if delay is not None:
        parts.append(f"({after(delay)})")
    text = printable("  ".join(filter(None, parts)))
    return Told(
        seq, time, entry.serial, "change", owner, added, removed, entry.more, cause, delay, text, places,
        entry.more_places,
    )  # fmt: skip


def after(delay: float) -> str:
    """Return how long it was from a change to its answer.

    Slices name the time of a change in whole seconds, so nothing finer is said.
    """
    return "within 1 s" if delay < 1 else f"after {delay:.0f} s"


def _few(items: list[str], more: int) -> str:
    more += max(0, len(items) - _FEW)
    shown = items[:_FEW]
    return ", ".join([*shown, f"and {more:,} more"] if more else shown)


def _gap(entry: Entry) -> str:
    start, stop = moment_text(entry.start), moment_text(entry.stop)
    match entry.kind:
        case history.Kind.NOT_RUNNING:
            return f"gap: not running from {start} to {stop}"
        case history.Kind.LIST:
            when = f"between {start} and {stop}" if entry.start else f"before {stop}"
            return f"gap: seen at a list of {entry.what}: happened {when}"
    return f"gap: from here on ({entry.what}); what was answered before is not held"


def _lines(entry: Entry, *, added: bool) -> list[str]:
    """The addresses that came, or went: those of endpoints with their names, and what the owner has
    besides.
    """
    of_hosts: list[str] = []
    known: set[bytes] = set()
    own: Iterable[bytes] = ()
    aliases: list[str] = []
    for item in entry.names:
        addresses = item.added if added else item.removed
        if not item.label:
            own = addresses
            alias = item.alias if added else item.alias_before
            if alias and item.alias != item.alias_before:
                aliases.append(f"CNAME {names.text_of(alias)}")
            continue
        label = names.text_of(item.label).removesuffix(".")
        known.update(addresses)
        of_hosts += (f"{address_text(address)} {label}" for address in addresses)
    return [*aliases, *(address_text(address) for address in own if address not in known), *of_hosts]
