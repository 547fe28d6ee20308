"""Measure what the number of names costs the resolver, with bench/resolver.py on several stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Final

from bench import resolver
from bench.report import spread, table
from bench.serving.goals import Goal, ratio

SIZES: Final = (1_000, 10_000, 100_000, 450_000, 1_000_000)
#: The number of names for which the resolver's goal is set.
_SIZE: Final = 450_000
_MOST_X: Final = 1.5

#: By size and case: us per query for each round, with one snapshot for 100 queries, and for dnslib.
Found = dict[int, dict[str, tuple[list[float], list[float]]]]


def measure(sizes: Sequence[int], rounds: int) -> Found:
    """Fill all stores first; then measure them in turn, in reverse order every other time."""
    with ExitStack() as stack:
        measurements = {}
        for size in sizes:
            measurements[size] = resolver.Measurement(stack.enter_context(resolver.filled(size)), size)
            stack.callback(measurements[size].close)
        for number in range(rounds):
            for size in sizes if number % 2 == 0 else sizes[::-1]:
                measurements[size].round()
        return {
            size: {title: (batch, dnslib) for title, (batch, _, dnslib) in one.found.items()}
            for size, one in measurements.items()
        }


def report(found: Found) -> str:
    rows = []
    for case in resolver.CASES:
        cells = [spread(by_case[case.title][0], 2) for by_case in found.values()]
        dnslib = next(reversed(found.values()))[case.title][1]
        rows.append((case.title, *cells, spread(dnslib)))
    return table(("us per query, names:", *(f"{size:,}" for size in found), "dnslib"), rows)


def goals(found: Mapping[int, Mapping[str, tuple[list[float], list[float]]]]) -> list[Goal]:
    """Return the goals for a name with one address."""
    title = resolver.CASES[0].title
    made = []
    if _SIZE in found:
        ours, dnslib = found[_SIZE][title]
        made.append(Goal(f"resolver at {_SIZE:,} names, x dnslib", ratio(ours, dnslib), resolver.GOAL, digits=3))
    usual, largest = (_SIZE if _SIZE in found else min(found)), max(found)
    seen = ratio(found[largest][title][0], found[usual][title][0])
    made.append(Goal(f"resolver at {largest:,} names, x at {usual:,}", seen, _MOST_X))
    return made
