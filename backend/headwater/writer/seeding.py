"""Take another instance's store at a start with nothing stored.

Beside it a thread asks the API server which cluster it is, and how far. Only a copy of that
cluster, and not ahead of it, is used. Without an answer within `_PATIENCE` the copy is used all the
same: an instance that starts during an outage answers as its peers do.

With that answer, and the head of the copy, it is found out beside the copy whether the API server
goes on from the copy's versions (`cluster.proof`). If it is known when the copy is stored, it is
published at once. Otherwise the watches have to tell (`Watcher._may_be_released`).

Whatever goes wrong leads to the next address, and then to a list. A file, `seeding`, is there from
the first entry that is put into the store until a store is published. When it is there at a start,
the last copy has led to a death, and another one is not taken.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from headwater.cluster.objects import Resource
from headwater.cluster.proof import Proof
from headwater.cluster.recognition import seen
from headwater.cluster.reflector import NOT_INSTALLED, RequestFailed, Trouble
from headwater.cluster.source import selectors_of
from headwater.cluster.timing import USUAL, Timing
from headwater.peers.client import Copy, NoCopy, taken
from headwater.peers.credentials import Credentials, who
from headwater.peers.outcome import Taken
from headwater.settings.error import SettingsError
from headwater.settings.settings import Settings
from headwater.store.copied import VERSION, is_copied, newest
from headwater.store.environment import ReadTransaction, Store, StoreDamaged, StoreFull, Transaction
from headwater.store.identity import Identity, Origin
from headwater.writer import lists

if TYPE_CHECKING:
    from headwater.cluster.api import ApiServer
    from headwater.settings.address import Address

_log = logging.getLogger(__name__)

#: Seconds from the request for the API server's word in which it has to come.
_PATIENCE: Final = 0.7
#: Seconds for which the proof is waited for when the copy is stored: the watches would take longer.
_PROOF: Final = 0.15
#: For how long peers that are busy are asked again, in seconds. (`Timing.sibling` is for those that
#: are not ready: the other one of a pod, which started seconds before. What it lists need not be
#: listed beside it, and to wait for the rest of that list takes less time than a whole one.)
_BUSY: Final = 5.0
#: How often, in seconds.
_AGAIN: Final = 0.5
_MARK: Final = "seeding"
#: Failures that say that the API server cannot be reached, and nothing about whose it is.
_AWAY: Final = frozenset((Trouble.UNREACHABLE, Trouble.SERVER, Trouble.THROTTLED))


@dataclass(slots=True)
class Seeding:
    """What became of it."""

    outcomes: dict[str, int] = field(default_factory=dict)
    """By `peers.outcome.Taken`."""
    peer: str = ""
    """Whose store it is; "" when none was taken."""
    withheld: bool = False
    """Whether the API server has to take the versions before it is published."""
    impatient: bool = False
    """Whether it is published after a while although the API server has not."""

    def note(self, outcome: Taken) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


def published(state_dir: Path) -> None:
    """A store is published: the next copy may be tried again."""
    with contextlib.suppress(OSError):
        (state_dir / _MARK).unlink(missing_ok=True)


@dataclass(slots=True)
class Word:
    """What the API server said of itself; neither while it has not answered."""

    seen: tuple[Origin, int] | None = None
    """Its cluster, and how far it is."""
    trouble: Trouble | None = None
    """Why there is no answer."""


class _Asked(Word):
    """The API server's word, asked for in a thread of its own."""

    def __init__(self, connect: Callable[[], ApiServer], resources: Sequence[Resource]) -> None:
        super().__init__()
        self._connect = connect
        self._resources = resources
        self._proving = threading.Lock()
        self._server: ApiServer | None = None
        self._versions: dict[Resource, str] = {}
        self._proof: Proof | None = None
        self._prepared = threading.Event()
        self._began = 0.0
        self._thread = threading.Thread(target=self._ask, name="seeding", daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        try:
            server = self._connect()  # it imports what takes a while
            self._began = time.monotonic()
            self._prepared.set()
            self.seen = seen(server)
            with self._proving:
                self._server = server
                self._prove()
        except RequestFailed as error:
            self.trouble = error.trouble
        except SettingsError:
            self.trouble = Trouble.CREDENTIALS
        except Exception as error:  # noqa: BLE001 (a bug here must not keep the instance from its list)
            _log.error("the API server cannot be asked: %r", error)
            self.trouble = Trouble.CREDENTIALS

        finally:
            self._prepared.set()

    @property
    def is_over(self) -> bool:
        return self.seen is not None or self.trouble is not None

    def wait(self) -> None:
        """Until it has answered, or has not for `_PATIENCE`."""
        self._prepared.wait()
        self._thread.join(max(0.0, self._began + _PATIENCE - time.monotonic()))

    def prove(self, versions: Mapping[str, str]) -> None:
        """Find out whether the API server goes on from these versions, once it has answered.

        Those before are forgotten.
        """
        with self._proving:
            if self._proof is not None:
                self._proof.close()
            self._proof = None
            known = {item: versions.get(item, "") for item in self._resources}
            self._versions = known if all(known.values()) and NOT_INSTALLED not in known.values() else {}
            self._prove()

    def _prove(self) -> None:
        if self._server is not None and self._versions:
            self._proof = Proof(self._server, self._versions)

    def goes_on_from(self, store: Store) -> bool:
        """Whether it is known to go on from the versions that this store has."""
        proof = self._proof
        return proof is not None and store.read(partial(_has, proof.versions)) and proof.holds(_PROOF)


def _has(versions: Mapping[Resource, str], txn: ReadTransaction) -> bool:
    return all(
        txn.meta(lists.version_key(item)) == version.encode() and not lists.is_due(txn, item)
        for item, version in versions.items()
    )


def seed(
    settings: Settings, identity: Identity, store: Store, resources: Sequence[Resource], timing: Timing = USUAL
) -> tuple[Store, Seeding]:
    """Fill an empty store that is not published from the first peer that has one for us.

    `resources` are those that answers depend on.

    Returns the store, which is another one, and empty, when a copy turned out to be of no use; and
    what became of it. Raises OSError as `Store.open`.
    """
    found = Seeding()
    mark = Path(settings.state_dir) / _MARK
    if mark.exists():
        _log.warning("the last store of another instance led to no good: listing")
        return store, found

    def connect() -> ApiServer:
        # Imported here for the reason that `Watcher.start_sources` gives.
        from headwater.cluster.api import ApiServer

        return ApiServer(settings.kubeconfig, settings.context, selectors_of(settings), timing)

    asked = _Asked(connect, resources)
    try:
        store = _ask(settings, identity, store, asked, found, timing)
    finally:
        asked.prove({})
    return store, found


def _ask(
    settings: Settings, identity: Identity, store: Store, asked: _Asked, found: Seeding, timing: Timing
) -> Store:  # fmt: skip
    """Ask the peers in turn; `found.peer` says whose store it is then."""
    mark = Path(settings.state_dir) / _MARK
    began = time.monotonic()
    patience = {Taken.BUSY: _BUSY, Taken.NOT_READY: timing.sibling}
    told: set[tuple[Address, Taken]] = set()
    peers = list(settings.seeds)
    while peers:
        later: list[Address] = []
        for peer in peers:
            try:
                _take(settings, store, peer, asked, mark, found)
            except NoCopy as error:
                found.note(error.outcome)
                found.withheld = found.impatient = False
                if (peer, error.outcome) not in told:
                    told.add((peer, error.outcome))
                    _log.warning("no store from %s: %s", peer, error)
                if time.monotonic() - began + _AGAIN <= patience.get(error.outcome, 0.0):
                    later.append(peer)
                if not is_empty(store):
                    store.close()
                    store, _ = Store.open(Path(settings.state_dir), identity)
                published(Path(settings.state_dir))  # nothing of it is left
                continue
            found.note(Taken.TAKEN)
            found.peer = str(peer)
            return store
        peers = later
        if peers:
            time.sleep(_AGAIN)
    _log.info("no store from another instance: listing")
    return store


def is_empty(store: Store) -> bool:
    """Whether nothing was put into it."""
    return store.read(lambda txn: txn.checksum()) in (b"", b"0") and not store.read(lambda txn: txn.count("objects"))


def _take(settings: Settings, store: Store, peer: Address, asked: _Asked, mark: Path, found: Seeding) -> None:
    """Raises NoCopy."""
    began = time.monotonic()
    state_dir = Path(settings.state_dir)
    credentials = Credentials.of(settings)
    with taken(
        peer, credentials, store.identity.source, who(state_dir), state_dir, settings.max_staleness
    ) as copy:  # fmt: skip
        asked.prove(copy.head.versions)
        if asked.is_over:
            compare(copy, asked, found)
        try:
            mark.touch()
            fill(store, copy)
            Origin(copy.head.uid, copy.head.address).write(store.folder)
        except (StoreFull, OSError) as error:
            raise NoCopy(Taken.DISK, f"the copy cannot be stored: {error}") from None
        except StoreDamaged as error:
            raise NoCopy(Taken.DAMAGED, f"the copy cannot be stored: {error}") from None
        asked.wait()
        compare(copy, asked, found)
        if found.withheld and asked.goes_on_from(store):
            found.withheld = False
    _log.info(
        "the store of %s is taken: %s objects in %.1f s; the API server was last heard %.1f s ago",
        peer,
        f"{store.read(lambda txn: txn.count('objects')):,}",
        time.monotonic() - began,
        copy.head.age + time.monotonic() - copy.asked,
    )


def compare(copy: Copy, asked: Word, found: Seeding) -> None:
    """Whether it is of the API server's cluster, and not of its future. Raises NoCopy."""
    head = copy.head
    if asked.seen is None:
        found.withheld = asked.trouble is not None and asked.trouble not in _AWAY
        found.impatient = False
        return
    origin, version = asked.seen
    theirs = Origin(head.uid, head.address)
    if theirs.is_another(origin):
        raise NoCopy(Taken.CLUSTER, f"its store is of another cluster: {theirs}, and the API server's is {origin}")
    if version and head.version > version:
        raise NoCopy(
            Taken.AHEAD, f"its store is at version {head.version}, and the API server, perhaps restored, at {version}"
        )
    found.withheld = found.impatient = True


def fill(store: Store, copy: Copy) -> None:
    """Put a copy into an empty store as it comes, each piece in a transaction.

    Raises NoCopy, StoreFull, StoreDamaged.
    """
    meta: dict[bytes, bytes] = {}
    for db, keys, values in copy.pieces:
        if db == "meta":
            meta |= {key: value for key, value in zip(keys, values, strict=True) if is_copied(key)}
            continue
        try:
            store.write(partial(Transaction.load, db=db, keys=keys, values=values))
        except ValueError as error:
            raise NoCopy(Taken.DAMAGED, f"it sends what is no store: {error}") from None
    if int(store.read(lambda txn: txn.checksum())) != copy.head.checksum:
        raise NoCopy(Taken.DAMAGED, "its checksum does not hold: its store is damaged")
    # A watch from a version of the future is silent, and tells nothing before that comes.
    versions = (value.decode("ascii", "replace") for key, value in meta.items() if key.startswith(VERSION))
    if newest(versions) > copy.head.version:
        raise NoCopy(Taken.DAMAGED, "it was read up to later versions than its head says")

    def finish(txn: Transaction) -> None:
        for key, value in meta.items():
            txn.set_meta(key, value)
        # As old as the peer's, and without a connection: this instance has heard nothing itself.
        txn.set_heard(copy.asked - copy.head.age, False)

    store.write(finish)
