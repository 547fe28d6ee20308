"""ExternalName Services: another name for a name (specification 2.5).

    SVC.NS.svc.Z    CNAME; A and AAAA are the target's, found when they are asked for

A CNAME cannot have an address as its target. Such a Service has no names, as in CoreDNS.
"""

from __future__ import annotations

from headwater.cluster.objects import Service
from headwater.records.sets import Writer
from headwater.store.node import Flag, Kind, pack_node
from headwater.wire import names, rdata, types


def node(service: Service, writer: Writer) -> bytes | None:
    """The node of the Service's name, None when it has none.

    Raises names.BadName when it is no name.
    """
    if is_address(service.external_name):
        return None
    if not service.external_name.strip("."):
        raise names.BadName("an ExternalName Service without externalName")
    target = names.name(service.external_name)
    return pack_node(
        zone=writer.zone.index,
        kind=Kind.SERVICE,
        flags=Flag.ALIAS,
        other=[(types.CNAME, 1, 0, rdata.record(types.CNAME, writer.ttl, target))],
    )


def is_address(text: str) -> bool:
    """Whether it is an address of either family."""
    try:
        rdata.address(text)
    except ValueError:
        return False
    return True
