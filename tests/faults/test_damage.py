"""Damaged pages of a running instance: no wrong answer, the rest is
served, and the store is refilled.
"""

from __future__ import annotations

import json
import os
import random
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import dns.message
import dns.rcode
import grpc
import pytest
from headwater.serve.service import QUERY, pack, unpack
from headwater.wire.names import name as wire_name

from tests.fakeapi import manifests
from tests.fakeapi.server import FakeApiServer
from tests.fakeapi.truth import Truth
from tests.harness.instance import Headwater
from tests.harness.processes import wait_until

NAMES: Final = 1500
PAGE: Final = 4096
#: How long the repair may take, in seconds.
HEALED: Final = 20.0
BRANCH, LEAF = 1, 2


def address(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def objects() -> list[manifests.Manifest]:
    found: list[manifests.Manifest] = [manifests.namespace("default"), manifests.namespace("kube-system")]
    for number in range(NAMES):
        found.append(manifests.service(f"web-{number}"))
        found.append(manifests.slice_of(f"web-{number}", {"": address(number)}))
    return found


def generations(folder: Path) -> list[str]:
    """The names of the stores: the old one is removed right after the new one is published."""
    return [item.name for item in folder.glob("store-*")]


def qname(number: int) -> str:
    return f"web-{number}.default.svc.cluster.local."


class Prober:
    """Asks both answer processes for every name, again and again."""

    def __init__(self, headwater: Headwater, stack: ExitStack) -> None:
        channels = [stack.enter_context(grpc.insecure_channel(str(item))) for item in headwater.addresses]
        self._calls: list[Any] = [channel.unary_unary(QUERY) for channel in channels]

    def round(self) -> Iterator[tuple[int, str]]:
        """Ask every process for every name; yield (number, "right", an rcode, or a gRPC status)."""
        for call in self._calls:
            under_way = []
            for number in range(NAMES):
                message = dns.message.make_query(qname(number), "A").to_wire()
                under_way.append((number, call.future(pack(message), timeout=5.0)))
            for number, future in under_way:
                try:
                    reply = dns.message.from_wire(unpack(future.result()))
                except grpc.RpcError as error:
                    yield number, error.code().name
                    continue
                found = [item.to_text() for rrset in reply.answer for item in rrset]
                if reply.rcode() == dns.rcode.NOERROR:
                    yield number, "right" if found == [address(number)] else f"wrong {found}"
                else:
                    yield number, dns.rcode.to_text(reply.rcode())


def pages(file: Path) -> list[tuple[int, int, bytes]]:
    """Return (number, flags, bytes) of the pages after the two meta pages."""
    data = file.read_bytes()
    found = []
    for number in range(2, len(data) // PAGE):
        page = data[number * PAGE : (number + 1) * PAGE]
        at, _, flags = struct.unpack_from("<QHH", page)
        if at == number:
            found.append((number, flags, page))
    return found


def held(page: bytes) -> bytes:
    """Return the entries of a page, which are at its end (MDB_page's `upper`)."""
    return page[int.from_bytes(page[14:16], "little") :]


def damage(folder: Path, what: str) -> None:
    """Write zeros over pages of the published store."""
    file = folder / "current" / "data.mdb"
    known = pages(file)
    target = wire_name("web-700.default.svc.cluster.local")
    if what == "leaf":
        chosen = [number for number, flags, page in known if flags & LEAF and target in page]
    elif what == "branch":
        chosen = [number for number, flags, page in known if flags & BRANCH and b"\7cluster\5local" in page]
    elif what == "roots":
        chosen = [number for number, flags, _ in known if flags & BRANCH]
    else:
        # Of what a page holds: in the room between, there may be bytes of another page.
        leaves = [number for number, flags, page in known if flags & LEAF and b"\7default" in held(page)]
        chosen = random.Random(7).sample(leaves, 10)
    assert chosen
    with file.open("r+b") as store:
        for number in chosen:
            os.pwrite(store.fileno(), bytes(PAGE), number * PAGE)


@pytest.fixture(params=["manifests", "API server"])
def headwater(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Headwater]:
    with ExitStack() as stack:
        if request.param == "manifests":
            file = tmp_path / "all.json"
            file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects()}))
            flags: tuple[str | Path, ...] = ("--manifests", file)
        else:
            truth = Truth(objects())
            server = stack.enter_context(FakeApiServer(truth))
            file = tmp_path / "kubeconfig"
            file.write_text(server.kubeconfig())
            flags = ("--kubeconfig", file)
        yield stack.enter_context(Headwater(tmp_path, *flags))


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True], ids=["", "watch killed"])
@pytest.mark.parametrize("what", ["leaf", "branch", "roots", "random"])
def test_damaged_pages_are_answered_honestly_and_healed(headwater: Headwater, what: str, killed: bool) -> None:
    with ExitStack() as stack:
        prober = Prober(headwater, stack)
        assert Counter(what for _, what in prober.round()) == {"right": 2 * NAMES}
        before = (headwater.state_dir / "current").resolve()
        damage(headwater.state_dir, what)
        if killed:
            headwater.kill9("watch")
        began = time.monotonic()
        seen: dict[int, set[str]] = {}
        while True:
            results = list(prober.round())
            for number, result in results:
                seen.setdefault(number, set()).add(result)
            if (headwater.state_dir / "current").resolve() != before and {what for _, what in results} == {"right"}:
                break
            assert time.monotonic() - began < HEALED, Counter(what for _, what in results)
    found = Counter(result for results in seen.values() for result in results)
    assert set(found) <= {"right", "SERVFAIL"}, found
    bad = [number for number, results in seen.items() if "SERVFAIL" in results]
    if what == "leaf":
        assert 700 in bad or killed
        assert len(bad) < NAMES / 20, "the others were answered throughout"
    elif what == "random":
        assert len(bad) < NAMES / 2
    current = headwater.state_dir / "current"
    wait_until(lambda: generations(headwater.state_dir) == [current.resolve().name], HEALED, "the old store is removed")
    lines = [line for line in headwater.log.read_text().splitlines() if " ERROR " in line or " WARNING " in line]
    assert len(lines) <= 10, lines
    assert headwater.admin("/readyz")[0] == 200
