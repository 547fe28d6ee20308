"""Lists that take long, expire, begin again, or are of another time;
and restarts without a list.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from headwater.cluster.objects import Resource
from headwater.process import control

from tests.fakeapi import faults, manifests
from tests.fakeapi.cluster import APP, EVERYTHING, NEVER, STABLE, app, cluster
from tests.fakeapi.role import IMPATIENT
from tests.fakeapi.server import Behaviour, Exchange
from tests.fakeapi.watching import DEADLINE, Watching, longest_rush
from tests.harness.processes import wait_until

SOME = tuple(f"s-{number}" for number in range(40))
"""Services that make a list of many pages."""


def many_services(watching: Watching) -> None:
    for number, name in enumerate(SOME):
        watching.api.truth.put(manifests.service(name, f"172.16.1.{number}"))


# Modes


@pytest.mark.parametrize("mode", ["pages", "stream"])
def test_first_list_then_changes_of_every_kind(mode: str, tmp_path: Path) -> None:
    with cluster(tmp_path, *EVERYTHING, "--list", mode, behaviour=Behaviour(page=2)) as (api, watching):
        truth = api.truth
        watching.ready()
        assert watching.view.ask("far.default.svc.clusterset.local") == ("NOERROR", frozenset({"172.16.9.1"}))
        assert watching.view.ask("10-44-0-2.default.pod.cluster.local") == ("NOERROR", frozenset({"10.44.0.2"}))
        truth.put(app(2))
        truth.put(manifests.namespace("new"))
        truth.put(manifests.service("s", "172.16.2.1", namespace="new"))
        truth.delete("services", "out", "db")
        truth.put(manifests.pod("web-1", "10.44.0.2", phase="Succeeded"))
        truth.delete("pods", "web-0", status={"phase": "Failed"})
        truth.put(manifests.service_import("far", "172.16.9.2"))
        watching.until(APP, "10.44.9.2")
        watching.until("s.new.svc.cluster.local", "172.16.2.1")
        watching.until("10-44-0-2.default.pod.cluster.local", rcode="NXDOMAIN")
        watching.check()
        lists = {"pages": api.count("list"), "stream": api.count("watch")}[mode]
        assert lists == {"pages": 2 + 3 + 3 + 2 + 1, "stream": 5}[mode]


@pytest.mark.parametrize("flushed", [False, True], ids=["in one page", "in pages that are gone"])
def test_changes_in_the_midst_of_a_streamed_list_count(flushed: bool, tmp_path: Path) -> None:
    """A deleted object is gone, a recreated one exists, and of two versions the later counts."""
    gone, back = (
        manifests.service("gone", "172.16.8.8"),
        manifests.service("kube-dns", "172.16.8.7", namespace="kube-system"),
    )
    filler = [faults.line("MODIFIED", manifests.service("web"), 3)] * (1200 if flushed else 1)
    before = [faults.line("ADDED", gone, 1), faults.line("ADDED", back, 2), *filler]
    before += [faults.line("DELETED", gone, 4), faults.line("DELETED", back, 5)]

    def change(given: Iterator[bytes]) -> Iterator[bytes]:
        yield from before
        for line in given:
            if b'"name":"api"' in line and b'"ADDED"' in line:
                yield faults.line("ADDED", manifests.service("api", "172.16.8.9"), 6)
                yield from filler
                yield line.replace(b'"ADDED"', b'"MODIFIED"')
            else:
                yield line

    with cluster(tmp_path, *EVERYTHING, "--list", "stream") as (api, watching):
        streams = lambda request: "sendInitialEvents" in request.query  # noqa: E731
        api.on("watch", "services", faults.events(change), times=2, only=streams)
        watching.ready()
        watching.until("gone.default.svc.cluster.local", rcode="NXDOMAIN")
        watching.until("kube-dns.kube-system.svc.cluster.local", "172.16.0.53")
        watching.until("api.default.svc.cluster.local", "172.16.0.10")
        api.truth.put(app(2))
        api.truth.compact()
        api.break_watches()
        watching.until(APP, "10.44.9.2")
        watching.check()
        assert not api.pending


@pytest.mark.parametrize("support", ["refused", "ignored"])
def test_server_without_watch_list_is_listed_in_pages(support: str, tmp_path: Path) -> None:
    """One server refuses the parameter; an older one ignores it, and
    its first bookmark is ordinary.
    """
    behaviour = Behaviour(watch_list="refused" if support == "refused" else "ignored", bookmarks=0.3)
    with cluster(tmp_path, *EVERYTHING, "--list", "stream", behaviour=behaviour) as (api, watching):
        watching.ready()
        assert api.count("list") == 5
        api.truth.put(app(2))
        watching.until(APP, "10.44.9.2")
        api.truth.compact()
        api.break_watches()
        watching.until_asked(10, "list")
        watching.check()
        streams = sum("sendInitialEvents" in request.query for request in api.asked("watch"))
        assert streams == 5, "it is remembered"


# Expiry


def test_token_that_expires_on_page_seven_begins_the_list_anew(tmp_path: Path) -> None:
    """The old pages do not count: an object that was deleted meanwhile is not in the store."""
    with cluster(tmp_path, behaviour=Behaviour(page=3)) as (api, watching):
        many_services(watching)
        watching.ready()

        def expire(exchange: Exchange) -> None:
            api.truth.delete("services", SOME[0])
            api.truth.compact()
            exchange.serve()

        before = api.count("list", "services")
        api.on("list", "services", expire, skip=6)
        api.truth.compact()
        api.break_watches()
        watching.until(f"{SOME[0]}.default.svc.cluster.local", rcode="NXDOMAIN")
        watching.check()
        firsts = [item for item in api.asked("list", "services")[before:] if "continue" not in item.query]
        assert len(firsts) == 2
        assert api.asked("list", "services")[before + 6].status == 410


def test_lists_that_never_come_to_their_end_are_not_begun_in_a_hurry(tmp_path: Path) -> None:
    """While compaction outruns the pages, the stored records are served, and
    the server gets few requests.
    """
    with cluster(tmp_path, behaviour=Behaviour(page=3)) as (api, watching):
        many_services(watching)
        watching.ready()
        api.on("list", "services", faults.status(410), times=float("inf"), only=lambda item: "continue" in item.query)
        api.truth.put(app(2))
        api.truth.delete("services", SOME[0])
        api.truth.compact()
        began = time.monotonic()
        api.break_watches()
        watching.until_asked(6, "list", "services", since=began)
        api.heal()
        watching.check()
        firsts = [item for item in api.asked("list", "services", began) if "continue" not in item.query]
        assert longest_rush(firsts) <= 1


def test_list_whose_own_version_is_gone_at_once_is_not_repeated_in_a_hurry(tmp_path: Path) -> None:
    """The watch from each new list gets a 410 too, as with a proxy in
    front of two different servers.
    """
    with cluster(tmp_path) as (api, watching):
        watching.ready()
        began = time.monotonic()
        api.on("watch", "services", faults.status(410), times=float("inf"))
        api.break_watches()
        watching.until_asked(5, "list", "services", since=began)
        api.heal()
        watching.check()
        assert longest_rush(api.asked(resource="services", since=began)) <= 3


@pytest.mark.parametrize("mode", ["pages", "stream"])
def test_cluster_that_was_restored_from_a_backup_is_listed_anew(mode: str, tmp_path: Path) -> None:
    """Versions begin again below those that were seen; no later event may count as an old one."""
    with cluster(tmp_path, *EVERYTHING, "--list", mode, behaviour=Behaviour(ahead="refuse")) as (api, watching):
        watching.ready()
        api.truth.delete("services", "out", "db")
        api.truth.put(app(3))
        watching.until(APP, "10.44.9.3")
        api.truth.restore(5000)
        api.truth.put(app(4))
        watching.until(APP, "10.44.9.4")
        api.truth.put(app(5))
        watching.until(APP, "10.44.9.5")
        watching.check()
        assert longest_rush(api.asked(resource="endpointslices")) <= 3


# What a list may look like


@pytest.mark.parametrize("mode", ["pages", "stream"])
def test_objects_without_their_fields_are_left_out_or_taken_as_they_are(mode: str, tmp_path: Path) -> None:
    """An object without a name is counted and left out; one with a name is taken.

    Others do not suffer.
    """
    odd = [
        b"{}", b"null", b"7", b'"x"', b"[]", b'{"metadata":null}', b'{"metadata":{}}', b'{"metadata":{"name":""}}',
        b'{"metadata":{"name":7}}', b'{"metadata":{"name":"x","namespace":[]}}',
    ]  # fmt: skip
    with cluster(tmp_path, *EVERYTHING, "--list", mode) as (api, watching):
        for resource in watching.resources:
            lines = [b'{"type":"ADDED","object":%b}\n' % item for item in odd]
            if mode == "pages":
                api.on("list", resource, faults.more_items(*odd))
            else:
                api.on("watch", resource, faults.lines_first(*lines))
        for kind, version in (("Service", "v1"), ("EndpointSlice", "discovery.k8s.io/v1"), ("Pod", "v1"),
                              ("ServiceImport", "multicluster.x-k8s.io/v1alpha1")):  # fmt: skip
            bare = {"apiVersion": version, "kind": kind, "metadata": {"name": "bare", "namespace": "default"}}
            api.truth.put(bare)
            api.truth.put({**bare, "metadata": {"name": "nulls", "namespace": "default"}, "spec": None, "status": None})
        watching.ready()
        skipped = watching.snapshot().skipped.get("object", 0)
        assert skipped == len(odd) * len(watching.resources)
        api.truth.put(app(2))
        watching.until(APP, "10.44.9.2")
        watching.check()


@pytest.mark.parametrize("mode", ["pages", "stream"])
def test_object_that_does_not_decode_any_more_stays_what_it_was(mode: str, tmp_path: Path) -> None:
    """In a list or a watch: a field of a wrong type removes no name."""

    def spoil(item: bytes) -> bytes:
        return item.replace(b'"addresses":', b'"addresses":7,"others":') if b'"app-1"' in item else item

    with cluster(tmp_path, "--list", mode) as (api, watching):
        watching.ready()
        api.truth.put(app(2))
        watching.until(APP, "10.44.9.2")
        skipped = watching.snapshot().skipped.get("object", 0)
        api.truth.compact()
        if mode == "pages":
            api.on("list", "endpointslices", faults.items(lambda given: map(spoil, given)), times=float("inf"))
        else:
            api.on("watch", "endpointslices", faults.events(lambda given: map(spoil, given)), times=float("inf"))
        api.break_watches()
        wait_until(lambda: watching.snapshot().skipped.get("object", 0) > skipped, DEADLINE, "it is left out")
        watching.until(APP, "10.44.9.2")
        api.heal()
        watching.check()


def test_pages_may_be_empty_and_items_null(tmp_path: Path) -> None:
    with cluster(tmp_path, behaviour=Behaviour(page=2)) as (api, watching):
        api.on("list", "serviceimports", faults.text(200, b'{"metadata":{"resourceVersion":"9990"},"items":null}'))
        api.on("list", "pods", faults.items(lambda _: ()), only=lambda item: "continue" not in item.query)
        api.truth.delete("serviceimports", "far")
        watching.start()
        watching.until("web.default.svc.cluster.local", *STABLE["web.default.svc.cluster.local"])
        api.truth.compact()
        api.break_watches()
        watching.check()


def test_long_lines_are_taken(tmp_path: Path) -> None:
    """Lines of more than 10 MB, as an event and as an item of a list."""
    long = manifests.service("long", "172.16.3.1")
    long["metadata"]["annotations"]["much"] = "ß" * (6 << 20)
    with cluster(tmp_path) as (api, watching):
        watching.ready()
        api.truth.put(long)
        watching.until("long.default.svc.cluster.local", "172.16.3.1")
        api.truth.put(app(2))
        api.truth.compact()
        api.break_watches()
        watching.check()


# Names stay until a list is complete


def test_unfinished_list_takes_nothing_away(tmp_path: Path) -> None:
    """While its second page is delayed, events of other resources are served."""
    with cluster(tmp_path, behaviour=Behaviour(page=3), timing=IMPATIENT) as (api, watching):
        many_services(watching)
        watching.prober.allowed[f"{SOME[-1]}.default.svc.cluster.local"] = frozenset({f"172.16.1.{len(SOME) - 1}"})
        watching.ready()
        api.on("list", "services", faults.hang, skip=1, times=2)
        began = time.monotonic()
        api.truth.compact()
        api.break_watches()
        watching.until_asked(2, "list", "services", since=began)
        api.truth.put(app(2))
        watching.until(APP, "10.44.9.2")
        assert api.pending, "the page has come already"
        watching.check()


@pytest.mark.parametrize("mode", ["pages", "stream"])
def test_kill_in_the_middle_of_a_list_loses_nothing(mode: str, tmp_path: Path) -> None:
    """The next process serves the stored records, and lists from the beginning."""
    flags = (*EVERYTHING, "--list", mode)
    with cluster(tmp_path, *flags, behaviour=Behaviour(page=3)) as (api, watching):
        many_services(watching)
        watching.ready()
        gone = f"{SOME[3]}.default.svc.cluster.local"
        fault = faults.silent(3000) if mode == "stream" else faults.hang
        api.on("watch" if mode == "stream" else "list", "services", fault, skip=mode == "pages", only=lambda item: (
            "sendInitialEvents" in item.query or item.verb == "list"))  # fmt: skip
        api.down()
        api.truth.delete("services", SOME[3])
        api.truth.compact()
        api.up()
        wait_until(lambda: not api.pending, 20.0, "the list has begun", interval=0.005)
        watching.kill()
        watching.prober.expect_answers()
        assert watching.view.ask(gone)[0] == "NOERROR"
        watching.start()
        watching.until(gone, rcode="NXDOMAIN")
        watching.check()


def test_store_whose_file_was_removed_is_noticed_even_after_a_list(tmp_path: Path) -> None:
    """The process ends and says why: the supervisor starts another one, on a store of its own."""
    with cluster(tmp_path, stable={}) as (api, watching):
        watching.ready()
        (file,) = Path(watching.settings.state_dir).glob("store-*/data.mdb")
        file.unlink()
        api.truth.compact()
        api.break_watches()
        process = watching.process
        assert process is not None
        process.join(DEADLINE)
        assert process.exitcode == control.STORE_DAMAGED


# Restarts


def test_restart_needs_no_list_at_all(tmp_path: Path) -> None:
    """It goes on from the last event of some resources, and from the last bookmark of others."""
    with cluster(tmp_path) as (api, watching):
        watching.ready()
        for number in range(2, 7):
            watching.kill()
            watching.prober.expect_answers()
            api.truth.put(app(number))
            watching.start()
            watching.until(APP, f"10.44.9.{number}")
            watching.settle()
        watching.check()
        assert api.count("list") == len(watching.resources), "of the first start"
        assert api.count("watch") == 6 * len(watching.resources)


def test_restart_without_an_api_server_serves_what_is_stored(tmp_path: Path) -> None:
    with cluster(tmp_path) as (api, watching):
        watching.ready()
        watching.kill()
        api.down()
        watching.prober.expect_answers()
        watching.start()
        watching.until_refused(2)
        assert watching.view.ask(NEVER)[0] == "NXDOMAIN"
        api.truth.put(app(2))
        api.up()
        watching.until(APP, "10.44.9.2")
        watching.check()
        assert api.count("list") == len(watching.resources), "of the first start"


def test_first_start_without_an_api_server_says_servfail(tmp_path: Path) -> None:
    with cluster(tmp_path) as (api, watching):
        api.down()
        watching.start()
        watching.until_refused(2)
        assert watching.view.ask("web.default.svc.cluster.local")[0] == "SERVFAIL"
        assert watching.view.ask(NEVER)[0] == "SERVFAIL"
        api.up()
        watching.until("web.default.svc.cluster.local", *STABLE["web.default.svc.cluster.local"])
        watching.check()


@pytest.mark.parametrize("missing", ["namespaces", "services", "endpointslices", "pods", "serviceimports"])
def test_nothing_is_answered_before_every_list_is_whole(missing: Resource, tmp_path: Path) -> None:
    """Not one NXDOMAIN: what has not been listed yet might be there."""
    with cluster(tmp_path) as (api, watching):
        api.on("list", missing, faults.status(403), times=float("inf"))
        watching.start()
        watching.until_asked(len(watching.resources) - 1, "watch")
        watching.until_asked(2, "list", missing)
        assert watching.view.ask("web.default.svc.cluster.local")[0] == "SERVFAIL"
        assert watching.view.ask(NEVER)[0] == "SERVFAIL"
        api.heal()
        watching.check()


@pytest.mark.parametrize("days", [-1, 400])
def test_clock_that_jumps_changes_no_answer(days: int, tmp_path: Path) -> None:
    """Back or forth over a restart: the zone's serial does not go back."""
    with cluster(tmp_path) as (api, watching):
        watching.ready()
        serials = [watching.view.serial()]
        for number, clock in ((2, days * 86400.0), (3, 0.0)):
            watching.kill()
            watching.prober.expect_answers()
            watching.start(clock=clock)
            api.truth.put(app(number))
            watching.until(APP, f"10.44.9.{number}")
            serials.append(watching.view.serial())
        assert serials == sorted(serials)
        watching.check()
        assert api.count("list") == len(watching.resources), "of the first start"
