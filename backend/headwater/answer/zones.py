"""The served zones: the zone of a name, and its SOA record."""

from __future__ import annotations

from typing import Final

from headwater.settings.settings import Settings
from headwater.store.environment import SERIAL, Snapshot
from headwater.wire.names import HOSTMASTER, NS_DNS, name
from headwater.wire.rdata import SERIAL_SIZE, pointer, soa_head, soa_timers


class Zone:
    """A zone's name and its SOA record, without the name's offset in a reply."""

    __slots__ = ("_made", "_rest", "_ttl", "clusters", "index", "reverse", "wire")

    def __init__(self, index: int, text: str, settings: Settings) -> None:
        self.index = index
        self.wire = name(text)
        self.clusters = text in settings.multicluster_zones
        self.reverse = text in settings.reverse_zones
        self._made: dict[int, bytes] = {}
        # RFC 2308 section 5: a negative answer lives as long as the smaller of the two.
        self._ttl = min(settings.ttl, settings.negative_ttl)
        self._rest = soa_timers(settings.negative_ttl)

    def soa(self, qname_size: int, snapshot: Snapshot) -> bytes:
        """The record, its names pointers into a question whose name has that size."""
        at = qname_size - len(self.wire)
        head = self._made.get(at)
        if head is None:
            apex = pointer(at)
            head = self._made[at] = soa_head(apex, NS_DNS + apex + HOSTMASTER + apex, self._ttl)
        return head + (snapshot.meta(SERIAL) or _NO_SERIAL) + self._rest


_NO_SERIAL: Final = bytes(SERIAL_SIZE)


class Zones:
    """All served zones, in the order of the settings: nodes have their numbers."""

    __slots__ = ("by_index", "longest_first")

    def __init__(self, settings: Settings) -> None:
        self.by_index = [Zone(index, text, settings) for index, text in enumerate(settings.served_zones())]
        # The longest match wins (a zone may be inside another).
        self.longest_first = sorted(self.by_index, key=lambda zone: len(zone.wire), reverse=True)

    def of(self, name: bytes) -> Zone | None:
        """The zone that a lower-cased name is in, the longest one."""
        for zone in self.longest_first:
            if name.endswith(zone.wire):
                # The match must begin at a label: walk there.
                at, goal = 0, len(name) - len(zone.wire)
                while at < goal:
                    at += 1 + name[at]
                if at == goal:
                    return zone
        return None
