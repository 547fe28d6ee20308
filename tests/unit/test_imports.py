"""`--multicluster-zone`:

ServiceImports and the endpoints of other clusters (KEP-1645), as CoreDNS has them.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from headwater.cluster.objects import NO_PORT, Namespace, Port, ServiceImport

from tests.harness.small import (
    HTTP,
    NOT_READY,
    Small,
    at,
    cluster_ip,
    glue,
    headless,
    imported,
    remove,
    settings,
    slice_of,
    upsert,
)

MZ = "clusterset.local"
WEB = f"web.default.svc.{MZ}"
API = f"api.default.svc.{MZ}"


def headless_import(name: str, namespace: str = "default") -> ServiceImport:
    return ServiceImport(namespace, name, True, (), (HTTP,))


def cluster_set_ip(name: str, *addresses: str, ports: tuple[Port, ...] = (Port("http", "TCP", 80),)) -> ServiceImport:
    return ServiceImport("default", name, False, addresses, ports)


@pytest.fixture
def world(tmp_path: Path) -> Small:
    return Small(tmp_path, settings(multicluster_zones=(MZ,)))


@pytest.fixture
def two(world: Small) -> Small:
    """Add a StatefulSet in each of two clusters, with equal
    hostnames, and a ClusterSetIP Service.
    """
    return world.fill(
        headless_import("web"),
        imported("web", "east", at("10.1.0.1", hostname="web-0"), at("10.1.0.2")),
        imported("web", "west", at("10.2.0.1", hostname="web-0"), at("fd00::2:1", hostname="web-1")),
        cluster_set_ip("api", "172.16.1.1", "fd00::1:1", ports=(Port("http", "TCP", 80), Port("dns", "UDP", 53))),
        imported("api", "east", at("10.1.1.1", hostname="x")),
    )


@pytest.mark.parametrize(
    ("name", "qtype", "expected"),
    [
        # A headless import has the endpoints of every cluster.
        ("web", "A", {"10.1.0.1", "10.1.0.2", "10.2.0.1"}),
        ("web", "AAAA", {"fd00::2:1"}),
        ("WEB", "A", {"10.1.0.1", "10.1.0.2", "10.2.0.1"}),
        ("_http._tcp.web", "A", {"10.1.0.1", "10.1.0.2", "10.2.0.1"}),
        ("_tcp.web", "A", "NODATA"),
        ("_dns._udp.web", "A", "NXDOMAIN"),
        # A host belongs to one cluster.
        ("web-0.east.web", "A", {"10.1.0.1"}),
        ("web-0.west.web", "A", {"10.2.0.1"}),
        ("WEB-0.East.Web", "A", {"10.1.0.1"}),
        ("10-1-0-2.east.web", "A", {"10.1.0.2"}),
        ("web-1.west.web", "AAAA", {"fd00::2:1"}),
        ("web-1.west.web", "A", "NODATA"),
        ("web-1.east.web", "AAAA", "NXDOMAIN"),
        ("10-1-0-2.west.web", "A", "NXDOMAIN"),
        ("web-0.north.web", "A", "NXDOMAIN"),
        ("web-0.web", "A", "NXDOMAIN"),
        ("a.web-0.east.web", "A", "NXDOMAIN"),
        # An underscore in one of the two shows that they are a port and a protocol.
        ("http._tcp.web", "A", {"10.1.0.1", "10.1.0.2", "10.2.0.1"}),
        ("_http.tcp.web", "A", {"10.1.0.1", "10.1.0.2", "10.2.0.1"}),
        ("http.tcp.web", "A", "NXDOMAIN"),
        # A ClusterSetIP.
        ("api", "A", {"172.16.1.1"}),
        ("api", "AAAA", {"fd00::1:1"}),
        ("api", "SRV", {f"0 25 80 {API}.", f"0 25 53 {API}."}),
        ("_dns._udp.api", "SRV", {f"0 50 53 {API}."}),
        ("_dns._udp.api", "A", {"172.16.1.1"}),
        ("_udp.api", "A", "NODATA"),
        ("x.east.api", "A", {"10.1.1.1"}),
        ("x.east.api", "SRV", {f"0 100 8080 x.east.{API}."}),
        ("x.west.api", "A", "NXDOMAIN"),
        ("ghost", "A", "NXDOMAIN"),
    ],
)
@pytest.mark.parametrize("edns", [False, True])
def test_a_name_is_answered_as_the_table_says(
    two: Small, name: str, qtype: str, expected: str | set[str], edns: bool
) -> None:
    qname = f"{name}.default.svc.{MZ}"
    reply = two.ask(qname, qtype, edns=edns)
    found = {item.to_text() for rrset in reply.answer for item in rrset}
    assert (found or two.status(qname, qtype)) == expected


def test_srv_targets_have_the_clusters_label_and_glue(two: Small) -> None:
    reply = two.ask(f"_http._tcp.{WEB}", "SRV")
    addresses = {
        f"web-0.east.{WEB}": "10.1.0.1", f"10-1-0-2.east.{WEB}": "10.1.0.2",
        f"web-0.west.{WEB}": "10.2.0.1", f"web-1.west.{WEB}": "fd00::2:1",
    }  # fmt: skip
    assert {item.to_text() for item in reply.answer[0]} == {f"0 25 8080 {target}." for target in addresses}
    assert glue(reply) == set(addresses.items())
    for target, address in addresses.items():
        assert two.answers(target, "AAAA" if ":" in address else "A") == {address}, "a target is a name"
    assert two.answers(WEB, "SRV") == {item.to_text() for item in reply.answer[0]}


def test_an_endpoint_of_a_cluster_is_its_own_srv_target(two: Small) -> None:
    reply = two.ask(f"web-0.west.{WEB}", "SRV")
    assert {item.to_text() for item in reply.answer[0]} == {f"0 100 8080 web-0.west.{WEB}."}
    assert glue(reply) == {(f"web-0.west.{WEB}", "10.2.0.1")}


def test_a_clusters_own_services_are_not_in_the_multicluster_zone_and_imports_not_in_the_others(
    two: Small,
) -> None:
    two.commit(
        upsert(headless("local")), upsert(slice_of("local", at("10.0.0.1"))), upsert(cluster_ip("api", "1.2.3.4"))
    )
    assert two.status(f"local.default.svc.{MZ}") == "NXDOMAIN"
    assert two.answers("local.default.svc.cluster.local") == {"10.0.0.1"}
    assert two.status("web.default.svc.cluster.local") == "NXDOMAIN"
    assert two.answers("api.default.svc.cluster.local") == {"1.2.3.4"}
    assert two.answers(API) == {"172.16.1.1"}


def test_a_slice_may_be_both_a_services_and_an_imports(world: Small) -> None:
    own = slice_of("web", at("10.0.0.1", hostname="h"))
    both = msgspec.structs.replace(own, imported="web", cluster="east")
    world.fill(headless("web"), headless_import("web"), both)
    assert world.answers(WEB) == world.answers("web.default.svc.cluster.local") == {"10.0.0.1"}
    assert world.answers(f"h.east.{WEB}") == world.answers("h.web.default.svc.cluster.local") == {"10.0.0.1"}
    world.commit(upsert(own))
    assert world.status(WEB) == "NXDOMAIN"
    assert world.answers("web.default.svc.cluster.local") == {"10.0.0.1"}


def test_the_namespaces_of_the_multicluster_zone_are_the_clusters(two: Small) -> None:
    assert two.status(f"default.svc.{MZ}") == two.status(f"svc.{MZ}") == "NODATA"
    assert two.status(f"other.svc.{MZ}") == "NXDOMAIN"
    assert two.answers(MZ, "SOA") == {f"ns.dns.{MZ}. hostmaster.{MZ}. 1800000000 7200 1800 86400 5"}
    assert two.answers(f"dns-version.{MZ}", "TXT") == {'"1.1.0"'}
    two.commit(remove(Namespace("default")))
    assert two.status(WEB) == two.status(f"web-0.east.{WEB}") == two.status(f"default.svc.{MZ}") == "NXDOMAIN"
    two.commit(upsert(Namespace("default")))
    assert two.answers(f"web-0.east.{WEB}") == {"10.1.0.1"}


def test_a_namespace_that_is_not_served_has_no_imports(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(multicluster_zones=(MZ,), namespaces=("other",)))
    world.fill(headless_import("web"), imported("web", "east", at("10.1.0.1")))
    assert world.status(WEB) == "NXDOMAIN"


def test_slices_may_come_before_their_import_and_outlive_it(world: Small) -> None:
    world.fill(imported("web", "east", at("10.1.0.1", hostname="h")))
    assert world.status(WEB) == "NXDOMAIN"
    world.commit(upsert(headless_import("web")))
    assert world.answers(f"h.east.{WEB}") == {"10.1.0.1"}
    world.commit(remove(headless_import("web")))
    assert world.status(WEB) == world.status(f"h.east.{WEB}") == world.status(f"_tcp.{WEB}") == "NXDOMAIN"
    world.commit(upsert(headless_import("web")), remove(imported("web", "east")))
    assert world.status(WEB) == "NXDOMAIN"


def test_a_cluster_that_goes_takes_its_endpoints_along_and_no_other(two: Small) -> None:
    two.commit(remove(imported("web", "east")))
    assert two.answers(WEB) == {"10.2.0.1"}
    assert two.status(f"web-0.east.{WEB}") == "NXDOMAIN"
    assert two.answers(f"web-0.west.{WEB}") == {"10.2.0.1"}


def test_a_slice_that_is_relabelled_moves_to_the_other_cluster_and_import(two: Small) -> None:
    two.commit(upsert(headless_import("db")))
    two.commit(upsert(imported("web", "north", at("10.1.0.1", hostname="web-0"), name="web-east")))
    assert two.answers(f"web-0.north.{WEB}") == {"10.1.0.1"}
    assert two.status(f"web-0.east.{WEB}") == "NXDOMAIN"
    two.commit(upsert(imported("db", "north", at("10.1.0.1", hostname="web-0"), name="web-east")))
    assert two.status(f"web-0.north.{WEB}") == "NXDOMAIN"
    assert two.answers(f"web-0.north.db.default.svc.{MZ}") == {"10.1.0.1"}
    assert two.answers(WEB) == {"10.2.0.1"}


def test_an_import_that_becomes_headless_and_back_has_the_names_of_its_type(two: Small) -> None:
    ports = (Port("http", "TCP", 80),)
    two.commit(upsert(ServiceImport("default", "api", True, (), ports)))
    assert two.answers(API) == {"10.1.1.1"}
    assert two.answers(f"_http._tcp.{API}", "SRV") == {f"0 100 8080 x.east.{API}."}
    assert two.status(f"_dns._udp.{API}") == "NXDOMAIN"
    two.commit(upsert(cluster_set_ip("api", "172.16.1.9")))
    assert two.answers(API) == {"172.16.1.9"}


def test_a_cluster_set_ip_without_addresses_is_nodata_and_without_ports_nothing(world: Small) -> None:
    """The controller has allocated none yet; the names exist all the same, as in CoreDNS."""
    world.fill(cluster_set_ip("api"), cluster_set_ip("bare", "172.16.1.2", ports=()))
    for name in ("api", "_http._tcp.api", "_tcp.api"):
        assert world.status(f"{name}.default.svc.{MZ}") == "NODATA"
        assert world.status(f"{name}.default.svc.{MZ}", "SRV") == "NODATA"
    assert world.status(f"bare.default.svc.{MZ}") == "NXDOMAIN"
    world.commit(upsert(cluster_set_ip("api", "172.16.1.1")))
    assert world.answers(f"_http._tcp.{API}") == {"172.16.1.1"}
    world.commit(upsert(cluster_set_ip("api")))
    assert world.status(f"_http._tcp.{API}") == "NODATA"


def test_a_headless_import_without_ready_endpoints_is_nxdomain(world: Small) -> None:
    world.fill(headless_import("web"), imported("web", "east", at("10.1.0.1", conditions=NOT_READY)))
    assert world.status(WEB) == "NXDOMAIN"
    assert world.status(f"10-1-0-1.east.{WEB}") == "NXDOMAIN"


def test_ignore_empty_service_hides_an_import_without_endpoints(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(multicluster_zones=(MZ,), ignore_empty_service=True))
    world.fill(cluster_set_ip("api", "172.16.1.1"))
    assert world.status(API) == "NXDOMAIN"
    world.commit(upsert(imported("api", "east", at("10.1.0.1"))))
    assert world.answers(API) == {"172.16.1.1"}
    world.commit(upsert(imported("api", "east", at("10.1.0.1", conditions=NOT_READY))))
    assert world.status(API) == "NXDOMAIN"


def test_endpoints_have_their_ports_and_those_without_one_no_srv(world: Small) -> None:
    world.fill(
        headless_import("web"),
        imported("web", "east", at("10.1.0.1", hostname="h"), ports=[Port("http", "TCP", 80), Port("m", "UDP", 1)]),
        imported("web", "west", at("10.2.0.1", hostname="h"), ports=[Port("", "TCP", NO_PORT)]),
    )
    assert world.answers(WEB) == {"10.1.0.1", "10.2.0.1"}
    assert world.answers(WEB, "SRV") == {f"0 33 80 h.east.{WEB}.", f"0 33 1 h.east.{WEB}."}
    assert world.answers(f"_m._udp.{WEB}", "SRV") == {f"0 100 1 h.east.{WEB}."}
    assert world.status(f"h.west.{WEB}", "SRV") == "NODATA"
    assert world.answers(f"h.west.{WEB}") == {"10.2.0.1"}


def test_with_endpoint_pod_names_a_pod_is_named_in_its_cluster(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(multicluster_zones=(MZ,), endpoint_pod_names=True))
    world.fill(headless_import("web"), imported("web", "east", at("10.1.0.1", pod="p"), at("10.1.0.2", pod="q" * 64)))
    assert world.answers(f"p.east.{WEB}") == {"10.1.0.1"}
    assert world.answers(f"10-1-0-2.east.{WEB}") == {"10.1.0.2"}
    assert world.answers(f"p.east.{WEB}", "SRV") == {f"0 100 8080 p.east.{WEB}."}


@pytest.mark.parametrize("cluster", ["two.labels", "c" * 64, "ümlaut", "a\0b"])
def test_a_cluster_that_is_no_label_is_reported_and_left_out(world: Small, cluster: str) -> None:
    world.fill(
        headless_import("web"),
        imported("web", cluster, at("10.1.0.1", hostname="h"), name="odd"),
        imported("web", "west", at("10.2.0.1", hostname="h")),
    )
    assert world.answers(WEB) == {"10.2.0.1"}
    assert [report[:3] for report in world.reports] == [("name", "default", "odd")]


def test_without_its_label_a_cluster_has_no_name(world: Small) -> None:
    world.fill(headless_import("web"), imported("web", "", at("10.1.0.1", hostname="h")))
    assert world.answers(WEB) == {"10.1.0.1"}
    assert world.answers(f"h.{WEB}") == {"10.1.0.1"}
    assert world.answers(WEB, "SRV") == {f"0 100 8080 h.{WEB}."}


def test_a_host_and_cluster_too_long_for_a_name_are_reported(tmp_path: Path) -> None:
    zone = ".".join(["z" * 60] * 2)
    world = Small(tmp_path, settings(multicluster_zones=(zone,)))
    world.fill(
        headless_import("w" * 50),
        imported("w" * 50, "c" * 40, at("10.1.0.1", hostname="h" * 40), at("10.1.0.2", hostname="h"), name="s"),
    )
    qname = f"{'w' * 50}.default.svc.{zone}"
    assert world.answers(f"h.{'c' * 40}.{qname}") == {"10.1.0.2"}
    assert world.answers(qname) == {"10.1.0.1", "10.1.0.2"}
    assert world.answers(qname, "SRV") == {f"0 50 8080 h.{'c' * 40}.{qname}."}
    assert {report[0] for report in world.reports} == {"name"}


def test_several_multicluster_zones_say_the_same(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(multicluster_zones=(MZ, "other.test")))
    world.fill(headless_import("web"), imported("web", "east", at("10.1.0.1", hostname="h")))
    for zone in world.settings.multicluster_zones:
        assert world.answers(f"web.default.svc.{zone}", "SRV") == {f"0 100 8080 h.east.web.default.svc.{zone}."}


def test_pods_are_named_in_the_multicluster_zone_too(tmp_path: Path) -> None:
    """CoreDNS's findPods does not depend on the zone."""
    world = Small(tmp_path, settings(multicluster_zones=(MZ,), pods="insecure")).fill()
    assert world.answers(f"10-0-0-1.default.pod.{MZ}") == {"10.0.0.1"}
