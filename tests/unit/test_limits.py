"""The cost of one object: each row of docs/limits.md, with the objects of `tests.hostile`."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import pytest
from headwater.cluster.changes import Upsert
from headwater.cluster.objects import KINDS, Port, convert, pack
from headwater.records import limits

from tests import hostile
from tests.harness.small import Small, at, cluster_ip, headless, remove, settings, slice_of
from tests.harness.small import upsert as changed

TENANT: Final = "t"
BASE: Final = "default.svc.cluster.local"
#: The most growth of CPU time with a double size: 2 is linear, 4 is quadratic.
GROWTH: Final = 2.6
#: The most CPU seconds of one edit at the sizes of `hostile.KINDS`: twenty times the usual.
ABSOLUTE: Final = 2.0
#: The most bytes of records and addresses for each byte of objects.
STORED: Final = 45
STORED_EACH: Final = 16_384


@dataclass
class Tried:
    """The costs of one size of a kind."""

    seconds: float
    objects: int
    """Bytes of the objects in the store."""
    count: int
    stored: int
    """Bytes of records and of the index of addresses."""


def upsert(item: dict[str, Any]) -> Upsert:
    version, kind = item["apiVersion"], item["kind"]
    resource = KINDS[version, kind]
    decoded = convert(resource, item)
    if item["kind"] == "Service" and "clusterIP" not in item["spec"]:
        item["spec"] |= {"clusterIP": "172.16.0.9", "clusterIPs": ["172.16.0.9"]}
        decoded = convert(resource, item)
    return Upsert(resource, decoded)


@contextmanager
def tenant(folder: Path, items: list[dict[str, Any]]) -> Iterator[tuple[Any, Any]]:
    """Yield a store with these objects, and its ledger."""
    world = Small(folder, settings(zonal=True, reverse_zones=("in-addr.arpa", "ip6.arpa")))
    decoded = [upsert(item).decoded.object for item in items]
    world.fill(*decoded, namespaces=["default", TENANT])
    store, ledger = world.open()
    try:
        yield store, ledger
    finally:
        store.close()


def cost(folder: Path, kind: str, size: int) -> Tried:
    """Return the least cost of several edits of the last object."""
    items = hostile.KINDS[kind][0](TENANT, size)
    with tenant(folder, items) as (store, ledger):

        def held(txn: Any) -> int:
            return sum(len(key) + len(value) for db in ("records", "addresses") for key, value in txn.scan(db))

        stored = store.read(held)
        best = float("inf")
        for turn in range(6):
            change = upsert(hostile.edit(items[-1], turn))
            gc.disable()
            begun = time.process_time()
            ledger.commit([change])
            if turn:  # the first edit may change little
                best = min(best, time.process_time() - begun)
            gc.enable()
    packed = sum(len(pack(upsert(item).decoded.object)) for item in items)
    return Tried(best, packed, len(items), stored)


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_twice_the_size_costs_about_twice(tmp_path: Path, kind: str) -> None:
    _, size = hostile.KINDS[kind]
    for attempt in range(3):  # a busy machine may disturb a measurement
        one, two = (cost(tmp_path / f"{kind}-{attempt}-{number}", kind, number) for number in (size, 2 * size))
        if two.seconds <= GROWTH * one.seconds + 0.002:
            break
    assert two.seconds <= GROWTH * one.seconds + 0.002
    assert two.seconds <= ABSOLUTE
    for tried in (one, two):
        assert tried.stored <= STORED * tried.objects + STORED_EACH * tried.count


def numbered(count: int) -> list[Port]:
    return [Port(f"p{i}", "TCP", 1 + i % 65_535) for i in range(count)]


def test_ports_beyond_the_limit_have_no_names_and_the_others_do(tmp_path: Path) -> None:
    world = Small(tmp_path).fill(cluster_ip("many", "172.16.0.1", ports=numbered(limits.MAX_PORTS + 5)))
    last = limits.MAX_PORTS - 1
    assert world.answers(f"_p{last}._tcp.many.{BASE}") == {"172.16.0.1"}
    assert world.status(f"_p{last + 1}._tcp.many.{BASE}") == "NXDOMAIN"
    assert ("limit", "default", "many", "more than 4,096 ports") in world.reports


def test_addresses_of_a_slice_beyond_the_limit_have_no_names(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(reverse_zones=("in-addr.arpa",)))
    members = [at(*(hostile.v4(i * 100 + k) for k in range(100))) for i in range(60)]
    world.fill(headless("wide"), slice_of("wide", *members), headless("web"), slice_of("web", at("10.0.0.1")))
    inside, outside = (hostile.v4(number) for number in (limits.MAX_SLICE_ADDRESSES - 1, limits.MAX_SLICE_ADDRESSES))
    assert world.answers(f"{inside.replace('.', '-')}.wide.{BASE}") == {inside}
    assert world.status(f"{outside.replace('.', '-')}.wide.{BASE}") == "NXDOMAIN"
    assert world.answers(reverse(inside), "PTR")
    assert world.status(reverse(outside), "PTR") == "NXDOMAIN"
    assert [report[:3] for report in world.reports] == [("limit", "default", "wide-1")]
    assert world.answers(f"web.{BASE}") == {"10.0.0.1"}


def reverse(address: str) -> str:
    return ip_address(address).reverse_pointer


def test_a_change_before_the_limit_moves_what_lies_at_it(tmp_path: Path) -> None:
    """The store equals a new one, whichever slice has changed."""
    size = limits.MAX_ADDRESSES // 4
    pieces = [
        slice_of("deep", *(at(hostile.v4(n * size + i)) for i in range(size)), name=f"deep-{n}") for n in range(5)
    ]
    one, other = Small(tmp_path / "one"), Small(tmp_path / "other")
    one.fill(headless("deep"), *pieces)
    shorter = slice_of("deep", *pieces[0].endpoints[100:], name="deep-0")
    for world, items in ((one, [shorter]), (other, [headless("deep"), shorter, *pieces[1:]])):
        if world is other:
            world.fill(*items)
        else:
            world.commit(changed(shorter))
        assert ("limit", "default", "deep", "more than 10,000 addresses") in world.reports
    assert one.records() == other.records()
    one.commit(changed(pieces[0]), remove(pieces[2]))
    other.fill(headless("deep"), pieces[0], pieces[1], *pieces[3:])
    assert one.records() == other.records()


def test_slices_that_are_not_read_take_their_names_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A growing slice may push another one beyond the limit: its names vanish, and later return."""
    monkeypatch.setattr(limits, "MAX_READ", 8 * limits.LEAST_READ)
    one, other = Small(tmp_path / "one"), Small(tmp_path / "other")
    pieces = [slice_of("web", at(f"10.0.0.{n}"), name=f"web-{n:02}") for n in range(1, 9)]
    one.fill(headless("web"), *pieces)
    assert len(one.answers(f"web.{BASE}")) == 8
    early = slice_of("web", at("10.0.0.99"), name="web-00")
    one.commit(changed(early))
    assert one.status(f"10-0-0-8.web.{BASE}") == "NXDOMAIN"
    assert ("limit", "default", "web", "more than 0 MiB of slices") in one.reports
    other.fill(headless("web"), early, *pieces)
    assert one.records() == other.records()
    one.commit(remove(early))
    other.fill(headless("web"), *pieces)
    assert one.records() == other.records()


def test_ports_that_only_some_slices_have_are_stored_as_often_as_their_addresses_allow(tmp_path: Path) -> None:
    half = [at(f"10.0.1.{i}") for i in range(100)]
    world = Small(tmp_path).fill(
        headless("web"),
        slice_of("web", *half, name="web-1", ports=numbered(50)),
        slice_of("web", at("10.0.2.1"), name="web-2", ports=numbered(1)),
    )
    allowed = limits.repeated(101) // 100
    assert world.answers(f"_p{allowed}._tcp.web.{BASE}") == {item.addresses[0] for item in half}
    assert world.status(f"_p{allowed + 1}._tcp.web.{BASE}") == "NXDOMAIN"
    assert len(world.answers(f"_p0._tcp.web.{BASE}")) == 101
    assert world.reports


def test_the_name_of_an_endpoint_says_as_many_ports_as_all_of_them_may_repeat(tmp_path: Path) -> None:
    world = Small(tmp_path).fill(
        headless("few"), slice_of("few", at("10.0.0.1", hostname="h"), ports=numbered(1_000)),
        headless("web"), slice_of("web", *(at(f"10.0.{i >> 8}.{i & 255}") for i in range(1_000)), ports=numbered(100)),
    )  # fmt: skip
    assert len(world.answers(f"h.few.{BASE}", "SRV")) > 700, "as many as a reply holds"
    assert len(world.answers(f"10-0-0-7.web.{BASE}", "SRV")) == limits.ports_each(1_000) == 16
    assert len(world.answers(f"_p99._tcp.web.{BASE}")) == 1_000


@pytest.mark.parametrize("kind", ["small_slices", "slices_of_a_service", "other_ports_in_each_slice", "many_ports"])
def test_far_beyond_every_limit_one_edit_is_bounded(tmp_path: Path, kind: str) -> None:
    """Left-out data costs nothing: five times the limit takes at most
    twice the time at the limit.
    """
    size = {"small_slices": 2_048, "slices_of_a_service": 10_000, "other_ports_in_each_slice": 1_366}.get(kind, 4_096)
    for attempt in range(3):
        at_limit, beyond = (cost(tmp_path / f"{attempt}-{times}", kind, times * size) for times in (1, 5))
        if beyond.seconds <= 2 * at_limit.seconds:
            break
    assert beyond.seconds <= 2 * at_limit.seconds + 0.01
    assert beyond.seconds <= ABSOLUTE
