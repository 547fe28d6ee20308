"""Make the node's images without a registry, with debootstrap and buildah, as root.

Archives (docker-archive) go to the folder `node` of the tools' cache, each named by what it is made
from: a second run makes nothing, and a changed source file of Headwater makes one image, on layers
that are there. `headwater` is what `tools/image.py --bootstrap` makes of deploy/Dockerfile.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tools import build, image

ROOT: Final = Path(__file__).resolve().parents[2]
COMMANDS: Final = ("buildah", "debootstrap", "chroot")
#: Intermediate images that one storage keeps before they are thrown away.
MOST_IMAGES: Final = 30
#: Archives of one name: test runs of other checkouts may be reading an older one.
KEPT_ARCHIVES: Final = 4
#: What setcap writes for cap_net_bind_service=+ep (linux/capability.h, VFS_CAP_REVISION_2).
BIND_CAPABILITY: Final = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)


class ImageError(Exception):
    """An image cannot be made here; the text says why."""


def folder() -> Path:
    return build.cache_folder() / "node"


def _run(command: Sequence[str | Path], **more: str) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | more)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise ImageError(f"{' '.join(words[:8])}: exit status {done.returncode}:\n{tail}")
    return done.stdout


def _store() -> list[str]:
    """Return the options that give buildah a storage of its own."""
    store = folder() / "buildah"
    return ["--root", str(store / "root"), "--runroot", str(store / "run"), "--storage-driver", "overlay"]


def _buildah(*words: str | Path) -> str:
    return _run(["buildah", *_store(), *words]).strip()


def _digest(*parts: bytes | str | Path) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:12]


def _sources() -> Iterator[bytes | str | Path]:
    """Yield all that deploy/Dockerfile may copy: the exceptions of its .dockerignore."""
    yield ROOT / "deploy" / "Dockerfile"
    for line in (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines():
        if not line.startswith("!"):
            continue
        named = ROOT / line[1:]
        files = sorted(named.rglob("*")) if named.is_dir() else [named]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                yield str(file.relative_to(ROOT))
                yield file


def mirror() -> str:
    """Return the URI from which the machine's apt has Debian. Raises ImageError."""
    if (found := image.mirror()) is None:
        raise ImageError("the machine's apt has no mirror of Debian")
    return found


def _commit(tree: Path, name: str, *config: str) -> None:
    container = _buildah("from", "scratch")
    try:
        _buildah("copy", "-q", container, tree, "/")
        _buildah("config", *config, container)
        _buildah("commit", "-q", container, name)
    finally:
        _buildah("rm", container)


def _archive(name: str, key: str) -> Path:
    return folder() / "images" / f"{name}-{key}.tar"


def _save(tag: str, archive: Path, name: str) -> Path:
    partial = archive.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    _buildah("push", "-q", tag, f"docker-archive:{partial}:{tag}")
    partial.rename(archive)
    others = sorted(archive.parent.glob(f"{name}-*.tar"), key=lambda file: file.stat().st_mtime)
    for old in others[:-KEPT_ARCHIVES]:
        old.unlink()
    return archive


def _of_one_file(name: str, tag: str, binary: Path, user: str, capability: bytes | None = None) -> Path:
    archive = _archive(name, _digest(str(binary.parent.name), tag, user))
    if archive.exists():
        return archive
    tree = folder() / f"{name}.partial"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    shutil.copy(binary, tree / name)
    if capability is not None:
        os.setxattr(tree / name, "security.capability", capability)
    _commit(tree, tag, "--entrypoint", f'["/{name}"]', "--user", user, "--workingdir", "/")
    shutil.rmtree(tree)
    return _save(tag, archive, name)


def of_root(name: str, tag: str, root: Path, *config: str) -> Path:
    """Return the archive of an image that is this root, named by the root's name and `config`.

    Raises ImageError.
    """
    (folder() / "images").mkdir(parents=True, exist_ok=True)
    with build.locked(folder() / ".lock"):
        archive = _archive(name, _digest(root.name, tag, *config))
        if not archive.exists():
            _commit(root, tag, *config)
            _save(tag, archive, name)
        return archive


def _headwater() -> Path:
    archive = _archive("headwater", _digest(Path(image.__file__), *_sources()))
    if archive.exists():
        return archive
    print("building the image headwater ...", flush=True)
    tag = f"headwater:{image.version()}"
    try:
        image.build("buildah", tag, image.bootstrap(options=_store()), options=_store())
    except image.CannotBuild as error:
        raise ImageError(str(error)) from None
    _save(tag, archive, "headwater")
    if len(_buildah("images", "-a", "-q").split()) > MOST_IMAGES:
        _buildah("rmi", "--prune", "--force")
    return archive


def make() -> dict[str, Path]:
    """Return the archive of each image, made if it was missing. Raises ImageError."""
    for command in COMMANDS:
        if shutil.which(command) is None:
            raise ImageError(f"{command} is not installed")
    (folder() / "images").mkdir(parents=True, exist_ok=True)
    with build.locked(folder() / ".lock"):
        return {
            "pause": _of_one_file("pause", "localhost/pause:1", build.TOOLS["pause"].binary(), "65535:65535"),
            "coredns": _of_one_file(
                "coredns",
                f"coredns/coredns:{build.TOOLS['coredns'].version()}",
                build.TOOLS["coredns"].binary(),
                "65532:65532",
                BIND_CAPABILITY,
            ),
            "headwater": _headwater(),
        }
