"""`headwater check --services`: where the objects come from, and how findings are printed."""

from __future__ import annotations

import http.client
import json
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import click

from headwater.commands.cli import FAILED, NEGATIVE
from headwater.commands.credentials import api_server
from headwater.commands.quiet import quiet
from headwater.settings.configuration import Configuration
from headwater.settings.error import SettingsError
from headwater.settings.settings import Settings

if TYPE_CHECKING:
    from headwater.advice.finding import Advice
    from headwater.advice.views import World
    from headwater.cluster.api import ApiServer

#: Seconds for one part of the advice of a running instance.
_TIMEOUT: Final = 6.0
_MOST: Final = 1 << 20
#: Objects of one page of a list (as the reflector asks for them), and pages of one list.
_PAGE: Final = 500
_PAGES: Final = 2_000
_WIDTH: Final = 100
#: What is listed of a cluster: the path, and whether there is no advice without it.
_LISTS: Final[Mapping[str, tuple[str, bool]]] = {
    "Service": ("/api/v1", True),
    "EndpointSlice": ("/apis/discovery.k8s.io/v1", True),
    "StatefulSet": ("/apis/apps/v1", False),
    "Deployment": ("/apis/apps/v1", False),
    "DaemonSet": ("/apis/apps/v1", False),
}


class NoAdvice(RuntimeError):  # noqa: N818 (what happened)
    """Nothing could be looked at: the text says why."""


def advise(configuration: Configuration, *, as_json: bool, without: Sequence[str]) -> int:
    """Print what will not work. Return 0 without any, 3 with some, 1 if nobody could look."""
    import msgspec

    from headwater.advice import finding

    known = [rule.value for rule in finding.Rule]
    for rule in without:
        if rule not in known:
            raise SettingsError("--except", f"{rule!r} is no rule: there are {', '.join(known)}")
    try:
        with quiet():
            found = finding.without(_advice(configuration), without)
    except NoAdvice as error:
        click.echo(f"headwater: {error}", err=True)
        return FAILED
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        _show(found)
    return NEGATIVE if found.findings or found.more else 0


# Where the objects come from


def _advice(configuration: Configuration) -> Advice:
    """Raises NoAdvice, SettingsError."""
    settings, origins = configuration.settings, configuration.origins
    if settings.manifests:
        return _of_manifests(settings)
    if origins["--state-dir"].where == "--state-dir":
        return _of_store(settings)
    if any(origins[flag].where == flag for flag in ("--kubeconfig", "--context")):
        return _of_cluster(settings)
    return _of_instance(settings)


def _of_manifests(settings: Settings) -> Advice:
    from headwater.advice.written import Collected
    from headwater.cluster.files import BadManifest, everything

    collected = Collected(controlled=False)
    try:
        for item in everything(settings.manifests):
            collected.add(item)
    except (BadManifest, OSError) as error:
        raise NoAdvice(str(error)) from None
    found = _of_worlds(collected.worlds(), settings)
    found.looked = collected.looked
    found.say_unknown(collected.unknown)
    return found


def _of_cluster(settings: Settings, *, for_sets: bool = False) -> Advice:
    """List the cluster's objects with the credentials of kubectl.

    With `for_sets` nothing is to be said without StatefulSets. Raises NoAdvice, SettingsError.
    """
    from headwater.advice.written import Collected

    server = api_server(settings.kubeconfig, settings.context)
    try:
        unread: list[str] = []
        # The StatefulSets first: without them other workloads would look like all that there are.
        sets = _listed(server, "StatefulSet", unread)
        if sets is None and for_sets:
            raise NoAdvice(unread[0])
        collected = Collected(controlled=True, workloads=sets is not None)
        for item in sets or ():
            collected.add(item)
        for kind in _LISTS:
            if kind != "StatefulSet":
                for item in _listed(server, kind, unread) or ():
                    collected.add(item)
    finally:
        server.close()
    found = _of_worlds(collected.worlds(), settings)
    found.looked = collected.looked
    found.say_unknown([*collected.unknown, *unread])
    return found


def _of_store(settings: Settings) -> Advice:
    from headwater.advice.finding import Looked
    from headwater.explain.advised import NO_WORKLOADS, every_world
    from headwater.explain.offline import Unusable, opened

    looked = Looked()
    try:
        with opened(Path(settings.state_dir), settings) as (reader, _):
            snapshot = reader.begin()
            if snapshot is None:
                raise NoAdvice(f"{settings.state_dir}: nothing is stored yet")
            try:
                found = _of_worlds(every_world(snapshot, looked), settings)
            finally:
                snapshot.close()
    except Unusable as error:
        raise NoAdvice(str(error)) from None
    found.looked = looked
    found.say_unknown([NO_WORKLOADS])
    return found


def _listed(server: ApiServer, kind: str, unread: list[str]) -> Iterable[Mapping[str, Any]] | None:
    """The objects of a kind, as the API server has them; None if it does not say.

    Raises NoAdvice where nothing can be said without them.
    """
    from headwater.cluster.reflector import RequestFailed

    base, needed = _LISTS[kind]
    path = f"{base}/{'endpointslices' if kind == 'EndpointSlice' else f'{kind.lower()}s'}"
    found: list[Mapping[str, Any]] = []
    token = ""
    try:
        for _ in range(_PAGES):
            query = {"limit": str(_PAGE)} | ({"continue": token} if token else {})
            body = server.read(f"{path}?{urlencode(query)}")
            page = json.loads(body) if body is not None else {}
            found += [{**item, "kind": kind} for item in page.get("items") or ()]
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return found
    except RequestFailed as error:
        why = str(error)
    except (ValueError, AttributeError, TypeError) as error:
        why = f"its reply is no list: {error}"
    else:
        why = "there are too many"
    if needed:
        raise NoAdvice(f"{kind}s cannot be listed: {why}")
    unread.append(f"{kind}s were not looked at: {why}")
    return None


def _of_worlds(worlds: Iterable[World], settings: Settings) -> Advice:
    from headwater.advice.finding import Advice
    from headwater.advice.rules import advise as judge
    from headwater.advice.views import Context

    found = Advice()
    context = Context.of(settings)
    for world in worlds:
        if settings.namespaces and world.namespace not in settings.namespaces:
            continue
        found.add(judge(world, context))
        if world.services and world.slices is None and not world.workloads:
            found.say_unknown(
                [(f"The manifests have no pods and no workloads in namespace {world.namespace}: what selectors match "
                 "there was not looked at.")]
            )  # fmt: skip
    return found


def _of_instance(settings: Settings) -> Advice:
    """Ask the running instance, and the API server for what it does not watch."""
    import os

    from headwater.advice.finding import Advice
    from headwater.explain.advised import NO_WORKLOADS

    found = _told(settings)
    if not (settings.kubeconfig or settings.context or "KUBERNETES_SERVICE_HOST" in os.environ):
        found.say_unknown(["--kubeconfig FILE looks at them, in the API server."])
        return found
    try:
        asked = _of_cluster(settings, for_sets=True)
    except (NoAdvice, SettingsError) as error:
        found.say_unknown([f"The API server was not asked: {error}"])
        return found
    # What both see is said once, by who sees more.
    known = {(one.rule, one.object) for one in asked.findings}
    asked.join(Advice([one for one in found.findings if (one.rule, one.object) not in known], found.more))
    asked.say_unknown(text for text in found.unknown if text != NO_WORKLOADS)
    return asked


def _told(settings: Settings) -> Advice:
    """The advice of a running instance, part after part. Raises NoAdvice."""
    import msgspec

    from headwater.advice.finding import Advice

    address = settings.admin
    if address is None:
        raise NoAdvice("the admin page is off: give --manifests, --kubeconfig or --state-dir, or --admin ADDRESS")
    found = Advice()
    after: str | None = ""
    while after is not None:
        body = _part(address.host, address.port, after)
        try:
            part = msgspec.json.decode(body, type=Advice)
        except msgspec.MsgspecError as error:
            raise NoAdvice(f"{address}: its advice is of another version: {error}") from None
        found.join(part)
        if part.next is not None and part.next <= after:
            raise NoAdvice(f"{address}: its advice goes in circles")
        after = part.next
    return found


def _part(host: str, port: int, after: str) -> bytes:
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT)
    try:
        connection.request("GET", f"/advice?{urlencode({'after': after})}")
        reply = connection.getresponse()
        body = reply.read(_MOST)
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NoAdvice(
            f"{host}:{port}: {why}. Does `headwater serve` run, and is --admin where it listens? Without it: "
            "--manifests PATH, --kubeconfig FILE or --state-dir DIR"
        ) from None
    finally:
        connection.close()
    if reply.status == 404:
        raise NoAdvice(f"{host}:{port}: the server there has no /advice: it is not headwater, or an older version")
    if reply.status != 200:
        raise NoAdvice(f"{host}:{port}: {body.decode(errors='replace').strip()[:500]}")
    return body


# What is printed


def _show(found: Advice) -> None:
    from headwater.explain.show import printable

    width = min(shutil.get_terminal_size((_WIDTH, 24)).columns, _WIDTH)
    for line in _lines(found, width):
        click.echo(line)
    for text in found.unknown:
        click.echo(printable(f"not looked at: {text}"), err=True)


def _lines(found: Advice, width: int) -> Iterator[str]:
    from headwater.explain.show import printable

    for one in found.findings:
        yield printable(f"{one.object}: {one.rule}")
        yield printable(f"  {one.path}")
        yield from _wrapped(printable(one.why), width)
        yield from _wrapped(printable(f"instead: {one.instead}"), width)
        yield ""
    if found.findings or found.more:
        count = len(found.findings) + found.more
        more = f", {found.more:,} of them not shown" if found.more else ""
        yield f"{count:,} {'thing' if count == 1 else 'things'} that will not work{more} (docs/advice.md)"


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent="  ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
