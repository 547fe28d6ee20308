"""Measure what one answer costs the resolver alone, bytes to bytes, beside dnslib.

    python -m bench.resolver [--names 450000] [--rounds 7]

A child process fills a store with the project's own code until it has this many names (the Services
of tests/harness/load.py, repeated in further namespaces). Then each round answers the same queries
for random names, in this process and in alternation:

- `batch`: `Resolver.answer`, one snapshot for 100 queries, as a transport that reads several
  requests at once does;
- `single`: the same with a snapshot for each query, which is closed again;
- `dnslib`: `DNSRecord.parse` of the query and `pack` of a reply with the same records, which were
  made before, so that it looks nothing up.

SRV comes twice. A set is written when it is asked for, and remembered for a while: names chosen
among so many are seldom asked twice, and a few names nearly always are.

The goal is set for a name with one address: at most 0.12 of dnslib.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from dnslib import QTYPE, RCODE, DNSHeader, DNSRecord
from headwater.answer.resolver import Resolver
from headwater.cluster.changes import Change, ListComplete, ListPageArrived
from headwater.cluster.objects import Decoded, Resource, convert
from headwater.records.compiler import Compiler
from headwater.settings.settings import Settings
from headwater.store.environment import Reader, Store
from headwater.store.identity import Identity
from headwater.writer.ledger import Ledger

from bench.report import environment, goal, spread, table
from tests.harness.load import SERVICES, ScaleService, scale_set

GOAL: Final = 0.12
#: Queries on one snapshot in `batch`.
BATCH: Final = 100
#: Queries per case and round, all different; dnslib gets a tenth of them.
_QUERIES: Final = 5000
_DNSLIB_SHARE: Final = 10
_PAGE: Final = 500
_SEED: Final = 4711

_SETTINGS: Final = Settings()
_IDENTITY: Final = Identity("bench", _SETTINGS.records_fingerprint())
_RESOURCES: Final[tuple[Resource, ...]] = ("namespaces", "services", "endpointslices")


@dataclass(frozen=True)
class Copy:
    """A Service of the scale set, in the namespaces of the n-th repetition of the set."""

    service: ScaleService
    repetition: int

    @property
    def namespace(self) -> str:
        return f"{self.service.namespace}-{self.repetition}"

    @property
    def base(self) -> str:
        return f"{self.service.name}.{self.namespace}.svc.cluster.local"

    @property
    def hosts(self) -> list[str]:
        """The names of its endpoints, without the base."""
        if self.service.hostnames:
            return [f"web-{index}" for index in range(len(self.service.addresses))]
        return [address.replace(".", "-") for address in self.service.addresses]

    @property
    def names(self) -> int:
        """The number of its names: its own, `_tcp`, `_http._tcp`, and its endpoints'."""
        return 3 + self.service.slices * 10

    def objects(self, resource: Resource) -> Iterator[dict[str, Any]]:
        """Yield its objects as the API has them. Repetitions may share addresses."""
        made = [self.service.service()] if resource == "services" else self.service.endpoint_slices()
        for item in made:
            spec = item.get("spec")
            if spec is not None and not self.service.headless:
                spec["clusterIP"] = (
                    f"172.{16 + self.repetition % 16}.{self.service.number >> 8}.{self.service.number & 255}"
                )
            item["metadata"]["namespace"] = self.namespace
            yield item


def copies(names: int) -> list[Copy]:
    """Return the Services that have this many names together."""
    found: list[Copy] = []
    held = 0
    repetition = 0
    while held < names:
        for service in scale_set(SERVICES):
            if held >= names:
                break
            found.append(Copy(service, repetition))
            held += found[-1].names
        repetition += 1
    return found


def build(folder: Path, names: int) -> None:
    """Fill a store. Call it in a separate process, because LMDB opens a file only once in one."""
    store, _ = Store.open(folder, _IDENTITY)
    ledger = Ledger(store, Compiler(_SETTINGS, ["127.0.0.1"], _no_report), _RESOURCES)
    chosen = copies(names)
    for resource in _RESOURCES:
        items = iter(_objects(chosen, resource))
        first = True
        while page := list(islice(items, _PAGE)):
            changes: list[Change] = [ListPageArrived(resource, page, first)]
            ledger.commit(changes)
            first = False
        ledger.commit([ListComplete(resource, "1")])
    store.close()


def _objects(chosen: Sequence[Copy], resource: Resource) -> Iterator[Decoded]:
    if resource == "namespaces":
        for name in dict.fromkeys(copy.namespace for copy in chosen):
            yield convert(resource, {"metadata": {"name": name}})
        return
    for copy in chosen:
        for item in copy.objects(resource):
            yield convert(resource, item)


def _no_report(reason: str, namespace: str, name: str, detail: str) -> None:
    raise AssertionError(f"{reason}: {namespace}/{name}: {detail}")


@dataclass(frozen=True)
class Case:
    """One kind of question. `choose` makes a name of a random Service that `fits`."""

    title: str
    qtype: str
    fits: Callable[[ScaleService], bool]
    choose: Callable[[Copy, random.Random], str]
    records: int
    """The number of records that the answer section must have."""
    rcode: str = "NOERROR"
    among: int | None = None
    """Only so many Services are asked for; None: all that fit."""


def _endpoint(copy: Copy, chance: random.Random) -> str:
    return f"{chance.choice(copy.hosts)}.{copy.base}"


def _service(copy: Copy, _: random.Random) -> str:
    return copy.base


def _http(copy: Copy, _: random.Random) -> str:
    return f"_http._tcp.{copy.base}"


def _headless_10(service: ScaleService) -> bool:
    return service.headless and service.slices == 1


CASES: Final = (
    Case("endpoint A, 1 record", "A", lambda _: True, _endpoint, 1),
    Case("ClusterIP A", "A", lambda service: not service.headless, _service, 1),
    Case("headless A, 10 records", "A", _headless_10, _service, 10),
    Case("AAAA, NODATA", "AAAA", lambda _: True, _endpoint, 0),
    Case("A, NXDOMAIN", "A", lambda _: True, lambda copy, _: f"missing.{copy.base}", 0, "NXDOMAIN"),
    Case("SRV, 10 records and glue", "SRV", _headless_10, _http, 10),
    Case("- of 50 Services", "SRV", _headless_10, _http, 10, among=50),
)


def queries(case: Case, chosen: Sequence[Copy], chance: random.Random) -> list[bytes]:
    """Return messages for existing names (except for NXDOMAIN), each with its own id."""
    fitting = [copy for copy in chosen if case.fits(copy.service)][: case.among]
    found: list[bytes] = []
    while len(found) < _QUERIES:
        name = case.choose(chance.choice(fitting), chance)
        question = DNSRecord.question(name, case.qtype)
        question.header = DNSHeader(id=chance.randrange(1 << 16), rd=1)
        found.append(bytes(question.pack()))
    return found


def reader(folder: Path) -> Reader:
    """Return a reader of a store that `build` has filled."""
    found = Reader(folder, _IDENTITY)
    found.follow()
    return found


class Bench:
    """The reader, the resolver and the three ways to answer."""

    def __init__(self, folder: Path) -> None:
        self._reader = reader(folder)
        self._resolver = Resolver(self._reader, _SETTINGS)

    def check(self, case: Case, asked: Sequence[bytes]) -> list[DNSRecord]:
        """Return the replies as dnslib reads them.

        Raises AssertionError if one is not as the case says.
        """
        snapshot = self._reader.begin()
        assert snapshot is not None, "the store is not published"
        found: list[DNSRecord] = []
        for query in asked:
            reply = self._resolver.answer(query, snapshot)
            assert reply is not None
            record = DNSRecord.parse(reply)
            assert RCODE[record.header.rcode] == case.rcode, record
            assert len(record.rr) == case.records, record
            assert all(QTYPE[item.rtype] == case.qtype for item in record.rr), record
            found.append(record)
        snapshot.close()
        return found

    def batch(self, asked: Sequence[bytes]) -> float:
        """Return microseconds per query, with one snapshot for BATCH of them."""
        begin, answer = self._reader.begin, self._resolver.answer
        began = perf_counter()
        for at in range(0, len(asked), BATCH):
            snapshot = begin()
            for query in asked[at : at + BATCH]:
                answer(query, snapshot)
            if snapshot is not None:
                snapshot.close()
        return (perf_counter() - began) / len(asked) * 1e6

    def single(self, asked: Sequence[bytes]) -> float:
        """Return microseconds per query, with a snapshot for each."""
        begin, answer = self._reader.begin, self._resolver.answer
        began = perf_counter()
        for query in asked:
            snapshot = begin()
            answer(query, snapshot)
            if snapshot is not None:
                snapshot.close()
        return (perf_counter() - began) / len(asked) * 1e6

    @staticmethod
    def dnslib(asked: Sequence[bytes], replies: Sequence[DNSRecord]) -> float:
        """Return microseconds per query of dnslib, which parses it and
        packs the resolver's records.
        """
        began = perf_counter()
        for query, known in zip(asked, replies, strict=True):
            question = DNSRecord.parse(query)
            header = DNSHeader(id=question.header.id, qr=1, aa=1, rd=question.header.rd, rcode=known.header.rcode)
            DNSRecord(header, question.questions, known.rr, auth=known.auth, ar=known.ar).pack()
        return (perf_counter() - began) / len(asked) * 1e6

    def close(self) -> None:
        self._reader.close()


@contextmanager
def filled(names: int) -> Iterator[Path]:
    """Yield a state directory with a store of this many names."""
    folder = Path(tempfile.mkdtemp(prefix="headwater-resolver-"))
    try:
        child = multiprocessing.get_context("spawn").Process(target=build, args=(folder, names))
        child.start()
        child.join()
        if child.exitcode:
            raise RuntimeError(f"the store could not be built: exit code {child.exitcode}")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Measurement:
    """A store, the questions for it, and the figures so far."""

    def __init__(self, folder: Path, names: int) -> None:
        self._bench = Bench(folder)
        chance = random.Random(_SEED)
        chosen = copies(names)
        self._prepared = []
        for case in CASES:
            asked = queries(case, chosen, chance)
            self._prepared.append((case, asked, self._bench.check(case, asked[: _QUERIES // _DNSLIB_SHARE])))
        self.found: dict[str, tuple[list[float], list[float], list[float]]] = {
            case.title: ([], [], []) for case in CASES
        }
        """By case: microseconds of `batch`, `single` and `dnslib`, one entry per round."""

    def round(self) -> None:
        """Measure all cases, each way once."""
        for case, asked, replies in self._prepared:
            batch, single, dnslib = self.found[case.title]
            batch.append(self._bench.batch(asked))
            single.append(self._bench.single(asked))
            dnslib.append(self._bench.dnslib(asked[: len(replies)], replies))

    def close(self) -> None:
        self._bench.close()


def measure(folder: Path, names: int, rounds: int) -> dict[str, tuple[list[float], list[float], list[float]]]:
    """Return the figures of this many rounds on one store."""
    measurement = Measurement(folder, names)
    for _ in range(rounds):
        measurement.round()
    measurement.close()
    return measurement.found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.resolver", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--names", type=int, default=450_000, help="names in the store (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds over all cases (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.names < 1000 or options.rounds < 1:
        parser.error("--names is at least 1000, --rounds at least 1")
    print(environment(), flush=True)
    with filled(options.names) as folder:
        size = sum(file.stat().st_size for file in folder.glob("store-*/data.mdb"))
        print(f"at least {options.names:,} names, {size / (1 << 20):.0f} MiB, {_QUERIES:,} queries a case and round\n")
        found = measure(folder, options.names, options.rounds)
    rows = []
    for title, (batch, single, dnslib) in found.items():
        reference = statistics.median(dnslib)
        ratios = [f"{statistics.median(ours) / reference:.3f}" for ours in (batch, single)]
        rows.append((title, spread(batch, 2), spread(single, 2), spread(dnslib), *ratios))
    print(table(("us per query", "batch", "single", "dnslib", "batch/dnslib", "single/dnslib"), rows))
    batch, single, dnslib = found[CASES[0].title]
    reference = statistics.median(dnslib)
    print(
        f"\n{CASES[0].title}: batch {goal(statistics.median(batch) / reference, GOAL, digits=3)},"
        f" single {goal(statistics.median(single) / reference, GOAL, digits=3)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
