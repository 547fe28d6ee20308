"""A port of a pod, over the WebSocket that the API server makes of `pods/portforward`.

Each message is one frame: a channel's number and bytes. Channel 0 has the data, channel 1 the
kubelet's error; the first frame of each repeats the port (the kubelet's v4.channel.k8s.io). It is
for one exchange by a person's command: no thread, and every wait has an end.
"""

from __future__ import annotations

import http.client
import io
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

_DATA: Final = 0
_ERROR: Final = 1
#: Bytes of the port in a channel's first frame.
_PORT_SIZE: Final = 2
#: WebSocket opcodes (RFC 6455 section 5.2) of frames that carry data, and of the end.
_CARRY: Final = (0x1, 0x2)
_CLOSE: Final = 0x8
#: Seconds for the whole exchange, however slowly it goes on.
_WHOLE: Final = 30.0
#: The most characters of an error that somebody else wrote.
_MOST_TEXT: Final = 300


class WebSocket(Protocol):
    """What is used of one."""

    def recv_data_frame(self, control_frame: bool) -> tuple[int, Any]: ...
    def send_binary(self, payload: bytes) -> int: ...
    def close(self) -> None: ...


class Unreachable(ConnectionError):  # noqa: N818 (a state, found out)
    """The port cannot be talked to: the text says why."""


class PodPort(io.RawIOBase):
    """The connection, as http.client takes one."""

    def __init__(self, websocket: WebSocket, clock: Callable[[], float] = time.monotonic) -> None:
        self._websocket = websocket
        self._clock = clock
        self._end = clock() + _WHOLE
        self._begun: set[int] = set()
        self._rest = b""
        self._ended = False

    def sendall(self, data: bytes) -> None:
        """Send to the port. Raises OSError."""
        try:
            self._websocket.send_binary(bytes((_DATA,)) + data)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 (of websocket-client)
            raise Unreachable(f"the API server ended the connection: {error}") from None

    def makefile(self, mode: str, *_: object) -> io.BufferedReader:  # noqa: ARG002 (a socket's signature)
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises OSError; Unreachable with what the kubelet says."""
        while not self._rest and not self._ended:
            self._receive()
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _receive(self) -> None:
        if self._clock() > self._end:
            raise Unreachable(f"no whole reply within {_WHOLE:g} s")
        try:
            opcode, frame = self._websocket.recv_data_frame(True)
        except OSError:
            raise
        except Exception:  # noqa: BLE001 (of websocket-client: the connection has ended)
            self._ended = True
            return
        if opcode == _CLOSE:
            self._ended = True
        elif opcode in _CARRY and frame.data:
            channel, data = frame.data[0], bytes(frame.data[1:])
            if channel not in self._begun:
                self._begun.add(channel)
                data = data[_PORT_SIZE:]
            if channel == _ERROR and data:
                raise Unreachable(data.decode(errors="replace")[:_MOST_TEXT])
            if channel == _DATA:
                self._rest += data

    def close(self) -> None:
        """Nothing: http.client closes it before it has read the body. `end` ends the connection."""

    def end(self) -> None:
        self._websocket.close()


def get(port: PodPort, path: str, most: int) -> tuple[int, bytes]:
    """The status and body of one GET; of the body `most` bytes. Raises OSError, HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1")
    connection.sock = port
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        reply = connection.getresponse()
        return reply.status, reply.read(most)
    finally:
        port.end()
