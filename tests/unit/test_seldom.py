"""The rate of log lines that strangers can cause is bounded."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from headwater.process.log import Seldom

if TYPE_CHECKING:
    import pytest


def test_lines_of_a_sort_are_bounded_and_those_left_out_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    log = logging.getLogger("test.seldom")
    seldom = Seldom(2, lambda: now[0])
    log.addFilter(seldom)
    try:
        for number in range(1000):
            log.warning("odd request %d", number)
        log.warning("something else")
        now[0] = 61.0
        log.warning("odd request %d", 1000)
        now[0] = 122.0
        log.warning("odd request %d", 1001)
    finally:
        log.removeFilter(seldom)
    assert caplog.messages == [
        "odd request 0",
        "odd request 1",
        "something else",
        "odd request 1000 (and 998 times before)",
        "odd request 1001",
    ]


def test_sorts_without_end_take_no_memory_without_end() -> None:
    seldom = Seldom(1, lambda: 0.0)
    for number in range(10_000):
        seldom.filter(logging.LogRecord("x", logging.WARNING, "", 0, f"sort {number}", None, None))
    assert len(seldom._seen) <= 100
