"""The names to ask for: every name that follows from the objects, and its neighbours.

Neighbours have one label more or less, a wrong namespace, port or protocol, no underscores, letters
in another case, or an address that does not exist. Names of forward zones are relative here,
because each configuration asks for them in its own zones.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from headwater.compare.messages import MAX_LABEL, TYPES, WAYS, Query, encode_name

from tests.answers.objects import IMPORT_NAME, SERVICE_NAME, SHARED, SOURCE_CLUSTER, ZONES, Object, SeedObjects

#: The types that are asked for with every name.
MATRIX: Final = ("A", "AAAA", "SRV", "TXT", "CNAME", "PTR", "SOA", "NS", "MX", "ANY", "HTTPS")
#: The types that are asked for again after the changes.
AFTERWARDS: Final = ("A", "AAAA", "SRV", "TXT", "PTR", "HTTPS")
#: Types that are asked for at times.
_RARE: Final = ("DS", "CAA", "SVCB", "NAPTR", "TYPE65280")

_FIXED: Final = (
    "", "svc", "pod", "dns", "dns-version", "x.dns-version", "x.dns", "ns.dns", "x.ns.dns", "nothing", "a.b.c", "*",
    "*.svc", "x.svc.svc", "nowhere.svc", "x.nowhere.svc", "h.x.nowhere.svc", "_http._tcp.x.nowhere.svc", "svc.svc",
    "1-2-3-4.nowhere.pod", "nowhere.pod", "pod.pod", "kubernetes.default.svc", "1-2-3-4.default.pod",
    "_https._tcp.kubernetes.default.svc",
)  # fmt: skip
#: Names of pods by addresses: right ones, nearly right ones, and wrong ones.
_DASHED: Final = (
    "1-2-3-4", "256-2-3-4", "1-2-3", "1-2-3-4-5", "01-2-3-4", "fd00--1", "fd00--", "--1", "1--2-3", "fd00-0--1",
    "1-2--3-4", "FD00--A", "fd00-1-2-3-4-5-6-7", "fd00-1-2-3-4-5-6-7-8", "--ffff-a0b-c0d", "not-an-address", "0-0-0-0",
)  # fmt: skip
_REVERSE_FIXED: Final = (
    "in-addr.arpa", "ip6.arpa", "10.in-addr.arpa", "256.1.64.10.in-addr.arpa", "01.0.64.10.in-addr.arpa",
    "1.0.0.127.in-addr.arpa", "x.64.10.in-addr.arpa", "99.99.79.10.in-addr.arpa", "99.99.127.10.in-addr.arpa",
    "1.0.16.172.in-addr.arpa", "4.6.d.f.ip6.arpa", "x.ip6.arpa", "x.y.4.6.d.f.ip6.arpa",
)  # fmt: skip


@dataclass
class Names:
    """Names in the order in which they were found. The dictionaries' values have no meaning."""

    forward: dict[str, None] = field(default_factory=dict)
    """Names relative to a zone; "" is the zone itself."""
    imported: dict[str, None] = field(default_factory=dict)
    """Names relative to a zone of imports."""
    aliases: dict[str, None] = field(default_factory=dict)
    """Names of ExternalName Services, for which the zone matters."""
    reverse: dict[str, None] = field(default_factory=dict)
    dotted: dict[str, str] = field(default_factory=dict)
    """The Service's name, by the name of an endpoint below it that a pod's name with dots gives."""

    def __or__(self, other: Names) -> Names:
        both = zip(vars(self).values(), vars(other).values(), strict=True)
        return Names(*(mine | theirs for mine, theirs in both))


def names_of(world: SeedObjects) -> Names:
    """Return every name that follows from a world, and some neighbours; a function of the world."""
    chance = random.Random(f"names {world.seed}")
    found = Names()
    found.forward.update(dict.fromkeys(_FIXED))
    found.reverse.update(dict.fromkeys(_REVERSE_FIXED))
    namespaces = [*world.namespaces, SHARED]
    for namespace in namespaces:
        for relative in (f"{namespace}.svc", f"{namespace}.pod", f"x.{namespace}.svc", f"*.{namespace}.svc"):
            found.forward[relative] = None
    found.forward.update(dict.fromkeys(f"{dashed}.{namespaces[0]}.pod" for dashed in _DASHED))
    slices: dict[tuple[str, str], list[Object]] = {}
    imports: dict[tuple[str, str], list[Object]] = {}
    addresses: dict[str, None] = {}
    for (_, namespace, _), item in world.of_kind("EndpointSlice"):
        labels = item["metadata"]["labels"]
        if SERVICE_NAME in labels:
            slices.setdefault((namespace, labels[SERVICE_NAME]), []).append(item)
            for endpoint in item["endpoints"]:
                addresses.update(dict.fromkeys(endpoint["addresses"]))
                if "." in (pod := endpoint.get("targetRef", {}).get("name", "")):
                    base = f"{labels[SERVICE_NAME]}.{namespace}.svc"
                    found.dotted[f"{pod}.{base}"] = base
        if IMPORT_NAME in labels:
            imports.setdefault((namespace, labels[IMPORT_NAME]), []).append(item)
    for (_, namespace, name), service in world.of_kind("Service"):
        addresses.update(dict.fromkeys(a for a in service["spec"].get("clusterIPs", ()) if a != "None"))
        if "externalName" in service["spec"]:
            found.aliases[f"{name}.{namespace}.svc"] = None
        elsewhere = (f"{name}.{namespaces[1]}.svc", f"{name}.{namespace}.pod", f"{name}.nowhere.svc")
        found.forward[chance.choice(elsewhere)] = None
        items = [service["spec"], *slices.pop((namespace, name), ())]
        found.forward.update(dict.fromkeys(_below(chance, f"{name}.{namespace}.svc", items)))
    for (namespace, name), orphans in slices.items():
        found.forward.update(dict.fromkeys(_below(chance, f"{name}.{namespace}.svc", orphans)))
    for (_, namespace, name), item in world.of_kind("ServiceImport"):
        items = [item["spec"], *imports.pop((namespace, name), ())]
        found.imported.update(dict.fromkeys(_below(chance, f"{name}.{namespace}.svc", items)))
    for (namespace, name), of_import in imports.items():
        found.imported.update(dict.fromkeys(_below(chance, f"{name}.{namespace}.svc", of_import)))
    for (_, namespace, _), item in world.of_kind("Pod"):
        for address in (pod_ip["ip"] for pod_ip in item["status"].get("podIPs", ())):
            addresses[address] = None
            dashed = dashes(address)
            found.forward[f"{dashed}.{namespace}.pod"] = None
            found.forward[f"{dashed}.{namespaces[1]}.pod"] = None
            if chance.random() < 0.2:
                found.forward[f"x.{dashed}.{namespace}.pod"] = None
    for address in addresses:
        found.reverse.update(dict.fromkeys(_reverse(address)))
    # The names of one zone in the other, and the other way round.
    found.forward.update((name, None) for name in list(found.imported) if chance.random() < 0.1)
    found.imported.update((name, None) for name in list(found.forward) if chance.random() < 0.1)
    found.imported.update(dict.fromkeys(_FIXED))
    return found


def _below(chance: random.Random, base: str, items: Sequence[Object]) -> Iterator[str]:
    """Yield a Service's name and the names below it: ports, endpoints, topology zones."""
    yield base
    for label in chance.sample(("x", "*", "a.b", "a.b.c", "_tcp", "_udp", "_sctp", "tcp", "_nope._tcp", "_zone"), 3):
        yield f"{label}.{base}"
    zone = chance.choice((*ZONES, "nowhere", "x.zone-a", "west.1"))
    others = ("pin._zone", "prefer._zone", "zone-a.other._zone", "zone-a._zone", "_zone", f"a.{zone}.pin._zone")
    yield from (f"{label}.{base}" for label in (f"{zone}.pin._zone", f"{zone}.prefer._zone", chance.choice(others)))
    for item in items:
        for port in item.get("ports") or ():
            name, protocol = port.get("name"), str(port.get("protocol", "TCP")).lower()
            if name:
                # With an underscore the longest name is too long for a label, but CoreDNS finds the
                # port without it.
                yield f"{'' if len(name) == MAX_LABEL else '_'}{name}._{protocol}.{base}"
                neighbours = (
                    f"{name}.{protocol}", f"_{name}.{protocol}", f"{name}._{protocol}", f"_{name}._xyz",
                    f"_{name}._{'udp' if protocol == 'tcp' else 'tcp'}", f"_{protocol}", f"_{name}._{protocol}.h0",
                )  # fmt: skip
                yield from (f"{label}.{base}" for label in chance.sample(neighbours, 2))
        labels = item.get("metadata", {}).get("labels", {})
        cluster = labels.get(SOURCE_CLUSTER, "cluster-a")
        for endpoint in item.get("endpoints") or ():
            for label in labels_of(endpoint):
                yield f"{label}.{base}"
                if IMPORT_NAME in labels:
                    yield f"{label}.{cluster}.{base}"
                    near = (f"{label}.cluster-x", cluster, f"x.{label}.{cluster}", f"{label}._{cluster}")
                    yield f"{chance.choice(near)}.{base}"
            if chance.random() < 0.2:
                yield f"x.{next(labels_of(endpoint))}.{base}"
            if chance.random() < 0.3:
                yield f"{dashes(endpoint['addresses'][0])}.{base.split('.')[1]}.pod"


def labels_of(endpoint: Object) -> Iterator[str]:
    """Yield every label that may name an endpoint."""
    if "hostname" in endpoint:
        yield endpoint["hostname"]
    if "targetRef" in endpoint:
        yield endpoint["targetRef"]["name"]
    for address in endpoint["addresses"]:
        dashed = dashes(address)
        yield dashed
        if dashed.endswith("-"):
            yield f"{dashed}0"


def dashes(address: str) -> str:
    return address.replace(".", "-").replace(":", "-")


def _reverse(address: str) -> Iterator[str]:
    """Yield the name of an address, one with another label, and names between the zone and it."""
    full = ip_address(address).reverse_pointer
    labels = full.split(".")
    yield full
    yield f"x.{full}"
    for less in (1, 2, 3) if len(labels) < 10 else (1, 2, 13, 20, 27):
        yield ".".join(labels[less:])


def _is_name(text: str) -> bool:
    try:
        encode_name(text)
    except ValueError:
        return False
    return True


def relative_to(zone: str, names: Iterable[str]) -> list[str]:
    """Return relative names as names of a zone, without those that would be too long."""
    return [full for name in names if _is_name(full := f"{name}.{zone}" if name else zone)]


def within(zones: Sequence[str], names: Iterable[str]) -> list[str]:
    """Return the names that are in one of the zones."""
    return [name for name in names if any(name == zone or name.endswith(f".{zone}") for zone in zones)]


def other_case(chance: random.Random, name: str) -> str:
    """Return the name with some letters in capitals."""
    return "".join(letter.upper() if chance.random() < 0.4 else letter for letter in name)


def questions(
    chance: random.Random, names: Sequence[str], share: int, shares: int, likely: Sequence[str], types: Sequence[str]
) -> Iterator[Query]:
    """Yield one configuration's share of all (name, type), and a likely
    type for a third of the names.

    Together, the configurations that have a name ask for it with every type.
    """
    for index, name in enumerate(names):
        asked = [qtype for number, qtype in enumerate(types) if (index + number) % shares == share]
        if chance.random() < 0.35:
            asked.append(chance.choice(likely))
        if chance.random() < 0.02:
            asked.append(chance.choice(_RARE))
        for qtype in dict.fromkeys(asked):
            # SRV most of all: its targets repeat the end of the question.
            capitals = 0.4 if qtype == "SRV" else 0.1
            written = other_case(chance, name) if chance.random() < capitals else name
            yield Query(written, TYPES[qtype], chance.choice(WAYS))
