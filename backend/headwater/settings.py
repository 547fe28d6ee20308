"""One frozen Settings: what `headwater serve` was told, validated before anything starts.

A bad value stops the start with one line that names the flag (`SettingsError`).
Everything below takes what it needs from here; nothing reads the environment
or a flag a second time.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from headwater import selectors

PodMode = Literal["disabled", "insecure", "verified"]
#: How a list is taken: in pages, or as the beginning of a watch (WatchList).
ListMode = Literal["pages", "stream"]
Transport = Literal["native", "grpcio"]

#: RFC 1035 section 2.3.4.
_MAX_LABEL = 63
_MAX_NAME = 255
#: RFC 2181 section 8: a TTL is an unsigned 31-bit number.
_MAX_TTL = 2**31 - 1
#: CoreDNS's `grpc` plugin takes at most this many addresses (plugin/grpc/setup.go).
MAX_WORKERS = 15
#: A node names its zone by one byte, and a count by one more.
_MAX_ZONES = 250
#: sockaddr_un's sun_path on Linux, less the closing zero.
_MAX_UNIX_PATH = 107

_DURATION = re.compile(r"(?:([0-9]{1,5})h)?(?:([0-9]{1,7})m)?(?:([0-9]{1,9}(?:\.[0-9]{1,3})?)s)?")
_REVERSE = ("in-addr.arpa", "ip6.arpa")
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?")
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


class SettingsError(ValueError):
    """A value that no start can be made with. `flag` is the one to change."""

    def __init__(self, flag: str, problem: str) -> None:
        super().__init__(f"{flag}: {problem}")
        self.flag = flag


@dataclass(frozen=True)
class Address:
    """Where to listen or connect: a unix socket path, or a host and a port."""

    path: str | None = None
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str, flag: str) -> Address:
        """`unix:/path`, `HOST:PORT` or `[IPV6]:PORT`."""
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            path = "/" + path.lstrip("/") if path.startswith("//") else path
            if not path.startswith("/") or not Path(path).name:
                raise SettingsError(flag, f"{text!r}: a unix socket needs an absolute path, as in unix:/run/dns.sock")
            if len(os.fsencode(path)) > _MAX_UNIX_PATH - len("-00"):
                raise SettingsError(flag, f"{text!r}: a unix socket path has at most {_MAX_UNIX_PATH - 3} bytes")
            return cls(path=path)
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit():
            raise SettingsError(flag, f"{text!r} is neither unix:/path nor HOST:PORT")
        # By its length first: int() itself refuses thousands of digits, without naming the flag.
        number = int(port) if len(port) <= 5 else -1
        if not 0 <= number <= 65535:
            raise SettingsError(flag, f"{text!r}: {port} is not a port")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise SettingsError(flag, f"{text!r}: an IPv6 address needs brackets, as in [::1]:{port}")
        if host:
            try:
                ipaddress.ip_address(host)
            except ValueError:
                if host != "localhost":
                    raise SettingsError(flag, f"{text!r}: {host!r} is not an IP address") from None
                host = "127.0.0.1"
        return cls(host=host or "0.0.0.0", port=number)

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def of_worker(self, index: int, workers: int) -> Address:
        """The address of one answer process: CoreDNS opens one connection per address.

        With one worker the address as it stands; else `dns-0.sock`, `dns-1.sock`
        or consecutive ports.
        """
        if workers == 1:
            return self
        if self.path is not None:
            path = Path(self.path)
            return Address(path=str(path.with_name(f"{path.stem}-{index}{path.suffix}")))
        return Address(host=self.host, port=self.port + index)


def parse_zone(text: str, flag: str) -> str:
    """A zone in the form used everywhere: lower case, no closing dot ("cluster.local").

    Raises SettingsError when no wire-format name can hold it (RFC 1035 2.3.4).
    """
    zone = text.rstrip(".").lower()
    if not zone:
        raise SettingsError(flag, f"{text!r}: the root is not a zone to be served")
    for label in zone.split("."):
        if len(label) > _MAX_LABEL or not _LABEL.fullmatch(label):
            raise SettingsError(flag, f"{text!r}: {label!r} is not a DNS label")
    # Room for the longest names below it: 63-byte service and namespace labels, "svc".
    if len(zone) + 2 > _MAX_NAME:
        raise SettingsError(flag, f"{text!r} is longer than a DNS name may be")
    return zone


def parse_reverse_zone(text: str, flag: str) -> tuple[str, ...]:
    """The reverse zones that a name or a CIDR stands for ("10.in-addr.arpa", "10.96.0.0/12").

    A prefix that ends inside a label is divided at the next one (RFC 1035 3.5:
    8 bits in IPv4, RFC 3596 2.5: 4 in IPv6), as CoreDNS does. Raises SettingsError.
    """
    if "/" not in text:
        zone = parse_zone(text, flag)
        if zone not in _REVERSE and not zone.endswith(tuple(f".{root}" for root in _REVERSE)):
            raise SettingsError(flag, f"{text!r} is neither a CIDR nor in in-addr.arpa or ip6.arpa")
        return (zone,)
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise SettingsError(flag, f"{text!r} is not a CIDR") from None
    bits = 8 if network.version == 4 else 4
    prefix = -(-network.prefixlen // bits) * bits
    labels = prefix // bits
    found = []
    for part in network.subnets(new_prefix=prefix):
        name = part.network_address.reverse_pointer
        found.append(name.split(".", network.max_prefixlen // bits - labels)[-1])
    return tuple(found)


def parse_duration(text: str, flag: str) -> float:
    """Seconds: "90s", "5m", "1h30m", or "0". Raises SettingsError."""
    if text == "0":
        return 0.0
    found = _DURATION.fullmatch(text)
    if found is None or not text:
        raise SettingsError(flag, f"{text!r} is not a duration such as 90s, 5m or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds


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
        if self.kubeconfig and not Path(self.kubeconfig).is_file():
            raise SettingsError("--kubeconfig", f"{self.kubeconfig!r} is not a file")
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
        if self.zones[0].endswith(_REVERSE):
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
            if len(namespace) > _MAX_LABEL or not _NAMESPACE.fullmatch(namespace):
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
