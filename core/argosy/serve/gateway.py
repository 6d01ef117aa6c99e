"""The gateway at `/`: finds the service that a request at the root means, and answers for services that are absent.

A Ready service owns its own prefix and passes no gateway. Here bytes are forwarded as they come, in both directions.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping

import aiohttp
from ray import serve

from ..api import openapi
from ..api.dialect import read, too_large
from ..api.root import Listed, RootRoute, model_of, model_page, models_page, refusal, root_document, root_routes
from ..api.service import lifespan
from ..api.table import below
from ..api.wire import Receive, Reply, Scope, Send, reply_json
from ..errors import BadRequest, MethodNotAllowed, NotFound, Overloaded, RequestError
from ..model import Context
from ..runtime import logs
from ..runtime.assignment import Bounds
from .door import Door
from .meter import RayMeter
from .names import GATEWAY
from .status import FleetStatus, Phase, ServiceStatus
from .terms import Settings
from .watcher import Watcher

HELD = 64  # requests that may wait here for services that are absent
HOLD_SECONDS = 60.0  # for which one may
AGAIN_SECONDS = 0.1  # between two tries to reach a service that has just come
CHUNK = 64 * 1024
LARGEST = 2**40  # bytes: the door at the root bounds nothing that the services would take
HOP = b"argosy-hop"  # a request that the ingress sent back to us, for its service has no application
_OWN = {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"content-length", b"proxy-connection"}

log = logging.getLogger("argosy.gateway")


class Gateway:
    """The ASGI application behind the door at `/`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.watcher = Watcher()
        self._held = 0
        self._routes: dict[tuple[str, str], list[RootRoute]] = {}
        for root in root_routes():
            self._routes.setdefault((root.path, root.method), []).append(root)
        self._pages: Mapping[str, Callable[[], Reply]] = {
            "/": self._front,
            "/health/live": lambda: reply_json({"status": "live"}),
            "/health/ready": self._health,
            "/fleet": lambda: reply_json(dataclasses.asdict(self._status)),
            "/v1/models": lambda: models_page(self._listed()),
            "/openapi.json": lambda: reply_json(root_document()),
            "/docs": lambda: Reply(openapi.html(root_document()), b"text/html; charset=utf-8"),
        }
        self._session: aiohttp.ClientSession | None = None

    @property
    def _status(self) -> FleetStatus:
        return self.watcher.status

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            f"http://127.0.0.1:{self._settings.port}",
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            read_bufsize=CHUNK,
        )
        await self.watcher.open()

    async def close(self) -> None:
        await self.watcher.close()
        if self._session is not None:
            await self._session.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
            return
        path = below(scope)
        try:
            page = self._pages.get(path)
            if page is None and path.startswith("/v1/models/"):
                name = path.removeprefix("/v1/models/")
                page = lambda: model_page(self._listed(), name)  # noqa: E731
            if page is not None:
                if scope["method"] not in ("GET", "HEAD"):
                    raise MethodNotAllowed(f"{scope['method']} is not allowed on {path!r}; allowed: GET, HEAD")
                await page()(scope, receive, send)
            else:
                await self._forward(scope, receive, send, path)
        except RequestError as error:
            if scope["state"].get("started"):
                raise
            scope["state"]["ctx"].error = error.code
            reply = refusal(path, error)
            if isinstance(error, MethodNotAllowed):
                methods = [method for known, method in self._routes if known == path] or ["GET", "HEAD"]
                reply = dataclasses.replace(reply, headers=(*reply.headers, (b"allow", ", ".join(methods).encode())))
            await reply(scope, receive, send)

    # pages ------------------------------------------------------------------------------------------------------------

    def _front(self) -> Reply:
        services = {name: str(one.phase) for name, one in self._status.services.items()}
        return reply_json({"status": "alive", "fleet": self._status.fleet, "services": services, "docs": "/docs"})

    def _health(self) -> Reply:
        status = self._status
        waiting = {name: str(one.phase) for name, one in status.services.items() if one.phase is not Phase.READY}
        return reply_json({"ready": status.ready, "waiting": waiting}, 200 if status.ready else 503)

    def _listed(self) -> list[Listed]:
        known = [one for one in self._status.services.values() if one.phase.answers]
        return [Listed(service=one.name, task=one.task, about=one.about) for one in known]

    # forwarding -------------------------------------------------------------------------------------------------------

    async def _forward(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        ctx: Context = scope["state"]["ctx"]
        first = path.split("/", 2)[1]
        if first in self._status.services:  # it is absent, or the ingress would not have come here
            service, target = self._status.services[first], path
            body = await self._body(scope, receive)
        else:
            roots = self._routes.get((path, scope["method"]))
            if roots is None:
                raise self._unknown(path, scope["method"])
            body = await self._body(scope, receive)
            service = self._named(roots, model_of(scope, body), path)
            target = f"/{service.name}{path}"
        if any(key == HOP for key, _ in scope["headers"]):
            raise Overloaded(f"{service.name} is {service.phase} just now", retry_after=1, code="service_absent")
        await self._deliver(scope, send, service.name, target, body, ctx)

    def _unknown(self, path: str, method: str) -> RequestError:
        methods = [known for p, known in self._routes if p == path]
        if methods:
            return MethodNotAllowed(f"{method} is not allowed on {path!r}; allowed: {', '.join(methods)}")
        prefixes = ", ".join(f"/{name}" for name in self._status.services)
        return NotFound(f"there is no {path!r}; services: {prefixes}; see /docs")

    def _named(self, roots: list[RootRoute], model: str | None, path: str) -> ServiceStatus:
        tasks = {root.task.name for root in roots}
        able = {name: one for name, one in self._status.services.items() if one.task in tasks or not one.task}
        if model is None:
            if len(able) == 1:
                return next(iter(able.values()))
            raise BadRequest(f"`model` names the service; known here: {', '.join(able)}", param="model")
        known = self._status.services
        found = known.get(model) or next((s for s in able.values() if s.about.get("weights") == model), None)
        if found is None:
            raise NotFound(
                f"there is no model {model!r}; known for {path}: {', '.join(able) or 'none'}",
                param="model",
                code="model_not_found",
            )
        if found.task and found.task not in tasks:
            raise BadRequest(f"{model} does {found.task}, {path} is for {' or '.join(sorted(tasks))}", param="model")
        return found

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body; one that is announced as too large is refused before it is sent."""
        announced = next((value for key, value in scope["headers"] if key == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > self._bound():
            raise too_large(self._bound())
        return await read(receive, self._bound())

    def _bound(self) -> int:
        """Bytes that are read before it is known whose they are: the service's own door is the stricter one."""
        return max((one.body for one in self._status.services.values()), default=0) or Bounds().body

    async def _deliver(self, scope: Scope, send: Send, name: str, target: str, body: bytes, ctx: Context) -> None:
        """Forward, waiting while the service is on its way; every wait is bounded in number and in time."""
        until = min(time.monotonic() + HOLD_SECONDS, ctx.deadline or float("inf"))
        waiting = False
        try:
            while True:
                service = self._status.services.get(name)
                if service is None:
                    raise NotFound(f"there is no service {name!r} any more", code="model_not_found")
                if service.phase in (Phase.FAILED, Phase.PENDING):
                    raise Overloaded(
                        f"{name} is {service.phase}: {service.reason}", retry_after=30, code="service_absent"
                    )
                if service.phase.answers and await self._try(scope, send, target, body, ctx):
                    return
                if not waiting:
                    if self._held >= HELD:
                        raise Overloaded(f"{name} is {service.phase}, {HELD} requests wait", retry_after=5)
                    waiting, self._held = True, self._held + 1
                left = until - time.monotonic()
                if left <= 0:
                    doing = f" ({service.doing})" if service.doing else ""
                    raise Overloaded(f"{name} is {service.phase}{doing}", retry_after=5, code="service_absent")
                await self.watcher.change(min(left, AGAIN_SECONDS if service.phase.answers else 1.0))
        finally:
            self._held -= waiting

    async def _try(self, scope: Scope, send: Send, target: str, body: bytes, ctx: Context) -> bool:
        """One try; False where the request reached no replica, so that it may be sent again."""
        assert self._session is not None
        query = scope.get("query_string", b"").decode("latin-1")
        headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in scope["headers"] if k not in _OWN]
        headers = [pair for pair in headers if pair[0] != "x-request-id"]
        headers += [("x-request-id", ctx.id), (HOP.decode(), "1")]
        url = f"{target}?{query}" if query else target
        sent = False
        try:
            async with self._session.request(
                scope["method"], url, data=body or None, headers=headers, allow_redirects=False
            ) as answer:
                if "argosy-served-by" not in answer.headers or answer.headers["argosy-served-by"].startswith(GATEWAY):
                    return False  # the ingress answered, or sent it back to us: no replica saw it
                dropped = {"connection", "transfer-encoding", "keep-alive", "x-request-id", "date", "server"}
                back = [(k.lower(), v) for k, v in answer.headers.items() if k.lower() not in dropped]
                sent = scope["state"]["started"] = True
                await send(
                    {
                        "type": "http.response.start",
                        "status": answer.status,
                        "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in back],
                    }
                )
                async for chunk in answer.content.iter_any():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
                return True
        except aiohttp.ClientConnectorError:
            return False
        except aiohttp.ClientError as error:
            if sent:
                raise ConnectionResetError(str(error)) from None
            raise Overloaded(f"the service broke off: {error}", retry_after=1, code="service_broke_off") from None


class Root:
    """What Ray Serve wraps."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]
        logs.setup(settings.log_format, service="gateway", folder=settings.logs, console=False)
        self._gateway = Gateway(settings)
        self._meter = RayMeter("gateway")
        self._flushing = asyncio.create_task(self._meter.run())
        await self._gateway.open()

    def __serve_build_asgi_app__(self) -> Door:
        return Door(
            self._gateway,
            service=GATEWAY,
            bounds=Bounds(timeout=86_400.0, body=LARGEST),
            meter=self._meter,
            served_by=GATEWAY,
            echo_id=False,
        )

    async def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self._flushing.cancel()
            await self._gateway.close()


def application_at_root(settings: Settings) -> serve.Application:
    deployment = serve.deployment(serve.ingress()(Root)).options(  # type: ignore[attr-defined]
        name=GATEWAY,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=1_000_000,
        health_check_period_s=1,
        health_check_timeout_s=10,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=60,
        logging_config={"enable_access_log": False},
    )
    return deployment.bind(settings)  # type: ignore[no-any-return]
