"""HTTP/2 (RFC 9113) for a server of unary calls, sans-IO: bytes to requests, replies to bytes.

No socket and no clock. Their owner calls `receive` with the bytes that it has read, `send` for each
of `requests`, writes the result of `take`, calls `tick` once a second, and closes when `closed` is
set:

    connection.receive(data)
    for stream, head, varying, body in connection.requests():
        connection.send(stream, HEAD, reply_to(head, body), TRAILERS)
    transport.write(connection.take())

A stream's state (section 5.1) is a `State`; `TRANSITIONS` is the whole table:

    state    | HEADERS | END_STREAM, TOO_LONG | REPLY   | FITS   | RESET
    ---------+---------+----------------------+---------+--------+-------
    IDLE     | OPEN    |                      |         |        |
    OPEN     |         | DUE                  |         |        | CLOSED
    DUE      |         |                      | SENDING |        | CLOSED
    SENDING  |         |                      |         | CLOSED | CLOSED
    CLOSED   |         |                      |         |        |

A call whose HEADERS and DATA come together goes from IDLE straight to DUE, and a reply that fits
both windows from DUE to CLOSED: the short way skips OPEN and SENDING. It keeps no object for a
stream, but one entry in the collection of its state, which `Connection.state_of` reads. One object
a stream was tried, and made a call's frames an eighth dearer.

"Half-closed (local)" does not occur: a reply that overtakes its request is followed by RST_STREAM
(section 8.1). Such a request may still be sent while its stream is DUE or SENDING.

**Why it is cheap.** We announce a header table of size zero, so a header block means the same on
any connection at any time. A call's block differs from the previous one only in the value of its
last field, `grpc-timeout`. When the rest of the block was decoded and accepted before, and the
value too, nothing is decoded (`_call`). A request is a tuple, a reply a join. Every other block
goes to `hpack`.

**Why it is safe.** Everything that a peer can make grow has a limit below. An allowance bounds
work: frames without a request (PING, SETTINGS, RST_STREAM, …) use it up, replies and ticks renew
it. Requests wait while more replies than `MAX_QUEUED` wait for the peer. An error of a stream ends
the stream, and an error of the connection ends the connection, with RFC 9113's error code. Nothing
raises.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum, IntEnum
from struct import Struct
from typing import Final, Generic, TypeAlias, TypeVar

from hpack import HPACKError, OversizedHeaderListError

from headwater.serve.fields import MAX_LIST, Blocks, Headers, Malformed, check_fields, encode
from headwater.wire.header import MAX_MESSAGE

H = TypeVar("H")
#: (stream, result of `route` for its headers, value of the varying field, body); the body is None
#: when it is longer than a connection takes.
Request: TypeAlias = tuple[int, H, bytes, bytes | None]
#: A header block ready to be sent: the first five bytes of its frame, and the block.
Block: TypeAlias = tuple[bytes, bytes]

# Limits, per connection.

#: Streams at a time: with a request, due, or with a reply under way.
MAX_STREAMS: Final = 512
#: SETTINGS_MAX_FRAME_SIZE, which has its least value (section 6.5.2).
MAX_FRAME_SIZE: Final = 16_384
#: Bytes of a request's body: a gRPC frame of a DnsPacket of a DNS message.
MAX_BODY: Final = 5 + 16 + MAX_MESSAGE
#: Bytes of all bodies that are not complete.
MAX_UNFINISHED: Final = 2 * MAX_BODY
#: Bytes of replies that wait for `take`, or for the peer's windows. The last one may exceed it.
MAX_QUEUED: Final = 128 * 1024
#: The peer's windows: on the connection the initial value, on a stream more than any body.
_WINDOW: Final = 65_535
_STREAM_WINDOW: Final = 2 * _WINDOW + 1
#: Frames without a request: so many a tick, and four for every reply and every large frame of one.
_ALLOWANCE: Final = 1000
_EARNED: Final = 4
_MAX_ALLOWANCE: Final = 20_000
_LARGE_FRAME: Final = 1024
#: Streams that we have reset and that the peer may still send on.
_MAX_REMEMBERED: Final = 256

# Deadlines, in ticks: about a second each.

_HANDSHAKE: Final = 10
#: Limits for a frame or header block, for a body, and for a reply that waits for a window.
_PATIENCE: Final = 30
_PING_AFTER: Final = 60
_PING_TIMEOUT: Final = 20
#: Without a request; then the peer is asked to leave.
_IDLE: Final = 3600

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_MAX_WINDOW: Final = 2**31 - 1
_MAX_STREAM: Final = 2**31 - 1
_KEEPALIVE: Final = b"alive?\0\0"
#: The PING by which grpc-go estimates bandwidth (internal/transport/bdp_estimator.go): it sends one
#: at the first DATA after each acknowledgement. With few queries each query would have one, which
#: costs a second read and write. The estimate only ever grows by acknowledgements that come two
#: thirds of a window later, so it loses nothing if this waits until so many bytes have been sent,
#: or until a tick.
_BANDWIDTH: Final = bytes((2, 4, 16, 16, 9, 14, 7, 7))
_HELD: Final = 48 * 1024
_DRAIN: Final = b"drain\0\0\0"

_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS, _PUSH_PROMISE, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = (
    range(10)
)
_ACK: Final = 0x1
_END_STREAM: Final = 0x1
_END_HEADERS: Final = 0x4
_PADDED: Final = 0x8
_WITH_PRIORITY: Final = 0x20
_ITSELF: Final = 0x100  # no flag of HTTP/2: the stream's priority depends on the stream

#: Length and type as one number, flags, stream (section 4.1).
_FRAME: Final = Struct(">IBI")
_SETTING: Final = Struct(">HI")


class Code(IntEnum):
    """Error codes (section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class State(Enum):
    """Of a stream, as section 5.1 has them where it has a name."""

    IDLE = "idle"
    OPEN = "open: the end of its request has not come"
    DUE = "half-closed (remote): its reply is to be made"
    SENDING = "half-closed (remote): its reply has not gone out whole"
    CLOSED = "closed"


class Event(Enum):
    """An event that changes a stream's state."""

    HEADERS = "a request begins"
    END_STREAM = "it is complete"
    TOO_LONG = "it is longer than is kept: it is answered, and not read on"
    REPLY = "its reply begins"
    FITS = "the reply has gone out whole"
    RESET = "RST_STREAM, from either side"


#: Any other event does not belong to that state: it is the peer's error, or has no effect.
TRANSITIONS: Final = {
    (State.IDLE, Event.HEADERS): State.OPEN,
    (State.OPEN, Event.END_STREAM): State.DUE,
    (State.OPEN, Event.TOO_LONG): State.DUE,
    (State.DUE, Event.REPLY): State.SENDING,
    (State.SENDING, Event.FITS): State.CLOSED,
    (State.OPEN, Event.RESET): State.CLOSED,
    (State.DUE, Event.RESET): State.CLOSED,
    (State.SENDING, Event.RESET): State.CLOSED,
}


class _ConnectionFault(Exception):  # noqa: N818 (section 5.4.1 calls it a connection error)
    """Ends the connection."""

    def __init__(self, code: Code, why: str) -> None:
        self.code = code
        self.why = why


class _StreamFault(Exception):  # noqa: N818 (section 5.4.2: a stream error)
    """Ends the stream of the frame that is being handled."""

    def __init__(self, code: Code) -> None:
        self.code = code


class _Block:
    """A header block whose end has not come, and the flags of its HEADERS."""

    __slots__ = ("born", "flags", "fragments", "stream")

    def __init__(self, stream: int, flags: int, fragment: bytes, born: int) -> None:
        self.stream = stream
        self.flags = flags
        self.fragments = bytearray(fragment)
        self.born = born  # in ticks


class _Open(Generic[H]):
    """A request whose end has not come."""

    __slots__ = ("body", "born", "expected", "extra", "head", "room", "size", "varying")

    def __init__(self, head: H, varying: bytes, expected: int, born: int) -> None:
        self.head = head
        self.varying = varying
        self.expected = expected  # its content-length; -1 without one
        self.born = born
        self.body = bytearray()
        self.size = 0
        self.room = _STREAM_WINDOW  # what the peer may send
        self.extra = 0  # what the peer lets us send beyond its initial window


class _Sending:
    """A reply that has not gone out whole. `extra`: as in _Open, less what was sent."""

    __slots__ = ("at", "body", "born", "extra", "tail")

    def __init__(self, body: bytes, tail: Block | None, extra: int, born: int) -> None:
        self.body = body
        self.tail = tail
        self.extra = extra
        self.born = born
        self.at = 0


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame (section 4.1)."""
    return _FRAME.pack(len(payload) << 8 | kind, flags, stream) + payload


def block(headers: Headers, *, end: bool) -> Block:
    """A header block in one frame. `end` when no DATA follows."""
    fields = encode(headers)
    assert len(fields) <= MAX_FRAME_SIZE  # every peer takes as much
    flags = _END_HEADERS | (_END_STREAM if end else 0)
    return (len(fields) << 16 | _HEADERS << 8 | flags).to_bytes(5, "big"), fields


class Connection(Generic[H]):
    """The server's end of one connection.

    `route` is called with the headers, once for equal blocks.
    """

    __slots__ = (
        "_allowance",
        "_block",
        "_blocked",
        "_blocks",
        "_draining",
        "_due",
        "_final",
        "_for_window",
        "_frame_size",
        "_goodbye",
        "_heard",
        "_held",
        "_initial",
        "_last",
        "_last_asked",
        "_open",
        "_out",
        "_queued",
        "_quiet",
        "_received",
        "_requests",
        "_reset_by_us",
        "_rest",
        "_sending",
        "_settled",
        "_started",
        "_still_sent",
        "_ticks",
        "_unfinished",
        "_window",
        "cancelled",
        "closed",
        "idle",
    )

    def __init__(self, route: Callable[[Headers], H]) -> None:
        self.closed = False
        """Nothing more will be read or written; `take` once more, then close."""
        self.cancelled: list[int] = []
        """Streams that are no longer due. The owner takes them out."""
        self.idle = 0
        """Ticks without a request."""

        self._rest = b""  # the beginning of a frame
        self._started = False  # the client's preface has come
        self._settled = False  # and its SETTINGS
        self._block: _Block | None = None  # a header block that is being continued

        self._last = 0  # the highest stream that was opened
        self._open: dict[int, _Open[H]] = {}
        self._due: dict[int, int] = {}  # to what the peer lets us send beyond its initial window
        self._sending: dict[int, _Sending] = {}
        self._for_window: dict[int, _Sending] = {}  # of those, the ones that wait for the connection's window, in order
        self._still_sent: set[int] = (
            set()
        )  # streams not in _open whose request is of no more interest, but not at its end
        self._reset_by_us: dict[int, None] = {}  # streams that we have reset

        self._requests: deque[Request[H]] = deque()
        self._unfinished = 0  # bytes in _open
        self._received = 0  # bytes of DATA that our window has not been opened for again

        self._blocks = Blocks(route)
        self._window = _WINDOW  # what we may send on the connection, and on a stream (section 6.9.2)
        self._initial = _WINDOW
        self._frame_size = MAX_FRAME_SIZE
        self._blocked = 0  # bytes in _sending
        self._queued = 0  # those, and what is in _out
        self._goodbye = b""
        self._draining = False
        self._final: int | None = None  # the last stream that is served, once that has been said

        self._allowance = _ALLOWANCE
        self._ticks = 0
        self._heard = False  # a whole frame, since the last tick
        self._quiet = 0  # ticks without one
        self._held = 0  # bytes to be sent before a PING about bandwidth is acknowledged; 0 without one
        self._last_asked = 0

        # Section 3.4: our SETTINGS come first, without waiting.
        settings = (
            (0x1, 0),  # HEADER_TABLE_SIZE
            (0x3, MAX_STREAMS),  # MAX_CONCURRENT_STREAMS
            (0x4, _STREAM_WINDOW),  # INITIAL_WINDOW_SIZE
            (0x5, MAX_FRAME_SIZE),  # MAX_FRAME_SIZE
            (0x6, MAX_LIST),  # MAX_HEADER_LIST_SIZE
        )
        self._out = [frame(_SETTINGS, 0, 0, b"".join(_SETTING.pack(*setting) for setting in settings))]

    # What the owner calls

    def receive(self, data: bytes) -> None:
        """Take what the peer has sent, in pieces of any size."""
        if self.closed:
            return
        if self._rest:
            data = self._rest + data
        try:
            at = self._frames(data, 0 if self._started else self._preface(data))
        except _ConnectionFault as fault:
            self._fail(fault.code, fault.why)
            return
        self._rest = data[at:]

    def requests(self) -> Iterator[Request[H]]:
        """The waiting requests, in their order, while there is room for their replies."""
        requests, due = self._requests, self._due
        while requests and self._queued < MAX_QUEUED:
            request = requests.popleft()
            if request[0] in due:
                yield request

    @property
    def is_full(self) -> bool:
        """Whether more replies than `MAX_QUEUED` wait."""
        return self._queued >= MAX_QUEUED

    @property
    def settled(self) -> bool:
        """Whether the client's preface and its SETTINGS have come."""
        return self._settled

    @property
    def has_requests(self) -> bool:
        """Whether `requests` would go on, after a `take`."""
        return bool(self._requests) and self._blocked < MAX_QUEUED

    def send(self, stream: int, head: Block, body: bytes = b"", tail: Block | None = None) -> None:
        """Reply: headers, a body unless `head` ends the stream, trailers if any.

        Has no effect when the stream is no longer due.
        """
        extra = self._due.pop(stream, None)
        if extra is None:
            return
        self._allowance += _EARNED
        size = len(body)
        name = stream.to_bytes(4, "big")
        if tail is not None and size <= self._frame_size and size <= self._window and size <= self._initial + extra:
            self._window -= size
            self._queued += size + 64
            self._out.append(
                b"".join((head[0], name, head[1], size.to_bytes(3, "big"), b"\0\0", name, body, tail[0], name, tail[1]))
            )
        else:
            self._out.append(head[0] + name + head[1])
            self._queued += size + 64
            if size:
                reply = self._sending[stream] = _Sending(body, tail, extra, self._ticks)
                self._blocked += size
                self._pour(stream, reply)
                return
            if tail is not None:
                self._out.append(tail[0] + name + tail[1])
        if self._still_sent:
            self._finish(stream)

    def take(self) -> bytes:
        """All bytes to be written now."""
        if self._final is not None and not (self._open or self._due or self._sending):
            self.closed = True
        out = self._out
        if self.closed:
            out.append(self._goodbye)
            self._goodbye = b""
            self._forget()
        elif self._received > _WINDOW // 2 and not self._requests:
            # Opened when half is used, and not while requests wait: more of them would wait too.
            out.append(frame(_WINDOW_UPDATE, 0, 0, self._received.to_bytes(4, "big")))
            self._received = 0
        if not out:
            return b""
        self._out = []
        self._queued = self._blocked
        data = out[0] if len(out) == 1 else b"".join(out)
        if self._held:
            self._held -= len(data)
            if self._held <= 0:
                self._held = 0
                data += _BANDWIDTH_ACK
        return data

    def drain(self) -> None:
        """Drain: serve the requests that the peer sends until it knows (section 6.8).

        Then `closed`.
        """
        if self._draining or self.closed:
            return
        self._draining = True
        self._out.append(_goaway(_MAX_STREAM, Code.NO_ERROR, "draining") + frame(_PING, 0, 0, _DRAIN))

    def tick(self) -> None:
        """About a second has passed."""
        if self.closed:
            return
        self._ticks += 1
        self._allowance = min(max(self._allowance, _ALLOWANCE), _MAX_ALLOWANCE)
        self._quiet = 0 if self._heard else self._quiet + 1
        self._heard = False
        self.idle = 0 if self._live() or self._last != self._last_asked else self.idle + 1
        self._last_asked = self._last
        if self._held:
            self._held = 0
            self._out.append(_BANDWIDTH_ACK)
        if not self._settled:
            if self._quiet >= _HANDSHAKE:
                self._fail(Code.SETTINGS_TIMEOUT, "no connection preface")
            return
        before = self._ticks - _PATIENCE
        if (self._rest and self._quiet >= _PATIENCE) or (self._block is not None and self._block.born <= before):
            self._fail(Code.ENHANCE_YOUR_CALM, "a frame is not completed")
        elif self._quiet >= _PING_AFTER + _PING_TIMEOUT:
            self._fail(Code.NO_ERROR, "no answer to a PING")
        elif self._quiet == _PING_AFTER:
            self._out.append(frame(_PING, 0, 0, _KEEPALIVE))
        elif self.idle == _IDLE:
            self.drain()
        late = [stream for stream, request in self._open.items() if request.born <= before]
        late += [stream for stream, reply in self._sending.items() if reply.born <= before]
        for stream in late:
            self._reset(stream, Code.CANCEL)

    def _forget(self) -> None:
        """Close when no request and no stream is left."""
        for kept in (self._open, self._due, self._sending, self._for_window, self._requests):
            kept.clear()
        self._unfinished = self._blocked = 0

    # The connection

    def _preface(self, data: bytes) -> int:
        """The offset behind the client's preface, 0 when it is not there yet (section 3.4)."""
        if not PREFACE.startswith(data[: len(PREFACE)]):
            raise _ConnectionFault(Code.PROTOCOL_ERROR, "not HTTP/2")
        if len(data) < len(PREFACE):
            return 0
        self._started = True
        return len(PREFACE)

    def _frames(self, data: bytes, at: int) -> int:
        """Handle the frames from an offset on; the offset behind the last whole one."""
        size = len(data)
        if not self._started:
            return 0
        while (start := at + 9) <= size:
            word, flags, stream = _FRAME.unpack_from(data, at)
            end = start + (word >> 8)
            kind = word & 0xFF
            if kind == _HEADERS and flags == _END_HEADERS and self._block is None and self._final is None:
                after = self._call(data, start, end, stream)
                if after:
                    at = after
                    continue
            # Section 4.2: a longer frame cannot be skipped, so it is the connection's error.
            if end - start > MAX_FRAME_SIZE:
                raise _ConnectionFault(Code.FRAME_SIZE_ERROR, "a frame is too long")
            if end > size:
                break
            at = end
            stream &= _MAX_STREAM  # section 4.1: the reserved bit is ignored
            if self._block is not None and (kind != _CONTINUATION or stream != self._block.stream):
                raise _ConnectionFault(Code.PROTOCOL_ERROR, "a header block is interrupted")  # section 4.3
            if not self._settled and (kind != _SETTINGS or flags & _ACK):
                raise _ConnectionFault(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")  # section 3.4
            self._heard = True
            if kind > _CONTINUATION:
                self._spend()
                continue  # section 5.5: unknown frames are ignored
            try:
                _HANDLERS[kind](self, flags, stream, data[start:end])
            except _StreamFault as fault:
                if self.state_of(stream) is State.IDLE:  # section 5.1: RST_STREAM has no place there
                    raise _ConnectionFault(fault.code, "on an idle stream") from None
                self._reset(stream, fault.code)
                self._spend()
        return at

    def _fail(self, code: Code, why: str) -> None:
        """End the connection (section 5.4.1). Earlier requests can still be answered."""
        self.closed = True
        # Section 6.8: not more than was said before.
        self._goodbye = _goaway(self._last if self._final is None else self._final, code, why)
        self._rest = b""

    def _spend(self, cost: int = 1) -> None:
        """Section 10.5: leave a peer that keeps us busy without requests."""
        self._allowance -= cost
        if self._allowance < 0:
            raise _ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many frames that ask nothing")

    def _live(self) -> int:
        return len(self._open) + len(self._due) + len(self._sending)

    def state_of(self, stream: int) -> State:
        """The state of a stream. Stream 0, and streams that a server opens, stay idle."""
        if stream in self._open:
            return State.OPEN
        if stream in self._due:
            return State.DUE
        if stream in self._sending:
            return State.SENDING
        return State.IDLE if stream > self._last or not stream & 1 else State.CLOSED

    def _goes_on(self, flags: int, stream: int) -> bool:
        """Whether a frame belongs to a request that was too long; its last frame ends that."""
        known = stream in self._still_sent
        if known and flags & _END_STREAM:
            self._still_sent.discard(stream)
        return known

    def _is_ignored(self, stream: int) -> bool:
        """Whether the peer may not have known of our reset (5.1) or of our GOAWAY (6.8)."""
        return stream in self._reset_by_us or (self._final is not None and stream > self._final)

    # Streams

    def _reset(self, stream: int, code: Code) -> None:
        """End a stream (section 5.4.2)."""
        self._out.append(frame(_RST_STREAM, 0, stream, code.to_bytes(4, "big")))
        self._drop(stream)
        self._reset_by_us[stream] = None
        if len(self._reset_by_us) > _MAX_REMEMBERED:
            del self._reset_by_us[next(iter(self._reset_by_us))]

    def _drop(self, stream: int) -> None:
        """Forget a stream, whatever its state."""
        state = self.state_of(stream)
        if state is State.OPEN:
            self._unfinished -= self._open.pop(stream).size
        elif state is State.DUE:
            del self._due[stream]
            self.cancelled.append(stream)
            if len(self._requests) > 2 * MAX_STREAMS:  # requests that are not due any more are passed over, but kept
                self._requests = deque(request for request in self._requests if request[0] in self._due)
        elif state is State.SENDING:
            reply = self._sending.pop(stream)
            left = len(reply.body) - reply.at
            self._blocked -= left
            self._queued -= left
            self._for_window.pop(stream, None)
        self._still_sent.discard(stream)

    def _finish(self, stream: int) -> None:
        """A reply has gone out whole. The rest of its request need not be sent (section 8.1)."""
        if stream in self._still_sent:
            self._reset(stream, Code.NO_ERROR)

    # Requests

    def _call(self, data: bytes, start: int, end: int, stream: int) -> int:
        """The short way: a call like one before, its HEADERS and DATA whole and side by side.

        Returns the offset behind it, or 0 when the frames must go the long way, with the same
        result.
        """
        blocks = self._blocks
        cut = start + blocks.cut
        known = blocks.known.get(data[start:cut])
        body = end + 9
        if known is None or cut > end or body > len(data) or stream <= self._last or not stream & 1:
            return 0
        word, flags, same = _FRAME.unpack_from(data, end)
        size: int = word >> 8
        after = body + size
        if (
            word & 0xFF != _DATA
            or flags != _END_STREAM
            or same != stream
            or after > len(data)
            or size > MAX_FRAME_SIZE
            or stream > _MAX_STREAM
            or len(self._due) + len(self._open) + len(self._sending) >= MAX_STREAMS
        ):
            return 0
        head, length, values = known
        if length >= 0 and length != size:
            return 0
        try:
            varying = values[data[cut:end]]
        except KeyError:
            return 0
        self._last = stream
        self._heard = True
        self._account(size)
        self._due[stream] = 0
        self._requests.append((stream, head, varying, data[body:after]))
        return after

    def _account(self, size: int) -> None:
        """DATA counts against the connection's window in any case (section 6.9)."""
        self._received += size
        if self._received > _WINDOW:  # section 6.9.1
            raise _ConnectionFault(Code.FLOW_CONTROL_ERROR, "more DATA than the window lets through")

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        """Section 6.1."""
        state = self.state_of(stream)
        if state is State.IDLE:  # section 5.1; and stream 0
            raise _ConnectionFault(Code.PROTOCOL_ERROR, "DATA on an idle stream")
        size = len(payload)
        self._account(size)
        data = _unpadded(flags, payload)
        if state is not State.OPEN:
            self._spend()
            if not self._goes_on(flags, stream) and not self._is_ignored(stream):
                raise _StreamFault(Code.STREAM_CLOSED)
            return
        request = self._open[stream]
        request.room -= size
        if request.room < 0:
            raise _StreamFault(Code.FLOW_CONTROL_ERROR)  # section 6.9.1
        padding = size - len(data)
        if padding and not flags & _END_STREAM:  # useless: given back at once
            request.room += padding
            self._out.append(frame(_WINDOW_UPDATE, 0, stream, padding.to_bytes(4, "big")))
        request.size += len(data)
        self._unfinished += len(data)
        if flags & _END_STREAM:
            self._end(stream, request, data)
        elif request.size > MAX_BODY or self._unfinished > MAX_UNFINISHED:
            self._give_up(stream, request)
            self._still_sent.add(stream)
        else:
            request.body += data
            self._spend()

    def _end(self, stream: int, request: _Open[H], last: bytes = b"") -> None:
        """The request is complete with its last frame."""
        if request.expected >= 0 and request.expected != request.size:
            raise _StreamFault(Code.PROTOCOL_ERROR)  # section 8.1.1
        if request.size > MAX_BODY:
            self._give_up(stream, request)
            return
        del self._open[stream]
        self._unfinished -= request.size
        self._due[stream] = request.extra
        body = bytes(request.body + last) if request.body else last
        self._requests.append((stream, request.head, request.varying, body))

    def _give_up(self, stream: int, request: _Open[H]) -> None:
        """The request is too long."""
        del self._open[stream]
        self._unfinished -= request.size
        self._due[stream] = request.extra
        self._requests.append((stream, request.head, request.varying, None))

    def _on_headers(self, flags: int, stream: int, payload: bytes) -> None:
        """Section 6.2."""
        if not stream & 1:  # section 5.1.1; and stream 0
            raise _ConnectionFault(Code.PROTOCOL_ERROR, "HEADERS on a stream that no client opens")
        fragment = _unpadded(flags, payload)
        if flags & _WITH_PRIORITY:
            if len(fragment) < 5:
                raise _ConnectionFault(Code.FRAME_SIZE_ERROR, "HEADERS without their priority")
            if _depends_on_itself(fragment, stream):
                flags |= _ITSELF
            fragment = fragment[5:]
        if flags & _END_HEADERS:
            self._on_block(flags, stream, fragment)
        else:
            self._block = _Block(stream, flags, fragment, self._ticks)

    def _on_continuation(self, flags: int, stream: int, payload: bytes) -> None:
        """Section 6.10."""
        if self._block is None:
            raise _ConnectionFault(Code.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._spend()
        begun = self._block
        begun.fragments += payload
        if len(begun.fragments) > MAX_LIST:  # section 10.5.1; its state would be needed, so the connection ends
            raise _ConnectionFault(Code.ENHANCE_YOUR_CALM, "a header block is too long")
        if flags & _END_HEADERS:
            self._block = None
            self._on_block(begun.flags, stream, bytes(begun.fragments))

    def _on_block(self, flags: int, stream: int, block: bytes) -> None:
        """A whole header block."""
        try:
            self._on_fields(flags, stream, block)
        except OversizedHeaderListError:
            raise _ConnectionFault(Code.ENHANCE_YOUR_CALM, "a header list is too long") from None  # section 10.5.1
        except HPACKError:
            raise _ConnectionFault(Code.COMPRESSION_ERROR, "a header block does not decode") from None  # section 4.3
        except Malformed:
            raise _StreamFault(Code.PROTOCOL_ERROR) from None  # section 8.1.1

    def _on_fields(self, flags: int, stream: int, block: bytes) -> None:
        """A request's headers, or its trailers."""
        if stream > self._last:
            self._last = stream
            self._on_request(flags, stream, block)
            return
        trailers = self._blocks.decode(block)  # section 4.3: always, the table belongs to the connection
        state = self.state_of(stream)
        if state is State.OPEN:
            if not flags & _END_STREAM:
                raise _StreamFault(Code.PROTOCOL_ERROR)  # section 8.1
            check_fields(trailers)  # pseudo-header fields are none of them (section 8.1)
            self._end(stream, self._open[stream])
            return
        self._spend()
        if self._goes_on(flags, stream):
            return
        if state is not State.CLOSED:
            raise _StreamFault(Code.STREAM_CLOSED)  # section 5.1, half-closed (remote)
        if not self._is_ignored(stream):
            raise _ConnectionFault(Code.STREAM_CLOSED, "HEADERS on a closed stream")  # section 5.1, closed

    def _on_request(self, flags: int, stream: int, block: bytes) -> None:
        head, varying, expected = self._blocks.request(block)
        if self._final is not None:
            return  # section 6.8: the peer knows that it is not served
        if flags & _ITSELF:
            raise _StreamFault(Code.PROTOCOL_ERROR)
        if self._live() >= MAX_STREAMS:
            raise _StreamFault(Code.REFUSED_STREAM)  # section 5.1.2
        request = self._open[stream] = _Open(head, varying, expected, self._ticks)
        if flags & _END_STREAM:
            self._end(stream, request)

    # Replies

    def _pour(self, stream: int, reply: _Sending) -> None:
        """Send as much of a reply as both windows let through (section 6.9)."""
        name = stream.to_bytes(4, "big")
        body = reply.body
        size = len(body)
        while reply.at < size:
            room = min(self._window, self._initial + reply.extra)
            if room <= 0:
                if self._initial + reply.extra > 0:
                    self._for_window[stream] = reply
                return
            length = min(room, size - reply.at, self._frame_size)
            part = body[reply.at : reply.at + length]
            reply.at += length
            reply.extra -= length
            self._window -= length
            self._blocked -= length
            flags = _END_STREAM if reply.at == size and reply.tail is None else 0
            self._out.append(_FRAME.pack(length << 8 | _DATA, flags, stream) + part)
            if length >= _LARGE_FRAME:
                self._allowance += _EARNED
        if reply.tail is not None:
            self._out.append(reply.tail[0] + name + reply.tail[1])
        del self._sending[stream]
        self._finish(stream)

    def _on_window_update(self, _: int, stream: int, payload: bytes) -> None:
        """Section 6.9."""
        if len(payload) != 4:
            raise _ConnectionFault(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE of another length")
        self._spend()
        increment = int.from_bytes(payload, "big") & _MAX_WINDOW
        if not stream:
            if not increment:
                raise _ConnectionFault(Code.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
            self._window += increment
            if self._window > _MAX_WINDOW:  # section 6.9.1
                raise _ConnectionFault(Code.FLOW_CONTROL_ERROR, "a window is too large")
            while self._for_window and self._window > 0:
                waiting = next(iter(self._for_window))
                self._pour(waiting, self._for_window.pop(waiting))
            return
        state = self.state_of(stream)
        if state is State.IDLE:
            raise _ConnectionFault(Code.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")  # section 5.1
        if state is State.CLOSED:
            return  # section 5.1: it was closed when this was under way
        if not increment:
            raise _StreamFault(Code.PROTOCOL_ERROR)
        if self._initial + self._widen(stream, state, increment) > _MAX_WINDOW:
            raise _StreamFault(Code.FLOW_CONTROL_ERROR)  # section 6.9.1
        if state is State.SENDING and stream not in self._for_window:
            self._pour(stream, self._sending[stream])

    def _widen(self, stream: int, state: State, increment: int) -> int:
        """Enlarge a stream's window; returns its size beyond the initial one."""
        if state is State.DUE:
            self._due[stream] += increment
            return self._due[stream]
        kept = self._open[stream] if state is State.OPEN else self._sending[stream]
        kept.extra += increment
        return kept.extra

    # Frames about the connection

    def _on_settings(self, flags: int, stream: int, payload: bytes) -> None:
        """Section 6.5."""
        if stream:
            raise _ConnectionFault(Code.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & _ACK:
            if payload:
                raise _ConnectionFault(Code.FRAME_SIZE_ERROR, "an acknowledgement of settings with a payload")
            self._spend()
            self._blocks.acknowledged()
            return
        if len(payload) % 6:
            raise _ConnectionFault(Code.FRAME_SIZE_ERROR, "SETTINGS of another length")
        self._spend(1 + len(payload) // 6 + self._live() // 8)
        self._settled = True
        for number, value in _SETTING.iter_unpack(payload):
            if number == 0x2 and value > 1:  # ENABLE_PUSH
                raise _ConnectionFault(Code.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
            if number == 0x4:
                self._set_initial(value)
            elif number == 0x5:
                if not 16_384 <= value <= 16_777_215:
                    raise _ConnectionFault(Code.PROTOCOL_ERROR, "MAX_FRAME_SIZE out of its range")
                self._frame_size = value
            # HEADER_TABLE_SIZE: our blocks use no table. MAX_CONCURRENT_STREAMS: we open none.
            # MAX_LIST_SIZE: ours are tiny. Section 6.5.2: unknown ones are ignored.
        self._out.append(frame(_SETTINGS, _ACK, 0))
        for waiting in [stream for stream in self._sending if stream not in self._for_window]:
            self._pour(waiting, self._sending[waiting])

    def _set_initial(self, value: int) -> None:
        """INITIAL_WINDOW_SIZE changes all streams' windows, also below zero (section 6.9.2)."""
        self._initial = value
        extras = [request.extra for request in self._open.values()]
        extras += [reply.extra for reply in self._sending.values()]
        if value + max((0, *extras, *self._due.values())) > _MAX_WINDOW:
            raise _ConnectionFault(Code.FLOW_CONTROL_ERROR, "a window is too large")

    def _on_ping(self, flags: int, stream: int, payload: bytes) -> None:
        """Section 6.7."""
        if stream:
            raise _ConnectionFault(Code.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise _ConnectionFault(Code.FRAME_SIZE_ERROR, "PING of another length")
        self._spend()
        if not flags & _ACK:
            if payload == _BANDWIDTH and not self._held:
                self._held = _HELD
            else:
                self._out.append(frame(_PING, _ACK, 0, payload))
        elif payload == _DRAIN and self._draining and self._final is None:
            # A round trip after the first GOAWAY, all requests from before it have come (section
            # 6.8).
            self._final = self._last
            self._out.append(_goaway(self._last, Code.NO_ERROR, "draining"))

    def _on_rst_stream(self, _: int, stream: int, payload: bytes) -> None:
        """Section 6.4."""
        if len(payload) != 4:
            raise _ConnectionFault(Code.FRAME_SIZE_ERROR, "RST_STREAM of another length")
        if self.state_of(stream) is State.IDLE:  # and stream 0
            raise _ConnectionFault(Code.PROTOCOL_ERROR, "RST_STREAM on an idle stream")
        self._spend()
        self._drop(stream)

    def _on_goaway(self, _: int, stream: int, payload: bytes) -> None:
        """Section 6.8. The peer will close; until then it is served."""
        if stream:
            raise _ConnectionFault(Code.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise _ConnectionFault(Code.FRAME_SIZE_ERROR, "GOAWAY is too short")
        self._spend()

    def _on_priority(self, _: int, stream: int, payload: bytes) -> None:
        """Section 6.3: checked, without effect (section 5.3.2)."""
        if not stream:
            raise _ConnectionFault(Code.PROTOCOL_ERROR, "PRIORITY on stream 0")
        self._spend()
        if len(payload) != 5:
            raise _StreamFault(Code.FRAME_SIZE_ERROR)
        if _depends_on_itself(payload, stream):
            raise _StreamFault(Code.PROTOCOL_ERROR)

    def _on_push_promise(self, _flags: int, _stream: int, _payload: bytes) -> None:
        raise _ConnectionFault(Code.PROTOCOL_ERROR, "a client does not push")  # section 8.4


#: By type (section 6).
_HANDLERS: Final = (
    Connection._on_data,
    Connection._on_headers,
    Connection._on_priority,
    Connection._on_rst_stream,
    Connection._on_settings,
    Connection._on_push_promise,
    Connection._on_ping,
    Connection._on_goaway,
    Connection._on_window_update,
    Connection._on_continuation,
)


#: The reply to that PING.
_BANDWIDTH_ACK: Final = frame(_PING, _ACK, 0, _BANDWIDTH)


def _goaway(last: int, code: Code, why: str) -> bytes:
    return frame(_GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big") + why.encode())


def _unpadded(flags: int, payload: bytes) -> bytes:
    """The payload of DATA or HEADERS without padding (section 6.1)."""
    if not flags & _PADDED:
        return payload
    if not payload:
        raise _ConnectionFault(Code.FRAME_SIZE_ERROR, "no length of padding")  # section 4.2
    if payload[0] >= len(payload):
        raise _ConnectionFault(Code.PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]


def _depends_on_itself(priority: bytes, stream: int) -> bool:
    """RFC 7540 section 5.3.1. RFC 9113 has no priorities, and the rule does no harm."""
    return int.from_bytes(priority[:4], "big") & _MAX_STREAM == stream
