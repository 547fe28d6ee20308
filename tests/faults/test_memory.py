"""A list of 150,000 pods passes through the watch process; it does not stay in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, overload

import pytest
from headwater.cluster.objects import Resource

from tests.fakeapi import manifests
from tests.fakeapi.cluster import cluster
from tests.fakeapi.truth import Snapshot, Stored, Truth
from tests.harness.processes import wait_until

_PODS: Final = 150_000
#: What a list may take beyond the resting size, in bytes.
_ROOM: Final = 60 << 20
#: How many readings alike make a size that rests.
_STEADY: Final = 10
_DEADLINE: Final = 250.0

# A pod as kubectl shows it: 3.4 KB, most of it managedFields.
_CONDITIONS: Final = [
    {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": "2026-11-01T00:00:00Z"}
    for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
]
_OWNED: Final[dict[str, object]] = {
    f"f:{name}": {".": {}, f'k:{{"uid":"{name}"}}': {"f:value": {}}} for name in ("metadata", "spec", "status")
}
_POD: Final = {
    "metadata": {
        "name": "NAME", "namespace": "NAMESPACE", "generateName": "web-7d4b9c6f5-", "uid": "0" * 36,
        "resourceVersion": "VERSION", "creationTimestamp": "2026-11-01T00:00:00Z",
        "labels": {"app.kubernetes.io/name": "web", "pod-template-hash": "7d4b9c6f5", "team": "shop"},
        "annotations": {"kubectl.kubernetes.io/restartedAt": "2026-11-01T00:00:00Z", "note": manifests.NOTE},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7d4b9c6f5", "uid": "1" * 36}],
        "managedFields": [
            {"manager": manager, "operation": "Update", "time": "2026-11-01T00:00:00Z", "fieldsV1": _OWNED}
            for manager in ("kube-controller-manager", "kube-scheduler", "kubelet", "mesh-injector")
        ],
    },
    "spec": {
        "nodeName": "node-1", "serviceAccountName": "default",
        "containers": [
            {
                "name": name, "image": "registry.example.org/shop/web:1.2.3", "terminationMessagePath": "/dev/log",
                "env": [{"name": f"SETTING_{number}", "value": "some value or other"} for number in range(8)],
            }
            for name in ("web", "proxy")
        ],
    },
    "status": {
        "phase": "Running", "conditions": _CONDITIONS, "hostIP": "10.0.0.1", "podIP": "ADDRESS",
        "podIPs": [{"ip": "ADDRESS"}], "startTime": "2026-11-01T00:00:00Z", "qosClass": "BestEffort",
    },
}  # fmt: skip


class Pods(Sequence[Stored]):
    """Pods that are made on demand. Every hundredth differs between `edition`s."""

    def __init__(self, version: int, edition: int) -> None:
        self._version = version
        self._edition = edition
        text = json.dumps(_POD).replace("%", "%%")
        for name, place in (("NAMESPACE", "ns"), ("NAME", "name"), ("VERSION", "version"), ("ADDRESS", "address")):
            text = text.replace(f'"{name}"', f'"%({place})s"')
        self._text = text

    def __len__(self) -> int:
        return _PODS

    @overload
    def __getitem__(self, at: int) -> Stored: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Stored]: ...
    def __getitem__(self, at: int | slice) -> Stored | Sequence[Stored]:
        if isinstance(at, slice):
            return [self[index] for index in range(*at.indices(_PODS))]
        if not 0 <= at < _PODS:
            raise IndexError(at)
        namespace, name = f"ns-{at // 1000:03}", f"web-7d4b9c6f5-{at:06}"
        host = at + 1 + (self._edition << 18 if at % 100 == 0 else 0)
        address = f"10.{host >> 16}.{host >> 8 & 255}.{host & 255}"
        version = self._version if at % 10 == 0 else 5
        data = self._text % {"ns": namespace, "name": name, "version": version, "address": address}
        return Stored((namespace, name), version, data.encode())


class ManyPods(Truth):
    """A cluster of pods."""

    edition = 0

    def snapshot(self, resource: Resource) -> Snapshot:
        if resource != "pods":
            return super().snapshot(resource)
        return Snapshot(self.version, Pods(self.version, self.edition))


class Memory:
    """The memory of a process, in bytes."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._refs = Path(f"/proc/{pid}/clear_refs")

    def read(self, field: str) -> int:
        line = next(line for line in self._status.read_text().splitlines() if line.startswith(f"{field}:"))
        return int(line.split()[1]) << 10

    def settled(self) -> int:
        """Return the resident size when it has been constant for a while."""
        last = [0]

        def steady() -> bool:
            last.append(self.read("VmRSS"))
            return len(last) > _STEADY and max(last[-_STEADY:]) - min(last[-_STEADY:]) < 1 << 20

        wait_until(steady, _DEADLINE, "the process rests")
        return last[-1]

    def forget_peak(self) -> None:
        """Reset the peak, VmHWM, to the current size (man 5 proc, clear_refs)."""
        self._refs.write_text("5")


@pytest.mark.parametrize("mode", ["pages", "stream"])
def test_list_of_150_000_pods_takes_60_mib_at_most_and_gives_them_back(mode: str, tmp_path: Path) -> None:
    """Beyond the resting size, including the pages of the store's file that it touches."""
    truth = ManyPods([manifests.namespace(f"ns-{number:03}") for number in range(_PODS // 1000)])
    with cluster(tmp_path, "--pods", "verified", "--list", mode, truth=truth, stable={}) as (api, watching):
        watching.start()
        assert watching.process is not None
        assert watching.process.pid is not None
        memory = Memory(watching.process.pid)
        resting = 0
        for edition in range(2):
            truth.edition = edition
            truth.compact()
            memory.forget_peak()
            anonymous = 0
            api.break_watches()

            def listed() -> bool:
                nonlocal anonymous
                anonymous = max(anonymous, memory.read("RssAnon"))
                return watching.goes_as_far()

            wait_until(listed, _DEADLINE, "everything is listed", interval=0.02)
            peak, after = memory.read("VmHWM"), memory.settled()
            print(f"{mode}: peak {peak >> 20} (anonymous {anonymous >> 20}), then {after >> 20} MiB")
            if not resting:
                resting = after
        assert watching.view.ask("10-0-0-2.ns-000.pod.cluster.local") == ("NOERROR", frozenset({"10.0.0.2"}))
        assert peak - resting < _ROOM, f"{peak - resting >> 20} MiB beyond {resting >> 20}"
        assert after - resting < _ROOM // 4, f"{after - resting >> 20} MiB kept beyond {resting >> 20}"
