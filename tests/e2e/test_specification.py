"""The Kubernetes DNS specification 1.1.0: each of its demands has rows in the table below.

https://github.com/kubernetes/dns/blob/master/docs/specification.md. Z is the zone, SVC a Service in
the namespace NS, HOST an endpoint's hostname. SHOULD, MAY, and LEFT TO US are marked; everything
else is a MUST.

Section  The demand; the rows
-------  --------------------------
1        The schema described has the version 1.1.0: 2.2-version.
2        All records below exist: every row.
2.1      Z is the cluster's domain, whichever it is: 2.1-zone 2.1-zone-srv 2.1-zone-version; NS is
         the namespace: 2.1-namespace 2.1-namespace-unknown.
         A hostname is the endpoint's own, before anything else: 2.1-hostname
         2.1-hostname-before-pod. Without one it is an identifier, whose form is LEFT TO US, that
         tells endpoints apart: 2.1-identifier 2.1-identifier-aaaa 2.1-identifier-pod, and
         test_identifiers_tell_endpoints_apart.
         Ready is what the API says is ready (`addresses` of an EndpointSubset then, `ready` of an
         EndpointSlice now: absent is as good as true): 2.1-ready-unsaid 2.1-ready-not
         2.1-ready-published; or every endpoint of a Service with the annotation
         tolerate-unready-endpoints "true": 2.1-ready-annotation 2.1-ready-annotation-false.
         Letter case never matters, in the question or in the data: 2.1-case 2.1-case-aaaa
         2.1-case-srv 2.1-case-ptr 2.1-case-version 2.1-case-cname 2.1-case-data 2.1-case-data-ptr.
2.2      dns-version.Z has a TXT record with the schema's semantic version: 2.2-version (its TTL of
         8 hours is the example's).
2.3.1    SVC.NS.svc.Z has an A record for an IPv4 cluster IP and an AAAA record for an IPv6 one:
         2.3.1-a 2.3.1-aaaa 2.3.1-dual-a 2.3.1-dual-aaaa, whatever type of Service has it:
         2.3.1-loadbalancer. A family that it has not got makes no record: 2.3.1-no-aaaa 2.3.1-no-a.
2.3.2    _PORT._PROTO.SVC.NS.svc.Z has an SRV record with the Service's port and name, for each
         named port: 2.3.2-tcp 2.3.2-udp 2.3.2-sctp 2.3.2-single 2.3.2-aaaa-only 2.3.2-same-number;
         port and protocol are literal: 2.3.2-other-protocol 2.3.2-other-port. Priority and weight
         are LEFT TO US. A and AAAA in the additional section MAY be there, and are. Ports without a
         name have none: 2.3.2-unnamed 2.3.2-unnamed-number 2.3.2-unnamed-empty.
2.3.3    The reverse names of cluster IPs of both families have a PTR record with SVC.NS.svc.Z:
         2.3.3-ipv4 2.3.3-dual-ipv4 2.3.3-ipv6 2.3.3-dual-ipv6 2.3.3-loadbalancer.
2.4.1    SVC.NS.svc.Z, headless, has an A or AAAA record for each ready endpoint's address: 2.4.1-a
         2.4.1-dual-a 2.4.1-dual-aaaa 2.4.1-aaaa 2.4.1-many; NXDOMAIN SHOULD be the answer when no
         endpoint is ready: 2.4.1-none-a 2.4.1-none-aaaa 2.4.1-empty-a 2.4.1-empty-aaaa.
         HOST.SVC.NS.svc.Z has one for each address of a ready endpoint of that hostname:
         2.4.1-host-a 2.4.1-host-dual-a 2.4.1-host-dual-aaaa 2.4.1-host-aaaa, several if there are
         several: 2.4.1-host-several-a 2.4.1-host-several-aaaa. The others have none:
         2.4.1-host-not-ready 2.4.1-host-none 2.4.1-host-other.
2.4.2    _PORT._PROTO.SVC.NS.svc.Z, headless, has an SRV record for each ready endpoint and named
         port: 2.4.2-port 2.4.2-other-port 2.4.2-dual 2.4.2-several 2.4.2-aaaa 2.4.2-many
         2.4.2-none; N times M in all: 2.4.2-all (under the Service's name, which is OURS). The
         number is the endpoint's port; the text says the Service's, which is the same unless
         targetPort is another, and then nobody listens there. Priority, weight and additional
         section as in 2.3.2. Ports without a name have none: 2.4.2-unnamed 2.4.2-unnamed-number
         2.4.2-unnamed-empty.
2.4.3    The reverse names of a ready endpoint's addresses of both families have a PTR record with
         HOST.SVC.NS.svc.Z: 2.4.3-ipv4 2.4.3-ipv6 2.4.3-dual-ipv4 2.4.3-dual-ipv6 2.4.3-several-ipv4
         2.4.3-several-ipv6 2.4.3-identifier-ipv4 2.4.3-identifier-ipv6 2.4.3-identifier-pod; for
         each Service that it is an endpoint of: 2.4.3-two-services. The others have none:
         2.4.3-not-ready-ipv4 2.4.3-not-ready-ipv6.
2.5      SVC.NS.svc.Z with an external name has a CNAME record with it: 2.5-cname 2.5-cname-dot
         2.5-cname-unresolved 2.5-cname-inside 2.5-cname-inside-headless. Questions for A and AAAA
         are answered with it: 2.5-a 2.5-aaaa 2.5-unresolved-a, and with the target's records, as in
         the examples: 2.5-inside-a 2.5-inside-aaaa 2.5-inside-headless-a.
2.6      A-B-C-D.NS.pod.Z has the A record A.B.C.D for all numbers from 0 to 255: demanded by 1.0.1
         and not by 1.1.0, so it is LEFT TO US, and served with --pods insecure: 2.6-pod
         2.6-pod-lowest 2.6-pod-highest 2.6-pod-not-an-octet.
3        More records MAY be there: every row but a few is asked of two instances, one of them with
         all that Headwater adds to the schema.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import dns.flags
import dns.message
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.rdtypes.IN.SRV
import pytest
from headwater.commands import query
from headwater.commands.corefile import stanza

from tests.harness.instance import Headwater
from tests.harness.processes import CoreDNS

pytestmark = pytest.mark.coredns

WORLD: Final = Path(__file__).with_name("specification.yaml")
ZONE: Final = "cluster.local"
OTHER_ZONE: Final = "k8s.example.org"
REVERSE: Final = ("in-addr.arpa", "ip6.arpa")
CROWD: Final = [f"10.4.100.{number}" for number in range(1, 151)]
TTL: Final = 5
#: The longest right TTL for www.example.com, from the specification's example.
UPSTREAM_TTL: Final = 28715
UPSTREAM: Final = """\
example.com:53 {
    file example.com.zone
}
"""
UPSTREAM_ZONE: Final = f"""\
$ORIGIN example.com.
@ 3600 IN SOA ns hostmaster 1 7200 1800 86400 60
@ 3600 IN NS ns
ns 3600 IN A 192.0.2.1
www {UPSTREAM_TTL} IN A 192.0.2.53
www {UPSTREAM_TTL} IN AAAA 2001:db8::53
"""

Kind = Literal["plain", "extended"]
KINDS: Final[tuple[Kind, ...]] = ("plain", "extended")
#: The flags of the instances; the extended one has everything that may be added to the schema
#: (section 3).
FLAGS: Final[dict[Kind, tuple[str, ...]]] = {
    "plain": (),
    "extended": (
        "--pods", "insecure", "--endpoint-pod-names", "--zonal", "--multicluster-zone", "clusterset.local",
        "--zone", ZONE, "--zone", OTHER_ZONE,
    ),
}  # fmt: skip
ZONES: Final[dict[Kind, tuple[str, ...]]] = {"plain": (ZONE,), "extended": (ZONE, OTHER_ZONE)}


@dataclass(frozen=True)
class Row:
    """A question and its right answer, written by hand.

    Records are "OWNER TYPE DATA". Names are relative to the zone if they have no last dot, and @ is
    the name of the question. The data of SRV is port and target.
    """

    id: str
    question: str
    """Name and type."""
    answer: tuple[str, ...] = ()
    glue: tuple[str, ...] = ()
    """The whole additional section."""
    rcode: str | None = "NOERROR"
    """The rcode; None if the specification demands none."""
    ttl: int = TTL
    only: Kind | None = None
    """The only instance that is asked; None for both."""
    large: bool = False
    """Whether the answer is too large for UDP, so that it is truncated there and whole over TCP."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return KINDS if self.only is None else (self.only,)

    @property
    def asked(self) -> tuple[str, str]:
        """Return the name and the type; the name is whole and keeps its case."""
        name, rdtype = self.question.split()
        return name if name.endswith(".") else f"{name}.{ZONE}.", rdtype


def row(
    name: str,
    question: str,
    *answer: str,
    glue: tuple[str, ...] = (),
    rcode: str | None = "NOERROR",
    ttl: int = TTL,
    only: Kind | None = None,
    large: bool = False,
) -> Row:
    return Row(name, question, answer, glue, rcode, ttl, only, large)


def absent(name: str, question: str, *, only: Kind | None = None) -> Row:
    """Return the row of a name that does not exist."""
    return row(name, question, rcode="NXDOMAIN", only=only)


WEB: Final = ("web.default.svc A 10.3.0.10", "web.default.svc AAAA 2001:db8:3::10")
PETS: Final = (
    "my-pet.pets.default.svc A 10.4.0.100",
    "10-4-0-102.pets.default.svc A 10.4.0.102",
    "my-pet-3.pets.default.svc A 10.4.0.103",
)
PAIR: Final = (
    "pair.twins.default.svc A 10.4.2.1",
    "pair.twins.default.svc A 10.4.2.2",
    "pair.twins.default.svc AAAA 2001:db8:4::2:1",
    "pair.twins.default.svc AAAA 2001:db8:4::2:2",
)
#: 2001:db8:3 and 2001:db8:4 in reverse order, with the zeros up to the last two groups.
NET_3: Final = "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."
NET_4: Final = "0.0.0.0.0.0.0.0.0.0.0.0.4.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."

ROWS: Final = [
    # 2.1 Definitions
    row("2.1-zone", f"web.default.svc.{OTHER_ZONE}. A", "@ A 10.3.0.10", only="extended"),
    row(
        "2.1-zone-srv",
        f"_https._tcp.pets.default.svc.{OTHER_ZONE}. SRV",
        *(f"@ SRV 443 {host}.pets.default.svc.{OTHER_ZONE}." for host in ("my-pet", "10-4-0-102", "my-pet-3")),
        glue=(
            f"my-pet.pets.default.svc.{OTHER_ZONE}. A 10.4.0.100",
            f"10-4-0-102.pets.default.svc.{OTHER_ZONE}. A 10.4.0.102",
            f"my-pet-3.pets.default.svc.{OTHER_ZONE}. A 10.4.0.103",
        ),
        only="extended",
    ),
    row("2.1-zone-version", f"dns-version.{OTHER_ZONE}. TXT", '@ TXT "1.1.0"', ttl=28800, only="extended"),
    row("2.1-namespace", "web.prod.svc A", "@ A 10.3.0.11"),
    absent("2.1-namespace-unknown", "web.staging.svc A"),
    row("2.1-hostname", "my-pet-3.pets.default.svc A", "@ A 10.4.0.103"),
    row("2.1-hostname-before-pod", "chief.workers.prod.svc A", "@ A 10.4.6.2"),
    row("2.1-identifier", "10-4-0-102.pets.default.svc A", "@ A 10.4.0.102"),
    row("2.1-identifier-aaaa", "2001-db8-4--1-2.dual.default.svc AAAA", "@ AAAA 2001:db8:4::1:2"),
    row("2.1-identifier-pod", "workers-x7k2.workers.prod.svc A", "@ A 10.4.6.1", only="extended"),
    row("2.1-ready-unsaid", "10-4-0-102.pets.default.svc A", "@ A 10.4.0.102"),
    absent("2.1-ready-not", "late.pets.default.svc A"),
    row("2.1-ready-published", "published.default.svc A", "@ A 10.4.5.1"),
    row("2.1-ready-annotation", "tolerant.default.svc A", "@ A 10.4.5.2"),
    absent("2.1-ready-annotation-false", "intolerant.default.svc A"),
    row("2.1-case", "WEB.Default.sVC.Cluster.LOCAL. A", "@ A 10.3.0.10"),
    row("2.1-case-aaaa", "DB-0.Dual.DEFAULT.Svc.cluster.local. AAAA", "@ AAAA 2001:db8:4::1:1"),
    row("2.1-case-srv", "_HTTPS._TCP.WEB.DEFAULT.SVC SRV", "@ SRV 443 web.default.svc", glue=WEB),
    row("2.1-case-ptr", f"0.1.0.0.{NET_3.upper()} PTR", "@ PTR web.default.svc"),
    row("2.1-case-version", "DNS-Version.CLUSTER.local. TXT", '@ TXT "1.1.0"', ttl=28800),
    row("2.1-case-cname", "FOO.default.svc CNAME", "@ CNAME www.example.com."),
    row("2.1-case-data", "loud-0.loud.default.svc AAAA", "@ AAAA 2001:db8:4::3:1"),
    row("2.1-case-data-ptr", f"1.0.0.0.3.0.0.0.{NET_4} PTR", "@ PTR loud-0.loud.default.svc"),
    # 2.2 Record for Schema Version
    row("2.2-version", "dns-version TXT", '@ TXT "1.1.0"', ttl=28800),
    # 2.3.1 A and AAAA of a cluster IP
    row("2.3.1-a", "kubernetes.default.svc A", "@ A 10.3.0.1"),
    row("2.3.1-no-aaaa", "kubernetes.default.svc AAAA"),
    row("2.3.1-aaaa", "six.default.svc AAAA", "@ AAAA 2001:db8:3::6"),
    row("2.3.1-no-a", "six.default.svc A"),
    row("2.3.1-dual-a", "web.default.svc A", "@ A 10.3.0.10"),
    row("2.3.1-dual-aaaa", "web.default.svc AAAA", "@ AAAA 2001:db8:3::10"),
    row("2.3.1-loadbalancer", "edge.default.svc A", "@ A 10.3.0.20"),
    # 2.3.2 SRV of a cluster IP
    row("2.3.2-tcp", "_https._tcp.web.default.svc SRV", "@ SRV 443 web.default.svc", glue=WEB),
    row("2.3.2-udp", "_quic._udp.web.default.svc SRV", "@ SRV 443 web.default.svc", glue=WEB),
    row("2.3.2-sctp", "_ngap._sctp.web.default.svc SRV", "@ SRV 38412 web.default.svc", glue=WEB),
    row(
        "2.3.2-single",
        "_https._tcp.kubernetes.default.svc SRV",
        "@ SRV 443 kubernetes.default.svc",
        glue=("kubernetes.default.svc A 10.3.0.1",),
    ),
    row(
        "2.3.2-aaaa-only",
        "_dns._udp.six.default.svc SRV",
        "@ SRV 53 six.default.svc",
        glue=("six.default.svc AAAA 2001:db8:3::6",),
    ),
    row(
        "2.3.2-same-number",
        "_dns-tcp._tcp.six.default.svc SRV",
        "@ SRV 53 six.default.svc",
        glue=("six.default.svc AAAA 2001:db8:3::6",),
    ),
    absent("2.3.2-other-protocol", "_dns._tcp.six.default.svc SRV"),
    absent("2.3.2-other-port", "_http._tcp.web.default.svc SRV"),
    absent("2.3.2-unnamed", "_http._tcp.web.prod.svc SRV"),
    absent("2.3.2-unnamed-number", "_80._tcp.web.prod.svc SRV"),
    absent("2.3.2-unnamed-empty", "_._tcp.web.prod.svc SRV"),
    # 2.3.3 PTR of a cluster IP
    row("2.3.3-ipv4", "1.0.3.10.in-addr.arpa. PTR", "@ PTR kubernetes.default.svc"),
    row("2.3.3-ipv6", f"6.0.0.0.{NET_3} PTR", "@ PTR six.default.svc"),
    row("2.3.3-dual-ipv4", "10.0.3.10.in-addr.arpa. PTR", "@ PTR web.default.svc"),
    row("2.3.3-dual-ipv6", f"0.1.0.0.{NET_3} PTR", "@ PTR web.default.svc"),
    row("2.3.3-loadbalancer", "20.0.3.10.in-addr.arpa. PTR", "@ PTR edge.default.svc"),
    # 2.4.1 A and AAAA of a headless Service
    row("2.4.1-a", "pets.default.svc A", "@ A 10.4.0.100", "@ A 10.4.0.102", "@ A 10.4.0.103"),
    row("2.4.1-dual-a", "dual.default.svc A", "@ A 10.4.1.1"),
    row("2.4.1-dual-aaaa", "dual.default.svc AAAA", "@ AAAA 2001:db8:4::1:1", "@ AAAA 2001:db8:4::1:2"),
    row("2.4.1-aaaa", "loud.default.svc AAAA", "@ AAAA 2001:db8:4::3:1"),
    row("2.4.1-many", "crowd.default.svc A", *(f"@ A {address}" for address in CROWD), large=True),
    absent("2.4.1-none-a", "asleep.default.svc A"),
    absent("2.4.1-none-aaaa", "asleep.default.svc AAAA"),
    absent("2.4.1-empty-a", "deserted.default.svc A"),
    absent("2.4.1-empty-aaaa", "deserted.default.svc AAAA"),
    row("2.4.1-host-a", "my-pet.pets.default.svc A", "@ A 10.4.0.100"),
    row("2.4.1-host-dual-a", "db-0.dual.default.svc A", "@ A 10.4.1.1"),
    row("2.4.1-host-dual-aaaa", "db-0.dual.default.svc AAAA", "@ AAAA 2001:db8:4::1:1"),
    row("2.4.1-host-aaaa", "loud-0.loud.default.svc AAAA", "@ AAAA 2001:db8:4::3:1"),
    row("2.4.1-host-several-a", "pair.twins.default.svc A", "@ A 10.4.2.1", "@ A 10.4.2.2"),
    row(
        "2.4.1-host-several-aaaa",
        "pair.twins.default.svc AAAA",
        "@ AAAA 2001:db8:4::2:1",
        "@ AAAA 2001:db8:4::2:2",
    ),
    absent("2.4.1-host-not-ready", "db-9.dual.default.svc AAAA"),
    absent("2.4.1-host-none", "asleep-0.asleep.default.svc A"),
    absent("2.4.1-host-other", "my-shadow.pets.default.svc A"),
    # 2.4.2 SRV of a headless Service
    row(
        "2.4.2-port",
        "_https._tcp.pets.default.svc SRV",
        "@ SRV 443 my-pet.pets.default.svc",
        "@ SRV 443 10-4-0-102.pets.default.svc",
        "@ SRV 443 my-pet-3.pets.default.svc",
        glue=PETS,
    ),
    row(
        "2.4.2-other-port",
        "_metrics._tcp.pets.default.svc SRV",
        "@ SRV 9090 my-pet.pets.default.svc",
        "@ SRV 9090 10-4-0-102.pets.default.svc",
        "@ SRV 9090 my-pet-3.pets.default.svc",
        glue=PETS,
    ),
    row(
        "2.4.2-all",
        "pets.default.svc SRV",
        "@ SRV 443 my-pet.pets.default.svc",
        "@ SRV 443 10-4-0-102.pets.default.svc",
        "@ SRV 443 my-pet-3.pets.default.svc",
        "@ SRV 9090 my-pet.pets.default.svc",
        "@ SRV 9090 10-4-0-102.pets.default.svc",
        "@ SRV 9090 my-pet-3.pets.default.svc",
        glue=PETS,
    ),
    row(
        "2.4.2-dual",
        "_sql._tcp.dual.default.svc SRV",
        "@ SRV 5432 db-0.dual.default.svc",
        "@ SRV 5432 2001-db8-4--1-2.dual.default.svc",
        glue=(
            "db-0.dual.default.svc A 10.4.1.1",
            "db-0.dual.default.svc AAAA 2001:db8:4::1:1",
            "2001-db8-4--1-2.dual.default.svc AAAA 2001:db8:4::1:2",
        ),
    ),
    row("2.4.2-several", "_chat._tcp.twins.default.svc SRV", "@ SRV 5222 pair.twins.default.svc", glue=PAIR),
    row(
        "2.4.2-aaaa",
        "_chat._tcp.loud.default.svc SRV",
        "@ SRV 5222 loud-0.loud.default.svc",
        glue=("loud-0.loud.default.svc AAAA 2001:db8:4::3:1",),
    ),
    row(
        "2.4.2-many",
        "_work._tcp.crowd.default.svc SRV",
        *(f"@ SRV 7001 {address.replace('.', '-')}.crowd.default.svc" for address in CROWD),
        glue=tuple(f"{address.replace('.', '-')}.crowd.default.svc A {address}" for address in CROWD),
        large=True,
    ),
    absent("2.4.2-none", "_https._tcp.asleep.default.svc SRV"),
    absent("2.4.2-unnamed", "_http._tcp.bare.prod.svc SRV"),
    absent("2.4.2-unnamed-number", "_80._tcp.bare.prod.svc SRV"),
    absent("2.4.2-unnamed-empty", "_._tcp.bare.prod.svc SRV"),
    # 2.4.3 PTR of endpoints
    row("2.4.3-ipv4", "100.0.4.10.in-addr.arpa. PTR", "@ PTR my-pet.pets.default.svc"),
    row("2.4.3-ipv6", f"1.0.0.0.3.0.0.0.{NET_4} PTR", "@ PTR loud-0.loud.default.svc"),
    row("2.4.3-dual-ipv4", "1.1.4.10.in-addr.arpa. PTR", "@ PTR db-0.dual.default.svc"),
    row("2.4.3-dual-ipv6", f"1.0.0.0.1.0.0.0.{NET_4} PTR", "@ PTR db-0.dual.default.svc"),
    row("2.4.3-several-ipv4", "2.2.4.10.in-addr.arpa. PTR", "@ PTR pair.twins.default.svc"),
    row("2.4.3-several-ipv6", f"2.0.0.0.2.0.0.0.{NET_4} PTR", "@ PTR pair.twins.default.svc"),
    row("2.4.3-identifier-ipv4", "102.0.4.10.in-addr.arpa. PTR", "@ PTR 10-4-0-102.pets.default.svc"),
    row("2.4.3-identifier-ipv6", f"2.0.0.0.1.0.0.0.{NET_4} PTR", "@ PTR 2001-db8-4--1-2.dual.default.svc"),
    row("2.4.3-identifier-pod", "1.6.4.10.in-addr.arpa. PTR", "@ PTR workers-x7k2.workers.prod.svc", only="extended"),
    row(
        "2.4.3-two-services",
        "103.0.4.10.in-addr.arpa. PTR",
        "@ PTR my-pet-3.pets.default.svc",
        "@ PTR my-shadow.shadow.prod.svc",
    ),
    absent("2.4.3-not-ready-ipv4", "9.0.4.10.in-addr.arpa. PTR"),
    absent("2.4.3-not-ready-ipv6", f"9.0.0.0.1.0.0.0.{NET_4} PTR"),
    # 2.5 External names
    row("2.5-cname", "foo.default.svc CNAME", "@ CNAME www.example.com."),
    row("2.5-cname-dot", "foo-dot.default.svc CNAME", "@ CNAME www.example.com."),
    row("2.5-cname-unresolved", "gone.default.svc CNAME", "@ CNAME gone.example.com."),
    row("2.5-cname-inside", "inside.prod.svc CNAME", "@ CNAME web.default.svc"),
    row("2.5-cname-inside-headless", "inside-headless.prod.svc CNAME", "@ CNAME pets.default.svc"),
    row("2.5-a", "foo.default.svc A", "@ CNAME www.example.com.", "www.example.com. A 192.0.2.53"),
    row("2.5-aaaa", "foo.default.svc AAAA", "@ CNAME www.example.com.", "www.example.com. AAAA 2001:db8::53"),
    row("2.5-unresolved-a", "gone.default.svc A", "@ CNAME gone.example.com.", rcode=None),
    row("2.5-inside-a", "inside.prod.svc A", "@ CNAME web.default.svc", "web.default.svc A 10.3.0.10"),
    row("2.5-inside-aaaa", "inside.prod.svc AAAA", "@ CNAME web.default.svc", "web.default.svc AAAA 2001:db8:3::10"),
    row(
        "2.5-inside-headless-a",
        "inside-headless.prod.svc A",
        "@ CNAME pets.default.svc",
        "pets.default.svc A 10.4.0.100",
        "pets.default.svc A 10.4.0.102",
        "pets.default.svc A 10.4.0.103",
    ),
    # 2.6 Deprecated Records, in 1.0.1 only
    row("2.6-pod", "10-4-0-100.default.pod A", "@ A 10.4.0.100", only="extended"),
    row("2.6-pod-lowest", "0-0-0-0.prod.pod A", "@ A 0.0.0.0", only="extended"),
    row("2.6-pod-highest", "255-255-255-255.prod.pod A", "@ A 255.255.255.255", only="extended"),
    absent("2.6-pod-not-an-octet", "10-4-0-256.default.pod A", only="extended"),
]


@dataclass(frozen=True)
class Instance:
    """A Headwater and the CoreDNS in front of it."""

    headwater: Headwater
    coredns: CoreDNS

    def through_coredns(self, name: str, rdtype: str, *, tcp: bool = False, payload: int = 4096) -> dns.message.Message:
        reply = self.coredns.ask(name, rdtype, edns=True, payload=payload, tcp=tcp)
        assert reply.wire is not None
        return dns.message.from_wire(reply.wire, one_rr_per_rrset=True)

    def over_grpc(self, name: str, rdtype: str, *, worker: int = 0) -> dns.message.Message:
        reply = query.exchange(query.question(name, rdtype), self.headwater.addresses[worker], 5.0)
        return dns.message.from_wire(reply, one_rr_per_rrset=True)


@pytest.fixture(scope="module")
def instances(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Kind, Instance]]:
    folder = tmp_path_factory.mktemp("specification")
    crowd = folder / "crowd.json"
    crowd.write_text(json.dumps(crowd_of(CROWD)))
    (folder / "example.com.zone").write_text(UPSTREAM_ZONE)
    with ExitStack() as stack:
        upstream = stack.enter_context(CoreDNS(folder, UPSTREAM, name="upstream"))
        flags: list[str | Path] = ["--manifests", WORLD, "--manifests", crowd]
        flags += "--upstream", f"127.0.0.1:{upstream.port}"
        for zone in REVERSE:
            flags += "--reverse-zone", zone
        running: dict[Kind, Instance] = {}
        for kind in KINDS:
            headwater = stack.enter_context(Headwater(folder, *flags, *FLAGS[kind], name=kind))
            settings = replace(headwater.settings, zones=ZONES[kind], reverse_zones=REVERSE)
            coredns = stack.enter_context(CoreDNS(folder, stanza(settings), name=f"coredns-{kind}"))
            running[kind] = Instance(headwater, coredns)
        yield running


def crowd_of(addresses: list[str]) -> dict[str, object]:
    """Return a headless Service with too many endpoints for UDP."""
    ports = [{"name": "work", "port": 7001, "protocol": "TCP"}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "crowd", "namespace": "default"},
        "spec": {"clusterIP": "None", "ports": ports},
    }
    slices = [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"crowd-{first}",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "crowd"},
            },
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": [
                {"addresses": [address], "conditions": {"ready": True}} for address in addresses[first : first + 100]
            ],
        }
        for first in range(0, len(addresses), 100)
    ]
    return {"apiVersion": "v1", "kind": "List", "items": [service, *slices]}


# Comparison: records as "OWNER TYPE DATA", with whole names in lower case


def absolute(name: str, asked: str = "") -> str:
    name = asked if name == "@" else name
    return (name if name.endswith(".") else f"{name}.{ZONE}.").lower()


def expected(records: tuple[str, ...], asked: str) -> list[str]:
    found = []
    for record in records:
        owner, rdtype, data = record.split(" ", 2)
        if rdtype == "SRV":
            port, target = data.split()
            data = f"{port} {absolute(target)}"
        elif rdtype in ("PTR", "CNAME"):
            data = absolute(data)
        found.append(f"{absolute(owner, asked)} {rdtype} {data}")
    return sorted(found)


def data_of(rdata: dns.rdata.Rdata) -> str:
    """Return rdata as text; that of SRV without priority and weight, which are not demanded."""
    if isinstance(rdata, dns.rdtypes.IN.SRV.SRV):
        return f"{rdata.port} {rdata.target}".lower()
    return rdata.to_text().lower()


def records_of(section: list[dns.rrset.RRset]) -> list[str]:
    """Return every record; duplicates are kept."""
    return sorted(
        f"{rrset.name} ".lower() + f"{dns.rdatatype.to_text(rrset.rdtype)} {data_of(rdata)}"
        for rrset in section
        for rdata in rrset
    )


def check(row: Row, reply: dns.message.Message) -> None:
    asked, _ = row.asked
    assert not reply.flags & dns.flags.TC
    if row.rcode is not None:
        assert dns.rcode.to_text(reply.rcode()) == row.rcode
    assert records_of(reply.answer) == expected(row.answer, asked)
    assert records_of(reply.additional) == expected(row.glue, asked)
    for rrset in (*reply.answer, *reply.additional):
        if str(rrset.name) == "www.example.com.":
            assert rrset.ttl <= UPSTREAM_TTL
        else:
            assert rrset.ttl == row.ttl
    if not row.answer:
        # RFC 2308 section 3: the SOA makes the reply cacheable, and not for longer than records.
        assert [(rrset.rdtype, rrset.ttl) for rrset in reply.authority] == [(dns.rdatatype.SOA, TTL)]


def parametrized(rows: list[Row]) -> Callable[..., object]:
    found = [(row, kind) for row in rows for kind in row.kinds]
    return pytest.mark.parametrize(("row", "kind"), found, ids=[f"{row.id}-{kind}" for row, kind in found])


@parametrized(ROWS)
def test_through_coredns(row: Row, kind: Kind, instances: dict[Kind, Instance]) -> None:
    instance = instances[kind]
    if row.large:
        assert instance.through_coredns(*row.asked, payload=1232).flags & dns.flags.TC
        check(row, instance.through_coredns(*row.asked, tcp=True))
    else:
        check(row, instance.through_coredns(*row.asked))


@parametrized(ROWS)
def test_over_grpc(row: Row, kind: Kind, instances: dict[Kind, Instance]) -> None:
    instance = instances[kind]
    for worker in range(len(instance.headwater.addresses)):
        check(row, instance.over_grpc(*row.asked, worker=worker))


@pytest.mark.parametrize("kind", KINDS)
def test_identifiers_tell_endpoints_apart(kind: Kind, instances: dict[Kind, Instance]) -> None:
    """2.1, whatever their form: there are as many targets as endpoints, each
    with one endpoint's address.
    """
    instance = instances[kind]
    for service, addresses in (
        ("_work._tcp.crowd.default.svc", CROWD),
        ("_job._tcp.workers.prod.svc", ["10.4.6.1", "10.4.6.2"]),
        ("_https._tcp.pets.default.svc", ["10.4.0.100", "10.4.0.102", "10.4.0.103"]),
    ):
        srv = instance.over_grpc(absolute(service), "SRV").answer
        targets = [data_of(rdata).split()[1] for rrset in srv for rdata in rrset]
        assert len(set(targets)) == len(targets)
        found = [[data_of(r) for rrset in instance.over_grpc(target, "A").answer for r in rrset] for target in targets]
        assert sorted(found) == sorted([address] for address in addresses)


def test_every_row_has_its_demand_above() -> None:
    """The module's docstring names every row, and no others; ids are unique."""
    named = re.findall(r"\b\d\.\d(?:\.\d)?-[a-z][a-z0-9-]*", __doc__ or "")
    assert sorted(set(named)) == sorted(row.id for row in ROWS)
