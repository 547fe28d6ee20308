"""Whatever is refused, and wherever the process dies, each change is
settled once, and none is lost.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from headwater.cluster.changes import Change, ListComplete, ListPageArrived, Progress
from headwater.cluster.objects import Decoded, Namespace, Object, Pod, Resource
from headwater.process.counters import WatchSnapshot
from headwater.store.environment import Store, StoreFull, Transaction
from headwater.writer.ledger import Ledger
from headwater.writer.outcome import Outcome
from headwater.writer.process import Changes, Watcher

from tests.harness.small import Small, at, cluster_ip, headless, listed, remove, resource_of, settings, slice_of, upsert

WEB: Final = "web.default.svc.cluster.local"
_SHAPE: Final = settings(pods="verified", reverse_zones=("in-addr.arpa",))
_RESOURCES: Final[tuple[Resource, ...]] = ("namespaces", "services", "endpointslices", "pods")

#: Objects that exist before, and stay.
_STABLE: Final[list[Object]] = [
    Namespace("default"), headless("web"), headless("api"), cluster_ip("own", "172.16.0.1"),
    slice_of("web", at("10.0.0.1", hostname="w")), slice_of("api", at("10.0.0.2")), Pod("default", "p", ("10.0.0.9",)),
]  # fmt: skip
_GONE: Final[list[Object]] = [headless("old"), slice_of("old", at("10.0.0.3"))]
_NEW: Final[list[Object]] = [
    headless("new"),
    slice_of("new", at("10.0.0.4")),
    slice_of("web", at("10.0.0.5"), name="w-2"),
]


def page(resource: Resource, objects: Sequence[Object], *, first: bool = True) -> ListPageArrived:
    return ListPageArrived(resource, [Decoded(item, "5") for item in objects if resource_of(item) == resource], first)


def pages(resource: Resource, objects: Sequence[Object]) -> list[Change]:
    """Return a list in pages of two, without its end."""
    mine = [item for item in objects if resource_of(item) == resource]
    return [page(resource, mine[start : start + 2], first=not start) for start in range(0, max(1, len(mine)), 2)]


_NOW: Final = [*_STABLE, *_NEW]
_ENDS: Final[list[Change]] = [ListComplete(resource, "6") for resource in _RESOURCES]
_ALL_PAGES: Final[list[Change]] = [change for resource in _RESOURCES for change in pages(resource, _NOW)]
#: For a store that is ready: changes that are committed, and the batch in which writes are refused.
_RELISTS: Final[Mapping[str, tuple[list[Change], list[Change]]]] = {
    "the ends of two lists": (_ALL_PAGES, _ENDS),
    "an end, and events": (
        _ALL_PAGES,
        [
            _ENDS[2], upsert(headless("new")), _ENDS[1], Progress("pods", "7"), remove(headless("old")), _ENDS[0],
            _ENDS[3],
        ],
    ),
    "lists from beginning to end": ([], [*_ALL_PAGES, *_ENDS]),
    "lists in turn": (
        [], [part for name, end in zip(_RESOURCES, _ENDS, strict=True) for part in (*pages(name, _NOW), end)]
    ),
    "a list begun again": ([], [*_ALL_PAGES[:3], *_ALL_PAGES, *_ENDS]),
    "an end twice": (_ALL_PAGES, [*_ENDS, *_ENDS]),
    "ends of lists that never began": (
        _ALL_PAGES, [*_ENDS, *_ENDS[::-1], *pages("services", _NOW), _ENDS[1], _ENDS[2], _ENDS[1]]
    ),
}  # fmt: skip


class Refusing:
    """A store that refuses some writes and publications, by their numbers from now on."""

    def __init__(self, store: Store, refused: Collection[int], seen: Callable[[], None] = lambda: None) -> None:
        self.calls = 0
        self._refused = refused
        self._seen = seen
        self._write, self._publish = store.write, store.publish
        store.write = self.write  # type: ignore[method-assign]
        store.publish = self.publish  # type: ignore[method-assign]

    def _count(self) -> None:
        self.calls += 1
        if self.calls - 1 in self._refused:
            raise StoreFull("no space left")

    def write(self, work: Callable[[Transaction], Any]) -> Any:
        self._count()
        result = self._write(work)
        self._seen()
        return result

    def publish(self) -> None:
        self._count()
        self._publish()


def settle(ledger: Ledger, changes: Sequence[Change]) -> Outcome:
    """Settle as the watch process does: hand in again only the refused changes."""
    waiting, outcome = deque(changes), Outcome()
    for _ in range(20):
        try:
            ledger.settle(waiting, outcome)
        except StoreFull:
            continue
        assert not waiting
        return outcome
    raise AssertionError("it never gets on")


def everything(store: Store) -> dict[str, list[tuple[bytes, bytes]]]:
    dbs = ("objects", "records", "addresses", "slices", "pods", "hosts", "staging", "faulty")
    return store.read(lambda txn: {db: list(txn.scan(db)) for db in dbs})


def refusals(count: int) -> list[tuple[int, ...]]:
    """Return every single write, every two in a row, and distant pairs."""
    pairs = [pair for pair in itertools.combinations(range(count), 2) if pair[1] - pair[0] < 4 or sum(pair) % 3 == 0]
    return [(), *((number,) for number in range(count)), *pairs]


@pytest.mark.slow
@pytest.mark.parametrize("case", _RELISTS)
def test_a_full_disk_in_the_middle_of_relists_takes_nothing_away(case: str, tmp_path: Path) -> None:
    before, batch = _RELISTS[case]

    def run(refused: Collection[int], folder: Path) -> tuple[dict[str, list[tuple[bytes, bytes]]], int]:
        world = Small(folder, _SHAPE)
        world.commit(*listed(_RESOURCES, [*_STABLE, *_GONE]))
        store, ledger = world.open()
        try:
            settle(ledger, before)
            stable = {key for key, _ in everything(store)["records"] if b"\3old" not in key}

            def nothing_is_missing() -> None:
                missing = stable - set(store.read(lambda txn: dict(txn.scan("records"))))
                assert not missing, f"after write {refusing.calls}: {sorted(missing)} are gone"

            refusing = Refusing(store, refused, nothing_is_missing)
            settle(ledger, batch)
            assert ledger.objects == {**dict.fromkeys(("serviceimports", "nodes"), 0), **_counted(store)}
            assert store.read(lambda txn: txn.checksum_holds())
            return everything(store), refusing.calls
        finally:
            store.close()

    expected, count = run((), tmp_path / "whole")
    assert not expected["staging"]
    assert any(b"\3new" in key for key, _ in expected["records"])
    assert not any(b"\3old" in key for key, _ in expected["records"])
    assert count >= 8
    for refused in refusals(count):
        found, _ = run(refused, tmp_path / "-".join(map(str, ("r", *refused))))
        assert found == expected, f"writes {refused} were refused"


def _counted(store: Store) -> dict[str, int]:
    return store.read(
        lambda txn: {name: sum(1 for _ in txn.scan("objects", f"{name}/".encode())) for name in _RESOURCES}
    )


@pytest.mark.slow
@pytest.mark.parametrize("order", list(itertools.permutations(("services", "endpointslices", "pods")))[::2])
def test_a_full_disk_during_first_lists_in_one_batch_loses_nothing(order: tuple[Resource, ...], tmp_path: Path) -> None:
    """Also if the store cannot be published after everything was committed."""
    resources: tuple[Resource, ...] = ("namespaces", *order)
    batch = [part for item in resources for part in (*pages(item, _NOW), ListComplete(item, "6"))]
    batch.append(upsert(slice_of("api", at("10.0.0.7"), name="late")))

    def run(refused: Collection[int], folder: Path) -> tuple[dict[str, list[tuple[bytes, bytes]]], int]:
        store, ledger = Small(folder, _SHAPE).open()
        try:
            refusing = Refusing(store, refused)
            settle(ledger, batch)
            assert ledger.ready
            assert store.is_published
            return everything(store), refusing.calls
        finally:
            store.close()

    expected, count = run((), tmp_path / "whole")
    for refused in refusals(count):
        found, _ = run(refused, tmp_path / "-".join(map(str, ("r", *refused))))
        assert found == expected, f"writes {refused} were refused"


class Died(Exception):  # noqa: N818 (what happens to the process)
    """The process has died."""


@pytest.mark.slow
@pytest.mark.parametrize("case", ["the ends of two lists", "lists in turn"])
def test_a_death_between_any_two_writes_after_a_refusal_takes_nothing_away(case: str, tmp_path: Path) -> None:
    """The disk is full at one write, and the process dies at a later one;
    then everything is listed again.
    """
    before, batch = _RELISTS[case]
    for refused, dies in itertools.combinations(range(13), 2):
        folder = tmp_path / f"{refused}-{dies}"
        world = Small(folder, _SHAPE)
        world.commit(*listed(_RESOURCES, [*_STABLE, *_GONE]))
        store, ledger = world.open()
        stable = {key for key, _ in everything(store)["records"] if b"\3old" not in key}
        settle(ledger, before)
        refusing = Refusing(store, [refused])

        def mortal(work: Callable[[Transaction], Any], refusing: Refusing = refusing, dies: int = dies) -> Any:
            if refusing.calls == dies:
                raise Died
            return refusing.write(work)

        store.write = mortal  # type: ignore[method-assign]
        try:
            settle(ledger, batch)
        except Died:
            pass
        store.close()
        store, ledger = world.open()
        assert ledger.ready
        # The rest of the old batch is not handed in again; only ends of lists may be, without
        # effect.
        settle(ledger, _ENDS)
        assert stable <= {key for key, _ in everything(store)["records"]}, f"refused {refused}, died at {dies}"
        settle(ledger, [*_ALL_PAGES, *_ENDS])
        assert not any(b"\3old" in key for key, _ in everything(store)["records"])
        assert stable <= {key for key, _ in everything(store)["records"]}
        store.close()


# The process, step by step


class Handed(Changes):
    """A queue on which nobody waits."""

    def wait(self, seconds: float) -> None:
        pass


class Steps:
    """A watch process without threads; its time passes when it waits."""

    def __init__(self, world: Small) -> None:
        self.now = 1000.0
        self.waited: list[float] = []
        self.queue = Handed()
        self.store, why = Store.open(world.state_dir, world.identity)
        assert not why
        self.watcher = Watcher(
            world.settings, self.store, changes=self.queue, clock=lambda: self.now, wall=lambda: 1.8e9, wait=self.wait
        )

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.now += seconds

    def put(self, *changes: Change) -> None:
        for change in changes:
            self.queue.put(change)

    def take(self) -> None:
        """Take steps until nothing waits any more, or a write is refused."""
        for _ in range(100):
            self.watcher.step()
            if self.snapshot().detail.startswith("the store cannot") or not (self.queue.qsize() or self.waits):
                return
        raise AssertionError("it never gets on")

    @property
    def waits(self) -> bool:
        """Return whether a change waits for its turn, or is not committed."""
        return bool(self.watcher._unsettled or self.watcher._turn is not None)

    def snapshot(self) -> WatchSnapshot:
        return self.watcher.snapshot()


def test_what_the_disk_refuses_is_tried_again_after_a_second_and_said(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(state_dir=str(tmp_path)))
    world.fill(headless("web"), slice_of("web", at("10.0.0.1")))
    steps = Steps(world)
    step = steps.watcher.step
    step()
    assert steps.waited == [], "nothing to do"
    steps.put(*listed(["services"], [headless("web"), headless("new")]), upsert(slice_of("web", at("10.0.0.2"))))
    refusing = Refusing(steps.store, [2, 3])
    steps.take()
    assert "no space left" in steps.snapshot().detail
    assert (steps.waited, steps.snapshot().commit_failures) == ([1.0], 1)
    steps.put(upsert(cluster_ip("later", "172.16.0.8")))
    step()
    assert steps.queue.qsize() == 1, "what waits is not taken before what was refused is done"
    step()
    assert steps.snapshot().detail == ""
    assert (len(steps.waited), steps.snapshot().commit_failures) == (2, 2)
    steps.take()
    assert steps.queue.empty()
    assert steps.snapshot().objects["services"] == 3
    assert refusing.calls > 4
    steps.store.close()
    assert world.answers(WEB) == {"10.0.0.2"}
    assert world.answers("later.default.svc.cluster.local") == {"172.16.0.8"}


def test_a_publication_that_was_refused_is_tried_again_without_any_change(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(state_dir=str(tmp_path)))
    steps = Steps(world)
    steps.put(*listed(world.resources, [Namespace("default"), headless("web"), slice_of("web", at("10.0.0.1"))]))
    publish, refused = steps.store.publish, [StoreFull("no space left"), StoreFull("no space left")]

    def refusing() -> None:
        if refused:
            raise refused.pop()
        publish()

    steps.store.publish = refusing  # type: ignore[method-assign]
    for _ in range(3):
        steps.take()
    assert steps.store.is_published
    steps.store.close()
    assert world.answers(WEB) == {"10.0.0.1"}
