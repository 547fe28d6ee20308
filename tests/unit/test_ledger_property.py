"""Any history of objects, with everything switched on, ends in the store that a fresh list makes.

Histories are made of what sources can say: events in batches, lists in pages
with objects missing and events of other resources between, lists that break off
and begin again, restarts. What is compared is every sub-database, byte by byte.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from headwater.cluster.changes import Change, ListComplete, ListPageArrived
from headwater.cluster.ledger import Ledger
from headwater.cluster.objects import (
    ANNOTATIONS,
    Decoded,
    Endpoint,
    EndpointSlice,
    Namespace,
    Object,
    Pod,
    Port,
    Resource,
    Service,
    ServiceImport,
)
from headwater.settings import Settings
from headwater.store.environment import Store
from headwater.store.node import Kind
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.world import World, listed, remove, resource_of, settings, upsert

#: Where the stores of the examples are: memory, if the machine has it as a folder.
_FOLDER: Final = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
#: This host: an endpoint of some examples' Services, which are the DNS Service then.
_HOST: Final = ("10.0.0.1", "fd00::1")
_EVERYTHING: Final = settings(
    zones=("z", "y.z"), reverse_zones=("in-addr.arpa", "ip6.arpa"), multicluster_zones=("m",), zonal=True,
    pods="verified",
)  # fmt: skip
#: All that is compared; `meta` has versions and times, `staging` is to be empty.
_SUB_DATABASES: Final = ("objects", "slices", "pods", "hosts", "addresses", "records")

# A world so small that everything meets everything.
_NAMESPACES = st.sampled_from(["a", "a", "a-b"])
_NAMES = st.sampled_from(["s", "s", "t"])
_ADDRESSES = st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::", "bad"])
_PORTS = st.sampled_from(
    [
        (),
        (Port("http", "TCP", 80),),
        (Port("http", "TCP", 80),),
        (Port("http", "TCP", 81),),
        (Port("", "TCP", -1),),
        (Port("HTTP", "TCP", 80), Port("dns", "UDP", 53)),
    ]
)
_OWN = st.sampled_from(
    [
        ("ClusterIP", True, ()),
        ("ClusterIP", True, ()),
        ("ClusterIP", False, ("172.16.0.1",)),
        ("LoadBalancer", False, ("172.16.0.2", "fd00::2")),
        ("ClusterIP", False, ()),
        ("ExternalName", False, ()),
        ("ExternalName", True, ()),
    ]
)
_ANNOTATIONS = st.one_of(
    st.just(()),
    st.tuples(
        *(
            st.sampled_from([None, *values])
            for values in (["true"], ["7", "x"], ["ready", "serving", "all"], ["1", "2"], ["true", "true", "no"])
        )
    ).map(lambda values: tuple(pair for pair in zip(ANNOTATIONS, values, strict=True) if pair[1] is not None)),
)
_TARGETS = st.sampled_from(["", "t.a.svc.z", "example.org.", "10.0.0.1", "bad..name"])
_ENDPOINTS = st.lists(
    st.builds(
        Endpoint,
        st.lists(_ADDRESSES, min_size=1, max_size=2).map(tuple),
        st.sampled_from([3, 3, 3, 0, 2, 6]),
        st.sampled_from(["", "", "h", "i"]),
        st.sampled_from(["", "p", "h", "dotted.name"]),
        st.sampled_from(["", "za", "Zb.c"]),
    ),
    max_size=3,
).map(tuple)


def _service(
    namespace: str,
    name: str,
    own: tuple[str, bool, tuple[str, ...]],
    target: str,
    ports: tuple[Port, ...],
    annotations: tuple[tuple[str, str], ...],
) -> Service:
    kind, headless, addresses = own
    return Service(namespace, name, kind, headless, addresses, target, ports, annotations)


_OBJECTS: Final[dict[Resource, st.SearchStrategy[Object]]] = {
    "namespaces": st.builds(Namespace, _NAMESPACES),
    "services": st.builds(_service, _NAMESPACES, _NAMES, _OWN, _TARGETS, _PORTS, _ANNOTATIONS),
    "endpointslices": st.builds(
        EndpointSlice, _NAMESPACES, st.sampled_from(["p", "q", "r"]), st.sampled_from(["s", "s", "t", ""]), _PORTS,
        _ENDPOINTS, st.sampled_from(["", "s", "t"]), st.sampled_from(["c", "D", ""]),
    ),
    "pods": st.builds(Pod, _NAMESPACES, _NAMES, st.lists(_ADDRESSES, max_size=2, unique=True).map(tuple)),
    "serviceimports": st.builds(
        ServiceImport, _NAMESPACES, _NAMES, st.booleans(), st.sampled_from([(), ("172.16.1.1",), ("fd00::3",)]), _PORTS
    ),
}  # fmt: skip
# Most of what happens in a cluster happens to slices.
_OBJECT: Final = st.one_of(*(_OBJECTS[item] for item in _OBJECTS), _OBJECTS["endpointslices"], _OBJECTS["services"])
_EVENT: Final = st.tuples(st.sampled_from([False, False, True]), _OBJECT)
_EVENTS: Final = st.lists(_EVENT, max_size=4)

Event = tuple[bool, Object]
"""Whether it is gone, and what."""


@dataclass(frozen=True)
class Batch:
    """Events in one commit."""

    events: list[Event]


@dataclass(frozen=True)
class Lists:
    """One list of each of these resources; each begins with the events that the watch has missed."""

    resources: list[Resource]
    missed: list[Event]
    between: list[Event]
    """Events of other resources that come with each page."""
    page: int
    descending: bool
    broken: bool
    """The first attempt ends before its last page."""


@dataclass(frozen=True)
class Restart:
    """The process ends and another begins."""


_RESOURCES: Final = list(_OBJECTS)
_LISTS: Final = st.builds(
    Lists, st.lists(st.sampled_from(_RESOURCES), min_size=1, max_size=2, unique=True), _EVENTS, _EVENTS,
    st.integers(1, 3), st.booleans(), st.booleans(),
)  # fmt: skip
_HISTORY: Final = st.lists(st.one_of(st.builds(Batch, _EVENTS), st.builds(Batch, _EVENTS), _LISTS, st.just(Restart())))

Key = tuple[Resource, tuple[str, str]]


class Cluster:
    """The objects as they are, and a writer that hears of them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.objects: dict[Key, Object] = {}
        self.store, self.ledger = world.open()

    def restart(self, world: World | None = None) -> None:
        self.store.close()
        self.world = world or self.world
        self.store, self.ledger = self.world.open()

    def happens(self, events: Iterable[Event]) -> list[Change]:
        """The events of watched resources, as the watch says them."""
        changes: list[Change] = []
        for gone, item in events:
            resource = resource_of(item)
            if resource not in self.world.resources:
                continue
            if gone:
                self.objects.pop((resource, item.key), None)
                changes.append(remove(item))
            else:
                self.objects[resource, item.key] = item
                changes.append(upsert(item))
        return changes

    def lists(self, step: Lists) -> None:
        for resource in step.resources:
            if resource not in self.world.resources:
                continue
            self.happens(event for event in step.missed if resource_of(event[1]) == resource)
            if step.broken:
                self.ledger.commit(next(self._pages(resource, step)))
                if step.descending and self.ledger.ready:  # what was never ready is not taken over
                    self.restart()
            for changes in self._pages(resource, step):
                self.ledger.commit(changes)
            self.ledger.commit([ListComplete(resource, "8")])

    def _pages(self, resource: Resource, step: Lists) -> Iterator[list[Change]]:
        items = [item for (kind, _), item in self.objects.items() if kind == resource]
        items.sort(key=lambda item: "/".join(item.key), reverse=step.descending)
        known = self.ledger.versions()
        for at in range(0, max(1, len(items)), step.page):
            page = [Decoded(item, "1") for item in items[at : at + step.page]]
            # No events come of what is being listed, or was never.
            others = [event for event in step.between if resource_of(event[1]) != resource]
            heard = [event for event in others if known.get(resource_of(event[1]))]
            yield [ListPageArrived(resource, page, first=not at), *self.happens(heard)]

    def play(self, history: Iterable[Batch | Lists | Restart]) -> None:
        for step in history:
            match step:
                case Batch():
                    self.ledger.commit(self.happens(step.events))
                case Lists():
                    self.lists(step)
                case Restart():
                    self.restart()

    def close(self) -> Mapping[str, object]:
        """What there is in the end."""
        try:
            assert self.ledger.ready
            return contents(self.store, self.ledger)
        finally:
            self.store.close()


def contents(store: Store, ledger: Ledger) -> Mapping[str, object]:
    """Everything in a store that follows from the objects, by its place."""
    assert store.read(lambda txn: txn.checksum_holds())
    assert store.read(lambda txn: txn.count("staging")) == 0
    found: dict[str, object] = {
        # An object's version (its first 8 bytes) is another in another history.
        f"{db} {key!r}": value[8:] if db == "objects" else value
        for db in _SUB_DATABASES for key, value in store.read(lambda txn, db=db: [*txn.scan(db)])
    }  # type: ignore[misc]
    kinds = Counter(node[2] for _, node in store.read(lambda txn: [*txn.scan("records")]))
    assert dict(zip(Kind, ledger.counts, strict=True)) == {kind: kinds[kind] for kind in Kind}
    found["objects held"] = dict(ledger.objects)
    return found


def fresh(settings_: Settings, objects: Iterable[Object], host: tuple[str, ...] = _HOST) -> Mapping[str, object]:
    """The same of a new store, filled by one complete list of each resource."""
    with TemporaryDirectory(dir=_FOLDER) as folder:
        world = World(Path(folder), settings_, host)
        store, ledger = world.open()
        ledger.commit(listed(world.resources, objects))
        try:
            assert ledger.ready
            return contents(store, ledger)
        finally:
            store.close()


def differences(found: Mapping[str, object], expected: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """(found, expected) wherever they are not the same."""
    every = sorted(found.keys() | expected.keys())
    return {key: (found.get(key), expected.get(key)) for key in every if found.get(key) != expected.get(key)}


#: Deterministic: a failure is the same for everybody. `HYPOTHESIS_SEARCH=5000` looks further.
_SEARCH: Final = int(os.environ.get("HYPOTHESIS_SEARCH", "0"))


def examples(count: int) -> hypothesis_settings:
    return hypothesis_settings(
        max_examples=_SEARCH or count,
        derandomize=not _SEARCH,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@given(
    first=_LISTS, start=st.lists(_OBJECT, max_size=8), history=_HISTORY, pod_names=st.booleans(),
    ignore_empty=st.booleans(), namespaces=st.sampled_from([(), (), ("a",)]),
)  # fmt: skip
@examples(250)
def test_any_history_ends_in_the_store_that_a_fresh_list_makes(
    first: Lists,
    start: list[Object],
    history: list[Batch | Lists | Restart],
    pod_names: bool,
    ignore_empty: bool,
    namespaces: tuple[str, ...],
) -> None:
    shape = replace(
        _EVERYTHING, endpoint_pod_names=pod_names, ignore_empty_service=ignore_empty, namespaces=namespaces
    )
    with TemporaryDirectory(dir=_FOLDER) as folder:
        cluster = Cluster(World(Path(folder), shape, _HOST))
        cluster.happens((False, item) for item in start)
        order = sorted(_RESOURCES, key=lambda item: (item not in first.resources, item))
        cluster.lists(replace(first, resources=order[::-1] if first.descending else order))
        cluster.play(history)
        found = cluster.close()
    assert differences(found, fresh(shape, cluster.objects.values())) == {}


_SHAPES: Final = st.builds(
    settings,
    zones=st.sampled_from([("z",), ("z", "y.z"), ("y.z",)]),
    reverse_zones=st.sampled_from([(), ("in-addr.arpa", "ip6.arpa")]),
    multicluster_zones=st.sampled_from([(), ("m",)]),
    pods=st.sampled_from(["disabled", "insecure", "verified"]),
    ttl=st.sampled_from([5, 30]),
    zonal=st.booleans(),
    endpoint_pod_names=st.booleans(),
    ignore_empty_service=st.booleans(),
    namespaces=st.sampled_from([(), ("a",)]),
)


@given(
    shapes=st.lists(_SHAPES, min_size=2, max_size=3), objects=st.lists(_OBJECT, max_size=10),
    histories=st.lists(_HISTORY, min_size=2, max_size=2),
)  # fmt: skip
@examples(150)
def test_other_settings_on_the_same_state_end_in_the_store_that_a_fresh_list_makes(
    shapes: list[Settings], objects: list[Object], histories: list[list[Batch | Lists | Restart]]
) -> None:
    """What the new settings watch beside is listed; everything else is there already."""
    with TemporaryDirectory(dir=_FOLDER) as folder:
        everything = [(False, item) for item in objects]
        cluster = Cluster(World(Path(folder), shapes[0], _HOST))
        for shape in shapes:
            cluster.restart(World(Path(folder), shape, _HOST))
            watched = cluster.world.resources
            cluster.objects = {key: item for key, item in cluster.objects.items() if key[0] in watched}
            missing = [item for item, version in cluster.ledger.versions().items() if not version]
            cluster.lists(Lists(missing, everything, [], 2, descending=False, broken=False))
            if histories and shape is not shapes[-1]:
                cluster.play(histories.pop())
        found = cluster.close()
    assert differences(found, fresh(shapes[-1], cluster.objects.values())) == {}


@given(
    objects=st.lists(_OBJECT, max_size=8), hosts=st.lists(st.sets(_ADDRESSES, max_size=2).map(tuple), min_size=2,
    max_size=2),
)  # fmt: skip
@examples(60)
def test_a_host_with_other_addresses_ends_in_the_store_that_a_fresh_list_makes(
    objects: list[Object], hosts: list[tuple[str, ...]]
) -> None:
    """A pod that is started again on its node finds the old state, and has another address."""
    with TemporaryDirectory(dir=_FOLDER) as folder:
        cluster = Cluster(World(Path(folder), _EVERYTHING, hosts[0]))
        cluster.happens((False, item) for item in objects)
        cluster.lists(Lists(_RESOURCES, [], [], 3, descending=False, broken=False))
        cluster.restart(World(Path(folder), _EVERYTHING, hosts[1]))
        found = cluster.close()
    assert differences(found, fresh(_EVERYTHING, cluster.objects.values(), hosts[1])) == {}
