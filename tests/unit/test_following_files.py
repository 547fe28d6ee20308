"""The thread that follows manifests outlives whatever happens to them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import watchfiles
from headwater.cluster import files
from headwater.cluster.files import Manifests, signature
from headwater.process import control
from headwater.process.control import Replied
from headwater.process.progress import Mark
from headwater.settings.settings import Settings
from headwater.store.environment import Store
from headwater.store.identity import Identity
from headwater.writer.process import Changes, Watcher

from tests.unit.test_files import service, write


class Followed:
    """A watcher whose files are looked at when the test says so; what it reads is in `read`."""

    def __init__(self, folder: Path) -> None:
        self.files = folder / "files"
        write(self.files / "a.yaml", service("a"))
        settings = Settings(manifests=(str(self.files),), state_dir=str(folder / "state"))
        store, _ = Store.open(folder / "state", Identity("files", ""))
        self.changes: Changes = Changes()
        self.watcher = Watcher(settings, store, changes=self.changes)
        self.read: list[int] = []

    def note(self) -> None:
        """How much was read since the last note."""
        self.read.append(self.changes.qsize())
        while not self.changes.empty():
            self.changes.get_nowait()


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    return Followed(tmp_path)


def test_files_that_cannot_be_looked_at_for_a_while_are_read_later(
    followed: Followed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    true_signature: Any = signature
    details: list[str] = []

    def stale(_: object) -> Any:
        raise OSError(116, "Stale file handle")

    def looks(*_roots: object, **_options: object) -> Iterator[None]:
        followed.note()
        monkeypatch.setattr(files, "signature", stale)
        write(followed.files / "b.yaml", service("b"))
        for _ in range(3):
            yield
            details.append(followed.watcher.snapshot().detail)
        followed.note()
        monkeypatch.setattr(files, "signature", true_signature)
        yield
        followed.note()
        details.append(followed.watcher.snapshot().detail)

    monkeypatch.setattr(watchfiles, "watch", looks)
    followed.watcher._follow_files()
    assert [bool(count) for count in followed.read] == [True, False, True]
    assert "Stale file handle" in details[0]
    assert "Stale" not in details[-1]
    assert caplog.text.count("Stale file handle") == 1


def test_files_are_followed_where_the_kernel_has_no_watch_for_them(
    followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> Iterator[None]:
        raise OSError(24, "Too many open files")

    def wait(_: float) -> bool:
        followed.note()
        if len(followed.read) == 1:
            write(followed.files / "b.yaml", service("b"))
        return len(followed.read) == 3

    monkeypatch.setattr(watchfiles, "watch", refused)
    monkeypatch.setattr(followed.watcher.stopping, "wait", wait)
    followed.watcher._follow_files()
    assert [bool(count) for count in followed.read] == [True, True, False]


def test_what_is_wrong_with_any_files_can_be_told_to_the_supervisor(followed: Followed) -> None:
    for number in range(1000):
        write(followed.files / f"{'long' * 50}-{number}.yaml", "{")
    followed.watcher._look_at_files(Manifests([str(followed.files)]))
    snapshot = followed.watcher.snapshot()
    assert "not valid YAML" in snapshot.detail
    assert len(control.encode(Replied(1, Mark(), snapshot))) < control.MAX_MESSAGE


def test_a_files_name_that_is_no_text_can_be_told_to_the_supervisor(followed: Followed) -> None:
    (followed.files / os.fsdecode(b"\xff.yaml")).write_text("{")
    followed.watcher._look_at_files(Manifests([str(followed.files)]))
    snapshot = followed.watcher.snapshot()
    assert r"\udcff.yaml" in snapshot.detail
    assert control.encode(Replied(1, Mark(), snapshot))
