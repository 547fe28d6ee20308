"""Why a name has an unexpected answer: the causes that users meet, each from manifests.

The manifests have Pods and StatefulSets too, so look-ups find these there. Causes that need real
controllers are in tests/cluster/test_explain.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from headwater.cluster.files import everything
from headwater.explain.explain import explained_from
from headwater.explain.explanation import Cause, Explanation, Outcome
from headwater.explain.look import NotSeen, gather, of_client, refine
from headwater.explain.offline import opened
from headwater.explain.show import show
from headwater.explain.sources import FromApi, FromManifests
from headwater.settings.settings import Settings
from headwater.writer import once

ZONE = "svc.cluster.local"


def meta(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "namespace": "prod", "resourceVersion": "7", **more}


def service(name: str, **spec: Any) -> dict[str, Any]:
    base = {"clusterIP": "None", "selector": {"app": name}, "ports": [{"name": "http", "port": 80}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta(name), "spec": {**base, **spec}}


def endpoint(address: str, pod: str = "", hostname: str = "", **conditions: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"addresses": [address], "nodeName": "node-a", "zone": "zone-a"}
    found |= {"hostname": hostname} if hostname else {}
    found |= {"targetRef": {"kind": "Pod", "name": pod}} if pod else {}
    return found | ({"conditions": conditions} if conditions else {})


def slice_of(name: str, *endpoints: dict[str, Any], ports: Any = ({"name": "http", "port": 80},)) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": name}
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": meta(f"{name}-x", labels=labels),
        "addressType": "IPv4", "endpoints": list(endpoints), "ports": list(ports),
    }  # fmt: skip


def pod(
    name: str, app: str, *, ip: str = "", phase: str = "Running", ready: bool = True, owner: str = "",
    status: dict[str, Any] | None = None, **spec: Any,
) -> dict[str, Any]:  # fmt: skip
    owners = [{"kind": "StatefulSet", "name": owner}] if owner else []
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": meta(name, labels={"app": app}, ownerReferences=owners),
        "spec": {"containers": [{"name": "main", "readinessProbe": {"httpGet": {"path": "/up", "port": 80}}}], **spec},
        "status": {"phase": phase, "conditions": conditions, **({"podIP": ip} if ip else {}), **(status or {})},
    }  # fmt: skip


def stateful_set(name: str, service_name: str, replicas: int = 3) -> dict[str, Any]:
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta(name),
            "spec": {"serviceName": service_name, "replicas": replicas}}  # fmt: skip


UNSCHEDULABLE = {
    "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available: Insufficient cpu."}]
}
NOT_READY_YET = {"containerStatuses": [{"name": "main", "ready": False, "state": {"running": {}}}]}
CRASHING = {
    "containerStatuses": [
        {"name": "main", "ready": False, "restartCount": 9, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    ]
}
OVER = {"endpoints.kubernetes.io/over-capacity": "truncated"}

WORLD: list[dict[str, Any]] = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "prod"}},
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "staging"}},
    # ready and not
    service("db"),
    slice_of("db", endpoint("10.0.0.1", "db-0", "db-0"), endpoint("10.0.0.2", "db-1", "db-1", ready=False),
             endpoint("10.0.0.3", "db-2", "db-2", ready=False, serving=True, terminating=True),
             endpoint("10.0.0.4", "db-3", "x" * 64), endpoint("10.0.0.5", "db-4", "other")),
    pod("db-0", "db", ip="10.0.0.1"),
    pod("db-1", "db", ip="10.0.0.2", ready=False, status=NOT_READY_YET),
    stateful_set("db", "db", 3),
    service("down"), slice_of("down", endpoint("10.0.1.1", "down-0", "down-0", ready=False)),
    pod("down-0", "down", ip="10.0.1.1", ready=False, status=CRASHING),
    # selectors
    service("typo"), pod("almost", "typoo", ip="10.0.2.1"),
    service("lonely", selector={"nobody": "has-it"}),
    service("pending"), slice_of("pending"), pod("pending-0", "pending", phase="Pending", status=UNSCHEDULABLE),
    service("done"), pod("done-0", "done", ip="10.0.2.3", phase="Succeeded"),
    service("stuck"), pod("stuck-0", "stuck", ip="10.0.2.4"),
    service("stale"), slice_of("stale", endpoint("10.0.2.5", "stale-0", "stale-0", ready=False)),
    pod("stale-0", "stale", ip="10.0.2.5"),
    service("unselected", selector=None),
    service("mirrored", selector=None), slice_of("mirrored", *(
        endpoint(f"10.1.{index >> 8}.{index & 255}") for index in range(1000))),
    {"apiVersion": "v1", "kind": "Endpoints", "metadata": meta("mirrored", annotations=OVER)},
    # hostnames
    service("front", clusterIP="172.16.0.9"), slice_of("front", endpoint("10.0.3.1", "front-0")),
    service("empty", clusterIP="172.16.0.8"),
    service("sub"), slice_of("sub", endpoint("10.0.3.2", "sub-0")), stateful_set("sub", "gone"),
    pod("sub-0", "sub", ip="10.0.3.2", owner="sub", hostname="sub-0", subdomain="gone"),
    service("deploy"), slice_of("deploy", endpoint("10.0.3.3", "deploy-abc")),
    pod("deploy-abc", "deploy", ip="10.0.3.3"),
    service("shared"), slice_of("shared", endpoint("10.0.3.4", "s-a", "same"), endpoint("10.0.3.5", "s-b", "same")),
    # ports
    service("nameless", ports=[{"port": 80}]),
    slice_of("nameless", endpoint("10.0.4.1"), ports=[{"name": "", "port": 80}]),
    service("noports"), slice_of("noports", endpoint("10.0.4.2", "p-0", "p-0"), ports=[]),
    service("mixed", ports=[{"name": "good", "port": 80}, {"name": "bad", "port": 81, "targetPort": "weeb"}]),
    slice_of("mixed", endpoint("10.0.4.3", "m-0", "m-0"), ports=[{"name": "good", "port": 80}]),
    service("unported", ports=[{"name": "http", "port": 80, "targetPort": "weeb"}]),
    slice_of("unported", endpoint("10.0.4.4", "u-0", "u-0"), ports=[]),
    # other names
    service("out", type="ExternalName", externalName="10.9.8.7", clusterIP=None, selector=None),
    service("loop", type="ExternalName", externalName=f"loop.prod.{ZONE}", clusterIP=None, selector=None),
    service("away", type="ExternalName", externalName="example.org", clusterIP=None, selector=None),
    service("dead", type="ExternalName", externalName=f"nowhere.prod.{ZONE}", clusterIP=None, selector=None),
    {**service("db"), "metadata": {"name": "web", "namespace": "staging", "labels": {"tier": "front"}}},
    {**slice_of("web", endpoint("10.0.5.1", "web-0", "web-0")),
     "metadata": {"name": "web-x", "namespace": "staging", "labels": {"kubernetes.io/service-name": "web"}}},
]  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A question, and parts of its explanation."""

    name: str
    cause: Cause
    says: tuple[str, ...]
    """Texts in the output."""
    outcome: Outcome = Outcome.NXDOMAIN
    qtype: str = "A"
    settings: tuple[tuple[str, Any], ...] = ()


def row(name: str, cause: Cause, *says: str, outcome: Outcome = Outcome.NXDOMAIN, qtype: str = "A", **more: Any) -> Row:
    full = name if name.endswith(".") else f"{name}.prod.{ZONE}"
    return Row(full, cause, says, outcome, qtype, tuple(more.items()))


NODATA, ANSWER, REFUSED = Outcome.NODATA, Outcome.ANSWER, Outcome.REFUSED
ROWS = {
    "no endpoint is ready": row("down", Cause.NONE_READY, "CrashLoopBackOff", "restarted 9 times", "ready = false"),
    "the selector matches no pod": row("typo", Cause.SELECTOR_MATCHES_NOTHING, "almost", "app=typoo", "--show-labels"),
    "the selector matches nothing like a pod": row("lonely", Cause.SELECTOR_MATCHES_NOTHING, "nobody=has-it"),
    "publishNotReadyAddresses is missing": row("db-1.db", Cause.HOST_NOT_READY, "publishNotReadyAddresses: true",
                                               "GET /up on port 80"),
    "the pod shuts down": row("db-2.db", Cause.HOST_TERMINATING, "shuts down", 'headwater.dev/publish: "serving"'),
    "the Service is not headless": row("front-7.empty", Cause.NOT_HEADLESS, "not headless", "172.16.0.8"),
    "not headless, with endpoints": row("front-0.front", Cause.HOST_HAS_NO_HOSTNAME, "front-0"),
    "the StatefulSet's serviceName is wrong": row("sub-0.sub", Cause.SUBDOMAIN_OTHER, "serviceName: gone",
                                                  "no Service gone", "endpoints[0].hostname = absent"),
    "a Deployment's pod has no name": row("deploy-abc.deploy", Cause.SUBDOMAIN_OTHER, "no spec.subdomain",
                                          "a Deployment's pods have none"),
    "subdomain names exactly one Service": row("db-0.sub", Cause.HOST_ELSEWHERE, f"db-0.db.prod.{ZONE}"),
    "the hostname stands in a template": row("same.shared", Cause.ANSWERED, "hostname of 2 pods", outcome=ANSWER),
    "the Service's label is missing": row("db-0", Cause.SERVICE_LABEL_MISSING, f"db-0.db.prod.{ZONE}"),
    "a short name": row("db.", Cause.ZONE_NOT_SERVED, f"db.prod.{ZONE}", "search list", outcome=REFUSED),
    "a short name with its namespace": row("db.prod.", Cause.ZONE_NOT_SERVED, f"db.prod.{ZONE}", outcome=REFUSED),
    "a Service of another namespace": row("web", Cause.SERVICE_UNKNOWN, f"web.staging.{ZONE}"),
    "a negative answer is cached": row("nowhere", Cause.SERVICE_UNKNOWN, "caches hold", "7 s", negative_ttl=7),
    "an old address is cached": row("db", Cause.ANSWERED, "the TTL (9 s)", "a JVM or a driver", outcome=ANSWER, ttl=9),
    "no selector, and no slices": row("unselected", Cause.NO_SELECTOR, "no selector", "get endpoints unselected"),
    "slices without a ready pod's readiness": row("stale", Cause.SLICES_BEHIND, "stale-0", "controller"),
    "a ready pod in no slice": row("stuck", Cause.SLICES_BEHIND, "stuck-0", "10.0.2.4"),
    "mirrored Endpoints are cut": row("mirrored", Cause.ANSWERED, "cut at 1,000", "over-capacity", outcome=ANSWER),
    "a hostname over 63 characters": row("db-3.db", Cause.HOST_LEFT_OUT, "x" * 64),
    "a hostname over 63 characters, seen from the Service": row("db", Cause.ANSWERED, "Left out of the answer",
                                                                 outcome=ANSWER),
    "a pod with another hostname": row("db-4.db", Cause.HOSTNAME_OTHER, "by its hostname, other"),
    "a pod without an address": row("pending", Cause.PODS_UNFIT, "pending-0", "Insufficient cpu"),
    "a pod that has ended": row("done", Cause.PODS_UNFIT, "done-0", "Succeeded"),
    "a port without a name": row("_http._tcp.nameless", Cause.PORT_HAS_NO_NAME, "spec.ports", qtype="SRV"),
    "targetPort of one port is in no container": row("_bad._tcp.mixed", Cause.PORTS_EMPTY, "has the port bad",
                                                     "targetPort", "ports = _good._tcp", qtype="SRV"),
    "targetPort of the only port is in no container": row("_http._tcp.unported", Cause.PORTS_EMPTY, "has the port http",
                                                          "ports = []", qtype="SRV"),
    "another port than the one in no container": row("_sql._tcp.unported", Cause.PORT_UNKNOWN, "_http._tcp",
                                                     qtype="SRV"),
    "a name that lacks the zone": row("db.prod.svc.", Cause.ZONE_NOT_SERVED, f"as in db.prod.{ZONE}.",
                                      outcome=REFUSED),
    "a name of one label": row("db.", Cause.ZONE_NOT_SERVED, f"as in db.NAMESPACE.{ZONE}", outcome=REFUSED),
    "targetPort is in no container": row("noports", Cause.PORTS_EMPTY, "targetPort", outcome=NODATA, qtype="SRV"),
    "SRV targets are dashed addresses": row("deploy", Cause.ANSWERED, "--endpoint-pod-names", outcome=ANSWER,
                                            qtype="SRV"),
    "single stack": row("db", Cause.OTHER_FAMILY, "IPv4", "ipFamilies", outcome=NODATA, qtype="AAAA"),
    "ExternalName with an address": row("out", Cause.EXTERNAL_ADDRESS, "10.9.8.7"),
    "ExternalName in a loop": row("loop", Cause.EXTERNAL_DEAD, "a loop", outcome=NODATA),
    "ExternalName without its target": row("dead", Cause.EXTERNAL_DEAD, f"nowhere.prod.{ZONE}", outcome=NODATA),
    "ExternalName of elsewhere": row("away", Cause.EXTERNAL_ELSEWHERE, "example.org", outcome=ANSWER),
    "names of pods are off": row("10-0-0-1.prod.pod.cluster.local.", Cause.PODS_DISABLED, "--pods = disabled"),
    "no such pod": row("10-9-9-9.prod.pod.cluster.local.", Cause.POD_UNKNOWN, "10-9-9-9", pods="verified"),
    "a pod of another namespace": row("10-0-0-1.staging.pod.cluster.local.", Cause.POD_UNKNOWN, "staging",
                                      pods="verified"),
    "--labels": row("db", Cause.SERVICE_LEFT_OUT, "do not match --labels", labels="tier=front"),
    "--namespace": row("db", Cause.NAMESPACE_LEFT_OUT, "--namespace", namespaces=("staging",)),
    "--namespace-labels": row("db", Cause.NAMESPACE_LEFT_OUT, "--namespace-labels", namespace_labels="team=x"),
    "--ignore-empty-service": row("empty", Cause.SELECTOR_MATCHES_NOTHING, "app=empty", "--ignore-empty-service = true",
                                  ignore_empty_service=True),
    "wildcards": row("a.b.c.*.db", Cause.WILDCARD, "CoreDNS none since 1.9"),
    "a zone that is not served": row("db.prod.svc.other.test.", Cause.ZONE_NOT_SERVED, "--zone", outcome=REFUSED),
    "no such ordinal": row("db-9.db", Cause.HOST_UNKNOWN, "db-9"),
    "over 512 bytes": row("mirrored", Cause.ANSWERED, "TCP", "1,000 addresses", outcome=ANSWER),
}  # fmt: skip


def explained(folder: Path, asked: Row, world: list[dict[str, Any]]) -> Explanation:
    """Explain from manifests, as the command does: with a store, and look-ups in the manifests."""
    manifest = folder / "world.json"
    manifest.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": world}))
    settings = replace(Settings(manifests=(str(manifest),)), **dict(asked.settings))
    once.write(settings, folder / "state")
    with opened(folder / "state", settings) as (reader, resolver):
        found = explained_from(reader, resolver, settings, asked.name, asked.qtype)
    return refine(found, gather(found.looks, FromManifests(everything(settings.manifests))))


@pytest.mark.parametrize("why", ROWS)
def test_a_cause_that_users_meet_is_named(why: str, tmp_path: Path) -> None:
    asked = ROWS[why]
    found = explained(tmp_path, asked, WORLD)
    text = show(found, 0.0)
    assert (found.outcome, found.cause, found.contradiction) == (asked.outcome, asked.cause, ""), text
    # Wrapped lines read as one.
    flat = " ".join(text.split())
    assert [words for words in asked.says if words not in flat] == [], text


def test_advice_that_cannot_help_is_not_given(tmp_path: Path) -> None:
    world = [
        *WORLD,
        service("ending"),
        slice_of("ending", endpoint("10.0.6.1", "e-0", "e-0", ready=False, serving=False, terminating=True)),
        service("manual", selector=None), slice_of("manual", endpoint("10.0.6.2", "", "m-0", ready=False)),
    ]  # fmt: skip
    (tmp_path / "ending").mkdir()
    (tmp_path / "manual").mkdir()
    ending = explained(tmp_path / "ending", row("e-0.ending", Cause.HOST_TERMINATING), world)
    assert (ending.cause, "headwater.dev/publish" in show(ending, 0.0)) == (Cause.HOST_TERMINATING, False)
    manual = explained(tmp_path / "manual", row("m-0.manual", Cause.HOST_NOT_READY), world)
    assert (manual.cause, "publishNotReadyAddresses" in show(manual, 0.0)) == (Cause.HOST_NOT_READY, False)


def test_without_a_look_it_is_said_to_be_unknown(tmp_path: Path) -> None:
    def connect() -> Any:
        raise NotSeen("there are no credentials")

    manifest = tmp_path / "world.json"
    manifest.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": WORLD}))
    settings = Settings(manifests=(str(manifest),))
    once.write(settings, tmp_path / "state")
    with opened(tmp_path / "state", settings) as (reader, resolver):
        before = explained_from(reader, resolver, settings, f"typo.prod.{ZONE}", "A")
    found = refine(before, gather(before.looks, FromApi(connect)))
    assert found.cause is before.cause is Cause.NO_SLICES
    assert found.looks == before.looks
    assert found.unknown == ["there are no credentials"]
    assert "which pods its selector matches" in show(found, 0.0)


# The pod that asks


def client(**spec: Any) -> dict[str, Any]:
    return pod("client", "client", **spec)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"hostNetwork": True}, "ClusterFirstWithHostNet"),
        ({"dnsPolicy": "Default"}, "never the cluster's DNS"),
        ({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"]}}, "192.0.2.1"),
        ({}, "has 4 dots, fewer than ndots (5)"),
        ({"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet", "dnsConfig": {
            "options": [{"name": "ndots", "value": "2"}]}}, ""),
    ],
)  # fmt: skip
def test_a_clients_own_pod_says_where_its_question_goes(spec: dict[str, Any], says: str) -> None:
    found = of_client(client(**spec), f"db.prod.{ZONE}", "cluster.local")
    assert (says in " ".join(found)) if says else not found


# Text by tenants


def test_what_tenants_write_neither_commands_a_terminal_nor_a_shell(tmp_path: Path) -> None:
    evil = "x; touch /tmp/owned \x1b[2J"
    world = [*WORLD, service("evil"), slice_of("evil", endpoint("10.6.6.6", evil, "evil-0", ready=False))]
    text = show(explained(tmp_path, row("evil-0.evil", Cause.HOST_NOT_READY), world), 0.0)
    assert "touch" in text
    assert "\x1b" not in text
    (command,) = [line for line in text.splitlines() if "describe pod" in line]
    assert command.strip().startswith("kubectl -n prod describe pod 'x; touch")


def test_a_pods_name_cannot_leave_its_path() -> None:
    asked = []

    class Server:
        def read(self, path: str) -> bytes | None:
            asked.append(path)
            return None

    assert FromApi(Server).get("Pod", "prod/../kube-system", "../secrets/token?x=1") is None
    assert asked == ["/api/v1/namespaces/prod%2F..%2Fkube-system/pods/..%2Fsecrets%2Ftoken%3Fx%3D1"]


@pytest.mark.parametrize("width", [80, 100])
def test_sentences_keep_to_the_terminals_width(width: int, tmp_path: Path) -> None:
    found = explained(tmp_path, ROWS["the StatefulSet's serviceName is wrong"], WORLD)
    lines = show(found, 0.0, width).splitlines()
    too_long = [line for line in lines if len(line) > width and not line.strip().startswith(("kubectl", "sub-0"))]
    assert too_long == []
