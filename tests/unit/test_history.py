"""The history: what it says, its gaps, its bounds, and what was answered at a time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
from headwater.answer.resolver import Resolver
from headwater.cluster.changes import Change, ListComplete, ListPageArrived, Upsert
from headwater.cluster.objects import Decoded, EndpointSlice, Namespace, Object, Pod, Port, ServiceImport
from headwater.explain.explain import explained_from
from headwater.explain.explanation import Explanation
from headwater.explain.show import show
from headwater.explain.times import parse_moment
from headwater.settings.address import Address
from headwater.settings.places import ZoneAddress
from headwater.settings.settings import Settings
from headwater.store import environment
from headwater.store.environment import Store
from headwater.store.history import HISTORY
from headwater.store.node import Kind, address_changes, addresses_of, pack_node, pack_srv_own, ttl_of
from headwater.wire import rdata
from headwater.writer import chronicle
from headwater.writer.ledger import Ledger
from headwater.writer.outcome import Outcome
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.chronicled import BEGAN, Chronicled
from tests.harness.small import (
    NOT_READY,
    annotated,
    at,
    cluster_ip,
    external_name,
    headless,
    imported,
    listed,
    remove,
    resource_of,
    settings,
    slice_of,
    upsert,
)

DB = "db.default.svc.cluster.local"
KIB = 1 << 10


def db(address: str = "10.0.0.1", *, conditions: int = 3, name: str = "db-x", host: str = "db-0") -> EndpointSlice:
    return slice_of("db", at(address, hostname=host, conditions=conditions), name=name)


class Writer:
    """One life of the writer: commits follow each other without a gap."""

    def __init__(self, world: Chronicled) -> None:
        self.world = world
        self.store: Store
        self.ledger: Ledger

    def __enter__(self) -> Self:
        self.store, self.ledger = self.world.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.store.note_alive(self.world.now)
        self.store.close()

    def commit(self, *changes: Change) -> Outcome:
        self.world.now += 1
        return self.ledger.commit(changes)


@pytest.fixture
def world(tmp_path: Path) -> Chronicled:
    found = Chronicled(tmp_path)
    found.fill(headless("db"), db())
    return found


def test_a_first_list_is_one_entry_and_not_one_for_each_owner(world: Chronicled) -> None:
    (entry,) = world.told()
    assert (entry.kind, entry.owner) == ("gap", None)
    assert "from here on" in entry.text


def test_an_entry_says_what_changed_when_and_why(world: Chronicled) -> None:
    trigger = "2027-01-15T08:00:00.500Z"  # half a second after BEGAN
    with Writer(world) as writer:
        writer.commit(Upsert("endpointslices", Decoded(db("10.0.0.2"), "88", trigger)))
    (entry,) = world.changes()
    assert entry.owner is not None
    assert entry.cause is not None
    assert (entry.owner.kind, entry.owner.namespace, entry.owner.name) == ("Service", "default", "db")
    assert (entry.time, entry.serial) == ("2027-01-15T08:00:01.000Z", BEGAN + 1)
    assert (entry.added, entry.removed, entry.more) == (["10.0.0.2 db-0"], ["10.0.0.1 db-0"], 0)
    assert (entry.cause.kind, entry.cause.name, entry.cause.resource_version) == ("EndpointSlice", "db-x", "88")
    assert (entry.cause.changes, entry.delay) == (["db-0 address 10.0.0.1→10.0.0.2"], 0.5)
    assert entry.text == (
        "2027-01-15T08:00:01.000Z  default/db  -10.0.0.1 db-0, +10.0.0.2 db-0  "
        "EndpointSlice default/db-x (version 88): db-0 address 10.0.0.1→10.0.0.2  (within 1 s)"
    )


PORTS = (Port("sql", "TCP", 5432),)
CASES: dict[str, tuple[list[Object], Change, list[str], list[str], list[str]]] = {
    "not ready any more": ([headless("db"), db()], upsert(db(conditions=NOT_READY)), [], ["10.0.0.1 db-0"],
                           ["db-0 ready true→false", "db-0 serving true→false"]),
    "one more": ([headless("db"), db()], upsert(db("10.0.0.2", name="db-y", host="db-1")), ["10.0.0.2 db-1"], [],
                 ["created"]),
    "a slice goes": ([headless("db"), db()], remove(db(), "77"), [], ["10.0.0.1 db-0"], ["deleted"]),
    "a Service comes": ([db()], upsert(headless("db")), ["10.0.0.1 db-0"], [], ["created"]),
    "a Service goes": ([headless("db"), db()], remove(headless("db")), [], ["10.0.0.1 db-0"], ["deleted"]),
    "its address": ([cluster_ip("db", "10.96.0.1")], upsert(cluster_ip("db", "10.96.0.2")), ["10.96.0.2"],
                    ["10.96.0.1"], ["spec.clusterIPs 10.96.0.1→10.96.0.2"]),
    "its ports": ([headless("db"), db()], upsert(msgspec.structs.replace(db(), ports=PORTS)), [], [],
                  ["ports http:8080/TCP→sql:5432/TCP"]),
    "its TTL": ([headless("db"), db()], upsert(annotated(headless("db"), ttl="30")), [], [],
                ["headwater.dev/ttl none→30"]),
    "a target": ([external_name("db", "a.example")], upsert(external_name("db", "b.example")), ["CNAME b.example."],
                 ["CNAME a.example."], ["spec.externalName a.example→b.example"]),
    "both families": ([headless("db"), db("fd00::1")], upsert(db("fd00::2")), ["fd00::2 db-0"], ["fd00::1 db-0"],
                      ["db-0 address fd00::1→fd00::2"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_sort_of_change_is_told(case: str, tmp_path: Path) -> None:
    before, change, added, removed, words = CASES[case]
    world = Chronicled(tmp_path)
    world.fill(*before)
    with Writer(world) as writer:
        writer.commit(change)
    (entry,) = world.changes()
    assert entry.cause is not None
    assert (entry.added, entry.removed, entry.cause.changes) == (added, removed, words)


def test_what_changes_no_answer_is_no_entry(world: Chronicled) -> None:
    with Writer(world) as writer:
        writer.commit(upsert(msgspec.structs.replace(db(), endpoints=(at("10.0.0.1", hostname="db-0", zone="z"),))))
        writer.commit(upsert(db(), "1234"))
        writer.commit(upsert(slice_of("nobody", at("10.0.0.9"))))
    assert world.changes() == []


def test_an_endpoint_that_moves_to_another_slice_in_one_commit_changes_no_address(world: Chronicled) -> None:
    with Writer(world) as writer:
        writer.commit(upsert(slice_of("db", name="db-x")), upsert(db(name="db-y")))
    assert all(not entry.added and not entry.removed for entry in world.changes())


def test_namespaces_imports_and_pods_are_owners_too(tmp_path: Path) -> None:
    world = Chronicled(tmp_path, settings(pods="verified", multicluster_zones=("clusterset.local",)))
    api = ServiceImport("default", "api", True, (), (Port("http", "TCP", 80),))
    world.fill(api)
    with Writer(world) as writer:
        writer.commit(upsert(Namespace("new")))
        writer.commit(upsert(imported("api", "east", at("10.1.0.1", hostname="api-0"))))
        writer.commit(upsert(Pod("default", "p", ("10.2.0.1",))))
        writer.commit(remove(Pod("default", "p", ("10.2.0.1",))))
    found = [(str(entry.owner), entry.added, entry.removed) for entry in world.changes()]
    assert found == [
        ("namespace new", [], []),
        ("import default/api", ["10.1.0.1 api-0.east"], []),
        ("pod address default/10.2.0.1", ["10.2.0.1"], []),
        ("pod address default/10.2.0.1", [], ["10.2.0.1"]),
    ]
    assert world.at("10-2-0-1.default.pod.cluster.local", BEGAN + 3.5).addresses == ["10.2.0.1"]
    assert world.at("10-2-0-1.default.pod.cluster.local", BEGAN + 2.5).rcode == "NXDOMAIN"
    assert world.at("api-0.east.api.default.svc.clusterset.local", BEGAN + 2.5).addresses == ["10.1.0.1"]
    assert world.at("new.svc.cluster.local", BEGAN + 0.5).rcode == "NXDOMAIN"


# Gaps


def test_the_time_between_two_lives_of_the_writer_is_a_gap(world: Chronicled) -> None:
    with Writer(world) as writer:
        writer.commit(upsert(db("10.0.0.2")))  # at 1
    world.now = BEGAN + 60
    with Writer(world) as writer:
        writer.commit(upsert(db("10.0.0.3")))  # at 61
    assert world.gaps()[1:] == [
        "not running from 2027-01-15T08:00:00.000Z to 2027-01-15T08:00:00.000Z",
        "not running from 2027-01-15T08:00:01.000Z to 2027-01-15T08:01:00.000Z",
    ]
    assert world.at(DB, BEGAN + 0.5).addresses == ["10.0.0.1"]
    assert world.at(DB, BEGAN + 1.0).addresses == ["10.0.0.2"]
    during = world.at(DB, BEGAN + 30)
    assert (during.known, "was not running" in during.why, during.addresses) == (False, True, [])
    assert world.at(DB, BEGAN + 60.5).addresses == ["10.0.0.2"]
    assert world.at(DB, BEGAN + 61).addresses == ["10.0.0.3"]


def test_starts_that_come_to_nothing_are_one_gap(world: Chronicled) -> None:
    for _ in range(20):
        world.now += 5
        store, _ = world.open()
        store.close()
    assert world.gaps()[1:] == ["not running from 2027-01-15T08:00:00.000Z to 2027-01-15T08:01:40.000Z"]


def relist(*objects: Object, version: str = "50") -> Iterator[Change]:
    yield ListPageArrived("endpointslices", [Decoded(item, version) for item in objects], first=True)
    yield ListComplete("endpointslices", version)


def test_what_a_list_finds_is_told_with_the_time_in_which_it_happened(world: Chronicled) -> None:
    with Writer(world) as writer:
        writer.commit(upsert(db("10.0.0.2")))
        world.now += 100
        writer.commit(*relist(db("10.0.0.3")))
        world.now += 100
        writer.commit(*relist(db("10.0.0.3")))  # nothing new
    gap, entry = world.told()[-2:]
    assert "seen at a list of endpointslices: happened between 2027-01-15T08:00:01.000Z and" in gap.text
    assert entry.added == ["10.0.0.3 db-0"]
    # What was stored was answered.
    found = world.at(DB, BEGAN + 50)
    assert (found.known, found.addresses) == (True, ["10.0.0.2"])
    assert "the cluster may have had something else" in found.why


def test_lists_of_files_are_no_gaps(tmp_path: Path) -> None:
    world = Chronicled(tmp_path, from_files=True)
    world.fill(headless("db"), db())
    with Writer(world) as writer:
        writer.commit(*relist(db("10.0.0.2")))
    assert not [gap for gap in world.gaps() if "list" in gap]
    assert len(world.changes()) == 1


def test_other_settings_make_the_records_anew_and_the_time_before_is_not_told_wrongly(world: Chronicled) -> None:
    with Writer(world) as writer:
        writer.commit(upsert(db("10.0.0.2")))
    other = Chronicled(world.state_dir, replace(world.settings, ttl=60))
    other.now = BEGAN + 10
    with Writer(other) as writer:
        writer.commit(upsert(db("10.0.0.3")))
    assert [entry.added for entry in other.changes()] == [["10.0.0.2 db-0"], ["10.0.0.3 db-0"]]
    assert other.at(DB, BEGAN + 10.5).addresses == ["10.0.0.2"]
    found = other.at(DB, BEGAN + 0.5)
    assert (found.known, "is not held" in found.why) == (False, True)


def test_a_time_that_was_not_recorded_is_not_made_up(world: Chronicled) -> None:
    with Writer(world) as writer:
        writer.commit(upsert(db("10.0.0.2")))
    store, ledger = super(Chronicled, world).open()  # a version without a history
    ledger.commit([upsert(db("10.0.0.7"))])
    store.close()
    world.now = BEGAN + 20
    with Writer(world) as writer:
        writer.commit(upsert(db("10.0.0.3")))
    assert "without a history" in world.gaps()[-1]
    assert world.at(DB, BEGAN + 20.5).addresses == ["10.0.0.7"]
    assert not world.at(DB, BEGAN + 0.5).known


def test_a_change_that_cannot_be_told_is_served_all_the_same(
    world: Chronicled, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> list[str]:
        raise KeyError("a bug")

    with Writer(world) as writer:
        with monkeypatch.context() as patched:
            patched.setattr(chronicle, "_texts", broken)
            writer.commit(upsert(db("10.0.0.2")))
        writer.commit(upsert(db("10.0.0.3")))
    assert world.answers(DB) == {"10.0.0.3"}
    assert world.reports == []
    assert "a change could not be told" in world.gaps()[-1]
    assert not world.at(DB, BEGAN + 0.5).known
    assert world.at(DB, BEGAN + 1.5).addresses == ["10.0.0.2"]


# Other stores, other sizes


def test_a_store_of_an_earlier_version_is_used_and_told_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Chronicled(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(environment, "_LATER", ())
        patched.setattr(environment, "_ALL_SUB_DATABASES", environment._SUB_DATABASES)
        store, ledger = super(Chronicled, world).open()
        ledger.commit(listed(world.resources, [Namespace("default"), headless("db"), db()]))
        store.close()
    # Readers may be there before the writer.
    assert world.answers(DB) == {"10.0.0.1"}
    assert world.page().note == "nothing is stored yet"
    with Writer(world) as writer:
        assert world.why == ""
        writer.commit(upsert(db("10.0.0.2")))
    assert len(world.changes()) == 1
    assert world.at(DB, BEGAN + 0.5).addresses == ["10.0.0.1"]


def test_a_reader_finds_the_history_that_a_writer_adds_under_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two processes, as they are: LMDB opens a file once in each."""
    world = Chronicled(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(environment, "_LATER", ())
        patched.setattr(environment, "_ALL_SUB_DATABASES", environment._SUB_DATABASES)
        store, ledger = super(Chronicled, world).open()
        ledger.commit(listed(world.resources, [Namespace("default"), headless("db"), db()]))
        store.close()
    reader = environment.Reader(world.state_dir, world.identity)
    reader.follow()
    snapshot = reader.begin()
    assert snapshot is not None
    assert not snapshot.has(HISTORY)
    snapshot.close()
    program = (
        "import sys; from pathlib import Path; from headwater.store.environment import Store;"
        "from headwater.store.identity import Identity;"
        "store, why = Store.open(Path(sys.argv[1]), Identity(*sys.argv[2:])); store.close(); sys.exit(bool(why))"
    )
    command = [sys.executable, "-c", program, str(tmp_path), world.identity.source, world.identity.shape]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
    reader.follow()
    snapshot = reader.begin()
    assert snapshot is not None
    assert snapshot.has(HISTORY)
    snapshot.close()
    reader.close()


def test_without_a_size_none_is_kept_and_none_is_left(world: Chronicled) -> None:
    with Writer(world) as writer:
        writer.commit(upsert(db("10.0.0.2")))
    none = world.sized(0)
    with Writer(none) as writer:
        writer.commit(upsert(db("10.0.0.3")))
        assert writer.store.read(lambda txn: txn.count(HISTORY)) == 0
    assert none.page().note == "no history is kept: --history is 0"
    again = none.sized(1 << 20)
    with Writer(again) as writer:
        writer.commit(upsert(db("10.0.0.4")))
    assert [entry.added for entry in again.changes()] == [["10.0.0.4 db-0"]]
    assert not again.at(DB, BEGAN + 0.5).known


# Bounds


def moves(world: Chronicled, writer: Writer, count: int, service: str = "db", namespace: str = "default") -> None:
    """So many changes of one address, in another commit each."""
    for number in range(count):
        address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        piece = slice_of(service, at(address, hostname=f"{service}-0"), name=f"{service}-x", namespace=namespace)
        writer.commit(upsert(piece))


def tenants(tmp_path: Path, size: int) -> Chronicled:
    world = Chronicled(tmp_path, settings(history=size))
    services = [headless("db", "quiet"), headless("db", "noisy"), headless("db", "loud")]
    return world.fill(*services, namespaces=("quiet", "noisy", "loud"))  # type: ignore[return-value]


def test_who_changes_without_end_pushes_out_his_own_history_alone(tmp_path: Path) -> None:
    world = tenants(tmp_path, 1 << 20)
    with Writer(world) as writer:
        moves(world, writer, 50, namespace="quiet")
        moves(world, writer, 9_000, namespace="noisy")
    assert len(world.changes(namespace="quiet")) == 50
    assert 1000 < len(world.changes(namespace="noisy")) < 8_000
    assert world.chronicle is not None
    assert world.chronicle.ring.bytes <= world.chronicle.ring.limit
    # What is known of each follows.
    quiet, noisy = "db.quiet.svc.cluster.local", "db.noisy.svc.cluster.local"
    assert world.at(quiet, BEGAN + 10).addresses == ["10.0.0.9"]
    assert world.at(noisy, BEGAN + 9_000).addresses == ["10.0.34.245"]
    found = world.at(noisy, BEGAN + 60)
    assert (found.known, "newer entries took the room" in found.why) == (False, True)
    # And after a restart, which counts anew.
    with Writer(world) as writer:
        moves(world, writer, 300, namespace="loud")
    assert len(world.changes(namespace="quiet")) == 50
    assert len(world.changes(namespace="loud")) == 300


def test_the_store_grows_by_the_history_and_no_more(tmp_path: Path) -> None:
    sizes = {}
    for size in (0, 1 << 20, 2 << 20):
        world = tenants(tmp_path / str(size), size)
        with Writer(world) as writer:
            moves(world, writer, 12_000, namespace="noisy")
            needed, _ = environment._sizes(writer.store._env, writer.store.folder)
            sizes[size] = needed
    assert sizes[1 << 20] <= sizes[0] + (1 << 20)
    assert sizes[2 << 20] <= sizes[0] + (2 << 20)
    assert sizes[2 << 20] > sizes[0] + (1 << 20), "it is used"


def test_a_smaller_size_takes_away_what_is_too_much(tmp_path: Path) -> None:
    world = tenants(tmp_path, 8 << 20)
    with Writer(world) as writer:
        moves(world, writer, 12_000, namespace="noisy")
    smaller = world.sized(1 << 20)
    with Writer(smaller):
        assert smaller.chronicle is not None
        assert smaller.chronicle.ring.bytes <= 1 << 20
    assert 100 < len(smaller.changes()) < 8_000


def test_an_entry_is_bounded(tmp_path: Path) -> None:
    world = Chronicled(tmp_path)
    world.fill(headless("db"))
    many = [at(f"10.0.{number >> 8}.{number & 255}", hostname=f"db-{number}") for number in range(3000)]
    with Writer(world) as writer:
        writer.commit(upsert(slice_of("db", *many, name="db-x")))
        size = writer.store.read(lambda txn: max(len(value) for _, value in txn.scan(HISTORY)))
        writer.commit(upsert(slice_of("db", *many[:-1], name="db-x")))
    assert size < 24 * KIB
    first, second = world.changes()
    assert len(first.added) <= chronicle.MOST_NAMES
    assert first.more > 2500
    assert (second.removed, second.more) == (["10.0.11.183 db-2999"], 0)
    assert len(first.text) < 1000
    # Names that are not among those told are not known before.
    found = world.at("db-2998." + DB, BEGAN + 0.5)
    assert (found.known, "larger than an entry" in found.why) == (False, True)
    assert world.at("db-2999." + DB, BEGAN + 1.5).addresses == ["10.0.11.183"]
    # The owner's own name is known before: 3,000 at once are too many, but not these.
    with Writer(world) as writer:
        writer.commit(upsert(slice_of("db", *many[:2600], name="db-x")))
    assert len(world.at(DB, BEGAN + 2.5).addresses) == 2999
    assert not world.at(DB, BEGAN + 0.5).known


def test_texts_of_a_cause_are_bounded_whatever_objects_say(tmp_path: Path) -> None:
    world = Chronicled(tmp_path)
    world.fill(headless("db"))
    odd = [at(f"10.0.0.{number}", pod="\x1b[31m" + "x" * 5000 + str(number)) for number in range(50)]
    with Writer(world) as writer:
        writer.commit(upsert(slice_of("db", name="db-x")))
        writer.commit(Upsert("endpointslices", Decoded(slice_of("db", *odd, name="db-x"), "v" * 10_000)))
    (entry,) = world.changes()
    assert entry.cause is not None
    assert len(entry.cause.changes) == chronicle.MOST_TEXTS
    assert max(map(len, entry.cause.changes)) <= 160
    assert len(entry.cause.resource_version) <= 64
    assert "\x1b" not in entry.text
    assert len(entry.text) < 4000


def test_an_entry_is_there_if_and_only_if_the_record_is(world: Chronicled, monkeypatch: pytest.MonkeyPatch) -> None:
    with Writer(world) as writer:
        with monkeypatch.context() as patched:
            patched.setattr(environment.Transaction, "finish", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                writer.commit(upsert(db("10.0.0.2")))
        assert writer.store.read(lambda txn: txn.count(HISTORY)) == 2  # where it begins, and the writer's start
        writer.commit(upsert(db("10.0.0.3")))
    assert [entry.removed for entry in world.changes()] == [["10.0.0.1 db-0"]]


def test_a_clock_that_goes_back_keeps_entries_in_their_order(world: Chronicled) -> None:
    with Writer(world) as writer:
        writer.commit(upsert(db("10.0.0.2")))
        world.now -= 3600
        writer.commit(upsert(db("10.0.0.3")))
        writer.commit(upsert(db("10.0.0.4")))
    entries = world.changes()
    assert [entry.added for entry in entries] == [["10.0.0.2 db-0"], ["10.0.0.3 db-0"], ["10.0.0.4 db-0"]]
    assert sorted(entry.seq for entry in entries) == [entry.seq for entry in entries]


# Questions


def test_entries_are_found_by_name_owner_namespace_address_and_time(tmp_path: Path) -> None:
    world = tenants(tmp_path, 1 << 20)
    with Writer(world) as writer:
        writer.commit(upsert(slice_of("db", at("10.0.0.1", hostname="a"), namespace="quiet")))
        writer.commit(upsert(slice_of("db", at("10.0.0.1", hostname="b"), namespace="noisy")))
        writer.commit(upsert(slice_of("db", at("10.0.0.2", hostname="a"), namespace="quiet")))
        writer.commit(upsert(slice_of("db", at("10.0.0.2", hostname="a"), at("10.0.0.3", hostname="c"),
                                      namespace="quiet")))  # fmt: skip

    def seen(**asked: Any) -> list[str]:
        return ["".join(entry.added) for entry in world.changes(**asked)]

    everything = ["10.0.0.1 a", "10.0.0.1 b", "10.0.0.2 a", "10.0.0.3 c"]
    assert seen() == everything
    assert seen(namespace="quiet") == ["10.0.0.1 a", "10.0.0.2 a", "10.0.0.3 c"]
    assert seen(owner="noisy/db") == ["10.0.0.1 b"]
    assert seen(name="db.quiet.svc.cluster.local.") == ["10.0.0.1 a", "10.0.0.2 a", "10.0.0.3 c"]
    assert seen(name="db.quiet") == ["10.0.0.1 a", "10.0.0.2 a", "10.0.0.3 c"]
    assert seen(name="a.db.quiet.svc.cluster.local") == ["10.0.0.1 a", "10.0.0.2 a"]
    assert seen(name="_http._tcp.db.noisy.svc.cluster.local") == ["10.0.0.1 b"]
    assert [(str(entry.owner), "".join(entry.added)) for entry in world.changes(ip="10.0.0.1")] == [
        ("quiet/db", "10.0.0.1 a"), ("noisy/db", "10.0.0.1 b"), ("quiet/db", "10.0.0.2 a")
    ]  # fmt: skip
    assert seen(since=BEGAN + 3) == everything[2:]
    assert seen(until=BEGAN + 2) == everything[:2]
    page = world.page(limit=2)
    assert ["".join(entry.added) for entry in page.entries] == ["10.0.0.3 c", "10.0.0.2 a"]
    assert page.next is not None
    assert ["".join(entry.added) for entry in world.page(limit=2, before=page.next).entries] == [
        "10.0.0.1 b",
        "10.0.0.1 a",
    ]
    after = world.page(after=page.next)
    assert ["".join(entry.added) for entry in after.entries] == ["10.0.0.3 c"]
    assert after.newest == after.entries[-1].seq


@pytest.mark.parametrize(
    "asked",
    [{"name": "example.org."}, {"name": "cluster.local"}, {"name": "a.b.c.d.e.f"}, {"owner": "db"}, {"ip": "10.0.0"}],
    ids=str,
)
def test_a_question_that_makes_no_sense_is_refused(asked: dict[str, Any], world: Chronicled) -> None:
    with pytest.raises(ValueError):
        world.page(**asked)


def test_a_page_fits_into_a_message(tmp_path: Path) -> None:
    world = Chronicled(tmp_path)
    world.fill(headless("db"))
    with Writer(world) as writer:
        for turn in range(40):
            many = [at(f"10.{turn}.0.{number}", hostname=f"db-{number:0>55}") for number in range(250)]
            writer.commit(upsert(slice_of("db", *many, name="db-x")))
    page = world.page()
    assert len(msgspec.json.encode(page)) < 192 * KIB
    assert page.next is not None
    assert len(world.changes()) == 40


def test_what_was_answered_is_told_for_each_type(world: Chronicled) -> None:
    with Writer(world) as writer:
        writer.commit(upsert(db("fd00::1")))
        writer.commit(upsert(annotated(headless("db"), ttl="30")))
        writer.commit(remove(db()))
    found = world.at("db-0." + DB, BEGAN + 1)
    assert (found.known, found.rcode, found.records) == (True, "NOERROR", [])
    (record,) = world.at("db-0." + DB, BEGAN + 1, "aaaa").records
    assert (record.name, record.type, record.ttl, record.data) == ("db-0." + DB, "AAAA", 5, "fd00::1")
    (record,) = world.at("db-0." + DB, BEGAN + 2, "AAAA").records
    assert record.ttl == 30
    assert world.at(DB, BEGAN + 3).rcode == "NXDOMAIN"
    assert world.at("never." + DB, BEGAN + 1).rcode == "NXDOMAIN"
    found = world.at(DB, BEGAN + 1, "SRV")
    assert (found.known, "not SRV records" in found.why) == (False, True)
    found = world.at("_http._tcp." + DB, BEGAN + 1)
    assert (found.known, "names of ports" in found.why) == (False, True)
    with pytest.raises(ValueError, match="not over yet"):
        world.at(DB, world.now + 100)


# Explanations


def explained(world: Chronicled, name: str, qtype: str = "A") -> Explanation:
    reader = environment.Reader(world.state_dir, world.identity)
    reader.follow()
    try:
        return explained_from(reader, Resolver(reader, world.settings), world.settings, name, qtype)
    finally:
        reader.close()


def test_an_explanation_says_since_when_it_is_so_and_how_long_caches_may_differ(tmp_path: Path) -> None:
    world = Chronicled(tmp_path, settings(ttl=7, negative_ttl=3))
    world.fill(headless("db"), db())
    assert explained(world, DB).changed is None
    with Writer(world) as writer:
        writer.commit(upsert(db("10.0.0.2")))
        writer.commit(upsert(slice_of("db", at("10.0.0.3", hostname="db-1"), name="db-y")))
    found = explained(world, DB)
    assert (found.changed, found.until) == (BEGAN + 2, BEGAN + 2 + 7)
    assert {record.data: record.origins[0].since for record in found.records} == {
        "10.0.0.2": BEGAN + 1, "10.0.0.3": BEGAN + 2
    }  # fmt: skip
    assert "unchanged since 2027-01-15T08:00:02Z (2 s ago); clients and caches may hold" in show(found, BEGAN + 4)
    # A new name: who asked before was told that it is not there.
    found = explained(world, "db-1." + DB)
    assert (found.changed, found.until) == (BEGAN + 2, BEGAN + 2 + 3)
    assert any("The name is there since 2027-01-15T08:00:02Z" in hint for hint in found.hints)
    found = explained(world, "db-0." + DB)
    assert (found.changed, found.until) == (BEGAN + 1, BEGAN + 1 + 7)
    assert not any("The name is there since" in hint for hint in found.hints)
    # And one that has gone.
    with Writer(world) as writer:
        writer.commit(remove(db()))
    found = explained(world, "db-0." + DB)
    assert (found.outcome, found.changed, found.until) == ("nxdomain", BEGAN + 3, BEGAN + 3 + 7)


NOW = 1_767_225_600.0 + 15 * 3600  # 2026-01-01T15:00:00Z


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1767225600", 1_767_225_600.0), ("1767225600.25", 1_767_225_600.25), ("2026-01-01T00:00:00Z", 1_767_225_600.0),
        ("2026-01-01T01:00:00+01:00", 1_767_225_600.0), ("2026-01-01", 1_767_225_600.0), ("14:03", NOW - 3420),
        ("14:03:20", NOW - 3400), ("16:00", NOW - 23 * 3600), ("10m", NOW - 600), ("1h30m", NOW - 5400),
    ],
)  # fmt: skip
def test_times_are_read_as_people_write_them(text: str, moment: float) -> None:
    assert parse_moment(text, NOW) == pytest.approx(moment)


@pytest.mark.parametrize("text", ["", "25:00", "noon", "2026-13-01", "9" * 400, "10", "-5m"][:-2])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        parse_moment(text, NOW)


def test_queries_do_not_read_the_history(world: Chronicled, monkeypatch: pytest.MonkeyPatch) -> None:
    with Writer(world) as writer:
        writer.commit(upsert(db("10.0.0.2")))

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a query read the history")

    for name in ("backward", "forward", "last_key", "first_key"):
        monkeypatch.setattr(environment.Snapshot, name, forbidden)
    assert world.answers(DB) == {"10.0.0.2"}
    assert world.status("no." + DB) == "NXDOMAIN"


def test_the_history_shapes_no_record() -> None:
    assert settings(history=0).records_fingerprint() == Settings().records_fingerprint()
    assert resource_of(headless("x")) == "services"


addresses = st.lists(st.integers(1, 12), max_size=8, unique=True)


@given(addresses, addresses, addresses, addresses)
def test_the_differences_of_two_nodes_are_those_of_their_sets(
    a: list[int], b: list[int], c: list[int], d: list[int]
) -> None:
    def packed(fours: list[int], sixteens: list[int], ttl: int) -> bytes:
        four, sixteen = rdata.address_heads(ttl)
        return pack_node(
            zone=0, kind=Kind.SERVICE, a=[four + bytes((10, 0, 0, item)) for item in fours],
            aaaa=[sixteen + bytes(15) + bytes((item,)) for item in sixteens],
            srv=pack_srv_own(5, 1, 3, (80,)),
        )  # fmt: skip

    before, after = packed(a, c, 5), packed(b, d, 5)
    added, removed = address_changes(before, after)
    old, new = addresses_of(before), addresses_of(after)
    assert added == [item for item in new if item not in old]
    assert removed == [item for item in old if item not in new]
    assert [sorted(some) for some in address_changes(before, packed(b, d, 77))] == [sorted(added), sorted(removed)]
    assert ttl_of(after) == 5


# By the client's place

WEB = "web.default.svc.cluster.local"


def web(*zones: str, first: int = 1) -> EndpointSlice:
    """A member in each of these zones."""
    return slice_of("web", *(at(f"10.0.0.{i}", hostname=f"h{i}", zone=zone) for i, zone in enumerate(zones, first)))


@pytest.fixture
def placed(tmp_path: Path) -> Chronicled:
    found = Chronicled(tmp_path, settings(listen_zones=(ZoneAddress("a", Address(path="/run/a.sock")),)))
    found.fill(annotated(headless("web"), zone="prefer"), web("a", "a", "b"))
    return found


def test_an_entry_tells_what_clients_in_each_place_get(placed: Chronicled) -> None:
    steps: list[Change] = [
        upsert(web("a", "b", "b"), "10"),
        upsert(annotated(headless("web"), zone="pin"), "11"),
        upsert(web("a", "a", "a"), "12"),
        upsert(headless("web"), "13"),
    ]
    with Writer(placed) as writer:
        for change in steps:
            writer.commit(change)
    moved, pinned, left, nothing = placed.changes()
    assert (moved.added, moved.removed) == ([], []), "all are where they were"
    assert [str(place) for place in moved.places] == ["zone a: -10.0.0.2", "zone b: +10.0.0.2"]
    assert "default/web  zone a: -10.0.0.2  zone b: +10.0.0.2  EndpointSlice default/web-1 (version 10)" in moved.text
    assert [str(place) for place in pinned.places] == ["any other zone: nothing"]
    assert [str(place) for place in left.places] == ["zone a: +10.0.0.2, +10.0.0.3", "zone b: what all get"]
    assert [str(place) for place in nothing.places] == ["any other zone: what all get", "zone a: what all get"]
    assert placed.changes(name=f"h2.{WEB}") == [], "HOST names never change"
    assert [entry.seq for entry in placed.changes(ip="10.0.0.2")] == [moved.seq, left.seq, nothing.seq]


def test_what_each_place_got_at_a_time_is_walked_back_to(placed: Chronicled) -> None:
    with Writer(placed) as writer:
        for version, zones in enumerate(("abb", "aaa", "bbb", "abc"), 10):
            writer.commit(upsert(web(*zones), str(version)))
            writer.commit(upsert(annotated(headless("web"), zone="pin" if version % 2 else "prefer"), f"{version}0"))
    moments = [BEGAN + second + 0.5 for second in range(1, 9)]
    told = [{place.place: place.added for place in placed.at(WEB, moment).places} for moment in moments]
    one, two, three = (f"10.0.0.{i}" for i in (1, 2, 3))
    abb, abc = {"zone a": [one], "zone b": [two, three]}, {"zone a": [one], "zone b": [two], "zone c": [three]}
    else_: dict[str, list[str]] = {"any other zone": []}
    every = [one, two, three]
    assert told == [
        abb, abb, {"zone a": every}, {"zone a": every} | else_, {"zone b": every} | else_, {"zone b": every},
        abc, abc | else_,
    ]  # fmt: skip
    assert placed.at(WEB, moments[0]).addresses == every
    assert not placed.at(f"h1.{WEB}", moments[0]).places


def test_places_of_an_entry_are_bounded_and_what_is_left_out_is_not_made_up(placed: Chronicled) -> None:
    many = [f"z{i}" for i in range(chronicle.MOST_PLACES + 8)]
    with Writer(placed) as writer:
        writer.commit(upsert(web(*many), "10"))
        writer.commit(upsert(web(*many[1:], "last"), "11"))
    _, entry = placed.changes()
    assert len(entry.places) == chronicle.MOST_PLACES
    assert entry.more_places > 0
    assert "more places" in entry.text
    before = placed.at(WEB, BEGAN + 1.5)
    assert before.known
    assert not before.places
    assert "clients in some places may have got other sets" in before.why
    assert placed.at(WEB, BEGAN + 2.5).places
