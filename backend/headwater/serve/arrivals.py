"""Places for connections that are not established yet: silent, shaking hands, or without SETTINGS.

Any client that reaches the port can make as many of these as it likes. So they have places of their
own: they take places only from each other, and never from an established connection.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio

    from headwater.serve.grpc import Calls
    from headwater.serve.server import Peer

#: Connections that have sent nothing yet, or that wait for their handshake to begin. Each is only a
#: socket.
MAX_SILENT: Final = 512
#: Connections with a handshake or HTTP/2 preface under way. Over TLS each costs asyncio 0.3 MiB.
MAX_BEGINNING: Final = 256
MAX_TLS_BEGINNING: Final = 32
#: Seconds for which each of these keeps its place against newcomers: a few round trips and some
#: computing. It also bounds the handshakes: 320 a second.
TENURE: Final = 0.1
#: Ticks (a second each) from `accept` until a connection must be established. A little more than a
#: handshake's limit, and than HTTP/2's limit for a preface, whose GOAWAY gives the reason.
PATIENCE: Final = 12


class Arrival:
    """One connection on its way in."""

    __slots__ = ("begun", "born", "calls", "connected", "host", "peer", "task")

    def __init__(self, connected: socket.socket, address: Any, born: int, calls: Calls) -> None:
        """`address` is the peer's, from `accept`; `born` is the tick; `calls` answers it."""
        self.calls = calls
        self.connected = connected
        self.host = host_of(address)
        self.born = born
        self.begun = 0.0
        """When its handshake was begun, by the loop's clock."""
        self.peer: Peer | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def has_begun(self) -> bool:
        """Whether its peer has a transport: the handshake is over."""
        task = self.task
        return task is not None and task.done() and not task.cancelled() and task.exception() is None


class Places:
    """A number of places. When all are taken, the host with the most places loses its oldest."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_host: dict[str, dict[Arrival, None]] = {}
        self._count = 0
        self._newest = False  # whose turn was the last

    def take(self, arrival: Arrival) -> Arrival | None:
        """Give it a place; returns the one that has to go."""
        self._by_host.setdefault(arrival.host, {})[arrival] = None
        if self._count < self._limit:
            self._count += 1
            return None
        oldest = self._oldest()
        if oldest is not None:
            self._remove(oldest)  # the count stays within the limit at any moment
        return oldest

    def make_room(self) -> Arrival | None:
        """Take one out: the oldest of the host with the most places; None when there is none."""
        oldest = self._oldest()
        if oldest is not None:
            self.leave(oldest)
        return oldest

    def leaving(self) -> Arrival | None:
        """The one that would have to go for a newcomer; None while there is room."""
        return None if self._count < self._limit else self._oldest()

    def _oldest(self) -> Arrival | None:
        if not self._by_host:
            return None
        most = max(self._by_host.values(), key=len)
        return next(iter(most))

    def next(self) -> Arrival:
        """Take out the next: one of the host with the fewest. Raises ValueError when there is none.

        The newest and the oldest take turns. In a flood the newest is served at once, and older
        ones get their turn too.
        """
        fewest = min(self._by_host.values(), key=len)
        self._newest = not self._newest
        arrival = next(reversed(fewest)) if self._newest else next(iter(fewest))
        self.leave(arrival)
        return arrival

    def leave(self, arrival: Arrival) -> bool:
        """Free its place; False if it has none."""
        if not self._remove(arrival):
            return False
        self._count -= 1
        return True

    def _remove(self, arrival: Arrival) -> bool:
        mine = self._by_host.get(arrival.host)
        if mine is None or arrival not in mine:
            return False
        del mine[arrival]
        if not mine:
            del self._by_host[arrival.host]
        return True

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Arrival]:
        """A copy of all: places may be taken and left meanwhile."""
        return iter([arrival for mine in self._by_host.values() for arrival in mine])


def host_of(address: Any) -> str:
    """The host of a connection, by its address; all of a unix socket count as one host."""
    return str(address[0]) if isinstance(address, tuple) else ""
