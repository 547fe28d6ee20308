"""Names outside the zones: asked of other servers, while other queries are answered.

dnspython does the asking (retries, TCP after a truncated reply); here it is
bounded. Its import costs 10 MiB and is left until the first such name comes.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from headwater.settings import Address

if TYPE_CHECKING:
    import dns.asyncresolver
    import dns.message

_log = logging.getLogger(__name__)

#: In seconds. CoreDNS's `grpc` gives up after 5 (plugin/grpc/grpc.go: defaultTimeout).
DEADLINE: Final = 3.0
_ONE_TRY: Final = 1.0
#: Names that are asked for at the same time; the reply to any further one goes without.
MAX_LOOKUPS: Final = 200
_RESOLV_CONF: Final = "/etc/resolv.conf"


class Upstream:
    """The other servers: those given, in their order, or the system's. Belongs to one event loop."""

    def __init__(self, servers: Sequence[Address]) -> None:
        self._servers = tuple(servers)
        self._under_way: dict[tuple[bytes, int], asyncio.Task[list[bytes]]] = {}
        self._resolver: dns.asyncresolver.Resolver | None = None
        self._version = 0
        self._complained = False
        self.counts = {"answer": 0, "negative": 0, "failed": 0, "refused": 0}
        """Lookups by what became of them."""

    async def lookup(self, target: bytes, qtype: int) -> list[bytes]:
        """The answer section for a name (lower-cased, wire format): whole records, uncompressed.

        Empty when there are none, when nobody answers before the deadline, or
        when too many lookups are under way. Never raises.
        """
        key = (target, qtype)
        task = self._under_way.get(key)
        if task is None:
            if len(self._under_way) >= MAX_LOOKUPS:
                self.counts["refused"] += 1
                return []
            task = self._under_way[key] = asyncio.create_task(self._ask(target, qtype))
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        # Who asks may go away; the others still want to know.
        return await asyncio.shield(task)

    async def _ask(self, target: bytes, qtype: int) -> list[bytes]:
        try:
            response = await asyncio.wait_for(self._response(target, qtype), DEADLINE + 0.5)
        except Exception as error:  # noqa: BLE001 (the reply goes without these records, whatever it was)
            self.counts["failed"] += 1
            if not self._complained:
                self._complained = True
                _log.warning("upstream: %s (further failures are only counted)", error or type(error).__name__)
            return []
        records = _records(response)
        self.counts["answer" if any(rtype == qtype for rtype, _ in records) else "negative"] += 1
        return [record for _, record in records]

    async def _response(self, target: bytes, qtype: int) -> dns.message.Message:
        modules = _imported[0] if _imported else await asyncio.to_thread(_import)
        resolver = self._configured(modules)
        name = modules.name.from_wire(target, 0)[0]
        try:
            found = await resolver.resolve(
                name, modules.rdatatype.RdataType(qtype), raise_on_no_answer=False, search=False, lifetime=DEADLINE
            )
        except modules.resolver.NXDOMAIN as error:
            return cast("dns.message.Message", error.response(name))
        return found.response

    def _configured(self, modules: Any) -> dns.asyncresolver.Resolver:
        """The resolver; made anew when the system's configuration has changed."""
        version = 0 if self._servers else _version_of(_RESOLV_CONF)
        if self._resolver is None or version != self._version:
            resolver = modules.asyncresolver.Resolver(configure=not self._servers)
            if self._servers:
                resolver.nameservers = [
                    modules.nameserver.Do53Nameserver(server.host, server.port) for server in self._servers
                ]
            resolver.timeout = _ONE_TRY
            self._resolver, self._version = resolver, version
        return self._resolver


class _Modules:
    """dnspython's, where the type checker and nobody else has imported them."""

    def __init__(self) -> None:
        import dns.asyncresolver
        import dns.name
        import dns.nameserver
        import dns.rdatatype
        import dns.resolver

        self.asyncresolver = dns.asyncresolver
        self.name = dns.name
        self.nameserver = dns.nameserver
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
            fixed = b"".join(
                (
                    int(rrset.rdtype).to_bytes(2, "big"),
                    int(rrset.rdclass).to_bytes(2, "big"),
                    rrset.ttl.to_bytes(4, "big"),
                    len(rdata).to_bytes(2, "big"),
                )
            )
            found.append((int(rrset.rdtype), owner + fixed + rdata))
    return found
