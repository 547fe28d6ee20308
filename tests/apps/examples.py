"""The manifests of `examples/`: the tests run what they configure."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path(__file__).resolve().parents[2] / "examples"


def file(system: str) -> Path:
    return FOLDER / system / f"{system}.yaml"


def objects(system: str) -> list[dict[str, Any]]:
    """Return the objects of a system's example."""
    return list(yaml.safe_load_all(file(system).read_text()))


def one(system: str, kind: str) -> dict[str, Any]:
    """Return the first object of a kind."""
    return next(item for item in objects(system) if item["kind"] == kind)


def config(system: str) -> dict[str, str]:
    """Return the files of the example's ConfigMap."""
    return dict(one(system, "ConfigMap")["data"])


def ports(system: str) -> dict[str, int]:
    """Return the ports of the example's headless Service, by name."""
    return {port["name"]: port["port"] for port in one(system, "Service")["spec"]["ports"]}
