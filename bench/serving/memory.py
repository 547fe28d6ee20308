"""Measure memory: of all processes on the bundled example, and of a resolver after many queries."""

from __future__ import annotations

import http.client
import multiprocessing
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import psutil
from headwater.answer.resolver import Resolver
from headwater.settings.address import Address
from headwater.settings.settings import Settings
from headwater.store.environment import Reader

from bench import resolver
from bench.processes import MIB, alone, memory, tree
from bench.report import spread, table
from bench.serving.goals import Goal
from bench.serving.servers import headwater, replies_of
from tests.harness.plane import free_port, wait_until

EXAMPLE: Final = Path(__file__).resolve().parents[2] / "examples" / "statefulset"
_KNOWN: Final = ("headless-svc.default.svc.cluster.local", "A")
_MOST: Final = 60.0  # MiB, with two answer processes
#: What Prometheus accepts, and how often it asks before memory is read.
_SCRAPER: Final = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
_SCRAPES: Final = 3
_PATIENCE: Final = 60.0  # seconds
_MOST_FOR_A_PAIR: Final = 12.0
#: Queries that each answer process has answered before memory is read.
_ASKED: Final = 100

#: Names in the resolver's store; all its pages are touched early.
_NAMES: Final = 10_000
#: One query in this many is for a new name.
_NEW: Final = 10
_MOST_GROWTH: Final = 1.0  # MiB


@dataclass(frozen=True, slots=True)
class Kind:
    """An instance that is measured."""

    workers: int
    admin: bool = False

    def __str__(self) -> str:
        return f"{self.workers} answer processes{', the admin port scraped' if self.admin else ''}"


_TWO, _ADMIN, _FOUR = Kind(2), Kind(2, admin=True), Kind(4)
KINDS: Final = (_TWO, _ADMIN, _FOUR)


@dataclass
class Example:
    """The figures of the example, one entry per round."""

    shares: dict[Kind, list[float]] = field(default_factory=dict)
    """PSS of all processes, store file aside, in MiB."""
    alone: dict[Kind, list[float]] = field(default_factory=dict)
    """The PSS if nothing else on the machine used the same libraries (`processes.alone`)."""


def example(folder: Path, rounds: int) -> Example:
    """Measure `headwater serve` on the bundled example, at rest after some queries."""
    found = Example({kind: [] for kind in KINDS}, {kind: [] for kind in KINDS})
    for number in range(rounds):
        for index, kind in enumerate(KINDS if number % 2 == 0 else KINDS[::-1]):
            place = folder / f"example-{number}-{index}"
            admin = Address(host="127.0.0.1", port=free_port()) if kind.admin else None
            with headwater(place, "--manifests", EXAMPLE, workers=kind.workers, known=_KNOWN, admin=admin) as backend:
                for address in backend.addresses:
                    replies_of(address, [_KNOWN] * _ASKED)
                if admin is not None:
                    wait_until(lambda admin=admin: _get(admin, "/readyz"), _PATIENCE, "ready", ignoring=(OSError,))  # type: ignore[misc]
                    for _ in range(_SCRAPES):
                        assert _get(admin, "/metrics")
                processes = tree(backend.process.pid)
                seen = memory(processes)
                found.alone[kind].append(alone(processes) / MIB)
            found.shares[kind].append((seen.pss - seen.pss_of_store) / MIB)
    return found


def _get(admin: Address, path: str) -> bool:
    """Ask as Prometheus does; whether all is well. Raises OSError."""
    with closing(http.client.HTTPConnection(admin.host, admin.port, timeout=_PATIENCE)) as connection:
        connection.request("GET", path, headers={"Accept": _SCRAPER})
        reply = connection.getresponse()
        reply.read()
        return reply.status == http.HTTPStatus.OK


def report_of_example(found: Example) -> str:
    rows = [(str(kind), spread(found.shares[kind]), spread(found.alone[kind])) for kind in KINDS]
    return table(("MiB, all processes", "PSS", "PSS with no other Python about"), rows)


def goals_of_example(found: Example) -> list[Goal]:
    two, four = found.shares[_TWO], found.shares[_FOUR]
    return [
        Goal("PSS on the bundled example", two, _MOST, " MiB", 1),
        Goal("- with the admin port, scraped", found.shares[_ADMIN], _MOST, " MiB", 1),
        Goal("- with no other Python about", found.alone[_TWO], _MOST, " MiB", 1),
        Goal("- a second pair of answer processes", [b - a for a, b in zip(two, four, strict=True)],
             _MOST_FOR_A_PAIR, " MiB", 1),
    ]  # fmt: skip


def growth(queries: int) -> dict[int, float]:
    """Return the RSS in MiB of a resolving process after a tenth of the queries, and after all."""
    context = multiprocessing.get_context("spawn")
    with resolver.filled(_NAMES) as folder:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_answer, args=(folder, queries, theirs))
        child.start()
        theirs.close()
        try:
            found: dict[int, float] = ours.recv()
        finally:
            child.join()
    return found


def _answer(folder: Path, queries: int, result: Connection) -> None:
    """Give all kinds of answers again and again, in a separate process."""
    chance = random.Random(0)
    settings = Settings()
    reader = resolver.reader(folder)
    answering = Resolver(reader, settings)
    chosen = resolver.copies(_NAMES)
    kinds = [resolver.queries(case, chosen, chance) for case in resolver.CASES]
    asked = _with_new_names([query for together in zip(*kinds, strict=True) for query in together])
    found = {}
    for tenth in range(1, 11):
        _answer_some(reader, answering, islice(asked, queries // 10))
        if tenth in (1, 10):
            found[queries // 10 * tenth] = psutil.Process().memory_info().rss / MIB
    result.send(found)
    reader.close()


def _with_new_names(known: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the queries in turn without end, at times one for a new name."""
    name = b"\3svc\7cluster\5local\0\0\1\0\1"
    for number, query in enumerate(cycle(known)):
        if number % _NEW:
            yield query
        else:
            label = b"%016x" % number
            yield query[:2] + b"\1\0\0\1\0\0\0\0\0\0" + b"\x10" + label + b"\5bench" + name


def _answer_some(reader: Reader, answering: Resolver, asked: Iterator[bytes]) -> None:
    while batch := list(islice(asked, resolver.BATCH)):
        snapshot = reader.begin()
        assert snapshot is not None
        for query in batch:
            answering.answer(query, snapshot)
        snapshot.close()


def report_of_growth(found: dict[int, float]) -> str:
    return table(("queries", "RSS, MiB"), [(f"{queries:,}", f"{rss:,.2f}") for queries, rss in found.items()])


def goals_of_growth(found: dict[int, float]) -> list[Goal]:
    (few, early), (many, late) = found.items()
    return [Goal(f"growth from {few:,} to {many:,} queries", [late - early], _MOST_GROWTH, " MiB")]
