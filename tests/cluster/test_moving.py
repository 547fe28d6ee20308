"""Every command of docs/moving.md, in the page's order: on a real API server, beside a CoreDNS as
kubeadm makes it.

What no container runtime is here for is played: the kubelet that gives CoreDNS its ConfigMap, and
the sidecar.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.cluster.test_deploy import COREDNS
from tests.harness.instance import START_TIMEOUT, Headwater
from tests.harness.plane import POD_CIDR, SERVICE_CIDR, TOOLS, Plane, Running, find_tool
from tests.harness.processes import CoreDNS, free_port, require_tool, wait_until

CHECKOUT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = CHECKOUT / "docs" / "moving.md"
PROGRAMS: Final = ("cat", "cp", "export", "headwater", "kubectl")
OBJECTS: Final = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: default}
spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: default, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
endpoints: [{addresses: [10.44.200.1], hostname: db-0}, {addresses: [10.44.200.2], hostname: db-1}]
ports: [{name: sql, port: 5432}]
"""
#: As kubeadm writes it, less what needs ports or hosts of its own.
COREFILE: Final = """\
.:53 {{
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
       kubeconfig {kubeconfig}
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }}
    forward . 127.0.0.1:{upstream}
    cache 30
    loadbalance
}}
"""
UPSTREAM: Final = """\
.:53 {
    template ANY ANY {
        rcode NXDOMAIN
        authority ". 60 IN SOA ns. hostmaster. 1 2 3 4 60"
    }
}
"""
FLAGS: Final = ("--pods", "insecure", "--ttl", "30", "--negative-ttl", "30",
                "--reverse-zone", SERVICE_CIDR, "--reverse-zone", POD_CIDR)  # fmt: skip


def commands() -> list[str]:
    """The page's commands, in its order."""
    lines = re.findall(r"^    (\S.*)$", PAGE.read_text(), re.MULTILINE)
    return [line for line in lines if line.split()[0] in PROGRAMS]


@dataclass
class Ground:
    """A cluster with its DNS server, and a shell on one of its nodes."""

    plane: Plane
    folder: Path
    kube_dns: CoreDNS
    sidecar: Headwater
    shadow: CoreDNS
    stack: ExitStack
    environment: dict[str, str] = field(default_factory=dict)
    admin: int = field(default_factory=free_port)
    listen: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    outputs: dict[str, str] = field(default_factory=dict)

    def run(self, line: str) -> None:
        """One command of the page, as somebody here would type it."""
        words = line.partition(" -- ")[2] if " exec " in line else line
        for text, here in (
            ("10.96.0.10", f"127.0.0.1:{self.kube_dns.port}"), ("10.96.0.77", f"127.0.0.1:{self.shadow.port}"),
            ("127.0.0.1:5300", self.listen), ("127.0.0.1:9354", f"127.0.0.1:{free_port()}"),
            ("--watch 8h", "--watch 3s"),
        ):  # fmt: skip
            words = words.replace(text, here)
        if words.startswith("export "):
            name, _, value = words.removeprefix("export ").partition("=")
            self.environment[name] = value
            return
        if words == "headwater serve":
            self.serve()
            return
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", words], cwd=self.folder, env=os.environ | self.environment,
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        self.outputs[line] = done.stdout
        assert done.returncode == 0, f"{line}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        if words.startswith("cp "):
            self.put_values_in(self.folder / "moving.toml")
        if "create configmap" in words:
            self.read_config_map()

    def put_values_in(self, file: Path) -> None:
        text = file.read_text()
        for example, here in (
            ("/etc/kubernetes/admin.conf", str(self.plane.kubeconfig)), ("10.96.0.0/12", SERVICE_CIDR),
            ("10.244.0.0/16", POD_CIDR), ("127.0.0.1:5300", self.listen),
            ("/tmp/headwater", str(self.folder / "state")),
        ):  # fmt: skip
            assert example in text
            text = text.replace(example, here)
        file.write_text(f'{text}\n[observing]\nadmin = "127.0.0.1:{self.admin}"\n')

    def serve(self) -> None:
        command = [sys.executable, "-m", "headwater", "serve"]
        running = Running("serve", command, self.folder / "serve.log", env=self.environment, cwd=self.folder)
        self.stack.enter_context(running)
        wait_until(lambda: "ready:" in running.log_tail(100), START_TIMEOUT, "serve says that it is ready")

    def read_config_map(self) -> None:
        """What the kubelet and CoreDNS's `reload` do."""
        corefile = self.plane.api("GET", "/api/v1/namespaces/kube-system/configmaps/coredns")["data"]["Corefile"]
        sockets = str(self.sidecar.listen.path).removesuffix(".sock")
        port = self.kube_dns.port
        self.kube_dns.stop()
        self.kube_dns = CoreDNS(
            self.folder, corefile.replace("/run/headwater/dns", sockets), port=port, name="kube-dns"
        )
        self.kube_dns.start()
        self.stack.callback(self.kube_dns.stop)

    def asked(self) -> float:
        """Queries that the sidecar has answered."""
        found = re.findall(r"^headwater_queries_total\{.*\} (\S+)", self.sidecar.admin("/metrics")[1], re.MULTILINE)
        return sum(map(float, found))


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    for name in (*TOOLS, "coredns"):
        require_tool(name)
    folder = tmp_path / "node"
    folder.mkdir()
    (tmp_path / "up").mkdir()
    for name in ("deploy", "examples"):
        (folder / name).symlink_to(CHECKOUT / name)
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "headwater").write_text(f'#!/bin/sh\nexec {sys.executable} -m headwater "$@"\n')
    (bin_ / "headwater").chmod(0o755)
    (bin_ / "kubectl").symlink_to(find_tool("kubectl"))
    with ExitStack() as stack:
        plane = stack.enter_context(Plane(tmp_path / "plane"))
        plane.apply(OBJECTS)
        plane.apply(COREDNS.replace("replicas: 0", "replicas: 1"))
        plane.apply("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: coredns, namespace: kube-system}\n")
        upstream = stack.enter_context(CoreDNS(tmp_path / "up", UPSTREAM))
        text = COREFILE.format(kubeconfig=plane.kubeconfig, upstream=upstream.port)
        config = {"metadata": {"name": "coredns", "namespace": "kube-system"}, "data": {"Corefile": text}}
        plane.api("POST", "/api/v1/namespaces/kube-system/configmaps", config)
        kube_dns = CoreDNS(folder, text, name="kube-dns")
        kube_dns.start()
        stack.callback(kube_dns.stop)
        sidecar = stack.enter_context(Headwater(tmp_path, "--kubeconfig", plane.kubeconfig, *FLAGS))
        shadow = stack.enter_context(CoreDNS(tmp_path, sidecar.grpc_corefile_stanza(), name="shadow"))
        environment = {"PATH": f"{bin_}:{os.environ['PATH']}", "KUBECONFIG": str(plane.kubeconfig)}
        yield Ground(plane, folder, kube_dns, sidecar, shadow, stack, environment)


@pytest.mark.timeout(300)
def test_every_command_of_the_page_in_its_order(ground: Ground) -> None:
    wanted = commands()
    assert len(wanted) >= 24
    switch = next(line for line in wanted if "Corefile.after --" in line or "=Corefile.after" in line)
    back = next(line for line in wanted if "=Corefile.before" in line)
    for line in wanted:
        ground.run(line)
        if line == switch:
            before = ground.asked()
            assert ground.kube_dns.records("db.default.svc.cluster.local") == ["10.44.200.1", "10.44.200.2"]
            assert ground.asked() > before, "CoreDNS asks Headwater"
        if line == back:
            before = ground.asked()
            assert ground.kube_dns.records("db.default.svc.cluster.local") == ["10.44.200.1", "10.44.200.2"]
            assert ground.asked() == before, "CoreDNS asks Headwater no more"
    verdicts = [text for line, text in ground.outputs.items() if " compare " in line and "--json" not in line]
    assert len(verdicts) == 5
    for text in verdicts:
        assert text.splitlines()[-1].startswith("ALIKE: "), text
    report = json.loads((ground.folder / "comparison.json").read_text())
    assert report["unexplained"] == 0
    assert {item["class"] for item in report["classes"]} >= {"ttl", "authority", "deviation"}
