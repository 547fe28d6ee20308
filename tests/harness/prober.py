"""Compare at every moment what a cluster has for a name with what DNS says.

`Truth` follows the API server with its own watches and keeps every value that a name has had.
`Prober` asks DNS for the same names all the time. `disagreements` compares them: each reply has to
be a value that was true around the moment of the question, and a value that was replaced may not
come back.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import random
import socket
import ssl
import threading
import time
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import TracebackType

#: The addresses of a name; None if it does not exist (NXDOMAIN).
Value = frozenset[str] | None
#: {"services": {"headless-svc": {...}}, ...}: the objects of one namespace.
Objects = dict[str, dict[str, Any]]

#: How long an answer may lag behind the API, in seconds. It is generous, because the machine may be
#: busy.
STALE: Final = 3.0
#: How far an answer may be ahead of our own watches, in seconds.
AHEAD: Final = 3.0
#: A query without a reply in this time is lost, in seconds. The grpc plugin itself gives up after 5
#: s.
LOST: Final = 6.0

_WATCHED: Final = {
    "services": "/api/v1/namespaces/{}/services",
    "pods": "/api/v1/namespaces/{}/pods",
    "endpointslices": "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
}
_GONE: Final = frozenset(("Succeeded", "Failed", "Unknown"))


def of_service(name: str) -> Callable[[Objects], Value]:
    """Return a function for the ready addresses of a headless Service."""
    return lambda objects: _addresses(objects, name, lambda _: True)


def of_endpoint(hostname: str, service: str) -> Callable[[Objects], Value]:
    """Return a function for the address of a ready endpoint, by its hostname."""
    return lambda objects: _addresses(objects, service, lambda endpoint: endpoint.get("hostname") == hostname)


def of_pod(address: str) -> Callable[[Objects], Value]:
    """Return a function for the address itself while a live pod has it."""

    def value(objects: Objects) -> Value:
        states = [pod["status"] for pod in objects["pods"].values()]
        live = [s for s in states if s.get("podIP") == address and s.get("phase") not in _GONE]
        return frozenset({address}) if live else None

    return value


def _addresses(objects: Objects, service: str, wanted: Callable[[dict[str, Any]], bool]) -> Value:
    if service not in objects["services"]:
        return None
    slices = [
        piece
        for piece in objects["endpointslices"].values()
        if piece["metadata"]["labels"].get("kubernetes.io/service-name") == service
    ]
    endpoints = [endpoint for piece in slices for endpoint in piece["endpoints"] or []]
    found = {
        address
        for endpoint in endpoints
        if endpoint["conditions"].get("ready") is not False and wanted(endpoint)
        for address in endpoint["addresses"]
    }
    return frozenset(found) or None


class Truth:
    """Follows one namespace, and keeps the history of each name that was added."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        self._server = urlsplit(cluster["server"])
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._tls = ssl.create_default_context(cadata=authority)
        self._token = config["users"][0]["user"]["token"]
        self._namespace = namespace
        self._objects: Objects = {kind: {} for kind in _WATCHED}
        self._values: dict[str, Callable[[Objects], Value]] = {}
        self._history: dict[str, list[tuple[float, Value]]] = {}
        self._lock = threading.Lock()
        self._connections: list[http.client.HTTPSConnection] = []
        self._threads: list[threading.Thread] = []
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        try:
            self._connect()
        except BaseException:
            self._close()
            raise
        return self

    def _connect(self) -> None:
        for kind, path in _WATCHED.items():
            connection = http.client.HTTPSConnection(
                str(self._server.hostname), self._server.port, context=self._tls, timeout=600
            )
            self._connections.append(connection)
            # A watch without a version begins with the existing objects, as events.
            connection.request(
                "GET", f"{path.format(self._namespace)}?watch=true", headers={"Authorization": f"Bearer {self._token}"}
            )
            response = connection.getresponse()
            assert response.status == 200, f"watch {kind}: {response.status} {response.read()[:200]!r}"
            thread = threading.Thread(target=self._follow, args=(kind, response), name=f"truth {kind}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        for connection in self._connections:
            with contextlib.suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for connection in self._connections:
            connection.close()  # and its response, which holds the socket too

    def _follow(self, kind: str, response: http.client.HTTPResponse) -> None:
        try:
            for line in response:
                event = json.loads(line)
                now = time.monotonic()
                with self._lock:
                    self._take(kind, event)
                    self._note(now)
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            self.failures.append(f"the watch of {kind} ended: {type(error).__name__}: {error}")

    def _take(self, kind: str, event: dict[str, Any]) -> None:
        if event["type"] == "ERROR":
            raise ValueError(event["object"])
        name = event["object"]["metadata"]["name"]
        if event["type"] == "DELETED":
            self._objects[kind].pop(name, None)
        else:
            self._objects[kind][name] = event["object"]

    def _note(self, now: float) -> None:
        for name, value in self._values.items():
            true = value(self._objects)
            history = self._history[name]
            if not history or history[-1][1] != true:
                history.append((now, true))

    def add(self, name: str, value: Callable[[Objects], Value]) -> None:
        """Keep the history of a name from now on."""
        with self._lock:
            self._values[name] = value
            self._history[name] = [(time.monotonic(), value(self._objects))]

    def names(self) -> list[str]:
        """Every name that was added."""
        with self._lock:
            return list(self._values)

    def begin(self) -> None:
        """Begin every history now, because the events before are the start
        of the watches, not changes.
        """
        with self._lock:
            for name, value in self._values.items():
                self._history[name] = [(time.monotonic(), value(self._objects))]

    def history(self, name: str) -> list[tuple[float, Value]]:
        """Return (since when, value), oldest first.

        The time is monotonic, that of the event's arrival here.
        """
        with self._lock:
            return list(self._history[name])

    def now(self, name: str) -> Value:
        return self.history(name)[-1][1]


@dataclass(frozen=True, slots=True)
class Seen:
    """One query: when it was sent, when the reply came, and what the reply says."""

    sent: float
    received: float
    rcode: str
    value: Value
    problem: str = ""


@dataclass(slots=True)
class Step:
    """A change, and how long DNS took to have the new value, in milliseconds."""

    change: str
    name: str
    from_api: float
    """Since the API accepted the change; it includes the controllers' time."""
    from_slice: float
    """Since the change was seen of the object that decides the answer."""


@dataclass
class Prober:
    """Asks for all names of a Truth in turn, `rate` times a second,
    every other time for `focus`.
    """

    port: int
    truth: Truth
    rate: float = 250.0
    focus: str = ""
    seen: dict[str, list[Seen]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prober", daemon=True)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.settimeout(LOST)
        self._queries: dict[str, bytes] = {}
        self.failure: Exception | None = None

    def __enter__(self) -> Self:
        self._socket.connect(("127.0.0.1", self.port))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def last(self, name: str) -> Seen | None:
        seen = self.seen.get(name)
        return seen[-1] if seen else None

    def count(self) -> int:
        return sum(map(len, self.seen.values()))

    def _run(self) -> None:
        turn = 0
        due = time.monotonic()
        try:
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                names = self.truth.names()
                name = self.focus if turn % 2 and self.focus else names[turn // 2 % len(names)]
                self.seen.setdefault(name, []).append(self._ask(name))
                turn += 1
                due = max(due + 1 / self.rate, time.monotonic())
        except Exception as error:  # noqa: BLE001 (shown by the test)
            self.failure = error

    def _ask(self, name: str) -> Seen:
        if name not in self._queries:
            rdtype = "SRV" if name.startswith("_") else "A"
            self._queries[name] = dns.message.make_query(name, rdtype, use_edns=0, payload=4096).to_wire()
        head = random.randbytes(2)
        sent = time.monotonic()
        self._socket.send(head + self._queries[name][2:])
        try:
            reply = self._socket.recv(65535)
            while reply[:2] != head:
                reply = self._socket.recv(65535)
        except TimeoutError:
            return Seen(sent, time.monotonic(), "LOST", None, "no reply")
        return read(reply, sent, time.monotonic())


def read(reply: bytes, sent: float, received: float) -> Seen:
    """Read a reply's value, and note errors in its form."""
    try:
        message = dns.message.from_wire(reply)
    except dns.exception.DNSException as error:
        return Seen(sent, received, "BROKEN", None, str(error))
    rcode = dns.rcode.to_text(message.rcode())
    asked = message.question[0].rdtype
    records = [rdata for rrset in message.answer for rdata in rrset]
    if rcode == "NXDOMAIN":
        soa = any(rrset.rdtype == dns.rdatatype.SOA for rrset in message.authority)
        return Seen(
            sent, received, rcode, None, "" if soa and not records else "an NXDOMAIN without SOA, or with records"
        )
    if asked == dns.rdatatype.A:
        texts = [rdata.to_text() for rdata in records]
        return Seen(sent, received, rcode, frozenset(texts), "" if len(texts) == len(set(texts)) else "a record twice")
    glue = {rrset.name: [rdata.to_text() for rdata in rrset] for rrset in message.additional}
    targets = [rdata.target for rdata in records]
    addresses = [address for target in targets for address in glue.get(target, [])]
    whole = len(set(targets)) == len(targets) == len(addresses) and glue.keys() == set(targets)
    return Seen(sent, received, rcode, frozenset(addresses), "" if whole else "targets and glue do not match")


def disagreements(seen: Iterable[Seen], history: list[tuple[float, Value]]) -> list[str]:
    """Describe the replies for a name that were not true; return nothing if all were.

    A reply is true if it equals a value that the name had between STALE before the question and
    AHEAD after the reply. The replies' values must be in order: an older one may not follow a newer
    one.
    """
    wrong = []
    times = [since for since, _ in history]
    at = 0
    for one in seen:
        if one.problem or one.rcode not in ("NOERROR", "NXDOMAIN"):
            wrong.append(f"{one.rcode} {show(one.value)} {one.problem}")
            continue
        first = max(at, bisect_left(times, one.sent - STALE) - 1)
        last = bisect_left(times, one.received + AHEAD)
        found = next((index for index in range(first, last) if history[index][1] == one.value), None)
        if found is None:
            true = ", ".join(show(value) for _, value in history[first:last])
            wrong.append(f"{show(one.value)}, when it was {true}")
        else:
            at = found
    return wrong


def show(value: Value) -> str:
    return "NXDOMAIN" if value is None else "{" + " ".join(sorted(value)) + "}"


def table(steps: Iterable[Step]) -> str:
    """Return the steps as a table."""
    rows = [f"{'change':<42} {'name':<28} {'API→answer':>12} {'slice→answer':>13}"]
    for step in steps:
        short = step.name.partition(".default.")[0]
        rows.append(f"{step.change:<42} {short:<28} {step.from_api:>9.0f} ms {step.from_slice:>10.0f} ms")
    return "\n".join(rows)


# For faults: the truth from etcd, a prober with a steady rate, and a verdict by time.

#: How old an answer may be while nothing is broken, and for how long after its end a fault may
#: still have effects, in seconds.
PROMISED: Final = 2.0
#: An answer older than this shows a late change, in seconds. A smaller age is the usual delay.
_NOTICEABLE: Final = 0.25
_SLICES: Final = "/registry/endpointslices/{}/"
#: The most questions under way: a socket that nobody reads for a while holds about 270 replies, and
#: drops the others.
_UNDER_WAY: Final = 150


class Chronicle:
    """The history of the names of a namespace's headless Services, from etcd's own history.

    It asks etcd, because etcd has every revision, also those that clients of the API server miss
    while that is away. After a restart of etcd the watch goes on from the next revision. The API
    server must store JSON (`--storage-media-type=application/json`).
    """

    def __init__(self, etcd_port: int, namespace: str) -> None:
        self._namespace = namespace
        self._slices: dict[str, dict[str, Any]] = {}
        self._names: dict[str, list[str]] = {}
        self._history: dict[str, list[tuple[float, Value]]] = {}
        self._lock = threading.Lock()
        self._next = 1
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chronicle", daemon=True)
        self._connection = http.client.HTTPConnection("127.0.0.1", etcd_port)
        self.connected = threading.Event()
        """Set while a watch is open."""
        self.failure: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        with contextlib.suppress(OSError, AttributeError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()

    def add(self, service: str, hostnames: Iterable[str] = ()) -> None:
        """Follow a Service's name and those of its endpoints."""
        base = f"{service}.{self._namespace}.svc.cluster.local"
        with self._lock:
            self._names[service] = [base, *(f"{hostname}.{base}" for hostname in hostnames)]
            for name in self._names[service]:
                self._history[name] = []
            self._note(service, time.monotonic())

    def names(self) -> list[str]:
        with self._lock:
            return list(self._history)

    def history(self, name: str) -> list[tuple[float, Value]]:
        """Return (since when, value), oldest first.

        The time is monotonic, that of the revision's arrival.
        """
        with self._lock:
            return list(self._history[name])

    def now(self, name: str) -> Value:
        return self.history(name)[-1][1]

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                with contextlib.suppress(OSError, http.client.HTTPException):
                    self._watch()
                self.connected.clear()
                self._connection.close()
                self._stop.wait(0.02)
        except Exception as error:  # noqa: BLE001 (shown by the test)
            self.failure = error

    def _watch(self) -> None:
        prefix = _SLICES.format(self._namespace).encode()
        wanted = {"key": _base64(prefix), "range_end": _base64(prefix[:-1] + b"0"), "start_revision": str(self._next)}
        self._connection.request("POST", "/v3/watch", json.dumps({"create_request": wanted}))
        for line in self._connection.getresponse():
            self._take(line, time.monotonic())

    def _take(self, line: bytes, now: float) -> None:
        message = json.loads(line)
        if "error" in message:
            raise ConnectionError(message["error"])
        result = message["result"]
        if result.get("canceled"):  # compacted: revisions are missing, so no verdict is possible
            raise ValueError(f"etcd ends the watch from revision {self._next}: {result}")
        if result.get("created"):
            self.connected.set()
        with self._lock:
            for event in result.get("events", ()):
                self._next = int(event["kv"]["mod_revision"]) + 1
                key = event["kv"]["key"]
                states = (self._slices.pop(key, None), self._changed(key, event))
                for service in {_service_of(piece) for piece in states if piece is not None}:
                    self._note(service, now)

    def _changed(self, key: str, event: dict[str, Any]) -> dict[str, Any] | None:
        if event.get("type") == "DELETE":
            return None
        piece: dict[str, Any] = json.loads(base64.b64decode(event["kv"]["value"]))
        self._slices[key] = piece
        return piece

    def _note(self, service: str, now: float) -> None:
        if service not in self._names:
            return
        base, *others = self._names[service]
        values = values_of(service, self._slices.values())
        for name in (base, *others):
            value = values.get("" if name == base else name.partition(".")[0])
            history = self._history[name]
            if not history or history[-1][1] != value:
                history.append((now, value))


def values_of(service: str, slices: Iterable[dict[str, Any]]) -> dict[str, frozenset[str]]:
    """Return the ready addresses of a headless Service by hostname, and all of them under ""."""
    found: dict[str, set[str]] = {}
    for piece in slices:
        if _service_of(piece) != service:
            continue
        for endpoint in piece["endpoints"] or ():
            if endpoint["conditions"].get("ready") is not False:
                for label in {"", endpoint.get("hostname", "")}:
                    found.setdefault(label, set()).update(endpoint["addresses"])
    return {label: frozenset(addresses) for label, addresses in found.items()}


def _service_of(piece: dict[str, Any]) -> str:
    return str(piece["metadata"]["labels"].get("kubernetes.io/service-name", ""))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass(slots=True)
class Query:
    """One question and its reply in wire format; empty if there was none."""

    name: str
    sent: float
    received: float = 0.0
    reply: bytes = b""


class SteadyProber:
    """Asks for names in turn at a fixed rate, without waiting for
    replies, and keeps the replies.
    """

    def __init__(self, port: int, names: Callable[[], list[str]], rate: float = 500.0) -> None:
        self._names = names
        self._rate = rate
        self._queries: dict[str, bytes] = {}
        self._open: dict[int, Query] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.connect(("127.0.0.1", port))
        self._socket.settimeout(0.1)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._guard, args=(work,)) for work in (self._send, self._receive)]
        self.asked: list[Query] = []
        """Queries in the order of `sent`. Those of the last LOST seconds may still get a reply."""
        self.failure: Exception | None = None

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.daemon = True
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 (shown by the test)
            self.failure = error

    def _send(self) -> None:
        names: list[str] = []
        due = time.monotonic()
        ident = 0
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            # Make up for questions that a busy machine delayed, but only for those of a short time.
            due = max(due + 1 / self._rate, time.monotonic() - 0.1)
            if len(self._open) >= _UNDER_WAY and not self._give_up():
                continue
            if not names:
                names = self._names()
                random.shuffle(names)
            name = names.pop()
            if name not in self._queries:
                self._queries[name] = dns.message.make_query(name, "A", use_edns=0, payload=4096).to_wire()[2:]
            ident = (ident + 1) & 0xFFFF
            query = self._open[ident] = Query(name, time.monotonic())
            self.asked.append(query)
            with contextlib.suppress(ConnectionRefusedError):
                self._socket.send(ident.to_bytes(2, "big") + self._queries[name])

    def _give_up(self) -> bool:
        """Forget the questions that are lost. Return whether there were any."""
        old = [ident for ident, query in list(self._open.items()) if query.sent < time.monotonic() - LOST]
        for ident in old:
            self._open.pop(ident, None)
        return bool(old)

    def _receive(self) -> None:
        while not self._stop.is_set():
            try:
                reply = self._socket.recv(65535)
            except (TimeoutError, ConnectionRefusedError):
                continue
            query = self._open.pop(int.from_bytes(reply[:2], "big"), None)
            if query is not None:
                query.received = time.monotonic()
                query.reply = reply


@dataclass(slots=True)
class Verdict:
    """The verdict on the replies of a period."""

    asked: int = 0
    lost: int = 0
    refused: list[str] = field(default_factory=list)
    """Replies with SERVFAIL, or with another rcode that no name of a cluster has."""
    unanswered: list[Query] = field(default_factory=list)
    """Queries that were lost or refused."""
    wrong_nxdomain: list[str] = field(default_factory=list)
    never_true: list[str] = field(default_factory=list)
    too_old: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    oldest: float = 0.0
    """The age of the oldest answer: for how many seconds it had no longer been true."""
    right_again: float = 0.0
    """Seconds from the fault's end to the last answer that was noticeably old."""
    answered_again: float = 0.0
    """Seconds from the fault's end to the last question without an answer."""
    slowest: float = 0.0
    """The longest wait for a reply, in seconds."""

    def wrong(self) -> list[str]:
        """Return everything that must never happen."""
        return [*self.broken, *self.wrong_nxdomain, *self.never_true, *self.too_old]


def judge(
    asked: Iterable[Query],
    history: Callable[[str], list[tuple[float, Value]]],
    fault: tuple[float, float] = (0.0, 0.0),
    *,
    holds: bool = True,
) -> Verdict:
    """Compare replies with the truth.

    `fault` is the beginning and the end of a fault. Unless it `holds` changes back, answers may not
    be older than without it.

    A reply was never true if the name never had its set until AHEAD after the reply. It is too old
    if its set ceased to be true more than PROMISED before the question. Between the fault's
    beginning and PROMISED after its end, it is too old only if its set ceased to be true more than
    PROMISED before the fault.
    """
    began, ended = fault
    verdict = Verdict()
    histories: dict[str, list[tuple[float, Value]]] = {}
    known: dict[bytes, Seen] = {}
    for query in asked:
        verdict.asked += 1
        if not query.reply:
            verdict.lost += 1
            verdict.unanswered.append(query)
            verdict.answered_again = max(verdict.answered_again, query.sent - ended)
            continue
        verdict.slowest = max(verdict.slowest, query.received - query.sent)
        seen = known.get(query.reply[2:])
        if seen is None:
            seen = known[query.reply[2:]] = read(query.reply, 0.0, 0.0)
        what = f"{query.name} {show(seen.value)}, {query.sent - began:.2f} s after the fault began"
        if seen.rcode not in ("NOERROR", "NXDOMAIN", "BROKEN"):
            verdict.refused.append(f"{what}: {seen.rcode}")
            verdict.unanswered.append(query)
            verdict.answered_again = max(verdict.answered_again, query.sent - ended)
            continue
        if seen.problem:
            verdict.broken.append(f"{what}: {seen.problem}")
            continue
        if query.name not in histories:
            histories[query.name] = history(query.name)
        age = age_of(seen.value, query, histories[query.name])
        if age is None:
            (verdict.wrong_nxdomain if seen.value is None else verdict.never_true).append(what)
            continue
        verdict.oldest = max(verdict.oldest, age)
        if age > _NOTICEABLE:
            verdict.right_again = max(verdict.right_again, query.sent - ended)
        allowed = PROMISED + (query.sent - began if holds and began <= query.sent <= ended + PROMISED else 0.0)
        if age > allowed:
            verdict.too_old.append(f"{what}: not true for {age:.2f} s")
    return verdict


def age_of(value: Value, query: Query, history: list[tuple[float, Value]]) -> float | None:
    """Return for how many seconds a value had not been true at the
    question; None if it never was.
    """
    ended = query.received + AHEAD
    for since, true in reversed(history):
        if since < query.received + AHEAD:
            if true == value:
                return max(0.0, query.sent - ended)
            ended = since
    return None
