"""Pods by their address: `A-B-C-D.NS.pod.Z` (specification 2.4).

`--pods verified` has a node per namespace and address; `insecure` has none: the namespace's node
tells the resolver to answer from the name. With `disabled` no name below pod.Z exists.
"""

from __future__ import annotations

from headwater.records.sets import weight
from headwater.records.zone import Zone
from headwater.settings.settings import PodMode
from headwater.store.node import Flag, Kind, pack_node, pack_srv_own
from headwater.wire import names, rdata


def namespace_nodes(namespace: str, zone: Zone, mode: PodMode) -> dict[bytes, bytes]:
    """NS.svc.Z and NS.pod.Z: empty non-terminals of a namespace. Raises names.BadName."""
    label = names.label(namespace)
    found = {label + zone.svc: pack_node(zone=zone.index, kind=Kind.NAMESPACE)}
    if mode != "disabled":
        flags = Flag.PODS_FROM_NAME if mode == "insecure" else 0
        found[label + zone.pod] = pack_node(zone=zone.index, kind=Kind.NAMESPACE, flags=flags)
    return found


def pod_name(namespace: str, address: str, zone: Zone) -> bytes:
    """The name of the pods with that address. Raises names.BadName.

    The label is just the address with dashes. Unlike in an endpoint's name, an IPv6 address that
    ends in a colon gets no zero (CoreDNS's findPods turns dashes back into colons and compares).
    """
    label = names.label(address.replace(":", "-").replace(".", "-"))
    return names.fits(label + names.label(namespace) + zone.pod)


def pod_node(address: str, zone: Zone, ttl: int, pods: int) -> bytes:
    """The node of such a name, which that many pods have.

    Raises ValueError when the address does not parse.
    Its SRV record names itself and port 0, as CoreDNS's does.
    """
    packed = rdata.address(address)
    a_head, aaaa_head = rdata.address_heads(ttl)
    four = len(packed) == 4
    return pack_node(
        zone=zone.index,
        kind=Kind.POD,
        a=[a_head + packed] if four else (),
        aaaa=() if four else [aaaa_head + packed],
        srv=pack_srv_own(ttl, weight(pods), 0, (0,)),
    )
