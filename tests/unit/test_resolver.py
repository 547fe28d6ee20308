"""Contracts 4 and 5: the form of every reply, whatever the query is."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest
from headwater.answer.alias import Pending
from headwater.answer.counts import Reason, count_parts
from headwater.answer.find import address_of_label
from headwater.answer.resolver import Resolver
from headwater.cluster.objects import Namespace
from headwater.store.environment import Reader
from headwater.store.identity import Identity
from headwater.wire.header import MAX_MESSAGE
from headwater.wire.names import name
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.harness.small import Small, at, cluster_ip, headless, listed, settings, slice_of

WEB = "web.default.svc.cluster.local"
HEADER = struct.Struct(">HHHHHH")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return Small(tmp_path_factory.mktemp("state")).fill(
        headless("web"),
        slice_of("web", *(at(f"10.44.0.{i}", hostname=f"web-{i}") for i in range(1, 6))),
        headless("six"),
        slice_of("six", at("fd00::1"), at("fd00::2")),
        cluster_ip("api", "172.16.0.9"),
    )


@pytest.fixture
def served(world: Small) -> Iterator[tuple[Reader, Resolver]]:
    """Yield a resolver that knows that the store is ready, and so takes the short way."""
    with serving(world) as both:
        yield both


@contextmanager
def serving(world: Small) -> Iterator[tuple[Reader, Resolver]]:
    reader = Reader(world.state_dir, world.identity)
    reader.follow()
    resolver = Resolver(reader, world.settings)
    snapshot = reader.begin()
    assert snapshot is not None
    resolver.answer(PLAIN, snapshot)
    snapshot.close()
    yield reader, resolver
    reader.close()


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Reader, Resolver]]:
    """Yield zones of every kind, one inside another, with names that stand for others."""
    shape = settings(
        zones=("cluster.local", "in.cluster.local"), multicluster_zones=("clusterset.local",),
        reverse_zones=("44.10.in-addr.arpa",), pods="insecure", zonal=True,
    )  # fmt: skip
    world = Small(tmp_path_factory.mktemp("state"), shape).fill(
        headless("web"),
        slice_of("web", *(at(f"10.44.0.{i}", hostname=f"web-{i}", zone="z1") for i in range(1, 3))),
    )
    with serving(world) as both:
        yield both


def reply_to(world: Small, query: bytes) -> bytes:
    (reply,) = world.ask_wire(query)
    assert reply is not None
    return reply


def query(qname: str = WEB, qtype: str = "A", **options: object) -> dns.message.QueryMessage:
    return dns.message.make_query(qname, qtype, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("qtype", ["A", "AAAA", "SRV", "TXT", "NS"])
@pytest.mark.parametrize("edns", [None, 0])
@pytest.mark.parametrize("qname", ["WeB.DefAult.sVc.cluster.LOCAL", "NoThing.cluster.local", "web.Example.org"])
def test_id_and_question_come_back_in_their_own_letters(world: Small, qname: str, qtype: str, edns: int | None) -> None:
    asked = query(qname, qtype, use_edns=edns).to_wire()
    reply = reply_to(world, asked)
    size = len(name(qname)) + 4
    assert reply[:2] == asked[:2]
    assert reply[12 : 12 + size] == asked[12 : 12 + size]
    assert reply[4:6] == b"\0\1"


@pytest.mark.parametrize("flags", [0, dns.flags.RD, dns.flags.CD, dns.flags.RD | dns.flags.AD | dns.flags.CD])
@pytest.mark.parametrize("qtype", ["A", "SRV"])
def test_rd_and_cd_are_copied_and_nothing_is_claimed(world: Small, flags: int, qtype: str) -> None:
    asked = query(qtype=qtype)
    asked.flags = dns.flags.Flag(flags)
    reply = dns.message.from_wire(reply_to(world, asked.to_wire()))
    expected = dns.flags.QR | dns.flags.AA | flags & (dns.flags.RD | dns.flags.CD)
    assert reply.flags == expected


def test_edns_is_answered_with_edns_and_only_then(world: Small) -> None:
    with_options = query(
        use_edns=0, options=[dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"12345678")], want_dnssec=True
    )
    reply = dns.message.from_wire(reply_to(world, with_options.to_wire()))
    assert (reply.edns, reply.options, reply.ednsflags & dns.flags.DO) == (0, (), dns.flags.DO)
    assert dns.message.from_wire(reply_to(world, query().to_wire())).edns == -1


@pytest.mark.parametrize("qname", [WEB, "nothing.cluster.local", "example.org"])
def test_another_edns_version_is_badvers(world: Small, qname: str) -> None:
    reply = dns.message.from_wire(reply_to(world, query(qname, use_edns=1).to_wire()))
    assert (reply.rcode(), reply.edns, reply.answer) == (dns.rcode.BADVERS, 0, [])


@pytest.mark.parametrize(
    ("qname", "qtype", "qclass", "rcode"),
    [
        ("example.org", "A", "IN", "REFUSED"),
        ("local", "A", "IN", "REFUSED"),
        (".", "NS", "IN", "REFUSED"),
        ("xcluster.local", "A", "IN", "REFUSED"),
        (WEB, "A", "CH", "REFUSED"),
        (WEB, "A", "ANY", "REFUSED"),
        ("version.bind", "TXT", "CH", "REFUSED"),
        ("cluster.local", "AXFR", "IN", "REFUSED"),
        ("cluster.local", "IXFR", "IN", "REFUSED"),
        ("web.default.svc.cluster.local", "ANY", "IN", "NOERROR"),
    ],
)
def test_what_is_not_ours_is_refused(world: Small, qname: str, qtype: str, qclass: str, rcode: str) -> None:
    asked = query(qname, qtype, rdclass=qclass)
    reply = dns.message.from_wire(reply_to(world, asked.to_wire()))
    assert dns.rcode.to_text(reply.rcode()) == rcode
    assert reply.answer == []


def test_a_name_that_only_ends_like_the_zone_is_not_in_it(world: Small) -> None:
    # A label that contains the zone's wire format: "\x07cluster" inside a label.
    odd = b"\x0ex\x07cluster\x05loca" + b"\x00"
    asked = HEADER.pack(7, 0x0100, 1, 0, 0, 0) + odd + b"\0\1\0\1"
    assert reply_to(world, asked)[3] & 15 == dns.rcode.REFUSED


@pytest.mark.parametrize("opcode", [1, 2, 4, 5, 6, 15])
def test_other_opcodes_are_not_implemented(world: Small, opcode: int) -> None:
    asked = bytearray(query().to_wire())
    asked[2] |= opcode << 3
    reply = reply_to(world, bytes(asked))
    assert (reply[2] >> 3 & 15, reply[3] & 15, len(reply)) == (opcode, dns.rcode.NOTIMP, 12)


PLAIN = query().to_wire()
QUESTION = PLAIN[12:]
OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(PLAIN[:5], id="half a header"),
        pytest.param(PLAIN[:12], id="no question"),
        pytest.param(PLAIN[:-1], id="half a question"),
        pytest.param(PLAIN[:20], id="half a name"),
        pytest.param(PLAIN + b"\0", id="a byte too many"),
        pytest.param(HEADER.pack(1, 0, 0, 0, 0, 0), id="QDCOUNT 0"),
        pytest.param(HEADER.pack(1, 0, 2, 0, 0, 0) + QUESTION * 2, id="QDCOUNT 2"),
        pytest.param(HEADER.pack(1, 0, 65535, 0, 0, 0) + QUESTION, id="QDCOUNT 65535"),
        pytest.param(HEADER.pack(1, 0, 1, 1, 0, 0) + QUESTION, id="ANCOUNT 1"),
        pytest.param(HEADER.pack(1, 0, 1, 0, 65535, 0) + QUESTION, id="NSCOUNT 65535"),
        pytest.param(HEADER.pack(1, 0, 1, 0, 0, 65535) + QUESTION + OPT, id="ARCOUNT 65535"),
        pytest.param(HEADER.pack(1, 0, 1, 0, 0, 1) + QUESTION, id="no OPT although ARCOUNT 1"),
        pytest.param(HEADER.pack(1, 0, 1, 0, 0, 2) + QUESTION + OPT * 2, id="two OPT"),
        pytest.param(HEADER.pack(1, 0, 1, 0, 0, 1) + QUESTION + OPT[:-2] + b"\0\5", id="OPT longer than the message"),
        pytest.param(HEADER.pack(1, 0, 1, 0, 0, 1) + QUESTION + b"\1x" + OPT, id="OPT with an owner"),
        pytest.param(HEADER.pack(1, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1", id="a pointer to itself"),
        pytest.param(HEADER.pack(1, 0, 1, 0, 0, 0) + b"\x40" + b"x" * 64 + b"\0\0\1\0\1", id="a label of 64"),
        pytest.param(HEADER.pack(1, 0, 1, 0, 0, 0) + b"\x3f" + b"x" * 63, id="a name without an end"),
        pytest.param(HEADER.pack(1, 0, 1, 0, 0, 0) + (b"\x3f" + b"x" * 63) * 4 + b"\0\0\1\0\1", id="a name of 257"),
        pytest.param(HEADER.pack(1, 0x8000, 1, 0, 0, 0) + QUESTION, id="a reply"),
    ],
)
def test_a_malformed_query_gets_formerr(world: Small, message: bytes) -> None:
    reply = reply_to(world, message)
    assert reply[:2] == message[:2]
    assert (reply[2] & 0x80, reply[3] & 15) == (0x80, dns.rcode.FORMERR)
    dns.message.from_wire(reply)


@pytest.mark.parametrize("message", [b"", b"x"])
def test_without_an_id_there_is_no_reply(world: Small, message: bytes) -> None:
    assert world.ask_wire(message) == [None]


def test_other_records_in_the_additional_section_are_passed_over(world: Small) -> None:
    cookie = b"\1k\0\0\xfa\0\xff\0\0\0\0\0\2xx"
    asked = HEADER.pack(1, 0, 1, 0, 0, 2) + QUESTION + cookie + OPT
    assert dns.message.from_wire(reply_to(world, asked)).edns == 0


@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda tail: PLAIN[:12] + tail))
@example(PLAIN)
@hypothesis_settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_nothing_that_is_sent_raises(world: Small, message: bytes) -> None:
    (reply,) = world.ask_wire(message)
    assert (reply is None) == (len(message) < 2)
    if reply is not None:
        assert reply[:2] == message[:2]
        assert reply[2] & 0x80
        dns.message.from_wire(reply, continue_on_error=True)


@pytest.mark.parametrize("qtype", ["A", "AAAA", "SRV"])
@pytest.mark.parametrize("qname", [WEB, "six.default.svc.cluster.local", "api.default.svc.cluster.local"])
@given(
    data=st.data(), edns=st.sampled_from([False, 0, 1]), do=st.booleans(), size=st.sampled_from([0, 512, 1232, 65535])
)
@hypothesis_settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_short_way_leads_where_the_long_way_does(
    served: tuple[Reader, Resolver], qname: str, qtype: str, data: st.DataObject, edns: int | bool, do: bool, size: int
) -> None:
    """With and without an OPT, and with one byte that is wrong, missing or added."""
    message = bytearray(query(qname, qtype, use_edns=edns, want_dnssec=do and edns == 0, payload=size).to_wire())
    for position in data.draw(st.lists(st.integers(2, len(message) - 1), max_size=1)):
        message[position] = data.draw(st.sampled_from([0, 1, 2, 0x29, 0x80, 0xFF]))
    asked = bytes(message)[: data.draw(st.sampled_from([len(message), len(message) - 1]))]
    asked += data.draw(st.sampled_from([b"", b"\0", OPT]))
    both_ways(*served, asked)


def both_ways(reader: Reader, resolver: Resolver, asked: bytes) -> bytes | Pending | None:
    """Return the reply, after comparing the results of the short and the long way."""
    snapshot = reader.begin()
    assert snapshot is not None
    found = []
    for answer in (resolver.answer, resolver._long_way):
        resolver._state.turn = 0
        resolver.counts.clear()
        found.append((answer(asked, snapshot), dict(resolver.counts)))
    snapshot.close()
    assert found[0] == found[1]
    return found[0][0]


# Names that stand for others, and similar ones.
_NEARLY = [
    text.encode().split(b".")
    for text in (
        "http.tcp.web.default.svc.cluster.local", "_http.tcp.web.default.svc.clusterset.local",
        "x.10-44-0-1.default.pod.cluster.local", "x.y.fd00--1.default.pod.cluster.local",
        "z2.prefer._zone.web.default.svc.cluster.local", "web-1.z2.prefer._zone.web.default.svc.cluster.local",
        "z2.pin._zone.web.default.svc.cluster.local", "pin._zone.web.default.svc.in.cluster.local",
        "1.0.44.10.in-addr.arpa", "0.44.10.in-addr.arpa", "web.default.svc.cluster.local.default.svc.cluster.local",
        "none.default.svc.cluster.local", "default.svc.cluster.local", "none.svc.cluster.local", "none.cluster.local",
    )
]  # fmt: skip
_LABELS = st.sampled_from(sorted({label for parts in _NEARLY for label in parts} | {b"y" * 63, b"y" * 64, b"a\0b"}))


@pytest.mark.slow
@given(parts=st.sampled_from(_NEARLY), changes=st.lists(st.tuples(st.integers(0, 9), _LABELS), max_size=2),
       front=st.lists(_LABELS | st.just(b"y" * 63), max_size=5), upper=st.booleans())  # fmt: skip
@example([b"a\7cluster\5local"], [], [], False)  # a label that ends like the zone
@example([b"x", b"a\0cluster", b"local"], [], [], False)
@hypothesis_settings(max_examples=1500, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_names_that_are_not_stored_get_what_a_closer_look_says(
    everything: tuple[Reader, Resolver],
    parts: list[bytes],
    changes: list[tuple[int, bytes]],
    front: list[bytes],
    upper: bool,
) -> None:
    """Names of any labels, also long ones and ones with zero bytes."""
    labels = [*front, *parts]
    for position, label in changes:
        labels[position % len(labels)] = label
    wire = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    both_ways(*everything, PLAIN[:12] + (wire.upper() if upper else wire) + b"\0\1\0\1")


@given(st.integers(0, len(PLAIN) - 1), st.integers(0, 255))
@hypothesis_settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_one_wrong_byte_never_gets_another_names_answer(world: Small, position: int, value: int) -> None:
    message = bytearray(PLAIN)
    message[position] = value
    (reply,) = world.ask_wire(bytes(message))
    assert reply is not None
    if reply[6:8] != b"\0\0":  # with an answer, the question must be one that has it
        assert bytes(message[12:-4]).lower() == QUESTION[:-4]
        assert message[-3] in (dns.rdatatype.A, dns.rdatatype.AAAA, dns.rdatatype.SRV)


def test_every_member_is_first_equally_often(world: Small) -> None:
    first = Counter(answer_order(reply)[0] for reply in world.ask_wire(*[PLAIN] * 1000))
    assert len(first) == 5
    assert max(first.values()) - min(first.values()) <= 4


@pytest.mark.parametrize("others", [1, 2, 3])
def test_rotation_is_fair_also_when_other_names_are_asked_in_between(world: Small, others: int) -> None:
    other = query("six.default.svc.cluster.local", "AAAA").to_wire()
    replies = world.ask_wire(*([PLAIN] + [other] * others) * 500)
    for index, size in ((0, 5), (1, 2)):
        first = Counter(answer_order(reply)[0] for reply in replies[index :: others + 1])
        assert len(first) == size
        assert max(first.values()) - min(first.values()) <= 6


def test_every_rotation_is_the_whole_set(world: Small) -> None:
    for reply in world.ask_wire(*[PLAIN] * 20):
        assert sorted(answer_order(reply)) == [f"10.44.0.{i}" for i in range(1, 6)]


def answer_order(reply: bytes | None) -> list[str]:
    assert reply is not None
    at_, found = len(PLAIN), []
    while at_ < len(reply):
        size = int.from_bytes(reply[at_ + 10 : at_ + 12], "big")
        data = reply[at_ + 12 : at_ + 12 + size]
        found.append(".".join(map(str, data)) if size == 4 else data.hex())
        at_ += 12 + size
    return found


@pytest.mark.slow
def test_an_answer_that_does_not_fit_is_the_largest_set_that_does(tmp_path: Path) -> None:
    addresses = [f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}" for i in range(1, 5001)]
    world = Small(tmp_path).fill(
        headless("big"), slice_of("big", *(at(item) for item in addresses)), headless("web"),
        slice_of("web", at("10.44.0.1")),
    )  # fmt: skip
    for qtype, edns in (("A", None), ("A", 0), ("SRV", None), ("SRV", 0)):
        asked = query("big.default.svc.cluster.local", qtype, use_edns=edns)
        reply = reply_to(world, asked.to_wire())
        assert MAX_MESSAGE - 120 < len(reply) <= MAX_MESSAGE
        message = dns.message.from_wire(reply)
        assert not message.flags & dns.flags.TC
        assert message.edns == (-1 if edns is None else 0)
        if qtype == "A":
            # The query's own OPT is as long as the reply's.
            assert len(message.answer[0]) == (MAX_MESSAGE - len(asked.to_wire())) // 16
        else:
            # Glue would only displace answers.
            assert len(message.answer[0]) > 1000
            assert not message.additional
    # Over many queries every member occurs.
    wire = query("big.default.svc.cluster.local").to_wire()
    seen = {item for reply in world.ask_wire(*[wire] * 12) for item in answer_order_of(reply, wire)}
    assert len(seen) == 5000


def answer_order_of(reply: bytes | None, asked: bytes) -> list[bytes]:
    assert reply is not None
    return [reply[at_ + 12 : at_ + 16] for at_ in range(len(asked), len(reply), 16)]


def test_queries_are_counted_by_zone_type_and_reason(world: Small) -> None:
    reader = Reader(world.state_dir, world.identity)
    reader.follow()
    resolver = Resolver(reader, settings())
    snapshot = reader.begin()
    assert snapshot is not None
    for qname, qtype, edns in (
        (WEB, "A", None), (WEB, "A", 0), (WEB, "AAAA", None), ("nothing.cluster.local", "A", None),
        ("example.org", "A", None), (WEB, "TYPE4711", None), ("api.default.svc.cluster.local", "A", None),
    ):  # fmt: skip
        resolver.answer(query(qname, qtype, use_edns=edns).to_wire(), snapshot)
    snapshot.close()
    reader.close()
    assert {count_parts(key): count for key, count in resolver.counts.items()} == {
        (1, 1, Reason.ANSWER): 3,
        (1, 28, Reason.NODATA): 1,
        (1, 1, Reason.NXDOMAIN): 1,
        (0, 1, Reason.OUT_OF_ZONE): 1,
        (1, 0, Reason.NODATA): 1,
    }


def test_a_client_cannot_fill_the_table_of_counts(world: Small) -> None:
    reader = Reader(world.state_dir, world.identity)
    reader.follow()
    resolver = Resolver(reader, settings())
    snapshot = reader.begin()
    plain = bytearray(PLAIN)
    for qtype in random.Random(7).sample(range(65536), 2000):
        plain[-4:-2] = qtype.to_bytes(2, "big")
        resolver.answer(bytes(plain), snapshot)
    assert len(resolver.counts) < 30
    assert snapshot is not None
    snapshot.close()
    reader.close()


def test_without_a_store_every_name_in_the_zones_is_servfail(tmp_path: Path) -> None:
    reader = Reader(tmp_path, Identity("here", "shape"))
    resolver = Resolver(reader, settings())
    for qname, rcode in (
        (WEB, dns.rcode.SERVFAIL),
        ("cluster.local", dns.rcode.SERVFAIL),
        ("x.org", dns.rcode.REFUSED),
    ):
        reply = resolver.answer(query(qname).to_wire(), reader.begin())
        assert isinstance(reply, bytes)
        assert dns.message.from_wire(reply).rcode() == rcode


def test_a_store_that_is_not_complete_is_servfail(tmp_path: Path) -> None:
    world = Small(tmp_path)
    world.commit(*listed(["namespaces", "services"], [Namespace("default"), headless("web")]))
    assert world.status(WEB) == "SERVFAIL"
    world.fill(headless("web"), slice_of("web", at("10.44.0.1")))
    assert world.status(WEB) == "NOERROR"


def test_a_store_of_other_settings_is_servfail_until_it_is_compiled_anew(world: Small, tmp_path: Path) -> None:
    old = Small(tmp_path).fill(headless("web"), slice_of("web", at("10.44.0.1")))
    new = old.with_settings(settings(ttl=60))
    assert new.status(WEB) == "SERVFAIL"
    store, ledger = new.open()
    assert ledger.ready
    store.close()
    assert new.ask(WEB).answer[0].ttl == 60


@pytest.mark.parametrize(
    ("label", "address"),
    [
        (b"10-44-0-7", b"\x0a\x2c\0\7"),
        (b"fd00--7", b"\xfd" + bytes(14) + b"\7"),
        (b"1-2-3-4-5-6-7-8", bytes.fromhex("00010002000300040005000600070008")),
        (b"--1", bytes(15) + b"\1"),
        (b"010-44-0-7", None),
        (b"10-44-0", None),
        (b"10-44-0-256", None),
        (b"10.44.0.7", None),
        (b"web", None),
        (b"", None),
        (b"\xff-1-1-1", None),
    ],
)
def test_a_dashed_label_is_an_address_or_nothing(label: bytes, address: bytes | None) -> None:
    assert address_of_label(label) == address
