"""HTTP/2 frames made and parsed by hand, so that tests can send wrong ones."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from headwater.serve.http2 import PREFACE, Code, Connection, block
from hpack import Decoder, Encoder

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

QUERY: Final = "/coredns.dns.DnsService/Query"
#: The headers as grpc-go sends them, except for grpc-timeout.
REQUEST: Final = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", QUERY),
    (":authority", "localhost"),
    ("content-type", "application/grpc"),
    ("user-agent", "grpc-go/1.81.1"),
    ("te", "trailers"),
)
HEAD: Final = block(((b":status", b"200"), (b"content-type", b"application/grpc")), end=False)
TAIL: Final = block(((b"grpc-status", b"0"),), end=True)


class Frame(NamedTuple):
    """One received frame."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """Return a frame; `length` may be a false length of its payload."""
    size = len(payload) if length is None else length
    return size.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def frames(data: bytes) -> Iterator[Frame]:
    """Yield all frames in some bytes.

    Fails for half frames, and for ones longer than any peer must take.
    """
    at = 0
    while at < len(data):
        size, kind, flags, stream = int.from_bytes(data[at : at + 3], "big"), *struct.unpack_from(">BBI", data, at + 3)
        assert size <= 16_384
        assert at + 9 + size <= len(data), "half a frame"
        yield Frame(kind, flags, stream, data[at + 9 : at + 9 + size])
        at += 9 + size


def settings(*pairs: tuple[int, int], ack: bool = False) -> bytes:
    return frame(SETTINGS, ACK if ack else 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def rst(stream: int, code: int = Code.CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def window(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def data(stream: int, payload: bytes = b"", *, end: bool = True, padding: int | None = None) -> bytes:
    flags = END_STREAM if end else 0
    if padding is not None:
        return frame(DATA, flags | PADDED, stream, bytes((padding,)) + payload + bytes(padding))
    return frame(DATA, flags, stream, payload)


class Client:
    """The client's side of header compression. It obeys our settings, and uses no table.

    Each block says so again, and does not depend on others. With `once` only the first block says
    so, as with real clients. With `table` it uses a table.
    """

    def __init__(self, *, huffman: bool = True, once: bool = False, table: bool = False) -> None:
        self._encoder = Encoder()
        self._prefix = b""
        if not table:
            self._encoder.header_table_size = 0
            if not once:
                self._prefix = self._encoder.encode(())
        self._huffman = huffman
        self._decoder = Decoder()

    def block(self, *fields: tuple[str, str]) -> bytes:
        return self._prefix + self._encoder.encode(fields, huffman=self._huffman)

    def headers(
        self, stream: int, *more: tuple[str, str], end: bool = False, request: tuple[tuple[str, str], ...] = REQUEST
    ) -> bytes:
        return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, self.block(*request, *more))

    def call(self, stream: int, body: bytes = b"query", timeout: str | None = "4999800u") -> bytes:
        more = () if timeout is None else (("grpc-timeout", timeout),)
        return self.headers(stream, *more) + data(stream, body)

    def read(self, payload: bytes) -> dict[str, str]:
        """Decode a header block of the server."""
        return {str(name): str(value) for name, value in self._decoder.decode(payload)}


#: The first bytes of a client.
HELLO: Final = PREFACE + settings() + settings(ack=True)


def connected() -> Connection[dict[bytes, bytes]]:
    """Return a connection after its handshake; requests have their headers as a dictionary."""
    connection = Connection(dict)
    connection.receive(HELLO)
    taken = list(frames(connection.take()))
    assert [(item.kind, item.flags) for item in taken] == [(SETTINGS, 0), (SETTINGS, ACK)]
    return connection


def said(connection: Connection[dict[bytes, bytes]]) -> list[Frame]:
    """Return the frames that the connection has to send now."""
    return list(frames(connection.take()))


def code_of(item: Frame) -> Code:
    """Return the error code of GOAWAY or RST_STREAM."""
    return Code(int.from_bytes(item.payload[4:8] if item.kind == GOAWAY else item.payload, "big"))
