#!/usr/bin/env python3
"""Build the image: `make image`.

    tools/image.py [--tag NAME:TAG] [--base REFERENCE | --bootstrap] [--engine NAME] [--sbom FILE]

With the first of docker, podman and buildah that works here. The base is python:3.11-slim, or what
`--base` names: give a digest (NAME@sha256:...) to build the same again. `--bootstrap` needs no
registry: debootstrap makes a base of Debian 12, whose Python is 3.11 too. That needs root, buildah
and debootstrap. Beside the image it writes the image's bill of materials, which the image also has
at /opt/headwater/share/sbom.cdx.json.

Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
CACHE: Final = Path(os.environ.get("HEADWATER_CACHE") or Path.home() / ".cache" / "headwater") / "images"
ENGINES: Final = ("docker", "podman", "buildah")
#: Where the image has its bill of materials.
SBOM: Final = "/opt/headwater/share/sbom.cdx.json"
#: What `--bootstrap` makes: python:3.11-slim in all that deploy/Dockerfile needs of it.
BOOTSTRAPPED: Final = "localhost/headwater-base:bookworm"
_SUITE: Final = "bookworm"
_PATH: Final = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
#: What an image does not need of a system. Licences stay (usr/share/doc/*/copyright).
_CLUTTER: Final = (
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "var/log",
)


class CannotBuild(Exception):  # noqa: N818 (it says what is so)
    """There is nothing here to build an image with; the text says what is missing."""


def run(*command: str | Path) -> str:
    """Run a command that must succeed, and return its output.

    Raises CannotBuild with its errors.
    """
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise CannotBuild(f"{' '.join(map(str, command))} failed:\n{tail}")
    return done.stdout.strip()


def engine() -> str:
    """Return the first engine that works here. Raises CannotBuild."""
    for name in ENGINES:
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True, check=False).returncode == 0:
            return name
    raise CannotBuild(f"none of {', '.join(ENGINES)} works here: install one (a docker client needs its daemon)")


def version() -> str:
    """Return the version of this checkout."""
    found = re.search(r'^__version__ = "(.*)"$', (ROOT / "backend/headwater/__init__.py").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def arguments(base: str) -> dict[str, str]:
    """Return the build's arguments: the base, and what the labels say of this checkout."""
    found = {"BASE": base, "VERSION": version()}
    try:
        found["REVISION"] = run("git", "rev-parse", "HEAD") + ("-dirty" if run("git", "status", "--porcelain") else "")
        # The time of the commit, so that one commit makes one image.
        found["CREATED"] = run("git", "show", "--no-patch", "--format=%cI", "HEAD")
    except (CannotBuild, FileNotFoundError):
        pass  # an unpacked release has no commits
    return found


def build(name: str, tag: str, base: str, *, options: Sequence[str] = (), file: Path | None = None) -> None:
    """Build the image with an engine; `options` go before the engine's command."""
    given = [word for key, value in arguments(base).items() for word in ("--build-arg", f"{key}={value}")]
    special = []
    if name == "buildah":
        # Without a network of its own, which it would have to set up. pip needs the machine's
        # certificates.
        special = ["--isolation", "chroot", "--layers"]
        certificates = Path("/etc/ssl/certs/ca-certificates.crt")
        if certificates.exists():
            special += ["--volume", f"{certificates}:{certificates}:ro"]
        if base.startswith("localhost/"):
            special.append("--pull-never")
    verb = "build-using-dockerfile" if name == "buildah" else "build"
    dockerfile = file or ROOT / "deploy" / "Dockerfile"
    run(name, *options, verb, *special, *given, "--file", str(dockerfile), "--tag", tag, str(ROOT))


def copy_out(name: str, tag: str, path: str, *, options: Sequence[str] = ()) -> bytes:
    """Return a file of an image, without starting anything in it."""
    if name == "buildah":
        container = run(name, *options, "from", "--pull-never", tag)
        try:
            return (Path(run(name, *options, "mount", container)) / path.lstrip("/")).read_bytes()
        finally:
            run(name, *options, "rm", container)
    container = run(name, "create", tag)
    try:
        listed = subprocess.run([name, "cp", f"{container}:{path}", "-"], capture_output=True, check=True).stdout
    finally:
        run(name, "rm", container)
    with tarfile.open(fileobj=io.BytesIO(listed)) as archive:
        (member,) = archive.getmembers()
        content = archive.extractfile(member)
        assert content is not None
        return content.read()


def mirror() -> str | None:
    """Return the URI from which the machine's apt has Debian; None where apt does not say."""
    form = "$(REPO_URI) $(CODENAME) $(COMPONENT)"
    try:
        listed = run("apt-get", "indextargets", "--format", form, "Created-By: Packages")
    except (CannotBuild, FileNotFoundError):
        return None
    targets = [target for line in listed.splitlines() if len(target := line.split()) == 3]
    for exact in (True, False):
        for uri, codename, component in targets:
            if component == "main" and uri.rstrip("/").endswith("/debian") and (codename == _SUITE or not exact):
                return uri
    return None


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Let one process at a time make a base: they share the folder."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def bootstrap(*, options: Sequence[str] = ()) -> str:
    """Make a base without a registry, unless it is there. Return its reference.

    It comes from the mirror of the machine's apt, where that has Debian. One process makes it;
    others wait. Raises CannotBuild.
    """
    for command, package in (("buildah", "buildah"), ("debootstrap", "debootstrap")):
        if not shutil.which(command):
            raise CannotBuild(f"{command} is not installed: apt-get install {package}")
    if os.geteuid() != 0:
        raise CannotBuild("debootstrap needs root")
    buildah = ("buildah", *options)
    with _locked():
        if run(*buildah, "images", "--quiet", "--filter", f"reference={BOOTSTRAPPED}"):
            return BOOTSTRAPPED
        tree = CACHE / f"{_SUITE}-python"
        if not (tree / "complete").exists():
            shutil.rmtree(tree, ignore_errors=True)
            where = mirror()
            packages = "python3,python3-venv,ca-certificates"
            run(
                "debootstrap", "--variant=minbase", f"--include={packages}", _SUITE, tree, *([where] if where else ())
            )  # fmt: skip
            for folder in _CLUTTER:
                shutil.rmtree(tree / folder, ignore_errors=True)
                (tree / folder).mkdir()
            # `python` and `pip` are where python:3.11-slim has them.
            run("chroot", tree, "/usr/bin/python3", "-m", "venv", "--clear", "/usr/local")
            (tree / "complete").touch()
        container = run(*buildah, "from", "scratch")
        try:
            run(*buildah, "copy", "--quiet", container, tree, "/")
            run(*buildah, "config", "--env", f"PATH={_PATH}", "--env", "LANG=C.UTF-8", "--cmd", "python3", container)
            run(*buildah, "commit", "--quiet", container, BOOTSTRAPPED)
        finally:
            run(*buildah, "rm", container)
        return BOOTSTRAPPED


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tag", default=f"headwater:{version()}", help="the image's name (default: %(default)s)")
    base = parser.add_mutually_exclusive_group()
    base.add_argument("--base", default="python:3.11-slim", help="the image to start from (default: %(default)s)")
    base.add_argument("--bootstrap", action="store_true", help="make the base with debootstrap, without a registry")
    parser.add_argument("--engine", choices=ENGINES, help="what builds (default: the first that works)")
    parser.add_argument("--sbom", type=Path, default=ROOT / "dist" / "image.cdx.json", metavar="FILE",
                        help="where the bill of materials goes")  # fmt: skip
    chosen = parser.parse_args()
    try:
        name = chosen.engine or ("buildah" if chosen.bootstrap else engine())
        reference = bootstrap() if chosen.bootstrap else chosen.base
        print(f"{name} builds {chosen.tag} from {reference}", flush=True)
        build(name, chosen.tag, reference)
        chosen.sbom.parent.mkdir(parents=True, exist_ok=True)
        chosen.sbom.write_bytes(copy_out(name, chosen.tag, SBOM))
    except CannotBuild as why:
        print(f"image: {why}", file=sys.stderr)
        return 1
    print(f"{chosen.tag}; its bill of materials: {chosen.sbom}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
