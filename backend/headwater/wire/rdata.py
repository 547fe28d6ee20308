"""Resource records in wire format, their owner the pointer to the question (0xC00C)."""

from __future__ import annotations

import socket
import struct
from functools import lru_cache
from typing import Final

from headwater.wire.types import AAAA, IN, A

OWNER: Final = b"\xc0\x0c"
_MAPPED: Final = bytes(10) + b"\xff\xff"
_FIXED: Final = struct.Struct(">HHIH")


def record(rtype: int, ttl: int, rdata: bytes, owner: bytes = OWNER) -> bytes:
    """One record of class IN; `ttl` in seconds."""
    return owner + _FIXED.pack(rtype, IN, ttl, len(rdata)) + rdata


@lru_cache(16)
def address_heads(ttl: int) -> tuple[bytes, bytes]:
    """What stands before the address in every A and every AAAA record with that TTL."""
    return OWNER + _FIXED.pack(A, IN, ttl, 4), OWNER + _FIXED.pack(AAAA, IN, ttl, 16)


def address(text: str) -> bytes:
    """4 or 16 bytes. Raises ValueError for what is not an address of either family.

    An IPv4-mapped IPv6 address is the IPv4 one (RFC 4291 2.5.5.2), as in Go.
    """
    try:
        if ":" not in text:
            return socket.inet_pton(socket.AF_INET, text)
        return unmapped(socket.inet_pton(socket.AF_INET6, text))
    except (OSError, UnicodeError):
        raise ValueError(f"{text[:80]!r} is not an IP address") from None


def unmapped(packed: bytes) -> bytes:
    """4 bytes for an IPv4-mapped address of 16, any other address as it is."""
    return packed[12:] if packed.startswith(_MAPPED) else packed


def text(value: str) -> bytes:
    """TXT rdata of one character string of at most 255 bytes."""
    data = value.encode("ascii")
    return bytes((len(data),)) + data
