"""The command line: flags in, one function called. No logic lives here.

Every flag has a HEADWATER_… variable. Exit codes: 0, 1 for a failure at run
time, 2 for bad usage.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from headwater import __version__
from headwater.settings.address import Address
from headwater.settings.error import SettingsError
from headwater.settings.parse import parse_duration, parse_reverse_zone, parse_zone
from headwater.settings.settings import Settings

_F = TypeVar("_F", bound=Callable[..., Any])


def _option(*names: str, **attributes: Any) -> Callable[[_F], _F]:
    """A flag with its HEADWATER_… variable."""
    variable = "HEADWATER_" + names[0].removeprefix("--").upper().replace("-", "_")
    return click.option(*names, envvar=variable, show_envvar=False, **attributes)


def _source_options(function: _F) -> _F:
    for decorate in reversed(
        (
            _option("--kubeconfig", metavar="FILE", help="Watch the cluster of this kubeconfig (default: in-cluster)."),
            _option("--context", metavar="NAME", help="The kubeconfig's context (default: its current one)."),
            _option(
                "--manifests",
                metavar="PATH",
                multiple=True,
                help="Serve manifests or `kubectl get -o yaml|json` dumps: a file or a folder; repeatable.",
            ),
        )
    ):
        function = decorate(function)
    return function


def _listen_options(function: _F) -> _F:
    for decorate in reversed(
        (
            _option("--zone", "zones", metavar="ZONE", multiple=True, default=("cluster.local",), show_default=True,
                    help="A zone to serve; repeatable."),
            _option("--reverse-zone", "reverse_zones", metavar="ZONE", multiple=True,
                    help="PTR for the addresses in in-addr.arpa, ip6.arpa, a zone in them, or a CIDR; repeatable."),
            _option("--multicluster-zone", "multicluster_zones", metavar="ZONE", multiple=True,
                    help="A zone of ServiceImports, such as clusterset.local; repeatable."),
            _option("--listen", metavar="ADDRESS", default="unix:/run/headwater/dns.sock", show_default=True,
                    help="gRPC for CoreDNS: unix:/path or HOST:PORT; with several workers dns-0.sock, dns-1.sock or "
                    "consecutive ports."),
            _option("--workers", type=int, default=2, show_default=True, help="Answer processes."),
        )
    ):  # fmt: skip
        function = decorate(function)
    return function


def _serve_options(function: _F) -> _F:
    for decorate in reversed(
        (
            _option("--transport", type=click.Choice(["native", "grpcio"]), default="native", show_default=True,
                    help="The gRPC implementation: the own one, or grpcio's server."),
            _option("--tls-cert", metavar="FILE", help="Serve gRPC over TLS: the certificate, with its chain, in PEM."),
            _option("--tls-key", metavar="FILE", help="Its key."),
            _option("--tls-client-ca", metavar="FILE", help="Let in only clients with a certificate of this CA."),
            _option("--state-dir", metavar="DIR", default="/var/lib/headwater", show_default=True,
                    help="Where the records are kept between restarts."),
            _option("--admin", metavar="ADDRESS", default="127.0.0.1:9353", show_default=True,
                    help="/metrics, /healthz and /readyz; 'off' for none."),
            _option("--dns", metavar="ADDRESS", help="Also plain DNS over UDP and TCP, for development."),
            _option("--ttl", type=int, default=5, show_default=True, help="TTL of answers, in seconds."),
            _option("--negative-ttl", type=int, default=5, show_default=True,
                    help="TTL of NXDOMAIN and NODATA, in seconds."),
            _option("--pods", type=click.Choice(["disabled", "insecure", "verified"]), default="disabled",
                    show_default=True, help="Names like 10-44-0-7.NAMESPACE.pod.ZONE: none, taken from the name, or "
                    "only for pods that exist."),
            _option("--endpoint-pod-names", is_flag=True,
                    help="Name endpoints without a hostname by their pod, not their address."),
            _option("--zonal", is_flag=True,
                    help="Names for the endpoints of one topology zone, TOPOZONE.pin._zone.SERVICE… and "
                    "TOPOZONE.prefer._zone.SERVICE…, of headless Services."),
            _option("--ignore-empty-service", is_flag=True,
                    help="NXDOMAIN for a Service with a cluster IP but without ready endpoints."),
            _option("--namespace", "namespaces", metavar="NAME", multiple=True,
                    help="Serve only this namespace; repeatable."),
            _option("--list", "list_mode", type=click.Choice(["pages", "stream"]), default="pages", show_default=True,
                    help="How a list is taken: in pages, or as the beginning of a watch (WatchList)."),
            _option("--max-staleness", metavar="DURATION", default="0", show_default=True,
                    help="SERVFAIL when the API server was not heard for that long, as in 5m; 0: answer on."),
            _option("--audit-interval", metavar="DURATION", default="1h", show_default=True,
                    help="How often the store is compared with the API server, and mended; 0: never."),
            _option("--second-opinion", type=click.Choice(["on", "off"]), default="on", show_default=True,
                    help="Ask for a second list before one that takes more than a third away is believed."),
            _option("--namespace-labels", metavar="SELECTOR", default="",
                    help="Serve only namespaces, and ServiceImports, with these labels, as in 'team=db,tier!=test'."),
            _option("--labels", metavar="SELECTOR", default="",
                    help="Serve only Services, EndpointSlices and Pods with these labels."),
            _option("--upstream", "upstreams", metavar="HOST:PORT", multiple=True,
                    help="Where the targets of ExternalName Services outside the zones are asked; repeatable "
                    "(default: the system's resolvers)."),
            _option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info",
                    show_default=True, help="The least important lines to log."),
            _option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True,
                    help="How to log."),
        )
    ):  # fmt: skip
        function = decorate(function)
    return function


def settings_of(**flags: Any) -> Settings:
    """Flags as click has parsed them to Settings. Raises SettingsError."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list | tuple) else value for name, value in flags.items()
    }
    values["zones"] = tuple(parse_zone(zone, "--zone") for zone in values["zones"])
    values["reverse_zones"] = tuple(
        dict.fromkeys(
            zone for text in values.get("reverse_zones", ()) for zone in parse_reverse_zone(text, "--reverse-zone")
        )
    )
    values["multicluster_zones"] = tuple(
        parse_zone(zone, "--multicluster-zone") for zone in values.get("multicluster_zones", ())
    )
    values["upstreams"] = tuple(Address.parse(text, "--upstream") for text in values.get("upstreams", ()))
    for name, flag in (("max_staleness", "--max-staleness"), ("audit_interval", "--audit-interval")):
        if name in values:
            values[name] = parse_duration(values[name], flag)
    values["listen"] = Address.parse(values["listen"], "--listen")
    admin, dns = values.get("admin", "off"), values.get("dns")
    values["admin"] = None if admin == "off" else Address.parse(admin, "--admin")
    values["dns"] = None if dns is None else Address.parse(dns, "--dns")
    return Settings(**values)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="headwater")
def cli() -> None:
    """A DNS backend for CoreDNS: every answer of a cluster, ready in wire format.

    CoreDNS forwards the cluster's zones over its grpc plugin; headwater watches
    Kubernetes and replies. Start with `headwater demo`; ask with `headwater
    query NAME`; `headwater corefile` prints what CoreDNS needs.
    """


@cli.command()
@_source_options
@_listen_options
@_serve_options
def serve(**flags: Any) -> int:
    """Watch a cluster, or files, and answer CoreDNS.

    Every flag has an environment variable: --state-dir is HEADWATER_STATE_DIR.
    """
    from headwater.supervise import forks

    settings = settings_of(**flags)
    forks.begin()
    from headwater.commands.serve import serve as run

    return run(settings)


@cli.command()
@click.argument("name")
@click.argument("qtype", metavar="[TYPE]", default="A")
@_option("--server", metavar="ADDRESS", default="unix:/run/headwater/dns-0.sock", show_default=True,
         help="An answer process's gRPC address.")  # fmt: skip
@click.option("--timeout", type=float, default=5.0, show_default=True, help="Seconds to wait for the reply.")
@click.option("--short", is_flag=True, help="Only the answers' data, one per line.")
def query(name: str, qtype: str, server: str, timeout: float, short: bool) -> int:
    """Ask a running headwater over gRPC, print as dig does."""
    from headwater.commands.query import query as ask

    return ask(name, qtype, Address.parse(server, "--server"), timeout, short=short)


@cli.command()
@_source_options
@_listen_options
@_serve_options
@click.option("--mode", type=click.Choice(["zone", "split"]), default="zone", show_default=True,
              help="All of the zone from here, or ClusterIP Services from CoreDNS's kubernetes plugin.")  # fmt: skip
@click.option("--port", type=click.IntRange(1, 65535), default=53, show_default=True, help="CoreDNS's own port.")
@click.option("--coredns-ca", metavar="FILE",
              help="With --tls-cert: the CA that CoreDNS checks it with (default: its system's).")  # fmt: skip
@click.option("--coredns-cert", metavar="FILE", help="With --tls-client-ca: CoreDNS's own certificate.")
@click.option("--coredns-key", metavar="FILE", help="Its key.")
@click.option("--server-name", metavar="NAME",
              help="The name in --tls-cert (default: the address, localhost for a unix socket).")  # fmt: skip
def corefile(
    mode: Any,
    port: int,
    coredns_ca: str | None,
    coredns_cert: str | None,
    coredns_key: str | None,
    server_name: str | None,
    **flags: Any,
) -> int:
    """Print the Corefile stanza that goes with these flags."""
    from headwater.commands.corefile import ClientTls, stanza

    tls = ClientTls(coredns_ca, coredns_cert, coredns_key, server_name)
    click.echo(stanza(settings_of(**flags), mode=mode, port=port, tls=tls), nl=False)
    return 0


@cli.command()
@_source_options
@_listen_options
@_serve_options
def check(**flags: Any) -> int:
    """Try what `serve` with these flags needs, one line each."""
    from headwater.commands.check import check as run

    return run(settings_of(**flags))


@cli.command()
@click.option("--coredns", metavar="FILE", envvar="HEADWATER_COREDNS",
              help="The CoreDNS to put in front (default: the one on PATH or in the tools' cache).")  # fmt: skip
@click.option("--no-coredns", is_flag=True, help="Use the built-in listener instead of CoreDNS.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Where to answer DNS (default: a free port).")
@click.option("--once", is_flag=True, help="Show the first answers and stop.")
def demo(coredns: str | None, no_coredns: bool, port: int, once: bool) -> int:
    """Serve the bundled example and show the first answers.

    CoreDNS stands in front when there is one, the built-in listener otherwise.
    """
    from headwater.commands import demo as demonstration

    return demonstration.run(coredns, use_coredns=not no_coredns, port=port, once=once)


def main(arguments: list[str] | None = None) -> int:
    """The console script. Errors that a person can mend are one line on standard error."""
    try:
        return int(cli.main(arguments, prog_name="headwater", standalone_mode=False) or 0)
    except click.exceptions.Abort:
        return 130
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        click.echo(f"headwater: {error.format_message()}", err=True)
        return error.exit_code
    except SettingsError as error:
        click.echo(f"headwater: {error}", err=True)
        return 2
