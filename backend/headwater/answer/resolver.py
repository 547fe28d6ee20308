"""The hot path: a query's bytes to a reply's bytes, by one look-up.

The short way is taken by a plain query for a name that is stored. Its ten
header bytes after the id are one of a few (a dictionary says which, and what
the reply's are); the name ends at the first zero byte; lower-cased, it is the
key. A stored name is well-formed, so a key that is found needs no parsing:
whoever asks with it asks for exactly that name. What is stored is final, so
the reply is a join of id, flags, counts, question and stored bytes.

Everything else takes the long way through `question.parse`.

What the short way costs is in docs/performance.md; `bench/resolver` measures it.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Any, Final

from headwater.answer.counts import COUNTED_TYPES, RCODES, Reason, count_key
from headwater.answer.question import (
    HEADER_SIZE,
    MAX_LABEL,
    Edns,
    Malformed,
    Question,
    Rcode,
    parse,
)
from headwater.answer.srv import srv_of_itself, srv_set
from headwater.store.environment import SERIAL, Reader, Snapshot
from headwater.store.node import A_SIZE, AAAA_SIZE, HEAD, HEAD_SIZE, OTHER, Flag

MAX_MESSAGE: Final = 65535
#: What we are ready to take over UDP (DNS flag day 2020).
_UDP_SIZE: Final = 1232
_OPT_SIZE: Final = 11

_A: Final = 1
_NS: Final = 2
_SOA: Final = 6
_AAAA: Final = 28
_SRV: Final = 33
_IN: Final = 1
_TRANSFERS: Final = frozenset((251, 252))

# Header bits, as the two bytes after the id.
_QR_AA: Final = 0x8400
_QR: Final = 0x8000
_RD_CD: Final = 0x0110

#: The ten header bytes after the id of a plain query (opcode 0, one question and
#: nothing else), and the flags of its reply: RD and CD are copied (RFC 1035 4.1.1, RFC 4035 3.2.2).
_PLAIN: Final[dict[bytes, bytes]] = {
    flags.to_bytes(2, "big") + b"\0\1\0\0\0\0\0\0": (_QR_AA | flags & _RD_CD).to_bytes(2, "big") + b"\0\1"
    for rd in (0, 0x0100)
    for ad in (0, 0x0020)
    for cd in (0, 0x0010)
    for flags in (rd | ad | cd,)
}

_TYPE_CLASS: Final = {qtype: qtype.to_bytes(2, "big") + b"\0\1" for qtype in (_A, _AAAA)}
_IS_A: Final = _TYPE_CLASS[_A]
_IS_AAAA: Final = _TYPE_CLASS[_AAAA]

_COUNTS: Final = struct.Struct(">HHH")
_ONE_ANSWER: Final = b"\0\1\0\0\0\0"
_ONE_AUTHORITY: Final = b"\0\0\0\1\0\0"
_ADDRESS_HEAD: Final = struct.Struct(">HHIH")

# Rotation: the fractional parts of multiples of the golden ratio fall evenly into
# any number of places, and so do every second, every third of them: two names
# asked in turn, or A and AAAA in turn, each see all their members equally often.
_GOLDEN: Final = 0x9E3779B1
_32_BITS: Final = 0xFFFFFFFF


class _ZoneTail:
    """A zone's name and its SOA record, but for where the name stands in a reply."""

    __slots__ = ("_made", "_rest", "_ttl", "index", "wire")

    def __init__(self, index: int, wire: bytes, negative_ttl: int, ttl: int) -> None:
        self.index = index
        self.wire = wire
        self._made: dict[int, bytes] = {}
        # RFC 2308 section 5: a negative answer lives as long as the smaller of the two.
        self._ttl = min(ttl, negative_ttl)
        self._rest = struct.pack(">IIII", 7200, 1800, 86400, negative_ttl)

    def soa(self, qname_size: int, serial: bytes) -> bytes:
        """The record, its names pointers into a question whose name has that size."""
        at = qname_size - len(self.wire)
        head = self._made.get(at)
        if head is None:
            pointer = (0xC000 | HEADER_SIZE + at).to_bytes(2, "big")
            names = b"\x02ns\x03dns" + pointer + b"\x0ahostmaster" + pointer
            fixed = struct.pack(">HHIH", _SOA, _IN, self._ttl, len(names) + 20)
            head = self._made[at] = pointer + fixed + names
        return head + serial + self._rest


class Resolver:
    """Answers for a set of zones. One per answer process; its threads may share it.

    `counts` maps (zone index + 1, query type, reason), packed into an integer by
    `counts.count_key`, to a number of queries.
    """

    def __init__(self, reader: Reader, zones: Sequence[bytes], ttl: int, negative_ttl: int) -> None:
        """`zones` are wire-format names in the order of the settings; TTLs in seconds."""
        self._reader = reader
        tails = [_ZoneTail(index, wire, negative_ttl, ttl) for index, wire in enumerate(zones)]
        self._by_index = tails
        # The longest match wins (a zone may be inside another).
        self._zones = sorted(tails, key=lambda zone: len(zone.wire), reverse=True)
        self._ready_generation = 0
        self._turn = 0  # advanced once per reply of several
        self._ttl = ttl
        self.counts: dict[int, int] = {}

    def answer(self, query: bytes, snapshot: Snapshot | None) -> bytes | None:
        """The reply to one query: at most 65,535 bytes, never truncated, never an exception.

        `snapshot` is from `Reader.begin` (None when there is no store); its
        buffers are not kept. None when not even an id can be read.
        """
        if snapshot is not None and snapshot.generation == self._ready_generation:
            flags = _PLAIN.get(query[2:HEADER_SIZE])
            if flags is not None:
                end = query.find(0, HEADER_SIZE) + 1
                node = snapshot.get(query[HEADER_SIZE:end].lower()) if end else None
                if node is not None and len(query) == end + 4:
                    asked = query[end:]
                    if asked == _IS_A:
                        return self._addresses(query, flags, end, node, snapshot, _A)
                    if asked == _IS_AAAA:
                        return self._addresses(query, flags, end, node, snapshot, _AAAA)
        return self._long_way(query, snapshot)

    def _addresses(self, query: bytes, flags: bytes, end: int, node: Any, snapshot: Snapshot, qtype: int) -> bytes:
        """The reply to a plain query for A or AAAA of a stored name."""
        if qtype == _A:
            count, offset, size = (node[3] << 8) | node[4], HEAD_SIZE, A_SIZE
        else:
            count, size = (node[5] << 8) | node[6], AAAA_SIZE
            offset = HEAD_SIZE + A_SIZE * ((node[3] << 8) | node[4])
        reason = Reason.ANSWER
        if count == 1:
            reply = b"".join((query[:2], flags, _ONE_ANSWER, query[HEADER_SIZE:], node[offset : offset + size]))
        elif count:
            count, body, cut = self._rotated(node, offset, count, size, MAX_MESSAGE - len(query))
            reason = Reason.CUT if cut else Reason.ANSWER
            reply = b"".join((query[:2], flags, _COUNTS.pack(count, 0, 0), query[HEADER_SIZE:], *body))
        else:
            reason = Reason.NODATA
            soa = self._by_index[node[1]].soa(end - HEADER_SIZE, self._serial(snapshot))
            reply = b"".join((query[:2], flags, _ONE_AUTHORITY, query[HEADER_SIZE:], soa))
        key = (node[1] + 1) << 24 | qtype << 8 | reason
        try:
            self.counts[key] += 1
        except KeyError:
            self.counts[key] = 1
        return reply

    def _long_way(self, query: bytes, snapshot: Snapshot | None) -> bytes | None:
        if len(query) < HEADER_SIZE:
            if len(query) < 2:
                return None
            self._count(0, 0, Reason.MALFORMED)
            return query[:2] + (_QR | Rcode.FORMERR).to_bytes(2, "big") + bytes(8)
        flags = int.from_bytes(query[2:4], "big")
        opcode = flags & 0x7800
        if opcode and not flags & _QR:
            self._count(0, 0, Reason.OPCODE)
            return query[:2] + (_QR | opcode | flags & _RD_CD | Rcode.NOTIMP).to_bytes(2, "big") + bytes(8)
        try:
            if flags & _QR:
                raise Malformed
            asked = parse(query)
        except Malformed as malformed:
            self._count(0, 0, Reason.MALFORMED)
            head = query[:2] + (_QR | opcode | flags & _RD_CD | Rcode.FORMERR).to_bytes(2, "big")
            if malformed.end:
                return head + b"\0\1\0\0\0\0\0\0" + query[HEADER_SIZE : malformed.end]
            return head + bytes(8)
        zone = self._zone_of(asked.name.lower())
        refusal = self._refusal(asked, zone)
        if refusal is not None:
            return self._reply(query, flags, asked, zone, refusal)
        assert zone is not None
        if snapshot is None or not self._is_ready(snapshot):
            return self._reply(query, flags, asked, zone, Reason.NOT_READY)
        return self._from_store(query, flags, asked, zone, snapshot)

    def _zone_of(self, name: bytes) -> _ZoneTail | None:
        """The served zone that a lower-cased name is in, the longest one."""
        for zone in self._zones:
            if name.endswith(zone.wire):
                # The match must begin at a label: walk there.
                at, goal = 0, len(name) - len(zone.wire)
                while at < goal:
                    at += 1 + name[at]
                if at == goal:
                    return zone
        return None

    @staticmethod
    def _refusal(asked: Question, zone: _ZoneTail | None) -> Reason | None:
        if asked.edns is not None and asked.edns.version:
            return Reason.EDNS_VERSION
        if asked.qclass != _IN:
            return Reason.CLASS
        if zone is None:
            return Reason.OUT_OF_ZONE
        if asked.qtype in _TRANSFERS:
            return Reason.TRANSFER
        return None

    def _is_ready(self, snapshot: Snapshot) -> bool:
        """Whether the store is complete; asked until it is, and again for another store."""
        if snapshot.generation == self._ready_generation:
            return True
        if self._reader.is_ready(snapshot):
            self._ready_generation = snapshot.generation
            return True
        return False

    def _from_store(self, query: bytes, flags: int, asked: Question, zone: _ZoneTail, snapshot: Snapshot) -> bytes:
        name = asked.name.lower()
        found = _find(name, zone.wire, snapshot)
        room = MAX_MESSAGE - asked.end - (_OPT_SIZE if asked.edns is not None else 0)
        ancount = arcount = 0
        body: Sequence[bytes] = ()
        cut = False
        if found is None:
            address = _pod_from_name(name, zone.wire, snapshot)
            if address is None:
                return self._negative(query, flags, asked, zone, Reason.NXDOMAIN, snapshot)
            if asked.qtype == _SRV:
                ancount, arcount, body = srv_of_itself(name, address, self._ttl)
            elif len(address) == (4 if asked.qtype == _A else 16 if asked.qtype == _AAAA else -1):
                fixed = _ADDRESS_HEAD.pack(asked.qtype, _IN, self._ttl, len(address))
                ancount, body = 1, (b"\xc0\x0c", fixed, address)
        else:
            node, key = found
            node_flags, _, _, n_a, n_aaaa = HEAD.unpack_from(node)
            qtype = asked.qtype
            if qtype == _A:
                ancount, body, cut = self._rotated(node, HEAD_SIZE, n_a, A_SIZE, room)
            elif qtype == _AAAA:
                ancount, body, cut = self._rotated(node, HEAD_SIZE + n_a * A_SIZE, n_aaaa, AAAA_SIZE, room)
            elif qtype == _SRV and node_flags & Flag.SRV:
                ancount, arcount, body, cut = srv_set(node, key, name, room)
            elif qtype == _SOA and node_flags & Flag.APEX:
                ancount, body = 1, (zone.soa(len(name), self._serial(snapshot)),)
            elif node_flags & Flag.OTHER:
                ancount, arcount, body = _other(node, HEAD_SIZE + n_a * A_SIZE + n_aaaa * AAAA_SIZE, qtype)
        if not ancount:
            return self._negative(query, flags, asked, zone, Reason.NODATA, snapshot)
        reason = Reason.CUT if cut else Reason.ANSWER
        return self._reply(query, flags, asked, zone, reason, _COUNTS.pack(ancount, 0, arcount), body)

    def _negative(
        self, query: bytes, flags: int, asked: Question, zone: _ZoneTail, reason: Reason, snapshot: Snapshot
    ) -> bytes:
        soa = zone.soa(len(asked.name), self._serial(snapshot))
        return self._reply(query, flags, asked, zone, reason, _ONE_AUTHORITY, (soa,))

    @staticmethod
    def _serial(snapshot: Snapshot) -> bytes:
        return snapshot.meta(SERIAL) or bytes(4)

    def _rotated(self, node: Any, offset: int, count: int, size: int, room: int) -> tuple[int, Sequence[bytes], bool]:
        """An RRset of `count` records, beginning with another one each time; cut to `room` bytes."""
        if not count:
            return 0, (), False
        turn = self._turn = (self._turn + _GOLDEN) & _32_BITS
        end = offset + count * size
        at = offset + (turn * count >> 32) * size
        fit = room // size
        if count <= fit:
            return count, (node[at:end], node[offset:at]), False
        first = min(fit, (end - at) // size)
        return fit, (node[at : at + first * size], node[offset : offset + (fit - first) * size]), True

    def _reply(
        self,
        query: bytes,
        flags: int,
        asked: Question,
        zone: _ZoneTail | None,
        reason: Reason,
        counts: bytes = b"\0\0\0\0\0\0",
        body: Sequence[bytes] = (),
    ) -> bytes:
        """Id, flags, counts, question, records, and an OPT when the query had one (RFC 6891 6.1.1)."""
        rcode = RCODES[reason]
        self._count(0 if zone is None else zone.index + 1, asked.qtype, reason)
        authority = _QR_AA if zone is not None and rcode in (Rcode.NOERROR, Rcode.NXDOMAIN) else _QR
        head = (authority | flags & _RD_CD | rcode & 15).to_bytes(2, "big") + b"\0\1"
        if asked.edns is None:
            return b"".join((query[:2], head, counts, query[HEADER_SIZE : asked.end], *body))
        arcount = int.from_bytes(counts[4:], "big") + 1
        return b"".join(
            (
                query[:2],
                head,
                counts[:4],
                arcount.to_bytes(2, "big"),
                query[HEADER_SIZE : asked.end],
                *body,
                _opt(rcode, asked.edns),
            )
        )

    def _count(self, zone: int, qtype: int, reason: Reason) -> None:
        key = count_key(zone, qtype if qtype in COUNTED_TYPES else 0, reason)
        self.counts[key] = self.counts.get(key, 0) + 1


def _opt(rcode: Rcode, edns: Edns) -> bytes:
    """Our OPT: version 0, no options, DO copied (RFC 3225 section 3)."""
    return b"\0\0\x29" + struct.pack(">HBBHH", _UDP_SIZE, rcode >> 4, 0, 0x8000 if edns.do else 0, 0)


def labels_of(name: bytes) -> list[bytes]:
    """The labels of a wire-format name, with their length octets, without the root."""
    found = []
    at = 0
    while name[at]:
        after = at + 1 + name[at]
        found.append(name[at:after])
        at = after
    return found


def _find(name: bytes, zone: bytes, snapshot: Snapshot) -> tuple[Any, bytes] | None:
    """A node and the name it is stored under.

    Port and protocol may lack their underscores, as CoreDNS takes them
    (plugin/kubernetes/parse.go): five labels and more are looked up with them.
    """
    node = snapshot.get(name)
    if node is not None:
        return node, name
    relative = labels_of(name[: len(name) - len(zone)] + b"\0")
    if len(relative) != 5 or relative[4] != b"\x03svc":
        return None
    port, protocol = (_underscored(item) for item in relative[:2])
    key = b"".join((port, protocol, *relative[2:], zone))
    node = snapshot.get(key) if key != name and len(key) <= 255 else None
    return None if node is None else (node, key)


def _underscored(label: bytes) -> bytes:
    if label[1:2] == b"_" or len(label) > MAX_LABEL:
        return label
    return bytes((label[0] + 1,)) + b"_" + label[1:]


def _pod_from_name(name: bytes, zone: bytes, snapshot: Snapshot) -> bytes | None:
    """The address in a name like 10-44-0-7.NS.pod.Z, if the namespace's node allows it (`--pods insecure`)."""
    relative = labels_of(name[: len(name) - len(zone)] + b"\0")
    if len(relative) != 3 or relative[2] != b"\x03pod":
        return None
    namespace = snapshot.get(name[len(relative[0]) :])
    if namespace is None or not namespace[0] & Flag.PODS_FROM_NAME:
        return None
    return address_of_label(relative[0][1:])


def address_of_label(label: bytes) -> bytes | None:
    """A dashed address as 4 or 16 bytes: three single dashes make an IPv4 one (CoreDNS's findPods)."""
    try:
        text = label.decode("ascii")
        if text.count("-") == 3 and "--" not in text:
            return socket.inet_pton(socket.AF_INET, text.replace("-", "."))
        return socket.inet_pton(socket.AF_INET6, text.replace("-", ":"))
    except (OSError, ValueError):
        return None


def _other(node: Any, at: int, qtype: int) -> tuple[int, int, Sequence[bytes]]:
    """(ancount, arcount, bytes) of a type that is neither an address nor SRV."""
    count = node[at]
    at += 1
    for _ in range(count):
        rtype, ancount, arcount, size = OTHER.unpack_from(node, at)
        at += OTHER.size
        if rtype == qtype:
            return ancount, arcount, (node[at : at + size],)
        at += size
    return 0, 0, ()
