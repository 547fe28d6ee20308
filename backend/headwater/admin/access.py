"""Who may see names and objects: clients on loopback, unless the settings say all."""

from __future__ import annotations

import ipaddress
from typing import Literal


def refusal(client: str, host: str, details: Literal["loopback", "all"]) -> str:
    """Why a client may not see names; "" when it may.

    `client` is its address, `host` the request's Host. A page in a browser on
    this machine can reach loopback by a name of its own that resolves to it: so
    only an address or localhost is taken for a Host.
    """
    if details == "all":
        return ""
    if not _is_loopback(client):
        return (
            "Names are shown to clients on loopback only: use kubectl port-forward, or kubectl exec and "
            "`headwater explain` there. `--admin-details all` shows them to everybody."
        )
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name and name.lower() != "localhost" and not _is_address(name.strip("[]")):
        return f"The request is for {host[:100]!r}, which is not this machine: ask by an address, or by localhost."
    return ""


def _is_loopback(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
