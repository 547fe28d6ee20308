"""Annotations of a Service: the meaning of each value, and its effect on the records."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import dns.message
import pytest
from headwater.answer.counts import Reason, count_parts
from headwater.answer.resolver import Resolver
from headwater.cluster.objects import Condition, Pod, Port
from headwater.records.options import DEFAULTS, Options, options_of
from headwater.store.environment import Reader

from tests.harness.small import (
    NOT_READY,
    READY,
    Small,
    annotated,
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
API = "api.default.svc.cluster.local"
TERMINATING = int(Condition.SERVING | Condition.TERMINATING)


@pytest.fixture
def world(tmp_path: Path) -> Small:
    return Small(tmp_path)


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({}, DEFAULTS),
        ({"ttl": "0"}, Options(ttl=0)),
        ({"ttl": "2147483647"}, Options(ttl=2**31 - 1)),
        ({"publish": "ready"}, DEFAULTS),
        ({"publish": "serving"}, Options(conditions=int(Condition.SERVING))),
        ({"publish": "all"}, Options(conditions=0)),
        ({"tolerate": "true"}, Options(conditions=0)),
        ({"tolerate": "false"}, DEFAULTS),
        ({"tolerate": "True"}, DEFAULTS),
        ({"tolerate": "true", "publish": "ready"}, DEFAULTS),
        ({"tolerate": "true", "publish": "serving"}, Options(conditions=int(Condition.SERVING))),
        ({"max_answers": "1"}, Options(max_answers=1)),
        ({"max_answers": "65535"}, Options(max_answers=65535)),
        ({"pod_names": "true"}, Options(pod_names=True)),
        ({"pod_names": "false"}, DEFAULTS),
        ({"ttl": "30", "max_answers": "8", "pod_names": "true"}, Options(30, 1, 8, True)),
    ],
)
def test_a_value_reads_as_the_table_says(annotations: dict[str, str], expected: Options) -> None:
    reports: list[object] = []
    assert options_of(annotated(headless("web"), **annotations), lambda *report: reports.append(report)) == expected
    assert reports == []


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        *(
            ("ttl", value)
            for value in ("", "-1", "+5", "5s", "5.0", " 5", "0x5", "\u0665", "\u00b2", "2147483648", "9" * 10_000)
        ),
        *(("max_answers", value) for value in ("", "0", "-1", "all", "65536", "1e3", "1" * 5000)),
        *(("publish", value) for value in ("", "Ready", "none", "ready,serving", "x" * 10_000)),
        *(("pod_names", value) for value in ("", "True", "yes", "1")),
    ],
)
def test_a_value_that_does_not_parse_is_reported_and_as_good_as_absent(annotation: str, value: str) -> None:
    reports: list[tuple[str, str, str, str]] = []
    others = {"ttl": "7", "publish": "serving", "max_answers": "3", "pod_names": "true"} | {annotation: value}
    options = options_of(annotated(headless("web"), **others), lambda *report: reports.append(report))
    expected = Options(7, int(Condition.SERVING), 3, True)
    default = {"ttl": None, "publish": 1, "max_answers": 0, "pod_names": False}[annotation]
    field = {"publish": "conditions"}.get(annotation, annotation)
    assert getattr(options, field) == default
    assert all(getattr(options, name) == getattr(expected, name) for name in Options.__slots__ if name != field)
    ((reason, namespace, name, detail),) = reports
    assert (reason, namespace, name) == ("annotation", "default", "web")
    assert detail.startswith(f"headwater.dev/{annotation.replace('_', '-')}: ")
    assert len(detail) < 150, "what is logged has a bound"


def test_a_bad_publish_leaves_tolerate_unready_endpoints_in_force() -> None:
    service = annotated(headless("web"), tolerate="true", publish="x")
    assert options_of(service, lambda *_: None) == Options(conditions=0)


# headwater.dev/ttl


def ttls(message: dns.message.Message) -> set[int]:
    return {rrset.ttl for rrset in (*message.answer, *message.additional)}


@pytest.mark.parametrize(
    ("qname", "qtype"),
    [
        (WEB, "A"), (WEB, "AAAA"), (WEB, "SRV"), (f"_http._tcp.{WEB}", "SRV"), (f"_http._tcp.{WEB}", "A"),
        (f"w.{WEB}", "A"), (f"w.{WEB}", "SRV"), (f"za.pin._zone.{WEB}", "A"), (f"zb.prefer._zone.{WEB}", "SRV"),
        (API, "A"), (API, "SRV"), (f"_http._tcp.{API}", "SRV"), ("ext.default.svc.cluster.local", "CNAME"),
    ],
)  # fmt: skip
def test_ttl_is_that_of_every_record_of_the_service_and_of_no_other(tmp_path: Path, qname: str, qtype: str) -> None:
    services = [headless("web"), cluster_ip("api", "172.16.0.1"), external_name("ext", "example.org")]
    slice_ = slice_of("web", at("10.0.0.1", "fd00::1", hostname="w", zone="za"), at("10.0.0.2"))
    for seconds in (0, 3600):
        world = Small(tmp_path / str(seconds), settings(zonal=True))
        world.fill(slice_, *(annotated(item, ttl=str(seconds)) for item in services))
        assert ttls(world.ask(qname, qtype)) == {seconds}
        assert {rrset.ttl for rrset in world.ask("nothing.cluster.local").authority} == {5}
    other = Small(tmp_path / "other", settings(zonal=True)).fill(slice_, *services)
    assert ttls(other.ask(qname, qtype)) == {5}


def test_a_changed_ttl_is_in_every_name_and_goes_with_its_annotation(world: Small) -> None:
    world.fill(headless("web"), slice_of("web", at("10.0.0.1", hostname="w")))
    before = world.records()
    world.commit(upsert(annotated(headless("web"), ttl="60")))
    for qname, qtype in ((WEB, "A"), (f"w.{WEB}", "A"), (f"w.{WEB}", "SRV"), (f"_http._tcp.{WEB}", "SRV")):
        assert ttls(world.ask(qname, qtype)) == {60}
    world.commit(upsert(headless("web")))
    assert world.records() == before


# headwater.dev/publish, tolerate-unready-endpoints


@pytest.mark.parametrize(
    ("annotations", "published"),
    [
        ({}, {"ready"}),
        ({"publish": "ready"}, {"ready"}),
        ({"publish": "serving"}, {"ready", "leaving"}),
        ({"publish": "all"}, {"ready", "leaving", "starting"}),
        ({"tolerate": "true"}, {"ready", "leaving", "starting"}),
        ({"tolerate": "true", "publish": "ready"}, {"ready"}),
        ({"tolerate": "false"}, {"ready"}),
    ],
)
def test_which_endpoints_have_records(tmp_path: Path, annotations: dict[str, str], published: set[str]) -> None:
    world = Small(tmp_path, settings(zonal=True))
    address = {"ready": "10.0.0.1", "leaving": "10.0.0.2", "starting": "10.0.0.3"}
    world.fill(
        annotated(headless("web"), **annotations),
        slice_of(
            "web",
            at(address["ready"], hostname="ready", conditions=READY, zone="za"),
            at(address["leaving"], hostname="leaving", conditions=TERMINATING, zone="zb"),
            at(address["starting"], hostname="starting", conditions=NOT_READY, zone="zc"),
        ),
    )
    assert world.answers(WEB) == {address[name] for name in published}
    assert len(world.answers(f"_http._tcp.{WEB}", "SRV")) == len(published)
    for name, zone in (("ready", "za"), ("leaving", "zb"), ("starting", "zc")):
        expected = ("NOERROR", "NOERROR") if name in published else ("NXDOMAIN", "NODATA")
        assert (world.status(f"{name}.{WEB}"), world.status(f"{zone}.pin._zone.{WEB}")) == expected


def test_a_service_that_publishes_all_is_there_before_anything_is_ready(world: Small) -> None:
    """A StatefulSet needs it to find its peers (specification 2.1)."""
    slice_ = slice_of("web", at("10.0.0.1", hostname="web-0", conditions=NOT_READY))
    world.fill(headless("web"), slice_)
    assert world.status(WEB) == "NXDOMAIN"
    world.commit(upsert(annotated(headless("web"), tolerate="true")))
    assert world.answers(WEB) == world.answers(f"web-0.{WEB}") == {"10.0.0.1"}
    world.commit(upsert(annotated(headless("web"), publish="serving")))
    assert world.status(WEB) == world.status(f"web-0.{WEB}") == "NXDOMAIN"


def test_ignore_empty_service_counts_the_endpoints_that_are_published(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(ignore_empty_service=True))
    world.fill(cluster_ip("api", "172.16.0.1"), slice_of("api", at("10.0.0.1", conditions=NOT_READY)))
    assert world.status(API) == "NXDOMAIN"
    world.commit(upsert(annotated(cluster_ip("api", "172.16.0.1"), publish="all")))
    assert world.answers(API) == {"172.16.0.1"}


# headwater.dev/pod-names


def test_endpoints_have_their_pods_names_beside_their_own(world: Small) -> None:
    world.fill(
        annotated(headless("web"), pod_names="true"),
        slice_of("web", at("10.0.0.1", hostname="a", pod="web-7f9c-x"), at("10.0.0.2", "fd00::2", pod="web-7f9c-y")),
    )
    assert world.answers(f"web-7f9c-x.{WEB}") == world.answers(f"a.{WEB}") == {"10.0.0.1"}
    assert world.answers(f"web-7f9c-y.{WEB}") == world.answers(f"10-0-0-2.{WEB}") == {"10.0.0.2"}
    assert world.answers(f"web-7f9c-y.{WEB}", "AAAA") == {"fd00::2"}
    # SRV has each endpoint once, by its own name.
    assert {item.split()[3] for item in world.answers(WEB, "SRV")} == {
        f"{label}.{WEB}." for label in ("a", "10-0-0-2", "fd00--2")
    }
    reply = world.ask(f"web-7f9c-x.{WEB}", "SRV")
    assert {item.to_text() for item in reply.answer[0]} == {f"0 100 8080 web-7f9c-x.{WEB}."}
    assert glue(reply) == {(f"web-7f9c-x.{WEB}", "10.0.0.1")}


def test_a_pods_name_that_is_another_endpoints_hostname_has_both(world: Small) -> None:
    world.fill(
        annotated(headless("web"), pod_names="true"),
        slice_of("web", at("10.0.0.1", hostname="a", pod="b"), at("10.0.0.2", hostname="b", pod="c")),
    )
    assert world.answers(f"b.{WEB}") == {"10.0.0.1", "10.0.0.2"}
    assert world.answers(f"a.{WEB}") == {"10.0.0.1"}
    assert world.answers(f"c.{WEB}") == {"10.0.0.2"}
    world.commit(upsert(slice_of("web", at("10.0.0.1", hostname="a", pod="b"))))
    assert world.answers(f"b.{WEB}") == {"10.0.0.1"}


def test_a_pods_name_goes_with_its_pod_its_slice_and_the_annotation(world: Small) -> None:
    service = annotated(headless("web"), pod_names="true")
    world.fill(service, slice_of("web", at("10.0.0.1", hostname="a", pod="old"), at("10.0.0.2", pod="other")))
    world.commit(upsert(slice_of("web", at("10.0.0.1", hostname="a", pod="new"), at("10.0.0.2", pod="other"))))
    assert world.status(f"old.{WEB}") == "NXDOMAIN"
    assert world.answers(f"new.{WEB}") == world.answers(f"a.{WEB}") == {"10.0.0.1"}
    world.commit(upsert(headless("web")))
    assert {world.status(f"{pod}.{WEB}") for pod in ("new", "other")} == {"NXDOMAIN"}
    world.commit(upsert(service))
    assert world.answers(f"other.{WEB}") == {"10.0.0.2"}
    world.commit(remove(slice_of("web")))
    assert {world.status(f"{label}.{WEB}") for label in ("new", "other", "a")} == {"NXDOMAIN"}


def test_a_pods_name_that_is_no_label_is_reported_and_the_endpoint_stays(world: Small) -> None:
    service = annotated(headless("web"), pod_names="true")
    world.fill(service, slice_of("web", at("10.0.0.1", pod="dotted.name"), at("10.0.0.2", pod="p" * 64)))
    assert world.answers(WEB) == {"10.0.0.1", "10.0.0.2"}
    assert [report[:3] for report in world.reports] == [("endpoint", "default", "web-1")] * 2


def test_the_endpoints_of_a_cluster_ip_service_have_their_pods_names_too(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(pods="verified"))
    world.fill(
        annotated(cluster_ip("api", "172.16.0.1"), pod_names="true"),
        slice_of("api", at("10.0.0.1", pod="api-1")),
        Pod("default", "api-1", ("10.0.0.1",)),
    )
    assert world.answers(f"api-1.{API}") == {"10.0.0.1"}


# headwater.dev/max-answers

#: The number of replies: enough for every member to occur about equally often.
TURNS = 140
MEMBERS = 7


@pytest.fixture
def limited(tmp_path: Path) -> Small:
    """Add a Service of seven endpoints of both families, of which a reply shows 3."""
    world = Small(tmp_path, settings(zonal=True))
    endpoints = [at(f"10.0.0.{i}", hostname=f"w-{i}", zone="za") for i in range(1, MEMBERS + 1)]
    return world.fill(
        annotated(headless("web"), max_answers="3"),
        slice_of("web", *endpoints, name="four"),
        slice_of("web", *(at(f"fd00::{i}", hostname=f"w-{i}", zone="za") for i in range(1, MEMBERS + 1)), name="six"),
        cluster_ip("other", "172.16.0.1"),
    )


def replies(
    world: Small, qname: str, qtype: str, *, edns: int | None = None, turns: int = TURNS
) -> list[dns.message.Message]:
    query = dns.message.make_query(qname, qtype, use_edns=edns).to_wire()
    found = [dns.message.from_wire(reply) for reply in world.ask_wire(*[query] * turns) if reply is not None]
    assert len(found) == turns
    assert {reply.rcode() for reply in found} == {0}
    return found


@pytest.mark.parametrize("qname", [WEB, f"_http._tcp.{WEB}", f"za.pin._zone.{WEB}", f"nowhere.prefer._zone.{WEB}"])
@pytest.mark.parametrize("qtype", ["A", "AAAA", "SRV"])
@pytest.mark.parametrize("edns", [None, 0])
def test_a_reply_shows_some_and_over_time_all_equally_often(
    limited: Small, qname: str, qtype: str, edns: int | None
) -> None:
    seen: Counter[str] = Counter()
    for reply in replies(limited, qname, qtype, edns=edns):
        (rrset,) = reply.answer
        members = [item.to_text() for item in rrset]
        assert len(set(members)) == len(members) == 3
        seen.update(members)
        if qtype == "SRV":
            targets = {member.split()[3].removesuffix(".") for member in members}
            assert {owner for owner, _ in glue(reply)} == targets, "glue for what is shown and for nothing else"
            assert len(glue(reply)) == 6
    assert len(seen) == MEMBERS
    assert max(seen.values()) - min(seen.values()) <= 6
    assert min(seen.values()) > TURNS * 3 // MEMBERS - 6


def test_it_is_fair_also_when_other_queries_come_in_between(limited: Small) -> None:
    kinds = [(WEB, "A"), (WEB, "SRV"), ("other.default.svc.cluster.local", "A"), (WEB, "AAAA")]
    queries = [dns.message.make_query(qname, qtype).to_wire() for qname, qtype in kinds]
    found = limited.ask_wire(*queries * TURNS)
    for index in (0, 1, 3):
        seen: Counter[str] = Counter()
        for reply in found[index :: len(kinds)]:
            assert reply is not None
            seen.update(item.to_text() for item in dns.message.from_wire(reply).answer[0])
        assert len(seen) == MEMBERS
        assert max(seen.values()) - min(seen.values()) <= 8


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 8, 65535])
@pytest.mark.parametrize("qtype", ["A", "SRV"])
def test_a_reply_shows_as_many_as_there_are_at_most(world: Small, limit: int, qtype: str) -> None:
    world.fill(
        annotated(headless("web"), max_answers=str(limit)),
        slice_of("web", *(at(f"10.0.0.{i}", hostname=f"w-{i}") for i in range(1, MEMBERS + 1))),
    )
    for reply in replies(world, WEB, qtype, turns=20):
        assert len(reply.answer[0]) == min(limit, MEMBERS)


def test_a_reply_shows_some_endpoints_with_all_their_ports(world: Small) -> None:
    ports = [Port("http", "TCP", 80), Port("dns", "UDP", 53)]
    world.fill(
        annotated(headless("web"), max_answers="2"),
        slice_of("web", *(at(f"10.0.0.{i}", hostname=f"w-{i}") for i in range(1, 5)), ports=ports),
        slice_of("web", at("10.0.0.9", hostname="w-9"), name="other", ports=[Port("m", "TCP", 1)]),
    )
    seen: set[str] = set()
    for reply in replies(world, WEB, "SRV"):
        members = [item.to_text().split() for item in reply.answer[0]]
        targets = {target for _, _, _, target in members}
        assert len(targets) == len(glue(reply)) == 2
        for target in targets:
            expected = {"1"} if target.startswith("w-9.") else {"80", "53"}
            assert {port for _, _, port, other in members if other == target} == expected
        seen |= targets
    assert len(seen) == 5
    assert {len(reply.answer[0]) for reply in replies(world, f"_dns._udp.{WEB}", "SRV", turns=9)} == {2}
    assert {len(reply.answer[0]) for reply in replies(world, f"_m._tcp.{WEB}", "SRV", turns=9)} == {1}


def test_the_weight_is_that_of_all_members(limited: Small) -> None:
    """The weight is a share of the whole Service, which has 14 entries here."""
    assert {item.split()[1] for item in limited.answers(WEB, "SRV")} == {str(100 // 14)}


def test_endpoint_names_and_cluster_ips_are_not_limited(world: Small) -> None:
    world.fill(
        annotated(headless("web"), max_answers="1"),
        slice_of("web", at("10.0.0.1", hostname="x"), at("10.0.0.2", hostname="x"), at("10.0.0.3", hostname="y")),
        annotated(cluster_ip("api", "172.16.0.1", "172.16.0.2", "172.16.0.3"), max_answers="1"),
        slice_of("api", at("10.0.1.1", hostname="x"), at("10.0.1.2", hostname="x")),
    )
    assert len(world.answers(WEB)) == 1
    assert world.answers(f"x.{WEB}") == {"10.0.0.1", "10.0.0.2"}
    assert len(glue(world.ask(f"x.{WEB}", "SRV"))) == 2
    for qname in (API, f"_http._tcp.{API}"):
        assert len(world.answers(qname)) == 3
        assert len(glue(world.ask(qname, "SRV"))) == 3
    assert len(world.answers(f"x.{API}")) == 2


def test_what_is_shown_of_a_limited_set_is_not_counted_as_cut(limited: Small) -> None:
    reader = Reader(limited.state_dir, limited.identity)
    reader.follow()
    resolver = Resolver(reader, limited.settings)
    snapshot = reader.begin()
    assert snapshot is not None
    for qtype in ("A", "AAAA", "SRV"):
        resolver.answer(dns.message.make_query(WEB, qtype, use_edns=0).to_wire(), snapshot)
        resolver.answer(dns.message.make_query(WEB, qtype).to_wire(), snapshot)
    snapshot.close()
    reader.close()
    assert {count_parts(key)[2] for key in resolver.counts} == {Reason.ANSWER}


def test_a_limited_set_that_does_not_fit_is_counted_as_cut(world: Small) -> None:
    endpoints = [at(f"10.{i >> 8}.{i & 255}.1") for i in range(6000)]
    world.fill(annotated(headless("web"), max_answers="5000"), slice_of("web", *endpoints))
    query = dns.message.make_query(WEB, "A").to_wire()
    (reply,) = world.ask_wire(query)
    assert reply is not None
    assert len(dns.message.from_wire(reply).answer[0]) == (65535 - len(query)) // 16
