"""CoreDNS's own `kubernetes` plugin as the oracle, on the same API server.

A seeded generator makes a namespace full of corners and then changes it. Every
name that follows from its objects, and neighbours of those names, is asked of
CoreDNS with `kubernetes` and of CoreDNS with `grpc` and Headwater behind it;
whole messages are compared, SOA serials aside. Differences that are meant are
known one by one (`DEVIATIONS`, docs/answers.md).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest
import yaml

from tests.headwater import Headwater
from tests.processes import CoreDNS, wait_until
from tools.cluster.plane import Plane

ZONE = "cluster.local"
TYPES = ("A", "AAAA", "SRV", "TXT", "CNAME", "PTR", "SOA", "NS", "MX", "ANY", "HTTPS")
SERVICE_PORTS = [("http", "TCP"), ("dns", "UDP"), ("dns-tcp", "TCP"), ("metrics", "TCP")]
SLICE_PORTS = [("http", "TCP"), ("dns", "UDP"), ("metrics", "TCP"), ("", "TCP")]
#: How long both may take to see a change, in seconds.
SETTLED = 15.0

Message = tuple[str, int, tuple[str, ...], tuple[str, ...], tuple[str, ...]]
Objects = dict[tuple[str, str], dict[str, Any]]


def empty_non_terminal(qname: str, qtype: str, oracle: Message, ours: Message) -> bool:
    """RFC 8020: names exist below `_tcp.SVC` and `dns.Z`, so these are NODATA; CoreDNS says NXDOMAIN."""
    first = qname.split(".", 1)[0]
    return first in ("_tcp", "_udp", "dns") and (oracle[0], ours[0]) == ("NXDOMAIN", "NOERROR") and not ours[2]


def version_of_other_types(qname: str, qtype: str, oracle: Message, ours: Message) -> bool:
    """RFC 2308 2.2: `dns-version.Z` exists, with TXT; other types are NODATA; CoreDNS says NXDOMAIN."""
    return qname == f"dns-version.{ZONE}" and (oracle[0], ours[0]) == ("NXDOMAIN", "NOERROR") and not ours[2]


def soa_of_nothing(qname: str, qtype: str, oracle: Message, ours: Message) -> bool:
    """RFC 2308 2.1: a name that is not there is NXDOMAIN for type SOA too; CoreDNS says NODATA."""
    return qtype == "SOA" and (oracle[0], ours[0]) == ("NOERROR", "NXDOMAIN") and not oracle[2]


def txt_of_something(qname: str, qtype: str, oracle: Message, ours: Message) -> bool:
    """RFC 2308 2.2: a zone or namespace exists without TXT: NODATA; CoreDNS says NXDOMAIN."""
    exists = qname in (ZONE, f"svc.{ZONE}", f"pod.{ZONE}") or qname.split(".", 1)[1] in (f"svc.{ZONE}", f"pod.{ZONE}")
    return exists and qtype == "TXT" and (oracle[0], ours[0]) == ("NXDOMAIN", "NOERROR") and not ours[2]


DEVIATIONS = (empty_non_terminal, version_of_other_types, soa_of_nothing, txt_of_something)


@dataclass
class Pair:
    """The two servers, and what they say."""

    oracle: CoreDNS
    ours: CoreDNS
    asked: int = 0

    def difference(self, qname: str, qtype: str, *, udp: bool = False, edns: bool = False) -> str:
        """What is not the same and not meant; "" when nothing is."""
        self.asked += 1
        query = dns.message.make_query(qname, qtype, use_edns=0 if edns else None, payload=4096 if edns else None)
        one, two = (self._ask(server, query, udp=udp) for server in (self.oracle, self.ours))
        if one[1] & two[1] & dns.flags.TC:
            one, two = one[:2], two[:2]  # type: ignore[assignment]  # which records fitted is chance
        if one == two or any(known(qname.lower(), qtype, one, two) for known in DEVIATIONS):
            return ""
        return f"{qname} {qtype}\n  kubernetes: {one}\n  headwater:  {two}"

    @staticmethod
    def _ask(server: CoreDNS, query: dns.message.Message, *, udp: bool) -> Message:
        ask = dns.query.udp if udp else dns.query.tcp
        reply = ask(query, "127.0.0.1", port=server.port, timeout=5.0)
        assert query.is_response(reply)

        def section(rrsets: list[Any]) -> tuple[str, ...]:
            return tuple(
                sorted(
                    f"{rrset.name} {rrset.ttl} {dns.rdatatype.to_text(rrset.rdtype)} "
                    f"{'' if rrset.rdtype == dns.rdatatype.SOA else item}".lower()
                    for rrset in rrsets
                    for item in rrset
                )
            )

        sections = (section(reply.answer), section(reply.authority), section(reply.additional))
        return dns.rcode.to_text(reply.rcode()), int(reply.flags), *sections


@pytest.fixture(scope="module", params=["insecure", "disabled"])
def pair(plane: Plane, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Pair]:
    folder: Path = tmp_path_factory.mktemp("against")
    for name in ("headwater", "oracle", "ours"):
        (folder / name).mkdir()
    corefile = (
        f"{ZONE}:53 {{\n    errors\n    kubernetes {ZONE} {{\n        kubeconfig {plane.kubeconfig}\n"
        f"        pods {request.param}\n    }}\n}}\n"
    )
    with (
        Headwater(folder / "headwater", "--kubeconfig", str(plane.kubeconfig), "--pods", request.param) as headwater,
        CoreDNS(folder / "oracle", corefile) as oracle,
        CoreDNS(folder / "ours", headwater.grpc_corefile_stanza()) as ours,
    ):
        yield Pair(oracle, ours)


def generate(seed: int, namespace: str) -> Objects:
    """Services with and without cluster IPs, and slices of every kind that a cluster may hold."""
    chance = random.Random(seed)
    objects: Objects = {}
    for number in range(8):
        name = chance.choice([f"web-{number}", "s" * 62 + str(number), f"db{number}"])
        headless = chance.random() < 0.65
        ports = [
            {"name": port, "port": 1000 + index, "protocol": protocol}
            for index, (port, protocol) in enumerate(
                chance.sample(
                    [("http", "TCP"), ("dns", "UDP"), ("dns-tcp", "TCP"), ("metrics", "TCP")], chance.randrange(1, 4)
                )
            )
        ]
        if len(ports) == 1 and chance.random() < 0.5:
            del ports[0]["name"]
        spec: dict[str, Any] = {"ports": ports}
        if headless:
            spec["clusterIP"] = "None"
            if chance.random() < 0.2:
                del spec["ports"]
        objects["Service", name] = {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec,
        }  # fmt: skip
        for piece in range(chance.randrange(0, 4)):
            objects["EndpointSlice", f"{name[:50]}-{piece}"] = slice_of(chance, namespace, name, f"{name[:50]}-{piece}")
    objects["EndpointSlice", "orphan"] = slice_of(chance, namespace, "not-there", "orphan")
    return objects


def slice_of(chance: random.Random, namespace: str, service: str, name: str) -> dict[str, Any]:
    """A slice with endpoints of all conditions; addresses and hostnames come twice now and then."""
    six = chance.random() < 0.2
    endpoints = []
    for _ in range(chance.randrange(0, 6)):
        number = chance.randrange(1, 30)
        endpoint: dict[str, Any] = {"addresses": [f"fd00::{number:x}" if six else f"10.77.0.{number}"]}
        if chance.random() < 0.5:
            endpoint["hostname"] = f"h{chance.randrange(5)}"
        ready = chance.choice([True, True, False, None])
        if ready is not None:
            endpoint["conditions"] = {"ready": ready, "serving": chance.random() < 0.5, "terminating": not ready}
        endpoints.append(endpoint)
    ports = [
        {"name": port, "port": chance.choice([8080, 9090, 53]), "protocol": protocol}
        for port, protocol in chance.sample(SLICE_PORTS, chance.randrange(0, 3))
    ]
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv6" if six else "IPv4",
        "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "endpoints": endpoints, "ports": ports,
    }  # fmt: skip


def mutate(seed: int, namespace: str, objects: Objects) -> tuple[Objects, list[tuple[str, str]]]:
    """Some slices as they are a moment later, and what was deleted."""
    chance = random.Random(seed)
    after, gone = dict(objects), []
    for key, item in objects.items():
        dice = chance.random()
        if key[0] == "EndpointSlice" and dice < 0.5:
            service = item["metadata"]["labels"]["kubernetes.io/service-name"]
            changed = slice_of(chance, namespace, service, key[1])
            after[key] = {**changed, "addressType": item["addressType"]}
            if changed["addressType"] != item["addressType"]:
                after[key]["endpoints"] = []
        elif dice > 0.85:
            del after[key]
            gone.append(key)
    return after, gone


def names_of(namespace: str, objects: Objects) -> list[str]:
    """Every name that follows from the objects, and neighbours: a label more, one less, another case."""
    found: dict[str, None] = {}
    fixed = (
        *(
            "",
            "svc",
            "pod",
            "dns",
            "dns-version",
            "nothing",
            "a.b.c",
            "nowhere.svc",
            "x.nowhere.svc",
            "1-2-3-4.nowhere.pod",
        ),
        *(f"{namespace}.svc", f"{namespace}.pod", f"nothing.{namespace}.svc", f"web.{namespace}.pod"),
        *("1-2-3-4.nowhere.pod", f"1-2-3-4.{namespace}.pod", f"fd00--1.{namespace}.pod"),
    )
    for name in (f"{relative}.{ZONE}".lstrip(".") for relative in fixed):
        found[name] = None
    for (kind, name), item in objects.items():
        service = name if kind == "Service" else item["metadata"]["labels"]["kubernetes.io/service-name"]
        base = f"{service}.{namespace}.svc.{ZONE}"
        found.update(dict.fromkeys((base, base.upper(), f"x.{base}", f"a.b.{base}", f"a.b.c.{base}", f"_tcp.{base}")))
        for port in (item.get("spec") or item).get("ports") or ():
            for prefix in ("_", ""):
                label = f"{prefix}{port.get('name') or 'none'}"
                protocol = f"{prefix}{port['protocol'].lower()}"
                found.update(dict.fromkeys((f"{label}.{protocol}.{base}", f"{label}._sctp.{base}")))
        for endpoint in item.get("endpoints") or ():
            dashed = endpoint["addresses"][0].replace(".", "-").replace(":", "-")
            for label in filter(None, (endpoint.get("hostname"), dashed)):
                found[f"{label}.{base}"] = None
            found[f"{dashed}.{namespace}.pod.{ZONE}"] = None
    return list(found)


def compare(pair: Pair, names: list[str]) -> list[str]:
    """Every difference, over TCP; over UDP with and without EDNS for a part of the names."""
    # The oracle listens on loopback only here, and so has no name server to name.
    found = [pair.difference(qname, qtype) for qname in names for qtype in TYPES if (qname, qtype) != (ZONE, "NS")]
    for qname in names[::7]:
        for qtype in ("A", "SRV"):
            found += [pair.difference(qname, qtype, udp=True, edns=edns) for edns in (True, False)]
    return [text for text in found if text]


def apply(plane: Plane, objects: Objects) -> None:
    plane.apply(yaml.safe_dump_all(objects.values()))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.timeout(180)
def test_a_generated_namespace_answers_as_in_coredns(plane: Plane, pair: Pair, namespace: str, seed: int) -> None:
    objects = generate(seed, namespace)
    apply(plane, objects)
    names = names_of(namespace, objects)
    watched = [name for name in names if name.endswith(f".{namespace}.svc.{ZONE}")]
    settle(pair, watched)
    assert not (differences := compare(pair, names)), "\n".join(differences[:20])
    after, gone = mutate(seed, namespace, objects)
    apply(plane, after)
    for kind, name in gone:
        plane.kubectl("delete", kind.lower(), name, "-n", namespace, "--wait=false")
    names = list(dict.fromkeys([*names, *names_of(namespace, after)]))
    settle(pair, [name for name in names if name.endswith(f".{namespace}.svc.{ZONE}")])
    assert not (differences := compare(pair, names)), "\n".join(differences[:20])
    assert pair.asked > 1000


def settle(pair: Pair, names: list[str]) -> None:
    """Wait until both say the same of these names, or until they had time enough to."""

    def same() -> bool:
        return not any(pair.difference(name, qtype) for name in names for qtype in ("A", "AAAA"))

    try:
        wait_until(same, SETTLED, "both servers have seen the change")
    except TimeoutError:
        pass  # then the comparison says what is left
