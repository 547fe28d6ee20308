"""Format figures: medians with their spread, tables, and the machine and versions."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from tools import build

_PACKAGES = ("lmdb", "msgspec", "kubernetes", "grpcio", "dnslib")


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Return `median [least-most]`."""
    return f"{statistics.median(values):,.{digits}f} [{min(values):,.{digits}f}-{max(values):,.{digits}f}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns; the first is text, the others are figures."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join((first, *others))} |"

    rule = "|".join(("", "-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:]), ""))
    return "\n".join((line(head), rule, *map(line, rows)))


def goal(value: float, limit: float, unit: str = "", digits: int = 2, *, at_least: bool = False) -> str:
    """Return a figure beside its goal: at most `limit`, or at least."""
    good, bad = ("above", "UNDER") if at_least else ("within", "OVER")
    word = good if (value >= limit if at_least else value <= limit) else bad
    return f"{value:,.{digits}f}{unit} ({word} {limit:g}{unit})"


def environment(*tools: str) -> str:
    """Return the machine and the versions in one line.

    `tools` are those of tools/build.py that take part.
    """
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    load = os.getloadavg()[0]
    parts = [
        f"{os.cpu_count()} cores ({model}), load {load:.1f}",
        f"Linux {platform.release()}",
        f"Python {platform.python_version()}",
        *(f"{name} {version(name)}" for name in _PACKAGES),
        *(f"{name} {build.TOOLS[name].version()}" for name in tools),
    ]
    return ", ".join(parts)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
