"""What goes over the wire: a reply whose body is known, a reply that is sent while it is made, server-sent events.

Both are ASGI applications and need nothing from a framework: at a few hundred microseconds a request, it would show.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic_core import to_json

from ..errors import RequestError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

T = TypeVar("T")

JSON = b"application/json"
EVENTS = b"text/event-stream"
AHEAD = 64  # deltas that may be made before the client takes them


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply."""

    body: bytes
    media: bytes = JSON
    status: int = 200
    headers: Headers = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", self.media), (b"content-length", b"%d" % len(self.body)), *self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


@dataclass(frozen=True, slots=True)
class Stream:
    """A reply in chunks. Nothing is sent before the first chunk exists, so that what fails until then still gets its
    proper status.

    failed: makes the last chunk of a reply that fails half-way; None where the format has no place for an error, and
            the connection is broken off instead, so that nobody takes half an answer for a whole one
    """

    chunks: AsyncGenerator[bytes, None]
    media: bytes = EVENTS
    failed: Callable[[RequestError], bytes] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.chunks) as chunks:
            first = await anext(chunks, b"")
            headers = [(b"content-type", self.media), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
            scope["state"]["started"] = True
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if first:
                await send({"type": "http.response.body", "body": first, "more_body": True})
            try:
                async for chunk in chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except RequestError as error:
                if self.failed is None:
                    raise
                scope["state"]["ctx"].error = error.code
                await send({"type": "http.response.body", "body": self.failed(error), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def reply_json(value: Any, status: int = 200, headers: Headers = ()) -> Reply:
    return Reply(to_json(value), JSON, status, headers)


def event(value: Any) -> bytes:
    """One server-sent event of JSON."""
    return b"data: " + to_json(value) + b"\n\n"


async def batches(deltas: AsyncIterator[T]) -> AsyncGenerator[list[T], None]:
    """The deltas that are there already, together: a client that is slower than the model gets fewer, larger chunks.
    At most AHEAD deltas are made before they are taken."""
    ready: list[T] = []
    filled, emptied = asyncio.Event(), asyncio.Event()
    ended = False

    async def pump() -> None:
        nonlocal ended
        try:
            async for delta in deltas:
                ready.append(delta)
                filled.set()
                if len(ready) >= AHEAD:
                    emptied.clear()
                    await emptied.wait()
        finally:
            ended = True
            filled.set()

    pumping = asyncio.create_task(pump())
    try:
        while True:
            if ready:
                taken = ready[:]
                ready.clear()
                emptied.set()
                yield taken
            elif ended:
                break
            else:
                filled.clear()
                await filled.wait()
        await pumping
    finally:
        pumping.cancel()
        await asyncio.wait([pumping])
        if not pumping.cancelled():
            pumping.exception()  # looked at, so that asyncio does not report it a second time
        if (close := getattr(deltas, "aclose", None)) is not None:
            await close()
