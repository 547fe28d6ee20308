"""How malloc keeps and returns memory, in every process (mallopt(3))."""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Final

#: The variable that says how many heaps a process may have.
ARENAS: Final = "MALLOC_ARENA_MAX"

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
#: Bytes. LMDB's list of dirty pages has 2 MiB, of which a transaction uses little. A block of this
#: size that the kernel gives is zero without a write; left to itself malloc takes it from its heap
#: after the first, and writes all of it.
_OF_THE_KERNEL: Final = 2 << 20
#: Bytes at the end of the heap that are kept for the next blocks.
_KEPT: Final = 4 << 20


def settle() -> None:
    """Set it for this process and its forks; elsewhere than on glibc nothing happens.

    The threads of a list share one heap, unless ARENAS says something else: each would keep
    memory of its own.
    """
    with contextlib.suppress(OSError, AttributeError, ValueError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, int(os.environ.get(ARENAS, "1")))
        mallopt(_M_MMAP_THRESHOLD, _OF_THE_KERNEL)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
