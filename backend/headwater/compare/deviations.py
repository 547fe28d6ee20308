"""The deviations that are meant, each by its name.

A deviation is a function that says whether it explains one difference. It does
so by what the other server itself says of the name asked, of names below it, and of
other types: a name that merely looks like one of its kind is a difference.
`docs/answers.md` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from typing import Final

from headwater.compare.messages import (
    TYPES,
    WAYS,
    Query,
    Record,
    Reply,
    decode_name,
    encode_name,
    parse_reply,
)
from headwater.wire.names import dashed as dashed_address
from headwater.wire.types import ADDRESSES, CNAME, NS, PTR, SOA, SRV, TXT, Rcode

Exchange = Callable[[Sequence[Query]], Sequence[bytes | None]]
"""Ask the other server; its replies in the order of the queries, None where there is none."""

NOERROR, NXDOMAIN = int(Rcode.NOERROR), int(Rcode.NXDOMAIN)
_LABELS_OF_IPV6: Final = 32
#: Where the target begins in the rdata.
_TARGET_AT: Final = {SRV: 6, PTR: 0}


class Oracle:
    """Further answers of the other server: whether names exist, and have names below.

    `zones` are those of names, `every_zone` has the reverse ones too, `import_zones` those of
    ServiceImports. `under`: the names that follow from the objects and lie below a name. `dotted`:
    the name that an endpoint has after a pod whose name holds dots, and its Service's, both less
    their zone. `level`: what is taken from a reply before it is compared, as it was from both of a
    `Case`.
    """

    def __init__(
        self,
        exchange: Exchange,
        under: Callable[[str], Sequence[str]],
        *,
        zones: Sequence[str],
        reverse_zones: Sequence[str] = (),
        import_zones: Sequence[str] = (),
        endpoint_pod_names: bool = False,
        dotted: Mapping[str, str] | None = None,
        at_a_time: int = 8,
        level: Callable[[Reply], Reply] = lambda reply: reply,
    ) -> None:
        self.zones = tuple(zones)
        self.every_zone = (*zones, *reverse_zones)
        self.import_zones = tuple(import_zones)
        self.endpoint_pod_names = endpoint_pod_names
        self.dotted = dotted or {}
        self._exchange = exchange
        self._under = under
        self._at_a_time = at_a_time
        self._level = level
        self._exists: dict[str, bool] = {}

    def split(self, name: str) -> tuple[list[str], str] | None:
        """The labels before the longest forward zone, and that zone; None for a name in a reverse
        zone.
        """
        return split(name, self.zones)

    def exists(self, name: str) -> bool:
        """Whether it has data, or is NODATA, for the type that CoreDNS decides existence by."""
        self.learn([name])
        return self._exists[name]

    def below_every_zone(self, labels: str) -> list[str]:
        """The name with these labels in each of the zones, the reverse ones too."""
        return [f"{labels}.{zone}" for zone in self.every_zone]

    def ask(self, query: Query) -> Reply | None:
        """One question more."""
        reply = theirs_of(query, *self._exchange([query]))
        return None if reply is None else self._level(reply)

    def below(self, name: str) -> bool:
        """Whether one of the names that follow from the objects exists below that one."""
        under = self._under(name)
        for start in range(0, len(under), self._at_a_time):
            some = under[start : start + self._at_a_time]
            self.learn(some)
            if any(self._exists[other] for other in some):
                return True
        return False

    def learn(self, names: Sequence[str]) -> None:
        """Ask about those that are not known yet, all at once."""
        wanted = [name for name in dict.fromkeys(names) if name not in self._exists]
        if not wanted:
            return
        queries = [Query(name, TYPES["PTR" if reverse_address(name) else "A"], WAYS[0]) for name in wanted]
        for query, message in zip(queries, self._exchange(queries), strict=True):
            reply = parse_reply(query, message)
            self._exists[query.name] = reply is not None and reply.rcode == NOERROR


def split(name: str, zones: Sequence[str]) -> tuple[list[str], str] | None:
    """The labels before the longest of these zones, and that zone; None for a name in none."""
    found = [zone for zone in zones if name == zone or name.endswith(f".{zone}")]
    if not found:
        return None
    zone = max(found, key=len)
    return name.removesuffix(zone).rstrip(".").split(".") if name != zone else [], zone


@dataclass(frozen=True)
class Case:
    """One difference: what was asked, and what both said."""

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
        """The labels before the forward zone; None for a name in a reverse zone."""
        parts = self.oracle.split(self.name)
        return None if parts is None else parts[0]

    @cached_property
    def renamed(self) -> Reply:
        """Theirs with the dashed address in the place of a pod's name that holds dots, in every
        target and owner.
        """
        dotted = {
            encode_name(f"{name}.{zone}"): f"{base}.{zone}"
            for name, base in self.oracle.dotted.items()
            for zone in self.oracle.zones
        }
        addresses: dict[bytes, set[bytes]] = {}
        for owner, rtype, _, _, rdata in self.theirs.additional:
            if rtype in ADDRESSES and owner in dotted:
                addresses.setdefault(owner, set()).add(rdata)
        if self.qtype == PTR and reverse_address(self.name):
            addresses = {name: {reverse_address(self.name)} for name in dotted}

        def dashed(name: bytes, address: bytes) -> bytes:
            return encode_name(f"{_dashed(address)[-1]}.{dotted[name]}")

        def records(section: frozenset[Record]) -> frozenset[Record]:
            found: set[Record] = set()
            for owner, rtype, rclass, ttl, rdata in section:
                owners, values = {owner}, {rdata}
                if rtype in ADDRESSES and owner in dotted:
                    owners = {dashed(owner, rdata)}
                elif rtype in _TARGET_AT and (target := rdata[_TARGET_AT[rtype] :]) in dotted:
                    before = rdata[: _TARGET_AT[rtype]]
                    values = {before + dashed(target, address) for address in addresses.get(target, ())}
                found.update((name, rtype, rclass, ttl, value) for name in owners for value in values)
            return frozenset(found)

        return self.theirs._replace(answer=records(self.theirs.answer), additional=records(self.theirs.additional))

    @property
    def nodata_for_nxdomain(self) -> bool:
        """Ours is NODATA and theirs is NXDOMAIN, and nothing else differs."""
        return (
            (self.theirs.rcode, self.ours.rcode) == (NXDOMAIN, NOERROR)
            and not self.ours.answer
            and self.ours._replace(flags=self.theirs.flags) == self.theirs
        )

    @property
    def nxdomain_for_nodata(self) -> bool:
        """Ours is NXDOMAIN and theirs is NODATA, and nothing else differs."""
        return (
            (self.theirs.rcode, self.ours.rcode) == (NOERROR, NXDOMAIN)
            and not self.theirs.answer
            and self.theirs._replace(flags=self.ours.flags) == self.ours
        )

    def is_service_and(self, *labels: str) -> bool:
        """Whether the name is these labels below SVC.NS.svc."""
        found = self.relative
        return found is not None and found[-1:] == ["svc"] and tuple(found[:-3]) == labels


def reverse_address(name: str) -> bytes:
    """The address of a reverse name; b"" when it is none."""
    labels = name.split(".")[:-2][::-1]
    try:
        if name.endswith(".in-addr.arpa"):
            return bytes(map(int, labels)) if len(labels) == 4 else b""
        return bytes.fromhex("".join(labels)) if name.endswith(".ip6.arpa") and len(labels) == 32 else b""
    except ValueError:
        return b""


def _dashed(address: bytes) -> list[str]:
    """The labels that an endpoint of that address may have for a name, the one that it has last."""
    text = str(ip_address(address))
    return list(dict.fromkeys((text.replace(".", "-").replace(":", "-"), dashed_address(text))))


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
        return not case.oracle.exists(case.name) and case.oracle.below(case.name)
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
    if found is None or len(found) != 4 or found[-1] != "svc":
        return False
    here = any(case.name.endswith(f".{zone}") for zone in case.oracle.import_zones)
    return here and case.nodata_for_nxdomain and case.oracle.below(case.name)


def version_of_other_types(case: Case) -> bool:
    """RFC 2308 2.2:

    `dns-version.Z` exists, with TXT; other types are NODATA; CoreDNS says NXDOMAIN.
    """
    here = case.name in case.oracle.below_every_zone("dns-version")
    return here and case.qtype != TXT and case.nodata_for_nxdomain


def soa_of_nothing(case: Case) -> bool:
    """RFC 2308 2.1: a name that does not exist is NXDOMAIN for type SOA too.

    CoreDNS says NODATA.
    """
    return case.qtype == SOA and case.nxdomain_for_nodata and not case.oracle.exists(case.name)


def name_server_of_other_types(case: Case) -> bool:
    """RFC 2308 2.2:

    `ns.dns.Z` exists, with addresses: NODATA for TXT and PTR; CoreDNS says NXDOMAIN.
    """
    here = case.name in case.oracle.below_every_zone("ns.dns") and case.qtype in (TXT, PTR)
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
    if labels is None or case.qtype != TXT or not case.nodata_for_nxdomain:
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
        and case.qtype == PTR
        and (case.theirs.rcode, case.ours.rcode) == (NOERROR, NXDOMAIN)
        and case.oracle.exists(".".join([*labels[more:], "ip6.arpa"]))
    )


def target_in_a_zone_below(case: Case) -> bool:
    """RFC 1034 4.3.2: the nearest zone has a name.

    CoreDNS seeks an ExternalName's target in its own. CoreDNS then says NODATA. This holds only for
    a target in another served zone below it, for which both servers give the same answer.
    """
    own = encode_name(case.name)
    cname = [rdata for owner, rtype, *_, rdata in case.ours.answer if rtype == CNAME and owner == own]
    targets = [decode_name(rdata) for rdata in cname]
    parts = case.oracle.split(case.name)
    elsewhere = case.oracle.split(targets[0]) if targets else None
    if parts is None or elsewhere is None or not elsewhere[1].endswith(f".{parts[1]}") or case.theirs.answer:
        return False
    try:
        of_target = case.oracle.ask(Query(targets[0], case.qtype))
    except ValueError:  # a label with dots in it, which is no name of a Service
        return False
    found = {record for record in case.ours.answer if record[0] != own}
    return of_target is not None and case.theirs.rcode == case.ours.rcode == NOERROR and found == of_target.answer


def other_types_of_an_address(case: Case) -> bool:
    """RFC 2308 2.2: a reverse name that has PTR exists for any other type:

    NODATA; CoreDNS says NXDOMAIN.
    """
    other = case.qtype != PTR
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
    addresses = {record[4] for record in case.ours.answer | case.ours.additional if record[1] in ADDRESSES}
    dashed = {label for address in addresses for label in _dashed(address)}
    return (
        case.theirs.rcode == NXDOMAIN
        and case.ours.rcode == NOERROR
        and ".".join(labels[1:]) in case.oracle.dotted.values()
        and dashed in ({labels[0]}, set())
    )


def topology_non_terminal(case: Case) -> bool:
    """RFC 8020: topology zones exist below `_zone.SVC` and `pin._zone.SVC`: NODATA.

    CoreDNS says NXDOMAIN.
    """
    if not case.nodata_for_nxdomain:
        return False
    shapes = (("_zone",), ("pin", "_zone"), ("prefer", "_zone"))
    return any(case.is_service_and(*shape) for shape in shapes) and case.oracle.below(case.name)


def topology_of_nothing(case: Case) -> bool:
    """RFC 8020: below a Service without endpoints, which is NXDOMAIN, there are no topology zones.

    CoreDNS says NODATA for all of them.
    """
    labels = case.relative or []
    if len(labels) < 6 or labels[-4] != "_zone" or labels[-5] not in ("pin", "prefer"):
        return False
    service = case.name.partition("._zone.")[2]
    return case.nxdomain_for_nodata and not case.oracle.exists(service)


DEVIATIONS: Final[tuple[Deviation, ...]] = (
    empty_non_terminal, protocol_without_underscore, cluster_non_terminal, topology_non_terminal,
    topology_of_nothing,
    partial_reverse_name, other_types_of_an_address,
    labels_before_an_address, version_of_other_types, name_server_of_other_types, zone_in_capitals, txt_of_something,
    dotted_pod_name, target_in_a_zone_below, soa_of_nothing,
)  # fmt: skip


def deviation_of(case: Case) -> str:
    """The name of the deviation that explains a difference; "" when none does."""
    return next((deviation.__name__ for deviation in DEVIATIONS if deviation(case)), "")


def names_differ_in_length(case: Case) -> bool:
    """Whether one may fit into a datagram where the other does not, though they say the same.

    CoreDNS compresses only what is written alike. Its plugin writes the zone with the letters of
    the question and all else in lower case, so capitals can make its message longer. Headwater's
    has the letters of the question wherever names repeat it, so it is never the longer one. And a
    pod's name with dots is not as long as a dashed address (`dotted_pod_name`).
    """
    relative = ".".join(case.relative or [])
    dotted = case.oracle.endpoint_pod_names and any(
        f".{relative}".endswith(f".{base}") for base in case.oracle.dotted.values()
    )
    return dotted or (case.query.name != case.name and case.theirs.truncated and not case.ours.truncated)


def theirs_of(query: Query, message: bytes | None) -> Reply | None:
    """The oracle's reply, less this host's link-local addresses: no other host can ask a name
    server there.

    Whether a machine has one is chance, so this is no deviation that a test could wait for.
    """
    reply = parse_reply(query, message)
    if reply is None or not (query.name.lower().startswith("ns.dns.") or query.qtype == NS):
        return reply
    return reply._replace(answer=_others(reply.answer), additional=_others(reply.additional))


def _others(records: frozenset[Record]) -> frozenset[Record]:
    return frozenset(record for record in records if not _is_link_local(record))


def _is_link_local(record: Record) -> bool:
    return record[1] in ADDRESSES and ip_address(record[4]).is_link_local
