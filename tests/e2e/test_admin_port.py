"""The admin port under clients that mean no good: the instance lives, restarts what dies, and stops in time."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
import time
from functools import partial
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Final, Self

import psutil
import pytest
from headwater.admin import http

from tests.e2e.test_supervisor import MANIFEST, SERVICE
from tests.harness.instance import Headwater
from tests.harness.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: In seconds: a stop takes no longer, whatever clients do.
STOPPED: Final = 6.0
SETTLE: Final = 20.0
#: Descriptors of the instance in these tests.
DESCRIPTORS: Final = 96
CONNECTIONS: Final = 300
GET: Final = b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"


class Few(Headwater):
    """An instance with few descriptors."""

    def command(self) -> list[str]:
        program = (
            "import os, resource, sys; "
            f"resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS}, {DESCRIPTORS})); "
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        return [sys.executable, "-c", program, *super().command()]


@pytest.fixture
def headwater(tmp_path: Path) -> Iterator[Headwater]:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(MANIFEST)
    with Few(tmp_path, "--manifests", manifest) as running:
        wait_until(running.is_complete, SETTLE, "every process is up")
        yield running


def is_new(headwater: Headwater, title: str, old: int) -> bool:
    return headwater.pids().get(title, old) != old


class Attack:
    """Connections that are opened, and renewed, until the end of the block; each is given to `act` once."""

    def __init__(self, port: int, count: int, act: Callable[[socket.socket], None]) -> None:
        self._port = port
        self._count = count
        self._act = act
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.opened = 0

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self.opened >= self._count, SETTLE, "the attack is under way")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        held: list[socket.socket] = []
        try:
            while not self._over.is_set():
                if len(held) >= self._count:
                    held.pop(0).close()
                    self._over.wait(0.005)  # 200 new ones a second
                with contextlib.suppress(OSError):
                    client = socket.create_connection(("127.0.0.1", self._port), 1.0)
                    held.append(client)
                    client.setblocking(False)
                    self._act(client)
                self.opened += 1
        finally:
            for client in held:
                client.close()


def never_reads(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.send(GET * 500)


def sends_slowly(client: socket.socket) -> None:
    client.send(b"GET /metrics HTTP/1.1\r\nHost: ")


def says_nothing(_: socket.socket) -> None: ...


def talks_nonsense(client: socket.socket) -> None:
    client.send(b"\x16\x03\x01 nonsense\r\n\r\n")


def has_a_great_head(client: socket.socket) -> None:
    client.send(b"GET / HTTP/1.1\r\n" + b"a: " + b"b" * 60_000)


def pipelines_and_reads(client: socket.socket) -> None:
    client.send(GET * 300)
    client.setblocking(True)
    client.settimeout(0.2)
    with contextlib.suppress(OSError):
        while client.recv(65536):
            pass


ATTACKS: Final = [never_reads, sends_slowly, says_nothing, talks_nonsense, has_a_great_head, pipelines_and_reads]


@pytest.mark.slow
@pytest.mark.parametrize("act", ATTACKS, ids=lambda act: act.__name__)
def test_attack_keeps_no_process_from_its_restart_and_does_not_delay_the_stop(
    act: Callable[[socket.socket], None], headwater: Headwater
) -> None:
    before = headwater.pids()
    with Attack(headwater.admin_port, 20 if act is pipelines_and_reads else CONNECTIONS, act):
        assert psutil.Process(before["supervisor"]).num_fds() <= DESCRIPTORS - 8, "some are left for who has to start"
        for title in ("answer 0", "watch"):
            headwater.kill9(title)
            wait_until(partial(is_new, headwater, title, before[title]), SETTLE, f"{title} is back")
        wait_until(lambda: headwater.records(SERVICE) == ["10.44.0.1"], SETTLE, "it answers")
        wait_until(headwater.is_ready, SETTLE, "a probe gets its place")
        assert headwater.pids()["supervisor"] == before["supervisor"]
        headwater.process.signal(signal.SIGTERM)
        began = time.monotonic()
        assert headwater.process.wait(SETTLE) == 0
        assert time.monotonic() - began < STOPPED
    log = headwater.log.read_text()
    assert len(log) < 20_000, f"{len(log):,} bytes of log"
    assert "Traceback" not in log


def test_one_that_pipelines_and_never_reads_does_not_delay_the_stop(headwater: Headwater) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(3.0)
        client.connect(("127.0.0.1", headwater.admin_port))
        with contextlib.suppress(OSError):  # it takes no more, or has hung up
            while True:
                client.sendall(GET * 50)
        headwater.process.signal(signal.SIGTERM)
        began = time.monotonic()
        assert headwater.process.wait(SETTLE) == 0
        assert time.monotonic() - began < STOPPED


@pytest.mark.parametrize(
    ("sent", "why"),
    [(b"", "silent"), (b"GET / HTTP/1.1\r\nHo", "slow"), (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "done, and silent")],
    ids=["silent", "slow", "done"],
)
def test_connection_that_waits_is_closed_in_time(sent: bytes, why: str, headwater: Headwater) -> None:
    with socket.create_connection(("127.0.0.1", headwater.admin_port), 5.0) as client:
        client.settimeout(2 * http.PATIENCE)
        client.sendall(sent)
        began = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            while client.recv(4096):
                pass
        assert 1.0 < time.monotonic() - began < http.PATIENCE + 2.0, why


def test_trickle_of_bytes_does_not_keep_a_connection(headwater: Headwater) -> None:
    with socket.create_connection(("127.0.0.1", headwater.admin_port), 5.0) as client:
        client.settimeout(0.1)
        client.sendall(b"GET / HTTP/1.1\r\n")
        began = time.monotonic()

        def closed() -> bool:
            try:
                client.sendall(b"a: b\r\n")
                return client.recv(4096) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        wait_until(closed, 2 * http.PATIENCE, "it is closed", interval=0.05)
        assert time.monotonic() - began < http.PATIENCE + 2.0


def test_connection_has_a_number_of_requests(headwater: Headwater) -> None:
    with contextlib.closing(HTTPConnection("127.0.0.1", headwater.admin_port, 5.0)) as client:
        client.connect()
        client.auto_open = 0
        answered = 0
        with contextlib.suppress(OSError, HTTPException):
            for _ in range(1000):
                client.request("GET", "/healthz")
                answered += client.getresponse().read() == b"ok\n"
        assert answered == 100


def test_port_takes_no_more_connections_than_there_are_places(headwater: Headwater) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", headwater.admin_port), 5.0))
        wait_until(headwater.is_ready, SETTLE, "the newest is served")
        assert psutil.Process(headwater.process.pid).num_fds() < DESCRIPTORS
