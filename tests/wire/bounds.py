"""The bounds of what a connection holds, whatever its peer has sent."""

from __future__ import annotations

from headwater.serve import fields
from headwater.serve.http2 import MAX_BODY, MAX_STREAMS, MAX_UNFINISHED, Connection, H


def assert_bounded(connection: Connection[H]) -> None:
    """Check the bound of everything that a peer can make grow, and that cached sums are right."""
    opened, due, sending = connection._open, connection._due, connection._sending
    assert len(opened) + len(due) + len(sending) <= MAX_STREAMS
    assert not opened.keys() & due.keys()
    assert not opened.keys() & sending.keys()
    assert not due.keys() & sending.keys()
    assert len(connection._requests) <= 3 * MAX_STREAMS
    assert len(connection._reset_by_us) <= 256
    assert len(connection._still_sent) <= MAX_STREAMS
    assert connection._for_window.keys() <= sending.keys()
    assert len(connection._blocks.known) <= 16
    assert all(len(known) <= 1024 for known in connection._blocks.known)
    assert len(connection._rest) < 9 + 16_384
    assert connection._block is None or len(connection._block.fragments) <= fields.MAX_LIST
    assert connection._unfinished == sum(request.size for request in opened.values()) <= MAX_UNFINISHED
    assert all(request.size == len(request.body) <= MAX_BODY for request in opened.values())
    assert connection._blocked == sum(len(reply.body) - reply.at for reply in sending.values())
    assert connection._blocked <= connection._queued
    assert connection._allowance <= 30_000
    for reply in sending.values():
        room = connection._initial + reply.extra
        assert room <= 0 or connection._window <= 0, "it waits, and could go"
