"""What sources say: the one vocabulary between them and the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headwater.cluster.objects import Decoded, Resource


@dataclass(frozen=True, slots=True)
class Upsert:
    """An object as it is now."""

    resource: Resource
    decoded: Decoded


@dataclass(frozen=True, slots=True)
class Remove:
    """An object that is no more."""

    resource: Resource
    key: tuple[str, str]
    resource_version: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """Nothing changed up to that version (a bookmark)."""

    resource: Resource
    resource_version: str


@dataclass(frozen=True, slots=True)
class ListPageArrived:
    """Objects of a list that is under way. `first`: it has just begun."""

    resource: Resource
    decoded: Sequence[Decoded]
    first: bool
    odd: Sequence[tuple[str, str]] = ()
    """Keys of the objects on it that do not decode: what is known of them stays."""


@dataclass(frozen=True, slots=True)
class ListComplete:
    """The list is whole, as of that version."""

    resource: Resource
    resource_version: str
    confirms: bool = False
    """It is the second list that was asked for, begun since, in pages that no cache has made."""


Change = Upsert | Remove | Progress | ListPageArrived | ListComplete
