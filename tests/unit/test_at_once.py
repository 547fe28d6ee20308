"""A change that comes alone is committed by the thread that read it, and overtakes no other."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from headwater.cluster.changes import Change, Remove, Upsert
from headwater.cluster.follower import Follower, Inbox
from headwater.cluster.objects import Namespace, Object
from headwater.cluster.reflector import Reflector
from headwater.settings.settings import Settings
from headwater.store.environment import Store, StoreDamaged
from headwater.writer.owners import Owner
from headwater.writer.process import Changes, Watcher
from headwater.writer.turns import Turns

from tests.harness.processes import wait_until
from tests.harness.small import Small, at, headless, listed, remove, slice_of, upsert
from tests.unit.test_settling import Refusing

_WEB = b"\3web\7default\3svc\7cluster\5local\0"


class Watched:
    """A watcher of one Service, which is ready; its clock stands still unless it is told."""

    def __init__(self, folder: Path) -> None:
        self.world = Small(folder)
        self.store, _ = Store.open(folder, self.world.identity)
        self.now = 100.0
        self.waited: list[float] = []
        self.changes = Changes()
        self.watcher = Watcher(
            self.world.settings, self.store, changes=self.changes, clock=lambda: self.now, wait=self.waited.append
        )
        objects: list[Object] = [Namespace("default"), headless("web"), slice_of("web", at("10.0.0.1"))]
        for change in listed(["namespaces", "services", "endpointslices"], objects):
            self.changes.put(change)
        while not self.watcher.ledger.ready:
            self.watcher.step()
        self.take()

    def take(self) -> None:
        """Take steps until nothing waits."""
        while self.changes.qsize() or not self.watcher._is_idle:
            self.watcher.step()

    def at_once(self, address: str, version: str = "20", *, after: float = 1.0) -> bool:
        """Offer a change, so many seconds after the one before."""
        self.now += after
        return self.watcher.at_once(moved(address, version))

    def serves(self, address: str) -> bool:
        node = self.store.read(lambda txn: txn.get("records", _WEB)) or b""
        return bytes(map(int, address.split("."))) in node


def moved(address: str, version: str) -> Upsert:
    return upsert(slice_of("web", at(address)), version)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    found = Watched(tmp_path)
    yield found
    found.store.close()


def test_a_change_that_comes_alone_is_committed_by_who_brings_it(watched: Watched) -> None:
    steps = watched.watcher.progress.mark().steps
    assert watched.at_once("10.0.0.2")
    assert watched.serves("10.0.0.2")
    assert watched.changes.empty()
    assert watched.watcher.progress.mark().steps > steps, "the supervisor sees it at work"
    assert watched.watcher.ledger.versions()["endpointslices"] == "20"


def test_changes_that_come_together_queue(watched: Watched) -> None:
    assert watched.at_once("10.0.0.2")
    assert not watched.at_once("10.0.0.3", "21", after=0.0005)
    assert not watched.at_once("10.0.0.4", "22", after=0.0005), "it counts from the last one that came"
    assert watched.serves("10.0.0.2")


def test_a_change_overtakes_none_that_waits(watched: Watched) -> None:
    watched.changes.put(moved("10.0.0.2", "20"))
    assert not watched.at_once("10.0.0.3", "21"), "one is in the queue"
    watched.watcher._take_what_came()
    assert watched.changes.empty()
    assert not watched.at_once("10.0.0.3", "21"), "one was taken from the queue, and waits for its turn"
    watched.take()
    assert watched.serves("10.0.0.2")


def test_a_namespace_queues(watched: Watched) -> None:
    """All that is in it is one transaction, and takes its time."""
    watched.now += 1.0
    assert not watched.watcher.at_once(remove(Namespace("default"), "20"))
    assert watched.serves("10.0.0.1")


def test_nothing_is_committed_while_another_thread_does(watched: Watched) -> None:
    with watched.watcher._at_work:
        assert not watched.at_once("10.0.0.2")
    assert watched.at_once("10.0.0.2")


def test_before_the_lists_are_complete_changes_queue(tmp_path: Path) -> None:
    world = Small(tmp_path)
    store, _ = Store.open(tmp_path, world.identity)
    watcher = Watcher(world.settings, store)
    assert not watcher.at_once(moved("10.0.0.2", "20"))
    store.close()


def test_what_the_disk_refuses_is_tried_again_before_any_other(watched: Watched) -> None:
    Refusing(watched.store, [0])
    assert watched.at_once("10.0.0.2"), "it is taken, and waits"
    assert watched.watcher.snapshot().detail.startswith("the store cannot be written")
    assert watched.waited == [1.0]
    assert not watched.serves("10.0.0.2")
    assert not watched.at_once("10.0.0.3", "21")
    watched.watcher.step()
    assert watched.serves("10.0.0.2")
    assert watched.at_once("10.0.0.3", "21")
    assert watched.serves("10.0.0.3")


def test_what_ends_the_process_is_raised_in_the_main_thread(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(self: Store, work: Any) -> Any:
        raise StoreDamaged("a page")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "write", damaged)
        change = moved("10.0.0.2", "20")
        assert not watched.watcher.at_once(change)
    assert not watched.at_once("10.0.0.3", "21"), "nothing is written any more"
    watched.changes.put(change)  # as the follower does: it wakes the main thread
    with pytest.raises(StoreDamaged, match="a page"):
        watched.watcher.step()
    assert watched.serves("10.0.0.1")


def test_after_a_page_that_cannot_be_read_nothing_is_written(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Store, "is_condemned", True)
        assert not watched.at_once("10.0.0.2"), "the main thread ends the process"
    assert not watched.at_once("10.0.0.3", "21")
    with pytest.raises(StoreDamaged, match="cannot be read"):
        watched.watcher.step()
    assert not watched.serves("10.0.0.3")


def test_nothing_of_another_cluster_is_taken(watched: Watched) -> None:
    watched.watcher._recognition.another = "another one"
    assert not watched.at_once("10.0.0.2")
    assert watched.serves("10.0.0.1")


@pytest.mark.parametrize("policy", ["", "json:loads"])
def test_a_policy_is_asked_by_the_main_thread(policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater.writer.policy.PolicyProcess.load", lambda _: "")
    settings = Settings(policy=policy)
    world = Small(tmp_path, settings)
    store, _ = Store.open(tmp_path, world.identity)
    at_once = Watcher(settings, store)._inbox.at_once
    store.close()
    assert (at_once == Inbox.__dataclass_fields__["at_once"].default) == bool(policy)


@pytest.mark.parametrize("taken", [True, False])
def test_a_follower_offers_its_events_before_they_queue(taken: bool) -> None:
    offered: list[Change] = []

    def at_once(change: Upsert | Remove) -> bool:
        offered.append(change)
        return taken

    changes = Changes()
    inbox = Inbox(changes, threading.Semaphore(), lambda *_: None, threading.Event(), at_once)
    follower = Follower("namespaces", Reflector("1", time.monotonic), None, inbox, None)  # type: ignore[arg-type]
    for number, kind in ((5, "ADDED"), (6, "DELETED")):
        item = {"metadata": {"name": "a", "resourceVersion": str(number)}}
        list(follower._take_lines([json.dumps({"type": kind, "object": item}).encode()], initial=False))
    assert [type(change) for change in offered] == [Upsert, Remove]
    assert changes.qsize() == (0 if taken else 2)


def test_with_several_threads_the_last_state_of_every_object_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thread changes a slice of its own of one Service, at once where it may."""
    monkeypatch.setattr("headwater.writer.process._ALONE", -1.0)
    world = Small(tmp_path)
    store, _ = Store.open(tmp_path, world.identity)
    watcher = Watcher(world.settings, store)
    changes, at_once = watcher._inbox.changes, watcher._inbox.at_once
    for change in listed(["namespaces", "services", "endpointslices"], [Namespace("default"), headless("web")]):
        changes.put(change)
    watcher._inbox.pages.release()
    loop = threading.Thread(target=watcher.loop)
    loop.start()
    taken = [0] * 3
    versions = iter(range(100, 10_000))
    lock = threading.Lock()

    def follow(mine: int) -> None:
        for number in range(150):
            if number % 3:  # the others come together
                wait_until(lambda: not changes.qsize() and watcher._is_idle, 10.0, "nothing waits", interval=0.0005)
            with lock:
                version = str(next(versions))
            change = upsert(slice_of("web", at(f"10.{mine}.0.{number}"), name=f"web-{mine}"), version)
            if at_once(change):
                taken[mine] += 1
            else:
                changes.put(change)

    threads = [threading.Thread(target=follow, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    watcher.stopping.set()
    changes.put(upsert(Namespace("other"), "10001"))  # it wakes the loop
    loop.join()
    while changes.qsize() or not watcher._is_idle:
        watcher.step()
    assert watcher._failure is None
    node = store.read(lambda txn: txn.get("records", _WEB)) or b""
    store.close()
    assert all(bytes((10, mine, 0, 149)) in node for mine in range(3))
    assert sum(taken), "none of them came alone"


def test_waiting_takes_nothing_away() -> None:
    changes = Changes()
    began = time.monotonic()
    changes.wait(0.01)
    assert time.monotonic() - began >= 0.009
    changes.put(upsert(Namespace("a")))
    changes.wait(60.0)
    assert changes.qsize() == 1


class _Free:
    """Costs of nothing."""

    def owners(self, event: Upsert | Remove) -> Collection[Owner]:
        return ()

    def weigh(self, owner: Owner) -> float:
        return 0.0


@pytest.mark.parametrize(
    "event",
    [moved("10.0.0.2", "20"), moved("10.0.0.2", ""), remove(headless("web"), "7"), remove(Namespace("a"), "")],
    ids=["changed", "without a version", "removed", "removed, without one"],
)
def test_its_turn_is_the_one_that_it_would_have_in_the_line(event: Upsert | Remove) -> None:
    turns = Turns(_Free())
    turns.put(event)
    assert turns.next() == turns.alone(event)
    assert not turns
