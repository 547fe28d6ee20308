"""What two replies are to each other, by hand-made ones and by properties; what is asked; what is
kept.
"""

from __future__ import annotations

import random
from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from headwater.commands.compare import _dns_server
from headwater.compare.comparison import MOST_KEPT, MOST_UNEXPLAINED, Finding, Tally
from headwater.compare.deviations import Case, Oracle, deviation_of, names_differ_in_length
from headwater.compare.judgement import Kind, judge, level
from headwater.compare.messages import TYPES, Query, Way, encode_name, parse, readable, written
from headwater.compare.report import classes_of
from headwater.compare.subjects import Changes, Subjects, count, never_asked, questions, subjects_of
from headwater.settings.error import SettingsError
from headwater.settings.settings import Settings
from headwater.store.holders import prefix
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.harness.liar import truth_of

NAME = "web.ns.svc.cluster.local"
QUERY = Query(NAME, TYPES["A"], Way(payload=1232))
SOA = "cluster.local 5 IN SOA ns.dns.cluster.local hostmaster.cluster.local 1 7200 1800 86400 5"
TWO = (f"{NAME} 5 IN A 10.0.0.1", f"{NAME} 5 IN A 10.0.0.2")


def reply(
    *answer: str,
    authority: tuple[str, ...] = (),
    additional: tuple[str, ...] = (),
    flags: int = 0x8500,
    rcode: int = 0,
    payload: int = 1232,
    edns: bool = True,
    query: Query = QUERY,
) -> bytes:
    """A reply as dnspython writes it, each record by itself, in this order."""
    message = dns.message.make_response(dns.message.from_wire(query.wire(7)), our_payload=payload)
    message.flags = dns.flags.Flag(flags)
    message.set_rcode(dns.rcode.Rcode(rcode))
    if not edns:
        message.use_edns(-1)
    for section, texts in (("answer", answer), ("authority", authority), ("additional", additional)):
        for text in texts:
            owner, ttl, rclass, rtype, rdata = text.replace("local", "local.").split(" ", 4)
            getattr(message, section).append(dns.rrset.from_text(owner, int(ttl), rclass, rtype, rdata))
    return message.to_wire(max_size=65535)


NXDOMAIN = reply(authority=(SOA,), rcode=3)
NODATA = reply(authority=(SOA,))

#: Theirs, ours, the class.
TABLE: dict[str, tuple[bytes | None, bytes | None, Kind]] = {
    "the same bytes": (reply(*TWO), reply(*TWO), Kind.SAME),
    "another serial": (
        reply(authority=(SOA.replace(" 1 7200", " 9 7200"),), rcode=3), NXDOMAIN, Kind.SAME,
    ),
    "another UDP size": (reply(*TWO, payload=4096), reply(*TWO), Kind.SAME),
    "another order": (reply(*TWO[::-1]), reply(*TWO), Kind.ORDER),
    "another TTL": (reply(*TWO).replace(b"\0\0\0\5", b"\0\0\0\6"), reply(*TWO), Kind.TTL),
    "another TTL of one record": (
        reply(TWO[0].replace(" 5 ", " 6 "), TWO[1]), reply(*TWO), Kind.TTL,
    ),
    "another minimum": (reply(authority=(SOA[:-1] + "30",), rcode=3), NXDOMAIN, Kind.TTL),
    "another TTL and order": (
        reply(TWO[1], TWO[0].replace(" 5 ", " 6 ")), reply(*TWO), Kind.TTL,
    ),
    "RA": (reply(*TWO, flags=0x8580), reply(*TWO), Kind.FLAGS),
    "no AA": (reply(*TWO, flags=0x8100), reply(*TWO), Kind.FLAGS),
    "no OPT": (reply(*TWO, edns=False), reply(*TWO), Kind.FLAGS),
    "another server's SOA": (
        reply(authority=(SOA.replace("cluster.local 5", "local 5"),), rcode=3, flags=0x8180), NXDOMAIN, Kind.AUTHORITY,
    ),
    "no SOA": (reply(rcode=3), NXDOMAIN, Kind.AUTHORITY),
    "TC": (reply(*TWO, flags=0x8700), reply(*TWO), Kind.UNEXPLAINED),
    "another address": (reply(TWO[0]), reply(TWO[1]), Kind.UNEXPLAINED),
    "one record less": (reply(TWO[0]), reply(*TWO), Kind.UNEXPLAINED),
    "one record less of ours": (reply(*TWO), reply(TWO[0]), Kind.UNEXPLAINED),
    "a record in the other section": (
        reply(TWO[0], additional=(TWO[1],)), reply(*TWO), Kind.UNEXPLAINED,
    ),
    "NXDOMAIN": (NXDOMAIN, NODATA, Kind.UNEXPLAINED),
    "NXDOMAIN of ours": (reply(*TWO), NXDOMAIN, Kind.UNEXPLAINED),
    "SERVFAIL": (reply(rcode=2), reply(*TWO), Kind.THEY_FAIL),
    "REFUSED": (reply(rcode=5), NXDOMAIN, Kind.THEY_FAIL),
    "a header": (b"\0\7\x81\1" + bytes(8), NXDOMAIN, Kind.THEY_FAIL),
    "SERVFAIL of ours": (reply(*TWO), reply(rcode=2), Kind.WE_FAIL),
    "SERVFAIL of both": (reply(rcode=2), reply(rcode=2), Kind.SAME),
    "silence": (None, reply(*TWO), Kind.THEY_ARE_SILENT),
    "silence of ours": (reply(*TWO), None, Kind.WE_ARE_SILENT),
    "silence of both": (None, None, Kind.THEY_ARE_SILENT),
    "half a reply": (reply(*TWO)[:-3], reply(*TWO), Kind.THEY_ARE_SILENT),
    "a byte more": (reply(*TWO) + b"\0", reply(*TWO), Kind.THEY_ARE_SILENT),
    "a query": (QUERY.wire(7), reply(*TWO), Kind.THEY_ARE_SILENT),
    "another question": (reply(*TWO, query=QUERY._replace(qtype=28)), reply(*TWO), Kind.THEY_ARE_SILENT),
}  # fmt: skip


@pytest.mark.parametrize("what", TABLE)
def test_class_of_two_replies(what: str) -> None:
    theirs, ours, kind = TABLE[what]
    assert judge(QUERY, theirs, ours).kind is kind


def test_letters_of_the_question_and_of_names_have_a_class_of_their_own() -> None:
    shouting = QUERY._replace(name=NAME.upper())
    assert judge(QUERY, reply(*TWO, query=shouting), reply(*TWO)).kind is Kind.LETTER_CASE
    assert judge(shouting, reply(*TWO, query=shouting), reply(*TWO, query=shouting)).kind is Kind.SAME
    targets = [reply(f"{NAME} 5 IN CNAME {target}.cluster.local") for target in ("other", "OTHER")]
    assert judge(QUERY, *targets).kind is Kind.LETTER_CASE


# -- properties

LABELS = st.sampled_from(["web", "db-0", "x", "_tcp", "a" * 63, "svc"])
NAMES = st.lists(LABELS, min_size=1, max_size=3).map(lambda labels: ".".join([*labels, "cluster.local."]))
RECORDS = st.one_of(
    st.tuples(st.just("A"), st.integers(1, 250).map(lambda n: f"10.0.0.{n}")),
    st.tuples(st.just("AAAA"), st.integers(1, 250).map(lambda n: f"fd00::{n:x}")),
    st.tuples(st.just("SRV"), NAMES.map(lambda name: f"0 50 80 {name}")),
    st.tuples(st.sampled_from(["CNAME", "PTR", "NS"]), NAMES),
    st.tuples(st.just("MX"), NAMES.map(lambda name: f"10 {name}")),
    st.tuples(st.just("TXT"), st.just('"1.1.0"')),
)
SECTION = st.lists(st.tuples(NAMES, st.integers(0, 60), RECORDS), max_size=6, unique=True)


def message(sections: list[list[tuple[str, int, tuple[str, str]]]]) -> bytes:
    made = dns.message.make_response(dns.message.from_wire(QUERY.wire(7)))
    for name, section in zip(("answer", "authority", "additional"), sections, strict=True):
        for owner, ttl, (rtype, rdata) in section:
            getattr(made, name).append(dns.rrset.from_text(owner, ttl, "IN", rtype, rdata))
    return made.to_wire(max_size=65535)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(SECTION, min_size=3, max_size=3), st.randoms(use_true_random=False))
def test_server_beside_itself_is_alike_whatever_the_order(
    sections: list[list[tuple[str, int, tuple[str, str]]]], chance: random.Random
) -> None:
    others = [chance.sample(section, len(section)) for section in sections]
    pair = judge(QUERY, message(sections), message(others))
    assert pair.kind is (Kind.SAME if sections == others else Kind.ORDER)
    assert pair.theirs == pair.ours


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(SECTION, min_size=3, max_size=3))
def test_reader_reads_what_dnspython_reads(sections: list[list[tuple[str, int, tuple[str, str]]]]) -> None:
    wire = message(sections)
    found, expected = written(wire), dns.message.from_wire(wire, one_rr_per_rrset=True)
    for mine, theirs in zip(found.sections, (expected.answer, expected.authority, expected.additional), strict=True):
        shown = [
            (
                dns.name.from_wire(owner, 0)[0],
                rtype,
                ttl,
                dns.rdata.from_wire(
                    dns.rdataclass.RdataClass(rclass), dns.rdatatype.RdataType(rtype), rdata, 0, len(rdata)
                ),
            )
            for owner, rtype, rclass, ttl, rdata in mine
        ]
        assert shown == [(rrset.name, rrset.rdtype, rrset.ttl, rrset[0]) for rrset in theirs]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=600), st.binary(max_size=60))
def test_any_bytes_are_a_reply_or_none(tail: bytes, other: bytes) -> None:
    question = QUERY.question()
    for theirs in (tail, b"\0\7\x85\0\0\1" + tail, b"\0\7\x85\0\0\1\0\2\0\1\0\1" + question + tail):
        pair = judge(QUERY, theirs, reply(*TWO))
        if pair.theirs is not None:
            assert len(pair.theirs.line()) < 4_000
            assert str(pair.theirs).isprintable() or "\n" in str(pair.theirs)
        judge(QUERY, theirs, other)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_broken_replies_are_read_or_none(data: st.DataObject) -> None:
    wire = bytearray(reply(f"{NAME} 5 IN SRV 0 50 80 a.{NAME}", *TWO, authority=(SOA,)))
    for _ in range(data.draw(st.integers(1, 6))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    found = readable(bytes(wire))
    if found is not None:
        found.line()
        level(found)
        oracle = Oracle(lambda queries: [None] * len(queries), lambda _: [], zones=["cluster.local"])
        deviation_of(Case(QUERY, found, parse(reply(*TWO)), oracle))


@pytest.mark.parametrize(
    "wire",
    [
        b"\0\7\x85\0\0\1\0\1\0\0\0\0" + QUERY.question() + b"\xc0" + bytes([12 + len(QUERY.question())]) + bytes(10),
        b"\0\7\x85\0\0\1\xff\xff\xff\xff\xff\xff" + QUERY.question(),
        # Each name is one label more than the name before, which it points to: beyond 255 bytes.
        b"\0\7\x85\0\0\0\0\x14\0\0\0\0"
        + b"".join(
            b"\x1e" + b"a" * 30 + (b"\0" if not n else (0xC000 | 12 + (n - 1) * 43 - (n > 1)).to_bytes(2, "big"))
            + b"\0\x10\0\1\0\0\0\0\0\0"
            for n in range(20)
        ),
    ],
    ids=["a pointer to itself", "counts", "a name that grows"],
)  # fmt: skip
def test_hostile_bytes_are_no_reply(wire: bytes) -> None:
    assert readable(wire) is None


# -- a deviation needs what the other server says


def oracle(existing: set[str], under: list[str]) -> Oracle:
    def exchange(queries: list[Query]) -> list[bytes | None]:
        return [reply(query=query, rcode=0 if query.name in existing else 3, authority=(SOA,)) for query in queries]

    return Oracle(exchange, lambda _: under, zones=["cluster.local"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("existing", "deviation"),
    [
        ({f"a.{NAME}"}, "empty_non_terminal"),  # names below it, none of its own
        ({f"a.{NAME}", NAME}, ""),  # it exists there: NXDOMAIN for one type is a fault
        (set(), ""),  # nothing below it
    ],
)
def test_nxdomain_of_a_service_is_a_deviation_where_only_names_below_exist(existing: set[str], deviation: str) -> None:
    case = Case(QUERY, parse(NXDOMAIN), parse(NODATA), oracle(existing, [f"a.{NAME}"]))
    assert deviation_of(case) == deviation


@pytest.mark.parametrize(
    ("name", "theirs", "ours", "allowed"),
    [
        (NAME.upper(), 0x8700, 0x8500, True),  # theirs is longer: it repeats the question in lower case
        (NAME.upper(), 0x8500, 0x8700, False),  # ours has the question's own letters
        (NAME.upper(), 0x8700, 0x8700, False),
        (NAME, 0x8700, 0x8500, False),
    ],
)
def test_capitals_explain_a_cut_reply_of_the_other_server_only(
    name: str, theirs: int, ours: int, allowed: bool
) -> None:
    query = QUERY._replace(name=name)
    said = [parse(reply(*TWO, flags=flags, query=query)) for flags in (theirs, ours)]
    case = Case(query, said[0], said[1], oracle(set(), []))
    assert names_differ_in_length(case) == allowed


# -- what is kept


def test_what_is_kept_is_bounded_and_the_worst_stays() -> None:
    tally = Tally()
    for number in range(3 * MOST_UNEXPLAINED):
        tally.add(Finding(Kind.UNEXPLAINED, QUERY))
        tally.add(Finding(Kind.TTL, QUERY))
        tally.add(Finding(Kind.THEY_ARE_LATE, QUERY, late=0.001 * (number + 1)))
    assert len(tally.findings["unexplained"]) == MOST_UNEXPLAINED
    assert len(tally.findings["ttl"]) == len(tally.findings["they_are_late"]) == MOST_KEPT
    late = next(item for item in classes_of(tally) if item.kind == "they_are_late")
    assert late.lateness is not None
    assert late.lateness.worst == late.examples[0].late == 0.001 * 3 * MOST_UNEXPLAINED
    assert (tally.questions, tally.unexplained) == (9 * MOST_UNEXPLAINED, 3 * MOST_UNEXPLAINED)


# -- what is asked

MANIFESTS = """
apiVersion: v1
kind: Namespace
metadata: {name: ns}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: ns}
spec: {clusterIP: 10.96.0.7}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: ns}
spec: {clusterIP: None}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: ns, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
endpoints: [{addresses: [10.0.9.1], hostname: db-0, conditions: {ready: false}}, {addresses: [10.0.9.2]}]
ports: [{name: sql, port: 5432}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: orphan, namespace: ns}
addressType: IPv4
endpoints: [{addresses: [10.0.9.3]}]
"""
ZONES = Settings(reverse_zones=("10.in-addr.arpa",), pods="insecure")


def test_names_are_those_of_records_and_of_objects(tmp_path: Path) -> None:
    with truth_of(tmp_path, MANIFESTS, ZONES) as truth:
        snapshot = truth.reader.begin()
        assert snapshot is not None
        found = subjects_of(snapshot, truth.settings)
        snapshot.close()
    assert found.unsendable == {"3.9.0.10.in-addr.arpa"}
    for name in ("3.9.0.10.in-addr.arpa", "X.3.9.0.10.in-addr.arpa", "10.in-addr.arpa", "ns.dns.cluster.local"):
        assert never_asked(name, "PTR", found)
    assert {
        NAME, "db.ns.svc.cluster.local", "10-0-9-2.db.ns.svc.cluster.local", "_sql._tcp.db.ns.svc.cluster.local",
        "db-0.db.ns.svc.cluster.local",  # not ready
        "10-0-9-1.ns.pod.cluster.local", "ns.svc.cluster.local", "ns.pod.cluster.local",
    } <= set(found.names)  # fmt: skip
    assert {"1.9.0.10.in-addr.arpa", "2.9.0.10.in-addr.arpa", "7.0.96.10.in-addr.arpa"} <= set(found.reverse)
    assert set(found.under("db.ns.svc.cluster.local")) >= {"db-0.db.ns.svc.cluster.local"}
    assert NAME not in found.under("db.ns.svc.cluster.local")


def test_round_asks_everything_and_others_the_next_time() -> None:
    subjects = Subjects(("cluster.local",), ("10.in-addr.arpa",), True, [NAME], ["1.9.0.10.in-addr.arpa"])
    rounds = [[*questions(subjects, 2, random.Random(number))] for number in (1, 2)]
    for asked in rounds:
        assert {(query.name.lower(), query.qtype) for query in asked} >= {
            (NAME, TYPES["A"]), (NAME, TYPES["AAAA"]), (NAME, TYPES["SRV"]), ("1.9.0.10.in-addr.arpa", TYPES["PTR"]),
        }  # fmt: skip
        assert len(asked) <= count(subjects, 2)
        for query in asked:
            encode_name(query.name)
            assert query.name.lower().endswith(("cluster.local", "10.in-addr.arpa"))
            assert not query.name.lower().startswith("ns.dns.")
    assert set(rounds[0]) != set(rounds[1])


def test_changed_names_are_seen_once() -> None:
    class Moment:
        """A snapshot of two names and an address."""

        generation = 1

        def __init__(self, commit: int, node: bytes, target: bytes) -> None:
            self.commit = commit
            self.scan = lambda *_: [(encode_name(NAME), node), (encode_name("db.ns.svc.cluster.local"), b"x")]
            self.addresses = lambda _: [(prefix(bytes((10, 96, 0, 7))) + b"\0ns/web", target)]

    changes = Changes(ZONES.reverse_zones)
    moments = (
        Moment(1, b"a", b"a"), Moment(1, b"a", b"a"), Moment(2, b"b", b"a"),
        Moment(2, b"c", b"a"), Moment(3, b"b", b"b"), Moment(4, b"b", b"b"),
    )  # fmt: skip
    found = [changes.look(moment) for moment in moments]  # type: ignore[arg-type]
    # The fourth is of the third's commit: there is nothing to look at.
    assert found == [[], [], [NAME], [], ["7.0.96.10.in-addr.arpa"], []]


# -- the command's addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.96.0.10", "10.96.0.10:53"), ("10.96.0.10:5353", "10.96.0.10:5353"), ("fd00::a", "[fd00::a]:53"),
        ("[fd00::a]", "[fd00::a]:53"), ("[fd00::a]:5353", "[fd00::a]:5353"), ("localhost", "127.0.0.1:53"),
    ],
)  # fmt: skip
def test_port_53_is_what_a_server_has_without_one(text: str, address: str) -> None:
    assert str(_dns_server(text, "--with")) == address


@pytest.mark.parametrize(
    "text",
    ["", ":53", "dns.example", "10.0.0.1:0", "10.0.0.1:x", "unix:/run/dns.sock", "[::1", "10.0.0.1:53:53", "a:53"],
)
def test_what_is_no_server_is_refused_by_its_flag(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^--with: "):
        _dns_server(text, "--with")
