"""The true answer for every name at every moment, by rules that are not the compiler's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from headwater.cluster.objects import Condition, EndpointSlice, Resource, Service, ServiceImport
from headwater.wire.names import name as to_wire

from tests.simulation.api import Api, Held, Part

ZONE: Final = "cluster.local"
CLUSTERSET: Final = "clusterset.local"
_A: Final = 1
_PTR: Final = 12
#: Hostnames that endpoints may have.
HOSTNAMES: Final = ("h1", "h2")

Answer = frozenset[bytes] | str
"""The rdata of an answer, or the rcode's name if it has none."""
NXDOMAIN: Final = "NXDOMAIN"
NODATA: Final = "NODATA"


@dataclass(frozen=True, slots=True)
class Question:
    """A name and a type, and the query for it."""

    text: str
    query: bytes


def _question(name: str, qtype: int = _A) -> Question:
    header = b"\0\7\0\0\0\1\0\0\0\0\0\0"
    kind = "PTR" if qtype == _PTR else "A"
    return Question(f"{name} {kind}", header + to_wire(name) + qtype.to_bytes(2, "big") + b"\0\1")


def _reverse(address: str) -> str:
    return ".".join(reversed(address.split("."))) + ".in-addr.arpa"


def _packed(address: str) -> bytes:
    return bytes(map(int, address.split(".")))


@dataclass(frozen=True, slots=True)
class Owner:
    """An owner of names that change together: a Service, a ServiceImport, or an address of pods."""

    kind: str
    namespace: str
    name: str
    addresses: tuple[str, ...] = ()
    """Addresses that only its endpoints have."""
    own: str = ""
    """The address that only the owner itself has."""

    def parts(self) -> tuple[tuple[Resource, Part], ...]:
        """Return the parts that decide its answers, each with its resource."""
        here: tuple[Resource, Part] = ("namespaces", ("namespaces", "", self.namespace))
        if self.kind == "pod":
            return here, ("pods", ("pods", self.namespace, self.name))
        if self.kind == "service":
            return (
                here,
                ("services", ("services", self.namespace, self.name)),
                ("endpointslices", ("slices", self.namespace, self.name)),
            )
        return (
            here,
            ("serviceimports", ("serviceimports", self.namespace, self.name)),
            ("endpointslices", ("slices", self.namespace, f"/{self.name}")),
        )

    def questions(self) -> list[Question]:
        if self.kind == "pod":
            return [_question(f"{self.name.replace('.', '-')}.{self.namespace}.pod.{ZONE}")]
        zone = ZONE if self.kind == "service" else CLUSTERSET
        mine = f"{self.name}.{self.namespace}.svc.{zone}"
        if self.kind == "import":
            return [_question(mine)]
        return [
            _question(mine),
            *(_question(f"{hostname}.{mine}") for hostname in HOSTNAMES),
            _question(_reverse(self.own), _PTR),
            *(_question(_reverse(address), _PTR) for address in self.addresses),
        ]

    def answers(self, parts: tuple[Any, ...]) -> tuple[Answer, ...]:
        """Return the answer to each of its questions, from the values of its parts."""
        if self.kind == "pod":
            exists, held = parts
            return (frozenset([_packed(self.name)]) if exists and held else NXDOMAIN,)
        exists, item, slices = parts
        if self.kind == "import":
            return (_set(self._own_answer(item, slices) if exists else ()),)
        here = exists and item is not None
        ready = _ready(slices)
        mine = f"{self.name}.{self.namespace}.svc.{ZONE}"
        own = item is not None and self.own in item.cluster_ips
        return (
            _set(self._own_answer(item, slices) if exists else ()),
            *(
                _set(_packed(address) for address, hostname in ready if here and hostname == wanted)
                for wanted in HOSTNAMES
            ),
            _set([to_wire(mine)] if own else ()),
            *(
                _set(to_wire(f"{hostname or address.replace('.', '-')}.{mine}") for address, hostname in ready
                     if address == wanted)
                for wanted in self.addresses
            ),
        )  # fmt: skip

    @staticmethod
    def _own_answer(item: Service | ServiceImport | None, slices: tuple[EndpointSlice, ...]) -> Iterator[bytes]:
        if item is None:
            return
        if item.headless:
            for address, _ in _ready(slices):
                yield _packed(address)
            return
        for address in item.cluster_ips if isinstance(item, Service) else item.addresses:
            yield _packed(address)


def _ready(slices: tuple[EndpointSlice, ...]) -> list[tuple[str, str]]:
    return [
        (address, endpoint.hostname)
        for piece in slices
        for endpoint in piece.endpoints
        if endpoint.conditions & Condition.READY
        for address in endpoint.addresses
    ]


def _set(items: Any) -> Answer:
    return frozenset(items) or NXDOMAIN


class Truth:
    """The part of the API server's history that an instance with these labels may see."""

    def __init__(self, api: Api, team: str) -> None:
        """`team` is the label of the Services and slices that are served; "" for all."""
        self._api = api
        self._team = team

    def _view(self, part: Part, value: Any) -> Any:
        match part[0]:
            case "slices":
                return tuple(held.object for held in value if self._selects(held))
            case "services":
                return value.object if value is not None and self._selects(value) else None
            case "serviceimports":
                return None if value is None else value.object
            case "pods":
                return any(map(self._selects, value))
            case _:
                return value is not None

    def _selects(self, held: Held) -> bool:
        return not self._team or held.team == self._team

    def values(self, part: Part, since: int) -> list[Any]:
        """Return the values of a part from this moment on to now, the oldest first."""
        past = self._api.history.get(part, ())
        found: list[Any] = []
        nothing = () if part[0] in ("slices", "pods") else None
        before = self._view(part, nothing)
        for moment, value in past:
            seen = self._view(part, value)
            if moment > since:
                if not found:
                    found.append(before)
                if seen != found[-1]:
                    found.append(seen)
            before = seen
        return found or [before]

    def possible(self, owner: Owner, floors: Mapping[Resource, int]) -> list[tuple[Answer, ...]]:
        """Return every set of answers that was true since the floors of the
        resources; the last is now's.
        """
        combinations: list[tuple[Any, ...]] = [()]
        for resource, part in owner.parts():
            values = self.values(part, floors[resource])
            combinations = [(*some, value) for some in combinations for value in values]
        return [owner.answers(some) for some in combinations]

    def now(self, owner: Owner) -> tuple[Answer, ...]:
        now = tuple(self.values(part, self._api.moment)[-1] for _, part in owner.parts())
        return owner.answers(now)


def read(reply: bytes) -> Answer:
    """Return a reply's rdata, or its rcode's name (NODATA for NOERROR without an answer)."""
    rcode, count = reply[3] & 15, int.from_bytes(reply[6:8], "big")
    if rcode:
        return {2: "SERVFAIL", 3: NXDOMAIN}.get(rcode, f"rcode {rcode}")
    if not count:
        return NODATA
    at = reply.index(0, 12) + 5
    found = set()
    for _ in range(count):
        size = int.from_bytes(reply[at + 10 : at + 12], "big")
        assert reply[at] >= 0xC0, "owner names are pointers"
        found.add(reply[at + 12 : at + 12 + size])
        at += 12 + size
    return frozenset(found)
