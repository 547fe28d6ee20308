"""Explanations, and the history, beside the queries: one at a time, and few that wait.

What explains knows Kubernetes's objects, and this room does not: it is handed in.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from headwater.answer.resolver import Resolver
from headwater.answer.unmade import Unmade
from headwater.process.control import (
    Advise,
    Advised,
    BadQuestion,
    Complete,
    Completed,
    Explain,
    Explained,
    History,
    Refused,
    Reply,
    Told,
)
from headwater.settings.settings import Settings
from headwater.store.environment import Reader

_log = logging.getLogger(__name__)

#: Explanations and completions under way and waiting, at most: each takes milliseconds of the
#: queries' interpreter.
MOST: Final = 4

#: A question and a store to an Explanation, a Completion or a part of the advice in JSON. Raises
#: ValueError for a type that there is not.
Explainer = Callable[[Explain | Complete | Advise, Reader, Resolver, Settings], bytes]


#: A question about the history and a store to its page in JSON. Raises ValueError for what makes no
#: sense.
Historian = Callable[[History, Reader, Settings], bytes]


class Explaining:
    """The handler of `Explain`, `Complete`, `Advise` and `History`."""

    def __init__(
        self,
        explain: Explainer,
        tell: Historian,
        reader: Reader,
        resolver: Resolver,
        settings: Settings,
        unmade: Unmade | None = None,
    ) -> None:
        """`resolver` is the one of the queries: it knows whether the store is stale.

        `unmade` as for a `Resolver`.
        """
        self._explain = explain
        self._tell = tell
        self._reader = reader
        self._queries_resolver = resolver
        # Of its own: what is explained is neither counted nor turned as a query is.
        self._resolver = Resolver(reader, settings, unmade=unmade)
        self._settings = settings
        self._places = threading.Semaphore(MOST)
        self._thread = ThreadPoolExecutor(1, "explain")

    def handle(self, asked: Explain | Complete | Advise | History, reply: Callable[[Reply], None]) -> None:
        """Reply later, or at once that there are too many."""
        if not self._places.acquire(blocking=False):
            reply(Refused(f"{MOST} names are being explained already: ask again"))
            return
        self._thread.submit(self._run, asked, reply)

    def _run(self, asked: Explain | Complete | Advise | History, reply: Callable[[Reply], None]) -> None:
        try:
            found = self._found(asked)
        except ValueError as error:
            found = BadQuestion(str(error))
        except Exception as error:  # noqa: BLE001 (it must not end the thread)
            _log.exception("%s cannot be told", str(asked)[:300])
            found = Refused(repr(error)[:500])
        finally:
            self._places.release()
        reply(found)

    def _found(self, asked: Explain | Complete | Advise | History) -> Reply:
        if isinstance(asked, History):
            return Told(self._tell(asked, self._reader, self._settings))
        self._resolver.set_stale(self._queries_resolver.stale)
        json = self._explain(asked, self._reader, self._resolver, self._settings)
        match asked:
            case Complete():
                return Completed(json)
            case Advise():
                return Advised(json)
        return Explained(json)
