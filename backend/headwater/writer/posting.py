"""One transaction's changes: objects and indexes at once, the records that follow at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, cast

from headwater.cluster.objects import (
    Decoded,
    EndpointSlice,
    Object,
    Pod,
    Resource,
    Service,
    ServiceImport,
    pack,
    says_the_same,
    unpack,
)
from headwater.records import limits
from headwater.records.compiler import Changes, Compiler
from headwater.records.zone import NameServer
from headwater.store.environment import Transaction
from headwater.store.node import Kind

_SEPARATOR: Final = b"/"
#: No Service has such a name: the slices of ServiceImports are indexed among those of Services.
_IMPORT: Final = "/"
#: Owners of slices without the label that would name one.
_NOBODY: Final = frozenset({"", _IMPORT})


def object_key(resource: Resource, key: tuple[str, str]) -> bytes:
    return b"/".join((resource.encode(), key[0].encode(), key[1].encode()))


def _index(namespace: str, owner: str, name: str) -> bytes:
    return b"/".join((namespace.encode(), owner.encode(), name.encode()))


def owner_of(item: Object) -> tuple[str, str]:
    if isinstance(item, EndpointSlice):
        return item.namespace, item.service
    return item.key


class Posting:
    """One transaction's changes: objects and indexes at once, records at the end."""

    def __init__(
        self, txn: Transaction, compiler: Compiler, counts: list[int], objects: dict[Resource, int], *, compiling: bool
    ) -> None:
        """`counts` and `objects` are the ledger's, as copies: they hold once the transaction is committed."""
        self._txn = txn
        self._compiler = compiler
        self._compiling = compiling
        self.counts = counts
        self.objects = objects
        # What stood before this batch, for whatever it touches.
        self._namespaces: dict[str, bool] = {}
        self._services: dict[tuple[str, str], Service | None] = {}
        self._slices: dict[tuple[str, str], _Before] = {}
        # {(namespace, owner): names of its slices among these, as they were or as they are}
        self._slices_by_owner: dict[tuple[str, str], set[str]] = {}
        self._imports: dict[tuple[str, str], ServiceImport | None] = {}
        self._pods: dict[tuple[str, str], None] = {}
        self._touched: dict[tuple[str, str], None] = {}
        self._touched_imports: dict[tuple[str, str], None] = {}
        self._dns_service_changed = False

    # Objects

    def upsert(self, resource: Resource, decoded: Decoded) -> None:
        item = decoded.object
        if decoded.absent:
            self.remove(resource, item.key)
            return
        data = pack(item, decoded.resource_version)
        before = self._txn.put("objects", object_key(resource, item.key), data)
        if before is None:
            self.objects[resource] += 1
        if not says_the_same(before, data):
            self._changed(resource, item.key, before, item)

    def remove(self, resource: Resource, key: tuple[str, str]) -> None:
        before = self._txn.delete("objects", object_key(resource, key))
        if before is not None:
            self.objects[resource] -= 1
            self._changed(resource, key, before, None)

    def _changed(self, resource: Resource, key: tuple[str, str], data: bytes | None, now: Object | None) -> None:
        match resource:
            case "namespaces":
                self._namespaces.setdefault(key[1], data is not None)
            case "services":
                self._service_changed(key, data, cast("Service | None", now))
            case "serviceimports":
                if self._compiling:
                    self._imports.setdefault(key, None if data is None else unpack(resource, data))
                    self._touched_imports[key] = None
            case "endpointslices":
                self._slice_changed(key, data, cast("EndpointSlice | None", now))
            case "pods":
                self._pod_changed(data, cast("Pod | None", now))

    def _service_changed(self, key: tuple[str, str], data: bytes | None, now: Service | None) -> None:
        before: Service | None = None if data is None else unpack("services", data)
        reverse = self._compiler.reverse_of_service
        self._index_addresses(reverse(before), reverse(now))
        if self._compiling:
            self._services.setdefault(key, before)
            self._touched[key] = None
            self._dns_service_changed |= any(True for _ in self._txn.scan("hosts", _index(*key, "")))

    def _slice_changed(self, key: tuple[str, str], data: bytes | None, now: EndpointSlice | None) -> None:
        before: EndpointSlice | None = None if data is None else unpack("endpointslices", data)
        old = set() if before is None else {before.service, _IMPORT + before.imported}
        new = set() if now is None else {now.service, _IMPORT + now.imported}
        for owner in old - new - _NOBODY:
            self._txn.unindex("slices", _index(key[0], owner, key[1]))
        for owner in new - old - _NOBODY:
            self._txn.index("slices", _index(key[0], owner, key[1]))
        reverse = self._compiler.reverse_of_slice
        self._index_addresses(reverse(before), reverse(now))
        self._index_host(before, now)
        if self._compiling:
            self._slices.setdefault(key, _Before(before, len(data or b""), old))
            for owner in (old | new) - _NOBODY:
                self._slices_by_owner.setdefault((key[0], owner), set()).add(key[1])
                touched = self._touched_imports if owner.startswith(_IMPORT) else self._touched
                touched[key[0], owner.removeprefix(_IMPORT)] = None

    def _index_addresses(self, before: Mapping[bytes, bytes], now: Mapping[bytes, bytes]) -> None:
        for entry in before.keys() - now.keys():
            self._txn.delete("addresses", entry)
        for entry, value in now.items():
            if before.get(entry) != value:
                self._txn.put("addresses", entry, value)

    def _index_host(self, before: EndpointSlice | None, now: EndpointSlice | None) -> None:
        """Remember the slices that this host is an endpoint of: theirs is the DNS Service."""
        was = before is not None and before.service and self._compiler.is_here(before)
        still = now is not None and now.service and self._compiler.is_here(now)
        if was and before is not None:
            self._txn.unindex("hosts", _index(before.namespace, before.service, before.name))
        if still and now is not None:
            self._txn.index("hosts", _index(now.namespace, now.service, now.name))
        self._dns_service_changed |= bool(was or still)

    def _pod_changed(self, data: bytes | None, now: Pod | None) -> None:
        before: Pod | None = None if data is None else unpack("pods", data)
        old = {(before.namespace, item) for item in before.addresses} if before is not None else set()
        new = {(now.namespace, item) for item in now.addresses} if now is not None else set()
        pod = before or now
        assert pod is not None
        for namespace, address in old - new:
            self._txn.unindex("pods", _index(namespace, address, pod.name))
        for namespace, address in new - old:
            self._txn.index("pods", _index(namespace, address, pod.name))
        self._pods.update(dict.fromkeys(old ^ new))

    # What has to be compiled although it did not change

    def touch_namespace(self, name: str) -> None:
        self._namespaces.setdefault(name, False)

    def touch_service(self, key: tuple[str, str]) -> None:
        self._touched[key] = None

    def host_changed(self) -> None:
        self._dns_service_changed = True

    def touch_import(self, key: tuple[str, str]) -> None:
        self._touched_imports[key] = None

    def touch_pod(self, pod: Pod) -> None:
        self._pods.update(dict.fromkeys((pod.namespace, item) for item in pod.addresses))

    # Records

    def compile(self, *, anew: bool = False) -> None:
        """Write what follows from the changes. `anew`: of what was touched `records` holds nothing yet."""
        changes = self._compiler.changes()
        for name, existed in self._namespaces.items():
            exists = self._exists(name)
            self._compiler.namespace(name, exists and self._compiler.serves(name), changes)
            if existed != exists and not anew:
                for key, _ in self._txn.scan("objects", b"services/" + name.encode() + _SEPARATOR):
                    self._touched[name, key.decode().split("/", 2)[2]] = None
                for key, _ in self._txn.scan("objects", b"serviceimports/" + name.encode() + _SEPARATOR):
                    self._touched_imports[name, key.decode().split("/", 2)[2]] = None
                for key, _ in self._txn.scan("pods", name.encode() + _SEPARATOR):
                    self._pods[name, key.decode().split("/", 2)[1]] = None
        for service in self._touched:
            self._compile_service(service, changes, anew=anew)
        for item in self._touched_imports:
            self._compile_import(item, changes, anew=anew)
        if self._dns_service_changed and not anew:
            changes.merge(self._compiler.fixed(self.name_servers()), ())
        for namespace, address in self._pods:
            known = self._exists(namespace) and self._compiler.serves(namespace)
            held = sum(1 for _ in self._txn.scan("pods", _index(namespace, address, ""))) if known else 0
            self._compiler.pod_address(namespace, address, held, changes)
        if anew:
            self.fill(changes.put)
        else:
            self.write(changes)

    def _existence(self, namespace: str) -> tuple[bool, bool]:
        """Whether a namespace was, and is, there and served."""
        served = self._compiler.serves(namespace)
        exists = served and self._exists(namespace)
        return served and self._namespaces.get(namespace, exists), exists

    def _compile_service(self, key: tuple[str, str], changes: Changes, *, anew: bool) -> None:
        existed, exists = self._existence(key[0])
        after = self._service(key)
        before = self._services.get(key, after)
        slices_before, slices_after = self._slices_of(key)
        self._compiler.service(
            (None, ()) if anew else (before if existed else None, slices_before),
            (after if exists else None, slices_after),
            changes,
        )

    def _compile_import(self, key: tuple[str, str], changes: Changes, *, anew: bool) -> None:
        existed, exists = self._existence(key[0])
        data = self._txn.get("objects", object_key("serviceimports", key))
        after: ServiceImport | None = None if data is None else unpack("serviceimports", data)
        before = self._imports.get(key, after)
        slices_before, slices_after = self._slices_of((key[0], _IMPORT + key[1]))
        self._compiler.service_import(
            (None, ()) if anew else (before if existed else None, slices_before),
            (after if exists else None, slices_after),
            changes,
        )

    def name_servers(self) -> list[NameServer] | None:
        """The addresses of the DNS Service, None when this host is not known to be one of its endpoints."""
        found: list[NameServer] | None = None
        slices: Counter[str] = Counter()
        for key, _ in self._txn.scan("hosts"):
            namespace, owner, name = key.decode().split("/", 2)
            if slices[namespace] == limits.HOST_SLICES_OF_A_NAMESPACE:
                continue  # anybody may say that this host is an endpoint of theirs
            if slices.total() == limits.HOST_SLICES:
                break
            slices[namespace] += 1
            service = self._service((namespace, owner))
            data = self._txn.get("objects", object_key("endpointslices", (namespace, name)))
            found = found or []
            if service is not None and data is not None:
                found += self._compiler.name_servers(service, unpack("endpointslices", data))
        return found

    def reindex(self, resource: Resource, item: Object) -> None:
        """Enter an object into the indexes that depend on the settings: they were emptied."""
        if resource == "services":
            self._index_addresses({}, self._compiler.reverse_of_service(cast("Service", item)))
        elif resource == "endpointslices":
            self._index_addresses({}, self._compiler.reverse_of_slice(cast("EndpointSlice", item)))
            self._index_host(None, cast("EndpointSlice", item))

    def write(self, changes: Changes) -> None:
        """Put and drop; sorted, for neighbours share pages."""
        txn, counts = self._txn, self.counts
        for name in changes.drop:
            if name not in changes.put and (before := txn.delete("records", name)) is not None:
                counts[before[2]] -= 1
        for name, node in sorted(changes.put.items()):
            before = txn.put("records", name, node)
            if before is not None:
                counts[before[2]] -= 1
            counts[node[2]] += 1

    def fill(self, nodes: dict[bytes, bytes]) -> None:
        """Put nodes whose names are new."""
        if self._txn.fill(sorted(nodes.items())):
            for node in nodes.values():
                self.counts[node[2]] += 1
        else:  # two zones that share names: count what there is
            self.counts = [0] * len(Kind)
            for _, node in self._txn.scan("records"):
                self.counts[node[2]] += 1

    def _exists(self, namespace: str) -> bool:
        return self._txn.get("objects", object_key("namespaces", ("", namespace))) is not None

    def _service(self, key: tuple[str, str]) -> Service | None:
        data = self._txn.get("objects", object_key("services", key))
        return None if data is None else cast("Service", unpack("services", data))

    def _slices_of(self, owner: tuple[str, str]) -> tuple[list[EndpointSlice], list[EndpointSlice]]:
        """The slices of a Service, or an import, before this batch and now, both in the order of their names.

        Of either no more than `limits.MAX_READ` bytes: what was left out before is known to have been.
        """
        namespace = owner[0]
        stored = [key.decode().rpartition("/")[2] for key, _ in self._txn.scan("slices", _index(*owner, ""))]
        changed = self._slices_by_owner.get(owner, ())
        before: list[EndpointSlice] = []
        after: list[EndpointSlice] = []
        room_before = room_after = limits.MAX_READ
        mine = set(stored)
        for name in sorted(mine.union(changed)) if changed else stored:
            now: EndpointSlice | None = None
            size = 0
            if name in mine:
                data = self._txn.get("objects", object_key("endpointslices", (namespace, name)))
                if data is not None:
                    now, size = unpack("endpointslices", data), len(data)
            was, size_before = now, size
            if name in changed:
                known = self._slices[namespace, name]
                was, size_before = (known.piece, known.size) if owner[1] in known.owners else (None, 0)
            if was is not None and room_before > 0:
                room_before -= max(size_before, limits.LEAST_READ)
                before.append(was)
            if now is not None and room_after > 0:
                room_after -= max(size, limits.LEAST_READ)
                after.append(now)
            if room_before <= 0 and room_after <= 0:
                self._compiler.too_many_slices(namespace, owner[1].removeprefix(_IMPORT))
                break
        return before, after


@dataclass(frozen=True, slots=True)
class _Before:
    """A slice before this batch: its size in the store, and who owned it."""

    piece: EndpointSlice | None
    size: int
    owners: Collection[str]
