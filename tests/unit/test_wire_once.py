"""The numbers and formats of DNS are in `wire/`, and nowhere else in the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from headwater.store import node
from headwater.wire import edns, header, rdata, types

PACKAGE: Final = Path(__file__).resolve().parents[2] / "backend" / "headwater"
WIRE: Final = sorted((PACKAGE / "wire").glob("*.py"))
OTHERS: Final = sorted(set(PACKAGE.rglob("*.py")) - set(WIRE) - set((PACKAGE / "serve" / "pb").glob("*.py")))

#: Names that only `wire` may give to an integer, with or without an underscore before them.
TYPES: Final = frozenset(name for name, value in vars(types).items() if name.isupper() and isinstance(value, int))
OWN_NAMES: Final = TYPES | {"MAX_MESSAGE", "HEADER_SIZE", "OPT_SIZE", "EDE"}
#: Numbers that have no other meaning in code for queries and records: types, pointers, flags.
NUMBERS: Final = frozenset(
    (
        types.AAAA, types.SRV, types.OPT, types.IXFR, types.AXFR,
        int.from_bytes(rdata.OWNER, "big"), 0xC000,
        header.QR, header.QR | header.AA, header.OPCODE, header.REPEATED,
    )
)  # fmt: skip
#: The rooms that are checked; elsewhere 28 may be the width of a column.
ROOMS: Final = frozenset(("answer", "records", "serve", "store"))
#: Names that give an integer beside them its meaning.
WORDS: Final = frozenset(("qtype", "rtype", "rdtype", "qclass", "rcode", "opcode", "ede"))


def formats(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, format) of the formats for `struct`, without byte order and synonyms."""
    for at in ast.walk(tree):
        if not isinstance(at, ast.Call) or not at.args or not isinstance(at.args[0], ast.Constant):
            continue
        called = at.func.attr if isinstance(at.func, ast.Attribute) else getattr(at.func, "id", "")
        given = at.args[0].value
        if isinstance(given, str) and called in ("Struct", "pack", "unpack", "unpack_from", "pack_into", "iter_unpack"):
            yield at.lineno, given.lstrip(">!").replace("L", "I")


#: Formats of DNS; formats of a single field do not count.
DNS_FORMATS: Final = frozenset(
    given for file in WIRE for _, given in formats(ast.parse(file.read_text())) if len(given) > 2
)


def again(text: str, room: str = "answer") -> list[str]:
    """Return what a module repeats from `wire/`."""
    tree = ast.parse(text)
    found = [f"{line}: the format {given}" for line, given in formats(tree) if given in DNS_FORMATS]
    for at in ast.walk(tree):
        if isinstance(at, ast.Constant):
            value = at.value
            if type(value) is int and value in NUMBERS and room in ROOMS:
                found.append(f"{at.lineno}: the number {value}")
            if isinstance(value, bytes) and rdata.OWNER in value:
                found.append(f"{at.lineno}: the pointer to the question")
        elif isinstance(at, ast.Compare):
            sides = (at.left, *at.comparators)
            named = {side.attr if isinstance(side, ast.Attribute) else getattr(side, "id", "") for side in sides}
            numbers = [side.value for side in sides if isinstance(side, ast.Constant) and type(side.value) is int]
            if named & WORDS and any(numbers):
                found.append(f"{at.lineno}: {ast.unparse(at)}")
        elif isinstance(at, ast.Dict):
            names = {value.value for value in at.values if isinstance(value, ast.Constant)}
            if names & {"AAAA", "NXDOMAIN"} and any(isinstance(key, ast.Constant) for key in at.keys):
                found.append(f"{at.lineno}: a table of {sorted(map(str, names))}")
    for at in tree.body:
        target = at.target if isinstance(at, ast.AnnAssign) else at.targets[0] if isinstance(at, ast.Assign) else None
        value = getattr(at, "value", None)
        if not isinstance(target, ast.Name) or not isinstance(value, ast.Constant) or type(value.value) is not int:
            continue
        if target.id.lstrip("_") in OWN_NAMES:
            found.append(f"{at.lineno}: {ast.unparse(at)}")
    return found


@pytest.mark.parametrize("file", OTHERS, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_nobody_else_writes_what_dns_is_made_of(file: Path) -> None:
    assert not again(file.read_text(), file.relative_to(PACKAGE).parts[0])


@pytest.mark.parametrize(
    "line",
    [
        'FIXED = struct.Struct(">HHIH")',
        'x = struct.pack(">HHIHHHH", 1, 2, 3, 4, 5, 6, 7)',
        'x = Struct("!HHLH")',
        'x = struct.unpack_from(">HHH", data)',
        'x = struct.pack(">IIII", 7200, 1800, 86400, 5)',
        "_AAAA: Final = 28",
        "CNAME = 5",
        "_IN: Final = 1",
        "_OPT_SIZE: Final = 11",
        "MAX_MESSAGE = 65535",
        "size = 28 * count",
        "x = 0xC00C",
        "x = (0xC000 | at).to_bytes(2, 'big')",
        r"x = b'\xc0\x0c' + rest",
        "head = 0x8400 | flags",
        "opcode = flags & 0x7800",
        "found = 4 if qtype == 1 else 16",
        "found = message.rcode != 3",
        "NAMES = {1: 'A', 28 - 0: 'AAAA'}",
        "RCODES = {0: 'NOERROR', 3: 'NXDOMAIN'}",
    ],
)
def test_what_is_written_again_is_found(line: str) -> None:
    assert again(f"import struct\n{line}\n")


@pytest.mark.parametrize(
    "line",
    ['x = struct.Struct(">BBBHH")', "size = 16", "x = 0xFFFF", "RETRIES = 5", "found = count == 1", "x = {1: 'one'}"],
)
def test_what_is_nobodys_is_not(line: str) -> None:
    assert not again(line)


def test_the_formats_of_wire_are_seen() -> None:
    assert {"HHIH", "HHIHHHH", "HHH", "IIII", "HHBBHH"} <= DNS_FORMATS
    assert {"A", "AAAA", "SRV", "OPT", "IN"} <= TYPES


def test_the_stores_records_are_those_of_the_wire() -> None:
    """`store` does not import `wire`, but keeps its records: the sizes must be equal."""
    a_head, aaaa_head = rdata.address_heads(5)
    assert len(a_head) + rdata.IPV4 == node.A_SIZE
    assert len(aaaa_head) + rdata.IPV6 == node.AAAA_SIZE
    assert len(edns.opt(types.Rcode.NOERROR, do=True)) == edns.OPT_SIZE
