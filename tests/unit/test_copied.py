"""A copy's bytes: what of it is unpacked, and a head between versions."""

from __future__ import annotations

import io
from collections.abc import Callable

import msgspec
import pytest
from headwater.store.copied import DIGEST, MOST_OF_A_PIECE, SIZE, Chain, Head, decode_head, encode_head, unpacked

HEAD = Head("5", "source", "uid", "https://k", 0.5, 7, 1, 2, "1.0", {"services": "7", "pods": "opaque é"})


class Older(msgspec.Struct):
    """The head before it had versions."""

    format: str
    source: str
    uid: str
    address: str
    age: float
    version: int
    checksum: int
    bytes: int
    headwater: str


def test_an_older_receiver_takes_the_head_and_an_older_senders_head_is_taken() -> None:
    older = msgspec.json.decode(encode_head(HEAD), type=Older)
    assert older == Older("5", "source", "uid", "https://k", 0.5, 7, 1, 2, "1.0")
    assert decode_head(msgspec.json.encode(older)) == msgspec.structs.replace(HEAD, versions={})


def test_a_head_is_printable() -> None:
    text = encode_head(HEAD)
    assert text.isascii()
    assert decode_head(text).versions == {"services": "7", "pods": "opaque ?"}


# Pieces

TEXT = encode_head(HEAD)
PIECES: list[tuple[str, list[tuple[bytes, bytes]]]] = [
    ("meta", [(b"ready", b"1")]),
    ("objects", [(b"a", b"1"), (b"b", b"2")]),
    ("slices", [(b"c", b"")]),
    ("records", [(b"d", b"4")]),
]


def parts(text: bytes = TEXT) -> list[bytes]:
    chain = Chain(text)
    return [*(chain.piece(db, [item for entry in entries for item in entry]) for db, entries in PIECES), chain.end()]


def taken(data: bytes, text: bytes = TEXT) -> tuple[list[tuple[str, list[tuple[bytes, bytes]]]], str]:
    """What was unpacked, and why no more was; "" for a whole copy."""
    found: list[tuple[str, list[tuple[bytes, bytes]]]] = []
    file = io.BytesIO(data)

    def read(count: int) -> bytes:
        got = file.read(count)
        if len(got) < count:
            raise EOFError("cut")
        return got

    try:
        for db, keys, values in unpacked(text, read):
            found.append((db, [*zip(keys, values, strict=True)]))
    except (ValueError, EOFError) as error:
        return found, str(error)
    return found, ""


def test_a_copy_is_unpacked_in_its_order() -> None:
    assert taken(b"".join(parts())) == (PIECES, "")


def test_no_bit_that_was_changed_is_unpacked_nor_what_follows() -> None:
    whole = b"".join(parts())
    ends = [sum(map(len, parts()[: count + 1])) for count in range(len(PIECES))]
    for at in range(len(whole)):
        found, why = taken(whole[:at] + bytes((whole[at] ^ 16,)) + whole[at + 1 :])
        assert why, at
        assert found == PIECES[: sum(end <= at for end in ends)], at


def test_a_copy_that_is_cut_anywhere_has_no_end() -> None:
    whole = b"".join(parts())
    for at in range(len(whole)):
        assert taken(whole[:at])[1] == "cut", at


@pytest.mark.parametrize(
    ("whole", "change"),
    [
        (1, lambda items: items.insert(1, items[0])),  # twice
        (2, lambda items: items.insert(2, items.pop(3))),  # in another order
        (2, lambda items: items.pop(2)),  # left out
        (3, lambda items: items.pop(3)),  # left out before the end
        (1, lambda items: items.insert(1, items.pop())),  # an early end
        (2, lambda items: items.insert(2, SIZE.pack(0) + items[1][-DIGEST:])),  # an end of others' digest
        (0, lambda items: items.__setitem__(slice(None), parts(TEXT + b" "))),  # of another head
    ],
)
def test_pieces_are_taken_in_their_order_each_once_and_all(whole: int, change: Callable[[list[bytes]], object]) -> None:
    items = parts()
    change(items)
    found, why = taken(b"".join(items))
    assert why == "a digest does not hold"
    assert found == PIECES[:whole]


def test_a_piece_that_is_too_large_is_not_waited_for() -> None:
    found, why = taken(SIZE.pack(MOST_OF_A_PIECE + 1))
    assert not found
    assert why.startswith("a piece of ")
