"""The service over both transports, with grpcio as the client: equal calls have equal outcomes."""

from __future__ import annotations

import errno
import logging
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from headwater.serve.grpc import frame
from headwater.serve.pb.dns_pb2 import DnsPacket
from headwater.serve.service import HEALTH_CHECK, MAX_PACKET, QUERY, SERVICE, Status, pack, unpack

from tests.harness.processes import wait_until
from tests.wire.serving import DEADLINE, PLAIN, SLOW, TRANSPORTS, Serving, Transport, query, reply_to, serving, tool


@pytest.fixture(params=TRANSPORTS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Serving]:
    transport: Transport = request.param
    with serving(transport, tmp_path) as server:
        yield server


def refusal(call: Any, packet: bytes, **options: Any) -> tuple[Status, str]:
    with pytest.raises(grpc.RpcError) as error:
        call(packet, timeout=DEADLINE, **options)
    return Status(error.value.code().value[0]), str(error.value.details())


def test_a_query_is_answered(server: Serving) -> None:
    assert server.call(query()) == reply_to(query())
    for number in range(300):
        assert server.call(query(ident=number))[:2] == number.to_bytes(2, "big")


@pytest.mark.parametrize("size", [0, 100, 127, 128, 1017, 1024, 16_379, 16_384, 40_000, 65_535])
def test_a_reply_of_any_size_arrives_whole(server: Serving, size: int) -> None:
    asked = query(f"sized-{size}.test.")
    assert server.call(asked) == reply_to(asked, size)


@pytest.mark.parametrize("size", [2, 12, 120, 127, 128, 129, 300, 16_383, 16_384, 65_535])
def test_a_message_of_any_size_is_taken(server: Serving, size: int) -> None:
    asked = (b"\0\7" + bytes(10))[:size].ljust(size, b"\0")
    assert server.call(asked)[:2] == b"\0\7"


def test_a_packet_in_an_unusual_encoding_is_taken(server: Serving) -> None:
    call = server.method()
    for packet in (b"\x10\1" + pack(query()), b"\x0a\x80\x00" + pack(query()), pack(b"xx") + pack(query())):
        assert DnsPacket.FromString(call(packet, timeout=DEADLINE)).msg == reply_to(query())


def test_two_hundred_calls_at_once(server: Serving) -> None:
    call = server.method()
    calls = [
        call.future(pack(query("sized-20000.test." if number % 7 == 0 else PLAIN, number)), timeout=DEADLINE)
        for number in range(200)
    ]
    for number, one in enumerate(calls):
        reply = unpack(one.result(DEADLINE))
        assert reply[:2] == number.to_bytes(2, "big")
        assert len(reply) == (20_000 if number % 7 == 0 else len(query()))


def test_many_connections(server: Serving) -> None:
    calls = [server.method(QUERY, ("grpc.use_local_subchannel_pool", 1), ("n", number)) for number in range(20)]
    for _ in range(5):
        for number, call in enumerate(calls):
            assert unpack(call(pack(query(ident=number)), timeout=DEADLINE))[:2] == number.to_bytes(2, "big")


@pytest.mark.parametrize("streams", [1, 100])
@pytest.mark.parametrize("name", [PLAIN, "sized-40000.test."])
def test_h2load(server: Serving, tmp_path: Path, streams: int, name: str) -> None:
    (tmp_path / "body").write_bytes(frame(pack(query(name))))
    done = subprocess.run(
        [
            tool("h2load"), "-n", "500", "-c", "3", "-m", str(streams), "-d", tmp_path / "body",
            "-H", "content-type: application/grpc", "-H", "te: trailers",
            "-B", str(server.address), f"http://localhost{QUERY}",
        ],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert "500 succeeded, 0 failed, 0 errored" in done.stdout
    assert server.resolver.asked > 450  # counted in two threads under grpcio


@pytest.mark.parametrize(
    ("packet", "status", "why"),
    [
        (b"\x0a\x05abc", Status.INVALID_ARGUMENT, "the request is not a coredns.dns.DnsPacket"),
        (b"\x08", Status.INVALID_ARGUMENT, "the request is not a coredns.dns.DnsPacket"),
        (b"", Status.INVALID_ARGUMENT, "the DNS message is too short to have an id"),
        (pack(b"\1"), Status.INVALID_ARGUMENT, "the DNS message is too short to have an id"),
        (pack(bytes(65_536)), Status.INVALID_ARGUMENT, "a DNS message has at most 65,535 bytes"),
    ],
)
def test_what_dns_cannot_answer_is_an_invalid_argument(
    server: Serving, packet: bytes, status: Status, why: str
) -> None:
    assert refusal(server.method(), packet) == (status, why)
    assert server.call(query()) == reply_to(query())


@pytest.mark.parametrize("size", [MAX_PACKET + 1, 100_000, 1_000_000])
def test_a_request_that_is_too_long_exhausts_resources(server: Serving, size: int) -> None:
    call = server.method()
    assert refusal(call, bytes(size))[0] == Status.RESOURCE_EXHAUSTED
    assert unpack(call(pack(query()), timeout=DEADLINE)) == reply_to(query()), "the connection lives"


@pytest.mark.parametrize(
    "method",
    [
        f"/{SERVICE}/Nothing", "/coredns.dns.Nothing/Query", "/", "/x/y/z", "/grpc.health.v1.Health/Watch",
        "/coredns.dns.DnsService/query", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ],
)  # fmt: skip
def test_an_unknown_method_is_unimplemented(server: Serving, method: str) -> None:
    assert refusal(server.method(method), pack(query()))[0] == Status.UNIMPLEMENTED
    assert server.call(query()) == reply_to(query())


def test_health_is_asked_of_the_whole_and_of_the_service(server: Serving) -> None:
    check = server.method(HEALTH_CHECK)
    service = b"\x0a" + bytes((len(SERVICE),)) + SERVICE.encode()
    for ready, answer in ((True, b"\x08\x01"), (False, b"\x08\x02")):
        server.reader.ready = ready
        assert check(b"", timeout=DEADLINE) == check(service, timeout=DEADLINE) == answer
    assert refusal(check, b"\x0a\x01x") == (Status.NOT_FOUND, "unknown service")


@pytest.mark.parametrize("name", ["broken.test.", "slow-and-broken.test."])
def test_a_bug_is_internal_and_logged_once(server: Serving, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """Contract 5: CoreDNS then asks its next address."""
    call = server.method()
    server.release()
    with caplog.at_level(logging.ERROR):
        for number in range(20):
            assert refusal(call, pack(query(name, number))) == (Status.INTERNAL, "a bug of the server")
            assert unpack(call(pack(query()), timeout=DEADLINE)) == reply_to(query()), "the connection lives"
    assert len(caplog.records) == 1
    assert server.queries.snapshot().failures == 20


# Calls that wait for another server


def test_others_are_answered_meanwhile(server: Serving) -> None:
    call = server.method()
    slow = [call.future(pack(query(SLOW, number)), timeout=DEADLINE) for number in range(60)]
    wait_until(lambda: server.upstream.asked == 60, DEADLINE, "all are asked for")
    for number in range(100):
        assert unpack(call(pack(query(PLAIN, number)), timeout=DEADLINE))[:2] == number.to_bytes(2, "big")
    assert not any(one.done() for one in slow)
    server.release()
    for number, one in enumerate(slow):
        assert unpack(one.result(DEADLINE)) == reply_to(query(SLOW, number)) + b"record"


def test_a_client_waits_no_longer_than_it_said(server: Serving) -> None:
    call = server.method()
    began = time.monotonic()
    slow = [call.future(pack(query(SLOW)), timeout=0.3) for _ in range(20)]
    for one in slow:
        with pytest.raises(grpc.RpcError) as error:
            one.result(DEADLINE)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < DEADLINE / 2
    assert unpack(call(pack(query()), timeout=DEADLINE)) == reply_to(query())


def test_a_call_that_was_cancelled_leaves_nothing_behind(server: Serving) -> None:
    call = server.method()
    slow = [call.future(pack(query(SLOW)), timeout=DEADLINE) for _ in range(20)]
    wait_until(lambda: server.upstream.asked == 20, DEADLINE, "all are asked for")
    for one in slow:
        one.cancel()
    if server.transport == "native":
        wait_until(lambda: server.upstream.given_up == 20, DEADLINE, "nobody waits any more")
    assert unpack(call(pack(query()), timeout=DEADLINE)) == reply_to(query())


# The end


def test_a_stop_lets_who_waits_have_its_reply_and_takes_no_more(server: Serving) -> None:
    call = server.method()
    slow = call.future(pack(query(SLOW, 5)), timeout=DEADLINE)
    wait_until(lambda: server.upstream.asked == 1, DEADLINE, "it is asked for")
    stopping = threading.Thread(target=server.stop, args=(DEADLINE,))
    stopping.start()
    address = str(server.address.path)

    def is_refused() -> bool:
        with socket.socket(socket.AF_UNIX) as other:
            return other.connect_ex(address) in (errno.ECONNREFUSED, errno.ENOENT)

    wait_until(is_refused, DEADLINE, "a new connection is refused")
    server.release()
    assert unpack(slow.result(DEADLINE))[:2] == b"\0\5"
    stopping.join(DEADLINE)
    assert not stopping.is_alive()


def test_a_stop_does_not_wait_for_ever(server: Serving) -> None:
    call = server.method()
    slow = call.future(pack(query(SLOW, 5)), timeout=DEADLINE)
    wait_until(lambda: server.upstream.asked == 1, DEADLINE, "it is asked for")
    began = time.monotonic()
    server.stop(0.1)
    assert time.monotonic() - began < DEADLINE / 2
    server.release()
    with pytest.raises(grpc.RpcError):
        slow.result(DEADLINE)


def test_a_client_that_is_idle_does_not_hold_up_a_stop(server: Serving) -> None:
    assert server.call(query()) == reply_to(query())
    began = time.monotonic()
    server.stop(DEADLINE)
    assert time.monotonic() - began < DEADLINE / 2
