"""One object that makes a transaction fail is found, and the others are committed without it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Final, TypeVar

from headwater.store.environment import StoreDamaged, StoreFull

_T = TypeVar("_T")

#: What no object is to blame for: leaving one out would not help.
NOT_AN_OBJECTS: Final = (StoreFull, StoreDamaged, MemoryError)
#: A text of an error is told this far, in characters.
_TEXT: Final = 200


class Unstorable(ValueError):  # noqa: N818 (a description of the object)
    """An object that no store can keep; the text says why."""


def in_parts(
    items: Sequence[_T], commit: Callable[[Sequence[_T]], None], leave_out: Callable[[_T, Exception], None]
) -> None:
    """Commit items in their order, in as few transactions as it takes; `leave_out` those that fail alone.

    A part that fails is halved; after one that went through twice as many are
    tried. So one bad item among n costs 2 log2(n) transactions. Raises what no
    object is to blame for, and what an empty part raises.
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
    """An error in one line; an unexpected one with the place in our code that it comes from."""
    if isinstance(error, Unstorable):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({PurePath(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"unexpected {type(error).__name__}: {str(error)[:_TEXT]}{place}"
