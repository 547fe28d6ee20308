"""Measure the transport alone with h2load: answers of one record over one HTTP/2 connection.

nghttpd sends the same bytes as a file, and shows what HTTP/2 costs in C. It listens on TCP only, so
all servers do so here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headwater.serve.grpc import frame
from headwater.serve.service import QUERY, pack
from headwater.settings.address import Address

from bench.report import spread, table
from bench.serving import cluster
from bench.serving.load import LoadError, Seen, alternating, h2load, metered
from bench.serving.questions import ENDPOINT, message
from bench.serving.servers import BACKEND, Backend, echo, headwater, packets, replies_of
from bench.serving.through import Figures
from tests.harness.plane import Running, free_port, wait_until

STREAMS: Final = (1, 10, 100)
_ASKED: Final = ENDPOINT.questions[0]
_WARM_UP: Final = 500  # queries

Found = dict[int, dict[str, Figures]]


@dataclass(frozen=True)
class Peer:
    """A server that answers a POST."""

    target: str
    pids: list[int]


def measure(folder: Path, rounds: int, seconds: float) -> Found:
    """Measure the peers in alternation, by the number of streams; a load takes about `seconds`."""
    body = folder / "packet"
    body.write_bytes(frame(pack(message(_ASKED))))
    found: Found = {}
    with _peers(folder) as peers:
        for streams in STREAMS:
            figures = found[streams] = {name: Figures() for name in peers}
            speed = {name: h2load(peer.target, body, streams, _WARM_UP).rate for name, peer in peers.items()}
            for turn in alternating(list(peers), rounds):
                for name in turn:
                    figures[name].add(_load(peers[name], body, streams, max(_WARM_UP, int(speed[name] * seconds))))
                    speed[name] = figures[name].rates[-1]
    return found


def _load(peer: Peer, body: Path, streams: int, queries: int) -> Seen:
    return metered({BACKEND: peer.pids}, lambda: h2load(peer.target, body, streams, queries))


def report(found: Mapping[int, Mapping[str, Figures]]) -> str:
    rows = [
        (f"streams {streams}: {name}", spread(one.cpu[BACKEND]), spread(one.rates, 0))
        for streams, figures in found.items()
        for name, one in figures.items()
    ]
    return table(("", "CPU, us per query", "queries/s"), rows)


@contextmanager
def _peers(folder: Path) -> Iterator[dict[str, Peer]]:
    """Yield the measured servers by name."""
    source = ("--manifests", cluster.manifests(folder / "cluster.json"))
    with ExitStack() as stack:
        started: dict[str, Backend] = {}
        for transport in ("native", "grpcio"):
            started[transport] = stack.enter_context(
                headwater(folder / transport, *source, transport=transport, listen=_tcp(), known=_ASKED)
            )
        (reply,) = replies_of(started["native"].addresses[0], [_ASKED])
        replies = packets([reply], folder / "reply")
        started["Go echo"] = stack.enter_context(echo(folder / "b-echo", replies, _ASKED, listen=_tcp()))
        peers = {name: Peer(backend.target, backend.pids()) for name, backend in started.items()}
        peers["nghttpd"] = stack.enter_context(_nghttpd(folder / "nghttpd", frame(pack(reply))))
        yield peers


def _tcp() -> Address:
    return Address(host="127.0.0.1", port=free_port())


@contextmanager
def _nghttpd(folder: Path, content: bytes) -> Iterator[Peer]:
    """Yield nghttpd, which serves this content at the method's path."""
    file = folder / QUERY.removeprefix("/")
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    port = free_port()
    with Running("nghttpd", ["nghttpd", "--no-tls", "-a", "127.0.0.1", "-d", folder, str(port)], folder / "log") as one:
        target = f"127.0.0.1:{port}"

        def answers() -> bool:
            one.require_running()
            return h2load(target, file, 1, 1).queries == 1

        wait_until(answers, 10.0, "nghttpd answers", ignoring=(LoadError,))
        yield Peer(target, [one.pid])
