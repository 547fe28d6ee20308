"""What Prometheus may see of two instances, and which alerts it then gives: these, and no others.

A world has series, each a function from the minute to a value (None: there is no sample), and what
fires at some minutes. The first worlds are an operator's ordinary weeks, in which nothing fires:
starts, rollouts, quiet nights. Then come near misses, and then faults, each from its beginning to
some time after its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

#: A series' value at a minute; None where there is no sample.
Value = Callable[[float], float | None]
#: By name and own labels, without those of the target.
Series = dict[str, Value]
#: (alert, instance), as they fire.
Firing = set[tuple[str, str]]

BYTES: Final = 5e6  # of a store
GIB: Final = 1 << 30
MIB: Final = 1 << 20
T0: Final = 1_800_000_000  # when the instances started
RESOURCES: Final = ("namespaces", "services", "endpointslices")
PROCESSES: Final = ("watch", "answer 0", "answer 1")
TARGET: Final = 'job="headwater",namespace="kube-system"'


def const(value: float) -> Value:
    return lambda _: value


def grows(a_minute: float, since: float = 0.0, until: float = math.inf, first: float = 0.0) -> Value:
    """A counter that grows between two minutes."""
    return lambda t: first + a_minute * max(0.0, min(t, until) - since)


def bumps(*moments: float) -> Value:
    """A counter of these moments."""
    return lambda t: sum(moment <= t for moment in moments)


def within(begin: float, end: float, inside: float | None, outside: float | None) -> Value:
    """One value from `begin` to before `end`, another before and after."""
    return lambda t: inside if begin <= t < end else outside


def added(*parts: Value) -> Value:
    return lambda t: sum(part(t) or 0.0 for part in parts)


def saw(height: float, period: float = 1.0) -> Value:
    """An age that is 0 again after each period, in minutes; `height` in seconds."""
    return lambda t: t % period / period * height


def every(period: float) -> Value:
    """A serial that moves once in so many minutes."""
    return lambda t: T0 + math.floor(t / period) * period * 60


def replies(reason: str, rcode: str) -> str:
    return f'headwater_queries_total{{zone="cluster.local",type="A",rcode="{rcode}",reason="{reason}"}}'


ANSWERS: Final = replies("answer", "NOERROR")
NOT_READY: Final = replies("not_ready", "SERVFAIL")
STALE: Final = replies("stale", "SERVFAIL")
BUCKET: Final = 'headwater_programming_duration_seconds_bucket{le="5.0"}'
COUNT: Final = "headwater_programming_duration_seconds_count"
FREE: Final = "headwater_store_free_bytes"
SERIAL: Final = "headwater_store_serial"
POLICY: Final = 'headwater_policy_calls_total{{result="{}"}}'


def process(metric: str, name: str = "watch") -> str:
    return f'{metric}{{process="{name}"}}'


def resource(metric: str, name: str = "services") -> str:
    return f'{metric}{{resource="{name}"}}'


def healthy() -> Series:
    """An instance at work: a change every two minutes, 700 queries a minute."""
    series: Series = {
        "up": const(1),
        "headwater_start_time_seconds": const(T0),
        "headwater_ready": const(1),
        ANSWERS: grows(600),
        replies("nxdomain", "NXDOMAIN"): grows(100),
        "headwater_query_failures_total": const(0),
        "headwater_store_damage_total": const(0),
        "headwater_commits_total": grows(0.5),
        "headwater_commit_failures_total": const(0),
        'headwater_records_skipped_total{reason="unexpected"}': const(0),
        'headwater_records_skipped_total{reason="name"}': grows(1),
        POLICY.format("decided"): grows(1),
        POLICY.format("failed"): const(0),
        POLICY.format("slow"): const(0),
        POLICY.format("skipped"): const(0),
        'headwater_second_opinions_total{result="asked"}': const(0),
        'headwater_second_opinions_total{result="contradicted"}': const(0),
        "headwater_store_bytes": const(BYTES),
        FREE: const(20 * GIB),
        SERIAL: every(2),
        BUCKET: grows(10),
        COUNT: grows(10),
    }
    for name in PROCESSES:
        series[process("headwater_process_up", name)] = const(1)
        series[process("headwater_process_restarts_total", name)] = const(0)
        series[process("headwater_process_killed_total", name)] = const(0)
        series[process("headwater_process_silent_seconds", name)] = const(0)
    for name in RESOURCES:
        series[resource("headwater_watch_connected", name)] = const(1)
        series[resource("headwater_watch_age_seconds", name)] = saw(60)
        series[resource("headwater_audit_differences_total", name)] = const(0)
    return series


def quiet() -> Series:
    """Nothing changes, and nobody asks."""
    series = healthy()
    return series | {
        name: const(7.0)
        for name in series
        if name.startswith(("headwater_queries", "headwater_programming", "headwater_commits"))
    } | {SERIAL: const(T0)}  # fmt: skip


def but(series: Series, changes: Series) -> Series:
    assert changes.keys() - series.keys() <= {NOT_READY, STALE}, "a typing error changes nothing"
    return series | changes


def alive(series: Series, begin: float = -1.0, end: float = math.inf) -> Series:
    """There from `begin` to before `end`, as a pod is: before and after there is no target."""
    return {name: _only(value, lambda t: begin <= t < end) for name, value in series.items()}


def down(series: Series, begin: float, end: float) -> Series:
    """The target is there and does not answer, between two minutes."""
    found = {name: _only(value, lambda t: not begin <= t < end) for name, value in series.items()}
    return found | {"up": within(begin, end, 0, 1)}


def restarted(series: Series, moment: float) -> Series:
    """Counters begin at 0 again, and the time of the start is another."""
    found = {}
    for name, value in series.items():
        counter = name.partition("{")[0].endswith(("_total", "_bucket", "_count"))
        found[name] = _reset(value, moment) if counter else value
    before = series["headwater_start_time_seconds"]
    return found | {"headwater_start_time_seconds": lambda t: before(t) if t < moment else T0 + moment * 60}


def _only(value: Value, there: Callable[[float], bool]) -> Value:
    return lambda t: value(t) if there(t) else None


def _reset(value: Value, moment: float) -> Value:
    def found(t: float) -> float | None:
        now, then = value(t), value(moment)
        return now if t < moment or now is None or then is None else now - then

    return found


def starting(series: Series, begin: float) -> Series:
    """From `begin` on: SERVFAIL until the first list is complete, and a serial that moves."""
    first = begin + 1.0
    own: Series = {
        "headwater_ready": within(0, first, 0, 1),
        process("headwater_process_up"): within(0, begin + 0.5, 0, 1),
        NOT_READY: grows(60, begin, first),
        "headwater_start_time_seconds": const(T0 + begin * 60),
        SERIAL: lambda t: T0 + min(t, begin + 2.5) * 60,
        FREE: within(0, begin + 0.5, None, 20 * GIB),
    }
    for name in RESOURCES:
        own[resource("headwater_watch_age_seconds", name)] = lambda t: None if t < begin + 0.5 else saw(60)(t)
        own[resource("headwater_watch_connected", name)] = within(0, first, 0, 1)
    return alive(but(series, own), begin)


@dataclass(frozen=True)
class World:
    """Two instances or more, and what fires at which minutes."""

    name: str
    instances: dict[str, Series]
    fires: dict[float, Firing]
    near: str = ""
    """The alert that almost fires, and does not."""
    step: float = 0.5
    """Minutes between two samples, and between two evaluations."""
    bare: bool = False
    """Not even `up` is there."""
    extra: dict[str, Value] = field(default_factory=dict)

    def series(self) -> Iterator[tuple[str, Value]]:
        """Whole names, with the labels of the targets."""
        for instance, series in self.instances.items():
            for name, value in series.items():
                metric, _, own = name.partition("{")
                yield f'{metric}{{{TARGET},instance="{instance}"{"," + own if own else "}"}', value


def never(*minutes: float) -> dict[float, Firing]:
    return {minute: set() for minute in minutes}


def on_a(*alerts: str) -> Firing:
    return {(alert, "a") for alert in alerts}


def fault(
    name: str,
    changes: Series,
    alert: str | Firing,
    begins: float,
    fires: float,
    still: float,
    clear: float,
    other: Series | None = None,
) -> World:
    """`changes` on instance a: nothing fires at `begins`, the alert at `fires` and `still`, and
    nothing at `clear`.
    """
    firing = on_a(alert) if isinstance(alert, str) else alert
    return World(
        name,
        {"a": but(healthy(), changes), "b": other or healthy()},
        {begins: set(), fires: firing, still: firing, clear: set()},
    )  # fmt: skip


def near(alert: str, changes: Series, *minutes: float) -> World:
    """`changes` on instance a, which are not enough."""
    looks = minutes or range(50)
    return World(f"not quite {alert}", {"a": but(healthy(), changes), "b": healthy()}, never(*looks), alert)


LOOKS: Final = tuple(float(minute) for minute in range(90))

ORDINARY: Final = [
    World("at work", {"a": healthy(), "b": healthy()}, never(*LOOKS)),
    World("a quiet night: nothing changes, nobody asks", {"a": quiet(), "b": quiet()}, never(*range(0, 240, 5))),
    World("all have just started", {"a": starting(healthy(), 5), "b": starting(healthy(), 5)}, never(*LOOKS[5:])),
    World(
        "a rollout in a quiet cluster: one by one, the new ones' serials are younger",
        {
            "a": alive(quiet(), end=32),
            "b": alive(quiet(), end=34),
            "c": starting(quiet(), 30) | {ANSWERS: alive(healthy(), 30)[ANSWERS]},
            "d": starting(quiet(), 32),
        },
        never(*LOOKS),
    ),
    World(
        "a third instance in a quiet cluster: its first list moves its serial, and nobody else's",
        {"a": quiet(), "b": quiet(), "c": starting(quiet(), 30)},
        never(*LOOKS),
        "HeadwaterSiblingsDisagree",
    ),
    World(
        "one restarts on its store, once",
        {"a": restarted(down(healthy(), 30, 31), 31), "b": healthy()},
        never(*LOOKS),
        "HeadwaterInstanceDown",
    ),
    World(
        "a watch process dies, and the next one is there within a second",
        {
            "a": but(
                healthy(),
                {
                    process("headwater_process_restarts_total"): bumps(30),
                    process("headwater_process_up"): within(30, 30.5, 0, 1),
                    "headwater_ready": within(30, 30.5, 0, 1),
                    SERIAL: lambda t: None if 30 <= t < 30.5 else every(2)(t),
                    FREE: within(30, 30.5, None, 20 * GIB),
                    "headwater_store_bytes": within(30, 30.5, 0, BYTES),
                },
            ),
            "b": healthy(),
        },
        never(*LOOKS),
    ),
    World(
        "manifests: there is no watch",
        {name: {key: value for key, value in healthy().items() if "watch_" not in key} for name in "ab"},
        never(*LOOKS),
    ),
    World(
        "no CRD for ServiceImports: the API server says so twice a minute",
        {
            name: healthy()
            | {
                resource("headwater_watch_connected", "serviceimports"): const(0),
                resource("headwater_watch_age_seconds", "serviceimports"): saw(40, 0.7),
            }
            for name in "ab"
        },
        never(*LOOKS),
        "HeadwaterWatchOld",
    ),
    World(
        "a change that concerns one instance only, the names of its own host",
        {"a": quiet(), "b": but(quiet(), {SERIAL: lambda t: T0 + (3600 if t >= 30 else 0)})},
        never(*LOOKS),
        "HeadwaterSiblingsDisagree",
    ),
    World(
        "siblings in another namespace serve another cluster's zone",
        {"a": quiet(), "b": quiet()},
        never(*LOOKS),
        extra={
            f'headwater_store_serial{{job="headwater",namespace="headwater",instance="{name}"}}': every(2)
            for name in "cd"
        },
    ),
]

NEAR: Final = [
    near("HeadwaterInstanceDown", {"up": within(30, 31.5, 0, 1)}),
    near("HeadwaterProcessDown", {process("headwater_process_up", "answer 0"): within(30, 31, 0, 1)}),
    near("HeadwaterProcessHangs", {process("headwater_process_silent_seconds"): within(30, 40, 70, 0)}),
    near("HeadwaterProcessHangs", {process("headwater_process_silent_seconds"): within(30, 30.5, 80, 0)}),
    near("HeadwaterProcessKilled", {process("headwater_process_killed_total"): bumps(30, 95)}, *range(100)),
    near("HeadwaterProcessRestarts", {process("headwater_process_restarts_total"): bumps(30, 31, 65, 66)}, *range(70)),
    near("HeadwaterInstanceRestarts", {"headwater_start_time_seconds": added(const(T0), bumps(30, 65))}, *range(70)),
    near("HeadwaterNotReady", {"headwater_ready": within(30, 32.5, 0, 1)}),
    near("HeadwaterServfail", {NOT_READY: grows(6)}),
    near("HeadwaterServfail", {NOT_READY: grows(600, 30, 32)}),
    near("HeadwaterStale", {STALE: grows(6)}),
    near("HeadwaterWatchOld", {resource("headwater_watch_age_seconds"): const(170)}),
    near("HeadwaterWatchOld", {resource("headwater_watch_connected"): within(30, 40, 0, 1)}),
    near("HeadwaterCommitsFail", {"headwater_commit_failures_total": bumps(30, 30.5, 35, 40)}),
    near("HeadwaterStoreNearlyFull", {FREE: const(70 * MIB)}),
    near("HeadwaterStoreNearlyFull", {FREE: within(30, 34, 0, 20 * GIB)}),
    near("HeadwaterStoreNearItsLimit", {"headwater_store_bytes": const(0.79 * GIB)}),
    near("HeadwaterListContradicted", {'headwater_second_opinions_total{result="asked"}': bumps(30)}),
    near("HeadwaterObjectLeftOut", {'headwater_records_skipped_total{reason="name"}': grows(100)}),
    near("HeadwaterPolicyFails", {POLICY.format("slow"): bumps(30, 31, 95)}, *range(100)),
    # A counter that goes back to 0 with its instance has not grown.
    World(
        "not quite anything: counters of another day begin anew",
        {
            "a": restarted(
                but(
                    healthy(),
                    {
                        "headwater_query_failures_total": const(9),
                        "headwater_store_damage_total": const(9),
                        "headwater_commit_failures_total": const(9),
                        resource("headwater_audit_differences_total"): const(9),
                        process("headwater_process_killed_total"): const(9),
                        process("headwater_process_restarts_total"): const(9),
                    },
                ),
                30,
            ),
            "b": healthy(),
        },
        never(*LOOKS),
    ),
    near("HeadwaterSiblingsDisagree", {SERIAL: lambda t: every(2)(min(t, 30) if t < 39 else t)}),
    near("HeadwaterProgrammingLate", {BUCKET: grows(9.5), COUNT: grows(10)}, *range(0, 60, 1)),
    # Three changes in an hour, and two of them late: a burn rate of 66.
    near("HeadwaterProgrammingLate", {BUCKET: bumps(30), COUNT: bumps(30, 35, 40)}),
]

FAULTS: Final = [
    World("nobody is there", {}, {9: set(), 11: {("HeadwaterAbsent", "")}}, bare=True),
    World(
        "all targets vanish, and come back",
        {"a": {name: _only(value, lambda t: not 30 <= t < 60) for name, value in healthy().items()}},
        {29: set(), 39: set(), 41: {("HeadwaterAbsent", "")}, 61: set()},
    ),
    World(
        "one is down",
        {"a": down(healthy(), 30, 40), "b": healthy()},
        {31.5: set(), 32.5: on_a("HeadwaterInstanceDown"), 39.5: on_a("HeadwaterInstanceDown"), 40.5: set()},
    ),
    fault(
        "a process does not come up",
        {process("headwater_process_up", "answer 1"): within(30, 40, 0, 1)},
        "HeadwaterProcessDown", 30.5, 31.5, 39.5, 40.5,
    ),
    fault(
        "a process waits for its disk",
        {process("headwater_process_silent_seconds"): lambda t: max(0.0, t - 30) * 60 if t < 40 else 0},
        "HeadwaterProcessHangs", 31, 32.5, 39.5, 40.5,
    ),
    fault(
        "a process hangs twice within the hour",
        {process("headwater_process_killed_total"): bumps(30, 70)},
        "HeadwaterProcessKilled", 69, 70.5, 88, 91,
    ),
    fault(
        "a process dies three times within half an hour",
        {process("headwater_process_restarts_total", "answer 0"): bumps(30, 40, 50)},
        "HeadwaterProcessRestarts", 49, 50.5, 59, 61,
    ),
    fault(
        "an instance is started again and again",
        {"headwater_start_time_seconds": added(const(T0), bumps(30, 40))},
        "HeadwaterInstanceRestarts", 39, 40.5, 59, 61,
    ),
    fault("no list", {"headwater_ready": within(30, 60, 0, 1)}, "HeadwaterNotReady", 32.5, 33.5, 59.5, 60.5),
    fault("SERVFAIL", {NOT_READY: grows(12, 30, 60)}, "HeadwaterServfail", 35, 37, 60, 63),
    fault("nothing but SERVFAIL", {NOT_READY: grows(600, 30, 60), ANSWERS: grows(600, 0, 30)},
          "HeadwaterServfail", 35, 37, 60, 63),
    fault("stale", {STALE: grows(600, 30, 60), ANSWERS: grows(600, 0, 30)}, "HeadwaterStale", 31, 32, 60, 63),
    fault("a bug", {"headwater_query_failures_total": bumps(30)}, "HeadwaterQueriesFail", 29.5, 30.5, 39, 41),
    fault("damage", {"headwater_store_damage_total": bumps(30)}, "HeadwaterStoreDamaged", 29.5, 30.5, 39, 41),
    fault("an event was lost", {resource("headwater_audit_differences_total"): bumps(30)},
          "HeadwaterAuditDiffers", 29.5, 30.5, 89, 91),
    fault("a wrong list", {'headwater_second_opinions_total{result="contradicted"}': bumps(30)},
          "HeadwaterListContradicted", 29.5, 30.5, 89, 91),
    fault("an object meets a bug", {'headwater_records_skipped_total{reason="unexpected"}': bumps(30)},
          "HeadwaterObjectLeftOut", 29.5, 30.5, 89, 91),
    fault("a policy raises", {POLICY.format("failed"): bumps(30)}, "HeadwaterPolicyFails", 29.5, 30.5, 89, 91),
    fault("a policy is slow", {POLICY.format("slow"): bumps(30, 31, 32)}, "HeadwaterPolicyFails", 31.5, 32.5, 89, 91),
    fault("a policy is paused", {POLICY.format("skipped"): bumps(30)}, "HeadwaterPolicyFails", 29.5, 30.5, 89, 91),
    fault("one hears nothing new", {SERIAL: lambda t: every(2)(min(t, 30) if t < 60 else t)},
          "HeadwaterSiblingsDisagree", 44, 47, 59, 61),
    fault(
        "the API server is away",
        {resource("headwater_watch_age_seconds"): lambda t: max(0.0, t - 30) * 60 if t < 50 else 5},
        "HeadwaterWatchOld", 33, 34.5, 49.5, 50.5,
    ),
    fault(
        "never heard since the start",
        {
            resource("headwater_watch_age_seconds"): within(0, 50, None, 5),
            resource("headwater_watch_connected"): within(0, 50, 0, 1),
        },
        "HeadwaterWatchOld", 0.5, 1.5, 49.5, 50.5,
    ),
    fault("the disk is full", {"headwater_commit_failures_total": grows(60, 30, 50)},
          "HeadwaterCommitsFail", 33, 34, 50, 53),
    fault("the disk fills", {FREE: within(30, 50, 60 * MIB, 20 * GIB)},
          "HeadwaterStoreNearlyFull", 34.5, 35.5, 49.5, 50.5),
    fault(
        "a large store would not fit twice",
        {"headwater_store_bytes": const(200 * MIB), FREE: within(30, 50, 190 * MIB, 20 * GIB)},
        "HeadwaterStoreNearlyFull", 34.5, 35.5, 49.5, 50.5,
    ),
    fault("a store that grows", {"headwater_store_bytes": within(30, 60, 0.81 * GIB, BYTES)},
          "HeadwaterStoreNearItsLimit", 39, 41, 59.5, 60.5),
]  # fmt: skip

_DAY: Final = 1440.0


def slim(bucket: Value) -> dict[str, Series]:
    """For long worlds: what the objective is measured by, and no more."""
    changes = {"up": const(1), COUNT: grows(10)}
    return {"a": changes | {BUCKET: bucket}, "b": changes | {BUCKET: grows(10)}}


LONG: Final = [
    # A fifth comes late, after a good morning: a burn rate of 20. An hour's share passes 14.4 %
    # after 43 minutes.
    World(
        "changes come late, many",
        slim(added(grows(10, 0, 420), grows(8, 420, 480), grows(10, 480))),
        {460: set(), 468: on_a("HeadwaterProgrammingLate"), 480: on_a("HeadwaterProgrammingLate"), 486: set()},
        step=1,
    ),
    # A burn rate of 8: too little for an hour's, not for that of six hours.
    World(
        "changes come late, for hours",
        slim(added(grows(10, 0, 420), grows(9.2, 420, 780), grows(10, 780))),
        {680: set(), 700: on_a("HeadwaterProgrammingLate"), 780: on_a("HeadwaterProgrammingLate"), 790: set()},
        step=1,
    ),
    World(
        "not quite HeadwaterProgrammingBudget: a new instance's first hours",
        slim(grows(9.6)),
        never(*range(0, 600, 15)),
        "HeadwaterProgrammingBudget",
        step=15,
    ),
    # A burn rate of 2, for days.
    World(
        "changes come late, a few, for days",
        slim(added(grows(10, 0, _DAY), grows(9.8, _DAY, 6 * _DAY), grows(10, 6 * _DAY))),
        {
            _DAY: set(),
            3.5 * _DAY: on_a("HeadwaterProgrammingBudget"),
            6 * _DAY: on_a("HeadwaterProgrammingBudget"),
            6.5 * _DAY: set(),
        },
        step=15,
    ),
    World(
        "not quite HeadwaterProgrammingBudget",
        slim(grows(9.91)),
        never(*(day * _DAY for day in range(7))),
        "HeadwaterProgrammingBudget",
        step=15,
    ),
]

WORLDS: Final = [*ORDINARY, *NEAR, *FAULTS, *LONG]
