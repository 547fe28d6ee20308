"""`headwater serve --policy` as a whole: a policy that hangs, another version of it, `names`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.e2e.test_supervisor import MANIFEST
from tests.harness.instance import Headwater
from tests.harness.processes import wait_until

RULES: Final = """
    import time
    from headwater.policy.api import Decision

    def decide(service, endpoints):
        if service.annotations.get("headwater.dev/policy") == "hang":
            time.sleep(3600)
        return Decision(ttl=TTL, aliases={"first": [endpoints[0].name]} if endpoints else None)
"""
DB: Final = "db.default.svc.cluster.local"
HANGS: Final = (
    MANIFEST.replace("name: db,", "name: bad,")
    .replace("default}", "bad}", 1)
    .replace("name: db-x, namespace: default", "name: bad-x, namespace: bad")
    .replace("service-name: db", "service-name: bad")
    .replace("namespace: bad}", "namespace: bad, annotations: {headwater.dev/policy: hang}}", 1)
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path, 33)
    (tmp_path / "manifest.yaml").write_text(MANIFEST)
    return tmp_path


def write(folder: Path, ttl: int) -> None:
    (folder / "own_rules.py").write_text(textwrap.dedent(RULES).replace("TTL", str(ttl)))


def instance(folder: Path) -> Headwater:
    return Headwater(folder, "--manifests", folder / "manifest.yaml", "--policy", "own_rules:decide")


def ttl(headwater: Headwater, name: str = DB) -> int | None:
    return next((item.ttl for item in headwater.ask(name).rr), None)


def test_a_policy_that_hangs_stops_nothing_and_is_asked_again_by_another_version(folder: Path) -> None:
    with instance(folder) as headwater:
        pids = headwater.pids()
        assert ttl(headwater) == 33
        assert headwater.records(f"first.{DB}") == ["10.44.0.1"]
        # A Service comes for which it never returns; others go on.
        (folder / "manifest.yaml").write_text(MANIFEST + "---\n" + HANGS)
        wait_until(lambda: ttl(headwater, "bad.bad.svc.cluster.local") == 5, 20, "the default is served")
        (folder / "manifest.yaml").write_text((MANIFEST + "---\n" + HANGS).replace("10.44.0.1]", "10.44.0.2]", 1))
        wait_until(lambda: headwater.records(f"first.{DB}") == ["10.44.0.2"], 20, "other Services follow")
        now = headwater.pids()
        assert now["watch"] == pids["watch"], "the watch process was not killed for it"
        _, metrics = headwater.admin("/metrics")
        slow = re.search(r'headwater_policy_calls_total{result="slow"} ([0-9.]+)', metrics)
        assert slow is not None
        assert float(slow[1]) >= 1
        assert f'headwater_records_skipped_total{{reason="policy"}} {slow[1]}' in metrics
        # Its process dies: the next call starts another.
        psutil.Process(now["policy"]).kill()
        (folder / "manifest.yaml").write_text(MANIFEST.replace("10.44.0.1", "10.44.0.3"))
        wait_until(lambda: headwater.records(DB) == ["10.44.0.3"], 20, "the change is served")
        _, page = headwater.admin(f"/explain?name={DB}&format=json")
        assert "The policy (--policy) decided for Service default/db" in page
        headwater.terminate()
        assert headwater.log.read_text().count("left out: bad/bad: the policy: no answer in time") == 1
        write(folder, 44)
        headwater.start()
        assert ttl(headwater) == 44


def test_a_policy_that_cannot_be_loaded_stops_only_a_first_start(folder: Path) -> None:
    (folder / "own_rules.py").write_text("raise ValueError('not today')\n")
    headwater = instance(folder)
    headwater.exec()
    try:
        wait_until(lambda: not headwater.process.running, 30, "it ends")
        text = headwater.log.read_text()
        assert "--policy: it cannot be loaded: ValueError: not today" in text
    finally:
        headwater.close()


def test_names_show_what_a_policy_decides(folder: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("KUBE", "HEADWATER_"))}
    words = ["names", "--manifests", "manifest.yaml", "--policy", "own_rules:decide"]
    found = subprocess.run(
        [sys.executable, "-m", "headwater", *words, "--json"],
        cwd=folder, capture_output=True, text=True, check=False, env=env | {"HOME": str(folder)},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    rows = {row["name"]: row.get("policy") for row in json.loads(found.stdout)}
    assert rows[f"first.{DB}"] == rows[DB] == "ttl 33; aliases first=db-0"
