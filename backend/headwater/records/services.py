"""Services: the names of one, headless or with cluster IPs.

    SVC.NS.svc.Z              A, AAAA per cluster IP; SRV per port
    _PORT._PROTO.SVC.NS.svc.Z SRV of a named port, and the same addresses
    HOST.SVC.NS.svc.Z         its endpoints, as for a headless Service

A Service with an external name has only a CNAME (`external`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final

from headwater.cluster.objects import NO_PORT, EndpointSlice, Port, Service, ServiceImport
from headwater.records import external, sets
from headwater.records.endpoints import Group
from headwater.records.options import DEFAULTS, Options, Report
from headwater.records.sets import Writer
from headwater.records.zone import Zone
from headwater.store.node import Flag, Kind
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

    `groups` are its endpoints (`endpoints.gather`). With `only`, just those endpoint names; the
    Service's own names in any case. Names that do not
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
        found.update(sets.nodes(writer, groups, report, service))
        ports: Iterable[Port] = (port for group in groups for port in group.ports)
    else:
        found.update(own_addresses(service, service.cluster_ips, writer, report))
        ports = service.ports if writer.base in found else ()
    add_non_terminals(found, groups, ports, writer)
    return found


def add_non_terminals(
    found: dict[bytes, bytes], groups: Sequence[Group], ports: Iterable[Port], writer: Writer
) -> None:
    """Names that only have names below them (RFC 8020); `found` lacks them.

    A Service without an address of its own may have endpoints; `ports` are those that have names.
    """
    if writer.base not in found and any(len(label) <= writer.room for group in groups for label in group.hosts):
        found[writer.base] = writer.empty(Kind.SERVICE)
    for label in sets.unusual_protocols(ports):
        found.setdefault(label + writer.base, writer.empty(Kind.PORT))


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
    srv = writer.own_srv(len(ports) * len(packed), sets.port_numbers(ports))
    yield writer.base, writer.addresses(Kind.SERVICE, packed, srv)
    named = sets.ports_by_name(ports)
    # There may be thousands, so their common parts are made once.
    bare = writer.addresses(Kind.PORT, packed, b"")
    head = bytes((bare[0] | Flag.SRV,)) + bare[1:]
    for (port, protocol), matching in named.items():
        owner = port + protocol + writer.base
        if len(owner) <= names.MAX_NAME:
            srv = writer.own_srv(len(matching) * len(packed), sets.port_numbers(matching), writer.base)
            yield owner, head + srv if srv else bare
    for protocol in dict.fromkeys(protocol for _, protocol in named):
        yield protocol + writer.base, writer.empty(Kind.PORT)


def names_of(service: Service, slices: Iterable[EndpointSlice], labels: Iterable[bytes], zone: Zone) -> list[bytes]:
    """Every name that the Service may have had. Remove those that are not made again.

    `slices` for the names of ports, `labels` for those of endpoints.
    """
    try:
        base = Writer.of(zone, 0, service).base
    except BadName:
        return []
    found = own_names(base, [service.ports, *[piece.ports for piece in slices]])
    found += [label + base for label in labels]
    return found


def own_names(base: bytes, ports: Iterable[Iterable[Port]]) -> list[bytes]:
    """The names with these ports, below and including `base`."""
    distinct = [port for some in dict.fromkeys(map(tuple, ports)) for port in some]
    named = sets.ports_by_name(distinct)
    room = names.MAX_NAME - len(base)
    found = [base, *[port + protocol + base for port, protocol in named if len(port) + len(protocol) <= room]]
    found += [protocol + base for protocol in {protocol for _, protocol in named} | sets.unusual_protocols(distinct)]
    return found
