"""The comparison finds every difference between two messages, and nothing else."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rrset
import pytest
from headwater.compare.messages import TYPES, WAYS, Query, alike, decode_name, encode_name, parse, parse_reply

QUERY = Query("Web.ns.svc.cluster.local", TYPES["SRV"], WAYS[1])
RECORDS = {
    "answer": (
        "Web.ns.svc.cluster.local 5 IN SRV 0 50 80 a.web.ns.svc.cluster.local",
        "web.ns.svc.cluster.local 5 IN A 10.0.0.1",
    ),
    "authority": ("cluster.local 5 IN SOA ns.dns.cluster.local hostmaster.cluster.local 1 7200 1800 86400 5",),
    "additional": ("a.web.ns.svc.cluster.local 5 IN A 10.0.0.2", "a.web.ns.svc.cluster.local 5 IN AAAA fd00::2"),
}  # fmt: skip


def reply(records: dict[str, tuple[str, ...]] = RECORDS, *, number: int = 7, flags: int = 0x8500) -> bytes:
    """Return a reply to QUERY as dnspython writes it."""
    message = dns.message.from_wire(QUERY.wire(number))
    answer = dns.message.make_response(message, our_payload=1232)
    answer.flags = dns.flags.Flag(flags)
    for section, texts in records.items():
        for text in texts:
            owner, ttl, rclass, rtype, rdata = text.replace("local", "local.").split(" ", 4)
            getattr(answer, section).append(dns.rrset.from_text(owner, int(ttl), rclass, rtype, rdata))
    return answer.to_wire(max_size=65535)


def changed(section: str, old: str, new: str) -> dict[str, tuple[str, ...]]:
    assert any(old in text for text in RECORDS[section])
    return {**RECORDS, section: tuple(text.replace(old, new) for text in RECORDS[section])}


def test_query_is_what_dnspython_reads() -> None:
    for way in WAYS:
        message = dns.message.from_wire(QUERY._replace(way=way).wire(77))
        assert (message.id, int(message.flags)) == (77, way.flags)
        assert message.question[0].to_text() == "Web.ns.svc.cluster.local. IN SRV"
        assert message.edns == (-1 if way.payload is None else 0)
        if way.payload is not None:
            assert message.payload == way.payload
            assert bool(message.ednsflags & dns.flags.DO) == way.dnssec_ok
            assert len(message.options) == bool(way.option)


@pytest.mark.parametrize(
    ("section", "old", "new"),
    [
        ("answer", " 5 IN SRV", " 6 IN SRV"),
        ("answer", "50 80", "50 81"),
        ("answer", "80 a.web", "80 b.web"),
        ("answer", "10.0.0.1", "10.0.0.3"),
        ("answer", "IN A 10.0.0.1", "IN TXT 10.0.0.1"),
        ("authority", " 86400 5", " 86400 6"),
        ("authority", "hostmaster", "somebody"),
        ("additional", "fd00::2", "fd00::3"),
        ("additional", "a.web", "b.web"),
    ],
)
def test_a_difference_is_seen(section: str, old: str, new: str) -> None:
    assert parse(reply()) != parse(reply(changed(section, old, new)))


@pytest.mark.parametrize("flags", [0x8100, 0x8700, 0x8583, 0x8510, 0x85A0])
def test_other_flags_are_seen(flags: int) -> None:
    assert parse(reply()) != parse(reply(flags=flags))


@pytest.mark.parametrize(
    "records",
    [
        changed("authority", "cluster.local 1 7200", "cluster.local 2 7200"),
        changed("answer", "a.web.ns", "A.wEB.ns"),
        {**RECORDS, "answer": RECORDS["answer"][::-1]},
    ],
    ids=["serial", "case", "order"],
)
def test_what_does_not_count_is_not_seen(records: dict[str, tuple[str, ...]]) -> None:
    assert parse(reply()) == parse(reply(records, number=8))


def test_missing_record_is_seen() -> None:
    for section, texts in RECORDS.items():
        assert parse(reply()) != parse(reply({**RECORDS, section: texts[1:]}))


def test_reply_must_echo_the_question() -> None:
    assert parse_reply(QUERY, reply()) == parse(reply())
    assert parse_reply(QUERY._replace(name=QUERY.name.lower()), reply()) is None
    assert parse_reply(QUERY._replace(qtype=TYPES["A"]), reply()) is None
    assert parse_reply(QUERY, reply(flags=0x0500)) is None
    assert parse_reply(QUERY, None) is None


@pytest.mark.parametrize("size", [0, 11, 12, 40, 90])
def test_broken_reply_is_none(size: int) -> None:
    assert parse_reply(QUERY, reply()[:size]) is None
    assert parse_reply(QUERY, reply() + b"\0") is None


def test_same_bytes_need_no_reading() -> None:
    assert alike(QUERY, reply(number=1), reply(number=2))
    assert not alike(QUERY, reply(), reply(changed("answer", "50 80", "50 81")))
    assert not alike(QUERY, reply(flags=0x8700), reply(flags=0x8700))
    assert not alike(QUERY._replace(name="other.ns.svc.cluster.local"), reply(), reply())


def test_names_go_there_and_back() -> None:
    assert encode_name("a.bc") == b"\x01a\x02bc\0"
    assert decode_name(b"\x01a\x02bc\0") == "a.bc"
    assert (encode_name(""), decode_name(b"\0")) == (b"\0", "")
    for bad in ("a..b", "x" * 64, ".".join(["x" * 63] * 4)):
        with pytest.raises(ValueError, match="not a domain name"):
            encode_name(bad)
