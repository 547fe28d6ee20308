"""A node that starts in 15 s and leaves nothing behind: one process ends all of it.

    with Machine(folder) as machine:
        machine.apply(folder / "things.yaml")

It has namespaces of its own (network, mounts, processes, cgroups), so that it meets neither this
machine nor another node beside it. `boot.sh` is its first process, and ends when the pipe to it
does: with this process, however that ends.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

import msgspec.json
import pytest

from tests.harness.processes import require_tool, wait_until
from tests.node import images
from tools import build

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

CONTROLLERS: Final = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd")
CGROUPS: Final = Path("/sys/fs/cgroup")
BOOT: Final = Path(__file__).with_name("boot.sh")
#: In tools/build.py.
BINARIES: Final = (
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "coredns",
    "kubelet", "kube-proxy", "containerd", "containerd-shim-runc-v2", "ctr", "pause",
)  # fmt: skip
#: From Debian's packages.
COMMANDS: Final = ("runc", "nft", "iptables", "conntrack", "/usr/lib/cni/bridge", "unshare", "nsenter", "openssl")
#: Of the processor's time, when others want it too: as much as 16 processes have.
SHARES: Final = 16 * 1024
START_TIMEOUT: Final = 120.0  # seconds; 15 on an idle machine
STOP_TIMEOUT: Final = 30.0
#: CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_MKNOD: bits of /proc/self/status.
NEEDED_CAPABILITIES: Final = 1 << 21 | 1 << 12 | 1 << 27


#: One process may have a machine for all its tests, and another one beside it.
_numbers = itertools.count()


class NodeError(Exception):
    """The node, or a command in it, failed; the text quotes what it said."""


def unable() -> str:
    """Return why no node can run on this machine; "" when one can."""
    if os.geteuid() != 0:
        return "a node needs root"
    status = Path("/proc/self/status").read_text()
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    if effective & NEEDED_CAPABILITIES != NEEDED_CAPABILITIES:
        return "a node needs CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_MKNOD"
    missing = [name for name in CONTROLLERS if not os.access(CGROUPS / name / "cgroup.procs", os.W_OK)]
    if missing:
        return f"a node needs cgroup v1 hierarchies that it may write to, and has none for {', '.join(missing)}"
    return ""


def require_node() -> dict[str, Path]:
    """Return the archives of the images, all made; skip or fail the test where no node can run.

    A machine that cannot run one skips. What can be installed and is not fails with CI=true, as a
    missing tool does.
    """
    if reason := unable():
        pytest.skip(reason)
    for name in BINARIES:
        require_tool(name)
    absent = [name for name in COMMANDS if shutil.which(name) is None]
    try:
        if absent:
            raise images.ImageError(f"not installed: {', '.join(absent)} (tools/setup packages installs them)")
        return images.make()
    except images.ImageError as error:
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(str(error))
        pytest.skip(str(error))


class Machine:
    """One node or two with their control plane, which write only into `folder`.

    `kubectl` and `run` are for the main thread and for others. Raises NodeError when the node does
    not become ready.
    """

    def __init__(self, folder: Path, archives: Sequence[Path], nodes: int = 1) -> None:
        self.folder = folder.resolve()
        self._nodes = nodes
        self._group = f"headwater-node-{os.getpid()}-{next(_numbers)}"
        folders = dict.fromkeys(str(build.TOOLS[name].folder()) for name in BINARIES)
        self._tools = ":".join(folders)
        self._archives = archives
        self._child: subprocess.Popen[bytes] | None = None
        self._first = 0
        self._log: IO[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        for controller in CONTROLLERS:
            (CGROUPS / controller / self._group).mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            (CGROUPS / "cpuset" / self._group / name).write_text((CGROUPS / "cpuset" / name).read_text())
        # Else all of it would have the share of one process, and starve beside other work.
        (CGROUPS / "cpu" / self._group / "cpu.shares").write_text(str(SHARES))
        environment = os.environ | {
            "S": str(self.folder), "GROUP": self._group, "TOOLS": self._tools,
            "IMAGES": " ".join(map(str, self._archives)), "NODES": str(self._nodes),
        }  # fmt: skip
        self._log = (self.folder / "boot.log").open("wb")
        self._child = subprocess.Popen(
            ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", BOOT, "--enter"],
            stdin=subprocess.PIPE, stdout=self._log, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip
        children = Path(f"/proc/{self._child.pid}/task/{self._child.pid}/children")
        self._first = int(wait_until(lambda: children.read_text().split(), 10, "the node's first process")[0])
        self._write_in()
        wait_until(self._ready, START_TIMEOUT, f"the node is ready (see {self.folder / 'logs'})", interval=0.1)

    def stop(self) -> None:
        """End everything in the node, and take its files and cgroups away. Logs stay."""
        if self._child is not None:
            assert self._child.stdin is not None
            self._child.stdin.close()
            self._child.kill()  # its child dies with it, and with that one all others
            self._child.wait(STOP_TIMEOUT)
            self._child = None
        if self._log is not None:
            self._log.close()
        groups = [CGROUPS / controller / self._group for controller in CONTROLLERS]
        wait_until(lambda: _removed(groups), STOP_TIMEOUT, "the node's processes are gone")
        for name in ("containerd", "etcd", "kubelet", "pods", "b"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    # -- in there

    def command(self, *words: str | Path) -> list[str]:
        """Return the command that runs `words` in the node's namespaces."""
        return [str(self.folder / "in"), *map(str, words)]

    def run(self, *words: str | Path, stdin: str | None = None, timeout: float = 90, check: bool = True) -> str:
        """Run a command in there and return its output. Raises NodeError."""
        try:
            done = subprocess.run(
                self.command(*words), input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True, text=True, timeout=timeout, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise NodeError(f"{' '.join(map(str, words))}: no end within {timeout:g} s") from None
        if check and done.returncode:
            raise NodeError(f"{' '.join(map(str, words))}: exit status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def kubectl(self, *words: str | Path, stdin: str | None = None, timeout: float = 90) -> str:
        return self.run("kubectl", *words, stdin=stdin, timeout=timeout)

    def get(self, *words: str) -> Any:
        """Return the objects of `kubectl get`, as JSON."""
        return msgspec.json.decode(self.kubectl("get", *words, "-o", "json"))

    def pids(self, pattern: str) -> list[int]:
        """Return the processes in there whose command line matches, oldest first."""
        return [int(pid) for pid in self.run("pgrep", "-f", pattern, check=False).split()]

    def kill(self, signal: str, pid: int) -> None:
        self.run("kill", f"-{signal}", str(pid))

    # -- details

    def _write_in(self) -> None:
        """Write the script `in`, which runs its arguments in there; people use it too."""
        script = self.folder / "in"
        script.write_text(
            "#!/bin/sh\n"
            f"export KUBECONFIG={self.folder}/kubeconfig CONTAINERD_ADDRESS=/run/containerd/containerd.sock "
            f"CONTAINERD_NAMESPACE=k8s.io PATH={self._tools}:$PATH\n"
            f"echo $$ > {CGROUPS / 'cpu' / self._group / 'plane' / 'cgroup.procs'}\n"
            f'exec nsenter -t {self._first} -m -n -p -C -- "$@"\n'
        )
        script.chmod(0o700)

    def _ready(self) -> bool:
        assert self._child is not None
        if self._child.poll() is not None:
            raise NodeError(f"the node ended: {(self.folder / 'boot.log').read_text()[-2000:]}")
        return (self.folder / "ready").exists()


def _removed(groups: Sequence[Path]) -> bool:
    """Remove the cgroups, inner ones first; return whether none is left."""
    for group in groups:
        for inner in sorted(group.rglob("*"), reverse=True) if group.exists() else ():
            if inner.is_dir():
                _rmdir(inner)
        _rmdir(group)
    return not any(group.exists() for group in groups)


def _rmdir(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:  # busy, until its last process is gone; or gone itself
        return
