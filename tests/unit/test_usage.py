"""What a process has cost: its own time and memory, and not the pages of a file that it reads."""

from __future__ import annotations

import mmap
import time
from pathlib import Path

from headwater.process import usage

_SIZE = 64 << 20


def test_work_takes_time_and_waiting_does_not() -> None:
    began = usage.cpu()
    until = time.thread_time() + 0.05
    while time.thread_time() < until:
        pass
    assert 0.05 <= usage.cpu() - began < 1.0


def test_memory_is_its_own_and_not_a_files(tmp_path: Path) -> None:
    # No large object of Python's: malloc may have that much, or keep it.
    with (tmp_path / "file").open("wb") as written:
        for _ in range(64):
            written.write(bytes(_SIZE // 64))
    before = usage.memory()
    with (tmp_path / "file").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
        assert pages.find(b"x") == -1, "every page was read"
        assert usage.memory() - before < _SIZE // 4
    with mmap.mmap(-1, _SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as own:
        for at in range(0, _SIZE, mmap.PAGESIZE):
            own[at] = 1
        assert usage.memory() - before >= _SIZE * 3 // 4
