"""The index of addresses: who has one, and the names that a PTR query for it is answered with.

    key    u8 family (4 or 6), address (4 or 16 bytes), u8 holder, namespace / name
    value  target names one after the other, wire format, without the zone: each ends with a zero byte

Names begin with an address, most significant byte first, as reverse names end
with it: what is below a part of a reverse name is one range of keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final

_FAMILY: Final = {4: b"\4", 16: b"\6"}


class Holder(IntEnum):
    """Whose address it is. A Service's own counts before its endpoints'."""

    SERVICE = 0
    SLICE = 1


def prefix(address: bytes) -> bytes:
    """How every key of an address begins; `address` has 4 or 16 bytes."""
    return _FAMILY[len(address)] + address


def key(address: bytes, holder: Holder, namespace: str, name: str) -> bytes:
    """The key of one holder."""
    return prefix(address) + key_end(holder, namespace, name)


def key_end(holder: Holder, namespace: str, name: str) -> bytes:
    """What stands behind the address in a holder's keys."""
    return b"".join((bytes((holder,)), namespace.encode(), b"/", name.encode()))


def holder_of(key: bytes) -> Holder:
    """Whose address such a key is about."""
    return Holder(key[5 if key[0] == 4 else 17])


def part_range(family: int, nibbles: str) -> tuple[bytes, bytes]:
    """The first key, and one behind the last, of the addresses that begin with these hexadecimal digits."""
    head = bytes((family,))
    if len(nibbles) % 2:
        low = bytes.fromhex(nibbles + "0")
        return head + low, head + low[:-1] + bytes((low[-1] | 15,)) + b"\xff" * 16
    low = bytes.fromhex(nibbles)
    return head + low, head + low + b"\xff" * 17


def targets(value: bytes) -> Iterator[bytes]:
    """The names of a value, each with its closing zero byte."""
    start = at = 0
    while at < len(value):
        if value[at]:
            at += 1 + value[at]
        else:
            at += 1
            yield value[start:at]
            start = at
