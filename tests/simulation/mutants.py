"""Mistakes that are put back into the code, one at a time, to see that the simulation finds them.

A mutant is a function of the package with some text of its source replaced; nothing
on disk changes. One whose text is not there any more is an error: it proves nothing.
"""

from __future__ import annotations

import __future__
import contextlib
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from unittest import mock

_applied: list[tuple[Any, str, Any, Any]] = []
"""(owner, name, the real function, the mistaken one) of the mutant that is in force."""


@dataclass(frozen=True, slots=True)
class Change:
    """In which function what is replaced by what. `place`: "module:Class.function"."""

    place: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """A mistake. `known`: seeds, of which one at least finds it."""

    name: str
    changes: tuple[Change, ...]
    known: tuple[int, ...]

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """The code with the mistake in it."""
        with contextlib.ExitStack() as stack:
            for change in self.changes:
                owner, name, real, mistaken = _mistaken(change)
                stack.enter_context(mock.patch.object(owner, name, mistaken))
                _applied.append((owner, name, real, mistaken))
            try:
                yield
            finally:
                _applied.clear()


def _mistaken(change: Change) -> tuple[Any, str, Any, Any]:
    module_name, _, path = change.place.partition(":")
    module = importlib.import_module(f"headwater.{module_name}")
    owner: Any = module
    *above, name = path.split(".")
    for item in above:
        owner = getattr(owner, item)
    real = vars(owner)[name]
    source = textwrap.dedent(inspect.getsource(real))
    if source.count(change.old) != 1:
        raise LookupError(f"{change.place} has this {source.count(change.old)} times: {change.old!r}")
    namespace: dict[str, Any] = {}
    code = compile(
        source.replace(change.old, change.new), f"<mutant of {change.place}>", "exec",
        flags=__future__.annotations.compiler_flag,
    )  # fmt: skip
    home = vars(inspect.getmodule(inspect.unwrap(real)))
    exec(code, home | {"__builtins__": home["__builtins__"]}, namespace)
    made = namespace[name]
    return owner, name, real, made


@contextlib.contextmanager
def unmutated() -> Iterator[None]:
    """The code as it is, for what a result is compared with."""
    with contextlib.ExitStack() as stack:
        for owner, name, real, _ in _applied:
            stack.enter_context(mock.patch.object(owner, name, real))
        yield


MUTANTS: Final[tuple[Mutant, ...]] = ()
