"""The names that begin with what somebody has typed, as data. docs/page.md has the schema."""

from __future__ import annotations

from msgspec import Struct


class Named(Struct, frozen=True):
    """One name that is there."""

    name: str
    kind: str
    """As docs/page.md lists them: service, endpoint, namespace, port, pod, topology, zone."""
    addresses: int
    """How many addresses it has; 0 also where they are another name's."""
    answers: bool = True
    """Whether it has records. A Service without any is found, too: why is worth asking."""


class Completion(Struct, frozen=True):
    """The names that begin with what was typed."""

    typed: str
    exact: str
    """The one name that was meant, if what was typed leaves no doubt; "" else."""
    names: list[Named]
    more: bool
    """There are others."""
