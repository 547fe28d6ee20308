"""A served zone, and the names that it has whatever the cluster holds.

Z                 SOA, NS ns.dns.Z with glue
ns.dns.Z          A, AAAA
dns-version.Z     TXT "1.1.0", TTL 28800 (specification 2.2)
svc.Z pod.Z dns.Z empty non-terminals (RFC 8020: NODATA, for they have names below)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from headwater.records import names, rdata
from headwater.store.node import Flag, Kind, pack_node

#: The version of the Kubernetes DNS specification that is served.
DNS_VERSION: Final = "1.1.0"
_VERSION_TTL: Final = 28800


@dataclass(frozen=True, slots=True)
class Zone:
    """One served zone: its place in the settings and its wire-format names."""

    index: int
    wire: bytes
    svc: bytes
    """svc.Z"""
    pod: bytes
    """pod.Z"""

    @classmethod
    def of(cls, index: int, name: str) -> Zone:
        """`name` as in the settings ("cluster.local"). Raises names.BadName."""
        wire = names.name(name)
        return cls(index, wire, b"\x03svc" + wire, b"\x03pod" + wire)


def addresses(texts: Iterable[str]) -> tuple[list[bytes], list[bytes]]:
    """Textual addresses as 4-byte and 16-byte ones, in their order, without those that do not parse."""
    packed: list[bytes] = []
    for text in texts:
        try:
            packed.append(rdata.address(text))
        except ValueError:
            continue
    return [item for item in packed if len(item) == 4], [item for item in packed if len(item) == 16]


def nodes(zone: Zone, ttl: int, name_servers: Sequence[str]) -> dict[bytes, bytes]:
    """The fixed names of a zone. `name_servers` are the addresses of ns.dns.Z."""
    v4, v6 = addresses(name_servers)
    a_head, aaaa_head = rdata.address_heads(ttl)
    ns = rdata.ns_rdata(zone.wire)
    # The glue's owner is the NS record's rdata: after the header (12), the
    # question (name + 4), and the record's own owner, type, class, TTL, length (12).
    glue_owner = (0xC000 | 12 + len(zone.wire) + 4 + 12).to_bytes(2, "big")
    glue = [glue_owner + a_head[2:] + item for item in v4] + [glue_owner + aaaa_head[2:] + item for item in v6]
    ns_answer = rdata.record(rdata.NS, ttl, ns) + b"".join(glue)
    empty = pack_node(zone=zone.index, kind=Kind.ZONE)
    return {
        zone.wire: pack_node(
            zone=zone.index, kind=Kind.ZONE, flags=Flag.APEX, other=[(rdata.NS, 1, len(glue), ns_answer)]
        ),
        ns: pack_node(
            zone=zone.index,
            kind=Kind.ZONE,
            a=[a_head + item for item in v4],
            aaaa=[aaaa_head + item for item in v6],
        ),
        b"\x0bdns-version" + zone.wire: pack_node(
            zone=zone.index,
            kind=Kind.ZONE,
            other=[(rdata.TXT, 1, 0, rdata.record(rdata.TXT, _VERSION_TTL, rdata.text(DNS_VERSION)))],
        ),
        b"\x03dns" + zone.wire: empty,
        zone.svc: empty,
        zone.pod: empty,
    }
