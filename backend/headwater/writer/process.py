"""The watch process: it reads the sources and commits their changes to the store.

One thread per resource reads the API server (or one thread reads the files) and puts changes into a
queue. The main thread takes all that are in the queue and commits them turn by turn (`turns`), each
turn as one transaction. Under a storm of changes the turns grow. When the disk refuses a
transaction, it is tried again before any other.

A change that comes alone, when nothing waits, is committed at once by the thread that read it
(`Watcher.at_once`): another thread would have to wake up first. A lock lets one thread at a time
commit.

The main thread repeats `Watcher.step`. Its queue, its clocks and its way to wait are arguments, so
that a test can take the steps itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime as dt
import gc
import logging
import queue
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import setproctitle

from headwater.cluster.changes import Change, ListComplete, ListPageArrived, Remove, Upsert
from headwater.cluster.follower import Follower, Inbox, RawPage
from headwater.cluster.objects import Decoded, OddObject, Resource, decode, key_of
from headwater.cluster.proof import ACCEPTED
from headwater.cluster.recognition import AnotherCluster, Recognition
from headwater.cluster.reflector import Reflector
from headwater.cluster.source import selectors_of
from headwater.cluster.timing import USUAL, Timing
from headwater.process import control, log, usage
from headwater.process.counters import LATENCY_BUCKETS, Histogram, ResourceState, WatchSnapshot
from headwater.process.progress import Progress
from headwater.records.compiler import Compiler
from headwater.records.options import Report
from headwater.settings.error import SettingsError
from headwater.settings.policies import resolved
from headwater.settings.settings import Settings
from headwater.store.environment import Store, StoreDamaged, StoreFull
from headwater.store.identity import Identity, discard
from headwater.store.node import Kind
from headwater.writer import host, seeding
from headwater.writer.audit import Auditor
from headwater.writer.chronicle import Chronicle
from headwater.writer.ledger import Ledger
from headwater.writer.outcome import Outcome
from headwater.writer.seeding import Seeding
from headwater.writer.skipped import Skipped
from headwater.writer.turns import Turn, Turns

if TYPE_CHECKING:
    from headwater.cluster.files import Manifests, Objects
    from headwater.writer.policy import PolicyProcess

_log = logging.getLogger(__name__)

#: Changes that the queue holds. When it is full the threads wait, and the API server's send buffers
#: fill.
_QUEUE: Final = 2000
#: Pages of lists that may be requested or waiting at once, over all resources. It bounds the memory
#: of a list.
_PAGES: Final = 3
#: How often the main thread wakes up when no change arrives, in seconds.
_IDLE: Final = 0.5
#: How often LMDB's reader slots of dead processes are freed, in seconds.
_READER_CHECK: Final = 5.0
#: How often the files' thread looks for a SIGHUP, in milliseconds.
_FILES_WAKE: Final = 200
#: After this many pages of lists, the pages of the store's file that they touched are unmapped.
_UNMAP: Final = 50
#: How often it is noted that somebody watches, in seconds: the history tells the gap since then.
_ALIVE: Final = 1.0
#: How often the moment is stored when the source was last heard, in seconds.
_HEARD: Final = 0.5
#: For how long the API server may leave a store waiting that another instance gave, in seconds; and
#: how often it is looked whether it does.
_IMPATIENT: Final = 2.0
_LOOK: Final = 0.01
#: How many more containers than before the collector lets there be. Hardly any garbage has cycles
#: (no object of the cluster can), and every few changes one waited for a look at what is there.
_UNCOLLECTED: Final = 20_000
#: The most characters of what is wrong that is shown.
_DETAIL: Final = 4096

#: How long no change has come before one that comes alone, in seconds.
_ALONE: Final = 0.001


class Changes(queue.Queue[Change | RawPage]):
    """Changes that came, in their order."""

    def wait(self, seconds: float) -> None:
        """Wait until there is one, which stays; for so many seconds at the most."""
        with self.not_empty:
            if not self.queue:
                self.not_empty.wait(seconds)


def required_resources(settings: Settings) -> tuple[Resource, ...]:
    """The resources that answers depend on."""
    found: list[Resource] = ["namespaces", "services", "endpointslices"]
    if settings.pods == "verified":
        found.append("pods")
    if settings.multicluster_zones:
        found.append("serviceimports")
    if settings.client_nodes:
        found.append("nodes")
    return tuple(found)


class Watcher:
    """The state of the watch process, and one step of its main thread."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        timing: Timing = USUAL,
        *,
        changes: Changes | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        wait: Callable[[float], object] | None = None,
        fair: bool = True,
        seeded: Seeding | None = None,
    ) -> None:
        """Open the sources' queue and the ledger; nothing is read yet (see `start_sources`).

        `seeded` says what became of taking the store from another instance.

        `clock` counts seconds; `wall` is the time of day. `wait` waits for a number of seconds, and
        returns earlier when the process is to stop. Without `fair`, changes are committed in the
        order in which they arrive.
        """
        self._settings = settings
        self._timing = timing
        self._store = store
        self._clock = clock
        self._wall = wall
        self.stopping = threading.Event()
        self._wait = wait or self.stopping.wait
        self._queue = changes if changes is not None else Changes(_QUEUE)
        self.skipped = Skipped(clock)
        self.progress = Progress()
        self._inbox = Inbox(self._queue, threading.Semaphore(_PAGES), self.skipped.report, self.stopping)
        if changes is None and not settings.policy:  # the policy's process belongs to the main thread
            self._inbox = replace(self._inbox, at_once=self.at_once)
        self._at_work = threading.Lock()
        """Held by the thread that takes a step."""
        self._came = 0.0
        """When the last change of a watch was taken, on `clock`."""
        self._failure: BaseException | None = None
        """What ended a step in another thread than the main one."""
        compiler = Compiler(settings, host.of_this_host(), self.skipped.report)
        self._resources = required_resources(settings)
        self._began = self._checked = self._noted = clock()
        self._told_alive = self._began - _ALIVE
        # A second reading of the files would say the same.
        asks = settings.second_opinion == "on" and not settings.manifests
        # With a simulated clock, costs are measured with it too, so that turns do not depend on the
        # machine's speed.
        meter = time.thread_time if clock is time.monotonic else clock
        on_sign = self.progress.part_of_commit
        self.seeding = seeded or Seeding()
        self._listed: set[Resource] = set()
        """Resources that were listed in this life."""
        self.chronicle = Chronicle(settings.history, compiler, wall, from_files=bool(settings.manifests))
        if self.seeding.peer:
            self.chronicle.without = "the records were taken from another instance"
        self.policy = _policy(settings, self.skipped.report, clock)
        if self.policy is not None and (problem := self.policy.load()):
            if not store.is_published:
                raise SettingsError("--policy", problem)
            _log.error("--policy: %s (answers stay as they are without it; it is tried again)", problem)
        self.ledger = Ledger(
            store,
            compiler,
            self._resources,
            wall,
            decider=self.policy,
            second_opinion=asks,
            meter=meter,
            on_sign=on_sign,
            chronicle=self.chronicle,
            withheld=self.seeding.withheld,
        )
        if self.policy is not None:
            for key in self.ledger.undecided():
                self.policy.remember(key, clock())
        self.auditor: Auditor | None = None
        self._followers: dict[Resource, Follower] = {}
        self._recognition = Recognition(store.folder, clock)
        self._unsettled = Turns(self.ledger.scales, fair=fair)
        """Changes that were taken from the queue and wait for their turn."""
        self._turn: Turn | None = None
        """The turn that is being committed."""
        self._left: deque[Change] = deque()
        """The changes of this turn that are not committed yet."""
        self._refused = ""
        """Why the last transaction could not be written; "" if it was."""
        self._ask_again: dict[Resource, float] = {}
        """When to ask for a second list, by resource, on `clock`."""
        self._second_opinions: dict[str, int] = {}
        self._programming = Histogram.of(LATENCY_BUCKETS)
        self._commits = 0
        self._commit_failures = 0
        self._records_changed = 0
        self._detail = ""
        self._reload = threading.Event()
        self._files: list[tuple[Path, int, int, int]] | None = None
        """What the manifests looked like when they were read."""
        self._announced = False
        self._pages_taken = 0
        self._heard = store.heard() or (self._began, False)
        self._tells_age = bool(settings.max_staleness or settings.peer_listen)
        if self._tells_age:
            store.write_heard(*self._heard)
        if store.is_published:
            seeding.published(store.state_dir)
        self._announce()

    # Sources

    def start_sources(self) -> None:
        """Start the threads that fill the queue.

        Raises SettingsError for credentials that cannot be used while no store is published. With a
        published store the threads keep trying, and its records are served meanwhile.
        """
        if self._settings.manifests:
            self._thread("files", self._follow_files)
            return
        # Imported here, because it costs 24 MiB, and no other process may load it.
        from headwater.cluster.api import ApiServer

        selectors = selectors_of(self._settings)

        def connect() -> ApiServer:
            return ApiServer(self._settings.kubeconfig, self._settings.context, selectors, self._timing)

        if not self._store.is_published:
            connect().reload()
        versions, due = self.ledger.versions(), self.ledger.due()
        for resource in self._resources:
            stream = self._settings.list_mode == "stream"
            reflector = Reflector(versions[resource], self._clock, stream=stream, timing=self._timing)
            if resource in due:
                reflector.relist()
            if self.seeding.peer and versions[resource]:
                reflector.state.proof_of_life = self._heard[0]  # the peer's word, until there is one of ours
            follower = Follower(resource, reflector, connect(), self._inbox, self._recognition)
            self._followers[resource] = follower
        for resource, follower in self._followers.items():
            self._thread(resource, follower.run)
        if self._settings.audit_interval:
            self.auditor = Auditor(
                self._resources,
                connect,
                self.ledger,
                lambda: self._announced,
                lambda resource: self._followers[resource].relist(),
                self._settings.audit_interval,
                self.stopping,
                self._timing,
            )
            self._thread("audit", self.auditor.run)

    @staticmethod
    def _thread(name: str, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name=name, daemon=True).start()

    def reload(self, _: control.Reload, reply: Callable[[control.Reply], None]) -> None:
        """Read the manifests again, on SIGHUP.

        Credentials are read again whenever the server refuses them.
        """
        self._reload.set()
        reply(control.Done())

    def _decoded(
        self, resource: Resource, items: Iterable[msgspec.Raw], odd: list[tuple[str, str]]
    ) -> Iterable[Decoded]:
        """Yield the objects of a page, and add the keys of those that do not decode to `odd`."""
        for item in items:
            try:
                yield decode(resource, item)
            except OddObject as error:
                self.skipped.report("object", "", "", str(error))
                if (key := key_of(item)) is not None:
                    odd.append(key)

    def _follow_files(self) -> None:
        """Read the manifests, and read them again whenever one of them changes."""
        # Both here: 2 MiB that a watch process of a cluster does not need.
        from watchfiles import watch

        from headwater.cluster.files import Manifests

        paths = self._settings.manifests
        manifests = Manifests(paths, selectors_of(self._settings))
        look = partial(self._look_at_files, manifests)
        look()
        # Watch the folders, because a watch on a file ends when the file is replaced. Compare the
        # signatures of the files, because a ConfigMap's files change when a link elsewhere changes.
        folders = [Path(path) for path in paths if Path(path).is_dir()]
        roots = {*folders, *(Path(path).absolute().parent for path in paths if not Path(path).is_dir())}
        try:
            for _ in watch(*roots, stop_event=self.stopping, debounce=50, step=20, rust_timeout=_FILES_WAKE,
                           yield_on_timeout=True, recursive=bool(folders), watch_filter=None):  # fmt: skip
                look()
        except Exception as error:  # noqa: BLE001 (a node has few inotify instances, and others use them)
            _log.warning("the files cannot be watched, they are looked at again and again: %s", error)
            while not self.stopping.wait(_FILES_WAKE / 1000):
                look()

    def _look_at_files(self, manifests: Manifests) -> None:
        """Read the manifests if they have changed, or if the last look at them failed."""
        from headwater.cluster.files import signature

        try:
            now = signature(self._settings.manifests)
            if self._reload.is_set() or now != self._files:
                self._reload.clear()
                self._take_files(manifests)
                self._files = now
        except Exception as error:  # noqa: BLE001 (what was read stays; the next look may do better)
            problem = f"the manifests cannot be read: {error or type(error).__name__}"
            if problem != self._detail:
                _log.error("%s (trying on)", problem)
            self._detail, self._files = problem, None

    def _take_files(self, manifests: Manifests) -> None:
        objects: Objects | None = manifests.load()
        self._detail = "; ".join(manifests.problems.values())
        if objects is None:
            return
        for resource in self._resources:
            self._queue.put(ListPageArrived(resource, list(objects[resource].values()), first=True))
            self._queue.put(ListComplete(resource, "files"))

    # Commits

    def loop(self) -> None:
        """Take steps until told to stop. Raises StoreDamaged, AnotherCluster."""
        while not self.stopping.is_set():
            self.step()

    def step(self) -> None:
        """Take the changes that arrived and commit the next turn, or retry a
        refused one; then do what is due.

        Waits for a change when none waits. Raises StoreDamaged, AnotherCluster.
        """
        self.progress.step()
        if self._recognition.another:
            raise AnotherCluster(self._recognition.another)
        if self._is_idle:
            self._queue.wait(_LOOK if self.ledger.withheld else _IDLE)
        with self._at_work:
            if self._failure is not None:
                raise self._failure
            if self._turn is None and not self._refused:
                self._take_what_came()
                self._begin_turn(self._unsettled.next())
            self._step()

    def at_once(self, change: Upsert | Remove) -> bool:
        """Commit a change of a watch now, in the thread that read it. False when it has to queue.

        It has to when others wait or come, and when the main thread is at work. So a change never
        overtakes another one, and those that come together are committed together. A namespace may
        bring thousands of Services, for seconds in which its watch would not be read.
        """
        alone, self._came = self._clock() - self._came > _ALONE, self._clock()
        if not alone or change.resource == "namespaces" or not self._at_work.acquire(blocking=False):
            return False
        try:
            if not self._is_idle or self._queue.qsize() or not self.ledger.ready:
                return False
            if self._failure is not None or self._recognition.another:
                return False
            self._begin_turn(self._unsettled.alone(change))
            self._step()
        except BaseException as error:  # noqa: BLE001 (the main thread raises it, and ends the process)
            self._failure = error
            return False  # it wakes the main thread
        finally:
            self._at_work.release()
            self._came = self._clock()
        return True

    @property
    def _is_idle(self) -> bool:
        """Whether nothing waits that was taken from the queue."""
        return self._turn is None and not self._refused and not self._unsettled

    def _begin_turn(self, turn: Turn | None) -> None:
        self._turn = turn
        if turn is not None:
            self._left.extend(map(self._decoded_page, turn.changes))

    def _step(self) -> None:
        """Commit the turn, or retry a refused one; then do what is due."""
        busy = self._turn is not None or bool(self._refused)
        if busy:
            self._settle()
        self._look_around(self._clock(), busy=busy)

    def _settle(self) -> None:
        """Hand the ledger the changes of the turn that are left, and
        account for those that it took.
        """
        before, outcome = tuple(self._left), Outcome()
        refused = ""
        try:
            with self.progress.commit():
                self.ledger.settle(self._left, outcome, piecewise=True)
        except StoreFull as error:
            refused = f"the store cannot be written: {error}"
            self._commit_failures += 1
        self._account(before[: len(before) - len(self._left)], outcome)
        if not refused and self._turn is not None:
            self._end_turn(self._turn)
        if refused and not self._refused:
            _log.error("%s (answers stay as they are; it is tried again)", refused)
        elif self._refused and not refused:
            _log.info("the store can be written again")
        self._refused = refused
        if refused:
            self._wait(self._timing.commit_retry)

    def _end_turn(self, turn: Turn) -> None:
        if self._left:
            self._left.clear()
            self._unsettled.later(turn)
        else:
            self._unsettled.settled(turn)
            if turn.ends_page:
                self._inbox.pages.release()
                self._pages_taken += 1
                if self._pages_taken % _UNMAP == 0:
                    self._store.unmap()
        self._turn = None

    def _look_around(self, now: float, *, busy: bool) -> None:
        """Do the periodic work that is due at `now`, whether changes arrive or not.

        Raises StoreDamaged.
        """
        if self._store.is_condemned:
            raise StoreDamaged("an answer process met a page that cannot be read")
        if self.ledger.withheld and self._may_be_released(now):
            self._release()
        if self._tells_age and (now - self._noted > _HEARD or busy):
            self._noted = now
            self._write_heard(now)
        for resource in [item for item, moment in self._ask_again.items() if now >= moment]:
            del self._ask_again[resource]
            self._followers[resource].relist(confirm=True)
        if self.policy is not None and not self._refused and (again := self.policy.due()):
            with contextlib.suppress(StoreFull), self.progress.commit():
                self._records_changed += self.ledger.decide_again(again)
        if now - self._told_alive > _ALIVE:
            self._told_alive = now
            self._store.note_alive(self._wall())
        if now - self._checked > _READER_CHECK:
            self._checked = now
            self.skipped.look()
            self._store.release_dead_readers()
            self._store.remove_others()
            if not self._store.exists:
                raise StoreDamaged("its file was removed")

    def _may_be_released(self, now: float) -> bool:
        """Whether the store that was taken from another instance may be served.

        Each resource's watch has to go on from its version, or to have been listed. A watch that
        begins with a version that is too old is accepted, and ends at once. So a moment's silence,
        or an event, is what tells that it goes on. Where the API server said that it is the same
        cluster, and does not take the watches, their versions are believed after a while.
        """
        late = self.seeding.impatient and now - self._began > _IMPATIENT
        for resource, follower in self._followers.items():
            state = follower.reflector.state
            goes_on = state.connected and (state.events > 0 or now - state.proof_of_life > ACCEPTED)
            if resource in self._listed or (not state.relists and goes_on):
                continue
            if not (late and state.resource_version and not state.relists):
                return False
        return bool(self._followers)

    def _release(self) -> None:
        try:
            self.ledger.release()
        except StoreFull as error:
            _log.error("the store cannot be published: %s", error)
            return
        seeding.published(self._store.state_dir)
        self._announce()

    def _write_heard(self, now: float) -> None:
        """Store the moment when the source was last heard, for the answer
        processes; it never goes back.
        """
        states = [item.reflector.state for item in self._followers.values()]
        moment = now if self._settings.manifests else min((state.proof_of_life for state in states), default=0.0)
        connected = bool(self._settings.manifests) or all(state.connected for state in states)
        self._heard = (max(moment, self._heard[0]), connected)
        # When the store cannot be written, its age grows, which is true: no change arrives in it
        # either.
        with contextlib.suppress(StoreFull):
            self._store.write_heard(*self._heard)

    def _take_what_came(self) -> None:
        """Move the changes in the queue to those that wait for a turn."""
        waiting = self._unsettled
        try:
            for _ in range(_QUEUE + 1):
                if waiting.is_full:
                    return
                waiting.put(self._queue.get_nowait())
        except queue.Empty:
            pass

    def _decoded_page(self, change: Change | RawPage) -> Change:
        if not isinstance(change, RawPage):
            return change
        odd: list[tuple[str, str]] = []
        decoded = list(self._decoded(change.resource, change.items, odd))
        return ListPageArrived(change.resource, decoded, change.first, odd)

    def _account(self, settled: Sequence[Change], outcome: Outcome) -> None:
        """Count and log the changes that were committed, and release the
        memory of a list that ended.
        """
        self._commits += bool(settled or outcome.records_changed)
        self._unsettled.learn(outcome.costs)
        self._records_changed += outcome.records_changed
        now = self._wall()
        for text in outcome.trigger_times:
            self._observe(text, now)
        for change in settled:
            if isinstance(change, ListComplete) and change.resource not in self.ledger.doubts:
                release_memory(self._store)
                self._listed.add(change.resource)
                count = self.ledger.objects[change.resource]
                _log.info("%s: %s objects as of version %s", change.resource, f"{count:,}", change.resource_version)
        for what, loss in outcome.opinions:
            self._second_opinions[what] = self._second_opinions.get(what, 0) + 1
            if what == "asked":
                self._ask_again[loss.resource] = self._clock() + self._timing.second_opinion
                _log.warning("%s: it is put aside until a second list confirms it", loss)
            else:
                _log.warning("%s: a second list has %s it", loss, what)
        self._announce()

    def _announce(self) -> None:
        if self.ledger.ready and not self.ledger.withheld and not self._announced:
            self._announced = True
            seeding.published(self._store.state_dir)
            names = f"{sum(self.ledger.counts):,}"
            _log.info("ready: %s names, %.1f s after the start", names, self._clock() - self._began)

    def _observe(self, trigger_time: str, now: float) -> None:
        try:
            moment = dt.datetime.fromisoformat(trigger_time).timestamp()
        except ValueError:
            return
        self._programming.observe(LATENCY_BUCKETS, max(0.0, now - moment))

    def snapshot(self) -> WatchSnapshot:
        """Return the state of this process that the supervisor shows."""
        now = self._clock()
        return WatchSnapshot(
            taken=now,
            ready=self.ledger.ready and not self.ledger.withheld,
            detail=_bounded(
                self._refused or self._detail or ": ".join(filter(None, (self._waiting_for(), self._trouble())))
            ),
            resources={
                resource: ResourceState(
                    connected=state.connected,
                    resource_version=state.resource_version,
                    age=now - state.proof_of_life if state.proof_of_life else -1.0,
                    events=state.events,
                    outdated=state.outdated,
                    relists=state.relists,
                    errors=dict(state.errors),
                )
                for resource, state in ((name, item.reflector.state) for name, item in self._followers.items())
            },
            objects={resource: self.ledger.objects[resource] for resource in self._resources},
            names={kind.name.lower(): count for kind, count in zip(Kind, self.ledger.counts, strict=True)},
            skipped=dict(self.skipped.counts),
            commits=self._commits,
            commit_failures=self._commit_failures,
            records_changed=self._records_changed,
            programming=Histogram(list(self._programming.counts), self._programming.total),
            store_bytes=self._store.size,
            store_free=self._store.free,
            store_serial=self.ledger.serial,
            audits=self.auditor.runs if self.auditor is not None else 0,
            audit_differences=dict(self.auditor.differences) if self.auditor is not None else {},
            second_opinions=dict(self._second_opinions),
            seeds=dict(self.seeding.outcomes),
            policy=dict(self.policy.counts) if self.policy is not None else {},
            policy_paused=self.policy.paused if self.policy is not None else {},
            history_entries=self.chronicle.ring.entries,
            history_bytes=self.chronicle.ring.bytes,
            cpu=usage.cpu(),
            memory=usage.memory(),
        )

    def _trouble(self) -> str:
        """Return the problems with the API server or its credentials, each once."""
        problems = (item.reflector.state.problem for item in self._followers.values())
        return "; ".join(dict.fromkeys(filter(None, problems)))

    def _waiting_for(self) -> str:
        if self.ledger.withheld:
            return f"waiting for the API server to go on from the store of {self.seeding.peer}"
        if self.ledger.ready:
            doubts = list(self.ledger.doubts.values())
            return "; ".join(f"{loss}: a second list is awaited" for loss in doubts)
        missing = [name for name, item in self._followers.items() if not item.reflector.state.relists]
        return f"waiting for the first complete list of {', '.join(missing)}" if missing else "compiling"


def _policy(settings: Settings, report: Report, clock: Callable[[], float]) -> PolicyProcess | None:
    """Return the policy's process; None without a policy."""
    if not settings.policy:
        return None
    from headwater.writer.policy import PolicyProcess  # few have one

    return PolicyProcess(resolved(settings.policy), report, clock)


def _bounded(text: str) -> str:
    """Return a text that fits into a message: without what is no UTF-8, and cut."""
    return text[:_DETAIL].encode(errors="backslashreplace").decode()


def release_memory(store: Store) -> None:
    """Give memory back to the kernel after a list, or another's store:
    the pages of our store, and those that malloc keeps.
    """
    store.unmap()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def run(settings: Settings, identity: Identity, end: socket.socket, timing: Timing = USUAL) -> None:
    """Run the watch process. `end` is its end of the link to the supervisor."""
    setproctitle.setproctitle("headwater: watch")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    log.configure("watch", settings.log_level, settings.log_format)
    gc.set_threshold(_UNCOLLECTED)
    link = control.Link(end)
    try:
        store, why = Store.open(Path(settings.state_dir), identity)
        if why:
            _log.warning("the stored state is discarded: %s", why)
        seeded = None
        if settings.seeds and not store.is_published:
            store, seeded = seeding.seed(settings, identity, store, required_resources(settings), timing)
        watcher = Watcher(settings, store, timing, seeded=seeded)
        if seeded is not None and seeded.peer:
            release_memory(store)  # now, when it may be published
        signal.signal(signal.SIGTERM, lambda *_: watcher.stopping.set())
        link.attend(
            watcher.progress,
            {control.Snapshot: lambda _, reply: reply(watcher.snapshot()), control.Reload: watcher.reload},
        )
        link.tell(control.Started())
        watcher.start_sources()
        watcher.loop()
    except SettingsError as error:
        _log.error("%s", error)
        link.tell(control.Ending(str(error)))
        sys.exit(control.UNUSABLE)
    except AnotherCluster as error:
        _log.warning("the stored state is discarded: %s", error)
        discard(Path(settings.state_dir))
        link.tell(control.Ending(f"the store: {error}"))
        sys.exit(1)
    except StoreDamaged as error:
        _log.error("the store is damaged: %s", error)
        sys.exit(control.STORE_DAMAGED)
    except (OSError, StoreFull) as error:
        _log.error("%s: %s", settings.state_dir, error)
        link.tell(control.Ending(f"{settings.state_dir}: {error}"))
        sys.exit(1)
