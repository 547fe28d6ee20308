"""The forkserver's imports before its first fork: the modules of all children, in shared pages."""

import gc

import setproctitle

import headwater.supervise.roles  # noqa: F401
from headwater.process import heap

setproctitle.setproctitle("headwater: forkserver")
heap.settle()
# Freeze these objects, so that no child's collector touches them and copies their pages.
gc.collect()
gc.freeze()
