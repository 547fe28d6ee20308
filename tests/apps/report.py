"""What the long forms measure: rows of (system, what happened, seconds, what DNS took of them)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bench.report import table


@dataclass(frozen=True)
class Row:
    system: str
    what: str
    took: float
    """Seconds from the member's end, or the start of the first, to a whole cluster."""
    dns: float
    """Seconds of them from the change in the API to the changed answer; negative: not measured."""


ROWS: Final[list[Row]] = []


def note(system: str, what: str, took: float, dns: float = -1.0) -> None:
    ROWS.append(Row(system, what, took, dns))


def text() -> str:
    """Return the table of this run."""
    rows = [(row.system, row.what, f"{row.took:.1f}", f"{row.dns * 1000:.0f}" if row.dns >= 0 else "") for row in ROWS]
    return table(("system", "what happened", "whole after, s", "DNS of it, ms"), rows)
