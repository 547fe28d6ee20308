"""SRV sets that are remembered: what a node says now, and never more than so many bytes of them."""

from __future__ import annotations

import random

import pytest
from headwater.answer import srv
from headwater.answer.srv import SrvSets, srv_set
from headwater.store.node import Kind, SrvForm, pack_node, pack_srv_own, pack_srv_table
from headwater.wire.names import name

WEB = name("web.default.svc.cluster.local")
PORT = name("_http._tcp.web.default.svc.cluster.local")
ROOM = 60_000


def table(*addresses: bytes, base: bytes = WEB, limit: int = 0) -> bytes:
    none: list[bytes] = []
    rows = [(0, f"web-{number}".encode(), [address], none) for number, address in enumerate(addresses)]
    part = pack_srv_table(5, 10, len(base), [(80,)], rows, form=SrvForm.TABLE)
    return pack_node(zone=0, kind=Kind.SERVICE, srv=part, limit=limit)


def whole(found: tuple[int, int, object, bool]) -> tuple[int, int, bytes, bool]:
    ancount, arcount, body, cut = found
    return ancount, arcount, b"".join(body), cut  # type: ignore[arg-type]


def addresses(count: int, seed: int = 0) -> list[bytes]:
    chance = random.Random(seed)
    return [chance.randbytes(4) for _ in range(count)]


def test_a_set_is_the_same_when_it_is_remembered() -> None:
    sets = SrvSets()
    node = table(*addresses(15))
    for qname in (WEB, PORT, WEB, PORT):
        assert whole(sets.get(memoryview(node), qname, qname, ROOM, 0)) == whole(srv_set(node, qname, qname, ROOM, 0))


def test_a_set_whose_node_is_another_is_written_anew() -> None:
    sets = SrvSets()
    for seed in (1, 2, 1):
        node = table(*addresses(3, seed))
        assert whole(sets.get(node, WEB, WEB, ROOM, 0)) == whole(srv_set(node, WEB, WEB, ROOM, 0))


def test_the_name_that_a_node_is_stored_under_counts() -> None:
    """Without underscores a name is shorter, and so is where its pointers lead; another key is another base."""
    sets = SrvSets()
    node = pack_node(zone=0, kind=Kind.ENDPOINT, a=[bytes(16)], srv=pack_srv_own(5, 100, 0, (80,)))
    for qname, key in ((PORT, PORT), (PORT, WEB), (PORT, PORT)):
        assert whole(sets.get(node, key, qname, ROOM, 0)) == whole(srv_set(node, key, qname, ROOM, 0))


@pytest.mark.parametrize("first", [ROOM, 700])
def test_a_set_that_does_not_fit_is_cut_although_it_is_known(first: int) -> None:
    sets = SrvSets()
    node = table(*addresses(15))
    for room in (first, 700, ROOM, 700):
        found = whole(sets.get(node, WEB, WEB, room, 0))
        assert found == whole(srv_set(node, WEB, WEB, room, 0))
        assert found[3] == (room == 700)


def test_a_set_of_which_a_part_is_shown_is_another_each_time() -> None:
    sets = SrvSets()
    node = table(*addresses(4), limit=2)
    found = {whole(sets.get(node, WEB, WEB, ROOM, turn << 30))[2] for turn in range(4)}
    assert len(found) == 4


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srv, "MAX_KNOWN", 100_000)
    sets = SrvSets()
    most = 0
    for number in range(300):
        node = table(*addresses(10, number))
        qname = name(f"web-{number % 200}.default.svc.cluster.local")
        sets.get(node, qname, qname, ROOM, 0)
        most = max(most, sum(len(entry[0]) + len(entry[4]) for entry in sets._known.values()))
    assert 50_000 < most <= 100_000
