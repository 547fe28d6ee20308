"""The servers: Headwater, the Go echo, CoreDNS as a backend, and CoreDNS in front of each.

All are children of this process, on loopback and in separate folders, and end with the block that
started them.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import dns.exception
import dns.message
import dns.query
import dns.rcode
from headwater.commands import query
from headwater.settings.address import Address

from bench.processes import title, tree
from bench.serving.cluster import ZONE, create
from bench.serving.questions import Question, everything, message
from tests.harness.plane import Plane, Running, find_tool, free_port, wait_until

HEADWATER: Final = "Headwater"
IN_PROCESS: Final = "CoreDNS alone"
ECHO: Final = "Go echo"
GO: Final = "Go backend"
VARIANTS: Final = (HEADWATER, IN_PROCESS, ECHO, GO)

#: The processes of a variant, as the tables name them.
FRONT: Final = "CoreDNS"
BACKEND: Final = "backend"

#: Go's collector of garbage as deploy/base sets it for CoreDNS, with its limit of 170 MiB.
TUNED: Final = {"GOGC": "400", "GOMEMLIMIT": "170000000"}
TUNED_TITLE: Final = ", GOGC=400"

_PATIENCE: Final = 60.0  # seconds
_LONGEST: Final = 10.0


@contextmanager
def workplace() -> Iterator[Path]:
    """Yield a folder for sockets, logs and stores; its path is short,
    because a socket's has to be.
    """
    folder = Path(tempfile.mkdtemp(prefix="hw-serving-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def plane(folder: Path) -> Iterator[Plane]:
    """Yield an API server with the small cluster; the plane's other
    components are stopped, to be quiet.
    """
    with Plane(folder / "plane") as running:
        for name in ("kwok", "kube-scheduler", "kube-controller-manager"):
            running.terminate(name)
        create(running)
        yield running


@dataclass(frozen=True)
class Backend:
    """A gRPC server."""

    addresses: Sequence[Address]
    process: Running

    @property
    def upstreams(self) -> str:
        """Its addresses as CoreDNS's `grpc` takes them."""
        return " ".join(f"unix://{one.path}" if one.path else str(one) for one in self.addresses)

    @property
    def target(self) -> str:
        """Its first address."""
        return str(self.addresses[0])

    def pids(self) -> list[int]:
        """Return the ids of all its processes."""
        return [process.pid for process in tree(self.process.pid)]

    def pid(self, role: str) -> int:
        """Return the process id of a role of Headwater, such as "watch"."""
        return next(one.pid for one in tree(self.process.pid) if title(one) == f"headwater: {role}")


@contextmanager
def headwater(
    folder: Path,
    *source: str | Path,
    workers: int = 1,
    transport: str = "native",
    listen: Address | None = None,
    known: Question,
    admin: Address | None = None,
    code: Path | None = None,
) -> Iterator[Backend]:
    """Yield `headwater serve` when each answer process answers `known`; on unix sockets by default.

    `admin`: where the admin port listens; else it is off. `code`: a checkout whose code it runs,
    instead of what is installed.
    """
    folder.mkdir(parents=True)
    address = listen or Address(path=str(folder / "dns.sock"))
    command: list[str | Path] = [
        sys.executable, "-m", "headwater", "serve", *source, "--listen", str(address), "--workers", str(workers),
        "--transport", transport, "--state-dir", folder / "state",
        "--admin", str(admin or "off"), "--audit-interval", "0",
    ]  # fmt: skip
    # Compile its modules as an installation does, whatever the environment says.
    env = {"PYTHONDONTWRITEBYTECODE": ""} | ({} if code is None else {"PYTHONPATH": str(code / "backend")})
    process = Running("headwater", command, folder / "log", env=env, cwd=folder)
    with _stopped_at_the_end(process):
        backend = Backend([address.of_worker(number, workers) for number in range(workers)], process)
        _wait_for(backend, known)
        yield backend


@contextmanager
def echo(folder: Path, replies: Path, known: Question, listen: Address | None = None) -> Iterator[Backend]:
    """Yield the Go echo with these replies."""
    folder.mkdir(parents=True)
    address = listen or Address(path=str(folder / "dns.sock"))
    command: list[str | Path] = [find_tool("goecho"), "-listen", str(address), "-replies", replies]
    process = Running("goecho", command, folder / "log", cwd=folder)
    with _stopped_at_the_end(process):
        backend = Backend([address], process)
        _wait_for(backend, known)
        yield backend


@contextmanager
def go_backend(folder: Path, kubeconfig: Path, known: Question) -> Iterator[Backend]:
    """Yield CoreDNS's `kubernetes` plugin behind its own gRPC server, which listens on TCP only."""
    address = Address(host="127.0.0.1", port=free_port())
    with _coredns(folder, f"grpc://{ZONE}:{address.port}", _kubernetes(kubeconfig)) as process:
        backend = Backend([address], process)
        _wait_for(backend, known)
        yield backend


def packets(replies: Sequence[bytes], file: Path) -> Path:
    """Write the file that the Go echo reads."""
    file.write_bytes(b"".join(len(reply).to_bytes(2, "big") + reply for reply in replies))
    return file


def replies_of(address: Address, questions: Sequence[Question]) -> list[bytes]:
    """Return a backend's replies to questions in dnsperf's form. Raises LookupFailed."""
    return [query.exchange(message(question), address, _LONGEST) for question in questions]


@dataclass(frozen=True)
class Front:
    """A CoreDNS that is asked, and all processes that work for its answers."""

    port: int
    roles: Mapping[str, Sequence[int]]

    def ask(self, question: Question) -> dns.message.Message:
        """Ask over TCP, and return the whole reply. Raises OSError, DNSException."""
        asked = dns.message.from_wire(message(question, number=1))
        return dns.query.tcp(asked, "127.0.0.1", port=self.port, timeout=_LONGEST)


@contextmanager
def behind(
    folder: Path,
    backend: Backend,
    known: Question,
    *,
    cache: bool = False,
    env: Mapping[str, str] | None = None,
    policy: str = "round_robin",
) -> Iterator[Front]:
    """Yield CoreDNS with `grpc` and a backend; its addresses by `policy`, as we print it."""
    body = f"grpc . {backend.upstreams} {{\n        policy {policy}\n    }}"
    with front(folder, body, known, cache=cache, backend=backend.pids(), env=env) as found:
        yield found


@contextmanager
def in_process(
    folder: Path, kubeconfig: Path, known: Question, *, cache: bool = False, env: Mapping[str, str] | None = None
) -> Iterator[Front]:
    """Yield CoreDNS with its `kubernetes` plugin."""
    with front(folder, _kubernetes(kubeconfig), known, cache=cache, env=env) as found:
        yield found


@contextmanager
def front(
    folder: Path,
    body: str,
    known: Question,
    *,
    cache: bool = False,
    backend: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
) -> Iterator[Front]:
    """Yield a CoreDNS with these plugins when it answers `known` with NOERROR."""
    port = free_port()
    with _coredns(folder, f"{ZONE}:{port}", f"{'cache' if cache else ''}\n    {body}", env) as process:
        found = Front(port, {FRONT: [process.pid], BACKEND: backend} if backend else {FRONT: [process.pid]})

        def answers() -> bool:
            process.require_running()
            return found.ask(known).rcode() == dns.rcode.NOERROR

        wait_until(answers, _PATIENCE, f"CoreDNS answers ({body})", ignoring=(OSError, dns.exception.DNSException))
        yield found


@contextmanager
def variants(
    folder: Path, kubeconfig: Path, known: Question, workers: int
) -> Iterator[tuple[dict[str, Front], dict[str, Front]]]:
    """Yield all servers by name, without and with `cache`. The Go echo gets Headwater's replies."""
    with ExitStack() as stack:
        source = ("--kubeconfig", kubeconfig)
        first = stack.enter_context(headwater(folder / "headwater", *source, workers=workers, known=known))
        replies = packets(replies_of(first.addresses[0], everything()), folder / "replies")
        backends = {
            HEADWATER: first,
            ECHO: stack.enter_context(echo(folder / "echo", replies, known)),
            GO: stack.enter_context(go_backend(folder / "go", kubeconfig, known)),
        }
        both: tuple[dict[str, Front], dict[str, Front]] = ({}, {})
        for cache, fronts in zip((False, True), both, strict=True):
            for name in VARIANTS:
                place = folder / f"{name}{'-cache' if cache else ''}".replace(" ", "-")
                made = (
                    in_process(place, kubeconfig, known, cache=cache)
                    if name == IN_PROCESS
                    else behind(place, backends[name], known, cache=cache)
                )
                fronts[name] = stack.enter_context(made)
        yield both


@contextmanager
def collectors(folder: Path, kubeconfig: Path, known: Question, workers: int) -> Iterator[dict[str, Front]]:
    """Yield CoreDNS with Headwater and CoreDNS alone, each with Go's
    default collector and with that of `deploy/`.
    """
    with ExitStack() as stack:
        source = ("--kubeconfig", kubeconfig)
        backend = stack.enter_context(headwater(folder / "headwater", *source, workers=workers, known=known))
        fronts: dict[str, Front] = {}
        for title, env in (("", {"GOGC": "100", "GOMEMLIMIT": "off"}), (TUNED_TITLE, TUNED)):
            place = folder / f"gc-{env['GOGC']}"
            place.mkdir()
            ours = behind(place / "ours", backend, known, env=env)
            alone = in_process(place / "alone", kubeconfig, known, env=env)
            fronts[HEADWATER + title] = stack.enter_context(ours)
            fronts[IN_PROCESS + title] = stack.enter_context(alone)
        yield fronts


@contextmanager
def _coredns(folder: Path, key: str, body: str, env: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Run CoreDNS with one server block on 127.0.0.1."""
    folder.mkdir(parents=True)
    corefile = folder / "Corefile"
    corefile.write_text(f"{key} {{\n    bind 127.0.0.1\n    errors\n    {body}\n}}\n")
    process = Running("coredns", [find_tool("coredns"), "-conf", corefile], folder / "log", cwd=folder, env=env)
    with _stopped_at_the_end(process):
        yield process


def _kubernetes(kubeconfig: Path) -> str:
    return f"kubernetes {ZONE} {{\n        kubeconfig {kubeconfig}\n    }}"


@contextmanager
def _stopped_at_the_end(process: Running) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()


def _wait_for(backend: Backend, known: Question) -> None:
    """Wait until every address answers with NOERROR. Raises TimeoutError, PlaneError."""

    def answers(address: Address) -> Callable[[], bool]:
        def asked() -> bool:
            backend.process.require_running()
            return query.exchange(message(known), address, _LONGEST)[3] & 15 == dns.rcode.NOERROR

        return asked

    for address in backend.addresses:
        what = f"{backend.process.name} answers at {address}"
        wait_until(answers(address), _PATIENCE, what, ignoring=(query.LookupFailed,))
