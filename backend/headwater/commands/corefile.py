"""`headwater corefile`: print the server block that makes CoreDNS ask this Headwater.

It is a separate block, for two reasons. CoreDNS runs `forward` before `grpc`, whatever their order
in the file, so a "." block that forwards would ask the Internet for the cluster's zones. And a
block can have only one `grpc`. CoreDNS answers from the block with the longest matching zone. The
block can therefore be pasted beside any "." block, which keeps the plugins of the whole process
(loop, reload, health, ready).

Reverse zones that hold other addresses too (`--reverse-forward`) have a pair of blocks. `grpc` may
fall through, but only to plugins that run after it, and `forward` is none. `forward` may go on to
the next `forward` after an NXDOMAIN. So CoreDNS forwards such a question to a block of its own that
listens on loopback only and asks Headwater, and then to the other servers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Final, Literal

import click

from headwater.commands.help import flag
from headwater.commands.options import settings_command
from headwater.settings import selectors
from headwater.settings.address import Address
from headwater.settings.configuration import Configuration
from headwater.settings.error import SettingsError
from headwater.settings.settings import Settings

Mode = Literal["zone", "split"]

_INDENT: Final = " " * 4
#: A path that the Corefile's reader, grpc-go's URL parser and the file system all take literally.
_PLAIN_PATH: Final = re.compile(r"/[A-Za-z0-9._/@:+,=-]*")
#: Characters for which a word needs quotes, and characters that quotes cannot protect: {$NAME} and
#: {%NAME%} are replaced before the reader looks at quotes (caddyfile/parse.go, lexer.go).
_NEEDS_QUOTES: Final = re.compile(r"[\s#]|^$")
_NOT_A_WORD: Final = re.compile(r'[{}"\\\n]')
#: The `ttl` of CoreDNS's kubernetes plugin: its default and its limit (plugin/kubernetes/setup.go).
_KUBERNETES_TTL: Final = 5
_KUBERNETES_MAX_TTL: Final = 3600
#: Where the block behind `--reverse-forward` listens, on 127.0.0.1.
_INNER_PORT: Final = 5399


@dataclass(frozen=True, slots=True)
class ClientTls:
    """CoreDNS's side of TLS: paths as CoreDNS sees them, and the name that
    it expects in our certificate.
    """

    ca: str | None = None
    """The CA of our certificate; None for a CA that CoreDNS's system trusts."""
    cert: str | None = None
    key: str | None = None
    server_name: str | None = None
    """None for the address that CoreDNS dials, or "localhost" for a unix socket."""


_flag = partial(flag, group="CoreDNS")


@settings_command("Print the Corefile block that makes CoreDNS ask here.")
@_flag(
    "--mode",
    metavar="zone|split",
    type=click.Choice(["zone", "split"]),
    default="zone",
    help="All of the zone from here, or ClusterIP Services from CoreDNS's kubernetes plugin. [zone]",
)
@_flag(
    "--by-zone", is_flag=True, help="Blocks with `view` for each --listen-zone, by --zone-cidr or the Nodes' podCIDRs."
)
@_flag("--port", metavar="PORT", type=click.IntRange(1, 65535), default=53, help="CoreDNS's own port. [53]")
@_flag(
    "--reverse-forward",
    metavar="TO",
    help="Where CoreDNS forwards reverse names that Headwater does not have, "
    "such as /etc/resolv.conf. [nowhere: they are NXDOMAIN]",
)
@_flag("--coredns-ca", metavar="FILE", help="With --tls-cert: the CA that CoreDNS checks it with. [its system's]")
@_flag("--coredns-cert", metavar="FILE", help="With --tls-client-ca: CoreDNS's own certificate.")
@_flag("--coredns-key", metavar="FILE", help="Its key.")
@_flag("--server-name", metavar="NAME", help="The name in --tls-cert. [the address; localhost for a unix socket]")
def command(
    configuration: Configuration,
    mode: Mode,
    by_zone: bool,
    port: int,
    reverse_forward: str | None,
    coredns_ca: str | None,
    coredns_cert: str | None,
    coredns_key: str | None,
    server_name: str | None,
) -> int:
    tls = ClientTls(coredns_ca, coredns_cert, coredns_key, server_name)
    settings = configuration.settings
    if by_zone:
        if reverse_forward is not None:
            raise SettingsError("--by-zone", "cannot be used together with --reverse-forward", "--reverse-forward")
        text = stanzas_by_zone(settings, cidrs_of(settings), mode=mode, port=port, tls=tls)
    else:
        text = stanza(settings, mode=mode, port=port, tls=tls, reverse_forward=reverse_forward)
    click.echo(text, nl=False)
    return 0


def stanza(
    settings: Settings,
    *,
    mode: Mode = "zone",
    port: int = 53,
    tls: ClientTls | None = None,
    reverse_forward: str | None = None,
) -> str:
    """Return the Corefile's text for these flags, with a final newline.

    With the `mode` "zone", Headwater answers for each whole zone. With "split", CoreDNS's own
    `kubernetes` plugin, which reads no endpoints, answers for ClusterIP and ExternalName Services,
    and Headwater answers for all other names. `port` is CoreDNS's own. With `reverse_forward`, what
    CoreDNS's `forward` takes as TO, the reverse zones have blocks of their own. Raises
    SettingsError for flags that no Corefile can express.
    """
    grpc = [*_told_who_asks(settings), *_grpc(settings, tls or ClientTls(), settings.listen_addresses())]
    reverse = tuple(zone for zone in dict.fromkeys(settings.reverse_zones) if zone not in settings.forward_zones())
    apart = reverse_forward is not None and bool(reverse)
    zones = dict.fromkeys((*settings.forward_zones(), *(() if apart else reverse)))
    lines = [
        '# Paste beside the "." block, and give `prometheus` here too if it stands there:',
        "# each block counts its own queries. No `cache`: a cached answer outlives its pod.",
        *_block(zones, port, [*(_kubernetes(settings, zones) if mode == "split" else ()), *grpc]),
    ]
    if apart:
        assert reverse_forward is not None
        lines += [
            "",
            "# Reverse names. Those that Headwater does not have go on to the second `forward`.",
            *_block(reverse, port, _onwards(reverse_forward)),
            "",
            "# Headwater's part of them. In one block CoreDNS would run `forward` first, whichever stands first.",
            *_block(reverse, _INNER_PORT, grpc, bind="127.0.0.1"),
        ]
    return "\n".join([*lines, ""])


def _block(zones: Iterable[str], port: int, plugins: Iterable[str], bind: str | None = None) -> list[str]:
    """Return a server block's lines."""
    first = ["errors"] if bind is None else [f"bind {bind}", "errors"]
    return [
        " ".join(f"{zone}:{port}" for zone in zones) + " {",
        *(f"{_INDENT}{line}" for line in (*first, *plugins)),
        "}",
    ]


def _told_who_asks(settings: Settings) -> list[str]:
    """Return what puts the client's address into an EDNS option (docs/near.md).

    With `bufsize` clients name no larger size, so that a larger one is CoreDNS's own, of a client
    without EDNS.
    """
    if not settings.client_option:
        return []
    return ["bufsize 1232", f"rewrite edns0 local set {settings.client_option:#06x} {{client_ip}}"]


def _grpc(settings: Settings, tls: ClientTls, addresses: Iterable[Address]) -> list[str]:
    upstreams = " ".join(upstream(address) for address in addresses)
    return [
        f"grpc . {upstreams} {{",
        f"{_INDENT}policy round_robin",
        *(f"{_INDENT}{line}" for line in _tls(settings, tls)),
        "}",
    ]


def _onwards(servers: str) -> list[str]:
    """Return two `forward`: to the block on loopback, and after its NXDOMAIN to other servers.

    Only after an NXDOMAIN: while Headwater cannot answer, another server must not say that a
    cluster's address has no name. The first one lives in the same process, and needs no health
    checks.
    """
    words = [_word(word, "--reverse-forward") for word in servers.split()]
    if not words:
        raise SettingsError("--reverse-forward", "empty: name what CoreDNS's `forward` takes, such as /etc/resolv.conf")
    return [
        f"forward . 127.0.0.1:{_INNER_PORT} {{",
        f"{_INDENT}max_fails 0",
        f"{_INDENT}next NXDOMAIN",
        "}",
        f"forward . {' '.join(words)}",
    ]


def stanzas_by_zone(
    settings: Settings,
    cidrs: Mapping[str, Sequence[str]],
    *,
    mode: Mode = "zone",
    port: int = 53,
    tls: ClientTls | None = None,
) -> str:
    """Return a block with `view` for each topology zone that has a socket, and one for all others.

    `cidrs` are the clients' prefixes by topology zone. Raises SettingsError when a zone has none.
    """
    if not settings.listen_zones:
        raise SettingsError("--listen-zone", "--by-zone needs a socket for each topology zone")
    lines = [
        '# Paste beside the "." block. CoreDNS takes the first block whose `view` holds for a client,',
        "# so the last one is for everybody else. Each block may have a `cache` of its own.",
    ]
    zones = dict.fromkeys((*settings.forward_zones(), *settings.reverse_zones))
    kubernetes = _kubernetes(settings, zones) if mode == "split" else []
    for number, item in enumerate(settings.listen_zones):
        prefixes = cidrs.get(item.zone, ())
        if not prefixes:
            raise SettingsError("--zone-cidr", f"no address is known to be in {item.zone!r}", "--listen-zone")
        addresses = [settings.zone_addresses(index)[number].address for index in range(settings.workers)]
        holds = " || ".join(f"incidr(client_ip(), '{prefix}')" for prefix in prefixes)
        view = [f"view {item.zone} {{", f"{_INDENT}expr {holds}", "}"]
        lines += _block(zones, port, [*view, *kubernetes, *_grpc(settings, tls or ClientTls(), addresses)])
    everybody = _grpc(settings, tls or ClientTls(), settings.listen_addresses())
    lines += _block(zones, port, [*_told_who_asks(settings), *kubernetes, *everybody])
    return "\n".join([*lines, ""])


def cidrs_of(settings: Settings) -> dict[str, list[str]]:
    """Clients' prefixes by topology zone: those of --zone-cidr; without any, the Nodes' podCIDRs.

    Raises SettingsError when they cannot be read, or are none.
    """
    found: dict[str, list[str]] = {}
    for item in settings.zone_cidrs:
        found.setdefault(item.zone, []).append(item.cidr)
    if found or settings.manifests:
        return found
    # Only here: they cost half a second.
    from headwater.cluster.api import ApiServer
    from headwater.cluster.reflector import RequestFailed
    from headwater.commands.nodes import listed

    try:
        server = ApiServer(settings.kubeconfig, settings.context, {})
        server.reload()
        nodes = listed(server)
    except (RequestFailed, OSError) as error:
        raise SettingsError("--zone-cidr", f"none is given, and the Nodes cannot be read: {error}") from None
    for node in nodes:
        for cidr in node.cidrs:
            try:
                prefix = str(ip_network(cidr))
            except ValueError:
                continue  # a Node may say anything
            if node.zone:
                found.setdefault(node.zone, []).append(prefix)
    return {zone: sorted(prefixes) for zone, prefixes in found.items()}


def upstream(address: Address) -> str:
    """Return a listening address as CoreDNS's `grpc` dials it.

    A wildcard is not an address to connect to. Loopback takes its place, because CoreDNS usually
    runs on the same host or in the same pod.
    """
    if address.path is not None:
        if not _PLAIN_PATH.fullmatch(address.path):
            raise SettingsError(
                "--listen", f"{str(address)!r}: for CoreDNS the path may have letters, digits and ._/@:+,=- only"
            )
        return f"unix://{address.path}"
    host = ip_address(address.host)
    if host.is_unspecified:
        return str(Address(host="127.0.0.1" if host.version == 4 else "::1", port=address.port))
    return str(address)


def _tls(settings: Settings, tls: ClientTls) -> list[str]:
    """`tls [CERT KEY] [CA]`, as CoreDNS's `grpc` reads it (plugin/pkg/tls/tls.go)."""
    if settings.tls_cert is None:
        if tls != ClientTls():
            raise SettingsError("--tls-cert", "without it and --tls-key CoreDNS cannot connect over TLS")
        return []
    if (tls.cert is None) != (tls.key is None):
        missing, there = ("key", "cert") if tls.key is None else ("cert", "key")
        raise SettingsError(f"--coredns-{missing}", f"--coredns-{there} needs it")
    if settings.tls_client_ca is not None and tls.cert is None:
        raise SettingsError(
            "--coredns-cert", "--tls-client-ca needs a certificate of each client: name CoreDNS's, and its key"
        )
    files = (("--coredns-cert", tls.cert), ("--coredns-key", tls.key), ("--coredns-ca", tls.ca))
    lines = [" ".join(["tls", *(_word(file, flag) for flag, file in files if file is not None)])]
    if tls.server_name is not None:
        lines.append(f"tls_servername {_word(tls.server_name, '--server-name')}")
    return lines


def _kubernetes(settings: Settings, served: Iterable[str]) -> list[str]:
    """Return the block of CoreDNS's own plugin, with options that make it agree with Headwater.

    `served` are the zones of the server block.
    """
    if settings.manifests:
        raise SettingsError("--manifests", "CoreDNS cannot read them: split mode needs a cluster")
    if settings.ignore_empty_service:
        raise SettingsError(
            "--ignore-empty-service",
            "CoreDNS has no endpoints in split mode, so it cannot know which are empty: use mode zone",
        )
    # Without endpoints CoreDNS has no answer for a headless Service or a pod; with `fallthrough` it
    # asks Headwater for these.
    options = ["noendpoints", "fallthrough"]
    if settings.kubeconfig:
        context = [_word(settings.context, "--context")] if settings.context else []
        options.append(" ".join(["kubeconfig", _word(settings.kubeconfig, "--kubeconfig"), *context]))
    for word, selector in (("labels", settings.labels), ("namespace_labels", settings.namespace_labels)):
        if selector:
            options.append(f"{word} {_selector(selector, '--' + word.replace('_', '-'))}")
    if settings.namespaces:
        options.append(" ".join(["namespaces", *settings.namespaces]))
    if settings.ttl != _KUBERNETES_TTL:
        options.append(f"ttl {min(settings.ttl, _KUBERNETES_MAX_TTL)}")
    # By default the plugin takes every zone of its block, and would answer for a clusterset as if
    # it were one cluster.
    own = [zone for zone in served if zone not in settings.multicluster_zones]
    zones = " ".join(("", *own)) if settings.multicluster_zones else ""
    return [f"kubernetes{zones} {{", *(_INDENT + option for option in options), "}"]


def _selector(text: str, flag: str) -> str:
    """Return a label selector in canonical form.

    CoreDNS takes no comparisons: raises SettingsError.
    """
    canonical = str(selectors.parse(text))
    if "<" in canonical or ">" in canonical:
        raise SettingsError(flag, f"{text!r}: CoreDNS's kubernetes plugin has neither < nor >: use mode zone")
    return _word(canonical, flag)


def _word(text: str, flag: str) -> str:
    """Return one word of a Corefile, in quotes if it needs them."""
    if _NOT_A_WORD.search(text):
        raise SettingsError(flag, f"{text!r}: a Corefile cannot hold braces, quotes, backslashes or line ends")
    return f'"{text}"' if _NEEDS_QUOTES.search(text) else text
