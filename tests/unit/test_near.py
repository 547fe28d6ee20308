"""Answers by the client's place: sets for zones and nodes, and who gets which (docs/near.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import dns.message
import msgspec
import pytest
from headwater.answer.alias import Pending
from headwater.answer.resolver import Resolver
from headwater.cluster.objects import Endpoint, Object, Pod, Port, Service
from headwater.explain.explain import explained_from
from headwater.explain.extended import Reasons
from headwater.explain.near import told as near_told
from headwater.records import limits
from headwater.settings.address import Address
from headwater.settings.places import ZoneAddress
from headwater.store import places
from headwater.store.environment import Reader
from headwater.wire import names
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.harness.small import (
    NOT_READY,
    READY,
    Small,
    annotated,
    answers,
    cluster_ip,
    external_name,
    headless,
    remove,
    settings,
    slice_of,
    status,
    upsert,
)

Z = "default.svc.cluster.local"
ALL = {"10.0.0.1", "10.0.0.2", "10.0.0.3"}
TYPES = ("A", "AAAA", "SRV", "TXT", "SOA", "CNAME")
NEAR = settings(listen_zones=(ZoneAddress("a", Address(path="/run/a.sock")),))


def preferring(service: Service, distribution: str = "PreferSameZone") -> Service:
    return msgspec.structs.replace(service, distribution=distribution)


def hinted(
    address: str, zones: Sequence[str] = (), nodes: Sequence[str] = (), *, conditions: int = READY, hostname: str = ""
) -> Endpoint:
    return Endpoint((address,), conditions, hostname, "", "", "", tuple(zones), tuple(nodes))


def member(address: str, zone: str, *, conditions: int = READY, hostname: str = "") -> Endpoint:
    return Endpoint((address,), conditions, hostname, "", zone)


class World(Small):
    """A small world that is asked from places."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(state_dir, NEAR)

    def replies_at(self, zone: str, node: str, *queries: bytes, small: bool = False) -> list[bytes]:
        reader = Reader(self.state_dir, self.identity)
        reader.follow()
        resolver = Resolver(reader, self.settings)
        way = resolver.at(zone, node, small=small)
        snapshot = reader.begin()
        assert snapshot is not None
        try:
            found = [way(query, snapshot) for query in queries]
        finally:
            snapshot.close()
            reader.close()
        self.near = resolver.near
        assert not any(reply is None or isinstance(reply, Pending) for reply in found)
        return [reply for reply in found if isinstance(reply, bytes)]

    def ask_at(
        self, zone: str, qname: str, qtype: str = "A", *, node: str = "", small: bool = False
    ) -> dns.message.Message:
        query = dns.message.make_query(f"{qname}.{Z}", qtype, use_edns=0 if small else None)
        (reply,) = self.replies_at(zone, node, query.to_wire(), small=small)
        message = dns.message.from_wire(reply)
        assert query.is_response(message)
        return message

    def at(self, zone: str, qname: str, qtype: str = "A", *, node: str = "") -> set[str] | str:
        """The addresses, or the targets, that a client in a zone and on a node gets."""
        message = self.ask_at(zone, qname, qtype, node=node)
        found = {text.split()[-1].split(".")[0] if qtype == "SRV" else text for text in answers(message, qtype)}
        return found or status(message)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def three(**hostnames: str) -> list[Endpoint]:
    return [hinted(f"10.0.0.{at}", [zone], hostname=f"h{at}") for at, zone in ((1, "a"), (2, "b"), (3, "c"))]


@pytest.mark.parametrize("qname", ["web", "_http._tcp.web"])
def test_questions_for_srv_get_the_set_of_the_place_each_time(world: World, qname: str) -> None:
    """The first question takes the long way, because the store's state is not known before."""
    world.fill(preferring(headless("web")), slice_of("web", *three()))
    query = dns.message.make_query(f"{qname}.{Z}", "SRV")
    for reply in world.replies_at("a", "", *[query.to_wire()] * 3):
        assert [text.split()[-1] for text in answers(dns.message.from_wire(reply), "SRV")] == [f"h1.web.{Z}."]


def test_by_hints_a_client_gets_the_set_of_its_zone_for_the_services_own_name_and_ports(world: World) -> None:
    world.fill(preferring(headless("web")), slice_of("web", *three()))
    assert world.at("a", "web") == {"10.0.0.1"}
    assert world.at("b", "WeB") == {"10.0.0.2"}
    assert world.at("a", "web", "SRV") == {"h1"}
    assert world.at("b", "_http._tcp.web", "SRV") == {"h2"}
    assert world.at("b", "http.tcp.web", "SRV") == {"h2"}
    assert world.at("c", "_http._tcp.web") == {"10.0.0.3"}
    assert world.at("nowhere", "web") == ALL
    assert world.at("", "web") == ALL
    assert world.at("a", "web", "AAAA") == "NODATA"
    assert world.at("a", "h2.web") == {"10.0.0.2"}, "a HOST name never changes"
    assert world.answers(f"web.{Z}") == ALL, "nor does the answer for those whose place is not known"


@pytest.mark.parametrize(
    ("endpoints", "zone", "node", "expected"),
    [
        # All ready endpoints have both: the node first, then the zone, then all.
        ([("1", "a", "n1"), ("2", "a", "n2"), ("3", "b", "n3")], "a", "n1", {"1"}),
        ([("1", "a", "n1"), ("2", "a", "n2"), ("3", "b", "n3")], "a", "n9", {"1", "2"}),
        ([("1", "a", "n1"), ("2", "a", "n2"), ("3", "b", "n3")], "c", "n9", {"1", "2", "3"}),
        ([("1", "a", "n1"), ("2", "a", "n2"), ("3", "b", "n3")], "b", "", {"3"}),
        # One without a node's hint: no nodes. One without a zone's hint: no zones.
        ([("1", "a", "n1"), ("2", "a", ""), ("3", "b", "n3")], "a", "n1", {"1", "2"}),
        ([("1", "a", "n1"), ("2", "", "n2"), ("3", "b", "n3")], "a", "n1", {"1"}),
        ([("1", "a", "n1"), ("2", "", "n2"), ("3", "b", "n3")], "a", "n9", {"1", "2", "3"}),
        ([("1", "a", "n1"), ("2", "", ""), ("3", "b", "n3")], "a", "n1", {"1", "2", "3"}),
    ],
)
def test_the_rule_is_kube_proxys(
    world: World, endpoints: Sequence[tuple[str, str, str]], zone: str, node: str, expected: set[str]
) -> None:
    members = [hinted(f"10.0.0.{at}", [z] if z else [], [n] if n else []) for at, z, n in endpoints]
    world.fill(preferring(headless("web"), "PreferSameNode"), slice_of("web", *members))
    assert world.at(zone, "web", node=node) == {f"10.0.0.{at}" for at in expected}


def test_only_endpoints_that_are_ready_are_judged(world: World) -> None:
    late = hinted("10.0.0.9", [], conditions=NOT_READY)
    world.fill(preferring(headless("web")), slice_of("web", *three(), late))
    assert world.at("a", "web") == {"10.0.0.1"}
    gone = hinted("10.0.0.1", ["a"], conditions=NOT_READY)
    world.commit(upsert(slice_of("web", gone, *three()[1:], late)))
    assert world.at("a", "web") == {"10.0.0.2", "10.0.0.3"}, "an empty zone gets all"


def test_an_overloaded_zone_gets_all(world: World) -> None:
    many = [hinted(f"10.0.1.{at}", ["b"]) for at in range(1, 5)]
    world.fill(preferring(headless("web")), slice_of("web", hinted("10.0.0.1", ["a"]), *many[:2]))
    assert world.at("a", "web") == {"10.0.0.1"}, "1 of 3 in 2 zones carries 1.5 times the average"
    world.commit(upsert(slice_of("web", hinted("10.0.0.1", ["a"]), *many)))
    assert world.at("a", "web") == {"10.0.0.1", *(item.addresses[0] for item in many)}, "1 of 5: 2.5 times"
    assert world.at("b", "web") == {item.addresses[0] for item in many}


@pytest.mark.parametrize(
    ("mode", "zone", "expected"),
    [
        ("prefer", "a", {"10.0.0.1"}),
        ("prefer", "z", ALL),
        ("prefer", "", ALL),
        ("pin", "a", {"10.0.0.1"}),
        ("pin", "z", "NODATA"),
        ("pin", "", ALL),
        ("off", "a", ALL),
    ],
)
def test_by_annotation_zones_of_endpoints_count(world: World, mode: str, zone: str, expected: set[str] | str) -> None:
    members = [member(f"10.0.0.{at}", zone_, hostname=f"h{at}") for at, zone_ in ((1, "a"), (2, "b"), (3, "c"))]
    world.fill(annotated(preferring(headless("web")), zone=mode), slice_of("web", *members))
    assert world.at(zone, "web") == expected
    if isinstance(expected, set):
        targets = {f"h{address[-1]}" for address in expected}
        assert world.at(zone, "_http._tcp.web", "SRV") == targets
    else:
        assert world.at(zone, "_http._tcp.web", "SRV") == expected


def test_a_pinned_zone_is_kept_to_however_few_it_has(world: World) -> None:
    many = [member(f"10.0.1.{at}", "b") for at in range(1, 9)]
    world.fill(annotated(headless("web"), zone="pin"), slice_of("web", member("10.0.0.1", "a"), *many))
    assert world.at("a", "web") == {"10.0.0.1"}


def test_a_port_that_the_zone_lacks_is_answered_by_all(world: World) -> None:
    world.fill(
        preferring(headless("web")),
        slice_of("web", *three()[:2], name="web-1"),
        slice_of("web", three()[2], name="web-2", ports=[Port("more", "TCP", 9)]),
    )
    assert world.at("a", "_http._tcp.web") == {"10.0.0.1"}
    assert world.at("c", "_more._tcp.web") == {"10.0.0.3"}
    assert world.at("a", "_more._tcp.web") == {"10.0.0.3"}
    assert world.at("c", "_http._tcp.web") == {"10.0.0.1", "10.0.0.2"}


def test_a_zone_that_lacks_a_family_is_answered_by_all(world: World) -> None:
    world.fill(
        preferring(headless("web")),
        slice_of("web", *three(), name="web-4"),
        slice_of("web", hinted("fd00::2", ["b"], hostname="h2"), name="web-6"),
    )
    assert world.at("b", "web", "AAAA") == {"fd00::2"}
    assert world.at("b", "web") == {"10.0.0.2"}
    assert world.at("a", "web", "AAAA") == {"fd00::2"}
    assert world.at("a", "web") == ALL


def test_changes_follow_at_once_and_leave_nothing(world: World) -> None:
    world.fill(
        annotated(headless("web"), zone="prefer"), slice_of("web", member("10.0.0.1", "a"), member("10.0.0.2", "b"))
    )
    assert world.at("a", "web") == {"10.0.0.1"}
    world.commit(upsert(slice_of("web", member("10.0.0.1", "b"), member("10.0.0.2", "a"))))
    assert world.at("a", "web") == {"10.0.0.2"}
    world.commit(upsert(slice_of("web", member("10.0.0.1", "b"), member("10.0.0.2", "b"))))
    assert world.at("a", "web") == {"10.0.0.1", "10.0.0.2"}
    world.commit(upsert(headless("web")))
    assert world.at("b", "web") == {"10.0.0.1", "10.0.0.2"}
    assert not any(map(places.is_of_a_place, world.records()))
    world.commit(upsert(annotated(headless("web"), zone="pin")))
    assert any(map(places.is_of_a_place, world.records()))
    world.commit(remove(headless("web")))
    assert not any(map(places.is_of_a_place, world.records()))


def everything() -> list[Object]:
    """Services that did not ask for it, whatever their slices say."""
    return [
        headless("plain"),
        slice_of("plain", *three()),
        headless("small"),
        slice_of("small", hinted("10.0.3.1", ["a"])),
        preferring(headless("unhinted")),
        slice_of("unhinted", member("10.0.2.1", "a"), member("10.0.2.2", "b")),
        preferring(headless("nothing")),
        slice_of("nothing", hinted("10.0.4.1", ["a"], conditions=NOT_READY)),
        annotated(preferring(headless("off")), zone="off"),
        slice_of("off", *three()),
        preferring(headless("auto"), "Auto"),
        slice_of("auto", *three()),
        preferring(cluster_ip("vip", "172.16.0.1")),
        slice_of("vip", *three()),
        external_name("alias", f"plain.{Z}"),
    ]


def test_who_did_not_ask_for_it_is_answered_byte_for_byte_as_without_it(tmp_path: Path) -> None:
    plain, near = Small(tmp_path / "plain").fill(*everything()), World(tmp_path / "near")
    near.fill(*everything())
    assert near.records() == plain.records()
    asked = [
        dns.message.make_query(f"{name}.{Z}", qtype, use_edns=edns, id=7).to_wire()
        for service in ("plain", "small", "unhinted", "nothing", "off", "auto", "vip", "alias", "absent")
        for name in (service, f"_http._tcp.{service}", f"h1.{service}", f"_tcp.{service}", f"x.{service}")
        for qtype in TYPES
        for edns in (None, 0)
    ]
    expected = plain.ask_wire(*asked)
    for zone, node in (("a", ""), ("a", "n1"), ("z", ""), ("", "")):
        assert near.replies_at(zone, node, *asked) == expected
        assert near.near == (0, 0)


def test_without_a_way_to_know_places_nothing_is_stored_for_them(tmp_path: Path) -> None:
    world = Small(tmp_path).fill(preferring(headless("web")), slice_of("web", *three()))
    assert not any(map(places.is_of_a_place, world.records()))
    assert Small(tmp_path).settings.records_fingerprint() != NEAR.records_fingerprint()


def test_where_both_ways_can_answer_their_replies_are_equal(world: World) -> None:
    """An OPT with an option takes the long way; without its OPT the reply is the short way's."""
    world.fill(
        preferring(headless("web"), "PreferSameNode"),
        slice_of("web", hinted("10.0.0.1", ["a"], ["n1"]), hinted("10.0.0.2", ["a"], ["n2"])),
        annotated(headless("pinned"), zone="pin"),
        slice_of("pinned", member("10.0.0.1", "a"), member("10.0.0.2", "b")),
    )
    for name in ("web", "_http._tcp.web", "pinned", "_http._tcp.pinned"):
        for qtype in ("A", "AAAA"):
            for zone, node in (("a", "n1"), ("a", ""), ("b", ""), ("x", "")):
                short = dns.message.make_query(f"{name}.{Z}", qtype, use_edns=0)
                option = dns.edns.GenericOption(dns.edns.OptionType.make(65001), b"x")
                long = dns.message.make_query(f"{name}.{Z}", qtype, use_edns=0, options=[option])
                one, other = (
                    dns.message.from_wire(world.replies_at(zone, node, query.to_wire())[0]) for query in (short, long)
                )
                assert (one.rcode(), sorted(map(str, one.answer)), one.authority) == (
                    other.rcode(), sorted(map(str, other.answer)), other.authority
                )  # fmt: skip


_ZONES = st.sampled_from(["", "a", "b", "c", "b_-"])
_MEMBER = st.builds(
    Endpoint,
    st.sampled_from([("10.0.0.1",), ("10.0.0.2",), ("10.0.0.3", "10.0.0.4"), ("fd00::1",), ("bad",), ()]),
    st.sampled_from([READY, READY, READY, NOT_READY, 2, 6]),
    st.sampled_from(["", "h1", "h2", "h3"]),
    st.just(""),
    _ZONES,
    st.just(""),
    st.lists(_ZONES, max_size=2).map(tuple),
    st.lists(st.sampled_from(["n1", "n2"]), max_size=2).map(tuple),
)
_PORTS = st.sampled_from([(), (Port("http", "TCP", 80),), (Port("http", "TCP", 81), Port("dns", "UDP", 53))])


@given(
    slices=st.lists(st.tuples(st.lists(_MEMBER, max_size=5), _PORTS), max_size=3),
    distribution=st.sampled_from(["", "PreferSameZone", "PreferSameNode", "PreferClose"]),
    notes=st.fixed_dictionaries(
        {},
        optional={
            "zone": st.sampled_from(["prefer", "pin", "off"]),
            "publish": st.sampled_from(["all", "serving"]),
            "weights": st.sampled_from(["h1=9", "h2=0,*=3"]),
            "alias": st.just("x=h1"),
        },
    ),
)
@hypothesis_settings(deadline=None, max_examples=20)
def test_any_world_gives_a_place_a_part_of_the_whole_and_others_all(
    slices: list[tuple[list[Endpoint], tuple[Port, ...]]], distribution: str, notes: dict[str, str]
) -> None:
    """And a type that the whole has, each part has, but for a zone that is kept to."""
    pieces = [slice_of("web", *some, name=f"web-{at}", ports=ports) for at, (some, ports) in enumerate(slices)]
    asked = annotated(preferring(headless("web"), distribution), **notes)
    with TemporaryDirectory() as folder:
        world = World(Path(folder, "near"))
        world.fill(asked, *pieces)
        plain = Small(Path(folder, "plain")).fill(asked, *pieces)
        names_ = ("web", "_http._tcp.web", "_dns._udp.web", "h1.web", "h2.web", "h3.web", "x.web", "10-0-0-1.web")
        queries = {
            (name, qtype): dns.message.make_query(f"{name}.{Z}", qtype).to_wire()
            for name in names_ for qtype in ("A", "AAAA", "SRV")
        }  # fmt: skip
        every = list(queries.values())
        wholes = [_told(reply) for reply in plain.ask_wire(*every)]
        for zone, node in (("a", ""), ("b", "n1"), ("b_-", ""), ("x", "n2"), ("", "")):
            replies = world.replies_at(zone, node, *every)
            for (name, _), reply, (whole_status, whole) in zip(queries, replies, wholes, strict=True):
                status_, found = _told(reply)
                assert found <= whole
                if name not in ("web", "_http._tcp.web", "_dns._udp.web") or not zone:
                    assert (status_, found) == (whole_status, whole)
                elif notes.get("zone") == "pin":
                    assert status_ in (whole_status, "NODATA")
                else:
                    assert status_ == whole_status
                    assert bool(found) == bool(whole)


def _told(reply: bytes | None) -> tuple[str, set[str]]:
    """The status of a reply, and all that it has: of SRV the targets."""
    assert reply is not None
    message = dns.message.from_wire(reply)
    return status(message), {item.to_text().split()[-1] for rrset in message.answer for item in rrset}


def test_names_of_topology_zones_and_aliases_stay_what_they_are(tmp_path: Path) -> None:
    from dataclasses import replace

    world = World(tmp_path)
    world.settings = replace(NEAR, zonal=True)
    world.identity = type(world.identity)("here", world.settings.records_fingerprint())
    world.fill(
        annotated(headless("web"), zone="prefer"),
        slice_of("web", member("10.0.0.1", "a"), member("10.0.0.2", "b")),
        external_name("alias", f"web.{Z}"),
    )
    assert world.at("a", "web") == {"10.0.0.1"}
    assert world.at("a", "b.prefer._zone.web") == {"10.0.0.2"}
    assert world.at("a", "x.prefer._zone.web") == {"10.0.0.1", "10.0.0.2"}
    assert world.at("a", "alias") == {"10.0.0.1", "10.0.0.2"}


def test_no_client_can_ask_for_the_key_of_a_place(world: World) -> None:
    """A query whose bytes are such a key is malformed, or for another name."""
    world.fill(annotated(headless("web"), zone="pin"), slice_of("web", member("10.0.0.1", "a")))
    for key in filter(places.is_of_a_place, world.records()):
        for rest in (b"\0\1\0\1", b"\0\0\1\0\1"):
            query = b"\0\7\1\0\0\1\0\0\0\0\0\0" + key + rest
            (reply,) = world.ask_wire(query)
            assert isinstance(reply, bytes)
            assert reply[3] & 15, "an error"


def test_a_small_message_has_as_many_members_as_fit_others_each_time(world: World) -> None:
    members = [hinted(f"10.0.{at >> 8}.{at & 255}", ["a"], hostname=f"host-{at}") for at in range(120)]
    world.fill(preferring(headless("web")), slice_of("web", *members))
    for qtype, least in (("A", 25), ("SRV", 4)):
        query = dns.message.make_query(f"web.{Z}", qtype, use_edns=0).to_wire()
        seen: set[str] = set()
        for reply in world.replies_at("a", "", *[query] * 200, small=True):
            message = dns.message.from_wire(reply)
            assert len(reply) <= 512
            assert len(answers(message, qtype)) >= least
            seen |= answers(message, qtype)
        assert len(seen) == len(members)
        (whole,) = world.replies_at("nowhere", "", query, small=True)
        assert len(answers(dns.message.from_wire(whole), qtype)) == len(members), "all is never less"


def test_replies_are_counted_as_near_and_far(world: World) -> None:
    world.fill(preferring(headless("web")), slice_of("web", *three()))
    query = dns.message.make_query(f"web.{Z}", "A").to_wire()
    srv = dns.message.make_query(f"web.{Z}", "SRV").to_wire()
    world.replies_at("a", "", query, query, srv)
    assert world.near == (3, 0)
    world.replies_at("z", "", query, srv)
    assert world.near == (0, 2)


@pytest.fixture
def hostile() -> list[Endpoint]:
    return [
        Endpoint((f"10.{at >> 16}.{at >> 8 & 255}.{at & 255}",), READY, "", "", "", "", (f"z{at}",), (f"n{at}",))
        for at in range(limits.MAX_ADDRESSES)
    ]


def test_too_many_places_have_no_sets_and_that_is_said(world: World, hostile: list[Endpoint]) -> None:
    ports = [Port(f"p{at}", "TCP", at + 1) for at in range(100)]
    slices = [slice_of("web", *hostile[at : at + 1000], name=f"w{at}", ports=ports) for at in range(0, 10_000, 1000)]
    world.fill(preferring(headless("web")), *slices)
    assert not any(map(places.is_of_a_place, world.records()))
    assert any("by place" in text for _, _, _, text in world.reports)


@pytest.mark.parametrize("zone", ["", "a\0b", "-", "a b", "\udcff", "x" * 254, "é"])
def test_odd_texts_of_places_make_no_keys(world: World, zone: str) -> None:
    if zone != "\udcff":
        world.fill(preferring(headless("web")), slice_of("web", hinted("10.0.0.1", [zone], [zone])))
        assert not any(map(places.is_of_a_place, world.records()))
        assert world.at("a", "web") == {"10.0.0.1"}
    assert not places.is_place(zone)
    assert len(places.of_node("x" * places.MAX_PLACE)) + names.MAX_NAME <= 511


def test_explain_says_what_each_place_gets_and_why_there_is_none(world: World) -> None:
    def hints(name: str) -> str:
        reader = Reader(world.state_dir, world.identity)
        reader.follow()
        try:
            resolver = Resolver(reader, world.settings)
            found = explained_from(reader, resolver, world.settings, f"{name}.{Z}", "A", "")
        finally:
            reader.close()
        return "\n".join(found.hints)

    many = [hinted(f"10.0.1.{at}", ["b"], hostname=f"m{at}") for at in range(9)]
    world.fill(
        preferring(headless("web")), slice_of("web", *three()[1:]),
        preferring(headless("uneven")), slice_of("uneven", three()[0], *many),
        annotated(headless("pinned"), zone="pin"), slice_of("pinned", member("10.0.0.1", "a")),
        preferring(headless("unhinted")), slice_of("unhinted", member("10.0.0.1", "a", hostname="h1")),
        headless("plain"), slice_of("plain", *three()),
    )  # fmt: skip
    assert "PreferSameZone: by the client's place, so many endpoints: zone b 1, zone c 1." in hints("web")
    assert "zone b 1" in hints("_http._tcp.web")
    assert "zone a" not in hints("uneven").splitlines()[0]
    assert "a (1)" in hints("uneven")
    assert "NODATA where the zone is another one" in hints("pinned")
    assert "an endpoint that is ready has no hint" in hints("unhinted")
    assert "place" not in hints("plain")
    assert "place" not in hints("h2.web")
    (unknown,) = near_told(preferring(headless("web")), [slice_of("web", *three())], settings())
    assert "no client's place is known" in unknown


def test_a_pinned_zone_without_endpoints_is_no_contradiction_for_extended_errors(world: World) -> None:
    world.fill(annotated(headless("web"), zone="pin"), slice_of("web", member("10.0.0.1", "a")))
    reader = Reader(world.state_dir, world.identity)
    reader.follow()
    resolver = Resolver(reader, world.settings, Reasons(world.settings).say)
    snapshot = reader.begin()
    query = dns.message.make_query(f"web.{Z}", "A", use_edns=0)
    reply = resolver.at("z")(query.to_wire(), snapshot)
    assert isinstance(reply, bytes)
    message = dns.message.from_wire(reply)
    assert status(message) == "NODATA"
    assert "keeps to the client's topology zone" in str(message)
    six = resolver.at("z")(dns.message.make_query(f"web.{Z}", "AAAA", use_edns=0).to_wire(), snapshot)
    assert isinstance(six, bytes)
    assert "no AAAA record, IPv4 only" in str(dns.message.from_wire(six))
    assert snapshot is not None
    snapshot.close()
    reader.close()


def test_those_that_are_published_and_not_ready_are_not_judged(world: World) -> None:
    late = hinted("10.0.0.9", [], conditions=NOT_READY)
    web = annotated(preferring(headless("web")), publish="all")
    world.fill(web, slice_of("web", *three(), late))
    assert world.at("nowhere", "web") == ALL | {"10.0.0.9"}
    assert world.at("a", "web") == {"10.0.0.1"}


def test_a_places_set_has_the_weights_of_its_members_and_of_their_pods(tmp_path: Path) -> None:
    from dataclasses import replace

    world = World(tmp_path)
    world.settings = replace(NEAR, pods="verified")
    world.identity = type(world.identity)("here", world.settings.records_fingerprint())
    world.resources = (*world.resources, "pods")
    members = [Endpoint((f"10.0.0.{at}",), READY, f"h{at}", f"p-{at}", "aab"[at - 1]) for at in (1, 2, 3)]
    world.fill(
        annotated(headless("web"), zone="prefer", weights="from-pods,h3=33,*=5"), slice_of("web", *members),
        Pod("default", "p-1", ("10.0.0.1",), "11"),
    )  # fmt: skip

    def weights(zone: str) -> dict[str, int]:
        (rrset,) = world.ask_at(zone, "_http._tcp.web", "SRV").answer
        return {item.target.to_text().split(".")[0]: item.weight for item in rrset}

    assert weights("a") == {"h1": 11, "h2": 5}
    assert weights("b") == {"h3": 33}
    assert weights("x") == {"h1": 11, "h2": 5, "h3": 33}
    world.commit(upsert(Pod("default", "p-2", ("10.0.0.2",), "22"), "10"))
    assert weights("a") == {"h1": 11, "h2": 22}
    world.commit(remove(Pod("default", "p-1", ("10.0.0.1",)), "11"))
    assert weights("a") == {"h1": 5, "h2": 22}
