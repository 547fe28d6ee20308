"""PTR: reverse names to names of their addresses (RFC 1035 section 3.5, RFC 3596 section 2.5)."""

from __future__ import annotations

from typing import Final

from headwater.answer.find import labels_of
from headwater.store import holders
from headwater.store.environment import Snapshot
from headwater.store.holders import Holder
from headwater.wire.header import MAX_MESSAGE
from headwater.wire.names import IN_ADDR_ARPA, IP6_ARPA
from headwater.wire.rdata import unmapped

#: Slices that are read for one address, because any tenant may name it in any number of them.
_MAX_HOLDERS: Final = 4_096
_HEX: Final = frozenset(b"0123456789abcdef")


def ptr_targets(name: bytes, snapshot: Snapshot) -> list[bytes] | None:
    """The names of the address in a lower-cased reverse name, without their zone; None without any.

    Empty for a part of a reverse name with addresses below it.
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
    """The family, and the address's hexadecimal digits, most significant first.

    "" when it is no address."""
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
    """The Service's name, else the names of the address's endpoints, as many as a reply holds."""
    prefix = holders.prefix(address)
    found: dict[bytes, None] = {}
    room = MAX_MESSAGE
    for read, (key, value) in enumerate(snapshot.addresses(prefix)):
        if not key.startswith(prefix) or read == _MAX_HOLDERS:
            break
        for target in holders.targets(value):
            if target not in found:
                found[target] = None
                room -= len(target)
            if room < 0:
                return list(found)
        if holders.holder_of(key) is Holder.SERVICE:
            break
    return list(found)
