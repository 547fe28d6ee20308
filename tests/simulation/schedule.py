"""A schedule is data: what is done, in which order. A seed makes one; one that fails is made shorter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

#: What can be done, and how often it is beside the others. `World` has a method for each.
WEIGHTS: Final[dict[str, int]] = {
    # what always goes on
    "change": 22, "follow": 22, "write": 16, "turn": 16, "time": 8, "bookmark": 3, "look": 2, "ahead": 8,
    # what the API server does
    "expire": 3, "expire_all": 2, "compact": 2, "cut": 3, "break": 3, "trouble": 3, "down": 1, "up": 2, "silence": 1,
    "repeat": 2, "backup": 1, "restore": 1, "crd": 2, "lie": 2, "vanish": 1, "credentials": 2,
    # what the machine does
    "refuse": 5, "squeeze": 4, "full": 3, "room": 2, "unpublish": 1, "slow": 2, "die": 2, "die_at": 4, "start": 4,
    "restart": 1,
    "wall": 2, "remove": 1,
    # what is asked of the process
    "poison": 2, "cure": 1, "audit": 1, "calm": 1,
}  # fmt: skip
#: What every schedule has; of the others each seed has some, so that few faults meet often.
_ALWAYS: Final = frozenset(("change", "follow", "write", "turn", "time", "start", "up", "room", "bookmark"))
_LENGTH: Final = (25, 80)
#: How many schedules begin with an instance that has listed everything: most of what can go wrong takes something away.
_SERVES_AT_FIRST: Final = 0.75


@dataclass(frozen=True, slots=True)
class Action:
    """Something that is done, and the number that decides its details."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name}({self.number})"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A whole run. `seed` decides what the instance is and what the cluster has at first."""

    seed: int
    actions: tuple[Action, ...]


def of_seed(seed: int) -> Schedule:
    """The schedule of a seed, always the same."""
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
    """A shorter schedule that still fails: parts are left out, ever smaller ones, as long as that helps."""
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
