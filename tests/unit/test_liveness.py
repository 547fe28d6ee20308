"""When a process counts as hung: tables of its reports, round by round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from headwater.cluster.objects import Namespace
from headwater.process.progress import Mark, Progress
from headwater.settings.settings import Settings
from headwater.store.environment import Store
from headwater.supervise.liveness import ANSWER, LATE, ROUND, WATCH, Limits, Liveness, Verdict
from headwater.writer.process import Changes, Watcher

from tests.harness.small import Small, headless, listed, remove, upsert

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


#: The news of a round: the number of steps; None without a report; with "c", steps within a commit.
News = int | None | tuple[int, str]

WELL, SILENT, HUNG, STARTING = Verdict.WELL, Verdict.SILENT, Verdict.HUNG, Verdict.STARTING
LIMITS: Final = Limits(starting=10.0, silent=3.0, committing=30.0)


def mark(news: News) -> Mark | None:
    if news is None:
        return None
    return Mark(news) if isinstance(news, int) else Mark(news[0], committing=True)


def judged(
    news: Iterable[News], limits: Limits = LIMITS, *, started: bool = True, held: bool = False
) -> Iterator[Verdict]:
    liveness, now = Liveness(limits), 1000.0
    for item in news:
        yield liveness.round(now, mark(item), started=started, held=held)
        now += ROUND


def first(verdict: Verdict, verdicts: Iterable[Verdict]) -> float | None:
    """Return after how many seconds a verdict came first."""
    for number, found in enumerate(verdicts):
        if found is verdict:
            return (number + 1) * ROUND
    return None


@pytest.mark.parametrize(
    ("news", "hung_after"),
    [
        # It makes progress.
        ([*range(1, 100)], None),
        # A report in every sixth round is enough.
        ([step for step in range(1, 20) for _ in range(6)], None),
        # No reports: it is stopped, or all of its threads hang.
        ([1, *[None] * 20], 0.5 + 3.0),
        # It has not made a step yet: it is starting, whether it reports already or not.
        ([None] * 19, None),
        ([0] * 19, None),
        ([0] * 20, 10.0),
        ([1, 2, *[None] * 20], 1.0 + 3.0),
        # The control thread lives, the main loop hangs.
        ([7] * 20, 0.5 + 3.0),
        ([7, None, 7, None, 7, None, 7, None], 0.5 + 3.0),
        # Reports from within a commit: a slow disk, or a large compile.
        ([(7, "c")] * 60, None),
        ([(7, "c")] * 80, 0.5 + 30.0),
        # One lost reply after a long commit is no silence.
        ([*[(7, "c")] * 40, None, (7, "c"), (8, "c"), 9], None),
        # No reports within a commit: the commit is no excuse.
        ([(7, "c"), *[None] * 20], 0.5 + 3.0),
        # It left the commit, and makes no more steps.
        ([(7, "c"), *[8] * 20], 1.0 + 3.0),
    ],
)
def test_hung_is_what_made_no_step_for_too_long(news: list[News], hung_after: float | None) -> None:
    assert first(HUNG, judged(news)) == hung_after


@pytest.mark.parametrize(
    ("news", "expected"),
    [
        ([1, 2, 2, 3], [WELL, WELL, WELL, WELL]),
        ([1, None, None, None, 2], [WELL, WELL, SILENT, SILENT, WELL]),
        ([1, 1, 1, 1, 2], [WELL, WELL, SILENT, SILENT, WELL]),
        ([(1, "c"), (1, "c"), (1, "c"), (1, "c")], [WELL] * 4),
    ],
)
def test_silence_is_said_before_anything_is_done_about_it(news: list[News], expected: list[Verdict]) -> None:
    assert list(judged(news)) == expected


@pytest.mark.parametrize("limits", [ANSWER, WATCH])
def test_a_process_that_starts_has_a_limit_of_its_own(limits: Limits) -> None:
    assert limits.starting > limits.silent
    found = list(judged([None] * int(limits.starting / ROUND), limits, started=False))
    assert found == [STARTING] * (len(found) - 1) + [HUNG]


def test_start_does_not_count_against_what_comes_after() -> None:
    liveness, now = Liveness(LIMITS), 0.0
    for _ in range(18):
        now += ROUND
        assert liveness.round(now, None, started=False) is STARTING
    after = [liveness.round(now := now + ROUND, mark(news), started=True) for news in (1, None, None)]
    assert after == [WELL, WELL, SILENT]


@pytest.mark.parametrize("gap", [LATE + 0.01, 10.0, 100_000.0])
def test_a_supervisor_that_was_stopped_blames_nobody(gap: float) -> None:
    """The same holds after the machine's suspension, and for a supervisor without CPU time."""
    liveness, now = Liveness(LIMITS), 0.0
    liveness.round(now, Mark(1), started=True)
    for _ in range(20):
        now += gap
        assert liveness.round(now, None, started=True) is WELL


def test_what_was_silent_before_the_supervisor_was_stopped_gets_all_of_its_time_again() -> None:
    liveness, now = Liveness(LIMITS), 0.0
    liveness.round(now, Mark(1), started=True)
    for _ in range(5):
        now += ROUND
        liveness.round(now, None, started=True)
    now += 10.0
    assert liveness.round(now, None, started=True) is WELL
    found = [liveness.round(now := now + ROUND, None, started=True) for _ in range(6)]
    assert found == [WELL, SILENT, SILENT, SILENT, SILENT, HUNG]


def test_what_the_disk_holds_up_is_silent_and_not_hung() -> None:
    assert first(HUNG, judged([1, *[None] * 100], held=True)) is None
    assert first(SILENT, judged([1, *[None] * 100], held=True)) is not None


def test_progress_marks_commits_from_both_sides() -> None:
    progress = Progress()
    assert progress.mark() == Mark(0, committing=False)
    progress.step()
    with progress.commit():
        assert progress.mark() == Mark(2, committing=True)
    assert progress.mark() == Mark(3, committing=False)
    with pytest.raises(OSError, match="full"), progress.commit():
        raise OSError("full")
    assert progress.mark() == Mark(5, committing=False)


def test_limits_are_those_of_the_documents() -> None:
    assert (ANSWER.silent, WATCH.silent, WATCH.committing) == (3.0, 20.0, 60.0)


def test_each_transaction_of_a_commit_is_a_sign_and_none_outside_one(tmp_path: Path) -> None:
    """A first list of thousands of Services is one commit, and takes as long as it takes."""
    store, _ = Store.open(tmp_path, Small(tmp_path).identity)
    changes = Changes()
    watcher = Watcher(Settings(), store, changes=changes)
    assert watcher.progress.mark() == Mark(0, committing=False), "the writes of its start are no turns"
    services = [headless(f"s-{number}") for number in range(600)]
    for change in listed(("namespaces", "services", "endpointslices"), [Namespace("default"), *services]):
        changes.put(change)
    most = 0
    while not watcher.ledger.ready:
        before = watcher.progress.mark().steps
        watcher.step()
        most = max(most, watcher.progress.mark().steps - before)
    store.close()
    assert most > 3 + 600 // 256, "each of the transactions in which all is compiled is a sign"


def test_each_service_of_a_namespace_that_goes_is_a_sign(tmp_path: Path) -> None:
    """All are one transaction, which takes long for a namespace of expensive Services."""
    services = [headless(f"s-{number}") for number in range(50)]
    world = Small(tmp_path).fill(*services)
    store, _ = Store.open(tmp_path, world.identity)
    changes = Changes()
    watcher = Watcher(world.settings, store, changes=changes)
    for change in (remove(Namespace("default"), "20"), upsert(Namespace("default"), "30")):
        before = watcher.progress.mark().steps
        changes.put(change)
        watcher.step()
        assert watcher.progress.mark().steps - before > 50
    store.close()
