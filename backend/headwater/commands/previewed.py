"""Manifests with what controllers would make of them, for `names` and `explain`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from headwater.settings.settings import Settings

if TYPE_CHECKING:
    from headwater.explain.look import Item


class PreviewedManifests:
    """Manifests, with what controllers would make of them."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._expanded: list[Item] | None = None

    def items(self) -> list[Item]:
        """The objects. Raises BadManifest, OSError."""
        from headwater.cluster.files import BadManifest, everything
        from headwater.explain.preview import expand

        if self._expanded is None:
            try:
                self._expanded = expand(everything(self._paths))
            except BadManifest:
                raise
            except (AttributeError, TypeError, ValueError) as error:
                what = ", ".join(self._paths)
                raise BadManifest(f"{what}: a field is of another type than the API's: {error}") from None
        return self._expanded

    def write(self, settings: Settings, folder: Path) -> Settings:
        """A store of them; the settings that read it. Raises BadManifest, OSError."""
        from headwater.writer import once

        file = folder / "expanded.json"
        file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": self.items()}))
        own = replace(settings, manifests=(str(file),), kubeconfig=None, context=None)
        once.write(own, folder / "state")
        return own
