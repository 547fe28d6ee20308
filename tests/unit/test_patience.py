"""Patience: which names are awaited, that they are NXDOMAIN, and how questions wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import dns.message
import pytest
from headwater.answer.alias import Pending
from headwater.answer.resolver import Resolver
from headwater.cluster.objects import Port
from headwater.explain.complete import complete
from headwater.explain.explain import explained_from
from headwater.explain.explanation import Cause, Outcome
from headwater.records.options import DEFAULTS, MAX_PATIENCE, options_of
from headwater.serve.patience import MOST, MOST_OF_TENANT, SPARE, Patience
from headwater.store.environment import Reader, Snapshot
from headwater.store.node import Kind, pack_awaited, pack_node
from headwater.wire import names

from tests.harness.small import (
    NOT_READY,
    Small,
    annotated,
    at,
    cluster_ip,
    external_name,
    headless,
    remove,
    settings,
    slice_of,
    upsert,
)

DB: Final = "db.default.svc.cluster.local"
T = TypeVar("T")


@pytest.fixture
def world(tmp_path: Path) -> Small:
    return Small(tmp_path, settings(zonal=True))


@pytest.mark.parametrize(
    ("text", "milliseconds", "sets"),
    [
        ("1s", 1000, ()), ("500ms", 500, ()), ("2.5s", 2500, ()), ("3s", 3000, ()), ("3000ms", 3000, ()),
        ("1s,db", 1000, ("db",)), ("1s, db , web", 1000, ("db", "web")),
    ],
)  # fmt: skip
def test_a_time_reads_as_the_table_says(text: str, milliseconds: int, sets: tuple[str, ...]) -> None:
    found = options_of(annotated(headless("db"), patience=text), lambda *_: None)
    assert (found.patience, found.stateful_sets) == (milliseconds, sets)


@pytest.mark.parametrize(
    "text", ["", "1", "0s", "3.001s", "4s", "-1s", "1m", "1e3ms", "0.0001s", "9" * 5_000 + "s", "1s,", "1s,A", "1s,a.b",
             "1s,a,b,c,d,e", "1s," + "a" * 2_000, "\u0661s"],
)  # fmt: skip
def test_a_time_that_makes_no_sense_is_reported_and_there_is_no_patience(text: str) -> None:
    reports: list[tuple[str, ...]] = []
    assert options_of(annotated(headless("db"), patience=text), lambda *report: reports.append(report)) == DEFAULTS
    ((reason, _, _, detail),) = reports
    assert reason == "annotation"
    assert len(detail) < 150


# Which names are awaited


def awaited(world: Small) -> dict[str, int]:
    """The names that are awaited, without the Service's own, and for how many milliseconds."""
    return {
        names.text_of(name).rstrip(".").removesuffix(f".{DB}"): int.from_bytes(node[-2:], "big")
        for name, node in world.records().items()
        if node[2] == Kind.AWAITED
    }


def test_a_headless_service_and_its_endpoints_are_awaited_until_they_are_published(world: Small) -> None:
    service = annotated(headless("db"), patience="1s", alias="primary=x-0", pod_names="true")
    down = slice_of("db", at("10.0.0.1", hostname="x", pod="p", conditions=NOT_READY))
    world.fill(service, down)
    assert awaited(world) == dict.fromkeys((DB, "x", "p", "primary"), 1000)
    world.commit(upsert(slice_of("db", at("10.0.0.1", hostname="x", pod="p")), "10"))
    assert awaited(world) == {"primary": 1000}
    world.commit(upsert(down, "11"))
    assert awaited(world) == dict.fromkeys((DB, "x", "p", "primary"), 1000)
    world.commit(remove(down, "12"))
    assert awaited(world) == {DB: 1000, "primary": 1000}
    world.commit(upsert(headless("db"), "13"))
    assert awaited(world) == {}


def test_pods_of_a_stateful_set_are_known_by_a_sibling(world: Small) -> None:
    service = annotated(headless("db"), patience="1s")
    world.fill(service, slice_of("db", at("10.0.0.1", hostname="db-1"), at("10.0.0.9", hostname="other")))
    assert set(awaited(world)) == {"db-0", "db-2", "db-3", "db-4", "db-5"}
    world.commit(upsert(slice_of("db", at("10.0.0.1", hostname="db-1"), at("10.0.0.2", hostname="db-2")), "10"))
    assert set(awaited(world)) == {"db-0", "db-3", "db-4", "db-5", "db-6"}
    assert world.answers(f"db-1.{DB}") == {"10.0.0.1"}
    world.commit(upsert(slice_of("db", at("10.0.0.2", hostname="db-0")), "11"))
    assert set(awaited(world)) == {"db-1", "db-2", "db-3", "db-4"}


def test_pods_of_a_stateful_set_are_known_by_its_name(world: Small) -> None:
    world.fill(annotated(headless("db"), patience="1s,rabbit"))
    assert set(awaited(world)) == {DB, *(f"rabbit-{i}" for i in range(16))}


def test_the_names_of_stateful_sets_are_bounded(world: Small) -> None:
    endpoints = [at(f"10.0.0.{i}", hostname=f"s{i}-9999") for i in range(1, 200)]
    world.fill(annotated(headless("db"), patience="1s"), slice_of("db", *endpoints))
    assert len(awaited(world)) <= 64


def test_what_else_is_awaited_and_what_is_not(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(zonal=True, reverse_zones=("in-addr.arpa",), zones=("cluster.local", "b.test")))
    world.fill(
        annotated(cluster_ip("api", "172.16.0.1"), patience="2s"),
        slice_of("api", at("10.0.0.1", hostname="a", conditions=NOT_READY)),
        annotated(external_name("ext", "example.org"), patience="2s"),
        headless("plain"), slice_of("plain", at("10.0.0.2", hostname="p", conditions=NOT_READY)),
    )  # fmt: skip
    assert set(awaited(world)) == {"a.api.default.svc.cluster.local", "a.api.default.svc.b.test"}


def test_without_the_annotation_the_store_is_the_same(tmp_path: Path) -> None:
    members = at("10.0.0.1", hostname="a"), at("10.0.0.2", hostname="b", conditions=NOT_READY)
    plain = Small(tmp_path / "plain").fill(headless("db"), slice_of("db", *members)).records()
    patient = Small(tmp_path / "patient").fill(annotated(headless("db"), patience="1s"), slice_of("db", *members))
    assert {name: node for name, node in patient.records().items() if node[2] != Kind.AWAITED} == plain


# They are NXDOMAIN


@pytest.mark.parametrize("edns", [False, True])
@pytest.mark.parametrize("qtype", ["A", "AAAA", "SRV", "TXT", "ANY", "CNAME", "SOA"])
def test_an_awaited_name_is_nxdomain_and_waits_for_addresses_and_srv(world: Small, qtype: str, edns: bool) -> None:
    world.fill(annotated(headless("db"), patience="1.5s"), slice_of("db", at("10.0.0.1", hostname="a", conditions=0)))
    for name in (DB, f"a.{DB}", f"A.{DB}"):
        query = dns.message.make_query(name, qtype, use_edns=0 if edns else None).to_wire()
        (reply,) = world.replies(query)
        if qtype in ("A", "AAAA", "SRV"):
            assert isinstance(reply, Pending)
            assert reply.patience == 1.5
            assert reply.tenant == b"\x07default"
            assert reply.target == names.name(name.lower())
            reply = reply.finish(())
        assert isinstance(reply, bytes)
        message = dns.message.from_wire(reply)
        assert message.rcode() == dns.rcode.NXDOMAIN
        assert len(message.authority) == 1
        assert dns.message.from_wire(query).is_response(message)
    plain = Small(world.state_dir / "x").fill(headless("db")).ask(DB, qtype, edns=edns)
    message.id, plain.id = 0, 0
    assert [message.flags, message.authority] == [plain.flags, plain.authority]


def test_names_around_an_awaited_one_are_as_without(world: Small) -> None:
    objects = slice_of("db", at("10.0.0.1", hostname="a", conditions=0, zone="za")), external_name("ext", f"a.{DB}")
    world.fill(annotated(headless("db"), patience="1s"), *objects)
    plain = Small(world.state_dir / "x", world.settings).fill(headless("db"), *objects)
    around = [f"{label}.{DB}" for label in ("x", "_http._tcp", "http.tcp", "_tcp", "za.pin._zone", "_zone", "y.a")]
    around += [f"za.prefer._zone.{DB}", "ext.default.svc.cluster.local", "default.svc.cluster.local"]
    for name in around:
        for qtype in ("A", "SRV", "CNAME"):
            assert world.status(name, qtype) == plain.status(name, qtype), (name, qtype)


def test_explain_completion_and_history_take_it_for_none(world: Small) -> None:
    world.fill(annotated(headless("db"), patience="1s"), slice_of("db", at("10.0.0.1", hostname="abc", conditions=0)))
    reader = Reader(world.state_dir, world.identity)
    reader.follow()
    snapshot = reader.begin()
    assert snapshot is not None
    try:
        found = explained_from(reader, Resolver(reader, world.settings), world.settings, f"abc.{DB}", "A")
        assert (found.outcome, found.cause, found.contradiction) == (Outcome.NXDOMAIN, Cause.HOST_NOT_READY, "")
        assert any("waits up to 1 s for it, by the annotation headwater.dev/patience" in hint for hint in found.hints)
        assert "abc" not in repr(complete("abc.d", snapshot, world.settings, 20).names)
    finally:
        snapshot.close()
        reader.close()


# Waiting


class FakeSnapshot:
    def __init__(self, commit: int, nodes: dict[bytes, bytes]) -> None:
        self.generation, self.commit, self.get = 1, commit, nodes.get

    def close(self) -> None: ...


class FakeReader:
    """A store of some nodes; `put` is a commit."""

    def __init__(self, *awaited: bytes) -> None:
        self.nodes = {name: pack_awaited(zone=0, milliseconds=1000) for name in awaited}
        self.commit = 1
        self.begun = 0

    def put(self, name: bytes) -> None:
        self.nodes[name] = pack_node(zone=0, kind=Kind.ENDPOINT)
        self.commit += 1

    def begin(self) -> FakeSnapshot:
        self.begun += 1
        return FakeSnapshot(self.commit, self.nodes)


NAME: Final = b"\x01a"


def patience(reader: FakeReader, workers: int = 1) -> Patience:
    def fail(*error: object) -> None:
        raise AssertionError(error)

    return Patience(cast("Reader", reader), workers, fail, fail)


def question(name: bytes = NAME, seconds: float = 5.0, tenant: bytes = b"t", reply: object = b"reply") -> Pending:
    def again(_: Snapshot) -> Any:
        return reply

    return Pending(name, 1, lambda _: b"nxdomain", tenant, seconds, again)


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(20):
            return await work()

    return asyncio.run(bounded())


def test_a_question_is_answered_when_the_name_comes() -> None:
    reader = FakeReader(NAME)
    waiting = patience(reader)

    async def work() -> None:
        task = asyncio.create_task(waiting.wait(question(), 9.0))
        while reader.begun < 3:
            await asyncio.sleep(0)
        assert not task.done()
        reader.put(NAME)
        assert await task == b"reply"

    run(work)
    assert waiting.counts == {"answered": 1, "expired": 0, "refused": 0, "refused_tenant": 0}


def test_a_name_that_came_before_the_first_look_is_seen() -> None:
    """Another question has made the process see that commit already."""
    reader = FakeReader(NAME, b"\x01b")
    waiting = patience(reader)

    async def work() -> None:
        other = asyncio.create_task(waiting.wait(question(b"\x01b"), 9.0))
        reader.put(NAME)
        while reader.begun < 3:
            await asyncio.sleep(0)
        assert await waiting.wait(question(), 9.0) == b"reply"
        reader.put(b"\x01b")
        assert await other == b"reply"

    run(work)


def test_when_the_time_is_up_it_is_nxdomain_and_nobody_looks_any_more() -> None:
    reader = FakeReader(NAME)
    waiting = patience(reader)

    async def work() -> None:
        began = asyncio.get_running_loop().time()
        assert await waiting.wait(question(seconds=0.2), 9.0) is None
        assert await waiting.wait(question(), SPARE + 0.1) is None
        assert asyncio.get_running_loop().time() - began < 2
        while waiting._task is not None:
            await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    run(work)
    assert waiting.counts["expired"] == 2


def test_a_client_that_has_no_time_gets_nxdomain_at_once() -> None:
    waiting = patience(FakeReader(NAME))
    assert run(lambda: waiting.wait(question(), SPARE)) is None
    assert waiting.counts["refused"] == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_so_many_wait_and_so_many_of_a_namespace(workers: int) -> None:
    reader = FakeReader(NAME)
    waiting = patience(reader, workers)

    async def work() -> None:
        def ask(tenant: int, count: int) -> list[asyncio.Task[bytes | None]]:
            return [asyncio.create_task(waiting.wait(question(tenant=b"%d" % tenant), 9.0)) for _ in range(count)]

        most, each = MOST // workers, MOST_OF_TENANT // workers
        first = ask(0, each + 3)
        await asyncio.sleep(0)
        assert waiting.counts["refused_tenant"] == 3
        others = [task for tenant in range(1, 11) for task in ask(tenant, each)]
        await asyncio.sleep(0)
        assert waiting.counts["refused"] == (len(others) + each) - most == each
        reader.put(NAME)
        done = await asyncio.gather(*first, *others)
        assert done.count(b"reply") == most
        assert await waiting.wait(question(b"\x01z"), 9.0) == b"reply", "places are free again"

    run(work)


def test_a_question_that_is_cancelled_leaves_its_place() -> None:
    reader = FakeReader(NAME)
    waiting = patience(reader, 100)

    async def work() -> None:
        for _ in range(MOST_OF_TENANT // 100 + 2):
            task = asyncio.create_task(waiting.wait(question(), 9.0))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert waiting.counts["refused_tenant"] == 0

    run(work)


def test_a_bug_met_by_one_costs_nothing_but_its_answer() -> None:
    reader, bugs = FakeReader(NAME), list[Exception]()
    waiting = Patience(cast("Reader", reader), 1, bugs.append, lambda *_: None)

    async def work() -> None:
        def broken(_: Snapshot) -> bytes:
            raise ZeroDivisionError

        bad = Pending(NAME, 1, lambda _: b"", b"t", 0.3, broken)
        reader.put(NAME)
        assert await waiting.wait(bad, 9.0) is None
        assert await waiting.wait(question(), 9.0) == b"reply"

    run(work)
    assert {type(bug) for bug in bugs} == {ZeroDivisionError}


def test_ports_of_an_awaited_service_are_not_awaited(world: Small) -> None:
    service = annotated(headless("db", ports=[Port("sql", "TCP", 1)]), patience="1s")
    world.fill(service)
    assert set(awaited(world)) == {DB}


def test_the_limits_are_those_of_the_documents() -> None:
    page = " ".join((Path(__file__).parents[2] / "docs" / "answers.md").read_text().split())
    assert f"{MOST:,} questions wait, {MOST_OF_TENANT} for Services of one namespace" in page
    assert f"up to `{MAX_PATIENCE // 1000}s`" in page
    assert MAX_PATIENCE / 1000 + SPARE < 5, "CoreDNS's `grpc` gives up after 5 s"
