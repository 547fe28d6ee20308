"""A store's entries on their way to another instance: what is copied, and its bytes.

    pieces    u32 size, then a piece of that size: MessagePack, [sub-database, [key, value, …]]
              in the order of the sub-databases and of their keys; then its digest
    the end   u32 0, then its digest

A digest is the SHA-256 of the digest before and of what is between the two; the first one follows
that of the head's bytes. So each covers all that came, in its order, and is verified before the
piece is unpacked.

The head comes before, in a header of HTTP. No LMDB file is sent: a file is mapped into memory,
where one that was made to do harm kills the process that opens it. Entries are put into a store of
the receiver's own. All integers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
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
#: Bytes of a digest.
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


def newest(versions: Iterable[str]) -> int:
    """The highest of these resourceVersions, as `Head.version` has it."""
    numbers = (int(text) for text in versions if text.isascii() and text.isdigit() and len(text) < 19)
    return max(numbers, default=0)


def encode_head(head: Head) -> bytes:
    """The head as printable ASCII, as a header's value has to be."""
    text = msgspec.json.encode(head).decode()
    return "".join(char if " " <= char <= "~" else "?" for char in text).encode()


def decode_head(data: bytes) -> Head:
    """Raises msgspec.MsgspecError."""
    return _head.decode(data)


#: A sub-database, its next keys, and their values.
Unpacked = tuple[str, list[bytes], list[bytes]]


class Chain:
    """The pieces of a copy, as they are sent."""

    def __init__(self, head: bytes) -> None:
        self._digest = sha256(head).digest()

    def piece(self, db: str, entries: list[object]) -> bytes:
        """The next piece, with its size and digest; `entries` are keys and values in turn."""
        body = msgspec.msgpack.encode((db, entries))
        return self._signed(SIZE.pack(len(body)) + body)

    def end(self) -> bytes:
        return self._signed(SIZE.pack(0))

    def _signed(self, data: bytes) -> bytes:
        self._digest = _digest(self._digest, data)
        return data + self._digest


def unpacked(head: bytes, read: Callable[[int], bytes]) -> Iterator[Unpacked]:
    """The pieces of a copy, until its end. `read` gives the next bytes.

    Raises ValueError for what is no copy (msgspec's errors are some), and what `read` raises.
    """
    digest = sha256(head).digest()
    while True:
        start = read(SIZE.size)
        (size,) = SIZE.unpack(start)
        if size > MOST_OF_A_PIECE:
            raise ValueError(f"a piece of {size:,} bytes")
        body = read(size)
        digest = _digest(digest, start, body)
        if read(DIGEST) != digest:
            raise ValueError("a digest does not hold")
        if not size:
            return
        yield _decoded(body)


def _digest(before: bytes, *parts: bytes) -> bytes:
    digest = sha256(before)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _decoded(data: bytes) -> Unpacked:
    db, flat = _piece.decode(data)
    if db not in SENT or len(flat) % 2:
        raise ValueError("it is no piece of a store")
    return db, flat[::2], flat[1::2]
