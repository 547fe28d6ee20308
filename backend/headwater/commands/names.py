"""`headwater names`: the names of manifests or of a cluster, and what a change adds or drops."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headwater.commands.cli import FAILED, NEGATIVE
from headwater.commands.credentials import kubeconfig
from headwater.commands.help import flag
from headwater.commands.options import settings_command
from headwater.commands.previewed import PreviewedManifests
from headwater.commands.quiet import quiet
from headwater.settings.configuration import Configuration
from headwater.settings.error import SettingsError
from headwater.settings.settings import Settings

if TYPE_CHECKING:
    from headwater.explain.preview import Differences, Name
    from headwater.store.environment import Snapshot

    #: What is to be known of a store.
    Reading = Callable[[Snapshot], list[Name]]


@settings_command(
    "List the names that manifests would have.\n\nOr, with --kubeconfig or --context, those that a cluster has. "
    "StatefulSets and Deployments stand for the pods that they will have; a name made of an address that is not "
    "known yet begins with ADDRESS. The exit code is 3 when names are compared and differ, 1 when they could not be "
    "listed, else 0."
)
@flag("--diff", metavar="PATH", multiple=True,
      help="Manifests to compare with: - is gone, + is new, ~ has other types. Repeatable.")  # fmt: skip
@flag("--diff-kubeconfig", metavar="FILE", help="The cluster of this kubeconfig to compare manifests with.")
@flag("--diff-context", metavar="NAME", help="The cluster of this context to compare manifests with.")
@flag("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    configuration: Configuration,
    diff: tuple[str, ...],
    diff_kubeconfig: str | None,
    diff_context: str | None,
    as_json: bool,
) -> int:
    from headwater.cluster.files import BadManifest
    from headwater.writer.once import Unlisted

    settings = configuration.settings
    with_cluster = diff_kubeconfig is not None or diff_context is not None
    if not settings.manifests and not (settings.kubeconfig or settings.context):
        raise SettingsError("--manifests", "the manifests whose names are listed are needed, or --kubeconfig")
    if with_cluster and (diff or not settings.manifests):
        raise SettingsError("--diff-kubeconfig", "it is manifests that are compared with a cluster: --manifests PATH")
    for path in diff:
        if not Path(path).exists():
            raise SettingsError("--diff", f"{path!r} does not exist")
    try:
        with quiet():
            after: _Source = PreviewedManifests(settings.manifests) if settings.manifests else _Cluster.of(settings)
            if with_cluster:
                found = _compared(_Cluster(diff_kubeconfig, diff_context), after, settings)
            elif diff:
                found = _compared(PreviewedManifests(diff), after, settings)
            else:
                return _list(_names(after, settings), as_json=as_json)
    except (BadManifest, Unlisted, OSError) as error:
        click.echo(f"headwater: {error}", err=True)
        return FAILED
    _show(found, as_json=as_json)
    return NEGATIVE if found else 0


# Where names come from


class _Cluster:
    """A cluster, listed once."""

    def __init__(self, file: str | None, context: str | None) -> None:
        self._file = file
        self._context = context

    @classmethod
    def of(cls, settings: Settings) -> _Cluster:
        return cls(settings.kubeconfig, settings.context)

    def write(self, settings: Settings, folder: Path) -> Settings:
        """A store of it; the settings that read it. Raises SettingsError, Unlisted."""
        from headwater.cluster.api import ApiServer
        from headwater.cluster.source import selectors_of
        from headwater.writer import once

        own = replace(settings, manifests=(), kubeconfig=kubeconfig(self._file), context=self._context)
        server = ApiServer(own.kubeconfig, own.context, selectors_of(own))
        try:
            server.reload()
            once.write_cluster(own, folder / "state", server)
        finally:
            server.close()
        return own


_Source = PreviewedManifests | _Cluster


def _names(source: _Source, settings: Settings, reading: Reading | None = None) -> list[Name]:
    """Raises SettingsError, BadManifest, Unlisted, OSError."""
    from headwater.explain.offline import opened
    from headwater.explain.preview import listed

    with tempfile.TemporaryDirectory(prefix="headwater-") as folder:
        own = source.write(settings, Path(folder))
        with opened(Path(folder, "state"), own) as (reader, _):
            snapshot = reader.begin()
            if snapshot is None:
                raise OSError("the store that was just written cannot be read")
            try:
                return (reading or listed)(snapshot)
            finally:
                snapshot.close()


def _compared(before: _Source, after: _Source, settings: Settings) -> Differences:
    """Compare two sources.

    Manifests and a cluster are compared in the manifests' namespaces, or in those of --namespace.
    """
    from headwater.explain.preview import comparable, differences, namespaces_of

    manifests = [source for source in (before, after) if isinstance(source, PreviewedManifests)]
    if len(manifests) == 2:
        return differences(_names(before, settings), _names(after, settings))
    namespaces = frozenset(settings.namespaces) or namespaces_of(manifests[0].items())

    def reading(snapshot: Snapshot) -> list[Name]:
        return comparable(snapshot, settings, namespaces)

    return differences(_names(before, settings, reading), _names(after, settings, reading))


# What is printed


def _list(found: list[Name], *, as_json: bool) -> int:
    rows = [
        {"name": item.name, "types": list(item.types)}
        | ({"policy": item.policy} if item.policy else {})
        | ({"places": list(item.places)} if item.places else {})
        for item in found
    ]
    click.echo(json.dumps(rows, indent=2) if as_json else "\n".join(map(_line, found)))
    return 0


def _show(found: Differences, *, as_json: bool) -> None:
    if as_json:
        changed = [
            {"name": was.name, "before": list(was.types), "after": list(now.types)}
            | ({"places": [list(was.places), list(now.places)]} if was.places != now.places else {})
            for was, now in found.changed
        ]
        rows = {"gone": [_line(item) for item in found.gone], "new": [_line(item) for item in found.new]}
        click.echo(json.dumps({**rows, "changed": changed}, indent=2))
        return
    lines = [(item.name, f"- {_line(item)}") for item in found.gone]
    lines += [(item.name, f"+ {_line(item)}") for item in found.new]
    lines += [(was.name, f"~ {_line(was)} -> {_line(now).partition(' ')[2]}") for was, now in found.changed]
    for _, line in sorted(lines):
        click.echo(line)


def _line(item: Name) -> str:
    said = [f"by place: {', '.join(item.places)}"] if item.places else []
    said += [f"policy: {item.policy}"] if item.policy else []
    return f"{item.name} {','.join(item.types)}" + (f"  # {'; '.join(said)}" if said else "")
