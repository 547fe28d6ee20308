"""Deaths, hangs and memory limits on a real node: of the sidecar, of CoreDNS, and of CoreDNS alone.

The short form kills one sidecar of deploy/base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.harness.processes import wait_until
from tests.node import ground
from tests.node.ground import BASE, COREDNS, RATE, Deployed
from tests.node.rows import AROUND, Row, long_form, lost_almost_nothing, marks, seen_during

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.node.ground import Seen
    from tests.node.machine import Machine

pytestmark = marks

#: Seconds of half the questions (one of two pods) that a death may cost, and that a hang may.
DEATH: Final = 6.0
HANG: Final = 12.0
RESTART_TIMEOUT: Final = 90.0
#: CoreDNS's usual probes are slow: 30 s to unready, a minute and more to a restart, 30 s of grace.
SLOW_RESTART_TIMEOUT: Final = 240.0
SIDECARS: Final = ("headwater", "headwater-twin")


def the_first(machine: Machine, deployed: Deployed) -> ground.Pod:
    return ground.pods(machine, deployed)[0]


def until_started_again(
    machine: Machine, deployed: Deployed, container: str, act: Callable[[], None], timeout: float = RESTART_TIMEOUT
) -> str:
    """Do it, and wait until the container runs anew and all is ready. Return how it ended."""
    before = ground.restarts(machine, deployed, container)
    act()
    wait_until(
        lambda: ground.restarts(machine, deployed, container) > before, timeout, f"{container} starts again",
        interval=0.2,
    )  # fmt: skip
    wait_until(lambda: ground.all_ready(machine, deployed), timeout, "all pods are ready", interval=0.2)
    return f"started again by the kubelet ({ground.ended(machine, deployed, container)})"


def death(machine: Machine, deployed: Deployed, container: str) -> Callable[[], str]:
    pid = ground.processes(machine, the_first(machine, deployed), container)[0]
    return lambda: until_started_again(machine, deployed, container, lambda: machine.kill("KILL", pid))


def limit(machine: Machine, deployed: Deployed, container: str) -> Callable[[], str]:
    pod = the_first(machine, deployed)
    group, mebibytes = ground.cgroup(machine, pod, container), ground.memory_limit(pod, container)
    return lambda: until_started_again(
        machine, deployed, container, lambda: ground.reach_the_limit(machine, group, mebibytes)
    )


def hang(machine: Machine, deployed: Deployed, container: str, timeout: float = RESTART_TIMEOUT) -> Callable[[], str]:
    pids = ground.processes(machine, the_first(machine, deployed), container)

    def stop() -> None:
        machine.run("kill", "-STOP", *map(str, pids))

    return lambda: until_started_again(machine, deployed, container, stop, timeout)


def how_long(row: Row) -> None:
    row.note = f"failures over {max(row.asked.fresh.last() - AROUND, 0):.1f} s; {row.note}"


def costs_seconds_of_a_pod(seen: Seen, seconds: float) -> None:
    assert seen.failed <= RATE / 2 * seconds, f"{seen}; {seen.by_second()}"
    assert "NXDOMAIN" not in seen.seen


def no_worse(ours: Seen, alone: Seen) -> None:
    """Chance decides which questions were on their way: twice as many is the same."""
    assert ours.failed <= 2 * alone.failed + RATE, (ours, alone)


def test_a_sidecar_that_is_killed_is_back_within_seconds(machine: Machine) -> None:
    act = death(machine, BASE, "headwater")
    asked = seen_during(machine, BASE, "kill -9 of the sidecar's process 1", act).asked
    for seen in (asked.fresh, asked.long_lived):
        costs_seconds_of_a_pod(seen, DEATH)


@long_form
def test_a_sidecar_that_reaches_its_memory_limit_is_back_within_seconds(machine: Machine) -> None:
    asked = seen_during(machine, BASE, "the sidecar reaches its memory limit", limit(machine, BASE, "headwater")).asked
    for seen in (asked.fresh, asked.long_lived):
        costs_seconds_of_a_pod(seen, DEATH)


@long_form
def test_a_sidecar_that_hangs_is_left_out_and_then_restarted(machine: Machine) -> None:
    row = seen_during(machine, BASE, "SIGSTOP of the whole sidecar", hang(machine, BASE, "headwater"))
    how_long(row)
    assert row.asked.fresh.failed, "all of it hung, and nobody noticed: something else was stopped"
    costs_seconds_of_a_pod(row.asked.fresh, HANG)


# -- two sidecars that share nothing


@pytest.fixture(scope="module")
def twins(machine: Machine) -> Iterator[Deployed]:
    deployed = ground.released("twins")
    ground.set_release(machine, "install", deployed, "headwater.twin=true")
    yield deployed
    ground.uninstall(machine, deployed)


@long_form
@pytest.mark.parametrize("container", SIDECARS)
def test_a_twin_that_is_killed_costs_nothing(container: str, machine: Machine, twins: Deployed) -> None:
    act = death(machine, twins, container)
    asked = seen_during(machine, twins, f"twins: kill -9 of process 1 of `{container}`", act).asked
    lost_almost_nothing(asked.fresh)
    assert "SERVFAIL" not in asked.long_lived.seen, asked.long_lived.by_second()


@long_form
def test_a_twin_that_reaches_its_memory_limit_costs_nothing(machine: Machine, twins: Deployed) -> None:
    act = limit(machine, twins, "headwater")
    asked = seen_during(machine, twins, "twins: one reaches its memory limit", act).asked
    lost_almost_nothing(asked.fresh)
    assert "SERVFAIL" not in asked.long_lived.seen, asked.long_lived.by_second()


@long_form
def test_a_twin_that_hangs_costs_no_more_than_a_sidecar_that_does(machine: Machine, twins: Deployed) -> None:
    row = seen_during(machine, twins, "twins: SIGSTOP of one", hang(machine, twins, "headwater"))
    how_long(row)
    assert row.asked.fresh.failed
    costs_seconds_of_a_pod(row.asked.fresh, HANG)


@long_form
def test_a_rolling_restart_of_twins_loses_nothing(machine: Machine, twins: Deployed) -> None:
    asked = seen_during(machine, twins, "twins: rolling restart", lambda: ground.restart(machine, twins)).asked
    lost_almost_nothing(asked.fresh)


# -- CoreDNS: ours, and alone


@long_form
@pytest.mark.parametrize(
    ("what", "how", "timeout"),
    [("kill -9 of CoreDNS", death, None), ("CoreDNS reaches its memory limit", limit, None),
     ("SIGSTOP of CoreDNS", hang, SLOW_RESTART_TIMEOUT)],
    ids=["killed", "memory", "hangs"],
)  # fmt: skip
def test_a_coredns_costs_no_more_than_a_coredns_alone(
    what: str, how: Callable[..., Callable[[], str]], timeout: float | None, machine: Machine
) -> None:
    ground.install_coredns(machine)
    more = () if timeout is None else (timeout,)
    rows = []
    for deployed, alone in ((BASE, ""), (COREDNS, " (alone, with `kubernetes`)")):
        rows.append(seen_during(machine, deployed, what + alone, how(machine, deployed, "coredns", *more)))
        how_long(rows[-1])
    ours, theirs = rows
    no_worse(ours.asked.fresh, theirs.asked.fresh)
