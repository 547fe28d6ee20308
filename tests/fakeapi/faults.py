"""Faults of requests: each is a function of an exchange; `FakeApiServer.on` says when it acts."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Final

import msgspec

from tests.fakeapi.server import Cut, Exchange, Fault, Gone, Silence, status_body

_REASONS: Final = {
    400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 406: "NotAcceptable", 410: "Expired",
    422: "Invalid", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout",
}  # fmt: skip


# Instead of an answer


def status(
    code: int, message: str = "injected", retry_after: float | None = None, reason: str = "", **details: Any
) -> Fault:
    """Refuse the request with a Status."""
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    return lambda exchange: exchange.status(code, reason or _REASONS[code], message, headers, **details)


def text(code: int, body: bytes, kind: str = "text/html") -> Fault:
    """Answer as no API server does: with a proxy's error page, or its login page."""

    def fault(exchange: Exchange) -> None:
        exchange.head(code, {"Content-Type": kind, "Content-Length": str(len(body))})
        exchange.send(body)

    return fault


def raw(data: bytes) -> Fault:
    """Send these bytes instead of an HTTP response, and close the connection."""

    def fault(exchange: Exchange) -> None:
        exchange.raw(data)
        raise Gone

    return fault


def hang(exchange: Exchange) -> None:
    """Accept the request, and never answer."""
    raise Silence


def reset(exchange: Exchange) -> None:
    """Accept the request, and reset the connection before the head."""
    raise Cut


def too_large(exchange: Exchange) -> None:
    """Say that the version is yet to come
    (NewTooLargeResourceVersionError in apiserver/pkg/storage).
    """
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    message = "Timeout: Too large resource version: 99999, current: 1"
    exchange.status(504, "Timeout", message, {"Retry-After": "1"}, causes=causes, retryAfterSeconds=1)


# In the course of an answer


def cut(after: int) -> Fault:
    """Reset the connection after this many bytes of the body."""
    return lambda exchange: exchange.serve(body=lambda pieces: _first(pieces, after, Cut))


def silent(after: int) -> Fault:
    """Send nothing more after this many bytes of the body."""
    return lambda exchange: exchange.serve(body=lambda pieces: _first(pieces, after, Silence))


def short(after: int) -> Fault:
    """End the body in good order after this many bytes, although it is incomplete."""
    return lambda exchange: exchange.serve(body=lambda pieces: _first(pieces, after, None))


def closed(after: int) -> Fault:
    """Send a body without a length, and close the connection after this many bytes."""

    def fault(exchange: Exchange) -> None:
        exchange.serve(body=lambda pieces: _first(pieces, after, Cut), headers={"Connection": "close"})

    return fault


def _first(pieces: Iterator[bytes], count: int, then: type[Exception] | None) -> Iterator[bytes]:
    for piece in pieces:
        if len(piece) >= count:
            yield piece[:count]
            break
        count -= len(piece)
        yield piece
    if then is not None:
        raise then


def split(size: int) -> Fault:
    """Make every chunk of this many bytes."""

    def pieces(whole: Iterator[bytes]) -> Iterator[bytes]:
        for piece in whole:
            for at in range(0, len(piece), size):
                yield piece[at : at + size]

    return lambda exchange: exchange.serve(body=pieces)


def gzipped(exchange: Exchange) -> None:
    """Compress the body, unasked; each piece can be read when it has arrived."""

    def pieces(whole: Iterator[bytes]) -> Iterator[bytes]:
        press = zlib.compressobj(wbits=31)
        for piece in whole:
            yield press.compress(piece) + press.flush(zlib.Z_SYNC_FLUSH)
        yield press.flush()

    exchange.serve(body=pieces, headers={"Content-Encoding": "gzip"})


def not_gzip(exchange: Exchange) -> None:
    """Say that the body is compressed, although it is not."""
    exchange.serve(headers={"Content-Encoding": "gzip"})


def gzip_cut(exchange: Exchange) -> None:
    """Compress the body as a whole, and end it in good order before it is complete."""

    def pieces(whole: Iterator[bytes]) -> Iterator[bytes]:
        data = gzip.compress(b"".join(whole))
        yield data[: len(data) // 2]

    exchange.serve(body=pieces, headers={"Content-Encoding": "gzip"})


# In a list


def metadata(**changes: Any) -> Fault:
    """Change the page's own metadata; None removes a field."""

    def change(given: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in {**given, **changes}.items() if value is not None}

    return lambda exchange: exchange.serve(metadata=change)


def items(change: Callable[[Iterator[bytes]], Iterable[bytes]]) -> Fault:
    """Pass a page's items, each as JSON, through a function."""
    return lambda exchange: exchange.serve(items=change)


def more_items(*objects: bytes) -> Fault:
    """Add other items before the page's own."""
    return items(lambda given: chain(objects, given))


# In a watch


def events(change: Callable[[Iterator[bytes]], Iterable[bytes]]) -> Fault:
    """Pass a watch's lines through a function."""
    return lambda exchange: exchange.serve(events=change)


def lines_first(*lines: bytes) -> Fault:
    """Add other lines before the watch's own."""
    return events(lambda given: chain(lines, given))


def lose(lost: Callable[[Mapping[str, Any]], bool]) -> Fault:
    """Lose events without a trace; bookmarks and other events arrive."""

    def change(given: Iterator[bytes]) -> Iterator[bytes]:
        for line in given:
            if not lost(msgspec.json.decode(line)):
                yield line

    return events(change)


def error_event(code: int, message: str = "injected") -> bytes:
    """Return a line that says that the watch has failed."""
    return b'{"type":"ERROR","object":%b}\n' % status_body(code, _REASONS.get(code, "Unknown"), message)


def line(kind: str, manifest: Mapping[str, Any], version: int) -> bytes:
    """Return an event as a line."""
    metadata = {**manifest["metadata"], "resourceVersion": str(version)}
    return msgspec.json.encode({"type": kind, "object": {**manifest, "metadata": metadata}}) + b"\n"
