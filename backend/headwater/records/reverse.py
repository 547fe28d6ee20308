"""PTR: the name of an address (specification 2.3.3, 2.4.3).

A Service's for its cluster IP; else one for every endpoint that has the
address: HOST.SVC.NS.svc.Z. Z is the first zone of the settings. These are not
nodes but entries of the index of addresses, which answers are read from: an
address may be in any number of slices.
"""

from __future__ import annotations

from headwater.cluster.objects import Condition, EndpointSlice, Service
from headwater.records import endpoints
from headwater.records.zone import Zone
from headwater.store.holders import Holder, key
from headwater.wire import names, rdata

_SVC = names.SVC + names.ROOT


def of_service(service: Service, zone: Zone) -> dict[bytes, bytes]:
    """The index entries of a Service's cluster IPs. What is not an address, or no name in that zone, is left out."""
    found: dict[bytes, bytes] = {}
    if service.type == "ExternalName":
        return found
    try:
        target = names.label(service.name) + names.label(service.namespace) + _SVC
        names.fits(target[:-1] + zone.wire)
    except names.BadName:
        return found
    for text in service.cluster_ips:
        try:
            found[key(rdata.address(text), Holder.SERVICE, *service.key)] = target
        except ValueError:
            continue
    return found


def of_slice(piece: EndpointSlice, pod_names: bool, zone: Zone) -> dict[bytes, bytes]:
    """The index entries of a slice's ready endpoints, whether its Service is there or not; as `of_service`."""
    found: dict[bytes, bytes] = {}
    if not piece.service:
        return found
    try:
        base = names.label(piece.service) + names.label(piece.namespace) + _SVC
    except names.BadName:
        return found
    for endpoint in piece.endpoints:
        if not endpoint.conditions & Condition.READY:
            continue
        for text in endpoint.addresses:
            try:
                entry = key(rdata.address(text), Holder.SLICE, *piece.key)
                target = endpoints.endpoint_label(endpoint.hostname, endpoint.pod if pod_names else "", text) + base
                names.fits(target[:-1] + zone.wire)
            except ValueError:  # reported where the endpoint's own name is made
                continue
            known = found.get(entry, b"")
            if target not in known:
                found[entry] = known + target
    return found
