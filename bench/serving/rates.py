"""Measure what a query costs at the rates at which users live, where waking up is what costs.

CoreDNS asks two answer processes, in turn and the first one first, and the Go echo. With `--beside`
the code of another checkout is measured in the same turns, once for each kind of question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from bench.report import spread, table
from bench.serving import servers
from bench.serving.goals import Goal, ratio
from bench.serving.load import Seen, alternating, dnsperf, metered
from bench.serving.questions import ENDPOINT, SRV, Case, everything
from bench.serving.servers import BACKEND, ECHO, FRONT, HEADWATER, Front

#: Queries a second; 0: as many as there are.
RATES: Final = (500, 1000, 5000, 0)
CASES: Final = (ENDPOINT, SRV)
BEFORE: Final = "before"
SEQUENTIAL: Final = "Headwater, sequential"
WORKERS: Final = 2
_AT: Final = 1000
_MOST_X_BEFORE: Final = 0.7

Found = dict[tuple[Case, int], dict[str, list[Seen]]]


@contextmanager
def fronts(folder: Path, kubeconfig: Path, beside: Path | None) -> Iterator[dict[str, Front]]:
    """Yield the servers by name. `beside`: a checkout whose code is one of them."""
    known = ENDPOINT.questions[0]
    source = ("--kubeconfig", kubeconfig)
    with ExitStack() as stack:
        ours = stack.enter_context(servers.headwater(folder / "headwater", *source, workers=WORKERS, known=known))
        replies = servers.packets(servers.replies_of(ours.addresses[0], everything()), folder / "replies")
        found: dict[str, Front] = {}
        if beside is not None:
            place = folder / "before"
            other = servers.headwater(place / "headwater", *source, workers=WORKERS, known=known, code=beside)
            backend = stack.enter_context(other)
            found[BEFORE] = stack.enter_context(servers.behind(place / "coredns", backend, known))
        found[HEADWATER] = stack.enter_context(servers.behind(folder / "in-turn", ours, known))
        sequential = servers.behind(folder / "sequential", ours, known, policy="sequential")
        found[SEQUENTIAL] = stack.enter_context(sequential)
        echo = stack.enter_context(servers.echo(folder / "echo", replies, known))
        found[ECHO] = stack.enter_context(servers.behind(folder / "before-echo", echo, known))
        yield found


def measure(servers: Mapping[str, Front], folder: Path, rounds: int, seconds: float) -> Found:
    """Measure each kind of question at each rate, with servers in alternation."""
    found: Found = {}
    for case in CASES:
        file = case.file(folder)
        for rate in RATES:
            seen = found[case, rate] = {name: [] for name in servers}
            for turn in alternating(list(servers), rounds):
                for name in turn:
                    front = servers[name]
                    seen[name].append(metered(front.roles, lambda: dnsperf(front.port, file, seconds, rate=rate)))  # noqa: B023 (called at once)
    return found


def report(found: Found) -> str:
    rows = [
        (
            f"{case.title}, {f'{rate:,}/s' if rate else 'full speed'}: {name}",
            *(spread([one.cpu[role] for one in seen]) for role in (FRONT, BACKEND)),
            spread([one.load.rate for one in seen], 0) if not rate else "",
        )
        for (case, rate), by_name in found.items()
        for name, seen in by_name.items()
    ]
    return table(("CPU, us per query", "CoreDNS", "backend", "queries/s"), rows)


def goals(found: Found) -> list[Goal]:
    """Return the goals, if there was something to compare with."""
    made = []
    for case in CASES:
        by_name = found[case, _AT]
        if BEFORE in by_name:
            for name in (HEADWATER, SEQUENTIAL):
                cpu = ratio(_of_backend(by_name[name]), _of_backend(by_name[BEFORE]))
                made.append(Goal(f"backend CPU at {_AT:,}/s, x before: {case.title}: {name}", cpu, _MOST_X_BEFORE))
    return made


def _of_backend(seen: Sequence[Seen]) -> list[float]:
    return [one.cpu[BACKEND] for one in seen]
