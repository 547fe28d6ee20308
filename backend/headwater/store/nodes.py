"""Nodes as the store keeps them: what says where a client is.

The writer puts them among its objects, and answer processes read them from there.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

#: Their keys in `objects` begin so.
PREFIX: Final = b"nodes/"
#: The key of `meta` whose value is another one after each change of a Node.
CHANGED: Final = b"nodes"
#: Bytes before a packed object: its version (`cluster.objects.pack`).
_VERSION_SIZE: Final = 8


class Node(Struct, frozen=True, array_like=True, gc=False):
    """A node, the topology zone in which it is, and the addresses of clients on it."""

    name: str
    zone: str
    """"" without the label."""
    cidrs: tuple[str, ...]
    """Of its pods."""
    addresses: tuple[str, ...]
    """Its own, which pods on the host's network have."""

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name), as every object has it; a node is in none."""
        return "", self.name


_DECODER: Final = msgspec.msgpack.Decoder(Node)


def unpacked(data: bytes) -> Node:
    """A Node from `objects`. Raises msgspec.MsgspecError on other bytes."""
    return _DECODER.decode(memoryview(data)[_VERSION_SIZE:])
