"""`headwater explain`: why a name has its answer; asks an instance, a store or manifests."""

from __future__ import annotations

import http.client
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

import click

from headwater.commands.cli import FAILED, NEGATIVE
from headwater.commands.credentials import api_server
from headwater.commands.help import flag
from headwater.commands.options import settings_command
from headwater.commands.quiet import quiet
from headwater.settings.configuration import Configuration
from headwater.settings.error import SettingsError
from headwater.settings.settings import Settings

if TYPE_CHECKING:
    from headwater.explain.explanation import Explanation
    from headwater.explain.look import Item, Objects
    from headwater.explain.sources import Server

#: How long to wait for the instance, in seconds. It gives up earlier itself.
_TIMEOUT: Final = 6.0
_MOST: Final = 1 << 20


class NotExplained(RuntimeError):  # noqa: N818 (what happened)
    """There is no explanation: the text says why."""


@settings_command(
    "Say why a name answers as it does, or does not.\n\nThe instance at --admin is asked; with --state-dir or "
    "--manifests on the command line none has to run. Pods, StatefulSets and selectors are looked up in the API "
    "server, where credentials allow it. Exit codes: 0, it answers; 3, it does not; 1, it could not be explained."
)
@click.argument("name")
@click.argument("qtype", metavar="[TYPE]", default="A")
@flag("--json", "as_json", is_flag=True, help="Print JSON (docs/explain.md has the schema).")
@flag("--client", metavar="POD", help="Look at the pod that asks, too (NAMESPACE/POD): does its question come here?")
@flag("--preview", is_flag=True, help="With --manifests: after the controllers have made pods and slices of them.")
def command(
    configuration: Configuration, name: str, qtype: str, as_json: bool, client: str | None, preview: bool
) -> int:
    if preview and not configuration.settings.manifests:
        raise SettingsError("--preview", "it goes with --manifests")
    try:
        found = _explained(configuration, name, qtype, client, preview=preview)
    except NotExplained as error:
        click.echo(f"headwater: {error}", err=True)
        return FAILED
    import msgspec

    from headwater.explain.explanation import Outcome
    from headwater.explain.show import show

    if as_json:
        text = msgspec.json.format(msgspec.json.encode(found)).decode()
    else:
        text = show(found, time.time(), shutil.get_terminal_size((100, 24)).columns)
    if preview:
        from headwater.explain.preview import without_addresses

        text = without_addresses(text)
    click.echo(text)
    return 0 if found.outcome is Outcome.ANSWER else NEGATIVE


def _explained(
    configuration: Configuration, name: str, qtype: str, client: str | None, *, preview: bool
) -> Explanation:
    """Raises NotExplained."""
    from headwater.explain.look import gather, refine

    settings, origins = configuration.settings, configuration.origins
    who = _pod(client) if client is not None else None
    # The variables and the file of `serve` name its state directory too, so only the flag chooses
    # this way.
    if settings.manifests:
        found, objects = (_previewed if preview else _from_manifests)(settings, name, qtype)
    elif origins["--state-dir"].where == "--state-dir":
        found, objects = _from_state(Path(settings.state_dir), settings, name, qtype), _api(settings)
    else:
        found, objects = _from_admin(settings, name, qtype), _api(settings)
    found = refine(found, gather(found.looks, objects))
    if who is not None:
        _look_at_client(found, who, objects, settings)
    return found


def _pod(text: str) -> tuple[str, str]:
    namespace, slash, pod = text.partition("/")
    if not slash or not namespace or not pod:
        raise SettingsError("--client", f"{text!r} is not NAMESPACE/POD")
    return namespace, pod


def _look_at_client(found: Explanation, who: tuple[str, str], objects: Objects, settings: Settings) -> None:
    from headwater.explain.look import NotSeen, of_client

    try:
        pod = objects.get("Pod", *who)
    except NotSeen as why:
        found.unknown.append(str(why))
        return
    if pod is None:
        found.unknown.append(f"There is no pod {'/'.join(who)}.")
        return
    found.hints = [*of_client(pod, found.name, settings.zones[0]), *found.hints]


# Where the explanation comes from


def _from_admin(settings: Settings, name: str, qtype: str) -> Explanation:
    """Ask the running instance. Raises NotExplained."""
    import msgspec

    from headwater.explain.explanation import Explanation

    address = settings.admin
    if address is None:
        raise NotExplained("the admin page is off: give --state-dir, or --admin ADDRESS")
    connection = http.client.HTTPConnection(address.host, address.port, timeout=_TIMEOUT)
    try:
        connection.request("GET", f"/explain?{urlencode({'name': name, 'type': qtype})}")
        reply = connection.getresponse()
        body = reply.read(_MOST)
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NotExplained(
            f"{address}: {why}. Does `headwater serve` run, and is --admin where it listens? Without it: --state-dir "
            "DIR, or --manifests PATH"
        ) from None
    finally:
        connection.close()
    if reply.status == 404:
        raise NotExplained(f"{address}: the server there has no /explain: it is not headwater, or an older version")
    if reply.status == 400:
        raise SettingsError("NAME TYPE", body.decode(errors="replace").strip()[:500])
    if reply.status != 200:
        raise NotExplained(f"{address}: {body.decode(errors='replace').strip()[:500]}")
    try:
        return msgspec.json.decode(body, type=Explanation)
    except msgspec.MsgspecError as error:
        raise NotExplained(f"{address}: its explanation is of another version: {error}") from None


def _from_state(state_dir: Path, settings: Settings, name: str, qtype: str) -> Explanation:
    from headwater.explain.offline import Unusable, explained_offline

    try:
        return explained_offline(state_dir, settings, name, qtype)
    except Unusable as error:
        raise NotExplained(str(error)) from None
    except ValueError as error:
        raise SettingsError("NAME TYPE", str(error)) from None


def _from_manifests(settings: Settings, name: str, qtype: str) -> tuple[Explanation, Objects]:
    """Explain from manifests, compiled in a temporary folder."""
    from headwater.cluster.files import BadManifest, everything
    from headwater.explain.sources import FromManifests
    from headwater.writer import once

    try:
        with quiet(), tempfile.TemporaryDirectory(prefix="headwater-") as folder:
            once.write(settings, Path(folder))
            found = _from_state(Path(folder), settings, name, qtype)
        items: Iterable[Item] = list(everything(settings.manifests))
    except (BadManifest, OSError) as error:
        raise NotExplained(str(error)) from None
    return found, FromManifests(items)


def _previewed(settings: Settings, name: str, qtype: str) -> tuple[Explanation, Objects]:
    """Explain from manifests as they will be, after the controllers' work."""
    from headwater.cluster.files import BadManifest
    from headwater.commands.previewed import PreviewedManifests
    from headwater.explain.preview import pods
    from headwater.explain.sources import FromManifests

    source = PreviewedManifests(settings.manifests)
    try:
        with quiet(), tempfile.TemporaryDirectory(prefix="headwater-") as folder:
            own = source.write(settings, Path(folder))
            found = _from_state(Path(folder, "state"), own, name, qtype)
            return found, FromManifests([*source.items(), *pods(source.items())], every_pod=True)
    except (BadManifest, OSError) as error:
        raise NotExplained(str(error)) from None


def _api(settings: Settings) -> Objects:
    """Return the API server with kubectl's credentials. The first question connects to it."""
    from headwater.explain.sources import FromApi

    def connect() -> Server:
        from headwater.explain.look import NotSeen

        try:
            return api_server(settings.kubeconfig, settings.context)
        except SettingsError as error:
            raise NotSeen(f"the API server was not asked: {error}") from None

    return FromApi(connect)
