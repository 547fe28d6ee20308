"""`headwater check`: try everything that `serve` needs, one by one."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from headwater.commands.help import flag
from headwater.commands.options import settings_command
from headwater.settings.address import Address
from headwater.settings.configuration import Configuration, located
from headwater.settings.error import SettingsError
from headwater.settings.settings import Settings

if TYPE_CHECKING:
    from headwater.serve.tls import Certificates

#: The widest column of names. A longer name pushes its result to the right.
_WIDEST: Final = 44

#: One check: its name, and a function that returns its result in words, or raises when it fails.
Check = tuple[str, Callable[[], str]]


@settings_command(
    "Try what `serve` needs, one line each.\n\nThe exit code is 0 when all of it is there, else 1. With --services it "
    "says instead what will not work of Services and StatefulSets, and nothing when all is well; the exit code is 3 "
    "when it found something, 1 when it could not look. docs/advice.md says where it looks."
)
@flag("--services", is_flag=True, help="Say what will not work of Services and StatefulSets (docs/advice.md).")
@flag("--except", "without", metavar="RULE", multiple=True, help="With --services: not by this rule. Repeatable.")
@flag("--json", "as_json", is_flag=True, help="With --services: print JSON.")
def command(configuration: Configuration, services: bool, without: tuple[str, ...], as_json: bool) -> int:
    if services:
        from headwater.commands.advice import advise

        return advise(configuration, as_json=as_json, without=without)
    if without or as_json:
        raise SettingsError("--except" if without else "--json", "it goes with --services")
    return check(configuration)


def check(configuration: Configuration) -> int:
    """Print one line per check. Return 0 when all succeed, otherwise 1."""
    from headwater.cluster.files import BadManifest
    from headwater.supervise.claims import StartFailed

    bad = 0
    every = list(checks(configuration.settings))
    width = min(_WIDEST, max(len(name) for name, _ in every))
    for name, work in every:
        try:
            result, mark = work(), "ok"
        except SettingsError as error:
            result, mark = str(located(error, configuration.origins)), "FAILED"
        except (StartFailed, BadManifest, OSError) as error:
            result, mark = str(error), "FAILED"
        bad += mark != "ok"
        colour = {"ok": "green", "FAILED": "red"}[mark]
        click.echo(f"{click.style(f'{mark:<7}', fg=colour)} {name:<{width}}  {result}".rstrip())
    return 1 if bad else 0


def checks(settings: Settings) -> Iterator[Check]:
    """Yield the checks in the order in which `serve` needs their results."""
    from headwater.cluster.files import files_of
    from headwater.cluster.source import place_of
    from headwater.serve.tls import Certificates

    yield "source", lambda: place_of(settings)
    if settings.manifests:
        for file in files_of(settings.manifests):
            yield f"read {file}", partial(_read, file, settings)
    else:
        yield from _api_checks(settings)
    yield "state directory", lambda: _writable(settings.state_dir)
    for address in settings.listen_addresses():
        yield f"bind {address}", partial(_listenable, address)
    for index in range(settings.workers):
        for item in settings.zone_addresses(index):
            yield f"bind {item}", partial(_listenable, item.address)
    if settings.client_option:
        yield f"client option {settings.client_option}", partial(_told_by_option, settings)
    if (files := Certificates.of(settings)) is not None:
        yield "TLS", partial(_loadable, files)
    for what, other, kind, of in (
        ("admin", settings.admin, socket.SOCK_STREAM, "--admin"),
        ("dns tcp", settings.dns, socket.SOCK_STREAM, "--dns"),
        ("dns udp", settings.dns, socket.SOCK_DGRAM, "--dns"),
    ):
        if other is not None:
            yield f"bind {what} {other}", partial(_bindable, other, kind, of)


def _api_checks(settings: Settings) -> Iterator[Check]:
    from headwater.cluster.api import ApiServer
    from headwater.cluster.reflector import RequestFailed, Trouble
    from headwater.cluster.source import selectors_of
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
    from headwater.cluster.source import selectors_of

    return f"{len(read(file, selectors_of(settings)))} objects"


def _writable(state_dir: str) -> str:
    from headwater.supervise import claims

    folder = Path(state_dir)
    if (folder / "lock").exists():  # do not create it, because another user may run `serve`
        claims.take_state_dir(folder).close()
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


def _listenable(address: Address) -> str:
    """Listen as `serve` would (with grpcio, as its answer processes
    would), and leave nothing behind.
    """
    from headwater.supervise import claims

    with _without_new_folders(Path(address.path) if address.path else None):
        (bound,) = claims.listen([address])
        with bound:
            if address.path is not None:  # before it is closed: afterwards another process may own the path
                Path(address.path).unlink(missing_ok=True)
    return ""


def _told_by_option(settings: Settings) -> str:
    """What CoreDNS does to replies where it adds the option (docs/near.md)."""
    known = "no client's place is known: --zone-cidr or --client-nodes says it. " if not (
        settings.zone_cidrs or settings.client_nodes
    ) else ""  # fmt: skip
    return (
        f"{known}needs `rewrite edns0 local set {settings.client_option:#06x} {{client_ip}}` and no `cache` in "
        "CoreDNS's block; then clients without EDNS get an OPT, and UDP replies over 512 bytes without TC"
    )


def _bindable(address: Address, kind: socket.SocketKind, flag: str) -> str:
    from headwater.supervise import claims

    claims.bind(address, kind, flag).close()
    return ""


@contextmanager
def _without_new_folders(path: Path | None) -> Iterator[None]:
    """Remove the folders above `path` that did not exist before, because
    another user may run `serve`.
    """
    new = [folder for folder in path.parents if not folder.exists()] if path else []
    try:
        yield
    finally:
        for folder in new:
            with suppress(OSError):
                folder.rmdir()
