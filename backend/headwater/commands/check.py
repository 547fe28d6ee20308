"""`headwater check`: what `serve` needs, tried one by one."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from headwater.cluster.source import place_of, selectors_of
from headwater.serve.tls import Certificates
from headwater.settings.error import SettingsError
from headwater.settings.settings import Settings
from headwater.supervise.claims import StartFailed


def check(settings: Settings) -> int:
    """One line per thing that `serve` needs; 0 when all of it is there, else 1."""
    from headwater.cluster.files import BadManifest, files_of

    checks: list[tuple[str, Callable[[], str]]] = [("source", lambda: place_of(settings))]
    if settings.manifests:
        checks += [(f"read {file}", lambda file=file: _read(file, settings)) for file in files_of(settings.manifests)]  # type: ignore[misc]
    else:
        checks += _api_checks(settings)
    checks.append(("state directory", lambda: _writable(settings.state_dir)))
    for address in settings.listen_addresses():
        checks.append((f"bind {address}", lambda address=address: _bindable(address.path, address.host, address.port)))  # type: ignore[misc]
    if (files := Certificates.of(settings)) is not None:
        checks.append(("TLS", lambda: _loadable(files)))
    tcp, udp = socket.SOCK_STREAM, socket.SOCK_DGRAM
    for what, other, kind in (
        ("admin", settings.admin, tcp),
        ("dns tcp", settings.dns, tcp),
        ("dns udp", settings.dns, udp),
    ):
        if other is not None:
            checks.append(
                (f"bind {what} {other}", lambda other=other, kind=kind: _bindable(None, other.host, other.port, kind))  # type: ignore[misc]
            )
    bad = 0
    for name, work in checks:
        try:
            result, mark = work(), "ok"
        except (SettingsError, StartFailed, BadManifest, OSError) as error:
            result, mark = str(error), "FAILED"
            bad += 1
        click.echo(f"{mark:<7} {name:<32} {result}".rstrip())
    return 1 if bad else 0


def _api_checks(settings: Settings) -> Iterator[tuple[str, Callable[[], str]]]:
    from headwater.cluster.api import ApiServer
    from headwater.cluster.reflector import RequestFailed, Trouble
    from headwater.writer.process import required_resources

    connected: list[ApiServer] = []

    def connect() -> str:
        server = ApiServer(settings.kubeconfig, settings.context, selectors_of(settings))
        server.reload()
        connected.append(server)
        return server.host

    yield "credentials", connect
    for resource in required_resources(settings):

        def listed(resource: str = resource) -> str:
            if not connected:
                raise OSError("no credentials")
            try:
                body = connected[0].page(resource, 1, "")  # type: ignore[arg-type]
            except RequestFailed as error:
                if error.trouble is Trouble.NOT_INSTALLED:
                    return "not installed: no names until it is"
                raise OSError(str(error)) from None
            page = json.loads(body)
            rest = page["metadata"].get("remainingItemCount", 0)
            return f"{len(page.get('items') or ()) + rest:,} objects"

        yield f"list {resource}", listed


def _read(file: Path, settings: Settings) -> str:
    from headwater.cluster.files import read

    return f"{len(read(file, selectors_of(settings)))} objects"


def _writable(state_dir: str) -> str:
    folder = Path(state_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
        free = os.statvfs(folder)
    except OSError as error:
        raise OSError(f"--state-dir: {folder}: {error.strerror}") from None
    return f"{folder}, {free.f_bavail * free.f_frsize >> 20:,} MiB free"


def _loadable(files: Certificates) -> str:
    files.load()
    return f"clients of {files.client_ca}" if files.client_ca else "any client"


def _bindable(path: str | None, host: str, port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> str:
    if path is not None:
        file = Path(path)
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe,
            contextlib.suppress(FileNotFoundError, ConnectionRefusedError),
        ):
            probe.connect(path)
            raise OSError("another process serves there")
        if file.exists() and not file.is_socket():
            raise OSError("is there and is not a socket")
        parent = next(folder for folder in file.parents if folder.exists())
        if not os.access(parent, os.W_OK):
            raise OSError(f"{parent} cannot be written")
        return ""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as probe:
        if kind == socket.SOCK_STREAM:  # as the supervisor binds it
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(error.strerror) from None
    return ""
