"""CoreDNS's own `kubernetes` plugin as the oracle, on one API server, under
every flag that shapes answers.

The seeds are those of `python -m tests.answers`, which runs any number of them and explains its
output. Each intended difference has a name (`headwater.compare.deviations`,
docs/answers.md).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from headwater.compare.deviations import DEVIATIONS

from tests.answers.campaign import Outcome, name_servers, recorded, run
from tests.answers.corners import CORNERS
from tests.answers.generate import generate, mutate
from tests.answers.servers import CONFIGURATIONS, AnswersPlane, Pair, pairs
from tests.harness.plane import TOOLS, Plane
from tests.harness.processes import require_tool

SEEDS = range(8)
#: The least number of messages of a seed over all configurations; both servers get each.
LEAST = 10_000
#: The same of the recorded questions.
LEAST_RECORDED = 500
#: Seconds that a seed may take; it takes about 15 on two cores.
PATIENCE = 180
ANSWERS = Path(__file__).resolve().parents[2] / "docs" / "answers.md"


@dataclass
class Side:
    """All servers of this module, and the results so far."""

    plane: Plane
    pairs: Sequence[Pair]
    pool: Executor
    seeds: int = 0
    deviations: Counter[str] = field(default_factory=Counter)

    def judge(self, outcome: Outcome) -> None:
        self.deviations += outcome.tally.deviations
        if outcome.differences:
            shown = "\n".join(map(str, outcome.differences[:20]))
            pytest.fail(f"seed {outcome.seed}: {len(outcome.differences)} differences\n{shown}", pytrace=False)


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    """Start a separate plane, because the shared one has one family and other tests' objects."""
    for name in (*TOOLS, "coredns"):
        require_tool(name)
    folder = tmp_path_factory.mktemp("answers")
    with (
        AnswersPlane(folder / "plane") as plane,
        pairs(plane, folder, SEEDS) as running,
        ThreadPoolExecutor(2 * len(running)) as pool,
    ):
        yield Side(plane, running, pool)


@pytest.mark.timeout(PATIENCE)
def test_name_servers_of_the_zones_are_those_of_coredns(side: Side) -> None:
    side.judge(name_servers(side.plane, side.pairs, side.pool))


@pytest.mark.timeout(PATIENCE)
def test_what_real_systems_asked_is_answered_as_in_coredns(side: Side) -> None:
    outcome = recorded(side.plane, side.pairs, side.pool)
    side.judge(outcome)
    assert outcome.tally.messages > LEAST_RECORDED


@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_generated_cluster_answers_as_in_coredns(side: Side, seed: int) -> None:
    outcome = run(side.plane, side.pairs, seed, side.pool)
    side.seeds += 1
    side.judge(outcome)
    assert outcome.tally.messages > LEAST


def test_every_deviation_occurs(side: Side) -> None:
    """One that no longer occurs is not a deviation any more, or hides a real difference."""
    if side.seeds < len(SEEDS):
        pytest.skip("needs all seeds")
    assert {deviation.__name__ for deviation in DEVIATIONS} == {*side.deviations}


def test_every_deviation_is_documented() -> None:
    table = ANSWERS.read_text().split("## Deviations", 1)[1]
    documented = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(documented) == sorted(deviation.__name__ for deviation in DEVIATIONS)


def test_seeds_have_every_corner() -> None:
    worlds = [mutate(generate(seed))[0] for seed in SEEDS]
    assert {corner for world in worlds for corner in world.corners} == {corner.__name__ for corner in CORNERS}


def test_configurations_have_every_flag() -> None:
    """At least one configuration uses each field; fields with choices are used with every value."""
    for name in ("reverse", "imports", "zonal", "endpoint_pod_names", "ignore_empty_service", "some_namespaces",
                 "namespace_labels", "labels", "everywhere", "asked"):  # fmt: skip
        assert {bool(getattr(configuration, name)) for configuration in CONFIGURATIONS} == {True, False}, name
    assert {configuration.pods for configuration in CONFIGURATIONS} == {"disabled", "insecure", "verified"}
    assert len({configuration.ttl for configuration in CONFIGURATIONS}) > 1
    assert max(len(configuration.zones) for configuration in CONFIGURATIONS) > 1


def test_worlds_are_functions_of_their_seeds() -> None:
    for seed in SEEDS:
        assert generate(seed) == generate(seed)
        assert mutate(generate(seed)) == mutate(generate(seed))
