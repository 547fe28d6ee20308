"""A real system as containers on the node: what the kubelet gives, and Headwater serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.harness.processes import wait_until
from tests.node import systems
from tests.node.ground import BASE, address
from tests.node.rows import long_form, lost_almost_nothing, marks, seen_during

if TYPE_CHECKING:
    from tests.node.machine import Machine

pytestmark = [*marks, pytest.mark.timeout(1200)]
WHOLE = 120.0  # seconds


def answer(machine: Machine, member: str) -> str:
    """Return what the Service of deploy/base says of a member's name, from the node."""
    name = f"{member}.{systems.SERVICE}"
    return machine.run("dig", "+short", "+tries=1", f"@{address(machine, BASE)}", name).strip()


def whole(machine: Machine, member: str) -> None:
    wait_until(lambda: systems.is_whole(machine, member), WHOLE, f"{member} sees all members", interval=1.0)


@long_form
def test_rabbitmq_forms_and_outlives_its_pods(machine: Machine) -> None:
    """examples/rabbitmq as it stands: one cluster, a replaced member, a rollout; nothing lost."""
    with systems.installed(machine):
        for number in range(systems.MEMBERS):
            whole(machine, f"rabbitmq-{number}")
        systems.put(machine, "one", "two")

        # The name has the new address as soon as the pod has it, long before it is ready.
        def act() -> str:
            new = systems.replace(machine, "rabbitmq-1")
            wait_until(lambda: answer(machine, "rabbitmq-1") == new, 2.0, "the new address is in DNS", interval=0.05)
            systems.rolled_out(machine)
            whole(machine, "rabbitmq-0")
            return f"rabbitmq-1 is {new}"

        asked = seen_during(machine, BASE, "a member of RabbitMQ is replaced", act).asked
        lost_almost_nothing(asked.fresh)
        lost_almost_nothing(asked.long_lived)
        assert systems.taken(machine) == ["one", "two"]

        systems.put(machine, "three")
        before = systems.addresses(machine)
        systems.restart(machine)
        after = systems.addresses(machine)
        assert not set(before.values()) & set(after.values())
        assert {name: answer(machine, name) for name in after} == after
        for member in after:
            whole(machine, member)
        assert systems.taken(machine) == ["three"]
