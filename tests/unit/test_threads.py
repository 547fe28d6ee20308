"""grpcio's threads: few run, there are more only while some wait, and none is left over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures import wait as wait_for

import pytest
from headwater.serve.threads import Threads

from tests.harness.processes import wait_until

DEADLINE = 10.0
_names = iter(range(1000))


class Pool:
    """Threads with a name of the test, so that they can be counted."""

    def __init__(self, count: int) -> None:
        self.name = f"threads-{next(_names)}"
        self.threads = Threads(count, self.name)

    def alive(self) -> int:
        return sum(thread.name == self.name for thread in threading.enumerate())

    def settles_at(self, count: int) -> None:
        wait_until(lambda: self.alive() == count, DEADLINE, f"{count} threads, not {self.alive()}")


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool(2)
    yield pool
    pool.threads.shutdown()
    pool.settles_at(0)


def test_a_call_is_made_and_its_result_handed_over(pool: Pool) -> None:
    assert pool.threads.submit(lambda one, *, two: (one, two), 1, two=2).result(DEADLINE) == (1, 2)
    assert list(pool.threads.map(str, range(50))) == [str(number) for number in range(50)]
    assert pool.alive() == 2


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3), MemoryError()])
def test_an_exception_reaches_the_future_and_ends_no_thread(pool: Pool, error: BaseException) -> None:
    def fail() -> None:
        raise error

    futures = [pool.threads.submit(fail) for _ in range(5)]
    assert all(future.exception(DEADLINE) is error for future in futures)
    assert pool.threads.submit(lambda: 7).result(DEADLINE) == 7
    assert pool.alive() == 2


def assert_two_at_a_time(pool: Pool) -> None:
    begun, go = threading.Semaphore(0), threading.Event()

    def work() -> bool:
        begun.release()
        return go.wait(DEADLINE)

    futures = [pool.threads.submit(work) for _ in range(3)]
    assert begun.acquire(timeout=DEADLINE)
    assert begun.acquire(timeout=DEADLINE)
    assert not futures[2].running()
    go.set()
    assert all(future.result(DEADLINE) for future in futures)


def test_no_more_calls_are_made_at_a_time_than_there_are_threads(pool: Pool) -> None:
    assert_two_at_a_time(pool)


def test_a_call_that_waits_holds_up_no_other(pool: Pool) -> None:
    go = threading.Event()

    def ask() -> bool:
        with pool.threads.waiting():
            return go.wait(DEADLINE)

    slow = [pool.threads.submit(ask) for _ in range(40)]
    for number in range(100):
        assert pool.threads.submit(lambda number=number: number).result(DEADLINE) == number
    assert not any(future.done() for future in slow)
    assert pool.alive() <= 42
    go.set()
    assert all(future.result(DEADLINE) for future in slow)
    pool.settles_at(2)


def test_after_a_wait_no_more_threads_work_than_before(pool: Pool) -> None:
    """A thread that has waited goes on; its replacement ends when it has nothing more to do."""

    def ask() -> None:
        with pool.threads.waiting():
            pass

    for _ in range(20):
        wait_for([pool.threads.submit(ask) for _ in range(10)], DEADLINE)
    # A surplus thread ends after its next call.
    wait_for([pool.threads.submit(int) for _ in range(50)], DEADLINE)
    pool.settles_at(2)
    assert_two_at_a_time(pool)


def test_a_call_may_wait_more_than_once_and_fail_while_it_does(pool: Pool) -> None:
    def ask() -> None:
        for _ in range(3):
            with pool.threads.waiting():
                pass
        with pool.threads.waiting():
            raise ValueError("while waiting")

    futures = [pool.threads.submit(ask) for _ in range(10)]
    assert all(isinstance(future.exception(DEADLINE), ValueError) for future in futures)
    wait_for([pool.threads.submit(int) for _ in range(50)], DEADLINE)
    pool.settles_at(2)


def test_a_call_that_is_cancelled_in_time_is_not_made(pool: Pool) -> None:
    go = threading.Event()
    made: list[int] = []
    busy = [pool.threads.submit(go.wait, DEADLINE) for _ in range(2)]
    waiting = pool.threads.submit(made.append, 1)
    assert waiting.cancel()
    go.set()
    assert all(future.result(DEADLINE) for future in busy)
    assert pool.threads.submit(int).result(DEADLINE) == 0
    assert made == []
    with pytest.raises(CancelledError):
        waiting.result(DEADLINE)


@pytest.mark.parametrize("waiters", [0, 1, 10])
def test_after_shutdown_calls_that_were_taken_are_made_and_the_threads_end(waiters: int) -> None:
    pool = Pool(2)
    go = threading.Event()

    def ask(number: int) -> int:
        with pool.threads.waiting():
            assert go.wait(DEADLINE)
        return number

    futures: list[Future[int]] = [pool.threads.submit(ask, number) for number in range(waiters)]
    futures += [pool.threads.submit(int, number) for number in range(waiters, 20)]
    pool.threads.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="stopped"):
        pool.threads.submit(int)
    go.set()
    assert [future.result(DEADLINE) for future in futures] == list(range(20))
    pool.settles_at(0)


def test_an_idle_pool_ends_at_once() -> None:
    pool = Pool(5)
    pool.threads.shutdown()
    pool.settles_at(0)
    pool.threads.shutdown()
