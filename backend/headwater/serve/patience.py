"""Questions that wait for a name to be published (`records.patience`), beside other queries.

While some wait, the store is looked at every `_LOOK` seconds; a look at one that has not changed
costs some microseconds. A question is answered by whatever the store then says, or is NXDOMAIN when
its time is up. Those beyond a limit are NXDOMAIN at once, as without patience.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from headwater.answer.alias import Pending
from headwater.store.environment import Reader, Snapshot, is_damage
from headwater.store.node import Kind

#: Questions that may wait in all answer processes together, and for Services of one namespace.
MOST: Final = 1_000
MOST_OF_TENANT: Final = 100
#: Seconds that are left to a client's deadline when its question is answered.
SPARE: Final = 0.5
_LOOK: Final = 0.02
_AWAITED: Final = int(Kind.AWAITED)


@dataclass(slots=True, eq=False)
class _Waiter:
    pending: Pending
    reply: asyncio.Future[bytes | None]
    looked: bool = False
    """Whether the store was looked at for it since it came."""


@dataclass(slots=True)
class _Seen:
    """The commit that the last look saw."""

    generation: int = 0
    commit: int = 0
    waiting: dict[_Waiter, None] = field(default_factory=dict)


class Patience:
    """The questions of one answer process that wait. Belongs to one event loop."""

    def __init__(
        self,
        reader: Reader,
        workers: int,
        failed: Callable[[Exception], None],
        damaged: Callable[[Exception, Snapshot], None],
    ) -> None:
        """`workers`: among how many processes the limits are divided.

        `failed` and `damaged` hear of bugs, and of pages that cannot be read.
        """
        self._reader = reader
        self._most = max(1, MOST // workers)
        self._most_of_tenant = max(1, MOST_OF_TENANT // workers)
        self._failed = failed
        self._damaged = damaged
        self._seen = _Seen()
        self._of_tenant: Counter[bytes] = Counter()
        self._task: asyncio.Task[None] | None = None
        self.counts = dict.fromkeys(("answered", "expired", "refused", "refused_tenant"), 0)
        """Questions by what became of them."""

    async def wait(self, pending: Pending, seconds: float) -> bytes | None:
        """The reply as soon as the name is there; None when it is not within its time.

        `seconds`: how long the client waits.
        """
        tenant, waiting = pending.tenant, self._seen.waiting
        time = min(pending.patience, seconds - SPARE)
        refusal = "refused" if len(waiting) >= self._most or time <= 0.0 or pending.again is None else ""
        refusal = refusal or ("refused_tenant" if self._of_tenant[tenant] >= self._most_of_tenant else "")
        if refusal:
            self.counts[refusal] += 1
            return None
        waiter = _Waiter(pending, asyncio.get_running_loop().create_future())
        waiting[waiter] = None
        self._of_tenant[tenant] += 1
        if self._task is None:
            self._task = asyncio.create_task(self._look())
        try:
            async with asyncio.timeout(time):
                reply = await waiter.reply
        except TimeoutError:
            reply = None
        finally:
            del waiting[waiter]
            self._of_tenant[tenant] -= 1
            if not self._of_tenant[tenant]:
                del self._of_tenant[tenant]
        self.counts["answered" if reply is not None else "expired"] += 1
        return reply

    async def _look(self) -> None:
        """Look at the store while questions wait."""
        try:
            while self._seen.waiting:
                await asyncio.sleep(_LOOK)
                snapshot = self._reader.begin()
                if snapshot is None:
                    continue
                try:
                    self._answer(snapshot)
                except Exception as error:  # noqa: BLE001 (those that wait are NXDOMAIN in time)
                    if is_damage(error):
                        self._damaged(error, snapshot)
                    else:
                        self._failed(error)
                finally:
                    snapshot.close()
        finally:
            self._task = None

    def _answer(self, snapshot: Snapshot) -> None:
        """Answer the questions whose names are not awaited any more."""
        seen = self._seen
        changed = (seen.generation, seen.commit) != (snapshot.generation, snapshot.commit)
        seen.generation, seen.commit = snapshot.generation, snapshot.commit
        for waiter in seen.waiting:
            if (waiter.looked and not changed) or waiter.reply.done():
                continue
            waiter.looked = True
            pending = waiter.pending
            node = snapshot.get(pending.target)
            if (node is not None and node[2] == _AWAITED) or pending.again is None:
                continue
            reply = pending.again(snapshot)
            if isinstance(reply, bytes):
                waiter.reply.set_result(reply)
            elif not (isinstance(reply, Pending) and reply.patience):
                waiter.reply.set_result(None)  # an alias to elsewhere by now: the client asks again
