#!/usr/bin/env python3
"""Build a release into dist/, and try it: `make dist`.

    tools/dist.py [FOLDER]

1. Builds the sdist and, from it, the wheel: what is missing in the one is missed in the other.
2. Checks the wheel: its metadata by the core metadata specification, its files against RECORD.
3. Installs it into an empty environment, its requirements by deploy/requirements.txt (with hashes),
   and runs `headwater demo --once --no-coredns` there, away from the checkout.
4. Writes sbom.cdx.json, a bill of materials of that environment (CycloneDX).

Needs the `release` extra. The Python that runs it is the release's: the one that
deploy/requirements.txt was made for.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from packaging.metadata import Metadata
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename

ROOT: Final = Path(__file__).resolve().parents[1]
REQUIREMENTS: Final = ROOT / "deploy" / "requirements.txt"
#: Files that a wheel must have, and that an import of the package would not miss at once.
MUST_HOLD: Final = ("headwater/py.typed", "headwater/examples/statefulset/", "headwater/__main__.py")
#: Paths that belong to a checkout only.
MUST_NOT_HOLD: Final = ("tests/", "bench/", "tools/", "__pycache__", ".so", ".env")


class NotFit(Exception):  # noqa: N818 (what the release is)
    """The release is not fit; the text says why."""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command that must succeed, without this checkout's package. Return its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["SOURCE_DATE_EPOCH"] = environment.get("SOURCE_DATE_EPOCH", "1700000000")  # equal bytes, equal hashes
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=600
    )  # fmt: skip
    if done.returncode:
        raise NotFit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def build(folder: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder)
    (sdist,) = folder.glob("*.tar.gz")
    with tempfile.TemporaryDirectory(prefix="hw-dist-") as scratch:
        with tarfile.open(sdist) as archive:
            archive.extractall(scratch, filter="data")
        (unpacked,) = Path(scratch).iterdir()
        run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=unpacked)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def check(sdist: Path, wheel: Path) -> Metadata:
    """Return the wheel's metadata. Raises NotFit for wrong metadata, names or files."""
    name, version, _, _ = parse_wheel_filename(wheel.name)
    if parse_sdist_filename(sdist.name) != (name, version):
        raise NotFit(f"{sdist.name} and {wheel.name} are not the same release")
    with zipfile.ZipFile(wheel) as archive:
        files = {item: archive.read(item) for item in archive.namelist()}
    information = f"{name.replace('-', '_')}-{version}.dist-info"
    check_record(files, f"{information}/RECORD")
    for part in MUST_HOLD:
        if not any(file.startswith(part) for file in files):
            raise NotFit(f"{wheel.name} does not hold {part}")
    for part in MUST_NOT_HOLD:
        if found := [file for file in files if file.startswith(part) or part in file.removeprefix("headwater/")]:
            raise NotFit(f"{wheel.name} holds {found[0]}")
    if f"{information}/licenses/LICENSE" not in files:
        raise NotFit(f"{wheel.name} does not hold its licence")
    return check_metadata(files[f"{information}/METADATA"])


def check_metadata(text: bytes) -> Metadata:
    """Parse the metadata strictly.

    Raises NotFit for what an index would refuse, and for missing fields.
    """
    metadata = Metadata.from_email(text, validate=True)
    if canonicalize_name(metadata.name) != "headwater":
        raise NotFit(f"the metadata names {metadata.name}")
    missing = [
        field
        for field in ("summary", "description", "license_expression", "requires_python", "classifiers", "project_urls")
        if not getattr(metadata, field)
    ]
    if missing:
        raise NotFit(f"the metadata lacks {', '.join(missing)}")
    if metadata.description_content_type != "text/markdown":
        raise NotFit(f"the description is {metadata.description_content_type}, and not text/markdown")
    return metadata


def check_record(files: dict[str, bytes], record: str) -> None:
    """Check that RECORD lists every file with its hash and size, and nothing else."""
    listed = {}
    for name, digest, size in csv.reader(io.StringIO(files[record].decode())):
        listed[name] = (digest, size)
    if listed.keys() != files.keys():
        raise NotFit(f"RECORD and the wheel differ: {sorted(listed.keys() ^ files.keys())}")
    for name, content in files.items():
        expected = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        if name != record and listed[name] != (f"sha256={expected}", str(len(content))):
            raise NotFit(f"{name} is not what RECORD says")


def try_it(wheel: Path, folder: Path) -> Path:
    """Install the wheel into an empty environment and run the demo there. Return its Python."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps")
    run(*pip, "--require-hashes", "--requirement", REQUIREMENTS, cwd=folder)
    run(*pip, wheel, cwd=folder)
    run(python, "-m", "pip", "--disable-pip-version-check", "check", cwd=folder)
    shown = run(folder / "bin" / "headwater", "demo", "--once", "--no-coredns", cwd=folder)
    if "NXDOMAIN" not in shown or "web-stateful-1" not in shown:
        raise NotFit(f"`headwater demo --once` shows something else:\n{shown}")
    run(python, "-m", "pip", "--disable-pip-version-check", "uninstall", "--quiet", "--yes", "pip", cwd=folder)
    return python


def bill_of_materials(python: Path, file: Path) -> int:
    """Write the environment's components as CycloneDX JSON. Return their number."""
    run(
        sys.executable, "-m", "cyclonedx_py", "environment", python, "--pyproject", ROOT / "pyproject.toml",
        "--output-reproducible", "--output-format", "JSON", "--output-file", file,
    )  # fmt: skip
    bill = json.loads(file.read_text())
    names = {component["name"].lower() for component in bill["components"]}
    pinned = {
        line.partition("==")[0] for line in REQUIREMENTS.read_text().splitlines() if "==" in line and line[0] != "#"
    }
    if missing := {name for name in pinned if name not in {canonicalize_name(known) for known in names}}:
        raise NotFit(f"the bill of materials lacks {sorted(missing)}")
    if bill["metadata"]["component"]["name"] != "headwater":
        raise NotFit("the bill of materials is not headwater's")
    return len(names)


def main() -> int:
    folder = Path(sys.argv[1] if sys.argv[1:] else ROOT / "dist").resolve()
    try:
        sdist, wheel = build(folder)
        metadata = check(sdist, wheel)
        print(f"{sdist.name}, {wheel.name}: {metadata.name} {metadata.version}, metadata and files as they must be")
        with tempfile.TemporaryDirectory(prefix="hw-dist-") as scratch:
            python = try_it(wheel, Path(scratch, "empty"))
            print("installed into an empty environment, and `headwater demo --once` answers")
            count = bill_of_materials(python, folder / "sbom.cdx.json")
        print(f"sbom.cdx.json: {count} components")
    except NotFit as why:
        print(f"dist: {why}", file=sys.stderr)
        return 1
    sums = "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in sorted(folder.iterdir())
    )
    (folder / "SHA256SUMS").write_text(sums)
    print(f"{folder}:\n{sums}", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
