"""Advice: each rule on objects that break it, and quiet on those that do not."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import yaml
from headwater.advice.finding import EACH, MOST, Advice, Finding, Rule, Subject, few
from headwater.advice.rules import advise
from headwater.advice.views import Context
from headwater.advice.written import Collected
from headwater.cluster.reflector import RequestFailed, Trouble
from headwater.commands import advice as commands_advice
from headwater.commands.cli import FAILED, NEGATIVE, USAGE, main
from headwater.explain import advised
from headwater.explain.advised import NO_WORKLOADS, advised_from
from headwater.explain.offline import opened
from headwater.settings.settings import Settings
from headwater.writer import once

from tests.fakeapi.showcase import HOSTILE, TURNED

ROOT = Path(__file__).resolve().parents[2]

Object = dict[str, Any]


def service(
    name: str = "db", annotations: dict[str, Any] | None = None, namespace: str = "prod", **spec: Any
) -> Object:
    whole = {"clusterIP": "None", "selector": {"app": "db"}, "ports": [{"name": "db", "port": 80}], **spec}
    return {"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": namespace, "annotations": annotations or {}},
            "spec": {key: value for key, value in whole.items() if value is not None}}  # fmt: skip


def workload(
    kind: str = "StatefulSet", name: str = "db", *, labels: dict[str, str] | None = None, pod: Object | None = None,
    container: Object | None = None, namespace: str = "prod", **spec: Any,
) -> Object:  # fmt: skip
    template = {
        "metadata": {"labels": {"app": "db"} if labels is None else labels},
        "spec": {"containers": [{"name": "main", **(container or {})}], **(pod or {})},
    }
    whole = {"serviceName": "db", "replicas": 3} if kind == "StatefulSet" else {"replicas": 3}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": namespace},
            "spec": {**whole, "template": template, **spec}}  # fmt: skip


def endpoint(address: str, pod: str, hostname: str = "") -> Object:
    found: Object = {"addresses": [address], "targetRef": {"kind": "Pod", "name": pod}}
    return found | ({"hostname": hostname} if hostname else {})


def piece(of: str, *endpoints: Object, ports: Any = ({"name": "db", "port": 80, "protocol": "TCP"},)) -> Object:
    labels = {"kubernetes.io/service-name": of}
    return {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": f"{of}-x", "namespace": "prod", "labels": labels},
            "endpoints": list(endpoints), "ports": list(ports)}  # fmt: skip


def variables(**values: str) -> Object:
    return {"env": [{"name": name, "value": value} for name, value in values.items()]}


def config(text: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "conf", "namespace": "prod"},
            "data": {"x": text}}  # fmt: skip


MOUNTED: Final = {"volumes": [{"name": "conf", "configMap": {"name": "conf"}}]}
RABBIT: Final = "cluster_formation.peer_discovery_backend = dns\ncluster_formation.dns.hostname = db.prod.svc\n"
PUBLISHED: Final[dict[str, Any]] = {"publishNotReadyAddresses": True}
NAMED: Final = {"headwater.dev/pod-names": "true"}

#: Of each rule: objects that break it, and objects that are nearly the same and do not.
CASES: Final[list[tuple[Rule, list[Object], list[Object]]]] = [
    (Rule.SERVICE_UNKNOWN, [workload(serviceName="dbs")], [workload(), service()]),
    (Rule.SERVICE_UNKNOWN, [service(), workload(serviceName="dbs")], [service(), workload()]),
    (Rule.SERVICE_UNKNOWN, [workload("Deployment", pod={"subdomain": "gone", "hostname": "one"}, replicas=1)],
     [service("gone"), workload("Deployment", pod={"subdomain": "gone", "hostname": "one"}, replicas=1)]),
    (Rule.SERVICE_NOT_NAMED, [service(), workload(serviceName=None)],
     [service(clusterIP="10.0.0.1"), workload(serviceName=None)]),
    (Rule.SERVICE_NOT_HEADLESS, [service(clusterIP="10.0.0.1"), workload()], [service(), workload()]),
    (Rule.SERVICE_NOT_HEADLESS, [service(clusterIP=None, loadBalancerIP="None"), workload()],
     [service(annotations=NAMED, clusterIP=None), workload()]),
    (Rule.SERVICE_NOT_HEADLESS, [service(type="ExternalName", externalName="a.example", clusterIP=None), workload()],
     [service(type="ExternalName", externalName="a.example", clusterIP=None)]),
    (Rule.SERVICE_SELECTS_OTHERS, [service(selector={"app": "bd"}), workload()],
     [service(selector={"app": "bd"}), workload(labels={"app": "bd", "more": "x"})]),
    (Rule.SELECTOR_WITHOUT_PODS, [service("x", selector={"app": "bd"}), service(), workload()],
     [service("x", selector={"app": "bd"}), service(), workload(), workload("DaemonSet", "b", labels={"app": "bd"})]),
    (Rule.SELECTOR_WITHOUT_PODS, [service("x", selector={"app": "bd"}, clusterIP="10.0.0.1"), workload("Deployment")],
     [service("x", selector={"app": "bd"}, clusterIP="10.0.0.1"), workload("Deployment"),
      piece("x", endpoint("10.0.0.1", "a"))]),
    (Rule.NOT_READY_IN_PARALLEL, [service(), workload(podManagementPolicy="Parallel")],
     [service(**PUBLISHED), workload(podManagementPolicy="Parallel")]),
    (Rule.NOT_READY_IN_PARALLEL, [service(), workload(podManagementPolicy="Parallel")],
     [service(annotations={"headwater.dev/publish": "all"}), workload(podManagementPolicy="Parallel")]),
    (Rule.NOT_READY_IN_PARALLEL, [service(), workload(podManagementPolicy="Parallel", replicas=2)],
     [service(), workload(podManagementPolicy="Parallel", replicas=1)]),
    (Rule.NOT_READY_IN_PARALLEL, [service(), workload(podManagementPolicy="Parallel")],
     [service(), workload(podManagementPolicy="OrderedReady")]),
    (Rule.OWN_ADDRESS_FIRST, [service(**PUBLISHED), workload(container={"args": ["--cluster=gcomm://db?x=1"]})],
     [service(), workload(container={"args": ["--cluster=gcomm://db?x=1"]})]),
    (Rule.OWN_ADDRESS_FIRST, [service(**PUBLISHED), workload(pod=MOUNTED),
                              config("wsrep_cluster_address=gcomm://db.prod.svc.cluster.local:4567")],
     [service(**PUBLISHED), workload(pod=MOUNTED), config("wsrep_cluster_address=gcomm://db-0.db,db-1.db,db-2.db")]),
    (Rule.SEED_IS_THE_SET, [service(), workload(container=variables(CASSANDRA_SEEDS="db-0.db,db.prod.svc"))],
     [service(), workload(container=variables(CASSANDRA_SEEDS="db-0.db,db-1.db"))]),
    (Rule.SEED_IS_THE_SET, [service(), workload(pod=MOUNTED), config('  - seeds: "db:7000"')],
     [service(), workload(pod=MOUNTED), config('  - seeds: "db-0.db:7000"')]),
    (Rule.REVERSE_NOT_SERVED, [service(), workload(pod=MOUNTED), config(RABBIT)],
     [service(), workload(pod=MOUNTED), config(RABBIT.replace("= dns", "= k8s"))]),
    (Rule.TWO_SERVICES, [service(), service("ready"), workload()], [service(), service("ready", NAMED), workload()]),
    (Rule.TWO_SERVICES, [service(), service("ready"), workload()],
     [service(), service("ready", clusterIP="10.0.0.1"), workload()]),
    (Rule.NO_HOSTNAME, [service(), workload("Deployment", pod={"subdomain": "db"})],
     [service(), workload("Deployment")]),
    (Rule.SAME_HOSTNAME, [service(), workload("Deployment", pod={"subdomain": "db", "hostname": "one"})],
     [service(), workload("Deployment", pod={"subdomain": "db", "hostname": "one"}, replicas=1)]),
    (Rule.NOT_A_HOSTNAME, [service(), workload(name="db.v1")], [service(), workload(name="db-v1")]),
    (Rule.NOT_A_HOSTNAME, [service(), workload(name="a" * 61, replicas=11)],
     [service(), workload(name="a" * 61, replicas=10)]),
    (Rule.NOT_A_HOSTNAME, [service(), workload(name="a" * 61, ordinals={"start": 8})],
     [service(), workload(name="a" * 61, ordinals={"start": 7})]),
    (Rule.NOT_A_PORT_NAME, [service(ports=[{"name": "d" * 63, "port": 80}])],
     [service(ports=[{"name": "d" * 62, "port": 80}])]),
    (Rule.NOT_A_PORT_NAME, [service(ports=[{"name": "my_port", "port": 80}])],
     [service(ports=[{"name": "my-port", "port": 80}])]),
    (Rule.NOT_A_PORT_NAME, [service(ports=[{"name": "a.b", "port": 80}], clusterIP="10.0.0.1")],
     [service(ports=[{"port": 80}], clusterIP="10.0.0.1")]),
    (Rule.PORT_WITHOUT_NAME, [service(ports=[{"port": 27017}])], [service(ports=[{"port": 27017, "name": "mongodb"}])]),
    (Rule.TARGET_PORT, [service(ports=[{"name": "db", "port": 80, "targetPort": "sql"}]), workload()],
     [service(ports=[{"name": "db", "port": 80, "targetPort": "sql"}]),
      workload(container={"ports": [{"name": "sql", "containerPort": 3306}]})]),
    (Rule.TTL, [service(annotations={"headwater.dev/ttl": "0"})], [service(annotations={"headwater.dev/ttl": "5"})]),
    (Rule.TTL, [service(annotations={"headwater.dev/ttl": 4})], [service(annotations={"headwater.dev/ttl": 60})]),
    (Rule.ANNOTATION, [service(annotations={"headwater.dev/ttl": "5s"})],
     [service(annotations={"other.dev/ttl": "5s"})]),
    (Rule.EXTERNAL_ADDRESS, [service(type="ExternalName", externalName="10.0.0.1", clusterIP=None)],
     [service(type="ExternalName", externalName="a.example", clusterIP=None)]),
    (Rule.HOST_NETWORK, [service(), workload(pod={"hostNetwork": True})],
     [service(), workload(pod={"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"})]),
]  # fmt: skip

#: The same of what a cluster's slices show, where no workload is known.
SLICED: Final[list[tuple[Rule, list[Object], list[Object]]]] = [
    (Rule.NO_SELECTOR, [service(selector=None)], [service(selector=None), piece("db", endpoint("10.0.0.1", "a"))]),
    (Rule.SELECTOR_WITHOUT_PODS, [service(), piece("db")], [service(), piece("db", endpoint("10.0.0.1", "a"))]),
    (Rule.SELECTOR_WITHOUT_PODS, [service(), piece("db")], [service(clusterIP="10.0.0.9"), piece("db")]),
    (Rule.SERVICE_NOT_HEADLESS, [service(clusterIP="10.0.0.9"), piece("db", endpoint("10.0.0.1", "db-0", "db-0"))],
     [service(clusterIP="10.0.0.9"), piece("db", endpoint("10.0.0.1", "db-0"))]),
    (Rule.TWO_SERVICES, [service(), service("ready"), piece("db", endpoint("10.0.0.1", "db-0", "db-0")),
                         piece("ready", endpoint("10.0.0.1", "db-0"))],
     [service(), service("ready", NAMED), piece("db", endpoint("10.0.0.1", "db-0", "db-0")),
      piece("ready", endpoint("10.0.0.1", "db-0"))]),
    (Rule.SAME_HOSTNAME, [service(), piece("db", endpoint("10.0.0.1", "a", "one"), endpoint("10.0.0.2", "b", "one"))],
     [service(), piece("db", endpoint("10.0.0.1", "a", "one"), endpoint("10.0.0.2", "a", "one"))]),
    (Rule.NOT_A_HOSTNAME, [service(), piece("db", endpoint("10.0.0.1", "a", "a" * 64))],
     [service(), piece("db", endpoint("10.0.0.1", "a", "a" * 63))]),
    (Rule.TARGET_PORT, [service(), piece("db", endpoint("10.0.0.1", "a"), ports=())],
     [service(), piece("db", endpoint("10.0.0.1", "a"))]),
    (Rule.TTL, [service(annotations={"headwater.dev/ttl": "1"}), piece("db", endpoint("10.0.0.1", "a"))],
     [service(), piece("db", endpoint("10.0.0.1", "a"))]),
]  # fmt: skip


def found_in(objects: list[Object], context: Context = Context()) -> list[Finding]:  # noqa: B008 (it is frozen)
    """What the rules say of manifests."""
    collected = Collected(controlled=False)
    for item in objects:
        collected.add(item)
    assert collected.unknown == []
    return [one for world in collected.worlds() for one in advise(world, context)]


def sliced(objects: list[Object]) -> list[Finding]:
    """What the rules say of a cluster's Services and slices."""
    collected = Collected(controlled=True, workloads=False)
    for item in objects:
        collected.add(item)
    return [one for world in collected.worlds() for one in advise(world, Context())]


def named(cases: list[tuple[Rule, list[Object], list[Object]]]) -> list[Any]:
    return [pytest.param(*case, id=f"{case[0]}-{number}") for number, case in enumerate(cases)]


@pytest.mark.parametrize(("rule", "broken", "well"), named(CASES))
def test_a_rule_finds_what_breaks_it_and_nothing_else(rule: Rule, broken: list[Object], well: list[Object]) -> None:
    assert {one.rule for one in found_in(broken)} == {rule}
    assert found_in(well) == []


@pytest.mark.parametrize(("rule", "broken", "well"), named(SLICED))
def test_a_rule_finds_in_slices_what_breaks_it_and_nothing_else(
    rule: Rule, broken: list[Object], well: list[Object]
) -> None:
    assert {one.rule for one in sliced(broken)} == {rule}
    assert sliced(well) == []


def stored(tmp_path: Path, objects: list[Object]) -> Advice:
    """What an answer process says of objects in its store: as `sliced`, without selectors."""
    file = tmp_path / "objects.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    settings = Settings(manifests=(str(file),))
    once.write(settings, tmp_path / "state")
    found = Advice()
    after: str | None = ""
    with opened(tmp_path / "state", settings) as (reader, _):
        while after is not None:
            part = advised_from(reader, settings, after)
            assert part.next is None or part.next > after
            found.join(part)
            after = part.next
    return found


@pytest.mark.parametrize(("rule", "broken", "well"), named(SLICED))
def test_a_running_instance_finds_the_same_in_its_store(
    rule: Rule, broken: list[Object], well: list[Object], tmp_path: Path
) -> None:
    for number, objects in enumerate((broken, well)):
        (tmp_path / str(number)).mkdir()
        advice = stored(tmp_path / str(number), objects)
        assert {one.rule for one in advice.findings} == ({rule} if objects is broken else set())
        assert advice.unknown == [NO_WORKLOADS]
        assert advice.looked.services == len([item for item in objects if item["kind"] == "Service"])


def test_every_rule_has_a_case_and_a_paragraph() -> None:
    assert {rule for rule, _, _ in (*CASES, *SLICED)} == set(Rule)
    page = (ROOT / "docs" / "advice.md").read_text()
    assert re.findall(r"^### `([a-z-]+)`$", page, re.MULTILINE) == [rule.value for rule in Rule]


def test_every_field_of_the_advice_is_documented() -> None:
    page = (ROOT / "docs" / "advice.md").read_text().partition("## JSON")[2]
    words = set(re.findall(r"`([a-z_]+)(?:\[\])?`", page))
    for kind in (Advice, Finding, Subject):
        assert {item.encode_name for item in msgspec.structs.fields(kind)} <= words


def test_reverse_zones_that_are_served_are_no_finding() -> None:
    objects = [service(), workload(pod=MOUNTED), config(RABBIT)]
    assert found_in(objects, Context(reverse_zones=("10.in-addr.arpa",))) == []


def test_with_pod_names_for_all_a_second_service_is_no_finding() -> None:
    assert found_in([service(), service("ready"), workload()], Context(pod_names=True)) == []


def test_a_typing_error_names_the_nearest_pods() -> None:
    (one,) = found_in([service("x", selector={"app": "dbs"}), service(), workload()])
    assert "StatefulSet prod/db comes nearest, and has app=db" in one.why


def test_pods_of_other_manifests_are_no_finding() -> None:
    assert found_in([service()]) == []


def test_a_service_in_another_namespace_is_not_the_one() -> None:
    assert [one.rule for one in found_in([service(namespace="stage"), workload()])] == [Rule.SERVICE_UNKNOWN]


#: Folders of manifests for systems that people run, and the flags that they need.
SYSTEMS: Final = [
    folder
    for folder in sorted((ROOT / "examples").iterdir())
    if (ROOT / "docs" / "systems" / f"{folder.name}.md").exists()
]


@pytest.mark.parametrize("folder", SYSTEMS, ids=lambda folder: folder.name)
def test_the_examples_are_quiet(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["check", "--services", "--manifests", str(folder), "--reverse-zone", "10.0.0.0/8"]
    assert (main(arguments), *capsys.readouterr()) == (0, "", "")


def test_cassandras_example_with_the_headless_name_as_seed_is_found() -> None:
    """tests/apps/test_cassandra.py shows what that costs."""
    name = "cassandra.default.svc.cluster.local"
    text = (ROOT / "examples" / "cassandra" / "cassandra.yaml").read_text()
    seeds = f'seeds: "cassandra-0.{name},cassandra-1.{name}"'
    assert seeds in text
    broken = text.replace(seeds, f'seeds: "{name}"')
    assert [one.rule for one in found_in(list(yaml.safe_load_all(broken)))] == [Rule.SEED_IS_THE_SET]


# What tenants write


def walked(item: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container in an object with each of its keys."""
    pairs = list(item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ())
    for key, value in pairs:
        yield item, key
        yield from walked(value)


@pytest.mark.parametrize(
    "odd",
    [
        None,
        7,
        "text",
        ["a"],
        [{}],
        {"a": {}},
        [None],
        1.5,
        True,
        pytest.param(1 << 99_999, id="huge"),
        "\x1b[2J" * 3000,
    ],
)
def test_fields_of_any_type_are_no_crash(odd: Any) -> None:
    whole = [service(annotations={"headwater.dev/ttl": "0"}), workload(container=variables(A="b"), pod=MOUNTED),
             piece("db", endpoint("10.0.0.1", "db-0", "db-0")), config("x")]  # fmt: skip
    count = len(list(walked(whole)))
    for number in range(count):
        objects = json.loads(json.dumps(whole))
        container, key = next(itertools.islice(walked(objects), number, None))
        container[key] = odd
        collected = Collected(controlled=False)
        for item in objects:
            if isinstance(item, dict):
                collected.add(item)
        for world in collected.worlds():
            for one in advise(world, Context()):
                assert len(one.why) + len(one.instead) + len(one.path) < 2_000
                assert len(str(one.object)) < 300


@pytest.mark.parametrize(
    "text", [HOSTILE, TURNED, "\x1b]0;x\x07\x1b[2J", "a\nService prod/b: all is well", "\x00", " " * 999]
)
def test_a_terminal_gets_no_command_from_an_object(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    file = tmp_path / "hostile.json"
    objects = [service(text, {"headwater.dev/ttl": text}, selector={text: text}, ports=[{"name": text, "port": 1}]),
               workload(name=text, serviceName=text, labels={text: "x"}),
               workload(name=text, serviceName=f"{text}x")]  # fmt: skip
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    assert main(["check", "--services", "--manifests", str(file)]) == NEGATIVE
    shown = capsys.readouterr()
    assert all(line.isprintable() for line in (shown.out + shown.err).splitlines())
    assert len(shown.out) < 20_000


def calls(work: Callable[[], object]) -> int:
    """Count the calls of functions, Python's and C's, that some work makes."""
    count = 0

    def seen(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


#: Namespaces that somebody made to cost much, by how many objects.
COSTLY: Final[dict[str, Callable[[int], list[Object]]]] = {
    "every Service selects every pod": lambda n: [
        *(service(f"s{i}") for i in range(n)), *(workload(name=f"w{i}", serviceName="s0") for i in range(n))
    ],
    "no Service selects any pod": lambda n: [
        *(service(f"s{i}", selector={"app": f"a{i}"}) for i in range(n)),
        *(workload(name=f"w{i}", serviceName=f"x{i}") for i in range(n)),
    ],
    "one Service of many endpoints": lambda n: [
        service(), *(piece("db", *(endpoint("10.0.0.1", f"p{j}", f"h{j}") for j in range(10))) for _ in range(n))
    ],
    "many seeds": lambda n: [
        service(), workload(container={"args": ["gcomm://" + "," * n, "gcomm://" * n, "seeds: " + " , " * n]})
    ],
}  # fmt: skip


@pytest.mark.parametrize("title", COSTLY)
def test_the_work_is_linear_in_the_objects(title: str) -> None:
    make = COSTLY[title]
    few, many = make(400), make(1600)
    assert calls(lambda: found_in(many)) < 6 * calls(lambda: found_in(few))


def test_so_many_findings_are_named_and_the_others_counted() -> None:
    advice = Advice()
    for _ in range(MOST // EACH + 1):
        advice.add(found_in([service(f"s{number}", ports=[{"port": 1}]) for number in range(EACH + 7)]))
    assert (len(advice.findings), advice.more) == (MOST, 7 * (MOST // EACH) + EACH + 7)


def test_nobodys_objects_hide_what_is_found_of_others(tmp_path: Path) -> None:
    bad = [service(f"s{number}", ports=[{"port": 1}], selector=None, namespace="a") for number in range(300)]
    objects = [*bad, service(ports=[{"port": 1}], selector=None, namespace="b")]
    advice = Advice()
    collected = Collected(controlled=True)
    for item in objects:
        collected.add(item)
    for world in collected.worlds():
        advice.add(advise(world, Context()))
    for found in (advice, stored(tmp_path, objects)):
        assert found.findings[-1].object.namespace == "b"
        assert found.more > 0
        assert "b" in {one.object.namespace for one in few(found.findings, 20, 5)}


# Parts, for an answer process


def test_parts_end_soon_and_together_are_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advised, "_WORK", 0.0)
    objects = [service(namespace=f"ns-{number}", selector=None) for number in range(5)]
    advice = stored(tmp_path, objects)
    assert [one.object.namespace for one in advice.findings] == [f"ns-{number}" for number in range(5)]
    assert advice.looked.services == 5


def test_a_part_fits_into_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headwater.process.control import MAX_MESSAGE, Advised, Replied, encode
    from headwater.process.progress import Progress

    monkeypatch.setattr(advised, "_WORK", 60.0)
    wide = "\x01" * 63
    objects = [service(f"s{number:03}" + wide[4:], {"headwater.dev/ttl": wide * 9}, selector=None,
                       namespace=f"n{number // 19:02}" + wide[3:]) for number in range(300)]  # fmt: skip
    file = tmp_path / "objects.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    settings = Settings(manifests=(str(file),))
    once.write(settings, tmp_path / "state")
    with opened(tmp_path / "state", settings) as (reader, _):
        part = advised_from(reader, settings)
    assert len(part.findings) > 30
    assert part.next is not None
    packet = encode(Replied(1, Progress().mark(), Advised(msgspec.json.encode(part))))
    assert len(packet) < MAX_MESSAGE


def test_a_namespace_that_is_too_large_is_said_and_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advised, "_ROOM", 3_000)
    objects = [*(service(f"s{number}", namespace="large") for number in range(20)),
               service(namespace="small", selector=None)]  # fmt: skip
    advice = stored(tmp_path, objects)
    assert [one.object.namespace for one in advice.findings] == ["small"]
    assert "Namespace large has more" in advice.unknown[1]


# The command


def written(folder: Path, *objects: Object) -> str:
    file = folder / "objects.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    return str(file)


def test_it_is_quiet_when_all_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--services", "--manifests", written(tmp_path, service(), workload())]) == 0
    assert capsys.readouterr() == ("", "")


def test_it_says_what_why_and_what_instead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, service(), workload(podManagementPolicy="Parallel"))
    assert main(["check", "--services", "--manifests", file]) == NEGATIVE
    shown = capsys.readouterr().out
    assert "Service prod/db: not-ready-in-parallel" in shown
    assert "instead: spec.publishNotReadyAddresses: true" in shown
    assert "1 thing that will not work" in shown


def test_json_is_the_same_and_a_rule_can_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, service(ports=[{"port": 1}]), workload(podManagementPolicy="Parallel"))
    assert main(["check", "--services", "--manifests", file, "--json"]) == NEGATIVE
    found = msgspec.json.decode(capsys.readouterr().out, type=Advice)
    assert [one.rule for one in found.findings] == [Rule.NOT_READY_IN_PARALLEL, Rule.PORT_WITHOUT_NAME]
    assert (found.looked.services, found.looked.workloads) == (1, 1)
    both = ["--except", "port-without-name", "--except", "not-ready-in-parallel"]
    assert main(["check", "--services", "--manifests", file, *both]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--except", "port-without-name"], "--except: it goes with --services"),
        (["--json"], "--json: it goes with --services"),
        (["--services", "--except", "nonsense"], "'nonsense' is no rule: there are service-unknown"),
    ],
)
def test_flags_that_make_no_sense_are_refused(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    assert main(["check", *arguments]) == USAGE
    assert says in capsys.readouterr().err


def test_what_cannot_be_looked_at_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("a: [")
    assert main(["check", "--services", "--manifests", str(tmp_path / "bad.yaml")]) == FAILED
    assert main(["check", "--services", "--admin", "127.0.0.1:1"]) == FAILED
    assert "Does `headwater serve` run" in capsys.readouterr().err


def test_a_store_says_what_it_does_not_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    once.write(Settings(manifests=(written(tmp_path, service(selector=None)),)), tmp_path / "state")
    assert main(["check", "--services", "--state-dir", str(tmp_path / "state")]) == NEGATIVE
    shown = capsys.readouterr()
    assert "no-selector" in shown.out
    assert "StatefulSets and selectors are not watched here" in shown.err


# A cluster


class Server:
    """An API server with some objects, in pages of one; `refused` kinds are 403."""

    def __init__(self, objects: list[Object], refused: tuple[str, ...] = ()) -> None:
        self.objects = objects
        self.refused = refused
        self.asked: list[str] = []

    def read(self, path: str) -> bytes | None:
        from urllib.parse import parse_qs, urlsplit

        split = urlsplit(path)
        resource = split.path.rpartition("/")[2]
        self.asked.append(resource)
        if resource in self.refused:
            raise RequestFailed(Trouble.FORBIDDEN, f"{resource} is forbidden", 403)
        items = [item for item in self.objects if f"{item['kind'].lower()}s" == resource]
        at = int(parse_qs(split.query).get("continue", ["0"])[0])
        # A list's items have no kind.
        page = [{key: value for key, value in item.items() if key != "kind"} for item in items[at : at + 1]]
        more = str(at + 1) if at + 1 < len(items) else ""
        return json.dumps({"items": page, "metadata": {"continue": more}}).encode()

    def close(self) -> None: ...


def in_cluster(monkeypatch: pytest.MonkeyPatch, server: Server, *arguments: str) -> int:
    monkeypatch.setattr(commands_advice, "api_server", lambda *_: server)
    return main(["check", "--services", "--kubeconfig", "anything", "--json", *arguments])


WHOLE: Final = [
    service(), service("x", namespace="stage"), workload(podManagementPolicy="Parallel"),
    piece("db", endpoint("10.0.0.1", "db-0", "db-0")),
]  # fmt: skip


def test_a_cluster_is_listed_with_its_stateful_sets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_cluster(monkeypatch, Server(WHOLE)) == NEGATIVE
    found = msgspec.json.decode(capsys.readouterr().out, type=Advice)
    assert [(one.rule, one.object.namespace) for one in found.findings] == [
        (Rule.NOT_READY_IN_PARALLEL, "prod"), (Rule.SELECTOR_WITHOUT_PODS, "stage")
    ]  # fmt: skip
    assert (found.looked.services, found.looked.workloads, found.looked.slices) == (2, 1, 1)
    assert found.unknown == []
    assert in_cluster(monkeypatch, Server(WHOLE), "--namespace", "stage") == NEGATIVE
    found = msgspec.json.decode(capsys.readouterr().out, type=Advice)
    assert [one.object.namespace for one in found.findings] == ["stage"]


def test_what_may_not_be_listed_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    server = Server(WHOLE, ("statefulsets", "deployments", "daemonsets"))
    assert in_cluster(monkeypatch, server, "--except", "selector-without-pods") == 0
    found = msgspec.json.decode(capsys.readouterr().out, type=Advice)
    assert [text.split(" were")[0] for text in found.unknown] == ["StatefulSets", "Deployments", "DaemonSets"]
    assert in_cluster(monkeypatch, Server(WHOLE, ("services",))) == FAILED
    assert "Services cannot be listed: services is forbidden" in capsys.readouterr().err


def beside_an_instance(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], server: Server, told: Advice
) -> Advice:  # fmt: skip
    monkeypatch.setattr(commands_advice, "api_server", lambda *_: server)
    monkeypatch.setattr(commands_advice, "_part", lambda *_: msgspec.json.encode(told))
    monkeypatch.setenv("HEADWATER_KUBECONFIG", "anything")
    main(["check", "--services", "--json"])
    return msgspec.json.decode(capsys.readouterr().out, type=Advice)


def test_beside_a_running_instance_the_api_server_is_asked_for_what_it_does_not_watch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Finding(Rule.TTL, Subject("Service", "prod", "db"), "", "", "")
    same = Finding(Rule.SELECTOR_WITHOUT_PODS, Subject("Service", "stage", "x"), "", "", "")
    told = Advice([other, same], unknown=[NO_WORKLOADS])
    found = beside_an_instance(monkeypatch, capsys, Server(WHOLE), told)
    assert [one.rule for one in found.findings] == [Rule.NOT_READY_IN_PARALLEL, Rule.SELECTOR_WITHOUT_PODS, Rule.TTL]
    assert found.unknown == []


def test_beside_a_running_instance_nothing_is_listed_where_stateful_sets_may_not_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(WHOLE, ("statefulsets",))
    found = beside_an_instance(monkeypatch, capsys, server, Advice(unknown=[NO_WORKLOADS]))
    assert found.findings == []
    assert found.unknown[0] == NO_WORKLOADS
    assert "statefulsets is forbidden" in found.unknown[1]
    assert server.asked == ["statefulsets"]
