"""The one value format of `records`: a node, with all the answers of one name.

    offset 0   flags     u8   Flag
           1   zone      u8   which of the served zones, in the order of the settings
           2   kind      u8   Kind, for counting
           3   n_a       u16  A records
           5   n_aaaa    u16  AAAA records
           7   A records, 16 bytes each; AAAA records, 28 bytes each
           ..  if OTHER: u8 count, then per type: qtype u16, ancount u16,
               arcount u16, length u16, bytes (answer and additional section)
           ..  if SRV: the SRV part
           ..  if LIMITED: the tail, which members of a set one reply shows (`store.choice`)

All integers are big-endian, as in DNS. Owner names are the pointer 0xC00C: in
a reply the question's name always starts at offset 12. So the bytes are final,
and rotating an RRset of addresses is slicing it.

An SRV set is not stored whole: at 63 bytes a record and 28 for its glue, once per port, it would be
the largest part of the store. The node says how to write it:

           0   ttl       u32
           4   weight    u16
           6   base      u8   length of the Service's own name, the end of the qname
           7   form      u8   OWN, TABLE, NAMES or WEIGHED
    OWN    8   n         u16, then n ports u16: one target, the Service's name (for
               an endpoint, which is its own base: its name), glue as under A, AAAA
    TABLE  8   n_sets    u16, per set: n u16, n ports u16
           ..  rows to the end: set u16, n_a u16, n_aaaa u16, length u8, label,
               addresses of 4 and 16 bytes; the target is label + base
    NAMES      the same, but that "label" is any number of labels in wire format
    WEIGHED    as TABLE, and each row begins with its priority u16 and weight u16

An AWAITED node is the head, with the flag ALIAS, and u16, the milliseconds that a question may
wait. For everybody else there is no such name.

A SHARED node is the Service's own with other ports. Otherwise each port name of a Service would
store all its endpoints again. It has no addresses. Behind the head it has

           0   base      u8   length of the Service's own name, the end of this one
           ..  if SRV: the SRV part without rows; its sets are for the rows of the Service's
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum, IntFlag
from typing import Any, Final, NamedTuple

from headwater.store.choice import tail_size


class Flag(IntFlag):
    """The parts of a node besides addresses, and the work that it asks for."""

    OTHER = 1
    SRV = 2
    APEX = 4
    """The zone itself: its SOA is made from the store's serial."""
    PODS_FROM_NAME = 8
    """Names below are pods by their dashed address (`--pods insecure`)."""
    ALIAS = 16
    """A CNAME: A and AAAA are its target's."""
    LIMITED = 32
    """A reply shows a part of the set, another one each time, or begins it by weights."""
    SHARED = 64
    """The set is the Service's own, under other ports: `unshared` makes the node of both."""
    NEAR = 128
    """The name has other sets for clients in some places (`store.places`)."""


#: The same as plain numbers: operators of an IntFlag take half a microsecond.
HAS_OTHER: Final = int(Flag.OTHER)
HAS_SRV: Final = int(Flag.SRV)
IS_ALIAS: Final = int(Flag.ALIAS)
IS_LIMITED: Final = int(Flag.LIMITED)
IS_SHARED: Final = int(Flag.SHARED)
IS_NEAR: Final = int(Flag.NEAR)


class Kind(IntEnum):
    """The kind of thing that has the name."""

    ZONE = 0
    NAMESPACE = 1
    SERVICE = 2
    ENDPOINT = 3
    PORT = 4
    POD = 5
    TOPOLOGY = 6
    AWAITED = 7
    """A name that is not there: only how long a question may wait for it."""
    PLACE = 8
    """No name: what clients in some place get for one (`store.places`)."""


class SrvForm(IntEnum):
    """How the SRV part names its targets."""

    OWN = 0
    TABLE = 1
    NAMES = 2
    WEIGHED = 3


HEAD: Final = struct.Struct(">BBBHH")
OTHER: Final = struct.Struct(">HHHH")
SRV: Final = struct.Struct(">IHBB")
SRV_ROW: Final = struct.Struct(">HHHB")
#: Priority and weight, before a row of WEIGHED.
PREFERENCE: Final = struct.Struct(">HH")
#: Bytes before the address in a stored record: owner, type, class, TTL, length.
_RECORD_HEAD: Final = 12
A_SIZE: Final = _RECORD_HEAD + 4
AAAA_SIZE: Final = _RECORD_HEAD + 16

#: Bytes before the addresses.
HEAD_SIZE: Final = HEAD.size


def pack_node(
    *,
    zone: int,
    kind: Kind,
    flags: int = 0,
    a: Sequence[bytes] = (),
    aaaa: Sequence[bytes] = (),
    other: Sequence[tuple[int, int, int, bytes]] = (),
    srv: bytes = b"",
    limit: int = 0,
    tail: bytes = b"",
) -> bytes:
    """One value of `records`.

    `a` and `aaaa` are whole records (16 and 28 bytes, owner 0xC00C); `other` is
    (qtype, ancount, arcount, bytes) per type; `srv` comes from `pack_srv_own` or
    `pack_srv_table`; `limit` is the size of the part that a reply shows, 0 for
    all; `tail` stands in its place when members have weights (`choice.pack_tail`). More than 65,535
    addresses of a family are cut, because no message holds a sixteenth of them.
    """
    if len(a) > 0xFFFF or len(aaaa) > 0xFFFF:
        a, aaaa = a[:0xFFFF], aaaa[:0xFFFF]
    flags |= (HAS_OTHER if other else 0) | (HAS_SRV if srv else 0) | (IS_LIMITED if limit or tail else 0)
    parts = [HEAD.pack(flags, zone, kind, len(a), len(aaaa)), *a, *aaaa]
    if other:
        parts.append(bytes((len(other),)))
        for qtype, ancount, arcount, data in other:
            parts += OTHER.pack(qtype, ancount, arcount, len(data)), data
    parts.append(srv)
    if tail:
        parts.append(tail)
    elif limit:
        parts.append(limit.to_bytes(2, "big"))
    return b"".join(parts)


def limit_of(node: Any) -> int:
    """The number of members that one reply shows, for a node that is LIMITED; 0: by weights."""
    limit: int = node[-2] << 8 | node[-1]
    return limit


def other_of(node: Any, qtype: int) -> tuple[int, int, Sequence[bytes]]:
    """(ancount, arcount, bytes) of a type but addresses and SRV; the node has OTHER."""
    at = _behind_addresses(node)
    count = node[at]
    at += 1
    for _ in range(count):
        rtype, ancount, arcount, size = OTHER.unpack_from(node, at)
        at += OTHER.size
        if rtype == qtype:
            return ancount, arcount, (node[at : at + size],)
        at += size
    return 0, 0, ()


def _behind_addresses(node: Any) -> int:
    at: int = HEAD_SIZE + (node[3] << 8 | node[4]) * A_SIZE + (node[5] << 8 | node[6]) * AAAA_SIZE
    return at


def _ports(ports: Sequence[int]) -> bytes:
    return struct.pack(f">H{len(ports)}H", len(ports), *ports)


def pack_srv_own(ttl: int, weight: int, base: int, ports: Sequence[int]) -> bytes:
    """The SRV part of a name with one target, its own base."""
    return SRV.pack(ttl, weight, base, SrvForm.OWN) + _ports(ports)


def pack_srv_table(
    ttl: int,
    weight: int,
    base: int,
    sets: Sequence[Sequence[int]],
    rows: Iterable[tuple[int, bytes, Sequence[bytes], Sequence[bytes]]],
    form: SrvForm = SrvForm.TABLE,
) -> bytes:
    """The SRV part of a name with a target per endpoint.

    A row is (index of its ports in `sets`, label, IPv4 addresses, IPv6 addresses), packed
    addresses.
    """
    body: list[bytes] = []
    row = SRV_ROW.pack
    for index, label, a, aaaa in rows:
        body.append(row(index, len(a), len(aaaa), len(label)))
        body.append(label)
        body += a
        body += aaaa
    head = SRV.pack(ttl, weight, base, form) + struct.pack(">H", len(sets))
    return b"".join((head, *map(_ports, sets), *body))


def pack_srv_weighed(
    ttl: int,
    base: int,
    sets: Sequence[Sequence[int]],
    rows: Iterable[tuple[tuple[int, int], int, bytes, Sequence[bytes], Sequence[bytes]]],
) -> bytes:
    """The same of form WEIGHED; a row begins with its (priority, weight)."""
    body: list[bytes] = []
    for preference, index, label, a, aaaa in rows:
        body += PREFERENCE.pack(*preference), SRV_ROW.pack(index, len(a), len(aaaa), len(label)), label, *a, *aaaa
    head = SRV.pack(ttl, 0, base, SrvForm.WEIGHED) + struct.pack(">H", len(sets))
    return b"".join((head, *map(_ports, sets), *body))


def pack_awaited(*, zone: int, milliseconds: int) -> bytes:
    """The node of a name that is awaited. By its flag the short way passes it on."""
    return HEAD.pack(IS_ALIAS, zone, Kind.AWAITED, 0, 0) + milliseconds.to_bytes(2, "big")


def patience_of(node: Any) -> float:
    """Seconds that a question may wait for a name that is AWAITED."""
    milliseconds: int = node[HEAD_SIZE] << 8 | node[HEAD_SIZE + 1]
    return milliseconds / 1000


def exists(node: Any) -> bool:
    """Whether there is such a name: it is stored, and not only awaited."""
    return node is not None and node[2] != Kind.AWAITED


def pack_shared(*, zone: int, kind: Kind, base: int, srv: bytes) -> bytes:
    """A node that shares the set of the Service's own; `srv` is a table without rows, or empty."""
    return HEAD.pack(IS_SHARED | (HAS_SRV if srv else 0), zone, kind, 0, 0) + bytes((base,)) + srv


def base_of_shared(node: Any) -> int:
    """The length of the Service's own name, which is the end of a SHARED node's name."""
    size: int = node[HEAD_SIZE]
    return size


def unshared(node: Any, own: Any) -> bytes:
    """The node of a SHARED one and `own`, the Service's node."""
    ports, whole = bytes(node), bytes(own)
    head = whole[:1] + ports[1:3]
    if not whole[0] & HAS_SRV:
        return head + whole[3:]
    behind = _behind_addresses(whole)
    at = _srv_at(whole, behind) + SRV.size
    sets, at = whole[at] << 8 | whole[at + 1], at + 2
    for _ in range(sets):
        at += 2 + 2 * (whole[at] << 8 | whole[at + 1])
    return b"".join((head, whole[3:behind], ports[HEAD_SIZE + 1 :], whole[at:]))


# Read again


class SrvPart(NamedTuple):
    """The head of an SRV part."""

    ttl: int
    weight: int
    base: int
    """Bytes of the Service's own name, 0 for the whole name that the node is stored under."""
    form: int
    at: int
    """The offset in the node of the part that depends on the form."""


def srv_part(node: Any) -> SrvPart:
    """The head of the SRV part of a node that has one."""
    at = _srv_at(node, _behind_addresses(node))
    ttl, weight, base, form = SRV.unpack_from(node, at)
    return SrvPart(ttl, weight, base, form, at + SRV.size)


def _srv_at(node: Any, at: int) -> int:
    """The offset of the SRV part; `at`: that behind the addresses."""
    if node[0] & HAS_OTHER:
        count = node[at]
        at += 1
        for _ in range(count):
            at += OTHER.size + OTHER.unpack_from(node, at)[3]
    return at


def srv_ports(node: Any, at: int) -> tuple[tuple[int, ...], int]:
    """The ports at an offset, and the offset behind them."""
    count = (node[at] << 8) | node[at + 1]
    if count == 1:
        return (node[at + 2] << 8 | node[at + 3],), at + 4
    after = at + 2 + 2 * count
    return struct.unpack(f">{count}H", node[at + 2 : after]), after


def srv_port_sets(node: Any, part: SrvPart) -> tuple[list[tuple[int, ...]], int]:
    """The sets of ports of a table, and the offset behind them: that of its rows."""
    count, at = node[part.at] << 8 | node[part.at + 1], part.at + 2
    sets: list[tuple[int, ...]] = []
    for _ in range(count):
        ports, at = srv_ports(node, at)
        sets.append(ports)
    return sets, at


def srv_rows(node: Any, form: int, at: int) -> Iterator[tuple[int, int, int, int, int]]:
    """The rows of a table from an offset on.

    Each is (which set of ports, IPv4 addresses, IPv6 addresses, the label's offset, that of the
    addresses). The label of TABLE begins with its length octet, the row's last field.
    """
    end = _end_of_rows(node)
    unpack, size = SRV_ROW.unpack_from, SRV_ROW.size
    back = 1 if form == SrvForm.TABLE else 0
    while at < end:
        ports, n_a, n_aaaa, length = unpack(node, at)
        label = at + size
        addresses = label + length
        yield ports, n_a, n_aaaa, label - back, addresses
        at = addresses + 4 * n_a + 16 * n_aaaa


def srv_weighed_rows(node: Any, at: int) -> Iterator[tuple[tuple[int, int], tuple[int, int, int, int, int]]]:
    """((priority, weight), row as `srv_rows` has it) of a table of form WEIGHED."""
    end = _end_of_rows(node)
    while at < end:
        priority, weight = PREFERENCE.unpack_from(node, at)
        at += PREFERENCE.size
        ports, n_a, n_aaaa, length = SRV_ROW.unpack_from(node, at)
        label = at + SRV_ROW.size
        addresses = label + length
        yield (priority, weight), (ports, n_a, n_aaaa, label - 1, addresses)
        at = addresses + 4 * n_a + 16 * n_aaaa


def _end_of_rows(node: Any) -> int:
    return len(node) - tail_size(node) if node[0] & IS_LIMITED else len(node)


# Compared


def addresses_of(node: Any) -> list[bytes]:
    """Its addresses, packed: those of A records, then those of AAAA."""
    _, _, _, n_a, n_aaaa = HEAD.unpack_from(node)
    middle = HEAD_SIZE + n_a * A_SIZE
    end = middle + n_aaaa * AAAA_SIZE
    found = [bytes(node[at : at + 4]) for at in range(HEAD_SIZE + _RECORD_HEAD, middle, A_SIZE)]
    found += (bytes(node[at : at + 16]) for at in range(middle + _RECORD_HEAD, end, AAAA_SIZE))
    return found


def address_changes(before: bytes, after: bytes) -> tuple[list[bytes], list[bytes]]:
    """The addresses that a node has and another had not, and the other way round, in order."""
    added: list[bytes] = []
    removed: list[bytes] = []
    _, _, _, old_a, old_aaaa = HEAD.unpack_from(before)
    _, _, _, new_a, new_aaaa = HEAD.unpack_from(after)
    old_at = new_at = HEAD_SIZE
    for size, old_count, new_count in ((A_SIZE, old_a, new_a), (AAAA_SIZE, old_aaaa, new_aaaa)):
        old_end, new_end = old_at + size * old_count, new_at + size * new_count
        # What is alike at both ends is most of it, as a rule: it is passed over without being taken
        # apart.
        same = size * alike(before, after, min(old_count, new_count), size, old_at, new_at)
        old_at, new_at = old_at + same, new_at + same
        rest = min(old_end - old_at, new_end - new_at) // size
        same = size * alike_at_end(before, after, rest, size, old_end, new_end)
        there = [before[at : at + size - _RECORD_HEAD] for at in range(old_at + _RECORD_HEAD, old_end - same, size)]
        now = [after[at : at + size - _RECORD_HEAD] for at in range(new_at + _RECORD_HEAD, new_end - same, size)]
        if there or now:
            was, stays = set(there), set(now)
            added += [item for item in now if item not in was]
            removed += [item for item in there if item not in stays]
        old_at, new_at = old_end, new_end
    return added, removed


def alike(one: Sequence[Any], other: Sequence[Any], most: int, size: int = 1, at: int = 0, at_other: int = 0) -> int:
    """How many pieces of `size` are the same from a place on in each, of so many."""
    low = 0
    while low < most:
        middle = (low + most + 1) // 2
        part = one[at + low * size : at + middle * size]
        if part == other[at_other + low * size : at_other + middle * size]:
            low = middle
        else:
            most = middle - 1
    return low


def alike_at_end(one: Sequence[Any], other: Sequence[Any], most: int, size: int, end: int, end_other: int) -> int:
    """The same before a place in each."""
    low = 0
    while low < most:
        middle = (low + most + 1) // 2
        part = one[end - middle * size : end - low * size]
        if part == other[end_other - middle * size : end_other - low * size]:
            low = middle
        else:
            most = middle - 1
    return low


def ttl_of(node: Any) -> int | None:
    """The TTL of its records, in seconds; None without any."""
    flags, _, _, n_a, n_aaaa = HEAD.unpack_from(node)
    if n_a or n_aaaa or flags & HAS_OTHER:
        at = HEAD_SIZE if n_a or n_aaaa else HEAD_SIZE + 1 + OTHER.size
        ttl: int = int.from_bytes(node[at + _RECORD_HEAD - 6 : at + _RECORD_HEAD - 2], "big")
        return ttl
    return srv_part(node).ttl if flags & HAS_SRV else None


def alias_of(node: Any) -> bytes:
    """The target of its CNAME in wire format; empty for none."""
    if not node[0] & IS_ALIAS:
        return b""
    at = HEAD_SIZE + 1
    _, _, _, size = OTHER.unpack_from(node, at)
    at += OTHER.size
    return bytes(node[at + _RECORD_HEAD : at + size])
