"""Goals for the costs of serving, as ratios within one run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.report import goal, table


@dataclass(frozen=True)
class Goal:
    """A figure, once per round, and its limit: the most that it may be, or the least."""

    title: str
    seen: Sequence[float]
    limit: float
    unit: str = ""
    digits: int = 2
    at_least: bool = False

    def row(self) -> tuple[str, str, str]:
        """Return the title, the median beside the limit, and all values."""
        said = goal(statistics.median(self.seen), self.limit, self.unit, self.digits, at_least=self.at_least)
        spread = f"{min(self.seen):,.{self.digits}f}-{max(self.seen):,.{self.digits}f}" if len(self.seen) > 1 else ""
        return self.title, said, spread


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return the ratios round by round, so that a slow period affects both sides."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


def report(goals: Sequence[Goal]) -> str:
    return table(("goal", "median", "rounds"), [goal.row() for goal in goals])
