"""The grammar of names below a zone in the Kubernetes DNS specification, case by case.

The labels are text, lower-cased, the leftmost first, without the zone's. CoreDNS has the same in
plugin/kubernetes/parse.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Names that every zone has.
FIXED = {
    (): "the zone itself",
    ("svc",): "where Services are",
    ("pod",): "where pods are",
    ("dns",): "where the name server's name is",
    ("ns", "dns"): "the name server",
    ("dns-version",): "the version of the specification",
}


@dataclass(frozen=True, slots=True)
class Fixed:
    """A name that every zone has."""

    what: str


@dataclass(frozen=True, slots=True)
class OfNamespace:
    """NS.svc or NS.pod."""

    namespace: str
    kind: str


@dataclass(frozen=True, slots=True)
class OfPod:
    """A-B-C-D.NS.pod."""

    namespace: str
    dashed: str


@dataclass(frozen=True, slots=True)
class OfService:
    """SVC.NS.svc."""

    namespace: str
    service: str


@dataclass(frozen=True, slots=True)
class OfHost:
    """HOST.SVC.NS.svc, and `_tcp.SVC.NS.svc`; in a zone of
    ServiceImports HOST.CLUSTER.SVC.NS.svc.
    """

    namespace: str
    service: str
    host: str


@dataclass(frozen=True, slots=True)
class OfPort:
    """_PORT._PROTO.SVC.NS.svc, with or without the underscores."""

    namespace: str
    service: str
    port: str
    protocol: str


@dataclass(frozen=True, slots=True)
class Zonal:
    """TOPOZONE.pin._zone.SVC.NS.svc, TOPOZONE.prefer._zone.SVC.NS.svc, and the names between."""

    namespace: str
    service: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NoForm:
    """A name of no form in the specification."""

    labels: tuple[str, ...]


Form = Fixed | OfNamespace | OfPod | OfService | OfHost | OfPort | Zonal | NoForm


def form_of(labels: Sequence[str], *, clusters: bool = False) -> Form:
    """Return the form of these labels. With `clusters` the zone is one of ServiceImports."""
    if (what := FIXED.get(tuple(labels))) is not None:
        return Fixed(what)
    match list(labels):
        case [namespace, ("svc" | "pod") as kind]:
            return OfNamespace(namespace, kind)
        case [*before, dashed, namespace, "pod"] if len(before) <= 2:
            return OfPod(namespace, dashed)
        case [*rest, "_zone", service, namespace, "svc"] if not clusters:
            return Zonal(namespace, service, tuple(rest))
        case [service, namespace, "svc"]:
            return OfService(namespace, service)
        case [host, service, namespace, "svc"]:
            return OfHost(namespace, service, host)
        case [one, other, service, namespace, "svc"]:
            if clusters and not one.startswith("_") and not other.startswith("_"):
                return OfHost(namespace, service, f"{one}.{other}")
            return OfPort(namespace, service, one, other)
        case _:
            return NoForm(tuple(labels))
