"""What the chart renders for each case of its ci/ folder, as text to be compared.

python -m tests.chart.expected     write the files again; look at what changed
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import yaml

from tests.harness.helm import CASES, template

FOLDER: Final = Path(__file__).resolve().parent / "golden"


def rendered(case: str, folder: Path) -> str:
    """The case's objects, sorted, without what other files hold: alerts and the dashboard."""
    text = template(folder, None, "--values", CASES[case])
    found = [item for item in yaml.safe_load_all(text) if item]
    for item in found:
        _shorten(item)
    found.sort(key=lambda item: (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]))
    return yaml.safe_dump_all(found, sort_keys=False, width=120)


def _shorten(item: dict[str, Any]) -> None:
    if item["kind"] == "PrometheusRule":
        item["spec"]["groups"] = "files/rules.yaml"
    if "headwater.json" in item.get("data", {}):
        item["data"]["headwater.json"] = "files/dashboard.json"
    for container in item.get("spec", {}).get("containers", ()):
        if container.get("command", [])[:2] == ["python", "-c"]:
            container["command"][2] = "files/ask.py"


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            (FOLDER / f"{case}.yaml").write_text(rendered(case, Path(folder)))
            print(f"{case}.yaml")
    return 0


if __name__ == "__main__":
    sys.exit(main())
