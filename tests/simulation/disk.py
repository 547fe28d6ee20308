"""The store's file in the simulation: writes may be refused, torn or slow.

LMDB opens a file once per process. Here all simulated processes are in one, so they share one
environment, which is closed when the last of them has closed it.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal, get_args
from unittest import mock

from headwater.store import environment
from headwater.store.environment import Store, StoreFull, Transaction

Fault = Literal["full", "full at the commit", "dies before", "dies in it", "dies after", "slow"]
FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)


class Died(BaseException):
    """The process has died. Not an Exception, because nothing in the process may catch it."""


class _Shared:
    """An environment that several processes have open, as one of them sees it."""

    def __init__(self, files: Files, folder: Path) -> None:
        self._files = files
        self._folder = folder
        self._open = True
        self._real = files.take(folder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._files.give_back(self._folder)


class Files:
    """The open environments, and how many processes have opened each."""

    def __init__(self) -> None:
        self.open_really = environment._open
        self._open: dict[Path, tuple[Any, int]] = {}

    def open(self, folder: Path, *, readonly: bool) -> _Shared:
        if readonly and not (folder / "data.mdb").exists():
            raise FileNotFoundError(folder)
        return _Shared(self, folder)

    def take(self, folder: Path) -> Any:
        env, users = self._open.get(folder, (None, 0))
        env = env or self.open_really(folder, readonly=False)
        self._open[folder] = env, users + 1
        return env

    def give_back(self, folder: Path) -> None:
        env, users = self._open.pop(folder)
        if users == 1:
            env.close()
        else:
            self._open[folder] = env, users - 1

    def close(self) -> None:
        for env, _ in self._open.values():
            env.close()
        self._open.clear()


class Disk:
    """The fates of writes."""

    def __init__(self) -> None:
        self.writes = 0
        self.planned: dict[int, Fault] = {}
        """The faults of writes, by the write's number from the start."""
        self.full_every = 0
        """While the disk is full, one write in this many finds no room; 0 if it is not full."""
        self.unpublished = 0
        """How many further publications are refused."""
        self.meanwhile: Callable[[], None] = lambda: None
        """Called during a slow write."""
        self.after: Callable[[], None] = lambda: None
        """Called after a write, and after a publication."""
        self.note: Callable[[str], None] = lambda _: None
        self.quiet = False
        """Whether there are no faults, for a store that only serves for a comparison."""

    def plan(self, after: int, fault: Fault) -> None:
        self.planned[self.writes + after] = fault

    def heal(self) -> None:
        self.planned.clear()
        self.full_every = self.unpublished = 0

    def _next(self) -> Fault | None:
        self.writes += 1
        fault = self.planned.pop(self.writes - 1, None)
        if fault is None and self.full_every and self.writes % self.full_every == 0:
            fault = "full at the commit" if self.writes % 2 else "full"
        if fault is not None:
            self.note(f"disk: write {self.writes - 1}: {fault}")
        return fault

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Put every store that is opened during the block on this disk."""
        files = Files()
        write, publish = Store.write, Store.publish
        disk = self

        def faulty_write(store: Store, work: Callable[[Transaction], Any]) -> Any:
            if disk.quiet:
                return write(store, work)
            fault = disk._next()
            if fault == "full":
                raise StoreFull("no space left")
            if fault == "dies before":
                raise Died

            def torn(txn: Transaction) -> Any:
                result = work(txn)
                if fault == "dies in it":
                    raise Died
                if fault == "full at the commit":
                    raise OSError(errno.ENOSPC, "no space left")
                if fault == "slow":
                    disk.meanwhile()
                return result

            result = write(store, torn)
            if fault == "dies after":
                raise Died
            disk.after()
            return result

        def faulty_publish(store: Store) -> None:
            if disk.unpublished and not disk.quiet:
                disk.unpublished -= 1
                disk.note("disk: the publication is refused")
                raise StoreFull("no space left")
            publish(store)
            if not disk.quiet:
                disk.after()

        with (
            mock.patch.object(environment, "_open", files.open),
            mock.patch.object(Store, "write", faulty_write),
            mock.patch.object(Store, "publish", faulty_publish),
        ):
            try:
                yield
            finally:
                files.close()
