"""A served zone, and the names that it has whatever the cluster holds.

Z                 SOA, NS with glue: the DNS Service, or ns.dns.Z when none is known
ns.dns.Z          A, AAAA: the same addresses
dns-version.Z     TXT "1.1.0", TTL 28800 (specification 2.2)
svc.Z pod.Z dns.Z empty non-terminals (RFC 8020: NODATA, for they have names below)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from headwater.store.node import Flag, Kind, pack_node
from headwater.wire import names, rdata, types

#: The version of the Kubernetes DNS specification that is served.
DNS_VERSION: Final = "1.1.0"
_VERSION_TTL: Final = 28800


@dataclass(frozen=True, slots=True)
class Zone:
    """One served zone: its place among all that are served, and its wire-format names."""

    index: int
    wire: bytes
    svc: bytes
    """svc.Z"""
    pod: bytes
    """pod.Z"""
    clusters: bool = False
    """A zone of ServiceImports: endpoints have the name of their cluster too."""
    reverse: bool = False
    """A zone of addresses: nothing but what every zone has is in `records`."""

    @classmethod
    def of(cls, index: int, name: str, *, clusters: bool = False, reverse: bool = False) -> Zone:
        """`name` as in the settings ("cluster.local"). Raises names.BadName."""
        wire = names.name(name)
        return cls(index, wire, names.SVC + wire, names.POD + wire, clusters, reverse)


@dataclass(frozen=True, slots=True)
class NameServer:
    """One address of a name server; `owner` is its name less the zone, labels in wire format."""

    owner: bytes
    address: bytes


def name_servers_of(texts: Iterable[str]) -> list[NameServer]:
    """ns.dns.Z with these addresses, without those that do not parse."""
    v4, v6 = addresses(texts)
    return [NameServer(names.NS_DNS, item) for item in (*v4, *v6)]


def addresses(texts: Iterable[str]) -> tuple[list[bytes], list[bytes]]:
    """Textual addresses as 4-byte and 16-byte ones, in their order, without those that do not parse."""
    packed: list[bytes] = []
    for text in texts:
        try:
            packed.append(rdata.address(text))
        except ValueError:
            continue
    return [item for item in packed if len(item) == 4], [item for item in packed if len(item) == 16]


def nodes(zone: Zone, ttl: int, name_servers: Sequence[NameServer]) -> dict[bytes, bytes]:
    """The fixed names of a zone."""
    a_head, aaaa_head = rdata.address_heads(ttl)
    known = dict.fromkeys(item for item in name_servers if len(item.owner) + len(zone.wire) <= names.MAX_NAME)
    owners = dict.fromkeys(item.owner + zone.wire for item in known)
    glue = [
        item.owner + zone.wire + (a_head if len(item.address) == 4 else aaaa_head)[2:] + item.address for item in known
    ]
    answer = b"".join([*(rdata.record(types.NS, ttl, owner) for owner in owners), *glue])
    packed = dict.fromkeys(item.address for item in known)
    empty = pack_node(zone=zone.index, kind=Kind.ZONE)
    return {
        zone.wire: pack_node(
            zone=zone.index,
            kind=Kind.ZONE,
            flags=Flag.APEX,
            other=[(types.NS, len(owners), len(glue), answer)] if owners else (),
        ),
        names.NS_DNS + zone.wire: pack_node(
            zone=zone.index,
            kind=Kind.ZONE,
            a=[a_head + item for item in packed if len(item) == 4],
            aaaa=[aaaa_head + item for item in packed if len(item) == 16],
        ),
        names.DNS_VERSION + zone.wire: pack_node(
            zone=zone.index,
            kind=Kind.ZONE,
            other=[(types.TXT, 1, 0, rdata.record(types.TXT, _VERSION_TTL, rdata.text(DNS_VERSION)))],
        ),
        names.DNS + zone.wire: empty,
        zone.svc: empty,
        zone.pod: empty,
    }
