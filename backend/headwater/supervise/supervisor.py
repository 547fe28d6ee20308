"""Processes, sockets, signals: `headwater serve` itself.

It binds, starts, restarts and stops; it never reads the cluster and answers no
query. Its children come from the forkserver (`forks`); it is never forked itself.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import setproctitle

from headwater.cluster import source
from headwater.process.counters import ProcessView
from headwater.serve.tls import Certificates
from headwater.settings.settings import Settings
from headwater.store.identity import Identity, discard
from headwater.supervise import claims, entry, forks
from headwater.supervise.child import Child

_log = logging.getLogger(__name__)

#: How long the children may take to drain; then they are killed.
_DRAIN: Final = 5.0
#: How often counters are fetched, in seconds, so that a killed process takes little with it.
_POLL: Final = 1.0


class Supervisor:
    """One instance: its lock, its sockets, its entry. Raises claims.StartFailed or SettingsError."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._context = forks.begin()
        source.check(settings)
        self.identity = Identity(source.source_of(settings), settings.records_fingerprint())
        self._lock = claims.take_state_dir(Path(settings.state_dir))
        if files := Certificates.of(settings):
            files.load()  # what is wrong with them is said before anything starts
        if settings.transport == "native":
            self._listening: Sequence[socket.socket | None] = claims.listen(settings.listen_addresses())
        else:
            claims.claim(settings.listen_addresses())
            self._listening = [None] * settings.workers
        self._dns = claims.bind_dns(settings.dns) if settings.dns else None
        self._admin = claims.bind(settings.admin, socket.SOCK_STREAM, "--admin") if settings.admin else None
        self.roles = [Child("watch", self._start_watch, self._crashed)]
        for index, listening in enumerate(self._listening):
            start = partial(self._start_answer, index, listening)
            self.roles.append(Child(f"answer {index}", start, self._crashed, listening))

    # Children

    def _start_watch(self, pipe: Connection) -> Any:
        return self._spawn("headwater: watch", entry.watch, (self.settings, self.identity, pipe))

    def _start_answer(self, index: int, listening: socket.socket | None, pipe: Connection) -> Any:
        arguments = (index, self.settings, self.identity, pipe, listening, self._dns)
        return self._spawn(f"headwater: answer {index}", entry.answer, arguments)

    def _spawn(self, name: str, target: Callable[..., None], arguments: tuple[Any, ...]) -> Any:
        process = self._context.Process(target=target, args=arguments, name=name, daemon=False)
        process.start()
        return process

    def _crashed(self) -> None:
        """A process died of what a damaged store does: take the store back, the watch makes a new one."""
        _log.error("the stored state is discarded: a process died reading it")
        discard(Path(self.settings.state_dir))
        self.roles[0].signal(signal.SIGTERM)

    # Running

    async def run(self, while_starting: Callable[[Supervisor], Any] | None = None) -> int:
        """Serve until SIGTERM or SIGINT; the exit code. `while_starting` runs beside, as a coroutine."""
        setproctitle.setproctitle("headwater: supervisor")
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        lives = [asyncio.create_task(role.keep_running()) for role in self.roles]
        others = [asyncio.create_task(self._poll())]
        if self._admin is not None:
            # Imported only now: the first answer does not wait for the admin page.
            from headwater.admin import server as admin

            others.append(asyncio.create_task(admin.serve(self._admin, self)))
        if while_starting is not None:
            others.append(asyncio.create_task(while_starting(self)))
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait([stop, *lives], return_when=asyncio.FIRST_COMPLETED)
        code = 0 if stop.done() else 2
        await self._stop(lives)
        for task in (stop, *others):
            task.cancel()
        await asyncio.gather(stop, *others, return_exceptions=True)
        return code

    async def _stop(self, lives: list[asyncio.Task[None]]) -> None:
        # First, so that whoever comes now is refused, and asks elsewhere, instead of waiting.
        for listening in self._listening:
            if listening is not None:
                listening.close()
        for role in self.roles:
            role.stop()
        _, left = await asyncio.wait(lives, timeout=_DRAIN)
        if left:
            for role in self.roles:
                role.signal(signal.SIGKILL)
            await asyncio.wait(left, timeout=1.0)
        for address in self.settings.listen_addresses():
            if address.path is not None:
                Path(address.path).unlink(missing_ok=True)

    def _reload(self) -> None:
        _log.info("SIGHUP: reading the sources again")
        self.roles[0].reload()

    async def _poll(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(_POLL)

    async def refresh(self) -> None:
        """Fetch every process's counters."""
        await asyncio.gather(*(role.refresh() for role in self.roles))

    def views(self) -> list[ProcessView]:
        """What admin shows: the watch process first, then the answer processes."""
        return [role.view() for role in self.roles]
