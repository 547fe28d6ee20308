"""The main functions of child processes: the supervisor starts them without their imports.

The imports (grpc, lmdb, kubernetes) happen in the children. In the supervisor they would waste 15
MiB.
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
