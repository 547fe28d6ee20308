"""The Helm chart on a real node: installed, tested, upgraded and rolled back under questions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.node import ground
from tests.node.rows import hardly_any_servfail, long_form, lost_almost_nothing, marks, seen_during

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.node.ground import Deployed
    from tests.node.machine import Machine

pytestmark = [*marks, long_form]

NAME = "web.default.svc.cluster.local"


@pytest.fixture(scope="module")
def release(machine: Machine) -> Iterator[Deployed]:
    deployed = ground.released("charted")
    ground.set_release(machine, "install", deployed)
    yield deployed
    ground.uninstall(machine, deployed)
    left = machine.kubectl("get", "clusterroles,clusterrolebindings", "-o", "name")
    assert deployed.namespace not in left


def ttl(machine: Machine, deployed: Deployed) -> set[str]:
    lines = machine.run("dig", "+noall", "+answer", f"@{ground.address(machine, deployed)}", NAME).splitlines()
    return {line.split()[1] for line in lines}


def test_its_own_test_asks_and_shows_what_was_answered(machine: Machine, release: Deployed) -> None:
    said = ground.helm(machine, "test", release.namespace, "--namespace", release.namespace, "--logs")
    assert "Phase:          Succeeded" in said
    for over in ("udp", "tcp"):
        assert f"kubernetes.default.svc.cluster.local A over {over} at {ground.address(machine, release)}" in said


def test_an_upgrade_and_a_rollback_lose_nothing(machine: Machine, release: Deployed) -> None:
    """The Corefile changes and the flags do: a ConfigMap goes while pods still use it."""
    assert ttl(machine, release) == {"5"}
    values = ("headwater.ttl=7", "headwater.pods=verified", "coredns.cacheSeconds=10")
    asked = seen_during(
        machine, release, "`helm upgrade` with other flags and another Corefile",
        lambda: ground.set_release(machine, "upgrade", release, *values),
    ).asked  # fmt: skip
    assert ttl(machine, release) == {"7"}
    lost_almost_nothing(asked.fresh)
    hardly_any_servfail(asked.long_lived)

    def back() -> None:
        ground.helm(machine, "rollback", release.namespace, "--namespace", release.namespace, "--wait")
        ground.roll_out(machine, release)

    asked = seen_during(machine, release, "`helm rollback`", back).asked
    assert ttl(machine, release) == {"5"}
    lost_almost_nothing(asked.fresh)
    hardly_any_servfail(asked.long_lived)


def test_new_pods_take_a_siblings_store(machine: Machine) -> None:
    """The first of a pod takes it from a sibling, the second from the first."""
    deployed = ground.released("seeded")
    machine.kubectl("create", "namespace", deployed.namespace)
    ground.make_peers_secret(machine, deployed.namespace)
    values = ("peers.enabled=true", "peers.secret=headwater-peers", "replicas=1")
    ground.set_release(machine, "install", deployed, *values)
    try:
        assert "taken" not in ground.seeds(machine, deployed), "there was no sibling yet"
        assert ground.seeds(machine, deployed, 9355) == ["taken"], "the first of its own pod was there"
        ground.restart(machine, deployed)
        for port in (9353, 9355):
            assert ground.seeds(machine, deployed, port) == ["taken"]
    finally:
        ground.uninstall(machine, deployed)
