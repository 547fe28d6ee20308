"""Two instances on one cluster, both scraped, and somebody who changes it and asks."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import dns.exception
from headwater.cluster.objects import TRIGGER_TIME_ANNOTATION
from headwater.commands.query import LookupFailed

from tests.fakeapi import manifests
from tests.fakeapi.cluster import APP, objects
from tests.fakeapi.server import Behaviour, FakeApiServer
from tests.fakeapi.truth import Truth
from tests.harness.instance import Headwater
from tests.harness.plane import PlaneError
from tests.harness.processes import CoreDNS, free_port, wait_until
from tests.monitoring.live import Prometheus

#: Enough Services that a list without most of them is doubted.
SERVICES: Final = 40
NAMES: Final = (APP, "web.default.svc.cluster.local", "never.default.svc.cluster.local")


def until_replaced(instance: Headwater, title: str, before: int, seconds: float = 30.0) -> None:
    """Return when another process than `before` has that title."""
    wait_until(lambda: instance.pids().get(title, before) != before, seconds, f"another {title} is there")


@dataclass
class Scene:
    """What runs: instances of one cluster, and CoreDNS in front of the first."""

    prometheus: Prometheus
    instances: dict[str, Headwater]
    coredns: CoreDNS
    alter: Callable[[int, str], object]
    """Give `app` the address of a number, changed at that time (RFC 3339)."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def change(self, late: float = 0.0) -> None:
        """Another address for `app`; the pod changed so many seconds ago."""
        moment = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=late)
        with suppress(OSError, PlaneError):  # a fault may have the API server away, or busy with its return
            self.alter(next(self._numbers) % 250 + 1, moment.strftime("%Y-%m-%dT%H:%M:%SZ"))

    def ask(self) -> None:
        """Some questions to each instance, and through CoreDNS to the first."""
        for name in NAMES:
            with suppress(dns.exception.DNSException, OSError):
                self.coredns.ask(name, timeout=0.5)
            for instance in self.instances.values():
                with suppress(LookupFailed):
                    instance.ask(name, timeout=0.5)

    def goes_on(self, *, changes: bool = True) -> bool:
        """A moment of an ordinary day; true, for conditions."""
        if changes:
            self.change()
        self.ask()
        return True

    def scrape(self, **more: Headwater) -> None:
        """Let Prometheus see the instances, and these."""
        found = self.instances | more
        self.prometheus.scrape("headwater", {name: item.admin_port for name, item in found.items()})


@dataclass
class Fake(Scene):
    """Each instance has a fake API server of its own, and both tell of the same cluster."""

    truth: Truth = field(default_factory=Truth)
    servers: dict[str, FakeApiServer] = field(default_factory=dict)


@contextmanager
def in_front(folder: Path, instance: Headwater, faster: float) -> Iterator[tuple[CoreDNS, Prometheus]]:
    """CoreDNS before an instance, and Prometheus, which sees CoreDNS and nobody else yet."""
    port = free_port()
    corefile = instance.grpc_corefile_stanza().replace("{\n", f"{{\n    prometheus 127.0.0.1:{port}\n", 1)
    with CoreDNS(folder, corefile) as coredns, Prometheus(folder, faster) as prometheus:
        prometheus.scrape("coredns", {"a": port})
        yield coredns, prometheus


@contextmanager
def fake(folder: Path, *flags: str, faster: float) -> Iterator[Fake]:
    """Two instances `a` and `b` that are ready, and Prometheus."""
    truth = Truth(objects())
    for number in range(SERVICES):
        truth.put(manifests.service(f"s-{number}", f"172.16.{number}.1"))

    def alter(number: int, moment: str) -> None:
        changed = manifests.slice_of("app", {"app-0": f"10.44.9.{number}"})
        changed["metadata"]["annotations"] = {TRIGGER_TIME_ANNOTATION: moment}
        truth.put(changed)

    with ExitStack() as stack:
        servers, instances = {}, {}
        for name in "ab":
            servers[name] = stack.enter_context(FakeApiServer(truth, Behaviour(bookmarks=0.5)))
            kubeconfig = folder / f"kubeconfig-{name}"
            kubeconfig.write_text(servers[name].kubeconfig())
            instances[name] = stack.enter_context(Headwater(folder, "--kubeconfig", kubeconfig, *flags, name=name))
        coredns, prometheus = stack.enter_context(in_front(folder, instances["a"], faster))
        found = Fake(prometheus, instances, coredns, alter, truth=truth, servers=servers)
        found.scrape()
        yield found
