"""The chart, rendered by the real Helm: what is made, of what, and what is refused."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from headwater import __version__
from headwater.commands import options
from headwater.commands.corefile import Mode, stanza
from headwater.settings.options import OPTIONS
from headwater.settings.settings import Settings
from headwater.writer.process import required_resources

from tests.chart.expected import FOLDER, rendered
from tests.harness.helm import (
    CASES,
    CHART,
    ROOT,
    HelmError,
    Object,
    annotations_of,
    helm,
    merged,
    nested,
    objects,
    only,
    template,
)
from tools import build, monitoring

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
#: One sidecar in each pod.
SINGLE: dict[str, Any] = {"headwater": {"twin": False}}
SIDECARS = {"headwater", "headwater-twin"}


def containers(found: list[Object]) -> dict[str, Object]:
    spec = only(found, "Deployment")["spec"]["template"]["spec"]
    return {container["name"]: container for container in (*spec["initContainers"], *spec["containers"])}


def settings_of(found: list[Object]) -> Settings:
    command, *arguments = containers(found)["headwater"]["args"]
    assert command == "serve"
    return options.settings_of(arguments)


def corefile_of(found: list[Object]) -> str:
    return str(only(found, "ConfigMap")["data"]["Corefile"])


# What is made


@pytest.mark.parametrize("case", CASES)
def test_lint_has_nothing_to_say(case: str, tmp_path: Path) -> None:
    text = helm("lint", "--strict", CHART, "--values", CASES[case], folder=tmp_path)
    assert "1 chart(s) linted, 0 chart(s) failed" in text
    assert "[WARNING]" not in text


@pytest.mark.parametrize("case", CASES)
def test_objects_are_those_that_were_looked_at(case: str, tmp_path: Path) -> None:
    """After a change on purpose: python -m tests.chart.expected."""
    assert rendered(case, tmp_path) == (FOLDER / f"{case}.yaml").read_text()


def test_every_case_has_its_file() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == CASES.keys()


@pytest.mark.parametrize("case", CASES)
def test_names_and_labels_are_whole(case: str, tmp_path: Path) -> None:
    """Every object names its namespace, can be told to be of this release, and is there once."""
    found = objects(template(tmp_path, None, "--values", CASES[case]))
    seen = set()
    for item in found:
        metadata = item["metadata"]
        if not item["kind"].startswith("ClusterRole"):
            assert metadata["namespace"]
        if "helm.sh/hook" not in annotations_of(item):
            assert metadata["labels"]["app.kubernetes.io/instance"] == "headwater"
            assert metadata["labels"]["app.kubernetes.io/managed-by"] == "Helm"
        place = (item["kind"], metadata.get("namespace"), metadata["name"])
        assert place not in seen
        seen.add(place)


def test_a_long_name_of_a_release_is_cut_where_kubernetes_would_refuse_it(tmp_path: Path) -> None:
    found = objects(template(tmp_path, nested("monitoring.serviceMonitor.enabled", True), release="r" * 53))
    assert all(len(item["metadata"]["name"]) <= 63 for item in found if not item["kind"].startswith("ClusterRole"))


@pytest.mark.parametrize("name", ["123", "true", "0x1f", "null"])
@pytest.mark.parametrize("mode", ["standalone", "split", "sidecar"])
def test_names_that_yaml_would_take_for_something_else_stay_texts(mode: str, name: str, tmp_path: Path) -> None:
    """All of them are names that Kubernetes allows."""
    values = {
        "mode": mode, "fullnameOverride": name,
        "sidecar": dict.fromkeys(("namespace", "deployment", "container", "serviceAccount"), name),
        "serviceAccount": {"name": name}, "priorityClassName": name, "coredns": {"image": {"tag": name}},
        "monitoring": {"job": name, "corednsJob": name, "podMonitor": {"enabled": True, "namespace": name}},
    }  # fmt: skip
    text = helm("template", "123", CHART, "--namespace", name, folder=tmp_path, values=values)
    found = objects(text)
    assert [path for item in found for path in not_texts(item)] == []
    if mode == "sidecar":
        for file in ("patch.yaml", "coredns-values.yaml"):
            assert list(not_texts(yaml.safe_load(only(found, "ConfigMap")["data"][file]))) == []


#: Fields of Kubernetes that hold names.
NAMES = {"name", "namespace", "serviceAccountName", "priorityClassName", "replacement", "image", "containerName"}


def not_texts(value: Any, path: str = "") -> Iterator[str]:
    """Where a name or a label is no text."""
    if isinstance(value, dict):
        for key, child in value.items():
            named = key in NAMES or path.endswith(("labels", "matchLabels", "annotations"))
            if named and not isinstance(child, str | dict):
                yield f"{path}.{key}: {child!r}"
            yield from not_texts(child, f"{path}.{key}")
    elif isinstance(value, list):
        for child in value:
            if path.endswith("matchNames") and not isinstance(child, str):
                yield f"{path}: {child!r}"
            yield from not_texts(child, path)


def test_an_annotation_may_be_the_users_own(tmp_path: Path) -> None:
    """Twice in one mapping would be no YAML."""
    own = {"prometheus.io/scrape": "false", "more": "x"}
    found = objects(template(tmp_path, {"podAnnotations": own, "service": {"annotations": own}}))
    pods = only(found, "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert own.items() <= pods.items()
    assert pods["prometheus.io/port"] == "9353"
    assert own.items() <= only(found, "Service")["metadata"]["annotations"].items()


# One source for flags and Corefile


#: Values of `headwater`, each the other way.
OTHERWISE: dict[str, Any] = {
    "zones": ["k8s.example.org", "cluster.local"],
    "reverseZones": ["10.96.0.0/12"],
    "multiclusterZones": ["clusterset.local"],
    "pods": "verified",
    "namespaces": ["prod", "staging"],
    "namespaceLabels": "team=db,tier notin (test)",
    "labels": "app in (a,b)",
    "endpointPodNames": True,
    "zonal": True,
    "ignoreEmptyService": True,
    "ttl": 1_000_000,
    "negativeTtl": 0,
    "maxStaleness": "5m",
    "extendedErrors": True,
    "upstreams": ["192.0.2.53:53", "[2001:db8::53]:53"],
    # Any module will do: nothing runs it here.
    "policy": "headwater.policy.api:Decision",
    "workers": 15,
    "transport": "grpcio",
    "list": "stream",
    "auditInterval": "0",
    "secondOpinion": False,
    "history": "64MiB",
    "adminDetails": "all",
    "logLevel": "debug",
    "logFormat": "text",
}
#: Flags that the chart sets itself or that make no sense in a pod.
NOT_VALUES = {
    "--kubeconfig", "--context", "--manifests", "--listen", "--dns", "--state-dir", "--admin",
    # CoreDNS and Headwater share a folder, not a network.
    "--tls-cert", "--tls-key", "--tls-client-ca",
    # Certificates do, and are renewed.
    "--peer-token",
    # Answers by place need a Corefile that says who asks (`headwater corefile`, docs/near.md).
    "--listen-zone", "--zone-cidr", "--client-option", "--client-nodes",
}  # fmt: skip
#: What `peers.enabled` gives.
OF_PEERS = {"--peer-listen", "--seed", "--peer-cert", "--peer-key", "--peer-ca"}
#: Values that are called as the list of them is, or otherwise than their flag.
CALLED = {"zones": "zone", "reverseZones": "reverse-zone", "multiclusterZones": "multicluster-zone",
          "namespaces": "namespace", "upstreams": "upstream"}  # fmt: skip


def flag_of(value: str) -> str:
    return "--" + CALLED.get(value, "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in value))


def test_every_flag_is_a_value_or_says_why_not() -> None:
    values = VALUES["headwater"].keys() - {"image", "resources", "twin"}
    assert {flag_of(value) for value in values} | NOT_VALUES | OF_PEERS == {option.flag for option in OPTIONS}
    assert OTHERWISE.keys() == values


def test_defaults_are_those_of_the_flags_but_for_three(tmp_path: Path) -> None:
    found = settings_of(objects(template(tmp_path, SINGLE)))
    changed = {option.flag for option in OPTIONS if option.given(found) != option.default}
    # The kubelet asks from outside of the pod.
    assert changed == {"--admin", "--log-format", "--reverse-zone"}
    # One of two has a socket and a process of its own, and gives its store to the other.
    twin = settings_of(objects(template(tmp_path)))
    more = {option.flag for option in OPTIONS if option.given(twin) != option.given(found)}
    assert more == {"--listen", "--workers", "--peer-listen"}


def pods_of(case: str, folder: Path) -> Object:
    """A case's pod, or in mode sidecar what is put into one."""
    found = objects(template(folder, None, "--values", CASES[case]))
    if any(item["kind"] == "Deployment" for item in found):
        spec: Object = only(found, "Deployment")["spec"]["template"]["spec"]
        return spec
    patch = yaml.safe_load(only(found, "ConfigMap")["data"]["patch.yaml"])
    return dict(patch["spec"]["template"]["spec"])


@pytest.mark.parametrize("case", CASES)
def test_both_of_a_pod_have_the_same_flags(case: str, tmp_path: Path) -> None:
    """But for where each listens and takes its store from; else every other answer would differ."""
    single = {"everything", "single", "sidecar"}
    variables = re.compile(r"\$\(\w+\)")
    (tmp_path / "peers").mkdir()
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (tmp_path / "peers" / name).touch()

    def here(flag: str) -> str:
        return variables.sub("192.0.2.1", flag).replace("/etc/headwater", str(tmp_path))

    both = [
        options.settings_of([here(flag) for flag in container["args"][1:]])
        for container in pods_of(case, tmp_path)["initContainers"]
    ]
    assert len(both) == (1 if case in single else 2)
    for option in OPTIONS:
        if option.flag not in ("--listen", "--admin", "--peer-listen", "--seed"):
            assert len({option.given(settings) for settings in both}) == 1, option.flag


def test_one_of_a_pod_takes_its_store_from_the_other_over_loopback(tmp_path: Path) -> None:
    """In a pod loopback is the pod's own: without credentials nobody else can be there."""
    for values in ({}, {"mode": "split"}, {"peers": {"enabled": True}}):
        found = objects(template(tmp_path, values))
        one, two = only(found, "Deployment")["spec"]["template"]["spec"]["initContainers"]
        (listening,) = [flag for flag in one["args"] if flag.startswith("--peer-listen=")]
        assert not [flag for flag in two["args"] if flag.startswith("--peer-listen=")]
        first, *others = [flag for flag in two["args"] if flag.startswith("--seed=")]
        peers = "peers" in values
        assert listening == f"--peer-listen={'0.0.0.0' if peers else '127.0.0.1'}:9354"
        assert first == "--seed=127.0.0.1:9354"
        assert others == (["--seed=$(HEADWATER_PEERS_SERVICE_HOST):9354"] if peers else [])
        assert [flag for flag in one["args"] if flag.startswith("--seed=")] == others
        named = {port["name"] for container in (one, two) for port in container["ports"]}
        assert ("headwater-peers" in named) == peers
        # Before it is sent: who has no credential is served on loopback alone.
        assert any(flag.startswith("--peer-ca=") for flag in one["args"]) == peers
    (alone,) = only(objects(template(tmp_path, SINGLE)), "Deployment")["spec"]["template"]["spec"]["initContainers"]
    assert not [flag for flag in alone["args"] if "peer" in flag or "seed" in flag]


@pytest.mark.parametrize("mode", ["standalone", "split"])
@pytest.mark.parametrize("workers", [2, 4])
def test_twins_share_nothing_and_coredns_asks_all_their_processes(workers: int, mode: str, tmp_path: Path) -> None:
    values = {"mode": mode, "headwater": {"workers": workers, "ttl": 7}}
    found = objects(template(tmp_path, values))
    pod = only(found, "Deployment")["spec"]["template"]["spec"]
    one, two = (options.settings_of(container["args"][1:]) for container in pod["initContainers"])
    sockets = [f"unix://{address.path}" for settings in (one, two) for address in settings.listen_addresses()]
    assert len(set(sockets)) == workers
    asked = re.findall(r"grpc \. (.*) \{", corefile_of(found))
    assert asked
    assert {tuple(line.split()) for line in asked} == {tuple(sockets)}
    assert one.admin != two.admin
    mounts = [{mount["name"] for mount in container["volumeMounts"]} for container in pod["initContainers"]]
    assert mounts[0] & mounts[1] == {"headwater-sockets", "headwater-token"}
    assert mounts[0] | mounts[1] <= {volume["name"] for volume in pod["volumes"]}
    ports = [port["containerPort"] for container in pod["initContainers"] for port in container["ports"]]
    assert ports == [9353, 9355]
    probes = [
        container[probe]["httpGet"]["port"]
        for container in pod["initContainers"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    ]  # fmt: skip
    assert probes == ["headwater-http"] * 3 + ["headwater-twin"] * 3
    policy = only(found, "NetworkPolicy")["spec"]["ingress"][1]["ports"]
    assert [port["port"] for port in policy] == [9153, 9353, 9355]


@pytest.mark.parametrize("twin", [False, True])
def test_siblings_find_each_other_by_the_variable_of_their_service(twin: bool, tmp_path: Path) -> None:
    values = {"headwater": {"twin": twin}, "peers": {"enabled": True, "service": "dns-siblings"}}
    found = objects(template(tmp_path, values))
    pod = only(found, "Deployment")["spec"]["template"]["spec"]
    for name in ("tls.crt", "tls.key", "ca.crt"):
        (tmp_path / name).touch()
    here = {"$(DNS_SIBLINGS_SERVICE_HOST)": "192.0.2.1", "/etc/headwater/peers": str(tmp_path)}
    for container in pod["initContainers"]:
        text = "\n".join(container["args"][1:])
        for there, value in here.items():
            text = text.replace(there, value)
        settings = options.settings_of(text.split("\n"))
        serves = container["name"] == "headwater"
        given = {option.flag for option in OPTIONS if option.given(settings) != option.default} & OF_PEERS
        assert given == (OF_PEERS if serves else OF_PEERS - {"--peer-listen"})
        of_its_pod = [] if serves else ["127.0.0.1:9354"]
        assert [str(seed) for seed in settings.seeds] == [*of_its_pod, "192.0.2.1:9354"]
    (service,) = (item for item in found if item["metadata"]["name"] == "dns-siblings" and item["kind"] == "Service")
    named = {port["name"] for container in pod["initContainers"] for port in container["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= named
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "headwater-peers")
    assert volume["secret"]["secretName"] == "dns-siblings"
    (policy,) = (
        item for item in found if item["metadata"]["name"] == "dns-siblings" and item["kind"] == "NetworkPolicy"
    )
    (rule,) = policy["spec"]["ingress"]
    assert rule["from"] == [{"podSelector": policy["spec"]["podSelector"]}]
    assert rule["ports"] == [{"port": 9354, "protocol": "TCP"}]


def test_a_policy_for_siblings_alone_would_close_the_ports_of_a_coredns_that_is_not_ours(tmp_path: Path) -> None:
    found = objects(template(tmp_path, {"mode": "sidecar", "peers": {"enabled": True}}))
    assert not [item for item in found if item["kind"] == "NetworkPolicy"]


@pytest.mark.parametrize("value", OTHERWISE)
def test_a_value_becomes_its_flag_and_nothing_else(value: str, tmp_path: Path) -> None:
    usual = settings_of(objects(template(tmp_path, SINGLE)))
    found = settings_of(objects(template(tmp_path, merged(SINGLE, nested(f"headwater.{value}", OTHERWISE[value])))))
    changed = {option.flag: option.given(found) for option in OPTIONS if option.given(found) != option.given(usual)}
    expected: Any = OTHERWISE[value]
    if value == "secondOpinion":
        expected = "off"
    if value == "reverseZones":
        expected = [f"{16 * 6 + i}.10.in-addr.arpa" for i in range(16)]
    assert changed == {flag_of(value): tuple(expected) if isinstance(expected, list) else expected}


def directives(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


#: Modes of the chart, and of `headwater corefile`.
MODES: dict[str, Mode] = {"standalone": "zone", "split": "split"}
REVERSE: list[list[str]] = [
    [],
    ["in-addr.arpa", "ip6.arpa"],
    ["10.0.0.0/8", "10.64.3.9/10"],
    ["192.168.7.9/32", "172.16.0.0/30", "0.0.0.0/0"],
    ["fd00:10:96::/108", "2001:db8::1/126", "::/3", "2001:DB8:0:1:1:1:1:1/128"],
    ["::1/128", "fe80::/10", "1:2:3:4:5:6:7::/113", "44.10.in-addr.arpa"],
]


def corefiles() -> Iterator[dict[str, Any]]:
    for mode in MODES:
        for key, value in OTHERWISE.items():
            if not (mode == "split" and key == "ignoreEmptyService"):
                yield {"mode": mode, "headwater": {key: value, "twin": False}}
        for clusterset in ([], ["clusterset.local"]):
            for zones in REVERSE:
                flags = {"reverseZones": zones, "workers": 1, "twin": False, "multiclusterZones": clusterset}
                yield {"mode": mode, "headwater": flags}


@pytest.mark.parametrize("values", list(corefiles()), ids=lambda values: json.dumps(values)[:80])
@pytest.mark.parametrize("forward", [True, False], ids=["forward", "alone"])
def test_corefile_is_the_one_that_headwater_prints_for_these_flags(
    forward: bool, values: dict[str, Any], tmp_path: Path
) -> None:
    found = objects(template(tmp_path, merged(values, nested("coredns.reverseForward", forward))))
    blocks, dot, _ = corefile_of(found).partition("\n# Every other name.")
    assert dot
    settings = settings_of(found)
    onwards = "/etc/resolv.conf" if forward else None
    ours = directives(blocks)
    theirs = directives(stanza(settings, mode=MODES[values["mode"]], reverse_forward=onwards))
    assert [line for line in ours if line != "prometheus :9153"] == theirs
    # Each block counts its own queries, but for the one inside, whose queries are counted already.
    counting = sum(line.endswith("{") and ":53 " in line for line in theirs)
    assert len(ours) == len(theirs) + counting == len(theirs) + (2 if forward and settings.reverse_zones else 1)


@pytest.mark.parametrize("mode", ["standalone", "split", "sidecar"])
def test_two_of_a_pod_change_nothing_in_the_corefile(mode: str, tmp_path: Path) -> None:
    """Two of one process each have the sockets of one with two: a Corefile stays as it is."""
    both, one = (
        only(objects(template(tmp_path, merged({"mode": mode}, values))), "ConfigMap")["data"]["Corefile"]
        for values in ({}, SINGLE)
    )
    assert both == one


@pytest.mark.parametrize("twin", [True, False])
def test_mode_sidecar_has_the_same_blocks(twin: bool, tmp_path: Path) -> None:
    reverse = {"headwater": {"reverseZones": ["in-addr.arpa", "10.96.0.0/12"], "twin": twin}}
    sidecar = objects(template(tmp_path, {"mode": "sidecar", **reverse}))
    standalone = objects(template(tmp_path, reverse))
    data = only(sidecar, "ConfigMap")["data"]
    blocks, _, _ = corefile_of(standalone).partition("\n# Every other name.")
    assert data["Corefile"].strip() == blocks.strip()
    patch = yaml.safe_load(data["patch.yaml"])
    values = yaml.safe_load(data["coredns-values.yaml"])
    assert values["initContainers"] == patch["spec"]["template"]["spec"]["initContainers"]
    assert values["extraVolumes"] == patch["spec"]["template"]["spec"]["volumes"]
    both = [container["args"] for name, container in containers(standalone).items() if name != "coredns"]
    assert [container["args"] for container in patch["spec"]["template"]["spec"]["initContainers"]] == both
    assert len(both) == 1 + twin


def as_coredns_chart_writes(server: Object) -> list[str]:
    """A server of coredns/coredns's values as its templates write it into a Corefile."""
    keys = " ".join(f"{zone['zone']}:{server['port']}" for zone in server["zones"])
    lines = [f"{keys} {{"]
    for plugin in server["plugins"]:
        head = " ".join(filter(None, (plugin["name"], plugin.get("parameters"))))
        body = plugin.get("configBlock", "").splitlines()
        lines += [f"{head} {{", *body, "}"] if body else [head]
    return [*lines, "}"]


@pytest.mark.parametrize("forward", [True, False])
def test_values_for_the_chart_of_coredns_say_the_same_as_the_blocks(forward: bool, tmp_path: Path) -> None:
    reverse = nested("headwater.reverseZones", ["ip6.arpa", "10.96.0.0/12"])
    values = merged({"mode": "sidecar"}, reverse, nested("coredns.reverseForward", forward))
    data = only(objects(template(tmp_path, values)), "ConfigMap")["data"]
    servers = yaml.safe_load(data["coredns-values.yaml"])["servers"]
    theirs = [line for server in servers for line in as_coredns_chart_writes(server)]
    ours = directives(data["Corefile"].replace("prometheus :9153", "prometheus 0.0.0.0:9153"))
    assert theirs == ours


def test_another_corefile_is_another_configmap_and_starts_new_pods(tmp_path: Path) -> None:
    """Old pods keep theirs: `reload` in them meets no file that is made for new flags."""
    first = objects(template(tmp_path))
    second = objects(template(tmp_path, nested("coredns.cacheSeconds", 31)))
    names = []
    for found in (first, second):
        config = only(found, "ConfigMap")
        assert config["immutable"]
        template_ = only(found, "Deployment")["spec"]["template"]
        (volume,) = [item for item in template_["spec"]["volumes"] if item["name"] == "corefile"]
        assert volume["configMap"]["name"] == config["metadata"]["name"]
        assert template_["metadata"]["annotations"]["checksum/corefile"][:10] == config["metadata"]["name"][-10:]
        names.append(config["metadata"]["name"])
    assert len(set(names)) == 2


# Rights


GROUPS = {"endpointslices": "discovery.k8s.io", "serviceimports": "multicluster.x-k8s.io"}


@pytest.mark.parametrize("mode", ["standalone", "split", "sidecar"])
@pytest.mark.parametrize("pods", ["disabled", "insecure", "verified"])
@pytest.mark.parametrize("multicluster", [[], ["clusterset.local"]])
def test_role_is_what_the_flags_watch_and_nothing_else(
    mode: str, pods: str, multicluster: list[str], tmp_path: Path
) -> None:
    flags = {"headwater": {"pods": pods, "multiclusterZones": multicluster}}
    found = objects(template(tmp_path, {"mode": mode, **flags}))
    standalone = found if mode != "sidecar" else objects(template(tmp_path, flags))
    watched = required_resources(settings_of(standalone))
    rules = {
        triple
        for rule in only(found, "ClusterRole")["rules"]
        for triple in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }
    assert rules == {(GROUPS.get(name, ""), name, verb) for name in watched for verb in ("list", "watch")}
    binding = only(found, "ClusterRoleBinding")
    assert binding["roleRef"]["name"] == only(found, "ClusterRole")["metadata"]["name"]
    (subject,) = binding["subjects"]
    if mode == "sidecar":
        assert (subject["namespace"], subject["name"]) == ("kube-system", "coredns")
    else:
        spec = only(found, "Deployment")["spec"]["template"]["spec"]
        assert (subject["namespace"], subject["name"]) == ("headwater", spec["serviceAccountName"])
    assert not [item for item in found if item["kind"] in ("Role", "RoleBinding", "Secret")]


def test_releases_of_one_name_in_two_namespaces_do_not_share_a_role(tmp_path: Path) -> None:
    names = {
        only(objects(helm("template", "dns", CHART, "--namespace", where, folder=tmp_path)), "ClusterRole")["metadata"][
            "name"
        ]
        for where in ("a", "b")
    }
    assert names == {"a:dns-headwater", "b:dns-headwater"}


@pytest.mark.parametrize(("mode", "who"), [("standalone", SIDECARS), ("split", {*SIDECARS, "coredns"})])
def test_only_who_asks_the_api_server_has_the_token(mode: str, who: set[str], tmp_path: Path) -> None:
    found = objects(template(tmp_path, {"mode": mode}))
    spec = only(found, "Deployment")["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    tokens = {volume["name"] for volume in spec["volumes"] if "projected" in volume}
    assert tokens == {"headwater-token"}
    having = {
        name
        for name, container in containers(found).items()
        for mount in container["volumeMounts"]
        if mount["name"] in tokens
    }
    assert having == who


def test_the_tests_pod_is_taken_for_no_replica(tmp_path: Path) -> None:
    found = objects(
        template(tmp_path, {"commonLabels": {"k8s-app": "kube-dns"}, "selectorLabels": {"k8s-app": "kube-dns"}})
    )
    (pod,) = [item for item in found if item["kind"] == "Pod"]
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert not pod["metadata"]["labels"].keys() & {"k8s-app", "app.kubernetes.io/name", "app.kubernetes.io/instance"}


def test_everybody_may_ask_and_only_the_named_may_read_metrics(tmp_path: Path) -> None:
    policy = only(objects(template(tmp_path)), "NetworkPolicy")["spec"]
    dns, metrics = policy["ingress"]
    assert policy["policyTypes"] == ["Ingress"]
    assert "from" not in dns
    assert {(port["port"], port["protocol"]) for port in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert metrics["from"]
    # An empty list of peers would admit everybody: then the rule itself has to go.
    policy = only(objects(template(tmp_path, nested("networkPolicy.metricsFrom", []))), "NetworkPolicy")["spec"]
    assert policy["ingress"] == [dns]


def test_labels_of_another_coredns_are_in_the_place_of_the_usual(tmp_path: Path) -> None:
    """Helm merges mappings: a default label would stay beside those that are given."""
    values = {
        "mode": "sidecar",
        "sidecar": {"podLabels": {"app": "dns"}},
        "monitoring": {"podMonitor": {"enabled": True}},
    }
    monitor = only(objects(template(tmp_path, values)), "PodMonitor")
    assert monitor["spec"]["selector"]["matchLabels"] == {"app": "dns"}


def test_pods_that_are_recreated_have_no_limits_of_a_rolling_update(tmp_path: Path) -> None:
    found = objects(template(tmp_path, nested("updateStrategy.type", "Recreate")))
    assert only(found, "Deployment")["spec"]["strategy"] == {"type": "Recreate"}


# Images


def test_images_are_of_these_versions(tmp_path: Path) -> None:
    found = containers(objects(template(tmp_path)))
    assert found["headwater"]["image"] == f"headwater:{__version__}"
    assert found["coredns"]["image"] == f"coredns/coredns:{build.TOOLS['coredns'].version()}"


def test_a_digest_is_in_the_place_of_the_tag(tmp_path: Path) -> None:
    digest = "sha256:" + "ab" * 32
    images = {
        key: {"image": {"repository": "r.example:5000/a/b", "digest": digest}} for key in ("headwater", "coredns")
    }
    found = objects(template(tmp_path, images))
    assert {container["image"] for container in containers(found).values()} == {f"r.example:5000/a/b@{digest}"}
    (pod,) = [item for item in found if item["kind"] == "Pod"]
    assert pod["spec"]["containers"][0]["image"] == f"r.example:5000/a/b@{digest}"


# Monitoring


def test_rules_are_those_of_deploy_monitoring(tmp_path: Path) -> None:
    where = "https://wiki.example/"
    values = nested("monitoring.prometheusRule", {"enabled": True, "runbooks": where})
    rule = only(objects(template(tmp_path, values)), "PrometheusRule")
    assert rule["spec"] == monitoring.rules(runbooks=where)


def test_another_job_is_in_every_rule_and_in_the_dashboard(tmp_path: Path) -> None:
    values = {
        "monitoring": {
            "job": "two", "corednsJob": "three", "prometheusRule": {"enabled": True}, "dashboard": {"enabled": True},
            "podMonitor": {"enabled": True},
        }
    }  # fmt: skip
    found = objects(template(tmp_path, values))
    rules = json.dumps(only(found, "PrometheusRule")["spec"], sort_keys=True)
    plain = json.dumps(monitoring.rules(), sort_keys=True)
    assert rules == plain.replace('job=\\"headwater\\"', 'job=\\"two\\"')
    assert rules != plain
    (dashboard,) = [item for item in found if "headwater.json" in item.get("data", {})]
    shown = json.loads(dashboard["data"]["headwater.json"])
    variables = {item["name"]: item.get("query") for item in shown["templating"]["list"]}
    assert (variables["job"], variables["coredns"]) == ("two", "three")
    monitor = only(found, "PodMonitor")
    jobs = [item["relabelings"][1]["replacement"] for item in monitor["spec"]["podMetricsEndpoints"]]
    assert jobs == ["two", "two", "three"]


def test_the_dashboard_is_that_of_deploy_monitoring(tmp_path: Path) -> None:
    found = objects(template(tmp_path, nested("monitoring.dashboard.enabled", True)))
    (dashboard,) = [item for item in found if "headwater.json" in item.get("data", {})]
    assert json.loads(dashboard["data"]["headwater.json"]) == monitoring.dashboard()
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"


@pytest.mark.parametrize("mode", ["standalone", "split", "sidecar"])
def test_a_service_monitor_finds_the_service_that_comes_with_it(mode: str, tmp_path: Path) -> None:
    found = objects(template(tmp_path, {"mode": mode, "monitoring": {"serviceMonitor": {"enabled": True}}}))
    monitor = only(found, "ServiceMonitor")["spec"]
    chosen = [
        item
        for item in found
        if item["kind"] == "Service"
        and monitor["selector"]["matchLabels"].items() <= item["metadata"]["labels"].items()
        and item["metadata"]["namespace"] in monitor["namespaceSelector"]["matchNames"]
    ]
    (service,) = chosen
    assert service["spec"]["publishNotReadyAddresses"], "who is not ready is of most interest"
    assert {port["name"] for port in service["spec"]["ports"]} == {item["port"] for item in monitor["endpoints"]}
    if mode == "sidecar":
        assert service["spec"]["selector"] == {"k8s-app": "kube-dns"}
        patch = yaml.safe_load(
            only([item for item in found if "patch.yaml" in item.get("data", {})], "ConfigMap")["data"]["patch.yaml"]
        )
        ports = [port["name"] for one in patch["spec"]["template"]["spec"]["initContainers"] for port in one["ports"]]
        assert ports == ["headwater-http", "headwater-twin"]
    else:
        labels = only(found, "Deployment")["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()


# What is refused


REFUSED: list[tuple[str, Any, str]] = [
    ("worker", 3, r"additional properties 'worker' not allowed"),
    ("headwater.zone", ["cluster.local"], r"'/headwater': additional properties 'zone' not allowed"),
    ("mode", "daemonset", r"'/mode': value must be one of 'standalone', 'split', 'sidecar'"),
    ("headwater.workers", 16, r"'/headwater/workers': maximum: got 16, want 15"),
    ("headwater.workers", "2", r"'/headwater/workers': got string, want integer"),
    ("headwater.zones", [], r"'/headwater/zones': minItems: got 0, want 1"),
    ("headwater.zones", ["a.org", "a.org"], r"'/headwater/zones': items at 0 and 1 are equal"),
    ("headwater.zones", ["Cluster.Local"], r"'/headwater/zones/0': 'Cluster.Local' does not match pattern"),
    ("headwater.zones", ["a.org {\n}"], r"'/headwater/zones/0': .* does not match pattern"),
    ("headwater.zones", ["a.org\n"], r"'/headwater/zones/0': .* does not match pattern"),
    ("headwater.zones", ["10.in-addr.arpa"], r'headwater.zones: "10.in-addr.arpa" is a reverse zone'),
    ("headwater.multiclusterZones", ["cluster.local"], r'"cluster.local" is in headwater.zones too'),
    ("headwater.reverseZones", ["example.org"], r"'/headwater/reverseZones/0': 'example.org' does not match"),
    ("headwater.reverseZones", ["10.0.0.0/33"], r"'/headwater/reverseZones/0'"),
    ("headwater.reverseZones", ["10.0.0.0/8}"], r"'/headwater/reverseZones/0'"),
    ("headwater.reverseZones", ["10.0.0.0/9", "11.0.0.0/9"], r"headwater.reverseZones: no more than 250 zones"),
    ("headwater.pods", "all", r"'/headwater/pods': value must be one of 'disabled', 'insecure', 'verified'"),
    ("headwater.namespaces", ["a b"], r"'/headwater/namespaces/0'"),
    ("headwater.labels", 'a="x"', r"'/headwater/labels'"),
    ("headwater.labels", "a\n}", r"'/headwater/labels'"),
    ("headwater.labels", "{$SECRET}", r"'/headwater/labels'"),
    ("headwater.ttl", -1, r"'/headwater/ttl': minimum: got -1, want 0"),
    ("headwater.maxStaleness", 300, r"'/headwater/maxStaleness': got number, want string"),
    ("headwater.maxStaleness", "5 minutes", r"'/headwater/maxStaleness'"),
    ("headwater.upstreams", ["192.0.2.1"], r"'/headwater/upstreams/0'"),
    ("headwater.history", "lots", r"'/headwater/history'"),
    ("headwater.image.tag", 1.5, r"'/headwater/image/tag': got number, want string"),
    ("headwater.image.repository", "a/b:1.0", r"'/headwater/image/repository'"),
    ("headwater.image.digest", "sha256:12", r"'/headwater/image/digest'"),
    ("headwater.resources", {"limit": {"memory": "1Gi"}}, r"additional properties 'limit' not allowed"),
    ("headwater.resources", {"limits": {"memory": "1 GB"}}, r"'/headwater/resources/limits/memory'"),
    ("coredns.forward", ["/etc/resolv.conf {"], r"'/coredns/forward/0'"),
    ("coredns.forward", ["/etc/{$X}"], r"'/coredns/forward/0'"),
    ("coredns.preStopSeconds", 60, r"'/coredns/preStopSeconds': maximum: got 60, want 25"),
    ("sidecar.deployment", "coredns; reboot", r"'/sidecar/deployment'"),
    ("fullnameOverride", "a" * 53, r"'/fullnameOverride': maxLength: got 53, want 52"),
    ("podLabels", {"number": 1}, r"'/podLabels/number': got number, want string"),
    ("podAnnotations", {"yes": True}, r"'/podAnnotations/yes': got boolean, want string"),
    ("tolerations", [{"key": "a", "effects": "NoSchedule"}], r"additional properties 'effects' not allowed"),
    ("topologySpreadConstraints", [{"maxSkew": 1}], r"missing properties 'topologyKey', 'whenUnsatisfiable'"),
    ("affinity.podAntiAfinity", {}, r"additional properties 'podAntiAfinity' not allowed"),
    ("service.clusterIP", "None", r"'/service/clusterIP'"),
    ("service.type", "ExternalName", r"'/service/type': value must be one of"),
    ("networkPolicy.metricsFrom", [{}], r"'/networkPolicy/metricsFrom/0': minProperties: got 0, want 1"),
    ("monitoring.job", 'a"}) or vector(1) #', r"'/monitoring/job'"),
    ("monitoring.podMonitor.interval", "15", r"'/monitoring/podMonitor/interval'"),
    ("monitoring.prometheusRule.runbooks", "javascript:1", r"'/monitoring/prometheusRule/runbooks'"),
    ("coredns.image.tag", "", r"coredns.image.tag: a tag or a digest is needed"),
    ("serviceAccount", {"create": False}, r"serviceAccount.name: with serviceAccount.create=false, name"),
    ("podDisruptionBudget.minAvailable", 1, r"podDisruptionBudget.minAvailable: maxUnavailable is there too"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "why"), REFUSED, ids=lambda value: repr(value)[:50])
def test_a_wrong_value_is_refused_and_named(path: str, value: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(HelmError, match=why):
        template(tmp_path, nested(path, value))


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"mode": "split", "headwater": {"ignoreEmptyService": True}}, "headwater.ignoreEmptyService: CoreDNS has no"),
        ({"mode": "split", "headwater": {"labels": "a!=b"}}, 'headwater.labels: "a!=b": CoreDNS'),
        ({"mode": "split", "headwater": {"namespaceLabels": "a>1"}}, "headwater.namespaceLabels: "),
        ({"headwater": {"namespaces": ["a"], "namespaceLabels": "a=b"}}, "headwater.namespaceLabels: cannot be used"),
        ({"headwater": {"workers": 3}}, "headwater.workers: with headwater.twin each of the two has half .*twin=false"),
        (
            {"monitoring": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}},
            "monitoring.serviceMonitor.enabled: monitoring.podMonitor.enabled is true too",
        ),
        (
            {"monitoring": {"prometheusRule": {"enabled": True, "without": ["HeadwaterAbsend"]}}},
            'monitoring.prometheusRule.without: there is no alert "HeadwaterAbsend": one of .*HeadwaterAbsent',
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_values_that_do_not_go_together_are_refused(values: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(HelmError, match=why):
        template(tmp_path, values)


def test_raw_lines_of_a_corefile_stay_in_it(tmp_path: Path) -> None:
    """Whatever stands there is the operator's, and does not leave the Corefile."""
    raw = 'x\n---\nkind: Secret\n"}\n{{ .Values }}\n  a: b'
    usual = objects(template(tmp_path))
    found = objects(template(tmp_path, {"coredns": {"extraConfig": raw, "extraServers": raw}}))
    assert [item["kind"] for item in found] == [item["kind"] for item in usual]
    assert corefile_of(found).count("{{ .Values }}") == 2


def test_a_parent_chart_may_switch_it_on_and_hand_it_globals(tmp_path: Path) -> None:
    assert template(tmp_path, {"global": {"domain": "x"}, "enabled": True})


# Files


@pytest.mark.parametrize("name", ["rules.yaml", "dashboard.json"])
def test_copies_are_those_of_deploy_monitoring(name: str) -> None:
    assert (CHART / "files" / name).read_text() == monitoring.files()[CHART / "files" / name], "make monitoring"


def test_the_package_holds_what_it_needs_and_not_the_tests(tmp_path: Path) -> None:
    helm("package", CHART, "--destination", tmp_path, folder=tmp_path)
    text = helm("template", "headwater", tmp_path / f"headwater-{__version__}.tgz", folder=tmp_path)
    assert {item["kind"] for item in objects(text)} >= {"Deployment", "Service", "ConfigMap"}
    listing = helm("show", "all", tmp_path / f"headwater-{__version__}.tgz", folder=tmp_path)
    assert "appVersion" in listing
    assert (ROOT / "deploy" / "helm" / "headwater" / "ci").is_dir()
