"""The real `headwater serve` for tests: its processes, its addresses, its admin page.

    with Headwater(tmp_path, "--kubeconfig", plane.kubeconfig) as headwater:
        with CoreDNS(tmp_path, headwater.grpc_corefile_stanza()) as dns:
            dns.records("web.default.svc.cluster.local")

A folder of the test holds the log and the state. They outlive a kill, so that another `start` on
them is a restart.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import psutil
from dnslib import DNSRecord
from headwater.commands import options, query
from headwater.commands.corefile import stanza
from headwater.settings.address import Address
from headwater.settings.settings import Settings

from tests.harness.plane import PlaneError
from tests.harness.processes import Running, free_port, wait_until

if TYPE_CHECKING:
    from types import TracebackType

START_TIMEOUT: Final = 30.0  # seconds until /readyz, with a first list on a busy machine
STOP_TIMEOUT: Final = 10.0  # seconds; it promises 5 for the drain
_TITLE: Final = "headwater: "
_FORKSERVER: Final = "forkserver"


class Headwater:
    """One instance, with two answer processes unless `workers` gives another number.

    `flags` are the flags of `headwater serve` except those for addresses and the state directory;
    they name the source. `folder` gets the log and the state directory. The sockets are in a
    temporary folder, because a socket's path has at most 107 bytes; `listen` gives another address.
    `descriptors` limits the descriptors of each process; the default is the tests' own limit.
    """

    def __init__(
        self,
        folder: Path,
        *flags: str | Path,
        workers: int = 2,
        name: str = "headwater",
        listen: Address | None = None,
        descriptors: int = 0,
    ) -> None:
        self._folder = folder
        self._descriptors = descriptors
        self._name = name
        self._flags = [*map(str, flags), "--workers", str(workers)]
        self._sockets = Path(tempfile.mkdtemp(prefix="hw-"))
        self._process: Running | None = None
        self._orphans: list[psutil.Process] = []
        self.state_dir = folder / f"{name}-state"
        self.log = folder / f"{name}.log"
        self.admin_port = free_port()
        self.listen = listen or Address(path=str(self._sockets / "dns.sock"))
        self.settings = settings_of(self._arguments())
        self.addresses = self.settings.listen_addresses()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, *, wait: bool = True) -> None:
        """Start it on the state of an earlier start; return when it says that it is ready."""
        self.exec()
        if not wait:
            return
        try:
            wait_until(self.is_ready, START_TIMEOUT, f"{self._name} is ready")
        except TimeoutError as error:
            log = self.process.log_tail()
            self.close()
            raise PlaneError(f"{error}; its log ends with:\n{log}") from None
        except BaseException:
            self.close()
            raise

    def exec(self) -> float:
        """Start it and return at once, with the monotonic time just before the start."""
        began = time.monotonic()
        # Compile its modules as an installation does, whatever the tests' environment says.
        env = {"PYTHONDONTWRITEBYTECODE": ""}
        self._process = Running(self._name, self.command(), self.log, env=env, cwd=self._folder)
        return began

    def _arguments(self) -> list[str]:
        return [
            *self._flags, "--listen", str(self.listen), "--state-dir", str(self.state_dir),
            "--admin", f"127.0.0.1:{self.admin_port}",
        ]  # fmt: skip

    def command(self) -> list[str]:
        """The command line of `start`."""
        limit = ["prlimit", f"--nofile={self._descriptors}:{self._descriptors}"] if self._descriptors else []
        return [*limit, sys.executable, "-m", "headwater", "serve", *self._arguments()]

    def terminate(self) -> int:
        """Send SIGTERM, wait for the end, and return the exit code."""
        code = self.process.terminate(STOP_TIMEOUT)
        self._process = None
        return code

    def close(self) -> None:
        """Stop all processes and remove the sockets' folder; log and state stay."""
        if self._process is not None:
            self.terminate()
        for orphan in self._orphans:  # left by a failed test that expected them to end
            with contextlib.suppress(psutil.NoSuchProcess):
                orphan.kill()
        shutil.rmtree(self._sockets, ignore_errors=True)

    @property
    def process(self) -> Running:
        """The supervisor."""
        if self._process is None:
            raise PlaneError(f"{self._name} is not running")
        return self._process

    def forget(self) -> None:
        """Kill -9 the supervisor, if it still runs, so that another `start` may follow."""
        if self.process.running:
            self._orphans += self.family()[1:]
        self.process.kill9()
        self._process = None

    # What it says

    def admin(self, path: str) -> tuple[int, str]:
        """Return the status and the text of a page of the admin server. Raises OSError."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=5.0)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()

    def is_ready(self) -> bool:
        """Return whether /readyz says 200.

        Raises PlaneError with the log if the supervisor has ended.
        """
        self.process.require_running()
        try:
            return self.admin("/readyz")[0] == 200
        except OSError:
            return False

    def is_complete(self) -> bool:
        """Return whether every process is up. (One answer process is enough to be ready.)"""
        return self.admin("/healthz")[0] == 200 and len(self.pids()) == 2 + self.settings.workers + bool(
            self.settings.peer_listen
        )

    def grpc_corefile_stanza(self) -> str:
        """The server block that makes CoreDNS ask this instance."""
        return stanza(self.settings)

    def ask(self, name: str, qtype: str = "A", *, worker: int = 0, timeout: float = 5.0) -> DNSRecord:
        """Send one query over gRPC, without CoreDNS.

        Raises headwater.commands.query.LookupFailed.
        """
        return DNSRecord.parse(query.exchange(query.question(name, qtype), self.addresses[worker], timeout))

    def records(self, name: str, qtype: str = "A", *, worker: int = 0) -> list[str]:
        """Return the data in the answer section, sorted; none while nobody answers."""
        try:
            return sorted(str(item.rdata) for item in self.ask(name, qtype, worker=worker).rr)
        except query.LookupFailed:
            return []

    # Its processes

    def family(self) -> list[psutil.Process]:
        """Return every process of the instance: supervisor,
        forkserver and roles.
        """
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def forkserver(self) -> psutil.Process:
        """Return the process that forks the others. Raises LookupError while there is none."""
        for process in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if " ".join(process.cmdline()).strip() == f"{_TITLE}{_FORKSERVER}":
                    return process
        raise LookupError("there is no forkserver")

    def pids(self) -> dict[str, int]:
        """Return the process ids by title, as {"watch": 7, "answer 0": 8}; not the forkserver's."""
        found = {}
        for process in self.family():
            try:
                title = " ".join(process.cmdline()).strip()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            if title.startswith(_TITLE) and title != f"{_TITLE}{_FORKSERVER}":
                found[title.removeprefix(_TITLE)] = process.pid
        return found

    def kill9(self, title: str) -> int:
        """Kill -9 one role ("watch", "answer 0") or the "supervisor". Return its process id."""
        pid = self.pids()[title]
        if pid == self.process.pid:
            self.forget()
        else:
            psutil.Process(pid).kill()
        return pid


def settings_of(arguments: list[str]) -> Settings:
    """Return the Settings that the command line makes of these arguments of `headwater serve`."""
    return options.settings_of(arguments)


def alive(processes: list[psutil.Process]) -> list[str]:
    """Describe the processes that still run; zombies do not count."""
    found = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {' '.join(process.cmdline())[:60]}")
        except psutil.NoSuchProcess:
            continue
    return found
