"""/history and /events without a socket: who may ask, who gets what, and what waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx
import msgspec
import pytest
from headwater.admin import events
from headwater.admin.events import Events, Reader, event_of
from headwater.admin.recent import Recent
from headwater.admin.server import application
from headwater.explain.named import named
from headwater.explain.question import question
from headwater.explain.told import Owner, Page, Told
from headwater.process.control import (
    Advise,
    Advised,
    BadQuestion,
    Complete,
    Completed,
    Explain,
    Explained,
    History,
    Refused,
)
from headwater.process.control import Told as Reply
from headwater.process.counters import ProcessView
from headwater.settings.settings import Settings

ALL = History()
DB = "db.default.svc.cluster.local"


def entry(seq: int, service: str = "db", namespace: str = "default", added: str = "10.0.0.1 db-0") -> Told:
    owner = Owner("Service", namespace, service)
    return Told(seq, "2027-01-15T08:00:00.000Z", 1, "change", owner, [added], [], 0, None, None, "text")


def gap(seq: int) -> Told:
    return Told(seq, "2027-01-15T08:00:00.000Z", 1, "gap", None, [], [], 0, None, None, "gap: ...")


class Instance:
    """A supervisor whose answer processes hold these entries."""

    def __init__(self, *entries: Told, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.recent = Recent()
        self.entries = list(entries)
        self.asked: list[History] = []
        self.reply: Reply | BadQuestion | Refused | None = None

    async def refresh(self) -> None: ...

    def views(self) -> list[ProcessView]:
        return []

    async def explain(self, asked: Explain) -> Explained | BadQuestion | Refused:
        return Refused("no")

    async def complete(self, asked: Complete) -> Completed | BadQuestion | Refused:
        return Refused("no")

    async def advise(self, asked: Advise) -> Advised | BadQuestion | Refused:
        return Refused("no")

    async def history(self, asked: History) -> Reply | BadQuestion | Refused:
        self.asked.append(asked)
        if self.reply is not None:
            return self.reply
        found = Page(newest=self.entries[-1].seq if self.entries else 0)
        later = [item for item in self.entries if item.seq > asked.after]
        found.entries = later[: asked.limit]
        if len(later) > len(found.entries):
            found.next = found.entries[-1].seq if found.entries else later[0].seq
        return Reply(msgspec.json.encode(found))


def get(instance: Instance, path: str, client: str = "127.0.0.1", host: str = "localhost") -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(application(instance), client=(client, 4000))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as session:
            return await session.get(path)

    return asyncio.run(ask())


@pytest.mark.parametrize("path", ["/history", "/events"])
def test_names_are_shown_to_those_who_may_see_them(path: str) -> None:
    for client, host in (("10.0.0.9", "localhost"), ("127.0.0.1", "evil.example")):
        reply = get(Instance(entry(1)), path, client, host)
        assert reply.status_code == 403
        assert "db" not in reply.text.partition(".")[0]
    assert get(Instance(entry(1), settings=Settings(admin_details="all")), "/history", "10.0.0.9").status_code == 200


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("/history?since=noon", "'noon' is not a time"),
        ("/history?at=10m", "at=TIME needs name=NAME"),
        ("/history?limit=many", "limit='many' is not a number"),
        ("/history?before=-1", "before='-1' is not a number"),
        (f"/history?name={'x' * 2000}", "name is longer than 1024 characters"),
        ("/events?name=example.org.", "belongs to no Service"),
        ("/events?owner=db", "'db' is not NAMESPACE/NAME"),
        (f"/events?namespace={'x' * 2000}", "namespace is longer than 1024 characters"),
    ],
)
def test_a_question_that_makes_no_sense_is_answered_with_a_line(query: str, says: str) -> None:
    instance = Instance(entry(1))
    reply = get(instance, query)
    assert (reply.status_code, says in reply.text, reply.text.count("\n")) == (400, True, 1)
    assert not instance.asked


def test_what_an_answer_process_refuses_is_passed_on() -> None:
    instance = Instance()
    for found, status in ((BadQuestion("why"), 400), (Refused("busy"), 503)):
        instance.reply = found
        reply = get(instance, "/history?name=db.default")
        assert (reply.status_code, reply.text) == (status, f"{found.why}\n")


def test_every_parameter_reaches_the_answer_process() -> None:
    instance = Instance()
    get(instance, f"/history?name={DB}&namespace=n&owner=a/b&ip=10.0.0.1&since=100&until=200&limit=7&before=9&after=3")
    get(instance, f"/history?name={DB}&at=150.5&type=aaaa")
    assert instance.asked == [
        History(DB, "n", "a/b", "10.0.0.1", 100.0, 200.0, 7, 9, 3),
        History(DB, at=150.5, qtype="AAAA"),
    ]


def test_a_number_of_any_size_is_a_number() -> None:
    assert question({"before": "9" * 19}, 0.0).before == int("9" * 19)
    with pytest.raises(ValueError):
        question({"before": "9" * 20}, 0.0)


def reader(query: str = "") -> Reader:
    given = dict([query.split("=")] if query else [])
    asked = question(given, 0.0)
    return Reader(asked, named(asked.name, Settings()) if asked.name else None, None)


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", {1, 2, 3, 4, 5}), ("namespace=other", {3, 5}), ("owner=default/db", {1, 4, 5}),
        (f"name={DB}", {1, 4, 5}), (f"name=db-1.{DB}", {4, 5}), ("name=web.default", {2, 5}),
    ],
)  # fmt: skip
def test_each_gets_what_concerns_him_and_every_gap(query: str, wanted: set[int]) -> None:
    entries = [entry(1), entry(2, "web"), entry(3, namespace="other"), entry(4, added="10.0.0.2 db-1"), gap(5)]
    assert {item.seq for item in entries if reader(query).wants(item)} == wanted


class Connection:
    """One that can be let go."""

    aborted = False

    def hold(self) -> bool:
        return True

    def abort(self) -> None:
        self.aborted = True


def run(work: Callable[[], Coroutine[Any, Any, None]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "POLL", 0.01)
    asyncio.run(asyncio.wait_for(work(), 20))


async def sequence(stream: AsyncIterator[bytes], count: int) -> list[int]:
    """The numbers of the next events."""
    found: list[int] = []
    async for part in stream:
        if part.startswith(b"event: change\n"):
            found.append(int(part.split(b"\n")[1].removeprefix(b"id: ")))
        if len(found) == count:
            break
    return found


def test_who_lags_reads_on_from_the_history_and_little_waits_for_him(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        instance = Instance(entry(1))
        hub = Events(instance)
        slow, fast = reader(), reader()
        assert hub.add(slow)
        assert hub.add(fast)
        streams = [events._stream(hub, who, -1) for who in (slow, fast)]
        for stream in streams:
            assert (await anext(stream)).startswith(b"retry:")
        await until(lambda: bool(instance.asked))
        total = 2000
        size = len(event_of(entry(1))) * total
        assert size > 5 * events.WAITING
        for seq in range(2, total + 2, 100):
            instance.entries += [entry(number) for number in range(seq, seq + 100)]
            assert await sequence(streams[1], 100) == list(range(seq, seq + 100))
            assert slow.size <= events.WAITING
        assert await sequence(streams[0], total) == list(range(2, total + 2))
        for stream in streams:
            await stream.aclose()  # type: ignore[attr-defined]
        assert hub.readers == set()

    run(work, monkeypatch)


async def until(condition: Callable[[], bool]) -> None:
    """Under the limit of `run`."""
    while not condition():
        await asyncio.sleep(0.005)


def test_who_comes_again_gets_what_he_has_missed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        instance = Instance(*(entry(number) for number in range(1, 201)))
        hub = Events(instance)
        again = reader()
        hub.add(again)
        stream = events._stream(hub, again, 120)
        assert await sequence(stream, 80) == list(range(121, 201))
        instance.reply = Refused("busy")  # for a while nobody can say
        instance.entries.append(entry(201))
        await until(lambda: len(instance.asked) > 10)
        instance.reply = None
        assert await sequence(stream, 1) == [201]
        await stream.aclose()  # type: ignore[attr-defined]

    run(work, monkeypatch)


def test_signs_of_life_come_and_who_takes_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        monkeypatch.setattr(events, "HEARTBEAT", 0.02)
        monkeypatch.setattr(events, "SLOW", 0.1)
        hub = Events(Instance(entry(1)))
        connection = Connection()
        one = Reader(ALL, None, connection)
        hub.add(one)
        stream = events._stream(hub, one, -1)
        await anext(stream)
        assert await anext(stream) == b": \n\n"  # it is being sent from now on
        await until(lambda: connection.aborted)
        assert one.gone
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert hub.readers == set()

    run(work, monkeypatch)


def test_nobody_is_asked_while_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        instance = Instance(entry(1))
        hub = Events(instance)
        one = reader()
        hub.add(one)
        await until(lambda: len(instance.asked) > 2)
        hub.readers.discard(one)
        assert hub._task is not None
        await hub._task
        hub.add(one)
        count = len(instance.asked)
        await until(lambda: len(instance.asked) > count)

    run(work, monkeypatch)


def test_there_is_a_bound_on_those_who_listen() -> None:
    async def work() -> None:
        hub = Events(Instance())
        assert all(hub.add(reader()) for _ in range(events.READERS))
        assert not hub.add(reader())

    asyncio.run(work())
