"""The cluster of a seed, and its changes: both depend only on the seed."""

from __future__ import annotations

import copy
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.answers import corners
from tests.answers.objects import (
    DOTTED,
    IMPORT_NAME,
    IMPORTED_ADDRESSES,
    SERVICE_NAME,
    SHARED,
    SOURCE_CLUSTER,
    ZONES,
    Key,
    Maker,
    Object,
    SeedObjects,
)
from tests.apps.corpus import Corpus, Rename

#: The --namespace-labels and --labels of the configurations.
NAMESPACE_SELECTOR: Final = "answers=yes,tier notin (hidden)"
SELECTOR: Final = "app in (a,b),!hidden"
#: Seeds are below this, because there are not enough cluster IPs for more.
MAX_SEED: Final = 2800
#: The seed of the world in which recorded questions are asked.
RECORDED_SEED: Final = MAX_SEED + 1
#: Addresses of each recorded system.
_OF_A_SYSTEM: Final = 20
#: Corners for the namespaces other than the open one, one for each.
_ELSEWHERE: Final = (
    corners.headless_with_hostnames, corners.one_address_in_two_services, corners.multicluster, corners.zones,
)  # fmt: skip
#: The name of the Service, slice, pod and import that are written last.
MARKER: Final = "marker"

#: The namespaces of a seed. The changes create LATE and delete GONE.
OPEN, FREE, FLIP, GONE, LATE = "open", "free", "flip", "gone", "late"
_YES: Final = {"answers": "yes"}
_NAMESPACES: Final[dict[str, dict[str, str]]] = {
    OPEN: _YES, FREE: {}, FLIP: {**_YES, "tier": "shown"}, GONE: _YES, LATE: {**_YES, "tier": "hidden"},
}  # fmt: skip


def served_namespaces(seed: int) -> list[str]:
    """Return the namespaces of the configuration with --namespace, whether they exist or not."""
    return [f"a{seed}-{name}" for name in (OPEN, GONE, LATE, "m1", "m2")]


@dataclass(frozen=True)
class Change:
    """One request to the API server; `item` is the object to write, or the one to delete."""

    verb: str
    """create, replace or delete."""
    key: Key
    item: Object


def generate(seed: int) -> SeedObjects:
    """Draw a third of the corners into the open namespace, and a few objects into the others."""
    if not 0 <= seed < MAX_SEED:
        raise ValueError(f"seed {seed} is not between 0 and {MAX_SEED - 1}")
    world = SeedObjects(seed)
    chance = random.Random(seed)
    make = Maker(world, chance)
    for name, labels in _NAMESPACES.items():
        if name != LATE:
            make.put("Namespace", "", world.namespace(name), labels)
    # Three successive seeds have all corners together.
    shuffled = random.Random(f"corners {seed // 3}").sample(corners.CORNERS, len(corners.CORNERS))
    for corner in shuffled[seed % 3 :: 3]:
        world.corners.append(corner.__name__)
        corner(make, world.namespace(OPEN))
    corners.services_at_random(make, world.namespace(OPEN))
    for name in (FREE, FLIP, GONE):
        corner = chance.choice(_ELSEWHERE)
        corner(make, world.namespace(name))
        make.cluster_ip(world.namespace(name), "cluster", "4")
        make.pod(world.namespace(name), "pod", "Running", [world.v4(140)])
    return world


def mutate(world: SeedObjects) -> tuple[SeedObjects, list[Change]]:
    """Return the world after some changes, and the requests for these."""
    chance = random.Random(world.seed + (1 << 32))
    after = SeedObjects(world.seed, dict(world.objects), list(world.corners))
    make = Maker(after, chance)
    make.next_cluster_ip += 40  # a freed address may not be available yet
    recreated: set[Key] = set()
    for key, item in world.objects.items():
        changed = _mutated(make, key, copy.deepcopy(item))
        if changed is None:
            del after.objects[key]
        elif changed is not item:
            after.objects[key] = changed
        if key[0] == "Service" and changed and "finalizers" not in changed["metadata"] and chance.random() < 0.1:
            _recreate(make, key)
            recreated.add(key)
    gone = world.namespace(GONE)
    for key in [key for key in after.objects if gone in (key[1], key[2])]:
        del after.objects[key]
    make.put("Namespace", "", world.namespace(LATE), _NAMESPACES[LATE])
    for corner in chance.sample(corners.CORNERS, 2):
        if corner not in corners.OF_CONTROLLERS:
            after.corners.append(corner.__name__)
            corner(make, world.namespace(LATE))
    make.headless(world.namespace(OPEN), "comes-later")
    return after, list(changes(world, after, recreated))


def _mutated(make: Maker, key: Key, item: Object) -> Object | None:
    """Return the changed object; None if it is deleted."""
    kind, namespace, name = key
    chance = make.chance
    if kind == "Namespace":
        if name == make.world.namespace(FLIP):
            item["metadata"]["labels"] |= {"tier": "hidden"}
        return item
    if "finalizers" in item["metadata"]:
        return item
    if chance.random() < 0.08:
        return None
    if chance.random() < 0.1:
        kept = {label: value for label, value in item["metadata"]["labels"].items() if label not in ("app", "hidden")}
        item["metadata"]["labels"] = {**make.labels(), **kept}
    if kind == "EndpointSlice" and chance.random() < 0.6:
        _mutate_slice(make, item)
    elif kind == "Service" and chance.random() < 0.3 and "ports" in item["spec"]:
        item["spec"]["ports"] = make.ports()
    elif kind == "Service" and item["spec"].get("type") == "ExternalName" and chance.random() < 0.5:
        item["spec"]["externalName"] = chance.choice(["six.outside.test", f"web.{namespace}.svc.cluster.local"])
    elif kind == "ServiceImport" and chance.random() < 0.3:
        item["spec"]["ports"] = make.ports()
    elif kind == "Pod" and "nodeName" not in item["spec"] and "run" not in item["metadata"]["labels"]:
        if chance.random() < 0.4:
            item["status"]["phase"] = chance.choice(["Running", "Failed", "Succeeded", "Pending"])
        if chance.random() < 0.3:
            address = make.world.v4(chance.randint(100, 130))
            item["status"] |= {"podIP": address, "podIPs": [{"ip": address}]}
    return item


def _mutate_slice(make: Maker, item: Object) -> None:
    """Flip readiness, move an address, or rename, add or remove an endpoint."""
    chance, family, endpoints = make.chance, item["addressType"], item["endpoints"]
    make.first_address = 0 if SERVICE_NAME in item["metadata"]["labels"] else IMPORTED_ADDRESSES
    for endpoint in list(endpoints):
        dice = chance.random()
        if dice < 0.25:
            endpoint["conditions"] = {"ready": not endpoint.get("conditions", {}).get("ready", True)}
        elif dice < 0.4 and not endpoint.get("targetRef", {}).get("name", "").startswith(DOTTED):
            endpoint["addresses"] = make.endpoint(family)["addresses"]
        elif dice < 0.5:
            endpoints.remove(endpoint)
        elif dice < 0.6:
            endpoint.pop("hostname", None)
        elif dice < 0.7:
            endpoint["zone"] = chance.choice(ZONES)
    if chance.random() < 0.5:
        endpoints.append(make.endpoint(family))
    if chance.random() < 0.2:
        item["ports"] = make.slice_ports()
    make.first_address = 0


def _recreate(make: Maker, key: Key) -> None:
    """Replace a Service by one of another kind, because its cluster
    IP cannot be changed in place.
    """
    _, namespace, name = key
    chance = make.chance
    if make.world.objects[key]["spec"].get("clusterIP") == "None":
        make.cluster_ip(namespace, name, "4")
    elif chance.random() < 0.5:
        make.headless(namespace, name)
    else:
        make.external(namespace, name, "www.outside.test")


def changes(before: SeedObjects, after: SeedObjects, recreated: Collection[Key] = ()) -> Iterator[Change]:
    """Yield the requests in order. The objects of a deleted namespace need no requests."""
    gone = before.namespace(GONE)
    for key, item in before.objects.items():
        if key in recreated or (key not in after.objects and key[1] != gone):
            yield Change("delete", key, item)
    for key, item in after.objects.items():
        if key not in before.objects or key in recreated:
            yield Change("create", key, item)
        elif item != before.objects[key]:
            yield Change("replace", key, item)


def hosts(addresses: Sequence[str]) -> Iterator[SeedObjects]:
    """Yield worlds in which this host is an endpoint of one Service, of
    two, of a missing one, of none.
    """
    four = [address for address in addresses if ":" not in address][:1]
    six = [address for address in addresses if ":" in address and not address.startswith("fe80")][:1]

    def world(*, cluster: bool, headless: bool, slices: bool, ready: bool = True) -> SeedObjects:
        make = Maker(SeedObjects(MAX_SEED), random.Random(0))
        if cluster:
            make.cluster_ip(SHARED, "dns-cluster", "46")
        if headless:
            make.headless(SHARED, "dns-headless", ports=[{"name": "dns", "port": 53, "protocol": "UDP"}])
        for service in ("dns-cluster", "dns-headless") if slices else ():
            for family, own, other in (("IPv4", four, make.world.v4(1)), ("IPv6", six, make.world.v6(1))):
                endpoints = [{"addresses": [address], "conditions": {"ready": ready}} for address in (*own, other)]
                endpoints[-1]["hostname"] = "other"
                make.slice(SHARED, service, f"{service}-{family.lower()}", endpoints, [], family=family)
        return make.world

    yield world(cluster=True, headless=False, slices=True)
    yield world(cluster=True, headless=True, slices=True)
    yield world(cluster=False, headless=True, slices=True)
    yield world(cluster=False, headless=False, slices=True)
    yield world(cluster=True, headless=True, slices=True, ready=False)
    yield world(cluster=False, headless=False, slices=False)


def recorded_address(one: Corpus, number: int) -> Rename:
    """Return what renames the addresses of a recorded system, by its number: each has its own."""
    world = SeedObjects(RECORDED_SEED)
    addresses = dict.fromkeys(address for _, known in one.members for address in known)
    places = {address: place for place, address in enumerate(addresses)}
    return lambda address: world.v4(number * _OF_A_SYSTEM + places.get(address, _OF_A_SYSTEM - 1))


def recordings(corpora: Mapping[str, Corpus]) -> Iterator[SeedObjects]:
    """Yield the worlds of recorded systems, each in its namespace: without
    endpoints, whole, with one member replaced, and with that one not ready.
    """

    def world(at: int, *, endpoints: bool = True, ready: bool = True) -> SeedObjects:
        found = SeedObjects(RECORDED_SEED)
        for number, (namespace, one) in enumerate(corpora.items()):
            found.objects["Namespace", "", namespace] = {"metadata": {"name": namespace, "labels": dict(_YES)}}
            service, piece = one.objects(namespace, recorded_address(one, number), at=at)
            if not endpoints:
                piece["endpoints"] = []
            elif not ready:
                piece["endpoints"][-1]["conditions"] = {"ready": False, "serving": False}
            for item in (service, piece):
                item["metadata"]["labels"] |= {"app": "a"}
                found.objects[item["kind"], namespace, item["metadata"]["name"]] = item
        return found

    yield world(0, endpoints=False)
    yield world(0)
    yield world(-1)
    yield world(-1, ready=False)


def marker(world: SeedObjects, name: str) -> list[Change]:
    """Write one object of each kind last; a server that serves it has seen everything before it."""
    made = SeedObjects(world.seed)
    make = Maker(made, random.Random(0))
    namespace, labels = world.namespace(name), {"app": "a"}
    make.put("Namespace", "", namespace, _YES)
    make.service(namespace, MARKER, clusterIP="None", labels=labels)
    make.pod(namespace, MARKER, "Running", [world.v4(251)], labels=labels)
    make.put("ServiceImport", namespace, MARKER, _YES, spec={"type": "Headless", "ports": []})
    endpoint = {"addresses": [world.v4(250)]}
    of_slice = {SERVICE_NAME: MARKER, IMPORT_NAME: MARKER, SOURCE_CLUSTER: MARKER, **labels}
    make.slice(namespace, MARKER, MARKER, [endpoint], [], family="IPv4", labels=of_slice)
    for item in made.objects.values():
        item["metadata"]["labels"].pop("hidden", None)
    return creation(made)


def creation(world: SeedObjects) -> list[Change]:
    """Return the requests that create a world. A terminating object is created and then deleted."""
    found = [Change("create", key, item) for key, item in world.objects.items()]
    found.sort(key=lambda change: change.key[0] != "Namespace")
    held = [Change("delete", key, item) for key, item in world.objects.items() if "finalizers" in item["metadata"]]
    return found + held
