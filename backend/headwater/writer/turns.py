"""Whose turn it is: what waits, in the order in which it is committed.

One writer serves all namespaces. Were changes committed as they come, whoever
changes the most expensive Services would make everybody wait for them. So what
waits stands in a line for each namespace, and a turn, which becomes one
transaction, is made of the lines:

- A *light* turn has changes that are cheap, from every line that begins with some,
  those first that had least of late.
- A *heavy* turn has one expensive owner (a Service or a ServiceImport), and all that
  waits for it. Lines with such a one at their head take turns.
- A part of a list is a turn of its own, as if lists were one more such line.

Light turns go first. A heavy one comes when nothing light waits, or when light ones
have had as much time as a heavy one takes. So a light change is never behind more
than one heavy turn, unless it is behind light ones.

The order of the changes to one object is kept, and of those to one owner: all
its slices, and a slice that moves between two. All that waits for an expensive owner
is committed at once, before what came earlier for others of its namespace. No change
passes the coming or going of its namespace. A list is behind every change of
its resource that came before it, and before all that come later.

How far a resource was read is told in step with that: as `Progress` in the turn
after which nothing earlier waits. A process that is killed reads on from there; what
was committed before its turn comes again, and is known (`Ledger`).

Nothing here reads a clock or the store: what an owner costs comes from `Scales`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from operator import is_
from typing import Final, Protocol

import msgspec

from headwater.cluster.changes import Change, Progress, Remove, Upsert
from headwater.cluster.follower import RawPage
from headwater.cluster.objects import Resource
from headwater.writer.owners import Owner, breadth_of, key_of, owners_of

Event = Upsert | Remove

#: A change that costs more is heavy, in seconds.
HEAVY: Final = 0.02
#: What one line gets of a light turn before the next one's is looked at, and a light turn's sum.
_SHARE: Final = 0.01
_TURN: Final = 0.05
#: A heavy turn waits until light ones had that much; and it goes on to a second owner only within it.
_LONGEST: Final = 0.25
#: Changes per turn at most.
_CHANGES: Final = 1000
#: Changes that may wait, and about how many bytes they may have; beyond, they are left where they come from.
_MOST: Final = 5000
_MOST_BYTES: Final = 48 << 20
#: Owners whose cost is remembered.
_REMEMBERED: Final = 4096
#: What a change costs beside its owner's names: itself, and each of its addresses, in seconds.
_BASE: Final = 50e-6
_EACH: Final = 4e-6
#: What each address or port that an owner is to get costs it, in seconds.
_EACH_NAME: Final = 30e-6
#: What an object and each of its addresses or ports takes in memory, about, in bytes.
_BYTES: Final = 500
_BYTES_EACH: Final = 250
#: JSON bytes of a page that are decoded at once.
_PART: Final = 2 << 20


class Scales(Protocol):
    """What the store knows of what is to be done."""

    def owners(self, event: Event) -> Collection[Owner]:
        """Whose names follow from the object as it is stored."""

    def weigh(self, owner: Owner) -> float:
        """What it costs to compile an owner as it is stored, in seconds: no less than it will, if possible."""


def parts_of(page: RawPage) -> list[RawPage]:
    """A page in parts that are decoded in some 50 ms each, at least one; all but the first go on."""
    parts: list[list[msgspec.Raw]] = [[]]
    size = 0
    for item in page.items:
        if size >= _PART:
            parts.append([])
            size = 0
        parts[-1].append(item)
        size += len(memoryview(item))
    return [RawPage(page.resource, items, page.first and not at) for at, items in enumerate(parts)]


@dataclass(slots=True)
class _Mark:
    """A version that came, and whether it is done."""

    version: str
    done: bool = False


@dataclass(slots=True, eq=False)
class _Entry:
    """A change that waits in a line, and the marks of those that it has replaced."""

    event: Event
    breadth: int
    marks: list[_Mark]
    before: Collection[Owner] = ()
    """Owners that the object has by then, for another change of it waits before this one."""
    owners: Collection[Owner] | None = None

    @property
    def place(self) -> tuple[Resource, tuple[str, str]]:
        return self.event.resource, key_of(self.event)

    @property
    def size(self) -> int:
        """In memory, about, in bytes."""
        return _BYTES + _BYTES_EACH * self.breadth


@dataclass(slots=True, eq=False)
class _Line:
    """What waits of one namespace."""

    namespace: str
    had: float
    """What light turns have given it, or it would have had, in seconds."""
    entries: deque[_Entry] = field(default_factory=deque)
    last: dict[tuple[Resource, tuple[str, str]], _Entry] = field(default_factory=dict)
    """The last entry of each object."""
    heavy: int = 0
    """The number of its last heavy turn."""


@dataclass(slots=True)
class Turn:
    """What is committed next."""

    changes: list[Change | RawPage]
    """Events, then how far resources are read after them; or one part of a list."""
    part_of: Resource | None = None
    """The resource of whose list it is a part."""
    ends_page: bool = False
    """It has the last objects of a page."""


class Turns:
    """What waits. For one thread."""

    def __init__(self, scales: Scales, *, fair: bool = True) -> None:
        """Without `fair` changes are committed as they came, as many at once as wait."""
        self._scales = scales
        self._fair = fair
        self._lines: dict[str, _Line] = {}
        self._lists: dict[Resource, deque[tuple[Change | RawPage, bool]]] = {}
        """Lists, and what came after them: (change, whether it ends a page)."""
        self._marks: dict[Resource, deque[_Mark]] = {}
        """What came of each resource and is not done, or is behind such."""
        self._fresh: set[Resource] = set()
        """Resources of which something is done that is not told."""
        self._waiting: Counter[Resource] = Counter()
        """Changes in the lines."""
        self._count = 0
        self._size = 0
        self._costs: OrderedDict[Owner, float] = OrderedDict()
        self._light = 0.0
        """What light turns had since the last heavy one, in seconds."""
        self._had = 0.0
        """What a line has had that never had to wait."""
        self._turns = 0
        self._last_list = 0

    def __bool__(self) -> bool:
        return bool(self._lines or self._lists or self._fresh)

    @property
    def is_full(self) -> bool:
        """Whether what comes should be left where it is for now."""
        return self._count >= _MOST or self._size >= _MOST_BYTES

    def learn(self, costs: Mapping[Owner, float]) -> None:
        """Remember what owners have cost, in seconds."""
        for owner, seconds in costs.items():
            self._costs[owner] = seconds
            self._costs.move_to_end(owner)
        while len(self._costs) > _REMEMBERED:
            self._costs.popitem(last=False)

    # In

    def put(self, change: Change | RawPage) -> None:
        """Let a change wait."""
        behind = self._lists.get(change.resource)
        if behind is None:
            if isinstance(change, Upsert | Remove | Progress):
                self._put_event(change)
                return
            behind = self._lists[change.resource] = deque()
        if isinstance(change, RawPage):
            *parts, last = parts_of(change)
            behind.extend((part, False) for part in parts)
            behind.append((last, True))
            return
        behind.append((change, False))
        if isinstance(change, Upsert | Remove):
            self._count += 1
            self._size += _BYTES + _BYTES_EACH * breadth_of(change)

    def _put_event(self, event: Event | Progress) -> None:
        if isinstance(event, Progress):
            self._marks.setdefault(event.resource, deque()).append(_Mark(event.resource_version, done=True))
            self._fresh.add(event.resource)
            return
        resource, key = event.resource, key_of(event)
        mark = _Mark(event.resource_version if isinstance(event, Remove) else event.decoded.resource_version)
        self._marks.setdefault(resource, deque()).append(mark)
        name = (key[0] or key[1]) if self._fair else ""
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = _Line(name, self._had)
        breadth, before = breadth_of(event), line.last.get((resource, key))
        if before is not None and self._is_pressed:
            # Only the last state counts. What came of its owner in between is seen with it, or
            # after it: that is the part of a tenant who changes more than can be written.
            self._size += _BYTES_EACH * (breadth - before.breadth)
            before.before = (*before.before, *owners_of(before.event))
            before.event, before.breadth, before.owners = event, breadth, None
            before.marks.append(mark)
            return
        if resource == "namespaces":
            line.last.clear()  # nothing replaces what is before it
        entry = _Entry(event, breadth, [mark], () if before is None else owners_of(before.event))
        line.last[resource, key] = entry
        line.entries.append(entry)
        self._waiting[resource] += 1
        self._count += 1
        self._size += entry.size

    @property
    def _is_pressed(self) -> bool:
        return self._count >= _MOST // 2 or self._size >= _MOST_BYTES // 2

    # Out

    def next(self) -> Turn | None:
        """What to commit now; None when nothing waits. Of a part of a list say `settled`, or `later`."""
        if not self._lines:
            taken: Sequence[_Entry] = ()
        elif not self._fair:
            (line,) = self._lines.values()
            taken = self._take(line, list(islice(line.entries, _CHANGES)))
        elif self._count == 1:  # the usual case: nobody else waits
            (line,) = self._lines.values()
            taken = self._take(line, list(line.entries))
        else:
            if self._light >= _LONGEST and (turn := self._heavy_turn()) is not None:
                return turn
            taken = self._light_entries()
        if turn := self._turn(taken):
            return turn
        return self._heavy_turn()

    def _turn(self, taken: Sequence[_Entry]) -> Turn | None:
        changes: list[Change | RawPage] = [entry.event for entry in taken]
        changes += self._progress()
        return Turn(changes) if changes else None

    def _heavy_turn(self) -> Turn | None:
        """The line, or the lists, whose heavy turn is longest ago; None where nothing heavy waits."""
        line = min((line for line in self._lines.values() if self._is_heavy(line)), key=_last_turn, default=None)
        resource = next((item for item in self._lists if not self._waiting[item]), None)
        if line is None and resource is None:
            return None
        self._turns += 1
        self._light = 0.0
        if line is not None and (resource is None or line.heavy <= self._last_list):
            line.heavy = self._turns
            return self._turn(self._take(line, self._together(line)))
        assert resource is not None
        self._last_list = self._turns
        change, ends_page = self._lists[resource][0]
        return Turn([change], resource, ends_page)

    def settled(self, turn: Turn) -> None:
        """A turn is committed: after a part of a list comes what is behind it."""
        if turn.part_of is None:
            return
        behind = self._lists.pop(turn.part_of)
        behind.popleft()
        while behind and isinstance(behind[0][0], Upsert | Remove | Progress):
            event = behind.popleft()[0]
            assert isinstance(event, Upsert | Remove | Progress)
            if not isinstance(event, Progress):
                self._count -= 1
                self._size -= _BYTES + _BYTES_EACH * breadth_of(event)
            self._put_event(event)
        if behind:
            self._lists[turn.part_of] = behind  # other resources' lists come first

    def later(self, turn: Turn) -> None:
        """The end of a list is applied in part: it goes on when others had their turn."""
        if turn.part_of is not None:
            self._lists[turn.part_of] = self._lists.pop(turn.part_of)

    def _progress(self) -> Iterator[Progress]:
        """How far each resource is read, once what was taken is committed."""
        for resource in sorted(self._fresh):
            marks, version = self._marks[resource], ""
            while marks and marks[0].done:
                version = marks.popleft().version or version
            if version:
                yield Progress(resource, version)
        self._fresh.clear()

    def _take(self, line: _Line, entries: Sequence[_Entry]) -> Sequence[_Entry]:
        """Take these out of their line, in which they are in this order."""
        if all(map(is_, entries, line.entries)):
            for _ in entries:
                line.entries.popleft()
        else:
            taken = set(entries)
            line.entries = deque(entry for entry in line.entries if entry not in taken)
        for entry in entries:
            if line.last.get(entry.place) is entry:
                del line.last[entry.place]
            resource = entry.event.resource
            self._fresh.add(resource)
            self._waiting[resource] -= 1
            self._count -= 1
            self._size -= entry.size
            for mark in entry.marks:
                mark.done = True
        if not line.entries:
            del self._lines[line.namespace]
        return entries

    # Costs

    def _owners(self, entry: _Entry) -> Collection[Owner]:
        if entry.owners is None:
            found = {*owners_of(entry.event), *entry.before}
            if entry.event.resource == "endpointslices":
                found.update(self._scales.owners(entry.event))
            entry.owners = found
        return entry.owners

    def _price(self, entry: _Entry, known: Collection[Owner] = ()) -> float:
        """What a change costs, in seconds, together with others that have these owners."""
        price = _BASE + _EACH * entry.breadth
        for owner in self._owners(entry):
            if owner not in known:
                if (cost := self._costs.get(owner)) is None:
                    cost = self._scales.weigh(owner)
                    self.learn({owner: cost})
                price += cost + self._own(entry)
        return price

    @staticmethod
    def _own(entry: _Entry) -> float:
        """What an owner costs more for what a change brings, as the store does not know it."""
        return _EACH_NAME * entry.breadth

    def _is_heavy(self, line: _Line) -> bool:
        return self._price(line.entries[0]) > HEAVY

    def _light_entries(self) -> list[_Entry]:
        """What lines begin with that is cheap, a share of each."""
        taken: list[_Entry] = []
        lines = sorted(self._lines.values(), key=_had)
        self._had = max(self._had, lines[0].had)
        room = _TURN
        for line in lines:
            if room <= 0 or len(taken) >= _CHANGES:
                break
            share = min(_SHARE, room) if len(lines) > 1 else room
            had, mine, known = 0.0, 0, set[Owner]()
            for entry in islice(line.entries, _CHANGES - len(taken)):
                price = self._price(entry, known)
                if price > HEAVY or had >= share:
                    break
                known.update(self._owners(entry))
                had += price
                mine += 1
            taken += self._take(line, list(islice(line.entries, mine)))
            line.had = max(line.had, self._had) + had
            self._light += had
            room -= had
        return taken

    def _together(self, line: _Line) -> list[_Entry]:
        """What waits for the owners of a line's first change, as far as its namespace stays what it is."""
        first = line.entries[0]
        if first.event.resource == "namespaces":
            return [first]
        stretch = list(takewhile(lambda entry: entry.event.resource != "namespaces", line.entries))
        owners, places = set(self._owners(first)), {first.place}
        found: list[_Entry] = []
        while True:
            more = [item for item in stretch if item.place in places or not owners.isdisjoint(self._owners(item))]
            if len(more) == len(found):
                break
            found = more
            for entry in found:
                owners.update(self._owners(entry))
                places.add(entry.place)
        known = set[Owner]()
        cost = 0.0
        for at, entry in enumerate(found):
            cost += self._price(entry, known)
            if at and (cost > _LONGEST or at == _CHANGES):
                return found[:at]  # owners that are joined by slices which moved
            known.update(self._owners(entry))
        return found


def _had(line: _Line) -> float:
    return line.had


def _last_turn(line: _Line) -> int:
    return line.heavy
