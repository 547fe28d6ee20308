"""gRPC's unary calls on `http2` (grpc's doc/PROTOCOL-HTTP2.md), sans-IO as that is.

This module decides the outcome of a call; others read and write. `Calls.answer` takes all calls of
one read as one batch, and their replies are from one moment of the store.

A call that cannot be served ends with a gRPC status in its trailers. Only such calls do: every
outcome of DNS is a DNS message (contract 1). Statuses are those of doc/statuscodes.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final

from headwater.answer.alias import Pending
from headwater.answer.short import Answer
from headwater.serve.fields import Headers
from headwater.serve.http2 import Block, Connection, block
from headwater.serve.queries import Failed, Queries
from headwater.serve.service import (
    HEALTH_CHECK,
    MAX_PACKET,
    QUERY,
    Refused,
    Status,
    bug,
    health,
    message_of,
    no_id,
    pack_head,
)


class Method(Enum):
    """What can be called."""

    QUERY = QUERY.encode()
    HEALTH_CHECK = HEALTH_CHECK.encode()


@dataclass(frozen=True, slots=True)
class Plain:
    """A reply that does not depend on the request."""

    head: Block
    body: bytes = b""


Route = Method | Plain

_CONTENT_TYPE: Final = (b"content-type", b"application/grpc")
_OK: Final = (b":status", b"200")
_HEAD: Final = block((_OK, _CONTENT_TYPE), end=False)
_TAIL: Final = block(((b"grpc-status", b"0"),), end=True)
_METHODS: Final = {method.value: method for method in Method}
_IS_GRPC: Final = re.compile(rb"application/grpc(\+proto)?[ \t]*(;.*)?", re.IGNORECASE | re.DOTALL).fullmatch

#: For browsers, curl and load balancers, which speak HTTP/2 too.
_TEXT: Final = b"This is a gRPC server.\n"
_ALLOW: Final = ((b":status", b"405"), (b"allow", b"POST"), (b"content-type", b"text/plain"))
_NOT_POST: Final = Plain(block(_ALLOW, end=False), _TEXT)
_NOT_EVEN_GET: Final = Plain(block(_ALLOW, end=True))
_NOT_GRPC: Final = Plain(block(((b":status", b"415"), (b"content-type", b"text/plain")), end=False), _TEXT)

#: One message: a flag, its length, itself.
_MESSAGE_HEAD: Final = 5
#: By a message's length: the bytes before it in a reply's DATA.
_SHORT_REPLIES: Final = [
    b"\0" + (len(pack_head(size)) + size).to_bytes(4, "big") + pack_head(size) for size in range(1024)
]
#: By DATA's length: the bytes before the message in an ordinary request (a length below 128 has one
#: byte).
_ORDINARY: Final = [b""] * 7 + [_SHORT_REPLIES[size] for size in range(0x80)]


def route(headers: Headers) -> Route:
    """The route of a request, by its headers alone."""
    fields = dict(headers)
    method = fields[b":method"]
    if method != b"POST":
        return _NOT_EVEN_GET if method == b"HEAD" else _NOT_POST
    # "Servers should respond with HTTP status of 415": other clients would not see a gRPC error in
    # a 200.
    if not _IS_GRPC(fields.get(b"content-type", b"")):
        return _NOT_GRPC
    found = _METHODS.get(fields[b":path"])
    return Plain(_trailers_only(Status.UNIMPLEMENTED, "unknown method")) if found is None else found


_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MAX_TIMEOUTS: Final = 4096
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])").fullmatch


class _Timeouts(dict[bytes, float]):
    """Seconds by the text of `grpc-timeout`: without one infinite, NaN for a bad one."""

    def __missing__(self, text: bytes) -> float:
        match = _TIMEOUT(text)
        if match is None:
            return math.nan if text else math.inf
        if len(self) >= _MAX_TIMEOUTS:
            self.clear()
        seconds = self[text] = int(match[1]) * _UNITS[match[2]]
        return seconds


_timeouts: Final = _Timeouts()


def unframe(body: bytes | None) -> bytes:
    """The one message of a request. Raises Refused."""
    # A request of no message, or of several, violates the method's cardinality: UNIMPLEMENTED.
    if body == b"":
        raise Refused(Status.UNIMPLEMENTED, "a call takes one message, not none")
    length = MAX_PACKET + 1 if body is None else int.from_bytes(body[1:_MESSAGE_HEAD], "big")
    if length > MAX_PACKET:
        raise Refused(Status.RESOURCE_EXHAUSTED, f"a message has at most {MAX_PACKET:,} bytes")
    assert body is not None
    if body[0] == 1:
        raise Refused(Status.UNIMPLEMENTED, "compressed messages are not supported")
    if body[0] or len(body) < _MESSAGE_HEAD + length:
        raise Refused(Status.INTERNAL, "the request is not a gRPC message")
    if len(body) > _MESSAGE_HEAD + length:
        raise Refused(Status.UNIMPLEMENTED, "a call takes one message, not several")
    return body[_MESSAGE_HEAD:]


def frame(message: bytes) -> bytes:
    """A serialized message as it goes into DATA."""
    return b"\0" + len(message).to_bytes(4, "big") + message


@lru_cache(maxsize=64)
def _trailers_only(status: Status, why: str) -> Block:
    """A refusal: headers that are trailers at the same time."""
    fields = [_OK, _CONTENT_TYPE, (b"grpc-status", b"%d" % status), (b"grpc-message", percent(why))]
    if status is Status.UNIMPLEMENTED:  # doc/compression.md: name what to use instead
        fields.append((b"grpc-accept-encoding", b"identity"))
    return block(fields, end=True)


def percent(text: str) -> bytes:
    """`grpc-message`: UTF-8; all but printable ASCII, and the percent sign, is percent-encoded."""
    return b"".join(
        bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in text.encode()
    )


@dataclass(frozen=True, slots=True)
class Waiting:
    """A call whose reply needs another server.

    `Queries.complete` makes it; `Calls.finish` sends it.
    """

    stream: int
    message: bytes
    pending: Pending
    seconds: float
    """How long the client waits."""


class Calls:
    """All calls of an answer process, on any connection to one of its addresses."""

    def __init__(self, queries: Queries, way: Answer | None = None) -> None:
        """`way`: how they are answered, by default as everybody."""
        self._queries = queries
        self._way = way

    def answer(self, connection: Connection[Route]) -> Sequence[Waiting]:
        """Answer the requests while there is room for replies; returns calls that need time."""
        query = Method.QUERY
        batch = None
        waiting: list[Waiting] = []
        try:
            for stream, to, timeout, body in connection.requests():
                try:
                    if to is query and (seconds := _timeouts[timeout]) > 0.0:
                        if body is not None and 6 < len(body) < 135 and body[:7] == _ORDINARY[len(body)]:
                            message = body[7:]
                        else:
                            message = message_of(unframe(body))
                        if batch is None:
                            batch = self._queries.begin(self._way)
                        reply = batch.answer(message)
                        if isinstance(reply, bytes):
                            connection.send(stream, _HEAD, _framed(reply), _TAIL)
                        elif reply is None:
                            raise no_id()
                        else:
                            waiting.append(Waiting(stream, message, batch.patient(message, reply), seconds))
                    else:
                        self._others(connection, stream, to, timeout, body)
                except Refused as refused:
                    self.refuse(connection, stream, refused)
                except Failed:
                    self.refuse(connection, stream, bug())
                except Exception as error:  # noqa: BLE001 (contract 5: nothing that a client sends raises out of the loop)
                    self._queries.failed(error)
                    self.refuse(connection, stream, bug())
        finally:
            if batch is not None:
                batch.end()
        return waiting

    def _others(
        self, connection: Connection[Route], stream: int, to: Route, timeout: bytes, body: bytes | None
    ) -> None:
        """All but a query in time. Raises Refused."""
        if isinstance(to, Plain):
            connection.send(stream, to.head, to.body)
            return
        seconds = _timeouts[timeout]
        if math.isnan(seconds):
            raise Refused(Status.INVALID_ARGUMENT, "grpc-timeout is not a timeout")
        if seconds <= 0.0:
            raise Refused(Status.DEADLINE_EXCEEDED, "the call came with no time left")
        answer = health(unframe(body), ready=self._queries.is_ready())
        connection.send(stream, _HEAD, frame(answer), _TAIL)

    @staticmethod
    def finish(connection: Connection[Route], stream: int, reply: bytes) -> None:
        """Send the reply to a call that waited, unless nobody waits for it any more."""
        connection.send(stream, _HEAD, _framed(reply), _TAIL)

    @staticmethod
    def refuse(connection: Connection[Route], stream: int, refused: Refused) -> None:
        """End a call with another status than OK."""
        connection.send(stream, _trailers_only(refused.status, refused.why))


def _framed(message: bytes) -> bytes:
    """A DNS message as a reply's DATA."""
    size = len(message)
    if size < 1024:
        return _SHORT_REPLIES[size] + message
    head = pack_head(size)
    return b"".join((b"\0", (len(head) + size).to_bytes(4, "big"), head, message))
