"""Measure a start with nothing stored beside a sibling, with the whole set.

    python -m bench.seeding [--services 10000] [--runs 3] [--by-kubeconfig]

CoreDNS's `kubernetes` plugin, Headwater that lists, and Headwater that takes the store of another
instance start in turn on the same API server. `ready` is as in `bench.scale`. The API server's CPU
is that from exec until some seconds after ready, without what it took at rest just before. Requests
are those in the API server's own audit log. The last start has no API server: nobody listens at the
port that it is told. In the end three replicas are replaced, one after the other, each by one with
nothing stored. All find the API server as in `bench.scale`: as root by a pod's environment,
otherwise, or with `--by-kubeconfig`, by a kubeconfig.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
import yaml

from bench.report import environment, goal, spread, table
from bench.requests import Audit
from bench.scale import SETTLE, Question, Server, add_way, as_in_a_pod, start, wait_for_answer
from tests.harness.load import SERVICES, load, scale_set
from tests.harness.plane import Plane, PlaneError, Running, free_port

WAYS: Final = ("CoreDNS", "Headwater, a list", "Headwater, a sibling", "Headwater, a sibling and no API server")
_SIBLING: Final = WAYS[2]
#: What a list of a whole resource is in the audit log, in pages or as the beginning of a watch.
LISTS: Final = ("list", "watch-list")
_REPLICAS: Final = 3
READY_GOAL, CPU_GOAL, WITHOUT_GOAL = 0.4, 0.1, 2.0


@dataclass
class Figures:
    """Of one way to start: one entry per run."""

    ready: list[float] = field(default_factory=list)
    api: list[float] = field(default_factory=list)
    """CPU seconds of the API server."""
    lists: list[int] = field(default_factory=list)
    """Lists of whole resources."""


@dataclass(frozen=True)
class Rolling:
    """Of a rolling restart."""

    ready: list[float]
    """Seconds from exec to ready, of each replica."""
    lists: int
    cpu: float
    """CPU seconds of the API server."""


class Bench:
    """A plane with the set, and an instance that has all of it."""

    def __init__(self, plane: Plane, audit: Audit, services: int, folder: Path, *, pod: bool) -> None:
        self._plane = plane
        self._audit = audit
        self._question = Question(next(item for item in reversed(scale_set(services)) if item.headless))
        self._folder = folder
        self._pod = pod
        self._peer = free_port()
        config = yaml.safe_load(Path(plane.kubeconfig).read_text())
        for entry in config["clusters"]:
            entry["cluster"]["server"] = f"https://127.0.0.1:{free_port()}"
        self._nobody = folder / "nobody"
        self._nobody.write_text(yaml.safe_dump(config))

    def sibling(self) -> Running:
        """Start the instance that the others ask, and wait until it knows all."""
        folder, port = self._folder / "sibling", free_port()
        folder.mkdir()
        flags = ("--peer-listen", f"127.0.0.1:{self._peer}")
        running = start("Headwater", folder, self._plane.kubeconfig, port, *flags, pod=self._pod)
        wait_for_answer(port, self._question, running)
        time.sleep(SETTLE)
        return running

    def _at_rest(self) -> float:
        """CPU seconds of the API server in a second without a start."""
        before, began = self._cpu(), time.monotonic()
        time.sleep(SETTLE)
        return (self._cpu() - before) / (time.monotonic() - began)

    def _meter(self, which: Server) -> Callable[[], tuple[float, int]]:
        """Begin to count what these servers cost the API server.

        Call it for (CPU seconds beyond those at rest, lists) since then.
        """
        rest = self._at_rest()
        mark, before, began = self._audit.mark(), self._cpu(), time.monotonic()

        def spent() -> tuple[float, int]:
            cpu = max(0.0, self._cpu() - before - rest * (time.monotonic() - began))
            asked = self._audit.since(mark, which.lower())
            return cpu, sum(count for (verb, _), count in asked.items() if verb in LISTS)

        return spent

    def run(self, way: str, figures: Figures) -> None:
        folder, port = Path(tempfile.mkdtemp(prefix="headwater-seeding-")), free_port()
        kubeconfig = self._nobody if way == WAYS[3] else self._plane.kubeconfig
        flags = ["--seed", f"127.0.0.1:{self._peer}"] if "sibling" in way else []
        try:
            which: Server = "CoreDNS" if way == "CoreDNS" else "Headwater"
            spent = self._meter(which)
            began = time.monotonic()
            with start(which, folder, kubeconfig, port, *flags, pod=self._pod) as server:
                figures.ready.append(wait_for_answer(port, self._question, server) - began)
                time.sleep(SETTLE)
                cpu, lists = spent()
            figures.api.append(cpu)
            figures.lists.append(lists)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def rolling(self) -> Rolling:
        """Replace three replicas, one after the other, each by one with nothing stored.

        The others' addresses are its `--seed`. Two of the three have taken a store themselves.
        """
        ports = [free_port() for _ in range(_REPLICAS)]
        running: dict[int, Running] = {}
        seconds: list[float] = []
        try:
            for index in range(_REPLICAS):
                running[index], _ = self._replica(index, ports, running)
            time.sleep(SETTLE)
            spent = self._meter("Headwater")
            for index in range(_REPLICAS):
                running.pop(index).terminate()
                running[index], took = self._replica(index, ports, running)
                seconds.append(took)
                time.sleep(SETTLE)
            cpu, lists = spent()
        finally:
            for server in running.values():
                server.terminate()
        return Rolling(seconds, lists, cpu)

    def _replica(self, index: int, ports: Sequence[int], others: Iterable[int]) -> tuple[Running, float]:
        """Start one with nothing stored; return it, and the seconds to its first answer."""
        folder, port = Path(tempfile.mkdtemp(prefix=f"replica-{index}-", dir=self._folder)), free_port()
        flags = ["--peer-listen", f"127.0.0.1:{ports[index]}"]
        for other in others:
            flags += "--seed", f"127.0.0.1:{ports[other]}"
        began = time.monotonic()
        server = start("Headwater", folder, self._plane.kubeconfig, port, *flags, pod=self._pod)
        try:
            return server, wait_for_answer(port, self._question, server) - began
        except BaseException:
            server.terminate()
            raise

    def _cpu(self) -> float:
        times = psutil.Process(self._plane.process("kube-apiserver").pid).cpu_times()
        return float(times.user + times.system)


def report(found: dict[str, Figures], rolled: Rolling) -> str:
    """Return the tables."""
    median = statistics.median
    rows = [
        (way, spread(item.ready, 2), spread(item.api, 2), " ".join(map(str, item.lists))) for way, item in found.items()
    ]
    theirs, mine, listed = found["CoreDNS"], found[_SIBLING], found[WAYS[1]]
    goals = [
        ("exec to ready with a sibling, x CoreDNS's", goal(median(mine.ready) / median(theirs.ready), READY_GOAL)),
        ("API server's CPU with a sibling, x that of a list", goal(median(mine.api) / median(listed.api), CPU_GOAL)),
        ("exec to ready with a sibling and no API server", goal(median(found[WAYS[3]].ready), WITHOUT_GOAL, " s")),
        ("lists in a rolling restart of three", goal(rolled.lists, 0, digits=0)),
    ]
    head = ("", "exec to ready, s", "API server, CPU-s", "lists")
    rows.append(("a rolling restart of three", spread(rolled.ready, 2), f"{rolled.cpu:.2f}", str(rolled.lists)))
    return f"{table(head, rows)}\n\n{table(('goal', 'seen'), goals)}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.seeding", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--services", type=int, default=SERVICES, help="size of the set (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="how often each is started (default: %(default)s)")
    add_way(parser)
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="headwater-seeding-plane-"))
    try:
        print(environment("coredns", "kube-apiserver", "etcd"), flush=True)
        pod = as_in_a_pod(options)
        with ExitStack() as stack:
            audit = Audit(folder)
            plane = stack.enter_context(Plane(folder / "plane", audit.flags()))
            print(f"loading {options.services:,} services ...", flush=True)
            load(plane.kubeconfig, options.services)
            bench = Bench(plane, audit, options.services, folder, pod=pod)
            found = {way: Figures() for way in WAYS}
            with bench.sibling():
                for run in range(options.runs):
                    for way in WAYS:
                        bench.run(way, found[way])
                    told = ", ".join(f"{way} {found[way].ready[-1]:.2f} s" for way in WAYS)
                    print(f"run {run + 1}: {told}", flush=True)
            rolled = bench.rolling()
    except (PlaneError, TimeoutError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{report(found, rolled)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
