"""Runs a target under atheris (libFuzzer), and keeps its corpus small: see the package."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).parent / "corpus"
#: What an input is worth: the branches that it takes. How often it takes them would keep three times the files.
_WORTH: Final = ("-use_counters=0", "-max_len=4096", "-timeout=20")
_INNER: Final = "--libfuzzer"


def libfuzzer(name: str, *arguments: str | Path) -> None:
    """libFuzzer on a target, in a process of its own: it does not return. A merge starts itself again."""
    subprocess.run([sys.executable, "-m", "tests.fuzz", _INNER, name, *map(str, arguments)], check=True)


def _inside(name: str, arguments: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["headwater", "hpack"]):
        from tests.fuzz.targets import TARGETS
    # A merge runs the first word through a shell, with more arguments after it.
    atheris.Setup([f"{sys.executable} -m tests.fuzz {_INNER} {name}", *arguments], TARGETS[name])
    atheris.Fuzz()


def _write_seeds(name: str, folder: Path) -> None:
    # Not where atheris runs: it sees only what is imported under its eyes.
    from tests.fuzz import seeds

    seeds.write(name, folder)


def fuzz(name: str, seconds: int) -> None:
    """Look for what fails; inputs that take new branches are added to the corpus."""
    with tempfile.TemporaryDirectory(prefix="hw-fuzz-") as folder:
        found, known = Path(folder, "found"), Path(folder, "known")
        found.mkdir()
        _write_seeds(name, known)
        corpus = CORPUS / name
        libfuzzer(name, f"-max_total_time={seconds}", "-max_len=4096", "-timeout=10", found, known, corpus)
        for file in corpus.iterdir():
            (known / file.name).write_bytes(file.read_bytes())
        _add(name, "-merge=1", known, found)


def minimise(name: str) -> None:
    """The fewest files of the corpus that take, with the seeds, every branch that all of them take."""
    with tempfile.TemporaryDirectory(prefix="hw-fuzz-") as folder:
        known, before = Path(folder, "known"), Path(folder, "before")
        _write_seeds(name, known)
        (CORPUS / name).rename(before)
        (CORPUS / name).mkdir()
        _add(name, "-set_cover_merge=1", known, before)


def _add(name: str, how: str, known: Path, found: Path) -> None:
    """Add to the corpus what `found` has beyond the files of `known`, by a merge; those that failed once stay."""
    had = {file.name for file in known.iterdir()}
    libfuzzer(name, how, *_WORTH, known, found)
    for file in (*known.iterdir(), *found.glob("mended-*")):
        if file.name not in had:
            (CORPUS / name / file.name).write_bytes(file.read_bytes())
    print(f"{name}: {len(list((CORPUS / name).iterdir()))} files in the corpus, {len(had)} were known")


def main() -> None:
    if sys.argv[1:2] == [_INNER]:
        _inside(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=sorted(file.name for file in CORPUS.iterdir()))
    parser.add_argument("seconds", type=int, nargs="?", default=120, help="how long to look for new inputs (120)")
    parser.add_argument("--minimise", action="store_true", help="keep the fewest files of the corpus instead")
    options = parser.parse_args()
    if options.minimise:
        minimise(options.target)
    else:
        fuzz(options.target, options.seconds)


if __name__ == "__main__":
    main()
