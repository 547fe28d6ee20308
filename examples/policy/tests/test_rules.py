"""A policy is a function: its tests need neither a cluster nor Headwater's processes."""

from __future__ import annotations

import pytest
from canary.rules import decide
from headwater.policy.api import Decision, Endpoint, Service


def service(word: str = "canary=5", *, headless: bool = True) -> Service:
    return Service("prod", "web", "ClusterIP", headless, annotations={"headwater.dev/policy": word} if word else {})


def endpoint(pod: str, *, terminating: bool = False, serving: bool = True) -> Endpoint:
    return Endpoint(f"e-{pod}", ("10.0.0.1",), serving and not terminating, serving, terminating, pod)


MEMBERS = (endpoint("web-1"), endpoint("web-2"), endpoint("web-canary-1"))


def test_canaries_get_their_share_and_the_others_the_rest() -> None:
    found = decide(service(), MEMBERS)
    assert found is not None
    assert found.weights == {"e-web-canary-1": 500, "e-web-1": 4750, "e-web-2": 4750}
    assert found.aliases == {"canary": ["e-web-canary-1"]}


def test_pods_that_end_come_last() -> None:
    found = decide(service(), (*MEMBERS, endpoint("web-3", terminating=True)))
    assert found is not None
    assert found.priorities == {"e-web-3": 100}
    assert found.publish == "serving"


@pytest.mark.parametrize("word", ["", "canary", "canary=500", "blue=5"])
def test_a_service_that_does_not_opt_in_is_left_as_it_is(word: str) -> None:
    assert decide(service(word), MEMBERS) is None


def test_a_service_with_a_cluster_ip_is_left_as_it_is() -> None:
    assert decide(service(headless=False), MEMBERS) is None


@pytest.mark.parametrize("members", [(), MEMBERS[:2], MEMBERS[2:], (endpoint("web-1", serving=False),)])
def test_any_number_of_either_is_decided(members: tuple[Endpoint, ...]) -> None:
    assert isinstance(decide(service("canary=0"), members), Decision)
