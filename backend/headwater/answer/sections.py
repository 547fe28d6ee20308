"""What a reply holds besides its question."""

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
    """Whether more records would have been there than fit."""


Found: TypeAlias = tuple[int, int, Sequence[bytes], bool]
"""The same without names: a named tuple takes ten times as long to make."""

#: NODATA.
NOTHING: Final[Found] = (0, 0, (), False)
