"""`argosy run-one`: one replica without Ray, in this process, behind the door that every service has."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import ArgosyError, ClusterError

if TYPE_CHECKING:
    from ..api.wire import ASGI, Receive, Scope, Send
    from ..fleet.schema import Fleet
    from ..registry import Registry
    from ..runtime.assignment import Assignment
    from ..runtime.replica import Replica
    from ..settings import Settings

HOST = "127.0.0.1"
PORT = 8001  # beside a fleet's own 8000
FILE = typer.Option(None, "-f", "--file", help="The fleet file that has the service.")
PORT_OPTION = typer.Option(PORT, "--port", min=0, max=65535, help="On loopback; 0 takes a free one.")

Tell = Callable[[str], None]


def register(app: typer.Typer) -> None:
    app.command("run-one", rich_help_panel="Plugins")(run_one)


def run_one(
    service: str = typer.Argument(help="A service of the fleet file; without one, what `argosy check` takes."),
    file: Path | None = FILE,
    port: int = PORT_OPTION,
    once: str | None = typer.Option(None, "--once", metavar="JSON", help="Answer this one request, print it, end."),
) -> None:
    """Run one replica without Ray, on this machine alone; it works under a debugger."""
    from ..registry import load
    from ..settings import Settings
    from . import project

    settings = Settings.read()
    if file is None or project.is_path(service):
        registry, models = project.find(service)
        service = chosen(models, file)
    else:
        registry = load()
    one = wanted(registry, service, file)
    logged(one, settings)
    if once is not None:
        raise typer.Exit(asyncio.run(_once(one, registry, settings, once)))
    with listening(port) as bound:
        asyncio.run(_forever(one, registry, settings, bound))


@dataclass(frozen=True)
class One:
    """A fleet of one service, and the folder that its relative sources start from."""

    fleet: Fleet
    service: str
    base: Path


@dataclass(frozen=True)
class Served:
    """A started replica and its application."""

    replica: Replica
    app: ASGI


def wanted(registry: Registry, service: str, file: Path | None) -> One:
    """The service of the file, or, without one, the model of that name with its default options and the weights that
    are installed for it. Where the file says `node`, this machine is meant."""
    from ..fleet import file as files
    from ..fleet.schema import Fleet
    from . import first

    if file is not None:
        fleet = files.read(file)
        if service not in fleet.services:
            raise ArgosyError(
                f"a service of {file}", f"{service!r}; it has {', '.join(fleet.services)}", "one of these"
            )
        chosen = fleet.services[service]
        ways = [way.model_copy(update={"node": None}) for way in chosen.variants]
        chosen = chosen.model_copy(update={"node": None, "replicas": 1, "variants": ways})
        alone = fleet.model_copy(update={"services": {service: chosen}})
        files.check(alone, registry, file)
        return One(alone, service, file.parent)
    model = registry.model(service)
    said: dict[str, Any] = {"plugin": service}
    if model.needs_weights:
        formats = tuple(kind for way in model.implementations() for kind in way.formats)
        said["model"] = first.weights(registry, service, formats)
        if said["model"] is None:
            raise ArgosyError(
                f"weights for {service}", "none are installed", f"argosy run-one {service} -f FILE, which names them"
            )
    return One(Fleet.model_validate({"version": 1, "services": {service: said}}), service, Path())


def chosen(models: list[str], file: Path | None) -> str:
    """The service of the fleet file that runs one of these models; without a file, the first model."""
    from ..fleet.file import read

    if file is None:
        return models[0]
    services = read(file).services
    for name, service in services.items():
        if service.plugin in models:
            return name
    raise ArgosyError(f"a service of {file} with plugin: {' or '.join(models)}", f"services {', '.join(services)}")


def logged(one: One, settings: Settings) -> None:
    from ..runtime import logs

    form = "json" if "json" in (settings.log_format, one.fleet.logs) else "text"
    logs.setup(form, service=one.service)  # type: ignore[arg-type]  # one of two literals


async def start(one: One, registry: Registry, settings: Settings, tell: Tell) -> Served:
    """Plan for this machine, load, prove. PlanError, ReplicaError or WeightsError where that fails."""
    return await started(assigned(one, registry, settings, tell), registry, tell)


def assigned(one: One, registry: Registry, settings: Settings, tell: Tell) -> Assignment:
    """What the replica is handed, planned for this machine. PlanError where it fits nowhere."""
    from ..plan.place import require
    from ..runtime.assign import assign
    from ..runtime.survey import node, survey

    plan = survey(one.fleet, registry, [node(registry)], one.base, store=settings.cache, offline=settings.offline)
    placement = require(plan, one.service)[0]
    tell(
        f"{one.service} on {placement.device.name}, share {placement.share:g}, {placement.cores} cores; {placement.why}"
    )
    assignment = assign(one.fleet, placement, registry, base=one.base, cache=str(settings.cache))
    return replace(assignment, offline=assignment.offline or settings.offline)


async def started(assignment: Assignment, registry: Registry, tell: Tell) -> Served:
    """Load and prove. ReplicaError or WeightsError where that fails."""
    from ..api.service import app
    from ..runtime.prometheus import Prometheus
    from ..runtime.replica import Replica
    from ..serve.door import Door

    meter = Prometheus(assignment.service)
    replica = Replica(assignment, registry, meter)
    await replica.start(tell)
    door = Door(
        app(replica),
        service=replica.service,
        bounds=replica.bounds,
        meter=meter,
        served_by=replica.served_by,
        degraded=lambda: replica.degraded,
    )
    return Served(replica, _with_metrics(door, meter.text))


@contextlib.asynccontextmanager
async def _watched(one: One, registry: Registry, settings: Settings) -> AsyncIterator[Served]:
    """A started replica that a process of its own watches over, from before it loads; stopped at the end."""
    from ..runtime.watchdog import watching

    assignment = assigned(one, registry, settings, say)
    with watching(assignment):
        served = await started(assignment, registry, say)
        try:
            yield served
        finally:
            await served.replica.stop()


def _with_metrics(door: ASGI, text: Callable[[], bytes]) -> ASGI:
    """The door, and `/metrics` beside it: the scraper is no client."""
    from ..runtime.prometheus import CONTENT_TYPE

    async def both(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/metrics":
            await door(scope, receive, send)
            return
        headers = [(b"content-type", CONTENT_TYPE.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text()})

    return both


async def _once(one: One, registry: Registry, settings: Settings, body: str) -> int:
    import httpx

    async with _watched(one, registry, settings) as served:
        transport = httpx.ASGITransport(app=served.app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}", timeout=None) as client:
            answer = await client.post("/", content=body, headers={"content-type": "application/json"})
    if answer.headers.get("content-type", "").startswith(("application/json", "text/")):
        typer.echo(answer.text)
    else:
        typer.echo(f"{len(answer.content)} bytes of {answer.headers.get('content-type')}")
    return 0 if answer.is_success else 1


async def _forever(one: One, registry: Registry, settings: Settings, bound: socket.socket) -> None:
    async with _watched(one, registry, settings) as served:
        await serve(served.app, bound)


async def serve(app: ASGI, bound: socket.socket, beside: Callable[[], Awaitable[None]] | None = None) -> None:
    """Answer until Ctrl-C or SIGTERM; `beside` runs on the same loop meanwhile."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", interface="asgi3"))
    # uvicorn would raise the signal again once it is down, before the replica could end what it started.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.handle_exit, number, None)
    url = f"http://{HOST}:{bound.getsockname()[1]}"
    say(f"answering on {url}, what it can do: {url}/docs; Ctrl-C stops it")
    other = asyncio.ensure_future(beside()) if beside else None
    try:
        await server.serve(sockets=[bound])
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        if other:
            other.cancel()
    if other and other.done() and not other.cancelled():
        other.result()  # what ended it, where it ended by itself


def listening(port: int) -> socket.socket:
    """A listening socket on loopback, taken before anything is loaded. ClusterError when the port is in use."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((HOST, port))
        bound.listen(128)
    except OSError as error:
        bound.close()
        raise ClusterError(f"port {port} on {HOST}", error.strerror or str(error), "--port 0 for a free one") from None
    return bound


def say(sentence: str) -> None:
    """Progress, for people, on standard error; standard output is for answers."""
    typer.echo(sentence, err=True)
