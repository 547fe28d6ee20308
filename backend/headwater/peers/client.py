"""Take a store from another instance, piece by piece as it comes.

Everything that comes is bounded in bytes and seconds. Nothing is unpacked before its digest holds
(`store.copied`), and nothing is put into a store by this module. What was put is of no use before
`Copy.pieces` has come to its end.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from headwater.peers.credentials import Credentials, bearer
from headwater.peers.outcome import HEAD, PATH, WHO, WHY, Taken
from headwater.settings.address import Address
from headwater.settings.error import SettingsError
from headwater.store.copied import Head, Unpacked, decode_head, unpacked
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
    """A copy under way."""

    peer: Address
    head: Head
    pieces: Iterator[Unpacked]
    """In the order in which they are put. Raises NoCopy; the copy holds only when it has come to
    its end."""
    asked: float
    """When it was asked for, by time.monotonic; the head's age is of then, or later."""


@contextlib.contextmanager
def taken(
    peer: Address,
    credentials: Credentials,
    source: str,
    who: str,
    folder: Path,
    most_age: float,
    limits: Limits = USUAL,
) -> Iterator[Copy]:
    """Ask one peer for its store; its connection lasts as long as the block.

    `source` is the fingerprint that it must have, `who` this instance. The store will be in
    `folder`. `most_age` is in seconds, 0 for any. Raises NoCopy.
    """
    asked = time.monotonic()
    with contextlib.ExitStack() as stack:
        with _failures():
            end = stack.enter_context(contextlib.closing(_connect(peer, credentials, limits)))
            with _until(limits.head, end):
                response, text = _ask(end, peer, credentials, who)
            stack.enter_context(contextlib.closing(response))
            head = _judged(text, source, most_age)
            most = min(limits.bytes, _room(folder))
            if head.bytes > most:
                raise NoCopy(Taken.TOO_LARGE, f"its store has {head.bytes:,} bytes; {most:,} would be taken")
        incoming = _Incoming(response, end, asked, most, limits)
        pieces = stack.enter_context(contextlib.closing(_pieces(text, incoming, end, limits)))
        yield Copy(peer, head, pieces, asked)


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Raises NoCopy for what happens to the connection."""
    import http.client  # 1 MiB, only for who takes a copy

    try:
        yield
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
    """Bytes that a copy may have: something has to be left for what comes later."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize * 4 // 5


def _pieces(text: bytes, incoming: _Incoming, end: socket.socket, limits: Limits) -> Generator[Unpacked]:
    """Raises NoCopy."""
    with _failures(), _until(limits.whole, end):
        try:
            yield from unpacked(text, incoming.read)
        except ValueError as error:
            raise NoCopy(Taken.DAMAGED, f"it sends what is no copy of a store: {error}") from None


class _Incoming:
    """The bytes of a copy."""

    def __init__(
        self, response: http.client.HTTPResponse, end: socket.socket, asked: float, most: int, limits: Limits
    ) -> None:
        self._response = response
        self._end = end
        self._asked = asked
        self._most = most
        self._limits = limits
        self._size = 0

    def read(self, count: int) -> bytes:
        """The next bytes, all of them. Raises NoCopy, OSError, HTTPException."""
        limits = self._limits
        if self._size + count > self._most:
            raise NoCopy(Taken.TOO_LARGE, f"more than {self._most:,} bytes come")
        parts: list[bytes] = []
        while count:
            now = time.monotonic() - self._asked
            if now > limits.whole or (now > limits.silence and self._size < (now - limits.silence) * limits.rate):
                raise NoCopy(Taken.SLOW, f"it is too slow: {self._size:,} bytes in {now:.1f} s")
            self._end.settimeout(max(0.01, min(limits.silence, limits.whole - now)))
            data = self._response.read1(min(count, _READ))
            if not data:
                raise NoCopy(Taken.CUT, f"the connection broke off after {self._size:,} bytes")
            self._size += len(data)
            count -= len(data)
            parts.append(data)
        return b"".join(parts)
