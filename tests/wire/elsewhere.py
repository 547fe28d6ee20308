"""A DNS server for tests on loopback, over UDP and TCP: it replies as the test says, or not at all.

def reply(query: dns.message.Message, tcp: bool) -> Reply:
    return answer(query, "A 192.0.2.7")

with Elsewhere(reply) as server:
    Upstream([server.address])
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
from headwater.settings.address import Address

if TYPE_CHECKING:
    from types import TracebackType

Reply = dns.message.Message | bytes | Sequence[dns.message.Message | bytes] | None
"""A message, raw bytes, several of these one after the other, or silence."""


def answer(query: dns.message.Message, *records: str, rcode: str = "NOERROR", flags: int = 0) -> dns.message.Message:
    """Return a reply with these records, "[OWNER] TYPE DATA"; the default
    owner, or "@", is the qname.
    """
    reply = dns.message.make_response(query)
    reply.set_rcode(dns.rcode.from_text(rcode))
    reply.flags |= flags
    name = query.question[0].name
    for record in records:
        first, _, rest = record.partition(" ")
        owner, rest = (name.to_text(), record) if first.isupper() or first == "@" else (first, rest)
        qtype, data = rest.removeprefix("@ ").split(" ", 1)
        reply.answer.append(dns.rrset.from_text(owner, 300, "IN", qtype, data))
    return reply


class Elsewhere:
    """The server. `reply` is called in a new thread for every query, and may wait."""

    def __init__(self, reply: Callable[[dns.message.Message, bool], Reply]) -> None:
        self._reply = reply
        self.asked: list[tuple[str, str, bool]] = []
        """(name, type, whether over TCP) of every query."""

    def __enter__(self) -> Self:
        self._udp, self._tcp = both_sockets()
        self.address = Address(host="127.0.0.1", port=self._udp.getsockname()[1])
        self._closing = False
        self._threads = [threading.Thread(target=serve, daemon=True) for serve in (self._serve_udp, self._serve_tcp)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        for end in (self._udp, self._tcp):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits in it
        # Only then: the next socket gets the descriptor, and a thread would take what is for it.
        for thread in self._threads:
            thread.join()
        for end in (self._udp, self._tcp):
            end.close()

    def _say(self, wire: bytes, tcp: bool, send: Callable[[bytes], object]) -> None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        self.asked.append((question.name.to_text(), question.to_text().split()[-1], tcp))
        reply = self._reply(query, tcp)
        for item in () if reply is None else (reply,) if isinstance(reply, bytes | dns.message.Message) else reply:
            with contextlib.suppress(OSError):
                send(item if isinstance(item, bytes) else item.to_wire(max_size=65535))

    def _serve_udp(self) -> None:
        with contextlib.suppress(OSError):
            while not self._closing:
                wire, client = self._udp.recvfrom(4096)
                if wire:
                    send = lambda data, client=client: self._udp.sendto(data, client)  # noqa: E731
                    threading.Thread(target=self._say, args=(wire, False, send), daemon=True).start()

    def _serve_tcp(self) -> None:
        with contextlib.suppress(OSError):
            while not self._closing:
                connection, _ = self._tcp.accept()
                threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as stream:
            while len(size := stream.read(2)) == 2:
                wire = stream.read(int.from_bytes(size, "big"))
                self._say(wire, True, lambda data: connection.sendall(len(data).to_bytes(2, "big") + data))


def both_sockets() -> tuple[socket.socket, socket.socket]:
    """Return UDP and TCP sockets at one port of 127.0.0.1, which has to be free for both."""
    while True:
        udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
        udp.bind(("127.0.0.1", 0))
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
            continue
        tcp.listen()
        return udp, tcp
