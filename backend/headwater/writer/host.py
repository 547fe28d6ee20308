"""The addresses of this host: the answer for ns.dns.ZONE when no DNS Service is known."""

from __future__ import annotations

import ipaddress
import socket


def of_this_host() -> list[str]:
    """Return every address of the host's interfaces, without loopback and link-local addresses.

    CoreDNS leaves out only loopback addresses (boundIPs in plugin/kubernetes/local.go). Link-local
    addresses are left out because clients on other links cannot reach them.
    """
    # Only here: the import takes 30 ms, and only the watch process needs it.
    import psutil

    found: dict[str, None] = {}
    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            if entry.family in (socket.AF_INET, socket.AF_INET6):
                address = ipaddress.ip_address(entry.address.partition("%")[0])
                if not (address.is_loopback or address.is_link_local):
                    found[str(address)] = None
    return list(found)
