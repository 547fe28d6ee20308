"""Headwater's answers without an instance: from a store, by the code that answers in one."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from typing import Final

from headwater.answer.alias import Pending
from headwater.answer.resolver import Resolver
from headwater.compare.asking import Answer
from headwater.compare.messages import Query
from headwater.serve.upstream import Upstream
from headwater.settings.address import Address
from headwater.store.environment import Reader

#: Seconds between two looks whether the store has been replaced by another.
_FOLLOW: Final = 1.0


class StoreServer:
    """Belongs to one event loop. `reader` and `resolver` are not closed here."""

    def __init__(self, reader: Reader, resolver: Resolver, upstreams: Sequence[Address]) -> None:
        self._reader = reader
        self._resolver = resolver
        self._upstream = Upstream(upstreams)
        self._followed = 0.0

    async def ask(self, query: Query) -> Answer:
        now = time.monotonic()
        if now - self._followed > _FOLLOW:
            self._followed = now
            self._reader.follow()
        snapshot = self._reader.begin()
        try:
            reply = self._resolver.answer(query.wire(secrets.randbelow(1 << 16)), snapshot)
        finally:
            if snapshot is not None:
                snapshot.close()
        if isinstance(reply, Pending):
            records: Sequence[bytes] = ()
            if not reply.patience:  # a name that is awaited is not there now
                records = await self._upstream.lookup(reply.target, reply.qtype, reply.tenant)
            reply = reply.finish(records)
        else:
            await asyncio.sleep(0)  # others have their turn
        return Answer(reply, "" if reply else "no reply", time.monotonic())

    async def close(self) -> None:
        """Nothing is held."""
