"""Whether an API server goes on from versions: only what is known to is proven."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from headwater.cluster.api import ApiServer
from headwater.cluster.objects import Resource
from headwater.cluster.proof import ACCEPTED, Proof

from tests.fakeapi import faults
from tests.fakeapi.cluster import app, objects
from tests.fakeapi.server import Behaviour, FakeApiServer, Fault
from tests.fakeapi.truth import Truth
from tests.harness.processes import wait_until

RESOURCES: tuple[Resource, ...] = ("namespaces", "services", "endpointslices")
PATIENCE = 0.5


@contextmanager
def asked(folder: Path, api: FakeApiServer, version: int = 0) -> Iterator[Proof]:
    """A proof that has begun. It leaves no watch open."""
    file = folder / "kubeconfig"
    file.write_text(api.kubeconfig())
    server = ApiServer(str(file), None, {})
    server.prepare()
    proof = Proof(server, dict.fromkeys(RESOURCES, str(version or api.truth.version)))
    try:
        yield proof
    finally:
        proof.close()
    wait_until(lambda: not any(map(api.watching, RESOURCES)), 10.0, "no watch is open")


def test_silence_proves_and_only_when_it_has_lasted(tmp_path: Path) -> None:
    with FakeApiServer(Truth(objects()), Behaviour(bookmarks=60)) as api:
        began = time.monotonic()
        with asked(tmp_path, api) as proof:
            assert proof.holds(5.0)
            assert time.monotonic() - began > ACCEPTED


def test_an_event_or_a_bookmark_proves(tmp_path: Path) -> None:
    with FakeApiServer(Truth(objects()), Behaviour(bookmarks=0.02)) as api:
        version = api.truth.version
        api.truth.put(app(2))
        with asked(tmp_path, api, version) as proof:
            assert proof.holds(5.0)


def test_nothing_is_proven_of_nothing(tmp_path: Path) -> None:
    proof = Proof(ApiServer(None, None, {}), {})
    assert not proof.holds(0.0)


@pytest.mark.parametrize("expired", ["event", "status"])
def test_versions_that_were_forgotten_are_not_proven(expired: str, tmp_path: Path) -> None:
    with FakeApiServer(Truth(objects()), Behaviour(expired=expired)) as api:  # type: ignore[arg-type]
        version = api.truth.version
        api.truth.put(app(2))
        api.truth.compact()
        with asked(tmp_path, api, version) as proof:
            assert not proof.holds(5.0)


@pytest.mark.parametrize("slow", RESOURCES)
@pytest.mark.parametrize(
    ("verdict", "fault"),
    [
        ("refused", faults.status(403)),
        ("reset", faults.reset),
        ("cut", faults.cut(0)),
        ("ended", faults.text(200, b"")),
        ("no event", faults.text(200, b"{}\n")),
        ("no JSON", faults.text(200, b"<html>\n")),
        ("an error", faults.text(200, b'{"type": "ERROR", "object": {"code": 500}}\n')),
        ("silent before its head", faults.hang),
    ],
)
def test_one_that_does_not_go_on_spoils_the_proof(slow: Resource, verdict: str, fault: Fault, tmp_path: Path) -> None:
    with FakeApiServer(Truth(objects()), Behaviour(bookmarks=0.02)) as api:
        api.on("watch", slow, fault)
        began = time.monotonic()
        with asked(tmp_path, api) as proof:
            assert not proof.holds(PATIENCE), verdict
        assert time.monotonic() - began < PATIENCE + 0.5
