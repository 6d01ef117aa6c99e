"""`argosy plugins`: what is installed, from where, and what is broken and why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from ..errors import PluginError

if TYPE_CHECKING:
    from rich.console import Console

    from ..registry import Plugin, Registry


def register(app: typer.Typer) -> None:
    app.command("plugins", rich_help_panel="Plugins")(plugins)


def plugins(
    as_json: bool = typer.Option(False, "--json", help="As JSON, for programs."),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Show the traceback of what is broken."),
    strict: bool = typer.Option(False, "--strict", help="Exit with code 3 when anything is broken."),
) -> None:
    """List the installed models, backends and engines, and what is broken and why."""
    from ..registry import load

    registry = load()
    broken = [plugin for plugin in registry.plugins if plugin.broken]
    if as_json:
        typer.echo(json.dumps({"plugins": rows(registry), "broken": [_broken(plugin) for plugin in broken]}, indent=2))
    else:
        _show(registry, broken, verbose)
    if strict and broken:
        raise PluginError("every plugin to load", f"broken: {', '.join(plugin.name for plugin in broken)}")


def rows(registry: Registry) -> list[dict[str, Any]]:
    """One row for each thing that a plugin registered: models first, then backends, then engines, each by name.

    `engines`: for a model what it runs on, preferred first; `installed`: of an engine, its library's version here.
    """
    found: list[dict[str, Any]] = []
    for plugin in registry.plugins:
        source = {"plugin": plugin.name, "distribution": plugin.distribution, "version": plugin.version}
        for name in plugin.models:
            model = registry.models[name]
            runs_on = [implementation.engine for implementation in model.implementations()]
            found.append({"name": name, "kind": "model", "task": model.task.name, "engines": runs_on, **source})
        for name in plugin.backends:
            backend = registry.backends[name]
            try:
                absent = backend.absent()
            except Exception as error:  # noqa: BLE001  # a backend is a plugin: what it raises is told in its own row
                absent = f"{type(error).__name__}: {error}"
            found.append({"name": name, "kind": "backend", "absent": absent, **source})
        for name in plugin.engines:
            found.append({"name": name, "kind": "engine", "installed": registry.engines[name].version(), **source})
    order = {"model": 0, "backend": 1, "engine": 2}
    return sorted(found, key=lambda row: (order[row["kind"]], row["name"]))


def _broken(plugin: Plugin) -> dict[str, str]:
    return {
        "plugin": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "why": plugin.broken,
        "detail": plugin.detail,
    }


def _show(registry: Registry, broken: list[Plugin], verbose: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table("name", "kind", "task", "runs on", "from", box=None, pad_edge=False, header_style="bold")
    for row in rows(registry):
        where = f"{row['distribution']} {row['version']}".strip()
        table.add_row(Text(row["name"]), row["kind"], row.get("task", ""), Text(_runs_on(row)), Text(where))
    console.print(table)
    for plugin in broken:
        _tell(console, plugin, verbose)


def _runs_on(row: dict[str, Any]) -> str:
    if row["kind"] == "engine":
        return str(row["installed"] or "not installed here")
    if row["kind"] == "backend":
        return f"ruled out here: {row['absent']}" if row["absent"] else "this machine"
    return ", ".join(row["engines"])


def _tell(console: Console, plugin: Plugin, verbose: bool) -> None:
    from rich.text import Text

    where = " ".join(part for part in (plugin.distribution, plugin.version) if part)
    console.print(Text(f"\nbroken: {plugin.name}, from {where}", style="bold red"))
    console.print(Text(f"  {plugin.broken}"), soft_wrap=True)
    if verbose:
        console.print(Text(plugin.detail), soft_wrap=True)
