"""gRPC on the native connection, frame by frame: valid requests, and
the end of each invalid one.
"""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
from headwater.answer.resolver import Resolver
from headwater.serve import grpc
from headwater.serve.grpc import Calls, Route, percent, route, unframe
from headwater.serve.http2 import Connection
from headwater.serve.queries import Queries
from headwater.serve.service import HEALTH_CHECK, MAX_PACKET, QUERY, Refused, Status, pack, unpack
from headwater.serve.upstream import Upstream
from headwater.store.environment import Reader
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.frames import DATA, END_STREAM, HEADERS, HELLO, RST_STREAM, WINDOW_UPDATE, Client, data, frames, window
from tests.wire.frames import settings as settings_frame
from tests.wire.serving import SLOW, FakeReader, FakeResolver, FakeUpstream, query, reply_to

MESSAGE = grpc.frame(pack(query()))


class Calling:
    """Calls on one connection, with a client that reads the replies."""

    def __init__(self) -> None:
        self.reader, self.resolver = FakeReader(), FakeResolver()
        self.queries = Queries(
            cast("Reader", self.reader), cast("Resolver", self.resolver), cast("Upstream", FakeUpstream())
        )
        self.calls = Calls(self.queries)
        self.connection: Connection[Route] = Connection(route)
        self.client = Client()
        self.connection.receive(HELLO + settings_frame((4, 1 << 20)) + window(0, 1 << 20))
        self.connection.take()
        self.stream = -1

    def ask(
        self, body: bytes | None = MESSAGE, timeout: str | None = None, *more: tuple[str, str], **fields: str
    ) -> int:
        """Send a request.

        `fields` replace the usual headers ("path" for ":path"). None means no body.
        """
        self.stream += 2
        names = {"method": ":method", "path": ":path", "content_type": "content-type", "te": "te"}
        usual = {
            ":method": "POST", ":scheme": "http", ":path": QUERY, ":authority": "localhost",
            "content-type": "application/grpc", "te": "trailers",
        } | {names[name]: value for name, value in fields.items()}  # fmt: skip
        request = tuple((name, value) for name, value in usual.items() if value)
        extra = more if timeout is None else (*more, ("grpc-timeout", timeout))
        self.connection.receive(self.client.headers(self.stream, *extra, request=request, end=body is None))
        for at in range(0, len(body or b""), 16_000):
            self.connection.receive(data(self.stream, (body or b"")[at : at + 16_000], end=False))
            self.connection.take()
        if body is not None:
            self.connection.receive(data(self.stream))
        return self.stream

    def outcome(self, body: bytes | None = MESSAGE, timeout: str | None = None, **fields: str) -> dict[str, Any]:
        """Return headers and trailers, and the message as "message" or a text as "body"."""
        stream = self.ask(body, timeout, **fields)
        self.calls.answer(self.connection)
        found: dict[str, Any] = {}
        for item in frames(self.connection.take()):
            assert item.stream in (stream, 0)
            if item.kind == HEADERS:
                found |= self.client.read(item.payload)
                found["frames"] = found.get("frames", 0) + 1
                found["ended"] = bool(item.flags & END_STREAM)
            elif item.kind == DATA:
                found["data"] = found.get("data", b"") + item.payload
                found["ended"] = bool(item.flags & END_STREAM)
            else:
                assert item.kind in (WINDOW_UPDATE, RST_STREAM)
        assert found["ended"]
        return found

    def status(self, body: bytes | None = MESSAGE, timeout: str | None = None, **fields: str) -> tuple[Status, str]:
        """Return the status of a refused call, which is one frame: its headers are the trailers."""
        found = self.outcome(body, timeout, **fields)
        assert (found[":status"], found["content-type"], found["frames"]) == ("200", "application/grpc", 1)
        assert "data" not in found
        return Status(int(found["grpc-status"])), found["grpc-message"]


@pytest.fixture
def calling() -> Calling:
    return Calling()


def test_an_answer_is_headers_a_message_and_a_status(calling: Calling) -> None:
    found = calling.outcome()
    message = found.pop("data")
    assert found == {
        ":status": "200", "content-type": "application/grpc", "grpc-status": "0", "frames": 2, "ended": True,
    }  # fmt: skip
    assert unpack(unframe(message)) == reply_to(query())


@pytest.mark.parametrize(
    "content_type",
    ["application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8", "application/grpc+proto;a=b",
     "Application/GRPC"],
)  # fmt: skip
def test_content_types_of_grpc(calling: Calling, content_type: str) -> None:
    assert calling.outcome(content_type=content_type)["grpc-status"] == "0"


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/grpc-web", "application/grpc-web+proto", "application/grpc+json",
                     "application/grpcx", "application/dns-message"],
)  # fmt: skip
def test_another_content_type_is_415(calling: Calling, content_type: str) -> None:
    found = calling.outcome(content_type=content_type)
    assert (found[":status"], found["content-type"]) == ("415", "text/plain")
    assert found["data"] == b"This is a gRPC server.\n"
    assert "grpc-status" not in found


@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS", "DELETE"])
def test_another_http_method_is_405(calling: Calling, method: str) -> None:
    found = calling.outcome(None, method=method, path="/", content_type="")
    assert (found[":status"], found["allow"], found["data"]) == ("405", "POST", b"This is a gRPC server.\n")


def test_head_is_answered_without_a_body(calling: Calling) -> None:
    found = calling.outcome(None, method="HEAD", path="/")
    assert found[":status"] == "405"
    assert "data" not in found


TOO_LONG = f"a message has at most {MAX_PACKET:,} bytes"
NOT_A_MESSAGE = "the request is not a gRPC message"
BODIES: dict[str, tuple[bytes | None, Status, str]] = {
    "nothing": (None, Status.UNIMPLEMENTED, "a call takes one message, not none"),
    "an empty body": (b"", Status.UNIMPLEMENTED, "a call takes one message, not none"),
    "a byte": (b"\0", Status.INTERNAL, NOT_A_MESSAGE),
    "a head without its end": (b"\0\0\0\0", Status.INTERNAL, NOT_A_MESSAGE),
    "a message without its end": (MESSAGE[:-1], Status.INTERNAL, NOT_A_MESSAGE),
    "two messages": (MESSAGE + MESSAGE, Status.UNIMPLEMENTED, "a call takes one message, not several"),
    "a message and a byte": (MESSAGE + b"\0", Status.UNIMPLEMENTED, "a call takes one message, not several"),
    "a compressed message": (b"\1" + MESSAGE[1:], Status.UNIMPLEMENTED, "compressed messages are not supported"),
    "an unknown flag": (b"\2" + MESSAGE[1:], Status.INTERNAL, NOT_A_MESSAGE),
    "a length without a message": (b"\0\xff\xff\xff\xff", Status.RESOURCE_EXHAUSTED, TOO_LONG),
    "a length that is just too long": (
        b"\0" + (MAX_PACKET + 1).to_bytes(4, "big"), Status.RESOURCE_EXHAUSTED, TOO_LONG,
    ),
    "a message that is too long": (
        grpc.frame(bytes(MAX_PACKET + 1)), Status.RESOURCE_EXHAUSTED, TOO_LONG,
    ),
    "no packet": (grpc.frame(b"\x08"), Status.INVALID_ARGUMENT, "the request is not a coredns.dns.DnsPacket"),
    "an empty message": (grpc.frame(b""), Status.INVALID_ARGUMENT, "the DNS message is too short to have an id"),
}  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
def test_a_request_that_is_not_one_message_is_refused(calling: Calling, body: str) -> None:
    sent, status, why = BODIES[body]
    assert calling.status(sent) == (status, why)
    assert calling.outcome()["grpc-status"] == "0", "the connection lives"


def test_who_compresses_is_told_what_to_use_instead(calling: Calling) -> None:
    found = calling.outcome(b"\1" + MESSAGE[1:])
    assert found["grpc-accept-encoding"] == "identity"


def test_the_longest_packet_is_taken(calling: Calling) -> None:
    message = b"\0\7" + bytes(65_533)
    found = calling.outcome(grpc.frame(b"\x10\1" * 6 + pack(message)))
    assert unpack(unframe(found["data"]))[:2] == b"\0\7"


# Timeouts


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [
        ("1H", 3600),
        ("2M", 120),
        ("5S", 5),
        ("99999999S", 99_999_999),
        ("250m", 0.25),
        ("4999800u", 4.9998),
        ("1n", 1e-9),
    ],
)
def test_a_timeout_is_how_long_the_client_waits(calling: Calling, timeout: str, seconds: float) -> None:
    calling.ask(grpc.frame(pack(query(SLOW))), timeout)
    (waiting,) = calling.calls.answer(calling.connection)
    assert waiting.seconds == pytest.approx(seconds)
    assert (waiting.stream, waiting.message) == (1, query(SLOW))
    calling.calls.finish(calling.connection, 1, b"reply")
    assert len(list(frames(calling.connection.take()))) == 3


def test_without_a_timeout_the_client_waits_for_ever(calling: Calling) -> None:
    calling.ask(grpc.frame(pack(query(SLOW))))
    (waiting,) = calling.calls.answer(calling.connection)
    assert waiting.seconds == math.inf


@pytest.mark.parametrize("timeout", ["", "5", "S", "5s", "-1S", "1.5S", "123456789S", "5 S", "5SS", "ÄS"])
@pytest.mark.parametrize("path", [QUERY, HEALTH_CHECK])
def test_what_is_no_timeout_is_an_invalid_argument(calling: Calling, timeout: str, path: str) -> None:
    expected = (Status.INVALID_ARGUMENT, "grpc-timeout is not a timeout")
    if timeout:
        assert calling.status(MESSAGE, timeout, path=path) == expected
    else:
        assert calling.outcome(MESSAGE if path == QUERY else grpc.frame(b""), timeout, path=path)["grpc-status"] == "0"


@pytest.mark.parametrize("timeout", ["0n", "0S", "00000000H"])
def test_a_call_that_comes_too_late_is_not_answered(calling: Calling, timeout: str) -> None:
    assert calling.status(MESSAGE, timeout) == (Status.DEADLINE_EXCEEDED, "the call came with no time left")
    assert calling.resolver.asked == 0


# One batch


def test_what_comes_together_is_answered_from_one_moment(calling: Calling) -> None:
    for number in range(50):
        calling.ask(grpc.frame(pack(query(ident=number))))
    calling.reader.begun = 0
    assert calling.calls.answer(calling.connection) == []
    assert calling.resolver.asked == 50
    assert calling.reader.begun == 1
    replies = [unpack(unframe(item.payload))[:2] for item in frames(calling.connection.take()) if item.kind == DATA]
    assert replies == [number.to_bytes(2, "big") for number in range(50)]


def test_no_moment_is_looked_at_when_nothing_is_asked_of_the_store(calling: Calling) -> None:
    calling.ask(path="/nothing")
    calling.ask(b"\1")
    calling.calls.answer(calling.connection)
    assert calling.reader.begun == 0


def test_each_query_is_timed(calling: Calling) -> None:
    for _ in range(10):
        calling.ask()
    calling.calls.answer(calling.connection)
    durations = calling.queries.snapshot().durations
    assert sum(durations.counts) == 10
    assert durations.total > 0


def test_a_bug_ends_a_call_and_nothing_else(calling: Calling, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise MemoryError

    monkeypatch.setattr(calling.queries, "begin", broken)
    assert calling.status() == (Status.INTERNAL, "a bug of the server")
    monkeypatch.undo()
    assert calling.outcome()["grpc-status"] == "0"
    assert calling.queries.snapshot().failures == 1


# Texts


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("plain text, 1.", b"plain text, 1."),
        ("100%", b"100%25"),
        ("ä\n\x7f", b"%C3%A4%0A%7F"),
        ("~ !", b"~ !"),
        ("", b""),
    ],
)
def test_messages_are_percent_encoded(text: str, encoded: bytes) -> None:
    assert percent(text) == encoded


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=40) | st.binary(max_size=40).map(grpc.frame))
def test_a_body_is_one_message_or_refused(body: bytes) -> None:
    try:
        message = unframe(body)
    except Refused:
        assert body != grpc.frame(body[5:]) or len(body) < 5
    else:
        assert body == grpc.frame(message)


def test_the_limits_of_a_body_and_of_a_packet_are_the_same() -> None:
    from headwater.serve.http2 import MAX_BODY

    assert len(grpc.frame(bytes(MAX_PACKET))) == MAX_BODY
