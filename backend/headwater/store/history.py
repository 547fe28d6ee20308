"""The history: what the answers of each owner were changed to, and why, in a ring of bounded size.

An entry is written in the transaction that changes the records, so it cannot tell of what was never
served. It holds differences: whoever walks back from the records of now gets each set of before.

The key of an entry is its number, 8 bytes: the milliseconds since 1970, or one more than the entry
before, whichever is more. So numbers only grow, also after a clock was set back, and an entry of a
time or later has no lower number than that time. The value begins with the owner and a zero byte,
so that a reader passes over other owners' entries without decoding them.

When the ring is full, the namespace that has most of it gives up its oldest entries: who changes
without end pushes out nobody's history but his own. `cut` remembers up to when that went.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

if TYPE_CHECKING:
    from headwater.store.environment import ReadTransaction, Snapshot, Transaction

#: The sub-database.
HISTORY: Final = "history"
#: Keys of `meta`: the checksum as of the last commit that kept the history; where entries were cut.
SUM: Final = b"history/sum"
_CUT: Final = b"history/cut/"
#: Of the bytes that the setting grants, this share is the ring; copies of its pages need the rest.
_SHARE: Final = 0.8
#: What is taken away at once when the ring is full, as a part of it.
_TRIMMED: Final = 1 / 128
#: And entries at most.
_MOST_TRIMMED: Final = 1024
#: Entries that one namespace gives up before it is looked again who has most.
_STEP: Final = 32
#: Bytes that an entry takes beside its value, about.
_BESIDE: Final = 24
_MOMENT: Final = struct.Struct(">d")
#: Bytes of a namespace in a key of `meta`.
_NAMESPACE: Final = 256
_END: Final = b"\0"


class Kind(IntEnum):
    """What an entry tells of. Its numbers are stored."""

    CHANGE = 0
    BEGUN = 1
    """What was served before is not held."""
    NOT_RUNNING = 2
    LIST = 3
    """What follows was seen at a list: it happened at some time between two that are known."""


class OwnerKind(IntEnum):
    """Whose names changed. Its numbers are stored."""

    SERVICE = 0
    IMPORT = 1
    NAMESPACE = 2
    POD = 3
    """A pod's address, by `--pods verified`."""


class Owner(Struct, frozen=True, array_like=True, gc=False):
    """Whose names changed."""

    kind: int
    namespace: str
    name: str

    @property
    def head(self) -> bytes:
        """How the values of its entries begin."""
        name = self.name.replace("/", "?")  # no object has it in its name
        return f"{self.namespace}/{self.kind}{name}".replace("\0", "?").encode() + _END


class Names(Struct, frozen=True, array_like=True, gc=False):
    """What became of one name of the owner."""

    label: bytes
    """In wire format, before the owner's own name; empty: that name itself."""
    existed: bool
    exists: bool
    added: tuple[bytes, ...] = ()
    """Packed addresses."""
    removed: tuple[bytes, ...] = ()
    alias_before: bytes = b""
    """The target of its CNAME in wire format."""
    alias: bytes = b""


class Cause(Struct, frozen=True, array_like=True, gc=False):
    """The object that changed, and which of its fields."""

    kind: str
    namespace: str
    name: str
    resource_version: str
    changes: tuple[str, ...]


class Entry(Struct, frozen=True, array_like=True, gc=False):
    """One entry."""

    time: float
    """Seconds since 1970, of the commit."""
    kind: int
    owner: Owner | None = None
    serial: int = 0
    names: tuple[Names, ...] = ()
    more: int = 0
    """Names that changed too, and are not among `names`: there were too many."""
    cause: Cause | None = None
    delay: float = -1.0
    """Seconds from the change that the slice names to the commit; negative when it names none."""
    ports: bool = False
    """Whether names of ports came or went."""
    ttl: int = -1
    """The TTL before, if it changed, or if a name went."""
    start: float = 0.0
    """Of a gap: from when to when, in seconds since 1970."""
    stop: float = 0.0
    what: str = ""
    """Of a gap: the resource that was listed; why it begins."""
    places: tuple[Names, ...] = ()
    """What became of the sets of places for the owner's own name (`store.places`): the labels stand
    behind that name.
    """
    more_places: int = 0
    """Places that changed too, and are not among these."""

    @property
    def namespace(self) -> bytes:
        """Whose share of the ring it takes; empty for a gap, which is nobody's."""
        return b"" if self.owner is None else self.owner.namespace.replace("\0", "?").encode()


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Entry)


def encode(entry: Entry) -> bytes:
    """The value of an entry."""
    head = _END if entry.owner is None else entry.owner.head
    return head + _ENCODER.encode(entry)


#: Whose share it takes, and its value.
Prepared = tuple[bytes, bytes]


def prepared(entry: Entry) -> Prepared:
    """An entry that is ready to be written."""
    return entry.namespace, encode(entry)


def decode(value: bytes) -> Entry:
    """The entry of a value. Raises msgspec.MsgspecError for other bytes."""
    return _DECODER.decode(memoryview(value)[value.index(_END) + 1 :])


def namespace_of(value: bytes) -> bytes:
    """`Entry.namespace`, without decoding."""
    head, _, _ = value.partition(_END)
    return head.rpartition(b"/")[0]


def number_of(key: bytes) -> int:
    """The number of an entry."""
    return int.from_bytes(key, "big")


def key_of(number: int) -> bytes:
    """The key of a number."""
    return max(0, min(number, 2**64 - 1)).to_bytes(8, "big")


def newest(txn: ReadTransaction | Snapshot) -> int:
    """The number of the last entry, 0 without any."""
    key = txn.last_key(HISTORY)
    return 0 if key is None else number_of(key)


def horizon(txn: ReadTransaction | Snapshot, namespace: str) -> float:
    """Up to when entries of a namespace are no longer held, in seconds since 1970; 0.0: none were
    taken away.
    """
    cuts = (txn.value("meta", _cut_key(of)) for of in (b"", namespace.encode()))
    return max((_MOMENT.unpack(value)[0] for value in cuts if value is not None), default=0.0)


@dataclass(slots=True)
class _Share:
    """What one namespace has in the ring."""

    numbers: array[int] = field(default_factory=lambda: array("Q"))
    sizes: array[int] = field(default_factory=lambda: array("I"))
    at: int = 0
    """Where the numbers begin that are still there."""
    bytes: int = 0

    def add(self, number: int, size: int) -> None:
        self.numbers.append(number)
        self.sizes.append(size)
        self.bytes += size

    def drop(self, count: int) -> None:
        self.bytes -= sum(self.sizes[self.at : self.at + count])
        self.at += count
        if self.at > 4096 and self.at * 2 > len(self.numbers):
            del self.numbers[: self.at], self.sizes[: self.at]
            self.at = 0

    def __len__(self) -> int:
        return len(self.numbers) - self.at


class Ring:
    """The writer's account of the ring: who has how much of it.

    `load` it before the first entry. Entries and trims are written by transactions; the account
    follows with `took` and `trimmed` once these are committed.
    """

    def __init__(self, size: int) -> None:
        """`size`: how many bytes the history may take in the store's file."""
        self.size = size
        self.limit = int(size * _SHARE)
        # Plain numbers, because other threads show them.
        self.bytes = 0
        """Of its pages."""
        self.entries = 0
        self._shares: dict[bytes, _Share] = {}

    def load(self, txn: ReadTransaction) -> None:
        """Count what is there."""
        self._shares = {}
        for key, value in txn.scan(HISTORY):
            self._share(namespace_of(value)).add(number_of(key), len(value) + _BESIDE)
        self.bytes = txn.bytes_of(HISTORY)
        self.entries = txn.count(HISTORY)

    def _share(self, namespace: bytes) -> _Share:
        found = self._shares.get(namespace)
        if found is None:
            found = self._shares[namespace] = _Share()
        return found

    def append(self, txn: Transaction, some: Iterable[Prepared], now: float) -> list[tuple[bytes, int, int]]:
        """Write entries; (namespace, number, bytes) of each, for `took` when the transaction is
        committed.
        """
        number = max(newest(txn), int(now * 1000) - 1)
        written = []
        for namespace, value in some:
            number += 1
            txn.append(HISTORY, key_of(number), value)
            written.append((namespace, number, len(value) + _BESIDE))
        return written

    def took(self, written: Iterable[tuple[bytes, int, int]], size: int) -> None:
        """Entries were committed; the ring has `size` bytes now."""
        for namespace, number, taken in written:
            self._share(namespace).add(number, taken)
            self.entries += 1
        self.bytes = size

    @property
    def is_full(self) -> bool:
        """Whether some of it has to go."""
        return self.bytes > self.limit and any(self._shares.values())

    def plan(self) -> dict[bytes, int]:
        """How many entries each namespace gives up now, its oldest."""
        wanted = max(int(self.limit * _TRIMMED), self.bytes - self.limit)
        left = {namespace: share.bytes for namespace, share in self._shares.items() if namespace and len(share)}
        found: dict[bytes, int] = {}
        count = 0
        while wanted > 0 and left and count < _MOST_TRIMMED:
            victim = max(left, key=left.__getitem__)
            share = self._shares[victim]
            begun = share.at + found.get(victim, 0)
            step = min(_STEP, len(share.numbers) - begun)
            freed = sum(share.sizes[begun : begun + step])
            found[victim] = found.get(victim, 0) + step
            left[victim] -= freed
            wanted -= freed
            count += step
            if begun + step >= len(share.numbers):
                del left[victim]
        return found

    def trim(self, txn: Transaction, plan: dict[bytes, int]) -> int:
        """Take away what a plan says, and gaps that nothing is before; how many bytes the ring has
        then.
        """
        for namespace, count in plan.items():
            share = self._shares[namespace]
            last = 0.0
            for number in share.numbers[share.at : share.at + count]:
                key = key_of(number)
                if (value := txn.get(HISTORY, key)) is not None:
                    last = max(last, decode(value).time)
                    txn.unindex(HISTORY, key)
            _cut(txn, namespace, last)
        for key, value in list(_gaps_in_front(txn)):
            _cut(txn, b"", decode(value).time)
            txn.unindex(HISTORY, key)
        return txn.bytes_of(HISTORY)

    def trimmed(self, plan: dict[bytes, int], size: int, txn: ReadTransaction) -> None:
        """A trim was committed."""
        for namespace, count in plan.items():
            share = self._shares[namespace]
            share.drop(count)
            if not len(share):
                del self._shares[namespace]
        gaps = self._shares.get(b"")
        first = txn.first_key(HISTORY)
        if gaps is not None:
            gone = sum(1 for number in gaps.numbers[gaps.at :] if first is None or number < number_of(first))
            gaps.drop(gone)
        self.bytes = size
        self.entries = txn.count(HISTORY)


def _gaps_in_front(txn: ReadTransaction) -> Iterator[tuple[bytes, bytes]]:
    """The gaps that no change is before: there is nothing left that they would be missing from."""
    for key, value in txn.scan(HISTORY):
        if namespace_of(value):
            return
        yield key, value


def _cut_key(namespace: bytes) -> bytes:
    return _CUT + namespace[:_NAMESPACE]


def _cut(txn: Transaction, namespace: bytes, moment: float) -> None:
    known = txn.get("meta", _cut_key(namespace))
    if known is None or _MOMENT.unpack(known)[0] < moment:
        txn.set_meta(_cut_key(namespace), _MOMENT.pack(moment))


def clear(txn: Transaction) -> None:
    """Forget everything."""
    txn.clear(HISTORY)
    for key in [key for key, _ in txn.scan("meta", _CUT)]:
        txn.unindex("meta", key)
    txn.set_meta(SUM, b"")


def tidy(txn: Transaction) -> None:
    """Forget cuts of namespaces that have nothing left: one moment says it of all of them."""
    held = {namespace_of(value)[:_NAMESPACE] for _, value in txn.scan(HISTORY)}
    for key, value in list(txn.scan("meta", _CUT)):
        namespace = key.removeprefix(_CUT)
        if namespace and namespace not in held:
            _cut(txn, b"", _MOMENT.unpack(value)[0])
            txn.unindex("meta", key)
