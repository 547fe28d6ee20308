"""The thread around a reflector: requests that arrive while it is about to do something else."""

from __future__ import annotations

import itertools
import json
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from headwater.cluster.changes import Change, ListComplete
from headwater.cluster.follower import Follower, Inbox, RawPage
from headwater.cluster.objects import Resource
from headwater.cluster.recognition import Recognition
from headwater.cluster.reflector import Reflector
from headwater.cluster.timing import USUAL

DEADLINE = 10.0


class Server:
    """An API server without objects, whose watches last until they are closed."""

    def __init__(self) -> None:
        self.host = "http://api"
        self.confirmed = False
        self.lists = 0
        self.watches = 0
        self.meanwhile = threading.Event()
        self.opening = threading.Event()
        self._over = threading.Event()

    def page(self, resource: Resource, limit: int, continue_token: str) -> bytes:
        self.lists += 1
        return json.dumps({"metadata": {"resourceVersion": str(self.lists)}, "items": []}).encode()

    def watch(self, resource: Resource, version: str, seconds: int, *, initial: bool = False) -> Iterator[bytes]:
        self.watches += 1
        self.opening.set()
        if self.watches == 1:
            assert self.meanwhile.wait(DEADLINE)
        self._over.clear()
        return self._lines()

    def _lines(self) -> Iterator[bytes]:
        assert self._over.wait(DEADLINE), "nobody hangs up"
        yield from ()

    def prepare(self) -> None:
        """Read the credentials."""

    def kube_system(self) -> bytes:
        return b'{"items": [{"metadata": {"name": "kube-system", "uid": "u"}}]}'

    def hang_up(self) -> None:
        self._over.set()


def test_list_that_is_asked_for_while_a_watch_is_being_opened_is_taken_at_once(tmp_path: Path) -> None:
    server = Server()
    changes: queue.Queue[Change | RawPage] = queue.Queue()
    stopping = threading.Event()
    pipe = Inbox(changes, threading.Semaphore(100), lambda *_: None, stopping)
    reflector = Reflector("", time.monotonic)
    follower = Follower("services", reflector, server, pipe, Recognition(tmp_path))  # type: ignore[arg-type]
    thread = threading.Thread(target=follower.run, daemon=True)
    thread.start()
    try:
        assert server.opening.wait(DEADLINE), "no watch is opened"
        follower.relist()  # there is no watch to close yet
        server.meanwhile.set()
        completed: list[str] = []
        while len(completed) < 2:
            change = changes.get(timeout=DEADLINE)
            if isinstance(change, ListComplete):
                completed.append(change.resource_version)
        assert completed == ["1", "2"]
    finally:
        stopping.set()
        server.hang_up()
        thread.join(DEADLINE)


class Endless(Server):
    """Its first list always promises more and sends nothing; the next list is complete."""

    def __init__(self, tokens: Iterator[str]) -> None:
        super().__init__()
        self._tokens = tokens
        self.begun = 0

    def page(self, resource: Resource, limit: int, continue_token: str) -> bytes:
        self.lists += 1
        self.begun += not continue_token
        token = next(self._tokens) if self.begun == 1 else ""
        return json.dumps({"metadata": {"resourceVersion": "1", "continue": token}, "items": []}).encode()


@pytest.mark.parametrize("tokens", [itertools.repeat("same"), map(str, itertools.count(1))], ids=["same", "others"])
def test_list_that_has_ever_more_to_come_is_begun_anew(tokens: Iterator[str], tmp_path: Path) -> None:
    server = Endless(tokens)
    changes: queue.Queue[Change | RawPage] = queue.Queue()
    stopping = threading.Event()
    inbox = Inbox(changes, threading.Semaphore(1000), lambda *_: None, stopping)
    reflector = Reflector("", time.monotonic, timing=replace(USUAL, backoff_first=0.01))
    follower = Follower("services", reflector, server, inbox, Recognition(tmp_path))  # type: ignore[arg-type]
    thread = threading.Thread(target=follower.run, daemon=True)
    thread.start()
    try:
        while not isinstance(changes.get(timeout=DEADLINE), ListComplete):
            pass
        assert server.begun == 2
        assert server.lists < 200
    finally:
        stopping.set()
        server.meanwhile.set()
        server.hang_up()
        thread.join(DEADLINE)
