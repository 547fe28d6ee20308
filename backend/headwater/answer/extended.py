"""Negative replies with the reason in words, as an extended error (RFC 8914): `--extended-errors`.

It stands around the two ways to a reply and changes neither: without the flag it is not there. What
knows the reasons knows Kubernetes's objects, and this room does not: it is handed in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from headwater.answer.alias import Pending
from headwater.answer.short import Answer
from headwater.store.environment import Snapshot, is_damage
from headwater.wire import edns
from headwater.wire.edns import Ede
from headwater.wire.header import AA, COUNTS, HEADER_SIZE, RCODE, flags_of
from headwater.wire.question import Question
from headwater.wire.types import Rcode

_log = logging.getLogger(__name__)

#: Bytes of a text. With its option it fits beside any SOA into a reply of usual size.
MAX_TEXT: Final = 120
#: The counts of a negative reply to a query with EDNS: the SOA, and our OPT.
_NEGATIVE: Final = COUNTS.pack(0, 1, 1)
_AT: Final = slice(HEADER_SIZE - COUNTS.size, HEADER_SIZE)

#: A question, whether its name exists, and the store: why the reply is negative; "" when nothing is
#: to be said.
Say = Callable[[Question, bool, Snapshot], str]


class Extended:
    """Answers as another does, and says why where there is nothing."""

    __slots__ = ("_otherwise", "_said", "_say")

    def __init__(self, otherwise: Answer, say: Say) -> None:
        self._otherwise = otherwise
        self._say = say
        self._said: set[type[Exception]] = set()
        """The sorts of bugs that were logged."""

    def answer(self, query: bytes, snapshot: Snapshot | None) -> bytes | Pending | None:
        """See `Resolver.answer`."""
        reply = self._otherwise(query, snapshot)
        if snapshot is None or not isinstance(reply, bytes) or reply[_AT] != _NEGATIVE:
            return reply
        flags = flags_of(reply)
        if not flags & AA:
            return reply
        question = Question(query)
        try:
            text = self._say(question, flags & RCODE == Rcode.NOERROR, snapshot)
        except Exception as error:
            if is_damage(error):
                raise
            # An answer without its reason is an answer.
            if type(error) not in self._said:
                self._said.add(type(error))
                _log.exception("the reason of a negative answer could not be told; that is logged once")
            return reply
        if not text or question.edns is None:
            return reply
        longer = edns.with_error(reply, Ede.OTHER, text, MAX_TEXT)
        # A client that would have to ask again over TCP for a text does without it.
        return longer if len(longer) <= question.edns.udp_size else reply
