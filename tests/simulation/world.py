"""One simulated instance: its processes die and start again, and every step's answers are judged.

Nothing here is concurrent: `World.do` performs one action of a schedule, and lets some processes
take a step. All randomness comes from the action's number.
"""

from __future__ import annotations

import contextlib
import io
import logging
import random
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final, cast
from unittest import mock

import headwater.cluster.api
from headwater.answer.resolver import Resolver
from headwater.cluster.follower import Follower
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
from headwater.cluster.recognition import seen
from headwater.cluster.reflector import RequestFailed
from headwater.peers.client import Copy, NoCopy
from headwater.records.compiler import Compiler
from headwater.settings.address import Address
from headwater.settings.error import SettingsError
from headwater.settings.settings import Settings
from headwater.store.copied import encode_head, unpacked
from headwater.store.environment import SERIAL, Reader, Store, StoreDamaged, StoreFull
from headwater.store.identity import Identity, discard, published
from headwater.writer import host, ledger, lists, process, seeding, turns
from headwater.writer.process import Changes, Watcher, required_resources
from headwater.writer.seeding import Seeding
from headwater.writer.unmade import FromObjects

from tests.harness.peers import Recorded, copy_of
from tests.harness.small import settings
from tests.simulation import truth
from tests.simulation.api import RESOURCES, Api, Client, Stream
from tests.simulation.disk import FAULTS, Died, Disk
from tests.simulation.mutants import unmutated
from tests.simulation.schedule import Action, Schedule
from tests.simulation.truth import HOSTNAMES, Answer, Owner, Question, Truth, read
from tests.unit.test_ledger_property import contents, differences, fresh

#: The addresses that this host may have; no Service has them as endpoints.
_HOSTS: Final = (("10.9.9.1",), ("10.9.9.2", "fd00::9"))
_HTTP: Final = Port("http", "TCP", 80)
#: An address that makes the compiler fail.
_POISON: Final = "192.0.2.66"
#: The most steps of all processes until everything is done; what is not done by then hangs.
_PATIENCE: Final = 100
_NO_FLOORS: Final[Mapping[Resource, int]] = dict.fromkeys(RESOURCES, 0)
#: The most lines of a trace about one action.
_LINES: Final = 60
#: A list that would remove this many Services or endpoints may be doubtful (writer.opinion).
_DOUBTFUL: Final = 10


class Wrong(Exception):  # noqa: N818 (what was found)
    """Something that must never happen.

    `kind` is one word; the text says what, and why it is wrong.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(slots=True)
class Task:
    """A follower as a task that takes steps."""

    follower: Follower
    steps: Iterator[float]
    until: float = 0.0

    @property
    def stream(self) -> Stream | None:
        return cast("Client", self.follower.server).stream


@dataclass(slots=True)
class _Sibling:
    """The store of a sibling, as it was once."""

    copy: Recorded
    heard: float
    """When the API server was heard, on the world's clock."""
    is_doubtful: bool = False
    """Whether the API server was restored from a backup since."""


@dataclass(slots=True)
class Asker:
    """An answer process: a reader, a resolver, and facts on its earlier answers."""

    name: str
    reader: Reader
    resolver: Resolver
    has_served: bool = False
    """Whether it has answered; from then on it must not stop."""
    seen: tuple[int, bytes] = (0, b"")
    """The generation and the serial of the last round."""
    last: tuple[Any, ...] = ()
    given: dict[Owner, tuple[Answer, ...]] = field(default_factory=dict)
    told: str = ""


@dataclass(slots=True)
class Sick:
    """An owner on which the compiler fails, and the moment at which that ended, if it has."""

    until: int | None = None


class _Handed(Changes):
    """A queue on which nobody waits."""

    def wait(self, seconds: float) -> None:
        pass


class _Stuck(BaseException):
    """A thread would wait for ever. Not an Exception, because a follower would catch that."""


class _Places(threading.Semaphore):
    """Places for pages, on which nobody waits: without a free one a follower takes no step."""

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        if not super().acquire(blocking=False):
            raise _Stuck
        return True

    @property
    def free(self) -> int:
        return self._value


class _Watcher(Watcher):
    """The watch process, with its threads as tasks."""

    def __init__(self, world: World, store: Store, seeded: Seeding | None = None) -> None:
        super().__init__(
            world.settings, store, changes=_Handed(), clock=world.clock, wall=lambda: world.wall, wait=world.sleep,
            seeded=seeded,
        )  # fmt: skip
        self.tasks: dict[str, Task] = {}
        self.places = _Places(self._inbox.pages._value)
        self._inbox = replace(self._inbox, pages=self.places)

    def _thread(self, name: str, work: Callable[[], None]) -> None:  # type: ignore[override]
        follower = cast("Any", work).__self__
        if isinstance(follower, Follower):
            self.tasks[name] = Task(follower, follower.steps())
            client = cast("Client", follower.server)
            client.is_confirming = lambda: follower.reflector.confirming


class World:
    """The whole simulation, in one thread."""

    def __init__(self, schedule: Schedule, folder: Path, *, tracing: bool = False) -> None:
        self._tracing = tracing
        self._lines = 0
        self.trace: list[str] = []
        draw = Random(schedule.seed ^ 0x5EED)
        random.seed(schedule.seed)  # for the waits of the reflectors
        self.now = 1000.0
        self.wall = 1_800_000_000.0
        self.folder = folder
        self.api = Api(self.clock)
        self.api.may_lie = self._may_lie
        self.disk = Disk()
        self.disk.meanwhile = self._meanwhile
        self.disk.after = self._while_made
        if tracing:
            self.api.note = self.disk.note = self.note
        self._draw = draw
        """The random numbers of the current action."""
        self.watcher: _Watcher | None = None
        self.store: Store | None = None
        self.copy: _Sibling | None = None
        self.owners = _owners()
        self._questions: dict[Owner, list[Question]] = {owner: owner.questions() for owner in self.owners}
        self.sick: dict[Owner, Sick] = {}
        self.host: tuple[str, ...] = _HOSTS[0]
        self.settings = self._settings(draw, first=True)
        self.floors: dict[Resource, int] = dict.fromkeys(RESOURCES, 0)
        self._possible: dict[Owner, tuple[Any, list[tuple[Answer, ...]]]] = {}
        self._populate(draw)
        self._configure()

    # The world

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds

    def note(self, text: str) -> None:
        if self._tracing and self._lines < _LINES:
            self._lines += 1
            self.trace.append(f"{' ' * 13}{text}" if self._lines < _LINES else f"{' ' * 13}…")

    def _settings(self, draw: Random, *, first: bool = False) -> Settings:
        labels = "team=a" if draw.random() < 0.15 else ""
        changes: dict[str, object] = {
            "state_dir": str(self.folder),
            "reverse_zones": ("in-addr.arpa",),
            "multicluster_zones": (truth.CLUSTERSET,) if draw.random() < 0.8 else (),
            "zonal": draw.random() < 0.3,
            "pods": draw.choice(("verified", "verified", "disabled")),
            "list_mode": draw.choice(("pages", "pages", "stream")),
            "second_opinion": draw.choice(("on", "on", "off")),
            "labels": labels,
            "max_staleness": draw.choice((0.0, 0.0, 30.0)),
            "peer_listen": Address(host="127.0.0.1", port=1),
        }
        return settings(**changes)

    def described(self) -> str:
        """Describe the settings that differ between runs."""
        told = self.settings
        return (
            f"--list {told.list_mode} --pods {told.pods} --second-opinion {told.second_opinion}"
            f"{' --zonal' * told.zonal} --labels={told.labels} --multicluster-zones={','.join(told.multicluster_zones)}"
            f" --max-staleness {told.max_staleness:g}, host {self.host[0]}"
        )

    def _configure(self) -> None:
        """Derive everything from the settings, and start all processes again."""
        self.identity = Identity(f"simulated {self.settings.labels}", self.settings.records_fingerprint())
        self.resources = required_resources(self.settings)
        self.truth = Truth(self.api, self.settings.labels.partition("=")[2])
        self._possible.clear()
        self.askers = [
            Asker(name, reader, Resolver(reader, self.settings, unmade=FromObjects(self.settings)))
            for name in ("A", "B")
            for reader in (Reader(self.folder, self.identity),)
        ]
        self._asked = [
            owner
            for owner in self.owners
            if not (owner.kind == "pod" and self.settings.pods != "verified")
            and not (owner.kind == "import" and not self.settings.multicluster_zones)
        ]

    def _populate(self, draw: Random) -> None:
        for namespace in ("a", "b"):
            self.api.put(Namespace(namespace), "a")
        for owner in self.owners:
            if draw.random() < 0.85:
                self._make(owner, draw)

    def _make(self, owner: Owner, draw: Random) -> None:
        """Give an owner random objects."""
        namespace, name = owner.namespace, owner.name
        team = "b" if draw.random() < 0.15 else "a"
        match owner.kind:
            case "pod":
                self.api.put(Pod(namespace, f"p-{name[-1]}{draw.randrange(2)}", (name,)), team)
                return
            case "import":
                headless = draw.random() < 0.5
                addresses = () if headless else (owner.own,)
                if self.api.installed:
                    self.api.put(ServiceImport(namespace, name, headless, addresses, (_HTTP,)), team)
            case _:
                headless = draw.random() < 0.6
                addresses = () if headless else (owner.own,)
                self.api.put(Service(namespace, name, "ClusterIP", headless, addresses, "", (_HTTP,)), team)
        for number in range(draw.choice((0, 1, 1, 2))):
            self._make_slice(owner, number, draw)

    def _make_slice(self, owner: Owner, number: int, draw: Random) -> None:
        some = tuple(
            Endpoint((address,), draw.choice((3, 3, 3, 0)), draw.choice(("", *HOSTNAMES)), "", draw.choice(("", "za")))
            for address in draw.sample(owner.addresses, min(len(owner.addresses), draw.choice((0, 1, 1, 2))))
        )
        service, imported = (owner.name, "") if owner.kind == "service" else ("", owner.name)
        piece = EndpointSlice(
            owner.namespace, f"{owner.kind[0]}-{owner.name}-{number}", service, (_HTTP,), some, imported,
            "c1" if imported else "",
        )  # fmt: skip
        self.api.put(piece, "b" if draw.random() < 0.1 else "a")

    # Processes

    def _boot(self) -> None:
        """Start the watch process, as the supervisor does if there is none."""
        if self.watcher is not None:
            return
        try:
            self.store, why = Store.open(self.folder, self.identity)
            if why:
                self.note(f"the stored state is discarded: {why}")
                self._forget()
            if published(self.folder) is None or not self.store.is_published:
                self._forget()
            seeded = self._seeded()  # the store may be another one then
            self.watcher = _Watcher(self, self.store, seeded)
            self.watcher.start_sources()
        except (StoreFull, OSError) as error:
            self.note(f"the watch process ends: {error}")
            self._end()
        except Died:
            self.note("the watch process is killed while it starts")
            self._end()
        except StoreDamaged as error:
            self._damaged(error)
        except SettingsError as error:
            if self.store is not None and self.store.is_published:
                raise Wrong("ended", f"the instance ends for ever, with a store to serve: {error}") from error
            self.note(f"the instance does not start: {error}")
            self._end()
        except Exception as error:
            raise Wrong("crash", f"the watch process dies as it starts: {type(error).__name__}: {error}") from error
        else:
            self.note("the watch process starts")

    def _seeded(self) -> Seeding | None:
        """Take the store of a sibling, if there is one and nothing is stored."""
        assert self.store is not None
        sibling, found, asked = self.copy, Seeding(), seeding.Word()
        if sibling is None or self.store.is_published or sibling.copy.head.source != self.identity.source:
            return None
        age = self.now - sibling.heard
        if self.settings.max_staleness and age > self.settings.max_staleness:
            return None
        try:
            asked.seen = seen(headwater.cluster.api.ApiServer(None, None, {}))
        except RequestFailed as error:
            asked.trouble = error.trouble
        recorded = sibling.copy.but(age=age)
        pieces = unpacked(encode_head(recorded.head), io.BytesIO(recorded.body()).read)
        copy = Copy(Address(host="127.0.0.1", port=1), recorded.head, pieces, self.now)
        try:
            seeding.compare(copy, asked, found)
            if sibling.is_doubtful:  # whether its version is one of another course of events cannot be known
                return None
            seeding.fill(self.store, copy)
        except (NoCopy, StoreFull) as error:
            self.note(f"no store is taken from a sibling: {error}")
            self.store.close()
            self.store, _ = Store.open(self.folder, self.identity)
            return None
        self.note(f"the store of a sibling is taken, at version {recorded.head.version}, {age:.1f} s old")
        found.peer = "a sibling"
        return found

    def _end(self) -> None:
        """End the watch process."""
        if self.store is not None:
            self.store.close()
        self.watcher = self.store = None

    def _damaged(self, error: Exception) -> None:
        """Take the store back, as the supervisor does."""
        self.note(f"the store is damaged: {error}")
        self._end()
        discard(self.folder)
        self._forget()

    def _forget(self) -> None:
        """Note that the store is empty, so that answers may stop until it is filled."""
        self.floors = dict.fromkeys(RESOURCES, 0)
        self._possible.clear()
        for asker in self.askers:
            asker.has_served = False

    def _guard(self, work: Callable[[], Any]) -> None:
        """Run some work of the watch process, which may die of it."""
        try:
            work()
        except Died:
            self.note("the watch process is killed")
            self._end()
        except StoreDamaged as error:
            self._damaged(error)
        except Wrong:
            raise
        except Exception as error:
            where = f"{type(error).__name__}: {error}"
            raise Wrong("crash", f"the watch process dies, and would again: {where}") from error

    def _write(self) -> None:
        if self.watcher is not None:
            self._guard(self.watcher.step)

    def _runnable(self, task: Task) -> bool:
        assert self.watcher is not None
        if self.now < task.until or not self.watcher.places.free:
            return False
        return task.stream is None or task.stream.is_ready()

    def _step(self, name: str) -> bool:
        """Let a follower take a step. Return whether it could."""
        if self.watcher is None or (task := self.watcher.tasks.get(name)) is None or not self._runnable(task):
            return False
        stream = task.stream
        try:
            task.until = self.now + next(task.steps)
        except StopIteration:
            raise Wrong("ended", f"the follower of {name} has ended") from None
        except _Stuck:
            raise Wrong("waits", f"the follower of {name} waits for a place for its page, for ever") from None
        if stream is not None and task.stream is stream and not task.follower.reflector.state.connected:
            cast("Client", task.follower.server).stream = None  # it is over
        return True

    def _meanwhile(self) -> None:
        """Let readers answer during a write; they see the state before it."""
        self.sleep(self._draw.choice((0.1, 2.0)))
        self._change(self._draw)
        for name in self.resources:
            self._step(name)
        self.judge(follow=False)

    # Actions

    def do(self, action: Action) -> None:
        """Perform an action, and judge the answers after it. Raises Wrong."""
        self._draw = Random(action.number)
        self._lines = 0
        if self._tracing:
            self.trace.append(f"{self.now:9.1f}  {action}")
        getattr(self, f"_do_{action.name}")(self._draw)
        self.judge()
        if self._tracing:
            self._tell()

    def _tell(self) -> None:
        """Trace what the readers see, if that has changed."""
        for asker in self.askers:
            if asker.has_served:
                old = sum(asker.given.get(owner) != self.truth.now(owner) for owner in self._asked)
                seen = f"reader {asker.name}: {len(self._asked) - old} owners' names as of now, {old} older"
            else:
                seen = f"reader {asker.name}: SERVFAIL"
            if seen != asker.told:
                asker.told = seen
                self.trace.append(f"{' ' * 13}{seen}")

    def _do_change(self, draw: Random) -> None:
        for _ in range(draw.choice((1, 1, 2, 5))):
            self._change(draw)

    def _change(self, draw: Random) -> None:
        api = self.api
        owner = draw.choice(self.owners)
        what = draw.random()
        if what < 0.04:
            namespace = draw.choice("ab")
            if ("", namespace) in api.objects["namespaces"]:
                api.delete("namespaces", ("", namespace))
            else:
                api.put(Namespace(namespace), "a")
            self.note(f"namespace {namespace} comes or goes, as of {api.version}")
            return
        if what < 0.25 or owner.kind == "pod":
            key = (owner.namespace, owner.name)
            if owner.kind == "pod":
                some = [key for key in api.objects["pods"] if key[1].startswith(f"p-{owner.name[-1]}")]
                if some and draw.random() < 0.6:
                    api.delete("pods", draw.choice(some))
                else:
                    self._make(owner, draw)
            else:
                kind: Resource = "services" if owner.kind == "service" else "serviceimports"
                if key in api.objects[kind]:
                    api.delete(kind, key)
                else:
                    self._make(owner, draw)
        elif what < 0.4:
            self._make(owner, draw)
        elif what < 0.55:
            number = draw.randrange(2)
            api.delete("endpointslices", (owner.namespace, f"{owner.kind[0]}-{owner.name}-{number}"))
        else:
            self._make_slice(owner, draw.randrange(2), draw)
        self.note(f"{owner.kind} {owner.namespace}/{owner.name} changes, as of {api.version}")

    def _do_follow(self, draw: Random) -> None:
        name = draw.choice(self.resources)
        for _ in range(draw.choice((1, 2, 5))):
            if not self._step(name):
                return

    def _do_ahead(self, draw: Random) -> None:
        """Let the followers receive much, and write none of it."""
        for name in draw.sample(self.resources, len(self.resources)):
            for _ in range(8):
                if not self._step(name):
                    break

    def _do_break(self, draw: Random) -> None:
        """Begin a list, break it off after a page or two, and change objects that it had listed."""
        self.api.expire(draw.sample(self.resources, 2))
        for _ in range(draw.randint(2, 4)):
            for name in self.resources:
                self._step(name)
            self._write()
        self.api.compact()
        self.judge()
        for _ in range(4):
            self._change(draw)

    def _do_write(self, draw: Random) -> None:
        self._write()

    def _do_turn(self, draw: Random) -> None:
        """Let all processes take a few steps."""
        for _ in range(draw.choice((1, 3))):
            for name in draw.sample(self.resources, len(self.resources)):
                self._step(name)
            self._write()
            self.judge()

    def _do_time(self, draw: Random) -> None:
        self.sleep(draw.choice((0.1, 1.0, 6.0, 6.0, 40.0, 100.0, 700.0)))

    def _do_look(self, draw: Random) -> None:
        """Let the second answer process look for the published store,
        which it does only at times.
        """
        self.askers[1].reader.follow()

    def _do_bookmark(self, draw: Random) -> None:
        self.api.bookmark(draw.choice(self.resources))

    def _do_expire(self, draw: Random) -> None:
        self.api.expire([draw.choice(self.resources)])

    def _do_expire_all(self, draw: Random) -> None:
        self.api.expire(list(RESOURCES))
        if draw.random() < 0.5:
            self.api.compact()

    def _do_compact(self, draw: Random) -> None:
        self.api.compact()

    def _do_cut(self, draw: Random) -> None:
        """Break off a watch, or lose a page of a list."""
        name = draw.choice(self.resources)
        for stream in self.api.streams:
            if stream.resource == name:
                stream.broken = True
        if draw.random() < 0.5:
            self.api.troubles[name].append("cut")

    def _do_trouble(self, draw: Random) -> None:
        for _ in range(draw.randint(1, 3)):
            self.api.troubles[draw.choice(self.resources)].append(draw.choice(("500", "429", "410", "401", "403")))

    def _do_down(self, draw: Random) -> None:
        self.api.down = True
        self.api.hang_up_all()

    def _do_up(self, draw: Random) -> None:
        self.api.down = False

    def _do_silence(self, draw: Random) -> None:
        for stream in self.api.streams:
            stream.silent |= draw.random() < 0.7

    def _do_repeat(self, draw: Random) -> None:
        """Send an event twice, or long after others."""
        if draw.random() < 0.5:
            self.api.repeat(draw.choice(self.resources), draw.choice((1, 1, 2, 4)))
            return
        owner = draw.choice([owner for owner in self.owners if owner.kind == "service"])
        for _ in range(2):
            self._make_slice(owner, 0, draw)
        self.note(f"a slice of {owner.namespace}/{owner.name} changes twice, and what it was first is told last")
        self.api.repeat("endpointslices", 2)

    def _do_backup(self, draw: Random) -> None:
        self.api.backup()

    def _do_restore(self, draw: Random) -> None:
        back = self.api.restore(draw.randrange(3))
        if self.copy is not None:
            self.copy.is_doubtful = True
        self.note(f"the API server is restored from a backup: {back} versions back")
        for owner in self.owners:
            if self._is_poisoned(owner):
                self.sick[owner] = Sick()

    def _do_crd(self, draw: Random) -> None:
        self.api.install(not self.api.installed)

    def _do_lie(self, draw: Random) -> None:
        """Make the next list from a cache empty."""
        self.api.lies.add(draw.choice(("services", "endpointslices", "namespaces")))
        self.api.expire(list(self.api.lies))

    def _may_lie(self, resource: Resource) -> bool:
        """Return whether an empty list is certainly doubtful; otherwise
        it would rightly be believed.
        """
        if self.settings.second_opinion == "off" or self.settings.labels or self.watcher is None:
            return False
        if not self.watcher.ledger.ready or self.watcher.ledger.doubts.get(resource) is not None:
            return False
        return min(self._counts(resource)) >= _DOUBTFUL

    def _counts(self, resource: Resource) -> Iterator[int]:
        """Yield the number of Services, or of ready endpoints, at each
        moment that the store may have.
        """
        least = 0
        for owner in self.owners:
            if owner.kind != "service":
                continue
            kind, part = owner.parts()[2 if resource == "endpointslices" else 1]
            values = self.truth.values(part, self.floors[kind])
            if resource == "endpointslices":
                least += min(len({address for address, _ in truth._ready(value)}) for value in values)
            elif resource == "services":
                least += all(value is not None for value in values)
            else:
                there = self.truth.values(owner.parts()[0][1], self.floors["namespaces"])
                least += all(value is not None for value in values) and all(there)
        yield least

    def _do_vanish(self, draw: Random) -> None:
        """Delete most Services while no watch is open."""
        self.api.hang_up_all()
        self.api.expire(list(RESOURCES))
        for key in list(self.api.objects["services"]):
            if draw.random() < 0.8:
                self.api.delete("services", key)

    def _do_credentials(self, draw: Random) -> None:
        """Empty the file of the credentials for a while, as when a Secret is written."""
        self.api.credentials = not self.api.credentials
        if not self.api.credentials and draw.random() < 0.5:
            self._end()
            self._boot()

    def _do_refuse(self, draw: Random) -> None:
        for _ in range(draw.randint(1, 3)):
            self.disk.plan(draw.randrange(12), draw.choice(("full", "full at the commit")))

    def _do_squeeze(self, draw: Random) -> None:
        """Expire every version, and fill the disk at times while everything is listed."""
        self.api.expire(list(RESOURCES))
        self.sleep(1.0)
        for _ in range(draw.choice((3, 6))):
            self._do_ahead(draw)
            if draw.random() < 0.7:
                self.disk.plan(draw.randrange(6), draw.choice(("full", "full at the commit")))
            self._write()
            self.judge()

    def _do_full(self, draw: Random) -> None:
        self.disk.full_every = draw.choice((1, 2, 3, 5))

    def _do_room(self, draw: Random) -> None:
        self.disk.full_every = 0

    def _do_unpublish(self, draw: Random) -> None:
        self.disk.unpublished = draw.randint(1, 3)

    def _do_slow(self, draw: Random) -> None:
        self.disk.plan(draw.randrange(6), "slow")

    def _do_die(self, draw: Random) -> None:
        """Kill the watch process between two steps."""
        if self.watcher is not None:
            self.note("the watch process is killed")
            self._end()

    def _do_die_at(self, draw: Random) -> None:
        """Plan to kill the watch process at one of its next writes."""
        self.disk.plan(draw.randrange(12), draw.choice([fault for fault in FAULTS if fault.startswith("dies")]))

    def _do_sibling(self, draw: Random) -> None:
        """Let a sibling have the store as it is now, for whoever starts with nothing."""
        snapshot = self.askers[0].reader.begin()
        if snapshot is None:
            return
        try:
            heard = snapshot.heard()
            if heard is not None and self.askers[0].reader.is_ready(snapshot):
                self.copy = _Sibling(copy_of(snapshot, self.identity.source), heard[0])
                self.note(f"a sibling has the store at version {self.copy.copy.head.version}")
        finally:
            snapshot.close()

    def _do_replace(self, draw: Random) -> None:
        """Replace the instance by one with nothing stored."""
        self._end()
        for asker in self.askers:
            asker.reader.close()
        discard(self.folder)
        self._forget()
        self._configure()

    def _do_start(self, draw: Random) -> None:
        self._boot()

    def _do_restart(self, draw: Random) -> None:
        """Stop the whole instance and start it with other settings, perhaps on another host."""
        self._end()
        for asker in self.askers:
            asker.reader.close()
        self.settings = self._settings(draw)
        self.host = draw.choice(_HOSTS)
        self._configure()
        self._forget()
        self.note(f"started anew: {self.described()}")
        self._boot()

    def _do_wall(self, draw: Random) -> None:
        """Set the wall clock."""
        self.wall += draw.choice((-100_000.0, -10.0, 10.0, 50_000.0))

    def _do_remove(self, draw: Random) -> None:
        """Remove the state directory."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()

    def _do_poison(self, draw: Random) -> None:
        """Make a Service on which the compiler fails, or which cannot be stored."""
        if draw.random() < 0.3:
            name = "x" * 600
            key = ("a", name)
            if key in self.api.objects["services"]:
                self.api.delete("services", key)
            else:
                self.api.put(Service("a", name, "ClusterIP", True, (), "", (_HTTP,)), "a")
            self.note("a Service whose name is too long to be stored comes or goes")
            return
        owner = draw.choice([owner for owner in self.owners if owner.kind == "service"])
        self.sick[owner] = Sick()
        poison = Service(owner.namespace, owner.name, "ClusterIP", False, (_POISON,), "", (_HTTP,))
        self.api.put(poison, "a")
        self.note(f"{owner.namespace}/{owner.name} makes the compiler fail, as of {self.api.version}")

    def _do_cure(self, draw: Random) -> None:
        for owner in list(self.sick):
            if self._is_poisoned(owner):
                self.api.delete("services", (owner.namespace, owner.name))
                self.sick[owner].until = self.api.moment

    def _is_poisoned(self, owner: Owner) -> bool:
        held = self.api.objects["services"].get((owner.namespace, owner.name))
        return held is not None and _is_poison(held.object)

    def _do_audit(self, draw: Random) -> None:
        """Run an audit while other work goes on."""
        watcher = self.watcher
        auditor = watcher.auditor if watcher is not None else None
        if watcher is None or auditor is None or not watcher.ledger.ready:
            return

        def wait(seconds: float) -> bool:
            self.sleep(seconds)
            self._change(draw)
            for name in self.resources:
                self._step(name)
            self._write()
            return self.watcher is not watcher  # it was killed meanwhile

        stopping = mock.Mock(wait=wait)
        with mock.patch.object(auditor, "_stopping", stopping), contextlib.suppress(RequestFailed):
            for resource in self.resources:
                if self.watcher is watcher:
                    auditor.audit(resource)

    def _do_calm(self, draw: Random) -> None:
        self.calm()

    # Judgement

    def _while_made(self) -> None:
        """Ask while the records of a published store are being made: nothing else comes between."""
        self.askers[0].reader.follow()
        for asker in self.askers:
            snapshot = asker.reader.begin()
            try:
                being_made = snapshot is not None and asker.reader.is_being_made(snapshot)
            finally:
                if snapshot is not None:
                    snapshot.close()
            if being_made:
                self._raise_floors()
                self._judge(asker)

    def judge(self, *, follow: bool = True) -> None:
        """Ask both answer processes for every name, and judge the answers. Raises Wrong."""
        if follow:
            self.askers[0].reader.follow()
        self._raise_floors()
        for asker in self.askers:
            self._judge(asker)

    def _raise_floors(self) -> None:
        """Raise the floors to the versions of the store: no older answer is allowed from now on."""
        if self.store is None or self.watcher is None:
            return
        ledger = self.watcher.ledger
        if not ledger.ready and ledger._making is None:
            return
        for resource, version in ledger.versions().items():
            if version.isdigit() and self.store.is_published:
                self.floors[resource] = max(self.floors[resource], self.api.moments[int(version)])

    def _judge(self, asker: Asker) -> None:
        snapshot = asker.reader.begin()
        try:
            ready = snapshot is not None and asker.reader.can_answer(snapshot)
            if not ready or snapshot is None:
                if asker.has_served:
                    raise Wrong("stopped", f"reader {asker.name}: SERVFAIL, although it has answered before")
                reply = asker.resolver.answer(self._questions[self.owners[0]][0].query, snapshot)
                if not isinstance(reply, bytes) or read(reply) != "SERVFAIL":
                    raise Wrong("early", f"reader {asker.name} answers before anything is complete")
                return
            serial = snapshot.meta(SERIAL) or b""
            if snapshot.generation == asker.seen[0] and serial < asker.seen[1]:
                raise Wrong("serial", f"reader {asker.name}: the serial goes back")
            asker.seen = snapshot.generation, serial
            asker.has_served = True
            state = (snapshot.generation, snapshot._txn.id(), self.api.moment, tuple(self.floors.values()))
            if state == asker.last:
                return
            asker.last = state
            for owner in self._asked:
                self._judge_owner(asker, owner, snapshot)
        finally:
            if snapshot is not None:
                snapshot.close()

    def _judge_owner(self, asker: Asker, owner: Owner, snapshot: Any) -> None:
        if (sick := self.sick.get(owner)) is not None:
            if sick.until is None and not self._is_poisoned(owner):
                sick.until = self.api.moment
            if sick.until is None or self.floors["services"] < sick.until:
                return
            del self.sick[owner]
        given = tuple(
            read(cast("bytes", asker.resolver.answer(question.query, snapshot))) for question in self._questions[owner]
        )
        # A reader that has not looked for another store yet may still answer from the previous one.
        floors = self.floors if asker.reader._folder == published(self.folder) else _NO_FLOORS
        asker.given[owner] = given
        known = self._possible.get(owner)
        key = (tuple(floors[resource] for resource, _ in owner.parts()), self.api.moment)
        if known is None or known[0] != key:
            known = self._possible[owner] = (key, self.truth.possible(owner, floors))
        if given in known[1]:
            return
        questions = self._questions[owner]
        who = f"reader {asker.name}, {owner.kind} {owner.namespace}/{owner.name}"
        lines = [f"{who}: not true since the last confirmed truth ({len(known[1])} sets of answers were)"]
        for index, question in enumerate(questions):
            each = list(dict.fromkeys(_told(some[index]) for some in known[1]))
            if _told(given[index]) not in each:
                lines.append(f"  {question.text}: {_told(given[index])}; true were: {' | '.join(each)}")
        if len(lines) == 1:
            lines += [f"  {q.text}: {_told(a)}; now: {_told(b)}" for q, a, b in
                      zip(questions, given, known[1][-1], strict=True)]  # fmt: skip
            lines.append("  each of them was true, but not together")
        raise Wrong("untrue", "\n".join(lines))

    def calm(self) -> None:
        """End all faults.

        After a bounded number of steps the store must equal a fresh list. Raises Wrong.
        """
        self.note("from here on nothing is wrong")
        self.api.heal()
        self.disk.heal()
        self._do_cure(self._draw)
        waiting, idle = "", 0
        for _ in range(_PATIENCE):
            self._boot()
            moved = False
            for name in self.resources:
                for _ in range(20):
                    if not self._step(name):
                        break
                    moved = True
            self._write()
            self.judge()
            waiting = self._waits_for()
            if not waiting:
                break
            idle = 0 if moved else idle + 1
            if idle:
                self.sleep(min(40.0, 2.0**idle))
        else:
            raise Wrong("waits", f"after {_PATIENCE} rounds without a fault: {waiting}")
        assert self.watcher is not None
        assert self.store is not None
        for asker in self.askers:
            asker.reader.follow()
        self.floors = dict.fromkeys(RESOURCES, self.api.moment)
        for asker in self.askers:
            asker.last = ()
            self._judge(asker)
        self._compare()

    def _waits_for(self) -> str:
        watcher = self.watcher
        if watcher is None:
            return "the watch process does not stay alive"
        if not watcher.ledger.ready or self.store is None or not self.store.is_published:
            return f"nothing is published: {watcher.snapshot().detail}"
        if watcher._refused or watcher._turn or watcher._unsettled or not watcher._queue.empty():
            return f"changes are not settled: {watcher._refused}"
        if watcher.ledger.doubts:
            return f"a second list is awaited: {watcher.ledger.doubts}"
        for name, task in watcher.tasks.items():
            if name == "serviceimports" and not self.api.installed:
                if watcher.ledger.versions()["serviceimports"] != "none":
                    return "serviceimports are not known to be gone"
            elif task.stream is None or not task.stream.is_drained():
                return f"{name} are not followed"
        return ""

    def _compare(self) -> None:
        assert self.store is not None
        assert self.watcher is not None
        team = self.settings.labels.partition("=")[2]
        objects = [
            Decoded(held.object, str(held.version))
            for resource in self.resources
            for held in self.api.objects[resource].values()
            if not team or resource in ("namespaces", "serviceimports") or held.team == team
        ]
        self.disk.quiet = True
        try:
            with unmutated():
                expected = fresh(self.settings, objects, self.host)
                try:
                    found = contents(self.store, self.watcher.ledger)
                except AssertionError as error:
                    raise Wrong("store", f"the store does not hold together: {_first_line(error)}") from None
        finally:
            self.disk.quiet = False
        wrong = differences(found, expected)
        if wrong:
            some = "\n".join(f"  {place}: {now!r}, a fresh list makes {then!r}" for place, (now, then) in
                             list(wrong.items())[:5])  # fmt: skip
            raise Wrong("differs", f"{len(wrong)} entries of the store are not those of a fresh list:\n{some}")
        if faulty := self.store.read(lambda txn: txn.count("faulty")):
            raise Wrong("faulty", f"{faulty} owners are held to be faulty, and are not")

    def close(self) -> None:
        self._end()
        for asker in self.askers:
            asker.reader.close()


def _owners() -> list[Owner]:
    services = [("a", f"s{number}") for number in range(12)] + [("b", f"t{number}") for number in range(6)]
    found = [
        Owner("service", namespace, name, (f"10.0.{number}.1", f"10.0.{number}.2"), f"172.16.0.{number}")
        for number, (namespace, name) in enumerate(services)
    ]
    found += [Owner("import", "a", f"i{number}", (f"10.1.{number}.1",), f"172.17.0.{number}") for number in range(2)]
    found += [Owner("pod", namespace, f"10.2.0.{number}") for namespace, number in (("a", 1), ("a", 2), ("b", 3))]
    return found


def _told(answer: Answer) -> str:
    if isinstance(answer, str):
        return answer
    return "{" + ", ".join(sorted(_text(item) for item in answer)) + "}"


def _text(rdata: bytes) -> str:
    if len(rdata) == 4:
        return ".".join(map(str, rdata))
    labels, at = [], 0
    while rdata[at]:
        labels.append(rdata[at + 1 : at + 1 + rdata[at]].decode())
        at += 1 + rdata[at]
    return ".".join(labels)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _is_poison(item: Object | None) -> bool:
    return isinstance(item, Service) and _POISON in item.cluster_ips


@contextlib.contextmanager
def _installed(world: World, seed: int) -> Iterator[None]:
    """Run the package's code on this world's disk, API server and time, with small limits."""
    draw = Random(seed)

    def unmap(store: Store) -> None:
        store.unmap()

    def poisoned(real: Callable[..., Any]) -> Callable[..., Any]:
        def work(compiler: Compiler, *arguments: Any, **named: Any) -> Any:
            if any(map(_is_poison, arguments)):
                raise ZeroDivisionError("simulated")
            return real(compiler, *arguments, **named)

        return work

    with contextlib.ExitStack() as stack:
        stack.enter_context(world.disk.installed())
        for owner, name, value in (
            (headwater.cluster.api, "ApiServer", partial(Client, world.api)),
            (host, "of_this_host", lambda: list(world.host)),
            (process, "release_memory", unmap),
            (turns, "_CHANGES", draw.choice((1, 4, 1000, 1000))),
            (lists, "_CHUNK", draw.choice((1, 4, 256))),
            (lists, "_RANGE", draw.choice((4, 10_000))),
            (ledger, "_CHUNK", draw.choice((1, 256))),
            (Compiler, "service", poisoned(Compiler.service)),
            (Compiler, "reverse_of_service", poisoned(Compiler.reverse_of_service)),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        before = logging.root.manager.disable
        stack.callback(logging.disable, before)
        logging.disable(logging.CRITICAL)
        stack.callback(world.close)
        yield


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a schedule."""

    schedule: Schedule
    wrong: Wrong | None
    trace: list[str]

    def __str__(self) -> str:
        if self.wrong is None:
            return f"seed {self.schedule.seed}: {len(self.schedule.actions)} actions, nothing wrong"
        done = "\n".join(self.trace)
        head = f"seed {self.schedule.seed}, {len(self.schedule.actions)} actions:"
        return f"{head}\n{done}\nWRONG ({self.wrong.kind}): {self.wrong}"


def run(schedule: Schedule, folder: Path, *, tracing: bool = False) -> Result:
    """Perform all actions of a schedule, and end its faults. `folder` is empty."""
    folder.mkdir(parents=True)
    try:
        world = World(schedule, folder, tracing=tracing)
        with _installed(world, schedule.seed):
            try:
                if tracing:
                    world.note(world.described())
                world._boot()
                for action in schedule.actions:
                    world.do(action)
                world.do(Action("calm", 0))
            except Wrong as wrong:
                return Result(schedule, wrong, world.trace)
            return Result(schedule, None, world.trace)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
