"""A real StatefulSet whose pods are real processes.

The control plane is real (`tests.harness.plane`). kwok gives the pods their addresses. `Kubelet`
plays the rest of the kubelet: it makes a pod of namespaces with that address, starts the server in
it, probes it, and ends it when the API has deleted it. Headwater watches the API server, and etcd's
history is the truth (`Chronicle`).
"""

from __future__ import annotations

import json
import re
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol

from tests.apps import examples
from tests.apps.cluster import Clustered
from tests.apps.judge import History
from tests.apps.pods import NAMESPACE, Pod, PodError
from tests.apps.site import HEADWATER, NOT_YET, Dns, Site
from tests.harness.plane import Plane, PlaneError
from tests.harness.prober import Chronicle
from tests.harness.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Probed(Clustered, Protocol):
    """A system with a readiness probe."""

    def answers(self, pod: Pod) -> bool:
        """Return what its readiness probe finds. Raises PodError."""


#: etcd stores JSON, so that the chronicle can read it.
PLANE_FLAGS: Final = {"kube-apiserver": ["--storage-media-type=application/json"]}
MEMBERS: Final = 3
SETTLE: Final = 60.0  # seconds: for controllers on a busy machine
#: Seconds from a pod's start to its first probe, and between two of them.
PROBES: Final = 1.0
#: kwok hands a freed address back at once. So many pods take those that it has for now.
_SPARE: Final = 40
_SCHEDULER: Final = "kube-scheduler"
_PODS: Final = f"/api/v1/namespaces/{NAMESPACE}/pods"
_STRATEGIC: Final = "application/strategic-merge-patch+json"
_CLIENT: Final = "10.44.255.9"


def objects(system: str, *, policy: str = "") -> list[dict[str, Any]]:
    """Return the example's objects as a plane without volumes takes them.

    kwok says of a pod that it is ready as soon as it has started. The kubelet here takes that back
    well within the example's minReadySeconds. `policy` is another podManagementPolicy.
    """
    found = examples.objects(system)
    for item in found:
        if item["kind"] == "StatefulSet":
            del item["spec"]["volumeClaimTemplates"]
            assert item["spec"]["minReadySeconds"] >= 10
            item["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 1
            if policy:
                item["spec"]["podManagementPolicy"] = policy
            pod = item["spec"]["template"]["spec"]
            for container in pod["containers"] + pod.get("initContainers", []):
                container["volumeMounts"] = [m for m in container["volumeMounts"] if m["name"] != "data"]
    return found


class Kubelet:
    """Runs the pods of a site's StatefulSet, when `step` is called."""

    def __init__(self, site: Site, system: Probed, plane: Plane) -> None:
        self.site, self.system, self.plane = site, system, plane
        self.pods: dict[str, Pod] = {}
        """By uid."""
        self._probed: dict[str, float] = {}
        self._ready: set[str] = set()
        self._seen: set[str] = set()
        self._ending: dict[str, threading.Thread] = {}
        self.grace = 10.0
        """Seconds from SIGTERM to SIGKILL."""

    def members(self) -> list[Pod]:
        """Return the pods in their order."""
        return sorted(self.pods.values(), key=lambda pod: pod.name)

    def step(self) -> None:
        """Do what has to be done. While the API server is away, only probe."""
        try:
            found = self.plane.api("GET", f"{_PODS}?labelSelector=app%3D{self.system.name}")["items"]
        except (OSError, PlaneError):
            return
        self._keep_scheduler()
        there = {pod["metadata"]["uid"]: pod for pod in found if "deletionTimestamp" not in pod["metadata"]}
        for uid in [uid for uid in self.pods if uid not in there]:
            pod = self.pods.pop(uid)
            self._ready.discard(uid)
            self.site.members.pop(pod.name, None)
            self._ending[pod.name] = threading.Thread(target=self._end, args=(pod,), name=f"end of {pod.name}")
            self._ending[pod.name].start()
        for uid, item in there.items():
            if uid not in self.pods and item["status"].get("phase") == "Running" and item["status"].get("podIP"):
                self._start(uid, item)
        for uid in self.pods:
            self._probe(uid)

    def _keep_scheduler(self) -> None:
        """Start the scheduler again, as a kubelet does.

        It ends itself ("Scheduler cache is corrupted") when a pod came back under its name while it
        could not watch.
        """
        if not self.plane.process(_SCHEDULER).running:
            self.plane.start(_SCHEDULER)
            self.site.say("the scheduler had ended, and is started again")

    def _start(self, uid: str, item: dict[str, Any]) -> None:
        """Start a pod, if the one before it has ended. It is not ready, whatever kwok has said."""
        name, address = item["metadata"]["name"], item["status"]["podIP"]
        if uid not in self._seen:
            self._say_ready(name, "False")
            self._seen.add(uid)
        if name in self._ending and self._ending[name].is_alive():
            return
        number = int(name.rpartition("-")[2])
        pod = self.pods[uid] = self.site.member(number, address, publish=False)
        self._probed[uid] = time.monotonic()
        self.site.say(f"{name} has {address}")
        self.system.start(pod, first=number == 0 and not any(pod.disk.iterdir()))

    def _end(self, pod: Pod) -> None:
        pod.stop(self.grace)
        self.site.say(f"{pod.name} ({pod.address}) is stopped")

    def wait(self) -> None:
        """Return when no pod is ending any more."""
        for thread in self._ending.values():
            thread.join()

    def _probe(self, uid: str) -> None:
        if uid in self._ready or time.monotonic() < self._probed[uid] + PROBES:
            return
        pod = self.pods[uid]
        self._probed[uid] = time.monotonic()
        try:
            if not self.system.answers(pod):
                return
        except (PodError, *NOT_YET):
            return
        self._say_ready(pod.name, "True")
        self._ready.add(uid)
        self.site.say(f"{pod.name} is ready")

    def _say_ready(self, name: str, status: str) -> None:
        conditions = [{"type": kind, "status": status} for kind in ("Ready", "ContainersReady")]
        patch = {"status": {"conditions": conditions}}
        self.plane.api("PATCH", f"{_PODS}/{name}/status", patch, content_type=_STRATEGIC)

    def run(self, condition: Callable[[], object], timeout: float, what: str) -> float:
        """Play the kubelet until `condition` holds; return the seconds. Errors mean "not yet"."""

        def stepped() -> object:
            self.step()
            return condition()

        return self.site.timed(stepped, timeout, what, interval=0.1)

    def is_whole(self) -> bool:
        """Return whether all members are ready, and each sees the others."""
        assert len(self._ready & set(self.pods)) == MEMBERS, f"{len(self._ready)} members are ready"
        return self.system.whole(self.members())

    def take_addresses(self) -> None:
        """Make kwok give the next pods other addresses than those that earlier pods had."""
        spare = [
            {
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"spare-{number}", "labels": {"app": "spare"}},
                "spec": {"nodeName": "node-a", "containers": [{"name": "c", "image": "c"}]},
            }
            for number in range(_SPARE)
        ]  # fmt: skip
        self.plane.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": spare}))

        def listed() -> list[dict[str, Any]]:
            return list(self.plane.api("GET", f"{_PODS}?labelSelector=app%3Dspare")["items"])

        self.run(lambda: sum("podIP" in pod["status"] for pod in listed()) == _SPARE, SETTLE, "spare pods run")
        self.plane.kubectl("delete", "pods", "-l", "app=spare", "--wait=false")
        self.run(lambda: not listed(), SETTLE, "spare pods are gone")


@contextmanager
def deployed(
    folder: Path, system: Probed, plane: Plane, *, root: Path | None, dns: Dns = HEADWATER, policy: str = ""
) -> Iterator[tuple[Kubelet, Pod]]:
    """Apply the example to a plane; yield its kubelet and a client. The plane needs PLANE_FLAGS."""
    with (
        Chronicle(plane.etcd_port, NAMESPACE) as chronicle,
        Site(folder, system, root=root, dns=dns, plane=plane, publishes=False) as site,
    ):
        wait_until(chronicle.connected.is_set, SETTLE, "the chronicle follows etcd")
        hostnames = [f"{system.name}-{number}" for number in range(MEMBERS)]
        chronicle.add(system.service, hostnames)
        names = [f"{hostname}.{site.service_name}" for hostname in hostnames]
        site.past = lambda name: site.history.get(name) or past(chronicle, name, names)
        for item in objects(system.name, policy=policy):
            if item["kind"] == "Service" and item["metadata"]["name"] != system.service:
                continue  # clients' own: it would give each address a second PTR, which the judge does not know
            plane.apply(json.dumps(item))
        kubelet = Kubelet(site, system, plane)
        client = site.client(_CLIENT)
        try:
            yield kubelet, client
            assert chronicle.failure is None
        finally:
            kubelet.wait()
            for kind, name in (("statefulset", system.name), ("service", system.service)):
                plane.kubectl("delete", kind, name, "--ignore-not-found", "--wait=false")


def past(chronicle: Chronicle, name: str, names: list[str]) -> History:
    """Return the history of a name from the chronicle; for an address, of the names that it had."""
    if not re.fullmatch(r"[\d.]+", name):
        return chronicle.history(name) if name in chronicle.names() else []
    changes: list[tuple[float, str, bool]] = []
    for one in names:
        had = False
        for since, value in chronicle.history(one):
            has = value is not None and name in value
            if has != had:
                changes.append((since, one, has))
            had = has
    found: History = [(0.0, None)]
    holders: set[str] = set()
    for since, one, has in sorted(changes):
        (holders.add if has else holders.discard)(one)
        found.append((since, frozenset(holders) or None))
    return found
