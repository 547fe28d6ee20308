#!/usr/bin/env python3
"""Print how much of each room the tests of a `coverage run` reach, beside its floor:

`make coverage`.

    coverage run -m pytest tests/unit tests/wire; tools/covered.py

A room's figure is coverage.py's own: lines and branches that ran, of all. Floors stand in
pyproject.toml ([tool.headwater.covered]); exit code 1 when a room is below its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Reached:
    """Lines and branches of a room, or of all rooms."""

    lines: int = 0
    lines_run: int = 0
    branches: int = 0
    branches_run: int = 0

    def add(self, summary: Mapping[str, int]) -> None:
        """Add a file's summary, as coverage.py's JSON report has it."""
        self.lines += summary["num_statements"]
        self.lines_run += summary["covered_lines"]
        self.branches += summary["num_branches"]
        self.branches_run += summary["covered_branches"]

    @property
    def percent(self) -> float:
        everything = self.lines + self.branches
        return 100 * (self.lines_run + self.branches_run) / everything if everything else 100.0


def by_room(report: Mapping[str, Any]) -> dict[str, Reached]:
    """Return the rooms of a JSON report, without files at the package's root."""
    rooms: dict[str, Reached] = {}
    for name, file in report["files"].items():
        parts = Path(name).parts
        room = parts[parts.index("headwater") + 1]
        if not room.endswith(".py"):
            rooms.setdefault(room, Reached()).add(file["summary"])
    return dict(sorted(rooms.items()))


def table(rooms: Mapping[str, Reached], floors: Mapping[str, float]) -> tuple[str, list[str]]:
    """Return the table, and the rooms that are below their floors or missing."""
    lines = [f"{'room':<12} {'lines':>13} {'branches':>13} {'reached':>9} {'floor':>6}"]
    for name, room in rooms.items():
        floor = f"{floors[name]:6.0f}" if name in floors else ""
        lines.append(
            f"{name:<12} {room.lines_run:6} /{room.lines:5} {room.branches_run:6} /{room.branches:5} "
            f"{room.percent:8.1f}% {floor}".rstrip()
        )
    below = [name for name, floor in floors.items() if name not in rooms or rooms[name].percent < floor]
    return "\n".join(lines), below


def main() -> int:
    floors = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["headwater"]["covered"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "coverage.json")
        subprocess.run(
            [sys.executable, "-m", "coverage", "json", "--quiet", "-o", file], cwd=ROOT, check=True, timeout=120
        )
        text, below = table(by_room(json.loads(file.read_text())), floors)
    print(text)
    for name in below:
        print(f"coverage: {name} is below its floor of {floors[name]}%", file=sys.stderr)
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
