"""An instance answers every name as soon as it has every object, whatever becomes of its writer."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from dnslib import RCODE, DNSRecord
from headwater.commands import query
from headwater.serve.service import QUERY, pack, unpack
from headwater.store.environment import Reader
from headwater.supervise.liveness import ANSWER

from tests.fakeapi import manifests
from tests.fakeapi.reader import identity_of
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
        self._reader = Reader(headwater.state_dir, identity_of(headwater.settings))

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


@pytest.mark.slow
def test_questions_that_are_made_for_seconds_cost_no_answer_process(tmp_path: Path) -> None:
    """A burst about Services that are too large to be kept together: each question makes one anew.
    The answer process is late then, and does not hang.
    """
    found, large, members = objects(), 4, 10_000
    for number in range(large):
        found.append(manifests.service(f"large-{number}"))
        for start in range(0, members, 1000):
            endpoints = {f"h{at}": f"10.{200 + number}.{at >> 8}.{at & 255}" for at in range(start, start + 1000)}
            found.append(manifests.slice_of(f"large-{number}", endpoints, start))
    kubeconfig = tmp_path / "kubeconfig"
    with FakeApiServer(Truth(found)) as server:
        kubeconfig.write_text(server.kubeconfig())
        with Headwater(tmp_path, "--kubeconfig", kubeconfig) as headwater, closing(Store(headwater)) as store:
            pids = headwater.pids()
            os.kill(pids["watch"], signal.SIGSTOP)
            assert store.state() == "being made", "this machine needs more Services to show it"
            with grpc.insecure_channel(f"unix:{headwater.settings.listen_addresses()[0].path}") as channel:
                ask: Any = channel.unary_unary(QUERY)
                questions = [query.question(f"no.large-{turn % large}.{ZONE}", "A") for turn in range(240)]
                began = time.monotonic()
                replies = [ask.future(pack(item), timeout=60.0) for item in questions]
                assert {DNSRecord.parse(unpack(reply.result())).header.rcode for reply in replies} == {RCODE.NXDOMAIN}
                assert time.monotonic() - began > ANSWER.silent, "this machine needs more questions to show it"
            assert store.state() == "being made"
            assert headwater.pids() == pids
            os.kill(pids["watch"], signal.SIGCONT)
