"""A real API server takes every manifest of `examples/` as it stands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import yaml

if TYPE_CHECKING:
    from tests.harness.plane import Plane

EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"
MANIFESTS: Final = sorted(
    file for file in EXAMPLES.rglob("*.yaml") if file.parent.name not in ("statefulset", "policy")
)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda file: file.stem)
def test_the_api_server_takes_it(plane: Plane, manifest: Path) -> None:
    """Unknown fields are errors, and so is what the server's own validation refuses."""
    done = plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", manifest)
    assert len(done.splitlines()) == len(list(yaml.safe_load_all(manifest.read_text())))


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda file: file.stem)
def test_members_have_names(manifest: Path) -> None:
    """Each StatefulSet's serviceName is a headless Service here, which selects its pods."""
    objects = list(yaml.safe_load_all(manifest.read_text()))
    services = {item["metadata"]["name"]: item["spec"] for item in objects if item["kind"] == "Service"}
    for item in objects:
        if item["kind"] == "StatefulSet":
            service = services[item["spec"]["serviceName"]]
            assert service["clusterIP"] == "None"
            labels = item["spec"]["template"]["metadata"]["labels"]
            assert service["selector"].items() <= labels.items()


@pytest.mark.parametrize(
    "manifest", [file for file in MANIFESTS if file.parent != EXAMPLES], ids=lambda file: file.stem
)
def test_there_is_nothing_to_advise(manifest: Path) -> None:
    """`headwater check --services` is quiet about what we recommend (docs/advice.md)."""
    command = [sys.executable, "-m", "headwater", "check", "--services", "--reverse-zone", "10.244.0.0/16"]
    done = subprocess.run([*command, "--manifests", manifest], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
