"""Records made from a snapshot's objects when they are asked for, while the writer makes them all.

The writer publishes a store as soon as it has every object (`Ledger`). In the second that it then
takes to make the records of ten thousand Services, an answer process makes those of the Services
that it is asked for. Both call the same code with the same objects, which stay as they are until
all records are there; so both have the same bytes. Only Services are left to be made: the zones'
names, namespaces, imports and pods are stored before anything is published.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, cast

from headwater.records.compiler import Compiler
from headwater.records.options import silent
from headwater.settings.settings import Settings
from headwater.store.environment import MAKING, Snapshot, Transaction
from headwater.writer.ledger import Making
from headwater.writer.posting import Posting, object_key

#: Bytes of names and nodes that are kept. A Service that has more is made for every question.
_MOST: Final = 8 << 20
#: Bytes that a name with its node takes beside their own, and a Service beside its names.
_EACH: Final = 160
_NOTHING: Final[Mapping[bytes, bytes]] = {}

Owner = tuple[str, str]
"""(namespace, name) of a Service."""


class FromObjects:
    """Makes the records of Services (`answer.unmade.Unmade`)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._made = _Made(None)
        self.on_made: Callable[[], None] = lambda: None

    @cached_property
    def _compiler(self) -> Compiler:
        """Made for the first question: hardly a start needs it, and each process has its own."""
        return Compiler(self._settings, (), silent)

    def view(self, snapshot: Snapshot) -> Snapshot:
        """See `Unmade.view`."""
        making = Making.of(snapshot.meta(MAKING) or b"").number
        made = self._made
        if making != made.making:
            made = self._made = _Made(making)
        stored, above = snapshot.get, self._compiler.above_services

        def get(name: bytes) -> Any:
            node = stored(name)
            if node is not None or (owner := owner_of(name, above)) is None:
                return node
            return self._nodes(owner, snapshot, made).get(name)

        return snapshot.with_get(get)

    def forget(self) -> None:
        """See `Unmade.forget`."""
        self._made = _Made(None)

    def _nodes(self, owner: Owner, snapshot: Snapshot, made: _Made) -> Mapping[bytes, bytes]:
        if (found := made.nodes.get(owner)) is not None:
            return found
        if snapshot.value("objects", object_key("services", owner)) is None:
            return _NOTHING
        posting = Posting(cast("Transaction", _Read(snapshot)), self._compiler, [], {}, compiling=True)
        found = posting.nodes_of(owner)
        self.on_made()
        size = _EACH + sum(_EACH + len(name) + len(node) for name, node in found.items())
        if made.size + size > _MOST:
            made.nodes, made.size = {}, 0
        if size <= _MOST:
            made.nodes[owner] = found
            made.size += size
        return found


class _Made:
    """What was made in one making of records; the objects may be others in the next one.

    A thread that still reads a moment of the one before has that one's.
    """

    __slots__ = ("making", "nodes", "size")

    def __init__(self, making: bytes | None) -> None:
        self.making = making
        self.nodes: dict[Owner, Mapping[bytes, bytes]] = {}
        self.size = 0


def owner_of(name: bytes, above: Sequence[bytes]) -> Owner | None:
    """The Service whose names it is among, if there is one; what follows a name's root is ignored.

    `above` are the names svc.Z; all of them are in lower case.
    """
    starts = []
    at = 0
    while size := name[at]:
        starts.append(at)
        at += 1 + size
    end = at + 1
    for suffix in above:
        at = end - len(suffix)
        if name.endswith(suffix, 0, end) and at in starts and (count := starts.index(at)) > 1:
            with contextlib.suppress(UnicodeDecodeError):
                namespace, service = name[starts[count - 1] + 1 : at], name[starts[count - 2] + 1 : starts[count - 1]]
                return namespace.decode("ascii"), service.decode("ascii")
    return None


class _Read:
    """A snapshot for `Posting`, which reads it as a transaction; what is to be written is not."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.get = snapshot.value
        self.meta = snapshot.meta
        self._snapshot = snapshot

    def scan(self, db: str, prefix: bytes = b"", start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return self._snapshot.scan(db, prefix, start)

    def unindex(self, db: str, key: bytes) -> None:
        """The decision of a policy, of which there is none."""
