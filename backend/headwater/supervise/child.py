"""One child process: started, watched, restarted, with the counters of all its lives."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Final

from headwater.process import control
from headwater.process.control import Ending, Replied, Started
from headwater.process.counters import AnswerSnapshot, Kind, PeerSnapshot, ProcessView, WatchSnapshot
from headwater.process.progress import Mark
from headwater.supervise import forks, liveness
from headwater.supervise.descriptors import Reserve
from headwater.supervise.link import Link, Unanswered
from headwater.supervise.liveness import Liveness, Verdict

_log = logging.getLogger(__name__)

#: Back-off between restarts of a process that does not stay up, in seconds.
_BACKOFF: Final = (0.02, 10.0)
#: When a process is not back so many seconds after its death, new connections do not wait for it.
_TOO_LONG: Final = 0.5
#: A process that lived this long, in seconds, is restarted at once.
_STABLE: Final = 5.0
#: Seconds for a process to answer the supervisor; less than a round.
_PATIENCE: Final = 0.4
#: Seconds for the forkserver to fork, without getting on and at most, and to report a death.
_FORK: Final = 5.0
_FORK_AT_MOST: Final = 60.0
_REPORT: Final = 1.0
#: Seconds between looks at an orphan whose link is closed, and seconds that it may live on without
#: a link.
_LOOK: Final = 0.02
_UNLINKED: Final = 1.0
#: The signals that kill a process when it reads a damaged page.
_CRASHES: Final = frozenset({-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT})

_LIMITS: Final = {Kind.WATCH: liveness.WATCH, Kind.ANSWER: liveness.ANSWER, Kind.PEER: liveness.PEER}


class Child:
    """One child: started, watched, restarted, with the counters of all its lives."""

    def __init__(
        self,
        kind: Kind,
        name: str,
        start: Callable[[socket.socket], BaseProcess],
        *,
        reserve: Reserve,
        on_crash: Callable[[], None] = lambda: None,
        is_final: Callable[[], Awaitable[bool]] | None = None,
        listening: Sequence[socket.socket] = (),
        limits: liveness.Limits | None = None,
    ) -> None:
        """`start` forks it, in a thread, and gets the process's end of the link.

        `is_final` says whether UNUSABLE ends this child for good; else it is started again.
        `listening` are its sockets, held open while it restarts.
        """
        self.kind = kind
        self.name = name
        self.restarts = 0
        self.up = False
        self.worked = False
        """Whether its main loop ever turned, in any life."""
        self.exitcode: int | None = None
        self.begun = asyncio.Event()
        """Set when its first life is at work, or has ended."""
        self._start = start
        self._reserve = reserve
        self._on_crash = on_crash
        self._is_final = is_final
        self._listening = tuple(listening)
        self._limits = limits or _LIMITS[kind]
        self._pid: int | None = None
        self._link: Link | None = None
        self._asked: asyncio.Future[Replied] | None = None
        self._liveness = Liveness(self._limits)
        self._verdict = Verdict.STARTING
        self._mark: Mark | None = None
        self._killed = 0
        self._exits: dict[int, int] = {}
        self._trouble = ""
        self._last_words = ""
        self._odd = False
        self._snapshot: AnswerSnapshot | WatchSnapshot | PeerSnapshot | None = None
        self._before: AnswerSnapshot | WatchSnapshot | PeerSnapshot | None = None
        self._stopping = False
        self._away = contextlib.ExitStack()
        """While new connections are turned away, or will be soon."""

    @property
    def pid(self) -> int | None:
        """While it lives."""
        return self._pid

    def view(self) -> ProcessView:
        """The view for admin: its state, and the counters of all its lives."""
        silent = self._liveness.silence if self._verdict in (Verdict.SILENT, Verdict.HUNG) else 0.0
        return ProcessView(
            self.kind,
            self.name,
            self.up,
            self.restarts,
            self._snapshot,
            self._before,
            silent,
            self._killed,
            dict(self._exits),
            self._trouble,
        )

    # Its lives

    async def keep_running(self) -> None:
        """Start it, wait until it dies, start it again, until `stop` or until it is final."""
        delay = 0.0
        while not self._stopping:
            began = time.monotonic()
            try:
                code = await self._live()
            except (OSError, EOFError) as error:
                code = None
                self._trouble = f"cannot be started: {error}"
                self._turn_away_soon()
                _log.error("%s %s", self.name, self._trouble)
            self.up = False
            self.begun.set()
            self._bury()
            if code is not None:
                self._exits[code] = self._exits.get(code, 0) + 1
                self._trouble = self._last_words or f"ended: {_how(code)}"
            if code == control.UNUSABLE and self._is_final is not None and await self._is_final():
                self.exitcode = code
                return
            if self.is_stopping():
                return
            if code in _CRASHES or code == control.STORE_DAMAGED:
                self._on_crash()
            lived = time.monotonic() - began
            delay = _BACKOFF[0] if lived > _STABLE or not delay else min(delay * 2, _BACKOFF[1])
            if code is not None:
                _log.warning("%s ended (%s); starting it again in %.2f s", self.name, _how(code), delay)
            await asyncio.sleep(delay)
            self.restarts += 1

    def _turn_away_soon(self) -> None:
        """It does not serve: until it runs again, new connections must not wait for long."""
        self._away.close()
        if not self._stopping:
            self._away.enter_context(self._turning_away(_TOO_LONG))

    @contextlib.contextmanager
    def _turning_away(self, after: float) -> Iterator[None]:
        """Accept and close new connections, so that CoreDNS fails over and does not wait.

        It begins after that many seconds: a process that is back sooner serves those that wait.
        """
        loop = asyncio.get_running_loop()
        places = [(listening, listening.fileno()) for listening in self._listening if listening.fileno() >= 0]

        def begin() -> None:
            for listening, place in places:
                if listening.fileno() == place:
                    listening.setblocking(False)
                    loop.add_reader(place, _turn_away, listening)

        timer = loop.call_later(after, begin)
        try:
            yield
        finally:
            timer.cancel()
            for _, place in places:
                loop.remove_reader(place)

    async def _live(self) -> int:
        """One life, and its exit code. Raises OSError or EOFError when it cannot be started."""
        self._liveness, self._verdict, self._mark = Liveness(self._limits), Verdict.STARTING, None
        self._last_words = ""
        with self._reserve.lent():
            ours, theirs = control.pair()
            try:
                process = await self._fork(theirs)
            except BaseException:
                ours.close()
                raise
            finally:
                theirs.close()
        self._pid = process.pid
        link = self._link = Link(ours, self._told, self._odd_message)
        if self._stopping:
            self.signal(signal.SIGTERM)
        try:
            return await self._death(process, link)
        finally:
            self._pid = None
            link.close()
            self._link = None

    async def _fork(self, theirs: socket.socket) -> BaseProcess:
        loop = asyncio.get_running_loop()
        forking = loop.run_in_executor(None, self._start, theirs)
        until = loop.time() + _FORK_AT_MOST
        before = forks.spent()
        while not (await asyncio.wait([forking], timeout=_FORK))[0]:
            spent = forks.spent()
            if spent == before or loop.time() >= until:
                _log.error("the forkserver does not fork: another one takes its place")
                forks.kill_server()
                break
            before = spent  # it is no more than slow: a new one imports, on a machine that is busy
        return await forking

    async def _death(self, process: BaseProcess, link: Link) -> int:
        """Wait until it has exited; returns its exit code, whichever process is its parent then."""
        reported = asyncio.create_task(_readable(process.sentinel))
        closed = asyncio.create_task(link.closed.wait())
        try:
            await asyncio.wait([reported, closed], return_when=asyncio.FIRST_COMPLETED)
            self._turn_away_soon()
            # It is dead, or will be: a process that cannot hear the supervisor exits, and one that
            # hung was killed. Then the forkserver may hang as well, and clients wait already.
            hung = self._verdict is Verdict.HUNG
            if not reported.done():
                await asyncio.wait([reported], timeout=_REPORT / 2 if hung else _REPORT)
            if not reported.done() and not hung:
                self.signal(signal.SIGKILL)
                await asyncio.wait([reported], timeout=_REPORT)
            if not reported.done():
                _log.error("the forkserver does not report a death: another one takes its place")
                forks.kill_server()
                await reported
            code = process.exitcode
            if code is not None and code != forks.UNKNOWN:
                return int(code)
            return await self._orphans_death(link)
        finally:
            reported.cancel()
            closed.cancel()

    async def _orphans_death(self, link: Link) -> int:
        """The forkserver is gone.

        The child lives on until its link closes, and this process reaps it.
        """
        assert self._pid is not None
        code = forks.orphans_exit_code(self._pid)
        if code is None:
            self._away.close()  # it lives, and serves its connections itself
            _log.warning("%s goes on without the forkserver that it came from", self.name)
        while code is None and not link.closed.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_UNLINKED):
                    await link.closed.wait()
            code = forks.orphans_exit_code(self._pid)
        self._turn_away_soon()
        looked = 0
        while code is None:
            await asyncio.sleep(_LOOK)
            looked += 1
            if looked * _LOOK > _UNLINKED:
                self.signal(signal.SIGKILL)
            code = forks.orphans_exit_code(self._pid)
        return code

    def _bury(self) -> None:
        last, self._snapshot = self._snapshot, None
        if isinstance(last, AnswerSnapshot):
            total = self._before if isinstance(self._before, AnswerSnapshot) else AnswerSnapshot()
            total.add(last)
            self._before = total
        elif isinstance(last, WatchSnapshot):
            state = self._before if isinstance(self._before, WatchSnapshot) else WatchSnapshot()
            state.add_counters(last)
            self._before = state
        elif isinstance(last, PeerSnapshot):
            sum_ = self._before if isinstance(self._before, PeerSnapshot) else PeerSnapshot()
            sum_.add(last)
            self._before = sum_

    # What it says

    def _told(self, news: Started | Ending) -> None:
        if isinstance(news, Ending):
            self._last_words = news.why
            return
        self.up = True
        self.begun.set()
        self._away.close()

    def _odd_message(self, error: Exception) -> None:
        if not self._odd:
            self._odd = True
            _log.error("%s says what is no message: %s", self.name, error)

    def ask(self, request: control.Request) -> asyncio.Future[Replied]:
        """Wait for its reply to a request. Raises Unanswered."""
        if self._link is None or not self.up:
            raise Unanswered(f"{self.name} does not run")
        return self._link.ask(request)

    async def refresh(self) -> None:
        """Fetch its counters; keep the last ones when it does not answer."""
        if self._asked is None or self._asked.done():
            try:
                self._asked = self.ask(control.Snapshot())
            except Unanswered:
                return
            self._asked.add_done_callback(self._refreshed)
        await asyncio.wait([self._asked], timeout=_PATIENCE)

    def _refreshed(self, asked: asyncio.Future[Replied]) -> None:
        if asked.cancelled() or asked.exception() is not None:
            return
        replied = asked.result()
        self._mark = replied.mark
        if replied.mark.steps:
            self.worked, self._trouble = True, ""
        if isinstance(replied.reply, AnswerSnapshot | WatchSnapshot | PeerSnapshot):
            self._snapshot = replied.reply

    def judge(self, now: float) -> None:
        """Judge its progress, once a round.

        Kill it when it has hung for too long, so that it is replaced.
        """
        if self._pid is None or self._stopping:
            return
        mark, self._mark = self._mark, None
        before = self._verdict
        held = self._liveness.silence > 0 and forks.held_by_disk(self._pid)
        self._verdict = self._liveness.round(now, mark, started=self.up, held=held)
        if self._verdict is Verdict.HUNG and before is not Verdict.HUNG:
            self._killed += 1
            _log.error(
                "%s has not got on for %.0f s: it is killed, and replaced", self.name, max(self._liveness.silence, 0)
            )
        if self._verdict is Verdict.HUNG:
            # SIGTERM does not reach a stopped process.
            self.signal(signal.SIGKILL)

    def reload(self) -> None:
        with contextlib.suppress(Unanswered):
            self.ask(control.Reload())

    # Its end

    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping

    def stop(self) -> None:
        self._stopping = True
        self._away.close()
        self.signal(signal.SIGTERM)

    def signal(self, number: int) -> None:
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)


async def _readable(descriptor: int) -> None:
    """Wait until there is something to read."""
    loop = asyncio.get_running_loop()
    found = loop.create_future()
    loop.add_reader(descriptor, _settle, found)
    try:
        await found
    finally:
        loop.remove_reader(descriptor)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _turn_away(listening: socket.socket) -> None:
    with contextlib.suppress(OSError):
        listening.accept()[0].close()


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"killed by signal {-code}"
