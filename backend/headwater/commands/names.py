"""`headwater names`: the names that manifests would have, and those that a change adds or drops."""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from headwater.commands.cli import FAILED, NEGATIVE
from headwater.commands.help import flag
from headwater.commands.options import settings_command
from headwater.settings.configuration import Configuration
from headwater.settings.error import SettingsError
from headwater.settings.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headwater.explain.preview import Name


@settings_command(
    "List the names that manifests would have.\n\nStatefulSets and Deployments stand for the pods that they will "
    "have; a name made of an address that is not known yet begins with ADDRESS. The exit code of --diff is 3 when "
    "names differ, else 0."
)
@flag("--diff", metavar="PATH", multiple=True, help="Manifests to compare with: - is gone, + is new. Repeatable.")
@flag("--json", "as_json", is_flag=True, help="Print JSON.")
def command(configuration: Configuration, diff: tuple[str, ...], as_json: bool) -> int:
    from headwater.cluster.files import BadManifest

    settings = configuration.settings
    if not settings.manifests:
        raise SettingsError("--manifests", "the manifests whose names are listed are needed")
    logging.getLogger("headwater").setLevel(logging.CRITICAL)  # what is wrong is raised, too
    try:
        found = _names(settings, settings.manifests)
        before = _names(settings, diff) if diff else None
    except (BadManifest, OSError) as error:
        click.echo(f"headwater: {error}", err=True)
        return FAILED
    if before is None:
        rows = [{"name": item.name, "types": list(item.types)} for item in found]
        click.echo(json.dumps(rows, indent=2) if as_json else "\n".join(_line(item) for item in found))
        return 0
    gone, new = sorted(set(before) - set(found)), sorted(set(found) - set(before))
    if as_json:
        click.echo(json.dumps({"gone": [_line(item) for item in gone], "new": [_line(item) for item in new]}, indent=2))
    else:
        marked = [*((item, "-") for item in gone), *((item, "+") for item in new)]
        for item, mark in sorted(marked):
            click.echo(f"{mark} {_line(item)}")
    return NEGATIVE if gone or new else 0


def _line(item: Name) -> str:
    return f"{item.name} {','.join(item.types)}"


def _names(settings: Settings, paths: Sequence[str]) -> list[Name]:
    """Raises BadManifest, OSError."""
    from headwater.cluster.files import BadManifest, everything
    from headwater.explain.offline import opened
    from headwater.explain.preview import expand, listed
    from headwater.writer import once

    for path in paths:
        if not Path(path).exists():
            raise SettingsError("--diff", f"{path!r} does not exist")
    with tempfile.TemporaryDirectory(prefix="headwater-") as folder:
        file = Path(folder, "expanded.json")
        try:
            items = expand(everything(paths))
        except BadManifest:
            raise
        except (AttributeError, TypeError, ValueError) as error:
            raise BadManifest(f"{', '.join(paths)}: a field is of another type than the API's: {error}") from None
        file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        own = replace(settings, manifests=(str(file),))
        once.write(own, Path(folder, "state"))
        with opened(Path(folder, "state"), own) as (reader, _):
            snapshot = reader.begin()
            if snapshot is None:
                raise OSError("the store that was just written cannot be read")
            try:
                return listed(snapshot)
            finally:
                snapshot.close()
