"""Seeds of the simulation, mistakes that it has to find, and schedules that once failed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

import pytest
from headwater.cluster.objects import Namespace, Object

from tests.harness.small import Small, settings
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.runs import FOLDER, find, run_schedule, run_seed
from tests.simulation.schedule import Action, Schedule, of_seed, shrink
from tests.simulation.truth import CLUSTERSET, Truth, read
from tests.simulation.world import World

#: Seeds of `make test`; `make simulate SEEDS=…` takes any number.
_SEEDS: Final = 300
_PART: Final = 30

#: Shortened schedules that failed before the code was mended.
_FOUND: Final[dict[str, Schedule]] = {
    "a CRD that goes a second time, under --list stream, left its objects behind": Schedule(
        192,
        (
            Action("crd", 996841287), Action("restart", 844403356), Action("follow", 50578291),
            Action("time", 457293658), Action("crd", 382228622), Action("turn", 213644584), Action("crd", 141017566),
        ),
    ),
    "a host that moved, and a disk that was full then: its old address was served for ever": Schedule(
        26,
        (
            Action("calm", 393064662), Action("refuse", 41124068), Action("change", 627498783),
            Action("turn", 351928324), Action("restart", 1053547857),
        ),
    ),
}  # fmt: skip


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory(dir=FOLDER) as name:
        yield Path(name)


def _run_part(start: int) -> str:
    with TemporaryDirectory(dir=FOLDER) as name:
        result = find(range(start, start + _PART), Path(name))
    return "" if result is None else f"seed {result.schedule.seed} ({result.wrong!r})"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_whatever_comes_together_every_answer_was_true_and_all_ends_well() -> None:
    """`make simulate START=<seed> SEEDS=1` traces a seed step by step, and shortens it."""
    with ProcessPoolExecutor(min(4, os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
        wrong = [found for found in pool.map(_run_part, range(0, _SEEDS, _PART)) if found]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if mutant.known], ids=lambda mutant: mutant.name)
def test_a_mistake_is_found(mutant: Mutant, folder: Path) -> None:
    with mutant.in_force():
        assert find(mutant.known, folder) is not None
    assert find(mutant.known, folder) is None, "and it is the mistake that was found"


@pytest.mark.parametrize("name", _FOUND)
def test_what_was_found_once_is_right(name: str, folder: Path) -> None:
    assert run_schedule(_FOUND[name], folder).wrong is None


def test_a_seed_is_the_same_every_time(folder: Path) -> None:
    assert run_seed(3, folder, tracing=True).trace == run_seed(3, folder, tracing=True).trace


def test_a_schedule_is_shrunk_to_what_fails() -> None:
    schedule = of_seed(5)
    wanted = {schedule.actions[3], schedule.actions[-2]}
    assert set(shrink(schedule, lambda tried: wanted <= set(tried.actions)).actions) == wanted


@pytest.mark.parametrize("seed", range(20))
def test_the_truth_is_what_a_store_made_of_it_answers(seed: int, folder: Path) -> None:
    """Compare the judge's rules with the compiler and the resolver, without a simulation."""
    world = World(Schedule(seed, ()), folder / "unused")
    draw = Random(seed)
    for _ in range(30):
        world._change(draw)
    shape = settings(pods="verified", multicluster_zones=(CLUSTERSET,), reverse_zones=("in-addr.arpa",))
    objects: list[Object] = [held.object for some in world.api.objects.values() for held in some.values()]
    spaces = [item.name for item in objects if isinstance(item, Namespace)]
    small = Small(folder / "store", shape)
    small.fill(*(item for item in objects if not isinstance(item, Namespace)), namespaces=spaces)
    truth = Truth(world.api, "")
    for owner in world.owners:
        replies = small.ask_wire(*(question.query for question in owner.questions()))
        assert tuple(read(reply or b"") for reply in replies) == truth.now(owner), owner
