"""`headwater compare`: ask another DNS server everything that Headwater knows.

The differences are put into classes.
"""

from __future__ import annotations

import logging
import tempfile
from contextlib import ExitStack
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import click

from headwater.commands.cli import FAILED, NEGATIVE
from headwater.commands.help import flag
from headwater.commands.options import settings_command
from headwater.settings.address import Address
from headwater.settings.configuration import Configuration
from headwater.settings.error import SettingsError
from headwater.settings.parse import parse_duration
from headwater.settings.settings import Settings

if TYPE_CHECKING:
    from headwater.compare.report import Report
    from headwater.compare.session import Plan

_flag = partial(flag, group="Comparing")
_DNS_PORT: Final = 53
_LONGEST_WATCH: Final = 31 * 86_400.0


@settings_command(
    "Ask another DNS server for every name, and compare.\n\nNames are read "
    "from the state directory of `headwater serve`, or from manifests. Give the flags that `serve` has. "
    "Exit codes: 0, no difference that nothing explains; 3, there are; 1, it could not be compared to the end; 2, bad "
    "usage."
)
@_flag("--with", "with_", metavar="ADDRESS", required=True, help="The other DNS server: IP, or IP:PORT.")
@_flag(
    "--ours",
    metavar="WHERE",
    help="Who answers for Headwater: instance (over gRPC, at --listen), store (read here, no instance has to run), "
    "or the address of a DNS server that asks Headwater. [instance; store with --manifests]",
)
@_flag(
    "--rate",
    metavar="COUNT",
    type=click.FloatRange(0.1, 100_000),
    default=200.0,
    help="Messages a second to the other server, at most. [200]",
)
@_flag(
    "--in-flight",
    metavar="COUNT",
    type=click.IntRange(1, 1_000),
    default=32,
    help="Questions under way at a time, at most. [32]",
)
@_flag(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(0.05, 60),
    default=2.0,
    help="How long to wait for a reply before asking again, twice. [2]",
)
@_flag("--tcp", is_flag=True, help="Ask over TCP; else UDP, and TCP after a truncated reply.")
@_flag(
    "--patience",
    metavar="DURATION",
    default="45s",
    help="How long a difference is asked about again before it counts: longer than a cache keeps answers. [45s]",
)
@_flag(
    "--neighbours",
    metavar="COUNT",
    type=click.IntRange(0, 8),
    default=2,
    help="Names asked beside each: such as differ from it in a label. [2]",
)
@_flag("--sample", metavar="COUNT", type=click.IntRange(1), help="Ask at most so many questions in a round. [all]")
@_flag("--watch", metavar="DURATION", help="Go on for that long, round after round, names that change first.")
@_flag("--metrics", metavar="ADDRESS", help="With --watch: counters for Prometheus at HOST:PORT.")
@_flag("--json", "as_json", is_flag=True, help="Print JSON (docs/moving.md has the schema).")
def command(
    configuration: Configuration,
    with_: str,
    ours: str | None,
    rate: float,
    in_flight: int,
    timeout: float,
    tcp: bool,
    patience: str,
    neighbours: int,
    sample: int | None,
    watch: str | None,
    metrics: str | None,
    as_json: bool,
) -> int:
    from headwater.compare.asking import Manners
    from headwater.compare.session import Plan

    seconds = parse_duration(watch, "--watch") if watch is not None else 0.0
    if watch is not None and not 0 < seconds <= _LONGEST_WATCH:
        raise SettingsError("--watch", f"{watch!r} is not between 1s and 744h")
    if metrics is not None and not seconds:
        raise SettingsError("--metrics", "is for a comparison that goes on", "--watch")
    plan = Plan(
        theirs=_dns_server(with_, "--with"),
        ours=_ours(ours, configuration.settings),
        manners=Manners(rate, in_flight, timeout, tcp),
        neighbours=neighbours,
        sample=sample or 0,
        patience=parse_duration(patience, "--patience"),
        watch=seconds,
    )
    place = _tcp_address(metrics, "--metrics") if metrics is not None else None
    return _compare(configuration.settings, plan, place, as_json=as_json)


def _dns_server(text: str, name: str) -> Address:
    """IP, IP:PORT or [IPV6]:PORT. Raises SettingsError."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return Address(host=str(ip_address("127.0.0.1" if bare == "localhost" else bare)), port=_DNS_PORT)
    except ValueError:
        pass
    if text.startswith(":") or ":" not in text:
        raise SettingsError(name, f"{text!r} is neither IP nor IP:PORT")
    return _tcp_address(text, name)


def _tcp_address(text: str, name: str) -> Address:
    address = Address.parse(text, name)
    if address.path is not None or not address.port:
        raise SettingsError(name, f"{text!r} is not HOST:PORT")
    return address


def _ours(text: str | None, settings: Settings) -> Literal["instance", "store"] | Address:
    if text is None:
        text = "store" if settings.manifests else "instance"
    if text == "instance":
        if settings.tls_cert is not None:
            raise SettingsError(
                "--ours", "an instance with --tls-cert is not asked over gRPC: give store", "--tls-cert"
            )
        return "instance"
    return "store" if text == "store" else _dns_server(text, "--ours")


def _compare(settings: Settings, plan: Plan, place: Address | None, *, as_json: bool) -> int:
    import asyncio

    import msgspec

    from headwater.cluster.files import BadManifest
    from headwater.compare.report import shown
    from headwater.compare.session import CannotCompare
    from headwater.explain.offline import Unusable

    try:
        report = asyncio.run(_run(settings, plan, place))
    except (CannotCompare, Unusable, BadManifest, OSError) as error:
        click.echo(f"headwater: {error}", err=True)
        return FAILED
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        click.echo(shown(report))
    if report.unexplained:
        return NEGATIVE
    return 0 if report.agrees else FAILED


async def _run(settings: Settings, plan: Plan, place: Address | None) -> Report:
    """Raises CannotCompare, Unusable, BadManifest, OSError."""
    from headwater.compare.metrics import Metrics
    from headwater.compare.session import Session
    from headwater.explain.offline import opened
    from headwater.writer import once

    with ExitStack() as stack:
        state_dir = Path(settings.state_dir)
        if settings.manifests:
            logging.getLogger("headwater").setLevel(logging.CRITICAL)  # what is wrong is raised, too
            state_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headwater-")))
            once.write(settings, state_dir)
        reader, resolver = stack.enter_context(opened(state_dir, settings))
        metrics = Metrics() if place is not None else None
        if metrics is not None and place is not None:
            try:
                metrics.serve(place)
            except OSError as error:
                raise OSError(f"--metrics: {place}: {error.strerror}") from None
            stack.callback(metrics.close)
        tell = partial(click.echo, err=True)
        return await Session(plan, settings, reader, resolver, tell, metrics).run()
