"""What a policy gets and what it returns (docs/policy.md).

    from headwater.policy.api import Decision, Endpoint, Service

    def decide(service: Service, endpoints: tuple[Endpoint, ...]) -> Decision | None: ...

`headwater serve --policy package.module:decide` calls it when a Service or one of its slices
changes. It must be a function of its arguments alone: the decision is stored, and stands until the
next change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a Service."""

    name: str
    protocol: str
    number: int
    """-1 when it has none."""


@dataclass(frozen=True, slots=True)
class Service:
    """A Service, as far as DNS needs it."""

    namespace: str
    name: str
    type: str
    """ClusterIP, NodePort, LoadBalancer or ExternalName."""
    headless: bool
    cluster_ips: tuple[str, ...] = ()
    external_name: str = ""
    ports: tuple[Port, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Those that Headwater reads (docs/answers.md); `headwater.dev/policy` is for policies."""
    traffic_distribution: str = ""
    """spec.trafficDistribution."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint of the Service, also when it is not ready."""

    name: str
    """Its name below the Service in lower case: the hostname, else the dashed first address."""
    addresses: tuple[str, ...]
    ready: bool
    serving: bool
    terminating: bool
    pod: str = ""
    zone: str = ""
    """The topology zone."""
    node: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy wants for a Service. None leaves a thing as it is without the policy.

    What is given takes the place of the Service's annotation of that name. The limits are those of
    the annotations.
    """

    ttl: int | None = None
    """Seconds."""
    publish: Literal["ready", "serving", "all"] | None = None
    """Which endpoints have records."""
    endpoints: Sequence[str] | None = None
    """Which endpoints count at all, by `name` or `pod`, in the order in which sets have them. All
    others are as if they were in no slice; PTR records stay."""
    weights: Mapping[str, int] | None = None
    """By `name` or `pod`; "*" for all others."""
    priorities: Mapping[str, int] | None = None
    aliases: Mapping[str, Sequence[str]] | None = None
    """Other names, and the endpoints that each stands for."""
    near: Literal["prefer", "pin", "off"] | None = None
    """Whether clients are answered by their place, as by `headwater.dev/zone` (docs/near.md)."""
    why: str = ""
    """A few words for `headwater explain`, at most 200 characters."""


Policy: TypeAlias = Callable[[Service, tuple[Endpoint, ...]], "Decision | None"]
