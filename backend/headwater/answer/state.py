"""The state that the short way and the long way share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from headwater.answer.counts import COUNTED_TYPES, Reason, count_key
from headwater.answer.unmade import Unmade
from headwater.answer.zones import Zones
from headwater.settings.settings import Settings
from headwater.store.choice import OF_A, OF_AAAA, choice_of, ranges
from headwater.store.node import A_SIZE, IS_LIMITED, limit_of

# Rotation: the fractional parts of multiples of the golden ratio fall evenly into
# any number of places, and so do every second, every third of them: two names
# asked in turn, or A and AAAA in turn, each see all their members equally often.
GOLDEN: Final = 0x9E3779B1
BITS_32: Final = 0xFFFFFFFF


class State:
    """The zones, and the state that changes with queries. Threads may share it."""

    __slots__ = ("counts", "far", "near", "ready_generation", "stale", "ttl", "turn", "unmade", "zones")

    def __init__(self, settings: Settings, unmade: Unmade | None = None) -> None:
        self.zones = Zones(settings)
        self.unmade = unmade
        """Makes the records that a store has not yet."""
        self.ttl = settings.ttl
        self.ready_generation = 0
        """The number of the store that is complete and answered from; 0 for none."""
        self.stale = 0
        """The extended error in the SERVFAIL of every name; 0: answer as usual."""
        self.turn = 0
        """Where the next set begins, as a fraction of 2**32; each rotated reply advances it."""
        self.near = 0
        """Replies with a set of the client's place; and, of names that have some, with all."""
        self.far = 0
        self.counts: dict[int, int] = {}
        """Queries by `counts.count_key`."""

    def next_turn(self) -> int:
        """Where the next set begins, as a fraction of 2**32."""
        turn = self.turn = (self.turn + GOLDEN) & BITS_32
        return turn

    def rotated(self, node: Any, offset: int, count: int, size: int, room: int) -> tuple[int, Sequence[bytes], bool]:
        """(ancount, bytes, cut) of an RRset of `count` records, from another one on each time.

        At most as many as fit into `room` bytes, and at most the node's limit.
        """
        if not count:
            return 0, (), False
        if node[0] & IS_LIMITED and not limit_of(node):
            return self._by_weight(node, offset, size, room)
        end = offset + count * size
        at = offset + (self.next_turn() * count >> 32) * size
        fit = wanted = min(count, limit_of(node)) if node[0] & IS_LIMITED else count
        if fit * size > room:
            fit = room // size
        if fit == count:
            return count, (node[at:end], node[offset:at]), False
        first = min(fit, (end - at) // size)
        return fit, (node[at : at + first * size], node[offset : offset + (fit - first) * size]), fit < wanted

    def _by_weight(self, node: Any, offset: int, size: int, room: int) -> tuple[int, Sequence[bytes], bool]:
        """The same of a set whose members have weights."""
        choice = choice_of(node, OF_A if size == A_SIZE else OF_AAAA)
        left = fit = min(choice.shown, room // size)
        parts: list[bytes] = []
        for start, stop in ranges(choice, self.next_turn()):
            stop = min(stop, start + left)
            left -= stop - start
            parts.append(node[offset + start * size : offset + stop * size])
        return fit, parts, fit < choice.shown

    def count(self, zone: int, qtype: int, reason: Reason) -> None:
        """Count a query; `zone` is 0 for none, else its index + 1."""
        key = count_key(zone, qtype if qtype in COUNTED_TYPES else 0, reason)
        self.counts[key] = self.counts.get(key, 0) + 1
