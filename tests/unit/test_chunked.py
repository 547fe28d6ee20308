"""Bodies in chunks (RFC 9112, section 7.1), however their bytes arrive."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import pytest
from headwater.cluster.api import ApiServer
from headwater.cluster.chunked import Malformed, pieces
from headwater.cluster.reflector import RequestFailed
from hypothesis import given
from hypothesis import strategies as st

KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: u, user: {{token: t}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""


def body_of(chunks: Sequence[bytes], extension: bytes = b"", trailer: bytes = b"") -> bytes:
    return b"".join(b"%x%b\r\n%b\r\n" % (len(some), extension, some) for some in chunks) + b"0\r\n" + trailer + b"\r\n"


def arriving(data: bytes, sizes: Sequence[int]) -> Callable[[], bytes]:
    """Give the bytes in parts of these sizes, the rest at once, and then nothing."""

    def parts() -> Iterator[bytes]:
        at = 0
        for size in sizes:
            if at < len(data):
                yield data[at : at + size]
                at += size
        if at < len(data):
            yield data[at:]

    some = parts()
    return lambda: next(some, b"")


CHUNKS = st.lists(st.binary(min_size=1, max_size=40), max_size=8)
SIZES = st.lists(st.integers(1, 30), max_size=30)
EXTENSIONS = st.sampled_from([b"", b";a=b", b" \t", b"; x"])
TRAILERS = st.sampled_from([b"", b"Expires: never\r\n", b"A: b\r\nC: d\r\n"])


@given(CHUNKS, SIZES, EXTENSIONS, TRAILERS)
def test_a_body_arrives_whole_in_any_parts(
    chunks: list[bytes], sizes: list[int], extension: bytes, trailer: bytes
) -> None:
    data = body_of(chunks, extension, trailer)
    assert b"".join(pieces(arriving(data, sizes))) == b"".join(chunks)


@given(CHUNKS, SIZES, st.integers(1, 400))
def test_a_body_that_is_cut_anywhere_is_no_body(chunks: list[bytes], sizes: list[int], less: int) -> None:
    data = body_of(chunks)
    with pytest.raises(Malformed):
        list(pieces(arriving(data[: max(0, len(data) - less)], sizes)))


@given(st.binary(max_size=200), SIZES)
def test_any_bytes_are_a_body_or_malformed(data: bytes, sizes: list[int]) -> None:
    try:
        found = b"".join(pieces(arriving(data, sizes)))
    except Malformed:
        return
    assert len(found) < len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"5\r\nabcdeXX0\r\n\r\n",  # longer than it says
        b"-1\r\n\r\n", b"+1\r\na\r\n0\r\n\r\n", b"0x1\r\na\r\n0\r\n\r\n", b"1_0\r\n\r\n", b"\r\n\r\n", b"g\r\n\r\n",
        b"1\na\n0\n\n",  # no CR
        b"fffffffff\r\n",
        b"1;" + b"x" * 5000,
        b"0\r\n" + b"A: b\r\n" * 2000 + b"\r\n",
        b"0\r\n\r\nHTTP/1.1 200 OK\r\n",  # another response
    ],
)  # fmt: skip
def test_what_is_no_chunk_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        list(pieces(arriving(data, ())))


def test_a_line_without_end_is_not_waited_for() -> None:
    taken = 0

    def read() -> bytes:
        nonlocal taken
        taken += 1000
        return b"1" * 1000 if taken < 1_000_000 else b""

    with pytest.raises(Malformed):
        list(pieces(read))
    assert taken < 10_000


class Scripted:
    """A server that sends these bytes, one item for each request; it counts the connections."""

    def __init__(self, responses: Sequence[bytes]) -> None:
        self.connections = 0
        self._responses = list(responses)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listening.close()

    def _run(self) -> None:
        while self._responses:
            connection, _ = self._listening.accept()
            self.connections += 1
            with connection:
                while self._responses and connection.recv(65536):
                    response = self._responses.pop(0)
                    connection.sendall(response)
                    if not response.endswith(b"\r\n0\r\n\r\n"):
                        break

    def client(self, folder: Path) -> ApiServer:
        file = folder / "kubeconfig"
        file.write_text(KUBECONFIG.format(port=self.port))
        return ApiServer(str(file), None, {})


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_pages_in_chunks_come_over_one_connection(tmp_path: Path) -> None:
    bodies = [[b'{"items":[', b"1" * 40_000, b"]}"], [b"x"], [b"y" * 100, b"z"]]
    with Scripted([HEAD + body_of(some) for some in bodies]) as server:
        client = server.client(tmp_path)
        assert [client.page("services", 500, "") for _ in bodies] == [b"".join(some) for some in bodies]
        client.close()
    assert server.connections == 1


@pytest.mark.parametrize("cut", [HEAD + b"5\r\nab", HEAD + b"2\r\nab\r\n", HEAD + b"nonsense\r\n"])
def test_a_page_that_breaks_off_is_a_failure_and_the_next_is_whole(tmp_path: Path, cut: bytes) -> None:
    with Scripted([cut, HEAD + body_of([b"whole"])]) as server:
        client = server.client(tmp_path)
        with pytest.raises(RequestFailed, match="broke off"):
            client.page("services", 500, "")
        assert client.page("services", 500, "") == b"whole"
        client.close()
    assert server.connections == 2
