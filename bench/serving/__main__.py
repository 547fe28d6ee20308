"""Measure what serving costs Headwater and Go, side by side, in one run.

    python -m bench.serving [--quick] [--only b,c,d] [--workers 1] [--beside CHECKOUT]

    b       the transport alone, with h2load and 1, 10 and 100 streams: native, grpcio, the Go echo,
            and nghttpd
    c       through CoreDNS, each kind of answer at full speed, without and with `cache`: its
            `kubernetes` plugin; and behind it Headwater, the Go echo, or a second CoreDNS (the Go
            backend)
    d       the same at 1,000 and 5,000 queries per second: latency
    e       the resolver alone, with up to 1,000,000 names
    f       one, two and four answer processes
    gc      through CoreDNS with Go's default collector and with that of deploy/base (GOGC=400), for
            Headwater and for the `kubernetes` plugin, and the memory that it costs
    rates   CPU of a query at 500, 1,000 and 5,000 queries per second and at full speed, with two
            answer processes asked in turn or one after the other; with `--beside` also that of
            another checkout's code
    relist  latency while the watch process relists 150,000 endpoints
    memory  PSS of all processes on the bundled example
    growth  memory of a resolver over 10 million queries

Servers take turns. A figure is the median of the rounds with [least-most]. CPU is that of all
threads of a process under load, by the scheduler's account, which includes the kernel's work for
it. Headwater's CPU is that of all its processes. The Go echo (bench/goecho) is grpc-go with a table
of Headwater's own replies: the least that a Go backend can cost.

Before c and d measure anything, all servers must give the same answer to every question. It takes
about 20 minutes on 2 cores. `--quick` takes 4, and its figures only show that everything runs.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headwater.commands.query import LookupFailed

from bench.report import environment
from bench.serving import agree, goals, memory, questions, rates, relist, servers, size, through, transport
from bench.serving.goals import Goal
from bench.serving.load import LoadError
from tests.harness.load import SERVICES
from tests.harness.plane import PlaneError

PARTS: Final = ("b", "c", "d", "e", "f", "gc", "rates", "relist", "memory", "growth")
#: The parts that ask CoreDNS in front of the small cluster.
_ON_THE_CLUSTER: Final = frozenset(("c", "d", "f", "gc", "rates"))
_COMMANDS: Final = ("dnsperf", "h2load", "nghttpd")


@dataclass(frozen=True)
class Extent:
    """The extent of a run. Times are in seconds."""

    rounds: int = 5
    seconds: float = 1.5
    cached_rounds: int = 3
    mix_cached_seconds: float = 3.0
    rate_seconds: float = 5.0
    sizes: tuple[int, ...] = size.SIZES
    services: int = SERVICES
    relists: int = 5
    queries: int = 10_000_000


QUICK: Final = Extent(
    rounds=2, seconds=0.5, cached_rounds=1, mix_cached_seconds=0.5, rate_seconds=1.0, sizes=(1_000, 10_000),
    services=1_000, relists=2, queries=500_000,
)  # fmt: skip


@dataclass
class Run:
    """One run: its arguments, and the goals that it has figures for."""

    folder: Path
    extent: Extent
    workers: int
    beside: Path | None
    goals: list[Goal]

    def section(self, title: str, text: str, seen: Sequence[Goal] = ()) -> None:
        """Print the results of a part."""
        print(f"\n## {title}\n\n{text}", flush=True)
        self.goals += seen

    def transport(self) -> None:
        found = transport.measure(self.folder, self.extent.rounds, self.extent.seconds)
        self.section("The transport alone", transport.report(found))

    def on_the_cluster(self, parts: frozenset[str]) -> None:
        """Run the parts c, d, f, gc and rates."""
        known = questions.ENDPOINT.questions[0]
        with servers.plane(self.folder) as plane:
            if parts & {"c", "d"}:
                with servers.variants(self.folder, plane.kubeconfig, known, self.workers) as (uncached, cached):
                    _agree(uncached, cached)
                    if "c" in parts:
                        self._through(uncached, cached)
                    if "d" in parts:
                        self._at_fixed_rates(uncached)
            if "f" in parts:
                self._workers(plane.kubeconfig)
            if "gc" in parts:
                self._collectors(plane.kubeconfig, known)
            if "rates" in parts:
                self._rates(plane.kubeconfig)

    def _through(self, uncached: through.Fronts, cached: through.Fronts) -> None:
        extent = self.extent
        print("\nuncached:", flush=True)
        found = through.measure(uncached, questions.CASES, self.folder, extent.rounds, extent.seconds)
        self.section("Through CoreDNS", through.report(found), through.goals(found))
        print("\nwith `cache`:", flush=True)
        others = [case for case in questions.CASES if case is not questions.MIX]
        found = through.measure(cached, others, self.folder, extent.cached_rounds, extent.seconds)
        found |= through.measure(cached, [questions.MIX], self.folder, extent.rounds, extent.mix_cached_seconds)
        self.section("Through CoreDNS with `cache`", through.report(found), through.goals_with_cache(found))

    def _at_fixed_rates(self, uncached: through.Fronts) -> None:
        extent = self.extent
        found = through.fixed_rates(uncached, questions.ENDPOINT, self.folder, extent.rounds, extent.rate_seconds)
        self.section("At fixed rates, endpoint name", through.report_of_rates(found), through.goals_of_rates(found))

    def _workers(self, kubeconfig: Path) -> None:
        cases = (questions.ENDPOINT, questions.HEADLESS[100], questions.MIX)
        found = through.workers(kubeconfig, cases, self.folder, self.extent.cached_rounds, self.extent.seconds)
        self.section("Answer processes", through.report(found))

    def _collectors(self, kubeconfig: Path, known: questions.Question) -> None:
        extent, sizes = self.extent, questions.HEADLESS
        cases = (
            questions.CLUSTER_IP, questions.ENDPOINT, *sizes.values(), questions.SRV, questions.NXDOMAIN, questions.MIX,
        )  # fmt: skip
        place = self.folder / "collectors"
        place.mkdir()
        with servers.collectors(place, kubeconfig, known, self.workers) as fronts:
            found = through.measure(fronts, cases, self.folder, extent.rounds, extent.seconds)
            held = through.memory_after(fronts)
        report = f"{through.report(found)}\n\n{through.report_of_memory(held)}"
        self.section("CoreDNS's collector", report, through.goals_of_collectors(found))

    def _rates(self, kubeconfig: Path) -> None:
        place = self.folder / "rates"
        place.mkdir()
        with rates.fronts(place, kubeconfig, self.beside) as fronts:
            found = rates.measure(fronts, self.folder, self.extent.rounds, self.extent.rate_seconds)
        self.section("What a query costs at each rate", rates.report(found), rates.goals(found))

    def sizes(self) -> None:
        found = size.measure(self.extent.sizes, self.extent.rounds)
        self.section("The number of names, resolver alone", size.report(found), size.goals(found))

    def relist(self) -> None:
        found = relist.measure(self.folder, self.extent.services, self.extent.relists)
        title = f"During a relist of {relist.endpoints(self.extent.services):,} endpoints"
        self.section(title, relist.report(found), relist.goals(found))

    def memory(self) -> None:
        found = memory.example(self.folder, self.extent.cached_rounds)
        self.section("Memory on the bundled example", memory.report_of_example(found), memory.goals_of_example(found))

    def growth(self) -> None:
        found = memory.growth(self.extent.queries)
        self.section("Memory over many queries", memory.report_of_growth(found), memory.goals_of_growth(found))


def _agree(uncached: through.Fronts, cached: through.Fronts) -> None:
    """Require that all servers give the same answer to every question."""
    asked = questions.everything()
    agree.require_agreement(uncached, asked, ttls=True)
    agree.require_agreement(cached, asked, ttls=False)
    print(f"\n{len(uncached)} servers agree on the answers to {len(asked):,} questions", flush=True)


def run(parts: frozenset[str], extent: Extent, workers: int, beside: Path | None, met: list[Goal]) -> None:
    """Run the parts in order, and add their goals to `met`."""
    with servers.workplace() as folder:
        this = Run(folder, extent, workers, beside, met)
        alone: dict[str, Callable[[], None]] = {
            "b": this.transport, "e": this.sizes, "relist": this.relist, "memory": this.memory, "growth": this.growth,
        }  # fmt: skip
        if parts & _ON_THE_CLUSTER:
            this.on_the_cluster(parts & _ON_THE_CLUSTER)
        for part, measure in alone.items():
            if part in parts:
                measure()


def _parts(text: str) -> frozenset[str]:
    chosen = frozenset(text.split(","))
    if unknown := chosen.difference(PARTS):
        raise argparse.ArgumentTypeError(f"no part {sorted(unknown)[0]!r}: choose from {', '.join(PARTS)}")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="little of everything")
    parser.add_argument("--only", type=_parts, default=frozenset(PARTS), metavar="PARTS", help="some of the parts")
    parser.add_argument("--workers", type=int, default=1, help="answer processes in c and d (default: %(default)s)")
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT", help="whose code is measured too, in rates")
    options = parser.parse_args(arguments)
    if missing := [command for command in _COMMANDS if shutil.which(command) is None]:
        parser.error(f"{missing[0]} is not installed: tools/setup packages {' '.join(_COMMANDS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all processes are stopped
    began, met, code = time.monotonic(), list[Goal](), 0
    print(environment("coredns", "goecho", "kube-apiserver", "etcd"), flush=True)
    try:
        run(options.only, QUICK if options.quick else Extent(), options.workers, options.beside, met)
    except (agree.Disagree, LoadError, LookupFailed, PlaneError, TimeoutError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    if met:
        print(f"\n## Goals\n\n{goals.report(met)}")
    print(f"\n({(time.monotonic() - began) / 60:.1f} minutes)")
    return code


if __name__ == "__main__":
    sys.exit(main())
