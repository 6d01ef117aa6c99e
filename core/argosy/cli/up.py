"""`argosy up`: start a fleet, or bring a running one in line with its file, and show how it comes up."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgosyError, ClusterError, FleetError
from ..settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

    from ..fleet.schema import Fleet
    from ..serve.home import Cluster, Home
    from ..serve.status import FleetStatus

ROUTE_SECONDS = 15  # for the ingress to know a service that is Ready


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
    """Returns the exit code: 0 when every service is Ready, 1 when one is not. Raises ArgosyError when nothing runs."""
    from .. import registry as registries
    from ..fleet import file
    from ..serve import cluster as clusters
    from ..serve import parcel
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
    if not address:
        cluster = clusters.running(home)
        if cluster is None:
            cluster = _start(home, fleet, registry, console, port=port, haproxy=haproxy, dashboard=dashboard)
            started = True
        address = cluster.address
    environment: Mapping[str, str] = cluster.environment if cluster else _joining()
    try:
        return _apply(path, text, fleet, settings, home, cluster, address, environment, wheels, console, detach)
    except (ArgosyError, KeyboardInterrupt):
        if started:
            console.print("nothing was running before: stopping what was started", highlight=False)
            clusters.stop(home)
        raise


def _start(
    home: Home, fleet: Fleet, registry: Any, console: Console, *, port: int | None, haproxy: bool, dashboard: bool
) -> Cluster:
    from ..runtime.detect import devices
    from ..serve import cluster as clusters

    node = next(iter(fleet.nodes), "local")
    with console.status("starting Ray"):
        return clusters.start(
            home,
            host=fleet.endpoint.host,
            port=port or fleet.endpoint.port,
            node=node,
            devices=devices(registry),
            dashboard=dashboard and fleet.dashboard,
            haproxy=haproxy,
            progress=lambda doing: None,
        )


def _joining() -> Mapping[str, str]:
    """The environment for a cluster that someone else started: its own switches, made explicit."""
    return {"RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled"), "RAY_DEDUP_LOGS": "0"}


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
        with console.status("finding control"):
            control = client.find_or_make(terms)
            client.ask(control.open.remote(), 120)
        with console.status("placing services"):
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
        try:
            while True:
                client.status_of(control, status.version, 10.0)
        except KeyboardInterrupt:
            with console.status("stopping"):
                client.ask(control.down.remote(), 120)
    from ..serve import cluster as clusters

    clusters.stop(home)
    console.print("stopped")
    return 0


def _routed(url: str, status: FleetStatus) -> None:
    """Ready means that a client gets through, not only that a process said so."""
    deadline = time.monotonic() + ROUTE_SECONDS
    for name in status.services:
        while True:
            try:
                with urllib.request.urlopen(f"{url}/{name}/health/ready", timeout=5) as answer:
                    if answer.headers.get("argosy-served-by", "").startswith(f"{name};"):
                        break
                found = "the gateway answers in its place"
            except (urllib.error.URLError, OSError) as error:
                found = str(error)
            if time.monotonic() > deadline:
                raise ClusterError(f"/{name} to be reached through {url}", found, "argosy logs gateway")
            time.sleep(0.05)


def down(fleet: str, console: Console) -> int:
    """Stop the fleet of that name, or the only one that runs. Nothing running is no error."""
    from ..serve import client
    from ..serve import cluster as clusters

    home = which(fleet)
    if home is None:
        console.print("no fleet runs here")
        return 0
    cluster = clusters.running(home)
    if cluster is not None:
        with console.status(f"stopping {home.fleet}"):
            try:
                with client.joined(cluster.address, cluster.environment):
                    control = client.find()
                    if control is not None:
                        client.ask(control.down.remote(), 60)
            except ClusterError as error:
                console.print(f"control did not answer ({error}); ending its processes", highlight=False)
    clusters.stop(home)
    console.print(f"stopped {home.fleet}", highlight=False)
    return 0


def which(fleet: str) -> Home | None:
    """The home of the named fleet, or of the only one that runs here; None when none does."""
    from ..serve import cluster as clusters
    from ..serve.home import Home

    state = Settings.read().state
    if fleet:
        home = next((home for home in Home.all(state) if home.fleet == fleet), None)
        return home if home and home.cluster() else None
    running = [home for home in Home.all(state) if clusters.running(home)]
    if len(running) > 1:
        names = ", ".join(home.fleet for home in running)
        raise FleetError("one fleet", f"{len(running)} run here: {names}", "--fleet NAME")
    return running[0] if running else next((home for home in Home.all(state) if home.cluster()), None)
