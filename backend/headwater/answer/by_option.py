"""Who asks, by an EDNS option in which CoreDNS puts the client's address (`--client-option`).

CoreDNS's `rewrite edns0 local set CODE {client_ip}` adds an option of 4 or 16 raw bytes. It
replaces the first one that a client has sent itself, so the first one counts here, and only with
the flag. Then the option is taken out, and the rest is answered as any other query.

CoreDNS makes an OPT for it when the client has sent none, with a UDP size of 4096 that the client
never named (plugin/rewrite/edns0.go), and then truncates nothing below that. An OPT that says 4096
and has nothing else in it therefore counts as none: a set of the client's place has as many members
as fit into 512 bytes. CoreDNS's `bufsize` before the rule lets clients name no such size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from headwater.answer.alias import Pending
from headwater.answer.short import Answer
from headwater.answer.whereabouts import Whereabouts
from headwater.store.environment import Snapshot
from headwater.wire import edns
from headwater.wire.header import ARCOUNT, HEADER_SIZE
from headwater.wire.question import Malformed, name_end
from headwater.wire.rdata import IPV4, IPV6

#: Clients whose ways are remembered.
_MAX_CLIENTS: Final = 16_384


class ByOption:
    """Answers each client by its place; those without the option as everybody."""

    __slots__ = ("_at", "_by_client", "_by_place", "_code", "_forms", "_otherwise", "_version", "_whereabouts")

    def __init__(self, code: int, otherwise: Answer, whereabouts: Whereabouts, at: Callable[..., Answer]) -> None:
        """`at` makes the way for a place (`Resolver.at`)."""
        self._code = code
        self._otherwise = otherwise
        self._whereabouts = whereabouts
        self._at = at
        self._version = whereabouts.version
        self._by_client: dict[bytes, Answer] = {}
        """By the address, and a byte before it for a small UDP size."""
        self._by_place: dict[tuple[str, str, bool], Answer] = {}
        # By the length of an OPT that has only this option: what stands before the address.
        self._forms = {
            edns.OPT_SIZE + len(head) + size: (size, (len(head) + size).to_bytes(2, "big") + head)
            for size in (IPV4, IPV6)
            for head in (edns.option_head(code, size),)
        }

    def answer(self, query: bytes, snapshot: Snapshot | None) -> bytes | Pending | None:
        """See `Resolver.answer`."""
        if len(query) <= HEADER_SIZE or query[ARCOUNT] != 1:
            return self._otherwise(query, snapshot)
        behind = query.find(0, HEADER_SIZE) + 5
        form = self._forms.get(len(query) - behind) if behind > 4 else None
        if form is not None:
            size, head = form
            at = len(query) - size
            fixed = query[behind : at - len(head)]
            if query[at - len(head) : at] == head and fixed[:3] == edns.BEGINNING:
                small = fixed == edns.MADE_BY_COREDNS
                return self._way(query[at:], small=small)(query[: at - len(head)] + b"\0\0", snapshot)
        taken = _taken_out(query, self._code)
        if taken is None:
            return self._otherwise(query, snapshot)
        rest, address = taken
        if len(address) not in (IPV4, IPV6):
            return self._otherwise(rest, snapshot)
        return self._way(address, small=False)(rest, snapshot)

    def _way(self, address: bytes, *, small: bool) -> Answer:
        if self._version != self._whereabouts.version:
            self._version = self._whereabouts.version
            self._by_client.clear()
            self._by_place.clear()
        key = b"s" + address if small else address
        way = self._by_client.get(key)
        if way is None:
            place = (*self._whereabouts.of(address), small)
            way = self._by_place.get(place)
            if way is None:
                zone, node, _ = place
                way = self._by_place[place] = self._at(zone, node, small=small)
            if len(self._by_client) >= _MAX_CLIENTS:
                self._by_client.clear()
            self._by_client[key] = way
        return way


def _taken_out(query: bytes, code: int) -> tuple[bytes, bytes] | None:
    try:
        behind = name_end(query, HEADER_SIZE) + 4
    except Malformed:
        return None
    return edns.taken_out(query, behind, code)
