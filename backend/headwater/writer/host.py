"""The addresses of this host: what ns.dns.ZONE answers when no DNS Service is known."""

from __future__ import annotations

import ipaddress
import socket


def of_this_host() -> list[str]:
    """Every address of its interfaces, loopback and link-local ones aside.

    CoreDNS leaves out loopback ones alone (boundIPs in plugin/kubernetes/local.go);
    nobody off the link can ask a name server at fe80::1.
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
