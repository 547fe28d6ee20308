"""A second opinion before a list takes much away at once.

An API server that was restored from an old backup, an aggregator that is broken, a
cache that has just begun: their lists are well-formed, complete and wrong. One that
would take away more than a third of the Services, or of the ready endpoints, is not
believed alone: a second list, begun some seconds later and read from etcd, has to say
so too. Watch events are believed at once: they tell what happened, one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, cast

from headwater.cluster.objects import Condition, EndpointSlice, Resource
from headwater.store.environment import ReadTransaction
from headwater.writer import lists
from headwater.writer.posting import stored

#: Fewer than that may go without a question: in a small cluster, one application is a third of everything.
FLOOR: Final = 10
#: One part in so many.
_PART: Final = 3

Opinion = Literal["asked", "confirmed", "contradicted"]
"""What became of a doubt: a second list was asked for; it said the same; it did not."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What a list would take away of what there is."""

    resource: Resource
    lost: int
    held: int

    def __str__(self) -> str:
        what = "ready endpoints" if self.resource == "endpointslices" else "Services"
        return f"a list of {self.resource} would take away {self.lost:,} of {self.held:,} {what}"


def is_doubtful(lost: int, held: int) -> bool:
    """Whether a list that takes that many away needs a second one that says so too."""
    return lost >= FLOOR and lost * _PART > held


def doubtful_loss(txn: ReadTransaction, resource: Resource) -> Loss | None:
    """What the list that is staged would take away, if that is doubtful."""
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
    return sum(1 for _ in txn.keys("objects", prefix, prefix[:-1] + b"0"))  # "0" is behind "/"


def _ready(data: bytes | None) -> set[tuple[str, str, str]]:
    """(owner, owner, address) of the ready endpoints of a slice, whichever slice it is."""
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
    """Endpoints of a Service that no slice of the list has any more. One that moves between slices stays."""
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
