"""Rollouts, deaths and mistakes on a real node, while a thousand questions a second are asked.

Half of them come from fresh ports, half from 50 sockets that live on. The short form restarts
deploy/base and kills a sidecar. HEADWATER_NODE=long (`make node-test`) does everything, CoreDNS
with its own plugin too, and prints the table of docs/reliability.md.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec.json
import pytest

from tests.harness.processes import wait_until
from tests.node import ground
from tests.node.ground import BASE, COREDNS, RATE, Asked, Deployed, Seen, asking, pass_time
from tests.node.machine import CGROUPS, Machine, NodeError, require_node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONG: Final = os.environ.get("HEADWATER_NODE") == "long"
#: Fresh ports: failures of a rollout (of 20,000 questions).
MOST_LOST: Final = 3
#: Seconds of half the questions (one of two pods) that a death may cost.
DEATH: Final = 6.0
HANG: Final = 12.0
ANSWER_PROCESSES: Final = 2
AROUND: Final = 3.0  # seconds of questions before and after
RESTART_TIMEOUT: Final = 90.0

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]
long_form = pytest.mark.skipif(not LONG, reason="the long form: make node-test")


@dataclass
class Row:
    what: str
    asked: Asked
    note: str


ROWS: list[Row] = []


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    archives = require_node()
    with Machine(tmp_path_factory.mktemp("node") / "state", list(archives.values())) as machine:
        ground.install_web(machine)
        ground.install_base(machine)
        yield machine


def seen_during(machine: Machine, deployed: Deployed, what: str, act: Callable[[], str | None]) -> Asked:
    """Ask while `act` is done; its result is the table's note."""
    with asking(machine, ground.address(machine, deployed)) as asked:
        pass_time(AROUND)
        note = act()
        pass_time(AROUND)
    ROWS.append(Row(what, asked, note or ""))
    return asked


def lost_almost_nothing(seen: Seen) -> None:
    assert seen.asked >= RATE * AROUND
    assert seen.failed <= MOST_LOST, f"{seen}; {seen.bad}"
    assert "SERVFAIL" not in seen.seen, seen.bad
    assert "NXDOMAIN" not in seen.seen, seen.bad


def hardly_any_servfail(seen: Seen) -> None:
    """A socket that kube-proxy leaves with an old pod may ask while CoreDNS is about to end."""
    assert seen.seen.get("SERVFAIL", 0) <= MOST_LOST, f"{seen}; {seen.bad}"


def test_a_start_has_no_warnings(machine: Machine) -> None:
    """Probes do not fail at an ordinary start: an operator would read them as a fault."""
    assert not ground.warnings(machine, BASE.namespace)


def test_a_rolling_restart_of_base_loses_nothing(machine: Machine) -> None:
    asked = seen_during(machine, BASE, "rolling restart of `deploy/base`", lambda: ground.restart(machine, BASE))
    lost_almost_nothing(asked.fresh)
    hardly_any_servfail(asked.long_lived)


def death(machine: Machine, container: str, pid: int) -> Callable[[], str]:
    def act() -> str:
        before = ground.restarts(machine, BASE, container)
        machine.kill("KILL", pid)
        wait_until(
            lambda: ground.restarts(machine, BASE, container) > before, RESTART_TIMEOUT, f"{container} starts again"
        )
        wait_until(lambda: ground.all_ready(machine, BASE), RESTART_TIMEOUT, "all pods are ready")
        return "started again by the kubelet"

    return act


def test_a_sidecar_that_is_killed_is_back_within_seconds(machine: Machine) -> None:
    pid = ground.supervisors(machine)[0]
    asked = seen_during(machine, BASE, "kill -9 of the sidecar's process 1", death(machine, "headwater", pid))
    for seen in (asked.fresh, asked.long_lived):
        assert seen.failed <= RATE / 2 * DEATH, f"{seen}; {seen.bad}"
        assert "NXDOMAIN" not in seen.seen


@long_form
def test_a_coredns_that_is_killed_is_back_within_seconds(machine: Machine) -> None:
    pid = machine.pids("^/coredns -conf /etc/coredns")[0]
    asked = seen_during(machine, BASE, "kill -9 of CoreDNS", death(machine, "coredns", pid))
    assert asked.fresh.failed <= RATE / 2 * DEATH, f"{asked.fresh}; {asked.fresh.bad}"


@long_form
def test_a_sidecar_that_hangs_is_left_out_and_then_restarted(machine: Machine) -> None:
    def act() -> str:
        before = ground.restarts(machine, BASE, "headwater")
        supervisor = ground.supervisors(machine)[0]
        # By the namespace: answer processes are no children of the supervisor.
        inside = machine.run("pgrep", "--ns", str(supervisor), "--nslist", "pid", ".").split()
        names = machine.run("ps", "-o", "args=", "-p", ",".join(inside))
        assert names.count("headwater: answer") == ANSWER_PROCESSES, names
        for pid in inside:
            machine.kill("STOP", int(pid))
        wait_until(lambda: ground.restarts(machine, BASE, "headwater") > before, RESTART_TIMEOUT, "it starts again")
        wait_until(lambda: ground.all_ready(machine, BASE), RESTART_TIMEOUT, "all pods are ready")
        return "restarted by its liveness probe"

    asked = seen_during(machine, BASE, "SIGSTOP of the whole sidecar", act)
    row = ROWS[-1]
    row.note = f"failures over {asked.fresh.last() - AROUND:.1f} s; {row.note}"
    assert asked.fresh.failed, "all of it hung, and nobody noticed: something else was stopped"
    assert asked.fresh.failed <= RATE / 2 * HANG, f"{asked.fresh}; {asked.fresh.bad}"


def patched(machine: Machine, path: str, value: str) -> None:
    patch = msgspec.json.encode([{"op": "replace", "path": path, "value": value}]).decode()
    machine.kubectl("-n", BASE.namespace, "patch", f"deployment/{BASE.deployment}", "--type=json", "-p", patch)


def mistake(machine: Machine, path: str, value: str) -> Callable[[], str]:
    """Roll out something that cannot start, see that it does not become ready, and go back."""

    def act() -> str:
        patched(machine, path, value)
        with pytest.raises(NodeError, match="timed out"):
            machine.kubectl("-n", BASE.namespace, "rollout", "status", f"deployment/{BASE.deployment}", "--timeout=12s")
        machine.kubectl("-n", BASE.namespace, "rollout", "undo", f"deployment/{BASE.deployment}")
        ground.roll_out(machine, BASE)
        return "old pods stay; `rollout undo`"

    return act


@long_form
def test_an_image_that_does_not_start_costs_nothing(machine: Machine) -> None:
    act = mistake(machine, "/spec/template/spec/initContainers/0/image", "headwater:is-nowhere")
    asked = seen_during(machine, BASE, "an image that is nowhere", act)
    lost_almost_nothing(asked.fresh)
    lost_almost_nothing(asked.long_lived)


@long_form
def test_a_corefile_with_an_error_costs_nothing(machine: Machine) -> None:
    machine.kubectl(
        "-n", BASE.namespace, "create", "configmap", "broken", "--from-literal=Corefile=.:53 {\n    grcp . x\n}\n"
    )
    volumes = machine.get("deployment", "-n", BASE.namespace, BASE.deployment)["spec"]["template"]["spec"]["volumes"]
    number = next(n for n, volume in enumerate(volumes) if "configMap" in volume)
    act = mistake(machine, f"/spec/template/spec/volumes/{number}/configMap/name", "broken")
    asked = seen_during(machine, BASE, "a Corefile with an error", act)
    lost_almost_nothing(asked.fresh)
    lost_almost_nothing(asked.long_lived)


@long_form
def test_scaling_and_three_replicas_lose_nothing(machine: Machine) -> None:
    for what, act in (
        ("from two replicas to three", lambda: ground.scale(machine, BASE, 3)),
        ("rolling restart of three replicas", lambda: ground.restart(machine, BASE)),
        ("from three replicas to two", lambda: ground.scale(machine, BASE, 2)),
    ):
        asked = seen_during(machine, BASE, what, act)
        lost_almost_nothing(asked.fresh)
        hardly_any_servfail(asked.long_lived)


@long_form
def test_the_patched_coredns_loses_no_more_than_coredns_alone(machine: Machine) -> None:
    """CoreDNS as kubeadm installs it, then with the sidecar, its block and no lameduck."""
    ground.install_coredns(machine)
    alone = seen_during(
        machine, COREDNS, "rolling restart of CoreDNS alone (`kubernetes`, lameduck 5 s)",
        lambda: ground.restart(machine, COREDNS),
    )  # fmt: skip
    ground.patch_coredns(machine)
    asked = seen_during(
        machine, COREDNS, "rolling restart of CoreDNS with `patch-coredns`", lambda: ground.restart(machine, COREDNS)
    )
    lost_almost_nothing(asked.fresh)
    hardly_any_servfail(asked.long_lived)
    base = next((row.asked for row in ROWS if row.what.startswith("rolling restart of `deploy/base`")), asked)
    for ours in (asked, base):
        # Which sockets belong to which pod is chance: twice as many is the same.
        assert ours.long_lived.failed <= 2 * alone.long_lived.failed + RATE, (ours.long_lived, alone.long_lived)


def test_table_of_what_was_seen(capsys: pytest.CaptureFixture[str]) -> None:
    if not ROWS:
        pytest.skip("nothing was seen")
    with capsys.disabled():
        print("\n" + report(ROWS))


def report(rows: list[Row]) -> str:
    def cells(seen: Seen) -> str:
        servfail = seen.seen.get("SERVFAIL", 0)
        return f"{seen.asked:,} | {seen.failed - servfail:,} | {servfail:,}"

    lines = [
        "| done | fresh ports: asked | lost | SERVFAIL | long-lived: asked | lost | SERVFAIL | seen |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    lines += [f"| {row.what} | {cells(row.asked.fresh)} | {cells(row.asked.long_lived)} | {row.note} |" for row in rows]
    return "\n".join(lines)


def test_nothing_is_left_of_earlier_nodes(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One kill of the first process ends all the others, and its cgroups can be removed."""
    archives = require_node()
    one = Machine(tmp_path_factory.mktemp("ends") / "state", list(archives.values()))
    one._group += "-ends"
    with one as machine:
        assert machine.pids("^containerd")
        groups = [group for group in CGROUPS.glob(f"*/{one._group}") if group.is_dir()]
        assert groups
    assert not any(group.exists() for group in groups)
