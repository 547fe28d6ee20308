"""The names that a change of an object touches, and their new nodes.

The compiler is pure: it gets the objects before and after, and returns nodes to put and names to
drop. It does not read the store.

A slice's change touches the names of its Service, and only those endpoint names that differ. So a
change of one pod does not rewrite the names of a thousand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from headwater.cluster.objects import Condition, EndpointSlice, Pod, Port, Service, ServiceImport
from headwater.records import (
    aliases,
    endpoints,
    limits,
    multicluster,
    near,
    patience,
    pods,
    reverse,
    services,
    sets,
    topology,
    zone,
)
from headwater.records.decisions import Decided, applied, selected
from headwater.records.endpoints import NO_PODS, Group
from headwater.records.options import DEFAULTS, Options, Report, asks_pods, options_of, silent
from headwater.records.sets import Writer
from headwater.records.zone import NameServer, Zone
from headwater.settings.settings import PodMode, Settings
from headwater.wire import names, rdata
from headwater.wire.names import BadName


@dataclass(slots=True)
class Changes:
    """The writes of a transaction to `records`."""

    put: dict[bytes, bytes] = field(default_factory=dict)
    drop: set[bytes] = field(default_factory=set)
    kept: Mapping[bytes, bytes] = field(default_factory=dict)
    """Names that stay, with these nodes, when no other node has them."""

    def merge(self, nodes: Mapping[bytes, bytes], before: Iterable[bytes]) -> None:
        """Put these nodes, and drop those names of `before` that are not among them."""
        self.put.update(nodes)
        for name in before:
            if name not in nodes:
                if name in self.kept:
                    self.put.setdefault(name, self.kept[name])
                else:
                    self.drop.add(name)


@dataclass(frozen=True, slots=True)
class _State:
    """A Service and its endpoints at one moment, as far as they have names (`limits`)."""

    service: Service | None
    slices: Sequence[EndpointSlice]


class Compiler:
    """The settings that shape records, applied to objects."""

    def __init__(self, settings: Settings, host: Sequence[str], report: Report) -> None:
        """`host`: the addresses of this machine; `report` hears of records that cannot be made."""
        kinds = [
            *((name, False, False) for name in settings.zones),
            *((name, True, False) for name in settings.multicluster_zones),
            *((name, False, True) for name in settings.reverse_zones),
        ]
        self.zones = tuple(
            Zone.of(index, name, clusters=clusters, reverse=reverse)
            for index, (name, clusters, reverse) in enumerate(kinds)
        )
        self._between = zone.between(self.zones)
        self._own = [item for item in self.zones if not item.clusters and not item.reverse]
        self._shared = [item for item in self.zones if item.clusters]
        self._ttl = settings.ttl
        self._pods: PodMode = settings.pods
        self._pod_names = settings.endpoint_pod_names
        self._ignore_empty = settings.ignore_empty_service
        self._zonal = settings.zonal
        self._near = settings.near
        self._reverse = bool(settings.reverse_zones)
        self._namespaces = frozenset(settings.namespaces)
        self._host = tuple(zone.name_servers_of(host))
        self._host_addresses = frozenset(host)
        self._report = report

    @property
    def has_reverse(self) -> bool:
        """Whether there is a `--reverse-zone`."""
        return self._reverse

    @property
    def above_services(self) -> list[bytes]:
        """svc.Z of each zone that has Services, in wire format."""
        return [item.svc for item in self._own]

    @property
    def zones_are_apart(self) -> bool:
        """Whether no zone is inside another: then every name has one owner."""
        return not any(one is not other and one.wire.endswith(other.wire) for one in self.zones for other in self.zones)

    @property
    def pod_names(self) -> bool:
        """`--endpoint-pod-names`."""
        return self._pod_names

    @property
    def report(self) -> Report:
        """Hears of records that cannot be made."""
        return self._report

    def serves(self, namespace: str) -> bool:
        """Whether `--namespace` admits it."""
        return not self._namespaces or namespace in self._namespaces

    # The names of every zone

    def fixed(self, found: Sequence[NameServer] | None) -> dict[bytes, bytes]:
        """The nodes that every zone has.

        `found`: the DNS Service's addresses, None when none is known.
        """
        nodes = dict(self._between)
        for item in self.zones:
            nodes |= zone.nodes(item, self._ttl, self._host if found is None else found)
        return nodes

    @property
    def host(self) -> bytes:
        """This host's addresses as one value, to compare."""
        return b",".join(sorted(text.encode() for text in self._host_addresses))

    def is_here(self, piece: EndpointSlice) -> bool:
        """Whether one of its ready endpoints is this host. Its Service is then the DNS Service."""
        here = self._host_addresses
        for endpoint in piece.endpoints:
            if not here.isdisjoint(endpoint.addresses) and endpoint.conditions & Condition.READY:
                return True
        return False

    def name_servers(self, service: Service, piece: EndpointSlice) -> list[NameServer]:
        """The addresses of the DNS Service; `piece` is its slice that `is_here`."""
        try:
            owner = names.label(service.name) + names.label(service.namespace) + names.SVC
        except BadName:
            return []
        if not service.headless:
            return [NameServer(owner, packed) for packed in _packed(service.cluster_ips)]
        (group,) = endpoints.gather([limits.of_slice(piece, silent)], self._pod_names, silent) or [Group(())]
        return [NameServer(label + owner, packed) for label, some in group.hosts.items() for packed in some]

    # PTR

    def reverse_of_service(self, service: Service | None) -> Mapping[bytes, bytes]:
        """Its entries in the index of addresses."""
        if service is None or not self._reverse or not self.serves(service.namespace):
            return {}
        return reverse.of_service(service, self.zones[0])

    def reverse_of_slice(self, piece: EndpointSlice | None) -> Mapping[bytes, bytes]:
        """Its entries in the index of addresses."""
        if piece is None or not self._reverse or not self.serves(piece.namespace):
            return {}
        return reverse.of_slice(piece, self._pod_names, self.zones[0])

    # Services

    def changes(self) -> Changes:
        """Nothing changed yet."""
        return Changes(kept=self._between)

    def too_many_slices(self, namespace: str, name: str) -> None:
        """Report a Service of which not all slices were read."""
        self._report("limit", namespace, name, f"more than {limits.MAX_READ >> 20} MiB of slices")

    def service(
        self,
        before: tuple[Service | None, Sequence[EndpointSlice]],
        after: tuple[Service | None, Sequence[EndpointSlice]],
        changes: Changes,
        pod_weights: Mapping[str, str] = NO_PODS,
        decided: tuple[Decided | None, Decided | None] = (None, None),
    ) -> None:
        """The names of one Service, given all its slices in the order of their names.

        `pod_weights`: its pods' own weights, if it `asks_pods`. `decided`: what a policy decided
        before and after.

        A Service is None in a namespace that does not exist or is not served, or when the store has
        none yet. Slices that are the same object before and after are not read one by one when the
        Service has not changed.
        """
        old, new = self._state(*before, silent), self._state(*after, self._report)
        only = None
        options = DEFAULTS if new.service is None else applied(options_of(new.service, self._report), decided[1])
        if old.service is not None and old.service == new.service and decided[0] == decided[1]:
            only = self._differing_labels(old, new, options)
        chosen = _State(new.service, selected(new.slices, decided[1]))
        groups = [] if new.service is None else self._groups(chosen, options, pod_weights)
        serving = new.service if new.service is not None and not self._is_hidden(new.service, groups) else None
        for item in self._own:
            before_names = self._names_before(old, new, only, item, decided[0])
            nodes: dict[bytes, bytes] = {}
            if serving is not None:
                nodes = services.nodes(serving, groups, item, self._ttl, self._report, only, options)
                writer = self._headless_writer(serving, item, options) if self._zonal else None
                # A Service without endpoints is NXDOMAIN, so nothing is below it (RFC 8020).
                if writer is not None and writer.base in nodes:
                    nodes.update(topology.nodes(writer, chosen.slices, self._pod_names, options, pod_weights))
                if self._near and (writer := self._headless_writer(serving, item, options)) is not None:
                    near.add(
                        nodes,
                        writer,
                        serving,
                        chosen.slices,
                        options,
                        pod_names=self._pod_names,
                        pod_weights=pod_weights,
                        report=self._report,
                    )
                if options.patience and serving.type != "ExternalName":
                    self._await(nodes, chosen, groups, item, only, options)
            changes.merge(nodes, before_names)

    def _await(
        self,
        nodes: dict[bytes, bytes],
        state: _State,
        groups: Sequence[Group],
        item: Zone,
        only: Collection[bytes] | None,
        options: Options,
    ) -> None:
        """Add the names for which a question may wait."""
        service = state.service
        assert service is not None
        with contextlib.suppress(BadName):
            writer = Writer.of(item, self._ttl, service, options)
            patience.add(
                nodes, writer, state.slices, groups, only, options, pod_names=self._pod_names, headless=service.headless
            )

    @staticmethod
    def _state(service: Service | None, slices: Sequence[EndpointSlice], report: Report) -> _State:
        if service is None:
            return _State(None, slices)
        return _State(limits.of_service(service, report), limits.of_slices(slices, report))

    def _differing_labels(self, old: _State, new: _State, options: Options) -> set[bytes]:
        """The labels of endpoint names to write or drop for an unchanged Service.

        A hostname may also be a label of ours, such as _tcp. Those are always among them, because
        the Service's own names are made again and overwrite it.
        """
        # By identity, not by name: a slice that grows may have moved a limit for later ones.
        before, after = ({id(piece): piece for piece in state.slices} for state in (old, new))
        gone = [piece for key, piece in before.items() if key not in after]
        come = [piece for key, piece in after.items() if key not in before]
        found = endpoints.differing_labels(gone, come, self._pod_names)
        assert new.service is not None
        ports = _distinct_ports(new.service, (*old.slices, *new.slices))
        protocols = {protocol for _, protocol in sets.ports_by_name(ports)} | sets.unusual_protocols(ports)
        others = aliases.labels(options.aliases)
        members = patience.members(old.slices, options) | patience.members(new.slices, options)
        return {*found, names.MARKER, *protocols, *others, *members}

    def asks_pods(self, service: Service | None) -> bool:
        """Whether its endpoints have the weights that their pods name."""
        return self._pods == "verified" and asks_pods(service)

    def _groups(self, state: _State, options: Options, pod_weights: Mapping[str, str]) -> list[Group]:
        return endpoints.gather(state.slices, self._pod_names, self._report, options, pod_weights=pod_weights)

    def _is_hidden(self, service: Service, groups: Sequence[Group]) -> bool:
        """Whether `--ignore-empty-service` leaves it out."""
        return self._ignore_empty and not groups and not service.headless and service.type != "ExternalName"

    def _names_before(
        self, old: _State, new: _State, only: Collection[bytes] | None, item: Zone, decided: Decided | None
    ) -> Iterable[bytes]:
        """The names in one zone that the Service may have had; of endpoints, those in `only`."""
        if old.service is None:
            return []
        labels = only
        if labels is None:
            # Those of the new slices too: a hostname may have been left out before, say for its
            # length.
            labels = set(endpoints.labels((*old.slices, *new.slices), self._pod_names, aliases=True))
            options = applied(options_of(old.service, silent), decided)
            labels.update(aliases.labels(options.aliases), patience.members(old.slices, options))
        found = services.names_of(old.service, old.slices, labels, item)
        if self._zonal and (writer := self._headless_writer(old.service, item)) is not None:
            found += topology.names_of(writer.base, old.slices)
        if self._near and (writer := self._headless_writer(old.service, item)) is not None:
            options = applied(options_of(old.service, silent), decided)
            found += near.names_of(writer.base, old.service, selected(old.slices, decided), options)
        return found

    def _headless_writer(self, service: Service | None, item: Zone, options: Options = DEFAULTS) -> Writer | None:
        if service is None or not service.headless or service.type == "ExternalName":
            return None
        try:
            return Writer.of(item, self._ttl, service, options)
        except BadName:
            return None

    def service_import(
        self,
        before: tuple[ServiceImport | None, Sequence[EndpointSlice]],
        after: tuple[ServiceImport | None, Sequence[EndpointSlice]],
        changes: Changes,
    ) -> None:
        """The names of one ServiceImport; None as for `service`."""
        old, old_slices = before
        new, new_slices = after
        if old is not None:
            old, old_slices = limits.of_import(old, silent), limits.of_slices(old_slices, silent)
        groups: list[Group] = []
        if new is not None:
            new, new_slices = limits.of_import(new, self._report), limits.of_slices(new_slices, self._report)
            groups = endpoints.gather(new_slices, self._pod_names, self._report, clusters=True)
            if self._ignore_empty and not groups and not new.headless:
                new = None
        for item in self._shared:
            gone = multicluster.names_of(old, old_slices, self._pod_names, item) if old is not None else ()
            nodes = multicluster.nodes(new, groups, item, self._ttl, self._report) if new is not None else {}
            changes.merge(nodes, gone)

    def namespace(self, name: str, exists: bool, changes: Changes) -> None:
        """The two names of a namespace, which exist as long as it does."""
        for item in (*self._own, *self._shared):
            try:
                nodes = pods.namespace_nodes(name, item, self._pods)
            except BadName as error:
                self._report("name", "", name, str(error))
                continue
            changes.merge(nodes if exists else {}, nodes)

    def pod_addresses(self, pod: Pod | None) -> Sequence[str]:
        """The addresses that give a pod names: none without `--pods verified`."""
        return pod.addresses if pod is not None and self._pods == "verified" else ()

    def pod_address(self, namespace: str, address: str, holders: int, changes: Changes) -> None:
        """The name of an address in a namespace; `holders` counts the pods that have it."""
        for item in (*self._own, *self._shared):
            try:
                name = pods.pod_name(namespace, address, item)
                node = pods.pod_node(address, item, self._ttl, holders)
            except ValueError as error:
                self._report("pod", namespace, address, str(error))
                continue
            changes.merge({name: node} if holders else {}, (name,))


def _distinct_ports(service: Service, slices: Iterable[EndpointSlice]) -> list[Port]:
    """The ports of a Service and its slices, equal ones of several slices once."""
    return [port for some in dict.fromkeys([service.ports, *(piece.ports for piece in slices)]) for port in some]


def _packed(texts: Iterable[str]) -> Iterable[bytes]:
    for text in texts:
        try:
            yield rdata.address(text)
        except ValueError:
            continue
