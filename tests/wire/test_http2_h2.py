"""A comparison with the `h2` library: as the client of our connection, and as another server."""

from __future__ import annotations

from typing import Final

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from headwater.serve.http2 import Code, Connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wire.frames import (
    ACK,
    CONTINUATION,
    DATA,
    GOAWAY,
    HEAD,
    HEADERS,
    HELLO,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    REQUEST,
    RST_STREAM,
    SETTINGS,
    TAIL,
    WINDOW_UPDATE,
    Client,
    code_of,
    frame,
    frames,
    rst,
)

SLOW_IS_FINE: Final = [HealthCheck.too_slow]


def client_of_h2() -> h2.connection.H2Connection:
    return h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))


class Conversation:
    """h2 as the client, which raises when the server breaks a rule."""

    def __init__(self) -> None:
        self.server = Connection(dict)
        self.client = client_of_h2()
        self.client.initiate_connection()
        self.asked: dict[int, bytes] = {}
        self.replies: dict[int, bytes] = {}
        self.got: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.reset: set[int] = set()
        self.held_back: dict[int, int] = {}
        self.gone = False

    def ask(self, size: int, *, padding: int | None, end: bool) -> None:
        """Send a request with a body of this size, as far as the window allows."""
        stream = self.client.get_next_available_stream_id()
        self.client.send_headers(stream, [*REQUEST, ("grpc-timeout", f"{size}u")])
        body = bytes((stream & 255,)) * size
        for at in range(0, size, 10_000):
            self.client.send_data(stream, body[at : at + 10_000], pad_length=padding)
        if end:
            self.client.end_stream(stream)
        else:
            self.client.send_headers(stream, [("x-trailer", "1")], end_stream=True)
        self.asked[stream] = body

    def exchange(self, size: int, *, acknowledge: bool) -> None:
        """Exchange bytes in both directions until neither side has any more."""
        while True:
            sent = self.client.data_to_send()
            self.server.receive(sent)
            for stream, head, varying, body in self.server.requests():
                assert head[b":path"] == dict(REQUEST)[":path"].encode()
                assert body == self.asked[stream]
                assert varying == b"%du" % len(body or b"")
                self.replies[stream] = bytes((stream & 255,)) * size
                self.server.send(stream, HEAD, self.replies[stream], TAIL)
            said = self.server.take()
            if not sent and not said:
                return
            for event in self.client.receive_data(said):
                self.take(event, acknowledge=acknowledge)

    def take(self, event: h2.events.Event, *, acknowledge: bool) -> None:
        match event:
            case h2.events.ResponseReceived():
                assert event.headers is not None
                assert dict(event.headers) == {b":status": b"200", b"content-type": b"application/grpc"}
            case h2.events.DataReceived():
                assert event.stream_id is not None
                assert event.data is not None
                self.got[event.stream_id] = self.got.get(event.stream_id, b"") + event.data
                size = event.flow_controlled_length or 0
                if acknowledge:
                    self.client.acknowledge_received_data(size, event.stream_id)
                else:
                    self.held_back[event.stream_id] = self.held_back.get(event.stream_id, 0) + size
            case h2.events.TrailersReceived():
                assert event.headers is not None
                assert dict(event.headers) == {b"grpc-status": b"0"}
            case h2.events.StreamEnded():
                assert event.stream_id is not None
                self.ended.add(event.stream_id)
            case h2.events.StreamReset():
                raise AssertionError(event)
            case h2.events.ConnectionTerminated():
                assert event.error_code == Code.NO_ERROR
                self.gone = True

    def let_go(self) -> None:
        """Acknowledge the data that was not acknowledged yet."""
        held, self.held_back = self.held_back, {}
        for stream, size in held.items():
            self.client.acknowledge_received_data(size, stream)


STEPS: Final = st.lists(
    st.one_of(
        st.tuples(
            st.just("ask"),
            st.sampled_from([0, 1, 60, 9_999, 30_000]),
            st.sampled_from([None, 0, 255]),
            st.booleans(),
            st.sampled_from([0, 1, 90, 16_384, 16_385, 50_000]),
            st.booleans(),
        ),
        st.tuples(st.sampled_from(["ping", "let go", "reset", "prioritize"])),
        st.tuples(st.just("window"), st.sampled_from([0, 2000, 65_535, 1_000_000])),
        st.tuples(st.just("frame size"), st.sampled_from([16_384, 20_000, 16_777_215])),
    ),
    max_size=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW_IS_FINE)
@given(STEPS)
def test_h2_as_a_client_finds_nothing_wrong(steps: list[tuple[object, ...]]) -> None:
    talk = Conversation()
    for step in steps:
        match step:
            case "ask", int(size), padding, bool(end), int(reply), bool(acknowledge):
                assert padding is None or isinstance(padding, int)
                if size < talk.client.outbound_flow_control_window - 2000:
                    talk.ask(size, padding=padding, end=end)
                talk.exchange(reply, acknowledge=acknowledge)
            case ("ping",):
                talk.client.ping(b"12345678")
            case ("let go",):
                talk.let_go()
            case ("reset",):
                waiting = talk.replies.keys() - talk.ended - talk.reset
                for stream in waiting:
                    talk.client.reset_stream(stream)
                    talk.held_back.pop(stream, None)
                    talk.reset.add(stream)
            case ("prioritize",):
                talk.client.prioritize(2 * len(steps) + 1001, weight=7)
            case "window", int(size):
                talk.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: size})
            case "frame size", int(size):
                talk.client.update_settings({h2.settings.SettingCodes.MAX_FRAME_SIZE: size})
        talk.exchange(5, acknowledge=True)
    talk.client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1_000_000})
    talk.client.increment_flow_control_window(100_000_000)
    talk.exchange(5, acknowledge=True)
    talk.let_go()
    talk.exchange(5, acknowledge=True)
    assert talk.ended == talk.asked.keys() - talk.reset
    for stream in talk.ended:
        assert talk.got.get(stream, b"") == talk.replies[stream]
    talk.server.drain()
    goaway, ping = frames(talk.server.take())
    # For h2 any GOAWAY is the end, and it accepts no PING afterwards.
    for event in talk.client.receive_data(frame(*goaway)):
        talk.take(event, acknowledge=True)
    assert talk.gone
    talk.server.receive(talk.client.data_to_send() + frame(PING, ACK, 0, ping.payload))
    assert [item.kind for item in frames(talk.server.take())] == [GOAWAY]
    assert talk.server.closed


# Beside another server

#: Intended differences about one frame: (its type, our error, their error), and the reason.
DIFFERENCES: Final[dict[tuple[int, Code | None, Code | None], str]] = {
    (HEADERS, Code.COMPRESSION_ERROR, Code.PROTOCOL_ERROR): "section 4.3 asks for COMPRESSION_ERROR",
    (HEADERS, Code.COMPRESSION_ERROR, Code.STREAM_CLOSED): "two errors; the table is everybody's, so it comes first",
    (HEADERS, Code.PROTOCOL_ERROR, None): "an even stream: h2 waits for the block's end",
    (HEADERS, Code.PROTOCOL_ERROR, Code.FRAME_SIZE_ERROR): "an even stream and no room for a priority",
    (HEADERS, Code.STREAM_CLOSED, Code.PROTOCOL_ERROR): "malformed headers on a closed stream",
    (DATA, Code.PROTOCOL_ERROR, Code.FRAME_SIZE_ERROR): "an idle stream and no length of padding",
    (RST_STREAM, Code.PROTOCOL_ERROR, None): "section 6.4 forbids it on an idle stream; h2 does not look",
    (RST_STREAM, Code.FRAME_SIZE_ERROR, Code.PROTOCOL_ERROR): "stream 0 and another length",
    (SETTINGS, Code.FRAME_SIZE_ERROR, Code.PROTOCOL_ERROR): "section 6.5 asks for FRAME_SIZE_ERROR",
    (PUSH_PROMISE, Code.PROTOCOL_ERROR, None): "h2 waits for the block's end",
    (PUSH_PROMISE, Code.PROTOCOL_ERROR, Code.FRAME_SIZE_ERROR): "forbidden, whatever its length",
    (WINDOW_UPDATE, None, Code.PROTOCOL_ERROR): "by nothing, on a stream that was closed meanwhile",
    (WINDOW_UPDATE, Code.FLOW_CONTROL_ERROR, Code.PROTOCOL_ERROR): "the reserved bit is to be ignored (section 6.9)",
}

CLIENT: Final = Client()
BEFORE: Final = {
    "idle": b"",
    "open": CLIENT.headers(1),
    "half-closed": CLIENT.call(1),
    "reset": CLIENT.headers(1) + rst(1),
}
PAYLOADS: Final = (
    b"", bytes(4), b"\0\0\0\1", bytes(5), b"\0\0\0\7\x10", b"\0\0\0\1\x10", bytes(6), bytes(8), b"\xff" * 4, b"abc",
    b"\x02abcd", b"\0\3\0\0\0\5", b"\0\4\x7f\xff\xff\xff", b"\0\4\x80\0\0\0", b"\0\5\0\0\0\1", b"\0\2\0\0\0\2",
    b"\0\x63\0\0\0\2", CLIENT.block(*REQUEST), CLIENT.block(("x", "y")), b"\xbe",
)  # fmt: skip


def verdict(said: bytes) -> Code | None:
    """Return the first error code."""
    return next((code_of(item) for item in frames(said) if item.kind in (GOAWAY, RST_STREAM)), None)


def ours(sent: bytes) -> tuple[Code | None, list[int]]:
    connection = Connection(dict)
    connection.receive(HELLO + sent)
    return verdict(connection.take()), [stream for stream, *_ in connection.requests()]


def theirs(sent: bytes) -> tuple[Code | None, list[int]]:
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    values = {1: 0, 3: 512, 4: 131_071, 5: 16_384, 6: 16_384}
    server.local_settings = h2.settings.Settings(client=False, initial_values=values)  # type: ignore[arg-type]
    server.initiate_connection()
    server.receive_data(HELLO)
    server.data_to_send()
    ended: list[int] = []
    try:
        for event in server.receive_data(sent):
            if isinstance(event, h2.events.StreamEnded):
                assert event.stream_id is not None
                ended.append(event.stream_id)
    except h2.exceptions.ProtocolError:
        ended.clear()
    return verdict(server.data_to_send()), ended


@settings(max_examples=400, deadline=None, suppress_health_check=SLOW_IS_FINE)
@given(
    st.sampled_from(list(BEFORE)),
    st.integers(DATA, CONTINUATION),
    st.sampled_from([0x0, 0x1, 0x4, 0x5, 0x8, 0x9, 0xC, 0xD, 0x20, 0x25, 0xFF]),
    st.sampled_from([0, 1, 2, 3, 5]),
    st.sampled_from(PAYLOADS),
)
def test_h2_as_a_server_says_the_same(before: str, kind: int, flags: int, stream: int, payload: bytes) -> None:
    sent = BEFORE[before] + frame(kind, flags, stream, payload)
    (mine, mine_asked), (other, other_asked) = ours(sent), theirs(sent)
    if mine is other is None:
        assert mine_asked == other_asked or (kind == RST_STREAM and before == "half-closed")
    elif mine != other:
        assert (kind, mine, other) in DIFFERENCES, (mine, other)


def test_h2_has_no_opinion_on_what_is_a_ping() -> None:
    assert ours(frame(PING, 0, 0, bytes(8))) == theirs(frame(PING, 0, 0, bytes(8))) == (None, [])
    assert ours(frame(PRIORITY, 0, 3, b"\0\0\0\1\7")) == theirs(frame(PRIORITY, 0, 3, b"\0\0\0\1\7")) == (None, [])
