"""Signals that ask for a stop before a loop runs that could handle them.

For process 1 of a container, the kernel drops a SIGTERM without a handler. So this module runs
first, before any slow import.
"""

from __future__ import annotations

import signal

_heard: list[int] = []


def listen() -> None:
    """Remember SIGTERM and SIGINT from here on."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: _heard.append(number))


def asked() -> bool:
    """Whether such a signal came."""
    return bool(_heard)
