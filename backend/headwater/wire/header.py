"""A message's header (RFC 1035 section 4.1.1): the offsets of its fields, its bits, its counts.

  0       2       4         6         8         10        12
  | id    | flags | QDCOUNT | ANCOUNT | NSCOUNT | ARCOUNT | question …

flags   QR  opcode  AA  TC  RD  RA  0  AD  CD  rcode
        15  14..11  10   9   8   7  6   5   4   3..0
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from headwater.wire.types import Rcode

HEADER_SIZE: Final = 12
#: The most bytes of a message over TCP, and so over gRPC.
MAX_MESSAGE: Final = 65_535

# The flags, as one number.
QR: Final = 0x8000
OPCODE: Final = 0x7800
AA: Final = 0x0400
TC: Final = 0x0200
RD: Final = 0x0100
RA: Final = 0x0080
AD: Final = 0x0020
CD: Final = 0x0010
#: The header's part of an rcode; an OPT has the rest (RFC 6891 section 6.1.3).
RCODE: Final = 0x000F
#: The bits of its query that a reply repeats (RFC 1035 section 4.1.1, RFC 4035 section 3.2.2).
REPEATED: Final = RD | CD

#: The offset of the low byte of ARCOUNT.
ARCOUNT: Final = 11
#: QDCOUNT of a message with one question.
ONE_QUESTION: Final = b"\0\1"
#: ANCOUNT, NSCOUNT, ARCOUNT.
COUNTS: Final = Struct(">HHH")
NO_RECORDS: Final = COUNTS.pack(0, 0, 0)
#: All four counts of a message that is only a header.
_NOTHING: Final = b"\0\0" + NO_RECORDS


def flags_of(message: bytes) -> int:
    """The flags of a message of at least four bytes."""
    return int.from_bytes(message[2:4], "big")


def counts_of(message: bytes) -> tuple[int, int, int]:
    """ANCOUNT, NSCOUNT, ARCOUNT as the sender wrote them; `message` has at least a header."""
    ancount, nscount, arcount = COUNTS.unpack_from(message, HEADER_SIZE - COUNTS.size)
    return ancount, nscount, arcount


def reply_head(query: bytes, flags: int) -> bytes:
    """Id, flags and QDCOUNT of a reply; `flags` without QR."""
    return query[:2] + (QR | flags).to_bytes(2, "big") + ONE_QUESTION


def bare(query: bytes, flags: int) -> bytes:
    """A reply that is only a header; `flags` without QR."""
    return query[:2] + (QR | flags).to_bytes(2, "big") + _NOTHING


def servfail(query: bytes) -> bytes:
    """A reply for a query that met a bug of ours; the query itself may be the cause."""
    return bare(query, Rcode.SERVFAIL)
