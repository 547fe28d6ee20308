"""Answers by the client's place: the sets of a headless Service for its zones and nodes.

The Service's owner asks for it, in one of two ways:

spec.trafficDistribution   PreferSameZone, PreferClose (its older name), PreferSameNode: by the
                           hints that the slice controller writes (KEP-3015)
headwater.dev/zone         prefer | pin: by the zones of the endpoints; off: not at all

Only the Service's own name and those of its ports have such sets; a HOST name has none. They are
made when an object changes, and stored beside the name's node (`store.places`), which stays as it
is for all who are in no place that has one.

The rule is that of kube-proxy (pkg/proxy/topology.go), judged on endpoints that are ready: hints
count where each of them has some. A client gets those that are meant for its node, else those for
its zone, else all. With `prefer` they are those in its zone.

A zone has no set of its own when it is overloaded: when each of its endpoints would carry more than
`OVERLOADED` times what an endpoint carries on average, all zones asking alike. A node always has
one, as kube-proxy has it. `pin` keeps to the zone whatever comes: a zone without endpoints is
NODATA.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import msgspec

from headwater.cluster.objects import Condition, Endpoint, EndpointSlice, Service
from headwater.records import endpoints, limits, services, sets
from headwater.records.options import Options, Report, silent
from headwater.records.sets import Writer
from headwater.store import places
from headwater.store.node import HAS_SRV, HEAD, HEAD_SIZE, IS_SHARED, Kind

#: How many times the average an endpoint of a zone may carry.
OVERLOADED: Final = 2

_READY: Final = int(Condition.READY)
_DISTRIBUTIONS: Final = frozenset({"PreferSameZone", "PreferSameNode", "PreferClose"})


class Mode(Enum):
    """What the owner of a Service asked for."""

    OFF = "off"
    HINTS = "hints"
    PREFER = "prefer"
    PIN = "pin"


class Verdict(Enum):
    """Why a Service's clients are, or are not, answered by their place."""

    OFF = "its owner did not ask for it"
    NOT_HEADLESS = "it is not headless"
    NOTHING_READY = "no endpoint is ready"
    NO_HINTS = "an endpoint that is ready has no hint"
    NO_ZONES = "no endpoint that is ready has a zone"
    TOO_MANY = "it has too many places"
    BY_PLACE = "by place"


@dataclass(slots=True)
class Judged:
    """The places of a Service that have sets of their own."""

    verdict: Verdict
    mode: Mode = Mode.OFF
    zones: dict[str, list[tuple[EndpointSlice, list[Endpoint]]]] = field(default_factory=dict)
    """The members of each, by slice."""
    nodes: dict[str, list[tuple[EndpointSlice, list[Endpoint]]]] = field(default_factory=dict)
    overloaded: dict[str, int] = field(default_factory=dict)
    """Zones that have none because they are overloaded, and how many endpoints these have."""

    def places(self) -> Iterator[tuple[bytes, list[tuple[EndpointSlice, list[Endpoint]]]]]:
        """What stands behind the names of each place, and its members."""
        for zone, members in self.zones.items():
            yield places.of_zone(zone), members
        for node, members in self.nodes.items():
            yield places.of_node(node), members


def mode_of(service: Service, options: Options) -> Mode:
    """What the Service's owner asked for."""
    if options.zone:
        return Mode(options.zone)
    return Mode.HINTS if service.distribution in _DISTRIBUTIONS else Mode.OFF


def judge(service: Service | None, slices: Sequence[EndpointSlice], options: Options) -> Judged:
    """The places that have sets of their own; `slices` within `limits`."""
    mode = Mode.OFF if service is None else mode_of(service, options)
    if mode is Mode.OFF or service is None:
        return Judged(Verdict.OFF)
    if not service.headless or service.type == "ExternalName":
        return Judged(Verdict.NOT_HEADLESS, mode)
    wanted = options.conditions
    ready = [
        (piece, item)
        for piece in slices
        for item in piece.endpoints
        if item.conditions & _READY and (item.conditions & wanted or not wanted) and item.addresses
    ]
    if not ready:
        return Judged(Verdict.NOTHING_READY, mode)
    found = Judged(Verdict.BY_PLACE, mode)
    if mode is Mode.HINTS:
        by_zone = all(item.for_zones for _, item in ready)
        by_node = all(item.for_nodes for _, item in ready)
        if not by_zone and not by_node:
            return Judged(Verdict.NO_HINTS, mode)
        for piece, item in ready:
            _place(found.zones, item.for_zones if by_zone else (), piece, item)
            _place(found.nodes, item.for_nodes if by_node else (), piece, item)
    else:
        for piece, item in ready:
            _place(found.zones, (item.zone,), piece, item)
        if not found.zones:
            return Judged(Verdict.NO_ZONES, mode)
    most = limits.places(_distinct_ports(slices))
    if len(found.zones) + len(found.nodes) > most or _members(found) > limits.MEMBERS_OF_PLACES * len(ready):
        return Judged(Verdict.TOO_MANY, mode)
    if mode is not Mode.PIN:
        found.overloaded = _overloaded(found.zones, len(ready))
        for zone in found.overloaded:
            del found.zones[zone]
    return found


def _place(
    by_place: dict[str, list[tuple[EndpointSlice, list[Endpoint]]]],
    names: Iterable[str],
    piece: EndpointSlice,
    item: Endpoint,
) -> None:
    for name in dict.fromkeys(names):
        if places.is_place(name):
            parts = by_place.setdefault(name, [])
            if not parts or parts[-1][0] is not piece:
                parts.append((piece, []))
            parts[-1][1].append(item)


def _distinct_ports(slices: Iterable[EndpointSlice]) -> int:
    return sum(map(len, dict.fromkeys(piece.ports for piece in slices)))


def _members(found: Judged) -> int:
    return sum(len(items) for _, parts in found.places() for _, items in parts)


def _overloaded(zones: Mapping[str, Sequence[tuple[EndpointSlice, list[Endpoint]]]], ready: int) -> dict[str, int]:
    sizes = {zone: sum(len(items) for _, items in parts) for zone, parts in zones.items()}
    return {zone: size for zone, size in sizes.items() if ready > OVERLOADED * len(sizes) * size}


def add(
    found: dict[bytes, bytes],
    writer: Writer,
    service: Service,
    slices: Sequence[EndpointSlice],
    options: Options,
    *,
    pod_names: bool,
    pod_weights: Mapping[str, str] = endpoints.NO_PODS,
    report: Report,
) -> None:
    """Add the sets of places to a headless Service's nodes, and mark the names that have some."""
    judged = judge(service, slices, options)
    if judged.verdict is Verdict.TOO_MANY:
        report("limit", service.namespace, service.name, f"answers by place: {judged.verdict.value}")
    whole = found.get(writer.base)
    if judged.verdict is not Verdict.BY_PLACE or whole is None:
        return
    pinned = judged.mode is Mode.PIN
    named = {
        name: node
        for name in services.own_names(writer.base, [piece.ports for piece in slices])
        if (node := found.get(name)) is not None and node[2] in (Kind.SERVICE, Kind.PORT) and not _is_empty(node)
    }
    by_place: dict[bytes, bytes] = {}
    nothing = writer.empty(Kind.PLACE)
    for suffix, parts in judged.places():
        pieces = [msgspec.structs.replace(piece, endpoints=tuple(items)) for piece, items in parts]
        groups = endpoints.gather(pieces, pod_names, silent, options, pod_weights=pod_weights)
        some = dict(sets.nodes(writer, groups, silent, service))
        own = some.get(writer.base)
        if not pinned and not _answers_all(own, own, whole):
            continue
        for name, all_of_it in named.items():
            node = some.get(name)
            if node is not None and (pinned or _answers_all(node, own, all_of_it)):
                by_place[name + suffix] = places.of_a_place(node)
            elif pinned:
                by_place[name + suffix] = nothing
    if pinned:
        by_place.update((name + places.ELSEWHERE, nothing) for name in named)
    for name in {places.divided(key)[0] for key in by_place}:
        found[name] = places.marked(found[name])
    found.update(by_place)


def _is_empty(node: bytes) -> bool:
    """Whether it is an empty non-terminal."""
    return len(node) == HEAD_SIZE


def _answers_all(node: bytes | None, own: bytes | None, whole: bytes) -> bool:
    """Whether a place's set has records of each type that the whole set has.

    `own`: the place's set for the Service's own name, which a SHARED node shares.
    """
    if node is None or own is None:
        return False
    _, _, _, n_a, n_aaaa = HEAD.unpack_from(own if node[0] & IS_SHARED and not whole[0] & IS_SHARED else node)
    _, _, _, all_a, all_aaaa = HEAD.unpack_from(whole)
    return (n_a > 0 or not all_a) and (n_aaaa > 0 or not all_aaaa) and not whole[0] & ~node[0] & HAS_SRV


def names_of(base: bytes, service: Service, slices: Sequence[EndpointSlice], options: Options) -> Iterator[bytes]:
    """Every key that `add` may have added; `slices` within `limits`."""
    judged = judge(service, slices, options)
    if judged.verdict is not Verdict.BY_PLACE:
        return
    suffixes = [suffix for suffix, _ in judged.places()]
    if judged.mode is Mode.PIN:
        suffixes.append(places.ELSEWHERE)
    for name in services.own_names(base, [piece.ports for piece in slices]):
        for suffix in suffixes:
            yield name + suffix
