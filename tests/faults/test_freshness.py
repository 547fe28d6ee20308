"""The age of the records: in /readyz, in metrics, and with --max-staleness in every answer."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dns.edns
import dns.message
import pytest
from headwater.commands.query import LookupFailed, exchange

from tests.fakeapi import faults
from tests.fakeapi.cluster import APP, app, objects
from tests.fakeapi.server import FakeApiServer
from tests.fakeapi.truth import Truth
from tests.harness.instance import Headwater
from tests.harness.processes import wait_until

_WEB = "web.default.svc.cluster.local"
_STALE, _UNREACHABLE = 3, 22


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[tuple[FakeApiServer, Headwater]]:
    """Run the whole `headwater serve` with its real timing."""
    with FakeApiServer(Truth(objects())) as api:
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(api.kubeconfig())
        with Headwater(folder, "--kubeconfig", kubeconfig, *flags, workers=1) as headwater:
            yield api, headwater


def ask(headwater: Headwater, name: str = _WEB) -> tuple[str, list[int]]:
    """Return the rcode and the extended errors (RFC 8914)."""
    query = dns.message.make_query(name, "A", use_edns=0)
    reply = dns.message.from_wire(exchange(query.to_wire(), headwater.addresses[0], 5.0))
    errors = [int(option.code) for option in reply.options if isinstance(option, dns.edns.EDEOption)]
    return dns.rcode.to_text(reply.rcode()), errors


def resources(headwater: Headwater) -> dict[str, dict[str, Any]]:
    return dict(json.loads(headwater.admin("/readyz")[1])["watch"]["resources"])


def metric(headwater: Headwater, name: str) -> dict[str, float]:
    """Return the samples of a metric by their labels as text."""
    found = re.findall(rf"^{name}(\{{[^}}]*\}})? (\S+)$", headwater.admin("/metrics")[1], re.MULTILINE)
    return {labels: float(value) for labels, value in found}


def test_first_answer_of_a_fresh_start_is_not_stale(tmp_path: Path) -> None:
    with serving(tmp_path, "--max-staleness", "5m") as (_, headwater):
        assert ask(headwater) == ("NOERROR", [])


def test_old_truth_is_not_told(tmp_path: Path) -> None:
    """SERVFAIL with extended error 22 without a connection, and 3 with a silent connection."""
    with serving(tmp_path, "--max-staleness", "1s") as (api, headwater):
        wait_until(lambda: ask(headwater) == ("NOERROR", []), 10.0, "answers", interval=0.02)
        began = time.monotonic()
        api.down()
        wait_until(lambda: ask(headwater) == ("SERVFAIL", [_UNREACHABLE]), 10.0, "SERVFAIL", interval=0.02)
        assert time.monotonic() - began > 0.7
        assert ask(headwater, "never.default.svc.cluster.local")[0] == "SERVFAIL"

        api.up()
        wait_until(lambda: ask(headwater) == ("NOERROR", []), 10.0, "answers", interval=0.02)

        api.behaviour.bookmarks = 60.0
        wait_until(lambda: ask(headwater) == ("SERVFAIL", [_STALE]), 10.0, "SERVFAIL", interval=0.02)
        api.bookmark()
        wait_until(lambda: ask(headwater) == ("NOERROR", []), 10.0, "answers", interval=0.02)


def test_restart_does_not_make_old_truth_young(tmp_path: Path) -> None:
    """A restart of the watch process, or of the whole instance, without a reachable API server."""
    with serving(tmp_path, "--max-staleness", "1s") as (api, headwater):
        api.down()
        wait_until(lambda: ask(headwater)[0] == "SERVFAIL", 10.0, "SERVFAIL", interval=0.02)
        old = headwater.kill9("watch")
        wait_until(lambda: headwater.pids().get("watch", old) != old, 10.0, "the watch process is back")
        assert {ask(headwater)[0] for _ in range(20)} == {"SERVFAIL"}
        headwater.terminate()
        headwater.start(wait=False)
        wait_until(lambda: headwater.admin("/readyz")[0] > 0, 20.0, "the admin page", ignoring=(OSError,))
        wait_until(lambda: ask(headwater)[0] == "SERVFAIL", 10.0, "a reply", ignoring=(LookupFailed,))
        assert {ask(headwater)[0] for _ in range(20)} == {"SERVFAIL"}
        api.up()
        wait_until(lambda: ask(headwater) == ("NOERROR", []), 10.0, "answers", interval=0.02)


def test_without_the_flag_old_truth_is_told_for_ever_and_its_age_is_known(tmp_path: Path) -> None:
    """/readyz and metrics say for each resource whether it is
    connected and when it was last heard.
    """
    with serving(tmp_path) as (api, headwater):
        wait_until(lambda: all(item["connected"] for item in resources(headwater).values()), 10.0, "all are connected")
        api.down()

        def old() -> bool:
            return all(not item["connected"] and item["age_seconds"] > 1.2 for item in resources(headwater).values())

        wait_until(old, 10.0, "the age grows")
        assert headwater.is_ready()
        assert ask(headwater) == ("NOERROR", [])
        assert all("unreachable" in item["errors"] for item in resources(headwater).values())
        assert min(metric(headwater, "headwater_watch_age_seconds").values()) > 1.2
        api.truth.put(app(2))
        api.up()
        wait_until(lambda: headwater.records(APP) == ["10.44.9.2"], 10.0, "the change", interval=0.01)
        wait_until(
            lambda: all(item["age_seconds"] < 1.0 for item in resources(headwater).values()), 10.0, "all is young"
        )


def test_readyz_says_what_is_missing(tmp_path: Path) -> None:
    with FakeApiServer(Truth(objects())) as api:
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(api.kubeconfig())
        api.on("list", "endpointslices", faults.status(403), times=float("inf"))
        headwater = Headwater(tmp_path, "--kubeconfig", kubeconfig, workers=1)
        try:
            headwater.start(wait=False)

            def explained() -> bool:
                status, text = headwater.admin("/readyz")
                found = json.loads(text)
                assert status == 503
                assert found["ready"] is False
                what, _, why = found["watch"]["detail"].partition(": ")
                assert what == "waiting for the first complete list of endpointslices", found
                assert "the role needs the verb 'list' on 'endpointslices'" in why
                assert found["watch"]["resources"]["endpointslices"]["errors"] == {"403": 1}
                return True

            wait_until(explained, 20.0, "/readyz explains itself", ignoring=(OSError,))
            wait_until(lambda: ask(headwater)[0] == "SERVFAIL", 10.0, "a reply", ignoring=(LookupFailed,))
        finally:
            headwater.close()


@pytest.mark.parametrize("flag", ["--max-staleness", "--audit-interval"])
@pytest.mark.parametrize("text", ["5", "-1s", "1d", "soon", "1s1m"])
def test_duration_that_is_none_stops_the_start(flag: str, text: str, tmp_path: Path) -> None:
    headwater = Headwater(tmp_path, "--manifests", tmp_path, workers=1)
    try:
        with pytest.raises(Exception, match=flag):
            Headwater(tmp_path, "--manifests", tmp_path, flag, text, workers=1)
    finally:
        headwater.close()
