"""SRV sets, written from a node's table when they are asked for (`store.node` says why)."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from headwater.answer.sections import Sections
from headwater.store.node import (
    A_SIZE,
    AAAA_SIZE,
    HEAD,
    HEAD_SIZE,
    Flag,
    SrvForm,
    SrvPart,
    limit_of,
    srv_part,
    srv_port_sets,
    srv_ports,
    srv_rows,
)
from headwater.wire.rdata import (
    FIXED,
    IPV4,
    IPV6,
    OWNER,
    RECORD_HEAD,
    SRV_FIXED,
    SRV_NUMBERS,
    pointer,
    record,
    type_of_address,
)
from headwater.wire.types import AAAA, IN, SRV, A

#: Bytes of nodes and sets that are remembered, and what an entry takes besides.
MAX_KNOWN: Final = 2 << 20
_OVERHEAD: Final = 400
_PIECE: Final = 40
#: An SRV record without its target.
_SRV_SIZE: Final = RECORD_HEAD + SRV_NUMBERS
#: The weight of a name with one target (CoreDNS's too).
_WHOLE_WEIGHT: Final = 100


class Written(NamedTuple):
    """The same before the targets' common end is put in: it has the letters of the question."""

    ancount: int
    arcount: int
    pieces: Sequence[bytes]
    """What stands before each target's end, and what stands behind the last one: one more than `ancount`."""
    base: int
    """Bytes of that end, which is also the end of the name asked for: the Service's own name."""
    cut: bool = False

    def asked_as(self, name: bytes) -> Sections:
        """With the end that a name has."""
        return Sections(self.ancount, self.arcount, (name[len(name) - self.base :].join(self.pieces),), self.cut)


def srv_of_itself(name: bytes, own: bytes, address: bytes, ttl: int) -> Sections:
    """The set of a pod's name that is not stored: itself and port 0, as in CoreDNS; its address.

    `own` is the pod's name, the end of the one that was asked for.
    """
    answer = OWNER + _head(len(own), ttl, _WHOLE_WEIGHT, 0)
    glue = record(type_of_address(address), ttl, address, pointer(len(name) - len(own)))
    return Sections(1, 1, (answer, own, glue))


class _Known(NamedTuple):
    """What was written for a name, and what it was written from."""

    node: bytes
    key: bytes
    answer: Sections
    """In lower case, in one piece."""
    written: Written | None
    """For other letters, once they were asked for."""


class SrvSets:
    """The sets that were written lately, each for as long as its node is the same: SRV queries come again and again."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Known] = {}
        self._room = MAX_KNOWN
        self._lock = threading.Lock()

    def get(self, node: Any, key: bytes, name: bytes, room: int, turn: int) -> Sections:
        """As `srv_set`."""
        data = bytes(node)
        lower = name.lower()
        known = self._known.get(lower)
        if known is not None and known.node == data and known.key == key and len(known.answer.body[0]) <= room:
            if name == lower:
                return known.answer
            if known.written is not None:
                return known.written.asked_as(name)
        written = write(data, key, lower, room, turn)
        answer = written.asked_as(lower)
        if not answer.cut and not data[0] & Flag.LIMITED:
            with self._lock:
                self._remember(lower, _Known(data, key, answer, None if name == lower else written))
        return answer if name == lower else written.asked_as(name)

    def _remember(self, name: bytes, found: _Known) -> None:
        before = self._known.pop(name, None)
        if before is not None:
            self._room += _weight(name, before)
        self._room -= _weight(name, found)
        if self._room < 0:
            self._known.clear()
            self._room = MAX_KNOWN - _weight(name, found)
        self._known[name] = found


def _weight(name: bytes, found: _Known) -> int:
    """Bytes of an entry; pieces are small objects, each with a head of its own."""
    pieces = () if found.written is None else found.written.pieces
    size = len(name) + len(found.node) + len(found.key) + len(found.answer.body[0]) + sum(map(len, pieces))
    return _OVERHEAD + size + len(pieces) * _PIECE


def srv_set(node: Any, key: bytes, name: bytes, room: int, turn: int) -> Sections:
    """A node's SRV set (RFC 2782), glue included, in at most `room` bytes.

    `key` is the name it is stored under, `name` the one asked for, which may be
    shorter by underscores: both end in the Service's name, which the glue's
    owners point to. Targets are not compressed (RFC 2782: "not to be used"),
    but they end in the question's own letters: CoreDNS compresses what is the
    same letter for letter, such as a target and its glue's owner.
    `turn` says where a part of the set begins, as a fraction of 2**32.
    """
    return write(node, key, name, room, turn).asked_as(name)


class _Asked(NamedTuple):
    """A node's SRV part, and how it is to be written."""

    node: bytes
    part: SrvPart
    base: int
    """Bytes of the Service's own name, which every target ends in."""
    pointer: bytes
    """To the same in the question."""
    room: int


def write(node: Any, key: bytes, name: bytes, room: int, turn: int) -> Written:
    """As `srv_set`, whatever letters the question has."""
    part = srv_part(node)
    base = part.base or len(key)
    asked = _Asked(bytes(node), part, base, pointer(len(name) - base), room)
    return _of_itself(asked) if part.form == SrvForm.OWN else _of_endpoints(asked, turn)


def _head(target: int, ttl: int, weight: int, port: int) -> bytes:
    """What stands between an SRV record's owner and its target of so many bytes."""
    return SRV_FIXED.pack(SRV, IN, ttl, SRV_NUMBERS + target, 0, weight, port)


def _of_itself(asked: _Asked) -> Written:
    """Form OWN: a record for each port, one target, the node's own addresses for glue."""
    node, part, base, owner, room = asked
    _, _, _, n_a, n_aaaa = HEAD.unpack_from(node)
    ports, _ = srv_ports(node, part.at)
    fit = min(len(ports), room // (_SRV_SIZE + base))
    room -= fit * (_SRV_SIZE + base)
    fit_a = min(n_a, room // A_SIZE)
    fit_aaaa = min(n_aaaa, (room - fit_a * A_SIZE) // AAAA_SIZE)
    glue = _with_owner(owner, node, HEAD_SIZE, fit_a, A_SIZE)
    glue += _with_owner(owner, node, HEAD_SIZE + n_a * A_SIZE, fit_aaaa, AAAA_SIZE)
    pieces = [OWNER + _head(base, part.ttl, part.weight, port) for port in ports[:fit]]
    pieces.append(b"".join(glue))
    cut = fit < len(ports) or fit_a < n_a or fit_aaaa < n_aaaa
    return Written(fit, fit_a + fit_aaaa, pieces, base, cut)


def _with_owner(owner: bytes, node: Any, at: int, count: int, size: int) -> list[bytes]:
    """Stored records, so many of that size from an offset on, with another owner than the question's name."""
    found: list[bytes] = []
    for start in range(at, at + count * size, size):
        found += owner, node[start + len(OWNER) : start + size]
    return found


def _of_endpoints(asked: _Asked, turn: int) -> Written:
    """Forms TABLE and NAMES: a record for each row and each of its ports, the row's addresses for glue."""
    node, part, base, to_base, room = asked
    ttl, weight, _, form, _ = part
    sets, at = srv_port_sets(node, part)
    rows: Iterable[tuple[int, int, int, int, int]] = srv_rows(node, form, at)
    if node[0] & Flag.LIMITED:
        rows = _some(list(rows), limit_of(node), turn)
    # Between a glue record's label and its address.
    before_a, before_aaaa = to_base + FIXED.pack(A, IN, ttl, IPV4), to_base + FIXED.pack(AAAA, IN, ttl, IPV6)
    # The fixed part of a record depends on its target's length and its port only.
    heads: dict[tuple[int, int], bytes] = {}
    answers: list[bytes] = []
    glue: list[bytes] = []
    ancount = arcount = 0
    left = room
    for index, n_a, n_aaaa, start, at in rows:
        label = node[start:at]
        size = len(label)
        ports = sets[index]
        for port in ports:
            head = heads.get((size, port))
            if head is None:
                head = heads[size, port] = OWNER + _head(size + base, ttl, weight, port)
            answers.append(head + label)
        behind = at + n_a * IPV4
        for address in range(at, behind, IPV4):
            glue += label, before_a, node[address : address + IPV4]
        if n_aaaa:
            for address in range(behind, behind + n_aaaa * IPV6, IPV6):
                glue += label, before_aaaa, node[address : address + IPV6]
        ancount += len(ports)
        arcount += n_a + n_aaaa
        left -= len(ports) * (_SRV_SIZE + size + base) + n_a * (A_SIZE + size) + n_aaaa * (AAAA_SIZE + size)
    if left < 0:
        return _cut(answers, base, glue, room)
    answers.append(b"".join(glue))
    return Written(ancount, arcount, answers, base)


def _cut(answers: list[bytes], base: int, glue: list[bytes], room: int) -> Written:
    """What fits, in whole records: an answer is a piece and its target's end, glue is three pieces.

    Answers first: glue is a courtesy, the set is not (RFC 2181 section 9).
    """
    pieces: list[bytes] = []
    for piece in answers:
        room -= len(piece) + base
        if room < 0:
            return Written(len(pieces), 0, [*pieces, b""], base, cut=True)
        pieces.append(piece)
    found: list[bytes] = []
    for at in range(0, len(glue), 3):
        room -= sum(map(len, glue[at : at + 3]))
        if room < 0:
            break
        found += glue[at : at + 3]
    return Written(len(pieces), len(found) // 3, [*pieces, b"".join(found)], base, cut=True)


def _some(rows: list[tuple[int, int, int, int, int]], count: int, turn: int) -> list[tuple[int, int, int, int, int]]:
    """That many of the rows, beginning with another one each turn; all in their order when there are no more."""
    if count >= len(rows):
        return rows
    first = turn * len(rows) >> 32
    return (rows + rows)[first : first + count]
