"""The Helm chart on a real API server: accepted, installed, upgraded, rolled back, taken over.

kwok plays the kubelets, so pods become ready without a container. The answers of such pods are
tested in tests/chart/test_answers.py.
"""

from __future__ import annotations

import re
import secrets
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.cluster.test_deploy import COREDNS, may
from tests.harness.helm import CASES, CHART, ROOT, HelmError, Object, helm, merged, nested, objects, only, template
from tests.harness.plane import PlaneError
from tests.harness.processes import require_tool, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness.plane import Plane

DEPLOY = ROOT / "deploy"


@pytest.fixture(scope="module")
def operator(plane: Plane) -> Iterator[Plane]:
    """Yield the plane with the CRDs of the Prometheus operator, and namespaces of the values."""
    crds = require_tool("helm").parent / "crds"
    plane.kubectl("apply", "--server-side", "-f", crds)
    for name in ("monitoring", "dns"):
        plane.kubectl("create", "namespace", name)
    kinds = [f"crd/{yaml.safe_load(file.read_text())['metadata']['name']}" for file in crds.iterdir()]
    plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", *kinds)
    yield plane
    plane.kubectl("delete", "namespace", "monitoring", "dns", "--wait=false")
    plane.kubectl("delete", *kinds, "--wait=false")


@pytest.fixture
def strict(plane: Plane) -> Iterator[str]:
    """Yield a namespace that takes only restricted pods."""
    name = f"chart-{secrets.token_hex(3)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    plane.api(
        "POST", "/api/v1/namespaces",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
    )  # fmt: skip
    yield name
    plane.api("DELETE", f"/api/v1/namespaces/{name}")


class Release:
    """One release in a namespace of its own."""

    def __init__(self, plane: Plane, namespace: str, folder: Path, name: str = "headwater") -> None:
        self.plane = plane
        self.namespace = namespace
        self.name = name
        self._folder = folder
        (folder / "home").mkdir()

    def run(self, command: str, *args: str | Path, values: dict[str, Any] | None = None) -> str:
        return helm(
            command, self.name, *args, "--namespace", self.namespace, "--kubeconfig", self.plane.kubeconfig,
            folder=self._folder / "home", values=values,
        )  # fmt: skip

    def install(self, values: dict[str, Any] | None = None, *more: str | Path) -> str:
        """Install and wait until it is ready; return the notes."""
        text = self.run("install", CHART, "--wait", "--timeout", "60s", *more, values=values or {})
        return text.partition("NOTES:\n")[2]

    def upgrade(self, values: dict[str, Any], *more: str | Path) -> None:
        self.run("upgrade", CHART, "--wait", "--timeout", "60s", *more, values=values)

    def get(self, what: str, namespace: str | None = None) -> Object:
        return dict(yaml.safe_load(self.plane.kubectl("get", "-n", namespace or self.namespace, what, "-o", "yaml")))

    def pods(self) -> dict[str, list[str]]:
        """Headwater's arguments, by the name of the pod, of those that stay."""
        return {
            pod["metadata"]["name"]: pod["spec"]["initContainers"][0]["args"]
            for pod in self.get("pods")["items"]
            if "deletionTimestamp" not in pod["metadata"]
        }

    def corefiles(self) -> dict[str, str]:
        return {
            item["metadata"]["name"]: item["data"]["Corefile"]
            for item in self.get("configmaps")["items"]
            if "Corefile" in item.get("data", {})
        }

    def corefile_of_pods(self) -> str:
        volumes = self.get("deployment/headwater")["spec"]["template"]["spec"]["volumes"]
        (name,) = [volume["configMap"]["name"] for volume in volumes if volume["name"] == "corefile"]
        return self.corefiles()[name]


@pytest.fixture
def release(plane: Plane, strict: str, tmp_path: Path) -> Iterator[Release]:
    found = Release(plane, strict, tmp_path)
    yield found
    found.run("uninstall", "--ignore-not-found", "--wait")


# Accepted


@pytest.mark.parametrize("case", CASES)
def test_server_accepts_every_object(case: str, operator: Plane, strict: str, tmp_path: Path) -> None:
    text = helm("template", "headwater", CHART, "--namespace", strict, "--values", CASES[case], folder=tmp_path)
    found = objects(text)
    lines = operator.kubectl("apply", "--dry-run=server", "-f", "-", stdin=text).splitlines()
    assert all(line.endswith("(server dry run)") for line in lines)
    assert len(lines) == len(found)


def test_the_matrix_has_every_kind() -> None:
    """So that the server has seen each of the chart's templates."""
    kinds = {kind for file in (CHART / "templates").rglob("*.yaml") for kind in _kinds(file)}
    golden = (ROOT / "tests" / "chart" / "golden").glob("*.yaml")
    assert kinds == {item["kind"] for file in golden for item in objects(file.read_text())}


def _kinds(file: Path) -> list[str]:
    return re.findall(r"^kind: (\w+)$", file.read_text(), re.MULTILINE)


@pytest.mark.parametrize("kind", ["PodMonitor", "ServiceMonitor", "PrometheusRule", "Deployment"])
def test_a_field_that_does_not_exist_is_refused(kind: str, operator: Plane, strict: str, tmp_path: Path) -> None:
    """The dry run can fail, for the operator's kinds too."""
    monitor = "serviceMonitor" if kind == "ServiceMonitor" else "podMonitor"
    values = {"monitoring": {monitor: {"enabled": True}, "prometheusRule": {"enabled": True}}}
    item = only(objects(helm("template", "x", CHART, "--namespace", strict, folder=tmp_path, values=values)), kind)
    item["spec"]["nonsense"] = 1
    with pytest.raises(PlaneError, match="nonsense"):
        operator.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump(item))


@pytest.mark.parametrize("case", [case for case in CASES if case != "sidecar"])
def test_pods_keep_to_the_restricted_standard(case: str, plane: Plane, strict: str, tmp_path: Path) -> None:
    """Admission checks pods: the Deployment's template, and the test's pod."""
    found = objects(template(tmp_path, None, "--values", CASES[case]))
    (asking,) = [item["spec"] for item in found if item["kind"] == "Pod"]
    for spec in (only(found, "Deployment")["spec"]["template"]["spec"], asking):
        spec.pop("priorityClassName", None)
        pod: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "try"}, "spec": spec}
        plane.api("POST", f"/api/v1/namespaces/{strict}/pods?dryRun=All", pod)
        spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
        with pytest.raises(PlaneError, match=r"violates PodSecurity .*restricted"):
            plane.api("POST", f"/api/v1/namespaces/{strict}/pods?dryRun=All", pod)


# Installed, upgraded, rolled back


def test_install_upgrade_and_rollback(release: Release) -> None:
    """Each revision's pods have the flags and the Corefile of one set of values."""
    notes = release.install()
    plane, namespace = release.plane, release.namespace
    (command,) = re.findall(r"^    kubectl (-n \S+ rollout status .*)$", notes, re.MULTILINE)
    assert "successfully rolled out" in plane.kubectl(*command.split())
    assert f"helm test -n {namespace} headwater" in notes
    (jsonpath,) = re.findall(r"get service (\S+) -o", notes)
    assert release.get(f"service/{jsonpath}")["spec"]["clusterIP"]
    first = release.pods()
    assert len(first) == 2
    assert "dns-2.sock" not in release.corefile_of_pods()

    user = f"system:serviceaccount:{namespace}:headwater"
    assert may(plane, user, "watch", "endpointslices")
    assert not may(plane, user, "list", "pods")

    release.upgrade({"headwater": {"workers": 3, "twin": False, "pods": "verified"}})
    second = release.pods()
    assert not first.keys() & second.keys(), "a changed flag starts new pods"
    assert all("--workers=3" in args for args in second.values())
    assert "dns-2.sock" in release.corefile_of_pods()
    assert len(release.corefiles()) == 1, "the old Corefile is gone with its revision"
    assert may(plane, user, "list", "pods")

    release.run("rollback", "1", "--wait", "--timeout", "60s")
    third = release.pods()
    assert all("--workers=1" in args for args in third.values())
    assert "dns-2.sock" not in release.corefile_of_pods()
    assert len(release.corefiles()) == 1
    assert not may(plane, user, "list", "pods")

    release.run("uninstall", "--wait")
    assert not release.corefiles()
    left = plane.kubectl("get", "clusterroles,clusterrolebindings", "-o", "name")
    assert f"{namespace}:headwater" not in left


def test_an_upgrade_that_changes_nothing_starts_no_pod(release: Release) -> None:
    release.install()
    before = release.pods()
    release.upgrade({})
    assert release.pods() == before


def test_an_upgrade_that_does_not_get_ready_is_rolled_back_and_old_pods_stay(release: Release) -> None:
    release.install()
    before = release.pods()
    stuck = {"nodeSelector": {"no": "such-node"}, "coredns": {"cacheSeconds": 31}}
    with pytest.raises(HelmError, match="has been rolled back due to atomic being set"):
        release.run("upgrade", CHART, "--atomic", "--timeout", "5s", values=stuck)
    assert "cache 30" in release.corefile_of_pods()
    wait_until(lambda: release.pods() == before, 30, "only the old pods")


def test_the_service_keeps_its_address_when_a_release_takes_over_the_base(plane: Plane, tmp_path: Path) -> None:
    """What ci/base-values.yaml is for."""
    plane.kubectl("apply", "-k", DEPLOY / "base")
    release = Release(plane, "headwater", tmp_path)
    try:
        plane.kubectl("-n", "headwater", "rollout", "status", "deployment", "headwater-dns", "--timeout=60s")
        before = {kind: release.get(f"{kind}/headwater-dns") for kind in ("service", "deployment")}
        with pytest.raises(HelmError, match="cannot be imported into the current release"):
            release.install(None, "--values", CASES["base"])
        release.install(None, "--values", CASES["base"], "--take-ownership")
        after = {kind: release.get(f"{kind}/headwater-dns") for kind in ("service", "deployment")}
        for kind, item in before.items():
            assert after[kind]["metadata"]["uid"] == item["metadata"]["uid"]
        assert after["service"]["spec"]["clusterIP"] == before["service"]["spec"]["clusterIP"]
        release.run("uninstall", "--wait")
    finally:
        plane.kubectl("delete", "-k", DEPLOY / "base", "--ignore-not-found", "--wait=false")


def test_the_address_that_kubelets_know_can_be_taken(plane: Plane, strict: str, tmp_path: Path) -> None:
    plane.kubectl("create", "serviceaccount", "-n", strict, "coredns")
    release = Release(plane, strict, tmp_path)
    try:
        release.install(None, "--values", CASES["cluster-dns"])
        service = release.get("service/kube-dns")
        assert service["spec"]["clusterIP"] == "172.20.0.10"
        slices = release.get("endpointslices")["items"]
        addresses = {
            address
            for item in slices
            if item["metadata"]["labels"]["kubernetes.io/service-name"] == "kube-dns"
            for endpoint in item["endpoints"]
            if endpoint["conditions"]["ready"]
            for address in endpoint["addresses"]
        }
        assert len(addresses) == 3
    finally:
        release.run("uninstall", "--ignore-not-found", "--wait")


# Mode sidecar


def test_the_commands_of_the_notes_put_the_sidecar_into_coredns(plane: Plane, strict: str, tmp_path: Path) -> None:
    """As they stand there, in a shell; a second time they change nothing; an undo undoes them."""
    coredns = yaml.safe_load(COREDNS)
    coredns["metadata"]["namespace"] = strict
    coredns["spec"]["template"]["spec"].pop("serviceAccountName")
    plane.apply(yaml.safe_dump(coredns))
    release = Release(plane, strict, tmp_path)
    try:
        notes = release.install({"mode": "sidecar", "sidecar": {"namespace": strict}})
        steps = [line.strip() for line in notes.splitlines() if line.startswith("    kubectl ")]
        block = next(step for step in steps if "data.Corefile" in step)
        to_patch = [step for step in steps if "patch" in step]
        assert len(to_patch) == 2

        def shell(command: str) -> str:
            prefix = f'kubectl() {{ {plane.kubectl_path} --kubeconfig={plane.kubeconfig} "$@"; }}; '
            done = subprocess.run(
                ["bash", "-euc", prefix + command], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
            )
            return done.stdout

        for step in to_patch:
            shell(step)
        spec = release.get("deployment/coredns")["spec"]["template"]["spec"]
        assert [item["name"] for item in spec["initContainers"]] == ["headwater", "headwater-twin"]
        (container,) = spec["containers"]
        assert {item["restartPolicy"] for item in spec["initContainers"]} == {"Always"}
        assert Counter(mount["name"] for mount in container["volumeMounts"]) == {
            "config-volume": 1,
            "headwater-sockets": 1,
        }
        assert "(no change)" in shell(to_patch[1])
        for path in re.findall(r"unix://(\S+)", shell(block)):
            assert path.startswith("/run/headwater/")
        # One sidecar in the place of two: a patch only adds, so there is one more command.
        single = {"mode": "sidecar", "sidecar": {"namespace": strict}, "headwater": {"twin": False}}
        notes = release.run("upgrade", CHART, values=single).partition("NOTES:\n")[2]
        (to_go,) = [line.strip() for line in notes.splitlines() if "delete" in line]
        for step in (*to_patch, to_go):
            shell(step)
        (left,) = release.get("deployment/coredns")["spec"]["template"]["spec"]["initContainers"]
        assert (left["name"], "--workers=2" in left["args"]) == ("headwater", True)
        shell(next(step for step in steps if "rollout undo" in step) + " --to-revision=1")
        assert "initContainers" not in release.get("deployment/coredns")["spec"]["template"]["spec"]
    finally:
        release.run("uninstall", "--ignore-not-found", "--wait")


def test_an_upgrade_of_coredns_own_chart_keeps_the_patch(plane: Plane, strict: str, tmp_path: Path) -> None:
    """Helm merges three ways: what no revision of its own had stays."""
    chart = tmp_path / "coredns"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: coredns\nversion: 1.0.0\n")
    coredns = yaml.safe_load(COREDNS)
    coredns["metadata"].pop("namespace")
    coredns["spec"]["template"]["spec"].pop("serviceAccountName")
    coredns["spec"]["template"]["metadata"]["annotations"] = {"note": "{{ .Values.note }}"}
    (chart / "templates" / "deployment.yaml").write_text(yaml.safe_dump(coredns))
    values = merged({"mode": "sidecar"}, nested("sidecar.namespace", strict))
    patch = only(objects(template(tmp_path, values)), "ConfigMap")["data"]["patch.yaml"]
    release = Release(plane, strict, tmp_path, "coredns")
    try:
        release.run("install", chart, "--set", "note=one")
        plane.kubectl("patch", "-n", strict, "deployment", "coredns", "--patch", patch)
        release.run("upgrade", chart, "--set", "note=two")
        template_ = release.get("deployment/coredns")["spec"]["template"]
        assert template_["metadata"]["annotations"]["note"] == "two"
        assert [item["name"] for item in template_["spec"]["initContainers"]] == ["headwater", "headwater-twin"]
        assert template_["spec"]["containers"][0]["lifecycle"]["preStop"]["sleep"] == {"seconds": 5}
    finally:
        release.run("uninstall", "--ignore-not-found", "--wait")
