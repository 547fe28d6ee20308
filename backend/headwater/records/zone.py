"""A served zone, and its names that do not depend on the cluster.

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
from headwater.wire.edns import OPT_SIZE
from headwater.wire.header import HEADER_SIZE, MAX_MESSAGE

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
    """A zone of addresses: `records` has only the names of every zone."""

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


def between(zones: Sequence[Zone]) -> dict[bytes, bytes]:
    """Empty non-terminals (RFC 8020): the names between a served zone and another one inside it."""
    found: dict[bytes, bytes] = {}
    known = {zone.wire: zone for zone in zones}
    for inner in zones:
        waiting: list[bytes] = []
        name = inner.wire[1 + inner.wire[0] :]
        while name:
            if name in known:
                outer = known[name]
                found |= {item: pack_node(zone=outer.index, kind=Kind.ZONE) for item in waiting}
                break
            waiting.append(name)
            name = name[1 + name[0] :]
    return found


def name_servers_of(texts: Iterable[str]) -> list[NameServer]:
    """ns.dns.Z with these addresses, without those that do not parse."""
    v4, v6 = addresses(texts)
    return [NameServer(names.NS_DNS, item) for item in (*v4, *v6)]


def addresses(texts: Iterable[str]) -> tuple[list[bytes], list[bytes]]:
    """Textual addresses as 4 and 16 bytes, in their order; those that do not parse are left out."""
    packed: list[bytes] = []
    for text in texts:
        try:
            packed.append(rdata.address(text))
        except ValueError:
            continue
    return [item for item in packed if len(item) == 4], [item for item in packed if len(item) == 16]


#: Bytes of a reply for the zone besides its name and records: header, type and class, OPT.
_QUESTION_AND_OPT: Final = HEADER_SIZE + 4 + OPT_SIZE
#: Bytes of an NS record besides its target, and of a glue record besides its owner and address.
_RECORD: Final = 12
_GLUE: Final = 10


def _that_fit(zone: Zone, name_servers: Sequence[NameServer]) -> list[NameServer]:
    """The name servers that fit into a reply, with their glue.

    In their order, each owner with its first address or not at all. Link-local addresses are left
    out, because they are valid on one link only (RFC 3927, RFC 4291 section 2.5.6).
    """
    room = MAX_MESSAGE - _QUESTION_AND_OPT - len(zone.wire)
    found: dict[NameServer, None] = {}
    owners: set[bytes] = set()
    size = 0
    for item in name_servers:
        name = len(item.owner) + len(zone.wire)
        if item in found or name > names.MAX_NAME or is_link_local(item.address):
            continue
        more = name + _GLUE + len(item.address) + (0 if item.owner in owners else _RECORD + name)
        if size + more <= room:
            size += more
            owners.add(item.owner)
            found[item] = None
    return list(found)


def is_link_local(address: bytes) -> bool:
    """Whether a packed address is one of 169.254.0.0/16 or fe80::/10."""
    if len(address) == 4:
        return address.startswith(b"\xa9\xfe")
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


def nodes(zone: Zone, ttl: int, name_servers: Sequence[NameServer]) -> dict[bytes, bytes]:
    """The fixed names of a zone."""
    a_head, aaaa_head = rdata.address_heads(ttl)
    known = _that_fit(zone, name_servers)
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
