"""Deaths, hangs and memory limits on a real node: of the sidecar, of CoreDNS, and of CoreDNS alone.

The short form kills one sidecar of deploy/base, which has two in each pod: no question is lost.
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

    from tests.node.ground import Asked, Seen
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


# -- two sidecars in each pod: deploy/base


def costs_nothing(asked: Asked) -> None:
    """CoreDNS asks the other sidecar within the same query."""
    lost_almost_nothing(asked.fresh)
    assert "SERVFAIL" not in asked.long_lived.seen, asked.long_lived.by_second()


@pytest.mark.parametrize("container", [SIDECARS[0], pytest.param(SIDECARS[1], marks=long_form)])
def test_a_sidecar_that_is_killed_costs_nothing(container: str, machine: Machine) -> None:
    act = death(machine, BASE, container)
    costs_nothing(seen_during(machine, BASE, f"kill -9 of process 1 of `{container}`", act).asked)


@long_form
@pytest.mark.parametrize("container", SIDECARS)
def test_a_sidecar_that_reaches_its_memory_limit_costs_nothing(container: str, machine: Machine) -> None:
    act = limit(machine, BASE, container)
    costs_nothing(seen_during(machine, BASE, f"`{container}` reaches its memory limit", act).asked)


@long_form
def test_a_sidecar_that_hangs_is_left_out_and_then_restarted(machine: Machine) -> None:
    """CoreDNS waits for the one that hangs, with half of its pod's questions."""
    row = seen_during(machine, BASE, "SIGSTOP of one whole sidecar of two", hang(machine, BASE, "headwater"))
    how_long(row)
    assert row.asked.fresh.failed, "all of it hung, and nobody noticed: something else was stopped"
    costs_seconds_of_a_pod(row.asked.fresh, HANG)


# -- one sidecar in each pod, for comparison


@pytest.fixture(scope="module")
def single(machine: Machine) -> Iterator[Deployed]:
    """Yield a release of the chart; tests/chart holds that it is deploy/overlays/single."""
    deployed = ground.released("single")
    ground.set_release(machine, "install", deployed, "headwater.twin=false")
    yield deployed
    ground.uninstall(machine, deployed)


@long_form
@pytest.mark.parametrize(
    ("what", "how"),
    [("kill -9 of its process 1", death), ("it reaches its memory limit", limit)],
    ids=["killed", "memory"],
)
def test_the_death_of_a_single_sidecar_costs_seconds_of_its_pod(
    what: str, how: Callable[..., Callable[[], str]], machine: Machine, single: Deployed
) -> None:
    row = seen_during(machine, single, f"a single sidecar: {what}", how(machine, single, "headwater"))
    how_long(row)
    for seen in (row.asked.fresh, row.asked.long_lived):
        costs_seconds_of_a_pod(seen, DEATH)
    assert "SERVFAIL" in row.asked.fresh.seen, "a second sidecar would be for nothing"


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
