"""`argosy up`, `down`, `status`, `logs`, `config`: the commands that need a cluster."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import ClusterError

if TYPE_CHECKING:
    from ..serve.home import Cluster

_FLEET = typer.Option("", "--fleet", help="The fleet's name; needed only when several run on this machine.")


def register(app: typer.Typer) -> None:
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(logs)
    app.command()(config)


def up(
    file: Path = typer.Argument(Path("fleet.yaml"), help="The fleet file."),
    detach: bool = typer.Option(False, "--detach", "-d", help="Return when every service is Ready."),
    address: str = typer.Option("", help="A running Ray cluster, `host:port`; in a Ray job its own."),
    port: int | None = typer.Option(None, min=1, max=65535, help="Instead of the file's endpoint port."),
    haproxy: bool = typer.Option(True, help="Ray Serve's HAProxy ingress; --no-haproxy takes its Python proxy."),
    dashboard: bool = typer.Option(True, help="Ray's dashboard, on loopback, behind its token."),
) -> None:
    """Start a fleet, or bring a running one in line with its file."""
    from . import screen
    from .up import up as run

    # A job's driver is told its cluster by Ray.
    where = address or os.environ.get("RAY_ADDRESS", "")
    code = run(file, screen.console(), address=where, detach=detach, port=port, haproxy=haproxy, dashboard=dashboard)
    raise typer.Exit(code)


def down(
    fleet: str = _FLEET,
    address: str = typer.Option("", help="Take the fleet off this Ray cluster, `host:port`, and leave Ray running."),
) -> None:
    """Stop a fleet and everything it started."""
    from . import screen
    from .down import down as run

    raise typer.Exit(run(fleet, screen.console(), address=address or os.environ.get("RAY_ADDRESS", "")))


def status(
    fleet: str = _FLEET,
    as_json: bool = typer.Option(False, "--json", help="As JSON, as `/fleet` gives it."),
    memory: bool = typer.Option(False, "--memory", help="What every process holds (PSS), Ray's own part apart."),
    url: str = typer.Option("", help="The endpoint of a fleet that was not started on this machine."),
) -> None:
    """How each service is. Exit code 0 when all are Ready, 1 when one is not, 7 when no fleet runs."""
    from . import screen
    from .reading import status_from

    console = screen.console()
    if memory:
        from .processes import table as processes

        if url:
            raise ClusterError("--memory of a fleet on this machine", f"--url {url}", "argosy status --memory there")
        console.print(processes(_running(fleet)))
        return
    endpoint = (url if "://" in url else f"http://{url}").rstrip("/") if url else _running(fleet).url
    found = _ask(endpoint, "curl it" if url else "argosy logs gateway; argosy up")
    try:
        seen = status_from(found)
    except (KeyError, TypeError, ValueError):
        raise ClusterError(f"an Argosy fleet at {endpoint}", "something else answers", "--url of an endpoint") from None
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        screen.show(console, seen)
        ingress = "HAProxy" if seen.haproxy else "Ray's Python proxy (a tenth of the requests per second)"
        console.print(f"endpoint {endpoint}, ingress: {ingress}", highlight=False)
    raise typer.Exit(0 if seen.ready else 1)


def _running(fleet: str) -> Cluster:
    """The cluster of a fleet that runs on this machine. ClusterError when none does, or its Ray head is dead."""
    from ..serve import cluster as clusters
    from .down import which

    home = which(fleet)
    noted = home.cluster() if home else None
    if home is None or noted is None:
        named = f"the fleet {fleet}, running" if fleet else "a running fleet"
        raise ClusterError(named, "none on this machine", "argosy up fleet.yaml, or --url of a fleet elsewhere")
    cluster = clusters.running(home)
    if cluster is None:
        raise ClusterError(
            f"the fleet {home.fleet}, running",
            f"its Ray head (process {noted.pid}) is dead",
            "argosy up FILE to start it afresh, argosy down to take away what is left",
        )
    return cluster


def _ask(endpoint: str, fix: str) -> Any:
    import httpx

    try:
        return httpx.get(f"{endpoint}/fleet", timeout=10, trust_env=False).raise_for_status().json()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ClusterError(f"the endpoint {endpoint}", str(error), fix) from None
    except ValueError:
        raise ClusterError(f"an Argosy fleet at {endpoint}", "something else answers", fix) from None


def logs(
    service: str = typer.Argument(help="A service, `gateway`, `control` or `ray`."),
    follow: bool = typer.Option(False, "-f", "--follow", help="Wait for more."),
    lines: int = typer.Option(50, "-n", min=0, help="How many of the last lines."),
    fleet: str = _FLEET,
) -> None:
    """What a service logged on this machine."""
    from .down import kept
    from .tail import tail

    home = kept(fleet)
    if home is None:
        raise ClusterError("a fleet on this machine", "none", "argosy up fleet.yaml")
    path = home.logs / f"{service}.log"
    if not path.is_file():
        known = ", ".join(sorted(log.stem for log in home.logs.glob("*.log"))) or "none yet"
        raise ClusterError(f"a log of {service}", f"logs: {known}", "argosy status")
    with contextlib.suppress(KeyboardInterrupt):  # how following ends
        for text in tail(path, lines, follow):
            print(text, end="", flush=follow)


def config(
    fleet: str = _FLEET,
    token: bool = typer.Option(False, "--token", help="Print the token of Ray's dashboard and nothing else."),
) -> None:
    """Where a fleet keeps its things, and what it was last told to be."""
    from ..serve import cluster as clusters
    from ..serve.store import Store
    from ..settings import Settings
    from .down import which

    home = which(fleet)
    if home is None:
        raise ClusterError("a fleet on this machine", "none", "argosy up fleet.yaml")
    if token:
        print(home.token.read_text())
        return
    cluster = clusters.running(home)
    document = Store(home.store).get("fleet")
    print(f"# fleet {home.fleet}\n# folder {home.path}\n# cache {Settings.read().cache}", file=sys.stderr)
    if cluster:
        print(
            f"# endpoint {cluster.url}\n# Ray {cluster.address}, dashboard {cluster.dashboard or 'off'}",
            file=sys.stderr,
        )
    print(document["text"] if document else "", end="")
