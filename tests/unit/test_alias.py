"""ExternalName Services: the CNAME, and the targets' A and AAAA (plugin/backend_lookup.go)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import pytest
from headwater.answer.alias import Pending
from headwater.answer.counts import Reason, count_parts
from headwater.answer.resolver import Resolver
from headwater.cluster.objects import Object, Pod, Service
from headwater.store.environment import Reader
from headwater.wire.header import MAX_MESSAGE
from headwater.wire.names import name

from tests.harness.small import (
    Small,
    annotated,
    at,
    cluster_ip,
    external_name,
    headless,
    remove,
    settings,
    slice_of,
    status,
    upsert,
)

ZONE = "cluster.local"
OTHER = "k8s.example.org"
EXT = "ext.default.svc.cluster.local"
#: EXT's own CNAME in `records_of`, without its target.
LEADS = f"{EXT}. CNAME "


def here(service: str, zone: str = ZONE) -> str:
    return f"{service}.default.svc.{zone}"


def records_of(message: dns.message.Message) -> list[str]:
    """Return the answer section in its order, as "OWNER TYPE DATA"."""
    return [
        f"{rrset.name.to_text().lower()} {dns.rdatatype.to_text(rrset.rdtype)} {item.to_text()}"
        for rrset in message.answer
        for item in rrset
    ]


def ask(
    world: Small, qname: str, qtype: str = "A", *, elsewhere: Sequence[bytes] = (), edns: int | None = None
) -> dns.message.Message:
    """Ask as Small.ask does, with one record per RRset, so that their order is visible."""
    query = dns.message.make_query(qname, qtype, use_edns=edns)
    (reply,) = world.ask_wire(query.to_wire(), elsewhere=elsewhere)
    assert reply is not None
    message = dns.message.from_wire(reply, one_rr_per_rrset=True)
    assert query.is_response(message)
    assert message.flags & dns.flags.AA
    assert message.edns == (-1 if edns is None else 0)
    return message


def record(owner: str, qtype: str, data: str, ttl: int = 300) -> bytes:
    """Return one record as another server sends it."""
    (item,) = dns.rrset.from_text(owner, ttl, "IN", qtype, data)
    rdata = item.to_wire()
    assert isinstance(rdata, bytes)
    return name(owner) + struct.pack(">HHIH", dns.rdatatype.from_text(qtype), 1, ttl, len(rdata)) + rdata


@pytest.fixture
def world(tmp_path: Path) -> Small:
    return Small(tmp_path, name_servers=("192.0.2.53",))


@pytest.fixture
def inside(world: Small) -> Small:
    """Add Services that are targets of aliases."""
    return world.fill(
        headless("web"),
        slice_of("web", at("10.0.0.1", hostname="web-0"), at("10.0.0.2", hostname="web-1")),
        cluster_ip("api", "172.16.0.1", "fd00::1"),
        headless("nobody"),
    )


# The Service's own name


@pytest.mark.parametrize("target", ["example.org", "example.org.", "EXAMPLE.Org", here("web"), "x", "_odd.example.org"])
@pytest.mark.parametrize("edns", [None, 0])
def test_cname_is_the_external_name_wherever_it_leads(world: Small, target: str, edns: int | None) -> None:
    world.fill(external_name("ext", target))
    reply = ask(world, EXT, "CNAME", edns=edns)
    assert records_of(reply) == [LEADS + target.removesuffix(".").lower() + "."]
    assert reply.answer[0].ttl == 5


@pytest.mark.parametrize("qtype", ["SRV", "TXT", "MX", "NS", "SOA", "HTTPS", "ANY"])
def test_other_types_are_nodata(world: Small, qtype: str) -> None:
    assert world.fill(external_name("ext", "example.org")).status(EXT, qtype) == "NODATA"


@pytest.mark.parametrize("label", ["_http._tcp", "http.tcp", "_tcp", "10-0-0-1", "host"])
def test_below_an_external_name_there_is_nothing(world: Small, label: str) -> None:
    """Not even if slices are labelled with it."""
    world.fill(
        Service("default", "ext", "ExternalName", True, (), "example.org", cluster_ip("x").ports),
        slice_of("ext", at("10.0.0.1", hostname="host"), at("10.0.0.1")),
    )
    assert world.status(f"{label}.{EXT}") == world.status(f"{label}.{EXT}", "SRV") == "NXDOMAIN"


@pytest.mark.parametrize("target", ["10.0.0.1", "fd00::1", "::ffff:10.0.0.1", "0.0.0.0"])
def test_a_target_that_is_an_address_is_none(world: Small, target: str) -> None:
    """A CNAME cannot have an address; CoreDNS has no such names either."""
    world.fill(external_name("ext", target))
    assert world.status(EXT, "CNAME") == world.status(EXT) == "NXDOMAIN"
    assert world.reports == []


@pytest.mark.parametrize("target", ["", ".", "a..b", "x" * 64 + ".org", ".".join(["x" * 60] * 5), "ümlaut.org", "..."])
def test_a_target_that_is_no_name_is_reported_and_harms_nothing(world: Small, target: str) -> None:
    world.fill(external_name("ext", target), cluster_ip("api", "172.16.0.1"))
    assert world.status(EXT, "CNAME") == world.status(EXT) == "NXDOMAIN"
    assert world.answers(here("api")) == {"172.16.0.1"}
    assert [report[:3] for report in world.reports] == [("name", "default", "ext")]


def test_a_service_becomes_an_alias_and_back(inside: Small) -> None:
    inside.commit(upsert(external_name("web", here("api"))))
    assert records_of(ask(inside, here("web"))) == [
        f"{here('web')}. CNAME {here('api')}.",
        f"{here('api')}. A 172.16.0.1",
    ]
    assert inside.status(f"web-0.{here('web')}") == inside.status(f"_http._tcp.{here('web')}") == "NXDOMAIN"
    inside.commit(upsert(headless("web")))
    assert inside.answers(here("web")) == {"10.0.0.1", "10.0.0.2"}
    assert inside.status(here("web"), "CNAME") == "NODATA"
    inside.commit(upsert(external_name("web", here("api"))), remove(headless("web")))
    assert inside.status(here("web"), "CNAME") == "NXDOMAIN"


# Targets in the same zone


@pytest.mark.parametrize(
    ("target", "qtype", "expected"),
    [
        ("web.default.svc.cluster.local", "A", {"10.0.0.1", "10.0.0.2"}),
        ("WEB.Default.svc.CLUSTER.local.", "A", {"10.0.0.1", "10.0.0.2"}),
        ("web-1.web.default.svc.cluster.local", "A", {"10.0.0.2"}),
        ("_http._tcp.web.default.svc.cluster.local", "A", {"10.0.0.1", "10.0.0.2"}),
        ("http.tcp.web.default.svc.cluster.local", "A", {"10.0.0.1", "10.0.0.2"}),
        ("api.default.svc.cluster.local", "A", {"172.16.0.1"}),
        ("api.default.svc.cluster.local", "AAAA", {"fd00::1"}),
        ("ns.dns.cluster.local", "A", {"192.0.2.53"}),
    ],
)
@pytest.mark.parametrize("edns", [None, 0])
def test_a_target_that_is_there_is_answered_after_its_cname(
    inside: Small, target: str, qtype: str, expected: set[str], edns: int | None
) -> None:
    inside.commit(upsert(external_name("ext", target)))
    owner = target.removesuffix(".").lower() + "."
    first, *others = records_of(ask(inside, EXT, qtype, edns=edns))
    assert first == LEADS + owner
    assert set(others) == {f"{owner} {qtype} {address}" for address in expected}


@pytest.mark.parametrize(
    ("target", "qtype"),
    [
        (here("web"), "AAAA"),
        (here("nobody"), "A"),
        (here("ghost"), "A"),
        (f"web-2.{here('web')}", "A"),
        (f"_tcp.{here('web')}", "A"),
        ("default.svc.cluster.local", "A"),
        ("svc.cluster.local", "A"),
        ("cluster.local", "A"),
        ("dns-version.cluster.local", "A"),
        ("elsewhere.cluster.local", "AAAA"),
        (EXT, "A"),
        (f"below.{EXT}", "A"),
        (f"a.b.c.{EXT}", "AAAA"),
    ],
)
@pytest.mark.parametrize("edns", [None, 0])
def test_a_target_that_comes_to_nothing_is_nodata_and_its_cname_is_there(
    inside: Small, target: str, qtype: str, edns: int | None
) -> None:
    inside.commit(upsert(external_name("ext", target)))
    assert status(ask(inside, EXT, qtype, edns=edns)) == "NODATA"
    assert records_of(ask(inside, EXT, "CNAME")) == [f"{LEADS}{target}."]


def test_a_target_that_vanishes_and_returns_is_seen_at_once(inside: Small) -> None:
    """The alias stores nothing of its target."""
    inside.commit(upsert(external_name("ext", here("api"))))
    before = inside.records()[name(EXT)]
    assert len(records_of(ask(inside, EXT))) == 2
    inside.commit(remove(cluster_ip("api")))
    assert status(ask(inside, EXT)) == "NODATA"
    inside.commit(upsert(cluster_ip("api", "172.16.0.9")))
    assert records_of(ask(inside, EXT))[1] == f"{here('api')}. A 172.16.0.9"
    assert inside.records()[name(EXT)] == before


def test_the_query_keeps_its_letters_and_the_records_their_owner(inside: Small) -> None:
    inside.commit(upsert(external_name("ext", here("api"))))
    for edns in (None, 0):
        reply = ask(inside, "EXT.DeFault.svc.cluster.LOCAL", edns=edns)
        assert reply.question[0].name.to_text() == "EXT.DeFault.svc.cluster.LOCAL."
        assert reply.answer[0].name.to_text() == "EXT.DeFault.svc.cluster.LOCAL."


def test_ttls_are_those_of_each_record(inside: Small) -> None:
    inside.commit(
        upsert(annotated(external_name("ext", here("api")), ttl="60")),
        upsert(annotated(cluster_ip("api", "172.16.0.1"), ttl="30")),
    )
    assert [rrset.ttl for rrset in ask(inside, EXT).answer] == [60, 30]


def test_the_targets_set_is_rotated_and_limited_as_ever(inside: Small) -> None:
    inside.commit(upsert(external_name("ext", here("web"))))
    replies = inside.ask_wire(*[dns.message.make_query(EXT, "A").to_wire()] * 20)
    firsts = {records_of(dns.message.from_wire(reply or b"", one_rr_per_rrset=True))[1] for reply in replies}
    assert len(firsts) == 2
    inside.commit(upsert(annotated(headless("web"), max_answers="1")))
    assert len(records_of(ask(inside, EXT))) == 2


# Chains


def chain(length: int, end: str, zone: str = ZONE) -> list[Object]:
    """Return this many aliases: c1 -> c2 -> … -> end."""
    return [external_name(f"c{i}", end if i == length else here(f"c{i + 1}", zone)) for i in range(1, length + 1)]


@pytest.mark.parametrize("length", [1, 2, 5, 10, 11])
@pytest.mark.parametrize("edns", [None, 0])
def test_a_chain_is_said_in_its_order(world: Small, length: int, edns: int | None) -> None:
    world.fill(*chain(length, here("api")), cluster_ip("api", "172.16.0.1"))
    expected = [f"{here(f'c{i}')}. CNAME {here(f'c{i + 1}')}." for i in range(1, length)]
    expected += [f"{here(f'c{length}')}. CNAME {here('api')}.", f"{here('api')}. A 172.16.0.1"]
    assert records_of(ask(world, here("c1"), edns=edns)) == expected
    assert records_of(ask(world, here("c1"), "CNAME")) == expected[:1]


@pytest.mark.parametrize("length", [12, 13, 40])
def test_a_chain_that_is_too_long_comes_to_nothing(world: Small, length: int) -> None:
    """maxCnameChainLength is 10, without the first."""
    world.fill(*chain(length, here("api")), cluster_ip("api", "172.16.0.1"))
    assert status(ask(world, here("c1"))) == "NODATA"
    assert len(records_of(ask(world, here(f"c{length - 10}")))) == 12


@pytest.mark.parametrize("length", [1, 2, 3, 7])
@pytest.mark.parametrize("before", [0, 1])
def test_a_loop_comes_to_nothing(world: Small, length: int, before: int) -> None:
    world.fill(*chain(length, here("c1")), external_name("c0", here("c1")))
    for qtype in ("A", "AAAA"):
        assert status(ask(world, here(f"c{1 - before}"), qtype)) == "NODATA"


# Targets outside


@pytest.mark.parametrize("qtype", ["A", "AAAA"])
@pytest.mark.parametrize("edns", [None, 0])
@pytest.mark.parametrize("qname", [EXT, EXT.upper()])
def test_a_target_outside_is_asked_for_and_its_records_follow(
    world: Small, qtype: str, edns: int | None, qname: str
) -> None:
    world.fill(external_name("ext", "WWW.Example.Org"))
    query = dns.message.make_query(qname, qtype, use_edns=edns).to_wire()
    (pending,) = world.replies(query)
    assert isinstance(pending, Pending)
    assert (pending.target, pending.qtype) == (name("www.example.org"), dns.rdatatype.from_text(qtype))
    data = {"A": "192.0.2.7", "AAAA": "2001:db8::7"}[qtype]
    more = [record("www.example.org", "CNAME", "cdn.example.net."), record("cdn.example.net", qtype, data)]
    reply = ask(world, qname, qtype, elsewhere=more, edns=edns)
    assert records_of(reply) == [
        f"{LEADS}www.example.org.", "www.example.org. CNAME cdn.example.net.", f"cdn.example.net. {qtype} {data}",
    ]  # fmt: skip
    assert [rrset.ttl for rrset in reply.answer] == [5, 300, 300]


@pytest.mark.parametrize("edns", [None, 0])
def test_without_records_from_outside_the_cname_stands_alone(world: Small, edns: int | None) -> None:
    world.fill(external_name("ext", "www.example.org"))
    reply = ask(world, EXT, edns=edns)
    assert records_of(reply) == [f"{LEADS}www.example.org."]
    assert (reply.rcode(), reply.authority) == (0, [])


@pytest.mark.parametrize("length", [1, 2, 11])
def test_a_chain_that_ends_outside_stands(world: Small, length: int) -> None:
    world.fill(*chain(length, "www.example.org"))
    more = [record("www.example.org", "A", "192.0.2.7")]
    assert len(records_of(ask(world, here("c1")))) == length
    assert records_of(ask(world, here("c1"), elsewhere=more))[length:] == ["www.example.org. A 192.0.2.7"]


def test_a_chain_that_is_too_long_is_asked_of_nobody(world: Small) -> None:
    world.fill(*chain(12, "www.example.org"))
    query = dns.message.make_query(here("c1"), "A").to_wire()
    assert isinstance(world.replies(query)[0], bytes)
    assert status(ask(world, here("c1"))) == "NODATA"


def test_cname_is_asked_of_nobody(world: Small) -> None:
    world.fill(external_name("ext", "www.example.org"))
    assert isinstance(world.replies(dns.message.make_query(EXT, "CNAME").to_wire())[0], bytes)


@pytest.mark.parametrize("edns", [None, 0])
def test_more_from_outside_than_fits_is_cut_between_records(world: Small, edns: int | None) -> None:
    world.fill(external_name("ext", "www.example.org"))
    more = [record("www.example.org", "A", f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}") for i in range(5000)]
    query = dns.message.make_query(EXT, "A", use_edns=edns).to_wire()
    (reply,) = world.ask_wire(query, elsewhere=more)
    assert reply is not None
    assert MAX_MESSAGE - 40 < len(reply) <= MAX_MESSAGE
    message = dns.message.from_wire(reply)
    assert message.edns == (-1 if edns is None else 0)
    assert len(message.answer[-1]) > 1500


def test_what_waits_is_counted_once_and_when_it_is_answered(world: Small) -> None:
    world.fill(external_name("ext", "www.example.org"))
    reader = Reader(world.state_dir, world.identity)
    reader.follow()
    resolver = Resolver(reader, world.settings)
    snapshot = reader.begin()
    assert snapshot is not None
    pending = resolver.answer(dns.message.make_query(EXT, "A").to_wire(), snapshot)
    snapshot.close()
    reader.close()
    assert isinstance(pending, Pending)
    assert resolver.counts == {}
    pending.finish([])
    assert {count_parts(key): count for key, count in resolver.counts.items()} == {(1, 1, Reason.ANSWER): 1}


# Other zones that are served here


@pytest.fixture
def zones(tmp_path: Path) -> Small:
    return Small(
        tmp_path,
        settings(zones=(ZONE, OTHER), multicluster_zones=("clusterset.local",), reverse_zones=("10.in-addr.arpa",)),
    )


@pytest.mark.parametrize(
    ("target", "qtype", "expected"),
    [
        (here("api", OTHER), "A", [f"{here('api', OTHER)}. A 172.16.0.1"]),
        # The chain has left the zone, so its records stay in the reply, whatever its end is.
        (here("api", OTHER), "AAAA", []),
        (here("ghost", OTHER), "A", []),
        (OTHER, "A", []),
        (here("web", "clusterset.local"), "A", []),
        ("1.0.0.10.in-addr.arpa", "A", []),
        ("10.in-addr.arpa", "A", []),
        # The same holds if it ends there without an answer.
        (here("loop", OTHER), "A", []),
        (
            here("two", OTHER),
            "A",
            [f"{here('two', OTHER)}. CNAME {here('api', OTHER)}.", f"{here('api', OTHER)}. A 172.16.0.1"],
        ),
    ],
)
@pytest.mark.parametrize("edns", [None, 0])
def test_a_target_in_another_served_zone_is_answered_from_there(
    zones: Small, target: str, qtype: str, expected: list[str], edns: int | None
) -> None:
    # Every Service is in both zones; the target of `two` is in the other zone.
    zones.fill(
        external_name("ext", target), external_name("loop", here("loop", OTHER)), cluster_ip("api", "172.16.0.1"),
        external_name("two", here("api", OTHER)),
    )  # fmt: skip
    assert records_of(ask(zones, EXT, qtype, edns=edns)) == [f"{LEADS}{target}.", *expected]


def test_a_loop_through_two_zones_ends_and_says_nothing_twice(zones: Small) -> None:
    zones.fill(external_name("a", here("b", OTHER)), external_name("b", here("a", ZONE)))
    for qname in (here("a"), here("b"), here("a", OTHER), here("b", OTHER)):
        for qtype in ("A", "AAAA"):
            found = records_of(ask(zones, qname, qtype))
            assert len(set(found)) == len(found), "an RRset has no record twice (RFC 2181 section 5)"


def test_a_long_way_through_two_zones_ends(zones: Small) -> None:
    """Each step leaves the zone, so no zone's chain is long."""
    zones.fill(*[external_name(f"s{i}", here(f"s{i + 1}", OTHER if i % 2 else ZONE)) for i in range(200)])
    found = records_of(ask(zones, here("s0", OTHER)))
    assert len(set(found)) == len(found) <= 64


def test_a_chain_goes_on_outside_after_another_zone(zones: Small) -> None:
    zones.fill(external_name("ext", here("two", OTHER)), external_name("two", "www.example.org"))
    more = [record("www.example.org", "A", "192.0.2.7")]
    assert records_of(ask(zones, EXT, elsewhere=more)) == [
        f"{LEADS}{here('two', OTHER)}.",
        f"{here('two', OTHER)}. CNAME www.example.org.",
        "www.example.org. A 192.0.2.7",
    ]


# Pods as targets


@pytest.mark.parametrize("mode", ["disabled", "insecure", "verified"])
@pytest.mark.parametrize(
    ("label", "qtype", "address"),
    [("10-0-0-1", "A", "10.0.0.1"), ("fd00--7", "AAAA", "fd00::7"), ("x.y.10-0-0-1", "A", "10.0.0.1")],
)
def test_a_pods_name_is_a_target_like_any_other(
    tmp_path: Path, mode: str, label: str, qtype: str, address: str
) -> None:
    world = Small(tmp_path, settings(pods=mode))
    target = f"{label}.default.pod.cluster.local"
    world.fill(external_name("ext", target), Pod("default", "p", ("10.0.0.1", "fd00::7")))
    for edns in (None, 0):
        reply = ask(world, EXT, qtype, edns=edns)
        if mode == "disabled":
            assert status(reply) == "NODATA"
        else:
            assert records_of(reply) == [f"{LEADS}{target}.", f"{target}. {qtype} {address}"]
    other = "AAAA" if qtype == "A" else "A"
    assert status(ask(world, EXT, other)) == "NODATA"


@pytest.mark.parametrize(
    "target", ["10-0-0-9.default.pod", "10-0-0-1.other.pod", "default.pod", "pod", "x.default.pod"]
)
def test_a_pod_that_is_not_there_is_no_target(tmp_path: Path, target: str) -> None:
    world = Small(tmp_path, settings(pods="verified"))
    world.fill(external_name("ext", f"{target}.cluster.local"), Pod("default", "p", ("10.0.0.1",)))
    assert status(ask(world, EXT)) == "NODATA"


def test_a_zonal_name_is_a_target_with_its_fallback(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(zonal=True))
    world.fill(headless("web"), slice_of("web", at("10.0.0.1", zone="eu"), at("10.0.0.2")))
    for zone, expected in (("eu", {"10.0.0.1"}), ("us", {"10.0.0.1", "10.0.0.2"})):
        target = f"{zone}.prefer._zone.{here('web')}"
        world.commit(upsert(external_name("ext", target)))
        assert set(records_of(ask(world, EXT))[1:]) == {f"{target}. A {address}" for address in expected}


def test_the_tenant_of_what_is_asked_elsewhere_is_the_namespace_that_leads_there(tmp_path: Path) -> None:
    """It is the last namespace on the way, whose object names the external target."""
    small = Small(tmp_path).fill(
        external_name("first", "second.other.svc.cluster.local"),
        external_name("second", "www.example.org", namespace="other"),
        external_name("own", "www.example.net"),
        namespaces=("default", "other"),
    )
    queries = [
        dns.message.make_query(f"{item}.svc.cluster.local", "A").to_wire() for item in ("first.default", "own.default")
    ]
    replies = small.replies(*queries)
    assert [reply.tenant for reply in replies if isinstance(reply, Pending)] == [b"\x05other", b"\x07default"]
