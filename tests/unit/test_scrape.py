"""/metrics under many requests: one text for all that wait, no reply older than its request."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
from headwater.admin.http import Server
from headwater.admin.scrape import PAUSE, Scrapes
from headwater.admin.server import application
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric

from tests.unit.test_admin import OPENMETRICS, STATES, FakeInstance

#: When the first request arrives, on the clock of `Scraped`.
NOW = 1000.0
PIPELINED = 50
CONNECTIONS = 10
METRICS = b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"
READYZ = b"GET /readyz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


class Scraped:
    """A registry whose only sample is the time of the last refresh. Only waits move its clock."""

    def __init__(self) -> None:
        self.now = NOW
        self.refreshed: list[float] = []
        """When each refresh began."""
        self.rendered = 0
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        self.scrapes = Scrapes(registry, self._refresh, lambda: self.now, self._sleep)
        self.rendered = 0  # the registry has rendered it once, to learn its name

    def collect(self) -> Iterator[Metric]:
        self.rendered += 1
        yield GaugeMetricFamily("refreshed_seconds", "Time.", value=self.refreshed[-1] if self.refreshed else 0.0)

    async def _refresh(self) -> None:
        self.refreshed.append(self.now)
        await asyncio.sleep(0)
        self.now += 0.01

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now += seconds

    async def ask(self, accept: str = "", *, received: float | None = None) -> float:
        """Return when the text was refreshed that a request gets."""
        text, _ = await self.scrapes.text(accept, self.now if received is None else received)
        (line,) = (line for line in text.decode().splitlines() if line.startswith("refreshed_seconds "))
        return float(line.split()[1])


def test_requests_that_have_arrived_share_one_text() -> None:
    scraped = Scraped()

    async def scene() -> list[float]:
        return await asyncio.gather(*(scraped.ask(received=NOW) for _ in range(50)))

    assert asyncio.run(scene()) == [NOW] * 50
    assert (len(scraped.refreshed), scraped.rendered) == (1, 1)


def test_a_reply_is_never_older_than_its_request_and_texts_have_a_pause_between_them() -> None:
    scraped = Scraped()

    async def scene() -> None:
        for number in range(5):
            arrived = scraped.now
            assert await scraped.ask() >= arrived
            assert scraped.refreshed == pytest.approx([NOW + PAUSE * at for at in range(number + 1)])

    asyncio.run(scene())


def test_a_request_that_comes_alone_does_not_wait() -> None:
    scraped = Scraped()

    async def scene() -> None:
        for _ in range(3):
            arrived = scraped.now
            assert await scraped.ask() == arrived
            scraped.now += 15.0

    asyncio.run(scene())


def test_made_up_versions_of_the_formats_are_no_texts_of_their_own() -> None:
    scraped = Scraped()

    async def scene() -> None:
        for number in range(1, 20):
            await scraped.ask(f"application/openmetrics-text; version=1.0.{number}", received=NOW)
            await scraped.ask(f"text/plain; version=1.{number}", received=NOW)
            await scraped.ask("application/openmetrics-text; version=none", received=NOW)
        _, content_type = await scraped.scrapes.text(OPENMETRICS, NOW)
        assert content_type.startswith("application/openmetrics-text; version=1.0.0")

    asyncio.run(scene())
    assert (len(scraped.refreshed), scraped.rendered) == (1, 2)


def test_a_refresh_that_fails_is_tried_again_by_the_next_request() -> None:
    tried: list[None] = []

    async def refresh() -> None:
        tried.append(None)
        if len(tried) == 1:
            raise OSError("no link")

    scrapes = Scrapes(CollectorRegistry(), refresh, lambda: NOW)

    async def scene() -> None:
        with pytest.raises(OSError, match="no link"):
            await scrapes.text("", NOW)
        await scrapes.text("", NOW)

    asyncio.run(scene())
    assert len(tried) == 2


def on_a_socket(instance: FakeInstance, scene: Callable[[int], Awaitable[None]]) -> None:
    """Serve an instance on a port of loopback during a scene."""

    async def play() -> None:
        with socket.create_server(("127.0.0.1", 0)) as bound:
            serving = asyncio.create_task(Server(application(instance, time.monotonic), bound).serve())
            try:
                async with asyncio.timeout(20.0):
                    await scene(bound.getsockname()[1])
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(play())


async def replies_to(port: int, sent: bytes, count: int, begun: asyncio.Event | None = None) -> None:
    """Send bytes on a new connection, and read this many replies."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    for _ in range(count):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 503")), head
        if begun is not None:
            begun.set()
        (length,) = (line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
    writer.close()


def test_pipelined_requests_share_one_text() -> None:
    instance = FakeInstance(*STATES["at work"])

    async def scene(port: int) -> None:
        await replies_to(port, METRICS * PIPELINED, PIPELINED)

    on_a_socket(instance, scene)
    assert instance.refreshed == 1


def test_a_probe_is_answered_during_a_flood_of_scrapes() -> None:
    instance = FakeInstance(*STATES["at work"])

    async def scene(port: int) -> None:
        begun = asyncio.Event()
        flood = [
            asyncio.create_task(replies_to(port, METRICS * PIPELINED, PIPELINED, begun)) for _ in range(CONNECTIONS)
        ]
        await begun.wait()
        await replies_to(port, READYZ, 1)
        assert not all(task.done() for task in flood), "the probe waits for the whole flood"
        await asyncio.gather(*flood)

    on_a_socket(instance, scene)
    assert instance.refreshed < 6, f"{instance.refreshed} refreshes for {CONNECTIONS * PIPELINED} scrapes and a probe"


def test_a_page_that_fails_is_a_500_that_says_nothing_and_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    instance = FakeInstance(*STATES["at work"])
    refresh = instance.refresh

    async def failing() -> None:
        instance.refresh = refresh  # type: ignore[method-assign]
        raise RuntimeError("a secret")

    instance.refresh = failing  # type: ignore[method-assign]

    async def scene(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(READYZ)
        reply = await reader.read()
        assert reply.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert b"secret" not in reply
        writer.close()
        await replies_to(port, READYZ, 1)

    on_a_socket(instance, scene)
    assert [record.getMessage().strip() for record in caplog.records] == ["Exception in ASGI application"]
    assert instance.refreshed == 1
