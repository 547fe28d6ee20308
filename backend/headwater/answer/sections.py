"""What a reply holds besides its question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple


class Sections(NamedTuple):
    """The answer and additional sections of a reply."""

    ancount: int
    arcount: int
    body: Sequence[bytes]
    """The records of both, one after the other, in pieces."""
    cut: bool = False
    """Whether more records would have been there than fit."""


#: NODATA.
NOTHING: Final = Sections(0, 0, ())
