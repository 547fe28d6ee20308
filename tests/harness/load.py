#!/usr/bin/env python3
"""Fill an API server with Services and EndpointSlices, for measurements at real scale.

    python -m tests.harness.load --kubeconfig F --services 10000

The default is the set that Headwater is measured with: 10,000 Services in 100 namespaces, 15,000
EndpointSlices, 150,000 endpoints. Of the Services, 80 % are headless and 20 % have a ClusterIP;
half have one slice of ten endpoints and half have two; half name their endpoints (web-0, web-1,
...) and half leave them to dashed addresses. The three properties are independent of each other,
and every namespace of a hundred has the same mix.

The program creates the slices itself, and the Services have no selector. No controller takes part
therefore, and no pod is needed. An object depends only on its number, so two loads of one size are
the same, and an object that exists already counts as loaded.

Standard library only.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import ipaddress
import json
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # run as a script: the checkout is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.harness.plane import ZONE_OF_NODE, PlaneError, find_tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

SERVICES = 10_000
NAMESPACES = 100
CONNECTIONS = 16
ENDPOINTS_PER_SLICE = 10
PORT_NAME, PORT = "http", 8080
MANAGED_BY = "headwater-bench"

FIRST_ADDRESS = int(ipaddress.IPv4Address("10.128.0.1"))  # beyond the pod range of the control plane for tests
LAST_ADDRESS = int(ipaddress.IPv4Address("10.255.255.254"))
ATTEMPTS = 5  # for one object: a loaded server may close a connection or answer 429
_NODES = tuple(ZONE_OF_NODE.items())


@dataclass(frozen=True)
class ScaleService:
    """One Service of the set: `number` of `of`."""

    number: int
    of: int = SERVICES
    namespaces: int = NAMESPACES

    @property
    def namespace(self) -> str:
        # Neighbours share a namespace, so that each namespace gets the whole mix.
        return f"scale-{self.number * self.namespaces // self.of:03d}"

    @property
    def name(self) -> str:
        return f"svc-{self.number:05d}"

    @property
    def headless(self) -> bool:
        return self.number % 5 != 0

    @property
    def slices(self) -> int:
        return 1 + self.number % 2

    @property
    def hostnames(self) -> bool:
        return self.number // 2 % 2 == 0

    @property
    def addresses(self) -> list[str]:
        """One address per endpoint, in the order of the slices; no
        other Service has any of them.
        """
        slices_before = self.number + self.number // 2
        first = FIRST_ADDRESS + slices_before * ENDPOINTS_PER_SLICE
        return [str(ipaddress.IPv4Address(first + i)) for i in range(self.slices * ENDPOINTS_PER_SLICE)]

    def service(self) -> dict[str, Any]:
        """The Service as the API takes it."""
        spec: dict[str, Any] = {"ports": [{"name": PORT_NAME, "port": PORT, "targetPort": PORT, "protocol": "TCP"}]}
        if self.headless:
            spec["clusterIP"] = "None"
        metadata = {"name": self.name, "namespace": self.namespace, "labels": {"app": self.name}}
        return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}

    def endpoint_slices(self) -> Iterator[dict[str, Any]]:
        """Its EndpointSlices, labelled as the slice controller labels them."""
        labels = {
            "kubernetes.io/service-name": self.name,
            "endpointslice.kubernetes.io/managed-by": MANAGED_BY,
        }
        if self.headless:
            labels["service.kubernetes.io/headless"] = ""
        endpoints = [self._endpoint(index, address) for index, address in enumerate(self.addresses)]
        for index in range(self.slices):
            yield {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": f"{self.name}-{index}", "namespace": self.namespace, "labels": labels},
                "addressType": "IPv4",
                "ports": [{"name": PORT_NAME, "port": PORT, "protocol": "TCP"}],
                "endpoints": endpoints[index * ENDPOINTS_PER_SLICE : (index + 1) * ENDPOINTS_PER_SLICE],
            }

    def _endpoint(self, index: int, address: str) -> dict[str, Any]:
        node, zone = _NODES[index % len(_NODES)]
        endpoint: dict[str, Any] = {
            "addresses": [address],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "targetRef": {"kind": "Pod", "name": f"{self.name}-{index}", "namespace": self.namespace},
            "nodeName": node,
            "zone": zone,
        }
        if self.hostnames:
            endpoint["hostname"] = f"web-{index}"
        return endpoint


def scale_set(services: int = SERVICES, namespaces: int = NAMESPACES) -> list[ScaleService]:
    """Return the Services of a set. Raises ValueError for an impossible size."""
    if services < 1 or namespaces < 1:
        raise ValueError(f"{services} services in {namespaces} namespaces: at least one of each")
    endpoints = (services + services // 2) * ENDPOINTS_PER_SLICE
    if FIRST_ADDRESS + endpoints - 1 > LAST_ADDRESS:
        raise ValueError(f"{services} services need {endpoints} addresses: more than there are from 10.128.0.1 on")
    return [ScaleService(number, services, min(namespaces, services)) for number in range(services)]


@dataclass(frozen=True)
class Loaded:
    """The result of a load."""

    services: int
    slices: int
    endpoints: int
    existing: int  # objects that were there already
    seconds: float

    @property
    def rate(self) -> float:
        """Services and slices per second."""
        return (self.services + self.slices) / self.seconds


@dataclass(frozen=True)
class Access:
    """The address and the credentials of an API server, from a kubeconfig."""

    host: str
    port: int
    tls: ssl.SSLContext
    headers: dict[str, str]

    @classmethod
    def from_kubeconfig(cls, kubeconfig: Path) -> Access:
        """Read the current context of a kubeconfig with a bearer token.
        kubectl reads it, in any form.
        """
        if not kubeconfig.exists():
            raise PlaneError(f"there is no kubeconfig {kubeconfig}")
        command = [
            str(find_tool("kubectl")), f"--kubeconfig={kubeconfig}",
            "config", "view", "--minify", "--raw", "--flatten", "--output=json",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise PlaneError(f"kubectl cannot read {kubeconfig}: {done.stderr.strip()}")
        config = json.loads(done.stdout)
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        server = urllib.parse.urlsplit(cluster["server"])
        if server.scheme != "https" or not server.hostname or "token" not in user:
            raise PlaneError(f"{kubeconfig}: needs an https server and a user with a token")
        if cluster.get("insecure-skip-tls-verify"):
            tls = ssl.create_default_context()
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
        else:
            authority = cluster.get("certificate-authority-data")
            tls = ssl.create_default_context(cadata=base64.b64decode(authority).decode() if authority else None)
        headers = {"Authorization": f"Bearer {user['token']}", "Accept": "application/json"}
        return cls(server.hostname, server.port or 443, tls, headers)


class _Poster:
    """Creates objects over one kept-open connection per thread."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._of_thread = threading.local()
        self._all: list[http.client.HTTPSConnection] = []
        self._lock = threading.Lock()
        self.done = 0
        self.existing = 0

    def create(self, path: str, body: dict[str, Any]) -> None:
        """POST one object.

        Raises PlaneError if the server refuses it, or does not answer any attempt.
        """
        data = json.dumps(body, separators=(",", ":")).encode()
        headers = {**self._access.headers, "Content-Type": "application/json"}
        failure = ""
        for attempt in range(ATTEMPTS):
            time.sleep(attempt * 0.5)
            connection = self._connection()
            try:
                connection.request("POST", path, data, headers)
                response = connection.getresponse()
                text = response.read()
            except (OSError, http.client.HTTPException) as error:
                connection.close()  # the next request opens it again
                failure = f"{type(error).__name__}: {error}"
                continue
            if response.status in (429, 500, 503, 504):
                failure = f"{response.status} {response.reason}: {text[:300].decode(errors='replace')}"
                continue
            if response.status not in (201, 409):
                reason = text[:300].decode(errors="replace")
                raise PlaneError(f"POST {path} {body['metadata']['name']}: {response.status}: {reason}")
            with self._lock:
                self.done += 1
                self.existing += response.status == 409
            return
        raise PlaneError(f"POST {path} {body['metadata']['name']}: {ATTEMPTS} attempts failed, the last by {failure}")

    def close(self) -> None:
        for connection in self._all:
            connection.close()

    def _connection(self) -> http.client.HTTPSConnection:
        found: http.client.HTTPSConnection | None = getattr(self._of_thread, "connection", None)
        if found is None:
            access = self._access
            found = http.client.HTTPSConnection(access.host, access.port, timeout=60, context=access.tls)
            self._of_thread.connection = found
            with self._lock:
                self._all.append(found)
        return found


def load(
    kubeconfig: Path,
    services: int = SERVICES,
    namespaces: int = NAMESPACES,
    *,
    connections: int = CONNECTIONS,
    progress: Callable[[str], None] | None = None,
) -> Loaded:
    """Create the set on the API server of `kubeconfig`. Raises PlaneError for the first failure.

    `progress` gets a line every few seconds.
    """
    chosen = scale_set(services, namespaces)
    slices = sum(service.slices for service in chosen)
    poster = _Poster(Access.from_kubeconfig(kubeconfig))
    started = time.monotonic()

    def create_namespace(name: str) -> None:
        poster.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def create_service(service: ScaleService) -> None:
        poster.create(f"/api/v1/namespaces/{service.namespace}/services", service.service())
        for endpoint_slice in service.endpoint_slices():
            poster.create(f"/apis/discovery.k8s.io/v1/namespaces/{service.namespace}/endpointslices", endpoint_slice)

    def run(create: Callable[[Any], None], of: Iterable[Any], total: int) -> None:
        """Create all objects in parallel; the first failure ends it."""
        poster.done = 0
        with ThreadPoolExecutor(connections) as pool:
            said = begun = time.monotonic()
            try:
                for _ in pool.map(create, of):
                    now = time.monotonic()
                    if progress and now - said >= 5:
                        said = now
                        rate = poster.done / (now - begun)
                        progress(f"{poster.done:,} of {total:,} objects, {rate:.0f}/s")
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    try:
        run(create_namespace, sorted({service.namespace for service in chosen}), len(chosen))
        run(create_service, chosen, services + slices)
    finally:
        poster.close()
    return Loaded(
        services=services,
        slices=slices,
        endpoints=slices * ENDPOINTS_PER_SLICE,
        existing=poster.existing,
        seconds=time.monotonic() - started,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Create Services and EndpointSlices for measurements at real scale.")
    parser.add_argument("--kubeconfig", type=Path, required=True, help="the API server to fill: a test server, please")
    parser.add_argument("--services", type=int, default=SERVICES, help="how many Services (default: %(default)s)")
    parser.add_argument("--namespaces", type=int, default=NAMESPACES, help="over how many (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, help="side by side (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        loaded = load(
            options.kubeconfig,
            options.services,
            options.namespaces,
            connections=options.connections,
            progress=lambda line: print(line, flush=True),
        )
    except (PlaneError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    existing = f" ({loaded.existing:,} objects were there already)" if loaded.existing else ""
    print(
        f"{loaded.services:,} services, {loaded.slices:,} slices, {loaded.endpoints:,} endpoints"
        f" in {loaded.seconds:.1f} s, {loaded.rate:.0f} objects/s{existing}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
