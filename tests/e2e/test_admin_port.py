"""The admin port under hostile clients: the instance lives, restarts its
processes, and stops in time.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from functools import partial
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Final

import psutil
import pytest
from headwater.admin import http

from tests.e2e.test_supervisor import MANIFEST, SERVICE
from tests.harness.attack import (
    GET,
    Attack,
    has_a_great_head,
    never_reads,
    pipelines_and_reads,
    says_nothing,
    sends_slowly,
    talks_nonsense,
)
from tests.harness.instance import Headwater
from tests.harness.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: The longest time of a stop, whatever clients do, in seconds.
STOPPED: Final = 6.0
SETTLE: Final = 20.0
#: Descriptors of the instance in these tests.
DESCRIPTORS: Final = 96
CONNECTIONS: Final = 300


@pytest.fixture
def headwater(tmp_path: Path) -> Iterator[Headwater]:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(MANIFEST)
    with Headwater(tmp_path, "--manifests", manifest, descriptors=DESCRIPTORS) as running:
        wait_until(running.is_complete, SETTLE, "every process is up")
        yield running


def is_new(headwater: Headwater, title: str, old: int) -> bool:
    return headwater.pids().get(title, old) != old


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
        with contextlib.suppress(OSError):  # it accepts no more, or has closed
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
