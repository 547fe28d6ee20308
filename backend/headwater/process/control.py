"""The link between the supervisor and one of its processes: the process's end, and the messages.

A message is one packet of a SOCK_SEQPACKET pair, in MessagePack. It arrives whole or not at all, so
neither side waits for half a message. The supervisor sends an `Asked` with a number. The process
sends a `Replied` with the same number, in any order, and `News` without a request. When the link
closes the supervisor is gone, perhaps killed. The process then exits at once, because nobody would
restart it or bind its address again.

A new kind of request is one more Struct here, in `Request`, and one more
handler where the process begins to attend.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import Struct

from headwater.process.counters import AnswerSnapshot, PeerSnapshot, WatchSnapshot
from headwater.process.progress import Mark, Progress

_log = logging.getLogger(__name__)

#: The most bytes of a message: a packet must fit into the send buffer, and the kernel takes half of
#: it.
MAX_MESSAGE: Final = 192 << 10
_SEND_BUFFER: Final = 2 * MAX_MESSAGE
#: Exit code of a process whose supervisor is gone.
ORPHANED: Final = 3
#: Exit code of a process that found the store damaged: the supervisor takes the store back.
STORE_DAMAGED: Final = 70
#: Exit code of a process that cannot start with these settings or credentials; its `Ending` says
#: why.
UNUSABLE: Final = 78


class Snapshot(Struct, frozen=True, tag="snapshot"):
    """Asks for the process's counters and its state."""


class Reload(Struct, frozen=True, tag="reload"):
    """Asks the process to read its sources again."""


class Explain(Struct, frozen=True, tag="explain"):
    """Why does that name answer as it does?"""

    name: str
    qtype: str
    waiting: str = ""
    """What the watch process says that it waits for."""


class Complete(Struct, frozen=True, tag="complete"):
    """Which names begin with what somebody has typed so far?"""

    typed: str
    limit: int


class History(Struct, frozen=True, tag="history", omit_defaults=True):
    """Which entries of the history are there? Or, with `at`: what was answered then?"""

    name: str = ""
    namespace: str = ""
    owner: str = ""
    """NAMESPACE/NAME."""
    ip: str = ""
    since: float = 0.0
    """Seconds since 1970, as all times here; 0.0: no matter."""
    until: float = 0.0
    limit: int = -1
    """How many entries; -1: as many as usual."""
    before: int = 0
    """Only entries with lower numbers."""
    after: int = -1
    """Only entries with higher numbers, and those in the order of their numbers; -1: no matter."""
    at: float = 0.0
    qtype: str = "A"


class Advise(Struct, frozen=True, tag="advise"):
    """What will not work of the Services in the namespaces behind this one?"""

    after: str = ""


Request = Snapshot | Reload | Explain | Complete | History | Advise


class Asked(Struct, frozen=True):
    """A request, with the number that its reply will carry."""

    id: int
    request: Request


class Done(Struct, frozen=True, tag="done"):
    """It was done, without a result."""


class Refused(Struct, frozen=True, tag="refused"):
    """It was not done."""

    why: str


class Explained(Struct, frozen=True, tag="explained"):
    """An explanation, as JSON: docs/explain.md has its schema."""

    json: bytes


class Completed(Struct, frozen=True, tag="completed"):
    """Names, as JSON: docs/page.md has its schema."""

    json: bytes


class Told(Struct, frozen=True, tag="told"):
    """A page of the history, or what was answered at a time, as JSON: docs/history.md has its
    schema.
    """

    json: bytes


class Advised(Struct, frozen=True, tag="advised"):
    """A part of the advice, as JSON: docs/advice.md has its schema."""

    json: bytes


class BadQuestion(Struct, frozen=True, tag="bad"):
    """What was asked makes no sense."""

    why: str


Reply = (
    AnswerSnapshot
    | WatchSnapshot
    | PeerSnapshot
    | Done
    | Refused
    | Explained
    | Completed
    | Told
    | Advised
    | BadQuestion
)


class Replied(Struct, frozen=True, tag="replied"):
    """A reply. Each says how far the main loop is."""

    id: int
    mark: Mark
    reply: Reply


class Started(Struct, frozen=True, tag="started"):
    """The process is at work."""


class Ending(Struct, frozen=True, tag="ending"):
    """The process is about to end."""

    why: str


News = Started | Ending
Heard = Replied | Started | Ending

#: Gets the request, and a function that takes its reply, now or later, from any thread. It must
#: return soon, because the next request waits: work that takes time belongs in another thread.
Handler = Callable[[Any, Callable[[Reply], None]], None]

_asked: Final = msgspec.msgpack.Decoder(Asked)
_heard: Final[msgspec.msgpack.Decoder[Heard]] = msgspec.msgpack.Decoder(Heard)


def pair() -> tuple[socket.socket, socket.socket]:
    """The supervisor's end and the process's. Raises OSError without descriptors."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    return ends


def encode(message: Asked | Heard) -> bytes:
    return msgspec.msgpack.encode(message)


def decode(packet: bytes) -> Heard:
    """Decode a packet from a process. Raises msgspec.MsgspecError for what is no message."""
    return _heard.decode(packet)


class Link:
    """The process's end."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def tell(self, news: News) -> None:
        """Send news. Without a supervisor it is lost."""
        with contextlib.suppress(OSError):
            self._end.send(encode(news))

    def attend(self, progress: Progress, handlers: Mapping[type[Request], Handler]) -> None:
        """Answer the supervisor in a thread of its own, also while the main loop is busy.

        Each reply carries the mark of `progress`.
        """

        def run() -> None:
            try:
                while packet := self._end.recv(MAX_MESSAGE):
                    self._handle(packet, handlers, progress)
            except OSError:
                pass
            os._exit(ORPHANED)

        threading.Thread(target=run, name="control", daemon=True).start()

    def _handle(self, packet: bytes, handlers: Mapping[type[Request], Handler], progress: Progress) -> None:
        asked = _asked.decode(packet)

        def reply(reply: Reply) -> None:
            self._reply(asked.id, progress.mark(), reply)

        handler = handlers.get(type(asked.request))
        if handler is None:
            reply(Refused(f"{type(asked.request).__name__} is not for this process"))
            return
        try:
            handler(asked.request, reply)
        except Exception as error:  # noqa: BLE001 (a bug in one request must not silence the others)
            _log.error("%s: %r", type(asked.request).__name__, error)
            reply(Refused(repr(error)))

    def _reply(self, number: int, mark: Mark, reply: Reply) -> None:
        packet = encode(Replied(number, mark, reply))
        if len(packet) > MAX_MESSAGE:
            packet = encode(Replied(number, mark, Refused(f"{len(packet):,} bytes are too many")))
        try:
            self._end.send(packet)
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.ECONNRESET):
                os._exit(ORPHANED)
            raise
