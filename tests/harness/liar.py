"""A DNS server that tells the truth of a store, except where a test has it lie: over UDP and TCP,
on loopback.
"""

from __future__ import annotations

import contextlib
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import dns.message
from headwater.answer.alias import Pending
from headwater.answer.resolver import Resolver
from headwater.explain.offline import opened
from headwater.serve.dns_listener import for_udp
from headwater.settings.address import Address
from headwater.settings.settings import Settings
from headwater.store.environment import Reader
from headwater.writer import once

from tests.harness.processes import free_port

if TYPE_CHECKING:
    from types import TracebackType

Lie = Callable[[bytes, bytes], Sequence[bytes]]
"""(query, true reply) to the datagrams, or messages over TCP, that are sent instead; () for
silence.
"""

_TYPES: Final = {1: "A", 28: "AAAA", 33: "SRV", 12: "PTR", 16: "TXT", 6: "SOA"}


@dataclass
class Truth:
    """A store, and who reads it."""

    settings: Settings
    state_dir: Path
    reader: Reader
    resolver: Resolver

    def answer(self, query: bytes) -> bytes:
        self.reader.follow()
        snapshot = self.reader.begin()
        assert snapshot is not None
        try:
            reply = self.resolver.answer(query, snapshot)
        finally:
            snapshot.close()
        reply = reply.finish([]) if isinstance(reply, Pending) else reply
        assert reply is not None
        return reply


@contextlib.contextmanager
def truth_of(folder: Path, manifests: str, settings: Settings) -> Iterator[Truth]:
    """These manifests in a store of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "objects.yaml").write_text(manifests)
    settings = replace(settings, manifests=(str(folder / "objects.yaml"),), state_dir=str(folder / "state"))
    once.write(settings, folder / "state")
    with opened(folder / "state", settings) as (reader, resolver):
        yield Truth(settings, folder / "state", reader, resolver)


class Liar:
    """Answers by `answer`, changed by `lie`, which may be replaced at any time."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self.answer = answer
        self.lie: Lie = lambda _, reply: [reply]
        self.asked: Counter[str] = Counter()
        """Queries by name (in lower case) and type, as "web.ns.svc.cluster.local A"."""
        self.times: list[float] = []
        """When each query came."""
        self.tcp_queries = 0
        self._lock = threading.Lock()
        port = free_port()
        self._udp = socketserver.ThreadingUDPServer(("127.0.0.1", port), self._handler(tcp=False))
        self._tcp = _Tcp(("127.0.0.1", port), self._handler(tcp=True))
        self.address = Address(host="127.0.0.1", port=port)
        self._threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            for server in (self._udp, self._tcp)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server, thread in zip((self._udp, self._tcp), self._threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()

    def _replies(self, query: bytes, *, tcp: bool) -> Sequence[bytes]:
        with self._lock:
            self.times.append(time.monotonic())
            self.tcp_queries += tcp
            name, rtype = question_of(query)
            self.asked[f"{name} {rtype}"] += 1
            reply = self.answer(query)
            return self.lie(query, reply if tcp else for_udp(query, reply))

    def _handler(self, *, tcp: bool) -> type[socketserver.BaseRequestHandler]:
        liar = self

        class Udp(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                data, sock = self.request
                for reply in liar._replies(data, tcp=False):
                    sock.sendto(reply, self.client_address)

        class Tcp(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    while len(size := self.rfile.read(2)) == 2:
                        query = self.rfile.read(int.from_bytes(size, "big"))
                        for reply in liar._replies(query, tcp=True):
                            self.wfile.write(len(reply).to_bytes(2, "big") + reply)

        return Tcp if tcp else Udp


class _Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False  # a client may keep its connection
    allow_reuse_address = True


def question_of(query: bytes) -> tuple[str, str]:
    """Name, in lower case and without its last dot, and type."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("latin-1").lower())
        at += 1 + query[at]
    number = int.from_bytes(query[at + 1 : at + 3], "big")
    return ".".join(labels), _TYPES.get(number, str(number))


def about(name: str, rtype: str, change: Callable[[dns.message.Message], None]) -> Lie:
    """A lie about one question: the true reply, changed as dnspython has it."""

    def lie(query: bytes, reply: bytes) -> Sequence[bytes]:
        if question_of(query) != (name, rtype):
            return [reply]
        message = dns.message.from_wire(reply)
        change(message)
        return [message.to_wire(max_size=65535)]

    return lie


def instead(name: str, rtype: str, replies: Callable[[bytes, bytes], Sequence[bytes]]) -> Lie:
    """A lie about one question: whatever bytes."""
    return lambda query, reply: replies(query, reply) if question_of(query) == (name, rtype) else [reply]
