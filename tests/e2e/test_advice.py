"""The command `headwater check --services` on a running instance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.harness.instance import Headwater
from tests.harness.processes import wait_until

if TYPE_CHECKING:
    from pathlib import Path

WELL = """
apiVersion: v1
kind: Service
metadata: {name: db, namespace: prod}
spec: {clusterIP: None, ports: [{name: db, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: prod, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
endpoints: [{addresses: [10.0.9.1], hostname: db-0}]
ports: [{name: db, port: 80}]
"""


def check(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run the command, without the machine's own credentials."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("KUBE", "HEADWATER_"))}
    return subprocess.run(
        [sys.executable, "-m", "headwater", "check", "--services", *arguments],
        capture_output=True, text=True, timeout=60, check=False, env=env | {"HOME": str(home)},
    )  # fmt: skip


def test_a_running_instance_is_quiet_and_then_says_what_changed(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(WELL)
    with Headwater(tmp_path, "--manifests", manifest) as headwater:
        admin = f"127.0.0.1:{headwater.admin_port}"
        done = check("--admin", admin, home=tmp_path)
        assert (done.returncode, done.stdout) == (0, ""), done
        assert "StatefulSets and selectors are not watched here" in done.stderr
        assert "will not work" not in headwater.admin("/?part=advice")[1]
        manifest.write_text(WELL.replace("clusterIP: None", "clusterIP: 10.9.9.9"))

        def found() -> bool:
            return check("--admin", admin, home=tmp_path).returncode == 3

        wait_until(found, 20.0, "the change is found")
        done = check("--admin", admin, "--json", home=tmp_path)
        (one,) = json.loads(done.stdout)["findings"]
        assert (one["rule"], one["object"]["name"]) == ("service-not-headless", "db")
        status, text = headwater.admin("/advice")
        assert (status, json.loads(text)["looked"]) == (200, {"services": 1, "workloads": 0, "slices": 1})
