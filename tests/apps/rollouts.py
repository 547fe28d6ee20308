"""`kubectl rollout restart` of a real StatefulSet, with a fault in the middle of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from tests.apps import faults, report
from tests.apps.roots import PACKAGES, require_pods, require_root
from tests.apps.stateful import MEMBERS, PLANE_FLAGS, Kubelet, Probed, deployed
from tests.harness.arena import restored
from tests.harness.plane import TOOLS, Plane
from tests.harness.processes import require_tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.apps.pods import Pod
    from tests.apps.site import Site

FORMS: Final = 240.0  # seconds; about 30 on an idle machine
ROLLS: Final = 300.0
#: What breaks while the second member is replaced.
DURING: Final[dict[str, faults.Fault]] = {
    "nothing": faults.nothing,
    "SIGSTOP of watch": faults.hang("watch"),
    "no API server for 5 s": faults.no_api_server,
}


def roll(folder: Path, system: Probed, during: Iterable[str], formed: Callable[[Site], None] = lambda _: None) -> None:
    """Form a cluster from the example, and restart it once for each fault in `during`.

    What was written before has to be there after it, and nothing that DNS told may be wrong.
    `formed` is called in between.
    """
    require_pods()
    root = require_root() if system.name in PACKAGES else None
    for name in TOOLS:
        require_tool(name)
    with (
        Plane(folder / "plane", PLANE_FLAGS) as plane,
        restored(plane),
        deployed(folder / "site", system, plane, root=root) as (kubelet, client),
    ):
        took = kubelet.run(kubelet.is_whole, FORMS, "three members form a cluster")
        report.note(system.name, "formed by a StatefulSet", took)
        prepare(system, kubelet)
        formed(kubelet.site)
        for fault in during:
            _restart(system, kubelet, client, fault)


def prepare(system: Probed, kubelet: Kubelet) -> None:
    """Do once what a formed cluster needs before a client may write."""
    ready = getattr(system, "make_database", None)
    if ready is not None:
        ready(kubelet.members()[0])


def _restart(system: Probed, kubelet: Kubelet, client: Pod, fault: str) -> None:
    site, plane = kubelet.site, kubelet.plane
    kubelet.take_addresses()
    text = f"before-{fault}".replace(" ", "-")
    system.put(client, site.service_name, text)
    old = set(kubelet.pods)
    mark, began = site.wire.mark(), time.monotonic()
    plane.kubectl("rollout", "restart", "statefulset", system.name)
    kubelet.run(
        lambda: len(kubelet.pods) == MEMBERS and len(old & set(kubelet.pods)) == MEMBERS - 1, ROLLS,
        "the first member is replaced",
    )  # fmt: skip
    with DURING[fault](site):
        kubelet.run(lambda: not old & set(kubelet.pods) and kubelet.is_whole(), ROLLS, "all are replaced and whole")
        took = time.monotonic() - began
    report.note(system.name, f"rollout restart; {fault}", took)
    site.assert_true(mark, (began, time.monotonic()))
    assert text in system.get(client, site.service_name)
