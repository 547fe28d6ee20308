"""What a cluster says a name is, what DNS says it is, and whether the two agree at every moment.

`Truth` follows the API server by watches of its own and keeps, per name, every
value that the name has had. `Prober` asks DNS for the same names all along.
`disagreements` compares: every single reply has to be a value that was true
around the moment of the question, and a value once replaced may not come back.
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

#: The addresses of a name; None where there is no such name (NXDOMAIN).
Value = frozenset[str] | None
#: {"services": {"headless-svc": {...}}, ...}: the objects of one namespace.
Objects = dict[str, dict[str, Any]]

#: How long an answer may lag behind the API, in seconds: generous, for the machine may be busy.
STALE: Final = 3.0
#: How far it may be ahead of our own watches, in seconds.
AHEAD: Final = 3.0
#: No reply within this time is a lost query; the grpc plugin itself gives up after 5 s.
LOST: Final = 6.0

_WATCHED: Final = {
    "services": "/api/v1/namespaces/{}/services",
    "pods": "/api/v1/namespaces/{}/pods",
    "endpointslices": "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
}
_GONE: Final = frozenset(("Succeeded", "Failed", "Unknown"))


def of_service(name: str) -> Callable[[Objects], Value]:
    """The ready addresses of a headless Service."""
    return lambda objects: _addresses(objects, name, lambda _: True)


def of_endpoint(hostname: str, service: str) -> Callable[[Objects], Value]:
    """The address of a ready endpoint by its hostname."""
    return lambda objects: _addresses(objects, service, lambda endpoint: endpoint.get("hostname") == hostname)


def of_pod(address: str) -> Callable[[Objects], Value]:
    """The address itself while a live pod has it."""

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
    """Follows one namespace; the history of every name that it was given."""

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
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        for kind, path in _WATCHED.items():
            connection = http.client.HTTPSConnection(
                str(self._server.hostname), self._server.port, context=self._tls, timeout=600
            )
            # Without a version: what there is comes first, as events.
            connection.request(
                "GET", f"{path.format(self._namespace)}?watch=true", headers={"Authorization": f"Bearer {self._token}"}
            )
            response = connection.getresponse()
            assert response.status == 200, f"watch {kind}: {response.status} {response.read()[:200]!r}"
            self._connections.append(connection)
            threading.Thread(target=self._follow, args=(kind, response), name=f"truth {kind}", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._connections:
            with contextlib.suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)

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
        """Let every history begin now: what came before is not a change, but how watches start."""
        with self._lock:
            for name, value in self._values.items():
                self._history[name] = [(time.monotonic(), value(self._objects))]

    def history(self, name: str) -> list[tuple[float, Value]]:
        """(since when, value), oldest first; monotonic time of the event's arrival here."""
        with self._lock:
            return list(self._history[name])

    def now(self, name: str) -> Value:
        return self.history(name)[-1][1]


@dataclass(frozen=True, slots=True)
class Seen:
    """One query: when it went and came back, and what the reply says."""

    sent: float
    received: float
    rcode: str
    value: Value
    problem: str = ""


@dataclass(slots=True)
class Step:
    """A change and how long until DNS said the new value, in milliseconds."""

    change: str
    name: str
    from_api: float
    """From the moment that the API took the change, with all that controllers did of it."""
    from_slice: float
    """From the moment that the object which decides the answer was seen changed."""


@dataclass
class Prober:
    """Asks for all names of a Truth in turn, `rate` times a second, every other time for `focus`."""

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
    """A reply's value, and what is wrong with its form."""
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
    """What of a name's replies was not true, in words; empty when all was well.

    A reply counts as true when it equals a value that the name had between
    STALE before the question and AHEAD after the reply. Values are walked in their
    order: an older one may not follow a newer one.
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
    """The steps for people to read."""
    rows = [f"{'change':<42} {'name':<28} {'API→answer':>12} {'slice→answer':>13}"]
    for step in steps:
        short = step.name.partition(".default.")[0]
        rows.append(f"{step.change:<42} {short:<28} {step.from_api:>9.0f} ms {step.from_slice:>10.0f} ms")
    return "\n".join(rows)
