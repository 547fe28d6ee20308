"""How far a process's main loop is:

it marks each turn here, and the control thread reports the mark.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct


class Mark(Struct, frozen=True):
    """How far a main loop was at one moment."""

    steps: int = 0
    """Goes up with each turn of the main loop; 0 before the first."""
    committing: bool = False
    """Whether it was in a commit, which a slow disk may hold up."""


class Progress:
    """Written by the main loop alone, read by the control thread."""

    __slots__ = ("_committing", "_steps")

    def __init__(self) -> None:
        self._steps = 0
        self._committing = False

    def step(self) -> None:
        """Mark a turn of the main loop."""
        self._steps += 1

    @contextmanager
    def commit(self) -> Iterator[None]:
        """A commit, from its beginning to its end; both are steps."""
        self._steps += 1
        self._committing = True
        try:
            yield
        finally:
            self._committing = False
            self._steps += 1

    def part_of_commit(self) -> None:
        """Mark a transaction of a commit, or a Service within one, as done.

        Outside a commit it is no sign.
        """
        if self._committing:
            self._steps += 1

    def mark(self) -> Mark:
        return Mark(self._steps, self._committing)
