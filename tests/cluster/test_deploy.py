"""A real API server accepts the manifests of deploy/; they have just the
needed rights; and they start.

The start is checked as far as it can be without a container runtime: the real command line parses
the flags, and CoreDNS starts with the Corefile in tests/e2e/test_corefiles.py.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
import yaml
from dns.rcode import Rcode
from headwater import __version__
from headwater.commands import options
from headwater.commands.corefile import stanza, upstream
from headwater.settings.settings import Settings
from headwater.writer.process import required_resources
from kubernetes.config import incluster_config

from tests.harness.instance import Headwater
from tests.harness.plane import PlaneError
from tests.harness.processes import CoreDNS, free_port
from tools import build

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.plane import Plane

CHECKOUT = Path(__file__).resolve().parents[2]
DEPLOY = CHECKOUT / "deploy"
BASE = DEPLOY / "base"
PODS_VERIFIED = DEPLOY / "overlays" / "pods-verified"
CLIENT_NODES = DEPLOY / "overlays" / "client-nodes"
SINGLE = DEPLOY / "overlays" / "single"
PATCH_COREDNS = DEPLOY / "overlays" / "patch-coredns"
COMPLETE = [BASE, PODS_VERIFIED, SINGLE]
ALL = [*COMPLETE, PATCH_COREDNS]

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"

BASE_USER = "system:serviceaccount:headwater:headwater"
COREDNS_USER = "system:serviceaccount:kube-system:coredns"
GROUPS = {
    "endpointslices": "discovery.k8s.io",
    "serviceimports": "multicluster.x-k8s.io",
    "serviceexports": "multicluster.x-k8s.io",
    "deployments": "apps",
}
WATCHED = {"namespaces", "services", "endpointslices", "serviceimports"}
OTHERS = {
    "pods", "pods/log", "secrets", "configmaps", "nodes", "endpoints", "deployments", "services/status",
    "serviceexports",
}  # fmt: skip
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")

#: CoreDNS as a cluster's installer leaves it, as far as the patch depends on it.
COREDNS = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: coredns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec:
  replicas: 0
  selector: {matchLabels: {k8s-app: kube-dns}}
  template:
    metadata: {labels: {k8s-app: kube-dns}}
    spec:
      serviceAccountName: coredns
      dnsPolicy: Default
      containers:
        - name: coredns
          image: coredns/coredns:1.15.0
          args: [-conf, /etc/coredns/Corefile]
          env: [{name: TZ, value: UTC}]
          ports:
            - {containerPort: 53, name: dns, protocol: UDP}
            - {containerPort: 53, name: dns-tcp, protocol: TCP}
            - {containerPort: 9153, name: metrics, protocol: TCP}
          volumeMounts:
            - {name: config-volume, mountPath: /etc/coredns, readOnly: true}
      volumes:
        - {name: config-volume, configMap: {name: coredns, items: [{key: Corefile, path: Corefile}]}}
"""


@pytest.fixture(scope="module")
def namespaces(plane: Plane) -> Iterator[Plane]:
    """Yield the plane with the base's namespace, because a dry run does not create it."""
    plane.kubectl("apply", "-f", BASE / "namespace.yaml")
    yield plane
    plane.kubectl("delete", "namespace", "headwater", "--wait=false")


@pytest.fixture(scope="module")
def coredns(plane: Plane) -> Iterator[Plane]:
    """Yield the plane with a CoreDNS Deployment without pods."""
    plane.apply(COREDNS)
    yield plane
    plane.kubectl("delete", "-n", "kube-system", "deployment", "coredns")


@pytest.fixture
def patched(tmp_path: Path) -> Path:
    """Return an operator's kustomization: CoreDNS's manifest and the component."""
    (tmp_path / "coredns.yaml").write_text(COREDNS)
    component = os.path.relpath(PATCH_COREDNS, tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        f"resources: [coredns.yaml]\ncomponents: [{component}]\n"
    )
    return tmp_path.resolve()


def render(plane: Plane, folder: Path) -> list[dict[str, Any]]:
    return [item for item in yaml.safe_load_all(plane.kubectl("kustomize", folder)) if item]


def only(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [item for item in objects if item["kind"] == kind]
    return found


def pod_spec(objects: list[dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = only(objects, "Deployment")["spec"]["template"]["spec"]
    return spec


def sidecars(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the pod's Headwaters: two, but for the overlay that has one."""
    found = [dict(item) for item in pod_spec(objects)["initContainers"]]
    assert [item["name"] for item in found] in (["headwater"], ["headwater", "headwater-twin"])
    return found


def sidecar(objects: list[dict[str, Any]]) -> dict[str, Any]:
    return sidecars(objects)[0]


def settings_of(container: dict[str, Any]) -> Settings:
    """Return the Settings that the command line makes of the container's flags."""
    command, *arguments = container["args"]
    assert command == "serve"
    return options.settings_of(arguments)


@pytest.fixture(params=ALL, ids=lambda folder: folder.name)
def objects(request: pytest.FixtureRequest, plane: Plane, patched: Path) -> list[dict[str, Any]]:
    """Return all objects of one of the ways to deploy."""
    return render(plane, patched if request.param == PATCH_COREDNS else request.param)


# -- accepted


@pytest.mark.parametrize("folder", COMPLETE, ids=lambda folder: folder.name)
def test_server_accepts_it(folder: Path, namespaces: Plane) -> None:
    lines = namespaces.kubectl("apply", "-k", folder, "--dry-run=server").splitlines()
    assert {re.split("[./]", line)[0] for line in lines} == {
        "namespace", "serviceaccount", "clusterrole", "clusterrolebinding", "configmap", "service", "deployment",
        "poddisruptionbudget", "networkpolicy",
    }  # fmt: skip
    assert all(line.endswith("(server dry run)") for line in lines)


@pytest.mark.parametrize("folder", COMPLETE, ids=lambda folder: folder.name)
def test_ports_are_for_everybody_or_for_who_scrapes(folder: Path, plane: Plane) -> None:
    """The policy closes other ports; of the listening ones, only those for
    probes may be missing in it.
    """
    objects = render(plane, folder)
    policy = only(objects, "NetworkPolicy")["spec"]
    labels = only(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["policyTypes"] == ["Ingress"]
    everybody, scrapers = policy["ingress"]
    assert "from" not in everybody
    assert [port["port"] for port in everybody["ports"]] == [53, 53]
    assert scrapers["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    spec = pod_spec(objects)
    listening = {
        (port["containerPort"], port.get("protocol", "TCP"))
        for container in (*spec["containers"], *spec["initContainers"])
        for port in container["ports"]
    }
    named = {(port["port"], port["protocol"]) for rule in policy["ingress"] for port in rule["ports"]}
    assert named == listening


def test_server_accepts_the_component_on_an_existing_coredns(coredns: Plane, patched: Path) -> None:
    lines = coredns.kubectl("apply", "-k", patched, "--dry-run=server").splitlines()
    assert "deployment.apps/coredns configured (server dry run)" in lines
    assert len(lines) == 3


def test_patch_keeps_what_the_deployment_has(coredns: Plane) -> None:
    """Run step 2 of the comments, `kubectl patch --patch-file`,
    twice; the second changes nothing.
    """
    sidecar_file = str(PATCH_COREDNS / "sidecar.yaml")
    patch = ["patch", "-n", "kube-system", "deployment", "coredns", "--patch-file", sidecar_file]
    coredns.kubectl(*patch, "--dry-run=server")
    before = pod_spec([yaml.safe_load(coredns.kubectl("get", "-n", "kube-system", "deploy/coredns", "-o", "yaml"))])
    assert "initContainers" not in before
    coredns.kubectl(*patch)
    assert "(no change)" in coredns.kubectl(*patch)
    after = pod_spec([yaml.safe_load(coredns.kubectl("get", "-n", "kube-system", "deploy/coredns", "-o", "yaml"))])

    (old,), (new,) = before["containers"], after["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in new.pop("volumeMounts")}
    assert mounts == {"config-volume": "/etc/coredns", "headwater-sockets": "/run/headwater"}
    del old["volumeMounts"]
    assert new.pop("lifecycle") == {"preStop": {"sleep": {"seconds": 5}}}
    added = [item["name"] for item in new["env"] if item not in old["env"]]
    assert added == ["GOGC", "COREDNS_MEMORY_LIMIT_MIB", "GOMEMLIMIT"]
    new["env"] = [item for item in new["env"] if item["name"] not in added]
    assert new == old
    assert all(volume in after["volumes"] for volume in before["volumes"])
    assert [item["name"] for item in after["initContainers"]] == ["headwater", "headwater-twin"]


def test_a_field_that_does_not_exist_is_refused(namespaces: Plane) -> None:
    """The dry run can fail: the server refuses one wrong word."""
    text = namespaces.kubectl("kustomize", BASE)
    assert "readinessProbe" in text
    with pytest.raises(PlaneError, match="readynessProbe"):
        namespaces.kubectl(
            "apply", "--dry-run=server", "-f", "-", stdin=text.replace("readinessProbe", "readynessProbe")
        )


@pytest.mark.parametrize("folder", COMPLETE, ids=lambda folder: folder.name)
def test_pods_keep_to_the_restricted_pod_security_standard(folder: Path, namespaces: Plane) -> None:
    """Admission checks pods, not Deployments, so the template is sent as a pod."""
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"try-{secrets.token_hex(3)}", "namespace": "headwater"},
        "spec": pod_spec(render(namespaces, folder)),
    }
    namespaces.api("POST", "/api/v1/namespaces/headwater/pods?dryRun=All", pod)
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(PlaneError, match=r"violates PodSecurity .*restricted"):
        namespaces.api("POST", "/api/v1/namespaces/headwater/pods?dryRun=All", pod)


# -- allowed


def rules_of(role: dict[str, Any]) -> set[tuple[str, str, str]]:
    """Return (group, resource, verb) of a ClusterRole; any other field of a rule is an error."""
    assert "aggregationRule" not in role
    for rule in role["rules"]:
        assert rule.keys() == {"apiGroups", "resources", "verbs"}
    return {
        triple
        for rule in role["rules"]
        for triple in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }


def test_role_is_what_these_flags_watch(objects: list[dict[str, Any]]) -> None:
    """With --multicluster-zone too: its rule is harmless, and without the
    rule nothing would be served.
    """
    settings = settings_of(sidecar(objects))
    watched = required_resources(replace(settings, multicluster_zones=("clusterset.local",)))
    assert {*watched} - {*required_resources(settings)} == {"serviceimports"}
    assert rules_of(only(objects, "ClusterRole")) == {
        (GROUPS.get(resource, ""), resource, verb) for resource in watched for verb in ("list", "watch")
    }
    assert not [item for item in objects if item["kind"] in ("Role", "RoleBinding")]


def test_role_is_bound_to_the_pods_account(objects: list[dict[str, Any]]) -> None:
    binding = only(objects, "ClusterRoleBinding")
    deployment = only(objects, "Deployment")
    account = {
        "kind": "ServiceAccount",
        "name": deployment["spec"]["template"]["spec"]["serviceAccountName"],
        "namespace": deployment["metadata"]["namespace"],
    }
    assert binding["subjects"] == [account]
    assert binding["roleRef"]["name"] == only(objects, "ClusterRole")["metadata"]["name"]


@pytest.mark.parametrize(
    ("source", "user", "watched"),
    [
        (BASE, BASE_USER, WATCHED),
        (PODS_VERIFIED, BASE_USER, WATCHED | {"pods"}),
        (CLIENT_NODES, BASE_USER, WATCHED | {"nodes"}),
        (PATCH_COREDNS / "rbac", COREDNS_USER, WATCHED),
    ],
    ids=["base", "pods-verified", "client-nodes", "patch-coredns"],
)
def test_server_allows_list_and_watch_of_these_only(source: Path, user: str, watched: set[str], plane: Plane) -> None:
    roles = [item for item in render(plane, source) if item["kind"].startswith("ClusterRole")]
    text = yaml.safe_dump_all(roles)
    plane.apply(text)
    try:
        allowed = {
            (resource, verb)
            for resource in sorted(WATCHED | OTHERS)
            for verb in VERBS
            if may(plane, user, verb, resource)
        }
    finally:
        plane.kubectl("delete", "-f", "-", stdin=text)
    assert allowed == set(itertools.product(watched, ("list", "watch")))


SERVICES = """\
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: cluster-ip}
spec: {clusterIP: 172.20.0.7, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: headless-1, labels: {kubernetes.io/service-name: headless}}
addressType: IPv4
endpoints: [{addresses: [10.44.7.1]}, {addresses: [10.44.7.2]}]
ports: [{port: 80}]
"""


@pytest.mark.coredns
def test_role_is_enough_for_headwater_and_for_split_mode(namespaces: Plane, namespace: str, tmp_path: Path) -> None:
    """Both processes use the ServiceAccount's own token, so they cannot read what it may not."""
    plane = namespaces
    account = [item for item in render(plane, BASE) if item["kind"].startswith(("ClusterRole", "ServiceAccount"))]
    plane.apply(yaml.safe_dump_all(account))
    plane.kubectl("apply", "-n", namespace, "-f", "-", stdin=SERVICES)
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": plane.kubectl("create", "token", "-n", "headwater", "headwater").strip()}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    try:
        with Headwater(tmp_path, "--kubeconfig", kubeconfig) as headwater:
            block = stanza(Settings(listen=headwater.listen, kubeconfig=str(kubeconfig)), mode="split")
            with CoreDNS(tmp_path, block) as dns:
                zone = f"{namespace}.svc.cluster.local"
                assert dns.records(f"headless.{zone}") == ["10.44.7.1", "10.44.7.2"]
                assert dns.records(f"10-44-7-2.headless.{zone}") == ["10.44.7.2"]
                assert dns.records(f"cluster-ip.{zone}") == ["172.20.0.7"]
                assert dns.ask(f"cluster-ip.{zone}", "AAAA").rcode() == Rcode.NOERROR
                assert dns.ask(f"absent.{zone}").rcode() == Rcode.NXDOMAIN
                # CoreDNS answers for the ClusterIP Service itself.
                headwater.terminate()
                assert dns.records(f"cluster-ip.{zone}") == ["172.20.0.7"]
                assert dns.ask(f"headless.{zone}").rcode() == Rcode.SERVFAIL
    finally:
        plane.kubectl("delete", "clusterrole,clusterrolebinding", "headwater")


def may(plane: Plane, user: str, verb: str, resource: str) -> bool:
    """Return the result of `kubectl auth can-i VERB RESOURCE --all-namespaces --as USER`."""
    name, _, subresource = resource.partition("/")
    attributes = {"verb": verb, "group": GROUPS.get(name, ""), "resource": name, "subresource": subresource}
    groups = ["system:serviceaccounts", "system:authenticated"]
    review = {"spec": {"user": user, "groups": groups, "resourceAttributes": attributes}}
    answer = plane.api("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


# -- starts


def test_flags_are_those_of_the_command_line(objects: list[dict[str, Any]]) -> None:
    settings = settings_of(sidecar(objects))
    assert settings.kubeconfig is None
    assert not settings.manifests
    assert settings.pods == (
        "verified" if ("", "pods", "list") in rules_of(only(objects, "ClusterRole")) else "disabled"
    )


def test_wrong_flag_is_seen(objects: list[dict[str, Any]]) -> None:
    container = sidecar(objects)
    with pytest.raises(click.NoSuchOption):
        settings_of({**container, "args": [*container["args"], "--pod=verified"]})


def test_probes_ask_the_admin_port(objects: list[dict[str, Any]]) -> None:
    for container, expected in zip(sidecars(objects), (9353, 9355), strict=False):
        admin = settings_of(container).admin
        assert admin is not None
        assert admin.host == "0.0.0.0", "the kubelet asks from outside of the pod"
        (port,) = container["ports"]
        assert port["containerPort"] == admin.port == expected
        pages = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
        assert {kind: page["path"] for kind, page in pages.items()} == {
            "startup": "/healthz",
            "liveness": "/healthz",
            "readiness": "/readyz",
        }
        assert {page["port"] for page in pages.values()} == {port["name"]}


def test_every_place_to_write_is_a_volume(objects: list[dict[str, Any]]) -> None:
    spec = pod_spec(objects)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    (coredns,) = spec["containers"]
    taken: set[str] = set()
    for container in sidecars(objects):
        settings = settings_of(container)
        assert settings.listen.path is not None
        writable = {
            mount["mountPath"]: mount["name"]
            for mount in container["volumeMounts"]
            if "emptyDir" in volumes[mount["name"]] and not mount.get("readOnly")
        }
        sockets = str(Path(settings.listen.path).parent)
        # Python's forkserver listens in the folder for temporary files.
        assert writable.keys() == {settings.state_dir, sockets, "/tmp"}
        assert {"name": writable.pop(sockets), "mountPath": sockets} in coredns["volumeMounts"]
        # Nothing but the sockets is for both: neither can fill or harm the other's.
        assert not taken & {*writable.values()}
        taken |= {*writable.values()}


def test_sidecar_has_no_privileges(objects: list[dict[str, Any]]) -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    for container in sidecars(objects):
        context = pod_spec(objects).get("securityContext", {}) | container["securityContext"]
        assert context["runAsNonRoot"]
        assert context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        user = f"{context['runAsUser']}:{context['runAsGroup']}"
        assert re.findall(r"^USER (.*)$", dockerfile, re.MULTILINE) == [user]


def test_sidecars_are_the_same_in_every_deployment(plane: Plane, patched: Path) -> None:
    """One is a patch and cannot be derived from the other, so this test keeps them equal."""
    for ours, theirs in zip(sidecars(render(plane, BASE)), sidecars(render(plane, patched)), strict=True):
        assert theirs.pop("securityContext").items() >= ours.pop("securityContext").items()
        # The base answers for addresses. CoreDNS as it was goes on to do so, and needs a token
        # itself.
        ours["args"] = [flag for flag in ours["args"] if not flag.startswith("--reverse-zone=")]
        ours["volumeMounts"] = [mount for mount in ours["volumeMounts"] if mount["mountPath"] != ACCOUNT]
        assert theirs == ours


def test_the_overlay_with_one_sidecar_has_nothing_of_the_second(plane: Plane) -> None:
    """It is one instance with both answer processes, at the sockets that the Corefile names."""
    objects = render(plane, SINGLE)
    (container,) = sidecars(objects)
    settings = settings_of(container)
    assert settings.workers == 2
    assert settings.peer_listen is None
    assert "twin" not in yaml.safe_dump_all(objects)
    assert "9355" not in yaml.safe_dump_all(objects)


def test_one_of_a_pod_asks_the_other_one_where_it_listens(objects: list[dict[str, Any]]) -> None:
    """On loopback: nobody outside the pod gets there, and Kubernetes is told of no port."""
    first, *others = sidecars(objects)
    listening = settings_of(first).peer_listen
    assert (listening is None) == (not others)
    for other in others:
        settings = settings_of(other)
        assert settings.peer_listen is None
        assert settings.seeds == (listening,)
    if listening is not None:
        assert listening.host == "127.0.0.1"
        ports = {port["containerPort"] for container in (first, *others) for port in container["ports"]}
        assert listening.port not in ports


@pytest.mark.parametrize("folder", COMPLETE, ids=lambda folder: folder.name)
def test_only_headwater_has_the_token(folder: Path, plane: Plane) -> None:
    """The volume is what the kubelet would mount into every container: the
    API server adds one of its own to pods that do not forbid it.
    """
    objects = render(plane, folder)
    spec = pod_spec(objects)
    assert spec["automountServiceAccountToken"] is False
    (volume,) = [volume for volume in spec["volumes"] if "projected" in volume]
    sources = {next(iter(source)): source for source in volume["projected"]["sources"]}
    assert sources["serviceAccountToken"]["serviceAccountToken"]["path"] == "token"
    assert sources["configMap"]["configMap"] == {
        "name": "kube-root-ca.crt",
        "items": [{"key": "ca.crt", "path": "ca.crt"}],
    }
    assert sources["downwardAPI"]["downwardAPI"]["items"] == [
        {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}
    ]
    mounts = {
        container["name"]: [mount for mount in container["volumeMounts"] if mount["name"] == volume["name"]]
        for container in (*spec["initContainers"], *spec["containers"])
    }
    token = [{"name": volume["name"], "mountPath": ACCOUNT, "readOnly": True}]
    assert mounts == {item["name"]: token for item in sidecars(objects)} | {"coredns": []}
    # Where the client library looks for them.
    assert str(Path(incluster_config.SERVICE_TOKEN_FILENAME).parent) == ACCOUNT
    assert Path(incluster_config.SERVICE_CERT_FILENAME).name == "ca.crt"


def test_coredns_collects_garbage_seldom_and_below_its_limit(objects: list[dict[str, Any]]) -> None:
    """The kubelet replaces $(NAME) by a variable that stands before it."""
    (coredns,) = pod_spec(objects)["containers"]
    mebibytes, limit = (item for item in coredns["env"] if "MEM" in item["name"])
    assert {"name": "GOGC", "value": "400"} in coredns["env"]
    assert "GOMAXPROCS" not in {item["name"] for item in coredns["env"]}
    assert "cpu" not in coredns.get("resources", {}).get("limits", {})
    assert mebibytes["valueFrom"]["resourceFieldRef"] == {
        "containerName": "coredns",
        "resource": "limits.memory",
        "divisor": "1Mi",
    }
    assert limit["name"] == "GOMEMLIMIT"
    for memory in (64, 170, 1024, 30_000):
        expanded = limit["value"].replace(f"$({mebibytes['name']})", str(memory))
        assert 0.95 < int(expanded) / (memory << 20) < 0.96


@pytest.mark.coredns
def test_coredns_takes_the_settings_of_its_collector(objects: list[dict[str, Any]], tmp_path: Path) -> None:
    """Go reads GOMEMLIMIT as bytes, and refuses to start with what it cannot read."""
    (coredns,) = pod_spec(objects)["containers"]
    values = {item["name"]: item.get("value", "170") for item in coredns["env"]}
    values = {name: re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], value) for name, value in values.items()}
    port = free_port()
    corefile = f".:53 {{\n    prometheus 127.0.0.1:{port}\n    whoami\n}}\n"
    with (
        CoreDNS(tmp_path, corefile, env=values),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page,
    ):
        seen = dict(re.findall(rb"^(go_gc_go\w+) (\S+)$", page.read(), re.MULTILINE))
    assert {name: float(value) for name, value in seen.items()} == {
        b"go_gc_gogc_percent": 400,
        b"go_gc_gomemlimit_bytes": 170_000_000,
    }


@pytest.mark.parametrize("folder", COMPLETE, ids=lambda folder: folder.name)
def test_corefile_asks_where_headwater_listens(folder: Path, plane: Plane) -> None:
    objects = render(plane, folder)
    settings = settings_of(sidecar(objects))
    (corefile,) = only(objects, "ConfigMap")["data"].values()
    upstreams = " ".join(
        upstream(address) for item in sidecars(objects) for address in settings_of(item).listen_addresses()
    )
    assert f"grpc . {upstreams} {{" in corefile
    assert f"\n{' '.join(f'{zone}:53' for zone in settings.zones)} {{" in corefile
    assert f"\n{' '.join(f'{zone}:53' for zone in settings.reverse_zones)} {{" in corefile


@pytest.mark.parametrize("folder", COMPLETE, ids=lambda folder: folder.name)
def test_service_reaches_the_pods(folder: Path, plane: Plane) -> None:
    objects = render(plane, folder)
    template, service = only(objects, "Deployment")["spec"]["template"], only(objects, "Service")
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    open_ports = {(port["name"], port["protocol"]) for port in template["spec"]["containers"][0]["ports"]}
    assert {(port["targetPort"], port["protocol"]) for port in service["spec"]["ports"]} == open_ports


def test_images_carry_the_versions_of_this_checkout(objects: list[dict[str, Any]]) -> None:
    assert {item["image"] for item in sidecars(objects)} == {f"headwater:{__version__}"}
    assert pod_spec(objects)["containers"][0]["image"] == f"coredns/coredns:{build.TOOLS['coredns'].version()}"


def test_dockerfile_copies_what_is_there() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    copied = [
        word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.MULTILINE) for word in line.split()
    ]
    assert copied
    assert [name for name in copied if not (CHECKOUT / name).exists()] == []
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignore if line.startswith("!")} == set(copied)
    assert 'ENTRYPOINT ["env", "--block-signal=TERM,INT", "headwater"]' in dockerfile
