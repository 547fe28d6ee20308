"""The transports beside each other: what a query costs the answer process, native and grpcio.

    python -m bench.transport [--rounds 3] [--queries 20000] [--profile]

One answer process each, on the same manifests, over unix sockets. Each round, in
turn and in alternation:

- `h2load` with 1, 10 and 100 streams, one connection, a one-record answer;
- a real CoreDNS and `dnsperf` with 100 queries in flight, uncached, for answers
  of 1, 15 and 100 records.

CPU is the answer process's own, to the nanosecond (/proc/PID/schedstat), over
the queries that it has answered; it includes the kernel's work on its behalf.

`--profile` says where the native transport's time goes: the same batches
through each of its layers in this process, without sockets.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any, Final

import dns.message
import psutil
from headwater.answer.resolver import Resolver
from headwater.serve.grpc import Calls, frame, route
from headwater.serve.http2 import PREFACE, Connection
from headwater.serve.http2 import frame as h2_frame
from headwater.serve.queries import Queries
from headwater.serve.service import QUERY, pack
from headwater.serve.upstream import Upstream
from headwater.settings import Settings
from headwater.store.environment import Reader
from headwater.store.identity import Identity
from hpack import Encoder

from bench.report import environment, spread, table
from tools import build
from tools.cluster.plane import Running, free_port, wait_until

TRANSPORTS: Final = ("native", "grpcio")
STREAMS: Final = (1, 10, 100)
#: Services by the number of their endpoints; "one" has a cluster IP.
NAMES: Final = {"one": 0, "fifteen": 15, "hundred": 100}
_IN_FLIGHT: Final = 100


def manifests() -> str:
    """A Service of each kind."""
    items: list[dict[str, Any]] = []
    for name, count in NAMES.items():
        items.append(
            {
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
                "spec": {"clusterIP": "None" if count else "172.16.0.9", "ports": [{"port": 80}]},
            }
        )  # fmt: skip
        endpoints = [{"addresses": [f"10.44.{number // 250}.{1 + number % 250}"]} for number in range(count)]
        items.append(
            {
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
                "endpoints": endpoints,
            }
        )  # fmt: skip
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def query(name: str) -> bytes:
    return dns.message.make_query(f"{name}.default.svc.cluster.local.", "A", use_edns=False, id=7).to_wire()


@dataclass
class Backend:
    """A headwater with one answer process."""

    transport: str
    folder: Path
    process: Running
    answer: psutil.Process

    @property
    def socket(self) -> Path:
        return self.folder / "dns.sock"

    def cpu(self) -> float:
        """Seconds that the answer process has run, all its threads."""
        threads = Path(f"/proc/{self.answer.pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


@contextmanager
def backend(transport: str, folder: Path) -> Iterator[Backend]:
    folder.mkdir()
    (folder / "m.json").write_text(manifests())
    command: list[str | Path] = [
        sys.executable, "-m", "headwater.cli", "serve", "--manifests", folder / "m.json", "--transport", transport,
        "--listen", f"unix:{folder / 'dns.sock'}", "--workers", "1", "--state-dir", folder / "state", "--admin", "off",
    ]  # fmt: skip
    process = Running("headwater", command, folder / "log", env={}, cwd=folder)
    try:

        def found() -> psutil.Process | None:
            process.require_running()
            children = psutil.Process(process.pid).children(recursive=True)
            return next((child for child in children if "answer 0" in " ".join(child.cmdline())), None)

        answer = wait_until(found, 20.0, "the answer process", ignoring=(psutil.Error,))
        assert answer is not None
        wait_until(lambda: _answers(folder / "dns.sock"), 20.0, "an answer")
        yield Backend(transport, folder, process, answer)
    finally:
        process.terminate()


def _answers(path: Path) -> bool:
    from headwater.lookup import LookupFailed, exchange
    from headwater.settings import Address

    try:
        return exchange(query("one"), Address(path=str(path)), 1.0)[3] & 15 == 0
    except LookupFailed:
        return False


@dataclass(frozen=True)
class Seen:
    """Of one run."""

    cpu: float
    """us per query."""
    rate: float
    """Queries per second."""


def by_h2load(server: Backend, body: Path, streams: int, queries: int) -> Seen:
    before = server.cpu()
    done = subprocess.run(
        [
            "h2load", "-n", str(queries), "-c", "1", "-m", str(streams), "-d", str(body),
            "-H", "content-type: application/grpc", "-H", "te: trailers",
            "-B", f"unix:{server.socket}", f"http://localhost{QUERY}",
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    used = server.cpu() - before
    succeeded = re.search(r"(\d+) succeeded", done.stdout)
    rate = re.search(r"([\d.]+) req/s", done.stdout)
    assert succeeded is not None
    assert rate is not None
    assert int(succeeded[1]) == queries, done.stdout
    return Seen(used / queries * 1e6, float(rate[1]))


@contextmanager
def coredns(server: Backend) -> Iterator[int]:
    """In front of it; the port."""
    port = free_port()
    corefile = server.folder / "Corefile"
    corefile.write_text(
        f"cluster.local:{port} {{\n    bind 127.0.0.1\n    errors\n    grpc . unix://{server.socket}\n}}\n"
    )
    binary = build.TOOLS["coredns"].binary()
    process = Running("coredns", [binary, "-conf", corefile], server.folder / "coredns.log", env={}, cwd=server.folder)

    def answers() -> bool:
        import dns.query

        asked = dns.message.make_query("one.default.svc.cluster.local.", "A")
        return dns.query.udp(asked, "127.0.0.1", port=port, timeout=0.5).rcode() == 0

    try:
        wait_until(answers, 20.0, "CoreDNS answers", ignoring=(OSError, dns.exception.DNSException))
        yield port
    finally:
        process.terminate()


def by_dnsperf(server: Backend, port: int, name: str, seconds: float) -> Seen:
    file = server.folder / "queries"
    file.write_text(f"{name}.default.svc.cluster.local A\n")
    before = server.cpu()
    done = subprocess.run(
        [
            "dnsperf", "-s", "127.0.0.1", "-p", str(port), "-d", str(file), "-l", str(seconds), "-q", str(_IN_FLIGHT),
            "-e", "-b", "1000",
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    used = server.cpu() - before
    completed = re.search(r"Queries completed:\s+(\d+)", done.stdout)
    rate = re.search(r"Queries per second:\s+([\d.]+)", done.stdout)
    assert completed is not None
    assert rate is not None
    return Seen(used / int(completed[1]) * 1e6, float(rate[1]))


def measure(rounds: int, queries: int, seconds: float) -> str:
    cases: dict[str, Callable[[Backend, int], Seen]] = {}
    with tempfile.TemporaryDirectory(prefix="hw-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        body = folder / "body"
        body.write_bytes(frame(pack(query("one"))))
        servers = [stack.enter_context(backend(transport, folder / transport)) for transport in TRANSPORTS]
        ports = {server.transport: stack.enter_context(coredns(server)) for server in servers}
        for streams in STREAMS:
            cases[f"h2load, {streams} streams"] = lambda server, count, streams=streams: by_h2load(  # type: ignore[misc]
                server, body, streams, count
            )
        for asked, count in NAMES.items():
            cases[f"CoreDNS, {max(1, count)} records"] = lambda server, _, asked=asked: by_dnsperf(  # type: ignore[misc]
                server, ports[server.transport], asked, seconds
            )
        rows = []
        for case, run in cases.items():
            seen: dict[str, list[Seen]] = {transport: [] for transport in TRANSPORTS}
            for number in range(rounds + 1):
                for server in servers if number % 2 else reversed(servers):
                    one = run(server, queries if server.transport == "native" else queries // 5)
                    if number:  # the first is for warming up
                        seen[server.transport].append(one)
            ratio = statistics.median(item.cpu for item in seen["native"]) / statistics.median(
                item.cpu for item in seen["grpcio"]
            )
            rows.append(
                [
                    case,
                    *(spread([item.cpu for item in seen[transport]]) for transport in TRANSPORTS),
                    f"{ratio:.3f}",
                    *(f"{statistics.median(item.rate for item in seen[transport]):,.0f}" for transport in TRANSPORTS),
                ]
            )
    head = ["", "CPU native, us", "CPU grpcio, us", "ratio", "native, q/s", "grpcio, q/s"]
    return table(head, rows)


def profile(batch: int, count: int) -> str:
    """us per query of each layer, `batch` queries read at once."""
    with tempfile.TemporaryDirectory(prefix="hw-bench-") as name:
        folder = Path(name)
        with backend("native", folder / "b") as server:
            settings = Settings(state_dir=str(server.folder / "state"))
            reader = Reader(Path(settings.state_dir), _identity(server.folder))
            reader.follow()
            assert reader.begin() is not None, "the store is not that of the manifests"
            queries = Queries(reader, Resolver(reader, settings), Upstream(()))
            message = query("one")
            batches = list(_batches(frame(pack(message)), batch, count))
            rows = []
            for what, answer in (
                ("frames alone", _discard),
                ("and a reply", _reply),
                ("and the resolver", Calls(queries).answer),
            ):
                rows.append([what, spread([_run(batches, batch, answer) for _ in range(5)], 2)])
            began = process_time()
            for _ in range(count):
                together = queries.begin()
                for _ in range(batch):
                    together.answer(message)
                together.end()
            rows.append(["the resolver alone", f"{(process_time() - began) / count / batch * 1e6:.2f}"])
    return table([f"us per query, {batch} at once", ""], rows)


def _identity(folder: Path) -> Identity:
    from headwater.cluster.source import source_of

    settings = Settings(manifests=(str(folder / "m.json"),))
    return Identity(source_of(settings), settings.records_fingerprint())


def _batches(body: bytes, batch: int, count: int) -> Iterator[bytes]:
    """Calls as grpc-go makes them."""
    encoder = Encoder()
    encoder.header_table_size = 0
    yield PREFACE + h2_frame(4, 0, 0) + h2_frame(4, 1, 0)
    fields = (
        (":method", "POST"), (":scheme", "http"), (":path", QUERY), (":authority", "localhost"),
        ("content-type", "application/grpc"), ("user-agent", "grpc-go/1.81.1"), ("te", "trailers"),
    )  # fmt: skip
    stream = 1
    for number in range(count):
        parts = [h2_frame(8, 0, 0, (40_000).to_bytes(4, "big"))]
        for _ in range(batch):
            head = encoder.encode((*fields, ("grpc-timeout", f"{4_999_900 + number % 90}u")))
            parts += [h2_frame(1, 4, stream, head), h2_frame(0, 1, stream, body)]
            stream += 2
        yield b"".join(parts)


def _discard(connection: Connection[Any]) -> None:
    for stream, *_ in connection.requests():
        connection._due.pop(stream)


def _reply(connection: Connection[Any]) -> None:
    for stream, *_ in connection.requests():
        Calls.finish(connection, stream, bytes(90))


def _run(batches: list[bytes], batch: int, answer: Callable[[Connection[Any]], object]) -> float:
    connection: Connection[Any] = Connection(route)
    began = process_time()
    for part in batches:
        connection.receive(part)
        answer(connection)
        connection.take()
        connection._allowance = 1000
        connection._window = 65_535
    assert not connection.closed
    return (process_time() - began) / (len(batches) - 1) / batch * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=20_000, help="by h2load, native; grpcio gets a fifth")
    parser.add_argument("--seconds", type=float, default=3.0, help="of dnsperf")
    parser.add_argument("--profile", action="store_true", help="the native transport's layers, without sockets")
    options = parser.parse_args()
    if options.profile:
        for batch in (1, 10, 100):
            print(profile(batch, 20_000 // batch), end="\n\n")
        return
    for tool in ("h2load", "dnsperf"):
        if shutil.which(tool) is None:
            sys.exit(f"bench.transport: {tool} is not installed")
    print(environment("coredns"), f"{os.getloadavg()[0]:.1f} load", end="\n\n")
    print(measure(options.rounds, options.queries, options.seconds))


if __name__ == "__main__":
    main()
