"""Endpoints: what a Service's slices say, merged, and the names made of it.

    SVC.NS.svc.Z              A, AAAA of every endpoint, SRV per endpoint and port (headless)
    HOST.SVC.NS.svc.Z         A, AAAA, SRV of one endpoint name (any Service with endpoints)
    _PORT._PROTO.SVC.NS.svc.Z the same for the endpoints of a named port (headless)
    _PROTO.SVC.NS.svc.Z       an empty non-terminal

An *entry* is one endpoint address with one port of its slice, as in CoreDNS's
findServices; an SRV record's weight is the share of its entry among all that
the name has, duplicates included (plugin/backend_lookup.go).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from headwater.cluster.objects import NO_PORT, EndpointSlice, Port, Service, ServiceImport
from headwater.records.options import DEFAULTS, Options, Report
from headwater.records.zone import Zone
from headwater.store.node import HEAD, SRV_ROW, Flag, Kind, SrvForm, of_kind, pack_node, pack_srv_own, pack_srv_table
from headwater.wire import names, rdata
from headwater.wire.names import BadName

#: A slice without ports still has endpoints: one entry each, without SRV.
_NO_PORTS: Final = (Port("", "", NO_PORT),)


@dataclass(slots=True)
class Group:
    """The endpoints of the slices that have the same ports."""

    ports: tuple[Port, ...]
    hosts: dict[bytes, list[bytes]] = field(default_factory=dict)
    """Packed addresses by endpoint name (one label with its length octet), duplicates kept."""
    count: int = 0
    """How many addresses there are in all, duplicates included."""
    aliases: dict[bytes, list[bytes]] = field(default_factory=dict)
    """Packed addresses by pod name, where that is asked for and is not the endpoint's own name."""


def weight(entries: int) -> int:
    """An SRV record's weight when its name has that many entries (RFC 2782; CoreDNS's arithmetic)."""
    return max(1, math.floor(100.0 / (100 * entries) * 100)) if entries else 1


def gather(
    slices: Iterable[EndpointSlice],
    pod_names: bool,
    report: Report,
    options: Options = DEFAULTS,
    *,
    clusters: bool = False,
) -> list[Group]:
    """The endpoints of a Service's slices that are to be published, grouped by ports.

    `pod_names` is `--endpoint-pod-names`; with `clusters` a name has its cluster
    as a second label. Addresses that do not parse and names that no label can
    hold are reported and left out.
    """
    groups: dict[tuple[Port, ...], Group] = {}
    address_of, label_of = rdata.address, names.label
    wanted, aliases, tail = options.conditions, options.pod_names, b""
    for piece in slices:
        ports = piece.ports or _NO_PORTS
        group = groups.get(ports)
        if group is None:
            group = groups[ports] = Group(ports)
        hosts = group.hosts
        try:
            tail = label_of(piece.cluster) if clusters and piece.cluster else b""
        except BadName as error:
            report("name", piece.namespace, piece.name, f"source cluster: {error}")
            continue
        for endpoint in piece.endpoints:
            if not (endpoint.conditions & wanted or wanted == 0):
                continue
            hostname = endpoint.hostname
            for text in endpoint.addresses:
                try:
                    packed = address_of(text)
                    if hostname:
                        label = label_of(hostname)
                    else:
                        label = endpoint_label("", endpoint.pod if pod_names else "", text)
                except ValueError as error:
                    report("endpoint", piece.namespace, piece.name, str(error))
                    continue
                if tail:
                    label += tail
                group.count += 1
                known = hosts.get(label)
                if known is None:
                    hosts[label] = [packed]
                else:
                    known.append(packed)
                if aliases and endpoint.pod:
                    _add_alias(group, endpoint.pod, label, packed, piece, report)
    return [group for group in groups.values() if group.count]


def _add_alias(group: Group, pod: str, label: bytes, packed: bytes, piece: EndpointSlice, report: Report) -> None:
    try:
        alias = names.label(pod)
    except BadName as error:
        report("endpoint", piece.namespace, piece.name, f"pod name: {error}")
        return
    if alias != label:
        group.aliases.setdefault(alias, []).append(packed)


def endpoint_label(hostname: str, pod: str, address: str) -> bytes:
    """An endpoint's name below its Service: hostname, else pod name, else dashed address.

    A pod name that is no label (a dot in it, or over 63 characters) gives way
    to the address. Raises BadName for a hostname that is no label.
    """
    if hostname:
        return names.label(hostname)
    if pod:
        try:
            return names.label(pod)
        except BadName:
            pass
    if ":" not in address:
        # What `names.label` makes of it; an address that was parsed needs no check.
        return bytes((len(address),)) + address.replace(".", "-").encode("ascii")
    return names.label(names.dashed(address))


def labels(
    slices: Iterable[EndpointSlice], pod_names: bool, *, aliases: bool = False, clusters: bool = False
) -> Iterator[bytes]:
    """The endpoint names that these slices may have given rise to, published or not.

    With `aliases` their pods' names too; `clusters` as for `gather`.
    """
    for piece in slices:
        try:
            tail = names.label(piece.cluster) if clusters and piece.cluster else b""
        except BadName:
            continue
        for endpoint in piece.endpoints:
            for text in endpoint.addresses:
                try:
                    yield endpoint_label(endpoint.hostname, endpoint.pod if pod_names else "", text) + tail
                except BadName:
                    continue
            if aliases and endpoint.pod:
                try:
                    yield names.label(endpoint.pod)
                except BadName:
                    continue


def port_names(ports: Iterable[Port]) -> dict[tuple[bytes, bytes], None]:
    """(`_port`, `_proto`) labels of the ports that have both, in order; odd names are left out.

    A name of 63 characters has no room for its underscore, and is asked for without.
    """
    found: dict[tuple[bytes, bytes], None] = {}
    for port in ports:
        if port.name and port.protocol:
            underscore = "_" if len(port.name) < names.MAX_LABEL else ""
            try:
                found[names.label(underscore + port.name), names.label("_" + port.protocol)] = None
            except BadName:
                continue
    return found


def _split(packed: Iterable[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Unique addresses by family, in their order."""
    unique = dict.fromkeys(packed)
    return [item for item in unique if len(item) == 4], [item for item in unique if len(item) == 16]


def port_numbers(ports: Iterable[Port]) -> tuple[int, ...]:
    """Unique port numbers that an SRV record can say."""
    return tuple(dict.fromkeys(port.number for port in ports if 0 <= port.number <= 0xFFFF))


@dataclass(frozen=True, slots=True)
class Writer:
    """Makes the nodes of one Service, or ServiceImport, in one zone. `base` is its name."""

    zone: Zone
    ttl: int
    base: bytes
    limit: int = 0
    """How many members of a set a reply shows; 0 for all."""

    @classmethod
    def of(cls, zone: Zone, ttl: int, service: Service | ServiceImport, options: Options = DEFAULTS) -> Writer:
        """`ttl` is `--ttl`. Raises BadName when the Service's name does not fit."""
        base = names.label(service.name) + names.label(service.namespace) + zone.svc
        return cls(zone, ttl if options.ttl is None else options.ttl, names.fits(base), options.max_answers)

    @property
    def room(self) -> int:
        """Bytes that a name below the Service's may have before it."""
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

    def set_of(self, kind: Kind, parts: Sequence[tuple[Group, Sequence[Port]]]) -> bytes:
        """The node of several endpoints: each group with those of its ports that count here."""
        if len(parts) == 1 and not self.zone.clusters:
            plain = _plain_addresses(parts[0][0])
            # Labels are at most 64 bytes with their length.
            if plain is not None and (self.room > names.MAX_LABEL or max(map(len, parts[0][0].hosts)) <= self.room):
                return self._plain_set(kind, *parts[0], plain)
        every = (item for group, _ in parts for packed in group.hosts.values() for item in packed)
        return self.addresses(kind, every, self.table(parts), self.limit)

    def table(self, parts: Sequence[tuple[Group, Sequence[Port]]]) -> bytes:
        """The SRV part for these endpoints.

        Endpoints without a port number have a weight but neither record nor
        glue (plugin/backend_lookup.go: port -1).
        """
        rows: dict[bytes, tuple[tuple[int, ...], list[bytes]]] = {}
        room = self.room
        entries = 0
        for group, ports in parts:
            numbers = port_numbers(ports)
            entries += group.count * len(ports)
            if not numbers:
                continue
            for label, packed in group.hosts.items():
                if len(label) > room:
                    continue  # it has no name, which `hosts` reports
                known = rows.get(label)
                rows[label] = (
                    (numbers, packed)
                    if known is None
                    else (tuple(dict.fromkeys(known[0] + numbers)), [*known[1], *packed])
                )
        if not rows:
            return b""
        form, skip = (SrvForm.NAMES, 0) if self.zone.clusters else (SrvForm.TABLE, 1)
        table = ((numbers, label[skip:], *_split(packed)) for label, (numbers, packed) in rows.items())
        return pack_srv_table(self.ttl, weight(entries), len(self.base), table, form=form)

    def _plain_set(self, kind: Kind, group: Group, ports: Sequence[Port], packed: Sequence[bytes]) -> bytes:
        """The same in constant bytes, for endpoints that have one IPv4 address each."""
        numbers = port_numbers(ports)
        a_head, _ = rdata.address_heads(self.ttl)
        flags = (Flag.SRV if numbers else 0) | (Flag.LIMITED if self.limit else 0)
        parts = [
            HEAD.pack(flags, self.zone.index, kind, len(packed), 0),
            a_head,
            a_head.join(packed),
        ]
        if numbers:
            parts.append(pack_srv_table(self.ttl, weight(group.count * len(ports)), len(self.base), (), (numbers,)))
            for label, (address,) in group.hosts.items():
                # The label brings the length octet that ends a row's head.
                parts += _PLAIN_ROW, label, address
        if self.limit:
            parts.append(self.limit.to_bytes(2, "big"))
        return b"".join(parts)

    def hosts(
        self, groups: Sequence[Group], only: Collection[bytes] | None, report: Report, service: Service | ServiceImport
    ) -> dict[bytes, bytes]:
        """The nodes of the endpoint names, all or those in `only`."""
        a_head, _ = rdata.address_heads(self.ttl)
        base = self.base
        room = self.room
        found: dict[bytes, bytes] = {}
        for group in groups:
            # The common case in constant bytes: one group, one IPv4 address.
            srv = self.own_srv(len(group.ports), port_numbers(group.ports))
            head = HEAD.pack(Flag.SRV if srv else 0, self.zone.index, Kind.ENDPOINT, 1, 0) + a_head
            plain = len(groups) == 1 and only is None and not group.aliases and _plain_addresses(group) is not None
            if plain and max(map(len, group.hosts)) <= room:
                return {label + base: head + packed[0] + srv for label, packed in group.hosts.items()}
            known: Collection[bytes] = {**group.hosts, **group.aliases} if group.aliases else group.hosts
            others = [other for other in groups if other is not group]
            for label in known if only is None else [item for item in only if item in known]:
                own = group.hosts.get(label, ())
                if len(label) > room:
                    report("name", service.namespace, service.name, f"endpoint name {label[1:]!r} does not fit")
                elif (
                    len(own) == 1
                    and len(own[0]) == 4
                    and label not in group.aliases
                    and not any(label in other.hosts or label in other.aliases for other in others)
                ):
                    found[label + base] = head + own[0] + srv
                elif label + base not in found:
                    found[label + base] = self._host(groups, label)
        return found

    def _host(self, groups: Sequence[Group], label: bytes) -> bytes:
        """An endpoint name that is in several groups, has several addresses, or is a pod's name as well."""
        parts: list[tuple[Group, Sequence[Port]]] = []
        every: list[bytes] = []
        for group in groups:
            packed = [*group.hosts.get(label, ()), *group.aliases.get(label, ())]
            if packed:
                every += packed
                parts.append((Group(group.ports, {label: packed}, len(packed)), group.ports))
        return self.addresses(Kind.ENDPOINT, every, self.table(parts))


#: The head of a row in an SRV table, less its last octet: set 0, one IPv4 address.
_PLAIN_ROW: Final = SRV_ROW.pack(0, 1, 0, 0)[:-1]


def _plain_addresses(group: Group) -> list[bytes] | None:
    """The addresses of a group whose endpoint names have one IPv4 address each, all different; else None."""
    if len(group.hosts) != group.count or group.count > 0xFFFF:
        return None
    packed = [addresses[0] for addresses in group.hosts.values()]
    if len(set(packed)) != len(packed) or max(map(len, packed)) > 4:
        return None
    return packed


def nodes(writer: Writer, groups: Sequence[Group]) -> Iterator[tuple[bytes, bytes]]:
    """The nodes of a headless Service but its endpoint names; none when it has no endpoints."""
    if not groups:
        return
    whole = [(group, group.ports) for group in groups]
    node = writer.set_of(Kind.SERVICE, whole)
    yield writer.base, node
    protocols: dict[bytes, None] = {}
    for port, protocol in port_names(port for group in groups for port in group.ports):
        protocols[protocol] = None
        parts = [
            (group, matching)
            for group in groups
            if (matching := [item for item in group.ports if (port, protocol) in port_names((item,))])
        ]
        owner = port + protocol + writer.base
        if len(owner) <= names.MAX_NAME:
            # One port that all of them have: the Service's own set, but for the kind.
            same = len(groups) == len(parts) and all(len(group.ports) == 1 for group in groups)
            yield owner, of_kind(node, Kind.PORT) if same else writer.set_of(Kind.PORT, parts)
    for protocol in protocols:
        yield protocol + writer.base, writer.empty(Kind.PORT)
