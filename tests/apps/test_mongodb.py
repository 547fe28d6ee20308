"""MongoDB's client finds routers by SRV, and follows them to other addresses (see `mongodb`)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.apps import cluster, faults, recorded, report, rollouts
from tests.apps.explained import explained
from tests.apps.mongodb import WATCHES, MongoDB
from tests.apps.pods import PodError
from tests.apps.roots import LONG, require_pods
from tests.apps.site import Site
from tests.harness.processes import require_tool, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.coredns,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not LONG, reason="the long form: make apps SYSTEM=mongodb"),
]

#: pymongo asks for SRV again after so long, and not before (MIN_SRV_RESCAN_INTERVAL), in seconds.
RESCAN: Final = 60.0
LATE: Final = 20.0  # seconds on a busy machine
#: What a client may notice of two rollouts, a line each: a write that fails, and for how long none
#: went through. On an idle machine it is nothing: the driver tries again by itself.
MOST_FAILURES: Final = 4


class Cluster(cluster.Cluster):
    """Three members, a client that comes and goes, and one that stays, writing and reading."""

    system: MongoDB

    def replace_all(self) -> None:
        site, system = self.site, self.system
        mark, began = site.wire.mark(), time.monotonic()
        for pod in self.pods:
            site.remove(pod, publish=False)
        self.pods = [site.member(number, self.address(number), publish=False) for number in range(cluster.MEMBERS)]
        site.publish()
        system.start_all(site, self.pods)
        site.timed(lambda: system.whole(self.pods), cluster.BACK, "all three are back")
        report.note(system.name, "all three killed at once", time.monotonic() - began)
        site.assert_true(mark)

    def settled(self, since: int) -> None:
        for event in self.system.events(since):
            self.site.say(f"the client: {event}")


@pytest.fixture(scope="module")
def formed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    require_pods()
    require_tool("ferretdb")
    pytest.importorskip("pymongo")
    system = MongoDB("mongos")
    with Site(tmp_path_factory.mktemp("mongodb"), system) as site:
        yield Cluster(site, system)


def test_a_client_finds_them_by_srv_and_reads_through_another(formed: Cluster) -> None:
    """SRV of the port's name, TXT of the headless name, then the targets: no search list."""
    site, system = formed.site, formed.system
    mark = site.wire.mark()
    system.put(formed.client, site.service_name, "one", "two", "three")
    assert system.get(formed.client, formed.pods[2].fqdn) == ["one", "three", "two"]
    site.assert_true(mark)
    asked = [one for one in site.wire.exchanges(mark) if one.client == formed.client.address]
    head = site.service_name
    assert (asked[0].name, asked[0].qtype, asked[0].rcode) == (f"_mongodb._tcp.{head}", "SRV", "NOERROR")
    assert {(one.name, one.rcode) for one in asked if one.qtype == "TXT"} == {(head, "NODATA")}
    assert {one.name for one in asked if one.qtype == "A"} == {pod.fqdn for pod in formed.pods}
    known = {line.kind for line in recorded.read("mongodb")}
    assert {line.kind for line in recorded.lines(asked, {}, "client")} <= known


def test_the_client_that_stays_sees_all_three(formed: Cluster) -> None:
    formed.system.watch(formed.site)
    formed.site.timed(lambda: formed.system.whole(formed.pods), LATE, "the client sees three routers")


@pytest.mark.parametrize(("how", "fault"), cluster.CASES)
def test_a_member_under_another_address(formed: Cluster, how: str, fault: str) -> None:
    before = len(formed.system.events())
    formed.replace(sorted(faults.FAULTS).index(fault) % 3, how, fault)
    formed.settled(before)


def test_all_members_at_once_under_other_addresses(formed: Cluster) -> None:
    before = len(formed.system.events())
    formed.replace_all()
    formed.settled(before)
    assert formed.system.get(formed.client, formed.pods[0].fqdn) == ["one", "three", "two"]


def test_a_client_of_routers_looks_for_more_of_them_every_minute(formed: Cluster) -> None:
    """A fourth router is used, and one that is gone is forgotten, up to a minute later."""
    site, system = formed.site, formed.system
    began = site.wire.mark()

    def asked_again(mark: int) -> float:
        name = f"_mongodb._tcp.{site.service_name}"
        asked = [one.sent for one in site.wire.exchanges(mark) if one.name == name]
        assert asked, "no SRV was asked for"
        return asked[0]

    first = wait_until(lambda: asked_again(began), RESCAN + LATE, "SRV", ignoring=(AssertionError,))
    mark = site.wire.mark()
    second = wait_until(lambda: asked_again(mark), RESCAN + LATE, "SRV again", ignoring=(AssertionError,))
    mark, changed = site.wire.mark(), time.monotonic()
    fourth = site.member(3, formed.address(3))
    system.start(fourth)
    site.timed(lambda: system.whole([*formed.pods, fourth]), RESCAN + LATE, "the client uses a fourth router")
    third = asked_again(mark)
    assert first < second < changed < third
    assert RESCAN - 1 <= third - second <= RESCAN + LATE
    site.remove(fourth)
    site.timed(lambda: fourth.fqdn not in system.state(), RESCAN + LATE, "the client has forgotten the fourth router")
    site.assert_true(began)


def test_a_client_of_a_replica_set_asks_once_and_goes_by_what_members_say(tmp_path: Path) -> None:
    """It never asks for SRV again: after the first answer the members' own list of hosts counts."""
    require_pods()
    require_tool("ferretdb")
    pytest.importorskip("pymongo")
    system = MongoDB("rs0")
    with Site(tmp_path, system) as site:
        members = Cluster(site, system)
        system.watch(site)
        site.timed(lambda: system.whole(members.pods), LATE, "the client sees a primary and two secondaries")
        began = time.monotonic()
        assert system.state().count("RSSecondary") == 2
        members.replace(2, "killed")
        members.replace(0, "killed")
        members.replace_all()
        wait_until(lambda: time.monotonic() > began + RESCAN + 5, RESCAN + LATE, "more than a minute has passed")
        name = f"_mongodb._tcp.{site.service_name}"
        assert [one.name for one in site.wire.exchanges() if one.qtype == "SRV"] == [name]


@pytest.mark.parametrize("port", ["db", "mongo"])
def test_a_port_of_another_name_has_no_srv_for_drivers(tmp_path: Path, port: str) -> None:
    """The trap: drivers ask for `_mongodb._tcp`, so the Service's port has to be called mongodb."""
    require_pods()
    require_tool("ferretdb")
    pytest.importorskip("pymongo")
    system = MongoDB("mongos", port=port)
    with Site(tmp_path, system) as site:
        pods = system.form(site, ["10.44.1.1"])
        with pytest.raises(PodError, match=r"ConfigurationError.*does not exist"):
            system.put(site.client_at(WATCHES), site.service_name, "one")
        system.put(site.client_at(WATCHES), pods[0].fqdn, "one")
        asked = [one for one in site.wire.exchanges() if one.qtype == "SRV"]
        assert {(one.name, one.rcode) for one in asked} == {(f"_mongodb._tcp.{site.service_name}", "NXDOMAIN")}
        why = explained(site, f"_mongodb._tcp.{site.service_name}", "SRV")
        assert port in why, why


@pytest.mark.timeout(900)
def test_rollout_restart_of_the_example(tmp_path: Path) -> None:
    """On a real control plane, whose API server is away in the middle of it, under a client."""
    require_tool("ferretdb")
    pytest.importorskip("pymongo")
    system = MongoDB("rs0")
    rollouts.roll(tmp_path, system, ["nothing", "no API server for 5 s"], system.watch)
    assert not system.events()[MOST_FAILURES:], system.events()
