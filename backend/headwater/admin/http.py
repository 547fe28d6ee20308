"""HTTP for strangers: uvicorn's protocol with limits on connections, requests, bytes and time.

Uvicorn's own options do not suffice. `limit_concurrency` counts connections but
accepts any number; no option limits how long a request may take to arrive or a
reply to be read, nor the requests of a connection; its stop waits for every
client; and asyncio's way to accept logs a traceback for each place of the
backlog when descriptors run out.

A stream of events (`_Connection.hold`) has a place of another sort, of which there are few, and may
go on: who has it sees to it that its reader keeps up. For all others one rule covers time. The next
reply must be written within `_PATIENCE` after the connection's start, or after its last reply.
Otherwise the connection is closed, whether the client sends slowly, reads slowly or not at all, or
is silent.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from starlette.types import ASGIApp

from headwater.admin import package
from headwater.process.log import Seldom

_log = logging.getLogger(__name__)

#: The most connections, where descriptors allow it: a new one replaces the oldest.
CONNECTIONS: Final = 64
#: The most streams of events, where descriptors allow it.
STREAMS: Final = 100
#: Bytes that wait in this process for a stream's reader, and in the kernel.
_STREAM_BUFFER: Final = 32 << 10
#: The process's descriptors that this port leaves to others.
_OTHERS: Final = 56
#: Seconds for a request with its reply.
PATIENCE: Final = 5.0
#: Requests of a connection; then it is closed.
_REQUESTS: Final = 100
#: Bytes of a request's head.
HEAD: Final = 16 << 10
#: Seconds before the next try to accept when there are no descriptors.
_ACCEPT_PAUSE: Final = 1.0
#: Connections accepted in one turn of the loop.
_TURN: Final = 16
#: Seconds for requests under way at the stop.
_STOP: Final = 0.3
#: In the state of a request: when its last bytes arrived, by time.monotonic.
RECEIVED: Final = "received"
#: Log lines a minute of each sort that strangers can cause.
_LINES: Final = 5


class _Connection(package.H11Protocol):
    """One connection; it is in `places` while it is open, or in `streams`."""

    def __init__(
        self, places: dict[_Connection, None], streams: dict[_Connection, None], most: int, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.app_state = {"connection": self}  # a request's `state`
        self._places = places
        self._streams = streams
        self._most = most
        self._served = 0
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Whether a reply is under way."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._places[self] = None
        self._wait()

    def data_received(self, data: bytes) -> None:
        self.app_state[RECEIVED] = time.monotonic()
        super().data_received(data)

    def hold(self) -> bool:
        """Go on for as long as the reply does, in a place for streams; False without one."""
        if len(self._streams) >= self._most or self.transport.is_closing():
            return False
        self._places.pop(self, None)
        self._streams[self] = None
        if self._deadline is not None:
            self._deadline.cancel()
        self.transport.set_write_buffer_limits(_STREAM_BUFFER)
        if (end := self.transport.get_extra_info("socket")) is not None:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _STREAM_BUFFER)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._places.pop(self, None)
        self._streams.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
        # The base class stops the clock of keep-alive only for an orderly end.
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._served += 1
        if self._served >= _REQUESTS or self in self._streams:
            self.transport.close()
        elif not self.transport.get_write_buffer_size():
            self._wait()
        super().on_response_complete()

    def _wait(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(PATIENCE, self.abort)

    def abort(self) -> None:
        """Close it, also with bytes to send."""
        self._places.pop(self, None)
        self._streams.pop(self, None)
        self.transport.abort()


class Server:
    """An application on a socket that is bound already."""

    def __init__(self, application: ASGIApp, bound: socket.socket) -> None:
        config = package.Config(
            application,
            http=_Connection,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            # A header must not say who asks: /explain is for loopback.
            proxy_headers=False,
            timeout_keep_alive=int(PATIENCE),
            h11_max_incomplete_event_size=HEAD,
        )
        config.load()
        self._config = config
        self._server = package.Server(config)
        self._server.lifespan = config.lifespan_class(config)
        self._places: dict[_Connection, None] = {}
        """Open connections, the oldest first."""
        self._streams: dict[_Connection, None] = {}
        """Streams of events."""
        self._opening: set[asyncio.Task[None]] = set()
        self._bound = bound
        self._limit, self._most_streams = _places()
        self._loop = asyncio.get_running_loop()

    async def serve(self) -> None:
        """Serve until cancelled; then cut off requests under way soon."""
        for name in ("uvicorn.error", "asyncio", __name__):
            logging.getLogger(name).addFilter(Seldom(_LINES))
        self._bound.setblocking(False)
        self._loop.add_reader(self._bound, self._accept)
        try:
            await self._server.main_loop()  # for the date in replies
        finally:
            self._loop.remove_reader(self._bound)
            self._bound.close()
            await self._stop()

    def _accept(self) -> None:
        for _ in range(_TURN):
            try:
                connection, _ = self._bound.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                # The listener stays readable: without a pause the process would do nothing else.
                _log.warning("no connection can be accepted: %s", error.strerror)
                self._loop.remove_reader(self._bound)
                self._loop.call_later(_ACCEPT_PAUSE, self._accept_again)
                return
            full = len(self._places) + len(self._opening) >= self._limit
            if full and self._places:
                # A probe's reply is under way for milliseconds; a connection that only holds a
                # place goes first.
                idle = (place for place in self._places if not place.busy)
                next(idle, next(iter(self._places))).abort()
            task = self._loop.create_task(self._open(connection))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
            if full:
                return  # the descriptor of the one that goes is free in the loop's next turn

    def _accept_again(self) -> None:
        if self._bound.fileno() >= 0:
            self._loop.add_reader(self._bound, self._accept)

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()

    def _protocol(self) -> _Connection:
        return _Connection(
            self._places, self._streams, self._most_streams,
            config=self._config, server_state=self._server.server_state, app_state={},
        )  # fmt: skip

    async def _stop(self) -> None:
        state = self._server.server_state
        for task in self._opening:
            task.cancel()
        for stream in list(self._streams):
            stream.abort()
        for place in list(self._places):
            place.shutdown()
        await self._until(lambda: not state.connections and not state.tasks)
        for place in list(self._places):
            place.abort()
        await self._until(lambda: not state.tasks)

    async def _until(self, condition: Callable[[], bool]) -> None:
        deadline = self._loop.time() + _STOP
        while not condition() and self._loop.time() < deadline:
            await asyncio.sleep(0.02)


def _places() -> tuple[int, int]:
    """The most connections, and streams beside them: the rest of the descriptors is for the
    processes.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS, STREAMS
    places = max(4, min(CONNECTIONS, soft - _OTHERS))
    return places, max(0, min(STREAMS, soft - _OTHERS - places))
