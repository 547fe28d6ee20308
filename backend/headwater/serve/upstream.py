"""Look-ups of names outside the zones at other servers, beside other queries.

dnspython asks (also over TCP after a truncated reply). This module bounds it, and passes a server's
records on unchanged. dnspython's import costs 10 MiB, and waits for the first such name.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from headwater.settings.address import Address
from headwater.wire.rdata import record
from headwater.wire.types import Rcode

if TYPE_CHECKING:
    import dns.message

_log = logging.getLogger(__name__)

#: In seconds. CoreDNS's `grpc` gives up after 5 (plugin/grpc/grpc.go: defaultTimeout).
DEADLINE: Final = 3.0
_ONE_TRY: Final = 1.0
#: Names that are asked for at the same time; the reply to any further one has no records of them.
MAX_LOOKUPS: Final = 200
#: The same for the Services of one namespace, so that it cannot keep others waiting.
MAX_OF_TENANT: Final = 40
#: Seconds before a name without an answer is asked for again, by one query at a time.
BREAK: Final = 3.0
#: The number of such names that are remembered.
_MAX_SLOW: Final = 1000
#: Any other rcode means that the server does not know.
_KNOWS: Final = frozenset((Rcode.NOERROR, Rcode.NXDOMAIN))
_RESOLV_CONF: Final = "/etc/resolv.conf"


class Upstream:
    """The other servers: those given, in their order, or the system's.

    Belongs to one event loop.
    """

    def __init__(self, servers: Sequence[Address]) -> None:
        self._servers = tuple(servers)
        self._under_way: dict[tuple[bytes, int], asyncio.Task[list[bytes]]] = {}
        self._of_tenant: Counter[bytes] = Counter()
        self._slow: dict[bytes, float] = {}  # by target: when it may be asked for again
        self._system: tuple[Address, ...] = ()
        self._version = -1
        self._complained = False
        self.counts = {"answer": 0, "negative": 0, "failed": 0, "refused": 0, "refused_tenant": 0, "slow": 0}
        """Lookups by result."""

    async def lookup(self, target: bytes, qtype: int, tenant: bytes = b"") -> list[bytes]:
        """The answer section for a name (lower-cased, wire format): whole records, uncompressed.

        `tenant` is the namespace whose Service leads there. Empty when there are none, when no
        server answers before the deadline or did a moment ago, or when too many lookups are under
        way. Raises nothing.
        """
        key = (target, qtype)
        task = self._under_way.get(key)
        if task is None:
            refusal = self._refusal(target, tenant)
            if refusal:
                self.counts[refusal] += 1
                return []
            task = self._under_way[key] = asyncio.create_task(self._ask(target, qtype))
            self._of_tenant[tenant] += 1
            task.add_done_callback(lambda _: self._done(key, tenant))
        # The asking query may go away; others still wait for the result.
        return await asyncio.shield(task)

    def _refusal(self, target: bytes, tenant: bytes) -> str:
        """The reason, as it is counted, why a name is not asked for now; "" when it is."""
        if len(self._under_way) >= MAX_LOOKUPS:
            return "refused"
        if self._of_tenant[tenant] >= MAX_OF_TENANT:
            return "refused_tenant"
        again = self._slow.get(target)
        if again is not None:
            now = asyncio.get_running_loop().time()
            if now < again:
                return "slow"
            self._slow[target] = now + DEADLINE + BREAK  # this one finds out, for all others
        return ""

    def _done(self, key: tuple[bytes, int], tenant: bytes) -> None:
        self._under_way.pop(key, None)
        self._of_tenant[tenant] -= 1
        if not self._of_tenant[tenant]:
            del self._of_tenant[tenant]

    def _remember(self, target: bytes, began: float) -> None:
        """Count a failure.

        After a server that did not answer, the name is not asked for again at once.
        """
        now = asyncio.get_running_loop().time()
        self._slow.pop(target, None)
        if now - began >= _ONE_TRY:
            self._slow[target] = now + BREAK
            if len(self._slow) > _MAX_SLOW:
                del self._slow[next(iter(self._slow))]

    async def _ask(self, target: bytes, qtype: int) -> list[bytes]:
        began = asyncio.get_running_loop().time()
        try:
            response = await asyncio.wait_for(self._response(target, qtype), DEADLINE + 0.5)
        except Exception as error:  # noqa: BLE001 (the reply goes without these records, whatever it was)
            self.counts["failed"] += 1
            self._remember(target, began)
            if not self._complained:
                self._complained = True
                _log.warning("upstream: %s (further failures are only counted)", error or type(error).__name__)
            return []
        self._slow.pop(target, None)
        records = _records(response)
        if any(rtype == qtype for rtype, _ in records):
            self.counts["answer"] += 1
        else:
            self.counts["failed" if int(response.rcode()) not in _KNOWS else "negative"] += 1
        return [item for _, item in records]

    async def _response(self, target: bytes, qtype: int) -> dns.message.Message:
        """The answer of the first server that knows, else the last one's.

        Raises when none answers.
        """
        modules = _imported[0] if _imported else await asyncio.to_thread(_import)
        servers = self._servers_now(modules)
        query = modules.message.make_query(modules.name.from_wire(target, 0)[0], modules.rdatatype.RdataType(qtype))
        loop = asyncio.get_running_loop()
        give_up = loop.time() + DEADLINE
        response: dns.message.Message | None = None
        failure: Exception = TimeoutError(f"no answer within {DEADLINE:.0f} s")
        # Twice round: a datagram may get lost.
        for server in (*servers, *servers):
            left = give_up - loop.time()
            if left <= 0:
                break
            try:
                response, _ = await modules.asyncquery.udp_with_fallback(
                    query, server.host, timeout=min(_ONE_TRY, left), port=server.port, ignore_errors=True
                )
            except (modules.exception.DNSException, OSError, EOFError) as error:
                failure = error
                continue
            if int(response.rcode()) in _KNOWS:
                return response
        if response is None:
            raise failure
        return response

    def _servers_now(self, modules: Any) -> tuple[Address, ...]:
        """The given servers, or the system's, as its configuration is now."""
        if self._servers:
            return self._servers
        version = _version_of(_RESOLV_CONF)
        if version != self._version:
            self._version = version
            found = modules.resolver.Resolver()
            self._system = tuple(Address(host=str(item), port=found.port) for item in found.nameservers)
        return self._system


class _Modules:
    """dnspython's modules, which only the type checker has imported."""

    def __init__(self) -> None:
        import dns.asyncquery
        import dns.exception
        import dns.message
        import dns.name
        import dns.rdatatype
        import dns.resolver

        self.asyncquery = dns.asyncquery
        self.exception = dns.exception
        self.message = dns.message
        self.name = dns.name
        self.rdatatype = dns.rdatatype
        self.resolver = dns.resolver


_imported: list[_Modules] = []


def _import() -> _Modules:
    if not _imported:
        _imported.append(_Modules())
    return _imported[0]


def _version_of(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116
    except OSError:
        return 0


def _records(response: dns.message.Message) -> list[tuple[int, bytes]]:
    """(type, record) of the answer section of a response."""
    found = []
    for rrset in response.answer:
        owner = rrset.name.to_wire()
        for item in rrset:
            rdata = item.to_wire()
            assert owner is not None
            assert rdata is not None
            found.append((int(rrset.rdtype), record(rrset.rdtype, rrset.ttl, rdata, owner, rrset.rdclass)))
    return found
