"""Names in wire format (RFC 1035 section 3.1), lower-cased: the keys of the store."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

MAX_LABEL: Final = 63
MAX_NAME: Final = 255
ROOT: Final = b"\0"
#: The two bits that make a length octet the first half of a pointer (section 4.1.4).
POINTER: Final = 0xC0

# Labels, and ends of names, from Kubernetes's DNS specification and from DNS itself.
SVC: Final = b"\x03svc"
POD: Final = b"\x03pod"
DNS: Final = b"\x03dns"
DNS_VERSION: Final = b"\x0bdns-version"
#: The name server's name in its zone when no DNS Service is known.
NS_DNS: Final = b"\x02ns" + DNS
#: The zone's responsible person, in its SOA.
HOSTMASTER: Final = b"\x0ahostmaster"
#: Reverse names (RFC 1035 section 3.5, RFC 3596 section 2.5).
IN_ADDR_ARPA: Final = b"\x07in-addr\x04arpa\0"
IP6_ARPA: Final = b"\x03ip6\x04arpa\0"
#: TOPOZONE.pin._zone.SVC and TOPOZONE.prefer._zone.SVC (`--zonal`).
MARKER: Final = b"\x05_zone"
PIN: Final = b"\x03pin"
PREFER: Final = b"\x06prefer"
#: The protocols of ports (by the API server's validation), without the underscore.
PROTOCOLS: Final = frozenset({b"\x03tcp", b"\x03udp", b"\x04sctp"})
#: Messages quote so many characters of a bad name: it may be as long as an object.
_SHOWN: Final = 80


class BadName(ValueError):  # noqa: N818 (names a name)
    """A text that is no label, or no name."""


@lru_cache(8192)  # namespaces, port names and hostnames like web-0 recur
def label(text: str) -> bytes:
    """One label with its length octet, lower-cased. `text` is one label: no dot divides it.

    Raises BadName for an empty or long one, a dot, or what is not ASCII.
    """
    if "." in text or not text.isascii():
        raise BadName(f"{text[:_SHOWN]!r} is not a DNS label")
    data = text.lower().encode("ascii")
    if not 0 < len(data) <= MAX_LABEL or b"\0" in data:
        raise BadName(f"{text[:_SHOWN]!r} is not a DNS label of 1 to {MAX_LABEL} bytes")
    return bytes((len(data),)) + data


def name(text: str) -> bytes:
    """A whole name ("cluster.local", a closing dot allowed). Raises BadName."""
    text = text.removesuffix(".")
    wire = b"".join(map(label, text.split("."))) + ROOT if text else ROOT
    return fits(wire)


def fits(wire: bytes) -> bytes:
    """The same name. Raises BadName when it is longer than 255 bytes (RFC 1035 2.3.4)."""
    if len(wire) > MAX_NAME:
        raise BadName(f"{text_of(wire)[:MAX_NAME]} is longer than a DNS name may be")
    return wire


def text_of(wire: bytes) -> str:
    """A wire-format name for people: labels with dots, other bytes as \\DDD, a closing dot."""
    labels: list[str] = []
    at = 0
    while at < len(wire) and wire[at]:
        size = wire[at]
        part = wire[at + 1 : at + 1 + size]
        labels.append("".join(chr(c) if 32 < c < 127 and c not in b'.\\"' else f"\\{c:03d}" for c in part))
        at += 1 + size
    return ".".join(labels) + "."


def dashed(address: str) -> str:
    """An address as a label (2.4.1; a last dash gets a zero: CoreDNS's endpointHostname)."""
    if ":" not in address:
        return address.replace(".", "-")
    text = address.replace(":", "-")
    return text + "0" if text.endswith("-") else text
