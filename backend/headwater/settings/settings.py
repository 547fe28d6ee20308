"""One frozen Settings: what `headwater serve` was told, validated before anything starts.

A bad value stops the start with one line that names the flag (`SettingsError`).
Everything below takes what it needs from here; nothing reads the environment
or a flag a second time.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from headwater.settings import selectors
from headwater.settings.address import Address
from headwater.settings.error import SettingsError
from headwater.settings.parse import MAX_LABEL, REVERSE

PodMode = Literal["disabled", "insecure", "verified"]
#: How a list is taken: in pages, or as the beginning of a watch (WatchList).
ListMode = Literal["pages", "stream"]
Transport = Literal["native", "grpcio"]

#: RFC 2181 section 8: a TTL is an unsigned 31-bit number.
_MAX_TTL = 2**31 - 1
#: CoreDNS's `grpc` plugin takes at most this many addresses (plugin/grpc/setup.go).
MAX_WORKERS = 15
#: A node names its zone by one byte, and a count by one more.
_MAX_ZONES = 250

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")

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
)


@dataclass(frozen=True)
class Settings:
    """What was asked for. Raises SettingsError when the values make no sense."""

    kubeconfig: str | None = None
    context: str | None = None
    manifests: tuple[str, ...] = ()
    zones: tuple[str, ...] = ("cluster.local",)
    reverse_zones: tuple[str, ...] = ()
    multicluster_zones: tuple[str, ...] = ()
    listen: Address = field(default_factory=lambda: Address(path="/run/headwater/dns.sock"))
    workers: int = 2
    transport: Transport = "native"
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    state_dir: str = "/var/lib/headwater"
    admin: Address | None = field(default_factory=lambda: Address(host="127.0.0.1", port=9353))
    dns: Address | None = None
    ttl: int = 5
    negative_ttl: int = 5
    pods: PodMode = "disabled"
    endpoint_pod_names: bool = False
    zonal: bool = False
    ignore_empty_service: bool = False
    namespaces: tuple[str, ...] = ()
    namespace_labels: str = ""
    labels: str = ""
    list_mode: ListMode = "pages"
    max_staleness: float = 0.0
    """Seconds; older truth is not answered from. 0: any is."""
    audit_interval: float = 3600.0
    """Seconds between two comparisons of the store with the API server; 0: none."""
    upstreams: tuple[Address, ...] = ()
    """Where names outside the zones are asked; empty: the system's resolvers."""
    log_level: str = "info"
    log_format: Literal["text", "json"] = "text"

    def __post_init__(self) -> None:
        if self.manifests and (self.kubeconfig or self.context):
            raise SettingsError("--manifests", "cannot be used together with --kubeconfig or --context")
        for path in self.manifests:
            if not Path(path).exists():
                raise SettingsError("--manifests", f"{path!r} does not exist")
        if not self.zones:
            raise SettingsError("--zone", "at least one zone is needed")
        for flag, zones, others in (
            ("--zone", self.zones, ()),
            ("--multicluster-zone", self.multicluster_zones, self.zones),
        ):
            if len(set(zones)) != len(zones) or not set(zones).isdisjoint(others):
                raise SettingsError(flag, "a zone is named twice")
        if len(self.served_zones()) > _MAX_ZONES:
            raise SettingsError("--zone", f"no more than {_MAX_ZONES} zones can be served")
        if self.zones[0].endswith(REVERSE):
            raise SettingsError("--zone", f"{self.zones[0]!r} is a reverse zone: that is what --reverse-zone is for")
        if self.namespaces and self.namespace_labels:
            raise SettingsError("--namespace-labels", "cannot be used together with --namespace")
        for flag, text in (("--namespace-labels", self.namespace_labels), ("--labels", self.labels)):
            try:
                selectors.parse(text)
            except selectors.BadSelector as error:
                raise SettingsError(flag, f"{text!r}: {error}") from None
        if not 1 <= self.workers <= MAX_WORKERS:
            raise SettingsError("--workers", f"{self.workers} is not between 1 and {MAX_WORKERS}")
        if self.listen.path is None and not 0 < self.listen.port <= 65535 - self.workers + 1:
            raise SettingsError("--listen", f"{self.listen}: {self.workers} consecutive ports are needed from there")
        for flag, name in (
            ("--tls-cert", self.tls_cert),
            ("--tls-key", self.tls_key),
            ("--tls-client-ca", self.tls_client_ca),
        ):
            if name is not None and not Path(name).is_file():
                raise SettingsError(flag, f"{name!r} is not a file")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError(
                "--tls-key" if self.tls_key is None else "--tls-cert", "a certificate and its key go together"
            )
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise SettingsError("--tls-client-ca", "--tls-cert and --tls-key are needed too")
        for flag, ttl in (("--ttl", self.ttl), ("--negative-ttl", self.negative_ttl)):
            if not 0 <= ttl <= _MAX_TTL:
                raise SettingsError(flag, f"{ttl} is not a TTL (0 to {_MAX_TTL} seconds)")
        for namespace in self.namespaces:
            if len(namespace) > MAX_LABEL or not _NAMESPACE.fullmatch(namespace):
                raise SettingsError("--namespace", f"{namespace!r} is not the name of a namespace")
        upstreams = [("--upstream", upstream) for upstream in self.upstreams]
        for flag, address in (("--admin", self.admin), ("--dns", self.dns), *upstreams):
            if address is not None and address.path is not None:
                raise SettingsError(flag, f"{address}: HOST:PORT is needed")

    def served_zones(self) -> tuple[str, ...]:
        """Every zone: a node, and a count, names its zone by its place here."""
        return self.zones + self.multicluster_zones + self.reverse_zones

    def forward_zones(self) -> tuple[str, ...]:
        """The zones of names, not of addresses."""
        return self.zones + self.multicluster_zones

    def listen_addresses(self) -> tuple[Address, ...]:
        """One address per answer process, in their order."""
        return tuple(self.listen.of_worker(index, self.workers) for index in range(self.workers))

    def records_fingerprint(self) -> str:
        """16 hex digits; another value means that stored records cannot be served."""
        shape = [(name, getattr(self, name)) for name in _SHAPES_RECORDS]
        return hashlib.sha256(repr(shape).encode()).hexdigest()[:16]


assert {item.name for item in fields(Settings)}.issuperset(_SHAPES_RECORDS)
