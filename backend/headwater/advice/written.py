"""Views of objects as they are written: in manifests, and as the API server lists them.

Whoever wrote them may have written anything: a field of another type counts as absent, and no text
or list is read beyond a limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from headwater.advice.finding import Looked, short
from headwater.advice.views import ServiceView, Workload, World
from headwater.cluster.objects import EndpointSlice, OddObject, Service, convert

Item = Mapping[str, Any]

#: Where each kind has the template of its pods.
_TEMPLATES: Final[Mapping[str, tuple[str, ...]]] = {
    "StatefulSet": ("spec", "template"),
    "Deployment": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "Pod": (),
}
#: Kinds that are read.
KINDS: Final = frozenset((*_TEMPLATES, "Service", "EndpointSlice", "Endpoints", "ConfigMap"))
#: The most that is read of each: containers of a pod, entries of a list, labels, characters of a
#: text, and of all texts of one pod, ConfigMaps of one pod.
_CONTAINERS: Final = 32
_ENTRIES: Final = 256
_TEXT: Final = 4_096
_TEXTS: Final = 65_536
_MAPS: Final = 8
#: The API's numbers. YAML has larger ones, which could not even be printed.
_INT32: Final = 2**31 - 1
_INT64: Final = 2**63 - 1


class Collected:
    """Objects as they come, by namespace."""

    def __init__(self, *, controlled: bool, workloads: bool = True) -> None:
        """`controlled`: the slices are all that there are, because controllers wrote them (in a
        cluster). Without `workloads` none were looked at.
        """
        self._controlled = controlled
        self._workloads = workloads
        self._worlds: dict[str, World] = {}
        self._maps: dict[tuple[str, str], str] = {}
        self._wanting: dict[str, list[tuple[int, list[str]]]] = {}
        self._sliced: dict[str, set[str]] = {}
        self.looked = Looked()
        self.unknown: list[str] = []

    def add(self, item: Item) -> None:
        """Take an object; of other kinds nothing is needed."""
        kind = item.get("kind")
        if not isinstance(kind, str) or kind not in KINDS:
            return
        namespace = _text(_of(item, "metadata").get("namespace")) or "default"
        try:
            match kind:
                case "Service":
                    self._service(item, namespace)
                case "EndpointSlice":
                    self._slice(item, namespace)
                case "Endpoints":
                    self._has_slices(namespace, _text(_of(item, "metadata").get("name")))
                case "ConfigMap":
                    name = _text(_of(item, "metadata").get("name"))
                    self._maps[namespace, name] = "\n".join(_few(map(_text, _of(item, "data").values())))[:_TEXTS]
                case _:
                    self._workload(item, namespace, kind)
        except OddObject as error:
            self.unknown.append(f"{kind} {namespace}/{short(_named(item))} was not read: {short(error)}")

    def worlds(self) -> Iterator[World]:
        """Yield the namespaces, in order of their names."""
        for namespace, world in sorted(self._worlds.items()):
            world.sliced = frozenset(self._sliced.get(namespace, ()))
            if world.workloads:
                for index, names in self._wanting.get(namespace, ()):
                    texts = [text for name in names if (text := self._maps.get((namespace, name)))]
                    world.workloads[index] = _with_texts(world.workloads[index], texts)
            yield world

    def _world(self, namespace: str) -> World:
        found = self._worlds.get(namespace)
        if found is None:
            found = World(namespace)
            found.workloads = [] if self._workloads else None
            found.slices = {} if self._controlled else None
            self._worlds[namespace] = found
        return found

    def _service(self, item: Item, namespace: str) -> None:
        service = convert("services", _with_strings(item)).object
        assert isinstance(service, Service)
        spec = _of(item, "spec")
        targets = tuple(_target(port) for port in _list(spec, "ports"))
        view = ServiceView(service, _labels(spec, "selector"), targets, spec.get("loadBalancerIP") == "None")
        self._world(namespace).services[service.name] = view
        self.looked.services += 1

    def _slice(self, item: Item, namespace: str) -> None:
        piece = convert("endpointslices", item).object
        assert isinstance(piece, EndpointSlice)
        self.looked.slices += 1
        if not piece.service:
            return
        self._has_slices(namespace, piece.service)
        if (slices := self._world(namespace).slices) is not None:
            slices.setdefault(piece.service, []).append(piece)

    def _has_slices(self, namespace: str, service: str) -> None:
        self._sliced.setdefault(namespace, set()).add(service)

    def _workload(self, item: Item, namespace: str, kind: str) -> None:
        workloads = self._world(namespace).workloads
        if workloads is None:
            return
        found, maps = _workload(item, namespace, kind)
        if maps:
            self._wanting.setdefault(namespace, []).append((len(workloads), maps))
        workloads.append(found)
        self.looked.workloads += 1


def _workload(item: Item, namespace: str, kind: str) -> tuple[Workload, list[str]]:
    """The view, and the ConfigMaps that it names."""
    spec = _of(item, "spec")
    template: Mapping[str, Any] = item
    for key in _TEMPLATES[kind]:
        template = _of(template, key)
    pod = _of(template, "spec")
    containers = [one for key in ("containers", "initContainers") for one in _list(pod, key)[:_CONTAINERS]]
    stateful = kind == "StatefulSet"
    first = _of(spec, "ordinals").get("start")
    replicas = spec.get("replicas")
    return Workload(
        kind, namespace, _named(item), _labels(_of(template, "metadata"), "labels") or {},
        _number(replicas, 1),
        _text(spec.get("serviceName")) if stateful else _text(pod.get("subdomain")),
        stateful and spec.get("podManagementPolicy") == "Parallel",
        _text(pod.get("hostname")),
        _number(first, 0),
        any(isinstance(one.get("readinessProbe"), Mapping) for one in containers),
        pod.get("hostNetwork") is True and _text(pod.get("dnsPolicy")) in ("", "ClusterFirst"),
        frozenset(name for one in containers for port in _list(one, "ports") if (name := _text(port.get("name")))),
        tuple(_few(_texts(containers))),
        owned=bool(_list(_of(item, "metadata"), "ownerReferences")),
    ), list(dict.fromkeys(_maps(pod, containers)))[:_MAPS]  # fmt: skip


def _texts(containers: Iterable[Item]) -> Iterator[str]:
    for one in containers:
        for variable in _list(one, "env"):
            yield f"{_text(variable.get('name'))}={_text(variable.get('value'))}"
        for key in ("command", "args"):
            words = one.get(key)
            for word in words[:_ENTRIES] if isinstance(words, list) else ():
                yield _text(word)


def _maps(pod: Item, containers: Iterable[Item]) -> Iterator[str]:
    for volume in _list(pod, "volumes"):
        if name := _text(_of(volume, "configMap").get("name")):
            yield name
    for one in containers:
        for source in _list(one, "envFrom"):
            if name := _text(_of(source, "configMapRef").get("name")):
                yield name


def _with_texts(one: Workload, texts: Iterable[str]) -> Workload:
    return replace(one, texts=tuple(_few([*one.texts, *texts], each=_TEXTS)))


def _few(texts: Iterable[str], each: int = _TEXT) -> Iterator[str]:
    """The texts, as long as there is room."""
    room = _TEXTS
    for text in texts:
        cut = text[: min(each, room)]
        room -= len(cut)
        yield cut
        if room <= 0:
            return


def _target(port: Item) -> str:
    target = port.get("targetPort")
    return target if isinstance(target, str) and not target.isdigit() else ""


def _labels(item: Item, key: str) -> dict[str, str] | None:
    """Labels, or a selector; None without one."""
    found = _of(item, key)
    pairs = {name: _text(value) for name, value in list(found.items())[:_ENTRIES] if isinstance(name, str)}
    return pairs or None


def _with_strings(item: Item) -> Item:
    """A Service whose annotations are text: in YAML, people forget the quotes around a number."""
    meta = _of(item, "metadata")
    annotations = _of(meta, "annotations")
    if all(isinstance(value, str) for value in annotations.values()):
        return item
    texts = {name: _text(value) for name, value in annotations.items() if isinstance(name, str)}
    return {**item, "metadata": {**meta, "annotations": texts}}


def _named(item: Item) -> str:
    return _text(_of(item, "metadata").get("name"))


def _text(value: object) -> str:
    """A text; a number or a switch as YAML has it; "" for all else."""
    if isinstance(value, str):
        return value[:_TEXT]
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if abs(value) <= _INT64 else ""
    return str(value) if isinstance(value, float) else ""


def _number(value: object, absent: int) -> int:
    return value if type(value) is int and 0 <= value <= _INT32 else absent


def _of(item: object, key: str) -> Mapping[str, Any]:
    found = item.get(key) if isinstance(item, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _list(item: Item, key: str) -> list[Mapping[str, Any]]:
    found = item.get(key)
    return [one for one in found[:_ENTRIES] if isinstance(one, Mapping)] if isinstance(found, list) else []
