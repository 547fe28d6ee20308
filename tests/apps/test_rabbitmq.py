"""RabbitMQ finds its peers by DNS, and its members come back under other addresses.

The short form forms a cluster and replaces a member while a process of Headwater is killed.
HEADWATER_APPS=long (`make apps`) has every fault, all members at once, and the known trap.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.apps import faults, recorded, report, rollouts
from tests.apps.cluster import BACK, CASES, Cluster
from tests.apps.rabbitmq import FORMS, RabbitMQ
from tests.apps.roots import LONG, require_root
from tests.apps.site import Dns, Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.coredns, pytest.mark.slow, pytest.mark.timeout(600)]
long_form = pytest.mark.skipif(not LONG, reason="the long form: make apps SYSTEM=rabbitmq")

SYSTEM: Final = RabbitMQ("dns")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    root = require_root()
    with Site(tmp_path_factory.mktemp("rabbitmq"), SYSTEM, root=root) as site:
        yield Cluster(site, SYSTEM)


def test_members_find_one_another_as_recorded(cluster: Cluster) -> None:
    """Each asks for the headless name, for PTR of its peers, and for their names."""
    cluster.site.assert_true()
    kinds = {line.kind for line in cluster.formed}
    known = {line.kind for line in recorded.read("rabbitmq") if line.phase == "form"}
    assert kinds == known
    head = cluster.site.service_name
    assert {(head, "A", "NOERROR"), ("ADDRESS", "PTR", "NOERROR"), (f"rabbitmq-N.{head}", "A", "NOERROR")} <= kinds


def test_a_client_writes_by_the_headless_name_and_reads_through_a_member(cluster: Cluster) -> None:
    mark = cluster.site.wire.mark()
    SYSTEM.put(cluster.client, cluster.site.service_name, "one", "two", "three")
    assert SYSTEM.get(cluster.client, cluster.pods[2].fqdn) == ["one", "two", "three"]
    cluster.site.assert_true(mark)
    asked = cluster.site.wire.exchanges(mark)
    head = cluster.site.service_name
    through_search = [one for one in asked if one.name.startswith(f"{head}.")]
    # Its four dots are fewer than ndots: the search list comes first, for A and for AAAA.
    assert [one.rcode for one in through_search] == ["NXDOMAIN"] * 6
    assert {one.qtype for one in asked if one.name == head} == {"A", "AAAA"}
    assert not any(one.name.startswith(f"{cluster.pods[2].fqdn}.") for one in asked)


def test_a_killed_member_comes_back_while_processes_of_headwater_are_killed(cluster: Cluster) -> None:
    SYSTEM.put(cluster.client, cluster.pods[0].fqdn, "before")
    with faults.kill("watch")(cluster.site):
        cluster.replace(2, "killed", "kill -9 of answer 0")
    assert SYSTEM.get(cluster.client, cluster.pods[2].fqdn) == ["before"]


def test_no_question_went_over_tcp(cluster: Cluster) -> None:
    """What the wire shows is all that CoreDNS's log has: the verdicts overlook nothing."""
    shown = {(one.client, one.qtype, one.name) for one in cluster.site.wire.exchanges()}
    assert set(cluster.site.asked_by_log()) == shown


@long_form
@pytest.mark.parametrize(("how", "fault"), CASES)
def test_a_member_under_another_address(cluster: Cluster, how: str, fault: str) -> None:
    number = sorted(faults.FAULTS).index(fault) % 3
    text = f"{how}-{fault}".replace(" ", "-")
    SYSTEM.put(cluster.client, cluster.other(number).fqdn, text)
    cluster.replace(number, how, fault)
    assert SYSTEM.get(cluster.client, cluster.pods[number].fqdn) == [text]


@long_form
def test_all_members_at_once_under_other_addresses(cluster: Cluster) -> None:
    site = cluster.site
    SYSTEM.put(cluster.client, cluster.pods[1].fqdn, "kept")
    mark, began = site.wire.mark(), time.monotonic()
    for pod in cluster.pods:
        site.remove(pod, publish=False)
    cluster.pods = [site.member(number, cluster.address(number), publish=False) for number in range(3)]
    site.publish()
    SYSTEM.start_all(site, cluster.pods)
    site.timed(lambda: SYSTEM.whole(cluster.pods), BACK, "all three are back", interval=0.5)
    report.note("RabbitMQ", "all three killed at once", time.monotonic() - began)
    site.assert_true(mark)
    assert SYSTEM.get(cluster.client, site.service_name) == ["kept"]


@long_form
def test_names_in_the_configuration_need_no_discovery(tmp_path: Path) -> None:
    """`classic_config`: no PTR, and all three may start at once."""
    system = RabbitMQ("classic")
    with Site(tmp_path, system, root=require_root(), dns=Dns(reverse=())) as site:
        pods = [site.member(number, f"10.44.1.{number + 1}") for number in range(3)]
        for pod in pods:
            system.start(pod)
        site.timed(lambda: system.whole(pods), FORMS, "one cluster", interval=0.5)
        asked = site.wire.exchanges()
        assert asked
        assert "PTR" not in {one.qtype for one in asked}
        site.assert_true()


@long_form
def test_without_reverse_zones_three_clusters_of_one(tmp_path: Path) -> None:
    """The trap: no PTR, no peer's name; each node makes a cluster of its own, and all is well."""
    with Site(tmp_path, SYSTEM, root=require_root(), dns=Dns(reverse=())) as site:
        pods = []
        for number in range(3):
            pod = site.member(number, f"10.44.1.{number + 1}")
            pods.append(pod)
            SYSTEM.start(pod)
            site.timed(lambda pod=pod: SYSTEM.has_started(pod), FORMS, f"{pod.name} runs")
        assert [SYSTEM.running(pod) for pod in pods] == [[pod.fqdn] for pod in pods]
        reverse = [one for one in site.wire.exchanges() if one.qtype == "PTR"]
        assert reverse
        assert {one.rcode for one in reverse} == {"NXDOMAIN"}


@long_form
@pytest.mark.timeout(1200)
def test_rollout_restart_of_the_example(tmp_path: Path) -> None:
    """On a real control plane, with a fault in the middle of each restart."""
    rollouts.roll(tmp_path, SYSTEM, rollouts.DURING)
