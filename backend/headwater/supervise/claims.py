"""The claims of an instance before it starts: its state directory, its addresses.

Raises StartFailed when another instance has them, SettingsError when no instance can.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Final

from headwater.settings.address import Address
from headwater.settings.error import SettingsError

_BACKLOG: Final = 128


class StartFailed(RuntimeError):  # noqa: N818 (what happened)
    """The reason why this instance cannot start, in one line."""


def take_state_dir(folder: Path) -> IO[str]:
    """The lock on a state directory, held while the file is open: one instance each."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a+")
    except OSError as error:
        raise SettingsError("--state-dir", f"{folder}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        owner = lock.read().strip()
        lock.close()
        raise StartFailed(
            f"--state-dir: {folder} is in use by another headwater (process {owner or 'unknown'})"
        ) from None
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
    return lock


def listen(addresses: Sequence[Address]) -> list[socket.socket]:
    """Sockets that listen at these addresses: all of them, or none."""
    taken: list[socket.socket] = []
    try:
        for address in addresses:
            if address.path is None:
                taken.append(bind(address, socket.SOCK_STREAM, "--listen"))
            else:
                taken.append(_bind_path(Path(address.path)))
    except (StartFailed, SettingsError):
        for bound in taken:
            if bound.family == socket.AF_UNIX:
                Path(bound.getsockname()).unlink(missing_ok=True)
            bound.close()
        raise
    return taken


def _bind_path(path: Path) -> socket.socket:
    _claim_path(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(str(path))
        # CoreDNS may run as another user; the directory's permissions decide who may connect.
        path.chmod(0o666)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise StartFailed(f"--listen: {path}: {error.strerror}") from None
    return bound


def claim(addresses: Iterable[Address]) -> None:
    """Check that nobody serves at these addresses. Under grpcio an answer process binds its own."""
    for address in addresses:
        if address.path is None:
            bind(address, socket.SOCK_STREAM, "--listen").close()
        else:
            _claim_path(Path(address.path))


def _claim_path(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect(str(path))
    except (BlockingIOError, TimeoutError):
        raise StartFailed(f"--listen: another process serves at unix:{path}, or should") from None
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        if not path.is_socket():
            raise SettingsError("--listen", f"{path} is there and is not a socket") from None
        path.unlink(missing_ok=True)  # left over by a process that was killed
    except OSError as error:
        raise SettingsError("--listen", f"{path}: {error.strerror}") from None
    else:
        raise StartFailed(f"--listen: another process serves at unix:{path}")


def bind(address: Address, kind: socket.SocketKind, flag: str) -> socket.socket:
    """A bound socket, listening if it is a stream socket. An error names `flag`."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    bound = socket.socket(family, kind)
    try:
        if kind == socket.SOCK_STREAM:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address.host, address.port))
        if kind == socket.SOCK_STREAM:
            bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise StartFailed(f"{flag}: {address}: {error.strerror}") from None
    return bound


def bind_dns(address: Address) -> tuple[socket.socket, socket.socket]:
    """UDP and TCP at the same address, for the development listener."""
    udp = bind(address, socket.SOCK_DGRAM, "--dns")
    return udp, bind(address, socket.SOCK_STREAM, "--dns")
