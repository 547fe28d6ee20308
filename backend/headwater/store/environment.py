"""The LMDB environment: one writer, any number of readers, one file between them.

A state directory holds *generations*, `store-XXXXXXXX/`, and a symbolic link
`current` to the published one. A store that cannot be used (another cluster,
another format, damaged, written before the machine restarted) is not emptied
under its readers: the writer fills a new generation and publishes it when it
is complete, in one rename. Readers follow the link.

A generation has a checksum of all its entries. Every write updates it, and a writer that takes the
generation over verifies it: LMDB itself would not notice a damaged page. `sync=False`: the kernel
keeps the writes of a killed process, and the boot id discards those of a killed machine.

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
from functools import reduce
from itertools import chain, islice
from operator import add, xor
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import lmdb

from headwater.store.copied import is_copied
from headwater.store.history import HISTORY, SUM
from headwater.store.identity import PREFIX, WITHDRAWN, Identity, condemn, discard, is_condemned, point, published

#: Another number discards the store. Raise it whenever a stored byte gets another meaning.
FORMAT: Final = b"5"

_MAP_SIZE: Final = 4 << 30
_MAX_READERS: Final = 512
#: The writer keeps the file this much longer than its header says, by a hole that takes no blocks.
_HOLE: Final = 16 << 20

#: Keys of the `meta` sub-database.
SERIAL: Final = b"serial"
#: When the source was last heard, for `--max-staleness`.
HEARD: Final = b"heard"
READY: Final = b"ready"
#: While a store has every object, and its records are being made from them: a number of this
#: making, and how far it is (`writer.ledger.Making`).
MAKING: Final = b"making"
_FORMAT_KEY: Final = b"format"
_SOURCE: Final = b"source"
_SHAPE: Final = b"shape"
_BOOT: Final = b"boot"
_CHECKSUM: Final = b"checksum"

#: The longest key that LMDB takes, in bytes.
MAX_KEY: Final = 511

_HEARD: Final = struct.Struct(">d?")
#: A file in the folder of a generation whose time says when its writer was last at work.
_ALIVE: Final = "alive"
_SUB_DATABASES: Final = (
    "meta", "objects", "slices", "pods", "hosts", "staging", "faulty", "decisions", "addresses", "records"
)  # fmt: skip
#: Those that a store of an earlier version may lack: readers do without until the writer makes
#: them.
_LATER: Final = (HISTORY,)
#: Entries that are read at once for another instance, as long as they are small.
_GROUP: Final = 64
_ALL_SUB_DATABASES: Final = (*_SUB_DATABASES, *_LATER)
#: The checksum covers these; the others are indexes, rebuilt from the objects.
_CHECKED: Final = ("objects", "addresses", "records")

_T = TypeVar("_T")


class StoreDamaged(RuntimeError):  # noqa: N818 (a state, found out)
    """The file differs from what was written: discard it."""


class StoreFull(RuntimeError):  # noqa: N818
    """Nothing can be written now: no space, or the file is gone. Nothing was lost; try again."""


#: LMDB's errors for damaged pages; the last one follows in the same transaction.
_DAMAGE: Final = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.PanicError, lmdb.InvalidError, lmdb.BadTxnError)


def is_damage(error: BaseException) -> bool:
    """Whether a read failed because the file is damaged."""
    return isinstance(error, (*_DAMAGE, StoreDamaged))


class Snapshot:
    """The store at one moment, for a reader.

    `close` it after the batch: an open one pins old pages.
    """

    __slots__ = ("_dbs", "_txn", "generation", "get")

    def __init__(self, txn: lmdb.Transaction, dbs: dict[str, Any], generation: int) -> None:
        self._txn = txn
        self._dbs = dbs
        self.get: Callable[[bytes], Any] = txn.get
        """A node by its name, as a buffer that is valid until `close`; None when there is none."""
        self.generation = generation

    def with_get(self, get: Callable[[bytes], Any]) -> Snapshot:
        """The same moment with another way to a node. It is closed with this one."""
        other = Snapshot(self._txn, self._dbs, self.generation)
        other.get = get
        return other

    @property
    def commit(self) -> int:
        """The number of the last commit that it sees."""
        return int(self._txn.id())

    def meta(self, key: bytes) -> bytes | None:
        """A value of `meta`."""
        value = self._txn.get(key, None, self._dbs["meta"])
        return None if value is None else bytes(value)

    def addresses(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of the index of addresses (`store.addresses`), from a key on."""
        with self._txn.cursor(self._dbs["addresses"]) as cursor:
            if cursor.set_range(start):
                for key, value in cursor:
                    yield bytes(key), bytes(value)

    def value(self, db: str, key: bytes) -> bytes | None:
        """A value of any sub-database, as bytes of its own. Not for the hot path."""
        value = self._txn.get(key, None, self._dbs[db])
        return None if value is None else bytes(value)

    def scan(self, db: str, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of every key with that prefix, in order, from `start` on.

        Not for the hot path.
        """
        with self._txn.cursor(self._dbs[db]) as cursor:
            if cursor.set_range(start or prefix):
                for key, value in cursor:
                    if not bytes(key).startswith(prefix):
                        return
                    yield bytes(key), bytes(value)

    def nodes(self, prefix: bytes) -> Iterator[tuple[bytes, Any]]:
        """(name, node) of every name whose bytes begin so, in order.

        The node is a buffer that is valid until `close`. Not for the hot path.
        """
        with self._txn.cursor(self._dbs["records"]) as cursor:
            if cursor.set_range(prefix):
                for key, node in cursor:
                    if not bytes(key).startswith(prefix):
                        return
                    yield bytes(key), node

    def has(self, db: str) -> bool:
        """Whether the store has that sub-database: one of an earlier version may lack it."""
        return db in self._dbs

    def last_key(self, db: str) -> bytes | None:
        """The last key of a sub-database."""
        return _end_of(self._txn, self._dbs[db], last=True)

    def first_key(self, db: str) -> bytes | None:
        """The first key of a sub-database."""
        return _end_of(self._txn, self._dbs[db], last=False)

    def backward(self, db: str, before: bytes) -> Iterator[tuple[bytes, Any]]:
        """(key, value) of the keys below one, the last first; values are valid until the next.

        Not for the hot path.
        """
        with self._txn.cursor(self._dbs[db]) as cursor:
            there = cursor.prev() if cursor.set_range(before) else cursor.last()
            while there:
                yield bytes(cursor.key()), cursor.value()
                there = cursor.prev()

    def forward(self, db: str, start: bytes) -> Iterator[tuple[bytes, Any]]:
        """(key, value) from a key on; values are valid until the next. Not for the hot path."""
        with self._txn.cursor(self._dbs[db]) as cursor:
            there = cursor.set_range(start)
            while there:
                yield bytes(cursor.key()), cursor.value()
                there = cursor.next()

    def pieces(self, db: str, size: int) -> Iterator[list[Any]]:
        """Keys and values in turn, of about so many bytes at once; they are valid until `close`.

        Not for the hot path.
        """
        found: list[Any] = []
        bytes_ = 0
        with self._txn.cursor(self._dbs[db]) as cursor:
            entries = (entry for entry in cursor if is_copied(bytes(entry[0]))) if db == "meta" else iter(cursor)
            while group := [*chain.from_iterable(islice(entries, _GROUP))]:
                small = sum(map(len, group)) < size
                for part in (group,) if small else zip(group[::2], group[1::2], strict=True):
                    found += part
                    bytes_ += sum(map(len, part))
                    if bytes_ >= size:
                        yield found
                        found, bytes_ = [], 0
        if found:
            yield found

    def bytes_of(self, db: str) -> int:
        """Bytes of the pages that a sub-database has."""
        return _bytes_of(self._txn, self._dbs[db])

    def checksum(self) -> int:
        """Of everything, as it is stored."""
        return int(self.meta(_CHECKSUM) or b"0")

    def heard(self) -> tuple[float, bool] | None:
        """When all resources were last heard (`time.monotonic`), and whether there is a connection.

        None when the store does not say.
        """
        value = self.meta(HEARD)
        return None if value is None else _HEARD.unpack(value)

    def close(self) -> None:
        self._txn.abort()


def _bytes_of(txn: lmdb.Transaction, db: Any) -> int:
    found = txn.stat(db)
    return int(found["psize"]) * int(found["branch_pages"] + found["leaf_pages"] + found["overflow_pages"])


def _end_of(txn: lmdb.Transaction, db: Any, *, last: bool) -> bytes | None:
    with txn.cursor(db) as cursor:
        return bytes(cursor.key()) if (cursor.last() if last else cursor.first()) else None


def _open(folder: Path, *, readonly: bool) -> lmdb.Environment:
    return lmdb.open(
        str(folder / "data.mdb"),
        subdir=False,
        map_size=_MAP_SIZE,
        max_dbs=len(_ALL_SUB_DATABASES),
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
    """Whether the file has every page of its header. A read past its end kills a process."""
    needed, size = _sizes(env, folder)
    return size >= needed


def _sizes(env: lmdb.Environment, folder: Path) -> tuple[int, int]:
    """The bytes that the file's header counts, and the bytes that the file has."""
    # No Path is joined: every commit comes here.
    return (env.info()["last_pgno"] + 1) * env.stat()["psize"], os.stat(f"{folder}/data.mdb").st_size  # noqa: PTH116


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
        """(key, value) of every key with that prefix, from `start` on, in order.

        Do not write to `db` meanwhile.
        """
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

    def value(self, db: str, key: bytes) -> bytes | None:
        """As `Snapshot.value`."""
        return self.get(db, key)

    def last_key(self, db: str) -> bytes | None:
        """The last key of a sub-database."""
        return _end_of(self._txn, self._dbs[db], last=True)

    def first_key(self, db: str) -> bytes | None:
        """The first key of a sub-database."""
        return _end_of(self._txn, self._dbs[db], last=False)

    def bytes_of(self, db: str) -> int:
        """Bytes of the pages that a sub-database has."""
        return _bytes_of(self._txn, self._dbs[db])

    def checksum(self) -> bytes:
        """Of everything, as it is stored."""
        return self.meta(_CHECKSUM) or b"0"

    def checksum_holds(self) -> bool:
        """Read everything and compare it with the stored checksum."""
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
        """Store a value; returns the previous one. An equal value is not written."""
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

        True if all were new, as they should be. Else they have replaced older ones, and the
        checksum was computed again.
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

    def load(self, db: str, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Put entries behind all others of a sub-database: another store's, in its order.

        Raises ValueError when they are not in order, or no entries of a store.
        """
        if not all(keys) or max(map(len, keys), default=0) > MAX_KEY:
            raise ValueError(f"a key of {db} is too long, or empty")
        with self._txn.cursor(db=self._dbs[db]) as cursor:
            _, added = cursor.putmulti(zip(keys, values, strict=True), dupdata=False, overwrite=False, append=True)
        if added != len(keys):
            raise ValueError(f"the entries of {db} are not in order")
        if db in _CHECKED:  # without a loop: an instance that takes another's store waits for it
            self._checksum = reduce(xor, map(zlib.crc32, map(add, keys, values)), self._checksum)

    def set_heard(self, moment: float, connected: bool) -> None:
        """The value that `Snapshot.heard` reads."""
        self.set_meta(HEARD, _HEARD.pack(moment, connected))

    def delete(self, db: str, key: bytes) -> bytes | None:
        """Remove a value; returns it."""
        before = self._txn.pop(key, db=self._dbs[db])
        if before is not None:
            self._checksum ^= zlib.crc32(before, zlib.crc32(key))
            self.changed += db != "objects"
        return cast("bytes | None", before)

    # Indexes, the staging area, the history and notes: not in the checksum.

    def append(self, db: str, key: bytes, value: bytes) -> None:
        """Put a value behind all others. Raises ValueError for a key that is not behind them."""
        if not self._txn.put(key, value, append=True, db=self._dbs[db]):
            raise ValueError(f"{key!r} is not behind the last key of {db}")

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

    def finish(self, *, history: bool = False) -> None:
        """Store the checksum; the last write before the commit.

        `history`: it knows of what was changed.
        """
        checksum = b"%d" % self._checksum
        self.set_meta(_CHECKSUM, checksum)
        if history and self.meta(SUM) != checksum:
            self.set_meta(SUM, checksum)


class Store:
    """The writer's side: the watch process has one."""

    def __init__(self, state_dir: Path, folder: Path, env: lmdb.Environment, identity: Identity) -> None:
        self.state_dir = state_dir
        self.folder = folder
        self._env = env
        self._identity = identity
        # Each reading thread holds it, because another may want to unmap the file or to enlarge its
        # map.
        self._mapped = threading.RLock()
        self._dbs = {name: env.open_db(name.encode()) for name in _ALL_SUB_DATABASES}
        self.keeps_history = False
        """Whether each commit notes that the history knows of it."""

    @classmethod
    def open(cls, state_dir: Path, identity: Identity) -> tuple[Store, str]:
        """The published generation if it can be used, else a new one.

        Returns the store, and the reason why an earlier one is not used ("" when it is used, or
        when there is none). Raises OSError when the directory cannot be
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
            readable = False  # whether readers may go on with the undamaged rest
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
        if folder is not None and not folder.exists():  # who removed it has not made it untrue: readers have it open
            cls._remove_others(state_dir, folder)
        else:
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
    def identity(self) -> Identity:
        """The one that it must have."""
        return self._identity

    @property
    def shape_matches(self) -> bool:
        """Whether the records were made with these settings."""
        return self.read(lambda txn: txn.meta(_SHAPE)) == self._identity.shape.encode()

    def sign_shape(self, txn: Transaction) -> None:
        """Note that the records are made with these settings, from this transaction on."""
        txn.set_meta(_SHAPE, self._identity.shape.encode())

    def write(self, work: Callable[[Transaction], _T]) -> _T:
        """Run `work` in a write transaction and commit it, or leave everything as it was.

        `work` runs again when the map has to grow. Raises StoreFull when the disk refuses it,
        StoreDamaged when LMDB finds damaged pages.
        """
        while True:
            try:
                with self._env.begin(write=True) as raw:
                    txn = Transaction(raw, self._dbs)
                    result = work(txn)
                    txn.finish(history=self.keeps_history)
            except lmdb.MapFullError:
                # It moves the map: nobody may be reading in it.
                with self._mapped:
                    self._env.set_mapsize(self._env.info()["map_size"] * 2)
            except _DAMAGE as error:
                raise StoreDamaged(str(error)) from error
            except (lmdb.Error, OSError) as error:
                # lmdb has no class for errors of the operating system (ENOSPC, EIO). Each class
                # that it has is a mistake of ours.
                if isinstance(error, lmdb.Error) and type(error) not in (lmdb.Error, lmdb.DiskError):
                    raise
                raise StoreFull(str(error)) from error
            else:
                self._fill_up()
                return result

    def _fill_up(self) -> None:
        """Keep the file longer than its header says, and than it will say after the next commit.

        LMDB's header counts pages that a transaction took and gave back, and LMDB does not write
        them. At the end of the file they are simply missing. With a hole in their place, a file
        that is shorter than its header was cut (`_complete`). The hole is there before the commit,
        so a whole file is never taken for a cut one.
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
        """Store the value that `Snapshot.heard` reads. Raises as `write` does."""
        self.write(lambda txn: txn.set_heard(moment, connected))

    def note_alive(self, moment: float) -> None:
        """Note that somebody takes care of it, at that moment (seconds since 1970).

        Costs no commit.
        """
        place = self.folder / _ALIVE
        with contextlib.suppress(OSError):
            try:
                os.utime(place, (moment, moment))
            except FileNotFoundError:
                place.touch()
                os.utime(place, (moment, moment))

    def last_alive(self) -> float:
        """The last moment that `note_alive` was told; 0.0 for none."""
        try:
            return (self.folder / _ALIVE).stat().st_mtime
        except OSError:
            return 0.0

    def publish(self) -> None:
        """Make this generation the one that readers follow, in one step; remove the others."""
        try:
            point(self.state_dir, self.folder.name)
        except OSError as error:
            raise StoreFull(str(error)) from error
        self._remove_others(self.state_dir, self.folder)

    def remove_others(self) -> None:
        """Remove what is left of other generations, if this one is published.

        A reader may have marked one as damaged while it was being removed.
        """
        if self.is_published:
            self._remove_others(self.state_dir, self.folder)

    def unmap(self) -> None:
        """Unmap the pages that this process has touched.

        They are the file's, and stay in the page cache.

        Raises StoreDamaged when the file is gone.
        """
        with self._mapped:
            if not self.exists:  # lmdb would make an empty one
                raise StoreDamaged("its file was removed")
            self._env.close()
            self._env = _open(self.folder, readonly=False)
            self._dbs = {name: self._env.open_db(name.encode()) for name in _ALL_SUB_DATABASES}

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

    @property
    def free(self) -> int:
        """Bytes that the state directory's file system has left for us."""
        try:
            status = os.statvfs(self.state_dir)
        except OSError:
            return 0
        return status.f_bavail * status.f_frsize

    def release_dead_readers(self) -> int:
        """Free the places of killed readers, which would pin old pages."""
        return int(self._env.reader_check())

    def close(self) -> None:
        self._env.close()


def stored_identity(state_dir: Path) -> Identity:
    """The identity of the published store, by its own account.

    Raises OSError, with words for a person, when there is no store that this version can read.
    """
    folder = published(state_dir)
    if folder is None or not (folder / "data.mdb").exists():
        raise OSError(f"{state_dir}: no store is published there")
    try:
        env = _open(folder, readonly=True)
    except (lmdb.Error, OSError) as error:
        raise OSError(f"{folder}: {error}") from None
    try:
        if not _complete(env, folder):
            raise OSError(f"{folder}: damaged: the file is shorter than its own header says")
        dbs = {"meta": env.open_db(b"meta", create=False)}
        with env.begin() as raw:
            found = {key: ReadTransaction(raw, dbs).meta(key) or b"" for key in (_FORMAT_KEY, _SOURCE, _SHAPE, _BOOT)}
    except lmdb.Error as error:
        raise OSError(f"{folder}: {error}") from None
    finally:
        env.close()
    if found[_FORMAT_KEY] != FORMAT:
        raise OSError(f"{folder}: another format, of another version of headwater")
    if found[_BOOT] != Identity.boot():
        raise OSError(f"{folder}: written before the machine restarted, or on another one: it would not be used")
    return Identity(found[_SOURCE].decode(), found[_SHAPE].decode())


def _later(env: lmdb.Environment) -> dict[str, Any]:
    """Those of _LATER that are there."""
    found = {}
    for name in _LATER:
        with contextlib.suppress(lmdb.Error, OSError):
            found[name] = env.open_db(name.encode(), create=False)
    return found


class Reader:
    """The readers' side: follows the published generation, hands out snapshots.

    Thread-safe: `begin` may run in any thread while `follow` runs in another.
    """

    #: Seconds for which a replaced environment stays open for queries that still read it.
    _LINGER: Final = 5.0

    def __init__(self, state_dir: Path, identity: Identity) -> None:
        self._state_dir = state_dir
        self._identity = identity
        self._folder: Path | None = None
        self._open: tuple[lmdb.Environment, Any, dict[str, Any], int] | None = None
        self._replaced: list[tuple[float, lmdb.Environment]] = []
        self._lock = threading.Lock()
        self._generation = 0
        self._whole = 0
        """The generation's number, once every snapshot that has it is complete."""

    def follow(self) -> None:
        """Open the published generation if it has changed. A bad one raises nothing.

        A store whose link is gone is still served, because its answers are the best there are. One
        that the writer took back is not.
        """
        with self._lock:
            now = time.monotonic()
            while self._replaced and now - self._replaced[0][0] > self._LINGER:
                self._replaced.pop(0)[1].close()
            folder = published(self._state_dir)
            if folder is None or folder == self._folder:
                self._look_for_later()
                return
            opened = None if folder.name == WITHDRAWN else self._try(folder)
            if opened is None and folder.name != WITHDRAWN:
                return
            if self._open is not None:
                self._replaced.append((now, self._open[0]))
            self._open, self._folder = opened, folder

    def _try(self, folder: Path) -> tuple[lmdb.Environment, Any, dict[str, Any], int] | None:
        """A generation opened, if its identity is ours."""
        expected = ((_FORMAT_KEY, FORMAT), (_SOURCE, self._identity.source.encode()), (_BOOT, Identity.boot()))
        try:
            env = _open(folder, readonly=True)
        except (lmdb.Error, OSError):
            return None
        with contextlib.suppress(lmdb.Error, OSError):
            if _complete(env, folder):
                dbs = {name: env.open_db(name.encode(), create=False) for name in _SUB_DATABASES}
                with env.begin(db=dbs["meta"]) as txn:
                    same = all(txn.get(key) == value for key, value in expected)
                    whole = self.is_ready(Snapshot(txn, dbs, 0))
                if same:
                    self._generation += 1
                    self._whole = self._generation if whole else 0
                    return env, dbs["records"], dbs | _later(env), self._generation
        env.close()
        return None

    def _look_for_later(self) -> None:
        """Open what the writer may have added to a store of an earlier version."""
        if self._open is not None and any(name not in self._open[2] for name in _LATER):
            env, records, dbs, generation = self._open
            self._open = env, records, dbs | _later(env), generation

    def begin(self, *, copies: bool = False) -> Snapshot | None:
        """A snapshot of now, or None when no store is open.

        `copies`: what it gives are bytes, not buffers; for who reads all, they cost half.
        """
        opened = self._open
        if opened is None:
            return None
        env, records, others, generation = opened
        buffers: Any = not copies
        try:
            txn = env.begin(records, None, False, buffers)
        except lmdb.MapResizedError:
            env.set_mapsize(0)
            txn = env.begin(records, None, False, buffers)
        return Snapshot(txn, others, generation)

    def condemn(self, snapshot: Snapshot) -> None:
        """Tell the writer that a page of this generation cannot be read. Raises OSError."""
        folder = self._folder
        if folder is None or snapshot.generation != self._generation or is_condemned(folder):
            return
        if published(self._state_dir) in (folder, None):  # not one that is being removed
            condemn(folder)

    @property
    def identity(self) -> Identity:
        """The one that a store must have."""
        return self._identity

    @property
    def folder(self) -> Path | None:
        """The generation that it has open."""
        return self._folder if self._open is not None else None

    def is_ready(self, snapshot: Snapshot) -> bool:
        """Whether its records are complete, and of these settings."""
        return bool(snapshot.meta(READY)) and self._is_of_these_settings(snapshot)

    def is_whole(self, snapshot: Snapshot) -> bool:
        """Whether all snapshots with the number of this one, which `is_ready`, are so.

        A thread may still have one that was begun while records were being made. So a store that
        was opened before it was ready gets another number when it is, for later snapshots.
        """
        with self._lock:
            if snapshot.generation == self._whole:
                return True
            if self._open is not None and self._open[3] == snapshot.generation:
                env, records, dbs, _ = self._open
                self._generation += 1
                self._open = env, records, dbs, self._generation
                self._whole = self._generation
            return False

    def is_being_made(self, snapshot: Snapshot) -> bool:
        """Whether its objects are complete, and records of these settings are being made from them.

        Those that are there are right. The others can be made from the objects.
        """
        return bool(snapshot.meta(MAKING)) and self._is_of_these_settings(snapshot)

    def can_answer(self, snapshot: Snapshot) -> bool:
        """Whether every name can be answered from it: it is ready, or being made."""
        return self.is_ready(snapshot) or self.is_being_made(snapshot)

    def _is_of_these_settings(self, snapshot: Snapshot) -> bool:
        return snapshot.meta(_SHAPE) == self._identity.shape.encode()

    def close(self) -> None:
        with self._lock:
            for _, env in self._replaced:
                env.close()
            if self._open is not None:
                self._open[0].close()
            self._open = None
