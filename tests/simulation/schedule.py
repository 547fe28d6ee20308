"""A schedule: a list of actions, made from a seed, and shortened when it fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

#: The actions, and their relative frequency. `World` has a method for each.
WEIGHTS: Final[dict[str, int]] = {
    # the usual work
    "change": 22, "follow": 22, "write": 16, "turn": 16, "time": 8, "bookmark": 3, "look": 2, "ahead": 8,
    # faults of the API server
    "expire": 3, "expire_all": 2, "compact": 2, "cut": 3, "break": 3, "trouble": 3, "down": 1, "up": 2, "silence": 1,
    "repeat": 2, "backup": 1, "restore": 1, "crd": 2, "lie": 2, "vanish": 1, "credentials": 2,
    # faults of the machine
    "refuse": 5, "squeeze": 4, "full": 3, "room": 2, "unpublish": 1, "slow": 2, "die": 2, "die_at": 4, "start": 4,
    "restart": 1,
    "wall": 2, "remove": 1,
    # a sibling, and an instance in the place of this one that takes its store
    "sibling": 3, "replace": 2,
    # demands on the process
    "poison": 2, "cure": 1, "audit": 1, "calm": 1,
}  # fmt: skip
#: Actions of every schedule. Each seed has only some of the others, so that these meet often.
_ALWAYS: Final = frozenset(("change", "follow", "write", "turn", "time", "start", "up", "room", "bookmark"))
_LENGTH: Final = (25, 80)
#: The part of the schedules that begin after the first lists, because most faults need records to
#: lose.
_SERVES_AT_FIRST: Final = 0.75


@dataclass(frozen=True, slots=True)
class Action:
    """An action, and the number that decides its details."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name}({self.number})"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A whole run.

    `seed` decides the settings of the instance and the first objects of the cluster.
    """

    seed: int
    actions: tuple[Action, ...]


def of_seed(seed: int) -> Schedule:
    """Return the schedule of a seed, which is always the same."""
    draw = Random(seed)
    likely = draw.choice((0.2, 0.5, 0.5, 0.8))
    chosen = {
        name: weight * draw.choice((1, 1, 3))
        for name, weight in WEIGHTS.items()
        if name in _ALWAYS or draw.random() < likely
    }
    names = draw.choices(list(chosen), list(chosen.values()), k=draw.randint(*_LENGTH))
    if draw.random() < _SERVES_AT_FIRST:
        names.insert(0, "calm")
    return Schedule(seed, tuple(Action(name, draw.randrange(1 << 30)) for name in names))


def shrink(schedule: Schedule, fails: Callable[[Schedule], bool], attempts: int = 250) -> Schedule:
    """Return a shorter schedule that still fails, by leaving out smaller and smaller parts."""
    actions: Sequence[Action] = schedule.actions
    size = max(1, len(actions) // 2)
    while attempts:
        at, shorter = 0, False
        while at < len(actions) and attempts:
            tried = (*actions[:at], *actions[at + size :])
            attempts -= 1
            if fails(Schedule(schedule.seed, tried)):
                actions, shorter = tried, True
            else:
                at += size
        if size == 1 and not shorter:
            break
        size = max(1, size // 2)
    return Schedule(schedule.seed, tuple(actions))
