"""The parts of a reply behind its question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias


class Sections(NamedTuple):
    """The answer and additional sections of a reply."""

    ancount: int
    arcount: int
    body: Sequence[bytes]
    """The records of both, one after the other, in pieces."""
    cut: bool = False
    """Whether there were more records than fit."""


Found: TypeAlias = tuple[int, int, Sequence[bytes], bool]
"""The same as a plain tuple: a named one takes ten times as long to make."""

#: NODATA.
NOTHING: Final[Found] = (0, 0, (), False)
