"""One frozen Settings: the options of `headwater serve`, validated before anything starts.

A bad value stops the start with one line that names the flag (`validate`). Every room takes its
options from here. No room reads the environment or a flag again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from typing import Literal

from headwater.settings import policies, validate
from headwater.settings.address import Address
from headwater.settings.places import ZoneAddress, ZoneCidr

PodMode = Literal["disabled", "insecure", "verified"]
#: How a list is taken: in pages, or as the beginning of a watch (WatchList).
ListMode = Literal["pages", "stream"]
Transport = Literal["native", "grpcio"]

#: Settings that change the bytes of records. Another value means: compile anew.
_SHAPES_RECORDS = (
    "zones",
    "reverse_zones",
    "multicluster_zones",
    "ttl",
    "negative_ttl",
    "pods",
    "endpoint_pod_names",
    "zonal",
    "ignore_empty_service",
    "namespaces",
    "policy",
)


@dataclass(frozen=True)
class Settings:
    """The options in force. Raises SettingsError when the values make no sense."""

    kubeconfig: str | None = None
    context: str | None = None
    manifests: tuple[str, ...] = ()
    zones: tuple[str, ...] = ("cluster.local",)
    reverse_zones: tuple[str, ...] = ()
    multicluster_zones: tuple[str, ...] = ()
    listen: Address = field(default_factory=lambda: Address(path="/run/headwater/dns.sock"))
    listen_zones: tuple[ZoneAddress, ...] = ()
    """Where clients of one topology zone ask."""
    workers: int = 2
    transport: Transport = "native"
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    state_dir: str = "/var/lib/headwater"
    admin: Address | None = field(default_factory=lambda: Address(host="127.0.0.1", port=9353))
    admin_details: Literal["loopback", "all"] = "loopback"
    """Who may see names and objects on the admin address."""
    dns: Address | None = None
    ttl: int = 5
    negative_ttl: int = 5
    pods: PodMode = "disabled"
    endpoint_pod_names: bool = False
    zonal: bool = False
    ignore_empty_service: bool = False
    policy: str | None = None
    """MODULE:FUNCTION, or an entry point, of an own rule (docs/policy.md)."""
    namespaces: tuple[str, ...] = ()
    namespace_labels: str = ""
    labels: str = ""
    list_mode: ListMode = "pages"
    max_staleness: float = 0.0
    """Seconds; no answer comes from older truth. 0: no limit."""
    client_option: int = 0
    """The EDNS option in which CoreDNS says who asks; 0: none is looked at."""
    zone_cidrs: tuple[ZoneCidr, ...] = ()
    client_nodes: bool = False
    """Whether Nodes are watched, for the places of clients."""
    extended_errors: bool = False
    """Whether negative answers say why (RFC 8914)."""
    audit_interval: float = 3600.0
    """Seconds between two comparisons of the store with the API server; 0: none."""
    second_opinion: Literal["on", "off"] = "on"
    """Whether a list that would take much away needs a second one to confirm it."""
    history: int = 16 << 20
    """Bytes of the store that the history of answers may take; 0: none is kept."""
    upstreams: tuple[Address, ...] = ()
    """Servers for names outside the zones; empty: the system's resolvers."""
    peer_listen: Address | None = None
    """Where other instances may take the store."""
    seeds: tuple[Address, ...] = ()
    """Where an instance with nothing stored takes another one's store."""
    peer_cert: str | None = None
    peer_key: str | None = None
    peer_ca: str | None = None
    peer_token: str | None = None
    log_level: str = "info"
    log_format: Literal["text", "json"] = "text"

    def __post_init__(self) -> None:
        for topic in validate.TOPICS:
            topic(self)

    def served_zones(self) -> tuple[str, ...]:
        """Every zone: a node, and a count, names its zone by its place here."""
        return self.zones + self.multicluster_zones + self.reverse_zones

    def forward_zones(self) -> tuple[str, ...]:
        """The zones of names, not of addresses."""
        return self.zones + self.multicluster_zones

    def listen_addresses(self) -> tuple[Address, ...]:
        """One address per answer process, in their order."""
        return tuple(self.listen.of_worker(index, self.workers) for index in range(self.workers))

    def zone_addresses(self, index: int) -> tuple[ZoneAddress, ...]:
        """Where one answer process listens for the clients of topology zones."""
        return tuple(ZoneAddress(item.zone, item.address.of_worker(index, self.workers)) for item in self.listen_zones)

    @property
    def near(self) -> bool:
        """Whether a client's place is known, so that answers by it are made."""
        return bool(self.listen_zones or self.client_option)

    def records_fingerprint(self) -> str:
        """16 hex digits; another value means that stored records cannot be served.

        Raises SettingsError when the policy's code is gone.
        """
        shape = [(name, getattr(self, name)) for name in _SHAPES_RECORDS]
        if self.policy:
            shape.append(("the policy's version", policies.version(self.policy)))
        if self.near:
            shape.append(("near", True))
        return hashlib.sha256(repr(shape).encode()).hexdigest()[:16]


assert {item.name for item in fields(Settings)}.issuperset(_SHAPES_RECORDS)
