"""Names with another set for clients in some places: the keys of these sets in `records`.

A *place* is a topology zone or a node. A name that is answered by the client's place has a node
with the flag NEAR, which is what all other clients get, and further nodes under

    name, "z", zone          for clients in that topology zone
    name, "n", node          for clients on that node, who are in a zone as well
    name, "*"                for clients in any other zone: there only if the zone is to be kept to

The name ends with the root, a zero byte. A query's name ends at its first zero byte, so no client
can ask for such a key, and no name in wire format is one: a key of a place does not end in zero.
"""

from __future__ import annotations

import re
from typing import Any, Final

from headwater.store.node import IS_NEAR, Kind

#: Behind a name: for clients in any other zone.
ELSEWHERE: Final = b"*"
#: The longest text of a place. With the longest name it is a key that LMDB takes.
MAX_PLACE: Final = 253
#: A label's value, or the name of a node: what Kubernetes lets either be.
_PLACE: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")


def is_place(text: str) -> bool:
    """Whether a text can be the name of a zone or a node."""
    return len(text) <= MAX_PLACE and _PLACE.fullmatch(text) is not None


def of_zone(zone: str) -> bytes:
    """What stands behind a name for clients in a topology zone; `is_place` holds for it."""
    return b"z" + zone.encode("ascii")


def of_node(node: str) -> bytes:
    """The same for clients on a node."""
    return b"n" + node.encode("ascii")


def is_of_a_place(key: Any) -> bool:
    """Whether a key of `records` is that of a place's set, not a name."""
    return bool(key[-1])


def divided(key: bytes) -> tuple[bytes, bytes]:
    """The name, and what stands behind it ("" for nothing), of a key of `records`."""
    end = key.find(0) + 1
    return key[:end], key[end:]


def said(suffix: bytes) -> str:
    """The place of such a suffix in words."""
    kind, text = suffix[:1], suffix[1:].decode("ascii", "replace")
    return {b"z": f"zone {text}", b"n": f"node {text}"}.get(kind, "any other zone")


def marked(node: bytes) -> bytes:
    """The node of a name that has sets for some places."""
    return bytes((node[0] | IS_NEAR,)) + node[1:]


def of_a_place(node: bytes) -> bytes:
    """A place's set as a node of its own: it is no name, and does not count as one."""
    return b"".join((node[:2], bytes((Kind.PLACE,)), node[3:]))
