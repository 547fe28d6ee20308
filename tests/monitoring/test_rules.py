"""The alerts, by promtool: each of `worlds` gives the alerts that it says, and no others."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.harness.processes import require_tool
from tests.monitoring.worlds import FAULTS, LONG, WORLDS, Value, World
from tools import monitoring

FIRING = 'group by (alertname, instance) (ALERTS{alertstate="firing"})'
ALERTS = [
    rule for group in monitoring.rules()["groups"] for rule in group["rules"] if "alert" in rule
]  # fmt: skip
NAMES = [rule["alert"] for rule in ALERTS]


def promtool(*arguments: str | Path) -> str:
    """What it prints; a failure of the test with that when it fails."""
    done = subprocess.run([require_tool("promtool"), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"promtool {' '.join(map(str, arguments))}: {done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def values(value: Value, samples: int, step: float) -> str:
    """The samples as promtool reads them. Where a series goes away it is marked as stale."""
    found: list[str] = []
    there = False
    for index in range(samples):
        now = value(index * step)
        found.append(f"{now:.12g}" if now is not None else "stale" if there else "_")
        there = now is not None
    return " ".join(found)


def labels(**pairs: str) -> str:
    """As promtool reads them, without those that are empty."""
    return "{" + ", ".join(f'{name}="{value}"' for name, value in pairs.items() if value) + "}"


def unit_test(world: World) -> str:
    """A world as a file of `promtool test rules`."""
    samples = int(max(world.fires) / world.step) + 2
    interval = f"{int(world.step * 60)}s"
    test = {
        "interval": interval,
        "name": world.name,
        "input_series": [
            {"series": name, "values": values(value, samples, world.step)}
            for name, value in [*world.series(), *world.extra.items()]
        ],
        "promql_expr_test": [
            {
                "expr": FIRING,
                "eval_time": f"{int(minute * 60)}s",
                "exp_samples": [
                    {"labels": labels(alertname=alert, instance=instance), "value": 1}
                    for alert, instance in sorted(firing)
                ],
            }
            for minute, firing in sorted(world.fires.items())
        ],
    }  # fmt: skip
    rules = str(monitoring.FOLDER / "rules.yaml")
    return yaml.safe_dump({"rule_files": [rules], "evaluation_interval": interval, "tests": [test]}, width=1 << 20)


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_these_alerts_fire_and_no_other(world: World, tmp_path: Path) -> None:
    file = tmp_path / "world.yaml"
    file.write_text(unit_test(world))
    promtool("test", "rules", file)


def test_each_alert_fires_clears_and_has_a_near_miss() -> None:
    """By the table; near misses where there is a threshold or a time to miss."""
    worlds = [*FAULTS, *LONG]
    assert {alert for world in worlds for firing in world.fires.values() for alert, _ in firing} == set(NAMES)
    cleared = {
        alert
        for world in worlds
        for minute, firing in world.fires.items()
        for alert, _ in firing
        if not world.fires[max(world.fires)] and minute < max(world.fires)
    }
    assert cleared == set(NAMES)
    immediate = {"HeadwaterQueriesFail", "HeadwaterStoreDamaged", "HeadwaterAuditDiffers"}  # the first one counts
    assert {world.near for world in WORLDS if world.near} == set(NAMES) - immediate - {"HeadwaterAbsent"}


@pytest.mark.parametrize("faster", [1.0, 30.0])
def test_promtool_takes_the_rules(faster: float, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(monitoring.rules(faster=faster)))
    promtool("check", "rules", "--lint=all", "--lint-fatal", file)


def test_promtool_takes_the_configuration_and_what_it_names() -> None:
    text = promtool("check", "config", "--lint-fatal", monitoring.FOLDER / "prometheus.yaml")
    assert "SUCCESS" in text
    assert f"{sum(len(group['rules']) for group in monitoring.rules()['groups'])} rules found" in text
