"""The promises are numbered, every cited number exists, and each promise names existing tests."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "contracts.md"
#: "contract 5", "contracts 4 and 5", "promise 8".
CITED = re.compile(r"\b(?:contract|promise)s? (\d+)(?:(?:,| and) (\d+))?\b", re.IGNORECASE)
HEADING = re.compile(r"^## (\d+)\. ", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def sections(text: str) -> dict[int, str]:
    """Return the text under each number."""
    parts = HEADING.split(text)[1:]
    return {int(number): body for number, body in zip(parts[::2], parts[1::2], strict=True)}


def cited(text: str) -> set[int]:
    return {int(number) for found in CITED.finditer(text) for number in found.groups() if number}


@cache
def functions(file: str) -> frozenset[str]:
    """Return the names of a file's tests; none if it does not exist."""
    path = ROOT / file
    if not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


def missing(text: str) -> list[str]:
    """Return the tests that a text names and that do not exist."""
    named = TEST.findall(text)
    return [f"{file}::{name}" for file, name in named if not functions(file) or (name and name not in functions(file))]


CONTRACTS = sections(PAGE.read_text())


def test_the_numbers_follow_one_another() -> None:
    assert list(CONTRACTS) == list(range(1, len(CONTRACTS) + 1))


def test_every_number_that_is_cited_is_a_contract() -> None:
    wrong = []
    for folder in ("backend", "tests", "docs", "bench"):
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in (".py", ".md") and file != Path(__file__).resolve():
                wrong += [
                    f"{file.relative_to(ROOT)}: {number}" for number in cited(file.read_text()) - CONTRACTS.keys()
                ]
    assert not wrong


@pytest.mark.parametrize("number", CONTRACTS)
def test_a_contract_names_tests_that_are_there(number: int) -> None:
    assert len(TEST.findall(CONTRACTS[number])) >= 2, "a promise without a test"
    assert not missing(CONTRACTS[number])


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("contract 5: nothing", {5}), ("(Contracts 4 and 5)", {4, 5}), ("promise 8", {8}), ("contracts of 5", set())],
)
def test_citations_are_found(text: str, numbers: set[int]) -> None:
    assert cited(text) == numbers


def test_a_test_that_is_not_there_is_noticed() -> None:
    here = "tests/unit/test_contracts.py"
    assert not missing(f"`{here}::test_citations_are_found` `{here}`")
    assert missing(f"`{here}::test_nothing`") == [f"{here}::test_nothing"]
    assert missing("`tests/unit/test_nowhere.py`") == ["tests/unit/test_nowhere.py::"]
