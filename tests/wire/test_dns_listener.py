"""Plain DNS over UDP and TCP: truncation, pipelining, and clients
that are slow, silent or wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import dns.flags
import dns.message
import dns.rcode
import pytest
from headwater.serve import dns_listener
from headwater.serve.dns_listener import DnsListener, for_udp
from headwater.serve.queries import Queries

from tests.wire.elsewhere import both_sockets

DEADLINE = 10.0
NAME = "web.default.svc.cluster.local."


def query(name: str = NAME, *, edns: int | None = None, ident: int = 0x1234, qtype: str = "A") -> bytes:
    """Return a query; `edns` is the UDP size that its OPT offers."""
    use: Any = False if edns is None else 0
    message = dns.message.make_query(name, qtype, use_edns=use, payload=edns or 0, id=ident)
    return message.to_wire()


def reply_of(size: int, asked: bytes) -> bytes:
    """Return a reply of exactly this size: one answer of a private type,
    and an OPT last if asked for.
    """
    end = asked.index(b"\0", 12) + 5
    opt = b"\0\0\x29\x04\xd0" + bytes(6) if asked[11] else b""
    head = asked[:2] + b"\x85\0\0\1\0\1\0\0\0" + bytes((len(opt) > 0,)) + asked[12:end]
    rest = size - len(head) - len(opt) - 12
    wire = head + struct.pack(">HHHIH", 0xC00C, 65280, 1, 5, rest) + bytes(rest) + opt
    assert len(wire) == size
    assert len(dns.message.from_wire(wire).answer) == 1
    return wire


# Truncation


@pytest.mark.parametrize(
    ("edns", "limit"),
    [(None, 512), (0, 512), (511, 512), (512, 512), (1232, 1232), (4096, 4096), (65535, 4096)],
)
def test_a_reply_is_as_large_as_the_client_takes(edns: int | None, limit: int) -> None:
    asked = query(edns=edns)
    fits = reply_of(limit, asked)
    assert for_udp(asked, fits) is fits
    cut = for_udp(asked, reply_of(limit + 1, asked))
    assert len(cut) <= 512
    message = dns.message.from_wire(cut)
    assert message.flags & dns.flags.TC
    assert not fits[2] & 2, "TC is for what was cut"


@pytest.mark.parametrize("size", [513, 1233, 5000, 65535])
@pytest.mark.parametrize("edns", [None, 512])
@pytest.mark.parametrize("name", [NAME, "WeB.deFAULT.svc.Cluster.LOCAL.", ".", "a." * 126])
def test_what_is_cut_keeps_the_question_and_the_opt(size: int, edns: int | None, name: str) -> None:
    asked = query(name, edns=edns, ident=0xBEEF)
    whole = reply_of(max(size, 600), asked)
    message = dns.message.from_wire(cut := for_udp(asked, whole))
    assert message.id == 0xBEEF
    assert message.flags == dns.message.from_wire(whole).flags | dns.flags.TC
    assert message.rcode() == dns.rcode.NOERROR
    assert message.question[0].name.to_text() == name, "in the client's letter case"
    assert not message.answer
    assert not message.authority
    assert not message.additional
    assert message.edns == (-1 if edns is None else 0)
    if edns is not None:
        assert message.payload == 1232, "the reply's own OPT"
    assert len(cut) == len(asked)


def test_what_fits_is_not_touched_whatever_the_query_was() -> None:
    small = b"\0\1\x80\1" + bytes(8)
    for asked in (b"\0\1", b"\0\1" + bytes(10), query()):
        assert for_udp(asked, small) is small


# The listeners


class FakeQueries:
    """Replies as the test says, and remembers the queries."""

    def __init__(self, reply: Callable[[bytes], bytes | None]) -> None:
        self._reply = reply
        self.asked: list[bytes] = []

    def answer(self, message: bytes) -> bytes | None:
        self.asked.append(message)
        return self._reply(message)


def echo(message: bytes) -> bytes | None:
    """Return the query as its own reply; None without an id."""
    return message[:2] + bytes((message[2] | 0x80,)) + message[3:] if len(message) >= 12 else None


class Running:
    """A listener on loopback, and clients for it."""

    def __init__(self, reply: Callable[[bytes], bytes | None] = echo) -> None:
        self.queries = FakeQueries(reply)
        self.listener = DnsListener(cast("Queries", self.queries))
        self.address = ("", 0)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        udp, tcp = both_sockets()
        self.address = udp.getsockname()
        await self.listener.start(udp, tcp)
        try:
            yield
        finally:
            await self.listener.stop()

    @contextlib.asynccontextmanager
    async def tcp(self) -> AsyncIterator[Tcp]:
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            yield Tcp(reader, writer)
        finally:
            writer.close()

    @contextlib.asynccontextmanager
    async def udp(self) -> AsyncIterator[Udp]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect(self.address)
            yield Udp(client)


class Tcp:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *messages: bytes) -> None:
        self.writer.write(b"".join(struct.pack(">H", len(message)) + message for message in messages))
        await self.writer.drain()

    async def receive(self) -> bytes:
        size = int.from_bytes(await self.reader.readexactly(2), "big")
        return await self.reader.readexactly(size)

    async def closed(self) -> bool:
        """Read, and return whether the connection has ended."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionResetError:
            return True


class Udp:
    def __init__(self, client: socket.socket) -> None:
        self._client = client

    async def send(self, message: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._client, message)

    async def receive(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._client, 65535)


def drive(running: Running, scene: Callable[[], Awaitable[None]]) -> None:
    """Run a scene against the listener, with a deadline."""

    async def play() -> None:
        async with asyncio.timeout(DEADLINE), running.serving():
            await scene()

    asyncio.run(play())


def test_udp_and_tcp_answer() -> None:
    running = Running()

    async def scene() -> None:
        async with running.udp() as udp, running.tcp() as tcp:
            await udp.send(query(ident=1))
            assert (await udp.receive())[:3] == b"\0\1\x81"
            await tcp.send(query(ident=2))
            assert (await tcp.receive())[:3] == b"\0\2\x81"

    drive(running, scene)


def test_a_large_reply_is_cut_over_udp_and_whole_over_tcp() -> None:
    large = reply_of(65535, query())
    running = Running(lambda _: large)

    async def scene() -> None:
        async with running.udp() as udp, running.tcp() as tcp:
            await udp.send(query())
            cut = dns.message.from_wire(await udp.receive())
            assert cut.flags & dns.flags.TC
            assert not cut.answer
            await tcp.send(query())
            assert await tcp.receive() == large

    drive(running, scene)


@pytest.mark.parametrize("ignored", [b"", b"\0", b"\0\1", b"\0\1\x80", b"\0\1\x81\x80" + bytes(8), b"\0" * 11])
def test_udp_says_nothing_to_a_reply_or_to_noise(ignored: bytes) -> None:
    """Two servers that answered each other's replies would never stop."""
    running = Running()

    async def scene() -> None:
        async with running.udp() as udp:
            if ignored:
                await udp.send(ignored)
            await udp.send(query(ident=7))
            assert (await udp.receive())[:2] == b"\0\7", "the first thing that comes is the query's reply"

    drive(running, scene)
    if len(ignored) > 2 and ignored[2] & 0x80:
        assert len(running.queries.asked) == 1, "it is not even looked at"


def test_tcp_queries_may_be_pipelined() -> None:
    running = Running()
    sent = [query(ident=number) for number in range(300)]

    async def scene() -> None:
        async with running.tcp() as tcp:
            await tcp.send(*sent)
            for message in sent:
                assert await tcp.receive() == echo(message)

    drive(running, scene)
    assert running.queries.asked == sent


def test_tcp_may_come_byte_by_byte_and_holds_nobody_up() -> None:
    running = Running()
    message = query(ident=1)

    async def scene() -> None:
        async with running.tcp() as slow, running.tcp() as quick, running.udp() as udp:
            for byte in struct.pack(">H", len(message)) + message:
                slow.writer.write(bytes((byte,)))
                await slow.writer.drain()
                await quick.send(query(ident=2))
                assert (await quick.receive())[:2] == b"\0\2"
            await udp.send(query(ident=3))
            assert (await udp.receive())[:2] == b"\0\3"
            assert await slow.receive() == echo(message)

    drive(running, scene)


@pytest.mark.parametrize("sent", [b"", b"\0", b"\0\x20", b"\0\x20" + bytes(31)])
def test_a_silent_tcp_client_is_left_after_a_while(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_listener, "_IDLE", 0.05)
    running = Running()

    async def scene() -> None:
        async with running.tcp() as tcp:
            tcp.writer.write(sent)
            assert await tcp.closed()

    drive(running, scene)
    assert not running.queries.asked


def test_a_tcp_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """close() alone would keep the buffer until the client reads."""
    monkeypatch.setattr(dns_listener, "_IDLE", 0.05)
    done: list[str] = []

    class Stuck:
        """A writer whose peer's window stays shut."""

        def __init__(self) -> None:
            self.transport = self

        def write(self, data: bytes) -> None: ...

        async def drain(self) -> None:
            await asyncio.Event().wait()

        def abort(self) -> None:
            done.append("abort")

        def close(self) -> None:
            done.append("close")

    async def play() -> None:
        reader = asyncio.StreamReader()
        message = query()
        reader.feed_data(struct.pack(">H", len(message)) + message)
        listener = DnsListener(cast("Queries", FakeQueries(echo)))
        async with asyncio.timeout(DEADLINE):
            await listener._serve(reader, cast("asyncio.StreamWriter", Stuck()))

    asyncio.run(play())
    assert done[0] == "abort"


@pytest.mark.parametrize(
    "sent",
    [b"\0\0", b"\0\1x", b"\0\5short", b"GET / HTTP/1.1\r\n\r\n" + b"x" * 0x4745],
    ids=["nothing", "a byte", "no header", "another protocol"],
)
def test_a_malformed_tcp_client_is_left_and_harms_nobody(sent: bytes) -> None:
    running = Running(lambda message: echo(message) if message[4:6] == b"\0\1" else None)

    async def scene() -> None:
        async with running.tcp() as good, running.tcp() as bad:
            bad.writer.write(sent)
            assert await bad.closed()
            await good.send(query(ident=9))
            assert (await good.receive())[:2] == b"\0\x09"

    drive(running, scene)


@pytest.mark.parametrize("at", [0, 1, 2, 20])
def test_a_tcp_client_that_goes_away_harms_nobody(at: int) -> None:
    running = Running()
    message = struct.pack(">H", 31) + bytes(31)

    async def scene() -> None:
        async with running.tcp() as gone, running.tcp() as good:
            gone.writer.write(message[:at])
            gone.writer.write_eof()
            assert await gone.closed()
            await good.send(query(ident=9))
            assert (await good.receive())[:2] == b"\0\x09"

    drive(running, scene)


def test_a_connection_too_many_is_closed_and_the_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_listener, "_MAX_CONNECTIONS", 2)
    running = Running()

    async def scene() -> None:
        async with running.tcp() as first, running.tcp() as second:
            for tcp in (first, second):
                await tcp.send(query(ident=1))
                await tcp.receive()
            async with running.tcp() as third:
                assert await third.closed()
            for tcp in (first, second):
                await tcp.send(query(ident=2))
                assert (await tcp.receive())[:2] == b"\0\2"
            first.writer.write_eof()
            assert await first.closed()
            async with running.tcp() as fourth:
                await fourth.send(query(ident=3))
                assert (await fourth.receive())[:2] == b"\0\3"

    drive(running, scene)


def test_stop_closes_open_connections_at_once() -> None:
    running = Running()

    async def play() -> None:
        async with asyncio.timeout(DEADLINE):
            async with running.serving():
                reader, writer = await asyncio.open_connection(*running.address)
                tcp = Tcp(reader, writer)
                await tcp.send(query())
                await tcp.receive()
            assert await tcp.closed()
            writer.close()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*running.address)

    asyncio.run(play())
