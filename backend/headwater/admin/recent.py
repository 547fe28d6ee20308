"""The queries of the last minutes by rcode, and when the store last changed: what the page draws.

The supervisor tells each round. Nothing is asked for it, and it holds 180 small dictionaries.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from headwater.answer.counts import RCODES, count_parts
from headwater.process.counters import AnswerSnapshot, ProcessView, WatchSnapshot

#: Seconds of one step, and the steps that are kept: a quarter of an hour.
STEP: Final = 5.0
STEPS: Final = 180


class Recent:
    """Written once a round, read by the page."""

    def __init__(self) -> None:
        self.steps: deque[dict[str, int] | None] = deque(maxlen=STEPS)
        """Queries by rcode in each step, the latest last; None for a step that was not told."""
        self.began: float | None = None
        """When the first round was, by the machine's monotonic clock."""
        self.committed: float | None = None
        """When a round first saw the latest commit."""
        self.changed: float | None = None
        """When a round first saw the latest change of a name.

        Most commits change none: they only say how far was read.
        """
        self._step: int | None = None
        self._totals: dict[str, int] = {}
        self._commits = 0
        self._changes = 0

    def note(self, now: float, views: Iterable[ProcessView]) -> None:
        """Tell how the processes are at that moment of the monotonic clock, in seconds."""
        views = list(views)
        if self.began is None:
            self.began = now
        commits, changes = _written(views)
        if commits > self._commits:
            self.committed = now
        if changes > self._changes:
            self.changed = now
        self._commits, self._changes = max(commits, self._commits), max(changes, self._changes)
        step = int(now // STEP)
        if step == self._step:
            return
        totals = _by_rcode(views)
        if self._step is not None:
            # A machine that slept, or a supervisor that waited for a disk, has no steps then.
            self.steps.extend([None] * min(step - self._step - 1, STEPS))
            self.steps.append(
                {rcode: count - self._totals.get(rcode, 0) for rcode, count in totals.items()}
                if step - self._step == 1
                else None
            )
        self._step, self._totals = step, totals

    def series(self) -> dict[str, list[int | None]]:
        """The steps by rcode, for the rcodes that came at all."""
        rcodes = sorted({rcode for step in self.steps if step for rcode, count in step.items() if count})
        return {rcode: [None if step is None else step.get(rcode, 0) for step in self.steps] for rcode in rcodes}


def _written(views: Iterable[ProcessView]) -> tuple[int, int]:
    """Commits, and names put or dropped."""
    parts = [part for view in views for part in (view.before, view.snapshot) if isinstance(part, WatchSnapshot)]
    return sum(part.commits for part in parts), sum(part.records_changed for part in parts)


def _by_rcode(views: Iterable[ProcessView]) -> dict[str, int]:
    """All queries since the start; they never go back, for the dead are counted."""
    found: dict[str, int] = {}
    for view in views:
        for part in (view.before, view.snapshot):
            if isinstance(part, AnswerSnapshot):
                for key, count in part.queries.items():
                    rcode = RCODES[count_parts(key)[2]].name
                    found[rcode] = found.get(rcode, 0) + count
    return found
