"""Measure the way of one change through the watch process, from its bytes to its commit.

    python -m bench.change [--services 3000] [--changes 300] [--pause 0.02] [--beside CHECKOUT]

The process's own threads do the work: a follower reads the lines of a watch from a socket, as it
reads an API server's without TLS and HTTP, and the main thread waits. Between two changes all
sleep, so caches are as cold as the machine's other work makes them. The lines of the table are the
parts of the way, in the order in which they come: the wake-up of the thread that reads; decoding,
and what is between the threads; the transaction up to its commit.

`--beside` measures the code of another checkout too, a round of each in turn, because a machine is
never quiet for long. Times under load say little; the processor's time per change says more.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from bench.report import environment, table

_PARTS: Final = ("the thread wakes up", "to the transaction", "the transaction", "all", "processor's time")
_ROUNDS: Final = 4
_ENDPOINTS: Final = 10


class Wire:
    """In the place of an API server: what is sent into a socket are the lines of the watch."""

    confirmed = True
    """That it is the same cluster."""

    def __init__(self) -> None:
        self.end, theirs = socket.socketpair()
        self._lines = theirs.makefile("rb")
        self.woke = 0.0

    def watch(self, *_: object, **__: object) -> Iterator[bytes]:
        for line in self._lines:
            self.woke = time.perf_counter()
            yield line


def addresses(service: int) -> list[str]:
    return [f"10.{service >> 8 & 255}.{service & 255}.{number}" for number in range(_ENDPOINTS)]


def line(service: int, version: int) -> bytes:
    """The event of a slice of which one endpoint has moved."""
    moved = version % _ENDPOINTS
    endpoints = [
        {
            "addresses": [f"11.{version >> 16 & 255}.{version >> 8 & 255}.{version & 255}" if at == moved else text],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "hostname": f"web-{at}",
            "targetRef": {"kind": "Pod", "namespace": f"ns-{service % 100}", "name": f"web-{at}", "uid": "u" * 36},
            "nodeName": "node-1",
            "zone": "zone-a",
        }
        for at, text in enumerate(addresses(service))
    ]
    meta = {
        "name": f"svc-{service}-0",
        "namespace": f"ns-{service % 100}",
        "resourceVersion": str(version),
        "labels": {"kubernetes.io/service-name": f"svc-{service}"},
    }
    ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
    item = {"kind": "EndpointSlice", "metadata": meta, "addressType": "IPv4", "endpoints": endpoints, "ports": ports}
    return json.dumps({"type": "MODIFIED", "object": item}).encode() + b"\n"


def measure(services: int, changes: int, pause: float) -> list[list[float]]:
    """Microseconds of each change, by the parts of its way."""
    # Here, because another checkout's are measured by a process of their own.
    from headwater.cluster.changes import ListComplete, ListPageArrived
    from headwater.cluster.follower import Follower
    from headwater.cluster.objects import Decoded, Endpoint, EndpointSlice, Namespace, Port, Service
    from headwater.cluster.recognition import Recognition
    from headwater.cluster.reflector import Reflector
    from headwater.settings.settings import Settings
    from headwater.store.environment import Store
    from headwater.store.identity import Identity
    from headwater.writer.process import Watcher

    class Timed(Store):
        """Notes when its transactions begin and end."""

        began = ended = 0.0
        done = threading.Event()

        def write(self, work: Any) -> Any:
            self.began = time.perf_counter()
            try:
                return super().write(work)
            finally:
                self.ended = time.perf_counter()
                self.done.set()

    ports = (Port("http", "TCP", 8080),)
    with tempfile.TemporaryDirectory(prefix="headwater-change-") as name:
        store, _ = Timed.open(Path(name), Identity("bench", ""))
        assert isinstance(store, Timed)
        watcher = Watcher(Settings(state_dir=name), store)
        lists: tuple[tuple[Any, list[Any]], ...] = (
            ("namespaces", [Namespace(f"ns-{number}") for number in range(100)]),
            ("services", [Service(f"ns-{at % 100}", f"svc-{at}", "ClusterIP", True, (), "", ports) for at in range(services)]),  # noqa: E501
            ("endpointslices", [
                EndpointSlice(
                    f"ns-{number % 100}", f"svc-{number}-0", f"svc-{number}", ports,
                    tuple(Endpoint((text,), 3, f"web-{at}", f"web-{at}") for at, text in enumerate(addresses(number))),
                )
                for number in range(services)
            ]),
        )  # fmt: skip
        inbox = watcher._inbox
        for resource, objects in lists:
            inbox.changes.put(ListPageArrived(resource, [Decoded(item, "1") for item in objects], first=True))
            inbox.changes.put(ListComplete(resource, "1"))
        while not watcher.ledger.ready:
            watcher.step()
        wire = Wire()
        follower = Follower("endpointslices", Reflector("1", time.monotonic), wire, inbox, Recognition(Path(name)))  # type: ignore[arg-type]
        loop = threading.Thread(target=watcher.loop)
        for thread in (loop, threading.Thread(target=follower.run, daemon=True)):
            thread.start()
        found: list[list[float]] = [[] for _ in _PARTS]
        for version in range(1000, 1000 + changes):
            time.sleep(random.uniform(0.5, 1.5) * pause)
            event = line(random.randrange(services), version)
            store.done.clear()
            worked, sent = time.process_time(), time.perf_counter()
            wire.end.sendall(event)
            if not store.done.wait(10):
                raise TimeoutError("no commit in 10 s")
            took = (wire.woke - sent, store.began - wire.woke, store.ended - store.began, store.ended - sent)
            time.sleep(pause / 4)  # what is done after the commit counts too
            for mine, seconds in zip(found, (*took, time.process_time() - worked), strict=True):
                mine.append(seconds * 1e6)
        watcher.stopping.set()
        loop.join()
    return found


def of_checkout(checkout: Path | None, arguments: Sequence[str]) -> list[list[float]]:
    """The same, by a process with the code of a checkout; None: what is installed."""
    env = dict(os.environ)
    if checkout is not None:
        env["PYTHONPATH"] = os.pathsep.join((str(checkout / "backend"), os.getcwd()))  # noqa: PTH109
    command = [sys.executable, "-m", "bench.change", "--raw", *arguments]
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE)
    found: list[list[float]] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.change", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--services", type=int, default=3000, help="(default: %(default)s)")
    parser.add_argument("--changes", type=int, default=300, help="of each code (default: %(default)s)")
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between two (default: %(default)g)")
    parser.add_argument("--beside", type=Path, metavar="CHECKOUT", help="measure its code too")
    parser.add_argument("--raw", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.raw:
        found = measure(options.services, options.changes, options.pause)
        print(json.dumps(found), flush=True)
        os._exit(0)  # its threads wait for ever
    print(environment())
    checkouts = {"this": None} | ({"before": options.beside.resolve()} if options.beside is not None else {})
    each = str(max(1, options.changes // _ROUNDS))
    arguments = ["--services", str(options.services), "--changes", each, "--pause", str(options.pause)]
    results: dict[str, list[list[float]]] = {name: [[] for _ in _PARTS] for name in checkouts}
    for _ in range(_ROUNDS):
        for name, checkout in checkouts.items():
            for mine, more in zip(results[name], of_checkout(checkout, arguments), strict=True):
                mine += more
    rows = []
    for at, part in enumerate(_PARTS):
        for name, values in results.items():
            low, middle, high = statistics.quantiles(values[at], n=4)
            rows.append((part, name, f"{middle:,.0f}", f"{low:,.0f}", f"{high:,.0f}"))
    print(table(("microseconds", "code", "median", "25 %", "75 %"), rows))


if __name__ == "__main__":
    main()
