"""The gRPC service on grpcio's public API: the reference transport.

Handlers take and give raw bytes: the one field of `DnsPacket` is read and
written here, and only a packet in an unusual encoding is left to protobuf.

grpcio cannot take a socket that somebody else has bound, so an answer process
binds its own address.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

# The event engine's listener costs more per connection; set before the import reads it.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")

import grpc
from google.protobuf.message import DecodeError

from headwater.answer.alias import Pending
from headwater.serve.pb.dns_pb2 import DnsPacket
from headwater.serve.queries import Queries
from headwater.serve.threads import Threads
from headwater.settings import Address

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

QUERY: Final = "/coredns.dns.DnsService/Query"
HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"
SERVICE: Final = "coredns.dns.DnsService"

#: A message and its protobuf head; CoreDNS sends at most 65,535 bytes of DNS.
_MAX_PACKET: Final = 65535 + 16
#: Queries are answered in microseconds: more threads would only wait for the interpreter.
_THREADS: Final = 2
_SERVING: Final = b"\x08\x01"
_NOT_SERVING: Final = b"\x08\x02"


def unpack(packet: bytes) -> bytes:
    """The DNS message in a serialized DnsPacket. Raises DecodeError."""
    size = len(packet)
    # Field 1, length-delimited; a length of one, two or three bytes (varint).
    if size >= 2 and packet[0] == 0x0A:
        length, at = packet[1], 2
        if length & 0x80 and size >= 3:
            length, at = length & 0x7F | packet[2] << 7, 3
            if packet[2] & 0x80:
                length, at = (length & 0x3FFF | packet[3] << 14, 4) if size >= 4 else (-1, 0)
        if length < 0x200000 and at + length == size:
            return packet[at:]
    return DnsPacket.FromString(packet).msg


def pack(message: bytes) -> bytes:
    """A DNS message as a serialized DnsPacket."""
    length = len(message)
    if length < 0x80:
        return b"\x0a" + bytes((length,)) + message
    if length < 0x4000:
        return b"\x0a" + bytes((length & 0x7F | 0x80, length >> 7)) + message
    return b"\x0a" + bytes((length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14)) + message


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc, unused-ignore]
    """The two methods; every other one is UNIMPLEMENTED by grpcio itself."""

    def __init__(self, queries: Queries, threads: Threads, loop: asyncio.AbstractEventLoop) -> None:
        self._queries = queries
        self._threads = threads
        self._loop = loop
        self._methods: dict[str, Any] = {
            QUERY: grpc.unary_unary_rpc_method_handler(self._query),
            HEALTH_CHECK: grpc.unary_unary_rpc_method_handler(self._check),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._methods.get(handler_call_details.method)

    def _query(self, packet: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            message = unpack(packet)
        except DecodeError:
            return _refuse(context, "the request is not a coredns.dns.DnsPacket")
        if len(message) > 65535:
            return _refuse(context, "a DNS message has at most 65,535 bytes")
        reply = self._queries.answer(message)
        if reply is None:
            return _refuse(context, "the DNS message is too short to have an id")
        if isinstance(reply, Pending):
            with self._threads.waiting():
                reply = asyncio.run_coroutine_threadsafe(self._queries.complete(message, reply), self._loop).result()
        return pack(reply)

    def _check(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        if request not in (b"", b"\x0a" + bytes((len(SERVICE),)) + SERVICE.encode()):
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return _SERVING if self._queries.is_ready() else _NOT_SERVING


def _refuse(context: grpc.ServicerContext, why: str) -> bytes:
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, why)
    raise AssertionError("abort raises")


def start(address: Address, queries: Queries, loop: asyncio.AbstractEventLoop) -> Callable[[float], None]:
    """Serve at an address; returns what stops it, given the seconds that calls may still take.

    `loop` is where other servers are asked. Raises OSError when the address cannot be bound.
    """
    threads = Threads(_THREADS, "grpc")
    server = grpc.server(
        cast("ThreadPoolExecutor", threads),  # all that it needs is an Executor
        handlers=[_Handlers(queries, threads, loop)],
        options=(
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", _MAX_PACKET),
            ("grpc.max_send_message_length", _MAX_PACKET),
            ("grpc.max_metadata_size", 16 * 1024),
        ),
    )
    try:
        bound = server.add_insecure_port(str(address))
    except RuntimeError as error:
        raise OSError(f"{address} cannot be bound: {error}") from None
    if not bound:
        raise OSError(f"{address} cannot be bound")
    server.start()
    if address.path is not None:
        # CoreDNS may run as another user; the directory says who may come near.
        os.chmod(address.path, 0o666)  # noqa: PTH101

    def stop(grace: float) -> None:
        server.stop(grace).wait(grace + 1.0)

    return stop
