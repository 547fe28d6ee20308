"""A Service's own annotations (docs/answers.md).

service.alpha.kubernetes.io/tolerate-unready-endpoints "true": every endpoint has records
(specification 2.1)

Beyond the specification:

headwater.dev/ttl           seconds, for the records of the Service
headwater.dev/publish       ready | serving | all: which endpoints have records
headwater.dev/max-answers   how many members of a headless set one reply shows
headwater.dev/pod-names     "true": endpoints have their pod's name as well
headwater.dev/weights       by name, how often an endpoint is chosen; as in web-0=10,web-1=90
headwater.dev/priorities    by name, which endpoints come before others; as in web-1=10
headwater.dev/patience      how long a question for a name without an address may wait; as in 1s
headwater.dev/alias         other names for endpoints; as in primary=db-0
headwater.dev/zone          prefer | pin | off: answers for the client's topology zone (`near`)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from headwater.cluster.objects import Condition, Service
from headwater.records import aliases, weights
from headwater.records.aliases import Aliases
from headwater.records.weights import Weights

_T = TypeVar("_T")

#: (reason, namespace, name, detail) of an object that makes no record.
Report = Callable[[str, str, str, str], None]

#: RFC 2181 section 8.
_MAX_TTL: Final = 2**31 - 1
_MAX_ANSWERS: Final = 0xFFFF
_ZONE: Final = {name: name for name in ("prefer", "pin", "off")}
#: Which of its conditions an endpoint needs (`Options.conditions`).
PUBLISH: Final = {"ready": int(Condition.READY), "serving": int(Condition.SERVING), "all": 0}


@dataclass(frozen=True, slots=True)
class Options:
    """The options that shape the records of one Service."""

    ttl: int | None = None
    """Seconds; None for `--ttl`."""
    conditions: int = int(Condition.READY)
    """An endpoint with one of these has records; 0: every endpoint has."""
    max_answers: int = 0
    """0 for all."""
    pod_names: bool = False
    weights: Weights | None = None
    """None when endpoints have no weights and priorities of their own."""
    aliases: Aliases = field(default_factory=dict)
    """Other names of endpoints."""
    patience: int = 0
    """Milliseconds; 0: none."""
    stateful_sets: tuple[str, ...] = ()
    """StatefulSets whose pods are awaited, in lower case."""
    zone: str = ""
    """prefer, pin, off; "" when only spec.trafficDistribution says something."""


#: Milliseconds of `headwater.dev/patience`: CoreDNS's `grpc` gives up after 5 s.
MAX_PATIENCE: Final = 3_000
_MAX_PATIENCE_TEXT: Final = 1_024
_MAX_STATEFUL_SETS: Final = 4
_DURATION: Final = re.compile(r"([0-9]{1,5}(?:\.[0-9]{1,3})?)(ms|s)", re.ASCII)
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)

DEFAULTS: Final = Options()
_NO_WEIGHTS: Final = Weights()


def silent(reason: str, namespace: str, name: str, detail: str) -> None:
    """A Report for problems that are reported elsewhere."""


def options_of(service: Service, report: Report) -> Options:
    """A Service's options. A value that does not parse is reported, and counts as absent."""
    if not service.annotations:
        return DEFAULTS
    ttl, conditions, max_answers, pod_names = None, DEFAULTS.conditions, 0, False
    by_name: dict[str, dict[str, int]] = {}
    from_pods = False
    patience = 0
    stateful_sets: tuple[str, ...] = ()
    others: Aliases = {}
    zone = ""
    for name, value in service.annotations:
        try:
            match name.rpartition("/")[2]:
                case "tolerate-unready-endpoints":
                    conditions = 0 if value == "true" else conditions
                case "ttl":
                    ttl = _number(value, 0, _MAX_TTL)
                case "publish":
                    conditions = _one_of(value, PUBLISH)
                case "max-answers":
                    max_answers = _number(value, 1, _MAX_ANSWERS)
                case "pod-names":
                    pod_names = _one_of(value, {"true": True, "false": False})
                case "patience":
                    patience, stateful_sets = _patience(value)
                case "alias":
                    others, wrong = aliases.parse(value)
                    if wrong:
                        report("annotation", service.namespace, service.name, f"{name}: {wrong}")
                case "weights" | "priorities" as which:
                    numbers, pods, wrong = weights.parse(value)
                    from_pods |= pods and which == "weights"
                    by_name[which] = numbers
                    if wrong:
                        report("annotation", service.namespace, service.name, f"{name}: {wrong}")
                case "zone":
                    zone = _one_of(value, _ZONE)
        except ValueError as error:
            report("annotation", service.namespace, service.name, f"{name}: {error}")
    found = Weights(by_name.get("weights", {}), by_name.get("priorities", {}), from_pods)
    given = found if found != _NO_WEIGHTS else None
    return Options(ttl, conditions, max_answers, pod_names, given, others, patience, stateful_sets, zone)


def asks_pods(service: Service | None) -> bool:
    """Whether its owner wants the weights that its pods' annotations name."""
    if service is None or not service.annotations:
        return False
    found = options_of(service, silent).weights
    return found is not None and found.from_pods


def _number(value: str, low: int, high: int) -> int:
    # By its length first: int() takes minutes for millions of digits, and raises another text.
    if value.isascii() and value.isdigit() and len(value) <= len(str(high)) and low <= int(value) <= high:
        return int(value)
    raise ValueError(f"{value[:40]!r} is not a number from {low} to {high}")


def _patience(value: str) -> tuple[int, tuple[str, ...]]:
    """Milliseconds, and the StatefulSets whose pods are awaited."""
    text, *sets = (part.strip() for part in value[:_MAX_PATIENCE_TEXT].split(","))
    found = _DURATION.fullmatch(text)
    milliseconds = 0 if found is None else round(float(found[1]) * (1 if found[2] == "ms" else 1000))
    if not 1 <= milliseconds <= MAX_PATIENCE or len(value) > _MAX_PATIENCE_TEXT:
        raise ValueError(f"{value[:40]!r} is not a time up to {MAX_PATIENCE // 1000}s, as in 1s or 500ms")
    if len(sets) > _MAX_STATEFUL_SETS or not all(_NAME.fullmatch(name) for name in sets):
        raise ValueError(f"{value[:40]!r} names no StatefulSets, up to {_MAX_STATEFUL_SETS} of them")
    return milliseconds, tuple(sets)


def _one_of(value: str, known: Mapping[str, _T]) -> _T:
    try:
        return known[value]
    except KeyError:
        raise ValueError(f"{value[:40]!r} is not one of {', '.join(known)}") from None
