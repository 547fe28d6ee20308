"""One resource followed: a thread that does what its reflector says, and fills a queue.

The thread's work is `Follower.steps`, one after the other. It waits where they say so, and a test
can take the steps itself. The reflector decides everything; this module reads pages and lines. It
passes objects of lists on undecoded. The main thread decodes them while the server prepares the
next page.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from headwater.cluster.changes import Change, ListComplete, Progress, Remove, Upsert
from headwater.cluster.objects import OddObject, Resource, decode
from headwater.cluster.recognition import AnotherCluster, Recognition
from headwater.cluster.reflector import NOT_INSTALLED, PAGE, ListPage, Reflector, RequestFailed, Trouble, Wait, Watch
from headwater.cluster.refusals import failure
from headwater.settings.error import SettingsError

if TYPE_CHECKING:
    from headwater.cluster.api import ApiServer

_log = logging.getLogger(__name__)

#: The most pages without an object in a row before a list's end.
_BARREN: Final = 100
#: Marks the end of a stream's initial objects.
_INITIAL_END: Final = "k8s.io/initial-events-end"


@dataclass(frozen=True, slots=True)
class RawPage:
    """Objects of a list, undecoded. Their receiver releases a place in `Inbox.pages`."""

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
    """Gets bad objects: (reason, namespace, name, detail)."""
    stopping: threading.Event
    at_once: Callable[[Upsert | Remove], bool] = lambda _: False
    """Takes a change of a watch without the queue, or says that it has to go there."""


class Follower:
    """One resource of one API server. `run` is the thread."""

    def __init__(
        self,
        resource: Resource,
        reflector: Reflector,
        server: ApiServer,
        inbox: Inbox,
        recognition: Recognition,
    ) -> None:
        self.resource = resource
        self.reflector = reflector
        self.server = server
        self._inbox = inbox
        self._recognition = recognition
        self._barren = 0
        """Empty pages in a row that were not the last."""

    def run(self) -> None:
        """Do what the reflector says, until told to stop, or until this is another cluster."""
        for seconds in self.steps():
            if seconds:
                self._inbox.stopping.wait(seconds)

    def steps(self) -> Iterator[float]:
        """Do what `run` does, a request or a line at a time; each yields its wait, in seconds."""
        last_error = ""
        while not self._inbox.stopping.is_set():
            action = self.reflector.next()
            try:
                match action:
                    case Wait(seconds):
                        yield seconds
                    case ListPage():
                        if not action.continue_token:
                            self._recognition.confirm(self.server, listing=True)
                        self._list_page(action)
                        last_error = ""
                        yield 0.0
                    case Watch():
                        self._recognition.confirm(self.server, listing=action.initial)
                        lines = self.server.watch(
                            self.resource, action.resource_version, action.seconds, initial=action.initial
                        )
                        self.reflector.watching()
                        last_error = ""
                        if self.reflector.must_list:
                            self.server.hang_up()  # asked for before there was a watch to interrupt
                        yield from self._take_lines(lines, initial=action.initial)
                        self.reflector.watch_ended()
            except AnotherCluster:
                return  # the main thread sees it, and ends the process
            except RequestFailed as error:
                if str(error) != last_error:
                    last_error = str(error)
                    level = logging.INFO if error.trouble is Trouble.EXPIRED else logging.WARNING
                    _log.log(level, "%s", error)
                if self.reflector.failed(error):
                    self._put_page([], first=True)
                    self._inbox.changes.put(ListComplete(self.resource, NOT_INSTALLED))
                if error.trouble in (Trouble.UNAUTHORIZED, Trouble.UNVERIFIED, Trouble.UNREACHABLE):
                    self._recognition.doubt(self.server)
                self._read_credentials(error.trouble)
            except Exception as error:  # noqa: BLE001 (one resource's bug must not stop the others)
                _log.exception("%s: unexpected", self.resource)
                self.reflector.failed(RequestFailed(Trouble.SERVER, str(error)))

    def relist(self, *, confirm: bool = False) -> None:
        """Take a new list at once; `confirm`: as a second opinion, not from a cache.

        From any thread.
        """
        self.reflector.relist(confirm=confirm)
        self.server.hang_up()

    def _read_credentials(self, why: Trouble) -> None:
        """Read the credentials again, if that may help."""
        try:
            if why is Trouble.UNAUTHORIZED:
                self.server.reload()
            elif why in (Trouble.UNVERIFIED, Trouble.FORBIDDEN):
                # 403 also answers anonymous requests: a token's file may have been empty for a
                # moment.
                self.server.reload_if_due()
        except SettingsError as error:
            self.reflector.credentials(str(error))
            _log.warning("%s (the credentials from before are tried on)", error)

    def _list_page(self, action: ListPage) -> None:
        self._inbox.pages.acquire()
        try:
            body = self.server.page(self.resource, action.limit, action.continue_token)
            try:
                page = _PAGE.decode(body)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise RequestFailed(Trouble.SERVER, f"list {self.resource}: not a list: {error}") from None
            self._check_progress(action.continue_token, page)
        except BaseException:
            self._inbox.pages.release()
            raise
        self._inbox.changes.put(RawPage(self.resource, page.items or [], not action.continue_token))
        confirms = self.reflector.confirming
        if self.reflector.page(page.metadata.resourceVersion, page.metadata.continue_):
            self._inbox.changes.put(ListComplete(self.resource, page.metadata.resourceVersion, confirms))

    def _check_progress(self, asked: str, page: _Page) -> None:
        """Raises RequestFailed for a list without an end; it is begun again after a while."""
        token = page.metadata.continue_
        self._barren = 0 if page.items or not token else self._barren + 1
        if token and (token == asked or self._barren > _BARREN):
            self._barren = 0
            text = f"list {self.resource}: the server has more to come, and nothing comes: listing anew"
            raise RequestFailed(Trouble.EXPIRED, text)

    def _put_page(self, items: list[msgspec.Raw], *, first: bool) -> None:
        self._inbox.pages.acquire()
        self._inbox.changes.put(RawPage(self.resource, items, first))

    def _take_lines(self, lines: Iterable[bytes], *, initial: bool) -> Iterator[float]:
        stream = _Initial(self._put_page)
        yield 0.0
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
                yield 0.0
                continue
            if event.type != "BOOKMARK":
                self.reflector.initial()
                stream.take(event)
                yield 0.0
                continue
            meta = _metadata(event.object)
            if _INITIAL_END in (meta.annotations or ()):
                initial = False
                stream.finish()
                if self.reflector.initial_end(meta.resourceVersion):
                    gone = tuple(stream.deleted)
                    self._inbox.changes.put(ListComplete(self.resource, meta.resourceVersion, gone=gone))
            else:  # a server that streams lists sends none before that one
                text = f"watch {self.resource}: the server does not stream lists (listing in pages)"
                raise RequestFailed(Trouble.REFUSED, text)
            yield 0.0

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
        change = (
            Remove(resource, decoded.object.key, decoded.resource_version)
            if event.type == "DELETED"
            else Upsert(resource, decoded)
        )
        if not self._inbox.at_once(change):
            changes.put(change)


class _Initial:
    """A stream's initial objects as pages of a list; changes may come between them."""

    def __init__(self, put: Callable[..., None]) -> None:
        self._put = put
        self._waiting: list[msgspec.Raw] = []
        self._first = True
        self.deleted: dict[tuple[str, str], None] = {}
        """Deleted objects. Earlier pages may have them; the list's end says that they are gone."""

    def take(self, event: _Event) -> None:
        meta = _metadata(event.object)
        key = meta.namespace, meta.name
        if event.type == "DELETED":
            self.deleted[key] = None
            return
        # An object that comes twice is in the page twice, or in a later one, and the later counts.
        self.deleted.pop(key, None)
        self._waiting.append(event.object)
        if len(self._waiting) == PAGE:
            self._put(self._waiting, first=self._first)
            self._waiting, self._first = [], False

    def finish(self) -> None:
        self._put(self._waiting, first=self._first)


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
    name: str = ""
    namespace: str = ""
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
    """The version in an object's metadata; empty when there is none."""
    try:
        return _ANY.decode(data).metadata
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _AnyMeta()
