"""The history as people ask for it: of an instance, of a state directory, as it is written."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import psutil
import pytest
from headwater.admin import http as admin
from headwater.admin.events import READERS, SLOW

from tests.e2e.test_supervisor import MANIFEST, SERVICE
from tests.harness.instance import Headwater
from tests.harness.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SETTLE: Final = 20.0
MOVES: Final = 50
MIB: Final = 1 << 20


def history(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headwater", "history", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False, env=environment(),
    )  # fmt: skip


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("KUBE", "HEADWATER_"))}


def put(manifest: Path, text: str) -> None:
    """Replace it in one step."""
    new = manifest.with_suffix(".new")
    new.write_text(text)
    new.rename(manifest)


def move(headwater: Headwater, manifest: Path, address: str) -> None:
    """Give the endpoint another address, and wait until it is answered."""
    put(manifest, MANIFEST.replace("10.44.0.1", address))
    wait_until(lambda: headwater.records(SERVICE) == [address], SETTLE, f"{address} is answered", interval=0.01)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    file = tmp_path / "manifests" / "manifest.yaml"
    file.parent.mkdir()
    file.write_text(MANIFEST)
    return file


@pytest.fixture
def headwater(manifest: Path, tmp_path: Path) -> Iterator[Headwater]:
    with Headwater(tmp_path, "--manifests", manifest) as running:
        yield running


def asked(headwater: Headwater, query: str) -> Any:
    status, text = headwater.admin(f"/history?{query}")
    assert status == 200, text
    return json.loads(text)


def changes(headwater: Headwater) -> list[tuple[list[str], list[str]]]:
    """(removed, added) of each change, the oldest first."""
    entries = asked(headwater, "limit=1000")["entries"]
    return [(entry["removed"], entry["added"]) for entry in reversed(entries) if entry["kind"] == "change"]


def test_an_instance_tells_what_changed_when_and_what_was_answered_then(headwater: Headwater, manifest: Path) -> None:
    where = ("--admin", f"127.0.0.1:{headwater.admin_port}")
    move(headwater, manifest, "10.44.0.2")
    between = time.time()
    move(headwater, manifest, "10.44.0.3")
    done = history(SERVICE, *where)
    assert (done.returncode, done.stderr) == (0, "")
    begun, first, second = done.stdout.splitlines()
    assert "from here on" in begun
    assert "-10.44.0.1 db-0, +10.44.0.2 db-0  EndpointSlice default/db-x: db-0 address 10.44.0.1→10.44.0.2" in first
    assert "-10.44.0.2 db-0, +10.44.0.3 db-0" in second
    done = history(SERVICE, "--at", str(between), *where)
    assert (done.returncode, f"{SERVICE}.\t5\tIN\tA\t10.44.0.2" in done.stdout) == (0, True), done
    done = history(SERVICE, "--at", "24h", *where)
    assert (done.returncode, ";; it is not known" in done.stdout) == (3, True), done
    done = history("--ip", "10.44.0.3", "--json", *where)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [entry["added"] for entry in found if entry["kind"] == "change"] == [["10.44.0.3 db-0"]]
    for flags, code, says in (
        (("--at", "noon", SERVICE), 2, "--at: 'noon' is not a time"),
        (("--at", "1m"), 2, "--at: it goes with a NAME"),
        (("example.org.",), 2, "belongs to no Service"),
    ):
        done = history(*flags, *where)
        assert (done.returncode, says in done.stderr, len(done.stderr.splitlines())) == (code, True, 1), done
    done = history(SERVICE, "--admin", "127.0.0.1:1")
    assert (done.returncode, "Does `headwater serve` run" in done.stderr) == (1, True), done


def test_a_state_directory_tells_without_a_process(headwater: Headwater, manifest: Path) -> None:
    move(headwater, manifest, "10.44.0.2")
    assert headwater.terminate() == 0
    done = history(SERVICE, "--state-dir", headwater.state_dir)
    assert (done.returncode, done.stderr) == (0, "")
    assert "+10.44.0.2 db-0" in done.stdout.splitlines()[-1]
    done = history(SERVICE, "--state-dir", headwater.state_dir, "--ttl", "77")
    assert (done.returncode, "other settings" in done.stderr) == (1, True), done


@pytest.mark.slow
def test_an_address_that_moves_while_every_process_is_killed_is_told_without_a_wrong_line(
    headwater: Headwater, manifest: Path
) -> None:
    addresses = ["10.44.0.1", *(f"10.44.1.{number}" for number in range(MOVES))]
    seen: list[tuple[float, str]] = []
    for number, address in enumerate(addresses[1:]):
        put(manifest, MANIFEST.replace("10.44.0.1", address))
        family = headwater.family()
        victim = family[number % len(family)]
        if victim.pid == headwater.process.pid:
            headwater.forget()
            headwater.start()
        else:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        wait_until(lambda: headwater.records(SERVICE) == [address], SETTLE, "it is answered", interval=0.01)  # noqa: B023
        seen.append((time.time(), address))
    wait_until(headwater.is_complete, SETTLE, "every process is up")
    lines = [([f"{before} db-0"], [f"{after} db-0"]) for before, after in pairwise(addresses)]
    assert changes(headwater) == lines
    known = 0
    for moment, address in seen:
        found = asked(headwater, f"name={SERVICE}&at={moment}")
        if found["known"]:
            known += 1
            assert found["addresses"] == [address], (moment, found)
        else:
            assert "was not running" in found["why"]
    assert known >= MOVES * 2 // 5, "three of the five processes write nothing"
    gaps = [entry["text"] for entry in asked(headwater, "limit=1000")["entries"] if entry["kind"] == "gap"]
    assert sum("not running" in gap for gap in gaps) >= MOVES // 10


# Events


class NoPlace(Exception):  # noqa: N818 (what happened)
    """Nobody else may listen."""


class Events:
    """One who listens."""

    def __init__(self, headwater: Headwater, query: str = "", last: int = -1) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", headwater.admin_port, timeout=SETTLE)
        headers = {"Last-Event-ID": str(last)} if last >= 0 else {}
        self._connection.request("GET", f"/events?{query}", headers=headers)
        self.reply = self._connection.getresponse()
        if self.reply.status != 200:
            text = self.reply.read().decode()
            self._connection.close()
            raise NoPlace(text)
        assert self.reply.readline() == b"retry: 2000\n"

    def next(self) -> dict[str, Any]:
        """The next event's data."""
        fields: dict[str, str] = {}
        while True:
            line = self.reply.readline().decode()
            assert line, "it was let go"
            name, _, text = line.rstrip("\n").partition(": ")
            if name:
                fields[name] = text
            if not name and "data" in fields:
                data: dict[str, Any] = json.loads(fields["data"])
                assert (fields["event"], fields["id"]) == ("change", str(data["seq"]))
                return data

    def close(self) -> None:
        self._connection.close()


def test_events_come_as_they_are_written_and_for_longer_than_a_reply_may_take(
    headwater: Headwater, manifest: Path
) -> None:
    with (
        contextlib.closing(Events(headwater)) as everything,
        contextlib.closing(Events(headwater, "owner=default/other")) as other,
        contextlib.closing(Events(headwater, f"name={SERVICE}")) as named,
    ):
        began = time.monotonic()
        wait_until(
            lambda: time.monotonic() - began > admin.PATIENCE + 1, SETTLE, "a reply's time is over", interval=0.1
        )
        move(headwater, manifest, "10.44.0.2")
        first = everything.next()
        assert first["added"] == ["10.44.0.2 db-0"]
        assert named.next() == first
        # One that comes again gets what it has missed.
        everything.close()
        move(headwater, manifest, "10.44.0.3")
        with contextlib.closing(Events(headwater, last=first["seq"])) as again:
            assert again.next()["added"] == ["10.44.0.3 db-0"]
            headwater.kill9("watch")
            assert again.next()["kind"] == "gap"
            move(headwater, manifest, "10.44.0.4")
            assert again.next()["added"] == ["10.44.0.4 db-0"]
        assert other.next()["kind"] == "gap"  # and nothing else


def test_the_command_follows(headwater: Headwater, manifest: Path) -> None:
    command = [sys.executable, "-m", "headwater", "history", SERVICE, "--follow"]
    with subprocess.Popen(
        [*command, "--admin", f"127.0.0.1:{headwater.admin_port}"],
        stdout=subprocess.PIPE, text=True, env=environment() | {"PYTHONUNBUFFERED": "1"},
    ) as running:  # fmt: skip
        assert running.stdout is not None
        assert "from here on" in running.stdout.readline()
        move(headwater, manifest, "10.44.0.2")
        assert "+10.44.0.2 db-0" in running.stdout.readline()
        running.kill()


def many(address: int, count: int = 150) -> str:
    """So many Services with an endpoint each."""
    one = MANIFEST.replace("10.44.0.1", f"10.45.{address}.1")
    return "---\n".join(one.replace("db", f"service-with-a-name-{number}") for number in range(count))


@pytest.mark.slow
def test_a_slow_reader_is_let_go_and_holds_no_memory_and_others_get_everything(
    headwater: Headwater, manifest: Path
) -> None:
    put(manifest, many(0))
    wait_until(lambda: len(changes(headwater)) >= 150, SETTLE, "all Services are there")
    supervisor = psutil.Process(headwater.process.pid)
    with socket.socket() as slow, contextlib.closing(Events(headwater)) as fast:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", headwater.admin_port))
        slow.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        slow.settimeout(SETTLE)
        assert slow.recv(16)
        before = supervisor.memory_info().rss
        for turn in range(1, 11):
            put(manifest, many(turn))
            for _ in range(150):
                assert fast.next()["added"][0].startswith(f"10.45.{turn}.1 ")
        assert supervisor.memory_info().rss - before < 30 * MIB
        mine = slow.getsockname()
        wait_until(
            lambda: all(found.raddr != mine for found in supervisor.net_connections("tcp")),
            SETTLE + SLOW, "the slow one is let go",
        )  # fmt: skip
        put(manifest, many(11))
        assert fast.next()["added"]


def test_a_hundred_may_listen_and_probes_are_answered(headwater: Headwater, manifest: Path) -> None:
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(contextlib.closing(Events(headwater))) for _ in range(READERS)]
        status, text = headwater.admin("/events")
        assert (status, text) == (503, f"{READERS} listen already\n")
        assert headwater.admin("/healthz")[0] == 200
        move(headwater, manifest, "10.44.0.2")
        assert {reader.next()["added"][0] for reader in readers} == {"10.44.0.2 db-0"}
        began = time.monotonic()
        assert headwater.terminate() == 0
        assert time.monotonic() - began < 6.0


def test_places_of_those_who_leave_are_free_again(headwater: Headwater) -> None:
    for _ in range(2):
        with contextlib.ExitStack() as stack:
            for _ in range(READERS):
                stack.enter_context(contextlib.closing(Events(headwater)))

        def there() -> bool:
            try:
                Events(headwater).close()
            except NoPlace:
                return False
            return True

        wait_until(there, SETTLE, "there is a place")


def test_where_descriptors_are_short_fewer_listen(manifest: Path, tmp_path: Path) -> None:
    with Headwater(tmp_path, "--manifests", manifest, descriptors=96) as headwater:
        assert headwater.admin("/events")[0] == 503
        assert headwater.admin("/history")[0] == 200
    with Headwater(tmp_path, "--manifests", manifest, descriptors=130) as headwater, contextlib.ExitStack() as stack:
        readers = 0
        with contextlib.suppress(NoPlace):
            while True:
                stack.enter_context(contextlib.closing(Events(headwater)))
                readers += 1
        assert readers == 10
        assert headwater.admin("/readyz")[0] == 200
