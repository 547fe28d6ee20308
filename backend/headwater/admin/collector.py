"""Prometheus families, made at scrape time from the processes' counters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from headwater import __version__
from headwater.admin.package import (
    Collector,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from headwater.answer.counts import COUNTED_TYPES, RCODES, count_parts
from headwater.process import usage
from headwater.process.counters import (
    BUCKETS,
    BUG,
    LATENCY_BUCKETS,
    OPINIONS,
    AnswerSnapshot,
    Histogram,
    Kind,
    PeerSnapshot,
    ProcessView,
    WatchSnapshot,
)

#: The admin page is up for as long as the instance. Seconds since 1970.
_STARTED: Final = time.time()


def answers_of(views: Iterable[ProcessView]) -> AnswerSnapshot:
    """The counters of all answer processes in all their lives."""
    total = AnswerSnapshot()
    for view in views:
        for part in (view.before, view.snapshot):
            if isinstance(part, AnswerSnapshot):
                total.add(part)
    return total


def peer_of(views: Iterable[ProcessView]) -> PeerSnapshot:
    """The counters of the peer process in all its lives."""
    total = PeerSnapshot()
    for view in views:
        for part in (view.before, view.snapshot):
            if isinstance(part, PeerSnapshot):
                total.add(part)
    return total


def watch_of(views: Iterable[ProcessView], at: float) -> WatchSnapshot:
    """The watch process's state, with the counters of its earlier lives.

    `at` is now, by the machine's monotonic clock: ages go on from the last report.
    """
    for view in views:
        if view.kind is Kind.WATCH:
            now = view.snapshot if isinstance(view.snapshot, WatchSnapshot) else WatchSnapshot()
            total = WatchSnapshot(
                taken=now.taken,
                ready=now.ready,
                detail=now.detail,
                objects=now.objects,
                names=now.names,
                store_bytes=now.store_bytes,
                history_entries=now.history_entries,
                history_bytes=now.history_bytes,
                store_free=now.store_free,
                store_serial=now.store_serial,
                policy_paused=now.policy_paused,
            )
            for name, state in now.resources.items():
                mine = total.resources.setdefault(name, type(state)())
                mine.connected, mine.resource_version = state.connected, state.resource_version
            total.add_counters(now)
            if isinstance(view.before, WatchSnapshot):
                total.add_counters(view.before)
            total.grow_older(at)
            return total
    return WatchSnapshot()


def _buckets(bounds: Sequence[float], histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    cumulative = 0
    found: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, bounds), "+Inf"), histogram.counts, strict=True):
        cumulative += count
        found.append((bound, float(cumulative)))
    return found, histogram.total


class HeadwaterCollector(Collector):
    """`views` gives the processes as they are now; `zones` are the names of the served zones."""

    def __init__(
        self, zones: Sequence[str], views: Callable[[], list[ProcessView]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._zones = zones
        self._views = views
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        views = self._views()
        yield _build_info()
        yield GaugeMetricFamily("headwater_start_time_seconds", "When the instance started.", _STARTED)
        yield from self._processes(views)
        yield from self._answers(answers_of(views))
        yield from self._watch(watch_of(views, self._clock()))
        yield from _peer(peer_of(views))

    @staticmethod
    def _processes(views: Sequence[ProcessView]) -> Iterator[Metric]:
        up = GaugeMetricFamily("headwater_process_up", "Whether a process runs.", labels=["process"])
        restarts = CounterMetricFamily(
            "headwater_process_restarts", "How often a process was started again.", labels=["process"]
        )
        killed = CounterMetricFamily(
            "headwater_process_killed", "How often a process was killed because it did not get on.", labels=["process"]
        )
        silent = GaugeMetricFamily(
            "headwater_process_silent_seconds", "For how long a process has not got on.", labels=["process"]
        )
        exits = CounterMetricFamily(
            "headwater_process_exits",
            "How often a process has ended, by exit code; a negative one is a signal.",
            labels=["process", "code"],
        )
        cpu = CounterMetricFamily(
            "headwater_process_cpu_seconds", "Processor time of a process, in seconds of a core.", labels=["process"]
        )
        memory = GaugeMetricFamily(
            "headwater_process_memory_bytes", "Resident memory of a process that no file backs.", labels=["process"]
        )
        cpu.add_metric(["supervisor"], usage.cpu())
        memory.add_metric(["supervisor"], usage.memory())
        for view in views:
            up.add_metric([view.name], float(view.up))
            restarts.add_metric([view.name], view.restarts)
            killed.add_metric([view.name], view.killed)
            silent.add_metric([view.name], view.silent)
            for code, count in sorted(view.exits.items()):
                exits.add_metric([view.name, str(code)], count)
            cpu.add_metric([view.name], sum(part.cpu for part in (view.snapshot, view.before) if part is not None))
            if view.up and view.snapshot is not None:
                memory.add_metric([view.name], view.snapshot.memory)
        yield from (up, restarts, killed, silent, exits, cpu, memory)

    def _answers(self, total: AnswerSnapshot) -> Iterator[Metric]:
        queries = CounterMetricFamily(
            "headwater_queries",
            "Queries answered, by zone, query type, rcode and reason.",
            labels=["zone", "type", "rcode", "reason"],
        )
        for key, count in sorted(total.queries.items()):
            zone, qtype, reason = count_parts(key)
            labels = [
                self._zones[zone - 1] if zone else "",
                COUNTED_TYPES.get(qtype, "other"),
                RCODES[reason].name,
                reason.name.lower(),
            ]
            queries.add_metric(labels, count)
        yield queries
        yield HistogramMetricFamily(
            "headwater_query_duration_seconds",
            "From a query's bytes to its reply's, transport aside.",
            *_buckets(BUCKETS, total.durations),
        )
        yield CounterMetricFamily("headwater_query_failures", "Queries that met a bug.", total.failures)
        yield CounterMetricFamily("headwater_store_damage", "Reads that met a damaged page.", total.damage)
        by_place = CounterMetricFamily(
            "headwater_answers_by_place",
            "Replies with a set of the client's place (near), or of names that have such sets with all (far).",
            labels=["set"],
        )
        by_place.add_metric(["near"], total.near)
        by_place.add_metric(["far"], total.far)
        yield by_place
        lookups = CounterMetricFamily(
            "headwater_upstream_lookups",
            "Names outside the zones that other servers were asked for, by what became of it.",
            labels=["result"],
        )
        for result, count in sorted(total.upstream.items()):
            lookups.add_metric([result], count)
        yield lookups
        patience = CounterMetricFamily(
            "headwater_patience", "Questions for awaited names, by what became of them.", labels=["result"]
        )
        for result, count in total.patience.items():
            patience.add_metric([result], count)
        yield patience

    @staticmethod
    def _watch(watch: WatchSnapshot) -> Iterator[Metric]:
        yield GaugeMetricFamily("headwater_ready", "Whether the records are complete.", float(watch.ready))
        for name, text, values, label in (
            ("headwater_objects", "Objects held, by resource.", watch.objects, "resource"),
            ("headwater_names", "Names held, by kind.", watch.names, "kind"),
        ):
            family = GaugeMetricFamily(name, text, labels=[label])
            for key, value in values.items():
                family.add_metric([key], value)
            yield family
        yield from _resources(watch)
        skipped = CounterMetricFamily(
            "headwater_records_skipped", "Records that could not be made, by reason.", labels=["reason"]
        )
        for reason, count in ({BUG: 0} | watch.skipped).items():
            skipped.add_metric([reason], count)
        yield skipped
        yield CounterMetricFamily("headwater_audits", "Comparisons of the store with the API server.", watch.audits)
        differences = CounterMetricFamily(
            "headwater_audit_differences", "Objects that an audit found different, and mended.", labels=["resource"]
        )
        for resource, count in watch.audit_differences.items():
            differences.add_metric([resource], count)
        yield differences
        opinions = CounterMetricFamily(
            "headwater_second_opinions",
            "Lists that would have taken much away at once, by what a second one said.",
            labels=["result"],
        )
        for result, count in (dict.fromkeys(OPINIONS, 0) | watch.second_opinions).items():
            opinions.add_metric([result], count)
        yield opinions
        seeds = CounterMetricFamily(
            "headwater_seeds",
            "Tries to take the store of another instance, by what became of them.",
            labels=["result"],
        )
        for result, count in sorted(watch.seeds.items()):
            seeds.add_metric([result], count)
        yield seeds
        policy = CounterMetricFamily("headwater_policy_calls", "Calls of the policy, by result.", labels=["result"])
        for result, count in watch.policy.items():
            policy.add_metric([result], count)
        yield policy
        paused = GaugeMetricFamily(
            "headwater_policy_paused",
            "Whether the policy is not asked for any Service (all), and for how many namespaces (namespace).",
            labels=["scope"],
        )
        for scope, count in watch.policy_paused.items():
            paused.add_metric([scope], count)
        yield paused
        yield CounterMetricFamily("headwater_commits", "Transactions committed.", watch.commits)
        yield CounterMetricFamily(
            "headwater_commit_failures", "Transactions that could not be written.", watch.commit_failures
        )
        yield CounterMetricFamily("headwater_records_changed", "Names put or dropped.", watch.records_changed)
        yield GaugeMetricFamily("headwater_store_bytes", "Size of the store's file.", watch.store_bytes)
        yield GaugeMetricFamily("headwater_history_entries", "Entries of the history.", watch.history_entries)
        yield GaugeMetricFamily(
            "headwater_history_bytes", "Bytes of the store that the history takes.", watch.history_bytes
        )
        # No sample while nobody knows: a 0 between two lives of the process would be news.
        for name, text, value, known in (
            ("headwater_store_free_bytes", "Room left on the store's disk.", watch.store_free, watch.store_bytes),
            ("headwater_store_serial", "The SOA's serial: its last change.", watch.store_serial, watch.store_serial),
        ):
            family = GaugeMetricFamily(name, text, labels=())
            if known:
                family.add_metric((), value)
            yield family
        yield HistogramMetricFamily(
            "headwater_programming_duration_seconds",
            "From the change that an EndpointSlice names to the commit of its records.",
            *_buckets(LATENCY_BUCKETS, watch.programming),
        )


def _peer(total: PeerSnapshot) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "headwater_peer_requests",
        "Requests of other instances for the store, by what became of them.",
        labels=["result"],
    )
    for result, count in sorted(total.requests.items()):
        requests.add_metric([result], count)
    yield requests
    yield CounterMetricFamily("headwater_peer_sent_bytes", "Bytes of the copies that were sent.", total.bytes)


def _build_info() -> Metric:
    family = GaugeMetricFamily("headwater_build_info", "The version, as a label; always 1.", labels=["version"])
    family.add_metric([__version__], 1.0)
    return family


def _resources(watch: WatchSnapshot) -> Iterator[Metric]:
    connected = GaugeMetricFamily("headwater_watch_connected", "Whether the watch is open.", labels=["resource"])
    age = GaugeMetricFamily(
        "headwater_watch_age_seconds", "Time since the API server last said anything.", labels=["resource"]
    )
    events = CounterMetricFamily("headwater_watch_events", "Watch events received.", labels=["resource"])
    outdated = CounterMetricFamily(
        "headwater_watch_outdated_events", "Events that were older than what was known.", labels=["resource"]
    )
    relists = CounterMetricFamily("headwater_watch_relists", "Complete lists taken.", labels=["resource"])
    errors = CounterMetricFamily("headwater_watch_errors", "Failed requests.", labels=["resource", "code"])
    for name, state in sorted(watch.resources.items()):
        connected.add_metric([name], float(state.connected))
        if state.age >= 0:
            age.add_metric([name], state.age)
        events.add_metric([name], state.events)
        outdated.add_metric([name], state.outdated)
        relists.add_metric([name], state.relists)
        for code, count in sorted(state.errors.items()):
            errors.add_metric([name, code], count)
    yield connected
    yield age
    yield events
    yield outdated
    yield relists
    yield errors
