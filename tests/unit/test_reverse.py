"""PTR: the Service of a cluster IP, otherwise the endpoints of the
address (kubernetes/reverse.go).
"""

from __future__ import annotations

import ipaddress
from pathlib import Path

import dns.message
import pytest
from headwater.cluster.objects import EndpointSlice, Namespace, Service
from headwater.settings.parse import parse_reverse_zone
from headwater.settings.settings import Settings
from headwater.store import holders
from headwater.store.holders import Holder, holder_of, key, part_range, prefix, targets
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.harness.small import (
    NOT_READY,
    Small,
    annotated,
    at,
    cluster_ip,
    external_name,
    headless,
    imported,
    remove,
    settings,
    slice_of,
    upsert,
)

WEB = "web.default.svc.cluster.local."
BOTH = ("in-addr.arpa", "ip6.arpa")


def reverse(address: str) -> str:
    return ipaddress.ip_address(address).reverse_pointer


@pytest.fixture
def world(tmp_path: Path) -> Small:
    return Small(tmp_path, settings(reverse_zones=BOTH))


def ptr(world: Small, address: str) -> set[str]:
    return world.answers(reverse(address), "PTR")


@pytest.fixture
def full(world: Small) -> Small:
    return world.fill(
        cluster_ip("api", "172.16.0.1", "fd00::1:1"),
        slice_of("api", at("10.0.1.1", hostname="api-0")),
        headless("web"),
        slice_of("web", at("10.0.0.1", hostname="web-0"), at("10.0.0.2"), name="four"),
        slice_of("web", at("fd00::2:1", hostname="web-0"), at("fd00::2:2"), at("fd00:2::"), name="six"),
        headless("also"),
        slice_of("also", at("10.0.0.1", hostname="x"), at("172.16.0.1", hostname="shadowed")),
        slice_of("web", at("10.0.9.9", conditions=NOT_READY), name="waiting"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        # A Service's own address has precedence over endpoints.
        ("172.16.0.1", {"api.default.svc.cluster.local."}),
        ("fd00::1:1", {"api.default.svc.cluster.local."}),
        # One for every endpoint of every Service that has it.
        ("10.0.0.1", {f"web-0.{WEB}", "x.also.default.svc.cluster.local."}),
        ("10.0.0.2", {f"10-0-0-2.{WEB}"}),
        ("10.0.1.1", {"api-0.api.default.svc.cluster.local."}),
        ("fd00::2:1", {f"web-0.{WEB}"}),
        ("fd00::2:2", {f"fd00--2-2.{WEB}"}),
        ("fd00:2::", {f"fd00-2--0.{WEB}"}),
        ("10.0.0.3", "NXDOMAIN"),
        ("10.0.9.9", "NXDOMAIN"),
        ("fd00::2:3", "NXDOMAIN"),
        ("0.0.0.0", "NXDOMAIN"),
        ("255.255.255.255", "NXDOMAIN"),
        ("::", "NXDOMAIN"),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "NXDOMAIN"),
    ],
)
@pytest.mark.parametrize("edns", [False, True])
def test_an_address_is_answered_as_the_table_says(
    full: Small, address: str, expected: str | set[str], edns: bool
) -> None:
    reply = full.ask(reverse(address), "PTR", edns=edns)
    found = [item.to_text() for rrset in reply.answer for item in rrset]
    assert len(found) == len(set(found))
    assert (set(found) or full.status(reverse(address), "PTR")) == expected


def test_what_a_ptr_says_has_the_address(full: Small) -> None:
    for address in ("172.16.0.1", "10.0.0.1", "10.0.0.2", "10.0.1.1", "fd00::2:1", "fd00:2::", "fd00::1:1"):
        for target in ptr(full, address):
            assert address in full.answers(target, "AAAA" if ":" in address else "A")


@pytest.mark.parametrize(
    "qname",
    [
        "1.0.0.10.IN-ADDR.arpa",
        "1.0.0.0.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.D.F.ip6.ARPA",
    ],
)
def test_letter_case_does_not_matter(full: Small, qname: str) -> None:
    assert f"web-0.{WEB}" in full.answers(qname, "PTR")


@pytest.mark.parametrize(
    "qname",
    [
        "10.in-addr.arpa", "0.10.in-addr.arpa", "0.0.10.in-addr.arpa", "172.in-addr.arpa", "16.172.in-addr.arpa",
        "f.ip6.arpa", "d.f.ip6.arpa", "0.d.f.ip6.arpa", "0.0.d.f.ip6.arpa", "2.0.0.0.0.0.d.f.ip6.arpa",
        reverse("fd00::2:1")[2:], reverse("fd00::2:1")[4:], "in-addr.arpa", "ip6.arpa",
    ],
)  # fmt: skip
@pytest.mark.parametrize("qtype", ["PTR", "A", "TXT", "ANY"])
def test_a_part_of_a_name_below_which_there_are_addresses_is_nodata(full: Small, qname: str, qtype: str) -> None:
    """RFC 8020: an NXDOMAIN would deny all of them."""
    assert full.status(qname, qtype) == "NODATA"


@pytest.mark.parametrize(
    "qname",
    [
        "9.in-addr.arpa", "11.in-addr.arpa", "1.10.in-addr.arpa", "255.9.in-addr.arpa", "2.0.10.in-addr.arpa",
        "9.0.10.in-addr.arpa", "15.172.in-addr.arpa", "17.172.in-addr.arpa", "0.in-addr.arpa", "255.in-addr.arpa",
        "e.ip6.arpa", "0.ip6.arpa", "c.f.ip6.arpa", "e.f.ip6.arpa", "1.0.d.f.ip6.arpa", "0.0.e.f.ip6.arpa",
        "3.0.0.0.0.0.d.f.ip6.arpa", reverse("fd00::3:1")[6:],
    ],
)  # fmt: skip
@pytest.mark.parametrize("qtype", ["PTR", "A"])
def test_its_neighbours_are_nxdomain(full: Small, qname: str, qtype: str) -> None:
    assert full.status(qname, qtype) == "NXDOMAIN"


@pytest.mark.parametrize(
    "qname",
    [
        "x.in-addr.arpa", "256.0.0.10.in-addr.arpa", "01.0.0.10.in-addr.arpa", "001.0.0.10.in-addr.arpa",
        "1.0.0.10.0.in-addr.arpa", "x.1.0.0.10.in-addr.arpa", "1.1.0.0.10.in-addr.arpa", "-1.0.0.10.in-addr.arpa",
        "1_0.0.0.10.in-addr.arpa", "1.0.0.1000.in-addr.arpa", "web.default.svc.in-addr.arpa", "d0.f.ip6.arpa",
        "x.f.ip6.arpa", "_.f.ip6.arpa", "1.0.0.10.ip6.arpa", reverse("fd00::2:1").replace(".d.f.", ".df."),
        "x." + reverse("10.0.0.1"), "1/32.0.0.10.in-addr.arpa", "*.0.0.10.in-addr.arpa", "\\178.0.0.10.in-addr.arpa",
    ],
)  # fmt: skip
@pytest.mark.parametrize("qtype", ["PTR", "A", "SRV"])
def test_what_is_no_address_is_nxdomain(full: Small, qname: str, qtype: str) -> None:
    assert full.status(qname, qtype) == "NXDOMAIN"


@pytest.mark.parametrize("qtype", ["A", "AAAA", "SRV", "TXT", "CNAME", "ANY", "NS", "SOA"])
def test_an_address_has_no_other_type(full: Small, qtype: str) -> None:
    assert full.status(reverse("10.0.0.1"), qtype) == full.status(reverse("fd00::2:1"), qtype) == "NODATA"
    assert full.status(reverse("10.0.0.3"), qtype) == "NXDOMAIN"


def test_an_ipv4_mapped_address_is_the_ipv4_one(world: Small) -> None:
    """RFC 4291 section 2.5.5.2; for Go's net.IP there is no difference."""
    world.fill(headless("web"), slice_of("web", at("::ffff:10.0.0.7", hostname="h")))
    assert ptr(world, "10.0.0.7") == ptr(world, "::ffff:10.0.0.7") == {f"h.{WEB}"}


def test_a_name_that_is_said_in_two_ways_is_one(world: Small) -> None:
    """IPv6 addresses can be written in many ways."""
    world.fill(headless("web"), slice_of("web", at("FD00:0:0::7", hostname="h")), cluster_ip("api", "FD00::0:9"))
    assert ptr(world, "fd00::7") == {f"h.{WEB}"}
    assert ptr(world, "fd00::9") == {"api.default.svc.cluster.local."}


def test_several_slices_with_the_same_endpoint_say_it_once(world: Small) -> None:
    world.fill(
        headless("web"),
        slice_of("web", at("10.0.0.1", hostname="h"), at("10.0.0.1", hostname="H"), name="one"),
        slice_of("web", at("10.0.0.1", hostname="h"), at("10.0.0.1", hostname="i"), name="two"),
    )
    reply = world.ask(reverse("10.0.0.1"), "PTR")
    assert sorted(item.to_text() for item in reply.answer[0]) == [f"h.{WEB}", f"i.{WEB}"]


def test_a_slice_without_its_service_has_its_names_all_the_same(world: Small) -> None:
    """As in CoreDNS, which only reads slices; a slice without a Service's name has no PTR."""
    world.fill(slice_of("orphan", at("10.0.0.1", hostname="h")), slice_of("", at("10.0.0.2", hostname="h"), name="x"))
    assert ptr(world, "10.0.0.1") == {"h.orphan.default.svc.cluster.local."}
    assert world.status(reverse("10.0.0.2"), "PTR") == "NXDOMAIN"


def test_a_namespace_that_is_not_there_does_not_matter_and_one_that_is_not_served_does(tmp_path: Path) -> None:
    objects = (
        cluster_ip("api", "172.16.0.1", namespace="other"), headless("web", "other"),
        slice_of("web", at("10.0.0.1", hostname="h"), namespace="other"),
    )  # fmt: skip
    every = Small(tmp_path / "every", settings(reverse_zones=BOTH)).fill(*objects)
    assert ptr(every, "172.16.0.1") == {"api.other.svc.cluster.local."}
    assert ptr(every, "10.0.0.1") == {"h.web.other.svc.cluster.local."}
    one = Small(tmp_path / "one", settings(reverse_zones=BOTH, namespaces=("default",))).fill(*objects)
    assert one.status(reverse("172.16.0.1"), "PTR") == one.status(reverse("10.0.0.1"), "PTR") == "NXDOMAIN"


def test_with_the_namespace_filter_the_next_holder_is_said(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(reverse_zones=BOTH, namespaces=("default",)))
    world.fill(
        cluster_ip("hidden", "172.16.0.1", namespace="other"), slice_of("web", at("172.16.0.1", hostname="h")),
        namespaces=["default", "other"],
    )  # fmt: skip
    assert ptr(world, "172.16.0.1") == {f"h.{WEB}"}


@pytest.mark.parametrize(("pod_names", "expected"), [(False, "10-0-0-1"), (True, "p")])
def test_with_endpoint_pod_names_the_name_is_the_pods(tmp_path: Path, pod_names: bool, expected: str) -> None:
    world = Small(tmp_path, settings(reverse_zones=BOTH, endpoint_pod_names=pod_names))
    world.fill(
        headless("web"),
        slice_of("web", at("10.0.0.1", pod="p"), at("10.0.0.2", pod="q", hostname="h"), at("10.0.0.3", pod="r" * 64)),
    )
    assert ptr(world, "10.0.0.1") == {f"{expected}.{WEB}"}
    assert ptr(world, "10.0.0.2") == {f"h.{WEB}"}
    assert ptr(world, "10.0.0.3") == {f"10-0-0-3.{WEB}"}


def test_the_annotations_for_names_and_readiness_do_not_change_ptr(world: Small) -> None:
    """PTR has the one name of a ready endpoint (specification 2.4.3)."""
    service = annotated(headless("web"), pod_names="true", publish="all", ttl="60")
    world.fill(service, slice_of("web", at("10.0.0.1", pod="p"), at("10.0.0.2", conditions=NOT_READY)))
    assert ptr(world, "10.0.0.1") == {f"10-0-0-1.{WEB}"}
    assert world.status(reverse("10.0.0.2"), "PTR") == "NXDOMAIN"


def test_external_names_headless_services_and_imports_have_no_address(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(reverse_zones=BOTH, multicluster_zones=("clusterset.local",)))
    external = external_name("ext", "example.org")
    world.fill(
        Service("default", "ext", "ExternalName", False, ("172.16.0.1",), external.external_name, ()),
        imported("web", "east", at("10.1.0.1", hostname="h")),
    )
    assert world.status(reverse("172.16.0.1"), "PTR") == world.status(reverse("10.1.0.1"), "PTR") == "NXDOMAIN"


def test_the_name_is_in_the_first_zone(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(zones=("first.test", "cluster.local"), reverse_zones=BOTH))
    world.fill(headless("web"), slice_of("web", at("10.0.0.1", hostname="h")))
    assert ptr(world, "10.0.0.1") == {"h.web.default.svc.first.test."}


def test_a_name_too_long_for_dns_is_none(tmp_path: Path) -> None:
    zone = ".".join(["z" * 60] * 3)
    world = Small(tmp_path, Settings(zones=(zone, "cluster.local"), reverse_zones=BOTH))
    name = "s" * 50
    world.fill(
        headless(name), slice_of(name, at("10.0.0.1", hostname="h" * 40)),
        slice_of("web", at("10.0.0.1", hostname="h")),
        cluster_ip("a" * 63, "172.16.0.1"), slice_of("web", at("172.16.0.1", hostname="h"), name="two"),
    )  # fmt: skip
    assert ptr(world, "10.0.0.1") == {f"h.web.default.svc.{zone}."}
    assert world.status(reverse("172.16.0.1"), "PTR") in ("NXDOMAIN", "NOERROR")


# What changes


def test_names_follow_the_endpoints_the_slices_and_the_services(full: Small) -> None:
    def said(address: str) -> set[str] | str:
        return ptr(full, address) or full.status(reverse(address), "PTR")

    full.commit(upsert(slice_of("web", at("10.0.0.1", hostname="new"), at("10.0.0.3"), name="four")))
    assert said("10.0.0.1") == {f"new.{WEB}", "x.also.default.svc.cluster.local."}
    assert said("10.0.0.2") == "NXDOMAIN"
    assert said("10.0.0.3") == {f"10-0-0-3.{WEB}"}
    full.commit(upsert(slice_of("web", at("10.0.0.1", hostname="new", conditions=NOT_READY), name="four")))
    assert said("10.0.0.1") == {"x.also.default.svc.cluster.local."}
    full.commit(upsert(slice_of("also", at("10.0.0.1", hostname="x"), name="four")))
    assert said("10.0.0.1") == {"x.also.default.svc.cluster.local."}
    full.commit(remove(slice_of("also", name="four")), remove(slice_of("also")))
    assert said("10.0.0.1") == "NXDOMAIN"
    # When the Service is deleted, its address belongs to an endpoint.
    full.commit(upsert(slice_of("also", at("172.16.0.1", hostname="shadowed"))))
    assert said("172.16.0.1") == {"api.default.svc.cluster.local."}
    full.commit(upsert(cluster_ip("api", "172.16.0.2")))
    assert said("172.16.0.1") == {"shadowed.also.default.svc.cluster.local."}
    assert said("172.16.0.2") == {"api.default.svc.cluster.local."}
    assert said("fd00::1:1") == "NXDOMAIN"
    full.commit(remove(cluster_ip("api")))
    assert said("172.16.0.2") == "NXDOMAIN"


def test_a_namespace_that_goes_leaves_the_addresses_of_its_objects(full: Small) -> None:
    full.commit(remove(Namespace("default")))
    assert ptr(full, "10.0.0.2") == {f"10-0-0-2.{WEB}"}


def test_other_reverse_settings_on_the_same_state_fill_the_index_or_empty_it(tmp_path: Path) -> None:
    plain = Small(tmp_path).fill(cluster_ip("api", "172.16.0.1"), slice_of("web", at("10.0.0.1", hostname="h")))
    for _ in range(2):
        with_reverse = plain.with_settings(settings(reverse_zones=BOTH))
        assert with_reverse.records()
        assert ptr(with_reverse, "172.16.0.1") == {"api.default.svc.cluster.local."}
        assert ptr(with_reverse, "10.0.0.1") == {f"h.{WEB}"}
        store, _ = plain.open()
        assert store.read(lambda txn: txn.count("addresses")) == 0
        store.close()


def test_the_serial_moves_when_only_an_address_changes_its_name(world: Small) -> None:
    world.fill(slice_of("orphan", at("10.0.0.1", hostname="h")))
    outcome = world.commit(upsert(slice_of("orphan", at("10.0.0.1", hostname="i"))))
    assert outcome.records_changed == 1


# Zones


@pytest.mark.parametrize(
    ("zone", "inside", "outside"),
    [
        ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
        ("10.96.0.0/12", "10.111.0.1", "10.112.0.1"),
        ("10.0.0.0/24", "10.0.0.1", "10.0.1.1"),
        ("10.0.0.1/32", "10.0.0.1", "10.0.0.2"),
        ("10.in-addr.arpa", "10.0.0.1", "172.16.0.1"),
        ("0.0.0.0/0", "10.0.0.1", "fd00::1"),
        ("fd00::/8", "fd00::1", "fe00::1"),
        ("fd00:10:96::/46", "fd00:10:97::1", "fd00:10:9a::1"),
        ("fd00::1/128", "fd00::1", "fd00::2"),
        ("::/0", "fd00::1", "10.0.0.1"),
    ],
)
def test_a_cidr_is_the_zones_that_hold_its_addresses(tmp_path: Path, zone: str, inside: str, outside: str) -> None:
    world = Small(tmp_path, settings(reverse_zones=parse_reverse_zone(zone, "--reverse-zone")))
    world.fill(headless("web"), slice_of("web", at(inside, hostname="in"), at(outside, hostname="out")))
    assert ptr(world, inside) == {f"in.{WEB}"}
    (reply,) = world.ask_wire(dns.message.make_query(reverse(outside), "PTR").to_wire())
    assert dns.message.from_wire(reply or b"").rcode() == 5, "not ours: refused"


def test_a_reverse_zone_has_soa_ns_and_nothing_of_the_cluster(tmp_path: Path) -> None:
    zone = "10.in-addr.arpa"
    world = Small(tmp_path, settings(reverse_zones=(zone,)), name_servers=("192.0.2.53",))
    world.fill(headless("web"), slice_of("web", at("10.0.0.1", hostname="h")))
    assert world.answers(zone, "SOA") == {f"ns.dns.{zone}. hostmaster.{zone}. 1800000000 7200 1800 86400 5"}
    assert world.answers(zone, "NS") == {f"ns.dns.{zone}."}
    assert world.answers(f"ns.dns.{zone}") == {"192.0.2.53"}
    assert world.status(zone, "PTR") == "NODATA"
    for name in ("web.default.svc", "default.svc", "10-0-0-1.default.pod"):
        assert world.status(f"{name}.{zone}") == "NXDOMAIN"


def test_without_reverse_zones_the_names_are_not_ours_and_nothing_is_kept(tmp_path: Path) -> None:
    world = Small(tmp_path).fill(cluster_ip("api", "172.16.0.1"), slice_of("web", at("10.0.0.1")))
    (reply,) = world.ask_wire(dns.message.make_query(reverse("10.0.0.1"), "PTR").to_wire())
    assert dns.message.from_wire(reply or b"").rcode() == 5
    store, _ = world.open()
    assert store.read(lambda txn: txn.count("addresses")) == 0
    store.close()


def test_many_names_of_one_address_are_as_many_as_fit(world: Small) -> None:
    endpoints = [at("10.0.0.1", hostname=f"host-{i}-{'x' * 40}") for i in range(1500)]
    world.fill(headless("web"), slice_of("web", *endpoints))
    for edns in (None, 0):
        query = dns.message.make_query(reverse("10.0.0.1"), "PTR", use_edns=edns).to_wire()
        (reply,) = world.ask_wire(query)
        assert reply is not None
        assert 65535 - 120 < len(reply) <= 65535
        assert len(dns.message.from_wire(reply).answer[0]) > 500


# The index


_PACKED = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)


@given(_PACKED, st.sampled_from(Holder), st.text("abc-.", max_size=5), st.text("abc-.", min_size=1, max_size=5))
def test_a_key_begins_with_its_address_and_knows_its_holder(
    address: bytes, holder: Holder, namespace: str, name: str
) -> None:
    entry = key(address, holder, namespace, name)
    assert entry.startswith(prefix(address))
    assert holder_of(entry) is holder
    assert len(entry) <= 511 - 200


@given(_PACKED, _PACKED, st.integers(1, 32), st.sampled_from(Holder))
@hypothesis_settings(max_examples=300)
def test_the_range_of_a_part_holds_the_addresses_that_begin_with_it_and_no_others(
    one: bytes, other: bytes, size: int, holder: Holder
) -> None:
    family = 4 if len(one) == 4 else 6
    part = one.hex()[: min(size, 2 * len(one))]
    start, stop = part_range(family, part)
    assert start <= key(one, holder, "\U0010ffff", "~") < stop
    inside = len(other) == len(one) and other.hex().startswith(part)
    assert (start <= key(other, holder, "a", "b") < stop) == inside


@pytest.mark.parametrize("edge", ["00", "0f", "10", "f0", "ff"])
def test_the_range_of_a_part_has_its_edges(edge: str) -> None:
    for family, size in ((4, 8), (6, 32)):
        for part in (edge, edge[0], edge + "00", edge + "ff", edge + "f"):
            start, stop = part_range(family, part)
            lowest = bytes.fromhex(part.ljust(size, "0"))
            highest = bytes.fromhex(part.ljust(size, "f"))
            assert start <= key(lowest, Holder.SERVICE, "", "") <= key(highest, Holder.SLICE, "z", "z") < stop
            after = int(part, 16) + 1
            if after < 16 ** len(part):
                assert key(bytes.fromhex(f"{after:0{len(part)}x}".ljust(size, "0")), Holder.SERVICE, "", "") >= stop


@given(st.lists(st.lists(st.binary(min_size=1, max_size=63), max_size=4), max_size=5))
def test_the_names_of_a_value_come_apart_as_they_were(names: list[list[bytes]]) -> None:
    """Labels may have zero bytes; only a length of zero ends a name."""
    wire = [b"".join(bytes((len(label),)) + label for label in labels) + b"\0" for labels in names]
    assert list(targets(b"".join(wire))) == wire


def test_an_address_of_another_length_has_no_prefix() -> None:
    with pytest.raises(KeyError):
        holders.prefix(b"\1\2\3")


def test_a_slice_of_many_addresses_has_one_entry_each(world: Small) -> None:
    slice_ = EndpointSlice("default", "s", "web", (), tuple(at(f"10.0.{i}.1", f"10.0.{i}.2") for i in range(50)))
    world.fill(slice_)
    store, _ = world.open()
    assert store.read(lambda txn: txn.count("addresses")) == 100
    store.close()
    world.commit(remove(slice_))
    store, _ = world.open()
    assert store.read(lambda txn: txn.count("addresses")) == 0
    store.close()
