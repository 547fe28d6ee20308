"""The forkserver that all children come from.

It is single-threaded, has imported the serving modules, and holds no grpc
object: its forks are safe, and they share its pages. Nothing else is ever
forked. It is started before this process imports anything large, and imports
what it preloads meanwhile.
"""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import Final

_PRELOAD: Final = ["headwater.supervise.preload"]


def begin() -> ForkServerContext:
    """Start it, if that has not been done; the context whose processes it forks."""
    # The threads of a list would each keep a heap of their own otherwise (mallopt(3)).
    os.environ.setdefault("MALLOC_ARENA_MAX", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    forkserver.ensure_running()
    return context
