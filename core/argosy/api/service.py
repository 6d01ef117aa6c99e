"""The ASGI application of one service: every dialect's routes for its task, below its prefix."""

from __future__ import annotations

import os
import time
from dataclasses import replace

from ..errors import MethodNotAllowed, RequestError
from ..model import Context
from . import openapi
from .dialect import Answerer, Call, Dialect, refuse
from .dialects import dialects
from .sound import Studio
from .table import Table, allowed, below
from .wire import Receive, Reply, Scope, Send


class Application:
    """Made by `app`. What is not refused and not answered (a bug) leaves it as an exception; the door answers that."""

    def __init__(self, answerer: Answerer) -> None:
        self._answerer = answerer
        self._studio = Studio(answerer.bounds.queue)
        self._table = Table()
        routes = [(dialect, route) for dialect in dialects() for route in dialect.routes(answerer.task)]
        pages = openapi.pages(answerer.service, routes)
        for dialect, route in [*routes, *((pages, route) for route in pages.routes(answerer.task))]:
            self._table.add(dialect, [route])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008, "reason": "no WebSocket here"})
            return
        state = scope.setdefault("state", {})
        ctx: Context | None = state.get("ctx")
        if ctx is None:  # no door around it
            ctx = state["ctx"] = Context(os.urandom(12).hex(), time.monotonic() + self._answerer.bounds.timeout)
        path = below(scope)
        dialect: Dialect | None = None
        try:
            dialect, route, braces = self._table.find(scope["method"], path)
            reply = await route.answer(Call(self._answerer, ctx, self._studio, scope, receive, braces))
            await reply(scope, receive, send)
        except RequestError as error:
            if state.get("started"):
                raise  # half the reply is out, and its format has no place for an error
            ctx.error = error.code
            await self._refuse(dialect, path, error)(scope, receive, send)

    def _refuse(self, dialect: Dialect | None, path: str, error: RequestError) -> Reply:
        if not isinstance(error, MethodNotAllowed):
            return (dialect.refuse if dialect else refuse)(error)
        methods = self._table.methods(path)
        shape = next((found for found, _ in methods.values()), None)
        reply = (shape.refuse if shape else refuse)(error)
        return replace(reply, headers=(*reply.headers, (b"allow", allowed(methods).encode())))


async def lifespan(receive: Receive, send: Send) -> None:
    """Nothing is done at start and end: replica and gateway are opened before, and closed after."""
    while (message := await receive())["type"] != "lifespan.shutdown":
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


def app(answerer: Answerer) -> Application:
    return Application(answerer)
