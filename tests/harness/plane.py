#!/usr/bin/env python3
"""A Kubernetes control plane on loopback, with kwok in the place of the kubelets.

    python -m tests.harness.plane [--dir D]     run one until Ctrl-C and print its KUBECONFIG

The servers are the real ones: etcd, kube-apiserver, kube-controller-manager and kube-scheduler do
what they do in a cluster, so a Service, a StatefulSet and their EndpointSlices behave as they will
in production. Only the containers are missing: kwok marks pods as running and gives them addresses.
Three nodes stand in three zones.

Every component runs on ports of its own choosing, keeps them for its life, and can be killed,
paused and started again alone, because the faults of a control plane are what a watcher has to be
tested against.

Standard library only.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import http.client
import json
import os
import random
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self, TypeVar

if __name__ == "__main__":  # run as a script: the checkout is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools import build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType, TracebackType

T = TypeVar("T")

COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
"""In the order in which they start; they stop in reverse order."""

TOOLS = (*COMPONENTS, "kubectl")
"""Every binary that a plane needs."""

ZONE_OF_NODE = {"node-a": "zone-a", "node-b": "zone-b", "node-c": "zone-c"}
POD_CIDR = "10.44.0.0/16"
SERVICE_CIDR = "172.16.0.0/12"

NOT_READY_TAINT = "node.kubernetes.io/not-ready"

# Only what DNS depends on; node-lifecycle takes the not-ready taint off the nodes.
CONTROLLERS = (
    "endpointslice-controller",
    "endpointslice-mirroring-controller",
    "statefulset-controller",
    "deployment-controller",
    "replicaset-controller",
    "serviceaccount-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "pod-garbage-collector-controller",
    "garbage-collector-controller",
)

START_TIMEOUT = 60.0  # seconds; about 6 on an idle machine, but tests share theirs
STOP_TIMEOUT = 10.0  # seconds from SIGTERM to SIGKILL
LOG_LINES_IN_ERRORS = 15


class PlaneError(Exception):
    """The control plane, or a request to it, failed; the text says which part and why."""


def wait_until(
    condition: Callable[[], T],
    timeout: float,
    what: str,
    *,
    interval: float = 0.05,
    ignoring: tuple[type[Exception], ...] = (),
) -> T:
    """Call `condition` until it returns a true value, and return that.

    A failed `assert` in it means "not yet", and so do the exceptions in `ignoring`. Raises
    TimeoutError after `timeout` seconds; its text quotes the last exception, or the last false
    value.
    """
    deadline = time.monotonic() + timeout
    not_yet: tuple[type[Exception], ...] = (AssertionError, *ignoring)
    while True:
        try:
            value = condition()
            if value:
                return value
            last = f"the last value was {value!r}"
        except not_yet as error:
            last = f"the last error was {type(error).__name__}: {error}"
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s; {last}")
        time.sleep(interval)


#: Ports that were given: whoever has one may not listen on it yet.
_given: set[int] = set()


@contextmanager
def _free_ports(count: int) -> Iterator[list[int]]:
    """Ports that are free for TCP and UDP on loopback, held until the block ends.

    They lie below the kernel's range for outgoing connections: a component that is down for a while
    must find its port still free.
    """
    try:
        range_file = Path("/proc/sys/net/ipv4/ip_local_port_range")
        ceiling = int(range_file.read_text().split()[0])
    except OSError:
        ceiling = 32768
    lowest, highest = (ceiling // 2, ceiling - 1) if ceiling > 4096 else (20000, 32000)
    with ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            port = random.randint(lowest, highest)
            if port in _given:
                continue
            if len(_given) > (highest - lowest) // 2:
                _given.clear()
            with ExitStack() as attempt:
                try:
                    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                        attempt.enter_context(socket.socket(socket.AF_INET, kind)).bind(("127.0.0.1", port))
                except OSError:
                    continue
                held.push(attempt.pop_all())
                ports.append(port)
                _given.add(port)
        yield ports


def free_port() -> int:
    """Return a loopback port on which nobody listens, neither over TCP nor over UDP."""
    with _free_ports(1) as ports:
        return ports[0]


class Running:
    """A child process whose output goes to a file, and that dies with this one.

    The kernel kills the child when the *thread* that started it ends (prctl(2), PR_SET_PDEATHSIG):
    start children from the main thread. The child has a session of its own, so that Ctrl-C in a
    terminal reaches only us and components can be stopped in their order.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.command = [str(word) for word in command]
        self.log = log
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(f"{name} must be started from the main thread: it would die with this one")
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                # Not preexec_fn: libraries run handlers at a fork, and gRPC's would start threads
                # in the child.
                ["setpriv", "--pdeathsig", "KILL", *self.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else {**os.environ, **env},
                cwd=cwd,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate()

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._child.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; do nothing if the process is gone already."""
        self._child.send_signal(number)

    def pause(self) -> None:
        """Send SIGSTOP: the process lives, its sockets are open, and it is silent.

        Each thread stops when it next gets the processor or comes out of the kernel; this waits for
        all of them. Raises TimeoutError.
        """
        self.signal(signal.SIGSTOP)
        wait_until(self._is_paused, 5.0, f"{self.name} is stopped")

    def _is_paused(self) -> bool:
        try:
            states = [
                file.read_text().rpartition(")")[2].split()[0] for file in Path(f"/proc/{self.pid}/task").glob("*/stat")
            ]
        except (FileNotFoundError, ProcessLookupError):  # a thread that ended, or the process
            return not self.running
        return set(states) <= set("TtZX")

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def ask_to_stop(self) -> None:
        """Send SIGTERM, and SIGCONT, so that a paused process receives it too."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)

    def wait(self, timeout: float) -> int:
        """Wait for the end. Raises subprocess.TimeoutExpired."""
        return self._child.wait(timeout)

    def terminate(self, timeout: float = STOP_TIMEOUT) -> int:
        """Stop it with SIGTERM, and with SIGKILL if that takes longer than `timeout` seconds."""
        self.ask_to_stop()
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            return self.kill9()

    def kill9(self) -> int:
        """Send SIGKILL, and wait for the end."""
        self.signal(signal.SIGKILL)
        return self._child.wait()

    def log_tail(self, lines: int = LOG_LINES_IN_ERRORS) -> str:
        """Return the last lines of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def require_running(self) -> None:
        """Raise PlaneError with the end of the log if the process has ended."""
        status = self.returncode
        if status is not None:
            raise PlaneError(
                f"{self.name} ended with status {status}; its log ({self.log}) ends with:\n{self.log_tail()}"
            )


class Plane:
    """One control plane, which writes only into `folder`.

    `folder` may hold the data of an earlier plane, whose objects are then served again, on other
    ports. Two planes cannot share a folder at the same time. `flags` are further flags of
    components, as {"kube-apiserver": ["--v=4"]}.
    """

    def __init__(self, folder: Path, flags: Mapping[str, Sequence[str]] | None = None) -> None:
        self.folder = folder.resolve()
        self._flags = dict(flags or {})
        self.kubeconfig = self.folder / "kubeconfig"
        # The plane's own components must survive the rotation of a CA, and client-go reads a CA
        # only once.
        self._parts_kubeconfig = self.folder / "kubeconfig.parts"
        self._serving: tuple[Path, Path, bytes] | None = None
        self.logs = self.folder / "logs"
        self._token = secrets.token_hex(16)
        self._running: dict[str, Running] = {}
        self._tls: ssl.SSLContext | None = None
        self._lock: IO[str] | None = None
        self._binaries = {name: find_tool(name) for name in TOOLS}
        with _free_ports(3) as ports:
            self.etcd_port, self._etcd_peer_port, self._port = ports
        self.server = f"https://127.0.0.1:{self._port}"

    # -- the whole

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str | None = None) -> None:
        """Start one component again, on its ports and data; without a name, the whole plane.

        Returns when etcd or the API server answer, and for the whole plane when the nodes take
        pods. Any failure stops everything that had been started.
        """
        if name is not None:
            self._start_component(name)
            return
        try:
            self._prepare()
            self._start_component("etcd")
            self._start_component("kube-apiserver")
            for controller in COMPONENTS[2:]:
                self._start_component(controller)
            self._create_nodes()
            wait_until(self._settled, START_TIMEOUT, "three ready nodes and the default namespace")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop every component, the users of a server before the server."""
        self._stop_all([name for name in COMPONENTS if name not in ("etcd", "kube-apiserver")])
        self._stop_all(["kube-apiserver"])
        self._stop_all(["etcd"])
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def serve_with(self, certificate: Path, key: Path, authority: bytes) -> None:
        """Make the API server present this certificate from its next start on.

        `authority` is the certificate of its CA, in PEM. `kubeconfig` is written again at that
        start. A client that reads its credentials only once needs `kubeconfig_text`.
        """
        self._serving = (certificate, key, authority)

    def check(self) -> None:
        """Raise PlaneError if a component has ended that nobody stopped."""
        for component in self._running.values():
            component.require_running()

    # -- single components

    def process(self, name: str) -> Running:
        """Return the process of a component that was started and not stopped."""
        _require_component(name)
        if name not in self._running:
            raise PlaneError(f"{name} is not running")
        return self._running[name]

    def kill(self, name: str) -> None:
        """Kill -9 one component; `start(name)` brings it back."""
        self.process(name).kill9()
        del self._running[name]

    def terminate(self, name: str) -> None:
        """Stop one component in good order; `start(name)` brings it back."""
        self.process(name).terminate()
        del self._running[name]

    def pause(self, name: str) -> None:
        """Send SIGSTOP to one component: its connections stay open and nothing answers."""
        self.process(name).pause()

    def resume(self, name: str) -> None:
        self.process(name).resume()

    # -- talking to it

    def kubectl(self, *args: str | Path, stdin: str | None = None, timeout: float = 60) -> str:
        """Run kubectl as the administrator and return its output.

        Raises PlaneError with its stderr.
        """
        words = [str(word) for word in args]
        command = [str(self.kubectl_path), f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.folder / 'cache'}"]
        try:
            done = subprocess.run(
                command + words, input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True, text=True, timeout=timeout, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise PlaneError(f"kubectl {' '.join(words)}: no answer within {timeout:g} s") from None
        if done.returncode:
            raise PlaneError(f"kubectl {' '.join(words)}: exit status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, yaml_text: str) -> str:
        """Run `kubectl apply` on some YAML documents."""
        return self.kubectl("apply", "-f", "-", stdin=yaml_text)

    def api(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
        timeout: float = 10,
    ) -> Any:
        """Send one request to the API server, JSON in and JSON out, at
        a fiftieth of kubectl's cost.

        Raises PlaneError for any status above 299, and OSError if the server does not answer.
        """
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=timeout, context=self._tls_context())
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        if data is not None:
            headers["Content-Type"] = content_type
        response, text = _exchange(connection, method, path, data, headers)
        return json.loads(text) if "json" in response.headers.get_content_type() else text

    def etcd(self, path: str, body: object, *, timeout: float = 10) -> Any:
        """Send one request to etcd's JSON gateway, as etcd("/v3/kv/range", {"key": ...}).

        Keys and values are base64. Raises PlaneError for any status above 299, and OSError if etcd
        does not answer.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.etcd_port, timeout=timeout)
        _, text = _exchange(connection, "POST", path, json.dumps(body).encode(), {}, "etcd ")
        return json.loads(text)

    def etcd_behind(self) -> int:
        """Return how many of etcd's watches lag behind. Raises OSError if etcd does not answer."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.etcd_port}/metrics", timeout=10) as response:
            for line in response.read().decode().splitlines():
                if line.startswith("etcd_debugging_mvcc_slow_watcher_total "):
                    return int(float(line.split()[1]))
        raise PlaneError("etcd has no metric of its watches")

    def compact(self) -> int:
        """Write a revision, make etcd forget every revision before it, and return it.

        From now on etcd refuses the API server's watches from older revisions. The API server
        itself keeps some revisions that it has read. A client gets a 410 when those are gone too,
        at the latest after a restart.
        """
        written = self.etcd("/v3/kv/put", {"key": base64.b64encode(b"/compact").decode(), "value": ""})
        revision = int(written["header"]["revision"])
        self.etcd("/v3/kv/compaction", {"revision": str(revision), "physical": True})
        return revision

    @property
    def kubectl_path(self) -> Path:
        return self._binaries["kubectl"]

    @staticmethod
    def versions() -> dict[str, str]:
        """Return the versions by name: {"Kubernetes": "1.36.3", ...}."""
        tools = {"Kubernetes": "kube-apiserver", "etcd": "etcd", "kwok": "kwok"}
        return {name: build.TOOLS[tool].version() for name, tool in tools.items()}

    # -- inside

    def _prepare(self) -> None:
        """Make the folder, the lock on it, and the administrator's token."""
        self.logs.mkdir(parents=True, exist_ok=True)
        lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise PlaneError(
                f"another control plane is running in {self.folder}: stop it or name another one"
            ) from None
        self._lock = lock
        tokens = self.folder / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f'{self._token},admin,admin,"system:masters"\n')

    def _start_component(self, name: str) -> None:
        _require_component(name)
        if name in self._running and self._running[name].running:
            raise PlaneError(f"{name} is running already, as process {self._running[name].pid}")
        command = [str(self._binaries[name]), *self._arguments(name), *self._flags.get(name, ())]
        component = Running(name, command, self.logs / f"{name}.log", cwd=self.folder, env={"HOME": str(self.folder)})
        self._running[name] = component
        if name == "etcd":
            self._wait_for(component, self._etcd_ready)
        elif name == "kube-apiserver":
            self._tls = None
            self._wait_for(component, self._server_ready)
            self._write_kubeconfigs()

    def _wait_for(self, component: Running, ready: Callable[[], bool]) -> None:
        def alive_and_ready() -> bool:
            component.require_running()
            return ready()

        try:
            wait_until(alive_and_ready, START_TIMEOUT, f"{component.name} ready", ignoring=(OSError,))
        except TimeoutError as error:
            raise PlaneError(f"{error}; its log ({component.log}) ends with:\n{component.log_tail()}") from None

    def _stop_all(self, names: Sequence[str]) -> None:
        """Stop several components in parallel."""
        stopping = [self._running.pop(name) for name in names if name in self._running]
        for component in stopping:
            component.ask_to_stop()
        deadline = time.monotonic() + STOP_TIMEOUT
        for component in stopping:
            try:
                component.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                component.kill9()

    def _arguments(self, name: str) -> list[str]:
        etcd, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self._etcd_peer_port}"
        certificates = self.folder / "certificates"
        # The key that the API server makes for its TLS also signs the tokens of service accounts,
        # because the standard library cannot make a key.
        key = certificates / "apiserver.key"
        if name == "etcd":
            return [
                "--name=plane", f"--data-dir={self.folder / 'etcd'}", "--unsafe-no-fsync", "--log-level=warn",
                f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}",
                f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=plane={peer}",
            ]  # fmt: skip
        if name == "kube-apiserver":
            return [
                f"--etcd-servers={etcd}", f"--secure-port={self._port}", "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1", f"--cert-dir={certificates}",
                f"--token-auth-file={self.folder / 'tokens.csv'}", "--authorization-mode=RBAC",
                f"--service-cluster-ip-range={SERVICE_CIDR}", "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
                "--endpoint-reconciler-type=none", "--disable-admission-plugins=ServiceAccount",
                *self._serving_arguments(),
            ]  # fmt: skip
        if name == "kube-controller-manager":
            return [
                f"--kubeconfig={self._parts_kubeconfig}", "--leader-elect=false", "--secure-port=0",
                f"--controllers={','.join(CONTROLLERS)}", "--kube-api-qps=200", "--kube-api-burst=400",
                # After a minute without the API server or kwok, the nodes must not count as lost,
                # nor the pods as not ready.
                "--node-monitor-grace-period=1h", "--node-monitor-period=1s",
            ]  # fmt: skip
        if name == "kube-scheduler":
            return [f"--kubeconfig={self._parts_kubeconfig}", "--leader-elect=false", "--secure-port=0"]
        stages = sorted((self._binaries["kwok"].parent / "stages").glob("*.yaml"))
        if not stages:
            raise PlaneError(f"no stage files beside {self._binaries['kwok']}: remove that folder and run `make tools`")
        return [
            f"--kubeconfig={self._parts_kubeconfig}", "--manage-all-nodes=true", f"--cidr={POD_CIDR}",
            "--node-ip=127.0.0.1", *(f"--config={stage}" for stage in stages),
        ]  # fmt: skip

    def _etcd_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.etcd_port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except http.client.HTTPException:
            return False
        finally:
            connection.close()

    def _server_ready(self) -> bool:
        try:
            self.api("GET", "/readyz")
        except PlaneError:  # it answers, but not all of it has started
            return False
        return True

    def _settled(self) -> bool:
        self.check()
        for node in ZONE_OF_NODE:
            found = self.api("GET", f"/api/v1/nodes/{node}")
            conditions = {c["type"]: c["status"] for c in found.get("status", {}).get("conditions", [])}
            assert conditions.get("Ready") == "True", f"{node} has the conditions {conditions}"
            taints = [taint["key"] for taint in found["spec"].get("taints", [])]
            assert NOT_READY_TAINT not in taints, f"{node} has the taints {taints}"
        namespaces = self.api("GET", "/api/v1/namespaces")["items"]
        return "default" in [namespace["metadata"]["name"] for namespace in namespaces]

    def _create_nodes(self) -> None:
        existing = {node["metadata"]["name"] for node in self.api("GET", "/api/v1/nodes")["items"]}
        for name, zone in ZONE_OF_NODE.items():
            if name in existing:
                continue
            labels = {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "topology.kubernetes.io/region": "region-1",
                "topology.kubernetes.io/zone": zone,
            }
            node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
            self.api("POST", "/api/v1/nodes", node)

    def _serving_arguments(self) -> list[str]:
        if self._serving is None:
            return []
        certificate, key, _ = self._serving
        return [f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}"]

    def authority(self) -> bytes:
        """Return the CA of the API server's certificate, in PEM.

        At first the certificate is self-signed.
        """
        if self._serving is not None:
            return self._serving[2]
        return (self.folder / "certificates" / "apiserver.crt").read_bytes()

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context(cadata=self.authority().decode())
        return self._tls

    def _write_kubeconfigs(self) -> None:
        for file, text in (
            (self.kubeconfig, self.kubeconfig_text(self.authority())),
            (self._parts_kubeconfig, self.kubeconfig_text(None)),
        ):
            file.touch(mode=0o600)
            file.write_text(text)

    def kubeconfig_text(self, authority: bytes | None) -> str:
        """Return the administrator's kubeconfig with this CA; with
        None it accepts any certificate.
        """
        if authority is None:
            trust = "insecure-skip-tls-verify: true"
        else:
            trust = f"certificate-authority-data: {base64.b64encode(authority).decode()}"
        return f"""\
apiVersion: v1
kind: Config
clusters:
- name: plane
  cluster:
    server: {self.server}
    {trust}
users:
- name: admin
  user:
    token: {self._token}
contexts:
- name: plane
  context:
    cluster: plane
    user: admin
    namespace: default
current-context: plane
"""


def _exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    data: bytes | None,
    headers: Mapping[str, str],
    whose: str = "",
) -> tuple[http.client.HTTPResponse, str]:
    """Send one request on a new connection; return the reply and its text.

    Raises PlaneError for a status above 299, and OSError.
    """
    try:
        connection.request(method, path, data, headers)
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
    except http.client.HTTPException as error:
        raise ConnectionError(f"{whose}{method} {path}: {type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if response.status > 299:
        raise PlaneError(f"{whose}{method} {path}: {response.status} {response.reason}: {text[:500]}")
    return response, text


def find_tool(name: str) -> Path:
    """Return the path of a built binary. Raises PlaneError, which says how to build it."""
    binary = build.TOOLS[name].binary()
    if not binary.exists():
        raise PlaneError(
            f"{name} {build.TOOLS[name].version()} is not built: run `make tools` (looked in {binary.parent})"
        )
    return binary


def _require_component(name: str) -> None:
    if name not in COMPONENTS:
        raise PlaneError(f"no component {name!r}: one of {', '.join(COMPONENTS)}")


def _describe(plane: Plane, seconds: float) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in plane.versions().items())
    nodes = ", ".join(f"{node} ({zone})" for node, zone in ZONE_OF_NODE.items())
    return f"""
The control plane is up after {seconds:.1f} s.

  export KUBECONFIG={plane.kubeconfig}

  kubectl    {plane.kubectl_path}
  server     {plane.server}
  versions   {versions}
  nodes      {nodes}
  logs       {plane.logs}

Stop it with Ctrl-C.
"""


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Stop the plane at the first SIGINT or SIGTERM; later ones must not interrupt the stop."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run a Kubernetes control plane on loopback until Ctrl-C.")
    parser.add_argument("--dir", type=Path, help="keep its data in this folder (default: a temporary one)")
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    folder = options.dir or Path(tempfile.mkdtemp(prefix="headwater-cluster-"))
    try:
        started = time.monotonic()
        print("starting the control plane ...", flush=True)
        with Plane(folder) as plane:
            print(_describe(plane, time.monotonic() - started), flush=True)
            while True:
                time.sleep(1)
                plane.check()
    except KeyboardInterrupt:
        print("\nthe control plane is stopped")
        return 0
    except (PlaneError, TimeoutError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if options.dir is None:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
