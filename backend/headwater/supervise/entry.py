"""What a child process runs, by name: the supervisor starts the roles without importing them.

Their imports (grpc, lmdb, kubernetes) belong to the children; here they would
cost the supervisor 15 MiB for nothing.
"""

from __future__ import annotations

import socket
from multiprocessing.connection import Connection

from headwater.settings.settings import Settings
from headwater.store.identity import Identity


def watch(settings: Settings, identity: Identity, connection: Connection) -> None:
    """The watch role."""
    from headwater.writer.process import run

    run(settings, identity, connection)


def answer(
    index: int,
    settings: Settings,
    identity: Identity,
    connection: Connection,
    listening: socket.socket | None,
    dns_sockets: tuple[socket.socket, socket.socket] | None,
) -> None:
    """An answer role."""
    from headwater.serve.process import run

    run(index, settings, identity, connection, listening, dns_sockets)
