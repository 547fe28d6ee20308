"""Everything is broken once while a StatefulSet churns: no answer may be wrong, and none lost without need.

A prober asks CoreDNS for every name, 500 times a second; every reply is judged by etcd's own history of the
slices. Each fault is a test of its own; they share plane, churn and prober. `make chaos` runs the long form, whose
table goes into docs/reliability.md; without HEADWATER_CHAOS=long the times are shorter and the faults the same.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import dns.message
import dns.rrset
import psutil
import pytest

from bench.propagation import Slice, Storm
from bench.report import table
from tests.harness.instance import Headwater
from tests.harness.plane import COMPONENTS, Plane, PlaneError
from tests.harness.prober import PROMISED, Chronicle, Query, SteadyProber, Value, Verdict, judge
from tests.harness.processes import CoreDNS, wait_until

pytestmark = [pytest.mark.coredns, pytest.mark.timeout(300)]

LONG: Final = os.environ.get("HEADWATER_CHAOS") == "long"
RESULTS: Final = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"

DOWN: Final = 10.0 if LONG else 3.0  # seconds that the API server, etcd, the disk are away
SILENT: Final = 40.0 if LONG else 5.0  # seconds that the API server says nothing
AFTER: Final = 10.0 if LONG else 4.0  # seconds of probing after a fault's end
CALM: Final = 20.0 if LONG else 5.0  # seconds without a fault, for comparison
STORM: Final = 5000 if LONG else 1000  # slice updates
STORM_RATE: Final = 1000.0  # of them per second at most
SETTLE: Final = 60.0  # seconds

PODS: Final = 200
CHURN: Final = 0.5  # seconds from one churn to the next,
AT_ONCE: Final = 3  # and pods in each: several together exchange their addresses
RATE: Final = 500.0  # questions per second
SERVICES: Final = 50  # with slices that only the storm changes
STATE_MIB: Final = 64  # of the file system that is filled up
ROOM: Final = 50  # Services that need room in the full store
NAMESPACE: Final = "chaos"
ENDPOINTS: Final = 10
GONE: Final = r'headwater_watch_errors_total.*"410"'
#: etcd holds JSON, for the chronicle to read.
FLAGS: Final = {"kube-apiserver": ["--storage-media-type=application/json"]}

STATEFUL: Final = f"""\
apiVersion: v1
kind: Service
metadata: {{name: db}}
spec: {{clusterIP: None, selector: {{app: db}}, ports: [{{name: sql, port: 5432}}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  serviceName: db
  replicas: {PODS}
  podManagementPolicy: Parallel
  selector: {{matchLabels: {{app: db}}}}
  template:
    metadata: {{labels: {{app: db}}}}
    spec: {{terminationGracePeriodSeconds: 0, containers: [{{name: db, image: db}}]}}
"""


def service(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}}


def slice_of(name: str, first: str, endpoints: int = ENDPOINTS) -> dict[str, Any]:
    """A Service's only slice: web-0 with the address first.0, and so on."""
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": [f"{first}.{number}"], "hostname": f"web-{number}", "conditions": {"ready": True}}
            for number in range(endpoints)
        ],
    }


class Churn:
    """Deletes some pods of the set again and again, as long as somebody takes it."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="churn", daemon=True)
        self.deleted = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(CHURN):
            for number in random.sample(range(PODS), AT_ONCE):
                with contextlib.suppress(PlaneError, OSError):
                    self._plane.api("DELETE", f"/api/v1/namespaces/{NAMESPACE}/pods/db-{number}", timeout=2.0)
                    self.deleted += 1


@dataclass
class Seen:
    """One fault: from when to when, and what became of it. Monotonic times."""

    fault: str
    began: float
    ended: float = 0.0
    remark: str = ""
    verdict: Verdict = field(default_factory=Verdict)


@dataclass
class Arena:
    """Everything that runs, and what was seen."""

    plane: Plane
    chronicle: Chronicle
    churn: Churn
    headwater: Headwater
    coredns: CoreDNS
    prober: SteadyProber
    mounted: bool
    seen: list[Seen] = field(default_factory=list)

    def check(self) -> None:
        """The instruments work."""
        assert self.prober.failure is None
        assert self.chronicle.failure is None

    def metric(self, pattern: str) -> float:
        """The sum of the metrics that match."""
        text = self.headwater.admin("/metrics")[1]
        return sum(float(line.split()[-1]) for line in text.splitlines() if re.match(pattern, line))

    def relists(self) -> str:
        """What the API server's absence has cost so far: lists, and answers that a version is gone."""
        lists, gone = self.metric(r"headwater_watch_relists_total\b"), self.metric(GONE)
        return f"{gone:.0f} x 410, {lists:.0f} lists"

    @contextmanager
    def fault(self, name: str) -> Iterator[Seen]:
        """What is broken inside is mended at the end of the block, or when `ended` says; then it is judged."""
        self.check()
        first = len(self.prober.asked)
        seen = Seen(name, time.monotonic())
        yield seen
        seen.ended = seen.ended or time.monotonic()
        wait_until(lambda: time.monotonic() > seen.ended + AFTER, AFTER + 5, "the time after the fault")
        asked = self.prober.asked[first:]
        wait_until(lambda: all(map(finished, asked)), 10, "every question is answered or lost")
        seen.verdict = judge(asked, self.chronicle.history, (seen.began, seen.ended))
        self.seen.append(seen)
        self.check()

    def settled(self) -> None:
        """Wait until what the names are is what DNS says: nothing of an earlier fault is left."""
        wait_until(self._agrees, SETTLE, "all names answer what is true", interval=0.2)

    def _agrees(self) -> bool:
        self.check()
        asked = [item for item in self.prober.asked[-2000:] if item.sent > time.monotonic() - 1.0 and item.reply]
        verdict = judge(asked, self.chronicle.history)
        assert not verdict.wrong(), verdict.wrong()[:3]
        assert len(asked) > 100, f"{len(asked)} replies in a second"
        assert not verdict.refused, f"{len(verdict.refused)} replies are failures: {verdict.refused[0]}"
        return True


def finished(query: Query) -> bool:
    return bool(query.reply) or time.monotonic() > query.sent + 6.5


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system of its own for the state directory, where that is allowed; whether it is."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={STATE_MIB}m", "headwater-chaos", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    folder = tmp_path_factory.mktemp("chaos")
    with ExitStack() as stack:
        plane = stack.enter_context(Plane(folder / "plane", FLAGS))
        plane.api("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        chronicle = stack.enter_context(Chronicle(plane.etcd_port, NAMESPACE))
        chronicle.add("db", [f"db-{number}" for number in range(PODS)])
        plane.kubectl("apply", "-n", NAMESPACE, "-f", "-", stdin=STATEFUL)
        for number in range(SERVICES):
            chronicle.add(f"svc-{number}", ["web-0", "web-9"])
            create(plane, f"svc-{number}", f"11.1.{number}")
        for number in range(ROOM):  # without slices for now
            plane.api("POST", f"/api/v1/namespaces/{NAMESPACE}/services", service(f"room-{number}"))
        everyone = f"db.{NAMESPACE}.svc.cluster.local"
        wait_until(lambda: len(chronicle.now(everyone) or ()) == PODS, SETTLE, f"{PODS} pods with addresses")
        mounted = stack.enter_context(small_disk(folder / "headwater-state"))
        headwater = stack.enter_context(Headwater(folder, "--kubeconfig", plane.kubeconfig))
        coredns = stack.enter_context(CoreDNS(folder, headwater.grpc_corefile_stanza()))
        wait_until(lambda: len(coredns.records(everyone)) == PODS, SETTLE, "the set is served")
        churn = stack.enter_context(Churn(plane))
        prober = stack.enter_context(SteadyProber(coredns.port, chronicle.names, RATE))
        yield Arena(plane, chronicle, churn, headwater, coredns, prober, mounted)


def create(plane: Plane, name: str, first: str) -> None:
    plane.api("POST", f"/api/v1/namespaces/{NAMESPACE}/services", service(name))
    create_slice(plane, name, first)


def create_slice(plane: Plane, name: str, first: str, endpoints: int = ENDPOINTS) -> None:
    path = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
    plane.api("POST", path, slice_of(name, first, endpoints))


def pause(seconds: float) -> None:
    """Let a fault last."""
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= until, seconds + 5, "a fault's time", interval=0.02)


@contextmanager
def restored(plane: Plane) -> Iterator[None]:
    """Whatever a failed test leaves stopped or paused is started for the next one."""
    try:
        yield
    finally:
        for name in COMPONENTS:
            try:
                plane.resume(name)
            except PlaneError:
                plane.start(name)


def wait_for_watches(plane: Plane, revision: int = 0) -> float:
    """The moment from which on the API server takes watches, of slices that are no older than a revision of etcd.

    While its caches are filled, it is ready and says 429; before it notices that etcd has forgotten where it was, it
    serves what it knew.
    """
    slices = "/apis/discovery.k8s.io/v1/endpointslices?resourceVersion=0"

    def taken() -> float:
        asked = time.monotonic()
        known = int(plane.api("GET", f"{slices}&limit=1")["metadata"]["resourceVersion"])
        assert known >= revision, f"the API server knows revision {known} of {revision}"
        with contextlib.suppress(ValueError):  # a stream of events is not one document
            plane.api("GET", f"{slices}&watch=true&timeoutSeconds=1")
        return asked

    return wait_until(taken, SETTLE, "the API server takes watches", interval=0.02, ignoring=(OSError, PlaneError))


# The faults. Each returns when it is over; `seen.ended` says when it was, if that was earlier.


def nothing(arena: Arena, seen: Seen) -> None:
    pause(CALM)


def kill_role(title: str) -> Callable[[Arena, Seen], None]:
    def fault(arena: Arena, seen: Seen) -> None:
        old = arena.headwater.kill9(title)
        wait_until(lambda: arena.headwater.pids().get(title, old) != old, SETTLE, f"{title} runs again", interval=0.005)
        seen.ended = time.monotonic()
        seen.remark = f"runs again after {(seen.ended - seen.began) * 1000:.0f} ms"

    return fault


def kill_supervisor(arena: Arena, seen: Seen) -> None:
    arena.headwater.kill9("supervisor")
    pause(1.0)  # what a kubelet needs
    began = time.monotonic()
    arena.headwater.start()
    seen.ended = time.monotonic()
    seen.remark = f"started anew after 1 s, ready {seen.ended - began:.1f} s later"


def kill_api_server(arena: Arena, seen: Seen) -> None:
    arena.plane.kill("kube-apiserver")
    pause(DOWN)
    arena.plane.start("kube-apiserver")
    seen.ended = wait_for_watches(arena.plane)


def kill_etcd(arena: Arena, seen: Seen) -> None:
    """The API server is held until etcd has forgotten where it was: it lists anew, and so do its clients."""
    plane, gone = arena.plane, arena.metric(GONE)
    plane.kill("etcd")
    pause(DOWN)
    plane.pause("kube-apiserver")
    plane.start("etcd")
    wait_until(arena.chronicle.connected.is_set, SETTLE, "the chronicle goes on")
    wait_until(lambda: plane.etcd_behind() == 0, SETTLE, "the chronicle knows what etcd will forget")
    revision = plane.compact()
    plane.resume("kube-apiserver")
    seen.ended = wait_for_watches(plane, revision)
    wait_until(lambda: arena.metric(GONE) > gone, SETTLE, "a watch gets its 410")


def silence(arena: Arena, seen: Seen) -> None:
    arena.plane.pause("kube-apiserver")
    pause(SILENT)
    arena.plane.resume("kube-apiserver")


def full(arena: Arena, seen: Seen) -> None:
    """No room in the state directory, for a change that needs some."""
    failures = arena.metric("headwater_commit_failures_total")
    fill, way = (fill_disk, "a tmpfs") if arena.mounted else (limit_file, "RLIMIT_FSIZE")
    with fill(arena.headwater):
        for number in range(ROOM):
            create_slice(arena.plane, f"room-{number}", f"11.2.{number}", 100)
        wait_until(
            lambda: arena.metric("headwater_commit_failures_total") > failures, SETTLE, "a commit that found no room"
        )
        pause(DOWN)
        failed = arena.metric("headwater_commit_failures_total") - failures
    seen.ended = time.monotonic()
    seen.remark = f"{way}; {failed:.0f} commits failed"
    wait_until(
        lambda: len(arena.headwater.records(f"room-{ROOM - 1}.{NAMESPACE}.svc.cluster.local")) == 100, SETTLE, "room"
    )


@contextmanager
def fill_disk(headwater: Headwater) -> Iterator[None]:
    ballast = headwater.state_dir / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    yield
    ballast.unlink()


@contextmanager
def limit_file(headwater: Headwater) -> Iterator[None]:
    """Without a file system of our own: the watch process's files may not grow (setrlimit(2))."""
    watch = psutil.Process(headwater.pids()["watch"])
    size = max(file.stat().st_size for file in headwater.state_dir.glob("store-*/data.mdb"))
    before = watch.rlimit(psutil.RLIMIT_FSIZE)
    watch.rlimit(psutil.RLIMIT_FSIZE, (size, before[1]))
    yield
    watch.rlimit(psutil.RLIMIT_FSIZE, before)


def delete_state(arena: Arena, seen: Seen) -> None:
    state = arena.headwater.state_dir
    if arena.mounted:  # a mount point cannot be removed
        subprocess.run(["umount", "-l", str(state)], check=True)
    shutil.rmtree(state)
    wait_until(lambda: (state / "current").exists(), SETTLE, "a new store", interval=0.01)
    seen.ended = time.monotonic()
    seen.remark = f"a new store after {seen.ended - seen.began:.1f} s"


def storm(arena: Arena, seen: Seen) -> None:
    slices = [Slice(NAMESPACE, f"svc-{number}") for number in range(SERVICES)]
    with Storm(arena.plane.kubeconfig, slices, STORM_RATE, total=STORM) as blowing:
        blowing.wait()
    seen.remark = f"{blowing.done:,} updates, {blowing.rate:.0f} per second"


FAULTS: Final[dict[str, Callable[[Arena, Seen], None]]] = {
    "none": nothing,
    "kill -9 of the watch process": kill_role("watch"),
    "kill -9 of answer process 0": kill_role("answer 0"),
    "kill -9 of answer process 1": kill_role("answer 1"),
    "kill -9 of the supervisor": kill_supervisor,
    f"kill -9 of kube-apiserver, {DOWN:g} s": kill_api_server,
    f"kill -9 of etcd, {DOWN:g} s, compacted": kill_etcd,
    f"SIGSTOP of kube-apiserver, {SILENT:g} s": silence,
    f"state directory full, {DOWN:g} s": full,
    f"a storm of {STORM:,} slice updates": storm,
    "state directory deleted": delete_state,
}


@pytest.mark.parametrize("name", FAULTS)
def test_answers_stay_true(arena: Arena, name: str) -> None:
    arena.settled()
    with restored(arena.plane), arena.fault(name) as seen:
        before = arena.relists()
        FAULTS[name](arena, seen)
        if name.startswith(("kill -9 of k", "kill -9 of e", "SIG")):
            wait_until(lambda: arena.metric("headwater_watch_connected") == 3, SETTLE, "all watches are open")
            seen.remark = f"from {before} to {arena.relists()}"
    verdict = seen.verdict
    log = arena.headwater.log.read_text()[-3000:]
    assert verdict.wrong()[:5] == [], log
    # A busy machine asks less; one that asks next to nothing has seen nothing.
    assert verdict.asked > (0.8 if LONG else 0.2) * RATE * (seen.ended + AFTER - seen.began)
    if FAULTS[name] is kill_supervisor:
        assert verdict.answered_again < redial(seen.ended - seen.began), log
    else:
        assert (verdict.lost, verdict.refused[:5]) == (0, []), log


def test_table_of_what_was_seen(arena: Arena, capsys: pytest.CaptureFixture[str]) -> None:
    """The faults that were tested before, as they are found in docs/reliability.md."""
    text = report(arena)
    with capsys.disabled():
        print(f"\n\n{text}\n")
    if LONG and len(arena.seen) == len(FAULTS):
        page = RESULTS.read_text()
        RESULTS.write_text(re.sub(r"(?s)(<!-- chaos -->\n).*(\n<!-- /chaos -->)", rf"\g<1>{text}\g<2>", page))


def redial(away: float) -> float:
    """In how many seconds at most CoreDNS has connected again to what was away for so long.

    grpc-go waits 1 s, then 1.6 times as long each time, up to 120 s, a fifth more or less (its connection back-off);
    the first attempt is made as soon as somebody asks.
    """
    wait, elapsed = 1.0, 0.0
    while elapsed < away:
        elapsed += wait * 0.8
        wait = min(wait * 1.6, 120.0)
    return wait * 1.2 + PROMISED


def report(arena: Arena) -> str:
    rows = []
    for seen in arena.seen:
        verdict = seen.verdict
        wrong = (len(verdict.wrong_nxdomain), len(verdict.never_true), len(verdict.too_old), len(verdict.broken))
        rows.append(
            (
                seen.fault, f"{verdict.asked:,}", f"{verdict.lost + len(verdict.refused)}", *map(str, wrong),
                f"{verdict.oldest:.2f}", f"{max(verdict.right_again, verdict.answered_again):.2f}",
                f"{verdict.slowest * 1000:.0f}", seen.remark,
            )
        )  # fmt: skip
    head = (
        "fault", "questions", "not answered", "wrong NXDOMAIN", "never true", "too old", "broken",
        "oldest, s", "right again, s", "slowest, ms", "seen",
    )  # fmt: skip
    return table(head, rows)


# The judgement itself can fail.

OLD: Final[Value] = frozenset({"10.0.0.1"})
NEW: Final[Value] = frozenset({"10.0.0.2"})
HISTORY: Final[list[tuple[float, Value]]] = [(0.0, OLD), (100.0, None), (101.0, NEW)]


def reply(*addresses: str, rcode: int = 0) -> bytes:
    message = dns.message.make_response(dns.message.make_query("db.chaos.svc.cluster.local", "A"))
    message.set_rcode(rcode)  # type: ignore[arg-type]
    if addresses:
        message.answer.append(dns.rrset.from_text("db.chaos.svc.cluster.local.", 5, "IN", "A", *addresses))
    if rcode == 3:
        soa = "ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"
        message.authority.append(dns.rrset.from_text("cluster.local.", 5, "IN", "SOA", soa))
    return message.to_wire()


@pytest.mark.parametrize(
    ("moment", "wire", "kind"),
    [
        (99.0, reply("10.0.0.1"), ""),
        (101.9, reply("10.0.0.1"), ""),
        (102.1, reply("10.0.0.1"), "too_old"),
        (50.0, reply("10.0.0.2"), "never_true"),
        (50.0, reply(rcode=3), "wrong_nxdomain"),
        (100.5, reply(rcode=3), ""),
        (103.1, reply(rcode=3), "too_old"),
        (150.0, reply("10.0.0.1", "10.0.0.2"), "never_true"),
        (150.0, reply(), "never_true"),
        (150.0, reply(rcode=2), "refused"),
        (150.0, b"", "lost"),
    ],
)
def test_judgement_finds_what_was_not_true(moment: float, wire: bytes, kind: str) -> None:
    verdict = judge([Query("db", moment, moment + 0.001, wire)], lambda _: HISTORY)
    kinds = ("too_old", "never_true", "wrong_nxdomain", "broken", "lost", "refused")
    assert [name for name in kinds if getattr(verdict, name)] == ([kind] if kind else [])


@pytest.mark.parametrize(
    ("moment", "fault", "allowed"),
    [
        (109.0, (99.0, 110.0), True),  # in a fault that began before the change
        (111.9, (99.0, 110.0), True),  # and for PROMISED after it
        (112.1, (99.0, 110.0), False),
        (109.0, (103.0, 110.0), False),  # it was too old before the fault already
        (109.0, (101.5, 110.0), True),
    ],
)
def test_judgement_knows_a_fault(moment: float, fault: tuple[float, float], allowed: bool) -> None:
    verdict = judge([Query("db", moment, moment + 0.001, reply("10.0.0.1"))], lambda _: HISTORY, fault)
    assert bool(verdict.too_old) is not allowed
