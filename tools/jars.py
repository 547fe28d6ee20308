#!/usr/bin/env python3
"""Get the Java servers that Headwater is tried with (tests/apps) by their Maven coordinates.

    tools/jars.py [NAME ...]     get what is missing (default: all of them)
    tools/jars.py --sum NAME     write tools/java/NAME/jars.sum anew, after a change of its pom.xml

tools/java/NAME/pom.xml names a server and its version; jars.sum has the SHA-256 of every jar that
it comes with. Maven gets them from whatever repository this machine is set up for. A jar that is
missing, that is not what jars.sum says, or that jars.sum does not know ends it, and nothing of what
came is kept. What is right goes to the cache of tools/build.py, one folder per version and recipe.

Standard library only: this runs before the virtual environment exists.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # run as a script: the checkout is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools import build

HERE = Path(__file__).resolve().parent / "java"

#: By its version: else Maven takes what its own default is.
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


class NotAsPinnedError(Exception):
    """The jars that came are not those of jars.sum; the message names the first that differs."""


@dataclass(frozen=True)
class Jars:
    """One server: the folder of pom.xml and jars.sum, and the artifact that gives its version."""

    name: str
    artifact: str

    def version(self) -> str:
        """Return the pinned version, read from pom.xml ("4.3.1")."""
        pattern = rf"<artifactId>{re.escape(self.artifact)}</artifactId><version>([^<]+)</version>"
        match = re.search(pattern, self.file("pom.xml").read_text())
        if match is None:
            raise SystemExit(f"tools/java/{self.name}/pom.xml does not require {self.artifact}")
        return match[1]

    def file(self, name: str) -> Path:
        return HERE / self.name / name

    def folder(self) -> Path:
        """Where the jars are, once they are got."""
        digest = hashlib.sha256(self.file("pom.xml").read_bytes() + self.file("jars.sum").read_bytes())
        return build.cache_folder() / "tools" / f"{self.name}-{self.version()}-{digest.hexdigest()[:8]}"

    def sums(self) -> dict[str, str]:
        """Return {name of the jar: its SHA-256 in hexadecimal}, from jars.sum."""
        lines = self.file("jars.sum").read_text().split("\n")
        return {name: digest for digest, _, name in (line.partition("  ") for line in lines) if name}


JARS = {jars.name: jars for jars in (Jars("kafka", "kafka_2.13"), Jars("cassandra", "cassandra-all"))}


def sums_of(folder: Path) -> dict[str, str]:
    """Return {name of the jar: its SHA-256 in hexadecimal} of the jars in a folder, by name."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("*.jar"))}


def check(wanted: dict[str, str], came: dict[str, str]) -> None:
    """Raise NotAsPinnedError unless exactly the wanted jars came, with the wanted checksums."""
    for name in sorted(wanted.keys() | came.keys()):
        if name not in came:
            raise NotAsPinnedError(f"{name} did not come")
        if name not in wanted:
            raise NotAsPinnedError(f"{name} came, and jars.sum does not know it")
        if wanted[name] != came[name]:
            raise NotAsPinnedError(f"{name} has the SHA-256 {came[name]}, and jars.sum says {wanted[name]}")


def find_maven() -> str | None:
    """Return the mvn command, if it is installed."""
    return shutil.which("mvn")


def _copy(jars: Jars, maven: str, target: Path) -> None:
    """Have Maven copy a server's jars into `target`; its own files stay out of the checkout."""
    with tempfile.TemporaryDirectory(prefix="headwater-jars-") as folder:
        pom = Path(folder) / "pom.xml"
        shutil.copyfile(jars.file("pom.xml"), pom)
        command = [
            maven, "-q", "-B", "-Dstyle.color=never", "-f", str(pom), _COPY,
            "-DincludeScope=runtime", f"-DoutputDirectory={target}", "-Dmdep.overWriteReleases=true",
        ]  # fmt: skip
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"getting {jars.name} failed: see Maven's messages above")


def get(jars: Jars, maven: str) -> None:
    """Get one server's jars into its folder, completely or not at all."""
    target = jars.folder()
    with build.locked(target.parent / f".{jars.name}.lock"):
        if target.exists():
            return
        started = time.monotonic()
        partial = target.with_name(target.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        print(f"getting {jars.name} {jars.version()} ...", flush=True)
        try:
            _copy(jars, maven, partial)
            check(jars.sums(), sums_of(partial))
        except NotAsPinnedError as error:
            raise SystemExit(f"getting {jars.name} failed: {error}") from None
        else:
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        print(f"got {jars.name} {jars.version()} in {time.monotonic() - started:.0f} s", flush=True)


def write_sums(jars: Jars, maven: str) -> None:
    """Write jars.sum of what Maven gets by pom.xml now."""
    with tempfile.TemporaryDirectory(prefix="headwater-jars-") as folder:
        _copy(jars, maven, Path(folder) / "lib")
        came = sums_of(Path(folder) / "lib")
    jars.file("jars.sum").write_text("".join(f"{digest}  {name}\n" for name, digest in came.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(JARS)}")
    parser.add_argument("--sum", metavar="NAME", help="write this one's jars.sum anew")
    options = parser.parse_args(arguments)
    for name in [*options.names, *filter(None, [options.sum])]:
        if name not in JARS:
            parser.error(f"unknown server {name!r}: choose from {', '.join(JARS)}")
    wanted = [JARS[name] for name in options.names or JARS]
    if not options.sum and all(jars.folder().exists() for jars in wanted):
        return 0
    maven = find_maven()
    if maven is None:
        print("Maven is not installed: cannot get " + ", ".join(jars.name for jars in wanted), file=sys.stderr)
        return 1
    if options.sum:
        write_sums(JARS[options.sum], maven)
        return 0
    for jars in wanted:
        get(jars, maven)
    return 0


if __name__ == "__main__":
    sys.exit(main())
