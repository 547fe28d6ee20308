"""`headwater query`: ask one question over gRPC, and print the reply as dig does."""

from __future__ import annotations

import secrets
import time
from typing import Any, Final

import click

from headwater.commands.help import Formatted, flag
from headwater.serve.service import QUERY, NotAPacket, pack, unpack
from headwater.settings.address import Address
from headwater.settings.error import SettingsError
from headwater.wire.types import Rcode

_RCODES: Final = {int(rcode): rcode.name for rcode in Rcode}


@click.command(
    cls=Formatted,
    help="Ask a running headwater over gRPC; print as dig does.",
    epilog=("Exit codes: 0 for a reply, whatever it says; 1 for none; 2 for bad usage."),
)
@click.argument("name")
@click.argument("qtype", metavar="[TYPE]", default="A")
@flag(
    "--server",
    metavar="ADDRESS",
    envvar="HEADWATER_SERVER",
    default="unix:/run/headwater/dns-0.sock",
    help="An answer process's gRPC address. [unix:/run/headwater/dns-0.sock]",
)
@flag("--timeout", metavar="SECONDS", type=float, default=5.0, help="How long to wait for the reply. [5]")
@flag("--short", is_flag=True, help="Only the answers' data, one per line.")
def command(name: str, qtype: str, server: str, timeout: float, short: bool) -> int:
    return query(name, qtype, Address.parse(server, "--server"), timeout, short=short)


class LookupFailed(RuntimeError):  # noqa: N818 (what happened)
    """There was no reply; the text says why."""


def exchange(message: bytes, server: Address, timeout: float) -> bytes:
    """Send a DNS message to an answer process and return its reply. Raises LookupFailed."""
    import grpc

    with grpc.insecure_channel(str(server)) as channel:
        call: Any = channel.unary_unary(QUERY)
        try:
            return unpack(call(pack(message), timeout=timeout, wait_for_ready=False))
        except grpc.RpcError as error:
            raise LookupFailed(f"{server}: {error.code().name}: {_why(error, timeout)}") from None
        except NotAPacket:
            raise LookupFailed(f"{server}: the reply is not a coredns.dns.DnsPacket") from None


def _why(error: Any, timeout: float) -> str:
    """Return the useful part of grpc's error message, with advice."""
    details = " ".join(str(error.details()).split())
    match error.code().name:
        case "UNAVAILABLE" if "connect" in details:
            reason = details.rpartition(": ")[2]
            return f"{reason}. Is `headwater serve` running, and --server where it listens?"
        case "DEADLINE_EXCEEDED":
            return f"no reply within {timeout:g} s"
    return details


def question(name: str, qtype: str) -> bytes:
    """Return a query message. Raises SettingsError for an invalid name or an unknown type."""
    from dnslib import QTYPE, DNSError, DNSQuestion, DNSRecord
    from dnslib.dns import DNSHeader
    from dnslib.label import DNSLabelError

    try:
        number = int(qtype[4:]) if qtype.upper().startswith("TYPE") else QTYPE.reverse[qtype.upper()]
    except (KeyError, ValueError):
        raise SettingsError("TYPE", f"{qtype!r} is not a query type") from None
    if not 0 <= number <= 0xFFFF:
        raise SettingsError("TYPE", f"{qtype!r} is not a query type")
    header = DNSHeader(id=secrets.randbelow(1 << 16), rd=1, qr=0)
    try:
        return bytes(DNSRecord(header, questions=[DNSQuestion(name, number)]).pack())
    except (DNSError, DNSLabelError, UnicodeError, ValueError) as error:
        raise SettingsError("NAME", f"{name!r} is not a domain name: {error}") from None


def show(reply: bytes, took: float, server: str) -> str:
    """Return a reply as dig shows it."""
    from dnslib import QTYPE, DNSRecord

    record = DNSRecord.parse(reply)
    head = record.header
    flags = " ".join(word for word in ("qr", "aa", "tc", "rd", "ra", "ad", "cd") if getattr(head, word, 0))
    lines = [
        f";; ->>HEADER<<- opcode: QUERY, status: {_RCODES.get(head.rcode, head.rcode)}, id: {head.id}",
        f";; flags: {flags}; QUERY: {head.q}, ANSWER: {head.a}, AUTHORITY: {head.auth}, ADDITIONAL: {head.ar}",
    ]
    sections = (
        ("QUESTION", [f";{item.qname}\t\tIN\t{QTYPE.get(item.qtype)}" for item in record.questions]),
        ("ANSWER", [item.toZone() for item in record.rr]),
        ("AUTHORITY", [item.toZone() for item in record.auth]),
        ("ADDITIONAL", [item.toZone() for item in record.ar]),
    )
    for title, rows in sections:
        if rows:
            lines += ["", f";; {title} SECTION:", *rows]
    lines += ["", f";; Query time: {took * 1000:.1f} msec", f";; SERVER: {server}", f";; MSG SIZE  rcvd: {len(reply)}"]
    return "\n".join(lines)


def query(name: str, qtype: str, server: Address, timeout: float, *, short: bool) -> int:
    """Ask and print the reply. Return 0 for any reply, 1 without one."""
    from dnslib import DNSError, DNSRecord

    message = question(name, qtype)
    began = time.perf_counter()
    try:
        reply = exchange(message, server, timeout)
    except LookupFailed as error:
        click.echo(f"headwater: {error}", err=True)
        return 1
    took = time.perf_counter() - began
    try:
        shown = (
            "\n".join(str(item.rdata) for item in DNSRecord.parse(reply).rr)
            if short
            else show(reply, took, str(server))
        )
    except DNSError as error:
        click.echo(f"headwater: {server}: the reply is not a DNS message: {error}", err=True)
        return 1
    if shown:
        click.echo(shown)
    return 0
