"""Objects that are easily handled wrongly: each function draws some of them into a namespace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tests.answers.objects import (
    DOTTED,
    FINALIZER,
    IMPORT_NAME,
    IMPORTED_ADDRESSES,
    LONG,
    SERVICE_NAME,
    SHARED,
    SOURCE_CLUSTER,
    ZONES,
    Maker,
    Object,
)

Corner = Callable[[Maker, str], None]

READY: Final[Object] = {"ready": True}


def headless_with_hostnames(make: Maker, namespace: str) -> None:
    make.headless(namespace, "web")
    for piece in range(make.chance.randint(1, 2)):
        endpoints: list[Object] = [
            {"hostname": f"web-{piece * 4 + index}", "conditions": dict(READY)} for index in range(4)
        ]
        make.slice_v4(namespace, "web", piece, *endpoints)


def headless_without_hostnames(make: Maker, namespace: str) -> None:
    make.headless(namespace, "bare")
    for family in ("IPv4", "IPv6"):
        endpoints = make.endpoints(family, most=4)
        for endpoint in endpoints:
            endpoint.pop("hostname", None)
        make.slice(namespace, "bare", f"bare-{family.lower()}", endpoints, family=family)


def several_slices(make: Maker, namespace: str) -> None:
    make.headless(namespace, "many")
    for piece in range(4):
        make.slice(namespace, "many", f"many-{piece}")


def ipv6_only(make: Maker, namespace: str) -> None:
    make.headless(namespace, "six", ipFamilies=["IPv6"], ipFamilyPolicy="SingleStack")
    for piece in range(2):
        make.slice(namespace, "six", f"six-{piece}", family="IPv6")


def cluster_ips(make: Maker, namespace: str) -> None:
    for family in ("4", "6", "46", "64"):
        make.cluster_ip(namespace, f"cluster-{family}", family)
        if make.chance.random() < 0.7:
            make.slice(namespace, f"cluster-{family}", f"cluster-{family}-0")
    # Without a ready endpoint they have no names under --ignore-empty-service.
    make.cluster_ip(namespace, "cluster-empty")
    make.slice_v4(namespace, "cluster-empty", 0, {"conditions": {"ready": False}})


def one_address_in_two_services(make: Maker, namespace: str) -> None:
    for name in ("left", "right"):
        make.headless(namespace, name)
        make.slice_v4(namespace, name, 0, {"addresses": [make.world.v4(30)]}, {})


def one_address_under_two_hostnames(make: Maker, namespace: str) -> None:
    address = [make.world.v4(31)]
    make.headless(namespace, "twice")
    make.slice_v4(namespace, "twice", 0, *({"addresses": address, "hostname": name} for name in ("h0", "h1")))
    make.slice_v4(namespace, "twice", 1, {"addresses": address})


def an_endpoint_at_a_cluster_ip(make: Maker, namespace: str) -> None:
    key = make.cluster_ip(namespace, "virtual", "46")
    address = make.world.objects[key]["spec"]["clusterIPs"][0]
    make.headless(namespace, "at-virtual")
    make.slice_v4(namespace, "at-virtual", 0, {"addresses": [address]})


def one_port_name_on_several_numbers(make: Maker, namespace: str) -> None:
    make.headless(namespace, "numbers")
    for piece, port in enumerate((8080, 9090, 8080)):
        ports = [{"name": "http", "port": port, "protocol": "TCP"}]
        make.slice_v4(namespace, "numbers", piece, {"conditions": {}}, ports=ports)


def ports_without_names(make: Maker, namespace: str) -> None:
    make.headless(namespace, "unnamed", ports=[{"port": 80}])
    make.slice(namespace, "unnamed", "unnamed-0", None, [{"name": "", "port": 80}, {"name": "b", "port": 81}])
    make.slice(namespace, "unnamed", "unnamed-1", None, [{"port": 82}])
    make.cluster_ip(namespace, "unnamed-cluster", ports=[{"port": 80, "protocol": "UDP"}])


def no_ports(make: Maker, namespace: str) -> None:
    for name, ports in (("portless", []), ("portless-too", [{"name": "http", "port": None}])):
        make.service(namespace, name, clusterIP="None")
        make.slice(namespace, name, f"{name}-0", None, ports)


def names_of_63_characters(make: Maker, namespace: str) -> None:
    make.headless(namespace, f"{LONG}s")
    ports = [{"name": "p" * 63, "port": 80}]
    make.slice_v4(namespace, f"{LONG}s", 0, {"hostname": f"{LONG}y", "conditions": {}}, {}, ports=ports)
    make.cluster_ip(namespace, f"{LONG}c")


def slices_without_a_service(make: Maker, namespace: str) -> None:
    make.slice(namespace, "not-there", "orphan-0")
    make.slice(namespace, "comes-later", "orphan-1")


def external_names(make: Maker, namespace: str) -> None:
    """External names that lead inside, outside, to other zones, to themselves,
    to each other, to an address.
    """
    inside, other, deep = (
        f"{namespace}.svc.{zone}" for zone in ("cluster.local", "example.test", "deep.cluster.local")
    )
    targets = {
        "out": "www.outside.test",
        "out-alias": "alias.outside.test",
        "out-chain": "chain.outside.test",
        "out-loop": "loop.outside.test",
        "out-dangling": "dangling.outside.test",
        "out-six": "six.outside.test",
        "out-text": "text.outside.test",
        "out-nothing": "nothing.outside.test",
        "out-many": "many.outside.test",
        "out-refused": "www.refused.test",
        "out-broken": "www.broken.test",
        "out-dot": "www.outside.test.",
        "out-back": "back.outside.test",
        "in": f"in-target.{inside}",
        "in-dot": f"in-target.{inside}.",
        "in-host": f"h0.in-target.{inside}",
        "in-cluster": f"in-cluster-target.{inside}",
        "in-nothing": f"nope.{inside}",
        "in-pod": f"10-1-2-3.{namespace}.pod.cluster.local",
        "in-namespace": inside,
        "in-other-namespace": f"web.{make.world.namespace('free')}.svc.cluster.local",
        "in-zone": "cluster.local",
        "in-version": "dns-version.cluster.local",
        "in-other": f"in-target.{other}",
        "in-other-host": f"h0.in-target.{other}",
        "in-other-nothing": f"nope.{other}",
        "in-other-itself": f"in-other-itself.{other}",
        "in-other-external": f"out.{other}",
        "in-other-zone": "example.test",
        "in-deep": f"in-target.{deep}",
        "in-deep-host": f"h0.in-target.{deep}",
        "in-deep-nothing": f"nope.{deep}",
        "in-clusterset": f"imported.{namespace}.svc.clusterset.local",
        "in-reverse": "1.0.64.10.in-addr.arpa",
        "to-itself": f"to-itself.{inside}",
        "to-a": f"to-b.{inside}",
        "to-b": f"to-a.{inside}",
        "to-out": f"out-chain.{inside}",
        "to-address": "10.1.2.3",
        "to-single": "localhost",
        "to-long": ".".join([LONG] * 4),
    }
    make.headless(namespace, "in-target")
    for family in ("IPv4", "IPv6"):
        endpoints = [make.endpoint(family, hostname="h0", conditions={})]
        make.slice(namespace, "in-target", f"in-target-{family.lower()}", endpoints, family=family)
    make.cluster_ip(namespace, "in-cluster-target", "46")
    for name in make.chance.sample(sorted(targets), len(targets) // 2):
        ports = {"ports": make.ports()} if make.chance.random() < 0.3 else {}
        make.external(namespace, name, targets[name], **ports)


def a_chain_of_external_names(make: Maker, namespace: str) -> None:
    """A chain that is too long: CoreDNS follows ten."""
    last = make.chance.choice(["www.outside.test", f"web.{namespace}.svc.cluster.local", "nothing.outside.test"])
    length = make.chance.choice([9, 10, 11, 12, 13])
    for number in range(length):
        target = last if number == length - 1 else f"chain-{number + 1}.{namespace}.svc.cluster.local"
        make.external(namespace, f"chain-{number}", target)


def published_before_ready(make: Maker, namespace: str) -> None:
    """The controller itself makes the slices, with pods that are not ready and on no node."""
    labels = {"run": "published"}
    make.headless(namespace, "published", selector=labels, publishNotReadyAddresses=True)
    for number, phase in enumerate(("Running", "Running", "Pending", "Failed", "Succeeded")):
        spec = {"hostname": f"pub-{number}", "subdomain": "published"} if number % 2 else {}
        make.pod(namespace, f"pub-{number}", phase, [make.world.v4(60 + number)], labels=labels, spec=spec)


def selected_pods(make: Maker, namespace: str) -> None:
    """Pods and slices as kwok and the controller make them."""
    labels = {"run": "selected"}
    make.headless(namespace, "selected", selector=labels)
    for number in range(2):
        spec = {"nodeName": make.chance.choice(["node-a", "node-b"])}
        spec |= {"hostname": f"sel-{number}", "subdomain": "selected"}
        make.pod(namespace, f"sel-{number}", "Pending", [], labels=labels, spec=spec)


def pods_of_every_kind(make: Maker, namespace: str) -> None:
    world = make.world
    for number, phase in enumerate(("Running", "Running", "Pending", "Failed", "Succeeded", "Unknown")):
        addresses = [world.v4(100 + number)]
        if make.chance.random() < 0.5:
            addresses.append(world.v6(100 + number))
        if make.chance.random() < 0.2:
            addresses.reverse()
        make.pod(namespace, f"pod-{phase.lower()}-{number}", phase, addresses)
    make.pod(namespace, "pod-without-address", "Pending", [])
    make.pod(namespace, "pod-six", "Running", [world.v6(120)])
    make.pod(namespace, "pod-terminating", "Running", [world.v4(121)], finalizers=[FINALIZER])


def pods_with_the_hosts_address(make: Maker, namespace: str) -> None:
    for number in range(3):
        phase = make.chance.choice(["Running", "Running", "Failed"])
        make.pod(namespace, f"on-host-{number}", phase, [make.world.v4(130)], spec={"hostNetwork": True})


def terminating_service(make: Maker, namespace: str) -> None:
    """A deleted Service that a finalizer keeps."""
    key = make.headless(namespace, "terminating")
    make.world.objects[key]["metadata"]["finalizers"] = [FINALIZER]
    make.slice(namespace, "terminating", "terminating-0")


def names_that_are_words_of_the_grammar(make: Maker, namespace: str) -> None:
    for name in ("svc", "pod", "dns"):
        if make.chance.random() < 0.7:
            make.headless(namespace, name)
            make.slice(namespace, name, f"{name}-0")
    make.cluster_ip(SHARED, namespace)


def zones(make: Maker, namespace: str) -> None:
    make.headless(namespace, "zonal")
    for piece, family in enumerate(("IPv4", "IPv4", "IPv6")):
        endpoints = [make.endpoint(family, zone=make.chance.choice(ZONES[:2])) for _ in range(4)]
        make.slice(namespace, "zonal", f"zonal-{piece}", endpoints, family=family)
    # One address in two zones: of one slice the last counts.
    twice: Iterator[Object] = ({"addresses": [make.world.v4(40)], "zone": zone, "conditions": {}} for zone in ZONES[:2])
    make.slice_v4(namespace, "zonal", 3, *twice)


def several_addresses_of_an_endpoint(make: Maker, namespace: str) -> None:
    make.headless(namespace, "plural")
    make.slice_v4(namespace, "plural", 0, {"addresses": [make.world.v4(number) for number in (50, 51, 50)]})


def dotted_pod_names(make: Maker, namespace: str) -> None:
    """Every pod has its own addresses, so that both of its names follow from the address."""
    make.headless(namespace, "dotted")
    for piece, family in enumerate(("IPv4", "IPv4", "IPv6")):
        endpoints = make.endpoints(family, most=2)
        for number in range(2):
            address = make.world.v6(150 + number) if family == "IPv6" else make.world.v4(150 + 2 * piece + number)
            target = {"kind": "Pod", "name": f"{DOTTED}.{family.lower()}.{piece}-{number}"}
            endpoints.append({"addresses": [address], "targetRef": target, "zone": make.chance.choice(ZONES)})
        make.slice(namespace, "dotted", f"dotted-{piece}", endpoints, family=family)


def multicluster(make: Maker, namespace: str) -> None:
    """Imports of both types with slices of two clusters; some slices belong to a Service too.

    The other slices have their own addresses, because CoreDNS makes PTR records for them that it
    cannot send.
    """
    chance = make.chance
    imports: dict[str, Object] = {
        "imported": {"type": "ClusterSetIP", "ports": make.ports()},
        "imported-headless": {"type": "Headless", "ports": make.ports()},
        "imported-portless": {"type": chance.choice(["Headless", "ClusterSetIP"]), "ports": []},
        "imported-empty": {"type": "Headless", "ports": make.ports()},
    }
    for name, spec in imports.items():
        if spec["type"] == "ClusterSetIP":
            both = [make.world.cluster_v4(240), make.world.cluster_v6(15)]
            spec["ips"] = both[: chance.randint(1, 2)]
        labels = chance.choice([{}, {"answers": "yes"}, {"answers": "yes", "tier": "hidden"}])
        make.put("ServiceImport", namespace, name, labels, spec=spec)
    for name in ("imported", "imported-headless", "imported-portless", "imported-not"):
        for piece in range(chance.randint(1, 3)):
            labels = {IMPORT_NAME: name, SOURCE_CLUSTER: f"cluster-{chance.choice('ab')}"}
            if chance.random() < 0.2:
                labels[SERVICE_NAME] = "web"
            make.first_address = 0 if SERVICE_NAME in labels else IMPORTED_ADDRESSES
            make.slice(namespace, name, f"{name}-{piece}", labels=labels)
    make.first_address = 0


def services_at_random(make: Maker, namespace: str) -> None:
    for number in range(4):
        name = f"s{number}"
        dice = make.chance.random()
        if dice < 0.55:
            make.headless(namespace, name)
        elif dice < 0.85:
            make.cluster_ip(namespace, name)
        else:
            make.external(namespace, name, f"s{make.chance.randrange(4)}.{namespace}.svc.cluster.local")
        for piece in range(make.chance.randint(0, 3)):
            make.slice(namespace, name, f"{name}-{piece}")


CORNERS: Final[tuple[Corner, ...]] = (
    headless_with_hostnames, headless_without_hostnames, several_slices, ipv6_only, cluster_ips,
    one_address_in_two_services, one_address_under_two_hostnames, an_endpoint_at_a_cluster_ip,
    one_port_name_on_several_numbers, ports_without_names, no_ports, names_of_63_characters, slices_without_a_service,
    external_names, a_chain_of_external_names, published_before_ready, selected_pods, pods_of_every_kind,
    pods_with_the_hosts_address, terminating_service, names_that_are_words_of_the_grammar, zones,
    several_addresses_of_an_endpoint, dotted_pod_names, multicluster,
)  # fmt: skip
#: Corners in which controllers take part.
OF_CONTROLLERS: Final[tuple[Corner, ...]] = (published_before_ready, selected_pods)
