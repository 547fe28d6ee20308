"""Which names change when an object changes, and what they become.

The compiler is pure: it is given the objects before and after, and returns
nodes to put and names to drop. It never reads the store.

A slice's change touches the names of its Service, and of endpoint names only
those that differ: one pod of a thousand does not rewrite a thousand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from headwater.cluster.objects import Condition, Endpoint, EndpointSlice, Pod, Port, Service, ServiceImport
from headwater.records import endpoints, multicluster, pods, reverse, services, topology, zone
from headwater.records.endpoints import Writer
from headwater.records.options import DEFAULTS, Options, Report, options_of, silent
from headwater.records.zone import NameServer, Zone
from headwater.settings.settings import PodMode, Settings
from headwater.wire import names, rdata
from headwater.wire.names import BadName


@dataclass(slots=True)
class Changes:
    """What a transaction writes to `records`."""

    put: dict[bytes, bytes] = field(default_factory=dict)
    drop: set[bytes] = field(default_factory=set)

    def merge(self, nodes: Mapping[bytes, bytes], before: Iterable[bytes]) -> None:
        """Put these nodes, and drop those names of `before` that are not among them."""
        self.put.update(nodes)
        self.drop.update(name for name in before if name not in nodes)


def differing_labels(before: Sequence[EndpointSlice], after: Sequence[EndpointSlice], pod_names: bool) -> set[bytes]:
    """The endpoint names whose records may differ; pods' names, which they may have beside, among them.

    `before` and `after` are the changed slices of one Service. Ports are
    shared by all endpoints of a slice: when they change, all its names do.
    """
    old = _placed(before)
    new = _placed(after)
    return set(endpoints.labels(_as_slices(old ^ new), pod_names, aliases=True))


def _placed(slices: Iterable[EndpointSlice]) -> set[tuple[tuple[Port, ...], Endpoint]]:
    return {(piece.ports, endpoint) for piece in slices for endpoint in piece.endpoints}


def _as_slices(placed: Iterable[tuple[tuple[Port, ...], Endpoint]]) -> Iterable[EndpointSlice]:
    return (EndpointSlice("", "", "", ports, (endpoint,)) for ports, endpoint in placed)


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
        self._own = [item for item in self.zones if not item.clusters and not item.reverse]
        self._shared = [item for item in self.zones if item.clusters]
        self._ttl = settings.ttl
        self._pods: PodMode = settings.pods
        self._pod_names = settings.endpoint_pod_names
        self._ignore_empty = settings.ignore_empty_service
        self._zonal = settings.zonal
        self._reverse = bool(settings.reverse_zones)
        self._namespaces = frozenset(settings.namespaces)
        self._host = tuple(zone.name_servers_of(host))
        self._host_addresses = frozenset(host)
        self._report = report

    @property
    def pod_names(self) -> bool:
        """`--endpoint-pod-names`."""
        return self._pod_names

    @property
    def report(self) -> Report:
        """Hears of records that cannot be made."""
        return self._report

    def serves(self, namespace: str) -> bool:
        """Whether `--namespace` lets it through."""
        return not self._namespaces or namespace in self._namespaces

    # What every zone has

    def fixed(self, found: Sequence[NameServer] | None) -> dict[bytes, bytes]:
        """The nodes that every zone has. `found`: the DNS Service's addresses, None when none is known."""
        nodes: dict[bytes, bytes] = {}
        for item in self.zones:
            nodes |= zone.nodes(item, self._ttl, self._host if found is None else found)
        return nodes

    @property
    def host(self) -> bytes:
        """This host's addresses as one value, to compare."""
        return b",".join(sorted(text.encode() for text in self._host_addresses))

    def is_here(self, piece: EndpointSlice) -> bool:
        """Whether one of its ready endpoints is this host: then its Service is the DNS Service."""
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
        (group,) = endpoints.gather([piece], self._pod_names, silent) or [endpoints.Group(())]
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

    def service(
        self,
        before: tuple[Service | None, Sequence[EndpointSlice]],
        after: tuple[Service | None, Sequence[EndpointSlice]],
        only: Collection[bytes] | None,
        changes: Changes,
    ) -> None:
        """The names of one Service. `only`: the endpoint names that can differ (None: all).

        A Service in a namespace that does not exist or is not served is None.
        """
        old, old_slices = before
        new, new_slices = after
        touched: Collection[bytes] = ()
        if only is not None and old is not None:
            # A hostname may be a label of ours, such as _tcp: made again with the Service's own names.
            ports = [old.ports, *(piece.ports for piece in (*old_slices, *new_slices))]
            ours = endpoints.port_names(port for some in dict.fromkeys(ports) for port in some)
            only = {*only, names.MARKER, *(protocol for _, protocol in ours)}
        if old is not None:
            every = [*old_slices, *new_slices]
            touched = set(endpoints.labels(every, self._pod_names, aliases=True)) if only is None else only
        groups: list[endpoints.Group] = []
        options = DEFAULTS
        if new is not None:
            options = options_of(new, self._report)
            groups = endpoints.gather(new_slices, self._pod_names, self._report, options)
            if self._ignore_empty and not groups and not new.headless and new.type != "ExternalName":
                new = None
        for item in self._own:
            gone = list(services.names_of(old, old_slices, touched, item)) if old is not None else []
            nodes = services.nodes(new, groups, item, self._ttl, self._report, only, options) if new is not None else {}
            if self._zonal:
                if (writer := self._headless_writer(old, item)) is not None:
                    gone += topology.names_of(writer.base, old_slices)
                if (writer := self._headless_writer(new, item, options)) is not None:
                    nodes.update(topology.nodes(writer, new_slices, self._pod_names, options))
            changes.merge(nodes, gone)

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
        groups: list[endpoints.Group] = []
        if new is not None:
            groups = endpoints.gather(new_slices, self._pod_names, self._report, clusters=True)
            if self._ignore_empty and not groups and not new.headless:
                new = None
        for item in self._shared:
            gone = multicluster.names_of(old, old_slices, self._pod_names, item) if old is not None else ()
            nodes = multicluster.nodes(new, groups, item, self._ttl, self._report) if new is not None else {}
            changes.merge(nodes, gone)

    def namespace(self, name: str, exists: bool, changes: Changes) -> None:
        """The two names of a namespace, which are there while it is."""
        for item in (*self._own, *self._shared):
            try:
                nodes = pods.namespace_nodes(name, item, self._pods)
            except BadName as error:
                self._report("name", "", name, str(error))
                continue
            changes.merge(nodes if exists else {}, nodes)

    def pod_addresses(self, pod: Pod | None) -> Sequence[str]:
        """The addresses by which a pod has names: none but with `--pods verified`."""
        return pod.addresses if pod is not None and self._pods == "verified" else ()

    def pod_address(self, namespace: str, address: str, holders: int, changes: Changes) -> None:
        """The name of an address in a namespace, which is there while a pod has it; `holders` says how many do."""
        for item in (*self._own, *self._shared):
            try:
                name = pods.pod_name(namespace, address, item)
                node = pods.pod_node(address, item, self._ttl, holders)
            except ValueError as error:
                self._report("pod", namespace, address, str(error))
                continue
            changes.merge({name: node} if holders else {}, (name,))


def _packed(texts: Iterable[str]) -> Iterable[bytes]:
    for text in texts:
        try:
            yield rdata.address(text)
        except ValueError:
            continue
