"""Resource records in wire format, their owner the pointer to the question (0xC00C)."""

from __future__ import annotations

import socket
import struct
from functools import lru_cache
from typing import Final

from headwater.records import names

A: Final = 1
NS: Final = 2
SOA: Final = 6
TXT: Final = 16
AAAA: Final = 28
IN: Final = 1

OWNER: Final = b"\xc0\x0c"
_FIXED: Final = struct.Struct(">HHIH")


def record(rtype: int, ttl: int, rdata: bytes, owner: bytes = OWNER) -> bytes:
    """One record of class IN; `ttl` in seconds."""
    return owner + _FIXED.pack(rtype, IN, ttl, len(rdata)) + rdata


@lru_cache(16)
def address_heads(ttl: int) -> tuple[bytes, bytes]:
    """What stands before the address in every A and every AAAA record with that TTL."""
    return OWNER + _FIXED.pack(A, IN, ttl, 4), OWNER + _FIXED.pack(AAAA, IN, ttl, 16)


def address(text: str) -> bytes:
    """4 or 16 bytes. Raises ValueError for what is not an address of either family."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, UnicodeError):
        raise ValueError(f"{text!r} is not an IP address") from None


def text(value: str) -> bytes:
    """TXT rdata of one character string of at most 255 bytes."""
    data = value.encode("ascii")
    return bytes((len(data),)) + data


def ns_rdata(zone: bytes) -> bytes:
    """The name server of a zone, `ns.dns.ZONE`, as rdata."""
    return names.fits(b"\x02ns\x03dns" + zone)
