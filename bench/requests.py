"""Count the requests of Headwater and of CoreDNS's `kubernetes` plugin to one API server.

    python -m bench.requests [--services 10000] [--idle 60]

The API server's own audit log is counted, by client and resource:

    start      with nothing known, until the last name of the set is answered
    restart    SIGTERM, and a start on the stored state; it is done when a change is served
    kill -9    the same after all processes were killed
    expiry     held (SIGSTOP) while an object changes, the API server restarts and etcd is
               compacted; then 410
    an hour    idle: for 60 s behind a proxy that divides the `timeoutSeconds` of watches by 60
    an audit   by Headwater, every --audit-interval (1 h): the metadata of everything, page by page

A list costs more the more it has, and a watch almost nothing. The API server's CPU seconds
therefore stand beside the numbers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Protocol, Self
from urllib.parse import parse_qs, urlsplit

import psutil

from bench.report import environment, table
from tests.harness.instance import Headwater
from tests.harness.load import SERVICES, Access, ScaleService, load, scale_set
from tests.harness.plane import Plane, PlaneError, free_port, wait_until
from tests.harness.processes import CoreDNS

#: How much faster the clock runs behind the proxy.
SPEED: Final = 60
IDLE: Final = 60.0  # seconds behind it
#: The pause before requests are counted, in seconds.
_SETTLE: Final = 3.0
_PATIENCE: Final = 120.0  # seconds
RESOURCES: Final = ("namespaces", "services", "endpointslices")
_POLICY: Final = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [ResponseStarted, ResponseComplete, Panic]
rules: [{level: Metadata}]
"""
_MERGE: Final = "application/merge-patch+json"

#: (verb, resource). The verb "watch-list" is a watch that begins with all objects; "recognize" is
#: the list of one namespace by which Headwater recognises the cluster.
Requests = Counter[tuple[str, str]]


class Audit:
    """The API server's audit log: one line per request, written before it is answered."""

    def __init__(self, folder: Path) -> None:
        self._policy = folder / "audit-policy.yaml"
        self._log = folder / "audit.log"
        self._policy.write_text(_POLICY)
        self._log.touch()

    def flags(self) -> Mapping[str, Sequence[str]]:
        """Flags for the plane."""
        return {"kube-apiserver": [f"--audit-policy-file={self._policy}", f"--audit-log-path={self._log}"]}

    def mark(self) -> int:
        """Return the current place in the log."""
        return self._log.stat().st_size

    def since(self, mark: int, agent: str) -> Requests:
        """Return the requests since then of user agents that begin with `agent`, in lower case."""
        found: Requests = Counter()
        with self._log.open("rb") as log:
            log.seek(mark)
            for line in log:
                entry = json.loads(line)
                if entry.get("userAgent", "").lower().startswith(agent):
                    found[_kind(entry)] += 1
        return found


def _kind(entry: dict[str, object]) -> tuple[str, str]:
    verb, uri, reference = str(entry["verb"]), urlsplit(str(entry["requestURI"])), entry.get("objectRef")
    resource = str(reference["resource"]) if isinstance(reference, dict) else uri.path
    if verb == "watch" and parse_qs(uri.query).get("sendInitialEvents") == ["true"]:
        verb = "watch-list"
    if parse_qs(uri.query).get("fieldSelector") == ["metadata.name=kube-system"]:
        verb = "recognize"
    return verb, resource


class Server(Protocol):
    """One of the compared servers."""

    name: str
    agent: str

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def hold(self, number: signal.Signals) -> None:
        """Send SIGSTOP or SIGCONT to the process that talks to the API server."""

    def records(self, name: str) -> list[str]:
        """Return the addresses of a name, sorted; [] while there is no answer."""


class Ours:
    """Headwater."""

    agent = "headwater"

    def __init__(self, folder: Path, kubeconfig: Path, mode: str, *flags: str) -> None:
        folder.mkdir()
        self.name = f"Headwater, --list {mode}"
        self._server = Headwater(folder, "--kubeconfig", kubeconfig, "--list", mode, *flags, workers=1)

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.terminate()

    def kill(self) -> None:
        for process in self._server.family():
            with contextlib.suppress(psutil.NoSuchProcess):  # the others end with the supervisor
                process.kill()
        self._server.forget()

    def hold(self, number: signal.Signals) -> None:
        psutil.Process(self._server.pids()["watch"]).send_signal(number)

    def records(self, name: str) -> list[str]:
        return self._server.records(name)

    def audits(self) -> int:
        """Return the number of complete audits."""
        text = self._server.admin("/metrics")[1]
        found = re.search(r"^headwater_audits_total (\S+)", text, re.MULTILINE)
        return int(float(found[1])) if found else 0


class Theirs:
    """CoreDNS with its own plugin."""

    name = "CoreDNS"
    agent = "coredns"

    def __init__(self, folder: Path, kubeconfig: Path) -> None:
        folder.mkdir()
        text = f"cluster.local:53 {{\n    errors\n    kubernetes {{\n        kubeconfig {kubeconfig}\n    }}\n}}\n"
        self._server = CoreDNS(folder, text)

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def kill(self) -> None:
        self._server.process.kill9()

    def hold(self, number: signal.Signals) -> None:
        self._server.process.signal(number)

    def records(self, name: str) -> list[str]:
        return self._server.records(name)


class Proxy:
    """An HTTP server before the API server, for clients that only GET; it
    divides `timeoutSeconds` by SPEED.

    It adds the token itself, because client-go sends none without TLS.
    """

    def __init__(self, plane: Plane, folder: Path) -> None:
        self._port = free_port()
        self.kubeconfig = folder / "kubeconfig-proxy"
        access = Access.from_kubeconfig(plane.kubeconfig)
        self._server = (access.host, access.port)
        self._tls = access.tls
        self._token = f"Authorization: {access.headers['Authorization']}\r\n\r\n".encode()
        lines = plane.kubeconfig.read_text().splitlines()
        text = "\n".join(line for line in lines if "certificate-authority-data" not in line)
        self.kubeconfig.write_text(text.replace(plane.server, f"http://127.0.0.1:{self._port}"))
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _run(self) -> None:
        await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        await self._stop.wait()
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, downstream = await asyncio.open_connection(*self._server, ssl=self._tls)
        except OSError:
            writer.close()
            return
        answers = asyncio.create_task(_copy(upstream, writer))
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                downstream.write(re.sub(rb"(timeoutSeconds=)(\d+)", _faster, head[:-2]) + self._token)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            answers.cancel()
            downstream.close()
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def _faster(match: re.Match[bytes]) -> bytes:
    return match[1] + b"%d" % max(1, int(match[2]) // SPEED)


class Bench:
    """The plane with the set, and ways to make and see a change."""

    def __init__(self, plane: Plane, audit: Audit, services: int) -> None:
        self.plane = plane
        self.audit = audit
        self._last: ScaleService = next(item for item in reversed(scale_set(services)) if item.headless)
        self._name = f"{self._last.name}.{self._last.namespace}.svc.cluster.local"
        self._changes = 0
        self._addresses = self._last.addresses

    def change(self) -> None:
        """Give the last Service's first endpoint another address."""
        self._changes += 1
        self._addresses = [f"11.0.{self._changes // 250}.{self._changes % 250}", *self._last.addresses[1:]]
        namespace, name = self._last.namespace, f"{self._last.name}-0"
        path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/{name}"
        piece = self.plane.api("GET", path)
        piece["endpoints"][0]["addresses"] = self._addresses[:1]
        self.plane.api("PATCH", path, {"endpoints": piece["endpoints"]}, content_type=_MERGE)

    def served(self, server: Server) -> None:
        """Wait until the last change is served, and some moments more."""
        wait_until(lambda: server.records(self._name) == sorted(self._addresses), _PATIENCE, f"{server.name} answers")
        time.sleep(_SETTLE)

    @contextmanager
    def phase(self, name: str, server: Server, rows: list[tuple[str, ...]]) -> Iterator[None]:
        """Add a row to the table: the requests during the block."""
        mark = self.audit.mark()
        before = self._cpu()
        yield
        spent = self._cpu() - before
        asked = self.audit.since(mark, server.agent)
        others: Requests = Counter({key: count for key, count in asked.items() if key[1] not in RESOURCES})
        cells = [_cell(asked, resource) for resource in RESOURCES]
        rows.append((name, server.name, *cells, str(others.total() or ""), f"{spent:.2f}"))
        print(f"  {name}: {server.name}", flush=True)

    def _cpu(self) -> float:
        times = psutil.Process(self.plane.process("kube-apiserver").pid).cpu_times()
        return times.user + times.system

    def expire(self, server: Server) -> None:
        """Hold the server until the API server has forgotten every
        version that the server knows.
        """
        server.hold(signal.SIGSTOP)
        self.change()
        self.plane.compact()
        self.plane.terminate("kube-apiserver")
        self.plane.start("kube-apiserver")


def _cell(asked: Requests, resource: str) -> str:
    found = sorted((verb, count) for (verb, of), count in asked.items() if of == resource)
    return ", ".join(f"{count} {verb}" for verb, count in found)


def measure(bench: Bench, folder: Path, idle: float) -> list[tuple[str, ...]]:
    """Return the rows of the table, phase by phase."""
    kubeconfig = bench.plane.kubeconfig
    rows: list[tuple[str, ...]] = []
    servers: list[Server] = [
        *(Ours(folder / mode, kubeconfig, mode) for mode in ("pages", "stream")), Theirs(folder / "coredns", kubeconfig)
    ]  # fmt: skip
    for server in servers:
        with bench.phase("start", server, rows):
            server.start()
            bench.served(server)
        for name, end in (("restart", server.stop), ("kill -9", server.kill)):
            with bench.phase(name, server, rows):
                end()
                bench.change()
                server.start()
                bench.served(server)
        bench.expire(server)
        with bench.phase("expiry", server, rows):
            server.hold(signal.SIGCONT)
            bench.served(server)
        server.stop()
    with Proxy(bench.plane, folder) as proxy:
        for server in (Ours(folder / "idle", proxy.kubeconfig, "pages"), Theirs(folder / "idler", proxy.kubeconfig)):
            server.start()
            bench.served(server)
            with bench.phase(f"{idle * SPEED / 3600:g} h without work", server, rows):
                time.sleep(idle)
            server.stop()
    audited = Ours(folder / "audited", kubeconfig, "pages", "--audit-interval", "5s")
    audited.start()
    bench.served(audited)
    with bench.phase("an audit", audited, rows):
        wait_until(lambda: audited.audits() > 0, _PATIENCE * 2, "an audit has gone through everything")
    audited.stop()
    phases = list(dict.fromkeys(row[0] for row in rows))
    return sorted(rows, key=lambda row: phases.index(row[0]))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.requests", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--services", type=int, default=SERVICES, help="size of the set (default: %(default)s)")
    parser.add_argument("--idle", type=float, default=IDLE, help="seconds at 60-fold speed (default: %(default)g)")
    options = parser.parse_args(arguments)
    if options.services < 2 or options.idle <= 0:
        parser.error("--services is at least 2, --idle above 0")
    folder = Path(tempfile.mkdtemp(prefix="headwater-requests-"))
    try:
        print(environment("coredns", "kube-apiserver", "etcd"), flush=True)
        with ExitStack() as stack:
            audit = Audit(folder)
            plane = stack.enter_context(Plane(folder / "plane", audit.flags()))
            print(f"loading {options.services:,} services ...", flush=True)
            load(plane.kubeconfig, options.services)
            rows = measure(Bench(plane, audit, options.services), folder, options.idle)
    except (PlaneError, TimeoutError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{table(('', 'server', *RESOURCES, 'other', 'API server, CPU-s'), rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
