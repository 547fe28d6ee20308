"""Kafka's members know one another by pod names, and come back under other addresses."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.apps import cluster, faults, java, recorded, report, rollouts
from tests.apps.explained import explained
from tests.apps.kafka import FORMS, Kafka
from tests.apps.roots import LONG, require_pods
from tests.apps.site import Site
from tests.harness.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.apps.pods import Pod

pytestmark = [
    pytest.mark.coredns,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not LONG, reason="the long form: make apps SYSTEM=kafka"),
]


class Cluster(cluster.Cluster):
    """Three members, a client that comes and goes, and one that stays, writing and reading."""

    system: Kafka

    def stalls(self, since: int) -> list[str]:
        """Return for how long the client that stays could not write or read."""
        self.system.settled(self.site)
        events = self.system.events(since)
        for event in events:
            self.site.say(f"the client: {event}")
        assert not any("ended" in event for event in events), events
        return events


@pytest.fixture(scope="module")
def formed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    require_pods()
    java.require("kafka")
    system = Kafka()
    with Site(tmp_path_factory.mktemp("kafka"), system) as site:
        yield Cluster(site, system)


def test_members_find_one_another_as_recorded(formed: Cluster) -> None:
    """Each asks for the two others by name, A and AAAA, and for nothing else."""
    formed.site.assert_true()
    kinds = {line.kind for line in formed.formed if line.asker.startswith("kafka-")}
    assert kinds <= {line.kind for line in recorded.read("kafka")}
    name = f"kafka-N.{formed.site.service_name}"
    assert {(name, "A", "NOERROR"), (name, "AAAA", "NODATA")} <= kinds
    assert {name for name, _, _ in kinds} == {name}


def test_a_client_writes_by_the_headless_name_and_reads_through_a_member(formed: Cluster) -> None:
    mark = formed.site.wire.mark()
    formed.system.put(formed.client, formed.site.service_name, "one", "two", "three")
    assert formed.system.get(formed.client, formed.pods[2].fqdn) == ["one", "three", "two"]
    formed.site.assert_true(mark)
    asked = [one for one in formed.site.wire.exchanges(mark) if one.client == formed.client.address]
    head = formed.site.service_name
    # The name's four dots are fewer than ndots: the search list comes first, for A and for AAAA.
    assert {one.rcode for one in asked if one.name.startswith(f"{head}.")} == {"NXDOMAIN"}
    # Then the brokers are asked for by the names that they advertise.
    assert {f"{pod.fqdn}" for pod in formed.pods} <= {one.name for one in asked}


@pytest.mark.parametrize(("number", "how"), [(2, "killed"), (0, "stopped"), (1, "killed")])
def test_a_member_under_another_address(formed: Cluster, number: int, how: str) -> None:
    before = len(formed.system.events())
    formed.replace(number, how)
    formed.stalls(before)


@pytest.mark.parametrize("fault", [name for name in faults.FAULTS if name != "nothing"])
def test_a_member_is_replaced_while_headwater_has_a_fault(formed: Cluster, fault: str) -> None:
    number = sorted(faults.FAULTS).index(fault) % 3
    before = len(formed.system.events())
    formed.replace(number, "killed" if number else "stopped", fault)
    formed.stalls(before)


def test_all_members_at_once_under_other_addresses(formed: Cluster) -> None:
    site, system = formed.site, formed.system
    before, mark, began = len(system.events()), site.wire.mark(), time.monotonic()
    for pod in formed.pods:
        site.remove(pod, publish=False)
    formed.pods = [site.member(number, formed.address(number), publish=False) for number in range(cluster.MEMBERS)]
    site.publish()
    system.start_all(site, formed.pods)
    site.timed(lambda: system.whole(formed.pods), FORMS, "all three are back")
    report.note(system.name, "all three killed at once", time.monotonic() - began)
    site.assert_true(mark)
    formed.stalls(before)
    assert formed.system.get(formed.client, formed.pods[0].fqdn) == ["one", "three", "two"]


def test_no_question_went_over_tcp(formed: Cluster) -> None:
    """What the wire shows is all that CoreDNS's log has: the verdicts overlook nothing."""
    shown = {(one.client, one.qtype, one.name) for one in formed.site.wire.exchanges()}
    assert set(formed.site.asked_by_log()) == shown


def test_the_static_quorum_of_earlier_versions_forms_too(tmp_path: Path) -> None:
    """`controller.quorum.voters`, and a JVM's own 30 s."""
    require_pods()
    java.require("kafka")
    system = Kafka("voters", quick=False)
    with Site(tmp_path, system) as site:
        system.form(site, cluster.ADDRESSES)
        site.assert_true()


def test_without_publish_not_ready_addresses_it_never_forms(tmp_path: Path) -> None:
    """The trap: who is not ready has no name, and without the others' names nobody gets ready."""
    require_pods()
    java.require("kafka")
    system = Kafka(publish_not_ready=False)
    with Site(tmp_path, system) as site:
        pods = [site.member(number, address) for number, address in enumerate(cluster.ADDRESSES)]
        for pod in pods:
            system.start(pod)

        def failures(pod: Pod, other: Pod) -> int:
            return sum(
                one.client == pod.address and one.name == other.fqdn and one.rcode == "NXDOMAIN"
                for one in site.wire.exchanges()
            )

        pairs = [(pod, other) for pod in pods for other in pods if pod is not other]
        wait_until(
            lambda: all(failures(*pair) >= 5 for pair in pairs), FORMS, "each has asked 5 times for each of the others",
            interval=1.0,
        )  # fmt: skip
        assert not any(system.has_started(pod) for pod in pods)
        site.assert_true()
        why = explained(site, pods[1].fqdn)
        assert "NXDOMAIN" in why, why
        # With that one field, those same servers find one another.
        system.publish_not_ready = True
        site.publish()
        system.watch(site)
        site.timed(lambda: system.whole(pods), FORMS, "one cluster, with publishNotReadyAddresses")


@pytest.mark.timeout(1200)
def test_rollout_restart_of_the_example(tmp_path: Path) -> None:
    """On a real control plane, whose API server is away in the middle of it."""
    java.require("kafka")
    rollouts.roll(tmp_path, Kafka(), ["no API server for 5 s"])
