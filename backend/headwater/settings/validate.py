"""Checks of Settings, by topic. Each raises SettingsError, which names the flag."""

from __future__ import annotations

import ipaddress
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from headwater.settings import policies, selectors
from headwater.settings.error import SettingsError
from headwater.settings.parse import MAX_LABEL, REVERSE
from headwater.settings.places import LOCAL_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from headwater.settings.address import Address
    from headwater.settings.settings import Settings

#: RFC 2181 section 8: a TTL is an unsigned 31-bit number.
MAX_TTL: Final = 2**31 - 1
#: CoreDNS's `grpc` plugin takes at most this many addresses (plugin/grpc/setup.go).
MAX_WORKERS: Final = 15
#: A node names its zone by one byte, and a count by one more.
MAX_ZONES: Final = 250
#: Each topology zone has a socket in every answer process.
MAX_ZONE_SOCKETS: Final = 32

#: Less would hold little more than the pages that a commit copies. The writer counts 12 bytes for
#: each entry, and reads them all at its start: more would take minutes, and hundreds of MiB.
LEAST_HISTORY: Final = 1 << 20
MOST_HISTORY: Final = 1 << 30

_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def sources(settings: Settings) -> None:
    """The API server or files, not both; manifests must be there.

    A kubeconfig need not exist: an instance with a store waits for it (`cluster.source.check`).
    """
    for flag, other in (("--kubeconfig", settings.kubeconfig), ("--context", settings.context)):
        if settings.manifests and other:
            raise SettingsError("--manifests", f"cannot be used together with {flag}", flag)
    for path in settings.manifests:
        if not Path(path).exists():
            raise SettingsError("--manifests", f"{path!r} does not exist")


def zones(settings: Settings) -> None:
    """At least one zone, each of them once, forward zones before reverse ones."""
    if not settings.zones:
        raise SettingsError("--zone", "at least one zone is needed")
    _distinct("--zone", settings.zones)
    _distinct("--multicluster-zone", settings.multicluster_zones)
    if both := set(settings.zones).intersection(settings.multicluster_zones):
        raise SettingsError("--multicluster-zone", f"{min(both)!r} is a --zone too: a zone is named twice", "--zone")
    if len(settings.served_zones()) > MAX_ZONES:
        raise SettingsError("--zone", f"no more than {MAX_ZONES} zones can be served")
    if settings.zones[0].endswith(REVERSE):
        raise SettingsError("--zone", f"{settings.zones[0]!r} is a reverse zone: that is what --reverse-zone is for")


def selection(settings: Settings) -> None:
    """Which namespaces and objects: valid names, selectors that parse."""
    for namespace in settings.namespaces:
        if len(namespace) > MAX_LABEL or not _NAMESPACE.fullmatch(namespace):
            raise SettingsError("--namespace", f"{namespace!r} is not the name of a namespace")
    if settings.namespaces and settings.namespace_labels:
        raise SettingsError("--namespace-labels", "cannot be used together with --namespace", "--namespace")
    for flag, text in (("--namespace-labels", settings.namespace_labels), ("--labels", settings.labels)):
        try:
            selectors.parse(text)
        except selectors.BadSelector as error:
            raise SettingsError(flag, f"{text!r}: {error}") from None


def answers(settings: Settings) -> None:
    """TTLs and times."""
    for flag, ttl in (("--ttl", settings.ttl), ("--negative-ttl", settings.negative_ttl)):
        if not 0 <= ttl <= MAX_TTL:
            raise SettingsError(flag, f"{ttl} is not a TTL (0 to {MAX_TTL} seconds)")
    _seconds("--max-staleness", settings.max_staleness)
    for upstream in settings.upstreams:
        _host_and_port("--upstream", upstream)


def policy(settings: Settings) -> None:
    """A policy whose code is there. Only its own process imports it."""
    if settings.policy:
        policies.version(settings.policy)


def transport(settings: Settings) -> None:
    """A place for every answer process."""
    if not 1 <= settings.workers <= MAX_WORKERS:
        raise SettingsError("--workers", f"{settings.workers} is not between 1 and {MAX_WORKERS}")
    if settings.listen.path is None and not 0 < settings.listen.port <= 65535 - settings.workers + 1:
        problem = f"{settings.listen}: {settings.workers} consecutive ports are needed from there"
        raise SettingsError("--listen", problem, "--workers")
    _host_and_port("--dns", settings.dns)


def places(settings: Settings) -> None:
    """Sockets of zones that do not collide; how clients' places are known."""
    zones = settings.listen_zones
    if zones and settings.transport != "native":
        raise SettingsError("--listen-zone", "needs --transport native", "--transport")
    if len(zones) > MAX_ZONE_SOCKETS:
        raise SettingsError("--listen-zone", f"at most {MAX_ZONE_SOCKETS} zones can have sockets")
    named: set[str] = set()
    taken = {str(address): "--listen" for address in settings.listen_addresses()}
    for item in zones:
        if item.zone in named:
            raise SettingsError("--listen-zone", f"a zone is named twice: {item.zone!r}")
        named.add(item.zone)
        if item.address.path is None and not 0 < item.address.port <= 65535 - settings.workers + 1:
            problem = f"{item}: {settings.workers} consecutive ports are needed from there"
            raise SettingsError("--listen-zone", problem, "--workers")
        for index in range(settings.workers):
            address = str(item.address.of_worker(index, settings.workers))
            if address in taken:
                raise SettingsError("--listen-zone", f"{item}: {address} is also that of {taken[address]}")
            taken[address] = item.zone
    if settings.client_option and settings.client_option not in LOCAL_OPTIONS:
        problem = f"{settings.client_option} is not an EDNS option for local use (65001 to 65534)"
        raise SettingsError("--client-option", problem)
    seen: dict[str, str] = {}
    for cidr in settings.zone_cidrs:
        if seen.setdefault(cidr.cidr, cidr.zone) != cidr.zone:
            raise SettingsError("--zone-cidr", f"{cidr.cidr} cannot be both in {seen[cidr.cidr]} and in {cidr.zone}")
    if settings.client_nodes and not settings.client_option:
        raise SettingsError("--client-nodes", "says nothing without --client-option", "--client-option")
    if settings.client_nodes and settings.manifests:
        raise SettingsError("--client-nodes", "Nodes are watched in a cluster: not with --manifests", "--manifests")


def tls(settings: Settings) -> None:
    """A certificate with its key, and a CA only with both."""
    cert, key, client_ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    for flag, name in (("--tls-cert", cert), ("--tls-key", key), ("--tls-client-ca", client_ca)):
        if name is not None:
            _is_file(flag, name)
    if cert is not None and key is None:
        raise SettingsError("--tls-key", "a certificate and its key go together: --tls-cert is given", "--tls-cert")
    if key is not None and cert is None:
        raise SettingsError("--tls-cert", "a certificate and its key go together: --tls-key is given", "--tls-key")
    if client_ca is not None and cert is None:
        raise SettingsError("--tls-client-ca", "--tls-cert and --tls-key are needed too")


def state(settings: Settings) -> None:
    """A folder for the records, how often they are compared, and how much history is kept."""
    if not settings.state_dir:
        raise SettingsError("--state-dir", "a folder is needed")
    _seconds("--audit-interval", settings.audit_interval)
    if settings.history and not LEAST_HISTORY <= settings.history <= MOST_HISTORY:
        raise SettingsError("--history", "a history has from 1MiB to 1GiB; 0 is none")


def peers(settings: Settings) -> None:
    """Nobody gives a store, or takes one, without credentials; but on loopback."""
    listening, cert, key = settings.peer_listen, settings.peer_cert, settings.peer_key
    for flag, name in (
        ("--peer-cert", cert),
        ("--peer-key", key),
        ("--peer-ca", settings.peer_ca),
        ("--peer-token", settings.peer_token),
    ):
        if name is not None:
            _is_file(flag, name)
    if (cert is None) != (key is None):
        given, missing = ("--peer-cert", "--peer-key") if key is None else ("--peer-key", "--peer-cert")
        raise SettingsError(missing, f"a certificate and its key go together: {given} is given", given)
    for flag, addresses in (("--peer-listen", (listening,)), ("--seed", settings.seeds)):
        for address in addresses:
            _host_and_port(flag, address)
            if address is not None and settings.manifests:
                raise SettingsError(flag, "cannot be used together with --manifests", "--manifests")
            if address is not None and not address.port:
                raise SettingsError(flag, f"{address}: a port is needed")
    if listening is not None and cert is None and settings.peer_ca is not None:
        raise SettingsError(
            "--peer-listen", "--peer-ca is given: --peer-cert and --peer-key are needed too", "--peer-ca"
        )
    known = settings.peer_ca is not None or settings.peer_token is not None
    if listening is not None and not is_loopback(listening) and (cert is None or not known):
        raise SettingsError(
            "--peer-listen",
            f"{listening} is not on loopback: --peer-cert and --peer-key are needed, and --peer-ca or --peer-token",
        )
    for seed in settings.seeds:
        if not is_loopback(seed) and (settings.peer_ca is None or (cert is None and settings.peer_token is None)):
            raise SettingsError(
                "--seed", f"{seed} is not on loopback: --peer-ca is needed, and --peer-cert or --peer-token"
            )


def observing(settings: Settings) -> None:
    """Where the admin page is."""
    _host_and_port("--admin", settings.admin)


#: In the order in which a mistake is looked for.
TOPICS: Final = (sources, zones, selection, transport, places, tls, answers, policy, state, peers, observing)


def is_loopback(address: Address) -> bool:
    """Whether only this machine (or this pod) reaches it."""
    return address.path is None and ipaddress.ip_address(address.host).is_loopback


def _is_file(flag: str, name: str) -> None:
    if not Path(name).is_file():
        raise SettingsError(flag, f"{name!r} is not a file")


def _distinct(flag: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise SettingsError(flag, f"a zone is named twice: {name!r}")
        seen.add(name)


def _seconds(flag: str, seconds: float) -> None:
    if not 0 <= seconds < math.inf:
        raise SettingsError(flag, f"{seconds} is not a duration")


def _host_and_port(flag: str, address: Address | None) -> None:
    if address is not None and address.path is not None:
        raise SettingsError(flag, f"{address}: HOST:PORT is needed")
