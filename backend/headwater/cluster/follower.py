"""One resource followed: a thread that does what its reflector says, and puts what it hears into a queue.

All decisions are the reflector's; here is the reading of pages and lines. Objects
of lists are handed on as they came, for the main thread to decode: the server
prepares the next page meanwhile.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from headwater.cluster.changes import Change, ListComplete, Progress, Remove, Upsert
from headwater.cluster.objects import OddObject, Resource, decode
from headwater.cluster.reflector import NOT_INSTALLED, PAGE, ListPage, Reflector, RequestFailed, Trouble, Wait, Watch
from headwater.cluster.refusals import failure
from headwater.settings.error import SettingsError

if TYPE_CHECKING:
    from headwater.cluster.api import ApiServer

_log = logging.getLogger(__name__)

#: Marks the end of what a stream begins with.
_INITIAL_END: Final = "k8s.io/initial-events-end"


@dataclass(frozen=True, slots=True)
class RawPage:
    """Objects of a list as they came. Whoever has taken them over releases a place in `Inbox.pages`."""

    resource: Resource
    items: list[msgspec.Raw]
    first: bool


@dataclass(frozen=True, slots=True)
class Inbox:
    """Between the followers and the main thread."""

    changes: queue.Queue[Change | RawPage]
    pages: threading.Semaphore
    """Pages that may be under way or waiting, over all resources."""
    report: Callable[[str, str, str, str], None]
    """Hears of objects that are none: (reason, namespace, name, detail)."""
    stopping: threading.Event


class Follower:
    """One resource of one API server. `run` is the thread."""

    def __init__(self, resource: Resource, reflector: Reflector, server: ApiServer, inbox: Inbox) -> None:
        self.resource = resource
        self.reflector = reflector
        self.server = server
        self._inbox = inbox

    def run(self) -> None:
        """Until told to stop: do what the reflector says, tell it how it went."""
        last_error = ""
        while not self._inbox.stopping.is_set():
            action = self.reflector.next()
            try:
                match action:
                    case Wait(seconds):
                        self._inbox.stopping.wait(seconds)
                    case ListPage():
                        self._list_page(action)
                        last_error = ""
                    case Watch():
                        lines = self.server.watch(
                            self.resource, action.resource_version, action.seconds, initial=action.initial
                        )
                        self.reflector.watching()
                        last_error = ""
                        if self.reflector.must_list:
                            self.server.hang_up()  # asked for before there was anything to hang up
                        self._take_lines(lines, initial=action.initial)
                        self.reflector.watch_ended()
            except RequestFailed as error:
                if str(error) != last_error:
                    last_error = str(error)
                    level = logging.INFO if error.trouble is Trouble.EXPIRED else logging.WARNING
                    _log.log(level, "%s", error)
                if self.reflector.failed(error):
                    self._put_page([], first=True)
                    self._inbox.changes.put(ListComplete(self.resource, NOT_INSTALLED))
                if error.trouble is Trouble.UNAUTHORIZED:
                    self._read_credentials()
            except Exception as error:  # noqa: BLE001 (one resource's bug must not stop the others)
                _log.exception("%s: unexpected", self.resource)
                self.reflector.failed(RequestFailed(Trouble.SERVER, str(error)))

    def relist(self, *, confirm: bool = False) -> None:
        """Take a new list at once; `confirm`: as a second opinion, not from a cache. From any thread."""
        self.reflector.relist(confirm=confirm)
        self.server.hang_up()

    def _read_credentials(self) -> None:
        try:
            self.server.reload()
        except SettingsError as error:
            _log.warning("%s", error)

    def _list_page(self, action: ListPage) -> None:
        self._inbox.pages.acquire()
        try:
            body = self.server.page(self.resource, action.limit, action.continue_token)
            try:
                page = _PAGE.decode(body)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise RequestFailed(Trouble.SERVER, f"list {self.resource}: not a list: {error}") from None
        except BaseException:
            self._inbox.pages.release()
            raise
        self._inbox.changes.put(RawPage(self.resource, page.items or [], not action.continue_token))
        confirms = self.reflector.confirming
        if self.reflector.page(page.metadata.resourceVersion, page.metadata.continue_):
            self._inbox.changes.put(ListComplete(self.resource, page.metadata.resourceVersion, confirms))

    def _put_page(self, items: list[msgspec.Raw], *, first: bool) -> None:
        self._inbox.pages.acquire()
        self._inbox.changes.put(RawPage(self.resource, items, first))

    def _take_lines(self, lines: Iterable[bytes], *, initial: bool) -> None:
        waiting: list[msgspec.Raw] = []
        first = True
        for line in lines:
            try:
                event = _EVENT.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise RequestFailed(Trouble.SERVER, f"watch {self.resource}: not an event: {error}") from None
            if not initial or event.type == "ERROR":
                self._take_event(event)
                if self.reflector.out_of_order:
                    _log.warning("watch %s: out of order: listing anew", self.resource)
                    return
                continue
            if event.type != "BOOKMARK":
                self.reflector.initial()
                waiting.append(event.object)
                if len(waiting) == PAGE:
                    self._put_page(waiting, first=first)
                    waiting, first = [], False
                continue
            meta = _metadata(event.object)
            if _INITIAL_END in (meta.annotations or ()):
                initial = False
                self._put_page(waiting, first=first)
                if self.reflector.initial_end(meta.resourceVersion):
                    self._inbox.changes.put(ListComplete(self.resource, meta.resourceVersion))
            else:  # a server that streams lists sends none before that one
                text = f"watch {self.resource}: the server does not stream lists (listing in pages)"
                raise RequestFailed(Trouble.REFUSED, text)

    def _take_event(self, event: _Event) -> None:
        resource, reflector, changes = self.resource, self.reflector, self._inbox.changes
        if event.type == "ERROR":
            status = _status(event.object)
            raise failure(status.code, status.message, resource)
        if event.type == "BOOKMARK":
            version = _metadata(event.object).resourceVersion
            reflector.bookmark(version)
            if version:
                changes.put(Progress(resource, version))
            return
        try:
            decoded = decode(resource, event.object)
        except OddObject as error:
            self._inbox.report("object", "", "", str(error))
            reflector.event(_metadata(event.object).resourceVersion)
            return
        if not reflector.event(decoded.resource_version):
            return
        if event.type == "DELETED":
            changes.put(Remove(resource, decoded.object.key, decoded.resource_version))
        else:
            changes.put(Upsert(resource, decoded))


class _ListMeta(msgspec.Struct):
    resourceVersion: str = ""  # noqa: N815 (the API's name)
    continue_: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


class _AnyMeta(msgspec.Struct):
    resourceVersion: str = ""  # noqa: N815
    annotations: dict[str, str] | None = None


class _Any(msgspec.Struct):
    metadata: _AnyMeta


_PAGE: Final = msgspec.json.Decoder(_Page)
_EVENT: Final = msgspec.json.Decoder(_Event)
_STATUS: Final = msgspec.json.Decoder(_Status)
_ANY: Final = msgspec.json.Decoder(_Any)


def _status(data: msgspec.Raw) -> _Status:
    try:
        return _STATUS.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Status(0, "an error event without a status")


def _metadata(data: msgspec.Raw) -> _AnyMeta:
    """What any object's metadata says of its version; nothing when there is none."""
    try:
        return _ANY.decode(data).metadata
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _AnyMeta()
