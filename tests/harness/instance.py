"""The real `headwater serve` for tests: its processes, its addresses, its admin page.

    with Headwater(tmp_path, "--kubeconfig", plane.kubeconfig) as headwater:
        with CoreDNS(tmp_path, headwater.grpc_corefile_stanza()) as dns:
            dns.records("web.default.svc.cluster.local")

A folder of the test's own holds the log and the state, which outlive a kill:
another `start` on them is the restart that is tested.
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


class Headwater:
    """One instance, two answer processes unless `workers` says otherwise.

    `flags` are those of `headwater serve` beyond where it listens and keeps its
    state; they name the source. `folder` gets the log and the state directory.
    The sockets lie in a temporary folder, for a socket's path has at most 107 bytes; `listen` names another address.
    `descriptors`: how many each process may have, if not as many as ours.
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
        """Start it, on what an earlier start has left; return when it says that it is ready."""
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
        """Start it and return at once; the monotonic time just before."""
        began = time.monotonic()
        # As installed: with its modules compiled, whatever the environment of the tests says.
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
        """SIGTERM, and the exit code."""
        code = self.process.terminate(STOP_TIMEOUT)
        self._process = None
        return code

    def close(self) -> None:
        """Stop what runs and remove the sockets' folder; log and state stay."""
        if self._process is not None:
            self.terminate()
        for orphan in self._orphans:  # a test has failed that expected them gone
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
        """kill -9 the supervisor, if nobody has; another `start` may follow."""
        if self.process.running:
            self._orphans += self.family()[1:]
        self.process.kill9()
        self._process = None

    # What it says

    def admin(self, path: str) -> tuple[int, str]:
        """Status and text of a page of the admin server. Raises OSError."""
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
        """Whether /readyz says so; PlaneError with the log when the supervisor has ended."""
        self.process.require_running()
        try:
            return self.admin("/readyz")[0] == 200
        except OSError:
            return False

    def is_complete(self) -> bool:
        """Whether every process is up; one answer process is enough to be ready."""
        return self.admin("/healthz")[0] == 200 and len(self.pids()) == 2 + self.settings.workers

    def grpc_corefile_stanza(self) -> str:
        """The server block that makes CoreDNS ask this instance."""
        return stanza(self.settings)

    def ask(self, name: str, qtype: str = "A", *, worker: int = 0, timeout: float = 5.0) -> DNSRecord:
        """One query over gRPC, without CoreDNS. Raises headwater.commands.query.LookupFailed."""
        return DNSRecord.parse(query.exchange(query.question(name, qtype), self.addresses[worker], timeout))

    def records(self, name: str, qtype: str = "A", *, worker: int = 0) -> list[str]:
        """The data in the answer section, sorted; empty while nobody answers."""
        try:
            return sorted(str(item.rdata) for item in self.ask(name, qtype, worker=worker).rr)
        except query.LookupFailed:
            return []

    # Its processes

    def family(self) -> list[psutil.Process]:
        """Every process of it: the supervisor, forkserver and resource tracker, the roles."""
        supervisor = psutil.Process(self.process.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def pids(self) -> dict[str, int]:
        """The process id by title, as {"watch": 7, "answer 0": 8}, of those that have one."""
        found = {}
        for process in self.family():
            try:
                title = " ".join(process.cmdline()).strip()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            if title.startswith(_TITLE):
                found[title.removeprefix(_TITLE)] = process.pid
        return found

    def kill9(self, title: str) -> int:
        """kill -9 one role ("watch", "answer 0"), or the "supervisor"; its process id."""
        pid = self.pids()[title]
        if pid == self.process.pid:
            self.forget()
        else:
            psutil.Process(pid).kill()
        return pid


def settings_of(arguments: list[str]) -> Settings:
    """The Settings that these arguments of `headwater serve` make, by the command line itself."""
    return options.settings_of(arguments)


def alive(processes: list[psutil.Process]) -> list[str]:
    """Those that still run, described; a zombie does not."""
    found = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {' '.join(process.cmdline())[:60]}")
        except psutil.NoSuchProcess:
            continue
    return found
