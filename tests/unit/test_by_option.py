"""Who asks, by an EDNS option (docs/near.md): what counts, and what does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import dns.edns
import dns.message
import pytest
from headwater.answer.alias import Pending
from headwater.answer.whereabouts import Whereabouts
from headwater.cluster.objects import decode
from headwater.settings.error import SettingsError
from headwater.settings.places import ZoneAddress, ZoneCidr
from headwater.settings.settings import Settings
from headwater.store.nodes import Node
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.small import Small, answers, headless, settings, slice_of
from tests.unit.test_near import ALL, Z, hinted, preferring, three

CODE = 65518
OPTION_TYPE = dns.edns.OptionType.make(CODE)
CIDRS = (ZoneCidr("a", "10.1.0.0/16"), ZoneCidr("b", "10.1.2.0/24"), ZoneCidr("c", "fd00:c::/32"))
IN_A, IN_B, IN_C = bytes((10, 1, 1, 1)), bytes((10, 1, 2, 1)), bytes.fromhex("fd00000c") + bytes(12)
OPTION = settings(client_option=CODE, zone_cidrs=CIDRS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Small:
    many = [hinted(f"10.2.0.{at}", ["a"]) for at in range(100)]
    return Small(tmp_path_factory.mktemp("option"), OPTION).fill(
        preferring(headless("web")), slice_of("web", *three()), headless("plain"), slice_of("plain", *three()),
        preferring(headless("many")), slice_of("many", *many), headless("large"), slice_of("large", *many),
    )  # fmt: skip


def told(address: bytes, *more: dns.edns.Option, name: str = "web", payload: int = 1232, before: bool = False) -> bytes:
    mine = dns.edns.GenericOption(OPTION_TYPE, address)
    options = [*more, mine] if before else [mine, *more]
    return dns.message.make_query(f"{name}.{Z}", "A", use_edns=0, options=options, payload=payload).to_wire(
        max_size=65535
    )


def got(world: Small, query: bytes) -> dns.message.Message:
    (reply,) = world.ask_wire(query)
    assert reply is not None
    message = dns.message.from_wire(reply)
    assert dns.message.from_wire(query).is_response(message)
    assert not message.options
    return message


COOKIE = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")
EMPTY = dns.edns.GenericOption(dns.edns.OptionType.make(65001), b"")
FORGED = dns.edns.GenericOption(OPTION_TYPE, IN_B)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (told(IN_A), {"10.0.0.1"}),
        (told(IN_B), {"10.0.0.2"}),
        (told(IN_C), {"10.0.0.3"}),
        (told(bytes(10) + b"\xff\xff" + IN_B), {"10.0.0.2"}),
        (told(IN_A, COOKIE), {"10.0.0.1"}),
        (told(IN_A, COOKIE, before=True), {"10.0.0.1"}),
        (told(IN_A, FORGED), {"10.0.0.1"}),
        (told(bytes(4)), ALL),
        (told(b""), ALL),
        (told(b"10.1.1.1"), ALL),
        (told(IN_A[:3], FORGED), ALL),
        (told(IN_A + b"\0", FORGED), ALL),
        (told(bytes(64_000), FORGED), ALL),
        (told(IN_A, *[FORGED] * 60), {"10.0.0.1"}),
        (told(IN_A, *[EMPTY] * 60, before=True), {"10.0.0.1"}),
        (told(IN_A, *[EMPTY] * 15_000, before=True), ALL),  # it took 5 ms
        (told(IN_A, name="plain"), ALL),
        (dns.message.make_query(f"web.{Z}", "A").to_wire(), ALL),
        (dns.message.make_query(f"web.{Z}", "A", use_edns=0, options=[COOKIE]).to_wire(), ALL),
    ],
    ids=(
        "a",
        "b",
        "IPv6",
        "mapped",
        "a cookie after",
        "a cookie before",
        "forged",
        "zeros",
        "empty",
        "a text",
        "odd",
        "longer",
        "64 kB",
        "forged many times",
        "behind many",
        "behind too many",
        "plain",
        "no EDNS",
        "no option",
    ),
)
def test_the_first_option_says_where_a_client_is(world: Small, query: bytes, expected: set[str]) -> None:
    assert answers(got(world, query), "A") == expected


def test_without_the_flag_the_option_is_as_any_other(tmp_path: Path) -> None:
    plain = Small(tmp_path).fill(preferring(headless("web")), slice_of("web", *three()))
    assert answers(got(plain, told(IN_A)), "A") == ALL


def test_an_opt_as_coredns_makes_it_counts_as_none(world: Small) -> None:
    """A set of the place fits into 512 bytes. All is never less, nor is what another OPT gets."""
    (small,) = world.ask_wire(told(IN_A, name="many", payload=4096))
    assert small is not None
    assert len(small) <= 512
    assert 20 < len(answers(dns.message.from_wire(small), "A")) < 100
    for query in (
        told(IN_A, name="many"),
        told(IN_A, COOKIE, name="many", payload=4096),
        told(IN_A, name="large", payload=4096),
        told(bytes(4), name="many", payload=4096),
    ):
        assert len(answers(got(world, query), "A")) == 100


def test_who_did_not_ask_for_it_gets_the_same_bytes_as_without_the_option(world: Small) -> None:
    for qtype in ("A", "AAAA", "SRV", "TXT"):
        for name in ("plain", "_http._tcp.plain", "h1.plain", "absent", "h1.web"):
            bare = dns.message.make_query(f"{name}.{Z}", qtype, use_edns=0, id=7)
            option = dns.edns.GenericOption(OPTION_TYPE, IN_A)
            said = dns.message.make_query(f"{name}.{Z}", qtype, use_edns=0, options=[option], id=7)
            # A set of three turns: each is asked as many times as it has members.
            replies = [world.ask_wire(*[query.to_wire()] * 3) for query in (bare, said)]
            assert replies[0] == replies[1]


@given(st.binary(max_size=80), st.integers(0, 200), st.binary(max_size=8))
def test_nothing_that_is_sent_raises(world: Small, tail: bytes, cut: int, other: bytes) -> None:
    query = told(IN_A)
    for message in (query + tail, query[:cut] + tail, query[:-8] + other, query[: -len(tail) or None] + tail):
        (reply,) = world.replies(message)
        assert isinstance(reply, bytes | Pending | None)


def test_the_longest_prefix_and_the_flag_before_a_node() -> None:
    where = Whereabouts(CIDRS)
    for text, name, zone in (("10.1.2.0/25", "n1", "x"), ("10.9.0.7", "n2", "y"), ("10.8.0.0/16", "n3", "")):
        where._nodes.add(text, Node(name, zone, (), ()))
    assert where.of(bytes((10, 1, 2, 1))) == ("b", "n1")
    assert where.of(bytes((10, 1, 2, 200))) == ("b", "")
    assert where.of(bytes((10, 9, 0, 7))) == ("y", "n2")
    assert where.of(bytes((10, 9, 0, 8))) == ("", "")
    assert where.of(bytes((10, 8, 0, 8))) == ("", "n3")
    where._nodes.add("10.9.0.7", Node("n4", "y", (), ()))
    assert where.of(bytes((10, 9, 0, 7))) == ("y", ""), "an address of two nodes in one zone"
    where._nodes.add("10.9.0.7", Node("n5", "z", (), ()))
    assert where.of(bytes((10, 9, 0, 7))) == ("", "")


def test_a_node_as_the_api_server_sends_it() -> None:
    text = b"""{"metadata":{"name":"n1","resourceVersion":"7","labels":{"topology.kubernetes.io/zone":"a"}},
    "spec":{"podCIDR":"10.1.0.0/24","podCIDRs":["10.1.0.0/24","fd00::/64"]},"status":{"addresses":[
    {"type":"InternalIP","address":"192.0.2.1"},{"type":"Hostname","address":"n1"}]}}"""
    assert decode("nodes", text).object == Node("n1", "a", ("10.1.0.0/24", "fd00::/64"), ("192.0.2.1",))
    assert decode("nodes", b'{"metadata":{"name":"n2"}}').object == Node("n2", "", (), ())


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"client_option": 8}, "--client-option"),
        ({"client_option": 70000}, "--client-option"),
        ({"client_nodes": True}, "--client-nodes"),
        ({"zone_cidrs": (ZoneCidr("a", "10.0.0.0/8"), ZoneCidr("b", "10.0.0.0/8"))}, "--zone-cidr"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], flag: str) -> None:
    with pytest.raises(SettingsError) as refused:
        replace(Settings(), **changes)  # type: ignore[arg-type]
    assert refused.value.flag == flag


@pytest.mark.parametrize(
    "texts", [("a=unix:/x.sock", "a=unix:/y.sock"), ("a=unix:/run/headwater/dns.sock",), ("a=:65535",)]
)
def test_sockets_of_zones_do_not_collide(texts: tuple[str, ...]) -> None:
    zones = tuple(ZoneAddress.parse(text, "--listen-zone") for text in texts)
    with pytest.raises(SettingsError, match="--listen-zone"):
        settings(listen_zones=zones)


@pytest.mark.parametrize(
    "text", ["a", "=10.0.0.0/8", "a=", "a b=10.0.0.0/8", "a=10.0.0.1/8", "a=x", f"{'z' * 64}=10.0.0.0/8"]
)
def test_a_cidr_of_a_zone_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--zone-cidr"):
        ZoneCidr.parse(text, "--zone-cidr")
