"""Everything that fuzzing has ever found goes through its target again."""

from __future__ import annotations

from pathlib import Path

import pytest
from headwater.answer.resolver import Resolver
from headwater.serve.http2 import Connection
from headwater.wire.question import parse

from tests.fuzz import seeds, targets
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_of_a_target(name: str) -> None:
    files = sorted((seeds.CORPUS / name).iterdir())
    assert len(files) >= 40
    for file in files:
        try:
            TARGETS[name](file.read_bytes())
        except Exception as error:
            error.add_note(f"with {file.relative_to(Path(__file__).parent)}")
            raise


def test_the_seeds_pass_too() -> None:
    for seed in seeds.http2():
        TARGETS["http2"](seed)
    for seed in seeds.queries():
        TARGETS["question"](seed)
        TARGETS["resolver"](seed)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_is_not_blind(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fails when what it looks at is broken."""
    if name == "http2":
        monkeypatch.setattr(Connection, "_spend", lambda *_: 1 // 0)
    elif name == "question":
        monkeypatch.setattr(targets, "parse", lambda message: parse(message[:12] + message[12:].lower()))
    else:
        monkeypatch.setattr(Resolver, "_long_way", lambda _, query, __: query)

    def all_of_it() -> None:
        for file in (seeds.CORPUS / name).iterdir():
            targets.TARGETS[name](file.read_bytes())

    with pytest.raises((AssertionError, ZeroDivisionError)):
        all_of_it()
