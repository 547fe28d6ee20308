"""One resource kept true: decides, without I/O, the next request to the API server.

    LIST page ─▶ page ─▶ … ─▶ complete ─▶ WATCH ─▶ events, bookmarks ─▶ ends ─▶ WATCH again
      ▲                                     │
      ├──────────── 410 Gone ───────────────┤          any failure: wait, then the same again
      └───── 404, the CRD is not there ─────┘          404 for a list: empty; ask seldom

With `stream` a watch replaces the list (client-go: WatchList): it begins with all objects, and a
bookmark marks their end. When a server refuses that, or twice does not reach the bookmark, its
lists are taken in pages.

A `Reflector` is a machine: `next` says what to do (list a page, watch, wait), and the other methods
take the result. It has no socket, no thread and no clock of its own, so a test can walk every path
through it.

The rules are those of client-go (tools/cache/reflector.go): a list in pages
without a resourceVersion, a watch from the list's version with bookmarks, a
watch that ends well is resumed at once from the last version seen, 410 leads to
a new list, server errors back off to 30 s. A refused connection is cheap and is
tried again within 2 s.

Versions are numbers that grow (KEP-5504), also along a watch. A watch with an older version is out
of order, and leads to a new list. Versions of an aggregated API server may be no numbers. They have
no order, so their watches are never out of order.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from headwater.cluster.objects import is_older
from headwater.cluster.timing import USUAL, Timing

#: Objects per page of a list, as kubectl and client-go ask for.
PAGE: Final = 500
#: Tries with a version that the server has not reached yet; then a new list (the server was
#: restored from a backup).
_AHEAD: Final = 3
#: When a list's token expires before its end, pages grow, up to so many objects.
_LARGEST: Final = 16 * PAGE
#: The divisor of a page's size after a page that was too large.
_FEWER: Final = 4
#: Versions to remember, to tell an event that came twice from one that came too late.
_TOLD: Final = 256
#: The version of the empty list of a resource that is not installed. No watch can begin from it.
NOT_INSTALLED: Final = "none"


class Trouble(Enum):
    """The kinds of failed requests, by the remedy."""

    EXPIRED = "expired"
    """410: the version is no longer known; list anew."""
    AHEAD = "ahead"
    """504 ResourceVersionTooLarge: the server does not know the version yet."""
    REFUSED = "refused"
    """400, 422: the server does not understand the request."""
    UNAUTHORIZED = "unauthorized"
    """401: read the credentials again."""
    FORBIDDEN = "forbidden"
    """403: a permission is missing."""
    NOT_INSTALLED = "not installed"
    """404 for a custom resource: there is no such CRD, and so no object of it."""
    THROTTLED = "throttled"
    """429, or 503 with Retry-After: the server says when."""
    SERVER = "server"
    """Another status, or a body that does not parse."""
    CREDENTIALS = "credentials"
    """The credentials cannot be read, so nothing was asked."""
    UNVERIFIED = "unverified"
    """TLS: one side does not believe the other. Read the credentials again."""
    TOO_LARGE = "too large"
    """A page with too many bytes; ask for fewer objects."""
    UNREACHABLE = "unreachable"
    """No connection, or one that fell silent."""


class RequestFailed(Exception):  # noqa: N818 (the field's word)
    """A request that gave no result. `status` is 0 when there was none."""

    def __init__(self, trouble: Trouble, text: str, status: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.trouble = trouble
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class ListPage:
    """Ask for a page; the first has no `continue_token`."""

    continue_token: str = ""
    limit: int = PAGE


@dataclass(frozen=True, slots=True)
class Watch:
    """Watch from a version on, for that many seconds; `initial`: beginning with all objects."""

    resource_version: str
    seconds: int
    initial: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for that many seconds."""

    seconds: float


Action = ListPage | Watch | Wait


@dataclass(slots=True)
class Counters:
    """The counters of a resource, for operators."""

    connected: bool = False
    resource_version: str = ""
    proof_of_life: float = 0.0
    """The clock's time of the last page, event or bookmark."""
    events: int = 0
    outdated: int = 0
    """Events that were older than those before."""
    relists: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    """By HTTP status, or by the trouble's name where there was none."""
    problem: str = ""
    """The reason why the last request failed; empty after a success."""


class Reflector:
    """The state of one resource.

    `resource_version`: where a stored list left off, NOT_INSTALLED or empty.
    """

    def __init__(
        self,
        resource_version: str,
        clock: Callable[[], float],
        uniform: Callable[[float, float], float] = random.uniform,
        *,
        stream: bool = False,
        timing: Timing = USUAL,
    ) -> None:
        self._clock = clock
        self._timing = timing
        self._uniform = uniform
        self._stream = stream
        self._initial = False
        self._unfinished = 0
        self._continue = ""
        self._limit = PAGE
        self._failures = 0
        self._wait = 0.0
        self._watch_began = 0.0
        self._watch_events = 0
        self._expired = False
        self._ahead = 0
        self._absent = False
        self.must_list = False
        """A new list was asked for, and has not begun."""
        self._must_confirm = False
        self.confirming = False
        """The list under way is a second one: it is taken in pages that come from no cache."""
        self._told: deque[str] = deque(maxlen=_TOLD)
        self.out_of_order = False
        """The watch under way must be ended."""
        self.state = Counters(resource_version="" if resource_version == NOT_INSTALLED else resource_version)

    def next(self) -> Action:
        """The next step."""
        if self._wait:
            seconds, self._wait = self._wait, 0.0
            return Wait(seconds)
        if self.must_list:
            self.must_list = self.out_of_order = False
            self.state.resource_version = self._continue = ""
            self.confirming, self._must_confirm = self._must_confirm or self.confirming, False
        self._initial = self._stream and not self.confirming and not self.state.resource_version
        if not self.state.resource_version and not self._initial:
            return ListPage(self._continue, self._limit)
        self._watch_began = self._clock()
        self._watch_events = 0
        seconds = int(self._uniform(*self._timing.watch))
        return Watch(self.state.resource_version, seconds, self._initial)

    def page(self, resource_version: str, continue_token: str) -> bool:
        """A page came. True when it was the last: the list is complete as of that version."""
        self._alive()
        self._absent = False
        self._continue = continue_token
        if continue_token:
            self._failures = 0
            return False
        return self._complete(resource_version)

    def _complete(self, resource_version: str) -> bool:
        """A list's end; False when it has no version: it is useless, and taken again."""
        if not resource_version:
            self._back_off()
            return False
        self._failures = 0
        self._limit = PAGE
        self._ahead = 0
        self.state.resource_version = resource_version
        self.state.relists += 1
        self.confirming = False
        return True

    def relist(self, *, confirm: bool = False) -> None:
        """Take a new list next, and end the watch under way. From any thread.

        `confirm`: to confirm another list, see `confirming`.
        """
        self._must_confirm |= confirm
        self.must_list = True

    def watching(self) -> None:
        """The server took the watch."""
        self._alive()
        self.state.connected = True

    def initial(self) -> None:
        """One of a stream's initial objects came."""
        self._alive()
        self._watch_events += 1

    def initial_end(self, resource_version: str) -> bool:
        """The end of the initial objects. True when the list is complete as of that version."""
        self._alive()
        self._initial = False
        self._absent = False
        self._unfinished = 0
        return self._complete(resource_version)

    def event(self, resource_version: str) -> bool:
        """An event came; its object is of that version. False when it is older than earlier ones.

        An event that came before is passed over. Any other older one means that the stream is not
        in order, and may have gaps: a new list is taken.
        """
        self._progress()
        self.state.events += 1
        if is_older(resource_version, self.state.resource_version):
            self.state.outdated += 1
            if resource_version not in self._told:
                self.out_of_order = True
                self.must_list = True
                self._back_off()
            return False
        if resource_version:
            self.state.resource_version = resource_version
            self._told.append(resource_version)
        return True

    def bookmark(self, resource_version: str) -> None:
        """Nothing changed up to that version."""
        self._progress()
        if resource_version and not is_older(resource_version, self.state.resource_version):
            self.state.resource_version = resource_version

    def _progress(self) -> None:
        self._alive()
        self._failures = 0
        self._ahead = 0
        self._expired = False
        self._watch_events += 1

    def watch_ended(self) -> None:
        """The server ended the watch without an error: resume, but not in a tight loop."""
        self.state.connected = False
        if self._initial:
            self._not_finished()
            self._back_off()
        elif self._watch_events == 0 and self._clock() - self._watch_began < self._timing.too_short:
            self._back_off()
        else:
            self._failures = 0

    def _not_finished(self) -> None:
        """A stream broke off before the end of its initial objects."""
        self._unfinished += 1
        if self._unfinished == 2:
            self._stream = False

    def failed(self, error: RequestFailed) -> bool:
        """A list or a watch failed, at its start or in its course.

        True when that means a complete, empty list, as of NOT_INSTALLED; once, until a page comes.
        """
        self.state.connected = False
        name = str(error.status) if error.status else error.trouble.value
        self.state.errors[name] = self.state.errors.get(name, 0) + 1
        if error.trouble is not Trouble.EXPIRED:
            self.state.problem = str(error)
        if self._initial and error.trouble is Trouble.REFUSED:
            self._stream = False
            return False
        if self._initial:
            self._not_finished()
        match error.trouble:
            case Trouble.EXPIRED:
                if not self.state.resource_version:
                    # A continue token expires like a version. The list starts over, with larger
                    # pages.
                    self._limit = min(self._limit * 2, _LARGEST)
                    self._back_off()
                elif self._expired:
                    self._back_off()  # a list whose own version is gone at once, again
                self._expired = True
                self.state.resource_version = ""
                self._continue = ""
            case Trouble.AHEAD:
                self._ahead += 1
                if self._ahead >= _AHEAD:
                    self._ahead = 0
                    self.state.resource_version = ""
                self._back_off()
            case Trouble.TOO_LARGE:
                self._limit = max(1, self._limit // _FEWER)
                self._back_off()
            case Trouble.CREDENTIALS:
                self._wait = self._uniform(*self._timing.unreadable)
            case Trouble.UNVERIFIED:
                self._wait = self._uniform(*self._timing.unverified)
            case Trouble.UNREACHABLE:
                self._wait = self._uniform(*self._timing.reconnect)
            case Trouble.FORBIDDEN:
                self._wait = self._uniform(*self._timing.missing)
            case Trouble.NOT_INSTALLED:
                return self._not_installed()
            case Trouble.THROTTLED if error.retry_after > 0:
                self._wait = error.retry_after + self._uniform(0.0, 0.25)
            case _:
                self._back_off()
        return False

    def credentials(self, problem: str) -> None:
        """The credentials could not be read again; the earlier ones stay in use."""
        name = Trouble.CREDENTIALS.value
        self.state.errors[name] = self.state.errors.get(name, 0) + 1
        self.state.problem = problem

    def _not_installed(self) -> bool:
        watching, self.state.resource_version = bool(self.state.resource_version), ""
        self._continue = ""
        if watching:
            # Only a list deletes stored objects: one of several API servers may not know a new CRD
            # yet.
            self._back_off()
            return False
        self._alive()
        self._failures = 0
        self._wait = self._uniform(*self._timing.missing)
        if self._absent:
            return False
        self._absent = True
        self.state.relists += 1
        return True

    def _alive(self) -> None:
        self.state.proof_of_life = self._clock()
        self.state.problem = ""

    def _back_off(self) -> None:
        ceiling = min(self._timing.backoff_last, self._timing.backoff_first * 2**self._failures)
        self._failures = min(self._failures + 1, 16)
        self._wait = max(0.05, self._uniform(0.0, ceiling))
