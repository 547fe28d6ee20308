"""Which members of a set one reply shows, and which of them is first: the tail of a LIMITED node.

Without weights the tail is a number, u16, from 1 on: a reply shows so many members, from another
one on each time. With weights (docs/answers.md) it is

    three choices, for A records, AAAA records and the rows of the SRV table:
        shown  u16   members of one reply
        sure   u16   of those, the first ones of the node are in every reply
        lead   u16   the first member of a reply is one of so many first ones of the node
        drawn  u16   behind the sure ones, so many take the places that are left by lot
        share  u16   the weight in an SRV record of those that were drawn
        lead x u32   the sums of their weights up to each
        drawn x u32  the same of these
    size   u32   bytes of the whole tail
    0      u16

All integers are big-endian. Members are stored in the order in which the choice counts them.

The lot: a point on the line of the drawn members' weights, and further points at equal distances.
No member is longer than a distance, because such a one is sure. So each is in a reply in proportion
to its weight, and no member is there twice (systematic sampling; Madow, 1949). The first member of
a reply is in proportion to its weight as well: it is a sure one as often as these weigh among all,
else it is the one of the first point.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

_HEAD: Final = struct.Struct(">5H")
_END: Final = struct.Struct(">IH")
_SUM: Final = 4
#: An odd number: its multiples of a turn are spread evenly also where the turn is known roughly.
_SPREAD: Final = 0x85EBCA6B
_BITS_32: Final = 0xFFFFFFFF

#: The choices of a tail, in order.
OF_A: Final = 0
OF_AAAA: Final = 1
OF_SRV: Final = 2


class Choice(NamedTuple):
    """One choice, as above."""

    shown: int = 0
    sure: int = 0
    lead: Sequence[int] = ()
    drawn: Sequence[int] = ()
    share: int = 0


def pack_tail(choices: Sequence[Choice]) -> bytes:
    """The tail of a node whose members have weights."""
    parts: list[bytes] = []
    for shown, sure, lead, drawn, share in choices:
        parts.append(_HEAD.pack(shown, sure, len(lead), len(drawn), share))
        parts.append(struct.pack(f">{len(lead) + len(drawn)}I", *lead, *drawn))
    body = b"".join(parts)
    return body + _END.pack(len(body) + _END.size, 0)


def tail_size(node: Any) -> int:
    """The bytes of the tail of a node that is LIMITED."""
    if node[-1] or node[-2]:
        return 2
    size: int = _END.unpack_from(node, len(node) - _END.size)[0]
    return size


def choice_of(node: Any, which: int) -> Choice:
    """A choice of a node whose members have weights."""
    at = len(node) - tail_size(node)
    for _ in range(which):
        _, _, lead, drawn, _ = _HEAD.unpack_from(node, at)
        at += _HEAD.size + _SUM * (lead + drawn)
    shown, sure, lead, drawn, share = _HEAD.unpack_from(node, at)
    sums = struct.unpack_from(f">{lead + drawn}I", node, at + _HEAD.size)
    return Choice(shown, sure, sums[:lead], sums[lead:], share)


def ranges(choice: Choice, turn: int) -> list[tuple[int, int]]:
    """The members of one reply in their order, as ranges of places in the node.

    `turn` is a fraction of 2**32.
    """
    shown, sure, lead, drawn, _ = choice
    if not lead:
        return [(0, shown)] if shown else []
    point = turn * lead[-1] >> 32
    first = bisect_right(lead, point)
    places = shown - sure
    if first < sure:
        turning = min(len(lead), sure)
        found = [(first, turning), (0, first), (turning, sure)]
        if places:
            whole = drawn[-1] * places
            start = (turn * _SPREAD & _BITS_32) * whole >> 32
            found += _points(sure, drawn, places, start)
        return found
    before = lead[sure - 1] if sure else 0
    start = (turn * lead[-1] * places >> 32) - before * places
    first_drawn, *others = _points(sure, drawn, places, start)
    return [first_drawn, (0, sure), *others]


def _points(sure: int, sums: Sequence[int], places: int, start: int) -> list[tuple[int, int]]:
    """The members on which points fall: the first at `start` of `places` times the line."""
    length = sums[-1]
    whole = length * places
    found = []
    for step in range(places):
        at = sure + bisect_right(sums, (start + step * length) % whole // places)
        found.append((at, at + 1))
    return found
