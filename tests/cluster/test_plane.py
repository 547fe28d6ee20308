"""The control plane for tests behaves as the other tests assume."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import load
from tests.harness.plane import COMPONENTS, ZONE_OF_NODE, Plane, PlaneError
from tests.harness.processes import CoreDNS, Running, free_port, on_loopback, require_tool, wait_until
from tools import build

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).resolve().parents[2]
SETTLE = 60.0  # seconds: for controllers on a busy machine

STATEFUL = """\
apiVersion: v1
kind: Service
metadata: {name: db}
spec:
  clusterIP: None
  selector: {app: db}
  ports: [{name: sql, port: 5432}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 3
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers: [{name: db, image: db}]
"""


def apply_stateful(plane: Plane, namespace: str) -> None:
    plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=STATEFUL)


def pod_addresses(plane: Plane, namespace: str) -> dict[str, str]:
    """Return the address of every pod that has one."""
    pods = plane.api("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
    return {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in pods if "podIP" in pod["status"]}


def all_pod_addresses(plane: Plane, namespace: str, count: int) -> dict[str, str]:
    """Wait for the addresses of `count` pods, and return them."""

    def found() -> dict[str, str]:
        addresses = pod_addresses(plane, namespace)
        assert len(addresses) == count, f"only {addresses}"
        return addresses

    return wait_until(found, SETTLE, f"{count} pods with addresses")


def endpoints(plane: Plane, namespace: str, service: str) -> list[dict[str, Any]]:
    """Return every endpoint of a Service, from all its slices."""
    selector = f"labelSelector=kubernetes.io/service-name%3D{service}"
    found = plane.api("GET", f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?{selector}")["items"]
    return [endpoint for item in found for endpoint in item["endpoints"] or []]


def ready_hostnames(plane: Plane, namespace: str, service: str) -> dict[str, str]:
    """Return the addresses of the ready endpoints by hostname."""
    return {
        endpoint["hostname"]: endpoint["addresses"][0]
        for endpoint in endpoints(plane, namespace, service)
        if endpoint["conditions"]["ready"]
    }


@pytest.fixture
def restored(plane: Plane) -> Iterator[Plane]:
    """Yield the plane to a test that breaks it; start missing components again afterwards."""
    yield plane
    for name in COMPONENTS:
        try:
            plane.resume(name)
        except PlaneError:
            plane.start(name)


def test_three_ready_nodes_stand_in_three_zones(plane: Plane) -> None:
    nodes = plane.api("GET", "/api/v1/nodes")["items"]
    zones = {node["metadata"]["name"]: node["metadata"]["labels"]["topology.kubernetes.io/zone"] for node in nodes}
    assert zones == {"node-a": "zone-a", "node-b": "zone-b", "node-c": "zone-c"}
    for node in nodes:
        assert ("Ready", "True") in {(c["type"], c["status"]) for c in node["status"]["conditions"]}
        assert "taints" not in node["spec"]


def test_kubeconfig_works_with_certificate_verification(plane: Plane) -> None:
    assert "insecure" not in plane.kubeconfig.read_text()
    assert plane.kubectl("auth", "can-i", "delete", "nodes").strip() == "yes"
    assert plane.kubeconfig.stat().st_mode & 0o077 == 0


def test_stateful_set_gets_addresses_and_slices_with_hostnames(plane: Plane, namespace: str) -> None:
    apply_stateful(plane, namespace)
    pods = all_pod_addresses(plane, namespace, 3)
    assert pods.keys() == {"db-0", "db-1", "db-2"}
    assert all(address.startswith("10.44.") for address in pods.values())

    def slices_follow() -> bool:
        assert ready_hostnames(plane, namespace, "db") == pods
        return True

    wait_until(slices_follow, SETTLE, "the slices have the pods' hostnames and addresses", ignoring=(KeyError,))
    zones = {endpoint["nodeName"]: endpoint["zone"] for endpoint in endpoints(plane, namespace, "db")}
    assert zones.items() <= ZONE_OF_NODE.items()


def test_objects_survive_kill_9_of_the_api_server(restored: Plane, namespace: str) -> None:
    plane = restored
    apply_stateful(plane, namespace)
    before = all_pod_addresses(plane, namespace, 3)
    pid = plane.process("kube-apiserver").pid
    plane.kill("kube-apiserver")
    with pytest.raises(OSError, match="refused"):
        plane.api("GET", "/readyz")

    plane.start("kube-apiserver")
    assert plane.process("kube-apiserver").pid != pid
    assert pod_addresses(plane, namespace) == before

    # The controllers and the nodes' pods recover by themselves.
    plane.kubectl("scale", "-n", namespace, "statefulset/db", "--replicas=4")
    wait_until(lambda: "db-3" in ready_hostnames(plane, namespace, "db"), SETTLE, "a fourth endpoint")
    plane.check()


def test_objects_survive_kill_9_of_etcd(restored: Plane, namespace: str) -> None:
    plane = restored
    plane.kubectl("create", "configmap", "-n", namespace, "kept", "--from-literal=a=b")
    plane.kill("etcd")
    plane.start("etcd")

    def kept() -> bool:
        found = plane.api("GET", f"/api/v1/namespaces/{namespace}/configmaps/kept")
        return bool(found["data"] == {"a": "b"})

    wait_until(kept, SETTLE, "the object is served again", ignoring=(OSError, PlaneError))


def test_paused_api_server_is_silent_and_goes_on(restored: Plane) -> None:
    plane = restored
    plane.pause("kube-apiserver")
    with pytest.raises(TimeoutError):
        plane.api("GET", "/readyz", timeout=0.5)
    plane.resume("kube-apiserver")
    assert plane.api("GET", "/readyz", timeout=30) == "ok"


def test_dead_component_is_reported_with_its_log(restored: Plane) -> None:
    plane = restored
    plane.process("kube-scheduler").kill9()
    with pytest.raises(PlaneError, match=r"kube-scheduler ended with status -9; its log"):
        plane.check()
    plane.start("kube-scheduler")
    plane.check()


def test_errors_name_what_was_wrong(plane: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlaneError, match=r"kubectl get nonsense: .*the server doesn't have a resource type"):
        plane.kubectl("get", "nonsense")
    with pytest.raises(PlaneError, match="no component 'kubelet'"):
        plane.kill("kubelet")
    with pytest.raises(PlaneError, match=r"kwok is running already"):
        plane.start("kwok")
    with pytest.raises(PlaneError, match=r"another control plane is running in"):
        Plane(plane.folder).start()
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path))
    with pytest.raises(PlaneError, match=r"etcd [0-9.]+ is not built: run `make tools`"):
        Plane(tmp_path / "other")


def test_stopped_plane_leaves_no_process_and_starts_again_with_its_objects(tmp_path: Path) -> None:
    with Plane(tmp_path) as first:
        first.kubectl("create", "configmap", "kept", "--from-literal=a=b")
        pids = [first.process(name).pid for name in COMPONENTS]
        first.pause("kwok")  # a paused process has to stop as well
    assert [pid for pid in pids if process_runs(pid)] == []
    with Plane(tmp_path) as second:
        assert second.api("GET", "/api/v1/namespaces/default/configmaps/kept")["data"] == {"a": "b"}


def test_start_fails_with_the_log_of_the_component_that_died(tmp_path: Path) -> None:
    (tmp_path / "etcd").write_text("a file where etcd wants its folder")
    broken = Plane(tmp_path)
    with pytest.raises(PlaneError, match=r"(?s)etcd ended with status \d+; its log .*ends with:\n.*not a directory"):
        broken.start()
    with pytest.raises(PlaneError, match="etcd is not running"):
        broken.process("etcd")


def test_children_die_with_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from tests.harness.plane import Running;"
        "child = Running('sleep', ['sleep', '600'], Path(sys.argv[1]) / 'child.log');"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    with Running("parent", [sys.executable, "-c", script, tmp_path], tmp_path / "log", cwd=CHECKOUT) as parent:
        child = int(wait_until(parent.log_tail, 10, "the parent prints the pid of its child"))
        assert Path(f"/proc/{child}").exists()
        parent.kill9()
    wait_until(lambda: not process_runs(child), 10, f"process {child} ends")


def process_runs(pid: int) -> bool:
    """Return whether a process runs; a zombie, which nobody has reaped yet, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_script_prints_a_kubeconfig_and_stops_cleanly(tmp_path: Path, number: signal.Signals, plane: Plane) -> None:
    script = CHECKOUT / "tests" / "harness" / "plane.py"
    log = tmp_path / "script.log"
    with Running("plane.py", [sys.executable, script, "--dir", tmp_path / "data"], log) as running:

        def announced() -> bool:
            running.require_running()
            return "Ctrl-C" in running.log_tail(20)

        wait_until(announced, SETTLE, "the script says that the plane is up")
        exported = next(line for line in log.read_text().splitlines() if "export KUBECONFIG=" in line)
        kubeconfig = exported.partition("=")[2]
        command = [str(plane.kubectl_path), f"--kubeconfig={kubeconfig}", "get", "nodes", "--output=name"]
        nodes = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert nodes.split() == ["node/node-a", "node/node-b", "node/node-c"]
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        assert len(children) == len(COMPONENTS)
        running.signal(number)
        assert running.wait(30) == 0
        assert not any(process_runs(int(child)) for child in children)


def test_load_creates_the_scale_set(plane: Plane, request: pytest.FixtureRequest) -> None:
    request.addfinalizer(lambda: remove_scale_set(plane))
    loaded = load.load(plane.kubeconfig, 50, 5, connections=4)
    assert (loaded.services, loaded.slices, loaded.endpoints, loaded.existing) == (50, 75, 750, 0)

    services = [s for s in plane.api("GET", "/api/v1/services")["items"] if in_scale_set(s)]
    slices = [s for s in plane.api("GET", "/apis/discovery.k8s.io/v1/endpointslices")["items"] if in_scale_set(s)]
    assert len(services) == 50
    assert len({service["metadata"]["namespace"] for service in services}) == 5
    assert sum(service["spec"]["clusterIP"] == "None" for service in services) == 40
    found = [(item["metadata"]["labels"], endpoint) for item in slices for endpoint in item["endpoints"]]
    assert len(found) == len({endpoint["addresses"][0] for _, endpoint in found}) == 750
    assert {len(item["endpoints"]) for item in slices} == {10}
    assert {labels["endpointslice.kubernetes.io/managed-by"] for labels, _ in found} == {"headwater-bench"}
    named = {labels["kubernetes.io/service-name"] for labels, endpoint in found if "hostname" in endpoint}
    assert len(named) == 26  # of 50: every other pair
    assert all(endpoint["conditions"]["ready"] and endpoint["zone"] for _, endpoint in found)

    again = load.load(plane.kubeconfig, 50, 5, connections=4)
    assert again.existing == 50 + 75 + 5  # the namespaces too


def in_scale_set(item: dict[str, Any]) -> bool:
    return bool(item["metadata"]["namespace"].startswith("scale-"))


def remove_scale_set(plane: Plane) -> None:
    for number in range(5):
        plane.api("DELETE", f"/api/v1/namespaces/scale-{number:03d}")


def test_scale_set_has_the_size_that_is_measured() -> None:
    services = load.scale_set()
    addresses = [address for service in services for address in service.addresses]
    assert len(services) == 10_000
    assert sum(service.slices for service in services) == 15_000
    assert len(addresses) == len(set(addresses)) == 150_000
    assert sum(service.headless for service in services) == 8_000
    assert sum(service.hostnames for service in services) == 5_000
    of_namespace = [service for service in services if service.namespace == "scale-042"]
    assert len(of_namespace) == 100
    assert sum(service.headless for service in of_namespace) == 80
    with pytest.raises(ValueError, match="more than there are"):
        load.scale_set(1_000_000)


def test_load_reports_an_object_that_the_server_refuses(
    plane: Plane, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load.ScaleService, "namespace", namespace)
    monkeypatch.setattr(load.ScaleService, "name", "Not_A_Name")
    with pytest.raises(PlaneError, match=rf"POST /api/v1/namespaces/{namespace}/services Not_A_Name: 422"):
        load.load(plane.kubeconfig, 1, 1)


def test_wait_until_says_what_did_not_happen() -> None:
    with pytest.raises(TimeoutError, match=r"the moon: not within 0.1 s; the last value was 0"):
        wait_until(lambda: 0, 0.1, "the moon")

    def never() -> bool:
        assert [1] == [2], "one is two"
        return True

    with pytest.raises(TimeoutError, match=r"(?s)the last error was AssertionError: one is two"):
        wait_until(never, 0.1, "the moon")


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_missing_tool_is_skipped_but_fails_in_ci(
    ci: str, outcome: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path))
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(build, "find_go", lambda: None)
    with pytest.raises(outcome, match=r"etcd [0-9.]+ is not built, and Go is not installed"):
        require_tool("etcd")


def test_process_of_another_thread_is_refused(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(Running, "sleep", ["sleep", "60"], tmp_path / "log")
    with pytest.raises(RuntimeError, match="sleep must be started from the main thread"):
        started.result()


def test_free_ports_differ_from_outgoing_ports() -> None:
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(1024 < free_port() < lowest_outgoing for _ in range(20))


@pytest.mark.parametrize(
    ("corefile", "expected"),
    [
        (".:53 {\n    whoami\n}\n", ".:5301 {\n    bind 127.0.0.1\n    whoami\n}\n"),
        ("a.org b.org:53 {\n  any\n}\n", "a.org b.org:5301 {\n    bind 127.0.0.1\n  any\n}\n"),
        ("a.org:5353 {\n  bind ::1\n}\n", "a.org:5353 {\n  bind ::1\n}\n"),
        ("(common) {\n  errors\n}\n", "(common) {\n  errors\n}\n"),
        (
            "a.org {\n  kubernetes {\n    noendpoints\n  }\n}\nb.org {\n  bind 127.0.0.1\n}\n",
            "a.org {\n    bind 127.0.0.1\n  kubernetes {\n    noendpoints\n  }\n}\nb.org {\n  bind 127.0.0.1\n}\n",
        ),
    ],
)
def test_corefiles_are_kept_on_loopback(corefile: str, expected: str) -> None:
    assert on_loopback(corefile, 5301) == expected


@pytest.mark.coredns
def test_coredns_answers_from_the_plane(plane: Plane, namespace: str, tmp_path: Path) -> None:
    apply_stateful(plane, namespace)
    wait_until(
        lambda: len(ready_hostnames(plane, namespace, "db")) == 3, SETTLE, "three endpoints", ignoring=(KeyError,)
    )
    expected = ready_hostnames(plane, namespace, "db")
    corefile = f"cluster.local:53 {{\n    kubernetes {{\n        kubeconfig {plane.kubeconfig}\n    }}\n}}\n"
    with CoreDNS(tmp_path, corefile) as dns:
        assert dns.records(f"db.{namespace}.svc.cluster.local") == sorted(expected.values())
        assert dns.records(f"db-1.db.{namespace}.svc.cluster.local", tcp=True) == [expected["db-1"]]
        answer = dns.ask(f"_sql._tcp.db.{namespace}.svc.cluster.local", "SRV", edns=True)
        assert len(answer.answer[0]) == 3
        assert answer.edns == 0
        pid = dns.process.pid
    assert not process_runs(pid)


@pytest.mark.coredns
def test_coredns_that_cannot_start_is_reported_with_its_log(tmp_path: Path) -> None:
    with pytest.raises(PlaneError, match=r"(?s)coredns ended with status 1.*[Uu]nknown directive"):
        CoreDNS(tmp_path, ". {\n    nonsense\n}\n").start()
