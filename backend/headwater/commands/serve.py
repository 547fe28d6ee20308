"""`headwater serve`: run an instance until a signal; on a terminal, show its progress."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING

import click

from headwater import __version__
from headwater.commands.options import settings_command
from headwater.process import log
from headwater.settings.configuration import Configuration
from headwater.settings.settings import Settings

if TYPE_CHECKING:
    from headwater.supervise.supervisor import Supervisor

_log = logging.getLogger(__name__)


@settings_command("Watch a cluster, or files, and answer CoreDNS.")
def command(configuration: Configuration) -> int:
    return serve(configuration.settings)


def serve(settings: Settings) -> int:
    """Run the supervisor until a signal. Return the exit code."""
    import asyncio

    from headwater.supervise import forks, roles  # noqa: F401 (the forkserver shares these modules)
    from headwater.supervise.claims import StartFailed
    from headwater.supervise.supervisor import Supervisor

    forks.begin(forked=True)
    log.configure("supervisor", settings.log_level, settings.log_format)
    try:
        supervisor = Supervisor(settings)
    except StartFailed as error:
        click.echo(f"headwater: {error}", err=True)
        return 1
    where = ", ".join(map(str, settings.listen_addresses()))
    _log.info("headwater %s: %s on %s", __version__, " ".join(settings.zones), where)
    show = progress if sys.stderr.isatty() and settings.log_format == "text" else None
    return asyncio.run(supervisor.run(show))


async def progress(supervisor: Supervisor) -> None:
    """Show on a terminal what has been listed and compiled so far,
    until the answers are complete.
    """
    import asyncio

    from rich.console import Console

    from headwater.admin.status import status_of

    console = Console(stderr=True)
    with console.status("starting") as status:
        while True:
            await supervisor.refresh()
            found = status_of(supervisor.views(), time.monotonic())
            held = ", ".join(f"{count:,} {name}" for name, count in found.watch.objects.items() if count)
            if found.ready:
                break
            status.update(f"{found.watch.detail or 'starting'}{': ' + held if held else ''}")
            await asyncio.sleep(0.1)
    click.echo(f"Ready{': ' + held if held else ''}. Ask:", err=True)
    click.echo(f"  headwater query NAME --server {supervisor.settings.listen_addresses()[0]}", err=True)
