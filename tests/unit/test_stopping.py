"""The stop of an instance that is about to end by itself."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from headwater.process.counters import Kind, ProcessView
from headwater.supervise.supervisor import Supervisor

#: In seconds; the question below is asked for five otherwise.
SOON = 2.0


@dataclass
class Played:
    """A child that has not said anything yet."""

    worked: bool = False
    stopping: bool = False

    def is_stopping(self) -> bool:
        return self.stopping

    def view(self) -> ProcessView:
        return ProcessView(Kind.ANSWER, "answer 0", False, 0, None, None)

    async def refresh(self) -> None:
        """Nothing is heard."""


def test_a_stop_does_not_wait_for_answer_processes_that_could_have_a_store() -> None:
    """Credentials cannot be used, and slow answer processes have not said yet what they have."""

    async def stopped() -> None:
        supervisor = object.__new__(Supervisor)
        watch = Played()
        supervisor._watch, supervisor._answers = watch, [Played()]  # type: ignore[assignment, list-item]
        supervisor._peers = []
        asked = asyncio.create_task(supervisor._nothing_to_serve())
        await asyncio.sleep(0)
        watch.stopping = True
        async with asyncio.timeout(SOON):
            await asked

    asyncio.run(stopped())
