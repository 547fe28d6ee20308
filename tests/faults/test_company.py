"""Several faults at once: expired watches with a full disk, wrong lists,
objects that cause failures.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, cast

import pytest
from headwater.cluster.objects import Resource

from tests.fakeapi import manifests
from tests.fakeapi.cluster import APP, EVERYTHING, app, cluster
from tests.fakeapi.role import SHORT
from tests.fakeapi.server import Exchange, FakeApiServer
from tests.fakeapi.watching import DEADLINE, Watching
from tests.harness.instance import Headwater
from tests.harness.processes import wait_until

#: The size of the small disk, in KiB.
_DISK: Final = 12 * 1024
_SERVICES: Final = 250
_SOON: Final = replace(SHORT, commit_retry=0.05, second_opinion=0.5)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a separate file system for the state directory."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}k", "headwater-company", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def _leave(folder: Path, kib: int) -> None:
    """Fill the disk, and leave this much free."""
    status = os.statvfs(folder)
    with (folder / "ballast").open("wb") as file:
        file.write(b"x" * max(0, status.f_bavail * status.f_frsize - kib * 1024))


def name(number: int) -> str:
    return f"s-{number}.default.svc.cluster.local"


@pytest.mark.parametrize("room", [200, 500])
def test_watches_that_expire_on_a_disk_that_is_nearly_full_lose_no_name(room: int, tmp_path: Path) -> None:
    """Three lists wait when the disk has some room again: one is applied, and another refused."""
    stable = {name(number): frozenset({f"172.16.{number}.1"}) for number in range(0, _SERVICES, 7)}
    state = tmp_path / "state"
    ports = [{"name": f"port-{number}", "port": number} for number in range(1, 15)]

    def services(**spec: str) -> None:
        for number in range(_SERVICES):
            api.truth.put(manifests.service(f"s-{number}", f"172.16.{number}.1", ports=ports, **spec))

    with (
        small_disk(state),
        cluster(tmp_path, "--reverse-zone", "in-addr.arpa", timing=_SOON, stable=stable) as (api, watching),
    ):
        services()
        watching.ready()
        api.down()
        services(sessionAffinity="ClientIP")  # a new version without a change for DNS
        for number in range(_SERVICES):
            endpoints = {f"host-{host}": f"10.99.{number}.{host}" for host in range(25)}
            api.truth.put(manifests.slice_of(f"s-{number}", endpoints))
        api.truth.compact()
        _leave(state, 0)
        api.up()
        wait_until(
            lambda: all(
                any(item.status for item in api.asked("list", resource)[1:])
                for resource in cast("list[Resource]", ["services", "endpointslices"])
            ),
            DEADLINE,
            "the lists have come",
        )
        wait_until(lambda: watching.snapshot().commit_failures >= 2, DEADLINE, "the disk is full")
        ballast = state / "ballast"
        os.truncate(ballast, ballast.stat().st_size - room * 1024)
        failures = watching.snapshot().commit_failures
        wait_until(lambda: watching.snapshot().commit_failures >= failures + 3, DEADLINE, "it is full again")
        ballast.unlink()
        watching.settle()
        watching.check()


def _wrong_lists(api: FakeApiServer, mode: str, times: float) -> None:
    """Make a server, or its cache, lack nearly everything for `times` lists of Services."""

    def forgetful(exchange: Exchange) -> None:
        if mode == "stream":
            exchange.serve(events=_without_most)
        else:
            exchange.serve(items=lambda items: itertools.islice(items, 6))

    if mode == "stream":
        api.on("watch", "services", forgetful, times=times, only=lambda item: "sendInitialEvents" in item.query)
    else:
        api.on("list", "services", forgetful, times=times)


def _without_most(lines: Iterator[bytes]) -> Iterator[bytes]:
    return (line for line in lines if b'"ADDED"' not in line or b'"s-' not in line)


def _expire(api: FakeApiServer) -> None:
    api.down()
    api.truth.put(app(2))
    api.truth.compact()
    api.up()


@pytest.mark.parametrize("mode", ["pages", "stream"])
def test_a_wrong_list_takes_no_name_away(mode: str, tmp_path: Path) -> None:
    stable = {name(number): frozenset({f"172.16.{number}.1"}) for number in range(0, 40, 3)}
    flags = (*EVERYTHING, "--list", mode)
    with cluster(tmp_path, *flags, timing=_SOON, stable=stable) as (api, watching):
        _services(watching, 40)
        watching.ready()
        _wrong_lists(api, mode, times=1)
        _expire(api)
        wait_until(lambda: watching.snapshot().second_opinions.get("contradicted"), DEADLINE, "a second list has come")
        assert watching.snapshot().second_opinions == {"asked": 1, "contradicted": 1}
        assert watching.logged("would take away 4") == 2
        second = api.asked("list", "services")[-1]
        assert "resourceVersion" not in second.query
        watching.until(APP, "10.44.9.2")
        watching.check()


def test_a_loss_that_is_true_is_served_after_the_second_list_and_survives_a_restart(tmp_path: Path) -> None:
    with cluster(tmp_path, *EVERYTHING, timing=replace(_SOON, second_opinion=60.0)) as (
        api,
        watching,
    ):
        _services(watching, 40)
        watching.ready()
        api.down()
        for number in range(40):
            api.truth.delete("services", f"s-{number}")
        api.truth.compact()
        api.up()
        wait_until(lambda: watching.snapshot().second_opinions, DEADLINE, "a second list is awaited")
        assert "a second list is awaited" in watching.snapshot().detail
        assert watching.view.ask(name(7))[0] == "NOERROR"
        api.truth.put(manifests.service("event", "172.16.200.1"))
        watching.until("event.default.svc.cluster.local", "172.16.200.1")  # events are believed at once
        watching.kill()
        watching.timing = _SOON
        watching.start()
        watching.until(name(7), rcode="NXDOMAIN")
        wait_until(lambda: watching.snapshot().second_opinions.get("confirmed") == 1, DEADLINE, "it is counted")
        assert watching.snapshot().detail == ""
        watching.check()


def test_without_second_opinions_a_list_is_believed_at_once(tmp_path: Path) -> None:
    with cluster(tmp_path, *EVERYTHING, "--second-opinion", "off", timing=_SOON) as (api, watching):
        _services(watching, 40)
        watching.ready()
        _wrong_lists(api, "pages", times=1)
        _expire(api)
        watching.until(name(7), rcode="NXDOMAIN")
        assert watching.snapshot().second_opinions == {}


def _services(watching: Watching, count: int) -> None:
    for number in range(count):
        watching.api.truth.put(manifests.service(f"s-{number}", f"172.16.{number}.1"))


@pytest.mark.parametrize("resource", ["services", "endpointslices"])
def test_object_that_cannot_be_stored_is_left_out_of_events_and_lists_and_audits(
    resource: Resource, tmp_path: Path
) -> None:
    """No API server has such a name.

    Here it shows that no object ends the process or causes lists.
    """
    long = "x" * 600
    bad = (
        manifests.service(long, "172.16.0.66")
        if resource == "services"
        else manifests.slice_of(long, {"": "10.44.6.6"})
    )
    with cluster(tmp_path, *EVERYTHING, "--audit-interval", "0.2s") as (api, watching):
        watching.ready()
        api.truth.put(bad)
        api.truth.put(app(2))
        watching.until(APP, "10.44.9.2")
        wait_until(lambda: watching.snapshot().skipped.get("unexpected"), DEADLINE, "it is counted")
        wait_until(lambda: watching.snapshot().audits >= 4, DEADLINE, "audits go on")
        assert watching.snapshot().resources[resource].relists <= 2, "one that mends nothing is enough"
        watching.kill()
        api.truth.compact()
        watching.start()
        api.truth.put(app(3))
        watching.until(APP, "10.44.9.3")
        watching.settle()
        assert watching.process is not None
        assert watching.process.is_alive()
        assert watching.logged("left out: default/xxx") == 2, "once in each life"


def test_manifests_with_an_object_that_cannot_be_stored_are_served_without_it(tmp_path: Path) -> None:
    """At the start, after a change of the file, and in the next
    process; it never ends in between.
    """
    file = tmp_path / "manifest.json"

    def write(*objects: manifests.Manifest) -> None:
        other = file.with_suffix(".new")
        other.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))
        other.replace(file)

    def answered(running: Headwater, name: str) -> bool:
        return not running.ask(f"{name}.default.svc.cluster.local").header.rcode

    bad = manifests.service("x" * 600, "172.16.0.66")
    write(bad, manifests.service("one", "172.16.0.1"))
    with Headwater(tmp_path, "--manifests", file, workers=1) as running:
        assert answered(running, "one")
        watch = running.pids()["watch"]
        write(bad, manifests.service("one", "172.16.0.1"), manifests.service("two", "172.16.0.2"))
        wait_until(lambda: answered(running, "two"), DEADLINE, "the change is served")
        assert running.pids()["watch"] == watch
        assert 'headwater_records_skipped_total{reason="unexpected"} 2.0' in running.admin("/metrics")[1]
        assert running.log.read_text().count("its name is too long to be stored") == 1
        os.kill(watch, signal.SIGKILL)
        wait_until(lambda: running.pids().get("watch", watch) != watch, DEADLINE, "the watch process is back")
        write(bad, manifests.service("one", "172.16.0.1"), manifests.service("three", "172.16.0.3"))
        wait_until(lambda: answered(running, "three"), DEADLINE, "the change is served")
        assert not answered(running, "two")
