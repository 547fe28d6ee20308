#!/usr/bin/env python3
"""Generate the Python code of protos/ into a package tree (default: the committed one).

    tools/protoc.py [OUT]     OUT is the folder that holds the `headwater` package

The generated files are committed; a test runs this into another folder and compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "headwater/serve/pb"


def generate(out: Path) -> None:
    """Write `dns_pb2.py`, `dns_pb2.pyi` and `dns_pb2_grpc.py` below `out`."""
    (out / PACKAGE).mkdir(parents=True, exist_ok=True)
    arguments = [
        "protoc",
        # The virtual path makes the generated import an absolute one.
        f"-I{PACKAGE}={ROOT / 'protos' / 'coredns'}",
        f"--python_out={out}",
        f"--pyi_out={out}",
        f"--grpc_python_out={out}",
        f"{PACKAGE}/dns.proto",
    ]
    if protoc.main(arguments):
        raise SystemExit("protoc failed: see its message above")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "backend")
