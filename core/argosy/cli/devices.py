"""`argosy detect | doctor`: what this machine has, and what is wrong with it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import MachineError

if TYPE_CHECKING:
    from rich.console import Console

    from ..backend import Device
    from ..registry import Registry
    from ..runtime.doctor import Report

PANEL = "This machine"
AS_JSON = typer.Option(False, "--json", help="As JSON, for programs.")
ROOT = typer.Option(
    None,
    "--root",
    metavar="PATH",
    help="Another machine's files: a folder, or what `argosy doctor --record` wrote. Its accelerators alone, by what "
    "files tell: nothing is asked of a vendor's library, and its processor is not the one that would be used.",
)
URL = typer.Option(None, "--url", help="A fleet elsewhere that this machine is to join: http://HOST:PORT.")
RECORD = typer.Option(
    None, "--record", metavar="FILE.tar.gz", help="Also pack what detection reads of this machine, without serials."
)
STRICT = typer.Option(False, "--strict", help="Exit with code 8 for warnings too.")


def register(app: typer.Typer) -> None:
    app.command("detect", rich_help_panel=PANEL)(detect)
    app.command("doctor", rich_help_panel=PANEL)(doctor)


def detect(root: Path | None = ROOT, as_json: bool = AS_JSON) -> None:
    """List the devices, the engines that each can run, and why a vendor was ruled out."""
    from ..registry import load
    from ..runtime.detect import devices, ruled_out
    from ..runtime.record import opened

    registry = load()
    with opened(root or Path("/")) as tree:
        found = devices(registry, tree, probe=root is None)
        absent = ruled_out(registry, tree, found)
    if root is not None:
        found = _accelerators(found)
    listed = rows(registry, found, here=root is None)
    if as_json:
        typer.echo(json.dumps(listed, indent=2))
    else:
        _show(_console(), listed, absent)


def doctor(
    as_json: bool = AS_JSON,
    root: Path | None = ROOT,
    record: Path | None = RECORD,
    url: str | None = URL,
    strict: bool = STRICT,
) -> None:
    """Say what would keep a fleet from running here, or slow it down, and what helps. Exits with 8 where something is
    fatal. docs/doctor.md explains each check."""
    from ..registry import load
    from ..runtime.doctor import examine
    from ..runtime.record import opened

    registry = load()
    with opened(root or Path("/")) as tree:
        report = examine(registry, _place(url), tree)
        if record is not None:
            _record(registry, report, record, tree)
    if root is not None:
        report = dataclasses.replace(report, devices=_accelerators(report.devices))
    listed = rows(registry, report.devices, here=root is None)
    stops = report.findings if strict else report.fatal
    if as_json:
        typer.echo(json.dumps(_as_json(report, listed, MachineError.exit_code if stops else 0), indent=2))
    else:
        _show(_console(), listed, report.ruled_out)
        _tell(_console(), report)
    if stops:
        named = ", ".join(dict.fromkeys(finding.check for finding in stops))
        raise MachineError("a machine that a fleet can run on", named, "what stands beside each")


def rows(registry: Registry, devices: Sequence[Device], *, here: bool) -> list[dict[str, Any]]:
    """One row for each device. `engines`: those that it can run and that are installed, or, where it is not `here`,
    those that it could run; `refused`: engine -> why not."""
    found = []
    for device in devices:
        backend = registry.backend(device.backend)
        offered = backend.offers(device, device.memory_bytes, max(device.cores, 1)) if device.usable else ()
        engines = [engine.name for engine in offered if not here or engine.version() is not None]
        found.append({**dataclasses.asdict(device), "engines": engines, "refused": dict(backend.refuses(device))})
    return found


def _accelerators(devices: Sequence[Device]) -> tuple[Device, ...]:
    """Without processors, which alone have cores, numbered as before."""
    return tuple(device for device in devices if not device.cores)


def _place(url: str | None) -> Any:
    import os

    from ..runtime.checks import Place
    from ..settings import Settings

    cache = Settings.read().cache
    return Place(cache=cache, environment=dict(os.environ), head=_head(url))


def _head(url: str | None) -> Mapping[str, str]:
    """Versions on the head of the fleet at `url`, or else of the one that runs on this machine; empty without one, and
    where its head is too old to say."""
    import httpx

    from ..errors import ClusterError
    from ..serve import cluster
    from ..serve.home import Home
    from ..settings import Settings

    here = [found.url for home in Home.all(Settings.read().state) if (found := cluster.running(home))]
    for address in [url] if url else here:
        try:
            answer = httpx.get(f"{address.rstrip('/')}/fleet", timeout=5, trust_env=False).raise_for_status()
            return dict(answer.json().get("versions") or {})
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            if url:
                raise ClusterError(f"a fleet at {url}", str(error), "argosy status --url") from None
    return {}


def _record(registry: Registry, report: Report, target: Path, root: Path) -> None:
    from ..runtime.checks import RECORDED
    from ..runtime.record import record

    globs = [*RECORDED, *(glob for backend in registry.backends.values() for glob in backend.recorded)]
    made = record(globs, target, root, report.devices)
    typer.echo(f"wrote {target}: {made.files} files, serial numbers replaced; look before you send it:", err=True)
    typer.echo(f"  tar -tvzf {target}\n  argosy detect --root {target}", err=True)
    for path in made.unreadable:
        typer.echo(f"  left out, it cannot be read: {path}", err=True)


def _as_json(report: Report, listed: list[dict[str, Any]], code: int) -> dict[str, Any]:
    return {
        "exit_code": code,
        "machine": dict(report.machine),
        "devices": listed,
        "ruled_out": dict(report.ruled_out),
        "findings": [
            {**dataclasses.asdict(finding), "exit_code": MachineError.exit_code if finding.fatal else 0}
            for finding in report.findings
        ],
    }


def _show(console: Console, listed: list[dict[str, Any]], absent: Mapping[str, str]) -> None:
    from rich.table import Table
    from rich.text import Text

    columns = ("#", "backend", "device", "architecture", "memory", "engines")
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in listed:
        memory = f"{row['memory_bytes'] / 2**30:.1f} GiB" if row["memory_bytes"] else "unknown"
        what = ", ".join(row["engines"]) if row["usable"] else "not usable"
        texts = (row["backend"], row["name"], row["architecture"] or "unknown", memory, what or "none installed")
        table.add_row(str(row["index"]), *map(Text, texts))
    if listed:
        console.print(table)
    for row in listed:
        for problem in row["problems"]:
            console.print(Text(f"#{row['index']} {problem}", style="yellow"), soft_wrap=True)
    for name, reason in absent.items():
        console.print(Text(f"{name}: {reason}", style="dim"), soft_wrap=True)
    if not listed and not absent:
        console.print("no backend is installed; try: pip install argosy-cpu")


def _tell(console: Console, report: Report) -> None:
    from rich.text import Text

    def line(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    line("")
    for finding in report.findings:
        mark, style = ("✗", "red") if finding.fatal else ("!", "yellow")
        line(f"{mark} {finding.check}: {finding.symptom}", style)
        line(f"    found: {finding.evidence}")
        line(f"    try: {finding.fix}")
    if not report.findings:
        line("✓ nothing is wrong here", "green")


def _console() -> Console:
    from rich.console import Console

    return Console()
