"""Signals that ask for a stop before there is a loop that could be asked.

Process 1 of a container is not ended by a SIGTERM that it has no handler for:
the kernel drops it. So this comes first of all, before any import that takes time.
"""

from __future__ import annotations

import signal

_heard: list[int] = []


def listen() -> None:
    """Remember SIGTERM and SIGINT from here on."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: _heard.append(number))


def asked() -> bool:
    """Whether one came."""
    return bool(_heard)
