"""What two replies to one question are to each other, in classes: pure functions."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from headwater.compare.messages import Query, Reply, accepted, alike, readable, written
from headwater.wire.header import AA, AD, CD, RA
from headwater.wire.types import Rcode


class Kind(StrEnum):
    """The class of a question: how the two replies differ, in the end."""

    SAME = "same"
    """The same records, and whatever else a client may see."""
    ORDER = "order"
    """The same records in another order."""
    LETTER_CASE = "letter_case"
    """Letters in another case, in a name or in the question that comes back."""
    TTL = "ttl"
    """Other TTLs, or other times in the SOA; the order may differ, too."""
    FLAGS = "flags"
    """Other header bits than the rcode, or another OPT; TTLs and order may differ, too."""
    AUTHORITY = "authority"
    """Another authority section: another server's SOA, as with `fallthrough`."""
    DEVIATION = "deviation"
    """A deviation of docs/answers.md, which has a name."""
    THEY_ARE_LATE = "they_are_late"
    """They differed, and did not any more after the other server had changed."""
    WE_ARE_LATE = "we_are_late"
    """They differed, and did not any more after Headwater had changed."""
    BOTH_CHANGED = "both_changed"
    """They differed, and did not any more after both had changed between two questions."""
    THEY_FAIL = "they_fail"
    """The other server cannot or will not answer: SERVFAIL, REFUSED, NOTIMP, FORMERR."""
    WE_FAIL = "we_fail"
    """Headwater says so."""
    THEY_ARE_SILENT = "they_are_silent"
    """No reply of the other server: none in time, or none that can be read."""
    WE_ARE_SILENT = "we_are_silent"
    """None of Headwater."""
    UNEXPLAINED = "unexplained"
    """Whatever is left."""


#: Classes of questions with which a client would get the same, or what is documented.
EXPLAINED: Final = frozenset(
    (
        Kind.SAME,
        Kind.ORDER,
        Kind.LETTER_CASE,
        Kind.TTL,
        Kind.FLAGS,
        Kind.AUTHORITY,
        Kind.DEVIATION,
        Kind.THEY_ARE_LATE,
        Kind.WE_ARE_LATE,
        Kind.BOTH_CHANGED,
    )
)
#: What asking again may change.
OPEN: Final = frozenset((Kind.THEY_FAIL, Kind.WE_FAIL, Kind.THEY_ARE_SILENT, Kind.WE_ARE_SILENT, Kind.UNEXPLAINED))
#: Bits that no resolver library shows to its caller.
_BENIGN: Final = AA | RA | AD | CD
_FAILURES: Final = frozenset((Rcode.FORMERR, Rcode.SERVFAIL, Rcode.NOTIMP, Rcode.REFUSED))


class Pair(NamedTuple):
    """Two replies to one question, read."""

    theirs: Reply | None
    ours: Reply | None
    kind: Kind


def judge(query: Query, theirs: bytes | None, ours: bytes | None) -> Pair:
    """The class of two replies, as far as they alone tell: no lateness, and no deviation.

    `theirs` and `ours` are messages for which `accepted` holds, or None.
    """
    one, two = _read(query, theirs), _read(query, ours)
    if theirs is None or ours is None or one is None or two is None:
        return Pair(one, two, Kind.THEY_ARE_SILENT if one is None else Kind.WE_ARE_SILENT)
    return Pair(one, two, _kind(query, one, two, theirs, ours))


def _read(query: Query, message: bytes | None) -> Reply | None:
    return readable(message) if message is not None and accepted(query, message) else None


def _kind(query: Query, one: Reply, two: Reply, theirs: bytes, ours: bytes) -> Kind:
    if alike(query, theirs, ours):
        return Kind.SAME
    if one.rcode != two.rcode:
        if one.rcode in _FAILURES:
            return Kind.THEY_FAIL
        return Kind.WE_FAIL if two.rcode in _FAILURES else Kind.UNEXPLAINED
    if _folded(one) == _folded(two):
        first, second = written(theirs), written(ours)
        if first.folded() != second.folded():
            return Kind.ORDER
        return Kind.SAME if first == second else Kind.LETTER_CASE
    if _folded(one).without_seconds() == _folded(two).without_seconds():
        return Kind.TTL
    if level(one) != level(two):
        return Kind.UNEXPLAINED
    first_soa, second_soa = one.without_seconds().authority, two.without_seconds().authority
    return Kind.FLAGS if first_soa == second_soa else Kind.AUTHORITY


def _folded(reply: Reply) -> Reply:
    """Less what is each server's own: its UDP size, its options; and the question in lower case."""
    opt = frozenset((owner, rtype, 0, bits, b"") for owner, rtype, _, bits, _ in reply.opt)
    return reply._replace(opt=opt, question=reply.question.lower())


def level(reply: Reply) -> Reply:
    """Less everything that a class but UNEXPLAINED is made of."""
    bare = reply.without_seconds()
    return bare._replace(
        flags=bare.flags & ~_BENIGN, question=bare.question.lower(), authority=frozenset(), opt=frozenset()
    )
