"""An instance with nothing stored takes another one's store; else it lists."""

from __future__ import annotations

import functools
import json
import operator
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from headwater.cluster.objects import version_number
from headwater.store.copied import Chain, encode_head
from headwater.store.identity import published

from tests.fakeapi import faults
from tests.fakeapi.cluster import APP, EVERYTHING, STABLE, app, objects
from tests.fakeapi.role import IMPATIENT, SHORT
from tests.fakeapi.server import Behaviour, FakeApiServer
from tests.fakeapi.truth import Truth
from tests.fakeapi.watching import DEADLINE, Watching
from tests.harness.instance import Headwater
from tests.harness.peers import Liar, Peer, Recorded, record
from tests.harness.processes import free_port, wait_until

FOREVER = float("inf")
RESOURCES = 5


@dataclass
class Scene:
    """A cluster, an instance that knows all of it, and the folder of another one."""

    api: FakeApiServer
    first: Watching
    peer: Peer
    folder: Path

    def check(self, new: Watching) -> None:
        """Compare the store with the truth, while nobody else watches."""
        self.first.kill()
        new.check()

    def record(self) -> Recorded:
        return record(self.peer.port)

    @contextmanager
    def newcomer(self, *ports: int, flags: tuple[str, ...] = EVERYTHING, **options: object) -> Iterator[Watching]:
        """An instance that is not started yet, which asks at these ports."""
        self.folder.mkdir(exist_ok=True)
        seeds = [item for port in ports for item in ("--seed", f"127.0.0.1:{port}")]
        watching = Watching(self.api, self.folder, *flags, *seeds, stable=STABLE, **options)  # type: ignore[arg-type]
        with watching.closing():
            yield watching

    @contextmanager
    def lied_to(self, say: Callable[[socket.socket], None], **options: object) -> Iterator[tuple[Watching, Liar]]:
        """An instance whose only peer says that."""
        with Liar(say).lying() as liar, self.newcomer(liar.port, **options) as watching:  # type: ignore[arg-type]
            yield watching, liar


@contextmanager
def scene(folder: Path, *flags: str, behaviour: Behaviour | None = None) -> Iterator[Scene]:
    with FakeApiServer(Truth(objects()), behaviour) as api:
        # The flag makes it store its age; the port is the test's own.
        first = Watching(api, folder, *(flags or EVERYTHING), "--peer-listen", "127.0.0.1:1", stable=STABLE)
        with first.closing():
            first.ready()
            with Peer(first.settings, first.view.reader).serving() as peer:
                wait_until(lambda: peer.reader.folder is not None, DEADLINE, "the peer has the store")
                yield Scene(api, first, peer, folder / "new")


def is_published(watching: Watching) -> bool:
    folder = published(Path(watching.settings.state_dir))
    return folder is not None and folder.is_dir()


def until_published(watching: Watching) -> None:
    wait_until(lambda: is_published(watching), DEADLINE, "a store is published", interval=0.005)


def marked(watching: Watching) -> bool:
    return (Path(watching.settings.state_dir) / "seeding").exists()


# All is well


def test_the_store_of_a_peer_is_taken_and_nothing_is_listed(tmp_path: Path) -> None:
    with scene(tmp_path) as here:
        began = time.monotonic()
        with here.newcomer(here.peer.port) as new:
            new.start()
            until_published(new)
            assert new.snapshot().seeds == {"taken": 1}
            here.api.truth.put(app(2))
            new.until(APP, "10.44.9.2")
            here.check(new)
            assert here.api.count("list", since=began) == 0
            assert not marked(new)
            assert new.logged("is taken: 18 objects") == 1


def test_what_is_taken_is_told_in_the_history_and_the_peers_history_is_not(tmp_path: Path) -> None:
    from headwater.store.environment import Store
    from headwater.store.history import HISTORY, Kind, decode

    from tests.fakeapi.reader import identity_of

    with scene(tmp_path) as here:
        here.api.truth.put(app(2))
        here.first.settle()
        with here.newcomer(here.peer.port) as new:
            new.start()
            until_published(new)
            new.settle()
            new.kill()
            new.prober.stop()
            new.view.close()
            store, why = Store.open(Path(new.settings.state_dir), identity_of(new.settings))
            assert not why
            entries = store.read(lambda txn: [decode(value) for _, value in txn.scan(HISTORY)])
            store.close()
            assert [(item.kind, item.what) for item in entries] == [
                (Kind.BEGUN, "the records were taken from another instance")
            ]


def test_a_restart_takes_nothing_again(tmp_path: Path) -> None:
    with scene(tmp_path) as here, here.newcomer(here.peer.port) as new:
        new.start()
        until_published(new)
        new.kill()
        new.start()
        new.settle()
        assert new.snapshot().seeds == {}
        here.peer.until(sent=1)
        here.check(new)


def test_other_settings_take_the_objects_and_compile_anew(tmp_path: Path) -> None:
    flags = (*EVERYTHING, "--ttl", "30", "--zone", "example.org", "--zone", "cluster.local")
    with scene(tmp_path) as here:
        began = time.monotonic()
        with here.newcomer(here.peer.port, flags=flags) as new:
            new.start()
            until_published(new)
            assert new.snapshot().seeds == {"taken": 1}
            here.check(new)
            assert here.api.count("list", since=began) == 0


def test_a_resource_that_the_peer_does_not_watch_is_listed_alone(tmp_path: Path) -> None:
    with scene(tmp_path, "--pods", "disabled") as here:
        began = time.monotonic()
        with here.newcomer(here.peer.port) as new:
            new.start()
            until_published(new)
            here.check(new)
            assert {item.resource for item in here.api.asked("list", since=began)} == {"pods", "serviceimports"}


def test_the_next_peer_is_asked(tmp_path: Path) -> None:
    with scene(tmp_path) as here, socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
        nobody.close()
        began = time.monotonic()
        with here.newcomer(port, here.peer.port) as new:
            new.start()
            until_published(new)
            assert new.snapshot().seeds == {"no_peer": 1, "taken": 1}
            assert here.api.count("list", since=began) == 0


def test_a_peer_that_is_busy_is_asked_again(tmp_path: Path) -> None:
    with scene(tmp_path) as here:
        whole = here.record().bytes()
        said: list[int] = []

        def say(end: socket.socket) -> None:
            said.append(1)
            end.sendall(refusal(503, "busy") if len(said) < 3 else whole)

        with here.lied_to(say) as (new, _):
            new.start()
            until_published(new)
            assert new.snapshot().seeds == {"busy": 2, "taken": 1}
            here.check(new)


def test_a_peer_that_is_not_ready_yet_is_waited_for(tmp_path: Path) -> None:
    """The other one of a pod started seconds before: what it lists is not listed beside it."""
    with scene(tmp_path) as here:
        whole = here.record().bytes()
        said: list[int] = []
        began = time.monotonic()

        def say(end: socket.socket) -> None:
            said.append(1)
            end.sendall(refusal(503, "not_ready") if len(said) < 4 else whole)

        with here.lied_to(say, timing=replace(SHORT, sibling=DEADLINE)) as (new, liar):
            new.start()
            until_published(new)
            assert new.snapshot().seeds == {"not_ready": 3, "taken": 1}
            assert here.api.count("list", since=began) == 0
            assert new.logged(f"no store from 127.0.0.1:{liar.port}: it says 503 not_ready") == 1
            here.check(new)


def test_a_peer_that_does_not_get_ready_is_not_waited_for_longer(tmp_path: Path) -> None:
    refused = refusal(503, "not_ready")
    with scene(tmp_path) as here, here.lied_to(
        lambda end: end.sendall(refused), timing=replace(SHORT, sibling=1.2)
    ) as (new, _):  # fmt: skip
        new.start()
        until_published(new)
        assert new.snapshot().seeds == {"not_ready": 3} or new.snapshot().seeds == {"not_ready": 2}
        here.check(new)


# The API server


@pytest.mark.parametrize("muted", [False, True])
def test_without_the_api_server_what_the_peer_knows_is_served_at_once(muted: bool, tmp_path: Path) -> None:
    """It refuses connections, or takes them and says nothing."""
    with scene(tmp_path) as here:
        old = {name: item.age for name, item in here.first.snapshot().resources.items()}
        if muted:
            here.api.muted = True
        else:
            here.api.down()
        with here.newcomer(here.peer.port, timing=IMPATIENT) as new:
            began = time.monotonic()
            new.start()
            until_published(new)
            assert time.monotonic() - began < 4.0
            assert new.view.ask(APP) == ("NOERROR", frozenset({"10.44.9.1"}))
            state = new.snapshot()
            assert state.ready
            for name, item in state.resources.items():
                assert not item.connected
                assert item.age >= old[name] - 0.01, "it is as old as the peer's"
            here.api.muted = False
            if not muted:
                here.api.up()
            here.api.truth.put(app(2))
            new.until(APP, "10.44.9.2")
            here.check(new)


def test_a_truth_that_becomes_too_old_on_the_way_is_not_told(tmp_path: Path) -> None:
    """The age of what the peer knew goes on with `--max-staleness`."""
    with scene(tmp_path) as here:
        here.api.down()
        with here.newcomer(here.peer.port, flags=(*EVERYTHING, "--max-staleness", "1h")) as new:
            new.start()
            until_published(new)
            new.kill()
            new.prober.stop()
            new.view.close()
            from headwater.store.environment import Store

            from tests.fakeapi.reader import identity_of

            store, _ = Store.open(Path(new.settings.state_dir), identity_of(new.settings))
            heard, first = store.heard(), here.peer.reader.begin()
            store.close()
            assert first is not None
            theirs = first.heard()
            first.close()
            assert heard is not None
            assert theirs is not None
            assert abs(heard[0] - theirs[0]) < 0.2
            assert not heard[1]


def test_a_version_that_is_too_old_leads_to_a_list_and_nothing_is_served_before(tmp_path: Path) -> None:
    with scene(tmp_path) as here:
        old = here.record().bytes()
        here.api.truth.put(app(2))
        here.first.settle()
        here.api.truth.compact()
        here.api.on("list", "endpointslices", faults.status(500), times=FOREVER)
        with here.lied_to(lambda end: end.sendall(old)) as (new, _):
            new.start()
            new.until_refused(1)
            wait_until(lambda: here.api.watching("services") > 1, DEADLINE, "the other lists are complete")
            assert new.snapshot().seeds == {"taken": 1}
            assert not new.snapshot().ready
            assert not is_published(new)
            here.api.heal()
            until_published(new)
            assert new.view.ask(APP) == ("NOERROR", frozenset({"10.44.9.2"}))
            here.check(new)


def test_a_version_that_the_api_server_has_not_reached_is_not_used(tmp_path: Path) -> None:
    """It was restored from a backup."""
    with scene(tmp_path) as here:
        version = here.api.truth.version
        here.api.truth.put(app(2))
        here.first.settle()
        later = here.record().bytes()
        here.first.kill()
        here.api.truth.restore(version)
        began = time.monotonic()
        with here.lied_to(lambda end: end.sendall(later)) as (new, _):
            new.start()
            until_published(new)
            assert new.snapshot().seeds == {"ahead": 1}
            assert here.api.count("list", since=began) >= RESOURCES
            here.check(new)


def test_who_may_not_ask_the_api_server_serves_nothing(tmp_path: Path) -> None:
    """Its permission is missing, so nobody has said that it is the same cluster."""
    with scene(tmp_path) as here:
        whole = here.record().bytes()
        here.first.kill()
        here.api.on("list", "namespaces", faults.status(403), times=FOREVER)
        here.api.on("watch", None, faults.status(403), times=FOREVER)
        with here.lied_to(lambda end: end.sendall(whole)) as (new, _):
            new.start()
            new.until_refused(2)
            assert not is_published(new)
            assert "waiting for the API server to go on from the store of" in new.snapshot().detail
            here.api.heal()
            until_published(new)
            here.check(new)


def test_an_api_server_that_takes_no_watch_is_not_waited_for(tmp_path: Path) -> None:
    with scene(tmp_path) as here:
        here.api.on("watch", None, faults.hang, times=FOREVER)
        with here.newcomer(here.peer.port) as new:
            new.start()
            until_published(new)
            assert new.snapshot().ready
            here.api.heal()
            here.api.cut_all()
            here.check(new)


# The proof beside the copy. Watches that come after its own hang: for 2 s nothing else publishes.

IMPATIENT_AFTER = 2.0


def test_who_goes_on_from_the_versions_is_asked_beside_the_copy(tmp_path: Path) -> None:
    with scene(tmp_path, behaviour=Behaviour(bookmarks=60)) as here:
        here.api.on("watch", None, faults.hang, times=FOREVER, skip=RESOURCES)
        with here.newcomer(here.peer.port) as new:
            began = time.monotonic()
            new.start()
            until_published(new)
            assert time.monotonic() - began < IMPATIENT_AFTER
            proof = [item for item in here.api.asked("watch", since=began) if item.status == 200]
            assert len({item.resource for item in proof}) == RESOURCES
            wait_until(lambda: all(item.ended for item in proof), DEADLINE, "its watches are closed")
            assert max(item.ended for item in proof) - began < SHORT.silence, "nobody has closed them"
            here.api.heal()
            here.api.cut_all()
            here.check(new)


def test_an_event_is_a_proof_and_is_told_again_by_the_watch(tmp_path: Path) -> None:
    with scene(tmp_path) as here:
        whole = here.record().bytes()
        here.api.truth.put(app(2))
        here.first.settle()
        with here.lied_to(lambda end: end.sendall(whole)) as (new, _):
            new.start()
            until_published(new)
            new.until(APP, "10.44.9.2")
            here.check(new)


@pytest.mark.parametrize("verdict", ["too old", "silent"])
def test_who_does_not_go_on_from_one_version_has_proven_nothing(verdict: str, tmp_path: Path) -> None:
    with scene(tmp_path) as here, here.newcomer(here.peer.port) as new:
        here.api.on("watch", "services", faults.hang if verdict == "silent" else faults.status(410))
        here.api.on("watch", None, faults.hang, times=FOREVER, skip=RESOURCES - 1)
        began = time.monotonic()
        new.start()
        until_published(new)
        assert time.monotonic() - began > IMPATIENT_AFTER
        assert new.snapshot().seeds == {"taken": 1}
        here.api.heal()
        here.api.cut_all()
        here.check(new)


def test_versions_that_the_copy_does_not_have_prove_nothing(tmp_path: Path) -> None:
    """What is proven is of another version: the copy's own may be one that the server forgot."""
    with scene(tmp_path) as here:
        copy = here.record()
        here.api.truth.put(app(2))
        here.first.settle()
        here.api.truth.compact()
        lies = copy.but(versions=dict.fromkeys(copy.head.versions, str(here.api.truth.version))).bytes()
        here.api.on("list", "endpointslices", faults.status(500), times=FOREVER)
        with here.lied_to(lambda end: end.sendall(lies)) as (new, _):
            new.start()
            new.until_refused(1)
            assert new.snapshot().seeds == {"taken": 1}
            assert not is_published(new)
            here.api.heal()
            until_published(new)
            assert new.view.ask(APP) == ("NOERROR", frozenset({"10.44.9.2"}))
            here.check(new)


@pytest.mark.parametrize("missing", ["all", "services"])
def test_a_peer_that_tells_no_versions_is_proven_by_the_watches(missing: str, tmp_path: Path) -> None:
    """An older Headwater; its head has no such field."""
    with scene(tmp_path) as here:
        copy = here.record()
        versions = {} if missing == "all" else copy.head.versions | {missing: ""}
        text = copy.but(versions=versions)
        with here.lied_to(lambda end: end.sendall(text.bytes())) as (new, _):
            new.start()
            until_published(new)
            assert new.snapshot().seeds == {"taken": 1}
            here.check(new)
        assert missing == "services" or b'"versions":{}' in text.bytes()


def test_a_list_that_is_due_is_not_skipped(tmp_path: Path) -> None:
    """The version of a resource that the sender was listing is no place to go on from."""
    with scene(tmp_path) as here:
        copy = here.record()
        next(entries for db, entries in copy.pieces if db == "meta").append((b"list/services", b"due"))
        next(entries for db, entries in copy.pieces if db == "meta").sort()
        began = time.monotonic()
        here.api.on("list", "services", faults.status(500), times=FOREVER)
        with here.lied_to(lambda end: end.sendall(copy.bytes())) as (new, _):
            new.start()
            wait_until(lambda: here.api.count("list", "services", began) > 1, DEADLINE, "its list is refused")
            assert not is_published(new)
            here.api.heal()
            until_published(new)
            here.check(new)


# Peers that are of no use


def refusal(status: int, why: str) -> bytes:
    return f"HTTP/1.1 {status} X\r\nHeadway: x\r\nHeadwater-Why: {why}\r\nContent-Length: 0\r\n\r\n".encode()


def _with(pieces: Callable[[Recorded], None], copy: Recorded) -> bytes:
    pieces(copy)
    return copy.bytes()


def _disorder(copy: Recorded) -> None:
    entries = next(entries for db, entries in copy.pieces if db == "records")
    entries.reverse()


def _lack(copy: Recorded) -> None:
    entries = next(entries for db, entries in copy.pieces if db == "records")
    del entries[0]


def _other_value(copy: Recorded) -> None:
    entries = next(entries for db, entries in copy.pieces if db == "records")
    key, value = entries[3]
    entries[3] = key, value[:-1] + bytes((value[-1] ^ 1,))


def _long_key(copy: Recorded) -> None:
    entries = next(entries for db, entries in copy.pieces if db == "records")
    entries[-1] = b"\xff" * 600, b"x"


def _no_piece(copy: Recorded) -> None:
    copy.pieces[2] = ("staging", copy.pieces[2][1])


def _flipped(data: bytes) -> bytes:
    at = len(data) - 500
    return data[:at] + bytes((data[at] ^ 64,)) + data[at + 1 :]


def _flipped_index(data: bytes) -> bytes:
    """In an index, which the store's checksum does not cover: only the digest tells."""
    at = data.index(b"slices", data.index(b"\r\n\r\n")) + 20
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


def _in_parts(copy: Recorded, change: Callable[[list[bytes]], object]) -> bytes:
    """Pieces with the digests that they had before the change."""
    parts = copy.parts()
    change(parts)
    return copy.bytes()[: -len(copy.body())] + b"".join(parts)


def _index_of(copy: Recorded, name: str) -> int:
    """Of an index, which the store's checksum does not cover."""
    return [db for db, _ in copy.pieces].index(name)


def _swap(parts: list[bytes], copy: Recorded) -> None:
    one, other = _index_of(copy, "slices"), _index_of(copy, "pods")
    parts[one], parts[other] = parts[other], parts[one]


LIES: dict[str, tuple[Callable[[Recorded], bytes], str]] = {
    "a flipped bit": (lambda copy: _flipped(copy.bytes()), "damaged"),
    "a flipped bit in an index": (lambda copy: _flipped_index(copy.bytes()), "damaged"),
    "cut in the middle": (lambda copy: copy.bytes()[:-1000], "cut"),
    "cut after a piece": (lambda copy: copy.bytes()[: -len(copy.parts()[-1])], "cut"),
    "cut before the last byte": (lambda copy: copy.bytes()[:-1], "cut"),
    "no digest at the end": (lambda copy: copy.bytes()[:-32] + bytes(32), "damaged"),
    "a piece twice": (lambda copy: _in_parts(copy, lambda parts: parts.insert(1, parts[0])), "damaged"),
    "a piece too few": (lambda copy: _in_parts(copy, lambda parts: parts.pop(_index_of(copy, "slices"))), "damaged"),
    "pieces in another order": (lambda copy: _in_parts(copy, lambda parts: _swap(parts, copy)), "damaged"),
    "cut after the head": (lambda copy: copy.bytes()[: -len(copy.body())], "cut"),
    "cut in the head": (lambda copy: copy.bytes()[:100], "unknown"),
    "nothing": (lambda _: b"", "cut"),
    "another format": (lambda copy: copy.but(format="99", headwater="9.9").bytes(), "another_format"),
    "other selectors": (lambda copy: copy.but(source="0" * 16).bytes(), "another_source"),
    "another cluster": (lambda copy: copy.but(uid="another").bytes(), "another_cluster"),
    "a wrong checksum": (lambda copy: copy.but(checksum=copy.head.checksum ^ 1).bytes(), "damaged"),
    "a damaged value": (lambda copy: _with(_other_value, copy), "damaged"),
    "a missing entry": (lambda copy: _with(_lack, copy), "damaged"),
    "no order": (lambda copy: _with(_disorder, copy), "damaged"),
    "a key that no store takes": (lambda copy: _with(_long_key, copy), "damaged"),
    "a list under way": (lambda copy: _with(_no_piece, copy), "damaged"),
    "too old": (lambda copy: copy.but(age=3601.0).bytes(), "stale"),
    "an age that is none": (lambda copy: copy.but(age=-1.0).bytes(), "unknown"),
    "too large": (lambda copy: copy.but(bytes=1 << 50).bytes(), "too_large"),
    "a head of the past": (lambda copy: copy.but(version=copy.head.version - 1).bytes(), "damaged"),
    "not ready": (lambda _: refusal(503, "not_ready"), "not_ready"),
    "itself": (lambda _: refusal(409, "itself"), "itself"),
    "no credential": (lambda _: refusal(401, "refused"), "refused"),
    "another version of the protocol": (lambda _: refusal(404, "refused"), "unknown"),
    "another server": (lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "unknown"),
    "a redirect": (lambda _: b"HTTP/1.1 302 X\r\nLocation: http://127.0.0.1:1/\r\n\r\n", "unknown"),
    "no HTTP": (lambda _: b"SSH-2.0-OpenSSH_9.9\r\n", "cut"),
    "an endless head": (lambda _: b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10_000, "cut"),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_of_no_use_leads_to_the_list(lie: str, tmp_path: Path) -> None:
    say, outcome = LIES[lie]
    with scene(tmp_path) as here:
        data = say(here.record())
        began = time.monotonic()
        flags = (*EVERYTHING, "--max-staleness", "1h")
        with here.lied_to(lambda end: end.sendall(data), flags=flags) as (new, _):
            new.start()
            until_published(new)
            assert new.snapshot().seeds == {outcome: 1}
            assert here.api.count("list", since=began) >= RESOURCES
            here.check(new)
            assert not marked(new)
            assert len(list(Path(new.settings.state_dir).glob("store-*"))) == 1


def _drips(data: bytes) -> Callable[[socket.socket], None]:
    def say(end: socket.socket) -> None:
        for at in range(len(data)):
            end.sendall(data[at : at + 1])
            time.sleep(0.05)  # slower than any limit allows, and never silent

    return say


def _stalls(data: bytes) -> Callable[[socket.socket], None]:
    def say(end: socket.socket) -> None:
        end.sendall(data)
        end.recv(1)  # until the other side gives up

    return say


@pytest.mark.parametrize("drips", [False, True])
@pytest.mark.parametrize("headed", [False, True])
def test_a_peer_that_is_slow_or_silent_is_left_in_seconds(drips: bool, headed: bool, tmp_path: Path) -> None:
    with scene(tmp_path) as here:
        copy = here.record()
        data = copy.bytes()
        head = len(data) - len(copy.body())

        def say(end: socket.socket) -> None:
            if headed:
                end.sendall(data[:head])
            (_drips(data[head:] if headed else data) if drips else _stalls(data[:1]))(end)

        with here.lied_to(say) as (new, _):
            began = time.monotonic()
            new.start()
            until_published(new)
            assert time.monotonic() - began < 8.0
            assert new.snapshot().seeds == {"slow": 1}
            here.check(new)


def test_a_peer_that_sends_without_end_is_left(tmp_path: Path) -> None:
    """Against the room on the disk, which the test makes small."""
    from headwater.peers import client
    from headwater.peers.credentials import Credentials
    from headwater.settings.address import Address

    with scene(tmp_path) as here:
        copy = here.record()
        head = copy.bytes()[: -len(copy.body())]

        chain = Chain(encode_head(copy.head))

        def say(end: socket.socket) -> None:
            end.sendall(head)
            while True:
                end.sendall(chain.piece("records", [b"key", bytes(1 << 16)]))

        with (
            Liar(say).lying() as liar,
            client.taken(
                Address(host="127.0.0.1", port=liar.port), Credentials(None, None, None, None), copy.head.source,
                "me", tmp_path, 0.0, client.Limits(bytes=10 << 20),
            ) as coming,
            pytest.raises(client.NoCopy) as refused,
        ):  # fmt: skip
            for _ in coming.pieces:
                pass
        assert refused.value.outcome == "too_large"


def test_an_instance_does_not_take_its_own_store(tmp_path: Path) -> None:
    """The address of all replicas may lead to oneself."""
    port = free_port()
    with scene(tmp_path) as here, here.newcomer(port) as new:
        with Peer(new.settings, new.view.reader, port=port).serving() as itself:
            new.start()
            until_published(new)
            assert new.snapshot().seeds == {"itself": 1}
            itself.until(itself=1)
        here.check(new)


def test_a_peer_that_is_not_ready_gives_nothing(tmp_path: Path) -> None:
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    with scene(tmp_path) as here:
        other = Watching(here.api, other_folder, *EVERYTHING, "--peer-listen", "127.0.0.1:1")
        peer = Peer(other.settings, other.view.reader)
        with other.closing(), peer.serving(), here.newcomer(peer.port) as new:
            new.start()
            until_published(new)
            assert new.snapshot().seeds == {"not_ready": 1}
            here.check(new)


def test_a_damaged_store_is_not_given_away(tmp_path: Path) -> None:
    from headwater.store.identity import condemn

    with scene(tmp_path) as here:
        folder = here.peer.reader.folder
        assert folder is not None
        here.first.kill()
        condemn(folder)
        with here.newcomer(here.peer.port) as new:
            new.start()
            until_published(new)
            assert new.snapshot().seeds == {"not_ready": 1}
            here.check(new)


def test_one_copy_at_a_time(tmp_path: Path) -> None:
    with scene(tmp_path) as here:
        with here.peer.server._copying:
            connection = socket.create_connection(("127.0.0.1", here.peer.port))
            connection.sendall(b"GET /seed/2 HTTP/1.1\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 503 busy\r\nHeadwater-Why: busy\r\n")
            connection.close()
        assert here.record().head.version == version_number(here.first.view.version("services"))


def test_a_copy_that_kills_whoever_reads_it_is_not_taken_twice(tmp_path: Path) -> None:
    """Its digest and its checksum hold, and its objects are none: the next life lists."""
    with scene(tmp_path) as here:
        copy = here.record()
        for db, entries in copy.pieces:
            if db == "objects":
                entries[:] = [(key, b"\xc1") for key, _ in entries]
        checked = [entry for db, some in copy.pieces if db in ("objects", "addresses", "records") for entry in some]
        checksum = functools.reduce(operator.xor, (zlib.crc32(value, zlib.crc32(key)) for key, value in checked))
        data = copy.but(checksum=checksum).bytes()
        file = tmp_path / "kubeconfig.real"
        file.write_text(here.api.kubeconfig())
        with Liar(lambda end: end.sendall(data)).lying() as liar:
            flags = (*EVERYTHING, "--ttl", "30", "--seed", f"127.0.0.1:{liar.port}")
            with Headwater(tmp_path, "--kubeconfig", file, *flags, workers=1) as headwater:
                assert headwater.records(APP) == ["10.44.9.1"]
                assert len(liar.asked) == 1
                assert "the last store of another instance led to no good: listing" in headwater.log.read_text()


# Disks and deaths


@pytest.mark.parametrize("write", [1, 2, 3])
def test_a_disk_that_refuses_the_copy_leads_to_the_list(
    write: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of what was put before is left."""
    from headwater.store.environment import Store, StoreFull
    from headwater.writer import seeding

    from tests.fakeapi.reader import identity_of

    with scene(tmp_path) as here, here.newcomer(here.peer.port) as new:
        store, _ = Store.open(Path(new.settings.state_dir), identity_of(new.settings))
        true_write, writes = store.write, iter(range(1, 100))

        def refused(work: Callable[..., object]) -> object:
            if next(writes) == write:
                raise StoreFull("no space")
            return true_write(work)

        monkeypatch.setattr(store, "write", refused)
        after, found = seeding.seed(new.settings, identity_of(new.settings), store, new.resources, SHORT)
        assert found.outcomes == {"disk": 1}
        assert seeding.is_empty(after)
        assert not after.is_published
        assert not marked(new)
        after.close()


def test_killed_at_any_point_it_goes_on_with_a_list_or_with_the_copy(tmp_path: Path) -> None:
    killed = 0
    with scene(tmp_path) as here:
        for kill_at in range(1, 45, 3):
            here.folder = tmp_path / f"new-{kill_at}"
            with here.newcomer(here.peer.port) as new:
                killed += new.run_into(kill_at)
                new.start()
                until_published(new)
                wait_until(lambda: not marked(new), DEADLINE, "another copy may be taken")
                here.check(new)
    assert killed >= 6, "the copy is whole after some twenty points; later ones come with time"


def test_the_log_says_what_became_of_it(tmp_path: Path) -> None:
    with scene(tmp_path) as here, here.lied_to(lambda end: end.sendall(refusal(503, "not_ready"))) as (new, liar):
        new.start()
        until_published(new)
        assert new.logged(f"no store from 127.0.0.1:{liar.port}: it says 503 not_ready") == 1
        assert new.logged("no store from another instance: listing") == 1
        (request,) = liar.asked
        assert request.startswith(b"GET /seed/2 HTTP/1.1\r\n")
        assert b"Authorization" not in request
        json.dumps(new.snapshot().seeds)
