"""Run every input that fuzzing has found through its target again."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from headwater.answer.long import LongWay
from headwater.serve.http2 import Connection
from headwater.wire.question import Question

from tests.fuzz import seeds, targets
from tests.fuzz.targets import TARGETS

#: The least number of files besides the seeds.
_AT_LEAST: Final = {"http2": 30, "question": 3, "resolver": 10}


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_of_a_target(name: str) -> None:
    files = sorted((seeds.CORPUS / name).iterdir())
    assert len(files) >= _AT_LEAST[name]
    for file in files:
        try:
            TARGETS[name](file.read_bytes())
        except Exception as error:
            error.add_note(f"with {file.relative_to(Path(__file__).parent)}")
            raise


def test_the_corpus_is_small() -> None:
    """If it is not, `python -m tests.fuzz NAME --minimise` makes it so."""
    assert sum(1 for _ in seeds.CORPUS.rglob("*")) < 150


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_pass_too(name: str) -> None:
    tried = 0
    for seed in seeds.SEEDS[name]():
        TARGETS[name](seed)
        tried += 1
    assert tried >= 40


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_is_not_blind(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each target fails when the code under it is broken."""
    if name == "http2":
        monkeypatch.setattr(Connection, "_spend", lambda *_: 1 // 0)
    elif name == "question":
        monkeypatch.setattr(targets, "_parsed", lambda message: Question(message[:12] + message[12:].lower()))
    else:
        monkeypatch.setattr(LongWay, "_reply", lambda _, query, *__: query.message)

    def all_of_it() -> None:
        for sent in (*seeds.SEEDS[name](), *(file.read_bytes() for file in (seeds.CORPUS / name).iterdir())):
            targets.TARGETS[name](sent)

    with pytest.raises((AssertionError, ZeroDivisionError)):
        all_of_it()
