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

from headwater.admin.package import CollectorRegistry, openmetrics

#: The least time from the begin of one text to that of the next, in seconds.
PAUSE: Final = 0.25
_OPENMETRICS: Final = "application/openmetrics-text"

#: A registry's text, and its content type.
_Format = tuple[Callable[[CollectorRegistry], bytes], str]


def _plain() -> _Format:
    """The older format: Prometheus does not ask for it, and its module brings a web server."""
    from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

    return generate_latest, CONTENT_TYPE_PLAIN_0_0_4


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
        # These two, whatever a client says: each other version that it names, or makes up, would be
        # a text of its own.
        latest = f"{openmetrics.CONTENT_TYPE_LATEST}; escaping={openmetrics.UNDERSCORES}"
        self._formats: dict[bool, _Format] = {True: (openmetrics.generate_latest, latest)}

    async def text(self, accept: str, received: float) -> tuple[bytes, str]:
        """Return a text, and its content type, for a request.

        `accept` is its header of that name, and `received` is when the request arrived, by `clock`.
        """
        new = _OPENMETRICS in accept
        async with self._turn:
            if new not in self._formats:
                self._formats[new] = await asyncio.get_running_loop().run_in_executor(None, _plain)
            if self._begun < received:
                await self._sleep(max(0.0, self._begun + PAUSE - self._clock()))
                begun = self._clock()
                await self._refresh()
                self._begun = begun
                self._texts.clear()
            if new not in self._texts:
                encode, content_type = self._formats[new]
                self._texts[new] = encode(self._registry), content_type
            return self._texts[new]
