"""What an answer process is given when it is started. Light: the supervisor imports it."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from headwater.settings.settings import Settings
from headwater.store.identity import Identity


@dataclass(frozen=True, slots=True)
class Assignment:
    """Which answer process it is, what it serves, and where."""

    index: int
    settings: Settings
    identity: Identity
    """Which store it may answer from."""
    listening: socket.socket | None
    """Bound by the supervisor; None under grpcio, which binds its own."""
    dns: tuple[socket.socket, socket.socket] | None
    """The development listener's, UDP and TCP."""
