"""What a child process runs, by name: the supervisor starts it without importing it.

Their imports (grpc, lmdb, kubernetes) belong to the children; here they would
cost the supervisor 15 MiB for nothing.
"""

from __future__ import annotations

import socket

from headwater.serve.assignment import Assignment
from headwater.settings.settings import Settings
from headwater.store.identity import Identity


def watch(settings: Settings, identity: Identity, end: socket.socket) -> None:
    """The watch process. `end` is its end of the link to the supervisor."""
    from headwater.writer.process import run

    run(settings, identity, end)


def answer(assignment: Assignment, end: socket.socket) -> None:
    """An answer process."""
    from headwater.serve.process import run

    run(assignment, end)
