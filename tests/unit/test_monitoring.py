"""deploy/monitoring: what is made is up to date, queries are of metrics, alerts have runbooks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from tests.unit.test_documented import families, section
from tools import monitoring

ROOT = Path(__file__).resolve().parents[2]
ALERTS: list[dict[str, Any]] = [
    rule for group in monitoring.rules()["groups"] for rule in group["rules"] if "alert" in rule
]  # fmt: skip
NAMES = [rule["alert"] for rule in ALERTS]


@pytest.mark.parametrize("path", monitoring.files(), ids=lambda path: path.name)
def test_what_is_made_is_up_to_date(path: Path) -> None:
    assert path.read_text() == monitoring.files()[path], "run tools/monitoring.py"


def test_the_configmap_holds_the_dashboard() -> None:
    body = yaml.safe_load((monitoring.FOLDER / "dashboard-configmap.yaml").read_text())
    assert json.loads(body["data"]["headwater.json"]) == monitoring.dashboard()


def expressions() -> dict[str, str]:
    """Every query of rules and dashboard, by where it stands."""
    rules = [rule for group in monitoring.rules()["groups"] for rule in group["rules"]]
    found = {rule.get("alert") or rule["record"]: rule["expr"] for rule in rules}
    for panel in monitoring.panels():
        found |= {f"{panel.title}: {legend}": expression for expression, legend in panel.queries}
    return found


@pytest.mark.parametrize("where", expressions())
def test_every_metric_and_label_of_a_query_exists(where: str) -> None:
    known = families()
    records = {rule["record"] for group in monitoring.rules()["groups"] for rule in group["rules"] if "record" in rule}
    expression = expressions()[where]
    assert set(re.findall(r"\bheadwater:[a-z0-9_:]+", expression)) <= records
    for name, selector in re.findall(r"\b(headwater_[a-z_]+)(?:\{([^}]*)\})?", expression):
        family = re.sub(r"_(bucket|count|sum)$", "", name)
        assert family in known, name
        own = set(re.findall(r"([a-z_]+)(?:=~|!=|!~|=)", selector)) - {"job", "instance"}
        assert own <= {*known[family], "le"}, name


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_each_alert_has_a_paragraph_that_begins_with_one_command(rule: dict[str, Any]) -> None:
    lines = section("operations.md", rule["alert"]).strip("\n").splitlines()
    assert re.match(r"^    kubectl ", lines[0]), "the first line is a command"
    assert lines[1] == "", "one command"
    assert not any(line.startswith("    ") for line in lines[2:])
    assert len(" ".join(lines[2:]).split()) >= 30, "and a paragraph that helps"


def test_alerts_are_documented_in_their_order_and_no_others_are() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    assert sorted(re.findall(r"^### (Headwater[A-Z]\w+)$", page, re.MULTILINE)) == sorted(NAMES)


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_each_alert_says_how_bad_it_is_what_is_wrong_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    annotations = rule["annotations"]
    assert annotations.keys() == {"summary", "description", "runbook_url"}
    assert annotations["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"
    if rule["alert"] != "HeadwaterAbsent":
        assert "{{ $labels.instance }}" in annotations["summary"]


def test_links_to_runbooks_begin_with_what_is_asked_for() -> None:
    rules = monitoring.rules(runbooks="https://wiki.example/")
    links = [
        rule["annotations"]["runbook_url"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule
    ]
    assert "https://wiki.example/docs/operations.md#headwaterabsent" in links
    assert all(link.startswith("https://wiki.example/docs/") for link in links)


def test_links_begin_with_the_projects_url_where_it_has_one(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text('[project.urls]\nSpecification = "https://spec.example"\n')
    assert monitoring.runbooks_of(file) == ""
    file.write_text('[project.urls]\nRepository = "https://code.example/headwater/"\n')
    assert monitoring.runbooks_of(file) == "https://code.example/headwater/blob/main/"


def test_a_faster_rule_differs_in_its_durations_only() -> None:
    def parts(rules: dict[str, Any]) -> list[dict[str, Any]]:
        return [rule for group in rules["groups"] for rule in group["rules"]]

    for slow, fast in zip(parts(monitoring.rules()), parts(monitoring.rules(faster=30)), strict=True):
        pattern = re.compile(r"\[\w+\]|offset \w+")
        assert pattern.sub("", slow["expr"]) == pattern.sub("", fast["expr"])
        assert fast.get("annotations") == slow.get("annotations")
        assert ("for" in slow) == ("for" in fast)
    siblings = next(
        rule for rule in parts(monitoring.rules(faster=30)) if rule.get("alert") == "HeadwaterSiblingsDisagree"
    )
    assert "[20s]" in siblings["expr"]
    assert "offset 30s" in siblings["expr"]
    assert siblings["for"] == "10s"


def test_the_limit_of_the_store_is_that_of_the_volume() -> None:
    """The rule's number is 80 % of what the kubelet allows, in each of the deployments."""
    rule = next(rule for rule in ALERTS if rule["alert"] == "HeadwaterStoreNearItsLimit")
    assert rule["expr"] == f"headwater_store_bytes > 0.8 * {1 << 30}"
    for path in ("base/deployment.yaml", "overlays/patch-coredns/sidecar.yaml"):
        spec = yaml.safe_load((ROOT / "deploy" / path).read_text())["spec"]["template"]["spec"]
        limits = {volume["name"]: volume["emptyDir"]["sizeLimit"] for volume in spec["volumes"]
                  if volume["name"].endswith("-state")}  # fmt: skip
        assert limits == {"headwater-state": "1Gi", "headwater-twin-state": "1Gi"}


def ports(path: str) -> set[str]:
    spec = yaml.safe_load((ROOT / "deploy" / path).read_text())["spec"]["template"]["spec"]
    containers = [*spec.get("containers", ()), *spec["initContainers"]]
    return {port["name"] for container in containers for port in container.get("ports", ())}


def test_who_is_scraped_is_there_and_gets_the_labels_that_rules_expect() -> None:
    base, sidecar = ports("base/deployment.yaml"), ports("overlays/patch-coredns/sidecar.yaml")
    monitors = list(yaml.safe_load_all((monitoring.FOLDER / "podmonitor.yaml").read_text()))
    assert len(monitors) == 2
    for monitor in monitors:
        found = {}
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            keep, job = endpoint["relabelings"]
            assert keep == {"action": "keep", "sourceLabels": ["__meta_kubernetes_pod_phase"], "regex": "Running"}
            assert job["targetLabel"] == "job"
            found[endpoint["port"]] = job["replacement"]
            assert endpoint["interval"] == "15s"
        assert found == {"headwater-http": "headwater", "headwater-twin": "headwater", "metrics": "coredns"}
        assert found.keys() <= base
    assert {"headwater-http", "headwater-twin"} <= sidecar
    labels = yaml.safe_load((ROOT / "deploy/base/deployment.yaml").read_text())["spec"]["template"]["metadata"][
        "labels"
    ]
    assert monitors[0]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    jobs = yaml.safe_load((monitoring.FOLDER / "prometheus.yaml").read_text())["scrape_configs"]
    assert {job["job_name"] for job in jobs} == {"headwater", "coredns"}
    assert {job["scrape_interval"] for job in jobs} == {"15s"}


def test_kustomize_takes_files_that_are_there() -> None:
    found = yaml.safe_load((monitoring.FOLDER / "kustomization.yaml").read_text())
    assert all((monitoring.FOLDER / name).exists() for name in found["resources"])


# The dashboard


def test_panels_do_not_overlap_and_fill_their_rows() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in monitoring.dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


def test_panels_have_titles_questions_and_queries_of_their_own() -> None:
    panels = [panel for panel in monitoring.dashboard()["panels"] if panel["type"] != "row"]
    assert len({panel["title"] for panel in panels}) == len(panels) == len(list(monitoring.panels()))
    assert len({panel["id"] for panel in monitoring.dashboard()["panels"]}) == len(panels) + len(monitoring.DASHBOARD)
    for panel in panels:
        assert panel["description"].endswith(".")
        assert panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_rows_are_the_questions_in_their_order() -> None:
    assert list(monitoring.DASHBOARD) == [
        "Is it right?", "Is it fresh?", "Is it fast?", "Is it as owners asked?", "What does it cost?",
        "CoreDNS beside it",
    ]  # fmt: skip


def test_every_variable_of_a_query_is_there_to_choose() -> None:
    names = {
        variable["name"] for variable in cast("list[dict[str, Any]]", monitoring.dashboard()["templating"]["list"])
    }
    for where, expression in expressions().items():
        assert set(re.findall(r"\$(\w+)", expression)) <= names | {"__rate_interval"}, where


def test_the_page_explains_each_panel() -> None:
    page = " ".join((ROOT / "docs" / "monitoring.md").read_text().split())
    for panel in monitoring.panels():
        assert f"**{panel.title}**" in page, panel.title
