"""NS and ns.dns.Z: the DNS Service's addresses when this host is an endpoint of
one (plugin/kubernetes/ns.go).
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import dns.message
import psutil
import pytest
from headwater.cluster.changes import Change
from headwater.cluster.objects import Namespace, Object
from headwater.records import limits
from headwater.writer import host

from tests.harness.small import (
    NOT_READY,
    Small,
    at,
    cluster_ip,
    glue,
    headless,
    remove,
    settings,
    slice_of,
    upsert,
)

ZONE = "cluster.local"
DNS = "dns.kube-system.svc.cluster.local"
HOST = ("10.0.0.53", "fd00::53")
SYSTEM = "kube-system"


@pytest.fixture
def world(tmp_path: Path) -> Small:
    return Small(tmp_path, name_servers=HOST)


def servers(world: Small, zone: str = ZONE) -> set[str]:
    """Return the targets of the zone's NS records, each of which must have glue."""
    reply = world.ask(zone, "NS")
    found = {item.to_text() for rrset in reply.answer for item in rrset}
    assert {f"{owner}." for owner, _ in glue(reply)} == found
    assert {rrset.ttl for rrset in (*reply.answer, *reply.additional)} <= {world.settings.ttl}
    return found


def addresses(world: Small, zone: str = ZONE) -> set[str]:
    """Return the addresses of ns.dns.Z, which must equal the glue."""
    name = f"ns.dns.{zone}"
    found = world.answers(name) | world.answers(name, "AAAA")
    assert {address for _, address in glue(world.ask(zone, "NS"))} == found
    return found


@pytest.mark.parametrize("host", [("10.0.0.53",), ("fd00::53",), HOST, ("10.0.0.53", "10.0.0.54")])
def test_without_a_dns_service_it_is_this_host(tmp_path: Path, host: tuple[str, ...]) -> None:
    world = Small(tmp_path, name_servers=host).fill(cluster_ip("dns", "172.16.0.10", namespace=SYSTEM))
    assert servers(world) == {f"ns.dns.{ZONE}."}
    assert addresses(world) == set(host)


def test_a_host_without_an_address_has_no_name_server(tmp_path: Path) -> None:
    world = Small(tmp_path).fill()
    assert world.status(ZONE, "NS") == world.status(f"ns.dns.{ZONE}") == "NODATA"
    assert world.answers(ZONE, "SOA"), "the zone is there all the same"


def test_a_dns_service_with_cluster_ips_is_the_name_server(world: Small) -> None:
    world.fill(
        cluster_ip("dns", "172.16.0.10", "fd00::10", namespace=SYSTEM),
        slice_of("dns", at("10.0.0.52"), at("10.0.0.53"), namespace=SYSTEM),
        namespaces=[SYSTEM],
    )
    assert servers(world) == {f"{DNS}."}
    assert addresses(world) == {"172.16.0.10", "fd00::10"}
    assert world.answers(DNS) == {"172.16.0.10"}, "the target is a name with that address"


def test_a_headless_dns_service_is_all_endpoints_of_the_hosts_slice(world: Small) -> None:
    """CoreDNS reads only the slice that has its address, without the endpoints of others."""
    world.fill(
        headless("dns", SYSTEM),
        slice_of("dns", at("10.0.0.53", hostname="dns-0"), at("10.0.0.54"), at("10.0.0.55", conditions=NOT_READY),
                 namespace=SYSTEM, name="here"),
        slice_of("dns", at("10.0.9.53", hostname="dns-9"), namespace=SYSTEM, name="there"),
        namespaces=[SYSTEM],
    )  # fmt: skip
    assert servers(world) == {f"dns-0.{DNS}.", f"10-0-0-54.{DNS}."}
    assert addresses(world) == {"10.0.0.53", "10.0.0.54"}
    assert world.answers(f"dns-0.{DNS}") == {"10.0.0.53"}


def test_both_families_of_a_headless_dns_service_are_said(world: Small) -> None:
    world.fill(
        headless("dns", SYSTEM),
        slice_of("dns", at("10.0.0.53", hostname="h"), namespace=SYSTEM, name="four"),
        slice_of("dns", at("fd00::53", hostname="h"), namespace=SYSTEM, name="six"),
        namespaces=[SYSTEM],
    )
    reply = world.ask(ZONE, "NS")
    assert [item.to_text() for item in reply.answer[0]] == [f"h.{DNS}."]
    assert glue(reply) == {(f"h.{DNS}", "10.0.0.53"), (f"h.{DNS}", "fd00::53")}


def test_several_dns_services_are_all_said(world: Small) -> None:
    world.fill(
        cluster_ip("dns", "172.16.0.10", namespace=SYSTEM),
        cluster_ip("other", "172.16.0.11"),
        slice_of("dns", at("10.0.0.53"), namespace=SYSTEM),
        slice_of("other", at("fd00::53")),
        namespaces=[SYSTEM, "default"],
    )
    assert servers(world) == {f"{DNS}.", f"other.default.svc.{ZONE}."}
    assert addresses(world) == {"172.16.0.10", "172.16.0.11"}


def test_two_slices_of_the_host_say_the_service_once(world: Small) -> None:
    world.fill(
        cluster_ip("dns", "172.16.0.10", namespace=SYSTEM),
        slice_of("dns", at("10.0.0.53"), namespace=SYSTEM, name="four"),
        slice_of("dns", at("fd00::53"), namespace=SYSTEM, name="six"),
        namespaces=[SYSTEM],
    )
    reply = world.ask(ZONE, "NS")
    assert (len(reply.answer[0]), [len(rrset) for rrset in reply.additional]) == (1, [1])
    assert len(world.ask(f"ns.dns.{ZONE}").answer[0]) == 1


def test_what_the_hosts_slice_has_not_is_not_said(world: Small) -> None:
    """A slice without a Service, an endpoint that is not ready, or
    another host's: no DNS Service.
    """
    world.fill(
        cluster_ip("dns", "172.16.0.10", namespace=SYSTEM),
        slice_of("", at("10.0.0.53"), namespace=SYSTEM, name="nobodys"),
        slice_of("dns", at("10.0.0.53", conditions=NOT_READY), at("10.0.0.54"), namespace=SYSTEM, name="waiting"),
        namespaces=[SYSTEM],
    )
    assert servers(world) == {f"ns.dns.{ZONE}."}
    assert addresses(world) == set(HOST)


@pytest.mark.parametrize("gone", ["slice", "endpoint", "ready", "label"])
def test_when_the_host_is_no_endpoint_any_more_it_is_the_host_again(world: Small, gone: str) -> None:
    here = slice_of("dns", at("10.0.0.53"), at("10.0.0.54"), namespace=SYSTEM)
    world.fill(cluster_ip("dns", "172.16.0.10", namespace=SYSTEM), here, namespaces=[SYSTEM])
    before = world.records()
    changes: dict[str, Change] = {
        "slice": remove(here),
        "endpoint": upsert(slice_of("dns", at("10.0.0.54"), namespace=SYSTEM)),
        "ready": upsert(slice_of("dns", at("10.0.0.53", conditions=NOT_READY), namespace=SYSTEM)),
        "label": upsert(slice_of("", at("10.0.0.53"), namespace=SYSTEM, name="dns-1")),
    }
    world.commit(changes[gone])
    assert servers(world) == {f"ns.dns.{ZONE}."}
    assert addresses(world) == set(HOST)
    world.commit(upsert(here))
    assert world.records() == before


def test_a_dns_service_that_vanishes_leaves_no_name_server_and_returns(world: Small) -> None:
    """The host is still an endpoint of it; CoreDNS has no other address then either."""
    service = cluster_ip("dns", "172.16.0.10", namespace=SYSTEM)
    world.fill(service, slice_of("dns", at("10.0.0.53"), namespace=SYSTEM), namespaces=[SYSTEM])
    before = world.records()
    world.commit(remove(service))
    assert world.status(ZONE, "NS") == world.status(f"ns.dns.{ZONE}") == "NODATA"
    world.commit(upsert(service))
    assert world.records() == before


def test_a_dns_service_that_changes_changes_the_name_servers(world: Small) -> None:
    world.fill(
        cluster_ip("dns", "172.16.0.10", namespace=SYSTEM),
        slice_of("dns", at("10.0.0.53", hostname="h"), namespace=SYSTEM),
        namespaces=[SYSTEM],
    )
    world.commit(upsert(cluster_ip("dns", "172.16.0.11", namespace=SYSTEM)))
    assert (servers(world), addresses(world)) == ({f"{DNS}."}, {"172.16.0.11"})
    world.commit(upsert(headless("dns", SYSTEM)))
    assert (servers(world), addresses(world)) == ({f"h.{DNS}."}, {"10.0.0.53"})
    world.commit(upsert(slice_of("dns", at("10.0.0.53", hostname="i"), at("10.0.0.57"), namespace=SYSTEM)))
    assert servers(world) == {f"i.{DNS}.", f"10-0-0-57.{DNS}."}
    world.commit(upsert(slice_of("other", at("10.0.0.53", hostname="i"), namespace=SYSTEM, name="dns-1")))
    assert world.status(ZONE, "NS") == "NODATA"
    world.commit(upsert(cluster_ip("other", "172.16.0.12", namespace=SYSTEM)))
    assert addresses(world) == {"172.16.0.12"}


def test_a_change_elsewhere_does_not_touch_the_zones_names(world: Small) -> None:
    world.fill(
        cluster_ip("dns", "172.16.0.10", namespace=SYSTEM), slice_of("dns", at("10.0.0.53"), namespace=SYSTEM),
        headless("web"), namespaces=[SYSTEM, "default"],
    )  # fmt: skip
    outcome = world.commit(upsert(slice_of("web", at("10.0.0.1", hostname="h"))))
    assert outcome.records_changed == 4  # the Service, its port, the protocol, the endpoint


def test_it_is_kept_over_a_restart(world: Small) -> None:
    world.fill(
        cluster_ip("dns", "172.16.0.10", namespace=SYSTEM), slice_of("dns", at("10.0.0.53"), namespace=SYSTEM),
        namespaces=[SYSTEM],
    )  # fmt: skip
    again = Small(world.state_dir, name_servers=HOST)
    assert addresses(again) == {"172.16.0.10"}
    again.commit(upsert(slice_of("dns", at("10.0.0.54"), namespace=SYSTEM)))
    assert addresses(again) == set(HOST)


def test_the_namespace_of_the_dns_service_need_not_be_served(tmp_path: Path) -> None:
    """CoreDNS finds its own Service whatever `namespaces` says."""
    world = Small(tmp_path, settings(namespaces=("default",)), name_servers=HOST)
    world.fill(
        cluster_ip("dns", "172.16.0.10", namespace=SYSTEM), slice_of("dns", at("10.0.0.53"), namespace=SYSTEM),
        namespaces=[SYSTEM, "default"],
    )  # fmt: skip
    assert servers(world) == {f"{DNS}."}
    assert world.status(DNS) == "NXDOMAIN"


def test_every_zone_has_the_name_server_in_itself(tmp_path: Path) -> None:
    zones = settings(
        zones=(ZONE, "k8s.example.org"), multicluster_zones=("m.test",), reverse_zones=("10.in-addr.arpa",)
    )
    world = Small(tmp_path, zones, name_servers=HOST)
    world.fill(
        cluster_ip("dns", "172.16.0.10", namespace=SYSTEM), slice_of("dns", at("10.0.0.53"), namespace=SYSTEM),
        namespaces=[SYSTEM],
    )  # fmt: skip
    for zone in world.settings.served_zones():
        assert servers(world, zone) == {f"dns.{SYSTEM}.svc.{zone}."}
        assert addresses(world, zone) == {"172.16.0.10"}


def test_endpoint_pod_names_name_the_name_servers(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(endpoint_pod_names=True), name_servers=HOST)
    world.fill(
        headless("dns", SYSTEM), slice_of("dns", at("10.0.0.53", pod="dns-x"), namespace=SYSTEM), namespaces=[SYSTEM]
    )
    assert servers(world) == {f"dns-x.{DNS}."}


def test_a_name_server_too_long_for_dns_is_left_out(tmp_path: Path) -> None:
    zone = ".".join(["z" * 60] * 3)
    world = Small(tmp_path, settings(zones=(zone,)), name_servers=HOST)
    world.fill(
        headless("d" * 30, SYSTEM),
        slice_of("d" * 30, at("10.0.0.53", hostname="h" * 40), at("10.0.0.54", hostname="h"), namespace=SYSTEM),
        namespaces=[SYSTEM],
    )
    assert servers(world, zone) == {f"h.{'d' * 30}.{SYSTEM}.svc.{zone}."}


def test_a_namespace_that_goes_takes_the_names_and_leaves_the_name_server(world: Small) -> None:
    """As in CoreDNS, which ignores the namespace here."""
    world.fill(
        cluster_ip("dns", "172.16.0.10", namespace=SYSTEM), slice_of("dns", at("10.0.0.53"), namespace=SYSTEM),
        namespaces=[SYSTEM],
    )  # fmt: skip
    world.commit(remove(Namespace(SYSTEM)))
    assert world.status(DNS) == "NXDOMAIN"
    assert addresses(world) == {"172.16.0.10"}


@pytest.mark.parametrize("qtype", ["A", "AAAA", "TXT", "MX", "ANY"])
def test_the_apex_has_no_addresses(world: Small, qtype: str) -> None:
    world.fill(
        cluster_ip("dns", "172.16.0.10", "fd00::10", namespace=SYSTEM),
        slice_of("dns", at("10.0.0.53"), namespace=SYSTEM), namespaces=[SYSTEM],
    )  # fmt: skip
    assert world.status(ZONE, qtype) == "NODATA"


def test_ns_is_the_apexs_alone(world: Small) -> None:
    world.fill(cluster_ip("dns", "172.16.0.10", namespace=SYSTEM), namespaces=[SYSTEM])
    assert world.status(DNS, "NS") == world.status(f"ns.dns.{ZONE}", "NS") == "NODATA"
    assert world.status(f"ghost.{ZONE}", "NS") == "NXDOMAIN"


@pytest.mark.parametrize("count", [394, 395, 396, 5_000])
@pytest.mark.parametrize("family", [4, 6])
def test_as_many_name_servers_as_every_reply_holds(tmp_path: Path, count: int, family: int) -> None:
    """The host is among the endpoints of a headless Service: each is a name server, with glue."""
    first, namespace = ip_address("10.9.0.1" if family == 4 else "fd09::1"), "dns-system"
    texts = [str(first + i) for i in range(count)]
    members = [at(text, hostname=f"coredns-of-node-in-the-cluster-{i:05}") for i, text in enumerate(texts)]
    world = Small(tmp_path, name_servers=(texts[0],)).fill(
        headless("dns", namespace), slice_of("dns", *members, namespace=namespace), namespaces=[namespace]
    )
    name = len(b"\x24coredns-of-node-in-the-cluster-00000\x03dns\x0adns-system\x03svc\x07cluster\x05local\0")
    each = 12 + name + name + 10 + (4 if family == 4 else 16)
    room = 65_535 - 12 - 4 - len(b"\x07cluster\x05local\0") - 11
    for edns in (False, True):
        query = dns.message.make_query(ZONE, "NS", use_edns=0 if edns else None)
        (wire,) = world.ask_wire(query.to_wire())
        assert wire is not None
        assert len(wire) <= 65_535
        reply = dns.message.from_wire(wire)
        targets = {item.to_text().rstrip(".") for item in reply.answer[0]}
        assert {owner for owner, _ in glue(reply)} == targets, "each has its address"
        assert len(targets) == min(count, room // each)
    assert len(world.answers(f"ns.dns.{ZONE}", "A" if family == 4 else "AAAA")) == min(count, room // each)


def test_which_name_servers_are_left_out_does_not_change(tmp_path: Path) -> None:
    members = [at(f"10.{i >> 8}.{i & 255}.7") for i in range(1, 1_500)]
    one, other = (Small(tmp_path / name, name_servers=("10.0.1.7",)) for name in "ab")
    for world in (one, other):
        world.fill(headless("dns", SYSTEM), slice_of("dns", *members, namespace=SYSTEM), namespaces=[SYSTEM])
    other.commit(upsert(headless("other", SYSTEM)), upsert(slice_of("dns", *members[:-1], namespace=SYSTEM)))
    assert servers(one) == servers(other)


def test_who_claims_this_host_many_times_is_heard_some_times(world: Small) -> None:
    """Each change reads all such slices; one tenant must not make
    that slow, nor keep others out.
    """
    claims: list[Object] = []
    for number in range(20):
        name = f"claim-{number:02}"
        claims += headless(name, "a-tenant"), slice_of(name, at("10.0.0.53", hostname="h"), namespace="a-tenant")
    service = cluster_ip("dns", "172.16.0.10", namespace=SYSTEM)
    world.fill(*claims, service, slice_of("dns", at("10.0.0.53"), namespace=SYSTEM), namespaces=["a-tenant", SYSTEM])
    found = servers(world)
    assert f"{DNS}." in found
    assert len(found) == 1 + limits.HOST_SLICES_OF_A_NAMESPACE


@pytest.mark.parametrize("address", ["fe80::3c1f:abff:fe12:3456", "169.254.20.10", "febf::1"])
def test_a_link_local_address_is_no_name_servers(tmp_path: Path, address: str) -> None:
    world = Small(tmp_path, name_servers=(address, "10.0.0.53", "fd00::53")).fill()
    assert addresses(world) == {"10.0.0.53", "fd00::53"}
    assert servers(world) == {f"ns.dns.{ZONE}."}


def test_a_host_with_nothing_but_link_local_addresses_has_no_name_server(tmp_path: Path) -> None:
    world = Small(tmp_path, name_servers=("fe80::1", "169.254.1.1")).fill()
    assert world.status(ZONE, "NS") == world.status(f"ns.dns.{ZONE}", "AAAA") == "NODATA"


def message(kind: int, family: int = 0, attributes: tuple[tuple[int, bytes], ...] = ()) -> bytes:
    """Make a message of rtnetlink: header, ifaddrmsg, attributes, each at a multiple of four."""
    body = struct.pack("=BBBBI", family, 0, 0, 0, 1)
    for number, value in attributes:
        body += struct.pack("=HH", 4 + len(value), number) + value + b"\0" * (-len(value) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


ADDRESS, LOCAL, LABEL = 1, 2, 3
NEW, DONE, FAILED = 20, 3, 2


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the kernel answer with these pieces, and with nothing after them."""

    def answer(*pieces: bytes) -> None:
        monkeypatch.setattr(host, "_dump", lambda: iter(pieces))

    return answer


def test_this_hosts_addresses_are_those_that_others_can_reach(kernel: Callable[..., None]) -> None:
    kernel(
        message(NEW, socket.AF_INET, ((ADDRESS, packed("127.0.0.1")), (LABEL, b"lo\0")))
        + message(
            NEW, socket.AF_INET, ((LABEL, b"eth0\0"), (LOCAL, packed("10.0.0.53")), (ADDRESS, packed("10.0.0.1")))
        )
        + message(NEW, socket.AF_INET, ((ADDRESS, packed("169.254.20.10")),)),
        message(NEW, socket.AF_INET6, ((ADDRESS, packed("fe80::1")),))
        + message(NEW, socket.AF_INET6, ((ADDRESS, packed("fd00::53")),))
        + message(NEW, 7, ((ADDRESS, bytes(6)),))
        + message(NEW, socket.AF_INET)
        + message(DONE)
        + message(NEW, socket.AF_INET, ((ADDRESS, packed("10.9.9.9")),)),
        message(NEW, socket.AF_INET, ((ADDRESS, packed("10.9.9.8")),)),
    )
    assert host.of_this_host() == ["10.0.0.53", "fd00::53"]


def test_a_kernel_that_refuses_is_an_error_and_not_a_host_without_addresses(kernel: Callable[..., None]) -> None:
    kernel(message(FAILED))
    with pytest.raises(OSError, match="does not tell"):
        host.of_this_host()


def test_the_real_kernel_says_what_another_library_says() -> None:
    theirs = {
        str(ipaddress.ip_address(entry.address.partition("%")[0]))
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    }
    seen = {str(address) for address in host._addresses(host._dump())}
    assert seen == theirs
