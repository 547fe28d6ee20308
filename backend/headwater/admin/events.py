"""/events: the history as it is written, as Server-Sent Events.

One task asks an answer process for new entries while anybody listens, and hands each to those whom
it concerns. What waits for a reader is bounded: what is more is not kept for him, but read again
from the history when he has got the rest. One that takes nothing for a while is let go, and may
come again with the number of the last event that he has got (`Last-Event-ID`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from headwater.admin.history import Historian, refused
from headwater.explain.named import Named, whose_is
from headwater.explain.question import question
from headwater.explain.told import Page
from headwater.explain.told import Told as Entry
from headwater.process.control import History, Told

_log = logging.getLogger(__name__)

#: The most readers, where descriptors allow it (`http`).
READERS: Final = 100
#: Seconds between two questions for new entries.
POLL: Final = 0.25
#: Seconds between two signs of life.
HEARTBEAT: Final = 15.0
#: Bytes of events that may wait for one reader, and seconds that it may take to read what was sent.
WAITING: Final = 64 << 10
SLOW: Final = 15.0
#: Entries that are asked for at once: of all that is new, and of what one reader has missed.
_PAGE: Final = 500
_MISSED: Final = 50

_FILTERS: Final = ("name", "namespace", "owner")
_PAGES: Final = msgspec.json.Decoder(Page)


class Connection(Protocol):
    """What a reader is connected by (`http`)."""

    def hold(self) -> bool: ...
    def abort(self) -> None: ...


class Reader:
    """One who listens."""

    def __init__(self, asked: History, whose: Named | None, connection: Connection | None) -> None:
        self.asked = asked
        self._whose = whose
        self._owner = tuple(asked.owner.split("/", 1)) if asked.owner else ()
        self._connection = connection
        self._waiting: deque[tuple[int, bytes]] = deque()
        self.size = 0
        """Bytes that wait."""
        self._more = asyncio.Event()
        self.last = -1
        """The number of the last event that was sent, or that it had before; -1: it takes what
        comes.
        """
        self.missed = -1
        """The number of an entry: those after it were too many to wait. -1: none were."""
        self.gone = False
        self.sending = 0.0
        """Since when something is being sent, 0.0 for nothing."""

    def wants(self, entry: Entry) -> bool:
        """Whether an entry concerns it; gaps concern everybody."""
        owner = entry.owner
        if owner is None:
            return True
        if self.asked.namespace and owner.namespace != self.asked.namespace:
            return False
        if self._owner and (owner.namespace, owner.name) != self._owner:
            return False
        if self._whose is not None:
            mine = self._whose.owner
            if (owner.namespace, owner.name) != (mine.namespace, mine.name) or owner.kind != _KINDS[mine.kind]:
                return False
            return entry.concerns(self._whose.label if self._whose.kept else "")
        return True

    def offer(self, seq: int, event: bytes) -> None:
        """Let an event wait for it, if there is room; number 0: a sign of life, which none need
        read again.
        """
        if self.missed >= 0:
            return
        if self.size + len(event) > WAITING:
            if seq:
                self.miss((self._waiting[0][0] or seq) - 1 if self._waiting else seq - 1)
            return
        self._waiting.append((seq, event))
        self.size += len(event)
        self._more.set()

    def miss(self, last: int) -> None:
        """It has to read again what is behind a number."""
        self.missed = last
        self.forget()
        self._more.set()

    def forget(self) -> None:
        """Nothing waits for it any more."""
        self._waiting.clear()
        self.size = 0

    def let_go(self) -> None:
        """End its connection, whatever it still has to get."""
        self.gone = True
        self.forget()
        self._more.set()
        if self._connection is not None:
            self._connection.abort()

    async def next(self) -> tuple[int, bytes] | None:
        """What waits; None when it has missed something, or is let go."""
        while not self._waiting and not self.gone and self.missed < 0:
            self._more.clear()
            await self._more.wait()
        if self.gone or self.missed >= 0:
            return None
        seq, event = self._waiting.popleft()
        self.size -= len(event)
        return seq, event


_KINDS: Final = ("Service", "ServiceImport", "Namespace", "Pod")


def event_of(entry: Entry) -> bytes:
    """An entry as an event."""
    return b"event: change\nid: %d\ndata: %b\n\n" % (entry.seq, msgspec.json.encode(entry))


class Events:
    """Those who listen, and the task that hears for them."""

    def __init__(self, instance: Historian) -> None:
        self._instance = instance
        self.readers: set[Reader] = set()
        self._task: asyncio.Task[None] | None = None

    def add(self, reader: Reader) -> bool:
        """Let somebody listen; False where there is no place."""
        if len(self.readers) >= READERS:
            return False
        self.readers.add(reader)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        return True

    async def entries(self, asked: History) -> Page:
        """A page; one without entries when nobody can say."""
        reply = await self._instance.history(asked)
        return _PAGES.decode(reply.json) if isinstance(reply, Told) else Page(newest=-1)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        cursor, alive = -1, loop.time()
        while self.readers:
            try:
                cursor = await self._hear(cursor)
            except Exception as error:  # noqa: BLE001 (the next question may go better)
                _log.warning("events: %r", error)
            now = loop.time()
            if now - alive >= HEARTBEAT:
                alive = now
                for reader in list(self.readers):
                    reader.offer(0, b": \n\n")
            for reader in list(self.readers):
                if reader.sending and now - reader.sending > SLOW:
                    reader.let_go()
            await asyncio.sleep(POLL)

    async def _hear(self, cursor: int) -> int:
        """Hand on what is new since a number; the newest then. -1: begin with what comes."""
        while True:
            found = await self.entries(History(limit=0 if cursor < 0 else _PAGE, after=cursor))
            if found.newest < 0:
                return cursor
            if cursor < 0 or found.newest < cursor:  # the first, or another store
                for reader in list(self.readers):
                    if 0 <= reader.last < found.newest:  # what came since then was not heard here
                        reader.miss(reader.last)
                return found.newest
            for entry in found.entries:
                event = event_of(entry)
                for reader in list(self.readers):
                    if reader.wants(entry):
                        reader.offer(entry.seq, event)
                cursor = entry.seq
            if found.next is None:
                return max(cursor, found.newest) if not found.entries else cursor


async def _stream(events: Events, reader: Reader, last: int) -> AsyncIterator[bytes]:
    clock = asyncio.get_running_loop().time
    reader.last = reader.missed = last
    try:
        yield b"retry: 2000\n\n"
        while not reader.gone:
            if reader.missed >= 0:
                reader.last = max(reader.last, reader.missed)
                reader.missed = -1  # what is written from now on may wait
                asked = msgspec.structs.replace(reader.asked, after=reader.last, limit=_MISSED)
                found = await events.entries(asked)
                if found.newest < 0:
                    reader.missed = reader.last
                    await asyncio.sleep(POLL)
                    continue
                sent = [(entry.seq, event_of(entry)) for entry in found.entries]
                if found.next is not None:
                    reader.missed = sent[-1][0] if sent else reader.last
            else:
                item = await reader.next()
                sent = [item] if item is not None else []
            for seq, event in sent:
                if seq and seq <= reader.last:
                    continue
                reader.last = seq or reader.last
                reader.sending = clock()
                yield event
                reader.sending = 0.0
    finally:
        events.readers.discard(reader)


def page(instance: Historian, wall: Callable[[], float]) -> Callable[[Request], Awaitable[Response]]:
    """The page."""
    events = Events(instance)

    async def listen(request: Request) -> Response:
        if (no := refused(request, instance.settings)) is not None:
            return no
        try:
            params = request.query_params
            asked = question({name: params[name] for name in _FILTERS if name in params}, wall())
            whose = whose_is(asked.name, instance.settings) if asked.name else None
            if asked.owner and "/" not in asked.owner:
                raise ValueError(f"{asked.owner[:255]!r} is not NAMESPACE/NAME")
        except ValueError as error:
            return PlainTextResponse(f"{error}\n", 400)
        connection: Connection | None = getattr(request.state, "connection", None)
        reader = Reader(asked, whose, connection)
        if not events.add(reader):
            return PlainTextResponse(f"{READERS} listen already\n", 503)
        if connection is not None and not connection.hold():
            events.readers.discard(reader)
            return PlainTextResponse("no place for one more who listens: descriptors are short\n", 503)
        last = -1
        with contextlib.suppress(ValueError):
            last = int(request.headers.get("last-event-id", "-1")[:19])
        headers = {"Cache-Control": "no-store", "Connection": "close", "X-Accel-Buffering": "no"}
        return StreamingResponse(_stream(events, reader, last), media_type="text/event-stream", headers=headers)

    return listen
