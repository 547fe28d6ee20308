"""Owners of names. All objects of one owner are compiled together and take turns together."""

from __future__ import annotations

from typing import Final

from headwater.cluster.changes import Remove, Upsert
from headwater.cluster.objects import EndpointSlice, Resource, Service, ServiceImport

Owner = tuple[str, str]
"""(namespace, name) of a Service; of a ServiceImport with "/" before its name; of
a namespace with the name "".
"""
#: Stands before the name of a ServiceImport. The slices of Services and imports are in one index,
#: and no Service's name contains it.
IMPORT: Final = "/"


def key_of(event: Upsert | Remove) -> tuple[str, str]:
    """Return (namespace, name) of an event's object."""
    return event.key if isinstance(event, Remove) else event.decoded.object.key


def version_of(event: Upsert | Remove) -> str:
    """Return the resourceVersion of an event; "" when it has none."""
    return event.resource_version if isinstance(event, Remove) else event.decoded.resource_version


def owner_of_key(resource: Resource, namespace: str, name: str) -> Owner:
    """Return the owner of an object that has no owner label: a slice's
    owner needs `owners_of_slice`.
    """
    match resource:
        case "namespaces":
            return name, ""
        case "serviceimports":
            return namespace, IMPORT + name
        case _:
            return namespace, name


def owners_of_slice(namespace: str, service: str, imported: str) -> tuple[Owner, ...]:
    """Return the owners that a slice's labels name; "" names none."""
    found: tuple[Owner, ...] = ((namespace, service),) if service else ()
    return (*found, (namespace, IMPORT + imported)) if imported else found


def owners_of(event: Upsert | Remove) -> tuple[Owner, ...]:
    """Return the owners whose names an event may change, as far as the event itself names them.

    Only the store knows the owners that a slice had before, and those of a removed slice.
    """
    match event.resource:
        case "services" | "serviceimports" | "namespaces":
            return (owner_of_key(event.resource, *key_of(event)),)
        case "endpointslices" if isinstance(event, Upsert):
            piece = event.decoded.object
            assert isinstance(piece, EndpointSlice)
            return owners_of_slice(piece.namespace, piece.service, piece.imported)
    return ()


def breadth_of(event: Upsert | Remove) -> int:
    """Return how many addresses and ports an object has."""
    if isinstance(event, Remove):
        return 0
    match event.decoded.object:
        case EndpointSlice() as piece:
            return len(piece.ports) + sum(len(item.addresses) for item in piece.endpoints)
        case Service(ports=ports) | ServiceImport(ports=ports):
            return len(ports)
    return 1
