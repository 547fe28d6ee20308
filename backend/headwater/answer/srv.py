"""SRV sets, written from a node's table when they are asked for (`store.node` says why)."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

from headwater.answer.sections import Found, Sections
from headwater.store.choice import OF_SRV, choice_of, ranges
from headwater.store.node import (
    A_SIZE,
    AAAA_SIZE,
    HEAD,
    HEAD_SIZE,
    IS_LIMITED,
    SRV_ROW,
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
    IPV4,
    IPV6,
    OWNER,
    RECORD_HEAD,
    SRV_FIXED,
    SRV_NUMBERS,
    address_heads,
    pointer,
    record,
    type_of_address,
)
from headwater.wire.types import IN, SRV

#: Bytes of remembered nodes and sets, and the overhead of an entry.
MAX_KNOWN: Final = 2 << 20
_OVERHEAD: Final = 400
_PIECE: Final = 40
#: Beginnings of SRV records that are remembered.
_HEADS: Final = 512
#: An SRV record without its target.
_SRV_SIZE: Final = RECORD_HEAD + SRV_NUMBERS
#: The weight of a name with one target (CoreDNS's too).
_WHOLE_WEIGHT: Final = 100
#: Plain integers, because an enumeration's attribute costs a call.
_OWN: Final = int(SrvForm.OWN)
_TABLE: Final = int(SrvForm.TABLE)
_WEIGHED: Final = int(SrvForm.WEIGHED)
#: A row up to the length of its label: the first set of ports, one IPv4 address, no IPv6 one.
_SIZE_AT: Final = SRV_ROW.size - 1
_PLAIN_ROW: Final = SRV_ROW.pack(0, 1, 0, 0)[:_SIZE_AT]

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

    def asked_as(self, name: bytes) -> Found:
        """Put in the end of a name: as `Sections`, with all records in one piece."""
        return self.ancount, self.arcount, (name[len(name) - self.base :].join(self.pieces),), self.cut


def srv_of_itself(name: bytes, own: bytes, address: bytes, ttl: int) -> Sections:
    """The set of a pod's name that is not stored: itself and port 0, as in CoreDNS; its address.

    `own` is the pod's name, the end of the name in the query.
    """
    answer = _head(len(own), ttl, _WHOLE_WEIGHT, 0)
    glue = record(type_of_address(address), ttl, address, pointer(len(name) - len(own)))
    return Sections(1, 1, (answer, own, glue))


class _Known(NamedTuple):
    """The set of a name, and the node that it was written from."""

    node: bytes
    key: bytes
    answer: Found
    """In lower case, in one piece."""
    size: int
    """Bytes of it."""
    written: Written | None
    """In other letters, once a query had them."""
    weight: int
    """Bytes of this entry, about; pieces are small objects, each with a head of its own."""


class SrvSets:
    """The sets that were written lately, each until its node changes. SRV queries recur."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Known] = {}
        self._room = MAX_KNOWN
        self._lock = threading.Lock()

    def get(self, node: Any, key: bytes, name: bytes, room: int, turn: int, place: bytes = b"") -> Found:
        """As `srv_set`; `place`: whose set it is (`store.places`), nothing for everybody's."""
        data = bytes(node)
        lower = name.lower()
        where = lower + place
        known = self._known.get(where)
        if known is not None and known.node == data and known.key == key and known.size <= room:
            if name == lower:
                return known.answer
            if known.written is not None:
                return known.written.asked_as(name)
        written = write(data, key, lower, room, turn)
        answer = _, _, body, cut = written.asked_as(lower)
        if not cut and not _varies(data):
            size = len(body[0])
            weight = _OVERHEAD + len(where) + len(key) + len(data) + size
            if name != lower:
                weight += size + len(written.pieces) * _PIECE
            with self._lock:
                self._remember(where, _Known(data, key, answer, size, None if name == lower else written, weight))
        return answer if name == lower else written.asked_as(name)

    def _remember(self, where: bytes, found: _Known) -> None:
        before = self._known.pop(where, None)
        if before is not None:
            self._room += before.weight
        if self._room < found.weight:
            self._known.clear()
            self._room = MAX_KNOWN
        self._room -= found.weight
        self._known[where] = found


def srv_set(node: Any, key: bytes, name: bytes, room: int, turn: int) -> Sections:
    """A node's SRV set (RFC 2782), glue included, in at most `room` bytes.

    `key` is the name that it is stored under. `name` is the name in the query, which may lack
    underscores. Both end in the Service's name, to which the glue's owners point. Targets are not
    compressed (RFC 2782: "not to be used"), but they end in the question's own letters: CoreDNS
    compresses names that are equal letter for letter, such as a target and its glue's owner.
    `turn` says where a part of the set begins, as a fraction of 2**32.
    """
    return Sections(*write(node, key, name, room, turn).asked_as(name))


#: A node, the head of its SRV part, bytes of the Service's own name (the end of every target), the
#: pointer to that name in the question, and the room.
_Asked: TypeAlias = tuple[bytes, SrvPart, int, bytes, int]


def write(node: Any, key: bytes, name: bytes, room: int, turn: int) -> Written:
    """As `srv_set`, without the letters of the question."""
    node = bytes(node)
    part = srv_part(node)
    base = part.base or len(key)
    asked = node, part, base, pointer(len(name) - base), room
    return _of_itself(asked) if part.form == _OWN else _of_endpoints(asked, turn)


@lru_cache(_HEADS)
def _head(target: int, ttl: int, weight: int, port: int, priority: int = 0) -> bytes:
    """An SRV record up to its target of so many bytes. They differ by lengths and ports only."""
    return OWNER + SRV_FIXED.pack(SRV, IN, ttl, SRV_NUMBERS + target, priority, weight, port)


def _before_addresses(owner: bytes, ttl: int) -> tuple[bytes, bytes]:
    """The bytes between the label and the address of a glue record, for A and for AAAA."""
    a, aaaa = address_heads(ttl)
    return owner + a[len(OWNER) :], owner + aaaa[len(OWNER) :]


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
    pieces = [_head(base, part.ttl, part.weight, port) for port in ports[:fit]]
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
    node, part, base, _, room = asked
    sets, at = srv_port_sets(node, part)
    answers: list[bytes] = []
    glue: list[bytes] = []
    if part.form == _WEIGHED:
        for preference, rows in _weighed(node, at, turn):
            _add_rows(asked, preference, sets, rows, answers, glue)
    elif node[0] & IS_LIMITED:
        rows = _some(list(srv_rows(node, part.form, at)), limit_of(node), turn)
        _add_rows(asked, (0, part.weight), sets, rows, answers, glue)
    else:
        if part.form == _TABLE and len(sets[0]) == 1:
            at = _add_plain_rows(asked, sets[0][0], at, answers, glue)
        if at < len(node):
            _add_rows(asked, (0, part.weight), sets, srv_rows(node, part.form, at), answers, glue)
    ancount, arcount, records = len(answers), len(glue), b"".join(glue)
    if sum(map(len, answers)) + ancount * base + len(records) > room:
        return _cut(answers, base, glue, room, turn)
    answers.append(records)
    return Written(ancount, arcount, answers, base)


def _add_plain_rows(asked: _Asked, port: int, at: int, answers: list[bytes], glue: list[bytes]) -> int:
    """The rows of a table from an offset on that have one port and one IPv4 address, as nearly all
    have; the offset of the first other one. The same as `_add_rows`, in half the time.
    """
    node, part, base, owner, _ = asked
    before, _ = _before_addresses(owner, part.ttl)
    heads: dict[int, bytes] = {}
    end = len(node)
    while at < end:
        start = at + _SIZE_AT
        if node[at:start] != _PLAIN_ROW:
            break
        size = node[start]
        address = start + 1 + size
        label = node[start:address]
        try:
            head = heads[size]
        except KeyError:
            head = heads[size] = _head(1 + size + base, part.ttl, part.weight, port)
        answers.append(head + label)
        at = address + IPV4
        glue.append(label + before + node[address:at])
    return at


def _add_rows(
    asked: _Asked,
    preference: Preference,
    sets: Sequence[Sequence[int]],
    rows: Iterable[_Row],
    answers: list[bytes],
    glue: list[bytes],
) -> None:
    """Records without the end of their targets for some rows of a table."""
    node, part, base, owner, _ = asked
    priority, weight = preference
    before_a, before_aaaa = _before_addresses(owner, part.ttl)
    for index, n_a, n_aaaa, start, at in rows:
        label = node[start:at]
        size = at - start + base
        answers += [_head(size, part.ttl, weight, port, priority) + label for port in sets[index]]
        behind = at + n_a * IPV4
        glue += [label + before_a + node[at : at + IPV4] for at in range(at, behind, IPV4)]
        if n_aaaa:
            end = behind + n_aaaa * IPV6
            glue += [label + before_aaaa + node[at : at + IPV6] for at in range(behind, end, IPV6)]


def _cut(answers: list[bytes], base: int, glue: list[bytes], room: int, turn: int) -> Written:
    """Cut to whole records that fit; an answer is a piece and the end of its target.

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
    for piece in glue:
        room -= len(piece)
        if room < 0:
            break
        found.append(piece)
    return Written(len(pieces), len(found), [*pieces, b"".join(found)], base, cut=True)


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
    if not node[0] & IS_LIMITED:
        return False
    return limit_of(node) > 0 or bool(choice_of(node, OF_SRV).drawn)


def _some(rows: list[_Row], count: int, turn: int) -> list[_Row]:
    """So many of the rows, from another one on each turn; all in order when there are no more."""
    if count >= len(rows):
        return rows
    first = turn * len(rows) >> 32
    return (rows + rows)[first : first + count]
