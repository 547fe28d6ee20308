"""MariaDB with Galera joins by DNS, and its members come back under other addresses.

The short form forms a cluster and replaces a member while a process of Headwater hangs.
HEADWATER_APPS=long (`make apps`) has every fault, all members at once, and the known traps.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.apps import faults, recorded, report, rollouts
from tests.apps.cluster import ADDRESSES, BACK, CASES, Cluster
from tests.apps.galera import FORMS, Galera
from tests.apps.pods import PodError
from tests.apps.roots import LONG, require_root
from tests.apps.site import Site
from tests.harness.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.coredns, pytest.mark.slow, pytest.mark.timeout(600)]
long_form = pytest.mark.skipif(not LONG, reason="the long form: make apps SYSTEM=galera")

SYSTEM: Final = Galera("ready")
NAMED: Final = Galera("named")
#: Seconds after which Galera gives up looking for a primary component (pc.wait_prim_timeout is 30).
GIVES_UP: Final = 90.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    root = require_root()
    with Site(tmp_path_factory.mktemp("galera"), SYSTEM, root=root) as site:
        yield Cluster(site, SYSTEM)


def test_members_join_as_recorded(cluster: Cluster) -> None:
    """Each asks for the headless name once; rsync asks for the donor by PTR, then by name."""
    cluster.site.assert_true()
    kinds = {line.kind for line in cluster.formed}
    known = {line.kind for line in recorded.read("galera") if line.phase == "form"}
    assert kinds == known
    head = cluster.site.service_name
    # The first member finds no peer, and that is how it should be.
    assert {(head, "A", "NXDOMAIN"), (head, "A", "NOERROR"), ("ADDRESS", "PTR", "NOERROR")} <= kinds


def test_a_client_writes_by_the_headless_name_and_reads_through_a_member(cluster: Cluster) -> None:
    mark = cluster.site.wire.mark()
    SYSTEM.put(cluster.client, cluster.site.service_name, "one", "two")
    assert SYSTEM.get(cluster.client, cluster.pods[2].fqdn) == ["one", "two"]
    cluster.site.assert_true(mark)


def test_a_stopped_member_comes_back_while_a_process_of_headwater_hangs(cluster: Cluster) -> None:
    SYSTEM.put(cluster.client, cluster.pods[0].fqdn, "before")
    cluster.replace(2, "stopped", "SIGSTOP of answer 0")
    assert SYSTEM.get(cluster.client, cluster.pods[2].fqdn)[-1] == "before"


def test_no_question_went_over_tcp(cluster: Cluster) -> None:
    """What the wire shows is all that CoreDNS's log has: the verdicts overlook nothing."""
    shown = {(one.client, one.qtype, one.name) for one in cluster.site.wire.exchanges()}
    assert set(cluster.site.asked_by_log()) == shown


@pytest.fixture(scope="module")
def by_names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Yield a cluster that joins as the example does.

    By the headless name a killed member may try its own dead address for ever, if DNS still has it
    when it starts: as long as a hung watch process is not replaced.
    """
    root = require_root()
    with Site(tmp_path_factory.mktemp("galera-named"), NAMED, root=root) as site:
        yield Cluster(site, NAMED)


@long_form
@pytest.mark.parametrize(("how", "fault"), CASES)
def test_a_member_under_another_address(by_names: Cluster, how: str, fault: str) -> None:
    number = sorted(faults.FAULTS).index(fault) % 3
    text = f"{how}-{fault}".replace(" ", "-")
    NAMED.put(by_names.client, by_names.other(number).fqdn, text)
    by_names.replace(number, how, fault)
    assert NAMED.get(by_names.client, by_names.pods[number].fqdn)[-1] == text


@long_form
def test_all_members_at_once_under_other_addresses(cluster: Cluster) -> None:
    """The one that was stopped last makes the cluster again; the others join it by DNS."""
    site = cluster.site
    SYSTEM.put(cluster.client, cluster.pods[1].fqdn, "kept")
    mark, began = site.wire.mark(), time.monotonic()
    for pod in cluster.pods:
        site.remove(pod, "stopped")
    cluster.pods = [site.member(number, cluster.address(number)) for number in range(3)]
    SYSTEM.start_all(site, cluster.pods)
    site.timed(lambda: SYSTEM.whole(cluster.pods), BACK, "all three are back")
    report.note(SYSTEM.name, "all three stopped at once", time.monotonic() - began)
    site.set_ready(*cluster.pods)
    site.assert_true(mark)
    assert SYSTEM.get(cluster.client, site.service_name)[-1] == "kept"


@long_form
def test_the_example_joins_by_pod_names(tmp_path: Path) -> None:
    """Its script makes the cluster once, and again after all have stopped."""
    system = Galera("named")
    with Site(tmp_path, system, root=require_root()) as site:
        cluster = Cluster(site, system)
        system.put(cluster.client, site.service_name, "one")
        cluster.replace(1, "killed")
        assert system.get(cluster.client, cluster.pods[1].fqdn) == ["one"]
        for pod in (*cluster.pods[1:], cluster.pods[0]):
            site.remove(pod, "stopped")
        began = time.monotonic()
        cluster.pods = [site.member(number, cluster.address(number)) for number in range(3)]
        for pod in cluster.pods:
            system.start(pod)
        site.timed(lambda: system.whole(cluster.pods), BACK, "all three are back")
        report.note(system.name, "all three stopped, back by the example's script", time.monotonic() - began)
        assert system.get(cluster.client, site.service_name) == ["one"]
        assert not any(one.name == site.service_name and one.client != cluster.client.address
                       for one in site.wire.exchanges())  # fmt: skip


@long_form
def test_the_headless_name_with_publish_not_ready_addresses_never_joins(tmp_path: Path) -> None:
    """The trap: the pod finds itself first in the set, leaves itself out, and finds no peer."""
    system = Galera("own")
    with Site(tmp_path, system, root=require_root()) as site:
        first = site.member(0, "10.44.1.1")
        system.start(first, first=True)
        site.timed(lambda: system.is_member(first, [first]), FORMS, "the first is up")
        second = site.member(1, "10.44.1.2")
        site.wait_dns(site.service_name, [first.address, second.address])
        server = system.start(second)
        wait_until(lambda: not server.running, GIVES_UP, "the second gives up")
        assert system.is_member(first, [first])
        with pytest.raises(PodError):
            system.status(second)
        assert "failed to reach primary view" in (tmp_path / "galera-1.log").read_text()
        # DNS told it nothing wrong: both addresses, as the Service says.
        site.assert_true()


@long_form
def test_a_dead_member_in_dns_holds_a_new_one_up(tmp_path: Path) -> None:
    """What a DNS that is late costs: the dead address is first for the newcomer, which gives up."""
    with Site(tmp_path, SYSTEM, root=require_root()) as site:
        pods = SYSTEM.form(site, ADDRESSES)
        site.remove(pods[1], publish=False)
        site.timed(lambda: SYSTEM.whole([pods[0], pods[2]]), FORMS, "two are left")
        site.remove(pods[2], "stopped", publish=False)
        site.members[pods[1].name] = pods[1]  # as an endpoint only: its pod is dead
        site.timed(lambda: SYSTEM.is_member(pods[0], pods[:1]), FORMS, "one is left")
        began = time.monotonic()
        again = site.member(2, "10.44.1.3")
        site.wait_dns(site.service_name, [pods[0].address, pods[1].address])
        server = SYSTEM.start(again)
        wait_until(lambda: not server.running, GIVES_UP, "the newcomer gives up")
        report.note(SYSTEM.name, "a dead member in DNS: the newcomer gives up", time.monotonic() - began)
        del site.members[pods[1].name]
        site.publish()
        site.wait_dns(site.service_name, [pods[0].address])
        began = time.monotonic()
        SYSTEM.start(again)
        site.timed(lambda: SYSTEM.whole([again, pods[0]]), FORMS, "the newcomer has joined")
        report.note(SYSTEM.name, "the same, with the dead one out of DNS", time.monotonic() - began)


@long_form
@pytest.mark.timeout(1200)
def test_rollout_restart_of_the_example(tmp_path: Path) -> None:
    """On a real control plane, with a fault in the middle of each restart."""
    rollouts.roll(tmp_path, Galera("named"), rollouts.DURING)
