"""Where a policy's code is, and which version of it: without running any of it.

`--policy` names MODULE:FUNCTION, or an entry point of the group `headwater.policy` of an installed
package. Its version is a digest of the source files of its top-level package, or of its one module:
another version means that stored records cannot be served (docs/policy.md).
"""

from __future__ import annotations

import hashlib
import re
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

from headwater.settings.error import SettingsError

GROUP: Final = "headwater.policy"
_FLAG: Final = "--policy"
_NAMED: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
#: Files, and bytes of them together, that make a version.
_MOST_FILES: Final = 2_000
_MOST_BYTES: Final = 64 << 20


def resolved(text: str) -> str:
    """MODULE:FUNCTION of a policy. Raises SettingsError."""
    if ":" not in text:
        from importlib.metadata import entry_points  # 2 MiB and 25 ms, which few need

        found = list(entry_points(group=GROUP, name=text))
        if not found:
            known = sorted({item.name for item in entry_points(group=GROUP)})
            more = f" (known: {', '.join(known)})" if known else ""
            raise SettingsError(_FLAG, f"{text!r} is neither MODULE:FUNCTION nor an entry point of {GROUP}{more}")
        text = found[0].value.replace(" ", "")
    if not _NAMED.fullmatch(text):
        raise SettingsError(_FLAG, f"{text!r} is not MODULE:FUNCTION")
    return text


def version(text: str) -> str:
    """A policy's name and a digest of its code. Raises SettingsError when there is none."""
    name = resolved(text)
    digest = hashlib.sha256()
    room = _MOST_BYTES
    for file in _files(name.partition(":")[0]):
        try:
            data = file.read_bytes()
        except OSError as error:
            raise SettingsError(_FLAG, f"{file}: {error.strerror}") from None
        room -= len(data)
        if room < 0:
            raise SettingsError(_FLAG, f"{name}: its package has more than {_MOST_BYTES >> 20} MiB of code")
        digest.update(b"%d %d\0" % (len(str(file.name)), len(data)) + file.name.encode() + data)
    return f"{name} {digest.hexdigest()}"


def _files(module: str) -> list[Path]:
    """The source files of a module's top-level package, or the module's own.

    Raises SettingsError.
    """
    top, *below = module.split(".")
    spec = PathFinder.find_spec(top)
    missing = SettingsError(_FLAG, f"there is no module {module}")
    if spec is None:
        raise missing
    if not spec.submodule_search_locations:
        if below or not spec.origin:
            raise missing
        return [Path(spec.origin)]
    folders = [Path(item) for item in spec.submodule_search_locations]
    wanted = [folder.joinpath(*below) for folder in folders]
    if not any(item.is_dir() or list(item.parent.glob(f"{item.name}.*")) for item in wanted):
        raise missing
    files = sorted(
        file for folder in folders for file in folder.rglob("*") if file.suffix in (".py", ".so") and file.is_file()
    )
    if len(files) > _MOST_FILES:
        raise SettingsError(_FLAG, f"{module}: its package has more than {_MOST_FILES:,} files")
    return files
