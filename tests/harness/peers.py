"""The peer of a new instance, in this process: a true one, and one that says anything."""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from headwater.peers.outcome import HEAD, PATH
from headwater.peers.server import PeerServer
from headwater.process.progress import Progress
from headwater.settings.settings import Settings
from headwater.store.copied import PIECE, SENT, VERSION, Chain, Head, decode_head, encode_head, unpacked
from headwater.store.environment import Reader, Snapshot

from tests.harness.processes import wait_until

_DEADLINE: Final = 10.0


def _listening(port: int = 0) -> socket.socket:
    return socket.create_server(("127.0.0.1", port), backlog=64)


class Peer:
    """`PeerServer` in a thread, with these settings. A process may open a store only once."""

    def __init__(self, settings: Settings, reader: Reader, *, port: int = 0) -> None:
        self.reader = reader
        self._end = _listening(port)
        self.port: int = self._end.getsockname()[1]
        self.server = PeerServer(settings, self.reader, self._end)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self.server.serve, args=(self._stopping, Progress()), daemon=True)

    @contextlib.contextmanager
    def serving(self) -> Iterator[Peer]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            self._thread.join(_DEADLINE)
            assert not self._thread.is_alive()
            self._end.close()

    def requests(self) -> dict[str, int]:
        """What became of the requests so far."""
        return dict(self.server.snapshot().requests)

    def until(self, **expected: int) -> None:
        wait_until(lambda: self.requests() == expected, _DEADLINE, f"requests as in {expected}", interval=0.01)


@dataclass(frozen=True)
class Recorded:
    """A copy as a peer has sent it."""

    head: Head
    pieces: list[tuple[str, list[tuple[bytes, bytes]]]]

    def body(self) -> bytes:
        """All of it after the head, with digests that hold."""
        return b"".join(self.parts())

    def parts(self) -> list[bytes]:
        """Each piece, with a digest that holds, and the end."""
        chain = Chain(encode_head(self.head))
        parts = [chain.piece(db, [item for entry in entries for item in entry]) for db, entries in self.pieces]
        return [*parts, chain.end()]

    def bytes(self) -> bytes:
        """The whole response."""
        lines = ("HTTP/1.1 200 OK", f"{HEAD}: {encode_head(self.head).decode()}", "Connection: close", "", "")
        return "\r\n".join(lines).encode() + self.body()

    def but(self, **changes: Any) -> Recorded:
        """The same with another head."""
        return Recorded(msgspec.structs.replace(self.head, **changes), self.pieces)


def record(port: int) -> Recorded:
    """Take a copy from a peer on loopback that asks for no credential."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_DEADLINE)
    connection.request("GET", PATH)
    response = connection.getresponse()
    body = io.BytesIO(response.read())
    assert response.status == 200, body.getvalue()
    head = response.headers[HEAD].encode()
    pieces = [(db, [*zip(keys, values, strict=True)]) for db, keys, values in unpacked(head, body.read)]
    assert not body.read(), "something comes after the end"
    return Recorded(decode_head(head), pieces)


def copy_of(snapshot: Snapshot, source: str) -> Recorded:
    """The copy that a peer would send of a store."""
    pieces = [
        (db, [(bytes(key), bytes(value)) for key, value in zip(flat[::2], flat[1::2], strict=True)])
        for db in SENT
        for flat in snapshot.pieces(db, PIECE)
    ]
    versions = [int(value) for _, value in snapshot.scan("meta", VERSION) if value.isdigit()]
    return Recorded(
        Head("4", source, "simulated", "", 0.0, max(versions, default=0), snapshot.checksum(), 0, ""), pieces
    )


class Liar:
    """Who answers each connection with a function of its socket, after the request has come."""

    def __init__(self, say: Callable[[socket.socket], None]) -> None:
        self._say = say
        self._end = _listening()
        self.port: int = self._end.getsockname()[1]
        self.asked: list[bytes] = []
        self.over = threading.Event()

    @contextlib.contextmanager
    def lying(self) -> Iterator[Liar]:
        threading.Thread(target=self._run, daemon=True).start()
        try:
            yield self
        finally:
            self.over.set()
            with contextlib.suppress(OSError):
                self._end.shutdown(socket.SHUT_RDWR)
            self._end.close()

    def _run(self) -> None:
        while not self.over.is_set():
            try:
                end, _ = self._end.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(end,), daemon=True).start()

    def _answer(self, end: socket.socket) -> None:
        with end, contextlib.suppress(OSError):
            self.asked.append(end.recv(65536))
            self._say(end)
