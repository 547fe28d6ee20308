"""The list-and-watch machine, path by path, with the test's own clock and random numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from headwater.cluster.reflector import (
    NOT_INSTALLED,
    PAGE,
    ListPage,
    Reflector,
    RequestFailed,
    Trouble,
    Wait,
    Watch,
)
from headwater.cluster.refusals import failure
from headwater.cluster.timing import USUAL


class Clockwork:
    """A clock that stands until it is moved, and random numbers at one end of their range."""

    def __init__(self, *, high: bool = True) -> None:
        self.now = 100.0
        self.high = high
        self.asked: list[tuple[float, float]] = []

    def clock(self) -> float:
        return self.now

    def uniform(self, low: float, high: float) -> float:
        self.asked.append((low, high))
        return high if self.high else low

    def reflector(self, resource_version: str = "") -> Reflector:
        return Reflector(resource_version, self.clock, self.uniform)

    def watching(self, resource_version: str = "7") -> Reflector:
        """Return a reflector in the middle of a watch."""
        machine = self.reflector(resource_version)
        assert isinstance(machine.next(), Watch)
        machine.watching()
        return machine


def wait_of(machine: Reflector) -> float:
    """Return the wait that is due; 0 for none. No second wait may follow it."""
    action = machine.next()
    if not isinstance(action, Wait):
        return 0.0
    assert not isinstance(machine.next(), Wait), "a wait is due once"
    return action.seconds


def connected(machine: Reflector) -> bool:
    return machine.state.connected


def server_error(status: int = 500) -> RequestFailed:
    return failure(status, "injected", "services", "list")


UNREACHABLE = RequestFailed(Trouble.UNREACHABLE, "no route")


# Without failures


def test_pages_then_a_watch_from_the_list_s_version() -> None:
    clockwork = Clockwork()
    machine = clockwork.reflector()
    assert machine.next() == ListPage("", PAGE)
    assert not machine.page("10", "token-1")
    assert machine.next() == ListPage("token-1", PAGE)
    assert not machine.page("10", "token-2")
    assert machine.next() == ListPage("token-2", PAGE)
    assert machine.state.relists == 0, "not before the list is complete"
    assert machine.page("11", "")
    assert machine.next() == Watch("11", int(USUAL.watch[1]))
    assert machine.state.relists == 1


def test_a_stored_version_is_watched_from_without_a_list() -> None:
    assert Clockwork().reflector("4711").next() == Watch("4711", int(USUAL.watch[1]))


@pytest.mark.parametrize(("high", "seconds"), [(False, 300), (True, 600)])
def test_a_watch_lasts_five_to_ten_minutes(high: bool, seconds: int) -> None:
    clockwork = Clockwork(high=high)
    assert clockwork.reflector("1").next() == Watch("1", seconds)
    assert clockwork.asked == [(300, 600)]


def test_events_and_bookmarks_move_the_version_on() -> None:
    clockwork = Clockwork()
    machine = clockwork.watching("7")
    assert connected(machine)
    machine.event("8")
    machine.bookmark("20")
    machine.event("")  # an object that could not be decoded
    machine.bookmark("")
    assert machine.state.resource_version == "20"
    assert machine.state.events == 2
    machine.watch_ended()
    assert not connected(machine)
    assert machine.next() == Watch("20", 600)


def test_every_word_of_the_server_is_a_proof_of_life() -> None:
    clockwork = Clockwork()
    machine = clockwork.reflector()
    assert machine.state.proof_of_life == 0.0
    steps: list[Callable[[], object]] = [
        lambda: machine.page("1", "more"),
        lambda: machine.page("1", ""),
        machine.watching,
        lambda: machine.event("2"),
        lambda: machine.bookmark("3"),
    ]
    for step in steps:
        clockwork.now += 1
        step()
        assert machine.state.proof_of_life == clockwork.now
    clockwork.now += 1
    machine.failed(UNREACHABLE)
    assert machine.state.proof_of_life == clockwork.now - 1


# A watch that ends without an error


@pytest.mark.parametrize(
    ("lasted", "said", "resumes_at_once"),
    [
        (0.0, "nothing", False),
        (0.9, "nothing", False),
        (1.0, "nothing", True),
        (300.0, "nothing", True),
        (0.0, "an event", True),
        (0.0, "a bookmark", True),
    ],
)
def test_a_clean_end_is_resumed_but_not_in_a_tight_loop(lasted: float, said: str, resumes_at_once: bool) -> None:
    clockwork = Clockwork()
    machine = clockwork.watching("7")
    if said == "an event":
        machine.event("8")
    elif said == "a bookmark":
        machine.bookmark("8")
    clockwork.now += lasted
    machine.watch_ended()
    action = machine.next()
    if resumes_at_once:
        assert action == Watch(machine.state.resource_version, 600)
    else:
        assert isinstance(action, Wait)
        assert machine.next() == Watch("7", 600)
    assert machine.state.relists == 0
    assert not machine.state.errors


def test_a_server_that_ends_every_watch_at_once_is_asked_ever_less() -> None:
    clockwork = Clockwork()
    machine = clockwork.reflector("7")
    waits = []
    for _ in range(8):
        assert isinstance(machine.next(), Watch)
        machine.watching()
        machine.watch_ended()
        waits.append(machine.next())
    assert waits == [Wait(seconds) for seconds in (0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0)]


# 410


def test_an_expired_watch_lists_at_once_and_anew() -> None:
    machine = Clockwork().reflector("7")
    machine.next()
    machine.failed(failure(410, "too old resource version", "services", "watch"))
    assert machine.next() == ListPage("")
    assert machine.state.errors == {"410": 1}
    assert not machine.state.connected


def test_a_watch_that_expires_in_its_course_lists_anew() -> None:
    """It ends with an ERROR event with a Status of code 410."""
    machine = Clockwork().watching("7")
    machine.event("8")
    machine.failed(failure(410, "too old resource version: 8 (900)", "services", "watch"))
    assert machine.next() == ListPage("")
    assert machine.page("900", "")
    assert machine.next() == Watch("900", 600)


def test_a_list_that_expires_between_pages_starts_over_after_a_wait() -> None:
    machine = Clockwork().reflector()
    machine.page("10", "token-1")
    machine.failed(failure(410, "the provided continue parameter is too old", "services", "list"))
    assert wait_of(machine) > 0
    assert machine.next() == ListPage("", 1000), "in larger pages, to be faster"


# Failures


@pytest.mark.parametrize("high", [False, True])
@pytest.mark.parametrize("failures", [1, 50])
def test_an_unreachable_server_is_tried_again_within_two_seconds(high: bool, failures: int) -> None:
    machine = Clockwork(high=high).watching("7")
    for _ in range(failures):
        machine.failed(UNREACHABLE)
        assert 0.0 < wait_of(machine) <= 2.0
    assert machine.next() == Watch("7", 600 if high else 300), "the version is kept: nothing is listed"
    assert machine.state.errors == {"unreachable": failures}


def test_a_list_that_breaks_off_goes_on_with_its_page() -> None:
    machine = Clockwork().reflector()
    machine.page("10", "token-1")
    for error in (UNREACHABLE, server_error()):
        machine.failed(error)
        assert wait_of(machine) > 0
        assert machine.next() == ListPage("token-1")


def test_a_page_that_is_too_large_is_asked_for_with_fewer_objects() -> None:
    machine = Clockwork().reflector()
    for limit in (500, 125, 31, 7, 1, 1):
        assert machine.next() == ListPage("", limit)
        machine.failed(RequestFailed(Trouble.TOO_LARGE, "a body of more than 48 MiB"))
        assert wait_of(machine) > 0
    machine.page("10", "token-1")
    assert machine.next() == ListPage("token-1", 1)
    machine.page("10", "")
    machine.failed(failure(410, "too old resource version", "services", "watch"))
    assert machine.next() == ListPage("", 500), "the next list begins as ever"


def test_a_certificate_that_does_not_verify_is_tried_again_within_two_seconds() -> None:
    machine = Clockwork().watching("7")
    for _ in range(50):
        machine.failed(RequestFailed(Trouble.UNVERIFIED, "certificate verify failed"))
        assert 0.0 < wait_of(machine) <= 2.0
    assert machine.next() == Watch("7", 600)
    assert machine.state.errors == {"unverified": 50}


def test_the_problem_is_told_until_something_is_heard() -> None:
    machine = Clockwork().watching("7")
    machine.failed(UNREACHABLE)
    assert machine.state.problem == str(UNREACHABLE)
    machine.credentials("--kubeconfig: empty")
    assert machine.state.problem == "--kubeconfig: empty"
    machine.watching()
    assert machine.state.problem == ""
    machine.failed(failure(410, "too old resource version", "services", "watch"))
    assert machine.state.problem == "", "that is as it should be"


ENDLESS = (0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0)


@pytest.mark.parametrize("status", [500, 502, 504, 503, 429, 401, 404, 400])
def test_server_errors_back_off_to_half_a_minute(status: int) -> None:
    clockwork = Clockwork()
    machine = clockwork.reflector("7")
    waits = []
    for _ in ENDLESS:
        machine.failed(server_error(status))
        waits.append(wait_of(machine))
    assert waits == list(ENDLESS)
    assert machine.state.errors == {str(status): len(ENDLESS)}
    assert [low for low, high in clockwork.asked if high <= 30] == [0.0] * len(ENDLESS), "full jitter: from nothing"


def test_an_error_without_a_status_backs_off_too() -> None:
    """Such as a body that does not parse, or a bug of ours."""
    machine = Clockwork().reflector("7")
    machine.failed(RequestFailed(Trouble.SERVER, "not an event"))
    assert wait_of(machine) == 0.8
    assert machine.state.errors == {"server": 1}


def test_the_back_off_is_never_nothing_nor_endless() -> None:
    lucky, machine = Clockwork(high=False), Clockwork().reflector("7")
    for _ in range(5000):  # 2**5000 is too large for a float
        machine.failed(server_error())
        assert wait_of(machine) <= 30.0
    other = lucky.reflector("7")
    other.failed(server_error())
    assert wait_of(other) >= 0.05


@pytest.mark.parametrize(
    ("good", "step"),
    [
        ("a page", lambda machine: machine.page("9", "more")),
        ("an event", lambda machine: machine.event("9")),
        ("a bookmark", lambda machine: machine.bookmark("9")),
        ("a watch that ended in its time", lambda machine: machine.watch_ended()),
    ],
)
def test_what_goes_well_ends_the_back_off(good: str, step: Callable[[Reflector], object]) -> None:
    clockwork = Clockwork()
    machine = clockwork.reflector("7")
    for _ in range(6):
        machine.failed(server_error())
        wait_of(machine)
    machine.watching()
    clockwork.now += 400
    step(machine)
    machine.failed(server_error())
    assert wait_of(machine) == 0.8, good


def test_a_watch_that_is_taken_and_fails_at_once_does_not_end_the_back_off() -> None:
    machine = Clockwork().reflector("7")
    waits = []
    for _ in range(3):
        machine.next()
        machine.watching()
        machine.failed(server_error())
        waits.append(machine.next())
    assert waits == [Wait(0.8), Wait(1.6), Wait(3.2)]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("high", "expected"), [(False, 5.0), (True, 5.25)])
def test_a_throttling_server_says_when(status: int, high: bool, expected: float) -> None:
    machine = Clockwork(high=high).reflector("7")
    machine.failed(failure(status, "too many requests", "services", "list", retry_after=5.0))
    assert wait_of(machine) == expected


@pytest.mark.parametrize("high", [False, True])
def test_a_missing_permission_is_asked_for_rarely(high: bool) -> None:
    machine = Clockwork(high=high).watching("7")
    for _ in range(3):
        machine.failed(failure(403, "services is forbidden", "services", "watch"))
        assert 20.0 <= wait_of(machine) <= 40.0
    assert machine.state.errors == {"403": 3}
    assert machine.next() == Watch("7", 600 if high else 300)


@pytest.mark.parametrize(
    ("status", "trouble"),
    [
        (410, Trouble.EXPIRED),
        (401, Trouble.UNAUTHORIZED),
        (403, Trouble.FORBIDDEN),
        (429, Trouble.THROTTLED),
        (503, Trouble.THROTTLED),
        (500, Trouble.SERVER),
        (504, Trouble.SERVER),
        (404, Trouble.SERVER),  # of a core resource
        (301, Trouble.SERVER),
        (0, Trouble.SERVER),
    ],
)
def test_a_status_is_told_by_what_is_to_be_done_about_it(status: int, trouble: Trouble) -> None:
    error = failure(status, "why", "services", "watch", retry_after=3.0)
    assert (error.trouble, error.status) == (trouble, status)
    assert "watch services" in str(error)
    assert "why" in str(error)
    assert error.retry_after == (3.0 if trouble is Trouble.THROTTLED else 0.0)


def test_a_missing_permission_says_which_one() -> None:
    assert "the role needs the verb 'list' on 'endpointslices'" in str(failure(403, "no", "endpointslices", "list"))


@pytest.mark.parametrize(
    ("resource", "group"),
    [
        ("services", ""),
        ("namespaces", ""),
        ("endpointslices", " in the API group 'discovery.k8s.io'"),
        ("serviceimports", " in the API group 'multicluster.x-k8s.io'"),
    ],
)
def test_a_missing_permission_says_in_which_api_group(resource: str, group: str) -> None:
    assert str(failure(403, "no", resource, "list")).endswith(f"the verb 'list' on {resource!r}{group})")


def test_the_error_of_an_unauthorized_request_says_so() -> None:
    """It makes the follower read the credentials again."""
    machine = Clockwork().watching("7")
    machine.failed(failure(401, "Unauthorized", "services", "watch"))
    assert machine.state.errors == {"401": 1}
    assert not machine.state.connected
    assert 0.0 < wait_of(machine) <= 0.8
    assert machine.next() == Watch("7", 600)


# A resource that is not installed


def absent(verb: str = "list") -> RequestFailed:
    return failure(404, "404 page not found", "serviceimports", verb)


@pytest.mark.parametrize("resource", ["namespaces", "services", "endpointslices", "pods"])
def test_only_a_custom_resource_can_be_missing(resource: str) -> None:
    """A missing core resource is an ordinary error: nothing counts as deleted."""
    assert failure(404, "404 page not found", resource, "list").trouble is Trouble.SERVER
    machine = Clockwork().reflector()
    assert not machine.failed(failure(404, "404 page not found", resource, "list"))
    assert wait_of(machine) == 0.8
    assert machine.state.relists == 0


def test_a_missing_crd_says_what_it_means() -> None:
    error = absent()
    assert (error.trouble, error.status) == (Trouble.NOT_INSTALLED, 404)
    assert str(error) == (
        "serviceimports: the CRD serviceimports.multicluster.x-k8s.io is not installed: "
        "no names in the multicluster zones until it is"
    )
    assert str(absent("watch")) == str(error), "one line in the log, whatever met it"


@pytest.mark.parametrize("high", [False, True])
def test_a_missing_crd_is_a_complete_list_of_nothing_and_asked_for_rarely(high: bool) -> None:
    clockwork = Clockwork(high=high)
    machine = clockwork.reflector()
    clockwork.now += 5
    assert machine.failed(absent()), "the first time"
    assert machine.state.relists == 1, "not waited for"
    assert machine.state.proof_of_life == clockwork.now
    assert not connected(machine)
    for _ in range(3):
        assert wait_of(machine) == (40.0 if high else 20.0)
        assert machine.next() == ListPage("")
        assert not machine.failed(absent()), "nothing new"
    assert machine.state.errors == {"404": 4}
    assert (machine.state.relists, machine.state.resource_version) == (1, "")


def test_a_crd_that_appears_is_listed_and_watched() -> None:
    machine = Clockwork().reflector()
    machine.failed(absent())
    wait_of(machine)
    assert machine.page("77", "")
    assert machine.next() == Watch("77", 600)


def test_a_crd_that_is_deleted_is_gone_by_a_list_s_word() -> None:
    """One of several API servers may learn of a CRD late, so a
    watch's 404 there deletes nothing.
    """
    machine = Clockwork().reflector()
    machine.page("77", "")
    assert isinstance(machine.next(), Watch)
    assert not machine.failed(absent("watch"))
    assert 0 < wait_of(machine) <= 0.8
    assert machine.next() == ListPage("")
    assert machine.failed(absent())
    assert wait_of(machine) == 40.0
    assert machine.page("99", ""), "and comes back"
    assert not machine.failed(absent("watch"))
    assert machine.failed(absent())


def test_a_crd_that_is_deleted_between_pages_is_gone() -> None:
    machine = Clockwork().reflector()
    machine.page("10", "token-1")
    assert machine.failed(absent())
    assert wait_of(machine) == 40.0
    assert machine.next() == ListPage("")


def test_a_list_of_nothing_that_was_stored_is_no_place_to_watch_from() -> None:
    machine = Clockwork().reflector(NOT_INSTALLED)
    assert machine.next() == ListPage("")
    assert machine.failed(absent()), "said again: whoever is told has not heard it in this run"


def test_other_trouble_does_not_make_a_missing_crd_news() -> None:
    machine = Clockwork().reflector()
    assert machine.failed(absent())
    for error in (UNREACHABLE, server_error(), absent()):
        wait_of(machine)
        assert not machine.failed(error)
    assert wait_of(machine) == 40.0
