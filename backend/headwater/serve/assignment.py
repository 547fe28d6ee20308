"""The assignment of an answer process at its start. Light, because the supervisor imports it."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from headwater.settings.settings import Settings
from headwater.store.identity import Identity


@dataclass(frozen=True, slots=True)
class Assignment:
    """The number of an answer process, its settings, and its sockets."""

    index: int
    settings: Settings
    identity: Identity
    """The identity of the store that it may answer from."""
    listening: socket.socket | None
    """Bound by the supervisor; None under grpcio, which binds its own."""
    dns: tuple[socket.socket, socket.socket] | None
    """The development listener's, UDP and TCP."""
