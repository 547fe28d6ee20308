"""Floods of silence, half handshakes and garbage take nothing from established connections."""

from __future__ import annotations

import contextlib
import gc
import logging
import resource
import socket
import ssl
import subprocess
import sys
import time
from asyncio import sslproto
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Final, cast

import pytest
from headwater.serve import arrivals
from headwater.serve import server as native
from headwater.serve.arrivals import Arrival, Places
from headwater.serve.grpc import Calls
from headwater.serve.grpc import frame as message_frame
from headwater.serve.server import Server
from headwater.serve.service import pack
from headwater.serve.tls import Certificates

from tests.harness.processes import wait_until
from tests.wire.frames import HELLO, Client
from tests.wire.serving import DEADLINE, Serving, query, reply_to, serving
from tests.wire.test_tls import Pki

MESSAGE: Final = message_frame(pack(query()))
FLOOD: Final = 500
#: How long a flood lasts, in seconds.
FLOODED_FOR: Final = 2.0
AT_MOST: Final = 1.0

#: Opens connections, sends the same on each, and replaces each that is closed, until its input
#: ends.
_FLOODER: Final = """
import select, socket, sys, time
family, address, said, count = int(sys.argv[1]), eval(sys.argv[2]), bytes.fromhex(sys.argv[3]), int(sys.argv[4])
def connect():
    made = socket.socket(family)
    if sys.argv[5]:
        made.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        made.bind((sys.argv[5], 0))
    made.setblocking(False)
    try:
        made.connect(address)
    except BlockingIOError:
        pass
    except OSError:
        made.close()
        return None
    return made
poll, opened, unsaid = select.epoll(), {}, set()
end, renewed = time.monotonic() + 60, 0
print("ready", flush=True)
while time.monotonic() < end and not select.select([sys.stdin], [], [], 0)[0]:
    while len(opened) < count:
        made = connect()
        if made is None:
            time.sleep(0.001)
            break
        opened[made.fileno()] = made
        poll.register(made, select.EPOLLIN | select.EPOLLRDHUP | (select.EPOLLOUT if said else 0))
    for number, what in poll.poll(0.05):
        if what & (select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP):
            opened.pop(number).close()
            renewed += 1
        elif what & select.EPOLLOUT:
            poll.modify(number, select.EPOLLIN | select.EPOLLRDHUP)
            try:
                opened[number].send(said)
            except OSError:
                pass
        elif what & select.EPOLLIN:
            try:
                opened[number].recv(65536)
            except OSError:
                pass
print(renewed, flush=True)
"""


def client_hello() -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(coming, going).do_handshake()
    return going.read()


class Port:
    """A server, with TLS or without, on one socket."""

    def __init__(self, server: Serving, files: Certificates | None, listening: socket.socket) -> None:
        self.family = listening.family
        self.address = listening.getsockname()
        self.server = Server(server.queries, files)
        server.in_loop(self.server.start, listening)
        self._files = files

    def connect(self, pki: Pki | None) -> socket.socket:
        """Return an established connection, with a certificate of `pki` if it is given."""
        client = socket.socket(self.family)
        client.settimeout(DEADLINE)
        client.connect(self.address)
        if self._files is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            if pki is not None:
                leaf = pki.client_ca.issue_cert("coredns.test")
                leaf.configure_cert(context)
            client = context.wrap_socket(client)
        client.sendall(HELLO)
        return client


def call(client: socket.socket, stream: int, talk: Client) -> None:
    client.sendall(talk.call(stream, MESSAGE))
    said = b""
    expected = reply_to(query())
    while b"grpc-status" not in said:
        more = client.recv(65_536)
        assert more, "it was closed"
        said += more
    assert expected in said


def served(port: Port, pki: Pki | None) -> bool:
    """Return whether a new connection can be made, and gets an answer."""
    try:
        with port.connect(pki) as client:
            call(client, 1, Client())
    except OSError:
        return False
    return True


@contextlib.contextmanager
def flood(port: Port, said: bytes) -> Iterator[subprocess.Popen[str]]:
    """Flood with connections that only send this, from another process, renewed without a pause.

    Over TCP, connections that send something come from another host than the clients. Each costs as
    much as a client's, and only the address distinguishes them.
    """
    source = "127.0.0.2" if said and port.family == socket.AF_INET else ""
    command = [
        sys.executable,
        "-c",
        _FLOODER,
        str(int(port.family)),
        repr(port.address),
        said.hex(),
        str(FLOOD),
        source,
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.stdin.close()
            process.wait(DEADLINE)


@pytest.fixture(params=["mutual TLS", "TLS", "TCP", "unix"])
def port(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Port, Pki | None]]:
    pki = Pki.at(tmp_path) if "TLS" in request.param else None
    files = None if pki is None else pki.files(mutual=request.param == "mutual TLS")
    with serving("native", tmp_path) as server:
        if request.param == "unix":
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(str(tmp_path / "flooded"))
        else:
            listening = socket.socket()
            listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        made = Port(server, files, listening)
        try:
            yield made, pki
        finally:
            if not made.server._stopping:
                server.run(made.server.stop(0.0))


@pytest.mark.slow
@pytest.mark.parametrize("said", [b"", client_hello(), b"GET / HTTP/1.1\r\n\r\n", HELLO[:20]],
                         ids=["silent", "hello", "garbage", "half a preface"])  # fmt: skip
def test_a_flood_of_arrivals_keeps_nobody_out_and_costs_no_established_connection_its_place(
    port: tuple[Port, Pki | None], said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    at, pki = port
    idle, talk = at.connect(pki), Client()
    call(idle, 1, talk)
    took: list[float] = []
    refused = 0
    with flood(at, said) as process:
        server = at.server
        wait_until(lambda: len(server._silent) + len(server._beginning) > 0 or said, DEADLINE, "they come")
        end = time.monotonic() + FLOODED_FOR
        while time.monotonic() < end or len(took) < 5:
            began = time.monotonic()
            while not served(at, pki):  # gRPC connects again, too
                refused += 1
                assert time.monotonic() < began + DEADLINE
            took.append(time.monotonic() - began)
            assert len(server._silent) <= arrivals.MAX_SILENT
            assert len(server._beginning) <= (arrivals.MAX_TLS_BEGINNING if pki else arrivals.MAX_BEGINNING)
        assert process.poll() is None
    assert median(took) < AT_MOST, (took, refused)
    assert max(took) < 3 * AT_MOST, (took, refused)
    assert refused <= len(took), (took, refused)
    call(idle, 3, talk)
    idle.close()
    assert caplog.records == []
    wait_until(lambda: not server._silent and not server._beginning, DEADLINE, "nothing is left of them")
    assert not server._peers or len(server._peers) <= 1


@pytest.mark.parametrize("port", ["mutual TLS"], indirect=True)
def test_what_handshakes_leave_behind_that_came_to_nothing_is_collected(port: tuple[Port, Pki | None]) -> None:
    """asyncio's 256 KiB for each are in a cycle of objects, which the
    collector may leave for long.
    """
    at, _ = port

    def left() -> int:
        return sum(isinstance(item, sslproto.SSLProtocol) for item in gc.get_objects())

    gc.collect()
    before = left()
    gc.disable()  # because it would run at a random moment
    try:
        for number in range(1, 301):
            with socket.create_connection(at.address, DEADLINE) as client:
                client.sendall(client_hello())
            wait_until(lambda number=number: at.server._broken_off >= number, DEADLINE, "it is over", interval=0.001)  # type: ignore[misc]
        assert left() - before < 100
    finally:
        gc.enable()


def test_who_does_not_get_on_is_closed_however_it_dawdles(
    port: tuple[Port, Pki | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte at times does not extend the deadline."""
    at, pki = port
    monkeypatch.setattr(native, "PATIENCE", 2)
    hello = client_hello() if pki else HELLO
    with socket.socket(at.family) as client:
        client.settimeout(0.1)
        client.connect(at.address)
        began = time.monotonic()
        closed = False
        for byte in hello[:-1]:
            try:
                client.send(bytes((byte,)))
                closed = client.recv(65_536) == b""
            except TimeoutError:
                continue
            except OSError:
                closed = True
            if closed:
                break
        assert closed
        assert time.monotonic() - began < DEADLINE


def test_without_descriptors_an_arrival_gives_up_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`accept` neither spins nor floods the log, and established connections are served."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    pki = Pki.at(tmp_path)
    with serving("native", tmp_path) as server, contextlib.ExitStack() as stack:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        at = Port(server, pki.files(mutual=True), listening)
        stack.callback(lambda: server.run(at.server.stop(0.0)))
        served, talk = at.connect(pki), Client()
        stack.callback(served.close)
        call(served, 1, talk)
        silent = [stack.enter_context(socket.socket()) for _ in range(20)]
        newcomer = socket.socket()
        free = server.in_loop(lambda: newcomer.fileno())
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 10, hard))
        try:
            for client in silent:
                client.settimeout(DEADLINE)
                client.connect(at.address)
            wait_until(lambda: silent[0].recv(1) == b"", DEADLINE, "the oldest has to go")
            call(served, 3, talk)
            newcomer.settimeout(DEADLINE)
            newcomer.connect(at.address)
            newcomer.sendall(client_hello())
            assert newcomer.recv(5)[:1] == b"\x16", "it is let in: a handshake record"
            used = time.process_time()
            call(served, 5, talk)
            time_spent = time.process_time() - used
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            newcomer.close()
        assert time_spent < AT_MOST
        lines = [item for item in caplog.records if item.levelno >= logging.WARNING]
        assert len(lines) == 1
        assert "no further connection can be accepted now" in lines[0].getMessage()


# Which connection is closed to make room


def arrival(host: str) -> Arrival:
    return Arrival(socket.socket.__new__(socket.socket), (host, 1), 0, cast("Calls", None))


def test_the_oldest_of_the_host_that_has_most_goes() -> None:
    places = Places(4)
    one = arrival("10.0.0.1")
    many = [arrival("10.0.0.2") for _ in range(6)]
    assert places.take(one) is None
    assert [places.take(item) for item in many] == [None, None, None, many[0], many[1], many[2]]
    assert set(places) == {one, *many[3:]}
    assert places.leaving() is many[3]
    assert places.leave(one)
    assert not places.leave(one)
    assert places.make_room() is many[3]
    assert places.leaving() is None
    assert len(places) == 2
    late = arrival("10.0.0.1")
    places.take(late)
    assert [places.next() for _ in range(3)] == [late, many[4], many[5]]


def test_one_host_cannot_take_established_places_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over TCP everybody who reaches the port can be established;
    the address distinguishes them.
    """
    monkeypatch.setattr(native, "MAX_CONNECTIONS", 5)
    with serving("native", tmp_path) as server, contextlib.ExitStack() as stack:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        at = Port(server, None, listening)
        stack.callback(lambda: server.run(at.server.stop(0.0)))
        idle, talk = at.connect(None), Client()
        stack.callback(idle.close)
        call(idle, 1, talk)
        wait_until(lambda: len(at.server._peers) == 1, DEADLINE, "it is established")
        (peer,) = at.server._peers
        peer.connection.idle = 1000
        for _ in range(20):
            other = socket.socket()
            stack.callback(other.close)
            other.settimeout(DEADLINE)
            other.bind(("127.0.0.2", 0))
            other.connect(at.address)
            other.sendall(HELLO)
            with contextlib.suppress(AssertionError, OSError):  # all connections of its host may be in use
                call(other, 1, Client())
        call(idle, 3, talk)


def test_a_stop_closes_arrivals(port: tuple[Port, Pki | None], tmp_path: Path) -> None:
    at, _ = port
    with socket.socket(at.family) as client:
        client.settimeout(DEADLINE)
        client.connect(at.address)
        server = at.server
        wait_until(lambda: len(server._silent) + len(server._beginning) == 1, DEADLINE, "it has come")
        server._loop.call_soon_threadsafe(server._loop.create_task, server.stop(1.0))
        while client.recv(65_536):
            pass
