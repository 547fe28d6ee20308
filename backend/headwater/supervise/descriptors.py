"""Descriptors kept in reserve, so that a child can be started when all others are in use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

#: A start needs 8 at its height, and keeps 3.
_RESERVE: Final = 12


class Reserve:
    """Spare descriptors, which are closed while others need them."""

    def __init__(self) -> None:
        self._held: list[int] = []
        self._lent = 0
        self.fill()

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Close them for the time of the block. Several may borrow at once."""
        while self._held:
            os.close(self._held.pop())
        self._lent += 1
        try:
            yield
        finally:
            self._lent -= 1
            self.fill()

    def fill(self) -> None:
        """Open the spare ones again, unless they are still needed."""
        if self._lent:
            return
        with contextlib.suppress(OSError):  # there are none now; the next time, perhaps
            while len(self._held) < _RESERVE:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
