"""The verdict on what DNS told the pods finds what was not true."""

from __future__ import annotations

from typing import Final

import dns.message
import dns.rrset
import pytest

from tests.apps.judge import History, judge
from tests.apps.recorded import Line
from tests.apps.wire import Exchange

HEAD: Final = "db.default.svc.cluster.local"
NAME: Final = f"db-0.{HEAD}"
PTR: Final = "1.1.44.10.in-addr.arpa"
PAST: Final[dict[str, History]] = {
    NAME: [(0.0, None), (10.0, frozenset({"10.44.1.1"})), (100.0, None), (101.0, frozenset({"10.44.2.1"}))],
    "10.44.1.1": [(0.0, None), (10.0, frozenset({NAME})), (100.0, None)],
}


def reply(name: str, qtype: str, *data: str, rcode: int = 0) -> bytes:
    message = dns.message.make_response(dns.message.make_query(name, qtype))
    message.set_rcode(rcode)  # type: ignore[arg-type]
    if data:
        message.answer.append(dns.rrset.from_text(f"{name}.", 5, "IN", qtype, *data))
    return message.to_wire()


@pytest.mark.parametrize(
    ("moment", "name", "qtype", "data", "rcode", "kind"),
    [
        (50.0, NAME, "A", ("10.44.1.1",), 0, ""),
        (101.5, NAME, "A", ("10.44.1.1",), 0, ""),  # as old as promised
        (104.0, NAME, "A", ("10.44.1.1",), 0, "too_old"),
        (150.0, NAME, "A", ("10.44.9.9",), 0, "never_true"),
        (50.0, NAME, "A", ("10.44.2.1",), 0, "never_true"),
        (50.0, NAME, "A", (), 3, "too_old"),
        (50.0, NAME, "AAAA", (), 0, ""),
        (50.0, NAME, "AAAA", (), 3, "too_old"),
        (50.0, PTR, "PTR", (f"{NAME}.",), 0, ""),
        (50.0, PTR, "PTR", (f"db-1.{HEAD}.",), 0, "never_true"),
        (50.0, PTR, "PTR", (), 3, "too_old"),
        (50.0, f"{NAME}.default.svc.cluster.local", "A", (), 3, ""),
        (50.0, f"{NAME}.default.svc.cluster.local", "A", ("10.44.1.1",), 0, "never_true"),
        (50.0, NAME, "A", (), 2, "refused"),
        (50.0, "example.org", "A", (), 2, ""),  # not ours
    ],
)
def test_it_finds_what_was_not_true(
    moment: float, name: str, qtype: str, data: tuple[str, ...], rcode: int, kind: str
) -> None:
    wire = reply(name, qtype, *data, rcode=rcode)
    one = Exchange("10.44.1.2", name, qtype, False, moment, moment + 0.001, wire)
    verdict = judge([one], lambda name: PAST.get(name, []))
    kinds = ("too_old", "never_true", "wrong_nxdomain", "broken", "lost", "refused")
    assert [name for name in kinds if getattr(verdict, name)] == ([kind] if kind else [])


def test_a_question_without_a_reply_is_lost() -> None:
    verdict = judge([Exchange("10.44.1.2", NAME, "A", False, 50.0, 0.0, b"")], lambda name: PAST.get(name, []))
    assert (verdict.asked, verdict.lost) == (1, 1)


def test_a_fault_may_hold_changes_back_but_not_for_ever() -> None:
    wire = reply(NAME, "A", "10.44.1.1")
    for moment, fault, allowed in ((109.0, (99.0, 110.0), True), (113.0, (99.0, 110.0), False)):
        one = Exchange("10.44.1.2", NAME, "A", False, moment, moment + 0.001, wire)
        assert bool(judge([one], lambda name: PAST.get(name, []), fault).too_old) is not allowed


def test_lines_of_members_are_of_one_kind() -> None:
    first, second = (Line(1, f"db-{number}.{HEAD}", "A", "NOERROR", "db-2", "form") for number in (0, 1))
    assert first.kind == second.kind == (f"db-N.{HEAD}", "A", "NOERROR")
    assert Line(1, PTR, "PTR", "NOERROR", "db-2", "form").kind == ("ADDRESS", "PTR", "NOERROR")
