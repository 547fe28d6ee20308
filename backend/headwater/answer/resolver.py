"""The hot path: a query's bytes to a reply's bytes, by one look-up.

The short way is taken by a plain query for a name that is stored, or surely is not. Its nine
header bytes after the id are one of a few (a dictionary says which, and what
the reply's flags are); the name ends at the first zero byte; lower-cased, it is
the key. A stored name is well-formed, so a key that is found needs no parsing:
whoever asks with it asks for exactly that name. What follows, the type, the class
and at most an OPT without options, is one of a few again (`_Tails`). What is stored
is final, so the reply is a join of id, flags, counts, question and stored bytes.

Everything else takes the long way through `question.parse`.

What the short way costs is in docs/performance.md; `bench/resolver` measures it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final

from headwater.answer.alias import MAX_HOPS, Chain, Pending, other_records
from headwater.answer.counts import COUNTED_TYPES, RCODES, Reason, count_key
from headwater.answer.find import find, may_be_known, pod_from_name
from headwater.answer.reverse import ptr_targets
from headwater.answer.srv import SrvSets, srv_of_itself
from headwater.settings.settings import Settings
from headwater.store.environment import SERIAL, Reader, Snapshot
from headwater.store.node import A_SIZE, AAAA_SIZE, HEAD, HEAD_SIZE, Flag
from headwater.wire.names import MAX_LABEL, MAX_NAME, name
from headwater.wire.question import Malformed, Question, parse
from headwater.wire.types import HEADER_SIZE, Rcode

MAX_MESSAGE: Final = 65535
#: What we are ready to take over UDP (DNS flag day 2020).
_UDP_SIZE: Final = 1232
_OPT_SIZE: Final = 11
#: The option's code (RFC 8914 section 2).
_EDE: Final = 15

_A: Final = 1
_NS: Final = 2
_SOA: Final = 6
_PTR: Final = 12
_AAAA: Final = 28
_SRV: Final = 33
_IN: Final = 1
_ADDRESSES: Final = frozenset((_A, _AAAA))
#: The offset of the additional count's low byte.
_ARCOUNT: Final = 11
#: Plain integers: an attribute of an enumeration is a call.
_ANSWER: Final = int(Reason.ANSWER)
_NODATA: Final = int(Reason.NODATA)
_NXDOMAIN: Final = int(Reason.NXDOMAIN)
#: What has its addresses under another name takes the long way.
_ELSEWHERE: Final = int(Flag.ALIAS | Flag.SHARED)
_LIMITED: Final = int(Flag.LIMITED)
#: Ends of plain queries that are remembered: types, and sizes that clients say they take over UDP.
_MAX_TAILS: Final = 1024
_TRANSFERS: Final = frozenset((251, 252))

# Header bits, as the two bytes after the id.
_QR_AA: Final = 0x8400
_QR: Final = 0x8000
_RD_CD: Final = 0x0110

#: The header of a plain query (opcode 0, one question, no answer or authority) from its id to
#: the low byte of the additional count, and the flags and question count of its reply:
#: RD and CD are copied (RFC 1035 4.1.1, RFC 4035 3.2.2).
_PLAIN: Final[dict[bytes, bytes]] = {
    flags.to_bytes(2, "big") + b"\0\1\0\0\0\0\0": (_QR_AA | flags & _RD_CD).to_bytes(2, "big") + b"\0\1"
    for rd in (0, 0x0100)
    for ad in (0, 0x0020)
    for cd in (0, 0x0010)
    for flags in (rd | ad | cd,)
}

#: The same with NXDOMAIN for an rcode.
_NAMELESS: Final = {flags: bytes((flags[0], flags[1] | Rcode.NXDOMAIN)) + flags[2:] for flags in _PLAIN.values()}

_COUNTS: Final = struct.Struct(">HHH")
#: Counts of the last three sections, by how many additional records (none, or the OPT) there are.
_ONE_ANSWER: Final = (b"\0\1\0\0\0\0", b"\0\1\0\0\0\1")
_NEGATIVE: Final = (b"\0\0\0\1\0\0", b"\0\0\0\1\0\1")
_ONE_AUTHORITY: Final = _NEGATIVE[0]
_ADDRESS_HEAD: Final = struct.Struct(">HHIH")

# Rotation: the fractional parts of multiples of the golden ratio fall evenly into
# any number of places, and so do every second, every third of them: two names
# asked in turn, or A and AAAA in turn, each see all their members equally often.
_GOLDEN: Final = 0x9E3779B1
_32_BITS: Final = 0xFFFFFFFF


class _Tails(dict[bytes, tuple[int, bytes]]):
    """What stands behind a plain query's name: (A or AAAA, our OPT or b""); (0, b"") for what the long way is for."""

    def __missing__(self, tail: bytes) -> tuple[int, bytes]:
        if len(tail) not in (4, 4 + _OPT_SIZE):
            return 0, b""
        if len(self) >= _MAX_TAILS:
            self.clear()
        found = self[tail] = _read_tail(tail)
        return found


def _read_tail(tail: bytes) -> tuple[int, bytes]:
    qtype = int.from_bytes(tail[:2], "big")
    if qtype not in _ADDRESSES or tail[2:4] != b"\0\1":
        return 0, b""
    if len(tail) == 4:
        return qtype, b""
    # An OPT of the root, version 0, without options (RFC 6891 section 6.1.2).
    if tail[4:7] != b"\0\0\x29" or tail[10] or tail[13:] != b"\0\0":
        return 0, b""
    return qtype, _opt(Rcode.NOERROR, do=bool(tail[11] & 0x80))


class _ZoneTail:
    """A zone's name and its SOA record, but for where the name stands in a reply."""

    __slots__ = ("_made", "_rest", "_ttl", "clusters", "index", "reverse", "wire")

    def __init__(self, index: int, text: str, settings: Settings) -> None:
        self.index = index
        self.wire = name(text)
        self.clusters = text in settings.multicluster_zones
        self.reverse = text in settings.reverse_zones
        ttl, negative_ttl = settings.ttl, settings.negative_ttl
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

    def __init__(self, reader: Reader, settings: Settings) -> None:
        self._reader = reader
        tails = [_ZoneTail(index, zone, settings) for index, zone in enumerate(settings.served_zones())]
        self._by_index = tails
        # The longest match wins (a zone may be inside another).
        self._zones = sorted(tails, key=lambda zone: len(zone.wire), reverse=True)
        self._ready_generation = 0
        self.stale = 0
        """The extended error that every name is refused with; 0: none is."""
        self._turn = 0  # advanced once per reply of several
        self._ttl = settings.ttl
        self._srv = SrvSets()
        self.counts: dict[int, int] = {}

    def set_stale(self, ede: int) -> None:
        """Answer SERVFAIL with that extended error (RFC 8914), 0: answer as ever."""
        if ede:
            # The short way asks for nothing but this.
            self._ready_generation = 0
        self.stale = ede

    def answer(self, query: bytes, snapshot: Snapshot | None) -> bytes | Pending | None:
        """The reply to one query: at most 65,535 bytes, never truncated, never an exception.

        `snapshot` is from `Reader.begin` (None when there is no store); its
        buffers are not kept. `Pending` when records of another server belong
        into the reply; None when not even an id can be read.
        """
        if snapshot is not None and snapshot.generation == self._ready_generation:
            flags = _PLAIN.get(query[2:_ARCOUNT])
            if flags is not None:
                end = query.find(0, HEADER_SIZE) + 1
                qtype, opt = _TAILS[query[end:]] if end else _LONG_WAY
                if qtype and query[_ARCOUNT] == (1 if opt else 0):
                    name = query[HEADER_SIZE:end].lower()
                    node = snapshot.get(name)
                    if node is not None:
                        reply = self._addresses(query, flags, end, node, snapshot, qtype, opt)
                    else:
                        reply = self._absent(query, flags, name, snapshot, qtype, opt)
                    if reply is not None:
                        return reply
        return self._long_way(query, snapshot)

    def _addresses(
        self, query: bytes, flags: bytes, end: int, node: Any, snapshot: Snapshot, qtype: int, opt: bytes
    ) -> bytes | None:
        """The reply to a plain query for A or AAAA of a stored name; None for one that has another name."""
        if qtype == _A:
            count, offset, size = (node[3] << 8) | node[4], HEAD_SIZE, A_SIZE
        else:
            count, size = (node[5] << 8) | node[6], AAAA_SIZE
            offset = HEAD_SIZE + A_SIZE * ((node[3] << 8) | node[4])
        reason = _ANSWER
        more = 1 if opt else 0
        question = query[HEADER_SIZE : end + 4]
        if count == 1:
            reply = b"".join((query[:2], flags, _ONE_ANSWER[more], question, node[offset : offset + size], opt))
        elif count and count * size <= MAX_MESSAGE - len(query) and not node[0] & _LIMITED:
            # As `_rotated`: most sets are small and whole.
            turn = self._turn = (self._turn + _GOLDEN) & _32_BITS
            at, after = offset + (turn * count >> 32) * size, offset + count * size
            counts = _COUNTS.pack(count, 0, more)
            reply = b"".join((query[:2], flags, counts, question, node[at:after], node[offset:at], opt))
        elif count:
            count, body, cut = self._rotated(node, offset, count, size, MAX_MESSAGE - len(query))
            reason = Reason.CUT if cut else _ANSWER
            reply = b"".join((query[:2], flags, _COUNTS.pack(count, 0, more), question, *body, opt))
        elif node[0] & _ELSEWHERE:
            return None
        else:
            reason = _NODATA
            soa = self._by_index[node[1]].soa(end - HEADER_SIZE, self._serial(snapshot))
            reply = b"".join((query[:2], flags, _NEGATIVE[more], question, soa, opt))
        key = (node[1] + 1) << 24 | qtype << 8 | reason
        try:
            self.counts[key] += 1
        except KeyError:
            self.counts[key] = 1
        return reply

    def _absent(
        self, query: bytes, flags: bytes, name: bytes, snapshot: Snapshot, qtype: int, opt: bytes
    ) -> bytes | None:
        """NXDOMAIN to a plain query for A or AAAA of a name that is not stored; None when that takes a closer look."""
        size = len(name)
        if size > MAX_NAME:
            return None
        for zone in self._zones:
            if not name.endswith(zone.wire):
                continue
            labels = []
            at, goal = 0, size - len(zone.wire)
            while at < goal:
                length = name[at]
                if length > MAX_LABEL:
                    return None
                labels.append(at)
                at += 1 + length
            if at == goal:
                break
        else:
            return None
        if zone.reverse or may_be_known(name, labels, goal):
            return None
        end = HEADER_SIZE + size + 4
        soa = zone.soa(size, self._serial(snapshot))
        reply = b"".join((query[:2], _NAMELESS[flags], _NEGATIVE[1 if opt else 0], query[HEADER_SIZE:end], soa, opt))
        key = (zone.index + 1) << 24 | qtype << 8 | _NXDOMAIN
        self.counts[key] = self.counts.get(key, 0) + 1
        return reply

    def _long_way(self, query: bytes, snapshot: Snapshot | None) -> bytes | Pending | None:
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
        if self.stale:
            self._ready_generation = 0
            return self._reply(query, flags, asked, zone, Reason.STALE)
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

    def _from_store(
        self, query: bytes, flags: int, asked: Question, zone: _ZoneTail, snapshot: Snapshot
    ) -> bytes | Pending:
        name = asked.name.lower()
        qtype = asked.qtype
        found = find(name, zone.wire, snapshot, clusters=zone.clusters)
        if qtype == _PTR and zone.reverse and name == zone.wire and ptr_targets(name, snapshot):
            found = None  # a zone that is one address
        room = MAX_MESSAGE - asked.end - (_OPT_SIZE if asked.edns is not None else 0)
        ancount = arcount = 0
        body: Sequence[bytes] = ()
        cut = False
        if found is not None:
            node, key = found
            node_flags, _, _, n_a, n_aaaa = HEAD.unpack_from(node)
            if qtype in _ADDRESSES and node_flags & Flag.ALIAS:
                return self._alias(query, flags, asked, zone, snapshot, node, room)
            if qtype == _A:
                ancount, body, cut = self._rotated(node, HEAD_SIZE, n_a, A_SIZE, room)
            elif qtype == _AAAA:
                ancount, body, cut = self._rotated(node, HEAD_SIZE + n_a * A_SIZE, n_aaaa, AAAA_SIZE, room)
            elif qtype == _SRV and node_flags & Flag.SRV:
                ancount, arcount, body, cut = self._srv.get(node, key, name, room, self._next_turn())
            elif qtype == _SOA and node_flags & Flag.APEX:
                ancount, body = 1, (zone.soa(len(name), self._serial(snapshot)),)
            elif node_flags & Flag.OTHER:
                ancount, arcount, body = other_records(node, qtype)
        elif zone.reverse:
            targets = ptr_targets(name, snapshot)
            if targets is None:
                return self._negative(query, flags, asked, zone, Reason.NXDOMAIN, snapshot)
            if qtype == _PTR:
                ancount, body, cut = self._ptr(targets, room)
        else:
            pod = pod_from_name(name, zone.wire, snapshot)
            if pod is None:
                return self._negative(query, flags, asked, zone, Reason.NXDOMAIN, snapshot)
            address, own = pod
            if qtype == _SRV:
                ancount, arcount, body = srv_of_itself(name, own, address, self._ttl)
            elif len(address) == (4 if qtype == _A else 16 if qtype == _AAAA else -1):
                fixed = _ADDRESS_HEAD.pack(qtype, _IN, self._ttl, len(address))
                ancount, body = 1, (b"\xc0\x0c", fixed, address)
        if not ancount:
            return self._negative(query, flags, asked, zone, Reason.NODATA, snapshot)
        reason = Reason.CUT if cut else Reason.ANSWER
        return self._reply(query, flags, asked, zone, reason, _COUNTS.pack(ancount, 0, arcount), body)

    def _ptr(self, targets: Sequence[bytes], room: int) -> tuple[int, list[bytes], bool]:
        """(ancount, bytes, cut) of PTR records; `targets` lack the zone, which is the first of the settings."""
        primary = self._by_index[0].wire
        body: list[bytes] = []
        for target in targets:
            rdata = target[:-1] + primary
            room -= 12 + len(rdata)
            if room < 0:
                return len(body), body, True
            body.append(b"\xc0\x0c" + _ADDRESS_HEAD.pack(_PTR, _IN, self._ttl, len(rdata)) + rdata)
        return len(body), body, False

    def _alias(
        self, query: bytes, flags: int, asked: Question, zone: _ZoneTail, snapshot: Snapshot, node: Any, room: int
    ) -> bytes | Pending:
        """The reply for a name that has another name: the CNAMEs and the addresses they lead to."""
        chain = self._follow(asked.name.lower(), node, asked.qtype, zone, snapshot)
        soa = zone.soa(len(asked.name), self._serial(snapshot))

        def reply(more: Sequence[bytes]) -> bytes:
            records, left = [], room
            for record in (*chain.records, *more):
                left -= len(record)
                if left < 0:
                    break
                records.append(record)
            if not records:
                return self._reply(query, flags, asked, zone, Reason.NODATA, _ONE_AUTHORITY, (soa,))
            reason = Reason.CUT if left < 0 else Reason.ANSWER
            return self._reply(query, flags, asked, zone, reason, _COUNTS.pack(len(records), 0, 0), records)

        return reply(()) if chain.outside is None else Pending(chain.outside, asked.qtype, reply)

    def _follow(self, owner: bytes, node: Any, qtype: int, zone: _ZoneTail, snapshot: Snapshot) -> Chain:
        """Where an alias leads, in the served zones.

        As CoreDNS has it: a chain that comes to nothing inside the zone is
        nothing; once it has left the zone, what it went through stands.
        """
        chain = Chain()
        for _ in range(MAX_HOPS):
            if not chain.take(owner, node):
                return chain.settled()
            target = chain.target
            if not target.endswith(zone.wire) or self._zone_of(target) is not zone:
                chain.leave()
                outer = self._zone_of(target)
                if outer is None:
                    chain.outside = target
                    return chain
                zone = outer
            found = find(target, zone.wire, snapshot, clusters=zone.clusters) if target != zone.wire else None
            if found is None:
                pod = pod_from_name(target, zone.wire, snapshot)
                if pod is not None:
                    chain.arrive(qtype, [pod[0]], self._ttl)
                return chain.settled()
            node = found[0]
            node_flags, _, _, n_a, n_aaaa = HEAD.unpack_from(node)
            if not node_flags & Flag.ALIAS:
                at, count, size = (
                    (HEAD_SIZE, n_a, A_SIZE) if qtype == _A else (HEAD_SIZE + n_a * A_SIZE, n_aaaa, AAAA_SIZE)
                )
                _, body, _ = self._rotated(node, at, count, size, MAX_MESSAGE)
                chain.arrive_at(_cut_up(body, size))
                return chain.settled()
            owner = target
        return chain.settled()

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
        end = offset + count * size
        at = offset + (self._next_turn() * count >> 32) * size
        fit = wanted = min(count, (node[-2] << 8) | node[-1]) if node[0] & Flag.LIMITED else count
        if fit * size > room:
            fit = room // size
        if fit == count:
            return count, (node[at:end], node[offset:at]), False
        first = min(fit, (end - at) // size)
        return fit, (node[at : at + first * size], node[offset : offset + (fit - first) * size]), fit < wanted

    def _next_turn(self) -> int:
        """Where the next set begins, as a fraction of 2**32."""
        turn = self._turn = (self._turn + _GOLDEN) & _32_BITS
        return turn

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
                _opt(rcode, do=asked.edns.do, ede=self.stale if reason is Reason.STALE else 0),
            )
        )

    def _count(self, zone: int, qtype: int, reason: Reason) -> None:
        key = count_key(zone, qtype if qtype in COUNTED_TYPES else 0, reason)
        self.counts[key] = self.counts.get(key, 0) + 1


@cache
def _opt(rcode: Rcode, *, do: bool, ede: int = 0) -> bytes:
    """Our OPT: version 0, DO copied (RFC 3225 section 3), an extended error (RFC 8914) if there is one."""
    options = struct.pack(">HHH", _EDE, 2, ede) if ede else b""
    flags = 0x8000 if do else 0
    return b"\0\0\x29" + struct.pack(">HBBHH", _UDP_SIZE, rcode >> 4, 0, flags, len(options)) + options


_TAILS: Final = _Tails()
_LONG_WAY: Final = (0, b"")


def _cut_up(parts: Sequence[bytes], size: int) -> Iterator[bytes]:
    """The records of a rotated set, one by one."""
    for part in parts:
        for at in range(0, len(part), size):
            yield part[at : at + size]
