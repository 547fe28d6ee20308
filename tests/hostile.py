"""Expensive objects that the owner of one namespace may create.

Each function makes one kind of expense, of a size; twice the size costs about twice as much. All
objects pass kube-apiserver's validation (`tests/cluster/test_hostile.py`) as long as they are below
its limit for requests. Tests change the last object again and again, with `edit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from ipaddress import IPv6Address
from typing import Any, Final

Object = dict[str, Any]

SERVICE_NAME: Final = "kubernetes.io/service-name"
#: The most endpoints of a slice (pkg/apis/discovery/validation).
MOST_ENDPOINTS: Final = 1_000
MOST_ADDRESSES: Final = 100
ANNOTATION: Final = "headwater.dev/publish"


def service(
    namespace: str, name: str, ports: int, *, headless: bool = True, annotations: Mapping[str, str] | None = None
) -> Object:
    """Return a Service without a selector, so that tests can create its slices."""
    spec: Object = {"ports": [{"name": f"p{i}", "port": i + 1} for i in range(ports)]}
    if headless:
        spec["clusterIP"] = "None"
    metadata = {"namespace": namespace, "name": name, "annotations": dict(annotations or {})}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def slice_of(namespace: str, name: str, owner: str, endpoints: list[Object], ports: list[Object]) -> Object:
    family = "IPv6" if endpoints and ":" in endpoints[0]["addresses"][0] else "IPv4"
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": namespace, "name": name, "labels": {SERVICE_NAME: owner}},
        "addressType": family,
        "endpoints": endpoints,
        "ports": ports,
    }


def v4(number: int) -> str:
    return f"10.{200 + (number >> 16 & 15)}.{number >> 8 & 255}.{number & 255}"


def v6(number: int) -> str:
    return str(IPv6Address("fd99::") + number)


def endpoints(first: int, count: int, each: int = 1, draw: Callable[[int], str] = v4, **rest: Any) -> list[Object]:
    return [{"addresses": [draw(first + i * each + k) for k in range(each)], **rest} for i in range(count)]


def ports(count: int, prefix: str = "p") -> list[Object]:
    return [{"name": f"{prefix}{i}", "port": 1 + i % 65_535, "protocol": "TCP"} for i in range(count)]


def many_ports(namespace: str, size: int) -> list[Object]:
    """A Service with a cluster IP and nothing but ports."""
    return [service(namespace, "ports", size, headless=False)]


def ports_times_endpoints(namespace: str, size: int) -> list[Object]:
    """A Service with many ports and endpoints: every port's name has every endpoint."""
    members = min(size, MOST_ENDPOINTS)
    return [
        service(namespace, "product", 1),
        slice_of(namespace, "product", "product", endpoints(0, members), ports(size)),
    ]


def ports_of_parts(namespace: str, size: int) -> list[Object]:
    """Ports that all slices except one have, so that none can share the Service's own RRset."""
    half = min(size // 2, MOST_ENDPOINTS)
    return [
        service(namespace, "parts", 1),
        slice_of(namespace, "parts-0", "parts", endpoints(0, half), ports(1)),
        slice_of(namespace, "parts-1", "parts", endpoints(half, half), ports(size)),
    ]


def other_ports_in_each_slice(namespace: str, size: int) -> list[Object]:
    """Slices with different ports, so that each is a group; one hostname is in all of them."""
    found = [service(namespace, "groups", 1)]
    for i in range(size):
        here = [*endpoints(2 * i, 1, hostname="everywhere"), *endpoints(2 * i + 1, 1)]
        found.append(slice_of(namespace, f"groups-{i:05}", "groups", here, ports(3, f"g{i}-")))
    return found


def addresses_of_an_endpoint(namespace: str, size: int) -> list[Object]:
    """Endpoints of 100 addresses, each with its own name."""
    members = endpoints(0, max(1, size // MOST_ADDRESSES), MOST_ADDRESSES, v6)
    return [service(namespace, "wide", 1), slice_of(namespace, "wide", "wide", members, ports(1))]


def slices_of_a_service(namespace: str, size: int) -> list[Object]:
    """Slices of 1,000 endpoints of one Service; an event on one of them concerns all."""
    found = [service(namespace, "deep", 2)]
    for i in range(max(1, size // MOST_ENDPOINTS)):
        members = endpoints(i * MOST_ENDPOINTS, min(size, MOST_ENDPOINTS))
        found.append(slice_of(namespace, f"deep-{i:04}", "deep", members, ports(2)))
    return found


def small_slices(namespace: str, size: int) -> list[Object]:
    """Slices of one endpoint each, of one Service."""
    found = [service(namespace, "thin", 1)]
    return found + [slice_of(namespace, f"thin-{i:05}", "thin", endpoints(i, 1), ports(1)) for i in range(size)]


def topology_zones(namespace: str, size: int) -> list[Object]:
    """One endpoint in each of many topology zones, and ports for all of them."""
    members = [
        item | {"zone": f"z{i}.{'y' * 50}.{'x' * 50}"} for i, item in enumerate(endpoints(0, min(size, MOST_ENDPOINTS)))
    ]
    return [service(namespace, "zones", 1), slice_of(namespace, "zones", "zones", members, ports(size // 4 + 1))]


def names_of_an_address(namespace: str, size: int) -> list[Object]:
    """One address with many hostnames, which all are its names."""
    members = [{"addresses": [v4(7)], "hostname": f"h{i}-{'x' * 50}"} for i in range(min(size, MOST_ENDPOINTS))]
    return [service(namespace, "aliases", 1), slice_of(namespace, "aliases", "aliases", members, ports(1))]


def colliding_names(namespace: str, size: int) -> list[Object]:
    """Hostnames that are all the same, or equal other names below a Service."""
    labels = ("tcp", "pin", "prefer", "p0", "same", "same", "same")
    members = [item | {"hostname": labels[i % 7]} for i, item in enumerate(endpoints(0, min(size, MOST_ENDPOINTS)))]
    return [service(namespace, "collide", 1), slice_of(namespace, "collide", "collide", members, ports(3))]


def long_names(namespace: str, size: int) -> list[Object]:
    """Names of the greatest length, of pods and topology zones too."""
    name = "s" * 63
    members = [
        item | {"hostname": f"{i:063}", "targetRef": {"kind": "Pod", "name": "p" * 253}, "zone": "z" * 1_000}
        for i, item in enumerate(endpoints(0, min(size, MOST_ENDPOINTS)))
    ]
    wide = [{"name": f"{i:08}".translate(_LETTERS).ljust(63, "x"), "port": 1 + i} for i in range(8)]
    return [
        service(namespace, name, 1, annotations={"headwater.dev/pod-names": "true"}),
        slice_of(namespace, "l" * 253, name, members, wide),
    ]


_LETTERS: Final = str.maketrans("0123456789", "abcdefghij")


def long_annotations(namespace: str, size: int) -> list[Object]:
    """Annotations that Headwater reads, as long as the API allows: 256 KiB together."""
    values = {"headwater.dev/ttl": "9" * (size // 2), "headwater.dev/max-answers": "x" * (size // 2)}
    weights = ",".join(f"{i:x}={i % 65_536}" for i in range(size // 12))
    lists = {"headwater.dev/weights": weights, "headwater.dev/priorities": "," * (size // 2)}
    others = {"headwater.dev/alias": ",".join(f"a{i}=x" for i in range(size // 8))}
    return [
        service(namespace, "annotated", 1, annotations=values),
        service(namespace, "weighed", 1, annotations=lists),
        service(namespace, "renamed", 1, annotations=others),
    ]


def many_services(namespace: str, size: int) -> list[Object]:
    """Services only, each with a few ports."""
    return [service(namespace, f"one-{i:05}", 3, headless=False) for i in range(size)]


def aliases_of_ports(namespace: str, size: int) -> list[Object]:
    """One endpoint with as many ports and other names as it may have."""
    others = ",".join(f"a{i}=one" for i in range(100))
    return [
        service(namespace, "aliased", 1, annotations={"headwater.dev/alias": others}),
        slice_of(namespace, "aliased", "aliased", [endpoints(0, 1)[0] | {"hostname": "one"}], ports(size)),
    ]


KINDS: Final[dict[str, tuple[Callable[[str, int], list[Object]], int]]] = {
    "many_ports": (many_ports, 2_000),
    "ports_times_endpoints": (ports_times_endpoints, 500),
    "ports_of_parts": (ports_of_parts, 400),
    "other_ports_in_each_slice": (other_ports_in_each_slice, 400),
    "addresses_of_an_endpoint": (addresses_of_an_endpoint, 2_000),
    "slices_of_a_service": (slices_of_a_service, 4_000),
    "small_slices": (small_slices, 1_000),
    "topology_zones": (topology_zones, 400),
    "names_of_an_address": (names_of_an_address, 400),
    "colliding_names": (colliding_names, 400),
    "long_names": (long_names, 200),
    "annotations": (long_annotations, 100_000),
    "aliases_of_ports": (aliases_of_ports, 1_000),
    "many_services": (many_services, 500),
}
"""Every kind, with a size whose double is below every limit."""


def edit(item: Object, turn: int) -> Object:
    """Return the object with a change that causes all its costs again.

    In a slice, every other endpoint alternates; in a Service, the ports get other names.
    """
    found = deepcopy(item)
    if item["kind"] == "EndpointSlice":
        for index, endpoint in enumerate(found["endpoints"]):
            endpoint["conditions"] = {"ready": (index + turn) % 2 == 0}
    else:
        for port in found["spec"]["ports"]:
            port["name"] = f"t{turn % 2}-{port['name']}"
    return found


def path(item: Object) -> str:
    """Return the API's path of the objects of this kind and namespace."""
    namespace = item["metadata"]["namespace"]
    if item["kind"] == "Service":
        return f"/api/v1/namespaces/{namespace}/services"
    return f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"


def everything(namespace: str) -> Iterator[Object]:
    """Yield objects of each kind, of a small size."""
    for make, size in KINDS.values():
        yield from make(namespace, size)
