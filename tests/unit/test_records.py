"""The answer for each name: the table of docs/answers.md, from objects to replies."""

from __future__ import annotations

from pathlib import Path

import pytest
from headwater.cluster.objects import NO_PORT, Pod, Port
from headwater.settings.settings import Settings

from tests.harness.small import (
    HTTP,
    NOT_READY,
    Small,
    at,
    cluster_ip,
    glue,
    headless,
    remove,
    settings,
    slice_of,
)

ZONE = "cluster.local"
WEB = "web.default.svc.cluster.local"
API = "api.default.svc.cluster.local"


@pytest.fixture
def world(tmp_path: Path) -> Small:
    return Small(tmp_path, name_servers=("192.0.2.53", "2001:db8::53"))


@pytest.fixture
def stateful(world: Small) -> Small:
    """Add a StatefulSet's Service with two hostnames, and an endpoint without one."""
    return world.fill(
        headless("web"),
        slice_of("web", at("10.44.0.1", hostname="web-0"), at("10.44.0.2", hostname="web-1"), at("10.44.0.3")),
    )


def test_a_headless_service_answers_every_ready_endpoint(stateful: Small) -> None:
    assert stateful.answers(WEB) == {"10.44.0.1", "10.44.0.2", "10.44.0.3"}
    assert stateful.status(WEB, "AAAA") == "NODATA"


@pytest.mark.parametrize(
    ("qname", "address"),
    [("web-0." + WEB, "10.44.0.1"), ("WEB-1." + WEB, "10.44.0.2"), ("10-44-0-3." + WEB, "10.44.0.3")],
)
def test_an_endpoint_answers_by_hostname_or_dashed_address(stateful: Small, qname: str, address: str) -> None:
    assert stateful.answers(qname) == {address}


def test_an_endpoint_with_a_hostname_has_no_dashed_name(stateful: Small) -> None:
    assert stateful.status("10-44-0-1." + WEB) == "NXDOMAIN"


def test_a_headless_service_has_srv_with_glue_for_every_endpoint(stateful: Small) -> None:
    reply = stateful.ask("_http._tcp." + WEB, "SRV")
    assert {item.to_text() for item in reply.answer[0]} == {
        f"0 33 8080 {host}.{WEB}." for host in ("web-0", "web-1", "10-44-0-3")
    }
    assert glue(reply) == {
        (f"web-0.{WEB}", "10.44.0.1"),
        (f"web-1.{WEB}", "10.44.0.2"),
        (f"10-44-0-3.{WEB}", "10.44.0.3"),
    }


def test_an_endpoint_is_its_own_srv_target(stateful: Small) -> None:
    reply = stateful.ask("web-0." + WEB, "SRV")
    assert reply.answer[0].to_rdataset().to_text() == f"5 IN SRV 0 100 8080 web-0.{WEB}."
    assert glue(reply) == {("web-0." + WEB, "10.44.0.1")}


@pytest.mark.parametrize("qname", ["_http._tcp." + WEB, "http._tcp." + WEB, "_http.tcp." + WEB, "HTTP.tcp." + WEB])
def test_a_port_is_found_with_and_without_underscores(stateful: Small, qname: str) -> None:
    assert len(stateful.answers(qname, "SRV")) == 3
    assert stateful.answers(qname, "A") == {"10.44.0.1", "10.44.0.2", "10.44.0.3"}


@pytest.mark.parametrize("qname", ["_https._tcp." + WEB, "_http._udp." + WEB, "http." + WEB, "x._http._tcp." + WEB])
def test_another_port_is_nxdomain(stateful: Small, qname: str) -> None:
    assert stateful.status(qname, "SRV") == "NXDOMAIN"


@pytest.mark.parametrize(
    "qname", ["_tcp." + WEB, "default.svc.cluster.local", "svc.cluster.local", "pod.cluster.local", "dns.cluster.local"]
)
@pytest.mark.parametrize("qtype", ["A", "SRV", "TXT", "ANY"])
def test_an_empty_non_terminal_is_nodata(stateful: Small, qname: str, qtype: str) -> None:
    assert stateful.status(qname, qtype) == "NODATA"


@pytest.mark.parametrize(
    "qname",
    [
        "nothing.default.svc.cluster.local",
        "web.other.svc.cluster.local",
        "other.svc.cluster.local",
        "x.cluster.local",
        "a.b.c.d." + WEB,
    ],
)
@pytest.mark.parametrize("qtype", ["A", "AAAA", "SRV", "MX", "SOA", "TXT"])
def test_a_name_that_is_not_there_is_nxdomain_with_the_soa(stateful: Small, qname: str, qtype: str) -> None:
    assert stateful.status(qname, qtype) == "NXDOMAIN"


def test_a_headless_service_without_ready_endpoints_is_nxdomain(world: Small) -> None:
    world.fill(headless("web"), slice_of("web", at("10.44.0.1", conditions=NOT_READY)))
    assert world.status(WEB) == "NXDOMAIN"
    assert world.status("10-44-0-1." + WEB) == "NXDOMAIN"
    assert world.status("_tcp." + WEB) == "NXDOMAIN"


def test_slices_are_merged_and_addresses_are_said_once(world: Small) -> None:
    world.fill(
        headless("web"),
        slice_of("web", at("10.44.0.1"), at("10.44.0.2"), name="a"),
        slice_of("web", at("10.44.0.2"), at("10.44.0.3"), name="b"),
        slice_of("web", at("fd00::1"), name="c"),
    )
    assert len(world.ask(WEB).answer[0]) == 3
    assert world.answers(WEB, "AAAA") == {"fd00::1"}


def test_a_dual_stack_hostname_has_both_families_and_one_srv_record(world: Small) -> None:
    world.fill(
        headless("web"),
        slice_of("web", at("10.44.0.1", hostname="web-0"), name="four"),
        slice_of("web", at("fd00::1", hostname="web-0"), name="six"),
    )
    assert world.answers("web-0." + WEB) == {"10.44.0.1"}
    assert world.answers("web-0." + WEB, "AAAA") == {"fd00::1"}
    reply = world.ask(WEB, "SRV")
    # Two entries, hence weight 50, as CoreDNS counts; one target, hence one record.
    assert {item.to_text() for item in reply.answer[0]} == {f"0 50 8080 web-0.{WEB}."}
    assert glue(reply) == {("web-0." + WEB, "10.44.0.1"), ("web-0." + WEB, "fd00::1")}


def test_slices_with_other_ports_give_their_endpoints_those_ports(world: Small) -> None:
    world.fill(
        headless("web"),
        slice_of("web", at("10.44.0.1", hostname="a"), name="one", ports=[Port("http", "TCP", 8080)]),
        slice_of(
            "web", at("10.44.0.2", hostname="b"), name="two", ports=[Port("http", "TCP", 9090), Port("m", "UDP", 1)]
        ),
    )
    assert world.answers("_http._tcp." + WEB, "SRV") == {f"0 50 8080 a.{WEB}.", f"0 50 9090 b.{WEB}."}
    assert world.answers("_m._udp." + WEB, "SRV") == {f"0 100 1 b.{WEB}."}
    assert world.answers("_m._udp." + WEB, "A") == {"10.44.0.2"}
    assert world.answers("b." + WEB, "SRV") == {f"0 50 9090 b.{WEB}.", f"0 50 1 b.{WEB}."}
    assert world.answers(WEB, "SRV") == {f"0 33 8080 a.{WEB}.", f"0 33 9090 b.{WEB}.", f"0 33 1 b.{WEB}."}


def test_one_hostname_of_several_endpoints_answers_all_of_them(world: Small) -> None:
    world.fill(
        headless("web"),
        slice_of("web", at("10.44.0.1", hostname="x"), at("10.44.0.2", hostname="x"), name="one"),
        slice_of("web", at("10.44.0.3", hostname="x"), name="two", ports=[Port("other", "TCP", 1)]),
    )
    assert world.answers("x." + WEB) == {"10.44.0.1", "10.44.0.2", "10.44.0.3"}
    assert world.answers("x." + WEB, "SRV") == {f"0 33 8080 x.{WEB}.", f"0 33 1 x.{WEB}."}


@pytest.mark.parametrize("ports", [(), (Port("", "TCP", NO_PORT),)])
def test_endpoints_without_ports_have_addresses_and_no_srv(world: Small, ports: tuple[Port, ...]) -> None:
    world.fill(headless("web", ports=()), slice_of("web", at("10.44.0.1", hostname="web-0"), ports=ports))
    assert world.answers(WEB) == {"10.44.0.1"}
    assert world.answers("web-0." + WEB) == {"10.44.0.1"}
    assert world.status(WEB, "SRV") == "NODATA"
    assert world.status("web-0." + WEB, "SRV") == "NODATA"


def test_an_endpoint_without_a_port_number_weighs_but_has_no_srv_record_and_no_glue(world: Small) -> None:
    world.fill(
        headless("web"),
        slice_of("web", at("10.44.0.1", hostname="x"), name="bare", ports=()),
        slice_of("web", at("10.44.0.2", hostname="x"), name="http"),
    )
    for qname in (WEB, "x." + WEB):
        reply = world.ask(qname, "SRV")
        assert {item.to_text() for item in reply.answer[0]} == {f"0 50 8080 x.{WEB}."}
        assert glue(reply) == {("x." + WEB, "10.44.0.2")}
        assert world.answers(qname) == {"10.44.0.1", "10.44.0.2"}


def test_a_pods_name_is_its_own_srv_target(tmp_path: Path) -> None:
    for mode in ("insecure", "verified"):
        world = Small(tmp_path / mode, settings(pods=mode)).fill(Pod("default", "a", ("10.44.0.7",)))
        qname = "10-44-0-7.default.pod.cluster.local"
        reply = world.ask(qname, "SRV")
        assert {item.to_text() for item in reply.answer[0]} == {f"0 100 0 {qname}."}
        assert glue(reply) == {(qname, "10.44.0.7")}


def test_an_unnamed_port_is_in_the_services_srv_only(world: Small) -> None:
    world.fill(headless("web"), slice_of("web", at("10.44.0.1"), ports=[Port("", "TCP", 80)]))
    assert world.answers(WEB, "SRV") == {f"0 100 80 10-44-0-1.{WEB}."}
    assert world.status("_tcp." + WEB) == "NXDOMAIN"


def test_a_cluster_ip_service_answers_its_addresses(world: Small) -> None:
    world.fill(
        cluster_ip("api", "172.16.0.9", "fd00::9", ports=[Port("http", "TCP", 80), Port("dns", "UDP", 53)]),
        slice_of("api", at("10.44.0.1", hostname="api-0")),
    )
    assert world.answers(API) == {"172.16.0.9"}
    assert world.answers(API, "AAAA") == {"fd00::9"}
    # Two ports, two addresses: four entries.
    assert world.answers(API, "SRV") == {f"0 25 80 {API}.", f"0 25 53 {API}."}
    reply = world.ask("_dns._udp." + API, "SRV")
    assert {item.to_text() for item in reply.answer[0]} == {f"0 50 53 {API}."}
    assert glue(reply) == {(API, "172.16.0.9"), (API, "fd00::9")}
    assert world.answers("_dns._udp." + API) == {"172.16.0.9"}
    assert world.status("_udp." + API) == "NODATA"


def test_the_endpoints_of_a_cluster_ip_service_have_names(world: Small) -> None:
    world.fill(cluster_ip("api", "172.16.0.9"), slice_of("api", at("10.44.0.1", hostname="api-0"), at("10.44.0.2")))
    assert world.answers("api-0." + API) == {"10.44.0.1"}
    assert world.answers("10-44-0-2." + API) == {"10.44.0.2"}
    assert world.answers("api-0." + API, "SRV") == {f"0 100 8080 api-0.{API}."}


def test_a_cluster_ip_service_without_endpoints_still_answers(world: Small) -> None:
    assert world.fill(cluster_ip("api", "172.16.0.9")).answers(API) == {"172.16.0.9"}


def test_ignore_empty_service_hides_it(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(ignore_empty_service=True))
    world.fill(cluster_ip("api", "172.16.0.9"), cluster_ip("full", "172.16.0.8"), slice_of("full", at("10.44.0.1")))
    assert world.status(API) == "NXDOMAIN"
    assert world.answers("full.default.svc.cluster.local") == {"172.16.0.8"}


def test_a_slice_without_its_service_says_nothing(world: Small) -> None:
    world.fill(slice_of("web", at("10.44.0.1")))
    assert world.status(WEB) == "NXDOMAIN"


def test_a_service_in_a_namespace_that_is_not_there_says_nothing(world: Small) -> None:
    world.fill(headless("web"), slice_of("web", at("10.44.0.1")), namespaces=["other"])
    assert world.status(WEB) == "NXDOMAIN"
    assert world.status("default.svc.cluster.local") == "NXDOMAIN"


def test_the_namespace_filter_hides_other_namespaces(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(namespaces=("shown",)))
    world.fill(
        cluster_ip("api", "172.16.0.9", namespace="shown"),
        cluster_ip("api", "172.16.0.8"),
        namespaces=["shown", "default"],
    )
    assert world.answers("api.shown.svc.cluster.local") == {"172.16.0.9"}
    assert world.status(API) == "NXDOMAIN"
    assert world.status("default.svc.cluster.local") == "NXDOMAIN"


def test_endpoint_pod_names_name_endpoints_without_a_hostname(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(endpoint_pod_names=True))
    world.fill(
        headless("web"),
        slice_of(
            "web",
            at("10.44.0.1", pod="pod-1"),
            at("10.44.0.2", pod="pod-2", hostname="host"),
            at("10.44.0.3", pod="p" * 64),
            at("10.44.0.4", pod="dotted.name"),
        ),
    )
    assert world.answers("pod-1." + WEB) == {"10.44.0.1"}
    assert world.answers("host." + WEB) == {"10.44.0.2"}
    assert world.status("pod-2." + WEB) == "NXDOMAIN"
    assert world.answers("10-44-0-3." + WEB) == {"10.44.0.3"}
    assert world.answers("10-44-0-4." + WEB) == {"10.44.0.4"}


def test_without_endpoint_pod_names_a_pods_name_is_nothing(world: Small) -> None:
    world.fill(headless("web"), slice_of("web", at("10.44.0.1", pod="pod-1")))
    assert world.status("pod-1." + WEB) == "NXDOMAIN"


@pytest.mark.parametrize(
    ("mode", "expected"), [("disabled", "NXDOMAIN"), ("insecure", "10.44.0.7"), ("verified", "NXDOMAIN")]
)
def test_an_address_without_a_pod(tmp_path: Path, mode: str, expected: str) -> None:
    world = Small(tmp_path, settings(pods=mode)).fill()
    reply = world.answers("10-44-0-7.default.pod.cluster.local")
    assert (reply or {world.status("10-44-0-7.default.pod.cluster.local")}) == {expected}


def test_insecure_pod_names_need_an_address_and_a_namespace(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(pods="insecure")).fill()
    assert world.answers("fd00--7.default.pod.cluster.local", "AAAA") == {"fd00::7"}
    assert world.status("fd00--7.default.pod.cluster.local", "A") == "NODATA"
    assert world.status("10-44-0-7.default.pod.cluster.local", "AAAA") == "NODATA"
    for qname in ("10-44-0.default.pod", "10-44-0-256.default.pod", "web.default.pod", "10-44-0-7.other.pod"):
        assert world.status(f"{qname}.{ZONE}") == "NXDOMAIN"
    assert world.status("default.pod.cluster.local") == "NODATA"


def test_verified_pod_names_are_those_of_pods(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(pods="verified"))
    first = Pod("default", "a", ("10.44.0.7", "fd00::7"))
    second = Pod("default", "b", ("10.44.0.7",))
    world.fill(first, second)
    assert world.answers("10-44-0-7.default.pod.cluster.local") == {"10.44.0.7"}
    assert world.answers("fd00--7.default.pod.cluster.local", "AAAA") == {"fd00::7"}
    assert world.status("10-44-0-8.default.pod.cluster.local") == "NXDOMAIN"
    # Pods on the host's network share its address: when one is deleted, the name stays.
    world.commit(remove(first))
    assert world.answers("10-44-0-7.default.pod.cluster.local") == {"10.44.0.7"}
    assert world.status("fd00--7.default.pod.cluster.local", "AAAA") == "NXDOMAIN"
    world.commit(remove(second))
    assert world.status("10-44-0-7.default.pod.cluster.local") == "NXDOMAIN"


def test_the_apex_has_soa_and_ns_with_glue(stateful: Small) -> None:
    assert stateful.answers(ZONE, "SOA") == {
        "ns.dns.cluster.local. hostmaster.cluster.local. 1800000000 7200 1800 86400 5"
    }
    reply = stateful.ask(ZONE, "NS")
    assert {item.to_text() for item in reply.answer[0]} == {"ns.dns.cluster.local."}
    assert glue(reply) == {("ns.dns.cluster.local", "192.0.2.53"), ("ns.dns.cluster.local", "2001:db8::53")}
    assert stateful.status(ZONE, "A") == "NODATA"


def test_the_fixed_names(stateful: Small) -> None:
    assert stateful.answers("ns.dns.cluster.local") == {"192.0.2.53"}
    assert stateful.answers("ns.dns.cluster.local", "AAAA") == {"2001:db8::53"}
    (version,) = stateful.ask("dns-version.cluster.local", "TXT").answer
    assert (version.ttl, version[0].to_text()) == (28800, '"1.1.0"')
    assert stateful.status("dns-version.cluster.local") == "NODATA"


def test_several_zones_say_the_same(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(zones=("cluster.local", "k8s.example.org")))
    world.fill(headless("web"), slice_of("web", at("10.44.0.1", hostname="web-0")))
    for zone in world.settings.zones:
        assert world.answers(f"web-0.web.default.svc.{zone}") == {"10.44.0.1"}
        (target,) = world.answers(f"_http._tcp.web.default.svc.{zone}", "SRV")
        assert target == f"0 100 8080 web-0.web.default.svc.{zone}."
        (soa,) = world.ask(f"nothing.{zone}").authority
        assert soa.name.to_text() == zone + "."


def test_ttls_are_those_of_the_settings(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(ttl=30, negative_ttl=7))
    world.fill(headless("web"), slice_of("web", at("10.44.0.1", hostname="web-0")))
    assert world.ask(WEB).answer[0].ttl == 30
    reply = world.ask(WEB, "SRV")
    assert {rrset.ttl for rrset in [*reply.answer, *reply.additional]} == {30}
    (soa,) = world.ask("nothing." + ZONE).authority
    assert (soa.ttl, soa[0].minimum) == (7, 7)


@pytest.mark.parametrize(
    "endpoint",
    [
        at("not an address"),
        at("10.44.0.300"),
        at("10.44.0.9", hostname="under_way" + "x" * 60),
        at("10.44.0.9", hostname="two.labels"),
        at("10.44.0.9", hostname="ümlaut"),
        at("::ffff:1.2.3.4.5"),
    ],
)
def test_an_odd_endpoint_is_left_out_and_harms_no_other(world: Small, endpoint: object) -> None:
    world.fill(headless("web"), slice_of("web", endpoint, at("10.44.0.1", hostname="web-0")))  # type: ignore[arg-type]
    assert world.answers(WEB) == {"10.44.0.1"}
    assert world.answers("web-0." + WEB) == {"10.44.0.1"}
    assert [(reason, name) for reason, _, name, _ in world.reports] == [("endpoint", "web-1")]


def test_an_odd_cluster_ip_is_left_out(world: Small) -> None:
    world.fill(cluster_ip("api", "garbage", "172.16.0.9"))
    assert world.answers(API) == {"172.16.0.9"}
    assert [report[0] for report in world.reports] == ["address"]


def test_a_name_too_long_for_dns_is_left_out(tmp_path: Path) -> None:
    zone = ".".join(["z" * 60] * 3)
    world = Small(tmp_path, Settings(zones=(zone,)))
    world.fill(
        headless("s" * 40), slice_of("s" * 40, at("10.44.0.1", hostname="h" * 30), at("10.44.0.2", hostname="h"))
    )
    assert world.answers(f"h.{'s' * 40}.default.svc.{zone}") == {"10.44.0.2"}
    assert any(report[0] == "name" for report in world.reports)


@pytest.mark.parametrize("zonal", [False, True])
def test_a_target_too_long_for_dns_is_left_out_of_srv(tmp_path: Path, zonal: bool) -> None:
    zone = ".".join(["z" * 60] * 3)
    world = Small(tmp_path, Settings(zones=(zone,), zonal=zonal))
    name = "s" * 40
    qname = f"{name}.default.svc.{zone}"
    for others in ((), (at("10.44.0.3", "fd00::3", hostname="g"),)):
        world.fill(
            headless(name), slice_of(name, at("10.44.0.1", hostname="h" * 30), at("10.44.0.2", hostname="h"), *others)
        )
        reply = world.ask(qname, "SRV")
        names = {item.to_text().split()[3] for item in reply.answer[0]}
        assert names == {f"{item}.{qname}." for item in ("h", *(other.hostname for other in others))}
        assert {owner for owner, _ in glue(reply)} == {item.removesuffix(".") for item in names}
        assert world.answers(qname) >= {"10.44.0.1", "10.44.0.2"}, "the address is the Service's all the same"


def test_a_large_set_is_whole(world: Small) -> None:
    addresses = [f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}" for i in range(1, 1001)]
    world.fill(headless("web"), slice_of("web", *(at(item) for item in addresses), ports=[HTTP]))
    assert world.answers(WEB) == set(addresses)
    reply = world.ask(WEB, "SRV")
    # The RRset is whole; glue is added as far as it fits (RFC 2181 section 9).
    assert len(reply.answer[0]) == 1000
    assert 100 < len(glue(reply)) < 1000
