"""The load: dnsperf for CoreDNS, h2load for a backend alone, and the CPU of the processes."""

from __future__ import annotations

import re
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT
from typing import Final, TypeVar

from headwater.serve.service import QUERY

from bench.processes import run_time

#: The default number of queries under way.
IN_FLIGHT: Final = 100
#: The buffer of dnsperf's socket, in KiB: answers of 1,000 addresses arrive in bursts.
_SOCKET_BUFFER: Final = 4000
#: One reply in dnsperf's verbose output.
_REPLY: Final = re.compile(rb"^> \S+ \S+ \S+ ([0-9.]+)$", re.MULTILINE)

_GOOD: Final = frozenset(("NOERROR", "NXDOMAIN"))
#: The part of lost or failed queries that a busy machine explains; they are reported, and not
#: fatal.
_MOST_BAD: Final = 0.001
#: The least number of queries for a percentile.
_LEAST: Final = 100

T = TypeVar("T")


class LoadError(Exception):
    """A load was not served properly; the text says what happened."""


@dataclass(frozen=True)
class Load:
    """The results of a load."""

    queries: int
    """The number of answered queries."""
    rate: float
    """Answered queries per second."""
    latencies: Sequence[float] = ()
    """Milliseconds as dnsperf measures them, if asked to, in the order of the replies."""

    @property
    def p50(self) -> float:
        return self._percentile(50)

    @property
    def p99(self) -> float:
        return self._percentile(99)

    def first(self, seconds: float) -> Load:
        """Return the results of the first seconds of a load with a fixed rate."""
        queries = max(_LEAST, int(self.rate * seconds))
        return Load(queries, self.rate, self.latencies[:queries])

    def _percentile(self, number: int) -> float:
        return statistics.quantiles(self.latencies, n=100, method="inclusive")[number - 1]


def dnsperf(
    port: int,
    file: Path,
    seconds: float,
    *,
    rate: int = 0,
    latencies: bool = False,
    meanwhile: Callable[[], object] | None = None,
) -> Load:
    """Ask CoreDNS over UDP with EDNS, as fast as it answers, or with `rate` queries per second.

    `latencies` makes dnsperf print each latency, which costs it 2 us per query. With `meanwhile`
    the load ends when that returns, at the latest after `seconds`. Raises LoadError if more than a
    few queries are lost, or have another rcode than NOERROR and NXDOMAIN.
    """
    command = [
        "dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", str(file), "-l", f"{seconds:g}", "-q", str(IN_FLIGHT),
        "-b", str(_SOCKET_BUFFER), "-t", "2", "-e",
        *(["-v"] if latencies else []), *(["-Q", str(rate)] if rate else []),
    ]  # fmt: skip
    with (file.parent / "dnsperf.out").open("w+b") as output:
        with subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as running:
            try:
                if meanwhile is not None:
                    meanwhile()
                    running.send_signal(SIGINT)
                running.wait(seconds + 30)
            finally:
                running.kill()
        output.seek(0)
        return _dnsperf(output.read(), latencies=latencies)


def _dnsperf(said: bytes, *, latencies: bool) -> Load:
    tail = said[-2000:].decode(errors="replace")

    def figure(name: str) -> float:
        found = re.search(rf"{name}: +([\d.]+)", tail)
        if found is None:
            raise LoadError(f"dnsperf said:\n{tail}")
        return float(found[1])

    completed, lost = int(figure("Queries completed")), int(figure("Queries lost"))
    failed = {code: int(number) for code, number in re.findall(r"([A-Z]+) (\d+) \(", tail) if code not in _GOOD}
    if bad := lost + sum(failed.values()):
        said_so = f"{lost:,} of {completed + lost:,} queries were lost, replies besides: {failed or 'none'}"
        if bad > completed * _MOST_BAD:
            raise LoadError(f"{said_so}\n{tail}")
        print(f"  ({said_so})", flush=True)
    rate = figure("Queries per second")
    if not latencies:
        return Load(completed, rate)
    return Load(completed, rate, [float(found) * 1000 for found in _REPLY.findall(said)])


def h2load(target: str, body: Path, streams: int, queries: int) -> Load:
    """POST a packet `queries` times over one connection to `unix:/path` or `HOST:PORT`.

    Raises LoadError.
    """
    base = ["-B", target] if target.startswith("unix:") else []
    host = "localhost" if base else target
    done = subprocess.run(
        [
            "h2load", "-n", str(queries), "-c", "1", "-m", str(streams), "-d", str(body),
            "-H", "content-type: application/grpc", "-H", "te: trailers", *base, f"http://{host}{QUERY}",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    rate = re.search(r"([\d.]+) req/s", done.stdout)
    succeeded = re.search(r"status codes: (\d+) 2xx", done.stdout)
    if rate is None or succeeded is None or int(succeeded[1]) != queries:
        raise LoadError(f"h2load against {target}:\n{done.stdout}{done.stderr}")
    return Load(queries, float(rate[1]))


@dataclass(frozen=True)
class Seen:
    """One load, and the CPU that it cost."""

    load: Load
    cpu: Mapping[str, float]
    """CPU in us per query, by role."""


def metered(roles: Mapping[str, Sequence[int]], work: Callable[[], Load]) -> Seen:
    """Run a load, and measure the CPU of these processes during it."""
    before = {role: sum(map(run_time, pids)) for role, pids in roles.items()}
    load = work()
    return Seen(
        load,
        {role: (sum(map(run_time, pids)) - before[role]) / load.queries * 1e6 for role, pids in roles.items()},
    )


def alternating(names: Sequence[T], rounds: int) -> list[list[T]]:
    """Return the order of each round: another one first each time,
    and reversed every other time.
    """
    found = []
    for number in range(rounds):
        at = number % len(names)
        turn = [*names[at:], *names[:at]]
        found.append(turn if number % 2 == 0 else turn[::-1])
    return found
