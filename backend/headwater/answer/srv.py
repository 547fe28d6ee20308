"""SRV sets, written from a node's table when they are asked for (`store.node` says why)."""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from typing import Any, Final

from headwater.store.node import A_SIZE, AAAA_SIZE, HEAD, HEAD_SIZE, OTHER, SRV, SRV_ROW, Flag, SrvForm
from headwater.wire.types import HEADER_SIZE

_A: Final = 1
_AAAA: Final = 28
_SRV: Final = 33
_IN: Final = 1
_SRV_HEAD: Final = struct.Struct(">HHIHHHH")
_ADDRESS_HEAD: Final = struct.Struct(">HHIH")
#: Bytes of nodes and sets that are remembered, and what an entry takes besides.
MAX_KNOWN: Final = 2 << 20
_OVERHEAD: Final = 400


def srv_of_itself(name: bytes, own: bytes, address: bytes, ttl: int) -> tuple[int, int, tuple[bytes, ...]]:
    """(ancount, arcount, bytes) for a pod's name that is not stored: itself and port 0, as in CoreDNS; its address.

    `own` is the pod's name, the end of the one that was asked for.
    """
    rtype = _A if len(address) == 4 else _AAAA
    answer = b"\xc0\x0c" + _SRV_HEAD.pack(_SRV, _IN, ttl, 6 + len(own), 0, 100, 0)
    pointer = (0xC000 | HEADER_SIZE + len(name) - len(own)).to_bytes(2, "big")
    glue = pointer + _ADDRESS_HEAD.pack(rtype, _IN, ttl, len(address))
    return 1, 1, (answer, own, glue, address)


class SrvSets:
    """The sets that were written lately, each for as long as its node is the same: SRV queries come again and again."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[bytes, bytes, int, int, bytes]] = {}
        self._room = MAX_KNOWN
        self._lock = threading.Lock()

    def get(self, node: Any, key: bytes, name: bytes, room: int, turn: int) -> tuple[int, int, Sequence[bytes], bool]:
        """As `srv_set`."""
        data = bytes(node)
        known = self._known.get(name)
        if known is not None and known[0] == data and known[1] == key and len(known[4]) <= room:
            return known[2], known[3], known[4:], False
        ancount, arcount, body, cut = srv_set(node, key, name, room, turn)
        if not cut and not data[0] & Flag.LIMITED:
            with self._lock:
                self._remember(name, (data, key, ancount, arcount, b"".join(body)))
        return ancount, arcount, body, cut

    def _remember(self, name: bytes, found: tuple[bytes, bytes, int, int, bytes]) -> None:
        before = self._known.pop(name, None)
        if before is not None:
            self._room += _weight(name, before)
        self._room -= _weight(name, found)
        if self._room < 0:
            self._known.clear()
            self._room = MAX_KNOWN - _weight(name, found)
        self._known[name] = found


def _weight(name: bytes, found: tuple[bytes, bytes, int, int, bytes]) -> int:
    return _OVERHEAD + len(name) + len(found[0]) + len(found[1]) + len(found[4])


def srv_set(node: Any, key: bytes, name: bytes, room: int, turn: int) -> tuple[int, int, list[bytes], bool]:
    """(ancount, arcount, bytes, cut) of a node's SRV set (RFC 2782), glue included.

    `key` is the name it is stored under, `name` the one asked for, which may be
    shorter by underscores: both end in the Service's name, which the glue's
    owners point to. Targets are not compressed (RFC 2782: "not to be used").
    `turn` says where a part of the set begins, as a fraction of 2**32.
    """
    flags, _, _, n_a, n_aaaa = HEAD.unpack_from(node)
    at = HEAD_SIZE + n_a * A_SIZE + n_aaaa * AAAA_SIZE
    if flags & Flag.OTHER:
        count = node[at]
        at += 1
        for _ in range(count):
            at += OTHER.size + OTHER.unpack_from(node, at)[3]
    ttl, weight, base_size, form = SRV.unpack_from(node, at)
    at += SRV.size
    base = key[len(key) - base_size :] if base_size else key
    pointer = (0xC000 | HEADER_SIZE + len(name) - len(base)).to_bytes(2, "big")
    answers: list[bytes] = []
    glue: list[bytes] = []
    if form == SrvForm.OWN:
        ports, _ = _port_set(node, at)
        rdlength = 6 + len(base)
        for port in ports:
            if room < 12 + rdlength:
                break
            room -= 12 + rdlength
            answers += b"\xc0\x0c", _SRV_HEAD.pack(_SRV, _IN, ttl, rdlength, 0, weight, port), base
        fit_a = min(n_a, room // A_SIZE)
        for i in range(fit_a):
            glue += pointer, node[HEAD_SIZE + 2 + i * A_SIZE : HEAD_SIZE + (i + 1) * A_SIZE]
        room -= fit_a * A_SIZE
        start = HEAD_SIZE + n_a * A_SIZE
        fit_aaaa = min(n_aaaa, room // AAAA_SIZE)
        for i in range(fit_aaaa):
            glue += pointer, node[start + 2 + i * AAAA_SIZE : start + (i + 1) * AAAA_SIZE]
        cut = len(answers) // 3 < len(ports) or fit_a < n_a or fit_aaaa < n_aaaa
        return len(answers) // 3, len(glue) // 2, answers + glue, cut
    n_sets = int.from_bytes(node[at : at + 2], "big")
    at += 2
    sets: list[tuple[int, ...]] = []
    for _ in range(n_sets):
        ports, at = _port_set(node, at)
        sets.append(ports)
    a_fixed = _ADDRESS_HEAD.pack(_A, _IN, ttl, 4)
    aaaa_fixed = _ADDRESS_HEAD.pack(_AAAA, _IN, ttl, 16)
    # The fixed part of a record depends on its target's length and its port only.
    heads: dict[tuple[int, int], bytes] = {}
    size = len(node)
    whole = room
    long = form == SrvForm.NAMES
    if flags & Flag.LIMITED:
        size -= 2
        node, at, size = _some_rows(node, at, size, (node[size] << 8) | node[size + 1], turn)
    ancount = arcount = 0
    while at < size:
        index, row_a, row_aaaa, length = SRV_ROW.unpack_from(node, at)
        at += SRV_ROW.size
        label = bytes(node[at : at + length]) if long else bytes((length,)) + node[at : at + length]
        at += length
        length = len(label)
        ports = sets[index]
        target = label + base
        room -= len(ports) * (18 + len(target)) + row_a * (16 + length) + row_aaaa * (28 + length)
        for port in ports:
            head = heads.get((length, port))
            if head is None:
                rdlength = 6 + len(target)
                head = b"\xc0\x0c" + _SRV_HEAD.pack(_SRV, _IN, ttl, rdlength, 0, weight, port)
                heads[length, port] = head
            answers += head, target
        ancount += len(ports)
        owner = label + pointer
        for _ in range(row_a):
            glue += owner, a_fixed, node[at : at + 4]
            at += 4
        for _ in range(row_aaaa):
            glue += owner, aaaa_fixed, node[at : at + 16]
            at += 16
        arcount += row_a + row_aaaa
    if room < 0:
        return _cut(answers, 2, glue, 3, whole)
    return ancount, arcount, answers + glue, False


def _cut(
    answers: list[bytes], per_answer: int, glue: list[bytes], per_glue: int, room: int
) -> tuple[int, int, list[bytes], bool]:
    """(ancount, arcount, bytes, True) of what fits, whole records.

    Answers first: glue is a courtesy, the set is not (RFC 2181 section 9).
    """
    found: list[bytes] = []
    counts = []
    for parts, size in ((answers, per_answer), (glue, per_glue)):
        count = 0
        for at in range(0, len(parts), size):
            room -= sum(map(len, parts[at : at + size]))
            if room < 0:
                break
            found += parts[at : at + size]
            count += 1
        counts.append(count)
    return counts[0], counts[1], found, True


def _port_set(node: Any, at: int) -> tuple[tuple[int, ...], int]:
    """The ports at an offset, and the offset behind them."""
    count = (node[at] << 8) | node[at + 1]
    after = at + 2 + 2 * count
    return struct.unpack(f">{count}H", node[at + 2 : after]), after


def _some_rows(node: Any, at: int, end: int, count: int, turn: int) -> tuple[bytes, int, int]:
    """That many of the rows between two offsets, beginning with another one each turn.

    Returns their bytes, and where they begin and end in these.
    """
    starts = []
    while at < end:
        starts.append(at)
        _, row_a, row_aaaa, length = SRV_ROW.unpack_from(node, at)
        at += SRV_ROW.size + length + 4 * row_a + 16 * row_aaaa
    if count >= len(starts):
        rows = bytes(node[starts[0] : end]) if starts else b""
        return rows, 0, len(rows)
    first = turn * len(starts) >> 32
    starts.append(end)
    rows = bytes(node[starts[first] : starts[min(first + count, len(starts) - 1)]])
    rows += node[starts[0] : starts[max(0, first + count - len(starts) + 1)]]
    return rows, 0, len(rows)
