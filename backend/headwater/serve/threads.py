"""The threads for grpcio's calls: few, and one more for each that waits."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import Any


class Threads(Executor):
    """A fixed number of working threads.

    A call that waits for another server says so (`waiting`): another thread
    takes its place meanwhile, so that no other call waits with it.
    """

    def __init__(self, count: int, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[..., Any], Any, Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._surplus = 0
        self._stopped = False
        for _ in range(count):
            self._start()

    def _start(self) -> None:
        threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self._stopped:
            raise RuntimeError("the threads were stopped")
        future: Future[Any] = Future()
        self._calls.put((future, fn, args, kwargs))
        return future

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """For the time in which the calling thread, one of ours, only waits."""
        with self._lock:
            if self._surplus:
                self._surplus -= 1
            else:
                self._start()
        try:
            yield
        finally:
            with self._lock:
                self._surplus += 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """Take no further calls, finish those that were taken, and end the threads."""
        self._stopped = True
        self._calls.put(None)

    def _work(self) -> None:
        while True:
            call = self._calls.get()
            if call is None:
                self._calls.put(None)
                return
            future, fn, args, kwargs = call
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as error:  # noqa: BLE001 (the future's owner hears of it)
                    future.set_exception(error)
            with self._lock:
                if self._surplus:
                    self._surplus -= 1
                    return
