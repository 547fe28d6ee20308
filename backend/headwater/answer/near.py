"""Answers by the client's place: the set of a name that is made for its node, or its zone.

`records.near` has made these sets, and `store.places` says where they are. Here one is chosen. A
client's place is known by the socket at which it asks, or by an EDNS option that CoreDNS adds
(`by_option`). The two ways to a reply stay as they are: these are the same ones, which look again
where a name has sets for some places. Who is in no such place gets the bytes that all others get.
"""

from __future__ import annotations

from typing import Any, Final

from headwater.answer.extended import Say
from headwater.answer.long import LongWay, Query
from headwater.answer.sections import Found
from headwater.answer.short import Answer, Plain, ShortWay
from headwater.answer.srv import SrvSets
from headwater.answer.state import State
from headwater.answer.zones import Zone
from headwater.store import places
from headwater.store.environment import Snapshot
from headwater.store.node import A_SIZE, AAAA_SIZE, IS_NEAR, IS_SHARED, base_of_shared, unshared
from headwater.wire.edns import MIN_UDP_SIZE
from headwater.wire.header import HEADER_SIZE
from headwater.wire.question import Question
from headwater.wire.types import AAAA, SRV, A

#: The types of records that depend on the place.
_BY_PLACE: Final = (A, AAAA, SRV)
#: The flags of a node that is the set itself.
_SET: Final = IS_NEAR | IS_SHARED


class Place:
    """Where a client is, as far as that is known."""

    __slots__ = ("_state", "_suffixes")

    def __init__(self, state: State, zone: str = "", node: str = "") -> None:
        """Empty texts: not known."""
        self._state = state
        found: list[bytes] = []
        if node and places.is_place(node):
            found.append(places.of_node(node))
        if zone and places.is_place(zone):
            found += places.of_zone(zone), places.ELSEWHERE
        self._suffixes = tuple(found)

    def chosen(self, name: bytes, node: Any, snapshot: Snapshot) -> tuple[Any, bytes]:
        """The node for the client, of a name whose node is NEAR, and what it is stored under behind
        the name: nothing for the node that all others get.
        """
        get = snapshot.get
        for suffix in self._suffixes:
            found = get(name + suffix)
            if found is not None:
                self._state.near += 1
                return found, suffix
        self._state.far += 1
        return node, b""


class NearShort(ShortWay):
    """The short way for clients in one place."""

    __slots__ = ("_most", "_place")

    def __init__(self, state: State, otherwise: Answer, srv: SrvSets, place: Place, most: int) -> None:
        """`most` bytes of a reply from a set of the place; 0: as many as a message has."""
        super().__init__(state, otherwise, srv)
        self._place = place
        self._most = most

    def _services(self, query: bytes, plain: Plain, node: Any) -> bytes | None:
        return None if node[0] & IS_NEAR else ShortWay._services(self, query, plain, node)

    def _addresses(self, query: bytes, plain: Plain, node: Any, snapshot: Snapshot) -> bytes | None:
        # A set under other ports takes the long way.
        if node[0] & _SET == IS_NEAR:
            if self._most:
                size = (node[3] << 8 | node[4]) * A_SIZE + (node[5] << 8 | node[6]) * AAAA_SIZE
                if size > self._most - len(query):
                    return None
            node, _ = self._place.chosen(query[HEADER_SIZE : plain[1]].lower(), node, snapshot)
        return ShortWay._addresses(self, query, plain, node, snapshot)


class NearLong(LongWay):
    """The long way for clients in one place."""

    __slots__ = ("_most", "_place")

    def __init__(self, shared: LongWay, place: Place, most: int) -> None:
        """`shared`: the long way of everybody else, whose written sets it uses too."""
        self._reader = shared._reader
        self._state = shared._state
        self._srv = shared._srv
        self._place = place
        self._most = most

    def _of_node(self, query: Query, zone: Zone, snapshot: Snapshot, node: Any, key: bytes) -> Found:
        if not node[0] & IS_NEAR or query.qtype not in _BY_PLACE or _is_below(query.key, key):
            return super()._of_node(query, zone, snapshot, node, key)
        node, suffix = self._place.chosen(key, node, snapshot)
        if node[0] & IS_SHARED and suffix:
            own = snapshot.get(key[len(key) - base_of_shared(node) :] + suffix)
            if own is not None:
                node = unshared(node, own)
        query.place = suffix
        if suffix and self._most:
            query.most = self._most
            ancount, arcount, body, _ = super()._of_node(query, zone, snapshot, node, key)
            return ancount, arcount, body, False
        return super()._of_node(query, zone, snapshot, node, key)


def _is_below(name: bytes, key: bytes) -> bool:
    """Whether a name is answered by the node of one above it, as those of `--zonal` are."""
    return len(name) > len(key) and name.endswith(key)


def of_a_place(say: Say) -> Say:
    """What tells reasons, for clients in a place: a zone that is kept to has its own."""

    def said(question: Question, exists: bool, snapshot: Snapshot) -> str:
        node = snapshot.get(question.name.lower()) if exists and question.qtype in _BY_PLACE else None
        if node is not None and node[0] & IS_NEAR and _has(node, question.qtype):
            return "the Service keeps to the client's topology zone, which has no endpoint that is ready"
        return say(question, exists, snapshot)

    return said


def _has(node: Any, qtype: int) -> bool:
    """Whether a node has, or shares, records of a type."""
    if node[0] & IS_SHARED or qtype == SRV:
        return True
    return bool(node[3] | node[4] if qtype == A else node[5] | node[6])


class Ways:
    """Makes the ways for places; all of them share the counters and the written sets."""

    def __init__(self, state: State, long_way: LongWay, srv: SrvSets) -> None:
        self._state = state
        self._long_way = long_way
        self._srv = srv

    def of(self, zone: str, node: str = "", *, small: bool = False) -> Answer:
        """The way for clients in a place.

        `small`: whose UDP size is the least there is, so that a set of their place has as many
        members as fit into it, other ones each time.
        """
        place, most = Place(self._state, zone, node), MIN_UDP_SIZE if small else 0
        return NearShort(self._state, NearLong(self._long_way, place, most).answer, self._srv, place, most).answer
