"""A small world that keeps a history, with a clock that the test moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from headwater.explain.history import answered_at, page
from headwater.explain.told import Answered, Page, Told
from headwater.process.control import History
from headwater.records.compiler import Compiler
from headwater.settings.settings import Settings
from headwater.store.environment import Reader, Store
from headwater.writer.chronicle import Chronicle
from headwater.writer.ledger import Ledger

from tests.harness.small import Small

#: In seconds since 1970; every commit is a second after the one before.
BEGAN = 1_800_000_000.0


class Chronicled(Small):
    """`Small`, whose writer keeps a history.

    Each `commit` is a writer's whole life, with a gap before it.
    """

    def __init__(self, state_dir: Path, settings: Settings | None = None, *, from_files: bool = False) -> None:
        super().__init__(state_dir, settings)
        self.now = BEGAN
        self.from_files = from_files
        self.chronicle: Chronicle | None = None

    def sized(self, size: int) -> Chronicled:
        """The same state directory with another size of the history."""
        other = Chronicled(self.state_dir, replace(self.settings, history=size), from_files=self.from_files)
        other.now = self.now
        return other

    def clock(self) -> float:
        return self.now

    def open(self) -> tuple[Store, Ledger]:
        store, self.why = Store.open(self.state_dir, self.identity)
        compiler = Compiler(self.settings, self.name_servers, lambda *report: self.reports.append(report))
        self.chronicle = Chronicle(self.settings.history, compiler, self.clock, from_files=self.from_files)
        return store, Ledger(store, compiler, self.resources, clock=self.clock, chronicle=self.chronicle)

    def page(self, **asked: Any) -> Page:
        """Entries, as an answer process reads them."""
        reader = Reader(self.state_dir, self.identity)
        reader.follow()
        snapshot = reader.begin()
        try:
            return page(snapshot, self.settings, History(**({"limit": 1000} | asked)))
        finally:
            if snapshot is not None:
                snapshot.close()
            reader.close()

    def told(self, **asked: Any) -> list[Told]:
        """All entries, the oldest first."""
        found: list[Told] = []
        before = 0
        while True:
            part = self.page(**asked, before=before)
            found += part.entries
            if part.next is None:
                return found[::-1]
            before = part.next

    def changes(self, **asked: Any) -> list[Told]:
        """Entries that are no gaps, the oldest first."""
        return [entry for entry in self.told(**asked) if entry.kind == "change"]

    def gaps(self) -> list[str]:
        """Gaps in words, without their time."""
        return [entry.text.partition(" gap: ")[2] for entry in self.told() if entry.kind == "gap"]

    def at(self, name: str, at: float, qtype: str = "A") -> Answered:
        """What was answered at a time."""
        reader = Reader(self.state_dir, self.identity)
        reader.follow()
        snapshot = reader.begin()
        try:
            return answered_at(snapshot, self.settings, name, qtype, at, self.now)
        finally:
            if snapshot is not None:
                snapshot.close()
            reader.close()
