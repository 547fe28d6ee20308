#!/usr/bin/env python3
"""Write the values' table of the chart's README from the comments of its values.yaml.

    tools/chart.py      write it

A comment that begins with "# -- " belongs to the key below it. What a key with such a comment holds
is its default, on one line. A key without one must hold keys that have one.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[1]
CHART: Final = ROOT / "deploy" / "helm" / "headwater"
README: Final = CHART / "README.md"
_BEGIN: Final = "<!-- made of values.yaml by tools/chart.py -->\n"
_END: Final = "<!-- to here -->\n"
_KEY: Final = re.compile(r"( *)([A-Za-z][A-Za-z0-9]*):(?: |$)")


@dataclass(frozen=True)
class Row:
    """One value that a user may set."""

    path: str
    default: Any
    comment: str


def rows(text: str) -> Iterator[Row]:
    """The documented values in their order. Raises SystemExit for one that has no comment."""
    values = yaml.safe_load(text)
    path: list[str] = []
    comment: list[str] | None = None
    documented: str | None = None
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("#"):
            if comment is not None:
                comment.append(stripped.removeprefix("# "))
        elif found := _KEY.match(line):
            path = [*path[: len(found[1]) // 2], found[2]]
            name = ".".join(path)
            if documented is not None and name.startswith(f"{documented}."):
                continue
            default = values
            for key in path:
                default = default[key]
            if comment is not None:
                documented = name
                yield Row(name, default, " ".join(comment))
            elif not isinstance(default, dict) or not default:
                raise SystemExit(f"values.yaml: {name} has no comment that begins with '# -- '")
            comment = None
        elif not stripped:
            comment = None


def table(text: str) -> str:
    lines = ["| value | default | |", "|---|---|---|"]
    for row in rows(text):
        default = json.dumps(row.default, ensure_ascii=False)
        comment = row.comment.replace("|", "\\|")
        lines.append(f"| `{row.path}` | `{default}` | {comment} |")
    return "\n".join(lines) + "\n"


def readme(text: str, values: str) -> str:
    """README.md with the table as it is now."""
    head, begin, rest = text.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not begin or not end:
        raise SystemExit(f"{README.name} has no place for the table: {_BEGIN.strip()} … {_END.strip()}")
    return f"{head}{begin}\n{table(values)}\n{end}{tail}"


def main() -> int:
    README.write_text(readme(README.read_text(), (CHART / "values.yaml").read_text()))
    print(README.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
