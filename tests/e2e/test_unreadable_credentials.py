"""A whole instance with unreadable credentials serves its stored records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakeapi.cluster import APP, app, objects
from tests.fakeapi.server import FakeApiServer
from tests.fakeapi.truth import Truth
from tests.harness.instance import Headwater
from tests.harness.processes import wait_until

_WEB = "web.default.svc.cluster.local"
_ADDRESSES = ["10.44.0.1", "10.44.0.2", "10.44.0.3"]
_DEADLINE = 30.0


@pytest.fixture
def api() -> Iterator[FakeApiServer]:
    with FakeApiServer(Truth(objects())) as running:
        yield running


def serves(headwater: Headwater) -> bool:
    return all(headwater.records(_WEB, worker=worker) == _ADDRESSES for worker in (0, 1))


def tells(headwater: Headwater) -> bool:
    """Return whether /readyz is ready, and says, as does a metric,
    that credentials cannot be read.
    """
    status, page = headwater.admin("/readyz")
    metric = 'headwater_watch_errors_total{code="credentials",resource="services"}'
    return status == 200 and "--kubeconfig" in page and metric in headwater.admin("/metrics")[1]


@pytest.mark.parametrize("restarted", ["watch", "everything"])
@pytest.mark.parametrize("spoil", ["empty", "half of it", "missing"])
def test_store_is_served_while_the_kubeconfig_cannot_be_read(
    spoil: str, restarted: str, api: FakeApiServer, tmp_path: Path
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    good = api.kubeconfig()
    kubeconfig.write_text(good)
    with Headwater(tmp_path, "--kubeconfig", kubeconfig) as headwater:
        wait_until(lambda: serves(headwater), _DEADLINE, "it serves")
        if restarted == "everything":
            assert headwater.terminate() == 0
        if spoil == "missing":
            kubeconfig.unlink()
        else:
            kubeconfig.write_text(good[: len(good) // 2] if spoil == "half of it" else "")
        if restarted == "everything":
            headwater.start()
        else:
            headwater.kill9("watch")
        api.truth.put(app(2))
        wait_until(lambda: tells(headwater), _DEADLINE, "it says so")
        assert serves(headwater)
        assert headwater.records(APP) == ["10.44.9.1"]
        kubeconfig.write_text(good)
        wait_until(lambda: headwater.records(APP) == ["10.44.9.2"], _DEADLINE, "it follows the API server again")
        assert api.count("list") == 3
        assert headwater.terminate() == 0


@pytest.mark.parametrize("text", [None, "", "{"], ids=["missing", "empty", "half of it"])
def test_first_start_ends_with_one_line_that_names_the_flag(
    text: str | None, api: FakeApiServer, tmp_path: Path
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    if text is not None:
        kubeconfig.write_text(text)
    headwater = Headwater(tmp_path, "--kubeconfig", kubeconfig)
    try:
        headwater.exec()
        process = headwater.process
        wait_until(lambda: not process.running, _DEADLINE, "it has ended")
        lines = headwater.log.read_text().splitlines()
        assert len([line for line in lines if "--kubeconfig" in line]) == 1, lines
        assert not any("Traceback" in line for line in lines), lines
        assert process.terminate() == 2
        assert not api.count()
    finally:
        headwater.close()
