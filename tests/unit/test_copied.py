"""A copy's head, between a sender and a receiver of different versions."""

from __future__ import annotations

import msgspec
from headwater.store.copied import Head, decode_head, encode_head

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
