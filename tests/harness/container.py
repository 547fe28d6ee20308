"""An image of deploy/Dockerfile, and containers of it under runc, started as a kubelet would.

Neither a registry nor a daemon: the base comes from debootstrap (tools/image.py), and buildah
builds. Containers share the machine's network, and nothing else.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pytest

from tests.harness.plane import Running
from tools import image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

USER: Final = 65532
#: Images and layers of earlier builds, by which a build is faster, before they are removed.
_MOST_LAYERS: Final = 40
#: Shells of a Debian image. A container without one has these hidden.
SHELLS: Final = ("/usr/bin/sh", "/usr/bin/dash", "/usr/bin/bash")


def require_engine() -> None:
    """Skip a test where images cannot be built or run; fail it with CI=true where they could be."""
    missing = [name for name in ("buildah", "debootstrap", "runc") if shutil.which(name) is None]
    if os.geteuid() != 0:
        pytest.skip("images are built and run as root")
    if missing:
        reason = f"{', '.join(missing)} not installed: tools/setup packages {' '.join(missing)}"
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(reason)
        pytest.skip(reason)


@dataclass
class Store:
    """The images and containers of a test run, in a folder of their own under the tools' cache."""

    folder: Path = field(default_factory=lambda: image.CACHE / "store")
    tag: str = f"localhost/headwater:test-{hashlib.sha256(str(image.ROOT).encode()).hexdigest()[:12]}"
    """A tag for each checkout, because several may share the store."""

    @property
    def options(self) -> list[str]:
        """buildah's options for this store."""
        return ["--root", f"{self.folder}/root", "--runroot", f"{self.folder}/run", "--storage-driver", "overlay"]

    def buildah(self, *words: str | Path) -> str:
        return image.run("buildah", *self.options, *words)

    def build(self) -> None:
        """Build the base, if it is not there, and the image; layers of
        earlier runs are used again.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            base = image.bootstrap(options=self.options)
            if len(self.buildah("images", "--all", "--quiet").split()) > _MOST_LAYERS:
                self.buildah("rmi", "--prune")
            image.build("buildah", self.tag, base, options=self.options)

    def inspect(self) -> dict[str, Any]:
        """Return the image's configuration (OCI)."""
        found: dict[str, Any] = json.loads(self.buildah("inspect", "--type", "image", self.tag))["OCIv1"]
        return found

    def size(self, tag: str) -> int:
        """Return the bytes of an image's files, base included."""
        (found,) = json.loads(self.buildah("images", "--json", "--filter", f"reference={tag}"))
        unit = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
        number, name = found["size"].split()
        return int(float(number) * unit[name.upper()])


class Tree:
    """The files of an image, mounted for reading: `with Tree(store) as root`."""

    def __init__(self, store: Store, tag: str | None = None) -> None:
        self._store, self._tag = store, tag or store.tag

    def __enter__(self) -> Path:
        self._container = self._store.buildah("from", "--pull-never", self._tag)
        return Path(self._store.buildah("mount", self._container))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.buildah("rm", self._container)


class Container:
    """A container as deploy/base has it: not root, no capability, a read-only
    root, three volumes; and no shell.

    `volume` is the folder that it sees as /run/headwater. The process ends with the block.
    """

    def __init__(self, root: Path, config: dict[str, Any], arguments: Sequence[str], *, log: Path) -> None:
        self._name = f"hw-{secrets.token_hex(4)}"
        self._bundle = Path(tempfile.mkdtemp(prefix="hw-bundle-"))
        self.volume = self._bundle / "sockets"
        self._log = log
        for name in ("sockets", "state"):
            (self._bundle / name).mkdir()
            os.chown(self._bundle / name, USER, USER)
        (self._bundle / "config.json").write_text(json.dumps(self._spec(root, config["config"], arguments)))
        self.process: Running | None = None

    def _spec(self, root: Path, config: dict[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
        spec: dict[str, Any] = json.loads(
            subprocess.run(["runc", "spec", "--bundle", self._scratch()], check=True, capture_output=True).stdout
            or (self._bundle / "spec" / "config.json").read_bytes()
        )
        user, _, group = config["User"].partition(":")
        process = spec["process"]
        process["args"] = [*config["Entrypoint"], *arguments]
        process["env"] = config["Env"]
        process["user"] = {"uid": int(user), "gid": int(group)}
        process["terminal"] = False
        process["noNewPrivileges"] = True
        process["capabilities"] = {kind: [] for kind in process["capabilities"]}
        process["rlimits"] = []
        spec["root"] = {"path": str(root), "readonly": True}
        namespaces = spec["linux"]["namespaces"]
        spec["linux"]["namespaces"] = [one for one in namespaces if one["type"] not in ("network", "cgroup")]
        # The machine's network comes with its /sys, which is not needed.
        spec["mounts"] = [one for one in spec["mounts"] if not one["destination"].startswith("/sys")]
        spec["mounts"] += [
            *(
                {"destination": at, "source": str(self._bundle / name), "type": "bind", "options": ["bind", "rw"]}
                for at, name in (("/run/headwater", "sockets"), ("/var/lib/headwater", "state"))
            ),
            {"destination": "/tmp", "source": "tmpfs", "type": "tmpfs", "options": ["mode=1777"]},
            *(
                {"destination": shell, "source": "/dev/null", "type": "bind", "options": ["bind", "ro"]}
                for shell in SHELLS
                if (root / shell.lstrip("/")).exists() and not (root / shell.lstrip("/")).is_symlink()
            ),
        ]
        return spec

    def _scratch(self) -> Path:
        (self._bundle / "spec").mkdir()
        return self._bundle / "spec"

    def run(self, timeout: float = 60) -> tuple[int, str]:
        """Run it to its end. Return its exit code, and what it wrote."""
        done = subprocess.run(
            ["runc", "run", "--bundle", self._bundle, self._name], capture_output=True, text=True, timeout=timeout
        )  # fmt: skip
        shutil.rmtree(self._bundle, ignore_errors=True)
        return done.returncode, done.stdout + done.stderr

    def __enter__(self) -> Self:
        self.process = Running("runc", ["runc", "run", "--bundle", self._bundle, self._name], self._log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process is not None
        subprocess.run(["runc", "kill", self._name, "KILL"], capture_output=True, check=False)
        self.process.terminate()
        subprocess.run(["runc", "delete", "--force", self._name], capture_output=True, check=False)
        shutil.rmtree(self._bundle, ignore_errors=True)

    def pid(self) -> int:
        """Return the machine's number of the container's process 1.

        Raises CannotBuild before it has one.
        """
        return int(json.loads(image.run("runc", "state", self._name))["pid"])

    def signal(self, name: str) -> None:
        image.run("runc", "kill", self._name, name)
