"""As process 1 of a container: no signal is lost, no zombie stays."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil
import pytest

from tests.e2e.test_supervisor import MANIFEST, SERVICE
from tests.harness.instance import Headwater
from tests.harness.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTLE: Final = 20.0
_UNSHARE: Final = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare here (util-linux)")
    done = subprocess.run([*_UNSHARE, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no PID namespace can be made here: {done.stderr.strip()}")


class First(Headwater):
    """An instance whose supervisor is process 1 of a PID namespace of its own."""

    def command(self) -> list[str]:
        return [*_UNSHARE, *super().command()]

    def supervisor(self) -> psutil.Process:
        """Process 1, as it is seen from outside. Raises LookupError before it is there."""
        for child in psutil.Process(self.process.pid).children():
            return child
        raise LookupError("process 1 is not there yet")


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[First]:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(MANIFEST)
    running = First(tmp_path, "--manifests", manifest)
    try:
        yield running
    finally:
        running.close()


def is_python(process: psutil.Process) -> bool:
    """Whether it has come as far as to have a handler of ours; a signal before that is lost in the kernel."""
    caught = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "SigCgt" in line)
    return bool(int(caught.split()[1], 16) & 1 << (signal.SIGTERM - 1))


def appeared(instance: First) -> psutil.Process:
    found: list[psutil.Process] = []

    def condition() -> bool:
        try:
            found[:] = [instance.supervisor()]
        except LookupError:
            return False
        return is_python(found[0])

    wait_until(condition, SETTLE, "process 1 has a handler for SIGTERM", interval=0.001)
    return found[0]


def test_sigterm_right_after_the_start_stops_it(instance: First) -> None:
    instance.exec()
    process = appeared(instance)
    maps = Path(f"/proc/{process.pid}/maps").read_text()
    assert "_cffi_backend" not in maps, "nothing large is imported before the handler is there"
    process.send_signal(signal.SIGTERM)
    assert instance.process.wait(SETTLE) == 0
    assert "Traceback" not in instance.log.read_text()


@pytest.mark.parametrize("delay", [0.05, 0.1, 0.2, 0.4])
def test_sigterm_at_any_moment_of_the_start_stops_it(delay: float, instance: First) -> None:
    instance.exec()
    process = appeared(instance)
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > delay, SETTLE, "the moment comes", interval=0.005)
    process.send_signal(signal.SIGTERM)
    assert instance.process.wait(SETTLE) == 0
    assert "Traceback" not in instance.log.read_text()


def test_what_it_inherits_is_reaped(instance: First) -> None:
    """The forkserver dies, its children die, and a stranger whose parent is gone (kubectl exec leaves such) dies."""
    instance.start()
    supervisor = instance.supervisor()

    def zombies() -> list[int]:
        return [item.pid for item in supervisor.children(recursive=True) if item.status() == psutil.STATUS_ZOMBIE]

    before = instance.pids()
    for process in supervisor.children():
        process.kill()  # forkserver and resource tracker
    for title in ("answer 0", "answer 1", "watch"):
        psutil.Process(before[title]).kill()
    stranger = "import os, time; os.fork() and os._exit(0); time.sleep(0.2)"
    subprocess.run(
        ["nsenter", "--target", str(supervisor.pid), "--pid", "--mount", sys.executable, "-c", stranger], check=True
    )

    def all_new() -> bool:
        pids = instance.pids()
        return instance.is_ready() and all(
            pids.get(title, before[title]) != before[title] for title in ("answer 0", "answer 1", "watch")
        )

    wait_until(all_new, SETTLE, "all are back")
    wait_until(lambda: zombies() == [], SETTLE, "no zombie stays")
    assert instance.records(SERVICE) == ["10.44.0.1"]
    os.kill(supervisor.pid, signal.SIGTERM)
    assert instance.process.wait(SETTLE) == 0
