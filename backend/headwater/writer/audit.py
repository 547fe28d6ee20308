"""The audit: compare the store with the API server once per interval, and mend what differs.

The server lists metadata only, page by page, in the order of the store's keys. Each page is
compared with one range of the store, and only the differences are kept in memory. A difference may
be a change that is still on its way. It counts when, some seconds later, the server still lists it
and the store has still not received it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from headwater.cluster.objects import Resource, is_behind, version_mark
from headwater.cluster.reflector import PAGE, RequestFailed, Trouble
from headwater.cluster.timing import USUAL, Timing
from headwater.writer.ledger import Ledger
from headwater.writer.posting import object_key

if TYPE_CHECKING:
    from headwater.cluster.api import ApiServer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listed:
    """An object as the server lists it."""

    key: bytes
    version: int
    """Its version as a number (`objects.version_mark`); 0 when the server does not give one."""


class _Meta(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    resourceVersion: str = ""  # noqa: N815 (the API's name)


class _Item(msgspec.Struct):
    metadata: _Meta


class _ListMeta(msgspec.Struct):
    resourceVersion: str = ""  # noqa: N815
    continue_: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct):
    metadata: _ListMeta
    items: list[_Item] | None = None


_PAGE: Final = msgspec.json.Decoder(_Page)


def compare(listed: Iterable[Listed], stored: Iterable[tuple[bytes, int]]) -> Iterator[tuple[bytes, int]]:
    """Yield (key, the server's version or 0) of each object that differs.

    Both inputs are sorted by key. An object differs when the store's version is older, when the
    store lacks it, or when only the store has it (version 0). An object that is newer in the store
    does not differ: the store has received a later event than the list.
    """
    known = dict(stored)
    for item in listed:
        version = known.pop(item.key, None)
        if version is None or (item.version and is_behind(version, item.version)):
            yield item.key, item.version
    for key in known:
        yield key, 0


class Auditor:
    """The audits of one watch process. `run` is the target of their thread."""

    def __init__(
        self,
        resources: Sequence[Resource],
        connect: Callable[[], ApiServer],
        ledger: Ledger,
        is_ready: Callable[[], bool],
        relist: Callable[[Resource], None],
        interval: float,
        stopping: threading.Event,
        timing: Timing = USUAL,
    ) -> None:
        """Keep the arguments.

        `connect` makes a client when the first one is needed. Nothing is read before `is_ready`
        returns True. `relist` makes a resource's follower list it again. `interval` is in seconds.
        """
        self._resources = resources
        self._connect = connect
        self._server: ApiServer | None = None
        self._ledger = ledger
        self._is_ready = is_ready
        self._relist = relist
        self._interval = interval
        self._stopping = stopping
        self._timing = timing
        self.differences: dict[str, int] = dict.fromkeys(resources, 0)
        """Differences found so far, by resource."""
        self._left_out: dict[Resource, dict[bytes, int]] = {}
        """The differences that the last audit found, {key: version or 0}.

        The list that followed did not mend them, so another list would not either. Such an object
        does not decode, or cannot be stored, or could not be removed.
        """
        self.runs = 0
        """Audits that compared every resource."""

    def run(self) -> None:
        """Audit every resource once per interval, until told to stop."""
        wait = self._interval
        while not self._stopping.wait(wait):
            wait = self._interval
            if not self._is_ready():
                continue
            try:
                for resource in self._resources:
                    self.audit(resource)
                self.runs += 1
            except RequestFailed as error:
                self._server = None  # its credentials may have expired
                if error.trouble is not Trouble.NOT_INSTALLED:
                    _log.info("audit given up: %s", error)
                    wait = min(self._interval, self._timing.audit_retry)
            except Exception:  # noqa: BLE001 (a failing audit must not stop the process)
                _log.exception("audit: unexpected")

    def audit(self, resource: Resource) -> int:
        """Compare one resource, and list it again if it differs.

        Return the number of objects that differ. Raises RequestFailed.
        """
        suspects, _ = self._suspects(resource)
        if not suspects:
            self._left_out.pop(resource, None)
            return 0
        if self._stopping.wait(self._timing.audit_grace):
            return 0
        again, version = self._suspects(resource)
        if self._stopping.wait(self._timing.audit_grace):
            return 0
        differing = {
            key: again[key] for key in suspects.keys() & again.keys() if self._still_differs(key, again[key], version)
        }
        known = self._left_out.get(resource, {})
        self._left_out[resource] = differing
        lost = [key for key, version in differing.items() if known.get(key) != version]
        if lost:
            self.differences[resource] += len(lost)
            names = ", ".join(key.decode().partition("/")[2] for key in sorted(lost)[:3])
            _log.warning(
                "audit: %s %s differ from the API server (%s%s): listing them again",
                f"{len(lost):,}", resource, names, ", …" if len(lost) > 3 else "",
            )  # fmt: skip
            self._relist(resource)
        return len(lost)

    def _still_differs(self, key: bytes, version: int, listed: int) -> bool:
        """Return whether the store still lacks an object's `version`.

        With version 0 the object is not listed: return whether the store still has it as of the
        list's version, `listed`.
        """
        stored = self._ledger.stored_version(key)
        if version:
            return stored is None or is_behind(stored, version)
        return stored is not None and (stored == listed or is_behind(stored, listed))

    def _suspects(self, resource: Resource) -> tuple[dict[bytes, int], int]:
        """List a resource page by page. Return its differences and the list's own version.

        The differences are {key: the server's version or 0}. Raises RequestFailed.
        """
        server = self._server = self._server or self._connect()
        found: dict[bytes, int] = {}
        token, start = "", resource.encode() + b"/"
        end = resource.encode() + b"0"  # sorts after every "resource/…"
        limit = PAGE
        while True:
            try:
                body = server.page(resource, limit, token, metadata_only=True)
            except RequestFailed as error:
                if error.trouble is not Trouble.TOO_LARGE or limit == 1:
                    raise
                limit = max(1, limit // 4)
                continue
            try:
                page = _PAGE.decode(body)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise RequestFailed(Trouble.SERVER, f"audit {resource}: not a list: {error}") from None
            listed = [
                Listed(
                    object_key(resource, (item.metadata.namespace, item.metadata.name)),
                    version_mark(item.metadata.resourceVersion),
                )
                for item in page.items or ()
            ]
            token = page.metadata.continue_
            stop = listed[-1].key + b"\0" if token and listed else start if token else end
            found.update(compare(listed, self._ledger.stored_versions(start, stop)))
            start = stop
            if not token:
                return found, version_mark(page.metadata.resourceVersion)
            if self._stopping.wait(self._timing.audit_pause):
                return {}, 0
