"""The true objects, with one resourceVersion for all, and the history for watches.

The rules are those of the API server (apiserver/pkg/storage/cacher). Versions are one sequence over
all resources. An object keeps the version of its last change. A deleted object is announced with
its last state and the version of the deletion. An object that leaves a watch's selection is
announced as deleted.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from headwater.cluster.objects import KINDS, Resource

Key = tuple[str, str]
"""(namespace, name)."""

RESOURCES: Final[tuple[Resource, ...]] = ("namespaces", "services", "endpointslices", "pods", "serviceimports")
_KIND_OF: Final = {resource: kind for (_, kind), resource in KINDS.items()}
#: The first version. Versions soon have one digit more, so that they do not sort as text any more.
_FIRST: Final = 9_990


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as of one version."""

    key: Key
    version: int
    data: bytes
    """Its JSON."""
    labels: Mapping[str, str] = field(default_factory=dict)
    phase: str = ""


Selection = Callable[[Stored], bool]
"""Whether a request's selectors match an object."""


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one object."""

    version: int
    resource: Resource
    before: Stored | None
    now: Stored | None
    """The object after the change; None if it was deleted."""
    last: Stored
    """The object in the event, with the version of the change."""

    def seen(self, selection: Selection) -> tuple[str, Stored] | None:
        """Return the event's type and object for a watch with this
        selection; None if it gets no event.
        """
        was = self.before is not None and selection(self.before)
        if self.now is not None and selection(self.now):
            return ("MODIFIED" if was else "ADDED"), self.now
        if not was or self.before is None:
            return None
        return "DELETED", self.last if self.now is None else stored(_object(self.before), self.version)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All objects of a resource as of one version, in the order in which a list has them."""

    version: int
    items: Sequence[Stored]


def kind_of(resource: Resource) -> str:
    """Return the kind of a resource's objects: Service for services."""
    return _KIND_OF[resource]


def stored(manifest: Mapping[str, Any], version: int) -> Stored:
    """Return a manifest with this version."""
    metadata = {**manifest["metadata"], "resourceVersion": str(version)}
    data = msgspec.json.encode({**manifest, "metadata": metadata})
    phase = str((manifest.get("status") or {}).get("phase") or "")
    key = metadata.get("namespace", ""), metadata["name"]
    return Stored(key, version, data, metadata.get("labels") or {}, phase)


def _object(item: Stored) -> dict[str, Any]:
    return dict(msgspec.json.decode(item.data))


class Truth:
    """The objects. Thread-safe. `changed` is notified of each change."""

    def __init__(self, manifests: Iterable[Mapping[str, Any]] = ()) -> None:
        self.changed = threading.Condition()
        self.version = _FIRST
        self.oldest = 0
        """Versions before this one are forgotten."""
        self.history: list[Change] = []
        self._objects: dict[Resource, dict[Key, Stored]] = {resource: {} for resource in RESOURCES}
        for manifest in manifests:
            self.put(manifest)

    def put(self, manifest: Mapping[str, Any]) -> int:
        """Create or replace an object. Return its version."""
        resource = KINDS[manifest["apiVersion"], manifest["kind"]]
        with self.changed:
            self.version += 1
            now = stored(manifest, self.version)
            before = self._objects[resource].get(now.key)
            self._objects[resource][now.key] = now
            self._happened(Change(self.version, resource, before, now, now))
            return self.version

    def delete(self, resource: Resource, name: str, namespace: str = "default", **fields: object) -> int:
        """Delete an object. `fields` change its last state in the event. Return the version."""
        with self.changed:
            self.version += 1
            key = ("" if resource == "namespaces" else namespace, name)
            before = self._objects[resource].pop(key)
            last = stored({**_object(before), **fields}, self.version)
            self._happened(Change(self.version, resource, before, None, last))
            return self.version

    def _happened(self, change: Change) -> None:
        self.history.append(change)
        self.changed.notify_all()

    def compact(self) -> None:
        """Forget the history.

        Watches from the last version, and tokens of lists, are too old now.
        """
        with self.changed:
            self.version += 1  # a change of a resource that nobody watches here
            self.oldest = self.version
            self.changed.notify_all()

    def restore(self, version: int) -> None:
        """Go back as if etcd was restored from a backup: the same
        objects, but an earlier version.
        """
        with self.changed:
            self.version = version
            self.oldest = version
            self.history.clear()
            for held in self._objects.values():
                for key, item in held.items():
                    held[key] = stored(_object(item), min(item.version, version))
            self.changed.notify_all()

    def snapshot(self, resource: Resource) -> Snapshot:
        """Return all objects of a resource now, sorted as etcd sorts its keys."""
        with self.changed:
            items = sorted(self._objects[resource].values(), key=lambda item: "/".join(item.key))
            return Snapshot(self.version, items)

    def since(self, version: int) -> int:
        """Return the place in the history of the first change after a version."""
        with self.changed:
            return bisect_right([change.version for change in self.history], version)

    def get(self, resource: Resource, name: str, namespace: str = "default") -> dict[str, Any]:
        """Return a copy of an object, to be changed and `put` again."""
        with self.changed:
            return _object(self._objects[resource]["" if resource == "namespaces" else namespace, name])
