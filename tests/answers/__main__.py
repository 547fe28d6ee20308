"""`make fuzz-answers SEEDS=200`: run any number of seeds, and print what they showed.

    python -m tests.answers --seeds 200 [--start 0] [--only plain,zonal] [--asked] [--keep DIR]

`--start SEED --seeds 1` replays a seed. The exit code is 1 when any message differed without a
reason that `compare` names.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from headwater.compare.deviations import DEVIATIONS

from tests.answers.campaign import name_servers, recorded, run
from tests.answers.corners import CORNERS
from tests.answers.generate import MAX_SEED
from tests.answers.servers import CONFIGURATIONS, AnswersPlane, Configuration, pairs
from tests.harness.plane import PlaneError


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.answers", description="Compare answers with CoreDNS's.")
    parser.add_argument("--seeds", type=int, default=8, help="how many (default: %(default)s)")
    parser.add_argument("--start", type=int, default=0, help="the first one (default: %(default)s)")
    parser.add_argument(
        "--only", default="", metavar="NAME,…", help="configurations: " + ", ".join(c.name for c in CONFIGURATIONS)
    )
    parser.add_argument("--show", type=int, default=10, help="differences to print per seed (default: %(default)s)")
    parser.add_argument(
        "--asked", action="store_true", help="in every configuration, all is on that owners may ask for"
    )
    parser.add_argument("--keep", type=Path, help="keep logs and state in this folder, which must not exist")
    options = parser.parse_args(arguments)
    seeds = range(options.start, options.start + options.seeds)
    if not 0 <= options.start < seeds.stop <= MAX_SEED:
        parser.error(f"seeds are between 0 and {MAX_SEED - 1}")
    names = options.only.split(",") if options.only else [configuration.name for configuration in CONFIGURATIONS]
    configurations = [configuration for configuration in CONFIGURATIONS if configuration.name in names]
    if len(configurations) != len(names):
        parser.error(f"--only: {options.only!r} names a configuration that there is not")
    if options.asked:
        configurations = [replace(configuration, asked=True) for configuration in configurations]
    with tempfile.TemporaryDirectory(prefix="headwater-answers-") as temporary:
        folder: Path = options.keep or Path(temporary)
        try:
            return _all(folder, seeds, configurations, options.show)
        except KeyboardInterrupt:
            return 130
        except (PlaneError, TimeoutError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1


def _all(folder: Path, seeds: range, configurations: Sequence[Configuration], show: int) -> int:
    began = time.monotonic()
    messages, differences = 0, 0
    deviations: Counter[str] = Counter()
    corners: set[str] = set()
    with (
        AnswersPlane(folder / "plane") as plane,
        pairs(plane, folder, seeds, configurations) as running,
        ThreadPoolExecutor(2 * len(configurations)) as pool,
    ):
        print(f"{len(running)} configurations are up after {time.monotonic() - began:.1f} s", flush=True)
        others = {"name servers": name_servers, "recorded questions": recorded}
        for seed in (*others, *seeds):
            outcome = run(plane, running, seed, pool) if isinstance(seed, int) else others[seed](plane, running, pool)
            messages += outcome.tally.messages
            differences += len(outcome.differences)
            deviations += outcome.tally.deviations
            corners.update(outcome.corners)
            what = f"seed {seed}" if isinstance(seed, int) else seed
            print(
                f"{what}: {outcome.tally.messages:,} messages compared, {len(outcome.differences)} differences,"
                f" {outcome.seconds:.1f} s",
                flush=True,
            )
            for difference in outcome.differences[:show]:
                print(f"{difference}\n", flush=True)
    print(f"{len(seeds)} seeds, {messages:,} messages, {differences} differences, {time.monotonic() - began:.0f} s")
    print("deviations: " + ", ".join(f"{name} {count:,}" for name, count in sorted(deviations.items())))
    if unseen := [deviation.__name__ for deviation in DEVIATIONS if not deviations[deviation.__name__]]:
        print("deviations that did not occur: " + ", ".join(unseen))
    if missed := [corner.__name__ for corner in CORNERS if corner.__name__ not in corners]:
        print("corners that were not drawn: " + ", ".join(missed))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
