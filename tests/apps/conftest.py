"""Prints what the tests of this folder measured, at the end of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.apps import report

if TYPE_CHECKING:
    import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if report.ROWS:
        terminalreporter.write_line(f"\n{report.text()}\n")
