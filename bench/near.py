"""Measure what answers by the client's place cost: who did not ask for them, and who did.

    python -m bench.near [--rounds 7] [--seconds 1.5] [--only resolver,coredns]

`resolver` is the resolver alone, in batches of 100, in us of this thread's CPU. `coredns` is
through CoreDNS: an instance that knows no places; one with a socket for the zone, which a `view`
block asks; and one that is told by an EDNS option. CPU is that of all threads of the processes.

There are three kinds of Services, 500 of each: with a cluster IP, headless ones of 10 members, and
headless ones of 20 members that are answered by place, of which 10 are in the client's zone. So
clients get 10 addresses of either headless one.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import thread_time
from typing import Any, Final

import dns.edns
import dns.message
import yaml
from headwater.answer.resolver import Resolver
from headwater.settings.address import Address
from headwater.settings.places import ZoneAddress, ZoneCidr
from headwater.settings.settings import Settings
from headwater.store.environment import Reader
from headwater.writer import once

from bench.report import environment, spread, table
from bench.resolver import BATCH
from bench.serving import servers
from bench.serving.load import alternating, dnsperf, metered
from bench.serving.questions import Case
from bench.serving.through import WARM_UP, Figures

SERVICES: Final = 500
ZONE: Final = "default.svc.cluster.local"
OPTION: Final = 65518
_QUERIES: Final = 5000
_SEED: Final = 4711
#: Where clients are: of the processes, by loopback.
_CIDR: Final = "127.0.0.0/8"
_KINDS: Final = {"vip": "ClusterIP", "plain": "headless, 10 members", "near": "by place, 10 of 20 members"}
_SETTINGS: Final = Settings(
    listen_zones=(ZoneAddress("a", Address(path="/run/a.sock")),), client_option=OPTION,
    zone_cidrs=(ZoneCidr("a", _CIDR),),
)  # fmt: skip


def objects() -> Iterator[dict[str, Any]]:
    """Yield the manifests."""
    yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}
    for number in range(SERVICES):
        high, low = divmod(number, 250)
        for kind, members in (("vip", 0), ("plain", 10), ("near", 20)):
            name = f"{kind}-{number}"
            spec: dict[str, Any] = {"ports": [{"name": "http", "port": 80}]}
            spec["clusterIP"] = "None" if members else f"172.16.{high}.{low + 1}"
            spec |= {"trafficDistribution": "PreferSameZone"} if kind == "near" else {}
            yield {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name, "namespace": "default"},
                "spec": spec,
            }
            endpoints = [
                {"addresses": [f"10.{len(kind) * 10 + high}.{low}.{at}"], "conditions": {"ready": True},
                 "hints": {"forZones": [{"name": "ab"[at >= 10]}]}}
                for at in range(members)
            ]  # fmt: skip
            if endpoints:
                meta = {"name": f"{name}-1", "namespace": "default", "labels": {"kubernetes.io/service-name": name}}
                yield {
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": meta,
                    "addressType": "IPv4", "ports": [{"name": "http", "port": 80}], "endpoints": endpoints,
                }  # fmt: skip


# The resolver


def alone(folder: Path, manifests: Path, rounds: int) -> str:
    """Return the table of the resolver by itself."""
    settings = replace(_SETTINGS, manifests=(str(manifests),))
    reader = Reader(folder, once.write(settings, folder))
    reader.follow()
    resolver = Resolver(reader, settings)
    everybody = Resolver(reader, replace(settings, client_option=0)).answer
    chance = random.Random(_SEED)

    def queries(kind: str, address: bytes = b"") -> list[bytes]:
        told: list[dns.edns.Option] = []
        if address:
            told.append(dns.edns.GenericOption(dns.edns.OptionType.make(OPTION), address))
        names = [f"{kind}-{chance.randrange(SERVICES)}.{ZONE}" for _ in range(_QUERIES)]
        return [
            dns.message.make_query(
                name, "A", use_edns=0 if told else None, options=told or None, payload=1232
            ).to_wire()
            for name in names
        ]

    client = bytes((127, 0, 0, 1))
    ways: dict[str, tuple[Callable[..., Any], bytes]] = {
        "a socket without a zone": (everybody, b""),
        "the zone's socket": (resolver.at("a"), b""),
        "the socket of a zone without members": (resolver.at("x"), b""),
        "the EDNS option": (resolver.answer, client),
    }
    cases = {
        (way, kind): (answer, queries(kind, address)) for way, (answer, address) in ways.items() for kind in _KINDS
    }
    found: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    for turn in alternating(list(cases), rounds):
        for case in turn:
            answer, asked = cases[case]
            began = thread_time()
            for at in range(0, _QUERIES, BATCH):
                snapshot = reader.begin()
                for query in asked[at : at + BATCH]:
                    answer(query, snapshot)
                if snapshot is not None:
                    snapshot.close()
            found[case].append((thread_time() - began) / _QUERIES * 1e6)
    reader.close()
    rows = [(way, *(spread(found[way, kind], 2) for kind in _KINDS)) for way in ways]
    return table(("us per query, the resolver alone", *_KINDS.values()), rows)


# Through CoreDNS


@contextmanager
def fronts(folder: Path, manifests: Path) -> Iterator[dict[str, servers.Front]]:
    """Yield a CoreDNS before each instance."""
    known = (f"plain-0.{ZONE}", "A")
    with ExitStack() as stack:
        found: dict[str, servers.Front] = {}
        for title, flags, body in (
            ("without", (), "grpc . unix://{}/dns.sock"),
            ("the zone's socket", ("--listen-zone", "a=unix:{}/a.sock"),
             f"view a {{{{\n        expr incidr(client_ip(), '{_CIDR}')\n    }}}}\n    grpc . unix://{{}}/a.sock"),
            ("the EDNS option", ("--client-option", str(OPTION), "--zone-cidr", f"a={_CIDR}"),
             f"bufsize 1232\n    rewrite edns0 local set {OPTION:#x} {{{{client_ip}}}}\n    grpc . unix://{{}}/dns.sock"),
        ):  # fmt: skip
            place = folder / title.replace(" ", "-").replace("'", "")
            own = place / "headwater"
            source: list[str | Path] = ["--manifests", manifests, *(flag.format(own) for flag in flags)]
            backend = stack.enter_context(servers.headwater(own, *source, workers=1, known=known))
            front = servers.front(place / "coredns", body.format(own), known, backend=backend.pids())
            found[title] = stack.enter_context(front)
        yield found


def through(folder: Path, manifests: Path, rounds: int, seconds: float) -> str:
    """Return the table of the whole way."""
    rows = []
    with fronts(folder, manifests) as running:
        for kind, title in _KINDS.items():
            case = Case(title, tuple((f"{kind}-{number}.{ZONE}", "A") for number in range(SERVICES)))
            file = case.file(folder)
            figures = {name: Figures() for name in running}
            for front in running.values():
                dnsperf(front.port, file, WARM_UP)
            for turn in alternating(list(running), rounds):
                for name in turn:
                    front = running[name]
                    figures[name].add(metered(front.roles, partial(dnsperf, front.port, file, seconds)))
            for name, one in figures.items():
                cpu = [spread(one.cpu[role]) for role in (servers.FRONT, servers.BACKEND)]
                rows.append((f"{title}: {name}", spread(one.rates, 0), *cpu))
    return table(("", "queries/s", "CoreDNS, us", "backend, us"), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.near", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="rounds over all cases (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each load (default: %(default)s)")
    parser.add_argument("--only", default="resolver,coredns", help="parts (default: %(default)s)")
    options = parser.parse_args(arguments)
    print(environment("coredns"), flush=True)
    with servers.workplace() as folder:
        manifests = folder / "objects.yaml"
        manifests.write_text(yaml.dump_all(objects(), Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))
        parts: dict[str, Callable[[], str]] = {
            "resolver": partial(alone, folder / "alone", manifests, options.rounds),
            "coredns": partial(through, folder, manifests, options.rounds, options.seconds),
        }
        for part in options.only.split(","):
            print(f"\n{parts[part]()}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
