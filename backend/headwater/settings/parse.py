"""Zones and durations in the forms that people write."""

from __future__ import annotations

import ipaddress
import re

from headwater.settings.error import SettingsError

#: RFC 1035 section 2.3.4.
MAX_LABEL = 63
MAX_NAME = 255

_DURATION = re.compile(r"(?:([0-9]{1,5})h)?(?:([0-9]{1,7})m)?(?:([0-9]{1,9}(?:\.[0-9]{1,3})?)s)?")
REVERSE = ("in-addr.arpa", "ip6.arpa")
_SIZE = re.compile(r"([0-9]{1,15})(|[KMGT]i?B?)")
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?")


def parse_zone(text: str, flag: str) -> str:
    """A zone in the form used everywhere: lower case, no closing dot ("cluster.local").

    Raises SettingsError when no wire-format name can hold it (RFC 1035 2.3.4).
    """
    zone = text.rstrip(".").lower()
    if not zone:
        raise SettingsError(flag, f"{text!r}: the root is not a zone to be served")
    for label in zone.split("."):
        if len(label) > MAX_LABEL or not _LABEL.fullmatch(label):
            raise SettingsError(flag, f"{text!r}: {label!r} is not a DNS label")
    # Room for the longest names below it: 63-byte service and namespace labels, "svc".
    if len(zone) + 2 > MAX_NAME:
        raise SettingsError(flag, f"{text!r} is longer than a DNS name may be")
    return zone


def parse_reverse_zone(text: str, flag: str) -> tuple[str, ...]:
    """The reverse zones of a name or a CIDR ("10.in-addr.arpa", "10.96.0.0/12").

    A prefix that ends inside a label is divided at the next one (RFC 1035 3.5:
    8 bits in IPv4, RFC 3596 2.5: 4 in IPv6), as CoreDNS does. Raises SettingsError.
    """
    if "/" not in text:
        zone = parse_zone(text, flag)
        if zone not in REVERSE and not zone.endswith(tuple(f".{root}" for root in REVERSE)):
            raise SettingsError(flag, f"{text!r} is neither a CIDR nor in in-addr.arpa or ip6.arpa")
        return (zone,)
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise SettingsError(flag, f"{text!r} is not a CIDR") from None
    bits = 8 if network.version == 4 else 4
    prefix = -(-network.prefixlen // bits) * bits
    labels = prefix // bits
    found = []
    for part in network.subnets(new_prefix=prefix):
        name = part.network_address.reverse_pointer
        found.append(name.split(".", network.max_prefixlen // bits - labels)[-1])
    return tuple(found)


def parse_duration(text: str, flag: str) -> float:
    """Seconds: "90s", "5m", "1h30m", or "0". Raises SettingsError."""
    if text == "0":
        return 0.0
    found = _DURATION.fullmatch(text)
    if found is None or not text:
        raise SettingsError(flag, f"{text!r} is not a duration such as 90s, 5m or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds


def duration_text(seconds: float) -> str:
    """The text that `parse_duration` reads as that many seconds, to the millisecond:

    "1h30m", "0.5s", "0".
    """
    whole, rest = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(whole, 60)
    parts = (f"{hours}h" if hours else "", f"{minutes}m" if minutes else "", f"{rest / 1000:g}s" if rest else "")
    return "".join(parts) or "0"


def parse_size(text: str, flag: str) -> int:
    """Bytes: "16MiB", "512Ki", "0"; units are powers of 1,024. Raises SettingsError."""
    found = _SIZE.fullmatch(text.replace(" ", ""))
    if found is None:
        raise SettingsError(flag, f"{text!r} is not a size such as 16MiB, or 0")
    number, unit = found.groups()
    return int(number) << 10 * _UNITS[unit[:1]]


def size_text(size: int) -> str:
    """The text that `parse_size` reads as that many bytes: "16MiB", "0"."""
    unit = 0
    while size and not size & 1023 and unit < 4:
        size >>= 10
        unit += 1
    return f"{size}{('', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}"
