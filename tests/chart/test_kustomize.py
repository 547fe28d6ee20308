"""The chart and the kustomizations of deploy/ render the same objects for the same choices.

Each exception has a name and a reason. A setting that is changed in one place only is found here.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from tests.harness.helm import CASES, ROOT, Object, nested, objects, only, template
from tests.harness.processes import require_tool

if TYPE_CHECKING:
    from collections.abc import Callable

DEPLOY: Final = ROOT / "deploy"
#: What Helm's releases have beyond a kustomization.
HELMS_LABELS: Final = {
    "app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "app.kubernetes.io/version", "helm.sh/chart",
}  # fmt: skip


def kustomize(folder: Path) -> list[Object]:
    done = subprocess.run(
        [str(require_tool("kubectl")), "kustomize", str(folder)], capture_output=True, text=True, check=True, timeout=60
    )
    return objects(done.stdout)


def namespace_is_made_by_helm(found: list[Object]) -> None:
    """`helm install --create-namespace` makes it, and a chart cannot label it."""
    found[:] = [item for item in found if item["kind"] != "Namespace"]


def the_test_is_helms(found: list[Object]) -> None:
    found[:] = [item for item in found if "helm.sh/hook" not in item["metadata"].get("annotations", {})]


def labels_of_releases(found: list[Object]) -> None:
    for item in found:
        labels = item["metadata"].get("labels", {})
        for label in HELMS_LABELS:
            labels.pop(label, None)


def the_name_of_the_corefile_is_a_hash_of_each_kind(found: list[Object]) -> None:
    """Kustomize and the chart hash differently; both name it by its content."""
    for item in found:
        if item["kind"] == "ConfigMap":
            item["metadata"]["name"] = "corefile"
            item["metadata"].pop("labels", None)
            item.pop("immutable", None)
            lines = [line.strip() for line in item["data"]["Corefile"].splitlines()]
            item["data"]["Corefile"] = [line for line in lines if line and not line.startswith("#")]
        if item["kind"] == "Deployment":
            template_ = item["spec"]["template"]
            template_["metadata"]["annotations"].pop("checksum/corefile", None)
            for volume in template_["spec"]["volumes"]:
                if volume["name"] == "corefile":
                    volume["configMap"]["name"] = "corefile"


def the_role_has_service_imports_only_where_they_are_served(found: list[Object]) -> None:
    for item in found:
        if item["kind"] == "ClusterRole":
            item["rules"] = [rule for rule in item["rules"] if rule["resources"] != ["serviceimports"]]


def name_of(item: Object) -> str:
    return str(item["name"])


def order_of_flags_volumes_and_rules_means_nothing(found: list[Object]) -> None:
    for item in found:
        if item["kind"] == "Deployment":
            pod = item["spec"]["template"]["spec"]
            pod["volumes"].sort(key=name_of)
            for container in pod["initContainers"]:
                container["args"].sort()
                container["volumeMounts"].sort(key=name_of)
        if item["kind"] == "ClusterRole":
            item["rules"].sort(key=repr)


EXCEPTIONS: Final[tuple[Callable[[list[Object]], None], ...]] = (
    namespace_is_made_by_helm,
    the_test_is_helms,
    labels_of_releases,
    the_name_of_the_corefile_is_a_hash_of_each_kind,
    the_role_has_service_imports_only_where_they_are_served,
    order_of_flags_volumes_and_rules_means_nothing,
)


def compared(found: list[Object]) -> dict[tuple[str, str, str], Object]:
    for exception in EXCEPTIONS:
        exception(found)
    return {(item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]): item for item in found}


#: The values that stand for an overlay.
OVERLAYS: Final[dict[str, dict[str, Any]]] = {
    "pods-verified": {"headwater": {"pods": "verified"}},
    "seeded": {"peers": {"enabled": True, "service": "headwater-peers"}},
    "single": yaml.safe_load(CASES["single"].read_text()),
}


@pytest.mark.parametrize("folder", ["base", *OVERLAYS])
def test_standalone_is_the_base(folder: str, tmp_path: Path) -> None:
    values = OVERLAYS.get(folder, {})
    theirs = compared(kustomize(DEPLOY / "overlays" / folder if values else DEPLOY / folder))
    ours = compared(objects(template(tmp_path, values, "--values", CASES["base"])))
    assert ours.keys() == theirs.keys()
    for place, item in theirs.items():
        assert ours[place] == item, place


def test_a_difference_is_found(tmp_path: Path) -> None:
    values = nested("coredns.preStopSeconds", 6)
    theirs = compared(kustomize(DEPLOY / "base"))
    ours = compared(objects(template(tmp_path, values, "--values", CASES["base"])))
    assert [place[0] for place, item in theirs.items() if ours[place] != item] == ["Deployment"]


@pytest.mark.parametrize("name", EXCEPTIONS, ids=lambda one: one.__name__)
def test_an_exception_that_nothing_needs_is_gone(name: Callable[[list[Object]], None], tmp_path: Path) -> None:
    theirs, ours = kustomize(DEPLOY / "base"), objects(template(tmp_path, None, "--values", CASES["base"]))
    before = repr(theirs), repr(ours)
    name(theirs)
    name(ours)
    assert (repr(theirs), repr(ours)) != before


#: Flags in which a pod's two differ: where each listens, and where the second takes its store from.
OF_EACH: Final = ("--listen=", "--admin=", "--peer-listen=", "--seed=")


def the_two_of(pod: Object) -> tuple[list[str], list[str]]:
    """What their flags are but for those of each, in their order."""
    one, two = (container["args"] for container in pod["initContainers"])
    assert [container["name"] for container in pod["initContainers"]] == ["headwater", "headwater-twin"]
    return ([flag for flag in one if not flag.startswith(OF_EACH)],
            [flag for flag in two if not flag.startswith(OF_EACH)])  # fmt: skip


def folders() -> list[str]:
    """Every kustomization that has Headwaters, but for the one that has a single one."""
    found = [file.parent for file in DEPLOY.rglob("kustomization.yaml") if "kind: Component" not in file.read_text()]
    having = [folder for folder in found if any(item["kind"] == "Deployment" for item in kustomize(folder))]
    return sorted(str(folder.relative_to(DEPLOY)) for folder in having if folder.name != "single")


def test_a_flag_of_a_kustomization_is_at_both_containers() -> None:
    """With a flag at one alone, every other answer would differ."""
    having = folders()
    assert {"base", "overlays/pods-verified", "overlays/client-nodes", "overlays/seeded"} == {*having}
    for folder in having:
        one, two = the_two_of(only(kustomize(DEPLOY / folder), "Deployment")["spec"]["template"]["spec"])
        assert one == two, folder
        assert "--workers=1" in one


@pytest.mark.parametrize("folder", ["", "seeded"])
def test_a_flag_of_the_patch_is_at_both_containers(folder: str) -> None:
    patch = yaml.safe_load((DEPLOY / "overlays" / "patch-coredns" / folder / "sidecar.yaml").read_text())
    one, two = the_two_of(patch["spec"]["template"]["spec"])
    assert one == two


def test_a_flag_that_one_of_the_two_lacks_is_seen() -> None:
    pod = only(kustomize(DEPLOY / "overlays" / "pods-verified"), "Deployment")["spec"]["template"]["spec"]
    pod["initContainers"][1]["args"].remove("--pods=verified")
    one, two = the_two_of(pod)
    assert one != two


def test_mode_sidecar_is_the_patch(tmp_path: Path) -> None:
    found = objects(template(tmp_path, {"mode": "sidecar"}))
    config = only(found, "ConfigMap")
    ours = yaml.safe_load(config["data"]["patch.yaml"])
    theirs = yaml.safe_load((DEPLOY / "overlays" / "patch-coredns" / "sidecar.yaml").read_text())
    assert ours == theirs


def test_mode_sidecar_with_siblings_is_the_patch_and_its_second_part(tmp_path: Path) -> None:
    """Merged as `kubectl patch` merges them: lists of arguments are replaced, other lists grow."""
    values = {"mode": "sidecar", "peers": {"enabled": True, "service": "headwater-peers"}}
    found = objects(template(tmp_path, values))
    (folder,) = (DEPLOY / "overlays" / "patch-coredns" / "seeded",)
    patches = [yaml.safe_load((place / "sidecar.yaml").read_text()) for place in (folder.parent, folder)]
    pods = [patch["spec"]["template"]["spec"] for patch in patches]
    for container, more in zip(*(pod["initContainers"] for pod in pods), strict=True):
        assert container["name"] == more["name"]
        container["args"] = more["args"]
        for name in ("ports", "volumeMounts"):
            container[name] += more.get(name, [])
    pods[0]["volumes"] += pods[1]["volumes"]
    ours = yaml.safe_load(only(found, "ConfigMap")["data"]["patch.yaml"])
    assert ours == patches[0]
    (service,) = objects((folder / "service.yaml").read_text())
    made = only(found, "Service")
    labels_of_releases([made])
    assert made == service


def test_mode_sidecar_has_the_rights_of_the_patch(tmp_path: Path) -> None:
    ours = objects(template(tmp_path, {"mode": "sidecar", "rbac": {"name": "headwater"}}))
    theirs = kustomize(DEPLOY / "overlays" / "patch-coredns" / "rbac")
    for found in (ours, theirs):
        the_role_has_service_imports_only_where_they_are_served(found)
    assert only(ours, "ClusterRole")["rules"] == only(theirs, "ClusterRole")["rules"]
    assert only(ours, "ClusterRoleBinding")["subjects"] == only(theirs, "ClusterRoleBinding")["subjects"]


@pytest.mark.parametrize("mode", ["standalone", "sidecar"])
def test_monitors_scrape_as_in_deploy_monitoring(mode: str, tmp_path: Path) -> None:
    """They look in their own namespace, for the labels of their own pods."""
    values = {"mode": mode, "monitoring": {"podMonitor": {"enabled": True}}}
    ours = only(objects(template(tmp_path, values)), "PodMonitor")
    for theirs in objects((DEPLOY / "monitoring" / "podmonitor.yaml").read_text()):
        assert ours["spec"]["podMetricsEndpoints"] == theirs["spec"]["podMetricsEndpoints"]
        if (theirs["metadata"]["name"] == "headwater-patched-coredns") == (mode == "sidecar"):
            chosen, needed = ours["spec"]["selector"]["matchLabels"], theirs["spec"]["selector"]["matchLabels"]
            assert needed.items() <= chosen.items()
