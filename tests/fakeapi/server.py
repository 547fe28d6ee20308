"""A fake API server: list and watch over HTTP/1.1, with every byte under the test's control.

    with FakeApiServer(Truth(manifests)) as api:
        api.on("watch", "services", faults.status(503, retry_after=1), times=2)
        ...
        assert api.count("list") == 3

It has one thread for each connection. It uses sockets, because an ASGI server hides what the faults
are made of: where a chunk ends, a reset in the middle of a body, silence before the head, an
address that refuses for a while. Without a fault it answers as kube-apiserver does
(staging/src/k8s.io/apiserver).
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, islice
from types import TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import parse_qsl, urlsplit

import msgspec
from headwater.cluster.objects import Resource
from headwater.cluster.refusals import PATHS
from headwater.settings import selectors

from tests.fakeapi.truth import Selection, Snapshot, Stored, Truth, kind_of

Verb = Literal["list", "metadata", "watch", "other"]
"""`metadata` is a list of PartialObjectMetadata."""

#: How often an idle watch looks for new events, in seconds.
_TICK: Final = 0.02
#: The least size of the pieces of a list's body, in bytes.
_PIECE: Final = 1 << 18
#: A watch that begins with more objects than this sends several in one piece.
_MANY: Final = 10_000
_RESOURCE_OF: Final = {path: resource for resource, path in PATHS.items()}
_PARTIAL: Final = "as=PartialObjectMetadataList"
_VERSION: Final = re.compile(rb'("resourceVersion": ?")(\d+")')
#: Stands before a version that must not be a number.
_PREFIX: Final = "v"
#: The field selector with which a client asks which cluster this is.
_KUBE_SYSTEM: Final = "metadata.name=kube-system"
_INITIAL_END: Final = "k8s.io/initial-events-end"


class Cut(Exception):  # noqa: N818 (what happens to the connection)
    """Reset the connection here."""


class Silence(Exception):  # noqa: N818
    """Send nothing more, and keep the connection open."""


class Gone(Exception):  # noqa: N818
    """The client has closed the connection, or the server is closing."""


@dataclass(slots=True)
class Request:
    """One request; `status` is 0 until it was answered."""

    number: int
    time: float
    """Monotonic, in seconds."""
    resource: Resource | Literal[""]
    verb: Verb
    path: str
    query: dict[str, str]
    token: str
    status: int = 0
    ended: float = 0.0
    """When its answer was complete, or its connection was given up; monotonic, in seconds."""


Fault = Callable[["Exchange"], None]


@dataclass(slots=True)
class _Rule:
    verb: Verb | None
    resource: Resource | None
    fault: Fault
    times: float
    skip: int
    only: Callable[[Request], bool]

    def takes(self, request: Request) -> bool:
        if self.times <= 0 or self.verb not in (None, request.verb) or self.resource not in (None, request.resource):
            return False
        if not self.only(request):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


@dataclass(slots=True)
class Behaviour:
    """The behaviour that differs between versions and settings of kube-apiserver."""

    page: int = 500
    """Objects per page at most."""
    watch_list: Literal["yes", "refused", "ignored"] = "yes"
    """`refused`: the feature is off (422).

    `ignored`: older than the feature; parameters are ignored.
    """
    expired: Literal["event", "status"] = "event"
    """How a watch from a version that is too old is refused."""
    ahead: Literal["wait", "refuse"] = "wait"
    """How a watch from a future version is treated; `refuse` replies ResourceVersionTooLarge."""
    bookmarks: float = 0.25
    """Seconds between bookmarks; a real server sends them about once a minute."""
    installed: set[Resource] = field(default_factory=lambda: set(PATHS))
    uid: str = "c1f6b3a5-0b6e-4c1e-9a51-2f4d6f0e7a01"
    """The uid of the namespace kube-system, which identifies the
    cluster; "" if nobody may read it.
    """
    opaque: bool = False
    """Whether versions are not numbers, as an aggregated API server may have them."""
    tokens: set[str] | None = None
    """Bearer tokens that are accepted; None accepts every client."""


class FakeApiServer:
    """The server, from its construction to `close`. `kubeconfig` returns how to reach it."""

    def __init__(
        self, truth: Truth, behaviour: Behaviour | None = None, tls: ssl.SSLContext | None = None, port: int = 0
    ) -> None:
        self.truth = truth
        self.behaviour = behaviour or Behaviour()
        self.requests: list[Request] = []
        self.taken = 0
        """The number of connections so far, of any fate."""
        self.closing = threading.Event()
        self._tls = tls
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self.muted = False
        """Whether connections are accepted and nothing is read from them,
        so that not even TLS begins.
        """
        self._breaks = {"cut": 0, "end": 0}
        self._bookmarks = 0
        self._lists: dict[tuple[Resource, int], Snapshot] = {}
        self._handlers: set[_Handler] = set()
        self._listener: _Listener | None = None
        self.port = port
        self.up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Up and down

    def up(self) -> None:
        """Listen, on the same port as before."""
        self._listener = _Listener(self, self.port, self._tls)
        self.port = self._listener.server_port
        threading.Thread(target=self._listener.serve_forever, args=(0.005,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections from now on, and reset the open ones."""
        if self._listener is not None:
            self._listener.shutdown()
            self._listener.server_close()
            self._listener = None
        self.cut_all()

    def cut_all(self) -> None:
        """Reset every connection."""
        with self._lock:
            handlers = list(self._handlers)
        for handler in handlers:
            handler.reset()

    def close(self) -> None:
        self.closing.set()
        self.down()
        with self.truth.changed:
            self.truth.changed.notify_all()

    def kubeconfig(self, ca: bytes = b"", user: Mapping[str, Any] | None = None) -> str:
        """Return a kubeconfig for the server, as YAML (which JSON is)."""
        cluster = {"server": f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"}
        if ca:
            cluster["certificate-authority-data"] = base64.b64encode(ca).decode()
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "u", "user": dict(user or {"token": "t"})}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )

    # Faults

    def on(
        self,
        verb: Verb | None,
        resource: Resource | None,
        fault: Fault,
        *,
        times: float = 1,
        skip: int = 0,
        only: Callable[[Request], bool] = lambda _: True,
    ) -> None:
        """Answer the next `times` such requests with a fault, after `skip`
        others; None stands for all.
        """
        with self._lock:
            self._rules.append(_Rule(verb, resource, fault, times, skip, only))

    def heal(self) -> None:
        """Forget all faults that are still to come."""
        with self._lock:
            self._rules.clear()

    @property
    def pending(self) -> int:
        """Return how many of the counted faults are still to come."""
        with self._lock:
            return sum(int(rule.times) for rule in self._rules if rule.times != float("inf"))

    def break_watches(self) -> None:
        """Reset the connection of every watch."""
        self._break("cut")

    def end_watches(self) -> None:
        """End every watch in good order, as when its time is over."""
        self._break("end")

    def _break(self, how: str) -> None:
        with self.truth.changed:
            self._breaks[how] += 1
            self.truth.changed.notify_all()

    def bookmark(self) -> None:
        """Send a bookmark to every watch."""
        with self.truth.changed:
            self._bookmarks += 1
            self.truth.changed.notify_all()

    # Requests so far

    def asked(self, verb: Verb | None = None, resource: Resource | None = None, since: float = 0.0) -> list[Request]:
        """Return the requests so far."""
        with self._lock:
            return [
                item
                for item in self.requests
                if verb in (None, item.verb) and resource in (None, item.resource) and item.time >= since
            ]

    def count(self, verb: Verb | None = None, resource: Resource | None = None, since: float = 0.0) -> int:
        return len(self.asked(verb, resource, since))

    def watching(self, resource: Resource) -> int:
        """Return how many watches of a resource are open."""
        return sum(not item.ended and item.status == 200 for item in self.asked("watch", resource))

    # Requests

    def handle(self, handler: _Handler) -> None:
        """Answer one request."""
        url = urlsplit(handler.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        if self.behaviour.opaque and "resourceVersion" in query:
            query["resourceVersion"] = query["resourceVersion"].removeprefix(_PREFIX)
        resource: Resource | Literal[""] = _RESOURCE_OF.get(url.path, "")
        if query.get("fieldSelector") == _KUBE_SYSTEM:
            resource = ""
        verb: Verb = "other"
        if resource:
            partial = _PARTIAL in handler.headers.get("Accept", "")
            verb = "watch" if query.get("watch") in ("true", "1") else "metadata" if partial else "list"
        token = handler.headers.get("Authorization", "").partition(" ")[2]  # the scheme in any case
        with self._lock:
            request = Request(len(self.requests), time.monotonic(), resource, verb, url.path, query, token)
            self.requests.append(request)
            rule = next((rule for rule in self._rules if rule.takes(request)), None)
        exchange = Exchange(self, handler, request)
        try:
            if rule is None:
                exchange.serve()
            else:
                rule.fault(exchange)
        except Silence:
            exchange.hang()
        except Cut:
            handler.reset()
        except (Gone, OSError):
            handler.close_connection = True
        finally:
            request.ended = time.monotonic()

    def list(self, request: Request) -> _List:
        """Return the page that a request asks for. Raises _Refused."""
        assert request.resource
        resource, query = request.resource, request.query
        truth, selection = self.truth, _selection(query)
        start = ""
        if token := query.get("continue"):
            version, start = json.loads(base64.urlsafe_b64decode(token))
            found = self._lists.get((resource, version))
            if version < truth.oldest or found is None:
                raise _Refused(
                    410, "Expired", "The provided continue parameter is too old to display a consistent list result."
                )
            snapshot = found
        else:
            version = int(query.get("resourceVersion") or 0)
            if version > truth.version:
                raise _too_large(version, truth.version)
            snapshot = truth.snapshot(resource)
        limit = min(int(query.get("limit") or 0) or self.behaviour.page, self.behaviour.page)
        if query.get("resourceVersion") == "0" or not query.get("limit"):
            limit = len(snapshot.items)  # from the watch cache: it knows no pages
        begin = int(start or 0)
        end = min(len(snapshot.items), begin + limit)
        metadata: dict[str, Any] = {"resourceVersion": str(snapshot.version)}
        if end < len(snapshot.items):
            self._lists[resource, snapshot.version] = snapshot
            metadata["continue"] = base64.urlsafe_b64encode(json.dumps([snapshot.version, str(end)]).encode()).decode()
            metadata["remainingItemCount"] = len(snapshot.items) - end
        items = (item for item in (snapshot.items[at] for at in range(begin, end)) if selection(item))
        return _List(metadata, items)

    def events(self, request: Request, tick: Callable[[], None]) -> Iterator[bytes]:
        """Yield the events of a watch as lines, until its timeout.

        Raises _Refused at once, Cut or Gone later.
        """
        assert request.resource
        resource, query, truth = request.resource, request.query, self.truth
        selection = _selection(query)
        asked = query.get("resourceVersion", "")
        initial = query.get("sendInitialEvents") == "true" and self.behaviour.watch_list == "yes"
        if "sendInitialEvents" in query:
            _check_watch_list(query, self.behaviour.watch_list)
        version = int(asked or 0)
        with truth.changed:
            if version > truth.version and (initial or self.behaviour.ahead == "refuse"):
                raise _too_large(version, truth.version)
            if version < truth.oldest and version and not initial:
                raise _Refused(410, "Expired", f"too old resource version: {version} ({truth.oldest})")
            # The objects of a snapshot are sent as ADDED; then the later changes follow.
            began = truth.snapshot(resource) if initial or not version else None
            version = version if began is None else began.version
            place = truth.since(version)
            breaks, bookmarks = dict(self._breaks), self._bookmarks
        lines = self._stream(resource, query, selection, version, place, breaks, bookmarks, tick)
        if began is None:
            return lines
        added: Iterator[bytes] = (_event("ADDED", item.data) for item in began.items if selection(item))
        if len(began.items) > _MANY:
            added = _joined(added)
        return chain(added, [_bookmark(resource, version, ended=True)] if initial else [], lines)

    def _stream(
        self,
        resource: Resource,
        query: Mapping[str, str],
        selection: Selection,
        version: int,
        place: int,
        breaks: dict[str, int],
        bookmarks: int,
        tick: Callable[[], None],
    ) -> Iterator[bytes]:
        """Yield the changes from a place in the history on."""
        truth = self.truth
        marks = query.get("allowWatchBookmarks") == "true"
        end = time.monotonic() + float(query.get("timeoutSeconds") or 3600)
        marked = time.monotonic()
        while True:
            with truth.changed:
                if len(truth.history) <= place and self._breaks == breaks and self._bookmarks == bookmarks:
                    truth.changed.wait(_TICK)
                if len(truth.history) < place:  # restored from a backup
                    raise Cut
                changes, place = truth.history[place:], len(truth.history)
                now = truth.version
            for change in changes:
                if change.resource == resource and change.version > version and (seen := change.seen(selection)):
                    yield _event(seen[0], seen[1].data)
            if self._breaks["cut"] != breaks["cut"]:
                raise Cut
            moment = time.monotonic()
            due = moment - marked >= self.behaviour.bookmarks or self._bookmarks != bookmarks
            over = self._breaks["end"] != breaks["end"] or moment >= end
            if marks and now >= version and (due or moment >= end):
                marked, bookmarks = moment, self._bookmarks
                yield _bookmark(resource, now)
            if over:
                return
            tick()

    # Connections

    def add(self, handler: _Handler) -> None:
        with self._lock:
            self._handlers.add(handler)

    def drop(self, handler: _Handler) -> None:
        with self._lock:
            self._handlers.discard(handler)


@dataclass(slots=True)
class _List:
    metadata: dict[str, Any]
    items: Iterator[Stored]


class _Refused(Exception):  # noqa: N818
    def __init__(self, code: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, details


def status_body(code: int, reason: str, message: str, **details: Any) -> bytes:
    """Return a Status as JSON."""
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
    return json.dumps({**body, "reason": reason, **({"details": details} if details else {}), "code": code}).encode()


def _too_large(version: int, current: int) -> _Refused:
    message = f"Timeout: Too large resource version: {version}, current: {current}"
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    return _Refused(504, "Timeout", message, causes=causes, retryAfterSeconds=1)


def _check_watch_list(query: Mapping[str, str], support: str) -> None:
    """Check as apimachinery's ValidateListOptions; a server that is too
    old for the parameter does not.
    """
    if support == "ignored":
        return
    problem = ""
    if support == "refused":
        problem = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature"
        problem += " gate is enabled"
    elif query.get("resourceVersionMatch") != "NotOlderThan":
        problem = "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to "
        problem += '"NotOlderThan"'
    elif query.get("allowWatchBookmarks") != "true":
        problem = "allowWatchBookmarks: Forbidden: sendInitialEvents needs bookmarks"
    if problem:
        raise _Refused(422, "Invalid", f'ListOptions.meta.k8s.io "" is invalid: {problem}')


def _selection(query: Mapping[str, str]) -> Selection:
    labels = selectors.parse(query.get("labelSelector", ""))
    phases: set[str] = set()
    for part in filter(None, query.get("fieldSelector", "").split(",")):
        name, _, value = part.partition("!=")
        assert name == "status.phase", f"the fake knows no field selector {part!r}"
        phases.add(value)
    return lambda item: item.phase not in phases and labels.matches(item.labels)


def _joined(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the same lines in fewer pieces."""
    while some := b"".join(islice(lines, 64)):
        yield some


def _event(kind: str, data: bytes) -> bytes:
    return b'{"type":"%b","object":%b}\n' % (kind.encode(), data)


def _bookmark(resource: Resource, version: int, *, ended: bool = False) -> bytes:
    metadata: dict[str, Any] = {"resourceVersion": str(version), "creationTimestamp": None}
    if ended:
        metadata["annotations"] = {_INITIAL_END: "true"}
    return _event("BOOKMARK", json.dumps({"kind": kind_of(resource), "metadata": metadata}).encode())


class Exchange:
    """One request and its answer. `serve` sends the proper answer; faults change or replace it."""

    def __init__(self, api: FakeApiServer, handler: _Handler, request: Request) -> None:
        self.api = api
        self.request = request
        self._handler = handler
        self._chunked = True

    # By pieces

    def head(self, code: int, headers: Mapping[str, str]) -> None:
        """Send the status line and the headers.

        The body is chunked unless the headers say otherwise.
        """
        self.request.status = code
        lines = [f"HTTP/1.1 {code} {'OK' if code == 200 else 'Not so'}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._chunked = not {"Content-Length", "Connection"} & set(headers)
        if self._chunked:
            lines.append("Transfer-Encoding: chunked")
        self.raw("\r\n".join([*lines, "", ""]).encode())

    def send(self, data: bytes) -> None:
        """Send a part of the body, as one chunk and one segment."""
        if data:
            self.raw(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def end(self) -> None:
        """Send the end of the body."""
        if self._chunked:
            self.raw(b"0\r\n\r\n")

    def raw(self, data: bytes) -> None:
        self._handler.send(data)

    def tick(self) -> None:
        """Raise Gone if the client has closed the connection."""
        if self.api.closing.is_set() or self._handler.is_left():
            raise Gone

    def hang(self) -> None:
        """Send nothing until the client gives up."""
        self._handler.close_connection = True
        while not self.api.closing.wait(_TICK) and not self._handler.is_left():
            pass

    # Whole answers

    def status(self, code: int, reason: str, message: str, headers: Mapping[str, str], **details: Any) -> None:
        """Send a refusal with a Status as its body."""
        body = status_body(code, reason, message, **details)
        self.head(code, {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers})
        self.send(body)

    def serve(
        self,
        *,
        items: Callable[[Iterator[bytes]], Iterable[bytes]] | None = None,
        metadata: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        events: Callable[[Iterator[bytes]], Iterable[bytes]] | None = None,
        body: Callable[[Iterator[bytes]], Iterable[bytes]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send the proper answer, changed by functions of its items, metadata, lines or bytes."""
        request, behaviour = self.request, self.api.behaviour
        if behaviour.tokens is not None and request.token not in behaviour.tokens:
            self.status(401, "Unauthorized", "Unauthorized", {})
            return
        if not request.resource:
            data = b'{"gitVersion":"v1.36.3"}' if request.path == "/version" else b"{}"
            if request.query.get("fieldSelector") == _KUBE_SYSTEM:
                seen = [{"metadata": {"name": "kube-system", "uid": behaviour.uid}}] if behaviour.uid else []
                newest = {"resourceVersion": str(self.api.truth.version)}
                data = json.dumps({"metadata": newest, "items": seen}).encode()
            self.head(200, {"Content-Length": str(len(data))})
            self.send(data)
            return
        if request.resource not in behaviour.installed:
            text = b"404 page not found\n"
            self.head(404, {"Content-Type": "text/plain", "Content-Length": str(len(text))})
            self.send(text)
            return
        try:
            pieces = self._watch(events) if request.verb == "watch" else self._list(items, metadata)
        except _Refused as refusal:
            self._refuse(refusal)
            return
        self.head(200, {"Content-Type": "application/json", **(headers or {})})
        if behaviour.opaque:
            pieces = (_VERSION.sub(rb"\1%b\2" % _PREFIX.encode(), piece) for piece in pieces)
        for piece in pieces if body is None else body(iter(pieces)):
            self.send(piece)
        self.end()

    def _refuse(self, refusal: _Refused) -> None:
        code, reason, message, details = refusal.code, refusal.reason, refusal.message, refusal.details
        if code == 410 and self.request.verb == "watch" and self.api.behaviour.expired == "event":
            self.head(200, {"Content-Type": "application/json"})
            self.send(_event("ERROR", status_body(code, reason, message, **details)))
            self.end()
            return
        after = details.get("retryAfterSeconds")
        self.status(code, reason, message, {"Retry-After": str(after)} if after else {}, **details)

    def _watch(self, through: Callable[[Iterator[bytes]], Iterable[bytes]] | None) -> Iterable[bytes]:
        lines = self.api.events(self.request, self.tick)
        return lines if through is None else through(lines)

    def _list(
        self,
        through: Callable[[Iterator[bytes]], Iterable[bytes]] | None,
        change: Callable[[dict[str, Any]], dict[str, Any]] | None,
    ) -> Iterable[bytes]:
        page = self.api.list(self.request)
        metadata = page.metadata if change is None else change(page.metadata)
        partial = self.request.verb == "metadata"
        assert self.request.resource
        kind = "PartialObjectMetadataList" if partial else f"{kind_of(self.request.resource)}List"
        items = (_partial(item) if partial else item.data for item in page.items)
        return _page(kind, metadata, items if through is None else through(items))


def _partial(item: Stored) -> bytes:
    metadata = msgspec.json.decode(item.data)["metadata"]
    body = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
    return msgspec.json.encode(body)


def _page(kind: str, metadata: Mapping[str, Any], items: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the body of a page, in pieces."""
    head = b'{"kind":"%b","apiVersion":"v1","metadata":%b,"items":['
    pieces = [head % (kind.encode(), msgspec.json.encode(metadata))]
    size, comma = 0, b""
    for item in items:
        pieces += comma, item
        comma = b","
        size += len(item)
        if size > _PIECE:
            yield b"".join(pieces)
            pieces, size = [], 0
    yield b"".join([*pieces, b"]}\n"])


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, api: FakeApiServer, port: int, tls: ssl.SSLContext | None) -> None:
        self.api = api
        self._tls = tls
        super().__init__(("127.0.0.1", port), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.api.taken += 1
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self.close_request(request)  # no FIN before what may be a RST

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing when a client disconnects."""


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self._reset = False
        api = self.server.api
        api.add(self)
        while api.muted and not self._reset and not api.closing.wait(_TICK):
            pass

    def finish(self) -> None:
        self.server.api.drop(self)
        super().finish()

    def do_GET(self) -> None:
        self.server.api.handle(self)

    def send(self, data: bytes) -> None:
        if self._reset:
            raise Gone
        self.connection.sendall(data)

    def is_left(self) -> bool:
        """Return whether the client has closed the connection.

        It sends nothing during an answer.
        """
        try:
            return self._reset or bool(select.select([self.connection], [], [], 0)[0])
        except (OSError, ValueError):
            return True

    def reset(self) -> None:
        """Have the connection's own thread close it with RST; its reads and `send` tell it to."""
        self._reset = True
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RD)

    def log_message(self, *_: object) -> None:
        pass
