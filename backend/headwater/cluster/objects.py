"""Kubernetes objects, reduced to what DNS needs the moment they arrive.

Two shapes of each. The API's own (`_Api…`, JSON) names only the fields that
are read: msgspec skips everything else without building it, so managedFields
never become Python objects. The store packs the reduced ones (`Service`, `EndpointSlice`, …), and
records are made from them.

`decode` and `convert` accept what the API server's schema allows and raise
`OddObject` for the rest, so that one bad object is skipped and harms no other.

No Struct here is tracked by the garbage collector (`gc=False`): none can be part
of a cycle, and there are hundreds of thousands of them while a list is taken.
"""

from __future__ import annotations

import hashlib
from enum import IntFlag
from typing import Annotated, Any, Final, Literal, cast

import msgspec
from msgspec import Meta, Struct, field

from headwater.store.nodes import Node

Resource = Literal["namespaces", "services", "endpointslices", "pods", "serviceimports", "nodes"]

#: Kubernetes label and annotation names that are read.
SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
TRIGGER_TIME_ANNOTATION: Final = "endpoints.kubernetes.io/last-change-trigger-time"
ZONE_LABEL: Final = "topology.kubernetes.io/zone"
IMPORT_NAME_LABEL: Final = "multicluster.kubernetes.io/service-name"
SOURCE_CLUSTER_LABEL: Final = "multicluster.kubernetes.io/source-cluster"
ALIAS_ANNOTATION: Final = "headwater.dev/alias"
PATIENCE_ANNOTATION: Final = "headwater.dev/patience"
#: A Service's annotations that we read (docs/answers.md); the first is the specification's (section
#: 2.1).
ANNOTATIONS: Final = (
    "service.alpha.kubernetes.io/tolerate-unready-endpoints",
    "headwater.dev/ttl",
    "headwater.dev/publish",
    "headwater.dev/max-answers",
    "headwater.dev/pod-names",
    "headwater.dev/weights",
    "headwater.dev/priorities",
    ALIAS_ANNOTATION,
    "headwater.dev/policy",
    PATIENCE_ANNOTATION,
    "headwater.dev/zone",
)
#: A pod's annotation that we read, with `--pods verified`.
POD_WEIGHT_ANNOTATION: Final = "headwater.dev/weight"
#: The most characters of its value that are kept: a weight has five.
_POD_WEIGHT: Final = 16
#: Hints of one endpoint that are read: the API allows so many (discovery/v1, EndpointHints).
MAX_HINTS: Final = 8

#: CIDRs, and addresses, of one Node that are read: there are two families, and few of either.
MAX_OF_A_NODE: Final = 16

#: Where CoreDNS keeps a port without a number (plugin/kubernetes/object/service.go).
NO_PORT: Final = -1


class OddObject(ValueError):  # noqa: N818 (a description of the object, not of a failure)
    """A bad object: without a name, or with a field of another type."""


class Namespace(Struct, frozen=True, array_like=True, gc=False):
    """A namespace: DNS only needs to know that it exists."""

    name: str

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name), as every object has it; a namespace is in none."""
        return "", self.name


class Port(Struct, frozen=True, array_like=True, gc=False):
    """A port of a Service or of a slice; `number` is NO_PORT when there is none."""

    name: str
    protocol: str
    number: int


class Service(Struct, frozen=True, array_like=True, gc=False):
    """A Service. `cluster_ips` is empty for a headless one, see `headless`."""

    namespace: str
    name: str
    type: str
    headless: bool
    cluster_ips: tuple[str, ...]
    external_name: str
    ports: tuple[Port, ...]
    annotations: tuple[tuple[str, str], ...] = ()
    """(name, value) of those of ANNOTATIONS that it has, in that order."""
    publishes_not_ready: bool = False
    """Its slices call endpoints ready that are not (spec.publishNotReadyAddresses)."""
    selectorless: bool = False
    """No selector: somebody else than the slice controller makes its slices."""
    distribution: str = ""
    """spec.trafficDistribution."""

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name


class ServiceImport(Struct, frozen=True, array_like=True, gc=False):
    """A Service of a clusterset (KEP-1645), as this cluster sees it."""

    namespace: str
    name: str
    headless: bool
    addresses: tuple[str, ...]
    ports: tuple[Port, ...]

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name


class Condition(IntFlag):
    """An endpoint's conditions as one number. `ready` counts unless it is false."""

    READY = 1
    SERVING = 2
    TERMINATING = 4


class Endpoint(Struct, frozen=True, array_like=True, gc=False):
    """One endpoint of a slice: its addresses share a hostname and conditions."""

    addresses: tuple[str, ...]
    conditions: int
    hostname: str = ""
    pod: str = ""
    zone: str = ""
    node: str = ""
    for_zones: tuple[str, ...] = ()
    """Its hints: the topology zones, and the nodes, whose clients it is meant for (KEP-3015)."""
    for_nodes: tuple[str, ...] = ()


class EndpointSlice(Struct, frozen=True, array_like=True, gc=False):
    """A slice; `service` and `imported` are empty without the labels that name its owner."""

    namespace: str
    name: str
    service: str
    ports: tuple[Port, ...]
    endpoints: tuple[Endpoint, ...]
    imported: str = ""
    """The ServiceImport that it belongs to."""
    cluster: str = ""
    """Which cluster of the clusterset the endpoints are in."""

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name


class Pod(Struct, frozen=True, array_like=True, gc=False):
    """A pod and the addresses by which it can be named."""

    namespace: str
    name: str
    addresses: tuple[str, ...]
    weight: str = ""
    """Its annotation `headwater.dev/weight`, cut; "" for none."""

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name


Object = Namespace | Service | EndpointSlice | Pod | ServiceImport | Node


class Decoded(Struct, frozen=True, gc=False):
    """A reduced object, and the metadata of this version."""

    object: Object
    resource_version: str
    trigger_time: str = ""
    """When the change behind this slice happened (RFC 3339), if the controller says so."""
    absent: bool = False
    """True for a pod that DNS treats as gone although the API still has it."""


# The API's shapes. Field names are the API's own, hence the renaming.


class _Meta(Struct, rename="camel", gc=False):
    name: str = ""
    namespace: str | None = None
    resource_version: str | None = None


class _SliceLabels(Struct, gc=False):
    service_name: str | None = field(default=None, name=SERVICE_NAME_LABEL)
    imported: str | None = field(default=None, name=IMPORT_NAME_LABEL)
    cluster: str | None = field(default=None, name=SOURCE_CLUSTER_LABEL)


class _ServiceAnnotations(Struct, gc=False):
    tolerate: str | None = field(default=None, name=ANNOTATIONS[0])
    ttl: str | None = field(default=None, name=ANNOTATIONS[1])
    publish: str | None = field(default=None, name=ANNOTATIONS[2])
    max_answers: str | None = field(default=None, name=ANNOTATIONS[3])
    pod_names: str | None = field(default=None, name=ANNOTATIONS[4])
    weights: str | None = field(default=None, name=ANNOTATIONS[5])
    priorities: str | None = field(default=None, name=ANNOTATIONS[6])
    alias: str | None = field(default=None, name=ANNOTATIONS[7])
    policy: str | None = field(default=None, name=ANNOTATIONS[8])
    patience: str | None = field(default=None, name=ANNOTATIONS[9])
    zone: str | None = field(default=None, name=ANNOTATIONS[10])


class _SliceAnnotations(Struct, gc=False):
    trigger_time: str | None = field(default=None, name=TRIGGER_TIME_ANNOTATION)


class _SliceMeta(_Meta, rename="camel", gc=False):
    labels: _SliceLabels | None = None
    annotations: _SliceAnnotations | None = None


class _ServiceMeta(_Meta, rename="camel", gc=False):
    annotations: _ServiceAnnotations | None = None


class _ApiNamespace(Struct, gc=False):
    metadata: _Meta


#: The API's int32; a larger one could not even be stored.
_Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]


class _ApiPort(Struct, gc=False):
    name: str | None = None
    protocol: str | None = None
    port: _Int32 | None = None


class _ServiceSpec(Struct, gc=False):
    type: str | None = None
    cluster_ip: str | None = field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = field(default=None, name="clusterIPs")
    external_name: str | None = field(default=None, name="externalName")
    not_ready: bool | None = field(default=None, name="publishNotReadyAddresses")
    selector: dict[str, Any] | None = None
    distribution: str | None = field(default=None, name="trafficDistribution")
    ports: list[_ApiPort] | None = None


class _ApiService(Struct, gc=False):
    metadata: _ServiceMeta
    spec: _ServiceSpec | None = None


class _ImportSpec(Struct, gc=False):
    type: str | None = None
    ips: list[str] | None = None
    ports: list[_ApiPort] | None = None


class _ApiImport(Struct, gc=False):
    metadata: _Meta
    spec: _ImportSpec | None = None


class _Conditions(Struct, gc=False):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _TargetRef(Struct, gc=False):
    kind: str | None = None
    name: str | None = None


class _Hint(Struct, gc=False):
    name: str | None = None


class _Hints(Struct, rename="camel", gc=False):
    for_zones: list[_Hint] | None = None
    for_nodes: list[_Hint] | None = None


class _ApiEndpoint(Struct, rename="camel", gc=False):
    addresses: list[str] | None = None
    conditions: _Conditions | None = None
    hostname: str | None = None
    target_ref: _TargetRef | None = None
    zone: str | None = None
    node_name: str | None = None
    hints: _Hints | None = None


class _ApiSlice(Struct, gc=False):
    metadata: _SliceMeta
    endpoints: list[_ApiEndpoint] | None = None
    ports: list[_ApiPort] | None = None


class _PodIP(Struct, gc=False):
    ip: str | None = None


class _PodStatus(Struct, rename="camel", gc=False):
    phase: str | None = None
    pod_ip: str | None = field(default=None, name="podIP")
    pod_ips: list[_PodIP] | None = field(default=None, name="podIPs")


class _PodAnnotations(Struct, gc=False):
    weight: str | None = field(default=None, name=POD_WEIGHT_ANNOTATION)


class _PodMeta(_Meta, rename="camel", gc=False):
    annotations: _PodAnnotations | None = None


class _ApiPod(Struct, gc=False):
    metadata: _PodMeta
    status: _PodStatus | None = None


class _NodeLabels(Struct, gc=False):
    zone: str | None = field(default=None, name=ZONE_LABEL)


class _NodeMeta(_Meta, rename="camel", gc=False):
    labels: _NodeLabels | None = None


class _NodeSpec(Struct, gc=False):
    pod_cidr: str | None = field(default=None, name="podCIDR")
    pod_cidrs: list[str] | None = field(default=None, name="podCIDRs")


class _NodeAddress(Struct, gc=False):
    type: str | None = None
    address: str | None = None


class _NodeStatus(Struct, gc=False):
    addresses: list[_NodeAddress] | None = None


class _ApiNode(Struct, gc=False):
    metadata: _NodeMeta
    spec: _NodeSpec | None = None
    status: _NodeStatus | None = None


def _namespace(api: _ApiNamespace) -> Decoded:
    return Decoded(Namespace(api.metadata.name), api.metadata.resource_version or "")


def _ports(ports: list[_ApiPort] | None) -> tuple[Port, ...]:
    if not ports:
        return ()
    return tuple(
        Port(port.name or "", port.protocol or "TCP", NO_PORT if port.port is None else port.port) for port in ports
    )


def _service(api: _ApiService) -> Decoded:
    meta, spec = api.metadata, api.spec or _ServiceSpec()
    addresses = spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])
    headless = addresses[:1] == ["None"]
    service = Service(
        namespace=meta.namespace or "default",
        name=meta.name,
        type=spec.type or "ClusterIP",
        headless=headless,
        cluster_ips=() if headless else tuple(addresses),
        external_name=spec.external_name or "",
        ports=_ports(spec.ports),
        annotations=() if meta.annotations is None else _annotations(meta.annotations),
        publishes_not_ready=spec.not_ready is True,
        selectorless=not spec.selector,
        distribution=spec.distribution or "",
    )
    return Decoded(service, meta.resource_version or "")


def _annotations(api: _ServiceAnnotations) -> tuple[tuple[str, str], ...]:
    values = (
        api.tolerate, api.ttl, api.publish, api.max_answers, api.pod_names, api.weights, api.priorities, api.alias,
        api.policy, api.patience, api.zone,
    )  # fmt: skip
    return tuple((name, value) for name, value in zip(ANNOTATIONS, values, strict=True) if value is not None)


def _import(api: _ApiImport) -> Decoded:
    meta, spec = api.metadata, api.spec or _ImportSpec()
    item = ServiceImport(
        namespace=meta.namespace or "default",
        name=meta.name,
        headless=spec.type == "Headless",
        addresses=tuple(spec.ips or ()),
        ports=_ports(spec.ports),
    )
    return Decoded(item, meta.resource_version or "")


_READY = int(Condition.READY)
_SERVING = int(Condition.SERVING)
_TERMINATING = int(Condition.TERMINATING)


def _conditions(conditions: _Conditions | None) -> int:
    # The API's documentation: an absent `ready` counts as ready, an absent
    # `serving` follows `ready`, an absent `terminating` is false.
    if conditions is None:
        return _READY | _SERVING
    ready = conditions.ready is not False
    serving = ready if conditions.serving is None else conditions.serving
    return ready * _READY | serving * _SERVING | (conditions.terminating is True) * _TERMINATING


def _hinted(hints: list[_Hint] | None) -> tuple[str, ...]:
    return tuple(hint.name for hint in hints[:MAX_HINTS] if hint.name) if hints else ()


def _endpoint(api: _ApiEndpoint) -> Endpoint:
    target, hints = api.target_ref, api.hints
    return Endpoint(
        tuple(api.addresses or ()),
        _conditions(api.conditions),
        api.hostname or "",
        (target.name or "") if target is not None else "",
        api.zone or "",
        api.node_name or "",
        () if hints is None else _hinted(hints.for_zones),
        () if hints is None else _hinted(hints.for_nodes),
    )


_NO_LABELS: Final = _SliceLabels()


def _slice(api: _ApiSlice) -> Decoded:
    meta = api.metadata
    labels = meta.labels or _NO_LABELS
    reduced = EndpointSlice(
        namespace=meta.namespace or "default",
        name=meta.name,
        service=labels.service_name or "",
        ports=_ports(api.ports),
        endpoints=tuple(map(_endpoint, api.endpoints or ())),
        imported=labels.imported or "",
        cluster=labels.cluster or "",
    )
    trigger = (meta.annotations.trigger_time or "") if meta.annotations is not None else ""
    return Decoded(reduced, meta.resource_version or "", trigger)


#: Phases of pods that no longer own their address (CoreDNS's field selector).
_GONE = frozenset({"Succeeded", "Failed", "Unknown"})


def _pod(api: _ApiPod) -> Decoded:
    meta, status = api.metadata, api.status or _PodStatus()
    addresses = [item.ip for item in status.pod_ips or () if item.ip]
    if not addresses and status.pod_ip:
        addresses = [status.pod_ip]
    weight = "" if meta.annotations is None else (meta.annotations.weight or "")[:_POD_WEIGHT]
    pod = Pod(meta.namespace or "default", meta.name, tuple(addresses), weight)
    # One that is being deleted keeps its name until it is gone, as in CoreDNS.
    return Decoded(pod, meta.resource_version or "", absent=status.phase in _GONE)


#: The types of a Node's addresses; the others are names.
_NODE_ADDRESSES: Final = frozenset({"InternalIP", "ExternalIP"})


def _node(api: _ApiNode) -> Decoded:
    meta, spec, status = api.metadata, api.spec or _NodeSpec(), api.status or _NodeStatus()
    cidrs = spec.pod_cidrs or ([spec.pod_cidr] if spec.pod_cidr else [])
    addresses = [item.address for item in status.addresses or () if item.type in _NODE_ADDRESSES and item.address]
    node = Node(
        meta.name,
        (meta.labels.zone or "") if meta.labels is not None else "",
        tuple(cidrs[:MAX_OF_A_NODE]),
        tuple(addresses[:MAX_OF_A_NODE]),
    )
    return Decoded(node, meta.resource_version or "")


_SHAPES: Final[dict[Resource, tuple[Any, Any]]] = {
    "namespaces": (_ApiNamespace, _namespace),
    "services": (_ApiService, _service),
    "endpointslices": (_ApiSlice, _slice),
    "pods": (_ApiPod, _pod),
    "serviceimports": (_ApiImport, _import),
    "nodes": (_ApiNode, _node),
}
_NAMED: Final = msgspec.json.Decoder(_ApiNamespace)  # of any kind: nothing but its metadata
_DECODERS: Final = {resource: msgspec.json.Decoder(shape) for resource, (shape, _) in _SHAPES.items()}

#: Kinds in manifests, by the resource that they belong to.
KINDS: Final[dict[tuple[str, str], Resource]] = {
    ("v1", "Namespace"): "namespaces",
    ("v1", "Service"): "services",
    ("discovery.k8s.io/v1", "EndpointSlice"): "endpointslices",
    ("v1", "Pod"): "pods",
    ("multicluster.x-k8s.io/v1alpha1", "ServiceImport"): "serviceimports",
}


def _reduce(resource: Resource, api: Any) -> Decoded:
    decoded = cast("Decoded", _SHAPES[resource][1](api))
    if not decoded.object.key[1]:
        raise OddObject(f"an object of {resource} has no metadata.name")
    return decoded


def decode(resource: Resource, data: bytes | msgspec.Raw) -> Decoded:
    """An object as the API server sends it (JSON) to its reduced form.

    Raises OddObject when it is not JSON or not an object of that resource.
    """
    try:
        api = _DECODERS[resource].decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise OddObject(f"an object of {resource} does not decode: {error}") from None
    return _reduce(resource, api)


def key_of(data: bytes | msgspec.Raw) -> tuple[str, str] | None:
    """(namespace, name) of an object whose other fields need not decode; None without a name."""
    try:
        meta = _NAMED.decode(data).metadata
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return (meta.namespace or "", meta.name) if meta.name else None


def convert(resource: Resource, data: object) -> Decoded:
    """The same for a parsed object (YAML).

    Raises OddObject when a field has another type than in the API.
    """
    try:
        api = msgspec.convert(data, _SHAPES[resource][0])
    except msgspec.MsgspecError as error:
        raise OddObject(f"not a valid object of {resource}: {error}") from None
    return _reduce(resource, api)


_TYPES: Final[dict[Resource, Any]] = {
    "namespaces": Namespace,
    "services": Service,
    "endpointslices": EndpointSlice,
    "pods": Pod,
    "serviceimports": ServiceImport,
    "nodes": Node,
}
_PACKER: Final = msgspec.msgpack.Encoder()
_UNPACKERS: Final = {resource: msgspec.msgpack.Decoder(type_) for resource, type_ in _TYPES.items()}


#: The head of a packed object: its resourceVersion, for the audit, by `version_mark`.
_VERSION_SIZE: Final = 8
#: From here on a mark has no order: it is a digest of a version that is no number.
_OPAQUE: Final = 2**63


def pack(item: Object, resource_version: str = "") -> bytes:
    """A reduced object as the store keeps it: its version, and msgpack, positional."""
    return version_mark(resource_version).to_bytes(_VERSION_SIZE, "big") + _PACKER.encode(item)


def unpack(resource: Resource, data: bytes | bytearray | memoryview) -> Any:
    """The object that `pack` packed. Raises msgspec.MsgspecError on other bytes."""
    return _UNPACKERS[resource].decode(memoryview(data)[_VERSION_SIZE:])


class SliceLabels(Struct, frozen=True, array_like=True, gc=False):
    """A stored slice without what makes it large: whose it is."""

    namespace: str
    name: str
    service: str
    ports: msgspec.Raw
    endpoints: msgspec.Raw
    imported: str = ""


_LABELS: Final = msgspec.msgpack.Decoder(SliceLabels)


def unpack_labels(data: bytes) -> SliceLabels:
    """The owner of a packed slice, without its endpoints. Raises msgspec.MsgspecError."""
    return _LABELS.decode(memoryview(data)[_VERSION_SIZE:])


def says_the_same(one: bytes | None, other: bytes | None) -> bool:
    """Whether two packed objects differ only in their version."""
    if one is None or other is None:
        return one is other
    return memoryview(one)[_VERSION_SIZE:] == memoryview(other)[_VERSION_SIZE:]


def packed_version(data: bytes) -> int:
    """The mark of a packed object's version."""
    return int.from_bytes(data[:_VERSION_SIZE], "big")


def version_number(resource_version: str) -> int:
    """A resourceVersion as a number (KEP-5504); 0 when it is no number of 63 bits."""
    if resource_version.isascii() and resource_version.isdigit() and len(resource_version) < 20:
        number = int(resource_version)
        return number if number < _OPAQUE else 0
    return 0


def is_older(one: str, other: str) -> bool:
    """Whether a version is known to come before another.

    Those that are no numbers have no order.
    """
    return 0 < version_number(one) < version_number(other)


def version_mark(resource_version: str) -> int:
    """A resourceVersion in 64 bits: its number, else a digest of it; 0 for none.

    An aggregated API server may have versions that are no numbers. They can only be compared for
    equality. The text of a mark has the same mark.
    """
    if not resource_version:
        return 0
    if number := version_number(resource_version):
        return number
    if resource_version.isascii() and resource_version.isdigit() and len(resource_version) <= 20:
        number = int(resource_version)
        if number < 2**64:
            return number
    return int.from_bytes(hashlib.blake2b(resource_version.encode(), digest_size=8).digest(), "big") | _OPAQUE


def is_behind(mark: int, other: int) -> bool:
    """Whether an object of the first mark lacks something that one of the other has.

    Without an order, a different version counts as later.
    """
    if mark >= _OPAQUE or other >= _OPAQUE:
        return mark != other
    return mark < other
