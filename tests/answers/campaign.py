"""Run one seed from beginning to end: create, settle, compare, change, settle, compare."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from headwater.compare.deviations import NOERROR
from headwater.compare.messages import TYPES, WAYS, Query, parse_reply
from headwater.writer.host import of_this_host

from tests.answers.compare import Difference, Tally, compare, never_asked
from tests.answers.generate import (
    MARKER,
    MAX_SEED,
    RECORDED_SEED,
    Change,
    changes,
    creation,
    generate,
    hosts,
    marker,
    mutate,
    recorded_address,
    recordings,
)
from tests.answers.names import AFTERWARDS, MATRIX, Names, names_of, questions, relative_to, within
from tests.answers.objects import Object, SeedObjects
from tests.answers.servers import CLUSTERSET, Pair
from tests.answers.wire import exchange
from tests.apps import corpus
from tests.apps.corpus import Corpus
from tests.harness.plane import Plane, PlaneError
from tests.harness.processes import wait_until

#: How long controllers may take to do their part, and all servers to see the last write, in
#: seconds.
SETTLED: Final = 20.0
#: How long a difference may last, in seconds: controllers write after the marker, and watches lag.
PATIENCE: Final = 8.0
_MERGE: Final = "application/merge-patch+json"
_COLLECTIONS: Final = {
    "Namespace": "/api/v1/namespaces", "Service": "/api/v1/namespaces/{}/services",
    "Pod": "/api/v1/namespaces/{}/pods", "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
    "ServiceImport": "/apis/multicluster.x-k8s.io/v1alpha1/namespaces/{}/serviceimports",
}  # fmt: skip
#: Labels that a change may remove.
_LABELS: Final = ("app", "hidden", "tier")


@dataclass
class Outcome:
    """The result of one seed."""

    seed: int
    corners: Sequence[str]
    tally: Tally = field(default_factory=Tally)
    differences: list[Difference] = field(default_factory=list)
    seconds: float = 0.0


def run(plane: Plane, pairs: Sequence[Pair], seed: int, pool: Executor) -> Outcome:
    """Compare one seed's cluster, change it, and compare again."""
    began = time.monotonic()
    world = generate(seed)
    outcome = Outcome(seed, world.corners)
    _write(plane, creation(world))
    _settle(plane, pairs, world, "m1")
    names = names_of(_as_served(plane, world))
    _compare_all(pairs, names, seed, 0, pool, outcome)
    after, requests = mutate(world)
    _write(plane, requests)
    _settle(plane, pairs, after, "m2")
    names = names | names_of(_as_served(plane, after))
    _compare_all(pairs, names, seed, 1, pool, outcome)
    outcome.corners = after.corners
    outcome.seconds = time.monotonic() - began
    return outcome


def name_servers(plane: Plane, pairs: Sequence[Pair], pool: Executor) -> Outcome:
    """Compare the zones' name servers: this host, and Services that it becomes an endpoint of.

    The cluster is left as it was found. Only the configurations in which the oracle knows the
    host's addresses are compared. These are not corners, because every seed would see them.
    """
    began = time.monotonic()
    pairs = [pair for pair in pairs if pair.configuration.everywhere]
    outcome = Outcome(MAX_SEED, ())
    before = SeedObjects(MAX_SEED)
    _compare_name_servers(pairs, pool, outcome)
    for step, world in enumerate(hosts(of_this_host())):
        _write(plane, [*changes(before, world)])
        before = world
        _settle(plane, pairs, world, f"n{step}")
        _compare_name_servers(pairs, pool, outcome)
    outcome.seconds = time.monotonic() - began
    return outcome


def recorded(plane: Plane, pairs: Sequence[Pair], pool: Executor) -> Outcome:
    """Compare the answers to what real systems asked (tests/apps/recorded).

    Every question is asked before a member has an address, with all members, after one was
    replaced, and when it is not ready. Each configuration asks as its own zone's pods would,
    except the one that serves other namespaces.
    """
    began = time.monotonic()
    pairs = [pair for pair in pairs if not pair.configuration.some_namespaces]
    outcome = Outcome(RECORDED_SEED, ())
    before = SeedObjects(RECORDED_SEED)
    corpora = {before.namespace(one.system): one for one in corpus.every()}
    for step, world in enumerate(recordings(corpora)):
        _write(plane, [*changes(before, world)])
        before = world
        _settle(plane, pairs, world, f"r{step}")
        names = names_of(world)
        for pair in pairs:
            queries = _recorded_queries(pair, corpora, step)
            outcome.differences += _compare_one(pair, names, queries, pool, outcome.tally)
    outcome.seconds = time.monotonic() - began
    return outcome


def _recorded_queries(pair: Pair, corpora: Mapping[str, Corpus], step: int) -> list[Query]:
    zone = pair.configuration.zones[0]
    asked = dict.fromkeys(
        question
        for number, (namespace, one) in enumerate(corpora.items())
        for question in one.questions(namespace, zone, recorded_address(one, number))
    )
    served = [
        (name, qtype)
        for name, qtype in asked
        if not name.endswith(".in-addr.arpa") or within(pair.reverse_zones, [name])
    ]
    return [Query(name, TYPES[qtype], WAYS[(index + step) % len(WAYS)]) for index, (name, qtype) in enumerate(served)]


def _compare_name_servers(pairs: Sequence[Pair], pool: Executor, outcome: Outcome) -> None:
    names = Names(dict.fromkeys(("", "dns", "ns.dns", "x.ns.dns")))
    for pair in pairs:
        zones = [*pair.headwater.settings.forward_zones(), *pair.reverse_zones]
        wanted = [name for zone in zones for name in relative_to(zone, names.forward)]
        queries = [
            Query(name, TYPES[qtype], WAYS[(index + number) % len(WAYS)])
            for index, name in enumerate([*wanted, *map(str.upper, wanted)])
            for number, qtype in enumerate(MATRIX)
        ]
        outcome.differences += _compare_one(pair, names, queries, pool, outcome.tally)


# -- writing


def _write(plane: Plane, requests: Sequence[Change]) -> None:
    for change in requests:
        kind, namespace, name = change.key
        collection = _COLLECTIONS[kind].format(namespace)
        path, item = f"{collection}/{name}", change.item
        if change.verb == "delete":
            plane.api("DELETE", path, {"gracePeriodSeconds": 0} if kind == "Pod" else None)
        elif change.verb == "create":
            plane.api("POST", collection, item)
            if kind == "Pod":
                _write_status(plane, path, item)
        elif kind in ("Service", "EndpointSlice"):
            plane.api("PUT", path, item)
        else:
            labels: dict[str, Any] = {**dict.fromkeys(_LABELS), **item["metadata"]["labels"]}
            patch = {"metadata": {"labels": labels}, **({"spec": item["spec"]} if kind == "ServiceImport" else {})}
            plane.api("PATCH", path, patch, content_type=_MERGE)
            if kind == "Pod":
                _write_status(plane, path, item)


def _write_status(plane: Plane, path: str, item: Object) -> None:
    """Write the status of a pod without a kubelet; kwok writes that of the others."""
    if "nodeName" not in item["spec"]:
        plane.api("PATCH", f"{path}/status", {"status": item["status"]}, content_type=_MERGE)


# -- settling


def _settle(plane: Plane, pairs: Sequence[Pair], world: SeedObjects, name: str) -> None:
    """Wait until the controllers are done, then until every server has seen
    a marker written after that.
    """
    with contextlib.suppress(TimeoutError):  # a slow controller shows in the comparison
        wait_until(lambda: _controllers_are_done(plane, world), PATIENCE, "the controllers' slices")
    last = marker(world, name)
    _write(plane, last)
    for pair in pairs:
        queries = _marker_queries(pair, world, name)
        for server in (pair.oracle, pair.ours):
            what = f"{pair.configuration.name}: port {server.port} has seen seed {world.seed}'s marker {name}"
            wait_until(partial(_all_answered, server.port, queries), SETTLED, what, interval=0.02)


def _marker_queries(pair: Pair, world: SeedObjects, name: str) -> list[Query]:
    namespace, zone = world.namespace(name), pair.configuration.zones[0]
    wanted = [f"{MARKER}.{namespace}.svc.{zone}"]
    if pair.configuration.imports:
        wanted.append(f"{MARKER}.{namespace}.svc.{CLUSTERSET}")
    if pair.configuration.pods == "verified":
        wanted.append(f"{world.v4(251).replace('.', '-')}.{namespace}.pod.{zone}")
    return [Query(full, TYPES["A"], WAYS[0]) for full in wanted]


def _all_answered(port: int, queries: Sequence[Query]) -> bool:
    for query, message in zip(queries, exchange(port, queries), strict=True):
        reply = parse_reply(query, message)
        if reply is None or reply.rcode != NOERROR or not reply.answer:
            return False
    return True


def _controllers_are_done(plane: Plane, world: SeedObjects) -> bool:
    """Return whether the slices of every Service with a selector have the addresses of its pods."""
    for (_, namespace, name), service in world.of_kind("Service"):
        selector = service["spec"].get("selector")
        if selector is None:
            continue
        pods = [item for (_, where, _), item in world.of_kind("Pod") if where == namespace]
        wanted = sum(
            item["metadata"]["labels"].get("run") == selector["run"]
            and item["status"]["phase"] not in ("Failed", "Succeeded")
            for item in pods
        )
        found = {
            address
            for item in _slices_of(plane, namespace, name)
            for endpoint in item["endpoints"] or ()
            for address in endpoint["addresses"]
        }
        if len(found) != wanted:
            return False
    return True


def _slices_of(plane: Plane, namespace: str, service: str) -> list[Object]:
    path = f"{_COLLECTIONS['EndpointSlice'].format(namespace)}?labelSelector=kubernetes.io%2Fservice-name%3D{service}"
    found: list[Object] = plane.api("GET", path)["items"]
    return found


def _as_served(plane: Plane, world: SeedObjects) -> SeedObjects:
    """Return the world with the objects that controllers and kwok made."""
    served = SeedObjects(world.seed, dict(world.objects), world.corners)
    for (_, namespace, name), service in world.of_kind("Service"):
        if "selector" in service["spec"]:
            for item in _slices_of(plane, namespace, name):
                item["endpoints"] = item["endpoints"] or []
                served.objects["EndpointSlice", namespace, item["metadata"]["name"]] = item
    for key, pod in world.of_kind("Pod"):
        if "nodeName" in pod["spec"]:
            with contextlib.suppress(PlaneError):
                served.objects[key] = plane.api("GET", f"{_COLLECTIONS['Pod'].format(key[1])}/{key[2]}")
    return served


# -- comparing


def _compare_all(pairs: Sequence[Pair], names: Names, seed: int, turn: int, pool: Executor, outcome: Outcome) -> None:
    tallies = [Tally() for _ in pairs]
    with ThreadPoolExecutor(len(pairs)) as threads:
        running = [
            threads.submit(_compare_one, pair, names, _queries(pairs, pair, names, seed, turn), pool, tally)
            for pair, tally in zip(pairs, tallies, strict=True)
        ]
        for future in running:
            outcome.differences += future.result()
    for tally in tallies:
        outcome.tally.messages += tally.messages
        outcome.tally.deviations += tally.deviations


def _queries(pairs: Sequence[Pair], pair: Pair, names: Names, seed: int, turn: int) -> list[Query]:
    """Return the queries for one configuration: its share of each kind of names that it has."""
    chance = random.Random(f"{seed} {turn} {pair.configuration.name}")
    types = AFTERWARDS if turn else MATRIX
    found: list[Query] = []

    def ask(having: Sequence[Pair], wanted: Sequence[str], likely: Sequence[str]) -> None:
        if pair in having:
            share = (having.index(pair) + turn) % len(having)
            found.extend(questions(chance, wanted, share, len(having), likely, types))

    by_zone: dict[str, list[str]] = {zone: [] for zone in pair.configuration.zones}
    for name in names.forward:
        by_zone[chance.choice(pair.configuration.zones)].append(name)
    ask(pairs, [full for zone, some in by_zone.items() for full in relative_to(zone, some)], ("A", "AAAA", "SRV"))
    for zone in pair.configuration.zones:
        aliases = relative_to(zone, names.aliases)
        found += [Query(name, TYPES[qtype], chance.choice(WAYS)) for name in aliases for qtype in ("A", "AAAA")]
    importing = [other for other in pairs if other.configuration.imports]
    ask(importing, relative_to(CLUSTERSET, names.imported), ("A", "AAAA", "SRV"))
    for family in ("in-addr.arpa", "ip6.arpa"):
        having = [other for other in pairs if any(zone.endswith(family) for zone in other.reverse_zones)]
        ask(having, within(pair.reverse_zones, within([family], names.reverse)), ("PTR",))
    return [query for query in found if not never_asked(pair, query)]


def _compare_one(pair: Pair, names: Names, queries: Sequence[Query], pool: Executor, tally: Tally) -> list[Difference]:
    """Compare, and repeat the queries that differ until they agree or PATIENCE is over."""
    found = compare(pair, names, queries, pool, tally)
    deadline = time.monotonic() + PATIENCE
    while found and time.monotonic() < deadline:
        time.sleep(0.25)
        found = compare(pair, names, [difference.query for difference in found], pool, Tally())
    return found
