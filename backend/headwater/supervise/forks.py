"""The forkserver of all children, and the care for children whose forkserver is gone.

It is single-threaded, has imported the serving modules, and has no grpc object. So its forks are
safe, and share its pages. No other process is forked. It is started before this process imports
anything large, and preloads its modules meanwhile.

The forkserver is a process like any other: it can be killed, and it can hang. Its children then
live on. This process becomes their parent (PR_SET_CHILD_SUBREAPER, or because it is process 1), so
it still learns their exit codes. It starts another forkserver for the next ones.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

_log = logging.getLogger(__name__)

_PRELOAD: Final = ["headwater.supervise.preload"]
_PR_SET_CHILD_SUBREAPER: Final = 36
#: multiprocessing's exit code for a child whose forkserver is gone.
UNKNOWN: Final = 255


def begin() -> ForkServerContext:
    """Start it unless it runs; returns the context whose processes it forks."""
    # The threads of a list would each keep a heap of their own otherwise (mallopt(3)).
    os.environ.setdefault("MALLOC_ARENA_MAX", "1")
    # When it was killed it warns and starts another. It has no resource of ours.
    warnings.filterwarnings("ignore", message="resource_tracker: process died", category=UserWarning)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    forkserver.ensure_running()
    return context


def adopt_orphans() -> None:
    """Become the parent of the children of a dying child."""
    import ctypes  # 10 ms, not before the first answer

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class _Unseen:
    """The program's main module, hidden from children for as long as anybody starts one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starts = 0
        self._kept: dict[str, Any] = {}

    def __enter__(self) -> None:
        main = sys.modules["__main__"]
        with self._lock:
            self._starts += 1
            if self._starts == 1:
                self._kept = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
                main.__spec__ = None
                main.__dict__.pop("__file__", None)

    def __exit__(self, *_: object) -> None:
        main = sys.modules["__main__"]
        with self._lock:
            self._starts -= 1
            if not self._starts:
                for name, value in self._kept.items():
                    setattr(main, name, value)


_unseen: Final = _Unseen()


def unseen_main() -> AbstractContextManager[None]:
    """Keep children from importing the program's main module, which they do not need."""
    return _unseen


def start(
    context: ForkServerContext, target: Callable[..., None], arguments: tuple[Any, ...], name: str
) -> BaseProcess:
    """Fork a child that runs `target`.

    Blocks for ever when the forkserver hangs: see `kill_server`.

    Raises OSError or EOFError when the forkserver dies meanwhile, or without descriptors.
    """
    process = context.Process(target=target, args=arguments, name=name, daemon=False)
    with unseen_main():
        process.start()
    return process


def servers() -> list[int]:
    """The process ids of the forkserver and of multiprocessing's resource tracker."""
    found = [forkserver._forkserver._forkserver_pid, resource_tracker._resource_tracker._pid]  # type: ignore[attr-defined]
    return [pid for pid in found if pid is not None]


def ensure_running() -> None:
    """Start again those that have died, and reap them."""
    forkserver._forkserver.ensure_running()


def kill_server() -> None:
    """Kill a forkserver that hangs.

    A waiting thread gets an EOFError, and the next start makes another.
    """
    if pid := forkserver._forkserver._forkserver_pid:  # type: ignore[attr-defined]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def end() -> None:
    """Kill both, also when they hang; the children do not notice.

    A thread that is about to fork finds no forkserver, and starts no other one.
    """
    forkserver._forkserver.ensure_running = _refuse  # type: ignore[method-assign]
    for pid in servers():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _refuse() -> None:
    raise OSError("the instance is stopping")


def orphans_exit_code(pid: int) -> int | None:
    """The exit code of a child that the forkserver has left behind; None while it lives.

    Reaps it.
    """
    try:
        reaped, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        # Not ours, or not yet: a dying forkserver closes its pipes before it hands its children on.
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return UNKNOWN
        return None
    return os.waitstatus_to_exitcode(status) if reaped else None


def reap(ours: Collection[int]) -> bool:
    """Reap orphans: as process 1, or as subreaper, this process inherits all of them.

    `ours` are children with a waiting thread. True when the forkserver or the resource tracker has
    died: call `ensure_running` then, which reaps them.
    """
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        if found is None or found.si_pid in ours:
            return False
        if found.si_pid in servers():
            return True
        with contextlib.suppress(ChildProcessError):
            os.waitpid(found.si_pid, os.WNOHANG)


def held_by_disk(pid: int) -> bool:
    """Whether a thread of a process waits for the disk (state D): no kill would reach it."""
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            if (thread / "stat").read_bytes().rpartition(b") ")[2][:1] == b"D":
                return True
    return False
