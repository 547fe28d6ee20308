"""One child process: started, watched, restarted, and what it has counted over all its lives."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, Final

from headwater.process import control, counters
from headwater.process.counters import AnswerSnapshot, ProcessView, WatchSnapshot

_log = logging.getLogger(__name__)

#: Back-off between restarts of a process that does not stay up, in seconds.
_BACKOFF: Final = (0.02, 10.0)
#: Whoever connects meanwhile does not wait for a process that is started again later than this, in seconds.
_TOO_LONG: Final = 0.5
#: A process that lived this long, in seconds, is restarted at once.
_STABLE: Final = 5.0
#: How long a process may take to answer the supervisor, in seconds.
_PATIENCE: Final = 1.0
#: What a process dies of that read a damaged page.
_CRASHES: Final = frozenset({-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT})


@contextlib.contextmanager
def unseen_main() -> Iterator[None]:
    """Keep children from importing the program's main module: they need none of it."""
    main = sys.modules["__main__"]
    kept = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    try:
        main.__spec__ = None
        main.__dict__.pop("__file__", None)
        yield
    finally:
        for name, value in kept.items():
            setattr(main, name, value)


class Child:
    """One child: started, watched, restarted; what it has counted over all its lives."""

    def __init__(
        self,
        name: str,
        start: Callable[[Connection], Any],
        on_crash: Callable[[], None],
        listening: socket.socket | None = None,
    ) -> None:
        """`listening` is the socket that it serves, held open while it restarts."""
        self.name = name
        self.restarts = 0
        self.up = False
        self.exitcode: int | None = None
        self._start = start
        self._on_crash = on_crash
        self._listening = listening
        self._process: Any = None
        self._connection: Connection | None = None
        self._asked: asyncio.Future[bytes] | None = None
        self._snapshot: Any = None
        self._before: Any = None
        self._stopping = False

    def view(self) -> ProcessView:
        """What admin shows: state, and the counters of all lives together."""
        return ProcessView(self.name, self.up, self.restarts, self._snapshot, self._before)

    async def keep_running(self) -> None:
        """Start it, wait until it dies, start it again, until `stop`."""
        delay = 0.0
        while not self._stopping:
            began = time.monotonic()
            code = await self._live()
            self.up = False
            self._bury()
            if code == control.UNUSABLE:
                self.exitcode = code
                return
            if self._is_stopping():
                return
            if code in _CRASHES or code == control.STORE_DAMAGED:
                self._on_crash()
            lived = time.monotonic() - began
            delay = _BACKOFF[0] if lived > _STABLE or not delay else min(delay * 2, _BACKOFF[1])
            _log.warning("%s ended (%s); starting it again in %.2f s", self.name, _how(code), delay)
            with self._turning_away() if delay > _TOO_LONG else contextlib.nullcontext():
                await asyncio.sleep(delay)
            self.restarts += 1

    @contextlib.contextmanager
    def _turning_away(self) -> Iterator[None]:
        """Let go whoever connects: CoreDNS asks the next address then, where it would wait here until its deadline."""
        loop, listening = asyncio.get_running_loop(), self._listening
        if listening is None:
            yield
            return
        listening.setblocking(False)
        loop.add_reader(listening, _turn_away, listening)
        try:
            yield
        finally:
            loop.remove_reader(listening)

    async def _live(self) -> int:
        loop = asyncio.get_running_loop()
        ours, theirs = multiprocessing.Pipe()
        with unseen_main():
            self._process = await loop.run_in_executor(None, self._start, theirs)
        theirs.close()
        self._connection = ours
        ended = loop.create_future()
        sentinel = self._process.sentinel
        loop.add_reader(sentinel, _settle, ended)
        loop.add_reader(ours.fileno(), self._heard, loop, ours)
        if self._stopping:
            self.signal(signal.SIGTERM)
        try:
            await ended
        finally:
            loop.remove_reader(sentinel)
            loop.remove_reader(ours.fileno())
            ours.close()
            self._connection = None
            if self._asked is not None and not self._asked.done():
                self._asked.set_result(b"")  # it will not answer any more; the next one is asked anew
        self._process.join()
        return int(self._process.exitcode)

    def _heard(self, loop: asyncio.AbstractEventLoop, connection: Connection) -> None:
        try:
            message = connection.recv_bytes()
        except (EOFError, OSError):
            loop.remove_reader(connection.fileno())
            return
        if message == control.STARTED:
            self.up = True
        elif self._asked is not None and not self._asked.done():
            self._asked.set_result(message)

    def _bury(self) -> None:
        if self._snapshot is None:
            return
        if isinstance(self._snapshot, AnswerSnapshot):
            before = self._before or AnswerSnapshot()
            before.add(self._snapshot)
        else:
            before = self._before or WatchSnapshot()
            before.add_counters(self._snapshot)
        self._before, self._snapshot = before, None

    async def refresh(self) -> None:
        """Fetch what it has counted; keep the last when it does not answer."""
        connection = self._connection
        if connection is None or not self.up:
            return
        if self._asked is None or self._asked.done():
            self._asked = asyncio.get_running_loop().create_future()
            try:
                connection.send_bytes(control.SNAPSHOT)
            except OSError:
                return
        asked = self._asked
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                data = await asyncio.shield(asked)
                if self._connection is connection:
                    decode = counters.decode_watch if self.name == "watch" else counters.decode_answer
                    self._snapshot = decode(data)

    def _is_stopping(self) -> bool:
        return self._stopping

    def reload(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.send_bytes(control.RELOAD)

    def stop(self) -> None:
        self._stopping = True
        self.signal(signal.SIGTERM)

    def signal(self, number: int) -> None:
        if self._process is not None and self._process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


def _turn_away(listening: socket.socket) -> None:
    with contextlib.suppress(OSError):
        listening.accept()[0].close()


def _settle(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


def _how(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
