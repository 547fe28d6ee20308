"""Estimate what changes will cost from the stored objects, where nothing was measured yet.

docs/limits.md has measured costs. These estimates are computed from bytes, and are higher.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from headwater.cluster.changes import Remove, Upsert
from headwater.cluster.objects import Resource
from headwater.store.environment import MAX_KEY, ReadTransaction, Store
from headwater.writer.owners import IMPORT, Owner, key_of, owners_of_slice
from headwater.writer.posting import index_key, object_key, stored_labels

#: Seconds per byte of an owner's objects, least seconds per slice, and least seconds per owner.
_BYTE: Final = 1e-6
_SLICE: Final = 40e-6
_LEAST: Final = 300e-6
#: An estimate stops here, in seconds: the change is heavy in any case.
_ENOUGH: Final = 0.25
#: The longest namespace and name together, in bytes, that fit a key beside the resource and the
#: separators.
_LONGEST: Final = MAX_KEY - 32


class StoreScales:
    """The estimates from one store. Each call is one short read transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def owners(self, event: Upsert | Remove) -> Collection[Owner]:
        """Return the owners of a slice as it is stored."""
        namespace, name = key_of(event)
        if not _can_be_stored(namespace, name):
            return ()
        key = object_key("endpointslices", (namespace, name))
        if (data := self._store.read(lambda txn: txn.get("objects", key))) is None:
            return ()
        labels = stored_labels(data)
        return owners_of_slice(namespace, labels.service, labels.imported)

    def weigh(self, owner: Owner) -> float:
        """Estimate the seconds to compile an owner as it is stored; for a
        namespace, everything in it.
        """
        if not _can_be_stored(*owner):
            return _LEAST
        return self._store.read(lambda txn: _owned(txn, owner) if owner[1] else _inhabitants(txn, owner[0]))

    def weigh_bytes(self, size: int) -> float:
        """Estimate the seconds to compile objects of `size` bytes that are not stored yet."""
        return _BYTE * size


def _can_be_stored(namespace: str, name: str) -> bool:
    """Return whether these fit a key of the store. If not, the object is left out in its turn."""
    try:
        return len(namespace.encode()) + len(name.encode()) <= _LONGEST
    except UnicodeEncodeError:
        return False


def _inhabitants(txn: ReadTransaction, namespace: str) -> float:
    """Estimate the seconds to compile everything in a namespace that is added or deleted."""
    cost = _LEAST
    resources: tuple[Resource, ...] = ("services", "serviceimports")
    for resource in resources:
        for key, _ in txn.scan("objects", object_key(resource, (namespace, ""))):
            name = key.decode().rpartition("/")[2]
            cost += _owned(txn, (namespace, name if resource == "services" else IMPORT + name))
            if cost > _ENOUGH:
                return cost
    return cost


def _owned(txn: ReadTransaction, owner: Owner) -> float:
    namespace, name = owner
    resource: Resource = "serviceimports" if name.startswith(IMPORT) else "services"
    own = txn.get("objects", object_key(resource, (namespace, name.removeprefix(IMPORT))))
    cost = _LEAST + _BYTE * len(own or b"")
    for key, _ in txn.scan("slices", index_key(namespace, name, "")):
        data = txn.get("objects", object_key("endpointslices", (namespace, key.decode().rpartition("/")[2])))
        cost += max(_SLICE, _BYTE * len(data or b""))
        if cost > _ENOUGH:
            break
    return cost
