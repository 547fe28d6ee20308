"""Explain the answer to one question from one snapshot of the store.

    explain(name, type, snapshot, settings, answer) -> Explanation

`answer` calls the resolver for the reply that a client would get now. `walk` applies the rules to
the stored objects and finds the reason. The two must agree; if they do not, the explanation says
so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import msgspec
from dnslib import QTYPE, DNSError, DNSRecord

from headwater.answer.alias import Pending
from headwater.answer.resolver import Resolver
from headwater.answer.reverse import ptr_targets
from headwater.cluster.objects import Resource, Service
from headwater.explain import advised, near
from headwater.explain.explanation import Cause, Deciding, Explanation, Look, Origin, Outcome, Ref, Shown
from headwater.explain.form import OfPort, OfService, form_of
from headwater.explain.held import Held
from headwater.explain.history import Ages
from headwater.explain.named import named
from headwater.explain.nearest import nearest
from headwater.explain.show import moment
from headwater.explain.walk import Asked, Finding, walk
from headwater.settings.settings import Settings
from headwater.store.environment import Reader, Snapshot
from headwater.wire import names, rdata
from headwater.wire.header import HEADER_SIZE
from headwater.wire.names import BadName
from headwater.wire.types import IN, PTR, A, Rcode

#: The most records that are shown; the others are counted.
MOST_SHOWN: Final = 100
#: The most endpoints that are named as the origin of one record.
_MOST_ORIGINS: Final = 10
#: The longest reply over UDP without EDNS, in bytes (RFC 1035 section 4.2.1).
_PLAIN_UDP: Final = 512
_Key = TypeVar("_Key", bytes, str)
_ADDRESSES: Final = ("A", "AAAA")

#: A query with RD, and an OPT of 1,232 bytes.
_HEADER: Final = b"\0\0\1\0\0\1\0\0\0\0\0\1"
_OPT: Final = b"\0\0\x29\x04\xd0" + bytes(6)

#: The resolver on one snapshot: it takes a query's bytes and returns a reply's.
Answer = Callable[[bytes], bytes | Pending | None]


def explain(
    name: str, qtype: str, snapshot: Snapshot | None, settings: Settings, answer: Answer, *, waiting: str = ""
) -> Explanation:
    """Return why a name has its answer.

    `name` is absolute, with or without its last dot. `qtype` is a type as dig takes it. `snapshot`
    is None when no store is open. `waiting` is what the watch process waits for, in its own words.
    Raises ValueError for an unknown type.
    """
    number = type_number(qtype)
    text = name.strip().rstrip(".").lower()
    found = Explanation(text or ".", qtype.upper(), Outcome.REFUSED, Cause.NOT_A_NAME, "")
    try:
        wire = names.name(text)
    except BadName as problem:
        found.verdict = f"{name!r} is not a DNS name: {problem}."
        return found
    asked = _asked(text, number, qtype.upper(), settings)
    reply = _reply(wire, number, answer)
    found.outcome = reply.outcome
    found.zone = asked.zone
    if not asked.zone:
        _not_served(found, settings)
        if snapshot is not None and reply.outcome is Outcome.REFUSED:
            short = Asked(text, number, qtype.upper(), settings.zones[0], text.split("."))
            found.nearest = nearest(short, found.cause, Held(snapshot), _there(answer))
        return found
    if reply.outcome is Outcome.SERVFAIL or snapshot is None:
        _servfail(found, settings, waiting, stale=reply.stale)
        return found
    held = Held(snapshot)
    finding = _reverse(asked, wire, snapshot) if asked.zone in settings.reverse_zones else None
    finding = finding or walk(asked, held, settings)
    found.cause = finding.cause
    found.verdict = finding.verdict
    found.deciding = list(finding.deciding)
    found.commands = list(dict.fromkeys(finding.commands))
    found.looks = list(finding.looks)
    found.hints = list(finding.hints)
    form = form_of(asked.labels, clusters=asked.clusters)
    if isinstance(finding.service, Service) and isinstance(form, OfService | OfPort):
        slices = held.slices_of(finding.service.namespace, finding.service.name)
        found.hints += near.told(finding.service, slices, settings, held.decided(finding.service))
    if isinstance(finding.service, Service):
        found.hints += advised.of_service(finding.service, finding.sources, found.cause, number, settings)
    _aliased(found, reply)
    ages = _dated(found, text, snapshot, settings)
    origins = _Origins(finding, held, {} if ages is None else ages.since)
    found.records = [origins.of(record) for record in reply.records[:MOST_SHOWN]]
    found.more_records = max(0, len(reply.records) - MOST_SHOWN)
    if found.outcome is not Outcome.ANSWER:
        found.nearest = nearest(asked, finding.cause, held, _there(answer), finding.service)
    found.hints += _of_caches(found.outcome, reply.size, settings)
    if finding.outcome is not found.outcome and finding.cause is not Cause.EXTERNAL_ELSEWHERE:
        found.contradiction = (
            f"By the objects it should be {finding.outcome}, and the reply is {found.outcome}: "
            "please report that, with this output."
        )
    return found


def explained_from(
    reader: Reader, resolver: Resolver, settings: Settings, name: str, qtype: str, waiting: str = ""
) -> Explanation:
    """Call `explain` on a reader's current snapshot. Raises ValueError for an unknown type."""
    snapshot = reader.begin()

    def answer(query: bytes) -> bytes | Pending | None:
        return resolver.answer(query, snapshot)

    try:
        return explain(name, qtype, snapshot, settings, answer, waiting=waiting)
    finally:
        if snapshot is not None:
            snapshot.close()


def type_number(text: str) -> int:
    """Return the number of a query type, given by its name or as TYPE65280. Raises ValueError."""
    upper = text.upper()
    if upper.startswith("TYPE") and upper[4:].isdigit() and len(upper) <= 9:
        number = int(upper[4:])
    else:
        try:
            number = int(QTYPE.reverse[upper])
        except (KeyError, DNSError):
            raise ValueError(f"{text!r} is not a query type") from None
    if not 0 <= number <= 0xFFFF:
        raise ValueError(f"{text!r} is not a query type")
    return number


class _Reply:
    """The reply that a client would get."""

    def __init__(self) -> None:
        self.outcome = Outcome.SERVFAIL
        self.records: list[Shown] = []
        self.pending = ""
        """The name in another zone for which other servers have to be asked."""
        self.stale = False
        self.size = 0
        """The length of the whole message, in bytes."""


def _reply(wire: bytes, qtype: int, answer: Answer) -> _Reply:
    # With an OPT, because the extended error tells a stale store from one that is not ready.
    query = _HEADER + wire + qtype.to_bytes(2, "big") + IN.to_bytes(2, "big") + _OPT
    found = _Reply()
    reply = answer(query)
    if isinstance(reply, Pending):
        found.pending = names.text_of(reply.target).rstrip(".")
        reply = reply.finish(())
    if reply is None or len(reply) < HEADER_SIZE:
        return found
    rcode = reply[3] & 15
    found.size = len(reply)
    message = DNSRecord.parse(reply)
    found.records = [
        Shown(str(item.rname).rstrip("."), QTYPE.get(item.rtype), item.ttl, str(item.rdata)) for item in message.rr
    ]
    match rcode:
        case Rcode.NOERROR:
            found.outcome = Outcome.ANSWER if message.rr or found.pending else Outcome.NODATA
        case Rcode.NXDOMAIN:
            found.outcome = Outcome.NXDOMAIN
        case Rcode.REFUSED:
            found.outcome = Outcome.REFUSED
        case _:
            found.outcome = Outcome.SERVFAIL
            found.stale = any(len(item.rdata or ()) for item in message.ar)
    return found


def _there(answer: Answer) -> Callable[[str], bool]:
    """Return a test of whether a name exists, with which each proposed name is checked first."""

    def there(name: str) -> bool:
        with contextlib.suppress(BadName):
            return _reply(names.name(name), A, answer).outcome in (Outcome.ANSWER, Outcome.NODATA)
        return False

    return there


def _of_caches(outcome: Outcome, size: int, settings: Settings) -> list[str]:
    """Return hints on what a client may see instead of this answer, and for how long."""
    match outcome:
        case Outcome.ANSWER:
            held = (
                "A client that sees something else asks another server, or a cache that holds an older answer: "
                f"CoreDNS's or a node-local one for the TTL ({settings.ttl} s), a JVM or a driver longer, or for ever."
            )
            if size <= _PLAIN_UDP:
                return [held]
            cut = (
                f"The reply has {size:,} bytes. Over UDP a client without EDNS gets {_PLAIN_UDP} and asks again over "
                "TCP: where port 53 is closed for TCP, it gets a part of the reply, or a timeout."
            )
            return [held, cut]
        case Outcome.NXDOMAIN | Outcome.NODATA:
            once = "the name is there" if outcome is Outcome.NXDOMAIN else "it has records of this type"
            negative = (
                f"Once {once}, clients may still be told that it is not so, for as long as caches hold this reply "
                f"({settings.negative_ttl} s; CoreDNS's cache and node-local ones have limits of their own)."
            )
            return [negative]
    return []


def _asked(text: str, number: int, type_name: str, settings: Settings) -> Asked:
    """Divide a name into the longest served zone that it is in, and the labels before it."""
    zone = ""
    for one in settings.served_zones():
        if (text == one or text.endswith(f".{one}")) and len(one) > len(zone):
            zone = one
    before = text[: -len(zone)].rstrip(".") if zone else text
    labels = before.split(".") if before else []
    return Asked(text, number, type_name, zone, labels, clusters=zone in settings.multicluster_zones)


def _not_served(found: Explanation, settings: Settings) -> None:
    found.cause = Cause.ZONE_NOT_SERVED
    zones = ", ".join(settings.served_zones())
    found.verdict = (
        f"{found.name} is in no zone that is served here ({zones}): CoreDNS would ask another server for it."
    )
    found.deciding = [Deciding(Ref("flag", "", "--zone"), "--zone", zones)]
    labels = found.name.split(".")
    whole = f".svc.{settings.zones[0]}"
    if labels[-1] == "svc":
        whole = f".{settings.zones[0]}"
    elif len(labels) == 1:
        whole = f".NAMESPACE{whole}"
    elif len(labels) > 3:  # no search list makes a name of ours of it
        return
    found.hints = [
        (
            "A short name is completed by the client's search list (/etc/resolv.conf), its own namespace "
            f"first: explain the whole name, as in {found.name}{whole}."
        )
    ]


def _servfail(found: Explanation, settings: Settings, waiting: str, *, stale: bool) -> None:
    if stale:
        found.cause = Cause.STALE
        found.verdict = (
            "Every name is SERVFAIL: the API server was not heard for longer than --max-staleness "
            f"({settings.max_staleness:g} s)."
        )
    else:
        found.cause = Cause.NOT_READY
        found.verdict = "Every name is SERVFAIL: " + (
            waiting or "not every resource was listed completely yet, and nothing is stored from earlier"
        ) + "."  # fmt: skip
    found.commands = ["curl -s localhost:9353/readyz"]


def _reverse(asked: Asked, wire: bytes, snapshot: Snapshot) -> Finding | None:
    """Explain a name in a reverse zone; return None for the names that every zone has."""
    targets = ptr_targets(wire, snapshot)
    if not asked.labels and not (targets and asked.qtype == PTR):
        return None
    if tuple(asked.labels) in (("svc",), ("pod",), ("dns",), ("ns", "dns"), ("dns-version",)):
        return None
    if targets is None:
        return Finding(
            Outcome.NXDOMAIN, Cause.ADDRESS_UNKNOWN,
            f"No Service and no ready endpoint has the address that {asked.name} stands for.",
        )  # fmt: skip
    if not targets:
        return Finding(Outcome.NODATA, Cause.BELOW_IT, f"{asked.name} is the beginning of known addresses.")
    if asked.qtype != PTR:
        return Finding(Outcome.NODATA, Cause.OTHER_TYPE, f"{asked.name} has a PTR record and no {asked.type_name}.")
    return Finding(Outcome.ANSWER, Cause.ANSWERED, f"{asked.name} is an address; its PTR records have its names.")


def _dated(found: Explanation, name: str, snapshot: Snapshot, settings: Settings) -> Ages | None:
    """Since when it is so, and until when somebody may be told what was before; None where no
    history tells.
    """
    whose = named(f"{name}.", settings)
    if whose is None:
        return None
    ages = Ages(whose, snapshot)
    if ages.changed is None:
        return None
    found.changed = ages.changed
    held = settings.negative_ttl if not ages.was_there else settings.ttl if ages.ttl is None else ages.ttl
    found.until = ages.changed + held
    if not ages.was_there and found.outcome is Outcome.ANSWER:
        found.hints.append(
            f"The name is there since {moment(ages.changed)}. Who asked before that may be told for {held} s that it "
            "is not, and longer where a cache on the way (a node-local one, the client's) keeps such replies longer."
        )
    return ages


def _aliased(found: Explanation, reply: _Reply) -> None:
    """Add to the verdict where an ExternalName led."""
    if found.cause is not Cause.EXTERNAL_ELSEWHERE:
        return
    if reply.pending:
        found.verdict = (
            f"{found.verdict[:-1]}; {reply.pending} is in no zone that is served here, so other servers are asked."
        )
        found.looks.append(Look("name", "", reply.pending, why="what the other servers say"))
    elif found.outcome is Outcome.ANSWER:
        found.cause = Cause.ANSWERED
    else:
        found.cause = Cause.EXTERNAL_DEAD
        found.verdict = (
            f"{found.verdict[:-1]}, which leads nowhere: a loop, more than 11 names, or a name without "
            f"{found.type} records."
        )


class _Origins:
    """The objects that an answer's records come from. They are indexed once for all records."""

    def __init__(self, finding: Finding, held: Held, since: Mapping[bytes, float]) -> None:
        """`since`: when addresses came, as far as the history knows."""
        self._since = since
        self._by_address: dict[bytes, list[Origin]] = {}
        self._by_label: dict[str, list[Origin]] = {}
        self._service: list[Origin] = []
        for piece in finding.sources:
            ref = held.ref("endpointslices", piece.namespace, piece.name)
            for item in piece.endpoints:
                origin = Origin(ref, item.pod, item.node, item.zone)
                labels = {item.hostname.lower(), item.pod.lower()}
                for address in item.addresses:
                    labels.add(names.dashed(address).lower())
                    with contextlib.suppress(ValueError):
                        _add(self._by_address, rdata.address(address), origin)
                for label in labels - {""}:
                    _add(self._by_label, label, origin)
        if (service := finding.service) is not None:
            resource: Resource = "services" if isinstance(service, Service) else "serviceimports"
            self._service = [Origin(held.ref(resource, service.namespace, service.name))]

    def of(self, record: Shown) -> Shown:
        """Return the record with its origins."""
        found: list[Origin] = []
        if record.type in _ADDRESSES:
            found = self._by_address.get(rdata.address(record.data), [])
        elif record.type == "SRV":
            found = self._by_label.get(record.data.split()[-1].partition(".")[0].lower(), [])
        origins = found or self._service
        if record.type in _ADDRESSES and (since := self._since.get(rdata.address(record.data))) is not None:
            origins = [msgspec.structs.replace(origin, since=since) for origin in origins]
        return Shown(record.name, record.type, record.ttl, record.data, origins)


def _add(known: dict[_Key, list[Origin]], key: _Key, origin: Origin) -> None:
    there = known.setdefault(key, [])
    if len(there) < _MOST_ORIGINS and origin not in there:
        there.append(origin)
