"""`argosy node`: this machine as a node of a Ray cluster, with the resources, labels and switches that Argosy needs."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import ClusterError

if TYPE_CHECKING:
    from ..backend import Device, ShareServer
    from ..registry import Registry
    from ..serve.node import Start

SERVER_SECONDS = 30  # for a vendor's share server to start or to stop


def register(app: typer.Typer) -> None:
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": False})(node)


def node(
    context: typer.Context,
    address: str = typer.Option("", help="The head to join, HOST:PORT."),
    head: bool = typer.Option(False, "--head", help="Be the head of a new cluster."),
    listen: str = typer.Option("", help="This machine's address in the cluster; without it Ray looks for one."),
    port: int = typer.Option(6379, min=1, max=65535, help="The head's own port."),
    name: str = typer.Option("", help="What a fleet file calls this node; without it the host's name."),
    printed: bool = typer.Option(False, "--print", help="Print the arguments of `ray start` instead, on one line."),
    environment: bool = typer.Option(False, "--environment", help="Print the variables that Ray needs, but HAProxy's."),
    mps: bool = typer.Option(False, "--mps", help="Start the vendor's server that enforces shares, where it has one."),
    haproxy: bool = typer.Option(True, help="Ray Serve's HAProxy ingress; the same on every node."),
) -> None:
    """Join this machine to a Ray cluster, or begin one: detects its devices, tells Ray, stays until it is stopped.

    What stands after `--` is handed to `ray start` as it is.
    """
    from ..registry import load
    from ..runtime.detect import devices
    from ..serve import client
    from ..serve.node import Start

    if head == bool(address) and (head or not (printed or environment)):
        found = "both" if head else "neither"
        raise ClusterError("either --address HOST:PORT or --head", found, "--address of the cluster's head")
    registry = load()
    found_devices = devices(registry, probe=True)  # as control numbers them
    start = Start(
        name=name or socket.gethostname(),
        devices=found_devices,
        address=address,
        listen=listen,
        port=port,
        more=tuple(context.args),
    )
    if printed:
        arguments = start.command()[2:] if head or address else start.bare()
        typer.echo(shlex.join(arguments))
        return
    if environment:
        for variable, value in sorted(start.environment(os.environ, Path(), haproxy=False).items()):
            typer.echo(f"{variable}={value}")
        return
    start.check()
    if address:
        client.answers(address)
    with _folder() as temp:
        raise typer.Exit(_run(start, registry, temp, mps=mps, haproxy=haproxy))


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder for the node's sockets; its path is short, for a socket's may have 107 characters."""
    base = "/tmp" if os.access("/tmp", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="argosy-node-", dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(start: Start, registry: Registry, temp: Path, *, mps: bool, haproxy: bool) -> int:
    """Ray's exit code; 0 where Ctrl-C or SIGTERM ended it."""
    import psutil

    from ..serve import cluster, flags
    from .foreground import terminated_like_interrupted

    environment = start.environment(os.environ, temp, haproxy=haproxy)
    cluster.ingress(temp, environment)
    say(start)
    with terminated_like_interrupted(), sharing(registry, start.devices, temp / "share", wanted=mps) as more:
        try:
            process = subprocess.Popen(
                start.command(),
                env={**flags.inherited(os.environ), **environment, **more},
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the terminal is ours to handle
            )
            supervisor = psutil.Process(process.pid)
            try:
                return process.wait()
            finally:
                family = [supervisor, *supervisor.children(recursive=True)] if supervisor.is_running() else []
                cluster.end(family, process.pid)
                process.wait()
        except KeyboardInterrupt:
            return 0


def say(start: Start) -> None:
    for device in start.devices:
        state = "" if device.usable else f"  left out: {'; '.join(device.problems)}"
        typer.echo(f"{start.name}/{device.backend}:{device.index}  {device.name}{state}", err=True)


@contextlib.contextmanager
def sharing(
    registry: Registry, devices: Sequence[Device], folder: Path, *, wanted: bool
) -> Iterator[Mapping[str, str]]:
    """Have every vendor's share server run while the block does; yields what Ray's processes need to find them.

    ClusterError where one is wanted and no vendor of these devices has any, or where one does not start.
    """
    environment: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        if wanted:
            servers = list(_servers(registry, devices, folder))
            if not servers:
                names = ", ".join(device.name for device in devices) or "no device"
                raise ClusterError("a device whose vendor has a share server", names, "argosy node without --mps")
            for server in servers:
                _tell(server, server.start)
                stack.callback(_stop, server)
                environment |= server.environment
        yield environment


def _servers(registry: Registry, devices: Sequence[Device], folder: Path) -> Iterator[ShareServer]:
    for name, backend in sorted(registry.backends.items()):
        mine = [device for device in devices if device.backend == name and device.usable]
        place = folder / name
        if mine:
            place.mkdir(parents=True, mode=0o700)
            if server := backend.share_server(mine, place):
                yield server


def _tell(server: ShareServer, command: Sequence[str], said: str = "") -> None:
    shown = shlex.join(command)
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **server.environment},
            input=said,
            capture_output=True,
            text=True,
            timeout=SERVER_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"{shown} to run", str(error), "argosy doctor, or argosy node without --mps") from None
    if done.returncode:
        words = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise ClusterError(f"{shown} to succeed", words, "argosy doctor, or argosy node without --mps")


def _stop(server: ShareServer) -> None:
    try:
        _tell(server, server.stop, server.say)
    except ClusterError as error:
        typer.echo(f"argosy: {error}", err=True)
