"""A stream's states: the code's table, the documented one, and a connection's behaviour agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest
from headwater.serve import http2
from headwater.serve.http2 import MAX_BODY, TRANSITIONS, Connection, Event, State

from tests.wire.bounds import assert_bounded
from tests.wire.frames import HEAD, TAIL, Client, connected, data, rst, settings, window

STREAM: Final = 5
REPLY: Final = b"a reply"
Wire = Connection[dict[bytes, bytes]]


def open_windows(connection: Wire) -> None:
    connection.receive(settings((4, 65_535)))


def too_long(connection: Wire) -> None:
    for _ in range(MAX_BODY // 16_384 + 1):
        connection.receive(data(STREAM, bytes(16_384), end=False))
        connection.take()


#: What causes each event, with the stream's own window closed.
CAUSES: Final[dict[Event, Callable[[Wire], object]]] = {
    Event.HEADERS: lambda connection: connection.receive(Client().headers(STREAM)),
    Event.END_STREAM: lambda connection: connection.receive(data(STREAM, b"query")),
    Event.TOO_LONG: too_long,
    Event.REPLY: lambda connection: connection.send(STREAM, HEAD, REPLY, TAIL),
    Event.FITS: lambda connection: connection.receive(window(STREAM, len(REPLY))),
    Event.RESET: lambda connection: connection.receive(rst(STREAM)),
}
#: The events that lead to each state.
WAYS: Final = {
    State.IDLE: (),
    State.OPEN: (Event.HEADERS,),
    State.DUE: (Event.HEADERS, Event.END_STREAM),
    State.SENDING: (Event.HEADERS, Event.END_STREAM, Event.REPLY),
    State.CLOSED: (Event.HEADERS, Event.END_STREAM, Event.REPLY, Event.FITS),
}


def in_state(state: State) -> Wire:
    """Return a connection whose stream is in this state; check each step with the table."""
    connection = connected()
    connection.receive(settings((4, 0)))
    now = State.IDLE
    for event in WAYS[state]:
        CAUSES[event](connection)
        now = TRANSITIONS[now, event]
        assert connection.state_of(STREAM) is now
    assert now is state
    connection.take()
    return connection


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("state", State)
def test_every_event_in_every_state(state: State, event: Event) -> None:
    connection = in_state(state)
    CAUSES[event](connection)
    after = connection.state_of(STREAM)
    if (state, event) in TRANSITIONS:
        assert after is TRANSITIONS[state, event]
        assert not connection.closed
    elif (state, event) == (State.DUE, Event.FITS):
        assert after is State.DUE, "a window that is opened before there is a reply"
    else:
        # Nothing, or an error of the stream or the connection.
        assert after in (state, State.CLOSED) or connection.closed
    assert_bounded(connection)
    connection.take()
    assert not connection.closed or connection.state_of(STREAM) not in (State.OPEN, State.DUE, State.SENDING)


@pytest.mark.parametrize("end", [State.DUE, State.CLOSED])
def test_the_short_way_passes_over_two_states(end: State) -> None:
    """HEADERS and DATA arrive together; the reply fits the window."""
    connection, client = connected(), Client(once=True)
    for stream in (1, 3):  # the first makes the block known
        connection.receive(client.call(stream))
        assert connection.state_of(stream) is State.DUE
        if end is State.CLOSED:
            connection.send(stream, HEAD, REPLY, TAIL)
            assert connection.state_of(stream) is end


def test_a_request_that_is_too_long_may_go_on_while_it_is_answered() -> None:
    connection = in_state(State.OPEN)
    too_long(connection)
    for _ in range(2):
        connection.receive(data(STREAM, b"more", end=False))
        assert connection.state_of(STREAM) is State.DUE
    connection.receive(data(STREAM, b"the last"))
    assert connection.state_of(STREAM) is State.DUE
    connection.send(STREAM, HEAD, REPLY, TAIL)
    open_windows(connection)
    assert connection.state_of(STREAM) is State.CLOSED
    assert not connection.closed


@pytest.mark.parametrize("stream", [0, 2, 4, 2**31 - 2])
def test_streams_that_no_client_opens_are_idle(stream: int) -> None:
    connection = connected()
    connection.receive(Client().call(STREAM))
    assert connection.state_of(stream) is State.IDLE
    assert connection.state_of(3) is State.CLOSED, "section 5.1.1: passed over"
    assert connection.state_of(7) is State.IDLE


def test_the_table_that_people_read_is_the_one_that_holds() -> None:
    lines = [line.split("|") for line in (http2.__doc__ or "").splitlines() if line.count("|") == 5]
    head, *rows = [[cell.strip() for cell in line] for line in lines]
    columns = [[Event[name.strip()] for name in cell.split(",")] for cell in head[1:]]
    written = {
        (State[row[0]], event): State[cell]
        for row in rows
        for events, cell in zip(columns, row[1:], strict=True)
        for event in events
        if cell
    }
    assert written == TRANSITIONS
    assert {row[0] for row in rows} == {state.name for state in State}
