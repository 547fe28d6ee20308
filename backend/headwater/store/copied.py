"""A store's entries on their way to another instance: what is copied, and its bytes.

    pieces    u32 size, then a piece of that size: MessagePack, [sub-database, [key, value, …]]
              in the order of the sub-databases and of their keys
    the end   u32 0, then the SHA-256 digest of the head's bytes and of all bytes so far

The head comes before, in a header of HTTP. No LMDB file is sent: a file is mapped into memory,
where one that was made to do harm kills the process that opens it. Entries are put into a store of
the receiver's own. All integers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import Struct

#: The sub-databases in the order in which they are sent. Not the staging area, which belongs to a
#: list under way, and not the history, which tells what this instance's clients were answered.
SENT: Final = ("meta", "objects", "slices", "pods", "hosts", "faulty", "decisions", "addresses", "records")

#: Keys of `meta` that say something of the objects and the records. All others say something of the
#: instance, and are made anew: when the machine started, when the source was heard.
_META: Final = frozenset((b"ready", b"shape", b"serial", b"counts", b"host"))
#: Before the name of a resource; the value is the version up to which it was read.
VERSION: Final = b"version/"
#: Before the name of a resource; the value says that a list of it has begun, or is due.
LIST: Final = b"list/"
#: Before the key of an object that was removed before its turn; the value is the removal's version.
GONE: Final = b"gone/"
#: Before namespace/name/ of a Service whose endpoints take their pods' own weights: an index.
FROM_PODS: Final = b"from-pods/"
_META_PREFIXES: Final = (VERSION, LIST, GONE, FROM_PODS)

SIZE: Final = struct.Struct(">I")
#: About how many bytes of entries make a piece; one entry may be larger.
PIECE: Final = 512 << 10
#: The most bytes of a piece that is taken: one entry with the most addresses takes some 10 MiB.
MOST_OF_A_PIECE: Final = 64 << 20
#: Bytes of the digest.
DIGEST: Final = 32


class Head(Struct, frozen=True):
    """What is known of a copy before its first entry."""

    format: str
    source: str
    """As `Identity.source`."""
    uid: str
    """Of the cluster, as in `Origin`."""
    address: str
    age: float
    """Seconds since the API server was last heard."""
    version: int
    """The highest resourceVersion up to which a resource was read, as a number; 0 for none."""
    checksum: int
    """Of the sub-databases that the store's checksum covers."""
    bytes: int
    """About how many bytes will come."""
    headwater: str
    """The sender's version, for people."""
    versions: dict[str, str] = {}
    """Up to which resourceVersion each resource was read; empty from a sender of an older version.
    They are in `meta` too, and count only as far as they are the same there."""


_head: Final = msgspec.json.Decoder(Head)
_piece: Final = msgspec.msgpack.Decoder(tuple[str, list[bytes]])


def is_copied(key: bytes) -> bool:
    """Whether an entry of `meta` is."""
    return key in _META or key.startswith(_META_PREFIXES)


def encode_head(head: Head) -> bytes:
    """The head as printable ASCII, as a header's value has to be."""
    text = msgspec.json.encode(head).decode()
    return "".join(char if " " <= char <= "~" else "?" for char in text).encode()


def decode_head(data: bytes) -> Head:
    """Raises msgspec.MsgspecError."""
    return _head.decode(data)


def encode_piece(db: str, entries: list[object]) -> bytes:
    """A piece with its size; `entries` are keys and values in turn."""
    body = msgspec.msgpack.encode((db, entries))
    return SIZE.pack(len(body)) + body


def decode_piece(data: bytes) -> tuple[str, list[tuple[bytes, bytes]]]:
    """(sub-database, its next entries). Raises msgspec.MsgspecError or ValueError."""
    db, flat = _piece.decode(data)
    if db not in SENT or len(flat) % 2:
        raise ValueError("it is no piece of a store")
    pairs: Iterator[bytes] = iter(flat)
    return db, list(zip(pairs, pairs, strict=True))
