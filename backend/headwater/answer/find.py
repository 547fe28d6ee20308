"""The node of a name that is not stored under itself.

CoreDNS also accepts (plugin/kubernetes/parse.go) port and protocol without their underscores, the
zonal names, and labels before a pod's name. It follows that a protocol without its underscore has
names below it.
"""

from __future__ import annotations

import socket
from enum import Enum
from typing import Any, Final

from headwater.store.environment import Snapshot
from headwater.store.node import IS_SHARED, Flag, base_of_shared, unshared
from headwater.wire.names import MARKER, MAX_LABEL, MAX_NAME, PIN, POD, PREFER, PROTOCOLS, SVC
from headwater.wire.rdata import unmapped

#: The number of labels in the name of a Service, of an endpoint, of a port.
_SERVICE: Final = 3
_ENDPOINT: Final = 4
_PORT: Final = 5
#: Labels before SVC.NS.svc.Z in names that may exist though they are not stored.
_BEFORE_A_SERVICE: Final = PROTOCOLS | {MARKER}


def labels_of(name: bytes, zone: bytes) -> list[bytes]:
    """The labels of a wire-format name before its zone, with their length octets."""
    found = []
    at, end = 0, len(name) - len(zone)
    while at < end:
        after = at + 1 + name[at]
        found.append(name[at:after])
        at = after
    return found


class Shape(Enum):
    """The shape of the labels before a zone: the five cases of CoreDNS's parseRequest.

    `pod` is read like `svc`, but has no zonal names.
    """

    SERVICE = "service.namespace.svc, and what is above it"
    ENDPOINT = "endpoint.service.namespace.svc"
    PORT = "port.protocol.service.namespace.svc"
    HOST_OF_CLUSTER = "endpoint.cluster.service.namespace.svc, in a multicluster zone"
    ZONAL = "topozone.pin|prefer._zone.service.namespace.svc, and what is above it"
    TOO_LONG = "nothing that CoreDNS answers"


def shape_of(labels: list[bytes], *, clusters: bool) -> Shape:
    """The shape of the labels before a zone; `clusters`: a multicluster one."""
    if len(labels) < _ENDPOINT:
        return Shape.SERVICE
    if labels[-_ENDPOINT] == MARKER and labels[-1] == SVC and not clusters:
        return Shape.ZONAL
    if len(labels) == _ENDPOINT:
        return Shape.ENDPOINT
    if len(labels) > _PORT:
        return Shape.TOO_LONG
    # Two labels are a host and its cluster in a multicluster zone, unless one has the underscore.
    return Shape.HOST_OF_CLUSTER if clusters and not any(map(_has_underscore, labels[:2])) else Shape.PORT


#: Shapes of names that are stored under themselves, or that do not exist.
_ONLY_AS_STORED: Final = (Shape.SERVICE, Shape.TOO_LONG)


def find(name: bytes, zone: bytes, snapshot: Snapshot, *, clusters: bool) -> tuple[Any, bytes] | None:
    """A node and the name that it is stored under.

    `name` is lower-cased; `clusters`: a multicluster zone.
    """
    node = snapshot.get(name)
    if node is not None:
        return whole(node, name, snapshot), name
    labels = labels_of(name, zone)
    shape = shape_of(labels, clusters=clusters)
    if shape in _ONLY_AS_STORED:
        return None
    if labels[-1] == POD:
        # CoreDNS does not look at an endpoint, or a port and protocol, before a pod's name.
        key = b"".join((*labels[-_SERVICE:], zone))
    elif labels[-1] == SVC and shape is Shape.ZONAL:
        return _zonal(labels, zone, snapshot)
    elif labels[-1] == SVC and shape is Shape.PORT:
        key = b"".join((*map(_underscored, labels[:2]), *labels[2:], zone))
    elif labels[-1] == SVC and shape is Shape.ENDPOINT and labels[0] in PROTOCOLS:
        key = b"".join((_underscored(labels[0]), *labels[1:], zone))
    else:
        return None
    if key == name or len(key) > MAX_NAME:
        return None
    node = snapshot.get(key)
    return None if node is None else (whole(node, key, snapshot), key)


def whole(node: Any, key: bytes, snapshot: Snapshot) -> Any:
    """The node of a name, with the set of its Service if it shares that."""
    if node[0] & IS_SHARED:
        own = snapshot.get(key[len(key) - base_of_shared(node) :])
        if own is not None:
            return unshared(node, own)
    return node


def may_be_known(name: bytes, labels: list[int], end: int) -> bool:
    """Whether `find` or `pod_from_name` may know a name that is not stored.

    `labels` are the offsets of the labels before the zone, which begins at `end`. This is on the
    short way: it looks at nothing else, and says yes where `shape_of` would have to look closer.
    """
    count = len(labels)
    if count < _SERVICE:
        return False
    last = name[labels[-1] : end]
    if last == POD:
        return True
    return last == SVC and (
        count == _PORT or (count >= _ENDPOINT and name[labels[-_ENDPOINT] : labels[-_SERVICE]] in _BEFORE_A_SERVICE)
    )


def _zonal(labels: list[bytes], zone: bytes, snapshot: Snapshot) -> tuple[Any, bytes] | None:
    """TOPOZONE.pin|prefer._zone.SVC.NS.svc.Z without an endpoint there, and names between."""
    *above, word, _, service, namespace, svc = [b"", *labels]
    base = b"".join((service, namespace, svc, zone))
    marker = MARKER + base
    empty = snapshot.get(marker)
    if empty is None or word not in (PIN, PREFER):
        return None
    zones = b"".join(above)
    if word == PREFER and zones:
        for key in (zones + PIN + marker, base):
            node = snapshot.get(key)
            if node is not None:
                return node, key
    return empty, marker


def _has_underscore(label: bytes) -> bool:
    return label[1:2] == b"_"


def _underscored(label: bytes) -> bytes:
    if _has_underscore(label) or len(label) > MAX_LABEL:
        return label
    return bytes((label[0] + 1,)) + b"_" + label[1:]


def pod_from_name(name: bytes, zone: bytes, snapshot: Snapshot) -> tuple[bytes, bytes] | None:
    """The address in a name like 10-44-0-7.NS.pod.Z, and the name, if the namespace allows it."""
    if not name.endswith(POD + zone):
        return None
    labels = labels_of(name, zone)
    if not _SERVICE <= len(labels) <= _PORT or labels[-1] != POD:
        return None
    namespace = snapshot.get(b"".join((*labels[-2:], zone)))
    if namespace is None or not namespace[0] & Flag.PODS_FROM_NAME:
        return None
    address = address_of_label(labels[-_SERVICE][1:])
    return None if address is None else (address, b"".join((*labels[-_SERVICE:], zone)))


def address_of_label(label: bytes) -> bytes | None:
    """A dashed address as 4 or 16 bytes. Three single dashes: IPv4 (CoreDNS's findPods)."""
    try:
        text = label.decode("ascii")
        if text.count("-") == 3 and "--" not in text:
            return socket.inet_pton(socket.AF_INET, text.replace("-", "."))
        return unmapped(socket.inet_pton(socket.AF_INET6, text.replace("-", ":")))
    except (OSError, ValueError):
        return None
