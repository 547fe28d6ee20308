"""The besieged instance, and everything that must hold after each fault besides true answers."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Self

import psutil
from headwater.cluster.objects import Resource
from headwater.writer import host

from tests.fakeapi.reader import contents, differences, fresh, identity_of
from tests.fakeapi.truth import Snapshot, Stored, Truth, stored
from tests.harness.arena import SETTLE, Arena, pause
from tests.harness.instance import Headwater
from tests.harness.pki import Pki
from tests.harness.plane import Plane, PlaneError
from tests.harness.processes import wait_until

#: The most memory of each process, and the most bytes of log during one fault.
MEMORY: Final = 192 << 20
LOG: Final = 64 << 10
DESCRIPTORS: Final = 256
#: The most additional descriptors, in all processes together, when everything is over.
LEFT_OPEN: Final = 24
NEEDED: Final[tuple[Resource, ...]] = ("namespaces", "services", "endpointslices")
CANARY: Final = "canary"
MERGE: Final = "application/merge-patch+json"


class Kubeconfig:
    """The file with the instance's credentials: with the right CA, or spoilt."""

    def __init__(self, plane: Plane, file: Path) -> None:
        self.file = file
        self._plane = plane
        self._authority = plane.authority()
        self._spoilt: dict[str, str] = {}
        self._write()

    def trust(self, authority: bytes) -> None:
        self._authority = authority
        self._write()

    def spoil(self, who: str, how: str) -> None:
        """Spoil the file:

        `how` is empty, half, or a folder. It stays so until the same `who` mends it.
        """
        self._spoilt[who] = how
        self._write()

    def mend(self, who: str) -> None:
        del self._spoilt[who]
        self._write()

    def _write(self) -> None:
        text = self._plane.kubeconfig_text(self._authority)
        if self.file.is_dir():
            self.file.rmdir()
        spoilt = next(iter(self._spoilt.values()), "")
        if spoilt == "a folder":  # because root can read whatever the permissions are
            self.file.unlink(missing_ok=True)
            self.file.mkdir()
        else:  # in place, as `cp` does, not by a rename
            self.file.write_text({"": text, "empty": "", "half": text[: len(text) // 2]}[spoilt])


class Gauge:
    """The most memory and descriptors that any process of the instance has used."""

    def __init__(self, headwater: Headwater) -> None:
        self._headwater = headwater
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gauge", daemon=True)
        self.memory = 0
        self.descriptors = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def reset(self) -> None:
        self.memory = self.descriptors = 0

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            with contextlib.suppress(psutil.Error, PlaneError):
                for process in self._headwater.family():
                    with contextlib.suppress(psutil.Error):
                        self.memory = max(self.memory, process.memory_info().rss)
                        self.descriptors = max(self.descriptors, process.num_fds())


@dataclass
class Note:
    """Facts on a fault that the judge needs."""

    remarks: list[str] = field(default_factory=list)
    hung: list[tuple[float, float]] = field(default_factory=list)
    """Periods without both answer processes, when questions may remain unanswered. Monotonic."""
    damaged: list[tuple[float, float]] = field(default_factory=list)
    """Periods in which names may be SERVFAIL, because their page of the store is damaged."""
    waited: float = 0.0
    """The longest wait of a client that must not be kept out, in seconds."""
    proofs: list[Proof] = field(default_factory=list)
    """What must have happened by the end to prove that the fault took place."""


@dataclass
class Proof:
    """A proof: a metric that has to rise."""

    pattern: str
    before: float
    least: float = 1.0


@dataclass
class Ground:
    """The arena, and the facts that the faults need."""

    arena: Arena
    kubeconfig: Kubeconfig
    pki: Pki
    gauge: Gauge
    folder: Path
    supervisor: int = 0
    descriptors: int = 0
    log_size: int = 0
    turns: int = 0
    """A counter for objects that must be new each time."""

    @property
    def headwater(self) -> Headwater:
        return self.arena.headwater

    @property
    def plane(self) -> Plane:
        return self.arena.plane

    def turn(self) -> int:
        self.turns += 1
        return self.turns

    def complete_pids(self) -> dict[str, int]:
        """Wait until every role is up. Return their process ids."""
        wait_until(self.headwater.is_complete, SETTLE, "every process is up", ignoring=(OSError,))
        return self.headwater.pids()

    def rises(self, pattern: str, least: float = 1.0) -> Proof:
        return Proof(pattern, self.arena.metric(pattern), least)

    def risen(self, proof: Proof) -> float:
        return self.arena.metric(proof.pattern) - proof.before

    def begin(self) -> None:
        """Remember the state before a fault."""
        pids = self.complete_pids()
        if not self.supervisor:
            self.supervisor = pids["supervisor"]
            self.descriptors = self._open_descriptors()
        self.gauge.reset()
        self.log_size = self.headwater.log.stat().st_size

    def _open_descriptors(self) -> int:
        total = 0
        for process in self.headwater.family():
            with contextlib.suppress(psutil.Error):
                total += process.num_fds()
        return total

    def recovered(self) -> bool:
        """Return whether every process is up, every watch is open, and a change is served."""
        assert self.headwater.admin("/healthz") == (200, "ok\n")
        assert self.headwater.is_complete()
        assert self.headwater.admin("/readyz")[0] == 200
        assert self.arena.metric("headwater_watch_connected") == len(NEEDED)
        return self._change_is_served()

    def _change_is_served(self) -> bool:
        stage, number = self.arena.stage, self.turn()
        address = f"11.9.{number >> 8 & 255}.{number & 255}"
        endpoints = {"endpoints": [{"addresses": [address], "hostname": "only", "conditions": {"ready": True}}]}
        self.plane.api("PATCH", f"{stage.slices}/{CANARY}", endpoints, content_type=MERGE, timeout=2.0)
        try:
            wait_until(
                lambda: self.arena.coredns.records(stage.qname(CANARY)) == [address],
                1.0, "a change is served", interval=0.02,
            )  # fmt: skip
        except TimeoutError:
            return False
        return True

    def check(self) -> list[str]:
        """Return what is wrong when everything is over."""
        wrong = []
        if not self.headwater.process.running or self.headwater.process.pid != self.supervisor:
            wrong.append("the supervisor is another one")
        if self.headwater.admin("/readyz")[0] != 200:
            wrong.append(f"/readyz: {self.headwater.admin('/readyz')}")
        for what, problem in (
            ("the store is what the API server has", self._store_differs),
            ("no zombie is left", self._zombies),
            ("descriptors are closed", self._left_open),
        ):
            found = _until_nothing(problem)
            if found:
                wrong.append(f"{what}: NOT SO: {len(found)}, such as {found[0][:200]}")
        if self.gauge.memory > MEMORY:
            wrong.append(f"a process took {self.gauge.memory >> 20} MiB")
        if self.gauge.descriptors > DESCRIPTORS:
            wrong.append(f"a process had {self.gauge.descriptors} descriptors")
        if self.logged() > LOG:
            wrong.append(f"{self.logged():,} bytes of log")
        if "Traceback" in self.said():
            wrong.append("a traceback in the log")
        return wrong

    def logged(self) -> int:
        """Return the number of bytes of log since `begin`."""
        return self.headwater.log.stat().st_size - self.log_size

    def said(self) -> str:
        """Return the log since `begin`."""
        with self.headwater.log.open("rb") as file:
            file.seek(self.log_size)
            return file.read().decode(errors="replace")

    def _zombies(self) -> list[str]:
        found = []
        for process in self.headwater.family():
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE:
                    found.append(f"{process.pid} {process.name()}")
        return found

    def _left_open(self) -> list[str]:
        more = self._open_descriptors() - self.descriptors
        return [f"{more} more than at the beginning"] if more > LEFT_OPEN else []

    def _store_differs(self) -> list[str]:
        """Return the differences, byte by byte, between the store and
        one that a fresh list fills.
        """
        settings = self.headwater.settings
        identity = identity_of(settings)
        with self.arena.churn.resting(), TemporaryDirectory(dir=self.folder) as name:
            copy = Path(name) / "state"
            truth = Listed(self.plane)
            shutil.copytree(settings.state_dir, copy, symlinks=True, ignore=shutil.ignore_patterns("*.sock", "ballast"))
            expected = fresh(settings, identity, truth, host.of_this_host())
            return differences(contents(copy, identity), expected)


def _until_nothing(problem: Callable[[], list[str]], seconds: float = 15.0) -> list[str]:
    """Wait until a problem is gone; return what is left of it.

    A torn copy or a refusal is one too.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            found: list[str] = problem()
        except (AssertionError, OSError, PlaneError, shutil.Error) as error:
            found = [f"{type(error).__name__}: {error}"]
        if not found or time.monotonic() > deadline:
            return found
        pause(0.3)


class Listed(Truth):
    """The current objects of the API server."""

    _PATHS: Final = {
        "namespaces": "/api/v1/namespaces",
        "services": "/api/v1/services",
        "endpointslices": "/apis/discovery.k8s.io/v1/endpointslices",
    }

    def __init__(self, plane: Plane) -> None:
        super().__init__()
        self._lists: dict[str, Snapshot] = {}
        for resource, path in self._PATHS.items():
            found = plane.api("GET", path)
            items = [_as_stored(item) for item in found["items"]]
            self._lists[resource] = Snapshot(int(found["metadata"]["resourceVersion"]), items)

    def snapshot(self, resource: Resource) -> Snapshot:
        return self._lists[resource]


def _as_stored(item: dict[str, Any]) -> Stored:
    return stored(item, int(item["metadata"]["resourceVersion"]))
