"""The meaning of the API server's statuses, and the groups of its resources."""

from __future__ import annotations

from typing import Final

from headwater.cluster.objects import Resource
from headwater.cluster.reflector import RequestFailed, Trouble

PATHS: Final[dict[Resource, str]] = {
    "namespaces": "/api/v1/namespaces",
    "services": "/api/v1/services",
    "endpointslices": "/apis/discovery.k8s.io/v1/endpointslices",
    "pods": "/api/v1/pods",
    "serviceimports": "/apis/multicluster.x-k8s.io/v1alpha1/serviceimports",
    "nodes": "/api/v1/nodes",
}

#: The API groups of resources outside the core group.
_GROUPS: Final[dict[str, str]] = {
    resource: path.split("/")[2] for resource, path in PATHS.items() if path.startswith("/apis/")
}

#: Resources that exist only after their CRD is installed.
_CUSTOM: Final = frozenset(("serviceimports",))


def failure(status: int, message: str, resource: str, verb: str = "watch", retry_after: float = 0.0) -> RequestFailed:
    """The failure of a status, from a response or from an ERROR event."""
    text = f"{verb} {resource}: {status}: {message}"
    match status:
        case 410:
            return RequestFailed(Trouble.EXPIRED, text, status)
        case 504 if "too large resource version" in message.lower():
            return RequestFailed(Trouble.AHEAD, text, status)
        case 400 | 422:
            return RequestFailed(Trouble.REFUSED, text, status)
        case 401:
            return RequestFailed(Trouble.UNAUTHORIZED, text, status)
        case 403:
            advice = f"the role needs the verb {verb!r} on {resource!r}"
            if group := _GROUPS.get(resource):
                advice += f" in the API group {group!r}"
            return RequestFailed(Trouble.FORBIDDEN, f"{text} ({advice})", status)
        case 404 if resource in _CUSTOM:
            crd = f"{resource}.{_GROUPS[resource]}"
            absent = f"{resource}: the CRD {crd} is not installed: no names in the multicluster zones until it is"
            return RequestFailed(Trouble.NOT_INSTALLED, absent, status)
        case 429 | 503:
            return RequestFailed(Trouble.THROTTLED, text, status, retry_after)
        case _:
            return RequestFailed(Trouble.SERVER, text, status)
