"""The cluster of an API server, and whether it is the store's.

The UID of its namespace kube-system identifies a cluster. It stays when certificates rotate and
when the API server moves to another address. Where it cannot be seen, the address decides.

Every list and every watch begins with this question, unless it was answered a moment ago: objects
of two clusters must never be mixed. It is one small request, and the permission to list namespaces
allows it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from headwater.cluster.objects import version_number
from headwater.cluster.reflector import RequestFailed, Trouble
from headwater.store.identity import Origin

if TYPE_CHECKING:
    from headwater.cluster.api import ApiServer

_log = logging.getLogger(__name__)

#: Seconds for which the answer holds for lists and watches of other resources.
_FRESH: Final = 5.0


class AnotherCluster(Exception):  # noqa: N818 (what was found)
    """The API server is not of the cluster that the store came from."""


class Recognition:
    """The identity of the store's cluster, for all threads of one process."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """`folder` is the store's generation, which keeps the answer."""
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._known = Origin.read(folder)
        self._asked = ("", 0.0)
        self.another = ""
        """The reason why the store is not this cluster's, once it is known."""

    def confirm(self, server: ApiServer, *, listing: bool) -> None:
        """Make sure that a server is of the store's cluster, before a list (`listing`) or a watch.

        A watch need not ask again while its server's connection and credentials are those that were
        confirmed. Raises AnotherCluster, and RequestFailed when there is no answer.
        """
        if server.confirmed and not listing:
            return
        server.prepare()
        with self._lock:
            if self.another:
                raise AnotherCluster(self.another)
            host, asked = self._asked
            if not host or host != server.host or self._clock() - asked > _FRESH:
                self._ask(server)
        server.confirmed = True

    def doubt(self, server: ApiServer) -> None:
        """Its connection was lost, or its credentials changed: another server may answer there."""
        server.confirmed = False
        with self._lock:
            self._asked = ("", 0.0)

    def _ask(self, server: ApiServer) -> None:
        uid = _uid(server.kube_system())
        seen = Origin(uid, server.host)
        known = self._known
        if known is not None and known.is_another(seen):
            self.another = f"it is of another cluster: {known}, and the API server's is {seen}"
            raise AnotherCluster(self.another)
        now = Origin(uid or (known.uid if known is not None else ""), server.host)
        if now != known:
            try:
                now.write(self._folder)
            except OSError as error:
                if known is None:  # else objects of two clusters could mix later
                    raise RequestFailed(Trouble.SERVER, f"{self._folder}: {error.strerror}") from None
                _log.warning("%s: %s", self._folder, error.strerror)
            if known is not None and known.address != now.address:
                _log.info("the same cluster at another address: %s, before %s", now.address, known.address)
            self._known = now
        self._asked = (server.host, self._clock())


def seen(server: ApiServer) -> tuple[Origin, int]:
    """The cluster of a server, and how far it is: its newest resourceVersion, 0 if it is no number.

    The list comes from etcd, not from a cache. Raises RequestFailed.
    """
    server.prepare()
    body = server.kube_system()
    return Origin(_uid(body), server.host), version_number(_LIST.decode(body).metadata.resourceVersion)


class _Meta(msgspec.Struct):
    name: str = ""
    uid: str = ""


class _ListMeta(msgspec.Struct):
    resourceVersion: str = ""  # noqa: N815 (the API's name)


class _Item(msgspec.Struct):
    metadata: _Meta


class _List(msgspec.Struct):
    items: list[_Item] | None
    """Not optional: a document without it is no list, and says nothing about the cluster."""
    metadata: _ListMeta = msgspec.field(default_factory=_ListMeta)


_LIST: Final = msgspec.json.Decoder(_List)


def _uid(body: bytes) -> str:
    """The UID of kube-system in a list of namespaces, "" when it is not there.

    Raises RequestFailed.
    """
    try:
        items = _LIST.decode(body).items or ()
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RequestFailed(Trouble.SERVER, f"namespace kube-system: not a list: {error}") from None
    return next((item.metadata.uid for item in items if item.metadata.name == "kube-system"), "")
