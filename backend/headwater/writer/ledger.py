"""The ledger: commit the changes of the sources to the store, a batch in one transaction.

A batch of changes is one write transaction of objects, indexes, records, and the resourceVersion up
to which each source was read. A reader sees all of it or nothing, and a crash leaves the state
before it.

`settle` takes changes from the left of a deque, and removes each when its transaction is committed.
After a refusal the caller hands in the same deque again, and nothing is done twice.

Only a `Progress` and a list's end say how far a resource was read. Other events do not, because
they may be committed before their turn (`turns`). After a restart these arrive again, and a newer
object in the store stays. A deleted object stays deleted: its key and version are kept until the
resource was read further.

A complete list is applied as a difference. Its pages wait in `staging` until the last one arrives,
so that no object disappears because a page was missing (`lists`). Then it is applied in
transactions of whole Services, so that a name's answer still changes in one step.

Nothing is published before the first lists of all resources are complete. Then every object is
there, and answer processes make what they are asked for (`unmade`), while all records are made here
and no event is taken. Where a name may have several owners, or a policy decides, nothing is
published before all records are there.

An object that makes a transaction fail is left out, counted and logged, and the others are
committed without it (`isolation`; `posting` for failures that only concern records).
"""

from __future__ import annotations

import contextlib
import secrets
import struct
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from headwater.cluster.changes import Change, ListComplete, ListPageArrived, Progress, Remove, Upsert
from headwater.cluster.objects import Decoded, Resource, is_behind, is_older, packed_version, version_number
from headwater.records import decisions
from headwater.records.compiler import Compiler
from headwater.store.copied import GONE
from headwater.store.environment import MAKING, READY, SERIAL, ReadTransaction, Store, Transaction
from headwater.store.node import Kind
from headwater.writer import lists, opinion
from headwater.writer.chronicle import Chronicle, Draft
from headwater.writer.isolation import Unstorable, in_parts, told
from headwater.writer.lists import version_key
from headwater.writer.opinion import Loss, Opinion
from headwater.writer.outcome import Outcome
from headwater.writer.owners import Owner, key_of, owners_of, version_of
from headwater.writer.posting import Posting, object_key, storable_key, stored
from headwater.writer.scales import StoreScales

if TYPE_CHECKING:
    from headwater.writer.policy import Decider

#: Services per transaction when everything is compiled. It only bounds memory.
_CHUNK: Final = 256
_COUNTS: Final = b"counts"
_HOST: Final = b"host"
_KINDS: Final = struct.Struct(f">{len(Kind)}q")
_SEPARATOR: Final = b"/"
_SERVICES: Final = b"services/"
#: Between the parts of `Making`.
_ENDS: Final = b" "
#: Sorts after every namespace.
_LAST: Final = b"\xff"
#: Resources of which no record is made: where clients are does not change what a name has.
_SHAPES_NOTHING: Final[tuple[Resource, ...]] = ("nodes",)
_ALL: Final[tuple[Resource, ...]] = ("namespaces", "services", "endpointslices", "pods", "serviceimports", "nodes")

Event = Upsert | Remove | Progress


class Making(NamedTuple):
    """How far the records of a store are made that answers are given from meanwhile."""

    number: bytes
    """Another one each time that they are made anew: the objects may be others then."""
    place: bytes = b""
    """In the keys of Services: those before it have their records."""

    @classmethod
    def of(cls, packed: bytes) -> Making:
        number, _, place = packed.partition(_ENDS)
        return cls(number, place)

    @property
    def packed(self) -> bytes:
        return self.number + _ENDS + self.place

    def after(self, service: bytes) -> Making:
        """With the records of the Service under that key of `objects`, and of those before it."""
        return self._replace(place=service.removeprefix(_SERVICES) + b"\0")


class Ledger:
    """The writer's bookkeeping over one store."""

    def __init__(
        self,
        store: Store,
        compiler: Compiler,
        resources: Sequence[Resource],
        clock: Callable[[], float] = time.time,
        *,
        second_opinion: bool = False,
        meter: Callable[[], float] = time.thread_time,
        on_sign: Callable[[], None] = lambda: None,
        chronicle: Chronicle | None = None,
        withheld: bool = False,
        decider: Decider | None = None,
    ) -> None:
        """Take over a store, and compile what its settings or its host changed. Raises StoreFull.

        `resources` are those that answers depend on. With `second_opinion` a doubtful list waits
        for a second one (`opinion`), which the caller asks for. `meter` counts the seconds that
        this thread works. `on_sign` is called after each transaction, and after each owner that is
        compiled in one. Without a `chronicle` no history is kept. What is `withheld` is not
        published before `release`. `decider` is the policy.
        """
        self._decider = decider
        self._chronicle = chronicle
        self._store = store
        self._compiler = compiler
        self._resources = tuple(resources)
        self._clock = clock
        self._second_opinion = second_opinion
        self._meter = meter
        self._on_sign = on_sign
        self.scales = StoreScales(store)
        self._some_gone: set[Resource] = set(_ALL)
        """Resources that may have removed objects noted in `meta` (`copied.GONE`)."""
        self._applying: tuple[ListComplete, Iterator[Outcome]] | None = None
        """The end of the list that is being applied, and its remaining steps."""
        self.serial = self._advanced = 0
        """The SOA's serial as of the last commit, and of the transaction under way; 0 before."""
        self.ready = False
        self.doubts: dict[Resource, Loss] = {}
        """Lists that wait for a second one.

        Events are still applied, but the resource's version stays.
        """
        self._contested: frozenset[Owner] = frozenset()
        """The owners whose slices differ between a list in doubt and the store."""
        self._second: dict[Resource, tuple[Opinion, Loss]] = {}
        """What the second list said of a doubt, while that list is applied."""
        self._serves_objects = decider is None and compiler.zones_are_apart
        """Whether answers can be made from objects before all records are there."""
        self._making: Making | None = None
        """How far the records of a store are made that is published without all of them."""
        self._published = store.is_published
        self.withheld = withheld
        self.counts = [0] * len(Kind)
        """The number of names in the store, by Kind."""
        self.objects: dict[Resource, int] = dict.fromkeys(_ALL, 0)
        """The number of objects in the store, by resource."""
        store.write(self._begin)
        store.read(self._count_objects)
        moved = store.read(lambda txn: txn.meta(_HOST)) != compiler.host
        # Records that are served stay, whatever else is watched from now on.
        shaped = self._is_synced(_SHAPES_NOTHING) and store.shape_matches
        self.ready = shaped and bool(store.read(lambda txn: txn.meta(READY)))
        if making := store.read(lambda txn: txn.meta(MAKING)):
            if self._serves_objects and shaped and not moved:
                self._making = Making.of(making)
            else:
                store.write(lambda txn: txn.set_meta(MAKING, b""))
        if chronicle is not None:
            chronicle.open(store, ready=self.ready)
        if moved or not store.shape_matches:
            self._write(partial(self._reindex, moved=moved))
        self._catch_up(Outcome())

    def _reindex(self, txn: Transaction, *, moved: bool) -> Posting:
        """Fill the indexes that depend on the settings and the host,
        because one of these has changed.

        When the host has `moved`, its names are written in the same transaction. A process that
        dies before the commit finds the old host in the store, and begins again.
        """
        batch = self._batch(txn, compiling=False)
        for db in ("addresses", "hosts"):
            txn.clear(db)
        for resource in lists.HOLDERS:
            for _, data in txn.scan("objects", resource.encode() + _SEPARATOR):
                batch.reindex(resource, stored(resource, data))
        txn.set_meta(_HOST, self._compiler.host)
        if not (moved and self.ready):
            return batch
        batch = self._batch(txn, compiling=True)
        batch.host_changed()
        return self._finish(txn, batch)

    def _begin(self, txn: Transaction) -> None:
        self.serial = int.from_bytes(txn.meta(SERIAL) or b"", "big")
        counts = txn.meta(_COUNTS)
        self.counts = list(_KINDS.unpack(counts)) if counts else [0] * len(Kind)
        for resource in _ALL:
            lists.end(txn, resource, _ALL, due=lists.is_due(txn, resource))  # an unfinished list begins again
        # A resource that is not watched any more cannot stay true.
        for resource in _ALL:
            if resource not in self._resources and txn.meta(version_key(resource)):
                lists.forget(txn, resource)

    def versions(self) -> dict[Resource, str]:
        """Return the resourceVersion up to which each resource was
        read; "" before its first list.
        """

        def read(txn: ReadTransaction) -> dict[Resource, str]:
            return {item: (txn.meta(version_key(item)) or b"").decode() for item in self._resources}

        return self._store.read(read)

    def due(self) -> set[Resource]:
        """Return the resources to list: their versions are no place to go on from (`lists`)."""
        return self._store.read(lambda txn: {item for item in self._resources if lists.is_due(txn, item)})

    def stored_version(self, key: bytes) -> int | None:
        """Return the version of the object under this key of `objects`, or None.

        Safe from any thread.
        """
        data = self._store.read(lambda txn: txn.get("objects", key))
        return None if data is None else packed_version(data)

    def stored_versions(self, start: bytes, stop: bytes) -> list[tuple[bytes, int]]:
        """Return (key, version) of the objects from `start` to before `stop`.

        Safe from any thread.
        """

        def read(txn: ReadTransaction) -> list[tuple[bytes, int]]:
            return [(key, packed_version(txn.get("objects", key) or b"")) for key in txn.keys("objects", start, stop)]

        return self._store.read(read)

    def _count_objects(self, txn: ReadTransaction) -> None:
        for item in self._resources:
            start = item.encode() + _SEPARATOR
            self.objects[item] = sum(1 for _ in txn.keys("objects", start, start + _LAST))

    def _is_synced(self, without: Collection[Resource] = ()) -> bool:
        return all(version for resource, version in self.versions().items() if resource not in without)

    def commit(self, changes: Iterable[Change]) -> Outcome:
        """Settle changes in order of arrival, so that each also says how far its resource was read.

        Raises as `settle`; the rest cannot be handed in again.
        """
        outcome = Outcome()
        told: deque[Change] = deque()
        for change in changes:
            told.append(change)
            if isinstance(change, Upsert | Remove) and (version := version_of(change)):
                told.append(Progress(change.resource, version))
        self.settle(told, outcome)
        return outcome

    def settle(self, waiting: deque[Change], outcome: Outcome, *, piecewise: bool = False) -> None:
        """Commit changes from the left; each leaves `waiting` when its transaction is committed.

        The results are added to `outcome`. Raises StoreFull: the changes that left are committed,
        and the caller hands in the rest again, even if it is empty. Raises StoreDamaged.

        With `piecewise`, each call applies one transaction of a list's end, which stays in
        `waiting` until the last one. Meanwhile events of other resources may be settled.
        """
        try:
            self._catch_up(outcome)
            while waiting:
                match waiting[0]:
                    case ListPageArrived() as page:
                        self._take_page(page)
                        waiting.popleft()
                    case ListComplete() as end:
                        if not self._goes_on(end, outcome, piecewise=piecewise):
                            return
                        waiting.popleft()
                        self._catch_up(outcome)
                    case _:
                        self._take_events(waiting, outcome)
        except Exception:
            self._applying = None  # it begins again; what is already applied no longer differs
            raise

    def _catch_up(self, outcome: Outcome) -> None:
        """Compile everything and publish, if that is due.

        Publishing makes a link, so the disk may refuse it.
        """
        if not self.ready and (self._making is not None or self._is_synced()):
            outcome.records_changed += self._compile_all()
        if self.ready and not self.withheld:
            self._publish()

    def _publish(self) -> None:
        if not self._published:
            self._store.publish()
            self._published = True

    def release(self) -> None:
        """Publish what was withheld: now if it is ready, else when it is. Raises StoreFull."""
        self.withheld = False
        self._catch_up(Outcome())

    # Events

    def _take_events(self, waiting: deque[Change], outcome: Outcome) -> None:
        """Commit the events that come before the next part of a list."""
        events = cast("list[Event]", [*takewhile(lambda item: isinstance(item, Event), waiting)])

        def commit(some: Sequence[Event]) -> None:
            outcome.records_changed += self._write(partial(self._post, events=some), outcome.costs)
            if self._chronicle is not None:
                for resource in {event.resource for event in some}:
                    self._chronicle.heard(resource)
            for event in some:
                waiting.popleft()
                if isinstance(event, Upsert) and event.decoded.trigger_time:
                    outcome.trigger_times.append(event.decoded.trigger_time)

        def leave_out(event: Event, error: Exception) -> None:
            if isinstance(event, Progress):
                raise error
            # If an empty transaction fails too, the object is not the cause.
            self._write(partial(self._post, events=()))
            waiting.popleft()
            self._left_out(event.key if isinstance(event, Remove) else event.decoded.object.key, error)

        in_parts(events, commit, leave_out)

    def _post(self, txn: Transaction, events: Iterable[Event]) -> Posting:
        batch = self._batch(txn, compiling=self.ready)
        gone: dict[bytes, str] = {}
        for event in events:
            if isinstance(event, Progress):
                if event.resource in self.doubts:
                    continue
                txn.set_meta(version_key(event.resource), event.resource_version.encode())
                self._forget_gone(txn, event.resource, event.resource_version)
                mine = event.resource.encode() + _SEPARATOR
                gone = {
                    key: version
                    for key, version in gone.items()
                    if not key.startswith(mine) or is_older(event.resource_version, version)
                }
            elif self._is_over(txn, event) or self._is_contested(txn, event):
                continue
            elif isinstance(event, Remove):
                batch.remove(event.resource, event.key, event.resource_version)
                gone[object_key(event.resource, event.key)] = event.resource_version
            else:
                batch.upsert(event.resource, event.decoded)
        for key, version in gone.items():
            self._some_gone.update(_ALL)
            txn.set_meta(GONE + key, version.encode())
        return self._finish(txn, batch)

    def _is_over(self, txn: Transaction, event: Upsert | Remove) -> bool:
        """Return whether the store has a later state of the object: the
        event was committed earlier.
        """
        key, version = key_of(event), version_of(event)
        number = version_number(version)
        if event.resource in self.doubts or not number:
            return False
        place = storable_key(event.resource, key)
        data = txn.get("objects", place)
        if data is not None:
            return not is_behind(packed_version(data), number) and packed_version(data) != number
        return event.resource in self._some_gone and is_older(version, (txn.meta(GONE + place) or b"").decode())

    def _is_contested(self, txn: Transaction, event: Upsert | Remove) -> bool:
        """Return whether a slice's event must be skipped until the second
        list, which will include it.

        Together with the stored versions of the other slices, it would mix two moments in one
        RRset.
        """
        if event.resource != "endpointslices" or not self._contested:
            return False
        place = storable_key(event.resource, key_of(event))
        data = txn.get("objects", place)
        owners = set(owners_of(event))
        if data is not None:
            owners.add(lists.owner_of_stored(event.resource, place, data))
        return not self._contested.isdisjoint(owners)

    def _forget_gone(self, txn: Transaction, resource: Resource, version: str) -> None:
        """Forget the noted removals up to `version`: no older event of
        these objects can arrive again.
        """
        if resource not in self._some_gone:
            return
        over = [key for key, value in txn.scan("meta", GONE + resource.encode() + _SEPARATOR)
                if not is_older(version, value.decode())]  # fmt: skip
        for key in over:
            txn.unindex("meta", key)
        if not over and not any(True for _ in txn.scan("meta", GONE + resource.encode() + _SEPARATOR)):
            self._some_gone.discard(resource)

    def _batch(self, txn: Transaction, *, compiling: bool) -> Posting:
        counts, objects = list(self.counts), dict(self.objects)
        draft = self._chronicle.draft() if self._chronicle is not None and self.ready else None
        return Posting(
            txn,
            self._compiler,
            counts,
            objects,
            compiling=compiling,
            meter=self._meter,
            on_owner=self._on_sign,
            draft=draft,
            decider=self._decider,
        )

    def _write(self, work: Callable[[Transaction], Posting], costs: dict[tuple[str, str], float] | None = None) -> int:
        """Commit what `work` does, then take over its counts. Return how many records changed.

        The seconds that owners took to compile are added to `costs`.
        """

        def run(txn: Transaction) -> tuple[Posting, int]:
            self._advanced = self.serial
            return work(txn), txn.changed

        batch, changed = self._store.write(run)
        self._on_sign()
        self.serial = self._advanced
        if costs is not None:
            costs.update(batch.costs)
        self.counts, self.objects = batch.counts, batch.objects
        if batch.draft is not None and self._chronicle is not None:
            self._chronicle.settled(batch.draft)
            self._chronicle.look(self._store)
        return changed

    def _finish(self, txn: Transaction, batch: Posting) -> Posting:
        if self.ready:
            batch.compile()
        if txn.changed:
            self._advance_serial(txn)
            txn.set_meta(_COUNTS, _KINDS.pack(*batch.counts))
        if batch.draft is not None:
            batch.draft.write(txn)
        return batch

    def _advance_serial(self, txn: Transaction) -> None:
        before = int.from_bytes(txn.meta(SERIAL) or b"", "big")
        self._advanced = max(before, int(self._clock())) & 0xFFFFFFFF
        txn.set_meta(SERIAL, self._advanced.to_bytes(4, "big"))

    def _left_out(self, key: tuple[str, str], error: Exception) -> None:
        self._compiler.report("unexpected", *key, told(error))

    def decide_again(self, keys: Sequence[tuple[str, str]]) -> int:
        """Compile Services whose policy is to be asked again. Raises StoreFull."""
        if not self.ready:
            return 0

        def work(txn: Transaction) -> Posting:
            batch = self._batch(txn, compiling=True)
            for key in keys:
                batch.touch_service(key)
            return self._finish(txn, batch)

        return self._write(work)

    def undecided(self) -> list[tuple[str, str]]:
        """Return the Services that had the default for a reason that may have passed."""

        def read(txn: ReadTransaction) -> list[tuple[str, str]]:
            found = []
            for key, data in txn.scan("decisions"):
                if decisions.unpack(data).passing:
                    namespace, name, _ = key.decode().split("/")
                    found.append((namespace, name))
            return found

        return self._store.read(read)

    # Lists

    def _take_page(self, page: ListPageArrived) -> None:
        resource = page.resource
        if page.first:
            self._write(partial(self._begin_list, resource=resource))

        def commit(some: Sequence[Decoded]) -> None:
            self._write(partial(self._post_page, resource=resource, objects=some))

        def leave_out(decoded: Decoded, error: Exception) -> None:
            self._write(partial(self._keep, resource=resource, key=decoded.object.key))
            self._left_out(decoded.object.key, error)

        in_parts(page.decoded, commit, leave_out)
        for key in page.odd:
            self._write(partial(self._keep, resource=resource, key=key))

    def _begin_list(self, txn: Transaction, resource: Resource) -> Posting:
        batch = self._batch(txn, compiling=False)
        lists.begin(txn, resource, self._resources)
        if not self.ready:
            lists.forget(txn, resource)
            batch.objects[resource] = 0
        return batch

    def _post_page(self, txn: Transaction, resource: Resource, objects: Iterable[Decoded]) -> Posting:
        batch = self._batch(txn, compiling=False)
        if not lists.is_open(txn, resource):
            return batch
        if self.ready:
            lists.stage(txn, resource, objects)
        else:  # nothing is served yet, so staging is not needed
            for decoded in objects:
                batch.upsert(resource, decoded)
        return batch

    def _keep(self, txn: Transaction, resource: Resource, key: tuple[str, str]) -> Posting:
        """Keep the stored version of an object that is on the page but cannot be taken."""
        if self.ready and lists.is_open(txn, resource):
            lists.stage_as_it_stands(txn, resource, key)
        return self._batch(txn, compiling=False)

    def _without(self, txn: Transaction, resource: Resource, gone: Iterable[tuple[str, str]]) -> Posting:
        """Remove the objects from an open list that were deleted before its end."""
        batch = self._batch(txn, compiling=False)
        for key in gone:
            with contextlib.suppress(Unstorable):  # then it was left out of its page as well
                if self.ready:
                    lists.unstage(txn, resource, key)
                else:
                    batch.remove(resource, key)
        return batch

    def _goes_on(self, end: ListComplete, outcome: Outcome, *, piecewise: bool) -> bool:
        """Apply a list's end, or one transaction of it. Return False while there is more to do."""
        if self._applying is None or self._applying[0] is not end:
            self._applying = (end, self._end_list(end))
        for done in self._applying[1]:
            outcome.records_changed += done.records_changed
            outcome.opinions += done.opinions
            if piecewise:
                return False
        self._applying = None
        return True

    def _end_list(self, change: ListComplete) -> Iterator[Outcome]:
        """Apply an open list, or put it aside until a second one confirms it.

        Yield each step's outcome.
        """
        resource = change.resource
        if not self._store.read(lambda txn: lists.is_open(txn, resource)):
            return
        if change.gone:
            self._write(partial(self._without, resource=resource, gone=change.gone))
        loss = None
        if self.ready and self._second_opinion:
            loss = self._store.read(lambda txn: opinion.doubtful_loss(txn, resource))
        if loss is not None and not change.confirms:
            if resource == "endpointslices":
                self._contested = lists.owners_that_differ(self._store, resource)
            self._store.write(lambda txn: lists.end(txn, resource, self._resources, due=True))
            known = resource in self.doubts
            self.doubts[resource] = loss
            if not known:
                yield Outcome(opinions=[("asked", loss)])
            return
        if (doubt := self.doubts.get(resource)) is not None:
            # Keep the first result: once a part is applied, it no longer counts as a loss.
            self._second.setdefault(resource, ("confirmed", loss) if loss is not None else ("contradicted", doubt))
        if self.ready:
            if self._chronicle is not None:
                self._chronicle.list_begins(resource)
            yield from self._apply_list(resource)

        def settle(txn: Transaction) -> None:
            lists.end(txn, resource, self._resources)
            txn.set_meta(version_key(resource), change.resource_version.encode())
            self._forget_gone(txn, resource, "")

        self._store.write(settle)
        if self._chronicle is not None:
            self._chronicle.heard(resource)
        if resource == "endpointslices":
            self._contested = frozenset()
        if self.doubts.pop(resource, None) is not None:
            yield Outcome(opinions=[self._second.pop(resource)])

    def _apply_list(self, resource: Resource) -> Iterator[Outcome]:
        """Apply the staged list, Service by Service.

        It can begin again: what is applied no longer differs.
        """
        outcome = Outcome()

        def commit(groups: Sequence[lists.Group]) -> None:
            keys = [key for group in groups for key in group.keys]
            outcome.records_changed += self._write(partial(self._post_staged, resource=resource, keys=keys))

        def divide(group: lists.Group, error: Exception) -> None:
            if len(group.keys) > 1:
                in_parts([group._replace(keys=[key]) for key in group.keys], commit, divide)
                return
            self._write(partial(self._post_staged, resource=resource, keys=()))
            self._left_out(_key_of(group.keys[0]), error)

        def cost(group: lists.Group) -> float:
            return self.scales.weigh(group.owner) + self.scales.weigh_bytes(group.size)

        start = b""
        while True:
            groups, start = self._store.read(partial(lists.differing, resource=resource, start=start))
            for some in lists.chunks(groups, cost):
                in_parts(some, commit, divide)
                yield outcome
                outcome.records_changed = 0
            self._store.unmap()
            if not start:
                return

    def _post_staged(self, txn: Transaction, resource: Resource, keys: Sequence[bytes]) -> Posting:
        batch = self._batch(txn, compiling=True)
        if batch.draft is not None:
            batch.draft.listed = resource
        lists.apply(txn, resource, keys, batch)
        return self._finish(txn, batch)

    # Everything anew

    def _compile_all(self) -> int:
        """Compile all records from all objects, some hundred Services per
        transaction; then set `ready`.
        """
        if self._may_serve_objects():
            written = self._compile_served()
        else:
            self._making = None
            self._write(self._begin_records)
            written = self._compile_services()
            self._write(self._fixed_records)

        def finish(txn: Transaction) -> Draft | None:
            self._advance_serial(txn)
            txn.set_meta(_COUNTS, _KINDS.pack(*self.counts))
            self._store.sign_shape(txn)
            txn.set_meta(READY, b"1")
            txn.set_meta(MAKING, b"")
            return None if self._chronicle is None else self._chronicle.begins(txn, "all records were made anew")

        draft = self._store.write(finish)
        self.serial = self._advanced
        if draft is not None and self._chronicle is not None:
            self._chronicle.settled(draft)
        self._making = None
        self.ready = True
        return written

    def _may_serve_objects(self) -> bool:
        """Whether it is worth it, and the Service of each name can be told from the name."""
        if not self._serves_objects or self.withheld:
            return False
        keys = self._store.read(lambda txn: list(txn.keys("objects", _SERVICES, _SERVICES + _LAST)))
        # Those of one transaction are made before anybody could ask.
        return len(keys) > _CHUNK and all(key == key.lower() for key in keys)

    def _compile_served(self) -> int:
        """Publish what there is, and then compile all Services.

        After a refusal, or a death, that goes on from where it has come to.
        """
        if self._making is None:
            self._write(self._begin_records)
            self._write(self._fixed_records)
            making = Making(secrets.token_hex(8).encode())
            self._store.write(partial(self._serve_objects, making=making))
            self._making = making
        self._publish()
        return self._compile_services(self._making.place)

    def _serve_objects(self, txn: Transaction, making: Making) -> None:
        self._advance_serial(txn)
        self._store.sign_shape(txn)
        txn.set_meta(MAKING, making.packed)

    def _begin_records(self, txn: Transaction) -> Posting:
        # Until the end the records are incomplete.
        txn.set_meta(READY, b"")
        txn.set_meta(MAKING, b"")
        for db in ("records", "faulty", "decisions"):
            txn.clear(db)
        batch = self._batch(txn, compiling=True)
        batch.counts = [0] * len(Kind)
        return batch

    def _fixed_records(self, txn: Transaction) -> Posting:
        """Compile what does not belong to a Service: the zones'
        names, namespaces, imports, pods.
        """
        batch = self._batch(txn, compiling=True)
        batch.fill(batch.fixed())
        batch.touch_all_but_services()
        batch.compile(anew=True)
        return batch

    def _compile_services(self, start: bytes = b"") -> int:
        """Compile the Services from a place in their keys on, some hundred at once."""
        keys = self._store.read(lambda txn: list(txn.keys("objects", _SERVICES + start, _SERVICES + _LAST)))
        written = 0

        def commit(some: Sequence[bytes]) -> None:
            nonlocal written
            making = self._making and self._making.after(some[-1])
            written += self._write(partial(self._compile_some, services=some, making=making))
            self._making = making

        def leave_out(key: bytes, error: Exception) -> None:
            self._write(partial(self._without_records, service=_key_of(key)))
            self._left_out(_key_of(key), error)

        for at in range(0, len(keys), _CHUNK):
            in_parts(keys[at : at + _CHUNK], commit, leave_out)
        return written

    def _without_records(self, txn: Transaction, service: tuple[str, str]) -> Posting:
        batch = self._batch(txn, compiling=True)
        batch.mark_faulty("services", service, ())
        return batch

    def _compile_some(self, txn: Transaction, services: Sequence[bytes], making: Making | None) -> Posting:
        batch = self._batch(txn, compiling=True)
        for key in services:
            batch.touch_service(_key_of(key))
        batch.compile(anew=True)
        if making is not None:
            txn.set_meta(MAKING, making.packed)
            txn.set_meta(_COUNTS, _KINDS.pack(*batch.counts))
        return batch


def _key_of(place: bytes) -> tuple[str, str]:
    """Return (namespace, name) of a key of `objects`."""
    _, namespace, name = place.decode().split("/", 2)
    return namespace, name
