"""The memory of all processes together, on the bundled example."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tests.harness.instance import Headwater
from tests.harness.processes import wait_until

EXAMPLE: Final = Path(__file__).resolve().parents[2] / "examples" / "statefulset"
KNOWN: Final = "headless-svc.default.svc.cluster.local"
SETTLE: Final = 20.0
#: MiB of their own, with the admin port: 56 when this was written, and 64 with a later forkserver.
#: Without the modules that the forkserver loads for all of them it was 98, and a process more is 6.
MOST: Final = 62.0
MOST_LATER: Final = 70.0


def own_memory(pid: int) -> float:
    """Return MiB of a process that no file backs. A page counts by its share: forks share pages."""
    found = re.search(r"^Pss_Anon: +([0-9]+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) / 1024


def heap(pid: int) -> str:
    """Return where malloc's heap begins: at one place in forks, by chance in interpreters."""
    found = re.search(r"^([0-9a-f]+)-.* \[heap\]$", Path(f"/proc/{pid}/maps").read_text(), re.MULTILINE)
    assert found
    return found[1]


def test_processes_share_what_they_have_loaded(tmp_path: Path) -> None:
    with Headwater(tmp_path, "--manifests", EXAMPLE) as headwater:
        wait_until(headwater.is_complete, SETTLE, "every process is up")
        for worker in (0, 1):
            wait_until(lambda worker=worker: headwater.records(KNOWN, worker=worker), SETTLE, "an answer")  # type: ignore[misc]
        family = headwater.family()
        assert len(family) == len(headwater.pids()) + 1, "nobody but the forkserver has no part in it"
        assert heap(headwater.process.pid) == heap(headwater.forkserver().pid), "it is no fork of the supervisor"
        memory = {" ".join(process.cmdline()).strip(): own_memory(process.pid) for process in family}
        assert sum(memory.values()) < MOST, memory


def test_what_the_first_forkserver_shares_a_later_one_does_too(tmp_path: Path) -> None:
    """A later one is a fresh interpreter, and its children replace those of the first."""
    with Headwater(tmp_path, "--manifests", EXAMPLE) as headwater:
        wait_until(headwater.is_complete, SETTLE, "every process is up")
        first = headwater.forkserver()
        first.kill()
        wait_until(lambda: headwater.forkserver().pid != first.pid, SETTLE, "another", ignoring=(LookupError,))
        for title in ("watch", "answer 0", "answer 1"):
            old = headwater.kill9(title)
            wait_until(lambda old=old, title=title: headwater.pids().get(title, old) != old, SETTLE, "it is back")  # type: ignore[misc]
        wait_until(headwater.is_complete, SETTLE, "every process is up")
        wait_until(lambda: headwater.records(KNOWN), SETTLE, "an answer")
        memory = {" ".join(process.cmdline()).strip(): own_memory(process.pid) for process in headwater.family()}
        assert sum(memory.values()) < MOST_LATER, memory
