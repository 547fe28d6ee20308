#!/usr/bin/env python3
"""Make what deploy/monitoring has for the Prometheus operator and for Grafana.

    tools/monitoring.py                         write the files again
    tools/monitoring.py rules --runbooks URL    print the rules, with links that begin with URL
    tools/monitoring.py rules --faster 30       print them with a thirtieth of each duration

rules.yaml is the source of prometheusrule.yaml. DASHBOARD below is the source of dashboard.json, of
the ConfigMap that Grafana's sidecar takes, and of the drawing in docs/monitoring.md. The Helm chart
has copies of rules.yaml and dashboard.json, because a chart reads no file outside its folder.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "deploy" / "monitoring"
CHART_FILES: Final = ROOT / "deploy" / "helm" / "headwater" / "files"
PAGE: Final = ROOT / "docs" / "monitoring.md"
_LABELS: Final = {"app.kubernetes.io/name": "headwater"}
_MADE: Final = "# Made by tools/monitoring.py from {source}: change that, and run it again.\n"

# Rules

#: Durations in a query: of a range, [5m], and of an offset.
_DURATION: Final = re.compile(r"(?<=\[)\d+[smhd](?=\])|(?<=offset )\d+[smhd]\b")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _sooner(duration: str, faster: float) -> str:
    """The duration divided; a range needs two samples, and tests scrape each second."""
    return f"{max(3, round(int(duration[:-1]) * _SECONDS[duration[-1]] / faster))}s"


def rules(*, runbooks: str = "", faster: float = 1.0) -> dict[str, Any]:
    """The rule file. Links to the alerts' paragraphs begin with `runbooks`.

    `faster` divides every duration: a range, an offset, a `for`. Thresholds stay as they are.
    """
    found: dict[str, Any] = yaml.safe_load((FOLDER / "rules.yaml").read_text())
    for group in found["groups"]:
        for rule in group["rules"]:
            if faster != 1.0:
                rule["expr"] = _DURATION.sub(lambda match: _sooner(match[0], faster), rule["expr"])
                if "for" in rule:
                    rule["for"] = _sooner(rule["for"], faster)
            if "alert" in rule:
                rule["annotations"]["runbook_url"] = runbooks + rule["annotations"]["runbook_url"]
    return found


def runbooks_of(pyproject: Path = ROOT / "pyproject.toml") -> str:
    """Where the documentation is read: below the project's URL, if it has one."""
    urls: dict[str, str] = tomllib.loads(pyproject.read_text())["project"]["urls"]
    for name in ("Repository", "Source", "Homepage"):
        if name in urls:
            return urls[name].rstrip("/") + "/blob/main/"
    return ""


def prometheus_rule() -> str:
    """The same as an object of the Prometheus operator."""
    body = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "headwater", "labels": _LABELS},
        "spec": rules(runbooks=runbooks_of()),
    }
    return _MADE.format(source="rules.yaml") + yaml.safe_dump(body, sort_keys=False, width=10_000)


# The dashboard


@dataclass(frozen=True)
class Panel:
    """One graph, or one number. `width` in 24ths of the page."""

    title: str
    question: str
    """What it answers: the panel's description."""
    queries: tuple[tuple[str, str], ...]
    """(expression, legend)."""
    unit: str = "short"
    width: int = 8
    number: bool = False
    """The last value in large letters, not a graph."""
    bad: float | None = None
    """Red from here on."""
    log: bool = False


_ON: Final = 'job="$job",instance=~"$instance"'
_DNS: Final = 'job="$coredns"'
_RATE: Final = "[$__rate_interval]"
_BY: Final = "{{instance}}"
_QUERIES: Final = "headwater_queries_total"
_CPU: Final = "headwater_process_cpu_seconds_total"
_UP: Final = "headwater_process_up"
_SILENT: Final = "headwater_process_silent_seconds"
_NO_SERVFAIL: Final = ',rcode!="SERVFAIL"'
_ANSWERING: Final = ',process=~"answer.*"'
_POLICY_FAILS: Final = ',result=~"failed|slow|skipped"'


def _rate(metric: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{{_ON}{more}}}{_RATE}))"


def _quantiles(metric: str, on: str, by: str = "") -> tuple[tuple[str, str], ...]:
    labels = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    buckets = f"sum by ({labels}) (rate({metric}_bucket{{{on}}}{_RATE}))"
    return tuple(
        (f"histogram_quantile({quantile}, {buckets})", f"p{round(quantile * 100)}{legend}") for quantile in (0.5, 0.99)
    )


def _hour(metric: str, more: str = "") -> str:
    return f"sum(increase({metric}{{{_ON}{more}}}[1h]))"


#: Rows in the order of an operator's questions.
DASHBOARD: Final[dict[str, tuple[Panel, ...]]] = {
    "Is it right?": (
        Panel(
            "Alerts", "How many alerts of Headwater fire now. docs/operations.md has a paragraph for each.",
            (('count(ALERTS{alertname=~"Headwater.*",alertstate="firing"}) or vector(0)', "firing"),),
            width=4, number=True, bad=1,
        ),
        Panel(
            "Ready", "Instances whose records are complete, and instances that answer Prometheus at all.",
            ((f"sum(headwater_ready{{{_ON}}})", "ready"), (f"count(up{{{_ON}}})", "known")),
            width=4, number=True,
        ),
        Panel(
            "SERVFAIL and stale", "The share of replies that are failures: no complete records, or too old a truth.",
            (
                (f"1 - {_rate(_QUERIES, 'instance', _NO_SERVFAIL)} / {_rate(_QUERIES, 'instance')}", _BY),
            ),
            unit="percentunit", bad=0.01,
        ),
        Panel(
            "Processes", "Processes of each instance that are up. It falls when one dies, and while one hangs.",
            ((f"sum by (instance) ({_UP}{{{_ON}}} * ({_SILENT}{{{_ON}}} == bool 0))", _BY),),
        ),
        Panel(
            "Found wrong", "Queries that met a bug, damaged pages, differences that audits found, contradicted lists, "
            "objects left out for a bug, calls of the policy without a decision. All of it should be 0.",
            (
                (_hour("headwater_query_failures_total"), "queries that met a bug"),
                (_hour("headwater_store_damage_total"), "damaged pages"),
                (_hour("headwater_audit_differences_total"), "differences"),
                (_hour("headwater_second_opinions_total", ',result="contradicted"'), "contradicted lists"),
                (_hour("headwater_records_skipped_total", ',reason="unexpected"'), "objects left out"),
                (f"{_hour('headwater_policy_calls_total', _POLICY_FAILS)} or vector(0)", "calls of the policy"),
            ),
        ),
        Panel(
            "Replies", "What names get, of all instances: NXDOMAIN from search lists is ordinary.",
            ((_rate(_QUERIES, "reason"), "{{reason}}"),),
            unit="reqps",
        ),
        Panel(
            "Names", "What each instance holds. Siblings hold the same.",
            ((f"sum by (instance) (headwater_names{{{_ON}}})", _BY),),
        ),
    ),
    "Is it fresh?": (
        Panel(
            "API server last heard", "A quiet watch says something once a minute. Beyond three, an alert.",
            ((f"max by (instance) (headwater_watch_age_seconds{{{_ON}}})", _BY),),
            unit="s", bad=180,
        ),
        Panel(
            "Records last changed", "Of each instance: siblings change together.",
            ((f"time() - headwater_store_serial{{{_ON}}}", _BY),),
            unit="s",
        ),
        Panel(
            "Programming latency", "From a change of endpoints to their commit. The API has whole seconds.",
            _quantiles("headwater_programming_duration_seconds", _ON),
            unit="s",
        ),
        Panel(
            "Late changes", "The share of changes that took more than 5 seconds, in an hour. The objective is 1 %.",
            ((f"headwater:programming_late:ratio1h{{{_ON}}}", _BY),),
            unit="percentunit", bad=0.01,
        ),
        Panel(
            "Changes", "Names put or dropped, and commits that the disk refused.",
            (
                (_rate("headwater_records_changed_total", "instance"), "names {{instance}}"),
                (_rate("headwater_commit_failures_total", "instance"), "refused commits {{instance}}"),
            ),
        ),
        Panel(
            "Events of watches", "From the API server, by resource.",
            ((_rate("headwater_watch_events_total", "resource"), "{{resource}}"),),
        ),
    ),
    "Is it fast?": (
        Panel("Queries", "In a second.", ((_rate(_QUERIES, "instance"), _BY),), unit="reqps"),
        Panel(
            "Time in Headwater", "From a query's bytes to its reply's, transport aside.",
            _quantiles("headwater_query_duration_seconds", _ON),
            unit="s", log=True,
        ),
        Panel(
            "Lookups at other servers", "For ExternalName Services outside the zones (--upstream), by outcome.",
            ((f"{_rate('headwater_upstream_lookups_total', 'result')} or vector(0)", "{{result}}"),),
        ),
    ),
    "Is it as owners asked?": (
        Panel(
            "Answers by place", "Replies with a set of the client's zone or node (near), and of names that have such "
            "sets to clients elsewhere (far).",
            ((_rate("headwater_answers_by_place_total", "set"), "{{set}}"),),
            unit="reqps",
        ),
        Panel(
            "Questions that wait", "For names whose Services have patience, by what became of them.",
            ((f"{_rate('headwater_patience_total', 'result')} or vector(0)", "{{result}}"),),
            unit="reqps",
        ),
        Panel(
            "The policy", "Calls, by result, and for whom it is not asked now.",
            (
                (f"{_rate('headwater_policy_calls_total', 'result')} or vector(0)", "{{result}}"),
                (f"sum by (scope) (headwater_policy_paused{{{_ON}}}) or vector(0)", "paused, {{scope}}"),
            ),
        ),
    ),
    "What does it cost?": (
        Panel(
            "Processor", "Cores, by process.",
            ((_rate(_CPU, "process"), "{{process}}"),),
        ),
        Panel(
            "Memory", "Private memory of each instance. The store's pages belong to the node's page cache.",
            ((f"sum by (instance) (headwater_process_memory_bytes{{{_ON}}})", _BY),),
            unit="bytes",
        ),
        Panel(
            "Processor time of a query", "In Headwater's answer processes, transport included.",
            (
                (f"{_rate(_CPU, 'instance', _ANSWERING)} / {_rate(_QUERIES, 'instance')}", _BY),
            ),
            unit="s", log=True,
        ),
        Panel(
            "Store", "Bytes of the store, and bytes that its disk has left.",
            (
                (f"headwater_store_bytes{{{_ON}}}", "store {{instance}}"),
                (f"headwater_store_free_bytes{{{_ON}}}", "left {{instance}}"),
            ),
            unit="bytes", log=True,
        ),
        Panel(
            "Lists and failed requests", "What the API server is asked for beyond watches, in an hour. A list is dear.",
            (
                (_hour("headwater_watch_relists_total"), "lists"),
                (f"{_hour('headwater_watch_errors_total')} or vector(0)", "failed requests"),
            ),
        ),
        Panel(
            "Objects", "Of the cluster, by resource.",
            ((f"max by (resource) (headwater_objects{{{_ON}}})", "{{resource}}"),),
        ),
    ),
    "CoreDNS beside it": (
        Panel(
            "Replies of CoreDNS", "By zone and rcode. SERVFAIL here and not above: CoreDNS does not reach Headwater.",
            ((f"sum by (zone, rcode) (rate(coredns_dns_responses_total{{{_DNS}}}{_RATE}))", "{{zone}} {{rcode}}"),),
            unit="reqps",
        ),
        Panel(
            "Time in CoreDNS", "Of a query for each zone, the way to Headwater and back included.",
            _quantiles("coredns_dns_request_duration_seconds", _DNS, "zone"),
            unit="s", log=True,
        ),
        Panel(
            "Calls to Headwater", "By socket. Each answer process gets its share.",
            ((f"sum by (to) (rate(coredns_grpc_requests_total{{{_DNS}}}{_RATE}))", "{{to}}"),),
            unit="reqps",
        ),
        Panel(
            "Time of a call", "Until Headwater's reply is there: transport, and the queue before it.",
            _quantiles("coredns_grpc_request_duration_seconds", _DNS),
            unit="s", log=True,
        ),
        Panel("Processor of CoreDNS", "Cores.", ((f"rate(process_cpu_seconds_total{{{_DNS}}}{_RATE})", _BY),)),
        Panel(
            "Memory of CoreDNS", "Resident.", ((f"process_resident_memory_bytes{{{_DNS}}}", _BY),), unit="bytes",
        ),
    ),
}  # fmt: skip

_HEIGHT: Final = 7
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


def panels() -> Iterator[Panel]:
    for row in DASHBOARD.values():
        yield from row


def _placed() -> Iterator[tuple[str | Panel, int, int]]:
    """Rows and panels with their places, x and y."""
    top = 0
    for title, row in DASHBOARD.items():
        yield title, 0, top
        top, left = top + 1, 0
        for panel in row:
            if left + panel.width > 24:
                top, left = top + _HEIGHT, 0
            yield panel, left, top
            left += panel.width
        top += _HEIGHT


def _panel(number: int, panel: Panel, left: int, top: int) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.bad is not None:
        steps.append({"color": "red", "value": panel.bad})
    custom: dict[str, Any] = {"lineWidth": 1, "fillOpacity": 10}
    if panel.log:
        custom["scaleDistribution"] = {"type": "log", "log": 10}
    if panel.bad is not None:
        custom["thresholdsStyle"] = {"mode": "line"}
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.number:
        options: dict[str, Any] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "background"}
    else:
        defaults |= {"min": 0} if not panel.log else {}
        defaults["custom"] = custom
        options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    return {
        "id": number,
        "type": "stat" if panel.number else "timeseries",
        "title": panel.title,
        "description": panel.question,
        "datasource": _SOURCE,
        "gridPos": {"x": left, "y": top, "w": panel.width, "h": _HEIGHT},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _variable(name: str, label: str, default: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "textbox",
        "query": default,
        "current": {"text": default, "value": default},
    }


def dashboard() -> dict[str, Any]:
    """Grafana's JSON."""
    found: list[dict[str, Any]] = []
    for number, (item, left, top) in enumerate(_placed(), start=1):
        if isinstance(item, Panel):
            found.append(_panel(number, item, left, top))
        else:
            place = {"x": 0, "y": top, "w": 24, "h": 1}
            found.append(
                {"id": number, "type": "row", "title": item, "collapsed": False, "panels": [], "gridPos": place}
            )
    instances = {
        "name": "instance", "label": "Instance", "type": "query", "datasource": _SOURCE, "multi": True,
        "includeAll": True, "allValue": ".*", "refresh": 2, "current": {"text": "All", "value": "$__all"},
        "query": {"query": 'label_values(up{job="$job"}, instance)', "refId": "instances"},
    }  # fmt: skip
    return {
        "uid": "headwater",
        "title": "Headwater",
        "description": "Is it right, is it fresh, is it fast, what does it cost? See docs/monitoring.md.",
        "tags": ["dns", "coredns", "headwater"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
                _variable("job", "Job of Headwater", "headwater"),
                _variable("coredns", "Job of CoreDNS", "coredns"),
                instances,
            ]
        },
        "panels": found,
    }


def dashboard_json() -> str:
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


def config_map() -> str:
    """The dashboard in a ConfigMap with the label that Grafana's sidecar looks for."""
    head = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "headwater-dashboard", "labels": _LABELS | {"grafana_dashboard": "1"}},
    }
    body = "".join(f"    {line}\n" for line in dashboard_json().splitlines())
    return (
        _MADE.format(source="its DASHBOARD")
        + yaml.safe_dump(head, sort_keys=False)
        + f"data:\n  headwater.json: |\n{body}"
    )


# The drawing

_BEGIN: Final = "<!-- drawn by tools/monitoring.py -->\n"
_END: Final = "<!-- to here -->\n"
_COLUMNS: Final = 4  # characters for a 24th of the page


def drawing() -> str:
    """The dashboard's layout, as text."""
    rows: dict[int, list[tuple[Panel, int]]] = {}
    titles: dict[int, str] = {}
    for item, left, top in _placed():
        if isinstance(item, Panel):
            rows.setdefault(top, []).append((item, left))
        else:
            titles[top] = item
    lines: list[str] = []
    for top in sorted({*rows, *titles}):
        if top in titles:
            lines.append(f"v {titles[top]}")
            continue
        edge = "+"
        text = "|"
        for panel, _ in rows[top]:
            width = panel.width * _COLUMNS - 1
            edge += "-" * width + "+"
            text += f" {panel.title}"[:width].ljust(width) + "|"
        lines += [edge, text, edge]
    return "".join(f"    {line}\n" for line in lines)


def page(text: str) -> str:
    """docs/monitoring.md with the drawing as it is now."""
    head, begin, rest = text.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not begin or not end:
        raise SystemExit(f"docs/monitoring.md has no place for the drawing: {_BEGIN.strip()} … {_END.strip()}")
    return f"{head}{begin}\n{drawing()}\n{end}{tail}"


def files() -> dict[Path, str]:
    """Everything that is made, by path."""
    return {
        FOLDER / "prometheusrule.yaml": prometheus_rule(),
        FOLDER / "dashboard.json": dashboard_json(),
        FOLDER / "dashboard-configmap.yaml": config_map(),
        CHART_FILES / "rules.yaml": (FOLDER / "rules.yaml").read_text(),
        CHART_FILES / "dashboard.json": dashboard_json(),
        PAGE: page(PAGE.read_text()),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command")
    printing = commands.add_parser("rules", help="print the rule file")
    printing.add_argument("--runbooks", metavar="URL", default=runbooks_of(), help="what links to runbooks begin with")
    printing.add_argument("--faster", metavar="TIMES", type=float, default=1.0, help="divide every duration, for tests")
    options = parser.parse_args(arguments)
    if options.command == "rules":
        print(
            yaml.safe_dump(rules(runbooks=options.runbooks, faster=options.faster), sort_keys=False, width=10_000),
            end="",
        )
        return 0
    for path, text in files().items():
        path.write_text(text)
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
