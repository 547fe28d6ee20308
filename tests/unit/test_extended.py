"""Extended errors with a text: what they say, to whom, at what cost; and `explain` says it too."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dns.edns
import dns.message
import pytest
from headwater.answer.extended import MAX_TEXT, Extended
from headwater.answer.resolver import Resolver
from headwater.explain.explain import explain, type_number
from headwater.explain.explanation import Cause, Outcome
from headwater.explain.extended import ROOM, Reason, Reasons
from headwater.explain.offline import opened
from headwater.settings.settings import Settings
from headwater.store.environment import Reader, Snapshot
from headwater.wire.edns import Ede, with_error
from headwater.wire.question import Question
from headwater.writer import once
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.answers.generate import generate
from tests.answers.names import MATRIX, names_of, relative_to
from tests.harness.small import NOT_READY, Small, annotated, at, cluster_ip, external_name, headless, listed, slice_of
from tests.unit.test_explain_agrees import BY_NAME, objects_of, settings_for
from tests.unit.test_why_not import ROWS, WORLD

ZONE = "svc.cluster.local"
TERMINATING = 6
LONG = "n" * 63


def asked(name: str, qtype: str = "A", *, payload: int = 1232, edns: bool = True) -> bytes:
    if not edns:
        return dns.message.make_query(name, qtype).to_wire()
    return dns.message.make_query(name, qtype, use_edns=0, payload=payload).to_wire()


@contextmanager
def resolver_of(small: Small, settings: Settings | None = None) -> Iterator[Callable[[bytes], bytes]]:
    """Reply as under --extended-errors; `settings`: others than the writer's."""
    reader = Reader(small.state_dir, small.identity)
    reader.follow()
    chosen = settings or small.settings
    resolver = Resolver(reader, chosen, Reasons(chosen).say)
    snapshot = reader.begin()
    assert snapshot is not None

    def reply(query: bytes) -> bytes:
        found = resolver.answer(query, snapshot)
        assert isinstance(found, bytes)
        return found

    try:
        yield reply
    finally:
        snapshot.close()
        reader.close()


def errors(reply: bytes) -> list[tuple[int, str | None]]:
    return [
        (item.code, item.text) for item in dns.message.from_wire(reply).options if isinstance(item, dns.edns.EDEOption)
    ]


@pytest.fixture
def small(tmp_path: Path) -> Small:
    many = [at(f"10.9.{n >> 8}.{n & 255}", hostname=f"many-{n}", pod=f"many-{n}") for n in range(2000)]
    return Small(tmp_path).fill(
        headless("db", "prod"),
        slice_of("db", at("10.0.0.1", hostname="db-0", pod="db-0"),
                 at("10.0.0.2", hostname="db-1", pod="db-1", conditions=NOT_READY),
                 at("10.0.0.3", hostname="db-2", pod="db-2", conditions=TERMINATING), namespace="prod"),
        headless("down", "prod"),
        slice_of("down", *(at(f"10.0.1.{n}", hostname=f"down-{n}", conditions=NOT_READY) for n in range(3)),
                 namespace="prod"),
        annotated(headless("served", "prod"), publish="serving"),
        slice_of("served", at("10.0.1.9", hostname="s-0", conditions=NOT_READY), namespace="prod"),
        # Ready, and without an address that DNS can have: what is left out only the compiler knows.
        headless("odd", "prod"), slice_of("odd", at("10.0.0.300", hostname="odd-0"), namespace="prod"),
        headless("bare", "prod"),
        headless("hollow", "prod"), slice_of("hollow", namespace="prod"),
        cluster_ip("api", "172.16.0.1", namespace="prod"),
        cluster_ip("front", "172.16.0.2", namespace="prod"),
        slice_of("front", at("10.0.2.1", pod="front-abc"), namespace="prod"),
        headless("unnamed", "prod"), slice_of("unnamed", at("10.0.0.9", pod="web-9"), namespace="prod"),
        headless("unported", "prod"),
        slice_of("unported", at("10.0.0.10", hostname="u-0", pod="u-0"), namespace="prod", ports=()),
        external_name("number", "10.9.8.7", "prod"), external_name("loop", f"loop.prod.{ZONE}", "prod"),
        external_name("away", "example.org", "prod"),
        headless("many", "prod"), slice_of("many", *many, namespace="prod"),
        headless(LONG, LONG), headless("secret", "other"),
        namespaces=("default", "prod", "other", LONG),
    )  # fmt: skip


SAID = {
    "down.prod": "prod/down: 3 endpoints, none ready",
    "served.prod": "prod/served: 1 endpoint, none serving",
    "bare.prod": "prod/bare: headless, no EndpointSlice",
    "hollow.prod": "prod/hollow: headless, no endpoints",
    "db-1.db.prod": "prod/db: endpoint db-1 is not ready",
    "DB-1.db.PROD": "prod/db: endpoint db-1 is not ready",
    "db-2.db.prod": "prod/db: endpoint db-2 shuts down",
    "db-7.db.prod": "prod/db: 3 endpoints, none called db-7",
    "db-7.hollow.prod": "prod/hollow: headless, no endpoints",
    "web-9.unnamed.prod": "prod/unnamed: pod web-9 has no hostname",
    "api-0.api.prod": "prod/api: not headless, no endpoints",
    "front-0.front.prod": "prod/front: not headless, 1 endpoint, none called front-0",
    "nothing.prod": "prod/nothing: no such Service",
    "db-0.nothing.prod": "prod/nothing: no such Service",
    "_sql._tcp.db.prod SRV": "prod/db: no port _sql._tcp",
    "_http._tcp.unported.prod SRV": "prod/unported: port _http._tcp is in no EndpointSlice",
    "_sql._tcp.unported.prod SRV": "prod/unported: no port _sql._tcp",
    "_http._tcp.down.prod SRV": "prod/down: 3 endpoints, none ready",
    "_udp.db.prod": "prod/db: no port of that protocol",
    "db.prod AAAA": "prod/db: no AAAA record, IPv4 only",
    "db-0.db.prod AAAA": "prod/db: db-0 has no AAAA record, IPv4 only",
    "db.prod TXT": "prod/db: no TXT record",
    "number.prod": "prod/number: an ExternalName without a name to lead to",
    "loop.prod": "prod/loop: an ExternalName that leads to no A record",
    "away.prod TXT": "prod/away: an ExternalName without records of its own",
    "x.away.prod": "prod/away: an ExternalName, no names below it",
    "many-7777.many.prod": "prod/many: more endpoints than are looked at for an answer",
    f"{LONG}.{LONG}": "headless, no EndpointSlice",
    # Nothing is said of what is answered, of namespaces that are not there, and of names that no
    # object has.
    "db.prod": "", "db.staging": "", "odd.prod": "", "odd-0.odd.prod": "",
    "prod": "", "*.prod": "", "a.b.c.d.e.prod": "", "\\000.db.prod": "",
    "\\195\\164.db.prod": "",
}  # fmt: skip


@pytest.mark.parametrize("question", SAID)
def test_a_negative_answer_says_why(small: Small, question: str) -> None:
    name, _, qtype = question.partition(" ")
    with resolver_of(small) as reply:
        found = errors(reply(asked(f"{name}.{ZONE}", qtype or "A")))
    assert found == ([(0, SAID[question])] if SAID[question] else [])


@pytest.mark.parametrize("question", SAID)
def test_all_else_in_the_reply_is_as_without_the_flag(small: Small, question: str) -> None:
    name, _, qtype = question.partition(" ")
    for edns in (True, False):
        query = asked(f"{name}.{ZONE}", qtype or "A", edns=edns)
        (plain,) = small.ask_wire(query)
        with resolver_of(small) as reply:
            told = dns.message.from_wire(reply(query))
        assert plain is not None
        assert told.edns == (0 if edns else -1)
        if edns:
            told.use_edns(0, told.ednsflags, told.payload, options=[])
        assert told == dns.message.from_wire(plain)
        assert (told.flags, told.payload) == (dns.message.from_wire(plain).flags, dns.message.from_wire(plain).payload)


def test_a_text_never_makes_a_reply_too_large_for_the_client(small: Small) -> None:
    # Long names, which stand in the question and in the text; the SOA is the rest.
    sizes = set()
    for labels in range(1, 4):
        name = ".".join(["x" * 60] * labels) + f".down.prod.{ZONE}"
        for payload in (0, 512, 1232):
            with resolver_of(small) as reply:
                found = reply(asked(name, payload=payload))
            assert len(found) <= max(512, payload)
            sizes.add(len(found))
    query = asked(f"db-7.db.prod.{ZONE}")
    (plain,) = small.ask_wire(query)
    assert plain is not None
    # A reply that is 4 bytes short of its client's limit.
    padded = plain[:-11] + bytes(1228 - len(plain)) + plain[-11:]
    reader = Reader(small.state_dir, small.identity)
    reader.follow()
    snapshot = reader.begin()
    assert snapshot is not None
    try:
        for size, said in ((1228, False), (600, True)):
            short = padded[: size - 11] + padded[-11:]
            assert (Extended(lambda *_: short, lambda *_: "why").answer(query, snapshot) != short) is said  # noqa: B023
    finally:
        snapshot.close()
        reader.close()


@pytest.mark.parametrize("letters", ["x", "ä", "語", "😀"])
def test_texts_are_cut_between_two_characters(letters: str) -> None:
    query = dns.message.from_wire(asked("db.prod"))
    plain = dns.message.make_response(query)
    plain.use_edns(0, options=[])
    ((code, text),) = errors(with_error(plain.to_wire(), Ede.OTHER, "." + letters * 200, MAX_TEXT))
    assert code == 0
    assert text == "." + letters * ((MAX_TEXT - 1) // len(letters.encode()))


def test_other_namespaces_are_not_spoken_of(small: Small) -> None:
    chosen = replace(small.settings, namespaces=("prod",))
    with resolver_of(small, chosen) as reply:
        assert errors(reply(asked(f"nothing.other.{ZONE}"))) == []
        assert errors(reply(asked(f"secret.other.{ZONE}"))) == []
        # It is a Service of another namespace, and of that nothing is said.
        ((_, text),) = errors(reply(asked(f"secret.prod.{ZONE}")))
    assert text == "prod/secret: no such Service"


@given(
    name=st.binary(max_size=40) | st.sampled_from([b"\4down", b"\4db-1\2db", b"\5_http\4_tcp\4down"]),
    rest=st.binary(max_size=12), qtype=st.integers(0, 65535),
)  # fmt: skip
@hypothesis_settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_is_asked_the_reply_differs_in_its_opt_only(
    small: Small, name: bytes, rest: bytes, qtype: int
) -> None:  # fmt: skip
    head = b"\1\2\1\0\0\1\0\0\0\0\0\1"
    opt = b"\0\0\x29\x04\xd0" + bytes(6)
    query = head + name + b"\4prod\3svc\7cluster\5local\0" + qtype.to_bytes(2, "big") + b"\0\1" + opt + rest
    (plain,) = small.ask_wire(query)
    with resolver_of(small) as reply:
        told = reply(query)
    assert plain is not None
    if told != plain:
        assert told[: len(plain) - 2] == plain[:-2]
        ((code, text),) = errors(told)
        assert (code, len((text or "").encode()) <= MAX_TEXT, (text or "").isprintable()) == (0, True, True)


def test_a_reason_that_meets_a_bug_costs_no_answer(small: Small, caplog: pytest.LogCaptureFixture) -> None:
    query = asked(f"down.prod.{ZONE}")
    (plain,) = small.ask_wire(query)

    def broken(*_: object) -> str:
        raise RuntimeError("a bug")

    reader = Reader(small.state_dir, small.identity)
    reader.follow()
    snapshot = reader.begin()
    try:
        resolver = Resolver(reader, small.settings, broken)
        with caplog.at_level(logging.ERROR):
            assert [resolver.answer(query, snapshot) for _ in range(5)] == [plain] * 5
    finally:
        if snapshot is not None:
            snapshot.close()
        reader.close()
    assert len(caplog.records) == 1


def test_the_objects_that_are_looked_at_are_bounded(tmp_path: Path) -> None:
    """Thousands of slices, or a slice of a megabyte: few entries and few objects are read."""
    small = Small(tmp_path).fill(
        headless("many", "prod"), *(slice_of("many", name=f"many-{n:05}", namespace="prod") for n in range(5000)),
        headless("huge", "prod"),
        slice_of("huge", *(at(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", conditions=NOT_READY, pod="p" * 200)
                           for n in range(5000)), namespace="prod"),
        namespaces=("prod",),
    )  # fmt: skip
    reader = Reader(small.state_dir, small.identity)
    reader.follow()
    snapshot = reader.begin()
    assert snapshot is not None
    looked = Counter[str]()

    class Counting:
        def __init__(self, snapshot: Snapshot) -> None:
            self._snapshot = snapshot

        def value(self, db: str, key: bytes) -> bytes | None:
            looked["objects"] += 1
            return self._snapshot.value(db, key)

        def scan(self, db: str, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
            for item in self._snapshot.scan(db, prefix):
                looked["index"] += 1
                yield item

    try:
        for name in ("many", "huge"):
            question = Question(asked(f"{name}.prod.{ZONE}"))
            found = Reasons(small.settings).find(question, False, Counting(snapshot))  # type: ignore[arg-type]
            assert found is not None
            assert found.text.endswith("more endpoints than are looked at for an answer")
    finally:
        snapshot.close()
        reader.close()
    assert looked["objects"] <= 2 * (ROOM // 1024 + 5)
    assert looked["index"] <= looked["objects"]


# What explain says


def _agreement(
    snapshot: Snapshot, settings: Settings, resolver: Resolver, name: str, qtype: str
) -> str | Reason | None:
    """What is said of a negative answer; a text when `explain` says something else."""
    found = explain(name, qtype, snapshot, settings, lambda query: resolver.answer(query, snapshot))
    if found.outcome not in (Outcome.NXDOMAIN, Outcome.NODATA) or found.contradiction:
        return None
    query = dns.message.make_query(name, "A", use_edns=0).to_wire()
    question = Question(query)
    question.qtype = type_number(qtype)
    reason = Reasons(settings).find(question, found.outcome is Outcome.NODATA, snapshot)
    if reason is None:
        return None
    text = f"{name} {qtype}: {reason.text!r}, and explain: {found.cause}: {found.verdict}"
    if reason.causes and found.cause not in reason.causes:
        return text
    count = reason.text.split(": ")[-1].partition(" endpoint")[0]
    if (
        count.isdigit()
        and found.cause in (Cause.NONE_READY, Cause.HOST_UNKNOWN)
        and f" {count} endpoint" not in found.verdict
    ):
        return text
    return reason


@pytest.mark.parametrize("why", ROWS)
def test_the_causes_that_users_meet_are_told_alike(why: str, tmp_path: Path) -> None:
    row = ROWS[why]
    manifest = tmp_path / "world.json"
    manifest.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": WORLD}))
    settings: Any = replace(Settings(manifests=(str(manifest),)), **dict(row.settings))
    once.write(settings, tmp_path / "state")
    with opened(tmp_path / "state", settings) as (reader, resolver):
        snapshot = reader.begin()
        assert snapshot is not None
        try:
            found = _agreement(snapshot, settings, resolver, row.name, row.qtype)
        finally:
            snapshot.close()
    assert not isinstance(found, str), found
    if row.cause in (Cause.NONE_READY, Cause.HOST_NOT_READY, Cause.HOST_TERMINATING, Cause.NOT_HEADLESS):
        assert found is not None


@pytest.mark.slow
@pytest.mark.parametrize("which", list(BY_NAME))
def test_generated_clusters_are_told_alike(tmp_path: Path, which: str) -> None:
    chosen = settings_for(which, 0, tmp_path)
    small = Small(tmp_path / "state", chosen)
    small.commit(*listed(small.resources, objects_of(0, chosen)))
    names = names_of(generate(0))
    questions = [name for zone in chosen.zones for name in relative_to(zone, [*names.forward, *names.aliases])]
    questions += [name for zone in chosen.multicluster_zones for name in relative_to(zone, names.imported)]
    reader = Reader(small.state_dir, small.identity)
    reader.follow()
    resolver = Resolver(reader, chosen)
    snapshot = reader.begin()
    assert snapshot is not None
    told: Counter[frozenset[Cause]] = Counter()
    wrong = []
    try:
        for index, name in enumerate(questions):
            for qtype in {"A", MATRIX[index % len(MATRIX)]}:
                found = _agreement(snapshot, chosen, resolver, name, qtype)
                if isinstance(found, str):
                    wrong.append(found)
                elif found is not None:
                    told[found.causes] += 1
    finally:
        snapshot.close()
        reader.close()
    assert not wrong, f"{len(wrong)}\n" + "\n".join(wrong[:20])
    assert len(told) >= 8, told
