"""The reason of a negative answer in a few words, for an extended error (RFC 8914).

    Reasons(settings).say(question, exists, snapshot) -> "prod/db: 3 endpoints, none ready"

It is made when a query is answered, from the objects of the name's own Service. So it is shorter
than what `explain` says and knows less: it does not compile the Service, looks at no other one, and
gives up on a Service of more than `ROOM` bytes. What it says, `explain` says too
(tests/unit/test_extended.py), or it says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from headwater.answer.extended import MAX_TEXT
from headwater.answer.find import address_of_label, find, labels_of
from headwater.answer.zones import Zone, Zones
from headwater.cluster.objects import Condition, EndpointSlice, Service, ServiceImport
from headwater.explain.explanation import Cause
from headwater.explain.form import OfHost, OfPod, OfPort, OfService, form_of
from headwater.explain.held import Held, TooMuch
from headwater.records.options import Options, options_of, silent
from headwater.settings.settings import Settings
from headwater.store.environment import Snapshot
from headwater.store.node import HEAD
from headwater.wire import names
from headwater.wire.question import Question
from headwater.wire.types import AAAA, MNEMONICS, A

#: Bytes of a Service and its slices that are looked at, as the store keeps them: some 900 pods.
#: docs/limits.md has the cost.
ROOM: Final = 64 << 10
#: The letters of an object's name. What has others names no object, and is not repeated.
_LETTERS: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")
#: No endpoint has the name: `explain` looks at other Services too, and at what was left out.
_NOT_CALLED: Final = (Cause.HOST_UNKNOWN, Cause.HOST_ELSEWHERE, Cause.HOST_LEFT_OUT)
_Owned = OfService | OfHost | OfPort


class Reason(NamedTuple):
    """Why there is nothing."""

    causes: frozenset[Cause]
    """What `explain` calls it: one of these, as it may know a closer one. Empty for any."""
    text: str


def _reason(text: str, *causes: Cause) -> Reason:
    return Reason(frozenset(causes), text)


class Reasons:
    """The reasons of an instance's negative answers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._zones = Zones(settings)

    def say(self, question: Question, exists: bool, snapshot: Snapshot) -> str:
        """The text, of at most `MAX_TEXT` bytes as a rule; "" for none.

        `exists`: the name is there, and has no record of the type (NODATA).
        """
        found = self.find(question, exists, snapshot)
        return "" if found is None else found.text

    def find(self, question: Question, exists: bool, snapshot: Snapshot) -> Reason | None:
        """Why the reply to a question is negative; None where nothing is to be said."""
        key = question.name.lower()
        zone = self._zones.of(key)
        if zone is None or zone.reverse:
            return None
        labels = [label[1:] for label in labels_of(key, zone.wire)]
        if not all(_LETTERS.issuperset(label) for label in labels):
            return None
        form = form_of([label.decode() for label in labels], clusters=zone.clusters)
        if not isinstance(form, OfService | OfHost | OfPort | OfPod):
            return None
        held = Held(snapshot, ROOM)
        if not self._knows(form.namespace, held):
            return None
        if isinstance(form, OfPod):
            return None if exists else self._pod(form)
        subject = f"{form.namespace}/{form.service}"
        try:
            found = self._of_service(form, question, exists, zone, held)
        except TooMuch:
            found = _reason("more endpoints than are looked at for an answer")
        if found is None:
            return None
        text = f"{subject}: {found.text}"
        # The client knows what it asked for: the reason is worth more than the name.
        return Reason(found.causes, text if len(text.encode()) <= MAX_TEXT else found.text)

    def _knows(self, namespace: str, held: Held) -> bool:
        served = self._settings.namespaces
        return (not served or namespace in served) and held.namespace(namespace)

    def _pod(self, form: OfPod) -> Reason | None:
        if self._settings.pods != "verified" or address_of_label(form.dashed.encode()) is None:
            return None
        return _reason(f"{form.namespace}: no running pod has the address {form.dashed}", Cause.POD_UNKNOWN)

    def _of_service(
        self, form: _Owned, question: Question, exists: bool, zone: Zone, held: Held
    ) -> Reason | None:  # fmt: skip
        service = (held.service_import if zone.clusters else held.service)(form.namespace, form.service)
        if service is None:
            if exists:
                return None
            kind = "ServiceImport" if zone.clusters else "Service"
            with_labels = " with the labels of --labels" if self._settings.labels and not zone.clusters else ""
            return _reason(
                f"no such {kind}{with_labels}", Cause.SERVICE_UNKNOWN, Cause.IMPORT_UNKNOWN, Cause.SERVICE_LABEL_MISSING
            )
        if isinstance(service, Service) and service.type == "ExternalName":
            return _external(form, question, exists)
        if isinstance(service, Service) and held.decided(service) is not None:
            return None  # a policy decided; `explain` tells what
        if exists:
            return _no_type(form, question, zone, held)
        slices = held.slices_of(form.namespace, form.service, imported=zone.clusters)
        match form:
            case OfHost(host=host) if not host.startswith("_"):
                return self._no_host(host.partition(".")[0], service, slices)
            case OfHost():
                return self._no_port("", service, slices)
            case OfPort(port=port, protocol=protocol):
                return self._no_port(f"_{port.removeprefix('_')}._{protocol.removeprefix('_')}", service, slices)
        return self._no_endpoints(service, slices)

    def _no_endpoints(self, service: Service | ServiceImport, slices: Sequence[EndpointSlice]) -> Reason | None:
        endpoints = [item for piece in slices for item in piece.endpoints]
        if not service.headless:
            ready = any(item.conditions & Condition.READY for item in endpoints)
            if self._settings.ignore_empty_service and not ready:
                return _reason("no endpoint is ready (--ignore-empty-service)", Cause.EMPTY_SERVICE)
            return _reason("no cluster IP", Cause.NO_CLUSTER_IP)
        if not slices:
            if isinstance(service, Service) and service.selectorless:
                return _reason("headless without a selector, no EndpointSlice", Cause.NO_SELECTOR)
            return _reason("headless, no EndpointSlice", Cause.NO_SLICES)
        if not endpoints:
            return _reason("headless, no endpoints", Cause.NO_ENDPOINTS)
        wanted, word = _wanted(service)
        if not wanted or any(item.conditions & wanted for item in endpoints):
            return None  # left out for other reasons, which only the compiler knows
        return _reason(f"{_count(endpoints)}, none {word}", Cause.NONE_READY)

    def _no_host(self, label: str, service: Service | ServiceImport, slices: Sequence[EndpointSlice]) -> Reason | None:
        endpoints = [item for piece in slices for item in piece.endpoints]
        named = [item for item in endpoints if label in _labels_of(item.hostname, item.addresses)]
        if named:
            wanted, word = _wanted(service)
            if not wanted or any(item.conditions & wanted or not item.addresses for item in named):
                return None
            if named[0].conditions & Condition.TERMINATING:
                return _reason(f"endpoint {label} shuts down", Cause.HOST_TERMINATING)
            return _reason(f"endpoint {label} is not {word}", Cause.HOST_NOT_READY)
        of_pod = next((item for item in endpoints if item.pod.lower() == label), None)
        if of_pod is not None:
            if self._settings.endpoint_pod_names or _options(service).pod_names:
                return None
            if of_pod.hostname:
                return _reason(f"pod {label} has another hostname", Cause.HOSTNAME_OTHER, Cause.HOST_LEFT_OUT)
            return _reason(f"pod {label} has no hostname", Cause.HOST_HAS_NO_HOSTNAME)
        if not service.headless:
            more = f", {_count(endpoints)}, none called {label}" if endpoints else ", no endpoints"
            return _reason(f"not headless{more}", *_NOT_CALLED, Cause.NOT_HEADLESS)
        return _reason(
            f"{_count(endpoints)}, none called {label}" if endpoints else "headless, no endpoints", *_NOT_CALLED
        )

    def _no_port(self, wanted: str, service: Service | ServiceImport, slices: Sequence[EndpointSlice]) -> Reason | None:
        """`wanted` as _PORT._PROTOCOL; "" for a name of a protocol only."""
        if service.headless and not any(piece.endpoints for piece in slices):
            return self._no_endpoints(service, slices)
        ports = [item for piece in slices for item in piece.ports] if service.headless else service.ports
        named = {f"_{item.name}._{item.protocol.lower()}" for item in ports if item.name}
        declared = {f"_{item.name}._{item.protocol.lower()}" for item in service.ports if item.name}
        if not named and not declared:
            return _reason("no port has a name", Cause.PORT_HAS_NO_NAME)
        if wanted in named:
            return self._no_endpoints(service, slices) if service.headless else None
        if service.headless and wanted in declared:
            return _reason(f"port {wanted} is in no EndpointSlice", Cause.PORTS_EMPTY)
        return _reason(f"no port {wanted}" if wanted else "no port of that protocol", Cause.PORT_UNKNOWN)


def _external(form: _Owned, question: Question, exists: bool) -> Reason | None:
    if not isinstance(form, OfService):
        return _reason("an ExternalName, no names below it", Cause.NOT_HEADLESS)
    if not exists:
        return _reason("an ExternalName without a name to lead to", Cause.EXTERNAL_ADDRESS)
    if question.qtype in (A, AAAA):
        return _reason(f"an ExternalName that leads to no {MNEMONICS[question.qtype]} record", Cause.EXTERNAL_DEAD)
    return _reason("an ExternalName without records of its own", Cause.OTHER_TYPE)


def _no_type(form: _Owned, question: Question, zone: Zone, held: Held) -> Reason | None:
    """The name is there: what it has instead of that type."""
    found = find(question.name.lower(), zone.wire, held.snapshot, clusters=zone.clusters)
    if found is None:
        return None
    _, _, _, n_a, n_aaaa = HEAD.unpack_from(found[0])
    what = f"{form.host} has " if isinstance(form, OfHost) else ""
    if not n_a and not n_aaaa:
        return _reason(f"{what}names below it only", Cause.BELOW_IT)
    if question.qtype in (A, AAAA):
        other = "IPv4" if n_a else "IPv6"
        return _reason(f"{what}no {MNEMONICS[question.qtype]} record, {other} only", Cause.OTHER_FAMILY)
    name = MNEMONICS.get(question.qtype, f"TYPE{question.qtype}")
    return _reason(f"{what}no {name} record", Cause.OTHER_TYPE, Cause.PORTS_EMPTY)


def _labels_of(hostname: str, addresses: Sequence[str]) -> set[str]:
    return {hostname.lower()} if hostname else {names.dashed(address).lower() for address in addresses}


def _options(service: Service | ServiceImport) -> Options:
    return options_of(service, silent) if isinstance(service, Service) else Options()


def _wanted(service: Service | ServiceImport) -> tuple[int, str]:
    """The condition that endpoints need, 0 for none; and its word."""
    conditions = _options(service).conditions
    return conditions, "serving" if conditions == Condition.SERVING else "ready"


def _count(endpoints: Sequence[object]) -> str:
    return f"{len(endpoints):,} endpoint{'' if len(endpoints) == 1 else 's'}"
