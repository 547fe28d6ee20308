"""The verdict on what DNS told the pods: nothing that was never true, nothing too old, no failure.

It judges as the chaos test does (`tests.harness.prober`), by the history of each name, and more
types: A and SRV by the addresses, PTR by the names, all others by whether the name exists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.reversename

from tests.apps.pods import ZONE
from tests.harness.prober import PROMISED, Query, Value, Verdict, age_of, show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.apps.wire import Exchange

History = list[tuple[float, Value]]
#: What exists, when only that is asked.
_THERE: Final = frozenset({"exists"})
_REVERSE: Final = ".in-addr.arpa"


def judge(
    exchanges: Iterable[Exchange],
    history: Callable[[str], History],
    fault: tuple[float, float] = (0.0, 0.0),
) -> Verdict:
    """Compare replies with the truth.

    `history` returns that of a name, or of an address whose values are the names that PTR gives;
    nothing for what has never been. `fault` is the beginning and the end of a fault, during which
    answers may be as old as it is long.
    """
    began, ended = fault
    verdict = Verdict()
    for one in exchanges:
        if not (one.name == ZONE or one.name.endswith((f".{ZONE}", _REVERSE))):
            continue
        verdict.asked += 1
        query = Query(one.name, one.sent, one.received, one.reply)
        if not one.reply:
            verdict.lost += 1
            continue
        verdict.slowest = max(verdict.slowest, one.received - one.sent)
        message = dns.message.from_wire(one.reply)
        rcode = dns.rcode.to_text(message.rcode())
        if rcode not in ("NOERROR", "NXDOMAIN"):
            verdict.refused.append(f"{one.client} {one.qtype} {one.name}: {rcode}")
            continue
        if message.flags & dns.flags.TC:
            continue
        value, past = _value(one, message), _past(one, history)
        what = f"{one.client} {one.qtype} {one.name}: {show(value)}"
        age = age_of(value, query, past)
        if age is None:
            (verdict.wrong_nxdomain if value is None else verdict.never_true).append(f"{what}; true were {past}")
            continue
        verdict.oldest = max(verdict.oldest, age)
        allowed = PROMISED + (one.sent - began if began <= one.sent <= ended + PROMISED else 0.0)
        if age > allowed:
            verdict.too_old.append(f"{what}: not true for {age:.2f} s")
    return verdict


def _value(one: Exchange, message: dns.message.Message) -> Value:
    if message.rcode() == dns.rcode.NXDOMAIN:
        return None
    records = [rdata for rrset in message.answer for rdata in rrset]
    if one.qtype == "A":
        return frozenset(rdata.to_text() for rdata in records if rdata.rdtype == dns.rdatatype.A)
    if one.qtype == "PTR":
        return frozenset(rdata.target.to_text(omit_final_dot=True) for rdata in records)
    if one.qtype == "SRV" and records:
        return frozenset(
            rdata.to_text() for rrset in message.additional for rdata in rrset if rdata.rdtype == dns.rdatatype.A
        )
    return _THERE


def _past(one: Exchange, history: Callable[[str], History]) -> History:
    never: Sequence[tuple[float, Value]] = [(0.0, None)]
    if one.name.endswith(_REVERSE):
        return list(history(dns.reversename.to_address(dns.name.from_text(one.name))) or never)
    name = one.name
    if one.qtype == "SRV" and name.startswith("_"):
        name = name.split(".", 2)[2]
    past = list(history(name) or never)
    if one.qtype in ("A", "SRV"):
        return past
    return [(since, None if value is None else _THERE) for since, value in past]
