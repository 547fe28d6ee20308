"""Any history of objects, with all features on, ends with a store equal to that of a fresh list.

Histories consist of events in batches, lists in pages with missing objects and with events of other
resources between them, lists that break off and begin again, and restarts. Every sub-database is
compared byte by byte.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final, Literal

import msgspec
import pytest
from headwater.cluster.changes import Change, ListComplete, ListPageArrived
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
from headwater.records import decisions
from headwater.records.compiler import Compiler
from headwater.records.decisions import Decided
from headwater.settings.settings import Settings
from headwater.store.environment import Store
from headwater.store.node import Kind
from headwater.writer.ledger import Ledger
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.harness.small import Small, remove, resource_of, settings, upsert

#: The folder of the examples' stores: a file system in memory, if the machine has one.
_FOLDER: Final = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
#: The addresses of this host. In some examples Services have them as endpoints, and so are the DNS
#: Service.
_HOST: Final = ("10.0.0.1", "fd00::1")
_EVERYTHING: Final = settings(
    zones=("z", "y.z"), reverse_zones=("in-addr.arpa", "ip6.arpa"), multicluster_zones=("m",), zonal=True,
    pods="verified", client_option=65518,
)  # fmt: skip
#: The compared sub-databases; `meta` has versions and times, and `staging` has to be empty.
_SUB_DATABASES: Final = ("objects", "slices", "pods", "hosts", "decisions", "addresses", "records")

# The world is small, so that everything interacts. Objects come from pools that are made once,
# because to choose one takes one draw, and to build one would take twenty.
_SIZES: Final[dict[Resource, int]] = {
    "namespaces": 12, "services": 150, "endpointslices": 500, "pods": 60, "serviceimports": 60,
}  # fmt: skip
_NAMESPACES: Final = ("a", "a", "a", "a-b", "b")
_NAMES: Final = ("s", "s", "s", "t")
_ADDRESSES: Final = ("10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::", "bad")
_HTTP: Final = Port("http", "TCP", 80)
_PORTS: Final = (
    (), (_HTTP,), (_HTTP,), (Port("http", "TCP", 81),), (Port("", "TCP", -1),),
    (Port("HTTP", "TCP", 80), Port("dns", "UDP", 53)),
)  # fmt: skip
_OWN: Final = (
    ("ClusterIP", True, ()), ("ClusterIP", True, ()), ("ClusterIP", True, ()), ("ClusterIP", False, ("172.16.0.1",)),
    ("LoadBalancer", False, ("172.16.0.2", "fd00::2")), ("ClusterIP", False, ()), ("ExternalName", False, ()),
    ("ExternalName", True, ()),
)  # fmt: skip
_TARGETS: Final = ("", "t.a.svc.z", "example.org.", "10.0.0.1", "bad..name")
_VALUES: Final = (
    (None, "true"), (None, "7", "x"), (None, "ready", "serving", "all"), (None, "1", "2"), (None, "true"),
    (None, None, "h=3,*=1", "from-pods", "bad"), (None, None, "h=1", "i=2,*=1"),
    (None, "first=h", "first=p,i=h,h=i", "a=h,a=i,a=10-0-0-1"), (None, "x"), (None, None, "1s", "500ms,h", "bad"),
    (None, None, "prefer", "pin", "off"),
)  # fmt: skip


def _annotations(draw: Random) -> tuple[tuple[str, str], ...]:
    values = zip(ANNOTATIONS, map(draw.choice, _VALUES), strict=True) if draw.random() < 0.7 else ()
    return tuple((name, value) for name, value in values if value is not None)


def _endpoint(draw: Random) -> Endpoint:
    return Endpoint(
        tuple(draw.sample(_ADDRESSES, draw.choice((1, 1, 2)))),
        draw.choice((3, 3, 3, 0, 2, 6)),
        draw.choice(("", "", "h", "i", "h-0")),
        draw.choice(("", "p", "h", "dotted.name")),
        draw.choice(("", "za", "Zb.c")),
        "",
        draw.choice(((), ("za",), ("za",), ("zb", "za"))),
        draw.choice(((), ("n1",), ("n1", "n2"))),
    )


def _object(kind: Resource, draw: Random) -> Object:
    if kind == "namespaces":
        return Namespace(draw.choice(_NAMESPACES))
    namespace, name = draw.choice(_NAMESPACES), draw.choice(_NAMES)
    if kind == "services":
        type_, headless, addresses = draw.choice(_OWN)
        target = draw.choice(_TARGETS)
        own = Service(namespace, name, type_, headless, addresses, target, draw.choice(_PORTS), _annotations(draw))
        return msgspec.structs.replace(own, distribution=draw.choice(("", "", "PreferSameZone", "PreferSameNode")))
    if kind == "endpointslices":
        endpoints = tuple(_endpoint(draw) for _ in range(draw.randrange(4)))
        owner, shared, cluster = (
            draw.choice(("s", "s", "t", "")),
            draw.choice(("", "s", "t")),
            draw.choice("cD") * (draw.random() < 0.8),
        )
        return EndpointSlice(namespace, draw.choice("pqr"), owner, draw.choice(_PORTS), endpoints, shared, cluster)
    if kind == "pods":
        weight = draw.choice(("", "", "7", "x"))
        return Pod(namespace, draw.choice((name, "p", "h")), tuple(draw.sample(_ADDRESSES, draw.randrange(3))), weight)
    addresses = draw.choice(((), ("172.16.1.1",), ("fd00::3",)))
    return ServiceImport(namespace, name, draw.random() < 0.5, addresses, draw.choice(_PORTS))


class Rule:
    """A policy for Services with the annotation, by their endpoints."""

    def decide(self, service: Service, slices: Sequence[EndpointSlice]) -> Decided | None:
        if "headwater.dev/policy" not in dict(service.annotations):
            return None
        names = [decisions.name_of(item.hostname, item.addresses) for piece in slices for item in piece.endpoints]
        first, last = (names[0], names[-1]) if names else ("none", "none")
        match len(names) % 5:
            case 0:
                return Decided(problem="not today")
            case 1:
                return Decided(ttl=3, near="prefer")
            case 2:
                return Decided(endpoints=tuple(names[1:]), near="pin")
            case 3:
                return Decided(publish="all", weights={last: 7}, aliases={"first": [first], "h": [last]}, near="off")
        return None


class Ruled(Small):
    """A small world with that policy."""

    def open(self) -> tuple[Store, Ledger]:
        store, self.why = Store.open(self.state_dir, self.identity)
        compiler = Compiler(self.settings, self.name_servers, lambda *report: self.reports.append(report))
        return store, Ledger(store, compiler, self.resources, clock=lambda: 1_800_000_000.0, decider=Rule())


_RANDOM: Final = Random(20)
_OBJECTS: Final[dict[Resource, st.SearchStrategy[Object]]] = {
    kind: st.sampled_from([_object(kind, _RANDOM) for _ in range(size)]) for kind, size in _SIZES.items()
}
# In a cluster most changes are to slices.
_OBJECT: Final = st.sampled_from(
    [*_OBJECTS, "namespaces", "services", "endpointslices", "endpointslices", "endpointslices"]
).flatmap(lambda kind: _OBJECTS[kind])
#: A first cluster with some records.
_START: Final = st.tuples(
    st.just(Namespace("a")), *_OBJECTS.values(), *[_OBJECTS["endpointslices"]] * 2, _OBJECT, _OBJECT
).map(list)

What = Literal["put", "gone", "ports", "endpoints", "annotations"]
Event = tuple[What, Object]
"""An object's new state, its deletion, or a change of one of its fields."""
_EVENT: Final[st.SearchStrategy[Event]] = st.tuples(
    st.sampled_from(("put", "put", "gone", "ports", "endpoints", "annotations")), _OBJECT
)
_EVENTS: Final = st.lists(_EVENT, max_size=4)


@dataclass(frozen=True)
class Batch:
    """Events in one commit."""

    events: list[Event]
    again: bool = False
    """Whether objects are sent again with a new version only."""


@dataclass(frozen=True)
class Lists:
    """One list of each of these resources, with changes that the watch has missed."""

    resources: list[Resource]
    missed: list[Event]
    between: list[Event]
    """Events of other resources, one with each page."""
    page: int
    descending: bool
    broken: bool
    """Whether a first attempt ends after its first page, before the missed changes."""
    again: bool = False
    """See `Batch.again`."""


@dataclass(frozen=True)
class Restart:
    """The process ends and another starts."""


_RESOURCES: Final = list(_OBJECTS)
_LISTS: Final = st.builds(
    Lists, st.lists(st.sampled_from(_RESOURCES), min_size=1, max_size=2, unique=True), _EVENTS, _EVENTS,
    st.integers(1, 3), st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
#: Orders of lists; with the slices last, Services are compiled during their list.
_ORDER: Final = st.permutations(_RESOURCES) | st.permutations(
    [item for item in _RESOURCES if item != "endpointslices"]
).map(lambda others: [*others, "endpointslices"])
_BATCH: Final = st.builds(Batch, _EVENTS, st.booleans())
_HISTORY: Final = st.lists(st.one_of(_BATCH, _BATCH, _LISTS, st.just(Restart())), max_size=6)

Key = tuple[Resource, tuple[str, str]]


class Cluster:
    """The current objects with their versions, and a writer that follows them."""

    def __init__(self, world: Small) -> None:
        self.world = world
        self.objects: dict[Key, Decoded] = {}
        self._version = 1000
        self.store, self.ledger = world.open()

    def restart(self, world: Small | None = None) -> None:
        self.store.close()
        self.world = world or self.world
        self.store, self.ledger = self.world.open()

    def happens(self, events: Iterable[Event]) -> list[Change]:
        """Return the changes of watched resources as a watch sends them."""
        changes: list[Change] = []
        for what, item in events:
            resource = resource_of(item)
            if resource not in self.world.resources:
                continue
            held = self.objects.get((resource, item.key))
            self._version += 1
            version = str(self._version)
            if what == "gone":
                self.objects.pop((resource, item.key), None)
                changes.append(remove(item, version))
                continue
            if held is not None and what in held.object.__struct_fields__:
                item = msgspec.structs.replace(held.object, **{what: getattr(item, what)})
            self.objects[resource, item.key] = Decoded(item, version)
            changes.append(upsert(item, version))
        return changes

    def again(self) -> list[Event]:
        """Return some objects, unchanged."""
        return [("put", decoded.object) for decoded in [*self.objects.values()][::2]]

    def lists(self, step: Lists) -> None:
        for resource in step.resources:
            if resource not in self.world.resources:
                continue
            if step.broken:
                self.ledger.commit(next(self._pages(resource, step)))
                if step.descending and self.ledger.ready:  # a store that was never ready is not taken over
                    self.restart()
            missed = step.missed + (self.again() if step.again else [])
            self.happens(event for event in missed if resource_of(event[1]) == resource)
            for changes in self._pages(resource, step):
                self.ledger.commit(changes)
            self.ledger.commit([ListComplete(resource, str(self._version))])

    def _pages(self, resource: Resource, step: Lists) -> Iterator[list[Change]]:
        items = [decoded for (kind, _), decoded in self.objects.items() if kind == resource]
        items.sort(key=lambda item: "/".join(item.object.key), reverse=step.descending)
        known = self.ledger.versions()
        for at in range(0, max(1, len(items)), step.page):
            page = items[at : at + step.page]
            # A resource that is being listed, or never was, has no events.
            now = step.between[at // step.page :][:1]
            heard = [event for event in now if resource_of(event[1]) != resource and known.get(resource_of(event[1]))]
            yield [ListPageArrived(resource, page, first=not at), *self.happens(heard)]

    def play(self, history: Iterable[Batch | Lists | Restart]) -> None:
        for step in history:
            match step:
                case Batch():
                    events = step.events + (self.again() if step.again else [])
                    self.ledger.commit(self.happens(events))
                case Lists():
                    self.lists(step)
                case Restart():
                    self.restart()

    def close(self) -> Mapping[str, object]:
        """Return the contents at the end."""
        try:
            assert self.ledger.ready
            return contents(self.store, self.ledger)
        finally:
            self.store.close()


def contents(store: Store, ledger: Ledger) -> Mapping[str, object]:
    """Return all that a store derives from the objects, by key."""
    assert store.read(lambda txn: txn.checksum_holds())
    assert store.read(lambda txn: txn.count("staging")) == 0
    entries = store.read(lambda txn: {db: list(txn.scan(db)) for db in _SUB_DATABASES})
    found: dict[str, object] = {f"{db} {key!r}": value for db, some in entries.items() for key, value in some}
    kinds = Counter(node[2] for _, node in entries["records"])
    assert dict(zip(Kind, ledger.counts, strict=True)) == {kind: kinds[kind] for kind in Kind}
    found["objects held"] = dict(ledger.objects)
    return found


def fresh(settings_: Settings, objects: Iterable[Decoded], host: tuple[str, ...] = _HOST) -> Mapping[str, object]:
    """Return the contents of a new store that one complete list of each resource has filled."""
    items = list(objects)
    with TemporaryDirectory(dir=_FOLDER) as folder:
        world = Ruled(Path(folder), settings_, host)
        store, ledger = world.open()
        for resource in world.resources:
            page = [item for item in items if resource_of(item.object) == resource]
            ledger.commit([ListPageArrived(resource, page, first=True), ListComplete(resource, "1")])
        try:
            assert ledger.ready
            return contents(store, ledger)
        finally:
            store.close()


def differences(found: Mapping[str, object], expected: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """Return (found, expected) wherever they differ."""
    every = sorted(found.keys() | expected.keys())
    return {key: (found.get(key), expected.get(key)) for key in every if found.get(key) != expected.get(key)}


#: By default the examples are the same everywhere. `HYPOTHESIS_SEARCH=5000` tries this many new
#: ones.
_SEARCH: Final = int(os.environ.get("HYPOTHESIS_SEARCH", "0"))


def examples(count: int) -> hypothesis_settings:
    return hypothesis_settings(
        max_examples=_SEARCH or count,
        derandomize=not _SEARCH,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@pytest.mark.slow
@given(
    first=_LISTS, order=_ORDER, start=_START, history=_HISTORY, pod_names=st.booleans(),
    ignore_empty=st.booleans(), namespaces=st.sampled_from([(), (), ("a",)]),
)  # fmt: skip
@examples(350)
def test_any_history_ends_in_the_store_that_a_fresh_list_makes(
    first: Lists,
    order: list[Resource],
    start: list[Object],
    history: list[Batch | Lists | Restart],
    pod_names: bool,
    ignore_empty: bool,
    namespaces: tuple[str, ...],
) -> None:
    shape = replace(_EVERYTHING, endpoint_pod_names=pod_names, ignore_empty_service=ignore_empty, namespaces=namespaces)
    with TemporaryDirectory(dir=_FOLDER) as folder:
        cluster = Cluster(Ruled(Path(folder), shape, _HOST))
        cluster.happens(("put", item) for item in start)
        cluster.lists(replace(first, resources=order))
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


@pytest.mark.slow
@given(
    shapes=st.lists(_SHAPES, min_size=2, max_size=3), objects=_START,
    histories=st.lists(_HISTORY, min_size=2, max_size=2),
)  # fmt: skip
@examples(150)
def test_other_settings_on_the_same_state_end_in_the_store_that_a_fresh_list_makes(
    shapes: list[Settings], objects: list[Object], histories: list[list[Batch | Lists | Restart]]
) -> None:
    """Only the resources that the new settings add are listed;
    everything else is stored already.
    """
    with TemporaryDirectory(dir=_FOLDER) as folder:
        everything: list[Event] = [("put", item) for item in objects]
        cluster = Cluster(Ruled(Path(folder), shapes[0], _HOST))
        for shape in shapes:
            cluster.restart(Ruled(Path(folder), shape, _HOST))
            watched = cluster.world.resources
            cluster.objects = {key: item for key, item in cluster.objects.items() if key[0] in watched}
            missing = [item for item, version in cluster.ledger.versions().items() if not version]
            cluster.lists(Lists(missing, everything, [], 2, descending=False, broken=False))
            if histories and shape is not shapes[-1]:
                cluster.play(histories.pop())
        found = cluster.close()
    assert differences(found, fresh(shapes[-1], cluster.objects.values())) == {}


@given(
    objects=_START, hosts=st.lists(st.sets(st.sampled_from(_ADDRESSES), max_size=2).map(tuple), min_size=2,
    max_size=2),
)  # fmt: skip
@examples(60)
def test_a_host_with_other_addresses_ends_in_the_store_that_a_fresh_list_makes(
    objects: list[Object], hosts: list[tuple[str, ...]]
) -> None:
    """A pod that is restarted on its node finds the old state, and has a new address."""
    with TemporaryDirectory(dir=_FOLDER) as folder:
        cluster = Cluster(Ruled(Path(folder), _EVERYTHING, hosts[0]))
        cluster.happens(("put", item) for item in objects)
        cluster.lists(Lists(_RESOURCES, [], [], 3, descending=False, broken=False))
        cluster.restart(Ruled(Path(folder), _EVERYTHING, hosts[1]))
        found = cluster.close()
    assert differences(found, fresh(_EVERYTHING, cluster.objects.values(), hosts[1])) == {}
