"""PTR: the name of an address (specification 2.3.3, 2.4.3).

A cluster IP has its Service's name. Any other address has a name for every endpoint with it:
HOST.SVC.NS.svc.Z. Z is the first zone of the settings. These are not nodes but entries of the index
of addresses, because an address may be in any number of slices. Answers are read from the index.
"""

from __future__ import annotations

from headwater.cluster.objects import Condition, EndpointSlice, Service
from headwater.records import endpoints, limits
from headwater.records.options import silent
from headwater.records.zone import Zone
from headwater.store.holders import Holder, key, key_end, prefix
from headwater.wire import names, rdata

_SVC = names.SVC + names.ROOT
#: A plain integer: an operation on a flag is a call.
_READY = int(Condition.READY)


def of_service(service: Service, zone: Zone) -> dict[bytes, bytes]:
    """The index entries of a Service's cluster IPs.

    Bad addresses, and names that do not fit into that zone, are left out.
    """
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
    """The index entries of a slice's ready endpoints, also without its Service; as `of_service`."""
    if not piece.service:
        return {}
    try:
        base = names.label(piece.service) + names.label(piece.namespace) + _SVC
    except names.BadName:
        return {}
    found: dict[bytes, dict[bytes, None]] = {}
    holder = key_end(Holder.SLICE, *piece.key)
    room = names.MAX_NAME - len(base) + 1 - len(zone.wire)
    # Excess is reported with the Service's names.
    for endpoint in limits.of_slice(piece, silent).endpoints:
        if not endpoint.conditions & _READY:
            continue
        pod = endpoint.pod if pod_names else ""
        for text in endpoint.addresses:
            try:
                entry = prefix(rdata.address(text)) + holder
                label = endpoints.endpoint_label(endpoint.hostname, pod, text)
            except ValueError:  # reported where the endpoint's own name is made
                continue
            if len(label) > room:
                continue
            found.setdefault(entry, {})[label + base] = None
    return {entry: b"".join(targets) for entry, targets in found.items()}
