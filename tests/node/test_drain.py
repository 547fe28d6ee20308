"""Two nodes with a cable between them: one is drained under questions, then the other.

The questions come from the first node. Its pods are local to them, those of the second one are a
hop away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.harness.processes import wait_until
from tests.node import ground
from tests.node.ground import BASE
from tests.node.machine import Machine, require_node
from tests.node.rows import hardly_any_servfail, long_form, lost_almost_nothing, marks, seen_during

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [*marks, long_form]

NODES: Final = ("node-b", "node-a")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    archives = require_node()
    with Machine(tmp_path_factory.mktemp("two") / "state", list(archives.values()), nodes=2) as machine:
        ground.install_web(machine)
        ground.install_base(machine)
        yield machine


def places(machine: Machine) -> list[str]:
    return sorted(str(pod["spec"].get("nodeName")) for pod in ground.pods(machine, BASE))


def test_replicas_are_spread_and_a_drain_of_each_node_loses_nothing(two: Machine) -> None:
    assert places(two) == sorted(NODES)
    for node in NODES:
        other = next(name for name in NODES if name != node)
        here = places(two).count(node)

        def drain(node: str = node) -> None:
            # Only the DNS pods: who is asked for stays.
            two.kubectl(
                "drain", node, "--ignore-daemonsets", "--delete-emptydir-data",
                f"--pod-selector={BASE.selector}", "--timeout=120s", timeout=130,
            )  # fmt: skip
            ground.roll_out(two, BASE)

        row = seen_during(two, BASE, f"`kubectl drain` of a node with {here} of 2 replicas", drain)
        assert places(two) == [other, other]
        lost_almost_nothing(row.asked.fresh)
        hardly_any_servfail(row.asked.long_lived)
        two.kubectl("uncordon", node)
        wait_until(lambda: ground.all_ready(two, BASE), 60, "all pods are ready")
