"""Run schedules, find one that fails, and shorten it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.simulation.schedule import Schedule, of_seed, shrink
from tests.simulation.world import Result, run

#: The folder of the stores: a file system in memory, if the machine has one.
FOLDER: Final = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
_numbers = itertools.count()


def run_seed(seed: int, folder: Path, *, tracing: bool = False) -> Result:
    """Run a seed's schedule on a new store below `folder`."""
    return run_schedule(of_seed(seed), folder, tracing=tracing)


def run_schedule(schedule: Schedule, folder: Path, *, tracing: bool = False) -> Result:
    return run(schedule, folder / str(next(_numbers)), tracing=tracing)


def find(seeds: Iterable[int], folder: Path) -> Result | None:
    """Return the result of the first seed that fails."""
    return next((result for seed in seeds if (result := run_seed(seed, folder)).wrong is not None), None)


def shortened(result: Result, folder: Path) -> Result:
    """Shorten a failed schedule that keeps failing in the same way, and trace it step by step."""
    kind = result.wrong.kind if result.wrong is not None else ""

    def fails(schedule: Schedule) -> bool:
        wrong = run_schedule(schedule, folder).wrong
        return wrong is not None and wrong.kind == kind

    return run_schedule(shrink(result.schedule, fails), folder, tracing=True)
