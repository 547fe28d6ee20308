"""The process that runs a policy: questions on its standard input, decisions on its output.

A policy is code that nobody here has read. In a process of its own it may loop, sleep, exit, take
memory or crash, and the watch process goes on. Each message is four bytes of length and msgpack.

A call may take `BUDGET` seconds of the processor. Then an exception ends it, again and again until
it lets go. What does not let go, or sleeps, is killed by the watch process.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any, BinaryIO, Final, Literal

import msgspec
import setproctitle
from msgspec import Struct

from headwater.policy.api import Decision, Endpoint, Service

#: Seconds of the processor for one call.
BUDGET: Final = 0.1
#: Seconds between two attempts to end a call that takes longer.
_AGAIN: Final = 0.02
#: Bytes of address space: a policy that takes more gets a MemoryError.
_MEMORY: Final = 1 << 30
#: Characters of an exception's text that are told.
_TEXT: Final = 200
#: Before each message: its length.
SIZE: Final = struct.Struct(">I")
_PR_SET_PDEATHSIG: Final = 1


class Asked(Struct, array_like=True, gc=False):
    """One call."""

    service: Service
    endpoints: tuple[Endpoint, ...]


class Told(Struct, gc=False):
    """Its result; the first one says that the policy was loaded."""

    kind: Literal["ready", "decided", "nothing", "failed", "slow"]
    decision: Any = None
    """A `Decision`, not checked yet."""
    problem: str = ""


class TooSlow(BaseException):
    """The call took longer than its budget."""


def main(name: str, watcher: int) -> None:
    """Answer calls until the input ends. `name` is MODULE:FUNCTION, `watcher` the parent's pid."""
    setproctitle.setproctitle("headwater: policy")
    requests, replies = _apart()
    _restrict(watcher)
    try:
        policy = _load(name)
    except Exception as error:  # noqa: BLE001 (code that nobody here has read)
        send(replies, msgspec.msgpack.encode(Told("failed", problem=_text(error))))
        return
    send(replies, msgspec.msgpack.encode(Told("ready")))
    decoder = msgspec.msgpack.Decoder(Asked)
    signal.signal(signal.SIGPROF, _end)
    while (message := receive(requests)) is not None:
        send(replies, _packed(_call(policy, decoder.decode(message))))


def _apart() -> tuple[BinaryIO, BinaryIO]:
    """The two pipes under other numbers, so that what a policy prints gets into neither."""
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    return os.fdopen(requests, "rb"), os.fdopen(replies, "wb")


def _restrict(watcher: int) -> None:
    """End with the watch process; bound the memory; leave no core."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != watcher:
        sys.exit(0)  # it died before
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _load(name: str) -> Callable[[Service, tuple[Endpoint, ...]], object]:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{name} is not a function")
    return found  # type: ignore[no-any-return]


def _end(*_: object) -> None:
    raise TooSlow


def _call(policy: Callable[[Service, tuple[Endpoint, ...]], object], asked: Asked) -> Told:
    try:
        try:
            signal.setitimer(signal.ITIMER_PROF, BUDGET, _AGAIN)
            found = policy(asked.service, asked.endpoints)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except TooSlow:
        signal.setitimer(signal.ITIMER_PROF, 0)
        return Told("slow", problem=f"it took longer than {BUDGET * 1000:.0f} ms")
    except BaseException as error:  # noqa: BLE001 (also SystemExit and KeyboardInterrupt)
        return Told("failed", problem=_text(error))
    if found is None:
        return Told("nothing")
    if not isinstance(found, Decision):
        return Told("failed", problem=f"it returned {type(found).__name__}, neither a Decision nor None"[:_TEXT])
    return Told("decided", found)


def _packed(told: Told) -> bytes:
    try:
        return msgspec.msgpack.encode(told)
    except Exception as error:  # noqa: BLE001 (a Decision holds anything)
        return msgspec.msgpack.encode(Told("failed", problem=_text(error)))


def _text(error: BaseException) -> str:
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 (its own __str__)
        text = type(error).__name__
    return text[:_TEXT].encode(errors="replace").decode()


def send(pipe: BinaryIO, message: bytes) -> None:
    """Write one message. Raises OSError."""
    pipe.write(SIZE.pack(len(message)) + message)
    pipe.flush()


def receive(pipe: BinaryIO) -> bytes | None:
    """The next message; None at the end."""
    head = pipe.read(SIZE.size)
    if len(head) < SIZE.size:
        return None
    size: int = SIZE.unpack(head)[0]
    message = pipe.read(size)
    return message if len(message) == size else None
