"""Take a store from another instance: into a file without a name, verified before it is read.

Everything that comes is bounded in bytes and seconds. Nothing is unpacked before the digest holds,
and nothing is put into a store by this module: `unpacked` yields what is to be put.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import msgspec

from headwater.peers.credentials import Credentials, bearer
from headwater.peers.outcome import HEAD, PATH, WHO, WHY, Taken
from headwater.settings.address import Address
from headwater.settings.error import SettingsError
from headwater.store.copied import DIGEST, MOST_OF_A_PIECE, SIZE, Head, decode_head, decode_piece
from headwater.store.environment import FORMAT

if TYPE_CHECKING:
    import http.client


@dataclass(frozen=True, slots=True)
class Limits:
    """What a copy may take."""

    connect: float = 1.0
    """Seconds for a connection."""
    head: float = 3.0
    """Seconds from there to the first bytes of the copy."""
    silence: float = 2.0
    """Seconds without a byte."""
    whole: float = 20.0
    """Seconds from the connection to the last byte."""
    rate: int = 1 << 20
    """Bytes a second that come on the average, after `silence`."""
    bytes: int = 1 << 30


USUAL: Final = Limits()
_READ: Final = 1 << 18
_OF_WHY: Final = {str(item): item for item in (Taken.BUSY, Taken.NOT_READY, Taken.ITSELF)}


class NoCopy(Exception):  # noqa: N818 (what happened)
    """Why there is no store from there."""

    def __init__(self, outcome: Taken, text: str) -> None:
        super().__init__(text)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy whose digest holds. Close `file`."""

    peer: Address
    head: Head
    file: IO[bytes]
    asked: float
    """When it was asked for, by time.monotonic; the head's age is of then, or later."""


def take(
    peer: Address,
    credentials: Credentials,
    source: str,
    who: str,
    folder: Path,
    most_age: float,
    limits: Limits = USUAL,
    began: Callable[[Head], None] = lambda _: None,
) -> Copy:
    """Ask one peer for its store.

    `source` is the fingerprint that it must have, `who` this instance. The file is in `folder`.
    `most_age` is in seconds, 0 for any. `began` is called with the head. Raises NoCopy.
    """
    import http.client  # 1 MiB, only for who takes a copy

    asked = time.monotonic()
    try:
        with contextlib.closing(_connect(peer, credentials, limits)) as end:
            with _until(limits.head, end):
                response, text = _ask(end, peer, credentials, who)
            with contextlib.closing(response):
                head = _judged(text, source, most_age)
                began(head)
                most = min(limits.bytes, _room(folder))
                if head.bytes > most:
                    raise NoCopy(Taken.TOO_LARGE, f"its store has {head.bytes:,} bytes; {most:,} would be taken")
                file = _file(folder)
                try:
                    with _until(limits.whole, end):
                        _receive(response, end, file, text, asked, most, limits)
                except BaseException:
                    file.close()
                    raise
                return Copy(peer, head, file, asked)
    except TimeoutError:
        raise NoCopy(Taken.SLOW, "it is too slow") from None
    except (OSError, http.client.HTTPException) as error:
        raise NoCopy(Taken.CUT, f"the connection broke off: {error or type(error).__name__}") from None


def _connect(peer: Address, credentials: Credentials, limits: Limits) -> socket.socket:
    try:
        end = socket.create_connection((peer.host, peer.port), limits.connect)
    except OSError as error:
        raise NoCopy(Taken.NO_PEER, f"nobody is there: {error.strerror or error}") from None
    try:
        context = credentials.client()
        end.settimeout(limits.silence)
        return end if context is None else context.wrap_socket(end)
    except BaseException as error:
        end.close()
        if isinstance(error, SettingsError):
            raise NoCopy(Taken.REFUSED, str(error)) from None
        if isinstance(error, ssl.SSLError) and not isinstance(error, TimeoutError):
            raise NoCopy(Taken.REFUSED, f"TLS: {error.reason or error}") from None
        raise


@contextlib.contextmanager
def _until(seconds: float, end: socket.socket) -> Iterator[None]:
    """Cut the connection after that time: a read's own limit is no limit for what drips."""
    import http.client

    late = threading.Event()

    def cut() -> None:
        late.set()
        with contextlib.suppress(OSError):
            socket.socket.shutdown(end, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException, NoCopy):
        if late.is_set():
            raise TimeoutError from None
        raise
    else:
        if late.is_set():  # what was cut in the middle of a header looks whole
            raise TimeoutError
    finally:
        timer.cancel()


def _ask(
    end: socket.socket, peer: Address, credentials: Credentials, who: str
) -> tuple[http.client.HTTPResponse, bytes]:
    """The response, and the head as it came. Raises NoCopy, OSError, HTTPException."""
    import http.client

    try:
        token = credentials.secret()
    except SettingsError as error:
        raise NoCopy(Taken.REFUSED, str(error)) from None
    connection = http.client.HTTPConnection(peer.host, peer.port)
    connection.sock = end
    connection.request("GET", PATH, headers={WHO: who} | ({"Authorization": bearer(token)} if token else {}))
    try:
        response = connection.getresponse()
    except ssl.SSLError as error:
        if isinstance(error, TimeoutError):
            raise
        # With TLS 1.3 a certificate that is refused shows only now.
        raise NoCopy(Taken.REFUSED, f"TLS: {error.reason or error}") from None
    if response.status == 200:
        return response, response.headers.get(HEAD, "").encode()
    response.close()
    why = response.headers.get(WHY, "")
    outcome = _OF_WHY.get(why, Taken.REFUSED if response.status in (401, 403) else Taken.UNKNOWN)
    raise NoCopy(outcome, f"it says {response.status} {why or response.reason}"[:200])


def _judged(text: bytes, source: str, most_age: float) -> Head:
    """The head, if the copy can be of use. Raises NoCopy."""
    try:
        head = decode_head(text)
    except msgspec.MsgspecError:
        raise NoCopy(Taken.UNKNOWN, "it sends what is no copy of a store") from None
    if head.format != FORMAT.decode():
        raise NoCopy(Taken.FORMAT, f"its store has another format, of headwater {head.headwater[:40]}")
    if head.source != source:
        raise NoCopy(Taken.SOURCE, "it has other --labels or --namespace-labels")
    if not head.age >= 0 or head.version < 0 or head.bytes < 0:
        raise NoCopy(Taken.UNKNOWN, "it sends what is no copy of a store")
    if most_age and head.age > most_age:
        raise NoCopy(Taken.STALE, f"it has not heard the API server for {head.age:.1f} s, longer than --max-staleness")
    return head


def _room(folder: Path) -> int:
    """Bytes that a copy may have: it is stored twice for a moment."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize * 2 // 5


def _file(folder: Path) -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(dir=folder)
    except OSError as error:
        raise NoCopy(Taken.DISK, f"{folder}: {error.strerror}") from None


def _receive(
    response: http.client.HTTPResponse, end: socket.socket, file: IO[bytes], text: bytes, began: float, most: int,
    limits: Limits,
) -> None:  # fmt: skip
    """Write the copy to the file, without its digest. Raises NoCopy, OSError, HTTPException."""
    digest = sha256(text)
    rest, size = b"", 0
    while True:
        now = time.monotonic() - began
        if now > limits.whole or (now > limits.silence and size < (now - limits.silence) * limits.rate):
            raise NoCopy(Taken.SLOW, f"it is too slow: {size:,} bytes in {now:.1f} s")
        end.settimeout(max(0.01, min(limits.silence, limits.whole - now)))
        data = response.read1(_READ)
        if not data:
            break
        size += len(data)
        if size > most:
            raise NoCopy(Taken.TOO_LARGE, f"more than {most:,} bytes come")
        data = rest + data
        whole, rest = data[:-DIGEST], data[-DIGEST:]
        digest.update(whole)
        try:
            file.write(whole)
        except OSError as error:
            raise NoCopy(Taken.DISK, f"the copy cannot be written: {error.strerror}") from None
    if size < SIZE.size + DIGEST:
        raise NoCopy(Taken.CUT, f"the connection broke off after {size:,} bytes")
    if rest != digest.digest():
        raise NoCopy(Taken.DAMAGED, f"it broke off, or its digest does not hold ({size:,} bytes)")
    try:
        file.flush()
        file.seek(0)
    except OSError as error:
        raise NoCopy(Taken.DISK, f"the copy cannot be written: {error.strerror}") from None


def unpacked(copy: Copy) -> Iterator[tuple[str, list[tuple[bytes, bytes]]]]:
    """(sub-database, its next entries) of a copy, in the order in which they are put.

    Raises NoCopy for what is no copy, although its digest holds.
    """
    file = copy.file
    try:
        while True:
            (size,) = SIZE.unpack(file.read(SIZE.size))
            if not size:
                return
            if size > MOST_OF_A_PIECE:
                raise NoCopy(Taken.DAMAGED, f"it has a piece of {size:,} bytes")
            yield decode_piece(file.read(size))
    except (msgspec.MsgspecError, ValueError, struct.error, OSError) as error:
        raise NoCopy(Taken.DAMAGED, f"it sends what is no copy of a store: {error}") from None
