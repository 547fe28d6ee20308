"""Wrong Services on real controllers: one command explains each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest
from headwater.commands.cli import main

from tests.harness.instance import Headwater
from tests.harness.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.harness.plane import Plane

#: Seconds until controllers are done and the result is served.
SETTLE: Final = 45.0

WORLD: Final = """\
apiVersion: v1
kind: Service
metadata: {name: typo}
spec: {clusterIP: None, selector: {app: wbe}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 80, targetPort: nowhere}]}
---
apiVersion: v1
kind: Service
metadata: {name: other}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  serviceName: web
  replicas: 2
  selector: {matchLabels: {app: web}}
  template: &pod
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: none}]}
---
apiVersion: v1
kind: Service
metadata: {name: lost}
spec: {clusterIP: None, selector: {app: lost}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: lost}
spec:
  serviceName: forgotten
  replicas: 1
  selector: {matchLabels: {app: lost}}
  template: {metadata: {labels: {app: lost}}, spec: {containers: [{name: main, image: none}]}}
---
apiVersion: v1
kind: Service
metadata: {name: stateless}
spec: {clusterIP: None, selector: {app: stateless}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: stateless}
spec:
  replicas: 1
  selector: {matchLabels: {app: stateless}}
  template: {metadata: {labels: {app: stateless}}, spec: {containers: [{name: main, image: none}]}}
---
apiVersion: v1
kind: Service
metadata: {name: same}
spec: {clusterIP: None, selector: {app: same}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: same}
spec:
  replicas: 2
  selector: {matchLabels: {app: same}}
  template:
    metadata: {labels: {app: same}}
    spec: {hostname: host, subdomain: same, containers: [{name: main, image: none}]}
---
apiVersion: v1
kind: Service
metadata: {name: pending}
spec: {clusterIP: None, selector: {app: pending}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: pending-0, labels: {app: pending}}
spec: {nodeSelector: {there: is-none}, containers: [{name: main, image: none}]}
---
apiVersion: v1
kind: Service
metadata: {name: front}
spec: {selector: {app: lost}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: unselected}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: mirrored}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: mirrored}
subsets: [{addresses: [{ip: 10.44.250.1}], ports: [{port: 80}]}]
"""

#: The labels before the namespace, the type, the cause, and words of the verdict or a deciding
#: field.
ROWS: Final = (
    ("typo", "A", "selector-matches-no-pod", ("app=wbe", "app=web")),
    ("web-0.web", "A", "answered", ()),
    ("web-0.other", "A", "subdomain-names-another-service", ("Its name is web-0.web.",)),
    ("web-0", "A", "service-label-missing", ("web-0.web.",)),
    ("web-7.web", "A", "no-such-pod", ("StatefulSet web has 2 replicas", "web-0 to web-1")),
    ("web", "SRV", "ports-empty", ("targetPort",)),
    ("lost-0.lost", "A", "subdomain-names-another-service", ("serviceName: forgotten", "no Service forgotten")),
    ("POD.stateless", "A", "subdomain-names-another-service", ("no spec.hostname either",)),
    ("lost-0.front", "A", "subdomain-names-another-service", ("serviceName: forgotten",)),
    ("host.same", "A", "answered", ("hostname of 2 pods",)),
    ("pending", "A", "pods-cannot-be-endpoints", ("pending-0 has no address yet", "Pending")),
    ("unselected", "A", "no-selector", ("has no selector",)),
    ("mirrored", "A", "answered", ()),
)


@pytest.fixture
def headwater(plane: Plane, namespace: str, tmp_path: Path) -> Iterator[Headwater]:
    manifest = tmp_path / "world.yaml"
    manifest.write_text(WORLD)
    plane.kubectl("apply", "-n", namespace, "-f", str(manifest))
    with Headwater(tmp_path, "--kubeconfig", plane.kubeconfig, workers=1) as running:
        yield running


class Asking:
    """Runs the command in this process."""

    def __init__(self, headwater: Headwater, plane: Plane, capsys: pytest.CaptureFixture[str]) -> None:
        self._flags = ["--admin", f"127.0.0.1:{headwater.admin_port}", "--kubeconfig", str(plane.kubeconfig)]
        self._capsys = capsys

    def explain(self, name: str, qtype: str, *more: str) -> dict[str, Any]:
        code = main(["explain", name, qtype, "--json", *self._flags, *more])
        output = self._capsys.readouterr()
        assert code in (0, 3), output.err
        found: dict[str, Any] = json.loads(output.out)
        assert (found["outcome"] == "answer") == (code == 0)
        assert "contradiction" not in found, found
        return found

    def advice(self, namespace: str, source: Sequence[str]) -> set[tuple[str, str]]:
        """Return (object, rule) of each finding in a namespace, but for the ports without names."""
        code = main(["check", "--services", "--json", "--except", "port-without-name", *source])
        output = self._capsys.readouterr()
        assert code == 3, output.err
        findings = json.loads(output.out)["findings"]
        return {(f"{one['object']['kind']} {one['object']['name']}", one["rule"]) for one in findings
                if one["object"]["namespace"] == namespace}  # fmt: skip


#: What will not work of the world: by Services and slices alone, and with workloads.
BY_SLICES: Final = {
    ("Service typo", "selector-without-pods"), ("Service pending", "selector-without-pods"),
    ("Service web", "target-port-unknown"), ("Service other", "two-services-one-subdomain"),
    ("Service same", "one-hostname-several-pods"), ("Service unselected", "no-selector"),
}  # fmt: skip
BY_WORKLOADS: Final = {("StatefulSet lost", "service-unknown"), ("Deployment same", "one-hostname-several-pods")}


def pods_of(plane: Plane, namespace: str, app: str) -> list[str]:
    items = plane.api("GET", f"/api/v1/namespaces/{namespace}/pods?labelSelector=app%3D{app}")["items"]
    return [item["metadata"]["name"] for item in items if item["status"].get("podIP")]


def test_what_controllers_make_is_explained(
    plane: Plane, namespace: str, headwater: Headwater, capsys: pytest.CaptureFixture[str]
) -> None:
    wait_until(lambda: len(pods_of(plane, namespace, "stateless")) == 1, SETTLE, "a Deployment's pod")
    (stateless,) = pods_of(plane, namespace, "stateless")
    asking = Asking(headwater, plane, capsys)
    for before, qtype, cause, words in ROWS:
        name = f"{before.replace('POD', stateless)}.{namespace}.svc.cluster.local"
        last: list[dict[str, Any]] = []

        def told(
            name: str = name, qtype: str = qtype, cause: str = cause, words: tuple[str, ...] = words,
            last: list[dict[str, Any]] = last,
        ) -> bool:  # fmt: skip
            last[:] = [asking.explain(name, qtype)]
            return last[0]["cause"] == cause and all(word in json.dumps(last[0]) for word in words)

        try:
            wait_until(told, SETTLE, f"{name} {qtype}: {cause}")
        except TimeoutError as error:
            pytest.fail(f"{error}: {json.dumps(last, indent=1)}")
    instance = ["--admin", f"127.0.0.1:{headwater.admin_port}"]
    for source, expected in (
        (instance, BY_SLICES),
        (["--kubeconfig", str(plane.kubeconfig)], BY_SLICES | BY_WORKLOADS),
    ):
        assert asking.advice(namespace, source) == expected
    # Each record has its origin.
    (record,) = asking.explain(f"web-0.web.{namespace}.svc.cluster.local", "A")["records"]
    (origin,) = record["origins"]
    assert origin["pod"] == "web-0"
    assert origin["node"].startswith("node-")
    assert origin["object"]["kind"] == "EndpointSlice"
    assert int(origin["object"]["resource_version"]) > 0


def test_slices_that_fall_behind_the_pods_are_told(
    plane: Plane, namespace: str, headwater: Headwater, capsys: pytest.CaptureFixture[str]
) -> None:
    asking = Asking(headwater, plane, capsys)
    name = f"late.{namespace}.svc.cluster.local"
    plane.kill("kube-controller-manager")
    try:
        plane.api("POST", f"/api/v1/namespaces/{namespace}/services", {
            "metadata": {"name": "late"},
            "spec": {"clusterIP": "None", "selector": {"app": "late"}, "ports": [{"port": 80}]},
        })  # fmt: skip
        plane.api("POST", f"/api/v1/namespaces/{namespace}/pods", {
            "metadata": {"name": "late-0", "labels": {"app": "late"}},
            "spec": {"containers": [{"name": "main", "image": "none"}]},
        })  # fmt: skip
        wait_until(lambda: pods_of(plane, namespace, "late") == ["late-0"], SETTLE, "a pod with an address")
        wait_until(
            lambda: asking.explain(name, "A")["cause"] == "slices-contradict-pods", SETTLE, "the slices are behind"
        )
    finally:
        plane.start("kube-controller-manager")
    wait_until(lambda: asking.explain(name, "A")["cause"] == "answered", SETTLE, "the slices have caught up")
