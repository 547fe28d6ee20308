"""Patience with real processes: both transports, plain DNS, and CoreDNS in front."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Final

import dns.message
import dns.query
import dns.rcode
import pytest

from tests.harness.instance import Headwater
from tests.harness.processes import CoreDNS, free_port, wait_until

DB: Final = "db.default.svc.cluster.local"
WEB: Final = "web.default.svc.cluster.local"
#: The time that a busy machine may take beside what a question waits, in seconds.
MARGIN: Final = 2.0

OBJECTS: Final = """\
apiVersion: v1
kind: Service
metadata: {{name: db, namespace: default, annotations: {{headwater.dev/patience: {patience}}}}}
spec: {{clusterIP: None, ports: [{{name: sql, port: 5432}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: db-x, namespace: default, labels: {{kubernetes.io/service-name: db}}}}
addressType: IPv4
ports: [{{name: sql, port: 5432, protocol: TCP}}]
endpoints: [{{addresses: [10.44.0.1], hostname: db-0, conditions: {{ready: {ready}}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: default}}
spec: {{clusterIP: None}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-x, namespace: default, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
endpoints: [{{addresses: [10.44.0.2], hostname: web-0}}]
"""


def write(folder: Path, *, ready: bool, patience: str = "3s") -> None:
    new = folder / ".manifest"
    new.write_text(OBJECTS.format(ready=str(ready).lower(), patience=patience))
    new.rename(folder / "manifest.yaml")


@pytest.fixture
def clients() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(400) as pool:
        yield pool


def patience(headwater: Headwater) -> dict[str, int]:
    _, metrics = headwater.admin("/metrics")
    lines = [line for line in metrics.splitlines() if line.startswith("headwater_patience_total{")]
    return {line.split('"')[1]: int(float(line.split()[-1])) for line in lines}


def timed(headwater: Headwater, name: str, qtype: str = "A") -> tuple[list[str], int, float]:
    """Return the answer's records, the rcode, and the seconds that it took."""
    began = time.monotonic()
    reply = headwater.ask(name, qtype)
    return [str(item.rdata) for item in reply.rr], reply.header.rcode, time.monotonic() - began


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_a_question_is_answered_when_the_endpoint_is_ready(
    tmp_path: Path, transport: str, clients: ThreadPoolExecutor
) -> None:
    write(tmp_path, ready=False)
    flags = ("--manifests", tmp_path / "manifest.yaml", "--transport", transport)
    with Headwater(tmp_path, *flags, workers=1) as headwater:
        asked = [clients.submit(timed, headwater, name, qtype) for name, qtype in (
            (DB, "A"), (f"db-0.{DB}", "A"), (f"db-0.{DB}", "AAAA"), (DB, "SRV"),
        )]  # fmt: skip
        # Nobody else waits, and a name that nobody awaits is NXDOMAIN at once.
        assert timed(headwater, WEB)[2] < 1.0
        _, rcode, took = timed(headwater, f"nothing.{DB}")
        assert (rcode, took < 1.0) == (3, True)
        assert not any(one.done() for one in asked)
        write(tmp_path, ready=True)
        a, host, aaaa, srv = (one.result(20) for one in asked)
        assert (a[0], host[0]) == (["10.44.0.1"], ["10.44.0.1"])
        assert (aaaa[0], aaaa[1]) == ([], 0)
        assert srv[0] == [f"0 100 5432 db-0.{DB}."]
        assert max(one[2] for one in (a, host, aaaa, srv)) < 3.0 + MARGIN
        wait_until(lambda: patience(headwater).get("answered") == 4, 10, "it is counted")


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_when_the_time_is_up_it_is_nxdomain_and_too_many_do_not_wait(
    tmp_path: Path, transport: str, clients: ThreadPoolExecutor
) -> None:
    write(tmp_path, ready=False, patience="2s")
    flags = ("--manifests", tmp_path / "manifest.yaml", "--transport", transport)
    with Headwater(tmp_path, *flags, workers=1) as headwater:
        assert headwater.records(WEB) == ["10.44.0.2"]
        began = time.monotonic()
        asked = [clients.submit(timed, headwater, DB) for _ in range(150)]
        seen: list[float] = []
        while not all(one.done() for one in asked):
            seen.append(timed(headwater, WEB)[2])
        assert time.monotonic() - began > 1.5
        assert median(seen) < 0.2, "others are answered meanwhile"
        assert {one.result()[1] for one in asked} == {3}
        wait_until(lambda: sum(patience(headwater).values()) == 150, 10, "it is counted")
        found = patience(headwater)
        assert found["refused_tenant"] > 0
        assert found["expired"] >= 100
        assert found["answered"] == found["refused"] == 0


def test_plain_dns_waits_too(tmp_path: Path, clients: ThreadPoolExecutor) -> None:
    write(tmp_path, ready=False)
    port = free_port()
    flags = ("--manifests", tmp_path / "manifest.yaml", "--dns", f"127.0.0.1:{port}")
    with Headwater(tmp_path, *flags, workers=1):
        question = dns.message.make_query(DB, "A")
        udp = clients.submit(dns.query.udp, question, "127.0.0.1", timeout=10, port=port)
        tcp = clients.submit(dns.query.tcp, question, "127.0.0.1", timeout=10, port=port)
        web = dns.message.make_query(WEB, "A")
        for _ in range(20):
            assert dns.query.udp(web, "127.0.0.1", timeout=2, port=port).answer
        assert not udp.done()
        assert not tcp.done()
        write(tmp_path, ready=True)
        for asked in (udp, tcp):
            (rrset,) = asked.result(20).answer
            assert [item.to_text() for item in rrset] == ["10.44.0.1"]


@pytest.mark.coredns
def test_coredns_waits_with_it_and_its_deadline_is_respected(tmp_path: Path, clients: ThreadPoolExecutor) -> None:
    write(tmp_path, ready=False)
    flags = ("--manifests", tmp_path / "manifest.yaml")
    with Headwater(tmp_path, *flags) as headwater, CoreDNS(tmp_path, headwater.grpc_corefile_stanza()) as coredns:

        def ask(name: str) -> tuple[dns.message.Message, float]:
            began = time.monotonic()
            query = dns.message.make_query(name, "A")
            return dns.query.udp(query, "127.0.0.1", timeout=15, port=coredns.port), time.monotonic() - began

        reply, took = ask(DB)
        assert reply.rcode() == dns.rcode.NXDOMAIN, "not SERVFAIL: CoreDNS gives up after 5 s"
        assert 2.0 < took < 5.0
        asked: list[Future[tuple[dns.message.Message, float]]] = [clients.submit(ask, DB) for _ in range(40)]
        stop = threading.Event()
        others = clients.submit(lambda: [ask(WEB)[1] for _ in iter(stop.is_set, True)])
        write(tmp_path, ready=True)
        for one in asked:
            reply, took = one.result(20)
            assert reply.rcode() == dns.rcode.NOERROR
            assert [item.to_text() for item in reply.answer[0]] == ["10.44.0.1"]
        stop.set()
        assert median(others.result(20)) < 0.2
