"""PTR: from a reverse name to the names of its address (RFC 1035 section 3.5, RFC 3596 section 2.5)."""

from __future__ import annotations

from typing import Final

from headwater.answer.find import labels_of
from headwater.store import holders
from headwater.store.environment import Snapshot
from headwater.store.holders import Holder
from headwater.wire.names import IN_ADDR_ARPA, IP6_ARPA
from headwater.wire.rdata import unmapped

_HEX: Final = frozenset(b"0123456789abcdef")


def ptr_targets(name: bytes, snapshot: Snapshot) -> list[bytes] | None:
    """The names of the address that a lower-cased reverse name is, less their zone; None when there are none.

    Empty for a part of a name below which there are holders.
    """
    family, digits = _digits(name)
    size = 8 if family == 4 else 32
    if not digits or len(digits) > size:
        return None
    if len(digits) == size:
        return _names_of(unmapped(bytes.fromhex(digits)), snapshot) or None
    start, stop = holders.part_range(family, digits)
    for key, _ in snapshot.addresses(start):
        return [] if key < stop else None
    return None


def _digits(name: bytes) -> tuple[int, str]:
    """The family, and the address's hexadecimal digits, most significant first; "" for what is not an address."""
    found: list[str] = []
    if name.endswith(IN_ADDR_ARPA):
        for label in reversed(labels_of(name, IN_ADDR_ARPA)):
            text = label[1:]
            if not text.isdigit() or len(text) > 3 or (text[:1] == b"0" and text != b"0") or int(text) > 255:
                return 4, ""
            found.append(f"{int(text):02x}")
        return 4, "".join(found)
    for label in reversed(labels_of(name, IP6_ARPA) if name.endswith(IP6_ARPA) else []):
        if len(label) != 2 or label[1] not in _HEX:
            return 6, ""
        found.append(chr(label[1]))
    return 6, "".join(found)


def _names_of(address: bytes, snapshot: Snapshot) -> list[bytes]:
    """A Service's name if it is its own address, else the names of all endpoints that have it."""
    prefix = holders.prefix(address)
    found: dict[bytes, None] = {}
    for key, value in snapshot.addresses(prefix):
        if not key.startswith(prefix):
            break
        found.update(dict.fromkeys(holders.targets(value)))
        if holders.holder_of(key) is Holder.SERVICE:
            break
    return list(found)
