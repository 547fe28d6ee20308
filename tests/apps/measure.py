"""How long a system is short of a member, by who answers CoreDNS's questions.

Each system forms one cluster for each kind of DNS. Then, RUNS times, one member is killed and comes
back under another address, and all are stopped and come back. Nobody waits for DNS in between, and
a server that gives up is started again, as a kubelet does. Each name is asked for just before, as
clients do all the time: a cache then has the old answers.

All kinds of DNS read the same real API server.
"""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from bench.report import environment, spread, table
from tests.apps import roots
from tests.apps.cassandra import Cassandra
from tests.apps.cluster import ADDRESSES, MEMBERS, Clustered
from tests.apps.galera import Galera
from tests.apps.kafka import Kafka
from tests.apps.mongodb import MongoDB
from tests.apps.rabbitmq import RabbitMQ
from tests.apps.site import Dns, Site
from tests.harness.plane import Plane

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.apps.pods import Pod
    from tests.harness.processes import Running

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "systems" / "README.md"
_TABLE: Final = re.compile(r"(?s)(<!-- table -->\n)(.*?)(\n<!-- /table -->)")
RUNS: Final = 3
BACK: Final = 900.0  # seconds; a RabbitMQ node waits for 300 for one that was looked for in vain
CALM: Final = 2.0  # seconds of a whole cluster between two deaths
KINDS: Final = (
    Dns(),
    Dns("kubernetes"),
    Dns(ttl=30, cache=30),
)


class Measured(Clustered, Protocol):
    """A system that can be measured."""

    def start_all(self, site: Site, pods: Sequence[Pod]) -> None:
        """Start members that had all ended."""


SYSTEMS: Final[dict[str, tuple[str, Callable[[], Measured]]]] = {
    "rabbitmq": ("RabbitMQ, `dns`", RabbitMQ),
    "galera-ready": ("Galera, by the headless name", Galera),
    "galera": ("Galera, by pod names", lambda: Galera("named")),
    "kafka": ("Kafka, JVMs that keep 5 s", Kafka),
    "kafka-30": ("Kafka, JVMs that keep 30 s", lambda: Kafka(quick=False)),
    "mongodb": ("pymongo on FerretDB, `mongos`", MongoDB),
    "cassandra": ("Cassandra", Cassandra),
}


class Run:
    """One cluster with one kind of DNS."""

    def __init__(self, site: Site, system: Measured) -> None:
        self.site, self.system = site, system
        self.pods = system.form(site, ADDRESSES)
        self._turn = 1

    def one(self) -> float:
        """Kill the last member; return the seconds until the cluster is whole again."""
        self._turn += 1
        self._ask()
        began = time.monotonic()
        self.site.remove(self.pods[-1])
        self.pods[-1] = self.site.member(MEMBERS - 1, f"10.44.{self._turn}.{MEMBERS}")
        servers = {self.pods[-1]: self.system.start(self.pods[-1])}
        return self._whole(began, [self.pods[-1], *self.pods[:-1]], servers)

    def all(self) -> float:
        """Stop all members; return the seconds until the cluster is whole again."""
        self._turn += 1
        self._ask()
        began = time.monotonic()
        for pod in self.pods:
            self.site.remove(pod, "stopped")
        self.pods = [self.site.member(number, f"10.44.{self._turn}.{number + 1}") for number in range(MEMBERS)]
        self.system.start_all(self.site, self.pods)
        return self._whole(began, self.pods, {})

    def _ask(self) -> None:
        for name in (self.site.service_name, *(pod.fqdn for pod in self.pods)):
            self.site.ask(name)

    def _whole(self, began: float, pods: Sequence[Pod], servers: dict[Pod, Running]) -> float:
        def whole() -> bool:
            for pod in pods:
                if not pod.is_up():
                    servers[pod] = self.system.start(pod)
                    self.site.say(f"{pod.name} had given up, and is started again")
            return self.system.whole(pods)

        self.site.timed(whole, BACK, "whole again")
        took = time.monotonic() - began
        self.site.set_ready(*pods)
        return took


def measure(name: str, dns: Dns, plane: Plane) -> dict[str, list[float]]:
    """Return the seconds of each run, by what happened."""
    system = SYSTEMS[name][1]()
    took: dict[str, list[float]] = {"one member killed": [], "all stopped": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        Site(Path(folder), system, root=roots.of(system.name), dns=dns, plane=plane) as site,
    ):
        run = Run(site, system)
        for _ in range(RUNS):
            took["one member killed"].append(run.one())
            took["all stopped"].append(run.all())
    return took


def write(names: Sequence[str]) -> str:
    """Measure these systems, and write their rows into docs/systems/README.md.

    Rows of other systems stay: they were measured on the machine that the page names.
    """
    rows = {row[0]: row for row in _rows(PAGE.read_text())}
    with tempfile.TemporaryDirectory() as folder, Plane(Path(folder)) as plane:
        for name in names:
            seen = [measure(name, dns, plane) for dns in KINDS]
            for what in seen[0]:
                label = f"{SYSTEMS[name][0]}: {what}"
                rows[label] = (label, *(spread(one[what]) for one in seen))
    text = table(("whole again after, s", *map(str, KINDS)), list(rows.values()))
    text = f"{text}\n\nMedian [least-most] of {RUNS}. {environment('coredns', 'kube-apiserver')}."
    PAGE.write_text(_TABLE.sub(lambda found: f"{found[1]}{text}{found[3]}", PAGE.read_text()))
    return text


def _rows(page: str) -> list[tuple[str, ...]]:
    """Return the rows of the page's table, without its head."""
    found = _TABLE.search(page)
    assert found is not None
    lines = [line for line in found[2].splitlines() if line.startswith("|")]
    return [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines[2:]]
