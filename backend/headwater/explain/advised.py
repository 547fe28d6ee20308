"""Advice from the store: the Services of one namespace after another, as the store has them.

The store has no selectors and no StatefulSets. What follows from Services and slices alone is
found; who has the API server's StatefulSets adds what follows from those (`commands.advice`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from headwater.advice.finding import Advice, Finding, Looked, Rule, short
from headwater.advice.rules import advise
from headwater.advice.views import Context, ServiceView, World
from headwater.advice.written import Collected
from headwater.cluster.objects import EndpointSlice, Service, unpack
from headwater.explain.explanation import Cause
from headwater.settings.settings import Settings
from headwater.store.environment import Reader, Snapshot
from headwater.wire.types import SRV

#: What the store does not have.
NO_WORKLOADS: Final = (
    "StatefulSets and selectors are not watched here: which Service a StatefulSet names, whether its members start "
    "in parallel, and whose selectors match what, was not looked at."
)
#: Seconds of work of one part, beside the queries of an answer process.
_WORK: Final = 0.01
#: Findings of one namespace, and those after which a part ends: it has to fit into a message.
_EACH: Final = 20
_ENOUGH: Final = 30
#: Seconds of work after which the queries have their turn, and how long that is.
_BREATH: Final = 0.001
#: Bytes of one namespace's objects that a part reads at most: nobody's namespace keeps the queries
#: waiting.
_ROOM: Final = 4 << 20
#: The bytes that the smallest object counts for.
_LEAST: Final = 256


def advised_from(reader: Reader, settings: Settings, after: str = "") -> Advice:
    """The next part: the namespaces behind `after`, as many as a few milliseconds allow.

    For an answer process: the work is bounded, and pauses for the queries.
    """
    snapshot = reader.begin()
    if snapshot is None:
        return Advice(unknown=["Nothing is stored yet."])
    try:
        return _part(snapshot, Context.of(settings), after)
    finally:
        snapshot.close()


def _part(snapshot: Snapshot, context: Context, after: str) -> Advice:
    advice = Advice()
    breath = _Breath()
    began = time.monotonic()
    advice.say_unknown([NO_WORKLOADS])
    while (namespace := _following(snapshot, after)) is not None:
        after = namespace
        world = world_of(snapshot, namespace, advice.looked, _ROOM, breath)
        if world is None:
            advice.say_unknown(
                [(f"Namespace {short(namespace)} has more than an instance looks at beside its queries: "
                 "`headwater check --services` with --state-dir or --kubeconfig does.")]
            )  # fmt: skip
        else:
            advice.add(advise(world, context), _EACH)
        if time.monotonic() - began > _WORK or len(advice.findings) >= _ENOUGH:
            advice.next = namespace
            return advice
    return advice


def every_world(snapshot: Snapshot, looked: Looked) -> Iterator[World]:
    """Yield every namespace with Services, whole: for a process of its own."""
    after = ""
    while (namespace := _following(snapshot, after)) is not None:
        after = namespace
        world = world_of(snapshot, namespace, looked)
        assert world is not None  # without a limit
        yield world


#: What an explanation adds of one Service, where its own reason is another one.
_BESIDE: Final = frozenset(
    (Rule.SERVICE_NOT_HEADLESS, Rule.NOT_A_PORT_NAME, Rule.PORT_WITHOUT_NAME, Rule.TARGET_PORT, Rule.SAME_HOSTNAME,
     Rule.NOT_A_HOSTNAME, Rule.TTL)
)  # fmt: skip
#: Causes that say the same as a rule.
_SAID: Final = {
    Cause.NOT_HEADLESS: Rule.SERVICE_NOT_HEADLESS, Cause.PORT_HAS_NO_NAME: Rule.PORT_WITHOUT_NAME,
    Cause.PORTS_EMPTY: Rule.TARGET_PORT, Cause.HOST_LEFT_OUT: Rule.NOT_A_HOSTNAME,
}  # fmt: skip
#: The most that is added.
_FEW: Final = 3


def of_service(
    service: Service, slices: Iterable[EndpointSlice], cause: Cause, qtype: int, settings: Settings
) -> list[str]:
    """What an explanation adds about the Service of a name: what else will not work."""
    world = World(service.namespace, {service.name: ServiceView(service)}, None, {service.name: list(slices)})
    wanted = _BESIDE - {_SAID.get(cause)} - (set() if qtype == SRV else {Rule.PORT_WITHOUT_NAME})
    return _hints(advise(world, Context.of(settings)), wanted)


def of_sets(service: Mapping[str, Any], sets: Iterable[Mapping[str, Any]]) -> list[str]:
    """The same of the StatefulSets that name a Service, as they were looked up."""
    collected = Collected(controlled=False)
    collected.add({**service, "kind": "Service"})
    meta = service.get("metadata")
    named = meta.get("name") if isinstance(meta, Mapping) else None
    for item in sets:
        spec = item.get("spec")
        if isinstance(spec, Mapping) and spec.get("serviceName") == named:
            collected.add({**item, "kind": "StatefulSet"})
    wanted = {Rule.NOT_READY_IN_PARALLEL, Rule.OWN_ADDRESS_FIRST, Rule.SEED_IS_THE_SET, Rule.HOST_NETWORK}
    return _hints([one for world in collected.worlds() for one in advise(world, Context())], wanted)


def _hints(findings: Iterable[Finding], wanted: Collection[Rule | None]) -> list[str]:
    found = [f"{one.object}, {one.path}: {one.why}. Instead: {one.instead}." for one in findings if one.rule in wanted]
    return found[:_FEW]


class _Breath:
    """Lets other threads work, again and again."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._since > _BREATH:
            time.sleep(_BREATH)
            self._since = time.monotonic()


def world_of(
    snapshot: Snapshot,
    namespace: str,
    looked: Looked,
    room: int | None = None,
    breath: Callable[[], None] = lambda: None,
) -> World | None:
    """One namespace; None if it has more than `room` bytes."""
    world = World(namespace, slices={})
    assert world.slices is not None
    services = slices = 0
    for _, data in snapshot.scan("objects", f"services/{namespace}/".encode()):
        service: Service = unpack("services", data)
        world.services[service.name] = ServiceView(service)
        services += 1
        if room is not None and (room := room - max(_LEAST, len(data))) < 0:
            return None
        breath()
    for _, data in snapshot.scan("objects", f"endpointslices/{namespace}/".encode()):
        if room is not None and (room := room - max(_LEAST, len(data))) < 0:
            return None
        piece: EndpointSlice = unpack("endpointslices", data)
        slices += 1
        if piece.service:
            world.slices.setdefault(piece.service, []).append(piece)
        breath()
    looked.add(Looked(services, 0, slices))
    return world


def _following(snapshot: Snapshot, after: str) -> str | None:
    """The next namespace with a Service behind one; None at the end."""
    start = f"services/{after}0" if after else "services/"  # "0" follows "/"
    for key, _ in snapshot.scan("objects", b"services/", start.encode()):
        return key.decode().split("/", 2)[1]
    return None
