"""One transaction's changes: write objects and indexes at once, and their records at the end.

An object is stored even if the compiler fails on it. When the compiler fails on the records of a
Service or a ServiceImport (the *owner*), that owner is *faulty*: it is counted and logged, its
previous records stay, and the records of all other owners are written. The sub-database `faulty`
keeps the names that the owner still has. The next change to any of its objects replaces all of
them, if it compiles then.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import msgspec

from headwater.cluster.objects import (
    Decoded,
    EndpointSlice,
    Object,
    Pod,
    Resource,
    Service,
    ServiceImport,
    SliceLabels,
    pack,
    says_the_same,
    unpack,
    unpack_labels,
)
from headwater.records import decisions, limits
from headwater.records.compiler import Changes, Compiler
from headwater.records.decisions import Decided
from headwater.records.options import asks_pods, silent
from headwater.records.zone import NameServer
from headwater.store.copied import FROM_PODS
from headwater.store.environment import MAX_KEY, StoreDamaged, Transaction, is_damage
from headwater.store.history import Owner as Whose
from headwater.store.history import OwnerKind
from headwater.store.node import Kind, exists
from headwater.store.nodes import CHANGED
from headwater.writer.chronicle import Draft
from headwater.writer.isolation import NOT_AN_OBJECTS, Unstorable, told
from headwater.writer.owners import IMPORT

if TYPE_CHECKING:
    from headwater.writer.policy import Decider

_SEPARATOR: Final = b"/"
#: The owners that a slice without owner labels seems to have.
_NOBODY: Final = frozenset({"", IMPORT})
_DECISIONS: Final = "decisions"
_TOO_MANY_WEIGHED: Final = f"pods' own weights of more than {limits.WEIGHED_BY_PODS} Services: it follows later"
#: About how long it takes to write a name, in seconds.
_WRITTEN: Final = 5e-6
_NAMES: Final = msgspec.msgpack.Decoder(list[bytes])

_T = TypeVar("_T")
_M = TypeVar("_M", bound=Mapping[bytes, bytes])


def object_key(resource: Resource, key: tuple[str, str]) -> bytes:
    return b"/".join((resource.encode(), key[0].encode(), key[1].encode()))


def storable_key(resource: Resource, key: tuple[str, str]) -> bytes:
    """Return the key under which an object is stored. Raises Unstorable."""
    try:
        place = object_key(resource, key)
    except UnicodeEncodeError:
        raise Unstorable("its name is no text") from None
    if len(place) > MAX_KEY:
        raise Unstorable(f"its name is too long to be stored ({len(place)} bytes of {MAX_KEY})")
    return place


def stored(resource: Resource, data: bytes) -> Any:
    """Decode an object from the store.

    Raises StoreDamaged, because only damage can make it fail.
    """
    try:
        return unpack(resource, data)
    except msgspec.MsgspecError as error:
        raise StoreDamaged(f"an object in it does not unpack: {error}") from error


def stored_labels(data: bytes) -> SliceLabels:
    """Decode the owner labels of a slice from the store. Raises StoreDamaged."""
    try:
        return unpack_labels(data)
    except msgspec.MsgspecError as error:
        raise StoreDamaged(f"an object in it does not unpack: {error}") from error


def _names(data: bytes) -> list[bytes]:
    """Decode the names that `Posting.mark_faulty` has stored. Raises StoreDamaged."""
    try:
        return _NAMES.decode(data)
    except msgspec.MsgspecError as error:
        raise StoreDamaged(f"a faulty owner's names do not unpack: {error}") from error


def index_key(namespace: str, owner: str, name: str) -> bytes:
    """Return an index key: of a slice under its owner, or of a pod under its address.

    With an empty `name`, return the prefix of all of these.
    """
    return b"/".join((namespace.encode(), owner.encode(), name.encode()))


class Posting:
    """One transaction's changes.

    `upsert` and `remove` write objects; `compile` writes the records.
    """

    def __init__(
        self,
        txn: Transaction,
        compiler: Compiler,
        counts: list[int],
        objects: dict[Resource, int],
        *,
        compiling: bool,
        meter: Callable[[], float] = time.thread_time,
        on_owner: Callable[[], None] = lambda: None,
        draft: Draft | None = None,
        decider: Decider | None = None,
    ) -> None:
        """`counts` and `objects` are copies of the ledger's counts; they
        hold once the commit succeeds.

        `meter` counts the seconds that this thread works. `on_owner` is called after each Service
        or ServiceImport that is compiled: a namespace that comes or goes may have thousands.
        `draft` hears what is to be told in the history. `decider` is the policy.
        """
        self._decider = decider
        self.draft = draft
        self._meter = meter
        self._on_owner = on_owner
        self.costs: dict[tuple[str, str], float] = {}
        """Seconds that each owner took to compile."""
        self._txn = txn
        self._compiler = compiler
        self._compiling = compiling
        self.counts = counts
        self.objects = objects
        # The state before this batch of everything that it touches.
        self._namespaces: dict[str, bool] = {}
        self._services: dict[tuple[str, str], Service | None] = {}
        self._slices: dict[tuple[str, str], _Known] = {}
        # {(namespace, owner): names of its slices among these, as they were or as they are}
        self._slices_by_owner: dict[tuple[str, str], set[str]] = {}
        self._imports: dict[tuple[str, str], ServiceImport | None] = {}
        self._pods: dict[tuple[str, str], None] = {}
        self._touched: dict[tuple[str, str], None] = {}
        self._touched_imports: dict[tuple[str, str], None] = {}
        self._dns_service_changed = False
        self._report = compiler.report
        # Of the object that is taken.
        self._version = self._trigger = ""
        self._size = 0
        """Of its bytes in the store."""

    # Objects

    def upsert(self, resource: Resource, decoded: Decoded) -> None:
        item = decoded.object
        if decoded.absent:
            self.remove(resource, item.key)
            return
        place, data = storable_key(resource, item.key), pack(item, decoded.resource_version)
        before = self._txn.put("objects", place, data)
        if before is None:
            self.objects[resource] += 1
        if not says_the_same(before, data):
            self._version, self._trigger = decoded.resource_version, decoded.trigger_time
            self._size = len(data)
            self._changed(resource, item.key, before, item)

    def remove(self, resource: Resource, key: tuple[str, str], version: str = "") -> None:
        """`version`: as of which it is gone. Raises Unstorable."""
        before = self._txn.delete("objects", storable_key(resource, key))
        if before is not None:
            self.objects[resource] -= 1
            self._version, self._trigger = version, ""
            self._size = 0
            self._changed(resource, key, before, None)

    def _changed(self, resource: Resource, key: tuple[str, str], data: bytes | None, now: Object | None) -> None:
        match resource:
            case "namespaces":
                self._namespaces.setdefault(key[1], data is not None)
                self._tell([Whose(OwnerKind.NAMESPACE, key[1], "")], resource, key, data, now)
            case "services":
                self._service_changed(key, data, cast("Service | None", now))
            case "serviceimports":
                if self._compiling:
                    before = None if data is None else stored(resource, data)
                    self._imports.setdefault(key, before)
                    self._touched_imports[key] = None
                    self._tell([Whose(OwnerKind.IMPORT, *key)], resource, key, before, now)
            case "endpointslices":
                self._slice_changed(key, data, cast("EndpointSlice | None", now))
            case "pods":
                self._pod_changed(key, data, cast("Pod | None", now))
            case "nodes":
                # Answer processes read all of them again.
                self._txn.set_meta(CHANGED, b"%d" % (int(self._txn.meta(CHANGED) or b"0") + 1))

    def _tell(
        self, owners: Iterable[Whose], resource: Resource, key: tuple[str, str], before: object, now: Object | None
    ) -> None:
        """Let the history know of an object that changed."""
        if self.draft is not None and self._compiling:
            for owner in owners:
                self.draft.changed(owner, resource, key, self._version, self._trigger, before, now)

    def _service_changed(self, key: tuple[str, str], data: bytes | None, now: Service | None) -> None:
        before: Service | None = None if data is None else stored("services", data)
        self._index_addresses(self._addresses("services", before), self._addresses("services", now))
        if self._guarded(now, lambda: asks_pods(now), False):
            self._txn.index("meta", FROM_PODS + index_key(*key, ""))
        elif before is not None and before.annotations:
            self._txn.unindex("meta", FROM_PODS + index_key(*key, ""))
        if self._compiling:
            self._services.setdefault(key, before)
            self._touched[key] = None
            self._tell([Whose(OwnerKind.SERVICE, *key)], "services", key, before, now)
            self._dns_service_changed |= any(True for _ in self._txn.scan("hosts", index_key(*key, "")))

    def _slice_changed(self, key: tuple[str, str], data: bytes | None, now: EndpointSlice | None) -> None:
        before: EndpointSlice | None = None if data is None else stored("endpointslices", data)
        old = set() if before is None else {before.service, IMPORT + before.imported}
        new = set() if now is None else {now.service, IMPORT + now.imported}
        for owner in old - new - _NOBODY:
            self._txn.unindex("slices", index_key(key[0], owner, key[1]))
        for owner in new - old - _NOBODY:
            self._txn.index("slices", index_key(key[0], owner, key[1]))
        self._index_addresses(self._addresses("endpointslices", before), self._addresses("endpointslices", now))
        self._index_host(before, now)
        if self._compiling:
            known = self._slices.setdefault(key, _Known(before, len(data or b""), old))
            known.now, known.size_now = now, self._size
            for owner in (old | new) - _NOBODY:
                self._slices_by_owner.setdefault((key[0], owner), set()).add(key[1])
                touched = self._touched_imports if owner.startswith(IMPORT) else self._touched
                touched[key[0], owner.removeprefix(IMPORT)] = None
            owners = [_whose(key[0], owner) for owner in (old | new) - _NOBODY]
            self._tell(owners, "endpointslices", key, before, now)

    def _addresses(self, resource: Resource, item: Object | None) -> Mapping[bytes, bytes]:
        """Return an object's entries in the index of addresses; none
        if the compiler fails on it.
        """

        if item is None or not self._compiler.has_reverse:
            return {}

        def entries() -> Mapping[bytes, bytes]:
            if resource == "services":
                return _storable(self._compiler.reverse_of_service(cast("Service | None", item)))
            return _storable(self._compiler.reverse_of_slice(cast("EndpointSlice | None", item)))

        return self._guarded(item, entries, {})

    def _is_here(self, piece: EndpointSlice | None) -> bool:
        """Return whether a slice of a Service has this host among its endpoints."""
        if piece is None or not piece.service:
            return False
        return self._guarded(piece, lambda: self._compiler.is_here(piece), False)

    def _guarded(self, item: Object | None, work: Callable[[], _T], otherwise: _T) -> _T:
        """Return the result of `work` on an object.

        If it fails, report that and return `otherwise`.
        """
        try:
            return work()
        except NOT_AN_OBJECTS:
            raise
        except Exception as error:  # noqa: BLE001 (an object must not stop the process)
            self._report("unexpected", *(item.key if item is not None else ("", "")), told(error))
            return otherwise

    def _index_addresses(self, before: Mapping[bytes, bytes], now: Mapping[bytes, bytes]) -> None:
        for entry in before.keys() - now.keys():
            self._txn.delete("addresses", entry)
        for entry, value in now.items():
            if before.get(entry) != value:
                self._txn.put("addresses", entry, value)

    def _index_host(self, before: EndpointSlice | None, now: EndpointSlice | None) -> None:
        """Index the slices that have this host as an endpoint. Their Service is the DNS Service."""
        was, still = self._is_here(before), self._is_here(now)
        if was and before is not None:
            self._txn.unindex("hosts", index_key(before.namespace, before.service, before.name))
        if still and now is not None:
            self._txn.index("hosts", index_key(now.namespace, now.service, now.name))
        self._dns_service_changed |= was or still

    def _pod_changed(self, key: tuple[str, str], data: bytes | None, now: Pod | None) -> None:
        before: Pod | None = None if data is None else stored("pods", data)
        old = {(before.namespace, item) for item in before.addresses} if before is not None else set()
        new = {(now.namespace, item) for item in now.addresses} if now is not None else set()
        pod = before or now
        assert pod is not None
        for namespace, address in old - new:
            self._txn.unindex("pods", index_key(namespace, address, pod.name))
        for namespace, address in new - old:
            self._txn.index("pods", index_key(namespace, address, pod.name))
        self._pods.update(dict.fromkeys(old ^ new))
        if (before.weight if before is not None else "") != (now.weight if now is not None else ""):
            self._touch_weighed(pod.namespace)
        self._tell([Whose(OwnerKind.POD, *place) for place in old ^ new], "pods", key, before, now)

    def _touch_weighed(self, namespace: str) -> None:
        """Mark the Services to be compiled whose endpoints have their pods' own weights."""
        if not self._compiling:
            return
        found = [key.decode().split("/")[2] for key, _ in self._txn.scan("meta", FROM_PODS + namespace.encode() + b"/")]
        if len(found) > limits.WEIGHED_BY_PODS:
            self._report("limit", namespace, found[limits.WEIGHED_BY_PODS], _TOO_MANY_WEIGHED)
        self._touched.update(dict.fromkeys((namespace, name) for name in found[: limits.WEIGHED_BY_PODS]))

    def _pod_weights(self, service: Service | None, slices: Iterable[EndpointSlice]) -> Mapping[str, str]:
        """Return the weights that a Service's pods have of their own, if its owner wants them."""
        if service is None or not self._compiler.asks_pods(service):
            return {}
        found: dict[str, str] = {}
        for pod in {item.pod for piece in slices for item in piece.endpoints if item.pod}:
            data = self._txn.get("objects", object_key("pods", (service.namespace, pod)))
            if data is not None and (weight := cast("Pod", stored("pods", data)).weight):
                found[pod] = weight
        return found

    def _decide(self, service: Service | None, slices: Sequence[EndpointSlice]) -> Decided | None:
        """Ask the policy for a Service that has names."""
        if service is None or self._decider is None:
            return None
        return self._decider.decide(service, limits.of_slices(slices, silent))

    def _decided(self, key: tuple[str, str]) -> Decided | None:
        """Return what the policy decided the last time. Raises StoreDamaged."""
        data = self._txn.get(_DECISIONS, index_key(*key, ""))
        if data is None:
            return None
        try:
            return decisions.unpack(data)
        except msgspec.MsgspecError as error:
            raise StoreDamaged(f"a decision in it does not unpack: {error}") from error

    # What has to be compiled although it did not change

    def touch_service(self, key: tuple[str, str]) -> None:
        self._touched[key] = None

    def host_changed(self) -> None:
        self._dns_service_changed = True

    def touch_all_but_services(self) -> None:
        """Mark every namespace, ServiceImport and pod in the store to be compiled."""
        for _, data in self._txn.scan("objects", b"namespaces/"):
            self._namespaces.setdefault(stored("namespaces", data).name, False)
        for _, data in self._txn.scan("objects", b"serviceimports/"):
            self._touched_imports[stored("serviceimports", data).key] = None
        for _, data in self._txn.scan("objects", b"pods/"):
            pod = cast("Pod", stored("pods", data))
            self._pods.update(dict.fromkeys((pod.namespace, item) for item in pod.addresses))

    # Records

    def nodes_of(self, service: tuple[str, str]) -> Mapping[bytes, bytes]:
        """Return the nodes of a Service's names; nothing is written."""
        changes = self._compiled("services", service, nothing_before=True)
        return {} if changes is None else changes.put

    def compile(self, *, anew: bool = False) -> None:
        """Write the records that follow from the changes.

        `anew`: `records` has nothing of them yet.
        """
        changes = self._compiler.changes()
        draft = None if anew else self.draft
        for name, existed in self._namespaces.items():
            exists = self._exists(name)
            if draft is not None:
                draft.compiles(Whose(OwnerKind.NAMESPACE, name, ""))
            self._add(changes, ("", name), lambda mine: self._compile_namespace(mine, name, exists=exists))  # noqa: B023
            if existed != exists and not anew:
                self._touch_inhabitants(name)
        faulty = not anew and self._txn.count("faulty") > 0
        for resource, touched in (("services", self._touched), ("serviceimports", self._touched_imports)):
            for key in touched:
                began, names = self._meter(), len(changes.put) + len(changes.drop)
                self._compile_owner(cast("Resource", resource), key, changes, anew=anew, maybe_faulty=faulty)
                owner = key if resource == "services" else (key[0], IMPORT + key[1])
                if draft is not None:
                    draft.compiles(_whose(*owner))
                names = len(changes.put) + len(changes.drop) - names
                self.costs[owner] = self._meter() - began + names * _WRITTEN
                self._on_owner()
        if self._dns_service_changed and not anew:
            changes.merge(self.fixed(), ())
        for namespace, address in self._pods:
            if draft is not None:
                draft.compiles(Whose(OwnerKind.POD, namespace, address))
            self._add(changes, (namespace, address), lambda mine: self._compile_pod(mine, namespace, address))  # noqa: B023
        if anew:
            self.fill(changes.put)
        else:
            self.write(changes)

    def _add(self, changes: Changes, key: tuple[str, str], work: Callable[[Changes], None]) -> None:
        """Add the changes of `work`. If it fails, add none of them: its names stay as they are."""
        mine = self._compiler.changes()
        try:
            work(mine)
            _storable(mine.put)
        except NOT_AN_OBJECTS:
            raise
        except Exception as error:  # noqa: BLE001 (one object must not stop the others)
            self._report("unexpected", *key, told(error))
        else:
            changes.merge(mine.put, mine.drop)

    def _touch_inhabitants(self, namespace: str) -> None:
        """Mark everything in a namespace that was added or deleted to be compiled too."""
        start = namespace.encode() + _SEPARATOR
        for key, _ in self._txn.scan("objects", b"services/" + start):
            self._touched[namespace, key.decode().split("/", 2)[2]] = None
        for key, _ in self._txn.scan("objects", b"serviceimports/" + start):
            self._touched_imports[namespace, key.decode().split("/", 2)[2]] = None
        for key, _ in self._txn.scan("pods", start):
            self._pods[namespace, key.decode().split("/", 2)[1]] = None

    def _compile_namespace(self, changes: Changes, name: str, *, exists: bool) -> None:
        self._compiler.namespace(name, exists and self._compiler.serves(name), changes)

    def _compile_pod(self, changes: Changes, namespace: str, address: str) -> None:
        known = self._exists(namespace) and self._compiler.serves(namespace)
        held = sum(1 for _ in self._txn.scan("pods", index_key(namespace, address, ""))) if known else 0
        self._compiler.pod_address(namespace, address, held, changes)

    def _compile_owner(
        self, resource: Resource, key: tuple[str, str], changes: Changes, *, anew: bool, maybe_faulty: bool
    ) -> None:
        """Compile the names of a Service or a ServiceImport, and
        note or clear that it is faulty.
        """
        place = object_key(resource, key)
        noted = self._txn.get("faulty", place) if maybe_faulty else None
        if noted is None and (mine := self._compiled(resource, key, nothing_before=anew)) is not None:
            changes.merge(mine.put, mine.drop)
            return
        # Its previous state may be what fails, so replace all its names without compiling that
        # state.
        names = _names(noted) if noted is not None else [] if anew else self._names_before(resource, key)
        mine = None if anew else self._compiled(resource, key, nothing_before=True)
        if mine is None:
            self.mark_faulty(resource, key, names)
            return
        changes.merge(mine.put, names)
        if noted is not None:
            self._txn.unindex("faulty", place)

    def _compiled(self, resource: Resource, key: tuple[str, str], *, nothing_before: bool) -> Changes | None:
        """Return the changes to an owner's names.

        If the compiler fails on it, report that; return None.
        """
        changes = self._compiler.changes()
        try:
            if resource == "services":
                self._compile_service(key, changes, nothing_before=nothing_before)
            else:
                self._compile_import(key, changes, nothing_before=nothing_before)
            _storable(changes.put)
        except NOT_AN_OBJECTS:
            raise
        except Exception as error:
            if is_damage(error):
                raise
            self._report("unexpected", *key, told(error))  # one Service must not stop the others
            return None
        return changes

    def mark_faulty(self, resource: Resource, key: tuple[str, str], names: Iterable[bytes]) -> None:
        """Note that the compiler failed on an owner, and which names it still has."""
        self._txn.index("faulty", object_key(resource, key), msgspec.msgpack.encode(sorted(names)))

    def _names_before(self, resource: Resource, key: tuple[str, str]) -> Iterable[bytes]:
        """Return the names that an owner had before this transaction, by
        compiling its previous state.

        That state compiled before. If it fails now, the names are not known, and stay until
        everything is compiled again.
        """
        names = Changes()
        try:
            if resource == "services":
                self._compiler.service((None, ()), self._service_before(key), names, decided=(None, self._decided(key)))
            else:
                self._compiler.service_import((None, ()), self._import_before(key), names)
        except NOT_AN_OBJECTS:
            raise
        except Exception:  # noqa: BLE001 (it is reported already)
            return []
        return list(names.put)

    def _existence(self, namespace: str) -> tuple[bool, bool]:
        """Return whether a namespace existed and was served before this
        batch, and whether it is now.
        """
        served = self._compiler.serves(namespace)
        exists = served and self._exists(namespace)
        return served and self._namespaces.get(namespace, exists), exists

    def _service_before(self, key: tuple[str, str]) -> tuple[Service | None, list[EndpointSlice]]:
        """Return a Service and its slices before this batch; None for one without its namespace."""
        existed, _ = self._existence(key[0])
        before = self._services[key] if key in self._services else self._service(key)
        return before if existed else None, self._slices_of(key)[0]

    def _import_before(self, key: tuple[str, str]) -> tuple[ServiceImport | None, list[EndpointSlice]]:
        """Return the same of a ServiceImport."""
        existed, _ = self._existence(key[0])
        before = self._imports[key] if key in self._imports else self._import(key)
        return before if existed else None, self._slices_of((key[0], IMPORT + key[1]))[0]

    def _compile_service(self, key: tuple[str, str], changes: Changes, *, nothing_before: bool) -> None:
        existed, exists = self._existence(key[0])
        after = self._service(key)
        before = self._services.get(key, after)
        slices_before, slices_after = self._slices_of(key)
        service = after if exists else None
        decided = self._decide(service, slices_after)
        self._compiler.service(
            (None, ()) if nothing_before else (before if existed else None, slices_before),
            (service, slices_after),
            changes,
            self._pod_weights(service, slices_after),
            (self._decided(key), decided),
        )
        if decided is not None:
            self._txn.index(_DECISIONS, index_key(*key, ""), decisions.pack(decided))
        else:
            self._txn.unindex(_DECISIONS, index_key(*key, ""))

    def _compile_import(self, key: tuple[str, str], changes: Changes, *, nothing_before: bool) -> None:
        existed, exists = self._existence(key[0])
        after = self._import(key)
        before = self._imports.get(key, after)
        slices_before, slices_after = self._slices_of((key[0], IMPORT + key[1]))
        self._compiler.service_import(
            (None, ()) if nothing_before else (before if existed else None, slices_before),
            (after if exists else None, slices_after),
            changes,
        )

    def fixed(self) -> dict[bytes, bytes]:
        """Return the nodes that every zone has.

        They have this host's addresses if the compiler fails on those of the DNS Service.
        """
        try:
            return _storable(self._compiler.fixed(self.name_servers()))
        except NOT_AN_OBJECTS:
            raise
        except Exception as error:  # noqa: BLE001 (the DNS Service's slices must not stop the others)
            self._report("unexpected", "", "ns.dns", told(error))
            return self._compiler.fixed(None)

    def name_servers(self) -> list[NameServer] | None:
        """Return the addresses of the DNS Service, or None if no Service
        has this host as an endpoint.
        """
        found: list[NameServer] | None = None
        slices: Counter[str] = Counter()
        for key, _ in self._txn.scan("hosts"):
            namespace, owner, name = key.decode().split("/", 2)
            if slices[namespace] == limits.HOST_SLICES_OF_A_NAMESPACE:
                continue  # any tenant may name this host as an endpoint
            if slices.total() == limits.HOST_SLICES:
                break
            slices[namespace] += 1
            service = self._service((namespace, owner))
            data = self._txn.get("objects", object_key("endpointslices", (namespace, name)))
            found = found or []
            if service is not None and data is not None:
                found += self._compiler.name_servers(service, stored("endpointslices", data))
        return found

    def reindex(self, resource: Resource, item: Object) -> None:
        """Add an object to the indexes that depend on the settings, after these were emptied."""
        self._index_addresses({}, self._addresses(resource, item))
        if resource == "endpointslices":
            self._index_host(None, cast("EndpointSlice", item))

    def write(self, changes: Changes) -> None:
        """Write and delete nodes; in the order of their keys, because neighbours share pages."""
        txn, counts = self._txn, self.counts
        note = None if self.draft is None else self.draft.note
        for name in changes.drop:
            if name not in changes.put and (before := txn.delete("records", name)) is not None:
                counts[before[2]] -= 1
                if note is not None and exists(before):
                    note(name, before, None)
        for name, node in sorted(changes.put.items()):
            before = txn.put("records", name, node)
            if before is not None:
                counts[before[2]] -= 1
            counts[node[2]] += 1
            if note is not None and before is not node:  # `put` gives back what it was given where that was there
                was, now = (item if exists(item) else None for item in (before, node))
                if was is not None or now is not None:
                    note(name, was, now)

    def fill(self, nodes: dict[bytes, bytes]) -> None:
        """Write nodes whose names are new."""
        if self._txn.fill(sorted(nodes.items())):
            for node in nodes.values():
                self.counts[node[2]] += 1
        else:  # two zones share names: count the stored nodes
            self.counts = [0] * len(Kind)
            for _, node in self._txn.scan("records"):
                self.counts[node[2]] += 1

    def _exists(self, namespace: str) -> bool:
        return self._txn.get("objects", object_key("namespaces", ("", namespace))) is not None

    def _service(self, key: tuple[str, str]) -> Service | None:
        data = self._txn.get("objects", object_key("services", key))
        return None if data is None else cast("Service", stored("services", data))

    def _import(self, key: tuple[str, str]) -> ServiceImport | None:
        data = self._txn.get("objects", object_key("serviceimports", key))
        return None if data is None else cast("ServiceImport", stored("serviceimports", data))

    def _slices_of(self, owner: tuple[str, str]) -> tuple[list[EndpointSlice], list[EndpointSlice]]:
        """Return the slices of a Service or an import before this batch
        and now, each sorted by name.

        Each has at most `limits.MAX_READ` bytes, so that slices left out before are left out here
        too.
        """
        namespace = owner[0]
        known_names = [key.decode().rpartition("/")[2] for key, _ in self._txn.scan("slices", index_key(*owner, ""))]
        changed = self._slices_by_owner.get(owner, ())
        before: list[EndpointSlice] = []
        after: list[EndpointSlice] = []
        room_before = room_after = limits.MAX_READ
        mine = set(known_names)
        for name in sorted(mine.union(changed)) if changed else known_names:
            now: EndpointSlice | None = None
            size = 0
            if name in changed:
                known = self._slices[namespace, name]
                if name in mine:
                    now, size = known.now, known.size_now
                was, size_before = (known.piece, known.size) if owner[1] in known.owners else (None, 0)
            else:
                if (data := self._txn.get("objects", object_key("endpointslices", (namespace, name)))) is not None:
                    now, size = stored("endpointslices", data), len(data)
                was, size_before = now, size
            if was is not None and room_before > 0:
                room_before -= max(size_before, limits.LEAST_READ)
                before.append(was)
            if now is not None and room_after > 0:
                room_after -= max(size, limits.LEAST_READ)
                after.append(now)
            if room_before <= 0 and room_after <= 0:
                self._compiler.too_many_slices(namespace, owner[1].removeprefix(IMPORT))
                break
        return before, after


def _whose(namespace: str, owner: str) -> Whose:
    """An owner as the history has it; `owner` as in the index of slices."""
    if owner.startswith(IMPORT):
        return Whose(OwnerKind.IMPORT, namespace, owner.removeprefix(IMPORT))
    return Whose(OwnerKind.SERVICE, namespace, owner)


@dataclass(slots=True)
class _Known:
    """A slice before this batch, its size in the store, and its owners; and the slice now."""

    piece: EndpointSlice | None
    size: int
    owners: Collection[str]
    now: EndpointSlice | None = None
    size_now: int = 0


def _storable(entries: _M) -> _M:
    """Return the same entries.

    Raises ValueError for a key that is too long for LMDB, before any write.
    """
    longest = max(map(len, entries), default=0)
    if longest > MAX_KEY:
        raise ValueError(f"a name of {longest} bytes cannot be stored")
    return entries
