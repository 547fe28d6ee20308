"""`make node`: a real node with deploy/base on it, until Ctrl-C."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path

from tests.harness.processes import require_tool
from tests.node import ground, images, machine


def main() -> int:
    if reason := machine.unable():
        print(f"No node here: {reason}.", file=sys.stderr)
        return 1
    for name in machine.BINARIES:
        require_tool(name)
    try:
        archives = images.make()
    except images.ImageError as error:
        print(f"No images: {error}", file=sys.stderr)
        return 1
    with (
        tempfile.TemporaryDirectory(prefix="headwater-node-") as folder,
        machine.Machine(Path(folder) / "state", list(archives.values())) as node,
    ):
        ground.install_web(node)
        ground.install_base(node)
        inside = node.folder / "in"
        print(f"The node runs, with deploy/base on it at {ground.address(node, ground.BASE)}. In it:\n")
        print(f"    {inside} kubectl get pods -A")
        print(f"    {inside} kubectl -n headwater logs deployment/headwater-dns -c headwater")
        print(f"    {inside} dig @{ground.address(node, ground.BASE)} web.default.svc.cluster.local")
        print("\nCtrl-C ends it.", flush=True)
        ends = {signal.SIGINT, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)
        signal.sigwait(ends)
    return 0


if __name__ == "__main__":
    sys.exit(main())
