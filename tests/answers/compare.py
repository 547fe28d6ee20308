"""Whole messages compared in bulk: the package's comparator, with the oracle on one API server for
the other server.

A run in which a deviation never occurs says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial

from headwater.compare.deviations import NOERROR, Case, Oracle, deviation_of, names_differ_in_length, theirs_of
from headwater.compare.messages import TC, Query, Reply, alike, parse_reply
from headwater.wire.types import NS

from tests.answers.names import Names, relative_to
from tests.answers.servers import CLUSTERSET, Pair
from tests.answers.wire import exchange

#: How many names the oracle is asked for at once to find one that exists.
_AT_A_TIME = 64


def _oracle(pair: Pair, names: Names) -> Oracle:
    """Names below one are those that follow from the objects."""
    pair.reverse_names.update(names.reverse)
    reverse_names = [*pair.reverse_names][::-1]

    def under(name: str) -> list[str]:
        parts = oracle.split(name)
        if parts is None:
            return [other for other in reverse_names if other.endswith(f".{name}")]
        suffix = "." + ".".join(parts[0])
        relative = {**names.forward, **names.imported}
        return relative_to(parts[1], [other for other in relative if other.endswith(suffix)])

    oracle = Oracle(
        partial(exchange, pair.oracle.port),
        under,
        zones=pair.headwater.settings.forward_zones(),
        reverse_zones=pair.reverse_zones,
        import_zones=[CLUSTERSET],
        endpoint_pod_names=pair.configuration.endpoint_pod_names,
        dotted=names.dotted,
        at_a_time=_AT_A_TIME,
    )
    return oracle


@dataclass(frozen=True)
class Difference:
    """Both replies to one question, under one configuration."""

    configuration: str
    query: Query
    theirs: Reply | None
    ours: Reply | None

    def __str__(self) -> str:
        theirs, ours = (str(reply) if reply else "no reply that answers it" for reply in (self.theirs, self.ours))
        return f"[{self.configuration}] {self.query}\n  kubernetes:\n    {theirs}\n  headwater:\n    {ours}"


@dataclass
class Tally:
    """Counts of comparisons, and of the deviations that occurred."""

    messages: int = 0
    deviations: Counter[str] = field(default_factory=Counter)


def never_asked(pair: Pair, query: Query) -> bool:
    """Return whether an oracle bound to loopback cannot answer: it has no name
    server's address (boundIPs).
    """
    name = query.name.lower()
    if pair.configuration.everywhere:
        return False
    zones = (*pair.headwater.settings.forward_zones(), *pair.reverse_zones)
    return name.startswith("ns.dns.") or (query.qtype == NS and name in zones)


def compare(pair: Pair, names: Names, queries: Sequence[Query], pool: Executor, tally: Tally) -> list[Difference]:
    """Ask both, and return the differences that no deviation explains.

    Only the header of a truncated reply is compared, and the question is asked again over TCP,
    because it is chance which records fit.
    """
    # In this thread, before the next pair's: the comparison needs no other pair's replies.
    asked = [pool.submit(exchange, server.port, queries) for server in (pair.oracle, pair.ours)]
    theirs, ours = (future.result() for future in asked)
    tally.messages += len(queries)
    found: list[Difference] = []
    cases: list[Case] = []
    again: list[Query] = []
    oracle = _oracle(pair, names)
    for query, their_bytes, our_bytes in zip(queries, theirs, ours, strict=True):
        if their_bytes and our_bytes and alike(query, their_bytes, our_bytes):
            continue
        one, two = theirs_of(query, their_bytes), parse_reply(query, our_bytes)
        if one is None or two is None:
            found.append(Difference(pair.configuration.name, query, one, two))
        elif not one.answer and two.authority and one.rcode == NOERROR and not one.authority:
            continue  # a host whose only address of that family is link-local: there is nothing left to compare
        elif one.truncated or two.truncated:
            again.append(query.over_tcp())
            allowed = TC if names_differ_in_length(Case(query, one, two, oracle)) else 0
            if (one.flags | allowed, one.opt) != (two.flags | allowed, two.opt):
                found.append(Difference(pair.configuration.name, query, one, two))
        elif one != two:
            cases.append(Case(query, one, two, oracle))
    oracle.learn([case.name for case in cases])
    for case in cases:
        name = deviation_of(case)
        if name:
            tally.deviations[name] += 1
        else:
            found.append(Difference(pair.configuration.name, case.query, case.theirs, case.ours))
    return found + (compare(pair, names, again, pool, tally) if again else [])
