"""Measure memory: of all processes on the bundled example, and of a resolver after many queries."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import psutil
from headwater.answer.resolver import Resolver
from headwater.settings.settings import Settings
from headwater.store.environment import Reader

from bench import resolver
from bench.processes import MIB, alone, memory, tree
from bench.report import spread, table
from bench.serving.goals import Goal
from bench.serving.servers import headwater, replies_of

EXAMPLE: Final = Path(__file__).resolve().parents[2] / "examples" / "statefulset"
_KNOWN: Final = ("headless-svc.default.svc.cluster.local", "A")
WORKERS: Final = (2, 4)
_MOST: Final = 60.0  # MiB, with two answer processes
_MOST_FOR_A_PAIR: Final = 12.0
#: Queries that each answer process has answered before memory is read.
_ASKED: Final = 100

#: Names in the resolver's store; all its pages are touched early.
_NAMES: Final = 10_000
#: One query in this many is for a new name.
_NEW: Final = 10
_MOST_GROWTH: Final = 1.0  # MiB


@dataclass
class Example:
    """The figures of the example, one entry per round."""

    shares: dict[int, list[float]] = field(default_factory=dict)
    """PSS of all processes, store file aside, in MiB, by the number of answer processes."""
    alone: dict[int, list[float]] = field(default_factory=dict)
    """The PSS if nothing else on the machine used the same libraries (`processes.alone`)."""


def example(folder: Path, rounds: int) -> Example:
    """Measure `headwater serve` on the bundled example, at rest after some queries."""
    found = Example({workers: [] for workers in WORKERS}, {workers: [] for workers in WORKERS})
    for number in range(rounds):
        for workers in WORKERS if number % 2 == 0 else WORKERS[::-1]:
            place = folder / f"example-{workers}-{number}"
            with headwater(place, "--manifests", EXAMPLE, workers=workers, known=_KNOWN) as backend:
                for address in backend.addresses:
                    replies_of(address, [_KNOWN] * _ASKED)
                processes = tree(backend.process.pid)
                seen = memory(processes)
                found.alone[workers].append(alone(processes) / MIB)
            found.shares[workers].append((seen.pss - seen.pss_of_store) / MIB)
    return found


def report_of_example(found: Example) -> str:
    rows = [
        (f"{workers} answer processes", spread(found.shares[workers]), spread(found.alone[workers]))
        for workers in WORKERS
    ]
    return table(("MiB, all processes", "PSS", "PSS with no other Python about"), rows)


def goals_of_example(found: Example) -> list[Goal]:
    two, four = (found.shares[workers] for workers in WORKERS)
    return [
        Goal("PSS on the bundled example", two, _MOST, " MiB", 1),
        Goal("- with no other Python about", found.alone[WORKERS[0]], _MOST, " MiB", 1),
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
