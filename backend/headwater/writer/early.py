"""How far the records of a first list are compiled while its slices are still coming.

Lists come sorted by namespace, and the slices come last or nearly so: each
namespace can be compiled as soon as their pages have passed it, while the server
prepares the next. Here is the reckoning; the ledger does the work.

Places are namespaces with a slash behind, as in the server's keys and ours:
that is the order in which a list comes ("a-b/" before "a/").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headwater.cluster.changes import Progress, Remove, Upsert


@dataclass(slots=True)
class Early:
    """What is compiled already."""

    reached: bytes = b""
    """Every namespace before this one is compiled."""
    sorted: bool = True
    """While it is not, nothing is known to be whole before the end."""

    def advance(self, namespaces: Sequence[str]) -> tuple[bytes, bytes]:
        """The places between which everything is known, now that a page with these namespaces has come."""
        places = [f"{namespace}/".encode() for namespace in namespaces]
        start = self.reached
        self.sorted = self.sorted and start <= places[0] and places == sorted(places)
        if self.sorted:
            self.reached = places[-1]
        return start, self.reached

    def passed(self, event: Upsert | Remove | Progress) -> bool:
        """Whether an event is about what was compiled already: then that was for nothing."""
        if isinstance(event, Progress):
            return False
        key = event.key if isinstance(event, Remove) else event.decoded.object.key
        return f"{key[0] or key[1]}/".encode() < self.reached
