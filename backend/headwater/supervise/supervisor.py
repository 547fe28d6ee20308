"""Processes, sockets, signals: `headwater serve` itself.

It binds, starts, restarts and stops. It does not read the cluster, and answers no query. Its
children come from the forkserver (`forks`); it does not fork itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

import setproctitle

from headwater.admin.recent import Recent
from headwater.cluster import source
from headwater.peers.credentials import Credentials
from headwater.process import control, early
from headwater.process.counters import AnswerSnapshot, Kind, ProcessView
from headwater.serve.assignment import Assignment
from headwater.serve.tls import Certificates
from headwater.settings.address import Address
from headwater.settings.settings import Settings
from headwater.store.identity import WITHDRAWN, Identity, condemn, discard, published
from headwater.supervise import claims, entry, forks, liveness
from headwater.supervise.child import Child
from headwater.supervise.descriptors import Reserve
from headwater.supervise.link import Unanswered

_log = logging.getLogger(__name__)

#: Seconds for the children to drain; then seconds for the killed ones to be gone.
_DRAIN: Final = 4.5
_GONE: Final = 0.5
#: Seconds that a first start waits for answer processes that could go on without a watch process.
_FIRST: Final = 5.0

#: Seconds that the admin port waits for children that do not begin.
_AT_WORK: Final = 1.0
#: Seconds for an answer process to explain a name: two tries fit into the admin port's patience.
_EXPLAIN: Final = 2.0


class Supervisor:
    """One instance: its lock, its sockets, its children.

    Raises claims.StartFailed or SettingsError.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._context = forks.begin()
        source.check(settings)
        self.identity = Identity(source.source_of(settings), settings.records_fingerprint())
        self._lock = claims.take_state_dir(Path(settings.state_dir))
        if files := Certificates.of(settings):
            files.load()  # their mistakes are reported before anything starts
        if settings.peer_listen or settings.seeds:
            Credentials.of(settings).check()
        self._zones: list[tuple[tuple[str, socket.socket], ...]] = [()] * settings.workers
        if settings.transport == "native":
            bound = claims.listen(self._addresses())
            self._listening: Sequence[socket.socket | None] = bound[: settings.workers]
            rest = iter(bound[settings.workers :])
            self._zones = [
                tuple((item.zone, next(rest)) for item in settings.zone_addresses(index))
                for index in range(settings.workers)
            ]
        else:
            claims.claim(settings.listen_addresses())
            self._listening = [None] * settings.workers
        self._dns = claims.bind_dns(settings.dns) if settings.dns else None
        self._admin = claims.bind(settings.admin, socket.SOCK_STREAM, "--admin") if settings.admin else None
        peers = settings.peer_listen
        self._peer_end = claims.bind(peers, socket.SOCK_STREAM, "--peer-listen") if peers else None
        self.recent = Recent()
        self._reserve = Reserve()
        self._watch = Child(
            Kind.WATCH,
            "watch",
            partial(self._fork, "watch", entry.watch, settings, self.identity),
            reserve=self._reserve,
            on_crash=self._writer_crashed,
            is_final=self._nothing_to_serve,
        )
        self._answers = [self._answer(index, listening) for index, listening in enumerate(self._listening)]
        self._peers = [self._peer(self._peer_end)] if self._peer_end else []

    @property
    def _children(self) -> list[Child]:
        return [self._watch, *self._answers, *self._peers]

    def _addresses(self) -> list[Address]:
        """Those of all answer processes, then those of topology zones."""
        settings = self.settings
        zones = (item.address for index in range(settings.workers) for item in settings.zone_addresses(index))
        return [*settings.listen_addresses(), *zones]

    def _sockets(self) -> list[socket.socket]:
        own = [listening for listening in (*self._listening, self._peer_end) if listening is not None]
        return own + [listening for zones in self._zones for _, listening in zones]

    # Children

    def _answer(self, index: int, listening: socket.socket | None) -> Child:
        zones = self._zones[index]
        assignment = Assignment(index, self.settings, self.identity, listening, self._dns, zones)
        name = f"answer {index}"
        return Child(
            Kind.ANSWER,
            name,
            partial(self._fork_answer, name, assignment),
            reserve=self._reserve,
            on_crash=self._crashed,
            listening=() if listening is None else (listening, *(other for _, other in zones)),
        )

    def _peer(self, listening: socket.socket) -> Child:
        assignment = Assignment(0, self.settings, self.identity, listening, None)
        return Child(
            Kind.PEER,
            "peer",
            partial(self._fork_peer, assignment),
            reserve=self._reserve,
            # Others would meet what it has met: another store is made, and this one served.
            on_crash=self._writer_crashed,
            listening=(listening,),
        )

    def _fork_peer(self, assignment: Assignment, end: socket.socket) -> BaseProcess:
        with assignment.held() as held:
            return self._fork("peer", entry.peer, held, end)

    def _fork_answer(self, name: str, assignment: Assignment, end: socket.socket) -> BaseProcess:
        # A stop closes the listening sockets, perhaps while this one is on its way to a child.
        with assignment.held() as held:
            return self._fork(name, entry.answer, held, end)

    def _fork(self, name: str, target: Callable[..., None], *arguments: Any) -> BaseProcess:
        return forks.start(self._context, target, arguments, f"headwater: {name}")

    def _writer_crashed(self) -> None:
        """The watch process met damage, or died of it (LMDB aborts a scan).

        The next one makes a new store.

        Until then answer processes serve the undamaged rest. If one dies of damage, `_crashed`
        follows.
        """
        folder = published(Path(self.settings.state_dir))
        if folder is not None and folder.name != WITHDRAWN and not folder.exists():
            _log.error("the stored state was removed: another is made, and who has it open serves it meanwhile")
            return
        if folder is not None and folder.exists():
            with contextlib.suppress(OSError):
                condemn(folder)
                _log.error("the stored state is damaged: another is made, and what can be read is served meanwhile")
                return
        self._crashed()

    def _crashed(self) -> None:
        """An answer process died reading, and the next one would too: take the store back.

        The watch process makes a new one.
        """
        try:
            discard(Path(self.settings.state_dir))
        except OSError as error:  # no inode is free, or the disk is read-only now
            _log.error("a process died reading the stored state, which cannot be discarded: %s", error)
            return
        _log.error("the stored state is discarded: a process died reading it")
        self._watch.signal(signal.SIGTERM)

    async def _nothing_to_serve(self) -> bool:
        """Whether settings or credentials that cannot be used end the instance (contracts 2 and 7).

        Only at its first start, and only if no answer process has a store to answer from.
        """
        if self._watch.worked:
            return False
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _FIRST
        while loop.time() < deadline and not self._watch.is_stopping():
            await self.refresh()
            views = [child.view() for child in self._answers]
            if any(isinstance(view.snapshot, AnswerSnapshot) and view.snapshot.ready for view in views):
                _log.error("the watch process cannot start; what the store holds is served, and it is tried again")
                return False
            if all(view.snapshot is not None for view in views):
                return True
            await asyncio.sleep(0.05)
        return True

    # Running

    async def run(self, while_starting: Callable[[Supervisor], Coroutine[Any, Any, None]] | None = None) -> int:
        """Serve until SIGTERM or SIGINT; the exit code. `while_starting` runs beside."""
        setproctitle.setproctitle("headwater: supervisor")
        loop = asyncio.get_running_loop()
        stopping, at_once = asyncio.Event(), asyncio.Event()

        def stop() -> None:
            (at_once if stopping.is_set() else stopping).set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        if early.asked():  # before this loop could listen
            stopping.set()
        lives = [] if stopping.is_set() else [asyncio.create_task(child.keep_running()) for child in self._children]
        others = [asyncio.create_task(self._rounds())]
        if self._admin is not None:
            others.append(asyncio.create_task(self._serve_admin(self._admin)))
        if while_starting is not None:
            others.append(asyncio.create_task(while_starting(self)))
        asked = asyncio.create_task(stopping.wait())
        await asyncio.wait([asked, *lives], return_when=asyncio.FIRST_COMPLETED)
        code = 0 if asked.done() else 2
        await self._stop(lives, at_once)
        for task in (asked, *others):
            task.cancel()
        await asyncio.gather(asked, *others, return_exceptions=True)
        # The exit would wait for a thread that waits for a hung forkserver.
        forks.end()
        return code

    async def _serve_admin(self, bound: socket.socket) -> None:
        """The admin port, once the children are at work: to import it takes long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_AT_WORK):
                for child in self._children:
                    await child.begun.wait()
        try:
            from headwater.admin import server as admin

            await admin.serve(bound, self)
        except Exception:  # noqa: BLE001 (whatever it is, the answers go on)
            _log.exception("the admin port is not served")

    async def _stop(self, lives: list[asyncio.Task[None]], at_once: asyncio.Event) -> None:
        # First, so that new connections are refused, and CoreDNS fails over instead of waiting.
        for listening in self._sockets():
            listening.close()
        for child in self._children:
            child.stop()
        hurry = asyncio.create_task(at_once.wait())
        drained = asyncio.gather(*lives, return_exceptions=True)
        waiting: list[asyncio.Future[Any]] = [hurry, drained]
        await asyncio.wait(waiting, timeout=_DRAIN, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not drained.done():
            for child in self._children:
                child.signal(signal.SIGKILL)
            forks.end()  # they may wait for it
            await asyncio.wait([drained], timeout=_GONE)
            drained.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else asks
            drained.cancel()
        for address in self._addresses():
            if address.path is not None:
                Path(address.path).unlink(missing_ok=True)

    def _reload(self) -> None:
        _log.info("SIGHUP: reading the sources again")
        self._watch.reload()

    async def _rounds(self) -> None:
        """Round by round: fetch counters, judge progress, reap the dead, keep spare descriptors."""
        loop = asyncio.get_running_loop()
        forks.adopt_orphans()
        while True:
            began = loop.time()
            await self.refresh()
            now = loop.time()
            for child in self._children:
                child.judge(now)
            self.recent.note(now, self.views())
            self._reserve.fill()
            if forks.reap([child.pid for child in self._children if child.pid is not None]):
                _log.warning("the forkserver is gone: started again")
                with self._reserve.lent(), contextlib.suppress(OSError):  # the next round tries again
                    await loop.run_in_executor(None, forks.ensure_running)
            await asyncio.sleep(max(0.0, began + liveness.ROUND - loop.time()))

    async def refresh(self) -> None:
        """Fetch every process's counters."""
        await asyncio.gather(*(child.refresh() for child in self._children))

    async def explain(self, asked: control.Explain) -> control.Explained | control.BadQuestion | control.Refused:
        """What an answer process says of a name: the first that says something."""
        reply = await self._asked(asked)
        assert isinstance(reply, control.Explained | control.BadQuestion | control.Refused)
        return reply

    async def complete(self, asked: control.Complete) -> control.Completed | control.BadQuestion | control.Refused:
        """The names that an answer process has: the first that says something."""
        reply = await self._asked(asked)
        assert isinstance(reply, control.Completed | control.BadQuestion | control.Refused)
        return reply

    async def advise(self, asked: control.Advise) -> control.Advised | control.BadQuestion | control.Refused:
        """A part of the advice, from an answer process: the first that gives any."""
        reply = await self._asked(asked)
        assert isinstance(reply, control.Advised | control.BadQuestion | control.Refused)
        return reply

    async def _asked(
        self, asked: control.Explain | control.Complete | control.History | control.Advise
    ) -> control.Reply:
        why = "no answer process runs"
        for child in self._answers:
            try:
                async with asyncio.timeout(_EXPLAIN):
                    reply = (await child.ask(asked)).reply
            except (Unanswered, TimeoutError) as error:
                why = f"{child.name} does not answer: {error or 'too slow'}"
                continue
            if isinstance(
                reply, control.Explained | control.Completed | control.Told | control.Advised | control.BadQuestion
            ):
                return reply
            if isinstance(reply, control.Refused):
                why = reply.why
        return control.Refused(why)

    async def history(self, asked: control.History) -> control.Told | control.BadQuestion | control.Refused:
        """What an answer process reads in the history: the first that reads something."""
        reply = await self._asked(asked)
        assert isinstance(reply, control.Told | control.BadQuestion | control.Refused)
        return reply

    def views(self) -> list[ProcessView]:
        """The views for admin: the watch process, the answer processes, and the peer process."""
        return [child.view() for child in self._children]
