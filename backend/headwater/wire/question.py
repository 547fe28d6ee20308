"""What a query asks, and what there is to say when it is not a good one.

Only for the queries that the resolver's short way does not take: for names that
are not stored, for other types, with options, or malformed. Nothing here raises,
and nothing is allocated by a count that a client wrote.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from headwater.wire.names import MAX_LABEL, MAX_NAME
from headwater.wire.types import HEADER_SIZE, OPT

#: EDNS requestors that say less are taken to mean this (RFC 6891 section 6.2.3).
MIN_UDP_SIZE: Final = 512


class Edns(NamedTuple):
    """A query's OPT record."""

    udp_size: int
    version: int
    do: bool


class Question(NamedTuple):
    """A query that could be read. `end` is the offset behind its question."""

    name: bytes
    """Wire format, in the client's letter case."""
    qtype: int
    qclass: int
    end: int
    edns: Edns | None


class Malformed(Exception):  # noqa: N818 (what the query is)
    """A query that cannot be answered but by FORMERR. `end`: behind its question, if that could be read."""

    def __init__(self, end: int = 0) -> None:
        self.end = end


def name_end(message: bytes, at: int) -> int:
    """The offset behind an uncompressed name. Raises Malformed."""
    start = at
    size = len(message)
    while at < size:
        length = message[at]
        at += 1
        if not length:
            if at - start > MAX_NAME:
                break
            return at
        if length > MAX_LABEL:
            break
        at += length
    raise Malformed


def parse(message: bytes) -> Question:
    """A query of at least 12 bytes, opcode 0 (RFC 1035 section 4.1, RFC 6891, RFC 9619). Raises Malformed."""
    if message[4:6] != b"\0\1":
        raise Malformed
    end = name_end(message, HEADER_SIZE) + 4
    if end > len(message):
        raise Malformed
    question = message[HEADER_SIZE : end - 4]
    qtype = int.from_bytes(message[end - 4 : end - 2], "big")
    qclass = int.from_bytes(message[end - 2 : end], "big")
    if message[6:10] != b"\0\0\0\0":
        # An answer or authority section has no place in a query (IXFR's is refused anyway).
        raise Malformed(end)
    edns = None
    at = end
    for _ in range(int.from_bytes(message[10:12], "big")):
        # The count is the client's word: the loop ends with the message.
        at, found = _additional(message, at, end)
        if found is not None:
            if edns is not None:
                raise Malformed(end)
            edns = found
    if at != len(message):
        raise Malformed(end)
    return Question(question, qtype, qclass, end, edns)


def _additional(message: bytes, at: int, end: int) -> tuple[int, Edns | None]:
    """The offset behind a record of the additional section, and what it says if it is an OPT."""
    start = at
    try:
        if message[at] >= 0xC0:  # a pointer ends the name (TSIG has none, others may)
            at += 2
        else:
            at = name_end(message, at)
        fixed = message[at : at + 10]
        after = at + 10 + int.from_bytes(fixed[8:10], "big")
    except (IndexError, Malformed):
        raise Malformed(end) from None
    if len(fixed) < 10 or after > len(message):
        raise Malformed(end)
    if int.from_bytes(fixed[:2], "big") != OPT:
        return after, None
    if at != start + 1:  # RFC 6891 section 6.1.2: the owner is the root
        raise Malformed(end)
    udp_size = max(MIN_UDP_SIZE, int.from_bytes(fixed[2:4], "big"))
    return after, Edns(udp_size, fixed[5], bool(fixed[6] & 0x80))
