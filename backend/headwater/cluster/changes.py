"""Changes: the vocabulary between the sources and the ledger."""

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
    """An object that was deleted."""

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
    """Keys of its objects that do not decode; their stored versions stay."""


@dataclass(frozen=True, slots=True)
class ListComplete:
    """The list is whole, as of that version."""

    resource: Resource
    resource_version: str
    confirms: bool = False
    """It is a second list, asked for and begun since, in pages that come from no cache."""
    gone: Sequence[tuple[str, str]] = ()
    """Keys of objects that its pages may have, and that were deleted while it came."""


Change = Upsert | Remove | Progress | ListPageArrived | ListComplete
