"""`argosy check`: the contract tests of a plugin, on a mock fleet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import ArgosyError, PluginError

if TYPE_CHECKING:
    from ..model import Implementation, Model
    from ..registry import Registry

MODEL = typer.Option(None, "--model", help="Weights to load, as `model:` in a fleet file [default: those installed].")


class Skip(Exception):
    """A check that cannot be made here, and why."""


def register(app: typer.Typer) -> None:
    app.command("check", rich_help_panel="Plugins")(check)


def check(
    target: str = typer.Argument(help="An installed model's name, a project's folder, or a module's file."),
    model: str | None = MODEL,
) -> None:
    """Hold a plugin against the contract: its class, its place in a mock fleet, its answers."""
    from . import project

    try:
        registry, names = project.find(target)
    except PluginError as error:
        _say("✗", f"the plugin loads: {error}")
        raise typer.Exit(1) from None
    _say("✓", f"the plugin loads, and registers {', '.join(names)}")
    failed = 0
    for name in names:
        for sentence, test in checks(registry, registry.models[name], model):
            try:
                test()
            except Skip as skip:
                _say("–", f"{sentence}: not checked, {skip}")
            except AssertionError as error:
                _say("✗", f"{sentence}: {error}")
                failed += 1
            except ArgosyError as error:
                _say("✗", f"{sentence}: {error}{_cause(error)}")
                failed += 1
            else:
                _say("✓", sentence)
    if failed:
        raise typer.Exit(1)


def checks(registry: Registry, model: type[Model], source: str | None) -> Iterator[tuple[str, Callable[[], None]]]:
    """(sentence, test) pairs. A test raises AssertionError or ArgosyError where the sentence is not so."""
    from ..testing import check_model

    yield (
        f"{model.name}: name, options, engines and methods are as the contract wants them",
        (lambda: check_model(model, registry)),
    )
    yield f"{model.name}: has a place in a mock fleet", lambda: _place(registry, model)
    for way in model.implementations():
        sentence = (
            f"{model.name} on {way.engine}: loads, answers its canary, answers batches in order, lets a client go"
        )
        yield sentence, partial(_answers, registry, model, way, source)


def _place(registry: Registry, model: type[Model]) -> None:
    import dataclasses

    from ..fleet.schema import Fleet
    from ..plan.estimate import Figure
    from ..plan.place import Node, place
    from ..testing import MockBackend

    engines = [registry.engine(way.engine) for way in model.implementations()]
    backend = MockBackend(engines=engines)
    service = {"plugin": model.name, **({"model": "file://weights"} if model.needs_weights else {})}
    fleet = Fleet.model_validate({"version": 1, "services": {"checked": service}})

    machine = Node(
        name="mock", devices=tuple(backend.detect()), engines=dict.fromkeys([engine.name for engine in engines], "")
    )
    here = dataclasses.replace(registry, backends={backend.name: backend})
    plan = place(fleet, here, [machine], lambda *given: Figure())
    assert not plan.pending, plan.pending["checked"]


def _answers(registry: Registry, model: type[Model], way: Implementation, source: str | None) -> None:
    import asyncio
    import dataclasses

    from ..settings import Settings
    from ..testing import MockBackend, assignment, check_answers

    engine = registry.engine(way.engine)
    if engine.version() is None:
        raise Skip(f"{' or '.join(engine.distributions)} is not installed")
    weights = _weights(registry, model, way, source) if model.needs_weights else None
    backend = MockBackend(engines=(engine,))
    here = dataclasses.replace(registry, backends={backend.name: backend})
    settings = Settings.read()
    planned = dataclasses.replace(
        assignment(model, backend=backend, engine=engine(threads=1)),
        model=weights,
        cache=str(settings.cache),
        offline=settings.offline,
    )
    asyncio.run(check_answers(planned, here))


def _weights(registry: Registry, model: type[Model], way: Implementation, source: str | None) -> Any:
    """The weights that were asked for, or those that the plugin's own wheels bring and this engine reads."""
    from ..fleet.sources import parse_model
    from . import first

    try:
        if source is not None:
            return parse_model(source, Path())
    except ValueError as error:
        raise PluginError(
            "a source of weights in --model", str(error), "hf://OWNER/NAME, wheel://… or file://…"
        ) from None
    found = first.weights(registry, model.name, way.formats)
    if found is None:
        raise Skip("it needs weights and none are installed: --model SOURCE")
    return parse_model(found, Path())


def _cause(error: ArgosyError) -> str:
    import traceback

    if error.__cause__ is None:
        return ""
    frames = traceback.extract_tb(error.__cause__.__traceback__)
    return f"\n  at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _say(mark: str, sentence: str) -> None:
    colour = {"✓": "green", "✗": "red"}.get(mark, "yellow")
    typer.echo(f"{typer.style(mark, fg=colour)} {sentence}")
