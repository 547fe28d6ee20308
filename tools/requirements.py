#!/usr/bin/env python3
"""Write deploy/requirements.txt: the image's requirements, with the hash of every file for pip.

    .venv/bin/python tools/requirements.py

The versions are those of constraints.txt, the names all that the package's own requirements lead
to. pip itself resolves them, once for each platform that images are built for, and says what it
would install; nothing is downloaded but metadata.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
FILE: Final = ROOT / "deploy" / "requirements.txt"
#: The image's Python (deploy/Dockerfile), and the machines that it is built for.
PYTHON: Final = "3.11"
MACHINES: Final = ("x86_64", "aarch64")
_HEAD: Final = f"""\
# What the image installs: pip install --require-hashes -r requirements.txt
# Made of constraints.txt by tools/requirements.py, for Python {PYTHON} on Linux ({", ".join(MACHINES)}).
"""


def normal(name: str) -> str:
    """Return a project's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def resolved(machine: str) -> list[dict[str, Any]]:
    """Return what pip would install on a machine, from its "Installation Report" (version 1)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(36, 16, -1)] + [f"manylinux2014_{machine}"]
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--dry-run",
            "--ignore-installed", "--only-binary", ":all:", "--python-version", PYTHON, "--target", "unused",
            *(word for platform in platforms for word in ("--platform", platform)),
            "--constraint", ROOT / "constraints.txt", "--report", "-", *project["dependencies"],
        ],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found: list[dict[str, Any]] = json.loads(done.stdout)["install"]
    return found


def main() -> int:
    hashes: dict[str, set[str]] = {}
    for machine in MACHINES:
        for item in resolved(machine):
            pin = f"{normal(item['metadata']['name'])}=={item['metadata']['version']}"
            hashes.setdefault(pin, set()).add(item["download_info"]["archive_info"]["hashes"]["sha256"])
    lines = [
        " \\\n    ".join([pin, *(f"--hash=sha256:{digest}" for digest in sorted(found))])
        for pin, found in sorted(hashes.items())
    ]
    FILE.write_text(_HEAD + "\n".join(lines) + "\n")
    print(f"{FILE.relative_to(ROOT)}: {len(lines)} requirements")
    return 0


if __name__ == "__main__":
    sys.exit(main())
