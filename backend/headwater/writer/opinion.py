"""Decide whether a list that would remove much at once needs a second list that confirms it.

An API server that was restored from an old backup, a broken aggregator, or a cache that has just
started may send a list that is well-formed, complete and wrong. A list that would remove more than
a third of the Services, or of the ready endpoints, is therefore applied only when a second list,
begun some seconds later and read from etcd, confirms it. Watch events need no confirmation: each
tells of one change that happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, cast

from headwater.cluster.objects import Condition, EndpointSlice, Resource
from headwater.store.environment import ReadTransaction
from headwater.writer import lists
from headwater.writer.posting import stored

#: Fewer losses than this need no second list: in a small cluster one application is a third of
#: everything.
FLOOR: Final = 10
#: A loss of more than one in this many is doubtful.
_PART: Final = 3

Opinion = Literal["asked", "confirmed", "contradicted"]
"""The state of a doubt: a second list was asked for, it confirmed the
loss, or it contradicted it.
"""


@dataclass(frozen=True, slots=True)
class Loss:
    """How much of what is held a list would remove."""

    resource: Resource
    lost: int
    held: int

    def __str__(self) -> str:
        what = "ready endpoints" if self.resource == "endpointslices" else "Services"
        return f"a list of {self.resource} would take away {self.lost:,} of {self.held:,} {what}"


def is_doubtful(lost: int, held: int) -> bool:
    """Return whether a list that removes `lost` of `held` needs a second list that confirms it."""
    return lost >= FLOOR and lost * _PART > held


def doubtful_loss(txn: ReadTransaction, resource: Resource) -> Loss | None:
    """Return what the staged list would remove if that is doubtful, otherwise None."""
    match resource:
        case "services":
            lost = sum(1 for _, now, _ in lists.differences(txn, resource) if now is None)
            held = _count(txn, b"services/") if lost >= FLOOR else 0
        case "namespaces":
            gone = [key for key, now, _ in lists.differences(txn, resource) if now is None]
            lost = sum(_count(txn, b"services/" + key.rpartition(b"/")[2] + b"/") for key in gone)
            held = _count(txn, b"services/") if lost >= FLOOR else 0
        case "endpointslices":
            lost = _lost_endpoints(txn)
            held = _held_endpoints(txn) if lost >= FLOOR else 0
        case _:
            return None
    return Loss(resource, lost, held) if is_doubtful(lost, held) else None


def _count(txn: ReadTransaction, prefix: bytes) -> int:
    return sum(1 for _ in txn.keys("objects", prefix, prefix[:-1] + b"0"))  # "0" sorts after "/"


def _ready(data: bytes | None) -> set[tuple[str, str, str]]:
    """Return the ready endpoints of a slice: (Service, ServiceImport, address)."""
    if data is None:
        return set()
    piece = cast("EndpointSlice", stored("endpointslices", data))
    return {
        (piece.service, piece.imported, address)
        for endpoint in piece.endpoints
        if endpoint.conditions & Condition.READY
        for address in endpoint.addresses
    }


def _lost_endpoints(txn: ReadTransaction) -> int:
    """Count the ready endpoints that no listed slice has any more.

    One that moves between slices is not lost.
    """
    lost = 0
    namespace = b""
    before: set[tuple[str, str, str]] = set()
    after: set[tuple[str, str, str]] = set()
    for key, now, then in lists.differences(txn, "endpointslices"):
        if (place := key.rpartition(b"/")[0]) != namespace:
            lost += len(before - after)
            namespace, before, after = place, set(), set()
        before |= _ready(then)
        after |= _ready(now)
    return lost + len(before - after)


def _held_endpoints(txn: ReadTransaction) -> int:
    return sum(len(_ready(data)) for _, data in txn.scan("objects", b"endpointslices/"))
