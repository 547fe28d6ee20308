"""A comparison that watches, for Prometheus: in a registry of its own, at an address of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from headwater.compare.comparison import Finding
from headwater.compare.judgement import Kind
from headwater.settings.address import Address


class Metrics:
    """What is counted; `serve` shows it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._questions = Counter(
            "headwater_compare_questions",
            "Questions asked of both, by the class of their replies.",
            ("class", "deviation"),
            registry=self.registry,
        )
        self._late = Histogram(
            "headwater_compare_late_seconds",
            "How late the side that changed last was.",
            ("side",),
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60),
            registry=self.registry,
        )
        self._rounds = Counter("headwater_compare_rounds", "Complete rounds through all names.", registry=self.registry)
        self._open = Gauge("headwater_compare_open", "Differences that are being asked again.", registry=self.registry)
        self._names = Gauge("headwater_compare_names", "Names that Headwater knows.", registry=self.registry)
        for kind in Kind:
            if kind is not Kind.DEVIATION:
                self._questions.labels(str(kind), "")
        for side in ("theirs", "ours"):
            self._late.labels(side)
        self._started: tuple[WSGIServer, threading.Thread] | None = None

    def found(self, finding: Finding) -> None:
        """One question is settled."""
        self._questions.labels(str(finding.kind), finding.deviation).inc()
        if finding.kind in (Kind.THEY_ARE_LATE, Kind.WE_ARE_LATE):
            self._late.labels("theirs" if finding.kind is Kind.THEY_ARE_LATE else "ours").observe(finding.late)

    def round(self) -> None:
        self._rounds.inc()

    def names(self, number: int) -> None:
        self._names.set(number)

    def watch_open(self, number: Callable[[], float]) -> None:
        self._open.set_function(number)

    def serve(self, address: Address) -> None:
        """Raises OSError when the address is taken."""
        self._started = start_http_server(address.port, address.host, registry=self.registry)

    def close(self) -> None:
        if self._started is not None:
            server, thread = self._started
            server.shutdown()
            server.server_close()
            thread.join()
