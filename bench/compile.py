"""Measure the CPU time that a change costs the writer in the worst cases, up to its commit.

    python -m bench.compile [--rounds 50] [--history 16777216]

One endpoint of a Service of 1,000 changes its address. Every pod of a Service of 5,000 flips its
readiness, one slice after the other, as the slice controller writes them. The slices have 100
endpoints, as Kubernetes makes them, or 1,000, the most that the API allows. The settings are the
usual ones, or those with the highest costs: two zones, PTR and zonal names. A Service
of three endpoints shows what a commit costs beside its names.

Each line is measured without the history of answers and with it, commit by commit in turn, so that
both see the same load of the machine.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from headwater.cluster.changes import Change, ListComplete, ListPageArrived, Upsert
from headwater.cluster.objects import Decoded, Endpoint, EndpointSlice, Namespace, Port, Resource, Service
from headwater.records.compiler import Compiler
from headwater.records.options import silent
from headwater.settings.settings import Settings
from headwater.store.environment import Store
from headwater.store.identity import Identity
from headwater.writer.chronicle import Chronicle
from headwater.writer.ledger import Ledger

from bench.report import environment

_RESOURCES: tuple[Resource, ...] = ("namespaces", "services", "endpointslices")
_PORTS = (Port("cql", "TCP", 9042), Port("intra", "TCP", 7000))
_SETTINGS = {
    "usual": Settings(),
    "everything": Settings(zones=("cluster.local", "example.org"), reverse_zones=("in-addr.arpa",), zonal=True),
}


def slices(count: int, per_slice: int, *, ready: bool = True, moved: int = 0) -> list[EndpointSlice]:
    """Return a StatefulSet's slices; the first `moved` endpoints have other addresses."""
    conditions = 3 if ready else 2
    endpoints = [
        Endpoint(
            (f"10.{20 if number < moved else 10}.{number >> 8}.{number & 255}",),
            conditions,
            f"db-{number}",
            f"db-{number}",
            f"zone-{number % 3}",
        )
        for number in range(count)
    ]
    return [
        EndpointSlice("bench", f"db-{at}", "db", _PORTS, tuple(endpoints[at : at + per_slice]))
        for at in range(0, count, per_slice)
    ]


def listed(resource: Resource, objects: Iterable[Namespace | Service | EndpointSlice]) -> list[Change]:
    """Return a complete list of one page."""
    page = [Decoded(item, "1") for item in objects]
    return [ListPageArrived(resource, page, first=True), ListComplete(resource, "1")]


def ledger_of(folder: Path, settings: Settings, pieces: Sequence[EndpointSlice], history: int = 0) -> Ledger:
    """Return a ledger with one headless Service, and a history of so many bytes."""
    store, _ = Store.open(folder, Identity("bench", settings.records_fingerprint()))
    compiler = Compiler(settings, ("192.0.2.1",), silent)
    ledger = Ledger(store, compiler, _RESOURCES, chronicle=Chronicle(history, compiler, time.time))
    service = Service("bench", "db", "ClusterIP", True, (), "", _PORTS)
    ledger.commit([*listed("namespaces", [Namespace("bench")]), *listed("services", [service])])
    ledger.commit(listed("endpointslices", pieces))
    assert ledger.ready
    return ledger


def moves(count: int, per_slice: int) -> Iterator[list[Change]]:
    """Yield changes of one endpoint's address, forth and back, without end."""
    before, after = (slices(count, per_slice, moved=moved)[0] for moved in (0, 1))
    while True:
        yield [Upsert("endpointslices", Decoded(after, "2"))]
        yield [Upsert("endpointslices", Decoded(before, "2"))]


def milliseconds(ledger: Ledger, changes: Sequence[Change]) -> float:
    """What a commit takes of the processor, the kernel's part of it too: others' load is not
    counted.
    """
    began = time.thread_time()
    outcome = ledger.commit(changes)
    took = time.thread_time() - began
    assert outcome.records_changed
    return took * 1000


def one_changes(
    folder: Path, settings: Settings, count: int, per_slice: int, rounds: int, sizes: Sequence[int]
) -> list[list[float]]:
    """Milliseconds per commit, for each size of the history."""
    ledgers = [ledger_of(folder / str(size), settings, slices(count, per_slice), size) for size in sizes]
    changes = [moves(count, per_slice) for _ in sizes]
    found: list[list[float]] = [[] for _ in sizes]
    for turn in range(rounds * len(sizes)):
        which = turn % len(sizes)
        found[which].append(milliseconds(ledgers[which], next(changes[which])))
    return found


def all_flip(
    folder: Path, settings: Settings, per_slice: int, together: int, rounds: int, sizes: Sequence[int]
) -> list[list[float]]:
    """Milliseconds for all slices, `together` of them in a commit, for each size of the history."""
    ledgers = [ledger_of(folder / str(size), settings, slices(5000, per_slice), size) for size in sizes]
    found: list[list[float]] = [[] for _ in sizes]
    for turn in range(rounds):
        events = [
            Upsert("endpointslices", Decoded(item, "2")) for item in slices(5000, per_slice, ready=bool(turn % 2))
        ]
        parts = [events[at : at + together] for at in range(0, len(events), together)]
        for ledger, mine in zip(ledgers, found, strict=True):
            mine.append(sum(milliseconds(ledger, part) for part in parts))
    return found


def row(what: str, settings: str, per_slice: int, took: Sequence[Sequence[float]]) -> str:
    """A line of the table: medians, the slowest, and by how much the history is dearer."""
    plain, told = (statistics.median(some) for some in took)
    figures = [f"{statistics.median(some):>7.2f} ms [{max(some):.1f}]" for some in took]
    more = f"{(told / plain - 1) * 100:+.0f} %"
    return f"{what:<44} {settings:<11} {per_slice:>9,} {figures[0]:>20} {figures[1]:>20} {more:>7}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=50, help="commits measured per line (default: %(default)s)")
    parser.add_argument("--history", type=int, default=16 << 20, help="its size in bytes (default: %(default)s)")
    options = parser.parse_args()
    rounds, sizes = options.rounds, (0, options.history)
    print(environment())
    print(f"{'change':<44} {'settings':<11} {'slices of':>9} {'no history':>20} {'with it':>20}")
    for name, settings in _SETTINGS.items():
        for count, per_slice in ((3, 100), (1000, 100), (1000, 1000)):
            with tempfile.TemporaryDirectory() as folder:
                took = one_changes(Path(folder), settings, count, per_slice, rounds, sizes)
            print(row(f"one of {count:,} endpoints", name, per_slice, took), flush=True)
        for per_slice, together in ((100, 1), (100, 10), (100, 50)):
            with tempfile.TemporaryDirectory() as folder:
                took = all_flip(Path(folder), settings, per_slice, together, max(4, rounds // 10), sizes)
            print(row(f"all of 5,000 flip, {together} slices per commit", name, per_slice, took), flush=True)


if __name__ == "__main__":
    main()
