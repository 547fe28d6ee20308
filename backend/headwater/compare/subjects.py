"""What to ask: every name that Headwater knows, and the neighbours of those names.

Names come from the store's records and from its objects: a Service without endpoints has no
record, and is asked for all the same. Neighbours are names that nearly are one: a label more or
less, another letter, another namespace, port or protocol, letters in capitals, an address nobody
has. Most of them must be NXDOMAIN or NODATA at both servers.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_address
from typing import Final
from zlib import crc32

from headwater.cluster.objects import EndpointSlice, unpack
from headwater.compare.deviations import reverse_address, split
from headwater.compare.messages import TYPES, Query, decode_name, encode_name, usual_ways
from headwater.settings.settings import Settings
from headwater.store.environment import Snapshot
from headwater.store.node import Flag, exists
from headwater.store.places import is_of_a_place
from headwater.wire.names import dashed

#: The types that every name is asked for.
_ALWAYS: Final = ("A", "AAAA", "SRV")
#: Of these, one for each name in each round.
_ONE_OF: Final = ("TXT", "CNAME", "PTR", "SOA", "MX", "HTTPS", "ANY")
#: What a neighbour is asked for.
_OF_NEIGHBOURS: Final = ("A", "A", "AAAA", "SRV", "TXT", "SOA")
#: Below every zone of names.
_FIXED: Final = (
    "", "svc", "pod", "dns", "dns-version", "nothing", "a.b.c", "nowhere.svc", "x.nowhere.svc", "h.x.nowhere.svc",
    "nowhere.pod", "1-2-3-4.nowhere.pod", "kubernetes.default.svc", "_https._tcp.kubernetes.default.svc",
)  # fmt: skip
#: How many names below one are looked at to find one that exists.
_BELOW: Final = 64
_PORTS_SHOWN: Final = 64


@dataclass
class Subjects:
    """What a store knows at one moment; full names, without the closing dot, in lower case."""

    zones: tuple[str, ...]
    reverse_zones: tuple[str, ...]
    pods: bool
    """Whether pods have names by their addresses."""
    names: list[str] = field(default_factory=list)
    reverse: list[str] = field(default_factory=list)
    """Those of addresses, in the reverse zones."""
    aliases: set[str] = field(default_factory=set)
    """Those of `names` that are CNAMEs."""
    dotted: dict[str, str] = field(default_factory=dict)
    """The Service's name, by the name of an endpoint below it that a pod's name with dots gives."""

    unsendable: set[str] = field(default_factory=set)
    """Addresses' names for which CoreDNS makes a reply that it cannot send: of slices without a
    Service.
    """

    @cached_property
    def _by_end(self) -> list[str]:
        return sorted(map(_backwards, (*self.names, *self.reverse)))

    def under(self, name: str) -> list[str]:
        """Some of the names below one."""
        start = f"{_backwards(name)}."
        at = bisect_left(self._by_end, start)
        found = []
        for other in self._by_end[at : at + _BELOW]:
            if not other.startswith(start):
                break
            found.append(_backwards(other))
        return found


def _backwards(name: str) -> str:
    return ".".join(reversed(name.split(".")))


# -- what a store knows


def subjects_of(snapshot: Snapshot, settings: Settings) -> Subjects:
    """Everything that is to be asked, from one moment of a store; some 10 us a name."""
    zones = settings.forward_zones()
    found = Subjects(zones, settings.reverse_zones, settings.pods != "disabled")
    names: dict[str, None] = {}
    reverse: dict[str, None] = {}
    for key, node in snapshot.scan("records", b""):
        if is_of_a_place(key):
            continue  # we are asked as everybody
        name = decode_name(key)
        if split(name, zones) is None:
            continue  # what a reverse zone has beside addresses depends on where it is cut
        names[name] = None
        if not exists(node):
            continue
        if node[0] & Flag.ALIAS:
            found.aliases.add(name)
    addresses: dict[str, None] = {}
    orphans: dict[str, None] = {}
    for relative in _of_objects(snapshot, settings, addresses, orphans, found.dotted):
        names.update(dict.fromkeys(f"{relative}.{zone}".lower() for zone in settings.zones))
    for key, _ in snapshot.scan("objects", b"serviceimports/"):
        _, namespace, name = key.decode().split("/", 2)
        names.update(dict.fromkeys(f"{name}.{namespace}.svc.{zone}".lower() for zone in settings.multicluster_zones))
    reverse.update(dict.fromkeys(_reverse_names(snapshot, addresses, settings.reverse_zones)))
    found.unsendable.update(_reversed(orphans, settings.reverse_zones))
    found.names = [name for name in names if _is_name(name)]
    found.reverse = [name for name in reverse if _is_name(name)]
    return found


def _of_objects(
    snapshot: Snapshot,
    settings: Settings,
    addresses: dict[str, None],
    orphans: dict[str, None],
    dotted: dict[str, str],
) -> Iterator[str]:
    """Names that follow from the objects, whether or not they have records, less their zone.

    `addresses` gets the addresses, `orphans` those of slices that name no Service.
    """
    for key, _ in snapshot.scan("objects", b"namespaces/"):
        namespace = key.decode().rpartition("/")[2]
        yield from (f"{namespace}.svc", f"{namespace}.pod")
    for key, data in snapshot.scan("objects", b"services/"):
        _, namespace, name = key.decode().split("/", 2)
        yield f"{name}.{namespace}.svc"
        if settings.zonal:  # any zone may be asked for, without a record that says so
            yield from (f"nowhere.{choice}._zone.{name}.{namespace}.svc" for choice in ("pin", "prefer"))
        addresses.update(dict.fromkeys(unpack("services", data).cluster_ips))
    for _, data in snapshot.scan("objects", b"endpointslices/"):
        piece: EndpointSlice = unpack("endpointslices", data)
        for endpoint in piece.endpoints:
            (addresses if piece.service else orphans).update(dict.fromkeys(endpoint.addresses))
        if piece.service:
            yield from _of_slice(piece, settings, dotted)


def _of_slice(piece: EndpointSlice, settings: Settings, dotted: dict[str, str]) -> Iterator[str]:
    base = f"{piece.service}.{piece.namespace}.svc"
    for port in piece.ports[:_PORTS_SHOWN]:
        if port.name:
            yield f"_{port.name}._{port.protocol}.{base}"
    if settings.zonal:
        for zone in dict.fromkeys(endpoint.zone for endpoint in piece.endpoints if endpoint.zone):
            yield from (f"{zone}.{choice}._zone.{base}" for choice in ("pin", "prefer"))
    for endpoint in piece.endpoints:
        if settings.endpoint_pod_names and "." in endpoint.pod:
            dotted[f"{endpoint.pod}.{base}"] = base
        if endpoint.hostname:
            yield f"{endpoint.hostname}.{base}"
        for address in endpoint.addresses:
            label = dashed(address)
            if not endpoint.hostname:
                yield f"{label}.{base}"
            if settings.pods != "disabled":
                yield f"{label}.{piece.namespace}.pod"


def _reverse_names(snapshot: Snapshot, addresses: Iterable[str], zones: Sequence[str]) -> Iterator[str]:
    """The names of addresses, of the index and of the objects, that lie in one of these zones."""
    if zones:
        packed = {ip_address(_address_of(key)) for key, _ in snapshot.addresses(b"")}
        yield from _reversed((*map(str, packed), *addresses), zones)


def _reversed(addresses: Iterable[str], zones: Sequence[str]) -> Iterator[str]:
    """The names of addresses that lie in one of these zones."""
    for item in addresses:
        try:
            name = ip_address(item).reverse_pointer
        except ValueError:
            continue
        if split(name, zones) is not None:
            yield name


def _address_of(key: bytes) -> bytes:
    """The address in a key of the index (`store/holders.py`)."""
    return key[1:5] if key[0] == 4 else key[1:17]


def _is_name(text: str) -> bool:
    try:
        encode_name(text)
    except ValueError:
        return False
    return True


class Changes:
    """The names whose records have changed since the last look: they are asked first."""

    def __init__(self, reverse_zones: Sequence[str] = ()) -> None:
        self._reverse_zones = tuple(reverse_zones)
        self._moment: tuple[int, int] | None = None
        """Generation and commit: two changes of one second have the same serial."""
        self._known: dict[bytes, int] | None = None

    def look(self, snapshot: Snapshot) -> list[str]:
        """The names that are new, changed or gone; none at the first look. Some 2 us a name, when
        anything is.
        """
        moment = snapshot.generation, snapshot.commit
        if moment == self._moment:
            return []
        self._moment = moment
        now = {key: crc32(node) for key, node in snapshot.scan("records", b"") if not is_of_a_place(key)}
        if self._reverse_zones:
            for key, targets in snapshot.addresses(b""):
                address = ip_address(_address_of(key))
                name = encode_name(address.reverse_pointer)
                now[name] = crc32(targets, now.get(name, 0))
        before, self._known = self._known, now
        if before is None:
            return []
        changed = [key for key, value in now.items() if before.get(key) != value]
        changed += before.keys() - now.keys()
        names = map(decode_name, changed)
        return [name for name in names if not reverse_address(name) or split(name, self._reverse_zones)]


# -- what is asked


def count(subjects: Subjects, neighbours: int) -> int:
    """How many questions a round has, nearly: a neighbour may be too long to be asked."""
    names = len(subjects.names) + len(_FIXED) * len(subjects.zones)
    return names * (len(_ALWAYS) + 1 + neighbours) + len(subjects.reverse) * (2 + neighbours)


def questions(subjects: Subjects, neighbours: int, chance: random.Random, *, tcp: bool = False) -> Iterator[Query]:
    """One round in a random order; `neighbours` for each name, other ones in each round."""
    names = [*subjects.names, *(f"{relative}.{zone}".lstrip(".") for zone in subjects.zones for relative in _FIXED)]
    order = list(range(len(names) + len(subjects.reverse)))
    chance.shuffle(order)
    ways = usual_ways(tcp)
    served = (*subjects.zones, *subjects.reverse_zones)
    for index in order:
        if index < len(names):
            some = _of_name(names[index], subjects, neighbours, chance)
        else:
            some = _of_reverse(subjects.reverse[index - len(names)], neighbours, chance)
        for name, qtype in some:
            if split(name.lower(), served) and not never_asked(name, qtype, subjects) and _is_name(name):
                yield Query(name, TYPES[qtype], chance.choice(ways))


def first_questions(name: str, tcp: bool = False) -> Iterator[Query]:
    """What a name that has just changed is asked for."""
    types = ("PTR",) if reverse_address(name) else ("A", "SRV")
    yield from (Query(name, TYPES[qtype], usual_ways(tcp)[0]) for qtype in types if _is_name(name))


def never_asked(name: str, qtype: str, subjects: Subjects) -> bool:
    """Whether the answer depends on which host answers, or where a zone is cut.

    That of a zone's name servers, and of their addresses; that of a reverse zone, which may be a
    part of the other's.
    """
    name = name.lower()
    if name in subjects.reverse_zones or name in subjects.unsendable or name.partition(".")[2] in subjects.unsendable:
        return True
    return name.startswith("ns.dns.") or (qtype == "NS" and name in subjects.zones)


def _of_name(name: str, subjects: Subjects, neighbours: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    written = _capitals(name, chance) if chance.random() < 0.125 else name
    yield from ((written, qtype) for qtype in _ALWAYS)
    yield written, "CNAME" if name in subjects.aliases else chance.choice(_ONE_OF)
    near = list(dict.fromkeys(_near(name, subjects)))
    for other in chance.sample(near, min(neighbours, len(near))):
        yield other, chance.choice(_OF_NEIGHBOURS)


def _near(name: str, subjects: Subjects) -> Iterator[str]:
    """The neighbours of a name in a zone of names."""
    parts = split(name, subjects.zones)
    labels, zone = parts if parts is not None else ([], name)
    yield f"x.{name}"
    if not labels:
        return
    first, _, rest = name.partition(".")
    yield f"{first}x.{rest}"
    yield rest
    if labels[-1] == "svc" and len(labels) >= 3:
        service, namespace = labels[-3:-1]
        base = f"{service}.{namespace}.svc.{zone}"
        yield f"_tcp.{base}"
        yield f"_nope._tcp.{base}"
        yield f"{service}.nowhere.svc.{zone}"
        yield f"{service}.{namespace}.pod.{zone}"
        if subjects.pods:
            yield f"1-2-3-4.{namespace}.pod.{zone}"
        if len(labels) == 5 and labels[1] in ("_tcp", "_udp"):
            yield f"{first}.{'_udp' if labels[1] == '_tcp' else '_tcp'}.{base}"
            yield f"{first.removeprefix('_')}.{labels[1].removeprefix('_')}.{base}"
            yield f"{labels[1].removeprefix('_')}.{base}"


def _of_reverse(name: str, neighbours: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    yield name, "PTR"
    yield name, chance.choice(("A", "TXT", "SOA", "SRV"))
    rest = name.partition(".")[2]
    digits = "0123456789abcdef" if name.endswith(".ip6.arpa") else [str(number) for number in range(256)]
    near = [f"x.{name}", rest, rest.partition(".")[2], f"{chance.choice(digits)}.{rest}"]
    for other in chance.sample(near, min(neighbours, len(near))):
        yield other, chance.choice(("PTR", "PTR", "A"))


def _capitals(name: str, chance: random.Random) -> str:
    return "".join(letter.upper() if chance.random() < 0.5 else letter for letter in name)
