"""The questions: one kind of answer at a time, the mix of a cluster's pods, and recordings."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final

import dns.message

from bench.serving.cluster import AWAY, HOME, RECORDINGS, ZONE, headless, with_cluster_ip

#: The UDP size that dnsperf offers with -e (dns.h, MAX_EDNS_PACKET).
EDNS_SIZE: Final = 4096
_SEED: Final = 4711
_LOOKUPS: Final = 4000
_MISSING: Final = 1000
_SEARCH: Final = (f"{HOME}.svc.{ZONE}", f"svc.{ZONE}", ZONE)

Question = tuple[str, str]
"""A name without the last dot, and a type."""


@dataclass(frozen=True, eq=False)
class Case:
    """Questions of one kind, which are asked in this order, again and again."""

    title: str
    questions: tuple[Question, ...]

    def file(self, folder: Path) -> Path:
        """Write the questions for dnsperf, once. Return the file."""
        path = folder / f"{self.title.replace(' ', '-').replace(',', '')}.txt"
        if not path.exists():
            path.write_text("".join(f"{name}. {qtype}\n" for name, qtype in self.questions))
        return path


def message(question: Question, number: int = 0) -> bytes:
    """Return the query that dnsperf sends, with this id."""
    name, qtype = question
    return dns.message.make_query(name, qtype, use_edns=0, payload=EDNS_SIZE, id=number).to_wire()


def _mix() -> Iterator[Question]:
    """Yield look-ups of A and AAAA along a pod's search list (ndots:5),
    with frequencies by Zipf's law.

    Of 200 names, 110 are in the pod's own namespace and found at the first step (100 with a cluster
    IP, 10 headless); 60 are in another namespace and found at the second step. 10 do not exist, and
    20 are outside the cluster: these are NXDOMAIN three times, and the next question is not for the
    cluster.
    """
    chance = random.Random(_SEED)
    wanted = [(service.name, 1) for service in (*with_cluster_ip(HOME), *headless(15))]
    wanted += [(f"{service.name}.{AWAY}", 2) for service in with_cluster_ip(AWAY, 60)]
    wanted += [(f"gone-{number}", 3) for number in range(10)]
    wanted += [(f"api-{number}.example.com", 3) for number in range(20)]
    chance.shuffle(wanted)
    weights = list(accumulate(1 / rank for rank in range(1, len(wanted) + 1)))
    for name, steps in chance.choices(wanted, cum_weights=weights, k=_LOOKUPS):
        for suffix in _SEARCH[:steps]:
            yield f"{name}.{suffix}", "A"
            yield f"{name}.{suffix}", "AAAA"


def _addresses(names: list[str]) -> tuple[Question, ...]:
    return tuple((name, "A") for name in names)


CLUSTER_IP: Final = Case("ClusterIP", _addresses([service.base for service in with_cluster_ip(HOME)]))
ENDPOINT: Final = Case("endpoint name", _addresses([name for service in headless(15) for name in service.hosts]))
HEADLESS: Final = {
    size: Case(f"headless, {size}", _addresses([service.base for service in headless(size)]))
    for size in (15, 100, 1000)
}
SRV: Final = Case("SRV, 15", tuple((f"_http._tcp.{service.base}", "SRV") for service in headless(15)))
NXDOMAIN: Final = Case("NXDOMAIN", _addresses([f"missing-{number}.{HOME}.svc.{ZONE}" for number in range(_MISSING)]))
MIX: Final = Case("pods, Zipf", tuple(_mix()))

#: What real systems asked while they formed, lost members and were used (tests/apps/recorded), each
#: in its order. PTR is left out: these servers have no reverse zone.
RECORDED: Final = tuple(
    Case(
        f"{corpus.system}, recorded",
        tuple((name, qtype) for name, qtype in corpus.questions(namespace, ZONE) if qtype != "PTR"),
    )
    for namespace, corpus in RECORDINGS.items()
)

CASES: Final = (CLUSTER_IP, ENDPOINT, *HEADLESS.values(), SRV, NXDOMAIN, MIX, *RECORDED)


def everything() -> list[Question]:
    """Return all questions, each once."""
    return list(dict.fromkeys(question for case in CASES for question in case.questions))
