"""One replica, its assignment and its registry, in a line each."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from .. import __version__, _builtin
from ..backend import Backend
from ..engines import Engine
from ..model import Model
from ..registry import Plugin, Registry
from ..runtime.assignment import Assignment, Bounds
from ..runtime.meter import Meter
from ..runtime.replica import Replica
from .backend import MockBackend


def installed(*models: type[Model], backend: Backend | None = None) -> Registry:
    """A registry of core's engines, these models and this backend (a MockBackend), whatever else is installed."""
    found = backend or MockBackend()
    names = tuple(model.name for model in models)
    return Registry(
        (Plugin("mock", "argosy", __version__, names, (found.name,)),),
        {model.name: model for model in models},
        {found.name: found},
        {engine.name: engine for engine in _builtin.argosy_engines()},
    )


def assignment(
    model: type[Model],
    /,
    *,
    backend: Backend | None = None,
    engine: Engine | None = None,
    options: Mapping[str, Any] | None = None,
    bounds: Bounds | None = None,
    **fields: Any,
) -> Assignment:
    """The assignment of a model to the whole first device of a backend (a MockBackend), with one core. Without an
    `engine` it is the model's first one with its own defaults. `fields` are any others of Assignment, among them
    `model`, where its weights come from."""
    found = backend or MockBackend()
    device = found.detect()[0]
    first = model.implementations()[0].engine
    known = {each.name: each for each in _builtin.argosy_engines()}
    chosen = engine or known[first](threads=1)
    if fields.get("fallback") == "degrade":
        chosen = dataclasses.replace(chosen, strict=False)  # as control hands it over
    given: dict[str, Any] = {
        "service": model.name,
        "plugin": model.name,
        "variant": 0,
        "engine": chosen,
        "device": device,
        "share": 1.0,
        "budget": device.memory_bytes,
        "cores": 1,
        "enforcement": found.enforcement(device),
        "environment": dict(found.environment(device)),
        "options": dict(options or {}),
        "bounds": bounds or Bounds(),
    }
    return Assignment(**{**given, **fields})


@asynccontextmanager
async def running(
    model: type[Model], /, *, backend: Backend | None = None, meter: Meter | None = None, **fields: Any
) -> AsyncIterator[Replica]:
    """A started replica of a model on a mock device; stopped at the end. `fields` are those of `assignment`."""
    found = backend or MockBackend()
    replica = Replica(assignment(model, backend=found, **fields), installed(model, backend=found), meter)
    await replica.start()
    try:
        yield replica
    finally:
        await replica.stop()
