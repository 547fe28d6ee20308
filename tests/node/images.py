"""Make the node's images without a registry, with debootstrap and buildah, as root.

Archives (docker-archive) go to the folder `node` of the tools' cache, each named by what it is made
from: a second run makes nothing, and a changed source file of Headwater makes one image, on layers
that are there. `headwater` is made by deploy/Dockerfile. Its base, python:3.11-slim, is Debian 12
with Debian's own Python; it comes from the mirror of the machine's apt.
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

from tools import build

ROOT: Final = Path(__file__).resolve().parents[2]
COMMANDS: Final = ("buildah", "debootstrap", "chroot")
SUITE: Final = "bookworm"
BASE: Final = "localhost/python:3.11-slim"
PACKAGES: Final = "python3,python3-venv,ca-certificates"
CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
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


def _buildah(*words: str | Path) -> str:
    store = folder() / "buildah"
    return _run(
        ["buildah", "--root", store / "root", "--runroot", store / "run", "--storage-driver", "overlay", *words]
    ).strip()


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
    """Return the URI from which the machine's apt has Debian."""
    listed = _run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)", "Created-By: Packages"]
    )
    targets = [line.split() for line in listed.splitlines()]
    for exact in (True, False):
        for uri, codename, component in (target for target in targets if len(target) == 3):
            if component == "main" and uri.rstrip("/").endswith("/debian") and (codename == SUITE or not exact):
                return uri
    raise ImageError("the machine's apt has no mirror of Debian")


def _commit(tree: Path, name: str, *config: str) -> None:
    container = _buildah("from", "scratch")
    try:
        _buildah("copy", "-q", container, tree, "/")
        _buildah("config", *config, container)
        _buildah("commit", "-q", container, name)
    finally:
        _buildah("rm", container)


def _base() -> str:
    """Make the base in the storage unless it is there; return its key."""
    key = _digest(SUITE, PACKAGES, "1")
    marked = f"localhost/headwater-base:{key}"
    if marked in _buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
        return key
    tree = folder() / "base.partial"
    shutil.rmtree(tree, ignore_errors=True)
    print("debootstrap ...", flush=True)
    _run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, tree, mirror()])
    for name in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(tree / name, ignore_errors=True)
    # `python` and `pip` are where the real image has them.
    _run(["chroot", tree, "/usr/bin/python3", "-m", "venv", "--clear", "/usr/local"])
    path = "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    _commit(tree, BASE, "--env", path, "--env", "LANG=C.UTF-8", "--cmd", "python3")
    _buildah("tag", BASE, marked)
    shutil.rmtree(tree)
    return key


def _archive(name: str, key: str) -> Path:
    return folder() / "images" / f"{name}-{key}.tar"


def _save(image: str, archive: Path, name: str) -> Path:
    partial = archive.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    _buildah("push", "-q", image, f"docker-archive:{partial}:{image}")
    partial.rename(archive)
    others = sorted(archive.parent.glob(f"{name}-*.tar"), key=lambda file: file.stat().st_mtime)
    for old in others[:-KEPT_ARCHIVES]:
        old.unlink()
    return archive


def _of_one_file(name: str, image: str, binary: Path, user: str, capability: bytes | None = None) -> Path:
    archive = _archive(name, _digest(str(binary.parent.name), image, user))
    if archive.exists():
        return archive
    tree = folder() / f"{name}.partial"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    shutil.copy(binary, tree / name)
    if capability is not None:
        os.setxattr(tree / name, "security.capability", capability)
    _commit(tree, image, "--entrypoint", f'["/{name}"]', "--user", user, "--workingdir", "/")
    shutil.rmtree(tree)
    return _save(image, archive, name)


def _headwater() -> Path:
    base = _digest(SUITE, PACKAGES, "1")
    archive = _archive("headwater", _digest(base, *_sources()))
    if archive.exists():
        return archive
    _base()
    print("building the image headwater ...", flush=True)
    _buildah(
        "bud", "--isolation", "chroot", "--pull-never", "--layers", "-v", f"{CERTIFICATES}:{CERTIFICATES}:ro",
        "-f", ROOT / "deploy" / "Dockerfile", "-t", "headwater:0.1.0", ROOT,
    )  # fmt: skip
    _save("headwater:0.1.0", archive, "headwater")
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
