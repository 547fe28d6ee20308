"""A real API server: the selections of --labels and --namespace-labels,
and a CRD that comes and goes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from dnslib import RCODE

from tests.harness.instance import Headwater
from tests.harness.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.plane import Plane

CRD: Final = Path(__file__).with_name("serviceimport-crd.yaml")
SETTLE: Final = 30.0  # seconds for a change to be served; milliseconds are usual
SELDOM: Final = 40.0 + SETTLE  # a missing CRD is asked for every 20 to 40 s

SERVICES: Final = """\
apiVersion: v1
kind: Service
metadata: {name: db, labels: {tier: db}}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, labels: {tier: db, kubernetes.io/service-name: db}}
addressType: IPv4
endpoints: [{addresses: [10.44.7.1]}]
ports: [{port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-2, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
endpoints: [{addresses: [10.44.7.2]}]
ports: [{port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: web, labels: {tier: web}}
spec: {ports: [{port: 80}]}
"""

IMPORT: Final = """\
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceImport
metadata: {name: shared}
spec: {type: ClusterSetIP, ips: [172.20.1.8], ports: [{name: http, protocol: TCP, port: 80}]}
"""


def applied(plane: Plane, namespace: str) -> str:
    """Create the Services in a namespace. Return the cluster IP of `web`."""
    plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=SERVICES)
    return str(plane.api("GET", f"/api/v1/namespaces/{namespace}/services/web")["spec"]["clusterIP"])


def rcode(headwater: Headwater, name: str) -> str:
    return str(RCODE[headwater.ask(name).header.rcode])


def watch(headwater: Headwater) -> dict[str, Any]:
    """What /readyz says of the watch process."""
    found: dict[str, Any] = json.loads(headwater.admin("/readyz")[1])["watch"]
    return found


def imports(headwater: Headwater) -> int:
    """How many there are; -1 before the watch process says so."""
    return int(watch(headwater)["objects"].get("serviceimports", -1))


def test_labels_choose_services_and_slices(plane: Plane, namespace: str, tmp_path: Path) -> None:
    web = applied(plane, namespace)
    zone = f"{namespace}.svc.cluster.local"
    with Headwater(tmp_path, "--kubeconfig", plane.kubeconfig, "--labels", "tier in (db, cache)") as headwater:
        one = ["10.44.7.1"]  # of the slice that has the label
        wait_until(lambda: headwater.records(f"db.{zone}") == one, SETTLE, "the labelled are served")
        assert rcode(headwater, f"web.{zone}") == "NXDOMAIN"

        # The labels change under the watch.
        plane.kubectl("label", "-n", namespace, "service/web", "tier=cache", "--overwrite")
        plane.kubectl("label", "-n", namespace, "endpointslice/db-2", "tier=db")
        wait_until(lambda: headwater.records(f"web.{zone}") == [web], SETTLE, "the Service is chosen")
        wait_until(lambda: len(headwater.records(f"db.{zone}")) == 2, SETTLE, "the slice is chosen")
        plane.kubectl("label", "-n", namespace, "service/web", "tier-")
        wait_until(lambda: rcode(headwater, f"web.{zone}") == "NXDOMAIN", SETTLE, "the Service is not chosen any more")

        # Another selector: nothing of what is stored is served for it.
        headwater.terminate()
    with Headwater(tmp_path, "--kubeconfig", plane.kubeconfig, "--labels", "tier!=db") as headwater:
        wait_until(lambda: headwater.records(f"web.{zone}") == [web], SETTLE, "the others are served")
        assert rcode(headwater, f"db.{zone}") == "NXDOMAIN"
        assert "the stored state is discarded" in headwater.process.log.read_text()


def test_namespace_labels_choose_namespaces(plane: Plane, namespace: str, tmp_path: Path) -> None:
    web = applied(plane, namespace)
    name = f"web.{namespace}.svc.cluster.local"
    with Headwater(tmp_path, "--kubeconfig", plane.kubeconfig, "--namespace-labels", "team=db") as headwater:
        wait_until(lambda: rcode(headwater, name) == "NXDOMAIN", SETTLE, "nothing is served of it")
        assert rcode(headwater, "kubernetes.default.svc.cluster.local") == "NXDOMAIN"
        for labels, answer in (("team=db", [web]), ("team=web", []), ("team=db", [web])):
            plane.kubectl("label", "namespace", namespace, labels, "--overwrite")
            wait_until(lambda answer=answer: headwater.records(name) == answer, SETTLE, f"{labels} is followed")  # type: ignore[misc]
        assert watch(headwater)["objects"]["namespaces"] == 1


@pytest.fixture
def without_crd(plane: Plane) -> Iterator[Plane]:
    """The plane without ServiceImports, before and after."""

    def remove() -> None:
        plane.kubectl("delete", "-f", CRD, "--ignore-not-found", "--wait")

    remove()
    yield plane
    remove()


@pytest.mark.timeout(300)
def test_a_crd_may_come_later_and_go(without_crd: Plane, namespace: str, tmp_path: Path) -> None:
    plane = without_crd
    web = applied(plane, namespace)
    flags = ("--kubeconfig", plane.kubeconfig, "--multicluster-zone", "clusterset.local")
    with Headwater(tmp_path, *flags) as headwater:
        # Ready without it: an empty list, said once.
        name = f"web.{namespace}.svc.cluster.local"
        wait_until(lambda: headwater.records(name) == [web], SETTLE, "the other names are served")
        said = watch(headwater)
        assert (said["ready"], said["detail"], said["objects"]["serviceimports"]) == (True, "", 0)
        assert said["resources"]["serviceimports"]["errors"].keys() == {"404"}
        text = "the CRD serviceimports.multicluster.x-k8s.io is not installed"
        assert headwater.process.log.read_text().count(text) == 1

        plane.kubectl("apply", "-f", CRD)
        plane.kubectl("wait", "--for=condition=Established", "-f", CRD)
        plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=IMPORT)
        wait_until(lambda: imports(headwater) == 1, SELDOM, "the ServiceImport is listed")
        assert headwater.process.log.read_text().count(text) == 1

        plane.kubectl("delete", "-f", CRD, "--wait")
        wait_until(lambda: imports(headwater) == 0, SETTLE, "the ServiceImport is gone with its CRD")
        empty = "serviceimports: 0 objects as of version none"
        wait_until(lambda: headwater.process.log.read_text().count(empty) == 2, SELDOM, "a list says so too")
        assert headwater.process.log.read_text().count(text) == 2
        assert headwater.is_ready()
        assert headwater.records(name) == [web]

        # What is stored is enough for a start, and no version of it is watched from.
        headwater.terminate()
        plane.kubectl("apply", "-f", CRD)
        plane.kubectl("wait", "--for=condition=Established", "-f", CRD)
        plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=IMPORT)
        headwater.start()
        wait_until(lambda: imports(headwater) == 1, SETTLE, "a start lists it at once")
        assert not watch(headwater)["resources"]["serviceimports"]["errors"]


def test_check_tells_of_a_missing_crd(without_crd: Plane, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "headwater", "check", "--kubeconfig", str(without_crd.kubeconfig),
        "--multicluster-zone", "clusterset.local", "--state-dir", str(tmp_path / "state"), "--admin", "off",
        "--listen", f"unix:{tmp_path / 'dns.sock'}",
    ]  # fmt: skip

    def line() -> tuple[int, str]:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        (found,) = [line for line in done.stdout.splitlines() if "list serviceimports" in line]
        return done.returncode, " ".join(found.split())

    assert line() == (0, "ok list serviceimports not installed: no names until it is")
    without_crd.kubectl("apply", "-f", CRD)
    without_crd.kubectl("wait", "--for=condition=Established", "-f", CRD)
    assert line() == (0, "ok list serviceimports 0 objects")
