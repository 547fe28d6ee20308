"""Names for the endpoints of one topology zone, with `--zonal`.

    TOPOZONE.pin._zone.SVC.NS.svc.Z       the endpoints of a headless Service there
    TOPOZONE.prefer._zone.SVC.NS.svc.Z    the same, or all of them when there are none
    _zone.SVC.NS.svc.Z                    an empty non-terminal

The first and the last are stored, and `answer.find` derives the rest: a `pin` without a node is
NODATA while the last exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from headwater.cluster.objects import Endpoint, EndpointSlice
from headwater.records import endpoints, limits
from headwater.records.options import Options, silent
from headwater.records.sets import Writer
from headwater.store.node import Kind
from headwater.wire import names
from headwater.wire.names import MARKER, PIN, BadName


def nodes(
    writer: Writer,
    slices: Iterable[EndpointSlice],
    pod_names: bool,
    options: Options,
    pod_weights: Mapping[str, str] = endpoints.NO_PODS,
) -> Iterator[tuple[bytes, bytes]]:
    """The nodes below a headless Service that has endpoints."""
    marker = MARKER + writer.base
    if len(marker) > names.MAX_NAME:
        return
    yield marker, writer.empty(Kind.TOPOLOGY)
    by_zone = _by_zone(slices, options)
    most = limits.ports_each(sum(map(len, by_zone.values())))
    for zone, parts in by_zone.items():
        owner = _owner(zone, writer.base)
        if owner is not None:
            # Each zone repeats the ports.
            pieces = [
                part if len(part.ports) <= most else msgspec.structs.replace(part, ports=part.ports[:most])
                for part in parts
            ]
            # Values that make no record were reported with the Service's own names.
            groups = endpoints.gather(pieces, pod_names, silent, options, pod_weights=pod_weights)
            if groups:
                yield owner, writer.set_of(Kind.TOPOLOGY, [(group, group.ports) for group in groups])


def names_of(base: bytes, slices: Iterable[EndpointSlice]) -> Iterator[bytes]:
    """Every name that `nodes` may have made."""
    yield MARKER + base
    zones = {endpoint.zone.lower() for piece in slices for endpoint in piece.endpoints if endpoint.zone}
    for zone in zones:
        owner = _owner(zone, base)
        if owner is not None:
            yield owner


def _owner(zone: str, base: bytes) -> bytes | None:
    """TOPOZONE.pin._zone.BASE; None when it is no name. A zone may contain dots."""
    try:
        labels = b"".join(map(names.label, zone.split(".")))
        return names.fits(labels + PIN + MARKER + base)
    except BadName:
        return None


def _by_zone(slices: Iterable[EndpointSlice], options: Options) -> dict[str, list[EndpointSlice]]:
    """The slices' published endpoints by topology zone, lower-cased.

    A slice has one zone per address, as in CoreDNS: that of the last endpoint that names one.
    """
    found: dict[str, list[EndpointSlice]] = {}
    wanted = options.conditions
    for piece in slices:
        published = [item for item in piece.endpoints if item.conditions & wanted or wanted == 0]
        zones = {text: item.zone.lower() for item in published if item.zone for text in item.addresses}
        parts: dict[str, list[Endpoint]] = {}
        for item in published:
            for text in item.addresses:
                zone = zones.get(text)
                if zone:
                    one = Endpoint((text,), item.conditions, item.hostname, item.pod)
                    parts.setdefault(zone, []).append(one)
        for zone, members in parts.items():
            part = EndpointSlice(piece.namespace, piece.name, piece.service, piece.ports, tuple(members))
            found.setdefault(zone, []).append(part)
    return found
