"""What a policy decided for a Service, and its effect on the records (docs/policy.md).

A decision is made once, when something of the Service changes, and stored. So it is known which
names it made, and nothing that only reads the store runs a policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from msgspec import Struct

from headwater.cluster.objects import Condition, EndpointSlice, Service
from headwater.records import aliases, weights
from headwater.records.options import PUBLISH, Options
from headwater.records.weights import Weights
from headwater.wire import names
from headwater.wire.names import BadName

if TYPE_CHECKING:
    from headwater.policy import api

#: RFC 2181 section 8.
_MAX_TTL: Final = 2**31 - 1
#: Endpoints that a decision names.
_MAX_ENDPOINTS: Final = 10_000
_MAX_NAME: Final = 253
_MAX_WHY: Final = 200

Near = Literal["prefer", "pin", "off"]


class Decided(Struct, frozen=True, array_like=True):
    """A `policy.api.Decision`, checked; or why there is none."""

    ttl: int | None = None
    publish: Literal["ready", "serving", "all"] | None = None
    endpoints: tuple[str, ...] | None = None
    weights: dict[str, int] | None = None
    priorities: dict[str, int] | None = None
    aliases: dict[str, list[str]] | None = None
    why: str = ""
    problem: str = ""
    """Why the default counts. All else is empty then."""
    passing: bool = False
    """Whether the problem may be gone the next time: the call was slow, or was not made."""
    near: Near | None = None

    def __str__(self) -> str:
        if self.problem:
            return f"default: {self.problem}"
        said = [] if self.ttl is None else [f"ttl {self.ttl}"]
        said += [] if self.publish is None else [f"publish {self.publish}"]
        said += [] if self.endpoints is None else [f"endpoints {_some(self.endpoints)}"]
        for what, numbers in (("weights", self.weights), ("priorities", self.priorities)):
            said += [] if numbers is None else [f"{what} {_some(f'{key}={value}' for key, value in numbers.items())}"]
        if self.aliases is not None:
            pairs = (f"{alias}={'|'.join(targets[:3])}" for alias, targets in self.aliases.items())
            said.append(f"aliases {_some(pairs)}")
        said += [] if self.near is None else [f"near {self.near}"]
        text = "; ".join(said) or "nothing"
        return f"{text} ({self.why})" if self.why else text


_DECODER: Final = msgspec.msgpack.Decoder(Decided)


def _some(words: Iterable[str]) -> str:
    found = list(words)
    return (", ".join(found[:3]) or "none") + (f" and {len(found) - 3:,} more" if len(found) > 3 else "")


def pack(decided: Decided) -> bytes:
    return msgspec.msgpack.encode(decided)


def unpack(data: bytes) -> Decided:
    """Raises msgspec.MsgspecError."""
    return _DECODER.decode(data)


def checked(found: Any) -> Decided:
    """A decision as a policy returned it. Raises ValueError, which says what is wrong with it."""
    try:
        decided = msgspec.convert(found, _Given)
    except (msgspec.MsgspecError, TypeError) as error:
        raise ValueError(f"its Decision does not fit: {str(error)[:_MAX_WHY]}") from None
    if decided.ttl is not None and not 0 <= decided.ttl <= _MAX_TTL:
        raise ValueError(f"a ttl is 0 to {_MAX_TTL}")
    if decided.endpoints is not None and len(decided.endpoints) > _MAX_ENDPOINTS:
        raise ValueError(f"more than {_MAX_ENDPOINTS:,} endpoints")
    for what, numbers in (("weights", decided.weights), ("priorities", decided.priorities)):
        if numbers is None:
            continue
        if len(numbers) > _MAX_ENDPOINTS or not all(0 <= value <= weights.MAX_NUMBER for value in numbers.values()):
            raise ValueError(f"{what} are up to {_MAX_ENDPOINTS:,} numbers from 0 to {weights.MAX_NUMBER}")
    others = decided.aliases
    if others is not None:
        if len(others) > aliases.MAX_ENTRIES or sum(map(len, others.values())) > _MAX_ENDPOINTS:
            raise ValueError(f"more than {aliases.MAX_ENTRIES} aliases")
        for alias in others:
            if not aliases.is_alias(alias):
                raise ValueError(f"{alias[:40]!r} is not an alias, a label of lower-case letters, digits and hyphens")
    every = [*(decided.endpoints or ()), *(decided.weights or ()), *(decided.priorities or ())]
    every += [target for targets in (others or {}).values() for target in targets]
    if any(len(name) > _MAX_NAME for name in every):
        raise ValueError(f"a name of an endpoint has up to {_MAX_NAME} characters")
    return Decided(
        decided.ttl,
        decided.publish,
        None if decided.endpoints is None else tuple(name.lower() for name in decided.endpoints),
        _lower(decided.weights),
        _lower(decided.priorities),
        None if others is None else {alias: [name.lower() for name in found] for alias, found in others.items()},
        " ".join(decided.why.split())[:_MAX_WHY],
        near=decided.near,
    )


class _Given(Struct):
    """The fields of a Decision, by name."""

    ttl: int | None = None
    publish: Literal["ready", "serving", "all"] | None = None
    endpoints: list[str] | None = None
    weights: dict[str, int] | None = None
    priorities: dict[str, int] | None = None
    aliases: dict[str, list[str]] | None = None
    near: Near | None = None
    why: str = ""


def _lower(numbers: Mapping[str, int] | None) -> dict[str, int] | None:
    return None if numbers is None else {name.lower(): value for name, value in numbers.items()}


def applied(options: Options, decided: Decided | None) -> Options:
    """A Service's options, with a policy's decision in the place of its annotations."""
    if decided is None or decided.problem:
        return options
    given = options.weights or Weights()
    if decided.weights is not None:
        given = replace(given, weights=decided.weights, from_pods=False)
    if decided.priorities is not None:
        given = replace(given, priorities=decided.priorities)
    return replace(
        options,
        ttl=options.ttl if decided.ttl is None else decided.ttl,
        conditions=options.conditions if decided.publish is None else PUBLISH[decided.publish],
        weights=None if given == Weights() else given,
        aliases=options.aliases if decided.aliases is None else decided.aliases,
        zone=decided.near or options.zone,
    )


def selected(slices: Sequence[EndpointSlice], decided: Decided | None) -> Sequence[EndpointSlice]:
    """The slices with the endpoints that a decision names, in its order."""
    if decided is None or decided.endpoints is None:
        return slices
    ranks = {name: rank for rank, name in reversed(list(enumerate(decided.endpoints)))}
    found: list[tuple[int, EndpointSlice]] = []
    for piece in slices:
        mine = []
        for item in piece.endpoints:
            own = name_of(item.hostname, item.addresses), item.pod.lower()
            known = [ranks[name] for name in own if name in ranks]
            if known:
                mine.append((min(known), item))
        mine.sort(key=lambda one: one[0])
        if mine:
            found.append((mine[0][0], msgspec.structs.replace(piece, endpoints=tuple(item for _, item in mine))))
    found.sort(key=lambda one: one[0])
    return [piece for _, piece in found]


def name_of(hostname: str, addresses: Sequence[str]) -> str:
    """An endpoint's name for policies: the hostname, else the dashed first address."""
    if hostname or not addresses:
        return hostname.lower()
    try:
        return names.dashed(addresses[0]).lower()
    except BadName:
        return ""


def question(service: Service, slices: Iterable[EndpointSlice]) -> tuple[api.Service, tuple[api.Endpoint, ...]]:
    """A policy's arguments."""
    from headwater.policy import api  # few have a policy, and each starts with what is imported here

    asked = api.Service(
        service.namespace,
        service.name,
        service.type,
        service.headless,
        service.cluster_ips,
        service.external_name,
        tuple(api.Port(port.name, port.protocol, port.number) for port in service.ports),
        dict(service.annotations),
        service.distribution,
    )
    endpoints = tuple(
        api.Endpoint(
            name_of(item.hostname, item.addresses),
            item.addresses,
            bool(item.conditions & Condition.READY),
            bool(item.conditions & Condition.SERVING),
            bool(item.conditions & Condition.TERMINATING),
            item.pod,
            item.zone,
            item.node,
        )
        for piece in slices
        for item in piece.endpoints
    )
    return asked, endpoints
