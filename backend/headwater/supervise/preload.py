"""The forkserver's imports before its first fork: the modules of all children, in shared pages."""

import gc

import setproctitle

import headwater.serve.process
import headwater.writer.process  # noqa: F401

setproctitle.setproctitle("headwater: forkserver")
# Freeze these objects, so that no child's collector touches them and copies their pages.
gc.collect()
gc.freeze()
