"""Whether a process makes progress, decided round by round from its replies (contract 8).

The supervisor asks every process once a round. It counts its own rounds without a sign, not
seconds. When it was stopped itself, suspended with the machine, or late for want of CPU, it blames
no process, and starts counting again.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from headwater.process.progress import Mark

#: The length of a round, in seconds.
ROUND: Final = 0.5
#: A round that comes later than this after the previous one, in seconds, does not count.
LATE: Final = 2 * ROUND
#: After so many rounds without a sign a process is called silent. It is not killed yet.
_NOTICEABLE: Final = 2


class Verdict(enum.Enum):
    """The verdict on a process."""

    WELL = "well"
    STARTING = "starting"
    SILENT = "silent"
    """It has made no progress for a second or more."""
    HUNG = "hung"
    """It has made none for longer than its limit: kill it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a process without a sign, in seconds."""

    starting: float
    """Until it has started, and its main loop has turned once."""
    silent: float
    """Without a reply, or without a step of its main loop."""
    committing: float
    """With replies that say that the main loop is in a commit, and not waiting for the disk."""


#: An answer process turns four times a second; clients wait for it.
ANSWER: Final = Limits(starting=60.0, silent=3.0, committing=3.0)
#: The watch process turns twice a second. At its start it verifies the store, may compile all of
#: it, and imports large modules. Each transaction of a commit is a sign; one takes a quarter of a
#: second at most where the processor is free.
WATCH: Final = Limits(starting=300.0, silent=20.0, committing=60.0)

#: The peer process turns four times a second, at low priority: nobody waits for it who could not go
#: on without it.
PEER: Final = Limits(starting=60.0, silent=20.0, committing=20.0)


class Liveness:
    """One life of one process. Tell it each round what was heard."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._last: float | None = None
        self._mark = Mark()
        self._unheard = 0
        """Rounds in a row without a reply."""
        self._stuck = 0
        """Rounds in a row without a step of the main loop."""

    @property
    def silence(self) -> float:
        """The time without progress, in seconds of rounds."""
        return self._stuck * ROUND

    def round(self, now: float, mark: Mark | None, *, started: bool, held: bool = False) -> Verdict:
        """The verdict of this round.

        `now` is the supervisor's monotonic time. `mark` is the newest one since the last round, if
        any. `held` says that the process waits for the disk now, as the kernel sees it.
        """
        late = self._last is not None and now - self._last > LATE
        self._last = now
        got_on = mark is not None and mark.steps != self._mark.steps
        self._unheard = 0 if late or mark is not None else self._unheard + 1
        self._stuck = 0 if late or got_on else self._stuck + 1
        self._mark = mark or self._mark
        if not started or not self._mark.steps:
            return Verdict.HUNG if self.silence >= self._limits.starting else Verdict.STARTING
        limit = self._limits.committing if self._mark.committing else self._limits.silent
        if (self.silence >= limit or self._unheard * ROUND >= self._limits.silent) and not held:
            return Verdict.HUNG
        noticeable = self._unheard if self._mark.committing else self._stuck
        return Verdict.SILENT if noticeable >= _NOTICEABLE else Verdict.WELL
