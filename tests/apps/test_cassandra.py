"""Cassandra's nodes find one another by their seeds' names, and come back under other addresses."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.apps import cluster, faults, java, recorded, report, rollouts
from tests.apps.cassandra import FORMS, WATCHES, Cassandra
from tests.apps.explained import explained
from tests.apps.pods import PodError
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
    pytest.mark.timeout(900),
    pytest.mark.skipif(not LONG, reason="the long form: make apps SYSTEM=cassandra"),
]

ROWS: Final = 300
#: Each process is killed once, and stopped once: a node takes longer to start than others' members.
FAULTS: Final = (
    "kill -9 of watch",
    "kill -9 of both answer processes",
    "kill -9 of the supervisor",
    "SIGSTOP of watch and answer 1",
    "SIGSTOP of the supervisor",
)
NO_BOOTSTRAP: Final = "This node will not auto bootstrap because it is configured to be a seed node"


def require() -> None:
    require_pods()
    java.require("cassandra", ["java"])
    pytest.importorskip("cassandra")


class Cluster(cluster.Cluster):
    """Three nodes, a client that comes and goes, and one that stays, writing and reading."""

    system: Cassandra

    def __init__(self, site: Site, system: Cassandra) -> None:
        super().__init__(site, system)
        system.watch(site)
        site.timed(lambda: system.whole(self.pods), FORMS, "the client sees three nodes")


@pytest.fixture(scope="module")
def formed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    require()
    system = Cassandra()
    with Site(tmp_path_factory.mktemp("cassandra"), system) as site:
        yield Cluster(site, system)


def test_nodes_ask_for_their_seeds_and_for_nobody_else(formed: Cluster) -> None:
    """By name, A and AAAA, when they start. They learn of all others from the seeds."""
    formed.site.assert_true()
    kinds = {line.kind for line in formed.formed if line.asker.startswith("cassandra-")}
    assert kinds <= {line.kind for line in recorded.read("cassandra")}
    seeds = {f"cassandra-{number}.{formed.site.service_name}" for number in (0, 1)}
    asked = [line for line in formed.formed if line.asker.startswith("cassandra-") and line.qtype == "A"]
    assert {line.name for line in asked if line.rcode == "NOERROR"} == seeds
    # The first asks for a seed that is not there yet: the search list follows.
    assert all(line.name.startswith(tuple(seeds)) for line in asked)


def test_a_client_writes_by_the_headless_name_and_reads_through_a_member(formed: Cluster) -> None:
    mark = formed.site.wire.mark()
    formed.system.put(formed.client, formed.site.service_name, "one", "two", "three")
    assert formed.system.get(formed.client, formed.pods[2].fqdn) == ["one", "two", "three"]
    formed.site.assert_true(mark)


@pytest.mark.parametrize(("number", "how"), [(2, "killed"), (0, "stopped"), (1, "killed")])
def test_a_node_under_another_address(formed: Cluster, number: int, how: str) -> None:
    before = len(formed.system.events())
    formed.replace(number, how)
    for event in formed.system.events(before):
        formed.site.say(f"the client: {event}")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_node_is_replaced_while_headwater_has_a_fault(formed: Cluster, fault: str) -> None:
    assert fault in faults.FAULTS
    number = FAULTS.index(fault) % cluster.MEMBERS
    formed.replace(number, "killed" if number else "stopped", fault)


def test_the_others_ask_for_a_seed_that_has_moved(formed: Cluster) -> None:
    """When gossip says that its old address is gone; from then on they have the new one."""
    site, system, pods = formed.site, formed.system, formed.pods
    mark = site.wire.mark()
    formed.replace(0, "killed")
    seed, other = pods[0], pods[2]
    wait_until(
        lambda: seed.address in system.nodetool(other, "getseeds"), FORMS, "a node has the seed's new address",
        ignoring=(PodError,),
    )  # fmt: skip
    assert seed.fqdn in {one.name for one in site.wire.exchanges(mark) if one.client == other.address}


def test_all_nodes_at_once_under_other_addresses(formed: Cluster) -> None:
    """They find one another; the driver that stays does not find them, and a new one does."""
    site, system = formed.site, formed.system
    mark, began = site.wire.mark(), time.monotonic()
    for pod in formed.pods:
        site.remove(pod, publish=False)
    formed.pods = [site.member(number, formed.address(number), publish=False) for number in range(cluster.MEMBERS)]
    site.publish()
    system.start_all(site, formed.pods)
    site.timed(lambda: all(system.answers(pod) for pod in formed.pods), FORMS, "all have started")
    addresses = {pod.address for pod in formed.pods}
    site.timed(lambda: set(system.gossip(formed.pods[0])) >= addresses, FORMS, "one sees all")
    report.note(system.name, "all three killed at once", time.monotonic() - began)
    assert system.get(formed.client, formed.pods[0].fqdn) == ["one", "two", "three"]
    asked = {one.name for one in site.wire.exchanges(mark) if one.client == WATCHES}
    assert site.service_name not in asked, "the driver has asked again"
    assert not addresses & {word.rstrip("+-") for word in system.state().split()}
    system.watch(site)
    site.timed(lambda: system.whole(formed.pods), FORMS, "a new client sees three nodes")
    site.assert_true(mark)


def test_no_question_went_over_tcp(formed: Cluster) -> None:
    """What the wire shows is all that CoreDNS's log has: the verdicts overlook nothing."""
    shown = {(one.client, one.qtype, one.name) for one in formed.site.wire.exchanges()}
    assert set(formed.site.asked_by_log()) == shown


def joined_later(site: Site, system: Cassandra, address: str, seeds: str = "") -> Pod:
    """Start a fourth node; return it when it is a node like others."""
    pod = site.member(3, address)
    system.start(pod, seeds=seeds)
    site.timed(lambda: system.answers(pod), FORMS, "the fourth has joined")
    site.timed(lambda: system.whole([*site.members.values()]), FORMS, "it is a node like others")
    return pod


def test_a_fourth_node_takes_over_data(tmp_path: Path) -> None:
    """With pod names as seeds. Rows of which there is one copy are found where they have to be."""
    require()
    system = Cassandra()
    with Site(tmp_path, system) as site:
        pods = system.form(site, cluster.ADDRESSES)
        client = site.client()
        assert system.make_single(client, pods[0].fqdn, ROWS) == ROWS
        joined_later(site, system, "10.44.1.4")
        assert system.count_single(client, pods[0].fqdn) == ROWS
        site.assert_true()


def test_a_fourth_node_that_is_its_own_seed_takes_over_no_data(tmp_path: Path) -> None:
    """The trap: with the headless name as seed, each node is a seed, and a seed does not bootstrap.

    What the page says against it gets the rows back: the node leaves, and joins by pod names.
    """
    require()
    system = Cassandra("headless")
    with Site(tmp_path, system) as site:
        pods = system.form(site, cluster.ADDRESSES)
        client = site.client()
        assert system.make_single(client, pods[0].fqdn, ROWS) == ROWS
        fourth = joined_later(site, system, "10.44.1.4")
        assert fourth.address in explained(site, site.service_name)
        assert NO_BOOTSTRAP in system.log(fourth)
        # It does not wait for the schema either: reads fail until it has it.
        found = wait_until(
            lambda: system.count_single(client, pods[0].fqdn), FORMS, "rows can be read", ignoring=(PodError,)
        )
        site.say(f"{found} of {ROWS} rows are found")
        assert found < ROWS
        system.nodetool(fourth, "decommission")
        site.remove(fourth)
        shutil.rmtree(fourth.disk)
        site.timed(lambda: system.whole(pods), FORMS, "it has left")
        assert system.count_single(client, pods[0].fqdn) == ROWS
        joined_later(site, system, "10.44.2.4", "pods")
        assert system.count_single(client, pods[0].fqdn) == ROWS
        site.assert_true()


@pytest.mark.timeout(1200)
def test_rollout_restart_of_the_example(tmp_path: Path) -> None:
    """On a real control plane, whose API server is away in the middle of it."""
    require()
    rollouts.roll(tmp_path, Cassandra(), ["no API server for 5 s"])
