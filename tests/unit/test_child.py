"""One child process and its link: its messages, its harmless misbehaviour, and its replacement.

The children are real processes that run a function of this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from headwater.process import control
from headwater.process.control import Asked, Done, Ending, Refused, Replied, Started
from headwater.process.counters import AnswerSnapshot, Kind, WatchSnapshot
from headwater.process.progress import Mark, Progress
from headwater.supervise import forks
from headwater.supervise.child import Child
from headwater.supervise.descriptors import Reserve
from headwater.supervise.link import Link, Unanswered
from headwater.supervise.liveness import ROUND, Limits

from tests.harness.processes import wait_until

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

DEADLINE: Final = 20.0
#: Limits in seconds of the simulated rounds; a round takes about 20 ms here.
QUICK: Final = Limits(starting=200.0, silent=10.0, committing=20.0)
SHORT_START: Final = Limits(starting=10.0, silent=10.0, committing=20.0)
NEVER: Final = threading.Event()


# What the children run


def gets_on(end: socket.socket) -> None:
    link, progress = control.Link(end), Progress()
    link.attend(progress, {control.Snapshot: lambda _, reply: reply(AnswerSnapshot(failures=7))})
    link.tell(Started())
    while True:
        progress.step()
        NEVER.wait(0.05)


def main_loop_hangs(end: socket.socket) -> None:
    """Hang the main loop, so that only the control thread runs."""
    link, progress = control.Link(end), Progress()
    link.attend(progress, {control.Snapshot: lambda _, reply: reply(AnswerSnapshot())})
    link.tell(Started())
    progress.step()
    NEVER.wait()


def hangs_in_a_commit(end: socket.socket) -> None:
    link, progress = control.Link(end), Progress()
    link.attend(progress, {control.Snapshot: lambda _, reply: reply(WatchSnapshot())})
    link.tell(Started())
    with progress.commit():
        NEVER.wait()


def never_starts(_: socket.socket) -> None:
    NEVER.wait()


def says_half_a_message(end: socket.socket) -> None:
    end.send(control.encode(Started()))
    end.send(control.encode(Replied(1, Mark(), AnswerSnapshot()))[:10])
    gets_on(end)


def cannot_ever_start(end: socket.socket) -> None:
    control.Link(end).tell(Ending("--kubeconfig: /etc/kubeconfig: Permission denied"))
    os._exit(control.UNUSABLE)


class Played:
    """A running child, checked round by round as in the supervisor,
    on a clock that counts rounds.
    """

    def __init__(self, work: Callable[[socket.socket], None], **arguments: Any) -> None:
        context = forks.begin()

        def start(end: socket.socket) -> BaseProcess:
            return forks.start(context, work, (end,), "test")

        self.child = Child(Kind.ANSWER, "answer 0", start, reserve=Reserve(), **{"limits": QUICK, **arguments})
        self.last = self.child.view()
        """Its view when the condition became true."""
        self.slowest = 0.0
        """The longest time of one round."""

    def until(self, condition: Callable[[Child], bool], what: str) -> None:
        asyncio.run(self._until(condition, what))

    async def _until(self, condition: Callable[[Child], bool], what: str) -> None:
        life = asyncio.create_task(self.child.keep_running())
        loop = asyncio.get_running_loop()
        deadline, now = loop.time() + DEADLINE, 0.0
        try:
            while not condition(self.child):
                assert loop.time() < deadline, f"not within {DEADLINE} s: {what}"
                await self.child.refresh()
                now += ROUND
                self.child.judge(now)
                began = loop.time()
                await asyncio.sleep(0.02)
                self.slowest = max(self.slowest, loop.time() - began - 0.02)
        finally:
            self.last = self.child.view()
            self.child.stop()
            self.child.signal(9)
            async with asyncio.timeout(DEADLINE):
                await life


def test_child_that_gets_on_is_left_alone_and_its_counters_stay() -> None:
    played = Played(gets_on)
    played.until(lambda child: child.worked and isinstance(child.view().snapshot, AnswerSnapshot), "it is heard")
    assert (played.last.up, played.last.killed, played.last.trouble) == (True, 0, "")
    after = played.child.view()
    assert not after.up
    assert isinstance(after.before, AnswerSnapshot)
    assert after.before.failures == 7


@pytest.mark.parametrize("work", [main_loop_hangs, never_starts, hangs_in_a_commit], ids=lambda work: work.__name__)
def test_child_whose_main_loop_hangs_is_killed_and_replaced(work: Callable[[socket.socket], None]) -> None:
    played = Played(work, limits=SHORT_START if work is never_starts else QUICK)
    played.until(lambda child: child.restarts >= 1 and child.pid is not None, "it is replaced")
    view = played.child.view()
    assert view.killed >= 1
    assert view.exits.get(-9, 0) >= 1


def test_half_a_message_blocks_nobody() -> None:
    played = Played(says_half_a_message)
    played.until(lambda child: child.worked, "it is heard in spite of it")
    assert played.slowest < 5.0
    assert played.child.view().killed == 0


@pytest.mark.parametrize("final", [True, False])
def test_credentials_that_cannot_be_used_end_it_only_where_that_is_final(*, final: bool) -> None:
    async def is_final() -> bool:
        return final

    played = Played(cannot_ever_start, is_final=is_final)
    played.until(lambda child: child.exitcode is not None or child.restarts >= 2, "it is over, or tried again")
    assert played.child.exitcode == (control.UNUSABLE if final else None)
    view = played.last
    assert view.trouble == "--kubeconfig: /etc/kubeconfig: Permission denied"
    assert view.exits[control.UNUSABLE] == (1 if final else 2)


def test_child_that_cannot_be_started_for_want_of_descriptors_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    true_pair = control.pair
    tries: list[None] = []

    def pair() -> tuple[socket.socket, socket.socket]:
        tries.append(None)
        if len(tries) < 3:
            raise OSError(24, "Too many open files")
        return true_pair()

    monkeypatch.setattr(control, "pair", pair)
    played = Played(gets_on)
    played.until(lambda child: child.worked, "it is up after all")
    assert len(tries) == 3


@pytest.mark.parametrize("slow", [True, False])
def test_a_forkserver_that_is_only_slow_keeps_its_place(slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a new one imports for long, and the next one would take as long."""
    looks, killed, asked = itertools.count(), threading.Event(), threading.Event()

    def spent() -> tuple[int | None, int]:
        at = next(looks)
        if at == 4:
            asked.set()
        return 7, at if slow else 0

    monkeypatch.setattr("headwater.supervise.child._FORK", 0.05)
    monkeypatch.setattr(forks, "spent", spent)
    monkeypatch.setattr(forks, "kill_server", killed.set)
    played = Played(gets_on)
    true_start = played.child._start

    def start(theirs: socket.socket) -> BaseProcess:
        assert (asked if slow else killed).wait(DEADLINE)
        return true_start(theirs)

    played.child._start = start
    played.until(lambda child: child.worked, "it is up")
    assert killed.is_set() is not slow


def test_what_the_forkserver_has_spent_stands_still_while_it_is_stopped() -> None:
    forks.begin()
    pid = forks.server()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: state_of(pid) == "T", DEADLINE, "it is stopped")
        before = forks.spent()
        assert before[0] == pid
        assert before[1] > 0, "it has imported"
        burn(0.1)
        assert forks.spent() == before
    finally:
        os.kill(pid, signal.SIGCONT)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def burn(seconds: float) -> None:
    """Use so much CPU time here, and so let as much time pass."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_reserve_gives_up_its_descriptors_for_as_long_as_somebody_needs_them() -> None:
    def open_now() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = open_now()
    reserve = Reserve()
    held = open_now() - before
    assert held >= 8
    with reserve.lent():
        with reserve.lent():
            assert open_now() == before
        reserve.fill()
        assert open_now() == before
    assert open_now() == before + held
    with reserve.lent():
        pass
    assert open_now() == before + held


# The link


async def linked(
    act: Callable[[Link, socket.socket, list[object]], Awaitable[None]],
) -> None:
    ours, theirs = control.pair()
    heard: list[object] = []
    link = Link(ours, heard.append, heard.append)
    try:
        await act(link, theirs, heard)
    finally:
        link.close()
        theirs.close()


def asked(theirs: socket.socket) -> Asked:
    import msgspec

    return msgspec.msgpack.decode(theirs.recv(control.MAX_MESSAGE), type=Asked)


def test_several_requests_may_be_under_way_and_are_answered_in_any_order() -> None:
    async def act(link: Link, theirs: socket.socket, _: list[object]) -> None:
        first, second = link.ask(control.Snapshot()), link.ask(control.Reload())
        numbers = [asked(theirs).id, asked(theirs).id]
        theirs.send(control.encode(Replied(numbers[1], Mark(2), Done())))
        theirs.send(control.encode(Replied(numbers[0], Mark(1), AnswerSnapshot(failures=1))))
        assert (await second).reply == Done()
        assert (await first).reply == AnswerSnapshot(failures=1)

    asyncio.run(linked(act))


@pytest.mark.parametrize("packet", [b"\xc1", b"no message", bytes(control.MAX_MESSAGE), b"\x81\xa4type\xa7unknown"])
def test_what_is_no_message_harms_no_other(packet: bytes) -> None:
    async def act(link: Link, theirs: socket.socket, heard: list[object]) -> None:
        reply = link.ask(control.Snapshot())
        theirs.send(packet)
        theirs.send(control.encode(Replied(999, Mark(), Done())))  # nobody asked
        theirs.send(control.encode(Replied(asked(theirs).id, Mark(), Done())))
        assert (await reply).reply == Done()
        assert len(heard) == 1
        assert isinstance(heard[0], Exception)

    asyncio.run(linked(act))


def test_process_that_takes_no_requests_blocks_nobody() -> None:
    async def act(link: Link, theirs: socket.socket, _: list[object]) -> None:
        under_way = []
        began = time.monotonic()
        with contextlib.suppress(Unanswered):
            while True:
                under_way.append(link.ask(control.Snapshot()))
        assert 1 < len(under_way) < 1000
        assert time.monotonic() - began < 5.0
        theirs.close()
        await link.closed.wait()
        for reply in under_way:
            with pytest.raises(Unanswered):
                await reply
        with pytest.raises(Unanswered):
            link.ask(control.Snapshot())

    asyncio.run(linked(act))


def handled(handlers: dict[Any, control.Handler], *requests: control.Request) -> list[Replied]:
    """Return the replies of a process with these handlers."""
    ours, theirs = control.pair()
    ours.settimeout(DEADLINE)
    link = control.Link(theirs)
    for number, request in enumerate(requests):
        link._handle(control.encode(Asked(number, request)), handlers, Progress())
    replies = []
    with contextlib.closing(ours), contextlib.closing(theirs):
        for _ in requests:
            reply = control.decode(ours.recv(control.MAX_MESSAGE))
            assert isinstance(reply, Replied)
            replies.append(reply)
    return replies


def test_request_that_fails_or_is_not_known_is_refused() -> None:
    def broken(_: object, reply: Callable[[control.Reply], None]) -> None:
        raise RuntimeError("a bug")

    def great(_: object, reply: Callable[[control.Reply], None]) -> None:
        reply(AnswerSnapshot(upstream={"x" * control.MAX_MESSAGE: 1}))

    (failed,) = handled({control.Snapshot: broken}, control.Snapshot())
    assert failed.reply == Refused("RuntimeError('a bug')")
    (unknown,) = handled({}, control.Reload())
    assert unknown.reply == Refused("Reload is not for this process")
    (too_large,) = handled({control.Snapshot: great}, control.Snapshot())
    assert isinstance(too_large.reply, Refused)
    assert "bytes are too many" in too_large.reply.why


def test_greatest_message_passes() -> None:
    ours, theirs = control.pair()
    with contextlib.closing(ours), contextlib.closing(theirs):
        theirs.setblocking(False)
        assert theirs.send(bytes(control.MAX_MESSAGE)) == control.MAX_MESSAGE
        assert len(ours.recv(control.MAX_MESSAGE)) == control.MAX_MESSAGE


_AFTER_THE_END: Final = """
import os
from headwater.supervise import forks

context = forks.begin()
first = forks.server()
forks.end()
os.waitpid(first, 0)
try:
    forks.start(context, print, ("forked",), "late")
except OSError as error:
    print(error, forks.server() == first)
"""


def test_a_thread_that_forks_after_the_end_starts_no_other_forkserver() -> None:
    """It would outlive the instance, and write a traceback into the log."""
    done = subprocess.run(
        [sys.executable, "-c", _AFTER_THE_END], capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("the instance is stopping True\n", "")


_BY_FORK: Final = """
import gc, os
from pathlib import Path

def said():
    heap, = (line.split("-")[0] for line in Path("/proc/self/maps").read_text().splitlines() if "[heap]" in line)
    os.write(1, f"{gc.isenabled()} {gc.get_freeze_count() > 10_000} {heap}\\n".encode())

def main():
    gc.disable()  # as `headwater.__main__` does
    from headwater.supervise import forks, roles

    context = forks.begin(forked=True)
    forks.start(context, said, (), "child").join()
    said()
    forks.end()
"""


def test_the_collector_that_is_off_for_the_imports_is_on_in_all_processes(tmp_path: Path) -> None:
    """The fork and its children share the heap of the supervisor, and its modules are frozen."""
    (tmp_path / "program.py").write_text(_BY_FORK)
    run = [sys.executable, "-c", "import program; program.main()"]
    done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path)
    child, parent = done.stdout.splitlines()
    assert child == parent
    assert child.startswith("True True ")
