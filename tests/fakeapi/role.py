"""The watch role in a separate process, for tests that kill it or measure its memory.

It starts as under the supervisor. A forkserver has the modules loaded already, so that a start
takes about 20 ms. The child itself arranges where it is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

from headwater.cluster.timing import Timing
from headwater.process import heap
from headwater.settings.settings import Settings
from headwater.supervise.forks import unseen_main

#: The product's timing, with its long waits shortened.
SHORT: Final = Timing(
    connect=5.0,
    page=5.0,
    silence=5.0,
    whole_page=60.0,
    recognize=5.0,
    plugin=5.0,
    credentials=0.5,
    unverified=(0.05, 0.1),
    unreadable=(0.05, 0.1),
    backoff_first=0.1,
    backoff_last=0.2,
    reconnect=(0.05, 0.1),
    missing=(0.1, 0.2),
    too_short=0.2,
    audit_pause=0.005,
    audit_grace=0.1,
    audit_retry=0.1,
    sibling=0.0,
)
#: For servers that hang or fall silent.
IMPATIENT: Final = replace(SHORT, connect=0.5, page=0.5, recognize=0.5, silence=0.5)
_CONTEXT: Final = multiprocessing.get_context("forkserver")
_PRELOADED: Final = ["headwater.writer.process", "headwater.cluster.api", "tests.fakeapi.role"]


def start(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """Start a process that runs a function of a module, from the forkserver."""
    _CONTEXT.set_forkserver_preload(_PRELOADED)
    process = _CONTEXT.Process(target=target, args=arguments, daemon=True)
    with unseen_main():
        process.start()
    return process


def watch(settings: Settings, connection: socket.socket, log: Path, timing: Timing, kill_at: int, clock: float) -> None:
    """Run the watch role.

    `kill_at`: see `KillPoints`; `clock`: the error of the wall clock, in seconds.
    """
    heap.settle()
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    if clock:
        true_time = time.time
        time.time = lambda: true_time() + clock
    if kill_at:
        KillPoints(kill_at, log.with_name("points")).install()
    from headwater.cluster.source import source_of
    from headwater.store.identity import Identity
    from headwater.writer.process import run

    run(settings, Identity(source_of(settings), settings.records_fingerprint()), connection, timing)


def write_at_random(state_dir: Path, seed: int, transactions: int, kill_at: str) -> None:
    """Put and delete values of every size in a child, until SIGKILL at this audit event."""
    from headwater.store.environment import Store, Transaction
    from headwater.store.identity import Identity

    def die(event: str, _: object) -> None:
        if event == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    chance = random.Random(seed)
    held: list[bytes] = []

    def work(txn: Transaction) -> None:
        for _ in range(chance.randrange(1, 60)):
            if held and chance.random() < 0.5:
                txn.delete("records", held.pop(chance.randrange(len(held))))
            else:
                held.append(b"name-%d" % chance.randrange(10**9))
                txn.put("records", held[-1], b"v" * chance.choice([10, 100, 3000, 9000]))

    store, _ = Store.open(state_dir, Identity("source", "shape"))
    store.publish()
    sys.addaudithook(die)
    for _ in range(transactions):
        store.write(work)


class KillPoints:
    """Kills the process before the n-th system call that matters.

    These count, each before it happens: the creation of an environment, the commit of each write
    transaction, and each change of a file's name or length. A commit has two points: before it, and
    in its middle, where SIGALRM without a handler ends the process in any state, as SIGKILL does.
    Each point is written to a file.
    """

    _CALLS: Final = frozenset(("os.rename", "os.symlink", "os.truncate", "os.mkdir", "os.remove", "os.rmdir"))
    #: How long after its beginning a commit is interrupted, in seconds.
    _IN_COMMIT: Final = 20e-6

    def __init__(self, kill_at: int, file: Path) -> None:
        self._left = kill_at
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def install(self) -> None:
        import lmdb

        true_open = lmdb.open

        def opened(path: str, **options: Any) -> _Environment:
            if not options.get("readonly"):
                self.reached("lmdb.open")
            return _Environment(true_open(path, **options), self)

        lmdb.open = opened  # type: ignore[assignment]
        sys.addaudithook(self._audit)

    def _audit(self, event: str, _: object) -> None:
        if event in self._CALLS:
            self.reached(event)

    def reached(self, what: str) -> None:
        """Count a point; kill the process at the n-th."""
        if self._is_last(what):
            os.kill(os.getpid(), signal.SIGKILL)

    def _is_last(self, what: str) -> bool:
        os.write(self._file, f"{what}\n".encode())
        self._left -= 1
        return self._left == 0

    def committing(self) -> None:
        """Count the two points of a commit."""
        self.reached("before a commit")
        if self._is_last("in a commit"):
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, self._IN_COMMIT)


class _Environment:
    """An lmdb.Environment whose commits are counted."""

    def __init__(self, env: Any, points: KillPoints) -> None:
        self._env = env
        self._points = points

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def begin(self, *arguments: Any, **options: Any) -> Any:
        transaction = self._env.begin(*arguments, **options)
        return _Write(transaction, self._points) if options.get("write") else transaction


class _Write:
    def __init__(self, transaction: Any, points: KillPoints) -> None:
        self._transaction = transaction
        self._points = points

    def __enter__(self) -> Any:
        return self._transaction.__enter__()

    def __exit__(self, *error: object) -> Any:
        self._points.committing()
        return self._transaction.__exit__(*error)
