"""When an API server is asked which cluster it belongs to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from headwater.cluster.recognition import AnotherCluster, Recognition
from headwater.store.identity import Origin


class Server:
    """Returns its UID, and counts the requests for it."""

    def __init__(self, host: str = "https://a", uid: str = "u") -> None:
        self.host, self.uid = host, uid
        self.confirmed = False
        self.asked = 0

    def prepare(self) -> None:
        """Read the credentials."""

    def kube_system(self) -> bytes:
        self.asked += 1
        return json.dumps({"items": [{"metadata": {"name": "kube-system", "uid": self.uid}}]}).encode()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_every_list_asks_and_a_watch_only_after_doubt(tmp_path: Path) -> None:
    clock, server, other = Clock(), Server(), Server()
    recognition = Recognition(tmp_path, clock)
    for one in (server, other):
        recognition.confirm(one, listing=True)  # type: ignore[arg-type]
    assert (server.asked, other.asked) == (1, 0), "the answer holds for a moment"
    clock.now += 6.0
    recognition.confirm(server, listing=False)  # type: ignore[arg-type]
    assert server.asked == 1
    recognition.confirm(server, listing=True)  # type: ignore[arg-type]
    assert server.asked == 2
    recognition.doubt(server)  # type: ignore[arg-type]
    recognition.confirm(server, listing=False)  # type: ignore[arg-type]
    assert server.asked == 3
    assert Origin.read(tmp_path) == Origin("u", "https://a")


def test_a_server_at_another_address_is_asked(tmp_path: Path) -> None:
    """The credentials were read again, and name another server."""
    recognition = Recognition(tmp_path, Clock())
    recognition.confirm(Server(), listing=True)  # type: ignore[arg-type]
    moved = Server("https://b")
    recognition.confirm(moved, listing=False)  # type: ignore[arg-type]
    assert moved.asked == 1
    assert Origin.read(tmp_path) == Origin("u", "https://b")


def test_once_it_is_another_cluster_nobody_goes_on(tmp_path: Path) -> None:
    clock = Clock()
    recognition = Recognition(tmp_path, clock)
    first, second = Server(), Server()
    for one in (first, second):
        recognition.confirm(one, listing=True)  # type: ignore[arg-type]
    clock.now += 6.0
    first.uid = "v"
    with pytest.raises(AnotherCluster):
        recognition.confirm(first, listing=True)  # type: ignore[arg-type]
    with pytest.raises(AnotherCluster):
        recognition.confirm(second, listing=True)  # type: ignore[arg-type]
    assert second.asked == 0
    assert recognition.another
    assert Origin.read(tmp_path) == Origin("u", "https://a"), "the store is what it was"
