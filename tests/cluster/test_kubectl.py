"""`kubectl headwater` on a real API server, whose port-forward leads to instances that run here.

kwok is the kubelet of its pods: it takes the API server's port-forward, and passes it to an address
of this machine (its ClusterPortForward). So everything between is real: the credentials, the
permissions, the WebSocket, the instances.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import shlex
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from headwater import __version__
from headwater.commands.kubectl import main

from tests.harness.instance import Headwater
from tests.harness.plane import TOOLS, Plane, PlaneError, free_port, wait_until
from tests.harness.processes import require_tool

SETTLE: Final = 45.0
DOWN: Final = "down.default.svc.cluster.local"
UP: Final = "api.default.svc.cluster.local"

OBJECTS: Final = """
apiVersion: v1
kind: Namespace
metadata: {name: headwater}
---
apiVersion: v1
kind: Service
metadata: {name: down, namespace: default}
spec: {clusterIP: None, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: down-1, namespace: default, labels: {kubernetes.io/service-name: down}}
addressType: IPv4
endpoints: [{addresses: [10.0.9.1], hostname: down-0, conditions: {ready: false}}]
ports: [{name: http, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: default}
spec: {clusterIP: 172.16.9.9, ports: [{name: http, port: 80}]}
"""


def pod(name: str, namespace: str, labels: dict[str, str], *, sidecar: bool = False) -> dict[str, Any]:
    """As deploy/base makes them, or as CoreDNS's with the sidecar."""
    ours = {"name": "headwater", "image": "none", "ports": [{"name": "headwater-http", "containerPort": 9353}]}
    other = {"name": "coredns", "image": "none", "ports": [{"name": "metrics", "containerPort": 9153}]}
    spec: dict[str, Any] = {"containers": [ours, other]}
    if sidecar:
        spec = {"initContainers": [{**ours, "restartPolicy": "Always"}], "containers": [other]}
    meta = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


BASE: Final = {"app.kubernetes.io/name": "headwater"}
COREDNS: Final = {"k8s-app": "kube-dns"}


class Pages(http.server.BaseHTTPRequestHandler):
    """An instance of another version: it keeps a history."""

    asked: Final[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        parts = urlsplit(self.path)
        name = parse_qs(parts.query).get("name", [""])[0]
        entries = [
            {"time": 1_800_000_000.0, "text": f"{name} A: + 10.0.0.1\x1b[2J"},
            {"time": "2027-01-15T08:00:05Z", "text": f"{name} A: - 10.0.0.1"},
        ]
        found = {"entries": entries, "next": None, "from": "2027-01-15T07:00:00Z", "note": "kept in memory"}
        body = json.dumps(found).encode()
        self.send_response(200 if parts.path == "/history" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Ground:
    """A control plane, two instances on it, and their pods."""

    def __init__(self, folder: Path, plane: Plane, one: Headwater, other: Headwater) -> None:
        self.folder = folder
        self.plane = plane
        self.instances = one, other

    def run(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--kubeconfig", str(self.plane.kubeconfig)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    for name in TOOLS:
        require_tool(name)
    folder = tmp_path_factory.mktemp("kubectl")
    node, closed = free_port(), free_port()
    keys = folder / "plane" / "certificates"
    flags = {
        "kube-apiserver": ["--kubelet-preferred-address-types=InternalIP"],
        "kwok": [
            f"--server-address=127.0.0.1:{node}", f"--node-port={node}", f"--config={folder / 'forwards.yaml'}",
            f"--tls-cert-file={keys / 'apiserver.crt'}", f"--tls-private-key-file={keys / 'apiserver.key'}",
        ],
    }  # fmt: skip
    plane = Plane(folder / "plane", flags)
    one = Headwater(folder, "--kubeconfig", plane.kubeconfig, name="one", workers=1)
    other = Headwater(folder, "--kubeconfig", plane.kubeconfig, "--namespace", "kube-system", name="other", workers=1)
    pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    targets = {
        ("headwater", "dns-a"): one.admin_port, ("kube-system", "coredns-b"): other.admin_port,
        ("headwater", "silent"): closed, ("default", "pages"): pages.server_address[1],
    }  # fmt: skip
    forwards = [
        {
            "kind": "ClusterPortForward", "apiVersion": "kwok.x-k8s.io/v1alpha1", "metadata": {"name": name},
            "spec": {"selector": {"matchNamespaces": [namespace], "matchNames": [name]},
                     "forwards": [{"ports": [9353], "target": {"address": "127.0.0.1", "port": port}}]},
        }
        for (namespace, name), port in targets.items()
    ]  # fmt: skip
    (folder / "forwards.yaml").write_text(yaml.safe_dump_all(forwards))
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    try:
        with plane:
            plane.apply(OBJECTS)
            objects = [
                pod("dns-a", "headwater", BASE), pod("coredns-b", "kube-system", COREDNS, sidecar=True),
                pod("pages", "default", {"app": "pages"}),
                # Not one of ours: no such port. Nor this: nobody looks into a tenant's namespace.
                {**pod("other", "kube-system", COREDNS), "spec": {"containers": [{"name": "x", "image": "none"}]}},
                pod("impostor", "default", BASE),
            ]  # fmt: skip
            plane.apply(yaml.safe_dump_all(objects))
            for item in objects:
                running(plane, item["metadata"]["namespace"], item["metadata"]["name"])
            with one, other:
                wait_until(lambda: one.records(UP) == ["172.16.9.9"], SETTLE, "the Service is served")
                yield Ground(folder, plane, one, other)
    finally:
        pages.shutdown()
        pages.server_close()


def running(plane: Plane, namespace: str, name: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"
    wait_until(lambda: plane.api("GET", path)["status"].get("phase") == "Running", SETTLE, f"{name} runs")


@pytest.fixture
def silent(ground: Ground) -> Iterator[None]:
    """A pod of ours on whose port nobody listens."""
    ground.plane.apply(yaml.safe_dump(pod("silent", "headwater", BASE)))
    running(ground.plane, "headwater", "silent")
    yield
    ground.plane.api("DELETE", "/api/v1/namespaces/headwater/pods/silent?gracePeriodSeconds=0")


def test_status_is_a_table_of_the_replicas(ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ground.run(capsys, "status")
    assert (code, err) == (0, ""), err
    head, *rows = out.splitlines()
    assert head.split()[:6] == ["REPLICA", "NODE", "READY", "AGE", "HEARD", "NAMES"]
    assert [row.split()[0] for row in rows] == ["headwater/dns-a", "kube-system/coredns-b"]
    for row in rows:
        assert re.search(rf" node-[abc] +yes +.* {re.escape(__version__)} +0\+0$", row), row
    code, out, _ = ground.run(capsys, "status", "--json", "-n", "kube-system")
    (found,) = json.loads(out)
    assert (found["pod"], found["pod_ready"], found["ready"], found["version"]) == (
        "coredns-b",
        True,
        True,
        __version__,
    )
    assert found["as_of"].keys() >= {"services", "endpointslices", "namespaces"}
    assert found["names"] > 0


def test_a_name_is_explained_by_one_replica(ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ground.run(capsys, "explain", DOWN)
    assert (code, err) == (3, "")
    assert out.startswith(f"{DOWN} A: NXDOMAIN\n")
    assert "1 endpoint, none ready" in out
    code, out, _ = ground.run(capsys, "explain", UP, "SRV", "-n", "headwater")
    assert (code, "answered" in out) == (0, True)
    code, _, err = ground.run(capsys, "explain", UP, "NONSENSE")
    assert (code, "'NONSENSE' is not a query type" in err) == (1, True)


def test_replicas_that_differ_are_marked(ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    """One serves another namespace only."""
    code, out, err = ground.run(capsys, "explain", UP, "--replicas")
    assert (code, err) == (3, "")
    table = out.split("\n\n")[0].splitlines()
    assert re.search(r"answered +Service default/api \(version \d+\)$", "\n".join(table), re.MULTILINE)
    marks = {re.findall("answer|nxdomain", line)[0]: line.startswith("!") for line in table[1:]}
    assert marks in ({"answer": False, "nxdomain": True}, {"answer": True, "nxdomain": False}), table
    assert "2 different answers" in out
    assert "172.16.9.9" in out
    assert "--namespace names kube-system only" in " ".join(out.split())
    code, out, _ = ground.run(capsys, "explain", "cluster.local", "SOA", "--replicas", "--json")
    assert [item["explanation"]["outcome"] for item in json.loads(out)] == ["answer", "answer"]


@pytest.mark.usefixtures("silent")
def test_a_replica_that_is_silent_is_named_and_the_others_answer(
    ground: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = ground.run(capsys, "status")
    (row,) = [line for line in out.splitlines() if "headwater/silent" in line]
    assert (code, "?" in row.split(), "port 9353" in row) == (3, True, True), row
    code, out, err = ground.run(capsys, "explain", DOWN, "--replicas", "-n", "headwater")
    assert (code, out.count("headwater/dns-a")) == (3, 2)
    assert "headwater/silent" in err
    ground.plane.apply(yaml.safe_dump(pod("silent", "headwater", {"app": "silent"})))
    code, _, err = ground.run(capsys, "explain", DOWN, "-n", "headwater", "-l", "app=silent")
    assert (code, "headwater/silent: " in err) == (1, True), err


def test_an_older_instance_is_said_to_have_no_history(ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ground.run(capsys, "history", DOWN, "-n", "default", "-l", "app=pages")
    assert (code, err) == (0, ""), err
    assert out.splitlines() == [
        "known since 2027-01-15T07:00:00Z",
        f"2027-01-15T08:00:00Z {DOWN} A: + 10.0.0.1\\x1b[2J",
        f"2027-01-15T08:00:05Z {DOWN} A: - 10.0.0.1",
        "kept in memory",
    ]
    ground.run(capsys, "history", "--since", "10m", "--limit", "5", "-n", "default", "-l", "app=pages")
    assert Pages.asked[-2:] == [f"/history?name={DOWN}", "/history?since=10m&limit=5"]
    # And one that knows no names at all is told from one that says no.
    code, _, err = ground.run(capsys, "explain", DOWN, "-n", "default", "-l", "app=pages")
    assert (code, "does not explain names" in err) == (1, True)


def test_pods_of_other_namespaces_are_not_believed(ground: Ground, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ground.run(capsys, "status")
    assert (code, "impostor" in out) == (0, False)
    code, _, err = ground.run(capsys, "status", "-n", "kube-public")
    assert code == 1
    assert err.startswith(
        "kubectl-headwater: no pod of Headwater runs in kube-public with the labels app.kubernetes.io"
    )


def test_what_is_missing_is_said_with_the_commands_that_give_it(
    ground: Ground, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plane = ground.plane
    plane.api("POST", "/api/v1/namespaces/headwater/serviceaccounts", {"metadata": {"name": "me"}})
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}}
    token = plane.api("POST", "/api/v1/namespaces/headwater/serviceaccounts/me/token", asked)["status"]["token"]
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    mine = tmp_path / "kubeconfig"
    mine.write_text(yaml.safe_dump(config))

    def explain() -> tuple[int, str]:
        code = main(["explain", DOWN, "-n", "headwater", "--kubeconfig", str(mine)])
        return code, capsys.readouterr().err

    def follow(text: str) -> None:
        """Type the commands that are printed."""
        commands = [shlex.split(line) for line in text.splitlines() if line.strip().startswith("kubectl -n")]
        assert len(commands) == 2, text
        for words in commands:
            plane.kubectl(*[word.replace("YOU", "system:serviceaccount:headwater:me") for word in words[1:]])

    code, text = explain()
    assert (code, "the role needs the verb" in text or "forbidden" in text) == (1, True), text
    assert "--verb=get,list --resource=pods" in text
    follow(text)
    wait_until(lambda: "pods/portforward" in explain()[1], SETTLE, "the list is allowed")
    code, text = explain()
    assert (code, "--verb=get,create --resource=pods/portforward" in text) == (1, True), text
    follow(text)
    wait_until(lambda: explain()[0] == 3, SETTLE, "it is explained")


def test_kubectl_takes_it_for_a_plug_in(ground: Ground, tmp_path: Path) -> None:
    script = tmp_path / "kubectl-headwater"
    program = "import sys; from headwater.commands.kubectl import main; sys.exit(main())"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(program)} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "KUBECONFIG": str(ground.plane.kubeconfig)}
    command = [str(ground.plane.kubectl_path), "headwater", "status"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "headwater/dns-a" in done.stdout


def test_a_server_that_is_not_there_is_one_line(
    ground: Ground, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = yaml.safe_load(ground.plane.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{free_port()}"
    elsewhere = tmp_path / "kubeconfig"
    elsewhere.write_text(yaml.safe_dump(config))
    assert main(["status", "--kubeconfig", str(elsewhere)]) == 1
    assert "cannot be reached" in capsys.readouterr().err
    assert main(["status", "--kubeconfig", str(tmp_path / "none")]) == 1
    assert "kubeconfig" in capsys.readouterr().err
    with pytest.raises(PlaneError):
        ground.plane.api("GET", "/api/v1/namespaces/none/pods/none")
