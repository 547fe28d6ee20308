"""While the records of a store are being made, names are answered as when all of them are there."""

from __future__ import annotations

import tracemalloc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from tempfile import TemporaryDirectory
from typing import Any, Final

import dns.message
import dns.name
import dns.rcode
import lmdb
import pytest
from headwater.answer.alias import Pending
from headwater.answer.resolver import Resolver
from headwater.cluster.objects import Namespace, Object, Service
from headwater.explain.extended import Reasons
from headwater.process import control
from headwater.records.compiler import Compiler
from headwater.records.options import silent
from headwater.serve.explaining import Explaining
from headwater.settings.settings import Settings
from headwater.store import environment
from headwater.store.environment import Reader, Snapshot, Store, StoreDamaged, StoreFull
from headwater.wire.names import text_of
from headwater.writer import ledger as ledgers
from headwater.writer import unmade
from headwater.writer.ledger import Ledger
from headwater.writer.outcome import Outcome
from headwater.writer.posting import Posting
from headwater.writer.unmade import FromObjects, owner_of
from hypothesis import given

from tests.harness.small import (
    Small,
    at,
    cluster_ip,
    external_name,
    headless,
    listed,
    remove,
    settings,
    slice_of,
    upsert,
)
from tests.simulation.disk import Died, Files
from tests.unit.test_ledger_property import _FOLDER, _HOST, _START, Rule, examples

#: Every feature that a store may be served with before its records are there.
_EVERYTHING: Final = settings(
    zones=("z", "y"), reverse_zones=("in-addr.arpa", "ip6.arpa"), multicluster_zones=("m",), zonal=True,
    pods="verified", client_option=65518,
)  # fmt: skip
_QTYPES: Final = ("A", "AAAA", "SRV", "PTR", "TXT", "NS", "SOA")


Opened = Callable[[Small], tuple[Store, Ledger]]


class Watched:
    """A writer, and the moments of its store as another process sees them."""

    def __init__(self, world: Small, monkeypatch: pytest.MonkeyPatch, opened: Opened) -> None:
        self.world = world
        self._opened = opened
        self.moments: list[Snapshot] = []
        """After each commit and publication; open, so that each is as it was then."""
        self._files = Files()
        monkeypatch.setattr(environment, "_open", self._files.open)
        self.reader = Reader(world.state_dir, world.identity)
        self.stop: Callable[[int], None] = lambda _: None
        """Called with the number of commits, after each."""
        self.writes = 0
        monkeypatch.setattr(ledgers, "_CHUNK", 1)
        write = Store.write

        def watched(store: Store, work: Callable[[Any], Any]) -> Any:
            found = write(store, work)
            self.look()
            self.writes += 1
            self.stop(self.writes)
            return found

        def published(store: Store) -> None:
            publish(store)
            self.look()

        publish = Store.publish
        monkeypatch.setattr(Store, "write", watched)
        monkeypatch.setattr(Store, "publish", published)
        self.store, self.ledger = opened(world)

    def look(self) -> None:
        self.reader.follow()
        if (snapshot := self.reader.begin()) is not None:
            self.moments.append(snapshot)

    def being_made(self) -> list[Snapshot]:
        return [item for item in self.moments if self.reader.is_being_made(item)]

    def close(self) -> None:
        for snapshot in self.moments:
            snapshot.close()
        self.moments.clear()
        self.reader.close()
        self.store.close()
        self._files.close()

    def restart(self) -> None:
        """The writer's process ends, and another begins."""
        self.store.close()
        self.store, self.ledger = self._opened(self.world)


@contextmanager
def watched(world: Small, opened: Opened = Small.open) -> Iterator[Watched]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        found = Watched(world, monkeypatch, opened)
        try:
            yield found
        finally:
            found.close()


def others(names: Iterable[bytes]) -> set[bytes]:
    """Names like these: with a label more, a label less, another first one."""
    found: set[bytes] = set()
    for name in names:
        rest = name[1 + name[0] :]
        found |= {b"\x01q" + name, rest, b"\x01q" + rest, b"\x05_http" + rest, b"\x04_tcp" + name}
    return {item for item in found if item and len(item) <= 255} - set(names)


def assert_complete(moments: Iterable[Snapshot], last: Snapshot, shape: Settings) -> None:
    """Every name has the same node at these moments as in the end."""
    names = [name for name, _ in last.nodes(b"")]
    for moment in moments:
        view = FromObjects(shape).view(moment)
        for name in (*names, *others(names)):
            found, expected = view.get(name), last.get(name)
            assert (found is None, expected is None) == (expected is None, expected is None), text_of(name)
            assert found is None or bytes(found) == bytes(expected), text_of(name)


def replies(resolver: Resolver, name: bytes, snapshot: Snapshot) -> list[tuple[int, int, list[list[str]]]]:
    """What a name is answered, in no order, for each type."""
    found: list[tuple[int, int, list[list[str]]]] = []
    for qtype in _QTYPES:
        query = dns.message.make_query(text_of(name), qtype, use_edns=0, payload=4096)
        query.id = 0
        reply = resolver.answer(query.to_wire(), snapshot)
        if isinstance(reply, Pending):
            reply = reply.finish(())
        assert reply is not None
        message = dns.message.from_wire(reply)
        sections = (message.answer, message.authority, message.additional)
        # The serial says when records were made, and goes on at the end.
        rows = [sorted(row for rrset in section for row in rrset.to_text().split("\n") if " SOA " not in row)
                for section in sections]  # fmt: skip
        found.append((message.rcode(), message.flags, rows))
    return found


@pytest.mark.slow
@given(start=_START)
@examples(60)
def test_any_name_has_its_node_while_records_are_made(start: list[Object]) -> None:
    """Byte by byte, after every commit from the publication on, with all kinds of objects."""
    unique = list({(type(item), item.key): item for item in start}.values())
    with TemporaryDirectory(dir=_FOLDER) as folder, watched(Small(Path(folder), _EVERYTHING, _HOST)) as found:
        found.ledger.commit(listed(found.world.resources, unique))
        assert found.ledger.ready
        found.look()
        making = found.being_made()
        services = sum(isinstance(item, Service) for item in unique)
        assert len(making) == (1 + services if services > 1 else 0)
        assert_complete(making, found.moments[-1], _EVERYTHING)


CLUSTER: Final[list[Object]] = [
    Namespace("default"), Namespace("empty"),
    headless("db"), slice_of("db", at("10.0.0.1", hostname="db-0"), at("10.0.0.2", hostname="db-1")),
    headless("alone"),
    cluster_ip("web", "172.16.0.1"), slice_of("web", at("10.0.1.1"), at("fd00::1")),
    external_name("there", "web.default.svc.cluster.local"), external_name("away", "example.org"),
]  # fmt: skip
ZONE: Final = "default.svc.cluster.local"


SERVICES: Final = sum(isinstance(item, Service) for item in CLUSTER)


def wire(name: str) -> bytes:
    found = dns.name.from_text(name).to_wire()
    assert found is not None
    return found


def test_questions_are_answered_while_records_are_made(tmp_path: Path) -> None:
    """Through the resolver: addresses, services, CNAMEs to Services that are not made yet, PTR,
    NXDOMAIN and NODATA.
    """
    with watched(Small(tmp_path, settings(reverse_zones=("in-addr.arpa",)))) as found:
        shape = found.world.settings
        found.ledger.commit(listed(found.world.resources, CLUSTER))
        found.look()
        last = found.moments[-1]
        names = [name for name, _ in last.nodes(b"")]
        names += [*others(names), wire("1.0.0.10.in-addr.arpa"), wire("9.0.0.10.in-addr.arpa"), wire(f"no.{ZONE}"),
                  wire("10-0-0-1.default.pod.cluster.local"), wire(f"tcp.db.{ZONE}")]  # fmt: skip
        complete = Resolver(found.reader, shape)
        expected = {name: replies(complete, name, last) for name in names}
        assert sum(bool(sections[0]) for some in expected.values() for _, _, sections in some) > 20
        moments = found.being_made()
        assert len(moments) == 1 + SERVICES
        for moment in moments:
            resolver = Resolver(found.reader, shape, unmade=FromObjects(shape))
            for name in names:
                assert replies(resolver, name, moment) == expected[name], text_of(name)
        ((rcode, _, _), *_) = replies(Resolver(found.reader, shape), wire(f"db.{ZONE}"), moments[0])
        assert rcode == dns.rcode.SERVFAIL  # nobody is there who could make it


@pytest.mark.parametrize("dies", [True, False])
def test_records_go_on_to_be_made_from_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, dies: bool
) -> None:
    """A process that dies, or a disk that is full, after each commit in turn: what was answered
    stays answered, no record is taken back, and hardly any is made again.
    """
    made: list[tuple[str, str]] = []
    touch = Posting.touch_service

    def counted(posting: Posting, service: tuple[str, str]) -> None:
        made.append(service)
        touch(posting, service)

    monkeypatch.setattr(Posting, "touch_service", counted)
    expected = Small(tmp_path / "whole").fill(*CLUSTER, namespaces=()).records()
    interrupted = 0
    for number in range(1, 99):
        with watched(Small(tmp_path / str(number))) as found:

            def stop(count: int, at: int = number) -> None:
                if count == at:
                    raise Died if dies else StoreFull("the disk is full")

            found.stop, found.writes = stop, 0
            made.clear()
            changes = listed(found.world.resources, CLUSTER)
            waiting = deque(changes)
            try:
                found.ledger.settle(waiting, Outcome())
            except (Died, StoreFull):
                pass
            else:
                break
            interrupted += bool(found.being_made())
            if dies:
                found.restart()
                waiting = deque([] if found.ledger.ready else changes)
            found.ledger.settle(waiting, Outcome())
            found.look()
            assert found.ledger.ready
            assert_complete(found.being_made(), found.moments[-1], found.world.settings)
            served = [*map(found.reader.can_answer, found.moments)]
            first = served.index(True)
            assert all(served[first:])
            sizes = [len(list(item.nodes(b""))) for item in found.moments[first:]]
            assert sizes == sorted(sizes)
            assert found.store.read(lambda txn: dict(txn.scan("records"))) == expected
            assert sum(found.ledger.counts) == len(expected)
            # It is told that the disk is full after the commit, and so makes one a second time.
            assert len(made) <= SERVICES + (not dies)
    assert interrupted >= SERVICES


def test_other_settings_begin_anew(tmp_path: Path) -> None:
    """What was made with other settings is not gone on with, and not answered."""
    _die_on_the_way(tmp_path)
    with watched(Small(tmp_path, settings(ttl=60))) as found:
        assert found.ledger.ready
        found.look()
        assert len(found.being_made()) == 1 + SERVICES
        assert_complete(found.being_made(), found.moments[-1], found.world.settings)


def _die_on_the_way(folder: Path) -> None:
    """Leave a store with some of its records."""
    with watched(Small(folder)) as found:

        def stop(_: int) -> None:
            if len(found.being_made()) == 3:
                raise Died

        found.stop = stop
        with pytest.raises(Died):
            found.ledger.commit(listed(found.world.resources, CLUSTER))


def _with_nodes(world: Small) -> tuple[Store, Ledger]:
    store, _ = Store.open(world.state_dir, world.identity)
    return store, Ledger(store, Compiler(world.settings, (), silent), (*world.resources, "nodes"))


def test_another_resource_does_not_end_it(tmp_path: Path) -> None:
    """No record is made of Nodes: where they were not watched before, the records go on to be made,
    and follow changes before the Nodes are listed.
    """
    _die_on_the_way(tmp_path)
    with watched(Small(tmp_path), _with_nodes) as found:
        assert found.ledger.ready
        found.look()
        assert all(map(found.reader.can_answer, found.moments))
        assert_complete(found.being_made(), found.moments[-1], found.world.settings)
        found.ledger.commit([remove(headless("db"), "2")])
        found.look()
        assert found.moments[-1].get(wire(f"db.{ZONE}")) is None


def test_another_resource_takes_no_record_away(tmp_path: Path) -> None:
    """Answer processes have seen that the store is complete, and do not look again."""
    world = Small(tmp_path).fill(*CLUSTER)
    name = wire(f"web.{ZONE}")
    with watched(world, _with_nodes) as found:
        found.look()
        resolver = Resolver(found.reader, world.settings, unmade=FromObjects(world.settings))
        expected = replies(resolver, name, found.moments[-1])
        assert expected[0][0] == dns.rcode.NOERROR
        found.ledger.commit(listed(["nodes"], []))
        found.look()
        assert found.ledger.ready
        for moment in found.moments:
            assert replies(resolver, name, moment) == expected


@pytest.mark.parametrize("place", [None, ("a", "node-1")])
def test_negative_answers_say_why_while_records_are_made(tmp_path: Path, place: tuple[str, str] | None) -> None:
    """In the same words as later, to everybody and to clients in a place."""
    shape = settings(extended_errors=True, client_option=65518)
    with watched(Small(tmp_path, shape)) as found:
        found.ledger.commit(listed(found.world.resources, CLUSTER))
        found.look()
        say = Reasons(shape).say

        def said(moment: Snapshot, unmade: FromObjects | None) -> list[str]:
            resolver = Resolver(found.reader, shape, say, unmade)
            way = resolver.answer if place is None else resolver.at(*place)
            texts = []
            for name, qtype in ((f"web.{ZONE}", "TXT"), (f"db-0.db.{ZONE}", "AAAA"), (f"no.db.{ZONE}", "A")):
                query = dns.message.make_query(name, qtype, use_edns=0, payload=4096)
                reply = way(query.to_wire(), moment)
                assert isinstance(reply, bytes)
                texts += [option.to_text() for option in dns.message.from_wire(reply).options]
            return texts

        expected = said(found.moments[-1], None)
        assert len(expected) == 3
        for moment in found.being_made():
            assert said(moment, FromObjects(shape)) == expected


def test_an_explanation_is_of_what_is_answered_while_records_are_made(tmp_path: Path) -> None:
    with watched(Small(tmp_path)) as found:
        found.ledger.commit(listed(found.world.resources, CLUSTER))
        moment, shape = found.being_made()[0], found.world.settings
        query = dns.message.make_query(f"web.{ZONE}", "A").to_wire()
        answered: Queue[control.Reply] = Queue()

        def explain(_: object, __: Reader, resolver: Resolver, ___: Settings) -> bytes:
            reply = resolver.answer(query, moment)
            assert isinstance(reply, bytes)
            return reply

        resolver = Resolver(found.reader, shape, unmade=FromObjects(shape))
        explaining = Explaining(explain, lambda *_: b"", found.reader, resolver, shape, FromObjects(shape))
        explaining.handle(control.Explain("web", "A"), answered.put)
        told = answered.get(timeout=10)
        assert isinstance(told, control.Explained)
        assert dns.message.from_wire(told.json).answer


def test_a_thread_that_is_late_makes_what_its_moment_lacks(tmp_path: Path) -> None:
    """Another one has answered from a later moment, in which all records are there."""
    with watched(Small(tmp_path)) as found:
        found.ledger.commit(listed(found.world.resources, CLUSTER))
        late = found.being_made()[0]
        resolver = Resolver(found.reader, found.world.settings, unmade=FromObjects(found.world.settings))
        name = wire(f"web.{ZONE}")
        for _ in range(3):
            found.look()
            expected = replies(resolver, name, found.moments[-1])
            assert expected[0][0] == dns.rcode.NOERROR
            assert replies(resolver, name, late) == expected
        assert found.moments[-1].generation == resolver._state.ready_generation, "the short way is taken again"


def test_a_thread_that_is_late_keeps_nothing_for_others(tmp_path: Path) -> None:
    """It reads a moment of a making before the present one, whose objects were others."""
    name = wire(f"web.{ZONE}")
    source = FromObjects(Settings())
    with watched(Small(tmp_path)) as found:
        found.ledger.commit(listed(found.world.resources, CLUSTER))
        first = found.being_made()[0]
        found.ledger.commit([upsert(cluster_ip("web", "172.16.0.2"))])
        found.store.write(lambda txn: txn.set_meta(environment.READY, b""))
        found.restart()
        second = found.being_made()[-1 - SERVICES]
        late, now = source.view(first), source.view(second)
        before, after = late.get(name), now.get(name)
        assert before is not None
        assert after is not None
        found.look()
        assert bytes(before) != bytes(after) == bytes(found.moments[-1].get(name))


@pytest.mark.parametrize("error", [lmdb.CorruptedError, StoreDamaged])
def test_what_cannot_be_read_is_not_a_name_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Not for this question, and not for later ones."""
    name = wire(f"web.{ZONE}")
    with watched(Small(tmp_path)) as found:
        found.ledger.commit(listed(found.world.resources, CLUSTER))
        view = FromObjects(found.world.settings).view(found.being_made()[0])

        def unreadable(*_: object) -> None:
            raise error("a page of zeros")

        with monkeypatch.context() as damaged:
            damaged.setattr(Posting, "_slices_of", unreadable)
            for _ in range(2):
                with pytest.raises(error) as met:
                    view.get(name)
                assert environment.is_damage(met.value)
        assert view.get(name) is not None


def test_another_host_begins_anew(tmp_path: Path) -> None:
    """The names of the name servers were made with the addresses of the one before."""
    _die_on_the_way(tmp_path)
    with watched(Small(tmp_path, None, ("10.9.9.9",))) as found:
        found.look()
        resolver = Resolver(found.reader, found.world.settings)
        ((_, _, (rows, *_)), *_) = replies(resolver, wire("ns.dns.cluster.local"), found.moments[-1])
        assert [row.split()[-1] for row in rows] == ["10.9.9.9"]


def _ruled(world: Small) -> tuple[Store, Ledger]:
    store, _ = Store.open(world.state_dir, world.identity)
    return store, Ledger(store, Compiler(world.settings, (), silent), world.resources, decider=Rule())


def _withheld(world: Small) -> tuple[Store, Ledger]:
    store, _ = Store.open(world.state_dir, world.identity)
    return store, Ledger(store, Compiler(world.settings, (), silent), world.resources, withheld=True)


@pytest.mark.parametrize(
    ("zones", "more", "opened"),
    [
        pytest.param(("cluster.local", "prod.svc.cluster.local"), [], Small.open, id="a zone in a zone"),
        pytest.param(("cluster.local",), [], _ruled, id="a policy"),
        pytest.param(("cluster.local",), [], _withheld, id="a store that is held back"),
        pytest.param(("cluster.local",), [headless("Old")], Small.open, id="a name in capitals"),
    ],
)
def test_not_served_before_all_records_are_there(
    tmp_path: Path, zones: tuple[str, ...], more: list[Object], opened: Opened
) -> None:
    """Where a name's Service cannot be told from the name, or its records not from its objects."""
    with watched(Small(tmp_path, settings(zones=zones)), opened) as found:
        found.ledger.commit(listed(found.world.resources, [*CLUSTER, *more]))
        assert found.ledger.ready
        found.ledger.release()
        found.look()
        assert found.being_made() == []
        assert found.reader.is_ready(found.moments[-1])


def test_few_services_are_made_at_once(tmp_path: Path) -> None:
    """No answer process has to load what makes records, for a moment that nobody sees."""
    with watched(Small(tmp_path)) as found, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledgers, "_CHUNK", SERVICES)
        found.ledger.commit(listed(found.world.resources, CLUSTER))
        found.look()
        assert found.being_made() == []
        assert found.reader.is_ready(found.moments[-1])


def test_what_is_kept_takes_hardly_more_memory_than_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and nodes of a Service are so short that most of their memory is not their bytes."""
    services = [headless(f"s{number}") for number in range(400)]
    slices = [slice_of(service.name, at("10.0.0.1")) for service in services]
    bound = 100_000
    monkeypatch.setattr(unmade, "_MOST", bound)
    with watched(Small(tmp_path)) as found:
        monkeypatch.setattr(ledgers, "_CHUNK", len(services) - 1)
        found.ledger.commit(listed(found.world.resources, [Namespace("default"), *services, *slices]))
        view = FromObjects(found.world.settings).view(found.being_made()[0])
        assert view.get(wire(f"s0.{ZONE}")) is not None
        tracemalloc.start()
        try:
            for service in services:
                view.get(wire(f"{service.name}.{ZONE}"))
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most < 1.5 * bound


def test_what_was_made_is_kept_within_a_bound_and_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, str]] = []
    nodes_of = Posting.nodes_of

    def counted(posting: Posting, service: tuple[str, str]) -> Mapping[bytes, bytes]:
        made.append(service)
        return nodes_of(posting, service)

    monkeypatch.setattr(Posting, "nodes_of", counted)
    with watched(Small(tmp_path)) as found:
        found.ledger.commit(listed(found.world.resources, CLUSTER))
        found.look()
        first, last = found.being_made()[0], found.moments[-1]
        source, name = FromObjects(found.world.settings), wire(f"db.{ZONE}")
        for _ in range(3):
            assert bytes(source.view(first).get(name)) == bytes(last.get(name))
        assert made == [("default", "db")]
        with monkeypatch.context() as bounded:
            bounded.setattr(unmade, "_MOST", 10)
            source.forget()
            for _ in range(2):
                source.view(first).get(name)
        assert len(made) == 3
        resolver = Resolver(found.reader, found.world.settings, unmade=source)
        for count, moment in ((4, first), (4, first), (4, last), (5, first)):  # forgotten at the end
            replies(resolver, name, moment)
            resolver.set_stale(1)  # it looks again
            resolver.set_stale(0)
            assert len(made) == count


def test_another_making_may_have_other_objects(tmp_path: Path) -> None:
    """An answer process lives through two of them, and keeps nothing of the first."""
    source, name = FromObjects(Small(tmp_path).settings), wire(f"db.{ZONE}")
    nodes = []
    for number, more in enumerate(([], [slice_of("db", at("10.0.0.9"), name="db-9")])):
        with watched(Small(tmp_path / str(number))) as found:
            found.ledger.commit(listed(found.world.resources, [*CLUSTER, *more]))
            nodes.append(bytes(source.view(found.being_made()[0]).get(name)))
    assert nodes[0] != nodes[1]


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("db.default.svc.z", ("default", "db")),
        ("db-0.db.default.svc.z", ("default", "db")),
        ("_http._tcp.db.default.svc.z", ("default", "db")),
        ("db.default.svc.y.z", ("default", "db")),
        ("default.svc.z", None),
        ("svc.z", None),
        ("z", None),
        (".", None),
        ("db.default.pod.z", None),
        ("a.svc.svc.z", ("svc", "a")),
        ("db.default.svc.elsewhere", None),
    ],
)
def test_owner_of_a_name(name: str, owner: tuple[str, str] | None) -> None:
    above = [wire("svc.z"), wire("svc.y.z")]
    assert owner_of(wire(name), above) == owner
    assert owner_of(wire(name) + b"suffix", above) == owner


def test_owner_of_a_name_that_only_looks_like_it() -> None:
    """A label whose last bytes are those of a zone; bytes that are no ASCII."""
    above = [wire("svc.z")]
    assert owner_of(b"\x02db\x07default\x08aa\x03svc\x01z\x00", above) is None
    assert owner_of(b"\x02\xffb\x07default\x03svc\x01z\x00", above) is None
