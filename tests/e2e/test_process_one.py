"""The supervisor as process 1 of a container: no signal is lost, and no zombie stays."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil
import pytest

from tests.e2e.test_supervisor import MANIFEST, SERVICE
from tests.harness.instance import Headwater
from tests.harness.processes import Running, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCKERFILE: Final = Path(__file__).resolve().parents[2] / "deploy" / "Dockerfile"
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
    """An instance whose supervisor is process 1 of a new PID namespace."""

    def command(self) -> list[str]:
        return [*_UNSHARE, *super().command()]

    def supervisor(self) -> psutil.Process:
        """Return process 1 as seen from outside. Raises LookupError before it exists."""
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


#: Stops process 1 during its start, at the import of a module, until a file exists.
_GATE: Final = """\
import os, sys, time

class Gate:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r} and os.getpid() == 1:
            open({reached!r}, "w").close()
            while not os.path.exists({go!r}):
                time.sleep(0.005)

sys.meta_path.insert(0, Gate())
"""


class Gated(First):
    """An instance whose process 1 stops at the import of a module, until `go`."""

    def __init__(self, folder: Path, module: str, *flags: str | Path) -> None:
        super().__init__(folder, *flags)
        self.hooks = folder / "hooks"
        self.hooks.mkdir()
        self.reached, self.go = self.hooks / "reached", self.hooks / "go"
        text = _GATE.format(module=module, reached=str(self.reached), go=str(self.go))
        (self.hooks / "sitecustomize.py").write_text(text)

    def command(self) -> list[str]:
        path = os.pathsep.join(filter(None, [str(self.hooks), os.environ.get("PYTHONPATH", "")]))
        return [*_UNSHARE, "env", f"PYTHONPATH={path}", *super().command()[len(_UNSHARE) :]]


@pytest.mark.parametrize("module", ["click", "headwater.supervise.supervisor", "uvicorn"])
def test_sigterm_at_any_point_of_the_start_stops_it(module: str, tmp_path: Path) -> None:
    """Before any import, before the loop exists, and afterwards."""
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(MANIFEST)
    instance = Gated(tmp_path, module, "--manifests", manifest)
    with contextlib.closing(instance):
        instance.exec()
        wait_until(instance.reached.exists, SETTLE, f"it imports {module}")
        instance.supervisor().send_signal(signal.SIGTERM)
        instance.go.touch()
        assert instance.process.wait(SETTLE) == 0
        assert "Traceback" not in instance.log.read_text()


def test_no_answer_waits_for_the_admin_port(tmp_path: Path) -> None:
    """To import what it needs takes longer than to start the children."""
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(MANIFEST)
    instance = Gated(tmp_path, "headwater.admin.server", "--manifests", manifest)
    with contextlib.closing(instance):
        instance.exec()
        wait_until(instance.reached.exists, SETTLE, "it imports the admin port's modules")
        wait_until(lambda: instance.records(SERVICE), SETTLE, "an answer")
        instance.go.touch()
        wait_until(instance.is_ready, SETTLE, "the admin port serves")
        instance.supervisor().send_signal(signal.SIGTERM)
        assert instance.process.wait(SETTLE) == 0


class AsInTheImage(Gated):
    """One that is started by the image's entry point."""

    def command(self) -> list[str]:
        (entry,) = re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE.read_text(), re.MULTILINE)
        command = super().command()
        place = command.index(sys.executable)
        return [*command[:place], *json.loads(entry)[:-1], *command[place:]]


def test_sigterm_before_anybody_could_hear_it_stops_the_start(tmp_path: Path) -> None:
    """While the interpreter starts: the kernel would drop it, for process 1."""
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(MANIFEST)
    instance = AsInTheImage(tmp_path, "headwater.process.early", "--manifests", manifest)
    with contextlib.closing(instance):
        instance.exec()
        wait_until(instance.reached.exists, SETTLE, "the interpreter runs")
        instance.supervisor().send_signal(signal.SIGTERM)
        instance.go.touch()
        assert instance.process.wait(SETTLE) == 0
        assert "Traceback" not in instance.log.read_text()


def test_sigterm_stops_a_start_that_waits_for_its_configuration(tmp_path: Path) -> None:
    """A pipe from which nothing comes."""
    pipe = tmp_path / "headwater.toml"
    os.mkfifo(pipe)
    instance = First(tmp_path, "--manifests", tmp_path)
    command = [*instance.command(), "--config", str(pipe)]
    with Running("headwater", command, instance.log, cwd=tmp_path) as process, contextlib.closing(instance):
        writer = wait_until(lambda: os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), SETTLE, "it reads", ignoring=(OSError,))
        (supervisor,) = psutil.Process(process.pid).children()
        supervisor.send_signal(signal.SIGTERM)
        assert process.wait(SETTLE) == 0
        os.close(writer)
        assert "Traceback" not in instance.log.read_text()


def test_what_it_inherits_is_reaped(instance: First) -> None:
    """The forkserver, its children, and a stranger without a parent
    (kubectl exec leaves such) die.
    """
    instance.start()
    supervisor = instance.supervisor()

    def zombies() -> list[int]:
        return [item.pid for item in supervisor.children(recursive=True) if item.status() == psutil.STATUS_ZOMBIE]

    wait_until(lambda: len(instance.pids()) == 4, SETTLE, "every process is up")
    before = instance.pids()
    for process in supervisor.children():
        process.kill()  # the forkserver
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
