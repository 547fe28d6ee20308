"""From a client's address to its topology zone and its node.

The prefixes of `--zone-cidr` say the zone. Nodes say both, by their podCIDRs and by their own
addresses; the writer stores them (`--client-nodes`), and an answer process reads them again when
one has changed. Where both know an address, the zone is that of the flag. The longest prefix
counts. An address that several Nodes have says only what is true of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import ip_network
from typing import Final, Generic, TypeVar

from headwater.settings.places import ZoneCidr
from headwater.store.environment import Snapshot
from headwater.store.nodes import CHANGED, PREFIX, Node, unpacked
from headwater.wire.rdata import IPV4, unmapped

_T = TypeVar("_T")

_BITS: Final = {4: 32, 16: 128}


class Prefixes(Generic[_T]):
    """Values by address prefix; those of the longest prefix count."""

    def __init__(self, both: Callable[[_T, _T], _T] = lambda first, _: first) -> None:
        self._both = both
        self._by_length: dict[int, list[tuple[int, dict[int, _T]]]] = {4: [], 16: []}

    def add(self, cidr: str, value: _T) -> None:
        """A prefix that has a value gets what `both` makes of the two.

        Raises ValueError for what is no CIDR or address.
        """
        network = ip_network(cidr, strict=False)
        packed = network.network_address.packed
        bits = _BITS[len(packed)] - network.prefixlen
        lengths = self._by_length[len(packed)]
        known = next((known for length, known in lengths if length == bits), None)
        if known is None:
            known = {}
            lengths.append((bits, known))
            lengths.sort(key=lambda item: item[0])
        number = int.from_bytes(packed, "big") >> bits
        known[number] = self._both(known[number], value) if number in known else value

    def find(self, address: bytes) -> _T | None:
        """The value of an address of 4 or 16 bytes."""
        number = int.from_bytes(address, "big")
        for bits, known in self._by_length[len(address)]:
            value = known.get(number >> bits)
            if value is not None:
                return value
        return None


class Whereabouts:
    """The places of clients. One per answer process."""

    def __init__(self, cidrs: Iterable[ZoneCidr] = ()) -> None:
        self._zones: Prefixes[str] = Prefixes()
        for item in cidrs:
            self._zones.add(item.cidr, item.zone)
        self._nodes: Prefixes[Node] = Prefixes(_either)
        self._seen: tuple[int, bytes | None] = 0, None
        self.version = 0
        """Another number after each change."""

    def of(self, address: bytes) -> tuple[str, str]:
        """(zone, node) of a client's address, 4 or 16 bytes; "" for what is not known."""
        if len(address) != IPV4:
            address = unmapped(address)
        node = self._nodes.find(address)
        zone = self._zones.find(address)
        if node is None:
            return zone or "", ""
        return zone or node.zone, node.name

    def follow(self, snapshot: Snapshot) -> None:
        """Read the Nodes again if one has changed."""
        seen = snapshot.generation, snapshot.meta(CHANGED)
        if seen == self._seen:
            return
        self._seen = seen
        nodes: Prefixes[Node] = Prefixes(_either)
        for _, data in snapshot.scan("objects", PREFIX):
            node = unpacked(data)
            for text in (*node.cidrs, *node.addresses):
                try:
                    nodes.add(text, node)
                except ValueError:
                    continue  # a Node may say anything
        self._nodes = nodes
        self.version += 1


def _either(one: Node, other: Node) -> Node:
    """What is true of both."""
    if one.name == other.name:
        return one
    return Node("", one.zone if one.zone == other.zone else "", (), ())
