"""A tenant creates everything that the API server accepts; another's
changes must be served meanwhile.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests import hostile
from tests.harness.instance import Headwater
from tests.harness.plane import Plane
from tests.harness.processes import wait_until

VICTIM: Final = "victim"
NAME: Final = f"web.{VICTIM}.svc.cluster.local"
SLICES: Final = f"/apis/discovery.k8s.io/v1/namespaces/{VICTIM}/endpointslices"
MERGE: Final = "application/merge-patch+json"
#: How long the tenant goes on, in seconds.
SIEGE: Final = 20.0
SETTLE: Final = 30.0
#: How much longer 99 of 100 changes may take than in an instance that leaves the tenant's namespace
#: out, in seconds of work. Both share the machine, and so the load of the API server.
SERVED: Final = 0.25
#: Seconds of the work that measures how busy the machine is.
WORK: Final = 0.01
#: The most memory of the watch process, and bytes of the store's file.
MEMORY: Final = 300 << 20
FILE: Final = 200 << 20
#: Sizes of kinds with many objects: fewer here, to spare the API server.
FEWER: Final = {"other_ports_in_each_slice": 150, "small_slices": 150, "many_services": 150}


class Tenant:
    """The owner of a namespace, who edits the most expensive object of
    each kind as fast as possible.
    """

    def __init__(self, plane: Plane, namespace: str) -> None:
        self._plane = plane
        self.made = {kind: make(namespace, FEWER.get(kind, size)) for kind, (make, size) in hostile.KINDS.items()}
        self.edits = 0
        self._stop = threading.Event()

    def create(self) -> None:
        """Create everything; the API server must accept all of it."""
        items = [item for some in self.made.values() for item in some]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda item: self._plane.api("POST", hostile.path(item), item), items))

    def run(self, half: int) -> None:
        """Edit one kind after the other, every second one, until told to stop."""
        kinds = [some[-1] for some in self.made.values()][half::2]
        for turn in itertools.count():
            for item in kinds:
                if self._stop.is_set():
                    return
                path = f"{hostile.path(item)}/{item['metadata']['name']}"
                self._plane.api("PUT", path, hostile.edit(item, turn))
                self.edits += 1

    def stop(self) -> None:
        self._stop.set()


@pytest.fixture
def victim(plane: Plane) -> Iterator[Callable[[int], str]]:
    """Yield a function that gives the victim's Service another address, and returns it."""
    plane.api("POST", "/api/v1/namespaces", {"metadata": {"name": VICTIM}})
    service = hostile.service(VICTIM, "web", 1)
    plane.api("POST", hostile.path(service), service)
    plane.api("POST", SLICES, hostile.slice_of(VICTIM, "web", "web", [{"addresses": ["10.99.0.0"]}], hostile.ports(1)))

    def change(number: int) -> str:
        address = f"10.99.{number >> 8}.{number & 255}"
        plane.api("PATCH", f"{SLICES}/web", {"endpoints": [{"addresses": [address]}]}, content_type=MERGE)
        return address

    yield change
    plane.api("DELETE", f"/api/v1/namespaces/{VICTIM}")


def served_after(headwaters: Sequence[Headwater], address: str) -> list[float]:
    """Return the seconds until each instance has this address for the victim's name."""
    began = time.monotonic()
    found: dict[int, float] = {}

    def look() -> bool:
        for index, headwater in enumerate(headwaters):
            if index not in found and headwater.records(NAME) == [address]:
                found[index] = time.monotonic() - began
        return len(found) == len(headwaters)

    wait_until(look, SETTLE, f"{address} is served", interval=0.002)
    return [found[index] for index in range(len(headwaters))]


def test_whatever_a_tenant_creates_anothers_changes_are_served_in_time(
    plane: Plane, namespace: str, victim: Callable[[int], str], tmp_path: Path
) -> None:
    tenant = Tenant(plane, namespace)
    source = ("--kubeconfig", plane.kubeconfig, "--reverse-zone", "in-addr.arpa", "--zonal")
    with (
        Headwater(tmp_path, *source, workers=1) as headwater,
        Headwater(tmp_path, *source, "--namespace", VICTIM, workers=1, name="control") as control,
    ):
        both = (headwater, control)
        tenant.create()
        served_after(both, victim(1))
        watch = psutil.Process(headwater.pids()["watch"])
        before = watch.cpu_times()
        taken: list[list[float]] = []
        with ThreadPoolExecutor(2) as pool:
            work = [pool.submit(tenant.run, half) for half in (0, 1)]
            end = time.monotonic() + SIEGE
            number = 2
            stretches: list[float] = []
            while time.monotonic() < end:
                taken.append(served_after(both, victim(number)))
                number += 1
                stretches.append(stretch())
            tenant.stop()
            for item in work:
                item.result()
        # The tenant's last changes are served too, and then the process is idle.
        served_after(both, victim(0))
        after = watch.cpu_times()
        used = after.user + after.system - before.user - before.system
        ours, controls = (percentile([pair[index] for pair in taken], 99) for index in (0, 1))
        shown = f"{len(taken)} changes, p99 {ours:.3f} s, of the control {controls:.3f} s; {tenant.edits} edits, "
        memory, file = watch.memory_info().rss, size_of(headwater.state_dir)
        shown += f"{used:.1f} CPU-s, {memory >> 20} MiB of memory, {file >> 20} of file"
        assert tenant.edits > 2 * len(hostile.KINDS), shown
        assert used < 1.5 * SIEGE, shown
        assert memory < MEMORY, shown
        assert file < FILE, shown
        assert 'headwater_records_skipped_total{reason="unexpected"} 0.0' in headwater.admin("/metrics")[1]
        wait_until(lambda: watch.cpu_percent(0.5) < 10, SETTLE, "the watch process has nothing to do")
        slow = sum(stretches) / len(stretches)
        assert ours <= controls + SERVED * slow, f"{shown}; a second of work took {slow:.1f} s"


def stretch() -> float:
    """Return how many seconds a second of work takes now, because of other load on this machine."""
    began, worked = time.monotonic(), time.thread_time()
    while time.thread_time() - worked < WORK:
        pass
    return max(1.0, (time.monotonic() - began) / WORK)


def percentile(values: list[float], percent: int) -> float:
    return sorted(values)[(len(values) - 1) * percent // 100]


def size_of(folder: Path) -> int:
    """Return the bytes of a folder on the disk."""
    return sum(item.stat().st_blocks * 512 for item in folder.rglob("*") if item.is_file() and not item.is_symlink())
