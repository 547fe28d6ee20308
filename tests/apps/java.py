"""Java servers: their jars from the tools' cache (tools/jars.py), and the options of small JVMs.

A JVM keeps the address of a name for 30 s and a failure for 10 s, whatever TTL DNS gave
(networkaddress.cache.ttl and networkaddress.cache.negative.ttl). `test_java` holds what changes it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tools import jars

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE: Final = Path(__file__).resolve().parent


def folder(name: str) -> Path:
    """Return the folder with a server's jars; `require` has seen that it is there."""
    return jars.JARS[name].folder()


def require(name: str, programs: Sequence[str] = ("java", "javac")) -> Path:
    """Return the folder with a server's jars, got by Maven if they are missing.

    Without Java or Maven the test is skipped, and fails with CI=true, where a skipped test would
    look like a passed one.
    """
    server = jars.JARS[name]
    needed = [*programs, *([] if server.folder().exists() else ["mvn"])]
    if missing := [program for program in needed if shutil.which(program) is None]:
        reason = f"{name} {server.version()} needs {', '.join(missing)} (tools/setup packages installs them)"
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        jars.get(server, shutil.which("mvn") or "")
    except SystemExit as error:
        pytest.fail(str(error))
    return server.folder()


def options(heap: int) -> list[str]:
    """Return the options of a JVM with a heap of so many MiB, on few cores.

    Its performance counters are off: JVMs of several pods would share one folder of files that are
    named by process numbers, which are the same in each pod.
    """
    return [
        f"-Xms{heap}m", f"-Xmx{heap}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
        "-Djava.awt.headless=true",
    ]  # fmt: skip
