"""The peer process: it serves the store to other instances at their start.

One copy at a time, from one moment of the store, at low priority, and a large one not faster than
`_RATE`. Each connection has a thread, one request and a deadline; there are few of them. Who has no
credential is not read further than the head of his request, or, where certificates are asked for,
than TLS.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import setproctitle

from headwater import __version__
from headwater.peers.credentials import Credentials, is_bearer, who
from headwater.peers.outcome import HEAD, PATH, WHO, WHY, Served
from headwater.process import control, log, usage
from headwater.process.counters import PeerSnapshot
from headwater.process.progress import Progress
from headwater.settings.error import SettingsError
from headwater.settings.settings import Settings
from headwater.store.copied import PIECE, SENT, VERSION, Chain, Head, encode_head, newest
from headwater.store.environment import FORMAT, Reader, Snapshot, is_damage
from headwater.store.identity import Identity, Origin, is_condemned

_log = logging.getLogger(__name__)

#: How much the kernel prefers other processes.
_NICE: Final = 10
#: Bytes of a copy that go as fast as they can, and bytes a second from then on.
_AT_ONCE: Final = 32 << 20
_RATE: Final = 96 << 20
#: The most connections; a new one replaces the oldest that has not shown a credential.
_CONNECTIONS: Final = 16
#: Seconds for TLS and a request; for a whole copy, which pins pages of the store; and for a piece
#: of it.
PATIENCE: Final = 5.0
_COPY: Final = 60.0
_SEND: Final = 5.0
#: Seconds that a request waits for the copy under way before it is told to come later.
_QUEUE: Final = 0.3
#: Bytes of a request's head.
_HEAD: Final = 8 << 10
#: How often the process looks for another store, in seconds.
_FOLLOW: Final = 0.25
#: Seconds before the next try to accept when there are no descriptors.
_PAUSE: Final = 1.0
#: Log lines a minute of each sort that strangers can cause.
_LINES: Final = 5

_STATUS: Final = {Served.BUSY: 503, Served.NOT_READY: 503, Served.ITSELF: 409, Served.REFUSED: 403}


class _Cut(Exception):  # noqa: N818 (what happened)
    """The copy ends before its end."""


class _Connection:
    """An open connection."""

    def __init__(self, end: socket.socket, deadline: float) -> None:
        self.end = end
        self.deadline = deadline
        self.known = False
        """Whether it has shown a credential."""

    def cut(self) -> None:
        """Wake its thread, whatever it waits for."""
        with contextlib.suppress(OSError):
            # Not SSLSocket's shutdown, after which a thread that still sends sends in the clear.
            socket.socket.shutdown(self.end, socket.SHUT_RDWR)


class PeerServer:
    """The store, for other instances. `serve` is the main loop."""

    def __init__(
        self,
        settings: Settings,
        reader: Reader,
        listening: socket.socket,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._reader = reader
        self._listening = listening
        self._clock = clock
        self._credentials = Credentials.of(settings)
        self._loaded: tuple[tuple[tuple[int, int, int], ...], ssl.SSLContext | None] | None = None
        self._who = who(Path(settings.state_dir))
        self._open: dict[_Connection, None] = {}
        self._copying = threading.Lock()
        """Held while a copy reads the store. Meanwhile the reader keeps the store that it has."""
        self._accept_at = 0.0
        self._counting = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._bytes = 0

    def snapshot(self) -> PeerSnapshot:
        """The counters, for the supervisor."""
        return PeerSnapshot(
            {str(name): count for name, count in self._counts.items()}, self._bytes, usage.cpu(), usage.memory()
        )

    def serve(self, stopping: threading.Event, progress: Progress) -> None:
        """Accept until told to stop; then cut what is under way."""
        self._listening.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._listening, selectors.EVENT_READ)
            while not stopping.is_set():
                progress.step()
                self._follow()
                now = self._clock()
                for connection in list(self._open):
                    if now > connection.deadline:
                        connection.cut()
                if now < self._accept_at:
                    stopping.wait(_FOLLOW)
                elif selector.select(_FOLLOW):
                    self._accept(now)
        for connection in list(self._open):
            connection.cut()

    def _follow(self) -> None:
        if self._copying.acquire(blocking=False):
            try:
                self._reader.follow()
            finally:
                self._copying.release()

    def _accept(self, now: float) -> None:
        try:
            end, _ = self._listening.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return
        except OSError as error:
            _log.warning("no connection can be accepted: %s", error.strerror)
            self._accept_at = now + _PAUSE
            return
        if len(self._open) >= _CONNECTIONS:
            stranger = next((item for item in list(self._open) if not item.known), None)
            if stranger is None:
                end.close()
                return
            stranger.cut()
            self._open.pop(stranger, None)
        connection = _Connection(end, now + PATIENCE)
        self._open[connection] = None
        threading.Thread(target=self._handle, args=(connection,), name="peer", daemon=True).start()

    def _handle(self, connection: _Connection) -> None:
        end = connection.end
        try:
            end.settimeout(PATIENCE)
            context = self._tls()
            if context is not None:
                # Its descriptor moves into the new socket, also when the handshake fails.
                end = connection.end = context.wrap_socket(end, server_side=True, do_handshake_on_connect=False)
                end.do_handshake()
            outcome = self._answer(connection)
        except (OSError, SettingsError, ValueError) as error:
            outcome = Served.REFUSED
            _log.info("a peer was not served: %s", getattr(error, "strerror", None) or error)
        except Exception as error:  # noqa: BLE001 (a bug met by one peer is not the others')
            outcome = Served.CUT
            _log.error("a peer was not served: %r", error)
        finally:
            self._open.pop(connection, None)
            with contextlib.suppress(OSError):
                end.close()
        with self._counting:
            self._counts[outcome] += 1

    def _tls(self) -> ssl.SSLContext | None:
        """The certificates as they are now; those before while they cannot be read."""
        try:
            version = self._credentials.version()
            if self._loaded is None or self._loaded[0] != version:
                self._loaded = version, self._credentials.server()
        except (OSError, SettingsError) as error:
            if self._loaded is None:
                raise
            _log.warning("the certificates from before are used on: %s", error)
        return self._loaded[1]

    # A request

    def _answer(self, connection: _Connection) -> Served:
        end = connection.end
        line, headers = _read_head(end)
        if not self._is_known(end, headers):
            return self._refuse(end, Served.REFUSED, "no credential", 401)
        connection.known = True
        if line != f"GET {PATH} HTTP/1.1":
            return self._refuse(end, Served.REFUSED, f"this is {PATH}", 404)
        if headers.get(WHO.lower()) == self._who:
            return self._refuse(end, Served.ITSELF, "this is the same instance")
        if not self._copying.acquire(timeout=_QUEUE):
            return self._refuse(end, Served.BUSY, "another copy is under way")
        try:
            return self._copy(connection)
        finally:
            self._copying.release()

    def _is_known(self, end: socket.socket, headers: Mapping[str, str]) -> bool:
        credentials = self._credentials
        if credentials.ca is None and credentials.token is None:
            return True  # on loopback alone, see `settings.validate`
        if credentials.ca is not None and isinstance(end, ssl.SSLSocket) and end.getpeercert():
            return True  # TLS has verified it
        token = credentials.secret()
        return token is not None and is_bearer(headers.get("authorization", ""), token)

    def _refuse(self, end: socket.socket, outcome: Served, why: str, status: int = 0) -> Served:
        status = status or _STATUS[outcome]
        head = f"HTTP/1.1 {status} {outcome}\r\n{WHY}: {outcome}\r\nContent-Length: {len(why) + 1}\r\n"
        end.sendall(f"{head}Connection: close\r\n\r\n{why}\n".encode())
        return outcome

    def _copy(self, connection: _Connection) -> Served:
        end = connection.end
        snapshot = self._reader.begin(copies=True)
        if snapshot is None:
            return self._refuse(end, Served.NOT_READY, "there is no store")
        try:
            head = self._head(snapshot)
            if head is None:
                return self._refuse(end, Served.NOT_READY, "the store is not ready")
            connection.deadline = self._clock() + _COPY
            end.settimeout(_SEND)
            self._send(end, head, snapshot)
        except (OSError, _Cut) as error:
            _log.warning("a copy for another instance broke off: %s", error)
            return Served.CUT
        finally:
            snapshot.close()
        return Served.SENT

    def _head(self, snapshot: Snapshot) -> Head | None:
        """None when the store is not to be given away."""
        folder, heard = self._reader.folder, snapshot.heard()
        if folder is None or is_condemned(folder) or heard is None or not self._reader.is_ready(snapshot):
            return None
        origin = Origin.read(folder)
        if origin is None:
            return None
        found = snapshot.scan("meta", VERSION)
        versions = {key.removeprefix(VERSION).decode(): value.decode() for key, value in found if value}
        return Head(
            format=FORMAT.decode(),
            source=self._reader.identity.source,
            uid=origin.uid,
            address=origin.address,
            age=round(max(0.0, self._clock() - heard[0]), 3),
            version=newest(versions.values()),
            checksum=snapshot.checksum(),
            bytes=sum(snapshot.bytes_of(db) for db in SENT),
            headwater=__version__,
            versions=versions,
        )

    def _send(self, end: socket.socket, head: Head, snapshot: Snapshot) -> None:
        """Raises OSError or _Cut."""
        text = encode_head(head)
        chain = Chain(text)
        lines = ("HTTP/1.1 200 OK", f"{HEAD}: {text.decode()}", "Content-Type: application/octet-stream")
        end.sendall("\r\n".join((*lines, "Connection: close", "", "")).encode())
        began, sent = self._clock(), 0
        for db in SENT:
            pieces = snapshot.pieces(db, PIECE)
            while True:
                try:
                    entries = next(pieces, None)
                except Exception as error:
                    if is_damage(error):
                        raise _Cut(f"a page of the store cannot be read: {error}") from None
                    raise
                if entries is None:
                    break
                piece = chain.piece(db, entries)
                end.sendall(piece)
                sent += len(piece)
                self._bytes += len(piece)
                time.sleep(max(0.0, began + (sent - _AT_ONCE) / _RATE - self._clock()))
        end.sendall(chain.end())
        _log.info("a copy of the store for another instance: %s bytes, %.1f s", f"{sent:,}", self._clock() - began)


def _read_head(end: socket.socket) -> tuple[str, dict[str, str]]:
    """The request line and the headers, in lower case. Raises OSError or ValueError."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = end.recv(_HEAD - len(data)) if len(data) < _HEAD else b""
        if not more:
            raise ValueError("it is no request")
        data += more
    line, *lines = data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    fields = (item.partition(":") for item in lines)
    return line, {name.strip().lower(): value.strip() for name, _, value in fields}


def run(settings: Settings, identity: Identity, listening: socket.socket, end: socket.socket) -> None:
    """The process's main function; `end` is its end of the link to the supervisor."""
    setproctitle.setproctitle("headwater: peer")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    log.configure("peer", settings.log_level, settings.log_format)
    _log.addFilter(log.Seldom(_LINES))
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    progress = Progress()
    link = control.Link(end)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    server = PeerServer(settings, Reader(Path(settings.state_dir), identity), listening)
    link.attend(progress, {control.Snapshot: lambda _, reply: reply(server.snapshot())})
    link.tell(control.Started())
    try:
        server.serve(stopping, progress)
    except OSError as error:
        _log.error("%s", error)
        link.tell(control.Ending(str(error)))
        sys.exit(1)
