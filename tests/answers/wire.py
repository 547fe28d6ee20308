"""Exchange messages in bulk with a server on 127.0.0.1: thousands a second."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from headwater.compare.messages import Query

#: Queries under way at a time: over UDP, and per TCP connection.
_WINDOW, _BATCH, _CONNECTIONS = 48, 24, 6
#: Seconds of silence after which a query is sent again over UDP, and given up.
_RETRY, _PATIENCE = 1.0, 6.0


def exchange(port: int, queries: Sequence[Query]) -> list[bytes | None]:
    """Ask a server on 127.0.0.1.

    Return its replies in the order of the queries; None for a missing one. Over TCP several queries
    are under way on each connection (RFC 7766 section 6.2.1.1).
    """
    replies: list[bytes | None] = [None] * len(queries)
    by_udp = [index for index, query in enumerate(queries) if not query.way.tcp]
    by_tcp = [index for index, query in enumerate(queries) if query.way.tcp]
    for start in range(0, len(by_udp), 0x10000):
        _over_udp(port, queries, by_udp[start : start + 0x10000], replies)
    if by_tcp:
        _over_tcp(port, queries, by_tcp, replies)
    return replies


def _over_udp(port: int, queries: Sequence[Query], wanted: list[int], replies: list[bytes | None]) -> None:
    if not wanted:
        return
    left = iter(range(len(wanted)))
    waiting: dict[int, float] = {}  # when each was first sent, by message id
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(("127.0.0.1", port))
        asking.settimeout(_RETRY)

        def send(number: int) -> None:
            waiting.setdefault(number, time.monotonic())
            asking.send(queries[wanted[number]].wire(number))

        for number in islice(left, _WINDOW):
            send(number)
        while waiting:
            try:
                reply = asking.recv(65535)
            except TimeoutError:
                now = time.monotonic()
                for number in [number for number, sent in waiting.items() if now - sent > _PATIENCE]:
                    del waiting[number]
                for number in waiting:
                    send(number)
            else:
                number = int.from_bytes(reply[:2], "big")
                if waiting.pop(number, None) is None:
                    continue  # a second reply, to a repeated query
                replies[wanted[number]] = reply
            while len(waiting) < _WINDOW and (number := next(left, -1)) >= 0:
                send(number)


@dataclass
class _Stream:
    """A TCP connection, and its queries."""

    socket: socket.socket
    left: list[int]
    """Queries that are not sent yet, the next one last."""
    waiting: set[int]
    received: bytearray

    def send(self, queries: Sequence[Query]) -> None:
        """Send the next batch when all replies to the previous one have arrived."""
        if not self.waiting:
            batch = [self.left.pop() for _ in range(min(_BATCH, len(self.left)))]
            self.waiting.update(batch)
            messages = [queries[index].wire(index & 0xFFFF) for index in batch]
            self.socket.sendall(b"".join(len(message).to_bytes(2, "big") + message for message in messages))

    def receive(self, replies: list[bytes | None]) -> bool:
        """Read the replies that have arrived. Return False if the peer has closed."""
        data = self.socket.recv(1 << 18)
        received = self.received
        received += data
        while len(received) >= 2 and len(received) >= 2 + (length := int.from_bytes(received[:2], "big")):
            message = bytes(received[2 : 2 + length])
            del received[: 2 + length]
            number = int.from_bytes(message[:2], "big")
            for index in self.waiting:
                if index & 0xFFFF == number:
                    replies[index] = message
                    self.waiting.discard(index)
                    break
        return bool(data)


def _over_tcp(port: int, queries: Sequence[Query], wanted: list[int], replies: list[bytes | None]) -> None:
    _over_connections(port, queries, wanted, replies, _CONNECTIONS)
    # A query without a reply may have ended its connection; the queries after it are repeated.
    for index in [index for index in wanted if replies[index] is None][:_CONNECTIONS]:
        _over_connections(port, queries, [index], replies, 1)


def _over_connections(
    port: int, queries: Sequence[Query], wanted: list[int], replies: list[bytes | None], count: int
) -> None:
    """Divide the queries among connections; return when all have
    replies, or none arrive any more.
    """
    with contextlib.ExitStack() as opened:
        streams: dict[socket.socket, _Stream] = {}
        for first in range(min(count, len(wanted))):
            connection = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
            opened.enter_context(connection)
            streams[connection] = _Stream(connection, wanted[first::count][::-1], set(), bytearray())
        while streams:
            for stream in streams.values():
                stream.send(queries)
            ready = select.select(list(streams), [], [], _PATIENCE)[0]
            if not ready:
                return
            for connection in ready:
                stream = streams[connection]
                try:
                    alive = stream.receive(replies)
                except OSError:
                    alive = False
                if not alive or not (stream.left or stream.waiting):
                    del streams[connection]
