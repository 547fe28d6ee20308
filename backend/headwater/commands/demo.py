"""`headwater demo`: serve the bundled example as in a cluster.

The objects in `examples/statefulset` were captured from a real control plane. Headwater serves them
from files. CoreDNS stands in front if it is installed, and the first questions go through it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from headwater.commands import query
from headwater.commands.corefile import stanza
from headwater.commands.help import Formatted, flag
from headwater.settings.address import Address
from headwater.settings.settings import Settings

#: The first questions: (name, type, what it shows).
QUESTIONS: Final = (
    ("headless-svc.default.svc.cluster.local", "A", "the headless Service: every pod, in turning order"),
    ("web-stateful-1.headless-svc.default.svc.cluster.local", "A", "one pod of the StatefulSet, by its name"),
    ("_http._tcp.web-named.default.svc.cluster.local", "SRV", "a named port: a target for each pod, with its address"),
    ("nowhere.default.svc.cluster.local", "A", "a name that does not exist: NXDOMAIN with the zone's SOA"),
)
_WAIT: Final = 15.0


@click.command(
    cls=Formatted,
    help="""Serve the bundled example and show the first answers.

CoreDNS stands in front when there is one, the built-in listener otherwise.""",
)
@flag(
    "--coredns",
    metavar="FILE",
    envvar="HEADWATER_COREDNS",
    help="The CoreDNS to put in front. [the one on PATH, or in the tools' cache]",
)
@flag("--no-coredns", is_flag=True, help="Use the built-in listener instead of CoreDNS.")
@flag("--port", metavar="PORT", type=click.IntRange(0, 65535), default=0, help="Where to answer DNS. [a free port]")
@flag("--once", is_flag=True, help="Show the first answers and stop.")
def command(coredns: str | None, no_coredns: bool, port: int, once: bool) -> int:
    return run(coredns, use_coredns=not no_coredns, port=port, once=once)


class DemoFailed(RuntimeError):  # noqa: N818 (what happened)
    """The demo cannot run; the text says why."""


def example() -> Path:
    """Return the example's folder, inside an installed package or in the checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "examples" / "statefulset", package.parents[1] / "examples" / "statefulset"):
        if folder.is_dir():
            return folder
    raise DemoFailed("the bundled example is missing from this installation")


def find_coredns(named: str | None) -> str | None:
    """Return the CoreDNS to use: the named one, one on PATH, or one built by `make tools`."""
    if named is not None:
        found = shutil.which(named)
        if found is None:
            raise DemoFailed(f"--coredns: {named!r} is not an executable file")
        return found
    if found := shutil.which("coredns"):
        return found
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = os.environ.get("HEADWATER_CACHE") or Path(base) / "headwater"
    built = sorted(Path(cache, "tools").glob("coredns-*/coredns"), key=lambda file: file.stat().st_mtime)
    return str(built[-1]) if built else None


def free_port() -> int:
    """Return a port that is now free for UDP and TCP on loopback."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind(("127.0.0.1", 0))
            port: int = udp.getsockname()[1]
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp:
                try:
                    tcp.bind(("127.0.0.1", port))
                except OSError:
                    continue
                return port


def ask(name: str, qtype: str, port: int, timeout: float = 1.0) -> bytes:
    """Send one query over UDP and return the reply. Raises OSError (TimeoutError) without one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(timeout)
        client.connect(("127.0.0.1", port))
        message = query.question(name, qtype)
        client.send(message)
        while True:
            reply = client.recv(65535)
            if reply[:2] == message[:2]:
                return reply


def _await(port: int, processes: list[subprocess.Popen[bytes]], log: Path) -> None:
    """Wait until the first question is answered."""
    from dnslib import DNSRecord

    deadline = time.monotonic() + _WAIT
    while time.monotonic() < deadline:
        for process in processes:
            if process.poll() is not None:
                raise DemoFailed(f"a process ended with exit code {process.returncode}:\n{log.read_text()[-2000:]}")
        try:
            if DNSRecord.parse(ask(*QUESTIONS[0][:2], port)).header.rcode == 0:
                return
        except OSError:
            time.sleep(0.05)
    raise DemoFailed(f"no answer within {_WAIT:.0f} s; the log says:\n{log.read_text()[-2000:]}")


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(7.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(coredns: str | None, *, use_coredns: bool, port: int, once: bool) -> int:
    """Serve the example until Ctrl-C, or `once` only until it is shown. Return the exit code."""
    try:
        binary = find_coredns(coredns) if use_coredns else None
        with tempfile.TemporaryDirectory(prefix="headwater-") as folder:
            return _serve(Path(folder), binary, port or free_port(), asked_for=use_coredns, once=once)
    except DemoFailed as problem:
        click.echo(f"headwater: {problem}", err=True)
        return 1


def _serve(folder: Path, binary: str | None, port: int, *, asked_for: bool, once: bool) -> int:
    log = folder / "log"
    admin = free_port()
    sock = folder / "dns.sock"
    command = [
        sys.executable, "-m", "headwater", "serve", "--manifests", str(example()), "--pods", "insecure",
        "--listen", f"unix:{sock}", "--state-dir", str(folder / "state"), "--admin", f"127.0.0.1:{admin}",
    ]  # fmt: skip
    if binary is None:
        if asked_for:
            click.echo("There is no CoreDNS here (Go builds it: make tools); the built-in listener answers instead.\n")
        command += ["--dns", f"127.0.0.1:{port}"]
    with _running(command, log) as headwater:
        if binary is None:
            _show(port, [headwater], log, "headwater's own listener")
            return _stay(port, sock, admin, once=once)
        settings = Settings(listen=Address.parse(f"unix:{sock}", "--listen"))
        corefile = folder / "Corefile"
        corefile.write_text(stanza(settings, port=port))
        with _running([binary, "-conf", str(corefile)], log) as front:
            _show(port, [headwater, front], log, "CoreDNS")
            return _stay(port, sock, admin, once=once)


def _show(port: int, processes: list[subprocess.Popen[bytes]], log: Path, through: str) -> None:
    _await(port, processes, log)
    for name, qtype, why in QUESTIONS:
        began = time.perf_counter()
        reply = ask(name, qtype, port)
        took = time.perf_counter() - began
        click.secho(f"; {why}", fg="cyan")
        click.echo(f"$ dig @127.0.0.1 -p {port} {name} {qtype}")
        click.echo(query.show(reply, took, f"127.0.0.1#{port} ({through})"))
        click.echo()


def _stay(port: int, sock: Path, admin: int, *, once: bool) -> int:
    if once:
        return 0
    click.echo(f"Still serving. Ask it yourself:  dig @127.0.0.1 -p {port} headless-svc.default.svc.cluster.local")
    click.echo(f"or without CoreDNS:              headwater query NAME --server unix:{sock.with_name('dns-0.sock')}")
    click.echo(f"or look at it in a browser:      http://127.0.0.1:{admin}/")
    click.echo("Ctrl-C stops it.")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        signal.pause()
    except KeyboardInterrupt:
        click.echo()
    return 0
