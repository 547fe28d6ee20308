"""Headwater's requests in the API server's own audit log: there is no unnecessary list."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import pytest

from bench.requests import RESOURCES, Audit, Requests
from tests.harness.instance import Headwater
from tests.harness.plane import Plane
from tests.harness.processes import wait_until

SETTLE: Final = 60.0  # seconds
CONNECTED: Final = "headwater_watch_connected"

SERVICE: Final = {"metadata": {"name": "db"}, "spec": {"clusterIP": "None", "ports": [{"port": 5432}]}}
SLICES: Final = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
NAME: Final = "db.default.svc.cluster.local"
MERGE: Final = "application/merge-patch+json"


def slice_with(address: str) -> dict[str, object]:
    return {
        "metadata": {"name": "db-x", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
    }


@dataclass
class Audited:
    """A plane with an audit log, and Headwater on it; nothing else changes objects there."""

    plane: Plane
    audit: Audit
    headwater: Headwater
    changes: int = 1

    def change(self) -> str:
        """Give the Service another address."""
        self.changes += 1
        address = f"10.44.9.{self.changes}"
        self.plane.api("PATCH", f"{SLICES}/db-x", {"endpoints": slice_with(address)["endpoints"]}, content_type=MERGE)
        return address

    def serves(self, address: str) -> None:
        """Wait until the change is served and every watch is open, so
        that all requests were made.
        """
        wait_until(lambda: self.headwater.records(NAME) == [address], SETTLE, f"{address} is served")
        wait_until(self._watches, SETTLE, "all watches are open")

    def _watches(self) -> bool:
        lines = self.headwater.admin("/metrics")[1].splitlines()
        return sum(line.startswith(CONNECTED) and line.endswith(" 1.0") for line in lines) == len(RESOURCES)

    def asked(self, mark: int) -> Requests:
        return self.audit.since(mark, "headwater")


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    folder: Path = tmp_path_factory.mktemp("requests")
    audit = Audit(folder)
    with Plane(folder / "plane", audit.flags()) as plane:
        plane.api("POST", "/api/v1/namespaces/default/services", SERVICE)
        plane.api("POST", SLICES, slice_with("10.44.9.1"))
        with Headwater(folder, "--kubeconfig", plane.kubeconfig) as headwater:
            found = Audited(plane, audit, headwater)
            found.serves("10.44.9.1")
            yield found


def test_start_lists_each_resource_once(audited: Audited) -> None:
    asked = audited.asked(0)
    assert {resource: asked["list", resource] for resource in RESOURCES} == dict.fromkeys(RESOURCES, 1)
    assert {resource: asked["watch", resource] for resource in RESOURCES} == dict.fromkeys(RESOURCES, 1)
    assert asked.total() == 2 * len(RESOURCES) + 1, asked
    assert asked["recognize", "namespaces"] == 1, "which cluster it is"


@pytest.mark.parametrize("how", ["SIGTERM", "kill -9", "kill -9 of the watch process"])
def test_restart_lists_nothing(audited: Audited, how: str) -> None:
    """Changes during its absence arrive by watches from the stored versions."""
    headwater = audited.headwater
    mark = audited.audit.mark()
    if how == "SIGTERM":
        headwater.terminate()
        address = audited.change()
        headwater.start()
    elif how == "kill -9":
        for process in headwater.family():
            with contextlib.suppress(psutil.NoSuchProcess):  # the others end with the supervisor
                process.kill()
        headwater.forget()
        address = audited.change()
        headwater.start()
    else:
        old = headwater.kill9("watch")
        address = audited.change()
        wait_until(lambda: headwater.pids().get("watch", old) != old, SETTLE, "the watch process runs again")
    audited.serves(address)
    asked = audited.asked(mark)
    assert {verb for verb, _ in asked} == {"watch", "recognize"}, asked
    assert asked["recognize", "namespaces"] == 1, asked
    assert {resource: asked["watch", resource] for resource in RESOURCES} == dict.fromkeys(RESOURCES, 1), asked


def test_expired_version_costs_one_list(audited: Audited) -> None:
    """After a restart with a compacted etcd, the API server has none of the
    versions that Headwater has.
    """
    mark = audited.audit.mark()
    headwater, plane = audited.headwater, audited.plane
    headwater.terminate()
    address = audited.change()
    plane.compact()
    plane.terminate("kube-apiserver")
    plane.start("kube-apiserver")
    headwater.start()
    assert headwater.records(NAME) == [f"10.44.9.{audited.changes - 1}"] or headwater.records(NAME) == [address]
    audited.serves(address)
    asked = audited.asked(mark)
    assert {resource: asked["list", resource] for resource in RESOURCES} == dict.fromkeys(RESOURCES, 1), asked
    # One watch got a 410; another may have come while the API server was still filling its caches.
    assert all(2 <= asked["watch", resource] <= 4 for resource in RESOURCES), asked


def test_quiet_watch_asks_for_nothing(audited: Audited) -> None:
    mark = audited.audit.mark()
    until = time.monotonic() + 3.0
    wait_until(lambda: time.monotonic() >= until, 10.0, "three seconds")
    assert audited.asked(mark).total() == 0
