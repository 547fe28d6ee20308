"""Measure what a change costs the writer in the worst cases, from the change to the commit.

    python -m bench.compile

One endpoint of a Service of 1,000 changes its address. Every pod of a Service of 5,000 flips its
readiness, one slice after the other, as the slice controller writes them. The slices have 100
endpoints, as Kubernetes makes them, or 1,000, the most that the API allows. The settings are the
usual ones, or those with the highest costs: two zones, PTR and zonal names.
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
from headwater.writer.ledger import Ledger

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


def ledger_of(folder: Path, settings: Settings, pieces: Sequence[EndpointSlice]) -> Ledger:
    """Return a ledger with one headless Service that has these slices."""
    store, _ = Store.open(folder, Identity("bench", settings.records_fingerprint()))
    ledger = Ledger(store, Compiler(settings, ("192.0.2.1",), silent), _RESOURCES)
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
    began = time.perf_counter()
    outcome = ledger.commit(changes)
    took = time.perf_counter() - began
    assert outcome.records_changed
    return took * 1000


def one_changes(folder: Path, settings: Settings, per_slice: int, rounds: int) -> list[float]:
    """Return milliseconds per commit."""
    ledger = ledger_of(folder, settings, slices(1000, per_slice))
    changes = moves(1000, per_slice)
    return [milliseconds(ledger, next(changes)) for _ in range(rounds)]


def all_flip(folder: Path, settings: Settings, per_slice: int, together: int, rounds: int) -> list[float]:
    """Return milliseconds for all slices, with `together` of them in one commit."""
    ledger = ledger_of(folder, settings, slices(5000, per_slice))
    found = []
    for turn in range(rounds):
        events = [
            Upsert("endpointslices", Decoded(item, "2")) for item in slices(5000, per_slice, ready=bool(turn % 2))
        ]
        found.append(sum(milliseconds(ledger, events[at : at + together]) for at in range(0, len(events), together)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=50, help="commits measured per line (default: %(default)s)")
    rounds = parser.parse_args().rounds
    print(f"{'change':<44} {'settings':<12} {'slices of':>9} {'median':>9} {'worst':>9}")
    for name, settings in _SETTINGS.items():
        for per_slice in (100, 1000):
            with tempfile.TemporaryDirectory() as folder:
                took = one_changes(Path(folder), settings, per_slice, rounds)
            line = f"{'one of 1,000 endpoints':<44} {name:<12} {per_slice:>9,}"
            print(f"{line} {statistics.median(took):>6.1f} ms {max(took):>6.1f} ms")
        for per_slice, together in ((100, 1), (100, 10), (100, 50)):
            with tempfile.TemporaryDirectory() as folder:
                took = all_flip(Path(folder), settings, per_slice, together, max(4, rounds // 10))
            line = f"{f'all of 5,000 flip, {together} slices per commit':<44} {name:<12} {per_slice:>9,}"
            print(f"{line} {statistics.median(took):>6.0f} ms {max(took):>6.0f} ms")


if __name__ == "__main__":
    main()
