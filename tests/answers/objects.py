"""Objects as the API accepts them, drawn at random into the world of one seed.

Each seed has its own namespaces, addresses and cluster IPs, so that many can share one API server.
There is nothing that the API refuses: hostnames in capitals (an endpoint's pod may have them, and
has), addresses that are not in canonical form, two ports of one name in a slice.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any, Final

Object = dict[str, Any]
Key = tuple[str, str, str]
"""Kind, namespace ("" for a namespace itself), name."""

SERVICE_NAME: Final = "kubernetes.io/service-name"
IMPORT_NAME: Final = "multicluster.kubernetes.io/service-name"
SOURCE_CLUSTER: Final = "multicluster.kubernetes.io/source-cluster"
FINALIZER: Final = "headwater.test/hold"

ZONES: Final = ("zone-a", "eu.west.1", "Zone-B")
LONG: Final = "x" * 62
#: A namespace that all seeds share because of its name: its Services are NAME.svc.svc.Z.
SHARED: Final = "svc"

_SERVICE_PORTS: Final = (("http", "TCP"), ("dns", "UDP"), ("dns-tcp", "TCP"), ("sctp", "SCTP"), ("p" * 63, "TCP"))
_SLICE_PORTS: Final = (*_SERVICE_PORTS, ("", "TCP"))
_PORT_NUMBERS: Final = (53, 8080, 9090, 65535)
#: The beginning of pods' names with dots.
DOTTED: Final = "dotted.pod"
#: From this number on, addresses belong to slices without a Service.
IMPORTED_ADDRESSES: Final = 200
_HOSTNAMES: Final = ("h0", "h1", "h2", "h3", f"{LONG}y", "pin", "tcp", "10-1-1-1")
_POD_NAMES: Final = ("web-0", "web-1", "Web-Mixed", f"{LONG}p", f"{LONG}pp")


@dataclass
class SeedObjects:
    """The objects as they should be now."""

    seed: int
    objects: dict[Key, Object] = field(default_factory=dict)
    corners: list[str] = field(default_factory=list)
    """The corners in this world, by the names of their functions."""

    def namespace(self, name: str) -> str:
        return f"a{self.seed}-{name}"

    @property
    def namespaces(self) -> list[str]:
        return [name for kind, _, name in self.objects if kind == "Namespace"]

    def of_kind(self, kind: str) -> list[tuple[Key, Object]]:
        return [(key, item) for key, item in self.objects.items() if key[0] == kind]

    # Addresses of this seed only

    def v4(self, number: int) -> str:
        return f"10.{64 + self.seed // 256}.{self.seed % 256}.{number}"

    def v6(self, number: int) -> str:
        """Return an IPv6 address.

        Number 0 ends with a colon, which endpoints' names treat specially.
        """
        return str(IPv6Address(f"fd64:{self.seed + 1:x}::{number:x}"))

    def cluster_v4(self, number: int) -> str:
        return f"172.{20 + self.seed // 256}.{self.seed % 256}.{number}"

    def cluster_v6(self, number: int) -> str:
        return str(IPv6Address("fd77::") + (self.seed + 1) * 16 + number)


class Maker:
    """Draws objects into a world."""

    def __init__(self, world: SeedObjects, chance: random.Random) -> None:
        self.world = world
        self.chance = chance
        self.first_address = 0
        """The offset of the numbers of endpoints' addresses."""
        self.next_cluster_ip = len([key for key in world.objects if key[0] == "Service"]) + 1

    # -- objects

    def put(self, kind: str, namespace: str, name: str, labels: dict[str, str] | None = None, **rest: Any) -> Key:
        api = {
            "EndpointSlice": "discovery.k8s.io/v1",
            "ServiceImport": "multicluster.x-k8s.io/v1alpha1",
        }.get(kind, "v1")
        metadata: Object = {"name": name, "labels": {**self.labels(), **(labels or {})}}
        if namespace:
            metadata["namespace"] = namespace
        key = (kind, namespace, name)
        self.world.objects[key] = {"apiVersion": api, "kind": kind, "metadata": metadata, **rest}
        return key

    def labels(self) -> dict[str, str]:
        """Draw labels; three of five objects match --labels."""
        found = dict(self.chance.choice([{"app": "a"}, {"app": "b"}, {"app": "a"}, {"app": "c"}, {}]))
        if self.chance.random() < 0.1:
            found["hidden"] = ""
        return found

    def ports(self, *, most: int = 3) -> list[Object]:
        """Draw a Service's ports; a single one may be without a name."""
        drawn = self.chance.sample(_SERVICE_PORTS, self.chance.randint(1, most))
        ports: list[Object] = [
            {"name": name, "port": 1000 + index, "protocol": protocol} for index, (name, protocol) in enumerate(drawn)
        ]
        if len(ports) == 1 and self.chance.random() < 0.4:
            del ports[0]["name"]
        return ports

    def service(self, namespace: str, name: str, **spec: Any) -> Key:
        labels = spec.pop("labels", None)
        return self.put("Service", namespace, name, labels, spec=spec)

    def headless(self, namespace: str, name: str, **spec: Any) -> Key:
        return self.service(namespace, name, clusterIP="None", **{"ports": self.ports(), **spec})

    def cluster_ip(self, namespace: str, name: str, family: str = "", **spec: Any) -> Key:
        """Add a Service with cluster IPs of this seed, of one family or both."""
        family = family or self.chance.choice(["4", "4", "6", "46", "64"])
        number = self.next_cluster_ip
        self.next_cluster_ip += 1
        if "6" in family and number > 15:
            family = "4"
        of_family = {"4": self.world.cluster_v4(number), "6": self.world.cluster_v6(number)}
        addresses = [of_family[digit] for digit in family]
        spec = {
            "clusterIP": addresses[0],
            "clusterIPs": addresses,
            "ipFamilies": [f"IPv{digit}" for digit in family],
            "ipFamilyPolicy": "RequireDualStack" if len(family) == 2 else "SingleStack",
            "ports": self.ports(),
            **spec,
        }
        if self.chance.random() < 0.2:  # data that only these have makes no record
            spec |= {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False, "externalIPs": ["198.51.100.7"]}
        return self.service(namespace, name, **spec)

    def external(self, namespace: str, name: str, target: str, **spec: Any) -> Key:
        return self.service(namespace, name, type="ExternalName", externalName=target, **spec)

    def slice(
        self,
        namespace: str,
        service: str,
        name: str,
        endpoints: Sequence[Object] | None = None,
        ports: Sequence[Object] | None = None,
        *,
        family: str = "",
        labels: dict[str, str] | None = None,
    ) -> Key:
        family = family or self.chance.choice(["IPv4", "IPv4", "IPv4", "IPv6"])
        return self.put(
            "EndpointSlice",
            namespace,
            name,
            {SERVICE_NAME: service} if labels is None else labels,
            addressType=family,
            endpoints=self.endpoints(family) if endpoints is None else list(endpoints),
            ports=self.slice_ports() if ports is None else list(ports),
        )

    def slice_v4(self, namespace: str, service: str, piece: int, *endpoints: Object, ports: Any = None) -> Key:
        """Add a slice of exactly these endpoints; each gives the fields that are not random."""
        made = [self.endpoint("IPv4", **endpoint) for endpoint in endpoints]
        return self.slice(namespace, service, f"{service[:50]}-{piece}", made, ports, family="IPv4")

    def slice_ports(self) -> list[Object]:
        """Draw ports; one name may have another number in the next slice, or
        a port no name or no number.
        """
        drawn = self.chance.sample(_SLICE_PORTS, self.chance.choice([0, 1, 1, 2, 2, 3]))
        ports: list[Object] = [
            {"name": name, "port": self.chance.choice(_PORT_NUMBERS), "protocol": protocol} for name, protocol in drawn
        ]
        for port in ports:
            if self.chance.random() < 0.1:
                port["port"] = None
        return ports

    def endpoints(self, family: str, *, most: int = 5) -> list[Object]:
        return [self.endpoint(family) for _ in range(self.chance.randint(0, most))]

    def endpoint(self, family: str, **rest: Any) -> Object:
        """Draw an endpoint from few addresses, so that these recur
        under other names and Services.
        """
        draw = self.world.v6 if family == "IPv6" else self.world.v4
        least, count = (0 if family == "IPv6" else 1), (2 if self.chance.random() < 0.1 else 1)
        numbers = [self.first_address + self.chance.randint(least, 24) for _ in range(count)]
        found: Object = {"addresses": [draw(number) for number in numbers]}
        if self.chance.random() < 0.45:
            found["hostname"] = self.chance.choice(_HOSTNAMES)
        if self.chance.random() < 0.5:
            found["targetRef"] = {"kind": "Pod", "name": self.chance.choice(_POD_NAMES)}
        if self.chance.random() < 0.6:
            found["zone"] = self.chance.choice(ZONES)
        found["conditions"] = self.conditions()
        return {**found, **rest}

    def conditions(self) -> Object:
        """Draw `ready` as true, false or absent; serving and terminating have no effect."""
        found: Object = {}
        ready = self.chance.choice([True, True, True, False, None])
        if ready is not None:
            found["ready"] = ready
        for other in ("serving", "terminating"):
            if self.chance.random() < 0.4:
                found[other] = self.chance.random() < 0.5
        return found

    def pod(self, namespace: str, name: str, phase: str, addresses: Sequence[str], **rest: Any) -> Key:
        """Add a pod that no scheduler and no kubelet touches, with this status."""
        spec: Object = {"containers": [{"name": "c", "image": "i"}], "schedulerName": "nobody"}
        status: Object = {"phase": phase}
        if addresses:
            status |= {"podIP": addresses[0], "podIPs": [{"ip": address} for address in addresses]}
        spec |= rest.pop("spec", {})
        key = self.put("Pod", namespace, name, rest.pop("labels", None), spec=spec, status=status)
        self.world.objects[key]["metadata"] |= rest
        return key
