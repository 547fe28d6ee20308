"""The store: one file, one writer, and readers that never see half a transaction."""

from __future__ import annotations

import mmap
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from headwater.store import environment
from headwater.store.environment import READY, Reader, ReadTransaction, Store, StoreDamaged, Transaction
from headwater.store.identity import Identity, condemn, discard, published

IDENTITY = Identity("here", "shape")


def fill(store: Store, count: int = 100) -> None:
    def work(txn: Transaction) -> None:
        for i in range(count):
            txn.put("records", b"name-%d" % i, b"value-%d" % i * 20)
            txn.put("objects", b"object-%d" % i, b"x" * 200)
        txn.set_meta(READY, b"1")
        store.sign_shape(txn)

    store.write(work)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return a state directory with a published store."""
    store, _ = Store.open(tmp_path, IDENTITY)
    fill(store)
    store.publish()
    store.close()
    return tmp_path


def reopen(state: Path, identity: Identity = IDENTITY) -> tuple[dict[bytes, bytes], str]:
    store, why = Store.open(state, identity)
    try:
        return store.read(lambda txn: dict(txn.scan("records"))), why
    finally:
        store.close()


def test_what_was_committed_is_there_again(state: Path) -> None:
    records, why = reopen(state)
    assert (len(records), why) == (100, "")


@pytest.mark.parametrize("identity", [Identity("elsewhere", "shape")])
def test_another_clusters_store_is_discarded_with_the_reason(state: Path, identity: Identity) -> None:
    records, why = reopen(state, identity)
    assert (records, why) == ({}, "another cluster or other files")


def test_other_settings_keep_the_objects_but_not_the_signature(state: Path) -> None:
    store, why = Store.open(state, Identity("here", "other"))
    assert why == ""
    assert not store.shape_matches
    assert store.read(lambda txn: txn.count("objects")) == 100
    store.close()


def test_another_formats_store_is_discarded(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "FORMAT", b"999")
    records, why = reopen(state)
    assert records == {}
    assert why.startswith("another format (5, ours is 999")


def test_a_store_from_before_a_reboot_is_discarded(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Identity, "boot", staticmethod(lambda: b"another boot"))
    assert reopen(state) == ({}, "written before the machine restarted")


def test_a_truncated_store_is_discarded(state: Path) -> None:
    folder = published(state)
    assert folder is not None
    os.truncate(folder / "data.mdb", 3 * 4096)
    records, why = reopen(state)
    assert records == {}
    assert "shorter than its own header says" in why


@pytest.mark.parametrize("content", [b"", b"not a database", bytes(65536)])
def test_a_file_that_is_no_store_is_discarded(state: Path, content: bytes) -> None:
    folder = published(state)
    assert folder is not None
    (folder / "data.mdb").write_bytes(content)
    records, why = reopen(state)
    assert records == {}
    assert content == b"" or why


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_changed_value_is_found_out(state: Path, seed: int) -> None:
    folder = published(state)
    assert folder is not None
    data = bytearray((folder / "data.mdb").read_bytes())
    places = [at for at in range(len(data) - 7) if data[at : at + 6] == b"value-"]
    data[random.Random(seed).choice(places)] ^= 0x20
    (folder / "data.mdb").write_bytes(data)
    records, why = reopen(state)
    # The damage may be in an old copy of a page, which is harmless.
    if why:
        assert (records, why) == ({}, "damaged: the checksum does not match")
    else:
        assert set(records.values()) == {b"value-%d" % i * 20 for i in range(100)}


def test_the_checksum_follows_every_write(state: Path) -> None:
    store, _ = Store.open(state, IDENTITY)

    def work(txn: Transaction) -> None:
        txn.put("records", b"name-1", b"other")
        txn.put("records", b"name-2", b"value-2" * 20)
        txn.delete("records", b"name-3")
        txn.delete("records", b"never there")
        txn.put("records", b"new", b"new")
        assert txn.changed == 3

    store.write(work)
    assert store.read(lambda txn: txn.checksum_holds())
    store.write(lambda txn: txn.clear("records"))
    assert store.read(lambda txn: txn.checksum_holds())
    store.close()
    assert reopen(state) == ({}, "")


def test_a_failed_transaction_leaves_everything_as_it_was(state: Path) -> None:
    store, _ = Store.open(state, IDENTITY)

    def work(txn: Transaction) -> None:
        txn.delete("records", b"name-1")
        raise KeyError("in the middle")

    with pytest.raises(KeyError):
        store.write(work)
    assert store.read(lambda txn: txn.count("records")) == 100
    assert store.read(lambda txn: txn.checksum_holds())
    store.close()


def test_the_map_grows_when_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_MAP_SIZE", 1 << 18)
    store, _ = Store.open(tmp_path, IDENTITY)
    fill(store, 5000)
    assert store.read(lambda txn: (txn.count("records"), txn.checksum_holds())) == (5000, True)
    store.close()


def test_the_map_does_not_grow_under_who_is_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit reads in a thread:

    LMDB would move the map, and a reader would read a wrong address.
    """
    monkeypatch.setattr(environment, "_MAP_SIZE", 1 << 18)
    store, _ = Store.open(tmp_path, IDENTITY)
    fill(store, 10)
    reading, grown, seen = threading.Event(), threading.Event(), []

    def read(txn: ReadTransaction) -> None:
        for _ in txn.scan("records"):
            reading.set()
            # It must not happen; the time is how long the test waits for a mistake.
            seen.append(grown.wait(0.05))

    reader = threading.Thread(target=lambda: store.read(read))
    reader.start()
    assert reading.wait(10)
    real = store._env

    class Watched:
        def __getattr__(self, name: str) -> object:
            if name == "set_mapsize":
                grown.set()
            return getattr(real, name)

    monkeypatch.setattr(store, "_env", Watched())
    fill(store, 5000)
    assert grown.is_set()
    reader.join(10)
    assert seen == [False] * 10
    store.close()


def test_who_reads_cannot_write(tmp_path: Path) -> None:
    store, _ = Store.open(tmp_path, IDENTITY)
    writing = {name for name in vars(Transaction) if not name.startswith("_")}
    assert {"put", "delete", "fill", "index", "unindex", "clear", "set_meta", "finish"} <= writing
    store.read(lambda txn: [pytest.fail(name) for name in writing if hasattr(txn, name)])
    store.close()


def test_a_reader_follows_a_map_that_has_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_MAP_SIZE", 1 << 19)
    store, _ = Store.open(tmp_path, IDENTITY)
    fill(store, 10)
    store.publish()
    store.close()
    reader = Reader(tmp_path, IDENTITY)
    reader.follow()
    grow = (
        "from pathlib import Path; import sys; from tests.unit.test_store import *;"
        "store, _ = Store.open(Path(sys.argv[1]), IDENTITY); fill(store, 5000)"
    )
    subprocess.run([sys.executable, "-c", grow, str(tmp_path)], check=True, cwd=Path(__file__).parents[2])
    snapshot = reader.begin()
    assert snapshot is not None
    assert bytes(snapshot.get(b"name-4999")) == b"value-4999" * 20
    snapshot.close()
    reader.close()


def test_a_full_disk_is_said_and_nothing_is_lost(state: Path) -> None:
    # For one process, a limit on the file's size is like a full disk.
    script = (
        "import resource, signal, sys; from pathlib import Path; from tests.unit.test_store import *\n"
        "from headwater.store.environment import StoreFull\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "store, _ = Store.open(Path(sys.argv[1]), IDENTITY)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (store.size, store.size))\n"
        "try: fill(store, 5000)\n"
        "except StoreFull as error: print('full:', error)\n"
        "print(store.read(lambda txn: (txn.count('records'), txn.checksum_holds())))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(state)],
        check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.stdout.startswith("full:"), done.stdout + done.stderr
    assert done.stdout.endswith("(100, True)\n")
    assert reopen(state)[1] == ""


def test_a_reader_opens_what_is_published_and_nothing_else(tmp_path: Path) -> None:
    reader = Reader(tmp_path, IDENTITY)
    reader.follow()
    assert reader.begin() is None
    store, _ = Store.open(tmp_path, IDENTITY)
    fill(store)
    store.close()
    reader.follow()
    assert reader.begin() is None, "not published yet"
    store, _ = Store.open(tmp_path, IDENTITY)
    fill(store)
    store.publish()
    store.close()
    reader.follow()
    snapshot = reader.begin()
    assert snapshot is not None
    assert reader.is_ready(snapshot)
    snapshot.close()
    reader.close()


@pytest.mark.parametrize("identity", [Identity("elsewhere", "shape"), Identity("here", "shape")])
def test_a_reader_takes_no_other_clusters_store(state: Path, identity: Identity) -> None:
    reader = Reader(state, identity)
    reader.follow()
    assert (reader.begin() is None) == (identity.source == "elsewhere")
    reader.close()


def test_a_reader_is_not_ready_with_other_settings(state: Path) -> None:
    reader = Reader(state, Identity("here", "other"))
    reader.follow()
    snapshot = reader.begin()
    assert snapshot is not None
    assert not reader.is_ready(snapshot)
    snapshot.close()
    reader.close()


def test_a_reader_serves_on_when_the_directory_is_removed(state: Path) -> None:
    reader = Reader(state, IDENTITY)
    reader.follow()
    for file in sorted(state.rglob("*"), reverse=True):
        file.unlink() if file.is_symlink() or file.is_file() else file.rmdir()
    reader.follow()
    snapshot = reader.begin()
    assert snapshot is not None
    assert bytes(snapshot.get(b"name-7")) == b"value-7" * 20
    snapshot.close()
    reader.close()


def test_a_folder_in_the_links_place_is_put_away(tmp_path: Path) -> None:
    """A state directory was copied by who follows links."""
    (tmp_path / "current").mkdir()
    (tmp_path / "current" / "data.mdb").write_bytes(b"")
    store, _ = Store.open(tmp_path, IDENTITY)
    store.publish()
    assert store.is_published
    assert sorted(item.name for item in tmp_path.iterdir()) == ["current", store.folder.name]
    store.close()


def test_a_link_that_cannot_be_put_in_its_place_is_not_left_behind(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second another one would be tried."""

    def full(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    before = sorted(state.iterdir())
    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space"):
        discard(state)
    assert sorted(state.iterdir()) == before


def test_a_reader_lets_go_of_a_store_that_is_taken_back(state: Path) -> None:
    reader = Reader(state, IDENTITY)
    reader.follow()
    discard(state)
    reader.follow()
    assert reader.begin() is None
    reader.close()


def test_a_reader_changes_to_the_next_generation(state: Path) -> None:
    reader = Reader(state, IDENTITY)
    reader.follow()
    before = reader.begin()
    assert before is not None
    script = (
        "import sys; from pathlib import Path; from tests.unit.test_store import *\n"
        "state = Path(sys.argv[1]); store = Store._create(state, IDENTITY)\n"
        "store.write(lambda txn: txn.put('records', b'name-7', b'new'))\n"
        "store.publish()"
    )
    subprocess.run([sys.executable, "-c", script, str(state)], check=True, cwd=Path(__file__).parents[2])
    reader.follow()
    after = reader.begin()
    assert after is not None
    assert bytes(before.get(b"name-7")) == b"value-7" * 20, "a query under way keeps what it began with"
    assert bytes(after.get(b"name-7")) == b"new"
    assert after.generation > before.generation
    before.close()
    after.close()
    reader.close()
    assert len(list(state.glob("store-*"))) == 1


def test_a_killed_readers_place_is_freed(state: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from tests.unit.test_store import *\n"
        "reader = Reader(Path(sys.argv[1]), IDENTITY); reader.follow(); snapshot = reader.begin(); os._exit(9)"
    )
    store, _ = Store.open(state, IDENTITY)
    subprocess.run([sys.executable, "-c", script, str(state)], check=False, cwd=Path(__file__).parents[2])
    assert store.release_dead_readers() == 1
    assert store.release_dead_readers() == 0
    store.close()


@pytest.mark.parametrize("seed", range(6))
def test_a_store_is_complete_after_every_commit(tmp_path: Path, seed: int) -> None:
    """LMDB counts unwritten pages at the end, so a short file need not be a truncated one."""
    random_ = random.Random(seed)
    held: list[bytes] = []

    def work(txn: Transaction) -> None:
        for _ in range(random_.randrange(1, 60)):
            if held and random_.random() < 0.5:
                txn.delete("records", held.pop(random_.randrange(len(held))))
            else:
                held.append(b"name-%d" % random_.randrange(10**9))
                txn.put("records", held[-1], b"v" * random_.choice([10, 100, 3000, 9000]))

    store, _ = Store.open(tmp_path, IDENTITY)
    store.write(lambda txn: txn.set_meta(READY, b"1"))
    store.publish()
    for _ in range(20):
        store.write(work)
        store.close()
        store, why = Store.open(tmp_path, IDENTITY)
        assert why == ""
    store.close()


def test_a_condemned_store_is_served_until_another_is_published(state: Path) -> None:
    store, _ = Store.open(state, IDENTITY)
    store.publish()
    store.close()
    before = (state / "current").resolve()
    condemn(before)
    for _ in range(2):  # the process that makes the new store may die too
        store, why = Store.open(state, IDENTITY)
        assert why.startswith("damaged")
        assert (state / "current").resolve() == before, "readers go on"
        assert sorted(state.glob("store-*")) == sorted([before, store.folder])
        store.close()
    store, _ = Store.open(state, IDENTITY)
    store.publish()
    store.close()
    assert list(state.glob("store-*")) == [(state / "current").resolve()]
    store, why = Store.open(state, IDENTITY)
    assert why == ""
    store.close()


def test_what_is_left_of_a_replaced_store_is_removed(state: Path) -> None:
    """A reader that marks it as damaged while it is being removed leaves a folder with the mark."""
    before = (state / "current").resolve()
    reader = Reader(state, IDENTITY)
    reader.follow()
    snapshot = reader.begin()
    assert snapshot is not None
    condemn(before)
    store, _ = Store.open(state, IDENTITY)
    (before / "damaged").unlink()
    store.remove_others()
    assert before.exists(), "it is served until there is another"
    store.publish()
    assert not before.exists()
    before.mkdir()
    reader.condemn(snapshot)
    assert list(before.iterdir()) == [], "it is replaced already"
    condemn(before)
    store.remove_others()
    assert list(state.glob("store-*")) == [store.folder]
    snapshot.close()
    reader.close()
    store.close()


def test_a_zeroed_page_is_damage_in_every_transaction(tmp_path: Path) -> None:
    """Any page, and any error of LMDB: for the root of all sub-databases it is MDB_BAD_TXN."""
    store, _ = Store.open(tmp_path, IDENTITY)
    fill(store)
    data = (store.folder / "data.mdb").read_bytes()
    size = mmap.PAGESIZE
    told = 0
    for number in range(2, len(data) // size):
        if not any(data[number * size : (number + 1) * size]):
            continue
        file = os.open(store.folder / "data.mdb", os.O_RDWR)
        os.pwrite(file, bytes(size), number * size)
        for _ in range(2):  # the second time LMDB may raise another error
            try:
                store.write(lambda txn: [txn.get("records", b"name-%d" % i) for i in range(100)])
            except StoreDamaged:
                told += 1
        os.pwrite(file, data, 0)  # restore the page, whatever was written meanwhile
        os.close(file)
    assert told
    store.close()


@pytest.mark.parametrize("copies", [False, True])
def test_a_piece_for_another_instance_is_larger_than_it_should_be_by_one_entry_at_most(
    copies: bool, tmp_path: Path
) -> None:
    """Also where many large entries follow one another: pieces that are too large are refused."""
    chance = random.Random(1)
    entries = [
        (b"key %05d" % i, b"v" * chance.choice([0, 10, 300, 900] if i < 500 else [900, 5000])) for i in range(700)
    ]
    store, _ = Store.open(tmp_path, IDENTITY)
    store.write(lambda txn: txn.load("records", *(list(items) for items in zip(*entries, strict=True))))
    store.publish()
    store.close()
    reader = Reader(tmp_path, IDENTITY)
    reader.follow()
    snapshot = reader.begin(copies=copies)
    assert snapshot is not None
    found = [[bytes(item) for item in piece] for piece in snapshot.pieces("records", 2000)]
    snapshot.close()
    reader.close()
    assert [item for piece in found for item in piece] == [item for entry in entries for item in entry]
    for piece in found:
        assert sum(map(len, piece[:-2])) < 2000
    for piece in found[:-1]:
        assert sum(map(len, piece)) >= 2000


@pytest.mark.parametrize("keys", [[b"b", b"a"], [b"a", b"a"], [b""], [b"a", b"x" * 512]])
def test_what_is_no_order_of_keys_is_not_loaded(keys: list[bytes], tmp_path: Path) -> None:
    store, _ = Store.open(tmp_path, IDENTITY)
    with pytest.raises(ValueError, match=r"^a key of records is too long, or empty|are not in order$"):
        store.write(lambda txn: txn.load("records", keys, [b"v"] * len(keys)))
    store.write(lambda txn: txn.load("records", [b"k", b"l"], [b"1", b"2"]))
    store.write(lambda txn: txn.load("slices", [b"k"], [b""]))
    store.write(lambda txn: txn.load("slices", [], []))
    assert store.read(lambda txn: txn.checksum_holds())
    assert store.read(lambda txn: txn.count("records")) == 2
    store.close()


#: Opens a store again and again, as after lists, and prints how many KiB of its own it writes for
#: that after the first time.
OPENED_AGAIN = """
import re, sys
from pathlib import Path
from headwater.process import heap
from headwater.store.environment import Store
from headwater.store.identity import Identity

def own():
    return int(re.search("Pss_Anon: +([0-9]+)", Path("/proc/self/smaps_rollup").read_text())[1])

heap.settle()
store, _ = Store.open(Path(sys.argv[1]), Identity("here", "shape"))
store.unmap()
before = own()
for _ in range(3):
    store.unmap()
print(own() - before)
"""


def test_a_store_that_is_opened_again_takes_no_more_memory(state: Path) -> None:
    """LMDB asks malloc for 2 MiB of zeros, and hardly uses them."""
    done = subprocess.run(
        [sys.executable, "-c", OPENED_AGAIN, state], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 512
