"""A store that killed a process is taken back; if the disk refuses, the instance goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from headwater.settings.settings import Settings
from headwater.supervise import supervisor
from headwater.supervise.supervisor import Supervisor


@pytest.mark.parametrize("crash", [Supervisor._crashed, Supervisor._writer_crashed], ids=["answer", "watch"])
def test_store_that_cannot_be_taken_back_stops_nothing(
    crash: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(_: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(supervisor, "discard", refused)
    instance = object.__new__(Supervisor)
    instance.settings = Settings(state_dir=str(tmp_path))
    assert callable(crash)
    crash(instance)
    assert "Read-only file system" in caplog.text
