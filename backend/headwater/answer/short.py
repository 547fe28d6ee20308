"""The short way: a plain query for addresses or SRV, its bytes to a reply's bytes, by one look-up.

Plain queries for a name that is stored, or surely is not, take it. Their nine header bytes after
the id have one of a few values; a dictionary knows these, and the reply's flags. The name ends at
the first zero byte. In lower case it is the key. A stored name is well-formed, so a key that is
found needs no parsing: the query is for exactly that name. The rest (the type, the class and at
most an OPT without options) has one of a few values too (`_Tails`). Stored bytes are final, so the
reply is a join of id, flags, counts, question and stored bytes.

docs/performance.md has its cost; `bench/resolver` measures it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from headwater.answer.alias import Pending
from headwater.answer.counts import Reason
from headwater.answer.find import may_be_known, whole
from headwater.answer.srv import SrvSets
from headwater.answer.state import BITS_32, GOLDEN, State
from headwater.store.environment import Snapshot
from headwater.store.node import A_SIZE, AAAA_SIZE, HAS_SRV, HEAD_SIZE, Flag
from headwater.wire import edns
from headwater.wire.header import (
    AA,
    AD,
    ARCOUNT,
    CD,
    COUNTS,
    HEADER_SIZE,
    MAX_MESSAGE,
    ONE_QUESTION,
    QR,
    RD,
    REPEATED,
)  # fmt: skip
from headwater.wire.names import MAX_LABEL, MAX_NAME
from headwater.wire.types import ADDRESSES, IN, SRV, A, Rcode

#: Either way: from a query and a snapshot to a reply, as `Resolver.answer`.
Answer: TypeAlias = Callable[[bytes, Snapshot | None], bytes | Pending | None]
#: The end of a plain query: its type, or 0 for the long way; its OPTs (0 or 1); our OPT.
_Tail: TypeAlias = tuple[int, int, bytes]
#: A plain query: the flags and question count of its reply, the offset behind its name, its end.
Plain: TypeAlias = tuple[bytes, int, _Tail]

#: Plain integers, because an enumeration's attribute costs a call.
_ANSWER: Final = int(Reason.ANSWER)
_CUT: Final = int(Reason.CUT)
_NODATA: Final = int(Reason.NODATA)
_NXDOMAIN: Final = int(Reason.NXDOMAIN)
#: Nodes with their addresses under another name take the long way.
_ELSEWHERE: Final = int(Flag.ALIAS | Flag.SHARED)
_LIMITED: Final = int(Flag.LIMITED)
_PLAIN_TYPES: Final = (*ADDRESSES, SRV)
#: Ends of plain queries that are remembered: types, and sizes that clients say they take over UDP.
_MAX_TAILS: Final = 1024

#: The header of a plain query (opcode 0, one question, no answer or authority) from its id to
#: the low byte of the additional count, and the flags and question count of its reply.
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
_section_counts: Final = COUNTS.pack
#: So many addresses of either family fit into every reply.
_FIT: Final = (MAX_MESSAGE - HEADER_SIZE - MAX_NAME - 4 - edns.OPT_SIZE) // AAAA_SIZE


class _Tails(dict[bytes, _Tail]):
    """Tails by their bytes."""

    def __missing__(self, tail: bytes) -> _Tail:
        if len(tail) not in (4, 4 + edns.OPT_SIZE):
            return _LONG_WAY
        if len(self) >= _MAX_TAILS:
            self.clear()
        found = self[tail] = _read_tail(tail)
        return found


def _read_tail(tail: bytes) -> _Tail:
    qtype = int.from_bytes(tail[:2], "big")
    if qtype not in _PLAIN_TYPES or int.from_bytes(tail[2:4], "big") != IN:
        return _LONG_WAY
    if len(tail) == 4:
        return qtype, 0, b""
    options = edns.plain(tail[4:])
    return _LONG_WAY if options is None else (qtype, 1, edns.opt(Rcode.NOERROR, do=options.do))


_TAILS: Final = _Tails()
_LONG_WAY: Final[_Tail] = (0, 0, b"")


class ShortWay:
    """Answers plain queries, and passes all others on."""

    __slots__ = ("_by_index", "_counts", "_otherwise", "_srv", "_state", "_zones")

    def __init__(self, state: State, otherwise: Answer, srv: SrvSets) -> None:
        self._state = state
        self._counts = state.counts
        self._by_index = state.zones.by_index
        self._zones = state.zones.longest_first
        self._otherwise = otherwise
        self._srv = srv

    def answer(self, query: bytes, snapshot: Snapshot | None) -> bytes | Pending | None:
        """See `Resolver.answer`."""
        if snapshot is not None and snapshot.generation == self._state.ready_generation:
            flags = _PLAIN.get(query[2:ARCOUNT])
            if flags is not None:
                end = query.find(0, HEADER_SIZE) + 1
                tail = _TAILS[query[end:]] if end else _LONG_WAY
                if tail[0] and tail[1] == query[ARCOUNT]:
                    name = query[HEADER_SIZE:end].lower()
                    node = snapshot.get(name)
                    if node is None:
                        reply = self._absent(query, (flags, end, tail), name, snapshot)
                    elif tail[0] == SRV:
                        reply = self._services(query, (flags, end, tail), whole(node, name, snapshot))
                    else:
                        reply = self._addresses(query, (flags, end, tail), node, snapshot)
                    if reply is not None:
                        return reply
        return self._otherwise(query, snapshot)

    def _addresses(self, query: bytes, plain: Plain, node: Any, snapshot: Snapshot) -> bytes | None:
        """The reply to a plain query for A or AAAA of a stored name; None for an alias."""
        flags, end, (qtype, more, opt) = plain
        if qtype == A:
            count, offset, size = (node[3] << 8) | node[4], HEAD_SIZE, A_SIZE
        else:
            count, size = (node[5] << 8) | node[6], AAAA_SIZE
            offset = HEAD_SIZE + A_SIZE * ((node[3] << 8) | node[4])
        reason = _ANSWER
        question = query[HEADER_SIZE : end + 4]
        if count == 1:
            reply = b"".join((query[:2], flags, _ONE_ANSWER[more], question, node[offset : offset + size], opt))
        elif 0 < count <= _FIT and not node[0] & _LIMITED:
            # As `State.rotated`: most sets are small and whole.
            state = self._state
            turn = state.turn = (state.turn + GOLDEN) & BITS_32
            at, after = offset + (turn * count >> 32) * size, offset + count * size
            counts = _section_counts(count, 0, more)
            reply = b"".join((query[:2], flags, counts, question, node[at:after], node[offset:at], opt))
        elif count:
            count, body, cut = self._state.rotated(node, offset, count, size, MAX_MESSAGE - len(query))
            reason = Reason.CUT if cut else _ANSWER
            reply = b"".join((query[:2], flags, _section_counts(count, 0, more), question, *body, opt))
        elif node[0] & _ELSEWHERE:
            return None
        else:
            reason = _NODATA
            soa = self._by_index[node[1]].soa(end - HEADER_SIZE, snapshot)
            reply = b"".join((query[:2], flags, _NEGATIVE[more], question, soa, opt))
        counted = self._counts
        key = (node[1] + 1) << 24 | qtype << 8 | reason
        try:
            counted[key] += 1
        except KeyError:
            counted[key] = 1
        return reply

    def _services(self, query: bytes, plain: Plain, node: Any) -> bytes | None:
        """The reply to a plain query for SRV of a stored name; None for the long way."""
        if not node[0] & HAS_SRV:
            return None
        flags, end, (_, more, opt) = plain
        name = query[HEADER_SIZE:end]
        turn, room = self._state.next_turn(), MAX_MESSAGE - len(query)
        ancount, arcount, body, cut = self._srv.get(node, name.lower(), name, room, turn)
        if not ancount:
            return None
        question = query[HEADER_SIZE : end + 4]
        reply = b"".join((query[:2], flags, _section_counts(ancount, 0, arcount + more), question, *body, opt))
        counted = self._counts
        key = (node[1] + 1) << 24 | SRV << 8 | (_CUT if cut else _ANSWER)
        counted[key] = counted.get(key, 0) + 1
        return reply

    def _absent(self, query: bytes, plain: Plain, name: bytes, snapshot: Snapshot) -> bytes | None:
        """NXDOMAIN for a plain query of a name that is not stored; None for the long way."""
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
        flags, end, (qtype, more, opt) = plain
        question = query[HEADER_SIZE : end + 4]
        soa = zone.soa(size, snapshot)
        reply = b"".join((query[:2], _NAMELESS[flags], _NEGATIVE[more], question, soa, opt))
        counted = self._counts
        key = (zone.index + 1) << 24 | qtype << 8 | _NXDOMAIN
        counted[key] = counted.get(key, 0) + 1
        return reply
