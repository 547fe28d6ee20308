"""A formed cluster of three, on a site, whose members are replaced while things break."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from tests.apps import faults, recorded, report
from tests.apps.site import Site, System

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.apps.pods import Pod

MEMBERS: Final = 3
#: Those that the members have at first.
ADDRESSES: Final = tuple(f"10.44.1.{number + 1}" for number in range(MEMBERS))
BACK: Final = 240.0  # seconds until a member is back; about 5 on an idle machine
#: How members end, and what breaks meanwhile.
CASES: Final = [
    *(("killed", fault) for fault in faults.FAULTS),
    ("stopped", "nothing"),
    ("stopped", "SIGSTOP of watch"),
]


class Clustered(System, Protocol):
    """A system that a test can form, write to and read from."""

    def form(self, site: Site, addresses: Sequence[str]) -> list[Pod]:
        """Make the members as users configure it; return when they are one cluster."""

    def put(self, client: Pod, host: str, *texts: str) -> None:
        """Write texts through a host, safely: a majority has them. Raises PodError."""

    def get(self, client: Pod, host: str) -> list[str]:
        """Read texts through a host, the newest last. Raises PodError."""


class Cluster:
    """Three members, and a client that no Service selects."""

    def __init__(self, site: Site, system: Clustered) -> None:
        self.site, self.system = site, system
        began = time.monotonic()
        self.pods = system.form(site, ADDRESSES)
        report.note(system.name, "three members form a cluster", time.monotonic() - began)
        askers = {pod.address: pod.name for pod in self.pods}
        self.formed = recorded.lines(site.wire.exchanges(), askers, "form")
        """What the members asked to find one another."""
        self.client = site.client()
        self._turn = 1

    def address(self, number: int) -> str:
        """Return an address that no pod has had."""
        self._turn += 1
        return f"10.44.{self._turn}.{number + 1}"

    def other(self, number: int) -> Pod:
        return self.pods[(number + 1) % MEMBERS]

    def replace(self, number: int, how: str, fault: str = "nothing") -> float:
        """Replace a member while Headwater has a fault; judge what the members were told.

        `how` is "killed" or "stopped". Returns the seconds until the cluster is whole.
        """
        site, pod = self.site, self.pods[number]
        mark, began = site.wire.mark(), time.monotonic()
        with faults.FAULTS[fault](site):
            again = self.pods[number] = site.replace(pod, self.address(number), how)
            others = [one for one in self.pods if one is not again]
            site.timed(lambda: self.system.whole([again, *others]), BACK, f"{again.name} is back", interval=0.5)
            took = time.monotonic() - began
        site.set_ready(again)
        site.assert_true(mark, (began, time.monotonic()), refused=fault in faults.UNANSWERED)
        in_dns = site.in_dns if self.system.publish_not_ready else -1.0
        report.note(self.system.name, f"{pod.name} {how}; {fault}", took, in_dns)
        return took
