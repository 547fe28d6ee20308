"""The file systems of pods: Debian with its packages, made by debootstrap into the tools' cache.

Nothing is installed on the machine, and nothing starts: the packages are configured in a folder,
where policy-rc.d forbids services. The folder is named by what it is made of, so that a second run
makes nothing. The first run takes about two minutes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.apps import pods
from tests.harness.processes import require_tool
from tests.node.images import ImageError, mirror
from tools import build

#: Whether the long forms run: `make apps`.
LONG: Final = os.environ.get("HEADWATER_APPS") == "long"
SUITE: Final = "bookworm"
#: By system: the servers, what they need to run at all, and clients in Python.
PACKAGES: Final = {
    "rabbitmq": ("rabbitmq-server", "python3-pika"),
    "galera": ("mariadb-server", "galera-4", "rsync", "python3-pymysql"),
}
#: What a root does not need of a system. Licences stay.
_CLUTTER: Final = ("var/cache/apt", "var/lib/apt/lists", "usr/share/man", "usr/share/locale", "usr/share/info")
_RECIPE: Final = "1"
_TIMEOUT: Final = 900.0  # seconds

#: debootstrap in a mount namespace of its own: what it mounts in the folder is gone with it.
_MAKE: Final = """
set -e
mount --make-rprivate /
debootstrap --foreign --variant=minbase --include="$1" "$2" "$3" "$4"
printf '#!/bin/sh\\nexit 101\\n' > "$3/usr/sbin/policy-rc.d"
chmod +x "$3/usr/sbin/policy-rc.d"
DEBIAN_FRONTEND=noninteractive chroot "$3" /debootstrap/debootstrap --second-stage
"""


class RootError(Exception):
    """A root cannot be made here; the text says why."""


def make() -> Path:
    """Return the root with every system of PACKAGES, made if it was missing. Raises RootError."""
    packages = ",".join(sorted({name for names in PACKAGES.values() for name in names}))
    key = hashlib.sha256(f"{_RECIPE} {SUITE} {packages} {_MAKE}".encode()).hexdigest()[:12]
    folder = build.cache_folder() / "apps"
    root = folder / f"root-{key}"
    if root.exists():
        return root
    if shutil.which("debootstrap") is None:
        raise RootError("debootstrap is not installed (tools/setup packages debootstrap installs it)")
    with build.locked(folder / ".lock"):
        if root.exists():
            return root
        partial = folder / "root.partial"
        shutil.rmtree(partial, ignore_errors=True)
        print("debootstrap of RabbitMQ and MariaDB ...", flush=True)
        try:
            done = subprocess.run(
                ["unshare", "--mount", "sh", "-c", _MAKE, "make", packages, SUITE, str(partial), mirror()],
                capture_output=True, text=True, timeout=_TIMEOUT, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise RootError(f"debootstrap did not end within {_TIMEOUT:g} s") from None
        if done.returncode:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-10:])
            raise RootError(f"debootstrap: exit status {done.returncode}:\n{tail}")
        for name in _CLUTTER:
            shutil.rmtree(partial / name, ignore_errors=True)
        (partial / "disk").mkdir()  # where a pod has its volume
        for name in ("hosts", "hostname", "resolv.conf"):  # what a pod's own files are mounted on
            (partial / "etc" / name).touch()
        partial.rename(root)
    return root


def require_pods() -> None:
    """Skip or fail the test where there can be no pods, or no CoreDNS."""
    if reason := pods.unable():
        pytest.skip(reason)
    require_tool("coredns")


def of(system: str) -> Path | None:
    """Return the root of a system's pods; None for one whose pods have the machine's own files.

    Raises RootError.
    """
    return make() if system in PACKAGES else None


def require_root() -> Path:
    """Return the root; skip or fail the test where it cannot be made.

    A machine that can have no pods skips. What can be installed and is not fails with CI=true, as a
    missing tool does.
    """
    require_pods()
    try:
        return make()
    except (RootError, ImageError) as error:
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(str(error))
        pytest.skip(str(error))
