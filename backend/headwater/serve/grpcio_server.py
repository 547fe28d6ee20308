"""The gRPC service on grpcio's public API: the reference transport.

Handlers take and give raw bytes; `service` knows their contents.

grpcio cannot take a socket that somebody else has bound, so an answer process
binds its own address.

grpcio bounds nothing by itself. The limits here keep a process alive under a flood. Unlike those of
the native transport (`arrivals`), they do not keep places for established clients.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

# The event engine's listener costs more per connection; set before the import reads it.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")

import grpc

from headwater.answer.alias import Pending
from headwater.serve.queries import Failed, Queries
from headwater.serve.service import (
    HEALTH_CHECK,
    MAX_PACKET,
    QUERY,
    Refused,
    bug,
    health,
    message_of,
    no_id,
    pack,
    unpack,
)
from headwater.serve.threads import Threads
from headwater.serve.tls import Certificates
from headwater.settings.address import Address
from headwater.settings.error import SettingsError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

_log = logging.getLogger(__name__)

__all__ = ["QUERY", "pack", "start", "unpack"]

#: Queries are answered in microseconds: more threads would only wait for the interpreter.
_THREADS: Final = 2
#: Connections, with those that have sent nothing yet. Further ones are closed.
_MAX_CONNECTIONS: Final = 100
#: Calls of one connection; the client keeps further ones.
_MAX_STREAMS: Final = 512
#: Calls of all connections, queued ones included; a further one is RESOURCE_EXHAUSTED. With bodies
#: of the greatest length they take 64 MiB.
_MAX_CALLS: Final = 1024
#: Calls that wait for other servers, for each holds a thread. The reply to a further one has no
#: records of them.
_MAX_WAITING: Final = 256
#: Milliseconds for a TLS handshake and the client's SETTINGS, and without a call.
_HANDSHAKE: Final = 10_000
_IDLE: Final = 3_600_000
_STATUS: Final = {code.value[0]: code for code in grpc.StatusCode}


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc, unused-ignore]
    """The two methods; every other one is UNIMPLEMENTED by grpcio itself."""

    def __init__(self, queries: Queries, threads: Threads, loop: asyncio.AbstractEventLoop) -> None:
        self._queries = queries
        self._threads = threads
        self._loop = loop
        self._places = threading.BoundedSemaphore(_MAX_WAITING)
        self._methods: dict[str, Any] = {
            QUERY: grpc.unary_unary_rpc_method_handler(self._query),
            HEALTH_CHECK: grpc.unary_unary_rpc_method_handler(self._check),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._methods.get(handler_call_details.method)

    def _query(self, packet: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            message = message_of(packet)
            reply = self._queries.answer(message)
            if reply is None:
                raise no_id()
            return pack(self._completed(reply, context) if isinstance(reply, Pending) else reply)
        except Refused as refused:
            _refuse(context, refused)
        except Failed:
            _refuse(context, bug())

    def _completed(self, pending: Pending, context: grpc.ServicerContext) -> bytes:
        """The reply when the other server has answered, or without it. Raises Failed."""
        if not self._places.acquire(blocking=False):
            return self._queries.finished(pending)
        try:
            with self._threads.waiting():
                left = context.time_remaining()
                reply = self._queries.complete(pending, math.inf if left is None else left)
                return asyncio.run_coroutine_threadsafe(reply, self._loop).result()
        finally:
            self._places.release()

    def _check(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return health(request, ready=self._queries.is_ready())
        except Refused as refused:
            _refuse(context, refused)


class _Certificates:
    """The credentials of the files; read again when the files have changed and can be used."""

    def __init__(self, files: Certificates) -> None:
        self._files = files
        self._version = files.version()

    def credentials(self) -> grpc.ServerCredentials:
        required = self._files.client_ca is not None
        return grpc.dynamic_ssl_server_credentials(self._read(), self._changed, required)  # type: ignore[arg-type]

    def _read(self) -> grpc.ServerCertificateConfiguration:
        files = self._files
        pair = (Path(files.key).read_bytes(), Path(files.cert).read_bytes())
        clients = None if files.client_ca is None else Path(files.client_ca).read_bytes()
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=clients)

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Asked by grpcio for every handshake; None leaves things as they are."""
        try:
            version = self._files.version()
            if version == self._version:
                return None
            self._version = version
            self._files.load()  # whether they can be used at all
            return self._read()
        except (OSError, SettingsError) as error:
            _log.error("%s; the certificate before is used", error)
            return None


def _refuse(context: grpc.ServicerContext, refused: Refused) -> NoReturn:
    context.abort(_STATUS[refused.status], refused.why)
    raise AssertionError("abort raises")


def start(
    address: Address, queries: Queries, loop: asyncio.AbstractEventLoop, files: Certificates | None = None
) -> Callable[[float], None]:
    """Serve at an address.

    Returns a function that stops it, given the seconds that calls may still take.

    `loop` is where other servers are asked. Raises OSError when the address cannot be bound.
    """
    threads = Threads(_THREADS, "grpc")
    server = grpc.server(
        cast("ThreadPoolExecutor", threads),  # all that it needs is an Executor
        handlers=[_Handlers(queries, threads, loop)],
        options=(
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", MAX_PACKET),
            ("grpc.max_send_message_length", MAX_PACKET),
            ("grpc.max_metadata_size", 16 * 1024),
            ("grpc.max_allowed_incoming_connections", _MAX_CONNECTIONS),
            ("grpc.max_concurrent_streams", _MAX_STREAMS),
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE),
            ("grpc.max_connection_idle_ms", _IDLE),
        ),
        maximum_concurrent_rpcs=_MAX_CALLS,
    )
    try:
        if files is None:
            bound = server.add_insecure_port(str(address))
        else:
            bound = server.add_secure_port(str(address), _Certificates(files).credentials())
    except RuntimeError as error:
        raise OSError(f"{address} cannot be bound: {error}") from None
    if not bound:
        raise OSError(f"{address} cannot be bound")
    server.start()
    if address.path is not None:
        # CoreDNS may run as another user; the directory's permissions decide who may connect.
        os.chmod(address.path, 0o666)  # noqa: PTH101

    def stop(grace: float) -> None:
        server.stop(grace).wait(grace + 1.0)

    return stop
