"""`--zonal`:

TOPOZONE.pin|prefer._zone.SVC.NS.svc.Z, as CoreDNS has it (plugin/kubernetes/zonal_test.go).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from headwater.cluster.changes import Change
from headwater.cluster.objects import Namespace, Port

from tests.harness.small import (
    NOT_READY,
    Small,
    at,
    cluster_ip,
    external_name,
    glue,
    headless,
    remove,
    settings,
    slice_of,
    upsert,
)

WEB = "web.default.svc.cluster.local"
ALL = {"10.0.0.1", "10.0.0.2", "10.0.0.3"}


@pytest.fixture
def world(tmp_path: Path) -> Small:
    return Small(tmp_path, settings(zonal=True))


@pytest.fixture
def zonal(world: Small) -> Small:
    """Add endpoints in eu-1a, in eu-1b, and without a zone."""
    return world.fill(
        headless("web"),
        slice_of(
            "web", at("10.0.0.1", hostname="a", zone="eu-1a"), at("10.0.0.2", hostname="b", zone="eu-1b"),
            at("10.0.0.3", hostname="c"),
        ),
        headless("empty"),
        slice_of("empty", at("10.0.1.1", zone="eu-1a", conditions=NOT_READY)),
        cluster_ip("api", "172.16.0.1"),
        slice_of("api", at("10.0.2.1", hostname="x", zone="eu-1a")),
        external_name("ext", "example.org"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("eu-1a.pin._zone.web", {"10.0.0.1"}),
        ("EU-1A.Pin._ZONE.Web", {"10.0.0.1"}),
        ("eu-1b.pin._zone.web", {"10.0.0.2"}),
        ("eu-1c.pin._zone.web", "NODATA"),
        ("eu.1a.pin._zone.web", "NODATA"),
        ("x.y.z.pin._zone.web", "NODATA"),
        ("eu-1a.prefer._zone.web", {"10.0.0.1"}),
        ("eu-1c.prefer._zone.web", ALL),
        ("x.y.z.prefer._zone.web", ALL),
        ("eu-1a.pin._zone.empty", "NXDOMAIN"),
        ("eu-1a.prefer._zone.empty", "NXDOMAIN"),
        # A name with another directive, or without one, does not exist.
        ("eu-1a.florp._zone.web", "NXDOMAIN"),
        ("eu-1a._zone.web", "NXDOMAIN"),
        ("eu-1a.pin.prefer._zone.web", ALL),
        ("eu-1a.prefer.pin._zone.web", "NODATA"),
        ("eu-1a.pin.zone.web", "NXDOMAIN"),
        ("eu-1a.pin._zones.web", "NXDOMAIN"),
        ("eu-1a.pin._zone.a.web", "NXDOMAIN"),
        # Only headless Services have them.
        ("eu-1a.pin._zone.api", "NXDOMAIN"),
        ("eu-1a.prefer._zone.api", "NXDOMAIN"),
        ("eu-1a.pin._zone.ext", "NXDOMAIN"),
        ("eu-1a.pin._zone.ghost", "NXDOMAIN"),
        ("_zone.api", "NXDOMAIN"),
        # Names that have names below them (RFC 8020).
        ("_zone.web", "NODATA"),
        ("pin._zone.web", "NODATA"),
        ("prefer._zone.web", "NODATA"),
        # A Service without endpoints is NXDOMAIN, and so is everything below it.
        ("_zone.empty", "NXDOMAIN"),
        ("empty", "NXDOMAIN"),
    ],
)
@pytest.mark.parametrize("edns", [False, True])
def test_a_zonal_name_is_answered_as_the_table_says(
    zonal: Small, name: str, expected: str | set[str], edns: bool
) -> None:
    reply = zonal.ask(f"{name}.default.svc.cluster.local", edns=edns)
    found: str | set[str] = {item.to_text() for rrset in reply.answer for item in rrset}
    assert (found or zonal.status(f"{name}.default.svc.cluster.local")) == expected


@pytest.mark.parametrize("qtype", ["AAAA", "TXT", "SRV", "MX", "CNAME", "HTTPS", "ANY", "SOA"])
@pytest.mark.parametrize("name", ["eu-1c.pin._zone.web", "_zone.web", "pin._zone.web"])
def test_an_empty_zone_is_nodata_for_every_type(zonal: Small, name: str, qtype: str) -> None:
    """NXDOMAIN would apply to all types (RFC 2308 section 5)."""
    assert zonal.status(f"{name}.default.svc.cluster.local", qtype) == "NODATA"


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("eu-1a.pin._zone", {"a"}),
        ("eu-1a.prefer._zone", {"a"}),
        ("eu-1c.prefer._zone", {"a", "b", "c"}),
    ],
)
def test_srv_has_the_endpoints_own_names_and_glue(zonal: Small, name: str, labels: set[str]) -> None:
    reply = zonal.ask(f"{name}.{WEB}", "SRV")
    assert {item.to_text() for item in reply.answer[0]} == {
        f"0 {100 // len(labels)} 8080 {label}.{WEB}." for label in labels
    }
    address = {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"}
    assert glue(reply) == {(f"{label}.{WEB}", address[label]) for label in labels}


@pytest.mark.parametrize("zone", ["eu.west.1a", "EU.West.1a", "x", "z" * 63, ".".join(["z" * 50] * 4), "_under-score"])
def test_a_zone_may_have_dots_capitals_and_many_letters(world: Small, zone: str) -> None:
    world.fill(headless("web"), slice_of("web", at("10.0.0.1", zone=zone), at("10.0.0.2")))
    for directive in ("pin", "prefer"):
        assert world.answers(f"{zone}.{directive}._zone.{WEB}") == {"10.0.0.1"}
    if "." in zone:
        parent = zone.partition(".")[2]
        assert world.status(f"{parent}.pin._zone.{WEB}") == "NODATA"
        assert world.answers(f"{parent}.prefer._zone.{WEB}") == {"10.0.0.1", "10.0.0.2"}


@pytest.mark.parametrize("zone", ["a..b", ".a", "a.", "z" * 64, ".".join(["z" * 60] * 4), "ümlaut", "a\0b"])
def test_a_zone_that_is_no_name_harms_nothing(world: Small, zone: str) -> None:
    world.fill(headless("web"), slice_of("web", at("10.0.0.1", zone=zone), at("10.0.0.2", zone="fine")))
    assert world.answers(WEB) == {"10.0.0.1", "10.0.0.2"}
    assert world.answers(f"fine.pin._zone.{WEB}") == {"10.0.0.2"}
    assert world.answers(f"other.prefer._zone.{WEB}") == {"10.0.0.1", "10.0.0.2"}
    assert len([name for name in world.records() if b"\x03pin" in name]) == 1


def test_a_service_whose_zonal_names_are_too_long_has_its_other_names(tmp_path: Path) -> None:
    zone = ".".join(["z" * 60] * 3)
    world = Small(tmp_path, settings(zonal=True, zones=(zone,)))
    name = "s" * 58
    world.fill(headless(name), slice_of(name, at("10.0.0.1", hostname="h", zone="eu")))
    assert world.answers(f"{name}.default.svc.{zone}") == {"10.0.0.1"}
    assert not [key for key in world.records() if b"\x05_zone" in key]


def test_all_slices_of_a_zone_are_in_it(world: Small) -> None:
    world.fill(
        headless("web"),
        slice_of("web", at("10.0.0.1", hostname="x", zone="eu"), at("10.0.0.9", zone="us"), name="four"),
        slice_of("web", at("fd00::1", hostname="x", zone="eu"), name="six"),
        slice_of("web", at("10.0.0.2", hostname="y", zone="eu"), name="other", ports=[Port("m", "UDP", 53)]),
    )
    assert world.answers(f"eu.pin._zone.{WEB}") == {"10.0.0.1", "10.0.0.2"}
    assert world.answers(f"eu.pin._zone.{WEB}", "AAAA") == {"fd00::1"}
    assert world.status(f"us.pin._zone.{WEB}", "AAAA") == "NODATA"
    assert world.answers(f"eu.pin._zone.{WEB}", "SRV") == {f"0 33 8080 x.{WEB}.", f"0 33 53 y.{WEB}."}


def test_an_address_is_in_the_zone_that_the_last_endpoint_of_its_slice_says(world: Small) -> None:
    """CoreDNS keeps one zone per slice and address (plugin/kubernetes/object/endpoint.go)."""
    world.fill(
        headless("web"),
        slice_of(
            "web",
            at("10.0.0.1", hostname="x", zone="eu"), at("10.0.0.1", hostname="y", zone="us"),
            at("10.0.0.1", hostname="z"), at("10.0.0.1", zone="asia", conditions=NOT_READY),
        ),
    )  # fmt: skip
    assert world.status(f"eu.pin._zone.{WEB}") == "NODATA"
    assert world.answers(f"us.pin._zone.{WEB}", "SRV") == {f"0 33 8080 {host}.{WEB}." for host in "xyz"}


def test_without_zonal_there_are_no_such_names(tmp_path: Path) -> None:
    world = Small(tmp_path).fill(headless("web"), slice_of("web", at("10.0.0.1", zone="eu")))
    for name in ("eu.pin._zone", "eu.prefer._zone", "us.pin._zone", "_zone", "pin._zone"):
        assert world.status(f"{name}.{WEB}") == "NXDOMAIN"


def test_a_multicluster_zone_has_no_such_names(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(zonal=True, multicluster_zones=("clusterset.local",)))
    world.fill(headless("web"), slice_of("web", at("10.0.0.1", zone="eu")))
    for name in ("eu.pin._zone", "eu.prefer._zone", "_zone"):
        assert world.status(f"{name}.web.default.svc.clusterset.local") == "NXDOMAIN"


def test_below_pod_names_there_are_none(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(zonal=True, pods="insecure")).fill(headless("web"))
    assert world.status("eu.pin._zone.10-0-0-1.default.pod.cluster.local") == "NXDOMAIN"


def test_every_zone_that_is_served_has_them(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(zonal=True, zones=("cluster.local", "k8s.example.org")))
    world.fill(headless("web"), slice_of("web", at("10.0.0.1", hostname="x", zone="eu")))
    assert world.answers("eu.pin._zone.web.default.svc.k8s.example.org", "SRV") == {
        "0 100 8080 x.web.default.svc.k8s.example.org."
    }


def test_an_endpoint_that_moves_to_another_zone_is_in_that_one(zonal: Small) -> None:
    zonal.commit(upsert(slice_of("web", at("10.0.0.1", hostname="a", zone="eu-1b"), at("10.0.0.2", zone="eu-1c"))))
    assert zonal.status(f"eu-1a.pin._zone.{WEB}") == "NODATA"
    assert zonal.answers(f"eu-1b.pin._zone.{WEB}") == {"10.0.0.1"}
    assert zonal.answers(f"eu-1a.prefer._zone.{WEB}") == {"10.0.0.1", "10.0.0.2"}
    zonal.commit(remove(slice_of("web")))
    for name in ("eu-1b.pin", "eu-1b.prefer"):
        assert zonal.status(f"{name}._zone.{WEB}") == "NXDOMAIN", "as the Service's own name"


@pytest.mark.parametrize("end", ["service", "cluster ip", "external name", "namespace"])
def test_when_the_headless_service_ends_its_zonal_names_do(zonal: Small, end: str) -> None:
    gone: dict[str, Change] = {
        "service": remove(headless("web")),
        "cluster ip": upsert(cluster_ip("web", "172.16.0.2")),
        "external name": upsert(external_name("web", "example.org")),
        "namespace": remove(Namespace("default")),
    }
    zonal.commit(gone[end])
    for name in ("eu-1a.pin._zone", "eu-1c.pin._zone", "eu-1a.prefer._zone", "eu-1c.prefer._zone", "_zone"):
        assert zonal.status(f"{name}.{WEB}") == "NXDOMAIN"
    assert not [name for name in zonal.records() if b"\x03web" in name and b"\x05_zone" in name]
