"""An arena for faults: a real plane whose pods churn, an instance behind CoreDNS, and a prober.

Every reply to the prober is compared with etcd's own history.

    with staged(folder, "chaos") as stage, Headwater(...) as headwater, CoreDNS(...) as coredns:
        with running(stage, headwater, coredns, after=4.0) as arena:
            with arena.fault("a name") as seen:
                ...  # break something, and mend it
            assert not seen.verdict.wrong()
"""

from __future__ import annotations

import contextlib
import random
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from tests.harness.instance import Headwater
from tests.harness.plane import COMPONENTS, Plane, PlaneError
from tests.harness.prober import Chronicle, Query, SteadyProber, Verdict, judge
from tests.harness.processes import CoreDNS, wait_until

SETTLE: Final = 60.0  # seconds
PODS: Final = 200
CHURN: Final = 0.5  # seconds between two deletions,
AT_ONCE: Final = 3  # and the pods in each: pods that are deleted together exchange their addresses
RATE: Final = 500.0  # questions per second
SERVICES: Final = 50  # whose slices no controller touches
ROOM: Final = 50  # Services without slices, whose slices need room in a full store
ENDPOINTS: Final = 10
STATE_MIB: Final = 64  # of a file system that is filled up
#: A metric: watches that were told that their version is gone.
GONE: Final = r'headwater_watch_errors_total.*"410"'
#: etcd stores JSON, so that the chronicle can read it.
_FLAGS: Final = {"kube-apiserver": ["--storage-media-type=application/json"]}

_STATEFUL: Final = f"""\
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
    """Return a Service's only slice: web-0 with the address first.0, and so on."""
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
    """Deletes some pods of the set again and again, while the API server accepts it."""

    def __init__(self, plane: Plane, namespace: str) -> None:
        self._plane = plane
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._stop = threading.Event()
        self._going = threading.Event()
        self._going.set()
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
                if not self._going.is_set():
                    break
                with contextlib.suppress(PlaneError, OSError):
                    self._plane.api("DELETE", f"{self._pods}/db-{number}", timeout=2.0)
                    self.deleted += 1

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Delete nothing during the block."""
        self._going.clear()
        try:
            yield
        finally:
            self._going.set()


@dataclass
class Seen:
    """One fault: its beginning and end (monotonic times), and the verdict on it."""

    fault: str
    began: float
    holds: bool = True
    """Whether the fault may delay changes. If so, answers may be as old as the fault is long."""
    ended: float = 0.0
    remark: str = ""
    verdict: Verdict = field(default_factory=Verdict)


@dataclass
class Arena:
    """Everything that runs, and what the instruments have seen."""

    stage: Stage
    churn: Churn
    headwater: Headwater
    coredns: CoreDNS
    prober: SteadyProber
    after: float
    """Seconds of probing after a fault's end."""
    seen: list[Seen] = field(default_factory=list)

    def check(self) -> None:
        """Check that the instruments work."""
        assert self.prober.failure is None
        assert self.chronicle.failure is None

    @property
    def plane(self) -> Plane:
        return self.stage.plane

    @property
    def chronicle(self) -> Chronicle:
        return self.stage.chronicle

    def metric(self, pattern: str) -> float:
        """Return the sum of the metrics that match."""
        text = self.headwater.admin("/metrics")[1]
        return sum(float(line.split()[-1]) for line in text.splitlines() if re.match(pattern, line))

    def relists(self) -> str:
        """Describe the cost of the API server's absence so far: lists, and
        replies that a version is gone.
        """
        lists, gone = self.metric(r"headwater_watch_relists_total\b"), self.metric(GONE)
        return f"{gone:.0f} x 410, {lists:.0f} lists"

    @contextmanager
    def fault(self, name: str, *, holds: bool = True) -> Iterator[Seen]:
        """Judge a fault that the block breaks and mends.

        It ends with the block, or when `ended` says.
        """
        self.check()
        first = len(self.prober.asked)
        seen = Seen(name, time.monotonic(), holds)
        yield seen
        seen.ended = seen.ended or time.monotonic()
        wait_until(lambda: time.monotonic() > seen.ended + self.after, self.after + 5, "the time after the fault")
        asked = self.prober.asked[first:]
        wait_until(lambda: all(map(finished, asked)), 10, "every question is answered or lost")
        seen.verdict = judge(asked, self.chronicle.history, (seen.began, seen.ended), holds=holds)
        self.seen.append(seen)
        self.check()

    def settled(self) -> None:
        """Wait until DNS has the true answers, so that no effect of an earlier fault is left."""
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
    """Mount a separate file system for the state directory if allowed. Yield whether it is."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={STATE_MIB}m", "headwater-state", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


@dataclass(frozen=True)
class Stage:
    """A plane with a namespace full of Services, and the chronicle of these."""

    plane: Plane
    namespace: str
    chronicle: Chronicle

    @property
    def everyone(self) -> str:
        """The name of the headless Service, which has all pods of the set."""
        return self.qname("db")

    def qname(self, service: str) -> str:
        return f"{service}.{self.namespace}.svc.cluster.local"

    def create(self, name: str, first: str) -> None:
        self.plane.api("POST", f"/api/v1/namespaces/{self.namespace}/services", service(name))
        self.create_slice(name, first)

    def create_slice(self, name: str, first: str, endpoints: int = ENDPOINTS) -> None:
        self.plane.api("POST", self.slices, slice_of(name, first, endpoints))

    @property
    def slices(self) -> str:
        """The path of the namespace's slices in the API."""
        return f"/apis/discovery.k8s.io/v1/namespaces/{self.namespace}/endpointslices"


@contextmanager
def staged(folder: Path, namespace: str) -> Iterator[Stage]:
    """Start the plane, and fill it."""
    with Plane(folder, _FLAGS) as plane:
        plane.api("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        with Chronicle(plane.etcd_port, namespace) as chronicle:
            stage = Stage(plane, namespace, chronicle)
            chronicle.add("db", [f"db-{number}" for number in range(PODS)])
            plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=_STATEFUL)
            for number in range(SERVICES):
                chronicle.add(f"svc-{number}", ["web-0", "web-9"])
                stage.create(f"svc-{number}", f"11.1.{number}")
            for number in range(ROOM):  # without slices for now
                plane.api("POST", f"/api/v1/namespaces/{namespace}/services", service(f"room-{number}"))
            wait_until(lambda: len(chronicle.now(stage.everyone) or ()) == PODS, SETTLE, f"{PODS} pods with addresses")
            yield stage


@contextmanager
def running(stage: Stage, headwater: Headwater, coredns: CoreDNS, *, after: float) -> Iterator[Arena]:
    """Run the churn and the prober; begin when the set is served."""
    wait_until(lambda: len(coredns.records(stage.everyone)) == PODS, SETTLE, "the set is served")
    with (
        Churn(stage.plane, stage.namespace) as churn,
        SteadyProber(coredns.port, stage.chronicle.names, RATE) as prober,
    ):
        yield Arena(stage, churn, headwater, coredns, prober, after)


def pause(seconds: float) -> None:
    """Let a fault last."""
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= until, seconds + 5, "a fault's time", interval=0.02)


@contextmanager
def restored(plane: Plane) -> Iterator[None]:
    """Start again what a failed test has left stopped or paused."""
    try:
        yield
    finally:
        for name in COMPONENTS:
            try:
                plane.resume(name)
            except PlaneError:
                plane.start(name)


def wait_for_watches(plane: Plane, revision: int = 0) -> float:
    """Wait until the API server accepts watches of slices as of an etcd revision.

    Return the moment. While it fills its caches, it says that it is ready and replies 429. Until it
    notices that etcd was compacted beyond its own revision, it serves old objects.
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


@contextmanager
def fill_disk(headwater: Headwater) -> Iterator[None]:
    ballast = headwater.state_dir / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    yield
    ballast.unlink()
