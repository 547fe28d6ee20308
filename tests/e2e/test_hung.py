"""Processes that hang instead of dying are noticed, reported, killed and replaced (contract 8)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import dns.exception
import psutil
import pytest
from headwater.commands.query import LookupFailed
from headwater.supervise import liveness

from tests.e2e.test_supervisor import MANIFEST, SERVICE
from tests.harness.instance import Headwater
from tests.harness.processes import CoreDNS, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: The time that is promised to clients of CoreDNS, and a margin for a busy machine, in seconds.
ANSWERED: Final = 5.0
SLACK: Final = 6.0
SETTLE: Final = 20.0


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    file = tmp_path / "manifest.yaml"
    file.write_text(MANIFEST)
    return file


@pytest.fixture
def headwater(manifest: Path, tmp_path: Path) -> Iterator[Headwater]:
    with Headwater(tmp_path, "--manifests", manifest) as running:
        wait_until(running.is_complete, SETTLE, "every process is up")
        yield running


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Send SIGSTOP to processes for the block; then SIGCONT to those that still live."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def replaced(headwater: Headwater, old: dict[str, int], *titles: str) -> bool:
    pids = headwater.pids()
    return headwater.is_ready() and all(pids.get(title, old[title]) != old[title] for title in titles)


def metric(headwater: Headwater, sample: str) -> float:
    for line in headwater.admin("/metrics")[1].splitlines():
        if line.startswith(f"{sample} "):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"there is no {sample}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("titles", "limit"),
    [
        (("answer 0",), liveness.ANSWER.silent),
        (("answer 0", "answer 1"), liveness.ANSWER.silent),
        (("watch",), liveness.WATCH.silent),
        (("watch", "answer 0"), liveness.WATCH.silent),
    ],
    ids=["answer 0", "both answers", "watch", "watch and answer 0"],
)
def test_stopped_process_is_noticed_killed_and_replaced(
    titles: tuple[str, ...], limit: float, headwater: Headwater, manifest: Path
) -> None:
    before = headwater.pids()
    began = time.monotonic()
    with stopped(*(before[title] for title in titles)):
        wait_until(lambda: "silent: " in headwater.admin("/healthz")[1], SETTLE, "/healthz says so")
        status, said = headwater.admin("/healthz")
        assert status == 503
        assert any(title in said for title in titles)
        wait_until(lambda: replaced(headwater, before, *titles), limit + SLACK, f"{titles} are replaced")
    took = time.monotonic() - began
    assert took > min(limit, liveness.ANSWER.silent) - 2 * liveness.ROUND
    for title in before.keys() - {"supervisor"}:
        assert metric(headwater, f'headwater_process_killed_total{{process="{title}"}}') == float(title in titles)
    after = headwater.pids()
    assert {title for title in before if before[title] != after[title]} == set(titles)
    wait_until(lambda: headwater.admin("/healthz") == (200, "ok\n"), SETTLE, "all is well")
    manifest.write_text(MANIFEST.replace("10.44.0.1", "10.44.0.2"))
    wait_until(
        lambda: all(headwater.records(SERVICE, worker=worker) == ["10.44.0.2"] for worker in (0, 1)),
        SETTLE,
        "a change arrives",
    )


@pytest.mark.slow
@pytest.mark.coredns
def test_coredns_gets_answers_again_within_five_seconds(headwater: Headwater, tmp_path: Path) -> None:
    """Before that, half of the queries go to the hung process, and
    CoreDNS gives each up after 5 s.
    """
    with CoreDNS(tmp_path, headwater.grpc_corefile_stanza()) as front:
        front.records(SERVICE)
        asked: list[tuple[float, float | None]] = []

        def ask() -> None:
            began = time.monotonic()
            try:
                found = front.records(SERVICE) == ["10.44.0.1"]
            except (dns.exception.DNSException, OSError):
                found = False
            asked.append((began, time.monotonic() if found else None))

        pid = headwater.pids()["answer 0"]
        with stopped(pid):
            began = time.monotonic()
            threads = []
            while time.monotonic() - began < 2 * ANSWERED:
                threads.append(threading.Thread(target=ask))
                threads[-1].start()
                threading.Event().wait(0.1)  # the rate of the queries
            for thread in threads:
                thread.join()
        late = [
            start - began for start, end in asked if start - began > ANSWERED and (end is None or end - start > 1.0)
        ]
        assert len(asked) >= 50
        assert not late, f"asked after {late} s, not answered at once"


@pytest.mark.slow
def test_supervisor_that_was_stopped_kills_nobody(headwater: Headwater) -> None:
    before = headwater.pids()
    with stopped(headwater.process.pid):
        threading.Event().wait(10.0)  # the time is what is tested
    wait_until(lambda: headwater.admin("/healthz") == (200, "ok\n"), SETTLE, "all is well")
    rounds = time.monotonic() + 2 * liveness.ANSWER.silent
    wait_until(lambda: time.monotonic() > rounds, SETTLE, "a limit and more has passed")
    assert headwater.pids() == before
    assert 'headwater_process_killed_total{process="answer 0"} 0.0' in headwater.admin("/metrics")[1]


@pytest.mark.slow
def test_ages_grow_and_nobody_is_called_ready_who_hangs(headwater: Headwater) -> None:
    pids = headwater.pids()
    with stopped(pids["answer 0"], pids["answer 1"]):
        wait_until(lambda: headwater.admin("/readyz")[0] == 503, liveness.ANSWER.silent, "/readyz says so")
    wait_until(headwater.is_ready, SETTLE, "ready again")


@pytest.mark.slow
def test_pages_that_a_hung_reader_pins_are_freed(tmp_path: Path) -> None:
    """The store does not grow while a process hangs."""
    manifest = tmp_path / "many.yaml"

    def write(turn: int) -> None:
        documents = [
            MANIFEST.replace("db-x", f"db-{number}-x").replace("name: db,", f"name: db-{number},")
            .replace("service-name: db}", f"service-name: db-{number}}}")
            .replace("10.44.0.1", f"10.{44 + turn % 2}.{number % 250}.1")
            for number in range(300)
        ]  # fmt: skip
        manifest.with_suffix(".new").write_text("---\n".join(documents))
        manifest.with_suffix(".new").rename(manifest)

    write(0)
    with Headwater(tmp_path, "--manifests", manifest) as headwater:
        wait_until(headwater.is_complete, SETTLE, "every process is up")
        pid = headwater.pids()["answer 0"]
        size = metric(headwater, "headwater_store_bytes")
        # A reader holds a snapshot only for moments; one that is stopped in such a moment pins its
        # pages.
        turns = 0

        def turn() -> bool:
            nonlocal turns
            turns += 1
            write(turns)
            wait_until(
                lambda: (
                    headwater.records("db-7." + SERVICE.partition(".")[2], worker=1) == [f"10.{44 + turns % 2}.7.1"]
                ),
                SETTLE,
                "the change is served",
            )
            return headwater.pids().get("answer 0", pid) != pid and turns >= 20

        with stopped(pid):
            wait_until(turn, 60.0, "the hung process is replaced, and some more has changed")
        grown = metric(headwater, "headwater_store_bytes") - size
        assert grown < 16 << 20, f"{grown / 2**20:.1f} MiB more"
        assert metric(headwater, 'headwater_process_killed_total{process="answer 0"}') == 1.0


# The forkserver


def test_killed_server_takes_nobody_with_it_and_is_started_again(headwater: Headwater) -> None:
    before = headwater.pids()
    old = headwater.forkserver()
    old.kill()

    def again() -> bool:
        try:
            return headwater.forkserver().pid != old.pid and not old.is_running()
        except LookupError:
            return False

    wait_until(again, SETTLE, "another forkserver, and no zombie of the old one")
    assert headwater.pids() == before, "nobody went with it"
    # A dead process's connections are turned away after half a second. These processes live.
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        assert all(headwater.records(SERVICE, worker=worker) == ["10.44.0.1"] for worker in (0, 1))
    # The deaths of children that it has left behind are noticed with their exit codes, and these
    # are replaced.
    for title in ("answer 0", "watch"):
        headwater.kill9(title)
        wait_until(partial(replaced, headwater, before, title), SETTLE, f"{title} is back")
        assert metric(headwater, f'headwater_process_exits_total{{code="-9",process="{title}"}}') == 1.0
    zombies = [item.pid for item in headwater.family() if item.status() == psutil.STATUS_ZOMBIE]
    assert zombies == []
    assert headwater.terminate() == 0


def test_stopped_server_holds_nothing_up(headwater: Headwater) -> None:
    before = headwater.pids()
    with stopped(headwater.forkserver().pid):
        headwater.kill9("answer 0")
        wait_until(lambda: replaced(headwater, before, "answer 0"), SETTLE, "answer 0 is back")
        assert headwater.records(SERVICE, worker=0) == ["10.44.0.1"]
        assert headwater.pids()["answer 1"] == before["answer 1"]
        began = time.monotonic()
        assert headwater.terminate() == 0
        assert time.monotonic() - began < 6.0


def test_a_second_sigterm_ends_it_at_once(headwater: Headwater) -> None:
    family = headwater.family()
    with stopped(headwater.pids()["answer 0"]):
        headwater.process.signal(signal.SIGTERM)
        wait_until(lambda: "watch" not in headwater.pids(), SETTLE, "it has begun to stop")
        began = time.monotonic()
        headwater.process.signal(signal.SIGTERM)
        headwater.process.wait(SETTLE)
        assert time.monotonic() - began < 1.5
    wait_until(lambda: not any(item.is_running() for item in family[1:]), SETTLE, "all are gone")


@pytest.mark.slow
def test_nobody_waits_for_a_process_that_cannot_be_forked(headwater: Headwater) -> None:
    """With a hung forkserver, a dead answer process's address closes new
    connections until it is back.
    """

    def is_turned_away() -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(0.2)
            client.connect(str(headwater.addresses[1].path))
            try:
                return client.recv(1) == b""
            except TimeoutError:
                return False

    with stopped(headwater.forkserver().pid):
        headwater.kill9("answer 1")
        wait_until(is_turned_away, 2.0, "new connections are let go", ignoring=(OSError,))
        wait_until(
            lambda: headwater.records(SERVICE, worker=1) == ["10.44.0.1"], 30.0, "it serves", ignoring=(LookupFailed,)
        )
    assert not is_turned_away()
