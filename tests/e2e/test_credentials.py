"""Unusable credentials end a first start; after any later start they are tried again."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.fakeapi.server import FakeApiServer
from tests.fakeapi.truth import Truth
from tests.harness.instance import Headwater
from tests.harness.processes import wait_until

if TYPE_CHECKING:
    from pathlib import Path

SETTLE: Final = 30.0
NAME: Final = "dns-version.cluster.local"


def watch(headwater: Headwater) -> dict[str, Any]:
    return dict(json.loads(headwater.admin("/readyz")[1])["watch"])


@pytest.mark.slow
def test_credentials_that_are_gone_later_are_tried_again_and_answers_go_on(tmp_path: Path) -> None:
    with FakeApiServer(Truth()) as api:
        file = tmp_path / "kubeconfig"
        file.write_text(api.kubeconfig())
        with Headwater(tmp_path, "--kubeconfig", file) as headwater:
            good = file.read_text()
            file.write_text("")  # it is just being written
            supervisor = headwater.pids()["supervisor"]
            headwater.kill9("watch")
            wait_until(lambda: "--kubeconfig" in watch(headwater)["detail"], SETTLE, "/readyz says why")
            assert headwater.is_ready(), "what the store holds is served"
            assert all(headwater.records(NAME, "TXT", worker=worker) for worker in (0, 1))
            file.write_text(good)
            wait_until(
                lambda: watch(headwater)["up"] and watch(headwater)["detail"] == "" and watch(headwater)["ready"],
                SETTLE,
                "it watches again",
            )
            assert headwater.pids()["supervisor"] == supervisor


def test_credentials_that_cannot_be_used_end_the_first_start_with_a_line(tmp_path: Path) -> None:
    with FakeApiServer(Truth()) as api:
        file = tmp_path / "kubeconfig"
        user = {"tokenFile": "/nowhere"}
        file.write_text(api.kubeconfig(user=user))
        headwater = Headwater(tmp_path, "--kubeconfig", file)
        try:
            done = subprocess.run(headwater.command(), capture_output=True, text=True, timeout=SETTLE, check=False)
        finally:
            headwater.close()
    assert done.returncode == 2
    assert any("--kubeconfig" in line and "ERROR" in line for line in done.stderr.splitlines())
    assert "Traceback" not in done.stderr
