"""Plain DNS over UDP and TCP, for development and for `dig` without CoreDNS.

UDP replies respect the client's size (RFC 6891 section 6.2.3; 512 bytes without
EDNS, RFC 1035 section 4.2.1): a reply that does not fit is sent without records and with TC set,
and the client asks again over TCP (RFC 7766).
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final, cast

from headwater.answer.alias import Pending
from headwater.serve.queries import Failed, Queries
from headwater.wire.edns import MIN_UDP_SIZE, OPT_SIZE
from headwater.wire.header import COUNTS, HEADER_SIZE, QR, TC, flags_of, reply_head, servfail
from headwater.wire.question import Malformed, Question

#: The largest UDP reply, whatever the client's size: fragments get lost.
_MAX_UDP: Final = 4096
#: An idle TCP connection lives this long, in seconds (RFC 7766 section 6.2.3: "a few seconds").
_IDLE: Final = 10.0
_MAX_CONNECTIONS: Final = 256
#: Queries over UDP that wait for other servers. The reply to a further one has no records of them.
_MAX_WAITING: Final = 1000
#: Bytes of UDP replies that the kernel has not taken. Further replies are dropped, as on the way.
_MAX_UNSENT: Final = 1 << 20


def for_udp(query: bytes, reply: bytes) -> bytes:
    """The reply if the client takes it in a datagram, else question, OPT and TC."""
    if len(reply) <= MIN_UDP_SIZE:
        return reply
    try:
        asked = Question(query)
    except Malformed:
        return reply[:HEADER_SIZE]
    limit = MIN_UDP_SIZE if asked.edns is None else min(asked.edns.udp_size, _MAX_UDP)
    if len(reply) <= limit:
        return reply
    opt = reply[-OPT_SIZE:] if asked.edns is not None else b""
    counts = COUNTS.pack(0, 0, 1 if opt else 0)
    return reply_head(reply, flags_of(reply) | TC) + counts + reply[HEADER_SIZE : asked.end] + opt


def _answer(queries: Queries, query: bytes) -> bytes | Pending | None:
    try:
        return queries.answer(query)
    except Failed:
        return servfail(query)


async def _complete(queries: Queries, query: bytes, pending: Pending) -> bytes:
    try:
        return await queries.complete(pending)
    except Failed:
        return servfail(query)


def _finished(queries: Queries, query: bytes, pending: Pending) -> bytes:
    try:
        return queries.finished(pending)
    except Failed:
        return servfail(query)


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self._pending: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        if len(data) > 2 and flags_of(data[:4].ljust(4, b"\0")) & QR:
            return  # a reply: answering it could go back and forth for ever
        reply = _answer(self._queries, data)
        if isinstance(reply, Pending) and len(self._pending) >= _MAX_WAITING:
            reply = _finished(self._queries, data, reply)
        if isinstance(reply, Pending):
            task = asyncio.create_task(self._complete(data, reply, addr))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)
        elif reply is not None:
            self._send(for_udp(data, reply), addr)

    async def _complete(self, query: bytes, pending: Pending, addr: tuple[str | object, int]) -> None:
        reply = await _complete(self._queries, query, pending)
        if not self._transport.is_closing():
            self._send(for_udp(query, reply), addr)

    def _send(self, reply: bytes, addr: tuple[str | object, int]) -> None:
        # asyncio's own transports for datagrams have it, though the abstract class does not say so.
        if cast("asyncio.WriteTransport", self._transport).get_write_buffer_size() < _MAX_UNSENT:
            self._transport.sendto(reply, addr)


class DnsListener:
    """Both listeners of one answer process, on sockets that the supervisor has bound."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self._connections: set[asyncio.Task[None]] = set()
        self._udp: asyncio.BaseTransport | None = None
        self._tcp: asyncio.Server | None = None

    async def start(self, udp: socket.socket, tcp: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        udp.setblocking(False)
        self._udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(self._queries), sock=udp)
        self._tcp = await asyncio.start_server(self._serve, sock=tcp)

    async def stop(self) -> None:
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._connections.add(task)
        try:
            if len(self._connections) <= _MAX_CONNECTIONS:
                await self._answer_all(reader, writer)
        except TimeoutError:
            # Silent, or not reading: close() would wait for ever until the buffer is empty.
            writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went away, or we are stopping
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(_IDLE):
                size = int.from_bytes(await reader.readexactly(2), "big")
                query = await reader.readexactly(size)
            reply = _answer(self._queries, query)
            if reply is None:
                return
            if isinstance(reply, Pending):
                # Later queries on this connection wait meanwhile; it is for development.
                reply = await _complete(self._queries, query, reply)
            writer.write(len(reply).to_bytes(2, "big") + reply)
            async with asyncio.timeout(_IDLE):
                await writer.drain()
