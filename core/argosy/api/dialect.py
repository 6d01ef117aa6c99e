"""The seam between protocols and tasks. A new dialect is one module and one line in `dialects.py`.

Dialect   a name, the routes it has for a task, and the shape of its errors
Route     method, path below the service's prefix, the coroutine that answers, and what OpenAPI says of it
Call      one request on its way through a route
Answerer  who answers: a replica, or anything like it
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pydantic import BaseModel
from typing_extensions import TypedDict

from ..errors import BadRequest, NotFound, RequestError, TooLarge, UnsupportedMedia
from ..model import Context
from ..tasks import Task
from .form import Form, parse_form
from .reading import parse
from .wire import Receive, Reply, Scope, Stream, reply_json

if TYPE_CHECKING:
    from .sound import Studio

B = TypeVar("B", bound=BaseModel)


class Bounds(Protocol):
    """What of a service's bounds a dialect keeps: requests that wait, seconds, bytes of a body, levels of JSON."""

    @property
    def queue(self) -> int: ...
    @property
    def timeout(self) -> float: ...
    @property
    def body(self) -> int: ...
    @property
    def depth(self) -> int: ...


class Answerer(Protocol):
    """What a dialect may ask of a service. `argosy.runtime.replica.Replica` is one."""

    @property
    def service(self) -> str: ...
    @property
    def task(self) -> Task[Any, Any]: ...
    @property
    def features(self) -> frozenset[str]: ...
    @property
    def about(self) -> Mapping[str, str]: ...
    @property
    def bounds(self) -> Bounds: ...
    @property
    def served_by(self) -> str: ...
    def status(self) -> Any: ...
    async def answer(self, request: Any, ctx: Context) -> Any: ...
    def stream(self, request: Any, ctx: Context) -> AsyncIterator[Any]: ...


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `path` holds what stood in the braces of the route's path."""

    answerer: Answerer
    ctx: Context
    studio: Studio
    scope: Scope
    receive: Receive
    path: Mapping[str, str]

    def header(self, name: bytes) -> bytes:
        """The first header of this (lower-case) name; empty where there is none."""
        for key, value in self.scope["headers"]:
            if key == name:
                return bytes(value)
        return b""

    @property
    def media(self) -> bytes:
        """The content type without parameters, lower-case; empty where there is none."""
        return self.header(b"content-type").partition(b";")[0].strip().lower()

    async def body(self) -> bytes:
        """Raises TooLarge beyond the service's bound, ClientLeft where the client left."""
        return await read(self.receive, self.answerer.bounds.body)

    async def json(self, kind: type[B]) -> B:
        """The body as `kind`. A body without a content type is taken for JSON."""
        media = self.media
        if media and media != b"application/json" and not media.endswith(b"+json"):
            raise UnsupportedMedia(
                f"content-type is {media.decode('latin-1')!r}; wanted application/json (curl: --json '…')"
            )
        return parse(kind, await self.body(), self.answerer.bounds.depth)

    async def form(self) -> Form:
        if self.media != b"multipart/form-data":
            found = self.media.decode("latin-1") or "missing"
            raise UnsupportedMedia(f"content-type is {found!r}; wanted multipart/form-data (curl: -F file=@sound.wav)")
        return parse_form(await self.body(), self.header(b"content-type"))

    def check_model(self, name: str | None) -> None:
        """Under a service's prefix the body's `model` may be absent; where it is given it has to be this service."""
        service = self.answerer.service
        if name is not None and name != service and name != self.answerer.about.get("weights"):
            raise NotFound(f"there is no model {name!r} here; known: {service}", param="model", code="model_not_found")

    def need(self, feature: str, wanted: bool, param: str | None = None) -> None:
        """Refuse by name what this service's model does not list among its features."""
        if wanted and feature not in self.answerer.features:
            param = param or feature
            raise BadRequest(
                f"{param}: the model of service {self.answerer.service!r} cannot do it; leave `{param}` out",
                param=param,
                code="unsupported",
            )


class ClientLeft(ConnectionResetError):
    """Nobody waits for an answer any more."""


async def read(receive: Receive, limit: int) -> bytes:
    """The request's whole body. Raises TooLarge beyond `limit` bytes, ClientLeft where the client left."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        data: bytes = message.get("body", b"")  # nearly always: all at once
        if len(data) > limit:
            raise too_large(limit)
        return data
    chunks, size = [], 0
    while True:
        if message["type"] != "http.request":
            raise ClientLeft("the client left while it sent its request")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()


def too_large(limit: int) -> TooLarge:
    return TooLarge(f"the request's body is larger than {limit} bytes; split it, or raise the service's `body` bound")


@dataclass(frozen=True, kw_only=True)
class Route:
    """One method on one path.

    path: below the service's prefix; "/" is the prefix itself; `{name}` stands for one segment
    body, reply: media type to what travels: a pydantic model, a TypedDict, bytes or str
    root: the gateway offers it too, and finds the service by the body's `model`
    """

    method: str
    path: str
    summary: str
    answer: Callable[[Call], Awaitable[Reply | Stream]]
    body: Mapping[str, Any] = field(default_factory=dict)
    reply: Mapping[str, Any]
    errors: tuple[int, ...] = ()
    root: bool = False


class Fault(TypedDict):
    message: str
    type: str
    param: str | None
    code: str


class Refusal(TypedDict):
    """The shape of an error, unless a dialect has its own."""

    error: Fault


def fault(error: RequestError) -> Refusal:
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def refuse(error: RequestError) -> Reply:
    wait = () if error.retry_after is None else ((b"retry-after", b"%d" % ceil(error.retry_after)),)
    return reply_json(fault(error), error.status, wait)


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """One protocol."""

    name: str
    routes: Callable[[Task[Any, Any]], Sequence[Route]]
    refuse: Callable[[RequestError], Reply] = refuse
    refusal: Any = Refusal  # the type of what `refuse` makes, for OpenAPI
