"""A real Prometheus scrapes two instances: panels have data, alerts fire and clear, no others."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator

import pytest

from tests.harness.processes import wait_until
from tests.monitoring.scene import Fake, fake, until_replaced
from tools import monitoring

#: Durations of the rules are divided by this: an hour is half a minute.
FASTER = 120.0
SOON = 30.0


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fake]:
    with fake(tmp_path_factory.mktemp("live"), faster=FASTER) as found:
        yield found


def test_every_query_of_the_dashboard_returns_data(live: Fake) -> None:
    # Before Prometheus knew its targets they were absent: it looks for new ones every 5 seconds,
    # which are ten minutes here.
    def settled() -> bool:
        live.goes_on()
        up = live.prometheus.query('up{job="headwater"} == 1')
        return len(up) == len(live.instances) and not live.prometheus.firing()

    wait_until(settled, SOON, "both are scraped")
    live.prometheus.begin()
    waiting = {(panel.title, legend): query for panel in monitoring.panels() for query, legend in panel.queries}

    def all_seen() -> bool:
        live.goes_on()
        for where, query in list(waiting.items()):
            values = [value for _, value in live.prometheus.panel(query)]
            if values and not all(map(math.isnan, values)):  # a zone that nobody asks has no quantile
                del waiting[where]
        assert not waiting, sorted(waiting)
        return True

    wait_until(all_seen, SOON, "every query returns data", interval=0.2)
    assert live.prometheus.fired() == set(), "an ordinary start gives no alert"


def test_a_stopped_instance_and_a_dying_process_are_told_apart(live: Fake) -> None:
    prometheus = live.prometheus
    prometheus.begin()
    stopped, dying = {("HeadwaterInstanceDown", "a")}, {("HeadwaterProcessRestarts", "b")}
    os.kill(live.instances["a"].process.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: live.goes_on() and prometheus.firing() == stopped, SOON, "the stopped one is down")
        told = prometheus.annotations()["HeadwaterInstanceDown"][0]
        assert told["summary"] == "Headwater on a does not answer Prometheus."
        assert told["runbook_url"] == "docs/operations.md#headwaterinstancedown"
    finally:
        os.kill(live.instances["a"].process.pid, signal.SIGCONT)
    wait_until(lambda: live.goes_on() and not prometheus.firing(), SOON, "it is back")
    for _ in range(3):
        until_replaced(live.instances["b"], "watch", live.instances["b"].kill9("watch"))
    wait_until(lambda: live.goes_on() and prometheus.firing() == dying, SOON, "three deaths are told")
    assert prometheus.fired() == stopped | dying
    # Half an hour after the last: 15 seconds here.
    wait_until(lambda: live.goes_on() and not prometheus.firing(), 2 * SOON, "it clears")
    assert prometheus.fired() == stopped | dying
