"""Run tests on every Python that the project promises and this machine has.

    python -m tools.pythons [--other-than PYTHON] [--limit SECONDS] [-- PYTEST ARGUMENTS]
    python -m tools.pythons --list

A Python is taken from PATH (`python3.12`) and from pyenv's folder, the newest patch release of each
minor version that `pyproject.toml` promises (`requires-python`, classifiers). Each has a virtual
environment of the pinned requirements in the cache (see build.py), made once for each
constraints.txt. `--other-than` leaves out the minor version of that interpreter: it runs the tests
anyway. `--limit` bounds the tests of each; those that have not ended by then are a failure.

Standard library only: this runs before any virtual environment exists.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tools.build import cache_folder

ROOT: Final = Path(__file__).resolve().parents[1]
_VERSION: Final = "import sys; print('.'.join(map(str, sys.version_info[:3])))"
#: The tests that run by default: those without processes, which are quick.
_TESTS: Final = ("-q", "-m", "not slow and not coredns and not cluster", "tests/unit", "tests/wire")


def promised() -> list[str]:
    """Return the minor versions in pyproject.toml's classifiers, oldest first ("3.11")."""
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    found = [match[1] for line in classifiers if (match := re.fullmatch(r".* :: Python :: (3\.\d+)", line))]
    return sorted(found, key=lambda version: int(version.partition(".")[2]))


def candidates(minor: str) -> Iterator[Path]:
    """Yield paths where a Python of this minor version may be, whether or not it runs."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from root.glob(f"versions/{minor}.*/bin/python{minor}")
    for folder in os.get_exec_path():
        if "shims" not in Path(folder).parts:  # pyenv's shims refuse versions that are not selected
            yield Path(folder, f"python{minor}")


def version_of(python: Path) -> tuple[int, ...] | None:
    """Return a Python's version if it runs and can make virtual environments, otherwise None."""
    if not os.access(python, os.X_OK):
        return None
    done = subprocess.run(
        [python, "-c", f"import ensurepip; {_VERSION}"], capture_output=True, text=True, check=False, timeout=60
    )
    return tuple(map(int, done.stdout.split("."))) if done.returncode == 0 else None


def installed() -> dict[str, Path]:
    """Return the newest installed Python of each promised minor version."""
    found = {}
    for minor in promised():
        versions = {version: python for python in candidates(minor) if (version := version_of(python))}
        if versions:
            found[minor] = versions[max(versions)]
    return found


def environment(python: Path) -> Path:
    """Return the Python of a virtual environment with the pinned requirements; make it if missing.

    The package is installed too, for its metadata. Its modules are imported from the checkout.
    """
    recipe = hashlib.sha256(str(python).encode())
    for name in ("constraints.txt", "pyproject.toml", "backend/headwater/__init__.py"):
        recipe.update((ROOT / name).read_bytes())
    folder = cache_folder() / "pythons" / f"{python.name}-{recipe.hexdigest()[:10]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".ready").exists():
            print(f"installing the pinned requirements for {python.name} ...", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([python, "-m", "venv", folder], check=True)
            subprocess.run(
                [
                    folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                    "--constraint", ROOT / "constraints.txt", f"{ROOT}[dev]",
                ],
                check=True,
            )  # fmt: skip
            (folder / ".ready").touch()
    return folder / "bin" / "python"


def run(minor: str, python: Path, arguments: Sequence[str], limit: float | None) -> bool:
    """Run the tests on the checkout's package. Return whether they passed."""
    print(f"--- Python {minor} ({python})", flush=True)
    command = [str(environment(python)), "-m", "pytest", "-o", f"cache_dir=.pytest_cache/{minor}"]
    command += arguments or _TESTS
    path = os.pathsep.join(filter(None, [str(ROOT / "backend"), os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, check=False, timeout=limit
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        print(f"Python {minor}: not done within {limit:g} s", file=sys.stderr)
        return False
    return done.returncode == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if all passed; 1 if some failed, or if only left-out versions are installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print what would be used")
    parser.add_argument("--other-than", type=Path, metavar="PYTHON", help="leave this one's minor version out")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="for the tests of one Python")
    parser.add_argument("pytest", nargs="*", metavar="ARGUMENT", help=f"for pytest; usually {' '.join(_TESTS)}")
    options = parser.parse_args(arguments)
    found = installed()
    if options.other_than is not None and (version := version_of(options.other_than)):
        found.pop(f"{version[0]}.{version[1]}", None)
    missing = [minor for minor in promised() if minor not in found]
    if options.list:
        for minor, python in found.items():
            print(f"{minor} {python}")
        return 0
    failed = [minor for minor, python in found.items() if not run(minor, python, options.pytest, options.limit)]
    print(f"passed: {', '.join(minor for minor in found if minor not in failed) or 'none'}; ", end="")
    print(f"failed: {', '.join(failed) or 'none'}; not run: {', '.join(missing) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
