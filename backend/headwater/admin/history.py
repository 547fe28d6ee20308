"""/history: pages of the history, and what was answered at a time (docs/history.md)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from headwater.admin.access import refusal
from headwater.explain.question import question
from headwater.process.control import BadQuestion, History, Refused, Told
from headwater.settings.settings import Settings


class Historian(Protocol):
    """The part of the supervisor that is needed here."""

    settings: Settings

    async def history(self, asked: History) -> Told | BadQuestion | Refused: ...


def refused(request: Request, settings: Settings) -> Response | None:
    """The reply to who may not see names; None for others."""
    client = request.client.host if request.client is not None else ""
    if why := refusal(client, request.headers.get("host", ""), settings.admin_details):
        return PlainTextResponse(f"{why}\n", 403)
    return None


def page(instance: Historian, wall: Callable[[], float] = time.time) -> Callable[[Request], Awaitable[Response]]:
    """The page. `wall` is the time of day."""

    async def history(request: Request) -> Response:
        if (no := refused(request, instance.settings)) is not None:
            return no
        try:
            asked = question(request.query_params, wall())
        except ValueError as error:
            return PlainTextResponse(f"{error}\n", 400)
        match await instance.history(asked):
            case Told(json):
                return Response(json, media_type="application/json")
            case BadQuestion(why):
                return PlainTextResponse(f"{why}\n", 400)
            case Refused(why):
                return PlainTextResponse(f"{why}\n", 503)

    return history
