"""What is rendered answers: a real Headwater with its flags, a real CoreDNS with its Corefile.

Between them stands no kubelet. Paths and ports are those of this machine; all else is as rendered.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness.helm import CHART, Object, nested, objects, only, template
from tests.harness.instance import Headwater
from tests.harness.processes import CoreDNS, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.coredns

EXAMPLE = CHART.parents[2] / "examples" / "statefulset" / "objects.yaml"
#: Flags of the container that this machine has otherwise.
ELSEWHERE = ("--listen=", "--state-dir=", "--admin=", "--workers=")
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


def here(corefile: str, headwater: Headwater, others: int) -> str:
    """Return the Corefile with this machine's sockets and free ports."""
    ours = " ".join(f"unix://{address.path}" for address in headwater.addresses)
    corefile = re.sub(r"grpc \. (unix:\S+ ?)+", f"grpc . {ours} ", corefile)
    corefile = put(corefile, "prometheus :9153", f"prometheus 127.0.0.1:{free_port()}")
    corefile = put(corefile, "    health\n", f"    health 127.0.0.1:{free_port()}\n")
    corefile = put(corefile, "    ready\n", f"    ready 127.0.0.1:{free_port()}\n")
    corefile = corefile.replace(":5399 ", f":{free_port()} ")
    return put(corefile, "forward . /etc/resolv.conf", f"forward . 127.0.0.1:{others}")


@contextmanager
def running(folder: Path, values: dict[str, Any]) -> Iterator[tuple[CoreDNS, list[Object]]]:
    """Yield CoreDNS and the rendered objects. Behind it is a server of all other names."""
    found = objects(template(folder, values))
    (container,) = only(found, "Deployment")["spec"]["template"]["spec"]["initContainers"]
    command, *arguments = container["args"]
    assert command == "serve"
    workers = int(next(flag for flag in arguments if flag.startswith("--workers=")).partition("=")[2])
    flags = [flag for flag in arguments if not flag.startswith(ELSEWHERE)]
    with ExitStack() as stack:
        others = stack.enter_context(CoreDNS(folder, OTHERS, name="others"))
        headwater = stack.enter_context(Headwater(folder, *flags, "--manifests", EXAMPLE, workers=workers))
        corefile = only(found, "ConfigMap")["data"]["Corefile"]
        yield stack.enter_context(CoreDNS(folder, here(corefile, headwater, others.port))), found


def ask(pod: Object, service: str, port: int) -> subprocess.CompletedProcess[str]:
    """Run what the test's pod runs, with the variables that the kubelet sets for the Service."""
    (container,) = pod["spec"]["containers"]
    _, *command = container["command"]
    variable = service.upper().replace("-", "_")
    return subprocess.run(
        [sys.executable, *command, *container["args"]], capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {f"{variable}_SERVICE_HOST": "127.0.0.1", f"{variable}_SERVICE_PORT": str(port)},
    )  # fmt: skip


@pytest.mark.parametrize("workers", [1, 3])
def test_the_rendered_pair_answers_and_the_charts_own_test_says_so(workers: int, tmp_path: Path) -> None:
    with running(tmp_path, nested("headwater.workers", workers)) as (coredns, found):
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


def test_the_charts_own_test_fails_for_a_name_that_is_not_there(tmp_path: Path) -> None:
    values = {"test": {"name": "absent.default.svc.cluster.local"}}
    with running(tmp_path, values) as (coredns, found):
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
