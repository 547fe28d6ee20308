"""An API server that only lists and watches, with the pages of
tests/harness/load.py made beforehand.

    python -m bench.serving.pages --port P [--services 10000]

It takes almost no CPU, so that the client's cost of a relist is measured undisturbed. A watch is
silent until SIGUSR1, which ends every watch with 410 Gone, so that a list has to follow. It uses
plain HTTP on loopback, and prints a line when it listens, and one when the last page of a list is
sent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from headwater.cluster.reflector import PAGE
from headwater.cluster.refusals import PATHS

from tests.harness.load import SERVICES, ScaleService, scale_set

LISTED: Final = "listed"
LISTENING: Final = "listening"
_VERSION: Final = "1"
_EXPIRED: Final = json.dumps(
    {"type": "ERROR", "object": {"kind": "Status", "status": "Failure", "reason": "Expired", "code": 410}}
).encode()


def _objects(chosen: Sequence[ScaleService]) -> dict[str, list[dict[str, Any]]]:
    """Return the objects by path."""
    namespaces = dict.fromkeys(service.namespace for service in chosen)
    services = [service.service() for service in chosen]
    for number, (service, item) in enumerate(zip(chosen, services, strict=True)):
        if not service.headless:
            item["spec"]["clusterIP"] = f"172.16.{number >> 8}.{number & 255}"
    return {
        PATHS["namespaces"]: [{"metadata": {"name": name}} for name in namespaces],
        PATHS["services"]: services,
        PATHS["endpointslices"]: [item for service in chosen for item in service.endpoint_slices()],
    }


def _pages(objects: Sequence[dict[str, Any]]) -> Iterator[bytes]:
    """Yield each page as a whole response; the token of the next page is its number."""
    for item in objects:
        item["metadata"]["resourceVersion"] = _VERSION
    for at in range(0, len(objects), PAGE):
        more = {"continue": str(at // PAGE + 1)} if at + PAGE < len(objects) else {}
        body = {"metadata": {"resourceVersion": _VERSION, **more}, "items": objects[at : at + PAGE]}
        yield _response(json.dumps(body, separators=(",", ":")).encode())


def _response(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Server:
    """The lists and the open watches."""

    def __init__(self, services: int) -> None:
        self._pages = {path: list(_pages(objects)) for path, objects in _objects(scale_set(services)).items()}
        self._over = asyncio.Event()

    def expire(self) -> None:
        """End every open watch with 410."""
        self._over.set()
        self._over = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection: its requests one after the other, until it ends."""
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                url = urlsplit(request.split(b" ", 2)[1].decode())
                asked = parse_qs(url.query)
                if "watch" in asked:
                    await self._watch(writer)
                else:
                    pages = self._pages.get(url.path, [_response(b"{}")])
                    number = int(asked.get("continue", ["0"])[0])
                    writer.write(pages[number])
                    await writer.drain()
                    if pages[number] is pages[-1]:
                        print(LISTED, url.path, flush=True)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _watch(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        await writer.drain()
        await self._over.wait()
        writer.write(_chunk(_EXPIRED + b"\n") + b"0\r\n\r\n")
        await writer.drain()


async def _run(port: int, services: int) -> None:
    server = Server(services)
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, server.expire)
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", port)
    print(LISTENING, f"on 127.0.0.1:{port}", flush=True)
    await stopped.wait()
    listening.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--services", type=int, default=SERVICES, help="size of the set (default: %(default)s)")
    options = parser.parse_args()
    asyncio.run(_run(options.port, options.services))


if __name__ == "__main__":
    main()
