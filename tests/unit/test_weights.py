"""Weights and priorities: what annotations mean, and how often a member is chosen."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from pathlib import Path

import dns.message
import msgspec
import pytest
from headwater.answer.resolver import Resolver
from headwater.cluster.objects import Pod, Port
from headwater.explain.explain import explained_from
from headwater.records.options import options_of
from headwater.records.weights import MAX_ENTRIES, MAX_TEXT, Weights, chosen, parse
from headwater.store.choice import Choice, ranges
from headwater.store.copied import FROM_PODS, is_copied
from headwater.store.environment import Reader
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.small import (
    Small,
    annotated,
    at,
    cluster_ip,
    headless,
    remove,
    settings,
    slice_of,
    upsert,
)

WEB = "web.default.svc.cluster.local"
#: As in `answer.state`: the turns of replies that follow each other.
GOLDEN = 0x9E3779B1
TURNS = 20_000


def members(choice: Choice, turn: int) -> list[int]:
    return [place for start, stop in ranges(choice, turn) for place in range(start, stop)]


def shares(preferences: list[tuple[int, int]], limit: int, turns: int = TURNS) -> tuple[list[float], list[float]]:
    """How often each member was first, and how often it was in a reply, as parts of all replies."""
    order, _, choice = chosen(preferences, limit)
    first: Counter[int] = Counter()
    seen: Counter[int] = Counter()
    turn = 0
    for _ in range(turns):
        turn = turn + GOLDEN & 0xFFFFFFFF
        found = [order[place] for place in members(choice, turn)]
        assert len(found) == len(set(found)) == min(limit or len(preferences), len(preferences))
        first[found[0]] += 1
        seen.update(found)
    every = range(len(preferences))
    return [first[item] / turns for item in every], [seen[item] / turns for item in every]


def close(found: list[float], expected: list[float]) -> bool:
    return all(abs(one - other) < 0.01 for one, other in zip(found, expected, strict=True))


# How often


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([10, 90], [0.1, 0.9]),
        ([1, 1, 1, 1], [0.25] * 4),
        ([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4]),
        ([0, 5, 5], [0, 0.5, 0.5]),
        ([0, 0], [0.5, 0.5]),
        ([65535, 65535, 1], [0.5, 0.5, 0]),
    ],
)
@pytest.mark.parametrize("limit", [0, 1, 2])
def test_a_member_is_first_in_proportion_to_its_weight(weights: list[int], expected: list[float], limit: int) -> None:
    first, _ = shares([(0, weight) for weight in weights], limit)
    assert close(first, expected)


@pytest.mark.parametrize(
    ("weights", "limit", "expected"),
    [
        ([1, 2, 3, 4], 2, [0.2, 0.4, 0.6, 0.8]),
        ([1, 1, 1, 97], 2, [1 / 3, 1 / 3, 1 / 3, 1]),
        ([1, 1, 8, 10], 3, [0.5, 0.5, 1, 1]),
        ([5, 5, 5, 5, 5], 3, [0.6] * 5),
        ([0, 0, 5], 2, [0.5, 0.5, 1]),
        ([0, 5, 5], 2, [0, 1, 1]),
    ],
)
def test_a_member_is_in_a_part_in_proportion_to_its_weight(
    weights: list[int], limit: int, expected: list[float]
) -> None:
    _, seen = shares([(0, weight) for weight in weights], limit)
    assert close(seen, expected)


def test_which_members_come_together_is_not_fixed() -> None:
    """The lot is not the same for each first member: every pair that may come together does."""
    order, _, choice = chosen([(0, 30), (0, 10), (0, 10), (0, 10), (0, 10)], 3)
    seen = {frozenset(order[place] for place in members(choice, turn * GOLDEN & 0xFFFFFFFF)) for turn in range(TURNS)}
    pairs = {pair for one in seen for pair in combinations(sorted(one), 2)}
    assert {(0, 1), (0, 2), (0, 3), (0, 4), (1, 3), (2, 4)} <= pairs


@pytest.mark.parametrize("limit", [0, 1, 2, 3])
def test_a_better_priority_always_comes_first(limit: int) -> None:
    preferences = [(10, 50), (0, 1), (10, 50), (0, 3)]
    first, seen = shares(preferences, limit)
    assert close(first, [0, 0.25, 0, 0.75])
    if limit == 1:
        assert close(seen, first)
    elif limit == 2:
        assert close(seen, [0, 1, 0, 1])
    elif limit == 3:
        assert close(seen, [0.5, 1, 0.5, 1])


_PREFERENCES = st.lists(st.tuples(st.integers(0, 2), st.sampled_from((0, 1, 2, 7, 100, 65535))), min_size=1, max_size=8)


@given(_PREFERENCES, st.integers(0, 9), st.integers(0, 2**32 - 1))
def test_any_turn_shows_as_many_different_members_as_it_should(
    preferences: list[tuple[int, int]], limit: int, turn: int
) -> None:
    order, numbers, choice = chosen(preferences, limit)
    assert sorted(order) == list(range(len(preferences)))
    found = [order[place] for place in members(choice, turn)]
    assert len(found) == len(set(found)) == min(limit or len(preferences), len(preferences))
    best = min(priority for priority, _ in preferences)
    assert preferences[found[0]][0] == best
    shown = {preferences[item][0] for item in found}
    left = {preferences[item][0] for item in set(order) - set(found)}
    assert not left or max(shown) <= min(left), "none is left out for one of a worse priority"
    assert all(0 <= weight <= 65535 for _, weight in numbers)
    assert 0 <= choice.share <= 65535


# What is read


@pytest.mark.parametrize(
    ("text", "numbers", "from_pods", "wrong"),
    [
        ("web-0=10,web-1=90", {"web-0": 10, "web-1": 90}, False, ""),
        (" Web-0 = 10 , *=0", {"web-0": 10, "*": 0}, False, ""),
        ("from-pods,web-0=1", {"web-0": 1}, True, ""),
        ("web-0=65535", {"web-0": 65535}, False, ""),
        ("web-0=65536,web-1=1", {"web-1": 1}, False, "'web-0=65536' is not NAME=NUMBER, a number up to 65535"),
        ("web-0,=1,a=-1", {}, False, "'web-0' is not NAME=NUMBER, a number up to 65535, and 2 more"),
        ("a=1,A=2", {"a": 1}, False, "'a' is there twice: the first counts"),
        ("", {}, False, "'' is not NAME=NUMBER, a number up to 65535"),
        ("a=" + "9" * 5_000, {}, False, f"'a={'9' * 38}' is not NAME=NUMBER, a number up to 65535"),
        ("x" * (MAX_TEXT + 1), {}, False, "more than 65,536 characters"),
    ],
)
def test_an_annotation_reads_as_the_table_says(
    text: str, numbers: dict[str, int], from_pods: bool, wrong: str
) -> None:  # fmt: skip
    assert parse(text) == (numbers, from_pods, wrong)


def test_entries_are_bounded() -> None:
    found, _, wrong = parse(",".join(f"{i:x}=1" for i in range(MAX_ENTRIES * 2)))
    assert len(found) == MAX_ENTRIES
    assert wrong == "more than 1,000 entries"


def test_a_bad_value_is_reported_once_and_harms_no_other_option() -> None:
    reports: list[tuple[str, ...]] = []
    service = annotated(headless("web"), ttl="7", weights="a=1,b", priorities="c=x")
    options = options_of(service, lambda *report: reports.append(report))
    assert options.ttl == 7
    assert options.weights == Weights({"a": 1})
    assert [detail.partition(":")[0] for *_, detail in reports] == ["headwater.dev/weights", "headwater.dev/priorities"]


# Answers


@pytest.fixture
def world(tmp_path: Path) -> Small:
    return Small(tmp_path, settings(zonal=True))


FOUR = slice_of("web", *(at(f"10.0.0.{i}", hostname=f"web-{i}", zone="za") for i in range(4)))
SIX = slice_of("web", *(at(f"fd00::{i}", hostname=f"web-{i}", zone="za") for i in range(4)), name="six")


def first_ones(world: Small, qname: str, qtype: str, turns: int = 2_000, *, edns: bool = False) -> Counter[str]:
    query = dns.message.make_query(qname, qtype, use_edns=0 if edns else None).to_wire()
    found: Counter[str] = Counter()
    for reply in world.ask_wire(*[query] * turns):
        assert reply is not None
        found[next(iter(dns.message.from_wire(reply).answer[0])).to_text()] += 1
    return found


@pytest.mark.parametrize("qname", [WEB, f"_http._tcp.{WEB}", f"za.pin._zone.{WEB}"])
@pytest.mark.parametrize(("qtype", "prefix"), [("A", "10.0.0."), ("AAAA", "fd00::")])
@pytest.mark.parametrize("edns", [False, True])
def test_clients_that_take_the_first_address_spread_by_weight(
    world: Small, qname: str, qtype: str, prefix: str, edns: bool
) -> None:
    world.fill(annotated(headless("web"), weights="web-0=10,web-1=20,web-2=70,web-3=0"), FOUR, SIX)
    found = first_ones(world, qname, qtype, edns=edns)
    known = {"fd00::0": "fd00::"}
    for i, expected in enumerate((200, 400, 1400, 0)):
        assert abs(found[known.get(f"{prefix}{i}", f"{prefix}{i}")] - expected) <= 10, found
    assert len(world.answers(qname, qtype)) == 4, "all are there, whichever is first"


def srv(message: dns.message.Message) -> dict[str, tuple[int, int, int]]:
    return {
        item.target.to_text().partition(".")[0]: (item.priority, item.weight, item.port)
        for rrset in message.answer
        for item in rrset
    }


@pytest.mark.parametrize("qname", [WEB, f"_http._tcp.{WEB}", f"za.pin._zone.{WEB}"])
def test_srv_records_have_them_as_they_are(world: Small, qname: str) -> None:
    world.fill(annotated(headless("web"), weights="web-0=10,web-1=90,*=5", priorities="web-1=10"), FOUR)
    assert srv(world.ask(qname, "SRV")) == {
        "web-0": (0, 10, 8080), "web-1": (10, 90, 8080), "web-2": (0, 5, 8080), "web-3": (0, 5, 8080),
    }  # fmt: skip
    assert len(world.ask(qname.upper(), "SRV").additional) == 4


def test_srv_of_several_slices_and_ports(world: Small) -> None:
    ports = [Port("http", "TCP", 80), Port("dns", "UDP", 53)]
    world.fill(
        annotated(headless("web"), weights="a=3,b=4"),
        slice_of("web", at("10.0.0.1", hostname="a"), ports=ports),
        slice_of("web", at("10.0.0.2", hostname="b"), ports=ports[:1], name="other"),
    )
    assert srv(world.ask(f"_http._tcp.{WEB}", "SRV")) == {"a": (0, 3, 80), "b": (0, 4, 80)}
    assert srv(world.ask(f"_dns._udp.{WEB}", "SRV")) == {"a": (0, 3, 53)}
    assert first_ones(world, f"_dns._udp.{WEB}", "A", 10) == {"10.0.0.1": 10}


def test_clients_that_weigh_a_part_of_the_srv_records_spread_by_weight(world: Small) -> None:
    weights = [10, 20, 30, 140]
    given = ",".join(f"web-{i}={weight}" for i, weight in enumerate(weights))
    world.fill(annotated(headless("web"), weights=given, max_answers="2"), FOUR)
    query = dns.message.make_query(WEB, "SRV").to_wire()
    expected: Counter[str] = Counter()
    turns = 2_000
    for reply in world.ask_wire(*[query] * turns):
        assert reply is not None
        message = dns.message.from_wire(reply)
        found = srv(message)
        assert len(found) == len(message.additional) == 2
        total = sum(weight for _, weight, _ in found.values())
        for target, (_, weight, _) in found.items():
            expected[target] += weight / total  # type: ignore[assignment]
    for i, weight in enumerate(weights):
        assert abs(expected[f"web-{i}"] / turns - weight / sum(weights)) < 0.01, expected


def test_names_of_endpoints_and_cluster_ips_have_no_weights(world: Small) -> None:
    plain = Small(world.state_dir / "plain", settings(zonal=True))
    for one, annotate in ((plain, {}), (world, {"weights": "web-0=10,*=90", "priorities": "web-1=3"})):
        one.fill(
            annotated(headless("web"), **annotate), FOUR, SIX, annotated(cluster_ip("api", "172.16.0.1"), **annotate)
        )
    ours, theirs = world.records(), plain.records()
    assert ours.keys() == theirs.keys()
    differing = {name for name in ours if ours[name] != theirs[name]}
    assert {name[:5] for name in differing} == {b"\x03web\x07", b"\x05_http"[:5], b"\x02za\x03p"}


def test_by_the_name_of_a_pod(world: Small) -> None:
    pods = [at(f"10.0.0.{i}", pod=f"web-7d9f-{i}") for i in (1, 2)]
    world.fill(annotated(headless("web"), weights="web-7d9f-1=1,web-7d9f-2=3"), slice_of("web", *pods))
    assert srv(world.ask(WEB, "SRV")) == {"10-0-0-1": (0, 1, 8080), "10-0-0-2": (0, 3, 8080)}
    world.commit(upsert(annotated(headless("web"), weights="10-0-0-2=9")))
    assert srv(world.ask(WEB, "SRV")) == {"10-0-0-1": (0, 1, 8080), "10-0-0-2": (0, 9, 8080)}


def test_a_reply_by_weight_is_cut_to_what_a_message_holds(world: Small) -> None:
    endpoints = [at(f"10.0.{i // 250}.{i % 250 + 1}", hostname=f"w-{i}") for i in range(5_000)]
    world.fill(annotated(headless("web"), weights="w-4999=65535"), slice_of("web", *endpoints))
    for qtype in ("A", "SRV"):
        query = dns.message.make_query(WEB, qtype).to_wire()
        (reply,) = world.ask_wire(query)
        assert reply is not None
        assert 60_000 < len(reply) <= 65_535
        assert len(dns.message.from_wire(reply).answer[0]) > 500


# The pods' own


def pod(name: str, address: str, weight: str = "") -> Pod:
    return Pod("default", name, (address,), weight)


def weights_of(world: Small, service: str = "web") -> dict[str, int]:
    return {
        name: weight for name, (_, weight, _) in srv(world.ask(f"{service}.default.svc.cluster.local", "SRV")).items()
    }


@pytest.fixture
def verified(tmp_path: Path) -> Small:
    world = Small(tmp_path, settings(pods="verified"))
    return world.fill(
        annotated(headless("web"), weights="from-pods,p-3=33,*=5"),
        headless("other"),
        *(slice_of(name, *(at(f"10.0.0.{i}", pod=f"p-{i}") for i in (1, 2, 3, 4))) for name in ("web", "other")),
        pod("p-1", "10.0.0.1", "11"), pod("p-2", "10.0.0.2"), pod("p-3", "10.0.0.3", "99"), pod("p-4", "10.0.0.4", "x"),
    )  # fmt: skip


def test_pods_carry_weights_where_the_services_owner_wants_them(verified: Small) -> None:
    assert weights_of(verified) == {"10-0-0-1": 11, "10-0-0-2": 5, "10-0-0-3": 33, "10-0-0-4": 5}
    assert set(weights_of(verified, "other").values()) == {25}
    assert ("annotation", "default", "p-4", "headwater.dev/weight: 'x' is not a weight") in verified.reports


def test_a_pods_weight_follows_the_pod(verified: Small) -> None:
    verified.commit(upsert(pod("p-2", "10.0.0.2", "22"), "10"))
    assert weights_of(verified)["10-0-0-2"] == 22
    verified.commit(remove(pod("p-2", "10.0.0.2", "22"), "11"))
    assert weights_of(verified)["10-0-0-2"] == 5
    verified.commit(upsert(pod("p-2", "10.0.0.2", "7"), "12"))
    assert weights_of(verified)["10-0-0-2"] == 7
    verified.commit(upsert(annotated(headless("web"), weights="*=1"), "13"))
    verified.commit(upsert(pod("p-2", "10.0.0.2", "8"), "14"))
    assert set(weights_of(verified).values()) == {1}


def test_pods_are_not_asked_without_verified(tmp_path: Path) -> None:
    world = Small(tmp_path)
    world.fill(annotated(headless("web"), weights="from-pods"), slice_of("web", at("10.0.0.1", pod="p-1")))
    assert weights_of(world) == {"10-0-0-1": 1}


def test_the_services_that_one_pod_compiles_anew_are_bounded(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(pods="verified"))
    services = [annotated(headless(f"s-{i:03}"), weights="from-pods") for i in range(70)]
    slices = [slice_of(item.name, at("10.0.0.1", pod="p")) for item in services]
    world.fill(*services, *slices, pod("p", "10.0.0.1", "2"))
    world.commit(upsert(pod("p", "10.0.0.1", "3"), "10"))
    found = [weights_of(world, item.name)["10-0-0-1"] for item in services]
    assert found == [3] * 64 + [2] * 6
    assert [report[0] for report in world.reports] == ["limit"]
    world.commit(upsert(msgspec.structs.replace(slices[-1], ports=(Port("http", "TCP", 81),)), "11"))
    assert weights_of(world, services[-1].name) == {"10-0-0-1": 3}


# Explained


def hints(world: Small, name: str, qtype: str = "A") -> list[str]:
    reader = Reader(world.state_dir, world.identity)
    reader.follow()
    try:
        found = explained_from(reader, Resolver(reader, world.settings), world.settings, name, qtype)
        assert not found.contradiction
        return found.hints
    finally:
        reader.close()


def test_explain_names_weights_and_what_is_wrong_with_them(world: Small) -> None:
    world.fill(annotated(headless("web"), weights="web-0=3,web-1=x", max_answers="2"), FOUR)
    found = hints(world, WEB)
    assert "It counts as absent: headwater.dev/weights: 'web-1=x' is not NAME=NUMBER, a number up to 65535." in found
    assert "Its endpoints have weights and priorities: these say which one is first. A reply shows 2 of them." in found
    world.commit(upsert(annotated(cluster_ip("web", "172.16.0.1"), weights="web-0=3"), "10"))
    assert "Its weights and priorities do nothing: they are for headless Services." in hints(world, WEB)


def test_explain_reads_the_weights_of_pods(verified: Small) -> None:
    found = hints(verified, WEB, "SRV")
    assert "It counts as absent: headwater.dev/weight: 'x' is not a weight." in found


def test_another_instance_takes_the_index_of_services_with_weights_from_pods(tmp_path: Path) -> None:
    """Otherwise it would not notice that a pod has another weight."""
    world = Small(tmp_path, settings(pods="verified"))
    world.fill(annotated(headless("web"), weights="from-pods"), slice_of("web", at("10.0.0.1", pod="p-1")))
    store, _ = world.open()
    try:
        found = [key for key, _ in store.read(lambda txn: list(txn.scan("meta", FROM_PODS)))]
    finally:
        store.close()
    assert found == [FROM_PODS + b"default/web/"]
    assert all(map(is_copied, found))
