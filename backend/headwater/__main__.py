"""`python -m headwater`, and the console script."""

import sys


def main() -> int:
    """Listen for a stop before anything is imported that takes time, then run the command line."""
    from headwater.process import early

    if sys.argv[1:2] == ["serve"]:
        early.listen()
    early.unblock()
    from headwater.commands.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
