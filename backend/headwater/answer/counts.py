"""How replies are counted: by zone, query type and reason.

Keys are integers, made on the hot path; the admin page takes them apart again.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from headwater.wire.types import MNEMONICS, Rcode

#: Query types that are counted by name. All others count as 0, so that no client can fill the
#: table.
COUNTED_TYPES: Final = MNEMONICS


class Reason(IntEnum):
    """The reason for a reply: the last part of the key of a count."""

    ANSWER = 0
    NODATA = 1
    NXDOMAIN = 2
    NOT_READY = 3
    OUT_OF_ZONE = 4
    MALFORMED = 5
    OPCODE = 6
    CLASS = 7
    TRANSFER = 8
    EDNS_VERSION = 9
    CUT = 10
    """An answer that a message cannot hold: as many records as fit."""
    STALE = 11
    """The API server was not heard for longer than `--max-staleness`."""


#: The rcode of each reason.
RCODES: Final = {
    Reason.ANSWER: Rcode.NOERROR,
    Reason.NODATA: Rcode.NOERROR,
    Reason.NXDOMAIN: Rcode.NXDOMAIN,
    Reason.NOT_READY: Rcode.SERVFAIL,
    Reason.OUT_OF_ZONE: Rcode.REFUSED,
    Reason.MALFORMED: Rcode.FORMERR,
    Reason.OPCODE: Rcode.NOTIMP,
    Reason.CLASS: Rcode.REFUSED,
    Reason.TRANSFER: Rcode.REFUSED,
    Reason.EDNS_VERSION: Rcode.BADVERS,
    Reason.CUT: Rcode.NOERROR,
    Reason.STALE: Rcode.SERVFAIL,
}


def count_key(zone: int, qtype: int, reason: int) -> int:
    """A key of `Resolver.counts`; `zone` is 0 for none, else its index + 1."""
    return zone << 24 | qtype << 8 | reason


def count_parts(key: int) -> tuple[int, int, Reason]:
    """(zone, query type, reason) of such a key."""
    return key >> 24, key >> 8 & 0xFFFF, Reason(key & 0xFF)
