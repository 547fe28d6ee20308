"""An instance answers every name as soon as it has every object, whatever becomes of its writer."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from dnslib import RCODE
from headwater.cluster.source import source_of
from headwater.store.environment import Reader
from headwater.store.identity import Identity

from tests.fakeapi import manifests
from tests.fakeapi.server import FakeApiServer
from tests.fakeapi.truth import Truth
from tests.harness.instance import START_TIMEOUT, Headwater
from tests.harness.processes import wait_until

#: So many that their records take a good part of a second; each has so many endpoints.
SERVICES: Final = 2_500
ENDPOINTS: Final = 30
ZONE: Final = "default.svc.cluster.local"
#: How many names are asked for in a round.
ASKED: Final = 150


def address(service: int, endpoint: int) -> str:
    return f"10.{service >> 8}.{service & 255}.{endpoint + 1}"


def objects() -> list[manifests.Manifest]:
    found: list[manifests.Manifest] = [manifests.namespace("default"), manifests.namespace("kube-system")]
    for number in range(SERVICES):
        found.append(manifests.service(f"web-{number}"))
        endpoints = {f"web-{number}-{at}": address(number, at) for at in range(ENDPOINTS)}
        found.append(manifests.slice_of(f"web-{number}", endpoints))
    return found


class Store:
    """The store of an instance, as its answer processes see it."""

    def __init__(self, headwater: Headwater) -> None:
        shape = headwater.settings
        self._reader = Reader(headwater.state_dir, Identity(source_of(shape), shape.records_fingerprint()))

    def state(self) -> str:
        """Return "none", "being made" or "complete"."""
        self._reader.follow()
        snapshot = self._reader.begin()
        if snapshot is None:
            return "none"
        try:
            if self._reader.is_ready(snapshot):
                return "complete"
            return "being made" if self._reader.is_being_made(snapshot) else "none"
        finally:
            snapshot.close()

    def close(self) -> None:
        self._reader.close()


def asked(headwater: Headwater, seed: int) -> Iterator[str]:
    """Ask for names of all kinds, of Services at random; yield what is wrong, or "right"."""
    chosen = random.Random(seed)
    for turn in range(ASKED):
        number, at = chosen.randrange(SERVICES), chosen.randrange(ENDPOINTS)
        name, where = f"web-{number}.{ZONE}", address(number, at)
        every = sorted(address(number, item) for item in range(ENDPOINTS))
        wanted = [
            (name, "A", RCODE.NOERROR, every),
            (f"web-{number}-{at}.{name}", "A", RCODE.NOERROR, [where]),
            (f"web-{number}-{at}.{name}", "AAAA", RCODE.NOERROR, []),
            (f"web-{number}-99.{name}", "A", RCODE.NXDOMAIN, []),
            (f"web-{number + SERVICES}.{ZONE}", "A", RCODE.NXDOMAIN, []),
            (f"_http._tcp.{name}", "A", RCODE.NOERROR, every),
        ][turn % 6]
        qname, qtype, rcode, data = wanted
        reply = headwater.ask(qname, qtype, worker=turn % 2)
        found = sorted(str(item.rdata) for item in reply.rr)
        yield "right" if (reply.header.rcode, found) == (rcode, data) else f"{wanted}: {reply.header.rcode} {found}"


def is_another(headwater: Headwater, pid: int) -> bool:
    """Whether the watch process of that id was replaced."""
    return headwater.pids().get("watch", pid) != pid


@pytest.mark.slow
def test_names_are_answered_while_the_writer_hangs_and_dies(tmp_path: Path) -> None:
    """It hangs while it makes records, then it dies, and the next one too. From the moment at which
    it says that it is ready, nothing is answered wrongly, and nothing is not answered.
    """
    kubeconfig = tmp_path / "kubeconfig"
    with FakeApiServer(Truth(objects())) as server:
        kubeconfig.write_text(server.kubeconfig())
        with Headwater(tmp_path, "--kubeconfig", kubeconfig) as headwater, closing(Store(headwater)) as store:
            lists = server.count("list")
            seen = []
            for _ in range(2):
                pid = headwater.pids()["watch"]
                os.kill(pid, signal.SIGSTOP)
                seen.append(store.state())
                assert Counter(asked(headwater, pid)) == {"right": ASKED}
                assert store.state() == seen[-1], "it hangs"
                os.kill(pid, signal.SIGKILL)
                assert Counter(asked(headwater, pid)) == {"right": ASKED}
                wait_until(partial(is_another, headwater, pid), START_TIMEOUT, "there is another")
            assert seen[0] == "being made", "this machine needs more Services to show it"
            assert "none" not in seen
            wait_until(lambda: store.state() == "complete", START_TIMEOUT, "all records are there")
            assert Counter(asked(headwater, 0)) == {"right": ASKED}
            assert server.count("list") == lists, "what is stored is not listed again"
