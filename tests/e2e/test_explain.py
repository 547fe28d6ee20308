"""The command `headwater explain` on a running instance, a state directory, and manifests."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.e2e.test_supervisor import MANIFEST
from tests.harness.instance import Headwater
from tests.harness.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MORE: Final = """
---
apiVersion: v1
kind: Service
metadata: {name: down, namespace: default}
spec: {clusterIP: None, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: down-1, namespace: default, labels: {kubernetes.io/service-name: down}}
addressType: IPv4
endpoints: [{addresses: [10.0.9.1], hostname: down-0, conditions: {ready: false}}]
ports: [{name: http, port: 80}]
"""
DOWN: Final = "down.default.svc.cluster.local"


def explain(*arguments: str | Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run the command, without the machine's own credentials."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("KUBE", "HEADWATER_"))}
    return subprocess.run(
        [sys.executable, "-m", "headwater", "explain", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False, env=env | {"HOME": str(home)},
    )  # fmt: skip


def answer_processes(headwater: Headwater) -> list[int]:
    return [process.pid for process in headwater.family()[1:] if "answer" in " ".join(process.cmdline())]


@pytest.fixture
def headwater(tmp_path: Path) -> Iterator[Headwater]:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(MANIFEST + MORE)
    with Headwater(tmp_path, "--manifests", manifest) as running:
        yield running


def test_a_running_instance_explains_and_goes_on_when_it_is_restarted(headwater: Headwater, tmp_path: Path) -> None:
    admin = f"127.0.0.1:{headwater.admin_port}"
    done = explain(DOWN, "--admin", admin, home=tmp_path)
    assert (done.returncode, done.stderr) == (3, ""), done
    assert "1 endpoint, none ready" in done.stdout
    assert "endpoints[0].conditions.ready = false" in done.stdout
    done = explain("cluster.local", "SOA", "--admin", admin, "--json", home=tmp_path)
    found: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, found["outcome"], found["cause"]) == (0, "answer", "answered")
    done = explain(DOWN, "NONSENSE", "--admin", admin, home=tmp_path)
    assert (done.returncode, "'NONSENSE' is not a query type" in done.stderr) == (2, True), done


def test_one_answer_process_that_hangs_leaves_the_other_to_explain(headwater: Headwater, tmp_path: Path) -> None:
    first = answer_processes(headwater)[0]
    os.kill(first, signal.SIGSTOP)
    try:
        status, text = headwater.admin(f"/explain?name={DOWN}")
    finally:
        os.kill(first, signal.SIGCONT)
    assert (status, json.loads(text)["cause"]) == (200, "none-ready"), text


def test_questions_that_come_at_once_are_bounded_and_queries_go_on(headwater: Headwater) -> None:
    with concurrent.futures.ThreadPoolExecutor(24) as threads:
        replies = list(threads.map(lambda _: headwater.admin(f"/explain?name={DOWN}")[0], range(48)))
    assert set(replies) <= {200, 503}
    assert 200 in replies
    wait_until(lambda: headwater.admin(f"/explain?name={DOWN}")[0] == 200, 10.0, "it explains again")
    # An explanation is not a query, so it is not counted.
    total = sum(float(line.split()[-1]) for line in headwater.admin("/metrics")[1].splitlines()
                if line.startswith("headwater_queries_total{"))  # fmt: skip
    assert total == 0


def test_a_state_directory_explains_without_a_process(headwater: Headwater, tmp_path: Path) -> None:
    assert headwater.terminate() == 0
    done = explain(DOWN, "--state-dir", headwater.state_dir, home=tmp_path)
    assert (done.returncode, "none ready" in done.stdout) == (3, True), done
    assert "there are no credentials" not in done.stdout  # nothing had to be looked up: no pod is named
    for flags, says in (
        (("--ttl", "77"), "other settings"),
        (("--state-dir", str(tmp_path / "nowhere")), "no store is published there"),
    ):
        done = explain(DOWN, "--state-dir", headwater.state_dir, *flags, home=tmp_path)
        assert (done.returncode, says in done.stderr) == (1, True), done


def test_manifests_explain_without_anything(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(MANIFEST + MORE)
    done = explain("down.default", "--manifests", manifest, home=tmp_path)
    assert (done.returncode, DOWN in done.stdout) == (3, True), done
    manifest.write_text("kind: [")
    done = explain(DOWN, "--manifests", manifest, home=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"headwater: {manifest}:2: not valid YAML"), done
    assert len(done.stderr.splitlines()) == 1


def test_without_an_instance_the_error_says_what_to_do(tmp_path: Path) -> None:
    done = explain(DOWN, "--admin", "127.0.0.1:1", home=tmp_path)
    assert done.returncode == 1
    assert "Connection refused. Does `headwater serve` run" in done.stderr
