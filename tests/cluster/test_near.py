"""Answers by the client's place, end to end: hints of the real slice controller, real CoreDNS.

Clients in three zones ask from loopback addresses: 127.0.1.1 is in zone-a, 127.0.2.1 in zone-b,
127.0.3.1 in zone-c.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import dns.message
import dns.query
import dns.rdatatype
import pytest
from headwater.commands.corefile import cidrs_of, stanza, stanzas_by_zone
from headwater.settings.settings import Settings

from tests.harness.instance import Headwater
from tests.harness.plane import ZONE_OF_NODE
from tests.harness.processes import CoreDNS, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.plane import Plane

pytestmark = pytest.mark.coredns

SETTLE: Final = 60.0  # seconds: for controllers on a busy machine
CLIENTS: Final = {"zone-a": "127.0.1.1", "zone-b": "127.0.2.1", "zone-c": "127.0.3.1"}
CIDRS: Final = {zone: f"{address[:-1]}0/24" for zone, address in CLIENTS.items()}
STRANGER: Final = "127.0.0.1"
NODE_OF_ZONE: Final = {zone: node for node, zone in ZONE_OF_NODE.items()}
MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"


def service(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}], **spec},
    }  # fmt: skip


def pod(name: str, node: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {
            "nodeName": node, "hostname": name, "subdomain": "web",
            "containers": [{"name": "web", "image": "nginx:alpine"}],
        },
    }  # fmt: skip


class Asked:
    """The Service `web` of a namespace, asked by clients in every zone."""

    def __init__(self, plane: Plane, namespace: str, coredns: CoreDNS) -> None:
        self.plane, self.namespace, self.coredns = plane, namespace, coredns
        self.name = f"web.{namespace}.svc.cluster.local"
        self.path = f"/api/v1/namespaces/{namespace}"

    def ask(self, client: str, name: str = "", qtype: str = "A", *, edns: bool = False) -> dns.message.Message:
        query = dns.message.make_query(name or self.name, qtype, use_edns=0 if edns else None)
        return dns.query.udp(query, "127.0.0.1", 5.0, self.coredns.port, source=client)

    def records(self, client: str, name: str = "", qtype: str = "A") -> set[str]:
        wanted = dns.rdatatype.from_text(qtype)
        return {
            item.to_text() for rrset in self.ask(client, name, qtype).answer if rrset.rdtype == wanted for item in rrset
        }

    def start(self, name: str, node: str) -> None:
        self.plane.api("POST", f"{self.path}/pods", pod(name, node))

    def addresses(self) -> dict[str, str]:
        """The addresses of the pods that run, by name."""
        pods = self.plane.api("GET", f"{self.path}/pods")["items"]
        return {
            item["metadata"]["name"]: item["status"]["podIP"]
            for item in pods
            if "podIP" in item["status"] and "deletionTimestamp" not in item["metadata"]
        }

    def get_each(self, **expected: set[str]) -> None:
        """Wait until the client in each zone gets the addresses of these pods."""

        def follows() -> bool:
            known = self.addresses()
            for zone, names in expected.items():
                client = CLIENTS.get(zone.replace("_", "-"), STRANGER)
                assert self.records(client) == {known[name] for name in names}, zone
                targets = {f"0 {100 // len(names)} 80 {name}.{self.name}." for name in names}
                assert self.records(client, f"_http._tcp.{self.name}", "SRV") == targets, zone
            return True

        wait_until(follows, SETTLE, f"answers are {expected}", ignoring=(KeyError,))


def flags(plane: Plane, sockets: Path) -> dict[str, list[str]]:
    cidrs = [text for zone, cidr in CIDRS.items() for text in ("--zone-cidr", f"{zone}={cidr}")]
    zones = [text for zone in CIDRS for text in ("--listen-zone", f"{zone}=unix:{sockets}/{zone}.sock")]
    common = ["--kubeconfig", str(plane.kubeconfig)]
    return {"socket": [*common, *zones, *cidrs], "option": [*common, "--client-option", "65518", *cidrs]}


def corefile_of(settings: Settings) -> str:
    if settings.listen_zones:
        text = stanzas_by_zone(settings, cidrs_of(settings))
        assert text.count("    errors\n") == 4
        return text.replace("    errors\n", "    errors\n    cache {\n        success 9984 30 0\n    }\n")
    return stanza(settings)


@pytest.fixture(params=["socket", "option"])
def asked(plane: Plane, namespace: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Asked]:
    """By socket each zone's block of CoreDNS has a cache of its own, and TTLs are 0."""
    with tempfile.TemporaryDirectory(prefix="hw-") as sockets:
        arguments = flags(plane, Path(sockets))[request.param]
        with (
            Headwater(tmp_path, *arguments, "--ttl", "0") as headwater,
            CoreDNS(tmp_path, corefile_of(headwater.settings)) as coredns,
        ):
            yield Asked(plane, namespace, coredns)


def test_clients_get_their_zones_members_and_every_change_follows(asked: Asked) -> None:
    """A pod that moves, a zone that is emptied, a wish that is withdrawn."""
    plane = asked.plane
    plane.api("POST", f"{asked.path}/services", service(trafficDistribution="PreferSameZone"))
    for name, zone in (("a-0", "zone-a"), ("b-0", "zone-b"), ("c-0", "zone-c"), ("c-1", "zone-c")):
        asked.start(name, NODE_OF_ZONE[zone])
    every = {"a-0", "b-0", "c-0", "c-1"}
    asked.get_each(zone_a={"a-0"}, zone_b={"b-0"}, zone_c={"c-0", "c-1"}, stranger=every)
    known = asked.addresses()
    assert asked.records(CLIENTS["zone-a"], f"b-0.{asked.name}") == {known["b-0"]}, "HOST names never change"

    # c-1 moves to zone-a.
    plane.api("DELETE", f"{asked.path}/pods/c-1?gracePeriodSeconds=0")
    asked.start("a-1", NODE_OF_ZONE["zone-a"])
    asked.get_each(zone_a={"a-0", "a-1"}, zone_b={"b-0"}, zone_c={"c-0"})

    # zone-b is emptied: its clients get all.
    plane.api("DELETE", f"{asked.path}/pods/b-0?gracePeriodSeconds=0")
    asked.get_each(zone_a={"a-0", "a-1"}, zone_b={"a-0", "a-1", "c-0"}, zone_c={"c-0"})

    # pinned, it is NODATA; and all when the owner does not ask for anything any more.
    annotations: dict[str, Any] = {"metadata": {"annotations": {"headwater.dev/zone": "pin"}}}
    plane.api("PATCH", f"{asked.path}/services/web", annotations, content_type=MERGE)

    def pinned() -> bool:
        reply = asked.ask(CLIENTS["zone-b"])
        return not reply.answer and reply.rcode() == 0 and bool(reply.authority)

    wait_until(pinned, SETTLE, "an empty zone that is pinned to is NODATA")
    asked.get_each(zone_c={"c-0"}, stranger={"a-0", "a-1", "c-0"})
    nothing = {"metadata": {"annotations": None}, "spec": {"trafficDistribution": None}}
    plane.api("PATCH", f"{asked.path}/services/web", nothing, content_type=MERGE)
    left = {"a-0", "a-1", "c-0"}
    asked.get_each(zone_a=left, zone_b=left, zone_c=left, stranger=left)


@pytest.fixture
def client_nodes(plane: Plane) -> Iterator[dict[str, str]]:
    """Nodes that nothing is scheduled on. Two have clients' addresses by their podCIDRs, and one
    as an address of its own, because its pods get theirs from its podCIDR.
    """
    names = {f"clients-{zone}": zone for zone in CIDRS}
    cidrs = CIDRS | {"zone-a": "10.45.1.0/24"}
    for name, zone in names.items():
        labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
                "spec": {"unschedulable": True, "podCIDR": cidrs[zone], "podCIDRs": [cidrs[zone]]}}  # fmt: skip
        plane.api("POST", "/api/v1/nodes", node)

    def ready() -> bool:
        status = plane.api("GET", "/api/v1/nodes/clients-zone-a").get("status", {})
        return ("Ready", "True") in {(item["type"], item["status"]) for item in status.get("conditions", ())}

    wait_until(ready, SETTLE, "the clients' node is ready")
    external = {"status": {"addresses": [{"type": "ExternalIP", "address": CLIENTS["zone-a"]}]}}
    plane.api("PATCH", "/api/v1/nodes/clients-zone-a/status", external, content_type=STRATEGIC)
    yield cidrs
    for name in names:
        plane.api("DELETE", f"/api/v1/nodes/{name}")


def test_nodes_say_where_clients_are_and_who_is_on_the_same_one_comes_first(
    plane: Plane, namespace: str, client_nodes: dict[str, str], tmp_path: Path
) -> None:
    arguments = ("--kubeconfig", plane.kubeconfig, "--client-option", "65518", "--client-nodes", "--ttl", "0")
    with (
        Headwater(tmp_path, *arguments) as headwater,
        CoreDNS(tmp_path, corefile_of(headwater.settings)) as coredns,
    ):
        asked = Asked(plane, namespace, coredns)
        plane.api("POST", f"{asked.path}/services", service(trafficDistribution="PreferSameNode"))
        asked.start("a-0", NODE_OF_ZONE["zone-a"])
        asked.start("a-1", "clients-zone-a")
        asked.start("b-0", NODE_OF_ZONE["zone-b"])
        every = {"a-0", "a-1", "b-0"}
        asked.get_each(zone_a={"a-1"}, zone_b={"b-0"}, zone_c=every, stranger=every)
        # A node that moves to another zone takes its clients with it.
        labels = {"metadata": {"labels": {"topology.kubernetes.io/zone": "zone-b"}}}
        plane.api("PATCH", "/api/v1/nodes/clients-zone-c", labels, content_type=MERGE)
        asked.get_each(zone_c={"b-0"})
        found = cidrs_of(Settings(kubeconfig=str(plane.kubeconfig)))
        assert found == {"zone-a": [client_nodes["zone-a"]], "zone-b": [CIDRS["zone-b"], CIDRS["zone-c"]]}


def test_a_client_without_edns_gets_a_set_of_its_place_in_512_bytes_and_all_is_never_less(
    plane: Plane, namespace: str, tmp_path: Path
) -> None:
    """And a client with EDNS gets all of either, at its own size."""
    arguments = flags(plane, tmp_path)["option"]
    members = [
        {"addresses": [f"10.99.0.{at}"], "conditions": {"ready": True}, "zone": "zone-a",
         "hints": {"forZones": [{"name": "zone-a"}]}}
        for at in range(1, 61)
    ]  # fmt: skip
    with (
        Headwater(tmp_path, *arguments, "--ttl", "0") as headwater,
        CoreDNS(tmp_path, corefile_of(headwater.settings)) as coredns,
    ):
        asked = Asked(plane, namespace, coredns)
        chosen = service(trafficDistribution="PreferSameZone")
        del chosen["spec"]["selector"]
        plane.api("POST", f"{asked.path}/services", chosen)
        piece = {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": members,
            "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"name": "http", "port": 80}],
        }  # fmt: skip
        plane.api("POST", f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices", piece)
        wait_until(lambda: bool(asked.ask(STRANGER).answer), SETTLE, "the Service answers")
        plain = asked.ask(CLIENTS["zone-a"])
        assert len(plain.to_wire()) <= 512
        assert 20 < len(plain.answer[0]) < 60
        assert len(asked.ask(STRANGER).answer[0]) == 60
        assert len(asked.ask(CLIENTS["zone-a"], edns=True).answer[0]) == 60
