"""`argosy init | validate | schema | detect`: the fleet file, and what this machine has to run it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import typer

from ..errors import ArgosyError

DEFAULT = Path("fleet.yaml")


def register(app: typer.Typer) -> None:
    for command in (init, validate, schema, detect):
        app.command(command.__name__, rich_help_panel="The fleet file")(command)


def init(
    output: Path | None = typer.Option(None, "-o", "--output", help="Write to this file; standard output without it."),
    force: bool = typer.Option(False, "--force", help="Write over a file that is there."),
) -> None:
    """Write a first fleet file from what is installed and detected here."""
    from ..fleet.file import check, parse
    from ..registry import load
    from ..runtime import survey
    from . import first

    registry = load()
    text = first.text(registry, survey.node(registry))
    where = output or DEFAULT
    check(parse(text, where), registry, where, text=text)
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        with output.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ArgosyError(f"a new file at {output}", "one is there", f"argosy init --force -o {output}") from None
    except OSError as error:
        raise ArgosyError(f"to write {output}", str(error)) from None
    typer.echo(f"wrote {output}; try: argosy validate {output}")


def validate(file: Path = typer.Argument(DEFAULT, help="The fleet file.")) -> None:
    """Check a fleet file against its schema and against what is installed; every problem is told with its line."""
    from ..fleet.file import check, read
    from ..registry import load

    fleet = read(file)
    check(fleet, load(), file)
    typer.echo(f"{file}: nothing wrong; services: {', '.join(fleet.services)}")


def schema() -> None:
    """Write the JSON Schema of fleet files, for editors."""
    from ..fleet.file import schema as text

    typer.echo(text())


def detect(as_json: bool = typer.Option(False, "--json", help="As JSON, for programs.")) -> None:
    """List this machine's devices, the engines that each can run, and why a vendor was ruled out."""
    from ..registry import load
    from ..runtime import survey
    from ..runtime.detect import ruled_out

    registry = load()
    machine = survey.node(registry)
    engines = {
        device.index: [
            engine.name for engine in survey.offers(registry, machine, device, device.memory_bytes, machine.cores)
        ]
        for device in machine.devices
        if device.usable
    }
    absent = ruled_out(registry)
    if as_json:
        devices = [{**dataclasses.asdict(item), "engines": engines.get(item.index, [])} for item in machine.devices]
        typer.echo(json.dumps({"cores": machine.cores, "devices": devices, "ruled_out": absent}, indent=2))
        return
    _show(machine.devices, engines, absent)


def _show(devices: tuple[Any, ...], engines: dict[int, list[str]], absent: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table("#", "backend", "device", "memory", "engines", box=None, pad_edge=False, header_style="bold")
    for device in devices:
        memory = f"{device.memory_bytes / 2**30:.1f} GiB" if device.memory_bytes else "unknown"
        what = ", ".join(engines.get(device.index, [])) or f"not usable: {'; '.join(device.problems)}"
        table.add_row(str(device.index), device.backend, Text(device.name), memory, Text(what))
    if devices:
        console.print(table)
    for name, reason in absent.items():
        console.print(Text(f"{name}: {reason}"), soft_wrap=True)
    if not devices and not absent:
        console.print("no backend is installed; try: pip install argosy-cpu")
