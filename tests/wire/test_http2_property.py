"""HTTP/2 with any input: nothing raises, everything stays within its
bound, no window is exceeded.
"""

from __future__ import annotations

import struct
from collections import deque
from itertools import pairwise
from typing import Final

import pytest
from headwater.serve import http2
from headwater.serve.http2 import MAX_QUEUED, PREFACE, Code, Connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wire.bounds import assert_bounded
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
    REQUEST,
    RST_STREAM,
    SETTINGS,
    TAIL,
    WINDOW_UPDATE,
    Client,
    Frame,
    data,
    frame,
    frames,
    rst,
    window,
)
from tests.wire.frames import settings as settings_frame

EXAMPLES: Final = settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])

CLIENT: Final = Client()
BLOCK: Final = CLIENT.block(*REQUEST)
BLOCKS: Final = (
    BLOCK,
    CLIENT.block(*REQUEST, ("grpc-timeout", "1S")),
    Client(huffman=False).block(*REQUEST, ("grpc-timeout", "4999999u")),
    CLIENT.block(*REQUEST, ("content-length", "3")),
    CLIENT.block((":method", "GET")),
    CLIENT.block(("x", "y")),
    b"\x20",
    b"",
    b"\x3f\xe1\x1f",  # a table of 4,096 again
    b"\xbe",  # an entry of it
    b"\xff\xff\xff\xff\xff",
)

#: Few streams, so that their frames interact; at times one of the server's, or a distant one.
STREAM: Final = st.sampled_from([1, 3, 5, 7, 1, 3, 0, 2, 2**31 - 1, 1 | 1 << 31])
SIZES: Final = st.sampled_from([0, 1, 2, 255, 16_383, 65_535, 2**31 - 1, 2**31, 2**32 - 1])
FLAGS: Final = st.sampled_from([0, END_STREAM, END_HEADERS, END_STREAM | END_HEADERS, PADDED, 0xFF])

ANY_FRAME: Final = st.builds(
    frame, st.integers(0, 12), FLAGS | st.integers(0, 255), STREAM, st.binary(max_size=40) | st.sampled_from(BLOCKS)
)
FRAME: Final = st.one_of(
    ANY_FRAME,
    st.builds(frame, st.just(HEADERS), FLAGS, STREAM, st.sampled_from(BLOCKS)),
    st.builds(frame, st.just(CONTINUATION), FLAGS, STREAM, st.sampled_from(BLOCKS)),
    st.builds(lambda stream, size, flags: frame(DATA, flags, stream, bytes(size)), STREAM, st.integers(0, 9000), FLAGS),
    st.builds(lambda stream, end: data(stream, b"abc", end=end, padding=9), STREAM, st.booleans()),
    st.builds(lambda stream: CLIENT.call(stream), STREAM),
    st.builds(lambda stream, timeout: CLIENT.call(stream, b"q", timeout), STREAM, st.sampled_from(["1S", "2S", None])),
    st.builds(window, STREAM, SIZES),
    st.builds(rst, STREAM, SIZES.filter(lambda size: size < 2**32)),
    st.builds(frame, st.just(PRIORITY), FLAGS, STREAM, st.binary(min_size=4, max_size=6)),
    st.builds(lambda number, value: settings_frame((number, value)), st.integers(0, 8), SIZES),
    st.just(settings_frame(ack=True)),
    st.builds(lambda ack, payload: frame(PING, ack, 0, payload), st.sampled_from([0, ACK]), st.just(b"drain\0\0\0")),
    st.just(frame(GOAWAY, 0, 0, bytes(8))),
)
#: Increasing streams, as a good client uses them.
CALLS: Final = st.lists(st.integers(0, 3), max_size=30).map(
    lambda kinds: b"".join(
        (CLIENT.call(2 * at + 1), CLIENT.headers(2 * at + 1), data(2 * at - 1), window(0, 100))[kind] if at else b""
        for at, kind in enumerate(kinds)
    )
)


def cut(whole: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(whole) + 1) for place in places), len(whole)]
    return [whole[start:end] for start, end in pairwise(edges)]


def outcome(pieces: list[bytes]) -> tuple[list[object], bytes, bool]:
    """Return the requests, all sent bytes, and whether the connection has ended."""
    connection = Connection(dict)
    for piece in pieces:
        connection.receive(piece)
        assert_bounded(connection)
    asked: list[object] = list(connection.requests())
    taken = connection.take()
    list(frames(taken))
    return asked, taken, connection.closed


@EXAMPLES
@given(st.binary(max_size=300), st.lists(st.integers(0, 10_000), max_size=8), st.sampled_from([b"", PREFACE, HELLO]))
def test_any_bytes_in_any_pieces(sent: bytes, places: list[int], before: bytes) -> None:
    assert outcome([before + sent]) == outcome(cut(before + sent, places))


@pytest.mark.slow
@EXAMPLES
@given(st.lists(FRAME | CALLS, max_size=25), st.lists(st.integers(0, 100_000), max_size=12))
def test_any_frames_in_any_pieces(sent: list[bytes], places: list[int]) -> None:
    whole = HELLO + b"".join(sent)
    assert outcome([whole]) == outcome([HELLO, *sent]) == outcome(cut(whole, places))


class Peer:
    """The client's view: what it allows us to send, and what it is due.

    It fails if we send more.
    """

    def __init__(self) -> None:
        self.connection = Connection(dict)
        self.window = 65_535
        self.initial = 65_535
        self.frame_size = 16_384
        self.streams: dict[int, int] = {}  # what may be sent in addition to the initial window
        self.replied: dict[int, str] = {}
        self.settings: deque[bytes] = deque()  # sent, and not acknowledged yet
        self.ended = False

    def sends(self, piece: bytes) -> None:
        """Send whole frames, and account for them."""
        for item in frames(piece.removeprefix(PREFACE)):
            if item.kind == WINDOW_UPDATE and len(item.payload) == 4:
                increment = int.from_bytes(item.payload, "big") & 0x7FFFFFFF
                if item.stream & 0x7FFFFFFF:
                    stream = item.stream & 0x7FFFFFFF
                    self.streams[stream] = self.streams.get(stream, 0) + increment
                else:
                    self.window += increment
            elif item.kind == SETTINGS and not item.flags & ACK:
                self.settings.append(item.payload)
        self.connection.receive(piece)

    def reads(self) -> None:
        for item in frames(self.connection.take()):
            assert not self.ended, "nothing follows the GOAWAY of an error"
            self.read(item)

    def acknowledged(self) -> None:
        payload = self.settings.popleft()
        for number, value in struct.iter_unpack(">HI", payload):
            if number == 4:
                self.initial = value
            elif number == 5:
                self.frame_size = value

    def read(self, item: Frame) -> None:
        stream = item.stream
        if item.kind == SETTINGS and item.flags & ACK:
            self.acknowledged()
        if item.kind == GOAWAY:
            self.ended = self.connection.closed and item.payload[8:] != b"draining"
            assert stream == 0
        elif item.kind == DATA:
            assert self.replied.get(stream) == "headers"
            assert len(item.payload) <= self.frame_size
            self.window -= len(item.payload)
            self.streams[stream] = self.streams.get(stream, 0) - len(item.payload)
            assert self.window >= 0
            assert self.initial + self.streams[stream] >= 0
        elif item.kind == HEADERS:
            assert self.replied.get(stream) in (None, "headers")
            self.replied[stream] = "end" if item.flags & END_STREAM else "headers"
        elif item.kind == RST_STREAM:
            assert stream & 1
            assert len(item.payload) == 4
            self.replied[stream] = "reset"


ACTIONS: Final = st.lists(
    st.one_of(
        FRAME.map(lambda sent: ("send", sent)),
        CALLS.map(lambda sent: ("send", sent)),
        st.sampled_from([0, 1, 100, 16_384, 16_385, 70_000]).map(lambda size: ("answer", size)),
        st.sampled_from([("take", 0), ("tick", 1), ("tick", 31), ("drain", 0)]),
    ),
    max_size=40,
)


@pytest.mark.slow
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ACTIONS)
def test_any_frames_answers_and_time(actions: list[tuple[str, int | bytes]]) -> None:
    peer = Peer()
    connection = peer.connection
    peer.sends(HELLO)
    held: list[int] = []
    for action, argument in actions:
        if isinstance(argument, bytes):
            peer.sends(argument)
        elif action == "answer":
            held += [stream for stream, *_ in connection.requests()]
            for stream in held[: 1 + argument % 5]:
                if connection._queued < MAX_QUEUED:
                    connection.send(stream, HEAD, bytes(argument), TAIL if argument % 2 else None)
            del held[: 1 + argument % 5]
        elif action == "take":
            peer.reads()
        elif action == "tick":
            for _ in range(argument):
                connection.tick()
        else:
            connection.drain()
        assert_bounded(connection)
        assert connection._queued <= MAX_QUEUED + 71_000
    peer.reads()
    assert_bounded(connection)


@EXAMPLES
@given(st.lists(st.sampled_from(["call", "long", "settings", "window"]), max_size=30), st.integers(0, 3000))
def test_a_good_client_gets_every_reply_whole(kinds: list[str], size: int) -> None:
    """It may change its windows in any way, as long as it opens them in the end."""
    connection, client = Connection(dict), Client()
    connection.receive(HELLO + settings_frame((4, 100)))
    replies: dict[int, bytes] = {}
    stream = -1
    for kind in kinds:
        if kind == "settings":
            connection.receive(settings_frame((4, size)))
        elif kind == "window":
            connection.receive(window(0, 1 + size))
        else:
            stream += 2
            connection.receive(client.call(stream))
            for asked, *_ in connection.requests():
                replies[asked] = bytes((asked & 255,)) * (size * (30 if kind == "long" else 1))
                connection.send(asked, HEAD, replies[asked], TAIL)
    while connection._sending:
        connection.receive(window(0, 65_535))
        for waiting in list(connection._sending):
            connection.receive(window(waiting, 65_535))
    got: dict[int, bytes] = {}
    ended = set()
    for item in frames(connection.take()):
        if item.kind == DATA:
            got[item.stream] = got.get(item.stream, b"") + item.payload
        elif item.kind == HEADERS and item.flags & END_STREAM:
            ended.add(item.stream)
    assert not connection.closed
    assert ended == replies.keys()
    assert got == {stream: reply for stream, reply in replies.items() if reply or stream in got}


def test_the_codes_are_those_of_the_specification() -> None:
    assert [code.value for code in Code] == list(range(14))
    assert http2.PREFACE == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
