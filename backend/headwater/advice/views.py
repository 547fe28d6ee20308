"""What the rules look at: the Services, workloads and slices of one namespace.

Each source makes them: `written` of manifests and of the API server's objects, `explain.advised` of
the store, which holds no selectors and no workloads. What a source does not have is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from headwater.cluster.objects import EndpointSlice, Service
from headwater.settings.settings import Settings

#: Label pairs of a workload, and Services that have one of them in their selectors, that are
#: compared: so the work for a namespace is linear in its objects.
_MOST_LABELS: Final = 64
_MOST_SERVICES: Final = 64

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A Service, and what the store does not keep of it."""

    service: Service
    selector: Labels | None = None
    """None if it is not known (`service.selectorless` is)."""
    targets: tuple[str, ...] | None = None
    """The name of each port's targetPort, "" for a number; None if they are not known."""
    none_as_address: bool = False
    """spec.loadBalancerIP is "None", where somebody meant spec.clusterIP."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A StatefulSet, Deployment, ReplicaSet, DaemonSet, Job, or a Pod of its own."""

    kind: str
    namespace: str
    name: str
    labels: Labels
    """Of its pods."""
    replicas: int = 1
    subdomain: str = ""
    """spec.serviceName of a StatefulSet, spec.subdomain of other pods."""
    parallel: bool = False
    hostname: str = ""
    """As the template has it."""
    first: int = 0
    """The lowest ordinal."""
    probed: bool = False
    """A container has a readinessProbe."""
    host_network: bool = False
    """It has hostNetwork, and a dnsPolicy with which its pods ask their node's servers."""
    ports: frozenset[str] = frozenset()
    """The names of its containers' ports."""
    texts: tuple[str, ...] = ()
    """Its containers' variables (NAME=VALUE), arguments, and the ConfigMaps that it names."""
    owned: bool = False
    """Another object made it: that one is looked at."""


@dataclass
class World:
    """One namespace, as far as it is known."""

    namespace: str
    services: dict[str, ServiceView] = field(default_factory=dict)
    workloads: list[Workload] | None = None
    """None: they were not looked at."""
    slices: dict[str, list[EndpointSlice]] | None = None
    """By Service. None: the slice controller's work is not known; what is there counts."""
    sliced: frozenset[str] = frozenset()
    """Services that have slices or Endpoints, where `slices` is None."""

    @cached_property
    def selecting(self) -> list[list[str]]:
        """For each workload the Services that select its pods, in order of their names."""
        by_pair: dict[tuple[str, str], list[str]] = {}
        for name in sorted(self.services):
            if selector := self.services[name].selector:
                by_pair.setdefault(min(selector.items()), []).append(name)
        found = []
        for one in self.workloads or ():
            names: list[str] = []
            for pair in list(one.labels.items())[:_MOST_LABELS]:
                names += (
                    name
                    for name in by_pair.get(pair, ())[:_MOST_SERVICES]
                    if (self.services[name].selector or {}).items() <= one.labels.items()
                )
            found.append(sorted(names))
        return found

    @cached_property
    def selected(self) -> dict[str, list[Workload]]:
        """For each Service with a selector the workloads whose pods it selects."""
        found: dict[str, list[Workload]] = {name: [] for name, one in self.services.items() if one.selector}
        for one, names in zip(self.workloads or (), self.selecting, strict=True):
            for name in names:
                found[name].append(one)
        return found

    def pieces(self, service: str) -> Sequence[EndpointSlice]:
        return () if self.slices is None else self.slices.get(service, ())


@dataclass(frozen=True, slots=True)
class Context:
    """The settings of an instance that decide."""

    zones: tuple[str, ...] = ("cluster.local",)
    reverse_zones: tuple[str, ...] = ()
    pod_names: bool = False
    """--endpoint-pod-names: an endpoint has its pod's name, whatever its hostname is."""
    left_out: str = ""
    """The flags that leave Services out, if there are any."""

    @classmethod
    def of(cls, settings: Settings) -> Context:
        return cls(
            settings.zones,
            settings.reverse_zones,
            settings.endpoint_pod_names,
            "--labels" if str(settings.labels or "") else "",
        )
