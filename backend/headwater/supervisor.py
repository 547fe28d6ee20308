"""Processes, sockets, signals: `headwater serve` itself.

It binds, starts, restarts and stops; it never reads the cluster and answers no
query. Its children come from multiprocessing's forkserver, which has imported
the serving modules and is single-threaded: its forks are safe, and they share
its pages. The supervisor itself is never forked.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, Final

import setproctitle
import yaml

from headwater import control, metrics, roles
from headwater.admin import server as admin
from headwater.admin.collector import ProcessView
from headwater.metrics import AnswerSnapshot, WatchSnapshot
from headwater.settings import Address, Settings, SettingsError
from headwater.store.identity import Identity, discard

_log = logging.getLogger(__name__)

#: Back-off between restarts of a process that does not stay up, in seconds.
_BACKOFF: Final = (0.02, 10.0)
#: A process that lived this long, in seconds, is restarted at once.
_STABLE: Final = 5.0
#: How long the children may take to drain; then they are killed.
_DRAIN: Final = 5.0
#: How often counters are fetched, in seconds, so that a killed process takes little with it.
_POLL: Final = 1.0
#: How long a process may take to answer the supervisor, in seconds.
_PATIENCE: Final = 1.0
#: What a process dies of that read a damaged page.
_CRASHES: Final = frozenset({-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT})
_PRELOAD: Final = ["headwater.serve.worker", "headwater.cluster.watcher"]


class StartFailed(RuntimeError):  # noqa: N818 (what happened)
    """What keeps this instance from starting, in one line."""


def source_of(settings: Settings) -> str:
    """Which cluster, or which files: 16 hex digits. Raises SettingsError.

    The server's URL and its CA, read without the `kubernetes` package: this
    process would pay 24 MiB for it.
    """
    if settings.manifests:
        parts = ["files", *sorted(str(Path(path).absolute()) for path in settings.manifests)]
    elif settings.kubeconfig is None:
        ca = Path("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
        host = os.environ.get("KUBERNETES_SERVICE_HOST", "")
        if not host:
            raise SettingsError("--kubeconfig", "needed outside a cluster (or --manifests to serve files)")
        parts = ["cluster", host, os.environ.get("KUBERNETES_SERVICE_PORT", ""), ca.read_text() if ca.exists() else ""]
    else:
        parts = ["kubeconfig", *_cluster_of(settings.kubeconfig, settings.context)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _cluster_of(kubeconfig: str, context: str | None) -> list[str]:
    """Server and CA of a kubeconfig's context."""
    try:
        config = yaml.safe_load(Path(kubeconfig).read_bytes())
        wanted = context or config["current-context"]
        entry = _named(config["contexts"], wanted, "context")["context"]
        cluster = _named(config["clusters"], entry["cluster"], "cluster")["cluster"]
        authority = cluster.get("certificate-authority")
        # Relative to the kubeconfig, as kubectl takes it.
        data = (Path(kubeconfig).parent / authority).read_text() if authority else ""
        return [cluster["server"], cluster.get("certificate-authority-data", data)]
    except OSError as error:
        raise SettingsError("--kubeconfig", f"{error.filename}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise SettingsError("--kubeconfig", f"{kubeconfig} is not valid YAML: {str(error).splitlines()[0]}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise SettingsError("--kubeconfig", f"{kubeconfig} is not a kubeconfig: no {error}") from None
    except LookupError as error:
        raise SettingsError("--context" if context else "--kubeconfig", f"{kubeconfig}: {error}") from None


def _named(items: list[dict[str, Any]], name: str, what: str) -> dict[str, Any]:
    for item in items:
        if item["name"] == name:
            return item
    raise IndexError(f"there is no {what} {name!r}")


@contextlib.contextmanager
def _unseen_main() -> Iterator[None]:
    """Keep children from importing the program's main module: they need none of it."""
    main = sys.modules["__main__"]
    kept = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    try:
        main.__spec__ = None
        main.__dict__.pop("__file__", None)
        yield
    finally:
        for name, value in kept.items():
            setattr(main, name, value)


class Role:
    """One child: started, watched, restarted; what it has counted over all its lives."""

    def __init__(self, name: str, start: Callable[[Connection], Any], on_crash: Callable[[], None]) -> None:
        self.name = name
        self.restarts = 0
        self.up = False
        self.exitcode: int | None = None
        self._start = start
        self._on_crash = on_crash
        self._process: Any = None
        self._connection: Connection | None = None
        self._asked: asyncio.Future[bytes] | None = None
        self._snapshot: Any = None
        self._before: Any = None
        self._stopping = False

    def view(self) -> ProcessView:
        """What admin shows: state, and the counters of all lives together."""
        return ProcessView(self.name, self.up, self.restarts, self._snapshot, self._before)

    async def keep_running(self) -> None:
        """Start it, wait until it dies, start it again, until `stop`."""
        delay = 0.0
        while not self._stopping:
            began = time.monotonic()
            code = await self._live()
            self.up = False
            self._bury()
            if code == control.UNUSABLE:
                self.exitcode = code
                return
            if self._is_stopping():
                return
            if code in _CRASHES or code == control.STORE_DAMAGED:
                self._on_crash()
            lived = time.monotonic() - began
            delay = _BACKOFF[0] if lived > _STABLE or not delay else min(delay * 2, _BACKOFF[1])
            _log.warning("%s ended (%s); starting it again in %.2f s", self.name, _how(code), delay)
            await asyncio.sleep(delay)
            self.restarts += 1

    async def _live(self) -> int:
        loop = asyncio.get_running_loop()
        ours, theirs = multiprocessing.Pipe()
        with _unseen_main():
            self._process = await loop.run_in_executor(None, self._start, theirs)
        theirs.close()
        self._connection = ours
        ended = loop.create_future()
        sentinel = self._process.sentinel
        loop.add_reader(sentinel, _settle, ended)
        loop.add_reader(ours.fileno(), self._heard, loop, ours)
        if self._stopping:
            self.signal(signal.SIGTERM)
        try:
            await ended
        finally:
            loop.remove_reader(sentinel)
            loop.remove_reader(ours.fileno())
            ours.close()
            self._connection = None
            if self._asked is not None and not self._asked.done():
                self._asked.set_result(b"")  # it will not answer any more; the next one is asked anew
        self._process.join()
        return int(self._process.exitcode)

    def _heard(self, loop: asyncio.AbstractEventLoop, connection: Connection) -> None:
        try:
            message = connection.recv_bytes()
        except (EOFError, OSError):
            loop.remove_reader(connection.fileno())
            return
        if message == control.STARTED:
            self.up = True
        elif self._asked is not None and not self._asked.done():
            self._asked.set_result(message)

    def _bury(self) -> None:
        if self._snapshot is None:
            return
        if isinstance(self._snapshot, AnswerSnapshot):
            before = self._before or AnswerSnapshot()
            before.add(self._snapshot)
        else:
            before = self._before or WatchSnapshot()
            before.add_counters(self._snapshot)
        self._before, self._snapshot = before, None

    async def refresh(self) -> None:
        """Fetch what it has counted; keep the last when it does not answer."""
        connection = self._connection
        if connection is None or not self.up:
            return
        if self._asked is None or self._asked.done():
            self._asked = asyncio.get_running_loop().create_future()
            try:
                connection.send_bytes(control.SNAPSHOT)
            except OSError:
                return
        asked = self._asked
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                data = await asyncio.shield(asked)
                if self._connection is connection:
                    decode = metrics.decode_watch if self.name == "watch" else metrics.decode_answer
                    self._snapshot = decode(data)

    def _is_stopping(self) -> bool:
        return self._stopping

    def reload(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.send_bytes(control.RELOAD)

    def stop(self) -> None:
        self._stopping = True
        self.signal(signal.SIGTERM)

    def signal(self, number: int) -> None:
        if self._process is not None and self._process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


def _settle(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


def _how(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class Supervisor:
    """One instance: its lock, its sockets, its roles. Raises StartFailed or SettingsError."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.identity = Identity(source_of(settings), settings.records_fingerprint())
        self._kept: list[IO[str] | socket.socket] = []
        self._take_state_dir()
        self._claim_listeners()
        self._dns = self._bind_dns()
        self._admin_socket = self._bind(settings.admin, socket.SOCK_STREAM, "--admin") if settings.admin else None
        # The threads of a list would each keep a heap of their own otherwise (mallopt(3)).
        os.environ.setdefault("MALLOC_ARENA_MAX", "1")
        # Not fork: threads and grpc objects do not survive it. See the module's first lines.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOAD)
        self.roles = [Role("watch", self._start_watch, self._crashed)]
        for index in range(settings.workers):
            self.roles.append(
                Role(f"answer {index}", lambda pipe, index=index: self._start_answer(index, pipe), self._crashed)  # type: ignore[misc]
            )

    # Before anything starts

    def _take_state_dir(self) -> None:
        folder = Path(self.settings.state_dir)
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
            raise StartFailed(
                f"--state-dir: {folder} is in use by another headwater (process {owner or 'unknown'})"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._kept.append(lock)

    def _claim_listeners(self) -> None:
        """See that nobody serves at our addresses. Under grpcio an answer process binds its own."""
        for address in self.settings.listen_addresses():
            if address.path is None:
                self._bind(address, socket.SOCK_STREAM, "--listen").close()
            else:
                self._claim_path(Path(address.path))

    def _claim_path(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)  # left over by a process that was killed
        except OSError as error:
            raise SettingsError("--listen", f"{path}: {error.strerror}") from None
        else:
            raise StartFailed(f"--listen: another process serves at unix:{path}")

    def _bind(self, address: Address, kind: socket.SocketKind, flag: str) -> socket.socket:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        bound = socket.socket(family, kind)
        try:
            if kind == socket.SOCK_STREAM:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((address.host, address.port))
            if kind == socket.SOCK_STREAM:
                bound.listen(128)
        except OSError as error:
            bound.close()
            raise StartFailed(f"{flag}: {address}: {error.strerror}") from None
        return bound

    def _bind_dns(self) -> tuple[socket.socket, socket.socket] | None:
        if self.settings.dns is None:
            return None
        udp = self._bind(self.settings.dns, socket.SOCK_DGRAM, "--dns")
        return udp, self._bind(self.settings.dns, socket.SOCK_STREAM, "--dns")

    # Children

    def _start_watch(self, pipe: Connection) -> Any:
        return self._spawn("headwater: watch", roles.watch, (self.settings, self.identity, pipe))

    def _start_answer(self, index: int, pipe: Connection) -> Any:
        arguments = (index, self.settings, self.identity, pipe, self._dns)
        return self._spawn(f"headwater: answer {index}", roles.answer, arguments)

    def _spawn(self, name: str, target: Callable[..., None], arguments: tuple[Any, ...]) -> Any:
        process = self._context.Process(target=target, args=arguments, name=name, daemon=False)
        process.start()
        return process

    def _crashed(self) -> None:
        """A process died of what a damaged store does: take the store back, the watch makes a new one."""
        _log.error("the stored state is discarded: a process died reading it")
        discard(Path(self.settings.state_dir))
        self.roles[0].signal(signal.SIGTERM)

    # Running

    async def run(self, while_starting: Callable[[Supervisor], Any] | None = None) -> int:
        """Serve until SIGTERM or SIGINT; the exit code. `while_starting` runs beside, as a coroutine."""
        setproctitle.setproctitle("headwater: supervisor")
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        lives = [asyncio.create_task(role.keep_running()) for role in self.roles]
        others = [asyncio.create_task(self._poll())]
        if self._admin_socket is not None:
            others.append(asyncio.create_task(admin.serve(self._admin_socket, self)))
        if while_starting is not None:
            others.append(asyncio.create_task(while_starting(self)))
        stop = asyncio.create_task(stopping.wait())
        await asyncio.wait([stop, *lives], return_when=asyncio.FIRST_COMPLETED)
        code = 0 if stop.done() else 2
        await self._stop(lives)
        for task in (stop, *others):
            task.cancel()
        await asyncio.gather(stop, *others, return_exceptions=True)
        return code

    async def _stop(self, lives: list[asyncio.Task[None]]) -> None:
        for role in self.roles:
            role.stop()
        _, left = await asyncio.wait(lives, timeout=_DRAIN)
        if left:
            for role in self.roles:
                role.signal(signal.SIGKILL)
            await asyncio.wait(left, timeout=1.0)
        for address in self.settings.listen_addresses():
            if address.path is not None:
                Path(address.path).unlink(missing_ok=True)

    def _reload(self) -> None:
        _log.info("SIGHUP: reading the sources again")
        self.roles[0].reload()

    async def _poll(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(_POLL)

    async def refresh(self) -> None:
        """Fetch every process's counters."""
        await asyncio.gather(*(role.refresh() for role in self.roles))

    def views(self) -> list[ProcessView]:
        """What admin shows: the watch process first, then the answer processes."""
        return [role.view() for role in self.roles]
