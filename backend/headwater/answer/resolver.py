"""From a query's bytes to a reply's bytes: the short way where it can be taken, else the long way.

A plain query for addresses or SRV is answered by one look-up or two (`short`). Every other query is
read byte by byte (`long`). Where both can answer, their replies are equal: a test asks both.
"""

from __future__ import annotations

from headwater.answer.by_option import ByOption
from headwater.answer.extended import Extended, Say
from headwater.answer.long import LongWay
from headwater.answer.near import Ways, of_a_place
from headwater.answer.short import Answer, ShortWay
from headwater.answer.srv import SrvSets
from headwater.answer.state import State
from headwater.answer.unmade import Unmade
from headwater.answer.whereabouts import Whereabouts
from headwater.settings.settings import Settings
from headwater.store.environment import Reader, Snapshot
from headwater.wire.question import Question


class Resolver:
    """Answers for a set of zones. One per answer process; its threads may share it."""

    answer: Answer
    """`answer(query, snapshot)`: the reply to one query, of at most 65,535 bytes.

    It is not truncated, and nothing is raised. `snapshot` is from `Reader.begin` (None when there
    is no store); its buffers are not kept. `Pending` when the reply needs records of another
    server; None when not even an id can be read.
    """

    def __init__(
        self, reader: Reader, settings: Settings, say: Say | None = None, unmade: Unmade | None = None
    ) -> None:
        """`say` tells the reasons of negative replies, for `--extended-errors`.

        `unmade` makes the records that a store has not yet; without it nothing is answered until
        all are stored.
        """
        self._state = State(settings, unmade)
        srv = SrvSets()
        long_way = LongWay(reader, self._state, srv)
        self._long_way = long_way.answer
        self._say = None if say is None else _of_complete(say, long_way, self._state)
        self._said_near = None if say is None else _of_complete(of_a_place(say), long_way, self._state)
        self._ways = Ways(self._state, long_way, srv)
        # The method of an attribute: that is one call less than a method that calls it.
        self.answer = ShortWay(self._state, self._long_way, srv).answer
        if self._say is not None:
            self.answer = Extended(self.answer, self._say).answer
        self.whereabouts = Whereabouts(settings.zone_cidrs)
        """The places of clients by their addresses."""
        if settings.client_option:
            self.answer = ByOption(settings.client_option, self.answer, self.whereabouts, self.at).answer

    def at(self, zone: str, node: str = "", *, small: bool = False) -> Answer:
        """As `answer`, for clients in that topology zone and on that node; "" when not known.

        `small`: they take no more than 512 bytes over UDP, and CoreDNS does not know that.
        """
        way = self._ways.of(zone, node, small=small)
        return way if self._said_near is None else Extended(way, self._said_near).answer

    @property
    def counts(self) -> dict[int, int]:
        """Queries by `counts.count_key`: (zone index + 1, query type, reason)."""
        return self._state.counts

    @property
    def near(self) -> tuple[int, int]:
        """Replies with a set of the client's place; and, of names that have some, with all."""
        return self._state.near, self._state.far

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


def _of_complete(say: Say, long_way: LongWay, state: State) -> Say:
    """What tells reasons, of names that are not made yet too."""

    def said(question: Question, exists: bool, snapshot: Snapshot) -> str:
        if snapshot.generation != state.ready_generation:
            snapshot = long_way.complete(snapshot) or snapshot
        return say(question, exists, snapshot)

    return said
