"""Limits for the records of one object.

The API server takes a Service of tens of thousands of ports, a slice of 100,000
addresses, and any number of slices of one Service. A tenant with a namespace may create them, and
the changes of all others wait in the same line. So the cost of one Service is bounded, far beyond
the size of a reply: one of 65,535 bytes holds 4,095 addresses. Records beyond a limit are left out,
counted and logged. docs/limits.md has the cost at each limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from headwater.cluster.objects import Endpoint, EndpointSlice, Port, Service, ServiceImport
from headwater.records.options import Report

#: Of a Service; of all its slices together, equal ports of two slices counted once.
MAX_PORTS: Final = 4_096
#: Of one slice: 1,000 endpoints are the API's limit, of 100 addresses each.
MAX_SLICE_ADDRESSES: Final = 5_000
#: Of all the slices of a Service that are read.
MAX_ADDRESSES: Final = 10_000
#: Of a ServiceImport itself: each of its port names has all of them. KEP-1645 says two.
MAX_OWN_ADDRESSES: Final = 16
#: Slices with this host as an endpoint that are read for the zones' name servers.
HOST_SLICES_OF_A_NAMESPACE: Final = 8
HOST_SLICES: Final = 32
#: Services of a namespace that are compiled anew when a pod's own weight changes.
WEIGHED_BY_PODS: Final = 64
#: Bytes of a Service's slices that are read at all, as the store keeps them.
MAX_READ: Final = 4 << 20
#: The bytes that the smallest slice counts for.
LEAST_READ: Final = 2_048

#: Of the ports that endpoints' names, or topology zones, repeat, so many in all, and always so many
#: each.
_PORTS_REPEATED: Final = 16_384
_PORTS_EACH: Final = 16
#: Addresses repeated under port names that only a part of the slices has: in all, and per address.
_REPEATED: Final = 256
_REPEATED_EACH: Final = 8
#: Names of places, counting each with the Service's own name and with each of its ports; and how
#: many places a Service may have in any case.
_NAMES_OF_PLACES: Final = 16_384
_PLACES_ANYWAY: Final = 4
#: Members of all places together, for each endpoint: the slice controller names one zone and one
#: node.
MEMBERS_OF_PLACES: Final = 4


def places(ports: int) -> int:
    """How many zones and nodes of one Service with so many ports may have sets of their own."""
    return max(_PLACES_ANYWAY, _NAMES_OF_PLACES // (1 + ports))


def ports_each(names: int) -> int:
    """The most ports in the SRV set of each of so many names.

    Together they are linear in the object.
    """
    return max(_PORTS_EACH, _PORTS_REPEATED // max(1, names))


def repeated(addresses: int) -> int:
    """How often a Service's addresses, so many of them, may be stored again under port names."""
    return _REPEATED + _REPEATED_EACH * addresses


def of_service(service: Service, report: Report) -> Service:
    """A Service with the ports that have names."""
    if len(service.ports) <= MAX_PORTS:
        return service
    report("limit", service.namespace, service.name, f"more than {MAX_PORTS:,} ports")
    return msgspec.structs.replace(service, ports=service.ports[:MAX_PORTS])


def of_import(item: ServiceImport, report: Report) -> ServiceImport:
    """A ServiceImport with the ports and addresses that have names."""
    if len(item.ports) <= MAX_PORTS and len(item.addresses) <= MAX_OWN_ADDRESSES:
        return item
    report("limit", item.namespace, item.name, f"more than {MAX_PORTS:,} ports or {MAX_OWN_ADDRESSES} addresses")
    return msgspec.structs.replace(item, ports=item.ports[:MAX_PORTS], addresses=item.addresses[:MAX_OWN_ADDRESSES])


def of_slice(piece: EndpointSlice, report: Report) -> EndpointSlice:
    """A slice with the endpoints that have names."""
    if _addresses(piece) <= MAX_SLICE_ADDRESSES:
        return piece
    report("limit", piece.namespace, piece.name, f"more than {MAX_SLICE_ADDRESSES:,} addresses in one slice")
    return msgspec.structs.replace(piece, endpoints=_first(piece.endpoints, MAX_SLICE_ADDRESSES))


def of_slices(slices: Sequence[EndpointSlice], report: Report) -> list[EndpointSlice]:
    """The slices of one Service, in the order of their names, without the excess.

    Those that need no cut are the same objects as before.
    """
    found: list[EndpointSlice] = []
    room, room_for_ports = MAX_ADDRESSES, MAX_PORTS
    known: set[tuple[Port, ...]] = {()}
    for piece in slices:
        part, addresses = piece, _addresses(piece)
        if addresses > MAX_SLICE_ADDRESSES:
            part = of_slice(piece, report)
            addresses = _addresses(part)
        if addresses > room:
            report("limit", piece.namespace, piece.service or piece.imported, f"more than {MAX_ADDRESSES:,} addresses")
            part = msgspec.structs.replace(part, endpoints=_first(part.endpoints, room))
        room -= min(room, addresses)
        if part.ports not in known:
            if len(part.ports) > room_for_ports:
                report("limit", piece.namespace, piece.service or piece.imported, f"more than {MAX_PORTS:,} ports")
                part = msgspec.structs.replace(part, ports=part.ports[:room_for_ports])
            known.add(part.ports)
            room_for_ports -= len(part.ports)
        found.append(part)
    return found


def _addresses(piece: EndpointSlice) -> int:
    return sum([len(item.addresses) for item in piece.endpoints])


def _first(endpoints: Iterable[Endpoint], room: int) -> tuple[Endpoint, ...]:
    found: list[Endpoint] = []
    for item in endpoints:
        if not room:
            break
        if len(item.addresses) > room:
            item = msgspec.structs.replace(item, addresses=item.addresses[:room])
        room -= len(item.addresses)
        found.append(item)
    return tuple(found)
