"""Read the objects in a store for one explanation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from headwater.cluster.objects import EndpointSlice, Resource, Service, ServiceImport, packed_version, unpack
from headwater.explain.explanation import Ref
from headwater.records import decisions
from headwater.records.decisions import Decided
from headwater.store.environment import Snapshot

KINDS: dict[Resource, str] = {
    "namespaces": "Namespace",
    "services": "Service",
    "endpointslices": "EndpointSlice",
    "pods": "Pod",
    "serviceimports": "ServiceImport",
    "nodes": "Node",
}
#: The bytes that the smallest object counts for when a look is bounded.
_LEAST: Final = 1024
#: Marks the slices of ServiceImports in the index, which has those of Services too.
_IMPORT = "/"


class TooMuch(Exception):  # noqa: N818 (what there is)
    """The objects are more than may be looked at."""


class Held:
    """The objects in one snapshot of the store. Valid while the snapshot is open.

    `room`: bytes of objects that may be looked at, as the store keeps them; None for all. Beyond it
    the methods for a Service, its slices and namespaces raise TooMuch, before they decode anything.
    """

    def __init__(self, snapshot: Snapshot, room: int | None = None) -> None:
        self.snapshot = snapshot
        self._room = room

    def namespace(self, name: str) -> bool:
        """Return whether the store has a namespace."""
        return self._data("namespaces", "", name) is not None

    def service(self, namespace: str, name: str) -> Service | None:
        data = self._data("services", namespace, name)
        return None if data is None else unpack("services", data)

    def service_import(self, namespace: str, name: str) -> ServiceImport | None:
        data = self._data("serviceimports", namespace, name)
        return None if data is None else unpack("serviceimports", data)

    def slices_of(self, namespace: str, service: str, *, imported: bool = False) -> list[EndpointSlice]:
        """Return the EndpointSlices of a Service or a ServiceImport."""
        prefix = f"{namespace}/{_IMPORT if imported else ''}{service}/".encode()
        found = []
        for key, _ in self.snapshot.scan("slices", prefix):
            data = self._data("endpointslices", namespace, key.decode().rpartition("/")[2])
            if data is not None:
                found.append(unpack("endpointslices", data))
        return found

    def pod_weights(self, service: Service, slices: Iterable[EndpointSlice]) -> dict[str, str]:
        """Return the weights that a Service's pods have of their own."""
        found = {}
        for pod in {item.pod for piece in slices for item in piece.endpoints if item.pod}:
            data = self._data("pods", service.namespace, pod)
            if data is not None and (weight := unpack("pods", data).weight):
                found[pod] = weight
        return found

    def decided(self, service: Service) -> Decided | None:
        """Return what the policy decided for a Service."""
        data = self.snapshot.value("decisions", f"{service.namespace}/{service.name}/".encode())
        return None if data is None else decisions.unpack(data)

    def slices_in(self, namespace: str) -> Iterator[EndpointSlice]:
        """Yield every EndpointSlice of a namespace."""
        for _, data in self.snapshot.scan("objects", f"endpointslices/{namespace}/".encode()):
            yield unpack("endpointslices", data)

    def names(self, resource: Resource) -> Iterator[tuple[str, str]]:
        """Yield (namespace, name) of every object of a resource, in order."""
        for key, _ in self.snapshot.scan("objects", f"{resource}/".encode()):
            _, namespace, name = key.decode().split("/", 2)
            yield namespace, name

    def services_in(self, namespace: str) -> Iterator[Service]:
        """Yield every Service of a namespace."""
        for _, data in self.snapshot.scan("objects", f"services/{namespace}/".encode()):
            yield unpack("services", data)

    def ref(self, resource: Resource, namespace: str, name: str) -> Ref:
        """Return a reference to an object, with its stored version if the store has the object."""
        data = self._data(resource, namespace, name)
        version = "" if data is None else str(packed_version(data) or "")
        return Ref(KINDS[resource], namespace, name, version)

    def _data(self, resource: Resource, namespace: str, name: str) -> Any:
        data = self.snapshot.value("objects", f"{resource}/{namespace}/{name}".encode())
        if self._room is not None:
            self._room -= max(_LEAST, len(data or b""))
            if self._room < 0:
                raise TooMuch
        return data
