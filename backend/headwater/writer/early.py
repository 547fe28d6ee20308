"""How far the records are compiled while the slices of the first list are still arriving.

Lists arrive sorted by namespace, and the slices' list usually ends last. Each namespace can
therefore be compiled as soon as the pages of slices have passed it, while the server prepares the
next page. This module computes which namespaces are ready; the ledger compiles them.

A place is a namespace followed by a slash, as in the server's keys and in ours. Lists are sorted by
places ("a-b/" comes before "a/").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headwater.cluster.changes import Progress, Remove, Upsert


@dataclass(slots=True)
class Early:
    """The namespaces that are compiled already."""

    reached: bytes = b""
    """Every namespace before this one is compiled."""
    sorted: bool = True
    """Whether all pages so far were sorted.

    If not, no namespace is known to be complete before the end.
    """

    def advance(self, namespaces: Sequence[str]) -> tuple[bytes, bytes]:
        """Take a page with these namespaces.

        Return the range of places that it completes: (first, end). The end is not part of the
        range.
        """
        places = [f"{namespace}/".encode() for namespace in namespaces]
        start = self.reached
        self.sorted = self.sorted and start <= places[0] and places == sorted(places)
        if self.sorted:
            self.reached = places[-1]
        return start, self.reached

    def passed(self, event: Upsert | Remove | Progress) -> bool:
        """Return whether an event changes a namespace that is compiled
        already, which is then void.
        """
        if isinstance(event, Progress):
            return False
        key = event.key if isinstance(event, Remove) else event.decoded.object.key
        return f"{key[0] or key[1]}/".encode() < self.reached
