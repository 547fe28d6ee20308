"""Objects in, one transaction out: what the store holds follows what the sources say.

A batch of changes is one write transaction: objects, indexes, records, and how
far each source was read. A reader sees all of it or nothing, and a crash leaves
the state before.

A complete list is taken as a difference: its pages wait in `staging` until the
last one is there, so that nothing disappears because a page was missing. Then
it is applied in transactions of whole Services: a name's answer still changes in
one step. Before the first complete list of everything (`ready`) nothing is
published; lists come sorted by namespace, and each namespace is compiled as soon
as the pages of slices have passed it, while the server prepares the next.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from headwater.cluster.objects import (
    Decoded,
    EndpointSlice,
    Namespace,
    Object,
    Pod,
    Resource,
    Service,
    pack,
    unpack,
)
from headwater.records.compiler import Changes, Compiler, differing_labels
from headwater.store.environment import READY, SERIAL, Store, Transaction
from headwater.store.node import Kind

#: Services compiled per transaction when everything is: bounds memory, not correctness.
_CHUNK: Final = 256
_COUNTS: Final = b"counts"
_KINDS: Final = struct.Struct(f">{len(Kind)}q")
_SEPARATOR: Final = b"/"
#: Behind every namespace.
_LAST: Final = b"\xff"
_ALL: Final[tuple[Resource, ...]] = ("namespaces", "services", "endpointslices", "pods")


@dataclass(frozen=True, slots=True)
class Upsert:
    """An object as it is now."""

    resource: Resource
    decoded: Decoded


@dataclass(frozen=True, slots=True)
class Remove:
    """An object that is no more."""

    resource: Resource
    key: tuple[str, str]
    resource_version: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """Nothing changed up to that version (a bookmark)."""

    resource: Resource
    resource_version: str


@dataclass(frozen=True, slots=True)
class ListPageArrived:
    """Objects of a list that is under way. `first`: it has just begun."""

    resource: Resource
    decoded: Sequence[Decoded]
    first: bool


@dataclass(frozen=True, slots=True)
class ListComplete:
    """The list is whole, as of that version."""

    resource: Resource
    resource_version: str


Change = Upsert | Remove | Progress | ListPageArrived | ListComplete


@dataclass(slots=True)
class Outcome:
    """What a commit did."""

    records_changed: int = 0
    trigger_times: list[str] = field(default_factory=list)
    """When the changes in it happened, as their slices say."""


def _key(resource: Resource, key: tuple[str, str]) -> bytes:
    return b"/".join((resource.encode(), key[0].encode(), key[1].encode()))


def _index(namespace: str, owner: str, name: str) -> bytes:
    return b"/".join((namespace.encode(), owner.encode(), name.encode()))


def version_key(resource: Resource) -> bytes:
    """Where `meta` keeps how far a resource was read."""
    return b"version/" + resource.encode()


class Ledger:
    """The writer's bookkeeping over one store."""

    def __init__(
        self,
        store: Store,
        compiler: Compiler,
        resources: Sequence[Resource],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`resources`: those that answers depend on."""
        self._store = store
        self._compiler = compiler
        self._resources = tuple(resources)
        self._clock = clock
        self.ready = False
        self._early: _Early | None = None
        self._published = store.is_published
        self.counts = [0] * len(Kind)
        """Names held, by Kind."""
        self.objects: dict[Resource, int] = dict.fromkeys(_ALL, 0)
        """Objects held, by resource."""
        store.write(self._begin)
        store.read(self._count_objects)
        if self._is_synced():
            if store.shape_matches and store.read(lambda txn: txn.meta(READY)):
                self.ready = True
            else:
                self._compile_all()
        self._publish()

    def _begin(self, txn: Transaction) -> None:
        counts = txn.meta(_COUNTS)
        self.counts = list(_KINDS.unpack(counts)) if counts else [0] * len(Kind)
        # A resource that is not watched any more cannot stay true.
        for resource in _ALL:
            if resource not in self._resources and txn.meta(version_key(resource)):
                self._forget(txn, resource)

    def versions(self) -> dict[Resource, str]:
        """How far each resource was read; "" where no list was ever complete."""

        def read(txn: Transaction) -> dict[Resource, str]:
            return {item: (txn.meta(version_key(item)) or b"").decode() for item in self._resources}

        return self._store.read(read)

    def _count_objects(self, txn: Transaction) -> None:
        for item in self._resources:
            self.objects[item] = sum(1 for _ in txn.scan("objects", item.encode() + _SEPARATOR))

    def _is_synced(self) -> bool:
        return all(self.versions().values())

    def commit(self, changes: Sequence[Change]) -> Outcome:
        """Take a batch over. Raises StoreFull (nothing was written: try the same again) or StoreDamaged."""
        outcome = Outcome()
        events: list[Upsert | Remove | Progress] = []
        for change in changes:
            if isinstance(change, Upsert | Remove | Progress):
                events.append(change)
                continue
            if events:
                self._commit_events(events, outcome)
                events = []
            if isinstance(change, ListPageArrived):
                self._write(lambda txn, page=change: self._take_page(txn, page))  # type: ignore[misc]
                if not self.ready:
                    outcome.records_changed += self._compile_early(change)
            else:
                self._complete(change, outcome)
        if events:
            self._commit_events(events, outcome)
        self._publish()
        return outcome

    def _publish(self) -> None:
        """Once it is ready; again if that failed, for a link needs room on the disk too."""
        if self.ready and not self._published:
            self._store.publish()
            self._published = True

    # Events

    def _commit_events(self, events: Sequence[Upsert | Remove | Progress], outcome: Outcome) -> None:
        def work(txn: Transaction) -> _Batch:
            batch = self._batch(txn, compiling=self.ready)
            for event in events:
                if isinstance(event, Progress):
                    txn.set_meta(version_key(event.resource), event.resource_version.encode())
                    continue
                if isinstance(event, Remove):
                    batch.remove(event.resource, event.key)
                    version = event.resource_version
                else:
                    batch.upsert(event.resource, event.decoded)
                    version = event.decoded.resource_version
                if version:
                    txn.set_meta(version_key(event.resource), version.encode())
            return self._finish(txn, batch)

        outcome.records_changed += self._write(work)
        if self._early is not None and any(self._early.passed(event) for event in events):
            self._early = None
        outcome.trigger_times += [
            event.decoded.trigger_time for event in events if isinstance(event, Upsert) and event.decoded.trigger_time
        ]

    def _batch(self, txn: Transaction, *, compiling: bool) -> _Batch:
        return _Batch(txn, self._compiler, list(self.counts), dict(self.objects), compiling=compiling)

    def _write(self, work: Callable[[Transaction], _Batch]) -> int:
        """Commit what `work` does, and only then believe what it has counted; how many records changed."""

        def run(txn: Transaction) -> tuple[_Batch, int]:
            return work(txn), txn.changed

        batch, changed = self._store.write(run)
        self.counts, self.objects = batch.counts, batch.objects
        return changed

    def _finish(self, txn: Transaction, batch: _Batch) -> _Batch:
        if self.ready:
            batch.compile()
        if txn.changed:
            self._advance_serial(txn)
            txn.set_meta(_COUNTS, _KINDS.pack(*batch.counts))
        return batch

    def _advance_serial(self, txn: Transaction) -> None:
        before = int.from_bytes(txn.meta(SERIAL) or b"", "big")
        txn.set_meta(SERIAL, (max(before, int(self._clock())) & 0xFFFFFFFF).to_bytes(4, "big"))

    # Lists

    def _forget(self, txn: Transaction, resource: Resource) -> None:
        """Remove every object of a resource, and what points to them; not the records."""
        for key, _ in list(txn.scan("objects", resource.encode() + _SEPARATOR)):
            txn.delete("objects", key)
        if resource == "endpointslices":
            txn.clear("slices")
        elif resource == "pods":
            txn.clear("pods")
        txn.set_meta(version_key(resource), b"")

    def _take_page(self, txn: Transaction, page: ListPageArrived) -> _Batch:
        batch = self._batch(txn, compiling=False)
        resource = page.resource
        if not self.ready:
            # Nothing is served from here yet: no need for the detour.
            if page.first:
                self._forget(txn, resource)
                batch.objects[resource] = 0
            for decoded in page.decoded:
                batch.upsert(resource, decoded)
            return batch
        if page.first:
            self._clear_staging(txn, resource)
        for decoded in page.decoded:
            if not decoded.absent:
                txn.index("staging", _key(resource, decoded.object.key), pack(decoded.object))
        return batch

    @staticmethod
    def _clear_staging(txn: Transaction, resource: Resource) -> None:
        for key in [key for key, _ in txn.scan("staging", resource.encode() + _SEPARATOR)]:
            txn.unindex("staging", key)

    def _complete(self, change: ListComplete, outcome: Outcome) -> None:
        resource, version = change.resource, change.resource_version.encode()
        if self.ready:
            differing = self._store.read(lambda txn: self._differing(txn, resource))
            for group in _chunks(differing):
                outcome.records_changed += self._write(
                    lambda txn, group=group: self._apply_staged(txn, resource, group)  # type: ignore[misc]
                )

        def settle(txn: Transaction) -> None:
            self._clear_staging(txn, resource)
            txn.set_meta(version_key(resource), version)

        self._store.write(settle)
        if not self.ready and self._is_synced():
            outcome.records_changed += self._compile_all()

    def _differing(self, txn: Transaction, resource: Resource) -> list[tuple[tuple[str, str], bytes]]:
        """((namespace, owner), key) of the objects that staging and store do not agree on, by owner.

        The owner is the Service, so that what belongs together is applied together.
        """
        prefix = resource.encode() + _SEPARATOR
        found: list[tuple[tuple[str, str], bytes]] = []
        for key, now, before in _merged(txn.scan("staging", prefix), txn.scan("objects", prefix)):
            if now != before:
                owners = {_owner(unpack(resource, data)) for data in (now, before) if data is not None}
                found.append((min(owners), key))
        found.sort()
        return found

    def _apply_staged(self, txn: Transaction, resource: Resource, keys: Sequence[bytes]) -> _Batch:
        batch = self._batch(txn, compiling=True)
        for key in keys:
            data = txn.get("staging", key)
            if data is None:
                _, namespace, name = key.decode().split("/", 2)
                batch.remove(resource, (namespace, name))
            else:
                batch.upsert(resource, Decoded(unpack(resource, data), ""))
        return self._finish(txn, batch)

    # Everything anew

    def _compile_early(self, page: ListPageArrived) -> int:
        """Compile the namespaces that a page of slices has passed, once everything else is listed."""
        others = [item for item in self._resources if item != "endpointslices"]
        if page.resource in others:
            self._early = None  # its objects may be in namespaces that were compiled already
        if page.resource != "endpointslices" or not page.decoded:
            return 0
        if page.first:
            self._early = None
        if self._early is None:
            versions = self.versions()
            if not all(versions[item] for item in others):
                return 0
            self._write(self._begin_records)
            self._early = _Early()
        start, stop = self._early.advance([decoded.object.key[0] for decoded in page.decoded])
        return self._compile_services(start, stop)

    def _compile_all(self) -> int:
        """All records from all objects, in transactions of some hundred Services; then `ready`."""
        if self._early is None or not self._early.sorted:
            self._write(self._begin_records)
            self._early = _Early()
        written = self._compile_services(self._early.reached, _LAST)
        self._write(self._fixed_records)

        def finish(txn: Transaction) -> None:
            self._advance_serial(txn)
            txn.set_meta(_COUNTS, _KINDS.pack(*self.counts))
            self._store.sign_shape(txn)
            txn.set_meta(READY, b"1")

        self._store.write(finish)
        self._early = None
        self.ready = True
        return written

    def _begin_records(self, txn: Transaction) -> _Batch:
        # Until the end these are no settings' records.
        txn.set_meta(READY, b"")
        txn.clear("records")
        batch = self._batch(txn, compiling=True)
        batch.counts = [0] * len(Kind)
        return batch

    def _fixed_records(self, txn: Transaction) -> _Batch:
        """What does not belong to a Service: the zones' names, namespaces, pods."""
        batch = self._batch(txn, compiling=True)
        batch.fill(self._compiler.fixed())
        for _, data in txn.scan("objects", b"namespaces/"):
            batch.touch_namespace(cast("Namespace", unpack("namespaces", data)).name)
        for _, data in txn.scan("objects", b"pods/"):
            batch.touch_pod(unpack("pods", data))
        batch.compile(anew=True)
        return batch

    def _compile_services(self, start: bytes, stop: bytes) -> int:
        """The Services of the namespaces from `start` on and before `stop`, some hundred per transaction."""
        prefix = b"services/"
        keys = self._store.read(lambda txn: list(txn.keys("objects", prefix + start, prefix + stop)))
        written = 0
        for at in range(0, len(keys), _CHUNK):
            some = keys[at : at + _CHUNK]
            written += self._write(lambda txn, some=some: self._compile_some(txn, some))  # type: ignore[misc]
        return written

    def _compile_some(self, txn: Transaction, services: Sequence[bytes]) -> _Batch:
        batch = self._batch(txn, compiling=True)
        for key in services:
            _, namespace, name = key.decode().split("/", 2)
            batch.touch_service((namespace, name))
        batch.compile(anew=True)
        return batch


def _owner(item: Object) -> tuple[str, str]:
    if isinstance(item, EndpointSlice):
        return item.namespace, item.service
    return item.key


def _chunks(differing: Sequence[tuple[tuple[str, str], bytes]]) -> Iterator[list[bytes]]:
    """Keys in groups of about _CHUNK; one owner's are never divided."""
    group: list[bytes] = []
    last: tuple[str, str] | None = None
    for owner, key in differing:
        if len(group) >= _CHUNK and owner != last:
            yield group
            group = []
        group.append(key)
        last = owner
    if group:
        yield group


def _merged(
    left: Iterator[tuple[bytes, bytes]], right: Iterator[tuple[bytes, bytes]]
) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    """(key, left's value, right's value) of two sorted sequences; None where one lacks the key."""
    one, two = next(left, None), next(right, None)
    while one is not None or two is not None:
        if two is None or (one is not None and one[0] < two[0]):
            assert one is not None
            yield one[0], one[1], None
            one = next(left, None)
        elif one is None or two[0] < one[0]:
            yield two[0], None, two[1]
            two = next(right, None)
        else:
            yield one[0], one[1], two[1]
            one, two = next(left, None), next(right, None)


@dataclass(slots=True)
class _Early:
    """How far the records were compiled while the slices were still being listed.

    Places are namespaces with a slash behind, as in the server's keys and ours:
    that is the order in which a list comes ("a-b/" before "a/").
    """

    reached: bytes = b""
    """Every namespace before this one is compiled."""
    sorted: bool = True
    """While it is not, nothing is known to be whole before the end."""

    def advance(self, namespaces: Sequence[str]) -> tuple[bytes, bytes]:
        """The places between which everything is known, now that a page with these namespaces has come."""
        places = [f"{namespace}/".encode() for namespace in namespaces]
        start = self.reached
        self.sorted = self.sorted and start <= places[0] and places == sorted(places)
        if self.sorted:
            self.reached = places[-1]
        return start, self.reached

    def passed(self, event: Upsert | Remove | Progress) -> bool:
        """Whether an event is about what was compiled already: then that was for nothing."""
        if isinstance(event, Progress):
            return False
        key = event.key if isinstance(event, Remove) else event.decoded.object.key
        return f"{key[0] or key[1]}/".encode() < self.reached


class _Batch:
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
        self._slices: dict[tuple[str, str], EndpointSlice | None] = {}
        self._pods: dict[tuple[str, str], None] = {}
        self._touched: dict[tuple[str, str], None] = {}

    # Objects

    def upsert(self, resource: Resource, decoded: Decoded) -> None:
        item = decoded.object
        if decoded.absent:
            self.remove(resource, item.key)
            return
        data = pack(item)
        before = self._txn.put("objects", _key(resource, item.key), data)
        if before is None:
            self.objects[resource] += 1
        if before != data:
            self._changed(resource, item.key, before, item)

    def remove(self, resource: Resource, key: tuple[str, str]) -> None:
        before = self._txn.delete("objects", _key(resource, key))
        if before is not None:
            self.objects[resource] -= 1
            self._changed(resource, key, before, None)

    def _changed(self, resource: Resource, key: tuple[str, str], data: bytes | None, now: Object | None) -> None:
        match resource:
            case "namespaces":
                self._namespaces.setdefault(key[1], data is not None)
            case "services":
                if self._compiling:
                    self._services.setdefault(key, None if data is None else unpack(resource, data))
                    self._touched[key] = None
            case "endpointslices":
                self._slice_changed(key, data, cast("EndpointSlice | None", now))
            case "pods":
                self._pod_changed(data, cast("Pod | None", now))

    def _slice_changed(self, key: tuple[str, str], data: bytes | None, now: EndpointSlice | None) -> None:
        before: EndpointSlice | None = None if data is None else unpack("endpointslices", data)
        old = before.service if before is not None else ""
        new = now.service if now is not None else ""
        if old and old != new:
            self._txn.unindex("slices", _index(key[0], old, key[1]))
        if new and old != new:
            self._txn.index("slices", _index(key[0], new, key[1]))
        if self._compiling:
            self._slices.setdefault(key, before)
            for service in {old, new} - {""}:
                self._touched[key[0], service] = None

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

    def touch_pod(self, pod: Pod) -> None:
        self._pods.update(dict.fromkeys((pod.namespace, item) for item in pod.addresses))

    # Records

    def compile(self, *, anew: bool = False) -> None:
        """Write what follows from the changes. `anew`: of what was touched `records` holds nothing yet."""
        changes = Changes()
        for name, existed in self._namespaces.items():
            exists = self._exists(name)
            self._compiler.namespace(name, exists and self._compiler.serves(name), changes)
            if existed != exists and not anew:
                for key, _ in self._txn.scan("objects", b"services/" + name.encode() + _SEPARATOR):
                    self._touched[name, key.decode().split("/", 2)[2]] = None
                for key, _ in self._txn.scan("pods", name.encode() + _SEPARATOR):
                    self._pods[name, key.decode().split("/", 2)[1]] = None
        for service in self._touched:
            self._compile_service(service, changes, anew=anew)
        for namespace, address in self._pods:
            held = any(True for _ in self._txn.scan("pods", _index(namespace, address, "")))
            known = self._exists(namespace) and self._compiler.serves(namespace)
            self._compiler.pod_address(namespace, address, held and known, changes)
        if anew:
            self.fill(changes.put)
        else:
            self.write(changes)

    def _compile_service(self, key: tuple[str, str], changes: Changes, *, anew: bool) -> None:
        namespace = key[0]
        served = self._compiler.serves(namespace)
        exists = served and self._exists(namespace)
        existed = served and self._namespaces.get(namespace, exists)
        after = self._service(key)
        before = self._services.get(key, after)
        slices_after = self._slices_of(key)
        changed_after = [item for item in slices_after if item.key in self._slices]
        changed_before = [item for item in self._slices.values() if item is not None and _owner(item) == key]
        slices_before = [item for item in slices_after if item.key not in self._slices] + changed_before
        only = None
        if before == after and exists == existed and not anew:
            only = differing_labels(changed_before, changed_after, self._compiler.pod_names)
        self._compiler.service(
            (None, ()) if anew else (before if existed else None, slices_before),
            (after if exists else None, slices_after),
            only,
            changes,
        )

    def write(self, changes: Changes) -> None:
        """Put and drop; sorted, for neighbours share pages."""
        txn, counts = self._txn, self.counts
        for name in changes.drop:
            if name not in changes.put and (before := txn.delete("records", name)) is not None:
                counts[before[2]] -= 1
        for name, node in sorted(changes.put.items()):
            if txn.put("records", name, node) is None:
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
        return self._txn.get("objects", _key("namespaces", ("", namespace))) is not None

    def _service(self, key: tuple[str, str]) -> Service | None:
        data = self._txn.get("objects", _key("services", key))
        return None if data is None else cast("Service", unpack("services", data))

    def _slices_of(self, key: tuple[str, str]) -> list[EndpointSlice]:
        found: list[EndpointSlice] = []
        for index, _ in self._txn.scan("slices", _index(*key, "")):
            data = self._txn.get("objects", _key("endpointslices", (key[0], index.decode().split("/", 2)[2])))
            if data is not None:
                found.append(unpack("endpointslices", data))
        return found
