"""Whatever happened: walked back from the records of now, the history gives what was served."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
from headwater.cluster.changes import Change, ListComplete, ListPageArrived
from headwater.cluster.objects import Decoded, Endpoint, EndpointSlice, Namespace, Object, ServiceImport
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.harness.chronicled import Chronicled
from tests.harness.small import annotated, at, cluster_ip, external_name, headless, imported, remove, upsert
from tests.harness.small import settings as of_instance

_HOSTS = ("a", "b", "")
_ADDRESSES = ("10.0.0.1", "10.0.0.2", "fd00::1")
_NAMES = (
    ("db.default.svc.cluster.local", "A"),
    ("db.default.svc.cluster.local", "AAAA"),
    ("a.db.default.svc.cluster.local", "A"),
    ("b.db.default.svc.cluster.local", "AAAA"),
    ("10-0-0-1.db.default.svc.cluster.local", "A"),
    ("db.default.svc.second.local", "A"),
    ("db.default.svc.clusterset.local", "A"),
    ("a.east.db.default.svc.clusterset.local", "A"),
    ("default.svc.cluster.local", "A"),
)

endpoints = st.builds(
    lambda address, host, conditions: at(address, hostname=host, conditions=conditions),
    st.sampled_from(_ADDRESSES),
    st.sampled_from(_HOSTS),
    st.sampled_from((3, 3, 3, 0, 6)),
)
some_endpoints = st.lists(endpoints, max_size=4).map(tuple)


def piece(name: str, found: tuple[Endpoint, ...], service: str = "db") -> EndpointSlice:
    return EndpointSlice("default", name, service, (), found)


services = st.sampled_from(
    (headless("db"), headless("db"), cluster_ip("db", "10.96.0.1"), cluster_ip("db", "10.96.0.2", "fd00::9"),
     external_name("db", "db.example"), annotated(headless("db"), publish="all"), annotated(headless("db"), ttl="77"))
)  # fmt: skip
slices = st.builds(piece, st.sampled_from(("x", "y")), some_endpoints, st.sampled_from(("db", "db", "db", "web")))
imports = st.builds(lambda found: imported("db", "east", *found), some_endpoints)
shared = st.sampled_from((ServiceImport("default", "db", True, (), ()), ServiceImport("default", "db", False, (), ())))
objects: st.SearchStrategy[Object] = st.one_of(slices, slices, slices, services, imports, shared)
events: st.SearchStrategy[Change] = st.one_of(
    objects.map(upsert),
    objects.map(upsert),
    objects.map(remove),
    st.sampled_from((remove(Namespace("default")), upsert(Namespace("default")))),
)
relists: st.SearchStrategy[list[Change]] = st.lists(slices, max_size=2, unique_by=lambda item: item.name).map(
    lambda found: [
        ListPageArrived("endpointslices", [Decoded(item, "9") for item in found], first=True),
        ListComplete("endpointslices", "9"),
    ]
)
#: One transaction, a list, or the end of a writer's life.
steps = st.lists(st.one_of(st.lists(events, min_size=1, max_size=3), relists, st.just([])), max_size=14)

Answer = tuple[str, frozenset[str]]


def answer(world: Chronicled, name: str, qtype: str) -> Answer:
    """What a client would see now."""
    message = world.ask(name, qtype)
    found = {f"{rrset.ttl} {item.to_text()}" for rrset in message.answer for item in rrset}
    return str(message.rcode().to_text(message.rcode())), frozenset(found)


def told(world: Chronicled, name: str, qtype: str, moment: float) -> Answer | str:
    """What the history says that a client has seen."""
    found = world.at(name, moment, qtype)
    if not found.known:
        return found.why
    return found.rcode, frozenset(f"{record.ttl} {record.data}" for record in found.records)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps, st.lists(objects, max_size=4))
def test_walking_back_gives_every_answer_that_was_served(plan: list[list[Change]], first: list[Object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = Chronicled(
            Path(folder), of_instance(zones=("cluster.local", "second.local"), multicluster_zones=("clusterset.local",))
        )
        world.fill(*{(type(item), item.key): item for item in first}.values())
        seen: list[tuple[float, list[Answer]]] = []
        look: Callable[[], None] = lambda: seen.append((world.now, [answer(world, *name) for name in _NAMES]))  # noqa: E731
        look()
        store, ledger = world.open()
        for step in plan:
            if not step:
                store.note_alive(world.now)
                store.close()
                world.now += 5
                store, ledger = world.open()
                continue
            world.now += 1
            ledger.commit(step)
            store.note_alive(world.now)
            store.close()
            look()
            world.now += 1
            store, ledger = world.open()
        store.close()
        for entry in world.told():
            note(entry.text)
        for moment, answers in seen:
            for (name, qtype), was in zip(_NAMES, answers, strict=True):
                assert told(world, name, qtype, moment) == was, f"{name} {qtype} at {moment}"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(events, min_size=1, max_size=3), max_size=10))
def test_lines_added_and_removed_are_what_the_sets_differ_by(plan: list[list[Change]]) -> None:
    """Summed up from nothing, the lines of an owner are its addresses of now."""
    with tempfile.TemporaryDirectory() as folder:
        world = Chronicled(Path(folder))
        world.fill()
        store, ledger = world.open()
        for step in plan:
            world.now += 1
            ledger.commit(step)
        store.close()
        hosts: dict[str, set[str]] = {}
        for entry in world.changes(owner="default/db"):
            for line in entry.removed:
                address, _, host = line.partition(" ")
                hosts.get(host, set()).discard(address)
            for line in entry.added:
                address, _, host = line.partition(" ")
                hosts.setdefault(host, set()).add(address)
        for host in ("a", "b", "10-0-0-1"):
            name = f"{host}.db.default.svc.cluster.local"
            now = world.answers(name) | world.answers(name, "AAAA")
            assert hosts.get(host, set()) == now, msgspec.json.encode(world.told())
