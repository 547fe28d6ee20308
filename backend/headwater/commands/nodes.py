"""Nodes, listed once: `headwater corefile --by-zone` reads their podCIDRs."""

from __future__ import annotations

import json

import msgspec

from headwater.cluster.api import ApiServer
from headwater.cluster.objects import OddObject, convert
from headwater.cluster.reflector import RequestFailed, Trouble
from headwater.store.nodes import Node

_PAGE = 500


def listed(server: ApiServer) -> list[Node]:
    """Every Node; those that are not as the API has them are left out. Raises RequestFailed."""
    found: list[Node] = []
    token = ""
    while True:
        try:
            page = json.loads(server.page("nodes", _PAGE, token))
            items, token = page.get("items") or (), page["metadata"].get("continue", "")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RequestFailed(Trouble.SERVER, "a list of nodes does not decode") from None
        for item in items:
            try:
                node = convert("nodes", item).object
            except (OddObject, msgspec.MsgspecError):
                continue
            assert isinstance(node, Node)
            found.append(node)
        if not token:
            return found
