"""Events that come twice, late, in another order, or never; and the costs of an idle watch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from tests.fakeapi import faults, manifests
from tests.fakeapi.cluster import APP, EVERYTHING, app, cluster
from tests.fakeapi.role import IMPATIENT, SHORT
from tests.fakeapi.server import Behaviour
from tests.harness.processes import wait_until

_APPS: Final = tuple(f"10.44.9.{number}" for number in range(1, 8))


def of(line: bytes) -> dict[str, Any]:
    return dict(msgspec.json.decode(line))


def is_event(line: bytes) -> bool:
    return bool(of(line)["type"] != "BOOKMARK")


# Order


def twice(given: Iterator[bytes]) -> Iterator[bytes]:
    for line in given:
        yield line
        yield line


def with_older_ones(given: Iterator[bytes]) -> Iterator[bytes]:
    """Repeat all earlier events after each event."""
    told: list[bytes] = []
    for line in given:
        yield line
        if is_event(line):
            yield from told
            told.append(line)


def in_pairs(given: Iterator[bytes]) -> Iterator[bytes]:
    """Swap each pair of events."""
    kept: list[bytes] = []
    for line in given:
        if not is_event(line):
            if not kept:
                yield line
            continue
        kept.append(line)
        if len(kept) == 2:
            yield from reversed(kept)
            kept.clear()


def as_other_types(given: Iterator[bytes]) -> Iterator[bytes]:
    """Send ADDED for existing objects, MODIFIED for new ones, and DELETED
    for ones that never existed.
    """
    swapped = {"ADDED": "MODIFIED", "MODIFIED": "ADDED"}
    for line in given:
        event = of(line)
        if event["type"] in swapped:
            gone = {**event["object"], "metadata": {**event["object"]["metadata"], "name": "never"}}
            yield msgspec.json.encode({"type": "DELETED", "object": gone}) + b"\n"
        yield msgspec.json.encode({**event, "type": swapped.get(event["type"], event["type"])}) + b"\n"


@pytest.mark.parametrize("order", [twice, with_older_ones, in_pairs, as_other_types])
def test_events_in_any_order_end_in_the_truth(order: Any, tmp_path: Path) -> None:
    """Events of one object or several; some are deleted, and some of these are created again."""
    with cluster(tmp_path) as (api, watching):
        for resource in watching.resources:
            api.on("watch", resource, faults.events(order))
        watching.ready()
        for number in range(2, 6):
            api.truth.put(app(number))
            api.truth.put(manifests.slice_of("web", {f"web-{number}": f"10.44.2.{number}"}, number))
            api.truth.put(manifests.service(f"s-{number}", f"172.16.4.{number}"))
            api.truth.put(manifests.pod(f"p-{number}", f"10.44.3.{number}"))
        watching.prober.allowed.pop("web.default.svc.cluster.local")
        for number in (2, 3):
            api.truth.delete("endpointslices", f"web-{number}")
            api.truth.delete("services", f"s-{number}")
        api.truth.put(manifests.service("s-2", "172.16.4.22"))
        api.truth.delete("pods", "p-4")
        api.truth.put(app(6))
        api.truth.put(app(7))
        watching.until(APP, "10.44.9.7")
        api.end_watches()
        watching.check()


def test_old_events_are_passed_over_and_counted(tmp_path: Path) -> None:
    """An answer does not return to an old value, not even for a moment."""
    with cluster(tmp_path) as (api, watching):
        api.on("watch", "endpointslices", faults.events(with_older_ones))
        watching.ready()
        for number in range(2, 8):
            api.truth.put(app(number))
            watching.until(APP, f"10.44.9.{number}")
            watching.prober.allowed[APP] = frozenset(_APPS[number - 1 :])
            watching.settle()
        assert watching.snapshot().resources["endpointslices"].outdated >= 1
        watching.check()


# Ends


def test_deleted_object_goes_whatever_its_last_state_says(tmp_path: Path) -> None:
    """Last states with other labels, without endpoints, or with a name only."""
    with cluster(tmp_path) as (api, watching):
        watching.ready()
        del watching.prober.allowed["api.default.svc.cluster.local"]
        watching.prober.allowed.pop("pg.db.svc.cluster.local")
        watching.prober.allowed.pop("pg-1.pg.db.svc.cluster.local")

        def bare(given: Iterator[bytes]) -> Iterator[bytes]:
            for line in given:
                event = of(line)
                if event["type"] == "DELETED" and event["object"]["metadata"]["name"] == "kube-dns":
                    name = {"name": "kube-dns", "namespace": "kube-system"}
                    line = msgspec.json.encode({"type": "DELETED", "object": {"metadata": name}}) + b"\n"
                yield line

        api.on("watch", "services", faults.events(bare))
        api.end_watches()
        api.truth.delete("services", "kube-dns", "kube-system")
        api.truth.delete("services", "api", spec={"type": "ExternalName", "externalName": "example.org"})
        labels = {"kubernetes.io/service-name": "web"}
        meta = api.truth.get("endpointslices", "pg-2", "db")["metadata"]
        api.truth.delete("endpointslices", "pg-2", "db", metadata={**meta, "labels": labels}, endpoints=[])
        watching.until("api.default.svc.cluster.local", rcode="NXDOMAIN")
        watching.until("pg-1.pg.db.svc.cluster.local", rcode="NXDOMAIN")
        watching.until("kube-dns.kube-system.svc.cluster.local", rcode="NXDOMAIN")
        watching.check()


def test_endpoint_that_moves_to_another_slice_is_never_away(tmp_path: Path) -> None:
    """As with the slice controller, both slices have it for a while."""
    first, both = {"pg-0": "10.44.1.1"}, {"pg-0": "10.44.1.1", "pg-1": "10.44.1.2"}
    with cluster(tmp_path) as (api, watching):
        watching.ready()
        for _ in range(10):
            api.truth.put(manifests.slice_of("pg", both, namespace="db"))
            api.truth.put(manifests.slice_of("pg", {}, 2, namespace="db"))
            watching.settle()
            api.truth.put(manifests.slice_of("pg", {"pg-1": "10.44.1.2"}, 2, namespace="db"))
            api.truth.put(manifests.slice_of("pg", first, namespace="db"))
            watching.settle()
        api.truth.put(manifests.slice_of("pg", both, namespace="db"))
        api.truth.delete("endpointslices", "pg-2", "db")
        watching.check()


def test_slice_that_changes_its_service_leaves_nothing_behind(tmp_path: Path) -> None:
    with cluster(tmp_path) as (api, watching):
        watching.ready()
        api.truth.put(manifests.service("other"))
        moved = app(1)
        moved["metadata"]["labels"] = {"kubernetes.io/service-name": "other"}
        watching.prober.allowed.pop(APP)
        api.truth.put(moved)
        watching.until("app-0.other.default.svc.cluster.local", "10.44.9.1")
        watching.until(f"app-0.{APP}", rcode="NXDOMAIN")
        watching.check()


def test_storm_of_changes_with_breaks_in_it_ends_in_the_truth(tmp_path: Path) -> None:
    with cluster(tmp_path) as (api, watching):
        watching.ready()
        watching.prober.allowed.pop("web.default.svc.cluster.local")
        for number in range(3000):
            api.truth.put(app(1 + number % 250))
            api.truth.put(manifests.slice_of("web", {"web-9": f"10.44.{number % 200}.9"}, 9))
            if number % 500 == 250:
                api.break_watches()
        watching.check()
        assert api.count("list") == len(watching.resources)


# Lost events


def lost(event: Mapping[str, Any]) -> bool:
    return bool(event["type"] != "BOOKMARK")


def test_lost_events_are_found_by_the_audit_and_mended(tmp_path: Path) -> None:
    """For every resource, a change, a new object and a deletion without events; bookmarks go on."""
    with cluster(tmp_path, *EVERYTHING, "--audit-interval", "0.3s", behaviour=Behaviour(page=2)) as (api, watching):
        for resource in watching.resources:
            api.on("watch", resource, faults.lose(lost))
        watching.ready()
        wait = time.monotonic()
        watching.until_asked(len(watching.resources), "watch")
        api.truth.put(app(2))
        api.truth.put(manifests.service("new", "172.16.5.1"))
        api.truth.put(manifests.pod("new", "10.44.5.1"))
        api.truth.put(manifests.namespace("fresh"))
        api.truth.put(manifests.service_import("near", "172.16.9.9"))
        api.truth.delete("services", "out", "db")
        api.truth.delete("pods", "web-0")
        watching.until("new.default.svc.cluster.local", "172.16.5.1")
        watching.until(APP, "10.44.9.2")
        watching.until("10-44-5-1.default.pod.cluster.local", "10.44.5.1")
        watching.until("10-44-0-1.default.pod.cluster.local", rcode="NXDOMAIN")
        watching.until("near.default.svc.clusterset.local", "172.16.9.9")
        watching.until("fresh.svc.cluster.local", rcode="NODATA")
        found = watching.snapshot().audit_differences
        assert found == {"namespaces": 1, "services": 2, "endpointslices": 1, "pods": 2, "serviceimports": 1}
        watching.check()
        assert api.count("metadata", since=wait) >= 5


def test_object_that_is_left_out_is_no_difference_to_an_audit(tmp_path: Path) -> None:
    """The store lacks it because it does not decode: a list would not
    mend that, and is not repeated.
    """
    with cluster(tmp_path, *EVERYTHING, "--audit-interval", "0.1s") as (api, watching):
        odd = manifests.service_import("odd", "172.16.9.7")
        odd["spec"]["ports"] = "all of them"
        api.truth.put(odd)
        watching.ready()
        watching.until_asked(6 * len(watching.resources), "metadata")
        watching.check()
        assert api.count("list", "serviceimports") <= 2


def test_versions_that_are_no_numbers_are_compared_and_not_ordered(tmp_path: Path) -> None:
    """Audits find lost events and nothing else; events are taken in order of arrival."""
    behaviour = Behaviour(opaque=True)
    with cluster(tmp_path, *EVERYTHING, "--audit-interval", "0.2s", behaviour=behaviour) as (api, watching):
        watching.start()
        for number in range(1, 4):
            api.truth.put(app(number))
            watching.until(APP, f"10.44.9.{number}")
        since = time.monotonic()
        watching.until_asked(3 * len(watching.resources), "metadata", since=since)
        assert api.count("list") == api.count("watch") == len(watching.resources)
        assert watching.snapshot().audits

        api.on("watch", "endpointslices", faults.lose(lost))
        began = time.monotonic()
        api.break_watches()
        watching.until_asked(1, "watch", "endpointslices", since=began)
        api.truth.put(app(9))
        watching.until(APP, "10.44.9.9")
        assert api.count("list", since=began) == 1


def test_audit_of_a_store_that_is_right_asks_for_metadata_only(tmp_path: Path) -> None:
    """It causes no list and no new watch, and counts no difference."""
    with cluster(tmp_path, *EVERYTHING, "--audit-interval", "0.3s", behaviour=Behaviour(page=2)) as (api, watching):
        watching.ready()
        for number in range(2, 12):  # changes during the audit
            api.truth.put(app(number))
            watching.until(APP, f"10.44.9.{number}")
            watching.until_asked(api.count("metadata") + 1, "metadata")
        watching.until_asked(2 * 11, "metadata")
        watching.check()
        assert api.count("list") == 11
        assert api.count("watch") == len(watching.resources)


def test_audit_that_fails_is_harmless(tmp_path: Path) -> None:
    with cluster(tmp_path, *EVERYTHING, "--audit-interval", "0.1s", behaviour=Behaviour(page=2), timing=IMPATIENT) as (
        api,
        watching,
    ):
        for fault in (
            *(faults.status(code) for code in (500, 406, 410, 403)), faults.hang, faults.cut(100), faults.short(100),
            faults.text(200, b"[]"), faults.items(lambda _: ()), faults.metadata(resourceVersion=None),
        ):  # fmt: skip
            api.on("metadata", None, fault, skip=1)
        watching.ready()
        api.truth.put(app(2))
        watching.until(APP, "10.44.9.2")
        wait_until(lambda: not api.pending, 20.0, "every fault was met")
        watching.until_asked(11 + api.count("metadata"), "metadata")
        watching.check()
        assert watching.logged("differ") == 0


# What it costs


def test_idle_hour_costs_one_watch_after_the_other_and_no_list(tmp_path: Path) -> None:
    """Watches last a second here, and up to ten minutes in production;
    each continues the previous one.
    """
    timing = replace(SHORT, watch=(1.0, 1.0))
    with cluster(tmp_path, *EVERYTHING, "--audit-interval", "0", timing=timing) as (api, watching):
        watching.ready()
        began = time.monotonic()
        watching.until_asked(2 * len(watching.resources), "watch", since=began)
        lasted = time.monotonic() - began
        api.truth.put(app(2))
        watching.until(APP, "10.44.9.2")
        assert api.count("watch", since=began) <= (lasted + 1.5) * len(watching.resources)
        assert api.count("list", since=began) == 0
        watching.check()


def test_expiry_costs_one_list_of_each_resource(tmp_path: Path) -> None:
    with cluster(tmp_path) as (api, watching):
        watching.ready()
        api.down()
        api.truth.compact()
        api.truth.put(app(2))
        api.up()
        watching.until(APP, "10.44.9.2")
        watching.check()
        assert api.count("list") == 2 * len(watching.resources)
        assert api.count("watch") <= 3 * len(watching.resources)
