"""A pod without a container runtime: a few namespaces that one process holds and ends.

    with Network() as network, Pod(network, folder, "db-0", "10.44.1.1", service="db") as pod:
        server = pod.start("/usr/sbin/server", log=folder / "db-0.log", user="db")
        pod.run("client", "--ping")

A pod has namespaces of its own for network, host name, mounts and processes, and one address on the
network's bridge. Its /etc/resolv.conf, /etc/hosts and /etc/hostname are what a kubelet writes
(pkg/kubelet/network/dns, kubelet_pods.go). Its file system is a `root` (see `roots`), or the
machine's own. `disk` is its volume, which a later pod may get: /disk in a root.

One process holds the namespaces, as a pause container does, and dies with this one: so does all
that runs in the pod. Nothing leaves the network: there is no route out, and no interface of the
machine is in the bridge.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tests.harness.processes import Running, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

#: The Service address of DNS, as kubeadm gives it.
DNS: Final = "10.96.0.10"
GATEWAY: Final = "10.44.255.254"
ZONE: Final = "cluster.local"
NAMESPACE: Final = "default"
#: A fixed address for the bridge. Else it has the lowest of its ports', and the pods' ARP entries
#: for the DNS server go stale whenever a pod comes or goes: 10 to 40 s without DNS.
_BRIDGE: Final = "02:00:0a:60:00:0a"
_CLONE_NEWNET: Final = 0x40000000
#: CAP_SYS_ADMIN, CAP_NET_ADMIN: bits of /proc/self/status.
_CAPABILITIES: Final = 1 << 21 | 1 << 12
_SPAWN: Final = 10.0  # seconds

#: The first process of a pod. It prepares the file system, says so, and reaps orphans.
_PAUSE: Final = """
set -e
hostname "$1"; etc=$2 root=$3 disk=$4
mount --make-rprivate /
ip link set lo up
if [ -n "$root" ]; then
    mount --rbind /dev "$root/dev"
    for folder in tmp run; do mount -t tmpfs -o mode=1777 pod "$root/$folder"; done
    mount --bind "$disk" "$root/disk"
fi
for file in resolv.conf hosts hostname; do mount --bind "$etc/$file" "$root/etc/$file"; done
mount -t proc proc "$root/proc"
echo ready
pause='trap "" TERM INT; sleep infinity & wait'
if [ -n "$root" ]; then exec chroot "$root" sh -c "$pause"; fi
exec sh -c "$pause"
"""


class PodError(Exception):
    """A command in a pod failed; the text quotes what it said."""


def unable() -> str:
    """Return why there can be no pods on this machine; "" when there can."""
    if os.geteuid() != 0:
        return "pods need root"
    effective = int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16)
    if effective & _CAPABILITIES != _CAPABILITIES:
        return "pods need CAP_SYS_ADMIN and CAP_NET_ADMIN"
    return ""


def _ip(*words: str, at: Sequence[str] = (), who: str = "") -> None:
    """Run `ip` on the machine, or by the command `at` in a network namespace.

    Raises PodError, which begins with `who`.
    """
    done = subprocess.run([*at, "ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PodError(f"{who}ip {' '.join(words)}: {done.stderr.strip()}")


def _child(pid: int) -> int:
    """Return the one child of a process that forked once."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return int(wait_until(lambda: children.read_text().split(), _SPAWN, f"process {pid} has its child")[0])


class _Held:
    """Namespaces that live as long as one process."""

    def __init__(self, command: list[str]) -> None:
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline() != "ready\n":
            raise PodError(f"no namespaces: {self._holder.stderr.read().strip()}")
        self.pid = _child(self._holder.pid)
        """The first process in the namespaces, as this machine numbers it."""

    def network(self, *words: str) -> list[str]:
        """Return the command that runs `words` in the network namespace alone."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *words]

    def end(self) -> None:
        self._holder.kill()  # its child dies with it (--kill-child), and with that one all others
        self._holder.communicate()


class Network:
    """A node's network namespace: the bridge of its pods, and the address of DNS on it."""

    def __init__(self) -> None:
        self._held = _Held(["--net", "--fork", "--kill-child", "sh", "-c", "echo ready; exec sleep infinity"])
        self._ports = 0
        try:
            for words in (
                ("link", "set", "lo", "up"),
                ("link", "add", "br0", "address", _BRIDGE, "type", "bridge"),
                ("addr", "add", f"{GATEWAY}/16", "dev", "br0"),
                ("addr", "add", f"{DNS}/32", "dev", "br0"),
                ("link", "set", "br0", "up"),
            ):
                self.ip(*words)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._held.end()

    def command(self, *words: str | Path) -> list[str]:
        """Return the command that runs `words` on the node, with the machine's own files."""
        return self._held.network(*map(str, words))

    def ip(self, *words: str) -> None:
        _ip(*words, at=self.command())

    def plug(self, pid: int) -> None:
        """Give the network namespace of a process an interface eth0 on the bridge."""
        self._ports += 1
        port = f"p{self._ports}"
        _ip(
            "link", "add", port, "netns", str(self._held.pid), "type", "veth",
            "peer", "name", "eth0", "netns", str(pid),
        )  # fmt: skip
        self.ip("link", "set", port, "master", "br0", "up")

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Return a socket of the node's network namespace."""
        made: list[socket.socket | OSError] = []

        def make() -> None:  # in a thread of its own, which alone moves to that namespace
            try:
                with Path(f"/proc/{self._held.pid}/ns/net").open() as namespace:
                    if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                made.append(socket.socket(family, kind, protocol))
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=make, name="a socket elsewhere")
        thread.start()
        thread.join()
        (one,) = made
        if isinstance(one, OSError):
            raise one
        return one


class Pod:
    """One pod, running when it is made. `delete` ends it and all in it, as SIGKILL does.

    Without `service` it is a pod that no StatefulSet made: its name is only its host name.
    """

    def __init__(
        self,
        network: Network,
        folder: Path,
        name: str,
        address: str,
        *,
        service: str = "",
        root: Path | None = None,
        disk: Path | None = None,
    ) -> None:
        self.network, self.name, self.address, self.root = network, name, address, root
        self.subdomain = f"{service}.{NAMESPACE}.svc.{ZONE}" if service else ""
        """The Service's own name; "" without one."""
        self.fqdn = f"{name}.{self.subdomain}" if service else name
        self.disk = disk or folder / f"disk-{name}"
        self.folder = folder
        self.ready = False
        """What a readiness probe would find: set by tests, published by the site."""
        self._servers: list[Running] = []
        self.disk.mkdir(parents=True, exist_ok=True)
        etc = folder / f"etc-{name}-{address}"
        etc.mkdir(parents=True, exist_ok=True)
        (etc / "resolv.conf").write_text(
            f"search {NAMESPACE}.svc.{ZONE} svc.{ZONE} {ZONE}\nnameserver {DNS}\noptions ndots:5\n"
        )
        (etc / "hosts").write_text(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
            f"{address}\t{self.fqdn}{f'{chr(9)}{name}' if service else ''}\n"
        )
        (etc / "hostname").write_text(f"{name}\n")
        self._held = _Held(
            [
                "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", "sh", "-c", _PAUSE, "pause",
                name, str(etc), str(root or ""), str(self.disk),
            ]
        )  # fmt: skip
        try:
            network.plug(self._held.pid)
            # A hardware address made of it: an address that moves is found at its new pod at once.
            hardware = ":".join(("02", "00", *(f"{int(part):02x}" for part in address.split("."))))
            for words in (
                ("link", "set", "eth0", "address", hardware, "up"),
                ("addr", "add", f"{address}/16", "dev", "eth0"),
                ("route", "add", "default", "via", GATEWAY),
            ):
                _ip(*words, at=self._held.network(), who=f"{name}: ")
        except BaseException:
            self.delete()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.delete()

    def __repr__(self) -> str:
        return f"<{self.name} {self.address}>"

    @property
    def volume(self) -> str:
        """The path of the pod's disk, as its processes see it."""
        return "/disk" if self.root else str(self.disk)

    def command(self, *words: str | Path, user: str = "", env: Mapping[str, str] | None = None) -> list[str]:
        """Return the command that runs `words` in the pod, as `user`, with `env` besides."""
        switch = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"] if user else []
        sets = ["env", *(f"{key}={value}" for key, value in env.items())] if env else []
        inside = [*switch, *sets, *map(str, words)]
        return ["nsenter", f"--target={self._held.pid}", "--mount", "--net", "--uts", "--pid", "--root", "--wd", "--",
                *inside]  # fmt: skip

    def start(self, *words: str | Path, log: Path, user: str = "", env: Mapping[str, str] | None = None) -> Running:
        """Start a server in the pod. It ends with the pod."""
        server = Running(f"{self.name}: {words[0]}", self.command(*words, user=user, env=env), log)
        self._servers.append(server)
        return server

    def run(
        self,
        *words: str | Path,
        user: str = "",
        env: Mapping[str, str] | None = None,
        timeout: float = 60.0,
        stdin: str = "",
    ) -> str:
        """Run a command in the pod and return its output. Raises PodError with its errors."""
        try:
            done = subprocess.run(
                self.command(*words, user=user, env=env), input=stdin, capture_output=True, text=True,
                timeout=timeout, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise PodError(f"{self.name}: {words[0]}: no end within {timeout:g} s") from None
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip())[-1000:]
            raise PodError(f"{self.name}: {words[0]}: exit status {done.returncode}: {said}")
        return done.stdout

    def is_up(self) -> bool:
        """Return whether the server that was started last still runs."""
        return bool(self._servers) and self._servers[-1].running

    def stop(self, grace: float = 30.0) -> None:
        """End it as a kubelet does: SIGTERM to its servers, and SIGKILL to all after `grace` s."""
        for server in self._servers:
            if server.running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(_child(server.pid), signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not any(server.running for server in self._servers), grace, "the servers end")
        self.delete()

    def delete(self) -> None:
        """Kill all of it. Its disk stays."""
        self._held.end()
        for server in self._servers:
            server.wait(_SPAWN)
        self._servers.clear()
