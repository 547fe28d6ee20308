"""The main use, end to end: a StatefulSet behind a headless Service,
real control plane and CoreDNS.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import dns.rcode
import dns.rdatatype
import pytest

from tests.harness.instance import Headwater
from tests.harness.prober import Prober, Step, Truth, Value, disagreements, of_endpoint, of_pod, of_service, show, table
from tests.harness.processes import CoreDNS, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import dns.message

    from tests.harness.plane import Plane

pytestmark = pytest.mark.coredns

EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"
MANIFESTS: Final = (EXAMPLES / "scenario.yaml", EXAMPLES / "named-port.yaml")
SETTLE: Final = 60.0  # seconds: for controllers on a busy machine
LIMIT: Final = 1000.0  # milliseconds from a changed slice to the changed answer; a few are usual
REPLIES: Final = 2000  # the least number of the prober's replies, 250 a second

ZONE: Final = "svc.cluster.local"
SERVICE: Final = f"headless-svc.default.{ZONE}"
NAMED: Final = f"web-named.default.{ZONE}"
SRV: Final = f"_http._tcp.{NAMED}"
PODS: Final = "/api/v1/namespaces/default/pods"
STATEFUL_SET: Final = "/apis/apps/v1/namespaces/default/statefulsets/web-stateful"
MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"


def member(number: int) -> str:
    return f"web-stateful-{number}.{SERVICE}"


def dashed(address: str, namespace: str = "default") -> str:
    return f"{address.replace('.', '-')}.{namespace}.pod.cluster.local"


def pod(name: str, **spec: Any) -> dict[str, Any]:
    """Return a bare Pod that the scenario's Services select."""
    containers = [{"name": "nginx", "image": "nginx:alpine"}]
    metadata = {"name": name, "labels": {"app": "web"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers, **spec}}


def addresses_of_pods(plane: Plane, namespace: str = "default") -> dict[str, str]:
    """Return the addresses of pods by name."""
    pods = plane.api("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
    return {item["metadata"]["name"]: item["status"]["podIP"] for item in pods if "podIP" in item["status"]}


@dataclass(frozen=True)
class Scenario:
    """The applied and served scenario."""

    plane: Plane
    headwater: Headwater
    coredns: CoreDNS

    def members(self, count: int = 3) -> list[str]:
        """Wait until DNS has the addresses of all the StatefulSet's pods; return them in order."""

        def complete() -> list[str]:
            found = addresses_of_pods(self.plane)
            addresses = [found[f"web-stateful-{number}"] for number in range(count)]
            assert self.coredns.records(SERVICE) == sorted(addresses)
            return addresses

        return wait_until(complete, SETTLE, f"{count} pods in DNS", ignoring=(KeyError,))


def apply(plane: Plane) -> None:
    for manifest in MANIFESTS:
        plane.kubectl("apply", "-f", manifest)


@pytest.fixture(scope="module")
def scenario(plane: Plane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    """Start Headwater first, so that it sees every change; tests wait only for changed answers."""
    folder = tmp_path_factory.mktemp("scenario")
    with (
        Headwater(folder, "--kubeconfig", plane.kubeconfig, "--pods", "verified") as headwater,
        CoreDNS(folder, headwater.grpc_corefile_stanza()) as coredns,
    ):
        apply(plane)
        yield Scenario(plane, headwater, coredns)
        for manifest in MANIFESTS:
            plane.kubectl("delete", "--ignore-not-found", "-f", manifest)
        wait_until(lambda: not plane.api("GET", PODS)["items"], SETTLE, "the scenario's pods are gone")


def a_records(reply: dns.message.Message) -> list[str]:
    """Return the addresses of the answer section in their order."""
    return [rdata.to_text() for rrset in reply.answer for rdata in rrset if rrset.rdtype == dns.rdatatype.A]


def test_service_has_every_address_in_changing_order(scenario: Scenario) -> None:
    members = scenario.members()
    replies = [a_records(scenario.coredns.ask(SERVICE)) for _ in range(30)]
    assert all(sorted(reply) == sorted(members) for reply in replies)
    assert {reply[0] for reply in replies} == set(members)


def test_member_has_its_address(scenario: Scenario) -> None:
    for number, address in enumerate(scenario.members()):
        assert scenario.coredns.records(member(number)) == [address]
        assert scenario.coredns.records(member(number), tcp=True) == [address]


def test_pod_has_its_dashed_address(scenario: Scenario) -> None:
    for address in scenario.members():
        assert scenario.coredns.records(dashed(address)) == [address]
    # With `verified`: no pod has this address, and that namespace has no pod.
    for name in (dashed("10.44.255.254"), dashed(scenario.members()[0], "kube-system")):
        assert scenario.coredns.ask(name).rcode() == dns.rcode.NXDOMAIN


def test_named_port_has_a_target_per_pod_with_glue(scenario: Scenario) -> None:
    members = scenario.members()

    def complete() -> dns.message.Message:
        reply = scenario.coredns.ask(SRV, "SRV", edns=True, payload=4096)
        assert len(reply.answer[0]) == 3
        return reply

    reply = wait_until(complete, SETTLE, "three SRV records", ignoring=(IndexError,))
    targets = {rdata.target.to_text() for rdata in reply.answer[0]}
    assert targets == {f"{address.replace('.', '-')}.{NAMED}." for address in members}
    assert {(rdata.priority, rdata.weight, rdata.port) for rdata in reply.answer[0]} == {(0, 33, 8080)}
    glue = {rrset.name.to_text(): a_records_of(rrset) for rrset in reply.additional}
    assert glue == {f"{address.replace('.', '-')}.{NAMED}.": [address] for address in members}
    # The other Service's port has no name; the name above a port is an empty non-terminal.
    assert scenario.coredns.ask(f"_http._tcp.{SERVICE}", "SRV").rcode() == dns.rcode.NXDOMAIN
    assert scenario.coredns.ask(f"_tcp.{NAMED}", "SRV").rcode() == dns.rcode.NOERROR


def a_records_of(rrset: Any) -> list[str]:
    return [rdata.to_text() for rdata in rrset]


def test_name_that_does_not_exist_is_nxdomain_with_soa(scenario: Scenario) -> None:
    reply = scenario.coredns.ask(f"nowhere.default.{ZONE}")
    assert reply.rcode() == dns.rcode.NXDOMAIN
    assert [rrset.rdtype for rrset in reply.authority] == [dns.rdatatype.SOA]


BARE: Final = """\
apiVersion: v1
kind: Service
metadata: {name: headless-svc}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{port: 80}]
"""


@pytest.mark.parametrize("pods", ["insecure", "disabled"])
def test_bare_pods_by_name_alone(pods: str, plane: Plane, namespace: str, tmp_path: Path) -> None:
    """With --endpoint-pod-names, beside the two other ways to answer for pods."""
    plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=BARE)
    for number in (1, 2, 3):
        plane.api("POST", f"/api/v1/namespaces/{namespace}/pods", pod(f"pod-{number}"))
    flags = ("--kubeconfig", plane.kubeconfig, "--pods", pods, "--endpoint-pod-names")
    with (
        Headwater(tmp_path, *flags) as headwater,
        CoreDNS(tmp_path, headwater.grpc_corefile_stanza()) as coredns,
    ):
        service = f"headless-svc.{namespace}.{ZONE}"
        wait_until(lambda: len(coredns.records(service)) == 3, SETTLE, "three bare pods in DNS")
        found = addresses_of_pods(plane, namespace)
        for number in (1, 2, 3):
            assert coredns.records(f"pod-{number}.{service}") == [found[f"pod-{number}"]]
        expected = ["192.0.2.9"] if pods == "insecure" else []
        assert coredns.records(dashed("192.0.2.9", namespace)) == expected
        assert coredns.ask(dashed("192.0.2.9", "no-such-namespace")).rcode() == dns.rcode.NXDOMAIN


class Changes:
    """Makes changes, waits until DNS has them, and keeps how long that took."""

    def __init__(self, truth: Truth, prober: Prober) -> None:
        self._truth = truth
        self._prober = prober
        self.steps: list[Step] = []

    @contextmanager
    def follow(self, change: str, name: str, expected: Callable[[Value], bool]) -> Iterator[None]:
        """Run a change in the block; wait until API and DNS have an
        `expected` value for the name.
        """
        self._prober.focus = name
        # Not before the prober asks for it, so that its first reply is the old one.
        turned = time.monotonic()
        self._wait(lambda: self._asked_since(name, turned), f"{name} is asked for")
        taken = time.monotonic()
        yield
        self._wait(lambda: expected(self._truth.now(name)), f"{change}: {name} in the API", name)
        self._wait(lambda: self._agrees(name), f"{change}: {name} in DNS", name)
        since, value = self._truth.history(name)[-1]
        answered = next(one.received for one in self._prober.seen[name] if one.sent > taken and one.value == value)
        self.steps.append(Step(change, name, (answered - taken) * 1000, max(0.0, answered - since) * 1000))

    def _asked_since(self, name: str, moment: float) -> bool:
        last = self._prober.last(name)
        return last is not None and last.sent > moment

    def _agrees(self, name: str) -> bool:
        since, value = self._truth.history(name)[-1]
        last = self._prober.last(name)
        return last is not None and last.sent > since and last.value == value

    def _wait(self, condition: Callable[[], bool], what: str, name: str = "") -> None:
        def checked() -> bool:
            assert self._truth.failures == []
            assert self._prober.failure is None
            assert condition(), f"the API has {show(self._truth.now(name))}" if name else "not yet"
            return True

        wait_until(checked, SETTLE, what, interval=0.01)


def has_address(plane: Plane, name: str) -> bool:
    return name in addresses_of_pods(plane)


def replace_member(plane: Plane, changes: Changes, number: int, address: str) -> str:
    """Delete a pod of the set so that it returns with another address. Return that address.

    kwok gives a freed address to the next pod. Another pod therefore takes it, while the scheduler
    is held and the set's new pod waits for a node.
    """
    name = f"web-stateful-{number}"
    plane.pause("kube-scheduler")
    try:
        with changes.follow(f"{name} is deleted", SERVICE, lambda value: value is not None and address not in value):
            plane.api("DELETE", f"{PODS}/{name}")
        for count in range(10):
            other = f"other-{count}"
            plane.api("POST", PODS, {**pod(other, nodeName="node-a"), "metadata": {"name": other}})
            wait_until(partial(has_address, plane, other), SETTLE, f"{other} has an address")
            if addresses_of_pods(plane)[other] == address:
                break
        with changes.follow(f"{name} is back, elsewhere", member(number), lambda value: value is not None):
            plane.resume("kube-scheduler")
    finally:
        plane.resume("kube-scheduler")
    returned = addresses_of_pods(plane)[name]
    assert returned != address
    return returned


def set_ready(plane: Plane, name: str, *, ready: bool) -> None:
    """Set a running pod's status; it stays, because kwok only changes pending pods."""
    body = {"status": {"conditions": [{"type": "Ready", "status": str(ready)}]}}
    plane.kubectl("patch", "pod", name, "--subresource=status", "--type=strategic", "--patch", json.dumps(body))


def scale(plane: Plane, replicas: int) -> None:
    plane.api("PATCH", STATEFUL_SET, {"spec": {"replicas": replicas}}, content_type=MERGE)


@pytest.mark.timeout(300)
def test_answers_follow_every_change(scenario: Scenario, capsys: pytest.CaptureFixture[str]) -> None:
    plane, coredns = scenario.plane, scenario.coredns
    first = scenario.members()
    pids = scenario.headwater.pids()
    with Truth(plane.kubeconfig, "default") as truth:
        for name in ("headless-svc", "web-named"):
            truth.add(f"{name}.default.{ZONE}", of_service(name))
        truth.add(SRV, of_service("web-named"))
        for number in range(5):
            truth.add(member(number), of_endpoint(f"web-stateful-{number}", "headless-svc"))
        truth.add(f"pod-1.{SERVICE}", of_endpoint("pod-1", "headless-svc"))
        for address in first[:2]:
            truth.add(dashed(address), of_pod(address))
        wait_until(lambda: truth.now(SERVICE) == truth.now(SRV) == frozenset(first), SETTLE, "our own watches")
        wait_until(lambda: truth.now(dashed(first[0])) is not None, SETTLE, "our own watches")
        truth.begin()
        with Prober(coredns.port, truth) as prober:
            changes = Changes(truth, prober)
            change_everything(plane, changes, first)
            # An old value must not return later, and the true one must stay.
            wait_until(lambda: prober.count() >= REPLIES, SETTLE, f"{REPLIES} replies")
            prober.stop()

    assert prober.failure is None
    assert truth.failures == []
    wrong = {name: disagreements(seen, truth.history(name)) for name, seen in prober.seen.items()}
    with capsys.disabled():
        print(
            f"\n\n{table(changes.steps)}\n{prober.count():,} replies, {sum(map(len, wrong.values()))} of them wrong\n"
        )
    assert {name: problems[:5] for name, problems in wrong.items() if problems} == {}
    assert prober.seen.keys() == set(truth.names())
    assert [step for step in changes.steps if step.from_slice > LIMIT] == []
    assert scenario.headwater.pids() == pids, "a process was restarted"
    assert "[ERROR]" not in coredns.log.read_text()


def change_everything(plane: Plane, changes: Changes, first: list[str]) -> None:
    """Make all changes of the scenario, from three replicas to three replicas."""

    def is_set(*addresses: str) -> Callable[[Value], bool]:
        return lambda value: value == frozenset(addresses)

    def has(count: int) -> Callable[[Value], bool]:
        return lambda value: value is not None and len(value) == count

    second = replace_member(plane, changes, 1, first[1])
    members = [first[0], second, first[2]]
    with changes.follow("the other pod is deleted", dashed(first[1]), lambda value: value is None):
        others = [name for name in addresses_of_pods(plane) if name.startswith("other-")]
        for name in others:
            plane.api("DELETE", f"{PODS}/{name}")

    with changes.follow("web-stateful-2 is not ready", SERVICE, is_set(*members[:2])):
        set_ready(plane, "web-stateful-2", ready=False)
    service = "/api/v1/namespaces/default/services/headless-svc"
    with changes.follow("publishNotReadyAddresses", member(2), is_set(members[2])):
        plane.api("PATCH", service, {"spec": {"publishNotReadyAddresses": True}}, content_type=MERGE)
    with changes.follow("publishNotReadyAddresses no more", member(2), lambda value: value is None):
        plane.api("PATCH", service, {"spec": {"publishNotReadyAddresses": False}}, content_type=MERGE)
    with changes.follow("web-stateful-2 is ready again", SERVICE, is_set(*members)):
        set_ready(plane, "web-stateful-2", ready=True)

    with changes.follow("three bare pods with hostname, subdomain", SERVICE, has(6)):
        for number in (1, 2, 3):
            plane.api("POST", PODS, pod(f"pod-{number}", hostname=f"pod-{number}", subdomain="headless-svc"))
    with changes.follow("pod-1 is deleted", f"pod-1.{SERVICE}", lambda value: value is None):
        plane.api("DELETE", f"{PODS}/pod-1")
    with changes.follow("pod-2 and pod-3 are deleted", SRV, is_set(*members)):
        for number in (2, 3):
            plane.api("DELETE", f"{PODS}/pod-{number}")

    with changes.follow("scaled to 5", SERVICE, has(5)):
        scale(plane, 5)
    with changes.follow("scaled to 1", SERVICE, is_set(first[0])):
        scale(plane, 1)
    with changes.follow("scaled to 3", SRV, has(3)):
        scale(plane, 3)

    with changes.follow("the Service is deleted", SERVICE, lambda value: value is None):
        plane.api("DELETE", service)
    slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io/service-name%3D"
    wait_until(lambda: not plane.api("GET", f"{slices}headless-svc")["items"], SETTLE, "its slices are gone")
    with changes.follow("the Service is applied again", SERVICE, has(3)):
        plane.kubectl("apply", "-f", MANIFESTS[0])
