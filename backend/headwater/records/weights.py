"""Weights and priorities of a Service's endpoints (docs/answers.md).

headwater.dev/weights      web-0=10,web-1=90,*=1: by endpoint name, or pod name; * are all others
headwater.dev/priorities   web-1=10: the same; a lower number comes first (RFC 2782)

The word `from-pods` among the weights takes the annotation headwater.dev/weight of the pods that
are not named, with `--pods verified`.

They are in the SRV records as they are. For A and AAAA they say how often a member is first and,
where a reply shows only a part, how often it is in it (`store.choice`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from headwater.store.choice import Choice
from headwater.wire.names import MAX_LABEL

#: RFC 2782: both are unsigned 16-bit numbers.
MAX_NUMBER: Final = 0xFFFF
#: The weight of an endpoint that nothing names.
USUAL_WEIGHT: Final = 1
#: Entries of one annotation that are read, and its characters.
MAX_ENTRIES: Final = 1_000
MAX_TEXT: Final = 65_536
FROM_PODS: Final = "from-pods"
_OTHERS: Final = "*"
#: Characters of a pod's name (RFC 1123: a subdomain).
_MAX_POD: Final = 253

Preference = tuple[int, int]
"""(priority, weight) of an endpoint."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights and priorities that a Service's owner gave."""

    weights: Mapping[str, int] = field(default_factory=dict)
    """By the lower-cased name of an endpoint or a pod; "*" for all others."""
    priorities: Mapping[str, int] = field(default_factory=dict)
    from_pods: bool = False

    def of(self, names: Sequence[str], pod_weight: str = "") -> Preference:
        """The preference of an endpoint with these names; the first that is known counts.

        `pod_weight` is its pod's annotation. One that does not parse counts as absent.
        """
        weight = _first(self.weights, names)
        if weight is None and self.from_pods:
            weight = number(pod_weight)
        if weight is None:
            weight = self.weights.get(_OTHERS, USUAL_WEIGHT)
        priority = _first(self.priorities, names)
        return self.priorities.get(_OTHERS, 0) if priority is None else priority, weight


def _first(known: Mapping[str, int], names: Sequence[str]) -> int | None:
    for name in names:
        if name in known:
            return known[name]
    return None


def number(text: str) -> int | None:
    """A weight or a priority; None for anything else."""
    if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= MAX_NUMBER:
        return int(text)
    return None


def parse(text: str) -> tuple[dict[str, int], bool, str]:
    """The numbers by name, whether `from-pods` is among them, and what is wrong ("" for nothing).

    An entry that does not parse is left out; the others count.
    """
    if len(text) > MAX_TEXT:
        return {}, False, f"more than {MAX_TEXT:,} characters"
    entries = text.split(",", MAX_ENTRIES)
    found: dict[str, int] = {}
    from_pods, wrong = False, []
    if len(entries) > MAX_ENTRIES:
        entries.pop()
        wrong.append(f"more than {MAX_ENTRIES:,} entries")
    for entry in entries:
        item = entry.strip()
        if item == FROM_PODS:
            from_pods = True
            continue
        name, equals, value = item.partition("=")
        name, known = name.strip().lower(), number(value.strip())
        if not equals or not name or len(name) > _MAX_POD or known is None:
            wrong.append(f"{item[:40]!r} is not NAME=NUMBER, a number up to {MAX_NUMBER}")
        elif name in found:
            wrong.append(f"{name[:MAX_LABEL]!r} is there twice: the first counts")
        else:
            found[name] = known
    more = f", and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
    return found, from_pods, wrong[0] + more if wrong else ""


def chosen(preferences: Sequence[Preference], limit: int) -> tuple[list[int], list[Preference], Choice]:
    """The order of a set's members, their numbers in SRV records, and the choice of a reply's.

    `preferences` are of the members as they stand; the second list is in the new order. `limit`:
    how many members a reply shows, 0 for all. The best priority comes first. In it, a member
    without weight is the first only when no other has weight.
    """
    places = min(limit or len(preferences), len(preferences))
    sure: list[int] = []
    drawn: list[int] = []
    beyond: list[int] = []
    lead: list[int] = []
    share = 0
    numbers = list(preferences)
    for rank, members in enumerate(_ranks(preferences)):
        weight = {at: max(1, preferences[at][1]) for at in members}
        room = places - len(sure)
        if drawn or not room:
            beyond += members
        elif room >= len(members):
            sure += members
        else:
            certain, drawn, total = _divided(members, weight, room)
            sure += certain
            share = _drawn_share(preferences, numbers, drawn, total, room - len(certain))
        if rank == 0:
            lead = [weight[at] for at in [*sure, *drawn]]
    order = [*sure, *drawn, *beyond]
    choice = Choice(
        places, len(sure), _sums(lead), _sums([max(1, preferences[at][1]) for at in drawn]), share
    )  # fmt: skip
    return order, [numbers[at] for at in order], choice


def _ranks(preferences: Sequence[Preference]) -> Iterable[list[int]]:
    """The members of each priority; those without weight come after those that have some."""
    ranks: dict[tuple[int, bool], list[int]] = {}
    for at, (priority, weight) in enumerate(preferences):
        ranks.setdefault((priority, weight == 0), []).append(at)
    return (ranks[key] for key in sorted(ranks))


def _divided(members: Sequence[int], weight: Mapping[int, int], room: int) -> tuple[list[int], list[int], int]:
    """Those that are in every reply, the others, and the weight of these.

    A member is sure of its place when it weighs as much as a place does.
    """
    total = sum(weight.values())
    certain: list[int] = []
    for at in sorted(members, key=lambda item: -weight[item]):
        if weight[at] * room < total:
            break
        certain.append(at)
        total -= weight[at]
        room -= 1
    known = set(certain)
    return certain, [at for at in members if at not in known], total


def _drawn_share(
    preferences: Sequence[Preference], numbers: list[Preference], drawn: Sequence[int], total: int, places: int
) -> int:
    """The weight, in SRV records, of a member that was drawn: all of them have the same.

    They are drawn in proportion to their weights, so clients must not weigh them again. Where it
    is more than a record can hold, all weights of that priority shrink: `numbers` is changed.
    """
    priority, weight = preferences[drawn[0]]
    if not weight:
        return 0
    share = max(1, round(total / places))
    if share > MAX_NUMBER:
        shrink = MAX_NUMBER / share
        for at, (mine, known) in enumerate(numbers):
            if mine == priority and known:
                numbers[at] = mine, max(1, round(known * shrink))
        share = MAX_NUMBER
    return share


def _sums(weights: Iterable[int]) -> list[int]:
    found: list[int] = []
    total = 0
    for weight in weights:
        total += weight
        found.append(total)
    return found
