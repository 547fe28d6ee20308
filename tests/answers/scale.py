"""`make scale-answers`: compare at full size, and with answers that do not fit into a message.

    python -m tests.answers.scale [--services 10000] [--queries 50000] [--seed 0]

The set is the one of the measurements (tests/harness/load.py). Both servers get a seeded sample of
all names that follow from it, with neighbours. Then come Services of a thousand endpoints and more.
Over TCP their answers are whole if they fit into 65,535 bytes; otherwise Headwater has the largest
set that fits. Over UDP, CoreDNS truncates both in the same way.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

from headwater.commands.query import exchange as lookup
from headwater.compare.messages import TYPES, WAYS, Query, Reply, Way, parse, parse_reply, type_name

from tests.answers.compare import Difference, Tally, compare
from tests.answers.names import MATRIX, Names, dashes, other_case
from tests.answers.servers import CLUSTER, AnswersPlane, Configuration, Pair, pairs
from tests.answers.wire import exchange
from tests.harness.load import SERVICES, ScaleService, load, scale_set
from tests.harness.plane import Plane, PlaneError
from tests.harness.processes import wait_until

QUERIES: Final = 50_000
#: Queries that are compared at once.
_CHUNK: Final = 5_000
CONFIGURATION: Final = Configuration("scale", pods="insecure", reverse=("in-addr.arpa",))

#: Endpoints of one Service. The first two fit for A; their SRV, and A of the last, do not fit.
LARGE: Final = (1_000, 4_000, 4_200)
_LARGE_NAMESPACE: Final = "large"
_LARGE_ADDRESSES: Final = int(IPv4Address("10.32.0.1"))
_PER_SLICE: Final = 1_000  # the API accepts no more
_MAX_MESSAGE: Final = 65_535
#: A record whose owner is a pointer, without its rdata.
_RECORD: Final = b"\0" * 12
#: How long both may take to see the last of the large Services, in seconds.
_SETTLED: Final = 60.0


# -- the set


@dataclass
class Sampler:
    """Draws names of the set, and questions for them."""

    chance: random.Random
    services: Sequence[ScaleService]
    cluster_ips: dict[str, str]
    """The cluster IP by the Service's name and namespace, joined by a dot."""
    names: Names = field(default_factory=Names)

    def draw(self) -> Query:
        chance = self.chance
        service = chance.choice(self.services)
        relative = f"{service.name}.{service.namespace}.svc"
        base = f"{relative}.{CLUSTER}"
        index = chance.randrange(len(service.addresses))
        address = service.addresses[index]
        label = f"web-{index}" if service.hostnames else dashes(address)
        ports = "_http._tcp"
        # Names that exist below a neighbour that does not, for the comparison.
        self.names.forward[f"{ports}.{relative}"] = None
        kinds = {
            "service": (base, ("A", "AAAA", "SRV")),
            "endpoint": (f"{label}.{base}", ("A", "SRV")),
            "port": (f"{ports}.{base}", ("SRV", "A")),
            "pod": (f"{dashes(address)}.{service.namespace}.pod.{CLUSTER}", ("A",)),
            "reverse": (self._reverse(address), ("PTR",)),
            "cluster": (self._reverse(self.cluster_ips.get(f"{service.name}.{service.namespace}", address)), ("PTR",)),
            "neighbour": (self._neighbour(service, base, label, address), MATRIX),
        }
        kind = chance.choices(tuple(kinds), (22, 30, 14, 4, 14, 4, 12))[0]
        name, likely = kinds[kind]
        qtype = chance.choice(likely if chance.random() < 0.8 else MATRIX)
        return Query(other_case(chance, name) if chance.random() < 0.1 else name, TYPES[qtype], chance.choice(WAYS))

    def _reverse(self, address: str) -> str:
        name = IPv4Address(address).reverse_pointer
        self.names.reverse[name] = None
        return name

    def _neighbour(self, service: ScaleService, base: str, label: str, address: str) -> str:
        reverse = self._reverse(address)
        other = f"{service.name}.{self.chance.choice(self.services).namespace}.svc.{CLUSTER}"
        return self.chance.choice(
            (
                f"x.{base}", f"_tcp.{base}", f"_udp.{base}", f"_http._udp.{base}", f"http.tcp.{base}", f"a.b.c.{base}",
                f"x.{label}.{base}", f"web-99.{base}", f"{service.namespace}.svc.{CLUSTER}", f"nothing.{other}", other,
                f"{service.name}x.{service.namespace}.svc.{CLUSTER}", f"x.{reverse}", reverse.partition(".")[2],
                reverse.split(".", 2)[2], IPv4Address(int(IPv4Address(address)) + (1 << 23)).reverse_pointer,
            )
        )  # fmt: skip


def compare_sample(pair: Pair, sampler: Sampler, count: int, pool: Executor, tally: Tally) -> list[Difference]:
    found: list[Difference] = []
    for start in range(0, count, _CHUNK):
        sampler.names = Names()
        queries = [sampler.draw() for _ in range(min(_CHUNK, count - start))]
        found += compare(pair, sampler.names, queries, pool, tally)
    return found


def cluster_ips(plane: Plane) -> dict[str, str]:
    items = plane.api("GET", "/api/v1/services?limit=0", timeout=120)["items"]
    return {
        f"{item['metadata']['name']}.{item['metadata']['namespace']}": item["spec"]["clusterIP"]
        for item in items
        if item["spec"].get("clusterIP", "None") != "None"
    }


# -- large Services


def large_objects() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (collection's path, object) of the large Services."""
    services = f"/api/v1/namespaces/{_LARGE_NAMESPACE}/services"
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{_LARGE_NAMESPACE}/endpointslices"
    yield "/api/v1/namespaces", {"metadata": {"name": _LARGE_NAMESPACE}}
    ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
    first = _LARGE_ADDRESSES
    for size in LARGE:
        yield services, {"metadata": {"name": f"of-{size}"}, "spec": {"clusterIP": "None", "ports": ports}}
        for start in range(0, size, _PER_SLICE):
            numbers = range(start, min(start + _PER_SLICE, size))
            labels = {"kubernetes.io/service-name": f"of-{size}"}
            yield slices, {
                "addressType": "IPv4", "metadata": {"name": f"of-{size}-{start}", "labels": labels}, "ports": ports,
                "endpoints": [{"addresses": [str(IPv4Address(first + number))]} for number in numbers],
            }  # fmt: skip
        first += size


def _name(size: int) -> str:
    return f"of-{size}.{_LARGE_NAMESPACE}.svc.{CLUSTER}"


def compare_large(plane: Plane, pair: Pair, pool: Executor, tally: Tally) -> list[str]:
    """Return the errors of the large Services, one line each; print the results."""
    for path, item in large_objects():
        plane.api("POST", path, item)
    last = [Query(_name(size), TYPES["A"], Way(tcp=True)) for size in LARGE]
    for server in (pair.oracle, pair.ours):
        wait_until(partial(_sizes, server.port, last), _SETTLED, "the large Services are seen")
    found: list[str] = []
    whole: list[Query] = []
    beyond: list[Query] = []
    for size in LARGE:
        a, srv = Query(_name(size), TYPES["A"]), Query(_name(size), TYPES["SRV"])
        port = Query(f"_http._tcp.{_name(size)}", TYPES["SRV"])
        (whole if size * 16 < _MAX_MESSAGE else beyond).append(a)
        beyond += [srv, port]
        whole += [Query(f"{dashes(str(IPv4Address(_LARGE_ADDRESSES)))}.{_name(size)}", TYPES["A"])]
        whole += [Query(_name(size), TYPES["AAAA"]), Query(_name(size), TYPES["TXT"])]
    by_udp = [query._replace(way=way) for query in (*whole, *beyond) for way in WAYS if not way.tcp]
    found += map(str, compare(pair, Names(), whole, pool, tally))
    found += _compare_truncated(pair, by_udp, tally)
    for query in beyond:
        found += _compare_cut(pair, query, int(query.name.split("of-")[1].split(".")[0]), tally)
    return found


def _sizes(port: int, queries: Sequence[Query]) -> bool:
    """Return whether both have all endpoints that fit into a message."""
    replies = [parse_reply(query, message) for query, message in zip(queries, exchange(port, queries), strict=True)]
    return all(reply and len(reply.answer) >= min(size, 4_000) for reply, size in zip(replies, LARGE, strict=True))


def _compare_truncated(pair: Pair, queries: Sequence[Query], tally: Tally) -> list[str]:
    """Compare over UDP: the header and OPT are equal, and every record
    is in the other's TCP reply.
    """
    theirs, ours = (exchange(server.port, queries) for server in (pair.oracle, pair.ours))
    tally.messages += len(queries)
    found: list[str] = []
    truncated = 0
    for query, one, two in zip(queries, theirs, ours, strict=True):
        first, second = parse_reply(query, one), parse_reply(query, two)
        if first is None or second is None or (first.flags, first.opt) != (second.flags, second.opt):
            found.append(str(Difference(pair.configuration.name, query, first, second)))
        elif second.truncated:
            truncated += 1
    print(f"  over UDP: {len(queries)} asked, {truncated} truncated, alike by both but for {len(found)}")
    return found


def _compare_cut(pair: Pair, query: Query, size: int, tally: Tally) -> list[str]:
    """Check an answer that no message holds: it is cut and counted.

    Print CoreDNS's answer beside it.
    """
    counted = _cut(pair)
    raw = lookup(query.wire(1), pair.headwater.addresses[0], 10.0)
    reply, after = parse(raw), _cut(pair)
    tally.messages += 1
    theirs = parse_reply(query, exchange(pair.oracle.port, [query])[0])
    through = parse_reply(query, exchange(pair.ours.port, [query])[0])
    what = f"{query.name} {type_name(query.qtype)}"
    print(
        f"  {what}: headwater {_shown(reply)}, {len(raw):,} bytes; through CoreDNS {_shown(through)};"
        f" kubernetes {_shown(theirs)}"
    )
    found: list[str] = []
    if reply.truncated or len(raw) > _MAX_MESSAGE:
        found.append(f"{what}: over gRPC {len(raw):,} bytes, truncated: {reply.truncated}")
    one_more = max((len(_RECORD) + len(record[4]) for record in reply.answer), default=_MAX_MESSAGE)
    # The addresses of the targets come after the set itself, and are dropped first.
    whole = len(reply.answer) == size
    if not whole and (reply.additional or len(raw) + one_more <= _MAX_MESSAGE):
        found.append(f"{what}: {len(raw):,} bytes, although one record more would fit")
    if after != counted + 1:
        found.append(f'{what}: reason="cut" went from {counted:g} to {after:g}')
    if theirs is None or through is None or not (theirs.rcode == through.rcode == 0):
        found.append(f"{what}: through CoreDNS {through}, of kubernetes {theirs}")
    return found


def _cut(pair: Pair) -> float:
    """Return headwater_queries_total with reason="cut"."""
    pattern = r'^headwater_queries_total\{[^}]*reason="cut"[^}]*\} (\S+)'
    return sum(map(float, re.findall(pattern, pair.headwater.admin("/metrics")[1], re.MULTILINE)))


def _shown(reply: Reply | None) -> str:
    if reply is None:
        return "no reply"
    return f"{len(reply.answer):,}+{len(reply.additional):,} records{', TC' if reply.truncated else ''}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.answers.scale", description="Compare at full size.")
    parser.add_argument("--services", type=int, default=SERVICES, help="size of the set (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=QUERIES, help="size of the sample (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which sample (default: %(default)s)")
    parser.add_argument("--show", type=int, default=20, help="differences to print (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="headwater-answers-") as folder:
            return _run(Path(folder), options.services, options.queries, options.seed, options.show)
    except (PlaneError, TimeoutError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(folder: Path, services: int, queries: int, seed: int, show: int) -> int:
    with AnswersPlane(folder / "plane") as plane, ThreadPoolExecutor(2) as pool:
        print(f"loading {services:,} services ...", flush=True)
        done = load(plane.kubeconfig, services, progress=lambda line: print(f"  {line}", flush=True))
        print(f"{done.services:,} services, {done.slices:,} slices, {done.endpoints:,} endpoints", flush=True)
        with pairs(plane, folder, (), [CONFIGURATION]) as (pair,):
            began, tally = time.monotonic(), Tally()
            sampler = Sampler(random.Random(seed), scale_set(services), cluster_ips(plane))
            differences = [*map(str, compare_sample(pair, sampler, queries, pool, tally))]
            print(
                f"seed {seed}: {tally.messages:,} messages compared, {len(differences)} differences,"
                f" {time.monotonic() - began:.0f} s",
                flush=True,
            )
            print("deviations: " + ", ".join(f"{name} {count:,}" for name, count in sorted(tally.deviations.items())))
            print(f"Services of {', '.join(f'{size:,}' for size in LARGE)} endpoints", flush=True)
            differences += compare_large(plane, pair, pool, tally)
    for text in differences[:show]:
        print(f"\n{text}")
    print(f"{tally.messages:,} messages, {len(differences)} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
