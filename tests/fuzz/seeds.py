"""The seeds of the corpora: each kind of call and query, and each rule of HTTP/2 broken once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import dns.message

from tests.wire import test_http2
from tests.wire.frames import HELLO, Client
from tests.wire.serving import query

CORPUS: Final = Path(__file__).parent / "corpus"


def http2() -> Iterator[bytes]:
    client = Client()
    message = query("web.default.svc.cluster.local.")
    body = b"\0" + (len(message) + 2).to_bytes(4, "big") + b"\x0a" + bytes((len(message),)) + message
    for how in (b"\0", b"\2", b"\x12"):
        yield how + b"".join(client.call(stream, body) for stream in (1, 3, 5))
    for _, sent in (*test_http2.CONNECTION_ERRORS.values(), *test_http2.STREAM_ERRORS.values()):
        if len(sent) < 2000:
            yield b"\0" + sent
    for sent in test_http2.ALLOWED.values():
        yield b"\0" + sent
    yield b"\1" + HELLO


def queries() -> Iterator[bytes]:
    for name in (
        "web", "web-1.web", "_http._tcp.web", "many", "six", "api", "inside", "outside", "none", "a.pin._zone.web",
    ):  # fmt: skip
        for qtype in ("A", "AAAA", "SRV", "TXT"):
            yield dns.message.make_query(f"{name}.default.svc.Cluster.LOCAL", qtype, id=7, use_edns=False).to_wire()
    for name, qtype in (
        ("cluster.local", "SOA"), ("cluster.local", "NS"), ("10-1-2-3.default.pod.cluster.local", "A"),
        ("1.0.44.10.in-addr.arpa", "PTR"), ("example.org", "A"), ("web.default.svc.cluster.local", "AXFR"), (".", "A"),
        ("ns.dns.cluster.local", "A"), ("web.default.svc.b.example", "A"), ("web.default.svc.clusterset.local", "A"),
    ):  # fmt: skip
        yield dns.message.make_query(name, qtype, id=7, use_edns=False).to_wire()
        yield dns.message.make_query(name, qtype, id=7, use_edns=0, want_dnssec=True).to_wire()
        yield dns.message.make_query(name, qtype, id=7, use_edns=1, payload=100, ednsflags=1).to_wire()
    yield from (b"", b"\0", b"\0\7", bytes(12), b"\0\7\x28" + bytes(9), b"\0\7\x80" + bytes(9))


SEEDS: Final[dict[str, Callable[[], Iterator[bytes]]]] = {"http2": http2, "question": queries, "resolver": queries}


def write(name: str, folder: Path) -> None:
    """Write a target's seeds as files, with the names that libFuzzer would give them."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS[name]():
        (folder / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
