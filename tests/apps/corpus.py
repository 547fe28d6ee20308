"""The recorded questions as a world and what it is asked: for `bench.serving` and for comparisons.

A corpus is a file of `recorded/`: its Service with its ports, its members with their addresses,
before and after one was replaced, and the questions in the order in which they were first asked. It
moves to any namespace, zone and addresses, because names are rewritten.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.apps import recorded
from tests.apps.recorded import Line

#: Where the questions were asked.
NAMESPACE: Final = "default"
ZONE: Final = "cluster.local"
_POINTER: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)\.(\d+)\.in-addr\.arpa")

Object = dict[str, Any]
Question = tuple[str, str]
"""A name without the last dot, and a type."""
Rename = Callable[[str], str]
"""Gives an address for another one."""


def _same(address: str) -> str:
    return address


@dataclass(frozen=True)
class Corpus:
    """What one system asked, and of which Service."""

    system: str
    service: str
    ports: tuple[tuple[str, int], ...]
    members: tuple[tuple[str, tuple[str, ...]], ...]
    """Each member, and its addresses in the order of their use."""
    lines: tuple[Line, ...]

    def questions(self, namespace: str = NAMESPACE, zone: str = ZONE, address: Rename = _same) -> Iterator[Question]:
        """Yield every question, as often as it was asked."""
        for line in self.lines:
            yield from [(self.name(line, namespace, zone, address), line.qtype)] * line.count

    def name(self, line: Line, namespace: str = NAMESPACE, zone: str = ZONE, address: Rename = _same) -> str:
        """Return the name of a line, as pods of that namespace would ask for it there."""
        if found := _POINTER.fullmatch(line.name):
            parts = address(".".join(found.groups()[::-1])).split(".")
            return ".".join([*parts[::-1], "in-addr.arpa"])
        # A search list puts namespace and zone behind a name that has them already.
        moved = line.name.replace(f".{NAMESPACE}.svc", f".{namespace}.svc")
        return moved.replace(f".{ZONE}", f".{zone}")

    def objects(self, namespace: str = NAMESPACE, address: Rename = _same, *, at: int = -1) -> list[Object]:
        """Return the Service and its slice; with `at` 0 members have their first addresses."""
        ports = [{"name": name, "port": number, "protocol": "TCP"} for name, number in self.ports]
        endpoints = [
            {"addresses": [address(known[at])], "hostname": member, "conditions": {"ready": True, "serving": True}}
            for member, known in self.members
        ]
        labels = {"kubernetes.io/service-name": self.service, "endpointslice.kubernetes.io/managed-by": "corpus"}
        return [
            {"apiVersion": "v1", "kind": "Service",
             "metadata": {"name": self.service, "namespace": namespace, "labels": {}},
             "spec": {"clusterIP": "None", "ports": ports}},
            {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
             "metadata": {"name": f"{self.service}-0", "namespace": namespace, "labels": labels},
             "addressType": "IPv4", "ports": ports, "endpoints": endpoints},
        ]  # fmt: skip


def systems() -> list[str]:
    """Return the systems whose questions were recorded."""
    return sorted(file.stem for file in recorded.FOLDER.glob("*.txt"))


def read(system: str) -> Corpus:
    """Return the corpus of a system."""
    return parse(system, recorded.file(system).read_text().splitlines(), recorded.read(system))


def parse(system: str, texts: Sequence[str], lines: Sequence[Line]) -> Corpus:
    """Return the corpus of a file: the world is in the comments at its beginning."""
    service = ""
    ports: tuple[tuple[str, int], ...] = ()
    members: dict[str, tuple[str, ...]] = {}
    for text in texts:
        match text.split():
            case ["#", "service", name, *numbers] if not service:
                service = name
                ports = tuple((port, int(number)) for port, _, number in (each.partition("=") for each in numbers))
            case ["#", "member", name, address]:
                members[name] = (*members.get(name, ()), address)
    if not service or not members or not lines:
        raise ValueError(f"{system}: a recording names its service and its members, and has questions")
    return Corpus(system, service, ports, tuple(members.items()), tuple(lines))


def every() -> list[Corpus]:
    """Return the corpus of every system."""
    return [read(system) for system in systems()]
