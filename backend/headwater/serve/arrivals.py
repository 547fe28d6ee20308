"""Places for connections that are nobody yet: accepted, but silent, shaking hands, or without their SETTINGS.

Anybody who reaches the port can make these, as many and as often as they like, so they have places of
their own: they can only take them from each other, never from a connection that is established.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio

    from headwater.serve.server import Peer

#: Connections that have sent nothing yet, or that wait for their handshake to begin. Each is a socket and no more.
MAX_SILENT: Final = 512
#: Those whose handshake or HTTP/2 preface is under way. Over TLS each costs asyncio 0.3 MiB.
MAX_BEGINNING: Final = 256
MAX_TLS_BEGINNING: Final = 32
#: How long each of these keeps its place whoever else comes, in seconds: a few round trips and some computing.
#: It bounds how many handshakes are begun, too: 320 a second.
TENURE: Final = 0.1
#: How long a connection may take from `accept` until it is established, in ticks (a second each). A little
#: longer than a handshake, and than HTTP/2 waits for a preface, whose GOAWAY says why.
PATIENCE: Final = 12


class Arrival:
    """One connection on its way in."""

    __slots__ = ("begun", "born", "connected", "host", "peer", "task")

    def __init__(self, connected: socket.socket, address: Any, born: int) -> None:
        """`address` is what `accept` said of the peer; `born` is the tick."""
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
    """A number of places. When they are taken, the host that has most of them loses its oldest."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_host: dict[str, dict[Arrival, None]] = {}
        self._count = 0
        self._newest = False  # whose turn was the last

    def take(self, arrival: Arrival) -> Arrival | None:
        """Give it a place; returns the one that has to go for it."""
        self._by_host.setdefault(arrival.host, {})[arrival] = None
        self._count += 1
        return self.make_room() if self._count > self._limit else None

    def make_room(self) -> Arrival | None:
        """Take one out: the oldest of the host that has most; None when there is none."""
        oldest = self._oldest()
        if oldest is not None:
            self.leave(oldest)
        return oldest

    def leaving(self) -> Arrival | None:
        """Who would have to go if one more came; None while there is room."""
        return None if self._count < self._limit else self._oldest()

    def _oldest(self) -> Arrival | None:
        if not self._by_host:
            return None
        most = max(self._by_host.values(), key=len)
        return next(iter(most))

    def next(self) -> Arrival:
        """Take out whose turn it is: one of the host that has fewest. Raises ValueError when there is none.

        The newest and the oldest take turns: in a flood the newest of a moment is served at once, and who is
        buried by newer ones gets his turn all the same.
        """
        fewest = min(self._by_host.values(), key=len)
        self._newest = not self._newest
        arrival = next(reversed(fewest)) if self._newest else next(iter(fewest))
        self.leave(arrival)
        return arrival

    def leave(self, arrival: Arrival) -> bool:
        """Free its place; False if it has none."""
        mine = self._by_host.get(arrival.host)
        if mine is None or arrival not in mine:
            return False
        del mine[arrival]
        if not mine:
            del self._by_host[arrival.host]
        self._count -= 1
        return True

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Arrival]:
        """Everyone, as they are now: places may be taken and left meanwhile."""
        return iter([arrival for mine in self._by_host.values() for arrival in mine])


def host_of(address: Any) -> str:
    """Whose connection it is, as far as its address tells; all of a unix socket are one host's."""
    return str(address[0]) if isinstance(address, tuple) else ""
