"""Services: the names of one, headless or with cluster IPs.

    SVC.NS.svc.Z              A, AAAA per cluster IP; SRV per port
    _PORT._PROTO.SVC.NS.svc.Z SRV of a named port, and the same addresses
    HOST.SVC.NS.svc.Z         its endpoints, as for a headless Service

One with an external name has a CNAME and nothing else (`external`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from headwater.cluster.objects import NO_PORT, EndpointSlice, Port, Service, ServiceImport
from headwater.records import endpoints, external
from headwater.records.endpoints import Group, Writer
from headwater.records.options import DEFAULTS, Options, Report
from headwater.records.zone import Zone
from headwater.store.node import Kind
from headwater.wire import names, rdata
from headwater.wire.names import BadName

#: A Service without ports still has its addresses (CoreDNS keeps one port -1).
_NO_PORTS: Final = (Port("", "", NO_PORT),)


def nodes(
    service: Service,
    groups: Sequence[Group],
    zone: Zone,
    ttl: int,
    report: Report,
    only: Collection[bytes] | None = None,
    options: Options = DEFAULTS,
) -> dict[bytes, bytes]:
    """Every name of a Service in one zone, and its node; those of `topology` aside.

    `groups` are its endpoints (`endpoints.gather`). With `only`, no endpoint
    names but those labels; the Service's own names always. Names that do not
    fit are reported and left out.
    """
    try:
        writer = Writer.of(zone, ttl, service, options)
        if service.type == "ExternalName":
            node = external.node(service, writer)
            return {} if node is None else {writer.base: node}
    except BadName as error:
        report("name", service.namespace, service.name, str(error))
        return {}
    found = writer.hosts(groups, only, report, service)
    if service.headless:
        found.update(endpoints.nodes(writer, groups))
    else:
        found.update(own_addresses(service, service.cluster_ips, writer, report))
    return found


def own_addresses(
    service: Service | ServiceImport, addresses: Iterable[str], writer: Writer, report: Report
) -> Iterator[tuple[bytes, bytes]]:
    """The nodes of a Service that has addresses of its own; none when it has not."""
    packed: list[bytes] = []
    for text in addresses:
        try:
            packed.append(rdata.address(text))
        except ValueError as error:
            report("address", service.namespace, service.name, str(error))
    if not packed:
        return
    ports = service.ports or _NO_PORTS
    srv = writer.own_srv(len(ports) * len(packed), endpoints.port_numbers(ports))
    yield writer.base, writer.addresses(Kind.SERVICE, packed, srv)
    protocols: dict[bytes, None] = {}
    for port, protocol in endpoints.port_names(ports):
        protocols[protocol] = None
        matching = [item for item in ports if (port, protocol) in endpoints.port_names((item,))]
        owner = port + protocol + writer.base
        if len(owner) <= names.MAX_NAME:
            srv = writer.own_srv(len(matching) * len(packed), endpoints.port_numbers(matching), writer.base)
            yield owner, writer.addresses(Kind.PORT, packed, srv)
    for protocol in protocols:
        yield protocol + writer.base, writer.empty(Kind.PORT)


def names_of(service: Service, slices: Iterable[EndpointSlice], labels: Iterable[bytes], zone: Zone) -> Iterator[bytes]:
    """Every name that the Service may have had: what to remove unless it is made again.

    `slices` for the names of ports, `labels` for those of endpoints.
    """
    try:
        base = Writer.of(zone, 0, service).base
    except BadName:
        return
    yield from own_names(base, [service.ports, *(piece.ports for piece in slices)])
    for label in labels:
        yield label + base


def own_names(base: bytes, ports: Iterable[Iterable[Port]]) -> Iterator[bytes]:
    """The names with these ports, below and including `base`."""
    yield base
    for port, protocol in endpoints.port_names(item for some in ports for item in some):
        yield port + protocol + base
        yield protocol + base
