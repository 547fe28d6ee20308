"""ServiceImports: the Services of a clusterset, in the zones of `--multicluster-zone` (KEP-1645).

SVC.NS.svc.MZ                 its own addresses, or every cluster's endpoints (headless)
_PORT._PROTO.SVC.NS.svc.MZ    the same for a named port
HOST.CLUSTER.SVC.NS.svc.MZ    one endpoint of one cluster
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from headwater.cluster.objects import EndpointSlice, ServiceImport
from headwater.records import endpoints, services
from headwater.records.endpoints import Group, Writer
from headwater.records.options import Report
from headwater.records.zone import Zone
from headwater.store.node import Kind
from headwater.wire.names import BadName


def nodes(service: ServiceImport, groups: Sequence[Group], zone: Zone, ttl: int, report: Report) -> dict[bytes, bytes]:
    """Every name of a ServiceImport in one zone, and its node; `groups` are gathered with their clusters."""
    try:
        writer = Writer.of(zone, ttl, service)
    except BadName as error:
        report("name", service.namespace, service.name, str(error))
        return {}
    found = writer.hosts(groups, None, report, service)
    if service.headless:
        found.update(endpoints.nodes(writer, groups))
    elif service.ports:  # unlike a Service, one without ports has no records
        found.update(services.own_addresses(service, service.addresses, writer, report))
        for name in services.own_names(writer.base, [service.ports]):
            # Without an address yet: the names are there all the same.
            found.setdefault(name, writer.empty(Kind.SERVICE if name == writer.base else Kind.PORT))
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
