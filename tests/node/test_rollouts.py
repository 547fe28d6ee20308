"""Rollouts, scaling and mistakes on a real node, while a thousand questions a second are asked.

Half of them come from fresh ports, half from 50 sockets that live on. The short form restarts
deploy/base. HEADWATER_NODE=long (`make node-test`) does everything, CoreDNS with its own plugin
too, and prints the table of docs/reliability.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec.json
import pytest

from tests.node import ground
from tests.node.ground import BASE, COREDNS, RATE
from tests.node.machine import Machine, NodeError
from tests.node.rows import ROWS, hardly_any_servfail, long_form, lost_almost_nothing, marks, seen_during

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = marks


def test_a_rolling_restart_of_base_loses_nothing(machine: Machine) -> None:
    asked = seen_during(machine, BASE, "rolling restart of `deploy/base`", lambda: ground.restart(machine, BASE)).asked
    lost_almost_nothing(asked.fresh)
    hardly_any_servfail(asked.long_lived)


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
    asked = seen_during(machine, BASE, "an image that is nowhere", act).asked
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
    asked = seen_during(machine, BASE, "a Corefile with an error", act).asked
    lost_almost_nothing(asked.fresh)
    lost_almost_nothing(asked.long_lived)


@long_form
def test_scaling_and_three_replicas_lose_nothing(machine: Machine) -> None:
    for what, act in (
        ("from two replicas to three", lambda: ground.scale(machine, BASE, 3)),
        ("rolling restart of three replicas", lambda: ground.restart(machine, BASE)),
        ("from three replicas to two", lambda: ground.scale(machine, BASE, 2)),
    ):
        asked = seen_during(machine, BASE, what, act).asked
        lost_almost_nothing(asked.fresh)
        hardly_any_servfail(asked.long_lived)


@long_form
def test_the_patched_coredns_loses_no_more_than_coredns_alone(machine: Machine) -> None:
    """CoreDNS as kubeadm installs it, then with the sidecar, its block and no lameduck."""
    ground.install_coredns(machine)
    alone = seen_during(
        machine, COREDNS, "rolling restart of CoreDNS alone (`kubernetes`, lameduck 5 s)",
        lambda: ground.restart(machine, COREDNS),
    ).asked  # fmt: skip
    ground.patch_coredns(machine)
    asked = seen_during(
        machine, COREDNS, "rolling restart of CoreDNS with `patch-coredns`", lambda: ground.restart(machine, COREDNS)
    ).asked
    lost_almost_nothing(asked.fresh)
    hardly_any_servfail(asked.long_lived)
    base = next((row.asked for row in ROWS if row.what.startswith("rolling restart of `deploy/base`")), asked)
    for ours in (asked, base):
        # Which sockets belong to which pod is chance: twice as many is the same.
        assert ours.long_lived.failed <= 2 * alone.long_lived.failed + RATE, (ours.long_lived, alone.long_lived)


@long_form
def test_a_patched_coredns_takes_a_siblings_store(machine: Machine) -> None:
    ground.install_coredns(machine)
    ground.make_peers_secret(machine, COREDNS.namespace)
    overlay = ground.ROOT / "deploy" / "overlays" / "patch-coredns"
    machine.kubectl("apply", "-f", overlay / "seeded" / "service.yaml")
    ground.add_sidecar(machine, "seeded")
    ground.restart(machine, COREDNS)
    for port in (9353, 9355):
        assert ground.seeds(machine, COREDNS, port) == ["taken", "taken"]
