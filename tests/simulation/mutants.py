"""Mistakes that are put into the code, one at a time, to see that the simulation finds them.

A mutant is a function of the package with some text of its source replaced; no file changes. A
mutant whose text the source no longer has is an error, because it proves nothing.
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
"""(owner, name, real function, mistaken function) of the active mutant."""


@dataclass(frozen=True, slots=True)
class Change:
    """A replacement in a function's source. `place` is "module:Class.function"."""

    place: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """A mistake. At least one of the `known` seeds finds it."""

    name: str
    changes: tuple[Change, ...]
    known: tuple[int, ...]

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Run the block with the mistake in the code."""
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
    source = inspect.getsource(real)
    if source.count(change.old) != 1:
        raise LookupError(f"{change.place} has this {source.count(change.old)} times: {change.old!r}")
    namespace: dict[str, Any] = {}
    code = compile(
        textwrap.dedent(source.replace(change.old, change.new)), f"<mutant of {change.place}>", "exec",
        flags=__future__.annotations.compiler_flag,
    )  # fmt: skip
    exec(code, vars(importlib.import_module(real.__module__)), namespace)
    return owner, name, real, namespace[name]


@contextlib.contextmanager
def unmutated() -> Iterator[None]:
    """Run the block with the real code, to compute the expected result."""
    with contextlib.ExitStack() as stack:
        for owner, name, real, _ in _applied:
            stack.enter_context(mock.patch.object(owner, name, real))
        yield


MUTANTS: Final[tuple[Mutant, ...]] = (
    Mutant(
        "a refused batch is settled again from its beginning; an end needs no list",
        (
            Change(
                "writer.process:Watcher._settle",
                "            self._commit_failures += 1\n",
                "            self._commit_failures += 1\n            self._left = deque(before)\n",
            ),
            Change(
                "writer.ledger:Ledger._end_list",
                "        if not self._store.read(lambda txn: lists.is_open(txn, resource)):\n            return\n",
                "",
            ),
        ),
        (10,),
    ),
    Mutant(
        "credentials that cannot be read end the process, a store or not",
        (
            Change(
                "writer.process:Watcher.start_sources",
                "        if not self._store.is_published:\n            connect().reload()\n",
                "        connect().reload()\n",
            ),
        ),
        (5,),
    ),
    Mutant(
        "one object that fails stops the process",
        (Change("writer.ledger:in_parts", "        except NOT_AN_OBJECTS:\n", "        except Exception:\n"),),
        (15,),
    ),
    Mutant(
        "the versions are written before what they stand for",
        (
            Change(
                "writer.ledger:Ledger._take_events",
                "            outcome.records_changed += self._write(partial(self._post, events=some), outcome.costs)\n",
                "            for part in (True, False):\n"
                "                these = [item for item in some if isinstance(item, Progress) is part]\n"
                "                self._write(partial(self._post, events=these), outcome.costs)\n",
            ),
        ),
        (44,),
    ),
    Mutant(
        "a list that broke off leaves its pages to the next one",
        (Change("writer.lists:begin", "    end(txn, resource, resources)\n", ""),),
        (29,),
    ),
    Mutant(
        "the checksum forgets what is deleted",
        (
            Change(
                "store.environment:Transaction.delete",
                "            self._checksum ^= zlib.crc32(before, zlib.crc32(key))\n",
                "",
            ),
        ),
        (0,),
    ),
    Mutant(
        "ready before the last resource is listed",
        (
            Change(
                "writer.ledger:Ledger._is_synced",
                "all(version for resource, version in self.versions().items() if resource not in without)",
                "sum(map(bool, self.versions().values())) >= len(self._resources) - 1",
            ),
        ),
        (0,),
    ),
    Mutant(
        "the serial follows the clock back",
        (Change("writer.ledger:Ledger._advance_serial", "max(before, int(self._clock()))", "int(self._clock())"),),
        (16,),
    ),
    Mutant(
        "a Service that is deleted leaves its address in the index",
        (
            Change(
                "writer.posting:Posting._service_changed",
                "        self._index_addresses(",
                "        if now is not None: self._index_addresses(",
            ),
        ),
        (5,),
    ),
    Mutant(
        "what a transaction that was refused has counted counts",
        (Change("writer.ledger:Ledger._batch", "list(self.counts), dict(self.objects)", "self.counts, self.objects"),),
        (15,),
    ),
    Mutant(
        "a page that does not come keeps its place",
        (Change("cluster.follower:Follower._list_page", "            self._inbox.pages.release()\n", ""),),
        (1,),
    ),
    Mutant(
        "an event that comes too late is believed",
        (
            Change("cluster.reflector:Reflector.event", "if is_older(", "if False and is_older("),
            Change("writer.ledger:Ledger._is_over", "if event.resource in self.doubts or not number:", "if True:"),
        ),
        (270,),
    ),
    Mutant(
        "a version that is gone is asked for again and again",
        (
            Change(
                "cluster.reflector:Reflector.failed",
                '                self._expired = True\n                self.state.resource_version = ""\n',
                "                self._expired = True\n",
            ),
        ),
        (1,),
    ),
    Mutant(
        "a version that the server does not know yet is waited for for ever",
        (Change("cluster.reflector:Reflector.failed", "if self._ahead >= _AHEAD:", "if False:"),),
        (10,),
    ),
    Mutant(
        "the first list that takes much away is believed",
        (Change("writer.ledger:Ledger._end_list", "if loss is not None and not change.confirms:", "if False:"),),
        (44,),
    ),
    Mutant(
        "a second list is as doubtful as the first",
        (Change("writer.ledger:Ledger._end_list", "loss is not None and not change.confirms", "loss is not None"),),
        (10,),
    ),
    Mutant(
        "while a list is in doubt, events move the version on",
        (Change("writer.ledger:Ledger._post", "if event.resource in self.doubts:", "if False:"),),
        (196,),
    ),
    Mutant(
        "a removed CRD's absence is told once in a lifetime of a streaming reflector",
        (Change("cluster.reflector:Reflector.initial_end", "        self._absent = False\n", ""),),
        (),
    ),
    Mutant(
        "namespaces that come and go touch nobody in them",
        (Change("writer.posting:Posting.compile", "if existed != exists and not anew:", "if False:"),),
        (5,),
    ),
    Mutant(
        "a store of other settings is served while it is compiled",
        (
            Change("store.environment:Reader.is_ready", " and self._is_of_these_settings(snapshot)", ""),
            Change("writer.ledger:Ledger._begin_records", '        txn.set_meta(READY, b"")\n', ""),
        ),
        (3,),
    ),
    Mutant(
        "what is deleted while a streamed list comes is not taken out of it",
        (Change("writer.ledger:Ledger._end_list", "if change.gone:", "if False:"),),
        (0,),
    ),
    Mutant(
        "an object of a list is applied page by page",
        (Change("writer.ledger:Ledger._post_page", "        if self.ready:\n", "        if False:\n"),),
        (4,),
    ),
    Mutant(
        "slices of one Service are applied in transactions of their own",
        (
            Change(
                "writer.lists:differing",
                "for owner, some in groupby(sorted(found), itemgetter(0)):",
                "for (owner, _), some in groupby(sorted(found), itemgetter(0, 1)):",
            ),
            Change("writer.lists:chunks", "size >= _CHUNK", "True"),
        ),
        (10,),
    ),
    Mutant(
        "a list that was put aside is forgotten when the process dies",
        (
            Change(
                "writer.process:Watcher.start_sources", "            if resource in due:\n", "            if False:\n"
            ),
        ),
        (963,),
    ),
    Mutant(
        "a name whose record is not made yet is said not to exist",
        (
            Change(
                "writer.unmade:FromObjects._nodes",
                '        if snapshot.value("objects", object_key("services", owner)) is None:\n',
                "        if True:\n",
            ),
        ),
        (5,),
    ),
)
