"""Which names change when an object changes, and what they become.

The compiler is pure: it is given the objects before and after, and returns
nodes to put and names to drop. It never reads the store.

A slice's change touches the names of its Service, and of endpoint names only
those that differ: one pod of a thousand does not rewrite a thousand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from headwater.cluster.objects import Endpoint, EndpointSlice, Pod, Port, Service
from headwater.records import headless, pods, services, zone
from headwater.records.headless import Report
from headwater.records.names import BadName
from headwater.records.zone import Zone
from headwater.settings import PodMode, Settings


@dataclass(slots=True)
class Changes:
    """What a transaction writes to `records`."""

    put: dict[bytes, bytes] = field(default_factory=dict)
    drop: set[bytes] = field(default_factory=set)

    def merge(self, nodes: Mapping[bytes, bytes], before: Iterable[bytes]) -> None:
        """Put these nodes, and drop those names of `before` that are not among them."""
        self.put.update(nodes)
        self.drop.update(name for name in before if name not in nodes)


def differing_labels(
    before: Sequence[EndpointSlice], after: Sequence[EndpointSlice], pod_names: bool
) -> set[bytes] | None:
    """The endpoint names whose records may differ, or None for "any of them".

    `before` and `after` are the changed slices of one Service. Ports are
    shared by all endpoints of a slice: when they change, all its names do.
    """
    old = _placed(before)
    new = _placed(after)
    return set(headless.labels(_as_slices(old ^ new), pod_names))


def _placed(slices: Iterable[EndpointSlice]) -> set[tuple[tuple[Port, ...], Endpoint]]:
    return {(piece.ports, endpoint) for piece in slices for endpoint in piece.endpoints}


def _as_slices(placed: Iterable[tuple[tuple[Port, ...], Endpoint]]) -> Iterable[EndpointSlice]:
    return (EndpointSlice("", "", "", ports, (endpoint,)) for ports, endpoint in placed)


class Compiler:
    """The settings that shape records, applied to objects."""

    def __init__(self, settings: Settings, name_servers: Sequence[str], report: Report) -> None:
        """`name_servers` are the addresses of ns.dns.Z; `report` hears of records that cannot be made."""
        self.zones = tuple(Zone.of(index, name) for index, name in enumerate(settings.zones))
        self._ttl = settings.ttl
        self._pods: PodMode = settings.pods
        self._pod_names = settings.endpoint_pod_names
        self._ignore_empty = settings.ignore_empty_service
        self._namespaces = frozenset(settings.namespaces)
        self._name_servers = tuple(name_servers)
        self._report = report

    @property
    def pod_names(self) -> bool:
        """`--endpoint-pod-names`."""
        return self._pod_names

    def serves(self, namespace: str) -> bool:
        """Whether `--namespace` lets it through."""
        return not self._namespaces or namespace in self._namespaces

    def fixed(self) -> dict[bytes, bytes]:
        """The nodes that every zone has."""
        found: dict[bytes, bytes] = {}
        for item in self.zones:
            found |= zone.nodes(item, self._ttl, self._name_servers)
        return found

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
        if old is not None:
            touched = set(headless.labels([*old_slices, *new_slices], self._pod_names)) if only is None else only
        groups: list[headless.Group] = []
        if new is not None:
            groups = headless.gather(new_slices, self._pod_names, self._report)
            if self._ignore_empty and not groups and not new.headless:
                new = None
        for item in self.zones:
            names = services.names_of(old, old_slices, touched, item) if old is not None else ()
            nodes = services.nodes(new, groups, item, self._ttl, self._report, only) if new is not None else {}
            changes.merge(nodes, names)

    def namespace(self, name: str, exists: bool, changes: Changes) -> None:
        """The two names of a namespace, which are there while it is."""
        for item in self.zones:
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
        for item in self.zones:
            try:
                name = pods.pod_name(namespace, address, item)
                node = pods.pod_node(address, item, self._ttl, holders)
            except ValueError as error:
                self._report("pod", namespace, address, str(error))
                continue
            changes.merge({name: node} if holders else {}, (name,))
