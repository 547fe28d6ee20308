"""SRV sets, written from a node's table when they are asked for (`store.node` says why)."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from headwater.answer.sections import Sections
from headwater.store.choice import OF_SRV, choice_of, ranges
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
    srv_weighed_rows,
)
from headwater.wire.edns import MIN_UDP_SIZE
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

#: Bytes of remembered nodes and sets, and the overhead of an entry.
MAX_KNOWN: Final = 2 << 20
_OVERHEAD: Final = 400
_PIECE: Final = 40
#: An SRV record without its target.
_SRV_SIZE: Final = RECORD_HEAD + SRV_NUMBERS
#: The weight of a name with one target (CoreDNS's too).
_WHOLE_WEIGHT: Final = 100


#: A row of a table, as `srv_rows` has it.
_Row: TypeAlias = tuple[int, int, int, int, int]
#: (priority, weight) of an SRV record.
Preference: TypeAlias = tuple[int, int]


class Written(NamedTuple):
    """The same without the targets' common end, which has the letters of the question."""

    ancount: int
    arcount: int
    pieces: Sequence[bytes]
    """The bytes before each target's end, and those behind the last one: `ancount` + 1 pieces."""
    base: int
    """Bytes of that end, which is also the end of the name asked for: the Service's own name."""
    cut: bool = False

    def asked_as(self, name: bytes) -> Sections:
        """Put in the end of a name."""
        return Sections(self.ancount, self.arcount, (name[len(name) - self.base :].join(self.pieces),), self.cut)


def srv_of_itself(name: bytes, own: bytes, address: bytes, ttl: int) -> Sections:
    """The set of a pod's name that is not stored: itself and port 0, as in CoreDNS; its address.

    `own` is the pod's name, the end of the name in the query.
    """
    answer = OWNER + _head(len(own), ttl, _WHOLE_WEIGHT, 0)
    glue = record(type_of_address(address), ttl, address, pointer(len(name) - len(own)))
    return Sections(1, 1, (answer, own, glue))


class _Known(NamedTuple):
    """The set of a name, and the node that it was written from."""

    node: bytes
    key: bytes
    answer: Sections
    """In lower case, in one piece."""
    written: Written | None
    """In other letters, once a query had them."""


class SrvSets:
    """The sets that were written lately, each until its node changes. SRV queries recur."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Known] = {}
        self._room = MAX_KNOWN
        self._lock = threading.Lock()

    def get(self, node: Any, key: bytes, name: bytes, room: int, turn: int, place: bytes = b"") -> Sections:
        """As `srv_set`; `place`: whose set it is (`store.places`), nothing for everybody's."""
        data = bytes(node)
        lower = name.lower()
        where = lower + place
        known = self._known.get(where)
        if known is not None and known.node == data and known.key == key and len(known.answer.body[0]) <= room:
            if name == lower:
                return known.answer
            if known.written is not None:
                return known.written.asked_as(name)
        written = write(data, key, lower, room, turn)
        answer = written.asked_as(lower)
        if not answer.cut and not _varies(data):
            with self._lock:
                self._remember(where, _Known(data, key, answer, None if name == lower else written))
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

    `key` is the name that it is stored under. `name` is the name in the query, which may lack
    underscores. Both end in the Service's name, to which the glue's owners point. Targets are not
    compressed (RFC 2782: "not to be used"), but they end in the question's own letters: CoreDNS
    compresses names that are equal letter for letter, such as a target and its glue's owner.
    `turn` says where a part of the set begins, as a fraction of 2**32.
    """
    return write(node, key, name, room, turn).asked_as(name)


class _Asked(NamedTuple):
    """A node's SRV part, and the way to write it."""

    node: bytes
    part: SrvPart
    base: int
    """Bytes of the Service's own name, the end of every target."""
    pointer: bytes
    """To the same in the question."""
    room: int


def write(node: Any, key: bytes, name: bytes, room: int, turn: int) -> Written:
    """As `srv_set`, without the letters of the question."""
    part = srv_part(node)
    base = part.base or len(key)
    asked = _Asked(bytes(node), part, base, pointer(len(name) - base), room)
    return _of_itself(asked) if part.form == SrvForm.OWN else _of_endpoints(asked, turn)


def _head(target: int, ttl: int, weight: int, port: int, priority: int = 0) -> bytes:
    """What stands between an SRV record's owner and its target of so many bytes."""
    return SRV_FIXED.pack(SRV, IN, ttl, SRV_NUMBERS + target, priority, weight, port)


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
    """`count` stored records from an offset on, with another owner than the question's name."""
    found: list[bytes] = []
    for start in range(at, at + count * size, size):
        found += owner, node[start + len(OWNER) : start + size]
    return found


def _of_endpoints(asked: _Asked, turn: int) -> Written:
    """TABLE and NAMES: a record for each row and port, with the row's addresses as glue."""
    node, part, base, to_base, room = asked
    ttl, weight, _, form, _ = part
    sets, at = srv_port_sets(node, part)
    alike: Sequence[tuple[Preference, Iterable[_Row]]]
    if form == SrvForm.WEIGHED:
        alike = _weighed(node, at, turn)
    else:
        rows: Iterable[_Row] = srv_rows(node, form, at)
        if node[0] & Flag.LIMITED:
            rows = _some(list(rows), limit_of(node), turn)
        alike = (((0, weight), rows),)
    # Bytes between a glue record's label and its address.
    before_a, before_aaaa = to_base + FIXED.pack(A, IN, ttl, IPV4), to_base + FIXED.pack(AAAA, IN, ttl, IPV6)
    answers: list[bytes] = []
    glue: list[bytes] = []
    ancount = arcount = 0
    left = room
    for (priority, own), some in alike:
        # The fixed part of a record depends only on its target's length and its port.
        heads: dict[tuple[int, int], bytes] = {}
        for index, n_a, n_aaaa, start, at in some:
            label = node[start:at]
            size = len(label)
            ports = sets[index]
            for port in ports:
                head = heads.get((size, port))
                if head is None:
                    head = heads[size, port] = OWNER + _head(size + base, ttl, own, port, priority)
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
        return _cut(answers, base, glue, room, turn)
    answers.append(b"".join(glue))
    return Written(ancount, arcount, answers, base)


def _cut(answers: list[bytes], base: int, glue: list[bytes], room: int, turn: int) -> Written:
    """Cut to whole records that fit; an answer is two pieces, glue is three.

    Answers first: glue is a courtesy, the set is not (RFC 2181 section 9). Where they have to fit
    into the least UDP message, others are first each time: nobody asks again over TCP.
    """
    if room < MIN_UDP_SIZE:
        first = turn * len(answers) >> 32
        answers = answers[first:] + answers[:first]
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


def _weighed(node: Any, at: int, turn: int) -> list[tuple[Preference, Iterable[_Row]]]:
    """The rows of one reply with the numbers of each, where endpoints have weights of their own."""
    rows = list(srv_weighed_rows(node, at))
    choice = choice_of(node, OF_SRV)
    if choice.shown == len(rows):
        return [(own, (row,)) for own, row in rows]
    found: list[tuple[Preference, Iterable[_Row]]] = []
    drawn = range(choice.sure, choice.sure + len(choice.drawn))
    for start, stop in ranges(choice, turn):
        for place in range(start, stop):
            (priority, weight), row = rows[place]
            found.append(((priority, choice.share if place in drawn else weight), (row,)))
    return found


def _varies(node: bytes) -> bool:
    """Whether replies show different parts of the set."""
    if not node[0] & Flag.LIMITED:
        return False
    return limit_of(node) > 0 or bool(choice_of(node, OF_SRV).drawn)


def _some(rows: list[_Row], count: int, turn: int) -> list[_Row]:
    """So many of the rows, from another one on each turn; all in order when there are no more."""
    if count >= len(rows):
        return rows
    first = turn * len(rows) >> 32
    return (rows + rows)[first : first + count]
