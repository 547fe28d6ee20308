"""What was found, as data: for `headwater check --services`, for `/advice` and for the page.

docs/advice.md has the schema. Fields are only ever added.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

from msgspec import Struct, field

#: Characters of a value that a tenant wrote, in one sentence.
_SHOWN: Final = 80
#: Findings that one report names; the others are counted.
MOST: Final = 1_000
#: Findings of one namespace that are named: nobody's objects hide what is found of others'.
EACH: Final = 100
#: Sentences of one report about what was not looked at.
_MOST_UNKNOWN: Final = 50


class Rule(StrEnum):
    """The rules, the gravest first. docs/advice.md has a paragraph for each."""

    SERVICE_UNKNOWN = "service-unknown"
    SERVICE_NOT_NAMED = "service-not-named"
    SERVICE_NOT_HEADLESS = "service-not-headless"
    SERVICE_SELECTS_OTHERS = "service-selects-other-pods"
    SELECTOR_WITHOUT_PODS = "selector-without-pods"
    NO_SELECTOR = "no-selector"
    NOT_READY_IN_PARALLEL = "not-ready-in-parallel"
    OWN_ADDRESS_FIRST = "own-address-first"
    SEED_IS_THE_SET = "seed-is-the-set"
    REVERSE_NOT_SERVED = "reverse-not-served"
    TWO_SERVICES = "two-services-one-subdomain"
    NO_HOSTNAME = "subdomain-without-hostname"
    SAME_HOSTNAME = "one-hostname-several-pods"
    NOT_A_HOSTNAME = "hostname-not-a-label"
    NOT_A_PORT_NAME = "port-name-not-a-label"
    PORT_WITHOUT_NAME = "port-without-name"
    TARGET_PORT = "target-port-unknown"
    TTL = "ttl-below-cache"
    ANNOTATION = "annotation-not-read"
    EXTERNAL_ADDRESS = "external-name-is-an-address"
    HOST_NETWORK = "host-network-asks-elsewhere"


class Subject(Struct, frozen=True, order=True):
    """The object that a finding is about."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class Finding(Struct, frozen=True):
    """One thing that will not work. Its texts are bounded, and may have any character."""

    rule: Rule
    object: Subject
    path: str
    """The field as `kubectl explain` writes it, with its value."""
    why: str
    instead: str
    """What to write, or to do, instead."""


class Looked(Struct):
    """How many objects were looked at."""

    services: int = 0
    workloads: int = 0
    slices: int = 0

    def add(self, other: Looked) -> None:
        self.services += other.services
        self.workloads += other.workloads
        self.slices += other.slices


class Advice(Struct):
    """What was found, and what was not looked at."""

    findings: list[Finding] = field(default_factory=list)
    more: int = 0
    """Findings beyond those that are named."""
    looked: Looked = field(default_factory=Looked)
    unknown: list[str] = field(default_factory=list)
    """What was not looked at, and why."""
    next: str | None = None
    """Of a part of it: where the next part begins (`/advice?after=NEXT`); None at the end."""

    def add(self, findings: Sequence[Finding], each: int = EACH) -> None:
        """Take those of a namespace, as far as there is room, and at most `each` of them."""
        room = max(0, min(each, MOST - len(self.findings)))
        self.findings += findings[:room]
        self.more += len(findings[room:])

    def say_unknown(self, texts: Iterable[str]) -> None:
        for text in texts:
            if text not in self.unknown and len(self.unknown) < _MOST_UNKNOWN:
                self.unknown.append(text)

    def join(self, part: Advice) -> None:
        """Take another part of the same advice."""
        self.add(part.findings, MOST)
        self.more += part.more
        self.looked.add(part.looked)
        self.say_unknown(part.unknown)
        self.next = part.next


def few(findings: Iterable[Finding], most: int, each: int) -> list[Finding]:
    """The first of them, `most` in all, and at most `each` of one namespace."""
    found: list[Finding] = []
    counts: dict[str, int] = {}
    for one in findings:
        counts[one.object.namespace] = counts.get(one.object.namespace, 0) + 1
        if counts[one.object.namespace] <= each and len(found) < most:
            found.append(one)
    return found


def without(advice: Advice, rules: Sequence[str]) -> Advice:
    """The same without the findings of some rules."""
    kept = [one for one in advice.findings if one.rule not in rules]
    return Advice(kept, advice.more, advice.looked, advice.unknown, advice.next)


def short(value: object) -> str:
    """A value that somebody wrote, cut."""
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
