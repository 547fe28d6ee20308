"""Whether an API server goes on from versions up to which somebody else has read.

A watch of each resource is opened, and what it says is not used. A watch that begins with a version
that is too old is accepted, and ends at once. So a moment's silence, or an event, is what tells
that it goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from headwater.cluster.objects import Resource

if TYPE_CHECKING:
    from headwater.cluster.api import ApiServer

_log = logging.getLogger(__name__)

#: A watch that was accepted and not ended for so long goes on, in seconds.
ACCEPTED: Final = 0.1
#: How long a watch may last that nobody ends, in seconds: longer than any copy.
_SECONDS: Final = 60
#: How often it is looked whether all are known to go on, in seconds.
_LOOK: Final = 0.01


class Proof:
    """Watches from some versions, which begin now."""

    def __init__(self, server: ApiServer, versions: Mapping[Resource, str]) -> None:
        self.versions = dict(versions)
        self._watches = [_Watch(server.beside(), *item) for item in self.versions.items()]

    def holds(self, patience: float) -> bool:
        """Whether every watch goes on; waits for that for so many seconds at the most."""
        deadline = time.monotonic() + patience
        while True:
            known = [watch.goes_on() for watch in self._watches]
            if all(known):
                return bool(known)
            if False in known or time.monotonic() > deadline:
                return False
            time.sleep(_LOOK)

    def close(self) -> None:
        """End the watches."""
        for watch in self._watches:
            watch.close()


class _Watch:
    def __init__(self, server: ApiServer, resource: Resource, version: str) -> None:
        self._server = server
        self._accepted = 0.0
        self._over: bool | None = None
        """Whether it ended by an event, or by anything else; None as long as it says nothing."""
        self._closed = False
        threading.Thread(target=self._run, args=(resource, version), name="proof", daemon=True).start()

    def _run(self, resource: Resource, version: str) -> None:
        goes_on = False
        try:
            lines = self._server.watch(resource, version, _SECONDS)
            if not self._closed:
                self._accepted = time.monotonic()
                line = next(iter(lines), None)
                goes_on = line is not None and _EVENT.decode(line).type != "ERROR"
        except Exception as error:  # noqa: BLE001 (whatever it is, the server does not go on)
            _log.debug("no proof for %s: %s", resource, error)
        finally:
            self._over = goes_on
            self.close()

    def goes_on(self) -> bool | None:
        """None: it is not known yet."""
        if self._over is None and self._accepted and time.monotonic() - self._accepted > ACCEPTED:
            return True
        return self._over

    def close(self) -> None:
        self._closed = True
        self._server.hang_up()


class _Event(msgspec.Struct):
    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]


_EVENT: Final = msgspec.json.Decoder(_Event)
