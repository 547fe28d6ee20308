"""Names that stand for others: labels before a pod, ports without
underscores (kubernetes/parse.go).
"""

from __future__ import annotations

from pathlib import Path

import dns.message
import pytest
from headwater.answer.find import Shape, labels_of, shape_of
from headwater.cluster.objects import Pod, Port, ServiceImport
from headwater.wire.names import name

from tests.harness.small import Small, at, cluster_ip, glue, headless, imported, settings, slice_of

WEB = "web.default.svc.cluster.local"
API = "api.default.svc.cluster.local"
POD = "10-0-0-1.default.pod.cluster.local"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Small:
    ports = [Port("http", "TCP", 80), Port("long-" + "x" * 10, "UDP", 53)]
    return Small(tmp_path_factory.mktemp("state"), settings(pods="verified", zonal=True)).fill(
        headless("web"),
        slice_of("web", at("10.0.0.1", hostname="h"), at("10.0.0.2", hostname="http"), ports=ports),
        cluster_ip("api", "172.16.0.1", ports=ports),
        slice_of("api", at("10.0.1.1", hostname="x")),
        Pod("default", "p", ("10.0.0.1", "fd00::7")),
        Pod("default", "q", ("10.0.0.1",)),
    )


@pytest.mark.parametrize("base", [WEB, API])
@pytest.mark.parametrize("labels", ["_http._tcp", "http._tcp", "_http.tcp", "http.tcp", "HTTP.Tcp"])
@pytest.mark.parametrize("edns", [False, True])
def test_a_port_is_found_with_and_without_its_underscores(world: Small, base: str, labels: str, edns: bool) -> None:
    for qtype in ("A", "SRV"):
        expected = world.ask(f"_http._tcp.{base}", qtype)
        found = world.ask(f"{labels}.{base}", qtype, edns=edns)
        assert {item.to_text() for item in found.answer[0]} == {item.to_text() for item in expected.answer[0]}
        assert glue(found) == glue(expected)
        assert found.answer[0].name.to_text() == f"{labels}.{base}."


@pytest.mark.parametrize(
    "labels",
    [
        "__http._tcp", "_http.__tcp", "http", "sctp", "tcp.http", "_tcp._http", "http.udp", "_http._udp", "https.tcp",
        "h._http._tcp", "h.http.tcp", "_.tcp", "http._", "a.b.c.d", "h.h", "http.http",
        "x" * 63 + ".tcp", "http." + "x" * 63,
    ],
)  # fmt: skip
@pytest.mark.parametrize("base", [WEB, API])
@pytest.mark.parametrize("qtype", ["A", "SRV", "TXT"])
def test_what_is_neither_is_nxdomain(world: Small, labels: str, base: str, qtype: str) -> None:
    if (labels, base) == ("http", WEB):
        assert world.answers(f"{labels}.{base}") == {"10.0.0.2"}, "that is an endpoint's hostname"
    else:
        assert world.status(f"{labels}.{base}", qtype) == "NXDOMAIN"


def test_a_port_name_of_63_characters_has_no_room_for_an_underscore(tmp_path: Path) -> None:
    long = "p" * 63
    world = Small(tmp_path).fill(cluster_ip("api", "172.16.0.1", ports=[Port(long, "TCP", 80)]))
    assert world.answers(f"{long}._tcp.{API}", "SRV") == {f"0 100 80 {API}."}
    assert world.answers(f"{long}.tcp.{API}", "SRV") == {f"0 100 80 {API}."}


@pytest.mark.parametrize("before", ["a", "a.b", "_http._tcp", "10-0-0-9", "x" * 63 + "." + "y" * 63, "A.B"])
@pytest.mark.parametrize("mode", ["insecure", "verified"])
@pytest.mark.parametrize("edns", [False, True])
def test_up_to_two_labels_before_a_pods_name_are_passed_over(
    tmp_path: Path, before: str, mode: str, edns: bool
) -> None:
    """CoreDNS parses an endpoint, or a port and a protocol, and ignores them."""
    world = Small(tmp_path, settings(pods=mode)).fill(Pod("default", "p", ("10.0.0.1", "fd00::7")))
    reply = world.ask(f"{before}.{POD}", edns=edns)
    assert [item.to_text() for item in reply.answer[0]] == ["10.0.0.1"]
    assert reply.answer[0].name.to_text() == f"{before}.{POD}."
    assert world.status(f"{before}.{POD}", "AAAA") == "NODATA"
    assert world.answers(f"{before}.fd00--7.default.pod.cluster.local", "AAAA") == {"fd00::7"}
    srv = world.ask(f"{before}.{POD}", "SRV", edns=edns)
    assert [item.to_text() for item in srv.answer[0]] == [f"0 100 0 {POD}."], "the target is the pod's own name"
    assert glue(srv) == {(POD, "10.0.0.1")}


@pytest.mark.parametrize("before", ["a.b.c", "a.b.c.d", "_zone.a.b", "eu.pin._zone"])
@pytest.mark.parametrize("mode", ["insecure", "verified"])
def test_three_labels_before_a_pods_name_are_too_many(tmp_path: Path, before: str, mode: str) -> None:
    world = Small(tmp_path, settings(pods=mode, zonal=True)).fill(Pod("default", "p", ("10.0.0.1",)))
    assert world.status(f"{before}.{POD}") == world.status(f"{before}.{POD}", "SRV") == "NXDOMAIN"


@pytest.mark.parametrize(
    "qname",
    [
        "a.10-0-0-2.default.pod",
        "a.10-0-0-1.other.pod",
        "a.b.default.pod",
        "a.default.pod",
        "a.pod",
        "a.b.x.default.pod",
    ],
)
def test_labels_before_what_is_no_pod_are_nxdomain(world: Small, qname: str) -> None:
    assert world.status(f"{qname}.cluster.local") == "NXDOMAIN"


def test_the_weight_of_a_pods_srv_counts_the_pods(world: Small) -> None:
    """Two pods on the host's network: two entries, one record."""
    assert world.answers(POD, "SRV") == world.answers(f"a.{POD}", "SRV") == {f"0 50 0 {POD}."}


@pytest.mark.parametrize(
    "qname",
    [
        "a",
        "a.b",
        "a.b.c",
        "svc.x",
        "web.default.svc.x",
        "default.web.svc",
        "web.svc",
        "svc.default.web",
        "h.web.default.Svc",
    ],
)
def test_names_of_other_shapes_are_nxdomain_or_what_they_are(world: Small, qname: str) -> None:
    expected = "NOERROR" if qname == "h.web.default.Svc" else "NXDOMAIN"
    assert world.status(f"{qname}.cluster.local") == expected


# Multicluster zones


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Small:
    http = Port("http", "TCP", 80)
    return Small(
        tmp_path_factory.mktemp("shared"), settings(zones=("m.test",), multicluster_zones=("cluster.local",))
    ).fill(
        ServiceImport("default", "web", True, (), (http,)),
        imported("web", "tcp", at("10.0.0.1", hostname="http"), ports=[http]),
        imported("web", "east", at("10.0.0.2", hostname="h"), ports=[http]),
    )


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        # Two labels without underscores are a host and its cluster, even if they are also a port
        # and a protocol.
        ("http.tcp", {"10.0.0.1"}),
        ("_http.tcp", {"10.0.0.1", "10.0.0.2"}),
        ("http._tcp", {"10.0.0.1", "10.0.0.2"}),
        ("_http._tcp", {"10.0.0.1", "10.0.0.2"}),
        ("h.east", {"10.0.0.2"}),
        ("_h.east", "NXDOMAIN"),
        ("h._east", "NXDOMAIN"),
        ("h.tcp", "NXDOMAIN"),
        ("https.tcp", "NXDOMAIN"),
    ],
)
@pytest.mark.parametrize("edns", [False, True])
def test_in_a_multicluster_zone_an_underscore_says_that_a_port_is_meant(
    shared: Small, labels: str, expected: str | set[str], edns: bool
) -> None:
    reply = shared.ask(f"{labels}.{WEB}", edns=edns)
    found = {item.to_text() for rrset in reply.answer for item in rrset}
    assert (found or shared.status(f"{labels}.{WEB}")) == expected


# Parts


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("cluster.local", "cluster.local", []),
        ("a.cluster.local", "cluster.local", [b"\x01a"]),
        ("a.bc.cluster.local", "cluster.local", [b"\x01a", b"\x02bc"]),
        ("a.b", ".", [b"\x01a", b"\x01b"]),
    ],
)
def test_labels_before_a_zone(text: str, zone: str, expected: list[bytes]) -> None:
    assert labels_of(name(text), name(zone)) == expected


@pytest.mark.parametrize("dots", [5, 20, 100, 117])
def test_a_name_of_many_labels_is_nxdomain(world: Small, dots: int) -> None:
    for tail in ("cluster.local", "default.pod.cluster.local", "svc.cluster.local"):
        qname = "a." * min(dots, (253 - len(tail)) // 2) + tail
        assert world.status(qname) == "NXDOMAIN"


def test_labels_with_any_byte_harm_nothing(world: Small) -> None:
    for byte in range(256):
        label = bytes((1, byte))
        for tail in (name(WEB), name(POD), name(f"_tcp.{WEB}"), name("_zone." + WEB), name("pin._zone." + WEB)):
            query = b"\0\1\1\0\0\1\0\0\0\0\0\0" + label + tail + b"\0\1\0\1"
            (reply,) = world.ask_wire(query)
            assert reply is not None
            assert dns.message.from_wire(reply).rcode() in (0, 3)


@pytest.mark.parametrize("clusters", [False, True])
@pytest.mark.parametrize(
    ("labels", "shape", "in_clusters"),
    [
        ("", Shape.SERVICE, Shape.SERVICE),
        ("svc", Shape.SERVICE, Shape.SERVICE),
        ("web.default.svc", Shape.SERVICE, Shape.SERVICE),
        ("h.web.default.svc", Shape.ENDPOINT, Shape.ENDPOINT),
        ("http.tcp.web.default.svc", Shape.PORT, Shape.HOST_OF_CLUSTER),
        ("_http.tcp.web.default.svc", Shape.PORT, Shape.PORT),
        ("http._tcp.web.default.svc", Shape.PORT, Shape.PORT),
        ("a.b.c.web.default.svc", Shape.TOO_LONG, Shape.TOO_LONG),
        ("_zone.web.default.svc", Shape.ZONAL, Shape.ENDPOINT),
        ("pin._zone.web.default.svc", Shape.ZONAL, Shape.PORT),
        ("a.b.pin._zone.web.default.svc", Shape.ZONAL, Shape.TOO_LONG),
        ("_zone.10-0-0-1.default.pod", Shape.ENDPOINT, Shape.ENDPOINT),
        ("a.pin._zone.web.default.pod", Shape.TOO_LONG, Shape.TOO_LONG),
    ],
)
def test_the_shapes_of_names(labels: str, shape: Shape, in_clusters: Shape, clusters: bool) -> None:
    found = labels_of(name(f"{labels}.z.test".lstrip(".")), name("z.test"))
    assert shape_of(found, clusters=clusters) is (in_clusters if clusters else shape)
