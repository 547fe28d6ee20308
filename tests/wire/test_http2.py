"""HTTP/2 frame by frame: the rules of RFC 9113, sections 3.4 to 8.5, and
the errors of breaking them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from headwater.serve import arrivals, fields, http2, server
from headwater.serve.http2 import MAX_BODY, MAX_QUEUED, MAX_STREAMS, MAX_UNFINISHED, PREFACE, Code, Connection, block
from hpack import Encoder

from tests.wire.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEAD,
    HEADERS,
    HELLO,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    QUERY,
    REQUEST,
    RST_STREAM,
    SETTINGS,
    TAIL,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    Client,
    Frame,
    code_of,
    connected,
    data,
    frame,
    frames,
    rst,
    said,
    settings,
    window,
)

LONG = b"x" * 100_000


def ended(connection: Connection[dict[bytes, bytes]]) -> Code:
    """Return the connection's error. After it the connection must not send or receive anything."""
    assert connection.closed
    *_, last = said(connection)
    assert last.kind == GOAWAY
    connection.receive(frame(PING, 0, 0, bytes(8)))
    assert connection.take() == b""
    return code_of(last)


def streams(connection: Connection[dict[bytes, bytes]]) -> list[int]:
    return [request[0] for request in connection.requests()]


def is_closed(connection: Connection[dict[bytes, bytes]]) -> bool:
    return connection.closed


def has_requests(connection: Connection[dict[bytes, bytes]]) -> bool:
    return connection.has_requests


# Section 3.4, the preface


def test_the_server_speaks_first_and_says_what_it_takes() -> None:
    (first,) = frames(Connection(dict).take())
    assert (first.kind, first.flags, first.stream) == (SETTINGS, 0, 0)
    pairs = {
        int.from_bytes(first.payload[at : at + 2], "big"): int.from_bytes(first.payload[at + 2 : at + 6], "big")
        for at in range(0, len(first.payload), 6)
    }
    assert pairs == {1: 0, 3: 512, 4: 131_071, 5: 16_384, 6: 16_384}


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00",  # TLS
        b"\0",
        PREFACE[:-1] + b"x",
        PREFACE[:5].lower(),
        frame(SETTINGS),
    ],
)
def test_what_is_not_http2_is_refused_at_the_first_wrong_byte(sent: bytes) -> None:
    connection = Connection(dict)
    connection.receive(sent)
    assert ended(connection) == Code.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "first",
    [frame(PING, 0, 0, bytes(8)), Client().call(1), settings(ack=True), window(0, 1), frame(0x42), data(1)],
    ids=["ping", "headers", "acknowledgement", "window update", "unknown", "data"],
)
def test_the_first_frame_is_settings(first: bytes) -> None:
    connection = Connection(dict)
    connection.receive(PREFACE + first)
    assert ended(connection) == Code.PROTOCOL_ERROR


# Requests and replies


def test_a_call_is_asked_and_answered() -> None:
    connection, client = connected(), Client()
    connection.receive(client.call(1, b"query", "5S"))
    ((stream, head, timeout, body),) = connection.requests()
    assert (stream, timeout, body) == (1, b"5S", b"query")
    assert head == {**{name.encode(): value.encode() for name, value in REQUEST}, b"grpc-timeout": b"5S"}
    connection.send(1, HEAD, b"reply", TAIL)
    first, second, third = said(connection)
    assert first[:3] == (HEADERS, END_HEADERS, 1)
    assert client.read(first.payload) == {":status": "200", "content-type": "application/grpc"}
    assert second == (DATA, 0, 1, b"reply")
    assert third[:3] == (HEADERS, END_HEADERS | END_STREAM, 1)
    assert client.read(third.payload) == {"grpc-status": "0"}


def test_a_reply_may_be_headers_alone_or_have_no_trailers() -> None:
    connection, client = connected(), Client()
    connection.receive(client.call(1) + client.call(3) + client.call(5))
    assert streams(connection) == [1, 3, 5]
    connection.send(5, block(((b":status", b"404"), (b"x", b"y" * 300)), end=True))
    connection.send(3, HEAD, b"text")
    connection.send(1, HEAD, b"", TAIL)
    taken = said(connection)
    assert [item[:3] for item in taken] == [
        (HEADERS, END_HEADERS | END_STREAM, 5),
        (HEADERS, END_HEADERS, 3),
        (DATA, END_STREAM, 3),
        (HEADERS, END_HEADERS, 1),
        (DATA, 0, 1),
        (HEADERS, END_HEADERS | END_STREAM, 1),
    ]
    assert client.read(taken[0].payload) == {":status": "404", "x": "y" * 300}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 1000])
def test_a_request_may_come_in_pieces(size: int) -> None:
    connection, client = Connection(dict), Client()
    sent = HELLO + b"".join(client.call(stream, b"q%d" % stream) for stream in (1, 3, 5, 7))
    asked = []
    for at in range(0, len(sent), size):
        connection.receive(sent[at : at + size])
        asked += [(stream, timeout, body) for stream, _, timeout, body in connection.requests()]
    assert asked == [(stream, b"4999800u", b"q%d" % stream) for stream in (1, 3, 5, 7)]


def test_a_body_may_come_in_many_frames_and_end_with_an_empty_one_or_with_trailers() -> None:
    connection, client = connected(), Client()
    connection.receive(client.headers(1) + client.headers(3))
    for part in (b"a", b"bc", b"", b"d"):
        connection.receive(data(1, part, end=False) + data(3, part, end=False, padding=7))
    connection.receive(data(1) + frame(HEADERS, END_HEADERS | END_STREAM, 3, client.block(("x-trailer", "1"))))
    assert [(stream, body) for stream, _, _, body in connection.requests()] == [(1, b"abcd"), (3, b"abcd")]


def test_a_request_may_have_no_body() -> None:
    connection, client = connected(), Client()
    connection.receive(client.headers(1, end=True))
    assert [body for _, _, _, body in connection.requests()] == [b""]


def test_what_was_asked_before_an_error_can_be_answered() -> None:
    """It does not matter whether the request and the error arrive together."""
    connection, client = connected(), Client()
    connection.receive(client.call(1) + frame(PING, 0, 0, b"short"))
    assert streams(connection) == [1]
    connection.send(1, HEAD, b"reply", TAIL)
    assert connection.closed
    taken = said(connection)
    assert [item.kind for item in taken] == [HEADERS, DATA, HEADERS, GOAWAY]
    assert taken[-1].payload[:8] == (1).to_bytes(4, "big") + Code.FRAME_SIZE_ERROR.to_bytes(4, "big")


def test_nothing_follows_what_was_said_last() -> None:
    connection, client = connected(), Client()
    connection.receive(client.call(1) + client.call(3) + client.headers(5) + frame(PING, 0, 0, b"bad"))
    stream, *_ = next(connection.requests())
    *_, last = said(connection)
    assert last.kind == GOAWAY
    assert list(connection.requests()) == []
    connection.send(stream, HEAD, b"late", TAIL)
    assert said(connection) == []


def test_a_reply_to_a_stream_that_is_gone_is_dropped() -> None:
    connection, client = connected(), Client()
    connection.receive(client.call(1))
    assert streams(connection) == [1]
    connection.receive(rst(1))
    assert connection.cancelled == [1]
    for stream in (1, 3, 0, 2):
        connection.send(stream, HEAD, b"reply", TAIL)
    assert connection.take() == b""


def test_a_request_that_is_taken_back_at_once_is_not_even_handed_out() -> None:
    connection, client = connected(), Client()
    connection.receive(client.call(1) + client.call(3) + rst(1))
    assert streams(connection) == [3]


# Each rule, and the error of breaking it


C = Client()
PRIORITY_5 = b"\0\0\0\0\x10"
CONNECTION_ERRORS: dict[str, tuple[Code, bytes]] = {
    "4.2 a frame longer than we take": (Code.FRAME_SIZE_ERROR, frame(DATA, 0, 1, length=16_385)),
    "4.2 an unknown frame longer than we take": (Code.FRAME_SIZE_ERROR, frame(0x42, 0, 1, length=0xFFFFFF)),
    "4.3 a header block interrupted by DATA": (
        Code.PROTOCOL_ERROR, frame(HEADERS, 0, 1, C.block(*REQUEST)) + data(1),
    ),
    "4.3 a header block interrupted by an unknown frame": (
        Code.PROTOCOL_ERROR, frame(HEADERS, 0, 1, C.block(*REQUEST)) + frame(0x42),
    ),
    "4.3 a header block interrupted by a call": (
        Code.PROTOCOL_ERROR, frame(HEADERS, 0, 1, C.block(*REQUEST)) + C.call(3),
    ),
    "4.3 a header block continued on another stream": (
        Code.PROTOCOL_ERROR,
        frame(HEADERS, 0, 1, C.block(*REQUEST)) + frame(CONTINUATION, END_HEADERS, 3),
    ),
    "4.3 a header block that does not decode": (
        Code.COMPRESSION_ERROR, frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xff\xff\xff\xff\xff\xff\xff"),
    ),
    "4.3 trailers that do not decode": (
        Code.COMPRESSION_ERROR, C.headers(1) + frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x40"),
    ),
    "4.3 a table larger than announced": (
        Code.COMPRESSION_ERROR, frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x21" + C.block(*REQUEST)),
    ),
    "5.1 idle: DATA": (Code.PROTOCOL_ERROR, data(1)),
    "5.1 idle: RST_STREAM": (Code.PROTOCOL_ERROR, rst(1)),
    "5.1 idle: WINDOW_UPDATE": (Code.PROTOCOL_ERROR, window(1, 1)),
    "5.1 idle: CONTINUATION": (Code.PROTOCOL_ERROR, frame(CONTINUATION, END_HEADERS, 1)),
    "5.1 idle: DATA on a stream of ours": (Code.PROTOCOL_ERROR, C.call(5) + data(2)),
    "5.1 idle: WINDOW_UPDATE on a stream of ours": (Code.PROTOCOL_ERROR, C.call(5) + window(4, 1)),
    "5.1 closed: HEADERS": (Code.STREAM_CLOSED, C.call(1) + rst(1) + C.headers(1)),
    "5.1.1 an even stream": (Code.PROTOCOL_ERROR, C.headers(2)),
    "5.1.1 a stream below the last": (Code.STREAM_CLOSED, C.call(5) + C.call(3)),
    "6.1 DATA on stream 0": (Code.PROTOCOL_ERROR, data(0, b"x")),
    "6.1 more padding than payload": (Code.PROTOCOL_ERROR, C.headers(1) + frame(DATA, PADDED, 1, b"\x02x")),
    "6.1 padding without its length": (Code.FRAME_SIZE_ERROR, C.headers(1) + frame(DATA, PADDED, 1)),
    "6.2 HEADERS on stream 0": (Code.PROTOCOL_ERROR, frame(HEADERS, END_HEADERS, 0, C.block(*REQUEST))),
    "6.2 more padding than payload": (
        Code.PROTOCOL_ERROR, frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + C.block(*REQUEST)),
    ),
    "6.2 no room for the priority": (
        Code.FRAME_SIZE_ERROR, frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, b"\0\0\0\0"),
    ),
    "6.3 PRIORITY on stream 0": (Code.PROTOCOL_ERROR, frame(PRIORITY, 0, 0, PRIORITY_5)),
    "6.3 PRIORITY of another length on an idle stream": (Code.FRAME_SIZE_ERROR, frame(PRIORITY, 0, 9, b"\0")),
    "6.4 RST_STREAM on stream 0": (Code.PROTOCOL_ERROR, rst(0)),
    "6.4 RST_STREAM of another length": (Code.FRAME_SIZE_ERROR, C.headers(1) + frame(RST_STREAM, 0, 1, bytes(5))),
    "6.5 SETTINGS on a stream": (Code.PROTOCOL_ERROR, frame(SETTINGS, 0, 1)),
    "6.5 SETTINGS of another length": (Code.FRAME_SIZE_ERROR, frame(SETTINGS, 0, 0, bytes(5))),
    "6.5 an acknowledgement with a payload": (Code.FRAME_SIZE_ERROR, frame(SETTINGS, ACK, 0, bytes(6))),
    "6.5.2 ENABLE_PUSH": (Code.PROTOCOL_ERROR, settings((2, 2))),
    "6.5.2 INITIAL_WINDOW_SIZE": (Code.FLOW_CONTROL_ERROR, settings((4, 2**31))),
    "6.5.2 MAX_FRAME_SIZE too small": (Code.PROTOCOL_ERROR, settings((5, 16_383))),
    "6.5.2 MAX_FRAME_SIZE too large": (Code.PROTOCOL_ERROR, settings((5, 16_777_216))),
    "6.6 PUSH_PROMISE": (Code.PROTOCOL_ERROR, C.headers(1) + frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4))),
    "6.7 PING on a stream": (Code.PROTOCOL_ERROR, frame(PING, 0, 1, bytes(8))),
    "6.7 PING of another length": (Code.FRAME_SIZE_ERROR, frame(PING, 0, 0, bytes(7))),
    "6.8 GOAWAY on a stream": (Code.PROTOCOL_ERROR, frame(GOAWAY, 0, 1, bytes(8))),
    "6.8 GOAWAY that is too short": (Code.FRAME_SIZE_ERROR, frame(GOAWAY, 0, 0, bytes(7))),
    "6.9 WINDOW_UPDATE of another length": (Code.FRAME_SIZE_ERROR, frame(WINDOW_UPDATE, 0, 0, bytes(3))),
    "6.9 WINDOW_UPDATE by nothing": (Code.PROTOCOL_ERROR, window(0, 0)),
    "6.9.1 the connection's window grows too large": (Code.FLOW_CONTROL_ERROR, window(0, 2**31 - 1)),
    "6.9.1 more DATA than our window": (
        Code.FLOW_CONTROL_ERROR, C.headers(1) + rst(1) + b"".join(data(1, bytes(16_384)) for _ in range(4)),
    ),
    "6.9.2 a stream's window grows too large by SETTINGS": (
        Code.FLOW_CONTROL_ERROR, C.headers(1) + window(1, 2**31 - 1 - 65_535) + settings((4, 65_536)),
    ),
    "6.10 CONTINUATION of nothing": (Code.PROTOCOL_ERROR, C.headers(1) + frame(CONTINUATION, END_HEADERS, 1)),
    "10.5.1 a header list that is too long": (Code.ENHANCE_YOUR_CALM, C.headers(1, ("x", "y" * 16_300))),
}  # fmt: skip


@pytest.mark.parametrize("rule", CONNECTION_ERRORS)
def test_a_connection_error_ends_the_connection(rule: str) -> None:
    code, sent = CONNECTION_ERRORS[rule]
    connection = connected()
    connection.receive(sent)
    assert ended(connection) == code
    for piece in (1, 5):
        split = connected()
        for at in range(0, len(sent), piece):
            split.receive(sent[at : at + piece])
        assert ended(split) == code


STREAM_ERRORS: dict[str, tuple[Code, bytes]] = {
    "5.1 half-closed: DATA": (Code.STREAM_CLOSED, C.call(1) + data(1)),
    "5.1 half-closed: HEADERS": (Code.STREAM_CLOSED, C.call(1) + C.headers(1, end=True)),
    "5.1 closed: DATA": (Code.STREAM_CLOSED, C.call(1) + rst(1) + data(1)),
    "5.3.1 a stream depends on itself": (
        Code.PROTOCOL_ERROR,
        frame(HEADERS, END_HEADERS | WITH_PRIORITY, 1, b"\0\0\0\1\x10" + C.block(*REQUEST)),
    ),
    "5.3.1 PRIORITY on itself": (Code.PROTOCOL_ERROR, C.headers(1) + frame(PRIORITY, 0, 1, b"\0\0\0\1\x10")),
    "6.3 PRIORITY of another length": (Code.FRAME_SIZE_ERROR, C.headers(1) + frame(PRIORITY, 0, 1, bytes(4))),
    "6.9 WINDOW_UPDATE by nothing": (Code.PROTOCOL_ERROR, C.headers(1) + window(1, 0)),
    "6.9.1 a stream's window grows too large": (Code.FLOW_CONTROL_ERROR, C.headers(1) + window(1, 2**31 - 1)),
    "6.9.1 the same while it is due": (Code.FLOW_CONTROL_ERROR, C.call(1) + window(1, 2**31 - 1)),
    "8.1 headers in the middle of a body": (Code.PROTOCOL_ERROR, C.headers(1) + C.headers(1)),
    "8.1 trailers with a pseudo-header field": (
        Code.PROTOCOL_ERROR, C.headers(1) + frame(HEADERS, END_HEADERS | END_STREAM, 1, C.block((":path", "/"))),
    ),
    "8.1.1 less than content-length": (Code.PROTOCOL_ERROR, C.headers(1, ("content-length", "2")) + data(1, b"x")),
    "8.1.1 more than content-length": (Code.PROTOCOL_ERROR, C.headers(1, ("content-length", "0")) + data(1, b"x")),
    "8.1.1 no body for a content-length": (Code.PROTOCOL_ERROR, C.headers(1, ("content-length", "1"), end=True)),
}  # fmt: skip


def without(name: str) -> tuple[tuple[str, str], ...]:
    return tuple(field for field in REQUEST if field[0] != name)


MALFORMED: dict[str, tuple[tuple[str, str], ...]] = {
    "8.2.1 an upper-case name": (*REQUEST, ("X-Test", "1")),
    "8.2.1 a name with a space": (*REQUEST, ("x test", "1")),
    "8.2.1 an empty name": (*REQUEST, ("", "1")),
    "8.2.1 a name with a colon": (*REQUEST, ("x:y", "1")),
    "8.2.1 a value with a line end": (*REQUEST, ("x", "1\r\n2")),
    "8.2.1 a value with a zero byte": (*REQUEST, ("x", "1\x002")),
    "8.2.1 a value with a space before it": (*REQUEST, ("x", " 1")),
    "8.2.1 a value with a tab behind it": (*REQUEST, ("x", "1\t")),
    "8.2.2 connection": (*REQUEST, ("connection", "keep-alive")),
    "8.2.2 proxy-connection": (*REQUEST, ("proxy-connection", "keep-alive")),
    "8.2.2 keep-alive": (*REQUEST, ("keep-alive", "1")),
    "8.2.2 transfer-encoding": (*REQUEST, ("transfer-encoding", "chunked")),
    "8.2.2 upgrade": (*REQUEST, ("upgrade", "h2c")),
    "8.2.2 te": (*without("te"), ("te", "gzip")),
    "8.3 a pseudo-header field behind others": (*without(":path"), (":path", "/")),
    "8.3 an unknown pseudo-header field": ((":test", "1"), *REQUEST),
    "8.3 a reply's pseudo-header field": ((":status", "200"), *REQUEST),
    "8.3 a pseudo-header field with a line end": ((":authority", "a\nb"), *without(":authority")),
    "8.3.1 no :method": without(":method"),
    "8.3.1 no :scheme": without(":scheme"),
    "8.3.1 no :path": without(":path"),
    "8.3.1 an empty :path": ((":path", ""), *without(":path")),
    "8.3.1 :method twice": ((":method", "POST"), *REQUEST),
    "8.3.1 :scheme twice": ((":scheme", "http"), *REQUEST),
    "8.3.1 :path twice": ((":path", "/"), *REQUEST),
    "8.5 CONNECT with a path": ((":method", "CONNECT"), *without(":method")),
    "8.1.1 two lengths": (*REQUEST, ("content-length", "1"), ("content-length", "2")),
    "8.1.1 a length that is none": (*REQUEST, ("content-length", "-1")),
}
STREAM_ERRORS |= {
    rule: (Code.PROTOCOL_ERROR, frame(HEADERS, END_HEADERS | END_STREAM, 1, Client().block(*headers)))
    for rule, headers in MALFORMED.items()
}


@pytest.mark.parametrize("rule", STREAM_ERRORS)
@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_a_stream_error_ends_the_stream_and_no_other(rule: str, piece: int) -> None:
    code, sent = STREAM_ERRORS[rule]
    connection = connected()
    for at in range(0, len(sent), piece):
        connection.receive(sent[at : at + piece])
    (reset,) = said(connection)
    assert (reset.kind, reset.stream, code_of(reset)) == (RST_STREAM, 1, code)
    connection.receive(Client().call(99))
    assert streams(connection) == [99]
    connection.send(99, HEAD, b"reply", TAIL)
    assert len(said(connection)) == 3


ALLOWED: dict[str, bytes] = {
    "4.1 the reserved bit": frame(HEADERS, END_HEADERS, 1 | 1 << 31, C.block(*REQUEST)) + data(1 | 1 << 31, b"query"),
    "4.1 flags that mean nothing": frame(HEADERS, END_HEADERS | 0xD2, 1, C.block(*REQUEST))
    + frame(DATA, 0xF6 | END_STREAM, 1, b"query"),
    "5.1 idle: PRIORITY": frame(PRIORITY, 0, 7, PRIORITY_5) + C.call(1),
    "5.1 half-closed: WINDOW_UPDATE and PRIORITY": C.call(1) + window(1, 1) + frame(PRIORITY, 0, 1, PRIORITY_5),
    "5.1.1 streams are left out": C.call(101, b"query"),
    "5.5 unknown frames": frame(0x42, 0xFF, 5, b"x") + frame(0xFF) + C.call(1),
    "6.2 padding and priority": frame(
        HEADERS, END_HEADERS | PADDED | WITH_PRIORITY, 1, b"\x03" + PRIORITY_5 + C.block(*REQUEST) + bytes(3)
    )
    + data(1, b"query", padding=255),
    "6.5.2 unknown settings": settings((0x99, 1), (0, 0), (1, 0), (1, 2**32 - 1), (3, 0), (6, 0)) + C.call(1),
    "6.8 the client will leave": frame(GOAWAY, 0, 0, bytes(8) + b"bye") + C.call(1),
    "6.10 a block in pieces": frame(HEADERS, 0, 1, C.block(*REQUEST)[:1])
    + frame(CONTINUATION, 0, 1, C.block(*REQUEST)[1:9])
    + frame(CONTINUATION, 0, 1)
    + frame(CONTINUATION, END_HEADERS, 1, C.block(*REQUEST)[9:])
    + data(1, b"query"),
    "8.1.1 a content-length that is right": C.headers(1, ("content-length", "5"), ("content-length", "5"))
    + data(1, b"query"),
    "8.2.1 an empty value": C.headers(1, ("x", "")) + data(1, b"query"),
    "8.2.2 te in capitals": C.headers(1, request=(*without("te"), ("te", "Trailers"))) + data(1, b"query"),
}


@pytest.mark.parametrize("rule", ALLOWED)
def test_what_is_allowed_is_taken(rule: str) -> None:
    connection = connected()
    connection.receive(ALLOWED[rule])
    ((_, head, _, body),) = connection.requests()
    assert head[b":path"] == QUERY.encode()
    assert body == b"query"
    assert not connection.closed


def test_connect_has_an_authority_and_nothing_else() -> None:
    connection, client = connected(), Client()
    connection.receive(client.headers(1, end=True, request=((":method", "CONNECT"), (":authority", "x:1"))))
    assert streams(connection) == [1]


# Section 4.3, header compression before and after our settings are known


def test_a_client_may_use_a_table_until_it_knows_our_settings() -> None:
    connection, client = Connection(dict), Client(table=True)
    connection.receive(PREFACE + settings())
    for stream in (1, 3, 5):
        connection.receive(client.call(stream))
    assert [head[b":path"] for _, head, _, _ in connection.requests()] == [QUERY.encode()] * 3
    # The client acknowledges, and says in its next block that its table is empty.
    client._encoder.header_table_size = 0
    connection.receive(settings(ack=True) + client.call(7) + client.call(9))
    assert [(stream, head[b":path"]) for stream, head, _, _ in connection.requests()] == [
        (7, QUERY.encode()),
        (9, QUERY.encode()),
    ]
    assert not connection.closed


def test_a_client_that_knows_our_settings_and_keeps_its_table_is_understood() -> None:
    """Section 4.3.1 would end the connection; see `fields.Blocks.decode`."""
    connection, client = connected(), Client(table=True)
    for stream in (1, 3, 5):
        connection.receive(client.call(stream))
    assert [head[b":path"] for _, head, _, _ in connection.requests()] == [QUERY.encode()] * 3
    assert not connection._blocks.known, "what its blocks mean is not for ever"
    # After it has named the size, there is no way back.
    connection.receive(frame(HEADERS, END_HEADERS | END_STREAM, 7, b"\x20" + Client(once=True).block(*REQUEST)[1:]))
    assert streams(connection) == [7]
    connection.receive(frame(HEADERS, END_HEADERS | END_STREAM, 9, b"\xbe"))
    assert ended(connection) == Code.COMPRESSION_ERROR


def test_nothing_is_remembered_before_the_client_has_given_up_its_table() -> None:
    """A block that is recognised, and not decoded, would make our copy of the table wrong."""
    connection = Connection(dict)
    connection.receive(PREFACE + settings())
    encoder = Encoder()
    encoder.header_table_size = 0
    first = encoder.encode(REQUEST)
    again = encoder.encode(REQUEST)
    encoder.header_table_size = 4096
    grown = encoder.encode((*REQUEST, ("x-new", "value")))
    # The same bytes as `again`, but now each of their literals enters the table.
    indexed = encoder.encode((("x-new", "value"),))
    assert len(indexed) == 1
    for stream, part in ((1, first), (3, again), (5, grown), (7, again), (9, again + indexed)):
        connection.receive(frame(HEADERS, END_HEADERS | END_STREAM, stream, part))
    assert not connection.closed or code_of(said(connection)[-1]) == Code.COMPRESSION_ERROR
    heads = [head for _, head, _, _ in connection.requests()]
    assert all(head.get(b"x-new", b"value") == b"value" for head in heads)
    assert not connection._blocks.known


# Known header blocks


@pytest.mark.parametrize("huffman", [True, False])
@pytest.mark.parametrize(
    ("timeouts", "expected"),
    [
        # The first block says that there is no table, and so differs; the second is decoded.
        (("4999800u", "4999799u", "5S", "99999999n", "1H"), 3),
        ((None,) * 5, 3),
        # Alternating blocks: known, but not the last one.
        ((None, "5S") * 3, 0),
    ],
)
def test_the_short_way_leads_where_the_long_way_does(
    huffman: bool, timeouts: tuple[str | None, ...], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(huffman=huffman, once=True)
    sent = b"".join(client.call(2 * at + 1, b"%d" % at, timeout) for at, timeout in enumerate(timeouts))
    taken = []
    short = 0
    call = Connection._call

    def counted(connection: Connection[object], *rest: object) -> int:
        nonlocal short
        after = call(connection, *rest)  # type: ignore[arg-type]
        short += after > 0
        return after

    for way in (counted, lambda *_: 0):
        monkeypatch.setattr(Connection, "_call", way)
        connection = connected()
        connection.receive(sent)
        taken.append([(stream, head[b":path"], value, body) for stream, head, value, body in connection.requests()])
    assert taken[0] == taken[1]
    assert [value for _, _, value, _ in taken[0]] == [(timeout or "").encode() for timeout in timeouts]
    assert short == expected


@pytest.mark.parametrize(
    "value",
    [
        b"\x02\x35\x53\x00",  # one byte more
        b"\x03\x35\x53",  # one byte less
        b"\x02\x35\x53" + b"\x82",  # another field
        b"\x01\n",  # a line end
        b"\x02 5",
        b"\x81\xfe",  # Huffman, padded with zeros
        b"\x84\xff\xff\xff\xff",  # Huffman: the end of the string
        b"",
    ],
)
def test_a_known_block_with_another_end_is_not_taken_for_one(value: bytes) -> None:
    """Unless exactly one string follows a known beginning, the block is decoded as usual."""
    for beginnings in (1, 3):
        connection, client = connected(), Client(huffman=False)
        for stream in range(1, 2 * beginnings, 2):
            connection.receive(client.call(stream, timeout="5S"))
        plain = client.headers(101, ("grpc-timeout", "5S"))
        head = plain[9 : -len(b"\x025S")]
        connection.receive(frame(HEADERS, END_HEADERS, 101, head + value) + data(101))
        asked = [item for item in connection.requests() if item[0] == 101]
        if value.endswith(b"\x82"):  # :method after other fields
            assert not asked
            assert code_of(said(connection)[-1]) == Code.PROTOCOL_ERROR
        elif connection.closed:
            assert not asked
            assert ended(connection) == Code.COMPRESSION_ERROR
        else:
            assert not asked
            assert code_of(said(connection)[-1]) == Code.PROTOCOL_ERROR


def test_a_whole_block_that_is_known_has_nothing_behind_it() -> None:
    connection, client = connected(), Client()
    for stream in (1, 3, 5):
        connection.receive(client.call(stream, timeout=None))
    whole = client.headers(7)[9:]
    # An indexed field, and a literal that would be a fine string.
    for stream, more in ((7, b"\x82"), (9, b"\0\1x\1y")):
        connection.receive(frame(HEADERS, END_HEADERS, stream, whole + more) + data(stream))
    asked = {stream: head for stream, head, _, _ in connection.requests()}
    assert asked.keys() == {1, 3, 5, 9}
    assert asked[9][b"x"] == b"y"


def test_a_known_content_length_is_checked_each_time() -> None:
    connection, client = connected(), Client()
    for stream in (1, 3, 5):
        connection.receive(client.headers(stream, ("content-length", "5")) + data(stream, b"query"))
    assert streams(connection) == [1, 3, 5]
    connection.receive(client.headers(7, ("content-length", "5")) + data(7, b"other query"))
    assert [(item.stream, code_of(item)) for item in said(connection)] == [(7, Code.PROTOCOL_ERROR)]


def test_what_is_remembered_is_bounded() -> None:
    connection, client = connected(), Client()
    for stream in range(1, 201, 2):
        connection.receive(
            client.call(stream, timeout=f"{stream}u") + client.headers(1001 + stream, ("x", str(stream)))
        )
        connection.receive(rst(1001 + stream))
        if connection.closed:
            break
    assert len(connection._blocks.known) <= 16
    fields._VALUES.clear()
    for number in range(10_000):
        assert fields._VALUES[b"\x05%05d" % number] == b"%05d" % number
    assert len(fields._VALUES) <= 4096


def test_a_long_value_is_decoded_each_time() -> None:
    connection, client = connected(), Client()
    before = len(fields._VALUES)
    for stream in range(1, 21, 2):
        connection.receive(client.call(stream, timeout=f"{stream % 10}" * 1000))
    assert [varying for _, _, varying, _ in connection.requests()] == [
        b"%d" % (at % 10) * 1000 for at in range(1, 21, 2)
    ]
    assert len(fields._VALUES) == before


# Section 5.1.2, streams at a time


def test_streams_beyond_the_limit_are_refused_and_come_back_later() -> None:
    connection, client = connected(), Client()
    for stream in range(1, 2 * MAX_STREAMS + 1, 2):
        connection.receive(client.headers(stream) if stream % 3 else client.call(stream))
    assert connection.take() == b""
    connection.receive(client.call(2001) + client.headers(2003))
    taken = said(connection)
    assert [(item.kind, item.stream, code_of(item)) for item in taken] == [
        (RST_STREAM, 2001, Code.REFUSED_STREAM),
        (RST_STREAM, 2003, Code.REFUSED_STREAM),
    ]
    # Frames that the client sent on them before it knew are ignored.
    connection.receive(data(2003, b"x", end=False) + window(2003, 1) + data(2003) + rst(2001))
    assert connection.take() == b""
    connection.receive(rst(1) + client.call(2005))
    assert 2005 in streams(connection)


def test_trailers_on_a_stream_that_we_reset_are_decoded_and_passed_over() -> None:
    connection, client = connected(), Client()
    connection.receive(client.headers(1) + data(1, padding=3, end=False) + window(1, 0))
    assert [item.kind for item in said(connection)] == [WINDOW_UPDATE, RST_STREAM]
    connection.receive(frame(HEADERS, END_HEADERS | END_STREAM, 1, client.block(("x", "y"))))
    assert connection.take() == b""
    assert not connection.closed


# Section 6.9, flow control


def poured(connection: Connection[dict[bytes, bytes]]) -> dict[int, bytes]:
    """Return the DATA to send now, by stream."""
    found: dict[int, bytes] = {}
    for item in said(connection):
        if item.kind == DATA:
            found[item.stream] = found.get(item.stream, b"") + item.payload
    return found


def test_a_long_reply_waits_for_the_windows_and_is_sent_in_frames() -> None:
    connection, client = connected(), Client()
    connection.receive(client.call(1))
    connection.send(*[streams(connection)[0], HEAD, LONG, TAIL])  # type: ignore[arg-type]
    taken = said(connection)
    assert [len(item.payload) for item in taken[1:]] == [16_384, 16_384, 16_384, 16_383]
    connection.receive(window(0, 10) + window(1, 7))
    assert poured(connection) == {1: b"x" * 7}
    connection.receive(window(1, 2**20))
    assert poured(connection) == {1: b"x" * 3}
    connection.receive(window(0, 2**20))
    *rest, tail = said(connection)
    assert sum(len(item.payload) for item in rest) == len(LONG) - 65_545
    assert tail[:3] == (HEADERS, END_HEADERS | END_STREAM, 1)
    # The stream is closed, so the client's further frames on it are ignored.
    connection.receive(window(1, 5) + rst(1))
    assert connection.take() == b""


def test_a_stream_that_waits_blocks_no_other() -> None:
    connection, client = connected(), Client()
    connection.receive(settings((4, 10)) + window(0, 2**20) + b"".join(client.call(stream) for stream in (1, 3, 5)))
    for stream in streams(connection):
        connection.send(stream, HEAD, b"%d" % stream * (9 if stream == 3 else 20), TAIL)
    assert {stream: len(part) for stream, part in poured(connection).items()} == {1: 10, 3: 9, 5: 10}
    connection.receive(window(5, 10))
    assert {stream: len(part) for stream, part in poured(connection).items()} == {5: 10}
    connection.receive(settings((4, 20)))
    assert {stream: len(part) for stream, part in poured(connection).items()} == {1: 10}


def test_streams_that_wait_for_the_connection_are_served_in_their_order() -> None:
    connection, client = connected(), Client()
    connection.receive(b"".join(client.call(stream) for stream in (1, 3, 5, 7)))
    for stream in streams(connection):
        connection.send(stream, HEAD, bytes(30_000), TAIL)
    assert {stream: len(part) for stream, part in poured(connection).items()} == {1: 30_000, 3: 30_000, 5: 5535}
    connection.receive(rst(5) + window(0, 29_999))
    assert {stream: len(part) for stream, part in poured(connection).items()} == {7: 29_999}
    connection.receive(window(0, 1))
    assert poured(connection) == {7: b"\0"}


def test_a_window_may_be_below_zero() -> None:
    connection, client = connected(), Client()
    connection.receive(client.call(1))
    assert streams(connection) == [1]
    connection.send(1, HEAD, LONG, TAIL)
    connection.receive(window(0, 2**20))
    assert len(poured(connection)[1]) == 65_535
    connection.receive(settings((4, 0)) + window(1, 65_535))
    assert poured(connection) == {}
    connection.receive(window(1, 1))
    assert poured(connection) == {1: b"x"}


@pytest.mark.parametrize("before", ["headers", "body", "reply"])
def test_a_window_may_be_opened_at_any_time(before: str) -> None:
    connection, client = connected(), Client()
    connection.receive(settings((4, 0)) + client.headers(1))
    if before == "headers":
        connection.receive(window(1, 5))
    connection.receive(data(1, b"query"))
    if before == "body":
        connection.receive(window(1, 5))
    assert streams(connection) == [1]
    connection.send(1, HEAD, b"reply", TAIL)
    if before == "reply":
        connection.receive(window(1, 5))
    assert poured(connection) == {1: b"reply"}


def test_frames_are_as_long_as_the_peer_takes_them() -> None:
    connection, client = connected(), Client()
    connection.receive(settings((5, 20_000)) + client.call(1))
    assert streams(connection) == [1]
    connection.send(1, HEAD, bytes(20_001), TAIL)
    taken = connection.take()
    assert taken.count((20_000).to_bytes(3, "big") + b"\0\0\0\0\0\1") == 1


def test_our_window_is_opened_again_when_the_data_is_used() -> None:
    connection, client = connected(), Client()
    sent = 0
    for stream in range(1, 1001, 2):
        connection.receive(client.call(stream, bytes(1000)))
        sent += 1000
        for asked in streams(connection):
            connection.send(asked, HEAD, b"", block(((b"grpc-status", b"0"),), end=True))
        connection._window = 65_535
        for item in said(connection):
            if item.kind == WINDOW_UPDATE:
                assert item.stream == 0
                sent -= int.from_bytes(item.payload, "big")
    assert not connection.closed
    assert 0 <= sent <= 32_768


def test_padding_is_given_back_at_once() -> None:
    """Otherwise a body of many padded frames would exhaust the stream's
    window before its own limit.
    """
    connection, client = connected(), Client()
    connection.receive(client.headers(1))
    for _ in range(900):
        connection.receive(data(1, b"x", end=False, padding=255))
        (update, *_) = said(connection)
        assert update == (WINDOW_UPDATE, 0, 1, (256).to_bytes(4, "big"))
    connection.receive(data(1, b"x"))
    ((_, _, _, body),) = connection.requests()
    assert body == b"x" * 901


# Bodies that are too long


def test_a_body_that_is_too_long_is_not_kept() -> None:
    connection, client = connected(), Client()
    connection.receive(client.headers(1))
    for _ in range(4):
        connection.receive(data(1, bytes(16_384), end=False))
        connection.take()
    assert streams(connection) == []
    connection.receive(data(1, bytes(16_384), end=False))
    ((stream, _, _, body),) = connection.requests()
    assert (stream, body) == (1, None)
    # The body is still arriving when the reply is sent; the rest need not be sent.
    connection.send(1, block(((b":status", b"200"), (b"grpc-status", b"8")), end=True))
    taken = said(connection)
    assert [item.kind for item in taken if item.kind != WINDOW_UPDATE] == [HEADERS, RST_STREAM]
    assert code_of(taken[1]) == Code.NO_ERROR
    connection.receive(data(1, bytes(5000), end=False) + data(1))
    assert not connection.closed
    assert connection.take() == b""


def test_a_body_that_is_too_long_and_over_is_answered_without_a_reset() -> None:
    connection, client = connected(), Client()
    connection.receive(client.headers(1))
    for _ in range(4):
        connection.receive(data(1, bytes(16_384), end=False))
        connection.take()
    connection.receive(data(1, bytes(MAX_BODY - 4 * 16_384 + 1)))
    ((_, _, _, body),) = connection.requests()
    assert body is None
    connection.send(1, HEAD, b"", TAIL)
    assert RST_STREAM not in [item.kind for item in said(connection)]


def test_the_longest_body_is_taken() -> None:
    connection, client = connected(), Client()
    connection.receive(client.headers(1))
    for at in range(0, MAX_BODY, 16_384):
        connection.receive(data(1, bytes(min(16_384, MAX_BODY - at)), end=at + 16_384 >= MAX_BODY))
        connection.take()
    ((_, _, _, body),) = connection.requests()
    assert body == bytes(MAX_BODY)


def test_all_unfinished_bodies_together_are_bounded() -> None:
    connection, client = connected(), Client()
    given_up = []
    for stream in range(1, 201, 2):
        connection.receive(client.headers(stream) + data(stream, bytes(10_000), end=False))
        given_up += streams(connection)
        connection.take()
        assert connection._unfinished <= MAX_UNFINISHED
    assert len(given_up) == 100 - MAX_UNFINISHED // 10_000
    connection.receive(rst(1) + data(3, bytes(10_000)))
    assert streams(connection) == [3]


# Replies that nobody reads


def test_requests_wait_while_replies_do() -> None:
    connection, client = connected(), Client()
    connection.receive(settings((4, 0)) + b"".join(client.call(stream) for stream in range(1, 201, 2)))
    answered = 0
    for stream, *_ in connection.requests():
        connection.send(stream, HEAD, bytes(50_000), TAIL)
        answered += 1
    assert answered == MAX_QUEUED // 50_000 + 1
    assert not has_requests(connection)
    connection.take()
    assert streams(connection) == []
    # There is room again when one of them is sent or given up.
    connection.receive(rst(1) + rst(3))
    assert has_requests(connection)
    assert next(connection.requests())[0] == 2 * answered + 1


def test_replies_wait_to_be_taken() -> None:
    connection, client = connected(), Client()
    connection.receive(settings((4, 2**30)) + window(0, 2**30) + b"".join(client.call(2 * at + 1) for at in range(100)))
    rounds = 0
    while connection.has_requests:
        for stream, *_ in connection.requests():
            connection.send(stream, HEAD, bytes(60_000), TAIL)
        assert len(connection.take()) <= MAX_QUEUED + 61_000
        rounds += 1
    assert rounds == 34, "three replies at a time"


def test_our_window_stays_shut_while_requests_wait() -> None:
    connection, client = connected(), Client()
    connection.receive(settings((4, 0)) + b"".join(client.call(2 * at + 1, bytes(4000)) for at in range(12)))
    for stream, *_ in connection.requests():
        connection.send(stream, HEAD, bytes(60_000), TAIL)
    assert connection._requests
    assert WINDOW_UPDATE not in [item.kind for item in said(connection)]
    connection.receive(settings((4, 2**20)) + window(0, 2**20))
    connection.take()
    for stream, *_ in connection.requests():
        connection.send(stream, HEAD, b"", TAIL)
    assert WINDOW_UPDATE in [item.kind for item in said(connection)]


# The connection


def test_ping_is_answered_with_what_it_says() -> None:
    connection = connected()
    connection.receive(frame(PING, 0, 0, b"12345678") + frame(PING, ACK, 0, b"87654321"))
    assert said(connection) == [Frame(PING, ACK, 0, b"12345678")]


BANDWIDTH = bytes((2, 4, 16, 16, 9, 14, 7, 7))


def test_a_ping_about_bandwidth_waits_for_a_tick() -> None:
    """grpc-go sends one at the first DATA after each acknowledgement: a second round per query."""
    connection, client = connected(), Client()
    connection.receive(frame(PING, 0, 0, BANDWIDTH) + client.call(1))
    for stream in streams(connection):
        connection.send(stream, HEAD, b"reply", TAIL)
    assert PING not in [item.kind for item in said(connection)]
    connection.receive(frame(PING, 0, 0, bytes(8)))
    assert said(connection) == [Frame(PING, ACK, 0, bytes(8))]
    connection.tick()
    assert said(connection) == [Frame(PING, ACK, 0, BANDWIDTH)]
    connection.tick()
    assert connection.take() == b""


def test_it_waits_no_longer_than_the_estimate_can_use() -> None:
    """A sample below two thirds of the least window changes nothing; a larger one comes in full."""
    connection, client = connected(), Client()
    connection.receive(settings((4, 2**20)) + window(0, 2**20))
    connection.take()
    connection.receive(frame(PING, 0, 0, BANDWIDTH))
    sent = 0
    for stream in range(1, 200, 2):
        connection.receive(client.call(stream))
        for due in streams(connection):
            connection.send(due, HEAD, bytes(1000), TAIL)
        sent += 1000
        if PING in [item.kind for item in said(connection)]:
            break
    assert 2 / 3 * 65_535 <= sent <= 65_535
    connection.tick()
    assert connection.take() == b""


def test_one_of_them_waits_and_no_more() -> None:
    connection = connected()
    connection.receive(frame(PING, 0, 0, BANDWIDTH) * 3)
    assert said(connection) == [Frame(PING, ACK, 0, BANDWIDTH)] * 2
    connection.tick()
    assert said(connection) == [Frame(PING, ACK, 0, BANDWIDTH)]


def test_settings_are_acknowledged_each_time() -> None:
    connection = connected()
    connection.receive(settings((4, 1)) + settings() + settings(ack=True))
    assert said(connection) == [Frame(SETTINGS, ACK, 0, b"")] * 2


def test_a_drain_serves_what_was_asked_and_says_when_it_ends() -> None:
    connection, client = connected(), Client()
    connection.receive(client.call(1) + client.headers(3))
    assert streams(connection) == [1]
    connection.drain()
    connection.drain()
    first, ping = said(connection)
    assert (first.kind, first.payload[:8]) == (GOAWAY, b"\x7f\xff\xff\xff\0\0\0\0")
    # Requests that the client sends before it knows are served.
    connection.receive(client.call(5) + frame(PING, ACK, 0, ping.payload))
    (second,) = said(connection)
    assert (second.kind, second.payload[:8]) == (GOAWAY, (5).to_bytes(4, "big") + bytes(4))
    assert streams(connection) == [5]
    # Later requests are not served, however many there are.
    for stream in (7, 9, 11):
        connection.receive(client.call(stream) + data(stream, b"more") + client.headers(stream, end=True))
    assert streams(connection) == []
    assert connection.take() == b""
    connection.send(1, HEAD, b"1", TAIL)
    connection.send(5, HEAD, b"5", TAIL)
    assert len(said(connection)) == 6
    assert not is_closed(connection)
    connection.receive(data(3, b"late"))
    assert streams(connection) == [3]
    connection.send(3, HEAD, b"3", TAIL)
    assert len(said(connection)) == 3
    assert is_closed(connection)
    assert connection.take() == b""


def test_a_drain_that_has_nothing_to_wait_for_closes_after_a_round_trip() -> None:
    connection = connected()
    connection.drain()
    _, ping = said(connection)
    connection.receive(frame(PING, ACK, 0, b"wrong..."))
    assert not is_closed(connection)
    connection.receive(frame(PING, ACK, 0, ping.payload))
    assert [item.kind for item in said(connection)] == [GOAWAY]
    assert is_closed(connection)


def test_an_error_in_a_drain_names_no_later_stream_than_before() -> None:
    connection, client = connected(), Client()
    connection.receive(client.headers(1))
    connection.drain()
    _, ping = said(connection)
    connection.receive(frame(PING, ACK, 0, ping.payload) + client.call(9) + data(0))
    (_, last) = said(connection)
    assert last.payload[:8] == (1).to_bytes(4, "big") + Code.PROTOCOL_ERROR.to_bytes(4, "big")


# Time


def ticks(connection: Connection[dict[bytes, bytes]], count: int) -> None:
    for _ in range(count):
        connection.tick()


@pytest.mark.parametrize("sent", [b"", PREFACE[:10], PREFACE, PREFACE + settings()[:5]])
def test_a_handshake_takes_ten_ticks_at_most(sent: bytes) -> None:
    connection = Connection(dict)
    ticks(connection, 5)
    connection.receive(sent)
    ticks(connection, 4)
    assert not is_closed(connection)
    ticks(connection, 1)
    assert ended(connection) == Code.SETTINGS_TIMEOUT


@pytest.mark.parametrize(
    "sent",
    [b"\0", frame(PING, 0, 0, bytes(8))[:-1], frame(HEADERS, 0, 1, b"\x82"), frame(HEADERS, 0, 1) + b"\0"],
    ids=["a byte", "half a frame", "a block that goes on", "both"],
)
def test_what_is_begun_is_ended_or_the_connection_is(sent: bytes) -> None:
    connection = connected()
    connection.receive(sent)
    ticks(connection, 29)
    assert not is_closed(connection)
    ticks(connection, 2)
    assert ended(connection) == Code.ENHANCE_YOUR_CALM


def test_a_header_block_that_drips_is_not_waited_for() -> None:
    connection = connected()
    connection.receive(frame(HEADERS, 0, 1, b"\x82"))
    for _ in range(29):
        connection.receive(frame(CONTINUATION, 0, 1, b"\x82"))
        connection.tick()
    assert not is_closed(connection)
    connection.receive(frame(CONTINUATION, 0, 1, b"\x82"))
    connection.tick()
    assert ended(connection) == Code.ENHANCE_YOUR_CALM


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    connection, client = connected(), Client()
    connection.receive(client.headers(1) + data(1, b"x", end=False))
    ticks(connection, 15)
    connection.receive(data(1, b"x", end=False) + client.headers(3))
    ticks(connection, 15)
    assert [(item.kind, item.stream, code_of(item)) for item in said(connection)] == [(RST_STREAM, 1, Code.CANCEL)]
    connection.receive(data(1, b"x") + data(3, b"x"))
    assert streams(connection) == [3]


def test_a_reply_that_is_not_let_through_is_dropped() -> None:
    connection, client = connected(), Client()
    connection.receive(settings((4, 1)) + client.call(1))
    assert streams(connection) == [1]
    connection.send(1, HEAD, LONG, TAIL)
    said(connection)
    for _ in range(30):
        connection.receive(window(1, 1))
        connection.tick()
    assert code_of(said(connection)[-1]) == Code.CANCEL
    assert connection._blocked == connection._queued == 0


def test_a_peer_that_is_silent_is_asked_and_then_left() -> None:
    connection = connected()
    ticks(connection, 60)
    assert connection.take() == b""
    ticks(connection, 1)
    (ping,) = said(connection)
    connection.receive(frame(PING, ACK, 0, ping.payload))
    ticks(connection, 61)
    assert [item.kind for item in said(connection)] == [PING]
    ticks(connection, 19)
    assert not is_closed(connection)
    ticks(connection, 1)
    assert ended(connection) == Code.NO_ERROR


def test_a_connection_without_requests_is_drained_in_the_end() -> None:
    connection, client = connected(), Client()
    for _ in range(3600):
        connection.receive(frame(PING, 0, 0, bytes(8)))
        connection.tick()
        assert [item.kind for item in said(connection)] == [PING]
        if connection._ticks == 1:
            connection.receive(client.call(1))
            for stream in streams(connection):
                connection.send(stream, HEAD, b"", TAIL)
            connection.take()
    connection.receive(frame(PING, 0, 0, bytes(8)))
    ticks(connection, 2)
    assert [item.kind for item in said(connection)] == [PING, GOAWAY, PING]


def test_a_stream_that_is_due_is_the_owners_to_end() -> None:
    connection, client = connected(), Client()
    connection.receive(client.call(1))
    assert streams(connection) == [1]
    for _ in range(100):
        connection.receive(frame(PING, 0, 0, bytes(8)))
        connection.tick()
    connection.take()
    connection.send(1, HEAD, b"reply", TAIL)
    assert len(said(connection)) == 3


def test_limits_are_what_the_documentation_says() -> None:
    text = (Path(__file__).parents[2] / "docs/architecture.md").read_text()
    for row in (
        f"| streams | {MAX_STREAMS} |",
        f"| {MAX_BODY:,} bytes; twice that |",
        f"| a header block, a header list | {fields.MAX_LIST >> 10} KiB |",
        f"| {MAX_QUEUED >> 10} KiB and one more |",
        f"| {http2._ALLOWANCE:,} a second and {http2._EARNED} for each reply |",
        f"| {http2._HANDSHAKE} s; {http2._PATIENCE} s |",
        f"| {http2._PING_AFTER} s, then a PING, then {http2._PING_TIMEOUT} s |",
        f"| {server.MAX_CONNECTIONS} in a process, {server.MAX_TLS_CONNECTIONS} over TLS |",
        f"| {arrivals.MAX_SILENT}, in places of their own |",
        f"| {arrivals.MAX_BEGINNING}, {arrivals.MAX_TLS_BEGINNING} over TLS; each keeps its place for",
        f"its place for {arrivals.TENURE} s |",
        f"| {arrivals.PATIENCE} s, however slowly it sends |",
    ):
        assert row in text
    assert MAX_UNFINISHED == 2 * MAX_BODY
