"""Every fault once while a StatefulSet churns: no answer is wrong, and none is lost without need.

A prober asks CoreDNS for every name, 500 times per second in all, and every reply is compared with
etcd's own history of the slices. Each fault is a separate test; they share plane, churn and prober.
`make chaos` runs the long form, whose table is in docs/reliability.md. Without HEADWATER_CHAOS=long
the times are shorter, and the faults are the same.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import dns.message
import dns.rrset
import psutil
import pytest

from bench.propagation import Slice, Storm
from bench.report import table
from tests.harness.arena import (
    GONE,
    RATE,
    ROOM,
    SERVICES,
    SETTLE,
    Arena,
    Seen,
    fill_disk,
    pause,
    restored,
    running,
    small_disk,
    staged,
    wait_for_watches,
)
from tests.harness.instance import Headwater
from tests.harness.prober import PROMISED, Query, Value, judge
from tests.harness.processes import CoreDNS, free_port, wait_until

pytestmark = [pytest.mark.coredns, pytest.mark.timeout(300)]

LONG: Final = os.environ.get("HEADWATER_CHAOS") == "long"
RESULTS: Final = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"

DOWN: Final = 10.0 if LONG else 3.0  # seconds without the API server, etcd, the disk
SILENT: Final = 40.0 if LONG else 5.0  # seconds of a silent API server
AFTER: Final = 10.0 if LONG else 4.0  # seconds of probing after a fault's end
CALM: Final = 20.0 if LONG else 5.0  # seconds without a fault, for comparison
STORM: Final = 5000 if LONG else 1000  # slice updates
STORM_RATE: Final = 1000.0  # of them per second at most
NAMESPACE: Final = "chaos"


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    folder, port = tmp_path_factory.mktemp("chaos"), free_port()
    with (
        staged(folder / "plane", NAMESPACE) as stage,
        small_disk(folder / "headwater-state"),
        Headwater(
            folder,
            "--kubeconfig",
            stage.plane.kubeconfig,
            "--peer-listen",
            f"127.0.0.1:{port}",
            workers=1,
            name="sibling",
        ),
        Headwater(folder, "--kubeconfig", stage.plane.kubeconfig, "--seed", f"127.0.0.1:{port}") as headwater,
        CoreDNS(folder, headwater.grpc_corefile_stanza()) as coredns,
        running(stage, headwater, coredns, after=AFTER) as arena,
    ):
        yield arena


# The faults. Each returns when it is over; `seen.ended` has its end, if that was earlier.


def nothing(arena: Arena, seen: Seen) -> None:
    pause(CALM)


def kill_role(title: str) -> Callable[[Arena, Seen], None]:
    def fault(arena: Arena, seen: Seen) -> None:
        old = arena.headwater.kill9(title)
        wait_until(lambda: arena.headwater.pids().get(title, old) != old, SETTLE, f"{title} runs again", interval=0.005)
        seen.ended = time.monotonic()
        seen.remark = f"runs again after {(seen.ended - seen.began) * 1000:.0f} ms"

    return fault


def kill_supervisor(arena: Arena, seen: Seen) -> None:
    arena.headwater.kill9("supervisor")
    pause(1.0)  # as long as a kubelet takes
    began = time.monotonic()
    arena.headwater.start()
    seen.ended = time.monotonic()
    seen.remark = f"started anew after 1 s, ready {seen.ended - began:.1f} s later"


def replace(arena: Arena, seen: Seen) -> None:
    """Another replica with nothing stored takes its place, and takes the store of its sibling."""
    headwater = arena.headwater
    headwater.kill9("supervisor")
    (headwater.state_dir / "current").unlink()
    for store in headwater.state_dir.glob("store-*"):
        shutil.rmtree(store)
    pause(1.0)
    began = time.monotonic()
    headwater.start()
    seen.ended = time.monotonic()
    seen.remark = f"a new replica, ready {seen.ended - began:.1f} s after its start; {arena.relists()}"
    assert arena.metric(r'headwater_seeds_total{result="taken"}') == 1
    assert arena.metric(r"headwater_watch_relists_total\b") == 0


def replace_without_api_server(arena: Arena, seen: Seen) -> None:
    arena.plane.kill("kube-apiserver")
    try:
        replace(arena, seen)
    finally:
        arena.plane.start("kube-apiserver")
    seen.ended = wait_for_watches(arena.plane)


def kill_api_server(arena: Arena, seen: Seen) -> None:
    arena.plane.kill("kube-apiserver")
    pause(DOWN)
    arena.plane.start("kube-apiserver")
    seen.ended = wait_for_watches(arena.plane)


def kill_etcd(arena: Arena, seen: Seen) -> None:
    """Hold the API server until etcd has compacted beyond its revision, so
    that it and its clients list.
    """
    plane, gone = arena.plane, arena.metric(GONE)
    plane.kill("etcd")
    pause(DOWN)
    plane.pause("kube-apiserver")
    plane.start("etcd")
    wait_until(arena.chronicle.connected.is_set, SETTLE, "the chronicle goes on")
    wait_until(lambda: plane.etcd_behind() == 0, SETTLE, "the chronicle knows what etcd will forget")
    revision = plane.compact()
    plane.resume("kube-apiserver")
    seen.ended = wait_for_watches(plane, revision)
    wait_until(lambda: arena.metric(GONE) > gone, SETTLE, "a watch gets its 410")


def silence(arena: Arena, seen: Seen) -> None:
    arena.plane.pause("kube-apiserver")
    pause(SILENT)
    arena.plane.resume("kube-apiserver")


def full(arena: Arena, seen: Seen) -> None:
    """Leave no room in the state directory for a change that needs some."""
    failures = arena.metric("headwater_commit_failures_total")
    fill, way = (fill_disk, "a tmpfs") if arena.headwater.state_dir.is_mount() else (limit_file, "RLIMIT_FSIZE")
    with fill(arena.headwater):
        for number in range(ROOM):
            arena.stage.create_slice(f"room-{number}", f"11.2.{number}", 100)
        wait_until(
            lambda: arena.metric("headwater_commit_failures_total") > failures, SETTLE, "a commit that found no room"
        )
        pause(DOWN)
        failed = arena.metric("headwater_commit_failures_total") - failures
    seen.ended = time.monotonic()
    seen.remark = f"{way}; {failed:.0f} commits failed"
    wait_until(
        lambda: len(arena.headwater.records(f"room-{ROOM - 1}.{NAMESPACE}.svc.cluster.local")) == 100, SETTLE, "room"
    )


@contextmanager
def limit_file(headwater: Headwater) -> Iterator[None]:
    """Forbid the watch process's files to grow (setrlimit(2)), without a separate file system."""
    watch = psutil.Process(headwater.pids()["watch"])
    size = max(file.stat().st_size for file in headwater.state_dir.glob("store-*/data.mdb"))
    before = watch.rlimit(psutil.RLIMIT_FSIZE)
    watch.rlimit(psutil.RLIMIT_FSIZE, (size, before[1]))
    yield
    watch.rlimit(psutil.RLIMIT_FSIZE, before)


def delete_state(arena: Arena, seen: Seen) -> None:
    state = arena.headwater.state_dir
    if state.is_mount():  # a mount point cannot be removed
        subprocess.run(["umount", "-l", str(state)], check=True)
    shutil.rmtree(state)
    wait_until(lambda: (state / "current").exists(), SETTLE, "a new store", interval=0.01)
    seen.ended = time.monotonic()
    seen.remark = f"a new store after {seen.ended - seen.began:.1f} s"


def storm(arena: Arena, seen: Seen) -> None:
    slices = [Slice(NAMESPACE, f"svc-{number}") for number in range(SERVICES)]
    with Storm(arena.plane.kubeconfig, slices, STORM_RATE, total=STORM) as blowing:
        blowing.wait()
    seen.remark = f"{blowing.done:,} updates, {blowing.rate:.0f} per second"


FAULTS: Final[dict[str, Callable[[Arena, Seen], None]]] = {
    "none": nothing,
    "kill -9 of the watch process": kill_role("watch"),
    "kill -9 of answer process 0": kill_role("answer 0"),
    "kill -9 of answer process 1": kill_role("answer 1"),
    "kill -9 of the supervisor": kill_supervisor,
    "replaced by a new replica": replace,
    "the same without kube-apiserver": replace_without_api_server,
    f"kill -9 of kube-apiserver, {DOWN:g} s": kill_api_server,
    f"kill -9 of etcd, {DOWN:g} s, compacted": kill_etcd,
    f"SIGSTOP of kube-apiserver, {SILENT:g} s": silence,
    f"state directory full, {DOWN:g} s": full,
    f"a storm of {STORM:,} slice updates": storm,
    "state directory deleted": delete_state,
}


@pytest.mark.parametrize("name", FAULTS)
def test_answers_stay_true(arena: Arena, name: str) -> None:
    arena.settled()
    with restored(arena.plane), arena.fault(name) as seen:
        before = arena.relists()
        FAULTS[name](arena, seen)
        if name.startswith(("kill -9 of k", "kill -9 of e", "SIG")):
            wait_until(lambda: arena.metric("headwater_watch_connected") == 3, SETTLE, "all watches are open")
            seen.remark = f"from {before} to {arena.relists()}"
    verdict = seen.verdict
    log = arena.headwater.log.read_text()[-3000:]
    assert verdict.wrong()[:5] == [], log
    # On a busy machine there are fewer questions; with very few, the test would prove nothing.
    assert verdict.asked > (0.8 if LONG else 0.2) * RATE * (seen.ended + AFTER - seen.began)
    if FAULTS[name] in (kill_supervisor, replace, replace_without_api_server):
        assert verdict.answered_again < redial(seen.ended - seen.began), log
    else:
        assert (verdict.lost, verdict.refused[:5]) == (0, []), log


def test_table_of_what_was_seen(arena: Arena, capsys: pytest.CaptureFixture[str]) -> None:
    """Print the table of the faults in this run, in the form of docs/reliability.md."""
    text = report(arena)
    with capsys.disabled():
        print(f"\n\n{text}\n")
    if LONG and len(arena.seen) == len(FAULTS):
        page = RESULTS.read_text()
        RESULTS.write_text(re.sub(r"(?s)(<!-- chaos -->\n).*(\n<!-- /chaos -->)", rf"\g<1>{text}\g<2>", page))


def redial(away: float) -> float:
    """Return the most seconds that CoreDNS takes to connect again after
    this many seconds of absence.

    grpc-go waits 1 s, then 1.6 times as long each time, up to 120 s, with a jitter of a fifth (its
    connection back-off). It makes the first attempt at the first question.
    """
    wait, elapsed = 1.0, 0.0
    while elapsed < away:
        elapsed += wait * 0.8
        wait = min(wait * 1.6, 120.0)
    return wait * 1.2 + PROMISED


def report(arena: Arena) -> str:
    rows = []
    for seen in arena.seen:
        verdict = seen.verdict
        wrong = (len(verdict.wrong_nxdomain), len(verdict.never_true), len(verdict.too_old), len(verdict.broken))
        rows.append(
            (
                seen.fault, f"{verdict.asked:,}", f"{verdict.lost + len(verdict.refused)}", *map(str, wrong),
                f"{verdict.oldest:.2f}", f"{max(verdict.right_again, verdict.answered_again):.2f}",
                f"{verdict.slowest * 1000:.0f}", seen.remark,
            )
        )  # fmt: skip
    head = (
        "fault", "questions", "not answered", "wrong NXDOMAIN", "never true", "too old", "broken",
        "oldest, s", "right again, s", "slowest, ms", "seen",
    )  # fmt: skip
    return table(head, rows)


# The verdict itself can fail.

OLD: Final[Value] = frozenset({"10.0.0.1"})
NEW: Final[Value] = frozenset({"10.0.0.2"})
HISTORY: Final[list[tuple[float, Value]]] = [(0.0, OLD), (100.0, None), (101.0, NEW)]


def reply(*addresses: str, rcode: int = 0) -> bytes:
    message = dns.message.make_response(dns.message.make_query("db.chaos.svc.cluster.local", "A"))
    message.set_rcode(rcode)  # type: ignore[arg-type]
    if addresses:
        message.answer.append(dns.rrset.from_text("db.chaos.svc.cluster.local.", 5, "IN", "A", *addresses))
    if rcode == 3:
        soa = "ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"
        message.authority.append(dns.rrset.from_text("cluster.local.", 5, "IN", "SOA", soa))
    return message.to_wire()


@pytest.mark.parametrize(
    ("moment", "wire", "kind"),
    [
        (99.0, reply("10.0.0.1"), ""),
        (101.9, reply("10.0.0.1"), ""),
        (102.1, reply("10.0.0.1"), "too_old"),
        (50.0, reply("10.0.0.2"), "never_true"),
        (50.0, reply(rcode=3), "wrong_nxdomain"),
        (100.5, reply(rcode=3), ""),
        (103.1, reply(rcode=3), "too_old"),
        (150.0, reply("10.0.0.1", "10.0.0.2"), "never_true"),
        (150.0, reply(), "never_true"),
        (150.0, reply(rcode=2), "refused"),
        (150.0, b"", "lost"),
    ],
)
def test_judgement_finds_what_was_not_true(moment: float, wire: bytes, kind: str) -> None:
    verdict = judge([Query("db", moment, moment + 0.001, wire)], lambda _: HISTORY)
    kinds = ("too_old", "never_true", "wrong_nxdomain", "broken", "lost", "refused")
    assert [name for name in kinds if getattr(verdict, name)] == ([kind] if kind else [])


@pytest.mark.parametrize(
    ("moment", "fault", "allowed"),
    [
        (109.0, (99.0, 110.0), True),  # in a fault that began before the change
        (111.9, (99.0, 110.0), True),  # and for PROMISED after it
        (112.1, (99.0, 110.0), False),
        (109.0, (103.0, 110.0), False),  # it was too old before the fault already
        (109.0, (101.5, 110.0), True),
    ],
)
def test_judgement_knows_a_fault(moment: float, fault: tuple[float, float], allowed: bool) -> None:
    verdict = judge([Query("db", moment, moment + 0.001, reply("10.0.0.1"))], lambda _: HISTORY, fault)
    assert bool(verdict.too_old) is not allowed


def test_judgement_knows_what_holds_no_change_back() -> None:
    query = Query("db", 109.0, 109.001, reply("10.0.0.1"))
    assert judge([query], lambda _: HISTORY, (99.0, 110.0), holds=False).too_old
