"""The answer role: one process, its listeners, its read-only view of the store."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import setproctitle

from headwater.answer.resolver import Resolver
from headwater.process import control, counters, log
from headwater.serve.dns_listener import DnsListener
from headwater.serve.queries import Queries
from headwater.serve.server import Server
from headwater.serve.tls import Certificates
from headwater.serve.upstream import Upstream
from headwater.settings.address import Address
from headwater.settings.error import SettingsError
from headwater.settings.settings import Settings
from headwater.store.environment import Reader
from headwater.store.identity import Identity

_log = logging.getLogger(__name__)

#: How often the published store is looked for, in seconds: without one, and with one.
_FOLLOW: Final = (0.02, 0.25)
#: How long calls under way may take after SIGTERM; the supervisor waits 5 s in all.
_DRAIN: Final = 4.0


def run(
    index: int,
    settings: Settings,
    identity: Identity,
    connection: Connection,
    listening: socket.socket | None,
    dns_sockets: tuple[socket.socket, socket.socket] | None,
) -> None:
    """The process's main function, on sockets that the supervisor has bound.

    `listening` is None for grpcio, which binds its own; `dns_sockets` are the
    development listener's, UDP and TCP.
    """
    setproctitle.setproctitle(f"headwater: answer {index}")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    log.configure(f"answer {index}", settings.log_level, settings.log_format)
    reader = Reader(Path(settings.state_dir), identity)
    reader.follow()
    resolver = Resolver(reader, settings)
    queries = Queries(reader, resolver, Upstream(settings.upstreams), settings.max_staleness)
    control.attend(connection, lambda: counters.encode(queries.snapshot()), lambda: None)
    try:
        asyncio.run(_serve(index, settings, reader, queries, connection, listening, dns_sockets))
    except (OSError, SettingsError) as error:
        _log.error("%s", error)
        sys.exit(1)


async def _serve(
    index: int,
    settings: Settings,
    reader: Reader,
    queries: Queries,
    connection: Connection,
    listening: socket.socket | None,
    dns_sockets: tuple[socket.socket, socket.socket] | None,
) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    files = Certificates.of(settings)
    if listening is None:
        stop = _start_grpcio(settings.listen_addresses()[index], queries, files)
    else:
        server = Server(queries, files)
        server.start(listening)
        stop = server.stop
    listener = DnsListener(queries)
    if dns_sockets is not None:
        await listener.start(*dns_sockets)
    connection.send_bytes(control.STARTED)
    while not stopping.is_set():
        reader.follow()
        queries.look_at_age()
        try:
            async with asyncio.timeout(_FOLLOW[queries.is_ready()]):
                await stopping.wait()
        except TimeoutError:
            pass
    await listener.stop()
    await stop(_DRAIN)


def _start_grpcio(address: Address, queries: Queries, files: Certificates | None) -> Callable[[float], Awaitable[None]]:
    # 10 MiB that the native transport has no use for.
    from headwater.serve import grpcio_server

    loop = asyncio.get_running_loop()
    stop = grpcio_server.start(address, queries, loop, files)
    return lambda grace: loop.run_in_executor(None, stop, grace)
