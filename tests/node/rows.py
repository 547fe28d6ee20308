"""What was seen while something was done on the node: a row of docs/reliability.md's table each."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from tests.node import ground
from tests.node.ground import RATE, Asked, Deployed, Seen, asking, pass_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.node.machine import Machine

#: Fresh ports: failures of a rollout (of 20,000 questions).
MOST_LOST: Final = 3
#: Seconds between CoreDNS's end of its `grpc` and its own: sockets that live on fail meanwhile.
ENDING: Final = 0.1
AROUND: Final = 3.0  # seconds of questions before and after

marks: Final = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]
long_form: Final = pytest.mark.skipif(
    os.environ.get("HEADWATER_NODE") != "long", reason="the long form: make node-test"
)


@dataclass
class Row:
    what: str
    asked: Asked
    note: str


ROWS: list[Row] = []


def seen_during(machine: Machine, deployed: Deployed, what: str, act: Callable[[], str | None]) -> Row:
    """Ask while `act` is done; its result is the row's note."""
    with asking(machine, ground.address(machine, deployed)) as asked:
        pass_time(AROUND)
        note = act()
        pass_time(AROUND)
    row = Row(what, asked, note or "")
    ROWS.append(row)
    for kind, seen in (("fresh ports", asked.fresh), ("long-lived", asked.long_lived)):
        print(f"{what}: {kind}: {seen}; failures by second: {seen.by_second()}", flush=True)
    return row


def lost_almost_nothing(seen: Seen) -> None:
    assert seen.asked >= RATE * AROUND
    assert seen.failed <= MOST_LOST, f"{seen}; {seen.by_second()}"
    assert "SERVFAIL" not in seen.seen, seen.by_second()
    assert "NXDOMAIN" not in seen.seen, seen.by_second()


def hardly_any_servfail(seen: Seen) -> None:
    """A socket that kube-proxy leaves with an old pod may ask while CoreDNS is about to end.

    With the lameduck that `deploy/base` once had it is some 2,500.
    """
    assert seen.seen.get("SERVFAIL", 0) <= RATE * ENDING, f"{seen}; {seen.by_second()}"


def report(rows: list[Row]) -> str:
    def cells(seen: Seen) -> str:
        servfail = seen.seen.get("SERVFAIL", 0)
        return f"{seen.asked:,} | {seen.failed - servfail:,} | {servfail:,}"

    lines = [
        "| done | fresh ports: asked | lost | SERVFAIL | long-lived: asked | lost | SERVFAIL | seen |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    lines += [f"| {row.what} | {cells(row.asked.fresh)} | {cells(row.asked.long_lived)} | {row.note} |" for row in rows]
    return "\n".join(lines)
