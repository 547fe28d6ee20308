"""Attacks with CVEs: how long a connection tolerates them, what it holds meanwhile, what they cost.

Rapid reset (CVE-2023-44487) and its variant by the server (CVE-2025-8671), floods of CONTINUATION
(CVE-2024-27316), SETTINGS, PING, RST_STREAM, empty and padded DATA, PRIORITY (CVE-2019-9511 to
9518), header bombs alone (CVE-2016-6581) and held by a shut window (CVE-2026-49975), windows of one
byte, peers that do not read.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import count
from typing import Final

import pytest
from headwater.serve.http2 import MAX_BODY, MAX_QUEUED, MAX_STREAMS, PREFACE, Code, Connection

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
    PING,
    PRIORITY,
    REQUEST,
    TAIL,
    Client,
    code_of,
    data,
    frame,
    frames,
    rst,
    settings,
    window,
)

CLIENT: Final = Client()
BLOCK: Final = CLIENT.block(*REQUEST)
ODD: Final = range(1, 2**31, 2)


def short(stream: int, *, end: bool = True) -> bytes:
    """Return a request's HEADERS, whose block is known after the first."""
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, BLOCK)


def trailing(kind: int, flags: int = 0, payload: bytes = b"", stream: int = 1) -> Callable[[], Iterator[bytes]]:
    """Return an attack: an open stream, and then always the same frame."""

    def attack() -> Iterator[bytes]:
        yield short(1, end=False)
        while True:
            yield frame(kind, flags, stream, payload)

    return attack


def rapid_reset() -> Iterator[bytes]:
    for stream in ODD:
        yield short(stream)
        yield rst(stream)


def rapid_reset_of_half_requests() -> Iterator[bytes]:
    for stream in ODD:
        yield short(stream, end=False)
        yield rst(stream)


def rapid_reset_by_the_server() -> Iterator[bytes]:
    """MadeYouReset: the client breaks a rule on each stream, and the server resets it."""
    for stream in ODD:
        yield short(stream)
        yield window(stream, 0)


def requests_beyond_the_limit() -> Iterator[bytes]:
    for stream in ODD:
        yield short(stream, end=False)


def malformed_requests() -> Iterator[bytes]:
    block = CLIENT.block((":method", "GET"))
    for stream in ODD:
        yield frame(HEADERS, END_HEADERS | END_STREAM, stream, block)


def continuations(payload: bytes) -> Callable[[], Iterator[bytes]]:
    def attack() -> Iterator[bytes]:
        yield frame(HEADERS, 0, 1, BLOCK)
        while True:
            yield frame(CONTINUATION, 0, 1, payload)

    return attack


def closed_streams() -> Iterator[bytes]:
    yield short(1) + rst(1)
    while True:
        yield data(1, b"x")


def trailers_on_closed_streams() -> Iterator[bytes]:
    yield short(1, end=False) + window(1, 0)
    while True:
        yield frame(HEADERS, END_HEADERS | END_STREAM, 1, CLIENT.block(("x", "y")))


FLOODS: Final[dict[str, Callable[[], Iterator[bytes]]]] = {
    "PING": trailing(PING, 0, bytes(8), 0),
    "PING acknowledged": trailing(PING, ACK, bytes(8), 0),
    "SETTINGS": trailing(4, 0, b"", 0),
    "SETTINGS with settings": trailing(4, 0, b"\0\4\0\0\0\1" * 100, 0),
    "SETTINGS acknowledged": trailing(4, ACK, b"", 0),
    "empty DATA": trailing(DATA),
    "a byte of DATA": trailing(DATA, 0, b"x"),
    "padded DATA": trailing(DATA, 0x8, b"\xff" + bytes(255)),
    "DATA on a closed stream": closed_streams,
    "HEADERS on a stream that we reset": trailers_on_closed_streams,
    "PRIORITY": trailing(PRIORITY, 0, b"\0\0\0\x07\x10"),
    "PRIORITY of idle streams": trailing(PRIORITY, 0, b"\0\0\0\x07\x10", 99),
    "RST_STREAM on a closed stream": trailing(3, 0, bytes(4)),
    "WINDOW_UPDATE": trailing(8, 0, b"\0\0\0\1", 0),
    "WINDOW_UPDATE on a stream": trailing(8, 0, b"\0\0\0\1"),
    "GOAWAY": trailing(GOAWAY, 0, bytes(8), 0),
    "unknown frames": trailing(0x42, 0, b"x" * 100, 0),
    "rapid reset": rapid_reset,
    "rapid reset of half requests": rapid_reset_of_half_requests,
    "rapid reset by the server": rapid_reset_by_the_server,
    "requests beyond the limit": requests_beyond_the_limit,
    "malformed requests": malformed_requests,
    "CONTINUATION": continuations(b"x" * 1000),
    "empty CONTINUATION": continuations(b""),
}


@pytest.mark.slow
@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("piece", [1, 100], ids=["one at a time", "in bulk"])
def test_a_flood_ends_the_connection_and_holds_nothing(flood: str, piece: int) -> None:
    connection = Connection(dict)
    connection.receive(HELLO)
    connection.take()
    attack = FLOODS[flood]()
    sent = said = largest = 0
    gc.collect()
    tracemalloc.start()
    began = time.process_time()
    while not connection.closed and sent < 10_000:
        connection.receive(b"".join(next(attack) for _ in range(piece)))
        sent += piece
        taken = connection.take()
        said += len(taken)
        largest = max(largest, tracemalloc.get_traced_memory()[0])
        connection.cancelled.clear()
    tracemalloc.stop()
    assert time.process_time() - began < 5.0, "mostly tracemalloc's"
    assert connection.closed, f"{sent} frames were borne"
    assert sent <= 6000
    *_, last = frames(taken)
    assert code_of(last) == Code.ENHANCE_YOUR_CALM
    assert said <= 64 * sent, "what we say is no more than what we hear, or little"
    assert largest < 1_000_000


def test_who_asks_a_lot_may_say_a_lot() -> None:
    """grpc-go sends a PING per round trip to estimate the bandwidth, and
    WINDOW_UPDATE for what it reads.
    """
    connection = Connection(dict)
    connection.receive(HELLO)
    for stream in range(1, 40_000, 2):
        connection.receive(
            short(stream)
            + frame(PING, 0, 0, bytes(8))
            + window(0, 5)
            + window(stream, 5)
            + frame(PING, ACK, 0, bytes(8))
        )
        for asked, *_ in connection.requests():
            connection.send(asked, HEAD, b"reply", TAIL)
        connection.take()
    assert not connection.closed


def test_who_is_idle_may_ping_for_ever() -> None:
    connection = Connection(dict)
    connection.receive(HELLO)
    for _ in range(3000):
        connection.receive(frame(PING, 0, 0, bytes(8)) * 100)
        connection.take()
        connection.tick()
    assert not connection.closed


def test_who_reads_large_replies_may_say_so_often() -> None:
    connection = Connection(dict)
    connection.receive(HELLO)
    for stream in range(1, 2000, 2):
        connection.receive(short(stream))
        for asked, *_ in connection.requests():
            connection.send(asked, HEAD, bytes(60_000), TAIL)
        for item in frames(connection.take()):
            if item.kind == DATA:
                connection.receive(window(0, len(item.payload)) + window(stream, len(item.payload)))
    assert not connection.closed


# Header bombs


def memory_of(work: Callable[[], object]) -> int:
    """Return the peak of allocated memory during some work, in bytes."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_header_bomb_is_defused_while_it_is_decoded() -> None:
    """Before the client knows our settings: an entry of 4,000 bytes, and
    a thousand references to it.
    """
    bomb = frame(HEADERS, END_HEADERS, 1, BLOCK[1:] + b"\x40\x01x\x7f\xa1\x1e" + b"y" * 4000 + b"\xbe" * 10_000)
    connection = Connection(dict)
    connection.receive(PREFACE + settings())
    assert memory_of(lambda: connection.receive(bomb)) < 500_000
    *_, last = frames(connection.take())
    assert code_of(last) == Code.ENHANCE_YOUR_CALM


def test_header_lists_are_not_held_by_a_shut_window() -> None:
    """CVE-2026-49975: a small block for large headers on every stream,
    and no window for the replies.
    """
    connection = Connection(lambda headers: len(headers))
    connection.receive(PREFACE + settings((4, 0)))
    # An entry of 3,900 bytes goes into the table; each request has it four times, in four bytes.
    head = b"\x40\x01x\x7f\xbd\x1d" + b"y" * 3900
    connection.receive(frame(HEADERS, END_HEADERS | END_STREAM, 1, BLOCK[1:] + head))

    def attack() -> None:
        for stream in ODD[1:MAX_STREAMS]:
            connection.receive(frame(HEADERS, END_HEADERS | END_STREAM, stream, BLOCK[1:] + b"\xbe" * 3))
        for stream, *_ in connection.requests():
            connection.send(stream, HEAD, b"reply", TAIL)

    held = memory_of(attack)
    assert not connection.closed
    assert len(connection._sending) == MAX_STREAMS
    assert held < 1_500_000, "some kilobytes a stream, not the 16 of its header list"


def test_a_block_of_a_thousand_table_sizes_is_bounded_by_its_length() -> None:
    connection = Connection(dict)
    connection.receive(HELLO)
    began = time.process_time()
    connection.receive(frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x20" * (16_384 - len(BLOCK)) + BLOCK))
    assert time.process_time() - began < 0.5
    assert [stream for stream, *_ in connection.requests()] == [1]


@pytest.mark.parametrize("block", [b"\0\1x\0" * 500, b"\x82" * 16_000, b"\0\x7f\xf0\x7c" + b"\x07" * 16_000])
def test_the_slowest_block_is_bounded(block: bytes) -> None:
    """Many fields, many references, one long Huffman code: the time is
    bounded by the block's length.
    """
    connection = Connection(dict)
    connection.receive(HELLO)
    began = time.process_time()
    connection.receive(frame(HEADERS, END_HEADERS | END_STREAM, 1, block[:16_384]))
    assert time.process_time() - began < 0.5


# Windows


def test_replies_that_are_not_read_are_bounded() -> None:
    """With wide windows that are not read, and with closed ones."""
    for initial in (0, 1, 65_535, 2**31 - 1):
        connection = Connection(dict)
        connection.receive(HELLO + settings((4, initial)))

        def attack(connection: Connection[dict[bytes, bytes]] = connection) -> None:
            for stream in ODD[: MAX_STREAMS - 1]:
                connection.receive(short(stream, end=False) + data(stream, b"q" * 100) + window(0, 60_000))
                for asked, *_ in connection.requests():
                    connection.send(asked, HEAD, bytes(60_000), TAIL)

        held = memory_of(attack)
        assert connection._queued <= MAX_QUEUED + 60_064
        assert held < 2 * MAX_QUEUED + 1_000_000


TRICKLES: Final[dict[str, Callable[[int], bytes]]] = {
    "the connection's": lambda _: window(0, 1),
    "a stream's": lambda number: window(1 + 2 * (number % 500), 1),
    "all streams'": lambda number: settings((4, number % 2)),
}


@pytest.mark.parametrize("whose", TRICKLES)
def test_windows_of_a_byte_do_not_keep_us_busy(whose: str) -> None:
    """500 replies wait, and each frame allows one byte of one of them,
    or changes all their windows.
    """
    connection = Connection(dict)
    connection.receive(HELLO + settings((4, 0)))
    for stream in ODD[:500]:
        connection.receive(short(stream))
        for asked, *_ in connection.requests():
            connection.send(asked, HEAD, b"x" * 500, TAIL)
    connection.take()
    began = time.process_time()
    for number in count():
        connection.receive(TRICKLES[whose](number))
        connection.take()
        if connection.closed:
            break
    assert number < 6000
    assert time.process_time() - began < 2.0


def test_streams_that_wait_are_given_up_in_any_order_without_a_trace() -> None:
    connection = Connection(dict)
    connection.receive(HELLO + settings((4, 0)))
    for stream in ODD[:20_000]:
        connection.receive(short(stream))
        for asked, *_ in connection.requests():
            connection.send(asked, HEAD, b"x" * 500, TAIL)
        connection.receive(window(stream, 100) + rst(stream))
        connection.take()
        connection.cancelled.clear()
        if stream % 100 == 1:
            connection.tick()
    assert not connection.closed
    assert not connection._sending
    assert not connection._for_window
    assert connection._queued == connection._blocked == 0


# Bodies


def test_unfinished_bodies_are_bounded() -> None:
    connection = Connection(dict)
    connection.receive(HELLO)

    def attack() -> None:
        for stream in ODD[:MAX_STREAMS]:
            connection.receive(short(stream, end=False))
        for _ in range(4):
            for stream in ODD[:MAX_STREAMS]:
                connection.receive(data(stream, bytes(16_000), end=False))
                for asked, *_ in connection.requests():
                    connection.send(asked, HEAD, b"", TAIL)
                connection.take()
                connection.tick()

    assert memory_of(attack) < 5 * MAX_BODY


def test_requests_that_wait_are_bounded() -> None:
    """While replies wait, requests wait too, and our window stays closed, so that they are few."""
    connection = Connection(dict)
    connection.receive(HELLO + settings((4, 0)))
    taken = b""
    sent = 0
    for stream in ODD[:MAX_STREAMS]:
        connection.receive(short(stream, end=False) + data(stream, bytes(2000)))
        sent += 2000
        for asked, *_ in connection.requests():
            connection.send(asked, HEAD, bytes(60_000), TAIL)
        taken += connection.take()
        if connection.closed:
            break
    assert code_of(list(frames(taken))[-1]) == Code.FLOW_CONTROL_ERROR, "it was not let"
    assert sent < 150_000
