"""RFC 8020: if a name has an answer, no name above it in its zone is NXDOMAIN."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import dns.message
import dns.name
import pytest
from headwater.cluster.objects import KINDS, Namespace, Port, ServiceImport, convert

from tests.answers.generate import generate
from tests.answers.names import Names, names_of, relative_to
from tests.harness.small import Small, at, cluster_ip, headless, imported, remove, settings, slice_of, upsert

SEEDS = range(3)  # three seeds in a row have all corners
MZ = "clusterset.local"
REVERSE = ("in-addr.arpa", "ip6.arpa")
#: Types to ask for: A takes the resolver's short way, SRV the long one.
WAYS = ("A", "SRV")

CONFIGURATIONS = {
    "plain": settings(reverse_zones=REVERSE),
    "pods of any name": settings(pods="insecure", endpoint_pod_names=True, reverse_zones=REVERSE),
    "pods that are there": settings(pods="verified", ignore_empty_service=True),
    "zones in zones": settings(
        zones=("cluster.local", "deep.er.cluster.local", "a.b.c.svc.cluster.local", "x.y.pod.deep.er.cluster.local"),
        reverse_zones=("64.10.in-addr.arpa", "10.in-addr.arpa", "7.1.64.10.in-addr.arpa"), zonal=True,
    ),
    "zonal": settings(zonal=True, endpoint_pod_names=True),
    "multicluster": settings(multicluster_zones=(MZ, f"far.away.{MZ}"), zonal=True, pods="verified"),
    "multicluster alone": settings(zones=(f"in.{MZ}",), multicluster_zones=(MZ,), ignore_empty_service=True),
}  # fmt: skip


def wrong(world: Small, names: Iterable[str]) -> set[tuple[str, str]]:
    """Return (ancestor, name below it with an answer) for ancestors in a zone that are NXDOMAIN."""
    known: dict[tuple[str, str], tuple[bool, bool]] = {}

    def learn(some: Iterable[str]) -> None:
        asked = [(name, way) for name in dict.fromkeys(some) for way in WAYS if (name, way) not in known]
        replies = world.ask_wire(*(dns.message.make_query(name, way).to_wire() for name, way in asked))
        for one, reply in zip(asked, replies, strict=True):
            assert reply is not None
            known[one] = reply[3] & 15 == 0, reply[6:8] != b"\0\0"

    zones = sorted(world.settings.served_zones(), key=len, reverse=True)
    wanted = list(names)
    learn(wanted)
    found: dict[str, str] = {}
    for name in wanted:
        zone = next((zone for zone in zones if f".{name}".endswith(f".{zone}")), None)
        if zone is None or not any(known[name, way][1] for way in WAYS):
            continue
        above = name
        while above != zone:
            above = above.partition(".")[2]
            found.setdefault(above, name)
    learn(found)
    return {(above, name) for above, name in found.items() if not all(known[above, way][0] for way in WAYS)}


def stored(world: Small) -> list[str]:
    """Return every name in the store, with and without underscores."""
    found = [dns.name.from_wire(name, 0)[0].to_text(omit_final_dot=True).lower() for name in world.records()]
    return [other for name in found for other in {name, name.replace("_", ""), name.replace("_", "", 1)}]


def follow(world: Small, names: Names) -> list[str]:
    """Return the names that follow from the objects, in every zone."""
    relative = [*names.forward, *names.imported, *names.aliases]
    return [name for zone in world.settings.forward_zones() for name in relative_to(zone, relative)] + [*names.reverse]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_no_name_above_one_that_answers_is_nxdomain(tmp_path: Path, configuration: str, seed: int) -> None:
    objects = generate(seed)
    items = [
        convert(KINDS[item["apiVersion"], item["kind"]], item).object
        for item in objects.objects.values()
        if item["kind"] != "Namespace"
    ]
    world = Small(tmp_path, CONFIGURATIONS[configuration], name_servers=("10.0.0.53",))
    served = [item for item in items if world.settings.pods == "verified" or type(item).__name__ != "Pod"]
    world.fill(*served, namespaces=[*objects.namespaces, "default", "c", "y"])
    names = [*stored(world), *follow(world, names_of(objects))]
    assert len(names) > 200
    assert wrong(world, names) == set()


@pytest.mark.parametrize(
    ("zones", "between"),
    [
        (("cluster.local", "a.b.cluster.local"), ["b.cluster.local"]),
        (("a.b.c.d.cluster.local", "c.d.cluster.local", "cluster.local"), ["b.c.d.cluster.local", "d.cluster.local"]),
        (("cluster.local", "x.default.svc.cluster.local"), ["default.svc.cluster.local"]),
        (("cluster.local", "x.y.gone.svc.cluster.local"), ["y.gone.svc.cluster.local", "gone.svc.cluster.local"]),
    ],
)
def test_names_between_two_zones_are_there(tmp_path: Path, zones: tuple[str, ...], between: list[str]) -> None:
    world = Small(tmp_path, settings(zones=zones)).fill()
    for _ in range(2):
        for name in between:
            assert {world.status(name, qtype) for qtype in ("A", "SRV", "TXT")} == {"NODATA"}
            assert world.status(f"x{name}") == "NXDOMAIN"
        # A namespace of this name, and a Service, are created and deleted.
        world.commit(upsert(Namespace("gone")), upsert(headless("y", "gone")))
        world.commit(upsert(slice_of("y", at("10.0.0.1"), namespace="gone")))
        world.commit(remove(headless("y", "gone")), remove(Namespace("gone")), remove(Namespace("default")))


def test_a_zone_alone_has_nothing_between(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(zones=("cluster.local", "b.example.test"))).fill()
    assert world.status("b.cluster.local") == "NXDOMAIN"
    assert world.status("example.test") == "REFUSED"


def multicluster(tmp_path: Path, *ports: Port, headless: bool = True, host: str = "db-0") -> Small:
    world = Small(tmp_path, settings(multicluster_zones=(MZ,)))
    ports = ports or (Port("sql", "TCP", 5432),)
    item = ServiceImport("default", "db", headless, () if headless else ("172.16.9.9",), ports)
    return world.fill(item, imported("db", "east", at("10.9.0.1", hostname=host), ports=ports))


def test_a_cluster_of_a_clusterset_is_there_while_it_has_an_endpoint(tmp_path: Path) -> None:
    world = multicluster(tmp_path)
    base = f"db.default.svc.{MZ}"
    assert world.answers(f"db-0.east.{base}") == {"10.9.0.1"}
    assert {world.status(f"east.{base}", qtype) for qtype in ("A", "AAAA", "SRV", "TXT")} == {"NODATA"}
    assert world.status(f"west.{base}") == "NXDOMAIN"
    world.commit(upsert(imported("db", "west", at("10.9.0.2", hostname="db-0"), name="db-east")))
    assert (world.status(f"east.{base}"), world.status(f"west.{base}")) == ("NXDOMAIN", "NODATA")


def test_an_endpoint_that_is_called_as_a_cluster_keeps_its_records(tmp_path: Path) -> None:
    world = multicluster(tmp_path)
    world.commit(upsert(imported("db", "", at("10.9.0.7", hostname="east"), name="none")))
    assert world.answers(f"east.db.default.svc.{MZ}") == {"10.9.0.7"}
    world.commit(remove(imported("db", "", name="none")))
    assert world.status(f"east.db.default.svc.{MZ}") == "NODATA"


def test_an_import_without_ports_is_above_its_endpoints(tmp_path: Path) -> None:
    world = Small(tmp_path, settings(multicluster_zones=(MZ,)))
    world.fill(ServiceImport("default", "db", False, ("172.16.9.9",), ()), imported("db", "east", at("10.9.0.1")))
    assert world.answers(f"10-9-0-1.east.db.default.svc.{MZ}") == {"10.9.0.1"}
    assert world.status(f"db.default.svc.{MZ}") == "NODATA"


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP", "quic"])
def test_a_protocol_without_its_underscore_is_there_while_a_port_is(tmp_path: Path, protocol: str) -> None:
    """`quic`: a ServiceImport's definition may allow any text."""
    ports = [Port("http", protocol, 80)]
    world = Small(tmp_path, settings(multicluster_zones=(MZ,))).fill(
        headless("web"), slice_of("web", at("10.0.0.1"), ports=ports), cluster_ip("api", "172.16.0.1", ports=ports),
        headless("other"), slice_of("other", at("10.0.0.2", hostname=protocol.lower()), ports=ports),
        ServiceImport("default", "db", True, (), tuple(ports)),
        imported("db", "east", at("10.9.0.1"), ports=ports),
    )  # fmt: skip
    label = protocol.lower()
    for base in ("web.default.svc.cluster.local", "api.default.svc.cluster.local", f"db.default.svc.{MZ}"):
        assert world.answers(f"_http.{label}.{base}", "SRV")
        for qtype in WAYS:
            assert world.status(f"{label}.{base}", qtype) == "NODATA"
            assert world.status(f"x{label}.{base}", qtype) == "NXDOMAIN"
    other = "other.default.svc.cluster.local"
    assert world.answers(f"{label}.{other}") == {"10.0.0.2"}, "that is an endpoint's hostname"
    world.commit(upsert(slice_of("other", at("10.0.0.2", hostname=label), at("10.0.0.3"), ports=ports)))
    assert world.answers(f"{label}.{other}") == {"10.0.0.2"}
    world.commit(upsert(slice_of("web", at("10.0.0.1"), ports=[Port("", protocol, 80)])))
    assert world.status(f"{label}.web.default.svc.cluster.local") == "NXDOMAIN"


def test_a_service_without_an_address_is_above_its_endpoints(tmp_path: Path) -> None:
    world = Small(tmp_path).fill(cluster_ip("late"), slice_of("late", at("10.0.0.1"), at("10.0.0.2")))
    base = "late.default.svc.cluster.local"
    assert world.answers(f"10-0-0-1.{base}") == {"10.0.0.1"}
    assert world.status(base) == "NODATA"
    world.commit(upsert(slice_of("late", at("10.0.0.2"))))
    assert world.status(base) == "NODATA"
    world.commit(upsert(slice_of("late")))
    assert world.status(base) == "NXDOMAIN"
