"""Run a target under atheris (libFuzzer), and keep its corpus small (see the package)."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).parent / "corpus"
#: An input is kept for the branches that it takes. With counts of branches, three times as many
#: files would be kept.
_WORTH: Final = ("-use_counters=0", "-max_len=4096", "-timeout=20")
_INNER: Final = "--libfuzzer"


def libfuzzer(name: str, *arguments: str | Path) -> None:
    """Run libFuzzer on a target. It does not return, and a merge starts the process again."""
    subprocess.run([sys.executable, "-m", "tests.fuzz", _INNER, name, *map(str, arguments)], check=True)


def _inside(name: str, arguments: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["headwater", "hpack"]):
        from tests.fuzz.targets import TARGETS
    # A merge passes the first word to a shell, followed by more arguments.
    atheris.Setup([f"{sys.executable} -m tests.fuzz {_INNER} {name}", *arguments], TARGETS[name])
    atheris.Fuzz()


def _write_seeds(name: str, folder: Path) -> None:
    # Imported only without atheris, which instruments modules when they are imported.
    from tests.fuzz import seeds

    seeds.write(name, folder)


def fuzz(name: str, seconds: int) -> None:
    """Look for inputs that fail, and add those that take new branches to the corpus."""
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
    """Keep the fewest files that, with the seeds, take every branch that the whole corpus takes."""
    with tempfile.TemporaryDirectory(prefix="hw-fuzz-") as folder:
        known, before = Path(folder, "known"), Path(folder, "before")
        _write_seeds(name, known)
        (CORPUS / name).rename(before)
        (CORPUS / name).mkdir()
        _add(name, "-set_cover_merge=1", known, before)


def _add(name: str, how: str, known: Path, found: Path) -> None:
    """Merge into the corpus the inputs of `found` that add branches
    to `known`; keep mended ones.
    """
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
