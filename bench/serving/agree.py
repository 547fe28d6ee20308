"""Require equal answers before the measurement, because wrong or short answers are fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dns.message
import dns.rcode
import dns.rdatatype

from bench.serving.questions import Question
from bench.serving.servers import Front


class Disagree(Exception):  # noqa: N818 (what they do)
    """Two answers differ; the text shows both."""


def content(reply: dns.message.Message, *, ttls: bool) -> list[str]:
    """Return the records of a reply in a fixed order: an SOA without its serial, and no OPT."""
    found = [dns.rcode.to_text(reply.rcode())]
    for section, rrsets in (("answer", reply.answer), ("authority", reply.authority), ("additional", reply.additional)):
        for rrset in rrsets:
            for rdata in rrset:
                data = "" if rdata.rdtype == dns.rdatatype.SOA else rdata.to_text()
                found.append(f"{section} {rrset.name} {rrset.ttl if ttls else ''} {rdata.rdtype.name} {data}".lower())
    return sorted(found)


def require_agreement(fronts: Mapping[str, Front], questions: Sequence[Question], *, ttls: bool) -> None:
    """Compare the servers' whole answers to each question. Raises Disagree.

    With `ttls` the TTLs must be equal too, as they are without a cache.
    """
    for question in questions:
        said = {name: content(front.ask(question), ttls=ttls) for name, front in fronts.items()}
        (first, expected), *others = said.items()
        for name, found in others:
            if found != expected:
                ours, theirs = ("\n    ".join(_short(lines)) for lines in (expected, found))
                raise Disagree(f"{' '.join(question)}:\n  {first}:\n    {ours}\n  {name}:\n    {theirs}")


def _short(lines: Sequence[str]) -> list[str]:
    return [*lines[:12], f"({len(lines)} lines)"]
