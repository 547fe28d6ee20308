"""The service, for any transport: its methods, their messages, and the refusals.

    coredns.dns.DnsService/Query  DnsPacket { bytes msg = 1; } both ways (protos/coredns/dns.proto)
    grpc.health.v1.Health/Check   { string service = 1; }, reply { enum status = 1; }

This module reads and writes the one field of a `DnsPacket`. protobuf reads only packets in an
unusual encoding, and is not imported before.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from headwater.wire.header import MAX_MESSAGE

SERVICE: Final = "coredns.dns.DnsService"
QUERY: Final = f"/{SERVICE}/Query"
#: There is no `Watch`. Clients of health take UNIMPLEMENTED for "no health checks", and go on.
HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"

#: A DnsPacket: CoreDNS sends no more than a DNS message and four bytes.
MAX_PACKET: Final = MAX_MESSAGE + 16

_SERVING: Final = b"\x08\x01"
_NOT_SERVING: Final = b"\x08\x02"
_ASKED_FOR: Final = (b"", b"\x0a" + bytes((len(SERVICE),)) + SERVICE.encode())


class Status(IntEnum):
    """The gRPC status codes in use."""

    OK = 0
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13


class Refused(Exception):  # noqa: N818 (what becomes of the call)
    """A call that ends with another status than OK; not for an outcome that DNS can express."""

    def __init__(self, status: Status, why: str) -> None:
        self.status = status
        self.why = why


class NotAPacket(ValueError):  # noqa: N818 (what it is)
    """Bytes that are no DnsPacket."""


def unpack(packet: bytes) -> bytes:
    """The DNS message in a serialized DnsPacket. Raises NotAPacket."""
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
    return _unpack_by_protobuf(packet)


def _unpack_by_protobuf(packet: bytes) -> bytes:
    from google.protobuf.message import DecodeError

    from headwater.serve.pb.dns_pb2 import DnsPacket

    try:
        return DnsPacket.FromString(packet).msg
    except DecodeError as error:
        raise NotAPacket(str(error)) from None


def pack(message: bytes) -> bytes:
    """A DNS message as a serialized DnsPacket."""
    return pack_head(len(message)) + message


def pack_head(length: int) -> bytes:
    """The bytes before a message of that length, at most 2 MiB."""
    if length < 0x80:
        return b"\x0a" + bytes((length,))
    if length < 0x4000:
        return b"\x0a" + bytes((length & 0x7F | 0x80, length >> 7))
    return b"\x0a" + bytes((length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14))


def message_of(packet: bytes) -> bytes:
    """The DNS message that a Query holds. Raises Refused."""
    try:
        message = unpack(packet)
    except NotAPacket:
        raise Refused(Status.INVALID_ARGUMENT, "the request is not a coredns.dns.DnsPacket") from None
    if len(message) > MAX_MESSAGE:
        raise Refused(Status.INVALID_ARGUMENT, "a DNS message has at most 65,535 bytes")
    return message


def bug() -> Refused:
    """For a call that met a bug of ours. CoreDNS then asks its next address."""
    return Refused(Status.INTERNAL, "a bug of the server")


def no_id() -> Refused:
    """For a DNS message that is too short even for a FORMERR."""
    return Refused(Status.INVALID_ARGUMENT, "the DNS message is too short to have an id")


def health(request: bytes, *, ready: bool) -> bytes:
    """The answer to a Check. Raises Refused."""
    if request not in _ASKED_FOR:
        raise Refused(Status.NOT_FOUND, "unknown service")
    return _SERVING if ready else _NOT_SERVING
