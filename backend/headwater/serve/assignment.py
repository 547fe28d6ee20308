"""The assignment of an answer process at its start. Light, because the supervisor imports it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace

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
    zones: tuple[tuple[str, socket.socket], ...] = ()
    """Those of topology zones, as `listening`."""

    @contextlib.contextmanager
    def held(self) -> Iterator[Assignment]:
        """Yield it with sockets of its own, which nobody else closes while it is sent.

        Raises OSError when the socket is closed already.
        """
        if self.listening is None:
            yield self
            return
        with contextlib.ExitStack() as stack:
            listening = stack.enter_context(self.listening.dup())
            zones = tuple((zone, stack.enter_context(other.dup())) for zone, other in self.zones)
            yield replace(self, listening=listening, zones=zones)
