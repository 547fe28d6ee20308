"""An answer process, asked over gRPC as CoreDNS asks it. Imports grpc."""

from __future__ import annotations

import secrets
import time
from typing import Any

import grpc
import grpc.aio

from headwater.compare.asking import TRIES, Answer
from headwater.compare.messages import Query, accepted
from headwater.serve.service import QUERY, NotAPacket, pack, unpack
from headwater.settings.address import Address


class GrpcServer:
    """One answer process; belongs to one event loop."""

    def __init__(self, address: Address, timeout: float) -> None:
        self._channel = grpc.aio.insecure_channel(str(address))
        self._call: Any = self._channel.unary_unary(QUERY)
        self._timeout = timeout

    async def ask(self, query: Query) -> Answer:
        why = "no reply"
        for _ in range(TRIES):
            message = query.wire(secrets.randbelow(1 << 16))
            try:
                reply = unpack(await self._call(pack(message), timeout=self._timeout, wait_for_ready=True))
            except grpc.RpcError as error:
                why = _why(error, self._timeout)
                continue
            except NotAPacket:
                why = "a reply that is no coredns.dns.DnsPacket"
                continue
            if reply[:2] == message[:2] and accepted(query, reply):
                return Answer(reply, "", time.monotonic())
            why = "a reply to another question"
        return Answer(None, why, time.monotonic())

    async def close(self) -> None:
        await self._channel.close()


def _why(error: Any, timeout: float) -> str:
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no reply within {timeout:g} s"
    return f"{error.code().name}: {' '.join(str(error.details()).split())}"
