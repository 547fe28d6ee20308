"""Look-ups outside the zones, with a server that answers, denies,
fails, truncates, or is silent.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.resolver
import pytest
from headwater.serve import upstream
from headwater.serve.upstream import Upstream
from headwater.settings.address import Address
from headwater.wire.names import name

from tests.wire.elsewhere import Elsewhere, Reply, answer, both_sockets

A, AAAA = 1, 28
WWW = name("www.example.org")
#: The deadline for what has to happen, in seconds.
PATIENCE = 20.0

Script = Callable[[dns.message.Message, bool], Reply]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the deadline and each try so long that even a busy machine does not reach them."""
    monkeypatch.setattr(upstream, "DEADLINE", PATIENCE)
    monkeypatch.setattr(upstream, "_ONE_TRY", PATIENCE)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch, patient: None) -> None:
    """Make them short enough for tests of silence."""
    monkeypatch.setattr(upstream, "DEADLINE", 0.5)
    monkeypatch.setattr(upstream, "_ONE_TRY", 0.2)


def always(*records: str, rcode: str = "NOERROR") -> Script:
    return lambda query, _tcp: answer(query, *records, rcode=rcode)


def silent(query: dns.message.Message, tcp: bool) -> None:
    return None


def ask(servers: Sequence[Address], *wanted: tuple[bytes, int]) -> tuple[list[list[bytes]], dict[str, int]]:
    """Run look-ups at the same time. Return their results, and the counts."""

    async def run() -> tuple[list[list[bytes]], dict[str, int]]:
        asked = Upstream(servers)
        async with asyncio.timeout(PATIENCE):
            return await asyncio.gather(*(asked.lookup(*item) for item in wanted)), asked.counts

    return asyncio.run(run())


def texts(records: Sequence[bytes]) -> list[str]:
    """Return records as "OWNER TTL TYPE DATA"; each must be complete and uncompressed."""
    found = []
    for record in records:
        owner, at = dns.name.from_wire(record, 0)
        assert record[:at] == owner.to_wire(), "uncompressed"
        number, qclass, ttl, size = struct.unpack_from(">HHIH", record, at)
        assert (qclass, at + 10 + size) == (1, len(record))
        qtype = dns.rdatatype.RdataType.make(number)
        data = dns.rdata.from_wire(dns.rdataclass.IN, qtype, record, at + 10, size)
        found.append(f"{owner} {ttl} {dns.rdatatype.to_text(qtype)} {data}")
    return found


@pytest.mark.parametrize(
    ("qtype", "said", "expected", "counted"),
    [
        (A, ["A 192.0.2.7"], ["www.example.org. 300 A 192.0.2.7"], "answer"),
        (AAAA, ["AAAA 2001:db8::7"], ["www.example.org. 300 AAAA 2001:db8::7"], "answer"),
        (
            A,
            ["CNAME a.example.net.", "a.example.net. CNAME b.example.net.", "b.example.net. A 192.0.2.7"],
            [
                "www.example.org. 300 CNAME a.example.net.",
                "a.example.net. 300 CNAME b.example.net.",
                "b.example.net. 300 A 192.0.2.7",
            ],
            "answer",
        ),
        (A, [], [], "negative"),
        (AAAA, ["CNAME a.example.net."], ["www.example.org. 300 CNAME a.example.net."], "negative"),
    ],
)
@pytest.mark.parametrize("tcp", [False, True])
def test_the_answer_section_is_handed_over(
    qtype: int, said: list[str], expected: list[str], counted: str, tcp: bool
) -> None:
    """Over UDP, or over TCP if the reply over UDP is truncated."""

    def reply(query: dns.message.Message, over_tcp: bool) -> Reply:
        return answer(query, *said) if over_tcp or not tcp else answer(query, flags=dns.flags.TC)

    with Elsewhere(reply) as server:
        found, counts = ask([server.address], (WWW, qtype))
    assert texts(found[0]) == expected
    assert {kind: count for kind, count in counts.items() if count} == {counted: 1}
    kind = {A: "A", AAAA: "AAAA"}[qtype]
    assert server.asked == [("www.example.org.", kind, False), ("www.example.org.", kind, True)][: 1 + tcp]


@pytest.mark.parametrize("said", [[], ["CNAME gone.example.net."], ["CNAME a.x.", "a.x. CNAME gone.x."]])
def test_nxdomain_has_the_cnames_that_led_there(said: list[str]) -> None:
    with Elsewhere(always(*said, rcode="NXDOMAIN")) as server:
        found, counts = ask([server.address], (WWW, A))
    assert len(texts(found[0])) == len(said)
    assert counts["negative"] == 1
    assert len(server.asked) == 1, "a denial is an answer: nobody else is asked"


def test_all_records_of_a_large_answer_come_whole_and_in_their_order() -> None:
    addresses = [f"10.0.{i >> 8}.{i & 255}" for i in range(600)]

    def reply(query: dns.message.Message, tcp: bool) -> Reply:
        return answer(query, *(f"A {item}" for item in addresses)) if tcp else answer(query, flags=dns.flags.TC)

    with Elsewhere(reply) as server:
        found, _ = ask([server.address], (WWW, A))
    assert sorted(texts(found[0])) == sorted(f"www.example.org. 300 A {item}" for item in addresses)


def test_other_records_beside_are_handed_over_as_they_are() -> None:
    rrsig = "RRSIG A 13 3 300 20300101000000 20200101000000 1 example.org. AAAA"
    with Elsewhere(always("A 192.0.2.7", rrsig, "TYPE65280 \\# 3 010203")) as server:
        found, _ = ask([server.address], (WWW, A))
    assert [text.split()[2] for text in texts(found[0])] == ["A", "RRSIG", "TYPE65280"]


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "FORMERR", "NOTIMP", "YXDOMAIN", "NOTAUTH"])
def test_an_error_is_no_records_and_does_not_take_the_deadline(rcode: str) -> None:
    began = time.monotonic()
    with Elsewhere(always(rcode=rcode)) as server:
        found, counts = ask([server.address], (WWW, A))
    assert (found, counts["answer"], sum(counts.values())) == ([[]], 0, 1)
    assert time.monotonic() - began < PATIENCE / 2


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("servers", [1, 2, 9])
def test_silence_is_no_records_at_the_deadline(servers: int) -> None:
    with ExitStack() as stack:
        silents = [stack.enter_context(Elsewhere(silent)) for _ in range(servers)]
        began = time.monotonic()
        found, counts = ask([item.address for item in silents], (WWW, A))
    assert (found, counts["failed"]) == ([[]], 1)
    assert 0.35 < time.monotonic() - began < PATIENCE
    assert sum(len(item.asked) for item in silents) > 1, "a datagram may get lost: somebody was asked again"


@pytest.mark.usefixtures("hasty")
def test_silence_over_tcp_is_no_records_either() -> None:
    def reply(query: dns.message.Message, tcp: bool) -> Reply:
        return None if tcp else answer(query, flags=dns.flags.TC)

    with Elsewhere(reply) as server:
        found, counts = ask([server.address], (WWW, A))
    assert (found, counts["failed"]) == ([[]], 1)


@pytest.mark.usefixtures("hasty")
def test_a_lookup_that_hangs_in_the_library_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Upstream, "_response", hang)
    found, counts = ask([], (WWW, A))
    assert (found, counts["failed"]) == ([[]], 1)


def wrong_id(query: dns.message.Message) -> bytes:
    wire = bytearray(answer(query, "A 192.0.2.66").to_wire())
    wire[0] ^= 0xFF
    return bytes(wire)


def other_question(query: dns.message.Message) -> dns.message.Message:
    other = dns.message.make_query("evil.example.net", "A", id=query.id)
    return answer(other, "A 192.0.2.66")


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    "noise",
    [
        lambda _query: b"",
        lambda _query: b"\0",
        lambda query: query.id.to_bytes(2, "big"),
        lambda _query: b"HTTP/1.1 400 Bad Request\r\n\r\n",
        lambda query: query.to_wire(),
        lambda query: answer(query, "A 192.0.2.66").to_wire()[:-3],
        lambda query: answer(query, "A 192.0.2.66").to_wire() + b"\0\0",
        wrong_id,
        other_question,
        lambda query: answer(query, "CNAME www.example.org."),
        lambda query: answer(query, "CNAME a.x.", "a.x. CNAME www.example.org."),
        lambda query: answer(query, *(f"c{i}.x. CNAME c{i + 1}.x." for i in range(50)), "CNAME c0.x."),
        lambda query: answer(query, "A 192.0.2.66", rcode="NXDOMAIN"),
        lambda query: answer(query, "other.example.net. A 192.0.2.66"),
        lambda query: answer(query, flags=dns.flags.TC),
    ],
)
def test_noise_never_raises(noise: Callable[[dns.message.Message], Reply]) -> None:
    """Only replies are returned, and these consist of whole records."""
    with Elsewhere(lambda query, _tcp: noise(query)) as server:
        found, counts = ask([server.address], (WWW, A))
    texts(found[0])
    assert sum(counts.values()) == 1


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("wrong", [wrong_id, other_question])
def test_a_reply_to_something_else_is_not_believed(wrong: Callable[[dns.message.Message], Reply]) -> None:
    with Elsewhere(lambda query, _tcp: wrong(query)) as server:
        found, _ = ask([server.address], (WWW, A))
    assert found == [[]]


@pytest.mark.parametrize("forged", [lambda _query: b"", lambda _query: b"noise", wrong_id, other_question])
def test_what_somebody_else_sends_first_does_not_take_the_replys_place(
    forged: Callable[[dns.message.Message], dns.message.Message | bytes],
) -> None:
    """RFC 5452 section 9.1: a mismatch is ignored, and the wait for the reply goes on."""
    with Elsewhere(lambda query, _tcp: [forged(query), answer(query, "A 192.0.2.7")]) as server:
        found, _ = ask([server.address], (WWW, A))
    assert texts(found[0]) == ["www.example.org. 300 A 192.0.2.7"]
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "target",
    [b"\0", b"\x01a\0", b"\x3f" + b"x" * 63 + b"\0", (b"\x3d" + b"x" * 61) * 4 + b"\0", b"\x04\0\xff.\\\0", b"\x01*\0",
     (b"\x01a" * 127) + b"\0"],
)  # fmt: skip
def test_any_name_can_be_asked_for(target: bytes) -> None:
    with Elsewhere(always("A 192.0.2.7")) as server:
        found, _ = ask([server.address], (target, A))
    assert found[0][0].startswith(target)
    assert len(server.asked) == 1


def test_what_is_no_name_never_raises() -> None:
    with Elsewhere(always("A 192.0.2.7")) as server:
        found, counts = ask([server.address], (b"\x05ab", A))
    assert (found, counts["failed"]) == ([[]], 1)


# More servers than one


def closed_port() -> Address:
    udp, tcp = both_sockets()
    with udp, tcp:
        return Address(host="127.0.0.1", port=udp.getsockname()[1])


@pytest.mark.parametrize("first", ["silent", "servfail", "refused", "noise", "closed"])
def test_the_second_server_is_asked_when_the_first_fails(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if first in ("silent", "noise", "closed"):  # a refused datagram is not noticed
        monkeypatch.setattr(upstream, "_ONE_TRY", 0.5)
    scripts: dict[str, Script] = {
        "silent": silent, "servfail": always(rcode="SERVFAIL"), "refused": always(rcode="REFUSED"),
        "noise": lambda _query, _tcp: b"noise",
    }  # fmt: skip
    with ExitStack() as stack:
        good = stack.enter_context(Elsewhere(always("A 192.0.2.7")))
        bad = stack.enter_context(Elsewhere(scripts[first])).address if first in scripts else closed_port()
        found, counts = ask([bad, good.address], (WWW, A))
    assert texts(found[0]) == ["www.example.org. 300 A 192.0.2.7"]
    assert counts["answer"] == 1


def test_the_first_server_that_answers_is_the_only_one_asked() -> None:
    with Elsewhere(always("A 192.0.2.1")) as first, Elsewhere(always("A 192.0.2.2")) as second:
        for _ in range(3):
            found, _ = ask([first.address, second.address], (WWW, A))
            assert texts(found[0]) == ["www.example.org. 300 A 192.0.2.1"]
    assert second.asked == []


def test_ipv6_servers_are_asked_too() -> None:
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        udp.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with udp:

        def say() -> None:
            wire, client = udp.recvfrom(4096)
            udp.sendto(answer(dns.message.from_wire(wire), "A 192.0.2.7").to_wire(), client)

        thread = threading.Thread(target=say)
        thread.start()
        found, _ = ask([Address(host="::1", port=udp.getsockname()[1])], (WWW, A))
        thread.join(PATIENCE)
    assert len(found[0]) == 1


# Many lookups at once


class Held:
    """A server that answers when the test tells it to."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self, query: dns.message.Message, tcp: bool) -> Reply:
        return answer(query, "A 192.0.2.7") if self.go.wait(PATIENCE) else None


async def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.002)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(PATIENCE):
            await scene()

    asyncio.run(run())


def test_equal_lookups_at_the_same_time_are_one() -> None:
    held = Held()
    with Elsewhere(held) as server:

        async def scene() -> None:
            asked = Upstream([server.address])
            several = [asyncio.create_task(asked.lookup(WWW, A)) for _ in range(100)]
            other = asyncio.create_task(asked.lookup(name("other.example.org"), A))
            await until(lambda: len(server.asked) == 2, "both names are asked for")
            several += [asyncio.create_task(asked.lookup(WWW, A)) for _ in range(100)]
            await asyncio.sleep(0)
            held.go.set()
            found = await asyncio.gather(*several)
            assert {tuple(texts(item)) for item in found} == {("www.example.org. 300 A 192.0.2.7",)}
            assert len(await other) == 1
            assert asked.counts["answer"] == 2
            # There is no cache: the server is asked again for the next one.
            await asked.lookup(WWW, A)

        play(scene)
    assert [item[0] for item in server.asked].count("www.example.org.") == 2


def test_the_types_of_a_name_are_asked_for_apart() -> None:
    with Elsewhere(always("A 192.0.2.7")) as server:
        ask([server.address], (WWW, A), (WWW, AAAA), (WWW, A))
    assert sorted(item[1] for item in server.asked) == ["A", "AAAA"]


def test_who_goes_away_takes_the_answer_from_nobody() -> None:
    held = Held()
    with Elsewhere(held) as server:

        async def scene() -> None:
            asked = Upstream([server.address])
            first, second = (asyncio.create_task(asked.lookup(WWW, A)) for _ in range(2))
            await until(lambda: len(server.asked) == 1, "the name is asked for")
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            held.go.set()
            assert len(await second) == 1

        play(scene)


def test_a_lookup_too_many_is_refused_at_once_and_equal_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "MAX_LOOKUPS", 5)
    held = Held()
    with Elsewhere(held) as server:

        async def scene() -> None:
            asked = Upstream([server.address])
            names = [name(f"n{number}.example.org") for number in range(5)]
            under_way = [asyncio.create_task(asked.lookup(item, A)) for item in names]
            await until(lambda: len(server.asked) == 5, "five names are asked for")
            assert await asked.lookup(WWW, A) == []
            assert asked.counts["refused"] == 1
            equal = asyncio.create_task(asked.lookup(names[0], A))
            await asyncio.sleep(0)
            assert not equal.done()
            held.go.set()
            assert [len(item) for item in await asyncio.gather(*under_way, equal)] == [1] * 6
            assert len(await asked.lookup(WWW, A)) == 1, "there is room again"
            assert {kind: count for kind, count in asked.counts.items() if count} == {"answer": 6, "refused": 1}

        play(scene)


@pytest.mark.usefixtures("hasty")
def test_two_hundred_silent_lookups_take_as_long_as_one() -> None:
    async def scene() -> None:
        with Elsewhere(silent) as server:
            asked = Upstream([server.address])
            began = time.monotonic()
            found = await asyncio.gather(
                *(asked.lookup(name(f"n{number}.example.org"), A, b"%d" % (number % 10)) for number in range(250))
            )
            assert found == [[]] * 250
            assert (asked.counts["failed"], asked.counts["refused"]) == (200, 50)
            assert time.monotonic() - began < 10

    play(scene)


@pytest.mark.usefixtures("hasty")
def test_one_tenants_tar_pit_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 questions a second for 300 unanswered names, and at times one
    for another namespace's name.
    """
    monkeypatch.setattr(upstream, "DEADLINE", 3.0)
    monkeypatch.setattr(upstream, "_ONE_TRY", 1.0)

    def reply(query: dns.message.Message, _tcp: bool) -> Reply:
        return answer(query, "A 192.0.2.7") if query.question[0].name == dns.name.from_text("www.example.org") else None

    async def scene() -> None:
        with Elsewhere(reply) as server:
            asked = Upstream([server.address])
            theirs = []
            began = time.monotonic()
            for number in range(800):
                theirs.append(asyncio.create_task(asked.lookup(name(f"n{number % 300}.evil.test"), A, b"\4evil")))
                if number % 20 == 0:
                    then = time.monotonic()
                    assert len(await asked.lookup(WWW, A, b"\5other")) == 1
                    assert time.monotonic() - then < 1.0
                # The rate of the attack, not a wait for a result.
                await asyncio.sleep(max(0.0, began + number / 200 - time.monotonic()))
            assert asked.counts["refused"] == 0
            assert asked.counts["refused_tenant"] > 500
            assert asked.counts["answer"] == 40
            assert len(server.asked) < 40 + 4 * upstream.MAX_OF_TENANT * 2
            await asyncio.gather(*theirs)
            assert asked._of_tenant == {}

    play(scene)


@pytest.mark.usefixtures("hasty")
def test_a_name_that_nobody_answered_for_is_asked_for_by_one_query_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    script: list[Script] = [silent]

    async def scene() -> None:
        with Elsewhere(lambda query, tcp: script[0](query, tcp)) as server:
            asked = Upstream([server.address])
            assert await asked.lookup(WWW, A) == []
            before = len(server.asked)
            began = time.monotonic()
            assert await asyncio.gather(*(asked.lookup(WWW, qtype) for qtype in (A, AAAA) * 50)) == [[]] * 100
            assert (asked.counts["failed"], asked.counts["slow"]) == (1, 100)
            assert time.monotonic() - began < 0.2, "at once"
            assert len(server.asked) == before
            asked._slow[WWW] = 0.0  # as if the time were over
            probe = asyncio.create_task(asked.lookup(WWW, A))
            await until(lambda: len(server.asked) > before, "it is asked for again")
            assert await asked.lookup(WWW, AAAA) == [], "one at a time"
            assert await probe == []
            asked._slow[WWW] = 0.0
            script[0] = always("A 192.0.2.7")
            assert len(await asked.lookup(WWW, A)) == 1
            assert await asked.lookup(WWW, AAAA) != [], "it answers: nothing is remembered"
            assert asked._slow == {}

    play(scene)


@pytest.mark.usefixtures("hasty")
def test_slow_names_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "_MAX_SLOW", 5)

    async def scene() -> None:
        with Elsewhere(silent) as server:
            asked = Upstream([server.address])
            await asyncio.gather(*(asked.lookup(name(f"n{number}.test"), A) for number in range(20)))
            assert len(asked._slow) == 5

    play(scene)


@pytest.mark.usefixtures("hasty")
def test_failures_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with Elsewhere(lambda _query, _tcp: b"noise") as server:
        ask([server.address], *((name(f"n{number}.example.org"), A) for number in range(10)))
    assert len([item for item in caplog.records if "upstream" in item.getMessage()]) == 1


# The system's resolvers


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, int], None]:
    """Return a function that writes the system's resolv.conf, and sets the port of its servers."""
    file = tmp_path / "resolv.conf"
    read = dns.resolver.BaseResolver.read_resolv_conf
    ports = [53]

    def read_here(self: dns.resolver.BaseResolver, _: object) -> None:
        read(self, str(file))
        self.port = ports[0]

    monkeypatch.setattr(upstream, "_RESOLV_CONF", str(file))
    monkeypatch.setattr(dns.resolver.BaseResolver, "read_resolv_conf", read_here)

    def write(text: str, port: int) -> None:
        ports[0] = port
        other = tmp_path / "new"
        other.write_text(text)
        other.rename(file)

    return write


def test_without_servers_the_systems_are_asked_and_search_domains_are_not_used(
    system: Callable[[str, int], None],
) -> None:
    with Elsewhere(always(rcode="NXDOMAIN")) as server:
        system("nameserver 127.0.0.1\nsearch a.test b.test\noptions ndots:5\n", server.address.port)
        found, _ = ask([], (name("www"), A))
    assert found == [[]]
    assert {item[0] for item in server.asked} == {"www."}


def test_the_systems_servers_are_read_again_when_they_change(system: Callable[[str, int], None]) -> None:
    with Elsewhere(always("A 192.0.2.1")) as first, Elsewhere(always("A 192.0.2.2")) as second:

        async def scene() -> None:
            asked = Upstream([])
            found = []
            for server in (first, second):
                system("nameserver 127.0.0.1\n", server.address.port)
                found += [texts(await asked.lookup(WWW, A)) for _ in range(2)]
            assert [item[0].split()[3] for item in found] == ["192.0.2.1"] * 2 + ["192.0.2.2"] * 2

        play(scene)


@pytest.mark.parametrize("text", ["", "garbage \0\n", "nameserver not-an-address\n", None])
def test_a_system_without_servers_is_no_records(system: Callable[[str, int], None], text: str | None) -> None:
    if text is not None:
        system(text, 9)
    found, counts = ask([], (WWW, A))
    assert (found, counts["failed"]) == ([[]], 1)


def test_a_system_that_gets_its_servers_late_is_asked_then(system: Callable[[str, int], None]) -> None:
    with Elsewhere(always("A 192.0.2.1")) as server:

        async def scene() -> None:
            asked = Upstream([])
            assert await asked.lookup(WWW, A) == []
            system("nameserver 127.0.0.1\n", server.address.port)
            assert len(await asked.lookup(WWW, A)) == 1

        play(scene)
