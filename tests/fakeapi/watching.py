"""The watch role on the fake API server, as one object: start it, kill it, compare its store."""

from __future__ import annotations

import contextlib
import itertools
import select
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

from headwater.cluster.objects import Resource
from headwater.cluster.timing import Timing
from headwater.process import control
from headwater.process.counters import WatchSnapshot
from headwater.writer import host
from headwater.writer.process import required_resources

from tests.fakeapi import role
from tests.fakeapi.reader import Prober, View, contents, differences, fresh, identity_of
from tests.fakeapi.server import FakeApiServer, Request, Verb
from tests.harness.instance import settings_of
from tests.harness.processes import wait_until

#: The deadline of every wait, for a busy machine, in seconds.
DEADLINE: Final = 20.0
_INTERVAL: Final = 0.005
#: Shorter than every wait of the product, in seconds.
_AT_ONCE: Final = 0.04


class Watching:
    """One state directory, and the process that writes it.

    `flags` are those of `headwater serve`. A `prober` asks for names that must always be answered,
    from the first answer on.
    """

    def __init__(
        self,
        api: FakeApiServer,
        folder: Path,
        *flags: str,
        stable: Mapping[str, frozenset[str]] | None = None,
        timing: Timing = role.SHORT,
        kubeconfig: str = "",
        absent: frozenset[Resource] = frozenset(),
    ) -> None:
        self.api = api
        self.absent = absent
        """Resources without objects, because their CRD is not installed."""
        self.log = folder / "watch.log"
        file = folder / "kubeconfig"
        file.write_text(kubeconfig or api.kubeconfig())
        self._fixed = ["--kubeconfig", str(file), "--state-dir", str(folder / "state")]
        self.flags = flags
        self.settings = settings_of([*self._fixed, *flags])
        self.resources = required_resources(self.settings)
        self.timing = timing
        self.process: BaseProcess | None = None
        self._connection: socket.socket | None = None
        self.view = View(self.settings)
        self.prober = Prober(self.view, stable or {})

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """End the process with the block; an error quotes its log."""
        try:
            yield
        except BaseException as error:
            if self.log.exists():
                error.add_note(f"the log of the watch process ends with:\n{self.log.read_text()[-4000:]}")
            raise
        finally:
            self.close()

    # The process

    def use(self, *flags: str) -> None:
        """Add flags, from the next start on."""
        self.flags = (*self.flags, *flags)
        self.settings = settings_of([*self._fixed, *self.flags])
        self.prober.stop()
        self.view.close()
        self.view = View(self.settings)
        self.prober = Prober(self.view, self.prober.allowed)

    def start(self, *, kill_at: int = 0, clock: float = 0.0) -> None:
        """Start it on the existing store, and wait until it says so."""
        ours, theirs = control.pair()
        self.process = role.start(role.watch, self.settings, theirs, self.log, self.timing, kill_at, clock)
        theirs.close()
        self._connection = ours
        if not kill_at:
            assert _hears(ours, DEADLINE), "the watch process does not start"
            assert control.decode(ours.recv(control.MAX_MESSAGE)) == control.Started()

    def run_into(self, kill_at: int) -> bool:
        """Start it, to be killed at this point (`role.KillPoints`).

        Return False if it never reaches it.
        """
        self.start(kill_at=kill_at)
        process, connection = self.process, self._connection
        assert process is not None
        assert connection is not None

        def over() -> bool:
            # The link is readable when the process says that it has begun, and when it has ended.
            return not process.is_alive() or (_hears(connection) and self.goes_as_far())

        wait_until(over, DEADLINE, "it is killed, or it has caught up", interval=_INTERVAL)
        died = not process.is_alive()
        if died:
            assert process.exitcode in (-signal.SIGKILL, -signal.SIGALRM), process.exitcode
        self.kill()
        return died

    def points(self) -> list[str]:
        """Return the points that the last start with a `kill_at` has reached."""
        return self.log.with_name("points").read_text().splitlines()

    def kill(self) -> None:
        """Kill -9 the process, if it runs."""
        if self.process is None or self._connection is None:
            return
        self.process.kill()
        self.process.join(DEADLINE)
        assert self.process.exitcode is not None, "the watch process does not end"
        self._connection.close()
        self.process, self._connection = None, None

    def close(self) -> None:
        self.kill()
        self.prober.stop()
        self.view.close()

    def snapshot(self) -> WatchSnapshot:
        """Return the counters of the process."""
        connection = self._connection
        assert connection is not None
        connection.send(control.encode(control.Asked(1, control.Snapshot())))
        assert _hears(connection, DEADLINE), "the watch process does not answer"
        heard = control.decode(connection.recv(control.MAX_MESSAGE))
        assert isinstance(heard, control.Replied)
        assert isinstance(heard.reply, WatchSnapshot)
        return heard.reply

    def logged(self, text: str) -> int:
        """Return how many lines of its log have a text."""
        return sum(text in line for line in self.log.read_text().splitlines())

    def errors(self) -> dict[str, int]:
        """Return how many requests have failed since the start, for
        each resource that has objects.
        """
        states = self.snapshot().resources
        return {
            resource: sum(states[resource].errors.values()) if resource in states else 0
            for resource in self.resources
            if resource not in self.absent
        }

    def until_refused(self, times: int, since: Mapping[str, int] | None = None) -> None:
        """Wait until this many requests of every resource have failed, beyond those of `since`."""

        def condition() -> bool:
            found = self.errors()
            short = {name: count for name, count in found.items() if count < times + (since or {}).get(name, 0)}
            assert not short, f"failed requests: {short}, since {since or 'the start'}"
            return True

        wait_until(condition, DEADLINE, f"{times} requests of every resource fail", interval=_INTERVAL)

    @contextlib.contextmanager
    def refused(self, times: int) -> Iterator[None]:
        """Run a block that breaks something; then wait until this many more
        requests of each resource failed.
        """
        before = self.errors()
        yield
        self.until_refused(times, before)

    # The store

    def ready(self) -> None:
        """Start it and wait until its first lists are committed."""
        self.start()
        self.settle()

    def settle(self) -> None:
        """Wait until the store has the version of the truth, and its records."""
        wait_until(self.goes_as_far, DEADLINE, "the store follows the API server", interval=_INTERVAL)

    def goes_as_far(self) -> bool:
        """Return whether the store has the version of the truth, and its records.

        Raises AssertionError with what is behind.
        """
        behind = {
            resource: version
            for resource in self.resources
            if resource not in self.absent and (version := self.view.version(resource)) != str(self.api.truth.version)
        }
        if behind:
            self.api.bookmark()
        assert not behind, f"version {self.api.truth.version} is awaited, stored are {behind}"
        assert self.view.is_ready(), "its records are not made"
        return True

    def until(self, name: str, *expected: str, rcode: str = "NOERROR") -> None:
        """Wait until the answer for a name has these addresses."""

        def condition() -> bool:
            found = self.view.ask(name)
            assert found == (rcode, frozenset(expected)), f"{name} says {found}"
            return True

        wait_until(condition, DEADLINE, f"{name} is answered with {expected or rcode}", interval=_INTERVAL)

    def until_asked(
        self, count: int, verb: Verb | None = None, resource: Resource | None = None, *, since: float = 0.0
    ) -> None:
        """Wait for this many requests, as `FakeApiServer.count` counts them."""
        what = f"{count} requests ({verb or 'of any kind'}, {resource or 'of any resource'})"
        wait_until(lambda: self.api.count(verb, resource, since) >= count, DEADLINE, what, interval=_INTERVAL)

    def check(self, *, settle: bool = True) -> None:
        """End the process; compare the whole store with a fresh list of the
        truth, and check the prober.
        """
        if settle:
            self.settle()
        wait_until(
            lambda: all(self.api.watching(resource) <= 1 for resource in self.resources),
            DEADLINE,
            "no watch is left open",
        )
        self.kill()
        self.prober.stop()
        self.view.close()
        self.compare()
        assert not self.prober.wrong, "wrong answers:\n" + "\n".join(self.prober.wrong[:20])
        assert self.prober.asked or not self.prober.allowed

    def compare(self) -> None:
        """Compare the whole store with a fresh list of the truth. Nobody may have it open."""
        identity, here = identity_of(self.settings), host.of_this_host()
        expected = fresh(self.settings, identity, self.api.truth, here, self.absent)
        wrong = differences(contents(Path(self.settings.state_dir), identity), expected)
        assert not wrong, "the store is not what the API server has:\n" + "\n".join(wrong[:20])


def _hears(end: socket.socket, timeout: float = 0.0) -> bool:
    """Return whether the link has something to read, or its other end is closed."""
    return bool(select.select([end], [], [], timeout)[0])


def longest_rush(requests: Sequence[Request]) -> int:
    """Return the longest row of requests that each came right after the one before.

    After a 410 a list and a watch follow at once, and so may they after a first failure. After that
    there has to be a pause.
    """
    longest = run = 0
    for before, request in itertools.pairwise(requests):
        run = run + 1 if request.time - before.time < _AT_ONCE else 0
        longest = max(longest, run)
    return longest
