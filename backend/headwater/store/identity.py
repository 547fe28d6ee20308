"""The identity of a store: whether it may be used, and its place on disk.

It is apart from the environment, so that the supervisor can name a store, and take it back, without
lmdb.
"""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LINK: Final = "current"
PREFIX: Final = "store-"
#: The link's target after a store was taken back.
WITHDRAWN: Final = "none"
_ORIGIN: Final = "origin"
#: A file in the folder of a generation whose file cannot be trusted any more.
CONDEMNED: Final = "damaged"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity that a store must have to be used.

    `source`: a cluster or which files, and the selectors; another one discards the store. `Origin`
    says which cluster it was. `shape`: the settings that shape the records; with others they are
    compiled anew.
    """

    source: str
    shape: str

    @staticmethod
    def boot() -> bytes:
        """The id of this start of the machine."""
        try:
            return _BOOT_ID.read_bytes().strip()
        except OSError:
            return b"unknown"


@dataclass(frozen=True, slots=True)
class Origin:
    """The cluster of a store's objects. A file beside the store keeps it."""

    uid: str
    """Of the namespace kube-system: it stays when certificates and addresses change.

    "" when it was not seen.
    """
    address: str
    """The API server's URL."""

    def is_another(self, seen: Origin) -> bool:
        """Whether `seen` is another cluster: by the UIDs or, if one is unknown, by the address."""
        if self.uid and seen.uid:
            return self.uid != seen.uid
        return self.address != seen.address

    def __str__(self) -> str:
        return f"{self.address} (kube-system {self.uid or 'not seen'})"

    @staticmethod
    def read(folder: Path) -> Origin | None:
        """The origin of a generation. None when none was written; a damaged one equals no other."""
        try:
            uid, address = (folder / _ORIGIN).read_text().splitlines()
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return Origin("", "")
        return Origin(uid, address)

    def write(self, folder: Path) -> None:
        """Store it with a generation, in one step. Raises OSError."""
        file = folder / f".{_ORIGIN}"
        file.write_text(f"{self.uid}\n{self.address}\n")
        file.rename(folder / _ORIGIN)


def published(state_dir: Path) -> Path | None:
    """The folder of the published generation."""
    try:
        return state_dir / (state_dir / LINK).readlink()
    except OSError:
        return None


def is_there(state_dir: Path) -> bool:
    """Whether a store is published: it is served whatever happens to its source."""
    folder = published(state_dir)
    return folder is not None and folder.name != WITHDRAWN and folder.is_dir()


def condemn(folder: Path) -> None:
    """Mark a generation as damaged.

    The next writer makes another; readers serve the undamaged rest.

    Raises OSError.
    """
    (folder / CONDEMNED).touch()


def is_condemned(folder: Path) -> bool:
    """Whether a generation is marked as damaged.

    The watch process asks at every step: no Path is joined.
    """
    return os.path.exists(f"{folder}/{CONDEMNED}")  # noqa: PTH110


def discard(state_dir: Path) -> None:
    """Take back and remove every generation. Readers stop serving; the next writer starts empty."""
    if published(state_dir) is not None:
        point(state_dir, WITHDRAWN)
    for folder in state_dir.glob(f"{PREFIX}*"):
        shutil.rmtree(folder, ignore_errors=True)


def point(state_dir: Path, target: str) -> None:
    """Let the link name another generation, in one step.

    Raises OSError, and then leaves everything as it was.
    """
    link, place = state_dir / f".{LINK}-{secrets.token_hex(4)}", state_dir / LINK
    link.symlink_to(target)
    try:
        if place.is_dir() and not place.is_symlink():  # as who copies a state directory may make it of the link
            place.rename(state_dir / f"{PREFIX}{secrets.token_hex(4)}")
        link.rename(place)
    except OSError:
        link.unlink(missing_ok=True)
        raise
