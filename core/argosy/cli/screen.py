"""How a fleet looks in a terminal: while it comes up, and when it is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..serve.status import FleetStatus, Phase, ServiceStatus

_STYLE = {
    Phase.READY: "green",
    Phase.DEGRADED: "yellow",
    Phase.STARTING: "cyan",
    Phase.PENDING: "magenta",
    Phase.FAILED: "red",
}
_FINAL = frozenset({Phase.READY, Phase.DEGRADED, Phase.FAILED, Phase.PENDING})

TRY = {
    "chat": "-d '{\"prompt\": \"What is the capital of France?\"}' -H 'content-type: application/json'",
    "transcription": "--data-binary @sound.wav -H 'content-type: audio/wav'",
    "speech": "-d '{\"text\": \"Hello from Argosy.\"}' -H 'content-type: application/json' -o hello.wav",
    "embedding": "-d '{\"text\": \"a man eats food\"}' -H 'content-type: application/json'",
    "rerank": '-d \'{"query": "food", "documents": ["a meal", "a stock"]}\' -H \'content-type: application/json\'',
}

WIDTH = 100  # columns, where nobody says how wide the output is


def console() -> Console:
    """Standard output: as wide as the terminal, or wide enough for the table in a pipe or a file."""
    found = Console()
    return found if found.is_terminal or found.width >= WIDTH else Console(width=WIDTH)


@contextmanager
def doing(console: Console, what: str) -> Iterator[Callable[[str], None]]:
    """Say what is being done, on a line that goes away or, in a pipe, on one that stays; yields how to say more."""
    if console.is_terminal:
        with console.status(what) as line:
            yield line.update
    else:
        console.print(what, highlight=False)
        yield lambda more: console.print(more, highlight=False)


def follow(console: Console, ask: Callable[[int], FleetStatus], fleet: str) -> FleetStatus:
    """Show every change until each service is Ready, or is known not to become it; returns the last status."""
    status, started = ask(-1), time.monotonic()
    told: dict[str, str] = {}
    with Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else _Quiet() as live:
        while not all(one.phase in _FINAL for one in status.services.values()):
            if isinstance(live, Live):
                live.update(table(status, time.monotonic() - started))
            else:
                for name, one in status.services.items():
                    line = f"{name}: {one.phase}{f' ({one.doing})' if one.doing else ''}"
                    if told.get(name) != line:
                        told[name] = line
                        console.print(f"{time.monotonic() - started:5.1f} s  {line}", highlight=False, soft_wrap=True)
            status = ask(status.version)
    return status


class _Quiet:
    def __enter__(self) -> _Quiet:
        return self

    def __exit__(self, *raised: object) -> None:
        return None


def changes(before: FleetStatus, now: FleetStatus) -> Iterator[str]:
    """One line for every service that came, went, or stands otherwise than before."""
    if not now.services:  # control has just restarted, or is taking the fleet away: it says nothing of any service
        return
    for name, one in now.services.items():
        old = before.services.get(name)
        if old is None or (old.phase, old.reason) != (one.phase, one.reason):
            yield f"{name}: {one.phase}{f' ({one.reason})' if one.reason else ''}"
        if one.event and (old is None or old.event != one.event):
            yield f"{name}: {one.event}"
    for name in before.services.keys() - now.services.keys():
        yield f"{name}: removed"


def show(console: Console, status: FleetStatus) -> None:
    """The services, below them what is to be said of one, and the devices by their whole names."""
    console.print(table(status))
    for name, one in status.services.items():
        if one.reason:
            said = Text.assemble((name, _STYLE[one.phase]), f" is {one.phase}: {one.reason}")
            console.print(said, highlight=False, soft_wrap=True)
        if one.event and one.event not in one.reason:
            console.print(Text.assemble((name, "yellow"), f": {one.event}"), highlight=False, soft_wrap=True)
    for node, devices in status.nodes.items():
        for device in devices:
            size = f", {device['memory_bytes'] / 2**30:.1f} GiB" if device["memory_bytes"] else ""
            cores = f", {device['cores']} cores" if device["cores"] else ""
            problems = f" ({'; '.join(device['problems'])})" if device["problems"] else ""
            label = f"{node}/{device['backend']}:{device['index']}"
            console.print(Text(f"{label}  {device['name']}{cores}{size}{problems}", style="dim"), soft_wrap=True)


def table(status: FleetStatus, seconds: float | None = None) -> Table:
    title = f"fleet {status.fleet}" + (f", {seconds:.0f} s" if seconds is not None else "")
    grid = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    for column in ("service", "state", "engine", "device", "share", "memory", "replicas"):
        grid.add_column(column, no_wrap=True)
    grid.add_column("", overflow="fold")
    for name, one in status.services.items():
        grid.add_row(
            f"/{name}",
            Text(str(one.phase), style=_STYLE[one.phase]),
            one.engine,
            f"{one.node}/{one.backend}:{one.index}" if one.device else "",
            f"{one.share:g} {one.enforcement}" if one.share else "",
            memory(one),
            f"{len(one.running)}/{one.replicas}" if one.replicas else "",
            one.doing,
        )
    return grid


def memory(one: ServiceStatus) -> str:
    """What its replicas hold, of their budget."""
    held = sum((report["status"] or {}).get("memory", 0) for report in one.running)
    if not held:
        return ""
    of = f" of {one.budget * max(one.replicas, 1) / 2**30:.1f}" if one.budget else ""
    return f"{held / 2**30:.2f}{of} GiB"


def result(console: Console, status: FleetStatus, url: str, dashboard: str, path: str) -> None:
    """What is there now, and what to type next."""
    show(console, status)
    if not status.ready:
        console.print("the other services answer; mend the file and run `argosy up` again", highlight=False)
    console.print(f"\nEvery model answers at {url}, for example:", highlight=False)
    for name, one in status.services.items():
        if one.phase.answers:
            example = TRY.get(one.task, "-d '{\"text\": \"hello\"}' -H 'content-type: application/json'")
            console.print(f"  curl {url}/{name} {example}", markup=False, highlight=False, soft_wrap=True)
    more = "lists the routes; `argosy status`, `argosy logs SERVICE -f`, `argosy down`"
    console.print(f"  {url}/docs {more}", highlight=False, soft_wrap=True)
    if dashboard:
        console.print(f"  Ray's dashboard: {dashboard} (its token: argosy config --token)", highlight=False)
