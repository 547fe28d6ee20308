"""A rolling restart of replicas that keep nothing: each takes another's store, and nobody lists."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.fakeapi import manifests
from tests.fakeapi.server import FakeApiServer
from tests.fakeapi.truth import Truth
from tests.harness.instance import Headwater
from tests.harness.processes import free_port, wait_until

REPLICAS: Final = 3
NAME: Final = "web.default.svc.cluster.local"
SETTLED: Final = 20.0


class Replicas:
    """Three pods, each of which asks the other two for their stores."""

    def __init__(self, folder: Path, kubeconfig: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._kubeconfig = kubeconfig
        self._stack = stack
        self._ports = [free_port() for _ in range(REPLICAS)]
        self._made = 0
        self.running: dict[int, Headwater] = {}

    def begin(self, index: int) -> Headwater:
        """Start one with nothing stored."""
        self._made += 1
        flags: list[str | Path] = ["--kubeconfig", self._kubeconfig, "--peer-listen", f"127.0.0.1:{self._ports[index]}"]
        for other, port in enumerate(self._ports):
            if other != index:
                flags += "--seed", f"127.0.0.1:{port}"
        folder = self._folder / f"pod-{self._made}"
        folder.mkdir()
        self.running[index] = self._stack.enter_context(Headwater(folder, *flags))
        wait_until(self.running[index].is_complete, SETTLED, "every process is up, also the one that gives copies")
        return self.running[index]

    def replace(self, index: int) -> Headwater:
        assert self.running.pop(index).terminate() == 0
        return self.begin(index)

    def know(self, address: str) -> bool:
        """Whether all of them answer with that address."""
        return all(headwater.records(NAME) == [address] for headwater in self.running.values())


@pytest.mark.slow
def test_a_rolling_restart_of_three_lists_nothing(tmp_path: Path) -> None:
    """All are replaced twice, while the cluster changes; every one knows the changes."""
    objects = [manifests.namespace("default"), manifests.namespace("kube-system"), manifests.service("web")]
    kubeconfig = tmp_path / "kubeconfig"
    with FakeApiServer(Truth([*objects, manifests.slice_of("web", {"": "10.0.0.1"})])) as server, ExitStack() as stack:
        kubeconfig.write_text(server.kubeconfig())
        replicas = Replicas(tmp_path, kubeconfig, stack)
        for index in range(REPLICAS):
            replicas.begin(index)
        lists = server.count("list", "services")
        assert lists == 1, "the second and the third take a store at once"
        whole = server.count("list")
        for number, index in enumerate((*range(REPLICAS), *range(REPLICAS)), start=2):
            headwater = replicas.replace(index)
            assert headwater.log.read_text().count("is taken: ") == 1
            address = f"10.0.0.{number}"
            server.truth.put(manifests.slice_of("web", {"": address}))
            wait_until(partial(replicas.know, address), SETTLED, f"all know {address}")
        assert server.count("list") == whole
