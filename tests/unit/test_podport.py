"""A pod's port over a WebSocket: frames in any pieces, errors, ends; and who may not use it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from headwater.cluster.podport import PodPort, Unreachable, get
from headwater.cluster.reflector import RequestFailed, Trouble
from headwater.cluster.replicas import NAMESPACES, NotThere, Replica, ask, find

PORT = (9353).to_bytes(2, "little")
REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
BINARY, PING, CLOSE = 2, 9, 8


class FakeWebSocket:
    """Frames that come, and what was sent."""

    def __init__(self, frames: Iterable[tuple[int, bytes] | Exception]) -> None:
        self._frames = iter(frames)
        self.sent: list[bytes] = []
        self.closed = 0

    def recv_data_frame(self, control_frame: bool) -> tuple[int, Any]:
        frame = next(self._frames)
        if isinstance(frame, Exception):
            raise frame
        return frame[0], SimpleNamespace(data=frame[1])

    def send_binary(self, payload: bytes) -> int:
        self.sent.append(payload)
        return len(payload)

    def close(self) -> None:
        self.closed += 1


def frames(*data: bytes, end: tuple[int, bytes] | Exception = (CLOSE, b"")) -> list[tuple[int, bytes] | Exception]:
    return [(BINARY, b"\0" + PORT), (BINARY, b"\1" + PORT), *((BINARY, b"\0" + piece) for piece in data), end]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_a_reply_comes_in_any_pieces(size: int) -> None:
    pieces = [REPLY[at : at + size] for at in range(0, len(REPLY), size)]
    socket = FakeWebSocket([(PING, b""), *frames(*pieces)])
    assert get(PodPort(socket), "/readyz", 100) == (200, b"hello")
    assert b"".join(part[1:] for part in socket.sent).startswith(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    assert {part[0] for part in socket.sent} == {0}
    assert socket.closed == 1


def test_no_more_is_read_than_asked_for() -> None:
    socket = FakeWebSocket(frames(b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 1000] * 50))
    assert get(PodPort(socket), "/", 1500)[1] == b"x" * 1500


@pytest.mark.parametrize(
    ("come", "says"),
    [
        (frames(end=(BINARY, b"\1connection refused")), "refused"),
        (frames(end=(CLOSE, b"")), "closed connection"),
        (frames(b"HTTP/1.1 20", end=RuntimeError("gone")), "HTTP/1.1 20"),
        (frames(end=TimeoutError("timed out")), "timed out"),
    ],
)
def test_an_end_before_the_reply_is_an_error(come: list[tuple[int, bytes] | Exception], says: str) -> None:
    socket = FakeWebSocket(come)
    with pytest.raises(NotThere, match=says) as raised:
        ask(Server(socket), REPLICA, "/readyz")
    assert str(raised.value).startswith("headwater/dns-0: port 9353: ")
    assert socket.closed == 1


def test_a_reply_that_drips_has_an_end() -> None:
    """Each piece comes in time, and there is always one more."""
    seconds = itertools.count()
    socket = FakeWebSocket(itertools.chain(frames()[:2], itertools.repeat((PING, b""))))
    with pytest.raises(Unreachable, match="within 30 s"):
        get(PodPort(socket, clock=lambda: float(next(seconds))), "/", 100)
    assert next(seconds) < 50


def test_what_a_kubelet_says_is_bounded() -> None:
    port = PodPort(FakeWebSocket([(BINARY, b"\1" + PORT), (BINARY, b"\1" + b"x" * 100_000)]))
    with pytest.raises(Unreachable) as raised:
        port.readinto(bytearray(10))
    assert len(str(raised.value)) <= 300


# Pods

REPLICA = Replica("headwater", "dns-0", "node-a", True, None, 0, 9353)


class Server:
    """Lists by path, or a refusal; and one port."""

    def __init__(self, socket: FakeWebSocket | None = None, lists: Any = None) -> None:
        self._socket = socket
        self._lists = lists
        self.asked: list[str] = []

    def read(self, path: str) -> bytes | None:
        self.asked.append(path)
        found = self._lists(path)
        if isinstance(found, Exception):
            raise found
        return json.dumps({"items": found}).encode()

    def open_port(self, namespace: str, pod: str, port: int) -> PodPort:
        if self._socket is None:
            raise RequestFailed(Trouble.FORBIDDEN, "create pods/portforward: 403: no", 403)
        return PodPort(self._socket)


def pod(name: str, **more: Any) -> dict[str, Any]:
    ports = [{"name": "headwater-http", "containerPort": 9999}]
    return {
        "metadata": {"name": name, "namespace": "headwater", "creationTimestamp": "2026-11-29T01:02:03Z"},
        "spec": {"nodeName": "node-a", "containers": [{"name": "coredns"}, {"name": "headwater", "ports": ports}]},
        "status": {"phase": "Running", "containerStatuses": [
            {"name": "coredns", "restartCount": 7}, {"name": "headwater", "restartCount": 2}]},
        **more,
    }  # fmt: skip


def test_running_pods_with_our_port_are_found_once() -> None:
    server = Server(lists=lambda _: [pod("b"), pod("a"), pod("c", status={"phase": "Pending"}), pod("d", spec={})])
    found, problems = find(server, "", "", 0)
    assert [(item.pod, item.port, item.restarts, item.ready) for item in found] == [
        ("a", 9999, 2, False), ("b", 9999, 2, False)]  # fmt: skip
    assert found[0].created == 1_795_914_123.0
    assert problems == []
    assert len(server.asked) == 2 * len(NAMESPACES)
    assert [item.port for item in find(server, "", "", 7)[0]] == [7, 7]
    # With a selector, whatever has its labels is meant.
    assert [item.pod for item in find(server, "x/../y", "a=b&c", 0)[0]] == ["a", "b", "d"]
    assert server.asked[-1] == "/api/v1/namespaces/x%2F..%2Fy/pods?labelSelector=a%3Db%26c"


def test_a_twin_is_asked_by_itself() -> None:
    def twins(_: str) -> list[dict[str, Any]]:
        found = pod("a")
        found["spec"]["initContainers"] = [
            {"name": "headwater-twin", "ports": [{"name": "headwater-twin", "containerPort": 9355}]}
        ]
        found["status"]["initContainerStatuses"] = [{"name": "headwater-twin", "restartCount": 5}]
        return [found]

    both, _ = find(Server(lists=twins), "", "", 0)
    assert [(str(item), item.port, item.restarts) for item in both] == [
        ("headwater/a", 9999, 2), ("headwater/a (twin)", 9355, 5)]  # fmt: skip
    for port, restarts in ((9999, 2), (9355, 5), (7, 2)):
        (one,), _ = find(Server(lists=twins), "", "", port)
        assert (one.port, one.restarts) == (port, restarts)


def test_one_namespace_that_may_not_be_seen_leaves_the_other() -> None:
    refused = RequestFailed(Trouble.FORBIDDEN, "get pods: 403: forbidden", 403)
    server = Server(lists=lambda path: refused if "kube-system" in path else [pod("a")])
    found, (problem,) = find(server, "", "", 0)
    assert [item.pod for item in found] == ["a"]
    assert "kubectl -n kube-system create role" in problem
    with pytest.raises(NotThere, match="--verb=get,list --resource=pods"):
        find(Server(lists=lambda _: refused), "", "", 0)
    with pytest.raises(NotThere, match="no list of pods"):
        find(Server(lists=lambda _: "no list"), "", "", 0)


def test_a_port_that_may_not_be_forwarded_says_which_verbs() -> None:
    with pytest.raises(NotThere, match="--verb=get,create --resource=pods/portforward"):
        ask(Server(), REPLICA, "/readyz")
