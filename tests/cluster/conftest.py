"""One control plane for all tests in this folder, started for the first that needs it."""

from __future__ import annotations

import contextlib
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.harness.plane import TOOLS, Plane, PlaneError
from tests.harness.processes import require_tool

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs the control plane; the hook sees the items of all folders."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """Yield the control plane of this test run. A test that stops a component starts it again."""
    for name in TOOLS:
        require_tool(name)
    with Plane(tmp_path_factory.mktemp("plane")) as running:
        yield running


@pytest.fixture
def namespace(plane: Plane, request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield a namespace for one test; it is deleted in the background."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40].strip("-")
    name = f"{words}-{secrets.token_hex(3)}"
    plane.api("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    with contextlib.suppress(PlaneError, OSError):  # a test may have deleted it, or left no server to ask
        plane.api("DELETE", f"/api/v1/namespaces/{name}")
