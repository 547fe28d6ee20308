"""The rules: views of a namespace's objects in, findings out. Nothing here asks anybody.

Each rule is a function of one `World`. What a rule needs and the source does not have is no
finding: the source says what it could not look at. The work is linear in the objects.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from typing import Final

from headwater.advice.finding import Finding, Rule, Subject, short
from headwater.advice.views import Context, Labels, ServiceView, Workload, World
from headwater.cluster.objects import ANNOTATIONS, Endpoint
from headwater.records.options import Options, options_of, silent
from headwater.wire import names
from headwater.wire.names import BadName

#: What `cache` makes of a shorter TTL, in seconds (CoreDNS 1.15, plugin/cache, minTTL).
CACHE_FLOOR: Final = 5
_TTL: Final = ANNOTATIONS[1]
_POD_NAMES: Final = 'headwater.dev/pod-names: "true"'
_NOT_READY: Final = "spec.publishNotReadyAddresses: true"
#: Ports by which SRV records are asked for, and the name that is asked for: mongodb+srv://
#: (MongoDB's initial DNS seedlist specification), etcd --discovery-srv, RFC 6120, RFC 3263, RFC
#: 2782 for LDAP and RFC 4120.
_ASKED_BY_SRV: Final = {
    27017: "mongodb", 2379: "etcd-client", 2380: "etcd-server", 5222: "xmpp-client", 5269: "xmpp-server",
    5060: "sip", 389: "ldap", 88: "kerberos",
}  # fmt: skip
#: Workloads that a selector without pods is compared with; and findings that are compared at all.
_COMPARED: Final = 50
_COMPARISONS: Final = 20
#: The least similarity of two values for a typing error (difflib's ratio).
_ALIKE: Final = 0.6
#: Objects that one sentence names.
_FEW: Final = 3
#: What the API server takes (RFC 1123 section 2.1).
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", re.ASCII)
#: How Galera, Cassandra and RabbitMQ are told where their members are.
_GCOMM: Final = re.compile(r"gcomm://([A-Za-z0-9.,:_-]*)", re.ASCII)
_SEEDS: Final = re.compile(r"(?:^CASSANDRA_SEEDS=|\bseeds:)[\s\"']*([A-Za-z0-9.,: _-]+)", re.ASCII)
_RABBIT_DNS: Final = re.compile(
    r"cluster_formation\.peer_discovery_backend[ \t]*=[ \t]*(?:rabbit_peer_discovery_)?dns\b", re.ASCII
)

Rules = Callable[[World, Context], Iterator[Finding]]


def advise(world: World, context: Context) -> list[Finding]:
    """Everything that will not work in a namespace, the gravest first."""
    found = [finding for rule in RULES for finding in rule(world, context)]
    order = {rule: number for number, rule in enumerate(Rule)}
    return sorted(dict.fromkeys(found), key=lambda one: (order[one.rule], one.object))


# StatefulSets and the Services that they name


def governing(world: World, context: Context) -> Iterator[Finding]:
    """A StatefulSet's pods have names below the headless Service that its serviceName names."""
    for one, names_ in zip(world.workloads or (), world.selecting, strict=True):
        if one.owned or (one.kind != "StatefulSet" and not one.subdomain):
            continue
        headless = [name for name in names_ if world.services[name].service.headless]
        field = "spec.serviceName" if one.kind == "StatefulSet" else "spec.template.spec.subdomain"
        if one.kind == "Pod":
            field = "spec.subdomain"
        subject = _workload(one)
        if not one.subdomain:
            if headless:
                yield Finding(
                    Rule.SERVICE_NOT_NAMED, subject, f"{field}: absent",
                    f"its pods have no names: {_set(one)} are names of nothing, though headless Service "
                    f"{short(headless[0])} selects them",
                    f"serviceName: {short(headless[0])} (the field cannot be changed: delete the StatefulSet with "
                    "--cascade=orphan, and create it again)",
                )  # fmt: skip
            continue
        seen = f"{field}: {short(one.subdomain)}"
        view = world.services.get(one.subdomain)
        if view is None:
            also = f"; headless Service {short(headless[0])} selects them, and is not the one" if headless else ""
            served = f" that {context.left_out} takes" if context.left_out else ""
            yield Finding(
                Rule.SERVICE_UNKNOWN, subject, seen,
                f"there is no Service {short(one.namespace)}/{short(one.subdomain)}{served}: {_set(one)} have no "
                f"names{also}",
                f"a Service {short(one.subdomain)} with clusterIP: None and the selector {_pairs(one.labels)}",
            )  # fmt: skip
            continue
        if not view.service.headless:
            if not _has_pod_names(view, context):
                yield _not_headless(view, f"{subject} names it: {_set(one)} are NXDOMAIN")
            continue
        if view.selector is not None and one.subdomain not in names_:
            yield Finding(
                Rule.SERVICE_SELECTS_OTHERS, subject, seen,
                f"Service {short(one.subdomain)} does not select its pods: its selector is {_pairs(view.selector)}, "
                f"and they have {_pairs(one.labels) or 'no labels'}; {_set(one)} are NXDOMAIN",
                f"spec.selector of Service {short(one.subdomain)} as spec.template.metadata.labels of {subject}",
            )  # fmt: skip


def not_headless_by_slices(world: World, context: Context) -> Iterator[Finding]:
    """A slice has hostnames only where pods name the Service as their subdomain."""
    if world.workloads is not None:
        return
    for name, view in sorted(world.services.items()):
        service = view.service
        if service.headless or service.type == "ExternalName" or _has_pod_names(view, context):
            continue
        for item in _endpoints(world, name):
            if item.hostname:
                yield _not_headless(
                    view, f"pod {short(item.pod or item.hostname)} has it as its subdomain: "
                    f"{short(item.hostname)}.{short(name)} is NXDOMAIN",
                )  # fmt: skip
                break


def _not_headless(view: ServiceView, why: str) -> Finding:
    service = view.service
    if service.type == "ExternalName":
        seen = f"spec.type: ExternalName ({short(service.external_name)})"
    elif view.none_as_address:
        seen = "spec.loadBalancerIP: None, where spec.clusterIP: None is meant"
    else:
        addresses = ", ".join(service.cluster_ips[:_FEW])
        seen = f"spec.clusterIP: {short(addresses)}" if addresses else "spec.clusterIP: absent"
    return Finding(
        Rule.SERVICE_NOT_HEADLESS, _service(view), seen,
        f"only a headless Service gives its pods names; {why}",
        f"clusterIP: None (in a Service of its own beside this one, if clients need the cluster IP), or the annotation "
        f"{_POD_NAMES}",
    )  # fmt: skip


# Selectors


def selectors(world: World, _: Context) -> Iterator[Finding]:
    """A selector that matches no pod makes a headless Service NXDOMAIN."""
    named = {one.subdomain for one in world.workloads or () if one.kind == "StatefulSet" and not one.owned}
    comparisons = _COMPARISONS
    for name, view in sorted(world.services.items()):
        service = view.service
        if service.type == "ExternalName":
            continue
        known = world.slices is not None
        if any(item.addresses for item in _endpoints(world, name)) or (not known and name in world.sliced):
            continue
        if service.selectorless:
            if service.headless and known:
                yield Finding(
                    Rule.NO_SELECTOR, _service(view), "spec.selector: absent",
                    "nobody wrote an EndpointSlice for it, so its name is NXDOMAIN",
                    "a selector; or an EndpointSlice with the label kubernetes.io/service-name: "
                    f"{short(name)} and its addresses",
                )  # fmt: skip
            continue
        if known and not service.headless:
            continue  # its name answers, and it is not ours to say who makes its pods
        if view.selector is None or world.workloads is None:
            if known:
                yield _without_pods(view, _pairs(view.selector or {}), "matches no pod that has an address")
            continue
        if world.selected[name]:
            continue
        if not world.workloads and not known:
            continue  # pods may be somewhere else
        if name in named and service.headless:
            continue  # `governing` says it of the StatefulSet
        near = _nearest(view.selector, world.workloads[:_COMPARED]) if comparisons > 0 else ""
        comparisons -= 1
        pods = "pod that has an address" if known else "pod"
        yield _without_pods(view, _pairs(view.selector), f"matches no {pods}{near}")


def _without_pods(view: ServiceView, selector: str, why: str) -> Finding:
    headless = view.service.headless
    return Finding(
        Rule.SELECTOR_WITHOUT_PODS, _service(view), f"spec.selector: {selector}" if selector else "spec.selector",
        f"it {why}: {'its name is NXDOMAIN' if headless else 'nobody answers at its cluster IP'}",
        "the labels of the pods that are meant",
    )  # fmt: skip


def _nearest(selector: Labels, workloads: Sequence[Workload]) -> str:
    """The workload with the most alike labels, in words."""
    best, told = 0.0, ""
    for one in workloads:
        alike = 0.0
        wrong = []
        for key, value in list(selector.items())[:_FEW]:
            there = one.labels.get(key)
            if there != value:
                wrong.append(f"{short(key)}={short(there)}" if there is not None else f"no label {short(key)}")
            alike += SequenceMatcher(None, value[:64], (there or "")[:64]).ratio()
        if alike > best and alike >= _ALIKE:
            best, told = alike, f"; {_workload(one)} comes nearest, and has {' and '.join(wrong)}"
    return told


def two_services(world: World, context: Context) -> Iterator[Finding]:
    """A pod has one subdomain, so it has a name below one of its headless Services."""
    if world.workloads is not None:
        told: set[str] = set()
        for one, names_ in zip(world.workloads, world.selecting, strict=True):
            if one.kind != "StatefulSet" or one.subdomain not in names_:
                continue
            if not world.services[one.subdomain].service.headless:
                continue
            for name in names_:
                view = world.services[name]
                if name != one.subdomain and name not in told and _is_second(view, context):
                    told.add(name)
                    yield _second(view, f"{_workload(one)} has serviceName: {short(one.subdomain)}",
                                  f"{_first(one)}.{short(one.subdomain)}", f"{_first(one)}.{short(name)}")  # fmt: skip
        return
    owner: dict[str, str] = {}
    for name, view in sorted(world.services.items()):
        if view.service.headless:
            owner |= {item.pod: name for item in _endpoints(world, name) if item.hostname and item.pod}
    for name, view in sorted(world.services.items()):
        if not _is_second(view, context):
            continue
        for item in _endpoints(world, name):
            if not item.hostname and owner.get(item.pod, name) != name:
                pod, first = short(item.pod), short(owner[item.pod])
                yield _second(view, f"pod {pod} has subdomain: {first}", f"{pod}.{first}", f"{pod}.{short(name)}")
                break


def _is_second(view: ServiceView, context: Context) -> bool:
    return view.service.headless and not _has_pod_names(view, context)


def _second(view: ServiceView, who: str, there: str, gone: str) -> Finding:
    return Finding(
        Rule.TWO_SERVICES, _service(view), "spec.selector, of pods of another Service's subdomain",
        f"a pod has one subdomain, and {who}: {there} is its name, and {gone} is NXDOMAIN",
        f"{there} where {gone} is asked for; or the annotation {_POD_NAMES} on this Service",
    )  # fmt: skip


def _has_pod_names(view: ServiceView, context: Context) -> bool:
    return context.pod_names or _options(view).pod_names


# Members that need each other's names before they are ready


def in_parallel(world: World, _: Context) -> Iterator[Finding]:
    """Members that start together look for each other before any of them is ready."""
    for one in world.workloads or ():
        view = world.services.get(one.subdomain)
        if not one.parallel or one.replicas < 2 or one.owned or view is None or not view.service.headless:
            continue
        if view.service.publishes_not_ready or _options(view).conditions == 0:
            continue
        until = "its readiness probe succeeds" if one.probed else "its containers run"
        yield Finding(
            Rule.NOT_READY_IN_PARALLEL, _service(view), "spec.publishNotReadyAddresses: absent",
            f"{_workload(one)} starts its {one.replicas} members together (podManagementPolicy: Parallel), and none "
            f"has a name before {until}: members that wait for one another get NXDOMAIN, or wait for ever",
            f"{_NOT_READY}; clients that want only ready members ask a second Service",
        )  # fmt: skip


def systems(world: World, context: Context) -> Iterator[Finding]:
    """What some systems make of the names (docs/advice.md has how that was seen)."""
    for one in world.workloads or ():
        if one.owned or one.kind != "StatefulSet":
            continue
        view = world.services.get(one.subdomain)
        own = _forms(one, context)
        subject = _workload(one)
        members = ",".join(f"{short(one.name)}-{one.first + number}.{short(one.subdomain)}" for number in range(2))
        if view is not None and (view.service.publishes_not_ready or not _options(view).conditions):
            for found in _matches(_GCOMM, one.texts):
                hosts = [host.partition(":")[0] for host in found.split(",") if host]
                if len(hosts) == 1 and hosts[0].rstrip(".") in own:
                    yield Finding(
                        Rule.OWN_ADDRESS_FIRST, subject, f"gcomm://{short(found)}",
                        "its pod's own address is among those of the headless name, because the Service publishes "
                        "pods that are not ready, and getaddrinfo puts it first (RFC 6724): Galera asks itself, and "
                        "never joins",
                        f"gcomm://{members},… (every member by its name)",
                    )  # fmt: skip
                    break
        for found in _matches(_SEEDS, one.texts):
            if any(seed.strip().partition(":")[0].rstrip(".") in own for seed in found.split(",")):
                yield Finding(
                    Rule.SEED_IS_THE_SET, subject, f"seeds: {short(found.strip())}",
                    "the headless name stands for every member, also the one that starts: a new member takes itself "
                    "for a seed, and joins without the data that it should get (it does not bootstrap)",
                    f"{members} (the same few members by name, on every member)",
                )  # fmt: skip
                break
        if not context.reverse_zones and any(_RABBIT_DNS.search(text) for text in one.texts):
            yield Finding(
                Rule.REVERSE_NOT_SERVED, subject, "cluster_formation.peer_discovery_backend = dns",
                "RabbitMQ asks for the PTR of each address, and no reverse zone is served with these settings: "
                "every member finds nobody, and makes a cluster of its own",
                "--reverse-zone with the pods' CIDR, and that zone in CoreDNS's block; or peer_discovery_backend = "
                "classic_config with every member's name",
            )  # fmt: skip


def _matches(pattern: re.Pattern[str], texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for found in pattern.finditer(text):
            yield found[1]


def _forms(one: Workload, context: Context) -> frozenset[str]:
    """The names that lead to the headless name of a StatefulSet from its pods."""
    if not one.subdomain:
        return frozenset()
    base = f"{one.subdomain}.{one.namespace}"
    return frozenset((one.subdomain, base, f"{base}.svc", *(f"{base}.svc.{zone}" for zone in context.zones)))


def own_network(world: World, _: Context) -> Iterator[Finding]:
    """Pods in the node's network ask the node's name servers."""
    for one in world.workloads or ():
        if one.host_network and one.kind == "StatefulSet" and not one.owned:
            yield Finding(
                Rule.HOST_NETWORK, _workload(one), "spec.template.spec.hostNetwork: true",
                "with dnsPolicy: ClusterFirst its pods ask their node's servers, not the cluster's DNS: no name of "
                "the cluster answers there",
                "dnsPolicy: ClusterFirstWithHostNet",
            )  # fmt: skip


# Hostnames


def hostnames(world: World, _: Context) -> Iterator[Finding]:
    """A pod's name below a Service is its hostname: one label, of one pod."""
    for one in world.workloads or ():
        if one.owned:
            continue
        if one.kind == "StatefulSet":
            last = f"{one.name}-{one.first + max(0, one.replicas - 1)}"
            if why := _no_label(last, names.MAX_LABEL):
                yield Finding(
                    Rule.NOT_A_HOSTNAME, _workload(one), f"metadata.name: {short(one.name)}",
                    f"its pods' hostnames are NAME-ORDINAL, and {short(last)} is no label of DNS: {why}",
                    "a name of letters, digits and hyphens, at most 63 characters with the ordinal",
                )  # fmt: skip
            continue
        if one.subdomain in world.services and one.subdomain and not one.hostname:
            yield Finding(
                Rule.NO_HOSTNAME, _workload(one), f"subdomain: {short(one.subdomain)}, without a hostname",
                f"pods have names below Service {short(one.subdomain)} only by their hostname, and this one has none: "
                "only its address with dashes is a name there",
                f"a StatefulSet, which gives each pod a hostname; or the annotation {_POD_NAMES} on the Service",
            )  # fmt: skip
        elif one.subdomain in world.services and one.replicas > 1 and one.hostname:
            yield _same(_workload(one), "spec.template.spec.hostname", one.hostname, f"all {one.replicas} pods")
    for name, view in sorted(world.services.items()):
        if not view.service.headless:
            continue
        pods: dict[str, str] = {}
        same, odd = "", ""
        for item in _endpoints(world, name):
            if not item.hostname:
                continue
            other = pods.setdefault(item.hostname, item.pod)
            if other != item.pod:
                same = same or item.hostname
            if not odd and _bad_label(item.hostname):
                odd = item.hostname
        if same:
            yield _same(_service(view), "endpoints[].hostname", same, "more than one pod")
        if odd:
            yield Finding(
                Rule.NOT_A_HOSTNAME, _service(view), f"endpoints[].hostname: {short(odd)}",
                f"it is no label of DNS, so it has no name: {_no_label(odd, names.MAX_LABEL)}",
                "a hostname of letters, digits and hyphens, at most 63 characters",
            )  # fmt: skip


def _same(subject: Subject, path: str, hostname: str, whose: str) -> Finding:
    return Finding(
        Rule.SAME_HOSTNAME, subject, f"{path}: {short(hostname)}",
        f"it is the hostname of {whose}: one name has all their addresses, and none has a name of its own",
        "a StatefulSet, which gives each pod a hostname of its own",
    )  # fmt: skip


def _bad_label(text: str) -> bool:
    try:
        names.label(text)
    except BadName:
        return True
    return False


def _no_label(text: str, longest: int) -> str:
    """Why a text is not a label that the API server takes; "" if it is."""
    if len(text) > longest:
        return f"it has {len(text)} characters, and {longest} have room"
    if "." in text:
        return "it has a dot, which divides labels"
    return "" if _LABEL.fullmatch(text) else "it has other characters than a-z, 0-9 and hyphens between them"


# Ports


def ports(world: World, _: Context) -> Iterator[Finding]:
    """SRV records are found by the names of ports."""
    for name, view in sorted(world.services.items()):
        service = view.service
        if service.type == "ExternalName":
            continue
        odd = next((port.name for port in service.ports if _no_label(port.name or "a", names.MAX_LABEL - 1)), None)
        if odd is not None:
            yield Finding(
                Rule.NOT_A_PORT_NAME, _service(view), f"spec.ports[].name: {short(odd)}",
                f"_{short(odd)} is no label of DNS, so nobody can ask for its SRV records: "
                f"{_no_label(odd, names.MAX_LABEL - 1)}",
                "a name of a-z, 0-9 and hyphens, at most 62 characters (RFC 6335: 15)",
            )  # fmt: skip
        if service.headless:
            yield from _unnamed(view)
            yield from _targets(world, name, view)


def _unnamed(view: ServiceView) -> Iterator[Finding]:
    for index, port in enumerate(view.service.ports):
        if port.name:
            continue
        protocol = short(port.protocol.lower())
        known = _ASKED_BY_SRV.get(port.number, "")
        who = f"; clients that find port {port.number} by SRV ask for _{known}._{protocol}" if known else ""
        yield Finding(
            Rule.PORT_WITHOUT_NAME, _service(view), f"spec.ports[{index}].name: absent (port {port.number})",
            f"a port without a name has no SRV records of its own: who asks for _NAME._{protocol} gets NXDOMAIN{who}",
            f"name: {known or 'NAME'}",
        )  # fmt: skip
        return


def _targets(world: World, name: str, view: ServiceView) -> Iterator[Finding]:
    """A named targetPort that no container has: the slice controller leaves the port out."""
    service = view.service
    selected = world.selected.get(name, ()) if world.workloads is not None else ()
    pieces = world.pieces(name)
    for index, port in enumerate(service.ports):
        target = view.targets[index] if view.targets is not None and index < len(view.targets) else ""
        if target and selected and not any(target in one.ports for one in selected):
            who = str(_workload(selected[0]))
            why = f"no container of {who} has a port of that name"
        elif any(piece.endpoints for piece in pieces) and port.name and not any(
            own.name == port.name and own.protocol == port.protocol for piece in pieces for own in piece.ports
        ):  # fmt: skip
            target, why = target or "of another name than any container's port", "no EndpointSlice of it has that port"
        else:
            continue
        yield Finding(
            Rule.TARGET_PORT, _service(view), f"spec.ports[{index}].targetPort: {short(target)}",
            f"{why}: the port is left out of the EndpointSlices, and its SRV records are missing",
            "the port's number, or the name that spec.containers[].ports[].name has",
        )  # fmt: skip
        return


# Values


def values(world: World, _: Context) -> Iterator[Finding]:
    """Annotations that are not read, TTLs below a cache's, ExternalNames that are addresses."""
    for _name, view in sorted(world.services.items()):
        service = view.service
        if service.annotations:
            yield from _annotations(view)
        if service.type == "ExternalName" and _is_address(service.external_name):
            yield Finding(
                Rule.EXTERNAL_ADDRESS, _service(view), f"spec.externalName: {short(service.external_name)}",
                "an address is no name that a CNAME could lead to, so the Service has no record",
                "a Service without a selector, and an EndpointSlice with that address",
            )  # fmt: skip


def _annotations(view: ServiceView) -> Iterator[Finding]:
    wrong: list[str] = []

    def report(_reason: str, _namespace: str, _service: str, detail: str) -> None:
        wrong.append(detail)

    options = options_of(view.service, report)
    for detail in wrong[:_FEW]:
        path, _, why = detail.partition(": ")
        yield Finding(
            Rule.ANNOTATION, _service(view), f"metadata.annotations[{short(path)}]",
            f"it is not read, and counts as absent: {short(why)}",
            "a value that docs/answers.md names",
        )  # fmt: skip
    if options.ttl is not None and options.ttl < CACHE_FLOOR:
        yield Finding(
            Rule.TTL, _service(view), f"metadata.annotations[{_TTL}]: {options.ttl}",
            f"where CoreDNS's block has `cache`, it sends and keeps {CACHE_FLOOR} s instead (`cache 30` makes even "
            f"TTL 0 into {CACHE_FLOOR})",
            f"no `cache` in that block, or `cache` with `success 9984 30 0`; or a TTL of {CACHE_FLOOR} s or more",
        )  # fmt: skip


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.rstrip("."))
    except ValueError:
        return False
    return True


RULES: Final[tuple[Rules, ...]] = (
    governing, not_headless_by_slices, selectors, two_services, in_parallel, systems, own_network, hostnames, ports,
    values,
)  # fmt: skip


# Words


def _service(view: ServiceView) -> Subject:
    return Subject("Service", short(view.service.namespace), short(view.service.name))


def _workload(one: Workload) -> Subject:
    return Subject(one.kind, short(one.namespace), short(one.name))


def _first(one: Workload) -> str:
    return f"{short(one.name)}-{one.first}"


def _set(one: Workload) -> str:
    """The names of a workload's pods below its Service, in words."""
    below = f".{short(one.subdomain)}" if one.subdomain else ""
    if one.kind != "StatefulSet":
        return f"{short(one.hostname) or 'its pods'}{below}"
    if one.replicas < 2:
        return f"{_first(one)}{below}"
    return f"{_first(one)}{below} to {short(one.name)}-{one.first + one.replicas - 1}{below}"


def _pairs(labels: Labels) -> str:
    found = [f"{short(key)}={short(value)}" for key, value in sorted(labels.items())[:_FEW]]
    return ",".join([*found, "…"] if len(labels) > _FEW else found)


def _endpoints(world: World, service: str) -> list[Endpoint]:
    return [item for piece in world.pieces(service) for item in piece.endpoints]


def _options(view: ServiceView) -> Options:
    return options_of(view.service, silent)
