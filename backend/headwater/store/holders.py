"""The index of addresses: the holders of each, and the names in the answer to a PTR query for it.

    key    u8 family (4 or 6), address (4 or 16 bytes), u8 holder, namespace / name
    value  target names in a row, wire format, without the zone: each ends with a zero byte

Keys begin with the address, most significant byte first, and reverse names end with it. So the
names below a part of a reverse name are one range of keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final

_FAMILY: Final = {4: b"\4", 16: b"\6"}


class Holder(IntEnum):
    """The holder of an address. A Service takes precedence over its endpoints."""

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
    """The first key of addresses that begin with these digits, and a key behind the last."""
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
