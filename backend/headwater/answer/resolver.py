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

from collections.abc import Iterator, Sequence
from typing import Any, Final

from headwater.answer.alias import MAX_HOPS, Chain, Pending
from headwater.answer.counts import COUNTED_TYPES, RCODES, Reason, count_key
from headwater.answer.find import find, may_be_known, pod_from_name
from headwater.answer.reverse import ptr_targets
from headwater.answer.srv import SrvSets, srv_of_itself
from headwater.settings.settings import Settings
from headwater.store.environment import SERIAL, Reader, Snapshot
from headwater.store.node import A_SIZE, AAAA_SIZE, HEAD, HEAD_SIZE, Flag, limit_of, other_of
from headwater.wire import edns
from headwater.wire.edns import OPT_SIZE, opt
from headwater.wire.header import (
    AA,
    AD,
    ARCOUNT,
    CD,
    COUNTS,
    HEADER_SIZE,
    MAX_MESSAGE,
    NO_RECORDS,
    ONE_QUESTION,
    OPCODE,
    QR,
    RCODE,
    RD,
    REPEATED,
    bare,
    flags_of,
    reply_head,
)  # fmt: skip
from headwater.wire.names import HOSTMASTER, MAX_LABEL, MAX_NAME, NS_DNS, name
from headwater.wire.question import Malformed, Question, parse
from headwater.wire.rdata import SERIAL_SIZE, pointer, record, soa_head, soa_timers, type_of_address
from headwater.wire.types import AAAA, ADDRESSES, IN, PTR, SOA, SRV, TRANSFERS, A, Rcode

#: Plain integers: an attribute of an enumeration is a call.
_ANSWER: Final = int(Reason.ANSWER)
_NODATA: Final = int(Reason.NODATA)
_NXDOMAIN: Final = int(Reason.NXDOMAIN)
_ALIAS: Final = int(Flag.ALIAS)
_LIMITED: Final = int(Flag.LIMITED)
#: Ends of plain queries that are remembered: types, and sizes that clients say they take over UDP.
_MAX_TAILS: Final = 1024

#: The header of a plain query (opcode 0, one question, no answer or authority) from its id to
#: the low byte of the additional count, and the flags and question count of its reply:
#: RD and CD are copied (RFC 1035 4.1.1, RFC 4035 3.2.2).
_PLAIN: Final[dict[bytes, bytes]] = {
    flags.to_bytes(2, "big") + ONE_QUESTION + bytes(5): (QR | AA | flags & REPEATED).to_bytes(2, "big") + ONE_QUESTION
    for rd in (0, RD)
    for ad in (0, AD)
    for cd in (0, CD)
    for flags in (rd | ad | cd,)
}

#: The same with NXDOMAIN for an rcode.
_NAMELESS: Final = {flags: bytes((flags[0], flags[1] | Rcode.NXDOMAIN)) + flags[2:] for flags in _PLAIN.values()}

#: Counts of the last three sections, by how many additional records (none, or the OPT) there are.
_ONE_ANSWER: Final = (COUNTS.pack(1, 0, 0), COUNTS.pack(1, 0, 1))
_NEGATIVE: Final = (COUNTS.pack(0, 1, 0), COUNTS.pack(0, 1, 1))
_ONE_AUTHORITY: Final = _NEGATIVE[0]

# Rotation: the fractional parts of multiples of the golden ratio fall evenly into
# any number of places, and so do every second, every third of them: two names
# asked in turn, or A and AAAA in turn, each see all their members equally often.
_GOLDEN: Final = 0x9E3779B1
_32_BITS: Final = 0xFFFFFFFF


class _Tails(dict[bytes, tuple[int, bytes]]):
    """What stands behind a plain query's name: (A or AAAA, our OPT or b""); (0, b"") for what the long way is for."""

    def __missing__(self, tail: bytes) -> tuple[int, bytes]:
        if len(tail) not in (4, 4 + OPT_SIZE):
            return 0, b""
        if len(self) >= _MAX_TAILS:
            self.clear()
        found = self[tail] = _read_tail(tail)
        return found


def _read_tail(tail: bytes) -> tuple[int, bytes]:
    qtype = int.from_bytes(tail[:2], "big")
    if qtype not in ADDRESSES or int.from_bytes(tail[2:4], "big") != IN:
        return 0, b""
    if len(tail) == 4:
        return qtype, b""
    options = edns.plain(tail[4:])
    return (0, b"") if options is None else (qtype, opt(Rcode.NOERROR, do=options.do))


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
        self._rest = soa_timers(negative_ttl)

    def soa(self, qname_size: int, serial: bytes) -> bytes:
        """The record, its names pointers into a question whose name has that size."""
        at = qname_size - len(self.wire)
        head = self._made.get(at)
        if head is None:
            apex = pointer(at)
            head = self._made[at] = soa_head(apex, NS_DNS + apex + HOSTMASTER + apex, self._ttl)
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
            flags = _PLAIN.get(query[2:ARCOUNT])
            if flags is not None:
                end = query.find(0, HEADER_SIZE) + 1
                qtype, opt = _TAILS[query[end:]] if end else _LONG_WAY
                if qtype and query[ARCOUNT] == (1 if opt else 0):
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
        if qtype == A:
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
            counts = COUNTS.pack(count, 0, more)
            reply = b"".join((query[:2], flags, counts, question, node[at:after], node[offset:at], opt))
        elif count:
            count, body, cut = self._rotated(node, offset, count, size, MAX_MESSAGE - len(query))
            reason = Reason.CUT if cut else _ANSWER
            reply = b"".join((query[:2], flags, COUNTS.pack(count, 0, more), question, *body, opt))
        elif node[0] & _ALIAS:
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
            return bare(query, Rcode.FORMERR)
        flags = flags_of(query)
        opcode = flags & OPCODE
        if opcode and not flags & QR:
            self._count(0, 0, Reason.OPCODE)
            return bare(query, opcode | flags & REPEATED | Rcode.NOTIMP)
        try:
            if flags & QR:
                raise Malformed
            asked = parse(query)
        except Malformed as malformed:
            self._count(0, 0, Reason.MALFORMED)
            flags = opcode | flags & REPEATED | Rcode.FORMERR
            if not malformed.end:
                return bare(query, flags)
            return reply_head(query, flags) + NO_RECORDS + query[HEADER_SIZE : malformed.end]
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
        if asked.qclass != IN:
            return Reason.CLASS
        if zone is None:
            return Reason.OUT_OF_ZONE
        if asked.qtype in TRANSFERS:
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
        if qtype == PTR and zone.reverse and name == zone.wire and ptr_targets(name, snapshot):
            found = None  # a zone that is one address
        room = MAX_MESSAGE - asked.end - (OPT_SIZE if asked.edns is not None else 0)
        ancount = arcount = 0
        body: Sequence[bytes] = ()
        cut = False
        if found is not None:
            node, key = found
            node_flags, _, _, n_a, n_aaaa = HEAD.unpack_from(node)
            if qtype in ADDRESSES and node_flags & Flag.ALIAS:
                return self._alias(query, flags, asked, zone, snapshot, node, room)
            if qtype == A:
                ancount, body, cut = self._rotated(node, HEAD_SIZE, n_a, A_SIZE, room)
            elif qtype == AAAA:
                ancount, body, cut = self._rotated(node, HEAD_SIZE + n_a * A_SIZE, n_aaaa, AAAA_SIZE, room)
            elif qtype == SRV and node_flags & Flag.SRV:
                ancount, arcount, body, cut = self._srv.get(node, key, asked.name, room, self._next_turn())
            elif qtype == SOA and node_flags & Flag.APEX:
                ancount, body = 1, (zone.soa(len(name), self._serial(snapshot)),)
            elif node_flags & Flag.OTHER:
                ancount, arcount, body = other_of(node, qtype)
        elif zone.reverse:
            targets = ptr_targets(name, snapshot)
            if targets is None:
                return self._negative(query, flags, asked, zone, Reason.NXDOMAIN, snapshot)
            if qtype == PTR:
                ancount, body, cut = self._ptr(targets, room)
        else:
            pod = pod_from_name(name, zone.wire, snapshot)
            if pod is None:
                return self._negative(query, flags, asked, zone, Reason.NXDOMAIN, snapshot)
            address, own = pod
            if qtype == SRV:
                ancount, arcount, body, cut = srv_of_itself(asked.name, asked.name[-len(own) :], address, self._ttl)
            elif qtype == type_of_address(address):
                ancount, body = 1, (record(qtype, self._ttl, address),)
        if not ancount:
            return self._negative(query, flags, asked, zone, Reason.NODATA, snapshot)
        reason = Reason.CUT if cut else Reason.ANSWER
        return self._reply(query, flags, asked, zone, reason, COUNTS.pack(ancount, 0, arcount), body)

    def _ptr(self, targets: Sequence[bytes], room: int) -> tuple[int, list[bytes], bool]:
        """(ancount, bytes, cut) of PTR records; `targets` lack the zone, which is the first of the settings."""
        primary = self._by_index[0].wire
        body: list[bytes] = []
        for target in targets:
            found = record(PTR, self._ttl, target[:-1] + primary)
            room -= len(found)
            if room < 0:
                return len(body), body, True
            body.append(found)
        return len(body), body, False

    def _alias(
        self, query: bytes, flags: int, asked: Question, zone: _ZoneTail, snapshot: Snapshot, node: Any, room: int
    ) -> bytes | Pending:
        """The reply for a name that has another name: the CNAMEs and the addresses they lead to."""
        chain = self._follow(asked.name.lower(), node, asked.qtype, zone, snapshot)
        soa = zone.soa(len(asked.name), self._serial(snapshot))

        def reply(more: Sequence[bytes]) -> bytes:
            records, left = [], room
            for item in (*chain.records, *more):
                left -= len(item)
                if left < 0:
                    break
                records.append(item)
            if not records:
                return self._reply(query, flags, asked, zone, Reason.NODATA, _ONE_AUTHORITY, (soa,))
            reason = Reason.CUT if left < 0 else Reason.ANSWER
            return self._reply(query, flags, asked, zone, reason, COUNTS.pack(len(records), 0, 0), records)

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
                    (HEAD_SIZE, n_a, A_SIZE) if qtype == A else (HEAD_SIZE + n_a * A_SIZE, n_aaaa, AAAA_SIZE)
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
        return snapshot.meta(SERIAL) or bytes(SERIAL_SIZE)

    def _rotated(self, node: Any, offset: int, count: int, size: int, room: int) -> tuple[int, Sequence[bytes], bool]:
        """An RRset of `count` records, beginning with another one each time; cut to `room` bytes."""
        if not count:
            return 0, (), False
        end = offset + count * size
        at = offset + (self._next_turn() * count >> 32) * size
        fit = wanted = min(count, limit_of(node)) if node[0] & Flag.LIMITED else count
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
        counts: bytes = NO_RECORDS,
        body: Sequence[bytes] = (),
    ) -> bytes:
        """Id, flags, counts, question, records, and an OPT when the query had one (RFC 6891 6.1.1)."""
        rcode = RCODES[reason]
        self._count(0 if zone is None else zone.index + 1, asked.qtype, reason)
        authority = AA if zone is not None and rcode in (Rcode.NOERROR, Rcode.NXDOMAIN) else 0
        head = reply_head(query, authority | flags & REPEATED | rcode & RCODE)
        question = query[HEADER_SIZE : asked.end]
        if asked.edns is None:
            return b"".join((head, counts, question, *body))
        ancount, nscount, arcount = COUNTS.unpack(counts)
        ours = opt(rcode, do=asked.edns.do, ede=self.stale if reason is Reason.STALE else 0)
        return b"".join((head, COUNTS.pack(ancount, nscount, arcount + 1), question, *body, ours))

    def _count(self, zone: int, qtype: int, reason: Reason) -> None:
        key = count_key(zone, qtype if qtype in COUNTED_TYPES else 0, reason)
        self.counts[key] = self.counts.get(key, 0) + 1


_TAILS: Final = _Tails()
_LONG_WAY: Final = (0, b"")


def _cut_up(parts: Sequence[bytes], size: int) -> Iterator[bytes]:
    """The records of a rotated set, one by one."""
    for part in parts:
        for at in range(0, len(part), size):
            yield part[at : at + size]
