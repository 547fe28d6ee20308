"""Owners: whose names change with an object. They are compiled as one, and take turns as one."""

from __future__ import annotations

from typing import Final

from headwater.cluster.changes import Remove, Upsert
from headwater.cluster.objects import EndpointSlice, Resource, Service, ServiceImport

Owner = tuple[str, str]
"""(namespace, name): a Service; a ServiceImport with "/" before its name; a namespace itself with "" for a name."""
#: Before the name of a ServiceImport: no Service has such a name, and the slices of both are in one index.
IMPORT: Final = "/"


def key_of(event: Upsert | Remove) -> tuple[str, str]:
    """(namespace, name) of the object that an event tells of."""
    return event.key if isinstance(event, Remove) else event.decoded.object.key


def owner_of_key(resource: Resource, namespace: str, name: str) -> Owner:
    """Whose an object is that needs no label to say so."""
    match resource:
        case "namespaces":
            return name, ""
        case "serviceimports":
            return namespace, IMPORT + name
        case _:
            return namespace, name


def owners_of_slice(namespace: str, service: str, imported: str) -> tuple[Owner, ...]:
    """The owners that a slice's labels name; "" names none."""
    found: tuple[Owner, ...] = ((namespace, service),) if service else ()
    return (*found, (namespace, IMPORT + imported)) if imported else found


def owners_of(event: Upsert | Remove) -> tuple[Owner, ...]:
    """Whose names follow from an object, as an event tells; whose a slice was, or a removed one is, the store knows."""
    match event.resource:
        case "services" | "serviceimports" | "namespaces":
            return (owner_of_key(event.resource, *key_of(event)),)
        case "endpointslices" if isinstance(event, Upsert):
            piece = event.decoded.object
            assert isinstance(piece, EndpointSlice)
            return owners_of_slice(piece.namespace, piece.service, piece.imported)
    return ()


def breadth_of(event: Upsert | Remove) -> int:
    """How many addresses and ports an object has."""
    if isinstance(event, Remove):
        return 0
    match event.decoded.object:
        case EndpointSlice() as piece:
            return len(piece.ports) + sum(len(item.addresses) for item in piece.endpoints)
        case Service(ports=ports) | ServiceImport(ports=ports):
            return len(ports)
    return 1
