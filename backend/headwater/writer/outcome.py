"""What the ledger has done with changes, for the watch process to count and log."""

from __future__ import annotations

from dataclasses import dataclass, field

from headwater.writer.opinion import Loss, Opinion


@dataclass(slots=True)
class Outcome:
    """Sums and lists that the ledger adds to."""

    records_changed: int = 0
    trigger_times: list[str] = field(default_factory=list)
    """When the changes happened, from the trigger-time annotation of their slices."""
    costs: dict[tuple[str, str], float] = field(default_factory=dict)
    """Seconds that each owner took to compile (see `Posting`)."""
    opinions: list[tuple[Opinion, Loss]] = field(default_factory=list)
    """What was decided about lists that would remove much (see `opinion`)."""
