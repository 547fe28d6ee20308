"""`python -m headwater`, and the console script."""

import gc
import sys


def main() -> int:
    """Listen for a stop before anything is imported that takes time, then run the command line."""
    from headwater.process import early

    if sys.argv[1:2] == ["serve"]:
        early.listen()
        # Nothing that is imported is garbage, and to look for it takes 10 ms. `forks.begin` turns
        # the collector on again.
        gc.disable()
    early.unblock()
    from headwater.commands.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
