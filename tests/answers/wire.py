"""Write, exchange and read messages in bulk, as far as the comparison needs it.

A reply becomes sets of records with uncompressed names in lower case, so that compression, order
and case do not matter. The question is compared byte for byte.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Final, NamedTuple

TYPES: Final = {
    "A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33, "NAPTR": 35,
    "OPT": 41, "DS": 43, "SVCB": 64, "HTTPS": 65, "AXFR": 252, "ANY": 255, "CAA": 257, "TYPE65280": 65280,
}  # fmt: skip
_NAME_OF: Final = {number: name for name, number in TYPES.items()}
RCODES: Final = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}

NOERROR, NXDOMAIN = 0, 3
MAX_LABEL, _MAX_NAME = 63, 255
TC = 0x200
_AD, _CD, _RD = 0x20, 0x10, 0x100

#: For types with names in the rdata: the bytes before the names, and the number of names.
_NAMES_IN: Final = {2: (0, 1), 5: (0, 1), 6: (0, 2), 12: (0, 1), 15: (2, 1), 33: (6, 1)}
_SERIAL: Final = 4  # bytes after the names of an SOA that are not compared

#: Queries under way over UDP and per TCP connection, and the number of TCP connections.
_WINDOW, _BATCH, _CONNECTIONS = 48, 24, 6
#: Seconds of silence after which a query is repeated over UDP, and after which it is given up.
_RETRY, _PATIENCE = 1.0, 6.0

Record = tuple[bytes, int, int, int, bytes]
"""Owner, type, class, TTL and rdata; names are uncompressed and in lower case."""


class Way(NamedTuple):
    """The transport and EDNS of a question."""

    tcp: bool = False
    payload: int | None = None
    """The UDP size in the OPT; None for a query without one."""
    dnssec_ok: bool = False
    option: bytes = b""
    flags: int = _RD

    def __str__(self) -> str:
        words = ["TCP" if self.tcp else "UDP"]
        if self.payload is not None:
            words.append(f"EDNS {self.payload}{' DO' if self.dnssec_ok else ''}{' option' if self.option else ''}")
        words += [name for name, bit in (("AD", _AD), ("CD", _CD)) if self.flags & bit]
        return ", ".join(words if self.flags & _RD else [*words, "no RD"])


#: Every way to ask: both transports, with and without EDNS.
WAYS: Final = (
    Way(),
    Way(payload=1232),
    Way(tcp=True),
    Way(payload=4096, dnssec_ok=True),
    Way(tcp=True, payload=1232),
    Way(payload=512, flags=_RD | _CD),
    Way(tcp=True, flags=0),
    Way(payload=1232, option=struct.pack("!HH8s", 10, 8, b"01234567"), flags=_RD | _AD),
    Way(tcp=True, payload=65535, dnssec_ok=True, flags=_RD | _CD),
)


class Query(NamedTuple):
    """One question, and the way to ask it. The name is text, without the last dot."""

    name: str
    qtype: int
    way: Way = WAYS[2]

    def question(self) -> bytes:
        return encode_name(self.name) + struct.pack("!HH", self.qtype, 1)

    def wire(self, number: int) -> bytes:
        way = self.way
        additional = b""
        if way.payload is not None:
            additional = b"\0" + struct.pack(
                "!HHIH", 41, way.payload, 0x8000 if way.dnssec_ok else 0, len(way.option)
            )  # fmt: skip
        head = struct.pack("!6H", number, way.flags, 1, 0, 0, 1 if additional else 0)
        return head + self.question() + additional + way.option

    def over_tcp(self) -> Query:
        return self._replace(way=self.way._replace(tcp=True))

    def __str__(self) -> str:
        return f"{self.name} {type_name(self.qtype)} ({self.way})"


class Reply(NamedTuple):
    """The parts of a message that are compared."""

    flags: int
    """The header's second word: flags and rcode."""
    question: bytes
    answer: frozenset[Record]
    authority: frozenset[Record]
    additional: frozenset[Record]
    opt: frozenset[Record]

    @property
    def rcode(self) -> int:
        return self.flags & 15

    @property
    def truncated(self) -> bool:
        return bool(self.flags & TC)

    def __str__(self) -> str:
        lines = [f"{RCODES.get(self.rcode, str(self.rcode))} flags {self.flags & 0xFFF0:04x}"]
        for title, section in (("", self.answer), ("authority ", self.authority), ("additional ", self.additional)):
            lines += [f"  {title}{text}" for text in sorted(map(_show, section))]
        lines += [f"  OPT {record[2]} {record[3]:08x} {record[4].hex()}" for record in self.opt]
        return "\n    ".join(lines)


def type_name(number: int) -> str:
    return _NAME_OF.get(number, f"TYPE{number}")


@lru_cache(1 << 16)
def encode_name(text: str) -> bytes:
    """Return a name in wire format.

    Raises ValueError for an empty or long label, or a long name.
    """
    wire = b"".join(bytes([len(label)]) + label for label in text.encode().split(b".")) + b"\0" if text else b"\0"
    if len(wire) > _MAX_NAME or any(not 0 < len(label) <= MAX_LABEL for label in text.split(".") if text):
        raise ValueError(f"{text!r} is not a domain name")
    return wire


def _read_name(message: bytes, at: int, seen: dict[int, bytes]) -> tuple[bytes, int]:
    """Return the uncompressed name at an offset, in lower case, and the offset after it.

    `seen` has the names that were read before.
    """
    begin, after, labels = at, 0, []
    for _ in range(128):
        length = message[at]
        if length > MAX_LABEL:
            after = after or at + 2
            at = (length & 63) << 8 | message[at + 1]
            if at in seen:
                labels.append(seen[at])
                break
        elif length:
            labels.append(message[at : at + 1 + length])
            at += 1 + length
        else:
            labels.append(b"\0")
            after = after or at + 1
            break
    else:
        raise ValueError("a name without an end")
    seen[begin] = name = b"".join(labels).lower()
    return name, after


def parse(message: bytes) -> Reply:
    """Read a message. Raises IndexError, ValueError or struct.error if it is malformed."""
    _, flags, qdcount, *counts = struct.unpack_from("!6H", message)
    at, seen = 12, dict[int, bytes]()
    for _ in range(qdcount):
        at = _read_name(message, at, seen)[1] + 4
    question = message[12:at]
    sections: list[list[Record]] = []
    opt: list[Record] = []
    for count in counts:
        records: list[Record] = []
        for _ in range(count):
            owner, at = _read_name(message, at, seen)
            rtype, rclass, ttl, length = struct.unpack_from("!HHIH", message, at)
            at += 10
            end = at + length
            if rtype in _NAMES_IN:
                fixed, names = _NAMES_IN[rtype]
                rdata, at = message[at : at + fixed], at + fixed
                for _ in range(names):
                    name, at = _read_name(message, at, seen)
                    rdata += name
                if rtype == TYPES["SOA"]:
                    at += _SERIAL
                rdata += message[at:end]
            else:
                rdata = message[at:end]
            at = end
            record = (owner, rtype, rclass, ttl, rdata)
            (opt if rtype == TYPES["OPT"] else records).append(record)
        sections.append(records)
    if at != len(message):
        raise ValueError(f"{len(message) - at} bytes after the last record")
    answer, authority, additional = map(frozenset, sections)
    return Reply(flags, question, answer, authority, additional, frozenset(opt))


def decode_name(wire: bytes) -> str:
    """Return an uncompressed name in wire format as text."""
    labels, at = [], 0
    while length := wire[at]:
        labels.append(wire[at + 1 : at + 1 + length])
        at += 1 + length
    return b".".join(labels).decode("latin-1")


def _show(record: Record) -> str:
    owner, rtype, _, ttl, rdata = record
    if rtype in (TYPES["A"], TYPES["AAAA"]):
        shown = socket.inet_ntop(socket.AF_INET if rtype == TYPES["A"] else socket.AF_INET6, rdata)
    elif rtype == TYPES["SRV"]:
        shown = " ".join(map(str, struct.unpack_from("!3H", rdata))) + " " + decode_name(rdata[6:])
    elif rtype in (TYPES["CNAME"], TYPES["PTR"], TYPES["NS"]):
        shown = decode_name(rdata)
    else:
        shown = rdata.hex() if rtype != TYPES["SOA"] else "…"
    return f"{decode_name(owner)} {ttl} {type_name(rtype)} {shown}"


def answers(query: Query, message: bytes) -> bool:
    """Return whether a message is a reply with exactly this question."""
    question = query.question()
    return message[2] & 0x80 != 0 and message[4:6] == b"\0\1" and message[12 : 12 + len(question)] == question


def alike(query: Query, one: bytes, two: bytes) -> bool:
    """Return whether two whole replies are the same bytes except for their ids."""
    return one[2:] == two[2:] and not one[2] & TC >> 8 and answers(query, one)


def parse_reply(query: Query, message: bytes | None) -> Reply | None:
    """Read the reply to a query; None for a missing or malformed
    one, or one to another question.
    """
    try:
        return parse(message) if message and answers(query, message) else None
    except (IndexError, ValueError, struct.error):
        return None


def exchange(port: int, queries: Sequence[Query]) -> list[bytes | None]:
    """Ask a server on 127.0.0.1.

    Return its replies in the order of the queries; None for a missing one. Over TCP several queries
    are under way on each connection (RFC 7766 section 6.2.1.1).
    """
    replies: list[bytes | None] = [None] * len(queries)
    by_udp = [index for index, query in enumerate(queries) if not query.way.tcp]
    by_tcp = [index for index, query in enumerate(queries) if query.way.tcp]
    for start in range(0, len(by_udp), 0x10000):
        _over_udp(port, queries, by_udp[start : start + 0x10000], replies)
    if by_tcp:
        _over_tcp(port, queries, by_tcp, replies)
    return replies


def _over_udp(port: int, queries: Sequence[Query], wanted: list[int], replies: list[bytes | None]) -> None:
    if not wanted:
        return
    left = iter(range(len(wanted)))
    waiting: dict[int, float] = {}  # when each was first sent, by message id
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(("127.0.0.1", port))
        asking.settimeout(_RETRY)

        def send(number: int) -> None:
            waiting.setdefault(number, time.monotonic())
            asking.send(queries[wanted[number]].wire(number))

        for number in islice(left, _WINDOW):
            send(number)
        while waiting:
            try:
                reply = asking.recv(65535)
            except TimeoutError:
                now = time.monotonic()
                for number in [number for number, sent in waiting.items() if now - sent > _PATIENCE]:
                    del waiting[number]
                for number in waiting:
                    send(number)
            else:
                number = int.from_bytes(reply[:2], "big")
                if waiting.pop(number, None) is None:
                    continue  # a second reply, to a repeated query
                replies[wanted[number]] = reply
            while len(waiting) < _WINDOW and (number := next(left, -1)) >= 0:
                send(number)


@dataclass
class _Stream:
    """A TCP connection, and its queries."""

    socket: socket.socket
    left: list[int]
    """Queries that are not sent yet, the next one last."""
    waiting: set[int]
    received: bytearray

    def send(self, queries: Sequence[Query]) -> None:
        """Send the next batch when all replies to the previous one have arrived."""
        if not self.waiting:
            batch = [self.left.pop() for _ in range(min(_BATCH, len(self.left)))]
            self.waiting.update(batch)
            messages = [queries[index].wire(index & 0xFFFF) for index in batch]
            self.socket.sendall(b"".join(len(message).to_bytes(2, "big") + message for message in messages))

    def receive(self, replies: list[bytes | None]) -> bool:
        """Read the replies that have arrived. Return False if the peer has closed."""
        data = self.socket.recv(1 << 18)
        received = self.received
        received += data
        while len(received) >= 2 and len(received) >= 2 + (length := int.from_bytes(received[:2], "big")):
            message = bytes(received[2 : 2 + length])
            del received[: 2 + length]
            number = int.from_bytes(message[:2], "big")
            for index in self.waiting:
                if index & 0xFFFF == number:
                    replies[index] = message
                    self.waiting.discard(index)
                    break
        return bool(data)


def _over_tcp(port: int, queries: Sequence[Query], wanted: list[int], replies: list[bytes | None]) -> None:
    _over_connections(port, queries, wanted, replies, _CONNECTIONS)
    # A query without a reply may have ended its connection; the queries after it are repeated.
    for index in [index for index in wanted if replies[index] is None][:_CONNECTIONS]:
        _over_connections(port, queries, [index], replies, 1)


def _over_connections(
    port: int, queries: Sequence[Query], wanted: list[int], replies: list[bytes | None], count: int
) -> None:
    """Divide the queries among connections; return when all have
    replies, or none arrive any more.
    """
    with contextlib.ExitStack() as opened:
        streams: dict[socket.socket, _Stream] = {}
        for first in range(min(count, len(wanted))):
            connection = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
            opened.enter_context(connection)
            streams[connection] = _Stream(connection, wanted[first::count][::-1], set(), bytearray())
        while streams:
            for stream in streams.values():
                stream.send(queries)
            ready = select.select(list(streams), [], [], _PATIENCE)[0]
            if not ready:
                return
            for connection in ready:
                stream = streams[connection]
                try:
                    alive = stream.receive(replies)
                except OSError:
                    alive = False
                if not alive or not (stream.left or stream.waiting):
                    del streams[connection]
