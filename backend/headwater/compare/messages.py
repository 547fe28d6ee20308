"""Messages for comparing: written and read with no more than that needs.

A reply becomes sets of records with names spelled out and in lower case, so
that compression, order and the letters' case do not matter; `written` keeps
order and case, for who asks whether nothing else differs.

What is read may come from anybody. Names are bounded, a pointer leads back
only, and a count is believed no further than the message goes.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from headwater.wire import names
from headwater.wire.header import AA, AD, CD, HEADER_SIZE, ONE_QUESTION, QR, RD, TC, flags_of
from headwater.wire.names import MAX_LABEL, MAX_NAME, ROOT
from headwater.wire.rdata import FIXED, IPV4, IPV6, SERIAL_SIZE
from headwater.wire.types import (
    AAAA,
    AXFR,
    CNAME,
    IN,
    IXFR,
    MNEMONICS,
    MX,
    NS,
    OPT,
    PTR,
    SOA,
    SRV,
    A,
    Rcode,
)

__all__ = ["MAX_LABEL", "TC", "TYPES", "WAYS", "Query", "Record", "Reply", "Way", "parse", "parse_reply"]

#: Types by name; some that no record of ours has are asked for all the same.
TYPES: Final = {name: number for number, name in MNEMONICS.items()} | {
    "OPT": OPT, "DS": 43, "AXFR": AXFR, "IXFR": IXFR, "CAA": 257, "TYPE65280": 65280,
}  # fmt: skip
_NAME_OF: Final = {number: name for name, number in TYPES.items()}
RCODES: Final = {int(rcode): rcode.name for rcode in Rcode}

#: Bytes before the names in the rdata of types that hold names, and how many names follow.
_NAMES_IN: Final = {NS: (0, 1), CNAME: (0, 1), SOA: (0, 2), PTR: (0, 1), MX: (2, 1), SRV: (6, 1)}
#: Bytes of the rdata of types whose rdata has one size.
_SIZES: Final = {A: IPV4, AAAA: IPV6}
#: Where the SOA's numbers of seconds begin in its rdata less the serial: at its end, as many bytes.
_SOA_SECONDS: Final = 16
#: A UDP size that asks for whole answers (DNS flag day 2020), and that of a client without EDNS.
_USUAL, _LEAST = 1232, 512
#: DO, in the flags of an OPT (RFC 3225 section 3).
_DO: Final = 0x8000
#: Records of a section in the one-line form of a reply; others are counted.
_SHOWN: Final = 4

Record = tuple[bytes, int, int, int, bytes]
"""Owner, type, class, TTL and rdata; names are uncompressed."""


class Way(NamedTuple):
    """How a question is asked."""

    tcp: bool = False
    payload: int | None = None
    """The UDP size in the OPT; None for a query without one."""
    dnssec_ok: bool = False
    option: bytes = b""
    flags: int = RD

    def __str__(self) -> str:
        words = ["TCP" if self.tcp else "UDP"]
        if self.payload is not None:
            words.append(f"EDNS {self.payload}{' DO' if self.dnssec_ok else ''}{' option' if self.option else ''}")
        words += [name for name, bit in (("AD", AD), ("CD", CD)) if self.flags & bit]
        return ", ".join(words if self.flags & RD else [*words, "no RD"])


#: Every way in which names are asked; both transports, with and without EDNS. The option is a
#: cookie (RFC 7873).
WAYS: Final = (
    Way(),
    Way(payload=_USUAL),
    Way(tcp=True),
    Way(payload=4096, dnssec_ok=True),
    Way(tcp=True, payload=_USUAL),
    Way(payload=_LEAST, flags=RD | CD),
    Way(tcp=True, flags=0),
    Way(payload=_USUAL, option=struct.pack("!HH8s", 10, 8, b"01234567"), flags=RD | AD),
    Way(tcp=True, payload=65535, dnssec_ok=True, flags=RD | CD),
)


class Query(NamedTuple):
    """One question, and how it is asked. The name is written as text, without the closing dot."""

    name: str
    qtype: int
    way: Way = WAYS[2]

    def question(self) -> bytes:
        return encode_name(self.name) + struct.pack("!HH", self.qtype, IN)

    def wire(self, number: int) -> bytes:
        """The message, with that id."""
        way = self.way
        additional = b""
        if way.payload is not None:
            additional = ROOT + FIXED.pack(OPT, way.payload, _DO if way.dnssec_ok else 0, len(way.option))
        head = struct.pack("!6H", number, way.flags, 1, 0, 0, 1 if additional else 0)
        return head + self.question() + additional + way.option

    def over_tcp(self) -> Query:
        return self._replace(way=self.way._replace(tcp=True))

    def __str__(self) -> str:
        return f"{names.text_of(encode_name(self.name)).rstrip('.') or '.'} {type_name(self.qtype)} ({self.way})"


class Reply(NamedTuple):
    """What is compared of a message."""

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

    def without_seconds(self) -> Reply:
        """The same with every TTL 0, and an SOA's times, which are TTLs' too."""
        answer, authority, additional = map(_without_seconds, self[2:5])
        return self._replace(answer=answer, authority=authority, additional=additional)

    def __str__(self) -> str:
        lines = [f"{RCODES.get(self.rcode, str(self.rcode))} flags {self.flags & 0xFFF0:04x}"]
        for title, section in (("", self.answer), ("authority ", self.authority), ("additional ", self.additional)):
            lines += [f"  {title}{text}" for text in sorted(map(_show, section))]
        lines += [f"  OPT {record[2]} {record[3]:08x} {record[4].hex()}" for record in self.opt]
        return "\n    ".join(lines)

    def line(self) -> str:
        """All of it in one line, of bounded length: "NOERROR aa: web.ns.svc.cluster.local 5 A
        10.0.0.1 (+ 3)".
        """
        words = [name for name, bit in (("aa", AA), ("tc", TC), ("ad", AD)) if self.flags & bit]
        text = " ".join([RCODES.get(self.rcode, f"rcode {self.rcode}"), *words])
        parts = []
        for title, section in (("", self.answer), ("authority ", self.authority), ("additional ", self.additional)):
            shown = sorted(map(_show, section))
            if shown:
                more = f" (+ {len(shown) - _SHOWN})" if len(shown) > _SHOWN else ""
                parts.append(title + "; ".join(shown[:_SHOWN]) + more)
        return ": ".join([text, " | ".join(parts)]) if parts else text


class Written(NamedTuple):
    """A message as it is written: records in their order, in their own letters' case."""

    question: bytes
    sections: tuple[tuple[Record, ...], ...]

    def folded(self) -> tuple[tuple[Record, ...], ...]:
        """The sections in lower case."""
        return tuple(tuple(map(_fold, section)) for section in self.sections)


def _fold(record: Record) -> Record:
    owner, rtype, rclass, ttl, rdata = record
    if rtype not in _NAMES_IN:
        return owner.lower(), rtype, rclass, ttl, rdata
    fixed, count = _NAMES_IN[rtype]
    at = fixed
    for _ in range(count):
        at = _end_of(rdata, at)
    return owner.lower(), rtype, rclass, ttl, rdata[:fixed] + rdata[fixed:at].lower() + rdata[at:]


def _end_of(wire: bytes, at: int) -> int:
    while wire[at]:
        at += 1 + wire[at]
    return at + 1


def _without_seconds(section: frozenset[Record]) -> frozenset[Record]:
    return frozenset(
        (owner, rtype, rclass, 0, rdata[:-_SOA_SECONDS] if rtype == SOA else rdata)
        for owner, rtype, rclass, _, rdata in section
    )


def type_name(number: int) -> str:
    return _NAME_OF.get(number, f"TYPE{number}")


@lru_cache(1 << 16)
def encode_name(text: str) -> bytes:
    """The wire form of a name; ValueError when a label is empty or too long, or the whole is."""
    try:
        labels = text.encode("latin-1").split(b".") if text else []
    except UnicodeEncodeError:
        raise ValueError(f"{text!r} is not a domain name") from None
    wire = b"".join(bytes([len(label) & 0xFF]) + label for label in labels) + ROOT
    if len(wire) > MAX_NAME or any(not 0 < len(label) <= MAX_LABEL for label in labels):
        raise ValueError(f"{text!r} is not a domain name")
    return wire


def decode_name(wire: bytes) -> str:
    """A name in its wire form, uncompressed, as the text that `encode_name` takes."""
    labels, at = [], 0
    while length := wire[at]:
        labels.append(wire[at + 1 : at + 1 + length])
        at += 1 + length
    return b".".join(labels).decode("latin-1")


# -- reading


def _read_name(message: bytes, at: int, seen: dict[int, bytes], fold: bool) -> tuple[bytes, int]:
    """The uncompressed name at an offset, and the offset after it; `seen` has those read before.

    A pointer leads to before all that was read of the name, so there is an end.
    """
    begin, after, lowest, size = at, 0, at, 0
    labels: list[bytes] = []
    while True:
        length = message[at]
        if length > MAX_LABEL:
            after = after or at + 2
            at = (length & MAX_LABEL) << 8 | message[at + 1]
            if length < names.POINTER or not HEADER_SIZE <= at < lowest:
                raise ValueError("a pointer that does not lead back")
            lowest = at
            if at in seen:
                labels.append(seen[at])
                break
        elif length:
            label = message[at : at + 1 + length]
            size += len(label)
            if size > MAX_NAME:
                break
            labels.append(label)
            at += 1 + length
        else:
            labels.append(ROOT)
            after = after or at + 1
            break
    name = b"".join(labels).lower() if fold else b"".join(labels)
    if size > MAX_NAME or len(name) > MAX_NAME:
        raise ValueError("a name that is too long")
    seen[begin] = name
    return name, after


def _read(message: bytes, *, fold: bool) -> tuple[int, bytes, list[list[Record]], list[Record]]:
    """Flags, question, three sections and the OPTs; raises IndexError, ValueError, struct.error.

    `fold`: names in lower case.
    """
    _, flags, qdcount, *counts = struct.unpack_from("!6H", message)
    at, seen = HEADER_SIZE, dict[int, bytes]()
    for _ in range(qdcount):
        at = _read_name(message, at, seen, fold)[1] + 4
    question = message[HEADER_SIZE:at]
    sections: list[list[Record]] = []
    opt: list[Record] = []
    for count in counts:
        records: list[Record] = []
        for _ in range(count):
            owner, at = _read_name(message, at, seen, fold)
            rtype, rclass, ttl, length = FIXED.unpack_from(message, at)
            at += FIXED.size
            end = at + length
            if rtype in _NAMES_IN:
                fixed, count_of_names = _NAMES_IN[rtype]
                rdata, at = message[at : at + fixed], at + fixed
                for _ in range(count_of_names):
                    name, at = _read_name(message, at, seen, fold)
                    rdata += name
                if rtype == SOA:
                    at += SERIAL_SIZE
                if at > end:
                    raise ValueError("a name that goes on behind its record")
                rdata += message[at:end]
            else:
                if length != _SIZES.get(rtype, length):
                    raise ValueError("an address of another size")
                rdata = message[at:end]
            at = end
            (opt if rtype == OPT else records).append((owner, rtype, rclass, ttl, rdata))
        sections.append(records)
    if at != len(message):
        raise ValueError(f"{len(message) - at} bytes after the last record")
    return flags, question, sections, opt


def parse(message: bytes) -> Reply:
    """Raises IndexError, ValueError or struct.error for what is no DNS message."""
    flags, question, sections, opt = _read(message, fold=True)
    answer, authority, additional = map(frozenset, sections)
    return Reply(flags, question, answer, authority, additional, frozenset(opt))


def written(message: bytes) -> Written:
    """Raises what `parse` raises."""
    _, question, sections, _ = _read(message, fold=False)
    return Written(question, tuple(map(tuple, sections)))


def answers(query: Query, message: bytes) -> bool:
    """Whether a message is a reply with exactly that question, letter by letter."""
    question = query.question()
    return (
        message[2] & 0x80 != 0
        and message[4:6] == ONE_QUESTION
        and message[HEADER_SIZE : HEADER_SIZE + len(question)] == question
    )


def accepted(query: Query, message: bytes) -> bool:
    """Whether a client would take a message for its reply: by the question, in any letters' case.

    A server that cannot or will not answer may leave the question out (RFC 1035 section 4.1.1
    allows no more than the header of a FORMERR).
    """
    if len(message) < HEADER_SIZE or not flags_of(message) & QR:
        return False
    if message[4:6] == b"\0\0":
        return bool(message[3] & 15)
    question = query.question()
    return message[4:6] == ONE_QUESTION and (
        message[HEADER_SIZE : HEADER_SIZE + len(question)].lower() == question.lower()
    )


def alike(query: Query, one: bytes, two: bytes) -> bool:
    """Whether two replies are the same bytes but for their ids, and whole: no need to read them."""
    return one[2:] == two[2:] and not one[2] & TC >> 8 and answers(query, one)


def readable(message: bytes) -> Reply | None:
    """A message, or None for what is none."""
    try:
        return parse(message)
    except (IndexError, ValueError, struct.error):
        return None


def parse_reply(query: Query, message: bytes | None) -> Reply | None:
    """The reply to that query; None for none, a broken one, and one to another question."""
    try:
        return readable(message) if message and answers(query, message) else None
    except IndexError:
        return None


# -- showing


def _show(record: Record) -> str:
    """A record as text; what a server wrote reaches no terminal as it is."""
    owner, rtype, _, ttl, rdata = record
    try:
        if rtype in (A, AAAA):
            shown = socket.inet_ntop(socket.AF_INET if rtype == A else socket.AF_INET6, rdata)
        elif rtype == SRV:
            shown = " ".join(map(str, struct.unpack_from("!3H", rdata))) + " " + _name(rdata[6:])
        elif rtype in (CNAME, PTR, NS):
            shown = _name(rdata)
        else:
            shown = rdata.hex() if rtype != SOA else "…"
    except (IndexError, ValueError, struct.error):
        shown = f"broken ({rdata.hex()[:64]})"
    return f"{_name(owner)} {ttl} {type_name(rtype)} {shown[:MAX_NAME]}"


def _name(wire: bytes) -> str:
    return names.text_of(wire).rstrip(".") or "."


def usual_ways(tcp: bool) -> Sequence[Way]:
    """How a pod's resolver asks: without EDNS, and with it."""
    return Way(tcp=tcp), Way(tcp=tcp, payload=_USUAL)
