"""The LMDB environment: one writer, any number of readers, one file between them.

A state directory holds *generations*, `store-XXXXXXXX/`, and a symbolic link
`current` to the published one. A store that cannot be used (another cluster,
another format, damaged, written before the machine restarted) is not emptied
under its readers: the writer fills a new generation and publishes it when it
is complete, in one rename. Readers follow the link.

A generation carries a checksum of all that it holds, kept up to date by every
write and verified when a writer takes it over: LMDB itself would not notice a
damaged page. `sync=False`: the kernel keeps what a killed process wrote, and
what a killed machine wrote is discarded by its boot id.

This module is the only one that imports lmdb.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import lmdb

from headwater.store.identity import PREFIX, WITHDRAWN, Identity, condemn, discard, is_condemned, point, published

#: Another number discards the store: raised whenever a stored byte means something else.
FORMAT: Final = b"4"

_MAP_SIZE: Final = 4 << 30
_MAX_READERS: Final = 512
#: The file is kept this much longer than its header says, by a hole: no blocks are taken for it.
_HOLE: Final = 16 << 20

#: Keys of the `meta` sub-database.
SERIAL: Final = b"serial"
#: When the source was last heard, for `--max-staleness`.
HEARD: Final = b"heard"
READY: Final = b"ready"
_FORMAT_KEY: Final = b"format"
_SOURCE: Final = b"source"
_SHAPE: Final = b"shape"
_BOOT: Final = b"boot"
_CHECKSUM: Final = b"checksum"

#: LMDB takes no longer key, in bytes.
MAX_KEY: Final = 511

_HEARD: Final = struct.Struct(">d?")
_SUB_DATABASES: Final = ("meta", "objects", "slices", "pods", "hosts", "staging", "faulty", "addresses", "records")
#: What is covered by the checksum; the others are indexes that are rebuilt from the objects.
_CHECKED: Final = ("objects", "addresses", "records")

_T = TypeVar("_T")


class StoreDamaged(RuntimeError):  # noqa: N818 (a state, found out)
    """The file is not what was written: discard it."""


class StoreFull(RuntimeError):  # noqa: N818
    """Nothing can be written now: no space, or the file is gone. Nothing was lost; try again."""


#: What LMDB says of pages that are not what it wrote; the last follows in the same transaction.
_DAMAGE: Final = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.PanicError, lmdb.InvalidError, lmdb.BadTxnError)


def is_damage(error: BaseException) -> bool:
    """Whether a read failed because the file is damaged."""
    return isinstance(error, _DAMAGE)


class Snapshot:
    """What a reader sees of one moment. `close` it after the batch: while it is open it pins old pages."""

    __slots__ = ("_dbs", "_txn", "generation", "get")

    def __init__(self, txn: lmdb.Transaction, dbs: tuple[Any, Any], generation: int) -> None:
        self._txn = txn
        self._dbs = dbs
        self.get: Callable[[bytes], Any] = txn.get
        """A node by its name, as a buffer that is valid until `close`; None when there is none."""
        self.generation = generation

    def meta(self, key: bytes) -> bytes | None:
        """A value of `meta`."""
        value = self._txn.get(key, None, self._dbs[0])
        return None if value is None else bytes(value)

    def addresses(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of the index of addresses (`store.addresses`), from a key on."""
        with self._txn.cursor(self._dbs[1]) as cursor:
            if cursor.set_range(start):
                for key, value in cursor:
                    yield bytes(key), bytes(value)

    def heard(self) -> tuple[float, bool] | None:
        """When every resource of the source was last heard, by `time.monotonic`, and whether it is connected to.

        None when that is not written down.
        """
        value = self.meta(HEARD)
        return None if value is None else _HEARD.unpack(value)

    def close(self) -> None:
        self._txn.abort()


def _open(folder: Path, *, readonly: bool) -> lmdb.Environment:
    return lmdb.open(
        str(folder / "data.mdb"),
        subdir=False,
        map_size=_MAP_SIZE,
        max_dbs=len(_SUB_DATABASES),
        max_readers=_MAX_READERS,
        readonly=readonly,
        create=not readonly,
        sync=False,
        metasync=False,
        readahead=False,
        meminit=False,
        lock=True,
    )


def _complete(env: lmdb.Environment, folder: Path) -> bool:
    """Whether the file holds every page that its header speaks of: reading past its end kills a process."""
    needed, size = _sizes(env, folder)
    return size >= needed


def _sizes(env: lmdb.Environment, folder: Path) -> tuple[int, int]:
    """How many bytes the file's header speaks of, and how many there are."""
    return (env.info()["last_pgno"] + 1) * env.stat()["psize"], (folder / "data.mdb").stat().st_size


class ReadTransaction:
    """One moment of the store, for the writer's own process. Values are bytes: they stay valid."""

    __slots__ = ("_dbs", "_txn")

    def __init__(self, txn: lmdb.Transaction, dbs: dict[str, Any]) -> None:
        self._txn = txn
        self._dbs = dbs

    def meta(self, key: bytes) -> bytes | None:
        return cast("bytes | None", self._txn.get(key, db=self._dbs["meta"]))

    def get(self, db: str, key: bytes) -> bytes | None:
        return cast("bytes | None", self._txn.get(key, db=self._dbs[db]))

    def scan(self, db: str, prefix: bytes = b"", start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of every key with that prefix, from `start` on, in order. Do not write to `db` meanwhile."""
        with self._txn.cursor(db=self._dbs[db]) as cursor:
            if not cursor.set_range(start or prefix):
                return
            for key, value in cast("Iterator[tuple[bytes, bytes]]", iter(cursor)):
                if not key.startswith(prefix):
                    return
                yield key, value

    def keys(self, db: str, start: bytes, stop: bytes) -> Iterator[bytes]:
        """The keys from `start` on and before `stop`, in order. Do not write to `db` meanwhile."""
        with self._txn.cursor(db=self._dbs[db]) as cursor:
            if cursor.set_range(start):
                for key in cast("Iterator[bytes]", cursor.iternext(keys=True, values=False)):
                    if key >= stop:
                        return
                    yield key

    def count(self, db: str) -> int:
        """How many entries a sub-database has."""
        return int(self._txn.stat(self._dbs[db])["entries"])

    def checksum_holds(self) -> bool:
        """Read everything and compare it with the checksum that was written down."""
        return self._total() == int(self.meta(_CHECKSUM) or b"0")

    def _total(self) -> int:
        total = 0
        for db in _CHECKED:
            with self._txn.cursor(db=self._dbs[db]) as cursor:
                for key, value in cursor:
                    total ^= zlib.crc32(value, zlib.crc32(key))
        return total


class Transaction(ReadTransaction):
    """One write transaction. Reads see its own writes.

    Every put and delete in `objects`, `addresses` and `records` goes through
    here, for the checksum.
    """

    __slots__ = ("_checksum", "changed")

    def __init__(self, txn: lmdb.Transaction, dbs: dict[str, Any]) -> None:
        super().__init__(txn, dbs)
        self._checksum = int(self.meta(_CHECKSUM) or b"0")
        self.changed = 0
        """How many records, or names of addresses, this transaction put or deleted."""

    def set_meta(self, key: bytes, value: bytes) -> None:
        self._txn.put(key, value, db=self._dbs["meta"])

    def put(self, db: str, key: bytes, value: bytes) -> bytes | None:
        """Store a value; returns the one before. An equal value is not written."""
        handle = self._dbs[db]
        before = self._txn.get(key, db=handle)
        if before == value:
            return value
        if before is not None:
            self._checksum ^= zlib.crc32(before, zlib.crc32(key))
        self._checksum ^= zlib.crc32(value, zlib.crc32(key))
        self._txn.put(key, value, db=handle)
        self.changed += db != "objects"
        return cast("bytes | None", before)

    def fill(self, items: Sequence[tuple[bytes, bytes]]) -> bool:
        """Put many new records at once, in the order of their keys.

        True if all were new, as they should be; else they have replaced what was
        there, and the checksum was made anew.
        """
        with self._txn.cursor(db=self._dbs["records"]) as cursor:
            before = self.count("records")
            cursor.putmulti(items, dupdata=False, overwrite=True)
        self.changed += len(items)
        if self.count("records") != before + len(items):
            self._checksum = self._total()
            return False
        for key, value in items:
            self._checksum ^= zlib.crc32(value, zlib.crc32(key))
        return True

    def delete(self, db: str, key: bytes) -> bytes | None:
        """Remove a value; returns it."""
        before = self._txn.pop(key, db=self._dbs[db])
        if before is not None:
            self._checksum ^= zlib.crc32(before, zlib.crc32(key))
            self.changed += db != "objects"
        return cast("bytes | None", before)

    # Indexes, the staging area and what is noted beside: not in the checksum.

    def index(self, db: str, key: bytes, value: bytes = b"") -> None:
        self._txn.put(key, value, db=self._dbs[db])

    def unindex(self, db: str, key: bytes) -> None:
        self._txn.delete(key, db=self._dbs[db])

    def clear(self, db: str) -> None:
        """Empty a sub-database."""
        if db in _CHECKED:
            for key, value in self.scan(db):
                self._checksum ^= zlib.crc32(value, zlib.crc32(key))
        self._txn.drop(self._dbs[db], delete=False)

    def finish(self) -> None:
        """Write down the checksum; the last thing before the commit."""
        self.set_meta(_CHECKSUM, b"%d" % self._checksum)


class Store:
    """The writer's side: the watch process has one."""

    def __init__(self, state_dir: Path, folder: Path, env: lmdb.Environment, identity: Identity) -> None:
        self.state_dir = state_dir
        self.folder = folder
        self._env = env
        self._identity = identity
        # Held by whoever reads, for another thread may want to unmap the file or to make its map larger.
        self._mapped = threading.RLock()
        self._dbs = {name: env.open_db(name.encode()) for name in _SUB_DATABASES}

    @classmethod
    def open(cls, state_dir: Path, identity: Identity) -> tuple[Store, str]:
        """The published generation if it can be used, else a new one.

        Returns the store and why the one that was found is not used ("" when it
        is, or when there was none). Raises OSError when the directory cannot be
        written.
        """
        state_dir.mkdir(parents=True, exist_ok=True)
        folder = published(state_dir)
        why = ""
        if folder is not None and is_condemned(folder):
            cls._remove_others(state_dir, folder)
            return cls._create(state_dir, identity), "damaged: a process met a page that cannot be read"
        if folder is not None and folder.exists():
            env = None
            readable = False  # whether readers may go on with what they can read
            try:
                env = _open(folder, readonly=False)
                if not _complete(env, folder):
                    raise StoreDamaged("the file is shorter than its own header says")
                store = cls(state_dir, folder, env, identity)
                why = store._unusable()
            except (lmdb.Error, StoreDamaged, ValueError) as error:
                why = f"damaged: {error}"
                readable = isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError)
            else:
                if not why:
                    return store, ""
            if env is not None:
                env.close()
            if readable:
                with contextlib.suppress(OSError):
                    condemn(folder)
                cls._remove_others(state_dir, folder)
                return cls._create(state_dir, identity), why
        discard(state_dir)
        return cls._create(state_dir, identity), why

    @staticmethod
    def _remove_others(state_dir: Path, folder: Path) -> None:
        for other in state_dir.glob(f"{PREFIX}*"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)

    @classmethod
    def _create(cls, state_dir: Path, identity: Identity) -> Store:
        folder = state_dir / f"{PREFIX}{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        store = cls(state_dir, folder, _open(folder, readonly=False), identity)

        def sign(txn: Transaction) -> None:
            txn.set_meta(_FORMAT_KEY, FORMAT)
            txn.set_meta(_SOURCE, identity.source.encode())
            txn.set_meta(_BOOT, Identity.boot())

        store.write(sign)
        return store

    def _unusable(self) -> str:
        """Why the generation cannot be used; "" when it can."""
        with self._env.begin() as raw:
            txn = ReadTransaction(raw, self._dbs)
            if txn.meta(_FORMAT_KEY) != FORMAT:
                return f"another format ({(txn.meta(_FORMAT_KEY) or b'none').decode()}, ours is {FORMAT.decode()})"
            if txn.meta(_SOURCE) != self._identity.source.encode():
                return "another cluster or other files"
            if txn.meta(_BOOT) != Identity.boot():
                return "written before the machine restarted"
            if not txn.checksum_holds():
                return "damaged: the checksum does not match"
        return ""

    @property
    def shape_matches(self) -> bool:
        """Whether the records were made with these settings."""
        return self.read(lambda txn: txn.meta(_SHAPE)) == self._identity.shape.encode()

    def sign_shape(self, txn: Transaction) -> None:
        """Say that from this transaction on the records are of these settings."""
        txn.set_meta(_SHAPE, self._identity.shape.encode())

    def write(self, work: Callable[[Transaction], _T]) -> _T:
        """Run `work` in a write transaction and commit it, or leave everything as it was.

        `work` runs again when the map has to grow. Raises StoreFull when the disk
        does not take it, StoreDamaged when LMDB finds its own pages wrong.
        """
        while True:
            try:
                with self._env.begin(write=True) as raw:
                    txn = Transaction(raw, self._dbs)
                    result = work(txn)
                    txn.finish()
            except lmdb.MapFullError:
                # It moves the map: nobody may be reading in it.
                with self._mapped:
                    self._env.set_mapsize(self._env.info()["map_size"] * 2)
            except _DAMAGE as error:
                raise StoreDamaged(str(error)) from error
            except (lmdb.Error, OSError) as error:
                # The operating system's errors (ENOSPC, EIO) have no class of their own
                # in lmdb; every class that it does have is a mistake of ours.
                if isinstance(error, lmdb.Error) and type(error) not in (lmdb.Error, lmdb.DiskError):
                    raise
                raise StoreFull(str(error)) from error
            else:
                self._fill_up()
                return result

    def _fill_up(self) -> None:
        """Keep the file longer than its header says, and than it will say after the next commit.

        Pages that a transaction took and gave back are counted in the header
        but never written; at the end of the file they are simply missing. A hole
        in their place makes a file that was cut short recognizable (`_complete`),
        and as it is there before the commit, one that was not cut too.
        """
        with contextlib.suppress(OSError):
            needed, size = _sizes(self._env, self.folder)
            if size < needed + _HOLE // 2:
                os.truncate(self.folder / "data.mdb", needed + _HOLE)

    def read(self, work: Callable[[ReadTransaction], _T]) -> _T:
        """Run `work` in a read transaction. From any thread."""
        with self._mapped, self._env.begin() as raw:
            return work(ReadTransaction(raw, self._dbs))

    def heard(self) -> tuple[float, bool] | None:
        """As `Snapshot.heard`."""
        value = self.read(lambda txn: txn.meta(HEARD))
        return None if value is None else _HEARD.unpack(value)

    def write_heard(self, moment: float, connected: bool) -> None:
        """Write down what `Snapshot.heard` reads. Raises as `write` does."""
        self.write(lambda txn: txn.set_meta(HEARD, _HEARD.pack(moment, connected)))

    def publish(self) -> None:
        """Make this generation the one that readers follow, in one step; remove the others."""
        try:
            point(self.state_dir, self.folder.name)
        except OSError as error:
            raise StoreFull(str(error)) from error
        self._remove_others(self.state_dir, self.folder)

    def unmap(self) -> None:
        """Let go of the pages that this process has touched: they are the file's, and stay in the page cache.

        Raises StoreDamaged when the file is gone.
        """
        with self._mapped:
            if not self.exists:  # lmdb would make an empty one
                raise StoreDamaged("its file was removed")
            self._env.close()
            self._env = _open(self.folder, readonly=False)
            self._dbs = {name: self._env.open_db(name.encode()) for name in _SUB_DATABASES}

    @property
    def is_published(self) -> bool:
        return published(self.state_dir) == self.folder

    @property
    def is_condemned(self) -> bool:
        """Whether a reader has met a page of it that cannot be read."""
        return is_condemned(self.folder)

    @property
    def exists(self) -> bool:
        """Whether the file is still in its place (somebody may remove a state directory)."""
        return (self.folder / "data.mdb").exists()

    @property
    def size(self) -> int:
        """Bytes that the file occupies on the disk."""
        try:
            return (self.folder / "data.mdb").stat().st_blocks * 512
        except OSError:
            return 0

    def release_dead_readers(self) -> int:
        """Free the places of readers that were killed: they would pin old pages."""
        return int(self._env.reader_check())

    def close(self) -> None:
        self._env.close()


class Reader:
    """The readers' side: follows the published generation, hands out snapshots.

    Thread-safe: `begin` may run in any thread while `follow` runs in another.
    """

    #: How long a replaced environment stays open for the queries that still read it.
    _LINGER: Final = 5.0

    def __init__(self, state_dir: Path, identity: Identity) -> None:
        self._state_dir = state_dir
        self._identity = identity
        self._folder: Path | None = None
        self._open: tuple[lmdb.Environment, Any, tuple[Any, Any], int] | None = None
        self._replaced: list[tuple[float, lmdb.Environment]] = []
        self._lock = threading.Lock()
        self._generation = 0

    def follow(self) -> None:
        """Open the published generation if it is another one than before; never raises for a bad one.

        A store whose link is gone is served on, for what was true stays the
        best answer there is; one that the writer took back is not.
        """
        with self._lock:
            now = time.monotonic()
            while self._replaced and now - self._replaced[0][0] > self._LINGER:
                self._replaced.pop(0)[1].close()
            folder = published(self._state_dir)
            if folder is None or folder == self._folder:
                return
            opened = None if folder.name == WITHDRAWN else self._try(folder)
            if opened is None and folder.name != WITHDRAWN:
                return
            if self._open is not None:
                self._replaced.append((now, self._open[0]))
            self._open, self._folder = opened, folder

    def _try(self, folder: Path) -> tuple[lmdb.Environment, Any, tuple[Any, Any], int] | None:
        """A generation opened, if its identity is ours."""
        expected = ((_FORMAT_KEY, FORMAT), (_SOURCE, self._identity.source.encode()), (_BOOT, Identity.boot()))
        try:
            env = _open(folder, readonly=True)
        except (lmdb.Error, OSError):
            return None
        with contextlib.suppress(lmdb.Error, OSError):
            if _complete(env, folder):
                meta, addresses, records = (
                    env.open_db(name, create=False) for name in (b"meta", b"addresses", b"records")
                )
                with env.begin(db=meta) as txn:
                    same = all(txn.get(key) == value for key, value in expected)
                if same:
                    self._generation += 1
                    return env, records, (meta, addresses), self._generation
        env.close()
        return None

    def begin(self) -> Snapshot | None:
        """A snapshot of now, or None when no store is open."""
        opened = self._open
        if opened is None:
            return None
        env, records, others, generation = opened
        try:
            txn = env.begin(records, None, False, True)
        except lmdb.MapResizedError:
            env.set_mapsize(0)
            txn = env.begin(records, None, False, True)
        return Snapshot(txn, others, generation)

    def condemn(self, snapshot: Snapshot) -> None:
        """Tell the writer that a page of this generation cannot be read. Raises OSError."""
        folder = self._folder
        if folder is not None and snapshot.generation == self._generation and not is_condemned(folder):
            condemn(folder)

    def is_ready(self, snapshot: Snapshot) -> bool:
        """Whether its records are complete, and of these settings."""
        return bool(snapshot.meta(READY)) and snapshot.meta(_SHAPE) == self._identity.shape.encode()

    def close(self) -> None:
        with self._lock:
            for _, env in self._replaced:
                env.close()
            if self._open is not None:
                self._open[0].close()
            self._open = None
