"""The long way: it reads any query byte by byte, and knows every type, name and option."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from headwater.answer.alias import MAX_HOPS, Chain, Pending
from headwater.answer.counts import RCODES, Reason
from headwater.answer.find import find, labels_of, pod_from_name
from headwater.answer.reverse import ptr_targets
from headwater.answer.sections import NOTHING, Found
from headwater.answer.srv import SrvSets, srv_of_itself
from headwater.answer.state import State
from headwater.answer.zones import Zone
from headwater.store.environment import Reader, Snapshot
from headwater.store.node import (
    A_SIZE,
    AAAA_SIZE,
    HAS_OTHER,
    HAS_SRV,
    HEAD,
    HEAD_SIZE,
    IS_ALIAS,
    Flag,
    Kind,
    other_of,
    patience_of,
)
from headwater.wire.edns import OPT_SIZE, opt
from headwater.wire.header import (
    AA,
    COUNTS,
    HEADER_SIZE,
    MAX_MESSAGE,
    NO_RECORDS,
    OPCODE,
    QR,
    RCODE,
    REPEATED,
    bare,
    flags_of,
    reply_head,
)  # fmt: skip
from headwater.wire.question import Malformed, Question
from headwater.wire.rdata import record, type_of_address
from headwater.wire.types import ADDRESSES, IN, PTR, SOA, SRV, TRANSFERS, A, Rcode

_ONE_AUTHORITY: Final = COUNTS.pack(0, 1, 0)
#: By reason. Plain integers, because to hash an enumeration's member, or to read its value, costs a
#: call.
_RCODES: Final = [int(RCODES[reason]) for reason in Reason]
_AWAITED: Final = int(Kind.AWAITED)
_APEX: Final = int(Flag.APEX)
#: The rcodes of answers from a zone.
_ANSWERED: Final = (int(Rcode.NOERROR), int(Rcode.NXDOMAIN))


class Query(Question):
    """A question on its way to a reply, handed on whole."""

    __slots__ = ("flags", "key", "most", "place", "zone")

    flags: int
    """Its header's."""
    key: bytes
    """Its name in lower case, as in the store."""
    zone: Zone | None
    """The served zone that it is in."""
    most: int
    """Bytes of its reply."""
    place: bytes
    """Whose set the reply has (`store.places`): nothing for everybody's."""

    def room(self) -> int:
        """Bytes that the reply has for records."""
        return self.most - self.end - (OPT_SIZE if self.edns is not None else 0)


class LongWay:
    """Answers the queries that the short way does not. Where both can, their replies are equal."""

    __slots__ = ("_reader", "_srv", "_state")

    def __init__(self, reader: Reader, state: State, srv: SrvSets) -> None:
        self._reader = reader
        self._state = state
        self._srv = srv

    def answer(self, message: bytes, snapshot: Snapshot | None) -> bytes | Pending | None:
        """See `Resolver.answer`."""
        flags = flags_of(message)
        if len(message) < HEADER_SIZE or flags & (QR | OPCODE):
            return self._no_query(message, flags)
        try:
            query = Query(message)
        except Malformed as malformed:
            return self._malformed(message, flags, malformed.end)
        state = self._state
        query.flags = flags
        query.most = MAX_MESSAGE
        query.place = b""
        query.key = key = query.name.lower()
        query.zone = zone = state.zones.of(key)
        refusal = _refusal(query)
        if refusal is not None:
            return self._reply(query, refusal)
        assert zone is not None
        if snapshot is not None and snapshot.generation != state.ready_generation:
            snapshot = self.complete(snapshot)
        if snapshot is None:
            return self._reply(query, Reason.NOT_READY)
        if state.stale:
            state.ready_generation = 0
            return self._reply(query, Reason.STALE)
        return self._from_store(query, zone, snapshot)

    # Replies that need no store

    def _no_query(self, message: bytes, flags: int) -> bytes | None:
        """The reply to a message that is no query of opcode 0; None when it has no id."""
        if len(message) < 2:
            return None
        if len(message) < HEADER_SIZE:
            return self._malformed(message, 0, 0)
        if flags & QR:
            return self._malformed(message, flags, 0)
        self._state.count(0, 0, Reason.OPCODE)
        return bare(message, flags & (OPCODE | REPEATED) | Rcode.NOTIMP)

    def _malformed(self, message: bytes, flags: int, end: int) -> bytes:
        """FORMERR, with the question if it could be read; the question ends at `end`."""
        self._state.count(0, 0, Reason.MALFORMED)
        flags = flags & (OPCODE | REPEATED) | Rcode.FORMERR
        if not end:
            return bare(message, flags)
        return reply_head(message, flags) + NO_RECORDS + message[HEADER_SIZE:end]

    def complete(self, snapshot: Snapshot) -> Snapshot | None:
        """The same moment with every record; None while the store has not every object.

        Read until all records are stored in every moment that a thread may have, and again for
        another store.
        """
        state = self._state
        if self._reader.is_ready(snapshot):
            if self._reader.is_whole(snapshot):
                state.ready_generation = snapshot.generation
            if state.unmade is not None:
                state.unmade.forget()
            return snapshot
        if state.unmade is not None and self._reader.is_being_made(snapshot):
            return state.unmade.view(snapshot)
        return None

    # Answers from the store

    def _from_store(self, query: Query, zone: Zone, snapshot: Snapshot) -> bytes | Pending:
        name, qtype = query.key, query.qtype
        found = find(name, zone.wire, snapshot, clusters=zone.clusters)
        if qtype == PTR and zone.reverse and name == zone.wire and ptr_targets(name, snapshot):
            found = None  # a zone that is one address
        sections: Found | None
        if found is not None:
            node, key = found
            if node[2] == _AWAITED:
                return self._awaited(query, zone, snapshot, node)
            if qtype in ADDRESSES and node[0] & IS_ALIAS:
                return self._alias(query, zone, snapshot, node)
            sections = self._of_node(query, zone, snapshot, node, key)
        elif zone.reverse:
            sections = self._of_address(query, snapshot)
        else:
            sections = self._of_pod(query, zone, snapshot)
        if sections is None:
            return self._negative(query, zone, Reason.NXDOMAIN, snapshot)
        ancount, arcount, body, cut = sections
        if not ancount:
            return self._negative(query, zone, Reason.NODATA, snapshot)
        return self._reply(query, Reason.CUT if cut else Reason.ANSWER, COUNTS.pack(ancount, 0, arcount), body)

    def _of_node(self, query: Query, zone: Zone, snapshot: Snapshot, node: Any, key: bytes) -> Found:
        """The records of a stored name and a type; `key` is the name that it is stored under."""
        qtype, flags = query.qtype, node[0]
        if qtype in ADDRESSES:
            ancount, body, cut = self._addresses(node, qtype, query.room())
            return ancount, 0, body, cut
        if qtype == SRV and flags & HAS_SRV:
            return self._srv.get(node, key, query.name, query.room(), self._state.next_turn(), query.place)
        if qtype == SOA and flags & _APEX:
            return 1, 0, (zone.soa(len(query.name), snapshot),), False
        return (*other_of(node, qtype), False) if flags & HAS_OTHER else NOTHING

    def _addresses(self, node: Any, qtype: int, room: int) -> tuple[int, Sequence[bytes], bool]:
        """(ancount, bytes, cut) of a node's A or AAAA records."""
        _, _, _, n_a, n_aaaa = HEAD.unpack_from(node)
        if qtype == A:
            return self._state.rotated(node, HEAD_SIZE, n_a, A_SIZE, room)
        return self._state.rotated(node, HEAD_SIZE + n_a * A_SIZE, n_aaaa, AAAA_SIZE, room)

    def _of_address(self, query: Query, snapshot: Snapshot) -> Found | None:
        """The records of a reverse name and a type; None when there is no such name."""
        targets = ptr_targets(query.key, snapshot)
        if targets is None:
            return None
        return self._ptr(targets, query.room()) if query.qtype == PTR else NOTHING

    def _ptr(self, targets: Sequence[bytes], room: int) -> Found:
        """PTR records; `targets` lack the zone, which is the first of the settings."""
        primary = self._state.zones.by_index[0].wire
        body: list[bytes] = []
        for target in targets:
            found = record(PTR, self._state.ttl, target[:-1] + primary)
            room -= len(found)
            if room < 0:
                return len(body), 0, body, True
            body.append(found)
        return len(body), 0, body, False

    def _of_pod(self, query: Query, zone: Zone, snapshot: Snapshot) -> Found | None:
        """The records of a pod's name that is not stored; None when it is no pod's name."""
        pod = pod_from_name(query.key, zone.wire, snapshot)
        if pod is None:
            return None
        address, own = pod
        if query.qtype == SRV:
            return srv_of_itself(query.name, query.name[-len(own) :], address, self._state.ttl)
        if query.qtype == type_of_address(address):
            return 1, 0, (record(query.qtype, self._state.ttl, address),), False
        return NOTHING

    def _awaited(self, query: Query, zone: Zone, snapshot: Snapshot, node: Any) -> bytes | Pending:
        """NXDOMAIN, for which a question for addresses or SRV may wait."""
        if query.qtype not in ADDRESSES and query.qtype != SRV:
            return self._negative(query, zone, Reason.NXDOMAIN, snapshot)
        soa = zone.soa(len(query.name), snapshot)
        tenant = b"".join(labels_of(query.key, zone.wire)[-2:-1])

        def reply(_: Sequence[bytes]) -> bytes:
            return self._reply(query, Reason.NXDOMAIN, _ONE_AUTHORITY, (soa,))

        return Pending(query.key, query.qtype, reply, tenant, patience_of(node))

    # CNAMEs

    def _alias(self, query: Query, zone: Zone, snapshot: Snapshot, node: Any) -> bytes | Pending:
        """The reply for an alias: the CNAMEs and the addresses at their end."""
        chain = self._follow(query, zone, snapshot, node)
        soa = zone.soa(len(query.name), snapshot)

        def reply(more: Sequence[bytes]) -> bytes:
            records, left = [], query.room()
            for item in (*chain.records, *more):
                left -= len(item)
                if left < 0:
                    break
                records.append(item)
            if not records:
                return self._reply(query, Reason.NODATA, _ONE_AUTHORITY, (soa,))
            reason = Reason.CUT if left < 0 else Reason.ANSWER
            return self._reply(query, reason, COUNTS.pack(len(records), 0, 0), records)

        return reply(()) if chain.outside is None else Pending(chain.outside, query.qtype, reply, chain.tenant)

    def _follow(self, query: Query, zone: Zone, snapshot: Snapshot, node: Any) -> Chain:
        """Follow an alias through the served zones.

        As in CoreDNS: a chain that leads to no address inside the zone is dropped. When it has left
        the zone, its CNAMEs stay.
        """
        owner, qtype = query.key, query.qtype
        zone_of = self._state.zones.of
        chain = Chain()
        for _ in range(MAX_HOPS):
            if not chain.take(owner, node):
                return chain.settled()
            target = chain.target
            if not target.endswith(zone.wire) or zone_of(target) is not zone:
                chain.leave()
                outer = zone_of(target)
                if outer is None:
                    chain.outside = target
                    chain.tenant = b"".join(labels_of(owner, zone.wire)[-2:-1])
                    return chain
                zone = outer
            found = find(target, zone.wire, snapshot, clusters=zone.clusters) if target != zone.wire else None
            if found is None or found[0][2] == _AWAITED:
                pod = pod_from_name(target, zone.wire, snapshot)
                if pod is not None:
                    chain.arrive(qtype, [pod[0]], self._state.ttl)
                return chain.settled()
            node = found[0]
            if not node[0] & IS_ALIAS:
                _, body, _ = self._addresses(node, qtype, MAX_MESSAGE)
                chain.arrive_at(_cut_up(body, A_SIZE if qtype == A else AAAA_SIZE))
                return chain.settled()
            owner = target
        return chain.settled()

    # Replies

    def _negative(self, query: Query, zone: Zone, reason: Reason, snapshot: Snapshot) -> bytes:
        return self._reply(query, reason, _ONE_AUTHORITY, (zone.soa(len(query.name), snapshot),))

    def _reply(self, query: Query, reason: Reason, counts: bytes = NO_RECORDS, body: Sequence[bytes] = ()) -> bytes:
        """Id, flags, counts, question, records, and an OPT if the query had one (RFC 6891)."""
        rcode, zone = _RCODES[reason], query.zone
        self._state.count(0 if zone is None else zone.index + 1, query.qtype, reason)
        authority = AA if zone is not None and rcode in _ANSWERED else 0
        head = reply_head(query.message, authority | query.flags & REPEATED | rcode & RCODE)
        question = query.message[HEADER_SIZE : query.end]
        if query.edns is None:
            return b"".join((head, counts, question, *body))
        ancount, nscount, arcount = COUNTS.unpack(counts)
        ours = opt(rcode, do=query.edns.do, ede=self._state.stale if reason is Reason.STALE else 0)
        return b"".join((head, COUNTS.pack(ancount, nscount, arcount + 1), question, *body, ours))


def _refusal(query: Query) -> Reason | None:
    """The reason why a query is not answered from the store, whatever is stored."""
    if query.edns is not None and query.edns.version:
        return Reason.EDNS_VERSION
    if query.qclass != IN:
        return Reason.CLASS
    if query.zone is None:
        return Reason.OUT_OF_ZONE
    if query.qtype in TRANSFERS:
        return Reason.TRANSFER
    return None


def _cut_up(parts: Sequence[bytes], size: int) -> Iterator[bytes]:
    """The records of a rotated set, one by one."""
    for part in parts:
        for at in range(0, len(part), size):
            yield part[at : at + size]
