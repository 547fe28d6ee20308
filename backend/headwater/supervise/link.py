"""The supervisor's end of the link to a process.

Many requests may be under way; none blocks the loop.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable
from typing import Final

import msgspec

from headwater.process import control
from headwater.process.control import Asked, Ending, Heard, Replied, Request, Started

#: The most requests under way: the supervisor does not ask a hung process without end.
_OUTSTANDING: Final = 32
#: Packets read in one turn of the loop, so that no process keeps it from others.
_TURN: Final = 16


class Unanswered(RuntimeError):  # noqa: N818 (what happened)
    """No reply will come: the process is gone, or does not take requests."""


class Link:
    """`news` gets the process's news, `odd` bytes that are no message.

    `closed` is set when it is gone.
    """

    def __init__(
        self, end: socket.socket, news: Callable[[Started | Ending], None], odd: Callable[[Exception], None]
    ) -> None:
        end.setblocking(False)
        self.closed = asyncio.Event()
        self._end = end
        self._news = news
        self._odd = odd
        self._numbers = itertools.count(1)
        self._under_way: dict[int, asyncio.Future[Replied]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(end, self._readable)

    def ask(self, request: Request) -> asyncio.Future[Replied]:
        """Wait for the reply. Raises Unanswered, at once or later."""
        if self.closed.is_set() or len(self._under_way) >= _OUTSTANDING:
            raise Unanswered(type(request).__name__)
        number = next(self._numbers)
        try:
            self._end.send(control.encode(Asked(number, request)))
        except OSError as error:  # its buffer is full, or it is gone
            raise Unanswered(str(error)) from None
        future = self._under_way[number] = self._loop.create_future()
        future.add_done_callback(lambda _: self._under_way.pop(number, None))
        return future

    def close(self) -> None:
        """Close the link; requests under way are Unanswered."""
        if self._end.fileno() >= 0:
            self._loop.remove_reader(self._end)
            self._end.close()
        self.closed.set()
        for future in list(self._under_way.values()):
            if not future.done():
                future.set_exception(Unanswered("the process is gone"))
                future.exception()  # no complaint when nobody waits for it any more

    def _readable(self) -> None:
        for _ in range(_TURN):
            try:
                packet = self._end.recv(control.MAX_MESSAGE)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self.close()
                return
            try:
                self._take(control.decode(packet))
            except msgspec.MsgspecError as error:
                self._odd(error)

    def _take(self, heard: Heard) -> None:
        if not isinstance(heard, Replied):
            self._news(heard)
            return
        future = self._under_way.pop(heard.id, None)
        if future is not None and not future.done():
            future.set_result(heard)
