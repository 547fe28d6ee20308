"""Another DNS server, asked gently: at a rate, a bounded number at a time, over UDP or TCP.

A reply over UDP must come from the server's address, with the id and the question of a query that
is under way. Other datagrams are counted and left. A truncated reply is asked for again over TCP.
Nothing that a server sends, or does not, raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, cast

from headwater.compare.messages import Query, accepted, readable
from headwater.settings.address import Address
from headwater.wire.header import HEADER_SIZE, TC, flags_of

#: How often a question is sent before it counts as unanswered.
TRIES: Final = 3
#: Messages over TCP that are no reply to the question, before the connection is given up.
_STRANGE: Final = 4
#: CoreDNS closes a connection after 128 queries (the `dns` library), and after 10 s of silence.
_MOST_ON_A_CONNECTION: Final = 100


class Answer(NamedTuple):
    """What came of one question."""

    message: bytes | None
    """A reply for which `accepted` holds; None for none."""
    why: str
    """Without one: why, in few words."""
    at: float
    """When (`time.monotonic`)."""


class Server(Protocol):
    """Whoever answers questions."""

    async def ask(self, query: Query) -> Answer:
        """The answer; raises nothing but CancelledError."""

    async def close(self) -> None:
        """Let go of sockets and files."""


class Pace:
    """At most so many a second, evenly."""

    def __init__(self, rate: float) -> None:
        self._interval = 1 / rate
        self._next = 0.0

    async def wait(self) -> None:
        """Return when it is this one's turn."""
        now = time.monotonic()
        self._next = max(now, self._next + self._interval)
        if self._next > now:
            await asyncio.sleep(self._next - now)


@dataclass(frozen=True)
class Manners:
    """How a server is asked."""

    rate: float = 200.0
    """Messages a second, whatever they are sent for."""
    in_flight: int = 32
    """Questions under way at a time."""
    timeout: float = 2.0
    """Seconds for one try."""
    tcp: bool = False


class DnsServer:
    """A DNS server at an address; belongs to one event loop."""

    def __init__(self, address: Address, manners: Manners) -> None:
        self._address = address
        self._manners = manners
        self._pace = Pace(manners.rate)
        self._places = asyncio.Semaphore(manners.in_flight)
        self._udp: _Udp | None = None
        self._idle: list[_Connection] = []
        self.counts: Counter[str] = Counter()
        """sent, udp_timeouts, over_tcp_after_tc, strays (datagrams and messages that answer
        nothing).
        """

    async def ask(self, query: Query) -> Answer:
        async with self._places:
            why = "no reply"
            for _ in range(TRIES):
                message, why = await self._once(query)
                if message is not None:
                    return Answer(message, "", time.monotonic())
            return Answer(None, why, time.monotonic())

    async def _once(self, query: Query) -> tuple[bytes | None, str]:
        if self._manners.tcp or query.way.tcp:
            return await self._over_tcp(query)
        message, why = await self._over_udp(query)
        if message is None or not flags_of(message) & TC:
            return message, why
        self.counts["over_tcp_after_tc"] += 1
        return await self._over_tcp(query)

    # UDP

    async def _over_udp(self, query: Query) -> tuple[bytes | None, str]:
        await self._pace.wait()
        try:
            udp = await self._socket()
            number, reply = udp.send(query)
        except OSError as error:
            await asyncio.sleep(min(0.1, self._manners.timeout))
            return None, error.strerror or str(error)
        self.counts["sent"] += 1
        try:
            async with asyncio.timeout(self._manners.timeout):
                return await reply, ""
        except TimeoutError:
            self.counts["udp_timeouts"] += 1
            return None, f"no reply within {self._manners.timeout:g} s" + udp.strange(number)
        except OSError as error:
            return None, error.strerror or str(error)
        finally:
            udp.forget(number)

    async def _socket(self) -> _Udp:
        if self._udp is None or self._udp.lost:
            loop = asyncio.get_running_loop()
            remote = (self._address.host, self._address.port)
            _, self._udp = await loop.create_datagram_endpoint(lambda: _Udp(self.counts), remote_addr=remote)
        return self._udp

    # TCP

    async def _over_tcp(self, query: Query) -> tuple[bytes | None, str]:
        await self._pace.wait()
        self.counts["sent"] += 1
        connection = self._idle.pop() if self._idle else None
        if connection is not None:
            message, why = await self._exchange(connection, query)
            if message is not None or not connection.closed_before_a_reply:
                return message, why
            # The server had closed it meanwhile, as it may (RFC 7766 section 6.2.3).
        try:
            async with asyncio.timeout(self._manners.timeout):
                connection = await _Connection.open(self._address)
        except TimeoutError:
            return None, f"no connection within {self._manners.timeout:g} s"
        except OSError as error:
            await asyncio.sleep(min(0.1, self._manners.timeout))
            return None, error.strerror or str(error)
        return await self._exchange(connection, query)

    async def _exchange(self, connection: _Connection, query: Query) -> tuple[bytes | None, str]:
        try:
            async with asyncio.timeout(self._manners.timeout):
                message = await connection.exchange(query, self.counts)
        except TimeoutError:
            connection.close()
            return None, f"no reply over TCP within {self._manners.timeout:g} s"
        except (OSError, asyncio.IncompleteReadError):
            connection.close()
            return None, "the connection was closed"
        except BaseException:
            connection.close()
            raise
        if message is None:
            connection.close()
            return None, "messages over TCP that answer nothing"
        if connection.asked < _MOST_ON_A_CONNECTION:
            self._idle.append(connection)
        else:
            connection.close()
        return message, ""

    async def close(self) -> None:
        if self._udp is not None:
            self._udp.close()
        for connection in self._idle:
            connection.close()


class _Udp(asyncio.DatagramProtocol):
    """One connected socket: the kernel passes on only what comes from the server's address."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._waiting: dict[int, tuple[Query, asyncio.Future[bytes]]] = {}
        self._strange: dict[int, str] = {}
        self._transport: asyncio.DatagramTransport | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        self.lost = True
        self._fail(ConnectionError("the socket was closed"))

    def error_received(self, exc: Exception) -> None:
        """ICMP says that nobody listens: nothing that is under way will be answered."""
        self._fail(exc if isinstance(exc, OSError) else OSError(str(exc)))

    def _fail(self, error: OSError) -> None:
        for _, future in self._waiting.values():
            if not future.done():
                future.set_exception(error)

    def send(self, query: Query) -> tuple[int, asyncio.Future[bytes]]:
        """Send it under an id of its own; the id, and the reply to come. Raises OSError."""
        assert self._transport is not None
        number = secrets.randbelow(1 << 16)
        while number in self._waiting:
            number = secrets.randbelow(1 << 16)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = query, future
        self._transport.sendto(query.wire(number))
        return number, future

    def forget(self, number: int) -> None:
        """Not to be waited for any more."""
        self._strange.pop(number, None)
        found = self._waiting.pop(number, None)
        if found is not None and found[1].done() and not found[1].cancelled():
            found[1].exception()  # seen: nobody has to be told

    def strange(self, number: int) -> str:
        """What came under that id instead of a reply."""
        return self._strange.get(number, "")

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:  # noqa: ARG002
        number = int.from_bytes(data[:2], "big")
        found = self._waiting.get(number) if len(data) >= HEADER_SIZE else None
        if found is None or found[1].done():
            self._counts["strays"] += 1
            return
        query, future = found
        if not accepted(query, data):
            self._counts["strays"] += 1
            self._strange[number] = ", only what answers another question"
        elif readable(data) is None:
            # A reply may follow that can be read; a forged one must not be in its way.
            self._counts["strays"] += 1
            self._strange[number] = ", only what cannot be read"
        else:
            future.set_result(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class _Connection:
    """One TCP connection, one question at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.asked = 0
        self.closed_before_a_reply = False

    @classmethod
    async def open(cls, address: Address) -> _Connection:
        return cls(*await asyncio.open_connection(address.host, address.port))

    async def exchange(self, query: Query, counts: Counter[str]) -> bytes | None:
        """The reply; None when other messages came instead. Raises OSError, IncompleteReadError."""
        self.asked += 1
        number = secrets.randbelow(1 << 16)
        message = query.wire(number)
        try:
            self._writer.write(len(message).to_bytes(2, "big") + message)
            await self._writer.drain()
            head = await self._reader.readexactly(2)
        except (OSError, asyncio.IncompleteReadError):
            self.closed_before_a_reply = True
            raise
        for _ in range(_STRANGE):
            reply = await self._reader.readexactly(int.from_bytes(head, "big"))
            if reply[:2] == message[:2] and accepted(query, reply) and readable(reply) is not None:
                return reply
            counts["strays"] += 1
            head = await self._reader.readexactly(2)
        return None

    def close(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.close()


class Several:
    """The servers of one name, in turn: each answer process of an instance."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = servers
        self._turn = 0

    async def ask(self, query: Query) -> Answer:
        self._turn += 1
        return await self._servers[self._turn % len(self._servers)].ask(query)

    async def close(self) -> None:
        for server in self._servers:
            await server.close()
