"""`headwater compare` beside CoreDNS's own `kubernetes` plugin, on one API server: nothing that
nothing explains.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

from tests.answers.campaign import Outcome, run
from tests.answers.servers import CONFIGURATIONS, AnswersPlane, Pair, pairs
from tests.harness.plane import TOOLS
from tests.harness.processes import require_tool

SEED: Final = 3
#: With reverse zones, pods' names, topology zones and ServiceImports among them.
NAMES: Final = ("plain", "insecure", "labels", "imports")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[Pair]]:
    """One seed's cluster, as it is after its changes; both servers of each configuration have seen
    it.
    """
    for name in (*TOOLS, "coredns"):
        require_tool(name)
    folder = tmp_path_factory.mktemp("compare")
    configurations = [configuration for configuration in CONFIGURATIONS if configuration.name in NAMES]
    with (
        AnswersPlane(folder / "plane") as plane,
        pairs(plane, folder, [SEED], configurations) as started,
        ThreadPoolExecutor(4) as pool,
    ):
        outcome: Outcome = run(plane, started, SEED, pool)
        assert not outcome.differences
        yield started


def compare(pair: Pair, *arguments: str) -> tuple[int, dict[str, Any]]:
    headwater = pair.headwater
    done = subprocess.run(
        [sys.executable, "-m", "headwater", "compare", *headwater.command()[headwater.command().index("serve") + 1 :],
         "--with", f"127.0.0.1:{pair.oracle.port}", "--rate", "3000", "--patience", "10s", "--json", *arguments],
        capture_output=True, text=True, timeout=110, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def unexplained(report: dict[str, Any]) -> list[Any]:
    return [(item["class"], item["examples"][:10]) for item in report["classes"] if not item["explained"]]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_to_be_explained(name: str, running: Sequence[Pair]) -> None:
    pair = next(pair for pair in running if pair.configuration.name == name)
    code, report = compare(pair, "--neighbours", "3")
    assert not unexplained(report)
    assert code == 0
    assert report["questions"] > 1_000
    classes = {item["class"] for item in report["classes"]}
    assert classes >= {"same", "deviation"}


def test_the_same_over_tcp_and_through_coredns_and_from_the_store(running: Sequence[Pair]) -> None:
    pair = running[0]
    for arguments in (["--tcp"], ["--ours", f"127.0.0.1:{pair.ours.port}"], ["--ours", "store"]):
        code, report = compare(pair, "--sample", "1500", *arguments)
        assert not unexplained(report), arguments
        assert code == 0


def test_what_differs_is_found(running: Sequence[Pair], tmp_path: Path) -> None:
    """Beside the server of another configuration: pods' names, and TTLs."""
    pair = running[0]
    other = next(pair for pair in running if pair.configuration.name == "insecure")
    headwater = pair.headwater
    done = subprocess.run(
        [sys.executable, "-m", "headwater", "compare", *headwater.command()[headwater.command().index("serve") + 1 :],
         "--with", f"127.0.0.1:{other.oracle.port}", "--rate", "3000", "--patience", "0.2s"],
        capture_output=True, text=True, timeout=110, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "TTLs: a cache counts them down" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("NOT ALIKE")
