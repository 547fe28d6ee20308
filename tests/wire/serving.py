"""Either transport in this process, on a unix socket, with a resolver that the test controls.

with serving("native", tmp_path) as server:
    server.call(query("web.test."))
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast

import dns.message
import grpc
import pytest
from headwater.answer.alias import Pending
from headwater.answer.resolver import Resolver
from headwater.serve import grpcio_server
from headwater.serve.queries import Queries
from headwater.serve.server import Server
from headwater.serve.service import QUERY, pack, unpack
from headwater.serve.tls import Certificates
from headwater.serve.upstream import Upstream
from headwater.settings.address import Address
from headwater.store.environment import Reader

T = TypeVar("T")
Transport = Literal["native", "grpcio"]
TRANSPORTS: Final[tuple[Transport, ...]] = ("native", "grpcio")
DEADLINE: Final = 30.0
PLAIN, SLOW = "plain.test.", "slow.test."


def tool(name: str) -> str:
    """Return the path of a program of Debian's nghttp2-client."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (nghttp2-client)")
    return found


def query(name: str = PLAIN, ident: int = 1) -> bytes:
    return dns.message.make_query(name, "A", id=ident, use_edns=False).to_wire()


def reply_to(message: bytes, size: int = 0) -> bytes:
    """Return a reply as long as the message, or of this size."""
    return (message[:2] + b"\x84\0\0\1" + bytes(6) + message[12:]).ljust(size, b"\0")


class FakeSnapshot:
    def close(self) -> None: ...


class FakeReader:
    """A store that is ready, or not."""

    def __init__(self) -> None:
        self.ready = True
        self.begun = 0

    def begin(self) -> FakeSnapshot:
        self.begun += 1
        return FakeSnapshot()

    def is_ready(self, _: FakeSnapshot) -> bool:
        return self.ready

    def is_whole(self, _: FakeSnapshot) -> bool:
        return self.ready

    def can_answer(self, _: FakeSnapshot) -> bool:
        return self.ready


class FakeResolver:
    """Acts by the beginning of the name.

    "slow" needs another server, "broken" raises, "slow-and-broken" raises when that server has
    answered, and the reply of "sized-N" has N bytes.
    """

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.stale = 0
        self.near = 0, 0
        self.asked = 0

    def answer(self, message: bytes, snapshot: object) -> bytes | Pending | None:
        self.asked += 1
        if len(message) < 2:
            return None
        label = message[13 : 13 + message[12]] if len(message) > 12 else b""
        if label == b"slow":
            return Pending(message[12:-4], 1, lambda records: reply_to(message) + b"".join(records))
        if label == b"broken":
            raise ZeroDivisionError
        if label == b"slow-and-broken":
            return Pending(message[12:-4], 1, lambda _: bytes(1 // 0))
        if label.startswith(b"sized-"):
            return reply_to(message, int(label[6:]))
        return reply_to(message)


class FakeUpstream:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked = 0
        self.given_up = 0
        self.counts: dict[str, int] = {}

    async def lookup(self, target: bytes, qtype: int, tenant: bytes) -> list[bytes]:
        self.asked += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        return [b"record"]


async def _last_things() -> None:
    """Let arriving connections and closing transports on the loop finish."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=DEADLINE)
    for _ in range(3):  # a transport closes its socket in the next round
        await asyncio.sleep(0)


class Serving:
    """A server, with its loop in a thread, and a client."""

    def __init__(self, transport: Transport, path: Path, files: Certificates | None = None) -> None:
        self.transport = transport
        self.address = Address(path=str(path))
        self.reader, self.resolver = FakeReader(), FakeResolver()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.upstream = FakeUpstream()
        self.queries = Queries(
            cast("Reader", self.reader), cast("Resolver", self.resolver), cast("Upstream", self.upstream)
        )
        self.stopped = False
        self.server: Server | None = None
        if transport == "native":
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(str(path))
            listening.listen(128)
            self.server = Server(self.queries, files)
            self.in_loop(self.server.start, listening)
        else:
            self._stop = grpcio_server.start(self.address, self.queries, self.loop, files)
        self._channels: list[grpc.Channel] = []
        self._others: list[Server] = []

    def also(self, listening: socket.socket) -> None:
        """Serve on another socket too (native)."""
        server = Server(self.queries)
        self.in_loop(server.start, listening.dup())
        self._others.append(server)

    def in_loop(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call it in the server's thread."""

        async def call() -> T:
            return function(*arguments)

        return self.run(call())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(DEADLINE)

    def channel(self, *options: tuple[str, Any]) -> grpc.Channel:
        channel = grpc.insecure_channel(str(self.address), options)
        self._channels.append(channel)
        return channel

    def method(self, name: str = QUERY, *options: tuple[str, Any]) -> Any:
        return self.channel(*options).unary_unary(name)

    def call(self, message: bytes, timeout: float = DEADLINE) -> bytes:
        if not self._channels:
            self.channel()
        call: Any = self._channels[0].unary_unary(QUERY)
        return unpack(call(pack(message), timeout=timeout))

    def release(self) -> None:
        """Let the other server answer."""
        self.loop.call_soon_threadsafe(self.upstream.go.set)

    def stop(self, grace: float) -> None:
        self.stopped = True
        if self.server is None:
            self._stop(grace)
        else:
            self.run(self.server.stop(grace))

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        self.release()
        for other in self._others:
            self.run(other.stop(0.0))
        if not self.stopped:
            self.stop(0.0)
        self.run(_last_things())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE)
        self.loop.close()


@contextlib.contextmanager
def serving(transport: Transport, folder: Path, files: Certificates | None = None) -> Iterator[Serving]:
    server = Serving(transport, folder / "s", files)
    try:
        yield server
    finally:
        server.close()
