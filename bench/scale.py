"""Measure a start with the whole set, for Headwater and for CoreDNS's `kubernetes` plugin.

    python -m bench.scale [--services 10000] [--kubeconfig F] [--runs 3] [--by-kubeconfig]

Both start on the same API server with nothing stored, one after the other, and alternate in going
first. `ready` is the time from exec to the first right answer over UDP for the last name of the
set, with all its addresses. (Headwater answers through its `--dns` listener, which listens before
the answers exist.) Some seconds later, at rest, CPU and memory are read.

Every run starts each of them twice: once for the times, and once with a sample of its memory every
50 ms, for the peak.

As root both find the API server as a pod does: by its environment, with a service account's files
at their place, in a mount namespace of their own. Otherwise, or with `--by-kubeconfig`, both read a
kubeconfig. Headwater then loads more of the `kubernetes` package: 0.2 CPU-s.

The CPU "of the watch process after its imports" is its CPU at rest without that of `import
headwater.cluster.api` (the `kubernetes` package). It imports nothing else itself, because the other
modules are loaded before the fork. The import is measured separately, once per run, in a process
that has imported the other modules before.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import itertools
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import dns.exception
import dns.message
import dns.rdatatype
import yaml

from bench.processes import MIB, Memory, Sampler, cpu, memory, title, tree
from bench.report import environment, goal, spread, table
from tests.harness.load import SERVICES, ScaleService, load, scale_set
from tests.harness.plane import Plane, PlaneError, Running, find_tool, free_port

Server = Literal["CoreDNS", "Headwater"]

#: How long from the first answer until a process counts as at rest, in seconds.
SETTLE = 4.0
#: How long a server may take to its first answer, in seconds.
_PATIENCE = 120.0
#: How often the last name is asked for, in seconds.
_ASK_EVERY = 0.01

# The goals: ratios to CoreDNS, and MiB.
CPU_GOAL, READY_GOAL, MEMORY_GOAL, FILE_GOAL = 1.5, 1.5, 150, 150

_COREFILE = """\
.:{port} {{
    bind 127.0.0.1
    errors
    kubernetes cluster.local {{
        {kubeconfig}
    }}
}}
"""
_IMPORT = """\
import sys, time, headwater.serve.process, headwater.writer.process
began = time.process_time()
import headwater.cluster.api
if sys.argv[1:]:
    import headwater.cluster.plugins
print(time.process_time() - began)
"""
#: Runs a command as in a pod: with a service account's files at their place, which nobody else
#: sees. It gets the CA, the token, and the command.
_AS_IN_A_POD = """\
set -e
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/secrets/kubernetes.io/serviceaccount
cp "$1" /run/secrets/kubernetes.io/serviceaccount/ca.crt
cp "$2" /run/secrets/kubernetes.io/serviceaccount/token
shift 2
exec "$@"
"""


@dataclass
class Figures:
    """The figures of one server: one entry per run."""

    ready: list[float] = field(default_factory=list)
    cpu_at_ready: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """CPU seconds of all processes, at rest."""
    cpu_of_watch: list[float] = field(default_factory=list)
    resting: list[Memory] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)
    peak_without_store: list[int] = field(default_factory=list)
    peak_rss: list[int] = field(default_factory=list)
    file: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Question:
    """The question that is repeated: the last headless Service, with all its addresses."""

    service: ScaleService

    def wire(self) -> bytes:
        name = f"{self.service.name}.{self.service.namespace}.svc.cluster.local."
        return dns.message.make_query(name, "A", use_edns=0, payload=4096).to_wire()

    def is_answered_by(self, reply: bytes) -> bool:
        try:
            answer = dns.message.from_wire(reply).answer
        except dns.exception.DNSException:
            return False
        found = {rdata.to_text() for rrset in answer if rrset.rdtype == dns.rdatatype.A for rdata in rrset}
        return found == set(self.service.addresses)


def wait_for_answer(port: int, question: Question, server: Running) -> float:
    """Return the moment (time.monotonic) of the first right answer on a loopback UDP port.

    All replies that have come are read before the next question: those that waited in the socket
    until it was read are answered together, and wrong.
    """
    wire = question.wire()
    deadline = time.monotonic() + _PATIENCE
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(("127.0.0.1", port))
        for number in itertools.count():
            server.require_running()
            now = time.monotonic()
            if now > deadline:
                break
            until = now + _ASK_EVERY
            with contextlib.suppress(ConnectionRefusedError):
                asking.send((number % 0x10000).to_bytes(2, "big") + wire[2:])
            while (left := until - time.monotonic()) > 0:
                asking.settimeout(left)
                with contextlib.suppress(ConnectionRefusedError, TimeoutError):
                    reply, now = asking.recv(65535), time.monotonic()
                    if question.is_answered_by(reply):
                        return now
    raise PlaneError(f"{server.name}: no right answer within {_PATIENCE:g} s; its log ends with:\n{server.log_tail()}")


def start(
    which: Server,
    folder: Path,
    kubeconfig: Path,
    port: int,
    *flags: str,
    program: Path | None = None,
    pod: bool = False,
) -> Running:
    """Start CoreDNS, or Headwater on an empty state with more flags, on a loopback port.

    `program` is another `headwater` than this environment's. `pod`: it finds the API server as in a
    pod.
    """
    if which == "CoreDNS":
        corefile = folder / "Corefile"
        corefile.write_text(_COREFILE.format(port=port, kubeconfig="" if pod else f"kubeconfig {kubeconfig}"))
        command: list[str | Path] = [find_tool("coredns"), "-conf", corefile]
    else:
        known: list[str | Path] = [] if pod else ["--kubeconfig", kubeconfig]
        command = [
            program or Path(sys.executable).with_name("headwater"), "serve",
            *known, "--state-dir", folder / "state",
            "--listen", f"unix:{folder / 'dns.sock'}", "--dns", f"127.0.0.1:{port}", "--admin", "off", *flags,
        ]  # fmt: skip
    log = folder / f"{which.lower()}.process.log"
    if not pod:
        return Running(which, command, log, cwd=folder)
    config = yaml.safe_load(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    ca, token = folder / "ca.crt", folder / "token"
    ca.write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
    token.write_text(user["token"])
    server = urlsplit(cluster["server"])
    env = {"KUBERNETES_SERVICE_HOST": str(server.hostname), "KUBERNETES_SERVICE_PORT": str(server.port)}
    wrapped = ["unshare", "--mount", "sh", "-c", _AS_IN_A_POD, "sh", ca, token, *command]
    return Running(which, wrapped, log, cwd=folder, env=env)


def run_once(
    which: Server, kubeconfig: Path, question: Question, figures: Figures, *, sampled: bool, pod: bool = False
) -> None:
    """Start a server, wait until it is at rest, take its figures, and stop it."""
    folder = Path(tempfile.mkdtemp(prefix="headwater-scale-"))
    try:
        port = free_port()
        began = time.monotonic()
        with start(which, folder, kubeconfig, port, pod=pod) as server:
            if sampled:
                with Sampler(server.pid) as sampler:
                    wait_for_answer(port, question, server)
                    time.sleep(SETTLE)
                figures.peak.append(sampler.peak)
                figures.peak_without_store.append(sampler.peak_without_store)
                figures.peak_rss.append(sampler.peak_rss)
                return
            figures.ready.append(wait_for_answer(port, question, server) - began)
            figures.cpu_at_ready.append(cpu(tree(server.pid)))
            time.sleep(SETTLE)
            processes = tree(server.pid)
            figures.cpu.append(cpu(processes))
            figures.cpu_of_watch.append(cpu([process for process in processes if title(process) == "headwater: watch"]))
            figures.resting.append(memory(processes))
            figures.file.append(sum(file.stat().st_size for file in folder.glob("state/store-*/data.mdb")))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def import_cpu(*, pod: bool) -> float:
    """Return the CPU seconds of the watch process's own imports."""
    command = [sys.executable, "-c", _IMPORT, *([] if pod else ["kubeconfig"])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure(
    kubeconfig: Path, services: int, runs: int, *, pod: bool = False
) -> tuple[dict[Server, Figures], list[float]]:
    """Return both servers' figures, and the cost of the watch process's import, `runs` times."""
    question = Question(next(service for service in reversed(scale_set(services)) if service.headless))
    both: tuple[Server, ...] = ("CoreDNS", "Headwater")
    figures: dict[Server, Figures] = {name: Figures() for name in both}
    imports: list[float] = []
    for run in range(runs):
        imports.append(import_cpu(pod=pod))
        for sampled in (False, True):
            for which in both if run % 2 == 0 else both[::-1]:
                run_once(which, kubeconfig, question, figures[which], sampled=sampled, pod=pod)
        mine, theirs = figures["Headwater"], figures["CoreDNS"]
        print(
            f"run {run + 1} of {runs}: ready {mine.ready[-1]:.2f} s (CoreDNS {theirs.ready[-1]:.2f}),"
            f" CPU {mine.cpu[-1]:.2f} s (CoreDNS {theirs.cpu[-1]:.2f})",
            flush=True,
        )
    return figures, imports


def report(figures: dict[Server, Figures], imports: Sequence[float]) -> str:
    """Return the tables."""
    mine, theirs = figures["Headwater"], figures["CoreDNS"]
    watch = [total - own for total, own in zip(mine.cpu_of_watch, imports, strict=True)]

    def seconds(what: str, ours: Sequence[float], other: Sequence[float]) -> tuple[str, ...]:
        ratio = statistics.median(ours) / statistics.median(other)
        return what, spread(ours, 2), spread(other, 2), f"{ratio:.2f}"

    def mib(what: str, ours: Sequence[int], other: Sequence[int] | None) -> tuple[str, ...]:
        scaled = [value / MIB for value in ours]
        if other is None:
            return what, spread(scaled), "", ""
        ratio = statistics.median(ours) / statistics.median(other)
        return what, spread(scaled), spread([value / MIB for value in other]), f"{ratio:.2f}"

    rows = [
        seconds("exec to ready, s", mine.ready, theirs.ready),
        seconds("CPU, watch process after its imports, s", watch, theirs.cpu),
        seconds("CPU, all processes, at ready, s", mine.cpu_at_ready, theirs.cpu_at_ready),
        seconds("CPU, all processes, at rest, s", mine.cpu, theirs.cpu),
        mib("private memory at rest, MiB", [m.private for m in mine.resting], [m.private for m in theirs.resting]),
        mib("- without the store file's pages", [m.private - m.store for m in mine.resting], None),
        mib("private memory, peak, MiB", mine.peak, theirs.peak),
        mib("- without the store file's pages", mine.peak_without_store, None),
        mib("PSS at rest, MiB", [m.pss for m in mine.resting], [m.pss for m in theirs.resting]),
        mib("RSS at rest, MiB", [m.rss for m in mine.resting], [m.rss for m in theirs.resting]),
        mib("RSS, peak, MiB", mine.peak_rss, theirs.peak_rss),
        mib("store file, MiB", mine.file, None),
    ]
    median = statistics.median
    goals = [
        ("CPU of the watch process, x CoreDNS's", goal(median(watch) / median(theirs.cpu), CPU_GOAL)),
        ("exec to ready, x CoreDNS's", goal(median(mine.ready) / median(theirs.ready), READY_GOAL)),
        ("private memory, peak", goal(median(mine.peak) / MIB, MEMORY_GOAL, " MiB", 1)),
        ("- without the store file's pages", goal(median(mine.peak_without_store) / MIB, MEMORY_GOAL, " MiB", 1)),
        ("store file", goal(median(mine.file) / MIB, FILE_GOAL, " MiB", 1)),
    ]
    return "\n".join(
        (
            table(("", "Headwater", "CoreDNS", "ratio"), rows),
            f"(the import of the watch process: {spread(imports, 2)} CPU-s; at rest: {SETTLE:g} s after ready)",
            "",
            table(("goal", "seen"), goals),
        )
    )


@contextmanager
def loaded(kubeconfig: Path | None, services: int) -> Iterator[Path]:
    """Yield the kubeconfig of an API server with the set; start one unless it is given."""
    if kubeconfig is not None:
        yield kubeconfig.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="headwater-scale-plane-"))
    try:
        with Plane(folder) as plane:
            print(f"loading {services:,} services ...", flush=True)
            done = load(plane.kubeconfig, services, progress=lambda line: print(f"  {line}", flush=True))
            print(f"{done.services:,} services, {done.slices:,} slices, {done.endpoints:,} endpoints", flush=True)
            yield plane.kubeconfig
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def add_way(parser: argparse.ArgumentParser) -> None:
    """Let who runs it say how servers find the API server; see `as_in_a_pod`."""
    parser.add_argument("--by-kubeconfig", action="store_true", help="all read a kubeconfig, also as root")


def as_in_a_pod(options: argparse.Namespace) -> bool:
    """Whether they find it as in a pod, which root alone can arrange; it is printed."""
    pod = os.geteuid() == 0 and not options.by_kubeconfig
    print(f"the API server is found {'as in a pod' if pod else 'by a kubeconfig'}", flush=True)
    return pod


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--services", type=int, default=SERVICES, help="size of the set (default: %(default)s)")
    parser.add_argument("--kubeconfig", type=Path, help="an API server that has the set already (default: start one)")
    parser.add_argument("--runs", type=int, default=3, help="how often each is started (default: %(default)s)")
    add_way(parser)
    options = parser.parse_args(arguments)
    if options.services < 2 or options.runs < 1:
        parser.error("--services is at least 2, --runs at least 1")
    try:
        print(environment("coredns", "kube-apiserver", "etcd"), flush=True)
        with loaded(options.kubeconfig, options.services) as kubeconfig:
            figures, imports = measure(kubeconfig, options.services, options.runs, pod=as_in_a_pod(options))
    except (PlaneError, TimeoutError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\n{report(figures, imports)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
