"""The counters of the processes.

An answer process adds to lists and dictionaries (0.07 us), sends a snapshot to the supervisor when
asked, and knows nothing of Prometheus. The supervisor keeps the counters of a process that has
died, so that they never go back.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Final

from msgspec import Struct, field

#: Upper bounds of the duration histogram's buckets, in seconds.
BUCKETS: Final = (
    1e-6, 2e-6, 4e-6, 8e-6, 16e-6, 32e-6, 64e-6, 128e-6, 256e-6, 512e-6, 1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 64e-3, 256e-3,
)  # fmt: skip
#: The same for the time from a change to its commit.
LATENCY_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

#: A counter that begins with its first event hides that event from Prometheus's `increase`. Those
#: that are alerted on begin at 0: the outcomes of `writer.opinion.Opinion`, and the reason for
#: left-out records that is a bug.
OPINIONS: Final = ("asked", "confirmed", "contradicted")
BUG: Final = "unexpected"


class Histogram(Struct):
    """Counts per bucket (the last is +Inf) and the sum of the observations."""

    counts: list[int]
    total: float = 0.0

    @classmethod
    def of(cls, bounds: tuple[float, ...]) -> Histogram:
        return cls([0] * (len(bounds) + 1))

    def observe(self, bounds: tuple[float, ...], value: float) -> None:
        self.counts[bisect_left(bounds, value)] += 1
        self.total += value

    def add(self, other: Histogram) -> None:
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


class AnswerSnapshot(Struct, tag="answer"):
    """The counters of an answer process since its start."""

    queries: dict[int, int] = field(default_factory=dict)
    """By `answer.counts.count_key`."""
    durations: Histogram = field(default_factory=lambda: Histogram.of(BUCKETS))
    failures: int = 0
    """Queries that raised: a bug of ours."""
    damage: int = 0
    """Reads that met a damaged page of the store."""
    near: int = 0
    """Replies with a set of the client's place; and, to clients whose place was looked at, of names
    that have such sets, with all.
    """
    far: int = 0
    upstream: dict[str, int] = field(default_factory=dict)
    """Lookups at other servers, by result."""
    patience: dict[str, int] = field(default_factory=dict)
    """Questions for awaited names, by what became of them (`serve.patience`)."""
    ready: bool = False
    stale: bool = False
    """Whether everything is SERVFAIL because of `--max-staleness`."""
    cpu: float = 0.0
    """Seconds of a core (`process.usage`)."""
    memory: int = 0
    """Bytes of its own memory, now."""

    def add(self, other: AnswerSnapshot) -> None:
        """Add the counters of a process that has died."""
        for key, count in other.queries.items():
            self.queries[key] = self.queries.get(key, 0) + count
        self.durations.add(other.durations)
        self.cpu += other.cpu
        self.failures += other.failures
        self.damage += other.damage
        self.near += other.near
        self.far += other.far
        for result, count in other.upstream.items():
            self.upstream[result] = self.upstream.get(result, 0) + count
        for result, count in other.patience.items():
            self.patience[result] = self.patience.get(result, 0) + count


class PeerSnapshot(Struct, tag="peer"):
    """The counters of the peer process since its start."""

    requests: dict[str, int] = field(default_factory=dict)
    """Requests for the store, by what became of them (`peers.outcome.Served`)."""
    bytes: int = 0
    """Of the copies that were sent."""
    cpu: float = 0.0
    """Seconds of a core (`process.usage`)."""
    memory: int = 0
    """Bytes of its own memory, now."""

    def add(self, other: PeerSnapshot) -> None:
        """Add the counters of a process that has died."""
        for result, count in other.requests.items():
            self.requests[result] = self.requests.get(result, 0) + count
        self.bytes += other.bytes
        self.cpu += other.cpu


class ResourceState(Struct):
    """The watch of one resource, as `cluster.reflector.Counters` has it."""

    connected: bool = False
    resource_version: str = ""
    age: float = -1.0
    """Seconds since the last proof of life; -1 when there was none."""
    events: int = 0
    relists: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    outdated: int = 0


class WatchSnapshot(Struct, tag="watch"):
    """The state and the counters of the watch process."""

    taken: float = 0.0
    """The time of the ages, by the machine's monotonic clock.

    They go on from there while nothing more is heard.
    """
    ready: bool = False
    detail: str = ""
    """Why it is not ready, or what is wrong."""
    resources: dict[str, ResourceState] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    """Records that could not be made, by reason."""
    commits: int = 0
    commit_failures: int = 0
    records_changed: int = 0
    programming: Histogram = field(default_factory=lambda: Histogram.of(LATENCY_BUCKETS))
    store_bytes: int = 0
    store_free: int = 0
    """Bytes that the file system of the state directory has left."""
    store_serial: int = 0
    """The SOA's serial: when the records last changed, in seconds since 1970; 0 before that."""
    audits: int = 0
    audit_differences: dict[str, int] = field(default_factory=dict)
    """Objects that an audit found different from the API server, by resource."""
    second_opinions: dict[str, int] = field(default_factory=dict)
    """Lists that would have taken much away, by outcome (`writer.opinion.Opinion`)."""
    seeds: dict[str, int] = field(default_factory=dict)
    """Tries to take another instance's store, by what became of them (`peers.outcome.Taken`)."""
    policy: dict[str, int] = field(default_factory=dict)
    """Calls of the policy, by result (`writer.policy`)."""
    policy_paused: dict[str, int] = field(default_factory=dict)
    """For whom the policy is not asked now (`PolicyProcess.paused`)."""
    history_entries: int = 0
    history_bytes: int = 0
    cpu: float = 0.0
    """Seconds of a core (`process.usage`)."""
    memory: int = 0
    """Bytes of its own memory, now."""

    def grow_older(self, now: float) -> None:
        """Move the ages on to a later moment of the machine's monotonic clock."""
        for state in self.resources.values():
            if state.age >= 0:
                state.age += max(0.0, now - self.taken)
        self.taken = max(self.taken, now)

    def add_counters(self, other: WatchSnapshot) -> None:
        """Add the counters, and the time of the last news, of a process that has died."""
        moment = max(self.taken, other.taken)
        self.grow_older(moment)
        self.cpu += other.cpu
        self.commits += other.commits
        self.commit_failures += other.commit_failures
        self.records_changed += other.records_changed
        self.programming.add(other.programming)
        self.audits += other.audits
        for name, count in other.audit_differences.items():
            self.audit_differences[name] = self.audit_differences.get(name, 0) + count
        for result, count in other.policy.items():
            self.policy[result] = self.policy.get(result, 0) + count
        for opinion, count in other.second_opinions.items():
            self.second_opinions[opinion] = self.second_opinions.get(opinion, 0) + count
        for result, count in other.seeds.items():
            self.seeds[result] = self.seeds.get(result, 0) + count
        for reason, count in other.skipped.items():
            self.skipped[reason] = self.skipped.get(reason, 0) + count
        for name, theirs in other.resources.items():
            mine = self.resources.setdefault(name, ResourceState())
            if theirs.age >= 0:
                age = theirs.age + moment - other.taken
                mine.age = min(mine.age, age) if mine.age >= 0 else age
            mine.events += theirs.events
            mine.outdated += theirs.outdated
            mine.relists += theirs.relists
            for code, count in theirs.errors.items():
                mine.errors[code] = mine.errors.get(code, 0) + count


class Kind(enum.Enum):
    """The work of a process."""

    WATCH = "watch"
    ANSWER = "answer"
    PEER = "peer"


@dataclass(frozen=True, slots=True)
class ProcessView:
    """One process as the supervisor knows it."""

    kind: Kind
    name: str
    """"watch", "answer 0", …, "peer"."""
    up: bool
    """It has started, and has not exited."""
    restarts: int
    snapshot: AnswerSnapshot | WatchSnapshot | PeerSnapshot | None
    """Of its present life; None before the first."""
    before: AnswerSnapshot | WatchSnapshot | PeerSnapshot | None
    """The counters of its earlier lives."""
    silent: float = 0.0
    """Seconds without progress; 0 while it makes progress."""
    killed: int = 0
    """How often it was killed because it made no progress."""
    exits: dict[int, int] = dataclass_field(default_factory=dict)
    """How often it has exited, by exit code; a signal is negative."""
    trouble: str = ""
    """Why it is down, in its own words if it gave any."""
