"""The pipe between the supervisor and one of its processes, the process's end.

The supervisor asks for a snapshot or for a reload, one byte each; nothing else
passes. When the pipe closes the supervisor is gone, killed perhaps, and the
process goes at once: nobody would restart it or bind its address again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Final

SNAPSHOT: Final = b"s"
RELOAD: Final = b"r"
#: Said once by the process: it does what it was started for.
STARTED: Final = b"started"
#: Exit code of a process whose supervisor is gone.
ORPHANED: Final = 3
#: Exit code of a process that found the store damaged: the supervisor takes the store back.
STORE_DAMAGED: Final = 70
#: Exit code of a process that cannot ever start with these settings; its last message says why.
UNUSABLE: Final = 78


def attend(connection: Connection, snapshot: Callable[[], bytes], reload: Callable[[], None]) -> None:
    """Answer the supervisor in a thread of its own: it is heard also while the process is busy."""

    def run() -> None:
        try:
            while True:
                command = connection.recv_bytes(16)
                if command == SNAPSHOT:
                    connection.send_bytes(snapshot())
                elif command == RELOAD:
                    reload()
        except (EOFError, OSError):
            os._exit(ORPHANED)

    threading.Thread(target=run, name="control", daemon=True).start()
