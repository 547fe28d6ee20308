"""What is rendered answers: a real Headwater with its flags, a real CoreDNS with its Corefile.

Between them stands no kubelet. Paths and ports are those of this machine; all else is as rendered.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from dns.rcode import Rcode

from tests.harness.helm import CHART, Object, nested, objects, only, template
from tests.harness.instance import Headwater
from tests.harness.processes import CoreDNS, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.coredns

EXAMPLE = CHART.parents[2] / "examples" / "statefulset" / "objects.yaml"
#: Flags of the container that this machine has otherwise.
ELSEWHERE = ("--listen=", "--state-dir=", "--admin=", "--workers=")
#: What is only for an instance with an API server: it takes the other one's store.
WITH_A_CLUSTER = ("--peer-listen=", "--seed=")
OTHERS = """\
.:53 {
    template IN ANY . {
        answer "{{ .Name }} 5 IN PTR not-of-the-cluster.example."
    }
}
"""


def put(text: str, old: str, new: str) -> str:
    assert old in text, text
    return text.replace(old, new)


def here(corefile: str, instances: list[Headwater], others: int) -> str:
    """Return the Corefile with this machine's sockets and free ports."""
    ours = " ".join(f"unix://{address.path}" for instance in instances for address in instance.addresses)
    corefile = re.sub(r"grpc \. (unix:\S+ ?)+", f"grpc . {ours} ", corefile)
    corefile = put(corefile, "prometheus :9153", f"prometheus 127.0.0.1:{free_port()}")
    corefile = put(corefile, "    health\n", f"    health 127.0.0.1:{free_port()}\n")
    corefile = put(corefile, "    ready\n", f"    ready 127.0.0.1:{free_port()}\n")
    corefile = corefile.replace(":5399 ", f":{free_port()} ")
    return put(corefile, "forward . /etc/resolv.conf", f"forward . 127.0.0.1:{others}")


@contextmanager
def running(folder: Path, values: dict[str, Any]) -> Iterator[tuple[CoreDNS, list[Object], list[Headwater]]]:
    """Yield CoreDNS, what was rendered, and the pod's Headwaters. Others know all other names."""
    found = objects(template(folder, values))
    with ExitStack() as stack:
        others = stack.enter_context(CoreDNS(folder, OTHERS, name="others"))
        instances = []
        for container in only(found, "Deployment")["spec"]["template"]["spec"]["initContainers"]:
            command, *arguments = container["args"]
            assert command == "serve"
            workers = int(next(flag for flag in arguments if flag.startswith("--workers=")).partition("=")[2])
            flags = [flag for flag in arguments if not flag.startswith((*ELSEWHERE, *WITH_A_CLUSTER))]
            instance = Headwater(folder, *flags, "--manifests", EXAMPLE, workers=workers, name=container["name"])
            instances.append(stack.enter_context(instance))
        corefile = only(found, "ConfigMap")["data"]["Corefile"]
        # As many sockets as the rendered Corefile has.
        (asked,) = {line.count("unix:") for line in corefile.splitlines() if "grpc ." in line}
        assert asked == sum(len(instance.addresses) for instance in instances)
        coredns = stack.enter_context(CoreDNS(folder, here(corefile, instances, others.port)))
        yield coredns, found, instances


def ask(pod: Object, service: str, port: int) -> subprocess.CompletedProcess[str]:
    """Run what the test's pod runs, with the variables that the kubelet sets for the Service."""
    (container,) = pod["spec"]["containers"]
    _, *command = container["command"]
    variable = service.upper().replace("-", "_")
    return subprocess.run(
        [sys.executable, *command, *container["args"]], capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {f"{variable}_SERVICE_HOST": "127.0.0.1", f"{variable}_SERVICE_PORT": str(port)},
    )  # fmt: skip


@pytest.mark.parametrize(("twin", "workers"), [(False, 1), (False, 3), (True, 2)])
def test_what_is_rendered_answers_and_the_charts_own_test_says_so(twin: bool, workers: int, tmp_path: Path) -> None:
    with running(tmp_path, {"headwater": {"workers": workers, "twin": twin}}) as (coredns, found, _):
        (address,) = coredns.records("web-stateful-0.headless-svc.default.svc.cluster.local")
        reverse = ip_address(address).reverse_pointer
        assert "web-stateful-0.headless-svc.default.svc.cluster.local." in coredns.records(reverse, "PTR")
        assert coredns.records(ip_address("192.0.2.7").reverse_pointer, "PTR") == ["not-of-the-cluster.example."]
        (pod,) = [item for item in found if item["kind"] == "Pod"]
        done = ask(pod, "headwater", coredns.port)
        assert done.returncode == 0, done.stdout + done.stderr
        for over in ("udp", "tcp"):
            assert f"dns-version.cluster.local TXT over {over} at 127.0.0.1: answered" in done.stdout
            assert f"kubernetes.default.svc.cluster.local A over {over} at 127.0.0.1: answered" in done.stdout


@pytest.mark.parametrize("dies", [0, 1])
def test_the_death_of_one_of_a_pods_two_costs_no_question(dies: int, tmp_path: Path) -> None:
    """All of one, as when its container ends: CoreDNS asks the other one within the same query."""

    def die(instance: Headwater) -> None:
        for process in instance.family():  # the supervisor first: nobody is started again
            with suppress(psutil.NoSuchProcess):
                process.kill()
        instance.forget()

    name = "web-stateful-0.headless-svc.default.svc.cluster.local"
    with running(tmp_path, {}) as (coredns, _, instances):
        (address,) = coredns.records(name)
        die(instances[dies])
        asked = [coredns.ask(name).rcode() for _ in range(40)]
        asked += [coredns.ask(ip_address(address).reverse_pointer, "PTR").rcode() for _ in range(10)]
        assert set(asked) == {Rcode.NOERROR}
        die(instances[1 - dies])
        assert coredns.ask(name).rcode() == Rcode.SERVFAIL, "and with both it is seen"


def test_the_charts_own_test_fails_for_a_name_that_is_not_there(tmp_path: Path) -> None:
    values = {"test": {"name": "absent.default.svc.cluster.local"}}
    with running(tmp_path, values) as (coredns, found, _):
        (pod,) = [item for item in found if item["kind"] == "Pod"]
        script = pod["spec"]["containers"][0]["command"]
        script[2] = put(script[2], "PATIENCE = 60.0", "PATIENCE = 1.0")
        done = ask(pod, "headwater", coredns.port)
        assert done.returncode == 1
        assert "absent.default.svc.cluster.local A: NXDOMAIN" in done.stderr


def test_the_charts_own_test_says_when_there_is_no_service(tmp_path: Path) -> None:
    (pod,) = [item for item in objects(template(tmp_path)) if item["kind"] == "Pod"]
    done = ask(pod, "another", 53)
    assert done.returncode == 1
    assert "HEADWATER_SERVICE_HOST: is Service headwater in this namespace, with a cluster IP?" in done.stderr


@pytest.mark.parametrize(
    ("values", "asked"),
    [
        ({}, ["TXT dns-version.cluster.local", "A kubernetes.default.svc.cluster.local"]),
        (nested("headwater.zones", ["a.org"]), ["TXT dns-version.a.org", "A kubernetes.default.svc.a.org"]),
        (nested("headwater.namespaces", ["prod"]), ["TXT dns-version.cluster.local"]),
        (
            nested("headwater.namespaces", ["default"]),
            ["TXT dns-version.cluster.local", "A kubernetes.default.svc.cluster.local"],
        ),
        (nested("headwater.labels", "a=b"), ["TXT dns-version.cluster.local"]),
        (nested("headwater.namespaceLabels", "a=b"), ["TXT dns-version.cluster.local"]),
        (
            {"headwater": {"labels": "a=b"}, "test": {"name": "web.prod.svc.cluster.local"}},
            ["TXT dns-version.cluster.local", "A web.prod.svc.cluster.local"],
        ),
    ],
    ids=repr,
)
def test_it_asks_for_what_is_served(values: dict[str, Any], asked: list[str], tmp_path: Path) -> None:
    (pod,) = [item for item in objects(template(tmp_path, values)) if item["kind"] == "Pod"]
    assert pod["spec"]["containers"][0]["args"] == ["headwater", *asked]
