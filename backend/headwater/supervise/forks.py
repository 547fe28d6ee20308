"""The forkserver of all children, and the care for children whose forkserver is gone.

It is single-threaded, has the modules of all children, and has no grpc object. So its forks are
safe, and share its pages. The first one is itself a fork of this process, as long as this has one
thread and no event loop: they share what this one has imported for both (`roles`). Any later one is
a fresh interpreter.

The forkserver is a process like any other: it can be killed, and it can hang. Its children then
live on. This process becomes their parent (PR_SET_CHILD_SUBREAPER, or because it is process 1), so
it still learns their exit codes. It starts another forkserver for the next ones.

multiprocessing's resource tracker is a second process, which removes the semaphores and the shared
memory that others leave behind. Nothing here has any, and its interpreter takes 6 MiB. So what
would be written to it goes to /dev/null.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, NoReturn

from headwater.process import heap

_log = logging.getLogger(__name__)

_PRELOAD: Final = ["headwater.supervise.preload"]
_PR_SET_CHILD_SUBREAPER: Final = 36
#: multiprocessing's exit code for a child whose forkserver is gone.
UNKNOWN: Final = 255


def begin(*, forked: bool = False) -> ForkServerContext:
    """Start it unless it runs; returns the context whose processes it forks.

    `forked`: as a fork of this process, if that has one thread. The caller knows that nothing here
    is open, locked or under way, and has imported what both need.
    """
    # For an interpreter that is started from here; malloc has read it before `heap.settle`.
    os.environ.setdefault(heap.ARENAS, "1")
    heap.settle()
    tracker: Any = resource_tracker._resource_tracker
    if tracker._fd is None:
        tracker._fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    if forked:
        # What is here stays, in both processes: no collector touches it and copies its pages.
        gc.freeze()
        gc.enable()  # `__main__` has turned it off
    with _by_fork() if forked and _is_alone() else contextlib.nullcontext():
        forkserver.ensure_running()
    return context


def _is_alone() -> bool:
    """Whether this process has one thread, also of those that Python does not know."""
    try:
        return len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208 (numbers)
    except OSError:  # no Linux, and nobody who minds the memory
        return False


@contextlib.contextmanager
def _by_fork() -> Iterator[None]:
    """Within it, a forkserver is started as a fork, with the program that an interpreter gets."""
    usual = util.spawnv_passfds
    util.spawnv_passfds = _fork  # type: ignore[assignment]
    try:
        yield
    finally:
        util.spawnv_passfds = usual


def _fork(path: bytes, arguments: Sequence[str], descriptors: Sequence[int]) -> int:  # noqa: ARG001
    """Like `util.spawnv_passfds`, for `python … -c PROGRAM`."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        _run_as_child(arguments[-1], descriptors)
    return pid


def _run_as_child(program: str, descriptors: Sequence[int]) -> NoReturn:
    """Forget the parent as an interpreter of its own would, run the program, and exit."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        keep = {0, 1, 2, *descriptors}
        for descriptor in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 (numbers)
            if descriptor not in keep:
                with contextlib.suppress(OSError):  # the folder's own
                    os.close(descriptor)
        # The parent's copies are locked, and name its descriptors.
        type(forkserver._forkserver).__init__(forkserver._forkserver)
        type(resource_tracker._resource_tracker).__init__(resource_tracker._resource_tracker)
        exec(program, {"__name__": "__main__"})
    except SystemExit:
        os._exit(0)
    except BaseException:  # noqa: BLE001 (what escapes would go on as the parent)
        with contextlib.suppress(BaseException):
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        os._exit(1)
    os._exit(0)


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


def server() -> int | None:
    """The process id of the forkserver; None before the first."""
    pid: int | None = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    return pid


def spent() -> tuple[int | None, int]:
    """(process id, ticks of CPU time) of the forkserver: what does not change while it hangs."""
    pid = server()
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return pid, 0
    return pid, int(fields[11]) + int(fields[12])  # utime and stime (proc(5)), counted from the state


def ensure_running() -> None:
    """Start it again if it has died, and reap it."""
    forkserver._forkserver.ensure_running()


def kill_server() -> None:
    """Kill a forkserver that hangs.

    A waiting thread gets an EOFError, and the next start makes another.
    """
    if pid := server():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def end() -> None:
    """Kill it, also when it hangs; the children do not notice.

    A thread that is about to fork finds no forkserver, and starts no other one.
    """
    forkserver._forkserver.ensure_running = _refuse  # type: ignore[method-assign]
    kill_server()


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

    `ours` are children with a waiting thread. True when the forkserver has died: call
    `ensure_running` then, which reaps it.
    """
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        if found is None or found.si_pid in ours:
            return False
        if found.si_pid == server():
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
