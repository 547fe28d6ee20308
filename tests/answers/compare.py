"""Compare whole messages, and recognise the intended deviations, each by its name.

A deviation is a function that says whether it explains one difference. It decides by the oracle's
own answers for the name, for names below it, and for other types. A name that merely looks like one
of its kind therefore counts as a difference. `docs/answers.md` lists the deviations, and a run in
which one does not occur says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_address
from typing import Final

from tests.answers.names import Names, dashes, relative_to
from tests.answers.servers import CLUSTERSET, Pair
from tests.answers.wire import (
    NOERROR,
    NXDOMAIN,
    TC,
    TYPES,
    WAYS,
    Query,
    Record,
    Reply,
    alike,
    decode_name,
    encode_name,
    exchange,
    parse_reply,
)

#: How many names the oracle is asked for at once when one that exists is sought.
_AT_A_TIME: Final = 64


class Oracle:
    """Further answers of CoreDNS: whether names exist, and whether they have names below."""

    def __init__(self, pair: Pair, names: Names) -> None:
        self.zones = pair.headwater.settings.forward_zones()
        self.every_zone = (*self.zones, *pair.reverse_zones)
        self._port = pair.oracle.port
        pair.reverse_names.update(names.reverse)
        self._reverse_names = [*pair.reverse_names][::-1]
        self.endpoint_pod_names = pair.configuration.endpoint_pod_names
        self.names = names
        self._exists: dict[str, bool] = {}

    def split(self, name: str) -> tuple[list[str], str] | None:
        """Return the labels before the longest forward zone, and the
        zone; None in a reverse zone.
        """
        zones = [zone for zone in self.zones if name == zone or name.endswith(f".{zone}")]
        if not zones:
            return None
        zone = max(zones, key=len)
        return name.removesuffix(zone).rstrip(".").split(".") if name != zone else [], zone

    def exists(self, name: str) -> bool:
        """Return whether a name has data, or NODATA, for the type by
        which CoreDNS decides existence.
        """
        self.learn([name])
        return self._exists[name]

    def below_every_zone(self, labels: str) -> list[str]:
        """Return the name with these labels in each of the zones, reverse zones included."""
        return [f"{labels}.{zone}" for zone in self.every_zone]

    def ask(self, query: Query) -> Reply | None:
        """Ask one more question."""
        return theirs_of(query, *exchange(self._port, [query]))

    def below(self, name: str) -> bool:
        """Return whether one of the names that follow from the objects exists below this one."""
        parts = self.split(name)
        if parts is None:
            under = [other for other in self._reverse_names if other.endswith(f".{name}")]
        else:
            suffix = "." + ".".join(parts[0])
            relative = {**self.names.forward, **self.names.imported}
            under = relative_to(parts[1], [other for other in relative if other.endswith(suffix)])
        for start in range(0, len(under), _AT_A_TIME):
            some = under[start : start + _AT_A_TIME]
            self.learn(some)
            if any(self._exists[other] for other in some):
                return True
        return False

    def learn(self, names: Sequence[str]) -> None:
        """Ask for all names that are not known yet, at once."""
        wanted = [name for name in dict.fromkeys(names) if name not in self._exists]
        queries = [Query(name, TYPES["PTR" if reverse_address(name) else "A"], WAYS[0]) for name in wanted]
        for query, message in zip(queries, exchange(self._port, queries), strict=True):
            reply = parse_reply(query, message)
            self._exists[query.name] = reply is not None and reply.rcode == NOERROR


@dataclass(frozen=True)
class Case:
    """One difference: the question, and both replies."""

    query: Query
    theirs: Reply
    ours: Reply
    oracle: Oracle

    @cached_property
    def name(self) -> str:
        return self.query.name.lower()

    @property
    def qtype(self) -> int:
        return self.query.qtype

    @cached_property
    def relative(self) -> list[str] | None:
        """Return the labels before the forward zone; None for a name in a reverse zone."""
        parts = self.oracle.split(self.name)
        return None if parts is None else parts[0]

    @cached_property
    def renamed(self) -> Reply:
        """Return their reply with dashed addresses in place of pods' names with
        dots, in targets and owners.
        """
        dotted = {
            encode_name(f"{name}.{zone}"): f"{base}.{zone}"
            for name, base in self.oracle.names.dotted.items()
            for zone in self.oracle.zones
        }
        addresses: dict[bytes, set[bytes]] = {}
        for owner, rtype, _, _, rdata in self.theirs.additional:
            if rtype in _ADDRESSES and owner in dotted:
                addresses.setdefault(owner, set()).add(rdata)
        if self.qtype == TYPES["PTR"] and reverse_address(self.name):
            addresses = {name: {reverse_address(self.name)} for name in dotted}

        def dashed(name: bytes, address: bytes) -> bytes:
            return encode_name(f"{_dashed(address)[-1]}.{dotted[name]}")

        def records(section: frozenset[Record]) -> frozenset[Record]:
            found: set[Record] = set()
            for owner, rtype, rclass, ttl, rdata in section:
                owners, values = {owner}, {rdata}
                if rtype in _ADDRESSES and owner in dotted:
                    owners = {dashed(owner, rdata)}
                elif rtype in _TARGET_AT and (target := rdata[_TARGET_AT[rtype] :]) in dotted:
                    before = rdata[: _TARGET_AT[rtype]]
                    values = {before + dashed(target, address) for address in addresses.get(target, ())}
                found.update((name, rtype, rclass, ttl, value) for name in owners for value in values)
            return frozenset(found)

        return self.theirs._replace(answer=records(self.theirs.answer), additional=records(self.theirs.additional))

    @property
    def nodata_for_nxdomain(self) -> bool:
        """Return whether ours is NODATA, theirs is NXDOMAIN, and nothing else differs."""
        return (
            (self.theirs.rcode, self.ours.rcode) == (NXDOMAIN, NOERROR)
            and not self.ours.answer
            and self.ours._replace(flags=self.theirs.flags) == self.theirs
        )

    def is_service_and(self, *labels: str) -> bool:
        """Return whether the name is these labels below SVC.NS.svc."""
        found = self.relative
        return found is not None and found[-1:] == ["svc"] and tuple(found[:-3]) == labels


_ADDRESSES: Final = (TYPES["A"], TYPES["AAAA"])
#: The offset of the target in the rdata.
_TARGET_AT: Final = {TYPES["SRV"]: 6, TYPES["PTR"]: 0}


def reverse_address(name: str) -> bytes:
    """Return the address of a reverse name; b"" if it has none."""
    labels = name.split(".")[:-2][::-1]
    try:
        if name.endswith(".in-addr.arpa"):
            return bytes(map(int, labels)) if len(labels) == 4 else b""
        return bytes.fromhex("".join(labels)) if name.endswith(".ip6.arpa") and len(labels) == 32 else b""
    except ValueError:
        return b""


def _dashed(address: bytes) -> list[str]:
    """Return the labels that may name an endpoint with this address; the usual one is last."""
    dashed = dashes(str(ip_address(address)))
    return [dashed, f"{dashed}0"] if dashed.endswith("-") else [dashed]


_LABELS_OF_IPV6: Final = 32

Deviation = Callable[[Case], bool]


def empty_non_terminal(case: Case) -> bool:
    """RFC 8020: names exist below `_tcp.SVC` and `dns.Z`, so these are
    NODATA; CoreDNS says NXDOMAIN.

    The same holds below a Service that only has its endpoints' names, and between two served zones.
    """
    if not case.nodata_for_nxdomain:
        return False
    if case.name in case.oracle.below_every_zone("dns"):
        return True  # ns.dns.Z
    if case.name not in case.oracle.every_zone and any(z.endswith(f".{case.name}") for z in case.oracle.every_zone):
        return True
    if case.is_service_and():
        return case.oracle.below(case.name)
    protocol = any(case.is_service_and(label) for label in ("_tcp", "_udp", "_sctp"))
    return protocol and case.oracle.below(case.name)


def protocol_without_underscore(case: Case) -> bool:
    """RFC 8020:

    `http.tcp.SVC` stands for `_http._tcp.SVC`, so `tcp.SVC` exists: NODATA. CoreDNS says NXDOMAIN.
    """
    protocol = any(case.is_service_and(label) for label in ("tcp", "udp", "sctp"))
    label, _, base = case.name.partition(".")
    return protocol and case.nodata_for_nxdomain and case.oracle.below(f"_{label}.{base}")


def cluster_non_terminal(case: Case) -> bool:
    """RFC 8020: in a zone of imports, endpoints have names below their cluster's.

    CoreDNS says NXDOMAIN.
    """
    found = case.relative
    here = found is not None and len(found) == 4 and found[-1] == "svc" and case.name.endswith(f".{CLUSTERSET}")
    return here and case.nodata_for_nxdomain and case.oracle.below(case.name)


def version_of_other_types(case: Case) -> bool:
    """RFC 2308 2.2:

    `dns-version.Z` exists, with TXT; other types are NODATA; CoreDNS says NXDOMAIN.
    """
    return case.nodata_for_nxdomain and case.relative == ["dns-version"] and case.qtype != TYPES["TXT"]


def soa_of_nothing(case: Case) -> bool:
    """RFC 2308 2.1: a name that does not exist is NXDOMAIN for type SOA too.

    CoreDNS says NODATA.
    """
    return (
        case.qtype == TYPES["SOA"]
        and (case.theirs.rcode, case.ours.rcode) == (NOERROR, NXDOMAIN)
        and not case.theirs.answer
        and case.theirs._replace(flags=case.ours.flags) == case.ours
        and not case.oracle.exists(case.name)
    )


def name_server_of_other_types(case: Case) -> bool:
    """RFC 2308 2.2:

    `ns.dns.Z` exists, with addresses: NODATA for TXT and PTR; CoreDNS says NXDOMAIN.
    """
    here = case.name in case.oracle.below_every_zone("ns.dns") and case.qtype in (TYPES["TXT"], TYPES["PTR"])
    return here and case.nodata_for_nxdomain


def zone_in_capitals(case: Case) -> bool:
    """RFC 4343: case has no meaning.

    CoreDNS has a zone's name servers only for its name in lower case.
    """
    if not (case.name in case.oracle.below_every_zone("ns.dns") or case.name in case.oracle.every_zone):
        return False
    asked = case.query._replace(name=case.name)
    in_lower_case = case.oracle.ask(asked)
    return asked != case.query and in_lower_case == case.ours._replace(question=asked.question())


def txt_of_something(case: Case) -> bool:
    """RFC 2308 2.2: a zone or namespace exists without TXT: NODATA; CoreDNS says NXDOMAIN."""
    labels = case.relative
    if labels is None or case.qtype != TYPES["TXT"] or not case.nodata_for_nxdomain:
        return False
    place = not labels or (labels[-1] in ("svc", "pod") and len(labels) <= 2)
    return place and case.oracle.exists(case.name)


def partial_reverse_name(case: Case) -> bool:
    """RFC 8020: a name between a reverse zone and an address has names below:

    NODATA. CoreDNS: NXDOMAIN.
    """
    return case.relative is None and case.nodata_for_nxdomain and case.oracle.below(case.name)


def labels_before_an_address(case: Case) -> bool:
    """RFC 3596 2.5: an IPv6 address has 32 labels.

    With one to three more, CoreDNS has PTR (`reverse6`).
    """
    labels = case.name.removesuffix(".ip6.arpa").split(".")
    more = len(labels) - _LABELS_OF_IPV6
    return (
        case.relative is None
        and 0 < more < 4
        and case.qtype == TYPES["PTR"]
        and (case.theirs.rcode, case.ours.rcode) == (NOERROR, NXDOMAIN)
        and case.oracle.exists(".".join([*labels[more:], "ip6.arpa"]))
    )


def target_in_a_zone_below(case: Case) -> bool:
    """RFC 1034 4.3.2: the nearest zone has a name.

    CoreDNS seeks an ExternalName's target in its own. CoreDNS then says NODATA. This holds only for
    a target in another served zone below it, for which both servers give the same answer.
    """
    own = encode_name(case.name)
    cname = [rdata for owner, rtype, *_, rdata in case.ours.answer if rtype == TYPES["CNAME"] and owner == own]
    targets = [decode_name(rdata) for rdata in cname]
    parts = case.oracle.split(case.name)
    elsewhere = case.oracle.split(targets[0]) if targets else None
    if parts is None or elsewhere is None or not elsewhere[1].endswith(f".{parts[1]}") or case.theirs.answer:
        return False
    of_target = case.oracle.ask(Query(targets[0], case.qtype))
    found = {record for record in case.ours.answer if record[0] != own}
    return of_target is not None and case.theirs.rcode == case.ours.rcode == NOERROR and found == of_target.answer


def other_types_of_an_address(case: Case) -> bool:
    """RFC 2308 2.2: a reverse name that has PTR exists for any other type:

    NODATA; CoreDNS says NXDOMAIN.
    """
    other = case.qtype != TYPES["PTR"]
    return case.relative is None and case.nodata_for_nxdomain and other and case.oracle.exists(case.name)


def dotted_pod_name(case: Case) -> bool:
    """RFC 2782: the target of SRV has addresses. CoreDNS names endpoints `a.b.SVC`, which has none.

    This concerns pods with dots in their names, with --endpoint-pod-names. Headwater names them by
    dashed addresses, as it does when a pod's name is too long.
    """
    if not case.oracle.endpoint_pod_names:
        return False
    if case.renamed == case.ours:
        return True
    labels = case.relative or []
    addresses = {record[4] for record in case.ours.answer | case.ours.additional if record[1] in _ADDRESSES}
    dashed = {label for address in addresses for label in _dashed(address)}
    return (
        case.theirs.rcode == NXDOMAIN
        and case.ours.rcode == NOERROR
        and ".".join(labels[1:]) in case.oracle.names.dotted.values()
        and dashed in ({labels[0]}, set())
    )


def topology_non_terminal(case: Case) -> bool:
    """RFC 8020: topology zones exist below `_zone.SVC` and `pin._zone.SVC`: NODATA.

    CoreDNS says NXDOMAIN. The same holds for SVC itself without endpoints, where CoreDNS says
    NODATA for every topology zone.
    """
    shapes = ((), ("_zone",), ("pin", "_zone"), ("prefer", "_zone"))
    here = any(case.is_service_and(*shape) for shape in shapes)
    return here and case.nodata_for_nxdomain and case.oracle.below(case.name)


DEVIATIONS: Final[tuple[Deviation, ...]] = (
    empty_non_terminal, protocol_without_underscore, cluster_non_terminal, topology_non_terminal,
    partial_reverse_name, other_types_of_an_address,
    labels_before_an_address, version_of_other_types, name_server_of_other_types, zone_in_capitals, txt_of_something,
    dotted_pod_name, target_in_a_zone_below, soa_of_nothing,
)  # fmt: skip


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


def _names_differ_in_length(case: Case) -> bool:
    """Return whether one reply may fit into a datagram while the other
    does not, with the same records.

    CoreDNS compresses only names of equal case, so capitals in a question make its names longer. A
    pod's name with dots has another length than a dashed address (`dotted_pod_name`).
    """
    relative = ".".join(case.relative or [])
    dotted = case.oracle.endpoint_pod_names and any(
        f".{relative}".endswith(f".{base}") for base in case.oracle.names.dotted.values()
    )
    return dotted or case.query.name != case.name


def never_asked(pair: Pair, query: Query) -> bool:
    """Return whether an oracle bound to loopback cannot answer: it has no name
    server's address (boundIPs).
    """
    name = query.name.lower()
    if pair.configuration.everywhere:
        return False
    zones = (*pair.headwater.settings.forward_zones(), *pair.reverse_zones)
    return name.startswith("ns.dns.") or (query.qtype == TYPES["NS"] and name in zones)


def theirs_of(query: Query, message: bytes | None) -> Reply | None:
    """Return the oracle's reply without this host's link-local addresses,
    which no other host can ask.

    Not every machine has such an address, so this cannot be a deviation that a run has to meet.
    """
    reply = parse_reply(query, message)
    if reply is None or not (query.name.lower().startswith("ns.dns.") or query.qtype == TYPES["NS"]):
        return reply
    return reply._replace(answer=_others(reply.answer), additional=_others(reply.additional))


def _others(records: frozenset[Record]) -> frozenset[Record]:
    return frozenset(record for record in records if not _is_link_local(record))


def _is_link_local(record: Record) -> bool:
    return record[1] in _ADDRESSES and ip_address(record[4]).is_link_local


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
    oracle = Oracle(pair, names)
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
            allowed = TC if _names_differ_in_length(Case(query, one, two, oracle)) else 0
            if (one.flags | allowed, one.opt) != (two.flags | allowed, two.opt):
                found.append(Difference(pair.configuration.name, query, one, two))
        elif one != two:
            cases.append(Case(query, one, two, oracle))
    oracle.learn([case.name for case in cases])
    for case in cases:
        name = next((deviation.__name__ for deviation in DEVIATIONS if deviation(case)), "")
        if name:
            tally.deviations[name] += 1
        else:
            found.append(Difference(pair.configuration.name, case.query, case.theirs, case.ours))
    return found + (compare(pair, names, again, pool, tally) if again else [])
