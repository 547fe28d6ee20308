"""Find the one object that makes a transaction fail, and commit the others without it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Final, TypeVar

from headwater.store.environment import StoreDamaged, StoreFull

_T = TypeVar("_T")

#: Errors that no single object causes: to leave one out would not help.
NOT_AN_OBJECTS: Final = (StoreFull, StoreDamaged, MemoryError)
#: The longest part of an error's text that is logged, in characters.
_TEXT: Final = 200


class Unstorable(ValueError):  # noqa: N818 (a description of the object)
    """An object cannot be stored; the text says why."""


def in_parts(
    items: Sequence[_T], commit: Callable[[Sequence[_T]], None], leave_out: Callable[[_T, Exception], None]
) -> None:
    """Commit items in order, in as few transactions as possible; call
    `leave_out` for each that fails alone.

    A part that fails is halved. After a part that succeeds, the next one is twice as large. One bad
    item among n therefore costs 2 log2(n) transactions. Raises NOT_AN_OBJECTS, and the error of an
    empty part.
    """
    at, size = 0, len(items)
    while True:
        part = items[at : at + size]
        try:
            commit(part)
        except NOT_AN_OBJECTS:
            raise
        except Exception as error:
            if not part:
                raise
            if len(part) > 1:
                size = (len(part) + 1) // 2
                continue
            leave_out(part[0], error)
        at += len(part)
        size *= 2
        if at >= len(items):
            return


def told(error: Exception) -> str:
    """Return an error's text in one line; for an unexpected error with the place in
    our code where it was raised.
    """
    if isinstance(error, Unstorable):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({PurePath(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"unexpected {type(error).__name__}: {str(error)[:_TEXT]}{place}"
