"""Hostile clients: connections that are opened, renewed and misused until the end of a block."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Final, Self

from tests.harness.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

_SETTLE: Final = 20.0  # seconds
GET: Final = b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"


class Attack:
    """Opens connections, and replaces lost ones, until the end of the
    block; calls `act` once with each.
    """

    def __init__(self, port: int, count: int, act: Callable[[socket.socket], None]) -> None:
        self._port = port
        self._count = count
        self._act = act
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.opened = 0

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self.opened >= self._count, _SETTLE, "the attack is under way")
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
