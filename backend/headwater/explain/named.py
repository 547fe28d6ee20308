"""Whose a name is, by its form: what the history is looked up by."""

from __future__ import annotations

from dataclasses import dataclass

from headwater.explain.form import OfHost, OfNamespace, OfPod, OfPort, OfService, Zonal, form_of
from headwater.settings.settings import Settings
from headwater.store.history import Owner, OwnerKind
from headwater.wire import names


@dataclass(frozen=True, slots=True)
class Named:
    """A name, and its owner."""

    name: str
    """Absolute, in lower case, without its last dot."""
    owner: Owner
    label: str = ""
    """What stands before the owner's own name; empty: that name itself."""
    kept: bool = True
    """Whether the history holds the records of this name, not only of its owner."""

    @property
    def wire_label(self) -> bytes:
        """The label in wire format. Raises names.BadName."""
        return b"".join(map(names.label, self.label.split("."))) if self.label else b""


def zone_of(name: str, settings: Settings) -> str:
    """The longest zone that is served and has the name; "" for none."""
    found = ""
    for one in settings.served_zones():
        if (name == one or name.endswith(f".{one}")) and len(one) > len(found):
            found = one
    return found


def named(text: str, settings: Settings) -> Named | None:
    """Whose a name is; None for one that belongs to nobody.

    A short name is completed as search lists do.
    """
    text = text.strip().lower()
    name = text.rstrip(".")
    first = settings.zones[0]
    is_whole = text.endswith(".") or zone_of(name, settings)
    for whole in (name,) if is_whole else (f"{name}.{first}", f"{name}.svc.{first}"):
        if (zone := zone_of(whole, settings)) and (found := _named(whole, zone, settings)) is not None:
            return found
    return None


def _named(name: str, zone: str, settings: Settings) -> Named | None:
    if zone in settings.reverse_zones:
        return None
    before = name[: -len(zone)].rstrip(".")
    clusters = zone in settings.multicluster_zones
    kind = OwnerKind.IMPORT if clusters else OwnerKind.SERVICE
    match form_of(before.split(".") if before else [], clusters=clusters):
        case OfService(namespace, service):
            return Named(name, Owner(kind, namespace, service))
        case OfHost(namespace, service, host):
            return Named(name, Owner(kind, namespace, service), host)
        case OfPort(namespace, service, port, protocol):
            return Named(name, Owner(kind, namespace, service), f"{port}.{protocol}", kept=False)
        case Zonal(namespace, service, labels):
            return Named(name, Owner(kind, namespace, service), ".".join((*labels, "_zone")), kept=False)
        case OfNamespace(namespace, "svc"):
            return Named(name, Owner(OwnerKind.NAMESPACE, namespace, ""))
        case OfPod(namespace, dashed) if settings.pods == "verified":
            address = dashed.replace("-", ".") if dashed.count("-") == 3 else dashed.replace("-", ":")
            return Named(name, Owner(OwnerKind.POD, namespace, address))
    return None


def whose_is(text: str, settings: Settings) -> Named:
    """As `named`. Raises ValueError for a name that belongs to nobody."""
    found = named(text, settings)
    if found is None:
        raise ValueError(f"{text[:255]!r} belongs to no Service, namespace or pod of the zones that are served")
    return found
