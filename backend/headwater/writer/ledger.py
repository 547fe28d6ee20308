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

from headwater.cluster.changes import Change, ListComplete, ListPageArrived, Progress, Remove, Upsert
from headwater.cluster.objects import Decoded, Namespace, Resource, pack, packed_version, unpack
from headwater.records.compiler import Compiler
from headwater.store.environment import READY, SERIAL, Store, StoreFull, Transaction
from headwater.store.holders import Holder, holder_of
from headwater.store.node import Kind
from headwater.writer.posting import Posting, object_key, owner_of

#: Services compiled per transaction when everything is: bounds memory, not correctness.
_CHUNK: Final = 256
#: Objects of a complete list compared at a time: bounds memory too.
_RANGE: Final = 10_000
_COUNTS: Final = b"counts"
_HOST: Final = b"host"
_KINDS: Final = struct.Struct(f">{len(Kind)}q")
_SEPARATOR: Final = b"/"
#: Behind every namespace.
_LAST: Final = b"\xff"
#: Who is an address's in the index of addresses.
_HOLDERS: Final[dict[Resource, Holder]] = {"services": Holder.SERVICE, "endpointslices": Holder.SLICE}
_ALL: Final[tuple[Resource, ...]] = ("namespaces", "services", "endpointslices", "pods", "serviceimports")


@dataclass(slots=True)
class Outcome:
    """What a commit did."""

    records_changed: int = 0
    trigger_times: list[str] = field(default_factory=list)
    """When the changes in it happened, as their slices say."""


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
        self._staged: set[Resource] = set()
        self._published = store.is_published
        self.counts = [0] * len(Kind)
        """Names held, by Kind."""
        self.objects: dict[Resource, int] = dict.fromkeys(_ALL, 0)
        """Objects held, by resource."""
        store.write(self._begin)
        store.read(self._count_objects)
        moved = store.read(lambda txn: txn.meta(_HOST)) != compiler.host
        if moved or not store.shape_matches:
            store.write(self._reindex)
        if self._is_synced():
            if store.shape_matches and store.read(lambda txn: txn.meta(READY)):
                self.ready = True
                if moved:
                    self._write(self._move)
            else:
                self._compile_all()
        self._publish()

    def _reindex(self, txn: Transaction) -> None:
        """Fill the indexes that depend on the settings and the host: one of these is another than before."""
        batch = self._batch(txn, compiling=False)
        for db in ("addresses", "hosts"):
            txn.clear(db)
        for resource in _HOLDERS:
            for _, data in txn.scan("objects", resource.encode() + _SEPARATOR):
                batch.reindex(resource, unpack(resource, data))
        txn.set_meta(_HOST, self._compiler.host)

    def _move(self, txn: Transaction) -> Posting:
        """Write the names of this host, which has other addresses than before."""
        batch = self._batch(txn, compiling=True)
        batch.host_changed()
        return self._finish(txn, batch)

    def _begin(self, txn: Transaction) -> None:
        counts = txn.meta(_COUNTS)
        self.counts = list(_KINDS.unpack(counts)) if counts else [0] * len(Kind)
        txn.clear("staging")  # of a list that begins anew
        # A resource that is not watched any more cannot stay true.
        for resource in _ALL:
            if resource not in self._resources and txn.meta(version_key(resource)):
                self._forget(txn, resource)

    def versions(self) -> dict[Resource, str]:
        """How far each resource was read; "" where no list was ever complete."""

        def read(txn: Transaction) -> dict[Resource, str]:
            return {item: (txn.meta(version_key(item)) or b"").decode() for item in self._resources}

        return self._store.read(read)

    def stored_version(self, key: bytes) -> int | None:
        """The version of the object under that key of `objects`, None when there is none. From any thread."""
        data = self._store.read(lambda txn: txn.get("objects", key))
        return None if data is None else packed_version(data)

    def stored_versions(self, start: bytes, stop: bytes) -> list[tuple[bytes, int]]:
        """(key, version) of the objects from one key on and before another. From any thread."""

        def read(txn: Transaction) -> list[tuple[bytes, int]]:
            return [(key, packed_version(txn.get("objects", key) or b"")) for key in txn.keys("objects", start, stop)]

        return self._store.read(read)

    def _count_objects(self, txn: Transaction) -> None:
        for item in self._resources:
            self.objects[item] = sum(1 for _ in txn.scan("objects", item.encode() + _SEPARATOR))

    def _is_synced(self) -> bool:
        return all(self.versions().values())

    def commit(self, changes: Sequence[Change]) -> Outcome:
        """Take a batch over. Raises StoreFull (what was written is whole: try the same again) or StoreDamaged."""
        try:
            return self._commit(changes)
        except StoreFull:
            self._early = None  # what it was about to compile would be passed over the next time
            raise

    def _commit(self, changes: Sequence[Change]) -> Outcome:
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
        def work(txn: Transaction) -> Posting:
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

    def _batch(self, txn: Transaction, *, compiling: bool) -> Posting:
        return Posting(txn, self._compiler, list(self.counts), dict(self.objects), compiling=compiling)

    def _write(self, work: Callable[[Transaction], Posting]) -> int:
        """Commit what `work` does, and only then believe what it has counted; how many records changed."""

        def run(txn: Transaction) -> tuple[Posting, int]:
            return work(txn), txn.changed

        batch, changed = self._store.write(run)
        self.counts, self.objects = batch.counts, batch.objects
        return changed

    def _finish(self, txn: Transaction, batch: Posting) -> Posting:
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
        if resource in _HOLDERS:
            gone = [key for key, _ in txn.scan("addresses") if holder_of(key) is _HOLDERS[resource]]
            for key in gone:
                txn.delete("addresses", key)
        if resource == "endpointslices":
            txn.clear("slices")
            txn.clear("hosts")
        elif resource == "pods":
            txn.clear("pods")
        txn.set_meta(version_key(resource), b"")

    def _take_page(self, txn: Transaction, page: ListPageArrived) -> Posting:
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
            self._staged.add(resource)
        for decoded in page.decoded:
            if not decoded.absent:
                txn.index(
                    "staging", object_key(resource, decoded.object.key), pack(decoded.object, decoded.resource_version)
                )
        return batch

    def _clear_staging(self, txn: Transaction, resource: Resource) -> None:
        if self._staged <= {resource}:
            txn.clear("staging")  # which does not touch the pages that it gives back
            return
        for key in [key for key, _ in txn.scan("staging", resource.encode() + _SEPARATOR)]:
            txn.unindex("staging", key)

    def _complete(self, change: ListComplete, outcome: Outcome) -> None:
        resource, version = change.resource, change.resource_version.encode()
        if self.ready:
            start = resource.encode() + _SEPARATOR
            while start:
                differing, start = self._store.read(
                    lambda txn, start=start: self._differing(txn, resource, start)  # type: ignore[misc]
                )
                for group in _chunks(differing):
                    outcome.records_changed += self._write(
                        lambda txn, group=group: self._apply_staged(txn, resource, group)  # type: ignore[misc]
                    )
                self._store.unmap()

        def settle(txn: Transaction) -> None:
            self._clear_staging(txn, resource)
            txn.set_meta(version_key(resource), version)

        self._store.write(settle)
        self._staged.discard(resource)
        if not self.ready and self._is_synced():
            outcome.records_changed += self._compile_all()

    @staticmethod
    def _differing(
        txn: Transaction, resource: Resource, start: bytes
    ) -> tuple[list[tuple[tuple[str, str], bytes]], bytes]:
        """((namespace, owner), key) of the objects that staging and store do not agree on; and where to go on.

        From the key `start` on to the end of a namespace, or to the end (then `b""` is where to go on).
        The owner is the Service, so that what belongs together is applied together.
        """
        prefix = resource.encode() + _SEPARATOR
        found: list[tuple[tuple[str, str], bytes]] = []
        last = b""
        both = _merged(txn.scan("staging", prefix, start), txn.scan("objects", prefix, start))
        for seen, (key, now, before) in enumerate(both):
            namespace = key.rpartition(_SEPARATOR)[0]
            if seen >= _RANGE and namespace != last:
                return sorted(found), key
            last = namespace
            if now != before:
                owners = {owner_of(unpack(resource, data)) for data in (now, before) if data is not None}
                found.append((min(owners), key))
        return sorted(found), b""

    def _apply_staged(self, txn: Transaction, resource: Resource, keys: Sequence[bytes]) -> Posting:
        batch = self._batch(txn, compiling=True)
        for key in keys:
            data = txn.get("staging", key)
            if data is None:
                _, namespace, name = key.decode().split("/", 2)
                batch.remove(resource, (namespace, name))
            else:
                batch.upsert(resource, Decoded(unpack(resource, data), str(packed_version(data))))
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

    def _begin_records(self, txn: Transaction) -> Posting:
        # Until the end these are no settings' records.
        txn.set_meta(READY, b"")
        txn.clear("records")
        batch = self._batch(txn, compiling=True)
        batch.counts = [0] * len(Kind)
        return batch

    def _fixed_records(self, txn: Transaction) -> Posting:
        """What does not belong to a Service: the zones' names, namespaces, imports, pods."""
        batch = self._batch(txn, compiling=True)
        batch.fill(self._compiler.fixed(batch.name_servers()))
        for _, data in txn.scan("objects", b"namespaces/"):
            batch.touch_namespace(cast("Namespace", unpack("namespaces", data)).name)
        for _, data in txn.scan("objects", b"serviceimports/"):
            batch.touch_import(unpack("serviceimports", data).key)
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

    def _compile_some(self, txn: Transaction, services: Sequence[bytes]) -> Posting:
        batch = self._batch(txn, compiling=True)
        for key in services:
            _, namespace, name = key.decode().split("/", 2)
            batch.touch_service((namespace, name))
        batch.compile(anew=True)
        return batch


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
