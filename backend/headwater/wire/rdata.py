"""Resource records in wire format, and their parts (RFC 1035 sections 3.2.1 and 4.1.4)."""

from __future__ import annotations

import socket
from functools import lru_cache
from struct import Struct
from typing import Final

from headwater.wire.header import HEADER_SIZE
from headwater.wire.names import POINTER
from headwater.wire.types import AAAA, IN, SOA, A

#: Bytes of an address, by family.
IPV4: Final = 4
IPV6: Final = 16
_MAPPED: Final = bytes(10) + b"\xff\xff"


def pointer(at: int) -> bytes:
    """A pointer into the question's name, to an offset in it.

    The question begins behind the header.
    """
    return (POINTER << 8 | HEADER_SIZE + at).to_bytes(2, "big")


#: The question's name, as a record's owner.
OWNER: Final = pointer(0)
#: The fields between owner and rdata: type, class, TTL, length of the rdata.
FIXED: Final = Struct(">HHIH")
#: Bytes before the rdata in a record whose owner is a pointer.
RECORD_HEAD: Final = len(OWNER) + FIXED.size

#: The same with the beginning of SRV rdata: priority, weight, port (RFC 2782).
SRV_FIXED: Final = Struct(">HHIHHHH")
#: Those three.
SRV_NUMBERS: Final = SRV_FIXED.size - FIXED.size

#: SOA rdata behind its names and serial: refresh, retry, expire, minimum (RFC 1035 section 3.3.13).
_SOA_TIMERS: Final = Struct(">IIII")
_REFRESH: Final = 7200
_RETRY: Final = 1800
_EXPIRE: Final = 86_400
#: Bytes of a serial.
SERIAL_SIZE: Final = 4


def record(rtype: int, ttl: int, rdata: bytes, owner: bytes = OWNER, rclass: int = IN) -> bytes:
    """One record; `ttl` in seconds."""
    return owner + FIXED.pack(rtype, rclass, ttl, len(rdata)) + rdata


@lru_cache(16)
def address_heads(ttl: int) -> tuple[bytes, bytes]:
    """The bytes before the address in every A, and in every AAAA record, with that TTL."""
    return OWNER + FIXED.pack(A, IN, ttl, IPV4), OWNER + FIXED.pack(AAAA, IN, ttl, IPV6)


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


def type_of_address(packed: bytes) -> int:
    """A for an address of 4 bytes, AAAA for one of 16."""
    return A if len(packed) == IPV4 else AAAA


def text(value: str) -> bytes:
    """TXT rdata of one character string of at most 255 bytes."""
    data = value.encode("ascii")
    return bytes((len(data),)) + data


def soa_head(owner: bytes, names: bytes, ttl: int) -> bytes:
    """A SOA record up to its serial; `names`: the server's and the person's, wire format."""
    return owner + FIXED.pack(SOA, IN, ttl, len(names) + SERIAL_SIZE + _SOA_TIMERS.size) + names


def soa_timers(minimum: int) -> bytes:
    """The bytes behind its serial.

    `minimum` in seconds, the TTL of negative answers (RFC 2308 section 4).
    """
    return _SOA_TIMERS.pack(_REFRESH, _RETRY, _EXPIRE, minimum)
