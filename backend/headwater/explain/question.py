"""A question about the history as the parameters of /history say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from headwater.explain.times import parse_moment
from headwater.process.control import History

#: Characters of a parameter.
_MOST: Final = 1024


def question(given: Mapping[str, str], now: float) -> History:
    """What a query string asks for. Raises ValueError."""
    for name, text in given.items():
        if len(text) > _MOST:
            raise ValueError(f"{name[:40]} is longer than {_MOST} characters")

    def moment(name: str) -> float:
        return parse_moment(given[name], now) if given.get(name) else 0.0

    def number(name: str, otherwise: int) -> int:
        text = given.get(name, "")
        if text and not (text.isascii() and text.isdigit() and len(text) < 20):
            raise ValueError(f"{name}={text[:40]!r} is not a number")
        return int(text) if text else otherwise

    at = moment("at")
    if at and not given.get("name"):
        raise ValueError("at=TIME needs name=NAME")
    return History(
        name=given.get("name", ""), namespace=given.get("namespace", ""), owner=given.get("owner", ""),
        ip=given.get("ip", ""), since=moment("since"), until=moment("until"), limit=number("limit", -1),
        before=number("before", 0), after=number("after", -1), at=at, qtype=given.get("type", "A").upper()[:16],
    )  # fmt: skip
