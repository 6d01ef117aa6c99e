"""`argosy up`: start a fleet, or bring a running one in line with its file, and show how it comes up."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgosyError, ClusterError
from ..settings import Settings
from . import foreground

if TYPE_CHECKING:
    from rich.console import Console

    from ..fleet.schema import Fleet
    from ..serve.home import Cluster, Home
    from ..serve.status import FleetStatus

ROUTE_SECONDS = 15  # for the ingress to know a service that is Ready
INTERRUPTED = 130  # the exit code of a command that Ctrl-C kept from doing what it was asked for


def up(
    path: Path,
    console: Console,
    *,
    address: str,
    detach: bool,
    port: int | None,
    haproxy: bool,
    dashboard: bool,
) -> int:
    """Returns the exit code: 0 when every service is Ready, 1 when one is not. Raises ArgosyError when nothing runs.

    SIGTERM is taken as Ctrl-C, which stops what was started here: 0 in the foreground, where that is how a fleet ends.
    """
    from .. import registry as registries
    from ..fleet import file
    from ..serve import client, parcel
    from ..serve import cluster as clusters
    from ..serve.home import Home

    settings = Settings.read()
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    fleet = file.read(path)
    registry = registries.load()
    home = Home.of(settings.state, fleet.name)
    absent = {service.plugin for service in fleet.services.values()} - set(registry.models)
    wheels = parcel.wheels(path.resolve().parent, home.path / "wheels") if absent else []
    file.check(fleet, registry, path, missing=frozenset(absent) if wheels else frozenset())
    for wheel in wheels:
        console.print(f"plugin sent along: {wheel.name}", highlight=False)

    cluster: Cluster | None = None
    started = False
    with foreground.terminated_like_interrupted():
        try:
            if not address:
                cluster = clusters.running(home)
                if cluster is None:
                    started = True
                    cluster = _start(home, fleet, registry, console, port=port, haproxy=haproxy, dashboard=dashboard)
                address = cluster.address
            environment: Mapping[str, str] = cluster.environment if cluster else client.joining(os.environ)
            return _apply(path, text, fleet, settings, home, cluster, address, environment, wheels, console, detach)
        except ArgosyError:
            if started and clusters.running(home):
                console.print("nothing was running before: stopping what was started", highlight=False)
                foreground.stop(home)
            raise
        except KeyboardInterrupt:
            if not started:
                console.print("interrupted; what ran before still runs: argosy status", highlight=False)
                return INTERRUPTED
            console.print("interrupted: stopping what was started", highlight=False)
            foreground.stop(home)
            console.print("stopped")
            return INTERRUPTED if detach else 0


def _start(
    home: Home, fleet: Fleet, registry: Any, console: Console, *, port: int | None, haproxy: bool, dashboard: bool
) -> Cluster:
    from ..runtime.detect import devices
    from ..serve import cluster as clusters
    from . import screen

    node = next(iter(fleet.nodes), "local")
    with screen.doing(console, "looking for devices") as tell:
        return clusters.start(
            home,
            host=fleet.endpoint.host,
            port=port or fleet.endpoint.port,
            node=node,
            devices=devices(registry, probe=True),
            dashboard=dashboard and fleet.dashboard,
            haproxy=haproxy,
            progress=tell,
        )


def _apply(
    path: Path,
    text: str,
    fleet: Fleet,
    settings: Settings,
    home: Home,
    cluster: Cluster | None,
    address: str,
    environment: Mapping[str, str],
    wheels: list[Path],
    console: Console,
    detach: bool,
) -> int:
    from ..serve import client, flags
    from ..serve.terms import Settings as Terms
    from . import screen

    terms = Terms(
        fleet=fleet.name,
        store=fleet.store or home.store,
        host=cluster.host if cluster else fleet.endpoint.host,
        port=cluster.port if cluster else fleet.endpoint.port,
        haproxy=cluster.haproxy if cluster else flags.haproxy_in(os.environ),
        cache=str(settings.cache),
        logs=str(home.logs),
        log_format=fleet.logs,
    )
    with client.joined(address, environment, wheels) as py_modules:
        with screen.doing(console, "finding control") as tell:
            control = client.find_or_make(terms)
            tell("starting the ingress")
            client.ask(control.open.remote(), 120)
            tell("placing services")
            changes = client.ask(control.apply.remote(text, str(path.resolve()), list(py_modules)), 600)
        terms = client.ask(control.terms.remote())
        url = f"http://{'127.0.0.1' if terms.host in ('0.0.0.0', '::') else terms.host}:{terms.port}"
        done = {name: found for name, found in changes.items() if found}
        if set(done) <= {"kept"}:
            console.print(f"the fleet {fleet.name} is as its file says: nothing to do", highlight=False)
        status = screen.follow(console, lambda version: client.status_of(control, version, 1.0), fleet.name)
        if status.ready:
            _routed(url, status)
        screen.result(console, status, url, cluster.dashboard if cluster else "", str(path))
        if detach or cluster is None:
            return 0 if status.ready else 1
        console.print("\nCtrl-C stops the fleet; `argosy up --detach` would leave it running.", highlight=False)
        foreground.stay(console, control, status, home)
    foreground.stop(home)
    console.print("stopped")
    return 0


def _routed(url: str, status: FleetStatus) -> None:
    """Ready means that a client gets through, not only that a process said so."""
    deadline = time.monotonic() + ROUTE_SECONDS
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy reaches this machine's loopback
    for name in status.services:
        while True:
            try:
                with direct.open(f"{url}/{name}/health/ready", timeout=5) as answer:
                    if answer.headers.get("argosy-served-by", "").startswith(f"{name};"):
                        break
                found = "the gateway answers in its place"
            except (urllib.error.URLError, OSError) as error:
                found = str(error)
            if time.monotonic() > deadline:
                raise ClusterError(f"/{name} to be reached through {url}", found, "argosy logs gateway")
            time.sleep(0.05)
