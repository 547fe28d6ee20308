"""The forkserver's imports before its first fork: the modules of all children, in shared pages."""

import contextlib
import ctypes
import gc
import os
from typing import Final

import setproctitle

import headwater.supervise.roles  # noqa: F401

_M_ARENA_MAX: Final = -8

setproctitle.setproctitle("headwater: forkserver")
# malloc has read its variable only if this is an interpreter of its own (`forks.begin`).
with contextlib.suppress(OSError, AttributeError, ValueError):
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, int(os.environ.get("MALLOC_ARENA_MAX", "1")))
# Freeze these objects, so that no child's collector touches them and copies their pages.
gc.collect()
gc.freeze()
