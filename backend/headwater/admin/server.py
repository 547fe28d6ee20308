"""The admin page: /metrics, /healthz, /readyz, /explain, /history, /events; by starlette."""

from __future__ import annotations

import socket
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from headwater import __version__
from headwater.admin import events, history
from headwater.admin.access import refusal
from headwater.admin.collector import HeadwaterCollector
from headwater.admin.http import RECEIVED, Server
from headwater.admin.scrape import Scrapes
from headwater.admin.status import status_of
from headwater.process.control import BadQuestion, Explain, Explained, History, Refused, Told
from headwater.process.counters import ProcessView
from headwater.settings.settings import Settings

#: Characters of a name in presentation form (a byte as \\DDD), and of a type.
MAX_NAME: Final = 1024
MAX_TYPE: Final = 16


class Instance(Protocol):
    """The part of the supervisor that the admin page needs."""

    settings: Settings

    async def refresh(self) -> None: ...
    async def explain(self, asked: Explain) -> Explained | BadQuestion | Refused: ...
    async def history(self, asked: History) -> Told | BadQuestion | Refused: ...
    def views(self) -> list[ProcessView]: ...


def health(views: list[ProcessView]) -> str:
    """The processes' problems, in a line; empty without any."""
    down = [view.name for view in views if not view.up]
    silent = [f"{view.name} ({view.silent:.1f} s)" for view in views if view.up and view.silent]
    found = {"down": down, "silent": silent}
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in found.items() if names)


def application(
    instance: Instance, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
) -> Starlette:
    """The ASGI application.

    `clock` is the machine's monotonic one, as the processes read it; `wall` is the time of day.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(HeadwaterCollector(instance.settings.served_zones(), instance.views, clock))

    scrapes = Scrapes(registry, instance.refresh, clock)

    async def metrics(request: Request) -> Response:
        text, content_type = await scrapes.text(
            request.headers.get("accept", ""), getattr(request.state, RECEIVED, clock())
        )
        return Response(text, headers={"Content-Type": content_type})

    async def healthz(_: Request) -> Response:
        wrong = health(instance.views())
        return PlainTextResponse(f"{wrong}\n", 503) if wrong else PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        await instance.refresh()
        status = status_of(instance.views(), clock())
        return Response(msgspec.json.encode(status), 200 if status.ready else 503, media_type="application/json")

    async def explain(request: Request) -> Response:
        client = request.client.host if request.client is not None else ""
        if why := refusal(client, request.headers.get("host", ""), instance.settings.admin_details):
            return PlainTextResponse(f"{why}\n", 403)
        name, qtype = request.query_params.get("name", ""), request.query_params.get("type", "A")
        if not 0 < len(name) <= MAX_NAME or len(qtype) > MAX_TYPE:
            return PlainTextResponse("ask as in /explain?name=db.prod.svc.cluster.local&type=A\n", 400)
        await instance.refresh()
        waiting = status_of(instance.views(), clock()).watch.detail
        match await instance.explain(Explain(name, qtype, waiting)):
            case Explained(json):
                return Response(json, media_type="application/json")
            case BadQuestion(why):
                return PlainTextResponse(f"{why}\n", 400)
            case Refused(why):
                return PlainTextResponse(f"{why}\n", 503)

    async def index(_: Request) -> Response:
        return PlainTextResponse(
            f"headwater {__version__}\n\n/metrics\n/healthz\n/readyz\n/explain?name=NAME&type=TYPE\n"
            "/history?name=NAME&since=TIME\n/history?name=NAME&at=TIME\n/events?name=NAME\n"
        )

    pages: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/": index,
        "/metrics": metrics,
        "/healthz": healthz,
        "/readyz": readyz,
        "/explain": explain,
        "/history": history.page(instance, wall),
        "/events": events.page(instance, wall),
    }
    return Starlette(routes=[Route(path, page) for path, page in pages.items()])


async def serve(bound: socket.socket, instance: Instance) -> None:
    """Serve on a socket that is bound already, until cancelled."""
    await Server(application(instance), bound).serve()
