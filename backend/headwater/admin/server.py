"""The admin page: /metrics, /healthz, /readyz, by starlette on uvicorn."""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from headwater import __version__
from headwater.admin.collector import HeadwaterCollector
from headwater.admin.http import Server
from headwater.admin.status import status_of
from headwater.process.counters import ProcessView
from headwater.settings.settings import Settings


class Instance(Protocol):
    """The part of the supervisor that the admin page needs."""

    settings: Settings

    async def refresh(self) -> None: ...
    def views(self) -> list[ProcessView]: ...


def health(views: list[ProcessView]) -> str:
    """The processes' problems, in a line; empty without any."""
    down = [view.name for view in views if not view.up]
    silent = [f"{view.name} ({view.silent:.1f} s)" for view in views if view.up and view.silent]
    found = {"down": down, "silent": silent}
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in found.items() if names)


def application(instance: Instance, clock: Callable[[], float] = time.monotonic) -> Starlette:
    """The ASGI application. `clock` is the machine's monotonic one, as the processes read it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(HeadwaterCollector(instance.settings.served_zones(), instance.views, clock))

    async def metrics(request: Request) -> Response:
        await instance.refresh()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": content_type})

    async def healthz(_: Request) -> Response:
        wrong = health(instance.views())
        return PlainTextResponse(f"{wrong}\n", 503) if wrong else PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        await instance.refresh()
        status = status_of(instance.views(), clock())
        return Response(msgspec.json.encode(status), 200 if status.ready else 503, media_type="application/json")

    async def index(_: Request) -> Response:
        return PlainTextResponse(f"headwater {__version__}\n\n/metrics\n/healthz\n/readyz\n")

    pages: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/": index,
        "/metrics": metrics,
        "/healthz": healthz,
        "/readyz": readyz,
    }
    return Starlette(routes=[Route(path, page) for path, page in pages.items()])


async def serve(bound: socket.socket, instance: Instance) -> None:
    """Serve on a socket that is bound already, until cancelled."""
    await Server(application(instance), bound).serve()
