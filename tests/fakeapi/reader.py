"""An answer process's view of the store, a prober, and the comparison
of the store with the truth.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TypeVar

import dns.message
from headwater.answer.resolver import Resolver
from headwater.cluster.changes import Change, ListComplete, ListPageArrived
from headwater.cluster.objects import OddObject, Resource, decode
from headwater.cluster.source import selectors_of, source_of
from headwater.records.compiler import Compiler
from headwater.settings.settings import Settings
from headwater.store.environment import Reader, Snapshot, Store
from headwater.store.identity import Identity
from headwater.writer.ledger import Ledger
from headwater.writer.lists import version_key
from headwater.writer.process import required_resources

from tests.fakeapi.truth import Truth
from tests.harness import small

#: The sub-databases that are compared byte by byte. `meta` has versions and times, and `staging`
#: has lists that did not end.
_COMPARED: Final = ("objects", "slices", "pods", "hosts", "addresses", "records")
#: Between two rounds of the prober, in seconds.
_ROUND: Final = 0.01

_T = TypeVar("_T")

Answer = tuple[str, frozenset[str]]
"""An rcode, or NODATA, and the rdata of the answer section."""


def identity_of(settings: Settings) -> Identity:
    return Identity(source_of(settings), settings.records_fingerprint())


class View:
    """A state directory as an answer process sees it.

    Thread-safe. A process may open only one at a time.
    """

    def __init__(self, settings: Settings) -> None:
        self._reader = Reader(Path(settings.state_dir), identity_of(settings))
        self._resolver = Resolver(self._reader, settings)
        self._lock = threading.Lock()

    @property
    def reader(self) -> Reader:
        """What it reads the store with."""
        return self._reader

    def _message(self, name: str, qtype: str) -> dns.message.Message:
        query = dns.message.make_query(name, qtype)
        with self._lock:
            self._reader.follow()
            snapshot = self._reader.begin()
            try:
                reply = self._resolver.answer(query.to_wire(), snapshot)
            finally:
                if snapshot is not None:
                    snapshot.close()
        assert isinstance(reply, bytes), f"{name} is answered elsewhere"
        return dns.message.from_wire(reply)

    def ask(self, name: str, qtype: str = "A") -> Answer:
        message = self._message(name, qtype)
        return small.status(message), frozenset(small.answers(message, qtype))

    def version(self, resource: Resource) -> str:
        """Return the version up to which the store has a resource; "" for none."""
        return self._read(lambda snapshot: (snapshot.meta(version_key(resource)) or b"").decode(), "")

    def is_ready(self) -> bool:
        """Return whether all records are made."""
        return self._read(self._reader.is_ready, False)

    def _read(self, work: Callable[[Snapshot], _T], otherwise: _T) -> _T:
        """Return the result of `work` on the store as it is now; `otherwise` without one."""
        with self._lock:
            self._reader.follow()
            snapshot = self._reader.begin()
            if snapshot is None:
                return otherwise
            try:
                return work(snapshot)
            finally:
                snapshot.close()

    def serial(self) -> int:
        """Return the serial of the SOA."""
        return int(self._message("cluster.local", "SOA").answer[0][0].serial)

    def close(self) -> None:
        with self._lock:
            self._reader.close()


class Prober:
    """Asks for names all the time and keeps every wrong answer.

    Before the first answer SERVFAIL is right. From then on each answer must be `allowed` for its
    name.
    """

    def __init__(self, view: View, allowed: Mapping[str, frozenset[str]]) -> None:
        self.allowed = dict(allowed)
        """The rdata that a name's answers may have; an answer has at least one of them.

        May be changed.
        """
        self.wrong: list[str] = []
        self.asked = 0
        self._answered: set[str] = set()
        self._view = view
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def expect_answers(self) -> None:
        """Count SERVFAIL as wrong from the beginning, because there were answers before."""
        self._answered |= self.allowed.keys()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stop.wait(_ROUND):
            for name in list(self.allowed):
                rcode, found = self._view.ask(name)
                self.asked += 1
                if (allowed := self.allowed.get(name)) is None:
                    continue  # the name was removed meanwhile
                if rcode == "NOERROR" and found <= allowed:
                    self._answered.add(name)
                elif rcode != "SERVFAIL" or name in self._answered:
                    self.wrong.append(f"{time.monotonic() - began:.3f} s: {name}: {rcode} {sorted(found)}")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def contents(state_dir: Path, identity: Identity) -> dict[str, bytes]:
    """Return all that a store derives from the objects, by key.

    The process may not have it open.
    """
    store, why = Store.open(state_dir, identity)
    try:
        assert not why, f"the store cannot be used: {why}"
        found: dict[str, bytes] = {}
        for db in _COMPARED:
            pairs = store.read(lambda txn, db=db: [*txn.scan(db)])  # type: ignore[misc]
            found |= {f"{db} {key!r}": value for key, value in pairs}
        return found
    finally:
        store.close()


def fresh(
    settings: Settings, identity: Identity, truth: Truth, host: Sequence[str], absent: frozenset[Resource] = frozenset()
) -> dict[str, bytes]:
    """Return the same of a new store that one complete list of the truth has filled.

    `host` are this host's addresses. `absent` are resources that are not installed, and so have no
    objects.
    """
    selectors = selectors_of(settings)
    with TemporaryDirectory(dir=Path(settings.state_dir).parent) as folder:
        store, _ = Store.open(Path(folder), identity)
        compiler = Compiler(settings, host, lambda *_: None)
        resources = required_resources(settings)
        ledger = Ledger(store, compiler, resources)
        changes: list[Change] = []
        for resource in resources:
            snapshot = truth.snapshot(resource)
            page = []
            for item in () if resource in absent else snapshot.items:
                with suppress(OddObject):
                    if selectors[resource].matches(item.labels):
                        page.append(decode(resource, item.data))
            changes += ListPageArrived(resource, page, first=True), ListComplete(resource, str(snapshot.version))
        ledger.commit(changes)
        assert ledger.ready
        store.close()
        return contents(Path(folder), identity)


def differences(found: Mapping[str, bytes], expected: Mapping[str, bytes]) -> list[str]:
    """Describe every difference: missing entries, additional entries, and changed ones."""
    lines = [f"missing: {key}" for key in sorted(expected.keys() - found.keys())]
    lines += [f"too much: {key}" for key in sorted(found.keys() - expected.keys())]
    lines += [
        f"other: {key}: {found[key]!r} instead of {expected[key]!r}"
        for key in sorted(found.keys() & expected.keys())
        if found[key] != expected[key]
    ]
    return lines
