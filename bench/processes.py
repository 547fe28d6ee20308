"""The CPU and memory of a tree of processes, read from /proc (Linux only)."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

MIB = 1 << 20
#: How often memory is sampled, in seconds.
SAMPLE_EVERY = 0.05
#: The tree is read again after this many samples, because that reads all of /proc.
_WALK_EVERY = 5

_STORE_FILE = b"/data.mdb"
#: The text before a mapping's offset in its file, in smaps.
_MAPPING = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ \S{4} ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, summed over processes."""

    private: int = 0
    """Pages that no other process maps (USS)."""
    store: int = 0
    """The part of `private` that is pages of a store's file: page cache,
    which the kernel can reclaim.
    """
    pss: int = 0
    """`private`, and a share of every shared page (PSS)."""
    pss_of_store: int = 0
    """The part of `pss` that is pages of a store's file."""
    rss: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(
            self.private + other.private,
            self.store + other.store,
            self.pss + other.pss,
            self.pss_of_store + other.pss_of_store,
            self.rss + other.rss,
        )


def tree(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants, without those that end meanwhile."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def title(process: psutil.Process) -> str:
    """Return the title of a process; "" if it is gone."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline()).strip()
    return ""


def cpu(processes: Sequence[psutil.Process]) -> float:
    """Return the CPU seconds of processes, user and system, since
    their start, in steps of 10 ms.
    """
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def run_time(pid: int) -> float:
    """Return the CPU seconds of a process's living threads, in nanosecond steps; 0 if it is gone.

    They come from /proc/PID/task/TID/schedstat. Use it for differences over a short time, because
    the time of a thread is lost when it ends.
    """
    total = 0
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((thread / "schedstat").read_bytes().split()[0])
    return total / 1e9


def memory(processes: Sequence[psutil.Process]) -> Memory:
    """Return the current memory of all these processes together."""
    total = Memory()
    for process in processes:
        with contextlib.suppress(OSError):
            total += _memory_of(process.pid)
    return total


def alone(processes: Sequence[psutil.Process]) -> int:
    """Return the PSS in bytes that these processes would have if no others mapped their files.

    A library's pages are shared with all other programs that use it, and a measuring machine runs
    more of these. Here the pages of a file count once: as many as the process with the most of them
    has. A store's file does not count.
    """
    anonymous = 0
    files: dict[bytes, int] = {}
    for process in processes:
        with contextlib.suppress(OSError):
            proc = Path(f"/proc/{process.pid}")
            anonymous += _kilobytes((proc / "smaps_rollup").read_bytes(), b"Pss_Anon:", b"Pss_Shmem:")
            for mapping in _MAPPING.split((proc / "smaps").read_bytes())[1:]:
                head, _, rest = mapping.partition(b"\n")
                name = head.split(None, 3)[-1]
                if name.startswith(b"/") and not name.endswith(_STORE_FILE):
                    key = head.split(None, 1)[0] + name  # offset and file
                    held = _kilobytes(b"\n" + rest, b"Rss:") - _kilobytes(b"\n" + rest, b"Anonymous:")
                    files[key] = max(files.get(key, 0), held)
    return (anonymous + sum(files.values())) * 1024


def _memory_of(pid: int) -> Memory:
    proc = Path(f"/proc/{pid}")
    rollup = (proc / "smaps_rollup").read_bytes()
    store_private, store_pss = _of_store(proc)
    return Memory(
        private=_kilobytes(rollup, b"Private_Clean:", b"Private_Dirty:") * 1024,
        store=store_private * 1024,
        pss=_kilobytes(rollup, b"Pss:") * 1024,
        pss_of_store=store_pss * 1024,
        rss=_kilobytes(rollup, b"Rss:") * 1024,
    )


def _of_store(proc: Path) -> tuple[int, int]:
    """KiB in the mappings of a store's file: private pages, and its share of all of them."""
    if _STORE_FILE not in (proc / "maps").read_bytes():
        return 0, 0
    smaps = (proc / "smaps").read_bytes()
    private = pss = 0
    at = smaps.find(_STORE_FILE)
    while at >= 0:
        # VmFlags is the last line of a mapping.
        end = smaps.find(b"VmFlags:", at)
        private += _kilobytes(smaps[at:end], b"Private_Clean:", b"Private_Dirty:")
        pss += _kilobytes(smaps[at:end], b"Pss:")
        at = smaps.find(_STORE_FILE, end)
    return private, pss


def _kilobytes(text: bytes, *names: bytes) -> int:
    total = 0
    for name in names:
        at = text.find(b"\n" + name)
        if at >= 0:
            total += int(text[at + 1 + len(name) : text.index(b"kB", at)])
    return total


class Sampler:
    """Samples a tree's memory in a thread until the block ends.

    `peak` and `peak_without_store` are bytes. Sampling costs some CPU, because it reads page
    tables, so do not sample what you time.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self.samples = 0
        self.peak = 0
        self.peak_without_store = 0
        self.peak_rss = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        processes: list[psutil.Process] = []
        while True:
            began = time.monotonic()
            if self.samples % _WALK_EVERY == 0:
                processes = tree(self._pid)
            now = memory(processes)
            self.samples += 1
            self.peak = max(self.peak, now.private)
            self.peak_without_store = max(self.peak_without_store, now.private - now.store)
            self.peak_rss = max(self.peak_rss, now.rss)
            if self._end.wait(max(0.0, began + SAMPLE_EVERY - time.monotonic())):
                return
