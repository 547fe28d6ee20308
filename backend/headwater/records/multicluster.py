"""ServiceImports: the Services of a clusterset, in the zones of `--multicluster-zone` (KEP-1645).

SVC.NS.svc.MZ                 its own addresses, or every cluster's endpoints (headless)
_PORT._PROTO.SVC.NS.svc.MZ    the same for a named port
HOST.CLUSTER.SVC.NS.svc.MZ    one endpoint of one cluster
CLUSTER.SVC.NS.svc.MZ         an empty non-terminal
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from headwater.cluster.objects import EndpointSlice, Port, ServiceImport
from headwater.records import endpoints, services, sets
from headwater.records.endpoints import Group
from headwater.records.options import Report
from headwater.records.sets import Writer
from headwater.records.zone import Zone
from headwater.store.node import Kind
from headwater.wire.names import BadName


def nodes(service: ServiceImport, groups: Sequence[Group], zone: Zone, ttl: int, report: Report) -> dict[bytes, bytes]:
    """The names of a ServiceImport in one zone, and their nodes; `groups` have clusters."""
    try:
        writer = Writer.of(zone, ttl, service)
    except BadName as error:
        report("name", service.namespace, service.name, str(error))
        return {}
    found = writer.hosts(groups, None, report, service)
    ports: Iterable[Port] = service.ports
    if service.headless:
        found.update(sets.nodes(writer, groups, report, service))
        ports = (port for group in groups for port in group.ports)
    elif service.ports:  # unlike a Service, an import without ports has no records
        found.update(services.own_addresses(service, service.addresses, writer, report))
        for name in services.own_names(writer.base, [service.ports]):
            # Without an address yet, the names exist too.
            found.setdefault(name, writer.empty(Kind.SERVICE if name == writer.base else Kind.PORT))
    for cluster in {label[1 + label[0] :] for group in groups for label in group.hosts if len(label) <= writer.room}:
        if cluster:
            found.setdefault(cluster + writer.base, writer.empty(Kind.ENDPOINT))
    services.add_non_terminals(found, groups, ports, writer)
    return found


def names_of(service: ServiceImport, slices: Iterable[EndpointSlice], pod_names: bool, zone: Zone) -> Iterator[bytes]:
    """Every name that `nodes` may have made."""
    try:
        base = Writer.of(zone, 0, service).base
    except BadName:
        return
    pieces = list(slices)
    yield from services.own_names(base, [service.ports, *(piece.ports for piece in pieces)])
    for label in endpoints.labels(pieces, pod_names, clusters=True):
        yield label + base
        yield label[1 + label[0] :] + base
