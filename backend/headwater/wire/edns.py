"""EDNS: the OPT record, its options, extended errors (RFC 6891, RFC 8914)."""

from __future__ import annotations

from enum import IntEnum
from functools import cache
from struct import Struct
from typing import Final, NamedTuple

from headwater.wire.names import ROOT
from headwater.wire.types import OPT

#: The least UDP size: smaller ones count as this (section 6.2.3), and so does a query without EDNS.
MIN_UDP_SIZE: Final = 512
#: The UDP size that we accept (DNS flag day 2020).
UDP_SIZE: Final = 1232

#: An OPT behind its owner, the root: type, UDP size, rcode's high bits, version, flags, length
#: (section 6.1.2).
_FIXED: Final = Struct(">HHBBHH")
_OPTION: Final = Struct(">HH")
_CODE: Final = Struct(">H")
#: The DO bit (RFC 3225 section 3).
_DO: Final = 0x8000
#: Options of one OPT that are looked through. Clients send two or three.
MAX_OPTIONS: Final = 64
#: An OPT without options.
OPT_SIZE: Final = len(ROOT) + _FIXED.size


#: The beginning of an OPT: the root, its type.
BEGINNING: Final = ROOT + _CODE.pack(OPT)
#: An OPT up to its length, as CoreDNS makes it when a client has sent none
#: (plugin/rewrite/edns0.go).
MADE_BY_COREDNS: Final = ROOT + _FIXED.pack(OPT, 4096, 0, 0, 0, 0)[: -_CODE.size]


class Option(IntEnum):
    """Options that we write or look for."""

    EDE = 15
    """Extended error (RFC 8914 section 2)."""


class Ede(IntEnum):
    """Extended errors (RFC 8914 section 4)."""

    OTHER = 0
    STALE_ANSWER = 3
    NO_REACHABLE_AUTHORITY = 22


class Edns(NamedTuple):
    """A query's OPT record."""

    udp_size: int
    version: int
    do: bool


def read(fixed: bytes) -> Edns | None:
    """Read the ten bytes behind a record's owner; None unless the record is an OPT."""
    rtype, udp_size, _, version, flags, _ = _FIXED.unpack(fixed)
    return Edns(max(MIN_UDP_SIZE, udp_size), version, bool(flags & _DO)) if rtype == OPT else None


def plain(record: bytes) -> Edns | None:
    """Read an OPT of `OPT_SIZE` bytes.

    None unless its owner is the root, its version 0, without options.
    """
    found = read(record[1:]) if record[:1] == ROOT else None
    return None if found is None or found.version or record[-2:] != b"\0\0" else found


@cache
def opt(rcode: int, *, do: bool, ede: int = 0) -> bytes:
    """Our OPT: version 0, DO copied, and an extended error if there is one."""
    options = _OPTION.pack(Option.EDE, _CODE.size) + _CODE.pack(ede) if ede else b""
    return ROOT + _FIXED.pack(OPT, UDP_SIZE, rcode >> 4, 0, _DO if do else 0, len(options)) + options


def with_error(reply: bytes, ede: int, text: str, most: int) -> bytes:
    """Put an extended error into a reply that ends with our OPT without options.

    The text is UTF-8 (RFC 8914 section 2). It is cut between two characters, to `most` bytes.
    """
    extra = text.encode(errors="replace")[:most].decode(errors="ignore").encode()
    option = _OPTION.pack(Option.EDE, _CODE.size + len(extra)) + _CODE.pack(ede) + extra
    return reply[: -_CODE.size] + _CODE.pack(len(option)) + option


def option_head(code: int, size: int) -> bytes:
    """What stands before the data of an option."""
    return _OPTION.pack(code, size)


def taken_out(message: bytes, at: int, code: int) -> tuple[bytes, bytes] | None:
    """A query without an option, and the data of the first one; None when there is none.

    The OPT is at the offset `at` and ends the message; what has another shape is left alone, and
    so is one of more than `MAX_OPTIONS`: 64 KiB of empty ones would take milliseconds.
    """
    start = at + OPT_SIZE
    if message[at : at + len(BEGINNING)] != BEGINNING or len(message) < start:
        return None
    if int.from_bytes(message[start - _CODE.size : start], "big") != len(message) - start:
        return None
    data: bytes | None = None
    taken = 0
    kept: list[bytes] = []
    place = start
    while place < len(message):
        if place + _OPTION.size > len(message) or len(kept) + taken >= MAX_OPTIONS:
            return None
        found, size = _OPTION.unpack_from(message, place)
        after = place + _OPTION.size + size
        if after > len(message):
            return None
        if found != code:
            kept.append(message[place:after])
        else:
            taken += 1
            data = message[place + _OPTION.size : after] if data is None else data
        place = after
    if data is None:
        return None
    rest = b"".join(kept)
    return b"".join((message[: start - _CODE.size], _CODE.pack(len(rest)), rest)), data
