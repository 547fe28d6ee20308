#!/usr/bin/env python3
"""Build the programs that Headwater is tested, measured and shown with, from Go modules.

CoreDNS; etcd, Kubernetes's API server, controllers, scheduler and kubectl, and kwok: the control
plane of the tests; kubelet, kube-proxy and containerd: a real node; h2spec; Prometheus and
promtool; the Go echo of the benchmarks. On 2 cores all of them take 15 minutes, once. FerretDB is
built only where it is named: `make apps` does so.

    tools/build.py [NAME ...]      build what is missing (default: everything but FerretDB)
    tools/build.py --path NAME     print where NAME is, exit 1 when it is not built
    tools/build.py --env           print PATH-style settings for a shell

Binaries go to a cache folder outside the checkout (HEADWATER_CACHE, else
$XDG_CACHE_HOME/headwater, else ~/.cache/headwater), one folder per version and
recipe, so that a second clone on the same machine builds nothing. The recipe
is the module's go.mod, go.sum and Go files: a changed pin is a new folder.

Standard library only: this runs before the virtual environment exists.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Tool:
    """One binary: the module folder that pins it, and the arguments of `go build`."""

    name: str
    module: str  # folder, from tools/
    package: str  # Go package path, or "." for the module's own main
    requires: str  # the requirement in go.mod that names the version
    ldflags: str = "-s -w"
    tags: str = ""
    #: Whether it is built also where no tool is named.
    always: bool = True

    def version(self) -> str:
        """The pinned version, read from go.mod ("1.15.0")."""
        for line in (HERE / self.module / "go.mod").read_text().splitlines():
            words = line.removeprefix("require").split()
            if len(words) >= 2 and words[0] == self.requires:
                return words[1].removeprefix("v")
        raise SystemExit(f"tools/{self.module}/go.mod does not require {self.requires}")

    def folder(self) -> Path:
        """Where the built binary lives."""
        digest = hashlib.sha256(f"{self.package} {self.ldflags}{self.tags and ' ' + self.tags}".encode())
        for file in sorted((HERE / self.module).iterdir()):
            if file.name in ("go.mod", "go.sum") or file.suffix == ".go":
                digest.update(file.name.encode() + b"\0" + file.read_bytes())
        return cache_folder() / "tools" / f"{self.name}-{self.version()}-{digest.hexdigest()[:8]}"

    def binary(self) -> Path:
        return self.folder() / self.name


_KUBERNETES_LDFLAGS = "-s -w -X k8s.io/component-base/version.gitVersion=v{version}"
#: As its Makefile sets them: else `helm template` takes the cluster to be Kubernetes 1.20.
_HELM_LDFLAGS = "-s -w -X helm.sh/helm/v3/internal/version.version=v{version}" + "".join(
    f" -X helm.sh/helm/v3/pkg/{package}.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/{package}.k8sVersionMinor=36"
    for package in ("chartutil", "lint/rules")
)
#: Of thirty kinds of service discovery, that of Kubernetes alone (the module's plugins/). Its pages
#: in a browser are not in the module, and nobody here looks at them.
_PROMETHEUS_TAGS = "remove_all_sd,enable_kubernetes_sd"

TOOLS = {
    tool.name: tool
    for tool in (
        Tool("coredns", "coredns", ".", "github.com/coredns/coredns"),
        Tool("etcd", "cluster/etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
        *(
            Tool(name, "cluster/kubernetes", f"k8s.io/kubernetes/cmd/{name}", "k8s.io/kubernetes", _KUBERNETES_LDFLAGS)
            for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
        ),
        Tool("kwok", "cluster/kwok", "sigs.k8s.io/kwok/cmd/kwok", "sigs.k8s.io/kwok"),
        Tool("goecho", "../bench/goecho", ".", "google.golang.org/grpc"),
        *(
            Tool(
                name,
                "prometheus",
                f"github.com/prometheus/prometheus/cmd/{name}",
                "github.com/prometheus/prometheus",
                tags=_PROMETHEUS_TAGS,
            )
            for name in ("prometheus", "promtool")
        ),
        Tool("helm", "helm", "helm.sh/helm/v3/cmd/helm", "helm.sh/helm/v3", _HELM_LDFLAGS),
        # A real node (tests/node), in modules of its own: a new pin leaves the control plane alone.
        *(
            Tool(name, "node/kubernetes", f"k8s.io/kubernetes/cmd/{name}", "k8s.io/kubernetes", _KUBERNETES_LDFLAGS)
            for name in ("kubelet", "kube-proxy")
        ),
        *(
            Tool(
                name,
                "node/containerd",
                f"github.com/containerd/containerd/v2/cmd/{name}",
                "github.com/containerd/containerd/v2",
                "-s -w -X github.com/containerd/containerd/v2/version.Version=v{version}",
                "no_btrfs,no_zfs,no_devmapper,no_tracing",
            )
            for name in ("containerd", "containerd-shim-runc-v2", "ctr")
        ),
        Tool("pause", "node/pause", ".", "go"),
        # The MongoDB wire protocol over SQLite (tests/apps); without its PostgreSQL backend.
        Tool("ferretdb", "ferretdb", ".", "github.com/FerretDB/FerretDB", tags="ferretdb_no_postgresql", always=False),
        Tool("h2spec", "h2spec", "github.com/summerwind/h2spec/cmd/h2spec", "github.com/summerwind/h2spec"),
    )
}


def cache_folder() -> Path:
    """Return the folder for everything that outlives a checkout."""
    if named := os.environ.get("HEADWATER_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "headwater"


def find_go() -> str | None:
    """Return the go command: on PATH, or where its installer puts it."""
    return shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Allow one builder at a time, because test runs on one machine share the cache."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def build(tool: Tool, go: str) -> None:
    """Build one tool into its folder, completely or not at all."""
    target = tool.folder()
    with locked(target.parent / f".{tool.name}.lock"):
        if tool.binary().exists():
            return
        started = time.monotonic()
        partial = target.with_name(target.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        print(f"building {tool.name} {tool.version()} ...", flush=True)
        command = [
            go, "build", "-trimpath", "-buildvcs=false",
            "-ldflags", tool.ldflags.format(version=tool.version()), "-tags", tool.tags,
            "-o", str(partial / tool.name), tool.package,
        ]  # fmt: skip
        environment = os.environ | {"CGO_ENABLED": "0"}
        done = subprocess.run(command, cwd=HERE / tool.module, env=environment, check=False)
        if done.returncode:
            shutil.rmtree(partial, ignore_errors=True)
            raise SystemExit(f"building {tool.name} failed: see the messages of `go build` above")
        if tool.name == "kwok":
            _copy_kwok_stages(go, partial / "stages")
        if tool.name == "helm":
            _copy_monitoring_crds(go, partial / "crds")
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        print(f"built {tool.name} {tool.version()} in {time.monotonic() - started:.0f} s", flush=True)


def _module_files(go: str, folder: str, module: str) -> Path:
    """Where Go keeps the files of a module that the go.mod in `folder` requires."""
    subprocess.run([go, "mod", "download", module], cwd=HERE / folder, check=True)
    found = subprocess.run(
        [go, "list", "-m", "-f", "{{.Dir}}", module],
        cwd=HERE / folder, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return Path(found.stdout.strip())


def _copy_kwok_stages(go: str, target: Path) -> None:
    """Keep kwok's stage files, by which it plays the kubelet, beside it."""
    stages = _module_files(go, "cluster/kwok", "sigs.k8s.io/kwok") / "kustomize" / "stage"
    target.mkdir()
    for pattern in ("node/fast/node-initialize.yaml", "node/heartbeat/*heartbeat.yaml", "pod/fast/pod-*.yaml"):
        files = sorted(stages.glob(pattern))
        if not files:
            raise SystemExit(f"kwok's module has no {pattern}: its layout changed")
        for file in files:
            (target / file.name).write_bytes(file.read_bytes())


def _copy_monitoring_crds(go: str, target: Path) -> None:
    """Keep CRDs of the Prometheus operator, for tests of the chart's monitors, beside Helm.

    Nothing imports that module: go.mod requires it for its files, and `go mod tidy` would drop it.
    """
    module = "github.com/prometheus-operator/prometheus-operator"
    files = _module_files(go, "helm", module) / "example" / "prometheus-operator-crd"
    target.mkdir()
    for kind in ("podmonitors", "servicemonitors", "prometheusrules"):
        file = files / f"monitoring.coreos.com_{kind}.yaml"
        (target / f"{kind}.yaml").write_bytes(file.read_bytes())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(TOOLS)}")
    parser.add_argument("--path", metavar="NAME", help="print the path of a built tool")
    parser.add_argument("--env", action="store_true", help="print a PATH line with every built tool")
    options = parser.parse_args(arguments)
    unknown = [name for name in [*options.names, *filter(None, [options.path])] if name not in TOOLS]
    if unknown:
        parser.error(f"unknown tool {unknown[0]!r}: choose from {', '.join(TOOLS)}")
    if options.path:
        binary = TOOLS[options.path].binary()
        if not binary.exists():
            return 1
        print(binary)
        return 0
    if options.env:
        folders = [str(tool.folder()) for tool in TOOLS.values() if tool.binary().exists()]
        print(f'export PATH="{":".join(folders)}:$PATH"')
        return 0
    wanted = [TOOLS[name] for name in options.names] or [tool for tool in TOOLS.values() if tool.always]
    missing = [tool for tool in wanted if not tool.binary().exists()]
    if not missing:
        return 0
    go = find_go()
    if go is None:
        print(f"Go is not installed: cannot build {', '.join(t.name for t in missing)}", file=sys.stderr)
        return 1
    for tool in missing:
        build(tool, go)
    return 0


if __name__ == "__main__":
    sys.exit(main())
