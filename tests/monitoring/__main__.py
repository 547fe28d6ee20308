"""Make every alert fire that can be made to: `make alerts`, whose table docs/monitoring.md has.

Each fault is made, the alerts that it should give are waited for, it is mended, and they are waited
out. Whatever else fires meanwhile is told, and then the exit code is 1. The first faults are made
on a real control plane, the last on the fake API server, which lies on demand. Durations of the
rules are divided by 60; thresholds are as they are.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, Generic, TypeVar

import psutil
from headwater.cluster.objects import TRIGGER_TIME_ANNOTATION
from headwater.wire.names import name as wire_name

from tests.fakeapi import faults as lies
from tests.fakeapi import manifests
from tests.fakeapi.server import Exchange
from tests.faults.test_damage import LEAF, PAGE, pages
from tests.harness import arena
from tests.harness.instance import Headwater
from tests.harness.plane import TOOLS, Plane, PlaneError
from tests.harness.processes import free_port, require_tool, wait_until
from tests.monitoring.scene import NAMES, Fake, Scene, fake, in_front, until_replaced
from tools import build

FASTER: Final = 60.0
SOON: Final = 60.0  # seconds
#: Of a small disk: more than the alert's 64 MiB and the store.
DISK_MIB: Final = 120
#: Services that come while the disk is full, each with 100 endpoints.
ROOM: Final = 50
SERVICES: Final = "/api/v1/namespaces/default/services"
SLICES: Final = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
Firing = set[tuple[str, str]]
S = TypeVar("S", bound=Scene)


@dataclass
class Stage(Scene):
    """On the real control plane."""

    plane: Plane | None = None
    folder: Path = Path()


@dataclass(frozen=True)
class Fault(Generic[S]):
    """One row. What `act` breaks at its beginning it mends at its end."""

    name: str
    act: Callable[[S], AbstractContextManager[None]]
    gives: Firing
    may: Firing = field(default_factory=set)
    """What it gives too, if it lasts."""
    changes: bool = True
    """Whether the cluster changes meanwhile."""
    within: float = SOON
    clears: float = 2 * SOON


def on(alert: str, *instances: str) -> Firing:
    return {(alert, instance) for instance in instances}


# On the plane


@contextmanager
def stopped(scene: Scene) -> Iterator[None]:
    pid = scene.instances["a"].process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


STARTED: Final = 'headwater_start_time_seconds{instance="a"}'


def _has_moved(scene: Scene, before: object) -> bool:
    now = scene.prometheus.query(STARTED)
    return bool(now) and now != before


@contextmanager
def restarts(scene: Scene) -> Iterator[None]:
    for _ in range(2):
        before = scene.prometheus.query(STARTED)
        scene.instances["a"].forget()
        scene.instances["a"].start()
        wait_until(partial(_has_moved, scene, before), SOON, "its new life is seen")
    yield


def killed(title: str, times: int) -> Callable[[Scene], AbstractContextManager[None]]:
    @contextmanager
    def act(scene: Scene) -> Iterator[None]:
        for _ in range(times):
            until_replaced(scene.instances["b"], title, scene.instances["b"].kill9(title))
        yield

    return act


def _follows(instance: Headwater) -> bool:
    return 'headwater_watch_connected{resource="services"} 1.0' in instance.admin("/metrics")[1]


@contextmanager
def hangs(scene: Scene) -> Iterator[None]:
    """Until the supervisor has replaced it, twice."""
    for _ in range(2):
        # One that has not made a turn yet would be given five minutes.
        wait_until(partial(_follows, scene.instances["b"]), SOON, "it makes progress")
        before = scene.instances["b"].pids()["watch"]
        os.kill(before, signal.SIGSTOP)
        until_replaced(scene.instances["b"], "watch", before, SOON)
    yield


@contextmanager
def dies_at_once(scene: Scene) -> Iterator[None]:
    """As often as it comes, until it has to wait for long."""
    began = time.monotonic()

    def waits_long() -> bool:
        pid = scene.instances["b"].pids().get("answer 1")
        if pid is None:
            return time.monotonic() - began > 6.0
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()
        return False

    wait_until(waits_long, SOON, "it has to wait", interval=0.02)
    yield


@contextmanager
def full(stage: Stage) -> Iterator[None]:
    """No room is left; and then there is more to store than the store has free pages for."""
    assert stage.plane is not None
    ballast = stage.instances["a"].state_dir / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        for number in range(ROOM):
            stage.plane.api("POST", SERVICES, arena.service(f"room-{number}"))
            stage.plane.api("POST", SLICES, arena.slice_of(f"room-{number}", f"11.2.{number}", 100))
        yield
    finally:
        ballast.unlink()


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "headwater-alerts", str(folder)]
    subprocess.run(command, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@contextmanager
def no_word(stage: Stage) -> Iterator[None]:
    """The API server is there and says nothing. A third instance may not tell old truth."""
    assert stage.plane is not None
    with Headwater(
        stage.folder, "--kubeconfig", stage.plane.kubeconfig, "--max-staleness", "90s", name="strict"
    ) as strict:
        stage.instances["strict"] = strict
        stage.scrape()
        stage.plane.pause("kube-apiserver")
        try:
            yield
        finally:
            stage.plane.resume("kube-apiserver")
            del stage.instances["strict"]
            stage.scrape()


@contextmanager
def first_start(stage: Stage) -> Iterator[None]:
    """A new instance, with nobody at the API server's address."""
    kubeconfig = stage.folder / "nobody"
    kubeconfig.write_text(f"""
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "http://127.0.0.1:{free_port()}"}}}}]
users: [{{name: u, user: {{token: t}}}}]
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
current-context: c
""")
    new = Headwater(stage.folder, "--kubeconfig", kubeconfig, name="new")
    new.start(wait=False)
    try:
        stage.instances["new"] = new
        stage.scrape()
        yield
    finally:
        del stage.instances["new"]
        stage.scrape()
        new.close()


@contextmanager
def nobody_scraped(scene: Scene) -> Iterator[None]:
    scene.prometheus.scrape("headwater", {})
    yield
    scene.scrape()


@contextmanager
def damaged(scene: Scene) -> Iterator[None]:
    """Zeros in the place of every page that has the name of the Service on it."""
    current = (scene.instances["a"].state_dir / "current").resolve()
    name = wire_name(NAMES[0])
    chosen = [
        number
        for number, flags, page in pages(current / "data.mdb")
        if flags & LEAF and name in page[int.from_bytes(page[14:16], "little") :]
    ]
    assert chosen, "no page has the name"
    with (current / "data.mdb").open("r+b") as file:
        for number in chosen:
            os.pwrite(file.fileno(), bytes(PAGE), number * PAGE)
    yield


@contextmanager
def late(scene: Scene) -> Iterator[None]:
    """All that is changed was changed a minute ago; and then very much is changed in time."""
    alter = scene.change
    scene.change = partial(alter, 60.0)  # type: ignore[method-assign]
    try:
        yield
    finally:
        scene.change = alter  # type: ignore[method-assign]
    for _ in range(3000):
        scene.change()


ON_THE_PLANE: Final = [
    Fault[Stage]("nothing, for a minute", lambda _: contextlib.nullcontext(), set()),
    Fault[Stage]("the supervisor is stopped (SIGSTOP)", stopped, on("HeadwaterInstanceDown", "a")),
    Fault[Stage](
        "the supervisor is killed, and started again; twice", restarts, on("HeadwaterInstanceRestarts", "a")
    ),
    Fault[Stage]("the watch process is killed three times", killed("watch", 3), on("HeadwaterProcessRestarts", "b")),
    Fault[Stage]("the watch process hangs twice", hangs, on("HeadwaterProcessKilled", "b"), changes=False),
    Fault[Stage](
        "an answer process dies as soon as it is there", dies_at_once,
        on("HeadwaterProcessDown", "b") | on("HeadwaterProcessRestarts", "b"),
    ),
    Fault[Stage](
        "the disk is full", full, on("HeadwaterCommitsFail", "a") | on("HeadwaterStoreNearlyFull", "a"),
        on("HeadwaterSiblingsDisagree", "a"),
    ),
    Fault[Stage]("pages of the store are zeros", damaged, on("HeadwaterStoreDamaged", "a")),
    Fault[Stage](
        "a new instance does not reach the API server", first_start,
        on("HeadwaterNotReady", "new") | on("HeadwaterServfail", "new") | on("HeadwaterWatchOld", "new"),
    ),
    Fault[Stage](
        "the API server says nothing (SIGSTOP); one instance has `--max-staleness 90s`", no_word,
        on("HeadwaterWatchOld", "a", "b", "strict") | on("HeadwaterStale", "strict"), changes=False, within=270,
    ),
    Fault[Stage]("Prometheus finds no target", nobody_scraped, on("HeadwaterAbsent", "")),
    Fault[Stage](
        "changes come a minute late", late, on("HeadwaterProgrammingLate", "a", "b"),
        on("HeadwaterProgrammingBudget", "a", "b"), clears=240,
    ),
]  # fmt: skip


# On the fake API server


def _lost(event: object) -> bool:
    return isinstance(event, dict) and event["type"] != "BOOKMARK"


@contextmanager
def deaf(scene: Fake) -> Iterator[None]:
    """One of two API servers tells its bookmarks and no change."""
    server = scene.servers["b"]
    server.on("watch", None, lies.lose(_lost), times=float("inf"))
    server.end_watches()
    yield
    server.heal()
    server.end_watches()


@contextmanager
def one_lost(scene: Fake) -> Iterator[None]:
    """A new Service that one of them does not tell."""
    server = scene.servers["b"]
    server.on("watch", "services", lies.lose(_lost))
    asked = server.count("watch", "services")
    server.end_watches()
    wait_until(lambda: server.count("watch", "services") > asked, SOON, "the watch is back")
    scene.truth.put(manifests.service("unheard", "172.16.77.1"))
    yield


@contextmanager
def forgetful(scene: Fake) -> Iterator[None]:
    """A list without most Services, once."""
    server = scene.servers["a"]

    def forget(exchange: Exchange) -> None:
        exchange.serve(items=lambda items: islice(items, 6))

    server.on("list", "services", forget)
    server.down()
    scene.change()
    scene.truth.compact()
    server.up()
    yield


@contextmanager
def odd_object(scene: Fake) -> Iterator[None]:
    """No API server has such a name."""
    scene.truth.put(manifests.service("x" * 600, "172.16.0.66"))
    yield


ON_THE_FAKE: Final = [
    Fault[Fake]("one of two API servers tells no changes, and goes on with bookmarks", deaf,
                on("HeadwaterSiblingsDisagree", "b")),
    Fault[Fake]("an API server gives a list without most Services, once", forgetful,
                on("HeadwaterListContradicted", "a")),
    Fault[Fake]("a Service's name is longer than the store's keys", odd_object, on("HeadwaterObjectLeftOut", "a", "b")),
]  # fmt: skip
WITH_AUDITS: Final = [
    Fault[Fake]("an event is lost; `--audit-interval 2s`", one_lost, on("HeadwaterAuditDiffers", "b")),
]


# The table


def _fires(scene: S, fault: Fault[S]) -> bool:
    scene.goes_on(changes=fault.changes)
    missing = fault.gives - scene.prometheus.firing()
    assert not missing, f"{sorted(missing)} are missing"
    return True


def run(scene: S, fault: Fault[S]) -> str:
    """Its row. Raises TimeoutError when an alert does not come or does not clear."""
    prometheus = scene.prometheus
    prometheus.begin()
    began = time.monotonic()
    with fault.act(scene):
        if fault.gives:
            wait_until(partial(_fires, scene, fault), fault.within, f"{fault.name}: {sorted(fault.gives)}")
        else:
            wait_until(lambda: scene.goes_on() and time.monotonic() > began + SOON, 2 * SOON, "a minute")
        after = time.monotonic() - began
        mended = time.monotonic()
    wait_until(lambda: scene.goes_on() and not prometheus.firing(), fault.clears, f"{fault.name}: it clears")
    cleared = time.monotonic() - mended
    others = prometheus.fired() - fault.gives - fault.may
    names = ", ".join(f"`{name}`" for name in sorted({name for name, _ in fault.gives}))
    row = f"| {fault.name} | {names or 'none'} | {after:.0f} s | {cleared:.0f} s |"
    if others:
        raise AssertionError(f"{row} and others: {sorted(others)}")
    return row


@contextmanager
def on_a_plane(folder: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        plane = stack.enter_context(Plane(folder / "plane"))
        stack.enter_context(small_disk(folder / "a-state"))
        plane.api(
            "POST", SERVICES, {"metadata": {"name": "app"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}}
        )

        def alter(number: int, moment: str) -> None:
            body = {
                "metadata": {
                    "name": "app-1",
                    "labels": {"kubernetes.io/service-name": "app"},
                    "annotations": {TRIGGER_TIME_ANNOTATION: moment},
                },
                "addressType": "IPv4",
                "endpoints": [{"addresses": [f"10.44.9.{number}"], "hostname": "app-0"}],
                "ports": [{"port": 80}],
            }
            try:
                plane.api("PUT", f"{SLICES}/app-1", body, timeout=2)
            except PlaneError:
                plane.api("POST", SLICES, body, timeout=2)

        instances = {
            name: stack.enter_context(Headwater(folder, "--kubeconfig", plane.kubeconfig, name=name)) for name in "ab"
        }
        coredns, prometheus = stack.enter_context(in_front(folder, instances["a"], FASTER))
        stage = Stage(prometheus, instances, coredns, alter, plane=plane, folder=folder)
        stage.scrape()
        wait_until(lambda: stage.goes_on() and prometheus.query("headwater_ready == 1"), SOON, "it is seen")
        yield stage


def main() -> int:
    for name in (*TOOLS, "coredns", "prometheus"):
        require_tool(name)
    failed = 0
    print("| fault | alerts | fire after | clear after the mending |\n|---|---|---:|---:|", flush=True)

    def run_all(scene: S, faults: list[Fault[S]]) -> None:
        nonlocal failed
        for fault in faults:
            if sys.argv[1:] and not any(word in fault.name for word in sys.argv[1:]):
                continue
            try:
                print(run(scene, fault), flush=True)
            except (AssertionError, TimeoutError) as error:
                failed += 1
                print(f"FAILED: {error}", flush=True)
                wait_until(lambda: scene.goes_on() and not scene.prometheus.firing(), 4 * SOON, "all is well again")

    with tempfile.TemporaryDirectory(prefix="hw-alerts-") as name, on_a_plane(Path(name)) as stage:
        run_all(stage, ON_THE_PLANE)
        print(
            f"Prometheus {build.TOOLS['prometheus'].version()}: {stage.prometheus.cost():.0f} s of a core",
            file=sys.stderr,
        )
    for flags, faults in (("0", ON_THE_FAKE), ("2s", WITH_AUDITS)):
        with (
            tempfile.TemporaryDirectory(prefix="hw-alerts-") as name,
            fake(Path(name), "--audit-interval", flags, faster=FASTER) as scene,
        ):
            run_all(scene, faults)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
