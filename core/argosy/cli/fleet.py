"""`argosy up`, `down`, `status`, `logs`, `config`: the commands that need a cluster."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import typer

from ..errors import ClusterError

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
    from rich.console import Console

    from .up import up as run

    # A job's driver is told its cluster by Ray.
    where = address or os.environ.get("RAY_ADDRESS", "")
    code = run(file, Console(), address=where, detach=detach, port=port, haproxy=haproxy, dashboard=dashboard)
    raise typer.Exit(code)


def down(fleet: str = _FLEET) -> None:
    """Stop a fleet and everything it started."""
    from rich.console import Console

    from .up import down as run

    raise typer.Exit(run(fleet, Console()))


def status(
    fleet: str = _FLEET,
    as_json: bool = typer.Option(False, "--json", help="As JSON, as `/fleet` gives it."),
    memory: bool = typer.Option(False, "--memory", help="What every process holds (PSS), Ray's own part apart."),
) -> None:
    """How each service is. Exit code 0 when all are Ready, 1 when one is not, 7 when no fleet runs."""
    import httpx
    from rich.console import Console

    from ..serve import cluster as clusters
    from .up import which

    home = which(fleet)
    cluster = clusters.running(home) if home else None
    if cluster is None:
        raise ClusterError("a running fleet", "none here", "argosy up fleet.yaml")
    console = Console()
    if memory:
        from .processes import table as processes

        console.print(processes(cluster))
        return
    try:
        found = httpx.get(f"{cluster.url}/fleet", timeout=10, trust_env=False).raise_for_status().json()
    except httpx.HTTPError as error:
        raise ClusterError(f"the endpoint {cluster.url}", str(error), "argosy logs gateway; argosy up") from None
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        from .reading import status_from

        from . import screen  # isort: skip

        console.print(screen.table(status_from(found)))
        ingress = "HAProxy" if found["haproxy"] else "Ray's Python proxy (a tenth of the requests per second)"
        console.print(f"endpoint {cluster.url}, ingress: {ingress}", highlight=False)
    raise typer.Exit(0 if found["ready"] else 1)


def logs(
    service: str = typer.Argument(help="A service, `gateway`, `control` or `ray`."),
    follow: bool = typer.Option(False, "-f", "--follow", help="Wait for more."),
    lines: int = typer.Option(50, "-n", min=0, help="How many of the last lines."),
    fleet: str = _FLEET,
) -> None:
    """What a service logged on this machine."""
    from .up import which

    home = which(fleet)
    if home is None:
        raise ClusterError("a fleet on this machine", "none", "argosy up fleet.yaml")
    path = home.logs / f"{service}.log"
    if not path.is_file():
        known = ", ".join(sorted(log.stem for log in home.logs.glob("*.log"))) or "none yet"
        raise ClusterError(f"a log of {service}", f"logs: {known}", "argosy status")
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream.readlines()[-lines:] if lines else []:
            print(line, end="")
        stream.seek(0, os.SEEK_END)
        while follow:
            if line := stream.readline():
                print(line, end="", flush=True)
            else:
                time.sleep(0.2)


def config(
    fleet: str = _FLEET,
    token: bool = typer.Option(False, "--token", help="Print the token of Ray's dashboard and nothing else."),
) -> None:
    """Where a fleet keeps its things, and what it was last told to be."""
    from ..serve import cluster as clusters
    from ..serve.store import Store
    from ..settings import Settings
    from .up import which

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
