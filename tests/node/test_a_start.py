"""A node starts and ends, and deploy/base starts on it without a warning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.node import ground
from tests.node.ground import BASE
from tests.node.machine import CGROUPS, Machine, require_node
from tests.node.rows import marks

if TYPE_CHECKING:
    import pytest

pytestmark = marks


def test_a_start_has_no_warnings(machine: Machine) -> None:
    """Probes do not fail at an ordinary start: an operator would read them as a fault."""
    assert not ground.warnings(machine, BASE.namespace)


def test_nothing_is_left_of_earlier_nodes(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One kill of the first process ends all the others, and its cgroups can be removed."""
    archives = require_node()
    with Machine(tmp_path_factory.mktemp("ends") / "state", list(archives.values())) as machine:
        assert machine.pids("^containerd")
        groups = [group for group in CGROUPS.glob(f"*/{machine._group}") if group.is_dir()]
        assert groups
    assert not any(group.exists() for group in groups)
