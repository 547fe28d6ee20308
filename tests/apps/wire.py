"""What DNS told whom: every question and reply on the bridge, as bytes and with their times.

    with Wire(network) as wire:
        mark = wire.mark()
        ...
        wire.exchanges(mark)

It sees UDP, by which all five systems ask. CoreDNS's log has what was asked over TCP.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype

from tests.apps.pods import DNS

if TYPE_CHECKING:
    from types import TracebackType

    from tests.apps.pods import Network

_ETH_P_ALL: Final = 3  # linux/if_ether.h: the kernel shows outgoing packets to nobody else
_ETH_P_IP: Final = 0x0800
_UDP: Final = 17
_PORT: Final = 53


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question of a pod, and its reply: empty if none came."""

    client: str
    """The pod's address."""
    name: str
    """In lower case, without the root's dot."""
    qtype: str
    edns: bool
    sent: float
    received: float
    """Monotonic seconds, as `sent`; 0 without a reply."""
    reply: bytes

    @property
    def rcode(self) -> str:
        """The reply's, or NODATA, or LOST without a reply."""
        if not self.reply:
            return "LOST"
        message = dns.message.from_wire(self.reply, ignore_trailing=True)
        rcode = dns.rcode.to_text(message.rcode())
        return "NODATA" if rcode == "NOERROR" and not message.answer else rcode


class Wire:
    """Captures DNS on the bridge of a network, in a thread."""

    def __init__(self, network: Network) -> None:
        # Link-level headers are cut off (packet(7), SOCK_DGRAM).
        self._socket = network.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.bind(("br0", _ETH_P_ALL))
        self._socket.settimeout(0.2)
        self._packets: list[tuple[float, bytes]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="wire", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                packet, (_, protocol, *_) = self._socket.recvfrom(65535)
            except TimeoutError:
                continue
            if protocol == _ETH_P_IP and len(packet) > 20 and packet[9] == _UDP:
                self._packets.append((time.monotonic(), packet))

    def mark(self) -> int:
        """Return a place in what was captured, for `exchanges`."""
        return len(self._packets)

    def exchanges(self, mark: int = 0) -> list[Exchange]:
        """Return what was asked since a mark, in that order."""
        found: list[Exchange] = []
        under_way: dict[tuple[str, int, bytes], int] = {}
        for moment, packet in self._packets[mark:]:
            header = (packet[0] & 0x0F) * 4
            source, target = (str(ipaddress.IPv4Address(packet[at : at + 4])) for at in (12, 16))
            from_port, to_port = struct.unpack_from("!HH", packet, header)
            payload = packet[header + 8 :]
            if len(payload) < 12:
                continue
            if target == DNS and to_port == _PORT:
                key = (source, from_port, payload[:2])
                if key in under_way and not found[under_way[key]].reply:
                    continue  # sent again: the first one counts
                one = _question(source, payload, moment)
                if one is not None:
                    under_way[key] = len(found)
                    found.append(one)
            elif source == DNS and from_port == _PORT:
                at = under_way.get((target, to_port, payload[:2]))
                if at is not None and not found[at].reply:
                    one = found[at]
                    found[at] = Exchange(one.client, one.name, one.qtype, one.edns, one.sent, moment, payload)
        return found


def _question(client: str, payload: bytes, moment: float) -> Exchange | None:
    try:
        message = dns.message.from_wire(payload)
    except dns.exception.DNSException:
        return None
    (question,) = message.question
    name = question.name.to_text(omit_final_dot=True).lower()
    return Exchange(client, name, dns.rdatatype.to_text(question.rdtype), message.edns >= 0, moment, 0.0, b"")
