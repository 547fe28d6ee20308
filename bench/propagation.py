"""Measure the time from a change to its answer, for Headwater and for
CoreDNS's `kubernetes` plugin.

    python -m bench.propagation [--services 10000] [--changes 200] [--storm 500] [--history]
                                [--beside CHECKOUT]

Both serve one control plane with the whole set (tests/harness/load.py). The program PATCHes an
EndpointSlice of a headless Service 200 times, so that one endpoint gets a new address. The figure
is the time from the PATCH's return to the first reply with the new address. Both servers are asked
all the time over UDP, with one question under way each, and see the same change. A negative figure
is an answer that came before the PATCH had returned.

Then the same is measured during a storm of changes to the slices of other Services. The serving
time is that of a prober that asks for random names at a fixed rate, without and with the storm,
while nothing else is measured. Writer and prober are separate processes, so that they do not delay
the measurement.

`--history` adds a second Headwater that keeps no history of answers and sees the same changes: the
difference is what the history costs. `--beside` adds one that runs the code of another checkout.
Three servers share the cores then, so do not compare their figures with those of two.
"""

from __future__ import annotations

import argparse
import http.client
import ipaddress
import json
import multiprocessing
import os
import random
import select
import shutil
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.report import environment, goal, table
from tests.harness.instance import Headwater
from tests.harness.load import ENDPOINTS_PER_SLICE, SERVICES, Access, ScaleService, load, scale_set
from tests.harness.plane import Plane, PlaneError, wait_until
from tests.harness.processes import CoreDNS

CHANGES: Final = 200
STORM: Final = 500.0  # slice updates per second
CONNECTIONS: Final = 8  # of the storm
RATE: Final = 500.0  # questions per second of the serving time
SERVING: Final = 15.0  # seconds of it

# The goals, in milliseconds.
P50_GOAL, P99_GOAL, STORM_P99_GOAL = 3.0, 15.0, 100.0

#: The pause between two questions to one server about a change, in seconds: the error of the
#: measurement.
_PAUSE: Final = 0.0003
#: How long a change may take, in seconds.
_PATIENCE: Final = 30.0
#: The pause between two changes, in seconds; random, so that it is not in step with anything.
_BETWEEN: Final = (0.02, 0.08)
_JSON_PATCH: Final = "application/json-patch+json"
#: The first of the new addresses, of which the set has none.
_FIRST_NEW: Final = int(ipaddress.IPv4Address("11.0.0.1"))
_FIRST_OF_STORM: Final = int(ipaddress.IPv4Address("12.0.0.1"))
_OURS: Final = "Headwater"
_SPAWN: Final = multiprocessing.get_context("spawn")


@dataclass(frozen=True, slots=True)
class Slice:
    """An EndpointSlice to be changed."""

    namespace: str
    name: str

    @property
    def path(self) -> str:
        return f"/apis/discovery.k8s.io/v1/namespaces/{self.namespace}/endpointslices/{self.name}"


class Writer:
    """PATCHes slices over one connection that stays open."""

    def __init__(self, access: Access) -> None:
        self._headers = {**access.headers, "Content-Type": _JSON_PATCH}
        self._connection = http.client.HTTPSConnection(access.host, access.port, timeout=30, context=access.tls)
        self._connection.connect()
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def move(self, piece: Slice, endpoint: int, address: str) -> float:
        """Give an endpoint another address. Return the moment of the reply (perf_counter).

        Raises PlaneError if the server refuses.
        """
        return self._patch(piece, [{"op": "replace", "path": f"/endpoints/{endpoint}/addresses", "value": [address]}])

    def lighten(self, piece: Slice) -> None:
        """Remove the managedFields, so that an update costs the API server two thirds."""
        self._patch(piece, [{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}])

    def _patch(self, piece: Slice, change: object) -> float:
        self._connection.request("PATCH", piece.path, json.dumps(change), self._headers)
        response = self._connection.getresponse()
        now = time.perf_counter()
        text = response.read()
        if response.status != 200:
            raise PlaneError(f"PATCH {piece.path}: {response.status}: {text[:300].decode(errors='replace')}")
        return now

    def close(self) -> None:
        self._connection.close()


# The storm, in a separate process


class Storm:
    """Slice updates at a bounded rate over several connections; `total` of
    them, or until the block ends.

    Update n goes to slice n modulo their number, and each brings a new address. The slices lose
    their managedFields first, because otherwise the API server has little time for anything else.
    """

    def __init__(
        self, kubeconfig: Path, slices: Sequence[Slice], rate: float, *, total: int = 0, connections: int = CONNECTIONS
    ) -> None:
        self._ours, theirs = _SPAWN.Pipe()
        arguments = (kubeconfig, list(slices), rate, total or sys.maxsize, connections, theirs)
        self._process = _SPAWN.Process(target=_storm, args=arguments, daemon=True)
        self._theirs = theirs
        self.done = 0
        self.seconds = 0.0

    def __enter__(self) -> Self:
        """Return when the first update was made."""
        self._process.start()
        self._theirs.close()
        self._ours.recv()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.is_alive() and not self.seconds:
            self._ours.send("stop")
            self.wait()
        self._process.join()

    def wait(self) -> None:
        """Return when it is over. Raises PlaneError if an update failed."""
        try:
            self.done, self.seconds, failure = self._ours.recv()
        except EOFError:
            failure = "its process died"
        if failure:
            raise PlaneError(f"the storm: {failure}")

    @property
    def rate(self) -> float:
        """The number of updates per second."""
        return self.done / self.seconds


def _storm(
    kubeconfig: Path, slices: Sequence[Slice], rate: float, total: int, connections: int, pipe: Connection
) -> None:
    access = Access.from_kubeconfig(kubeconfig)
    preparing = Writer(access)
    for piece in slices:
        preparing.lighten(piece)
    preparing.close()
    stop = threading.Event()
    lock = threading.Lock()
    taken = done = 0
    failures: list[str] = []
    began = time.perf_counter()

    def work() -> None:
        nonlocal taken, done
        try:
            writer = Writer(access)
            while True:
                with lock:
                    number, taken = taken, taken + 1
                if number >= total or stop.wait(max(0.0, began + number / rate - time.perf_counter())):
                    return
                turn, which = divmod(number, len(slices))
                address = str(ipaddress.IPv4Address(_FIRST_OF_STORM + number))
                writer.move(slices[which], turn % ENDPOINTS_PER_SLICE, address)
                with lock:
                    done += 1
                if not number:
                    pipe.send("begun")
        except (OSError, http.client.HTTPException, PlaneError) as error:
            failures.append(f"{type(error).__name__}: {error}")
            stop.set()

    def obey() -> None:
        try:
            pipe.recv()
        except EOFError:
            os._exit(1)
        stop.set()

    threading.Thread(target=obey, daemon=True).start()
    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send((done, time.perf_counter() - began, "; ".join(failures)))


# The serving time, in a separate process


def serving_times(port: int, names: Sequence[str], rate: float, seconds: float) -> list[float]:
    """Return milliseconds from question to reply, at a fixed rate; infinite without a reply."""
    ours, theirs = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(target=_serving_times, args=(port, names, rate, seconds, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        times: list[float] = ours.recv()
    except EOFError:
        raise PlaneError("the prober's process died") from None
    process.join()
    return times


def _serving_times(port: int, names: Sequence[str], rate: float, seconds: float, pipe: Connection) -> None:
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asking.connect(("127.0.0.1", port))
    asking.setblocking(False)
    questions = [question(name) for name in names]
    sent: list[float] = []
    times = [float("inf")] * int(rate * seconds)
    due = time.perf_counter()
    while len(sent) < len(times) or (float("inf") in times[-1000:] and time.perf_counter() < due + 6):
        now = time.perf_counter()
        if len(sent) < len(times) and now >= due:
            # The time starts when the question was due, so that it includes a queue before us.
            sent.append(due)
            asking.send(struct.pack(">H", (len(sent) - 1) & 0xFFFF) + random.choice(questions)[2:])
            due += 1 / rate
        select.select([asking], [], [], max(0.0, due - time.perf_counter()) if len(sent) < len(times) else 0.1)
        while True:
            try:
                reply = asking.recv(65535)
            except BlockingIOError:
                break
            number = int.from_bytes(reply[:2], "big")
            times[number] = (time.perf_counter() - sent[number]) * 1000
    pipe.send(times)


# Changes and their answers


def question(name: str) -> bytes:
    """Return a query for A with id 0 and an OPT that offers 4,096 bytes."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    return (
        struct.pack(">6H", 0, 0x0100, 1, 0, 0, 1) + labels + b"\0" + struct.pack(">HH", 1, 1)
        + b"\0" + struct.pack(">HHIH", 41, 4096, 0, 0)
    )  # fmt: skip


class Follower:
    """Asks several servers for one name until each has given an answer with a given address."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._sockets = []
        for port in ports:
            asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            asking.connect(("127.0.0.1", port))
            asking.setblocking(False)
            self._sockets.append(asking)
        self._thread: threading.Thread | None = None
        self._asked = threading.Event()
        self._seen: list[float] = []

    def start(self, name: str, address: str) -> None:
        """Begin to ask in a thread; return when every server was asked once."""
        self._asked.clear()
        self._thread = threading.Thread(target=self._follow, args=(question(name), socket.inet_aton(address)))
        self._thread.start()
        self._asked.wait()

    def result(self) -> list[float]:
        """Return the moment (perf_counter) of each server's first right
        answer; infinite after _PATIENCE.
        """
        assert self._thread is not None
        self._thread.join()
        return self._seen

    def _follow(self, query: bytes, wanted: bytes) -> None:
        count = len(self._sockets)
        self._seen = [float("inf")] * count
        # When to ask each server next; infinite during a question, and after the right answer.
        due = [0.0] * count
        ident = random.randrange(1 << 15)
        idents = [0] * count
        deadline = time.perf_counter() + _PATIENCE
        replied: set[int] = set()
        while float("inf") in self._seen and (now := time.perf_counter()) < deadline:
            for index, asking in enumerate(self._sockets):
                if now >= due[index]:
                    ident = (ident + 1) & 0xFFFF
                    idents[index] = ident
                    asking.send(ident.to_bytes(2, "big") + query[2:])
                    due[index] = float("inf")
            readable, _, _ = select.select(self._sockets, [], [], max(0.0, min(due) - now) if min(due) < 1e9 else 1.0)
            for asking in readable:
                index = self._sockets.index(asking)
                reply = asking.recv(65535)
                now = time.perf_counter()
                if int.from_bytes(reply[:2], "big") != idents[index] or self._seen[index] < float("inf"):
                    continue
                replied.add(index)
                if wanted in reply[12:]:
                    self._seen[index] = now
                else:
                    due[index] = now + _PAUSE
            if len(replied) == count:
                self._asked.set()
        self._asked.set()


@dataclass
class Times:
    """Milliseconds of each server."""

    changes: list[list[float]]
    serving: list[list[float]]


@dataclass(frozen=True)
class Bench:
    """The servers on one plane with the set: their names and ports."""

    plane: Plane
    servers: dict[str, int]
    services: list[ScaleService]

    def headless(self) -> list[ScaleService]:
        """The Services to change: headless ones of one slice whose endpoints have names."""
        return [item for item in self.services if item.headless and item.hostnames and item.slices == 1]

    def follow(self, count: int, first_new: int) -> list[list[float]]:
        """Make changes, one after the other. Return how long each server took."""
        writer = Writer(Access.from_kubeconfig(self.plane.kubeconfig))
        follower = Follower(tuple(self.servers.values()))
        chosen = self.headless()[: len(self.headless()) // 2]
        taken: list[list[float]] = [[] for _ in self.servers]
        for number in range(count):
            service = random.choice(chosen)
            endpoint = random.randrange(ENDPOINTS_PER_SLICE)
            address = str(ipaddress.IPv4Address(first_new + number))
            name = f"web-{endpoint}.{service.name}.{service.namespace}.svc.cluster.local"
            follower.start(name, address)
            returned = writer.move(Slice(service.namespace, f"{service.name}-0"), endpoint, address)
            for one, seen in zip(taken, follower.result(), strict=True):
                one.append((seen - returned) * 1000)
            time.sleep(random.uniform(*_BETWEEN))
        writer.close()
        return taken

    def storm(self, rate: float) -> Storm:
        """Return a storm over the Services that `follow` does not change."""
        chosen = self.headless()[len(self.headless()) // 2 :]
        return Storm(self.plane.kubeconfig, [Slice(item.namespace, f"{item.name}-0") for item in chosen], rate)

    def serving(self) -> list[list[float]]:
        """Return the serving times of each server, measured one after the other."""
        names = [f"web-3.{item.name}.{item.namespace}.svc.cluster.local" for item in self.headless()]
        return [serving_times(port, random.choices(names, k=1000), RATE, SERVING) for port in self.servers.values()]


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value that this part of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def measure(bench: Bench, changes: int, storm_rate: float) -> tuple[Times, Times, float]:
    """Measure without and with the storm. Return both, and the storm's true rate."""
    quiet = Times(serving=bench.serving(), changes=bench.follow(changes, _FIRST_NEW))
    print("quiet: done", flush=True)
    with bench.storm(storm_rate) as storm:
        windy = Times(serving=bench.serving(), changes=bench.follow(changes, _FIRST_NEW + changes))
    return quiet, windy, storm.rate


def report(servers: Sequence[str], quiet: Times, windy: Times, rate: float) -> str:
    """Return the tables."""
    rows = []
    for what, times in (
        ("a change, quiet", quiet.changes),
        (f"a change, {rate:,.0f} updates/s beside it", windy.changes),
        ("a question, quiet", quiet.serving),
        (f"a question, {rate:,.0f} updates/s beside it", windy.serving),
    ):
        for server, values in zip(servers, times, strict=True):
            lost = sum(value == float("inf") for value in values)
            figures = [f"{percentile(values, part):.2f}" for part in (0.5, 0.9, 0.99)]
            rows.append((what, server, *figures, f"{max(values):.1f}", f"{len(values):,}", str(lost)))
    before, after = (percentile(times.serving[0], 0.99) for times in (quiet, windy))
    goals = [
        ("a change, quiet, p50", goal(statistics.median(quiet.changes[0]), P50_GOAL, " ms")),
        ("a change, quiet, p99", goal(percentile(quiet.changes[0], 0.99), P99_GOAL, " ms")),
        ("a change in the storm, p99", goal(percentile(windy.changes[0], 0.99), STORM_P99_GOAL, " ms")),
        ("a question in the storm, p99, to quiet", f"{after / before:.2f} (should be 1)"),
    ]
    head = ("milliseconds", "server", "p50", "p90", "p99", "most", "count", "lost")
    return "\n".join((table(head, rows), "", table(("goal", "seen"), goals)))


@contextmanager
def _code_of(checkout: Path | None) -> Iterator[None]:
    """Start what is started in this block with the code of a checkout; None: what is installed."""
    if checkout is None:
        yield
        return
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(checkout / "backend")
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


@contextmanager
def running(services: int, *, history: bool, beside: Path | None = None) -> Iterator[Bench]:
    """Yield a plane with the set, and the servers ready on it."""
    folder = Path(tempfile.mkdtemp(prefix="headwater-propagation-"))
    try:
        with ExitStack() as stack:
            plane = stack.enter_context(Plane(folder / "plane"))
            print(f"loading {services:,} services ...", flush=True)
            load(plane.kubeconfig, services)
            servers: dict[str, CoreDNS] = {}
            instances: list[tuple[str, Path | None, Sequence[str]]] = [(_OURS, None, ())]
            if history:
                instances.append((f"{_OURS}, no history", None, ("--history", "0")))
            if beside is not None:
                instances.append(("before", beside, ()))
            for name, checkout, flags in instances:
                short = f"ours-{len(servers)}"
                with _code_of(checkout):
                    headwater = stack.enter_context(
                        Headwater(folder, "--kubeconfig", plane.kubeconfig, *flags, name=f"headwater-{short}")
                    )
                servers[name] = stack.enter_context(CoreDNS(folder, headwater.grpc_corefile_stanza(), name=short))
            corefile = f"cluster.local:53 {{\n    kubernetes {{\n        kubeconfig {plane.kubeconfig}\n    }}\n}}\n"
            servers["CoreDNS"] = stack.enter_context(CoreDNS(folder, corefile, name="theirs"))
            last = next(item for item in reversed(scale_set(services)) if item.headless)
            name = f"{last.name}.{last.namespace}.svc.cluster.local"
            for server in servers.values():
                wait_until(lambda s=server: s.records(name) == sorted(last.addresses), 60, "the set is served")  # type: ignore[misc]
            yield Bench(plane, {name: server.port for name, server in servers.items()}, scale_set(services))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.propagation", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--services", type=int, default=SERVICES, help="size of the set (default: %(default)s)")
    parser.add_argument("--changes", type=int, default=CHANGES, help="changes to follow (default: %(default)s)")
    parser.add_argument("--storm", type=float, default=STORM, help="updates per second (default: %(default)g)")
    parser.add_argument("--history", action="store_true", help="beside them, a Headwater that keeps no history")
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT", help="beside them, one with its code")
    options = parser.parse_args(arguments)
    if options.services < 1000 or options.changes < 10 or options.storm <= 0:
        parser.error("--services is at least 1000, --changes at least 10, --storm above 0")
    try:
        print(environment("coredns", "kube-apiserver", "etcd"), flush=True)
        with running(options.services, history=options.history, beside=options.beside) as bench:
            print(f"load {os.getloadavg()[0]:.1f}", flush=True)
            quiet, windy, rate = measure(bench, options.changes, options.storm)
    except (PlaneError, TimeoutError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\n{report(tuple(bench.servers), quiet, windy, rate)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
