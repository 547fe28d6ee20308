"""The transports in the real server behind CoreDNS: unnoticed
restarts, TLS, and costs of attacks.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

import dns.flags
import grpc
import psutil
import pytest
from headwater.commands.corefile import stanza
from headwater.commands.query import question
from headwater.process.counters import Kind
from headwater.serve.service import QUERY, pack, unpack
from headwater.settings.address import Address
from headwater.settings.error import SettingsError
from headwater.supervise import claims
from headwater.supervise.child import Child
from headwater.supervise.claims import StartFailed
from headwater.supervise.descriptors import Reserve

from tests.harness.instance import Headwater
from tests.harness.pki import Pki
from tests.harness.processes import CoreDNS, wait_until
from tests.wire.frames import HELLO, Client, data, frame, rst, settings, window
from tests.wire.serving import TRANSPORTS

SERVICE: Final = "db.default.svc.cluster.local"
LARGE: Final = "large.default.svc.cluster.local"
SETTLE: Final = 30.0
MIB: Final = 1 << 20


def manifest() -> str:
    """A headless Service with one endpoint, and one with 1,000."""
    items: list[dict[str, Any]] = []
    for name, count in (("db", 1), ("large", 1000)):
        items.append(
            {
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
                "spec": {"clusterIP": "None", "ports": [{"port": 80}]},
            }
        )  # fmt: skip
        items.append(
            {
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
                "endpoints": [{"addresses": [f"10.44.{number // 250}.{1 + number % 250}"]} for number in range(count)],
            }
        )  # fmt: skip
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "manifest.json"
    file.write_text(manifest())
    return file


@pytest.fixture
def headwater(source: Path, tmp_path: Path) -> Iterator[Headwater]:
    with Headwater(tmp_path, "--manifests", source) as running:
        yield running


def maps_grpc(pid: int) -> bool:
    return "cygrpc" in Path(f"/proc/{pid}/maps").read_text()


# Both transports behind CoreDNS


@pytest.mark.coredns
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_coredns_is_served_over_either(transport: str, source: Path, tmp_path: Path) -> None:
    with (
        Headwater(tmp_path, "--manifests", source, "--transport", transport) as headwater,
        CoreDNS(tmp_path, headwater.grpc_corefile_stanza()) as dns,
    ):
        assert dns.records(SERVICE) == ["10.44.0.1"]
        assert len(dns.records(LARGE, tcp=True)) == 1000
        assert dns.ask("none.default.svc.cluster.local").rcode() == 3
        # The modules in the answer processes also show which transport is used.
        pids = headwater.pids()
        assert [maps_grpc(pids[f"answer {index}"]) for index in range(2)] == [transport == "grpcio"] * 2
        with concurrent(lambda: dns.records(SERVICE) == ["10.44.0.1"], 16) as outcomes:
            wait_until(lambda: len(outcomes) > 500, SETTLE, "500 answers")
        assert all(outcomes)


@pytest.mark.coredns
def test_an_srv_set_fits_a_datagram_in_any_letters(tmp_path: Path) -> None:
    """CoreDNS compresses only names of equal case, and truncates what
    is then longer than 512 bytes.
    """
    items: list[dict[str, Any]] = []
    counts = range(2, 6)
    for count in counts:
        name = f"set-{count}"
        port = {"name": "http", "port": 80, "protocol": "TCP"}
        items.append(
            {
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
                "spec": {"clusterIP": "None", "ports": [port]},
            }
        )  # fmt: skip
        items.append(
            {
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "ports": [port],
                "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
                "endpoints": [
                    {"addresses": [f"10.45.{count}.{number}"], "hostname": f"web-{number}".ljust(50, "x")}
                    for number in range(1, count + 1)
                ],
            }
        )  # fmt: skip
    source = tmp_path / "sets.json"
    source.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    with (
        Headwater(tmp_path, "--manifests", source) as headwater,
        CoreDNS(tmp_path, headwater.grpc_corefile_stanza()) as coredns,
    ):
        cut = {}
        for count in counts:
            qname = f"_http._tcp.set-{count}.default.svc.cluster.local"
            for letters in (qname, qname.upper(), qname.title(), qname.replace("cluster.local", "CLUSTER.local")):
                cut[count, letters] = bool(coredns.ask(letters, "SRV").flags & dns.flags.TC)
            assert len({was for (number, _), was in cut.items() if number == count}) == 1, cut
    assert set(cut.values()) == {True, False}


@contextlib.contextmanager
def concurrent(ask: Callable[[], bool], count: int) -> Iterator[list[bool]]:
    """Ask all the time in `count` threads during the block. Yield the results."""
    outcomes: list[bool] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            try:
                outcomes.append(ask())
            except Exception:  # noqa: BLE001 (whatever it was, it was no answer)
                outcomes.append(False)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        stop.set()
        for thread in threads:
            thread.join(SETTLE)


# Restarts


@pytest.mark.coredns
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_query_is_lost_when_an_answer_process_is_replaced(
    number: signal.Signals, headwater: Headwater, tmp_path: Path
) -> None:
    with CoreDNS(tmp_path, headwater.grpc_corefile_stanza()) as dns:
        with concurrent(lambda: dns.records(SERVICE) == ["10.44.0.1"], 4) as outcomes:
            for title in ("answer 0", "answer 1", "answer 0"):
                wait_until(lambda title=title: headwater.pids().get(title), SETTLE, f"{title} is there")  # type: ignore[misc]
                wait_until(headwater.is_ready, SETTLE, "all is ready")
                before, seen = headwater.pids()[title], len(outcomes)
                os.kill(before, number)
                wait_until(
                    lambda title=title, before=before: headwater.pids().get(title, before) != before,  # type: ignore[misc]
                    SETTLE, f"{title} is replaced",
                )  # fmt: skip
                wait_until(lambda seen=seen: len(outcomes) > seen + 50, SETTLE, "answers go on")  # type: ignore[misc]
        assert all(outcomes), f"{outcomes.count(False)} of {len(outcomes)} were lost"


def test_an_address_stays_bound_while_its_process_restarts(headwater: Headwater) -> None:
    """grpc-go's back-off after a refused connection grows to two minutes."""
    path = str(headwater.addresses[0].path)

    def connects() -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(SETTLE)
            client.connect(path)
            return client.recv(9)[3:4] == b"\x04"

    with concurrent(connects, 2) as outcomes:
        before = headwater.kill9("answer 0")
        wait_until(lambda: headwater.pids().get("answer 0", before) != before, SETTLE, "it is back")
        seen = len(outcomes)
        wait_until(lambda: len(outcomes) > seen + 20, SETTLE, "connections are served")
    # The two queries in the process when it was killed may have failed with it.
    assert outcomes.count(False) <= 2
    assert headwater.records(SERVICE) == ["10.44.0.1"]


def test_a_process_that_is_told_to_leave_serves_what_it_was_asked(headwater: Headwater) -> None:
    """A client that keeps asking over one connection gets every
    reply, because GOAWAY moves it on.
    """
    with grpc.insecure_channel(str(headwater.addresses[0])) as channel:
        call: Any = channel.unary_unary(QUERY)
        message = question(SERVICE, "A")

        def ask() -> bool:
            return unpack(call(pack(message), timeout=SETTLE))[:2] == message[:2]

        with concurrent(ask, 4) as outcomes:
            for _ in range(3):
                wait_until(headwater.is_ready, SETTLE, "all is ready")
                before, seen = headwater.pids()["answer 0"], len(outcomes)
                os.kill(before, signal.SIGTERM)
                wait_until(
                    lambda before=before: headwater.pids().get("answer 0", before) != before,  # type: ignore[misc]
                    SETTLE, "it is replaced",
                )  # fmt: skip
                wait_until(lambda seen=seen: len(outcomes) > seen + 20, SETTLE, "answers go on")  # type: ignore[misc]
    assert all(outcomes)


def test_a_stop_refuses_at_once(headwater: Headwater) -> None:
    """On a socket without an accepting process CoreDNS would wait for
    its deadline, not fail over.
    """
    path = str(headwater.addresses[0].path)
    with grpc.insecure_channel(str(headwater.addresses[0])) as channel:
        grpc.channel_ready_future(channel).result(SETTLE)
        headwater.process.signal(signal.SIGTERM)

        def refused() -> bool:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(SETTLE)
                try:
                    client.connect(path)
                    return client.recv(1) == b""
                except (ConnectionRefusedError, FileNotFoundError):
                    return True

        wait_until(refused, 2.0, "nobody is let in")
        assert headwater.process.wait(SETTLE) == 0


class Listening:
    """A role whose process ends at once, and the role's socket."""

    def __init__(self, path: Path) -> None:
        (self.socket,) = claims.listen([Address(path=str(path))])
        self.path = str(path)

    def is_turned_away(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(0.2)
            client.connect(self.path)
            try:
                return client.recv(1) == b""
            except TimeoutError:
                return False


def test_who_comes_while_a_process_cannot_be_started_is_turned_away(tmp_path: Path) -> None:
    """CoreDNS then asks its next address. During a short restart it waits instead."""
    import asyncio

    import headwater.supervise.child as role_module

    listening = Listening(tmp_path / "s")

    def never(_: socket.socket) -> BaseProcess:
        raise AssertionError("it is not to be started")

    async def play() -> None:
        role = Child(Kind.ANSWER, "answer 0", never, reserve=Reserve(), listening=(listening.socket,))
        assert not await asyncio.to_thread(listening.is_turned_away)
        with role._turning_away(0.0):
            await asyncio.sleep(0)  # it runs in the loop's next turn
            assert await asyncio.to_thread(listening.is_turned_away)
            assert await asyncio.to_thread(listening.is_turned_away)
        assert not await asyncio.to_thread(listening.is_turned_away)

    asyncio.run(play())
    listening.socket.close()
    assert role_module._BACKOFF[0] < role_module._TOO_LONG < role_module._BACKOFF[1]


# Addresses


def test_anybody_may_connect_who_can_reach_the_socket(headwater: Headwater) -> None:
    for address in headwater.addresses:
        mode = Path(str(address.path)).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o666


def test_all_addresses_are_taken_or_none(tmp_path: Path) -> None:
    first, second = tmp_path / "a.sock", tmp_path / "b.sock"
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(socket.socket(socket.AF_UNIX))
        other.bind(str(second))
        other.listen()
        with pytest.raises(StartFailed, match=r"^--listen: another process serves at unix:"):
            claims.listen([Address(path=str(first)), Address(path=str(second))])
        assert not first.exists()
        for _ in range(200):  # until its queue is full and it answers no more
            try:
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(second))
            except BlockingIOError:
                break
        with pytest.raises(StartFailed, match=r"^--listen: another process serves at unix:"):
            claims.listen([Address(path=str(second))])
    # The socket file that it left behind belongs to no process.
    (taken,) = claims.listen([Address(path=str(second))])
    taken.close()
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"^--listen: .* is not a socket"):
        claims.listen([Address(path=str(tmp_path / "file"))])


# TLS


@pytest.mark.coredns
@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mutual tls"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_coredns_is_served_over_tls(transport: str, mutual: bool, source: Path, tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    flags = ["--manifests", str(source), "--transport", transport, *pki.flags(mutual=mutual)]
    with Headwater(tmp_path, *flags) as headwater:
        text = stanza(headwater.settings, tls=pki.client(mutual=mutual))
        with CoreDNS(tmp_path, text) as dns:
            assert dns.records(SERVICE) == ["10.44.0.1"]
            assert len(dns.records(LARGE, tcp=True)) == 1000
        # A client without TLS, or without a certificate, gets no answer.
        others = [
            text.replace("tls ", "# ").replace("tls_servername", "#"),
            text.replace("headwater.test", "other.test"),
        ]
        if mutual:
            others.append(text.replace(f"{tmp_path}/client.crt {tmp_path}/client.key ", ""))
        for number, other in enumerate(others):
            assert other != text
            with CoreDNS(tmp_path, other, name=f"other{number}") as dns:
                assert dns.ask(SERVICE).rcode() == 2


def test_bad_certificates_stop_the_start_with_one_line(source: Path, tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    (tmp_path / "server.key").write_text("no key")
    headwater = Headwater(tmp_path, "--manifests", source, *pki.flags(mutual=False))
    with contextlib.closing(headwater):
        done = subprocess.run(headwater.command(), capture_output=True, text=True, timeout=SETTLE, check=False)
    (line,) = done.stderr.splitlines()
    assert line.startswith("headwater: --tls-cert: ")
    assert str(tmp_path / "server.key") in line
    assert done.returncode == 2


# Attacks on the process

BODY: Final = b"\0" + len(pack(question(LARGE, "A"))).to_bytes(4, "big") + pack(question(LARGE, "A"))


def calls(count: int = 512) -> bytes:
    client = Client()
    return b"".join(client.call(2 * at + 1, BODY) for at in range(count))


def no_window() -> bytes:
    """Ask for 512 large replies, and give no window for them."""
    return HELLO + settings((4, 0)) + calls()


def no_reading() -> bytes:
    """Ask for large replies with the widest windows, and read nothing."""
    return HELLO + settings((4, 2**31 - 1)) + window(0, 2**31 - 1 - 65_535) + calls()


def half_bodies() -> bytes:
    """Send an unfinished body on every stream."""
    client = Client()
    return HELLO + b"".join(client.headers(2 * at + 1) + data(2 * at + 1, bytes(120), end=False) for at in range(512))


def header_bombs() -> bytes:
    """Send header lists of 16 KiB in a few bytes each, and keep their streams open."""
    client = Client()
    block = client.block(
        (":method", "POST"), (":scheme", "http"), (":path", QUERY), ("content-type", "application/grpc")
    )[1:]
    entry = b"\x40\x01x\x7f\xbd\x1d" + b"y" * 3900
    bombs = [frame(1, 4, 1, block + entry)] + [frame(1, 4, 2 * at + 1, block + b"\xbe" * 3) for at in range(1, 512)]
    return HELLO + settings((4, 0)) + b"".join(bombs)


def half_frames() -> bytes:
    """Send an incomplete frame, and a header block without an end."""
    return HELLO + frame(1, 0, 1, b"\x82" * 16_000) + frame(9, 0, 1, bytes(16_384))[:-1]


def rapid_reset() -> bytes:
    """Send requests and reset them."""
    block = Client().headers(1)[9:]
    return HELLO + b"".join(frame(1, 5, stream, block) + rst(stream) for stream in range(1, 10_000, 2))


ATTACKS: Final = (no_window, no_reading, half_bodies, header_bombs, half_frames, rapid_reset)


def peak_of(pid: int) -> int:
    """Return the peak memory of a process, in bytes."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def good_channel(address: Address, pki: Pki | None) -> grpc.Channel:
    if pki is None:
        return grpc.insecure_channel(str(address))
    credentials = grpc.ssl_channel_credentials((pki.folder / "ca.crt").read_bytes())
    return grpc.secure_channel(str(address), credentials, (("grpc.ssl_target_name_override", "headwater.test"),))


def connect(address: Address, pki: Pki | None) -> socket.socket | None:
    """Open a connection; return None if it is not let in."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(SETTLE)
    client.connect(str(address.path))
    if pki is None:
        return client
    context = ssl.create_default_context(cafile=f"{pki.folder}/ca.crt")
    context.set_alpn_protocols(["h2"])
    try:
        return context.wrap_socket(client, server_hostname="headwater.test")
    except OSError:
        client.close()
        return None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "tls"),
    [*((attack, False) for attack in ATTACKS), (no_window, True), (no_reading, True)],
    ids=lambda value: ("plain", "tls")[value] if isinstance(value, bool) else value.__name__,
)
def test_an_attack_on_all_connections_stays_within_100_mib(
    attack: Callable[[], bytes], tls: bool, source: Path, tmp_path: Path
) -> None:
    """Attack with as many connections as are let in, a fifth of a second
    each, beside one good client.
    """
    pki = Pki(tmp_path) if tls else None
    flags = [] if pki is None else pki.flags(mutual=False)
    with (
        Headwater(tmp_path, "--manifests", source, *flags, workers=1) as headwater,
        good_channel(headwater.addresses[0], pki) as channel,
    ):
        call: Any = channel.unary_unary(QUERY)
        good = pack(question(SERVICE, "A"))
        assert call(good, timeout=SETTLE)
        answer = psutil.Process(headwater.pids()["answer 0"])
        sent = attack()
        before = sum(answer.cpu_times()[:2])
        with contextlib.ExitStack() as stack:
            worst = 0.0
            for _ in range(99):
                connection = connect(headwater.addresses[0], pki)
                if connection is None:
                    break  # that was the last one
                stack.enter_context(connection)
                connection.settimeout(SETTLE if attack is not no_reading else 0.02)  # the server leaves some unread
                with contextlib.suppress(OSError):  # the server may close it while it sends
                    connection.sendall(sent)
                began = time.monotonic()
                call(good, timeout=SETTLE)
                worst = max(worst, time.monotonic() - began)
            used, peak = sum(answer.cpu_times()[:2]) - before, peak_of(answer.pid)
            print(f"{attack.__name__}: {peak / MIB:.0f} MiB, {used:.2f} s of CPU, the longest wait {worst:.2f} s")
            assert peak < 100 * MIB
            # On a busy machine. CoreDNS gives up after 5 s.
            assert used < 99 * 0.2
            assert worst < 5.0
        assert headwater.pids()["answer 0"] == answer.pid, "it lives"
        assert call(good, timeout=SETTLE)
