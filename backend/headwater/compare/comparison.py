"""Both asked, judged, and asked again where they differ: a difference that goes away was lateness.

A difference is settled in this order: the replies alone may say what it is (`judgement`); a
deviation may explain it; else both are asked again, at growing intervals, until they agree or
patience ends. Whoever changed last was late, by the time between the two changes as they were
seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Final, NamedTuple

from headwater.compare.asking import Answer, Server
from headwater.compare.deviations import Case, Oracle, deviation_of
from headwater.compare.judgement import EXPLAINED, OPEN, Kind, Pair, judge, level
from headwater.compare.messages import Query, Reply, type_name

#: Seconds between the questions that are asked again; the last one over and over.
PAUSES: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0)
#: Differences that are asked about again at a time. Further ones are judged as they are: of another
#: cluster's server everything differs, and waiting for each would take days.
MOST_OPEN: Final = 500
#: Findings of one class that are kept: the first ones, and of lateness the worst.
MOST_KEPT: Final = 20
#: All findings that a change board has to see, at most.
MOST_UNEXPLAINED: Final = 1000
#: So many questions in a row without a reply of the other server end a comparison that does not
#: watch.
DEAD: Final = 100
#: Questions about names that have just changed, at a time: a rollout changes thousands.
MOST_FIRST: Final = 5_000


class Seen(NamedTuple):
    """Both answers to one question at one time."""

    theirs: Answer
    ours: Answer
    pair: Pair


@dataclass(frozen=True)
class Finding:
    """What came of one question."""

    kind: Kind
    query: Query
    deviation: str = ""
    theirs: str = ""
    """In one line: the reply, or why there is none. Of lateness the first that differed."""
    ours: str = ""
    late: float = 0.0
    """Seconds between the two changes, as they were seen."""
    resolution: float = 0.0
    """Seconds that `late` may be too long: the time since the question before the last."""
    asked: int = 1
    """How often."""
    when: float = 0.0
    """When it was found (seconds since 1970)."""

    @property
    def label(self) -> str:
        """The class, and of a deviation its name."""
        return f"{self.kind}:{self.deviation}" if self.deviation else str(self.kind)


@dataclass
class Tally:
    """What was found so far, in bounded memory."""

    counts: Counter[str] = field(default_factory=Counter)
    """Questions by label."""
    findings: dict[str, list[Finding]] = field(default_factory=dict)
    """Examples by label: MOST_KEPT, of what is not explained MOST_UNEXPLAINED in all."""
    late: dict[Kind, list[float]] = field(default_factory=dict)
    """Seconds, of every question that was late, up to MOST_KEPT * 500 of each side."""
    undecided: int = 0
    """Questions that the end came before."""

    def add(self, finding: Finding) -> None:
        label = finding.label
        self.counts[label] += 1
        if finding.kind is Kind.SAME:
            return
        kept = self.findings.setdefault(label, [])
        if finding.late:
            seconds = self.late.setdefault(finding.kind, [])
            if len(seconds) < MOST_KEPT * 500:
                seconds.append(finding.late)
            kept.append(finding)
            kept.sort(key=lambda item: -item.late)
            del kept[MOST_KEPT:]
        elif len(kept) < (MOST_KEPT if finding.kind in EXPLAINED else MOST_UNEXPLAINED):
            kept.append(finding)

    @property
    def questions(self) -> int:
        """How many were settled."""
        return self.counts.total()

    @property
    def unexplained(self) -> int:
        """Questions of classes that nothing explains."""
        return sum(number for label, number in self.counts.items() if label in OPEN)


class Comparison:
    """Two servers; belongs to one event loop."""

    def __init__(
        self,
        theirs: Server,
        ours: Server,
        *,
        patience: float,
        found: Callable[[Finding], None] = lambda _: None,
        places: int = 32,
    ) -> None:
        self._theirs = theirs
        self._ours = ours
        self._patience = patience
        self._found = found
        self._places = places
        self._open: set[asyncio.Task[None]] = set()
        self._first: deque[Query] = deque()
        self._silent = 0
        self._ending = False
        self._stopped = asyncio.Event()
        self.oracle: Callable[[], Oracle] | None = None
        """A new one for each difference: what it was told is soon old. Set it before `run`."""
        self.tally = Tally()
        self.give_up_after = DEAD
        """0: never."""
        self.dead = False
        """Whether the other server has stopped answering, and the run ended for that."""

    # The whole

    async def run(self, queries: Iterable[Query]) -> None:
        """One round: all of them, so many at a time. Differences may be asked about still when it
        returns.
        """
        turns = self._turns(iter(queries))
        await asyncio.gather(*(self._work(turns) for _ in range(self._places)))

    def ask_first(self, queries: Iterable[Query]) -> None:
        """Ask these before what is left of the round; at most MOST_FIRST wait for that."""
        self._first.extend(islice(queries, max(MOST_FIRST - len(self._first), 0)))

    def end_round(self) -> None:
        """Ask nothing new; `settle` still waits for what is open."""
        self._ending = True

    def stop(self) -> None:
        """End the round early; what is open stays undecided."""
        self._ending = True
        self._stopped.set()

    @property
    def ending(self) -> bool:
        """Whether nothing new is asked."""
        return self._ending

    @property
    def open(self) -> int:
        """Differences that are being asked about again."""
        return len(self._open)

    async def settle(self) -> None:
        """Return when no difference is open any more; after `stop` at once."""
        stopping = asyncio.create_task(self._stopped.wait())
        try:
            while self._open and not self._stopped.is_set():
                await asyncio.wait([*self._open, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            for task in list(self._open):
                self.tally.undecided += 1
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*self._open, return_exceptions=True)

    def _turns(self, queries: Iterator[Query]) -> Iterator[Query]:
        for query in chain(queries, [None]):
            while self._first:
                yield self._first.popleft()
            if query is not None:
                yield query

    async def _work(self, turns: Iterator[Query]) -> None:
        for query in turns:
            if self._ending:
                return
            await self._one(query)
            if self.give_up_after and self._silent >= self.give_up_after:
                self.dead = True
                self.stop()

    # One question

    async def _one(self, query: Query) -> None:
        seen = await self._ask(query)
        self._silent = self._silent + 1 if seen.pair.kind is Kind.THEY_ARE_SILENT else 0
        finding = await self._at_once(query, seen)
        if finding.kind in OPEN and self._patience and len(self._open) < MOST_OPEN:
            task = asyncio.create_task(self._again(query, seen))
            self._open.add(task)
            task.add_done_callback(self._open.discard)
        else:
            self._settled(finding)

    def _settled(self, finding: Finding) -> None:
        self.tally.add(finding)
        self._found(finding)

    async def _ask(self, query: Query) -> Seen:
        theirs, ours = await asyncio.gather(self._theirs.ask(query), self._ours.ask(query))
        return Seen(theirs, ours, judge(query, theirs.message, ours.message))

    async def _at_once(self, query: Query, seen: Seen) -> Finding:
        """What these two answers are by themselves, or by a deviation."""
        kind, deviation = seen.pair.kind, ""
        theirs, ours = seen.pair.theirs, seen.pair.ours
        if kind is Kind.UNEXPLAINED and theirs is not None and ours is not None and self.oracle is not None:
            case = Case(query, level(theirs), level(ours), self.oracle())
            deviation = await asyncio.to_thread(deviation_of, case)
            kind = Kind.DEVIATION if deviation else kind
        return _finding(kind, query, seen, deviation)

    async def _again(self, query: Query, first: Seen) -> None:
        """Ask until it is no difference any more, or for as long as patience lasts."""
        history = [first]
        give_up = time.monotonic() + self._patience
        while (left := give_up - time.monotonic()) > 0:
            await asyncio.sleep(min(PAUSES[min(len(history), len(PAUSES)) - 1], left))
            seen = await self._ask(query)
            history.append(seen)
            finding = await self._at_once(query, seen)
            if finding.kind not in OPEN:
                self._settled(_in_the_end(finding, history))
                return
        last = await self._at_once(query, history[-1])
        self._settled(_finding(last.kind, query, history[-1], asked=len(history)))


def _finding(kind: Kind, query: Query, seen: Seen, deviation: str = "", asked: int = 1) -> Finding:
    if kind is Kind.SAME:
        return Finding(kind, query)
    theirs = seen.pair.theirs.line() if seen.pair.theirs is not None else seen.theirs.why or "cannot be read"
    ours = seen.pair.ours.line() if seen.pair.ours is not None else seen.ours.why or "cannot be read"
    return Finding(kind, query, deviation, theirs, ours, asked=asked, when=time.time())


def _in_the_end(finding: Finding, history: list[Seen]) -> Finding:
    """The finding for a difference that has gone away: who changed last, and how much later."""
    answered = [seen for seen in history if seen.pair.kind not in (Kind.THEY_ARE_SILENT, Kind.WE_ARE_SILENT)]
    theirs = _stable_since([seen.pair.theirs for seen in answered])
    ours = _stable_since([seen.pair.ours for seen in answered])
    asked = len(history)
    if theirs == ours == 0:  # no answer changed: one was missing
        return Finding(finding.kind, finding.query, finding.deviation, finding.theirs, finding.ours, asked=asked,
                       when=finding.when)  # fmt: skip
    last = max(theirs, ours)
    if theirs > ours:
        kind, late = Kind.THEY_ARE_LATE, answered[theirs].theirs.at - answered[ours].ours.at
    elif ours > theirs:
        kind, late = Kind.WE_ARE_LATE, answered[ours].ours.at - answered[theirs].theirs.at
    else:
        kind, late = Kind.BOTH_CHANGED, 0.0
    resolution = answered[last].theirs.at - answered[last - 1].theirs.at
    shown = _finding(kind, finding.query, answered[last - 1])
    return Finding(kind, finding.query, "", shown.theirs, shown.ours, max(late, 0.0), min(resolution, max(late, 0.0)),
                   asked, time.time())  # fmt: skip


def _stable_since(replies: list[Reply | None]) -> int:
    """The index of the first reply from which on all say the same."""
    said = [None if reply is None else level(reply) for reply in replies]
    since = len(said) - 1
    while since > 0 and said[since - 1] == said[-1]:
        since -= 1
    return max(since, 0)


def described(query: Query) -> str:
    """The question in a table: name and type."""
    return f"{str(query).partition(' ')[0]} {type_name(query.qtype)}"
