"""Whatever happens to watches and their process, the store ends equal to a fresh list.

There are two ways. In the first, a reflector for each resource and a ledger, without threads or
sockets, go through any sequence of changes, lists, events, breaks, expiries, restarts, and deaths
between two transactions. In the second, the real process on the fake API server is killed at every
point at which a file is about to change.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypeVar, cast

import pytest
from headwater.cluster.changes import Change, ListComplete, ListPageArrived, Progress, Remove, Upsert
from headwater.cluster.objects import Resource, decode
from headwater.cluster.reflector import ListPage, Reflector, Wait, Watch
from headwater.cluster.refusals import failure
from headwater.records.compiler import Compiler
from headwater.store.environment import Store, Transaction
from headwater.store.identity import Identity
from headwater.writer.ledger import Ledger
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.fakeapi import manifests, role
from tests.fakeapi.cluster import EVERYTHING, STABLE, app, objects
from tests.fakeapi.reader import contents, differences, fresh
from tests.fakeapi.server import Behaviour, FakeApiServer
from tests.fakeapi.truth import Snapshot, Truth
from tests.fakeapi.watching import Watching
from tests.harness.small import Small, settings

_T = TypeVar("_T")

#: The folder of the examples' stores: a file system in memory, if the machine has one.
_FOLDER: Final = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
_RESOURCES: Final[tuple[Resource, ...]] = ("namespaces", "services", "endpointslices", "pods")
_PAGE: Final = 2
#: By default the examples are the same everywhere. `HYPOTHESIS_SEARCH=500` tries this many new
#: ones.
_SEARCH: Final = int(os.environ.get("HYPOTHESIS_SEARCH", "0"))

# The world is small, so that everything interacts.
_NAMES = st.sampled_from(["a", "b"])
_ADDRESSES = st.sampled_from(["10.44.0.1", "10.44.0.2", "10.44.0.3"])
_ENDPOINTS = st.dictionaries(st.sampled_from(["x", "y", ""]), _ADDRESSES, max_size=2)
_MANIFESTS: Final = st.one_of(
    st.builds(manifests.namespace, _NAMES),
    st.builds(manifests.service, _NAMES, namespace=_NAMES),
    st.builds(manifests.service, _NAMES, st.sampled_from(["172.16.0.1", "172.16.0.2"]), namespace=_NAMES),
    st.builds(manifests.slice_of, _NAMES, _ENDPOINTS, st.sampled_from([1, 2]), _NAMES),
    st.builds(manifests.slice_of, _NAMES, _ENDPOINTS, st.sampled_from([1, 2]), _NAMES),
    st.builds(manifests.pod, _NAMES, _ADDRESSES, _NAMES, st.sampled_from(["Running", "Running", "Failed"])),
)


class Died(Exception):  # noqa: N818 (what happens to the process)
    """The process has died."""


class Follower:
    """One resource: a reflector, and the replies to it, step by step."""

    def __init__(self, resource: Resource, version: str, *, stream: bool, seed: int) -> None:
        self.resource = resource
        self.machine = Reflector(version, lambda: 0.0, random.Random(seed).uniform, stream=stream)
        self._lists: dict[str, tuple[Snapshot, int]] = {}
        self._place: int | None = None
        self._from = 0

    def step(self, truth: Truth, events: int) -> list[Change]:
        """Send the request that the reflector wants, or receive some events of the open watch."""
        if self._place is not None:
            return self._hear(truth, events)
        match self.machine.next():
            case ListPage(continue_token=token):
                return self._page(truth, token)
            case Watch(resource_version=version, initial=initial):
                return self._watch(truth, version, initial=initial)
            case Wait():
                return []

    def _page(self, truth: Truth, token: str) -> list[Change]:
        snapshot, at = self._lists.get(token, (truth.snapshot(self.resource), 0))
        if token and snapshot.version < truth.oldest:
            self._fail(410)
            return []
        some = snapshot.items[at : at + _PAGE]
        rest = f"{snapshot.version}-{at + _PAGE}" if at + _PAGE < len(snapshot.items) else ""
        if rest:
            self._lists[rest] = snapshot, at + _PAGE
        page = [decode(self.resource, item.data) for item in some]
        changes: list[Change] = [ListPageArrived(self.resource, page, first=not token)]
        if self.machine.page(str(snapshot.version), rest):
            changes.append(ListComplete(self.resource, str(snapshot.version)))
        return changes

    def _watch(self, truth: Truth, version: str, *, initial: bool) -> list[Change]:
        if not initial and int(version) < truth.oldest:
            self._fail(410)
            return []
        self.machine.watching()
        snapshot = truth.snapshot(self.resource)
        self._from = snapshot.version if initial else int(version)
        self._place = truth.since(self._from)
        if not initial:
            return []
        page = []
        for item in snapshot.items:
            self.machine.initial()
            page.append(decode(self.resource, item.data))
        changes: list[Change] = [ListPageArrived(self.resource, page, first=True)]
        if self.machine.initial_end(str(snapshot.version)):
            changes.append(ListComplete(self.resource, str(snapshot.version)))
        return changes

    def _hear(self, truth: Truth, events: int) -> list[Change]:
        assert self._place is not None
        changes: list[Change] = []
        for change in truth.history[self._place : self._place + events]:
            self._place += 1
            seen = change.seen(lambda item: item.phase not in ("Succeeded", "Failed", "Unknown"))
            if change.resource != self.resource or change.version <= self._from or seen is None:
                continue
            decoded = decode(self.resource, seen[1].data)
            if self.machine.event(decoded.resource_version):
                gone = seen[0] == "DELETED"
                remove = Remove(self.resource, decoded.object.key, decoded.resource_version)
                changes.append(remove if gone else Upsert(self.resource, decoded))
        if not changes and self._place == len(truth.history):
            self.machine.bookmark(str(truth.version))
            changes.append(Progress(self.resource, str(truth.version)))
        return changes

    def end(self, code: int) -> None:
        """End the watch: in good order (0), with an ERROR event, or with its connection (-1)."""
        if self._place is None:
            return
        self._place = None
        if code == 0:
            self.machine.watch_ended()
        else:
            self._fail(code)

    def _fail(self, code: int) -> None:
        self.machine.failed(failure(max(code, 0), "injected", self.resource))


class MortalStore(Store):
    """A store whose process dies before or after the n-th of the next transactions."""

    deadline: int | None = None
    after = False

    def write(self, work: Callable[[Transaction], _T]) -> _T:
        if self.deadline is not None:
            self.deadline -= 1
            if self.deadline < 0 and not self.after:
                raise Died
        result = super().write(work)
        if self.deadline is not None and self.deadline < 0:
            raise Died
        return result


class Recovery(RuleBasedStateMachine):
    """The process and its surroundings, as rules."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory(dir=_FOLDER)
        shape = settings(pods="verified", reverse_zones=("in-addr.arpa",), state_dir=f"{self.folder.name}/state")
        self.world = Small(Path(shape.state_dir), shape)
        self.truth = Truth()
        self.queue: list[Change] = []
        self.followers: dict[Resource, Follower] = {}
        self.was_ready = False
        self.seeds = itertools.count()

    @initialize(stream=st.booleans(), some=st.lists(_MANIFESTS, max_size=8), listed=st.integers(0, 3))
    def begin(self, stream: bool, some: list[manifests.Manifest], listed: int) -> None:
        """Begin; usually everything is listed before the faults."""
        self.stream = stream
        for manifest in some:
            self.truth.put(manifest)
        self._start()
        if listed:
            self.catch_up()

    def _start(self) -> None:
        store, why = MortalStore.open(self.world.state_dir, self.world.identity)
        assert not why
        self.store = cast("MortalStore", store)
        compiler = Compiler(self.world.settings, (), lambda *_: None)
        self.ledger = Ledger(store, compiler, _RESOURCES, clock=lambda: 1_800_000_000.0)
        versions = self.ledger.versions()
        self.queue.clear()
        self.followers = {
            resource: Follower(resource, versions[resource], stream=self.stream, seed=next(self.seeds))
            for resource in _RESOURCES
        }
        assert self.ledger.ready or not self.was_ready, "it was ready before"

    @rule(manifest=_MANIFESTS)
    def put(self, manifest: manifests.Manifest) -> None:
        self.truth.put(manifest)

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        items = [(resource, item.key) for resource in _RESOURCES for item in self.truth.snapshot(resource).items]
        if items:
            resource, (namespace, name) = data.draw(st.sampled_from(items))
            self.truth.delete(resource, name, namespace)

    @rule()
    def compact(self) -> None:
        self.truth.compact()

    @rule(
        resources=st.lists(st.sampled_from(_RESOURCES), min_size=1), events=st.integers(1, 3), times=st.integers(1, 6)
    )
    def follow(self, resources: list[Resource], events: int, times: int) -> None:
        for resource in resources:
            for _ in range(times):
                self.queue += self.followers[resource].step(self.truth, events)

    @rule()
    def catch_up(self) -> None:
        """Follow until everything is received and written."""
        for _ in range(200):
            for follower in self.followers.values():
                self.queue += follower.step(self.truth, 1000)
            self.ledger.commit(self.queue)
            self.queue.clear()
            versions = self.ledger.versions()
            if all(versions[resource] == str(self.truth.version) for resource in _RESOURCES):
                return
        raise AssertionError(f"it never catches up: {versions}, the truth is of {self.truth.version}")

    @rule(manifest=_MANIFESTS, gone=st.integers(0, 3), resource=st.sampled_from(_RESOURCES))
    def miss(self, manifest: manifests.Manifest, gone: int, resource: Resource) -> None:
        """Change something, and forget the history before the watch has received it."""
        for follower in self.followers.values():
            follower.end(-1)
        self.truth.put(manifest)
        items = self.truth.snapshot(resource).items
        if gone < len(items):
            namespace, name = items[gone].key
            self.truth.delete(resource, name, namespace)
        self.truth.compact()

    @rule(resource=st.sampled_from(_RESOURCES), code=st.sampled_from([0, -1, 410, 500]))
    def end_watch(self, resource: Resource, code: int) -> None:
        self.followers[resource].end(code)

    @rule(resource=st.sampled_from(_RESOURCES))
    def relist(self, resource: Resource) -> None:
        """List a resource again, as the audit does."""
        self.followers[resource].machine.relist()
        self.followers[resource].end(-1)

    @precondition(lambda self: self.queue)
    @rule(count=st.integers(1, 8))
    def commit(self, count: int) -> None:
        self.ledger.commit(self.queue[:count])
        del self.queue[:count]

    @rule()
    def restart(self) -> None:
        self._note_ready()
        self.store.close()
        self._start()

    @rule(
        heard=st.sampled_from([0, 0, 2, 12]), transactions=st.integers(0, 9), after=st.booleans(),
        again=st.integers(0, 3),
    )  # fmt: skip
    def die(self, heard: int, transactions: int, after: bool, again: int) -> None:
        """Die between two of the waiting transactions, and perhaps again during the start."""
        self._note_ready()
        for _ in range(heard):
            for follower in self.followers.values():
                self.queue += follower.step(self.truth, 1000)
        self.store.deadline, self.store.after = transactions, after
        try:
            self.ledger.commit(self.queue)
        except Died:
            self._note_ready()
        self.store.close()
        if again:
            MortalStore.deadline, MortalStore.after = again, after
            try:
                self._start()
            except Died:
                pass
            finally:
                MortalStore.deadline = None
            self.store.deadline = None
            self.store.close()
        self._start()

    def _note_ready(self) -> None:
        self.was_ready |= self.ledger.ready and self.store.is_published

    @invariant()
    def the_store_is_whole(self) -> None:
        if self.followers:
            assert self.store.read(lambda txn: txn.checksum_holds())

    def teardown(self) -> None:
        try:
            if self.followers:
                self.catch_up()
                self._compare()
        finally:
            self.folder.cleanup()

    def _compare(self) -> None:
        self.store.close()
        identity = self.world.identity
        expected = fresh(self.world.settings, identity, self.truth, host=())
        wrong = differences(contents(self.world.state_dir, identity), expected)
        assert not wrong, "\n".join(wrong)


def test_any_interleaving_ends_in_the_store_that_a_fresh_list_makes() -> None:
    run_state_machine_as_test(
        Recovery,
        settings=hypothesis_settings(
            max_examples=_SEARCH or 300,
            stateful_step_count=30,
            deadline=None,
            derandomize=not _SEARCH,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


# The real process


def _first_list(watching: Watching) -> None:
    """Start with an empty store."""


def _relist(watching: Watching) -> None:
    """Start with an old store, whose versions have expired, so that everything is listed again."""
    watching.ready()
    watching.kill()
    for number in range(3):
        watching.api.truth.put(manifests.service(f"new-{number}", f"172.16.7.{number}"))
    watching.api.truth.put(app(2))
    watching.api.truth.put(manifests.pod("web-0", "10.44.0.1", phase="Failed"))
    watching.api.truth.delete("services", "out", "db")
    watching.api.truth.delete("serviceimports", "far")
    watching.api.truth.compact()


def _other_settings(watching: Watching) -> None:
    """Start with other settings, so that everything is compiled again from the stored objects."""
    watching.ready()
    watching.kill()
    watching.use("--ttl", "30", "--endpoint-pod-names")


def _other_source(watching: Watching) -> None:
    """Start with the store of another cluster, which is withdrawn and replaced."""
    watching.ready()
    watching.kill()
    watching.use("--labels", "!nobody-has-this")


def _chosen(points: list[str]) -> list[int]:
    """Return all points of files' names and lengths, and every
    seventh commit; all when searching.
    """
    special = {at for at, what in enumerate(points, 1) if what.startswith(("os.", "lmdb."))}
    near = {at + 1 for at in special if at < len(points)}
    return [at for at in range(1, len(points) + 1) if _SEARCH or at in special | near or at % 7 == 0]


@pytest.mark.parametrize("before", [_first_list, _relist, _other_settings, _other_source])
def test_killed_at_any_point_it_goes_on_where_it_was(before: Callable[[Watching], None], tmp_path: Path) -> None:
    """After each kill -9 between two changes of files, the next process ends with the truth."""
    with FakeApiServer(Truth(objects()), Behaviour(page=3)) as api:
        prepared = Watching(api, tmp_path, *EVERYTHING)
        with prepared.closing():
            before(prepared)
        prepared_state = Path(prepared.settings.state_dir)
        stable = STABLE if before is not _other_source else {}

        def die_and_go_on(kill_at: int) -> list[str]:
            """Return the points that it reached."""
            folder = tmp_path / str(kill_at)
            folder.mkdir()
            if prepared_state.exists():
                shutil.copytree(prepared_state, folder / "state", symlinks=True)
            watching = Watching(api, folder, *prepared.flags, stable=stable)
            with watching.closing():
                if before is _relist:
                    watching.prober.expect_answers()
                watching.run_into(kill_at)
                points = watching.points()
                api.truth.delete("services", "kube-dns", "kube-system")  # a list that has begun includes it
                watching.start()
                watching.check()
            shutil.rmtree(folder)
            api.truth.put(manifests.service("kube-dns", "172.16.0.53", namespace="kube-system"))
            if before is _relist:
                api.truth.compact()
            return points

        points = die_and_go_on(1 << 30)
        assert len(points) > 10
        for kill_at in _chosen(points):
            die_and_go_on(kill_at)


@pytest.mark.parametrize("seed", range(4))
def test_store_of_a_process_that_died_before_its_file_was_filled_up_is_used(seed: int, tmp_path: Path) -> None:
    """Right after a commit the file may be shorter than its header says, which is not damage."""
    process = role.start(role.write_at_random, tmp_path, seed, 400, "os.truncate")
    process.join(60.0)
    assert process.exitcode in (-signal.SIGKILL, 0), "0: it never comes to that point"
    store, why = Store.open(tmp_path, Identity("source", "shape"))
    assert why == ""
    assert store.read(lambda txn: txn.checksum_holds())
    store.close()


_STEPS: Final = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.integers(2, 250)),
        st.tuples(st.just("compact"), st.just(0)),
        st.tuples(st.just("break"), st.just(0)),
        st.tuples(st.just("relist"), st.just(0)),
        st.tuples(st.just("kill"), st.integers(1, 40)),
        st.tuples(st.just("kill"), st.integers(1, 40)),
        st.tuples(st.just("settle"), st.just(0)),
    ),
    min_size=3,
    max_size=10,
)


@given(steps=_STEPS, mode=st.sampled_from(["pages", "stream"]))
@hypothesis_settings(
    max_examples=_SEARCH or 12,
    deadline=None,
    derandomize=not _SEARCH,
    suppress_health_check=list(HealthCheck),
)
def test_killed_again_and_again_while_everything_changes_it_ends_in_the_truth(
    steps: list[tuple[str, int]], mode: str
) -> None:
    with (
        TemporaryDirectory(dir=_FOLDER) as folder,
        FakeApiServer(Truth(objects()), Behaviour(page=3)) as api,
    ):
        watching = Watching(api, Path(folder), *EVERYTHING, "--list", mode, stable=STABLE)
        with watching.closing():
            watching.start()
            for step, number in steps:
                match step:
                    case "change":
                        _change(api.truth, number)
                    case "compact":
                        api.truth.compact()
                    case "break":
                        api.break_watches()
                    case "relist":
                        api.truth.compact()
                        api.break_watches()
                    case "kill":
                        watching.kill()
                        _change(api.truth, number)
                        watching.run_into(number)
                        watching.start()
                    case "settle":
                        watching.settle()
            watching.check()


def _change(truth: Truth, number: int) -> None:
    """Change one object of each resource."""
    truth.put(app(number))
    truth.put(manifests.service(f"s-{number % 5}", f"172.16.8.{number}"))
    truth.put(manifests.pod(f"p-{number % 5}", f"10.44.8.{number}", phase="Running" if number % 3 else "Failed"))
    truth.put(manifests.namespace(f"n-{number % 5}"))
    if number % 2:
        truth.delete("services", f"s-{number % 5}")
        truth.delete("namespaces", f"n-{number % 5}")
