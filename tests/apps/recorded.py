"""The questions of each system as text, in `recorded/`: what is in DNS's logs when it runs.

    # service rabbitmq-nodes amqp=5672 epmd=4369
    # member rabbitmq-0 10.44.1.1
    1 rabbitmq-nodes.default.svc.cluster.local A NOERROR rabbitmq-0 form

After the world in which they were asked, a line has: how often, name, type, rcode (or NODATA), who
asked, and in which phase, in the order of first asking. The phases: "form" (three members find one
another), "client" (one connects by the headless name, then by a member's), "replace" (rabbitmq-2
under another address), "all" (all three at once).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.apps.pods import NAMESPACE, ZONE

if TYPE_CHECKING:
    from tests.apps.site import Site
    from tests.apps.wire import Exchange

FOLDER: Final = Path(__file__).with_name("recorded")


@dataclass(frozen=True, slots=True)
class Line:
    """How often one pod asked one question in one phase."""

    count: int
    name: str
    qtype: str
    rcode: str
    asker: str
    phase: str

    def __str__(self) -> str:
        return f"{self.count} {self.name} {self.qtype} {self.rcode} {self.asker} {self.phase}"

    @property
    def kind(self) -> tuple[str, str, str]:
        """Name, type and rcode, with N for the number of a member and ADDRESS for any."""
        name = re.sub(r"^\d+\.\d+\.\d+\.\d+\.in-addr\.arpa$", "ADDRESS", self.name)
        return re.sub(r"-\d+\.", "-N.", name), self.qtype, self.rcode


def file(system: str) -> Path:
    return FOLDER / f"{system}.txt"


def read(system: str) -> list[Line]:
    """Return the recorded lines of a system."""
    lines = []
    for text in file(system).read_text().splitlines():
        if text and not text.startswith("#"):
            count, name, qtype, rcode, asker, phase = text.split()
            lines.append(Line(int(count), name, qtype, rcode, asker, phase))
    return lines


def lines(exchanges: Iterable[Exchange], askers: dict[str, str], phase: str) -> list[Line]:
    """Count what was asked; `askers` are the pods' names by their addresses."""
    counts: dict[tuple[str, str, str, str], int] = {}
    for one in exchanges:
        key = (one.name, one.qtype, one.rcode, askers.get(one.client, one.client))
        counts[key] = counts.get(key, 0) + 1
    return [Line(count, *key, phase) for key, count in counts.items()]


class Recording:
    """Collects the questions of one site, phase by phase."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._mark = site.wire.mark()
        self._askers: dict[str, str] = {}
        self.lines: list[Line] = []

    def phase(self, name: str) -> list[Line]:
        """End a phase: return what was asked since the last one ended."""
        self._askers |= {pod.address: pod.name for pod in self._site.members.values()}
        self._askers |= {pod.address: "client" for pod in self._site.clients}
        found = lines(self._site.wire.exchanges(self._mark), self._askers, name)
        self._mark = self._site.wire.mark()
        self.lines += found
        return found

    def write(self) -> None:
        """Write the file of the system."""
        system = self._site.system
        ports = " ".join(f"{name}={port}" for name, port in system.ports.items())
        FOLDER.mkdir(exist_ok=True)
        file(system.name).write_text("\n".join([*self._head(ports), *map(str, self.lines)]) + "\n")

    def _head(self, ports: str) -> Iterator[str]:
        system = self._site.system
        yield f"# service {system.service} {ports}"
        yield f"# zone {ZONE}, namespace {NAMESPACE}; a search list is tried first by names with fewer than 5 dots"
        for address, name in self._askers.items():
            yield f"# {'client' if name == 'client' else 'member'} {name} {address}"
