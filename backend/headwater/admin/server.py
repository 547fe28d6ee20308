"""The admin page: /metrics, /healthz, /readyz, by starlette on uvicorn."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from headwater import __version__
from headwater.admin.collector import HeadwaterCollector, watch_of
from headwater.process.counters import AnswerSnapshot, ProcessView
from headwater.settings.settings import Settings


class Instance(Protocol):
    """What the admin page needs of the supervisor."""

    settings: Settings

    async def refresh(self) -> None: ...
    def views(self) -> list[ProcessView]: ...


def readiness(views: list[ProcessView]) -> tuple[bool, dict[str, object]]:
    """Whether queries are answered, and why or why not, for /readyz."""
    watch = watch_of(views)
    answering: dict[str, dict[str, bool]] = {}
    for view in views:
        if view.name != "watch":
            snapshot = view.snapshot if isinstance(view.snapshot, AnswerSnapshot) else AnswerSnapshot()
            answering[view.name] = {"up": view.up, "ready": snapshot.ready}
            if snapshot.stale:
                answering[view.name]["stale"] = True
    ready = any(state["up"] and state["ready"] for state in answering.values())
    watching = next((view for view in views if view.name == "watch"), None)
    return ready, {
        "ready": ready,
        "answer": answering,
        "watch": {
            "up": watching is not None and watching.up,
            "ready": watch.ready,
            "detail": watch.detail,
            "objects": watch.objects,
            "resources": {
                name: {
                    "connected": state.connected,
                    "resourceVersion": state.resource_version,
                    "age_seconds": round(state.age, 3) if state.age >= 0 else None,
                    "errors": state.errors,
                }
                for name, state in watch.resources.items()
            },
        },
    }


def application(instance: Instance) -> Starlette:
    """The ASGI application."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(HeadwaterCollector(instance.settings.served_zones(), instance.views))

    async def metrics(request: Request) -> Response:
        await instance.refresh()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": content_type})

    async def healthz(_: Request) -> Response:
        down = [view.name for view in instance.views() if not view.up]
        if down:
            return PlainTextResponse(f"down: {', '.join(down)}\n", 503)
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        await instance.refresh()
        ready, explanation = readiness(instance.views())
        return JSONResponse(explanation, 200 if ready else 503)

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
    config = uvicorn.Config(
        application(instance), log_config=None, access_log=False, lifespan="off", server_header=False, http="h11"
    )
    server = uvicorn.Server(config)
    # The supervisor has its own signal handlers.
    server.config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[bound])
    try:
        await server.main_loop()
    finally:
        await server.shutdown(sockets=[bound])
