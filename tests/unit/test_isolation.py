"""An object that causes any failure is left out, counted and logged once; all others are served."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from headwater.cluster.changes import Change, ListComplete, ListPageArrived
from headwater.cluster.objects import Decoded, EndpointSlice, Namespace, Object, Port, Resource, Service, ServiceImport
from headwater.records import endpoints, services
from headwater.records.compiler import Compiler
from headwater.store.environment import StoreDamaged, StoreFull
from headwater.writer import lists, posting
from headwater.writer.isolation import in_parts
from headwater.writer.skipped import Skipped
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.small import Small, at, cluster_ip, headless, imported, listed, remove, settings, slice_of, upsert

BAD: Final = "bad.default.svc.cluster.local"
_SHAPE: Final = settings(multicluster_zones=("m",), reverse_zones=("in-addr.arpa",))
_LONG: Final = "x" * 600
_GOOD: Final[list[Object]] = [
    Namespace("default"),
    *(cluster_ip(f"good-{number}", f"172.16.0.{number}") for number in range(1, 9)),
    *(headless(f"web-{number}") for number in range(1, 9)),
    *(slice_of(f"web-{number}", at(f"10.0.0.{number}")) for number in range(1, 9)),
    ServiceImport("default", "far", False, ("172.16.9.1",), (Port("http", "TCP", 80),)),
]


def others_are_served(world: Small) -> None:
    for number in range(1, 9):
        assert world.answers(f"good-{number}.default.svc.cluster.local") == {f"172.16.0.{number}"}
        assert world.answers(f"web-{number}.default.svc.cluster.local") == {f"10.0.0.{number}"}
    assert world.answers("far.default.svc.m") == {"172.16.9.1"}


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 60))
def test_what_fails_alone_is_left_out_and_all_else_goes_in_its_order(bad: list[bool], full: int) -> None:
    """Also with a full disk in the middle: earlier items stay committed,
    and none is left out for it.
    """
    items = list(enumerate(bad))
    done: list[int] = []
    left: list[int] = []
    calls = 0

    def commit(some: Sequence[tuple[int, bool]]) -> None:
        nonlocal calls
        calls += 1
        if calls == full:
            raise StoreFull("no space left")
        if any(fails for _, fails in some):
            raise ZeroDivisionError
        done.extend(number for number, _ in some)

    def leave_out(item: tuple[int, bool], error: Exception) -> None:
        assert isinstance(error, ZeroDivisionError)
        left.append(item[0])

    try:
        in_parts(items, commit, leave_out)
    except StoreFull:
        in_parts(items[len(done) + len(left) :], commit, leave_out)
    assert done == [number for number, fails in items if not fails]
    assert left == [number for number, fails in items if fails]
    assert calls <= 4 + sum(bad) * 14


@pytest.mark.parametrize("error", [StoreFull("x"), StoreDamaged("x"), MemoryError()])
def test_what_no_object_is_to_blame_for_leaves_none_out(error: Exception) -> None:
    def commit(_: Sequence[int]) -> None:
        raise error

    with pytest.raises(type(error)):
        in_parts([1, 2], commit, lambda *_: pytest.fail("left out"))


# Faults of the compiler: by what fails, and by the object that it fails for.


def _poison(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, fails: Callable[..., bool]) -> None:
    real = getattr(owner, name)

    def faulty(*arguments: Any, **named: Any) -> Any:
        if fails(*arguments):
            raise ValueError("injected")
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, faulty)


def is_poison(*arguments: Any) -> bool:
    """Return whether a Service with the poisonous address, or its slice, is among the arguments."""
    for item in arguments:
        if isinstance(item, Service) and "192.0.2.66" in item.cluster_ips:
            return True
        if isinstance(item, EndpointSlice) and any("192.0.2.66" in some.addresses for some in item.endpoints):
            return True
        if isinstance(item, tuple | list) and is_poison(*item):
            return True
    return False


_COMPILER: Final = {
    "nodes": (services, "nodes"),
    "names": (services, "names_of"),
    "gathering": (endpoints, "gather"),
    "the Service": (Compiler, "service"),
    "addresses of a Service": (Compiler, "reverse_of_service"),
    "addresses of a slice": (Compiler, "reverse_of_slice"),
    "whether it is here": (Compiler, "is_here"),
}
_POISON: Final[list[Object]] = [cluster_ip("bad", "192.0.2.66"), slice_of("bad", at("192.0.2.66"))]
_CURED: Final[list[Object]] = [headless("bad"), slice_of("bad", at("10.0.7.1"))]


def as_events(world: Small, objects: Sequence[Object]) -> None:
    world.commit(*map(upsert, objects), upsert(cluster_ip("after", "172.16.0.99")))


def as_lists(world: Small, objects: Sequence[Object]) -> None:
    world.commit(*listed(world.resources, [*_GOOD, *objects, cluster_ip("after", "172.16.0.99")]))


def at_the_start(world: Small, objects: Sequence[Object]) -> None:
    """List and compile everything, as a new process does."""
    for path in world.state_dir.iterdir():
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)
    world.commit(*listed(world.resources, [*_GOOD, *objects, cluster_ip("after", "172.16.0.99")]))


@pytest.mark.parametrize("way", [as_events, as_lists, at_the_start])
@pytest.mark.parametrize("fault", _COMPILER)
def test_compiler_that_fails_on_one_service_harms_no_other(
    fault: str, way: Callable[[Small, Sequence[Object]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _poison(monkeypatch, *_COMPILER[fault], is_poison)
    world = Small(tmp_path / "one", _SHAPE)
    world.commit(*listed(world.resources, _GOOD))
    way(world, _POISON)
    others_are_served(world)
    assert world.answers("after.default.svc.cluster.local") == {"172.16.0.99"}
    # The process starts again on that store, and goes on.
    store, ledger = world.open()
    assert ledger.ready
    store.close()
    world.commit(upsert(cluster_ip("good-1", "172.16.0.1"), version="12"))
    # After the cure, the store is as if nothing had happened.
    world.commit(*map(upsert, _CURED))
    assert world.answers(BAD) == {"10.0.7.1"}
    clean = Small(tmp_path / "clean", _SHAPE)
    clean.commit(*listed(clean.resources, [*_GOOD, *_CURED, cluster_ip("after", "172.16.0.99")]))
    assert world.records() == clean.records()
    reasons = {report[0] for report in world.reports}
    assert reasons == {"unexpected"} or fault in ("whether it is here", "gathering", "addresses of a slice", "names")


def test_what_was_served_of_a_service_stays_until_it_compiles_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _poison(monkeypatch, services, "nodes", is_poison)
    world = Small(tmp_path / "one", _SHAPE)
    good: list[Object] = [headless("bad"), slice_of("bad", at("10.0.7.1", hostname="a"), at("10.0.7.2", hostname="b"))]
    world.commit(*listed(world.resources, [*_GOOD, *good]))
    world.commit(upsert(cluster_ip("bad", "192.0.2.66")))
    assert world.reports or world.answers(BAD) == {"10.0.7.1", "10.0.7.2"}
    assert world.answers(BAD) == {"10.0.7.1", "10.0.7.2"}
    assert world.answers(f"b.{BAD}") == {"10.0.7.2"}
    # A harmless change of its slice is stored, and cannot be served yet.
    world.commit(upsert(slice_of("bad", at("10.0.7.3", hostname="c"))))
    assert world.answers(BAD) == {"10.0.7.1", "10.0.7.2"}
    other = Small(tmp_path / "one", _SHAPE)
    other.commit(upsert(headless("bad")))
    assert other.answers(BAD) == {"10.0.7.3"}, "the slice has not to come again"
    assert other.status(f"b.{BAD}") == "NXDOMAIN", "nothing is left of what was served meanwhile"
    clean = Small(tmp_path / "clean", _SHAPE)
    clean.commit(*listed(clean.resources, [*_GOOD, headless("bad"), slice_of("bad", at("10.0.7.3", hostname="c"))]))
    assert other.records() == clean.records()


@pytest.mark.parametrize("gone", ["the Service", "the namespace", "everything by a list"])
def test_a_faulty_service_that_goes_away_leaves_nothing(
    gone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _poison(monkeypatch, services, "nodes", is_poison)
    world = Small(tmp_path, _SHAPE)
    piece = slice_of("bad", at("10.0.7.1"), namespace="other")
    there: list[Object] = [Namespace("other"), headless("bad", "other"), piece]
    world.commit(*listed(world.resources, [*_GOOD, *there]))
    bad = cluster_ip("bad", "192.0.2.66", namespace="other")
    world.commit(upsert(bad))
    assert world.answers("bad.other.svc.cluster.local") == {"10.0.7.1"}
    match gone:
        case "the Service":
            world.commit(remove(bad))
        case "the namespace":
            world.commit(remove(Namespace("other")))
        case _:
            world.commit(*listed(world.resources, _GOOD))
    assert world.status("bad.other.svc.cluster.local") == "NXDOMAIN"
    others_are_served(world)
    store, _ = world.open()
    assert store.read(lambda txn: txn.count("faulty")) == 0
    store.close()


def test_imports_and_zones_that_do_not_compile_harm_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = Small(tmp_path, _SHAPE)
    world.commit(*listed(world.resources, _GOOD))
    shared: list[Object] = [ServiceImport("default", "bad", True, (), ()), imported("bad", "east", at("192.0.2.66"))]
    with monkeypatch.context() as patched:
        _poison(patched, Compiler, "service_import", is_poison)
        _poison(patched, Compiler, "fixed", lambda _, found: found is not None)
        _poison(patched, Compiler, "namespace", lambda _, name, *__: name == "odd")
        monkeypatch.setattr(Compiler, "name_servers", lambda *_: [])
        monkeypatch.setattr(Compiler, "is_here", lambda _, piece: piece.name == "web-1-1")
        world.commit(*map(upsert, shared), upsert(slice_of("web-1", at("10.0.0.1"), at("10.0.0.1", hostname="h"))))
        world.commit(upsert(Namespace("odd")))
        others_are_served(world)
        assert {report[0] for report in world.reports} == {"unexpected"}
        assert len({report[2] for report in world.reports}) == 3
        compiled_anew = world.with_settings(settings(multicluster_zones=("m",), ttl=60))
        others_are_served_after = compiled_anew.open()
        assert others_are_served_after[1].ready
        others_are_served_after[0].close()
    again = world.with_settings(_SHAPE)
    again.commit(upsert(imported("bad", "east", at("10.0.5.5"))))
    assert again.answers("bad.default.svc.m") == {"10.0.5.5"}


# Faults of packing and storing: the object itself cannot be kept.

_UNSTORABLE: Final[dict[str, Object]] = {
    "a Service with a name of 600 characters": cluster_ip(_LONG, "172.16.0.50"),
    "a slice of such a Service": slice_of(_LONG, at("10.0.0.50"), name="s"),
    "a slice with such a name": slice_of("web-1", at("10.0.0.50"), name=_LONG),
    "a namespace": Namespace(_LONG),
    "an import": ServiceImport("default", _LONG, False, ("172.16.9.2",), ()),
    "a name that is no text": cluster_ip("sur\udcffrogate", "172.16.0.50"),
    "a Service with a name that just fits": cluster_ip("y" * (511 - len("services/default/")), "172.16.0.50"),
}


@pytest.mark.parametrize("way", [as_events, as_lists, at_the_start])
@pytest.mark.parametrize("case", _UNSTORABLE)
def test_an_object_that_cannot_be_stored_harms_no_other(
    case: str, way: Callable[[Small, Sequence[Object]], None], tmp_path: Path
) -> None:
    world = Small(tmp_path / "one", _SHAPE)
    world.commit(*listed(world.resources, _GOOD))
    way(world, [_UNSTORABLE[case]])
    others_are_served(world)
    assert world.answers("after.default.svc.cluster.local") == {"172.16.0.99"}
    # The process starts again on the store, also with other settings.
    for shape in (settings(ttl=60, multicluster_zones=("m",)), _SHAPE):
        other = world.with_settings(shape)
        store, ledger = other.open()
        assert ledger.ready
        store.close()
        others_are_served(other)


def test_an_object_that_cannot_be_stored_is_said_once_and_its_version_counts(tmp_path: Path) -> None:
    world = Small(tmp_path, _SHAPE)
    world.commit(*listed(world.resources, _GOOD))
    store, ledger = world.open()
    ledger.commit([upsert(cluster_ip("good-9", "172.16.0.9"), "20"), upsert(cluster_ip(_LONG, "172.16.0.50"), "21")])
    assert ledger.versions()["services"] == "21"
    assert [(reason, name) for reason, _, name, _ in world.reports] == [("unexpected", _LONG)]
    assert ledger.objects["services"] == 17
    store.close()


def test_a_version_that_cannot_be_packed_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an event and in a list: the object exists, so it is not deleted."""
    for module in (posting, lists):
        _poison(monkeypatch, module, "pack", lambda item, *_: is_poison(item))
    world = Small(tmp_path, _SHAPE)
    world.commit(*listed(world.resources, [*_GOOD, *_CURED]))
    as_events(world, _POISON)
    assert world.answers(BAD) == {"10.0.7.1"}
    as_lists(world, _POISON)
    assert world.answers(BAD) == {"10.0.7.1"}
    assert world.answers("after.default.svc.cluster.local") == {"172.16.0.99"}
    world.commit(upsert(slice_of("bad", at("10.0.7.2"))))
    assert world.answers(BAD) == {"10.0.7.2"}
    others_are_served(world)


def test_a_fault_in_applying_a_list_is_found_in_one_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be staged, but an index does not take it; the other
    slices of its Service are applied.
    """
    world = Small(tmp_path, _SHAPE)
    world.commit(*listed(world.resources, _GOOD))
    _poison(monkeypatch, posting.Posting, "_slice_changed", lambda _, key, *__: key[1] == "s-bad")
    slices = [slice_of("web-1", at(f"10.0.0.{number}"), name=f"s-{number}") for number in (101, 102)]
    as_lists(world, [*slices, slice_of("web-1", at("10.0.0.103"), name="s-bad")])
    assert world.answers("web-1.default.svc.cluster.local") == {"10.0.0.1", "10.0.0.101", "10.0.0.102"}
    assert world.answers("after.default.svc.cluster.local") == {"172.16.0.99"}
    assert [name for _, _, name, _ in world.reports] == ["s-bad"]


def test_a_fault_that_meets_everything_leaves_nothing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No object is the cause, so the process ends instead of leaving out all of them."""
    world = Small(tmp_path, _SHAPE)
    world.commit(*listed(world.resources, _GOOD))
    store, ledger = world.open()
    monkeypatch.setattr(posting.Posting, "compile", lambda *_, **__: 1 / 0)
    changes: list[Change] = [upsert(cluster_ip("good-1", "172.16.0.77")), upsert(cluster_ip("good-2", "172.16.0.78"))]
    with pytest.raises(ZeroDivisionError):
        ledger.commit(changes)
    resource: Resource = "services"
    ledger.commit([ListPageArrived(resource, [Decoded(headless("web-1"), "5")], first=True)])
    with pytest.raises(ZeroDivisionError):
        ledger.commit([ListComplete(resource, "6")])
    store.close()
    monkeypatch.undo()
    others_are_served(world)


def test_a_stored_object_that_does_not_unpack_is_damage_and_no_objects_fault(tmp_path: Path) -> None:
    world = Small(tmp_path, _SHAPE)
    world.commit(*listed(world.resources, _GOOD))
    store, ledger = world.open()
    store.write(lambda txn: txn.put("objects", b"services/default/good-1", b"\0" * 8 + b"\xc1"))
    with pytest.raises(StoreDamaged):
        ledger.commit([upsert(cluster_ip("good-1", "172.16.0.77"))])
    store.close()


# Messages


def test_what_is_left_out_is_said_once_and_in_bounds(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    skipped = Skipped(lambda: now[0])
    with caplog.at_level(logging.WARNING):
        for number in range(1000):
            for _ in range(3):
                skipped.report("name", "default", f"n-{number}", "bad")
        assert len(caplog.records) == 20
        assert skipped.counts == {"name": 3000}
        now[0] += 61
        skipped.look()
        assert "2,940 more" in caplog.records[-1].getMessage()
        skipped.look()
        assert len(caplog.records) == 21
        skipped.report("name", "default", "n-0", "bad")
        assert len(caplog.records) == 21, "it was said"
        skipped.report("name", "default", "n-999", "bad")
        assert "n-999" in caplog.records[-1].getMessage(), "it was not"


def test_what_was_said_long_ago_is_forgotten_and_what_comes_later_is_still_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    skipped = Skipped(lambda: now[0])
    with caplog.at_level(logging.WARNING):
        for number in range(25_000):
            now[0] += 5
            skipped.report("name", "default", f"n-{number}", "bad" * 1000)
        assert len(caplog.records) == 25_000
        assert max(len(record.getMessage()) for record in caplog.records) < 500
        skipped.report("name", "default", "n-24999", "bad" * 1000)
        assert len(caplog.records) == 25_000
        skipped.report("name", "default", "n-0", "bad" * 1000)
        assert len(caplog.records) == 25_001
    assert len(skipped._seen) == 10_000
