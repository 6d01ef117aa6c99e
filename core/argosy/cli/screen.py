"""How a fleet looks in a terminal: while it comes up, and when it is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..serve.status import FleetStatus, Phase, ServiceStatus

if TYPE_CHECKING:
    from rich.console import Console

_STYLE = {
    Phase.READY: "green",
    Phase.DEGRADED: "yellow",
    Phase.STARTING: "cyan",
    Phase.PENDING: "magenta",
    Phase.FAILED: "red",
    Phase.LEAVING: "dim",
}
_FINAL = frozenset({Phase.READY, Phase.DEGRADED, Phase.FAILED, Phase.PENDING})

TRY = {
    "chat": "-d '{\"prompt\": \"What is the capital of France?\"}' -H 'content-type: application/json'",
    "transcription": "--data-binary @sound.wav -H 'content-type: audio/wav'",
    "speech": "-d '{\"text\": \"Hello from Argosy.\"}' -H 'content-type: application/json' -o hello.wav",
    "embedding": "-d '{\"text\": \"a man eats food\"}' -H 'content-type: application/json'",
    "rerank": '-d \'{"query": "food", "documents": ["a meal", "a stock"]}\' -H \'content-type: application/json\'',
}


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
                        console.print(f"{time.monotonic() - started:5.1f} s  {line}", highlight=False)
            status = ask(status.version)
    return status


class _Quiet:
    def __enter__(self) -> _Quiet:
        return self

    def __exit__(self, *raised: object) -> None:
        return None


def table(status: FleetStatus, seconds: float | None = None) -> Table:
    title = f"fleet {status.fleet}" + (f", {seconds:.0f} s" if seconds is not None else "")
    grid = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    for column in ("service", "state", "engine", "device", "share", "memory", "replicas", ""):
        grid.add_column(column, overflow="fold")
    for name, one in status.services.items():
        grid.add_row(
            f"/{name}",
            Text(str(one.phase), style=_STYLE[one.phase]),
            one.engine,
            f"{one.node}/{one.device}" if one.device else "",
            f"{one.share:g} {one.enforcement}" if one.share else "",
            memory(one),
            f"{len(one.running)}/{one.replicas}" if one.replicas else "",
            one.reason or one.doing,
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
    console.print(table(status))
    if not status.ready:
        for name, one in status.services.items():
            if one.phase is not Phase.READY:
                console.print(f"[red]{name}[/red] is {one.phase}: ", end="", highlight=False)
                console.print(one.reason or one.doing, markup=False, highlight=False, soft_wrap=True)
        console.print("the other services answer; mend the file and run `argosy up` again", highlight=False)
    console.print(f"\nEvery model answers at {url}, for example:", highlight=False)
    for name, one in status.services.items():
        if one.phase.answers:
            example = TRY.get(one.task, "-d '{\"text\": \"hello\"}' -H 'content-type: application/json'")
            console.print(f"  curl {url}/{name} {example}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"  {url}/docs lists the routes; `argosy status`, `argosy logs SERVICE -f`, `argosy down`", highlight=False
    )
    if dashboard:
        console.print(f"  Ray's dashboard: {dashboard} (its token: argosy config --token)", highlight=False)
