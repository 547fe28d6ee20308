"""The targets. Each takes any bytes, and raises only when Headwater handles them wrongly."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

import dns.exception
import dns.message
from headwater.answer.alias import Pending
from headwater.answer.resolver import Resolver
from headwater.serve.grpc import Calls, Route, route
from headwater.serve.http2 import MAX_QUEUED, Connection
from headwater.serve.queries import Queries
from headwater.serve.upstream import Upstream
from headwater.settings.settings import Settings
from headwater.store.environment import Reader
from headwater.wire.header import HEADER_SIZE
from headwater.wire.question import Malformed, Question, name_end

from tests.harness.small import Small, at, cluster_ip, external_name, headless, slice_of
from tests.wire.bounds import assert_bounded
from tests.wire.frames import GOAWAY, HELLO, frames


def http2(sent: bytes) -> None:
    """Feed a peer's bytes.

    The first byte says how to cut them, and whether a handshake comes first.
    """
    if not sent:
        return
    how, sent = sent[0], sent[1:]
    whole = (b"" if how & 1 else HELLO) + sent
    size = 1 + (how >> 2) * 7 if how & 2 else len(whole)
    asked = []
    for piece in (len(whole), size):
        connection: Connection[object] = Connection(dict)
        for start in range(0, len(whole), max(1, piece)):
            connection.receive(whole[start : start + piece])
            assert_bounded(connection)
        asked.append(([(stream, body) for stream, _, _, body in connection.requests()], connection.take()))
    assert asked[0] == asked[1], "it depends on how it was cut up"
    _answered(whole, size)


def _answered(whole: bytes, size: int) -> None:
    """Feed the bytes with gRPC's replies and the passing of time."""
    calls = Calls(Queries(*_served(), Upstream(())))
    connection: Connection[Route] = Connection(route)
    for start in range(0, len(whole), max(1, size)):
        connection.receive(whole[start : start + size])
        for waiting in calls.answer(connection):
            calls.finish(connection, waiting.stream, waiting.pending.finish(()))
        connection.cancelled.clear()
        said = list(frames(connection.take()))
        assert GOAWAY not in [item.kind for item in said[:-1]] or b"draining" in said[-1].payload + said[-2].payload
        connection.tick()
        assert_bounded(connection)
        assert connection._queued <= MAX_QUEUED + 70_000


def question(message: bytes) -> None:
    """Read a query's bytes, of at least a header."""
    if len(message) < HEADER_SIZE:
        return
    asked = _parsed(message)
    if isinstance(asked, int):
        assert asked == 0 or HEADER_SIZE + 5 <= asked <= len(message)
        return
    assert message[HEADER_SIZE : asked.end - 4] == asked.name
    assert name_end(message, HEADER_SIZE) == asked.end - 4
    assert len(asked.name) <= 255
    assert asked.edns is None or 512 <= asked.edns.udp_size <= 65_535
    # dnspython must read the same question.
    try:
        other = dns.message.from_wire(message[:2] + b"\0\0\0\1" + bytes(6) + message[HEADER_SIZE : asked.end])
    except dns.exception.DNSException as error:
        raise AssertionError(error) from None
    (theirs,) = other.question
    assert theirs.name.to_wire() == asked.name
    assert (theirs.rdtype, theirs.rdclass & 0xFFFF) == (asked.qtype, asked.qclass)


def _parsed(message: bytes) -> Question | int:
    """Return the question; for a malformed query, the offset where its question ends."""
    try:
        return Question(message)
    except Malformed as malformed:
        return malformed.end


def resolver(message: bytes) -> None:
    """Answer a query's bytes from a small store."""
    reader, answering = _served()
    snapshot = reader.begin()
    assert snapshot is not None
    try:
        reply = answering.answer(message, snapshot)
    finally:
        snapshot.close()
    if isinstance(reply, Pending):
        reply = reply.finish(())
    if reply is None:
        assert len(message) < 2
        return
    assert HEADER_SIZE <= len(reply) <= 65_535
    assert reply[:2] == message[:2]
    assert reply[2] & 0x80, "QR"
    assert not reply[2] & 2, "TC is not for us to set"
    assert len(message) < HEADER_SIZE or message[2] & 0x80 or reply[2] & 0x78 == message[2] & 0x78, "the opcode"
    if reply[4:6] != b"\0\0":
        end = name_end(reply, HEADER_SIZE) + 4
        assert message[HEADER_SIZE:end] == reply[HEADER_SIZE:end], "the question, in its own letters"
    dns.message.from_wire(reply)


@cache
def _served() -> tuple[Reader, Resolver]:
    """Return a reader and a resolver on a store with objects of each kind."""
    settings = Settings(
        zones=("cluster.local", "b.example"), reverse_zones=("10.in-addr.arpa", "ip6.arpa"),
        multicluster_zones=("clusterset.local",), pods="insecure", zonal=True,
    )  # fmt: skip
    folder = Path(tempfile.mkdtemp(prefix="hw-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    world = Small(folder, settings).fill(
        headless("web"),
        slice_of("web", *(at(f"10.44.0.{number}", hostname=f"web-{number}", zone="a") for number in range(1, 6))),
        headless("many"),
        slice_of("many", *(at(f"10.45.{number // 250}.{1 + number % 250}") for number in range(3000))),
        headless("six"),
        slice_of("six", at("fd00::1", "10.44.1.1", hostname="six-0")),
        cluster_ip("api", "172.16.0.9", "fd00:1::9"),
        external_name("inside", "web.default.svc.cluster.local"),
        external_name("outside", "example.org"),
    )
    reader = Reader(folder, world.identity)
    reader.follow()
    return reader, Resolver(reader, settings)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {"http2": http2, "question": question, "resolver": resolver}
