"""The names that manifests would have, before the objects exist."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from headwater.commands.cli import main

from tests.fakeapi import faults, manifests
from tests.fakeapi.server import Behaviour, FakeApiServer
from tests.fakeapi.truth import Truth

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
        ("clusterIP: None, selector: {app: db}", "type: ExternalName, externalName: example.org, clusterIP: None",
         [f"- _sql._tcp.db.{ZONE} A,SRV", f"- db-0.db.{ZONE} A,SRV", f"- db-1.db.{ZONE} A,SRV",
          f"~ db.{ZONE} A,SRV -> CNAME"]),
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


def test_a_change_is_json(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    after = manifest.with_name("after.yaml")
    gone, external = "replicas: 2", "selector: {app: web}"
    after.write_text(BEFORE.replace(gone, "replicas: 1").replace(external, "type: ExternalName, externalName: a.b"))
    code, text = run(capsys, "--manifests", after, "--diff", manifest, "--json")
    assert (code, json.loads(text)) == (3, {
        "gone": [f"ADDRESS.web.{ZONE} A,SRV", f"db-1.db.{ZONE} A,SRV"], "new": [],
        "changed": [{"name": f"web.{ZONE}", "before": ["A", "SRV"], "after": ["CNAME"]}],
    })  # fmt: skip


def test_the_log_is_as_loud_afterwards_as_before(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("headwater")
    for level in (logging.NOTSET, logging.DEBUG):
        log.setLevel(level)
        try:
            run(capsys, "--manifests", manifest)
            manifest.with_name("bad.yaml").write_text("kind: [")
            run(capsys, "--manifests", manifest.with_name("bad.yaml"))
            main(["explain", "db.prod.svc.cluster.local", "--manifests", str(manifest)])
            assert log.level == level
        finally:
            log.setLevel(logging.NOTSET)


# A cluster


def sliced(service: str, hosts: dict[str, str], family: str = "IPv4") -> dict[str, Any]:
    """A slice as the controller makes it for pods; those called "" have no hostname."""
    found: dict[str, Any] = manifests.slice_of(service, hosts, namespace="prod")
    return {**found, "addressType": family}


def live() -> list[dict[str, Any]]:
    """The cluster that BEFORE was applied to, and other namespaces."""
    services: list[dict[str, Any]] = [item for item in yaml.safe_load_all(BEFORE) if item["kind"] == "Service"]
    services[1]["spec"]["clusterIP"] = "172.16.0.9"
    return [
        *map(manifests.namespace, ("prod", "default", "kube-system")), *services,
        {**sliced("db", {"db-0": "10.44.0.1", "db-1": "10.44.0.2"}),
         "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]},
        {**sliced("web", {"": "10.44.0.7"}), "ports": [{"name": "", "port": 80, "protocol": "TCP"}]},
        manifests.service("elsewhere", "172.16.0.77"),
    ]  # fmt: skip


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with FakeApiServer(Truth(live()), Behaviour(page=1)) as api:
        (tmp_path / "kubeconfig").write_text(api.kubeconfig())
        yield api


def test_a_clusters_names_are_listed(
    cluster: FakeApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = run(capsys, "--kubeconfig", tmp_path / "kubeconfig")
    assert (code, text.splitlines()) == (0, [
        f"10-44-0-7.web.{ZONE} A,SRV", "_http._tcp.elsewhere.default.svc.cluster.local A,SRV",
        f"_sql._tcp.db.{ZONE} A,SRV", f"db-0.db.{ZONE} A,SRV", f"db-1.db.{ZONE} A,SRV",
        f"db.{ZONE} A,SRV", "elsewhere.default.svc.cluster.local A,SRV", f"web.{ZONE} A,SRV",
    ])  # fmt: skip
    code, text = run(capsys, "--context", "x", "--kubeconfig", tmp_path / "kubeconfig", "--namespace", "default")
    assert text.splitlines() == [
        "_http._tcp.elsewhere.default.svc.cluster.local A,SRV", "elsewhere.default.svc.cluster.local A,SRV",
    ]  # fmt: skip
    assert cluster.count("watch") == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text, []),
        (lambda text: text.replace("replicas: 2", "replicas: 3"), [f"+ db-2.db.{ZONE} A,SRV"]),
        (lambda text: text.replace("name: sql, port", "name: mysql, port"), [
            f"+ _mysql._tcp.db.{ZONE} A,SRV", f"- _sql._tcp.db.{ZONE} A,SRV"]),
        (lambda text: text.replace("serviceName: db", "serviceName: typo"), [
            f"+ ADDRESS.db.{ZONE} A,SRV", f"- db-0.db.{ZONE} A,SRV", f"- db-1.db.{ZONE} A,SRV"]),
        (lambda text: text + "---\napiVersion: v1\nkind: Service\nmetadata: {name: new, namespace: staging}\n"
         "spec: {ports: [{port: 80}]}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: staging}\n",
         ["+ new.staging.svc.cluster.local A,SRV"]),
    ],
)  # fmt: skip
def test_manifests_are_compared_with_a_cluster_in_their_namespaces(
    cluster: FakeApiServer, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    change: Callable[[str], str], says: list[str],
) -> None:  # fmt: skip
    manifest.write_text(change(BEFORE))
    code, text = run(capsys, "--manifests", manifest, "--diff-kubeconfig", tmp_path / "kubeconfig")
    assert (code, text.splitlines()) == (3 if says else 0, says)
    # The other way round, plus is minus.
    code, text = run(capsys, "--kubeconfig", tmp_path / "kubeconfig", "--diff", manifest)
    turned = [line.translate(str.maketrans("+-", "-+", "")) if line[0] in "+-" else line for line in says]
    assert (code, sorted(line[:1] for line in text.splitlines())) == (3 if says else 0, sorted(t[:1] for t in turned))


def test_with_namespaces_named_these_are_compared(
    cluster: FakeApiServer, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = run(capsys, "--manifests", manifest, "--diff-kubeconfig", tmp_path / "kubeconfig",
                     "--namespace", "default")  # fmt: skip
    assert (code, text.splitlines()[1:]) == (3, ["- elsewhere.default.svc.cluster.local A,SRV"])


def test_addresses_of_the_other_family_are_no_difference(
    cluster: FakeApiServer, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    six = [item for item in live() if item["kind"] != "EndpointSlice"]
    six += [
        {**sliced("db", {"db-0": "fd44::1", "db-1": "fd44::2"}, "IPv6"), "ports": [{"name": "sql", "port": 5432}]},
        {**sliced("web", {"": "fd44::7"}, "IPv6"), "ports": [{"name": "", "port": 80}]},
    ]
    with FakeApiServer(Truth(six)) as other:
        (tmp_path / "six").write_text(other.kubeconfig())
        assert run(capsys, "--manifests", manifest, "--diff-kubeconfig", tmp_path / "six") == (0, "")


def test_a_list_that_expires_is_begun_again(
    cluster: FakeApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.on("list", "services", faults.status(410), times=1, skip=1)
    code, text = run(capsys, "--kubeconfig", tmp_path / "kubeconfig")
    assert (code, len(text.splitlines())) == (0, 8)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (faults.status(403), "the role needs the verb 'list' on 'endpointslices'"),
        (faults.status(500), "list endpointslices: 500"),
        (faults.status(401), "401"),
    ],
)
def test_a_cluster_that_cannot_be_listed_is_one_line(
    cluster: FakeApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Any, says: str
) -> None:
    cluster.on("list", "endpointslices", fault, times=100)
    code, text = run(capsys, "--kubeconfig", tmp_path / "kubeconfig")
    assert (code, says in text, len(text.splitlines())) == (1, True, 1), text


def test_credentials_that_are_not_there_are_bad_usage(
    cluster: FakeApiServer, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = run(capsys, "--kubeconfig", tmp_path / "nowhere")
    assert (code, "--kubeconfig" in text, len(text.splitlines())) == (2, True, 1), text
    code, text = run(capsys, "--manifests", manifest, "--diff-context", "y")
    assert (code, "there are no credentials" in text) == (2, True), text
    code, text = run(capsys, "--kubeconfig", tmp_path / "kubeconfig", "--diff-context", "x")
    assert (code, "it is manifests that are compared" in text) == (2, True), text
    code, text = run(capsys, "--manifests", manifest, "--diff", manifest, "--diff-context", "x")
    assert code == 2


def test_explanations_of_what_is_not_applied_yet(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --preview the names answer that `names` lists; without it what the manifests say."""

    def explained(name: str, *flags: str) -> tuple[int, str]:
        code = main(["explain", f"{name}.{ZONE}", "--manifests", str(manifest), *flags])
        output = capsys.readouterr()
        return code, output.out + output.err

    code, text = explained("db-1.db", "--preview")
    assert (code, "ADDRESS" in text, "0.0.0." in text) == (0, True, False), text
    assert explained("db-1.db")[0] == 3
    code, text = explained("db-2.db", "--preview")
    assert (code, "2 replicas" in text) == (3, True), text
    manifest.write_text(BEFORE.replace("selector: {app: db}", "selector: {app: typo}"))
    code, text = explained("db-1.db", "--preview", "--json")
    assert (code, json.loads(text)["cause"]) == (3, "selector-matches-no-pod"), text
    code, text = explained("db", "--preview", "--admin", "127.0.0.1:1")
    assert code == 3
    assert main(["explain", "db.prod.svc.cluster.local", "--preview"]) == 2
    assert "--preview: it goes with --manifests" in capsys.readouterr().err


PLACED = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: prod, annotations: {headwater.dev/zone: MODE}}
spec: {clusterIP: None, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-x, namespace: prod, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 80}]
endpoints:
  - {addresses: [10.0.0.1], hostname: a, zone: eu-1a}
  - {addresses: [10.0.0.2], hostname: b, zone: eu-1b}
  - {addresses: [10.0.0.3], hostname: c, zone: eu-1b}
"""


def test_places_with_sets_of_their_own_stand_behind_the_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefer, pin = tmp_path / "prefer.yaml", tmp_path / "pin.yaml"
    prefer.write_text(PLACED.replace("MODE", "prefer"))
    pin.write_text(PLACED.replace("MODE", "pin"))
    known = ("--listen-zone", "eu-1a=127.0.0.1:5301")
    code, text = run(capsys, "--manifests", prefer, *known)
    assert code == 0
    lines = [line for line in text.splitlines() if "by place" in line]
    assert lines == [f"web.{ZONE} A,SRV  # by place: zone eu-1a 1, zone eu-1b 2"]
    assert "by place" not in run(capsys, "--manifests", prefer)[1], "where no place is known, nobody has one"
    code, text = run(capsys, "--manifests", pin, "--diff", prefer, *known)
    assert (code, text) == (3, (
        f"~ web.{ZONE} A,SRV  # by place: zone eu-1a 1, zone eu-1b 2 "
        "-> A,SRV  # by place: any other zone 0, zone eu-1a 1, zone eu-1b 2\n"
    ))  # fmt: skip
    code, text = run(capsys, "--manifests", pin, "--diff", prefer, "--json", *known)
    ((before, after),) = [item["places"] for item in json.loads(text)["changed"]]
    assert (len(before), after[0]) == (2, "any other zone 0")
