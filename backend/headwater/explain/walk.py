"""Find the reason of a name's answer: apply the compiler's and the resolver's rules, with words.

The compiler itself compiles the Service of the name again, from the stored objects. Its nodes are
what the answer should be, and its reports say what it leaves out and why. Nothing here reads the
stored records of a Service: `explain` compares the outcome with the resolver's reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from headwater.cluster.objects import (
    ALIAS_ANNOTATION,
    PATIENCE_ANNOTATION,
    Condition,
    Endpoint,
    EndpointSlice,
    Service,
    ServiceImport,
)
from headwater.explain.explanation import Cause, Deciding, Look, Outcome, Ref, command, kubectl
from headwater.explain.form import Fixed, OfHost, OfNamespace, OfPod, OfPort, OfService, Zonal, form_of
from headwater.explain.held import Held
from headwater.records.compiler import Changes, Compiler
from headwater.records.decisions import Decided, applied, selected
from headwater.records.options import Options, options_of, silent
from headwater.settings.settings import Settings
from headwater.store.choice import OF_A, OF_AAAA, OF_SRV, choice_of
from headwater.store.node import HEAD, Flag, base_of_shared, exists, other_of, patience_of, unshared
from headwater.wire import names
from headwater.wire.names import BadName
from headwater.wire.types import AAAA, SRV, A

#: The most fields and names that one sentence lists.
FEW: Final = 3
#: The most addresses of an Endpoints object, and so of its mirrored slices.
_MIRRORED_AT_MOST: Final = 1000
#: The label that names the Service of a slice.
_LABEL: Final = "metadata.labels[kubernetes.io/service-name]"
_ALIAS: Final = ALIAS_ANNOTATION
#: The most characters of an annotation that are shown.
_VALUE: Final = 200
#: kubectl's output format for a table of StatefulSets and the Services that they name.
_SERVICE_NAMES: Final = "custom-columns=NAME:.metadata.name,SERVICE:.spec.serviceName"
#: Names that belong to a Service.
_Owned = OfService | OfHost | OfPort | Zonal


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome by the rules, and its reason."""

    outcome: Outcome
    cause: Cause
    verdict: str
    deciding: tuple[Deciding, ...] = ()
    commands: tuple[str, ...] = ()
    looks: tuple[Look, ...] = ()
    hints: tuple[str, ...] = ()
    sources: tuple[EndpointSlice, ...] = ()
    """The slices whose endpoints are in the records."""
    service: Service | ServiceImport | None = None


@dataclass(slots=True)
class Asked:
    """One question, and the parts of its name."""

    name: str
    """The name, lower-cased, without the last dot."""
    qtype: int
    type_name: str
    zone: str
    labels: list[str]
    clusters: bool = False
    reports: list[tuple[str, str, str, str]] = field(default_factory=list)

    def below(self, labels: str) -> str:
        """Return these labels followed by the zone."""
        return f"{labels}.{self.zone}"


def walk(asked: Asked, held: Held, settings: Settings) -> Finding:
    """Return the reason of a name's answer, in a served forward zone
    and from a store that is ready.
    """
    return _Walk(asked, held, settings).find()


def _nxdomain(cause: Cause, verdict: str, **more: object) -> Finding:
    return Finding(Outcome.NXDOMAIN, cause, verdict, **more)  # type: ignore[arg-type]


class _Walk:
    """The rules, applied to one name."""

    def __init__(self, asked: Asked, held: Held, settings: Settings) -> None:
        self.asked = asked
        self.held = held
        self.settings = settings
        self.compiler = Compiler(settings, (), lambda *report: asked.reports.append(report))

    def find(self) -> Finding:
        asked = self.asked
        form = form_of(asked.labels, clusters=asked.clusters)
        match form:
            case Fixed(what):
                return self._fixed(what)
            case OfNamespace(namespace, kind):
                return self._namespace(namespace, kind)
            case OfPod(namespace, dashed):
                return self._pod(namespace, dashed)
            case OfService() | OfHost() | OfPort() | Zonal():
                return self._of_service(form)
        if "*" in asked.labels:
            return _nxdomain(
                Cause.WILDCARD,
                f"{asked.name} asks for a wildcard: the specification has none, and CoreDNS none since 1.9.",
            )
        return _nxdomain(
            Cause.NO_SUCH_FORM,
            f"No name of the Kubernetes DNS specification looks like {asked.name}: "
            f"Services are SERVICE.NAMESPACE.svc.{asked.zone}, pods HOST.SERVICE.NAMESPACE.svc.{asked.zone}.",
        )

    # Names that stand for themselves

    def _fixed(self, what: str) -> Finding:
        """Explain a name that every zone has.

        It does not come from objects, so read its records.
        """
        asked = self.asked
        node = self.held.snapshot.get(names.name(asked.name))
        if asked.type_name == "SOA" and not asked.labels:
            return Finding(Outcome.ANSWER, Cause.ANSWERED, f"{asked.name} is {what}.")
        if node is not None:
            flags, _, _, n_a, n_aaaa = HEAD.unpack_from(node)
            count = {A: n_a, AAAA: n_aaaa}.get(asked.qtype)
            if count is None and flags & Flag.OTHER:
                count = other_of(node, asked.qtype)[0]
            if count:
                return Finding(Outcome.ANSWER, Cause.ANSWERED, f"{asked.name} is {what}.")
        verdict = f"{asked.name} is {what}: it has no {asked.type_name} record."
        return Finding(Outcome.NODATA, Cause.OTHER_TYPE, verdict)

    def _namespace(self, namespace: str, kind: str) -> Finding:
        missing = self._missing_namespace(namespace)
        if missing is not None:
            return missing
        if kind == "pod" and self.settings.pods == "disabled":
            return self._pods_disabled()
        return Finding(Outcome.NODATA, Cause.BELOW_IT, f"Namespace {namespace} is there; its names are below this one.")

    def _missing_namespace(self, namespace: str) -> Finding | None:
        """Return why a namespace has no names; None when it has names."""
        ref = Ref("Namespace", "", namespace)
        see = command("kubectl", "get", "namespace", namespace)
        if self.settings.namespaces and namespace not in self.settings.namespaces:
            return _nxdomain(
                Cause.NAMESPACE_LEFT_OUT,
                f"Namespace {namespace} is not served: --namespace names {', '.join(self.settings.namespaces)} only.",
                deciding=(Deciding(ref, "--namespace", ",".join(self.settings.namespaces)),),
            )
        if self.held.namespace(namespace):
            return None
        verdict = f"There is no namespace {namespace}"
        if self.settings.namespace_labels:
            verdict += f" with the labels {self.settings.namespace_labels} (--namespace-labels)"
        return _nxdomain(
            Cause.NAMESPACE_UNKNOWN, f"{verdict}.", commands=(see,),
            looks=(Look("Namespace", "", namespace, why="whether it is there, and with which labels"),)
            if self.settings.namespace_labels else (),
        )  # fmt: skip

    def _pods_disabled(self) -> Finding:
        return _nxdomain(
            Cause.PODS_DISABLED,
            "Names of pods by their address are not served: --pods is disabled.",
            deciding=(Deciding(Ref("flag", "", "--pods"), "--pods", "disabled"),),
        )

    def _pod(self, namespace: str, dashed: str) -> Finding:
        if self.settings.pods == "disabled":
            return self._pods_disabled()
        missing = self._missing_namespace(namespace)
        if missing is not None:
            return missing
        from headwater.answer.find import address_of_label

        packed = address_of_label(dashed.encode("ascii", "replace"))
        if packed is None:
            return _nxdomain(Cause.NOT_AN_ADDRESS, f"{dashed} is no address with dashes, as in 10-44-0-7.")
        if self.settings.pods == "verified":
            wanted = self._pods_at(namespace, dashed)
            if not wanted:
                return _nxdomain(
                    Cause.POD_UNKNOWN,
                    f"No running pod of namespace {namespace} has the address {dashed} (--pods verified).",
                    commands=(kubectl(namespace, "get", "pods", "-o", "wide"),),
                )
        family = {4: A, 16: AAAA}[len(packed)]
        if self.asked.qtype in (family, SRV):
            said = "from the name" if self.settings.pods == "insecure" else "a pod has it"
            return Finding(Outcome.ANSWER, Cause.ANSWERED, f"{self.asked.name} is its address ({said}).")
        return self._other_type(f"{self.asked.name} is an address")

    def _pods_at(self, namespace: str, dashed: str) -> list[str]:
        """Return the pods whose address, written with dashes, is this label."""
        found = []
        for key, _ in self.held.snapshot.scan("pods", f"{namespace}/".encode()):
            _, address, pod = key.decode().split("/", 2)
            if address.replace(".", "-").replace(":", "-").lower() == dashed:
                found.append(pod)
        return found

    def _other_type(self, what: str) -> Finding:
        asked = self.asked
        if asked.qtype in (A, AAAA):
            return Finding(
                Outcome.NODATA,
                Cause.OTHER_FAMILY,
                f"{what}, of the other family: there is no {asked.type_name} record.",
            )
        return Finding(Outcome.NODATA, Cause.OTHER_TYPE, f"{what}: there is no {asked.type_name} record.")

    # Services

    def _of_service(self, form: _Owned) -> Finding:
        namespace, name = form.namespace, form.service
        missing = self._missing_namespace(namespace)
        if missing is not None:
            return missing
        service = (self.held.service_import if self.asked.clusters else self.held.service)(namespace, name)
        if service is None:
            return self._no_service(form)
        slices = self.held.slices_of(namespace, name, imported=self.asked.clusters)
        node = self._compiled(service, slices)
        if isinstance(service, Service) and service.type == "ExternalName":
            return self._external(form, service, node)
        if node is None:
            found = self._left_out(form, service, slices)
            return replace(found, service=service, hints=(*found.hints, *self._patience()))
        return replace(self._has_node(form, service, slices, node), service=service)

    def _compiled(self, service: Service | ServiceImport, slices: Sequence[EndpointSlice]) -> bytes | None:
        """Return the node that the compiler makes for the name; None if it makes none."""
        changes = self.compiler.changes()
        if isinstance(service, ServiceImport):
            self.compiler.service_import((None, ()), (service, slices), changes)
        else:
            weights = self.held.pod_weights(service, slices) if self.compiler.asks_pods(service) else {}
            decided = self.held.decided(service)
            self.compiler.service((None, ()), (service, slices), changes, weights, (None, decided))
        return next((node for name in self._keys() if (node := _node(changes, name)) is not None), None)

    def _keys(self) -> list[bytes]:
        """Return the names under which the node of this name may be stored."""
        asked = self.asked
        try:
            found = [names.name(asked.name)]
            labels = asked.labels
            of_port = not asked.clusters or any(label.startswith("_") for label in labels[:2])
            if len(labels) == 5 and "_zone" not in labels[:3] and of_port:
                plain = [_underscored(label) for label in labels[:2]]
                found.append(names.name(".".join([*plain, *labels[2:], asked.zone])))
            elif len(labels) == 4 and names.label(labels[0]) in names.PROTOCOLS:
                found.append(names.name(".".join([_underscored(labels[0]), *labels[1:], asked.zone])))
        except BadName:
            pass
        return found

    def _no_service(self, form: _Owned) -> Finding:
        asked, namespace, name = self.asked, form.namespace, form.service
        kind = "ServiceImport" if asked.clusters else "Service"
        if isinstance(form, OfService) and not asked.clusters:
            owners = self._owners_of_host(namespace, name)
            if owners:
                owner = owners[0]
                full = asked.below(f"{name}.{owner}.{namespace}.svc")
                return _nxdomain(
                    Cause.SERVICE_LABEL_MISSING,
                    f"{name} is a pod of Service {namespace}/{owner}, whose label is missing: ask for {full}.",
                )
        verdict = f"There is no {kind} {namespace}/{name}"
        looks: tuple[Look, ...] = ()
        if self.settings.labels and not asked.clusters:
            verdict += f" with the labels {self.settings.labels} (--labels)"
            looks = (Look("Service", namespace, name, why="whether it is there, and with which labels"),)
        return _nxdomain(
            Cause.IMPORT_UNKNOWN if asked.clusters else Cause.SERVICE_UNKNOWN, f"{verdict}.",
            commands=(kubectl(namespace, "get", f"{kind.lower()}s"),), looks=looks,
        )  # fmt: skip

    def _owners_of_host(self, namespace: str, host: str) -> list[str]:
        """Return the Services of a namespace that have an endpoint of this name."""
        found: dict[str, None] = {}
        for piece in self.held.slices_in(namespace):
            if piece.service and any(item.hostname.lower() == host for item in piece.endpoints):
                found[piece.service] = None
        return list(found)

    def _has_node(
        self, form: _Owned, service: Service | ServiceImport,
        slices: Sequence[EndpointSlice], node: bytes,
    ) -> Finding:  # fmt: skip
        """Explain a name that exists: its records of the type that was asked for."""
        asked = self.asked
        flags, _, _, n_a, n_aaaa = HEAD.unpack_from(node)
        kind = "ServiceImport" if asked.clusters else "Service"
        what = f"{kind} {service.namespace}/{service.name}"
        count = n_a if asked.qtype == A else n_aaaa if asked.qtype == AAAA else 0
        if count or (asked.qtype == SRV and flags & Flag.SRV):
            verdict, hints = self._told(form, what, service, slices, count)
            if isinstance(form, OfService):
                left_out = [detail for reason, *_, detail in asked.reports if reason in ("endpoint", "address")]
                hints += tuple(f"Left out of the answer: {detail}." for detail in left_out[:FEW])
            hints += self._of_weights(form, service, node)
            return Finding(
                Outcome.ANSWER, Cause.ANSWERED, verdict, sources=tuple(slices), hints=hints,
                looks=self._maybe_cut(service, slices),
            )  # fmt: skip
        if not n_a and not n_aaaa:
            return Finding(
                Outcome.NODATA, Cause.BELOW_IT, f"{asked.name} has names below it and no records of its own."
            )
        if asked.qtype == SRV:
            return self._no_srv(what, service, slices)
        if asked.qtype in (A, AAAA):
            other = "IPv4" if asked.qtype == AAAA else "IPv6"
            return Finding(
                Outcome.NODATA, Cause.OTHER_FAMILY,
                f"{what} has {other} addresses only: there is no {asked.type_name} record.",
                deciding=(Deciding(self._ref(service), "spec.ipFamilies", other),),
                commands=(_field(service, "{.spec.ipFamilies}"),),
            )  # fmt: skip
        return self._other_type(what)

    def _told(
        self, form: _Owned, what: str, service: Service | ServiceImport, slices: Sequence[EndpointSlice], count: int
    ) -> tuple[str, tuple[str, ...]]:
        """Return a sentence on what the name is, and hints on its answer."""
        name = self.asked.name
        match form:
            case OfHost(host=host) if targets := self._targets(host, service, slices):
                return f"{name} is another name for {_some(targets)} of {what}, by the annotation {_ALIAS}.", ()
            case OfHost(host=host):
                pods = {item.pod for piece in slices for item in piece.endpoints
                        if item.hostname.lower() == host and item.conditions & Condition.READY}  # fmt: skip
                if len(pods) > 1:
                    shared = "A hostname in a template is the same for all its pods: a StatefulSet gives each its own."
                    return f"{name} is {host} of {what}, the hostname of {len(pods)} pods.", (shared,)
                return f"{name} is the endpoint {host} of {what}.", ()
            case OfPort(port=port):
                verdict = f"{name} is the port {port.removeprefix('_')} of {what}."
            case Zonal():
                return f"{name} are the endpoints of {what} in that topology zone.", ()
            case _ if service.headless:
                many = f", {count:,} addresses" if count > 1 else ""
                verdict = f"{name} is {what}, headless{many}: its ready endpoints."
            case _:
                verdict = f"{name} is {what}, by its cluster IP."
        ready = [item for piece in slices for item in piece.endpoints if item.conditions & Condition.READY]
        if self.asked.qtype == SRV and service.headless and any(not item.hostname for item in ready):
            dashed = (
                "Targets are addresses with dashes where an endpoint has no hostname. --endpoint-pod-names, or the "
                'annotation headwater.dev/pod-names: "true", makes them names of pods.'
            )
            return verdict, (dashed,)
        return verdict, ()

    def _patience(self) -> tuple[str, ...]:
        """Say whether a question for this name waits."""
        try:
            node = self.held.snapshot.get(names.name(self.asked.name))
        except BadName:
            return ()
        if node is None or exists(node):
            return ()
        waits = f"up to {patience_of(node):g} s for it, by the annotation {PATIENCE_ANNOTATION}"
        return (f"The name is awaited: a question for A, AAAA or SRV waits {waits}.",)

    def _of_weights(self, form: _Owned, service: Service | ServiceImport, node: bytes) -> tuple[str, ...]:
        """Say which annotations do not parse, and what weights do to the answer."""
        wrong = [detail for reason, *_, detail in self.asked.reports if reason == "annotation"]
        found = [f"It counts as absent: {detail}." for detail in wrong[:FEW]]
        decided = self.held.decided(service) if isinstance(service, Service) else None
        if decided is not None:
            found.append(f"The policy (--policy) decided for {_called(service)}: {decided}.")
        weighed = self._options(service).weights is not None
        if weighed and not service.headless:
            found.append("Its weights and priorities do nothing: they are for headless Services.")
        elif weighed and node[0] & Flag.LIMITED and not isinstance(form, OfHost):
            shown = choice_of(node, OF_SRV if self.asked.qtype == SRV else OF_A if self.asked.qtype == A else OF_AAAA)
            part = f" A reply shows {shown.shown:,} of them." if shown.drawn else ""
            found.append(f"Its endpoints have weights and priorities: these say which one is first.{part}")
        return tuple(found)

    def _targets(self, host: str, service: Service | ServiceImport, slices: Sequence[EndpointSlice]) -> Sequence[str]:
        """Return the endpoints that an alias stands for; none for an endpoint's own name."""
        options = self._options(service)
        by_pod = options.pod_names or self.settings.endpoint_pod_names
        for piece in slices:
            for item in piece.endpoints:
                if host in _labels_of(item) or (by_pod and item.pod.lower() == host):
                    return ()
        return options.aliases.get(host, ())

    def _maybe_cut(self, service: Service | ServiceImport, slices: Sequence[EndpointSlice]) -> tuple[Look, ...]:
        """Return a look-up of the Endpoints if its slices may mirror one that was cut."""
        count = sum(len(piece.endpoints) for piece in slices)
        if not isinstance(service, Service) or not service.selectorless or count < _MIRRORED_AT_MOST:
            return ()
        return (Look("Endpoints", service.namespace, service.name, service.name, "whether it was cut"),)

    def _no_srv(self, what: str, service: Service | ServiceImport, slices: Sequence[EndpointSlice]) -> Finding:
        """Explain a name with addresses, but without a port for an SRV record."""
        path = "ports"
        if service.headless and not service.ports:
            verdict = f"{what} has no ports: SRV records need one."
            return Finding(
                Outcome.NODATA, Cause.PORTS_EMPTY, verdict, (Deciding(self._ref(service), "spec.ports", "[]"),)
            )
        for piece in slices:
            if not piece.ports:
                return Finding(
                    Outcome.NODATA, Cause.PORTS_EMPTY,
                    f"{what} has ports, and its EndpointSlices have none: no container has a port of the name in "
                    "targetPort.",
                    (Deciding(self.held.ref("endpointslices", piece.namespace, piece.name), path, "[]"),),
                    (_field(service, "{.spec.ports}"),),
                )  # fmt: skip
        return self._other_type(what)

    def _ref(self, service: Service | ServiceImport) -> Ref:
        resource = "serviceimports" if isinstance(service, ServiceImport) else "services"
        return self.held.ref(resource, service.namespace, service.name)  # type: ignore[arg-type]

    # Names that a Service does not have

    def _left_out(
        self,
        form: _Owned,
        service: Service | ServiceImport,
        slices: Sequence[EndpointSlice],
    ) -> Finding:
        for reason, _, _, detail in self.asked.reports:
            if reason == "name":
                return _nxdomain(Cause.NAME_TOO_LONG, f"{self.asked.name} cannot be a DNS name: {detail}.")
        decided = self.held.decided(service) if isinstance(service, Service) else None
        if decided is not None and decided.endpoints is not None:
            if self._is_left_out_by(decided, form, service, slices):
                return _nxdomain(
                    Cause.POLICY, f"The policy (--policy) leaves it out of {_called(service)}. It decided: {decided}.",
                    deciding=(Deciding(self._ref(service), "--policy", str(decided)),), sources=tuple(slices),
                )  # fmt: skip
            slices = selected(slices, decided)
        match form:
            case Zonal() if not self.settings.zonal or not service.headless:
                return self._zonal(service)
            case Zonal(labels=labels):
                return self._in_zone(labels, service, slices)
            case OfHost(host=host) if not host.startswith("_"):
                return self._no_host(host, service, slices)
            case OfHost(host=protocol):
                return self._no_port("", protocol, service, slices)
            case OfPort(port=port, protocol=protocol):
                return self._no_port(port, protocol, service, slices)
        return self._no_endpoints(service, slices)

    def _is_left_out_by(
        self, decided: Decided, form: _Owned, service: Service | ServiceImport, slices: Sequence[EndpointSlice]
    ) -> bool:
        """Return whether the policy has taken away what the name stands for."""
        wanted = self._options(service).conditions
        published = [
            [item for piece in some for item in piece.endpoints if item.conditions & wanted or not wanted]
            for some in (slices, selected(slices, decided))
        ]
        if isinstance(form, OfHost):
            there = [any(form.host in _labels_of(item) for item in some) for some in published]
            return there == [True, False]
        return bool(published[0]) and not published[1]

    def _zonal(self, service: Service | ServiceImport) -> Finding:
        if not self.settings.zonal:
            return _nxdomain(
                Cause.ZONAL_DISABLED, "Names of topology zones are not served: --zonal is not set.",
                deciding=(Deciding(Ref("flag", "", "--zonal"), "--zonal", "false"),),
            )  # fmt: skip
        return _nxdomain(
            Cause.NOT_HEADLESS, f"Service {service.namespace}/{service.name} is not headless: it has no zonal names.",
            deciding=(Deciding(self._ref(service), "spec.clusterIP", _cluster_ip(service)),),
        )  # fmt: skip

    def _in_zone(
        self, labels: Sequence[str], service: Service | ServiceImport, slices: Sequence[EndpointSlice]
    ) -> Finding:
        """Explain a name below an existing `_zone` (answer.find):

        NODATA, or all endpoints for `prefer`.
        """
        if labels and labels[-1] not in ("pin", "prefer"):
            return _nxdomain(
                Cause.NO_SUCH_FORM,
                f"The label before _zone is pin or prefer: TOPOZONE.pin._zone.{service.name}.{service.namespace}.svc.",
            )
        changes = self.compiler.changes()
        assert isinstance(service, Service)
        self.compiler.service((None, ()), (service, slices), changes, decided=(None, self.held.decided(service)))
        base = names.name(self.asked.below(f"{service.name}.{service.namespace}.svc"))
        if _node(changes, base) is None:
            return self._no_endpoints(service, slices)
        if labels and labels[-1] == "prefer" and len(labels) > 1:
            pinned = names.name(".".join([*labels[:-1], "pin", "_zone", ""])[:-1])[:-1] + base
            for key in (pinned, base):
                node = _node(changes, key)
                if node is not None:
                    form = Zonal(service.namespace, service.name, tuple(labels))
                    return self._has_node(form, service, slices, node)
        return Finding(
            Outcome.NODATA,
            Cause.BELOW_IT,
            f"No ready endpoint of {service.name} is in that topology zone, or the name has names below it only.",
        )

    def _no_endpoints(self, service: Service | ServiceImport, slices: Sequence[EndpointSlice]) -> Finding:
        """Explain why the Service's own name does not exist."""
        namespace, name = service.namespace, service.name
        what = _called(service)
        list_slices = kubectl(
            namespace, "get", "endpointslices", "-l", f"kubernetes.io/service-name={name}", "-o", "wide"
        )
        selects = Look(
            "Pod", namespace, service=name, why="which pods its selector matches, and why they are in no slice"
        )
        if not service.headless:
            published = any(item.conditions & Condition.READY for piece in slices for item in piece.endpoints)
            if self.settings.ignore_empty_service and not published:
                return _nxdomain(
                    Cause.EMPTY_SERVICE,
                    f"{what} has no ready endpoint, and --ignore-empty-service leaves such Services out.",
                    deciding=(Deciding(Ref("flag", "", "--ignore-empty-service"), "--ignore-empty-service", "true"),),
                    commands=(list_slices,),
                    looks=(selects,),
                )
            return _nxdomain(
                Cause.NO_CLUSTER_IP, f"{what} has no cluster IP (yet).",
                deciding=(Deciding(self._ref(service), "spec.clusterIPs", "[]"),),
                commands=(kubectl(namespace, "get", "service", name, "-o", "yaml"),),
            )  # fmt: skip
        if not slices and isinstance(service, Service) and service.selectorless:
            return _nxdomain(
                Cause.NO_SELECTOR,
                f"{what} is headless and has no selector: somebody else has to write its EndpointSlices or Endpoints, "
                "and there are none.",
                deciding=(Deciding(self._ref(service), "spec.selector", "absent"),),
                commands=(kubectl(namespace, "get", "endpoints", name), list_slices),
            )
        if not slices:
            return _nxdomain(
                Cause.NO_SLICES,
                f"{what} is headless, and no EndpointSlice is labelled with its name: nothing has made one.",
                deciding=(Deciding(Ref("EndpointSlice", namespace, "*"), _LABEL, f"{name}, in none"),),
                commands=(list_slices, _field(service, "{.spec.selector}")),
                looks=(selects,),
            )  # fmt: skip
        endpoints = [(piece, place, item) for piece in slices for place, item in enumerate(piece.endpoints)]
        if not endpoints:
            return _nxdomain(
                Cause.NO_ENDPOINTS,
                f"{what} is headless, and its EndpointSlices hold no endpoint: its selector matches no pod that has "
                "an address.",
                deciding=tuple(Deciding(self._slice(piece), "endpoints", "[]") for piece in slices[:FEW]),
                commands=(_field(service, "{.spec.selector}"),
                          kubectl(namespace, "get", "pods", "--show-labels", "-o", "wide")),
                looks=(selects,),
            )  # fmt: skip
        return _nxdomain(
            Cause.NONE_READY,
            f"{what} is headless and has {_count(len(endpoints), 'endpoint')}, none {_wanted(self._options(service))}.",
            deciding=tuple(self._condition(*one) for one in endpoints[:FEW]),
            commands=(list_slices, *(_describe(namespace, item.pod) for _, _, item in endpoints[:1] if item.pod)),
            looks=tuple(_look_at(namespace, item.pod, name) for _, _, item in endpoints[:1] if item.pod),
            hints=_before_ready(service),
            sources=tuple(slices),
        )  # fmt: skip

    def _options(self, service: Service | ServiceImport) -> Options:
        if not isinstance(service, Service):
            return Options()
        return applied(options_of(service, silent), self.held.decided(service))

    def _no_host(self, host: str, service: Service | ServiceImport, slices: Sequence[EndpointSlice]) -> Finding:
        """Explain why an endpoint's name does not exist."""
        namespace, name = service.namespace, service.name
        what = _called(service)
        label = host.partition(".")[0]
        list_slices = kubectl(
            namespace, "get", "endpointslices", "-l", f"kubernetes.io/service-name={name}", "-o", "yaml"
        )
        mine = [(piece, at, item) for piece in slices for at, item in enumerate(piece.endpoints)]
        named = [one for one in mine if label in _labels_of(one[2])]
        if named:
            return self._not_published(host, what, service, named)
        of_pod = [one for one in mine if one[2].pod.lower() == label]
        if of_pod:
            return self._no_hostname(label, what, service, of_pod[0])
        if targets := self._targets(label, service, slices):
            return self._no_target(label, targets, service, mine)
        owners = [owner for owner in self._owners_of_host(namespace, label) if owner != name]
        if owners:
            full = self.asked.below(f"{label}.{owners[0]}.{namespace}.svc")
            return _nxdomain(
                Cause.HOST_ELSEWHERE,
                f"{label} is an endpoint of Service {namespace}/{owners[0]}, not of {name}: a pod's subdomain names "
                f"exactly one Service. Ask for {full}.",
                commands=(kubectl(namespace, "get", "pod", label, "-o", "jsonpath={.spec.subdomain}"),),
            )
        if not service.headless and not mine:
            return _nxdomain(
                Cause.NOT_HEADLESS,
                f"{what} has no endpoints, so none is called {label}. It is not headless either, as the Service of a "
                "StatefulSet should be.",
                deciding=(Deciding(self._ref(service), "spec.clusterIP", _cluster_ip(service)),),
                commands=(kubectl(namespace, "get", "service", name, "-o", "yaml"), list_slices),
            )
        reports = [detail for reason, *_, detail in self.asked.reports if reason == "endpoint" and label[:20] in detail]
        if reports:
            return _nxdomain(
                Cause.HOST_LEFT_OUT, f"An endpoint of {what} is left out: {reports[0]}.", commands=(list_slices,)
            )
        verdict = f"{what} has {_count(len(mine), 'endpoint')}, and none is called {label}"
        hints: tuple[str, ...] = ()
        if not service.headless:
            verdict += f" ({name} is not headless: its endpoints have dashed addresses for names)"
            hints = ("StatefulSets need a headless Service: clusterIP: None.",)
        return _nxdomain(
            Cause.HOST_UNKNOWN, f"{verdict}.",
            deciding=(Deciding(self._ref(service), "spec.clusterIP", _cluster_ip(service)),),
            commands=(list_slices, kubectl(namespace, "get", "pod", label, "-o", "wide")),
            looks=(Look("Pod", namespace, label, name, "whether the pod is there, and what its subdomain is"),),
            hints=hints,
        )  # fmt: skip

    def _no_target(
        self, alias: str, targets: Sequence[str], service: Service | ServiceImport,
        mine: Sequence[tuple[EndpointSlice, int, Endpoint]],
    ) -> Finding:  # fmt: skip
        """Explain an alias without an endpoint."""
        what, said = _called(service), f"{alias} is another name for {_some(targets)}"
        found = [one for one in mine if {*_labels_of(one[2]), one[2].pod.lower()} & set(targets)]
        if found:
            told = self._not_published(targets[0], what, service, found)
            return replace(told, verdict=f"{said}: {told.verdict}")
        value = dict(service.annotations)[_ALIAS] if isinstance(service, Service) else ""
        return _nxdomain(
            Cause.HOST_UNKNOWN, f"{said}, and no endpoint of {what} is called so.",
            deciding=(Deciding(self._ref(service), f"metadata.annotations[{_ALIAS}]", value[:_VALUE]),),
            commands=(kubectl(service.namespace, "get", "endpointslices", "-l",
                              f"kubernetes.io/service-name={service.name}", "-o", "yaml"),),
        )  # fmt: skip

    def _not_published(
        self, host: str, what: str, service: Service | ServiceImport,
        named: Sequence[tuple[EndpointSlice, int, Endpoint]],
    ) -> Finding:  # fmt: skip
        _, _, item = named[0]
        see = (_describe(service.namespace, item.pod),) if item.pod else ()
        looks = (_look_at(service.namespace, item.pod, service.name),) if item.pod else ()
        deciding = tuple(self._condition(*one) for one in named[:FEW])
        if item.conditions & Condition.TERMINATING:
            return _nxdomain(
                Cause.HOST_TERMINATING,
                f"{host} is an endpoint of {what} that shuts down: it is no longer ready, and so has no name.",
                deciding=deciding, commands=see, looks=looks,
                hints=(
                    ('The annotation headwater.dev/publish: "serving" keeps names while pods shut down.',)
                    if item.conditions & Condition.SERVING else ()
                ),
            )  # fmt: skip
        if not item.addresses:
            return _nxdomain(Cause.HOST_LEFT_OUT, f"{host} is an endpoint of {what} without an address.",
                             deciding=deciding, commands=see)  # fmt: skip
        left_out = [detail for reason, *_, detail in self.asked.reports if reason in ("endpoint", "address")]
        if left_out and item.conditions & Condition.READY:
            return _nxdomain(Cause.HOST_LEFT_OUT, f"{host} is an endpoint of {what} that is left out: {left_out[0]}.",
                             deciding=deciding, commands=see)  # fmt: skip
        return _nxdomain(
            Cause.HOST_NOT_READY,
            f"{host} is an endpoint of {what} that is not {_wanted(self._options(service))}.",
            deciding=deciding, commands=see, looks=looks, hints=_before_ready(service),
        )  # fmt: skip

    def _no_hostname(
        self, label: str, what: str, service: Service | ServiceImport, found: tuple[EndpointSlice, int, Endpoint]
    ) -> Finding:
        """Explain a pod that is named by its address, because its endpoint has no hostname."""
        piece, place, item = found
        namespace = service.namespace
        if item.hostname:
            at = (Deciding(self._slice(piece), f"endpoints[{place}].hostname", item.hostname),)
            see = (kubectl(namespace, "get", "pod", label, "-o", "jsonpath={.spec.hostname}"),)
            left_out = [
                detail
                for reason, *_, detail in self.asked.reports
                if reason == "endpoint" and item.hostname[:40] in detail
            ]
            if left_out:
                verdict = f"Pod {label} is an endpoint of {what} that is left out: {left_out[0]}."
                return _nxdomain(Cause.HOST_LEFT_OUT, verdict, deciding=at, commands=see)
            verdict = f"Pod {label} is an endpoint of {what} by its hostname, {item.hostname}: that is its name there."
            return _nxdomain(Cause.HOSTNAME_OTHER, verdict, deciding=at, commands=see)
        dashed = names.dashed(item.addresses[0]) if item.addresses else "its address"
        return _nxdomain(
            Cause.HOST_HAS_NO_HOSTNAME,
            f"Pod {label} is an endpoint of {what} without a hostname there, so its name is {dashed}: the pod's "
            f"spec.subdomain is not {service.name}, or its spec.hostname is not set.",
            deciding=(Deciding(self._slice(piece), f"endpoints[{place}].hostname", "absent"),),
            commands=(
                kubectl(namespace, "get", "pod", label, "-o", "jsonpath={.spec.hostname} {.spec.subdomain}"),
                kubectl(namespace, "get", "statefulsets", "-o", _SERVICE_NAMES),
            ),
            looks=(Look("Pod", namespace, label, service.name, "its hostname and subdomain"),),
            hints=("A StatefulSet's pods have names below the Service that its spec.serviceName names.",
                   'The annotation headwater.dev/pod-names: "true" names endpoints by their pods as well.'),
        )  # fmt: skip

    def _no_port(
        self, port: str, protocol: str, service: Service | ServiceImport, slices: Sequence[EndpointSlice]
    ) -> Finding:
        """Explain why a port's name does not exist."""
        ports = [item for piece in slices for item in piece.ports] if service.headless else list(service.ports)
        named = sorted({f"_{item.name}._{item.protocol.lower()}" for item in ports if item.name})
        what = _called(service)
        see = (_field(service, "{.spec.ports}"),)
        if service.headless and not any(piece.endpoints for piece in slices):
            return self._no_endpoints(service, slices)
        if service.headless and ports and named and f"_{port.removeprefix('_')}._{protocol.removeprefix('_')}" in named:
            return self._no_endpoints(service, slices)
        declared = {f"_{item.name}._{item.protocol.lower()}" for item in service.ports if item.name}
        if service.headless and f"_{port.removeprefix('_')}._{protocol.removeprefix('_')}" in declared:
            why = "" if _without_selector(service) else ": no container has a port of the name in its targetPort"
            piece = slices[0]
            return _nxdomain(
                Cause.PORTS_EMPTY,
                f"{what} has the port {port.removeprefix('_')}, and its EndpointSlices do not{why}.",
                deciding=(Deciding(self._slice(piece), "ports", ", ".join(named[:FEW]) or "[]"),), commands=see,
            )  # fmt: skip
        named = named or sorted(declared)
        if not named:
            return _nxdomain(
                Cause.PORT_HAS_NO_NAME, f"No port of {what} has a name: SRV records are asked for by it.",
                deciding=(Deciding(self._ref(service), "spec.ports[].name", "absent"),), commands=see,
            )  # fmt: skip
        return _nxdomain(
            Cause.PORT_UNKNOWN, f"{what} has no port {port.removeprefix('_')} of that protocol, it has {_some(named)}.",
            deciding=(Deciding(self._ref(service), "spec.ports[].name", ", ".join(named[:FEW])),), commands=see,
        )  # fmt: skip

    # ExternalName

    def _external(self, form: _Owned, service: Service, node: bytes | None) -> Finding:
        target = service.external_name.rstrip(".").lower()
        deciding = (Deciding(self._ref(service), "spec.externalName", service.external_name),)
        what = f"Service {service.namespace}/{service.name}"
        if not isinstance(form, OfService):
            return _nxdomain(Cause.NOT_HEADLESS, f"{what} is an ExternalName: it has no names below its own.",
                             deciding=deciding)  # fmt: skip
        if node is None:
            reports = [detail for *_, detail in self.asked.reports]
            why = reports[0] if reports else f"{service.external_name} is an address, which no CNAME can name"
            return _nxdomain(Cause.EXTERNAL_ADDRESS, f"{what} is an ExternalName without a name: {why}.",
                             deciding=deciding)  # fmt: skip
        if self.asked.type_name == "CNAME":
            return Finding(Outcome.ANSWER, Cause.ANSWERED, f"{what} is another name for {target}.", deciding)
        if self.asked.qtype not in (A, AAAA):
            count, _, _ = other_of(node, self.asked.qtype)
            if not count:
                return Finding(Outcome.NODATA, Cause.OTHER_TYPE, f"{what} is another name for {target}: it has no "
                               f"{self.asked.type_name} record of its own.", deciding)  # fmt: skip
        return Finding(Outcome.ANSWER, Cause.EXTERNAL_ELSEWHERE, f"{what} is another name for {target}.", deciding)

    # Pieces of sentences

    def _slice(self, piece: EndpointSlice) -> Ref:
        return self.held.ref("endpointslices", piece.namespace, piece.name)

    def _condition(self, piece: EndpointSlice, place: int, item: Endpoint) -> Deciding:
        """Return the condition that excludes an endpoint."""
        ref = self._slice(piece)
        pod = f" ({item.pod})" if item.pod else ""
        if not item.conditions & Condition.READY:
            more = ", terminating: true" if item.conditions & Condition.TERMINATING else ""
            return Deciding(ref, f"endpoints[{place}].conditions.ready", f"false{more}{pod}")
        return Deciding(ref, f"endpoints[{place}].addresses", f"{', '.join(item.addresses) or '[]'}{pod}")


def _node(changes: Changes, key: bytes) -> bytes | None:
    """Return a compiled node; one that shares its Service's RRset
    gets a copy of it (answer.find).
    """
    node = changes.put.get(key)
    if not exists(node):
        return None
    if node is not None and node[0] & Flag.SHARED:
        own = changes.put.get(key[len(key) - base_of_shared(node) :])
        return node if own is None else unshared(node, own)
    return node


def _labels_of(item: Endpoint) -> set[str]:
    found = {names.dashed(address).lower() for address in item.addresses}
    if item.hostname:
        found = {item.hostname.lower()}
    return found


def _cluster_ip(service: Service | ServiceImport) -> str:
    if service.headless:
        return "None"
    addresses = service.cluster_ips if isinstance(service, Service) else service.addresses
    return ", ".join(addresses) or "absent"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _wanted(options: Options) -> str:
    """Return the condition that an endpoint needs to be published."""
    return "serving" if options.conditions == Condition.SERVING else "ready"


def _underscored(label: str) -> str:
    """Return the label of a port or a protocol. A name of 63 characters gets no underscore."""
    return label if label.startswith("_") or len(label) == names.MAX_LABEL else f"_{label}"


def _called(service: Service | ServiceImport) -> str:
    return f"{type(service).__name__} {service.namespace}/{service.name}"


def _field(service: Service | ServiceImport, path: str) -> str:
    """Return the command that prints one field of a Service."""
    kind = type(service).__name__.lower()
    return kubectl(service.namespace, "get", kind, service.name, "-o", f"jsonpath={path}")


def _look_at(namespace: str, pod: str, service: str) -> Look:
    return Look("Pod", namespace, pod, service, "why it is not ready")


def _without_selector(service: Service | ServiceImport) -> bool:
    return not isinstance(service, Service) or service.selectorless


def _before_ready(service: Service | ServiceImport) -> tuple[str, ...]:
    """Return how to publish pods' names before the pods are ready, where that field can do it.

    The slice controller reads it, so it does nothing for a Service without a selector.
    """
    if isinstance(service, Service) and (service.publishes_not_ready or service.selectorless):
        return ()
    return ("spec.publishNotReadyAddresses: true on the Service names its pods before they are ready.",)


def _describe(namespace: str, pod: str) -> str:
    return kubectl(namespace, "describe", "pod", pod)


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:FEW]) + (", …" if len(words) > FEW else "")
