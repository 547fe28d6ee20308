"""The ledger: however the objects arrived, the records follow from the objects."""

from __future__ import annotations

import gc
import itertools
from collections import deque
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from headwater.cluster.changes import Change, ListComplete, ListPageArrived, Progress
from headwater.cluster.objects import (
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
from headwater.store.environment import SERIAL, StoreFull, Transaction
from headwater.store.node import Kind
from headwater.wire import names
from headwater.writer import lists
from headwater.writer.ledger import Ledger
from headwater.writer.lists import version_key
from headwater.writer.outcome import Outcome
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.harness.small import (
    NOT_READY,
    READY,
    Small,
    annotated,
    at,
    cluster_ip,
    headless,
    listed,
    remove,
    settings,
    slice_of,
    upsert,
)

WEB = "web.default.svc.cluster.local"

# The world is small, so that everything interacts.
_NAMES = st.sampled_from(["a", "b"])
_PORTS = st.lists(
    st.builds(
        Port, st.sampled_from(["", "http", "HTTP", "dns"]), st.sampled_from(["TCP", "UDP"]), st.sampled_from([-1, 1, 2])
    ),
    max_size=2,
    unique_by=lambda port: (port.name, port.protocol),
).map(tuple)
_ENDPOINTS = st.lists(
    st.builds(
        Endpoint,
        st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1", "bad"]), min_size=1, max_size=2).map(tuple),
        st.sampled_from([READY, NOT_READY]),
        st.sampled_from(["", "", "h", "i"]),
        st.sampled_from(["", "pod-1"]),
    ),
    max_size=3,
).map(tuple)
_OBJECTS: st.SearchStrategy[Object] = st.one_of(
    st.builds(Namespace, _NAMES),
    st.builds(
        Service, _NAMES, _NAMES, st.sampled_from(["ClusterIP", "ClusterIP", "ExternalName"]), st.booleans(),
        st.sampled_from([(), ("172.16.0.1",), ("172.16.0.2", "fd00::2")]), st.just(""), _PORTS,
    ),
    st.builds(EndpointSlice, _NAMES, st.sampled_from(["s", "t"]), st.sampled_from(["", "a", "b"]), _PORTS, _ENDPOINTS),
    st.builds(Pod, _NAMES, _NAMES, st.sampled_from([(), ("10.0.0.1",), ("fd00::1",), ("10.0.0.1", "fd00::1")])),
)  # fmt: skip
_STEPS = st.lists(st.lists(st.tuples(st.booleans(), _OBJECTS), min_size=1, max_size=4), max_size=8)


@pytest.mark.slow
@given(start=st.lists(_OBJECTS, max_size=6), steps=_STEPS, pod_names=st.booleans(), relist=st.booleans())
@hypothesis_settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_way_of_changes_ends_in_the_records_of_a_fresh_list(
    start: list[Object], steps: list[list[tuple[bool, Object]]], pod_names: bool, relist: bool
) -> None:
    """Events in any batches, or a list as a difference, give the bytes of a new store."""
    with TemporaryDirectory() as one, TemporaryDirectory() as two:
        shape = settings(pods="verified", endpoint_pod_names=pod_names, zones=("z", "y.z"))
        world = Small(Path(one), shape)
        held = {(type(item), item.key): item for item in start}
        store, ledger = world.open()
        ledger.commit(listed(world.resources, held.values()))
        for batch in steps:
            changes: list[Change] = []
            for gone, item in batch:
                if gone:
                    held.pop((type(item), item.key), None)
                    changes.append(remove(item))
                else:
                    held[type(item), item.key] = item
                    changes.append(upsert(item))
            ledger.commit(changes if not relist else listed(world.resources, held.values()))
        counts = list(ledger.counts)
        objects = dict(ledger.objects)
        assert store.read(lambda txn: txn.checksum_holds())
        assert store.read(lambda txn: txn.count("staging")) == 0
        store.close()
        found = world.records()
        fresh = Small(Path(two), shape)
        fresh_store, fresh_ledger = fresh.open()
        fresh_ledger.commit(listed(fresh.resources, held.values()))
        assert (counts, objects) == (fresh_ledger.counts, fresh_ledger.objects)
        fresh_store.close()
        assert found == fresh.records()


def test_one_pods_change_rewrites_its_names_and_its_services_only(tmp_path: Path) -> None:
    world = Small(tmp_path)
    slices = [
        slice_of("web", *(at(f"10.0.{piece}.{i}", hostname=f"w-{piece}-{i}") for i in range(100)), name=f"s{piece}")
        for piece in range(10)
    ]
    world.fill(headless("web"), *slices)
    changed = slice_of(
        "web", *(at(f"10.0.3.{200 if i == 7 else i}", hostname=f"w-3-{i}") for i in range(100)), name="s3"
    )
    outcome = world.commit(upsert(changed))
    # The Service, whose RRset its port shares, and the endpoint: two of more than 1,000 names.
    assert outcome.records_changed == 2
    assert world.answers(f"w-3-7.{WEB}") == {"10.0.3.200"}
    assert "10.0.3.200" in world.answers(f"_http._tcp.{WEB}")


def test_an_object_that_says_the_same_changes_nothing(tmp_path: Path) -> None:
    world = Small(tmp_path).fill(headless("web"), slice_of("web", at("10.0.0.1")))
    before = world.records()
    assert world.commit(upsert(slice_of("web", at("10.0.0.1")), version="77")).records_changed == 0
    assert world.records() == before


def test_an_incomplete_list_changes_nothing(tmp_path: Path) -> None:
    world = Small(tmp_path).fill(headless("web"), headless("api"), slice_of("web", at("10.0.0.1")))
    before = world.records()
    store, ledger = world.open()
    ledger.commit([ListPageArrived("services", [Decoded(headless("new"), "5")], first=True)])
    ledger.commit([ListPageArrived("services", [], first=False)])
    store.close()
    assert world.records() == before
    # A new list begins, without the objects that the broken one has staged.
    world.commit(*listed(["services"], [headless("web")]))
    assert world.status("new.default.svc.cluster.local") == "NXDOMAIN"
    assert world.answers(WEB) == {"10.0.0.1"}


def test_events_while_a_list_is_under_way_are_not_lost(tmp_path: Path) -> None:
    """A list of one resource does not delay the events of another."""
    world = Small(tmp_path).fill(headless("web"), slice_of("web", at("10.0.0.1")))
    world.commit(
        ListPageArrived("services", [Decoded(headless("web"), "5")], first=True),
        upsert(slice_of("web", at("10.0.0.2"))),
        ListComplete("services", "5"),
    )
    assert world.answers(WEB) == {"10.0.0.2"}


@pytest.mark.parametrize("first", [True, False], ids=["a first list", "a later list"])
@pytest.mark.parametrize("resource", ["services", "endpointslices"])
def test_what_was_deleted_while_a_list_came_is_never_served(resource: Resource, first: bool, tmp_path: Path) -> None:
    """A page has it, and the list's end says that it was deleted; both are applied in one step."""
    old = slice_of("old", at("10.0.0.9"))
    stays: list[Object] = [Namespace("default"), headless("web"), slice_of("web", at("10.0.0.1"))]
    listings = [*stays, headless("old"), old]
    gone = {"services": ("default", "old"), "endpointslices": old.key}[resource]
    unstorable = ("default", "x" * 600)
    world = Small(tmp_path)
    if not first:
        world.fill(*stays)
    changes = listed(world.resources, listings)
    at_end = changes.index(ListComplete(resource, "1"))
    changes[at_end] = ListComplete(resource, "1", gone=(gone, unstorable))
    store, ledger = world.open()
    waiting = deque(changes)
    while waiting:
        ledger.settle(waiting, Outcome(), piecewise=True)
        served = store.read(lambda txn: [key for key, _ in txn.scan("records")])
        assert not [key for key in served if b"old" in key] or resource == "endpointslices"
    store.close()
    world.commit()
    assert world.status("old.default.svc.cluster.local") == ("NXDOMAIN")
    assert world.answers(WEB) == {"10.0.0.1"}


def test_a_slice_that_moves_to_another_service_takes_its_endpoints_along(tmp_path: Path) -> None:
    world = Small(tmp_path).fill(
        headless("web"),
        headless("api"),
        slice_of("web", at("10.0.0.1"), name="s"),
        slice_of("web", at("10.0.0.2"), name="t"),
    )
    world.commit(upsert(slice_of("api", at("10.0.0.1"), name="s")))
    assert world.answers(WEB) == {"10.0.0.2"}
    assert world.answers("api.default.svc.cluster.local") == {"10.0.0.1"}


def test_a_namespace_that_comes_late_brings_its_services_and_pods(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(pods="verified"))
    world.fill(cluster_ip("api", "172.16.0.1"), Pod("default", "p", ("10.0.0.1",)), namespaces=["other"])
    assert world.status("api.default.svc.cluster.local") == "NXDOMAIN"
    world.commit(upsert(Namespace("default")))
    assert world.answers("api.default.svc.cluster.local") == {"172.16.0.1"}
    assert world.answers("10-0-0-1.default.pod.cluster.local") == {"10.0.0.1"}
    world.commit(remove(Namespace("default")))
    assert world.status("api.default.svc.cluster.local") == "NXDOMAIN"
    assert world.status("10-0-0-1.default.pod.cluster.local") == "NXDOMAIN"


def test_an_address_that_passed_to_another_pod_is_never_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list shows it, and each owner has a transaction of its own."""
    monkeypatch.setattr(lists, "_CHUNK", 1)
    world = Small(tmp_path, settings(pods="verified"))
    world.fill(*(Pod("default", f"p-{i}", (f"10.0.0.{i}",)) for i in range(6)))
    # p-0 is gone, and p-9 has its address; p-1 and p-2 changed theirs; p-3 is new under p-2's.
    now = {"p-1": 7, "p-2": 1, "p-3": 2, "p-4": 4, "p-5": 3, "p-9": 0, "q": 8}
    pods = [Pod("default", name, (f"10.0.0.{last}",)) for name, last in now.items()]
    store, ledger = world.open()
    kept = {f"\x0810-0-0-{last}\x07default\x03pod\x07cluster\x05local\0".encode() for last in (0, 1, 2, 3, 4)}
    commits = 0
    write = store.write

    def watched(work: Any) -> Any:
        nonlocal commits
        done = write(work)
        commits += 1
        assert kept <= set(store.read(lambda txn: dict(txn.scan("records"))))
        return done

    monkeypatch.setattr(store, "write", watched)
    try:
        ledger.commit(listed(["pods"], pods, "20"))
    finally:
        store.close()
    assert commits > 3, "it was not one transaction"
    assert world.answers("10-0-0-7.default.pod.cluster.local") == {"10.0.0.7"}
    assert world.status("10-0-0-5.default.pod.cluster.local") == "NXDOMAIN"


def test_how_far_a_resource_was_read_is_kept_with_its_objects(tmp_path: Path) -> None:
    world = Small(tmp_path).fill(headless("web"))
    world.commit(upsert(cluster_ip("api", "172.16.0.1"), version="41"), Progress("endpointslices", "42"))
    store, ledger = world.open()
    assert ledger.versions() == {"namespaces": "1", "services": "41", "endpointslices": "42"}
    store.close()


def test_a_resource_that_is_no_longer_watched_is_forgotten(tmp_path: Path) -> None:
    verified = Small(tmp_path, settings(pods="verified"))
    verified.fill(Pod("default", "p", ("10.0.0.1",)))
    plain = verified.with_settings(settings())
    store, ledger = plain.open()
    assert ledger.ready
    assert store.read(lambda txn: txn.meta(version_key("pods"))) == b""
    store.close()
    again = verified.with_settings(settings(pods="verified"))
    store, ledger = again.open()
    assert not ledger.ready, "the pods have to be listed first"
    store.close()
    assert again.status("10-0-0-1.default.pod.cluster.local") == "SERVFAIL"


def test_other_settings_compile_the_stored_objects_anew(tmp_path: Path) -> None:
    world = Small(tmp_path).fill(headless("web"), slice_of("web", at("10.0.0.1", pod="pod-1")))
    assert world.status(f"pod-1.{WEB}") == "NXDOMAIN"
    named = world.with_settings(settings(endpoint_pod_names=True))
    store, ledger = named.open()
    assert ledger.ready
    store.close()
    assert named.answers(f"pod-1.{WEB}") == {"10.0.0.1"}
    assert named.status(f"10-0-0-1.{WEB}") == "NXDOMAIN"


def test_the_serial_moves_with_the_records_and_never_back(tmp_path: Path) -> None:
    world = Small(tmp_path).fill(headless("web"))
    store, ledger = world.open()

    def serial() -> int:
        return int.from_bytes(store.read(lambda txn: txn.meta(SERIAL)) or b"", "big")

    assert serial() == 1_800_000_000
    for now, change, expected in (
        (1_800_000_500.7, upsert(slice_of("web", at("10.0.0.1"))), 1_800_000_500),
        (1_800_000_600.0, upsert(slice_of("web", at("10.0.0.1"))), 1_800_000_500),
        (1_700_000_000.0, upsert(slice_of("web", at("10.0.0.2"))), 1_800_000_500),
    ):
        ledger._clock = lambda now=now: now  # type: ignore[misc]
        ledger.commit([change])
        assert serial() == ledger.serial == expected
    store.close()


def test_the_serial_that_is_shown_is_that_of_the_last_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that the disk refuses moves nothing: siblings are compared by it."""
    world = Small(tmp_path).fill(headless("web"))
    store, ledger = world.open()
    assert ledger.serial == 1_800_000_000, "it is that of the store from the start"
    ledger._clock = lambda: 1_800_000_500.0

    def refuse(_: Transaction, *, history: bool) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "finish", refuse)
        with pytest.raises(StoreFull):
            ledger.commit([upsert(slice_of("web", at("10.0.0.1")))])
    ledger.commit([upsert(slice_of("other", at("10.0.0.1")))])  # it has no Service, and changes no record
    assert ledger.serial == 1_800_000_000
    store.close()


def test_names_are_counted_by_kind(tmp_path: Path) -> None:
    world = Small(tmp_path).fill(
        headless("web"), slice_of("web", at("10.0.0.1"), at("10.0.0.2")), cluster_ip("api", "172.16.0.1")
    )
    store, ledger = world.open()
    counts = dict(zip(Kind, ledger.counts, strict=True))
    assert counts == {
        Kind.ZONE: 6, Kind.NAMESPACE: 1, Kind.SERVICE: 2, Kind.ENDPOINT: 2, Kind.PORT: 4, Kind.POD: 0, Kind.TOPOLOGY: 0,
        Kind.AWAITED: 0, Kind.PLACE: 0,
    }  # fmt: skip
    assert sum(counts.values()) == store.read(lambda txn: txn.count("records"))
    store.close()


def test_slices_tell_when_their_change_happened(tmp_path: Path) -> None:
    world = Small(tmp_path).fill(headless("web"))
    event = upsert(slice_of("web", at("10.0.0.1")))
    moment = "2026-11-23T12:00:00Z"
    timed = type(event)(event.resource, Decoded(event.decoded.object, "9", moment))
    assert world.commit(timed, event).trigger_times == [moment]


@pytest.mark.parametrize("resource", ["namespaces", "services", "endpointslices"])
def test_until_every_list_is_complete_nothing_is_published(tmp_path: Path, resource: Resource) -> None:
    world = Small(tmp_path)
    others = [item for item in world.resources if item != resource]
    world.commit(*listed(others, [Namespace("default"), cluster_ip("api", "172.16.0.1")]))
    assert world.status("api.default.svc.cluster.local") == "SERVFAIL"
    assert world.status("nothing.cluster.local") == "SERVFAIL"


def test_a_compile_that_breaks_off_is_not_served_under_the_old_settings_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Small(tmp_path).fill(headless("web"), slice_of("web", at("10.0.0.1")))
    other = world.with_settings(settings(ttl=60))

    def full(*_: object, **__: object) -> None:
        raise StoreFull("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "_compile_some", full)
        with pytest.raises(StoreFull):
            other.open()
    gc.collect()  # the store of the failed start is closed
    assert world.status(WEB) == "SERVFAIL"
    store, _ = world.open()
    store.close()
    assert world.ask(WEB).answer[0].ttl == 5


def test_counts_are_believed_only_after_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = Small(tmp_path)
    store, ledger = world.open()
    pages: list[Change] = [ListPageArrived("services", [Decoded(headless("web"), "1")], first=True)]
    with monkeypatch.context() as patched:
        patched.setattr(Transaction, "finish", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ledger.commit(pages)
    assert ledger.objects["services"] == 0
    ledger.commit(pages)
    assert ledger.objects["services"] == 1
    store.close()


def test_a_name_that_becomes_another_kind_is_counted_as_that(tmp_path: Path) -> None:
    """A ServiceImport's port names exist before it has an address."""
    world = Small(tmp_path, settings(multicluster_zones=("m.test",)))
    world.fill(ServiceImport("default", "api", False, (), (Port("http", "TCP", 80),)))
    for addresses in ((), ("172.16.0.1",), ()):
        world.commit(upsert(ServiceImport("default", "api", False, addresses, (Port("http", "TCP", 80),))))
        store, ledger = world.open()
        store.close()
        counts = [0] * len(Kind)
        for node in world.records().values():
            counts[node[2]] += 1
        assert ledger.counts == counts


def test_a_hostname_that_is_a_protocols_label_ends_as_in_a_fresh_list(tmp_path: Path) -> None:
    """No API server accepts such a hostname, but a manifest may have it."""
    odd = slice_of("web", at("10.0.0.1", hostname="_udp"), name="odd")
    world = Small(tmp_path / "one").fill(headless("web"), odd)
    for number, ports in enumerate(([Port("dns", "UDP", 53)], [Port("http", "TCP", 80)])):
        other = slice_of("web", at("10.0.0.2"), name="other", ports=ports)
        world.commit(upsert(other))
        assert world.records() == Small(tmp_path / str(number)).fill(headless("web"), odd, other).records()


@pytest.mark.parametrize("pod_names", ["true", "false"])
def test_an_endpoints_node_does_not_depend_on_other_slices(tmp_path: Path, pod_names: str) -> None:
    """An endpoint's node from one slice does not depend on other slices, so
    only changed nodes are written.
    """
    service = annotated(headless("web"), pod_names=pod_names)
    one = slice_of("web", at("10.0.0.1", hostname="x"), name="one")
    two = slice_of("web", at("10.0.0.2", hostname="y", pod="p"), name="two", ports=[Port("m", "TCP", 1)])
    alone = Small(tmp_path / "alone").fill(service, one)
    both = Small(tmp_path / "both").fill(service, one, two)
    before = alone.records(), both.records()
    alone.commit(upsert(two))
    both.commit(remove(two))
    assert (both.records(), alone.records()) == before


@pytest.mark.parametrize("order", ["sorted", "reversed", "shuffled"])
@pytest.mark.parametrize("late", [None, "service", "namespace", "slice page again"])
def test_order_of_a_first_list_does_not_matter(tmp_path: Path, order: str, late: str | None) -> None:
    """However its pages come, and whatever changes meanwhile, the records are the same."""
    namespaces = ["a", "a-b", "b", "c", "d"]
    services: list[Object] = [headless(name, namespace) for namespace in namespaces for name in ("x", "y")]
    slices = [
        slice_of(name, at(f"10.{i}.{j}.{k}"), namespace=namespace, name=f"{name}-{k}")
        for i, namespace in enumerate(namespaces)
        for j, name in enumerate(("x", "y"))
        for k in range(3)
    ]
    slices.sort(key=lambda item: f"{item.namespace}/{item.name}")  # "a-b/" before "a/"
    if order == "reversed":
        slices.reverse()
    elif order == "shuffled":
        slices = slices[::2] + slices[1::2]
    world = Small(tmp_path / "pages")
    store, ledger = world.open()
    ledger.commit(listed(["namespaces", "services"], [*map(Namespace, namespaces), *services]))
    pages = [slices[at_ : at_ + 4] for at_ in range(0, len(slices), 4)]
    held: list[Object] = [*map(Namespace, namespaces), *services, *slices]
    for number, page in enumerate(pages):
        decoded = [Decoded(item, "1") for item in page]
        ledger.commit([ListPageArrived("endpointslices", decoded, first=not number)])
        if number == 4 and late == "service":
            ledger.commit([remove(headless("x", "a")), upsert(cluster_ip("new", "172.16.0.1", namespace="a-b"))])
            held = [item for item in held if item != headless("x", "a")]
            held.append(cluster_ip("new", "172.16.0.1", namespace="a-b"))
        elif number == 4 and late == "namespace":
            ledger.commit([remove(Namespace("a-b"))])
            held.remove(Namespace("a-b"))
        elif number == 4 and late == "slice page again":  # the list began again (410 in the middle)
            for again, other in enumerate(pages[:5]):
                decoded = [Decoded(item, "1") for item in other]
                ledger.commit([ListPageArrived("endpointslices", decoded, first=not again)])
    assert ledger.versions()["endpointslices"] == ""
    ledger.commit([ListComplete("endpointslices", "5")])
    assert store.read(lambda txn: txn.checksum_holds())
    counts = list(ledger.counts)
    store.close()
    fresh = Small(tmp_path / "fresh")
    fresh_store, fresh_ledger = fresh.open()
    fresh_ledger.commit(listed(fresh.resources, held))
    assert counts == fresh_ledger.counts
    fresh_store.close()
    assert world.records() == fresh.records()


def test_disk_that_is_full_during_a_first_list_costs_no_name(tmp_path: Path) -> None:
    """The disk is full at each write in turn; a refused one is tried
    again, as in the watch process.
    """
    names = [f"ns-{number}" for number in range(6)]
    changes: list[Change] = [
        ListPageArrived("namespaces", [Decoded(Namespace(name), "1") for name in names], first=True),
        ListComplete("namespaces", "1"),
        ListPageArrived("services", [Decoded(headless("db", namespace=name), "1") for name in names], first=True),
        ListComplete("services", "1"),
        ListPageArrived("pods", [], first=True),
        ListComplete("pods", "1"),
    ]
    for number, name in enumerate(names):
        piece = slice_of("db", at(f"10.0.0.{number}", hostname="db-0"), namespace=name)
        changes.append(ListPageArrived("endpointslices", [Decoded(piece, "1")], first=not number))
    changes.append(ListComplete("endpointslices", "1"))

    def records(refused: int) -> tuple[dict[bytes, bytes], int]:
        folder = tmp_path / str(refused)
        world = Small(folder, settings(pods="verified"))
        store, ledger = world.open()
        write, writes = store.write, itertools.count()

        def full_once(work: Callable[[Transaction], Any]) -> Any:
            if next(writes) == refused:
                raise StoreFull("no space left")
            return write(work)

        store.write = full_once  # type: ignore[method-assign]
        for change in changes:
            try:
                ledger.commit([change])
            except StoreFull:
                ledger.commit([change])
        assert ledger.ready
        store.close()
        return world.records(), next(writes)

    whole, count = records(-1)
    assert count > 15
    for refused in range(count):
        assert records(refused)[0] == whole, f"write {refused} was refused"


@pytest.mark.parametrize("apart", [False, True], ids=["in one slice", "in two slices"])
def test_an_endpoint_that_was_there_twice_and_is_there_once_is_written_again(tmp_path: Path, apart: bool) -> None:
    """A pod that moves between slices is in both for a while, and SRV
    weights count it twice then.
    """
    twice, other = at("10.0.0.1", hostname="x"), at("10.0.0.2", hostname="y")
    service = headless("db")
    if apart:
        before = [slice_of("db", twice, name="a"), slice_of("db", twice, other, name="b")]
        after = [slice_of("db", twice, other, name="a"), slice_of("db", name="b")]
    else:
        before, after = [slice_of("db", twice, twice, name="a")], [slice_of("db", twice, name="a")]
    small = Small(tmp_path / "incremental").fill(service, *before)
    small.commit(*map(upsert, after))
    anew = Small(tmp_path / "anew").fill(service, *after)
    name = names.name("x.db.default.svc.cluster.local")
    assert small.records()[name] == anew.records()[name]
