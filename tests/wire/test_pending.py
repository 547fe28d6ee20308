"""Queries that wait for another server delay no others, over UDP, TCP and gRPC, and get replies."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import dns.flags
import dns.message
import dns.rcode
import grpc
import pytest
from headwater.answer.alias import Pending
from headwater.answer.resolver import Resolver
from headwater.serve import dns_listener, grpcio_server
from headwater.serve.dns_listener import DnsListener
from headwater.serve.grpcio_server import QUERY, pack, unpack
from headwater.serve.queries import Queries
from headwater.serve.upstream import Upstream
from headwater.settings.address import Address
from headwater.store.environment import Reader

from tests.harness.processes import wait_until
from tests.wire.elsewhere import both_sockets
from tests.wire.frames import HELLO

DEADLINE: Final = 20.0
PLAIN, SLOW = "plain.test.", "slow.test."


def query(name: str, ident: int = 1, *, edns: int | None = None) -> bytes:
    use: Any = False if edns is None else 0
    return dns.message.make_query(name, "A", id=ident, use_edns=use, payload=edns or 0).to_wire()


def reply_to(message: bytes, records: Sequence[bytes] = ()) -> bytes:
    return message[:2] + b"\x84\0\0\1" + len(records).to_bytes(2, "big") + bytes(4) + message[12:] + b"".join(records)


class FakeReader:
    """Has no store, because the resolver below needs none."""

    def begin(self) -> None:
        return None


class FakeResolver:
    """Answers at once, except for "slow…" names; "broken…" names fail when their records arrive."""

    counts: dict[int, int]

    def answer(self, message: bytes, snapshot: object) -> bytes | Pending | None:
        if len(message) < 12:
            return None
        if message[13:17] == b"slow":
            return Pending(message[12:-4], 1, lambda records: reply_to(message, records))
        if message[13:19] == b"broken":
            return Pending(message[12:-4], 1, lambda _: bytes(1 // 0))
        return reply_to(message)


class FakeUpstream:
    """Answers when it is told to, with records of 16 bytes."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked = 0
        self.records: list[bytes] = []
        self.counts: dict[str, int] = {}

    async def lookup(self, target: bytes, qtype: int, tenant: bytes) -> list[bytes]:
        self.asked += 1
        await self.go.wait()
        return self.records


def queries_of(upstream: FakeUpstream) -> Queries:
    return Queries(cast("Reader", FakeReader()), cast("Resolver", FakeResolver()), cast("Upstream", upstream))


A_RECORD: Final = b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4\x0a\0\0\1"


# UDP and TCP


class Listening:
    """A listener with an upstream that waits, and clients."""

    def __init__(self) -> None:
        self.upstream = FakeUpstream()
        self.listener = DnsListener(queries_of(self.upstream))
        self.address = ("", 0)

    async def start(self) -> None:
        udp, tcp = both_sockets()
        self.address = udp.getsockname()
        await self.listener.start(udp, tcp)

    @contextlib.asynccontextmanager
    async def udp(self) -> AsyncIterator[socket.socket]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect(self.address)
            yield client

    async def asked(self, count: int) -> None:
        end = time.monotonic() + DEADLINE
        while self.upstream.asked < count:
            assert time.monotonic() < end, f"{self.upstream.asked} of {count} lookups"
            await asyncio.sleep(0.001)


async def send(client: socket.socket, message: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(client, message)


async def receive(client: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(client, 65535)


async def read(stream: asyncio.StreamReader) -> bytes:
    return await stream.readexactly(int.from_bytes(await stream.readexactly(2), "big"))


def framed(message: bytes) -> bytes:
    return struct.pack(">H", len(message)) + message


def play(scene: Callable[[Listening], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(DEADLINE):
            listening = Listening()
            await listening.start()
            try:
                await scene(listening)
            finally:
                await listening.listener.stop()

    asyncio.run(run())


def test_over_udp_others_are_answered_meanwhile() -> None:
    async def scene(listening: Listening) -> None:
        listening.upstream.records = [A_RECORD]
        async with listening.udp() as client:
            for number in range(100):
                await send(client, query(SLOW, 1000 + number))
            await listening.asked(100)
            for number in range(100):
                await send(client, query(PLAIN, number))
                assert (await receive(client))[:2] == number.to_bytes(2, "big")
            listening.upstream.go.set()
            replies = [await receive(client) for _ in range(100)]
            assert {int.from_bytes(reply[:2], "big") for reply in replies} == set(range(1000, 1100))
            assert {len(dns.message.from_wire(reply).answer) for reply in replies} == {1}

    play(scene)


@pytest.mark.parametrize(("edns", "cut"), [(None, True), (1232, True), (4096, False)])
def test_a_late_reply_is_cut_to_what_the_client_takes_as_any_other(edns: int | None, cut: bool) -> None:
    async def scene(listening: Listening) -> None:
        listening.upstream.records = [A_RECORD] * 100
        listening.upstream.go.set()
        async with listening.udp() as client:
            await send(client, query(SLOW, edns=edns))
            reply = await receive(client)
            assert bool(reply[2] & 2) is cut
            assert (len(reply) < 100) is cut

    play(scene)


def test_each_client_gets_its_own_reply() -> None:
    async def scene(listening: Listening) -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(listening.udp()) for _ in range(20)]
            for number, client in enumerate(clients):
                await send(client, query(SLOW, number))
            await listening.asked(20)
            listening.upstream.go.set()
            for number, client in enumerate(clients):
                assert (await receive(client))[:2] == number.to_bytes(2, "big")

    play(scene)


def test_over_tcp_a_connection_waits_and_keeps_its_order_and_others_do_not() -> None:
    async def scene(listening: Listening) -> None:
        reader, writer = await asyncio.open_connection(*listening.address)
        others, other = await asyncio.open_connection(*listening.address)
        writer.write(framed(query(SLOW, 1)) + framed(query(PLAIN, 2)) + framed(query(SLOW, 3)))
        await listening.asked(1)
        for number in range(20):
            other.write(framed(query(PLAIN, number)))
            assert (await read(others))[:2] == number.to_bytes(2, "big")
        listening.upstream.go.set()
        assert [(await read(reader))[1] for _ in range(3)] == [1, 2, 3]
        writer.close()
        other.close()

    play(scene)


def test_a_tcp_client_that_goes_away_while_it_waits_harms_nobody() -> None:
    async def scene(listening: Listening) -> None:
        _, writer = await asyncio.open_connection(*listening.address)
        writer.write(framed(query(SLOW)))
        await listening.asked(1)
        writer.transport.abort()
        listening.upstream.go.set()
        async with listening.udp() as client:
            await send(client, query(PLAIN, 7))
            assert (await receive(client))[:2] == b"\0\7"

    play(scene)


def test_a_reply_that_cannot_be_finished_is_servfail() -> None:
    async def scene(listening: Listening) -> None:
        listening.upstream.go.set()
        async with listening.udp() as client:
            await send(client, query("broken.test.", 9))
            reply = await receive(client)
            assert (reply[:2], reply[3] & 15) == (b"\0\x09", dns.rcode.SERVFAIL)

    play(scene)


def test_stop_does_not_wait_for_the_other_server() -> None:
    async def run() -> None:
        listening = Listening()
        await listening.start()
        reader, writer = await asyncio.open_connection(*listening.address)
        async with listening.udp() as client:
            await send(client, query(SLOW))
            writer.write(framed(query(SLOW)))
            await listening.asked(2)
            async with asyncio.timeout(DEADLINE):
                await listening.listener.stop()
                assert await reader.read() == b""
            listening.upstream.go.set()
            await asyncio.sleep(0)
        writer.close()

    asyncio.run(run())


# grpcio, which has a thread for each waiting call; test_service has the other tests of gRPC


class Grpc:
    """A server on a unix socket; its upstream's loop runs in a separate thread."""

    def __init__(self, path: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.upstream = FakeUpstream()
        self.queries = queries_of(self.upstream)
        address = Address(path=str(path))
        others = threads()
        self._stop = grpcio_server.start(address, self.queries, self.loop)
        self._channel = grpc.insecure_channel(str(address))
        self.call: Any = self._channel.unary_unary(QUERY)
        self._idle = threads()
        assert self._idle == others + 2

    def settles(self) -> None:
        """Wait until it has as many threads as at first."""
        wait_until(lambda: threads() == self._idle, DEADLINE, "as many threads as before")

    def release(self) -> None:
        self.loop.call_soon_threadsafe(self.upstream.go.set)

    def close(self) -> None:
        self._channel.close()
        self._stop(0.0)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE)
        self.loop.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Grpc]:
    server = Grpc(tmp_path / "s")
    yield server
    server.release()
    server.settles()
    server.close()


def threads() -> int:
    """Return the number of servers' threads; grpcio keeps those of stopped servers."""
    return sum(thread.name == "grpc" for thread in threading.enumerate())


def test_over_grpc_others_are_answered_meanwhile(server: Grpc) -> None:
    slow = [server.call.future(pack(query(SLOW, number)), timeout=DEADLINE) for number in range(60)]
    wait_until(lambda: server.upstream.asked == 60, DEADLINE, "all are asked for")
    for number in range(200):
        assert unpack(server.call(pack(query(PLAIN, number)), timeout=DEADLINE))[:2] == number.to_bytes(2, "big")
    assert not any(call.done() for call in slow)
    server.upstream.records = [A_RECORD]
    server.release()
    for number, call in enumerate(slow):
        message = dns.message.from_wire(unpack(call.result(DEADLINE)))
        assert (message.id, len(message.answer)) == (number, 1)
    server.settles()


def test_over_grpc_a_client_that_gave_up_leaves_nothing_behind(server: Grpc) -> None:
    slow = [server.call.future(pack(query(SLOW)), timeout=0.2) for _ in range(20)]
    for call in slow:
        with pytest.raises(grpc.RpcError) as error:
            call.result(DEADLINE)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert unpack(server.call(pack(query(PLAIN)), timeout=DEADLINE))
    server.release()
    server.settles()


# Bounds


def test_over_udp_one_waiting_query_too_many_gets_its_reply_without_the_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dns_listener, "_MAX_WAITING", 3)

    async def scene(listening: Listening) -> None:
        listening.upstream.records = [A_RECORD]
        async with listening.udp() as client:
            for number in range(3):
                await send(client, query(SLOW, number))
            await listening.asked(3)
            await send(client, query(SLOW, 9))
            await send(client, query("broken.test.", 10))
            reply, broken = await receive(client), await receive(client)
            assert (reply[:2], dns.message.from_wire(reply).answer) == (b"\0\x09", [])
            assert (broken[:2], broken[3] & 15) == (b"\0\x0a", dns.rcode.SERVFAIL)
            listening.upstream.go.set()
            replies = [dns.message.from_wire(await receive(client)) for _ in range(3)]
            assert {(message.id, len(message.answer)) for message in replies} == {(0, 1), (1, 1), (2, 1)}
            await send(client, query(SLOW, 11))
            assert len(dns.message.from_wire(await receive(client)).answer) == 1, "there is room again"

    play(scene)


def test_udp_replies_that_the_kernel_does_not_take_are_dropped_at_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket never becomes writable here, so that every reply stays in asyncio's buffer."""
    monkeypatch.setattr(dns_listener, "_MAX_UNSENT", 1000)
    sent: list[bytes] = []

    class Full:
        def get_write_buffer_size(self) -> int:
            return sum(map(len, sent))

        def sendto(self, data: bytes, _: object) -> None:
            sent.append(data)

    listener = dns_listener._Udp(queries_of(FakeUpstream()))
    listener.connection_made(cast("asyncio.BaseTransport", Full()))
    for number in range(500):
        listener.datagram_received(query(PLAIN, number), ("127.0.0.1", 5353))
    size = len(sent[0])
    assert 1000 <= sum(map(len, sent)) < 1000 + size


@pytest.fixture
def bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Grpc]:
    """A server with small bounds."""
    for name, bound in (("_MAX_CONNECTIONS", 4), ("_MAX_CALLS", 8), ("_MAX_WAITING", 3), ("_HANDSHAKE", 500)):
        monkeypatch.setattr(grpcio_server, name, bound)
    server = Grpc(tmp_path / "s")
    yield server
    server.release()
    server.settles()
    server.close()


def test_over_grpcio_one_waiting_call_too_many_gets_its_reply_without_the_records(bounded: Grpc) -> None:
    bounded.upstream.records = [A_RECORD]
    slow = [bounded.call.future(pack(query(SLOW, number)), timeout=DEADLINE) for number in range(3)]
    wait_until(lambda: bounded.upstream.asked == 3, DEADLINE, "all are asked for")
    reply = dns.message.from_wire(unpack(bounded.call(pack(query(SLOW, 9)), timeout=DEADLINE)))
    assert (reply.id, reply.answer) == (9, [])
    assert bounded.upstream.asked == 3
    bounded.release()
    assert [len(dns.message.from_wire(unpack(call.result(DEADLINE))).answer) for call in slow] == [1, 1, 1]
    late = dns.message.from_wire(unpack(bounded.call(pack(query(SLOW, 10)), timeout=DEADLINE)))
    assert len(late.answer) == 1, "there is room again"


def test_over_grpcio_one_call_too_many_is_refused(bounded: Grpc, monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()
    answer = bounded.queries.answer

    def slow(message: bytes) -> bytes | Pending | None:
        assert held.wait(DEADLINE)
        return answer(message)

    monkeypatch.setattr(bounded.queries, "answer", slow)
    calls = [bounded.call.future(pack(query(PLAIN, number)), timeout=DEADLINE) for number in range(20)]

    def refused() -> list[grpc.RpcError]:
        return [call for call in calls if call.done() and call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED]

    try:
        wait_until(lambda: len(refused()) == 12, DEADLINE, "all but 8 are refused")
    finally:
        held.set()
    assert sum(call.code() is grpc.StatusCode.OK for call in calls) == 8
    assert unpack(bounded.call(pack(query(PLAIN, 99)), timeout=DEADLINE))[:2] == b"\0\x63"


def is_closed(client: socket.socket, timeout: float) -> bool:
    """Read until the end of the connection, or until nothing comes for so many seconds."""
    client.settimeout(timeout)
    try:
        while client.recv(4096):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def connections(path: Path, count: int, said: bytes, stack: contextlib.ExitStack) -> list[socket.socket]:
    found = []
    for _ in range(count):
        client = stack.enter_context(socket.socket(socket.AF_UNIX))
        client.connect(str(path))
        with contextlib.suppress(ConnectionError):  # it may be closed already
            client.sendall(said)
        found.append(client)
    return found


def test_over_grpcio_one_connection_too_many_is_closed(bounded: Grpc, tmp_path: Path) -> None:
    assert unpack(bounded.call(pack(query(PLAIN, 1)), timeout=DEADLINE))
    with contextlib.ExitStack() as stack:
        clients = connections(tmp_path / "s", 10, HELLO, stack)
        wait_until(lambda: sum(is_closed(client, 0.01) for client in clients) == 7, DEADLINE, "7 too many are closed")
        assert unpack(bounded.call(pack(query(PLAIN, 2)), timeout=DEADLINE)), "the first connection is served"
    with grpc.insecure_channel(f"unix:{tmp_path / 's'}") as channel:
        another: Any = channel.unary_unary(QUERY)
        assert unpack(another(pack(query(PLAIN, 3)), timeout=DEADLINE, wait_for_ready=True)), "there is room again"


def test_over_grpcio_a_silent_connection_is_closed(bounded: Grpc, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        assert all(is_closed(client, DEADLINE) for client in connections(tmp_path / "s", 3, b"", stack))
    assert unpack(bounded.call(pack(query(PLAIN, 1)), timeout=DEADLINE))
