"""Write manifests into a store once, for commands that show their records without serving them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headwater.cluster.changes import Change, ListComplete, ListPageArrived
from headwater.cluster.files import BadManifest, Manifests
from headwater.cluster.source import selectors_of, source_of
from headwater.records.compiler import Compiler
from headwater.records.options import Report, silent
from headwater.settings.settings import Settings
from headwater.store.environment import Store
from headwater.store.identity import Identity
from headwater.writer.ledger import Ledger
from headwater.writer.process import required_resources


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
        Ledger(store, Compiler(settings, (), report), resources).commit(changes)
    finally:
        store.close()
    return identity
