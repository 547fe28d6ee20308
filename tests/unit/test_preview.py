"""The names that manifests would have, before the objects exist."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from headwater.commands.cli import main

BEFORE = """\
apiVersion: v1
kind: Service
metadata: {name: db, namespace: prod}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: sql, port: 80, targetPort: sql}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: prod}
spec:
  serviceName: db
  replicas: 2
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: main, ports: [{name: sql, containerPort: 5432}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: prod}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: prod}
spec: {replicas: 3, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: main}]}}}
"""
ZONE = "prod.svc.cluster.local"


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    code = main(["names", *map(str, arguments)])
    output = capsys.readouterr()
    return code, output.out + output.err


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    file = tmp_path / "before.yaml"
    file.write_text(BEFORE)
    return file


def test_workloads_stand_for_their_pods(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "--manifests", manifest)
    assert (code, text.split("\n")) == (0, [
        f"ADDRESS.web.{ZONE} A,SRV", f"_sql._tcp.db.{ZONE} A,SRV", f"db-0.db.{ZONE} A,SRV", f"db-1.db.{ZONE} A,SRV",
        f"db.{ZONE} A,SRV", f"web.{ZONE} A,SRV", "",
    ])  # fmt: skip
    code, text = run(capsys, "--manifests", manifest, "--json")
    assert json.loads(text)[2] == {"name": f"db-0.db.{ZONE}", "types": ["A", "SRV"]}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("", "", []),
        ("replicas: 2", "replicas: 1", [f"- db-1.db.{ZONE} A,SRV"]),
        ("serviceName: db", "serviceName: typo", [f"+ ADDRESS.db.{ZONE} A,SRV", f"- db-0.db.{ZONE} A,SRV",
                                                  f"- db-1.db.{ZONE} A,SRV"]),
    ],
)  # fmt: skip
def test_a_change_says_what_comes_and_goes(
    manifest: Path, old: str, new: str, says: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    after = manifest.with_name("after.yaml")
    after.write_text(BEFORE.replace(old, new, 1) if old else BEFORE)
    code, text = run(capsys, "--manifests", after, "--diff", manifest)
    assert (code, sorted(text.splitlines())) == (3 if says else 0, sorted(says))


def test_what_cannot_be_read_is_said(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest.write_text("kind: [")
    code, text = run(capsys, "--manifests", manifest)
    assert code == 1
    assert text.startswith(f"headwater: {manifest}:2: not valid YAML")
    code, text = run(capsys)
    assert (code, "--manifests" in text) == (2, True)
