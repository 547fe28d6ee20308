"""One comparison from beginning to end: rounds through all names, progress, and the report."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal

from headwater.compare.asking import DnsServer, Manners, Server, Several
from headwater.compare.comparison import Comparison, Finding, described
from headwater.compare.deviations import Oracle
from headwater.compare.judgement import OPEN, Kind, level
from headwater.compare.messages import RCODES, TYPES, Query, readable
from headwater.compare.report import Report, classes_of, hints_of, news, progress
from headwater.compare.subjects import Changes, Subjects, count, first_questions, questions, subjects_of
from headwater.settings.address import Address
from headwater.settings.settings import Settings
from headwater.wire.types import Rcode

if TYPE_CHECKING:
    from headwater.answer.resolver import Resolver
    from headwater.compare.metrics import Metrics
    from headwater.store.environment import Reader

#: Seconds between two lines of progress, and the least between two looks for names that have
#: changed.
_PROGRESS: Final = 10.0
_LOOK: Final = 0.5
#: A look takes time from those who ask: this many times as long passes before the next.
_REST: Final = 10
#: Differences of a class that are told when they are found; further ones are counted only.
_TOLD: Final = 20
#: Names of one look that are asked first.
_MOST_CHANGED: Final = 1_000
#: Seconds for one try at Headwater; it answers in microseconds, or asks `--upstream` for up to 3 s.
_OURS: Final = 5.0


class CannotCompare(RuntimeError):  # noqa: N818 (what it is)
    """Nothing was compared: the text says why."""


@dataclass(frozen=True)
class Plan:
    """What is asked, of whom, and for how long."""

    theirs: Address
    ours: Literal["instance", "store"] | Address
    manners: Manners = field(default_factory=Manners)
    neighbours: int = 2
    """For each name."""
    sample: int = 0
    """Questions of a round, at most; 0: all."""
    patience: float = 45.0
    """Seconds for which a difference is asked about again."""
    watch: float = 0.0
    """Seconds of rounds; 0: one round."""


class Session:
    """One comparison.

    `tell` takes lines for a person who waits. `reader` and `resolver` stay the caller's.
    """

    def __init__(
        self,
        plan: Plan,
        settings: Settings,
        reader: Reader,
        resolver: Resolver,
        tell: Callable[[str], None],
        metrics: Metrics | None = None,
    ) -> None:
        self._plan = plan
        self._settings = settings
        self._reader = reader
        self._resolver = resolver
        self._tell = tell
        self._metrics = metrics
        self._told: Counter[str] = Counter()
        self._ended = "complete"
        self._rounds = 0
        self._planned = 0
        self._subjects: Subjects | None = None

    async def run(self) -> Report:
        """Compare. Ctrl-C and SIGTERM end it, with a report so far. Raises CannotCompare."""
        plan = self._plan
        theirs = DnsServer(plan.theirs, plan.manners)
        ours = self._our_server()
        started, began = time.time(), time.monotonic()
        comparison = Comparison(theirs, ours, patience=plan.patience, found=self._found, places=plan.manners.in_flight)
        comparison.give_up_after = 0 if plan.watch else comparison.give_up_after
        if self._metrics is not None:
            self._metrics.watch_open(lambda: comparison.open)
        try:
            await self._both_answer(theirs, ours)
            with self._signals(comparison):
                await self._compare(comparison, theirs, began)
        finally:
            await theirs.close()
            await ours.close()
        if comparison.dead:
            self._ended = "silent"
        return self._report(comparison, theirs, started, time.monotonic() - began)

    def _our_server(self) -> Server:
        plan, settings = self._plan, self._settings
        if isinstance(plan.ours, Address):
            return DnsServer(plan.ours, Manners(rate=1e6, in_flight=plan.manners.in_flight, timeout=_OURS))
        if plan.ours == "store":
            from headwater.compare.from_store import StoreServer

            return StoreServer(self._reader, self._resolver, settings.upstreams)
        from headwater.compare.over_grpc import GrpcServer

        return Several([GrpcServer(address, _OURS) for address in settings.listen_addresses()])

    async def _both_answer(self, theirs: Server, ours: Server) -> None:
        """Raises CannotCompare."""
        zone = self._settings.zones[0]
        query = Query(zone, TYPES["SOA"])._replace(way=Query(zone, 0).way._replace(tcp=False))
        for server, who in ((theirs, str(self._plan.theirs)), (ours, self.our_name)):
            answer = await server.ask(query)
            if answer.message is None:
                raise CannotCompare(f"{who}: {described(query)}: {answer.why}")
            reply = readable(answer.message)
            if reply is None or reply.rcode not in (Rcode.NOERROR, Rcode.NXDOMAIN):
                why = "what cannot be read" if reply is None else RCODES.get(reply.rcode, str(reply.rcode))
                raise CannotCompare(f"{who}: {described(query)}: {why}. Does it serve that zone, and answer this host?")

    @property
    def our_name(self) -> str:
        """Where Headwater's answers are from."""
        if isinstance(self._plan.ours, Address):
            return f"DNS at {self._plan.ours}"
        if self._plan.ours == "store":
            return f"from {' '.join(self._settings.manifests) or self._settings.state_dir}"
        return "gRPC at " + ", ".join(map(str, self._settings.listen_addresses()))

    @contextlib.contextmanager
    def _signals(self, comparison: Comparison) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            self._ended = "stopped"
            comparison.stop()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    # Rounds

    async def _compare(self, comparison: Comparison, theirs: DnsServer, began: float) -> None:
        plan = self._plan
        beside = [asyncio.create_task(self._progress(comparison, began))]
        if plan.watch:
            beside.append(asyncio.create_task(self._look(comparison)))
        timer = asyncio.get_running_loop().call_later(plan.watch, self._time, comparison) if plan.watch else None
        try:
            while True:
                subjects = await asyncio.to_thread(self._gather)
                self._begin_round(subjects)
                comparison.oracle = partial(self._oracle, subjects, theirs, asyncio.get_running_loop())
                asked = questions(
                    subjects, plan.neighbours, random.Random(f"round {self._rounds}"), tcp=plan.manners.tcp
                )
                await comparison.run(islice(asked, plan.sample or None))
                if comparison.ending:
                    break
                self._rounds += 1
                if self._metrics is not None:
                    self._metrics.round()
                if not plan.watch:
                    break
            await comparison.settle()
        finally:
            if timer is not None:
                timer.cancel()
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    def _time(self, comparison: Comparison) -> None:
        self._ended = "time"
        comparison.end_round()

    def _gather(self) -> Subjects:
        """Raises CannotCompare."""
        self._reader.follow()
        snapshot = self._reader.begin()
        try:
            if snapshot is None or not self._reader.is_ready(snapshot):
                raise CannotCompare("the store has no complete records: does `headwater serve` run, and is it ready?")
            return subjects_of(snapshot, self._settings)
        finally:
            if snapshot is not None:
                snapshot.close()

    def _begin_round(self, subjects: Subjects) -> None:
        plan = self._plan
        self._subjects = subjects
        names = len(subjects.names) + len(subjects.reverse)
        number = count(subjects, plan.neighbours)
        number = min(number, plan.sample) if plan.sample else number
        self._planned += number
        if self._metrics is not None:
            self._metrics.names(names)
        if not self._rounds:
            how = "TCP" if plan.manners.tcp else "UDP"
            self._tell(
                f"{names:,} names, about {number:,} questions, at most {plan.manners.rate:g} a second over {how}, "
                f"{plan.manners.in_flight} at a time"
            )

    def _oracle(self, subjects: Subjects, theirs: DnsServer, loop: asyncio.AbstractEventLoop) -> Oracle:
        """For a thread: what it asks is asked on the loop, at the rate of everything else."""

        async def ask(queries: Sequence[Query]) -> list[bytes | None]:
            return [answer.message for answer in await asyncio.gather(*map(theirs.ask, queries))]

        def exchange(queries: Sequence[Query]) -> list[bytes | None]:
            return asyncio.run_coroutine_threadsafe(ask(queries), loop).result()

        settings = self._settings
        return Oracle(
            exchange, subjects.under, zones=settings.forward_zones(), reverse_zones=settings.reverse_zones,
            import_zones=settings.multicluster_zones, endpoint_pod_names=settings.endpoint_pod_names,
            dotted=subjects.dotted, level=level,
        )  # fmt: skip

    # Beside them

    async def _progress(self, comparison: Comparison, began: float) -> None:
        while True:
            await asyncio.sleep(_PROGRESS)
            tally = comparison.tally
            self._tell(progress(tally.questions, self._planned, tally.counts, time.monotonic() - began))

    async def _look(self, comparison: Comparison) -> None:
        """Names whose records have changed are asked first: lateness is seen where it occurs."""
        changes = Changes(self._settings.reverse_zones)

        def look() -> list[str]:
            snapshot = self._reader.begin()
            if snapshot is None:
                return []
            try:
                return changes.look(snapshot)
            finally:
                snapshot.close()

        while True:
            began = time.monotonic()
            self._reader.follow()
            for name in (await asyncio.to_thread(look))[:_MOST_CHANGED]:
                comparison.ask_first(first_questions(name, self._plan.manners.tcp))
            await asyncio.sleep(max(_LOOK, _REST * (time.monotonic() - began)))

    def _found(self, finding: Finding) -> None:
        if self._metrics is not None:
            self._metrics.found(finding)
        worth = finding.kind in OPEN or finding.kind in (Kind.THEY_ARE_LATE, Kind.WE_ARE_LATE)
        if worth and self._told[finding.label] < _TOLD:
            self._told[finding.label] += 1
            self._tell(news(finding))

    def _report(self, comparison: Comparison, theirs: DnsServer, started: float, seconds: float) -> Report:
        plan, tally, subjects = self._plan, comparison.tally, self._subjects
        assert subjects is not None
        how = "TCP" if plan.manners.tcp else "UDP"
        return Report(
            with_=f"{plan.theirs} ({how})", ours=self.our_name, zones=list(self._settings.served_zones()),
            started=round(started, 3), seconds=round(seconds, 3), rounds=self._rounds,
            names=len(subjects.names) + len(subjects.reverse), questions=tally.questions,
            unexplained=tally.unexplained, undecided=tally.undecided, ended=self._ended,
            classes=classes_of(tally), messages=dict(theirs.counts), hints=hints_of(tally),
        )  # fmt: skip
