"""One node for all the tests, and the table of what was seen on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.node import ground
from tests.node.machine import Machine, require_node
from tests.node.rows import ROWS, report

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Yield the node, with deploy/base and what is asked for on it."""
    archives = require_node()
    with Machine(tmp_path_factory.mktemp("node") / "state", list(archives.values())) as machine:
        ground.install_web(machine)
        ground.install_base(machine)
        yield machine


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if ROWS:
        terminalreporter.write("\n" + report(ROWS) + "\n")
