"""Runs a target under atheris (libFuzzer): see the package."""

from __future__ import annotations

import sys
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    if sys.argv[1:] == ["--seed"]:
        from tests.fuzz import seeds

        seeds.write()
        return
    name, *seconds = sys.argv[1:]
    import atheris

    with atheris.instrument_imports(include=["headwater", "hpack"]):
        from tests.fuzz.targets import TARGETS
    time = f"-max_total_time={seconds[0] if seconds else 120}"
    atheris.Setup([f"fuzz {name}", time, "-max_len=4096", "-timeout=10", str(CORPUS / name)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
