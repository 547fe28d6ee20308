"""The admin page and its neighbours, from /metrics to /events, by starlette on uvicorn."""

from __future__ import annotations

import asyncio
import functools
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, Router

from headwater.admin.access import refusal
from headwater.admin.advising import Advising
from headwater.admin.collector import HeadwaterCollector
from headwater.admin.http import RECEIVED, Server
from headwater.admin.overview import Overview, overview_of
from headwater.admin.package import CollectorRegistry
from headwater.admin.recent import Recent
from headwater.admin.scrape import Scrapes
from headwater.admin.status import status_of
from headwater.process.control import (
    Advise,
    Advised,
    BadQuestion,
    Complete,
    Completed,
    Explain,
    Explained,
    History,
    Refused,
    Told,
)
from headwater.process.counters import ProcessView
from headwater.settings.settings import Settings

if TYPE_CHECKING:
    from headwater.admin.page import Asked, Page
    from headwater.explain.told import Page as TellsPage

_Endpoint = Callable[[Request], Awaitable[Response]]

#: Characters of a name in presentation form (a byte as \\DDD), and of a type.
MAX_NAME: Final = 1024
MAX_TYPE: Final = 16
#: Names of one completion, unless the request says otherwise.
_COMPLETED: Final = 20
#: Seconds for which what is known of the instance is told again.
_FRESH: Final = 0.25
#: Pages without names that are kept as long.
_CLOSED: Final = 4
#: Changes that the page shows, of a name and of all.
_CHANGES: Final = 12
#: An asset's address has the hash of its content.
_FOR_EVER: Final = "public, max-age=31536000, immutable"
#: What somebody has looked for is nobody else's business on a machine that several people use.
_NOT_KEPT: Final = {"Cache-Control": "no-store"}


class Instance(Protocol):
    """The part of the supervisor that the admin page needs."""

    settings: Settings
    recent: Recent

    async def refresh(self) -> None: ...
    async def explain(self, asked: Explain) -> Explained | BadQuestion | Refused: ...
    async def complete(self, asked: Complete) -> Completed | BadQuestion | Refused: ...
    async def history(self, asked: History) -> Told | BadQuestion | Refused: ...
    async def advise(self, asked: Advise) -> Advised | BadQuestion | Refused: ...
    def views(self) -> list[ProcessView]: ...


def health(views: list[ProcessView]) -> str:
    """The processes' problems, in a line; empty without any."""
    down = [view.name for view in views if not view.up]
    silent = [f"{view.name} ({view.silent:.1f} s)" for view in views if view.up and view.silent]
    found = {"down": down, "silent": silent}
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in found.items() if names)


def application(
    instance: Instance, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time
) -> Router:
    """The ASGI application: starlette's router by itself, since uvicorn sees to errors.

    `clock` is the machine's monotonic one, as the processes read it; `wall` is the time of day.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(HeadwaterCollector(instance.settings.served_zones(), instance.views, clock))
    pages = _Pages(instance, clock, wall)

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
        if why := _refused(request, instance):
            return PlainTextResponse(f"{why}\n", 403)
        name, qtype = request.query_params.get("name", ""), request.query_params.get("type", "A")
        if not 0 < len(name) <= MAX_NAME or len(qtype) > MAX_TYPE:
            return PlainTextResponse("ask as in /explain?name=db.prod.svc.cluster.local&type=A\n", 400)
        await instance.refresh()
        return _told(await instance.explain(Explain(name, qtype, _waiting(instance, clock))))

    async def names(request: Request) -> Response:
        if why := _refused(request, instance):
            return PlainTextResponse(f"{why}\n", 403)
        typed, limit = request.query_params.get("prefix", ""), request.query_params.get("limit", str(_COMPLETED))
        if len(typed) > MAX_NAME or not (limit.isascii() and limit.isdigit() and len(limit) < 4):
            return PlainTextResponse("ask as in /names?prefix=db.pr&limit=20\n", 400)
        return _told(await instance.complete(Complete(typed, int(limit))))

    async def advice(request: Request) -> Response:
        if why := _refused(request, instance):
            return PlainTextResponse(f"{why}\n", 403)
        after = request.query_params.get("after", "")
        if len(after) > MAX_NAME:
            return PlainTextResponse("ask as in /advice?after=NAMESPACE\n", 400)
        return _told(await instance.advise(Advise(after)))

    # Few look at what comes from the history, and it takes half a MiB.
    @functools.cache
    def of_history() -> tuple[_Endpoint, _Endpoint]:
        from headwater.admin import events, history

        return history.page(instance, wall), events.page(instance, wall)

    async def past(request: Request) -> Response:
        return await of_history()[0](request)

    async def news(request: Request) -> Response:
        return await of_history()[1](request)

    routes: dict[str, _Endpoint] = {
        "/": pages.index,
        "/assets/{name}": pages.asset,
        "/metrics": metrics,
        "/healthz": healthz,
        "/readyz": readyz,
        "/status": pages.status,
        "/explain": explain,
        "/names": names,
        "/advice": advice,
        "/history": past,
        "/events": news,
    }
    return Router([Route(path, page) for path, page in routes.items()])


def _refused(request: Request, instance: Instance) -> str:
    """Why this client may not see names; "" when it may."""
    client = request.client.host if request.client is not None else ""
    return refusal(client, request.headers.get("host", ""), instance.settings.admin_details)


def _waiting(instance: Instance, clock: Callable[[], float]) -> str:
    """What the watch process says that it waits for."""
    return status_of(instance.views(), clock()).watch.detail


def _told(reply: Explained | Completed | Advised | BadQuestion | Refused) -> Response:
    """What an answer process says, as a reply."""
    match reply:
        case Explained(json) | Completed(json) | Advised(json):
            return Response(json, media_type="application/json", headers=_NOT_KEPT)
        case BadQuestion(why):
            return PlainTextResponse(f"{why}\n", 400)
        case Refused(why):
            return PlainTextResponse(f"{why}\n", 503)


def _load() -> Page:
    from headwater.admin.page import Page

    return Page()


class _Pages:
    """The page for people and its assets, loaded when they are first asked for."""

    def __init__(self, instance: Instance, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self._instance = instance
        self._wall = wall
        self._clock = clock
        self._page: Page | None = None
        self._turn = asyncio.Lock()
        self._seen: tuple[float, Overview] | None = None
        self._closed: dict[tuple[str, str], str] = {}
        """The pages without names that were made of it, by part and refusal."""
        self._loading = asyncio.Lock()
        self._advising = Advising(instance.advise, clock)

    async def _loaded(self) -> Page:
        async with self._loading:
            if self._page is None:
                self._page = await asyncio.get_running_loop().run_in_executor(None, _load)
        return self._page

    async def _overview(self) -> Overview:
        """The instance as it was at most `_FRESH` ago: anybody may ask, as often as he likes."""
        async with self._turn:
            if self._seen is None or self._clock() - self._seen[0] >= _FRESH:
                began = self._clock()
                await self._instance.refresh()
                found = overview_of(self._instance.settings, self._instance.views(), self._instance.recent, began)
                self._seen = began, found
                self._closed.clear()
            return self._seen[1]

    async def status(self, _: Request) -> Response:
        return Response(msgspec.json.encode(await self._overview()), media_type="application/json", headers=_NOT_KEPT)

    async def asset(self, request: Request) -> Response:
        from headwater.admin.page import HEADERS

        found = (await self._loaded()).assets.get(request.path_params["name"])
        if found is None:
            return PlainTextResponse("Not Found", 404)
        return Response(found.data, media_type=found.media, headers=HEADERS | {"Cache-Control": _FOR_EVER})

    async def index(self, request: Request) -> Response:
        """The page, or a piece of it; a line or two for those who do not ask for HTML."""
        from headwater.admin.page import HEADERS, PARTS, Asked, Shown, as_text

        headers = HEADERS | _NOT_KEPT | {"Vary": "Accept"}
        part = request.query_params.get("part", "")
        if part not in PARTS:
            return PlainTextResponse("Not Found", 404)
        overview = await self._overview()
        if "text/html" not in request.headers.get("accept", ""):
            return PlainTextResponse(as_text(overview), headers=headers)
        refused = _refused(request, self._instance)
        if part in ("explanation", "changes", "advice") and refused:
            return PlainTextResponse(f"{refused}\n", 403, headers=headers)
        page = await self._loaded()
        if refused:
            return Response(self._without_names(page, part, refused, overview), media_type="text/html", headers=headers)
        shown = Shown(
            overview,
            "",
            await self._asked(request) if part in ("", "explanation") else Asked(),
            await self._history(History(limit=_CHANGES)) if part in ("", "changes") else None,
            self._wall(),
            await self._advising.latest() if part in ("", "advice") else None,
        )
        return Response(page.render(part, shown), media_type="text/html", headers=headers)

    def _without_names(self, page: Page, part: str, refused: str, overview: Overview) -> str:
        """The page for strangers: it takes milliseconds of the supervisor, and so is made once."""
        from headwater.admin.page import Asked, Shown

        text = self._closed.get((part, refused))
        if text is None:
            text = page.render(part, Shown(overview, refused, Asked(), None, self._wall()))
            if len(self._closed) < _CLOSED:
                self._closed[part, refused] = text
        return text

    async def _history(self, asked: History) -> TellsPage | None:
        """A page of it; None where nothing is told."""
        from headwater.explain import told

        match await self._instance.history(asked):
            case Told(json):
                return msgspec.json.decode(json, type=told.Page)
        return None

    async def _asked(self, request: Request) -> Asked:
        """The question in the page's address, explained."""
        from headwater.admin.page import Asked, reversed_address
        from headwater.explain.completion import Completion
        from headwater.explain.explanation import Explanation

        name, qtype = request.query_params.get("name", "").strip(), request.query_params.get("type", "A").upper()
        if not name:
            return Asked()
        if len(name) > MAX_NAME or len(qtype) > MAX_TYPE:
            return Asked(problem=f"A name has at most {MAX_NAME:,} characters here, a type {MAX_TYPE}.")
        whole = name
        if pointer := reversed_address(name):
            whole, qtype = pointer, "PTR"
        else:
            # What is short, and leaves no doubt, is taken for the whole name.
            match await self._instance.complete(Complete(name, 1)):
                case Completed(json):
                    whole = msgspec.json.decode(json, type=Completion).exact or name
        match await self._instance.explain(Explain(whole, qtype, _waiting(self._instance, self._clock))):
            case Explained(json):
                found = msgspec.json.decode(json, type=Explanation)
                past = await self._history(History(name=found.name, limit=_CHANGES)) if found.zone else None
                return Asked(name, qtype, found, past)
            case BadQuestion(why) | Refused(why):
                return Asked(name, qtype, problem=why)


async def serve(bound: socket.socket, instance: Instance) -> None:
    """Serve on a socket that is bound already, until cancelled."""
    await Server(application(instance), bound).serve()
