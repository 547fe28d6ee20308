"""The nodes of endpoints: a headless Service's whole set, a named port's, and each endpoint's own.

    SVC.NS.svc.Z              A, AAAA of every endpoint, SRV per endpoint and port (headless)
    HOST.SVC.NS.svc.Z         A, AAAA, SRV of one endpoint name (any Service with endpoints)
    _PORT._PROTO.SVC.NS.svc.Z the same for the endpoints of a named port (headless)
    _PROTO.SVC.NS.svc.Z       an empty non-terminal

An *entry* is one endpoint address with one port of its slice, as in CoreDNS's
findServices; an SRV record's weight is the share of its entry among all of the name, duplicates
included (plugin/backend_lookup.go).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from headwater.cluster.objects import Port, Service, ServiceImport
from headwater.records import limits
from headwater.records.endpoints import Group
from headwater.records.options import DEFAULTS, Options, Report
from headwater.records.weights import Preference, chosen
from headwater.records.zone import Zone
from headwater.store.choice import Choice, pack_tail
from headwater.store.node import (
    HAS_SRV,
    HEAD,
    IS_LIMITED,
    SRV_ROW,
    Kind,
    SrvForm,
    pack_node,
    pack_shared,
    pack_srv_own,
    pack_srv_table,
    pack_srv_weighed,
)
from headwater.wire import names, rdata
from headwater.wire.names import BadName

#: As many ports as that are few.
_FEW: Final = 8
_USUAL: Final = frozenset({"TCP", "UDP", "SCTP"})

PortName = tuple[bytes, bytes]
"""The labels `_port` and `_proto`."""


def weight(entries: int) -> int:
    """An SRV record's weight, if its name has that many entries (RFC 2782; as in CoreDNS)."""
    return max(1, math.floor(100.0 / (100 * entries) * 100)) if entries else 1


def ports_by_name(ports: Iterable[Port]) -> Mapping[PortName, list[Port]]:
    """The ports that have a name and a protocol, by both, in order; odd names are left out.

    A name of 63 characters has no room for its underscore; clients ask without it.
    """
    ports = tuple(ports)
    return _known_by_name(ports) if len(ports) <= _FEW else _by_name(ports)


def _by_name(ports: Iterable[Port]) -> Mapping[PortName, list[Port]]:
    found: dict[PortName, list[Port]] = {}
    for port in ports:
        if port.name and port.protocol:
            underscore = "_" if len(port.name) < names.MAX_LABEL else ""
            try:
                key = names.label(underscore + port.name), names.label("_" + port.protocol)
            except BadName:
                continue
            found.setdefault(key, []).append(port)
    return found


#: Most Services have a few ports, and the same as others: what is made of these is remembered.
_known_by_name = lru_cache(256)(_by_name)


def unusual_protocols(ports: Iterable[Port]) -> set[bytes]:
    """Labels, without the underscore, of protocols unknown to `answer.find`: a CRD takes any text.

    A port is found without its underscores, so these labels have names below them.
    """
    found: set[bytes] = set()
    for protocol in {port.protocol for port in ports if port.name} - _USUAL:
        try:
            found.add(names.label(protocol))
        except BadName:
            continue
    return found


def port_numbers(ports: Iterable[Port]) -> tuple[int, ...]:
    """The port numbers that an SRV record can hold, each once."""
    return tuple(dict.fromkeys(port.number for port in ports if 0 <= port.number <= 0xFFFF))


def _split(packed: Iterable[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Unique addresses by family, in their order."""
    unique = dict.fromkeys(packed)
    return [item for item in unique if len(item) == 4], [item for item in unique if len(item) == 16]


@dataclass(frozen=True, slots=True)
class Writer:
    """Makes the nodes of one Service, or ServiceImport, in one zone. `base` is its name."""

    zone: Zone
    ttl: int
    base: bytes
    limit: int = 0
    """How many members of a set a reply shows; 0 for all."""
    weighed: bool = False
    """Whether endpoints have weights and priorities of their own (`Group.preferences`)."""

    @classmethod
    def of(cls, zone: Zone, ttl: int, service: Service | ServiceImport, options: Options = DEFAULTS) -> Writer:
        """`ttl` is `--ttl`. Raises BadName when the Service's name does not fit."""
        base = names.label(service.name) + names.label(service.namespace) + zone.svc
        seconds = ttl if options.ttl is None else options.ttl
        return cls(zone, seconds, names.fits(base), options.max_answers, options.weights is not None)

    @property
    def room(self) -> int:
        """The bytes that a name below the Service's has room for."""
        return names.MAX_NAME - len(self.base)

    def addresses(self, kind: Kind, packed: Iterable[bytes], srv: bytes, limit: int = 0) -> bytes:
        """A node of addresses and an SRV part."""
        a_head, aaaa_head = rdata.address_heads(self.ttl)
        v4, v6 = _split(packed)
        return pack_node(
            zone=self.zone.index,
            kind=kind,
            a=[a_head + item for item in v4],
            aaaa=[aaaa_head + item for item in v6],
            srv=srv,
            limit=limit,
        )

    def own_srv(self, entries: int, ports: Sequence[int], base: bytes = b"") -> bytes:
        """SRV with the name itself as the target, or the Service when `base` is given."""
        return pack_srv_own(self.ttl, weight(entries), len(base), ports) if ports else b""

    def empty(self, kind: Kind) -> bytes:
        """An empty non-terminal."""
        return pack_node(zone=self.zone.index, kind=kind)

    # A set of endpoints

    def set_of(self, kind: Kind, parts: Sequence[tuple[Group, Sequence[Port]]]) -> bytes:
        """The node of several endpoints: each group with its ports that count here."""
        if self.weighed:
            return self._weighed_set(kind, parts)
        if len(parts) == 1 and not self.zone.clusters:
            plain = _plain_addresses(parts[0][0])
            # Labels are at most 64 bytes with their length.
            if plain is not None and (self.room > names.MAX_LABEL or max(map(len, parts[0][0].hosts)) <= self.room):
                return self._plain_set(kind, *parts[0], plain)
        every = (item for group, _ in parts for packed in group.hosts.values() for item in packed)
        return self.addresses(kind, every, self._table(parts), self.limit)

    def same_set(self, parts: Sequence[tuple[Group, Sequence[Port]]]) -> bytes:
        """The node of a named port of all endpoints: the Service's own set with other ports.
        Its sets of ports are of the groups for which `_table` made rows, in the same order.
        """
        sets = [numbers for _, ports in parts if (numbers := port_numbers(ports))]
        if self.weighed:
            srv = pack_srv_weighed(self.ttl, len(self.base), sets, ()) if sets else b""
            return pack_shared(zone=self.zone.index, kind=Kind.PORT, base=len(self.base), srv=srv)
        srv = pack_srv_table(self.ttl, weight(_entries(parts)), len(self.base), sets, (), self._form) if sets else b""
        return pack_shared(zone=self.zone.index, kind=Kind.PORT, base=len(self.base), srv=srv)

    @property
    def _form(self) -> SrvForm:
        return SrvForm.NAMES if self.zone.clusters else SrvForm.TABLE

    def _table(self, parts: Sequence[tuple[Group, Sequence[Port]]], most: int = limits.MAX_PORTS) -> bytes:
        """The SRV part for these endpoints, with so many ports of each group at most.

        Endpoints without a port number count for the weight, but have no record and no glue
        (plugin/backend_lookup.go: port -1).
        """
        sets, rows = self._rows(parts, most)
        if not rows:
            return b""
        skip = 0 if self.zone.clusters else 1
        table = ((index, label[skip:], *_split(packed)) for label, (index, packed) in rows.items())
        return pack_srv_table(self.ttl, weight(_entries(parts)), len(self.base), sets, table, self._form)

    def _rows(
        self, parts: Sequence[tuple[Group, Sequence[Port]]], most: int = limits.MAX_PORTS
    ) -> tuple[list[tuple[int, ...]], dict[bytes, tuple[int, list[bytes]]]]:
        """The sets of ports, and by endpoint name which of them it has, and its addresses."""
        sets: list[tuple[int, ...]] = []
        joined: dict[tuple[int, ...], int] = {}
        rows: dict[bytes, tuple[int, list[bytes]]] = {}
        room = self.room
        for group, ports in parts:
            numbers = port_numbers(ports)[:most]
            if not numbers:
                continue
            mine = len(sets)
            sets.append(numbers)
            for label, packed in group.hosts.items():
                if len(label) > room:
                    continue  # it has no name, which `hosts` reports
                known = rows.get(label)
                if known is None:
                    rows[label] = mine, packed
                    continue
                both = tuple(dict.fromkeys(sets[known[0]] + numbers))
                index = joined.setdefault(both, len(sets))
                if index == len(sets):
                    sets.append(both)
                rows[label] = index, [*known[1], *packed]
        return sets, rows

    def _weighed_set(self, kind: Kind, parts: Sequence[tuple[Group, Sequence[Port]]]) -> bytes:
        """The same, where endpoints have weights: members in the order of `weights.chosen`."""
        preferences: dict[bytes, Preference] = {}
        of_address: dict[bytes, Preference] = {}
        for group, _ in parts:
            preferences |= group.preferences
            for label, packed in group.hosts.items():
                mine = group.preferences[label]
                for item in packed:
                    # Of several endpoints with one address the one that is chosen most often.
                    known = of_address.setdefault(item, mine)
                    of_address[item] = min(known, mine, key=lambda one: (one[0], -one[1]))
        families: list[list[bytes]] = []
        choices: list[Choice] = []
        for family in _split(of_address):
            order, _, choice = chosen([of_address[item] for item in family], self.limit)
            families.append([family[at] for at in order])
            choices.append(choice)
        sets, rows = self._rows(parts)
        labels = list(rows)
        order, numbers, choice = chosen([preferences[label] for label in labels], self.limit)
        table = (
            (own, rows[labels[at]][0], labels[at][1:], *_split(rows[labels[at]][1]))
            for at, own in zip(order, numbers, strict=True)
        )
        a_head, aaaa_head = rdata.address_heads(self.ttl)
        return pack_node(
            zone=self.zone.index,
            kind=kind,
            a=[a_head + item for item in families[0]],
            aaaa=[aaaa_head + item for item in families[1]],
            srv=pack_srv_weighed(self.ttl, len(self.base), sets, table) if rows else b"",
            tail=pack_tail([*choices, choice]),
        )

    def _plain_set(self, kind: Kind, group: Group, ports: Sequence[Port], packed: Sequence[bytes]) -> bytes:
        """The same in constant bytes, for endpoints that have one IPv4 address each."""
        numbers = port_numbers(ports)
        a_head, _ = rdata.address_heads(self.ttl)
        flags = (HAS_SRV if numbers else 0) | (IS_LIMITED if self.limit else 0)
        parts = [
            HEAD.pack(flags, self.zone.index, kind, len(packed), 0),
            a_head,
            a_head.join(packed),
        ]
        if numbers:
            entries = group.count * len(ports)
            parts.append(pack_srv_table(self.ttl, weight(entries), len(self.base), (numbers,), ()))
            for label, (address,) in group.hosts.items():
                # The label brings the length octet that ends a row's head.
                parts += _PLAIN_ROW, label, address
        if self.limit:
            parts.append(self.limit.to_bytes(2, "big"))
        return b"".join(parts)

    # One endpoint each

    def hosts(
        self, groups: Sequence[Group], only: Collection[bytes] | None, report: Report, service: Service | ServiceImport
    ) -> dict[bytes, bytes]:
        """The nodes of the endpoint names, all or those in `only`."""
        most = limits.ports_each(sum(group.count + len(group.others) for group in groups))
        if any(len(group.ports) > most for group in groups):
            report("limit", service.namespace, service.name, f"SRV of endpoints' names: more than {most:,} ports each")
        if len(groups) == 1 and only is None and not groups[0].aliases and _plain_addresses(groups[0]) is not None:
            (group,) = groups
            if max(map(len, group.hosts)) <= self.room:
                head, srv = self._plain_host(group, most)
                return {label + self.base: head + packed[0] + srv for label, packed in group.hosts.items()}
        holders = _holders(groups)
        found: dict[bytes, bytes] = {}
        plain: dict[int, tuple[bytes, bytes]] = {}
        for label in holders if only is None else [item for item in only if item in holders]:
            if len(label) > self.room:
                report("name", service.namespace, service.name, f"endpoint name {label[1:]!r} does not fit")
                continue
            among = holders[label]
            own = among[0].hosts.get(label, ())
            if len(among) == 1 and len(own) == 1 and len(own[0]) == 4 and label not in among[0].aliases:
                # The common case in constant bytes: one group, one IPv4 address.
                constant = plain.get(id(among[0]))
                if constant is None:
                    constant = plain[id(among[0])] = self._plain_host(among[0], most)
                found[label + self.base] = constant[0] + own[0] + constant[1]
            else:
                found[label + self.base] = self._host(among, label, most)
        return found

    def _plain_host(self, group: Group, most: int) -> tuple[bytes, bytes]:
        """The bytes before and after the address of an endpoint with one IPv4 address."""
        a_head, _ = rdata.address_heads(self.ttl)
        srv = self.own_srv(len(group.ports), port_numbers(group.ports)[:most])
        return HEAD.pack(HAS_SRV if srv else 0, self.zone.index, Kind.ENDPOINT, 1, 0) + a_head, srv

    def _host(self, groups: Sequence[Group], label: bytes, most: int) -> bytes:
        """An endpoint name in several groups, with several addresses, or also a pod's name."""
        parts: list[tuple[Group, Sequence[Port]]] = []
        every: list[bytes] = []
        for group in groups:
            packed = [*group.hosts.get(label, ()), *group.aliases.get(label, ())]
            every += packed
            parts.append((Group(group.ports, {label: packed}, len(packed)), group.ports))
        return self.addresses(Kind.ENDPOINT, every, self._table(parts, most))


#: The head of a row in an SRV table, without its last octet: set 0, one IPv4 address.
_PLAIN_ROW: Final = SRV_ROW.pack(0, 1, 0, 0)[:-1]


def _entries(parts: Iterable[tuple[Group, Sequence[Port]]]) -> int:
    return sum(group.count * len(ports) for group, ports in parts)


def _holders(groups: Sequence[Group]) -> Mapping[bytes, Sequence[Group]]:
    """The groups that an endpoint's, or a pod's, name is in."""
    if len(groups) == 1:
        (group,) = groups
        return dict.fromkeys([*group.hosts, *group.aliases], groups)
    found: dict[bytes, list[Group]] = {}
    for group in groups:
        for label in {**group.hosts, **group.aliases} if group.aliases else group.hosts:
            found.setdefault(label, []).append(group)
    return found


def _plain_addresses(group: Group) -> list[bytes] | None:
    """The addresses of a group with one IPv4 address a name, all different; else None."""
    if len(group.hosts) != group.count or group.count > 0xFFFF:
        return None
    packed = [addresses[0] for addresses in group.hosts.values()]
    if len(set(packed)) != len(packed) or max(map(len, packed)) > 4:
        return None
    return packed


def nodes(
    writer: Writer, groups: Sequence[Group], report: Report, service: Service | ServiceImport
) -> Iterator[tuple[bytes, bytes]]:
    """The nodes of a headless Service, without its endpoint names; none without endpoints."""
    if not groups:
        return
    yield writer.base, writer.set_of(Kind.SERVICE, [(group, group.ports) for group in groups])
    parts_of: dict[PortName, list[tuple[Group, Sequence[Port]]]] = {}
    for group in groups:
        for name, ports in ports_by_name(group.ports).items():
            parts_of.setdefault(name, []).append((group, ports))
    # A label in two groups makes one row, which has no place for a port of only one group.
    apart = sum(len(group.hosts) for group in groups) == len({label for group in groups for label in group.hosts})
    left_out = False
    numbered = {id(group): bool(port_numbers(group.ports)) for group in groups}
    room = limits.repeated(sum(group.count for group in groups))
    for (port, protocol), parts in parts_of.items():
        owner = port + protocol + writer.base
        if len(owner) > names.MAX_NAME:
            continue
        if (
            apart
            and len(parts) == len(groups)
            and all(bool(port_numbers(ports)) == numbered[id(group)] for group, ports in parts)
        ):
            yield owner, writer.same_set(parts)
            continue
        room -= sum(group.count for group, _ in parts)
        if room < 0:
            left_out = True
            continue
        yield owner, writer.set_of(Kind.PORT, parts)
    if left_out:
        report("limit", service.namespace, service.name, "ports that only some slices have, of too many addresses")
    for protocol in dict.fromkeys(protocol for _, protocol in parts_of):
        yield protocol + writer.base, writer.empty(Kind.PORT)
