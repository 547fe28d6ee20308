"""The real server with ExternalName Services: a slow or silent other server delays nobody else."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import grpc
import pytest
from headwater.serve.grpcio_server import QUERY, pack, unpack
from headwater.serve.upstream import DEADLINE

from tests.harness.instance import Headwater
from tests.harness.processes import free_port, wait_until
from tests.wire.elsewhere import Elsewhere, Reply, answer

WEB: Final = "web.default.svc.cluster.local"
ALIASES: Final = 60
#: Different names each time, because an unanswered name is not asked for again at once. There are
#: fewer than the limit of a namespace.
OVER_GRPC: Final = range(7, 33)
OVER_UDP: Final = range(33, 59)
#: The time that a busy machine may take for an answer from memory, at most and usually, in seconds.
AT_MOST: Final = 2.0
USUALLY: Final = 0.1
#: The time of a reply that waits for another server: the deadline, and a margin for a busy machine.
AT_LAST: Final = DEADLINE + 7.0


def alias(number: int) -> str:
    return f"ext-{number}.default.svc.cluster.local"


def target(number: int) -> str:
    return f"n{number}.example.org."


def manifest() -> str:
    """A headless Service with an endpoint, and Services with external names."""
    items: list[dict[str, Any]] = [
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": f"ext-{number}", "namespace": "default"},
            "spec": {"type": "ExternalName", "externalName": target(number)},
        }
        for number in range(ALIASES)
    ]  # fmt: skip
    items.append(
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"clusterIP": "None"},
        }
    )  # fmt: skip
    items.append(
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "web", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
            "endpoints": [{"addresses": ["10.0.0.1"]}],
        }
    )  # fmt: skip
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


class Behaviour:
    """The behaviour of the other server; a test may change it."""

    def __init__(self) -> None:
        self.silent = False

    def __call__(self, query: dns.message.Message, tcp: bool) -> Reply:
        name = query.question[0].name.to_text()
        qtype = dns.rdatatype.to_text(query.question[0].rdtype)
        if self.silent or name == target(59):
            return None
        if name == target(1):
            return answer(query, rcode="NXDOMAIN")
        if name == target(2):
            return answer(query, "CNAME cdn.example.net.", "cdn.example.net. A 192.0.2.2")
        if name == target(3):
            return answer(query, rcode="SERVFAIL")
        if name == target(4):
            many = [f"A 10.1.{number >> 8}.{number & 255}" for number in range(600)]
            return answer(query, *many) if tcp else answer(query, flags=dns.flags.TC)
        return answer(query, *(["A 192.0.2.1"] if qtype == "A" else []))


class Serving:
    """A Headwater with one answer process, and the server that it asks."""

    def __init__(self, headwater: Headwater, behaviour: Behaviour, elsewhere: Elsewhere, dns_port: int) -> None:
        self.headwater = headwater
        self.behaviour = behaviour
        self.elsewhere = elsewhere
        self.dns_port = dns_port
        self._channel = grpc.insecure_channel(str(headwater.addresses[0]))
        self._call: Any = self._channel.unary_unary(QUERY)

    def begin(self, name: str, rdtype: str = "A") -> Any:
        """Send a query over gRPC; `reply_of` waits for its reply."""
        return self._call.future(pack(dns.message.make_query(name, rdtype).to_wire()), timeout=AT_LAST + AT_MOST)

    def ask(self, name: str, rdtype: str = "A") -> list[str]:
        return records_of(reply_of(self.begin(name, rdtype)))

    def lookups(self) -> dict[str, int]:
        """Return the counts of look-ups from the metrics."""
        _, page = self.headwater.admin("/metrics")
        found = re.findall(r'^headwater_upstream_lookups_total\{result="(\w+)"\} (\S+)$', page, re.MULTILINE)
        return {result: int(float(count)) for result, count in found}

    def close(self) -> None:
        self._channel.close()


def reply_of(call: Any) -> dns.message.Message:
    return dns.message.from_wire(unpack(call.result(AT_LAST + AT_MOST)))


def records_of(message: dns.message.Message) -> list[str]:
    assert message.rcode() == dns.rcode.NOERROR
    return [f"{dns.rdatatype.to_text(rrset.rdtype)} {item}" for rrset in message.answer for item in rrset]


@contextmanager
def running(folder: Path) -> Iterator[Serving]:
    file = folder / "manifest.json"
    file.write_text(manifest())
    behaviour = Behaviour()
    with ExitStack() as stack:
        elsewhere = stack.enter_context(Elsewhere(behaviour))
        port = free_port()
        headwater = stack.enter_context(
            Headwater(
                folder, "--manifests", file, "--upstream", str(elsewhere.address), "--dns", f"127.0.0.1:{port}",
                workers=1,
            )
        )  # fmt: skip
        serving = Serving(headwater, behaviour, elsewhere, port)
        stack.callback(serving.close)
        yield serving


@pytest.fixture(scope="module")
def module_serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with running(tmp_path_factory.mktemp("upstream")) as serving:
        yield serving


@pytest.fixture
def serving(module_serving: Serving) -> Iterator[Serving]:
    module_serving.elsewhere.asked.clear()
    yield module_serving
    module_serving.behaviour.silent = False


@pytest.mark.parametrize(
    ("number", "rdtype", "expected"),
    [
        (0, "A", ["A 192.0.2.1"]),
        (0, "AAAA", []),
        (1, "A", []),
        (2, "A", ["CNAME cdn.example.net.", "A 192.0.2.2"]),
        (3, "A", []),
        (4, "A", [f"A 10.1.{number >> 8}.{number & 255}" for number in range(600)]),
    ],
    ids=["answer", "nodata", "nxdomain", "chain", "servfail", "truncated"],
)
def test_what_the_other_server_says_follows_the_cname(
    serving: Serving, number: int, rdtype: str, expected: list[str]
) -> None:
    assert sorted(serving.ask(alias(number), rdtype)) == sorted([f"CNAME {target(number)}", *expected])
    over_tcp = dns.query.tcp(
        dns.message.make_query(alias(number), rdtype), "127.0.0.1", timeout=AT_LAST, port=serving.dns_port
    )
    assert sorted(records_of(over_tcp)) == sorted([f"CNAME {target(number)}", *expected])
    assert records_of(reply_of(serving.begin(alias(number), "CNAME"))) == [f"CNAME {target(number)}"]


def timed(ask: Any, times: int = 100) -> list[float]:
    """Return how long each of `times` answers from memory took."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        assert ask() == ["A 10.0.0.1"]
        found.append(time.perf_counter() - began)
    return found


def assert_quick(times: list[float]) -> None:
    assert max(times) < AT_MOST
    assert median(times) < USUALLY


def test_many_queries_to_a_silent_server_hold_up_nobody_over_grpc(serving: Serving) -> None:
    serving.behaviour.silent = True
    before = serving.lookups()
    began = time.monotonic()
    slow = [serving.begin(alias(number)) for number in OVER_GRPC]
    wait_until(lambda: len(serving.elsewhere.asked) >= len(OVER_GRPC), AT_MOST, "all are asked for", interval=0.01)
    assert_quick(timed(lambda: serving.ask(WEB)))
    assert_quick(timed(lambda: over_udp(serving, WEB), 20))
    for number, call in zip(OVER_GRPC, slow, strict=True):
        assert records_of(reply_of(call)) == [f"CNAME {target(number)}"], "the CNAME alone, at last"
    assert time.monotonic() - began < AT_LAST
    after = serving.lookups()
    assert after["failed"] - before["failed"] == len(OVER_GRPC)
    assert serving.ask(alias(5), "CNAME") == [f"CNAME {target(5)}"]


def over_udp(serving: Serving, name: str) -> list[str]:
    query = dns.message.make_query(name, "A")
    return records_of(dns.query.udp(query, "127.0.0.1", timeout=AT_LAST, port=serving.dns_port))


def test_many_queries_to_a_silent_server_hold_up_nobody_over_udp(serving: Serving) -> None:
    serving.behaviour.silent = True
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", serving.dns_port))
        client.settimeout(AT_LAST)
        for number in OVER_UDP:
            client.send(dns.message.make_query(alias(number), "A", id=number).to_wire())
        wait_until(lambda: len(serving.elsewhere.asked) >= len(OVER_UDP), AT_MOST, "all are asked for", interval=0.01)
        assert_quick(timed(lambda: over_udp(serving, WEB)))
        assert_quick(timed(lambda: serving.ask(WEB), 20))
        replies = [dns.message.from_wire(client.recv(65535)) for _ in OVER_UDP]
    assert {reply.id for reply in replies} == set(OVER_UDP)
    for reply in replies:
        assert records_of(reply) == [f"CNAME {target(reply.id)}"]


def test_a_silent_server_holds_up_no_other_tcp_connection(serving: Serving) -> None:
    serving.behaviour.silent = True
    found: list[list[str]] = []

    def wait() -> None:
        query = dns.message.make_query(alias(6), "A")
        found.append(records_of(dns.query.tcp(query, "127.0.0.1", timeout=AT_LAST, port=serving.dns_port)))

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: serving.elsewhere.asked, AT_MOST, "it is asked for", interval=0.01)
    query = dns.message.make_query(WEB, "A")
    assert_quick(
        timed(lambda: records_of(dns.query.tcp(query, "127.0.0.1", timeout=AT_LAST, port=serving.dns_port)), 20)
    )
    thread.join(AT_LAST)
    assert found == [[f"CNAME {target(6)}"]]


def test_equal_queries_at_the_same_time_are_asked_once(serving: Serving) -> None:
    slow = [serving.begin(alias(59)) for _ in range(50)]
    assert {tuple(records_of(reply_of(call))) for call in slow} == {(f"CNAME {target(59)}",)}
    assert len(serving.elsewhere.asked) <= 4, "a try or two, for all of them"


def test_a_stop_lets_those_who_wait_have_their_reply(tmp_path: Path) -> None:
    with running(tmp_path) as serving:
        serving.behaviour.silent = True
        slow = [serving.begin(alias(number)) for number in range(20)]
        wait_until(lambda: len(serving.elsewhere.asked) >= 20, AT_MOST, "all are asked for", interval=0.01)
        assert serving.headwater.terminate() == 0
        for number, call in enumerate(slow):
            assert records_of(reply_of(call)) == [f"CNAME {target(number)}"]
