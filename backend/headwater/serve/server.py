"""The native transport: sockets and time around `http2` and `grpc`, on asyncio.

All calls of one read are answered from one snapshot of the store, in one write. When a peer does
not read, the server stops reading from it, and closes after a while. Calls that wait for another
server end on their streams later.

The cost of a query for the process, in microseconds of CPU (2 cores, Linux 6.18, Python 3.11;
`bench/transport` measures it, and `bench/profile` each layer alone):

    frames in      1.4    `http2`: no block decoded, nothing copied but the body
    an answer      2.2    `queries` and the resolver, with the look-up and two looks at the clock
    frames out     0.8    one join for headers, message and trailers
    its share of a read   a read, its write, and asyncio's turn between them cost 30 to 40 together

With one query in flight a read brings one of them, with a hundred behind CoreDNS some twenty: 32
and 10 to 12 in sum.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any, Final, cast

from headwater.serve.arrivals import MAX_BEGINNING, MAX_SILENT, MAX_TLS_BEGINNING, PATIENCE, TENURE, Arrival, Places
from headwater.serve.grpc import Calls, Route, Waiting, route
from headwater.serve.http2 import Connection
from headwater.serve.queries import Failed, Queries
from headwater.serve.service import Refused, Status, bug
from headwater.serve.tls import Certificates
from headwater.settings.error import SettingsError

_log = logging.getLogger(__name__)

#: Established connections at a time. CoreDNS opens one to each address. Over TLS each costs asyncio
#: up to half a MiB more.
MAX_CONNECTIONS: Final = 100
MAX_TLS_CONNECTIONS: Final = 64
#: Bytes of one read; then other connections have their turn.
_READ_SIZE: Final = 64 * 1024
#: Bytes that may wait in a socket's buffer before the server stops reading from its peer.
_WRITE_LIMIT: Final = 64 * 1024
#: Connections that the kernel keeps until `accept`: more than a flood can bring between two turns.
_BACKLOG: Final = 1024
#: asyncio makes a cycle of objects with 0.3 MiB in it for a handshake. The collector would come
#: after some 800 of them: as much memory as a container may have.
_COLLECTED_AFTER: Final = 64
#: Connections to accept, and handshakes to begin, before others have their turn.
_ACCEPTED_AT_ONCE: Final = 32
_BEGUN_AT_ONCE: Final = 4
#: Calls of one connection, which has 512 streams, that may wait for a name to come.
_MAX_PATIENT: Final = 256
#: In seconds.
_TICK: Final = 1.0
_LONGEST: Final = 60.0
_TLS_LIMITS: Final = {"ssl_handshake_timeout": 10.0, "ssl_shutdown_timeout": 2.0}
#: In ticks: for a peer to read our bytes, and our last bytes; between looks at the TLS files;
#: between two lines about descriptors.
_PATIENCE: Final = 15
_LINGER: Final = 3
_LOOK: Final = 5
_QUIET: Final = 60


class Peer(asyncio.BufferedProtocol):
    """One connection that has sent bytes, or is shaking hands."""

    def __init__(self, server: Server, arrival: Arrival) -> None:
        self._server = server
        self._arrival: Arrival | None = arrival  # None once it is established
        self.host = arrival.host
        self._buffer = server.buffer
        self._calls = arrival.calls
        self.connection: Connection[Route] = Connection(route)
        self._waiting: dict[int, asyncio.Task[None]] = {}
        self._full = False  # the peer does not read
        self._stuck = 0  # for how many ticks, also for the last bytes
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        encrypted = transport.get_extra_info("ssl_object")
        # RFC 9113 section 3.2: over TLS the protocol is agreed upon.
        if encrypted is not None and encrypted.selected_alpn_protocol() != "h2":
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(_WRITE_LIMIT)
        # A client with a verified certificate is no stranger.
        if not self._server.authenticates or self._establish():
            self.pump()

    def _establish(self) -> bool:
        """Take a place among the established connections; False when there is none."""
        arrival, self._arrival = self._arrival, None
        assert arrival is not None
        if self._server.established(self, arrival):
            return True
        self._transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        for task in self._waiting.values():
            task.cancel()
        self._server.left(self, self._arrival)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        try:
            self.connection.receive(bytes(self._buffer[:nbytes]))
        except Exception as error:  # noqa: BLE001 (contract 5: a bug met by one peer is not the others')
            self._broken(error)
            return
        if self._arrival is None or not self.connection.settled or self._establish():
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
        """Answer the requests and write the replies, while there is room for them."""
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
                    if call.pending.patience and len(self._waiting) >= _MAX_PATIENT:
                        self._calls.finish(connection, call.stream, self._server.queries.finished(call.pending))
                        continue
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
                reply = await self._server.queries.complete(call.pending, call.seconds)
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
        """Serve the requests, then close."""
        self.connection.drain()
        self.pump()

    def abort(self) -> None:
        self._transport.abort()

    def _broken(self, error: Exception) -> None:
        self._server.queries.failed(error)
        self._transport.abort()


class Server:
    """gRPC on the listening sockets of an answer process. All of them share its places."""

    def __init__(self, queries: Queries, files: Certificates | None = None) -> None:
        """Raises SettingsError for TLS files that cannot be used."""
        self.queries = queries
        self.calls = Calls(queries)
        self.buffer = memoryview(bytearray(_READ_SIZE))
        """Shared by all connections: it is emptied before the next one is read."""
        self._files = files
        self._version = None if files is None else files.version()
        self._context = None if files is None else files.load()
        self.authenticates = files is not None and files.client_ca is not None
        """Whether a handshake proves who the client is."""
        self._silent = Places(MAX_SILENT)
        self._spoken = Places(MAX_SILENT)  # of the silent ones: those that have sent bytes
        self._broken_off = 0  # arrivals that came to nothing
        self._beginning = Places(MAX_BEGINNING if files is None else MAX_TLS_BEGINNING)
        self._next: asyncio.Handle | None = None
        """The next turn of connections that have sent bytes."""
        self._peers: set[Peer] = set()
        """Established connections."""
        self._ticks = 0
        self._complained = -_QUIET
        self._stopping = False

    def start(self, listening: socket.socket, zones: Iterable[tuple[str, socket.socket]] = ()) -> None:
        """Serve on a socket that is bound and listens, and on those of topology zones."""
        self._loop = asyncio.get_running_loop()
        self._empty = asyncio.Event()
        self._listening = {listening: self.calls}
        self._listening |= {other: Calls(self.queries, self.queries.at(zone)) for zone, other in zones}
        for one, calls in self._listening.items():
            one.setblocking(False)
            one.listen(_BACKLOG)
            self._loop.add_reader(one, self._accept, one, calls)
        self._timer = self._loop.call_later(_TICK, self._tick)

    async def stop(self, grace: float) -> None:
        """Stop accepting, serve the requests, and close; after `grace` seconds in any case.

        Connections in the backlog go on waiting as long as another process holds the socket.
        """
        self._stopping = True
        for listening in self._listening:
            self._loop.remove_reader(listening)
            listening.close()
        for arrival in (*self._silent, *self._beginning):
            self._turn_away(arrival)
        if self._next is not None:
            self._next.cancel()
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

    # Arrivals: silent until the first byte, then beginning, then established

    def _accept(self, listening: socket.socket, calls: Calls) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connected, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._cannot_accept(error)
                return
            connected.setblocking(False)
            arrival = Arrival(connected, address, self._ticks, calls)
            self._turn_away(self._silent.take(arrival))
            if self._context is None:
                self._queue(arrival)  # it costs little, and HTTP/2 servers speak first
            else:
                self._loop.add_reader(connected, self._speaks, arrival)

    def _cannot_accept(self, error: OSError) -> None:
        """No descriptor is free: an arrival gives up its own.

        Without one, newcomers wait for a tick.
        """
        if self._ticks - self._complained >= _QUIET:
            self._complained = self._ticks
            _log.warning("no further connection can be accepted now: %s", error.strerror)
        arrival = self._silent.make_room() or self._beginning.make_room()
        if arrival is None:
            for listening in self._listening:
                self._loop.remove_reader(listening)
        self._turn_away(arrival)

    def _speaks(self, arrival: Arrival) -> None:
        """Its first bytes have come: it gets its turn."""
        self._loop.remove_reader(arrival.connected)
        self._queue(arrival)

    def _queue(self, arrival: Arrival) -> None:
        self._spoken.take(arrival)
        if self._next is None:
            self._next = self._loop.call_soon(self._begin_some)

    def _begin_some(self) -> None:
        """Begin with a few: a handshake costs a millisecond, and other calls wait meanwhile."""
        self._next = None
        now = self._loop.time()
        for _ in range(min(_BEGUN_AT_ONCE, len(self._spoken))):
            leaving = self._beginning.leaving()
            if leaving is not None and now < leaving.begun + TENURE:
                self._next = self._loop.call_at(leaving.begun + TENURE, self._begin_some)
                return
            arrival = self._spoken.next()
            self._silent.leave(arrival)
            arrival.begun = now
            arrival.peer = Peer(self, arrival)
            arrival.task = self._loop.create_task(self._begin(arrival.peer, arrival.connected))
            arrival.task.add_done_callback(partial(self._begun, arrival))
            self._turn_away(self._beginning.take(arrival))
        if self._spoken:
            self._next = self._loop.call_soon(self._begin_some)

    async def _begin(self, peer: Peer, connected: socket.socket) -> None:
        """Returns when the handshake is complete; without TLS, at once. Raises OSError."""
        limits: dict[str, Any] = {} if self._context is None else _TLS_LIMITS
        await self._loop.connect_accepted_socket(lambda: peer, connected, ssl=self._context, **limits)

    def _begun(self, arrival: Arrival, done: asyncio.Task[None]) -> None:
        if done.cancelled():
            why: BaseException | None = asyncio.CancelledError()
        else:
            why = done.exception()
        if why is None:
            return
        # It went away, was turned away, or does not speak TLS as we do.
        self._beginning.leave(arrival)
        arrival.connected.close()
        self._broken_off += 1
        if self._context is not None and self._broken_off % _COLLECTED_AFTER == 0:
            gc.collect()
        if isinstance(why, Exception) and not isinstance(why, OSError):
            self.queries.failed(why)

    def _turn_away(self, arrival: Arrival | None) -> None:
        """Close an arrival's connection."""
        if arrival is None:
            return
        for places in (self._silent, self._spoken, self._beginning):
            places.leave(arrival)
        if arrival.task is None:
            self._loop.remove_reader(arrival.connected)
            arrival.connected.close()
        elif arrival.peer is not None and arrival.has_begun:
            arrival.peer.abort()
        else:
            arrival.task.cancel()

    def established(self, peer: Peer, arrival: Arrival) -> bool:
        """Establish an arrival; returns whether there is a place for it."""
        self._beginning.leave(arrival)
        if self._stopping or not self._has_room(peer.host):
            return False
        self._peers.add(peer)
        return True

    def _has_room(self, host: str) -> bool:
        """Whether one more of that host can stay; another may have to go.

        That is the connection of the host with the most that has been idle for longest. One at work
        goes only if the newcomer's host has fewer.
        """
        if len(self._peers) < (MAX_CONNECTIONS if self._context is None else MAX_TLS_CONNECTIONS):
            return True
        counts = Counter([host, *(peer.host for peer in self._peers)])
        most = max(counts.values())
        candidates = [peer for peer in self._peers if counts[peer.host] == most]
        victim = max(candidates, key=lambda peer: peer.connection.idle, default=None)
        if victim is None or (not victim.connection.idle and counts[host] == most):
            return False
        self._peers.discard(victim)
        victim.abort()
        return True

    def left(self, peer: Peer, arrival: Arrival | None) -> None:
        """It was closed; `arrival` if it was not established."""
        if arrival is not None:
            self._beginning.leave(arrival)
        self._peers.discard(peer)
        if not self._peers:
            self._empty.set()

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_TICK, self._tick)
        self._ticks += 1
        for peer in list(self._peers):
            peer.tick()
        for arrival in (*self._silent, *self._beginning):
            if arrival.peer is not None and arrival.has_begun:
                arrival.peer.tick()
            if self._ticks - arrival.born >= PATIENCE:
                self._turn_away(arrival)
        if self._stopping:
            return
        for listening, calls in self._listening.items():
            self._loop.add_reader(listening, self._accept, listening, calls)
        if self._files is not None and self._ticks % _LOOK == 0:
            self._look(self._files)

    def _look(self, files: Certificates) -> None:
        """Take new certificates for new connections; keep the old when the new cannot be used."""
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
