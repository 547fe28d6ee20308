"""The native transport: sockets and time around `http2` and `grpc`, on asyncio.

What is read at once is answered at once: one snapshot of the store, one write.
A peer that does not take what was written is not read from, and left after a
while. Calls that wait for another server end on their streams later.

What a query costs the process, in microseconds of CPU (2 cores, Linux 6.18, Python 3.11; `bench/transport`
measures it, and `bench/profile` each layer alone):

    frames in      1.4    `http2`: no block decoded, nothing copied but the body
    an answer      2.2    `queries` and the resolver, with the look-up and two looks at the clock
    frames out     0.8    one join for headers, message and trailers
    its share of a read   a read, its write, and asyncio's turn between them cost 30 to 40 together

With one query in flight a read brings one of them, with a hundred behind CoreDNS some twenty: 32 and 10 to 12 in sum.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from functools import partial
from typing import Final, cast

from headwater.serve.grpc import Calls, Route, Waiting, route
from headwater.serve.http2 import Connection
from headwater.serve.queries import Failed, Queries
from headwater.serve.service import Refused, Status, bug
from headwater.serve.tls import Certificates
from headwater.settings.error import SettingsError

_log = logging.getLogger(__name__)

#: Connections at a time. CoreDNS opens one to each address. Over TLS each costs asyncio half a MiB more at worst.
MAX_CONNECTIONS: Final = 100
MAX_TLS_CONNECTIONS: Final = 64
#: Bytes that are read at once: others' turn comes after that.
_READ_SIZE: Final = 64 * 1024
#: Bytes that may wait in a socket's buffer here before a peer is no longer read from.
_WRITE_LIMIT: Final = 64 * 1024
_BACKLOG: Final = 128
#: In seconds.
_TICK: Final = 1.0
_LONGEST: Final = 60.0
_TLS_LIMITS: Final = {"ssl_handshake_timeout": 10.0, "ssl_shutdown_timeout": 2.0}
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
        self.connection: Connection[Route] = Connection(route)
        self._waiting: dict[int, asyncio.Task[None]] = {}
        self._full = False  # the peer does not read
        self._stuck = 0  # for how many ticks, or the same for what is written last
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        encrypted = transport.get_extra_info("ssl_object")
        # RFC 9113 section 3.2: over TLS the protocol is agreed upon.
        if encrypted is not None and encrypted.selected_alpn_protocol() != "h2":
            self._transport.abort()
            return
        self._server.joined(self)
        self._transport.set_write_buffer_limits(_WRITE_LIMIT)
        self.pump()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        for task in self._waiting.values():
            task.cancel()
        self._server.left(self)

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
        if self._full:
            if connection.closed:
                transport.abort()
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
            async with asyncio.timeout(min(call.seconds, _LONGEST)):
                reply = await self._server.queries.complete(call.pending)
        except TimeoutError:
            self._calls.refuse(connection, call.stream, Refused(Status.DEADLINE_EXCEEDED, "the other server is slow"))
        except Failed:
            self._calls.refuse(connection, call.stream, bug())
        else:
            if connection.is_full:
                self._calls.refuse(connection, call.stream, Refused(Status.RESOURCE_EXHAUSTED, "too many replies wait"))
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


def _close_cancelled(connected: socket.socket, task: asyncio.Task[None]) -> None:
    if task.cancelled():
        connected.close()


class Server:
    """gRPC on one listening socket."""

    def __init__(self, queries: Queries, files: Certificates | None = None) -> None:
        """Raises SettingsError for TLS files that cannot be used."""
        self.queries = queries
        self.calls = Calls(queries)
        self.buffer = memoryview(bytearray(_READ_SIZE))
        """Everybody's: what is read is taken out of it before anybody else is."""
        self._files = files
        self._version = None if files is None else files.version()
        self._context = None if files is None else files.load()
        self._arriving: dict[_Peer, asyncio.Task[None]] = {}
        self._peers: set[_Peer] = set()
        self._ticks = 0
        self._stopping = False

    def start(self, listening: socket.socket) -> None:
        """Serve on a socket that is bound and listens."""
        self._loop = asyncio.get_running_loop()
        self._empty = asyncio.Event()
        self._listening = listening
        listening.setblocking(False)
        self._loop.add_reader(listening, self._accept)
        self._timer = self._loop.call_later(_TICK, self._tick)

    async def stop(self, grace: float) -> None:
        """Accept nobody, serve what was asked, and close; after `grace` seconds in any case.

        Who waits to be accepted goes on waiting, as long as somebody else holds the socket too.
        """
        self._stopping = True
        self._loop.remove_reader(self._listening)
        self._listening.close()
        for task in list(self._arriving.values()):
            task.cancel()
        self._empty.clear()
        for peer in list(self._peers):
            peer.drain()
        if self._peers:
            try:
                async with asyncio.timeout(grace):
                    await self._empty.wait()
            except TimeoutError:
                for peer in list(self._peers):
                    peer.abort()
        self._timer.cancel()

    def _accept(self) -> None:
        for _ in range(_BACKLOG):
            try:
                connected, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                # No descriptor is free: who wants to come in waits until the next tick.
                self._loop.remove_reader(self._listening)
                return
            if not self._has_room():
                connected.close()
                continue
            connected.setblocking(False)
            peer = _Peer(self)
            self._arriving[peer] = self._loop.create_task(self._arrive(peer, connected))
            # One that is cancelled before it has begun closes nothing.
            self._arriving[peer].add_done_callback(partial(_close_cancelled, connected))

    def _has_room(self) -> bool:
        """Whether one more can be let in; the one that has asked for nothing for longest may have to go."""
        limit = MAX_CONNECTIONS if self._context is None else MAX_TLS_CONNECTIONS
        if len(self._peers) + len(self._arriving) < limit:
            return True
        idlest = max(self._peers, key=lambda peer: peer.connection.idle, default=None)
        if idlest is None or not idlest.connection.idle:
            return False
        self._peers.discard(idlest)
        idlest.abort()
        return True

    async def _arrive(self, peer: _Peer, connected: socket.socket) -> None:
        limits = {} if self._context is None else _TLS_LIMITS
        try:
            await self._loop.connect_accepted_socket(lambda: peer, connected, ssl=self._context, **limits)
        except OSError:  # it went away, or does not speak TLS as we do
            connected.close()
        finally:
            self._arriving.pop(peer, None)

    def joined(self, peer: _Peer) -> None:
        self._arriving.pop(peer, None)
        self._peers.add(peer)

    def left(self, peer: _Peer) -> None:
        self._peers.discard(peer)
        if not self._peers:
            self._empty.set()

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_TICK, self._tick)
        for peer in list(self._peers):
            peer.tick()
        if self._stopping:
            return
        self._loop.add_reader(self._listening, self._accept)
        self._ticks += 1
        if self._files is not None and self._ticks % _LOOK == 0:
            self._look(self._files)

    def _look(self, files: Certificates) -> None:
        """Take new certificates for new connections; the old ones when the new cannot be used."""
        try:
            version = files.version()
            if version == self._version:
                return
            self._version = version
            self._context = files.load()
        except OSError as error:
            _log.debug("TLS: %s", error)  # being replaced: looked at again
        except SettingsError as error:
            _log.error("%s; the certificate before is used", error)
        else:
            _log.info("TLS: the certificate was read again")
