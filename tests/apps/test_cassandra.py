"""Cassandra's nodes find one another by their seeds' names, and come back under other addresses."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.apps import cluster, faults, java, recorded, report
from tests.apps.cassandra import FORMS, WATCHES, Cassandra
from tests.apps.roots import LONG, require_pods
from tests.apps.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.coredns,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not LONG, reason="the long form: make apps SYSTEM=cassandra"),
]

#: A node takes 20 s to start: not every fault for each.
FAULTS = ("kill -9 of watch", "SIGSTOP of watch and answer 1", "kill -9 of the supervisor")
ROWS = 300


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
    asked = {line.name for line in formed.formed if line.asker.startswith("cassandra-") and line.qtype == "A"}
    assert asked == seeds


def test_a_client_writes_by_the_headless_name_and_reads_through_a_member(formed: Cluster) -> None:
    mark = formed.site.wire.mark()
    formed.system.put(formed.client, formed.site.service_name, "one", "two", "three")
    assert formed.system.get(formed.client, formed.pods[2].fqdn) == ["one", "three", "two"]
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
    formed.replace(FAULTS.index(fault) % cluster.MEMBERS, "killed", fault)


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
    assert system.get(formed.client, formed.pods[0].fqdn) == ["one", "three", "two"]
    asked = {one.name for one in site.wire.exchanges(mark) if one.client == WATCHES}
    assert site.service_name not in asked, "the driver has asked again"
    assert not addresses & {word.rstrip("+-") for word in system.state().split()}
    system.watch(site)
    site.timed(lambda: system.whole(formed.pods), FORMS, "a new client sees three nodes")
    site.assert_true(mark)


@pytest.mark.parametrize("seeds", ["pods", "headless"])
def test_a_node_that_joins_later_takes_over_data_unless_it_is_its_own_seed(tmp_path: Path, seeds: str) -> None:
    """The trap: with the headless name as seed, each node is a seed, and a seed does not bootstrap.

    Rows of which there is one copy are then looked for where they never were.
    """
    require()
    system = Cassandra(seeds)
    with Site(tmp_path, system) as site:
        pods = system.form(site, ["10.44.1.1", "10.44.1.2"])
        client = site.client()
        assert system.make_single(client, pods[0].fqdn, ROWS) == ROWS
        pods.append(site.member(2, "10.44.1.3"))
        system.start(pods[2])
        site.timed(lambda: system.answers(pods[2]), FORMS, "the third has joined")
        site.timed(lambda: system.whole(pods), FORMS, "it is a node like others")
        alone = "This node will not auto bootstrap because it is configured to be a seed node" in system.log(pods[2])
        found = system.count_single(client, pods[0].fqdn)
        site.say(f"seeds by {seeds}: {found} of {ROWS} rows are found")
        assert alone is (seeds == "headless")
        assert (found == ROWS) is (seeds == "pods")
        site.assert_true()
