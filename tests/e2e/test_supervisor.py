"""Processes that are killed, stopped, told to reload, and started twice."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any, Final

import grpc
import psutil
import pytest

from tests.harness.instance import Headwater, alive
from tests.harness.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SERVICE: Final = "db.default.svc.cluster.local"
#: The promised time to replace a killed process, to end an orphan, and to answer, in seconds.
PROMISED: Final = 1.0
DRAINED: Final = 5.0
SETTLE: Final = 20.0

MANIFEST: Final = """\
apiVersion: v1
kind: Service
metadata: {name: db, namespace: default}
spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-x, namespace: default, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, port: 5432, protocol: TCP}]
endpoints: [{addresses: [10.44.0.1], hostname: db-0, conditions: {ready: true}}]
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    file = tmp_path / "manifest.yaml"
    file.write_text(MANIFEST)
    return file


@pytest.fixture
def headwater(manifest: Path, tmp_path: Path) -> Iterator[Headwater]:
    with Headwater(tmp_path, "--manifests", manifest) as running:
        yield running


def within(seconds: float, condition: Callable[[], bool], what: str) -> float:
    """Wait for a condition, and return how long it took. Raises TimeoutError."""
    began = time.monotonic()
    wait_until(condition, seconds, what, interval=0.005)
    return time.monotonic() - began


def state(headwater: Headwater, title: str) -> dict[str, Any]:
    """Return what /readyz says about one process."""
    explained = json.loads(headwater.admin("/readyz")[1])
    found = explained["watch"] if title == "watch" else explained["answer"][title]
    return dict(found)


def is_back(headwater: Headwater, title: str, old: int) -> bool:
    pid = headwater.pids().get(title, old)
    said = state(headwater, title)
    return pid != old and said["up"] is True and said["ready"] is True


@pytest.mark.parametrize("title", ["answer 0", "answer 1", "watch"])
@pytest.mark.slow
def test_killed_process_is_back_at_once(title: str, headwater: Headwater, manifest: Path) -> None:
    wait_until(headwater.is_complete, SETTLE, "every process is up")
    before = headwater.pids()
    assert before.keys() == {"supervisor", "watch", "answer 0", "answer 1"}
    headwater.kill9(title)
    within(PROMISED, lambda: is_back(headwater, title, before[title]), f"{title} is back")
    assert {name: pid for name, pid in headwater.pids().items() if name != title} == {
        name: pid for name, pid in before.items() if name != title
    }
    assert all(headwater.records(SERVICE, worker=worker) == ["10.44.0.1"] for worker in (0, 1))
    assert f'headwater_process_restarts_total{{process="{title}"}} 1.0' in headwater.admin("/metrics")[1]
    # It also works.
    manifest.write_text(MANIFEST.replace("10.44.0.1", "10.44.0.2"))
    wait_until(lambda: headwater.records(SERVICE, worker=1) == ["10.44.0.2"], SETTLE, "the changed manifest is served")


@pytest.mark.slow
def test_killed_supervisor_takes_everything_down_and_a_new_start_serves_at_once(headwater: Headwater) -> None:
    family = headwater.family()
    assert len(family) == 5  # the forkserver too, and no resource tracker
    headwater.kill9("supervisor")
    within(PROMISED, lambda: not alive(family), "all its processes are gone")

    began = headwater.exec()
    wait_until(lambda: headwater.records(SERVICE) == ["10.44.0.1"], SETTLE, "an answer", interval=0.005)
    assert time.monotonic() - began < PROMISED
    wait_until(headwater.is_ready, SETTLE, "/readyz")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_signal_stops_it_in_good_order(number: signal.Signals, headwater: Headwater) -> None:
    family = headwater.family()
    # A client that stays connected and silent delays nothing.
    with grpc.insecure_channel(str(headwater.addresses[0])) as channel:
        grpc.channel_ready_future(channel).result(SETTLE)
        headwater.process.signal(number)
        assert headwater.process.wait(DRAINED) == 0
    within(PROMISED, lambda: not alive(family), "all its processes are gone")
    assert [address.path for address in headwater.addresses if os.path.exists(str(address.path))] == []  # noqa: PTH110
    assert "Traceback" not in headwater.process.log.read_text()


def test_sighup_reads_the_files_again(headwater: Headwater, manifest: Path) -> None:
    """The change here leaves size, inode and time as they were."""
    before = manifest.stat()
    with manifest.open("r+") as file:
        file.write(MANIFEST.replace("10.44.0.1", "10.44.0.2"))
        file.flush()
        os.utime(file.fileno(), ns=(before.st_atime_ns, before.st_mtime_ns))
    pids = headwater.pids()
    headwater.process.signal(signal.SIGHUP)
    wait_until(lambda: headwater.records(SERVICE) == ["10.44.0.2"], SETTLE, "the changed file is served")
    assert headwater.pids() == pids


@pytest.mark.parametrize("shared", ["state_dir", "listen", "admin_port"])
def test_second_instance_is_refused(shared: str, headwater: Headwater, manifest: Path, tmp_path: Path) -> None:
    second = Headwater(tmp_path, "--manifests", manifest, name="second")
    setattr(second, shared, getattr(headwater, shared))
    expected = {
        "state_dir": f"--state-dir: {headwater.state_dir} is in use by another headwater "
        f"(process {headwater.process.pid})",
        "listen": f"--listen: another process serves at {headwater.addresses[0]}",
        "admin_port": f"--admin: 127.0.0.1:{headwater.admin_port}: Address already in use",
    }
    with contextlib.closing(second):
        done = subprocess.run(second.command(), capture_output=True, text=True, timeout=SETTLE, check=False)
    assert (done.returncode, done.stderr.splitlines()) == (1, [f"headwater: {expected[shared]}"])
    # The first instance goes on.
    assert all(headwater.records(SERVICE, worker=worker) == ["10.44.0.1"] for worker in (0, 1))
    assert headwater.pids()["supervisor"] == headwater.process.pid
    assert psutil.Process(headwater.process.pid).status() != psutil.STATUS_ZOMBIE


def test_process_that_dies_reading_ends_nothing_where_no_file_can_be_made(manifest: Path, tmp_path: Path) -> None:
    """To take its store back needs a link, and the state directory has no inode left."""
    with mounted(tmp_path / "headwater-state", "nr_inodes=64"), Headwater(tmp_path, "--manifests", manifest) as running:
        with contextlib.suppress(OSError):
            for number in range(64):
                (running.state_dir / f"full-{number}").touch()
        wait_until(running.is_complete, SETTLE, "every process is up")
        before = running.pids()
        os.kill(before["answer 0"], signal.SIGBUS)
        wait_until(lambda: is_back(running, "answer 0", before["answer 0"]), SETTLE, "the process is back")
        assert running.records(SERVICE) == ["10.44.0.1"]
        assert running.pids()["supervisor"] == before["supervisor"]


def test_store_whose_folder_is_removed_is_served_on_by_who_has_it_open(headwater: Headwater, manifest: Path) -> None:
    """While nothing takes its place: a manifest is broken at that time."""
    for worker in (0, 1):
        wait_until(lambda: headwater.records(SERVICE, worker=worker) == ["10.44.0.1"], SETTLE, "it is served")  # noqa: B023
    manifest.write_text("{")
    before = headwater.pids()["watch"]
    shutil.rmtree((headwater.state_dir / "current").resolve())
    wait_until(lambda: headwater.pids().get("watch", before) != before, SETTLE, "the removal is noticed")
    wait_until(lambda: "not valid YAML" in headwater.admin("/readyz")[1], SETTLE, "it was tried to make another")
    for worker in (0, 1):
        assert headwater.records(SERVICE, worker=worker) == ["10.44.0.1"]
    manifest.write_text(MANIFEST.replace("10.44.0.1", "10.44.0.2"))
    for worker in (0, 1):
        wait_until(lambda: headwater.records(SERVICE, worker=worker) == ["10.44.0.2"], SETTLE, "the new one is served")  # noqa: B023


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "headwater-supervisor", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
