"""Propose existing names for one without an answer: similar ones, and other namespaces'."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from itertools import islice
from typing import Final

from headwater.cluster.objects import Service, ServiceImport
from headwater.explain.explanation import Cause, Near
from headwater.explain.form import OfHost, OfPort, OfService, Zonal, form_of
from headwater.explain.held import Held
from headwater.explain.walk import Asked

#: The most names that are shown, and the least similarity of a name (difflib's ratio).
MOST: Final = 5
_LIKE: Final = 0.7
#: The most names that are tried.
_TRIED: Final = 40
#: The most objects that are searched, so that an explanation takes milliseconds in any cluster.
_SEARCHED: Final = 50_000


def nearest(
    asked: Asked,
    cause: Cause,
    held: Held,
    there: Callable[[str], bool],
    service: Service | ServiceImport | None = None,
) -> list[Near]:
    """Return at most MOST names, the most similar first. `there` says whether a name exists."""
    found: dict[str, str] = {}
    candidates = (one for one in _candidates(asked, cause, held, service) if one[0] != asked.name)
    for name, why in islice(candidates, _TRIED):
        if name not in found and there(name):
            found[name] = why
        if len(found) == MOST:
            break
    return [Near(name, why) for name, why in found.items()]


def _candidates(
    asked: Asked, cause: Cause, held: Held, service_held: Service | ServiceImport | None
) -> Iterator[tuple[str, str]]:
    form = form_of(asked.labels, clusters=asked.clusters)
    resource = "serviceimports" if asked.clusters else "services"
    match form:
        case OfService() | OfHost() | OfPort() | Zonal():
            pass
        case _:
            yield from _with_svc(asked, held)
            return
    namespace, service = form.namespace, form.service
    before = ".".join(asked.labels[: len(asked.labels) - 3])
    head = f"{before}." if before else ""
    if cause in (
        Cause.SERVICE_UNKNOWN,
        Cause.IMPORT_UNKNOWN,
        Cause.NAMESPACE_UNKNOWN,
        Cause.SERVICE_LABEL_MISSING,
    ):
        if isinstance(form, OfService) and not asked.clusters:
            for owner in _owners(held, namespace, service):
                yield asked.below(f"{service}.{owner}.{namespace}.svc"), f"{service} is a pod of Service {owner}"
        every = _some(held.names(resource))  # type: ignore[arg-type]
        here = [name for where, name in every if where == namespace]
        for name in get_close_matches(service, here, 2, _LIKE):
            yield asked.below(f"{head}{name}.{namespace}.svc"), f"namespace {namespace} has a Service of this name"
        for where, name in every:
            if name == service and where != namespace:
                yield asked.below(f"{head}{service}.{where}.svc"), f"namespace {where} has a Service {service}"
        # Service and namespace in the wrong order
        if held.service(service, namespace) is not None:
            yield asked.below(f"{head}{namespace}.{service}.svc"), "Service and namespace in the right order"
        spaces = [name for _, name in _some(held.names("namespaces"))]
        for name in get_close_matches(namespace, spaces, 2, _LIKE):
            if any(one == (name, service) for one in every):
                yield asked.below(f"{head}{service}.{name}.svc"), f"there is a namespace {name}"
    if isinstance(form, OfHost) and not form.host.startswith("_"):
        for owner in _owners(held, namespace, form.host):
            if owner != service:
                yield (
                    asked.below(f"{form.host}.{owner}.{namespace}.svc"),
                    f"{form.host} is an endpoint of Service {owner}",
                )
        hosts = {
            item.hostname
            for piece in held.slices_of(namespace, service, imported=asked.clusters)
            for item in piece.endpoints
            if item.hostname and item.conditions & 1
        }
        for name in get_close_matches(form.host, sorted(hosts), 3, _LIKE):
            yield asked.below(f"{name}.{service}.{namespace}.svc"), f"Service {service} has an endpoint of this name"
    if isinstance(form, OfPort):
        ports = [port for piece in held.slices_of(namespace, service) for port in piece.ports if port.name]
        ports += [port for port in (service_held.ports if service_held is not None else ()) if port.name]
        for port in ports:
            label = f"_{port.name}._{port.protocol.lower()}"
            yield asked.below(f"{label}.{service}.{namespace}.svc"), "the Service has a port of this name"


def _with_svc(asked: Asked, held: Held) -> Iterator[tuple[str, str]]:
    """Yield full names for shortened ones: HOST.SERVICE.NAMESPACE, SERVICE.NAMESPACE, SERVICE."""
    labels = [label for label in asked.labels if label != "svc"]
    if len(labels) >= 2 and held.service(labels[-1], labels[-2]) is not None:
        yield asked.below(f"{'.'.join(labels)}.svc"), "the whole name"
    if len(labels) <= 2:
        # The short name of a Service in another namespace, or of its pod: POD.SERVICE.
        service, before = labels[-1] if labels else "", "".join(f"{label}." for label in labels[:-1])
        for where, name in _some(held.names("services")):
            if name == service:
                yield asked.below(f"{before}{service}.{where}.svc"), f"namespace {where} has a Service {service}"


def _owners(held: Held, namespace: str, host: str) -> Iterator[str]:
    for piece in held.slices_in(namespace):
        if piece.service and any(item.hostname.lower() == host and item.conditions & 1 for item in piece.endpoints):
            yield piece.service


def _some(names: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    found = []
    for name in names:
        found.append(name)
        if len(found) == _SEARCHED:
            break
    return found
