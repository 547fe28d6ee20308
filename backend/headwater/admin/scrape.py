"""One text of /metrics for all requests that wait for one.

To render the text takes milliseconds of the supervisor's only thread, and asks every process for
its counters. Any client may ask for it again and again, on many connections and without waiting for
replies, and a probe of /readyz must not wait for all of them. Two texts therefore begin at least
`PAUSE` apart, and every request gets the first text that is begun after its arrival. A reply is
never older than its request, and a scrape that comes alone does not wait.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

#: The least time from the begin of one text to that of the next, in seconds.
PAUSE: Final = 0.25
_OPENMETRICS: Final = "application/openmetrics-text"
#: The two formats. A client's own words are not handed on: each other version that it names, or
#: makes up, would be a text of its own.
_FORMATS: Final = {True: f"{_OPENMETRICS}; version=1.0.0", False: "text/plain; version=0.0.4"}


class Scrapes:
    """The texts of a registry. For one event loop."""

    def __init__(
        self,
        registry: CollectorRegistry,
        refresh: Callable[[], Awaitable[None]],
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """`refresh` fetches what the registry shows. `clock` is monotonic, in seconds."""
        self._registry = registry
        self._refresh = refresh
        self._clock = clock
        self._sleep = sleep
        self._turn = asyncio.Lock()
        self._begun = -math.inf
        """When the current texts were begun."""
        self._texts: dict[bool, tuple[bytes, str]] = {}
        """(text, content type) by whether it is OpenMetrics."""

    async def text(self, accept: str, received: float) -> tuple[bytes, str]:
        """Return a text, and its content type, for a request.

        `accept` is its header of that name, and `received` is when the request arrived, by `clock`.
        """
        openmetrics = _OPENMETRICS in accept
        async with self._turn:
            if self._begun < received:
                await self._sleep(max(0.0, self._begun + PAUSE - self._clock()))
                begun = self._clock()
                await self._refresh()
                self._begun = begun
                self._texts.clear()
            if openmetrics not in self._texts:
                encode, content_type = choose_encoder(_FORMATS[openmetrics])
                self._texts[openmetrics] = encode(self._registry), content_type
            return self._texts[openmetrics]
