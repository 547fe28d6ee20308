"""A list that would remove much is applied when a second one confirms it, and not earlier."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

import pytest
from headwater.cluster.changes import Change, ListComplete, Progress
from headwater.cluster.follower import Follower
from headwater.cluster.objects import Namespace, Object, Resource
from headwater.cluster.reflector import ListPage, Reflector, RequestFailed, Trouble, Watch
from headwater.records.compiler import Compiler
from headwater.store.environment import Store, StoreFull
from headwater.writer import opinion
from headwater.writer.ledger import Ledger
from headwater.writer.outcome import Outcome

from tests.harness.small import NOT_READY, Small, at, cluster_ip, headless, listed, remove, settings, slice_of, upsert
from tests.unit.test_settling import Refusing, Steps

_SERVICES: Final[list[Object]] = [cluster_ip(f"s-{number}", f"172.16.0.{number}") for number in range(1, 31)]
_SLICES: Final[list[Object]] = [
    slice_of(f"h-{number}", *(at(f"10.0.{number}.{address}") for address in range(10)), namespace="web")
    for number in range(6)
]
_HEADLESS: Final[list[Object]] = [headless(f"h-{number}", "web") for number in range(6)]
_NAMESPACES: Final[list[Object]] = [Namespace("default"), Namespace("web")]
_WORLD: Final = [*_NAMESPACES, *_SERVICES, *_HEADLESS, *_SLICES]


@pytest.mark.parametrize(
    ("lost", "held", "doubtful"),
    [
        (0, 0, False), (1, 1, False), (9, 9, False), (9, 20, False),  # small: one application is everything
        (10, 10, True), (10, 29, True), (10, 30, False), (11, 30, True),
        (333, 1000, False), (334, 1000, True), (1000, 1000, True), (100_000, 300_000, False), (100_001, 300_000, True),
    ],
)  # fmt: skip
def test_more_than_a_third_is_doubtful_but_a_few_never_are(lost: int, held: int, doubtful: bool) -> None:
    assert opinion.is_doubtful(lost, held) == doubtful


class Doubting:
    """A ledger that asks for second opinions, with a filled store."""

    def __init__(self, folder: Path, world: Sequence[Object] = _WORLD) -> None:
        self.small = Small(folder)
        self.small.fill(*[item for item in world if not isinstance(item, Namespace)], namespaces=("default", "web"))
        self.open()

    def open(self) -> None:
        self.store, _ = Store.open(self.small.state_dir, self.small.identity)
        compiler = Compiler(self.small.settings, (), lambda *_: None)
        self.ledger = Ledger(self.store, compiler, self.small.resources, second_opinion=True)

    def hears(
        self, resource: Resource, objects: Sequence[Object], version: str, *, confirms: bool = False
    ) -> list[opinion.Opinion]:
        """Settle a complete list. Return what was decided about doubts."""
        *pages, _ = listed([resource], objects)
        return [what for what, _ in self.ledger.commit([*pages, ListComplete(resource, version, confirms)]).opinions]

    def held(self, resource: Resource) -> int:
        return self.ledger.objects[resource]

    def version(self, resource: Resource) -> str:
        return self.ledger.versions()[resource]


@pytest.fixture
def doubting(tmp_path: Path) -> Doubting:
    return Doubting(tmp_path)


def test_a_loss_is_applied_when_the_second_list_says_so(doubting: Doubting) -> None:
    few = [*_SERVICES[:5], *_HEADLESS]
    assert doubting.hears("services", few, "50") == ["asked"]
    assert (doubting.held("services"), doubting.version("services")) == (36, "1")
    assert str(doubting.ledger.doubts["services"]) == "a list of services would take away 25 of 36 Services"
    assert doubting.hears("services", few, "60", confirms=True) == ["confirmed"]
    assert (doubting.held("services"), doubting.version("services")) == (11, "60")
    assert not doubting.ledger.doubts


def test_a_loss_that_the_second_list_knows_nothing_of_never_happens(doubting: Doubting) -> None:
    assert doubting.hears("services", [], "50") == ["asked"]
    assert doubting.hears("services", [*_SERVICES[1:], *_HEADLESS], "60", confirms=True) == ["contradicted"]
    assert (doubting.held("services"), doubting.version("services")) == (35, "60")


def test_other_lists_do_not_count_as_the_second(doubting: Doubting) -> None:
    """A list after an expired watch may come from the same cache. None of them asks again."""
    assert doubting.hears("services", [], "50") == ["asked"]
    assert doubting.hears("services", [], "51") == []
    assert doubting.held("services") == 36
    assert doubting.hears("services", [*_SERVICES, *_HEADLESS], "52") == ["contradicted"]
    assert doubting.hears("services", [], "53") == ["asked"], "and a new doubt is a new question"


def test_a_list_in_doubt_stays_due_when_the_process_dies(doubting: Doubting) -> None:
    """The new history may have passed the stored version when the next process asks."""
    assert doubting.hears("services", [], "50") == ["asked"]
    for _ in range(2):
        doubting.store.close()
        doubting.open()
        assert doubting.ledger.due() == {"services"}
        assert (doubting.held("services"), doubting.version("services"), doubting.ledger.ready) == (36, "1", True)
    doubting.hears("services", _SERVICES, "60")
    assert doubting.ledger.due() == set()


def test_a_list_under_way_stays_due_when_the_process_dies(doubting: Doubting) -> None:
    page, *_ = listed(["services"], _SERVICES[:2])
    doubting.ledger.commit([page])
    doubting.store.close()
    doubting.open()
    assert doubting.ledger.due() == {"services"}


@pytest.mark.parametrize("due", [False, True])
def test_the_watch_process_lists_what_is_due(due: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = Small(tmp_path, settings(state_dir=str(tmp_path)))
    world.fill(*[item for item in _WORLD if not isinstance(item, Namespace)], namespaces=("default", "web"))
    watcher = Steps(world).watcher
    if due:
        watcher.ledger.commit([listed(["services"], [])[0]])
    monkeypatch.setattr(watcher, "_thread", lambda *_: None)
    watcher.start_sources()
    listing = {resource for resource, follower in watcher._followers.items() if follower.reflector.must_list}
    assert listing == ({"services"} if due else set())


@pytest.mark.parametrize(
    ("resource", "left", "doubtful"),
    [
        ("services", [*_SERVICES, *_HEADLESS][:26], False),  # 10 of 36
        ("services", [*_SERVICES, *_HEADLESS][:23], True),  # 13 of 36
        ("endpointslices", _SLICES[:4], False),  # 20 of 60
        ("endpointslices", _SLICES[:3], True),
        # Slices stay, endpoints go; or they are not ready any more.
        ("endpointslices", [slice_of(f"h-{n}", at(f"10.0.{n}.1"), namespace="web") for n in range(6)], True),
        (
            "endpointslices",
            [
                slice_of(f"h-{n}", *(at(f"10.0.{n}.{a}", conditions=NOT_READY) for a in range(10)), namespace="web")
                for n in range(6)
            ],
            True,
        ),
        # All slices have other names, and the same endpoints.
        (
            "endpointslices",
            [
                slice_of(
                    f"h-{n}", *(at(f"10.0.{n}.{a}") for a in range(b, b + 5)), name=f"new-{n}-{b}", namespace="web"
                )
                for n in range(6)
                for b in (0, 5)
            ],
            False,
        ),
        ("namespaces", [Namespace("web")], True),  # 30 of 36 Services are in the other
        ("namespaces", [Namespace("default")], False),
        ("namespaces", [*_NAMESPACES, Namespace("new")], False),
    ],
)
def test_what_counts_is_what_names_are_made_of(
    doubting: Doubting, resource: Resource, left: list[Object], doubtful: bool
) -> None:
    assert doubting.hears(resource, left, "50") == (["asked"] if doubtful else [])
    assert (doubting.version(resource) == "50") != doubtful


def test_events_count_at_once_but_the_version_waits_for_the_list(doubting: Doubting) -> None:
    """A process that starts again meanwhile has to receive the changes in the doubtful list."""
    doubting.hears("services", [], "50")
    news: list[Change] = [
        remove(_SERVICES[0], "51"),
        upsert(cluster_ip("new", "172.16.1.1"), "52"),
        Progress("services", "53"),
    ]
    doubting.ledger.commit(news)
    assert (doubting.held("services"), doubting.version("services")) == (36, "1")
    doubting.store.close()
    assert doubting.small.answers("new.default.svc.cluster.local") == {"172.16.1.1"}
    assert doubting.small.status("s-1.default.svc.cluster.local") == "NXDOMAIN"
    doubting.open()
    assert doubting.hears("services", [], "60") == ["asked"], "it begins again from the store"
    assert doubting.hears("services", [], "61", confirms=True) == ["confirmed"]
    assert doubting.held("services") == 0


def test_event_of_a_slice_that_the_list_sees_differently_waits_for_the_second(tmp_path: Path) -> None:
    """One endpoint has moved: one slice's event and the other's old state would have it twice."""
    pieces = [slice_of("web", *[at(f"10.0.{part}.{number}", hostname=f"h-{part}-{number}") for number in range(20)],
                       name=f"web-{part}") for part in range(3)]  # fmt: skip
    other = slice_of("other", at("10.1.0.1"))
    doubting = Doubting(tmp_path, [headless("web"), headless("other"), *pieces, other])
    moved = slice_of("web", at("10.0.9.9", hostname="h-0-0"), name="web-1")
    assert doubting.hears("endpointslices", [moved, other], "50") == ["asked"]
    doubting.ledger.commit(
        [upsert(moved, "51"), upsert(slice_of("other", at("10.1.0.2")), "52"), remove(pieces[2], "53")]
    )
    doubting.store.close()
    assert doubting.small.answers("h-0-0.web.default.svc.cluster.local") == {"10.0.0.0"}, "the old answer, whole"
    assert len(doubting.small.answers("web.default.svc.cluster.local")) == 60
    assert doubting.small.answers("other.default.svc.cluster.local") == {"10.1.0.2"}, "others do not wait"
    doubting.open()
    assert doubting.hears("endpointslices", [moved, other], "60") == ["asked"]
    assert doubting.hears("endpointslices", [moved], "61", confirms=True) == ["confirmed"]
    doubting.ledger.commit([upsert(slice_of("web", at("10.0.9.8", hostname="h-0-0"), name="web-1"), "62")])
    doubting.store.close()
    assert doubting.small.answers("web.default.svc.cluster.local") == {"10.0.9.8"}, "after it, events count again"


def test_without_the_question_every_list_is_believed_and_the_first_always(tmp_path: Path) -> None:
    plain = Small(tmp_path / "off").fill(*[item for item in _WORLD if not isinstance(item, Namespace)])
    outcome = plain.commit(*listed(["services"], []))
    assert not outcome.opinions
    assert plain.status("s-1.default.svc.cluster.local") == "NXDOMAIN"
    empty = Doubting(tmp_path / "first", [])
    assert empty.hears("services", _SERVICES, "5") == []


@pytest.mark.parametrize("confirms", [False, True])
@pytest.mark.parametrize("refused", range(6))
def test_a_full_disk_changes_nothing_about_it(doubting: Doubting, confirms: bool, refused: int) -> None:
    if confirms:
        doubting.hears("services", [], "50")
    *pages, _ = listed(["services"], [])
    doubting.ledger.commit(pages)
    refusing = Refusing(doubting.store, [refused, refused + 1])
    waiting: deque[Change] = deque(
        [ListComplete("services", "60", confirms), upsert(cluster_ip("s-1", "172.16.7.7")), Progress("services", "9")]
    )
    outcome = Outcome()
    for _ in range(5):
        try:
            doubting.ledger.settle(waiting, outcome)
        except StoreFull:
            continue
        break
    assert not waiting
    assert refusing.calls > 1
    assert [what for what, _ in outcome.opinions] == ["confirmed" if confirms else "asked"]
    assert doubting.held("services") == (1 if confirms else 36)
    assert doubting.version("services") == ("9" if confirms else "1")


# The process


class Relists:
    """Replaces a follower, and keeps the requests to it."""

    def __init__(self) -> None:
        self.asked: list[bool] = []
        self.reflector = Reflector("1", lambda: 0.0)

    def relist(self, *, confirm: bool = False) -> None:
        self.asked.append(confirm)


@pytest.mark.parametrize("switch", ["on", "off"])
def test_the_second_list_is_asked_for_after_five_seconds_and_said_to_be_awaited(switch: str, tmp_path: Path) -> None:
    world = Small(tmp_path, settings(state_dir=str(tmp_path), second_opinion=switch))
    world.fill(*[item for item in _WORLD if not isinstance(item, Namespace)], namespaces=("default", "web"))
    steps = Steps(world)
    follower = Relists()
    steps.watcher._followers["services"] = cast("Follower", follower)
    for _ in range(3):
        steps.watcher._inbox.pages.acquire()
    steps.put(*listed(["services"], []))
    steps.take()
    if switch == "off":
        assert steps.snapshot().objects["services"] == 0
        return
    assert steps.snapshot().detail == "a list of services would take away 36 of 36 Services: a second list is awaited"
    assert steps.snapshot().second_opinions == {"asked": 1}
    steps.now += 4.9
    steps.watcher.step()
    early = list(follower.asked)
    steps.now += 0.2
    steps.watcher.step()
    steps.watcher.step()
    assert (early, follower.asked) == ([], [True])
    *pages, _ = listed(["services"], [*_SERVICES, *_HEADLESS])
    steps.put(*pages, ListComplete("services", "70", confirms=True))
    steps.take()
    assert steps.snapshot().second_opinions == {"asked": 1, "contradicted": 1}
    assert (steps.snapshot().detail, steps.snapshot().objects["services"]) == ("", 36)
    steps.now += 100
    steps.watcher.step()
    assert follower.asked == [True], "it is asked once"
    steps.store.close()


def test_files_are_not_asked_twice(tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text("")
    world = Small(tmp_path / "state", settings(state_dir=str(tmp_path / "state"), manifests=(str(file),)))
    world.fill(*_SERVICES)
    steps = Steps(world)
    steps.put(*listed(["services"], []))
    steps.take()
    assert steps.snapshot().objects["services"] == 0
    steps.store.close()


def confirming(machine: Reflector) -> bool:
    return machine.confirming


@pytest.mark.parametrize("stream", [False, True])
def test_a_second_list_is_taken_in_pages_and_is_one_from_its_beginning(stream: bool) -> None:
    machine = Reflector("7", lambda: 0.0, lambda low, _: low, stream=stream)
    assert isinstance(machine.next(), Watch)
    machine.relist(confirm=True)
    assert machine.next() == ListPage("")
    assert confirming(machine)
    assert not machine.page("9", "token")
    machine.failed(RequestFailed(Trouble.EXPIRED, "410", 410))
    while not isinstance(action := machine.next(), ListPage):
        pass
    assert action.continue_token == ""
    assert confirming(machine), "begun anew, it is still the second one"
    assert machine.page("10", "")
    assert not confirming(machine)
    machine.next()
    machine.relist()
    action = machine.next()
    assert isinstance(action, Watch if stream else ListPage)
    assert not confirming(machine)
