"""The door: request ids, bounds on body and time, counts, the access log; in front of every service and the gateway.

Pure ASGI, and nothing that costs on the fast path: a request that is answered within WATCH seconds needs one timer and
no task besides its own. After that the door listens whether the client is still there, and ends the work when it left.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable
from typing import Any

from ..api.dialect import ClientLeft, too_large
from ..api.root import refusal
from ..api.table import below
from ..api.wire import ASGI, Message, Receive, Scope, Send
from ..errors import DeadlineExceeded, ModelFailed, RequestError
from ..model import Context
from ..runtime import logs
from ..runtime.assignment import Bounds
from ..runtime.meter import Meter

log = logging.getLogger("argosy.door")

WATCH = 0.05  # seconds after which a request's client is watched
GRACE = 0.25  # seconds past the deadline in which the runtime may say so itself, in the midst of a stream too
DRAIN = 1.0  # seconds for which the rest of a refused body is read, so that its sender gets to read the refusal
REASON = 512  # characters of a reason that go into a header; `/fleet` has it whole
STRIPPED = (
    b"x-request-timeout-seconds",
    b"x-request-disconnect-disabled",
)  # with these a client lifts Ray Serve's limits
ID = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}")


class Door:
    """Wraps an ASGI application. It leaves `ctx` (argosy.model.Context) in `scope["state"]`; the application says in
    `ctx.error` with which code it refused.

    served_by: what the header `argosy-served-by` says, now; a callable where it changes
    degraded: why what answers does not run on what was planned, for the header `argosy-degraded`; empty: no such header
    echo_id: answer with `x-request-id`; False where the server around it does (Ray Serve)
    """

    def __init__(
        self,
        app: ASGI,
        *,
        service: str,
        bounds: Bounds,
        meter: Meter,
        served_by: str | Callable[[], str],
        degraded: Callable[[], str] = str,
        echo_id: bool = True,
    ) -> None:
        self._app, self._service, self._bounds, self._meter = app, service, bounds, meter
        self._served_by: Callable[[], str] = served_by if callable(served_by) else lambda: served_by
        self._degraded = degraded
        self._echo_id = echo_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "no WebSocket here"})
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.monotonic()
        headers, name, length, chunked = [], b"", 0, False
        for header in scope["headers"]:
            key = header[0]
            if key == b"x-request-id":
                name = header[1]
            elif key == b"content-length":
                length = int(header[1]) if header[1].isdigit() else 0
            elif key == b"transfer-encoding":
                chunked = True
            elif key in STRIPPED:
                continue
            headers.append(header)
        request_id = name.decode() if ID.fullmatch(name) else os.urandom(12).hex()
        logs.requests.set((request_id,))
        ctx = Context(request_id, started + self._bounds.timeout, started=started)
        visit = _Visit(ctx, receive, send, self._bounds, length, chunked)
        visit.headers.append((b"argosy-served-by", self._served_by().encode("latin-1", "replace")))
        if reason := self._degraded():
            visit.headers.append((b"argosy-degraded", line(reason)))
        if self._echo_id:
            visit.headers.append((b"x-request-id", request_id.encode()))
        scope = {**scope, "headers": headers, "state": {**scope.get("state", {}), "ctx": ctx}}
        try:
            await self._pass(scope, visit)
        finally:
            visit.end()
            self._count(scope, visit, time.monotonic() - started)

    async def _pass(self, scope: Scope, visit: _Visit) -> None:
        ctx = visit.ctx
        try:
            visit.begin()
            await self._app(scope, visit.receive, visit.send)
        except asyncio.CancelledError:
            ctx.cancel()
            if not visit.cancelled_by_us():
                ctx.error = "client_left"  # the server around us noticed first
                raise
            if visit.left:
                ctx.error = "client_left"
            else:
                await self._refuse(scope, visit, DeadlineExceeded(f"not answered within {self._bounds.timeout:g} s"))
        except ClientLeft:
            ctx.cancel()
            ctx.error = "client_left"
        except RequestError as error:
            await self._refuse(scope, visit, error)
        except Exception as error:  # whatever a bug raises, the client gets JSON and the log the trace
            log.exception("request %s to %s failed: %s %s", ctx.id, self._service, scope["method"], scope["path"])
            failed = ModelFailed(f"the service failed on request {ctx.id}; its log says why", code="internal_error")
            failed.__cause__ = error
            await self._refuse(scope, visit, failed)

    async def _refuse(self, scope: Scope, visit: _Visit, error: RequestError) -> None:
        visit.ctx.error = error.code
        if visit.status:  # half the reply is out: break off, so that nobody takes it for a whole one
            raise error
        visit.cut = False
        await refusal(below(scope), error)(scope, visit.receive, visit.send)

    def _count(self, scope: Scope, visit: _Visit, seconds: float) -> None:
        error = visit.ctx.error
        status = "499" if error == "client_left" else str(visit.status)
        self._meter.add("argosy_requests_total", status=status)
        self._meter.observe("argosy_request_seconds", seconds)
        if error:
            self._meter.add("argosy_errors_total", code=error)
        if log.isEnabledFor(logging.INFO):
            log.info(
                "%s %s %s %.1f ms%s",
                scope["method"],
                scope["path"],
                status,
                seconds * 1000,
                f" {error}" if error else "",
            )


def line(text: str) -> bytes:
    """A sentence as a header's value: one line of Latin-1, and not longer than servers in between like to read."""
    return " ".join(text.split())[:REASON].encode("latin-1", "replace")


class _Visit:
    """One request's way through the door: its messages in both directions, and whether its client is still there."""

    def __init__(self, ctx: Context, receive: Receive, send: Send, bounds: Bounds, length: int, chunked: bool) -> None:
        self.ctx, self._receive, self._send, self._bounds = ctx, receive, send, bounds
        self.headers: list[tuple[bytes, bytes]] = []
        self.status = 0
        self.left = False  # the client has
        self.cut = length > bounds.body  # the body is announced as too large: nobody needs to read it
        self.complete = not length and not chunked  # the whole body was received
        self._size = 0
        self._listener: asyncio.Task[None] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._ended = self._called_off = self._watching = False

    def begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._deadline = self._loop.time() + self._bounds.timeout + GRACE
        self._timer = self._loop.call_later(min(WATCH, self._bounds.timeout + GRACE), self._watch)

    def end(self) -> None:
        self._timer.cancel()
        if self._listener is not None:
            self._listener.cancel()

    def _watch(self) -> None:
        self._watching = True
        self._timer = self._loop.call_at(self._deadline, self._cancel)
        if self.complete:
            self._listen()

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = self._loop.create_task(self._until_left())

    async def _until_left(self) -> None:
        message = await self._receive()  # after the body a server has nothing else to say
        if message["type"] == "http.disconnect" and not self._ended:  # it says so after a whole reply, too
            self.left = True
            self._cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._called_off = True
            self._task.cancel()

    def cancelled_by_us(self) -> bool:
        """Whether the cancellation that was caught is the door's own and nobody else's."""
        return self._called_off and self._task is not None and self._task.uncancel() == 0

    async def receive(self) -> Message:
        if self.cut:
            raise too_large(self._bounds.body)
        if self.complete and self._listener is not None:
            await asyncio.shield(self._listener)
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            if self._size > self._bounds.body:
                self.cut = True
                raise too_large(self._bounds.body)
            if not message.get("more_body"):
                self.complete = True
                if self._watching:
                    self._listen()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = message.get("headers", ())
            # What was forwarded was served by whom it says.
            mine = self.headers[1:] if any(key == b"argosy-served-by" for key, _ in given) else self.headers
            message = {**message, "headers": [*given, *mine]}
        elif not self.complete and not message.get("more_body"):
            await self._send({**message, "more_body": True})
            await self._drain()
            message = {"type": "http.response.body", "body": b""}
        if not message.get("more_body") and message["type"] == "http.response.body":
            self._ended = True
        await self._send(message)

    async def _drain(self) -> None:
        """Read on for a moment: a sender that is cut off while it writes may never get to read why."""
        try:
            async with asyncio.timeout(DRAIN):
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect" or not message.get("more_body"):
                        return
        except TimeoutError:
            return
