"""Signals that ask for a stop before a loop runs that could handle them.

For process 1 of a container, the kernel drops a SIGTERM without a handler. So this module runs
first, before any slow import.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Final

_STOPS: Final = (signal.SIGTERM, signal.SIGINT)

_heard: list[int] = []
_at_once = False


def listen() -> None:
    """Remember SIGTERM and SIGINT from here on."""
    for number in _STOPS:
        signal.signal(number, _hear)


def unblock() -> None:
    """Unblock these signals, which the image blocks at the start; an earlier one arrives now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


def _hear(number: int, _: FrameType | None) -> None:
    _heard.append(number)
    if _at_once:
        raise SystemExit(0)


@contextlib.contextmanager
def stopping_at_once() -> Iterator[None]:
    """Exit at once when such a signal arrives within the block, or arrived before it.

    The block may wait for ever, as for a pipe.
    """
    global _at_once
    _at_once = True
    try:
        if _heard:
            raise SystemExit(0)
        yield
    finally:
        _at_once = False


def asked() -> bool:
    """Whether such a signal came."""
    return bool(_heard)
