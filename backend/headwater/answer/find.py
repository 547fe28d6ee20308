"""Which node a name stands for when it is not stored under itself.

What CoreDNS takes besides (plugin/kubernetes/parse.go): port and protocol
without their underscores, the zonal names, and labels before a pod's name. And
what follows from these: a protocol without its underscore has names below it.
"""

from __future__ import annotations

import socket
from typing import Any, Final

from headwater.store.environment import Snapshot
from headwater.store.node import Flag, base_of_shared, unshared
from headwater.wire.names import MARKER, MAX_LABEL, MAX_NAME, PIN, PREFER, PROTOCOLS
from headwater.wire.rdata import unmapped

_SVC: Final = b"\x03svc"
_POD: Final = b"\x03pod"
#: Before SVC.NS.svc.Z: what may be known though it is not stored.
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


def find(name: bytes, zone: bytes, snapshot: Snapshot, *, clusters: bool) -> tuple[Any, bytes] | None:
    """A node and the name that it is stored under. `name` is lower-cased; `clusters`: a multicluster zone."""
    node = snapshot.get(name)
    if node is not None:
        return _whole(node, name, snapshot)
    labels = labels_of(name, zone)
    key = b""
    if len(labels) < 4:
        return None
    if labels[-1] == _POD:
        # CoreDNS does not look at an endpoint, or a port and protocol, before a pod's name.
        if len(labels) > 5:
            return None
        key = b"".join((*labels[-3:], zone))
    elif labels[-1] == _SVC:
        if labels[-4] == MARKER and not clusters:
            return _zonal(labels, zone, snapshot)
        # Two labels are a host and its cluster in a multicluster zone, unless one has the underscore.
        if len(labels) == 5 and (not clusters or labels[0][1:2] == b"_" or labels[1][1:2] == b"_"):
            key = b"".join((_underscored(labels[0]), _underscored(labels[1]), *labels[2:], zone))
        elif len(labels) == 4 and labels[0] in PROTOCOLS:
            key = b"".join((_underscored(labels[0]), *labels[1:], zone))
    if not key or key == name or len(key) > MAX_NAME:
        return None
    node = snapshot.get(key)
    return None if node is None else _whole(node, key, snapshot)


def _whole(node: Any, key: bytes, snapshot: Snapshot) -> tuple[Any, bytes]:
    """The node and its name; one that shares the set of its Service with that set."""
    if node[0] & Flag.SHARED:
        own = snapshot.get(key[len(key) - base_of_shared(node) :])
        if own is not None:
            return unshared(node, own), key
    return node, key


def may_be_known(name: bytes, labels: list[int], end: int) -> bool:
    """Whether `find` or `pod_from_name` may know a name that is not stored.

    `labels` are the offsets of those before the zone, which begins at `end`.
    """
    if len(labels) < 3:
        return False
    last = name[labels[-1] : end]
    if last == _POD:
        return True
    return last == _SVC and len(labels) > 3 and (len(labels) == 5 or name[labels[-4] : labels[-3]] in _BEFORE_A_SERVICE)


def _zonal(labels: list[bytes], zone: bytes, snapshot: Snapshot) -> tuple[Any, bytes] | None:
    """TOPOZONE.pin|prefer._zone.SVC.NS.svc.Z where no endpoint is in that zone, and what lies between."""
    base = b"".join((*labels[-3:], zone))
    marker = MARKER + base
    empty = snapshot.get(marker)
    if empty is None or len(labels) < 5 or labels[-5] not in (PIN, PREFER):
        return None
    if labels[-5] == PREFER and len(labels) > 5:
        for key in (b"".join((*labels[:-5], PIN, marker)), base):
            node = snapshot.get(key)
            if node is not None:
                return node, key
    return empty, marker


def _underscored(label: bytes) -> bytes:
    if label[1:2] == b"_" or len(label) > MAX_LABEL:
        return label
    return bytes((label[0] + 1,)) + b"_" + label[1:]


def pod_from_name(name: bytes, zone: bytes, snapshot: Snapshot) -> tuple[bytes, bytes] | None:
    """The address in a name like 10-44-0-7.NS.pod.Z, and that name, if the namespace's node allows it."""
    if not name.endswith(_POD + zone):
        return None
    labels = labels_of(name, zone)
    if not 3 <= len(labels) <= 5 or labels[-1] != _POD:
        return None
    namespace = snapshot.get(b"".join((*labels[-2:], zone)))
    if namespace is None or not namespace[0] & Flag.PODS_FROM_NAME:
        return None
    address = address_of_label(labels[-3][1:])
    return None if address is None else (address, b"".join((*labels[-3:], zone)))


def address_of_label(label: bytes) -> bytes | None:
    """A dashed address as 4 or 16 bytes: three single dashes make an IPv4 one (CoreDNS's findPods)."""
    try:
        text = label.decode("ascii")
        if text.count("-") == 3 and "--" not in text:
            return socket.inet_pton(socket.AF_INET, text.replace("-", "."))
        return unmapped(socket.inet_pton(socket.AF_INET6, text.replace("-", ":")))
    except (OSError, ValueError):
        return None
