"""A fair order for waiting changes: namespaces take turns, and one turn becomes one transaction.

One writer serves all namespaces. If changes were committed in the order in which they arrive, a
namespace that changes expensive Services would delay all others. The waiting changes therefore
stand in one line per namespace, and each turn takes changes from the lines:

- A *light* turn takes cheap changes from every line that begins with some. The lines that recently
  had the least time come first.
- A *heavy* turn takes one expensive owner (a Service or a ServiceImport) and all changes that wait
  for it. Lines that begin with an expensive change take these turns one after another.
- A part of a list is a turn of its own, as if all lists were one more such line.

Light turns come first. A heavy turn comes when no light change waits, or when light turns have had
as much time as a heavy turn takes. A light change therefore waits for at most one heavy turn, or
for other light changes.

The changes to one object keep their order, and so do the changes to one owner: to all its slices,
and to a slice that moves between two owners. All changes that wait for an expensive owner are
committed at once, before earlier changes to other owners of its namespace. No change overtakes the
addition or deletion of its namespace. A list comes after every change of its resource that arrived
before it, and before all that arrive later.

A `Progress` says how far a resource was read. It is part of the first turn after which no earlier
change of the resource waits. A process that was killed reads on from there. A change that was
committed before its turn then arrives again, and the `Ledger` recognises it.

Nothing here reads a clock or the store. `Scales` gives the cost of an owner.
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
from headwater.writer.owners import Owner, breadth_of, key_of, owners_of, version_of

Event = Upsert | Remove

#: A change that costs more than this is heavy, in seconds.
HEAVY: Final = 0.02
#: The most that one line gets of a light turn, and the most of the whole light turn, in seconds.
_SHARE: Final = 0.01
_TURN: Final = 0.05
#: The light turns' time after which a heavy turn is due, and the most that a heavy turn of several
#: owners may cost, in seconds.
_LONGEST: Final = 0.25
#: Changes per turn at most.
_CHANGES: Final = 1000
#: Changes that may wait, and about how many bytes they may take. Beyond these they stay in the
#: queue.
_MOST: Final = 5000
_MOST_BYTES: Final = 48 << 20
#: The number of owners whose cost is remembered.
_REMEMBERED: Final = 4096
#: The cost of a change besides that of its owner: of the object, and of each address, in seconds.
_BASE: Final = 50e-6
_EACH: Final = 4e-6
#: What each address or port of a change adds to the cost of its owner, in seconds.
_EACH_NAME: Final = 30e-6
#: About how much memory an object and each of its addresses or ports take, in bytes.
_BYTES: Final = 500
_BYTES_EACH: Final = 250
#: Bytes of JSON of a page that are decoded in one turn.
_PART: Final = 2 << 20


class Scales(Protocol):
    """Estimates from the stored objects."""

    def owners(self, event: Event) -> Collection[Owner]:
        """Return the owners of the object as it is stored."""

    def weigh(self, owner: Owner) -> float:
        """Estimate the seconds to compile an owner as it is stored;
        rather too many than too few.
        """


def parts_of(page: RawPage) -> list[RawPage]:
    """Divide a page into parts that are decoded in about 50 ms each; there is at least one.

    Only the first part can begin the list (`RawPage.first`).
    """
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
    """A resourceVersion that arrived, and whether its change was taken into a turn."""

    version: str
    done: bool = False


@dataclass(slots=True, eq=False)
class _Entry:
    """A change that waits in a line, with its mark and those of the
    changes that it has replaced.
    """

    event: Event
    breadth: int
    marks: list[_Mark]
    before: Collection[Owner] = ()
    """Owners that the object will have when this change is applied,
    from its change before this one.
    """
    owners: Collection[Owner] | None = None

    @property
    def place(self) -> tuple[Resource, tuple[str, str]]:
        return self.event.resource, key_of(self.event)

    @property
    def size(self) -> int:
        """About how many bytes it takes in memory."""
        return _BYTES + _BYTES_EACH * self.breadth


@dataclass(slots=True, eq=False)
class _Line:
    """The waiting changes of one namespace."""

    namespace: str
    had: float
    """Seconds of light turns that it has had; a new line begins with `Turns._had`."""
    entries: deque[_Entry] = field(default_factory=deque)
    last: dict[tuple[Resource, tuple[str, str]], _Entry] = field(default_factory=dict)
    """The last entry of each object."""
    heavy: int = 0
    """The number of its last heavy turn; 0 if it has had none."""


@dataclass(slots=True)
class Turn:
    """The changes that are committed next, in one transaction."""

    changes: list[Change | RawPage]
    """Events, followed by the `Progress` of resources; or one part of a list."""
    part_of: Resource | None = None
    """The resource of the list that it is a part of."""
    ends_page: bool = False
    """Whether it has the last objects of a page."""


class Turns:
    """All waiting changes. Not safe for several threads."""

    def __init__(self, scales: Scales, *, fair: bool = True) -> None:
        """Without `fair`, changes are committed in the order in which they
        arrive, as many at once as wait.
        """
        self._scales = scales
        self._fair = fair
        self._lines: dict[str, _Line] = {}
        self._lists: dict[Resource, deque[tuple[Change | RawPage, bool]]] = {}
        """Lists, and the changes that arrived after them: (change, whether it ends a page)."""
        self._marks: dict[Resource, deque[_Mark]] = {}
        """The marks of each resource in order of arrival, from the first that is not done."""
        self._fresh: set[Resource] = set()
        """Resources with marks that are done and that no `Progress` has covered yet."""
        self._waiting: Counter[Resource] = Counter()
        """The number of changes in the lines, by resource."""
        self._count = 0
        self._size = 0
        self._costs: OrderedDict[Owner, float] = OrderedDict()
        self._light = 0.0
        """The cost of the light turns since the last heavy one, in seconds."""
        self._had = 0.0
        """The seconds with which a new line begins, so that it is not
        ahead of lines that have waited.
        """
        self._turns = 0
        self._last_list = 0

    def __bool__(self) -> bool:
        return bool(self._lines or self._lists or self._fresh)

    @property
    def is_full(self) -> bool:
        """Whether no more changes should be taken from the queue for now."""
        return self._count >= _MOST or self._size >= _MOST_BYTES

    def learn(self, costs: Mapping[Owner, float]) -> None:
        """Remember the measured costs of owners, in seconds."""
        for owner, seconds in costs.items():
            self._costs[owner] = seconds
            self._costs.move_to_end(owner)
        while len(self._costs) > _REMEMBERED:
            self._costs.popitem(last=False)

    # In

    def put(self, change: Change | RawPage) -> None:
        """Add a change to those that wait."""
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
        mark = _Mark(version_of(event))
        self._marks.setdefault(resource, deque()).append(mark)
        name = (key[0] or key[1]) if self._fair else ""
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = _Line(name, self._had)
        breadth, before = breadth_of(event), line.last.get((resource, key))
        if before is not None and self._is_pressed:
            # Only the last state counts. Changes to its owner that arrived in between are applied
            # with it or after it. That is the price for a tenant who changes more than can be
            # written.
            self._size += _BYTES_EACH * (breadth - before.breadth)
            before.before = (*before.before, *owners_of(before.event))
            before.event, before.breadth, before.owners = event, breadth, None
            before.marks.append(mark)
            return
        if resource == "namespaces":
            line.last.clear()  # a later change must not replace one that stands before this
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
        """Return the turn to commit now; None when nothing waits.

        When it is a part of a list, call `settled` after it is committed, or `later` if some of it
        is left.
        """
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
        """Return a turn of the line, or of the lists, whose last heavy turn is
        the oldest; None without any.
        """
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

    @staticmethod
    def alone(event: Event) -> Turn:
        """Return the turn of a change that came while nothing waits: what `put` and `next` make."""
        version = version_of(event)
        return Turn([event, Progress(event.resource, version)] if version else [event])

    def settled(self, turn: Turn) -> None:
        """Note that a turn is committed.

        After a part of a list, the changes behind it may go on.
        """
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
            self._lists[turn.part_of] = behind  # after the lists of other resources

    def later(self, turn: Turn) -> None:
        """Note that the end of a list is applied in part. It goes on after the turns of others."""
        if turn.part_of is not None:
            self._lists[turn.part_of] = self._lists.pop(turn.part_of)

    def _progress(self) -> Iterator[Progress]:
        """Yield how far each resource is read once the changes taken so far are committed."""
        for resource in sorted(self._fresh):
            marks, version = self._marks[resource], ""
            while marks and marks[0].done:
                version = marks.popleft().version or version
            if version:
                yield Progress(resource, version)
        self._fresh.clear()

    def _take(self, line: _Line, entries: Sequence[_Entry]) -> Sequence[_Entry]:
        """Remove these entries from their line, which has them in this order. Return them."""
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
        """Estimate the seconds of a change when the owners in `known` are compiled anyway."""
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
        """Estimate the seconds that a change adds to its owner's cost, which
        is that of the stored objects.
        """
        return _EACH_NAME * entry.breadth

    def _is_heavy(self, line: _Line) -> bool:
        return self._price(line.entries[0]) > HEAVY

    def _light_entries(self) -> list[_Entry]:
        """Take a share of each line's cheap changes, up to its first heavy one."""
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
        """Return the changes that wait for the owners of a line's first change.

        Changes after the next change of the namespace itself are not among them.
        """
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
                return found[:at]  # several owners, joined by slices that moved between them
            known.update(self._owners(entry))
        return found


def _had(line: _Line) -> float:
    return line.had


def _last_turn(line: _Line) -> int:
    return line.heavy
