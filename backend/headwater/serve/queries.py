"""From a transport's bytes to the resolver and back: counted, timed, and a bug of ours one query's only."""

from __future__ import annotations

import logging
from bisect import bisect_left
from time import monotonic, perf_counter

from headwater.answer.alias import Pending
from headwater.answer.resolver import Resolver
from headwater.process.counters import BUCKETS, AnswerSnapshot, Histogram
from headwater.serve.upstream import Upstream
from headwater.store.environment import Reader
from headwater.wire.edns import Ede

_log = logging.getLogger(__name__)


class Failed(Exception):  # noqa: N818 (what became of the query)
    """A bug of ours met a query. It is counted and logged; the transport says so in its own way."""


class Queries:
    """What every listener of an answer process hands its messages to."""

    def __init__(self, reader: Reader, resolver: Resolver, upstream: Upstream, max_staleness: float = 0.0) -> None:
        """`max_staleness` in seconds: older truth is not answered from; 0: any is."""
        self._reader = reader
        self._resolver = resolver
        self._upstream = upstream
        self._max_staleness = max_staleness
        self._durations = Histogram.of(BUCKETS)
        self._failures = 0
        self._seen: set[str] = set()

    def answer(self, query: bytes) -> bytes | Pending | None:
        """One query: see `Session.answer`. Raises Failed."""
        session = self.begin()
        try:
            return session.answer(query)
        finally:
            session.end()

    def begin(self) -> Session:
        """For queries that came together: they are answered from one moment of the store."""
        return Session(self, self._resolver, self._reader, self._durations)

    async def complete(self, pending: Pending) -> bytes:
        """The reply to a query that another server has to be asked for. In the upstream's event loop.

        Raises Failed.
        """
        records = await self._upstream.lookup(pending.target, pending.qtype, pending.tenant)
        try:
            return pending.finish(records)
        except Exception as error:
            self.failed(error)
            raise Failed from error

    def failed(self, error: Exception) -> None:
        """A bug of ours met a query: counted, logged once per kind."""
        self._failures += 1
        kind = type(error).__name__
        if kind not in self._seen:
            self._seen.add(kind)
            _log.exception("a query could not be answered (further %s are only counted)", kind)

    def is_ready(self) -> bool:
        """Whether there is a complete store of these settings to answer from."""
        snapshot = self._reader.begin()
        if snapshot is None:
            return False
        try:
            return self._reader.is_ready(snapshot)
        finally:
            snapshot.close()

    def look_at_age(self) -> None:
        """Let the resolver refuse to answer while the truth is too old."""
        if not self._max_staleness:
            return
        snapshot = self._reader.begin()
        if snapshot is None:
            return
        try:
            written = snapshot.heard()
        finally:
            snapshot.close()
        if written is None:
            return  # the watch process writes it before it publishes anything
        heard, connected = written
        stale = monotonic() - heard > self._max_staleness
        self._resolver.set_stale(0 if not stale else Ede.STALE_ANSWER if connected else Ede.NO_REACHABLE_AUTHORITY)

    def snapshot(self) -> AnswerSnapshot:
        """The counters as they are now."""
        return AnswerSnapshot(
            queries=dict(self._resolver.counts),
            durations=Histogram(list(self._durations.counts), self._durations.total),
            failures=self._failures,
            ready=self.is_ready(),
            stale=self._resolver.stale != 0,
            upstream=dict(self._upstream.counts),
        )


class Session:
    """Queries answered from one snapshot. `end` it at once: it pins old pages."""

    __slots__ = ("_at", "_durations", "_queries", "_resolver", "_snapshot")

    def __init__(self, queries: Queries, resolver: Resolver, reader: Reader, durations: Histogram) -> None:
        self._queries = queries
        self._resolver = resolver
        self._durations = durations
        self._at = perf_counter()
        self._snapshot = reader.begin()

    def answer(self, query: bytes) -> bytes | Pending | None:
        """The reply, or None when the query has not even an id to reply to; `Queries.complete` makes one of a Pending.

        Raises Failed when a bug of ours is met; the next query is answered as ever.
        """
        try:
            return self._resolver.answer(query, self._snapshot)
        except Exception as error:
            self._queries.failed(error)
            raise Failed from error
        finally:
            # One look at the clock each: a query begins when the one before it ends.
            now = perf_counter()
            durations = self._durations
            durations.counts[bisect_left(BUCKETS, now - self._at)] += 1
            durations.total += now - self._at
            self._at = now

    def end(self) -> None:
        if self._snapshot is not None:
            self._snapshot.close()
