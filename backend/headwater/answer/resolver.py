"""From a query's bytes to a reply's bytes: the short way where it can be taken, else the long way.

A plain query for addresses is answered by one look-up (`short`). Every other query is read byte by
byte (`long`). Where both can answer, their replies are equal: a test asks both.
"""

from __future__ import annotations

from headwater.answer.extended import Extended, Say
from headwater.answer.long import LongWay
from headwater.answer.short import Answer, ShortWay
from headwater.answer.state import State
from headwater.settings.settings import Settings
from headwater.store.environment import Reader


class Resolver:
    """Answers for a set of zones. One per answer process; its threads may share it."""

    answer: Answer
    """`answer(query, snapshot)`: the reply to one query, of at most 65,535 bytes.

    It is not truncated, and nothing is raised. `snapshot` is from `Reader.begin` (None when there
    is no store); its buffers are not kept. `Pending` when the reply needs records of another
    server; None when not even an id can be read.
    """

    def __init__(self, reader: Reader, settings: Settings, say: Say | None = None) -> None:
        """`say` tells the reasons of negative replies, for `--extended-errors`."""
        self._state = State(settings)
        self._long_way = LongWay(reader, self._state).answer
        # The method of an attribute: that is one call less than a method that calls it.
        self.answer = ShortWay(self._state, self._long_way).answer
        if say is not None:
            self.answer = Extended(self.answer, say).answer

    @property
    def counts(self) -> dict[int, int]:
        """Queries by `counts.count_key`: (zone index + 1, query type, reason)."""
        return self._state.counts

    @property
    def stale(self) -> int:
        """The extended error in the SERVFAIL of every name; 0: answer as usual."""
        return self._state.stale

    def set_stale(self, ede: int) -> None:
        """Answer SERVFAIL with that extended error (RFC 8914); 0: answer as usual."""
        if ede:
            # The short way reads only this.
            self._state.ready_generation = 0
        self._state.stale = ede
