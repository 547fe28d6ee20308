"""Answers from a store whose records are still being made.

Its objects are complete, so each record follows from them. What makes one knows Kubernetes's
objects, and this room does not: it is handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from headwater.store.environment import Snapshot


class Unmade(Protocol):
    """Makes the records that a store has not yet. Threads may share it."""

    on_made: Callable[[], None]
    """Called whenever it has made some: many questions that came at once may take seconds."""

    def view(self, snapshot: Snapshot) -> Snapshot:
        """The same moment, in which every record is there. It is closed with `snapshot`."""

    def forget(self) -> None:
        """No record is missing any more: give the memory back."""
