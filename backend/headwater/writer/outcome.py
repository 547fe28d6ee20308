"""What the ledger has done with changes, for whoever counts and logs."""

from __future__ import annotations

from dataclasses import dataclass, field

from headwater.writer.opinion import Loss, Opinion


@dataclass(slots=True)
class Outcome:
    """Sums and lists that the ledger adds to."""

    records_changed: int = 0
    trigger_times: list[str] = field(default_factory=list)
    """When the changes happened, as their slices say."""
    costs: dict[tuple[str, str], float] = field(default_factory=dict)
    """Seconds that owners took to compile, see `Posting`."""
    opinions: list[tuple[Opinion, Loss]] = field(default_factory=list)
    """What became of lists that would take much away."""
