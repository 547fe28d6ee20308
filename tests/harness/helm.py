"""The real Helm, on the chart of deploy/helm."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from tests.harness.processes import require_tool

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "deploy" / "helm" / "headwater"
#: Values of the matrix, by name.
CASES: Final = {file.name.removesuffix("-values.yaml"): file for file in sorted((CHART / "ci").glob("*.yaml"))}

Object = dict[str, Any]


class HelmError(Exception):
    """Helm refused; the text is its stderr."""


def helm(*args: str | Path, folder: Path, values: Mapping[str, Any] | None = None, timeout: float = 90) -> str:
    """Run Helm and return its output. Nothing is read from or written to the user's own folders.

    Raises HelmError with its stderr.
    """
    words = [str(require_tool("helm")), *map(str, args)]
    if values is not None:
        words += ["--values", "-"]
    homes = {f"HELM_{name}_HOME": str(folder / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
    done = subprocess.run(
        words, input=None if values is None else json.dumps(dict(values)), capture_output=True, text=True,
        timeout=timeout, check=False, env=os.environ | homes | {"HOME": str(folder)},
    )  # fmt: skip
    if done.returncode:
        raise HelmError(done.stderr.strip())
    return done.stdout


def template(
    folder: Path, values: Mapping[str, Any] | None = None, *more: str | Path, release: str = "headwater"
) -> str:
    """`helm template` in the namespace headwater."""
    return helm("template", release, CHART, "--namespace", "headwater", *more, folder=folder, values=values or {})


def objects(text: str) -> list[Object]:
    return [item for item in yaml.safe_load_all(text) if item]


def only(found: list[Object], kind: str) -> Object:
    (one,) = [item for item in found if item["kind"] == kind and "helm.sh/hook" not in annotations_of(item)]
    return one


def annotations_of(item: Object) -> dict[str, str]:
    return dict(item["metadata"].get("annotations", {}))


def nested(path: str, value: Any) -> dict[str, Any]:
    """{"a": {"b": value}} for "a.b"."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


def merged(*parts: dict[str, Any]) -> dict[str, Any]:
    """Values put together as Helm does: mappings are merged, all else is replaced."""
    whole: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            old = whole.get(key)
            whole[key] = merged(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
    return whole
