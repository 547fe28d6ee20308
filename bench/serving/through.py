"""Measure through a real CoreDNS: each kind of answer, at full speed, at
fixed rates, with more workers.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from bench.processes import MIB, Memory, memory
from bench.report import spread, table
from bench.serving.goals import Goal, ratio
from bench.serving.load import Load, Seen, alternating, dnsperf, metered
from bench.serving.questions import CLUSTER_IP, ENDPOINT, HEADLESS, MIX, NXDOMAIN, SRV, Case
from bench.serving.servers import BACKEND, ECHO, FRONT, GO, HEADWATER, IN_PROCESS, TUNED_TITLE, Front, behind, headwater

WARM_UP: Final = 0.3  # seconds
LATENCIES: Final = 1.0
"""For how long dnsperf prints latencies, in seconds."""
RATES: Final = (1000, 5000)
WORKERS: Final = (1, 2, 4)

_LEAST_QUERIES_X_ECHO: Final = 1.25
_MOST_CPU_X_ECHO: Final = 0.42
_MOST_CPU_X_GO: Final = {15: 0.18, 100: 0.09}
_LEAST_X_IN_PROCESS: Final = {
    HEADLESS[15]: 0.82, HEADLESS[100]: 1.1, HEADLESS[1000]: 1.35, CLUSTER_IP: 0.56, NXDOMAIN: 0.67,
}  # fmt: skip
_LEAST_CACHED: Final = 0.97
#: As deployed: Headwater's CoreDNS with the collector of `deploy/`, and the plugin with Go's own.
_LEAST_AS_DEPLOYED: Final = {
    HEADLESS[15]: 1.0, HEADLESS[100]: 1.35, HEADLESS[1000]: 1.8, ENDPOINT: 0.75, CLUSTER_IP: 0.65, SRV: 0.75,
    NXDOMAIN: 0.6,
}  # fmt: skip
#: Both with that of `deploy/`.
_LEAST_TUNED: Final = {HEADLESS[15]: 0.9, HEADLESS[100]: 1.15, HEADLESS[1000]: 1.4}


@dataclass
class Figures:
    """The figures of one server and one kind of question, one entry per round."""

    rates: list[float] = field(default_factory=list)
    """Queries per second."""
    cpu: dict[str, list[float]] = field(default_factory=dict)
    """CPU in us per query, by role."""
    loads: list[Load] = field(default_factory=list)
    """Loads with latencies."""

    def add(self, seen: Seen) -> None:
        self.rates.append(seen.load.rate)
        for role, cost in seen.cpu.items():
            self.cpu.setdefault(role, []).append(cost)


Fronts = Mapping[str, Front]
Found = dict[Case, dict[str, Figures]]


def measure(fronts: Fronts, cases: Sequence[Case], folder: Path, rounds: int, seconds: float) -> Found:
    """Measure all kinds at full speed, with servers in alternation; then
    latencies in one more round.
    """
    found: Found = {}
    for case in cases:
        file = case.file(folder)
        figures = found[case] = {name: Figures() for name in fronts}
        for front in fronts.values():
            dnsperf(front.port, file, WARM_UP)
        for turn in alternating(list(fronts), rounds):
            for name in turn:
                figures[name].add(_at_full_speed(fronts[name], file, seconds))
        for name, front in fronts.items():
            figures[name].loads.append(dnsperf(front.port, file, LATENCIES, latencies=True))
        print(
            f"  {case.title}: "
            + ", ".join(f"{name} {statistics.median(figures[name].rates):,.0f}/s" for name in fronts)
        )
    return found


def _at_full_speed(front: Front, file: Path, seconds: float) -> Seen:
    return metered(front.roles, lambda: dnsperf(front.port, file, seconds))


def report(found: Found) -> str:
    """Return a table with a row for each kind and server."""
    rows = []
    for case, figures in found.items():
        for name, one in figures.items():
            latency = one.loads[0]
            cpu = [spread(one.cpu[role]) if role in one.cpu else "" for role in (FRONT, BACKEND)]
            rows.append(
                (f"{case.title}: {name}", spread(one.rates, 0), *cpu, f"{latency.p50:.2f}", f"{latency.p99:.2f}")
            )
    return table(("", "queries/s", "CoreDNS, us", "backend, us", "p50, ms", "p99, ms"), rows)


def goals(found: Found) -> list[Goal]:
    """Return the goals of the measurement without a cache."""
    made = []
    for case in (ENDPOINT, MIX):
        if case in found:
            figures = found[case]
            echo, ours = figures[ECHO], figures[HEADWATER]
            cpu = ratio(ours.cpu[BACKEND], echo.cpu[BACKEND])
            made.append(Goal(f"backend CPU, x Go echo's: {case.title}", cpu, _MOST_CPU_X_ECHO))
            rate = ratio(ours.rates, echo.rates)
            made.append(Goal(f"queries/s, x Go echo's: {case.title}", rate, _LEAST_QUERIES_X_ECHO, at_least=True))
    for size, limit in _MOST_CPU_X_GO.items():
        if (case := HEADLESS[size]) in found:
            cpu = ratio(found[case][HEADWATER].cpu[BACKEND], found[case][GO].cpu[BACKEND])
            made.append(Goal(f"backend CPU, x Go backend's: {case.title}", cpu, limit, digits=3))
    for case, limit in _LEAST_X_IN_PROCESS.items():
        if case in found:
            made.append(_beside_in_process(found, case, limit, ""))
    return made


def goals_with_cache(found: Found) -> list[Goal]:
    """Return the goals of the measurement with `cache`."""
    return [_beside_in_process(found, MIX, _LEAST_CACHED, ", with cache")] if MIX in found else []


def goals_of_collectors(found: Found) -> list[Goal]:
    """Return the goals beside the plugin in process, by the collectors of both."""
    made = []
    for how, limits, theirs in (
        ("as deployed", _LEAST_AS_DEPLOYED, IN_PROCESS),
        (f"both with{TUNED_TITLE[1:]}", _LEAST_TUNED, IN_PROCESS + TUNED_TITLE),
    ):
        for case, limit in limits.items():
            rates = ratio(found[case][HEADWATER + TUNED_TITLE].rates, found[case][theirs].rates)
            made.append(Goal(f"queries/s, x CoreDNS alone, {how}: {case.title}", rates, limit, at_least=True))
    return made


def _beside_in_process(found: Found, case: Case, limit: float, how: str) -> Goal:
    rates = ratio(found[case][HEADWATER].rates, found[case][IN_PROCESS].rates)
    return Goal(f"queries/s, x CoreDNS alone: {case.title}{how}", rates, limit, at_least=True)


def fixed_rates(
    fronts: Fronts, case: Case, folder: Path, rounds: int, seconds: float
) -> dict[int, dict[str, list[Load]]]:
    """Measure latencies at fixed rates. Return them by rate and server."""
    file = case.file(folder)
    found: dict[int, dict[str, list[Load]]] = {rate: {name: [] for name in fronts} for rate in RATES}
    for rate in RATES:
        for turn in alternating(list(fronts), rounds):
            for name in turn:
                load = dnsperf(fronts[name].port, file, seconds, rate=rate, latencies=True)
                found[rate][name].append(load)
    return found


def report_of_rates(found: Mapping[int, Mapping[str, Sequence[Load]]]) -> str:
    rows = [
        (f"{rate:,}/s: {name}", spread([one.p50 for one in loads], 2), spread([one.p99 for one in loads], 2))
        for rate, by_name in found.items()
        for name, loads in by_name.items()
    ]
    return table(("", "p50, ms", "p99, ms"), rows)


def goals_of_rates(found: Mapping[int, Mapping[str, Sequence[Load]]]) -> list[Goal]:
    ours, echo = ([load.p99 for load in found[1000][name]] for name in (HEADWATER, ECHO))
    return [Goal("p99 at 1,000/s, x Go echo's", ratio(ours, echo), 1.0)]


def workers(kubeconfig: Path, cases: Sequence[Case], folder: Path, rounds: int, seconds: float) -> Found:
    """Measure Headwater with one, two and four answer processes."""
    known = ENDPOINT.questions[0]
    with ExitStack() as stack:
        fronts = {}
        for number in WORKERS:
            place = folder / f"workers-{number}"
            backend = stack.enter_context(
                headwater(place / "headwater", "--kubeconfig", kubeconfig, workers=number, known=known)
            )
            fronts[f"workers {number}"] = stack.enter_context(behind(place / "coredns", backend, known))
        return measure(fronts, cases, folder, rounds, seconds)


def memory_after(fronts: Fronts) -> dict[str, Memory]:
    """Return the memory that each CoreDNS has now, right after its load."""
    return {name: memory([psutil.Process(pid) for pid in front.roles[FRONT]]) for name, front in fronts.items()}


def report_of_memory(found: Mapping[str, Memory]) -> str:
    rows = [(name, f"{one.private / MIB:.1f}", f"{one.rss / MIB:.1f}") for name, one in found.items()]
    return table(("CoreDNS's memory, MiB", "private", "RSS"), rows)
