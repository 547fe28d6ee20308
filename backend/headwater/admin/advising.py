"""The advice for the page: asked for in parts, when somebody looks, and kept for a while.

An answer process gives it, namespace after namespace, in parts of a few milliseconds. Between them
it has longer than they took, so the queries lose at most a fifth of its time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from headwater.advice.finding import Advice
from headwater.process.control import Advise, Advised, BadQuestion, Refused

_log = logging.getLogger(__name__)

#: Seconds for which advice is shown again before it is asked for anew.
KEPT: Final = 30.0
#: Seconds that a page waits for the advice, and shows what there was else.
_WAIT: Final = 0.3
#: How many times as long as a part took it rests, and the least rest in seconds.
_REST: Final = 4.0
_LEAST_REST: Final = 0.005
#: Parts of one advice, at most: one for each namespace.
_PARTS: Final = 20_000

Asking = Callable[[Advise], Awaitable[Advised | BadQuestion | Refused]]


class Advising:
    """The latest advice."""

    def __init__(self, ask: Asking, clock: Callable[[], float]) -> None:
        self._ask = ask
        self._clock = clock
        self._last: Advice | None = None
        self._at = 0.0
        self._task: asyncio.Task[None] | None = None

    async def latest(self) -> Advice | None:
        """What is known, asked for anew where it is old; None while nothing is known yet."""
        if self._task is None and (self._last is None or self._clock() - self._at > KEPT):
            self._task = asyncio.get_running_loop().create_task(self._look())
            self._task.add_done_callback(self._done)
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_WAIT)
        return self._last

    def _done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the Services cannot be looked at: %r", error)

    async def _look(self) -> None:
        found = Advice()
        after: str | None = ""
        for _ in range(_PARTS):
            began = self._clock()
            reply = await self._ask(Advise(after or ""))
            if not isinstance(reply, Advised):
                return  # what was known is shown on
            found.join(msgspec.json.decode(reply.json, type=Advice))
            after = found.next
            if after is None:
                break
            await asyncio.sleep(max(_LEAST_REST, _REST * (self._clock() - began)))
        self._last, self._at = found, self._clock()
