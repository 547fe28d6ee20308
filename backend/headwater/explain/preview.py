"""The names that manifests would have after the controllers have done their work.

The fields and objects that the API server and the controllers would add are made up: a cluster IP,
the pods of StatefulSets and Deployments, the EndpointSlices of Services with a selector. Addresses
are not known before, so a label that is made of one is shown as ADDRESS. In a cluster that
manifests are compared with, it counts as ADDRESS too.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from headwater.answer.find import address_of_label
from headwater.explain.look import Item
from headwater.records import decisions
from headwater.settings.settings import Settings
from headwater.store.environment import Snapshot
from headwater.store.node import HEAD, Flag, Kind
from headwater.store.places import divided, is_of_a_place, said
from headwater.wire import names

#: The most pods of one workload: a manifest may give any number.
MOST_PODS: Final = 1000
#: Addresses that no host can have (RFC 1122 section 3.2.1.3: "this network").
_MADE_UP: Final = re.compile(r"^0-\d+-\d+-\d+(?=\.)", re.MULTILINE)
#: The same as text.
_MADE_UP_TEXT: Final = re.compile(r"(?<![\d.])0\.\d+\.\d+\.\d+(?![\d.])|(?<![\w-])0-\d+-\d+-\d+(?=\.)")
_WORKLOADS: Final = ("StatefulSet", "Deployment", "ReplicaSet")


class Name(Struct, frozen=True, order=True):
    """A name with records. Its leftmost label is ADDRESS where a pod's address will stand."""

    name: str
    types: tuple[str, ...]
    policy: str = ""
    """What a policy decided for its Service."""
    places: tuple[str, ...] = ()
    """Places whose clients get a set of their own, each with the number of its addresses."""


def expand(items: Iterable[Item]) -> list[Item]:
    """Return the objects, and those that controllers would make from them."""
    found = list(items)
    addresses = (f"0.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in itertools.count(1))
    every_pod = [*(item for item in found if item.get("kind") == "Pod"), *pods(found)]
    sliced = {
        (_namespace(item), _of(_of(item, "metadata"), "labels").get("kubernetes.io/service-name"))
        for item in found
        if item.get("kind") == "EndpointSlice"
    }
    result: list[Item] = []
    for item in found:
        if item.get("kind") != "Service":
            result.append(item)
            continue
        spec = dict(_of(item, "spec"))
        if spec.get("type") != "ExternalName" and not spec.get("clusterIP") and not spec.get("clusterIPs"):
            spec["clusterIP"] = next(addresses)
        result.append({**item, "spec": spec})
        if spec.get("selector") and (_namespace(item), _name(item)) not in sliced:
            result.append(_slice(item, every_pod, addresses))
    return result


def pods(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the pods that controllers would make."""
    for item in items:
        if item.get("kind") in _WORKLOADS:
            yield from _pods_of(item)


def _pods_of(workload: Item) -> Iterator[Item]:
    spec = _of(workload, "spec")
    template = _of(spec, "template")
    replicas = spec.get("replicas", 1)
    for index in range(min(replicas, MOST_PODS) if isinstance(replicas, int) else 1):
        pod_spec = dict(_of(template, "spec"))
        if workload.get("kind") == "StatefulSet":
            start = _of(spec, "ordinals").get("start", 0)
            pod_spec |= {"hostname": f"{_name(workload)}-{start + index}", "subdomain": spec.get("serviceName", "")}
        labels = _of(_of(template, "metadata"), "labels")
        meta = {"name": f"{_name(workload)}-{index}", "namespace": _namespace(workload), "labels": labels}
        yield {"kind": "Pod", "metadata": meta, "spec": pod_spec}


def _slice(service: Item, pods: Sequence[Item], addresses: Iterator[str]) -> Item:
    """Return the EndpointSlice of a Service with a selector."""
    spec = _of(service, "spec")
    endpoints = []
    first: Item = {}
    for pod in pods:
        labels = _of(_of(pod, "metadata"), "labels")
        if _namespace(pod) != _namespace(service) or not spec["selector"].items() <= labels.items():
            continue
        first = first or pod
        own = _of(pod, "spec")
        endpoint: dict[str, Any] = {"addresses": [next(addresses)], "targetRef": {"kind": "Pod", "name": _name(pod)}}
        if own.get("hostname") and own.get("subdomain") == _name(service):
            endpoint["hostname"] = own["hostname"]
        endpoints.append(endpoint)
    ports = [port for item in spec.get("ports") or () if (port := _port(item, first)) is not None]
    labels = {**_of(_of(service, "metadata"), "labels"), "kubernetes.io/service-name": _name(service)}
    meta = {"name": f"{_name(service)}-preview", "namespace": _namespace(service), "labels": labels}
    return {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": meta, "addressType": "IPv4",
            "endpoints": endpoints, "ports": ports}  # fmt: skip


def _port(port: Item, pod: Item) -> dict[str, Any] | None:
    """Return a port of the slice; None when no container has the named targetPort."""
    target = port.get("targetPort", port.get("port"))
    if isinstance(target, str) and not target.isdigit():
        containers = _of(pod, "spec").get("containers") or ()
        declared = [item for container in containers for item in container.get("ports") or ()]
        target = next((item.get("containerPort") for item in declared if item.get("name") == target), None)
    if target is None:
        return None
    return {"name": port.get("name", ""), "protocol": port.get("protocol", "TCP"), "port": int(target)}


def without_addresses(text: str) -> str:
    """Return a text with ADDRESS in the places of the addresses that `expand` makes up."""
    return _MADE_UP_TEXT.sub("ADDRESS", text)


def listed(snapshot: Snapshot) -> list[Name]:
    """Return every name with records in the store, without the names that every zone has."""
    decided, places = _decided(snapshot), _places(snapshot)
    return sorted(
        {
            Name(
                _MADE_UP.sub("ADDRESS", text),
                types,
                without_addresses(decided.get(_owner(text), "")),
                places.get(text, ()),
            )
            for text, types, _ in _nodes(snapshot)
        }
    )


def _decided(snapshot: Snapshot) -> dict[tuple[str, str], str]:
    """Return what a policy decided, by (Service, namespace)."""
    found = {}
    for key, data in snapshot.scan("decisions", b""):
        namespace, name, _ = key.decode().split("/")
        found[name, namespace] = str(decisions.unpack(data))
    return found


def _places(snapshot: Snapshot) -> dict[str, tuple[str, ...]]:
    """Return the places that have a set of their own, by the Service's name."""
    found: dict[str, list[str]] = {}
    for key, node in snapshot.scan("records", b""):
        if is_of_a_place(key):
            name, suffix = divided(key)
            own = snapshot.get(name)
            if own is None or own[2] != Kind.SERVICE:
                continue  # a port's
            _, _, _, n_a, n_aaaa = HEAD.unpack_from(node)
            found.setdefault(names.text_of(name).rstrip("."), []).append(f"{said(suffix)} {n_a + n_aaaa:,}")
    return {name: tuple(some) for name, some in found.items()}


def _owner(text: str) -> tuple[str, str]:
    """Return (Service, namespace) of a name; of others nothing that a Service is called."""
    labels = text.split(".svc.", 1)[0].split(".")
    return (labels[-2], labels[-1]) if len(labels) > 1 else ("", "")


def comparable(snapshot: Snapshot, settings: Settings, namespaces: frozenset[str]) -> list[Name]:
    """Return the names that manifests and a cluster can be compared by.

    These are the names of Services in some namespaces. An address counts as ADDRESS, and AAAA as A.
    """
    zones = sorted(settings.forward_zones(), key=len, reverse=True)
    found: dict[str, set[str]] = {}
    for text, types, node in _nodes(snapshot):
        zone = next((zone for zone in zones if text.endswith(f".{zone}")), None)
        labels = [] if zone is None else text[: -len(zone) - 1].split(".")
        if len(labels) < 3 or labels[-1] != "svc" or labels[-2] not in namespaces:
            continue
        address = address_of_label(labels[0].encode()) if len(labels) > 3 else None
        if _MADE_UP.match(text) or (address is not None and address in bytes(node)):
            text = f"ADDRESS{text[len(labels[0]) :]}"
        found.setdefault(text, set()).update("A" if item == "AAAA" else item for item in types)
    return sorted(Name(text, tuple(sorted(types))) for text, types in found.items())


def namespaces_of(items: Iterable[Item]) -> frozenset[str]:
    """Return the namespaces that manifests have Services in."""
    return frozenset(_namespace(item) for item in items if item.get("kind") in ("Service", "ServiceImport"))


def _nodes(snapshot: Snapshot) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """Yield each name with records, the types of these, and its node."""
    for key, node in snapshot.scan("records", b""):
        text = names.text_of(key).rstrip(".")
        if is_of_a_place(key) or (".svc." not in text and ".pod." not in text):
            continue
        flags, _, _, n_a, n_aaaa = HEAD.unpack_from(node)
        # A port's node may be its Service's own set; it has records in any case.
        shared = bool(flags & Flag.SHARED)
        types = [name for name, there in (("A", n_a or shared), ("AAAA", n_aaaa), ("SRV", flags & Flag.SRV or shared),
                                          ("CNAME", flags & Flag.OTHER)) if there]  # fmt: skip
        if types:
            yield text, tuple(types), node


class Differences(Struct, frozen=True):
    """What names come and go, and which have other types than before."""

    gone: list[Name]
    new: list[Name]
    changed: list[tuple[Name, Name]]
    """Before and after."""

    def __bool__(self) -> bool:
        return bool(self.gone or self.new or self.changed)


def differences(before: Iterable[Name], after: Iterable[Name]) -> Differences:
    """Compare two lists of names."""
    was, now = ({item.name: item for item in side} for side in (before, after))
    return Differences(
        gone=[was[name] for name in sorted(was.keys() - now.keys())],
        new=[now[name] for name in sorted(now.keys() - was.keys())],
        changed=[(was[name], now[name]) for name in sorted(was.keys() & now.keys()) if was[name] != now[name]],
    )


def _of(item: Any, key: str) -> Mapping[str, Any]:
    found = item.get(key) if isinstance(item, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _name(item: Item) -> str:
    return str(_of(item, "metadata").get("name", ""))


def _namespace(item: Item) -> str:
    return str(_of(item, "metadata").get("namespace") or "default")
