"""The addresses of this host: the answer for ns.dns.ZONE when no DNS Service is known."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from typing import Final

# From linux/netlink.h, linux/rtnetlink.h and linux/if_addr.h; all in the host's byte order.
_HEADER: Final = struct.Struct("=IHHII")
"""nlmsghdr: the message's length, type, flags, sequence and port."""
_ADDRESS: Final = struct.Struct("=BBBBI")
"""ifaddrmsg: family, prefix length, flags, scope, interface."""
_ATTRIBUTE: Final = struct.Struct("=HH")
"""rtattr: length and type."""
_NEW_ADDRESS: Final = 20
_GET_ADDRESSES: Final = 22
_ERROR: Final = 2
_DONE: Final = 3
_REQUEST_DUMP: Final = 0x001 | 0x300
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
#: The kernel fills at most 32 KiB at a time.
_PIECE: Final = 1 << 16
#: It answers at once.
_PATIENCE: Final = 2.0


def of_this_host() -> list[str]:
    """Return every address of the host's interfaces, without loopback and link-local addresses.

    CoreDNS leaves out only loopback addresses (boundIPs in plugin/kubernetes/local.go). Link-local
    addresses are left out because clients on other links cannot reach them.

    On Linux they come from the kernel by rtnetlink(7), as getifaddrs(3) has them: `psutil` would
    cost the start 25 ms and 2 MiB. Raises OSError.
    """
    found: dict[str, None] = {}
    for address in _addresses(_dump()) if hasattr(socket, "AF_NETLINK") else _elsewhere():
        if not (address.is_loopback or address.is_link_local):
            found[str(address)] = None
    return list(found)


def _elsewhere() -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Yield the addresses of a host whose kernel is no Linux."""
    import psutil

    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            if entry.family in (socket.AF_INET, socket.AF_INET6):
                yield ipaddress.ip_address(entry.address.partition("%")[0])


def _dump() -> Iterator[bytes]:
    """Yield the kernel's messages about all addresses, some in each piece."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(_PATIENCE)
        request = _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        kernel.send(_HEADER.pack(_HEADER.size + len(request), _GET_ADDRESSES, _REQUEST_DUMP, 1, 0) + request)
        while True:
            yield kernel.recv(_PIECE)


def _addresses(pieces: Iterator[bytes]) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Yield the addresses in such messages, until the one that says that these are all."""
    for piece in pieces:
        at = 0
        while at + _HEADER.size <= len(piece):
            length, kind, *_ = _HEADER.unpack_from(piece, at)
            if kind == _DONE or length < _HEADER.size:
                return
            if kind == _ERROR:
                raise OSError("the kernel does not tell this host's addresses")
            if kind == _NEW_ADDRESS:
                address = _local(piece[at + _HEADER.size : at + length])
                if address is not None:
                    yield address
            at += _aligned(length)


def _local(message: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The interface's own address: on a point-to-point link IFA_ADDRESS is the other end's."""
    family = message[0]
    found: dict[int, bytes] = {}
    at = _ADDRESS.size
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = message[at + _ATTRIBUTE.size : at + length]
        at += _aligned(length)
    own = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    if own is None or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    return ipaddress.ip_address(own)


def _aligned(length: int) -> int:
    """Messages and attributes begin at multiples of four."""
    return (length + 3) & ~3
