"""The page's advice: asked for in parts, once however many look, and kept for a while."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from headwater.admin import advising
from headwater.admin.advising import KEPT, Advising
from headwater.advice.finding import Advice, Finding, Rule, Subject
from headwater.process.control import Advise, Advised, BadQuestion, Refused


class Instance:
    """Answers with three parts, a namespace each; `now` passes by the hand of a test."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.now = 100.0
        self.gate = asyncio.Event()
        self.gate.set()
        self.refuses = False

    async def advise(self, asked: Advise) -> Advised | BadQuestion | Refused:
        self.asked.append(asked.after)
        await self.gate.wait()
        if self.refuses:
            return Refused("busy")
        number = int(asked.after or "0") + 1
        found = Finding(Rule.TTL, Subject("Service", str(number), "db"), "", "", "")
        return Advised(msgspec.json.encode(Advice([found], next=str(number) if number < 3 else None)))


def run(test: object) -> None:
    asyncio.run(test)  # type: ignore[arg-type]


def test_parts_are_one_advice_however_many_look() -> None:
    async def test() -> None:
        instance = Instance()
        advice = Advising(instance.advise, lambda: instance.now)
        found = await asyncio.gather(*(advice.latest() for _ in range(5)))
        assert instance.asked == ["", "1", "2"]
        assert [one.object.namespace for one in found[0].findings] == ["1", "2", "3"]  # type: ignore[union-attr]
        assert all(one is found[0] for one in found)

    run(test())


def test_it_is_kept_and_then_asked_for_anew() -> None:
    async def test() -> None:
        instance = Instance()
        advice = Advising(instance.advise, lambda: instance.now)
        await advice.latest()
        instance.now += KEPT
        await advice.latest()
        assert len(instance.asked) == 3
        instance.now += 0.1
        await advice.latest()
        assert len(instance.asked) == 6

    run(test())


def test_a_page_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advising, "_WAIT", 0.01)

    async def test() -> None:
        instance = Instance()
        advice = Advising(instance.advise, lambda: instance.now)
        instance.gate.clear()
        assert await advice.latest() is None
        assert await advice.latest() is None
        assert len(instance.asked) == 1
        instance.gate.set()
        async with asyncio.timeout(5):
            while await advice.latest() is None:
                await asyncio.sleep(0)

    run(test())


def test_who_refuses_leaves_what_was_known() -> None:
    async def test() -> None:
        instance = Instance()
        advice = Advising(instance.advise, lambda: instance.now)
        before = await advice.latest()
        instance.refuses, instance.now = True, instance.now + KEPT + 1
        assert await advice.latest() is before

    run(test())
