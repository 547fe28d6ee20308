"""A real Prometheus on loopback, with the project's rules, whose targets a test chooses.

with Prometheus(tmp_path, faster=60) as prometheus:
    prometheus.scrape("headwater", {"a": headwater.admin_port})
    wait_until(lambda: prometheus.firing() == {("HeadwaterInstanceDown", "a")}, …)
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml

from tests.harness.processes import Running, free_port, require_tool, wait_until
from tools import monitoring

START_TIMEOUT: Final = 30.0  # seconds
NAMESPACE: Final = "kube-system"
_BY: Final = "group by (alertname, instance)"


class Prometheus:
    """It scrapes and evaluates each second. `faster` divides every duration of the rules."""

    def __init__(self, folder: Path, faster: float) -> None:
        self.folder = folder / "prometheus"
        self.faster = faster
        self._port = free_port()
        self._process: Running | None = None
        self._since = time.monotonic()

    def __enter__(self) -> Self:
        self.folder.mkdir()
        (self.folder / "rules.yaml").write_text(yaml.safe_dump(monitoring.rules(faster=self.faster)))
        # As in deploy/monitoring/prometheus.yaml, but for how targets are found.
        jobs = [
            {"job_name": job, "file_sd_configs": [{"files": [f"{job}.json"], "refresh_interval": "1s"}]}
            for job in ("headwater", "coredns")
        ]
        pace = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config = {"global": pace, "rule_files": ["rules.yaml"], "scrape_configs": jobs}
        (self.folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        for job in ("headwater", "coredns"):
            self.scrape(job, {})
        command: list[str | Path] = [
            require_tool("prometheus"), f"--config.file={self.folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self.folder / 'data'}", f"--web.listen-address=127.0.0.1:{self._port}",
            "--log.level=warn",
        ]  # fmt: skip
        self._process = Running("prometheus", command, folder_log(self.folder), cwd=self.folder)
        wait_until(self._is_ready, START_TIMEOUT, "Prometheus is ready")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()

    def scrape(self, job: str, ports: Mapping[str, int]) -> None:
        """From now on the job has these targets: ports by the name of their instance."""
        targets = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": name, "namespace": NAMESPACE}}
            for name, port in ports.items()
        ]
        new = self.folder / f"{job}.json.new"
        new.write_text(json.dumps(targets))
        new.replace(self.folder / f"{job}.json")

    def _is_ready(self) -> bool:
        assert self._process is not None
        self._process.require_running()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The labels and values that it has now; the error's text is in the failure."""
        data = urllib.parse.urlencode({"query": expression}).encode()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/api/v1/query", data, timeout=10) as response:
                found: dict[str, Any] = json.load(response)
        except urllib.error.HTTPError as error:
            raise ValueError(f"{expression}: {error.read().decode()}") from None
        assert found["data"]["resultType"] == "vector", expression
        return [(item["metric"], float(item["value"][1])) for item in found["data"]["result"]]

    def panel(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """A query of the dashboard, as Grafana asks it with its variables as they are at first."""
        for name, value in (("$job", "headwater"), ("$coredns", "coredns"), ("$instance", ".*")):
            expression = expression.replace(name, value)
        return self.query(expression.replace("$__rate_interval", "5s"))

    def firing(self) -> set[tuple[str, str]]:
        """(alert, instance) of what fires now."""
        return self._alerts(f'{_BY} (ALERTS{{alertstate="firing"}})')

    def begin(self) -> None:
        """What fires from now on is in `fired`."""
        self._since = time.monotonic()

    def fired(self) -> set[tuple[str, str]]:
        """What fires or has fired since `begin`."""
        # In milliseconds, and not one more: what fired just before `begin` is not meant.
        passed = max(1, int((time.monotonic() - self._since) * 1000))
        return self._alerts(f'{_BY} (max_over_time(ALERTS{{alertstate="firing"}}[{passed}ms]))')

    def _alerts(self, expression: str) -> set[tuple[str, str]]:
        return {(labels["alertname"], labels.get("instance", "")) for labels, _ in self.query(expression)}

    def annotations(self) -> dict[str, list[dict[str, str]]]:
        """Of what is pending or fires, by alert, with their templates filled in."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/api/v1/alerts", timeout=10) as response:
            found: dict[str, list[dict[str, str]]] = {}
            for alert in json.load(response)["data"]["alerts"]:
                found.setdefault(alert["labels"]["alertname"], []).append(alert["annotations"])
            return found

    def cost(self) -> float:
        """Seconds of a core, so far."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def folder_log(folder: Path) -> Path:
    return folder / "prometheus.log"
