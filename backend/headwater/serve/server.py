"""The native transport: sockets and time around `http2` and `grpc`, on asyncio.

What is read at once is answered at once: one snapshot of the store, one write.
A peer that does not take what was written is not read from, and left after a
while. Calls that wait for another server end on their streams later.

What a query costs here is in docs/performance.md; `bench/transport.py` measures it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from typing import Final, cast

from headwater.serve.grpc import Calls, Route, Waiting, route
from headwater.serve.http2 import Connection
from headwater.serve.queries import Queries
from headwater.serve.service import Refused, Status
from headwater.serve.tls import Files
from headwater.settings import SettingsError

_log = logging.getLogger(__name__)

#: Connections at a time. CoreDNS opens one to each address.
MAX_CONNECTIONS: Final = 100
#: Bytes that are read at once: others' turn comes after that.
_READ_SIZE: Final = 64 * 1024
#: Bytes that may wait in a socket's buffer here before a peer is no longer read from.
_WRITE_LIMIT: Final = 64 * 1024
_BACKLOG: Final = 128
#: In seconds.
_TICK: Final = 1.0
_TLS_HANDSHAKE: Final = 10.0
_TLS_SHUTDOWN: Final = 2.0
#: In ticks: for a peer to read what is written, and what is written last; between looks at the TLS files.
_PATIENCE: Final = 15
_LINGER: Final = 3
_LOOK: Final = 5


class _Peer(asyncio.BufferedProtocol):
    """One connection."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._buffer = server.buffer
        self._calls = server.calls
        self.connection: Connection[Route] = Connection(route, table_size=server.table_size)
        self._waiting: dict[int, asyncio.Task[None]] = {}
        self._full = False  # the peer does not read
        self._stuck = 0  # for how many ticks, or the same for what is written last
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        encrypted = transport.get_extra_info("ssl_object")
        # RFC 9113 section 3.2: over TLS the protocol is agreed upon.
        if (encrypted is not None and encrypted.selected_alpn_protocol() != "h2") or not self._server.admit(self):
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(_WRITE_LIMIT)
        self.pump()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        for task in self._waiting.values():
            task.cancel()
        self._server.leave(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        try:
            self.connection.receive(bytes(self._buffer[:nbytes]))
        except Exception as error:  # noqa: BLE001 (contract 5: a bug met by one peer is not the others')
            self._broken(error)
        else:
            self.pump()

    def pause_writing(self) -> None:
        self._full = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._full = False
        self._stuck = 0
        self._transport.resume_reading()
        self.pump()

    def pump(self) -> None:
        """Answer what was asked, write what there is to say, while there is room for it."""
        connection, transport = self.connection, self._transport
        if transport.is_closing():
            return
        try:
            while True:
                for call in self._calls.answer(connection):
                    task = asyncio.create_task(self._complete(call))
                    self._waiting[call.stream] = task
                while connection.cancelled:
                    cancelled = self._waiting.get(connection.cancelled.pop())
                    if cancelled is not None:
                        cancelled.cancel()
                out = connection.take()
                if out:
                    transport.write(out)
                if connection.closed:
                    transport.close()
                    return
                if self._full or not connection.has_requests:
                    return
        except Exception as error:  # noqa: BLE001 (as above)
            self._broken(error)

    async def _complete(self, call: Waiting) -> None:
        """A call that waits for another server."""
        connection = self.connection
        try:
            reply = await asyncio.wait_for(self._server.queries.complete(call.message, call.pending), call.seconds)
        except TimeoutError:
            self._calls.refuse(connection, call.stream, Refused(Status.DEADLINE_EXCEEDED, "the other server is slow"))
        except Exception as error:  # noqa: BLE001 (as above)
            self._server.queries.failed(error)
            self._calls.refuse(connection, call.stream, Refused(Status.INTERNAL, "a bug of the server"))
        else:
            self._calls.finish(connection, call.stream, reply)
        finally:
            del self._waiting[call.stream]
        self.pump()

    def tick(self) -> None:
        """A second has passed."""
        closing = self._transport.is_closing()
        if closing or self._full:
            self._stuck += 1
            if self._stuck >= (_LINGER if closing else _PATIENCE):
                self._transport.abort()
                return
        self.connection.tick()
        self.pump()

    def drain(self) -> None:
        """Serve what was asked, then close."""
        self.connection.drain()
        self.pump()

    def abort(self) -> None:
        self._transport.abort()

    def _broken(self, error: Exception) -> None:
        self._server.queries.failed(error)
        self._transport.abort()


class Server:
    """gRPC on one listening socket."""

    def __init__(self, queries: Queries, files: Files | None = None, *, table_size: int = 0) -> None:
        """`table_size`: of header compression; see `http2`."""
        self.queries = queries
        self.calls = Calls(queries)
        self.table_size = table_size
        self.buffer = memoryview(bytearray(_READ_SIZE))
        """Everybody's: what is read is taken out of it before anybody else is."""
        self._files = files
        self._version = None if files is None else files.version()
        self._peers: set[_Peer] = set()
        self._gone = asyncio.Event()
        self._listening: socket.socket
        self._server: asyncio.Server
        self._timer: asyncio.TimerHandle
        self._ticks = 0
        self._renewal: asyncio.Task[None] | None = None

    async def start(self, listening: socket.socket) -> None:
        """Serve on a socket that is bound and listens; it stays the caller's. Raises SettingsError."""
        self._listening = listening
        self._server = await self._accept(None if self._files is None else self._files.load())
        self._timer = asyncio.get_running_loop().call_later(_TICK, self._tick)

    async def _accept(self, context: ssl.SSLContext | None) -> asyncio.Server:
        # A copy of the descriptor: closing the server leaves the address bound, and who waits there waiting.
        return await asyncio.get_running_loop().create_server(
            lambda: _Peer(self),
            sock=self._listening.dup(),
            backlog=_BACKLOG,
            ssl=context,
            ssl_handshake_timeout=None if context is None else _TLS_HANDSHAKE,
            ssl_shutdown_timeout=None if context is None else _TLS_SHUTDOWN,
        )

    async def stop(self, grace: float) -> None:
        """Accept nobody, serve what was asked, and close; after `grace` seconds in any case."""
        self._server.close()
        if self._renewal is not None:
            self._renewal.cancel()
        self._gone.clear()
        for peer in list(self._peers):
            peer.drain()
        if self._peers:
            try:
                async with asyncio.timeout(grace):
                    await self._gone.wait()
            except TimeoutError:
                for peer in list(self._peers):
                    peer.abort()
        self._timer.cancel()

    def admit(self, peer: _Peer) -> bool:
        """Take a connection in. Where there are too many, the one that has asked for nothing for longest goes."""
        if len(self._peers) >= MAX_CONNECTIONS:
            idlest = max(self._peers, key=lambda other: other.connection.idle)
            if not idlest.connection.idle:
                return False
            idlest.abort()
            self._peers.discard(idlest)
        self._peers.add(peer)
        return True

    def leave(self, peer: _Peer) -> None:
        self._peers.discard(peer)
        if not self._peers:
            self._gone.set()

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_TICK, self._tick)
        for peer in list(self._peers):
            peer.tick()
        self._ticks += 1
        if self._files is not None and self._ticks % _LOOK == 0:
            self._look(self._files)

    def _look(self, files: Files) -> None:
        """Take new certificates for new connections; the old ones when the new cannot be used."""
        try:
            version = files.version()
            if version == self._version:
                return
            context = files.load()
        except OSError as error:
            _log.debug("TLS: %s", error)  # being replaced: looked at again
        except SettingsError as error:
            self._version = version
            _log.error("%s; the certificate before is used", error)
        else:
            self._version = version
            self._renewal = asyncio.get_running_loop().create_task(self._renew(context))

    async def _renew(self, context: ssl.SSLContext) -> None:
        before, self._server = self._server, await self._accept(context)
        before.close()
        _log.info("TLS: the certificate was read again")
