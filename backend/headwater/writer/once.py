"""Write manifests or a cluster into a store once, for commands that do not serve the records."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from headwater.cluster.changes import Change, ListComplete, ListPageArrived
from headwater.cluster.files import BadManifest, Manifests
from headwater.cluster.follower import Follower, Inbox, RawPage
from headwater.cluster.objects import Decoded, OddObject, Resource, decode
from headwater.cluster.recognition import Recognition
from headwater.cluster.reflector import Reflector, Trouble
from headwater.cluster.source import selectors_of, source_of
from headwater.records.compiler import Compiler
from headwater.records.options import Report, silent
from headwater.settings.error import SettingsError
from headwater.settings.policies import resolved
from headwater.settings.settings import Settings
from headwater.store.environment import Store
from headwater.store.identity import Identity
from headwater.writer.ledger import Ledger
from headwater.writer.policy import PolicyProcess
from headwater.writer.process import required_resources

if TYPE_CHECKING:
    from headwater.cluster.api import ApiServer

#: Failures of a list after which a later try may succeed, as in `reflector.Counters.errors`.
_PASSING: Final = frozenset(("410", "429", "503", "504", Trouble.EXPIRED.value, Trouble.TOO_LARGE.value))
#: Failures of one resource's list before it is given up.
_TRIES: Final = 5


class Unlisted(RuntimeError):  # noqa: N818 (what the cluster is)
    """A cluster that could not be listed: the text says which resource, and why."""


def write(settings: Settings, state_dir: Path, report: Report = silent) -> Identity:
    """Compile the settings' manifests into a new store in an empty folder.

    Return the store's identity. Raises BadManifest.
    """
    manifests = Manifests(settings.manifests, selectors_of(settings))
    objects = manifests.load()
    if objects is None or manifests.problems:
        raise BadManifest("; ".join(manifests.problems.values()))
    identity = Identity(source_of(settings), settings.records_fingerprint())
    resources = required_resources(settings)
    store, _ = Store.open(state_dir, identity)
    try:
        changes: list[Change] = []
        for resource in resources:
            page: Sequence[object] = list(objects[resource].values())
            changes += ListPageArrived(resource, page, first=True), ListComplete(resource, "files")  # type: ignore[arg-type]
        with decided(settings, report) as decider:
            Ledger(store, Compiler(settings, (), report), resources, decider=decider).commit(changes)
    finally:
        store.close()
    return identity


def write_cluster(settings: Settings, state_dir: Path, server: ApiServer, report: Report = silent) -> Identity:
    """List a cluster once, as the watch process does, and compile it into a new store.

    Return the store's identity. The folder is empty. `server` has the selectors of the settings.
    Raises Unlisted.
    """
    identity = Identity(source_of(settings), settings.records_fingerprint())
    resources = required_resources(settings)
    store, _ = Store.open(state_dir, identity)
    try:
        recognition = Recognition(store.folder)
        with decided(settings, report) as decider:
            ledger = Ledger(store, Compiler(settings, (), report), resources, decider=decider)
            for resource in resources:
                for change in _listed(resource, server, recognition, report):
                    ledger.commit([change])
        if recognition.another:
            raise Unlisted(f"the API server changed while it was listed: {recognition.another}")
    finally:
        store.close()
    return identity


@contextmanager
def decided(settings: Settings, report: Report) -> Iterator[PolicyProcess | None]:
    """The policy of these settings, and the end of its process. Raises SettingsError."""
    if not settings.policy:
        yield None
        return
    policy = PolicyProcess(resolved(settings.policy), report)
    try:
        if problem := policy.load():
            raise SettingsError("--policy", problem)
        yield policy
    finally:
        policy.close()


def _listed(resource: Resource, server: ApiServer, recognition: Recognition, report: Report) -> Iterator[Change]:
    """Yield a list's pages, and its end. Raises Unlisted."""
    changes: queue.Queue[Change | RawPage] = queue.Queue()
    pages = threading.Semaphore()
    reflector = Reflector("", time.monotonic)
    follower = Follower(resource, reflector, server, Inbox(changes, pages, report, threading.Event()), recognition)
    for seconds in follower.steps():
        while not changes.empty():
            change = changes.get()
            if isinstance(change, RawPage):
                pages.release()
                change = ListPageArrived(change.resource, list(_decoded(change, report)), change.first)
            yield change
            if isinstance(change, ListComplete):
                return
        errors = reflector.state.errors
        if not _PASSING.issuperset(errors) or sum(errors.values()) > _TRIES:
            raise Unlisted(reflector.state.problem or f"{resource}: the list expires before its end")
        time.sleep(seconds)
    raise Unlisted(f"{resource}: {recognition.another}")


def _decoded(page: RawPage, report: Report) -> Iterator[Decoded]:
    for item in page.items:
        try:
            yield decode(page.resource, item)
        except OddObject as error:
            report("object", "", "", str(error))
