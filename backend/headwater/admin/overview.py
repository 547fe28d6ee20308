"""What the page shows of the instance, as data: `/status`. It has no name of an object.

docs/page.md has the schema. Fields are only ever added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import UNSET, Struct

from headwater import __version__
from headwater.admin.collector import answers_of, watch_of
from headwater.admin.recent import STEP, Recent
from headwater.admin.status import AnswerStatus, Status, WatchStatus, status_of
from headwater.process.counters import Kind, ProcessView, ResourceState, WatchSnapshot
from headwater.settings.settings import Settings

#: Digits behind the point of seconds.
_DIGITS: Final = 3
#: Seconds of which the rate is told.
_LATELY: Final = 60.0


class Process(Struct):
    """One process."""

    name: str
    state: str
    """"ready", "not ready", "stale", "silent" or "down"."""
    detail: str
    """Why it is not ready, or down."""
    restarts: int
    killed: int
    """How often it was killed because it made no progress."""


class Resource(Struct):
    """One resource, and its watch."""

    name: str
    watched: bool
    """Whether an API server tells it; files do not."""
    connected: bool
    age_seconds: float | None
    """Seconds since the API server last said anything of it; None before that."""
    objects: int
    events: int
    relists: int
    errors: int


class Queries(Struct):
    """The queries of the last minutes."""

    step_seconds: float
    rcodes: dict[str, list[int | None]]
    """The number in each step by rcode, the latest last; null for a step that nobody has told."""
    total: int
    """Since the start."""
    per_second: float
    """In the last minute."""


class Overview(Struct):
    """The whole instance."""

    version: str
    ready: bool
    problems: list[str]
    """In sentences; empty when all is well."""
    zones: list[str]
    uptime_seconds: float
    processes: list[Process]
    resources: list[Resource]
    names: dict[str, int]
    store_bytes: int
    commits: int
    commit_seconds: float | None
    """Seconds since the last commit; None without any in the supervisor's life."""
    records_changed: int
    change_seconds: float | None
    """Seconds since a name last changed; None without a change in the supervisor's life."""
    queries: Queries
    by_place: dict[str, int]
    """Replies with a set of the client's place, and of names that have such sets with all."""
    patience: dict[str, int]
    """Questions for awaited names, by what became of them."""
    policy: dict[str, int]
    """Calls of the policy, by result; empty without one."""


def overview_of(settings: Settings, views: Sequence[ProcessView], recent: Recent, now: float) -> Overview:
    """The instance by its processes' reports, at that moment of the machine's monotonic clock."""
    status = status_of(views, now)
    watch = watch_of(views, now)
    processes = [_process(view, _status(view, status)) for view in views]
    resources = [_resource(name, watch) for name in sorted(watch.objects.keys() | watch.resources.keys())]
    series = recent.series()
    lately = int(_LATELY // STEP)
    steps = min(len(recent.steps), lately)
    answers = answers_of(views)
    problems = _problems(processes, resources, ready=status.ready, failures=answers.failures, damage=answers.damage)
    return Overview(
        version=__version__,
        ready=status.ready,
        problems=[*problems, *_of_policy(watch)],
        zones=list(settings.served_zones()),
        uptime_seconds=_since(recent.began, now) or 0.0,
        processes=processes,
        resources=resources,
        names=watch.names,
        store_bytes=watch.store_bytes,
        commits=watch.commits,
        commit_seconds=_since(recent.committed, now),
        records_changed=watch.records_changed,
        change_seconds=_since(recent.changed, now),
        queries=Queries(
            step_seconds=STEP,
            rcodes=series,
            total=sum(answers.queries.values()),
            per_second=sum(count or 0 for counts in series.values() for count in counts[-lately:])
            / (steps * STEP or 1.0),
        ),
        by_place={"near": answers.near, "far": answers.far},
        patience=answers.patience,
        policy=watch.policy,
    )


def _of_policy(watch: WatchSnapshot) -> list[str]:
    """What keeps the policy from being asked now; the metrics have what went wrong before."""
    if watch.policy_paused.get("all"):
        return ["The policy was slow again and again: it is not asked for a while, and Services have the default"]
    if count := watch.policy_paused.get("namespace"):
        return [
            f"The policy was slow for {count:,} {'namespace' if count == 1 else 'namespaces'}: not asked for a while"
        ]
    return []


def _since(moment: float | None, now: float) -> float | None:
    return None if moment is None else round(max(0.0, now - moment), _DIGITS)


def _status(view: ProcessView, status: Status) -> AnswerStatus | WatchStatus:
    if view.kind is Kind.PEER:  # it is ready when it runs
        return AnswerStatus(view.up, ready=view.up and not view.silent, detail=view.trouble or UNSET)
    return status.watch if view.kind is Kind.WATCH else status.answer[view.name]


def _process(view: ProcessView, status: AnswerStatus | WatchStatus) -> Process:
    detail = status.detail or ""
    if not view.up:
        state = "down"
    elif view.silent:
        state, detail = "silent", f"it has not got on for {view.silent:.1f} s"
    elif isinstance(status, AnswerStatus) and status.stale:
        state = "stale"
    else:
        state = "ready" if status.ready else "not ready"
    return Process(view.name, state, detail, view.restarts, view.killed)


def _resource(name: str, watch: WatchSnapshot) -> Resource:
    state = watch.resources.get(name, ResourceState())
    return Resource(
        name=name,
        watched=name in watch.resources,
        connected=state.connected,
        age_seconds=round(state.age, _DIGITS) if state.age >= 0 else None,
        objects=watch.objects.get(name, 0),
        events=state.events,
        relists=state.relists,
        errors=sum(state.errors.values()),
    )


def _problems(
    processes: Sequence[Process], resources: Sequence[Resource], *, ready: bool, failures: int, damage: int
) -> list[str]:
    found = [] if ready else ["No answer process can answer."]
    for process in processes:
        if process.state != "ready":
            why = f": {process.detail}" if process.detail else ""
            found.append(f"{process.name} is {process.state}{why}")
        elif process.detail:
            found.append(f"{process.name}: {process.detail}")
    if away := [one.name for one in resources if one.watched and not one.connected]:
        served = "; what is stored is served" if ready else ""
        found.append(f"There is no connection to the API server for {', '.join(away)}{served}")
    if failures:
        found.append(f"Queries that met a bug: {failures:,}. The log has them.")
    if damage:
        found.append(f"Reads that met a damaged page of the store: {damage:,}")
    return found
