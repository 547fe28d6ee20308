"""Names of manifests that are not applied yet, and those that real controllers make of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from headwater.commands.cli import main

from tests.harness.processes import wait_until

if TYPE_CHECKING:
    from tests.harness.plane import Plane

#: Seconds for controllers to do their work.
SETTLE: Final = 45.0

MANIFESTS: Final = """\
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: sql, port: 80, targetPort: sql}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: main, image: none, ports: [{name: sql, containerPort: 5432}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: main, image: none}]}}
---
apiVersion: v1
kind: Service
metadata: {name: bare}
spec: {clusterIP: None, selector: {app: web}}
---
apiVersion: v1
kind: Service
metadata: {name: out}
spec: {type: ExternalName, externalName: example.org}
"""


def test_manifests_are_compared_with_the_cluster_that_they_are_applied_to(
    plane: Plane, namespace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zone = f"{namespace}.svc.cluster.local"
    text = MANIFESTS.replace("metadata: {name: ", f"metadata: {{namespace: {namespace}, name: ")
    before, after = tmp_path / "before.yaml", tmp_path / "after.yaml"
    own = f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n---\n"
    before.write_text(own + text)
    after.write_text(own + text.replace("replicas: 2", "replicas: 3").replace("name: http,", "name: https,"))

    def compared(manifests: Path) -> tuple[int, list[str]]:
        code = main(["names", "--manifests", str(manifests), "--diff-kubeconfig", str(plane.kubeconfig)])
        return code, capsys.readouterr().out.splitlines()

    code, lines = compared(before)
    assert code == 3
    assert {line[0] for line in lines} == {"+"}
    assert f"+ db-1.db.{zone} A,SRV" in lines
    # What it says before they are applied is what controllers make of them.
    plane.apply(text)
    wait_until(lambda: compared(before) == (0, []), SETTLE, "the names are there")
    assert compared(after) == (3, [
        f"- _http._tcp.web.{zone} A,SRV", f"+ _https._tcp.web.{zone} A,SRV", f"+ db-2.db.{zone} A,SRV"])  # fmt: skip

    def held() -> dict[str, list[str]]:
        assert main(["names", "--kubeconfig", str(plane.kubeconfig), "--namespace", namespace, "--json"]) == 0
        return {item["name"]: item["types"] for item in json.loads(capsys.readouterr().out)}

    def pods() -> int:
        return sum(name.endswith(f".web.{zone}") and name.startswith("10-44-") for name in held())

    wait_until(lambda: pods() == 3, SETTLE, "each pod of the Deployment has its address's name")
    listed = held()
    assert listed[f"db-0.db.{zone}"] == ["A", "SRV"]
    assert listed[f"out.{zone}"] == ["CNAME"]
