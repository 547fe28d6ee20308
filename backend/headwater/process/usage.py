"""What a process has cost so far: its time on a core, and its own memory."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

_STATM: Final = Path("/proc/self/statm")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def cpu() -> float:
    """Seconds of a core, in all threads, since the process started."""
    return time.process_time()


def memory() -> int:
    """Bytes of resident memory that no file backs, so without the store's pages (proc(5))."""
    try:
        _, resident, shared, *_ = map(int, _STATM.read_text().split())
    except (OSError, ValueError):
        return 0
    return (resident - shared) * _PAGE
