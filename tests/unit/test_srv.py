"""The cache of SRV sets: it follows the nodes, and its size is bounded."""

from __future__ import annotations

import ipaddress
import random

import dns.message
import dns.name
import pytest
from headwater.answer import srv
from headwater.answer.sections import Found, Sections
from headwater.answer.srv import SrvSets, srv_of_itself, srv_set
from headwater.store.node import Kind, SrvForm, pack_node, pack_srv_own, pack_srv_table
from headwater.wire.names import name
from headwater.wire.rdata import record
from headwater.wire.types import AAAA, A
from hypothesis import example, given, settings
from hypothesis import strategies as st

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
    """A name without underscores is shorter, so pointers to its base differ;
    another key has another base.
    """
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
        most = max(most, sum(len(entry.node) + len(entry.answer[2][0]) for entry in sets._known.values()))
    assert 50_000 < most <= 100_000


@given(
    st.lists(st.lists(st.integers(1, 65535), max_size=3), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 63), st.integers(0, 2), st.integers(0, 1)), max_size=12),
    st.sampled_from([SrvForm.TABLE, SrvForm.NAMES]),
    st.integers(0, 3),
)
@example([[80], [90, 91]], [(1, 4, 1, 0), (0, 4, 1, 1), (0, 4, 1, 0)], SrvForm.TABLE, 2)
@example([[80, 81], [90]], [(1, 4, 1, 0)], SrvForm.TABLE, 2)
@settings(max_examples=60, deadline=None)
def test_rows_of_any_kind_are_written_in_their_order(
    sets: list[list[int]], drawn: list[tuple[int, int, int, int]], form: SrvForm, plain: int
) -> None:
    """Most rows are alike, one port and one IPv4 address, and have a loop of their own."""
    rows = []
    for number, (index, size, n_a, n_aaaa) in enumerate([(0, 5, 1, 0)] * plain + drawn):
        label = f"{number:03}".rjust(max(3, size), "x").encode()
        a = [bytes((10, number, 0, at)) for at in range(n_a)]
        aaaa = [bytes((0xFD, number, *bytes(13), at)) for at in range(n_aaaa)]
        rows.append((index % len(sets), label, a, aaaa))
    own = bytes if form == SrvForm.TABLE else lambda label: bytes((len(label),)) + label
    stored = [(index, own(label), a, aaaa) for index, label, a, aaaa in rows]
    node = pack_node(zone=0, kind=Kind.SERVICE, srv=pack_srv_table(5, 10, len(WEB), sets, stored, form=form))
    message = decoded(WEB, srv_set(node, WEB, WEB, ROOM, 0), one_rrset=False)
    ends = [(f"{label.decode()}.web.default.svc.cluster.local.", sets[index]) for index, label, _, _ in rows]
    wanted = [f"0 10 {port} {target}" for target, ports in ends for port in ports]
    assert [item.to_text() for rrset in message.answer for item in rrset] == wanted
    glue = [
        (f"{label.decode()}.web.default.svc.cluster.local.", str(ipaddress.ip_address(one)))
        for _, label, a, aaaa in rows
        for one in (*a, *aaaa)
    ]
    assert [(rrset.name.to_text(), item.to_text()) for rrset in message.additional for item in rrset] == glue


# The case of the question (draft-vixie-dnsext-dns0x20)


def asked_as_is(qname: bytes) -> bytes:
    return b"\0\1\1\0\0\1\0\0\0\0\0\0" + qname + b"\0\x21\0\1"


def decoded(qname: bytes, found: Found, *, one_rrset: bool = True) -> dns.message.Message:
    """Decode the set in a reply to this question."""
    ancount, arcount, body, _ = found
    counts = ancount.to_bytes(2, "big") + b"\0\0" + arcount.to_bytes(2, "big")
    query = asked_as_is(qname)
    return dns.message.from_wire(
        query[:2] + b"\x84\0\0\1" + counts + query[12:] + b"".join(body), one_rr_per_rrset=not one_rrset
    )


def spelt(qname: str) -> bytes:
    """Return the wire format of a name in its own case."""
    return dns.name.from_text(qname).to_wire() or b""


FORMS = {
    "own": pack_node(
        zone=0,
        kind=Kind.PORT,
        a=[record(A, 5, b"\x0a\0\0\1")],
        aaaa=[record(AAAA, 5, bytes(16))],
        srv=pack_srv_own(5, 100, len(WEB), (80, 81)),
    ),
    "table": table(*addresses(5), base=WEB),
    "names": pack_node(
        zone=0,
        kind=Kind.PORT,
        srv=pack_srv_table(
            5,
            10,
            len(WEB),
            [(80, 81), (80,)],
            [(0, b"\1h\4east", [b"\x0a\0\0\1"], [bytes(16)]), (1, b"\1h\4west", [], [])],
            form=SrvForm.NAMES,
        ),
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("room", [ROOM, 200, 90])
def test_targets_end_in_the_letters_of_the_question(form: str, room: int) -> None:
    """CoreDNS compresses names of equal case only, so a target and its glue have
    equal case, as in its plugin.
    """
    node, qname = FORMS[form], spelt("_hTTp._tCP.wEb.DEFAULT.svc.Cluster.LOCAL")
    sets = SrvSets()
    lower = srv_set(node, PORT, PORT, room, 0)
    assert lower.ancount
    for letters in (qname, qname, PORT, qname, qname.upper(), PORT):
        found = Sections(*sets.get(memoryview(node), PORT, letters, room, 0))
        assert whole(found) == whole(srv_set(node, PORT, letters, room, 0))
        assert b"".join(found.body).lower() == b"".join(lower.body).lower()
        assert found[:2] == lower[:2]
        assert (
            found.cut == lower.cut == (room != ROOM and room < len(b"".join(srv_set(node, PORT, PORT, ROOM, 0).body)))
        )
        end = decoded(letters, found).question[0].name.to_text().split(".", 2)[2]
        message = decoded(letters, found)
        targets = {item.target.to_text() for item in message.answer[0]}
        assert all(target.endswith(end) for target in targets)
        assert {rrset.name.to_text() for rrset in message.additional} <= targets


def test_the_target_of_a_pod_has_the_letters_of_the_question() -> None:
    qname = spelt("a.10-0-0-1.Default.POD.cluster.Local")
    found = srv_of_itself(qname, qname[2:], b"\x0a\0\0\1", 5)
    message = decoded(qname, found)
    assert message.answer[0][0].target.to_text() == "10-0-0-1.Default.POD.cluster.Local."
    assert message.additional[0].name.to_text() == "10-0-0-1.Default.POD.cluster.Local."


def test_what_is_remembered_for_other_letters_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srv, "MAX_KNOWN", 100_000)
    sets = SrvSets()
    most = 0
    for number in range(300):
        node = table(*addresses(10, number))
        qname = spelt(f"Web-{number % 200}.default.svc.cluster.LOCAL")
        sets.get(node, qname.lower(), qname, ROOM, 0)
        entries = sets._known.values()
        pieces = [piece for entry in entries if entry.written for piece in entry.written.pieces]
        most = max(most, sum(len(entry.answer[2][0]) for entry in entries) + sum(map(len, pieces)))
    assert 30_000 < most <= 100_000
