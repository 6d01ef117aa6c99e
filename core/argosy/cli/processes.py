"""What a fleet's processes hold in memory: proportional set size, so that shared pages count once."""

from __future__ import annotations

import psutil
from rich.table import Table

from ..serve import cluster as clusters
from ..serve.home import Cluster


def pss(process: psutil.Process) -> int:
    """Bytes; 0 for a process that has just ended."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def sizes(cluster: Cluster) -> list[tuple[str, int, int]]:
    """(what it is, process id, bytes) of every process, services first, then the larger first."""
    found = []
    for process in clusters.processes(cluster):
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        found.append((_called(command), process.pid, pss(process)))
    return sorted(found, key=lambda row: (row[0].startswith("Ray"), -row[2]))


def _called(command: list[str]) -> str:
    title = command[0] if command else ""
    if title.startswith("ray::ServeReplica:"):
        return title.split(":")[3].split(" ")[0]
    if title.startswith("ray::Control"):
        return "control"
    if title.startswith("ray::Guard"):
        return "guard"
    if title.startswith("ray::"):
        return f"Ray: {title.removeprefix('ray::').split('.')[0].split(' ')[0] or 'idle worker'}"
    joined = " ".join(command)
    for name, mark in (
        ("HAProxy", "haproxy"),
        ("GCS", "gcs_server"),
        ("raylet", "raylet/raylet"),
        ("dashboard", "dashboard/dashboard.py"),
        ("dashboard agent", "dashboard/agent.py"),
        ("runtime environments", "runtime_env/agent"),
        ("client server", "ray.util.client.server"),
        ("autoscaler's monitor", "autoscaler/"),
        ("supervisor", "start --head"),
    ):
        if mark in joined:
            return f"Ray: {name}"
    return f"Ray: {title.rsplit('/', 1)[-1]}"


def table(cluster: Cluster) -> Table:
    rows = sizes(cluster)
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("process")
    grid.add_column("pid", justify="right")
    grid.add_column("MiB (PSS)", justify="right")
    for name, pid, size in rows:
        grid.add_row(name, str(pid), f"{size / 2**20:.0f}")
    ray = sum(size for name, _, size in rows if name.startswith("Ray"))
    whole = sum(size for _, _, size in rows)
    grid.add_section()
    grid.add_row("services, gateway, control and guard", "", f"{(whole - ray) / 2**20:.0f}")
    grid.add_row("Ray and its dashboard", "", f"{ray / 2**20:.0f}")
    grid.add_row("the whole fleet", "", f"{whole / 2**20:.0f}")
    return grid
