"""The transports beside each other: what a query costs, native and grpcio.

    python -m bench.transport [--rounds 3] [--seconds 2]

One answer process each, on the same manifests, over unix sockets. Each round, in turn and in
alternation:

- `h2load` with 1, 10 and 100 streams, one connection, a one-record answer;
- a real CoreDNS and `dnsperf` with 100 queries in flight, uncached, for answers of 1, 15 and 100
  records.

CPU is that of all of Headwater's processes, to the nanosecond, over the queries that were answered;
it includes the kernel's work on its behalf. What the native one's steps cost: `python -m
bench.profile`. Beside Go: `python -m bench.serving`.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from headwater.serve.grpc import frame
from headwater.serve.service import pack

from bench.report import environment, spread, table
from bench.serving import cluster
from bench.serving.load import Load, alternating, dnsperf, h2load, metered
from bench.serving.questions import ENDPOINT, HEADLESS, Case, message
from bench.serving.servers import BACKEND, Backend, Front, behind, headwater, workplace

TRANSPORTS: Final = ("native", "grpcio")
STREAMS: Final = (1, 10, 100)
CASES: Final = (ENDPOINT, HEADLESS[15], HEADLESS[100])
_KNOWN: Final = ENDPOINT.questions[0]
_WARM_UP: Final = 500  # queries

Work = Callable[[str], Load]
"""A load on the transport of that name."""


def measure(folder: Path, rounds: int, seconds: float) -> str:
    """A row for each load."""
    source = ("--manifests", cluster.manifests(folder / "cluster.json"))
    with ExitStack() as stack:
        servers: dict[str, Backend] = {}
        fronts: dict[str, Front] = {}
        for name in TRANSPORTS:
            backend = headwater(folder / name, *source, transport=name, known=_KNOWN)
            servers[name] = stack.enter_context(backend)
            fronts[name] = stack.enter_context(behind(folder / f"{name}-coredns", servers[name], _KNOWN))
        work = {f"h2load, streams {streams}": _by_h2load(folder, servers, streams, seconds) for streams in STREAMS}
        work |= {f"CoreDNS, {case.title}": _by_dnsperf(folder, fronts, case, seconds) for case in CASES}
        return table(
            ("", *(f"CPU {name}, us" for name in TRANSPORTS), "ratio", *(f"{name}, q/s" for name in TRANSPORTS)),
            [(title, *_row(servers, load, rounds)) for title, load in work.items()],
        )


def _row(servers: dict[str, Backend], load: Work, rounds: int) -> tuple[str, ...]:
    cpu: dict[str, list[float]] = {name: [] for name in servers}
    rates: dict[str, list[float]] = {name: [] for name in servers}
    for turn in alternating(list(servers), rounds):
        for name in turn:
            seen = metered({BACKEND: servers[name].pids()}, lambda name=name: load(name))  # type: ignore[misc]
            cpu[name].append(seen.cpu[BACKEND])
            rates[name].append(seen.load.rate)
    native, grpcio = (statistics.median(cpu[name]) for name in TRANSPORTS)
    return (
        *(spread(values) for values in cpu.values()),
        f"{native / grpcio:.3f}",
        *(f"{statistics.median(values):,.0f}" for values in rates.values()),
    )


def _by_h2load(folder: Path, servers: dict[str, Backend], streams: int, seconds: float) -> Work:
    body = folder / "packet"
    body.write_bytes(frame(pack(message(_KNOWN))))
    speed = {name: h2load(server.target, body, streams, _WARM_UP).rate for name, server in servers.items()}
    return lambda name: h2load(servers[name].target, body, streams, max(_WARM_UP, int(speed[name] * seconds)))


def _by_dnsperf(folder: Path, fronts: dict[str, Front], case: Case, seconds: float) -> Work:
    return lambda name: dnsperf(fronts[name].port, case.file(folder), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load (default: %(default)s)")
    options = parser.parse_args()
    for tool in ("h2load", "dnsperf"):
        if shutil.which(tool) is None:
            sys.exit(f"bench.transport: {tool} is not installed")
    print(environment("coredns"), end="\n\n", flush=True)
    with workplace() as folder:
        print(measure(folder, options.rounds, options.seconds))


if __name__ == "__main__":
    main()
