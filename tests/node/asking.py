"""Ask a DNS server at a steady rate and say what became of every question.

    python -m tests.node.asking SERVER RATE [--ports N]     until its standard input ends

Every question comes from a port of its own, as libc's does. With --ports N there are N sockets that
live on, as a resolver's may. It does not wait for replies. Sources are the addresses that boot.sh
gives the node, and no port of one is used twice within hours: connection tracking remembers a port
for two minutes, and would send its next question to the pod of the one before, which may be gone.
The last line of output is JSON.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import select
import socket
import struct
import sys
import time
from typing import Final

#: Cluster names of all kinds; each has a certain rcode.
NAMES: Final = (
    ("kubernetes.default", 1, 0), ("web.default", 1, 0), ("web-0.web.default", 1, 0), ("_http._tcp.web.default", 33, 0),
    ("web.default", 28, 0), ("nothing.default", 1, 3),
)  # fmt: skip
TIMEOUT: Final = 2.0  # seconds after which a question is lost
FRESH_SOURCES: Final = [f"10.43.0.{number}" for number in range(10, 250)]
LONG_LIVED_SOURCES: Final = [f"10.43.0.{number}" for number in range(250, 254)]
#: 500 questions a second take 2.1 ports of each fresh source: runs one after the other share none.
PORTS_PER_SECOND: Final = 3
LOWEST_PORT: Final = 10000
PORTS: Final = 50000


def questions() -> list[tuple[bytes, int]]:
    """Return the question section for each of NAMES, and its rcode."""
    made = []
    for name, kind, rcode in NAMES:
        labels = f"{name}.svc.cluster.local".split(".")
        wire = b"".join(bytes([len(label)]) + label.encode() for label in labels) + b"\0"
        made.append((wire + struct.pack(">HH", kind, 1), rcode))
    return made


class Asker:
    """The sockets and what waits on them."""

    def __init__(self, server: str, ports: int) -> None:
        self._server = server
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._waiting: collections.OrderedDict[tuple[int, int], tuple[float, int]] = collections.OrderedDict()
        self._opened = 0
        self._lives_on = ports > 0
        self._first_port = int(time.time()) * PORTS_PER_SECOND
        self._fixed = [self._open() for _ in range(ports)]
        self._questions = questions()
        self.asked = 0
        self.seen: collections.Counter[str] = collections.Counter()
        self.bad: dict[int, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.started = time.monotonic()

    def _open(self) -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.setblocking(False)
        if self._lives_on:
            opened.bind((LONG_LIVED_SOURCES[self._opened % len(LONG_LIVED_SOURCES)], 0))
        else:
            used = self._first_port + self._opened // len(FRESH_SOURCES)
            opened.bind((FRESH_SOURCES[self._opened % len(FRESH_SOURCES)], LOWEST_PORT + used % PORTS))
        opened.connect((self._server, 53))
        self._opened += 1
        self._poll.register(opened, select.EPOLLIN)
        self._sockets[opened.fileno()] = opened
        return opened

    def _done(self, number: int) -> None:
        if not self._fixed and number in self._sockets:
            self._poll.unregister(number)
            self._sockets.pop(number).close()

    def _note(self, sent: float, what: str) -> None:
        self.seen[what] += 1
        if what != "right":
            self.bad[int((sent - self.started) * 10)][what] += 1

    def ask(self) -> None:
        asked = self._fixed[self.asked % len(self._fixed)] if self._fixed else self._open()
        number, ident = asked.fileno(), self.asked & 0xFFFF
        question, rcode = self._questions[self.asked % len(self._questions)]
        try:
            asked.send(struct.pack(">6H", ident, 0x0100, 1, 0, 0, 0) + question)
            self._waiting[number, ident] = time.monotonic(), rcode
        except OSError as error:
            self._note(time.monotonic(), type(error).__name__)
            self._done(number)
        self.asked += 1

    def receive(self, wait: float) -> None:
        for number, _ in self._poll.poll(wait):
            asked = self._sockets.get(number)
            if asked is None:
                continue
            try:
                data = asked.recv(4096)
            except BlockingIOError:
                continue
            except OSError as error:  # an ICMP error belongs to the oldest question of this socket
                key = next((key for key in self._waiting if key[0] == number), None)
                if key is not None:
                    self._note(self._waiting.pop(key)[0], type(error).__name__)
                    self._done(number)
                continue
            found = self._waiting.pop((number, int.from_bytes(data[:2])), None)
            if found is not None:
                rcode = data[3] & 15
                self._note(
                    found[0],
                    "right" if rcode == found[1] else {2: "SERVFAIL", 3: "NXDOMAIN"}.get(rcode, f"rcode {rcode}"),
                )
                self._done(number)

    def give_up(self) -> None:
        """Count what was asked too long ago as lost."""
        now = time.monotonic()
        while self._waiting:
            key, (sent, _) = next(iter(self._waiting.items()))
            if now - sent < TIMEOUT:
                return
            del self._waiting[key]
            self._note(sent, "lost")
            self._done(key[0])

    @property
    def waits(self) -> bool:
        return bool(self._waiting)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server")
    parser.add_argument("rate", type=float)
    parser.add_argument("--ports", type=int, default=0)
    options = parser.parse_args()
    asker = Asker(options.server, options.ports)
    over = select.poll()
    over.register(sys.stdin, select.POLLIN | select.POLLHUP)
    going = True
    while going or asker.waits:
        if going and over.poll(0):
            going = False
        due = asker.started + asker.asked / options.rate
        while going and due <= time.monotonic():
            asker.ask()
            due = asker.started + asker.asked / options.rate
        asker.receive(max(0.0, min(0.01, due - time.monotonic())) if going else 0.01)
        asker.give_up()
    bad = [slot for slot, found in sorted(asker.bad.items()) if found]
    summary = {
        "asked": asker.asked,
        "seen": dict(asker.seen),
        "bad": [[slot / 10, dict(asker.bad[slot])] for slot in bad],
        "started": time.time() - (time.monotonic() - asker.started),
    }
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()
