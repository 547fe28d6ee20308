"""The native transport's sockets: slow, silent, many, wrong or
vanished peers do not affect others.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import resource
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from headwater.serve import http2
from headwater.serve import server as native
from headwater.serve.grpc import frame as message_frame
from headwater.serve.http2 import PREFACE, Code, Connection
from headwater.serve.service import HEALTH_CHECK, QUERY, pack, unpack

from tests.harness.processes import wait_until
from tests.wire.frames import (
    ACK,
    DATA,
    GOAWAY,
    HEADERS,
    HELLO,
    PING,
    RST_STREAM,
    SETTINGS,
    Client,
    Frame,
    code_of,
    frame,
    rst,
    settings,
    window,
)
from tests.wire.serving import DEADLINE, SLOW, Serving, query, reply_to, serving, tool

MESSAGE: Final = message_frame(pack(query()))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    with serving("native", tmp_path) as server:
        yield server


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a tick a hundredth of a second."""
    monkeypatch.setattr(native, "_TICK", 0.01)


@pytest.fixture
def timeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only the test make ticks."""
    monkeypatch.setattr(native, "_TICK", 3600.0)


class Raw:
    """A client that sends any bytes."""

    def __init__(self, server: Serving, hello: bytes = HELLO) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE)
        self.socket.connect(str(server.address.path))
        self.client = Client()
        self._rest = b""
        if hello:
            self.socket.sendall(hello)

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def frame(self) -> Frame | None:
        """Return the next frame; None at the end."""
        while len(self._rest) < 9 or len(self._rest) < 9 + int.from_bytes(self._rest[:3], "big"):
            try:
                more = self.socket.recv(1 << 16)
            except ConnectionResetError:
                more = b""
            if not more:
                assert not self._rest
                return None
            self._rest += more
        end = 9 + int.from_bytes(self._rest[:3], "big")
        found, self._rest = self._rest[:end], self._rest[end:]
        return Frame(found[3], found[4], int.from_bytes(found[5:9], "big"), found[9:])

    def until(self, *kinds: int) -> Frame:
        """Return the next frame of these types; ignore others."""
        while True:
            found = self.frame()
            assert found is not None, "it was closed"
            if found.kind in kinds:
                return found

    def at_end(self) -> list[Frame]:
        """Return all frames until the connection is closed."""
        found = []
        while (item := self.frame()) is not None:
            found.append(item)
        return found

    def close(self) -> None:
        self.socket.close()


@contextlib.contextmanager
def raw(server: Serving, hello: bytes = HELLO) -> Iterator[Raw]:
    client = Raw(server, hello)
    try:
        yield client
    finally:
        client.close()


def call(client: Raw, stream: int = 1, message: bytes = MESSAGE) -> bytes:
    client.send(client.client.call(stream, message))
    return client.until(DATA).payload


def works(server: Serving) -> None:
    """Check that another client is served as usual."""
    with raw(server) as other:
        assert unpack(call(other)[5:]) == reply_to(query())


def peers(server: Serving) -> int:
    assert server.server is not None
    return len(server.server._peers)


# Reading and writing


def test_the_server_speaks_first(server: Serving) -> None:
    with raw(server, b"") as client:
        first = client.frame()
        assert first is not None
        assert first.kind == SETTINGS


def test_what_comes_at_once_is_answered_at_once(server: Serving) -> None:
    """From one snapshot of the store, and in one piece: the socket has all replies or none."""
    with raw(server) as client:
        client.until(SETTINGS)
        client.until(SETTINGS)
        before = server.reader.begun
        client.send(*(client.client.call(stream, MESSAGE) for stream in range(1, 201, 2)))
        first = client.socket.recv(1 << 20)
        assert server.reader.begun == before + 1
        assert first.count(reply_to(query())) == 100


def test_a_call_may_come_byte_by_byte(server: Serving) -> None:
    with raw(server) as client:
        for byte in client.client.call(1, MESSAGE):
            client.send(bytes((byte,)))
        assert unpack(client.until(DATA).payload[5:]) == reply_to(query())
        works(server)


@pytest.mark.parametrize(
    "sent",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\xa5\x01", bytes(100), PREFACE + bytes(100), HELLO + b"\xff" * 100],
    ids=["HTTP/1", "TLS", "zeros", "zeros after the preface", "ones after the handshake"],
)
def test_garbage_is_left_and_not_logged(server: Serving, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(10):
            with raw(server, sent) as client:
                *_, last = client.at_end()
                assert last.kind == GOAWAY
        works(server)
    wait_until(lambda: peers(server) == 0, DEADLINE, "nobody is left")
    assert [record for record in caplog.records if record.name.startswith("headwater")] == []


def test_a_peer_that_goes_away_leaves_nothing_behind(server: Serving) -> None:
    for sent in (b"", PREFACE[:3], HELLO, HELLO + Client().headers(1), HELLO + Client().call(1, MESSAGE)):
        with raw(server, sent):
            pass
    slow = Raw(server)
    slow.send(slow.client.call(1, message_frame(pack(query(SLOW)))))
    wait_until(lambda: server.upstream.asked == 1, DEADLINE, "it waits")
    slow.close()
    wait_until(lambda: server.upstream.given_up == 1, DEADLINE, "nobody waits any more")
    wait_until(lambda: peers(server) == 0, DEADLINE, "nobody is left")
    works(server)


def test_a_late_reply_goes_to_its_stream(server: Serving) -> None:
    with raw(server) as client:
        client.send(client.client.call(1, message_frame(pack(query(SLOW)))), client.client.call(3, MESSAGE))
        assert client.until(DATA).stream == 3
        client.send(client.client.call(5, message_frame(pack(query(SLOW)))), rst(5), client.client.call(7, MESSAGE))
        assert client.until(DATA).stream == 7
        server.release()
        assert client.until(DATA) == (DATA, 0, 1, message_frame(pack(reply_to(query(SLOW)) + b"record")))
        assert call(client, 9)


# A peer that does not read


def test_a_peer_that_does_not_read_is_not_read_from_and_then_dropped(hasty: None, server: Serving) -> None:
    big = message_frame(pack(query("sized-60000.test.")))
    with raw(server, HELLO + settings((4, 2**31 - 1)) + window(0, 2**30)) as client:
        assert server.server is not None
        client.until(SETTINGS)
        wait_until(lambda: peers(server) == 1, DEADLINE, "it is established")
        (peer,) = server.server._peers
        client.socket.setblocking(False)
        calls = (client.client.call(stream, big) for stream in range(1, 100_001, 2))
        unsent = b""

        def is_blocked() -> bool:
            nonlocal unsent
            try:
                while unsent := unsent or next(calls, b""):
                    unsent = unsent[client.socket.send(unsent) :]
            except BlockingIOError:
                return peer._full
            return True

        wait_until(is_blocked, DEADLINE, "nobody reads")
        assert server.resolver.asked < 100, "it was answered while nobody read"
        works(server)
        wait_until(lambda: peers(server) == 0, DEADLINE, "it is dropped")
        assert server.resolver.asked < 101


def test_late_replies_to_a_peer_that_does_not_read_are_not_kept(server: Serving) -> None:
    """Replies that needed other servers arrive at any time."""
    big = message_frame(pack(query("sized-60000.test.")))
    slow = message_frame(pack(query(SLOW)))
    with raw(server, HELLO + settings((4, 2**31 - 1)) + window(0, 2**30)) as client:
        client.send(*(client.client.call(stream, slow) for stream in range(1, 21, 2)))
        wait_until(lambda: server.upstream.asked == 10, DEADLINE, "they wait")
        client.send(*(client.client.call(stream, big) for stream in range(21, 121, 2)))
        wait_until(lambda: server.resolver.asked > 12, DEADLINE, "others are answered")
        server.release()
        statuses: dict[int, str] = {}
        while len(statuses) < 10:
            item = client.until(HEADERS)
            fields = client.client.read(item.payload)
            if item.stream < 21 and "grpc-status" in fields:
                statuses[item.stream] = fields["grpc-status"]
        assert set(statuses.values()) <= {"0", "8"}
        works(server)


def test_a_peer_that_reads_late_gets_everything(server: Serving) -> None:
    big = message_frame(pack(query("sized-60000.test.")))
    with raw(server, HELLO + settings((4, 2**31 - 1)) + window(0, 2**30)) as client:
        client.send(*(client.client.call(stream, big) for stream in range(1, 101, 2)))
        works(server)
        assert server.resolver.asked < 51
        ended: dict[int, int] = {}
        while len(ended) < 50 or min(ended.values()) < 60_008:
            item = client.until(DATA)
            ended[item.stream] = ended.get(item.stream, 0) + len(item.payload)
        assert set(ended.values()) == {60_008 + 1}


def test_a_shut_window_does_not_keep_others_waiting_nor_a_connection_for_ever(hasty: None, server: Serving) -> None:
    with raw(server, HELLO + settings((4, 0))) as client:
        client.send(client.client.call(1, MESSAGE))
        works(server)
        reset = client.until(RST_STREAM)
        assert (reset.stream, code_of(reset)) == (1, Code.CANCEL)


# Time


@pytest.mark.parametrize("sent", [b"", PREFACE[:5], PREFACE])
def test_who_says_nothing_is_left(hasty: None, server: Serving, sent: bytes) -> None:
    with raw(server, sent) as client:
        *_, last = client.at_end()
        assert code_of(last) == Code.SETTINGS_TIMEOUT


def test_who_is_slow_is_left(hasty: None, server: Serving) -> None:
    """A byte at times does not keep a connection open."""
    stop = threading.Event()
    with raw(server) as client:

        def drip() -> None:
            with contextlib.suppress(OSError):
                for byte in frame(DATA, 0, 1, bytes(16_000)):
                    client.send(bytes((byte,)))
                    if stop.wait(0.005):
                        return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            *_, last = client.at_end()
        finally:
            stop.set()
            dripping.join(DEADLINE)
        assert (last.kind, code_of(last)) == (GOAWAY, Code.ENHANCE_YOUR_CALM)


@pytest.mark.slow
def test_a_silent_peer_is_asked_whether_it_lives(hasty: None, server: Serving) -> None:
    with raw(server) as client:
        for _ in range(3):
            ping = client.until(PING)
            client.send(frame(PING, ACK, 0, ping.payload))
        assert call(client)
        client.until(PING)
        *_, last = client.at_end()
        assert (last.kind, code_of(last)) == (GOAWAY, Code.NO_ERROR)


def test_a_peer_that_does_not_close_is_closed(hasty: None, server: Serving) -> None:
    """The last bytes do not delay the end if nobody reads them."""
    with raw(server, HELLO + settings((4, 2**31 - 1)) + window(0, 2**30)) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        big = message_frame(pack(query("sized-60000.test.")))
        client.send(*(client.client.call(stream, big) for stream in range(1, 21, 2)), frame(PING, 0, 0, b"bad"))
        wait_until(lambda: peers(server) == 0, DEADLINE, "it is closed")


# Many


def test_the_connection_that_asked_for_nothing_for_longest_makes_room(
    timeless: None, server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "MAX_CONNECTIONS", 3)
    assert server.server is not None
    with raw(server) as first, raw(server) as second, raw(server) as third:
        for client in (first, second, third):
            call(client)
        for peer in server.server._peers:
            server.in_loop(peer.tick)
        for client in (first, third):
            call(client, 3)
        for peer in server.server._peers:
            server.in_loop(peer.tick)
        for peer in server.server._peers:
            server.in_loop(peer.tick)
        call(first, 5)
        call(third, 5)
        for peer in server.server._peers:
            server.in_loop(peer.tick)
        with raw(server) as fourth:
            call(fourth)
            second.at_end()
            for client in (first, third):
                call(client, 7)


def test_nobody_who_is_at_work_makes_room(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "MAX_CONNECTIONS", 3)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(raw(server)) for _ in range(3)]
        for client in clients:
            call(client)
        for _ in range(5):
            with raw(server) as more:
                assert {item.kind for item in more.at_end()} <= {SETTINGS}
        for client in clients:
            call(client, 3)


def test_no_more_descriptors_end_nothing(hasty: None, server: Serving) -> None:
    """A new connection waits until there is a descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with raw(server) as first, socket.socket(socket.AF_UNIX) as second:
        call(first)
        with socket.socket() as unused:
            free = unused.fileno()
        second.settimeout(DEADLINE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            second.connect(str(server.address.path))
            call(first, 3)
            native_server = server.server
            assert native_server is not None
            later = native_server._ticks + 5
            wait_until(lambda: native_server._ticks >= later, DEADLINE, "each tick tries again")
            call(first, 5)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert second.recv(9)[3] == SETTINGS
    works(server)


def test_a_bug_met_by_one_peer_is_not_the_others(
    server: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    receive = Connection.receive

    def broken(self: Connection[Any], sent: bytes) -> None:
        if b"\xde\xad" in sent:
            raise ZeroDivisionError
        receive(self, sent)

    monkeypatch.setattr(Connection, "receive", broken)
    with raw(server) as good:
        call(good)
        for _ in range(3):
            with raw(server, b"\xde\xad") as bad:
                bad.at_end()
        call(good, 3)
    assert server.queries.snapshot().failures == 3
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1


# Leaving


def test_a_drain_says_goodbye_twice_and_closes(server: Serving) -> None:
    with raw(server) as client:
        client.send(client.client.call(1, message_frame(pack(query(SLOW)))))
        wait_until(lambda: server.upstream.asked == 1, DEADLINE, "it waits")
        stopping = threading.Thread(target=server.stop, args=(DEADLINE,))
        stopping.start()
        first = client.until(GOAWAY)
        assert first.payload[:4] == b"\x7f\xff\xff\xff"
        # Requests before the second GOAWAY are served.
        ping = client.until(PING)
        client.send(client.client.call(3, MESSAGE), frame(PING, ACK, 0, ping.payload))
        second = client.until(GOAWAY)
        assert second.payload[:8] == b"\0\0\0\3\0\0\0\0"
        assert client.until(DATA).stream == 3
        server.release()
        *_, last = client.at_end()
        assert (last.kind, last.stream) == (HEADERS, 1)
        stopping.join(DEADLINE)
        assert not stopping.is_alive()


def test_deadlines_hold_in_a_drain(hasty: None, server: Serving, caplog: pytest.LogCaptureFixture) -> None:
    """A reply that its peer does not read does not delay a stop."""
    with raw(server, HELLO + settings((4, 0))) as client:
        client.send(client.client.call(1, MESSAGE))
        client.until(HEADERS)
        stopping = threading.Thread(target=server.stop, args=(DEADLINE,))
        stopping.start()
        ping = client.until(PING)
        client.send(frame(PING, ACK, 0, ping.payload))
        assert code_of(client.until(RST_STREAM)) == Code.CANCEL
        assert client.at_end() == []
        stopping.join(DEADLINE)
        assert not stopping.is_alive()
    assert caplog.records == []


def test_the_listening_socket_outlives_the_server(server: Serving) -> None:
    """A client that connects between two processes waits, if somebody holds the socket."""
    assert server.server is not None
    with next(iter(server.server._listening)).dup() as held:
        server.stop(1.0)
        with raw(server) as client:
            client.send(client.client.call(1, MESSAGE))
            server.also(held)
            assert unpack(client.until(DATA).payload[5:]) == reply_to(query())


def test_a_stopped_server_refuses(server: Serving) -> None:
    server.stop(0.0)
    with socket.socket(socket.AF_UNIX) as client:
        assert client.connect_ex(str(server.address.path)) == errno.ECONNREFUSED


# Other clients


@pytest.fixture
def port(server: Serving) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server.also(listening)
        yield listening.getsockname()[1]


def test_nghttp(port: int, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(message_frame(pack(query())))
    done = subprocess.run(
        [
            tool("nghttp"), "-v", "-m", "5", "-d", tmp_path / "body", "-H", "content-type: application/grpc",
            "--padding=100", f"http://127.0.0.1:{port}{QUERY}",
        ],
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.count(reply_to(query())) == 5
    assert done.stdout.count(b"grpc-status: 0") == 5


def test_nghttp_sees_that_it_has_come_to_the_wrong_place(port: int) -> None:
    done = subprocess.run(
        [tool("nghttp"), "-v", f"http://127.0.0.1:{port}/"], capture_output=True, check=True, timeout=60
    )
    assert b":status: 405" in done.stdout
    assert b"This is a gRPC server." in done.stdout


def test_grpcio_with_its_keepalive(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each PING is answered; there are three while calls go on."""
    pings = []

    def counted(connection: Connection[Any], flags: int, stream: int, payload: bytes) -> None:
        pings.append(payload)
        Connection._on_ping(connection, flags, stream, payload)

    handlers: list[Any] = list(http2._HANDLERS)
    handlers[PING] = counted
    monkeypatch.setattr(http2, "_HANDLERS", tuple(handlers))
    options = (("grpc.keepalive_time_ms", 100), ("grpc.http2.max_pings_without_data", 0))
    with grpc.insecure_channel(str(server.address), options) as channel:
        check: Any = channel.unary_unary(HEALTH_CHECK)
        wait_until(
            lambda: check(b"", timeout=DEADLINE) == b"\x08\x01" and len(pings) >= 3, DEADLINE, "three PINGs are sent"
        )
