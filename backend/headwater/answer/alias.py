"""CNAMEs: the chain from an ExternalName Service to addresses (RFC 1034 section 3.6.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from headwater.store.environment import Snapshot
from headwater.store.node import other_of
from headwater.wire.rdata import OWNER, RECORD_HEAD, record, type_of_address
from headwater.wire.types import CNAME

#: CNAMEs in one zone (CoreDNS: maxCnameChainLength, plus the one that is found too long).
_MAX_CHAIN: Final = 11
#: CNAMEs over all zones on the way.
MAX_HOPS: Final = 64


@dataclass(frozen=True, slots=True)
class Pending:
    """A reply that lacks the records of a name outside our zones."""

    target: bytes
    """The name to ask for, lower-cased, in wire format."""
    qtype: int
    finish: Callable[[Sequence[bytes]], bytes]
    """The reply, given that name's records (whole, uncompressed), or none of them."""
    tenant: bytes = b""
    """The namespace whose Service leads there, as a label."""
    patience: float = 0.0
    """Seconds that the reply may wait for `target` to be in our own zones; no server is asked."""
    again: Callable[[Snapshot], bytes | Pending | None] | None = None
    """Asks once more, of a later snapshot, where the reply waits."""


@dataclass(slots=True)
class Chain:
    """The chain so far; `take` and `leave` walk it."""

    records: list[bytes] = field(default_factory=list)
    target: bytes = b""
    outside: bytes | None = None
    """The name where it goes on, outside our zones."""
    tenant: bytes = b""
    """The namespace (a label) of the last Service on the way."""
    _stands: int = 0
    _in_zone: int = 0
    _seen: set[bytes] = field(default_factory=set)

    def take(self, owner: bytes, node: Any) -> bool:
        """Follow the CNAME of a node. False for a loop, or a chain that is too long."""
        _, _, (alias,) = other_of(node, CNAME)
        target = bytes(alias[RECORD_HEAD:])
        if _is_below(target, owner) or self._in_zone == _MAX_CHAIN or target in self._seen:
            return False
        self._in_zone += 1
        self._seen.add(target)
        self.records.append(owner + bytes(alias[len(OWNER) :]) if self.records else bytes(alias))
        self.target = target
        return True

    def leave(self) -> None:
        """The target is in another zone: the chain that led there stays, whatever the result."""
        self._stands = len(self.records)
        self._in_zone = 0

    def arrive_at(self, records: Iterable[bytes]) -> None:
        """The target's own records, as they are stored."""
        found = [self.target + bytes(item[len(OWNER) :]) for item in records]
        if found:
            self.records += found
            self._stands = len(self.records)

    def arrive(self, qtype: int, addresses: Sequence[bytes], ttl: int) -> None:
        """The target is a pod's name, with these addresses."""
        self.arrive_at(record(qtype, ttl, item) for item in addresses if type_of_address(item) == qtype)

    def settled(self) -> Chain:
        """The chain without the part that led to no address."""
        del self.records[self._stands :]
        return self


def _is_below(name: bytes, other: bytes) -> bool:
    """Whether it is that name, or one below it."""
    at = 0
    while len(name) - at > len(other):
        at += 1 + name[at]
    return name[at:] == other
