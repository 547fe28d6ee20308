"""Run seeds, or the mutants:

`python -m tests.simulation --seeds 1000 --start 300`, `--seed 7`, `--mutants`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.simulation.mutants import MUTANTS
from tests.simulation.runs import FOLDER, find, run_seed, shortened


def main() -> int:
    """Return 0 when nothing is wrong, or when every mutant is found."""
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first one")
    parser.add_argument("--seed", type=int, help="this one, told step by step")
    parser.add_argument("--mutants", action="store_true", help="see that every mutant is found")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        if asked.mutants:
            return _mutants(Path(folder), asked.start, asked.seeds)
        if asked.seed is not None:
            result = run_seed(asked.seed, Path(folder), tracing=True)
            print(result)
            return result.wrong is not None
        return _seeds(Path(folder), asked.start, asked.seeds)


def _seeds(folder: Path, start: int, seeds: int) -> int:
    began = time.monotonic()
    for seed in range(start, start + seeds):
        result = run_seed(seed, folder)
        if result.wrong is not None:
            print(shortened(result, folder))
            return 1
        if sys.stdout.isatty() or not (seed + 1) % 100:
            print(
                f"seed {seed}: {time.monotonic() - began:.0f} s", end="\r" if sys.stdout.isatty() else "\n", flush=True
            )
    print(
        f"{seeds} seeds from {start}: nothing wrong, {time.monotonic() - began:.0f} s, {os.times().user:.0f} s of CPU"
    )
    return 0


def _mutants(folder: Path, start: int, seeds: int) -> int:
    """Print a table of the seeds that find each mutant."""
    print(
        f"| {'mutant':<66} | found at seed | what was wrong | actions, shrunk |\n|{'-' * 68}|--------------:|---|---:|"
    )
    missed = 0
    for mutant in MUTANTS:
        with mutant.in_force():
            result = find(range(start, start + seeds), folder)
            if result is None:
                missed += 1
                print(f"| {mutant.name:<66} | **not found** | | |", flush=True)
                continue
            short = shortened(result, folder)
        assert result.wrong is not None
        cells = f"{result.schedule.seed:>13} | {result.wrong.kind} | {len(short.schedule.actions)}"
        print(f"| {mutant.name:<66} | {cells} |", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main())
