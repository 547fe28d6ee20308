"""From a transport's bytes to the resolver and back, counted and timed.

A bug costs one query only.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from time import monotonic, perf_counter
from typing import Final

from headwater.answer.alias import Pending
from headwater.answer.resolver import Resolver
from headwater.answer.short import Answer
from headwater.process import usage
from headwater.process.counters import BUCKETS, AnswerSnapshot, Histogram
from headwater.serve.patience import Patience
from headwater.serve.upstream import Upstream
from headwater.store.environment import Reader, Snapshot, is_damage
from headwater.wire.edns import Ede

#: Seconds between two lines of a kind; a line counts those that were left out.
_QUIET: Final = 60.0

_log = logging.getLogger(__name__)


class Failed(Exception):  # noqa: N818 (what became of the query)
    """A bug of ours met a query. It is counted and logged; the transport says so in its own way."""


class Queries:
    """Every listener of an answer process hands its messages to it."""

    def __init__(
        self, reader: Reader, resolver: Resolver, upstream: Upstream, max_staleness: float = 0.0, workers: int = 1
    ) -> None:
        """`max_staleness` in seconds: no answer comes from older truth; 0: no limit.

        `workers`: how many answer processes there are.
        """
        self._patience = Patience(reader, workers, self.failed, self.damaged)
        self._reader = reader
        self._resolver = resolver
        self._upstream = upstream
        self._max_staleness = max_staleness
        self._durations = Histogram.of(BUCKETS)
        self._failures = 0
        self._damage = 0
        self._logged: dict[str, tuple[float, int]] = {}  # by kind: when, and how many since

    def answer(self, query: bytes) -> bytes | Pending | None:
        """One query: see `Session.answer`. Raises Failed."""
        session = self.begin()
        try:
            reply = session.answer(query)
            return session.patient(query, reply) if isinstance(reply, Pending) else reply
        finally:
            session.end()

    def begin(self, way: Answer | None = None) -> Session:
        """For queries that came together; they are answered from one moment of the store.

        `way`: how they are answered, by default as everybody.
        """
        return Session(self, way or self._resolver.answer, self._reader, self._durations)

    def at(self, zone: str) -> Answer:
        """The way for clients in a topology zone."""
        return self._resolver.at(zone)

    def look_at_nodes(self) -> None:
        """Read the Nodes again if one has changed."""
        snapshot = self._reader.begin()
        if snapshot is None:
            return
        try:
            self._resolver.whereabouts.follow(snapshot)
        except Exception as error:
            if not is_damage(error):
                raise
            self.damaged(error, snapshot)
        finally:
            snapshot.close()

    async def complete(self, pending: Pending, seconds: float = math.inf) -> bytes:
        """The reply to a query that needs another server, or waits for a name.

        Runs in the upstream's event loop. `seconds`: how long the client waits. Raises Failed.
        """
        if pending.patience:
            reply = await self._patience.wait(pending, seconds)
            return self.finished(pending) if reply is None else reply
        return self.finished(pending, await self._upstream.lookup(pending.target, pending.qtype, pending.tenant))

    def finished(self, pending: Pending, records: Sequence[bytes] = ()) -> bytes:
        """The reply with the records of the other server; without any it has the CNAMEs alone.

        Raises Failed.
        """
        try:
            return pending.finish(records)
        except Exception as error:
            self.failed(error)
            raise Failed from error

    def failed(self, error: Exception) -> None:
        """A bug of ours met a query: counted, logged once a minute per kind."""
        self._failures += 1
        kind = type(error).__name__
        more = self._is_to_be_logged(kind)
        if more is not None:
            _log.error("a query could not be answered%s", more, exc_info=error)

    def damaged(self, error: Exception, snapshot: Snapshot) -> None:
        """Count an unreadable page of the store, log it once a minute, and tell the writer."""
        self._damage += 1
        more = self._is_to_be_logged("damage")
        if more is not None:
            _log.error(
                "the store is damaged (%s); what cannot be read is SERVFAIL until there is another%s", error, more
            )
        try:
            self._reader.condemn(snapshot)
        except OSError as failure:
            if (more := self._is_to_be_logged("condemn")) is not None:
                _log.error("the watch process cannot be told that the store is damaged: %s%s", failure, more)

    def _is_to_be_logged(self, kind: str) -> str | None:
        """The end of a line of that kind; None when there was a line a moment ago."""
        now = monotonic()
        logged, since = self._logged.get(kind, (now - _QUIET, 0))
        if now - logged < _QUIET:
            self._logged[kind] = logged, since + 1
            return None
        self._logged[kind] = now, 0
        return f" ({since} more since the last line)" if since else ""

    def is_ready(self) -> bool:
        """Whether there is a store to answer from: every object, with the records of these settings
        or while these are being made.
        """
        snapshot = self._reader.begin()
        if snapshot is None:
            return False
        try:
            return self._reader.can_answer(snapshot)
        except Exception as error:
            if not is_damage(error):
                raise
            self.damaged(error, snapshot)
            return False
        finally:
            snapshot.close()

    def look_at_age(self) -> None:
        """Make the resolver refuse to answer while the truth is too old."""
        if not self._max_staleness:
            return
        snapshot = self._reader.begin()
        if snapshot is None:
            return
        try:
            written = snapshot.heard()
        except Exception as error:
            if not is_damage(error):
                raise
            self.damaged(error, snapshot)
            return
        finally:
            snapshot.close()
        if written is None:
            return  # the watch process writes it before it publishes anything
        heard, connected = written
        stale = monotonic() - heard > self._max_staleness
        self._resolver.set_stale(0 if not stale else Ede.STALE_ANSWER if connected else Ede.NO_REACHABLE_AUTHORITY)

    def snapshot(self) -> AnswerSnapshot:
        """The counters as they are now."""
        near, far = self._resolver.near
        return AnswerSnapshot(
            queries=dict(self._resolver.counts),
            durations=Histogram(list(self._durations.counts), self._durations.total),
            failures=self._failures,
            damage=self._damage,
            ready=self.is_ready(),
            stale=self._resolver.stale != 0,
            near=near,
            far=far,
            upstream=dict(self._upstream.counts),
            patience=dict(self._patience.counts),
            cpu=usage.cpu(),
            memory=usage.memory(),
        )


class Session:
    """Queries answered from one snapshot. `end` it at once: it pins old pages."""

    __slots__ = ("_at", "_durations", "_queries", "_reader", "_snapshot", "_way")

    def __init__(self, queries: Queries, way: Answer, reader: Reader, durations: Histogram) -> None:
        self._queries = queries
        self._way = way
        self._durations = durations
        self._at = perf_counter()
        self._reader = reader
        self._snapshot = reader.begin()

    def answer(self, query: bytes) -> bytes | Pending | None:
        """The reply; None without an id. `Queries.complete` makes a reply of a Pending.

        Raises Failed for a bug of ours; the next query is answered as usual.
        """
        try:
            return self._way(query, self._snapshot)
        except Exception as error:
            if self._snapshot is not None and is_damage(error):
                return self._unreadable(query, error, self._snapshot)
            self._queries.failed(error)
            raise Failed from error
        finally:
            # One look at the clock each: a query begins when the one before it ends.
            now = perf_counter()
            durations = self._durations
            durations.counts[bisect_left(BUCKETS, now - self._at)] += 1
            durations.total += now - self._at
            self._at = now

    def patient(self, query: bytes, pending: Pending) -> Pending:
        """A reply that waits, which can ask again if it waits for a name of ours."""
        return replace(pending, again=partial(self._way, query)) if pending.patience else pending

    def _unreadable(self, query: bytes, error: Exception, snapshot: Snapshot) -> bytes | Pending | None:
        """SERVFAIL, as without a store: CoreDNS's next address reads the same file."""
        self._queries.damaged(error, snapshot)
        # This transaction is useless now, but the other queries can read the rest in a new one.
        self._snapshot = None
        snapshot.close()
        self._snapshot = self._reader.begin()
        return self._way(query, None)

    def end(self) -> None:
        if self._snapshot is not None:
            self._snapshot.close()
