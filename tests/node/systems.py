"""A real system as containers on the node: RabbitMQ, as examples/rabbitmq has it.

The image is the Debian root of `tests/apps`, under the name and with the user of the official one,
so that the example's manifests are applied as they stand. Volumes are folders of the node.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import yaml

from tests.apps import examples, rabbitmq, roots
from tests.harness.processes import wait_until
from tests.node import images
from tests.node.ground import BASE, address

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.node.machine import Machine

NAMESPACE: Final = "default"  # as the example's names have it
MEMBERS: Final = 3
SERVICE: Final = f"rabbitmq-nodes.{NAMESPACE}.svc.cluster.local"
FORMS: Final = 240  # seconds; about 90 on an idle machine
#: Uid and gid of the official image, which the example names.
_OWNER: Final = "999:999"
_BIN: Final = "/usr/lib/rabbitmq/bin"


def image() -> Path:
    """Return the archive of the image that the example names. Raises RootError and ImageError."""
    tag = str(_container()["image"])
    return images.of_root(
        "rabbitmq", tag, roots.make(),
        "--user", _OWNER, "--cmd", "rabbitmq-server", "--env", "HOME=/var/lib/rabbitmq", "--env", "LANG=C.UTF-8",
        "--env", "RABBITMQ_LOG_BASE=/var/lib/rabbitmq",  # Debian has a folder that only its own user may write to
        "--env", f"PATH={_BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    )  # fmt: skip


def _container() -> dict[str, Any]:
    spec = examples.one("rabbitmq", "StatefulSet")["spec"]["template"]["spec"]
    return dict(spec["containers"][0])


def _volume(machine: Machine, number: int, node: str) -> dict[str, Any]:
    """Return a volume for one member: a folder that the kubelet gives to the pod's fsGroup."""
    folder = machine.folder / "volumes" / str(number)
    folder.mkdir(parents=True)
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    return {
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"rabbitmq-{number}"},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "claimRef": {"namespace": NAMESPACE, "name": f"data-rabbitmq-{number}"},
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }  # fmt: skip


@contextmanager
def installed(machine: Machine) -> Iterator[None]:
    """Apply the example, with volumes, Headwater as its name server, and a client's account."""
    machine.run("ctr", "images", "import", "--no-unpack", str(image()), timeout=300)
    (node,) = (item["metadata"]["name"] for item in machine.get("nodes")["items"])
    things = [_volume(machine, number, node) for number in range(MEMBERS)]
    for item in examples.objects("rabbitmq"):
        if item["kind"] == "ConfigMap":
            item["data"]["rabbitmq.conf"] += rabbitmq.SMALL
        if item["kind"] == "StatefulSet":
            spec = item["spec"]["template"]["spec"]
            # What a kubelet writes whose --cluster-dns is Headwater's Service.
            spec["dnsPolicy"] = "None"
            spec["dnsConfig"] = {
                "nameservers": [address(machine, BASE)],
                "searches": [f"{NAMESPACE}.svc.cluster.local", "svc.cluster.local", "cluster.local"],
                "options": [{"name": "ndots", "value": "5"}],
            }
        things.append(item)
    text = yaml.safe_dump_all(things)
    machine.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=text)
    try:
        rolled_out(machine)
        yield
    finally:
        machine.kubectl("-n", NAMESPACE, "delete", "--wait=false", "-f", "-", stdin=text)


def rolled_out(machine: Machine) -> None:
    machine.kubectl(
        "-n", NAMESPACE, "rollout", "status", "statefulset/rabbitmq", f"--timeout={FORMS}s", timeout=FORMS + 10
    )


def restart(machine: Machine) -> None:
    machine.kubectl("-n", NAMESPACE, "rollout", "restart", "statefulset/rabbitmq")
    rolled_out(machine)


def addresses(machine: Machine) -> dict[str, str]:
    """Return the members that have an address, and it."""
    found = machine.get("pods", "-n", NAMESPACE, "-l", "app=rabbitmq")["items"]
    return {
        pod["metadata"]["name"]: pod["status"]["podIP"]
        for pod in found
        if "deletionTimestamp" not in pod["metadata"] and pod["status"].get("podIP")
    }


def within(machine: Machine, member: str, *words: str) -> str:
    """Run a command in a member's container. Raises NodeError."""
    return machine.kubectl("-n", NAMESPACE, "exec", member, "-c", "rabbitmq", "--", *words)


def running(machine: Machine, member: str) -> list[str]:
    """Return the running nodes that a member sees. Raises NodeError."""
    said = within(machine, member, "rabbitmqctl", "-q", "eval", "rabbit_nodes:all_running().")
    return sorted(re.findall(r"rabbit@([\w-]+)\.", said))


def is_whole(machine: Machine, member: str) -> bool:
    return running(machine, member) == [f"rabbitmq-{number}" for number in range(MEMBERS)]


def put(machine: Machine, *texts: str) -> None:
    """Publish messages to a quorum queue, to whom the headless name leads. Raises NodeError."""
    within(machine, "rabbitmq-0", "python3", "-c", rabbitmq.PUT, SERVICE, *texts)


def taken(machine: Machine) -> list[str]:
    """Take all messages of the queue, through the headless name. Raises NodeError."""
    return within(machine, "rabbitmq-2", "python3", "-c", rabbitmq.GET, SERVICE).split()


def replace(machine: Machine, member: str) -> str:
    """Delete a member's pod and return its new address, as soon as the pod has it."""
    old = addresses(machine)[member]
    machine.kubectl("-n", NAMESPACE, "delete", "pod", member, timeout=180)

    def other() -> str:
        new = addresses(machine).get(member, "")
        return "" if new == old else new

    return wait_until(other, 60, f"{member} has another address", interval=0.2)
