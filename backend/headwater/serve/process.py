"""The answer role: one process, its listeners, its read-only view of the store."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import setproctitle

from headwater.answer.extended import Say
from headwater.answer.resolver import Resolver
from headwater.answer.unmade import Unmade
from headwater.process import control, log
from headwater.process.progress import Progress
from headwater.serve.assignment import Assignment
from headwater.serve.dns_listener import DnsListener
from headwater.serve.explaining import Explainer, Explaining, Historian
from headwater.serve.queries import Queries
from headwater.serve.server import Server
from headwater.serve.tls import Certificates
from headwater.serve.upstream import Upstream
from headwater.settings.address import Address
from headwater.settings.error import SettingsError
from headwater.store.environment import Reader

_log = logging.getLogger(__name__)

#: Seconds between looks for the published store: without one, and with one.
_FOLLOW: Final = (0.02, 0.25)
#: Seconds for calls under way after SIGTERM; the supervisor waits half a second longer.
_DRAIN: Final = 4.0


def run(
    assignment: Assignment,
    end: socket.socket,
    explain: Explainer,
    tell: Historian,
    say: Say | None = None,
    unmade: Unmade | None = None,
) -> None:
    """The process's main function; `end` is its end of the link to the supervisor.

    `explain` and `tell` may import what they need when they are first called. `say` tells the
    reasons of negative answers. `unmade` makes the records that a store has not yet.
    """
    settings = assignment.settings
    setproctitle.setproctitle(f"headwater: answer {assignment.index}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    log.configure(f"answer {assignment.index}", settings.log_level, settings.log_format)
    progress = Progress()
    if unmade is not None:
        unmade.on_made = partial(_step, progress)
    link = control.Link(end)
    reader = Reader(Path(settings.state_dir), assignment.identity)
    reader.follow()
    resolver = Resolver(reader, settings, say, unmade)
    queries = Queries(reader, resolver, Upstream(settings.upstreams), settings.max_staleness, settings.workers)
    explaining = Explaining(explain, tell, reader, resolver, settings, unmade)
    handlers: dict[type[control.Request], control.Handler] = {
        control.Snapshot: lambda _, reply: reply(queries.snapshot()),
        control.Explain: explaining.handle,
        control.Complete: explaining.handle,
        control.Advise: explaining.handle,
        control.History: explaining.handle,
    }
    link.attend(progress, handlers)
    try:
        asyncio.run(_serve(assignment, reader, queries, link, progress))
    except (OSError, SettingsError) as error:
        _log.error("%s", error)
        link.tell(control.Ending(str(error)))
        sys.exit(1)


def _step(progress: Progress) -> None:
    """Mark a step of the main loop, if it is the one that got on."""
    if threading.current_thread() is threading.main_thread():
        progress.step()


async def _serve(
    assignment: Assignment, reader: Reader, queries: Queries, link: control.Link, progress: Progress
) -> None:
    settings = assignment.settings
    reader.follow()  # before the first query
    if settings.client_nodes:
        queries.look_at_nodes()
    stopping = False
    turn = asyncio.Event()

    def stop_soon() -> None:
        nonlocal stopping
        stopping = True
        turn.set()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop_soon)
    files = Certificates.of(settings)
    if assignment.listening is None:
        stop = _start_grpcio(settings.listen_addresses()[assignment.index], queries, files)
    else:
        server = Server(queries, files)
        server.start(assignment.listening, assignment.zones)
        stop = server.stop
    listener = DnsListener(queries)
    if assignment.dns is not None:
        await listener.start(*assignment.dns)
    link.tell(control.Started())
    while not stopping:
        turn.clear()
        progress.step()
        reader.follow()
        queries.look_at_age()
        if settings.client_nodes:
            queries.look_at_nodes()
        # Not `asyncio.timeout`: its end is a cancellation, and two more turns of the event loop.
        timer = loop.call_later(_FOLLOW[queries.is_ready()], turn.set)
        await turn.wait()
        timer.cancel()
    await listener.stop()
    await stop(_DRAIN)


def _start_grpcio(address: Address, queries: Queries, files: Certificates | None) -> Callable[[float], Awaitable[None]]:
    # 10 MiB that the native transport does not need.
    from headwater.serve import grpcio_server

    loop = asyncio.get_running_loop()
    stop = grpcio_server.start(address, queries, loop, files)
    return lambda grace: loop.run_in_executor(None, stop, grace)
