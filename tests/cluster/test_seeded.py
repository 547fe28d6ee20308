"""New replicas beside siblings, on the real API server; and the manifests for them."""

from __future__ import annotations

import secrets
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from headwater.commands import options

from tests.harness.instance import Headwater
from tests.harness.pki import Pki
from tests.harness.plane import PlaneError
from tests.harness.processes import free_port, wait_until

if TYPE_CHECKING:
    from tests.harness.plane import Plane

OVERLAY = Path(__file__).resolve().parents[2] / "deploy" / "overlays" / "seeded"
_API = "kubernetes.default.svc.cluster.local"


@pytest.fixture(scope="module")
def objects(plane: Plane) -> list[dict[str, Any]]:
    return [item for item in yaml.safe_load_all(plane.kubectl("kustomize", OVERLAY)) if item]


def named(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return found


def test_the_server_accepts_the_manifests(objects: list[dict[str, Any]], plane: Plane) -> None:
    """Namespaced objects go into a namespace of the test's own, with its Pod Security Standard."""
    name = f"seeded-{secrets.token_hex(3)}"
    labels = named(objects, "Namespace", "headwater")["metadata"]["labels"]
    plane.apply(yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}))
    try:
        mine = [item | {"metadata": item["metadata"] | {"namespace": name}} for item in objects
                if item["metadata"].get("namespace")]  # fmt: skip
        text = yaml.safe_dump_all(mine)
        lines = plane.kubectl("apply", "--dry-run=server", "-f", "-", stdin=text).splitlines()
        assert len(lines) == len(mine)
        with pytest.raises(PlaneError, match="containerPorts"):
            plane.kubectl(
                "apply", "--dry-run=server", "-f", "-", stdin=text.replace("containerPort:", "containerPorts:")
            )
        spec = named(objects, "Deployment", "headwater-dns")["spec"]["template"]["spec"]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "try", "namespace": name},
            "spec": spec | {"serviceAccountName": "default"},
        }
        plane.api("POST", f"/api/v1/namespaces/{name}/pods?dryRun=All", pod)
    finally:
        plane.kubectl("delete", "namespace", name, "--wait=false")


def test_the_manifests_fit_together(objects: list[dict[str, Any]], tmp_path: Path) -> None:
    template = named(objects, "Deployment", "headwater-dns")["spec"]["template"]
    sidecar, twin = template["spec"]["initContainers"]
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (tmp_path / name).touch()
    service = named(objects, "Service", "headwater-peers")
    # As the kubelet expands it: the Service's name in capitals.
    variable = service["metadata"]["name"].upper().replace("-", "_") + "_SERVICE_HOST"
    (mount,) = [item for item in sidecar["volumeMounts"] if item["name"] == "headwater-peers"]
    settings, of_the_twin = (
        options.settings_of(
            [word.replace(mount["mountPath"], str(tmp_path)).replace(f"$({variable})", "172.16.0.99")
             for word in container["args"][1:]]
        )
        for container in (sidecar, twin)
    )  # fmt: skip
    assert settings.peer_listen is not None
    (port,) = [item for item in sidecar["ports"] if item["name"] == "headwater-peers"]
    (offered,) = service["spec"]["ports"]
    assert port["containerPort"] == settings.peer_listen.port
    assert offered["targetPort"] == port["name"]
    assert [str(seed) for seed in settings.seeds] == [f"172.16.0.99:{offered['port']}"]
    # The other one of the pod asks the first, which serves it as it does siblings; then them.
    assert of_the_twin.peer_listen is None
    assert [str(seed) for seed in of_the_twin.seeds] == [
        f"127.0.0.1:{settings.peer_listen.port}", f"172.16.0.99:{offered['port']}",
    ]  # fmt: skip
    assert of_the_twin.peer_ca == settings.peer_ca == str(tmp_path / "ca.crt")
    assert mount in twin["volumeMounts"]
    assert "headwater-peers" not in {item["name"] for item in twin["ports"]}
    labels = template["metadata"]["labels"].items()
    assert service["spec"]["selector"].items() <= labels
    policy = named(objects, "NetworkPolicy", "headwater-peers")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels
    (rule,) = policy["ingress"]
    assert [item["port"] for item in rule["ports"]] == [port["containerPort"]]
    assert rule["from"] == [{"podSelector": policy["podSelector"]}]
    (volume,) = [item for item in template["spec"]["volumes"] if item["name"] == "headwater-peers"]
    assert volume["secret"]["secretName"] == "headwater-peers"
    # Without the Service the word stays as it stands, and there is no peer.
    assert options.settings_of(["--seed", f"$({variable}):9354"]).seeds == ()


class Replicas:
    """Replicas with mutual TLS; each knows all addresses, its own too, as behind one Service."""

    def __init__(self, folder: Path, plane: Plane, count: int) -> None:
        pki = Pki(folder)
        credentials = [
            "--peer-cert", f"{pki.folder}/server.crt", "--peer-key", f"{pki.folder}/server.key",
            "--peer-ca", f"{pki.folder}/ca.crt",
        ]  # fmt: skip
        self.folder = folder
        self.ports = [free_port() for _ in range(count)]
        seeds = [word for port in self.ports for word in ("--seed", f"127.0.0.1:{port}")]
        self._flags = ["--kubeconfig", str(plane.kubeconfig), *credentials, *seeds]
        self._made = 0

    def one(self, index: int) -> Headwater:
        """A new replica, with nothing stored, in the place of an earlier one."""
        self._made += 1
        name = f"replica-{index}-{self._made}"
        return Headwater(
            self.folder, *self._flags, "--peer-listen", f"127.0.0.1:{self.ports[index]}", workers=1, name=name
        )


def test_a_rolling_restart_costs_no_list(plane: Plane, tmp_path: Path) -> None:
    """Each new replica has an empty state directory, and comes before the old one goes."""
    replicas = Replicas(tmp_path, plane, 3)
    running: list[Headwater] = []
    with ExitStack() as stack:
        for index in range(3):
            one = replicas.one(index)
            stack.callback(one.close)
            one.start()
            running.append(one)
        expected = running[0].records(_API)
        assert expected
        for index in range(3):
            running[index].close()
            new = replicas.one(index)
            stack.callback(new.close)
            new.start()
            assert new.records(_API) == expected
            metrics = new.admin("/metrics")[1]
            assert 'headwater_seeds_total{result="taken"} 1.0' in metrics
            lists = [line for line in metrics.splitlines() if line.startswith("headwater_watch_relists_total{")]
            assert lists
            assert all(line.endswith(" 0.0") for line in lists), lists
            running[index] = new


def test_without_the_api_server_a_new_replica_answers_from_its_sibling(plane: Plane, tmp_path: Path) -> None:
    """Its kubeconfig names a port at which nobody is: to it the API server is stopped."""
    replicas = Replicas(tmp_path, plane, 2)
    sibling = replicas.one(0)
    with sibling:
        expected = sibling.records(_API)
        config = yaml.safe_load(Path(plane.kubeconfig).read_text())
        for entry in config["clusters"]:
            entry["cluster"]["server"] = f"https://127.0.0.1:{free_port()}"
        elsewhere = tmp_path / "kubeconfig"
        elsewhere.write_text(yaml.safe_dump(config))
        replicas._flags[1] = str(elsewhere)
        new = replicas.one(1)
        try:
            began = new.exec()
            wait_until(lambda: new.records(_API) == expected, 30.0, "it answers", interval=0.02)
            took = time.monotonic() - began
            assert took < 10.0, "2 s are the aim, on a machine that does nothing else"
            assert new.is_ready()
        finally:
            new.close()
