"""Processes that are killed under load, and a start without an API server, on
the real plane through CoreDNS.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import psutil
import pytest

from tests.harness.instance import Headwater, alive
from tests.harness.plane import PlaneError
from tests.harness.processes import CoreDNS, Running, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness.plane import Plane

pytestmark = pytest.mark.coredns

SETTLE: Final = 60.0  # seconds
PROMISED: Final = 1.0  # seconds until a killed process is back, orphans are gone, a start answers
LOAD_SECONDS: Final = 30
LOAD_RATE: Final = 1000  # queries per second
KILLS: Final = ((8.0, "answer 0"), (16.0, "watch"))  # seconds into the load, process

MANIFEST: Final = """\
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-x, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, port: 5432, protocol: TCP}]
endpoints:
- {addresses: [10.44.9.1], hostname: db-0, conditions: {ready: true}}
- {addresses: [10.44.9.2], hostname: db-1, conditions: {ready: true}}
- {addresses: [10.44.9.3], hostname: db-2, conditions: {ready: true}}
"""
ADDRESSES: Final = ["10.44.9.1", "10.44.9.2", "10.44.9.3"]


@pytest.fixture
def service(plane: Plane, namespace: str) -> str:
    """Create a headless Service of three pods. Return its name in DNS."""
    plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=MANIFEST)
    return f"db.{namespace}.svc.cluster.local"


@pytest.fixture
def api_server_gone(plane: Plane) -> Iterator[Plane]:
    """Yield the plane to a test that kills its API server; start that again afterwards."""
    yield plane
    try:
        plane.process("kube-apiserver")
    except PlaneError:
        plane.start("kube-apiserver")


def find_dnsperf() -> str:
    found = shutil.which("dnsperf")
    if found is None:
        reason = "dnsperf is not installed"
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def has_come(moment: float) -> bool:
    return time.monotonic() >= moment


def found(pattern: str, text: str) -> str:
    """Return the text that the pattern's group matches."""
    match = re.search(pattern, text)
    assert match is not None, f"no {pattern!r} in:\n{text}"
    return match[1]


def is_back(headwater: Headwater, title: str, old: int) -> bool:
    """Return whether a new process has started and /readyz says that it is ready."""
    said = json.loads(headwater.admin("/readyz")[1])
    its = said["watch"] if title == "watch" else said["answer"][title]
    return headwater.pids().get(title, old) != old and its["up"] is True and its["ready"] is True


@pytest.mark.timeout(180)
def test_killed_processes_lose_no_query(
    plane: Plane, service: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dnsperf = find_dnsperf()
    queries = tmp_path / "queries"
    names = [f"{service} A", f"db-0.{service} A", f"db-1.{service} A", f"db-2.{service} A", f"_sql._tcp.{service} SRV"]
    queries.write_text("".join(f"{name}\n" for name in names))
    with (
        Headwater(tmp_path, "--kubeconfig", plane.kubeconfig) as headwater,
        CoreDNS(tmp_path, headwater.grpc_corefile_stanza()) as coredns,
    ):
        wait_until(lambda: coredns.records(service) == ADDRESSES, SETTLE, "the Service is served")
        command = [
            dnsperf, "-s", "127.0.0.1", "-p", str(coredns.port), "-d", str(queries), "-e",
            "-l", str(LOAD_SECONDS), "-Q", str(LOAD_RATE), "-c", "4", "-t", "5", "-O", "suppress=timeouts",
        ]  # fmt: skip
        took = {}
        with Running("dnsperf", command, tmp_path / "dnsperf.log") as load:
            began = time.monotonic()
            for moment, title in KILLS:
                wait_until(partial(has_come, began + moment), SETTLE, "the time to kill")
                old = headwater.pids()[title]
                killed = time.monotonic()
                headwater.kill9(title)
                wait_until(partial(is_back, headwater, title, old), SETTLE, f"{title} is back", interval=0.01)
                took[title] = time.monotonic() - killed
                assert load.running, f"dnsperf ended: {load.log_tail()}"
            assert load.wait(LOAD_SECONDS + 20) == 0
        report = load.log.read_text()
        counts = {what: int(found(rf"Queries {what}: +(\d+)", report)) for what in ("sent", "completed", "lost")}
        codes = found(r"Response codes: +(.*)", report)
        with capsys.disabled():
            back = ", ".join(f"{title} back after {seconds * 1000:.0f} ms" for title, seconds in took.items())
            print(f"\n\n{counts['sent']:,} queries, {counts['lost']} lost, {codes}; {back}\n")
        assert counts["sent"] > 0.95 * LOAD_RATE * LOAD_SECONDS
        assert (counts["lost"], counts["completed"]) == (0, counts["sent"])
        assert codes == f"NOERROR {counts['sent']} (100.00%)", headwater.process.log.read_text()[-4000:]
        assert all(seconds < PROMISED for seconds in took.values()), took
        assert "[ERROR]" not in coredns.log.read_text()


@pytest.mark.timeout(180)
def test_start_without_an_api_server_answers_from_the_store(
    api_server_gone: Plane, service: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plane = api_server_gone
    with Headwater(tmp_path, "--kubeconfig", plane.kubeconfig) as headwater:
        wait_until(lambda: headwater.records(service) == ADDRESSES, SETTLE, "the Service is served")
        plane.kill("kube-apiserver")
        family = headwater.family()
        killed = time.monotonic()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):  # some die with others
                process.kill()
        headwater.forget()
        wait_until(lambda: not alive(family), SETTLE, "all processes are gone", interval=0.005)
        gone = time.monotonic() - killed

        began = headwater.exec()
        wait_until(lambda: headwater.records(service) == ADDRESSES, SETTLE, "an answer", interval=0.005)
        answered = time.monotonic() - began
        with capsys.disabled():
            print(f"\n\nwithout an API server: the first answer {answered * 1000:.0f} ms after exec\n")
        assert answered < PROMISED
        assert gone < PROMISED
        with CoreDNS(tmp_path, headwater.grpc_corefile_stanza()) as coredns:
            assert coredns.records(service) == ADDRESSES
            assert coredns.records(f"db-1.{service}") == ["10.44.9.2"]
        assert headwater.is_ready()

        # When the server is back, Headwater goes on from where it was.
        plane.start("kube-apiserver")
        changed = MANIFEST.replace("10.44.9.3", "10.44.9.4")
        namespace = service.split(".")[1]
        plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=changed)
        wait_until(lambda: headwater.records(f"db-2.{service}") == ["10.44.9.4"], SETTLE, "the change is served")
