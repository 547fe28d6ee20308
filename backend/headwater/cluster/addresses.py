"""The addresses of this host: what ns.dns.ZONE answers when no DNS Service is known."""

from __future__ import annotations

import ipaddress
import socket
from typing import Final

#: Addresses that no packet is sent to: connecting a UDP socket only asks the routing table.
_SOMEWHERE: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def of_this_host() -> list[str]:
    """The address per family that packets leave from, loopback and link-local ones aside."""
    found: list[str] = []
    for family, target in _SOMEWHERE:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 53))
                address = ipaddress.ip_address(probe.getsockname()[0])
        except (OSError, ValueError):
            continue
        if not (address.is_loopback or address.is_link_local or address.is_unspecified):
            found.append(str(address))
    return found
