"""A query's question and OPT, or the reason why it is refused.

The resolver's short way does not come here. Queries do that are for names that are not stored, for
other types, with options, or malformed. Only Malformed is raised, and no memory is allocated by a
count that a client wrote.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from headwater.wire import edns
from headwater.wire.edns import Edns
from headwater.wire.header import HEADER_SIZE, ONE_QUESTION, counts_of
from headwater.wire.names import MAX_LABEL, MAX_NAME, POINTER, ROOT
from headwater.wire.rdata import FIXED

#: Type and class, the end of a question.
_TYPE_AND_CLASS: Final = Struct(">HH")


class Malformed(Exception):  # noqa: N818 (what the query is)
    """A query whose only reply is FORMERR.

    `end`: the offset behind its question, if that could be read.
    """

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


class Question:
    """Read a query. Raises Malformed for a message that is none.

    The message has at least 12 bytes and opcode 0 (RFC 1035 section 4.1, RFC 6891, RFC 9619).
    """

    __slots__ = ("edns", "end", "message", "name", "qclass", "qtype")

    edns: Edns | None
    end: int
    """The offset behind it."""
    name: bytes
    """Wire format, in the client's letter case."""
    qtype: int
    qclass: int

    def __init__(self, message: bytes) -> None:
        if message[4:6] != ONE_QUESTION:
            raise Malformed
        behind_name = name_end(message, HEADER_SIZE)
        end = behind_name + _TYPE_AND_CLASS.size
        if end > len(message):
            raise Malformed
        self.message = message
        self.name = message[HEADER_SIZE:behind_name]
        self.qtype, self.qclass = _TYPE_AND_CLASS.unpack_from(message, behind_name)
        self.end = end
        self.edns = None
        ancount, nscount, arcount = counts_of(message)
        if ancount or nscount:
            # A query has no answer or authority section (an IXFR has, and is refused anyway).
            raise Malformed(end)
        at = end
        for _ in range(arcount):
            # The count is the client's word: the loop ends with the message.
            at, found = _additional(message, at, end)
            if found is not None:
                if self.edns is not None:
                    raise Malformed(end)
                self.edns = found
        if at != len(message):
            raise Malformed(end)


def _additional(message: bytes, at: int, end: int) -> tuple[int, Edns | None]:
    """The offset behind a record of the additional section, and the OPT if it is one."""
    start = at
    try:
        if message[at] >= POINTER:  # a pointer ends the name (TSIG has none, others may)
            at += 2
        else:
            at = name_end(message, at)
    except (IndexError, Malformed):
        raise Malformed(end) from None
    fixed = message[at : at + FIXED.size]
    if len(fixed) < FIXED.size:
        raise Malformed(end)
    after = at + FIXED.size + int.from_bytes(fixed[-2:], "big")
    if after > len(message):
        raise Malformed(end)
    found = edns.read(fixed)
    if found is not None and message[start:at] != ROOT:  # RFC 6891 section 6.1.2
        raise Malformed(end)
    return after, found
