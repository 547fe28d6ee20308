"""Endpoints: a Service's slices, merged, and the labels of its endpoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from headwater.cluster.objects import ALIAS_ANNOTATION, NO_PORT, POD_WEIGHT_ANNOTATION, Endpoint, EndpointSlice, Port
from headwater.records.aliases import by_target
from headwater.records.options import DEFAULTS, Options, Report
from headwater.records.weights import Preference, Weights, number
from headwater.store.node import alike, alike_at_end
from headwater.wire import names, rdata
from headwater.wire.names import BadName

#: A slice without ports still has endpoints: one entry each, without SRV.
_NO_PORTS: Final = (Port("", "", NO_PORT),)
#: No pod has a weight of its own.
NO_PODS: Final[Mapping[str, str]] = {}


@dataclass(slots=True)
class Group:
    """The endpoints of the slices that have the same ports."""

    ports: tuple[Port, ...]
    hosts: dict[bytes, list[bytes]] = field(default_factory=dict)
    """Packed addresses by endpoint name (one label with its length octet), duplicates kept."""
    count: int = 0
    """The number of addresses, duplicates included."""
    aliases: dict[bytes, list[bytes]] = field(default_factory=dict)
    """Packed addresses by pod name, if that is wanted and is not the endpoint's own name."""
    preferences: dict[bytes, Preference] = field(default_factory=dict)
    """By endpoint name, where the Service's owner gave weights or priorities."""
    others: dict[bytes, list[bytes]] = field(default_factory=dict)
    """Packed addresses by the other names that the Service's owner gave endpoints. `gather` has put
    into `aliases` those that are no endpoint's own name."""


def gather(
    slices: Sequence[EndpointSlice],
    pod_names: bool,
    report: Report,
    options: Options = DEFAULTS,
    *,
    clusters: bool = False,
    pod_weights: Mapping[str, str] = NO_PODS,
) -> list[Group]:
    """The endpoints of a Service's slices that are to be published, grouped by ports.

    `pod_names` is `--endpoint-pod-names`; with `clusters` a name has its cluster
    as a second label. `pod_weights`: the pods' own weights by pod, as their annotations have them.
    Addresses that do not parse and names that no label can
    hold are reported and left out.
    """
    groups: dict[tuple[Port, ...], Group] = {}
    address_of, label_of = rdata.address, names.label
    wanted, aliases, tail, weights = options.conditions, options.pod_names, b"", options.weights
    others = by_target(options.aliases) if options.aliases else None
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
                if others:
                    _add_others(group, others, endpoint, label, packed)
                if weights is not None and label not in group.preferences:
                    preference = _preference(weights, endpoint, label, pod_weights, piece, report)
                    group.preferences[label] = preference
    if others:
        _settle_others(groups.values(), slices, report)
    return [group for group in groups.values() if group.count]


def _add_others(
    group: Group, others: Mapping[str, Sequence[bytes]], endpoint: Endpoint, label: bytes, packed: bytes
) -> None:
    for name in dict.fromkeys((label[1:].decode("ascii").lower(), endpoint.pod.lower())):
        for alias in others.get(name, ()):
            known = group.others.setdefault(alias, [])
            if packed not in known:
                known.append(packed)


def _settle_others(groups: Collection[Group], slices: Sequence[EndpointSlice], report: Report) -> None:
    """Make aliases of the other names that no endpoint, and no pod, has itself."""
    taken = {label.lower() for group in groups for label in (*group.hosts, *group.aliases)}
    for alias in {label for group in groups for label in group.others}:
        if alias in taken:
            piece = slices[0]
            text = f"{ALIAS_ANNOTATION}: {alias[1:].decode()} is an endpoint's own name"
            report("annotation", piece.namespace, piece.service, text)
            continue
        for group in groups:
            if alias in group.others:
                group.aliases[alias] = group.others[alias]


def _preference(
    weights: Weights, endpoint: Endpoint, label: bytes, pods: Mapping[str, str], piece: EndpointSlice, report: Report
) -> Preference:
    own = pods.get(endpoint.pod, "") if weights.from_pods else ""
    if own and number(own) is None:
        report("annotation", piece.namespace, endpoint.pod, f"{POD_WEIGHT_ANNOTATION}: {own!r} is not a weight")
    return weights.of((label[1:].decode("ascii").lower(), endpoint.pod.lower()), own)


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
        # As by `names.label`; an address that was parsed needs no check.
        return bytes((len(address),)) + address.replace(".", "-").encode("ascii")
    return names.label(names.dashed(address))


def labels(
    slices: Iterable[EndpointSlice], pod_names: bool, *, aliases: bool = False, clusters: bool = False
) -> Iterator[bytes]:
    """The endpoint names that these slices may have, published or not.

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


def differing(before: Sequence[Endpoint], after: Sequence[Endpoint]) -> tuple[Sequence[Endpoint], Sequence[Endpoint]]:
    """Both without what is alike at their ends."""
    most = min(len(before), len(after))
    front = alike(before, after, most)
    back = alike_at_end(before, after, most - front, 1, len(before), len(after))
    return before[front : len(before) - back], after[front : len(after) - back]


def differing_labels(before: Sequence[EndpointSlice], after: Sequence[EndpointSlice], pod_names: bool) -> set[bytes]:
    """The endpoint names whose records may differ, and the pods' names that they may also have.

    `before` and `after` are the changed slices of one Service. Ports are
    shared by all endpoints of a slice: when they change, all its names do.
    """
    # Hashed once per slice, not once per endpoint.
    known: dict[tuple[Port, ...], int] = {}

    def placed(slices: Iterable[EndpointSlice]) -> list[tuple[int, Endpoint]]:
        found: list[tuple[int, Endpoint]] = []
        for piece in slices:
            index = known.setdefault(piece.ports, len(known))
            found.extend((index, item) for item in piece.endpoints)
        return found

    old: Sequence[tuple[int, Endpoint]]
    new: Sequence[tuple[int, Endpoint]]
    if len(before) == len(after) == 1 and before[0].ports == after[0].ports:  # the usual case
        some, others = differing(before[0].endpoints, after[0].endpoints)
        old, new = [(0, item) for item in some], [(0, item) for item in others]
    else:
        old, new = placed(before), placed(after)
    old_ones, new_ones = set(old), set(new)
    changed = old_ones ^ new_ones
    if len(old_ones) < len(old) or len(new_ones) < len(new):
        # Of one that was there twice, once may be left: SRV weights count it.
        changed |= {key for key, _ in Counter(old).items() ^ Counter(new).items()}
    return set(labels([EndpointSlice("", "", "", (), tuple(item for _, item in changed))], pod_names, aliases=True))
