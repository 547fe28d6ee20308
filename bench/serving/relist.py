"""Measure the latency at 1,000 queries/s through CoreDNS, during a relist
of the whole set and without.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGUSR1
from typing import Final

from bench.processes import run_time
from bench.report import spread, table
from bench.serving import pages
from bench.serving.goals import Goal, ratio
from bench.serving.load import Load, dnsperf
from bench.serving.questions import Case
from bench.serving.servers import behind, headwater
from tests.harness.load import ScaleService, scale_set
from tests.harness.plane import Running, free_port, wait_until

RATE: Final = 1000
_MOST: Final = 3.0
_QUIET: Final = 3.0  # seconds
_LONGEST: Final = 60.0
#: The number of names in the questions.
_NAMES: Final = 1000
#: The watch process is done when it has hardly run for this long, in seconds.
_STILL: Final = 0.3
_A_LITTLE: Final = 0.02
#: The number of resources: Namespaces, Services, EndpointSlices.
_RESOURCES: Final = 3


@dataclass
class Figures:
    """The figures, one entry per round."""

    quiet: list[Load] = field(default_factory=list)
    busy: list[Load] = field(default_factory=list)
    lasted: list[float] = field(default_factory=list)
    """Seconds of the relist, from the 410 to its end."""
    cpu: list[float] = field(default_factory=list)
    """CPU seconds of the watch process for one relist."""


def measure(folder: Path, services: int, rounds: int) -> Figures:
    """Measure a quiet period and a relist in each round.

    Raises LoadError for an unanswered query.
    """
    found = Figures()
    chosen = scale_set(services)
    case = Case("names of the set", tuple((f"{_base(one)}", "A") for one in chosen[-_NAMES:] if one.headless))
    known = case.questions[0]
    file = case.file(folder)
    with (
        _pages(folder, services) as (server, kubeconfig),
        headwater(folder / "relist", "--kubeconfig", kubeconfig, known=known) as backend,
        behind(folder / "relist-coredns", backend, known) as front,
    ):
        watch = backend.pid("watch")
        _wait_until_still(watch, time.monotonic())
        for _ in range(rounds):
            found.quiet.append(dnsperf(front.port, file, _QUIET, rate=RATE, latencies=True))
            before, lists = run_time(watch), _lists(server)
            began = time.monotonic()

            def relist() -> None:
                server.signal(SIGUSR1)
                wait_until(lambda: _lists(server) == lists + _RESOURCES, _LONGEST, "a relist")  # noqa: B023
                found.lasted.append(_wait_until_still(watch, began))  # noqa: B023

            load = dnsperf(front.port, file, _LONGEST, rate=RATE, latencies=True, meanwhile=relist)
            found.busy.append(load.first(found.lasted[-1]))
            found.cpu.append(run_time(watch) - before)
    return found


def report(found: Figures) -> str:
    rows = [
        (what, spread([one.p50 for one in loads], 2), spread([one.p99 for one in loads], 2))
        for what, loads in (("quiet", found.quiet), ("relisting", found.busy))
    ]
    return (
        f"{table((f'{RATE:,}/s', 'p50, ms', 'p99, ms'), rows)}\n"
        f"(a relist: {spread(found.lasted, 2)} s, {spread(found.cpu, 2)} CPU-s of the watch process)"
    )


def goals(found: Figures) -> list[Goal]:
    seen = ratio([one.p99 for one in found.busy], [one.p99 for one in found.quiet])
    return [Goal("p99 at 1,000/s during a relist, x the quiet one", seen, _MOST)]


def endpoints(services: int) -> int:
    """Return the number of endpoints of the set."""
    return sum(len(one.addresses) for one in scale_set(services))


def _base(service: ScaleService) -> str:
    return f"{service.name}.{service.namespace}.svc.cluster.local"


def _lists(server: Running) -> int:
    """Return the number of lists that were sent completely."""
    return server.log.read_text().count(pages.LISTED)


def _wait_until_still(watch: int, began: float) -> float:
    """Return the seconds from `began` until the process was idle. Raises TimeoutError."""
    ran, since = run_time(watch), time.monotonic()
    while time.monotonic() < began + _LONGEST:
        time.sleep(0.02)
        if run_time(watch) - ran > _A_LITTLE:
            ran, since = run_time(watch), time.monotonic()
        elif time.monotonic() - since > _STILL:
            return since - began
    raise TimeoutError(f"the watch process was at work for {_LONGEST:g} s")


@contextmanager
def _pages(folder: Path, services: int) -> Iterator[tuple[Running, Path]]:
    """Yield the server of `pages`, and a kubeconfig for it."""
    port = free_port()
    kubeconfig = folder / "pages.kubeconfig"
    kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1", "kind": "Config", "current-context": "pages",
                "clusters": [{"name": "pages", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
                "users": [{"name": "pages", "user": {"token": "none"}}],
                "contexts": [{"name": "pages", "context": {"cluster": "pages", "user": "pages"}}],
            }
        )
    )  # fmt: skip
    command = [sys.executable, "-m", "bench.serving.pages", "--port", str(port), "--services", str(services)]
    with Running("pages", command, folder / "pages.log") as running:

        def listens() -> bool:
            running.require_running()
            return pages.LISTENING in running.log_tail()

        wait_until(listens, _LONGEST, "the server of lists listens")
        yield running, kubeconfig
