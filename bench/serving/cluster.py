"""The small cluster that all servers serve: Services of several sizes, in two namespaces.

The program writes the slices itself, as in tests/harness/load.py, so that no controller takes part
and no pod is needed.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from tests.apps import corpus
from tests.harness.plane import Plane

HOME: Final = "bench"
"""The namespace of the asking pods."""
AWAY: Final = "other"
ZONE: Final = "cluster.local"

#: The most endpoints that the slice controller puts into one EndpointSlice.
_PER_SLICE: Final = 100
_PORT: Final = {"name": "http", "port": 8080, "protocol": "TCP"}
_FIRST_ADDRESS: Final = ipaddress.IPv4Address("10.64.0.1")
#: The number of headless Services in HOME, by their number of endpoints.
_HEADLESS: Final = {15: 10, 100: 4, 1000: 2}
#: Services with a cluster IP in each namespace.
_CLUSTER_IPS: Final = 100
_ENDPOINTS_BEHIND_AN_IP: Final = 3


@dataclass(frozen=True)
class Service:
    """One Service. `first` is the number of its first endpoint among all endpoints."""

    name: str
    namespace: str
    endpoints: int
    headless: bool
    first: int

    @property
    def base(self) -> str:
        """Its name in DNS, without the last dot."""
        return f"{self.name}.{self.namespace}.svc.{ZONE}"

    @property
    def hosts(self) -> list[str]:
        """The names of its endpoints."""
        return [f"pod-{number}.{self.base}" for number in range(self.endpoints)]

    def service(self) -> dict[str, Any]:
        """Return the Service as the API accepts it."""
        spec: dict[str, Any] = {"ports": [{**_PORT, "targetPort": _PORT["port"]}]}
        if self.headless:
            spec["clusterIP"] = "None"
        return {"apiVersion": "v1", "kind": "Service", "metadata": self._metadata(self.name, {}), "spec": spec}

    def slices(self) -> Iterator[dict[str, Any]]:
        """Yield its EndpointSlices."""
        labels = {"kubernetes.io/service-name": self.name, "endpointslice.kubernetes.io/managed-by": "headwater-bench"}
        if self.headless:
            labels["service.kubernetes.io/headless"] = ""
        for at in range(0, self.endpoints, _PER_SLICE):
            yield {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": self._metadata(f"{self.name}-{at}", labels),
                "addressType": "IPv4",
                "ports": [_PORT],
                "endpoints": [self._endpoint(number) for number in range(at, min(at + _PER_SLICE, self.endpoints))],
            }

    def _endpoint(self, number: int) -> dict[str, Any]:
        return {
            "addresses": [str(_FIRST_ADDRESS + self.first + number)],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "hostname": f"pod-{number}",
        }

    def _metadata(self, name: str, labels: dict[str, str]) -> dict[str, Any]:
        return {"name": name, "namespace": self.namespace, "labels": labels}


def _all() -> Iterator[Service]:
    first = 0
    wanted = [(f"db-{size}-{number}", HOME, size, True) for size, count in _HEADLESS.items() for number in range(count)]
    for namespace in (HOME, AWAY):
        wanted += [(f"web-{number}", namespace, _ENDPOINTS_BEHIND_AN_IP, False) for number in range(_CLUSTER_IPS)]
    for name, namespace, size, headless in wanted:
        yield Service(name, namespace, size, headless, first)
        first += size


SERVICES: Final = tuple(_all())


#: The Services of recorded systems, by the namespace that each has here.
RECORDINGS: Final = {f"recorded-{one.system}": one for one in corpus.every()}


def headless(endpoints: int) -> list[Service]:
    """Return the headless Services with this many endpoints."""
    return [service for service in SERVICES if service.headless and service.endpoints == endpoints]


def with_cluster_ip(namespace: str, count: int = _CLUSTER_IPS) -> list[Service]:
    """Return the first `count` Services of a namespace that have a cluster IP."""
    found = (service for service in SERVICES if not service.headless and service.namespace == namespace)
    return list(islice(found, count))


def manifests(file: Path) -> Path:
    """Write the headless Services to a file. (Only an API server assigns cluster IPs.)"""
    items = [item for one in SERVICES if one.headless for item in (one.service(), *one.slices())]
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    return file


def create(plane: Plane) -> None:
    """Create all objects on a control plane that has none of them. Raises PlaneError."""
    for namespace in (HOME, AWAY):
        plane.api("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    for service in SERVICES:
        plane.api("POST", f"/api/v1/namespaces/{service.namespace}/services", service.service())
        for item in service.slices():
            plane.api("POST", f"/apis/discovery.k8s.io/v1/namespaces/{service.namespace}/endpointslices", item)
    for namespace, recording in RECORDINGS.items():
        plane.api("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        made, piece = recording.objects(namespace)
        plane.api("POST", f"/api/v1/namespaces/{namespace}/services", made)
        plane.api("POST", f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices", piece)
