"""The API server of the simulation: objects with versions, lists in pages, watches, and faults.

Every change is a *moment*. Moments only grow, while versions go back when the server is restored
from a backup. The server keeps the state of every moment, for the judge.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from headwater.cluster.objects import (
    IMPORT_NAME_LABEL,
    SERVICE_NAME_LABEL,
    SOURCE_CLUSTER_LABEL,
    Condition,
    EndpointSlice,
    Namespace,
    Object,
    Pod,
    Resource,
    Service,
    ServiceImport,
)
from headwater.cluster.reflector import RequestFailed, Trouble
from headwater.cluster.refusals import failure
from headwater.settings.error import SettingsError
from headwater.settings.selectors import Selector
from headwater.store.nodes import Node

from tests.harness.small import resource_of

RESOURCES: Final[tuple[Resource, ...]] = ("namespaces", "services", "endpointslices", "pods", "serviceimports")
#: Objects per page, whatever the limit, so that a small cluster's lists have several pages too.
_PAGE: Final = 5
#: Seconds of silence after which a client ends a watch (cluster.api).
SILENCE: Final = 95.0
Key = tuple[str, str]
Part = tuple[str, str, str]
"""A part of the state that decides answers:

("services", namespace, name), ("slices", namespace, owner), …
"""


@dataclass(frozen=True, slots=True)
class Held:
    """An object in the server. `team` is its only label."""

    object: Object
    version: int
    team: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A change in a resource's log."""

    version: int
    before: Held | None
    after: Held | None


@dataclass(slots=True)
class Snapshot:
    """A list under way; all its pages are of one moment."""

    items: list[Held]
    version: int


@dataclass(slots=True)
class Stream:
    """A watch: the server's side, and the lines on the wire."""

    resource: Resource
    selector: Selector
    at: int
    """The next entry of the log."""
    now: Callable[[], float]
    ends: float
    heard: float
    lines: deque[bytes] = field(default_factory=deque)
    """Lines that were sent and not read yet; they come first."""
    broken: bool = False
    silent: bool = False
    log: list[Entry] = field(default_factory=list)

    def is_ready(self) -> bool:
        """Return whether its reader has something to read, be it the end."""
        if self.broken or self.now() - self.heard > SILENCE:
            return True
        if self.silent:
            return False
        return bool(self.lines) or self._has_events() or self.now() >= self.ends

    def _has_events(self) -> bool:
        while self.at < len(self.log):
            if _seen_by(self.log[self.at], self.selector):
                return True
            self.at += 1
        return False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self.broken or self.now() - self.heard > SILENCE:
            raise RequestFailed(Trouble.UNREACHABLE, f"watch {self.resource}: the watch broke off")
        assert not self.silent, "read although nothing is there"
        self.heard = self.now()
        if self.lines:
            return self.lines.popleft()
        if self._has_events():
            line = _seen_by(self.log[self.at], self.selector)
            self.at += 1
            assert line is not None
            return line
        assert self.now() >= self.ends, "read although nothing is there"
        raise StopIteration

    def is_drained(self) -> bool:
        return not self.broken and not self.silent and not self.lines and not self._has_events()


class Api:
    """One API server over one etcd."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.version = 100
        self.moment = 0
        self.objects: dict[Resource, dict[Key, Held]] = {resource: {} for resource in RESOURCES}
        self.history: dict[Part, list[tuple[int, Any]]] = {}
        """The values of each part: (from which moment on, value)."""
        self.moments: dict[int, int] = {100: 0}
        """The moment at which the server reached each version."""
        self._logs: dict[Resource, list[Entry]] = {resource: [] for resource in RESOURCES}
        self._oldest = dict.fromkeys(RESOURCES, 0)
        self._valid = {100}
        """The versions of this history, without those of a history that
        a restored backup has ended.
        """
        self._gap = 0
        """Versions to skip, so that no two histories have one in common (docs/reliability.md)."""
        self._restored = 0
        self._snapshots: dict[str, Snapshot] = {}
        self._tokens = 0
        self._backups: list[tuple[int, dict[Resource, dict[Key, Held]], bool]] = []
        self.streams: list[Stream] = []
        self.down = False
        self.installed = True
        """Whether the CRD of ServiceImports is installed."""
        self.credentials = True
        self.troubles: dict[Resource, deque[str]] = {resource: deque() for resource in RESOURCES}
        """The fates of the next requests, by resource."""
        self.lies: set[Resource] = set()
        """Resources whose next list is empty, if it may come from a cache."""
        self.may_lie: Callable[[Resource], bool] = lambda _: False
        self.note: Callable[[str], None] = lambda _: None
        self.backup()

    # Changes in the cluster

    def put(self, item: Object, team: str) -> None:
        """Create or change an object."""
        self._change(resource_of(item), item.key, item, team)

    def delete(self, resource: Resource, key: Key) -> None:
        """Delete an object, if it exists."""
        if key in self.objects[resource]:
            self._change(resource, key, None, "")

    def _change(self, resource: Resource, key: Key, item: Object | None, team: str) -> None:
        self.version += 1 + self._gap
        self._gap = 0
        self._valid.add(self.version)
        self.moment += 1
        self.moments.setdefault(self.version, self.moment)
        held = self.objects[resource]
        before = held.get(key)
        after = None if item is None else Held(item, self.version, team)
        if after is None:
            del held[key]
        else:
            held[key] = after
        self._logs[resource].append(Entry(self.version, before, after))
        for part in {*parts_of(before), *parts_of(after)}:
            self._remember(part)

    def _remember(self, part: Part) -> None:
        kind, namespace, name = part
        value: Any
        if kind == "slices":
            value = tuple(
                item
                for (where, _), item in sorted(self.objects["endpointslices"].items())
                if where == namespace and _owner(item.object) == name
            )
        elif kind == "pods":
            value = tuple(
                item
                for (where, _), item in sorted(self.objects["pods"].items())
                if where == namespace and name in item.object.addresses  # type: ignore[union-attr]
            )
        else:
            value = self.objects[kind].get((namespace, name))  # type: ignore[index]
        past = self.history.setdefault(part, [])
        if not past or past[-1][1] != value:
            past.append((self.moment, value))

    def install(self, installed: bool) -> None:
        """Install the CRD, or remove it with all its objects."""
        if self.installed and not installed:
            for key in list(self.objects["serviceimports"]):
                self.delete("serviceimports", key)
            self._remember_restart("serviceimports")
        self.installed = installed

    def _remember_restart(self, resource: Resource) -> None:
        for stream in self.streams:
            if stream.resource == resource:
                # The deletions are sent first, as far as they get.
                while stream.is_ready() and stream._has_events():
                    stream.lines.append(_seen_by(stream.log[stream.at], stream.selector) or b"")
                    stream.at += 1
                stream.ends = self.now()

    # Faults of the server

    def backup(self) -> None:
        """Keep a copy of the state."""
        objects = {resource: dict(held) for resource, held in self.objects.items()}
        self._backups = [*self._backups[-2:], (self.version, objects, self.installed)]
        self._gap = 1_000_000

    def restore(self, which: int) -> int:
        """Go back to the objects and the version of a backup. Return by how many versions."""
        version, objects, installed = self._backups[which % len(self._backups)]
        back = self.version - version
        if not back:
            return 0
        self.hang_up_all()
        self._snapshots.clear()
        self._restored += 1
        self._gap = 1000 * self._restored
        self._valid = {one for one in self._valid if one <= version}
        self._oldest = {resource: min(oldest, version) for resource, oldest in self._oldest.items()}
        self.version, self.installed = version, installed
        self.objects = {resource: dict(held) for resource, held in objects.items()}
        self._logs = {
            resource: [entry for entry in log if entry.version <= version] for resource, log in self._logs.items()
        }
        self._backups = [backup for backup in self._backups if backup[0] <= version]
        self.moment += 1
        for part in list(self.history):
            self._remember(part)
        return back

    def expire(self, resources: list[Resource]) -> None:
        """Forget the past of these resources: their watches, and new ones
        from a version, end with 410.
        """
        for resource in resources:
            self._oldest[resource] = self.version
            for stream in self.streams:
                if stream.resource == resource:
                    stream.at = len(stream.log)
                    stream.lines.append(_error(410, "too old resource version"))

    def compact(self) -> None:
        """Forget the lists under way, so that their tokens become invalid."""
        self._snapshots.clear()

    def bookmark(self, resource: Resource) -> None:
        """Send a bookmark on a resource's watches."""
        for stream in self.streams:
            if stream.resource == resource and not stream.broken:
                self._send_all(stream)
                stream.lines.append(_line("BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}}))

    def repeat(self, resource: Resource, back: int) -> None:
        """Send an event once more, or too late."""
        for stream in self.streams:
            if stream.resource == resource and not stream.broken:
                self._send_all(stream)
                if stream.at >= back and (line := _seen_by(stream.log[stream.at - back], stream.selector)):
                    stream.lines.append(line)

    @staticmethod
    def _send_all(stream: Stream) -> None:
        while stream._has_events():
            stream.lines.append(_seen_by(stream.log[stream.at], stream.selector) or b"")
            stream.at += 1

    def hang_up_all(self) -> None:
        for stream in self.streams:
            stream.broken = True

    def heal(self) -> None:
        """End all faults."""
        self.down, self.credentials = False, True
        self.lies.clear()
        for troubles in self.troubles.values():
            troubles.clear()
        for stream in self.streams:
            if stream.silent:
                stream.silent, stream.broken = False, True

    # Requests

    def page(self, resource: Resource, selector: Selector, token: str, *, cached: bool) -> bytes:
        """Return a page of a list. Raises RequestFailed."""
        self._refuse(resource, "list")
        if token:
            snapshot = self._snapshots.pop(token, None)
            if snapshot is None:
                raise failure(410, "the provided continue parameter is too old", resource, "list")
        else:
            items = [held for _, held in sorted(self.objects[resource].items(), key=lambda item: _place(item[0]))]
            snapshot = Snapshot([held for held in items if selector.matches({"team": held.team})], self.version)
            if cached and resource in self.lies and self.may_lie(resource):
                self.lies.discard(resource)
                self.note(f"the server lists no {resource}, which is wrong")
                snapshot.items = []
        now, rest = snapshot.items[:_PAGE], snapshot.items[_PAGE:]
        meta = {"resourceVersion": str(snapshot.version)}
        if rest:
            self._tokens += 1
            meta["continue"] = f"t{self._tokens}"
            self._snapshots[meta["continue"]] = Snapshot(rest, snapshot.version)
        self.note(f"{resource}: a page of {len(now)}{' and more' if rest else ', the last'}, as of {snapshot.version}")
        return msgspec.json.encode({"metadata": meta, "items": [to_api(held) for held in now]})

    def watch(
        self, resource: Resource, selector: Selector, resource_version: str, seconds: int, *, initial: bool
    ) -> Stream:
        """Open a watch. Raises RequestFailed."""
        self._refuse(resource, "watch")
        log = self._logs[resource]
        version = int(resource_version or "0")
        stream = Stream(resource, selector, 0, self.now, self.now() + seconds, self.now(), log=log)
        if initial:
            last = log[-1] if log else None
            # An object that was deleted last is listed, and its deletion comes before the end.
            gone = last.before if last is not None and last.after is None else None
            held_now = [*self.objects[resource].items(), *([] if gone is None else [(gone.object.key, gone)])]
            for _, held in sorted(held_now, key=lambda item: _place(item[0])):
                if selector.matches({"team": held.team}):
                    stream.lines.append(_line("ADDED", to_api(held)))
            if last is not None and gone is not None and (line := _seen_by(last, selector)):
                stream.lines.append(line)
            meta = {"resourceVersion": str(self.version), "annotations": {"k8s.io/initial-events-end": "true"}}
            stream.lines.append(_line("BOOKMARK", {"metadata": meta}))
            stream.at = len(log)
        elif version > self.version:
            raise failure(504, f"Too large resource version: {version}, current: {self.version}", resource)
        elif version < self._oldest[resource] or version not in self._valid:
            if version % 2:
                raise failure(410, "too old resource version", resource)
            stream.lines.append(_error(410, "too old resource version"))
            stream.at = len(log)
        else:
            stream.at = bisect_right([entry.version for entry in log], version)
        self.streams = [*(other for other in self.streams if not other.broken), stream]
        self.note(f"{resource}: a watch {'with what there is' if initial else f'from {version}'}")
        return stream

    def _refuse(self, resource: Resource, verb: str) -> None:
        if self.down:
            raise RequestFailed(Trouble.UNREACHABLE, "the API server cannot be reached")
        if resource == "serviceimports" and not self.installed:
            self.note("serviceimports: 404")
            raise failure(404, "the server could not find the requested resource", resource, verb)
        if self.troubles[resource]:
            what = self.troubles[resource].popleft()
            self.note(f"{resource}: the {verb} fails: {what}")
            if what == "cut":
                raise RequestFailed(Trouble.UNREACHABLE, f"the {verb} broke off")
            raise failure(int(what), "simulated", resource, verb, 1.0)


class Client:
    """Replaces `cluster.api.ApiServer` for a follower or an audit."""

    def __init__(self, api: Api, kubeconfig: str | None, context: str | None, selectors: Mapping[Resource, Selector],
                 *_: object) -> None:  # fmt: skip
        self._api = api
        self._selectors = selectors
        self._ready = False
        self.stream: Stream | None = None
        self.confirmed = False
        self.is_confirming: Callable[[], bool] = lambda: False
        self.host = "https://simulated:6443"

    def reload(self) -> None:
        self.confirmed = False
        if not self._api.credentials:
            raise SettingsError("--kubeconfig", "it is empty")
        self._ready = True

    reload_if_due = reload

    def prepare(self) -> None:
        if not self._ready:
            try:
                self.reload()
            except SettingsError as error:
                trouble = getattr(Trouble, "CREDENTIALS", Trouble.UNAUTHORIZED)
                raise RequestFailed(trouble, str(error)) from None

    def kube_system(self) -> bytes:
        self.prepare()
        if self._api.down:
            raise RequestFailed(Trouble.UNREACHABLE, "the API server cannot be reached")
        newest = b'{"resourceVersion": "%d"}' % self._api.version
        return b'{"metadata": %b, "items": [{"metadata": {"name": "kube-system", "uid": "simulated"}}]}' % newest

    def page(self, resource: Resource, limit: int, continue_token: str, *, metadata_only: bool = False) -> bytes:
        self.prepare()
        cached = not metadata_only and not self.is_confirming()
        return self._api.page(resource, self._selectors[resource], continue_token, cached=cached)

    def watch(self, resource: Resource, resource_version: str, seconds: int, *, initial: bool = False) -> Stream:
        self.prepare()
        self.stream = self._api.watch(resource, self._selectors[resource], resource_version, seconds, initial=initial)
        return self.stream

    def hang_up(self) -> None:
        if self.stream is not None:
            self.stream.broken = True


# Objects on the wire


def parts_of(held: Held | None) -> list[Part]:
    """Return the parts that an object belongs to."""
    if held is None:
        return []
    item = held.object
    match item:
        case EndpointSlice():
            return [("slices", item.namespace, _owner(item))]
        case Pod():
            return [("pods", item.namespace, address) for address in item.addresses]
        case _:
            return [(resource_of(item), *item.key)]


def _owner(item: Object) -> str:
    """Return the Service of a slice, or its ServiceImport with a slash before the name."""
    assert isinstance(item, EndpointSlice)
    return item.service or f"/{item.imported}"


def _place(key: Key) -> str:
    return "/".join(key)


def _seen_by(entry: Entry, selector: Selector) -> bytes | None:
    """Return a change as an event for a watch with this selector."""
    before = entry.before is not None and selector.matches({"team": entry.before.team})
    after = entry.after is not None and selector.matches({"team": entry.after.team})
    if after:
        assert entry.after is not None
        return _line("MODIFIED" if before else "ADDED", to_api(entry.after))
    if before:
        assert entry.before is not None
        return _line("DELETED", to_api(Held(entry.before.object, entry.version, entry.before.team)))
    return None


def _line(type_: str, item: object) -> bytes:
    return msgspec.json.encode({"type": type_, "object": item})


def _error(code: int, message: str) -> bytes:
    return _line("ERROR", {"kind": "Status", "code": code, "message": message})


def to_api(held: Held) -> dict[str, Any]:
    """Return an object as the API server's JSON."""
    item = held.object
    labels: dict[str, str] = {"team": held.team}
    meta: dict[str, Any] = {"name": item.key[1], "resourceVersion": str(held.version), "labels": labels}
    if item.key[0]:
        meta["namespace"] = item.key[0]
    match item:
        case Namespace():
            return {"metadata": meta}
        case Service():
            addresses = ["None"] if item.headless else list(item.cluster_ips)
            spec = {"type": item.type, "clusterIPs": addresses, "ports": _ports(item)}
            return {"metadata": meta, "spec": spec if item.selectorless else {**spec, "selector": {"app": item.name}}}
        case ServiceImport():
            kind = "Headless" if item.headless else "ClusterSetIP"
            return {"metadata": meta, "spec": {"type": kind, "ips": list(item.addresses), "ports": _ports(item)}}
        case Pod():
            return {"metadata": meta, "status": {"phase": "Running", "podIPs": [{"ip": ip} for ip in item.addresses]}}
        case EndpointSlice():
            if item.service:
                labels[SERVICE_NAME_LABEL] = item.service
            if item.imported:
                labels |= {IMPORT_NAME_LABEL: item.imported, SOURCE_CLUSTER_LABEL: item.cluster}
            some = [
                {
                    "addresses": list(endpoint.addresses),
                    "hostname": endpoint.hostname,
                    "zone": endpoint.zone,
                    "conditions": {
                        "ready": bool(endpoint.conditions & Condition.READY),
                        "serving": bool(endpoint.conditions & Condition.SERVING),
                    },
                }
                for endpoint in item.endpoints
            ]
            return {"metadata": meta, "endpoints": some, "ports": _ports(item)}
        case Node():
            raise AssertionError("no Nodes are simulated")


def _ports(item: Service | ServiceImport | EndpointSlice) -> list[dict[str, Any]]:
    return [{"name": port.name, "protocol": port.protocol, "port": port.number} for port in item.ports]
