"""Measure what each step of a query costs the answer process, in the native transport's layers.

    python -m bench.profile [--queries 20000] [--rounds 5]

The same queries (for a name with one address, as grpc-go sends them) go through the layers in this
process, with 1, 10 and 100 of them per read. A layer's own share is what it adds to the layers
below it. Only the first step uses sockets:

    read and write       asyncio: a read of requests, a write of replies, the loop's turn between
    frames in            `http2`: bytes to requests with known headers
    snapshot             a read transaction of the store, begun and ended
    look-up              the name in the store
    question and reply   the resolver: find the question; join id, flags, OPT and stored bytes
    clock and counters   `queries`: the time of each query
    packets              `grpc`: the time limit, and the packets of question and reply
    frames out           headers, message and trailers of a reply; one join for each write
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import socket
import statistics
from collections.abc import Callable, Iterator, Sequence
from time import process_time
from typing import Any, Final, NoReturn, cast

from headwater.answer.resolver import Resolver
from headwater.serve.grpc import Calls, frame, route
from headwater.serve.http2 import PREFACE, Connection
from headwater.serve.http2 import frame as h2_frame
from headwater.serve.queries import Queries
from headwater.serve.service import QUERY, pack
from headwater.serve.upstream import Upstream
from headwater.settings.settings import Settings
from headwater.store.environment import Reader
from hpack import Encoder

from bench import resolver
from bench.report import environment, spread, table

BATCHES: Final = (1, 10, 100)
#: The number of names in the store.
_NAMES: Final = 10_000
#: Bytes of the length of such a reply.
_REPLY: Final = bytes(80)

Batch = Sequence[bytes]
"""Queries that are in one read."""


class Steps:
    """The layers, each with those below it: microseconds per query
    for one pass over the batches.
    """

    def __init__(self, reader: Reader, batches: Sequence[Batch]) -> None:
        self._reader = reader
        self._resolver = Resolver(reader, Settings())
        self._queries = Queries(reader, self._resolver, Upstream(()))
        self._batches = batches
        self._wire = list(_as_grpc_go_writes(batches))
        self._count = sum(map(len, batches))

    def own(self) -> dict[str, float]:
        """Return what each step adds."""
        frames_in = self._frames(_discard)
        both_frames = self._frames(_reply)
        whole = self._frames(Calls(self._queries).answer)
        snapshot, found = self._snapshots(), self._look_ups()
        answered, counted = self._answers(), self._queries_answered()
        return {
            "read and write": asyncio.run(_echo(self._wire)) / self._count * 1e6,
            "frames in": frames_in,
            "snapshot": snapshot,
            "look-up": found - snapshot,
            "question and reply": answered - found,
            "clock and counters": counted - answered,
            "packets": whole - both_frames - counted,
            "frames out": both_frames - frames_in,
        }

    def _timed(self, work: Callable[[], None]) -> float:
        began = process_time()
        work()
        return (process_time() - began) / self._count * 1e6

    def _frames(self, answer: Callable[[Connection[Any]], object]) -> float:
        connection: Connection[Any] = Connection(route)

        def work() -> None:
            for part in self._wire:
                connection.receive(part)
                answer(connection)
                connection.take()
                connection._allowance = 1000  # no second passes here that would renew it
                connection._window = 65_535

        took = self._timed(work)
        assert not connection.closed
        return took

    def _snapshots(self) -> float:
        begin = self._reader.begin

        def work() -> None:
            for _ in self._batches:
                cast("Any", begin()).close()

        return self._timed(work)

    def _look_ups(self) -> float:
        keys = [[query[12 : query.index(0, 12) + 1].lower() for query in batch] for batch in self._batches]

        def work() -> None:
            for batch in keys:
                snapshot = cast("Any", self._reader.begin())
                for key in batch:
                    snapshot.get(key)
                snapshot.close()

        return self._timed(work)

    def _answers(self) -> float:
        answer = self._resolver.answer

        def work() -> None:
            for batch in self._batches:
                snapshot = cast("Any", self._reader.begin())
                for query in batch:
                    answer(query, snapshot)
                snapshot.close()

        return self._timed(work)

    def _queries_answered(self) -> float:
        def work() -> None:
            for batch in self._batches:
                together = self._queries.begin()
                for query in batch:
                    together.answer(query)
                together.end()

        return self._timed(work)


def _as_grpc_go_writes(batches: Sequence[Batch]) -> Iterator[bytes]:
    """Yield the bytes of each batch of calls over one connection."""
    encoder = Encoder()
    encoder.header_table_size = 0
    fields = (
        (":method", "POST"), (":scheme", "http"), (":path", QUERY), (":authority", "localhost"),
        ("content-type", "application/grpc"), ("user-agent", "grpc-go/1.84.0"), ("te", "trailers"),
    )  # fmt: skip
    stream = 1
    before = PREFACE + h2_frame(4, 0, 0) + h2_frame(4, 1, 0)
    for number, batch in enumerate(batches):
        parts = [before, h2_frame(8, 0, 0, (40_000).to_bytes(4, "big"))]
        before = b""
        for query in batch:
            head = encoder.encode((*fields, ("grpc-timeout", f"{4_999_900 + number % 90}u")))
            parts += [h2_frame(1, 4, stream, head), h2_frame(0, 1, stream, frame(pack(query)))]
            stream += 2
        yield b"".join(parts)


def _discard(connection: Connection[Any]) -> None:
    for stream, *_ in connection.requests():
        connection._due.pop(stream)


def _reply(connection: Connection[Any]) -> None:
    for stream, *_ in connection.requests():
        Calls.finish(connection, stream, _REPLY)


class _Echo(asyncio.BufferedProtocol):
    """Writes once for each read, as many bytes as the replies have, and does nothing else."""

    def __init__(self, sizes: Iterator[int], over: asyncio.Future[None]) -> None:
        self._buffer = memoryview(bytearray(1 << 16))
        self._reply = bytes(1 << 16)
        self._sizes = sizes
        self._over = over
        self._wanted = next(sizes)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self._over.done():
            self._over.set_result(None)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._wanted -= len(bytes(self._buffer[:nbytes]))
        if self._wanted <= 0:
            self._transport.write(self._reply[: nbytes // 2])
            self._wanted = next(self._sizes, 1)


def _write_and_read(connected: socket.socket, wire: Sequence[bytes]) -> NoReturn:
    """Write and read as the other end, until the process ends."""
    try:
        for part in wire:
            connected.sendall(part)
            connected.recv(1 << 16)
    finally:
        os._exit(0)


async def _echo(wire: Sequence[bytes]) -> float:
    """Return the CPU seconds of these reads and their writes. Another process is the other end."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        ours.close()
        _write_and_read(theirs, wire)
    theirs.close()
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    ours.setblocking(False)
    began = process_time()
    await loop.connect_accepted_socket(lambda: _Echo(iter([len(part) for part in wire]), over), ours)
    await over
    used = process_time() - began
    os.waitpid(child, 0)
    return used


def profile(queries: int, rounds: int) -> str:
    """Return a table: a row for each step, a column for each number of queries per read."""
    found: dict[int, list[dict[str, float]]] = {batch: [] for batch in BATCHES}
    with resolver.filled(_NAMES) as folder:
        reader = resolver.reader(folder)
        asked = resolver.queries(resolver.CASES[0], resolver.copies(_NAMES), random.Random(0))
        asked = (asked * (queries // len(asked) + 1))[:queries]
        steps = {batch: Steps(reader, [asked[at : at + batch] for at in range(0, queries, batch)]) for batch in BATCHES}
        for number in range(rounds):
            for batch in BATCHES if number % 2 == 0 else BATCHES[::-1]:
                found[batch].append(steps[batch].own())
        reader.close()
    rows = [(step, *(spread([seen[step] for seen in found[batch]], 2) for batch in BATCHES)) for step in found[1][0]]
    sums = (statistics.median(sum(seen.values()) for seen in found[batch]) for batch in BATCHES)
    rows.append(("all of it", *(f"{total:.2f}" for total in sums)))
    return table(("us per query, read at once:", *map(str, BATCHES)), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=20_000, help="in each pass (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="passes (default: %(default)s)")
    options = parser.parse_args()
    print(environment(), end="\n\n", flush=True)
    print(profile(options.queries, options.rounds))


if __name__ == "__main__":
    main()
