"""A small world for tests: objects in, a store in a folder, questions to a resolver."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import msgspec
from headwater.answer.alias import Pending
from headwater.answer.resolver import Resolver
from headwater.cluster.changes import Change, ListComplete, ListPageArrived, Remove, Upsert
from headwater.cluster.objects import (
    ANNOTATIONS,
    Decoded,
    Endpoint,
    EndpointSlice,
    Namespace,
    Object,
    Pod,
    Port,
    Resource,
    Service,
    ServiceImport,
)
from headwater.records.compiler import Compiler
from headwater.settings.settings import Settings
from headwater.store.environment import Reader, Store
from headwater.store.identity import Identity
from headwater.store.nodes import Node
from headwater.writer.ledger import Ledger
from headwater.writer.outcome import Outcome

READY = 3
NOT_READY = 0
HTTP = Port("http", "TCP", 8080)


def headless(name: str, namespace: str = "default", ports: Sequence[Port] = (Port("http", "TCP", 80),)) -> Service:
    return Service(namespace, name, "ClusterIP", True, (), "", tuple(ports))


def cluster_ip(
    name: str, *addresses: str, namespace: str = "default", ports: Sequence[Port] = (Port("http", "TCP", 80),)
) -> Service:
    return Service(namespace, name, "ClusterIP", False, addresses, "", tuple(ports))


def external_name(name: str, target: str, namespace: str = "default") -> Service:
    return Service(namespace, name, "ExternalName", False, (), target, ())


def annotated(service: Service, **values: str) -> Service:
    """Return the Service with annotations:

    `ttl`, `publish`, `max_answers`, `pod_names`, `weights`, `priorities`, `tolerate`.
    """
    ends = ("tolerate", *(name.rpartition("/")[2].replace("-", "_") for name in ANNOTATIONS[1:]))
    assert set(values) <= set(ends)
    pairs = tuple((name, values[end]) for name, end in zip(ANNOTATIONS, ends, strict=True) if end in values)
    return msgspec.structs.replace(service, annotations=pairs)


def slice_of(
    service: str,
    *endpoints: Endpoint,
    name: str | None = None,
    namespace: str = "default",
    ports: Sequence[Port] = (HTTP,),
) -> EndpointSlice:
    return EndpointSlice(namespace, name or f"{service}-1", service, tuple(ports), endpoints)


def imported(
    service: str,
    cluster: str,
    *endpoints: Endpoint,
    name: str | None = None,
    namespace: str = "default",
    ports: Sequence[Port] = (HTTP,),
) -> EndpointSlice:
    """Return a slice of a ServiceImport, exported by a cluster."""
    name = name or f"{service}-{cluster}"
    return EndpointSlice(namespace, name, "", tuple(ports), endpoints, service, cluster)


def at(*addresses: str, hostname: str = "", pod: str = "", conditions: int = READY, zone: str = "") -> Endpoint:
    return Endpoint(addresses, conditions, hostname, pod, zone)


def resource_of(item: Object) -> Resource:
    match item:
        case Namespace():
            return "namespaces"
        case Service():
            return "services"
        case EndpointSlice():
            return "endpointslices"
        case Pod():
            return "pods"
        case ServiceImport():
            return "serviceimports"
        case Node():
            return "nodes"


def upsert(item: Object, version: str = "9") -> Upsert:
    return Upsert(resource_of(item), Decoded(item, version))


def remove(item: Object, version: str = "9") -> Remove:
    return Remove(resource_of(item), item.key, version)


def listed(resources: Iterable[Resource], objects: Iterable[Object], version: str = "1") -> list[Change]:
    """Return complete lists of these resources, of one page each."""
    items = list(objects)
    changes: list[Change] = []
    for resource in resources:
        page = [Decoded(item, "1") for item in items if resource_of(item) == resource]
        changes += ListPageArrived(resource, page, first=True), ListComplete(resource, version)
    return changes


class Small:
    """A writer on a state directory, and a resolver for questions to its store.

    LMDB opens a file once per process, so the writer is closed during a question, and `ask` sees
    what another process would see.
    """

    def __init__(self, state_dir: Path, settings: Settings | None = None, name_servers: Sequence[str] = ()) -> None:
        self.settings = settings or Settings()
        self.state_dir = state_dir
        self.resources: tuple[Resource, ...] = ("namespaces", "services", "endpointslices")
        if self.settings.pods == "verified":
            self.resources = (*self.resources, "pods")
        if self.settings.multicluster_zones:
            self.resources = (*self.resources, "serviceimports")
        self.name_servers = name_servers
        self.identity = Identity("here", self.settings.records_fingerprint())
        self.reports: list[tuple[str, str, str, str]] = []
        self.why = ""

    def with_settings(self, settings: Settings) -> Small:
        """Use the same state directory with other settings."""
        return Small(self.state_dir, settings, self.name_servers)

    def open(self) -> tuple[Store, Ledger]:
        store, self.why = Store.open(self.state_dir, self.identity)
        compiler = Compiler(self.settings, self.name_servers, lambda *report: self.reports.append(report))
        return store, Ledger(store, compiler, self.resources, clock=lambda: 1_800_000_000.0)

    def commit(self, *changes: Change) -> Outcome:
        store, ledger = self.open()
        try:
            return ledger.commit(changes)
        finally:
            store.close()

    def fill(self, *objects: Object, namespaces: Iterable[str] = ("default",)) -> Small:
        """Write complete lists of everything: these objects, in these namespaces."""
        self.commit(*listed(self.resources, [*map(Namespace, namespaces), *objects]))
        return self

    def records(self) -> dict[bytes, bytes]:
        """Return all nodes of the store by name."""
        store, _ = self.open()
        try:
            return store.read(lambda txn: dict(txn.scan("records")))
        finally:
            store.close()

    def ask_wire(self, *queries: bytes, elsewhere: Sequence[bytes] = ()) -> list[bytes | None]:
        """Return replies as `replies` does; `elsewhere` are the upstream servers' replies."""
        return [reply.finish(elsewhere) if isinstance(reply, Pending) else reply for reply in self.replies(*queries)]

    def replies(self, *queries: bytes) -> list[bytes | Pending | None]:
        """Return the resolver's replies to queries, from a new reader and one
        snapshot, closed afterwards.
        """
        reader = Reader(self.state_dir, self.identity)
        reader.follow()
        resolver = Resolver(reader, self.settings)
        snapshot = reader.begin()
        try:
            return [resolver.answer(query, snapshot) for query in queries]
        finally:
            if snapshot is not None:
                snapshot.close()
            reader.close()

    def ask(self, qname: str, qtype: str = "A", *, edns: bool = False) -> dns.message.Message:
        query = dns.message.make_query(qname, qtype, use_edns=0 if edns else None)
        (reply,) = self.ask_wire(query.to_wire())
        assert reply is not None
        message = dns.message.from_wire(reply)
        assert query.is_response(message)
        return message

    def answers(self, qname: str, qtype: str = "A") -> set[str]:
        """Return the rdata of this type in the answer section, as texts."""
        return answers(self.ask(qname, qtype), qtype)

    def status(self, qname: str, qtype: str = "A") -> str:
        """Return the rcode, or NODATA for NOERROR without an answer.

        Negative replies must have the SOA.
        """
        return status(self.ask(qname, qtype))


def answers(message: dns.message.Message, qtype: str) -> set[str]:
    wanted = dns.rdatatype.from_text(qtype)
    return {item.to_text() for rrset in message.answer if rrset.rdtype == wanted for item in rrset}


def glue(message: dns.message.Message) -> set[tuple[str, str]]:
    """Return (owner, address) of the additional section, without the root dot."""
    return {
        (rrset.name.to_text(omit_final_dot=True).lower(), item.to_text())
        for rrset in message.additional
        for item in rrset
    }


def status(message: dns.message.Message) -> str:
    rcode = dns.rcode.to_text(message.rcode())
    if rcode in ("NXDOMAIN",) or (rcode == "NOERROR" and not message.answer):
        (soa,) = message.authority
        assert soa.rdtype == dns.rdatatype.SOA
        return "NODATA" if rcode == "NOERROR" else rcode
    return rcode


def settings(**changes: object) -> Settings:
    return replace(Settings(), **changes)  # type: ignore[arg-type]
