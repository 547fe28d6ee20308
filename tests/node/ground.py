"""What is installed on the node, and the questions that are asked while it is broken."""

from __future__ import annotations

import collections
import json
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.harness.processes import require_tool, wait_until
from tests.node.machine import NodeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.node.machine import Machine

ROOT: Final = Path(__file__).resolve().parents[2]
HERE: Final = Path(__file__).resolve().parent
RATE: Final = 500.0  # questions a second, of each kind
LONG_LIVED: Final = 50  # sockets
ROLLOUT_TIMEOUT: Final = 150  # seconds
CHART: Final = ROOT / "deploy" / "helm" / "headwater"


@dataclass(frozen=True)
class Deployed:
    """A DNS Deployment on the node, and the Service through which it is asked."""

    namespace: str
    deployment: str
    service: str
    selector: str


BASE: Final = Deployed("headwater", "headwater-dns", "headwater-dns", "app.kubernetes.io/name=headwater")
COREDNS: Final = Deployed("kube-system", "coredns", "kube-dns", "k8s-app=kube-dns")

#: What `headwater corefile` prints for the overlay's flags.
BLOCK: Final = """cluster.local:53 {
    errors
    grpc . unix:///run/headwater/dns-0.sock unix:///run/headwater/dns-1.sock {
        policy round_robin
    }
}
"""


@dataclass
class Seen:
    """What became of the questions of one kind."""

    asked: int = 0
    seen: dict[str, int] = field(default_factory=dict)
    bad: list[Any] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return sum(count for what, count in self.seen.items() if what != "right")

    def __str__(self) -> str:
        wrong = ", ".join(f"{count} {what}" for what, count in sorted(self.seen.items()) if what != "right")
        return f"{self.asked:,} asked: {wrong or 'all right'}"

    def by_second(self) -> dict[int, int]:
        """Return how many of the questions of each second failed."""
        found: collections.Counter[int] = collections.Counter()
        for when, what in self.bad:
            found[int(when)] += sum(what.values())
        return dict(found)

    def last(self) -> float:
        """Return when the last question was asked that failed: seconds after the first question."""
        return float(self.bad[-1][0]) if self.bad else 0.0


@dataclass
class Asked:
    """Both kinds of questions during one scenario."""

    fresh: Seen = field(default_factory=Seen)
    long_lived: Seen = field(default_factory=Seen)


def address(machine: Machine, deployed: Deployed) -> str:
    """Return the Service's ClusterIP."""
    return str(machine.get("service", "-n", deployed.namespace, deployed.service)["spec"]["clusterIP"])


@contextmanager
def asking(machine: Machine, server: str) -> Iterator[Asked]:
    """Ask `server` as long as the block lasts; what was seen is there after it."""
    asked = Asked()
    command = machine.command("env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.node.asking", server, str(RATE))
    with (
        _piped(command) as fresh,
        _piped([*command, "--ports", str(LONG_LIVED)]) as long_lived,
    ):
        yield asked
        for child, seen in ((fresh, asked.fresh), (long_lived, asked.long_lived)):
            output, _ = child.communicate(timeout=30)
            found = json.loads(output.splitlines()[-1])
            seen.asked, seen.seen, seen.bad = found["asked"], found["seen"], found["bad"]


@contextmanager
def _piped(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def pass_time(seconds: float) -> None:
    """Return after so many seconds: the length of a scenario, and not a wait for anything."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end, seconds + 10, "the time passes")


def roll_out(machine: Machine, deployed: Deployed) -> None:
    """Wait until the Deployment has rolled out and its old pods are gone."""
    machine.kubectl(
        "-n", deployed.namespace, "rollout", "status", f"deployment/{deployed.deployment}",
        f"--timeout={ROLLOUT_TIMEOUT}s", timeout=ROLLOUT_TIMEOUT + 10,
    )  # fmt: skip
    wait_until(
        lambda: all("deletionTimestamp" not in pod["metadata"] for pod in pods(machine, deployed)),
        60, "the old pods are gone", interval=0.5,
    )  # fmt: skip


def restart(machine: Machine, deployed: Deployed) -> None:
    machine.kubectl("-n", deployed.namespace, "rollout", "restart", f"deployment/{deployed.deployment}")
    roll_out(machine, deployed)


def scale(machine: Machine, deployed: Deployed, replicas: int) -> None:
    machine.kubectl("-n", deployed.namespace, "scale", f"--replicas={replicas}", f"deployment/{deployed.deployment}")
    roll_out(machine, deployed)
    wait_until(lambda: len(pods(machine, deployed)) == replicas, 60, f"{replicas} pods", interval=0.5)


#: As `kubectl get -o json` has it.
Pod = dict[str, Any]


def pods(machine: Machine, deployed: Deployed) -> list[Pod]:
    return list(machine.get("pods", "-n", deployed.namespace, "-l", deployed.selector)["items"])


def _statuses(pod: Pod, container: str) -> list[dict[str, Any]]:
    status = pod["status"]
    both = (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ()))
    return [found for found in both if found["name"] == container]


def ended(machine: Machine, deployed: Deployed, container: str) -> str:
    """Return how a container ended that was started again last, as Kubernetes says it."""
    lives = [
        status["lastState"]["terminated"]
        for pod in pods(machine, deployed)
        for status in _statuses(pod, container)
        if "terminated" in status["lastState"]
    ]
    last = max(lives, key=lambda life: str(life["finishedAt"]))
    return f"{last['reason']}, exit code {last['exitCode']}"


def memory_limit(pod: Pod, container: str) -> int:
    """Return the container's memory limit in MiB."""
    (found,) = (one for one in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])
                if one["name"] == container)  # fmt: skip
    return int(str(found["resources"]["limits"]["memory"]).removesuffix("Mi"))


def restarts(machine: Machine, deployed: Deployed, container: str) -> int:
    """Return how often this container was started again, in all pods."""
    return sum(int(status["restartCount"]) for pod in pods(machine, deployed) for status in _statuses(pod, container))


def all_ready(machine: Machine, deployed: Deployed) -> bool:
    found = pods(machine, deployed)
    return bool(found) and all(
        condition["status"] == "True"
        for pod in found
        for condition in pod["status"].get("conditions", ())
        if condition["type"] == "Ready"
    )


def warnings(machine: Machine, namespace: str) -> list[str]:
    """Return what `kubectl get events` warns of in this namespace."""
    return [
        f"{event['reason']}: {event['message']}"
        for event in machine.get("events", "-n", namespace)["items"]
        if event["type"] == "Warning"
    ]


def install_web(machine: Machine) -> None:
    machine.kubectl("apply", "-f", HERE / "web.yaml")
    machine.kubectl("rollout", "status", "statefulset/web", "--timeout=90s", timeout=100)


def install_base(machine: Machine) -> None:
    """Apply deploy/base as it stands."""
    machine.kubectl("apply", "-k", ROOT / "deploy" / "base")
    roll_out(machine, BASE)


def install_coredns(machine: Machine) -> None:
    """Apply CoreDNS as kubeadm installs it."""
    machine.kubectl("apply", "-f", HERE / "kubeadm.yaml")
    roll_out(machine, COREDNS)


def add_sidecar(machine: Machine, *folders: str) -> None:
    """Add the sidecar to CoreDNS, and what other folders of the overlay have for it."""
    overlay = ROOT / "deploy" / "overlays" / "patch-coredns"
    machine.kubectl("apply", "-k", overlay / "rbac")
    for folder in ("", *folders):
        patch = overlay / folder / "sidecar.yaml"
        machine.kubectl("-n", "kube-system", "patch", "deployment", "coredns", "--patch-file", patch)
    roll_out(machine, COREDNS)


def patch_coredns(machine: Machine) -> None:
    """Add the sidecar to CoreDNS, then its block, as docs/operations.md says."""
    add_sidecar(machine)
    corefile = str(machine.get("configmap", "-n", "kube-system", "coredns")["data"]["Corefile"])
    without = re.sub(r"health \{\s*lameduck 5s\s*\}", "health", corefile)
    assert without != corefile
    data = {"data": {"Corefile": BLOCK + without}}
    machine.kubectl("-n", "kube-system", "patch", "configmap", "coredns", "-p", json.dumps(data))
    restart(machine, COREDNS)


# -- siblings' stores


def make_peers_secret(machine: Machine, namespace: str) -> None:
    """Make the certificate and the Secret as docs/operations.md does."""
    folder = machine.folder / "peers"
    folder.mkdir(exist_ok=True)
    key, certificate = folder / "tls.key", folder / "tls.crt"
    machine.run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-days", "3650", "-subj", "/CN=headwater-peers", "-keyout", key, "-out", certificate,
    )  # fmt: skip
    machine.kubectl(
        "-n", namespace, "create", "secret", "generic", "headwater-peers", f"--from-file={certificate}",
        f"--from-file={key}", f"--from-file=ca.crt={certificate}",
    )  # fmt: skip


def seeds(machine: Machine, deployed: Deployed, port: int = 9353) -> list[str]:
    """Return how each pod's try to take a sibling's store ended."""
    found = []
    for pod in pods(machine, deployed):
        place = f"/api/v1/namespaces/{deployed.namespace}/pods/{pod['metadata']['name']}:{port}/proxy/metrics"
        metrics = machine.kubectl("get", "--raw", place)
        found += re.findall(r'^headwater_seeds_total\{result="(\w+)"\} [1-9]', metrics, re.MULTILINE)
    return found


# -- the chart


def helm(machine: Machine, *words: str | Path, timeout: float = 180) -> str:
    """Run the real Helm in there; it writes only into the node's folder. Raises NodeError."""
    homes = [f"HELM_{name}_HOME={machine.folder / 'helm' / name.lower()}" for name in ("CACHE", "CONFIG", "DATA")]
    return machine.run("env", *homes, require_tool("helm"), *words, timeout=timeout)


def released(name: str) -> Deployed:
    """Return what the chart's release of this name is, in the namespace of the same name."""
    objects = f"{name}-headwater"
    return Deployed(name, objects, objects, f"app.kubernetes.io/instance={name}")


def set_release(machine: Machine, verb: str, deployed: Deployed, *values: str) -> None:
    """`helm install` or `helm upgrade`, and wait until it has rolled out."""
    helm(
        machine, verb, deployed.namespace, CHART, "--namespace", deployed.namespace,
        *(["--create-namespace"] if verb == "install" else ["--reuse-values"]),
        "--wait", "--timeout", f"{ROLLOUT_TIMEOUT}s", *(word for value in values for word in ("--set", value)),
    )  # fmt: skip
    roll_out(machine, deployed)


def uninstall(machine: Machine, deployed: Deployed) -> None:
    helm(machine, "uninstall", deployed.namespace, "--namespace", deployed.namespace, "--wait")
    machine.kubectl("delete", "namespace", deployed.namespace, timeout=120)


# -- processes of containers


def cgroup(machine: Machine, pod: Pod, container: str) -> str:
    """Return the folder of the container's memory cgroup, as it is called in there."""
    (found,) = _statuses(pod, container)
    ident = str(found["containerID"]).rpartition("/")[2]
    groups = machine.run("find", "/sys/fs/cgroup/memory/kubepods", "-type", "d", "-name", ident).split()
    if len(groups) != 1:
        raise NodeError(f"{pod['metadata']['name']}: {container} has {len(groups)} cgroups")
    return groups[0]


def processes(machine: Machine, pod: Pod, container: str) -> list[int]:
    """Return the container's processes as the node numbers them: its process 1 first."""
    group = cgroup(machine, pod, container)
    return sorted(int(pid) for pid in machine.run("cat", f"{group}/cgroup.procs").split())


def reach_the_limit(machine: Machine, group: str, mebibytes: int) -> None:
    """Use up the memory that a cgroup may have, by a file of a tmpfs: nothing can reclaim it.

    The process that writes is the cgroup's smallest. The kernel kills others before it.
    """
    place = "/run/filled"
    try:
        machine.run(
            "sh", "-c",
            f"mkdir -p {place}; mount -t tmpfs -o size={mebibytes + 64}m tmpfs {place}; "
            f"echo $$ > {group}/cgroup.procs; exec dd if=/dev/zero of={place}/file bs=64k count={mebibytes * 16}",
            check=False, timeout=60,
        )  # fmt: skip
    finally:
        machine.run("umount", place, check=False)
