"""The one table of options.

Flags, variables, keys of a file and the documentation are made from it.

Options come in as text (a flag, a variable) or as TOML (a file). Both become a `Given`, which is
TOML's form. `setting` turns it into the value in Settings, and `given` turns that value back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from headwater.settings.address import Address
from headwater.settings.error import SettingsError
from headwater.settings.parse import (
    duration_text,
    parse_duration,
    parse_reverse_zone,
    parse_size,
    parse_zone,
    size_text,
)
from headwater.settings.places import ZoneAddress, ZoneCidr
from headwater.settings.settings import Settings

#: A value as a file spells it: a string, a number, true or false, or an array of strings.
Given = str | int | bool | tuple[str, ...]
Kind = Literal["text", "number", "switch"]

_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,18}")
_INT64: Final = range(-(2**63), 2**63)
_SWITCH: Final = {
    **dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True),
    **dict.fromkeys(("0", "false", "f", "no", "n", "off"), False),
}


@dataclass(frozen=True, slots=True)
class Topic:
    """Options that belong together: a group in the help, a table in a file."""

    name: str
    """Of the table in a file."""
    title: str


SOURCES: Final = Topic("sources", "Sources")
SERVED: Final = Topic("served", "What is served")
ANSWERS: Final = Topic("answers", "How it is answered")
TRANSPORT: Final = Topic("transport", "Transport")
STATE: Final = Topic("state", "State")
PEERS: Final = Topic("peers", "Peers")
OBSERVING: Final = Topic("observing", "Observing")
TOPICS: Final = (SOURCES, SERVED, ANSWERS, TRANSPORT, STATE, PEERS, OBSERVING)


@dataclass(frozen=True, slots=True)
class Option:
    """One option of an instance."""

    flag: str
    field: str
    """Its name in Settings, where its default is."""
    topic: Topic
    help: str
    metavar: str = ""
    kind: Kind = "text"
    choices: tuple[str, ...] = ()
    many: bool = False
    """Whether the flag is repeatable; only texts are."""
    unset: str = ""
    """The text for a default that is no value."""
    basic: bool = True
    """Whether the short help shows it."""
    parse: Callable[[Any, str], Any] | None = None
    """From a Given and the flag to the setting. Raises SettingsError."""
    show: Callable[[Any], Given | None] | None = None
    """From the setting to a Given; None for a setting that is not set."""

    @property
    def key(self) -> str:
        """Its key in a file."""
        return self.flag.removeprefix("--")

    @property
    def variable(self) -> str:
        return "HEADWATER_" + self.key.upper().replace("-", "_")

    @property
    def default(self) -> Given | None:
        return self.given(_DEFAULTS)

    def given(self, settings: Settings) -> Given | None:
        """The value in force as a file would have it; None when there is none."""
        value = getattr(settings, self.field)
        found: Given | None = self.show(value) if self.show else value
        return found

    def setting(self, given: Given) -> Any:
        """The value for Settings. Raises SettingsError."""
        if self.choices and given not in self.choices:
            raise SettingsError(self.flag, f"{given!r} is not one of {', '.join(self.choices)}")
        return self.parse(given, self.flag) if self.parse else given

    def of_text(self, text: str) -> Given:
        """Read a flag's or a variable's text. Raises SettingsError."""
        if self.kind == "number":
            if not _NUMBER.fullmatch(text.strip()):
                raise SettingsError(self.flag, f"{text!r} is not a whole number")
            return int(text)
        if self.kind == "switch":
            switched = _SWITCH.get(text.strip().lower())
            if switched is None:
                raise SettingsError(self.flag, f"{text!r} is neither true nor false")
            return switched
        # Spaces between the values of a variable; a flag has one value each time.
        return tuple(text.split()) if self.many else text

    def of_toml(self, value: object) -> Given:
        """Read a file's value, if its type is right. Raises SettingsError."""
        found: Given | None = None
        match value:
            case bool():
                found = value if self.kind == "switch" else None
            case int():
                found = value if self.kind == "number" and value in _INT64 else None
            case str():
                found = value if self.kind == "text" and not self.many else None
            case list() if self.many and all(isinstance(item, str) for item in value):
                found = tuple(value)
        if found is None:
            raise SettingsError(self.flag, f"{self._expected()} is expected, not {_named(value)}")
        if any("\0" in text for text in ([found] if isinstance(found, str) else found if self.many else ())):  # type: ignore[union-attr]
            raise SettingsError(self.flag, "a zero byte is in it")
        return found

    def _expected(self) -> str:
        if self.many:
            return 'an array of strings, as in ["a", "b"],'
        return {"text": 'a string, as in "a",', "number": "a whole number", "switch": "true or false"}[self.kind]


def _named(value: object) -> str:
    """A TOML value's type, in words."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() if value not in _INT64:
            return "a number of more than 64 bits"
        case int() | float():
            return f"the number {value}"
        case str():
            return "a string"
        case list():
            return "an array" if all(isinstance(item, str) for item in value) else "an array of something else"
        case dict():
            return "a table"
    return f"a {type(value).__name__}"


def _each(parse: Callable[[str, str], Any]) -> Callable[[Iterable[str], str], Any]:
    return lambda texts, flag: tuple(parse(text, flag) for text in texts)


def _reverse_zones(texts: Iterable[str], flag: str) -> tuple[str, ...]:
    """Each once: a CIDR stands for several, and two CIDRs may overlap."""
    return tuple(dict.fromkeys(zone for text in texts for zone in parse_reverse_zone(text, flag)))


def _address_or_off(text: str, flag: str) -> Address | None:
    return None if text == "off" else Address.parse(text, flag)


def _seeds(texts: Iterable[str], flag: str) -> tuple[Address, ...]:
    """The addresses, without those of a Service that was not there when the pod was made.

    The kubelet leaves `$(NAME)` in an argument as it stands where it knows no such variable.
    """
    return tuple(Address.parse(text, flag) for text in texts if not text.startswith("$("))


def _addresses(addresses: Iterable[object]) -> Given:
    return tuple(map(str, addresses))


def _address(address: Address | None) -> Given | None:
    return None if address is None else str(address)


_DEFAULTS: Final = Settings()

OPTIONS: Final = (
    Option("--kubeconfig", "kubeconfig", SOURCES, "Watch the cluster of this kubeconfig.", "FILE", unset="in-cluster"),
    Option("--context", "context", SOURCES, "The kubeconfig's context.", "NAME", unset="its current one"),
    Option("--manifests", "manifests", SOURCES, "Serve manifests, or what `kubectl get -o yaml` or `-o json` wrote: a "
           "file or a folder. Repeatable.", "PATH", many=True),
    Option("--list", "list_mode", SOURCES, "How a list is taken: in pages, or as the beginning of a watch (WatchList).",
           "pages|stream", choices=("pages", "stream"), basic=False),

    Option("--zone", "zones", SERVED, "A zone to serve. Repeatable.", "ZONE", many=True, parse=_each(parse_zone)),
    Option("--reverse-zone", "reverse_zones", SERVED, "PTR for the addresses in in-addr.arpa, ip6.arpa, a zone in "
           "them, or a CIDR. Repeatable.", "ZONE", many=True, parse=_reverse_zones),
    Option("--multicluster-zone", "multicluster_zones", SERVED, "A zone of ServiceImports, such as clusterset.local. "
           "Repeatable.", "ZONE", many=True, parse=_each(parse_zone), basic=False),
    Option("--pods", "pods", SERVED, "Names like 10-44-0-7.NAMESPACE.pod.ZONE: disabled (none), insecure (taken from "
           "the name) or verified (only for pods that exist).", "MODE", choices=("disabled", "insecure", "verified")),
    Option("--namespace", "namespaces", SERVED, "Serve only this namespace. Repeatable.", "NAME", many=True),
    Option("--namespace-labels", "namespace_labels", SERVED, "Serve only namespaces, and ServiceImports, with these "
           "labels, as in 'team=db,tier!=test'.", "SELECTOR", basic=False),
    Option("--labels", "labels", SERVED, "Serve only Services, EndpointSlices and Pods with these labels.", "SELECTOR",
           basic=False),
    Option("--endpoint-pod-names", "endpoint_pod_names", SERVED, "Name endpoints without a hostname by their pod, not "
           "their address.", kind="switch", basic=False),
    Option("--zonal", "zonal", SERVED, "Names for the endpoints of one topology zone, TOPOZONE.pin._zone.SERVICE… and "
           "TOPOZONE.prefer._zone.SERVICE…, of headless Services.", kind="switch", basic=False),
    Option("--ignore-empty-service", "ignore_empty_service", SERVED, "NXDOMAIN for a Service with a cluster IP but "
           "without ready endpoints.", kind="switch", basic=False),

    Option("--ttl", "ttl", ANSWERS, "TTL of answers.", "SECONDS", "number"),
    Option("--negative-ttl", "negative_ttl", ANSWERS, "TTL of NXDOMAIN and NODATA.", "SECONDS", "number", basic=False),
    Option("--max-staleness", "max_staleness", ANSWERS, "SERVFAIL when the API server was not heard for that long, as "
           "in 5m; 0: answer on.", "DURATION", parse=parse_duration, show=duration_text, basic=False),
    Option("--client-option", "client_option", ANSWERS, "The EDNS option in which CoreDNS puts the client's address, "
           "as in 65518: answers by the client's place (docs/near.md); 0: none is looked at.", "CODE", "number",
           basic=False),
    Option("--zone-cidr", "zone_cidrs", ANSWERS, "Clients with these addresses are in that topology zone. Repeatable.",
           "ZONE=CIDR", many=True, parse=_each(ZoneCidr.parse), show=_addresses, basic=False),
    Option("--client-nodes", "client_nodes", ANSWERS, "Watch Nodes, whose podCIDRs and addresses say on which node and "
           "in which topology zone a client is.", kind="switch", basic=False),
    Option("--extended-errors", "extended_errors", ANSWERS, "Say in NXDOMAIN and NODATA why, to clients that sent EDNS "
           "(RFC 8914), as in 'prod/db: 3 endpoints, none ready'.", kind="switch", basic=False),
    Option("--policy", "policy", ANSWERS, "An own rule in Python for what Services answer: a function, or an entry "
           "point of headwater.policy.", "MODULE:FUNCTION", unset="none", basic=False),
    Option("--upstream", "upstreams", ANSWERS, "Where the targets of ExternalName Services outside the zones are "
           "asked. Repeatable.", "HOST:PORT", many=True, unset="the system's resolvers", parse=_each(Address.parse),
           show=_addresses, basic=False),

    Option("--listen", "listen", TRANSPORT, "gRPC for CoreDNS: unix:/path or HOST:PORT; with several workers "
           "dns-0.sock, dns-1.sock or consecutive ports.", "ADDRESS", parse=Address.parse, show=_address),
    Option("--listen-zone", "listen_zones", TRANSPORT, "As --listen, for clients of one topology zone: they get "
           "answers by their place (docs/near.md). Repeatable.", "ZONE=ADDRESS", many=True,
           parse=_each(ZoneAddress.parse), show=_addresses, basic=False),
    Option("--workers", "workers", TRANSPORT, "Answer processes.", "COUNT", "number"),
    Option("--transport", "transport", TRANSPORT, "The gRPC implementation: the own one, or grpcio's server.",
           "native|grpcio", choices=("native", "grpcio"), basic=False),
    Option("--tls-cert", "tls_cert", TRANSPORT, "Serve gRPC over TLS: the certificate, with its chain, in PEM.",
           "FILE", basic=False),
    Option("--tls-key", "tls_key", TRANSPORT, "Its key.", "FILE", basic=False),
    Option("--tls-client-ca", "tls_client_ca", TRANSPORT, "Let in only clients with a certificate of this CA.", "FILE",
           basic=False),
    Option("--dns", "dns", TRANSPORT, "Also plain DNS over UDP and TCP, for development; 'off' for none.", "ADDRESS",
           unset="off", parse=_address_or_off, show=_address),

    Option("--state-dir", "state_dir", STATE, "Where the records are kept between restarts.", "DIR"),
    Option("--audit-interval", "audit_interval", STATE, "How often the store is compared with the API server, and "
           "mended; 0: never.", "DURATION", parse=parse_duration, show=duration_text, basic=False),
    Option("--second-opinion", "second_opinion", STATE, "Ask for a second list before one that takes more than a third "
           "away is believed.", choices=("on", "off"), basic=False),
    Option("--history", "history", STATE, "How much of the store the history of answers may take, as in 64MiB; 0: "
           "none is kept.", "SIZE", parse=parse_size, show=size_text, basic=False),

    Option("--peer-listen", "peer_listen", PEERS, "Where other instances may take the store at their start: over HTTPS "
           "with --peer-cert; 'off' for none.", "HOST:PORT", unset="off", parse=_address_or_off, show=_address,
           basic=False),
    Option("--seed", "seeds", PEERS, "With nothing stored, take the store of the instance at this address before a "
           "list. Repeatable.", "HOST:PORT", many=True, parse=_seeds, show=_addresses, basic=False),
    Option("--peer-cert", "peer_cert", PEERS, "The certificate for both ends of such a connection, with its chain, in "
           "PEM.", "FILE", basic=False),
    Option("--peer-key", "peer_key", PEERS, "Its key.", "FILE", basic=False),
    Option("--peer-ca", "peer_ca", PEERS, "The CA of all instances: let in, and believe, only those with a certificate "
           "of it.", "FILE", basic=False),
    Option("--peer-token", "peer_token", PEERS, "A file with a token that lets in an instance without a certificate.",
           "FILE", basic=False),

    Option("--admin", "admin", OBSERVING, "The page, /metrics, /healthz, /readyz, /explain, /history, /events; "
           "'off' for none.", "ADDRESS",
           parse=_address_or_off, show=lambda address: _address(address) or "off"),
    Option("--admin-details", "admin_details", OBSERVING, "Who may see names and objects there: clients on loopback "
           "(so kubectl port-forward works), or all.", "WHO", choices=("loopback", "all"), basic=False),
    Option("--log-level", "log_level", OBSERVING, "The least important lines to log: debug, info, warning or error.",
           "LEVEL", choices=("debug", "info", "warning", "error"), basic=False),
    Option("--log-format", "log_format", OBSERVING, "How to log.", "text|json", choices=("text", "json"), basic=False),
)  # fmt: skip

BY_FLAG: Final = {option.flag: option for option in OPTIONS}
BY_KEY: Final = {option.key: option for option in OPTIONS}
