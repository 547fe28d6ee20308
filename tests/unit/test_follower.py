"""The thread around a reflector: what it does with what comes while it is about to do something else."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterator

from headwater.cluster.changes import Change, ListComplete
from headwater.cluster.follower import Follower, Inbox, RawPage
from headwater.cluster.objects import Resource
from headwater.cluster.reflector import Reflector

DEADLINE = 10.0


class Server:
    """An API server without objects, whose watches last until they are hung up."""

    def __init__(self) -> None:
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

    def hang_up(self) -> None:
        self._over.set()


def test_list_that_is_asked_for_while_a_watch_is_being_opened_is_taken_at_once() -> None:
    server = Server()
    changes: queue.Queue[Change | RawPage] = queue.Queue()
    stopping = threading.Event()
    pipe = Inbox(changes, threading.Semaphore(100), lambda *_: None, stopping)
    follower = Follower("services", Reflector("", time.monotonic), server, pipe)  # type: ignore[arg-type]
    thread = threading.Thread(target=follower.run, daemon=True)
    thread.start()
    try:
        assert server.opening.wait(DEADLINE), "no watch is opened"
        follower.relist()  # there is no watch to be hung up yet
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
